//! What the lab reports: one entry an event, as JSON and as a person would read it.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use crate::verdict::Seen;

/// A whole run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    pub mode: String,
    pub scheduler: String,
    /// Settings of the lab's cables, in words.
    pub settings: Vec<String>,
    pub events: Vec<EventReport>,
    /// Every expectation of every event held, and the run came to its end.
    pub passed: bool,
    /// Why it did not come to its end.
    #[serde(default)]
    pub error: Option<String>,
}

/// One event.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct EventReport {
    pub event: String,
    /// Seconds from the start of the run.
    pub at_s: f64,
    /// How long it was watched, seconds.
    pub watched_s: f64,
    /// Longest time between two successful new connections, milliseconds, without the time in which the machine did
    /// not run the client or a CPU.
    pub longest_client_gap_ms: u64,
    /// The same by the clock on the wall.
    #[serde(default)]
    pub longest_client_gap_wall_ms: u64,
    /// Kept sessions that ended.
    pub sessions_lost: usize,
    /// Of those, by RST.
    pub resets: u64,
    /// New connections that failed.
    pub new_connection_errors: u64,
    /// Time during which two hosts had the right to forward (leases), milliseconds.
    pub two_forwarders_ms: f64,
    /// The same by the frames that left the hosts in the VIP's name, milliseconds.
    pub two_forwarders_by_frames_ms: f64,
    /// Such frames of lb1 and lb2.
    pub frames_by_host: [usize; 2],
    /// Time during which no host forwarded, milliseconds.
    pub no_forwarder_ms: f64,
    /// Everything the client saw.
    pub client: Seen,
    /// What was expected, in words.
    pub expected: String,
    /// Expectations that did not hold; empty: passed.
    pub problems: Vec<String>,
}

impl EventReport {
    /// A few lines for a person.
    pub fn lines(&self) -> String {
        let seen = &self.client;
        let mut text = format!("{:7.1} s  {}\n", self.at_s, self.event);
        let mut facts = vec![format!("{} new connections", seen.connects)];
        if seen.connect_errors > 0 {
            let kinds: Vec<_> =
                seen.connect_errors_by_kind.iter().map(|(kind, n)| format!("{n} {kind}")).collect();
            facts.push(format!(
                "{} failed during {} ms ({})",
                seen.connect_errors,
                seen.connects_failed_for_ms,
                kinds.join(", ")
            ));
        }
        facts.push(format!("longest gap {} ms", seen.longest_gap_ms));
        facts.push(format!("slowest query {} ms", seen.slowest_query_ms));
        let _ = writeln!(text, "           {}", facts.join(" · "));
        let mut facts = Vec::new();
        if seen.lost.is_empty() {
            facts.push("no session lost".to_owned());
        } else {
            let slowest = seen.lost.iter().map(|lost| lost.after_query_ms).max().unwrap_or(0);
            let mut ways = std::collections::BTreeMap::<&str, u32>::new();
            for lost in &seen.lost {
                *ways.entry(&lost.how).or_default() += 1;
            }
            let ways: Vec<_> = ways.iter().map(|(how, n)| format!("{n} {how}")).collect();
            facts.push(format!(
                "{} sessions lost ({}), told after {slowest} ms at most",
                seen.lost.len(),
                ways.join(", ")
            ));
        }
        facts.push(format!(
            "two forwarders for {:.0} ms (seen in {} frames: {:.0} ms)",
            self.two_forwarders_ms,
            self.frames_by_host.iter().sum::<usize>(),
            self.two_forwarders_by_frames_ms
        ));
        if self.no_forwarder_ms > 0.0 {
            facts.push(format!("none {:.0} ms", self.no_forwarder_ms));
        }
        let _ = writeln!(text, "           {}", facts.join(" · "));
        if self.problems.is_empty() {
            let _ = writeln!(text, "           ok: {}", self.expected);
        }
        for problem in &self.problems {
            let _ = writeln!(text, "           NOT AS EXPECTED: {problem}");
        }
        text
    }
}
