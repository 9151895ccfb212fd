//! Addresses of packet sockets, which nix can read and not make.
#![allow(unsafe_code, reason = "LinkAddr has no safe constructor")]

use nix::sys::socket::{LinkAddr, SockaddrLike as _};

/// The interface of this index, no protocol: a socket that is bound to it keeps its own.
pub(super) fn packet_address(index: u32) -> Option<LinkAddr> {
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: 0,
        sll_ifindex: i32::try_from(index).ok()?,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    let len = libc::socklen_t::try_from(size_of_val(&address)).ok()?;
    // SAFETY: the pointer is to a live sockaddr_ll of this length, which is copied.
    unsafe { LinkAddr::from_raw(std::ptr::from_ref(&address).cast(), Some(len)) }
}
