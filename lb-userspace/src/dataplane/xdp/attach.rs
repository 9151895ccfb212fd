//! The program on interfaces: attach, detach, what is attached.

use std::{collections::BTreeMap, fs, io, os::fd::OwnedFd, path::Path};

use nix::{
    errno::Errno,
    net::if_::{if_indextoname, if_nametoindex},
};
use thiserror::Error;
use tracing::{info, warn};

use super::{loader, sys};
use crate::dataplane::FailureKind;

/// Why an interface has not our program.
#[derive(Debug, Error)]
pub enum AttachError {
    #[error("attach to {0}: there is no such interface")]
    Missing(String),
    #[error(
        "attach to {interface}: {other} is there and is left alone; `ip link set dev {interface} xdp off` removes it"
    )]
    Busy { interface: String, other: String },
    #[error(
        "attach to {0}: its driver has no native XDP; `lvs_xdp_mode generic` works everywhere, \
         at several times the cost"
    )]
    Unsupported(String),
    #[error("attach to {0}: no permission (CAP_NET_ADMIN and CAP_BPF are needed)")]
    Denied(String),
    #[error(
        "attach to {0}: the driver refused ({1}); the usual causes are an MTU above one page, LRO, \
         or too few queues"
    )]
    Refused(String, io::Error),
    #[error("attach to {0}: {1}")]
    Pins(String, io::Error),
}

impl AttachError {
    /// Whether trying again may help.
    pub fn kind(&self) -> FailureKind {
        match self {
            Self::Missing(_) => FailureKind::Absent,
            Self::Unsupported(_) | Self::Denied(_) => FailureKind::Hopeless,
            Self::Busy { .. } | Self::Refused(..) | Self::Pins(..) => FailureKind::Passing,
        }
    }
}

/// What is on the interfaces: name → (index, generic).
///
/// Pins whose interface is gone are removed.
///
/// # Errors
/// When the pins cannot be read.
pub fn attached(dir: &Path) -> anyhow::Result<BTreeMap<String, (u32, bool)>> {
    let mut found = BTreeMap::new();
    for link in loader::links(dir)? {
        let name = (link.ifindex != 0)
            .then(|| if_indextoname(link.ifindex).ok()?.into_string().ok())
            .flatten();
        match name {
            Some(name) => drop(found.insert(name, (link.ifindex, link.generic))),
            None => {
                info!(pin = %link.path.display(), "the interface of this link is gone");
                if let Err(error) = fs::remove_file(&link.path) {
                    warn!(pin = %link.path.display(), %error, "cannot remove the pin");
                }
            }
        }
    }
    Ok(found)
}

/// Puts `program` on an interface. A link of ours in the other mode is taken off first: the kernel
/// does not have both, so packets pass unlooked at for that moment.
///
/// # Errors
/// [`AttachError`]; `other` describes a program that is in the way.
pub fn attach(
    dir: &Path,
    program: &OwnedFd,
    interface: &str,
    generic: bool,
    other: impl FnOnce() -> String,
) -> Result<(), AttachError> {
    let name = || interface.to_owned();
    let ifindex = if_nametoindex(interface).map_err(|_| AttachError::Missing(name()))?;
    let path = loader::link_path(dir, ifindex, generic);
    for stale in [&path, &loader::link_path(dir, ifindex, !generic)] {
        match fs::remove_file(stale) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(AttachError::Pins(name(), error));
            }
            _ => {}
        }
    }
    let link = sys::attach_xdp(program, ifindex, generic).map_err(|error| {
        match error.raw_os_error().map(Errno::from_raw) {
            Some(Errno::EBUSY | Errno::EEXIST) => {
                AttachError::Busy { interface: name(), other: other() }
            }
            Some(Errno::EOPNOTSUPP) => AttachError::Unsupported(name()),
            Some(Errno::EPERM | Errno::EACCES) => AttachError::Denied(name()),
            Some(Errno::ENODEV) => AttachError::Missing(name()),
            _ => AttachError::Refused(name(), error),
        }
    })?;
    sys::pin(&link, &path).map_err(|error| AttachError::Pins(name(), error))?;
    info!(interface, ifindex, mode = if generic { "generic" } else { "native" }, "attached");
    Ok(())
}

/// Takes the program off an interface; nothing to do when it is not there.
///
/// # Errors
/// When a pin cannot be removed.
pub fn detach(dir: &Path, interface: &str) -> anyhow::Result<()> {
    if let Some((ifindex, generic)) = attached(dir)?.remove(interface) {
        fs::remove_file(loader::link_path(dir, ifindex, generic))?;
        info!(interface, "detached");
    }
    Ok(())
}
