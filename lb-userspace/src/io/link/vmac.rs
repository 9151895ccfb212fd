//! Adverts that the kernel gives to a macvlan with the virtual MAC, and to nobody else.

use std::{
    io::{self, Read as _},
    os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd},
};

use nix::sys::socket::bind;
use socket2::{Domain, Protocol, SockFilter, Socket, Type};

use super::send::address_at;
use crate::base::net::Mac;

/// EtherType of IPv4.
const IPV4: u16 = 0x0800;
/// EtherType of IPv6.
const IPV6: u16 = 0x86dd;
/// As of the raw socket of the interface below.
const RECEIVE_BUFFER: usize = 512 << 10;
/// More frames than a socket's first buffer holds.
const WAITING_LIMIT: usize = 65_536;

/// A packet socket on a private macvlan that receives, from the IP header on, what may be an advert
/// and was sent to a group by another host from the macvlan's own MAC.
///
/// The kernel consumes these frames on the interface below and gives them to the macvlan alone
/// (`macvlan_handle_frame`: the vlan found by the source's hash, neither VEPA nor bridge); of every
/// other frame the macvlan gets a copy at most. So each advert reaches either the raw socket below
/// or this one, never both.
///
/// No IP socket: it would have to join the group on the macvlan, whose MLD and IGMP reports leave
/// from the virtual MAC even where another host is master, and `rp_filter` would judge the source.
/// Never blocks, sends nothing.
#[derive(Debug)]
pub struct VmacSocket {
    socket: Socket,
}

impl VmacSocket {
    /// Opens a socket on the macvlan of this index, whose MAC is `mac`. The name is for errors: it may be another's by
    /// now.
    ///
    /// # Errors
    /// The system call that failed, with the interface. Needs CAP_NET_RAW.
    pub fn open_at(interface: &str, index: u32, mac: Mac, ipv6: bool) -> io::Result<Self> {
        let context = |what: &str, error: io::Error| {
            io::Error::new(error.kind(), format!("{what} for adverts on {interface}: {error}"))
        };
        let address =
            address_at(index).map_err(|error| context("index of the interface", error))?;
        let ethertype = if ipv6 { IPV6 } else { IPV4 };
        let protocol = Protocol::from(i32::from(ethertype.to_be()));
        // Without the link-layer header. One protocol: the kernel shows frames that leave only to
        // sockets of all protocols.
        let socket = Socket::new(Domain::PACKET, Type::DGRAM, Some(protocol))
            .map_err(|error| context("packet socket", error))?;
        let filter = |program: &[SockFilter]| {
            socket.attach_filter(program).map_err(|error| context("filter", error))
        };
        // Until it is bound it would receive from every interface.
        filter(&[NOTHING])?;
        socket.set_nonblocking(true).map_err(|error| context("non-blocking mode", error))?;
        // The address has no protocol, so the kernel keeps the socket's.
        bind(socket.as_raw_fd(), &address).map_err(|error| context("bind", error.into()))?;
        // A frame or, once, ENETDOWN of an interface that is down: only then is it empty.
        for _ in 0..WAITING_LIMIT {
            if (&socket).read(&mut [0]).is_err_and(|it| it.kind() == io::ErrorKind::WouldBlock) {
                break;
            }
        }
        filter(&adverts_from(mac, ipv6))?;
        // A wish: adverts are heard without.
        let _ = socket.set_recv_buffer_size(RECEIVE_BUFFER);
        Ok(Self { socket })
    }

    /// The next datagram, from its IP header on, with whatever padding the frame had; `None` when
    /// nothing waits. A longer one than `buffer` is cut. Nothing of it was checked: neither
    /// lengths nor the IP checksum.
    ///
    /// # Errors
    /// The kernel's. ENETDOWN is told once when the interface goes down.
    pub fn receive(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        match (&self.socket).read(buffer) {
            Ok(len) => Ok(Some(len)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl AsFd for VmacSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for VmacSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

const LOAD_WORD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
const LOAD_HALF: u16 = 0x28; // BPF_LD | BPF_H | BPF_ABS
const LOAD_BYTE: u16 = 0x30; // BPF_LD | BPF_B | BPF_ABS
const LOAD_BYTE_AT_X: u16 = 0x50; // BPF_LD | BPF_B | BPF_IND
const HEADER_LEN_TO_X: u16 = 0xb1; // BPF_LDX | BPF_B | BPF_MSH
const JUMP_EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
const RETURN: u16 = 0x06; // BPF_RET | BPF_K
const NOTHING: SockFilter = SockFilter::new(RETURN, 0, 0, 0);
const ALL: SockFilter = SockFilter::new(RETURN, 0, 0, u32::MAX);

/// `SKF_AD_OFF + SKF_AD_PKTTYPE` of linux/filter.h: what the kernel takes the frame for.
const PACKET_TYPE: u32 = (-0x1000i32 + 4).cast_unsigned();
/// `PACKET_MULTICAST` of linux/if_packet.h. What leaves, is looped back or is another VLAN's has
/// another type.
const TO_A_GROUP: u32 = 2;
/// `SKF_LL_OFF` plus six: the source of the Ethernet header, which lies before the data.
const SOURCE: u32 = (-0x20_0000i32 + 6).cast_unsigned();

/// IP protocols that are read: VRRP and, before it, the authentication header.
const VRRP: u32 = 112;
const AUTHENTICATION: u32 = 51;
/// Extension headers of IPv6 that can stand before VRRP (RFC 8200 §4.1, §4.5, RFC 4302): hop-by-hop,
/// routing, fragment, authentication, destination. Routers never send them with adverts, so they are
/// not followed; they are read in order to be counted.
const EXTENSIONS: [u32; 5] = [0, 43, 44, AUTHENTICATION, 60];

/// Classic BPF over an IP datagram.
fn adverts_from(mac: Mac, ipv6: bool) -> Vec<SockFilter> {
    let [a, b, c, d, e, f] = mac.0;
    let load = |code, at| SockFilter::new(code, 0, 0, at);
    let unless_drop = |value| [SockFilter::new(JUMP_EQUAL, 1, 0, value), NOTHING];
    let if_take = |value| [SockFilter::new(JUMP_EQUAL, 0, 1, value), ALL];
    let mut program = vec![load(LOAD_BYTE, PACKET_TYPE)];
    program.extend(unless_drop(TO_A_GROUP));
    program.push(load(LOAD_WORD, SOURCE));
    program.extend(unless_drop(u32::from_be_bytes([a, b, c, d])));
    program.push(load(LOAD_HALF, SOURCE + 4));
    program.extend(unless_drop(u32::from_be_bytes([0, 0, e, f])));
    if ipv6 {
        program.push(load(LOAD_BYTE, 6));
        program.extend(if_take(VRRP));
        program.extend(EXTENSIONS.into_iter().flat_map(if_take));
    } else {
        program.push(load(LOAD_BYTE, 9));
        program.extend(if_take(VRRP));
        program.extend(unless_drop(AUTHENTICATION));
        // IPsec of other programs would wake us with every packet.
        program.extend([load(HEADER_LEN_TO_X, 0), load(LOAD_BYTE_AT_X, 0)]);
        program.extend(if_take(VRRP));
    }
    program.push(NOTHING);
    program
}
