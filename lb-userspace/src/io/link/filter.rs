//! `no_accept` in nftables: packets to the VIPs are dropped, neighbour discovery excepted (RFC 9568
//! §6.1, §6.4.3), in a table of our own that comes and goes as a whole.
//!
//! The messages are written here (nfnetlink of nf_tables, linux/netfilter/nf_tables.h), because no
//! library fits: `nftables` runs the program nft, which this role cannot (it executes nothing and
//! its bounding set is empty), `nftnl` needs a C library, `rustables` is under the GPL.

use std::{io, net::IpAddr, os::fd::AsFd as _, time::Duration};

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};
use nix::sys::{
    socket::{setsockopt, sockopt},
    time::TimeVal,
};

use super::Filter;

/// The kernel answers within this.
const TIMEOUT: Duration = Duration::from_secs(2);
/// Room for a batch with 4,096 IPv6 addresses.
const SEND_BUFFER: usize = 1 << 20;
/// Addresses in one message; the length of an attribute has 16 bits.
const ELEMENTS: usize = 512;

// linux/netfilter/nfnetlink.h
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;
const SUBSYSTEM: u16 = 10;
// linux/netfilter/nf_tables.h
const NEW_TABLE: u16 = 0;
const DEL_TABLE: u16 = 2;
const NEW_CHAIN: u16 = 3;
const NEW_RULE: u16 = 6;
const NEW_SET: u16 = 9;
const NEW_SET_ELEMENT: u16 = 12;

const INET: u8 = 1;
const HOOK_LOCAL_IN: u32 = 1;
const NF_DROP: u32 = 0;
const NF_ACCEPT: u32 = 1;
const META_NFPROTO: u32 = 15;
const META_L4PROTO: u32 = 16;
const BASE_NETWORK: u32 = 1;
const BASE_TRANSPORT: u32 = 2;
const ICMPV6: u8 = 58;
const NEIGHBOUR_SOLICITATION: u8 = 135;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;

const CHAIN: &str = "input";

/// One family of the VIPs.
struct Family {
    set: &'static str,
    id: u32,
    /// nfproto.
    number: u8,
    /// nft's number of the type, for `nft list`.
    kind: u32,
    key: u32,
    /// Of the destination address in the header.
    offset: u32,
}

const FAMILIES: [Family; 2] = [
    Family { set: "vips4", id: 1, number: 2, kind: 7, key: 4, offset: 16 },
    Family { set: "vips6", id: 2, number: 10, kind: 8, key: 16, offset: 24 },
];

/// Puts the table on, in the place of one of its name, or takes it off.
pub(super) fn apply(filter: &Filter, on: bool) -> Result<(), String> {
    let batch = if on { install(filter) } else { remove(filter) };
    match send(&batch) {
        Ok(()) => Ok(()),
        Err(error) if !on && error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        Err(error) => Err(format!("nftables: {error}")),
    }
}

/// Messages between begin and end.
#[derive(Default)]
struct Batch {
    bytes: Vec<u8>,
    /// Of the last message; the first one is 1.
    sequence: u32,
}

