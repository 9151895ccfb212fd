//! Raw sockets for adverts.
//!
//! One socket for each interface, family and IP protocol serves every VRID there, multicast and
//! unicast. The IP header is ours (`IP_HDRINCL`, `IPV6_HDRINCL`), because TOS, TTL, identification
//! and source address are part of what peers see.

use std::{
    io::{self, IoSliceMut, Read as _},
    net::{IpAddr, Ipv6Addr, SocketAddr},
    num::NonZeroU32,
    os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd},
};

use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, SockaddrIn6, recvmsg, setsockopt, sockopt::Ipv6RecvPacketInfo,
};
use socket2::{Domain, InterfaceIndexOrAddress, Protocol, SockAddr, SockFilter, Socket, Type};

/// IP protocol number of VRRP.
const VRRP: u8 = 112;
/// Bytes of an IPv6 header.
const IPV6_HEADER: usize = 40;
/// `TC_PRIO_CONTROL` of linux/pkt_sched.h: sent before other traffic by the default queueing
/// disciplines.
const PRIORITY_CONTROL: u32 = 7;
/// The best that is allowed without CAP_NET_ADMIN.
const PRIORITY_INTERACTIVE: u32 = 6;
/// Asked of the kernel for received adverts: room for several hundred, so that a process that was
/// stopped for seconds still reads what its peers said. At the bound the kernel drops new ones.
const RECEIVE_BUFFER: usize = 512 << 10;

/// What a socket carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Channel {
    /// Adverts over IPv4.
    V4,
    /// Adverts over IPv4 behind an authentication header.
    V4Ah,
    /// Adverts over IPv6.
    V6,
}

impl Channel {
    fn domain(self) -> Domain {
        if self == Self::V6 { Domain::IPV6 } else { Domain::IPV4 }
    }

    fn protocol(self) -> Protocol {
        Protocol::from(if self == Self::V4Ah { 51 } else { i32::from(VRRP) })
    }
}

/// A raw socket on one interface. Never blocks.
#[derive(Debug)]
pub struct VrrpSocket {
    socket: Socket,
    channel: Channel,
    interface: String,
    ifindex: u32,
}

