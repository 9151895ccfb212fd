//! RX-11 on a wire: a stream of each kind of advert that is discarded changes nothing. A backup
//! takes over on time when its master dies, a master keeps its rhythm (keepalived's falls silent),
//! the reason is counted by name and told in few lines.

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, Ipv4Addr},
    sync::{
        LazyLock, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread::{self, ThreadId},
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context as _, Result, ensure};
use lb_tests::{
    netns::ready_or_skip,
    vrrp::{RoleThread, Sniffer, VIP, cable, instance},
    wait::{wait_for, wait_true},
};
use lb_userspace::{
    base::{
        net::{Priority, Vrid},
        status::VrrpState,
    },
    config::model::{Authentication, VrrpInstance, VrrpVersion},
    io::link::FrameSocket,
    vrrp::{
        auth::{
            Auth, ah,
            hmac::{Hmac, Key, Mode, Secret},
        },
        timing::AdvertInterval,
        wire::{Advert, ChecksumForm, Envelope, GROUP, Reason, Seal, Version},
    },
};
use tracing_subscriber::layer::{Context, SubscriberExt as _};

const LB: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
const PEER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
const STRANGER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 9);
/// As `cable` gives them.
const LB_MAC: [u8; 6] = [2, 0, 0, 0x77, 0, 1];
const PEER_MAC: [u8; 6] = [2, 0, 0, 0x77, 0, 2];
const S3CRET: [u8; 8] = *b"s3cret\0\0";
/// Of the router under test; the other has 200.
const OWN_PRIORITY: u8 = 150;
/// A bad packet comes this often.
const STORM_EVERY: Duration = Duration::from_millis(100);
/// What a machine may add to a timer of ours that has thirty routers at a time, and does not run each at once.
const SLACK: Duration = Duration::from_secs(2);
/// Lines of the level INFO and above that a router may say in a case: its states, and one for the
/// discarded adverts every ten seconds; and that a timer was late.
const LINE_LIMIT: u32 = 10;

/// Whether a reason can be met on a wire.
enum OnWire {
    Case(Box<Case>),
    /// Why not.
    Never(&'static str),
}

/// One kind of bad packet, and the router that gets it.
struct Case {
    demands: VrrpInstance,
    good: Packet,
    bad: Packet,
    spoil: fn(&mut Vec<u8>),
    /// By the instance. What cannot be given to an instance is counted by the role.
    counted: bool,
}

/// An advert of the other router, before it is spoilt.
#[derive(Clone)]
struct Packet {
    version: Version,
    auth: Auth,
    interval: AdvertInterval,
    vrid: u8,
    addresses: Vec<IpAddr>,
    source: Ipv4Addr,
    destination: Ipv4Addr,
    /// Of AH and of `auth_hmac`; `None`: goes up with every packet.
    sequence: Option<u32>,
    key: Option<Key>,
    /// Seconds of the sequence of `auth_hmac` are those of the clock.
    clock: bool,
}

impl Packet {
    fn new(version: Version) -> Self {
        let interval = match version {
            Version::V2 => AdvertInterval::from_seconds(1),
            Version::V3 => AdvertInterval::from_centis(100),
        };
        Self {
            version,
            auth: Auth::None,
            interval: interval.expect("in range"),
            vrid: 51,
            addresses: vec![VIP.into()],
            source: PEER,
            destination: GROUP,
            sequence: None,
            key: None,
            clock: false,
        }
    }

    fn auth(self, auth: Auth) -> Self {
        Self { auth, ..self }
    }

    fn unicast(self) -> Self {
        Self { destination: LB, ..self }
    }

    fn signed(self, id: u8, byte: u8) -> Self {
        Self { key: Some(key(id, byte)), ..self }
    }

