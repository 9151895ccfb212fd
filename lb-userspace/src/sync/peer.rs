//! What is known of a peer, and how far its stream is followed.

use std::collections::{BTreeMap, VecDeque};

use super::{
    AGAIN, BEGIN_AGAIN, HELD, REPAIR, REST, RETIRED, SILENT,
    record::{Flow, Prune, Record, Set},
    wire::{Reject, Wanted},
};
use crate::base::time::Instant;

/// How far a stream is followed.
#[derive(Debug)]
enum Follow {
    /// Waits for the begin of a full resync, which was asked for at `asked`. Its number is greater than `floor`, what
    /// the peer had sent before we asked: an older one is a recording. `None`: not known yet.
    Joining { asked: Option<Instant>, floor: Option<u64> },
    Following {
        /// Number of the next datagram.
        next: u64,
        /// Datagrams before this one were asked for again, and are asked for once more at that time.
        asked: Option<(Instant, u64)>,
        /// Between begin and end of a full resync: what it has named.
        resync: Option<Set>,
        /// A full resync has ended since the session began.
        synced: bool,
    },
}

/// What is to be done with a piece of a stream.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    Apply(Vec<Flow>),
    Prune(Prune),
}

/// What has happened to a stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub datagrams: u64,
    pub opened: u64,
    pub refreshed: u64,
    pub closed: u64,
    /// Datagrams that had come before.
    pub duplicates: u64,
    /// Datagrams too far ahead of a gap to wait for it.
    pub ahead: u64,
    /// Requests for datagrams that are missing.
    pub gaps: u64,
    /// Full resyncs that have ended.
    pub resyncs: u64,
}

/// See the module.
#[derive(Debug)]
pub struct Peer {
    /// The session that is believed.
    session: Option<u64>,
    /// Another one that was heard, and has not shown that it lives.
    candidate: Option<u64>,
    retired: VecDeque<u64>,
    /// Greatest number of its hellos and requests.
    control: u64,
    /// When the believed session last said something new.
    pub heard: Instant,
    head: u64,
    follow: Follow,
    held: BTreeMap<u64, Vec<Record>>,
    pub counts: Counts,
}

impl Peer {
    pub fn new(now: Instant) -> Self {
        Self {
            session: None,
            candidate: None,
            retired: VecDeque::new(),
            control: 0,
            heard: now,
            head: 0,
            follow: Follow::Joining { asked: None, floor: None },
            held: BTreeMap::new(),
            counts: Counts::default(),
        }
    }

    /// The session that is believed.
    pub fn session(&self) -> Option<u64> {
        self.session
    }

    /// Whether that is, or was, the session that is believed.
    pub fn has_believed(&self, session: u64) -> bool {
        self.session == Some(session) || self.retired.contains(&session)
    }

    /// Sessions that it may want to hear of from us.
    pub fn sessions(&self) -> impl Iterator<Item = u64> {
        self.session.into_iter().chain(self.candidate)
    }

    /// Whether it lives.
    pub fn is_live(&self, now: Instant) -> bool {
        self.session.is_some() && now.saturating_since(self.heard) < SILENT
    }

    /// Whether a full resync has ended since its session began, or was asked for anew.
    pub fn is_synced(&self) -> bool {
        matches!(self.follow, Follow::Following { synced: true, .. })
    }

    /// Datagrams of its stream that are missing, as far as it is known.
    pub fn behind(&self) -> u64 {
        match self.follow {
            Follow::Joining { .. } => self.head,
            Follow::Following { next, .. } => self.head.saturating_add(1).saturating_sub(next),
        }
    }

    /// Judges a datagram by its session. `echoed`: it is a hello that names our session. True: a session
    /// begins.
    ///
    /// # Errors
    /// It is not believed.
    pub fn admit(&mut self, session: u64, echoed: bool, now: Instant) -> Result<bool, Reject> {
        if self.session == Some(session) {
            return Ok(false);
        }
        if self.retired.contains(&session) {
            return Err(Reject::OldSession);
        }
        if !echoed {
            self.candidate = Some(session);
            return Err(Reject::Unproven);
        }
        if let Some(old) = self.session.replace(session) {
            if self.retired.len() == RETIRED {
                self.retired.pop_front();
            }
            self.retired.push_back(old);
        }
        (self.candidate, self.control, self.head, self.heard) = (None, 0, 0, now);
        self.rejoin();
        // The hello that proves the session says it.
        self.follow = Follow::Joining { asked: None, floor: None };
        Ok(true)
    }

    /// Judges a hello or a request of the believed session by its number.
    ///
    /// # Errors
    /// It is a replay, or was overtaken.
    pub fn is_fresh(&mut self, number: u64, now: Instant) -> Result<(), Reject> {
        if number <= self.control {
            return Err(Reject::Replayed);
        }
        (self.control, self.heard) = (number, now);
        Ok(())
    }

