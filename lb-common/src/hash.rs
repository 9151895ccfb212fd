//! Hashes that user space and the kernel object must compute alike.

use crate::abi::{Addr, Be16, Be32, FILTER_LEN, RING_LEN};

/// Index of an address in [`crate::abi::Filter`].
#[inline(always)]
pub const fn filter_fold(addr: Be32) -> usize {
    // Multiplicative hashing; the top bits of the product depend on all bits of the address.
    (addr.wrapping_mul(0x9e37_79b1) >> 20) as usize & (FILTER_LEN - 1)
}

/// The same of an IPv6 address.
#[inline(always)]
pub const fn filter_fold6(addr: &Addr) -> usize {
    let [a, b, c, d] = addr.words;
    filter_fold(a ^ b.rotate_left(8) ^ c.rotate_left(16) ^ d.rotate_left(5))
}

/// Finaliser of a 64-bit hash: every input bit reaches every output bit.
#[inline(always)]
pub const fn mix(mut x: u64) -> u64 {
    x ^= x >> 33;
    x = x.wrapping_mul(0xff51_afd7_ed55_8ccd);
    x ^= x >> 33;
    x = x.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    x ^ (x >> 33)
}

/// Hash of a client for `mh` and `sh`, the same on every host: by its address and, unless that is 0, its port.
#[inline(always)]
pub const fn client(addr: Be32, port: Be16) -> u64 {
    mix(((u32::from_be(addr) as u64) << 16) | u16::from_be(port) as u64)
}

/// The same of an IPv6 client.
#[inline(always)]
pub const fn client6(addr: &Addr, port: Be16) -> u64 {
    let [a, b, c, d] = addr.words;
    let high = ((u32::from_be(a) as u64) << 32) | u32::from_be(b) as u64;
    let low = ((u32::from_be(c) as u64) << 32) | u32::from_be(d) as u64;
    mix(mix(mix(high) ^ low).wrapping_add(u16::from_be(port) as u64))
}

/// Ring slot of a hash, below [`RING_LEN`].
#[inline(always)]
pub const fn ring_slot(hash: u64) -> usize {
    // The high half spreads over the slots without a division.
    (((hash >> 32) * RING_LEN as u64) >> 32) as usize
}
