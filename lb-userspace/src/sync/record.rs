//! What a stream carries.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

/// A connection as its client names it. Both addresses are of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// IANA protocol number: 6, 17.
    pub protocol: u8,
    pub client: SocketAddr,
    /// VIP and port: the virtual server.
    pub vip: SocketAddr,
}

/// Sequence numbers of one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Numbers {
    /// What the sender's peer expects next.
    pub seq_end: u32,
    /// The sender's last acknowledgement.
    pub ack: u32,
}

/// Bits of [`Flow::state`].
pub mod state {
    /// The client sent FIN.
    pub const CLIENT_FIN: u8 = 1;
    /// The client sent RST.
    pub const CLIENT_RST: u8 = 2;
    /// The server sent FIN.
    pub const SERVER_FIN: u8 = 4;
    /// The server sent RST.
    pub const SERVER_RST: u8 = 8;
    /// The balancer answered with a RST, because the server is gone.
    pub const RESET: u8 = 16;
    /// Not made by a SYN that the balancer has seen.
    pub const MIDSTREAM: u8 = 32;
    /// All of them.
    pub const ALL: u8 = 63;
    /// Any of these: it ends, or has ended.
    pub const CLOSING: u8 = CLIENT_FIN | CLIENT_RST | SERVER_FIN | SERVER_RST | RESET;
}

/// All that is to be known of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    pub key: Key,
    /// The real server, by its address: numbers of it differ between hosts.
    pub server: SocketAddr,
    /// Bits of [`state`].
    pub state: u8,
    /// Milliseconds since its last packet.
    pub idle_ms: u32,
    /// Seconds since it was made.
    pub age_s: u32,
    pub client: Numbers,
    /// Of the server's direction, where it comes by here (NAT).
    pub replies: Option<Numbers>,
}

impl Flow {
    /// Whether it ends, or has ended.
    pub fn is_closing(&self) -> bool {
        self.state & state::CLOSING != 0
    }
}

/// One statement of a stream. [`Record::Open`], [`Record::Refresh`] and [`Record::Close`] say the same of a
/// connection and are told apart for the counters only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Record {
    /// It has changed, and lives.
    Open(Flow),
    /// A walk of the table came by it.
    Refresh(Flow),
    /// It has changed, and ends.
    Close(Flow),
    /// A full resync begins.
    Begin,
    /// It covers this virtual server (protocol, VIP and port).
    Covers(u8, SocketAddr),
    /// It ends: connections of what it covers that were not named since the begin are over.
    End,
}

/// Connections, and the virtual servers that they are of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Set {
    pub covered: BTreeSet<(u8, SocketAddr)>,
    pub named: BTreeSet<Key>,
}

/// Every connection of `covered` that is not `named` is over, where this host is not the one that forwards it.
pub type Prune = Set;

const OPEN: u8 = 1;
const REFRESH: u8 = 2;
const CLOSE: u8 = 3;
const BEGIN: u8 = 4;
const COVERS: u8 = 5;
const END: u8 = 6;
/// In the octet of families: the server's address is IPv6.
const SERVER_V6: u8 = 2;
/// Client and VIP are IPv6.
const KEY_V6: u8 = 1;
/// Numbers of the server's direction follow.
const REPLIES: u8 = 4;
/// Longest record: IPv6 by NAT.
pub const LONGEST: usize = 3 + 16 + 18 + 2 + 18 + 1 + 8 + 16;

