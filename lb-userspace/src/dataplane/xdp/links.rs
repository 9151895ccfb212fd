//! Where the program is: one pin for each interface, under `links` of the pin directory.
//!
//! | pin | what it is |
//! |---|---|
//! | `native-IFINDEX`, `generic-IFINDEX` | a link of XDP |
//! | `tcx-IFINDEX` | a link of tcx |
//! | `clsact-IFINDEX` | tc's program; says that a filter of ours was put on the interface ([`clsact`]), which has no link; made before it, and gone after it |
//! | `qdisc-IFINDEX` | the same; says that the qdisc of that filter is ours too; made before it |

use std::{
    fmt, fs, io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use anyhow::Context as _;

use super::{clsact, sys};

/// Folder of the pins in the pin directory.
pub const LINKS: &str = "links";

/// How the program is on an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mode {
    /// XDP in the driver.
    Native,
    /// XDP on an skb.
    Generic,
    /// tc's ingress, by a link of its own (since 6.6).
    Tcx,
    /// tc's ingress, by a filter of a clsact qdisc.
    Clsact,
}

impl Mode {
    /// Every mode.
    pub const ALL: [Self; 4] = [Self::Native, Self::Generic, Self::Tcx, Self::Clsact];

    /// Word for pins, status, logs and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Generic => "generic",
            Self::Tcx => "tcx",
            Self::Clsact => "clsact",
        }
    }

    /// Whether it is tc's program that is there.
    pub const fn is_tc(self) -> bool {
        matches!(self, Self::Tcx | Self::Clsact)
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A pin.
#[derive(Debug)]
pub struct Pinned {
    pub path: PathBuf,
    pub fd: OwnedFd,
    /// 0 when the interface, or what was put on it, is gone.
    pub ifindex: u32,
    pub mode: Mode,
}

/// Where an interface's is.
pub fn path(dir: &Path, mode: Mode, ifindex: u32) -> PathBuf {
    dir.join(LINKS).join(format!("{mode}-{ifindex}"))
}

const QDISC: &str = "qdisc-";

/// Where it is said that the interface's clsact qdisc is ours.
pub fn qdisc_path(dir: &Path, ifindex: u32) -> PathBuf {
    dir.join(LINKS).join(format!("{QDISC}{ifindex}"))
}

/// Mode and interface that a pin's name states; `None`: it is no link.
fn named(path: &Path) -> Option<(Mode, u32)> {
    let (mode, ifindex) = path.file_name()?.to_str()?.split_once('-')?;
    let mode = Mode::ALL.into_iter().find(|it| it.name() == mode)?;
    Some((mode, ifindex.parse().ok()?))
}

/// What the pins in the folder are named; empty when there is none.
fn paths(dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let folder = dir.join(LINKS);
    let what = || format!("read {}", folder.display());
    let entries = match fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(what),
    };
    entries.map(|entry| Ok(entry.with_context(what)?.path())).collect()
}

/// The pins that a predecessor, or we, left.
///
/// # Errors
/// When the directory, a pin, or the filters of an interface cannot be read.
pub fn all(dir: &Path) -> anyhow::Result<Vec<Pinned>> {
    let mut pins = Vec::new();
    for path in paths(dir)? {
        let Some((mode, stated)) = named(&path) else { continue };
        let fd =
            sys::get(&path).with_context(|| format!("open the pinned link {}", path.display()))?;
        let ifindex = if mode == Mode::Clsact {
            let filter = clsact::filter(stated, &clsact::name(dir));
            let filter =
                filter.with_context(|| format!("read the tc filters of interface {stated}"))?;
            if filter.is_some() { stated } else { 0 }
        } else {
            sys::link_ifindex(&fd)
                .with_context(|| format!("ask for the link {}", path.display()))?
        };
        pins.push(Pinned { path, fd, ifindex, mode });
    }
    Ok(pins)
}

/// Whether one of the pins is a link of the program with this id. Pins that cannot be read are somebody else's.
pub fn has_program(dir: &Path, id: u32) -> bool {
    let paths = paths(dir).unwrap_or_default();
    let links =
        paths.iter().filter(|path| named(path).is_some_and(|(mode, _)| mode != Mode::Clsact));
    links
        .filter_map(|path| sys::get(path).ok())
        .any(|link| sys::link_program(&link).ok() == Some(id))
}

/// Interfaces on which a filter of ours was put, whether or not it can be read now.
///
/// # Errors
/// When the directory cannot be read.
pub fn filtered(dir: &Path) -> anyhow::Result<Vec<u32>> {
    let names = paths(dir)?.into_iter().filter_map(|path| named(&path));
    Ok(names.filter(|(mode, _)| *mode == Mode::Clsact).map(|it| it.1).collect())
}

/// Interfaces whose clsact qdisc is ours.
///
/// # Errors
/// When the directory cannot be read.
pub fn qdiscs(dir: &Path) -> anyhow::Result<Vec<u32>> {
    let index = |path: &PathBuf| path.file_name()?.to_str()?.strip_prefix(QDISC)?.parse().ok();
    Ok(paths(dir)?.iter().filter_map(index).collect())
}

/// Takes the program off an interface. Nothing to do when it is not there.
///
/// # Errors
/// That of the pin or the filter that could not be removed.
pub fn take_off(dir: &Path, mode: Mode, ifindex: u32) -> io::Result<()> {
    if mode == Mode::Clsact {
        clsact::detach(ifindex, &clsact::name(dir))?;
        remove_if_there(&path(dir, mode, ifindex))?;
        return drop_qdisc(dir, ifindex);
    }
    remove_if_there(&path(dir, mode, ifindex))
}

/// Removes an interface's clsact qdisc if it is ours, unless somebody else has a filter there by now: then it is theirs.
///
/// # Errors
/// That of the pin or the qdisc that could not be removed.
pub fn drop_qdisc(dir: &Path, ifindex: u32) -> io::Result<()> {
    let pin = qdisc_path(dir, ifindex);
    if pin.exists() {
        clsact::remove_qdisc_if_unused(ifindex)?;
    }
    remove_if_there(&pin)
}

/// Removes a file.
///
/// # Errors
/// That of the system, but for a file that is not there.
pub fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_is_found_by_its_name() {
        let dir = Path::new("/sys/fs/bpf/lbd");
        for mode in Mode::ALL {
            assert_eq!(named(&path(dir, mode, 17)), Some((mode, 17)));
        }
        for other in ["native", "native-", "native-x", "xdp-3", "-3"] {
            assert_eq!(named(Path::new(other)), None, "{other}");
        }
        assert_eq!(named(&qdisc_path(dir, 17)), None, "no link, and read by its own name");
    }
}
