//! The allocator's one call that std and nix do not have.
#![allow(unsafe_code, reason = "malloc_trim is a function of the C library")]

/// Gives freed memory back to the kernel. Reading a configuration, or the kernel's type information
/// for the XDP program, takes megabytes for a moment, which the allocator would keep for ever.
/// To be called when that is done; it takes well under a millisecond.
pub(super) fn trim() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes an integer only, and moves nothing that is in use.
    unsafe {
        libc::malloc_trim(0);
    }
}
