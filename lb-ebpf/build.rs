//! Arguments of bpf-linker, which generates the code of the whole object.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    if std::env::var("CARGO_CFG_TARGET_ARCH").as_deref() != Ok("bpf") {
        return;
    }
    // Otherwise memset and memmove are called for every small array.
    println!("cargo:rustc-link-arg-bins=--disable-expand-memcpy-in-order");
}
