//! The wall clock is a number on signed adverts and nothing else: whatever it jumps by, timers and
//! states stay as they are.

use super::*;
use crate::vrrp::auth::{
    ah,
    hmac::{Hmac, Key, Mode, Secret},
};

const TODAY: Duration = Duration::from_secs(1_700_000_000);
const TEN_YEARS: Duration = Duration::from_secs(10 * 365 * 86_400);
/// An interval of a master, a bit of one, and most of a master-down.
const STEPS: [u64; 6] = [1000, 300, 3000, 1, 700, 5000];

/// A life with every kind of wait; `jump` is told before each step which one it is.
fn life(config: Config, mut jump: impl FnMut(&mut Bench, u64)) -> Vec<String> {
    let mut bench = Bench::backup(config);
    let mut end = 0;
    for (round, step) in STEPS.into_iter().cycle().take(60).enumerate() {
        let round = u64::try_from(round).expect("small");
        jump(&mut bench, round);
        match round % 20 {
            3 => bench.hears(HIGH, 200),
            9 => bench.hears(LOW, 50),
            13 => bench.hears(HIGH, 0),
            _ => {}
        }
        end += step;
        bench.run_to(end);
    }
    bench.did()
}

fn jumped(round: u64) -> Duration {
    match round % 3 {
        0 => TODAY,
        1 => TODAY + TEN_YEARS,
        _ => TODAY - TEN_YEARS,
    }
}

#[test]
fn jumps_of_ten_years_change_no_timer() {
    let delayed = Config { preempt_delay: Duration::from_secs(2), ..config(150) };
    let v3 = Config { version: Version::V3, ..config(150) };
    for config in [config(150), delayed, v3] {
        let still = life(config.clone(), |_, _| {});
        let jumping = life(config, |bench, round| bench.input(Input::WallClock(jumped(round))));
        assert!(still.iter().filter(|word| word.contains("notify")).count() > 4, "{still:?}");
        assert_eq!(still, jumping);
    }
}

/// AUT-05: the sequence of AH counts adverts.
#[test]
fn sequence_numbers_of_ah_do_not_follow_the_clock() {
    let ah = Config { auth: Auth::Ah(*b"s3cret\0\0"), ..config(150) };
    let mut bench = Bench::backup(ah);
    for round in 0..9u64 {
        bench.input(Input::WallClock(jumped(round)));
        let sent = bench.router.datagrams(Priority(150), at(round)).expect("sent");
        let sequence = sent[0].bytes[28..32].first_chunk().copied().expect("AH");
        assert_eq!(u64::from(u32::from_be_bytes(sequence)), round + 1);
    }
}

/// AUT-05: a master that restarts within its lease, twice, with the wall clock set back in between,
/// is heard by its peer each time.
#[test]
fn a_second_restart_resumes_ah_above_the_peers_number_whatever_the_wall_clock_says() {
    const DAY: u64 = 86_400;
    let seconds = Duration::from_secs;
    let ah = Config { auth: Auth::Ah(*b"s3cret\0\0"), ..config(150) };
    let mut peer = Bench::backup(Config { priority: Priority(100), ..ah.clone() });
    let (mut stored, mut heard) = (None, 0);
    // Each life begins so many seconds after the boot, by this wall clock.
    for (life, (boot, unix)) in
        [(10, 1000 * DAY), (13, 1000 * DAY + 3), (16, 999 * DAY), (19, 0)].into_iter().enumerate()
    {
        let now = boot * 1000;
        let mut clock = ah::Clock::new(stored, seconds(unix), at(now));
        let mut master = Router::new(ah.clone(), at(now));
        master.handle(Input::Source(Some(HIGH.into())), at(now));
        master.handle(Input::WallClock(clock.at(at(now))), at(now));
        let resume = (life > 0).then(|| at(now + 500));
        master.handle(Input::Converged { resume }, at(now));
        for second in 0..3 {
            let now = now + second * 1000;
            let sent = master.datagrams(Priority(150), at(now)).expect("sent");
            clock.follow(master.sequence(), at(now));
            peer.run_to(now);
            peer.input(Input::Datagram(sent[0].bytes.clone()));
            heard += 1;
            assert_eq!(peer.router.counters().advert_rcvd, heard, "life {life}, {second} s");
        }
        stored = Some(clock.lead());
    }
    assert!(peer.router.counters().discarded.is_empty());
}

/// Two routers whose clocks jump together hear each other; one whose clock alone is wrong is not
/// believed, and is again when it is right.
#[test]
fn signed_adverts_are_heard_whatever_the_common_clock_says() {
    let key = Key { id: 1, secret: Secret::Bytes(vec![7; 32]) };
    let hmac = Hmac { keys: vec![key], active: 1, window: Some(30), mode: Mode::Enforce };
    let wire = Options { hmac: Some(hmac), ..Options::default() };
    let signed = Config { version: Version::V3, wire, ..config(150) };
    let mut backup = Bench::backup(Config { priority: Priority(100), ..signed.clone() });
    let mut master = Router::new(signed, at(0));
    master.handle(Input::Source(Some(HIGH.into())), at(0));
    let mut heard = 0;
    for round in 0..30u64 {
        let now = round * 1000;
        let lonely = (10..13).contains(&round);
        backup.input(Input::WallClock(jumped(round)));
        let theirs = if lonely { jumped(round) + TEN_YEARS } else { jumped(round) };
        master.handle(Input::WallClock(theirs), at(now));
        let sent = master.datagrams(Priority(150), at(now)).expect("sent");
        backup.input(Input::Datagram(sent[0].bytes.clone()));
        heard += u64::from(!lonely);
        assert_eq!(backup.router.counters().advert_rcvd, heard, "round {round}");
        // Three missed adverts are fewer than the master-down time.
        assert_eq!(backup.router.state(), VrrpState::Backup, "round {round}");
        backup.run_to(now + 999);
    }
    let discarded = &backup.router.counters().discarded;
    assert_eq!(discarded.get("hmac_stale"), Some(&3), "{discarded:?}");
    assert_eq!(discarded.len(), 1, "{discarded:?}");
}
