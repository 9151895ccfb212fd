//! Internet checksum (RFC 1071) and its incremental update (RFC 1624, equation 3).
//!
//! All words are taken as they lie in the packet: the ones' complement sum does not care about
//! byte order as long as both sides use the same.

/// Folds a sum of 16-bit words to 16 bits.
pub const fn fold(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

/// Sum to add, later folded, when a 16-bit word changes from `old` to `new`: ~m + m'.
pub const fn delta16(old: u16, new: u16) -> u32 {
    !old as u32 + new as u32
}

/// The same for a 32-bit word at an even offset.
pub const fn delta32(old: u32, new: u32) -> u32 {
    let (old, new) = (!old, new);
    (old & 0xffff) + (old >> 16) + (new & 0xffff) + (new >> 16)
}

/// The delta of the opposite change.
pub const fn reverse(delta: u16) -> u16 {
    !delta
}

/// HC' = ~(~HC + delta): the checksum field after a change described by a delta.
pub const fn update(check: u16, delta: u16) -> u16 {
    !fold(!check as u32 + delta as u32)
}

/// Sum of the two halves of a 32-bit word.
pub const fn sum32(word: u32) -> u32 {
    (word & 0xffff) + (word >> 16)
}

/// Checksum field for a complete sum.
pub const fn finish(sum: u32) -> u16 {
    !fold(sum)
}
