//! Gets program and maps into the kernel, or takes over what a predecessor left there.
//!
//! Layout of `runtime.pin_dir`, all root only:
//!
//! | path | what |
//! |---|---|
//! | `MAP` | each map of [`lb_common::maps::ALL`] by its name |
//! | `lbd_xdp`, `lbd_xdp6`, `lbd_tc`, `lbd_tc6`, `lbd_clock` | the programs |
//! | `links/…` | one for each interface: see [`links`] |
//!
//! Take-over: the layout version in `control` must be ours. The same object: nothing is loaded,
//! the running program stays where it is. Another object: it is verified first, then each link
//! is switched to it in one step, then the pin, then the hash in `control` — a crash in between
//! leaves the old hash, so that the next start does it again. No packet meets an interface
//! without a program at any time.

use std::{
    fs, io,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::fs::DirBuilderExt as _,
    },
    path::Path,
};

use anyhow::{Context as _, bail};
use aya::{
    Ebpf, EbpfError, EbpfLoader,
    programs::{Program, ProgramError},
};
use lb_common::{
    abi::{Control, LAYOUT_VERSION, LEASE_ALWAYS},
    maps,
};
use nix::{
    errno::Errno,
    mount::{MsFlags, mount},
    sys::statfs::{FsType, statfs},
};
use tracing::{info, warn};

use super::{
    attach,
    links::{self, LINKS, Mode, Pinned},
    maps::Maps,
    object, sys,
};

/// Where lbd mounts bpffs if nobody has.
const BPFFS: &str = "/sys/fs/bpf";
const BPF_FS_MAGIC: i64 = 0xcafe_4a11;

/// Program and maps, ready for use.
pub struct Loaded {
    pub maps: Maps,
    pub program: OwnedFd,
    pub clock: OwnedFd,
    /// What was done: for the log and `lbctl status`.
    pub how: How,
}

/// How the program came to be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// Nothing was there.
    Fresh,
    /// A predecessor's program and maps, unchanged.
    Adopted,
    /// A predecessor's maps; its program was replaced by ours in one step.
    Replaced,
}

/// Loads or adopts. `flows` is the size of a new table of established connections.
///
/// # Errors
/// A sentence with object, attempt and cause: no object in this binary, no permission, no BPF,
/// no bpffs, pins of another layout that are still attached.
pub fn open(pin_dir: &Path, flows: u32) -> anyhow::Result<Loaded> {
    let bytes = object::bytes().map_err(anyhow::Error::msg)?;
    prepare(pin_dir)?;
    let hash = object::hash(bytes);
    let before = predecessor(pin_dir)?;
    if let Some(control) = before
        && control.object_hash == hash
        && let Some(loaded) = adopt(pin_dir)?
    {
        warn_about_size(&loaded.maps, flows);
        return Ok(loaded);
    }
    load(pin_dir, bytes, flows, hash, before.is_some())
}

fn warn_about_size(maps: &Maps, flows: u32) {
    let have = maps.flows_max();
    if have != u64::from(flows) {
        warn!(have, want = flows, "the flow table keeps its size until lbd is stopped and started");
    }
}

/// The control block of a predecessor whose maps fit ours.
fn predecessor(dir: &Path) -> anyhow::Result<Option<Control>> {
    let present: Vec<_> = maps::ALL.iter().filter(|name| dir.join(name).exists()).collect();
    let attached = links::all(dir)?.iter().any(|link| link.ifindex != 0);
    let control = dir
        .join(maps::CONTROL)
        .exists()
        .then(|| super::maps::array::<Control>(dir, maps::CONTROL)?.get(&0, 0).context("read it"));
    let found = match control {
        Some(Ok(control)) if control.layout_version == LAYOUT_VERSION => return Ok(Some(control)),
        Some(Ok(control)) => format!("of map layout {}", control.layout_version),
        Some(Err(error)) => format!("that cannot be read ({error:#})"),
        None if present.is_empty() && !attached => return Ok(None),
        None => "without a control block".to_owned(),
    };
    // A stop could not take everything off its interfaces: nobody uses a program whose maps are gone.
    let is_remains = present.is_empty();
    if attached && !is_remains {
        bail!(
            "take over the pins in {}: they are {found}, this lbd has layout {LAYOUT_VERSION}, and \
             its program is attached; stop the lbd that made them in order (or remove {} to give \
             up its connections)",
            dir.display(),
            dir.display()
        );
    }
    warn!(dir = %dir.display(), found, attached, "pins of another lbd, of no use any more, are removed");
    remove(dir)?;
    prepare(dir)?;
    Ok(None)
}

