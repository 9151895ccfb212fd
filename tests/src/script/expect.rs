//! What is expected of an event, and what of it did not hold.

use std::time::{Duration, Instant};

use crate::{
    sampler::Change,
    verdict::{LostSession, Seen},
};

/// A stop or kill of a MySQL server, until no new connection fails.
pub const SERVER_LOSS_MS: u64 = 1500;
/// An orderly stop of a balancer (advert_int 1).
pub const HOST_STOP_MS: u64 = 1000;
/// A kill of a balancer: 3 × advert + skew, and a retried SYN.
pub const HOST_KILL_MS: u64 = 4000;
/// A client of a dead server must know within this time.
pub const TOLD_MS: u64 = 1000;
/// Local mode: the check script runs every 2 s and stops the daemon, whose priority 0 moves the
/// VIP within the skew (under 1 s); a SYN is retried after 1 s.
pub const SCRIPT_MS: u64 = 4500;

/// A query on a session that nothing happens to: a server under load may write to a slow disk.
const QUERY_MS: u64 = 1000;

/// What may happen to kept sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sessions {
    /// None may end.
    AllSurvive,
    /// Those of this server end, told within [`TOLD_MS`] by the server itself or by the balancer;
    /// no other.
    OnlyOf(u32),
    /// Those of this server, which can tell nothing any more, are reset within [`TOLD_MS`]; no other.
    ResetOf(u32),
    /// Any may be reset, or closed by a server that ends; none may hang or end otherwise.
    MayBeReset,
}

/// What is expected of an event.
#[derive(Clone, Copy, Debug)]
pub(super) struct Expect {
    pub(super) sessions: Sessions,
    /// New connections may fail for so long, and gaps between successes be so long.
    pub(super) connects_ms: u64,
    /// No host may gain or lose the right to forward.
    pub(super) no_flap: bool,
}

impl Expect {
    pub(super) fn words(self) -> String {
        let sessions = match self.sessions {
            Sessions::AllSurvive => "every session survives".to_owned(),
            Sessions::OnlyOf(id) => {
                format!("only db{id}'s sessions end, told within {TOLD_MS} ms")
            }
            Sessions::ResetOf(id) => {
                format!("only db{id}'s sessions end, reset within {TOLD_MS} ms")
            }
            Sessions::MayBeReset => "sessions may be reset, none hangs".to_owned(),
        };
        let connects = match self.connects_ms {
            0 => "no new connection fails".to_owned(),
            ms => format!("new connections fail for {ms} ms at most"),
        };
        let flap = if self.no_flap { ", the VIP stays" } else { "" };
        format!("{sessions}; {connects}; never two forwarders{flap}")
    }
}

pub(super) const UNTOUCHED: Expect =
    Expect { sessions: Sessions::AllSurvive, connects_ms: 0, no_flap: true };

pub(super) fn server_loss(id: u32) -> Expect {
    Expect { sessions: Sessions::OnlyOf(id), connects_ms: SERVER_LOSS_MS, no_flap: true }
}

pub(super) fn server_cut(id: u32) -> Expect {
    Expect { sessions: Sessions::ResetOf(id), ..server_loss(id) }
}

/// What may make new connections fail: the event, and each later moment in which a host lost the
/// right to forward, when the time allowed after the one before is over (a host that comes back
/// preempts seconds after its start). The sampler may have seen it late, the client's failures not.
pub(super) fn causes(
    event: Instant,
    end: Instant,
    expect: &Expect,
    changes: &[Change],
) -> Vec<Instant> {
    let mut causes = vec![event];
    let losses = changes.windows(2).filter_map(|pair| match pair {
        [before, after] if before.forwarders & !after.forwarders != 0 => Some(after.before),
        _ => None,
    });
    for loss in losses.filter(|loss| !expect.no_flap && (event..=end).contains(loss)) {
        let allowed = Duration::from_millis(expect.connects_ms);
        if causes.last().is_some_and(|last| loss > *last + allowed) {
            causes.push(loss);
        }
    }
    causes
}

