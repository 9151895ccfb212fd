//! The program on interfaces: which hook, attach, detach, what is attached.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::fd::OwnedFd,
    path::Path,
};

use nix::{
    errno::Errno,
    net::if_::{if_indextoname, if_nametoindex},
};
use thiserror::Error;
use tracing::{info, warn};

use super::{
    clsact,
    links::{self, Mode},
    loader, sys,
};
use crate::{
    config::model::{Attachment, Hook, XdpMode},
    dataplane::FailureKind,
};

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
        "attach to {0}: its driver has no native XDP; `lvs_hook tc` works on every interface that carries Ethernet"
    )]
    Unsupported(String),
    #[error("attach to {0}: no permission (CAP_NET_ADMIN and CAP_BPF are needed)")]
    Denied(String),
    #[error("attach to {0}: {1}; this may pass, lbd tries again")]
    Passing(String, String),
    #[error("attach to {0}: {1}, and {2}")]
    Neither(String, String, String),
    #[error(
        "attach to {0}: the driver refused ({1}); the usual causes are an MTU above one page, LRO, \
         or too few queues"
    )]
    Refused(String, io::Error),
    #[error("attach to {0}: tc is for interfaces that carry Ethernet, and this one does not")]
    NoEthernet(String),
    #[error(
        "attach to {0}: the kernel has neither tcx (6.6) nor the modules sch_ingress and cls_bpf ({1})"
    )]
    NoTc(String, io::Error),
    #[error("attach to {0}: {1}")]
    Load(String, String),
    #[error("attach to {0}: tc refused ({1})")]
    Tc(String, io::Error),
    #[error("attach to {0}: {1}")]
    Pins(String, io::Error),
}

impl AttachError {
    /// Whether trying again may help.
    pub fn kind(&self) -> FailureKind {
        match self {
            Self::Missing(_) => FailureKind::Absent,
            Self::Unsupported(_)
            | Self::Denied(_)
            | Self::NoEthernet(_)
            | Self::NoTc(..)
            | Self::Neither(..)
            | Self::Load(..) => FailureKind::Hopeless,
            Self::Busy { .. }
            | Self::Refused(..)
            | Self::Passing(..)
            | Self::Tc(..)
            | Self::Pins(..) => FailureKind::Passing,
        }
    }
}

/// What the kernel says of a moment: an interface that is being set up or reset, or a shortage.
pub(super) fn is_of_the_moment(errno: Errno) -> bool {
    use Errno::*;
    matches!(
        errno,
        EAGAIN | EINTR | ENOMEM | ENOBUFS | EMFILE | ENFILE | ETIMEDOUT | ENETDOWN | EBUSY
    )
}

/// Failed attempts on an interface after which an error of the moment is taken for a refusal: with the rounds' back-off, some
/// 15 s. Some drivers say ENOMEM for too few queues, and never anything else.
pub const PATIENCE: u32 = 8;

/// Drivers that would have to make XDP's frames out of the kernel's packets and back, and that give up segmentation and
/// checksum offload for it: a fifth of the bulk rate, measured on veth.
pub const SOFTWARE: [&str; 3] = ["veth", "bridge", "tun"];

/// What is tried on an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    Xdp(Mode),
    /// Native XDP, and tc where the driver refuses it.
    XdpElseTc,
    /// tc, and native XDP on a host without it.
    TcElseXdp,
    Tc,
}

impl Choice {
    /// Whether it is what is tried first.
    fn begins_with(self, mode: Mode) -> bool {
        match self {
            Self::Xdp(wanted) => mode == wanted,
            Self::XdpElseTc => mode == Mode::Native,
            Self::Tc | Self::TcElseXdp => mode.is_tc(),
        }
    }
}

