//! From a path to a checked configuration: reads the file, has it parsed, and fetches the secrets
//! it points to, because the roles that use them may not read root's files any more.

use std::{
    fs::File,
    io::{self, Read as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use crate::{
    config::{
        self, Outcome, Reference, ReferenceKind, SOURCE_LIMIT,
        diag::{Class, Severity},
        model::{Checker, Config, Password},
    },
    vrrp::auth::hmac::{self, Secret},
};

/// Ours, then keepalived's.
pub const DEFAULT_PATHS: [&str; 2] = ["/etc/lbd/lbd.conf", "/etc/keepalived/keepalived.conf"];
/// keepalived's exit code for a file that cannot be read.
pub const EXIT_NO_FILE: u8 = 6;
/// keepalived's exit code for a file that cannot be run.
pub const EXIT_CONFIG: u8 = 2;
/// Longest password.
const PASSWORD_LIMIT: u64 = 4096;

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

    /// keepalived's word for scripts that anybody may have changed, exit code 6 of `-t`: scripts are
    /// run and `enable_script_security` is not set.
    pub fn check_script_security(&mut self) {
        let Some(config) = &self.outcome.config else { return };
        let mut scripts =
            self.outcome.references.iter().filter(|it| it.kind == ReferenceKind::Script);
        let Some(first) = scripts.next().cloned() else { return };
        if config.global.enable_script_security {
            return;
        }
        let message = format!(
            "`{}` and {} more scripts are run and `enable_script_security` is not set",
            first.object,
            scripts.count()
        );
        self.outcome.report(&first, Severity::Warning, Class::Security, message);
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

/// Reads and checks a file. What cannot be read becomes a diagnostic.
pub fn load(path: &Path) -> Loaded {
    let name = path.display().to_string();
    match read(path) {
        Ok(bytes) => {
            let mut outcome = config::check(&name, &bytes);
            if let Some(config) = &mut outcome.config {
                fetch_secrets(config);
            }
            fetch_keys(&mut outcome);
            Loaded { outcome, readable: true }
        }
        Err(error) => {
            Loaded { outcome: Outcome::unreadable(&name, explain(&error)), readable: false }
        }
    }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    // Asked before opening: a FIFO would block for ever.
    let meta = std::fs::metadata(path)?;
    if meta.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    if !meta.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    let mut bytes = Vec::new();
    // One byte more than allowed, so that the parser sees that it is too long.
    File::open(path)?.take(SOURCE_LIMIT as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
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

/// Replaces every `password_file` by what it holds. One that cannot be read stays and is told:
/// the probe that needs it will report it again, the others run.
fn fetch_secrets(config: &mut Config) {
    let checkers = config
        .virtual_servers
        .iter_mut()
        .flat_map(|vs| &mut vs.real_servers)
        .flat_map(|rs| &mut rs.checkers);
    let tracked = config.track_mysql.values_mut().map(|track| &mut track.checker);
    for checker in checkers.chain(tracked) {
        let Checker::Mysql(_, mysql) = checker else { continue };
        let Some(Password::File(path)) = &mysql.password else { continue };
        match read_password(path) {
            Ok(password) => mysql.password = Some(Password::Literal(password)),
            Err(error) => {
                tracing::warn!(file = %path.display(), %error, "password_file not read");
            }
        }
    }
}

/// Replaces every `key ID file:PATH` of `auth_hmac` by the key. One that cannot be read takes the
/// configuration away: adverts without a signature make two masters.
fn fetch_keys(outcome: &mut Outcome) {
    let Some(config) = &mut outcome.config else { return };
    let mut failed = Vec::new();
    let hmacs = config.vrrp_instances.iter_mut().filter_map(|it| it.wire.hmac.as_mut());
    for key in hmacs.flat_map(|hmac| &mut hmac.keys) {
        let Secret::File(path) = &key.secret else { continue };
        let read = read_password(path).map_err(|error| error.to_string());
        match read.and_then(|text| hmac::key_bytes(&text)) {
            Ok(bytes) => key.secret = Secret::Bytes(bytes),
            Err(error) => failed.push((path.display().to_string(), error)),
        }
    }
    for (path, error) in failed {
        let named = |it: &&Reference| it.object == "key" && it.value == path;
        let Some(reference) = outcome.references.iter().find(named).cloned() else { continue };
        let message = format!("auth_hmac key not read from {path}: {error}");
        outcome.report(&reference, Severity::Error, Class::CannotRun, message);
    }
}

fn read_password(path: &Path) -> io::Result<String> {
    let file = File::open(path)?;
    let meta = file.metadata()?;
    if !meta.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    if meta.mode() & 0o044 != 0 {
        tracing::warn!(file = %path.display(), "password_file can be read by others; chmod 600 it");
    }
    let mut text = String::new();
    file.take(PASSWORD_LIMIT + 1).read_to_string(&mut text)?;
    if text.len() as u64 > PASSWORD_LIMIT {
        return Err(io::Error::other(format!("longer than {PASSWORD_LIMIT} bytes")));
    }
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
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

    #[test]
    fn binary_file_is_a_config_error() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("binary.conf");
        std::fs::write(&path, b"\x7fELF\0\0\0").expect("written");
        assert_eq!(load(&path).start_code(), EXIT_CONFIG);
    }

    #[test]
    fn keys_of_auth_hmac_come_from_files_or_nothing_runs() {
        let dir = tempfile::tempdir().expect("tempdir");
        let (path, key) = (dir.path().join("lbd.conf"), dir.path().join("key"));
        let text = format!(
            "vrrp_instance V {{\n interface lo\n virtual_router_id 1\n auth_hmac {{\n  key 1 \
             file:{}\n }}\n virtual_ipaddress {{\n  192.0.2.1\n }}\n}}\n",
            key.display()
        );
        std::fs::write(&path, text).expect("written");
        let loaded = load(&path);
        assert!(loaded.outcome.config.is_none());
        let text = loaded.outcome.render();
        assert!(text.contains("auth_hmac key not read") && text.contains(":5:"), "{text}");
        std::fs::write(&key, format!("hex:{}\n", "2a".repeat(32))).expect("written");
        let config = load(&path).outcome.config.expect("a configuration");
        let hmac = config.vrrp_instances[0].wire.hmac.as_ref().expect("auth_hmac");
        assert_eq!(hmac.keys[0].secret, Secret::Bytes(vec![0x2a; 32]));
        std::fs::write(&key, "short").expect("written");
        assert!(load(&path).outcome.render().contains("32 to 64 bytes"));
    }

    #[test]
    fn passwords_lose_their_line_end_and_have_a_bound() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("pw");
        std::fs::write(&path, "s3cret \r\n").expect("written");
        assert_eq!(read_password(&path).expect("read"), "s3cret ");
        std::fs::write(&path, "x".repeat(5000)).expect("written");
        assert!(read_password(&path).is_err());
        assert!(read_password(dir.path()).is_err());
    }
}
