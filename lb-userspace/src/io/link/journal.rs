//! The record of what this process may have put on the host, so that the successor of a killed one
//! removes exactly that, even when its own configuration no longer names it.
//!
//! Written when a configuration is put in force, before its first object is put on; a takeover
//! writes nothing. One JSON file, replaced as a whole. It counts only in the same boot and network
//! namespace. What it names is looked at again before it is removed ([`super::make`]).

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{Declaration, Object};

/// Changes with the meaning of the file; another one's is not read.
const FORMAT: u32 = 1;
/// A longer file is not read: 255 instances with 4,096 VIPs each do not make one.
const LENGTH_LIMIT: u64 = 512 << 20;

/// Values that settings had before lbd changed them, by key.
pub(super) type Originals = BTreeMap<String, String>;

/// The file.
#[derive(Serialize, Deserialize)]
struct Record<T> {
    format: u32,
    boot: String,
    netns: String,
    objects: Vec<T>,
    settings: Originals,
}

/// What a predecessor wrote.
#[derive(Debug, Default)]
pub(super) struct Predecessor {
    /// In the order in which they were put on.
    pub objects: Vec<Object>,
    pub settings: Originals,
}

/// The record of this process.
#[derive(Debug, Default)]
pub(super) struct Journal {
    /// `None`: nothing is recorded.
    path: Option<PathBuf>,
    wanted: Vec<Object>,
    /// No longer wanted, and possibly still there.
    stale: BTreeSet<Object>,
    failed: bool,
}

impl Journal {
    pub(super) fn new(path: Option<PathBuf>) -> Self {
        Self { path, ..Self::default() }
    }

    /// What a predecessor left. Read it before the first [`Journal::declare`].
    pub(super) fn predecessor(&self) -> Predecessor {
        let Some(path) = &self.path else { return Predecessor::default() };
        match read(path) {
            Ok(found) => found.unwrap_or_default(),
            Err(error) => {
                let path = path.display();
                tracing::warn!(%path, error, "what a predecessor left on this host is not known");
                Predecessor::default()
            }
        }
    }

    /// Takes what may be put on from now on.
    pub(super) fn declare(&mut self, declaration: Declaration) {
        let Declaration { wanted, held, .. } = declaration;
        self.stale.extend(held);
        for object in &wanted {
            self.stale.remove(object);
        }
        self.wanted = wanted;
    }

    /// These are gone. True when the record has changed by that.
    pub(super) fn taken_off(&mut self, objects: &[Object]) -> bool {
        if self.stale.is_empty() {
            return false;
        }
        let before = self.stale.len();
        for object in objects {
            self.stale.remove(object);
        }
        self.stale.len() != before
    }

    /// Writes the record. A failure is told once: lbd works without, as long as nobody kills it.
    pub(super) fn write(&mut self, settings: Originals) {
        let Some(path) = &self.path else { return };
        let objects = self.stale.iter().chain(&self.wanted).collect();
        let record = |(boot, netns)| Record { format: FORMAT, boot, netns, objects, settings };
        let result = place().and_then(|place| replace(path, &record(place)));
        if let Err(error) = &result
            && !self.failed
        {
            let path = path.display();
            tracing::warn!(%path, %error, "a successor will not know what is put on this host");
        }
        self.failed = result.is_err();
    }
}

/// This boot and this network namespace.
fn place() -> io::Result<(String, String)> {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    let netns = fs::read_link("/proc/thread-self/ns/net")?;
    Ok((boot.trim().to_owned(), netns.display().to_string()))
}

fn replace(path: &Path, record: &impl Serialize) -> io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let new = PathBuf::from(name);
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    file.write_all(&serde_json::to_vec(record)?)?;
    fs::rename(&new, path)
}

/// `None`: there is none that counts here.
fn read(path: &Path) -> Result<Option<Predecessor>, String> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(|error| error.to_string())?,
    };
    let mut bytes = Vec::new();
    let len = file.take(LENGTH_LIMIT + 1).read_to_end(&mut bytes).map_err(|it| it.to_string())?;
    if len as u64 > LENGTH_LIMIT {
        return Err(format!("longer than {LENGTH_LIMIT} bytes"));
    }
    let place = place().map_err(|error| error.to_string())?;
    parse(&bytes, place)
}

fn parse(bytes: &[u8], place: (String, String)) -> Result<Option<Predecessor>, String> {
    let record: Record<serde_json::Value> =
        serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    if record.format != FORMAT {
        return Err(format!("format {} is not {FORMAT}", record.format));
    }
    if (record.boot, record.netns) != place {
        return Ok(None);
    }
    let mut objects = Vec::new();
    for value in record.objects {
        // Of another version of lbd.
        match serde_json::from_value(value) {
            Ok(object) => objects.push(object),
            Err(error) => tracing::warn!(%error, "something that a predecessor left is not known"),
        }
    }
    Ok(Some(Predecessor { objects, settings: record.settings }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::link::Setting;

    fn setting(name: &str) -> Object {
        Object::Setting(Setting { key: format!("ipv4/conf/{name}/arp_ignore"), value: 1 })
    }

    fn declaration(wanted: &[&str], held: &[&str]) -> Declaration {
        let objects = |names: &[&str]| names.iter().map(|name| setting(name)).collect();
        Declaration { id: 1, wanted: objects(wanted), held: objects(held) }
    }

    #[test]
    fn a_successor_reads_what_is_wanted_and_what_is_not_gone_yet() {
        let dir = tempfile::tempdir().expect("directory");
        let path = dir.path().join("held.json");
        let mut journal = Journal::new(Some(path.clone()));
        let originals = Originals::from([("key".to_owned(), "0".to_owned())]);
        journal.declare(declaration(&["a", "b"], &[]));
        journal.write(originals.clone());
        let read = || Journal::new(Some(path.clone())).predecessor();
        assert_eq!(read().objects, [setting("a"), setting("b")]);
        assert_eq!(read().settings, originals);
        // A reload drops both; one of them was held.
        journal.declare(declaration(&["c"], &["b"]));
        journal.write(Originals::new());
        assert_eq!(read().objects, [setting("b"), setting("c")]);
        assert!(!journal.taken_off(&[setting("c")]), "it may be put on again");
        assert!(journal.taken_off(&[setting("b")]));
        journal.write(Originals::new());
        assert_eq!(read().objects, [setting("c")]);
        let left: Vec<_> = fs::read_dir(dir.path()).expect("listed").flatten().collect();
        assert_eq!(left.len(), 1, "{left:?}");
    }

    #[test]
    fn another_boot_or_namespace_is_no_predecessor_and_rubbish_is_told() {
        let place = || ("boot".to_owned(), "net:[1]".to_owned());
        let text = |format: u32, boot: &str, netns: &str| {
            format!(
                r#"{{"format":{format},"boot":"{boot}","netns":"{netns}","objects":
                [{{"Setting":{{"key":"k","value":1}}}},{{"Novelty":{{}}}}],"settings":{{}}}}"#
            )
        };
        let read = |text: String| parse(text.as_bytes(), place());
        let found = read(text(FORMAT, "boot", "net:[1]")).expect("read").expect("counts");
        assert_eq!(found.objects.len(), 1, "what is not known is left out");
        assert!(read(text(FORMAT, "boot", "net:[2]")).expect("read").is_none());
        assert!(read(text(FORMAT, "other", "net:[1]")).expect("read").is_none());
        assert!(read(text(FORMAT + 1, "boot", "net:[1]")).is_err());
        assert!(read("rubbish".into()).is_err());
    }
}