impl Batch {
    fn message(&mut self, kind: u16, flags: u16, family: u8, resource: u16, attributes: &[u8]) {
        self.sequence += 1;
        let len = (16 + 4 + attributes.len()) as u32;
        self.bytes.extend(len.to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend((libc::NLM_F_REQUEST as u16 | flags).to_ne_bytes());
        self.bytes.extend(self.sequence.to_ne_bytes());
        self.bytes.extend([0; 4]);
        self.bytes.extend([family, 0]);
        self.bytes.extend(resource.to_be_bytes());
        self.bytes.extend(attributes);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn change(&mut self, kind: u16, flags: u16, attributes: &[u8]) {
        let ack = libc::NLM_F_ACK as u16;
        self.message(SUBSYSTEM << 8 | kind, flags | ack, INET, 0, attributes);
    }

    fn begin() -> Self {
        let mut batch = Self::default();
        batch.message(BATCH_BEGIN, 0, 0, SUBSYSTEM, &[]);
        batch
    }

    fn end(mut self) -> Self {
        self.message(BATCH_END, 0, 0, SUBSYSTEM, &[]);
        self
    }
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(value.len() + 8);
    out.extend(((value.len() + 4) as u16).to_ne_bytes());
    out.extend(kind.to_ne_bytes());
    out.extend(value);
    out.resize(out.len().next_multiple_of(4), 0);
    out
}

fn text(kind: u16, value: &str) -> Vec<u8> {
    attribute(kind, &[value.as_bytes(), &[0]].concat())
}

fn number(kind: u16, value: u32) -> Vec<u8> {
    attribute(kind, &value.to_be_bytes())
}

fn nested(kind: u16, parts: &[Vec<u8>]) -> Vec<u8> {
    attribute(libc::NLA_F_NESTED as u16 | kind, &parts.concat())
}

fn expression(name: &str, data: &[Vec<u8>]) -> Vec<u8> {
    nested(1, &[text(1, name), nested(2, data)])
}

fn meta(key: u32) -> Vec<u8> {
    expression("meta", &[number(1, 1), number(2, key)])
}

fn payload(base: u32, offset: u32, len: u32) -> Vec<u8> {
    let data = [number(1, 1), number(2, base), number(3, offset), number(4, len)];
    expression("payload", &data)
}

fn equals(value: u8) -> Vec<u8> {
    expression("cmp", &[number(1, 1), number(2, 0), nested(3, &[attribute(1, &[value])])])
}

fn lookup(family: &Family) -> Vec<u8> {
    expression("lookup", &[text(1, family.set), number(2, 1), number(4, family.id)])
}

fn verdict(code: u32) -> Vec<u8> {
    let data = nested(2, &[nested(2, &[number(1, code)])]);
    expression("immediate", &[number(1, 0), data])
}

fn install(filter: &Filter) -> Batch {
    let create = libc::NLM_F_CREATE as u16;
    let mut batch = Batch::begin();
    let table = text(1, &filter.table);
    // Added so that it can be deleted, then made anew: all in one transaction.
    batch.change(NEW_TABLE, create, &table);
    batch.change(DEL_TABLE, 0, &table);
    batch.change(NEW_TABLE, create, &table);
    let hook = nested(4, &[number(1, HOOK_LOCAL_IN), attribute(2, &filter.priority.to_be_bytes())]);
    let chain = [table.clone(), text(3, CHAIN), hook, number(5, NF_ACCEPT), text(7, "filter")];
    batch.change(NEW_CHAIN, create, &chain.concat());
    for family in &FAMILIES {
        let addresses: Vec<Vec<u8>> = filter
            .vips
            .iter()
            .filter_map(|vip| match vip {
                IpAddr::V4(vip) if family.key == 4 => Some(vip.octets().to_vec()),
                IpAddr::V6(vip) if family.key == 16 => Some(vip.octets().to_vec()),
                _ => None,
            })
            .collect();
        if addresses.is_empty() {
            continue;
        }
        let set = [
            table.clone(),
            text(2, family.set),
            number(3, 0),
            number(4, family.kind),
            number(5, family.key),
            number(10, family.id),
        ];
        batch.change(NEW_SET, create, &set.concat());
        for some in addresses.chunks(ELEMENTS) {
            let element = |address: &Vec<u8>| nested(1, &[nested(1, &[attribute(1, address)])]);
            let elements: Vec<Vec<u8>> = some.iter().map(element).collect();
            let message =
                [table.clone(), text(2, family.set), nested(3, &elements), number(4, family.id)];
            batch.change(NEW_SET_ELEMENT, create, &message.concat());
        }
        let mut rules = Vec::new();
        if family.key == 16 {
            for kind in [NEIGHBOUR_SOLICITATION, NEIGHBOUR_ADVERTISEMENT] {
                rules.push(vec![
                    meta(META_NFPROTO),
                    equals(family.number),
                    meta(META_L4PROTO),
                    equals(ICMPV6),
                    payload(BASE_TRANSPORT, 0, 1),
                    equals(kind),
                    verdict(NF_ACCEPT),
                ]);
            }
        }
        let mut drop = vec![
            meta(META_NFPROTO),
            equals(family.number),
            payload(BASE_NETWORK, family.offset, family.key),
            lookup(family),
        ];
        if filter.counters {
            drop.push(expression("counter", &[]));
        }
        drop.push(verdict(NF_DROP));
        rules.push(drop);
        for rule in rules {
            let message = [table.clone(), text(2, CHAIN), nested(4, &rule)];
            let append = create | libc::NLM_F_APPEND as u16;
            batch.change(NEW_RULE, append, &message.concat());
        }
    }
    batch.end()
}

fn remove(filter: &Filter) -> Batch {
    let mut batch = Batch::begin();
    batch.change(DEL_TABLE, 0, &text(1, &filter.table));
    batch.end()
}

/// Sends a batch and waits for the answer to the last change.
fn send(batch: &Batch) -> io::Result<()> {
    let mut socket = Socket::new(NETLINK_NETFILTER)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let limit = TimeVal::new(i64::try_from(TIMEOUT.as_secs()).unwrap_or(2), 0);
    setsockopt(&socket.as_fd(), sockopt::ReceiveTimeout, &limit)?;
    // A wish: the usual buffer carries some thousand addresses less.
    let _ = setsockopt(&socket.as_fd(), sockopt::SndBuf, &SEND_BUFFER);
    let _ = socket.set_cap_ack(true);
    socket.send(&batch.bytes, 0)?;
    let last = batch.sequence - 1;
    let mut buffer = Vec::with_capacity(1 << 16);
    loop {
        buffer.clear();
        socket.recv(&mut buffer, 0)?;
        let mut rest: &[u8] = &buffer;
        while let Some((sequence, code, next)) = answer(rest) {
            if code != 0 {
                return Err(io::Error::from_raw_os_error(-code));
            }
            if sequence == last {
                return Ok(());
            }
            rest = next;
        }
    }
}

/// Sequence number and error code of an acknowledgement, and what follows it.
fn answer(bytes: &[u8]) -> Option<(u32, i32, &[u8])> {
    let word = |at: usize| -> Option<[u8; 4]> { bytes.get(at..at + 4)?.try_into().ok() };
    let len = u32::from_ne_bytes(word(0)?) as usize;
    let kind = u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?);
    let sequence = u32::from_ne_bytes(word(8)?);
    let code = i32::from_ne_bytes(word(16)?);
    let next = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
    let is_error = i32::from(kind) == libc::NLMSG_ERROR && len >= 20;
    is_error.then_some((sequence, code, next))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_whole_and_numbered() {
        let vips = (0..600u32).map(|n| IpAddr::from((0x0a4d_0000 + n).to_be_bytes())).collect();
        let filter = Filter { table: "lbd-VI_1".into(), vips, priority: -1, counters: true };
        let batch = install(&filter);
        let (mut rest, mut kinds) = (&batch.bytes[..], Vec::new());
        while !rest.is_empty() {
            let len = u32::from_ne_bytes(rest[..4].try_into().unwrap()) as usize;
            assert_eq!(u32::from_ne_bytes(rest[8..12].try_into().unwrap()), kinds.len() as u32 + 1);
            kinds.push(u16::from_ne_bytes(rest[4..6].try_into().unwrap()) & 0xff);
            rest = &rest[len.next_multiple_of(4)..];
        }
        // Begin, table thrice, chain, set, elements twice, one rule, end.
        assert_eq!(kinds, [16, 0, 2, 0, 3, 9, 12, 12, 6, 17]);
        assert_eq!(batch.sequence, 10);
        assert_eq!(answer(&[0; 19]), None, "short");
    }
}