/// What the choice for an interface depends on beside it: XDP can send frames only to where XDP is, tc to everywhere.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Around {
    /// Another interface that has tc.
    pub has_tc: Option<String>,
    /// Another one that is about to be attached, and would have it.
    pub will_have_tc: Option<String>,
    /// Why tc is not to be had on this host, where that is known.
    pub no_tc: Option<String>,
    /// So many attempts on it have failed.
    pub tries: u32,
}

impl Around {
    /// The interface for whose sake others have tc too.
    fn company(&self) -> Option<&str> {
        let will = self.will_have_tc.as_deref().filter(|_| self.no_tc.is_none());
        self.has_tc.as_deref().or(will)
    }
}

/// Whether an interface is one of [`SOFTWARE`].
pub fn is_software(interface: &str) -> bool {
    sys::driver(interface).is_ok_and(|driver| SOFTWARE.contains(&driver.as_str()))
}

/// What the operator's word means on an interface with that driver (empty: it has no name), and why.
pub fn choose(wanted: Attachment, driver: &str, around: &Around) -> (Choice, String) {
    match (wanted.hook, wanted.xdp_mode) {
        (Hook::Tc, _) => (Choice::Tc, "lvs_hook tc".to_owned()),
        (_, XdpMode::Generic) => (Choice::Xdp(Mode::Generic), "lvs_xdp_mode generic".to_owned()),
        (_, XdpMode::Native) => (Choice::Xdp(Mode::Native), "lvs_xdp_mode native".to_owned()),
        (Hook::Xdp, XdpMode::Auto) => (Choice::Xdp(Mode::Native), "lvs_hook xdp".to_owned()),
        (Hook::Auto, XdpMode::Auto) => {
            // Where one has it, it is to be had; native XDP beside it would send nothing there.
            let tc = if around.has_tc.is_some() { Choice::Tc } else { Choice::TcElseXdp };
            let is_software = SOFTWARE.contains(&driver);
            match (around.company(), &around.no_tc) {
                (None, Some(why)) if is_software => {
                    (Choice::Xdp(Mode::Native), instead_of_tc(driver, why))
                }
                _ if is_software => (tc, format!("driver {driver}: XDP would cost its offloads")),
                (Some(other), _) => {
                    (tc, format!("{other} has tc, and XDP sends to where XDP is only"))
                }
                (None, _) => {
                    let driver = if driver.is_empty() { "without a name" } else { driver };
                    (Choice::XdpElseTc, format!("driver {driver} takes native XDP"))
                }
            }
        }
    }
}

fn instead_of_tc(driver: &str, why: &str) -> String {
    format!(
        "driver {driver}: tc would keep its offloads, but {why}; where connections hang, \
         `ethtool -K PEER gro on tx off` at its other end"
    )
}

/// Whether what is on an interface is as the operator wants it. `auto` keeps what a predecessor chose, but no XDP where
/// another interface has tc.
pub fn fits(wanted: Attachment, mode: Mode, around: &Around) -> bool {
    match choose(wanted, "", around).0 {
        Choice::Xdp(wanted) => mode == wanted,
        Choice::XdpElseTc | Choice::TcElseXdp => mode != Mode::Generic,
        Choice::Tc => mode.is_tc(),
    }
}

/// Why the program is on an interface in a mode, where that is what is tried there first.
pub fn first_choice(
    wanted: Attachment,
    interface: &str,
    mode: Mode,
    around: &Around,
) -> Option<String> {
    let driver = sys::driver(interface).unwrap_or_default();
    let (choice, reason) = choose(wanted, &driver, around);
    choice.begins_with(mode).then_some(reason)
}

/// What of ours is on an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct On {
    pub ifindex: u32,
    /// In the order in which a packet meets them. More than one while one takes the other's place.
    pub modes: Vec<Mode>,
}

