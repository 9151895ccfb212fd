//! Oracles for bytes that others write: what must hold whatever they are. libFuzzer drives them
//! (`cargo xtask fuzz`), and `cargo test` replays the committed corpora.
//!
//! Each returns whether the bytes were accepted, so that a corpus can be checked for having both
//! kinds. A broken promise is a panic.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use lb_userspace::{
    api::protocol,
    base::{core::Core as _, status::VrrpState, time::Instant},
    config::{self, diag::Severity, migrate, plan, print, report},
    dataplane::ipvs::wire::{Answer, Message, Request},
    io::probes::{mysql::wire, segment},
    process::{
        ipc::{Down, Up},
        replay,
        vrrp::router_config,
    },
    sync::{self, wire as wire_of_sync},
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
pub const TARGETS: [(&str, Decoder); 10] = [
    ("vrrp", vrrp),
    ("mysql", mysql),
    ("config", config),
    ("control", control),
    ("ipc", ipc),
    ("recording", recording),
    ("segment", segment),
    ("router_ops", router_ops),
    ("ipvs_wire", ipvs_wire),
    ("flow_sync", flow_sync),
];

/// A corpus names them by their place: new ones come behind.
const INSTANCES: [&str; 8] = ["version 2", "version 3", PASS, AH, HMAC, V6, UNICAST, V2_OVER_V6];
const PASS: &str = "version 2\nauthentication {\n auth_type PASS\n auth_pass s3cret\n }";
const AH: &str = "version 2\nauthentication {\n auth_type AH\n auth_pass s3cret\n }";
const HMAC: &str = "version 3\nauth_hmac {\n key 1 0123456789abcdef0123456789abcdef\n }";
/// Of IPv6 addresses.
const V6: &str = "version 3\n";
/// As keepalived has it; no RFC does.
const V2_OVER_V6: &str = "version 2\n";
/// Of one peer, which is the sender of the golden adverts, and one with a range of TTLs.
const UNICAST: &str =
    "version 3\nunicast_peer {\n 10.77.0.1\n 10.77.0.3 min_ttl 250 max_ttl 254\n }";
/// The wall clock of the router, which auth_hmac compares.
const UNIX: Duration = Duration::from_secs(1);

/// A router in BACKUP.
fn backup(words: &str, now: Instant) -> Router {
    let (own, vips): (IpAddr, &str) = match [V6, V2_OVER_V6].contains(&words) {
        true => (Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 2).into(), "fe80::5e:33\n fd77::100"),
        false => (Ipv4Addr::new(10, 77, 0, 2).into(), "10.77.0.100/24"),
    };
    let text = format!(
        "vrrp_instance VI_1 {{\n interface eth0\n virtual_router_id 51\n priority 150\n {words}\n \
         virtual_ipaddress {{\n {vips}\n }}\n}}\n"
    );
    let outcome = config::check("fuzz.conf", text.as_bytes());
    let findings = outcome.render();
    let config = outcome.config.unwrap_or_else(|| panic!("{findings}"));
    let lowered = router_config(&config.vrrp_instances[0], &config.vrrp_scripts, false);
    let mut router = Router::new(lowered.unwrap_or_else(|why| panic!("{why}")), now);
    router.handle(Input::WallClock(UNIX), now);
    router.handle(Input::Source(Some(own)), now);
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

/// Makes the checksum of a message right: over its pseudo-header, too, of these addresses.
fn repair_message(message: &mut [u8], addresses: Option<&[u8]>) {
    message[6..8].fill(0);
    let mut covered = Vec::new();
    if let Some(addresses) = addresses {
        covered.extend_from_slice(addresses);
        let [high, low] = u16::try_from(message.len()).unwrap_or(u16::MAX).to_be_bytes();
        covered.extend([0, 112, high, low]);
    }
    covered.extend_from_slice(message);
    let sum = checksum(&covered);
    message[6..8].copy_from_slice(&sum);
}

