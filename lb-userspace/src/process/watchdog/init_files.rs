//! `init_file`: what a `track_file` holds when lbd starts, or when a reload brings it. The watchdog
//! writes it and not the vrrp process, which may be restarted.

use std::{
    fs::File,
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use crate::config::model::{Config, InitFile};

/// Writes the files of a start (no configuration before), or those that a reload brings.
pub(super) fn write(config: &Config, before: Option<&Config>) {
    for file in config.track_files.values() {
        let Some(init) = file.init else { continue };
        if before.is_some_and(|before| before.track_files.contains_key(&file.name)) {
            continue;
        }
        if let Err(error) = write_one(&file.path, init) {
            let path = file.path.display();
            tracing::error!(track_file = file.name, %path, %error, "init_file not written");
        }
    }
}

fn write_one(path: &Path, init: InitFile) -> io::Result<()> {
    let mut options = File::options();
    options.write(true).mode(0o644).custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC);
    let file = match init.overwrite {
        true => options.create(true).truncate(true).open(path),
        false => options.create_new(true).open(path),
    };
    match file {
        Ok(mut file) => writeln!(file, "{}", init.value),
        Err(error) if !init.overwrite && error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_existing_file_is_overwritten_only_on_demand() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("value");
        let init = |value, overwrite| InitFile { value, overwrite };
        let read = || std::fs::read_to_string(&path).expect("written");
        write_one(&path, init(5, false)).expect("new");
        assert_eq!(read(), "5\n");
        write_one(&path, init(6, false)).expect("no error");
        assert_eq!(read(), "5\n");
        write_one(&path, init(-7, true)).expect("overwritten");
        assert_eq!(read(), "-7\n");
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&path, &link).expect("linked");
        assert!(write_one(&link, init(8, true)).is_err(), "links are not followed");
        assert_eq!(read(), "-7\n");
    }
}
