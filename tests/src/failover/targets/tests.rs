//! Each promise, kept and not kept.

use super::{
    super::{pair::Measure, report},
    *,
};

const TENTH: Pace = Pace { version: 3, advert_ms: 100 };
const SECOND: Pace = Pace { version: 2, advert_ms: 1000 };

/// A run with which every promise of every fault is kept.
fn good() -> Measure {
    Measure {
        outage_ms: 4.0,
        takeover_ms: Some(300.0),
        wire_over_ms: Some(0.2),
        client_after_ms: Some(0.9),
        lost: 0,
        both_ms: 0.0,
        silent_before_ms: Some(3.0),
        intruding: Some(0),
        disturbed: false,
    }
}

fn line(pace: Pace, fault: Fault, measures: &[Measure]) -> Line {
    let key = (pace, fault, "lbd");
    let mut lines = report::lines(&[(key, measures.to_vec())].into(), measures.len());
    lines.remove(0)
}

fn said(pace: Pace, fault: Fault, change: impl Fn(&mut Measure)) -> String {
    let mut measure = good();
    change(&mut measure);
    word(&of(&line(pace, fault, &[measure])))
}

/// What is other than good.
type Change = fn(&mut Measure);
/// A fault, that, and what has to be said of it.
type Row = (Fault, Change, &'static str);

#[test]
fn every_fault_is_judged_by_what_is_promised_of_it() {
    for fault in Fault::ALL {
        for pace in [SECOND, TENTH] {
            assert_eq!(said(pace, fault, |_| {}), "met", "{fault:?}");
        }
        let both = said(TENTH, fault, |it| it.both_ms = 0.04);
        assert_eq!(both, "missed: both answer ms 0.04 > 0.00", "{fault:?}");
    }
    let late: Change = |it| it.wire_over_ms = Some(0.34);
    let early: Change = |it| it.wire_over_ms = Some(-200.0);
    let no_wire: Change = |it| it.wire_over_ms = None;
    let slow: Change = |it| it.client_after_ms = Some(1.04);
    let no_client: Change = |it| it.client_after_ms = None;
    for fault in [Fault::HostDies, Fault::DaemonKilled, Fault::Cut, Fault::ScriptFails] {
        let rows: [(Change, &str); 5] = [
            (late, "missed: wire over ms 0.34 > 0.30"),
            (early, "missed: wire over ms -200.00 < -0.10"),
            (no_wire, "missed: wire over ms not measured"),
            (slow, "missed: client after ms 1.04 > 1.00"),
            (no_client, "missed: client after ms not measured"),
        ];
        for (change, want) in rows {
            assert_eq!(said(TENTH, fault, change), want, "{fault:?}");
        }
    }
    let lost: Change = |it| it.lost = 1;
    let intrudes: Change = |it| it.intruding = Some(1);
    let watched_not: Change = |it| it.intruding = None;
    let rows: [Row; 13] = [
        (
            Fault::DaemonKilled,
            |it| it.silent_before_ms = Some(-0.4),
            "silent before ms -0.40 < 0.00",
        ),
        (Fault::DaemonKilled, |it| it.silent_before_ms = None, "silent before ms not measured"),
        (Fault::VrrpKilled, intrudes, "intruding 1.00 > 0.00"),
        (Fault::VrrpKilled, watched_not, "intruding not measured"),
        (Fault::Stop, |it| it.outage_ms = 62.0, "outage ms 62.00 > 61.94"),
        (Fault::Stop, early, "wire over ms -200.00 < -0.10"),
        (Fault::ToldStop, |it| it.outage_ms = 61.0, "outage ms 61.00 > 60.94"),
        (Fault::Return, lost, "lost (median) 1.00 > 0.00"),
        (Fault::ReloadSame, lost, "lost (median) 1.00 > 0.00"),
        (Fault::ReloadSame, intrudes, "intruding 1.00 > 0.00"),
        (Fault::ReloadAddsVip, lost, "lost (median) 1.00 > 0.00"),
        (Fault::ReloadAddsVip, intrudes, "intruding 1.00 > 0.00"),
        (Fault::ReloadAddsVip, watched_not, "intruding not measured"),
    ];
    for (fault, change, want) in rows {
        assert_eq!(said(TENTH, fault, change), format!("missed: {want}"), "{fault:?}");
    }
    // The mark of a told hand-over is VRRPv3's, and so is the pair then.
    let told = said(SECOND, Fault::ToldStop, |it| it.outage_ms = 610.0);
    assert_eq!(told, "missed: outage ms 610.00 > 609.38");
}

#[test]
fn disturbed_runs_count_for_safety_alone() {
    let disturbed = Measure { disturbed: true, outage_ms: 900.0, lost: 9, ..good() };
    let found = line(TENTH, Fault::Return, &[good(), good(), disturbed]);
    assert_eq!((found.runs, found.disturbed), (2, 1));
    assert_eq!(word(&of(&found)), "not judged: 2 of 3");
    for fault in [Fault::Return, Fault::DaemonKilled, Fault::VrrpKilled] {
        let unsafe_run =
            Measure { both_ms: 1.0, silent_before_ms: Some(-2.0), intruding: Some(1), ..disturbed };
        let verdict = of(&line(TENTH, fault, &[good(), unsafe_run]));
        assert_eq!(verdict.unjudged.as_deref(), Some("1 of 2"));
        let wanted: &[&str] = match fault {
            Fault::DaemonKilled => &["both answer ms 1.00 > 0.00", "silent before ms -2.00 < 0.00"],
            Fault::VrrpKilled => &["both answer ms 1.00 > 0.00", "intruding 1.00 > 0.00"],
            _ => &["both answer ms 1.00 > 0.00"],
        };
        assert_eq!(verdict.missed, wanted, "{fault:?}");
        // Also when no run was left in peace.
        let verdict = of(&line(TENTH, fault, &[unsafe_run]));
        assert_eq!(
            (verdict.missed, verdict.unjudged.as_deref()),
            (wanted.iter().map(|it| (*it).to_owned()).collect(), Some("0 of 1"))
        );
    }
}

fn rhythm(p99_ms: f64, takeovers: usize, seconds: f64) -> Rhythm {
    let (program, busy_loops, adverts, p50_ms, max_ms) = ("lbd", 4, 1000, 10.0, 12.0);
    Rhythm { program, busy_loops, seconds, adverts, p50_ms, p99_ms, max_ms, takeovers }
}

#[test]
fn the_soak_is_judged_as_every_rhythm() {
    for seconds in [15.0, 600.0] {
        assert_eq!(of_rhythm(&rhythm(10.5, 0, seconds)), [""; 0]);
        assert_eq!(of_rhythm(&rhythm(10.54, 0, seconds)), ["p99 ms 10.54 > 10.50"]);
        assert_eq!(of_rhythm(&rhythm(10.0, 1, seconds)), ["takeovers 1.00 > 0.00"]);
    }
}

fn crowd(program: &'static str, rss_mb: f64, pss_mb: f64) -> Crowd {
    let (all_up_ms, cpu_percent, processes, memory) = (600.0, 1.1, 4, vec![]);
    Crowd { program, all_up_ms, cpu_percent, processes, rss_mb, pss_mb, memory }
}

#[test]
fn memory_is_compared_like_with_like_and_in_the_same_run() {
    let theirs = crowd("keepalived", 15.0, 6.0);
    assert_eq!(of_crowd(&crowd("lbd", 15.0, 6.0), Some(&theirs)), [""; 0]);
    let missed = of_crowd(&crowd("lbd", 48.0, 13.0), Some(&theirs));
    assert_eq!(missed, ["RSS MB 48.00 > 15.00", "PSS MB 13.00 > 6.00"]);
    let missed = of_crowd(&crowd("lbd", 14.0, 13.0), None);
    assert_eq!(missed, ["RSS MB 14.00 > 13.80", "PSS MB 13.00 > 5.50"]);
    let slow = Crowd { all_up_ms: 643.2, cpu_percent: 1.25, ..crowd("lbd", 1.0, 1.0) };
    assert_eq!(of_crowd(&slow, None), ["all up ms 643.20 > 643.00", "CPU % 1.25 > 1.20"]);
}

#[test]
fn the_summary_names_what_was_missed_and_what_was_not_measured() {
    let lines = [line(TENTH, Fault::Stop, &[good()])];
    let expected = [(TENTH, Fault::Stop)];
    assert_eq!(summary(&lines, &[], &[], &expected), "targets: all 1 met");
    let expected = [(TENTH, Fault::Stop), (SECOND, Fault::Cut)];
    let want = "targets: all 1 met; not judged: link down at 1 s: never";
    assert_eq!(summary(&lines, &[], &[], &expected), want);
    let disturbed = Measure { disturbed: true, ..good() };
    let lines = [
        line(TENTH, Fault::Stop, &[Measure { outage_ms: 70.0, ..good() }]),
        line(TENTH, Fault::Return, &[good(), disturbed]),
    ];
    let crowds = [crowd("lbd", 1.0, 7.0), crowd("keepalived", 2.0, 6.0)];
    let found = summary(&lines, &[rhythm(10.0, 0, 15.0)], &crowds, &[]);
    let want = "targets: 2 of 3 missed: clean stop at 0.1 s: outage ms 70.00 > 61.94; 255 instances: \
                PSS MB 7.00 > 6.00; not judged: preempting return at 0.1 s: 1 of 2";
    assert_eq!(found, want);
}
