//! As whom a script runs, and whether its file may be trusted with that.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Component, Path, PathBuf},
};

use nix::unistd::{Gid, Group, Uid, User as SystemUser};

use crate::{
    config::model::{Command, User},
    process::ipc::ScriptOutcome,
};

/// keepalived's user for scripts that name none, when the system has it.
const DEFAULT_USER: &str = "keepalived_script";

/// User and group ids for execve(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    pub uid: u32,
    pub gid: u32,
}

/// Why there is nobody to run a script as; one phrase.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoIdentity {
    /// The user or group does not exist, or cannot be become.
    #[error("{0}")]
    Unknown(String),
    /// The host could not look it up, now.
    #[error("{0}")]
    LookUp(String),
}

impl From<NoIdentity> for ScriptOutcome {
    fn from(error: NoIdentity) -> Self {
        match error {
            NoIdentity::Unknown(why) => Self::NotStarted(why),
            NoIdentity::LookUp(why) => Self::NotNow(why),
        }
    }
}

/// The script's own user, else `script_user`, else keepalived_script where it exists, else the
/// user that runs lbd. `None`: no change of identity is needed.
///
/// # Errors
/// See [`NoIdentity`].
pub fn resolve(command: &Command, default: Option<&User>) -> Result<Option<Identity>, NoIdentity> {
    let never = |why: String| NoIdentity::Unknown(why);
    let not_now = |what: String, error| NoIdentity::LookUp(format!("looking up {what}: {error}"));
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
        .map_err(|error| not_now(format!("user {}", user.name), error))?
        .ok_or_else(|| never(format!("user {} does not exist", user.name)))?;
    let gid = match &user.group {
        None => entry.gid,
        Some(name) => {
            Group::from_name(name)
                .map_err(|error| not_now(format!("group {name}"), error))?
                .ok_or_else(|| never(format!("group {name} does not exist")))?
                .gid
        }
    };
    if entry.uid == own && gid == Gid::effective() {
        return Ok(None);
    }
    if !own.is_root() {
        let why = format!("lbd does not run as root and cannot become user {}", user.name);
        return Err(never(why));
    }
    Ok(Some(Identity { uid: entry.uid.as_raw(), gid: gid.as_raw() }))
}

/// Symbolic links followed on one path, as the kernel's limit (path_resolution(7)).
const LINK_LIMIT: u32 = 40;

/// `enable_script_security`: a script that runs as root must not be something that others can
/// write to, nor be reached through a directory or a symbolic link that they can change. A relative
/// path is one from `/`, where scripts are started.
///
/// # Errors
/// One phrase that names the file, directory or link.
pub fn secure(program: &Path) -> Result<(), String> {
    let mut links = 0;
    let mut at = PathBuf::from("/");
    may_change(&at)?;
    // What is still to be walked, next last.
    let mut rest = parts(program);
    while let Some(part) = rest.pop() {
        if part == ".." {
            at.pop();
            continue;
        }
        let next = at.join(&part);
        let told = |error: std::io::Error| format!("{}: {error}", next.display());
        if !fs::symlink_metadata(&next).map_err(told)?.is_symlink() {
            may_change(&next)?;
            at = next;
            continue;
        }
        links += 1;
        if links > LINK_LIMIT {
            return Err(format!("{}: too many symbolic links", program.display()));
        }
        // Its directory is safe; in one with the sticky bit its owner may still replace it.
        if fs::symlink_metadata(&next).map_err(told)?.uid() != 0 {
            return Err(changeable(&next));
        }
        let target = fs::read_link(&next).map_err(told)?;
        if target.is_absolute() {
            at = PathBuf::from("/");
        }
        rest.extend(parts(&target));
    }
    Ok(())
}

/// Names on a path, the first one last.
fn parts(path: &Path) -> Vec<std::ffi::OsString> {
    let named = path.components().filter_map(|part| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    });
    let mut names: Vec<_> = named.collect();
    names.reverse();
    names
}

fn may_change(path: &Path) -> Result<(), String> {
    let meta = fs::symlink_metadata(path).map_err(|e| format!("{}: {e}", path.display()))?;
    // The sticky bit keeps others from replacing entries of a directory.
    let writable = meta.mode() & 0o022 != 0 && !(meta.is_dir() && meta.mode() & 0o1000 != 0);
    if meta.uid() != 0 || writable { Err(changeable(path)) } else { Ok(()) }
}

fn changeable(path: &Path) -> String {
    format!("enable_script_security: {} can be changed by users other than root", path.display())
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
        assert_eq!(error, NoIdentity::Unknown("user no_such_user_x does not exist".into()));
        let user = User { name: "root".to_owned(), group: Some("no_such_group_x".to_owned()) };
        let error = resolve(&command(None), Some(&user)).expect_err("unknown");
        assert_eq!(error, NoIdentity::Unknown("group no_such_group_x does not exist".into()));
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
    fn a_link_that_others_can_change_is_not_secure() {
        assert_eq!(secure(Path::new("/bin/true")), Ok(()), "through the link /bin");
        assert_eq!(secure(Path::new("usr/../usr/bin/true")), Ok(()), "from the root");
        let dir = tempfile::tempdir().expect("tempdir");
        let open = dir.path().join("open");
        fs::create_dir(&open).expect("made");
        fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).expect("chmod");
        std::os::unix::fs::symlink("/bin/true", open.join("link")).expect("linked");
        let error = secure(&open.join("link")).expect_err("its directory is open to all");
        // Not run as root: the first directory that is not root's is named.
        assert!(error.contains("can be changed by users other than root"), "{error}");
        std::os::unix::fs::symlink("again", dir.path().join("again")).expect("linked");
        assert!(secure(&dir.path().join("again")).is_err(), "a ring");
    }

    #[test]
    fn program_is_found_on_the_path() {
        assert!(program_path("sh").is_absolute());
        assert_eq!(program_path("/x/y"), Path::new("/x/y"));
        assert_eq!(program_path("no-such-program-x"), Path::new("no-such-program-x"));
    }
}
