//! `lbctl replay FILE`: the pure cores run again on what `lbd --record` wrote, and their
//! transitions are told. Nothing of this host is touched; time is the recording's.
//!
//! The vrrp recording drives the virtual routers, the checker recording the virtual servers'
//! health and quorum. The file of a role that was restarted goes on after the break; each start
//! begins from nothing, as the process did.

use std::{
    collections::BTreeMap,
    io::{self, BufRead, Read as _},
};

use serde::Serialize;

use super::{
    checker,
    ipc::Role,
    record::{CheckerStep, Line, VrrpStep},
};
use crate::{
    base::{core::Core as _, status::VrrpState, time::Instant},
    check::services::{Effect as ServiceEffect, Services},
    vrrp::router::{Effect, Router},
};

/// Longest line that is read.
pub const LINE_LIMIT: u64 = 16 << 20;

/// One transition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Transition {
    /// Nanoseconds since the first line of the recording.
    pub t: u64,
    /// `vrrp_instance NAME`, `real_server …` or `virtual_server …`.
    pub object: String,
    /// The new state.
    pub state: String,
    /// Why, or with what.
    pub detail: String,
}

/// Why a recording cannot be replayed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("cannot read it: {0}")]
    Io(#[from] io::Error),
    /// A line that lbd did not write, or another version of it.
    #[error("line {line}: {error}")]
    Line { line: usize, error: String },
    /// Another role's file.
    #[error("a recording of role `{0}`: only those of vrrp and checker can be replayed")]
    Role(String),
    /// Not a line in it.
    #[error("an empty recording")]
    Empty,
}

/// Replays a recording; each transition is given to `tell` as it falls.
///
/// # Errors
/// At the first line that cannot be used; what came before has been told.
pub fn replay(mut recording: impl BufRead, tell: &mut impl FnMut(Transition)) -> Result<(), Error> {
    let mut first = None;
    let mut routers = Routers::default();
    let mut services = Services::default();
    for line in 1_usize.. {
        let mut text = String::new();
        if recording.by_ref().take(LINE_LIMIT).read_line(&mut text)? == 0 {
            break;
        }
        // A role that was killed may have left half a line at the very end.
        if !text.ends_with('\n') && recording.fill_buf()?.is_empty() {
            break;
        }
        let bad = |error: serde_json::Error| Error::Line { line, error: error.to_string() };
        let header: Line<serde::de::IgnoredAny> = serde_json::from_str(&text).map_err(bad)?;
        let begin = *first.get_or_insert(header.t);
        let now = Instant::from_nanos(header.t);
        let mut tell = |object: String, state: String, detail: String| {
            tell(Transition { t: header.t.saturating_sub(begin), object, state, detail });
        };
        if header.role == Role::Vrrp.name() {
            let step: Line<VrrpStep<'_>> = serde_json::from_str(&text).map_err(bad)?;
            let unknown = |name| Error::Line { line, error: format!("{name} was never begun") };
            routers.step(step.input, now, &mut tell).map_err(unknown)?;
        } else if header.role == Role::Checker.name() {
            let step: Line<CheckerStep<'_>> = serde_json::from_str(&text).map_err(bad)?;
            check(&mut services, step.input, now, &mut tell);
        } else {
            return Err(Error::Role(header.role));
        }
    }
    first.map(drop).ok_or(Error::Empty)
}

#[derive(Default)]
struct Routers(BTreeMap<String, (Router, Option<VrrpState>)>);

impl Routers {
    /// Feeds one step; `Err`: the instance that it is for does not exist.
    fn step(
        &mut self,
        step: VrrpStep<'_>,
        now: Instant,
        tell: &mut impl FnMut(String, String, String),
    ) -> Result<(), String> {
        let (name, (router, told)) = match &step {
            VrrpStep::Start => {
                self.0.clear();
                return Ok(());
            }
            VrrpStep::New(name, config) => {
                let router = Router::new((**config).clone(), now);
                (name, self.0.entry(name.clone()).insert_entry((router, None)).into_mut())
            }
            VrrpStep::Input(name, _) | VrrpStep::Timeout(name) => {
                (name, self.0.get_mut(name).ok_or_else(|| name.clone())?)
            }
        };
        let mut words = Vec::new();
        match &step {
            VrrpStep::Input(_, input) => router.handle(input.clone().into_owned(), now),
            VrrpStep::Timeout(_) => router.handle_timeout(now),
            VrrpStep::Start | VrrpStep::New(..) => {}
        }
        while let Some(effect) = router.poll_effect() {
            if let Effect::Log { text, .. } = effect {
                words.push(text);
            }
        }
        let state = router.state();
        if *told != Some(state) {
            *told = Some(state);
            let priority = router.effective_priority();
            let words = if words.is_empty() { router.reason() } else { words.join("; ") };
            let detail = format!("priority {priority}: {words}");
            tell(format!("vrrp_instance {name}"), state.name().to_owned(), detail);
        }
        Ok(())
    }
}

fn check(
    services: &mut Services,
    step: CheckerStep<'_>,
    now: Instant,
    tell: &mut impl FnMut(String, String, String),
) {
    match step {
        CheckerStep::Start => *services = Services::default(),
        CheckerStep::Configure(specs) => services.configure(specs.into_owned(), now),
        CheckerStep::Restore(events) => {
            checker::restore(services, &events);
        }
        CheckerStep::Verdict { probe, verdict, at } => {
            services.verdict(probe, verdict.into_owned(), at);
        }
    }
    while let Some(effect) = services.poll_effect() {
        match effect {
            ServiceEffect::Health {
                virtual_server, real_server, health, weight, reason, ..
            } => {
                let state = format!("{health:?}").to_uppercase();
                let object = format!("real_server {real_server} of {virtual_server}");
                tell(object, state, format!("weight {weight}: {reason}"));
            }
            ServiceEffect::Quorum { virtual_server, up, .. } => {
                let state = if up { "QUORUM" } else { "NO QUORUM" };
                tell(format!("virtual_server {virtual_server}"), state.to_owned(), String::new());
            }
            ServiceEffect::Notify { .. } => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(text: &str) -> (Vec<Transition>, Result<(), Error>) {
        let mut all = Vec::new();
        let result = replay(text.as_bytes(), &mut |transition| all.push(transition));
        (all, result)
    }

    #[test]
    fn what_cannot_be_replayed_is_named() {
        let line = |role: &str, input: &str| {
            format!("{{\"t\":5,\"role\":\"{role}\",\"input\":{input}}}\n")
        };
        for (text, phrase) in [
            (String::new(), "empty"),
            ("hello\n".to_owned(), "line 1: "),
            (line("forwarder", "1"), "`forwarder`"),
            (line("vrrp", "{\"Timeout\":\"VI_9\"}"), "line 1: VI_9 was never begun"),
            (line("vrrp", "\"Start\"") + &line("vrrp", "\"Nonsense\""), "line 2: "),
            (line("checker", "{\"Verdict\":{}}"), "line 1: "),
        ] {
            let (_, result) = told(&text);
            let error = result.expect_err(&text).to_string();
            assert!(error.contains(phrase), "{text}: {error}");
        }
    }

    #[test]
    fn half_a_line_at_the_end_is_what_a_kill_leaves() {
        let (all, result) = told("{\"t\":5,\"role\":\"vrrp\",\"input\":\"Start\"}\n{\"t\":6,\"ro");
        assert!(result.is_ok() && all.is_empty(), "{result:?}");
    }
}