    /// Number `count` of its kind, from the IP header on.
    fn datagram(&self, count: u32) -> Vec<u8> {
        let advert = Advert {
            version: self.version,
            vrid: Vrid::new(self.vrid).expect("nonzero"),
            priority: Priority(200),
            interval: self.interval,
            auth: self.auth,
            addresses: self.addresses.clone(),
            told: false,
        };
        let envelope = Envelope {
            source: self.source.into(),
            destination: self.destination.into(),
            ttl: 255,
            id: 1,
            flow_label: 0,
            checksum: ChecksumForm::PseudoHeader,
        };
        let sequence = self.sequence.unwrap_or(1000 + count);
        let seconds = match self.clock {
            true => SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs()),
            false => 1,
        };
        let trailer = self.key.as_ref().map(|key| (key, seconds << 32 | u64::from(sequence)));
        advert.datagram(&envelope, Seal { sequence, trailer })
    }
}

/// The Ethernet frame around a datagram, whose IP header is made right again.
fn frame(mut datagram: Vec<u8>) -> Vec<u8> {
    let len = u16::try_from(datagram.len()).expect("short");
    datagram[2..4].copy_from_slice(&len.to_be_bytes());
    datagram[10..12].fill(0);
    let words = datagram[..20].chunks(2).map(|it| u32::from(u16::from_be_bytes([it[0], it[1]])));
    let sum: u32 = words.sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = !u16::try_from((sum & 0xffff) + (sum >> 16)).expect("folded");
    datagram[10..12].copy_from_slice(&sum.to_be_bytes());
    let to = if datagram[16] == 224 { [1, 0, 0x5e, 0, 0, 0x12] } else { LB_MAC };
    [&to[..], &PEER_MAC, &[8, 0], &datagram].concat()
}

fn key(id: u8, byte: u8) -> Key {
    Key { id, secret: Secret::Bytes(vec![byte; 32]) }
}

fn hmac(window: Option<u32>) -> Hmac {
    Hmac { keys: vec![key(1, 7)], active: 1, window, mode: Mode::Enforce }
}

/// A router that would not take a pause of this machine for the death of its master.
fn demands(version: Version, authentication: Authentication) -> VrrpInstance {
    let advert_int = Duration::from_secs(1);
    let version = match version {
        Version::V2 => VrrpVersion::V2,
        Version::V3 => VrrpVersion::V3,
    };
    VrrpInstance { version, advert_int, authentication, ..instance(OWN_PRIORITY, &[100]) }
}

fn with(mut demands: VrrpInstance, change: impl FnOnce(&mut VrrpInstance)) -> VrrpInstance {
    change(&mut demands);
    demands
}

fn case(demands: VrrpInstance, good: Packet, bad: Packet, spoil: fn(&mut Vec<u8>)) -> OnWire {
    OnWire::Case(Box::new(Case { demands, good, bad, spoil, counted: true }))
}

fn uncounted(case: OnWire) -> OnWire {
    match case {
        OnWire::Case(mut case) => {
            case.counted = false;
            OnWire::Case(case)
        }
        never @ OnWire::Never(_) => never,
    }
}

/// A good packet, spoilt.
fn spoilt(demands: VrrpInstance, good: Packet, spoil: fn(&mut Vec<u8>)) -> OnWire {
    case(demands, good.clone(), good, spoil)
}

fn unspoilt(_: &mut Vec<u8>) {}

