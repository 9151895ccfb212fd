//! Connections as an operator sees them: both directions as one, read in slices.

use std::net::{IpAddr, SocketAddr};

use anyhow::Context as _;
use lb_common::abi::{FLOW_REVERSE, Flow4, FlowKey4, METHOD_NAT, PROTO_TCP, be16, be32};

use super::{
    encode::socket,
    engine::Xdp,
    housekeeping::SLICE,
    sweep::{self, State},
    sys::Walk,
};
use crate::{base::status::FlowStatus, dataplane::FLOWS_LIMIT};

/// A listing that is under way.
#[derive(Debug)]
pub(super) struct Listing {
    limit: usize,
    found: Vec<FlowStatus>,
    flows: Walk<FlowKey4, Flow4>,
    embryos: Walk<FlowKey4, Flow4>,
}

impl Listing {
    pub(super) fn new(limit: usize) -> Self {
        let limit = limit.min(FLOWS_LIMIT);
        Self { limit, found: Vec::new(), flows: Walk::new(SLICE), embryos: Walk::new(SLICE) }
    }
}

impl Xdp {
    /// One slice more. Whether the listing is complete.
    pub(super) fn list(&mut self, listing: &mut Listing) -> anyhow::Result<bool> {
        let Listing { limit, found, flows, embryos } = listing;
        let jiffies = self.clock.sample()?.jiffies;
        let embryo = flows.has_ended();
        let entries: Vec<(FlowKey4, Flow4)> = if embryo {
            self.maps.embryos(embryos).context("read the map embryo4")?.collect()
        } else {
            self.maps.flows(flows).context("read the map flows4")?.collect()
        };
        for (key, flow) in entries.iter().filter(|(_, flow)| flow.flags & FLOW_REVERSE == 0) {
            if found.len() >= *limit {
                return Ok(true);
            }
            found.push(self.describe(key, flow, embryo, jiffies)?);
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
        let (IpAddr::V4(src), IpAddr::V4(dst)) = (client.ip(), vip.ip()) else { return Ok(None) };
        let key = FlowKey4 {
            src: be32(src.octets()),
            dst: be32(dst.octets()),
            sport: be16(client.port()),
            dport: be16(vip.port()),
            proto: u16::from(PROTO_TCP),
            pad: 0,
        };
        let jiffies = self.clock.sample()?.jiffies;
        if let Some(flow) = self.maps.flow(&key).context("read the map flows4")? {
            return self.describe(&key, &flow, false, jiffies).map(Some);
        }
        match self.maps.embryo(&key).context("read the map embryo4")? {
            Some(flow) => self.describe(&key, &flow, true, jiffies).map(Some),
            None => Ok(None),
        }
    }

    fn describe(
        &mut self,
        key: &FlowKey4,
        flow: &Flow4,
        embryo: bool,
        jiffies: u64,
    ) -> anyhow::Result<FlowStatus> {
        let real = self.image()?.reals.get(&flow.real).copied();
        let back = match real {
            Some(real) if real.method == METHOD_NAT && !embryo => {
                let back = self.maps.flow(&sweep::reply_key(key, &real));
                back.context("read the map flows4")?.filter(|back| back.real == flow.real)
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
