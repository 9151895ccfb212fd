//! SIOCETHTOOL, which no library of ours has.
#![allow(unsafe_code, reason = "an ioctl whose argument is a pointer within a structure")]

use std::{io, net::UdpSocket, os::fd::AsRawFd as _};

const SIOCETHTOOL: libc::c_ulong = 0x8946;
const GET_DRIVER: u32 = 0x3;

/// `struct ethtool_drvinfo`.
#[repr(C)]
struct DriverInfo {
    command: u32,
    driver: [u8; 32],
    rest: [u8; 128],
    reserved: [u8; 12],
    counts: [u32; 5],
}

/// `struct ethtool_value`.
#[repr(C)]
struct Value {
    command: u32,
    data: u32,
}

/// Carries a request out on an interface. `T` begins with the command, and is as long as the kernel expects of it.
fn ask<T>(interface: &str, request: &mut T) -> io::Result<()> {
    // SAFETY: a C structure of integers, arrays and pointers, for which zero bytes are a value.
    let mut ifreq: libc::ifreq = unsafe { std::mem::zeroed() };
    let name = interface.as_bytes();
    // The last byte stays zero.
    if name.len() >= ifreq.ifr_name.len() {
        return Err(io::Error::from_raw_os_error(libc::ENODEV));
    }
    for (place, byte) in ifreq.ifr_name.iter_mut().zip(name) {
        *place = *byte as libc::c_char;
    }
    ifreq.ifr_ifru.ifru_data = std::ptr::from_mut(request).cast();
    let socket = UdpSocket::bind(("0.0.0.0", 0))?;
    // SAFETY: `ifreq` is a valid request whose data points to `request`, which the kernel writes within its length,
    // known from its command, and both outlive the call.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL as _, &raw mut ifreq) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

pub(super) fn driver(interface: &str) -> io::Result<String> {
    let mut info = DriverInfo {
        command: GET_DRIVER,
        driver: [0; 32],
        rest: [0; 128],
        reserved: [0; 12],
        counts: [0; 5],
    };
    ask(interface, &mut info)?;
    let name = info.driver.split(|byte| *byte == 0).next().unwrap_or_default();
    Ok(String::from_utf8_lossy(name).into_owned())
}

pub(super) fn value(interface: &str, command: u32) -> io::Result<u32> {
    let mut value = Value { command, data: 0 };
    ask(interface, &mut value)?;
    Ok(value.data)
}