/// How each reason is met. A new one does not compile without a row.
fn on_wire(reason: Reason) -> OnWire {
    let (v2, v3) = (Packet::new(Version::V2), Packet::new(Version::V3));
    let (pass, ah) = (v2.clone().auth(Auth::Pass(S3CRET)), v2.clone().auth(Auth::Ah(S3CRET)));
    let signed = v3.clone().signed(1, 7);
    let plain = |version| demands(version, Authentication::None);
    let pass_only = || demands(Version::V2, Authentication::Pass(S3CRET));
    let ah_only = || demands(Version::V2, Authentication::Ah(S3CRET));
    let unicast = || with(plain(Version::V3), |it| it.unicast_peers = vec![PEER.into()]);
    let hmac_only = || with(plain(Version::V3), |it| it.wire.hmac = Some(hmac(None)));
    match reason {
        Reason::IpTruncated | Reason::IpHeader | Reason::IpChecksum => {
            OnWire::Never("the kernel drops it before a socket sees it")
        }
        Reason::IpFragment => OnWire::Never("the kernel puts fragments together"),
        Reason::IpProtocol => OnWire::Never("a socket gets one protocol, that of AH is filtered"),
        Reason::Family => OnWire::Never("sockets and instances are told apart by family"),
        Reason::AuthHeader => case(pass_only(), pass, ah, unspoilt),
        Reason::AuthHeaderMissing => case(ah_only(), ah, pass, unspoilt),
        Reason::AuthHeaderMalformed => spoilt(ah_only(), ah, |it| it[21] = 5),
        Reason::AuthHeaderIcv => case(ah_only(), ah, v2.auth(Auth::Ah(*b"other\0\0\0")), unspoilt),
        Reason::AuthHeaderSpi => spoilt(ah_only(), ah, |it| {
            it[24] ^= 1;
            let header: [u8; 24] = it[20..44].try_into().expect("24");
            let icv = ah::icv(&S3CRET, &it[..20], false, &header, &it[44..]);
            it[32..44].copy_from_slice(&icv);
        }),
        Reason::AuthHeaderReplay => {
            case(ah_only(), ah.clone(), Packet { sequence: Some(1), ..ah }, unspoilt)
        }
        Reason::Ttl => spoilt(plain(Version::V3), v3, |it| it[8] = 254),
        Reason::PeerTtl => {
            let near = |it: &mut VrrpInstance| {
                it.wire.peer_ttl.insert(PEER.into(), 254..=255);
            };
            spoilt(with(unicast(), near), v3.unicast(), |it| it[8] = 9)
        }
        Reason::PeerUnknown => {
            let strict = with(unicast(), |it| it.wire.check_source = true);
            let stranger = Packet { source: STRANGER, ..v3.clone() };
            case(strict, v3.unicast(), stranger.unicast(), unspoilt)
        }
        Reason::Version => case(plain(Version::V3), v3, v2, unspoilt),
        Reason::Type => spoilt(plain(Version::V3), v3, |it| it[20] = 0x32),
        Reason::TooShort => spoilt(plain(Version::V3), v3, |it| it[23] = 9),
        Reason::TooLong => spoilt(plain(Version::V3), v3, |it| it.extend([0; 4])),
        Reason::HmacTrailer => case(plain(Version::V3), v3, signed, unspoilt),
        Reason::HmacMissing => case(hmac_only(), signed, v3, unspoilt),
        Reason::HmacMalformed => spoilt(hmac_only(), signed, |it| it[32] = 9),
        Reason::HmacStale => {
            let clocked = with(plain(Version::V3), |it| it.wire.hmac = Some(hmac(Some(30))));
            case(clocked, Packet { clock: true, ..signed.clone() }, signed, unspoilt)
        }
        Reason::HmacKey => case(hmac_only(), signed, v3.signed(2, 7), unspoilt),
        Reason::HmacInvalid => case(hmac_only(), signed, v3.signed(1, 8), unspoilt),
        Reason::HmacReplay => {
            let used = Packet { sequence: Some(1), ..signed.clone() };
            case(hmac_only(), signed, used, unspoilt)
        }
        Reason::Checksum => spoilt(plain(Version::V3), v3, |it| it[26] ^= 1),
        Reason::AuthTypeUnknown => spoilt(pass_only(), pass, |it| it[24] = 7),
        Reason::AuthTypeMismatch => case(plain(Version::V2), v2, pass, unspoilt),
        Reason::AuthFailed => {
            case(pass_only(), pass, v2.auth(Auth::Pass(*b"wrong\0\0\0")), unspoilt)
        }
        Reason::Interval => {
            let interval = AdvertInterval::from_seconds(2).expect("in range");
            case(plain(Version::V2), v2.clone(), Packet { interval, ..v2 }, unspoilt)
        }
        Reason::IntervalZero => spoilt(plain(Version::V3), v3, |it| it[24..26].fill(0)),
        Reason::Vrid => {
            let other = Packet { vrid: 52, ..v3.clone() };
            uncounted(case(plain(Version::V3), v3, other, unspoilt))
        }
        Reason::NoAddress => {
            let none = Packet { addresses: vec![], ..v3.clone() };
            case(plain(Version::V3), v3, none, unspoilt)
        }
        Reason::AddressList => {
            let same = with(plain(Version::V3), |it| it.wire.same_addresses = true);
            let other = Packet { addresses: vec![[10, 77, 0, 101].into()], ..v3.clone() };
            case(same, v3, other, unspoilt)
        }
        Reason::Mode => case(plain(Version::V3), v3.clone(), v3.unicast(), unspoilt),
        Reason::Group => {
            OnWire::Never("a socket hears the groups of its interface's instances only")
        }
        Reason::OwnAddress => {
            let own = Packet { source: LB, ..v3.clone() };
            case(plain(Version::V3), v3, own, unspoilt)
        }
    }
}

