//! Raw sockets for adverts over IPv4.
//!
//! One socket for each interface serves every VRID on it, multicast and unicast. The IP header is
//! ours (`IP_HDRINCL`), because TOS, TTL and identification are part of what peers see.

use std::{
    io::{self, Read as _},
    net::{Ipv4Addr, SocketAddrV4},
    os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd},
};

use socket2::{Domain, InterfaceIndexOrAddress, Protocol, SockAddr, Socket, Type};

/// IP protocol number of VRRP.
const PROTOCOL: i32 = 112;
/// Where multicast adverts come to.
const GROUP: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 18);
/// `TC_PRIO_CONTROL` of linux/pkt_sched.h: sent before other traffic by the default queueing
/// disciplines.
const PRIORITY_CONTROL: u32 = 7;
/// The best that is allowed without CAP_NET_ADMIN.
const PRIORITY_INTERACTIVE: u32 = 6;
/// Asked of the kernel for received adverts: room for several hundred, so that a process that was
/// stopped for seconds still reads what its peers said. At the bound the kernel drops new ones.
const RECEIVE_BUFFER: usize = 512 << 10;

/// A raw socket on one interface. Never blocks.
#[derive(Debug)]
pub struct VrrpSocket {
    socket: Socket,
}

impl VrrpSocket {
    /// Opens a socket bound to `interface` and joins the VRRP group on it.
    ///
    /// # Errors
    /// The system call that failed, with the interface. Needs CAP_NET_RAW.
    pub fn open(interface: &str, ifindex: u32) -> io::Result<Self> {
        let context = |what: &'static str| {
            move |error: io::Error| {
                io::Error::new(error.kind(), format!("{what} for VRRP on {interface}: {error}"))
            }
        };
        let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(PROTOCOL)))
            .map_err(context("raw socket"))?;
        socket.set_nonblocking(true).map_err(context("non-blocking mode"))?;
        socket.bind_device(Some(interface.as_bytes())).map_err(context("bind to device"))?;
        socket.set_header_included_v4(true).map_err(context("IP_HDRINCL"))?;
        socket.set_multicast_loop_v4(false).map_err(context("multicast loop off"))?;
        socket.set_multicast_all_v4(false).map_err(context("IP_MULTICAST_ALL off"))?;
        socket
            .join_multicast_v4_n(&GROUP, &InterfaceIndexOrAddress::Index(ifindex))
            .map_err(context("join 224.0.0.18"))?;
        // Both are wishes: adverts work without.
        if socket.set_priority(PRIORITY_CONTROL).is_err() {
            let _ = socket.set_priority(PRIORITY_INTERACTIVE);
        }
        let _ = socket.set_recv_buffer_size(RECEIVE_BUFFER);
        Ok(Self { socket })
    }

    /// Sends a whole IP datagram. The destination of its header and `destination` are the same.
    ///
    /// # Errors
    /// The kernel's, such as no route, network down, buffer full.
    pub fn send(&self, datagram: &[u8], destination: Ipv4Addr) -> io::Result<()> {
        let address = SockAddr::from(SocketAddrV4::new(destination, 0));
        let sent = self.socket.send_to(datagram, &address)?;
        if sent == datagram.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
    }

    /// The next datagram, from its IP header on; `None` when nothing waits. A longer one than
    /// `buffer` is cut, and then refused because its IP length says more.
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
