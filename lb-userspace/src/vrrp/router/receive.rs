//! What a received datagram does. A discarded one changes nothing but a counter.

use std::{net::IpAddr, time::Duration};

use super::{Effect, FORWARDER_LIMIT, Heard, Level, Notify, Router, State, Wait};
use crate::{
    base::{net::Priority, time::Instant},
    vrrp::{
        timing::{self, AdvertInterval},
        wire::{self, ChecksumForm, Datagram, Expect, Reason, Received, Version},
    },
};

/// A discard of one reason, and routers of lower priority, are logged at most this often.
const LOG_GAP: Duration = Duration::from_secs(10);
/// Peers about which something was noted; at the bound no more is said.
const NOTE_LIMIT: usize = 64;
/// Other addresses of one sender are told at most this often. Its adverts count, so that this may
/// last for ever.
const LIST_GAP: Duration = Duration::from_mins(5);
/// Losing adverts are answered at most this many times an interval, so that a storm of them does
/// not make one of ours.
const ANSWERS_PER_INTERVAL: u32 = 100;

/// What of a peer differs from us; said once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Note {
    Checksum,
    Interval,
    Owner,
}

impl Router {
    pub(super) fn datagram(&mut self, bytes: &[u8], now: Instant) {
        let expect = Expect {
            version: self.config.version,
            vrid: self.config.vrid,
            auth: self.config.auth,
            interval: self.config.interval,
            options: &self.config.wire,
            peers: &self.config.unicast_peers,
            own: self.source,
            addresses: self.advertised(),
            sequence: self.numbers.sequence,
            heard: self.numbers.heard,
            hmac: &self.numbers.hmac,
            unix: self.numbers.unix(now),
        };
        match wire::receive(bytes, &expect) {
            Ok(advert) => self.accept(&advert, now),
            Err(reason) => self.discard(reason, bytes, now),
        }
    }

    fn discard(&mut self, reason: Reason, bytes: &[u8], now: Instant) {
        *self.counters.discarded.entry(reason.name().to_owned()).or_default() += 1;
        let last = self.discard_logged.get(&reason);
        if last.is_some_and(|last| now.saturating_since(*last) < LOG_GAP) {
            return;
        }
        self.discard_logged.insert(reason, now);
        let count = self.counters.discarded.get(reason.name()).copied().unwrap_or(0);
        let (level, cause) = self.describe(reason, bytes);
        self.log(level, format!("advert discarded: {cause} ({reason}, {count} so far)"));
    }

    fn describe(&self, reason: Reason, bytes: &[u8]) -> (Level, String) {
        let Ok(Datagram { source, destination, payload, ttl, .. }) = Datagram::parse(bytes) else {
            return (Level::Warn, format!("{} bytes that are no VRRP datagram", bytes.len()));
        };
        let from = format!("from {source}");
        let byte = |at: usize| payload.get(at).copied().unwrap_or(0);
        let config = &self.config;
        let error = |what: &str| (Level::Error, format!("{from}: {what}"));
        let warn = |what: &str| (Level::Warn, format!("{from}: {what}"));
        match reason {
            Reason::Ttl => (Level::Warn, format!("{from}: TTL {ttl}, it was forwarded")),
            Reason::Version => {
                let (theirs, ours) = (byte(0) >> 4, config.version.number());
                (Level::Warn, format!("{from}: peer speaks VRRPv{theirs}, we VRRPv{ours}"))
            }
            Reason::Interval => {
                let ours = config.interval.seconds();
                let text = format!(
                    "{from}: advert_int {} s, ours is {ours} s: both routers may become master \
                     until they agree",
                    byte(5)
                );
                (Level::Error, text)
            }
            Reason::AuthFailed | Reason::AuthTypeMismatch | Reason::AuthTypeUnknown => {
                (Level::Error, format!("{from}: authentication differs (type {})", byte(4)))
            }
            Reason::PeerTtl => (Level::Warn, format!("{from}: TTL {ttl} is not this peer's")),
            Reason::AuthHeader => error("it has an authentication header, ours is not AH"),
            Reason::AuthHeaderMissing => error("it has no authentication header (auth_type AH)"),
            Reason::AuthHeaderIcv => error("another password, or changed on the way"),
            Reason::AuthHeaderReplay => warn("its sequence number has been used: replayed"),
            Reason::HmacTrailer => error("it is signed, and we have no auth_hmac"),
            Reason::HmacMissing => error("it is not signed (auth_hmac)"),
            Reason::HmacKey => error("it is signed with a key that we do not have (auth_hmac)"),
            Reason::HmacInvalid => error("its signature is wrong (auth_hmac)"),
            Reason::HmacStale => error("its clock and ours are too far apart (auth_hmac)"),
            Reason::HmacReplay => warn("its signature has been used: replayed (auth_hmac)"),
            Reason::PeerUnknown => warn("it is none of our unicast_peers"),
            Reason::OwnAddress => warn("this is our own address: looped back, or used twice"),
            Reason::Mode if config.unicast_peers.is_empty() => warn("unicast, ours is multicast"),
            Reason::Mode => warn("multicast, ours is unicast"),
            Reason::Group => {
                let ours = config.wire.group();
                (Level::Warn, format!("{from}: to the group {destination}, ours is {ours}"))
            }
            Reason::AddressList => error("other addresses than ours (check_adv_addr)"),
            Reason::Checksum => error("wrong checksum"),
            _ => (Level::Warn, from),
        }
    }

