//! What of the kernel's table is ours, on disk, so that a successor can tell: `RUN_DIR/ipvs.json`.
//!
//! A service is written down before it is made, so that no kill leaves one that nobody claims. The kernel's table goes
//! at reboot, and the run directory need not: a journal of another boot, or of another network namespace, says nothing
//! of the table that is here, and is not believed.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    net::IpAddr,
    os::linux::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use super::wire::ServiceKey;
use crate::base::{
    net::VirtualServerKey,
    table::{ForwardingTable, LeaseSlot, VirtualServer},
};

/// What is written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Journal {
    /// Whose table it speaks of.
    #[serde(default)]
    place: Place,
    /// Services that we have made, or were about to make.
    claims: BTreeSet<ServiceKey>,
    /// Settings of the kernel before us, by name.
    pub settings: BTreeMap<String, String>,
    /// What was wanted last: the table knows more than the kernel can say.
    virtual_servers: Vec<(VirtualServerKey, VirtualServer)>,
    vips: BTreeMap<IpAddr, LeaseSlot>,
}

/// A kernel's table: there is one for each network namespace of each boot.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The kernel's `boot_id`.
    boot: String,
    /// Inode of the network namespace.
    namespace: u64,
}

impl Place {
    /// Where we are. What cannot be read is equal to nothing that was written.
    fn here() -> Self {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let namespace = fs::metadata("/proc/thread-self/ns/net").map_or(0, |it| it.st_ino());
        Self { boot: boot.trim().to_owned(), namespace }
    }

    fn is_here(&self) -> bool {
        !self.boot.is_empty() && self.namespace != 0 && *self == Self::here()
    }
}

/// Whether a predecessor left a journal of the table that is here.
pub fn is_left(run_dir: &Path) -> bool {
    match read(&path(run_dir)) {
        Ok(found) => found.is_some_and(|journal| journal.place.is_here()),
        // Whoever opens it says so.
        Err(_) => true,
    }
}

