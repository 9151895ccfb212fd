//! `vrrp_track_process`: which processes match, how many there are, and when that counts. Pure: the
//! shell says which processes come, change their name and go.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use crate::{
    base::{status::TrackedProcess, time::Instant},
    config::model::{ParamMatch, TrackProcess},
};

/// Bytes of a process's name that the kernel keeps (proc(5), comm).
const COMM_LEN: usize = 15;

/// A process as /proc shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Process {
    /// /proc/PID/comm.
    pub comm: String,
    /// /proc/PID/cmdline; only read when some tracker wants it.
    pub argv: Vec<String>,
}

/// Whether a tracker means this process.
pub fn matches(spec: &TrackProcess, process: &Process) -> bool {
    let Some((program, params)) = spec.command.split_first() else { return false };
    if !needs_argv(spec) {
        return cut(program, COMM_LEN) == process.comm.as_bytes();
    }
    let Some((first, given)) = process.argv.split_first() else { return false };
    if first != program {
        return false;
    }
    match spec.param_match {
        None if params.is_empty() => true,
        None => given == params,
        // No parameters configured: it must have none.
        Some(_) if params.is_empty() => given.is_empty(),
        Some(ParamMatch::Partial) => given.starts_with(params),
        Some(ParamMatch::Initial) => {
            let Some((last, before)) = params.split_last() else { return true };
            given.len() == params.len()
                && given.starts_with(before)
                && given.last().is_some_and(|word| word.starts_with(last.as_str()))
        }
    }
}

fn cut(text: &str, len: usize) -> &[u8] {
    text.as_bytes().get(..len).unwrap_or(text.as_bytes())
}

/// Whether a tracker compares command lines and not only names.
pub fn needs_argv(spec: &TrackProcess) -> bool {
    spec.full_command || spec.param_match.is_some() || spec.command.len() > 1
}

#[derive(Clone, Debug)]
struct Tracker {
    spec: TrackProcess,
    pids: BTreeSet<u32>,
    verdict: Option<bool>,
    pending: Option<Pending>,
}

/// The other verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Pending {
    verdict: bool,
    /// When it counts.
    at: Instant,
    /// More processes made it, or fewer.
    more: bool,
}

impl Tracker {
    fn count(&self) -> u32 {
        u32::try_from(self.pids.len()).unwrap_or(u32::MAX)
    }

    fn wanted(&self) -> bool {
        let count = self.count();
        count >= self.spec.quorum && self.spec.quorum_max.is_none_or(|max| count <= max)
    }
}

/// All trackers.
#[derive(Clone, Debug, Default)]
pub struct Processes {
    trackers: BTreeMap<String, Tracker>,
    changes: VecDeque<(String, bool)>,
}

impl Processes {
    /// Replaces the trackers; call [`Processes::scanned`] after it. Verdicts of trackers that mean
    /// the same processes stay.
    pub fn configure(&mut self, specs: Vec<TrackProcess>) {
        let mut old = std::mem::take(&mut self.trackers);
        for spec in specs {
            let kept = old.remove(&spec.name).filter(|it| it.spec == spec);
            let new =
                Tracker { spec: spec.clone(), pids: BTreeSet::new(), verdict: None, pending: None };
            self.trackers.insert(spec.name, kept.unwrap_or(new));
        }
    }

    /// Whether any tracker needs command lines.
    pub fn needs_argv(&self) -> bool {
        self.trackers.values().any(|it| needs_argv(&it.spec))
    }

    /// Every process there is: what was missed since is made up for.
    pub fn scanned(&mut self, all: &BTreeMap<u32, Process>, now: Instant) {
        for tracker in self.trackers.values_mut() {
            let before = tracker.pids.len();
            tracker.pids = all
                .iter()
                .filter(|(_, process)| matches(&tracker.spec, process))
                .map(|(pid, _)| *pid)
                .collect();
            judge(tracker, tracker.pids.len() > before, now, &mut self.changes);
        }
    }

    /// A process is new, or is called otherwise now.
    pub fn seen(&mut self, pid: u32, process: &Process, now: Instant) {
        for tracker in self.trackers.values_mut() {
            let more = matches(&tracker.spec, process);
            let changed = if more { tracker.pids.insert(pid) } else { tracker.pids.remove(&pid) };
            if changed {
                judge(tracker, more, now, &mut self.changes);
            }
        }
    }

    /// A process has ended.
    pub fn gone(&mut self, pid: u32, now: Instant) {
        for tracker in self.trackers.values_mut() {
            if tracker.pids.remove(&pid) {
                judge(tracker, false, now, &mut self.changes);
            }
        }
    }

    /// When [`Processes::handle_timeout`] has to be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.trackers.values().filter_map(|it| it.pending).map(|it| it.at).min()
    }

    /// Delays that are over.
    pub fn handle_timeout(&mut self, now: Instant) {
        for (name, tracker) in &mut self.trackers {
            if let Some(Pending { verdict, at, .. }) = tracker.pending
                && at <= now
            {
                tracker.pending = None;
                tracker.verdict = Some(verdict);
                self.changes.push_back((name.clone(), verdict));
            }
        }
    }

    /// How many there are, and what waits.
    pub fn status(&self) -> Vec<TrackedProcess> {
        let one = |(name, it): (&String, &Tracker)| TrackedProcess {
            name: name.clone(),
            count: it.count(),
            fork_delay_runs: it.pending.is_some_and(|it| it.more),
            terminate_delay_runs: it.pending.is_some_and(|it| !it.more),
        };
        self.trackers.iter().map(one).collect()
    }

    /// The next tracker whose verdict changed, with it.
    pub fn poll_change(&mut self) -> Option<(String, bool)> {
        self.changes.pop_front()
    }
}