    fn note(&mut self, advert: &Received, note: Note, level: Level, text: String) {
        let key = (advert.source, note);
        if self.noted.len() < NOTE_LIMIT && self.noted.insert(key) {
            self.log(level, text);
        }
    }

    fn accept(&mut self, advert: &Received, now: Instant) {
        self.counters.advert_rcvd += 1;
        if let Some(sequence) = advert.sequence {
            self.numbers.sequence = sequence;
            self.numbers.heard = sequence;
        }
        if let Some(sequence) = advert.trailer {
            let peers = self.config.unicast_peers.len();
            self.numbers.hmac.accept(advert.source, sequence, peers);
        }
        if advert.priority == Priority::RELEASE {
            self.counters.pri_zero_rcvd += 1;
        }
        let source = advert.source;
        // Whom an owner is deaf to forwards nevertheless: its takeover waits in the guard.
        self.notice_forwarder(advert, now);
        let owns = self.effective_priority() == Priority::OWNER;
        if owns && self.config.owner_ignore_adverts {
            return;
        }
        if !advert.same_addresses {
            self.other_addresses(source, now);
        }
        if self.config.version == Version::V3 {
            self.note_dialect(advert);
        }
        self.note_owner(advert);
        match self.state {
            State::Backup { since, wait } => self.backup_hears(advert, since, wait, now),
            State::Master { .. } => self.master_hears(advert, now),
            State::Init | State::Fault => self.remember(advert, now),
            State::Stopping | State::Stopped => {}
        }
    }

    /// Only one of two hosts holds what the other's list lacks: no error of the wire, and none
    /// that ends by itself.
    fn other_addresses(&mut self, source: IpAddr, now: Instant) {
        self.counters.address_list_differs += 1;
        self.lists_told.retain(|_, last| now.saturating_since(*last) < LIST_GAP);
        if self.lists_told.contains_key(&source) || self.lists_told.len() == NOTE_LIMIT {
            return;
        }
        self.lists_told.insert(source, now);
        let count = self.counters.address_list_differs;
        let text =
            format!("{source} advertises other addresses than ours ({count} adverts so far)");
        self.log(Level::Warn, text);
    }

    fn note_dialect(&mut self, advert: &Received) {
        let source = advert.source;
        match advert.checksum {
            ChecksumForm::PseudoHeader => {
                self.old_sum_peers.remove(&source);
            }
            ChecksumForm::Message => {
                let text = format!(
                    "{source} sends the checksum of RFC 9568, without pseudo-header; keepalived \
                     refuses it, we accept both"
                );
                self.note(advert, Note::Checksum, Level::Info, text);
            }
            ChecksumForm::GroupPseudoHeader => {
                if self.config.unicast_peers.contains(&source)
                    && !self.config.wire.checksum_as_v2
                    && self.old_sum_peers.insert(source)
                {
                    let text = format!("{source} sends the old unicast checksum: answered in kind");
                    self.note(advert, Note::Checksum, Level::Info, text);
                }
            }
        }
        if advert.interval != self.config.interval {
            let (theirs, ours) = (advert.interval.duration(), self.config.interval.duration());
            let text = format!("{source} has advert_int {theirs:?}, ours is {ours:?}");
            self.note(advert, Note::Interval, Level::Info, text);
        }
    }

    /// Two owners of the same addresses: a mistake that the tie-break decides (erratum 8298 of
    /// RFC 9568).
    fn note_owner(&mut self, advert: &Received) {
        if advert.priority == Priority::OWNER && self.effective_priority() == Priority::OWNER {
            let text = format!(
                "{} has priority 255 as we have: only one host owns the addresses; the greater \
                 source address stays master",
                advert.source
            );
            self.note(advert, Note::Owner, Level::Error, text);
        }
    }

    fn remember(&mut self, advert: &Received, now: Instant) {
        let Received { source, priority, interval, .. } = *advert;
        let told = advert.told && self.config.told_handover;
        let before = self.heard.map(|heard| (heard.source, heard.priority));
        self.heard = Some(Heard { source, priority, at: now, interval, told });
        if before != Some((source, priority)) {
            self.effects.push_back(Effect::Changed);
        }
    }

