//! The operator's decisions on disk, so that a restart keeps them.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use tracing::{error, warn};

use crate::desired::Admin;

/// Another one after each boot (random(4)).
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// `RUN_DIR/admin.json`. It goes with the run directory at reboot, as the connections do; where that
/// directory stays, who is drained stays so too, and times are forgotten, because they are moments of
/// `CLOCK_MONOTONIC`, which begins anew.
#[derive(Debug)]
pub struct AdminFile {
    path: PathBuf,
    boot: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct Kept {
    /// When it was written; versions before this one did not say.
    #[serde(default)]
    boot: Option<String>,
    #[serde(flatten)]
    admin: Admin,
}

impl AdminFile {
    /// The file in this run directory.
    pub fn new(run_dir: &Path) -> Self {
        let boot = fs::read_to_string(BOOT_ID).ok().map(|id| id.trim().to_owned());
        Self { path: run_dir.join("admin.json"), boot }
    }

    /// The directory of the file.
    pub fn run_dir(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new("/"))
    }

    /// What was decided before; nothing when there is no readable file (which is logged).
    pub fn load(&self) -> Admin {
        let text = match fs::read(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Admin::default(),
            Err(error) => {
                warn!(path = %self.path.display(), %error, "drained servers cannot be read");
                return Admin::default();
            }
        };
        let Kept { boot, mut admin } = serde_json::from_slice(&text).unwrap_or_else(|error| {
            warn!(path = %self.path.display(), %error, "drained servers cannot be read");
            Kept { boot: None, admin: Admin::default() }
        });
        if boot != self.boot {
            admin.forget_times();
        }
        admin
    }

    /// Replaces the file in one step; without decisions there is no file, so that an orderly stop
    /// leaves an empty run directory. Failure is logged: the decision holds until a restart.
    pub fn save(&self, admin: &Admin) {
        if *admin == Admin::default() {
            match fs::remove_file(&self.path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    error!(path = %self.path.display(), %error, "old decisions will return at a restart");
                }
                _ => {}
            }
            return;
        }
        let temporary = self.path.with_extension("json.new");
        let kept = Kept { boot: self.boot.clone(), admin: admin.clone() };
        let result = serde_json::to_vec_pretty(&kept)
            .map_err(io::Error::other)
            .and_then(|text| fs::write(&temporary, text))
            .and_then(|()| fs::rename(&temporary, &self.path));
        if let Err(error) = result {
            error!(path = %self.path.display(), %error, "drained servers will be forgotten by a restart");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decisions_come_back_and_damage_is_survived() {
        let dir = tempfile::tempdir().expect("tempdir");
        let file = AdminFile::new(dir.path());
        assert_eq!(file.load(), Admin::default());
        let mut admin = Admin::default();
        admin.drain(None, "198.51.100.1:3306".parse().expect("addr"), None);
        let until = Some(crate::base::time::Instant::from_nanos(7));
        admin.drain(None, "198.51.100.2:3306".parse().expect("addr"), until);
        file.save(&admin);
        assert_eq!(AdminFile::new(dir.path()).load(), admin);
        // After a boot, and what a version before this one wrote: drained, with no end.
        let mut timeless = admin.clone();
        timeless.forget_times();
        assert_ne!(timeless, admin);
        let after = AdminFile { boot: Some("another".to_owned()), ..AdminFile::new(dir.path()) };
        assert_eq!(after.load(), timeless);
        let path = dir.path().join("admin.json");
        fs::write(&path, serde_json::to_vec(&admin).expect("json")).expect("write");
        assert_eq!(file.load(), timeless);
        file.save(&Admin::default());
        assert!(!dir.path().join("admin.json").exists(), "nothing decided, nothing left");
        fs::write(dir.path().join("admin.json"), "{").expect("write");
        assert_eq!(file.load(), Admin::default());
    }
}
