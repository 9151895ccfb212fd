//! Which engine carries the virtual servers of this host: what the operator asked for, else what is to be had.

use std::path::Path;

use tracing::{error, info, warn};

use crate::{
    config::model::Config,
    dataplane::{
        DataPlane as _,
        ipvs::{self, Ipvs},
        xdp::{
            Xdp, links,
            loader::{self, How},
        },
    },
    process::ipc::{EngineChoice, Runtime},
};

use super::{
    state::{Standing, State},
    unengined::xdp_failed,
};

/// An engine, and why it is this one.
pub(super) enum Opened {
    Xdp(Box<Xdp>, String),
    Ipvs(Box<Ipvs>, String),
}

/// What opening the XDP engine, and its first round, came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    NotYet,
    /// Open, and an interface that virtual servers need can have no program.
    Hopeless,
    Failed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Decision {
    /// XDP is opened, or kept.
    Xdp,
    Ipvs,
    /// What XDP said is the end of it.
    Error,
}

/// `journal`: a predecessor left its IPVS services, an orderly stop does not. `program`: a predecessor's XDP program is
/// there. Whichever engine a predecessor left at work carries its connections, so a restart keeps it, unless the
/// operator names the other one. Without virtual servers (`servers`) VRRP needs neither.
fn decide(
    choice: EngineChoice,
    journal: bool,
    program: bool,
    servers: bool,
    xdp: Asked,
) -> Decision {
    match (choice, xdp) {
        (EngineChoice::Ipvs, _) => Decision::Ipvs,
        (EngineChoice::Xdp, Asked::Failed) => Decision::Error,
        (EngineChoice::Xdp, _) => Decision::Xdp,
        // With both it is XDP that sees a packet first.
        (EngineChoice::Auto, Asked::NotYet) if journal && !program => Decision::Ipvs,
        (EngineChoice::Auto, Asked::NotYet) => Decision::Xdp,
        (EngineChoice::Auto, Asked::Failed) if program || !servers => Decision::Error,
        (EngineChoice::Auto, Asked::Hopeless) if program || !servers => Decision::Xdp,
        (EngineChoice::Auto, Asked::Failed | Asked::Hopeless) => Decision::Ipvs,
    }
}

/// Opens it. The operator's word for IPVS clears away an XDP program of a predecessor, else only pins of one that is
/// attached to nothing are. For the other direction see [`clear_ipvs`].
///
/// # Errors
/// Why there is none.
pub(super) fn open(runtime: &Runtime, config: &Config) -> Result<Opened, String> {
    let opened = choose(runtime, config)?;
    if matches!(opened, Opened::Ipvs(..)) {
        clear_xdp(&runtime.pin_dir);
    }
    Ok(opened)
}

fn choose(runtime: &Runtime, config: &Config) -> Result<Opened, String> {
    let ipvs = || Ipvs::open(&runtime.run_dir).map_err(|error| format!("{error:#}"));
    // Before XDP is opened. What cannot be read is there.
    let program = links::all(&runtime.pin_dir)
        .map_or(true, |links| links.iter().any(|link| link.ifindex != 0));
    let journal = ipvs::is_left(&runtime.run_dir);
    let servers = !config.virtual_servers.is_empty();
    let decide = |xdp| decide(runtime.engine, journal, program, servers, xdp);
    if decide(Asked::NotYet) == Decision::Ipvs {
        match (ipvs(), runtime.engine) {
            (Ok(engine), EngineChoice::Auto) => {
                let why = "a predecessor's virtual servers are there".to_owned();
                return Ok(Opened::Ipvs(Box::new(engine), why));
            }
            (Ok(engine), _) => {
                return Ok(Opened::Ipvs(Box::new(engine), "--engine ipvs".to_owned()));
            }
            (Err(why), EngineChoice::Auto) => warn!("a predecessor forwarded by IPVS, but {why}"),
            (Err(why), _) => return Err(format!("ipvs failed because {why}")),
        }
    }
    let global = &config.global;
    let why = match Xdp::open(&runtime.pin_dir, global.flow_table_size, global.attachment()) {
        Ok(engine) => {
            let reason = match runtime.engine {
                EngineChoice::Auto => "the kernel takes the XDP program",
                _ => "--engine xdp",
            };
            return Ok(Opened::Xdp(Box::new(engine), reason.to_owned()));
        }
        Err(error) => xdp_failed(&format!("{error:#}")),
    };
    if decide(Asked::Failed) != Decision::Ipvs {
        return Err(why);
    }
    match ipvs() {
        Ok(engine) => {
            warn!("this host cannot fence itself: {why}");
            Ok(Opened::Ipvs(Box::new(engine), why))
        }
        Err(other) => Err(format!("{why}; ipvs: {other}")),
    }
}

