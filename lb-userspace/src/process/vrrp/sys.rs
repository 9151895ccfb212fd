//! Registration of descriptors with the reactor, which tokio marks unsafe, and system calls of the
//! scheduler that nix does not have.
#![allow(unsafe_code, reason = "AsyncFd::register has no safe form that is not deprecated")]

use std::{io, os::fd::OwnedFd};

use tokio::io::unix::AsyncFd;

use crate::io::{
    link::{ClaimSocket, VmacSocket},
    vrrp::VrrpSocket,
};

/// An advert socket.
pub(super) fn advert_socket(socket: VrrpSocket) -> io::Result<AsyncFd<VrrpSocket>> {
    // SAFETY: the socket owns its descriptor, returns the same one always, and closes it only when
    // it is dropped, which the `AsyncFd` that owns it now does after deregistering.
    unsafe { AsyncFd::register(socket) }.map_err(Into::into)
}

/// A socket for what others say of VIPs.
pub(super) fn claim_socket(socket: ClaimSocket) -> io::Result<AsyncFd<ClaimSocket>> {
    // SAFETY: as of `advert_socket`.
    unsafe { AsyncFd::register(socket) }.map_err(Into::into)
}

/// A socket for adverts from a virtual MAC.
pub(super) fn vmac_socket(socket: VmacSocket) -> io::Result<AsyncFd<VmacSocket>> {
    // SAFETY: as of `advert_socket`.
    unsafe { AsyncFd::register(socket) }.map_err(Into::into)
}

/// A timer's descriptor.
pub(super) fn timer(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` owns its descriptor and closes it only when it is dropped, which the
    // `AsyncFd` that owns it now does after deregistering.
    unsafe { AsyncFd::register(descriptor) }.map_err(Into::into)
}

/// Niceness of this process.
pub(super) fn set_nice(nice: i32) -> nix::Result<()> {
    // SAFETY: takes integers only; 0 means the caller.
    nix::errno::Errno::result(unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, nice) }).map(drop)
}

/// SCHED_RR for the calling thread and those it starts.
pub(super) fn set_round_robin(priority: i32) -> nix::Result<()> {
    let parameters = libc::sched_param { sched_priority: priority };
    // SAFETY: the pointer is to a live struct that the call only reads; 0 means the caller.
    let outcome = unsafe { libc::sched_setscheduler(0, libc::SCHED_RR, &parameters) };
    nix::errno::Errno::result(outcome).map(drop)
}