/// What is on the interfaces, by name.
///
/// Pins whose interface is gone are removed, and a qdisc of ours from which somebody has removed our filter.
///
/// # Errors
/// When the pins cannot be read.
pub fn attached(dir: &Path) -> anyhow::Result<BTreeMap<String, On>> {
    let mut found = BTreeMap::<String, On>::new();
    let mut filtered = BTreeSet::new();
    for link in links::all(dir)? {
        let name = (link.ifindex != 0)
            .then(|| if_indextoname(link.ifindex).ok()?.into_string().ok())
            .flatten();
        match name {
            Some(name) => {
                let on = On { ifindex: link.ifindex, modes: Vec::new() };
                let on = found.entry(name).or_insert(on);
                on.modes.push(link.mode);
                on.modes.sort_unstable();
                if link.mode == Mode::Clsact {
                    filtered.insert(link.ifindex);
                }
            }
            None => {
                info!(pin = %link.path.display(), "the interface of this link is gone");
                if let Err(error) = fs::remove_file(&link.path) {
                    warn!(pin = %link.path.display(), %error, "cannot remove the pin");
                }
            }
        }
    }
    for ifindex in links::qdiscs(dir)? {
        if !filtered.contains(&ifindex)
            && let Err(error) = links::drop_qdisc(dir, ifindex)
        {
            warn!(ifindex, %error, "cannot remove a clsact qdisc that lbd has made");
        }
    }
    Ok(found)
}

/// How the program came to be on an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    pub mode: Mode,
    pub reason: String,
    /// Why tc is not to be had on this host, where that was found out.
    pub no_tc: Option<String>,
}

/// Puts the program on an interface as the operator wants it. What of ours was there in another way goes: after it where
/// both can be there (XDP and tc), so that no packet passes unlooked at, else before it.
///
/// # Errors
/// [`AttachError`]; `other` describes a program that is in the way, if one is known.
pub fn attach(
    dir: &Path,
    program: &OwnedFd,
    interface: &str,
    wanted: Attachment,
    around: &Around,
    other: impl Fn() -> Option<String>,
) -> Result<Placed, AttachError> {
    let name = || interface.to_owned();
    let ifindex = if_nametoindex(interface).map_err(|_| AttachError::Missing(name()))?;
    let driver = sys::driver(interface).unwrap_or_default();
    let (choice, reason) = choose(wanted, &driver, around);
    // Half of a change of hooks may be done: what was to come is there, what was to go is too.
    let here = links::all(dir).unwrap_or_default();
    let mut here = here.iter().filter(|link| link.ifindex == ifindex).map(|link| link.mode);
    let placed = match here.find(|mode| choice.begins_with(*mode)) {
        Some(mode) => Placed { mode, reason, no_tc: None },
        None => place(
            interface,
            (choice, reason),
            &driver,
            around.tries,
            |mode| xdp(dir, program, interface, ifindex, mode, &other),
            || tc(dir, interface, ifindex),
        )?,
    };
    for stale in Mode::ALL.into_iter().filter(|it| *it != placed.mode) {
        links::take_off(dir, stale, ifindex).map_err(|error| AttachError::Pins(name(), error))?;
    }
    let Placed { mode, reason, .. } = &placed;
    info!(interface, ifindex, mode = mode.name(), reason, "attached");
    Ok(placed)
}

