//! Whole frames out of one interface.

use std::{io, os::fd::AsRawFd as _};

use nix::{
    ifaddrs::getifaddrs,
    sys::socket::{LinkAddr, bind},
};
use socket2::{Domain, Protocol, Socket, Type};

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
        let context = |what: &str, error: io::Error| {
            io::Error::new(error.kind(), format!("{what} for frames on {interface}: {error}"))
        };
        let address = link_address(interface)
            .map_err(|error| context("address of the interface", error))?
            .ok_or_else(|| context("address of the interface", io::ErrorKind::NotFound.into()))?;
        // No protocol: it receives nothing, and the kernel reads each frame's own from the frame.
        let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(0)))
            .map_err(|error| context("packet socket", error))?;
        socket.set_nonblocking(true).map_err(|error| context("non-blocking mode", error))?;
        bind(socket.as_raw_fd(), &address).map_err(|error| context("bind", error.into()))?;
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

/// The link-layer address of an interface, with its index.
pub(super) fn link_address(interface: &str) -> io::Result<Option<LinkAddr>> {
    Ok(getifaddrs()?
        .filter(|it| it.interface_name == interface)
        .find_map(|it| it.address.as_ref().and_then(|address| address.as_link_addr().copied())))
}
