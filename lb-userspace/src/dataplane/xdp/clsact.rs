//! tc's program where the kernel has no tcx (before 6.6): a filter of the interface's clsact (or ingress) qdisc. It has
//! no descriptor and no pin; it stays until somebody removes it, and is found again by its name.

use std::{
    io,
    os::fd::{AsFd, AsRawFd as _},
    path::Path,
};

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use nix::errno::Errno;
use tracing::warn;

// linux/rtnetlink.h, linux/netlink.h.
const NEW_QDISC: u16 = 36;
const DEL_QDISC: u16 = 37;
const GET_QDISC: u16 = 38;
const NEW_FILTER: u16 = 44;
const DEL_FILTER: u16 = 45;
const GET_FILTER: u16 = 46;
const ERROR: u16 = 2;
const DONE: u16 = 3;
const REQUEST: u16 = 1;
const ACK: u16 = 4;
const EXCLUSIVE: u16 = 0x200;
const REPLACE: u16 = 0x100;
const CREATE: u16 = 0x400;
const DUMP: u16 = 0x300;
// linux/pkt_sched.h.
const CLSACT: u32 = 0xffff_fff1;
const CLSACT_HANDLE: u32 = 0xffff_0000;
const INGRESS: u32 = 0xffff_fff2;
const EGRESS: u32 = 0xffff_fff3;
// TCA_*, TCA_BPF_* (linux/pkt_cls.h).
const KIND: u16 = 1;
const OPTIONS: u16 = 2;
const BPF_FD: u16 = 6;
const BPF_NAME: u16 = 7;
const BPF_FLAGS: u16 = 8;
const DIRECT_ACTION: u32 = 1;
/// Priority 1, before every other, in the upper half of what says priority and protocol.
const FIRST: u32 = 1 << 16;
const ALL_PROTOCOLS: u16 = 0x0003_u16.to_be();

/// `struct nlmsghdr`.
const HEADER: usize = 16;
/// `struct tcmsg`.
const TC: usize = 20;
/// What the kernel keeps of a filter's name (`CLS_BPF_NAME_LEN`), with its NUL.
const NAME_LEN: usize = 256;
/// A datagram of a dump is at most this long.
const DATAGRAM: usize = 1 << 16;

/// A filter of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Filter {
    handle: u32,
    /// Priority and protocol, as the kernel tells them.
    info: u32,
}

/// The name by which an instance of lbd knows its filters: its pin directory is its own.
pub fn name(pin_dir: &Path) -> String {
    let mut name = format!("lbd_tc {}", pin_dir.display());
    while name.len() >= NAME_LEN {
        name.pop();
    }
    name
}

/// Our filter on an interface.
///
/// # Errors
/// That of netlink. An interface that does not exist, or has no such qdisc, has no filter.
pub fn filter(ifindex: u32, name: &str) -> io::Result<Option<Filter>> {
    Ok(filters(ifindex, INGRESS)?.into_iter().find(|it| it.1 == name).map(|it| it.0))
}