impl VrrpSocket {
    /// Opens a socket bound to the interface of this index; the name is for errors. It is in no multicast group yet.
    ///
    /// # Errors
    /// The system call that failed, with the interface. Needs CAP_NET_RAW.
    pub fn open(interface: &str, ifindex: u32, channel: Channel) -> io::Result<Self> {
        let context = |what: &'static str| {
            move |error: io::Error| {
                io::Error::new(error.kind(), format!("{what} for VRRP on {interface}: {error}"))
            }
        };
        let socket = Socket::new(channel.domain(), Type::RAW, Some(channel.protocol()))
            .map_err(context("raw socket"))?;
        socket.set_nonblocking(true).map_err(context("non-blocking mode"))?;
        // Not by its name, which may be another's by now.
        let index = NonZeroU32::new(ifindex).ok_or_else(|| io::ErrorKind::NotFound.into());
        let bound = index.and_then(|index| match channel {
            Channel::V4 | Channel::V4Ah => socket.bind_device_by_index_v4(Some(index)),
            Channel::V6 => socket.bind_device_by_index_v6(Some(index)),
        });
        bound.map_err(context("bind to device"))?;
        match channel {
            Channel::V4 | Channel::V4Ah => {
                socket.set_header_included_v4(true).map_err(context("IP_HDRINCL"))?;
                socket.set_multicast_loop_v4(false).map_err(context("multicast loop off"))?;
                socket.set_multicast_all_v4(false).map_err(context("IP_MULTICAST_ALL off"))?;
            }
            Channel::V6 => {
                socket.set_header_included_v6(true).map_err(context("IPV6_HDRINCL"))?;
                socket.set_multicast_loop_v6(false).map_err(context("multicast loop off"))?;
                socket.set_multicast_all_v6(false).map_err(context("IPV6_MULTICAST_ALL off"))?;
                socket.set_recv_hoplimit_v6(true).map_err(context("IPV6_RECVHOPLIMIT"))?;
                setsockopt(&socket, Ipv6RecvPacketInfo, &true)
                    .map_err(|error| context("IPV6_RECVPKTINFO")(error.into()))?;
            }
        }
        if channel == Channel::V4Ah {
            // IPsec of other programs would wake us with every packet.
            socket.attach_filter(&next_header_is_vrrp()).map_err(context("filter"))?;
        }
        // Both are wishes: adverts work without.
        if socket.set_priority(PRIORITY_CONTROL).is_err() {
            let _ = socket.set_priority(PRIORITY_INTERACTIVE);
        }
        let _ = socket.set_recv_buffer_size(RECEIVE_BUFFER);
        Ok(Self { socket, channel, interface: interface.to_owned(), ifindex })
    }

    /// Joins a multicast group; one that is joined already is no error.
    ///
    /// # Errors
    /// The kernel's, such as too many groups, with group and interface.
    pub fn join(&self, group: IpAddr) -> io::Result<()> {
        let joined = match group {
            IpAddr::V4(group) => self
                .socket
                .join_multicast_v4_n(&group, &InterfaceIndexOrAddress::Index(self.ifindex)),
            IpAddr::V6(group) => self.socket.join_multicast_v6(&group, self.ifindex),
        };
        match joined {
            Err(error) if error.kind() != io::ErrorKind::AddrInUse => {
                let text = format!("join {group} for VRRP on {}: {error}", self.interface);
                Err(io::Error::new(error.kind(), text))
            }
            _ => Ok(()),
        }
    }

    /// Leaves a multicast group; one that was not joined is no error.
    ///
    /// # Errors
    /// The kernel's, with group and interface.
    pub fn leave(&self, group: IpAddr) -> io::Result<()> {
        let left = match group {
            IpAddr::V4(group) => self
                .socket
                .leave_multicast_v4_n(&group, &InterfaceIndexOrAddress::Index(self.ifindex)),
            IpAddr::V6(group) => self.socket.leave_multicast_v6(&group, self.ifindex),
        };
        match left {
            Err(error) if error.kind() != io::ErrorKind::AddrNotAvailable => {
                let text = format!("leave {group} for VRRP on {}: {error}", self.interface);
                Err(io::Error::new(error.kind(), text))
            }
            _ => Ok(()),
        }
    }

    /// Sends a whole IP datagram. The destination of its header and `destination` are the same.
    ///
    /// # Errors
    /// The kernel's, such as no route, network down, buffer full, longer than the MTU.
    pub fn send(&self, datagram: &[u8], destination: IpAddr) -> io::Result<()> {
        let mut address = SocketAddr::new(destination, 0);
        if let SocketAddr::V6(address) = &mut address {
            address.set_scope_id(self.ifindex);
        }
        let sent = self.socket.send_to(datagram, &SockAddr::from(address))?;
        if sent == datagram.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
    }

    /// The next datagram, from its IP header on; `None` when nothing waits. A longer one than
    /// `buffer` is cut, and then refused because its IP length says more.
    ///
    /// # Errors
    /// The kernel's. ENETDOWN is told once when the interface goes down.
    pub fn receive(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        let received = match self.channel {
            Channel::V4 | Channel::V4Ah => (&self.socket).read(buffer),
            Channel::V6 => self.receive_v6(buffer),
        };
        match received {
            Ok(len) => Ok(Some(len)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The kernel keeps the IPv6 header to itself: it is written again from what the kernel tells.
    fn receive_v6(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let (header, payload) =
            buffer.split_at_mut_checked(IPV6_HEADER).ok_or(io::ErrorKind::InvalidInput)?;
        let mut control = nix::cmsg_space!(libc::in6_pktinfo, libc::c_int);
        let mut parts = [IoSliceMut::new(payload)];
        let message = recvmsg::<SockaddrIn6>(
            self.socket.as_raw_fd(),
            &mut parts,
            Some(&mut control),
            MsgFlags::MSG_TRUNC,
        )?;
        let source = message.address.map_or(Ipv6Addr::UNSPECIFIED, |address| address.ip());
        let (mut destination, mut hop_limit) = (Ipv6Addr::UNSPECIFIED, 0);
        for part in message.cmsgs()? {
            match part {
                ControlMessageOwned::Ipv6PacketInfo(info) => {
                    destination = Ipv6Addr::from(info.ipi6_addr.s6_addr);
                }
                ControlMessageOwned::Ipv6HopLimit(limit) => {
                    hop_limit = u8::try_from(limit).unwrap_or(0);
                }
                _ => {}
            }
        }
        // With MSG_TRUNC the length is that of the datagram, whatever fitted.
        let len = message.bytes;
        header[..4].copy_from_slice(&(6u32 << 28).to_be_bytes());
        header[4..6].copy_from_slice(&u16::try_from(len).unwrap_or(u16::MAX).to_be_bytes());
        (header[6], header[7]) = (VRRP, hop_limit);
        header[8..24].copy_from_slice(&source.octets());
        header[24..].copy_from_slice(&destination.octets());
        Ok(IPV6_HEADER + len.min(buffer.len() - IPV6_HEADER))
    }
}

impl AsFd for VrrpSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for VrrpSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

/// Classic BPF over an IPv4 datagram: accept when the first byte behind the IP header, the next
/// header of an authentication header, is VRRP's number.
fn next_header_is_vrrp() -> [SockFilter; 5] {
    const HEADER_LEN_TO_X: u16 = 0xb1; // BPF_LDX | BPF_B | BPF_MSH
    const LOAD_BYTE_AT_X: u16 = 0x50; // BPF_LD | BPF_B | BPF_IND
    const JUMP_EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
    const RETURN: u16 = 0x06; // BPF_RET | BPF_K
    [
        SockFilter::new(HEADER_LEN_TO_X, 0, 0, 0),
        SockFilter::new(LOAD_BYTE_AT_X, 0, 0, 0),
        SockFilter::new(JUMP_EQUAL, 0, 1, u32::from(VRRP)),
        SockFilter::new(RETURN, 0, 0, u32::MAX),
        SockFilter::new(RETURN, 0, 0, 0),
    ]
}
