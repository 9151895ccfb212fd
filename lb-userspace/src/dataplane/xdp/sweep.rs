//! Which connections are over, and how many each real server has. Pure.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use lb_common::abi::{
    FLOW_CLOSING, FLOW_RESET, FLOW_REVERSE, FLOW_RST, Flow4, FlowKey4, PROTO_TCP, STATE_ABSENT,
};

use super::image::Image;

/// Life of a connection of which a FIN was seen, after its last packet.
pub const CLOSING: Duration = Duration::from_secs(60);
/// Life of one that was reset: long enough for what is still under way.
pub const RESET: Duration = Duration::from_secs(10);
/// For connections whose virtual server is gone: MySQL's wait_timeout and a minute.
const ORPHANED: Duration = Duration::from_secs(28_860);

/// State of a connection, for `lbctl flows`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Established,
    Closing,
    /// Its real server died; the client's next packet is answered with a RST.
    Stale,
}

impl State {
    /// Word for status outputs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Established => "established",
            Self::Closing => "closing",
            Self::Stale => "stale",
        }
    }
}

/// What is to be done about the flow table.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Sweep {
    /// Entries to take out; both of a NAT connection.
    pub remove: Vec<FlowKey4>,
    /// Active connections by real id; ids without any are missing.
    pub active: BTreeMap<u16, i64>,
    /// Connections that stay, by real id, whatever their state.
    pub held: BTreeMap<u16, u64>,
    /// Connections that stay.
    pub flows: u64,
    /// Entries that they take, two each under NAT.
    pub entries: u64,
}

/// A connection with both directions as one.
#[derive(Clone, Copy, Debug)]
pub struct Joined {
    pub key: FlowKey4,
    pub flow: Flow4,
    /// Key of the NAT reverse entry, when there is one.
    pub reverse: Option<FlowKey4>,
    /// Later of both directions.
    pub last_seen: u64,
    /// Bits of both directions.
    pub flags: u16,
    pub packets: u64,
    pub bytes: u64,
    pub state: State,
}

/// Joins the entries of a table. Reverse entries without a forward one are returned apart.
pub fn join(
    entries: Vec<(FlowKey4, Flow4)>,
    image: &Image,
) -> (Vec<Joined>, Vec<(FlowKey4, Flow4)>) {
    let (mut reverse, forward): (HashMap<_, _>, Vec<_>) = {
        let (reverse, forward): (Vec<_>, Vec<_>) =
            entries.into_iter().partition(|(_, flow)| flow.flags & FLOW_REVERSE != 0);
        (reverse.into_iter().collect(), forward)
    };
    let joined = forward
        .into_iter()
        .map(|(key, flow)| {
            let real = image.reals.get(&flow.real);
            let back = real.map(|real| FlowKey4 {
                src: real.addr,
                dst: key.src,
                sport: real.port,
                dport: key.sport,
                proto: u16::from(PROTO_TCP),
                pad: 0,
            });
            let back = back.and_then(|back| Some((back, reverse.remove(&back)?)));
            let other = back.map_or(Flow4::default(), |(_, flow)| flow);
            let flags = flow.flags | (other.flags & !FLOW_REVERSE);
            let alive = real.is_some_and(|real| {
                real.state != STATE_ABSENT && real.generation == flow.generation
            });
            let state = match () {
                () if flags & FLOW_CLOSING != 0 => State::Closing,
                () if !alive => State::Stale,
                () => State::Established,
            };
            Joined {
                key,
                flow,
                reverse: back.map(|(key, _)| key),
                last_seen: flow.last_seen.max(other.last_seen),
                flags,
                packets: flow.packets + other.packets,
                bytes: flow.bytes + other.bytes,
                state,
            }
        })
        .collect();
    (joined, reverse.into_iter().collect())
}

/// Sorts the table out. `jiffies` is now, `tick` the length of one.
pub fn sweep(
    entries: Vec<(FlowKey4, Flow4)>,
    image: &Image,
    jiffies: u64,
    tick: Duration,
) -> Sweep {
    let idle: BTreeMap<u16, Duration> = image
        .services
        .values()
        .map(|service| (service.id, Duration::from_secs(u64::from(service.idle_secs))))
        .collect();
    let mut out = Sweep::default();
    let (joined, orphans) = join(entries, image);
    for flow in joined {
        let service = image.reals.get(&flow.flow.real).map_or(0, |real| real.service);
        let life = match flow.flags {
            flags if flags & (FLOW_RST | FLOW_RESET) != 0 => RESET,
            flags if flags & FLOW_CLOSING != 0 => CLOSING,
            _ => idle.get(&service).copied().unwrap_or(ORPHANED),
        };
        if age(flow.last_seen, jiffies, tick) > life {
            out.remove.push(flow.key);
            out.remove.extend(flow.reverse);
            continue;
        }
        out.flows += 1;
        out.entries += 1 + u64::from(flow.reverse.is_some());
        *out.held.entry(flow.flow.real).or_default() += 1;
        if flow.state == State::Established {
            *out.active.entry(flow.flow.real).or_default() += 1;
        }
    }
    // A young one may be that of a connection which was entered while the table was being read.
    let over = orphans.into_iter().filter(|(_, flow)| age(flow.last_seen, jiffies, tick) > RESET);
    out.remove.extend(over.map(|(key, _)| key));
    out
}