/// Everything is there and the same: open it. `None` when a pin is missing.
fn adopt(dir: &Path) -> anyhow::Result<Option<Loaded>> {
    let complete = maps::ALL
        .iter()
        .chain([&maps::PROGRAM, &maps::PROGRAM6, &maps::CLOCK_PROGRAM])
        .all(|name| dir.join(name).exists());
    let with_tc = dir.join(maps::PROGRAM_TC).exists();
    let complete = complete && (!with_tc || dir.join(maps::PROGRAM_TC6).exists());
    if cfg!(feature = "packet-log") {
        return Ok(None); // the log's ring buffer went with whoever loaded the program
    }
    if !complete {
        warn!(dir = %dir.display(), "a predecessor's pins are incomplete: the program is loaded anew");
        return Ok(None);
    }
    lead_to_ipv6(dir, maps::PROGRAM6, maps::PROGRAMS)?;
    if with_tc {
        lead_to_ipv6(dir, maps::PROGRAM_TC6, maps::PROGRAMS_TC)?;
    }
    let loaded = Loaded {
        maps: Maps::open(dir)?,
        program: pinned_program(dir, maps::PROGRAM)?,
        clock: pinned_program(dir, maps::CLOCK_PROGRAM)?,
        how: How::Adopted,
    };
    info!(dir = %dir.display(), "program and maps of a predecessor adopted");
    Ok(Some(loaded))
}

/// The program of tc's ingress, loaded when it is first asked for: a host whose interfaces all have XDP does not wait for
/// the verifier twice.
///
/// # Errors
/// A sentence with attempt and cause.
pub fn tc_program(dir: &Path) -> anyhow::Result<OwnedFd> {
    if !dir.join(maps::PROGRAM_TC).exists() {
        let bytes = object::bytes().map_err(anyhow::Error::msg)?;
        let mut loader = EbpfLoader::new();
        for name in maps::ALL {
            loader.map_pin_path(name, dir.join(name)); // they are there: the object gets those
        }
        let mut ebpf = loader.load(bytes).map_err(explain_load)?;
        #[cfg(feature = "packet-log")]
        super::packet_log::start(&mut ebpf)?;
        take_tc(dir, &mut ebpf)?;
    }
    pinned_program(dir, maps::PROGRAM_TC)
}

fn take_tc(dir: &Path, ebpf: &mut Ebpf) -> anyhow::Result<()> {
    take(dir, ebpf, maps::PROGRAM_TC6)?;
    lead_to_ipv6(dir, maps::PROGRAM_TC6, maps::PROGRAMS_TC)?;
    let program = take(dir, ebpf, maps::PROGRAM_TC)?;
    for link in links::all(dir)?.iter().filter(|it| it.ifindex != 0 && it.mode == Mode::Clsact) {
        attach::by_filter(dir, &program, link.ifindex).with_context(|| {
            format!("switch the tc filter of interface {} to the new program", link.ifindex)
        })?;
    }
    Ok(())
}

/// The program pinned under `name`.
///
/// # Errors
/// With the path.
pub fn pinned_program(dir: &Path, name: &str) -> anyhow::Result<OwnedFd> {
    let path = dir.join(name);
    sys::get(&path).with_context(|| format!("open the pinned program {}", path.display()))
}

