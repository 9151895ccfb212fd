//! From a path to a checked configuration: reads the file, has it parsed, and fetches the secrets
//! it points to, because the roles that use them may not read root's files any more.

mod disk;
mod fetch;
mod host;

use std::{
    collections::BTreeSet,
    io,
    path::{Path, PathBuf},
};

use self::disk::{Disk, read};
use super::ipc::FRAME_LIMIT;
use crate::config::{
    self, Outcome,
    diag::{Class, Diagnostic, Severity},
};

/// Ours, then keepalived's.
pub const DEFAULT_PATHS: [&str; 2] = ["/etc/lbd/lbd.conf", "/etc/keepalived/keepalived.conf"];
/// keepalived's exit code for a file that cannot be read.
pub const EXIT_NO_FILE: u8 = 6;
/// keepalived's exit code for a file that cannot be run.
pub const EXIT_CONFIG: u8 = 2;

/// Bytes of a configuration in a message to a role: what else the message holds has the rest.
const SENT_LIMIT: usize = FRAME_LIMIT - (1 << 20);

/// A file that was read, or not.
#[derive(Debug)]
pub struct Loaded {
    pub outcome: Outcome,
    /// False: there was nothing to parse.
    pub readable: bool,
}

impl Loaded {
    /// Exit code of a start with this file; 0: it runs.
    pub fn start_code(&self) -> u8 {
        match (&self.outcome.config, self.readable) {
            (Some(_), _) => 0,
            (None, true) => EXIT_CONFIG,
            (None, false) => EXIT_NO_FILE,
        }
    }

    /// Paths that it included by name.
    pub fn included(&self) -> BTreeSet<String> {
        let found = self.outcome.included.iter().filter(|it| it.found);
        found.map(|it| it.path.clone()).collect()
    }

    /// Exit code of `-t`.
    pub fn test_code(&self) -> u8 {
        self.outcome.exit_code()
    }
}

/// The first default path that exists; ours when none does.
pub fn default_path() -> PathBuf {
    DEFAULT_PATHS
        .iter()
        .map(PathBuf::from)
        .find(|path| path.exists())
        .unwrap_or_else(|| PathBuf::from(DEFAULT_PATHS[0]))
}

/// How a file is read: what the command line says about it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// `-i`: whose `@ID` lines count; the short host name without it.
    pub id: Option<String>,
    /// `-e`: every `include` must find its files.
    pub strict: bool,
    /// What the configuration in force includes by name.
    pub before: BTreeSet<String>,
}

/// Reads and checks a file, as [`load_with`] without options.
pub fn load(path: &Path) -> Loaded {
    load_with(path, &Reading::default())
}

/// Reads and checks a file and what it includes. What cannot be read becomes a diagnostic.
pub fn load_with(path: &Path, reading: &Reading) -> Loaded {
    let name = path.display().to_string();
    match read(path) {
        Ok(bytes) => {
            let mut outcome = config::check_in(&name, bytes, &Disk::new(reading));
            if let Some(config) = &mut outcome.config {
                fetch::secrets(config);
            }
            refuse_lost(&mut outcome, &reading.before);
            fetch::keys(&mut outcome);
            fetch::authorities(&mut outcome);
            fetch::fits(&mut outcome, SENT_LIMIT);
            Loaded { outcome, readable: true }
        }
        Err(error) => {
            Loaded { outcome: Outcome::unreadable(&name, explain(&error)), readable: false }
        }
    }
}

/// A file that the configuration in force included and that is gone keeps that one in force:
/// keepalived would go on without its instances and servers.
fn refuse_lost(outcome: &mut Outcome, before: &BTreeSet<String>) {
    let lost = outcome.included.iter().filter(|it| !it.found && before.contains(&it.path));
    for lost in lost.cloned().collect::<Vec<_>>() {
        let message = format!("included `{}` was there before and is gone", lost.path);
        outcome.add(
            Diagnostic::new(Severity::Error, lost.place, message)
                .class(Class::Include)
                .help("take the include out of the file if this is meant"),
        );
    }
}

fn explain(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "the configuration file does not exist".to_owned(),
        io::ErrorKind::IsADirectory => "this is a directory, not a configuration file".to_owned(),
        io::ErrorKind::PermissionDenied => {
            "the configuration file cannot be read: permission denied".to_owned()
        }
        _ => format!("the configuration file cannot be read: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unreadable_things_are_told_apart_and_give_keepaliveds_code() {
        let dir = tempfile::tempdir().expect("tempdir");
        let fifo = dir.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRUSR).expect("fifo");
        for (path, phrase) in [
            (dir.path().join("absent.conf"), "does not exist"),
            (dir.path().to_owned(), "directory"),
            (fifo, "not a regular file"),
        ] {
            let loaded = load(&path);
            assert_eq!(loaded.start_code(), EXIT_NO_FILE, "{phrase}");
            let text = loaded.outcome.render();
            assert!(text.contains(phrase), "{text}");
            assert!(text.contains(&path.display().to_string()), "{text}");
        }
    }

    const INSTANCE: &str = "vrrp_instance V {\n interface lo\n virtual_router_id 1\n include conf.d/vip*.conf\n \
         include extra.conf\n @one priority 111\n @^one priority 99\n}\n";

    #[test]
    fn files_are_included_and_conditions_follow_the_id() {
        let dir = tempfile::tempdir().expect("tempdir");
        let write = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().expect("a parent")).expect("made");
            std::fs::write(path, text).expect("written");
        };
        write("lbd.conf", INSTANCE);
        write("conf.d/vip1.conf", "virtual_ipaddress {\n include ../addresses\n}\n");
        write("conf.d/.vip.conf", "bogus\n");
        write("conf.d/other.conf", "bogus\n");
        write("addresses", "192.0.2.1\n");
        write("extra.conf", "bogus\n");
        let path = dir.path().join("lbd.conf");
        let reading = Reading { id: Some("one".into()), ..Reading::default() };
        let loaded = load_with(&path, &reading);
        let text = loaded.outcome.render();
        assert!(text.contains("/extra.conf:1:1") && loaded.test_code() == 5, "{text}");
        assert!(!text.contains("other.conf") && !text.contains(".vip.conf"), "{text}");
        let config = loaded.outcome.config.as_ref().expect("a configuration");
        assert_eq!(config.vrrp_instances[0].priority.0, 111);
        assert_eq!(config.vrrp_instances[0].virtual_ipaddress.len(), 1);
        let other = load_with(&path, &Reading { id: Some("two".into()), ..Reading::default() });
        assert_eq!(other.outcome.config.expect("a configuration").vrrp_instances[0].priority.0, 99);
        // Gone at a reload: the old generation stays. At a start it is keepalived's notice.
        std::fs::remove_file(dir.path().join("extra.conf")).expect("removed");
        let fresh = load_with(&path, &reading);
        assert!(fresh.outcome.config.is_some() && fresh.test_code() == 0);
        let after = load_with(&path, &Reading { before: loaded.included(), ..reading });
        assert!(after.outcome.config.is_none());
        let text = after.outcome.render_errors();
        assert!(text.contains("is gone") && text.contains("lbd.conf:5:10"), "{text}");
        let strict = load_with(&path, &Reading { strict: true, ..Reading::default() });
        assert!(strict.outcome.config.is_none() && strict.test_code() == 6);
    }

    #[test]
    fn binary_file_is_a_config_error() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("binary.conf");
        std::fs::write(&path, b"\x7fELF\0\0\0").expect("written");
        assert_eq!(load(&path).start_code(), EXIT_CONFIG);
    }
}