/// Lines said by each thread; a router under test is alone in its own.
static LINES: LazyLock<Mutex<HashMap<ThreadId, u32>>> = LazyLock::new(Mutex::default);

fn lines_of(thread: ThreadId) -> u32 {
    let lines = LINES.lock().unwrap_or_else(PoisonError::into_inner);
    lines.get(&thread).copied().unwrap_or(0)
}

struct CountLines;

impl<S: tracing::Subscriber> tracing_subscriber::Layer<S> for CountLines {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        if *event.metadata().level() <= tracing::Level::INFO {
            let mut lines = LINES.lock().unwrap_or_else(PoisonError::into_inner);
            *lines.entry(thread::current().id()).or_default() += 1;
        }
    }
}

/// What the storm is told, and tells.
#[derive(Default)]
struct Weather {
    master_died: AtomicBool,
    over: AtomicBool,
    bad: AtomicU32,
    last_good: Mutex<Option<Instant>>,
}

/// The other router: good adverts twice an interval until it dies, bad ones until the end.
fn storm(case: &Case, out: &FrameSocket, weather: &Weather) -> Result<()> {
    let good_every = case.good.interval.duration() / 2;
    let (mut goods, mut bads) = (0u32, 0u32);
    while !weather.over.load(Ordering::Relaxed) {
        let mut last = weather.last_good.lock().unwrap_or_else(PoisonError::into_inner);
        let due = last.is_none_or(|last| last.elapsed() >= good_every);
        if due && !weather.master_died.load(Ordering::Relaxed) {
            // Before it is said: it may be heard at any time after this.
            *last = Some(Instant::now());
            out.send(&frame(case.good.datagram(goods)))?;
            goods += 1;
        }
        drop(last);
        let mut bad = case.bad.datagram(bads);
        (case.spoil)(&mut bad);
        out.send(&frame(bad))?;
        bads += 1;
        weather.bad.store(bads, Ordering::Relaxed);
        // Pacing of the storm, not a wait for anything.
        thread::sleep(STORM_EVERY);
    }
    Ok(())
}

/// An advert of the router under test, with or without authentication header.
fn is_own(frame: &[u8]) -> bool {
    frame.len() > 34
        && frame[6..14] == [&LB_MAC[..], &[8, 0]].concat()
        && matches!(frame[23], 51 | 112)
}

fn weather_it(reason: Reason, case: &Case) -> Result<String> {
    let (lb, peer) = cable()?;
    if reason == Reason::OwnAddress {
        // Else the kernel drops what claims to come from this host.
        lb.sysctl("net/ipv4/conf/all/accept_local", "1")?;
        lb.sysctl("net/ipv4/conf/all/rp_filter", "0")?;
    }
    let out = peer.enter(|| FrameSocket::open("eth0"))??;
    let sniffer = Sniffer::new(&peer)?;
    let mut role = RoleThread::start(&lb, case.demands.clone())?;
    role.converge()?;
    let weather = Weather::default();
    let told = thread::scope(|scope| {
        let storm = scope.spawn(|| storm(case, &out, &weather));
        let told = watch(reason, case, &mut role, &sniffer, &weather);
        weather.over.store(true, Ordering::Relaxed);
        storm.join().map_err(|_| anyhow::anyhow!("the storm panicked"))??;
        told
    })?;
    let lines = lines_of(role.thread.thread().id());
    ensure!((1..=LINE_LIMIT).contains(&lines), "{lines} lines in the log");
    role.finish()?;
    Ok(format!("{told}, {lines} lines"))
}

