//! Oracles for bytes that others write: what must hold whatever they are. libFuzzer drives them
//! (`cargo xtask fuzz`), and `cargo test` replays the committed corpora.
//!
//! Each returns whether the bytes were accepted, so that a corpus can be checked for having both
//! kinds. A broken promise is a panic.

use std::net::Ipv4Addr;

use lb_userspace::{
    api::protocol,
    base::{core::Core as _, status::VrrpState, time::Instant},
    config,
    io::probes::{mysql::wire, segment},
    process::{
        ipc::{Down, Up},
        replay,
        vrrp::router_config,
    },
    vrrp::{
        arp,
        router::{Effect, Input, Router},
    },
};
use serde::{Serialize, de::DeserializeOwned};

use crate::sim::random;

/// False when the bytes were refused.
pub type Decoder = fn(&[u8]) -> bool;

/// Every target, by the name of its corpus.
pub const TARGETS: [(&str, Decoder); 8] = [
    ("vrrp", vrrp),
    ("mysql", mysql),
    ("config", config),
    ("control", control),
    ("ipc", ipc),
    ("recording", recording),
    ("segment", segment),
    ("router_ops", router_ops),
];

const INSTANCES: [&str; 3] = ["version 2", "version 3", PASS];
const PASS: &str = "version 2\nauthentication {\n auth_type PASS\n auth_pass s3cret\n }";

/// A router in BACKUP.
fn backup(words: &str, now: Instant) -> Router {
    let text = format!(
        "vrrp_instance VI_1 {{\n interface eth0\n virtual_router_id 51\n priority 150\n {words}\n \
         virtual_ipaddress {{\n 10.77.0.100/24\n }}\n}}\n"
    );
    let outcome = config::check("fuzz.conf", text.as_bytes());
    let findings = outcome.render();
    let config = outcome.config.unwrap_or_else(|| panic!("{findings}"));
    let lowered = router_config(&config.vrrp_instances[0], &config.vrrp_scripts, false);
    let mut router = Router::new(lowered.unwrap_or_else(|why| panic!("{why}")), now);
    router.handle(Input::Source(Some(Ipv4Addr::new(10, 77, 0, 2).into())), now);
    router.handle(Input::Interface { name: "eth0".into(), up: true }, now);
    router.handle(Input::VipsCleared, now);
    router.handle(Input::Converged { resume: None }, now);
    while router.poll_effect().is_some() {}
    assert_eq!(router.state(), VrrpState::Backup);
    router
}

/// The sum of RFC 1071 as it belongs into a zeroed field.
fn checksum(bytes: &[u8]) -> [u8; 2] {
    let sum: u32 = bytes
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)])))
        .sum();
    (!lb_common::csum::fold(sum)).to_be_bytes()
}

/// Makes both checksums right, which chance would hardly do.
fn repair(datagram: &mut [u8]) {
    let Some(header) = datagram.first().map(|byte| usize::from(byte & 15) * 4) else { return };
    if header < 20 || datagram.len() < header + 8 {
        return;
    }
    let (ip, message) = datagram.split_at_mut(header);
    ip[10..12].fill(0);
    let sum = checksum(ip);
    ip[10..12].copy_from_slice(&sum);
    message[6..8].fill(0);
    let mut covered = Vec::new();
    if message[0] >> 4 == 3 {
        covered.extend_from_slice(&ip[12..20]);
        let [high, low] = u16::try_from(message.len()).unwrap_or(u16::MAX).to_be_bytes();
        covered.extend([0, 112, high, low]);
    }
    covered.extend_from_slice(message);
    let sum = checksum(&covered);
    message[6..8].copy_from_slice(&sum);
}

/// A datagram on the LAN; the first byte chooses the instance and whether checksums are made
/// right. A discarded one changes nothing: not the state, not a timer, and nothing is sent.
pub fn vrrp(bytes: &[u8]) -> bool {
    let Some((choice, bytes)) = bytes.split_first() else { return false };
    let claimed = arp::claim(bytes).is_some();
    assert!(!claimed || bytes.len() >= arp::FRAME_LEN);
    let mut datagram = bytes.to_vec();
    if choice & 0x80 != 0 {
        repair(&mut datagram);
    }
    let (begin, now) = (Instant::from_nanos(1_000_000_000), Instant::from_nanos(1_100_000_000));
    let mut router = backup(INSTANCES[usize::from(choice & 0x7f) % INSTANCES.len()], begin);
    let before = (router.poll_timeout(), router.counters().advert_rcvd);
    router.handle(Input::Datagram(datagram), now);
    let accepted = router.counters().advert_rcvd > before.1;
    while let Some(effect) = router.poll_effect() {
        let told = matches!(effect, Effect::Log { .. });
        assert!(accepted || told, "a discarded advert led to {effect:?}");
    }
    if !accepted {
        assert_eq!(router.poll_timeout(), before.0, "a discarded advert moved a timer");
        assert_eq!(router.state(), VrrpState::Backup);
        let discards: u64 = router.counters().discarded.values().sum();
        assert_eq!(discards, 1, "a discarded advert is counted once");
    }
    // Whatever comes, its timers still lead somewhere.
    for _ in 0..4 {
        let Some(at) = router.poll_timeout() else { break };
        router.handle_timeout(at);
        while router.poll_effect().is_some() {}
    }
    accepted
}