fn load(dir: &Path, bytes: &[u8], flows: u32, hash: u64, replaces: bool) -> anyhow::Result<Loaded> {
    let mut loader = EbpfLoader::new();
    for name in [maps::FLOWS4, maps::FLOWS6] {
        loader.map_max_entries(name, flows.max(1024));
    }
    let cpus = aya::util::nr_cpus().map_err(|(file, error)| {
        anyhow::Error::new(error).context(format!("count the CPUs by {file}"))
    })?;
    let shares = |share| u32::try_from(cpus).unwrap_or(u32::MAX).saturating_mul(share);
    for name in [maps::EMBRYO4, maps::EMBRYO6] {
        loader.map_max_entries(name, maps::EMBRYO_DEFAULT.max(shares(maps::EMBRYO_SHARE)));
    }
    let tentative = maps::TENTATIVE_DEFAULT.max(shares(maps::TENTATIVE_SHARE));
    loader.map_max_entries(maps::TENTATIVE, tentative);
    for name in maps::ALL {
        loader.map_pin_path(name, dir.join(name));
    }
    let mut ebpf = loader.load(bytes).map_err(explain_load)?;
    #[cfg(feature = "packet-log")]
    super::packet_log::start(&mut ebpf)?;
    take(dir, &mut ebpf, maps::PROGRAM6)?;
    lead_to_ipv6(dir, maps::PROGRAM6, maps::PROGRAMS)?;
    let program = take(dir, &mut ebpf, maps::PROGRAM)?;
    if dir.join(maps::PROGRAM_TC).exists() {
        take_tc(dir, &mut ebpf)?;
    }
    let clock = take(dir, &mut ebpf, maps::CLOCK_PROGRAM)?;
    drop(ebpf);
    let mut maps = Maps::open(dir)?;
    maps.lease.set(0, LEASE_ALWAYS, 0).context("write to the map lease")?;
    let was = maps.control().context("read the map control")?;
    maps.set_control(Control { layout_version: LAYOUT_VERSION, object_hash: hash, ..was })
        .context("write to the map control")?;
    let how = if replaces { How::Replaced } else { How::Fresh };
    info!(dir = %dir.display(), ?how, "kernel program loaded");
    Ok(Loaded { maps, program, clock, how })
}

/// Loads a program, puts it in the place of a predecessor's on every link, and pins it.
fn take(dir: &Path, ebpf: &mut Ebpf, name: &str) -> anyhow::Result<OwnedFd> {
    let program = ebpf
        .program_mut(name)
        .with_context(|| format!("the kernel object has no program {name}"))?;
    match program {
        Program::Xdp(program) => program.load(),
        Program::SchedClassifier(program) => program.load(),
        _ => bail!("the program {name} is neither of XDP nor of tc"),
    }
    .map_err(|error| explain_program(name, error))?;
    let path = dir.join(name);
    let fresh = dir.join(format!("{name}_new"));
    remove_if_there(&fresh)?;
    let fd = program.fd().with_context(|| format!("use the program {name}"))?;
    sys::pin(fd.as_fd(), &fresh).with_context(|| format!("pin {}", fresh.display()))?;
    if [maps::PROGRAM, maps::PROGRAM_TC].contains(&name) {
        let of_tc = name == maps::PROGRAM_TC;
        let ours = |link: &&Pinned| link.ifindex != 0 && link.mode.is_tc() == of_tc;
        for link in links::all(dir)?.iter().filter(ours) {
            if link.mode == Mode::Clsact {
                continue; // below
            }
            sys::update_link(&link.fd, fd.as_fd()).with_context(|| {
                format!("switch the link {} to the new program", link.path.display())
            })?;
        }
    }
    fs::rename(&fresh, &path)
        .with_context(|| format!("rename {} to {}", fresh.display(), path.display()))?;
    pinned_program(dir, name)
}

/// Puts the pinned program for IPv6 where the other one looks for it. One that a predecessor left there fits
/// the same maps, so that packets may meet either.
fn lead_to_ipv6(dir: &Path, program: &str, map: &str) -> anyhow::Result<()> {
    let program = pinned_program(dir, program)?;
    let programs = super::maps::descriptor(dir, map)?;
    sys::set_program(&programs, maps::PROGRAM6_INDEX, &program)
        .with_context(|| format!("write to the map {map}"))
}

