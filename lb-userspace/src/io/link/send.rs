//! Whole frames out of one interface.

use std::{io, os::fd::AsRawFd as _};

use nix::{
    net::if_::if_nametoindex,
    sys::socket::{LinkAddr, bind},
};
use socket2::{Domain, Protocol, Socket, Type};

use super::sys::packet_address;

/// A packet socket that only sends. Never blocks.
#[derive(Debug)]
pub struct FrameSocket {
    socket: Socket,
}

impl FrameSocket {
    /// Opens a socket on `interface`.
    ///
    /// # Errors
    /// The system call that failed, with the interface. Needs CAP_NET_RAW.
    pub fn open(interface: &str) -> io::Result<Self> {
        Self::bound(link_address(interface)).map_err(|error| context(interface, &error))
    }

    /// Opens a socket on the interface of this index. No system call of it waits for rtnetlink's
    /// lock, which others may hold for long.
    ///
    /// # Errors
    /// As [`FrameSocket::open`].
    pub fn open_at(interface: &str, index: u32) -> io::Result<Self> {
        Self::bound(address_at(index)).map_err(|error| context(interface, &error))
    }

    fn bound(address: io::Result<LinkAddr>) -> io::Result<Self> {
        let address = address?;
        // No protocol: it receives nothing, and the kernel reads each frame's own from the frame.
        let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(0)))?;
        socket.set_nonblocking(true)?;
        bind(socket.as_raw_fd(), &address)?;
        Ok(Self { socket })
    }

    /// Sends a frame.
    ///
    /// # Errors
    /// The kernel's, such as network down or buffer full.
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        self.socket.send(frame).map(drop)
    }
}

fn context(interface: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("packet socket for frames on {interface}: {error}"))
}

/// What a packet socket on this interface is bound to.
pub(super) fn link_address(interface: &str) -> io::Result<LinkAddr> {
    address_at(if_nametoindex(interface)?)
}

/// The same of its index.
pub(super) fn address_at(index: u32) -> io::Result<LinkAddr> {
    packet_address(index).ok_or_else(|| io::ErrorKind::NotFound.into())
}
