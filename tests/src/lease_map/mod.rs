//! The pinned lease map and clock program of a data plane, without the data plane: for tests of the vrrp role,
//! which writes the one and runs the other.

mod sys;

use std::{fs, io, os::fd::OwnedFd, path::PathBuf};

use lb_common::maps;
use lb_userspace::base::table::LeaseSlot;

use self::sys::Instruction;

/// Both, pinned in a folder of their own on bpffs, which goes with it.
#[derive(Debug)]
pub struct LeaseMap {
    folder: PathBuf,
    map: OwnedFd,
    /// Kept, so that it can be pinned again.
    clock: OwnedFd,
}

impl LeaseMap {
    /// Makes both. `name` tells apart those of one process.
    ///
    /// # Errors
    /// Without bpffs, or what it needs of bpf(2).
    pub fn new(name: &str) -> io::Result<Self> {
        let name = format!("/sys/fs/bpf/lbd-test-{name}-{}", std::process::id());
        let folder = PathBuf::from(name);
        let it = Self { folder, map: new_map()?, clock: sys::load(&CLOCK)? };
        it.pin()?;
        Ok(it)
    }

    /// Where they are pinned.
    pub fn folder(&self) -> PathBuf {
        self.folder.clone()
    }

    fn pin(&self) -> io::Result<()> {
        fs::create_dir_all(&self.folder)?;
        sys::pin(&self.map, &self.folder.join(maps::LEASE))?;
        sys::pin(&self.clock, &self.folder.join(maps::CLOCK_PROGRAM))
    }

    /// From now on no write by a system call is taken; programs read on.
    ///
    /// # Errors
    /// The kernel's.
    pub fn freeze(&self) -> io::Result<()> {
        sys::freeze(&self.map)
    }

    /// Takes the pins away.
    ///
    /// # Errors
    /// The file system's.
    pub fn unpin(&self) -> io::Result<()> {
        fs::remove_dir_all(&self.folder)
    }

    /// Puts another map in its place, as the forwarder does that finds its pins gone.
    ///
    /// # Errors
    /// As [`LeaseMap::new`].
    pub fn replace(&mut self) -> io::Result<()> {
        if self.folder.exists() {
            self.unpin()?;
        }
        self.map = new_map()?;
        self.pin()
    }

    /// What the program compares jiffies with.
    ///
    /// # Errors
    /// The kernel's.
    pub fn word(&self, slot: LeaseSlot) -> io::Result<u64> {
        sys::look_up(&self.map, u32::from(slot.0))
    }
}

impl Drop for LeaseMap {
    fn drop(&mut self) {
        let _ = self.unpin(); // it may be unpinned already
    }
}

fn new_map() -> io::Result<OwnedFd> {
    sys::array(2 * maps::LEASES)
}

/// `lbd_clock` of lb-ebpf by hand: jiffies64 and CLOCK_MONOTONIC into the first 16 bytes of the packet.
const CLOCK: [Instruction; 11] = [
    Instruction::new(0x61, 6, 1, 0, 0),   // r6 = data (struct xdp_md)
    Instruction::new(0x61, 7, 1, 4, 0),   // r7 = data_end
    Instruction::new(0xbf, 2, 6, 0, 0),   // r2 = r6
    Instruction::new(0x07, 2, 0, 0, 16),  // r2 += 16
    Instruction::new(0x2d, 2, 7, 4, 0),   // if r2 > r7 goto the end
    Instruction::new(0x85, 0, 0, 0, 118), // r0 = bpf_jiffies64()
    Instruction::new(0x7b, 6, 0, 0, 0),   // *(u64 *)r6 = r0
    Instruction::new(0x85, 0, 0, 0, 5),   // r0 = bpf_ktime_get_ns()
    Instruction::new(0x7b, 6, 0, 8, 0),   // *(u64 *)(r6 + 8) = r0
    Instruction::new(0xb7, 0, 0, 0, 2),   // r0 = XDP_PASS
    Instruction::new(0x95, 0, 0, 0, 0),   // exit
];
