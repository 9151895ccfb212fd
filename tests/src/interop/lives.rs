//! What happens to a pair: each life starts a pair of its own and ends with the host of the
//! higher priority as master again.

use std::{thread, time::Duration};

use anyhow::{Context as _, Result, anyhow, ensure};

use super::{
    HIGH, LOW, Pair, SLACK,
    form::{Cast, Flag, Form, SCRIPT_INTERVAL},
};
use crate::host::Program;

const WITHOUT_OVERLAP: Duration = Duration::ZERO;

type Life = fn(&mut Pair) -> Result<()>;

/// Every life, side by side: they mostly wait.
const LIVES: [(&str, Life); 4] = [
    ("stop and kill", stop_and_kill),
    ("link, split and reload", link_split_and_reload),
    ("scripts", scripts),
    ("nopreempt and preempt_delay", preemption),
];

/// Runs all of them, for the pair in which `programs[0]` has the higher priority.
///
/// # Errors
/// Those of every life that failed.
pub fn live(form: Form, programs: [Program; 2]) -> Result<()> {
    let failed: Vec<String> = thread::scope(|scope| {
        let threads = LIVES.map(|(name, life)| {
            let one = move || Pair::start(form, programs).and_then(|mut pair| life(&mut pair));
            (name, scope.spawn(one))
        });
        let results = threads.into_iter().map(|(name, thread)| {
            let result = thread.join().unwrap_or_else(|_| Err(anyhow!("panicked")));
            result.err().map(|error| format!("{name}: {error:#}"))
        });
        results.flatten().collect()
    });
    ensure!(failed.is_empty(), "{form:?} {programs:?}\n{}", failed.join("\n"));
    Ok(())
}

/// The host of the higher priority stops, comes again, is killed and comes again.
///
/// # Errors
/// What did not go as the protocol says.
pub fn stop_and_kill(pair: &mut Pair) -> Result<()> {
    let form = pair.form;
    let [high, low] = [HIGH, LOW].map(|host| pair.member(host).priority);
    let back = pair.preempts(HIGH);
    let returns = form.interval() + form.master_down(high) + SLACK;
    let farewell = form.skew(low) + SLACK;
    pair.yields_to(LOW, farewell, |pair| pair.host(HIGH).stop()).context("clean stop")?;
    pair.moves_to(HIGH, returns, back, |pair| pair.join(HIGH)).context("start after a stop")?;
    let silence = form.master_down(low) + SLACK;
    pair.moves_to(LOW, silence, WITHOUT_OVERLAP, |pair| pair.host(HIGH).kill_all())
        .context("kill -9")?;
    // A killed keepalived leaves its VIP in the kernel: until its next start has removed it, the
    // host seems to forward.
    let leftover = match pair.host(HIGH).program() {
        Program::Keepalived => SLACK + back,
        Program::Lbd => back,
    };
    pair.moves_to(HIGH, returns, leftover, |pair| pair.join(HIGH))
        .context("start after kill -9")?;
    Ok(())
}

fn link_split_and_reload(pair: &mut Pair) -> Result<()> {
    let form = pair.form;
    let [high, low] = [HIGH, LOW].map(|host| pair.member(host).priority);
    let back = pair.preempts(HIGH);
    let silence = form.master_down(low) + SLACK;
    // keepalived keeps its address until it is told of the carrier, up to a second later; nobody
    // can see it. lbd's lease has to end all the same.
    let fenced = pair.host(HIGH).program() == Program::Lbd;
    pair.moves_to(LOW, silence, WITHOUT_OVERLAP, |pair| {
        pair.set_cut_off(HIGH, !fenced);
        pair.port(HIGH).set_link(false)
    })
    .context("the carrier is lost")?;
    // The kernel tells changes of carrier at most once a second.
    let returns = Duration::from_secs(1) + form.master_down(high) + form.interval() + SLACK;
    // Unicast adverts wait for the neighbour's MAC, for which the kernel asks once a second; until
    // it is answered both are alone.
    let deaf = match form.cast {
        Cast::Uni => Duration::from_secs(1),
        Cast::Multi => Duration::ZERO,
    };
    pair.moves_to(HIGH, returns, back + deaf, |pair| {
        pair.set_cut_off(HIGH, false);
        pair.port(HIGH).set_link(true)
    })
    .context("the carrier is back")?;
    // Each side sees itself alone; no side can know.
    pair.moves_to(LOW, silence, WITHOUT_OVERLAP, |pair| {
        pair.set_cut_off(HIGH, true);
        pair.set_split(true)
    })
    .context("the switch drops all frames")?;
    let heard = form.interval() + SLACK;
    pair.moves_to(HIGH, heard, heard, |pair| {
        pair.set_split(false)?;
        pair.set_cut_off(HIGH, false);
        Ok(())
    })
    .context("the switch forwards again")?;
    let preempted = form.interval() + form.master_down(low) + SLACK;
    let preempts = form.interval() + form.master_down(high) + SLACK;
    let forth = pair.preempts(LOW);
    pair.member(HIGH).priority = low - 10;
    pair.moves_to(LOW, preempted, forth, |pair| pair.reload(HIGH))
        .context("reload with a lower priority")?;
    pair.member(HIGH).priority = high;
    pair.moves_to(HIGH, preempts, back, |pair| pair.reload(HIGH))
        .context("reload with the old priority")?;
    Ok(())
}