/// Removes a journal that is not believed; nobody will read it.
///
/// # Errors
/// When it is there and cannot be removed.
pub fn discard_stale(run_dir: &Path) -> io::Result<()> {
    if is_left(run_dir) {
        return Ok(());
    }
    match fs::remove_file(path(run_dir)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn path(run_dir: &Path) -> PathBuf {
    run_dir.join("ipvs.json")
}

fn read(path: &Path) -> Result<Option<Journal>, String> {
    match fs::read(path) {
        Ok(text) => serde_json::from_slice(&text).map(Some).map_err(|it| it.to_string()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.to_string()),
    }
}

/// The file with what it holds.
#[derive(Debug)]
pub struct File {
    path: PathBuf,
    journal: Journal,
    /// What is on disk, so that nothing is written twice.
    written: Option<Vec<u8>>,
}

impl File {
    /// The journal of a predecessor, or an empty one.
    pub fn open(run_dir: &Path) -> Self {
        let path = path(run_dir);
        let found = read(&path).unwrap_or_else(|error| {
            warn!(
                path = %path.display(), error,
                "the journal of IPVS services cannot be read: what a predecessor left counts as not ours"
            );
            None
        });
        let stale = found.as_ref().is_some_and(|journal| !journal.place.is_here());
        if stale {
            info!(
                path = %path.display(),
                "a journal of IPVS services of an earlier boot or another network namespace is not believed"
            );
        }
        let journal = found
            .filter(|_| !stale)
            .unwrap_or_else(|| Journal { place: Place::here(), ..Journal::default() });
        Self { path, journal, written: None }
    }

    /// Services that are ours.
    pub fn claims(&self) -> &BTreeSet<ServiceKey> {
        &self.journal.claims
    }

    /// What a predecessor wanted. Interfaces are none of this engine's.
    pub fn table(&self) -> ForwardingTable {
        ForwardingTable {
            virtual_servers: self.journal.virtual_servers.iter().cloned().collect(),
            vips: self.journal.vips.clone(),
            interfaces: BTreeSet::new(),
        }
    }

    /// Settings of the kernel before us.
    pub fn settings(&mut self) -> &mut BTreeMap<String, String> {
        &mut self.journal.settings
    }

    /// Notes a service as ours, on disk too when this returns.
    ///
    /// # Errors
    /// When it cannot be written: then the service must not be made.
    pub fn claim(&mut self, key: ServiceKey) -> io::Result<()> {
        if !self.journal.claims.insert(key) {
            return Ok(());
        }
        self.write().inspect_err(|_| {
            self.journal.claims.remove(&key);
        })
    }

    /// A service that is gone.
    pub fn release(&mut self, key: &ServiceKey) {
        self.journal.claims.remove(key);
    }

    /// Keeps the table. Failure is logged: only a successor would miss it.
    pub fn keep(&mut self, table: &ForwardingTable) {
        self.journal.virtual_servers =
            table.virtual_servers.iter().map(|(key, vs)| (*key, vs.clone())).collect();
        self.journal.vips.clone_from(&table.vips);
        if let Err(error) = self.write() {
            warn!(path = %self.path.display(), %error, "the journal of IPVS services is not written");
        }
    }

    /// Nothing is ours any more.
    ///
    /// # Errors
    /// When it is there and cannot be removed.
    pub fn remove(&mut self) -> io::Result<()> {
        self.journal = Journal { place: self.journal.place.clone(), ..Journal::default() };
        self.written = None;
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn write(&mut self) -> io::Result<()> {
        let text = serde_json::to_vec(&self.journal).map_err(io::Error::other)?;
        if self.written.as_ref() == Some(&text) {
            return Ok(());
        }
        let temporary = self.path.with_extension("json.new");
        fs::write(&temporary, &text)?;
        fs::rename(&temporary, &self.path)?;
        self.written = Some(text);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataplane::ipvs::encode;

    fn key() -> VirtualServerKey {
        "tcp/192.0.2.10:3306".parse().expect("a key")
    }

    /// One service noted, as a predecessor does.
    fn left() -> (tempfile::TempDir, serde_json::Value) {
        let dir = tempfile::tempdir().expect("a directory");
        File::open(dir.path()).claim(encode::key(&key())).expect("written");
        let text = fs::read(path(dir.path())).expect("there");
        (dir, serde_json::from_slice(&text).expect("JSON"))
    }

    #[test]
    fn a_journal_of_this_boot_and_namespace_is_believed() {
        let (dir, _) = left();
        assert!(is_left(dir.path()));
        assert!(File::open(dir.path()).claims().contains(&encode::key(&key())));
        assert!(!is_left(&dir.path().join("elsewhere")), "none is there");
    }

    #[test]
    fn one_of_another_boot_or_namespace_is_not_and_is_written_over() {
        let (dir, good) = left();
        let file = path(dir.path());
        for (field, value) in [
            ("/place/boot", serde_json::json!("11111111-2222-3333-4444-555555555555")),
            ("/place/namespace", serde_json::json!(7)),
            ("/place", serde_json::json!({ "boot": "", "namespace": 0 })),
        ] {
            let mut other = good.clone();
            *other.pointer_mut(field).expect(field) = value;
            fs::write(&file, other.to_string()).expect("written");
            assert!(!is_left(dir.path()), "{field}");
            let mut opened = File::open(dir.path());
            assert_eq!(opened.claims(), &BTreeSet::new(), "{field}");
            opened.claim(encode::key(&key())).expect("written");
            assert!(is_left(dir.path()), "{field}: ours now");
        }
        discard_stale(dir.path()).expect("nothing to do");
        assert!(file.exists(), "ours");
        // As versions before wrote it.
        let mut old = good;
        old.as_object_mut().expect("an object").remove("place");
        fs::write(&file, old.to_string()).expect("written");
        assert!(!is_left(dir.path()));
        discard_stale(dir.path()).expect("removed");
        assert!(!file.exists());
    }

    #[test]
    fn what_cannot_be_read_is_there_and_claims_nothing() {
        let (dir, _) = left();
        fs::write(path(dir.path()), "{ torn").expect("written");
        assert!(is_left(dir.path()));
        assert_eq!(File::open(dir.path()).claims(), &BTreeSet::new());
    }
}
