//! What lbd promises of its fail-over, and whether a run kept it. Times on a busy machine are its
//! own: the bench tells what was missed and judges nothing else by it.

use super::{
    Fault, Pace,
    crowd::Crowd,
    report::{Line, Spread},
    rhythm::Rhythm,
};

/// From the timer's own limit to the heir's first advert.
const WIRE_MS: f64 = 0.3;
/// Before that limit nobody may take over; so much earlier the watcher's own clock may see it.
const EARLY_MS: f64 = -0.1;
/// From there to the first answer at the client; also what a clean stop may cost beyond the skew.
const CLIENT_MS: f64 = 1.0;
/// The 99th percentile of the advert period at 10 ms.
const PERIOD_MS: f64 = 10.5;
/// keepalived's figures for 255 instances (reference/vrrp.md §4); its memory is compared in the same
/// run, like with like, and with these where it did not run.
const CROWD_START_MS: f64 = 643.0;
const CROWD_CPU_PERCENT: f64 = 1.2;
const CROWD_RSS_MB: f64 = 13.8;
const CROWD_PSS_MB: f64 = 5.5;

/// One figure that is not what it should be.
type Missed = String;

/// What is to be said of one line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    pub missed: Vec<Missed>,
    /// So few of the runs counted that its times are not judged: `7 of 10`.
    pub unjudged: Option<String>,
}

fn at_most(what: &str, found: Option<f64>, most: f64) -> Option<Missed> {
    let found = found.filter(|found| *found > most)?;
    Some(format!("{what} {found:.2} > {most:.2}"))
}

fn at_least(what: &str, found: Option<f64>, least: f64) -> Option<Missed> {
    let found = found.filter(|found| *found < least)?;
    Some(format!("{what} {found:.2} < {least:.2}"))
}

/// What was never measured is not met.
fn required(what: &str, found: Option<f64>, most: f64) -> Option<Missed> {
    match found {
        None => Some(format!("{what} not measured")),
        found => at_most(what, found, most),
    }
}

/// Of the medians of a fault, and of every single run that two hosts never answer.
pub fn of(line: &Line) -> Verdict {
    let median = |spread: Option<Spread>| spread.map(|it| it.median);
    let skew = line.pace.skew().as_secs_f64() * 1000.0;
    let over = median(line.wire_over_ms);
    let early = || at_least("wire over ms", over, EARLY_MS);
    let takeover = || {
        let client = required("client after ms", median(line.client_after_ms), CLIENT_MS);
        vec![required("wire over ms", over, WIRE_MS), early(), client]
    };
    let stop = |most| required("outage ms", median(line.outage_ms), most);
    let lost = || required("lost (median)", median(line.lost), 0.0);
    let times = match line.fault {
        // The heir is told of a script's failure as of a stop, and waits its skew.
        Fault::HostDies | Fault::Cut | Fault::DaemonKilled | Fault::ScriptFails => takeover(),
        Fault::VrrpKilled => vec![],
        Fault::Stop => vec![stop(skew + CLIENT_MS), early()],
        Fault::ToldStop => vec![stop(skew)],
        Fault::Return | Fault::ReloadSame | Fault::ReloadAddsVip => vec![lost()],
    };
    // Of these no run is too disturbed to count.
    let mut safety = vec![required("both answer ms", Some(line.both_ms.max), 0.0)];
    match line.fault {
        Fault::DaemonKilled => {
            let least = line.silent_before_ms.map(|it| it.min);
            let unknown = least.is_none().then(|| "silent before ms not measured".to_owned());
            safety.extend([unknown, at_least("silent before ms", least, 0.0)]);
        }
        Fault::VrrpKilled | Fault::ReloadSame | Fault::ReloadAddsVip => {
            safety.push(required("intruding", line.intruding.map(|it| it.max), 0.0));
        }
        _ => {}
    }
    let enough = line.runs >= line.asked;
    let times = if enough { times } else { vec![] };
    Verdict {
        missed: times.into_iter().chain(safety).flatten().collect(),
        unjudged: (!enough).then(|| format!("{} of {}", line.runs, line.asked)),
    }
}

