//! Medians, and lbd beside keepalived.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{Fault, Pace, pair::Measure, targets};

/// Least, median and greatest of one figure.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spread {
    pub min: f64,
    pub median: f64,
    pub max: f64,
}

impl Spread {
    /// `None` of no values.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut sorted: Vec<f64> = values.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let median = match sorted.len() {
            0 => return None,
            n if n % 2 == 1 => sorted[n / 2],
            n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
        };
        Some(Self { min: *sorted.first()?, median, max: *sorted.last()? })
    }
}

impl std::fmt::Display for Spread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = format!("{:.2} ({:.2}-{:.2})", self.median, self.min, self.max);
        f.pad(&text)
    }
}

/// All runs of one fault at one pace by one program, summed up.
#[derive(Clone, Debug, Serialize)]
pub struct Line {
    pub program: &'static str,
    pub pace: Pace,
    pub fault: Fault,
    /// Runs that were to count.
    pub asked: usize,
    /// Runs that count.
    pub runs: usize,
    /// Runs in which the client itself paused: of these only two hosts that answer at a time, and
    /// adverts of the wrong one, are figures of the pair and not of the machine.
    pub disturbed: usize,
    pub outage_ms: Option<Spread>,
    pub takeover_ms: Option<Spread>,
    pub wire_over_ms: Option<Spread>,
    pub client_after_ms: Option<Spread>,
    pub lost: Option<Spread>,
    pub both_ms: Spread,
    pub silent_before_ms: Option<Spread>,
    pub intruding: Option<Spread>,
    pub measures: Vec<Measure>,
}

/// Key of a line: pace, fault, program.
pub type Key = (Pace, Fault, &'static str);

/// One line for each key with a run, in the order of the bench; `asked`: runs that were to count.
pub fn lines(all: &BTreeMap<Key, Vec<Measure>>, asked: usize) -> Vec<Line> {
    let mut lines: Vec<Line> =
        all.iter().filter_map(|(key, measures)| line(*key, measures, asked)).collect();
    // Slowest first, as reference/vrrp.md has it.
    lines.sort_by_key(|line| (std::cmp::Reverse(line.pace.advert_ms), line.fault, line.program));
    lines
}

fn line((pace, fault, program): Key, measures: &[Measure], asked: usize) -> Option<Line> {
    let good: Vec<&Measure> = measures.iter().filter(|measure| !measure.disturbed).collect();
    Some(Line {
        program,
        pace,
        fault,
        asked,
        runs: good.len(),
        disturbed: measures.len() - good.len(),
        outage_ms: Spread::of(good.iter().map(|measure| measure.outage_ms)),
        takeover_ms: Spread::of(good.iter().filter_map(|measure| measure.takeover_ms)),
        wire_over_ms: Spread::of(good.iter().filter_map(|measure| measure.wire_over_ms)),
        client_after_ms: Spread::of(good.iter().filter_map(|measure| measure.client_after_ms)),
        lost: Spread::of(good.iter().map(|measure| measure.lost as f64)),
        both_ms: Spread::of(measures.iter().map(|measure| measure.both_ms))?,
        silent_before_ms: Spread::of(
            measures.iter().filter_map(|measure| measure.silent_before_ms),
        ),
        intruding: Spread::of(
            measures.iter().filter_map(|measure| measure.intruding.map(|count| count as f64)),
        ),
        measures: measures.to_vec(),
    })
}

/// The table as a person reads it: medians (least-greatest) in milliseconds.
pub fn table(lines: &[Line]) -> String {
    let mut text = format!(
        "{:<8}{:<27}{:<12}{:>28}{:>28}{:>24}{:>24}{:>18}{:>24}{:>26}{:>14}{:>10}  {}\n",
        "advert",
        "fault",
        "program",
        "outage ms",
        "takeover ms",
        "wire over ms",
        "client after ms",
        "lost",
        "both answer ms",
        "silent before ms",
        "intruding",
        "runs",
        "target"
    );
    for line in lines {
        let text_of = |spread: Option<Spread>| spread.map_or("-".to_owned(), |it| it.to_string());
        text += &format!(
            "{:<8}{:<27}{:<12}{:>28}{:>28}{:>24}{:>24}{:>18}{:>24}{:>26}{:>14}{:>10}  {}\n",
            f64::from(line.pace.advert_ms) / 1000.0,
            line.fault.name(),
            line.program,
            text_of(line.outage_ms),
            text_of(line.takeover_ms),
            text_of(line.wire_over_ms),
            text_of(line.client_after_ms),
            line.lost.map_or("-".to_owned(), counts),
            line.both_ms,
            text_of(line.silent_before_ms),
            line.intruding.map_or("-".to_owned(), counts),
            // What strikes only because another fault does may have more.
            format!("{} of {}", line.runs.min(line.asked), line.asked),
            if line.program == "lbd" { targets::word(&targets::of(line)) } else { String::new() },
        );
    }
    text
}

fn counts(spread: Spread) -> String {
    format!("{:.0} ({:.0}-{:.0})", spread.median, spread.min, spread.max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_disturbed_runs() {
        assert_eq!(Spread::of([]), None);
        assert_eq!(Spread::of([3.0, 1.0, 2.0]).map(|spread| spread.median), Some(2.0));
        assert_eq!(Spread::of([4.0, 1.0]).map(|spread| spread.median), Some(2.5));
        let measure = |outage_ms, disturbed| Measure {
            outage_ms,
            takeover_ms: None,
            wire_over_ms: None,
            client_after_ms: None,
            lost: 1,
            both_ms: 0.0,
            silent_before_ms: None,
            intruding: (outage_ms < 10.0).then_some(3),
            disturbed,
        };
        let key = (Pace::ALL[0], Fault::Stop, "lbd");
        let all = BTreeMap::from([(key, vec![measure(5.0, false), measure(900.0, true)])]);
        let [line] = &lines(&all, 1)[..] else { panic!("one line") };
        assert_eq!((line.runs, line.disturbed, line.outage_ms.map(|it| it.max)), (1, 1, Some(5.0)));
        let text = table(std::slice::from_ref(line));
        assert!(text.contains("clean stop") && text.contains("3 (3-3)"), "{text}");
        assert!(text.trim_end().ends_with("  met"), "5 ms is below the skew: {text}");
        // What is missed is named: the median's, and two that answer in a single run.
        let mut slow = measure(700.0, false);
        slow.both_ms = 2.0;
        let all = BTreeMap::from([(key, vec![slow, measure(620.0, false), measure(611.0, false)])]);
        let slow = lines(&all, 3);
        let missed = "outage ms 620.00 > 610.38, both answer ms 2.00 > 0.00";
        assert!(table(&slow).trim_end().ends_with(&format!("missed: {missed}")));
    }
}
