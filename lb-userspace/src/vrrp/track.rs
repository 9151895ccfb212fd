//! Tracked objects: scripts with rise and fall, interfaces, processes, files, MySQL checks, and
//! what they do to an instance.
//!
//! All but interfaces have a [`Verdict`] and go one way, by name: a `vrrp_script` by its own, the
//! others by [`Kind::key`].

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

use crate::base::time::Instant;

/// What is known of a tracked object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    /// No result yet.
    Pending,
    Good,
    Bad,
    /// The script cannot be started (missing, not executable). keepalived takes such a script out
    /// of tracking with an error, so that a typing error does not take the VIP off both hosts.
    Ignored,
    /// What a `track_file` holds.
    Value(i64),
}

/// Kinds of tracked objects that are no `vrrp_script`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Kind {
    Process,
    File,
    Mysql,
}

impl Kind {
    fn prefix(self) -> &'static str {
        match self {
            Self::Process => "process ",
            Self::File => "file ",
            Self::Mysql => "MySQL check ",
        }
    }

    /// Name of an object among all tracked ones; no `vrrp_script` has a blank in its name.
    pub fn key(self, name: &str) -> String {
        format!("{}{name}", self.prefix())
    }

    /// The object's own name, if the key is of this kind.
    pub fn name(self, key: &str) -> Option<&str> {
        key.strip_prefix(self.prefix())
    }
}

/// How people call the object of this name.
pub fn label(key: &str) -> String {
    let kinds = [Kind::Process, Kind::File, Kind::Mysql];
    match kinds.iter().any(|kind| kind.name(key).is_some()) {
        true => key.to_owned(),
        false => format!("script {key}"),
    }
}

/// A file's value times its weight that means FAULT, or less.
const FILE_FAULT: i64 = -254;

/// One tracked script or interface of an instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tracked {
    pub name: String,
    /// 0: bad means FAULT. Positive: added while good. Negative: subtracted while bad.
    pub weight: i32,
    /// Swaps good and bad for a weight.
    pub reverse: bool,
}

/// The tracked objects of one instance with their verdicts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trackers {
    scripts: Vec<Tracked>,
    interfaces: Vec<Tracked>,
    script_verdicts: BTreeMap<String, Verdict>,
    interface_up: BTreeMap<String, bool>,
}

impl Trackers {
    /// Replaces what is tracked; verdicts of objects that stay are kept.
    pub fn configure(&mut self, scripts: Vec<Tracked>, interfaces: Vec<Tracked>) {
        self.script_verdicts.retain(|name, _| scripts.iter().any(|it| it.name == *name));
        self.interface_up.retain(|name, _| interfaces.iter().any(|it| it.name == *name));
        self.scripts = scripts;
        self.interfaces = interfaces;
    }

    /// Takes a script's verdict. Scripts that are not tracked are ignored.
    pub fn script(&mut self, name: &str, verdict: Verdict) {
        if self.scripts.iter().any(|it| it.name == name) {
            self.script_verdicts.insert(name.to_owned(), verdict);
        }
    }

    /// Takes an interface's state. Interfaces that are not tracked are ignored.
    pub fn interface(&mut self, name: &str, up: bool) {
        if self.interfaces.iter().any(|it| it.name == name) {
            self.interface_up.insert(name.to_owned(), up);
        }
    }

    fn script_verdict(&self, name: &str) -> Verdict {
        self.script_verdicts.get(name).copied().unwrap_or(Verdict::Pending)
    }

    /// Sum of weights, not clamped. An object without a verdict counts as good, as in keepalived;
    /// one that cannot be told counts as absent.
    pub fn weight(&self) -> i32 {
        let scripts = self.scripts.iter().map(|it| match self.script_verdict(&it.name) {
            Verdict::Good | Verdict::Pending => share(it, true),
            Verdict::Bad => share(it, false),
            Verdict::Ignored => 0,
            Verdict::Value(value) => clamped(product(it, value)),
        });
        let interfaces = self
            .interfaces
            .iter()
            .map(|it| share(it, self.interface_up.get(&it.name).copied().unwrap_or(true)));
        scripts.chain(interfaces).fold(0, i32::saturating_add)
    }

