//! Persistence: new connections of a client go to the real server that it had, as by IPVS's templates.
//!
//! A SYN proves nothing, so the template that it makes is put where SYNs can only push out others of their
//! kind. With the first connection that is established it moves into a table in which it stays until it
//! is over, and only such a connection renews it there.
//!
//! The work is done by *global* functions, for the reasons that `schedule::lbd_pick` has; established
//! packets come by none of it.

use lb_common::abi::{Addr, FlowKey, Real, Service, Template, TemplateKey};

use crate::{access, family::Family, maps, schedule};

/// Whom the template of a client names; none of a virtual server without persistence.
#[inline(always)]
pub fn kept<A: Family>(service: &Service, key: &FlowKey<A>) -> Option<u16> {
    // A connection that finds no room in its table has its server by the hash, and so must its SYN.
    if service.persistence_secs == 0 || schedule::is_pressing::<A>(access::jiffies()) {
        return None;
    }
    let (high, low) = halves(key.src.wide(), &service.granularity);
    schedule::named(lbd_kept(service.id.into(), high, low, service.persistence_secs))
}

/// Remembers the scheduler's choice for the client of a SYN.
#[inline(always)]
pub fn propose<A: Family>(service: &Service, key: &FlowKey<A>, id: u16, real: &Real) {
    if service.persistence_secs != 0 {
        let (high, low) = halves(key.src.wide(), &service.granularity);
        lbd_propose(service.id.into(), high, low, id.into(), real.generation);
    }
}

/// A connection of a client is established: its template names that connection's real server.
#[inline(always)]
pub fn confirm<A: Family>(real: &Real, key: &FlowKey<A>, id: u16, generation: u32) {
    if real.is_persistent() {
        let (high, low) = halves(key.src.wide(), &real.granularity);
        lbd_confirm(real.service.into(), high, low, id.into(), generation);
    }
}

/// A client's network in two scalars.
#[inline(always)]
fn halves(client: Addr, mask: &Addr) -> (u64, u64) {
    let [a, b, c, d] = client.and(*mask).words;
    (u64::from(a) << 32 | u64::from(b), u64::from(c) << 32 | u64::from(d))
}

#[inline(always)]
fn key(service: u32, high: u64, low: u64) -> TemplateKey {
    let words = [(high >> 32) as u32, high as u32, (low >> 32) as u32, low as u32];
    TemplateKey::new(Addr { words }, service as u16)
}

/// Real id, 0: none.
#[allow(unsafe_code, reason = "an exported symbol is what makes the function global")]
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn lbd_kept(service: u32, high: u64, low: u64, secs: u32) -> u32 {
    let now = access::jiffies();
    let second = maps::control().map_or(0, |control| control.second);
    let since = now.saturating_sub(u64::from(secs) * u64::from(second));
    let key = key(service, high, low);
    if let Some(template) = maps::template(&key)
        && leads(template, &key, since)
    {
        return template.real.into();
    }
    if let Some(template) = maps::tentative(&key)
        && leads(template, &key, since)
    {
        template.used = now;
        return template.real.into();
    }
    0
}

/// Whether a template was used since, and its real server still takes its clients.
#[inline(always)]
fn leads(template: &Template, key: &TemplateKey, since: u64) -> bool {
    template.used >= since
        && maps::real(template.real).is_some_and(|real| {
            real.generation == template.generation
                && real.service == key.service
                && real.keeps_clients()
                && !maps::is_overloaded(template.real, real)
        })
}

#[allow(unsafe_code, reason = "as above")]
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn lbd_propose(service: u32, high: u64, low: u64, real: u32, generation: u32) -> u32 {
    let used = access::jiffies();
    let template = Template { used, generation, real: real as u16, pad: 0 };
    maps::put_tentative(&key(service, high, low), &template);
    0
}

#[allow(unsafe_code, reason = "as above")]
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn lbd_confirm(service: u32, high: u64, low: u64, real: u32, generation: u32) -> u32 {
    let (key, used) = (key(service, high, low), access::jiffies());
    if let Some(template) = maps::template(&key)
        && template.real == real as u16
        && template.generation == generation
    {
        template.used = used;
        return 0;
    }
    let template = Template { used, generation, real: real as u16, pad: 0 };
    if maps::put_template(&key, &template) {
        maps::forget_tentative(&key);
    } else {
        maps::put_tentative(&key, &template);
        if let Some(stats) = maps::service_stats(service as u16) {
            stats.templates_full += 1;
        }
    }
    0
}
