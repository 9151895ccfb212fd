//! Adverts of a virtual router in bytes, and the numbers that make each unlike the one before.

use std::{net::IpAddr, time::Duration};

use super::{Level, Router};
use crate::{
    base::{net::Priority, time::Instant},
    vrrp::{
        auth::{Auth, hmac},
        wire::{ADDRESS_LIMIT, Advert, ChecksumForm, Envelope, Seal, capacity},
    },
};

/// Greatest sequence number of an authentication header that is sent; keepalived stops there too.
const SEQUENCE_LIMIT: u32 = 0xffff_fffd;

/// A datagram, from its IP header on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    pub destination: IpAddr,
    pub bytes: Vec<u8>,
}

/// Counters of what is sent, and what was seen of others'.
#[derive(Debug, Default)]
pub(super) struct Numbers {
    /// keepalived counts from 1.
    ip_id: u16,
    /// Last sequence number of an authentication header, sent or accepted: keepalived has one
    /// counter for both, so that an heir goes on above the old master's.
    pub sequence: u32,
    /// Last one that was accepted. The one that we sent last may be another's too, who took over at
    /// the same instant; keepalived refuses it, and both stay master for an interval.
    pub heard: u32,
    pub hmac: hmac::State,
    /// Wall clock, and when it was told.
    clock: Option<(Duration, Instant)>,
}

impl Numbers {
    pub fn set_clock(&mut self, unix: Duration, now: Instant) {
        self.clock = Some((unix, now));
    }

    /// The wall clock; zero when nobody has told it.
    pub fn unix(&self, now: Instant) -> Duration {
        self.clock.map_or(Duration::ZERO, |(unix, at)| unix + now.saturating_since(at))
    }

    /// After a restart within the lease peers still hold the sequence number of the process before
    /// us. The clock is above it, if it is one that never goes back ([`ah::Clock`]).
    ///
    /// [`ah::Clock`]: crate::vrrp::auth::ah::Clock
    pub fn resume(&mut self, now: Instant) {
        let seconds = u32::try_from(self.unix(now).as_secs()).unwrap_or(SEQUENCE_LIMIT);
        self.sequence = self.sequence.max(seconds);
        self.heard = self.sequence;
    }
}

impl Router {
    /// The advert that [`super::Effect::SendAdvert`] asks for.
    pub fn advert(&self, priority: Priority) -> Advert {
        Advert {
            version: self.config.version,
            vrid: self.config.vrid,
            priority,
            interval: self.config.interval,
            auth: self.config.auth,
            addresses: self.advertised().to_vec(),
            told: self.is_told(priority),
        }
    }

    /// The datagrams of one advert: one to the group, or one to each peer, with the same IP
    /// identification and sequence number, as keepalived sends them.
    ///
    /// # Errors
    /// For [`super::Input::AdvertFailed`].
    pub fn datagrams(&mut self, priority: Priority, now: Instant) -> Result<Vec<Outgoing>, String> {
        let source = self.source.ok_or_else(|| self.no_source().to_owned())?;
        let numbers = &mut self.numbers;
        // Zero would make the kernel choose.
        numbers.ip_id = numbers.ip_id.checked_add(1).unwrap_or(1);
        if matches!(self.config.auth, Auth::Ah(_)) {
            if numbers.sequence >= SEQUENCE_LIMIT {
                return Err("the sequence numbers of auth_type AH are used up".to_owned());
            }
            numbers.sequence += 1;
        }
        let unix = numbers.unix(now);
        let hmac = self.config.wire.hmac.as_ref();
        let trailer = hmac.and_then(|hmac| {
            let key = hmac.signing_key()?;
            Some((key, numbers.hmac.next(hmac, unix)))
        });
        let seal = Seal { sequence: numbers.sequence, trailer };
        let id = numbers.ip_id;
        let unicast = !self.config.unicast_peers.is_empty();
        let group = [self.config.wire.group()];
        let destinations: &[IpAddr] = if unicast { &self.config.unicast_peers } else { &group };
        let advert = self.advert(priority);
        let datagrams = destinations.iter().map(|destination| {
            let envelope = Envelope {
                source,
                destination: *destination,
                ttl: self.config.wire.ttl(unicast),
                id,
                flow_label: flow_label(source, *destination),
                checksum: self.checksum_form(*destination),
            };
            Outgoing { destination: *destination, bytes: advert.datagram(&envelope, seal) }
        });
        Ok(datagrams.collect())
    }

    /// How a peer wants its VRRPv3 checksum: one that sends the old unicast form is answered in
    /// kind.
    pub fn checksum_form(&self, peer: IpAddr) -> ChecksumForm {
        if self.old_sum_peers.contains(&peer) {
            return ChecksumForm::GroupPseudoHeader;
        }
        self.config.wire.checksum(self.config.version, !self.config.unicast_peers.is_empty())
    }

    /// The addresses that adverts carry; what does not fit is held and not advertised, as
    /// `virtual_ipaddress_excluded`.
    pub(super) fn advertised(&self) -> &[IpAddr] {
        let all = &self.config.addresses;
        &all[..all.len().min(self.capacity())]
    }

    fn capacity(&self) -> usize {
        let config = &self.config;
        let signed = config.wire.hmac.as_ref().is_some_and(|hmac| hmac.signing_key().is_some());
        self.mtu.map_or(ADDRESS_LIMIT, |mtu| {
            capacity(config.version, !config.wire.ipv6, config.auth, signed, mtu)
        })
    }

    pub(super) fn set_mtu(&mut self, mtu: u32) {
        if self.mtu.replace(mtu) != Some(mtu) {
            self.tell_overflow();
        }
    }

    /// Warns when the list does not fit, and when its first IPv6 address is no link-local.
    pub(super) fn tell_overflow(&mut self) {
        let (all, fit) = (self.config.addresses.len(), self.advertised().len());
        if fit < all {
            let text = format!(
                "{all} VIPs, an advert on this interface carries {fit}: the last {} are held and \
                 not advertised",
                all - fit
            );
            self.log(Level::Warn, text);
        }
    }

    /// Why there is no [`Router::source`].
    pub(super) fn no_source(&self) -> &'static str {
        if self.config.wire.ipv6 {
            "the interface has no IPv6 address to send from, or is still checking it for duplicates"
        } else {
            "the interface has no address to send from"
        }
    }
}

/// Any number will do that stays the same from advert to advert; the kernel would make one up from
/// the addresses as well.
fn flow_label(source: IpAddr, destination: IpAddr) -> u32 {
    let (IpAddr::V6(source), IpAddr::V6(destination)) = (source, destination) else { return 0 };
    let words = source.segments().into_iter().chain(destination.segments());
    let mixed =
        words.fold(0x811c_9dc5u32, |hash, word| (hash ^ u32::from(word)).wrapping_mul(0x0100_0193));
    mixed & 0xf_ffff
}
