//! Persistence: new connections of a client go to the real server that it had, as by IPVS's templates.
//!
//! A SYN proves nothing, so the template that it makes is put where SYNs can only push out others of their
//! kind. With the first connection that is established it moves into a table in which it stays until it
//! is over, and only such a connection renews it there.
//!
//! The work is done by *global* functions, for the reasons that `schedule::lbd_pick` has; established
//! packets come by none of it.

use lb_common::abi::{Flow4, FlowKey4, Real, Service, Template, TemplateKey4};

use crate::{access, maps, schedule};

/// Whom the template of a client names; none of a virtual server without persistence.
#[inline(always)]
pub fn kept(service: &Service, key: &FlowKey4) -> Option<u16> {
    if service.persistence_secs == 0 {
        return None;
    }
    let network = key.src & service.granularity;
    schedule::named(lbd_kept(service.id.into(), network, service.persistence_secs))
}

/// Remembers the scheduler's choice for the client of a SYN.
#[inline(always)]
pub fn propose(service: &Service, key: &FlowKey4, id: u16, real: &Real) {
    if service.persistence_secs != 0 {
        let network = key.src & service.granularity;
        lbd_propose(service.id.into(), network, id.into(), real.generation);
    }
}

/// A connection of a client is established: its template names that connection's real server.
#[inline(always)]
pub fn confirm(real: &Real, key: &FlowKey4, flow: &Flow4) {
    if real.granularity != 0 {
        let network = key.src & real.granularity;
        lbd_confirm(real.service.into(), network, flow.real.into(), flow.generation);
    }
}

#[inline(always)]
fn key(service: u32, network: u32) -> TemplateKey4 {
    TemplateKey4 { network, service: service as u16, pad: 0 }
}

/// Real id, 0: none.
#[allow(unsafe_code, reason = "an exported symbol is what makes the function global")]
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn lbd_kept(service: u32, network: u32, secs: u32) -> u32 {
    let now = access::jiffies();
    // A connection that finds no room in its table has its server by the hash, and so must its SYN.
    if schedule::is_pressing(now) {
        return 0;
    }
    let second = maps::control().map_or(0, |control| control.second);
    let since = now.saturating_sub(u64::from(secs) * u64::from(second));
    let key = key(service, network);
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
fn leads(template: &Template, key: &TemplateKey4, since: u64) -> bool {
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
extern "C" fn lbd_propose(service: u32, network: u32, real: u32, generation: u32) -> u32 {
    let used = access::jiffies();
    let template = Template { used, generation, real: real as u16, pad: 0 };
    maps::put_tentative(&key(service, network), &template);
    0
}

#[allow(unsafe_code, reason = "as above")]
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn lbd_confirm(service: u32, network: u32, real: u32, generation: u32) -> u32 {
    let (key, used) = (key(service, network), access::jiffies());
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