/// Makes every checksum right, which chance would hardly do.
fn repair(datagram: &mut [u8]) {
    if datagram.first().is_some_and(|byte| byte >> 4 == 6) {
        if datagram.len() >= 48 {
            let (ip, message) = datagram.split_at_mut(40);
            repair_message(message, Some(&ip[8..40]));
        }
        return;
    }
    let Some(header) = datagram.first().map(|byte| usize::from(byte & 15) * 4) else { return };
    if header < 20 || datagram.len() < header + 8 {
        return;
    }
    let (ip, message) = datagram.split_at_mut(header);
    ip[10..12].fill(0);
    let sum = checksum(ip);
    ip[10..12].copy_from_slice(&sum);
    let addresses = (message[0] >> 4 == 3).then_some(&ip[12..20]);
    repair_message(message, addresses);
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
    let empty = choice & 2 != 0;
    let pass = |size: usize| {
        let mut guard = wire::Guard::new(empty);
        let mut out = Vec::new();
        let refused = bytes.chunks(size).find_map(|chunk| guard.received(chunk, &mut out).err());
        (refused, out)
    };
    let (whole, all) = pass(bytes.len().max(1));
    let (piecewise, some) = pass(usize::from(choice >> 2) + 1);
    // A challenge gets a NUL more, at most one in each packet of a login.
    let most = bytes.len() + wire::AUTH_ROUND_LIMIT as usize;
    assert!(all.len() <= most && some.len() <= most);
    assert_eq!(whole.is_some(), piecewise.is_some(), "{whole:?} {piecewise:?}");
    if whole.is_none() {
        assert_eq!(all, some, "pieces change what is passed on");
    }
    matches!(greeting, Ok(Some(_)))
}

/// Begins a line that names a further file of the bytes, which can be included.
const FILE_MARK: &str = "=== ";

/// The files in some bytes: what stands before the first mark is the one that is read.
struct Files<'a>(Vec<(&'a str, &'a [u8])>);

impl<'a> Files<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        let mut files = vec![("fuzz.conf", 0..bytes.len())];
        let mut at = 0;
        for line in bytes.split_inclusive(|byte| *byte == b'\n') {
            let next = at + line.len();
            let name = std::str::from_utf8(line).ok().and_then(|it| it.strip_prefix(FILE_MARK));
            if let (Some(name), Some((_, last))) = (name, files.last_mut()) {
                last.end = at;
                files.push((name.trim_end(), next..bytes.len()));
            }
            at = next;
        }
        Self(files.into_iter().map(|(name, range)| (name, &bytes[range])).collect())
    }
}

impl config::Surroundings for Files<'_> {
    fn id(&self) -> &str {
        "fuzz"
    }

    fn variable(&self, name: &str) -> Option<String> {
        name.starts_with('A').then(|| name.to_owned())
    }

    fn find(&self, _: &str, pattern: &str) -> Result<Vec<String>, String> {
        let all = self.0.iter().map(|(name, _)| (*name).to_owned());
        Ok(all.filter(|name| pattern == "*" || pattern == name).collect())
    }

    fn read(&self, path: &str) -> Result<Vec<u8>, String> {
        let found = self.0.iter().find(|(name, _)| *name == path);
        found.map(|(_, bytes)| bytes.to_vec()).ok_or_else(|| "gone".to_owned())
    }
}

/// A place that can be shown: inside its line, and inside its file.
fn sound_place(place: &config::diag::Place, files: &Files<'_>) {
    let (start, end) = (place.start as usize, place.end as usize);
    assert!(place.text.get(start..end).is_some(), "{place:?}");
    let file = files.0.iter().find(|(name, _)| *name == place.file);
    let (_, bytes) = file.unwrap_or_else(|| panic!("{place:?} is in no file"));
    let lines = bytes.split(|byte| *byte == b'\n').count();
    assert!(place.line as usize <= lines, "{place:?} of {lines} lines");
}