    /// Reasons for FAULT, for people.
    pub fn faults(&self) -> Vec<String> {
        let down = self
            .interfaces
            .iter()
            .filter(|it| it.weight == 0)
            .filter(|it| self.interface_up.get(&it.name) == Some(&it.reverse))
            .map(|it| {
                let state = if it.reverse { "up (tracked in reverse)" } else { "down" };
                format!("interface {} is {state}", it.name)
            });
        let bad = self
            .scripts
            .iter()
            .filter(|it| it.weight == 0)
            .filter(|it| match self.script_verdict(&it.name) {
                Verdict::Bad => !it.reverse,
                Verdict::Good => it.reverse,
                Verdict::Value(value) => (value != 0) != it.reverse,
                Verdict::Pending | Verdict::Ignored => false,
            })
            .map(|it| match self.script_verdict(&it.name) {
                Verdict::Value(value) => format!("{} holds {value}", label(&it.name)),
                _ => format!("{} fails", label(&it.name)),
            });
        let sunk = self.scripts.iter().filter(|it| it.weight != 0).filter_map(|it| {
            let Verdict::Value(value) = self.script_verdict(&it.name) else { return None };
            let sum = product(it, value);
            (sum <= FILE_FAULT)
                .then(|| format!("{} holds {value}, which counts {sum}", label(&it.name)))
        });
        down.chain(bad).chain(sunk).collect()
    }

    /// An unweighted script that has no result yet: it holds the instance in INIT.
    pub fn waiting_for(&self) -> Option<&str> {
        self.scripts
            .iter()
            .filter(|it| it.weight == 0)
            .find(|it| self.script_verdict(&it.name) == Verdict::Pending)
            .map(|it| it.name.as_str())
    }
}

fn product(tracked: &Tracked, value: i64) -> i64 {
    let weight = i64::from(tracked.weight);
    value.saturating_mul(if tracked.reverse { -weight } else { weight })
}

fn clamped(sum: i64) -> i32 {
    i32::try_from(sum.clamp(FILE_FAULT, -FILE_FAULT)).unwrap_or(0)
}

fn share(tracked: &Tracked, good: bool) -> i32 {
    match good != tracked.reverse {
        true => tracked.weight.max(0),
        false => tracked.weight.min(0),
    }
}

/// Schedule and hysteresis of one `vrrp_script`, shared by the instances that track it.
#[derive(Clone, Debug)]
pub struct Script {
    interval: Duration,
    rise: u32,
    fall: u32,
    /// keepalived's counter: 0..rise is bad, rise..rise+fall is good.
    result: u32,
    verdict: Verdict,
    next: Instant,
    running: bool,
    /// Has had a result.
    learned: bool,
    /// Runs that were due while the one before had not ended; they are skipped.
    pub skipped: u64,
}

impl Script {
    /// Due at once. `init_fail` starts as bad and needs `rise` successes.
    pub fn new(interval: Duration, rise: u32, fall: u32, init_fail: bool, now: Instant) -> Self {
        let (rise, fall) = (rise.max(1), fall.max(1));
        let verdict = if init_fail { Verdict::Bad } else { Verdict::Pending };
        // One success is enough without `init_fail`, and one failure.
        let result = if init_fail { 0 } else { rise - 1 };
        Self {
            interval,
            rise,
            fall,
            result,
            verdict,
            next: now,
            running: false,
            learned: false,
            skipped: 0,
        }
    }

    /// Takes new numbers on reload; the verdict stays. With the same numbers nothing changes:
    /// failures that were counted go on counting.
    pub fn configure(&mut self, interval: Duration, rise: u32, fall: u32, now: Instant) {
        let (rise, fall) = (rise.max(1), fall.max(1));
        if (interval, rise, fall) == (self.interval, self.rise, self.fall) {
            return;
        }
        (self.interval, self.rise, self.fall) = (interval, rise, fall);
        self.next = self.next.min(now + interval);
        self.result = self.result_of(self.verdict);
    }

    fn result_of(&self, verdict: Verdict) -> u32 {
        match verdict {
            Verdict::Good => self.rise + self.fall - 1,
            Verdict::Bad => 0,
            Verdict::Pending | Verdict::Ignored | Verdict::Value(_) => self.rise - 1,
        }
    }

    /// Starts from what a process before this one knew: its verdict stands, rise and fall count
    /// from there. Returns it when it changed; once there is a result it is too late.
    pub fn restore(&mut self, verdict: Verdict) -> Option<Verdict> {
        if self.learned || verdict == Verdict::Pending {
            return None;
        }
        self.result = self.result_of(verdict);
        self.set(verdict)
    }

    /// What it says now.
    pub fn verdict(&self) -> Verdict {
        self.verdict
    }

    /// When [`Script::due`] has to be asked next.
    pub fn poll_timeout(&self) -> Instant {
        self.next
    }

    /// Whether the script is to be started now; early calls say no.
    pub fn due(&mut self, now: Instant) -> bool {
        if now < self.next {
            return false;
        }
        // From the schedule, unless more than an interval was missed.
        let next = self.next + self.interval;
        self.next = if next > now { next } else { now + self.interval };
        if self.running {
            self.skipped += 1;
            return false;
        }
        self.running = true;
        true
    }

