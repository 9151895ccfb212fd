//! Thin wrappers of bpf(2) for what aya 0.14 has not or hides: batched look-ups (one call for
//! thousands of entries instead of one each; 0.35 µs against 1.5 µs an entry), links and pins as plain
//! descriptors (their errno decides what an operator is told), the interface of an XDP link,
//! run-time statistics and test runs of a pinned program.
#![allow(unsafe_code, reason = "system calls without a safe wrapper in any library of ours")]

use std::{
    ffi::CString,
    io,
    mem::MaybeUninit,
    os::{
        fd::{AsFd, AsRawFd as _, FromRawFd as _, OwnedFd, RawFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use aya::Pod;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

// enum bpf_cmd (linux/bpf.h).
const MAP_UPDATE_ELEM: libc::c_int = 2;
const OBJ_PIN: libc::c_int = 6;
const OBJ_GET: libc::c_int = 7;
const PROG_TEST_RUN: libc::c_int = 10;
const OBJ_GET_INFO_BY_FD: libc::c_int = 15;
const PROG_QUERY: libc::c_int = 16;
const MAP_LOOKUP_BATCH: libc::c_int = 24;
const LINK_CREATE: libc::c_int = 28;
const LINK_UPDATE: libc::c_int = 29;

/// `BPF_XDP` of enum bpf_attach_type.
const ATTACH_XDP: u32 = 37;
/// `BPF_TCX_INGRESS`.
const ATTACH_TCX_INGRESS: u32 = 46;
/// Before every program that is there.
const FLAG_BEFORE: u32 = 1 << 3;
const XDP_FLAGS_SKB_MODE: u32 = 1 << 1;
const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;

/// `union bpf_attr`, batch part (linux/bpf.h).
#[repr(C)]
#[derive(Default)]
struct BatchAttr {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// `union bpf_attr`, info part.
#[repr(C)]
struct InfoAttr {
    bpf_fd: u32,
    info_len: u32,
    info: u64,
}

/// `union bpf_attr`, part of one element.
#[repr(C)]
struct ElementAttr {
    map_fd: u32,
    pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// `union bpf_attr`, pin part.
#[repr(C)]
struct PinAttr {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

/// `union bpf_attr`, link creation.
#[repr(C)]
struct LinkAttr {
    prog_fd: u32,
    target_ifindex: u32,
    attach_type: u32,
    flags: u32,
}

/// `union bpf_attr`, link update.
#[repr(C)]
struct UpdateAttr {
    link_fd: u32,
    new_prog_fd: u32,
    flags: u32,
    old_prog_fd: u32,
}

/// `union bpf_attr`, test run, up to `duration`.
#[repr(C)]
struct RunAttr {
    prog_fd: u32,
    retval: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
}

/// `union bpf_attr`, query, whole: the kernel writes to its end.
#[repr(C)]
#[derive(Default)]
struct QueryAttr {
    target_ifindex: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    count: u32,
    pad: u32,
    prog_attach_flags: u64,
    link_ids: u64,
    link_attach_flags: u64,
    revision: u64,
    /// Of kernels to come.
    room: [u64; 8],
}

fn bpf<A>(command: libc::c_int, attr: &mut A) -> io::Result<libc::c_long> {
    // SAFETY: `attr` is a repr(C) prefix of union bpf_attr of the size told to the kernel, which
    // takes missing bytes as zero; the pointers in it are valid for the counts in it (callers).
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<A>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn bpf_fd<A>(command: libc::c_int, attr: &mut A) -> io::Result<OwnedFd> {
    let fd = bpf(command, attr)? as RawFd;
    // SAFETY: the command returned a new descriptor that nobody else has.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn raw(fd: impl AsFd) -> u32 {
    fd.as_fd().as_raw_fd() as u32
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes())
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "path with a NUL"))
}

/// Opens a pinned map, program or link.
///
/// # Errors
/// That of bpf(2).
pub fn get(path: &Path) -> io::Result<OwnedFd> {
    let path = c_path(path)?;
    bpf_fd(OBJ_GET, &mut PinAttr { pathname: path.as_ptr() as u64, bpf_fd: 0, file_flags: 0 })
}

/// Pins a map, program or link.
///
/// # Errors
/// That of bpf(2).
pub fn pin(object: impl AsFd, path: &Path) -> io::Result<()> {
    let path = c_path(path)?;
    let mut attr = PinAttr { pathname: path.as_ptr() as u64, bpf_fd: raw(object), file_flags: 0 };
    bpf(OBJ_PIN, &mut attr).map(drop)
}

/// Puts a program into a PROG_ARRAY, which aya does only with programs that it has loaded or attached itself.
///
/// # Errors
/// That of bpf(2).
pub fn set_program(map: impl AsFd, index: u32, program: impl AsFd) -> io::Result<()> {
    let program = raw(program);
    let mut attr = ElementAttr {
        map_fd: raw(map),
        pad: 0,
        key: std::ptr::from_ref(&index) as u64,
        value: std::ptr::from_ref(&program) as u64,
        flags: 0,
    };
    bpf(MAP_UPDATE_ELEM, &mut attr).map(drop)
}

/// Attaches an XDP program. The interface is left when the descriptor and its last pin are gone.
///
/// # Errors
/// EBUSY and EEXIST: another program is there; EOPNOTSUPP: no native mode.
pub fn attach_xdp(program: impl AsFd, ifindex: u32, generic: bool) -> io::Result<OwnedFd> {
    let flags = if generic { XDP_FLAGS_SKB_MODE } else { XDP_FLAGS_DRV_MODE };
    let (prog_fd, attach_type) = (raw(program), ATTACH_XDP);
    bpf_fd(LINK_CREATE, &mut LinkAttr { prog_fd, target_ifindex: ifindex, attach_type, flags })
}

/// Attaches a program to tc's ingress by tcx, before whatever is there. The interface is left when the descriptor and
/// its last pin are gone.
///
/// # Errors
/// EINVAL: the kernel has no tcx (before 6.6).
pub fn attach_tcx(program: impl AsFd, ifindex: u32) -> io::Result<OwnedFd> {
    let (prog_fd, attach_type, flags) = (raw(program), ATTACH_TCX_INGRESS, FLAG_BEFORE);
    bpf_fd(LINK_CREATE, &mut LinkAttr { prog_fd, target_ifindex: ifindex, attach_type, flags })
}

/// Programs on the tcx hook of an interface.
///
/// # Errors
/// EINVAL: this kernel has no tcx.
pub fn query_tcx(ifindex: u32) -> io::Result<u32> {
    let mut attr = QueryAttr {
        target_ifindex: ifindex,
        attach_type: ATTACH_TCX_INGRESS,
        ..QueryAttr::default()
    };
    bpf(PROG_QUERY, &mut attr)?;
    Ok(attr.count)
}

/// Replaces a link's program in one step.
///
/// # Errors
/// That of bpf(2).
pub fn update_link(link: impl AsFd, program: impl AsFd) -> io::Result<()> {
    let (link_fd, new_prog_fd) = (raw(link), raw(program));
    let mut attr = UpdateAttr { link_fd, new_prog_fd, flags: 0, old_prog_fd: 0 };
    bpf(LINK_UPDATE, &mut attr).map(drop)
}

/// Runs a program once on `packet`, which is overwritten with what comes out.
///
/// # Errors
/// That of bpf(2).
pub fn run(program: impl AsFd, packet: &mut [u8]) -> io::Result<()> {
    let input = packet.to_vec();
    let mut attr = RunAttr {
        prog_fd: raw(program),
        retval: 0,
        data_size_in: input.len() as u32,
        data_size_out: packet.len() as u32,
        data_in: input.as_ptr() as u64,
        data_out: packet.as_mut_ptr() as u64,
        repeat: 1,
        duration: 0,
    };
    bpf(PROG_TEST_RUN, &mut attr).map(drop)
}

/// Entries asked for in one call where nothing else waits.
const BATCH: usize = 4096;
/// Most entries that a call ever makes room for, when one bucket holds more than were asked for.
const BATCH_LIMIT: usize = 1 << 16;

/// A way through all entries of a HASH, LRU_HASH or ARRAY map, in calls of bounded length between
/// which anything may happen to the map. The kernel counts buckets, not keys, so that a removed
/// entry does not throw the walk back: what is there from begin to end is met once, what comes or
/// goes meanwhile once or not at all. Per-CPU maps are not supported.
#[derive(Debug)]
pub struct Walk<K, V> {
    keys: Vec<K>,
    values: Vec<V>,
    /// The kernel's opaque position: at most the size of a key, at least u32
    /// (kernel/bpf/{hashtab,syscall}.c). `None`: at the begin.
    position: Option<[u64; 8]>,
    ended: bool,
}

impl<K: Pod + Default, V: Pod + Default> Walk<K, V> {
    /// At the begin. Each step takes at most `most` entries, unless one bucket alone holds more.
    pub fn new(most: usize) -> Self {
        let most = most.max(1);
        let (keys, values) = (vec![K::default(); most], vec![V::default(); most]);
        Self { keys, values, position: None, ended: false }
    }

    /// Whether all of the map has been seen.
    pub fn has_ended(&self) -> bool {
        self.ended
    }

    /// Takes one step; nothing when the walk has ended.
    ///
    /// # Errors
    /// That of bpf(2). The walk is where it was.
    pub fn step(&mut self, map: impl AsFd) -> io::Result<impl Iterator<Item = (K, V)>> {
        let mut count = 0;
        let mut to = [0u64; 8];
        while !self.ended {
            let mut attr = BatchAttr {
                in_batch: self.position.as_ref().map_or(0, |from| from.as_ptr() as u64),
                out_batch: to.as_mut_ptr() as u64,
                keys: self.keys.as_mut_ptr() as u64,
                values: self.values.as_mut_ptr() as u64,
                count: self.keys.len() as u32,
                map_fd: raw(&map),
                ..BatchAttr::default()
            };
            match bpf(MAP_LOOKUP_BATCH, &mut attr) {
                Ok(_) => {}
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => self.ended = true,
                // The next bucket is fuller than what was asked for.
                Err(error)
                    if error.raw_os_error() == Some(libc::ENOSPC)
                        && self.keys.len() < BATCH_LIMIT =>
                {
                    let more = self.keys.len() * 2;
                    self.keys.resize(more, K::default());
                    self.values.resize(more, V::default());
                    continue;
                }
                Err(error) => return Err(error),
            }
            self.position = Some(to);
            count = attr.count as usize;
            break;
        }
        Ok(self.keys.iter().copied().zip(self.values.iter().copied()).take(count))
    }
}

/// The first `most` entries of a map at once, in the order in which [`Walk`] meets them: for an ARRAY that of its
/// indices.
///
/// # Errors
/// That of bpf(2).
pub fn entries<K: Pod + Default, V: Pod + Default>(
    map: impl AsFd,
    most: usize,
    mut each: impl FnMut(K, V),
) -> io::Result<()> {
    let mut left = most;
    let mut walk = Walk::new(most.min(BATCH));
    while left > 0 && !walk.has_ended() {
        for (key, value) in walk.step(&map)?.take(left) {
            each(key, value);
            left -= 1;
        }
    }
    Ok(())
}

/// Leading part of `struct bpf_link_info` for a link of XDP or tcx.
#[repr(C)]
#[derive(Clone, Copy)]
struct LinkInfo {
    kind: u32,
    id: u32,
    prog_id: u32,
    pad: u32,
    ifindex: u32,
    /// The rest of the union, of any link kind.
    rest: [u32; 27],
}

/// Interface index of a link of XDP or tcx; 0: the interface is gone.
///
/// # Errors
/// That of bpf(2).
pub fn link_ifindex(link: impl AsFd) -> io::Result<u32> {
    link_info(link).map(|info| info.ifindex)
}

/// Id of the program of a link.
///
/// # Errors
/// That of bpf(2).
pub fn link_program(link: impl AsFd) -> io::Result<u32> {
    link_info(link).map(|info| info.prog_id)
}

fn link_info(link: impl AsFd) -> io::Result<LinkInfo> {
    let mut info = MaybeUninit::<LinkInfo>::zeroed();
    let mut attr = InfoAttr {
        bpf_fd: raw(link.as_fd()), // not a descriptor that is closed by then
        info_len: size_of::<LinkInfo>() as u32,
        info: info.as_mut_ptr() as u64,
    };
    bpf(OBJ_GET_INFO_BY_FD, &mut attr)?;
    // SAFETY: zeroed before, all fields are integers.
    Ok(unsafe { info.assume_init() })
}

/// An interface's `ARPHRD_*` is that of Ethernet.
const ARPHRD_ETHER: u16 = 1;

/// Whether an interface's frames begin with an Ethernet header.
///
/// # Errors
/// That of the system.
pub fn is_ethernet(interface: &str) -> io::Result<bool> {
    let mut request = request(interface)?;
    ask(libc::SIOCGIFHWADDR as libc::Ioctl, &mut request)?;
    // SAFETY: what the command has filled.
    Ok(unsafe { request.ifr_ifru.ifru_hwaddr.sa_family } == ARPHRD_ETHER)
}

fn request(interface: &str) -> io::Result<libc::ifreq> {
    let mut name = [0; libc::IFNAMSIZ];
    let bytes = interface.as_bytes();
    if bytes.len() >= name.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in name.iter_mut().zip(bytes) {
        *to = *from as libc::c_char;
    }
    let ifr_ifru = libc::__c_anonymous_ifr_ifru { ifru_data: std::ptr::null_mut() };
    Ok(libc::ifreq { ifr_name: name, ifr_ifru })
}

fn ask(command: libc::Ioctl, request: &mut libc::ifreq) -> io::Result<()> {
    let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    // SAFETY: a valid request; what it points to outlives the call (callers).
    let done = unsafe { libc::ioctl(socket.as_raw_fd(), command, std::ptr::from_mut(request)) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// `struct ethtool_drvinfo`.
#[repr(C)]
struct DriverInfo {
    command: u32,
    driver: [u8; 32],
    rest: [u8; 160],
}
const _: () = assert!(size_of::<DriverInfo>() == 196);
const ETHTOOL_GDRVINFO: u32 = 3;
/// SIOCETHTOOL.
const ETHTOOL: libc::Ioctl = 0x8946;

/// Name of an interface's driver, as ethtool knows it: of this network namespace, whatever is mounted at /sys.
///
/// # Errors
/// That of the system; EOPNOTSUPP where a driver has no name.
pub fn driver(interface: &str) -> io::Result<String> {
    let mut info = DriverInfo { command: ETHTOOL_GDRVINFO, driver: [0; 32], rest: [0; 160] };
    let mut request = request(interface)?;
    request.ifr_ifru.ifru_data = (&raw mut info).cast();
    ask(ETHTOOL, &mut request)?;
    let driver = info.driver.split(|byte| *byte == 0).next().unwrap_or_default();
    Ok(String::from_utf8_lossy(driver).into_owned())
}

/// `struct bpf_prog_info` up to `verified_insns`.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
struct ProgInfo {
    head: [u32; 2],
    tag: [u8; 8],
    jited_prog_len: u32,
    xlated_prog_len: u32,
    pointers: [u64; 2],
    load_time: u64,
    created_by_uid: u32,
    nr_map_ids: u32,
    map_ids: u64,
    name: [u8; 16],
    ifindex: u32,
    gpl_compatible: u32,
    netns: [u64; 2],
    nr_jited: [u32; 2],
    jited: [u64; 2],
    btf_id: u32,
    func_info_rec_size: u32,
    func_info: u64,
    nr_func_info: u32,
    nr_line_info: u32,
    line_info: u64,
    jited_line_info: u64,
    nr_jited_line_info: u32,
    line_info_rec_size: u32,
    jited_line_info_rec_size: u32,
    nr_prog_tags: u32,
    prog_tags: u64,
    run_time_ns: u64,
    run_cnt: u64,
}

/// Nanoseconds and runs of a program, both 0 unless kernel.bpf_stats_enabled is set.
///
/// # Errors
/// That of bpf(2).
pub fn run_stats(program: impl AsFd) -> io::Result<(u64, u64)> {
    let mut info = MaybeUninit::<ProgInfo>::zeroed();
    let mut attr = InfoAttr {
        bpf_fd: raw(program),
        info_len: size_of::<ProgInfo>() as u32,
        info: info.as_mut_ptr() as u64,
    };
    bpf(OBJ_GET_INFO_BY_FD, &mut attr)?;
    // SAFETY: zeroed before, all fields are integers.
    let info = unsafe { info.assume_init() };
    Ok((info.run_time_ns, info.run_cnt))
}
