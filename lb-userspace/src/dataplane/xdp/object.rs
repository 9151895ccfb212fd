//! The kernel object that build.rs made.

/// ELF bytes of the kernel object; empty when this binary was built without the BPF toolchain.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/lb-ebpf"));
