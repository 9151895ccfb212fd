//! The host's files, as a configuration sees them: what it includes, and its own bytes.

use std::{
    fs::{File, Metadata},
    io::{self, Read as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::Path,
};

use super::Reading;
use crate::config::{SOURCE_LIMIT, Surroundings, expand::FILES_LIMIT};

/// The host, as a configuration sees it.
pub(super) struct Disk {
    id: String,
    strict: bool,
}

impl Disk {
    pub(super) fn new(reading: &Reading) -> Self {
        let id = reading.id.clone().unwrap_or_else(|| {
            let host = nix::unistd::gethostname().unwrap_or_default();
            host.to_string_lossy().split('.').next().unwrap_or_default().to_owned()
        });
        Self { id, strict: reading.strict }
    }
}

impl Surroundings for Disk {
    fn id(&self) -> &str {
        &self.id
    }

    fn variable(&self, name: &str) -> Option<String> {
        std::env::var(name).ok()
    }

    fn strict(&self) -> bool {
        self.strict
    }

    fn find(&self, directory: &str, pattern: &str) -> Result<Vec<String>, String> {
        // Backslashes escape, as in glob(3); the crate knows brackets only.
        let (mut escaped, mut plain, mut wild) = (String::new(), String::new(), false);
        let mut chars = pattern.chars();
        while let Some(c) = chars.next() {
            match c {
                '\\' => {
                    let c = chars.next().unwrap_or('\\');
                    escaped.push_str(&glob::Pattern::escape(c.encode_utf8(&mut [0; 4])));
                    plain.push(c);
                }
                c => {
                    wild |= matches!(c, '*' | '?' | '[');
                    escaped.push(c);
                    plain.push(c);
                }
            }
        }
        let inside = !pattern.starts_with('/');
        if !wild {
            let path = if inside { format!("{directory}/{plain}") } else { plain };
            return Ok(if Path::new(&path).exists() { vec![path] } else { Vec::new() });
        }
        let full = match inside {
            true => format!("{}/{escaped}", glob::Pattern::escape(directory)),
            false => escaped,
        };
        let options = glob::MatchOptions {
            case_sensitive: true,
            require_literal_separator: true,
            require_literal_leading_dot: true,
        };
        let paths = glob::glob_with(&full, options).map_err(|error| error.to_string())?;
        // A directory that cannot be read has nothing that matches, as in keepalived.
        let paths = paths.filter_map(Result::ok).take(FILES_LIMIT + 1);
        paths
            .map(|path| {
                path.into_os_string()
                    .into_string()
                    .map_err(|path| format!("the name {} is no UTF-8", path.to_string_lossy()))
            })
            .collect()
    }

    fn read(&self, path: &str) -> Result<Vec<u8>, String> {
        let path = Path::new(path);
        let meta = std::fs::metadata(path).map_err(|error| error.to_string())?;
        if meta.is_file() && meta.mode() & 0o111 != 0 {
            return Err("it is executable (chmod -x)".into());
        }
        read(path).map_err(|error| match error.kind() {
            io::ErrorKind::IsADirectory => "it is a directory".into(),
            _ => error.to_string(),
        })
    }
}

/// The bytes of a regular file, one more than the limit at most.
pub(super) fn read(path: &Path) -> io::Result<Vec<u8>> {
    let (file, meta) = open(path)?;
    // One byte more than allowed, so that the parser sees that it is too long.
    let limit = SOURCE_LIMIT as u64 + 1;
    let length = usize::try_from(meta.len().min(limit)).unwrap_or(0);
    let mut bytes = Vec::with_capacity(length + 1);
    file.take(limit).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Opens a regular file, and nothing that could be waited for: a FIFO without a writer, opened as a
/// file is, would hold up the start or the reload for ever.
pub(super) fn open(path: &Path) -> io::Result<(File, Metadata)> {
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    let file = File::options().read(true).custom_flags(flags).open(path)?;
    let meta = file.metadata()?;
    if meta.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    if !meta.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    Ok((file, meta))
}

#[cfg(test)]
mod tests {
    use super::super::load;

    #[test]
    fn what_is_no_plain_file_is_not_included() {
        let dir = tempfile::tempdir().expect("tempdir");
        let script = dir.path().join("x.conf");
        std::fs::write(&script, "bogus\n").expect("written");
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&script, mode).expect("chmod");
        let fifo = dir.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRUSR).expect("fifo");
        let path = dir.path().join("lbd.conf");
        for (word, phrase) in [
            ("x.conf", "executable"),
            ("fifo", "not a regular file"),
            (".", "directory"),
            ("x.con[", "error near"),
            ("x\\.conf", "executable"),
        ] {
            std::fs::write(&path, format!("include {word}\n")).expect("written");
            let text = load(&path).outcome.render();
            assert!(text.contains(phrase) && text.contains("lbd.conf:1:9"), "{word}: {text}");
        }
    }
}