impl Record {
    /// Appends its octets.
    pub fn write(&self, out: &mut Vec<u8>) {
        let (tag, flow) = match self {
            Self::Open(flow) => (OPEN, flow),
            Self::Refresh(flow) => (REFRESH, flow),
            Self::Close(flow) => (CLOSE, flow),
            Self::Begin => return out.push(BEGIN),
            Self::End => return out.push(END),
            Self::Covers(protocol, vip) => {
                out.extend([COVERS, *protocol, if vip.is_ipv6() { KEY_V6 } else { 0 }]);
                address(vip.ip(), out);
                return out.extend(vip.port().to_be_bytes());
            }
        };
        let Flow { key, server, state, idle_ms, age_s, client, replies } = flow;
        let form = if key.vip.is_ipv6() { KEY_V6 } else { 0 }
            | if server.is_ipv6() { SERVER_V6 } else { 0 }
            | if replies.is_some() { REPLIES } else { 0 };
        out.extend([tag, key.protocol, form]);
        address(key.client.ip(), out);
        address(key.vip.ip(), out);
        out.extend(key.client.port().to_be_bytes());
        out.extend(key.vip.port().to_be_bytes());
        address(server.ip(), out);
        out.extend(server.port().to_be_bytes());
        out.push(*state);
        for word in [*idle_ms, *age_s, client.seq_end, client.ack] {
            out.extend(word.to_be_bytes());
        }
        if let Some(numbers) = replies {
            out.extend(numbers.seq_end.to_be_bytes());
            out.extend(numbers.ack.to_be_bytes());
        }
    }

    /// Takes one off the front; `None` when these octets are none.
    pub fn read(bytes: &mut &[u8]) -> Option<Self> {
        let [tag] = take::<1>(bytes)?;
        match tag {
            BEGIN => return Some(Self::Begin),
            END => return Some(Self::End),
            COVERS => {
                let [protocol, form] = take(bytes)?;
                if form & !KEY_V6 != 0 {
                    return None;
                }
                let ip = ip(bytes, form & KEY_V6 != 0)?;
                let port = u16::from_be_bytes(take(bytes)?);
                return Some(Self::Covers(protocol, SocketAddr::new(ip, port)));
            }
            OPEN | REFRESH | CLOSE => {}
            _ => return None,
        }
        let [protocol, form] = take(bytes)?;
        if form & !(KEY_V6 | SERVER_V6 | REPLIES) != 0 {
            return None;
        }
        let (client, vip) = (ip(bytes, form & KEY_V6 != 0)?, ip(bytes, form & KEY_V6 != 0)?);
        let (sport, dport) = (u16::from_be_bytes(take(bytes)?), u16::from_be_bytes(take(bytes)?));
        let key = Key {
            protocol,
            client: SocketAddr::new(client, sport),
            vip: SocketAddr::new(vip, dport),
        };
        let server = ip(bytes, form & SERVER_V6 != 0)?;
        let server = SocketAddr::new(server, u16::from_be_bytes(take(bytes)?));
        let [state] = take(bytes)?;
        if state & !state::ALL != 0 {
            return None;
        }
        let (idle_ms, age_s) = (word(bytes)?, word(bytes)?);
        let client = Numbers { seq_end: word(bytes)?, ack: word(bytes)? };
        let replies = match form & REPLIES {
            0 => None,
            _ => Some(Numbers { seq_end: word(bytes)?, ack: word(bytes)? }),
        };
        let flow = Flow { key, server, state, idle_ms, age_s, client, replies };
        Some(match tag {
            OPEN => Self::Open(flow),
            REFRESH => Self::Refresh(flow),
            _ => Self::Close(flow),
        })
    }
}

fn address(ip: IpAddr, out: &mut Vec<u8>) {
    match ip {
        IpAddr::V4(ip) => out.extend(ip.octets()),
        IpAddr::V6(ip) => out.extend(ip.octets()),
    }
}

/// Takes the first octets; none are taken when there are fewer.
pub fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (first, rest) = bytes.split_first_chunk::<N>()?;
    *bytes = rest;
    Some(*first)
}

fn word(bytes: &mut &[u8]) -> Option<u32> {
    take(bytes).map(u32::from_be_bytes)
}

fn ip(bytes: &mut &[u8], v6: bool) -> Option<IpAddr> {
    match v6 {
        false => take::<4>(bytes).map(|octets| Ipv4Addr::from(octets).into()),
        true => take::<16>(bytes).map(|octets| Ipv6Addr::from(octets).into()),
    }
}