fn scripts(pair: &mut Pair) -> Result<()> {
    let form = pair.form;
    let [high, low] = [HIGH, LOW].map(|host| pair.member(host).priority);
    let (back, forth) = (pair.preempts(HIGH), pair.preempts(LOW));
    pair.member(HIGH).tracks = true;
    let unmoved = form.master_down(low);
    pair.stays_with(HIGH, unmoved, |pair| pair.reload(HIGH)).context("reload with scripts")?;
    let flag = |flag, good| move |pair: &mut Pair| pair.member(HIGH).set_flag(flag, good);
    let noticed = SCRIPT_INTERVAL + SLACK;
    pair.yields_to(LOW, noticed + form.skew(low), flag(Flag::Fault, false))
        .context("a script of weight 0 fails")?;
    let preempts = form.interval() + form.master_down(high);
    pair.moves_to(HIGH, noticed + preempts, back, flag(Flag::Fault, true))
        .context("a script of weight 0 recovers")?;
    let preempted = form.interval() + form.master_down(low);
    pair.moves_to(LOW, noticed + preempted, forth, flag(Flag::Weight, false))
        .context("a script takes its weight away")?;
    pair.moves_to(HIGH, noticed + preempts, back, flag(Flag::Weight, true))
        .context("a script gives its weight back")?;
    Ok(())
}

fn preemption(pair: &mut Pair) -> Result<()> {
    let form = pair.form;
    let [high, low] = [HIGH, LOW].map(|host| pair.member(host).priority);
    let farewell = form.skew(low) + SLACK;
    pair.member(HIGH).words = "    nopreempt\n".to_owned();
    pair.write_config(HIGH)?;
    pair.yields_to(LOW, farewell, |pair| pair.host(HIGH).stop())
        .context("clean stop before nopreempt")?;
    let patience = form.master_down(high) + form.interval();
    pair.stays_with(LOW, patience, |pair| pair.join(HIGH)).context("start with nopreempt")?;
    let farewell = form.skew(high) + SLACK;
    pair.yields_to(HIGH, farewell, |pair| pair.host(LOW).stop())
        .context("nopreempt follows a farewell")?;
    pair.stays_with(HIGH, form.calm(), |pair| pair.join(LOW)).context("start of the lower one")?;
    let delay = Duration::from_secs(2);
    pair.member(HIGH).words = format!("    preempt_delay {}\n", delay.as_secs());
    pair.write_config(HIGH)?;
    let farewell = form.skew(low) + SLACK;
    pair.yields_to(LOW, farewell, |pair| pair.host(HIGH).stop())
        .context("clean stop before preempt_delay")?;
    let back = pair.preempts(HIGH);
    let returns = delay + form.interval() + form.master_down(high) + SLACK;
    let took = pair
        .moves_to(HIGH, returns, back, |pair| pair.join(HIGH))
        .context("start with preempt_delay")?;
    // The lower one is heard until the delay ends, and its last advert before that is an interval old
    // at most.
    let least = delay + form.master_down(high) - form.interval();
    ensure!(took >= least, "preempt_delay {delay:?}, and it took {took:?}, not {least:?}");
    Ok(())
}