/// A configuration and what it includes: findings have places and come in the order of the text, what
/// becomes of each word can be said, and what is accepted can be lowered, is the same when it is read
/// again, and is printed as a text that is read as the same configuration and printed as the same text.
pub fn config(bytes: &[u8]) -> bool {
    let files = Files::new(bytes);
    let read = || config::check_in("fuzz.conf", files.0[0].1, &files);
    let outcome = read();
    let text = outcome.render();
    let refused = outcome.diagnostics.iter().any(|it| it.severity == Severity::Error);
    assert_eq!(outcome.config.is_none(), refused, "{text}");
    assert!(!refused || outcome.exit_code() != 0, "{text}");
    let order = outcome.diagnostics.iter().map(|it| (it.place.line == 0, it.place.order));
    assert!(order.is_sorted(), "{text}");
    for diagnostic in &outcome.diagnostics {
        let related = diagnostic.related.iter().map(|(place, _)| place);
        related.chain([&diagnostic.place]).for_each(|place| sound_place(place, &files));
    }
    let migration = migrate::report(&outcome);
    assert_eq!(migration.exit_code() == 2, refused, "{text}\n{}", migration.render());
    let original = outcome.original.clone();
    let json = report::json(&outcome, "fuzz.conf", outcome.exit_code());
    assert!(serde_json::from_str::<serde_json::Value>(&json).is_ok(), "{json}");
    let Some(config) = outcome.config else {
        assert!(!text.is_empty(), "refused without a word");
        return false;
    };
    for instance in &config.vrrp_instances {
        let _ = router_config(instance, &config.vrrp_scripts, false);
    }
    assert_eq!(read().config.as_ref(), Some(&config));
    let items = print::items(&config);
    let printed = print::plain(&items, print::Secrets::Shown);
    let again = config::load("printed.conf", &printed);
    assert_eq!(again.config.as_ref(), Some(&config), "{printed}\n{}", again.render());
    let Some(again) = again.config else { return true };
    assert_eq!(print::plain(&print::items(&again), print::Secrets::Shown), printed);
    let plan = plan::plan(&config, &again, &plan::States::new());
    assert!(plan.is_empty(), "{plan}");
    assert!(!print::annotate(&items, original.as_ref()).is_empty());
    true
}