/// Whether an interface has a clsact (or ingress) qdisc, whoever made it.
///
/// # Errors
/// That of netlink.
pub fn has_qdisc(ifindex: u32) -> io::Result<bool> {
    match call(&message(GET_QDISC, 0, ifindex, CLSACT_HANDLE, CLSACT, 0, |_| {})) {
        Ok(()) => Ok(true),
        // Before there was ever one, and after it went.
        Err(error) if is(&error, Errno::ENOENT) || is(&error, Errno::EINVAL) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Makes a clsact qdisc. False: there is one by now.
///
/// # Errors
/// That of netlink.
pub fn make_qdisc(ifindex: u32) -> io::Result<bool> {
    let flags = CREATE | EXCLUSIVE;
    let made = call(&message(NEW_QDISC, flags, ifindex, CLSACT_HANDLE, CLSACT, 0, |out| {
        attribute(out, KIND, b"clsact\0");
    }));
    match made {
        Ok(()) => Ok(true),
        Err(error) if is(&error, Errno::EEXIST) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Puts a program on an interface that has the qdisc, in the place of our filter `before` if there is one, in one step.
///
/// # Errors
/// That of netlink. The filter of before is still there then.
pub fn put(ifindex: u32, program: impl AsFd, name: &str, before: Option<Filter>) -> io::Result<()> {
    let fd = program.as_fd().as_raw_fd();
    let put = |handle, info, flags| {
        call(&message(NEW_FILTER, flags, ifindex, handle, INGRESS, info, |out| {
            attribute(out, KIND, b"bpf\0");
            nest(out, OPTIONS, |out| {
                attribute(out, BPF_FD, &fd.to_ne_bytes());
                attribute(out, BPF_NAME, &[name.as_bytes(), &[0]].concat());
                attribute(out, BPF_FLAGS, &DIRECT_ACTION.to_ne_bytes());
            });
        }))
    };
    let any = u32::from(ALL_PROTOCOLS);
    match before {
        Some(filter) => put(filter.handle, filter.info, CREATE | REPLACE)?,
        // A filter of somebody else's that ends the matter must not hide packets from the fence.
        None => match put(0, FIRST | any, CREATE | EXCLUSIVE) {
            // Somebody else has that place, for another protocol or with another kind of filter.
            Err(error) if is(&error, Errno::EINVAL) => {
                warn!(ifindex, "a tc filter of somebody else's comes before lbd's");
                put(0, any, CREATE | EXCLUSIVE)?;
            }
            other => other?,
        },
    }
    Ok(())
}

/// Takes our filter off. Nothing to do when it is not there.
///
/// # Errors
/// That of netlink.
pub fn detach(ifindex: u32, name: &str) -> io::Result<()> {
    let Some(Filter { handle, info }) = filter(ifindex, name)? else { return Ok(()) };
    let gone = call(&message(DEL_FILTER, 0, ifindex, handle, INGRESS, info, |out| {
        attribute(out, KIND, b"bpf\0");
    }));
    absent_is_good(gone)
}

/// Removes the clsact qdisc, unless somebody has a filter there.
///
/// # Errors
/// That of netlink.
pub fn remove_qdisc_if_unused(ifindex: u32) -> io::Result<()> {
    for parent in [INGRESS, EGRESS] {
        if !filters(ifindex, parent)?.is_empty() {
            return Ok(());
        }
    }
    absent_is_good(call(&message(DEL_QDISC, 0, ifindex, CLSACT_HANDLE, CLSACT, 0, |_| {})))
}

fn is(error: &io::Error, errno: Errno) -> bool {
    error.raw_os_error() == Some(errno as i32)
}

/// No such interface, no such qdisc, no such filter.
fn absent_is_good(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error)
            if [Errno::ENODEV, Errno::ENOENT, Errno::EINVAL]
                .into_iter()
                .any(|errno| is(&error, errno)) =>
        {
            Ok(())
        }
        other => other,
    }
}

/// Every filter of a hook, with its name (empty: it is no program, or has none).
fn filters(ifindex: u32, parent: u32) -> io::Result<Vec<(Filter, String)>> {
    let mut found = Vec::new();
    let asked = message(GET_FILTER, DUMP, ifindex, 0, parent, 0, |_| {});
    let dumped = exchange(&asked, |kind, payload| {
        if kind == NEW_FILTER {
            found.extend(read(payload));
        }
    });
    absent_is_good(dumped)?;
    // The kernel's list names each priority once more, without a handle.
    found.retain(|(filter, _)| filter.handle != 0);
    Ok(found)
}

fn message(
    kind: u16,
    flags: u16,
    ifindex: u32,
    handle: u32,
    parent: u32,
    info: u32,
    attributes: impl FnOnce(&mut Vec<u8>),
) -> Vec<u8> {
    let flags = flags | REQUEST | if flags & DUMP == DUMP { 0 } else { ACK };
    let mut out = Vec::with_capacity(HEADER + TC + NAME_LEN);
    out.extend([0; 4]);
    out.extend(kind.to_ne_bytes());
    out.extend(flags.to_ne_bytes());
    out.extend([0; 8]); // sequence and port: one request a socket
    out.extend([0; 4]); // family
    for word in [ifindex, handle, parent, info] {
        out.extend(word.to_ne_bytes());
    }
    attributes(&mut out);
    let len = out.len() as u32;
    out[..4].copy_from_slice(&len.to_ne_bytes());
    out
}

fn attribute(out: &mut Vec<u8>, kind: u16, value: &[u8]) {
    nest(out, kind, |out| out.extend(value));
    out.resize(out.len().next_multiple_of(4), 0);
}

fn nest(out: &mut Vec<u8>, kind: u16, value: impl FnOnce(&mut Vec<u8>)) {
    let at = out.len();
    out.extend([0; 2]);
    out.extend(kind.to_ne_bytes());
    value(out);
    let len = (out.len() - at) as u16;
    out[at..at + 2].copy_from_slice(&len.to_ne_bytes());
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// The value of an attribute.
fn find(mut attributes: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let len = usize::from(u16_at(attributes, 0)?);
        // The upper two bits are flags.
        let kind = u16_at(attributes, 2)? & 0x3fff;
        let value = attributes.get(4..len)?;
        if kind == wanted {
            return Some(value);
        }
        attributes = attributes.get(len.next_multiple_of(4)..)?;
    }
}

/// A filter of a dump; `payload` begins with `struct tcmsg`.
fn read(payload: &[u8]) -> Option<(Filter, String)> {
    let filter = Filter { handle: u32_at(payload, 8)?, info: u32_at(payload, 16)? };
    let attributes = payload.get(TC..)?;
    let is_program = find(attributes, KIND) == Some(b"bpf\0");
    let name = is_program
        .then(|| find(find(attributes, OPTIONS)?, BPF_NAME))
        .flatten()
        .map(|name| String::from_utf8_lossy(name).trim_end_matches('\0').to_owned());
    Some((filter, name.unwrap_or_default()))
}

fn call(request: &[u8]) -> io::Result<()> {
    exchange(request, |_, _| {})
}

/// Sends a request and hands on what comes, until its end. rtnetlink answers within the call.
fn exchange(request: &[u8], mut take: impl FnMut(u16, &[u8])) -> io::Result<()> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    socket.send(request, 0)?;
    loop {
        let mut buffer = Vec::with_capacity(DATAGRAM);
        socket.recv(&mut buffer, 0)?;
        let mut rest = buffer.as_slice();
        while let (Some(len), Some(kind)) = (u32_at(rest, 0), u16_at(rest, 4)) {
            let len = len as usize;
            let Some(payload) = rest.get(HEADER..len) else {
                return Err(io::Error::other("netlink: a message is cut off"));
            };
            match kind {
                ERROR => {
                    let code = u32_at(payload, 0).unwrap_or_default().cast_signed();
                    return if code == 0 {
                        Ok(())
                    } else {
                        Err(io::Error::from_raw_os_error(-code))
                    };
                }
                DONE => {
                    let code = u32_at(payload, 0).unwrap_or_default().cast_signed();
                    return if code < 0 {
                        Err(io::Error::from_raw_os_error(-code))
                    } else {
                        Ok(())
                    };
                }
                other => take(other, payload),
            }
            rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel would tell of a filter, as `tc filter show` asks for it.
    fn told(name: &[u8], kind: &[u8]) -> Vec<u8> {
        let bytes = message(NEW_FILTER, 0, 4, 1, INGRESS, 0xc000_0300, |out| {
            attribute(out, KIND, kind);
            attribute(out, 11, &7_u32.to_ne_bytes()); // TCA_CHAIN
            nest(out, OPTIONS, |out| {
                attribute(out, BPF_FLAGS, &DIRECT_ACTION.to_ne_bytes());
                attribute(out, BPF_NAME, name);
            });
        });
        bytes[HEADER..].to_vec()
    }

    #[test]
    fn a_filter_is_known_by_its_name() {
        let filter = Filter { handle: 1, info: 0xc000_0300 };
        let ours = told(b"lbd_tc /x\0", b"bpf\0");
        assert_eq!(read(&ours), Some((filter, "lbd_tc /x".to_owned())));
        assert_eq!(read(&told(b"lbd_tc /x\0", b"u32\0")), Some((filter, String::new())));
        for len in 0..ours.len() {
            // Whatever is cut off: no panic, and never another name.
            if let Some((_, name)) = read(&ours[..len]) {
                assert!(name.is_empty() || name == "lbd_tc /x", "{len}: {name}");
            }
        }
    }

    #[test]
    fn lengths_that_lead_nowhere_end_the_search() {
        for attributes in [&[0, 0, 1, 0][..], &[3, 0, 1, 0, 0, 0], &[255, 255, 1, 0], &[4, 0]] {
            assert_eq!(find(attributes, 1), None, "{attributes:?}");
        }
        let mut endless = Vec::new();
        (0..8).for_each(|_| attribute(&mut endless, 3, &[]));
        assert_eq!(find(&endless, 1), None);
    }

    #[test]
    fn a_name_fits_the_kernel() {
        let long = name(Path::new(&"/ä".repeat(300)));
        assert!(long.len() < NAME_LEN && long.starts_with("lbd_tc /ä"));
        assert_ne!(name(Path::new("/sys/fs/bpf/a")), name(Path::new("/sys/fs/bpf/b")));
    }
}
