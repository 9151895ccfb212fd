//! A lease that cannot be written is a fault of its own.

use super::*;
use crate::vrrp::track::Tracked;

const FAULT: &str = "fault: the lease cannot be written: it is gone";

fn gone() -> Input {
    Input::LeaseFault(Some("it is gone".into()))
}

fn fenced(config: Config) -> Bench {
    let mut bench = Bench::backup(config);
    bench.input(Input::Fence(true));
    bench
}

fn fenced_master(config: Config) -> Bench {
    let mut bench = fenced(config);
    bench.run_to(5000);
    assert_eq!(bench.router.state(), VrrpState::Master);
    bench.done.clear();
    bench
}

#[test]
fn a_master_that_cannot_write_its_lease_says_farewell_and_comes_back_by_an_election() {
    let mut bench = fenced_master(config(100));
    bench.lease_fails = true;
    bench.run_to(5610);
    // The advert of 5610 left; its lease was not written.
    assert_eq!(
        bench.did(),
        [
            "5610:advert 100",
            "5610:lease 8600",
            "5610:fence",
            "5610:advert 0",
            "5610:remove",
            "5610:notify FAULT",
            "5610:standby",
        ],
    );
    assert_eq!(bench.router.reason(), FAULT);
    assert_eq!(bench.router.why(at(5610)).held_by, [&FAULT[7..]]);
    assert_eq!(bench.router.lease_end(), None);
    // The shell tries once a second, and finds this or that.
    bench.input(gone());
    bench.input(Input::LeaseFault(Some("no such file".into())));
    bench.run_to(60_000);
    assert!(bench.did().is_empty(), "a farewell is said once");
    assert!(bench.router.reason().ends_with(": no such file"), "{}", bench.router.reason());
    assert_eq!(bench.router.counters().lease_faults, 1);

    bench.lease_fails = false;
    bench.input(Input::LeaseFault(None));
    bench.run_to(63_609);
    assert_eq!(bench.did(), ["60000:notify BACKUP", "63608:fence", "63608:prepare"]);
    bench.run_to(63_611);
    assert_eq!(bench.did()[..3], ["63610:advert 100", "63610:lease 66600", "63610:garp 5"]);
    assert_eq!(bench.router.counters().lease_faults, 1);
}

/// Better that the peer goes on: this host's data plane would not let a packet through.
#[test]
fn a_backup_that_cannot_prepare_does_not_announce_itself() {
    let mut bench = fenced(config(100));
    bench.lease_fails = true;
    bench.run_to(20_000);
    let did = bench.did();
    assert_eq!(bench.router.reason(), FAULT);
    assert_eq!(did.first().map(String::as_str), Some("3608:fence"), "its fence: {did:?}");
    assert!(!did.iter().any(|it| it.contains("advert") || it.contains("prepare")), "{did:?}");
    assert_eq!(did.iter().filter(|it| it.ends_with("remove")).count(), 1, "{did:?}");
}

/// No VIP is put on and nobody is told to send here; the peer is told that nobody is master.
#[test]
fn a_takeover_whose_lease_fails_ends_with_its_first_advert() {
    // A sync group's members prepare nothing; nor does the owner.
    for owner in [false, true] {
        let mut bench = Bench::new(if owner { config(255) } else { config(100) });
        bench.input(Input::Fence(true));
        bench.input(Input::Source(Some(OWN.into())));
        bench.input(Input::Interface { name: "eth0".into(), up: true });
        if owner {
            bench.input(Input::Converged { resume: None });
            bench.input(Input::LeaseFault(None));
            bench.input(Input::Interface { name: "eth0".into(), up: false });
            bench.lease_fails = true;
            bench.did();
            bench.input(Input::Interface { name: "eth0".into(), up: true });
        } else {
            bench.input(Input::Converged { resume: None });
            bench.run_to(3609);
            bench.lease_fails = true;
            bench.did();
            bench.run_to(3700);
        }
        let did = bench.did();
        let words: Vec<&str> = did.iter().filter_map(|it| Some(it.split_once(':')?.1)).collect();
        let first = if owner { "advert 255" } else { "advert 100" };
        assert_eq!(words.first(), Some(&first), "{did:?}");
        assert!(words.contains(&"advert 0") && words.contains(&"remove"), "{did:?}");
        let forbidden = ["add", "prepare", "probe", "garp 5"];
        assert!(!words.iter().any(|it| forbidden.contains(it)), "{did:?}");
        assert_eq!(bench.router.reason(), FAULT);
    }
}

#[test]
fn without_a_fence_there_is_no_lease_to_fail() {
    let mut bench = Bench::master(config(100));
    bench.input(gone());
    assert!(bench.did().is_empty());
    assert_eq!(
        (bench.router.state(), bench.router.counters().lease_faults),
        (VrrpState::Master, 0)
    );
    // Now there is one.
    bench.input(Input::Fence(true));
    assert_eq!(bench.router.reason(), FAULT);
    bench.did();
    bench.input(Input::Fence(false));
    assert_eq!(bench.did(), ["5000:notify BACKUP"]);
}

/// Its heirs would forward at once, and its data plane may forward until the lease of before ends.
#[test]
fn the_farewell_is_not_one_of_a_told_handover() {
    let told = Config { version: Version::V3, told_handover: true, ..config(150) };
    for broken in [false, true] {
        let mut bench = fenced_master(told.clone());
        let end = if broken { gone() } else { Input::Stop };
        bench.router.handle(end, at(5000));
        assert_eq!(bench.router.advert(Priority::RELEASE).told, !broken);
    }
}

#[test]
fn a_fault_from_before_the_start_keeps_it_from_being_backup() {
    let mut bench = Bench::new(config(100));
    bench.input(Input::Source(Some(OWN.into())));
    bench.input(Input::Fence(true));
    bench.input(gone());
    // What a dead predecessor left would answer beside the master.
    assert_eq!(bench.did(), ["0:fence", "0:remove", "0:standby"]);
    let want = "waiting for the data plane: the lease cannot be written: it is gone";
    assert_eq!(bench.router.reason(), want);
    bench.input(Input::Converged { resume: None });
    assert_eq!(bench.router.reason(), FAULT);
    bench.did();
    bench.input(Input::LeaseFault(None));
    assert_eq!(bench.did(), ["0:notify BACKUP"]);
}

/// The other members go, too.
#[test]
fn to_its_sync_group_it_is_faulty() {
    let grouped = Config { grouped: true, ..config(100) };
    let mut bench = fenced(grouped);
    bench.run_to(4000);
    bench.input(Input::Group(Order::Announce));
    bench.input(Input::Group(Order::Forward));
    assert_eq!(bench.router.standing(), Standing::Master);
    bench.input(gone());
    assert_eq!(bench.router.standing(), Standing::Faulty);
}

/// One fault more or less: each ends for itself.
#[test]
fn another_fault_outlives_it() {
    let interfaces = vec![Tracked { name: "eth0".into(), weight: 0, reverse: false }];
    let mut bench = fenced_master(Config { interfaces, ..config(100) });
    bench.input(gone());
    bench.input(Input::Interface { name: "eth0".into(), up: false });
    bench.input(Input::LeaseFault(None));
    assert_eq!(bench.router.state(), VrrpState::Fault);
    bench.input(Input::Interface { name: "eth0".into(), up: true });
    assert_eq!(bench.router.state(), VrrpState::Backup);
}