/// Datagrams of flow sync, each behind its length (two octets), signed here as chance would not. What is read is written
/// as the same octets; a node takes them at whatever times, and what it sends can be read.
pub fn flow_sync(bytes: &[u8]) -> bool {
    const KEY: &[u8] = b"0123456789abcdef0123456789abcdef";
    const OWN: u64 = 7;
    let mut now = Instant::from_nanos(1);
    let peer = IpAddr::from(Ipv4Addr::new(10, 77, 0, 3));
    let config = sync::Config {
        key: KEY.to_vec(),
        peers: Vec::new(),
        timeout: Duration::from_secs(5),
        refresh: Duration::from_secs(1),
    };
    let mut node = sync::Node::new(config, OWN, now);
    // The session that most of them are of is believed.
    let body = wire_of_sync::Body::Hello { head: 0, oldest: 1, heard: vec![OWN] };
    let hello = wire_of_sync::Datagram { session: 9, number: 1, body };
    node.handle_datagram(peer, &wire_of_sync::seal(KEY, &hello), now);
    let (mut rest, mut accepted) = (bytes, false);
    while let Some((length, tail)) = rest.split_first_chunk::<2>() {
        let length = usize::from(u16::from_be_bytes(*length)).min(tail.len());
        let (octets, tail) = tail.split_at(length);
        rest = tail;
        let mut signed = octets.to_vec();
        wire_of_sync::sign(KEY, &mut signed);
        if let Ok(datagram) = wire_of_sync::open(KEY, &signed) {
            accepted = true;
            assert_eq!(wire_of_sync::seal(KEY, &datagram), signed, "{datagram:?}");
        }
        assert!(wire_of_sync::open(KEY, octets).is_err(), "unsigned");
        node.handle_datagram(peer, &signed, now);
        now += Duration::from_millis(7);
        node.handle_timeout(now);
        while let Some(effect) = node.poll_effect() {
            match effect {
                sync::Effect::Send { bytes, .. } => {
                    assert!(
                        wire_of_sync::open(KEY, &bytes).is_ok(),
                        "it sends what nobody can read"
                    );
                }
                sync::Effect::Apply(_) | sync::Effect::Prune(_) => {}
                sync::Effect::Walk { .. } => node.walk_ended(now),
            }
        }
        assert!(node.poll_timeout(now) > Instant::ZERO);
        for peer in node.peers(now) {
            assert!(peer.counts.datagrams >= peer.counts.duplicates + peer.counts.ahead);
        }
    }
    accepted
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

/// Messages of IPVS: the first byte says which way (a request, a request of a list, an answer), the second is the
/// command. What was read means the same when it is written and read again.
pub fn ipvs_wire(bytes: &[u8]) -> bool {
    let [way, command, attributes @ ..] = bytes else { return false };
    let message = Message { command: *command, attributes: attributes.to_vec() };
    match way % 3 {
        2 => {
            let Ok(answer) = Answer::decode(&message, None) else { return false };
            assert_eq!(Answer::decode(&answer.encode(), None), Ok(answer));
        }
        way => {
            let Ok(request) = Request::decode(&message, way == 1) else { return false };
            assert_eq!(Request::decode(&request.encode(), request.is_dump()), Ok(request));
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use lb_userspace::{
        base::net::{Priority, Vrid},
        vrrp::{
            auth::{Auth, hmac},
            timing::AdvertInterval,
            wire::{Advert, ChecksumForm, Envelope, GROUP, GROUP_V6, Seal, Version},
        },
    };

    use super::*;

    /// What the peer of each instance sends. A corpus of bytes that are all refused at the door would
    /// fuzz the door alone.
    #[test]
    fn every_instance_accepts_its_peer_and_the_corpus_has_that_advert() {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/vrrp");
        let committed: Vec<Vec<u8>> = std::fs::read_dir(&corpus)
            .expect("a corpus")
            .map(|entry| std::fs::read(entry.expect("a file").path()).expect("readable"))
            .collect();
        let secret = hmac::Secret::Bytes(b"0123456789abcdef0123456789abcdef".to_vec());
        let key = hmac::Key { id: 1, secret };
        for (choice, words) in (0..).zip(INSTANCES) {
            let v6 = [V6, V2_OVER_V6].contains(&words);
            let version = if words.contains("version 2") { Version::V2 } else { Version::V3 };
            let (source, destination) = match v6 {
                true => ("fe80::1".parse().expect("an address"), IpAddr::from(GROUP_V6)),
                false if words == UNICAST => {
                    (IpAddr::from([10, 77, 0, 1]), IpAddr::from([10, 77, 0, 2]))
                }
                false => (IpAddr::from([10, 77, 0, 1]), IpAddr::from(GROUP)),
            };
            let password = *b"s3cret\0\0";
            let advert = Advert {
                version,
                vrid: Vrid::new(51).expect("not zero"),
                priority: Priority(200),
                interval: AdvertInterval::DEFAULT,
                auth: match words {
                    PASS => Auth::Pass(password),
                    AH => Auth::Ah(password),
                    _ => Auth::None,
                },
                addresses: match v6 {
                    true => ["fe80::5e:33", "fd77::100"]
                        .map(|it| it.parse().expect("an address"))
                        .into(),
                    false => vec![[10, 77, 0, 100].into()],
                },
                told: false,
            };
            let checksum = ChecksumForm::PseudoHeader;
            let envelope =
                Envelope { source, destination, ttl: 255, id: 1, flow_label: 0, checksum };
            let trailer = (words == HMAC).then_some((&key, UNIX.as_secs() << 32));
            let datagram = advert.datagram(&envelope, Seal { sequence: 9, trailer });
            let bytes = [&[choice], &datagram[..]].concat();
            assert!(vrrp(&bytes), "{words}");
            if std::env::var_os("LB_WRITE_SEEDS").is_some() {
                let path = corpus.join(format!("instance-{choice}"));
                std::fs::write(path, &bytes).expect("written");
            }
            if [AH, HMAC, V6].contains(&words) {
                assert!(committed.contains(&bytes), "{words}: not in the corpus");
            }
            // Whoever makes the sum right again still cannot sign.
            let mut other = bytes.clone();
            let priority =
                1 + if v6 {
                    40
                } else if words == AH {
                    44
                } else {
                    20
                } + 2;
            other[priority] ^= 1;
            other[0] |= 0x80;
            let signed = [AH, HMAC].contains(&words);
            assert_eq!(vrrp(&other), !signed, "{words} with another priority");
        }
    }
}