    /// A run ended well or badly. Returns the verdict when it changed.
    pub fn done(&mut self, good: bool) -> Option<Verdict> {
        (self.running, self.learned) = (false, true);
        let full = self.rise + self.fall - 1;
        if good {
            self.result = if self.result + 1 < self.rise { self.result + 1 } else { full };
        } else {
            self.result = if self.result > self.rise { self.result - 1 } else { 0 };
        }
        self.set(if self.result >= self.rise { Verdict::Good } else { Verdict::Bad })
    }

    /// The script could not be started. Returns the verdict when it changed.
    pub fn not_started(&mut self) -> Option<Verdict> {
        (self.running, self.learned) = (false, true);
        self.result = self.rise - 1;
        self.set(Verdict::Ignored)
    }

    /// A run could not be made this time: what was known stands.
    pub fn not_now(&mut self) {
        self.running = false;
    }

    fn set(&mut self, verdict: Verdict) -> Option<Verdict> {
        let changed = self.verdict != verdict;
        self.verdict = verdict;
        changed.then_some(verdict)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tracked(name: &str, weight: i32, reverse: bool) -> Tracked {
        Tracked { name: name.into(), weight, reverse }
    }

    fn script(rise: u32, fall: u32, init_fail: bool) -> Script {
        Script::new(Duration::from_secs(2), rise, fall, init_fail, Instant::ZERO)
    }

    #[test]
    fn first_result_decides_then_rise_and_fall_count() {
        let mut it = script(2, 3, false);
        assert_eq!(it.verdict(), Verdict::Pending);
        assert_eq!(it.done(true), Some(Verdict::Good), "one success is enough at the start");
        assert_eq!([it.done(false), it.done(false)], [None, None]);
        assert_eq!(it.done(false), Some(Verdict::Bad), "third failure");
        assert_eq!(it.done(true), None);
        assert_eq!(it.done(false), None, "a failure starts the rise again");
        assert_eq!(it.done(true), None);
        assert_eq!(it.done(true), Some(Verdict::Good), "second success in a row");
        assert_eq!(it.done(false), None);
        assert_eq!(it.done(true), None, "a success starts the fall again");
        assert_eq!([it.done(false), it.done(false)], [None, None]);
        assert_eq!(it.done(false), Some(Verdict::Bad));

        let mut it = script(2, 3, false);
        assert_eq!(it.done(false), Some(Verdict::Bad), "one failure is enough at the start");
        let mut it = script(2, 3, true);
        assert_eq!(it.verdict(), Verdict::Bad);
        assert_eq!(it.done(true), None);
        assert_eq!(it.done(true), Some(Verdict::Good));
    }

    #[test]
    fn a_reload_that_leaves_a_script_alone_loses_no_count_of_it() {
        let (interval, now) = (Duration::from_secs(2), Instant::ZERO);
        let mut it = script(2, 3, false);
        assert_eq!(it.done(true), Some(Verdict::Good));
        assert_eq!([it.done(false), it.done(false)], [None, None]);
        it.configure(interval, 2, 3, now);
        assert_eq!(it.done(false), Some(Verdict::Bad), "the third failure in a row");
        it.configure(interval, 2, 4, now);
        assert_eq!((it.verdict(), it.done(true)), (Verdict::Bad, None), "the verdict stays");
    }

    #[test]
    fn a_successor_starts_from_the_verdict_before_it() {
        let mut it = script(2, 3, false);
        assert_eq!(it.restore(Verdict::Pending), None, "nothing was known");
        assert_eq!(it.restore(Verdict::Bad), Some(Verdict::Bad));
        let mut trackers = Trackers::default();
        trackers.configure(vec![tracked("x", -20, false)], vec![]);
        trackers.script("x", it.verdict());
        assert_eq!(trackers.weight(), -20, "at once, not after the first run");
        assert_eq!(it.done(true), None, "`rise` counts, one success is not enough");
        assert_eq!(it.restore(Verdict::Bad), None, "too late");
        assert_eq!(it.done(true), Some(Verdict::Good));

        let mut it = script(2, 3, true);
        assert_eq!(it.restore(Verdict::Good), Some(Verdict::Good), "init_fail is for the start");
        assert_eq!([it.done(false), it.done(false)], [None, None]);
        assert_eq!(it.done(false), Some(Verdict::Bad));
    }

    #[test]
    fn overlapping_runs_are_skipped_and_missed_ones_not_made_up() {
        let at = |secs| Instant::ZERO + Duration::from_secs(secs);
        let mut it = script(1, 1, false);
        assert!(it.due(at(0)));
        assert!(!it.due(at(1)));
        assert!(!it.due(at(2)), "the first run is still going");
        assert_eq!(it.skipped, 1);
        it.done(true);
        assert!(it.due(at(11)));
        it.done(true);
        assert_eq!(it.poll_timeout(), at(13));
        assert!(!it.due(at(12)));
    }

    #[test]
    fn a_script_that_cannot_start_is_taken_out_of_tracking() {
        let mut it = script(1, 1, false);
        assert_eq!(it.not_started(), Some(Verdict::Ignored));
        assert_eq!(it.not_started(), None, "said once");
        assert_eq!(it.done(false), Some(Verdict::Bad), "counts again when it starts");

        let mut trackers = Trackers::default();
        trackers.configure(vec![tracked("a", 0, false), tracked("b", 20, false)], vec![]);
        trackers.script("a", Verdict::Ignored);
        trackers.script("b", Verdict::Ignored);
        assert_eq!(
            (trackers.weight(), trackers.faults(), trackers.waiting_for()),
            (0, vec![], None)
        );
    }

    #[test]
    fn weights_add_while_good_and_subtract_while_bad() {
        // weight, reverse, good → share
        let rows = [
            (20, false, true, 20),
            (20, false, false, 0),
            (-20, false, true, 0),
            (-20, false, false, -20),
            (20, true, true, 0),
            (20, true, false, 20),
            (-20, true, true, -20),
            (-20, true, false, 0),
            (0, false, false, 0),
        ];
        for (weight, reverse, good, want) in rows {
            let mut trackers = Trackers::default();
            let list = vec![tracked("x", weight, reverse)];
            trackers.configure(list.clone(), vec![]);
            trackers.script("x", if good { Verdict::Good } else { Verdict::Bad });
            assert_eq!(trackers.weight(), want, "script {weight} {reverse} {good}");
            trackers.configure(vec![], list);
            trackers.interface("x", good);
            assert_eq!(trackers.weight(), want, "interface {weight} {reverse} {good}");
        }
    }

    #[test]
    fn files_count_their_value_times_the_weight() {
        // weight, reverse, value → share, whether FAULT
        let rows = [
            (1, false, 7, 7, false),
            (2, false, -20, -40, false),
            (2, true, -20, 40, false),
            (1, false, -253, -253, false),
            (1, false, -254, -254, true),
            (1, true, 254, -254, true),
            (i32::MAX, false, i64::MAX, 254, false),
            (i32::MAX, false, i64::MIN, -254, true),
            (0, false, 0, 0, false),
            (0, false, 1, 0, true),
            (0, true, 0, 0, true),
        ];
        for (weight, reverse, value, share, fault) in rows {
            let key = Kind::File.key("f");
            let mut trackers = Trackers::default();
            trackers.configure(vec![tracked(&key, weight, reverse)], vec![]);
            assert_eq!(trackers.faults(), [""; 0]);
            trackers.script(&key, Verdict::Value(value));
            let row = format!("{weight} {reverse} {value}");
            assert_eq!(trackers.weight(), share, "{row}");
            assert_eq!(trackers.faults().len(), usize::from(fault), "{row}");
            assert!(trackers.faults().iter().all(|it| it.starts_with("file f holds")), "{row}");
        }
    }

    #[test]
    fn objects_of_every_kind_are_called_by_name() {
        assert_eq!(label("chk"), "script chk");
        assert_eq!(label(&Kind::Process.key("mysqld")), "process mysqld");
        assert_eq!(label(&Kind::Mysql.key("db")), "MySQL check db");
        assert_eq!(Kind::File.name(&Kind::File.key("f")), Some("f"));
        assert_eq!(Kind::File.name(&Kind::Mysql.key("f")), None);
    }

    #[test]
    fn unweighted_objects_fault_or_hold() {
        let mut trackers = Trackers::default();
        trackers.configure(vec![tracked("chk", 0, false)], vec![tracked("eth1", 0, false)]);
        assert_eq!(trackers.waiting_for(), Some("chk"));
        trackers.script("chk", Verdict::Bad);
        trackers.interface("eth1", false);
        trackers.script("other", Verdict::Bad);
        assert_eq!(trackers.waiting_for(), None);
        assert_eq!(trackers.faults(), ["interface eth1 is down", "script chk fails"]);
        trackers.interface("eth1", true);
        trackers.configure(vec![tracked("chk", -5, false)], vec![tracked("eth1", 0, false)]);
        assert_eq!((trackers.faults(), trackers.weight()), (vec![], -5), "verdict survives reload");
    }
}