/// Services of a predecessor that forwarded by IPVS, once XDP carries the virtual servers; without its journal there
/// are none.
pub(super) fn clear_ipvs(run_dir: &Path) {
    if !ipvs::is_left(run_dir) {
        if let Err(error) = ipvs::discard_stale(run_dir) {
            warn!(%error, "the journal of IPVS services of an earlier boot is still there");
        }
        return;
    }
    match Ipvs::open(run_dir).and_then(|mut engine| engine.close()) {
        Ok(()) => info!("the IPVS services of an earlier lbd are removed"),
        Err(error) => warn!(
            error = format!("{error:#}"),
            "the IPVS services of an earlier lbd may still be there"
        ),
    }
}

/// The program of a predecessor that forwarded by XDP.
fn clear_xdp(pin_dir: &Path) {
    if !pin_dir.exists() {
        return;
    }
    match loader::remove(pin_dir) {
        Ok(()) => info!("the XDP program of an earlier lbd is removed"),
        Err(error) => warn!(
            error = format!("{error:#}"),
            "the XDP program of an earlier lbd may still be there"
        ),
    }
}

/// The IPVS engine and why, where the program cannot be on an interface that virtual servers need, the operator has
/// left the choice to us, and this is a fresh start: what a predecessor attached stays. The program is gone then.
pub(super) fn instead(state: &mut State<Xdp>, runtime: &Runtime) -> Option<(Ipvs, String)> {
    let Standing::Hopeless(why) = state.standing() else { return None };
    // A fresh program is attached to nothing.
    let program = state.engine.how() != How::Fresh;
    let (choice, servers) = (runtime.engine, state.forwards());
    if decide(choice, false, program, servers, Asked::Hopeless) != Decision::Ipvs {
        return None;
    }
    let why = xdp_failed(why);
    let engine = Ipvs::open(&runtime.run_dir)
        .inspect_err(|error| warn!(error = format!("{error:#}"), "nor is there IPVS"))
        .ok()?;
    if let Err(error) = state.engine.close() {
        error!(error = format!("{error:#}"), "not everything of XDP could be removed");
    }
    warn!("this host cannot fence itself: {why}");
    Some((engine, why))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restart_keeps_the_engine_that_is_at_work() {
        use Asked::{Failed, Hopeless, NotYet};
        use EngineChoice::{Auto, Ipvs, Xdp};
        // Choice, journal there, program there, virtual servers, what XDP said.
        let table = [
            (Auto, false, false, true, NotYet, Decision::Xdp),
            (Auto, true, false, true, NotYet, Decision::Ipvs),
            (Auto, false, true, true, NotYet, Decision::Xdp),
            (Auto, true, true, true, NotYet, Decision::Xdp),
            (Auto, false, false, true, Failed, Decision::Ipvs),
            (Auto, false, false, false, Failed, Decision::Error),
            (Auto, false, true, true, Failed, Decision::Error),
            (Auto, true, true, true, Failed, Decision::Error),
            (Auto, false, false, true, Hopeless, Decision::Ipvs),
            (Auto, false, false, false, Hopeless, Decision::Xdp),
            (Auto, false, true, true, Hopeless, Decision::Xdp),
            (Xdp, true, false, true, NotYet, Decision::Xdp),
            (Xdp, false, false, true, Failed, Decision::Error),
            (Xdp, false, false, true, Hopeless, Decision::Xdp),
            (Ipvs, false, false, true, NotYet, Decision::Ipvs),
            (Ipvs, false, true, true, NotYet, Decision::Ipvs),
        ];
        for (choice, journal, program, servers, xdp, expected) in table {
            let decision = decide(choice, journal, program, servers, xdp);
            assert_eq!(
                decision, expected,
                "{choice:?}, journal {journal}, program {program}, servers {servers}, {xdp:?}"
            );
        }
    }
}