pub(super) fn errno(error: &(dyn std::error::Error + 'static)) -> Option<Errno> {
    std::iter::successors(Some(error), |error| error.source())
        .find_map(|error| error.downcast_ref::<io::Error>()?.raw_os_error())
        .map(Errno::from_raw)
}

pub(super) fn explain_load(error: EbpfError) -> anyhow::Error {
    let hint = match errno(&error) {
        Some(Errno::EPERM | Errno::EACCES) => {
            "no permission: lbd needs root, or CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON"
        }
        Some(Errno::ENOSYS) => "this kernel has no BPF (CONFIG_BPF_SYSCALL)",
        Some(Errno::ENOMEM) => "no memory for the maps; a smaller lvs_flow_table needs less",
        _ => "the kernel refused it",
    };
    anyhow::Error::new(error).context(format!("create the maps of the kernel program: {hint}"))
}

pub(super) fn explain_program(name: &str, error: ProgramError) -> anyhow::Error {
    let hint = match errno(&error) {
        Some(Errno::EPERM | Errno::EACCES) => {
            "no permission (CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON), or the verifier rejected it"
        }
        Some(Errno::EINVAL) => {
            "this kernel does not know something it uses; before 5.18 that is XDP for packets in several buffers \
             (BPF_F_XDP_HAS_FRAGS)"
        }
        _ => "the kernel refused it",
    };
    anyhow::Error::new(error).context(format!("load the program {name}: {hint}"))
}

/// bpffs is there and our directories in it.
fn prepare(dir: &Path) -> anyhow::Result<()> {
    mount_bpffs(dir)?;
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true).mode(0o700);
    let links = dir.join(LINKS);
    builder.create(&links).with_context(|| {
        format!("make the directory {} (names on bpffs have no dots)", links.display())
    })
}

fn mount_bpffs(dir: &Path) -> anyhow::Result<()> {
    let existing = dir.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    let kind = statfs(existing).with_context(|| format!("look at {}", existing.display()))?;
    if kind.filesystem_type() == FsType(BPF_FS_MAGIC as _) {
        return Ok(());
    }
    if !dir.starts_with(BPFFS) {
        bail!("{} is not on a BPF file system", existing.display());
    }
    mount(Some("bpf"), BPFFS, Some("bpf"), MsFlags::empty(), Some("mode=0700")).with_context(
        || format!("mount bpffs at {BPFFS} (root is needed, and a kernel with CONFIG_BPF_SYSCALL)"),
    )?;
    info!("bpffs mounted at {BPFFS}");
    Ok(())
}

fn remove_if_there(path: &Path) -> anyhow::Result<()> {
    links::remove_if_there(path).with_context(|| format!("remove {}", path.display()))
}

/// Detaches from every interface and removes every pin.
///
/// # Errors
/// The first path that could not be removed; the others are still tried.
pub fn remove(dir: &Path) -> anyhow::Result<()> {
    let mut first = Ok(());
    let mut note = |result: anyhow::Result<()>| {
        if first.is_ok() {
            first = result;
        }
    };
    // Links before everything: an interface never has our program with its maps half gone. What has no link of its own
    // does not go with its pin; the pin of what cannot be taken off stays, so that somebody can.
    let mut kept = Vec::new();
    match links::filtered(dir) {
        Ok(filtered) => {
            for ifindex in filtered {
                let gone = links::take_off(dir, Mode::Clsact, ifindex);
                if gone.is_err() {
                    kept.push(links::path(dir, Mode::Clsact, ifindex));
                }
                note(gone.with_context(|| format!("take the tc filter off interface {ifindex}")));
            }
        }
        Err(error) => note(Err(error)),
    }
    // Those whose filter somebody else has removed.
    for ifindex in links::qdiscs(dir).unwrap_or_default() {
        let gone = links::drop_qdisc(dir, ifindex);
        if gone.is_err() {
            kept.push(links::qdisc_path(dir, ifindex));
        }
        note(gone.with_context(|| format!("remove the clsact qdisc of interface {ifindex}")));
    }
    for folder in [dir.join(LINKS), dir.to_owned()] {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for entry in entries.flatten() {
            let path = entry.path();
            if entry.file_type().is_ok_and(|kind| !kind.is_dir()) && !kept.contains(&path) {
                note(remove_if_there(&path));
            }
        }
        note(fs::remove_dir(&folder).with_context(|| format!("remove {}", folder.display())));
    }
    first
}