    /// All of it is wanted anew.
    pub fn rejoin(&mut self) {
        self.follow = Follow::Joining { asked: None, floor: Some(self.head) };
        self.held.clear();
    }

    /// Takes a hello: what it has sent, and can still send again.
    pub fn hello(&mut self, head: u64, oldest: u64) {
        self.head = self.head.max(head);
        if let Follow::Joining { floor: floor @ None, .. } = &mut self.follow {
            *floor = Some(head);
        }
        if let Follow::Following { next, .. } = self.follow
            && oldest > next
        {
            self.rejoin();
        }
    }

    /// Takes a piece of the stream.
    pub fn data(&mut self, number: u64, records: Vec<Record>, now: Instant) -> Vec<Step> {
        self.counts.datagrams += 1;
        self.head = self.head.max(number);
        if records.first() == Some(&Record::Begin)
            && let Follow::Joining { floor: Some(floor), .. } = self.follow
            && number > floor
        {
            let synced = false;
            self.follow = Follow::Following { next: number, asked: None, resync: None, synced };
        }
        let Follow::Following { next, .. } = self.follow else { return Vec::new() };
        if number < next || self.held.contains_key(&number) {
            self.counts.duplicates += 1;
            return Vec::new();
        }
        if number - next >= HELD as u64 {
            self.counts.ahead += 1;
            return Vec::new();
        }
        self.held.insert(number, records);
        self.heard = now;
        let mut steps = Vec::new();
        self.advance(&mut steps, now);
        steps
    }

    /// Takes what has come in order.
    fn advance(&mut self, steps: &mut Vec<Step>, now: Instant) {
        let mut flows = Vec::new();
        while let Follow::Following { next, asked, resync, synced } = &mut self.follow {
            let Some(records) = self.held.remove(next) else { break };
            *next = next.saturating_add(1);
            // Not at once, or each of many that were asked for would ask for all the others.
            *asked = asked
                .filter(|(_, until)| *next < *until)
                .map(|(at, until)| (at.min(now + REST), until));
            for record in records {
                match record {
                    Record::Begin => *resync = Some(Set::default()),
                    Record::Covers(protocol, vip) => {
                        if let Some(set) = resync {
                            set.covered.insert((protocol, vip));
                        }
                    }
                    Record::End => {
                        if let Some(set) = resync.take() {
                            steps.push(Step::Apply(std::mem::take(&mut flows)));
                            steps.push(Step::Prune(set));
                            self.counts.resyncs += 1;
                            *synced = true;
                        }
                    }
                    Record::Open(flow) | Record::Refresh(flow) | Record::Close(flow) => {
                        match record {
                            Record::Open(_) => self.counts.opened += 1,
                            Record::Close(_) => self.counts.closed += 1,
                            _ => self.counts.refreshed += 1,
                        }
                        if let Some(set) = resync {
                            set.named.insert(flow.key);
                        }
                        flows.push(flow);
                    }
                }
            }
        }
        if !flows.is_empty() {
            steps.push(Step::Apply(flows));
        }
    }

    /// What is to be asked of it now. To be called after every input, and at [`Peer::asks_at`].
    pub fn ask(&mut self, now: Instant) -> Option<Wanted> {
        if !self.is_live(now) {
            return None;
        }
        let (missing, first) = (self.behind() > 0, self.held.keys().next().copied());
        match &mut self.follow {
            Follow::Joining { asked, .. } => {
                if asked.is_some_and(|at| now < at + BEGIN_AGAIN) {
                    return None;
                }
                *asked = Some(now);
                Some(Wanted::Full)
            }
            Follow::Following { next, asked, .. } => {
                if !missing || asked.is_some_and(|(at, _)| now < at) {
                    return None;
                }
                self.counts.gaps += 1;
                let until = first.unwrap_or_else(|| self.head.saturating_add(1));
                let count = u16::try_from(until.saturating_sub(*next)).unwrap_or(REPAIR);
                let count = count.clamp(1, REPAIR);
                *asked = Some((now + AGAIN, next.saturating_add(u64::from(count))));
                Some(Wanted::Again { from: *next, count })
            }
        }
    }

    /// When [`Peer::ask`] may have something to ask.
    pub fn asks_at(&self, now: Instant) -> Option<Instant> {
        if !self.is_live(now) {
            return None;
        }
        match self.follow {
            Follow::Joining { asked, .. } => Some(asked.map_or(now, |at| at + BEGIN_AGAIN)),
            Follow::Following { asked, .. } if self.behind() > 0 => {
                Some(asked.map_or(now, |(at, _)| at))
            }
            Follow::Following { .. } => None,
        }
    }
}