/// Time since a jiffy.
pub fn age(last_seen: u64, jiffies: u64, tick: Duration) -> Duration {
    let passed = jiffies.saturating_sub(last_seen);
    tick.checked_mul(u32::try_from(passed).unwrap_or(u32::MAX)).unwrap_or(Duration::MAX)
}

#[cfg(test)]
mod tests {
    use lb_common::abi::{FLOW_FIN, METHOD_NAT, Real, STATE_UP, Service, ServiceKey, be16, be32};

    use super::*;

    const TICK: Duration = Duration::from_millis(4);
    const NOW: u64 = 1 << 32;

    fn image() -> Image {
        let mut image = Image::default();
        let service = Service { id: 1, idle_secs: 300, ..Service::default() };
        image.services.insert(ServiceKey::default(), service);
        let real = Real {
            generation: 5,
            state: STATE_UP,
            method: METHOD_NAT,
            service: 1,
            addr: be32([10, 0, 0, 1]),
            port: be16(3306),
            ..Real::default()
        };
        image.reals.insert(7, real);
        image
    }

    fn client(port: u16) -> FlowKey4 {
        FlowKey4 {
            src: be32([192, 0, 2, 99]),
            dst: be32([192, 0, 2, 1]),
            sport: be16(port),
            dport: be16(3306),
            proto: u16::from(PROTO_TCP),
            pad: 0,
        }
    }

    fn back(port: u16) -> FlowKey4 {
        FlowKey4 {
            src: be32([10, 0, 0, 1]),
            dst: be32([192, 0, 2, 99]),
            sport: be16(3306),
            dport: be16(port),
            proto: u16::from(PROTO_TCP),
            pad: 0,
        }
    }

    fn flow(age: u64, flags: u16) -> Flow4 {
        let last_seen = NOW - age * 250;
        Flow4 { last_seen, generation: 5, real: 7, flags, packets: 3, ..Flow4::default() }
    }

    #[test]
    fn lives_end_by_state() {
        let rows: &[(&str, u64, u16, bool, bool)] = &[
            // name, idle seconds, flags, counts, stays
            ("busy", 1, 0, true, true),
            ("idle", 299, 0, true, true),
            ("too idle", 302, 0, false, false),
            ("closing", 59, FLOW_FIN, false, true),
            ("closed", 62, FLOW_FIN, false, false),
            ("reset", 9, FLOW_RST, false, true),
            ("reset and gone", 12, FLOW_FIN | FLOW_RST, false, false),
            ("answered by us", 12, FLOW_RESET, false, false),
        ];
        for (name, age, flags, counts, stays) in rows {
            let got = sweep(vec![(client(1), flow(*age, *flags))], &image(), NOW, TICK);
            assert_eq!(got.remove.is_empty(), *stays, "{name}");
            assert_eq!(got.active.get(&7).copied(), counts.then_some(1), "{name}");
            assert_eq!(got.flows, u64::from(*stays), "{name}");
        }
    }

    #[test]
    fn both_directions_are_one_connection() {
        let reverse = FLOW_REVERSE;
        // The client is silent, the server is not.
        let entries = vec![(client(1), flow(400, 0)), (back(1), flow(2, reverse))];
        let got = sweep(entries.clone(), &image(), NOW, TICK);
        assert_eq!((got.flows, got.active[&7], got.remove.len()), (1, 1, 0));
        assert_eq!(join(entries, &image()).0[0].packets, 6);
        // Both are: both entries go.
        let entries = vec![(client(1), flow(400, 0)), (back(1), flow(301, reverse))];
        assert_eq!(sweep(entries, &image(), NOW, TICK).remove, [client(1), back(1)]);
        // The server closes.
        let entries = vec![(client(1), flow(1, 0)), (back(1), flow(1, reverse | FLOW_FIN))];
        assert_eq!(sweep(entries, &image(), NOW, TICK).active.get(&7), None);
        // A reverse entry alone is nobody's.
        let entries = vec![(back(2), flow(11, reverse))];
        assert_eq!(sweep(entries, &image(), NOW, TICK).remove, [back(2)]);
        // Unless its other half came after the table's other end had been read.
        let entries = vec![(back(2), flow(1, reverse))];
        assert!(sweep(entries, &image(), NOW, TICK).remove.is_empty());
    }

    #[test]
    fn stale_connections_wait_for_their_client_but_do_not_count() {
        let stale = Flow4 { generation: 4, ..flow(1, 0) };
        let got = sweep(vec![(client(1), stale)], &image(), NOW, TICK);
        assert_eq!((got.flows, got.active.len(), got.remove.len()), (1, 0, 0));
        assert_eq!(got.held[&7], 1);
        let unknown = Flow4 { real: 8, ..flow(1, 0) };
        let (joined, _) = join(vec![(client(1), unknown)], &image());
        assert_eq!(joined[0].state, State::Stale);
    }
}