/// As the table's column has it.
pub fn word(verdict: &Verdict) -> String {
    let missed = match &verdict.missed[..] {
        [] => None,
        missed => Some(format!("missed: {}", missed.join(", "))),
    };
    let unjudged = verdict.unjudged.as_ref().map(|runs| format!("not judged: {runs}"));
    let said: Vec<String> = missed.into_iter().chain(unjudged).collect();
    if said.is_empty() { "met".to_owned() } else { said.join("; ") }
}

/// Of the advert rhythm at 10 ms, idle and among busy loops, the soak's as well.
pub fn of_rhythm(found: &Rhythm) -> Vec<Missed> {
    let missed = [
        at_most("p99 ms", Some(found.p99_ms), PERIOD_MS),
        at_most("takeovers", Some(found.takeovers as f64), 0.0),
    ];
    missed.into_iter().flatten().collect()
}

/// Of 255 instances, beside keepalived's of the same run.
pub fn of_crowd(found: &Crowd, keepalived: Option<&Crowd>) -> Vec<Missed> {
    let (rss, pss) = keepalived.map_or((CROWD_RSS_MB, CROWD_PSS_MB), |it| (it.rss_mb, it.pss_mb));
    let missed = [
        at_most("all up ms", Some(found.all_up_ms), CROWD_START_MS),
        at_most("CPU %", Some(found.cpu_percent), CROWD_CPU_PERCENT),
        at_most("RSS MB", Some(found.rss_mb), rss),
        at_most("PSS MB", Some(found.pss_mb), pss),
    ];
    missed.into_iter().flatten().collect()
}

/// The last line of the bench: every target that lbd missed, by name, and what of `expected` was not
/// measured often enough, or never.
pub fn summary(
    lines: &[Line],
    rhythms: &[Rhythm],
    crowds: &[Crowd],
    expected: &[(Pace, Fault)],
) -> String {
    let name = |pace: Pace, fault: Fault| {
        format!("{} at {} s", fault.name(), f64::from(pace.advert_ms) / 1000.0)
    };
    let lines: Vec<&Line> = lines.iter().filter(|it| it.program == "lbd").collect();
    let absent = expected.iter().filter(|(pace, fault)| {
        !lines.iter().any(|line| line.pace == *pace && line.fault == *fault)
    });
    let absent = absent.map(|(pace, fault)| format!("{}: never", name(*pace, *fault)));
    let verdicts: Vec<(String, Verdict)> =
        lines.iter().map(|it| (name(it.pace, it.fault), of(it))).collect();
    let unjudged: Vec<String> = verdicts
        .iter()
        .filter_map(|(what, it)| Some(format!("{what}: {}", it.unjudged.as_ref()?)))
        .chain(absent)
        .collect();
    let faults =
        verdicts.into_iter().filter(|(_, it)| it.unjudged.is_none() || !it.missed.is_empty());
    let faults = faults.map(|(what, it)| (what, it.missed));
    let rhythms = rhythms.iter().filter(|it| it.program == "lbd").map(|it| {
        let what = format!("adverts at 10 ms, {} busy loops, {:.0} s", it.busy_loops, it.seconds);
        (what, of_rhythm(it))
    });
    let keepalived = crowds.iter().find(|it| it.program != "lbd");
    let crowds = crowds.iter().filter(|it| it.program == "lbd");
    let crowds = crowds.map(|it| ("255 instances".to_owned(), of_crowd(it, keepalived)));
    let all: Vec<(String, Vec<Missed>)> = faults.chain(rhythms).chain(crowds).collect();
    let missed: Vec<String> = all
        .iter()
        .filter(|(_, missed)| !missed.is_empty())
        .map(|(what, missed)| format!("{what}: {}", missed.join(", ")))
        .collect();
    let mut said = match missed.len() {
        0 => format!("targets: all {} met", all.len()),
        count => format!("targets: {count} of {} missed: {}", all.len(), missed.join("; ")),
    };
    if !unjudged.is_empty() {
        said += &format!("; not judged: {}", unjudged.join("; "));
    }
    said
}

#[cfg(test)]
mod tests;
