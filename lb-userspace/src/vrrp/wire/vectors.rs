//! Golden frames for tests: see vectors/README.md.

macro_rules! vectors {
    ($($name:literal),* $(,)?) => {
        /// Every vector: name and hex.
        pub const ALL: &[(&str, &str)] =
            &[$(($name, include_str!(concat!("../vectors/", $name, ".hex")))),*];
    };
}

vectors!(
    "v2-none",
    "v2-pass",
    "v2-pass-prio0",
    "v2-pass-long",
    "v2-count0",
    "v2-unicast",
    "v2-vmac",
    "v2-ah",
    "v2-ah-seq2",
    "v2-ah-prio0",
    "v2-ah-unicast",
    "v2-ipv6",
    "v2-ipv6-prio0",
    "v2-ipv6-unicast",
    "v3-ipv4",
    "v3-ipv4-prio0",
    "v3-ipv4-3vips",
    "v3-ipv4-10ms",
    "v3-ipv4-max-interval",
    "v3-ipv4-vmac",
    "v3-ipv4-unicast",
    "v3-ipv4-unicast-oldsum",
    "v3-ipv6",
    "v3-ipv6-prio0",
    "v3-ipv6-vmac",
    "v3-ipv6-unicast",
    "computed-v3-ipv4-rfc9568-sum",
    "garp",
    "garp-vmac",
    "na",
    "na-vmac",
);

/// The whole Ethernet frame of a vector.
pub fn frame(name: &str) -> Vec<u8> {
    let (_, text) = ALL.iter().find(|(other, _)| *other == name).expect("a known vector");
    let text = text.trim();
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).expect("hex"))
        .collect()
}

/// The IP datagram inside.
pub fn datagram(name: &str) -> Vec<u8> {
    frame(name)[14..].to_vec()
}
