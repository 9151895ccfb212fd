//! ARP out of and into one interface: gratuitous ARP, probes, and what others say of some addresses.

use std::{
    io::{self, Read as _},
    net::Ipv4Addr,
    os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd},
};

use nix::sys::socket::{LinkAddr, bind};
use socket2::{Domain, Protocol, SockFilter, Socket, Type};

use super::send::{address_at, link_address};

/// EtherType of ARP.
const ETHERTYPE: u16 = 0x0806;
/// Addresses that the kernel's filter can tell apart (two instructions each); with more of them
/// every ARP packet is read, and the reader sorts them out.
const FILTER_LIMIT: usize = 1000;

/// A packet socket that sends frames, and receives ARP of watched senders only, so that the
/// chatter of a large LAN does not wake its owner. Never blocks.
#[derive(Debug)]
pub struct ArpSocket {
    socket: Socket,
}

impl ArpSocket {
    /// Opens a socket on `interface`; it watches nobody yet.
    ///
    /// # Errors
    /// The system call that failed, with the interface. Needs CAP_NET_RAW.
    pub fn open(interface: &str) -> io::Result<Self> {
        Self::bound(interface, link_address(interface))
    }

    /// Opens a socket on the interface of this index, whatever its name is by now.
    ///
    /// # Errors
    /// As [`ArpSocket::open`].
    pub fn open_at(interface: &str, index: u32) -> io::Result<Self> {
        Self::bound(interface, address_at(index))
    }

    fn bound(interface: &str, address: io::Result<LinkAddr>) -> io::Result<Self> {
        let context = |what: &str, error: io::Error| {
            io::Error::new(error.kind(), format!("{what} for ARP on {interface}: {error}"))
        };
        let address = address.map_err(|error| context("index of the interface", error))?;
        let protocol = Protocol::from(i32::from(ETHERTYPE.to_be()));
        let socket = Socket::new(Domain::PACKET, Type::RAW, Some(protocol))
            .map_err(|error| context("packet socket", error))?;
        let socket = Self { socket };
        // Until it is bound it would receive from every interface.
        socket.watch(&[]).map_err(|error| context("filter", error))?;
        socket.socket.set_nonblocking(true).map_err(|error| context("non-blocking mode", error))?;
        // The address has no protocol, so the kernel keeps the socket's.
        bind(socket.as_raw_fd(), &address).map_err(|error| context("bind", error.into()))?;
        let mut byte = [0];
        while socket.receive(&mut byte)?.is_some() {}
        Ok(socket)
    }

    /// Receives from now on ARP packets whose sender address is one of `senders`.
    ///
    /// # Errors
    /// The kernel's, such as too little memory for the filter.
    pub fn watch(&self, senders: &[Ipv4Addr]) -> io::Result<()> {
        self.socket.attach_filter(&filter(senders))
    }

    /// Sends a whole frame.
    ///
    /// # Errors
    /// The kernel's, such as network down or buffer full.
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        self.socket.send(frame).map(drop)
    }

    /// The next frame, cut to `buffer`; `None` when nothing waits.
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

impl AsFd for ArpSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for ArpSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

/// Classic BPF: accept when the sender's protocol address, 28 bytes into the frame, is one of
/// these. A packet that is too short for the load is dropped by the kernel.
fn filter(senders: &[Ipv4Addr]) -> Vec<SockFilter> {
    const LOAD_WORD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
    const JUMP_EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
    const RETURN: u16 = 0x06; // BPF_RET | BPF_K
    let op = |code, jf, k| SockFilter::new(code, 0, jf, k);
    if senders.len() > FILTER_LIMIT {
        return vec![op(RETURN, 0, u32::MAX)];
    }
    let mut program = vec![op(LOAD_WORD, 0, 28)];
    for sender in senders {
        program.extend([op(JUMP_EQUAL, 1, u32::from(*sender)), op(RETURN, 0, u32::MAX)]);
    }
    program.push(op(RETURN, 0, 0));
    program
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filter_grows_with_the_addresses_up_to_its_limit() {
        let senders = |count: usize| vec![Ipv4Addr::new(10, 77, 0, 100); count];
        assert_eq!(filter(&[]).len(), 2, "accepts nothing");
        assert_eq!(filter(&senders(3)).len(), 8);
        assert_eq!(filter(&senders(FILTER_LIMIT)).len(), 2002);
        assert_eq!(filter(&senders(FILTER_LIMIT + 1)).len(), 1, "accepts everything");
    }
}
