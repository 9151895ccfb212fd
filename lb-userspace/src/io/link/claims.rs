//! What other hosts of one interface say of some addresses: by ARP of IPv4 addresses, by neighbour advertisements of
//! IPv6 addresses.

use std::{
    io::{self, Read as _},
    net::IpAddr,
    os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd},
};

use nix::sys::socket::bind;
use socket2::{Domain, Protocol, SockFilter, Socket, Type};

use super::send::address_at;

/// EtherTypes.
const ARP: u16 = 0x0806;
const IPV6: u16 = 0x86dd;
/// Addresses that the kernel's filter can tell apart (two instructions each); with more of them
/// every packet of the kind is read, and the reader sorts them out. So many fit into the 20 KiB that a socket may have
/// for options (`net.core.optmem_max`) before Linux 6.7.
const FILTER_LIMIT: usize = 500;

/// A packet socket that receives what is said of watched addresses only, so that the chatter of a large LAN does not
/// wake its owner. Never blocks.
#[derive(Debug)]
pub struct ClaimSocket {
    socket: Socket,
    ipv6: bool,
}

impl ClaimSocket {
    /// Opens a socket on the interface of this index, whatever its name is by now; it watches nobody yet.
    ///
    /// # Errors
    /// The system call that failed, with the interface. Needs CAP_NET_RAW.
    pub fn open_at(interface: &str, index: u32, ipv6: bool) -> io::Result<Self> {
        let (ethertype, kind) = if ipv6 { (IPV6, "ND") } else { (ARP, "ARP") };
        let context = |what: &str, error: io::Error| {
            io::Error::new(error.kind(), format!("{what} for {kind} on {interface}: {error}"))
        };
        let address =
            address_at(index).map_err(|error| context("index of the interface", error))?;
        let protocol = Protocol::from(i32::from(ethertype.to_be()));
        // One protocol: the kernel shows frames that leave only to sockets of all protocols.
        let socket = Socket::new(Domain::PACKET, Type::RAW, Some(protocol))
            .map_err(|error| context("packet socket", error))?;
        let socket = Self { socket, ipv6 };
        // Until it is bound it would receive from every interface.
        socket.watch(&[]).map_err(|error| context("filter", error))?;
        socket.socket.set_nonblocking(true).map_err(|error| context("non-blocking mode", error))?;
        // The address has no protocol, so the kernel keeps the socket's.
        bind(socket.as_raw_fd(), &address).map_err(|error| context("bind", error.into()))?;
        let mut byte = [0];
        while socket.receive(&mut byte)?.is_some() {}
        Ok(socket)
    }

    /// Receives from now on what is said of these addresses; those of the other family are none of its business.
    ///
    /// # Errors
    /// The kernel's, such as too little memory for the filter.
    pub fn watch(&self, addresses: &[IpAddr]) -> io::Result<()> {
        self.socket.attach_filter(&filter(self.ipv6, addresses))
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

impl AsFd for ClaimSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for ClaimSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

/// Classic BPF over the frame. ARP: accept when the sender's protocol address, 28 bytes into it, is one of these. IPv6: when
/// it is a neighbour advertisement whose target ends with the last four bytes of one of these. A packet that is too
/// short for a load is dropped by the kernel.
fn filter(ipv6: bool, addresses: &[IpAddr]) -> Vec<SockFilter> {
    const LOAD_WORD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
    const LOAD_BYTE: u16 = 0x30; // BPF_LD | BPF_B | BPF_ABS
    const JUMP_EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
    const RETURN: u16 = 0x06; // BPF_RET | BPF_K
    /// Where the next header, the type and the end of the target stand, and what they are.
    const ADVERTISEMENT: [(u32, u32); 2] = [(20, 58), (54, 136)];
    const TARGET_END: u32 = 74;
    const SENDER: u32 = 28;
    let op = |code, jf, k| SockFilter::new(code, 0, jf, k);
    let mut program = Vec::new();
    for (at, wanted) in ADVERTISEMENT.into_iter().filter(|_| ipv6) {
        // Equal: over the refusal.
        let equal = SockFilter::new(JUMP_EQUAL, 1, 0, wanted);
        program.extend([op(LOAD_BYTE, 0, at), equal, op(RETURN, 0, 0)]);
    }
    let words: Vec<u32> = addresses.iter().filter_map(|it| word(*it, ipv6)).collect();
    if words.len() > FILTER_LIMIT {
        program.push(op(RETURN, 0, u32::MAX));
        return program;
    }
    program.push(op(LOAD_WORD, 0, if ipv6 { TARGET_END } else { SENDER }));
    for word in words {
        program.extend([op(JUMP_EQUAL, 1, word), op(RETURN, 0, u32::MAX)]);
    }
    program.push(op(RETURN, 0, 0));
    program
}

/// What the filter compares of an address of this family.
fn word(address: IpAddr, ipv6: bool) -> Option<u32> {
    match address {
        IpAddr::V4(address) => (!ipv6).then(|| u32::from(address)),
        IpAddr::V6(address) => {
            let [.., a, b, c, d] = address.octets();
            ipv6.then(|| u32::from_be_bytes([a, b, c, d]))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    #[test]
    fn the_filter_grows_with_the_addresses_up_to_its_limit() {
        let four = |count: usize| vec![IpAddr::V4(Ipv4Addr::new(10, 77, 0, 100)); count];
        assert_eq!(filter(false, &[]).len(), 2, "accepts nothing");
        assert_eq!(filter(false, &four(3)).len(), 8);
        assert_eq!(filter(false, &four(FILTER_LIMIT)).len(), 2 * FILTER_LIMIT + 2);
        assert_eq!(filter(false, &four(FILTER_LIMIT + 1)).len(), 1, "accepts everything");
        let six = |count: usize| vec![IpAddr::V6(Ipv6Addr::LOCALHOST); count];
        assert_eq!(filter(true, &four(3)).len(), filter(true, &[]).len(), "none of its family");
        assert_eq!(filter(true, &six(3)).len(), 6 + 8);
        assert_eq!(filter(true, &six(FILTER_LIMIT + 1)).len(), 6 + 1, "every advertisement");
    }
}