/// Carries a choice out, or what comes second where the first is refused for good.
fn place(
    interface: &str,
    (choice, reason): (Choice, String),
    driver: &str,
    tries: u32,
    xdp: impl Fn(Mode) -> Result<(), AttachError>,
    tc: impl Fn() -> Result<Mode, AttachError>,
) -> Result<Placed, AttachError> {
    let placed = |mode, reason| Placed { mode, reason, no_tc: None };
    let lost = |error: &AttachError| match error {
        AttachError::Passing(..) | AttachError::Tc(..) => tries >= PATIENCE,
        error => error.kind() == FailureKind::Hopeless,
    };
    match choice {
        Choice::Tc => tc().map(|mode| placed(mode, reason)),
        Choice::Xdp(mode) => xdp(mode).map(|()| placed(mode, reason)),
        Choice::XdpElseTc => {
            let why = match xdp(Mode::Native) {
                Ok(()) => return Ok(placed(Mode::Native, reason)),
                Err(AttachError::Unsupported(_)) => format!("driver {driver} has no native XDP"),
                Err(AttachError::Refused(_, error)) => {
                    format!("driver {driver} refused native XDP: {error}")
                }
                Err(AttachError::Passing(_, error)) if tries >= PATIENCE => {
                    format!("driver {driver} refused native XDP: {error}")
                }
                Err(error) => return Err(error),
            };
            match tc() {
                Ok(mode) => Ok(placed(mode, why)),
                Err(error) if is_without(&error) => {
                    Err(AttachError::Neither(interface.to_owned(), why, cause(&error)))
                }
                Err(error) => Err(error),
            }
        }
        Choice::TcElseXdp => {
            let why = match tc() {
                Ok(mode) => return Ok(placed(mode, reason)),
                // XDP wants Ethernet too.
                Err(error @ AttachError::NoEthernet(_)) => return Err(error),
                Err(error) if lost(&error) => cause(&error),
                Err(error) => return Err(error),
            };
            match xdp(Mode::Native) {
                Ok(()) => Ok(Placed {
                    mode: Mode::Native,
                    reason: instead_of_tc(driver, &why),
                    no_tc: Some(why),
                }),
                Err(AttachError::Unsupported(_)) => {
                    let xdp = format!("driver {driver} has no native XDP");
                    Err(AttachError::Neither(interface.to_owned(), xdp, why))
                }
                Err(error) => Err(error),
            }
        }
    }
}

/// Whether the host is without tc, rather than the interface.
fn is_without(error: &AttachError) -> bool {
    matches!(error, AttachError::NoTc(..) | AttachError::Load(..))
}

/// An error without what was attempted.
fn cause(error: &AttachError) -> String {
    let text = error.to_string();
    text.split_once(": ").map(|it| it.1.to_owned()).unwrap_or(text)
}

fn xdp(
    dir: &Path,
    program: &OwnedFd,
    interface: &str,
    ifindex: u32,
    mode: Mode,
    other: impl FnOnce() -> Option<String>,
) -> Result<(), AttachError> {
    let name = || interface.to_owned();
    let pins = |error| AttachError::Pins(name(), error);
    for stale in [Mode::Native, Mode::Generic] {
        links::take_off(dir, stale, ifindex).map_err(pins)?;
    }
    let generic = mode == Mode::Generic;
    let link = sys::attach_xdp(program, ifindex, generic)
        .map_err(|error| refusal(interface, error, other))?;
    sys::pin(&link, &links::path(dir, mode, ifindex)).map_err(pins)
}

fn tc(dir: &Path, interface: &str, ifindex: u32) -> Result<Mode, AttachError> {
    let name = || interface.to_owned();
    if sys::is_ethernet(interface).is_ok_and(|is| !is) {
        return Err(AttachError::NoEthernet(name()));
    }
    let pins = |error| AttachError::Pins(name(), error);
    let program = &loader::tc_program(dir).map_err(|error| {
        let text = format!("{error:#}");
        match loader::errno(error.as_ref()) {
            Some(errno) if is_of_the_moment(errno) => AttachError::Passing(name(), text),
            _ => AttachError::Load(name(), text),
        }
    })?;
    let path = links::path(dir, Mode::Tcx, ifindex);
    links::remove_if_there(&path).map_err(pins)?;
    match sys::attach_tcx(program, ifindex) {
        Ok(link) => return sys::pin(&link, &path).map_err(pins).map(|()| Mode::Tcx),
        // What a kernel says that does not know the kind of link, or was built without.
        Err(error) if is(&error, Errno::EINVAL) || is(&error, Errno::EOPNOTSUPP) => {}
        Err(error) => return Err(tc_error(interface, error)),
    }
    by_filter(dir, program, ifindex).map_err(|error| tc_error(interface, error))
}