pub(super) fn problems(expect: &Expect, seen: &Seen) -> Vec<String> {
    let mut found = Vec::new();
    if seen.connects_failed_for_ms > expect.connects_ms {
        found.push(format!(
            "new connections failed for {} ms, {} ms allowed ({} errors)",
            seen.connects_failed_for_ms, expect.connects_ms, seen.connect_errors
        ));
    }
    // Between two successes lies a pause even on a calm day; half a second of it is a busy machine.
    let gap_allowed = expect.connects_ms.max(500) + 100;
    if seen.longest_gap_ms > gap_allowed {
        found.push(format!(
            "no new connection succeeded for {} ms, {gap_allowed} ms allowed",
            seen.longest_gap_ms
        ));
    }
    // TCP repeats what was lost at intervals that double, so it may find out as late again after the end of a gap.
    let query_allowed = 2 * expect.connects_ms + QUERY_MS;
    if seen.slowest_query_ms > query_allowed {
        found.push(format!(
            "a session survived, but waited {} ms for an answer, {query_allowed} ms allowed",
            seen.slowest_query_ms
        ));
    }
    if seen.connects == 0 {
        found.push("no new connection succeeded at all".to_owned());
    }
    if seen.hangs > 0 {
        found.push(format!("{} sessions hung", seen.hangs));
    }
    if let Sessions::OnlyOf(dead) | Sessions::ResetOf(dead) = expect.sessions
        && seen.lost.iter().all(|lost| lost.server != dead)
    {
        found.push(format!("no session of dead db{dead} ended: its clients were told nothing"));
    }
    for lost in &seen.lost {
        if let Some(problem) = judge_loss(expect.sessions, lost) {
            found.push(problem);
        }
    }
    found
}

fn judge_loss(sessions: Sessions, lost: &LostSession) -> Option<String> {
    let LostSession { session, server, how, after_event_ms, after_query_ms, idle } = lost;
    match sessions {
        // Whatever else ends one (an error of the server, no way to it) is no word that the client was told.
        Sessions::MayBeReset => (how != "reset" && how != "closed").then(|| {
            format!(
                "session {session} of db{server} ended by {how} {after_event_ms} ms after the event"
            )
        }),
        Sessions::OnlyOf(dead) | Sessions::ResetOf(dead) if *server == dead => {
            let told = match sessions {
                Sessions::ResetOf(_) => how == "reset",
                _ => how == "reset" || how == "closed",
            };
            if !told {
                return Some(format!("session {session} of dead db{server} ended by {how}"));
            }
            // An idle session learns when it asks; a busy one within the time from the event.
            let late = if *idle { *after_query_ms } else { *after_event_ms };
            (late > TOLD_MS).then(|| {
                format!("session {session} of dead db{server} was told ({how}) after {late} ms")
            })
        }
        Sessions::AllSurvive | Sessions::OnlyOf(_) | Sessions::ResetOf(_) => Some(format!(
            "session {session} of living db{server} ended ({how}) {after_event_ms} ms after the event"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lost(server: u32, how: &str, after_event_ms: u64) -> LostSession {
        LostSession {
            session: 7,
            server,
            idle: false,
            how: how.to_owned(),
            after_event_ms,
            after_query_ms: 10,
        }
    }

    fn broken(expect: Expect, lost: Vec<LostSession>) -> Vec<String> {
        problems(&expect, &Seen { connects: 1, lost, ..Seen::default() })
    }

    #[test]
    fn a_session_that_stands_still_has_not_just_survived() {
        for (expect, allowed) in [(UNTOUCHED, 1000), (server_loss(1), 4000)] {
            let slow = |slowest_query_ms| {
                let lost = vec![lost(1, "reset", 10)];
                let lost = if expect.sessions == Sessions::AllSurvive { vec![] } else { lost };
                problems(&expect, &Seen { connects: 1, slowest_query_ms, lost, ..Seen::default() })
            };
            assert_eq!(slow(allowed), [""; 0]);
            assert!(slow(allowed + 1)[0].contains("waited"));
        }
    }

    #[test]
    fn clients_of_a_dead_server_are_told_and_told_rightly() {
        for expect in [server_loss(1), server_cut(1)] {
            assert_eq!(broken(expect, vec![lost(1, "reset", 900)]), [""; 0]);
            assert!(broken(expect, vec![])[0].contains("told nothing"));
            assert!(broken(expect, vec![lost(1, "reset", 1100)])[0].contains("after 1100 ms"));
            assert!(broken(expect, vec![lost(1, "hang", 900)])[0].contains("by hang"));
            let other = broken(expect, vec![lost(1, "reset", 900), lost(2, "reset", 900)]);
            assert!(other.len() == 1 && other[0].contains("living db2"), "{other:?}");
        }
        let moved = Expect { sessions: Sessions::MayBeReset, ..UNTOUCHED };
        assert_eq!(broken(moved, vec![lost(1, "reset", 10), lost(2, "closed", 10)]), [""; 0]);
        assert!(broken(moved, vec![lost(1, "unreachable", 10)])[0].contains("by unreachable"));
        // A server that ends says so itself; one behind a cut link cannot.
        assert_eq!(broken(server_loss(1), vec![lost(1, "closed", 10)]), [""; 0]);
        assert!(broken(server_cut(1), vec![lost(1, "closed", 10)])[0].contains("by closed"));
    }
}
