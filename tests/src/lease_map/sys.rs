//! bpf(2) for a map and a program that no object file has.
#![expect(unsafe_code, reason = "bpf(2) has no safe face for these commands")]
#![allow(clippy::cast_possible_truncation, reason = "descriptors and counts are small")]

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

/// `struct bpf_insn`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(super) struct Instruction {
    code: u8,
    registers: u8,
    offset: i16,
    immediate: i32,
}

impl Instruction {
    pub const fn new(code: u8, to: u8, from: u8, offset: i16, immediate: i32) -> Self {
        Self { code, registers: to | from << 4, offset, immediate }
    }
}

// enum bpf_cmd
const MAP_CREATE: libc::c_long = 0;
const MAP_LOOKUP_ELEM: libc::c_long = 1;
const PROG_LOAD: libc::c_long = 5;
const OBJ_PIN: libc::c_long = 6;
const MAP_FREEZE: libc::c_long = 22;
/// BPF_MAP_TYPE_ARRAY
const ARRAY: u32 = 2;
/// BPF_PROG_TYPE_XDP
const XDP: u32 = 6;

/// Leading words of `union bpf_attr`; what a command does not know has to be zero.
type Words = [u64; 16];

fn low_high(low: u32, high: u32) -> u64 {
    u64::from(low) | u64::from(high) << 32
}

fn number(of: &OwnedFd) -> u32 {
    of.as_raw_fd().cast_unsigned()
}

fn bpf(command: libc::c_long, words: &Words) -> io::Result<libc::c_int> {
    // SAFETY: the words are a whole, initialised attribute of that size; what they point to outlives the call
    // (callers), which writes to a look-up's value only.
    let done = unsafe { libc::syscall(libc::SYS_bpf, command, words.as_ptr(), size_of::<Words>()) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(done as libc::c_int) }
}

fn descriptor(of: libc::c_int) -> OwnedFd {
    // SAFETY: the kernel has just opened it for us, and nobody else knows it.
    unsafe { OwnedFd::from_raw_fd(of) }
}

/// An ARRAY of u64.
pub(super) fn array(entries: u32) -> io::Result<OwnedFd> {
    let mut words = Words::default();
    (words[0], words[1]) = (low_high(ARRAY, 4), low_high(8, entries));
    bpf(MAP_CREATE, &words).map(descriptor)
}

pub(super) fn look_up(map: &OwnedFd, key: u32) -> io::Result<u64> {
    let mut value = 0u64;
    let mut words = Words::default();
    words[0] = u64::from(number(map));
    (words[1], words[2]) = ((&raw const key) as u64, (&raw mut value) as u64);
    bpf(MAP_LOOKUP_ELEM, &words)?;
    Ok(value)
}

/// An XDP program.
pub(super) fn load(program: &[Instruction]) -> io::Result<OwnedFd> {
    let mut words = Words::default();
    words[0] = low_high(XDP, program.len() as u32);
    (words[1], words[2]) = (program.as_ptr() as u64, c"GPL".as_ptr() as u64);
    bpf(PROG_LOAD, &words).map(descriptor)
}

pub(super) fn pin(what: &OwnedFd, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut words = Words::default();
    (words[0], words[1]) = (path.as_ptr() as u64, u64::from(number(what)));
    bpf(OBJ_PIN, &words).map(drop)
}

/// No write by system calls any more.
pub(super) fn freeze(map: &OwnedFd) -> io::Result<()> {
    let mut words = Words::default();
    words[0] = u64::from(number(map));
    bpf(MAP_FREEZE, &words).map(drop)
}