/// After a change of number: `more` processes or fewer.
fn judge(tracker: &mut Tracker, more: bool, now: Instant, changes: &mut VecDeque<(String, bool)>) {
    let wanted = tracker.wanted();
    if tracker.verdict == Some(wanted) {
        tracker.pending = None;
        return;
    }
    let delay = if more { tracker.spec.fork_delay } else { tracker.spec.terminate_delay };
    if tracker.verdict.is_none() || delay == Duration::ZERO {
        tracker.pending = None;
        tracker.verdict = Some(wanted);
        changes.push_back((tracker.spec.name.clone(), wanted));
    } else if tracker.pending.is_none() {
        tracker.pending = Some(Pending { verdict: wanted, at: now + delay, more });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(command: &[&str]) -> TrackProcess {
        TrackProcess::new("t", command.iter().map(|&word| word.to_owned()).collect())
    }

    fn process(comm: &str, argv: &[&str]) -> Process {
        Process { comm: comm.into(), argv: argv.iter().map(|&word| word.to_owned()).collect() }
    }

    fn at(millis: u64) -> Instant {
        Instant::ZERO + Duration::from_millis(millis)
    }

    fn all(processes: &mut Processes) -> Vec<bool> {
        std::iter::from_fn(|| processes.poll_change()).map(|(_, verdict)| verdict).collect()
    }

    #[test]
    fn names_and_command_lines_match_as_keepaliveds() {
        use ParamMatch::{Initial, Partial};
        let full = |command: &[&str], param_match| TrackProcess {
            full_command: true,
            param_match,
            ..spec(command)
        };
        let sshd = process("sshd", &["/usr/sbin/sshd", "-D", "-p22"]);
        let rows = [
            (spec(&["sshd"]), true),
            (spec(&["ssh"]), false),
            (spec(&["/usr/sbin/sshd"]), false),
            (spec(&["/usr/sbin/sshd", "-D"]), false),
            (spec(&["/usr/sbin/sshd", "-D", "-p22"]), true),
            (full(&["/usr/sbin/sshd"], None), true),
            (full(&["sshd"], None), false),
            (full(&["/usr/sbin/sshd"], Some(Initial)), false),
            (full(&["/usr/sbin/sshd", "-D"], Some(Partial)), true),
            (full(&["/usr/sbin/sshd", "-p22"], Some(Partial)), false),
            (full(&["/usr/sbin/sshd", "-D", "-p"], Some(Initial)), true),
            (full(&["/usr/sbin/sshd", "-D"], Some(Initial)), false),
        ];
        for (spec, wanted) in rows {
            assert_eq!(matches(&spec, &sshd), wanted, "{spec:?}");
        }
        let long = process("a-very-long-nam", &[]);
        assert!(matches(&spec(&["a-very-long-name-of-a-process"]), &long), "the kernel cuts names");
    }

    #[test]
    fn a_quorum_has_both_ends() {
        let mut it = Processes::default();
        it.configure(vec![TrackProcess { quorum: 2, quorum_max: Some(3), ..spec(&["x"]) }]);
        it.scanned(&BTreeMap::new(), at(0));
        assert_eq!(all(&mut it), [false], "the first look decides at once");
        let x = process("x", &[]);
        for pid in 1..=4 {
            it.seen(pid, &x, at(0));
        }
        assert_eq!(all(&mut it), [true, false]);
        it.gone(9, at(0));
        it.gone(1, at(0));
        assert_eq!(all(&mut it), [true]);
        it.seen(2, &process("y", &[]), at(0));
        it.seen(3, &process("y", &[]), at(0));
        assert_eq!(all(&mut it), [false], "called otherwise, counted no more");
        let found = BTreeMap::from([(7, x.clone()), (8, x)]);
        it.scanned(&found, at(0));
        assert_eq!(all(&mut it), [true], "events were lost, the scan knows");
    }

    #[test]
    fn delays_damp_both_ways() {
        let damped = TrackProcess {
            fork_delay: Duration::from_millis(100),
            terminate_delay: Duration::from_millis(200),
            ..spec(&["x"])
        };
        let mut it = Processes::default();
        it.configure(vec![damped.clone()]);
        it.scanned(&BTreeMap::from([(1, process("x", &[]))]), at(0));
        assert_eq!(all(&mut it), [true]);
        let is = |count, fork_delay_runs, terminate_delay_runs| {
            let name = "t".to_owned();
            [TrackedProcess { name, count, fork_delay_runs, terminate_delay_runs }]
        };
        assert_eq!(it.status(), is(1, false, false));
        it.gone(1, at(0));
        assert_eq!(it.poll_timeout(), Some(at(200)));
        assert_eq!(it.status(), is(0, false, true));
        it.handle_timeout(at(199));
        it.seen(2, &process("x", &[]), at(199));
        assert_eq!((all(&mut it), it.poll_timeout()), (vec![], None), "a restart is no end");
        it.gone(2, at(300));
        it.handle_timeout(at(500));
        assert_eq!(all(&mut it), [false]);
        it.seen(3, &process("x", &[]), at(600));
        assert_eq!(it.poll_timeout(), Some(at(700)));
        assert_eq!(it.status(), is(1, true, false));
        it.handle_timeout(at(700));
        assert_eq!(all(&mut it), [true]);
        assert_eq!(it.status(), is(1, false, false));
        it.configure(vec![damped]);
        it.scanned(&BTreeMap::from([(3, process("x", &[]))]), at(800));
        assert_eq!(all(&mut it), [false; 0], "a reload that changes nothing says nothing");
    }
}
