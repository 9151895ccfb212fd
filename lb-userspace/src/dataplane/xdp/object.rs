//! The kernel object that build.rs put into this binary.

use lb_common::hash::mix;

/// ELF bytes of the kernel object; empty when this binary was built without the BPF toolchain.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/lb-ebpf"));

/// ELF bytes of the bench's wrapper and floors, which `lbd` does not refer to and so does not
/// carry; empty as [`OBJECT`].
pub static BENCH_OBJECT: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/lb-ebpf-bench"));

/// The object's bytes.
///
/// # Errors
/// Which tool was missing when this binary was built.
pub fn bytes() -> Result<&'static [u8], String> {
    if OBJECT.is_empty() {
        let missing = option_env!("LBD_BPF_MISSING").unwrap_or("the BPF toolchain was missing");
        return Err(format!(
            "this lbd was built without its kernel object ({missing}); run `cargo xtask setup`, \
             then `cargo xtask build`"
        ));
    }
    Ok(OBJECT)
}

/// Tells one object from another. Never 0.
pub fn hash(bytes: &[u8]) -> u64 {
    bytes
        .chunks(8)
        .fold(mix(bytes.len() as u64 + 1), |hash, chunk| {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            mix(hash ^ u64::from_le_bytes(word)).wrapping_add(hash.rotate_left(17))
        })
        .max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_counts() {
        let base = hash(b"0123456789abcdef0");
        for other in [&b"0123456789abcdef1"[..], b"1123456789abcdef0", b"0123456789abcdef", b""] {
            assert_ne!(hash(other), base);
        }
        assert_ne!(hash(&[0; 8]), hash(&[0; 16]));
        assert_eq!(hash(b"0123456789abcdef0"), base);
    }
}
