//! Two hosts of one priority: of two that are master at a time the one with the higher primary address stays
//! it, and from then on it is the one master at every look; who is master is not preempted by an equal.
//! Two lbd, and lbd beside real keepalived in both orders of address.
//!
//! Whether a pair begins with the one or the other master is chance, so it is parted first: then both
//! are, and the tie is there for certain.

use std::{thread, time::Duration};

use anyhow::{Context as _, Result, anyhow, ensure};
use lb_tests::{
    host::Program::{self, Keepalived, Lbd},
    interop::{
        FIRST_ELECTION, HIGH, LOW, Pair, SLACK,
        form::{
            Cast::{Multi, Uni},
            Family::{V4, V6},
            Form,
            Protocol::{V2Pass, V3},
        },
    },
    netns::ready_or_skip,
};

const V2: Form = Form { protocol: V2Pass, family: V4, cast: Multi };
const V3_MULTICAST: Form = Form { protocol: V3, family: V4, cast: Multi };
const V3_UNICAST: Form = Form { cast: Uni, ..V3_MULTICAST };
const V3_IPV6: Form = Form { family: V6, ..V3_MULTICAST };

/// The host with the higher address, of [`Pair`]'s two.
const HIGHER: usize = LOW;
const LOWER: usize = HIGH;

/// The life of one pair; `programs[1]` has the higher address.
fn tie(form: Form, programs: [Program; 2]) -> Result<()> {
    let mut pair = Pair::start_equal(form, programs)?;
    pair.set_split(true)?;
    pair.wait_both(FIRST_ELECTION)?;
    // Unicast adverts wait for the neighbour's MAC, for which the kernel asks once a second.
    let deaf = Duration::from_secs(if form.cast == Uni { 1 } else { 0 });
    let heard = form.interval() + SLACK + deaf;
    // Until they hear each other nobody can know; from then on there is one, and `moves_to` looks on for
    // longer than the other would need to be heard again.
    pair.moves_to(HIGHER, heard, heard, |pair| pair.set_split(false)).context("a tie")?;
    let priority = pair.member(HIGHER).priority;
    let down = form.master_down(priority);
    pair.stays_with(HIGHER, down, |_| Ok(())).context("after the tie")?;
    // An equal takes over after a farewell, and keeps what it has when the other comes back.
    let farewell = form.skew(priority) + SLACK;
    pair.yields_to(LOWER, farewell, |pair| pair.host(HIGHER).stop()).context("a stop")?;
    let patience = down + form.interval();
    pair.stays_with(LOWER, patience, |pair| pair.join(HIGHER)).context("no preemption by an equal")
}

/// [`tie`] in every one of these forms, side by side: they mostly wait.
fn ties(forms: &[Form], programs: [Program; 2]) -> Result<()> {
    if !ready_or_skip("interop_ties")? {
        return Ok(());
    }
    let failed: Vec<String> = thread::scope(|scope| {
        let one = |&form: &Form| (form, scope.spawn(move || tie(form, programs)));
        let threads: Vec<_> = forms.iter().map(one).collect();
        let results = threads.into_iter().map(|(form, thread)| {
            let result = thread.join().unwrap_or_else(|_| Err(anyhow!("panicked")));
            result.err().map(|error| format!("{form:?}: {error:#}"))
        });
        results.flatten().collect()
    });
    ensure!(failed.is_empty(), "{programs:?}\n{}", failed.join("\n"));
    Ok(())
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn of_two_lbd_the_higher_address_is_master() -> Result<()> {
    ties(&[V2, V3_MULTICAST, V3_UNICAST, V3_IPV6], [Lbd; 2])
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn lbd_with_the_higher_address_is_master_beside_keepalived() -> Result<()> {
    ties(&[V2, V3_MULTICAST, V3_IPV6], [Keepalived, Lbd])
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn keepalived_with_the_higher_address_is_master_beside_lbd() -> Result<()> {
    ties(&[V2, V3_MULTICAST, V3_IPV6], [Lbd, Keepalived])
}
