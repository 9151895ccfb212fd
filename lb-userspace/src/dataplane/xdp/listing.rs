//! Connections as an operator sees them: both directions as one, read in slices.

use std::net::SocketAddr;

use anyhow::Context as _;
use lb_common::abi::{Addr, FLOW_REVERSE, Flow, FlowKey6, METHOD_NAT, be16};

use super::{
    encode::socket,
    engine::Xdp,
    housekeeping::SLICE,
    maps::FlowWalk,
    sweep::{self, State},
};
use crate::{
    base::{filter::FlowFilter, status::FlowStatus},
    dataplane::FLOWS_LIMIT,
};

/// A listing that is under way.
#[derive(Debug)]
pub(super) struct Listing {
    filter: FlowFilter,
    limit: usize,
    found: Vec<FlowStatus>,
    flows: FlowWalk,
    embryos: FlowWalk,
}

impl Listing {
    pub(super) fn new(filter: FlowFilter, limit: usize, six: bool) -> Self {
        let limit = limit.min(FLOWS_LIMIT);
        Self {
            filter,
            limit,
            found: Vec::new(),
            flows: FlowWalk::new(SLICE, six),
            embryos: FlowWalk::new(SLICE, six),
        }
    }
}

impl Xdp {
    /// One slice more. Whether the listing is complete.
    pub(super) fn list(&mut self, listing: &mut Listing) -> anyhow::Result<bool> {
        let Listing { filter, limit, found, flows, embryos } = listing;
        let jiffies = self.clock.sample()?.jiffies;
        let embryo = flows.has_ended();
        let entries = if embryo {
            self.maps.embryos(embryos).context("read the embryos")?
        } else {
            self.maps.flows(flows).context("read the flows")?
        };
        for (key, flow) in entries.iter().filter(|(_, flow)| flow.flags & FLOW_REVERSE == 0) {
            if found.len() >= *limit {
                return Ok(true);
            }
            let real = self.image()?.reals.get(&flow.real);
            let real = real.map(|real| socket(real.addr, real.port));
            if !filter.admits(socket(key.src, key.sport), socket(key.dst, key.dport), real) {
                continue; // before the look-up of its other direction
            }
            let flow = self.describe(key, flow, embryo, jiffies)?;
            if filter.matches(&flow) {
                found.push(flow);
            }
        }
        Ok(found.len() >= *limit || embryos.has_ended())
    }

    /// The connections of a complete listing.
    pub(super) fn listed(listing: Listing) -> Vec<FlowStatus> {
        listing.found
    }

    /// The connection between these two, established or not.
    pub(super) fn find(
        &mut self,
        client: SocketAddr,
        vip: SocketAddr,
    ) -> anyhow::Result<Option<FlowStatus>> {
        let end = |addr: SocketAddr| (Addr::from_ip(addr.ip()), be16(addr.port()));
        let key = FlowKey6::tcp(end(client), end(vip));
        let jiffies = self.clock.sample()?.jiffies;
        if let Some(flow) = self.maps.flow(&key).context("read the flows")? {
            return self.describe(&key, &flow, false, jiffies).map(Some);
        }
        match self.maps.embryo(&key).context("read the embryos")? {
            Some(flow) => self.describe(&key, &flow, true, jiffies).map(Some),
            None => Ok(None),
        }
    }

    fn describe(
        &mut self,
        key: &FlowKey6,
        flow: &Flow,
        embryo: bool,
        jiffies: u64,
    ) -> anyhow::Result<FlowStatus> {
        let real = self.image()?.reals.get(&flow.real).copied();
        let back = match real {
            Some(real) if real.method == METHOD_NAT && !embryo => {
                let back = self.maps.flow(&sweep::reply_key(key, &real));
                back.context("read the flows")?.filter(|back| back.real == flow.real)
            }
            _ => None,
        }
        .unwrap_or_default();
        let state = match State::new(flow.flags | back.flags, flow.generation, real.as_ref()) {
            _ if embryo => "embryo",
            state => state.name(),
        };
        let last_seen = flow.last_seen.max(back.last_seen);
        let idle = sweep::age(last_seen, jiffies, self.clock.tick()).as_millis();
        Ok(FlowStatus {
            client: socket(key.src, key.sport),
            vip: socket(key.dst, key.dport),
            real_server: real.map(|real| socket(real.addr, real.port)),
            state: state.to_owned(),
            idle_ms: u64::try_from(idle).unwrap_or(u64::MAX),
            packets: flow.packets + back.packets,
            bytes: flow.bytes + back.bytes,
        })
    }
}