/// Puts tc's program on an interface by a filter, in the place of one of ours that is there.
///
/// # Errors
/// That of netlink, or of a pin; all is as before then.
pub fn by_filter(dir: &Path, program: &OwnedFd, ifindex: u32) -> io::Result<Mode> {
    let name = clsact::name(dir);
    let (path, qdisc) = (links::path(dir, Mode::Clsact, ifindex), links::qdisc_path(dir, ifindex));
    // First the pins that say so: what has none would be forgotten if we died now.
    if !clsact::has_qdisc(ifindex)? {
        links::remove_if_there(&qdisc)?;
        sys::pin(program, &qdisc)?;
        let made = clsact::make_qdisc(ifindex);
        if !matches!(made, Ok(true)) {
            links::remove_if_there(&qdisc)?; // somebody else's by now, or nobody's
        }
        made?;
    }
    let before = clsact::filter(ifindex, &name)?;
    let pinned = if path.exists() { Ok(()) } else { sys::pin(program, &path) };
    if let Err(error) = pinned.and_then(|()| clsact::put(ifindex, program, &name, before)) {
        // What was there before still is, and so is its pin.
        if before.is_none() {
            links::remove_if_there(&path)?;
            links::drop_qdisc(dir, ifindex)?;
        }
        return Err(error);
    }
    // The pin keeps a program in memory: this one from now on.
    let fresh = path.with_file_name(format!("{}-{ifindex}_new", Mode::Clsact));
    links::remove_if_there(&fresh)?;
    sys::pin(program, &fresh)?;
    fs::rename(&fresh, &path)?;
    Ok(Mode::Clsact)
}

fn is(error: &io::Error, errno: Errno) -> bool {
    error.raw_os_error() == Some(errno as i32)
}

fn tc_error(interface: &str, error: io::Error) -> AttachError {
    let name = interface.to_owned();
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EPERM | Errno::EACCES) => AttachError::Denied(name),
        Some(Errno::ENODEV) => AttachError::Missing(name),
        Some(Errno::ENOENT | Errno::EOPNOTSUPP) => AttachError::NoTc(name, error),
        Some(errno) if is_of_the_moment(errno) => AttachError::Passing(name, error.to_string()),
        _ => AttachError::Tc(name, error),
    }
}

/// What the kernel's word means. `other`: the program that is there already, if one is known.
pub(super) fn refusal(
    interface: &str,
    error: io::Error,
    other: impl FnOnce() -> Option<String>,
) -> AttachError {
    let interface = interface.to_owned();
    let busy = |interface, other| AttachError::Busy { interface, other };
    match error.raw_os_error().map(Errno::from_raw) {
        // Also what a driver says that is at something else.
        Some(Errno::EBUSY) => match other() {
            Some(other) => busy(interface, other),
            None => AttachError::Passing(interface, error.to_string()),
        },
        Some(Errno::EEXIST) => busy(interface, other().unwrap_or("another XDP program".to_owned())),
        Some(Errno::EOPNOTSUPP) => AttachError::Unsupported(interface),
        Some(Errno::EPERM | Errno::EACCES) => AttachError::Denied(interface),
        Some(Errno::ENODEV) => AttachError::Missing(interface),
        Some(errno) if is_of_the_moment(errno) => {
            AttachError::Passing(interface, error.to_string())
        }
        _ => AttachError::Refused(interface, error),
    }
}

/// Takes the program off an interface; nothing to do when it is not there.
///
/// # Errors
/// When a pin or a filter cannot be removed.
pub fn detach(dir: &Path, interface: &str) -> anyhow::Result<()> {
    let Ok(ifindex) = if_nametoindex(interface) else { return Ok(()) };
    let here = |link: &links::Pinned| link.ifindex == ifindex;
    for link in links::all(dir)?.into_iter().filter(here) {
        links::take_off(dir, link.mode, ifindex)?;
        info!(interface, mode = link.mode.name(), "detached");
    }
    Ok(())
}

#[cfg(test)]
mod tests;
