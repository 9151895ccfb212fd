//! As whom a script runs, and whether its file may be trusted with that.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use nix::unistd::{Gid, Group, Uid, User as SystemUser};

use crate::config::model::{Command, User};

/// keepalived's user for scripts that name none, when the system has it.
const DEFAULT_USER: &str = "keepalived_script";

/// User and group ids for execve(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    pub uid: u32,
    pub gid: u32,
}

/// The script's own user, else `script_user`, else keepalived_script where it exists, else the
/// user that runs lbd. `None`: no change of identity is needed.
///
/// # Errors
/// One phrase that names the user or group that does not exist, or that cannot be become.
pub fn resolve(command: &Command, default: Option<&User>) -> Result<Option<Identity>, String> {
    let own = Uid::effective();
    let Some(user) = command.user.as_ref().or(default) else {
        return Ok(match SystemUser::from_name(DEFAULT_USER) {
            Ok(Some(user)) if own.is_root() => {
                Some(Identity { uid: user.uid.as_raw(), gid: user.gid.as_raw() })
            }
            _ => None,
        });
    };
    let entry = SystemUser::from_name(&user.name)
        .map_err(|error| format!("looking up user {}: {error}", user.name))?
        .ok_or_else(|| format!("user {} does not exist", user.name))?;
    let gid = match &user.group {
        None => entry.gid,
        Some(name) => {
            Group::from_name(name)
                .map_err(|error| format!("looking up group {name}: {error}"))?
                .ok_or_else(|| format!("group {name} does not exist"))?
                .gid
        }
    };
    if entry.uid == own && gid == Gid::effective() {
        return Ok(None);
    }
    if !own.is_root() {
        return Err(format!("lbd does not run as root and cannot become user {}", user.name));
    }
    Ok(Some(Identity { uid: entry.uid.as_raw(), gid: gid.as_raw() }))
}

/// `enable_script_security`: a script that runs as root must not be something that others can
/// write to, nor lie in a directory that they can.
///
/// # Errors
/// One phrase that names the file or directory.
pub fn secure(program: &Path) -> Result<(), String> {
    let path =
        fs::canonicalize(program).map_err(|error| format!("{}: {error}", program.display()))?;
    let mut part: Option<&Path> = Some(&path);
    while let Some(current) = part {
        let meta = fs::metadata(current).map_err(|e| format!("{}: {e}", current.display()))?;
        // The sticky bit keeps others from replacing entries of a directory.
        let writable = meta.mode() & 0o022 != 0 && meta.mode() & 0o1000 == 0;
        if meta.uid() != 0 || writable {
            return Err(format!(
                "enable_script_security: {} can be changed by users other than root",
                current.display()
            ));
        }
        part = current.parent();
    }
    Ok(())
}

/// The file that execvp(3) would run; as given when it is not found.
pub fn program_path(program: &str) -> PathBuf {
    if program.contains('/') {
        return PathBuf::from(program);
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|dir| dir.join(program))
        .find(|candidate| candidate.is_file())
        .unwrap_or_else(|| PathBuf::from(program))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn command(user: Option<&str>) -> Command {
        Command {
            argv: vec!["/bin/true".to_owned()],
            user: user.map(|name| User { name: name.to_owned(), group: None }),
        }
    }

    #[test]
    fn unknown_user_and_group_are_named() {
        let error = resolve(&command(Some("no_such_user_x")), None).expect_err("unknown");
        assert_eq!(error, "user no_such_user_x does not exist");
        let user = User { name: "root".to_owned(), group: Some("no_such_group_x".to_owned()) };
        let error = resolve(&command(None), Some(&user)).expect_err("unknown");
        assert_eq!(error, "group no_such_group_x does not exist");
    }

    #[test]
    fn own_identity_needs_no_change_and_the_commands_user_wins() {
        let me = SystemUser::from_uid(Uid::effective()).expect("looked up").expect("exists");
        let bogus = User { name: "no_such_user_x".to_owned(), group: None };
        assert_eq!(resolve(&command(Some(&me.name)), Some(&bogus)), Ok(None));
    }

    #[test]
    fn writable_script_is_not_secure() {
        let dir = tempfile::tempdir().expect("tempdir");
        let script = dir.path().join("s.sh");
        fs::write(&script, "#!/bin/sh\n").expect("written");
        fs::set_permissions(&script, fs::Permissions::from_mode(0o777)).expect("chmod");
        let error = secure(&script).expect_err("anyone may write");
        assert!(error.contains("s.sh can be changed by users other than root"), "{error}");
        assert!(secure(Path::new("/nonexistent/x")).is_err());
    }

    #[test]
    fn program_is_found_on_the_path() {
        assert!(program_path("sh").is_absolute());
        assert_eq!(program_path("/x/y"), Path::new("/x/y"));
        assert_eq!(program_path("no-such-program-x"), Path::new("no-such-program-x"));
    }
}