fn watch(
    reason: Reason,
    case: &Case,
    role: &mut RoleThread,
    sniffer: &Sniffer,
    weather: &Weather,
) -> Result<String> {
    let interval = case.demands.advert_int;
    let share = 256 - u32::from(OWN_PRIORITY);
    let master_down = interval * 3 + interval * share / 256;
    wait_true("ten bad packets", Duration::from_secs(20), || {
        weather.bad.load(Ordering::Relaxed) >= 10
    })?;
    wait_true("a good advert to be heard", Duration::from_secs(20), || {
        role.status().is_ok_and(|it| it.counters.advert_rcvd > 0)
    })?;
    let status = role.status()?;
    ensure!(status.state == VrrpState::Backup, "with a living master: {status:?}");
    ensure!(sniffer.next(Duration::from_millis(1), is_own).is_err(), "a backup spoke");

    weather.master_died.store(true, Ordering::Relaxed);
    sniffer.next(master_down + SLACK, is_own).context("the takeover")?;
    let takeover = Instant::now();
    let last = *weather.last_good.lock().unwrap_or_else(PoisonError::into_inner);
    let silence = takeover.saturating_duration_since(last.context("no good advert was sent")?);
    let early = master_down - Duration::from_millis(20);
    ensure!((early..master_down + SLACK).contains(&silence), "taken over after {silence:?}");

    // The takeover's own repetition is not yet rhythm.
    let settled = Instant::now() + interval * 3 / 2;
    wait_for("the rhythm", interval * 4 + SLACK, || {
        sniffer.next(interval * 2 + SLACK, is_own)?;
        Ok((Instant::now() >= settled).then_some(()))
    })?;
    let next = || sniffer.next_sent(interval + SLACK, is_own).context("an advert of the master");
    let (mut last, mut gaps) = (next()?.0, vec![]);
    for _ in 0..3 {
        let (sent, _) = next()?;
        gaps.push(sent.saturating_sub(last));
        last = sent;
    }
    gaps.sort_unstable();
    let median = gaps[gaps.len() / 2];
    let near = interval * 4 / 5..interval * 6 / 5;
    ensure!(near.contains(&median), "the rhythm is {gaps:?}");

    let by_now = u64::from(weather.bad.load(Ordering::Relaxed));
    let status = role.status()?;
    ensure!(status.state == VrrpState::Master, "{status:?}");
    let sent = u64::from(weather.bad.load(Ordering::Relaxed)) + 1;
    let discarded = &status.counters.discarded;
    let name = reason.name().to_owned();
    // The storm goes on beside this, and the role may have some still to read; one may be sent and not yet noted.
    let wanted = by_now * 4 / 5..=sent;
    let counted = match (case.counted, discarded.first_key_value()) {
        (true, Some((found, count))) => {
            discarded.len() == 1 && *found == name && wanted.contains(count)
        }
        (true, None) => false,
        (false, found) => found.is_none(),
    };
    ensure!(counted, "{sent} were sent, counted were {discarded:?}");
    Ok(format!("takeover after {silence:?}, rhythm {median:?}, {sent} bad packets"))
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_stream_of_any_discarded_advert_changes_nothing() -> Result<()> {
    if !ready_or_skip("vrrp_storms")? {
        return Ok(());
    }
    tracing::subscriber::set_global_default(tracing_subscriber::registry().with(CountLines))?;
    let results: BTreeMap<Reason, Result<String>> = thread::scope(|scope| {
        let mut threads = vec![];
        for reason in Reason::ALL.iter().copied() {
            match on_wire(reason) {
                OnWire::Case(case) => {
                    threads.push((reason, scope.spawn(move || weather_it(reason, &case))));
                }
                OnWire::Never(why) => println!("{reason}: not on a wire, {why}"),
            }
        }
        let join = |thread: thread::ScopedJoinHandle<'_, Result<String>>| {
            thread.join().unwrap_or_else(|_| Err(anyhow::anyhow!("panicked")))
        };
        threads.into_iter().map(|(reason, thread)| (reason, join(thread))).collect()
    });
    let mut failed = vec![];
    for (reason, result) in results {
        match result {
            Ok(told) => println!("{reason}: {told}"),
            Err(error) => failed.push(format!("{reason}: {error:#}")),
        }
    }
    ensure!(failed.is_empty(), "{}", failed.join("\n"));
    Ok(())
}