    fn notice_forwarder(&mut self, advert: &Received, now: Instant) {
        let Received { source, priority, interval, .. } = *advert;
        let adverts = self.config.down_adverts;
        self.forwarders.retain(|it| it.source != source && it.is_live(now, adverts));
        if priority != Priority::RELEASE {
            if self.forwarders.len() == FORWARDER_LIMIT {
                self.forwarders.remove(0);
            }
            self.forwarders.push(Heard { source, priority, at: now, interval, told: false });
        }
    }

    /// VRRPv2 accepts no other interval than ours: after a reload of both it is the new one again.
    fn learn(&mut self, interval: AdvertInterval) {
        self.master_interval = interval;
        self.master_adverts = self.config.down_adverts;
    }

    fn backup_hears(&mut self, advert: &Received, since: Instant, wait: Wait, now: Instant) {
        let own = self.effective_priority();
        let adverts = self.config.down_adverts;
        if advert.priority == Priority::RELEASE {
            // A router that gave up halfway says nothing about the master we follow.
            // A worse one is no reason to wait: it may have been told of the same hand-over.
            let told = advert.told && self.config.told_handover;
            let preempts = self.may_preempt() && self.config.preempt_delay.is_zero();
            let other_master = self.heard.is_some_and(|heard| {
                heard.source != advert.source
                    && heard.is_live(now, adverts)
                    && !(told && preempts && heard.priority < own)
            });
            if !other_master {
                self.remember(advert, now);
                if wait != Wait::Group {
                    self.state = State::Backup { since: now, wait: Wait::Skew };
                    if told {
                        self.listening = false;
                        self.want(now);
                    }
                }
            }
            return;
        }
        self.unprepare();
        // A lower router does not hide a better one that was heard lately.
        if advert.priority >= own
            || self.heard.is_none_or(|heard| {
                heard.source == advert.source
                    || heard.priority < own
                    || !heard.is_live(now, adverts)
            })
        {
            self.remember(advert, now);
        }
        let delay = self.config.preempt_delay;
        let delayed = !delay.is_zero() && self.preempt_at.is_none_or(|at| at > now);
        if !self.may_preempt() || advert.priority >= own || delayed {
            self.learn(advert.interval);
            self.listening = false;
            self.state = State::Backup { since: now, wait: Wait::MasterDown };
            if advert.priority >= own {
                self.preempt_at = None;
            } else if !delay.is_zero() {
                self.preempt_at.get_or_insert(now + delay);
            }
        } else {
            // Lower, and we preempt: the timer runs on, by the terms that it speaks under now.
            match self.config.version {
                Version::V2 => self.learn(advert.interval),
                Version::V3 => self.master_adverts = self.config.down_adverts,
            }
            self.state = State::Backup { since, wait };
        }
    }

    fn master_hears(&mut self, advert: &Received, now: Instant) {
        let own = self.effective_priority();
        let wins = advert.priority > own
            || advert.priority == own && self.source.is_some_and(|own| advert.source > own);
        self.remember(advert, now);
        if wins && advert.priority != Priority::RELEASE {
            let Received { source, priority, .. } = *advert;
            let why = if priority > own {
                format!("{source} has priority {priority} > {own}")
            } else {
                format!("{source} has the same priority {own} and the greater address")
            };
            if self.config.higher_prio_send_advert && self.forwards(now) {
                self.send_advert(own);
            }
            self.learn(advert.interval);
            self.yield_to(now, &why);
            return;
        }
        let lower = advert.priority != Priority::RELEASE;
        if lower {
            self.guard_hears(advert.interval, now);
        }
        if advert.priority == Priority::RELEASE && self.farewell_ends_guard(now) {
            return;
        }
        let gap = self.config.interval.duration() / ANSWERS_PER_INTERVAL;
        if self.last_answer.is_some_and(|last| now.saturating_since(last) < gap) {
            return;
        }
        self.last_answer = Some(now);
        let answers = !(lower && self.config.lower_prio_no_advert);
        if answers {
            if let State::Master { phase, .. } = self.state {
                let next_advert = now + self.config.interval.duration();
                self.state = State::Master { next_advert, phase };
            }
            self.send_advert(own);
        }
        if !lower || !self.forwards(now) {
            return;
        }
        if answers {
            // Should the answer be lost, another follows before the interval's next.
            let gap = timing::repeat_gap(self.config.version, self.config.interval);
            self.repeat_at = Some(now + gap);
        }
        // One that does not hear us goes on for ever.
        if self.lower_logged.is_none_or(|last| now.saturating_since(last) >= LOG_GAP) {
            self.lower_logged = Some(now);
            let Received { source, priority, .. } = *advert;
            let done = if answers { "answered" } else { "not answered (lower_prio_no_advert)" };
            let text = format!("{source} advertises priority {priority}, ours is {own}: {done}");
            self.log(Level::Info, text);
        }
        self.effects.push_back(Effect::Notify(Notify::MasterRxLowerPri));
        // Its gratuitous ARPs may have moved the VIP in switches and neighbour tables.
        self.lower_garp(now);
    }
}