/// What a MySQL server sends: the greeting, then packets of the login. The pieces in which bytes
/// arrive change nothing.
pub fn mysql(bytes: &[u8]) -> bool {
    let Some((choice, bytes)) = bytes.split_first() else { return false };
    let greeting = wire::greeting(bytes);
    // A greeting that is recognised from the first bytes stays what it is with more of them.
    for length in 0..bytes.len().min(256) {
        match wire::greeting(&bytes[..length]) {
            Ok(None) => {}
            early => assert_eq!(early.is_ok(), greeting.is_ok(), "decided at {length}"),
        }
    }
    assert!(!wire::truncated(bytes).to_string().is_empty());
    let (tls, empty) = (choice & 1 != 0, choice & 2 != 0);
    let pass = |size: usize| {
        let mut guard = wire::Guard::new(tls, empty);
        let mut out = Vec::new();
        let refused = bytes.chunks(size).find_map(|chunk| guard.received(chunk, &mut out).err());
        (refused, out)
    };
    let (whole, all) = pass(bytes.len().max(1));
    let (piecewise, some) = pass(usize::from(choice >> 2) + 1);
    assert!(all.len() <= bytes.len() && some.len() <= bytes.len());
    assert_eq!(whole.is_some(), piecewise.is_some(), "{whole:?} {piecewise:?}");
    if whole.is_none() {
        assert_eq!(all, some, "pieces change what is passed on");
    }
    matches!(greeting, Ok(Some(_)))
}

/// A configuration file: findings have places, and what is accepted can be lowered.
pub fn config(bytes: &[u8]) -> bool {
    let outcome = config::check("fuzz.conf", bytes);
    let text = outcome.render();
    // Words of the file are shown too, and one of them may be `error`.
    let refused = text.lines().any(|line| line.starts_with("error"));
    assert_eq!(outcome.exit_code() == 0, !refused, "{text}");
    let Some(config) = outcome.config else {
        assert!(!text.is_empty(), "refused without a word");
        return false;
    };
    for instance in &config.vrrp_instances {
        let _ = router_config(instance, &config.vrrp_scripts, false);
    }
    assert_eq!(config::check("fuzz.conf", bytes).config.as_ref(), Some(&config));
    true
}

/// Lines on the control socket.
pub fn control(bytes: &[u8]) -> bool {
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    runtime.unwrap_or_else(|why| panic!("{why}")).block_on(async {
        let mut reader = bytes;
        let mut accepted = false;
        // Every turn takes at least one byte.
        for _ in 0..=bytes.len() {
            match protocol::read_question(&mut reader).await {
                Ok(Some(query)) => {
                    accepted = true;
                    let mut line = serde_json::to_vec(&query).unwrap_or_default();
                    line.push(b'\n');
                    let again = protocol::read_question(&mut line.as_slice()).await;
                    assert!(matches!(again, Ok(Some(same)) if same == query));
                }
                Ok(None) => return accepted,
                Err(protocol::LineError::Malformed(_)) => {}
                Err(_) => return accepted,
            }
        }
        panic!("more lines than bytes");
    })
}

/// What is decoded can be encoded, and that decodes to the same.
fn encodes_again<T: Serialize + DeserializeOwned>(bytes: &[u8]) -> bool {
    let Ok(message) = postcard::from_bytes::<T>(bytes) else { return false };
    let first = postcard::to_stdvec(&message).unwrap_or_else(|why| panic!("{why}"));
    let back: T = postcard::from_bytes(&first).unwrap_or_else(|why| panic!("{why}"));
    assert_eq!(postcard::to_stdvec(&back).unwrap_or_default(), first);
    true
}

/// Frames between the watchdog and a role, both ways.
pub fn ipc(bytes: &[u8]) -> bool {
    let down = encodes_again::<Down>(bytes);
    let up = encodes_again::<Up>(bytes);
    down || up
}

/// A recording for `lbctl replay`.
pub fn recording(bytes: &[u8]) -> bool {
    let mut last = 0;
    let result = replay::replay(bytes, &mut |transition| {
        last = last.max(transition.t);
        assert!(!transition.object.is_empty() && !transition.state.is_empty());
    });
    result.is_ok()
}

/// A packet that a raw socket receives while a half-open probe waits for its answer.
pub fn segment(bytes: &[u8]) -> bool {
    [true, false].into_iter().any(|v4| {
        segment::tcp_part(bytes, v4).is_some_and(|tcp| {
            assert!(tcp.len() <= bytes.len());
            segment::reply(tcp, 3306, 40_000, 1000).is_some()
        })
    })
}

/// What happens to a few hosts in virtual time: configurations, operations, waits. The oracle is
/// the simulation's.
pub fn router_ops(bytes: &[u8]) -> bool {
    match random::run_bytes(bytes) {
        None => false,
        Some(Ok(())) => true,
        Some(Err(report)) => panic!("{report}"),
    }
}
