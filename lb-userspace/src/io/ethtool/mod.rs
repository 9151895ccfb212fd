//! Driver and offloads of an interface, by ethtool's ioctl.

mod sys;

use std::io;

// linux/ethtool.h.
const GET_FLAGS: u32 = 0x25;
const FLAG_LRO: u32 = 1 << 15;

/// The name of an interface's driver.
///
/// # Errors
/// When the interface has none that says so.
pub fn driver(interface: &str) -> io::Result<String> {
    sys::driver(interface)
}

/// Whether the card puts segments together (LRO), with which most drivers take no XDP program.
///
/// # Errors
/// When the driver does not say.
pub fn has_lro(interface: &str) -> io::Result<bool> {
    Ok(sys::value(interface, GET_FLAGS)? & FLAG_LRO != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_that_is_not_there_has_no_driver() {
        for name in ["lbd-none", "a name that is much too long"] {
            assert!(driver(name).is_err() && has_lro(name).is_err(), "{name}");
        }
        assert!(!has_lro("lo").expect("lo answers"));
    }
}
