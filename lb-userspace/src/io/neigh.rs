//! Ways to real servers, by rtnetlink: route, neighbour, egress interface; and this host's own
//! addresses and interfaces.
//!
//! Level, not edge: an event only says that something changed, then everything is read anew. On a
//! host with a few interfaces and neighbours that costs less than a millisecond.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6, UdpSocket},
    pin::pin,
    time::Duration,
};

use anyhow::{Context as _, bail};
use futures_util::{StreamExt as _, TryStream, TryStreamExt as _};
use netlink_packet_core::NetlinkMessage;
use netlink_packet_route::{
    RouteNetlinkMessage,
    address::{AddressAttribute, AddressMessage},
    link::{LinkAttribute, LinkFlags, LinkMessage, LinkXdp},
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState},
    route::{RouteAddress, RouteAttribute, RouteMessage, RouteMetric, RouteType},
};
use netlink_sys::SocketAddr as NetlinkAddr;
use rtnetlink::{Handle, MulticastGroup, RouteMessageBuilder};

use crate::base::net::{IpPrefix, Mac};

/// Events that come closer together are answered by one reading.
const SETTLE: Duration = Duration::from_millis(20);
/// Port of the discard service (RFC 863): where datagrams go that are only sent so that the kernel
/// asks for the neighbour.
const DISCARD: u16 = 9;

/// An interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    pub name: String,
    pub mac: Mac,
    pub mtu: u32,
    /// A network card as the machine has it, not made of software (veth, bridge, bond, VLAN …).
    pub nic: bool,
    /// Administratively up and with carrier.
    pub running: bool,
    /// Id of the XDP program on it, ours or not.
    pub xdp_program: Option<u32>,
}

/// How an address is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Way {
    pub ifindex: u32,
    /// The address that is asked for by ARP or ND: the gateway, or the destination itself.
    pub via: IpAddr,
    /// `Err`: why there is no link-layer address.
    pub neighbour: Result<Mac, String>,
    /// This host's own address that the kernel would send from.
    pub own: Option<IpAddr>,
    /// What the route itself, or what was heard of its further way, says of the largest packet.
    pub mtu: Option<u32>,
    /// The kernel should be made to ask (again): unresolved, or not confirmed lately.
    pub stale: bool,
    /// The neighbour has not been asked yet, or has not had the time to answer: nothing is known
    /// that speaks against an address it had before.
    pub asked: bool,
}

/// Everything at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// By interface index.
    pub interfaces: BTreeMap<u32, Interface>,
    /// Own addresses with prefix, and the index of their interface.
    pub addresses: BTreeSet<(u32, IpPrefix)>,
    /// By destination; `Err`: no route, in words. Own addresses have none.
    pub ways: BTreeMap<IpAddr, Result<Way, String>>,
}

type Messages =
    futures_util::stream::BoxStream<'static, (NetlinkMessage<RouteNetlinkMessage>, NetlinkAddr)>;

/// The netlink connections: one that listens, one that asks. The library takes whatever has the sequence
/// number of an open request for its answer, and notices carry the numbers of those who made the change:
/// heard on the socket that asks, one of them would be an answer that is none.
pub struct Neigh {
    handle: Handle,
    messages: Messages,
    /// Never asked; the connection that listens ends with it.
    _listening: Handle,
    /// One for each address family that the host has.
    datagrams: Vec<UdpSocket>,
    /// Something changed and was not reported yet: when it will have settled.
    settled: Option<tokio::time::Instant>,
}

impl Neigh {
    /// Connects and listens for changes. Needs no capability; must run inside a tokio runtime.
    ///
    /// # Errors
    /// When the kernel gives no netlink socket.
    pub fn open() -> anyhow::Result<Self> {
        let what = "open a netlink socket for routes and neighbours";
        let (listening, ears, messages) = rtnetlink::new_multicast_connection(&[
            MulticastGroup::Link,
            MulticastGroup::Neigh,
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Ipv6Ifaddr,
            MulticastGroup::Ipv4Route,
            MulticastGroup::Ipv6Route,
        ])
        .context(what)?;
        tokio::spawn(listening);
        let (asking, handle, _) = rtnetlink::new_connection().context(what)?;
        tokio::spawn(asking);
        let any: [IpAddr; 2] = [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
        let datagrams = any.iter().filter_map(|any| {
            let socket = UdpSocket::bind((*any, 0)).ok()?;
            socket.set_nonblocking(true).ok().map(|()| socket)
        });
        let datagrams = datagrams.collect();
        Ok(Self { handle, messages: messages.boxed(), _listening: ears, datagrams, settled: None })
    }

    /// Waits until something changed, and until changes have settled for a moment. Dropped before
    /// its end (in a `select!`), it forgets nothing: the next call reports the change.
    ///
    /// # Errors
    /// When the connection ended.
    pub async fn changed(&mut self) -> anyhow::Result<()> {
        let lost = "the netlink connection for routes and neighbours ended";
        loop {
            let Some(settled) = self.settled else {
                self.messages.next().await.context(lost)?;
                self.settled = Some(tokio::time::Instant::now() + SETTLE);
                continue;
            };
            tokio::select! {
                // In this order, so that a stream of messages does not put the report off.
                biased;
                () = tokio::time::sleep_until(settled) => {
                    self.settled = None;
                    return Ok(());
                }
                message = self.messages.next() => {
                    message.context(lost)?;
                }
            }
        }
    }

    /// Reads interfaces, addresses, and the ways to `destinations`. Changes can be waited for
    /// meanwhile.
    ///
    /// # Errors
    /// When the kernel refuses to list; a single destination without a route is no error.
    pub fn snapshot(
        &self,
        destinations: &BTreeSet<IpAddr>,
    ) -> impl Future<Output = anyhow::Result<Snapshot>> + use<> {
        Reader { handle: self.handle.clone() }.snapshot(destinations.clone())
    }

    /// Makes the kernel ask for (or confirm) the neighbours of stale ways, by an empty datagram to
    /// the discard port of the next hop.
    pub fn provoke(&self, snapshot: &Snapshot) {
        for way in snapshot.ways.values().flatten().filter(|way| way.stale) {
            let to = match way.via {
                IpAddr::V4(ip) => SocketAddr::V4(SocketAddrV4::new(ip, DISCARD)),
                // A gateway's link-local address says nothing without the link.
                IpAddr::V6(ip) => SocketAddr::V6(SocketAddrV6::new(ip, DISCARD, 0, way.ifindex)),
            };
            for socket in &self.datagrams {
                // The other family's refuses. Else failure means that the kernel cannot ask, which the next
                // reading tells.
                let _ = socket.send_to(&[], to);
            }
        }
    }
}

/// Asks the kernel, beside whoever listens.
struct Reader {
    handle: Handle,
}

impl Reader {
    /// As [`Neigh::snapshot`].
    async fn snapshot(self, destinations: BTreeSet<IpAddr>) -> anyhow::Result<Snapshot> {
        let mut snapshot = Snapshot::default();
        for message in all(self.handle.link().get().execute()).await.context("list interfaces")? {
            let interface = interface(&message);
            snapshot.interfaces.insert(message.header.index, interface);
        }
        for message in all(self.handle.address().get().execute()).await.context("list addresses")? {
            snapshot.addresses.extend(address(&message));
        }
        let neighbours = all(self.handle.neighbours().get().execute())
            .await
            .context("list neighbours")?
            .iter()
            .filter_map(neighbour)
            .collect::<BTreeMap<_, _>>();
        for destination in &destinations {
            if snapshot.addresses.iter().any(|(_, prefix)| prefix.addr == *destination) {
                continue;
            }
            let way = match self.route(*destination).await {
                Ok(route) => Ok(way(&route, &snapshot, &neighbours)),
                Err(error) => Err(format!("no route to {destination}: {error:#}")),
            };
            snapshot.ways.insert(*destination, way);
        }
        Ok(snapshot)
    }

    async fn route(&self, destination: IpAddr) -> anyhow::Result<Route> {
        let request = match destination {
            IpAddr::V4(ip) => {
                RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(ip, 32).build()
            }
            IpAddr::V6(ip) => {
                RouteMessageBuilder::<Ipv6Addr>::new().destination_prefix(ip, 128).build()
            }
        };
        let answers = self.handle.route().get(request).execute();
        let answer = pin!(answers).try_next().await?.context("the kernel answered nothing")?;
        read_route(&answer, destination)
    }
}

async fn all<T>(
    stream: impl TryStream<Ok = T, Error = rtnetlink::Error>,
) -> anyhow::Result<Vec<T>> {
    Ok(stream.try_collect().await?)
}

fn interface(message: &LinkMessage) -> Interface {
    let mut interface = Interface {
        name: String::new(),
        mac: Mac::default(),
        mtu: 1500,
        nic: true,
        running: message.header.flags.contains(LinkFlags::Up | LinkFlags::LowerUp),
        xdp_program: None,
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => interface.name.clone_from(name),
            LinkAttribute::Address(bytes) => {
                interface.mac = bytes.as_slice().try_into().map(Mac).unwrap_or_default();
            }
            LinkAttribute::Mtu(mtu) => interface.mtu = *mtu,
            LinkAttribute::LinkInfo(_) => interface.nic = false,
            LinkAttribute::Xdp(parts) => {
                interface.xdp_program = parts.iter().find_map(|part| match part {
                    LinkXdp::ProgId(id) if *id != 0 => Some(*id),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    interface
}

fn address(message: &AddressMessage) -> Option<(u32, IpPrefix)> {
    // On point-to-point interfaces `Address` is the peer's, `Local` ours.
    let find = |local: bool| {
        message.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Local(ip) if local => Some(*ip),
            AddressAttribute::Address(ip) if !local => Some(*ip),
            _ => None,
        })
    };
    let ip = find(true).or_else(|| find(false))?;
    Some((message.header.index, IpPrefix::new(ip, message.header.prefix_len)?))
}

/// (interface, address) → (state, MAC).
type NeighbourRow = ((u32, IpAddr), (NeighbourState, Option<Mac>));

fn neighbour(message: &NeighbourMessage) -> Option<NeighbourRow> {
    let mut destination = None;
    let mut mac = None;
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(ip)) => {
                destination = Some(IpAddr::V4(*ip));
            }
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(ip)) => {
                destination = Some(IpAddr::V6(*ip));
            }
            NeighbourAttribute::LinkLayerAddress(bytes) => {
                mac = bytes.as_slice().try_into().ok().map(Mac);
            }
            _ => {}
        }
    }
    Some(((message.header.ifindex, destination?), (message.header.state, mac)))
}

/// What the kernel answers about a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Route {
    ifindex: u32,
    via: IpAddr,
    own: Option<IpAddr>,
    mtu: Option<u32>,
}

fn read_route(message: &RouteMessage, destination: IpAddr) -> anyhow::Result<Route> {
    match message.header.kind {
        RouteType::Unicast => {}
        RouteType::Local => bail!("it is this host"),
        other => bail!("the route is of kind {other:?}"),
    }
    let mut ifindex = None;
    let mut via = destination;
    let (mut own, mut mtu) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Oif(index) => ifindex = Some(*index),
            RouteAttribute::Gateway(RouteAddress::Inet(ip)) => via = IpAddr::V4(*ip),
            RouteAttribute::Gateway(RouteAddress::Inet6(ip)) => via = IpAddr::V6(*ip),
            RouteAttribute::PrefSource(RouteAddress::Inet(ip)) => own = Some(IpAddr::V4(*ip)),
            RouteAttribute::PrefSource(RouteAddress::Inet6(ip)) => own = Some(IpAddr::V6(*ip)),
            RouteAttribute::Metrics(metrics) => {
                mtu = metrics.iter().find_map(|metric| match metric {
                    RouteMetric::Mtu(mtu) if *mtu > 0 => Some(*mtu),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    Ok(Route { ifindex: ifindex.context("the route names no interface")?, via, own, mtu })
}

fn way(
    route: &Route,
    snapshot: &Snapshot,
    neighbours: &BTreeMap<(u32, IpAddr), (NeighbourState, Option<Mac>)>,
) -> Way {
    let Route { ifindex, via, own, mtu } = *route;
    let name = snapshot.interfaces.get(&ifindex).map_or("?", |interface| &interface.name);
    let running = snapshot.interfaces.get(&ifindex).is_some_and(|interface| interface.running);
    let entry = neighbours.get(&(ifindex, via));
    let asks = if via.is_ipv4() { "ARP" } else { "ND" };
    let neighbour = match entry {
        _ if !running => Err(format!("interface {name} is down")),
        Some((NeighbourState::Failed, _)) => Err(format!("{via} does not answer {asks} on {name}")),
        Some((NeighbourState::Incomplete, _)) | None => {
            Err(format!("{via} on {name} is being asked for by {asks}"))
        }
        Some((_, Some(mac))) => Ok(*mac),
        Some((state, None)) => Err(format!("{via} on {name} has no MAC address ({state:?})")),
    };
    let confirmed = matches!(
        entry,
        Some((
            NeighbourState::Reachable
                | NeighbourState::Permanent
                | NeighbourState::Noarp
                | NeighbourState::Delay
                | NeighbourState::Probe,
            _
        ))
    );
    let asked = running && matches!(entry, None | Some((NeighbourState::Incomplete, _)));
    Way { ifindex, via, neighbour, own, mtu, stale: running && !confirmed, asked }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scene() -> Snapshot {
        let interface = Interface {
            name: "eth1".into(),
            mac: Mac([2, 0, 0, 0, 0, 1]),
            mtu: 1500,
            nic: true,
            running: true,
            xdp_program: None,
        };
        Snapshot { interfaces: [(3, interface)].into(), ..Snapshot::default() }
    }

    fn route(via: IpAddr) -> Route {
        Route { ifindex: 3, via, own: None, mtu: None }
    }

    #[test]
    fn neighbour_states_become_ways() {
        let ip: IpAddr = [198, 51, 100, 1].into();
        let mac = Some(Mac([4; 6]));
        // state, resolved, to be provoked, still open
        let rows = [
            (Some((NeighbourState::Reachable, mac)), true, false, false),
            (Some((NeighbourState::Stale, mac)), true, true, false),
            (Some((NeighbourState::Delay, mac)), true, false, false),
            (Some((NeighbourState::Probe, mac)), true, false, false),
            (Some((NeighbourState::Permanent, mac)), true, false, false),
            (Some((NeighbourState::Incomplete, None)), false, true, true),
            (Some((NeighbourState::Failed, None)), false, true, false),
            (Some((NeighbourState::Failed, mac)), false, true, false),
            (None, false, true, true),
        ];
        for (entry, resolved, stale, asked) in rows {
            let neighbours = entry.map(|entry| ((3, ip), entry)).into_iter().collect();
            let way = way(&route(ip), &scene(), &neighbours);
            let got = (way.neighbour.is_ok(), way.stale, way.asked);
            assert_eq!(got, (resolved, stale, asked), "{entry:?}");
        }
        let mut down = scene();
        down.interfaces.get_mut(&3).expect("eth1").running = false;
        let neighbours = [((3, ip), (NeighbourState::Reachable, mac))].into();
        let way = way(&route(ip), &down, &neighbours);
        assert_eq!(way.neighbour, Err("interface eth1 is down".into()));
        assert!(!way.stale && !way.asked);
    }

    #[test]
    fn routes_are_on_link_or_by_gateway() {
        let ip: IpAddr = [198, 51, 100, 1].into();
        let mut message = RouteMessage::default();
        message.header.kind = RouteType::Unicast;
        assert!(read_route(&message, ip).is_err());
        message.attributes.push(RouteAttribute::Oif(3));
        assert_eq!(read_route(&message, ip).expect("route"), route(ip));
        let gateway = Ipv4Addr::new(192, 0, 2, 254);
        message.attributes.push(RouteAttribute::Gateway(RouteAddress::Inet(gateway)));
        assert_eq!(read_route(&message, ip).expect("route"), route(gateway.into()));
        let own = Ipv4Addr::new(192, 0, 2, 7);
        message.attributes.push(RouteAttribute::PrefSource(RouteAddress::Inet(own)));
        message.attributes.push(RouteAttribute::Metrics(vec![RouteMetric::Mtu(1400)]));
        let full = Route { own: Some(own.into()), mtu: Some(1400), ..route(gateway.into()) };
        assert_eq!(read_route(&message, ip).expect("route"), full);
        message.header.kind = RouteType::Unreachable;
        assert!(read_route(&message, ip).is_err());
    }

    #[tokio::test]
    async fn loopback_is_seen_and_is_no_way() {
        let neigh = Neigh::open().expect("netlink");
        let own: IpAddr = Ipv4Addr::LOCALHOST.into();
        let snapshot = neigh.snapshot(&[own].into()).await.expect("readable");
        assert!(snapshot.interfaces.values().any(|interface| interface.name == "lo"));
        assert!(!matches!(snapshot.ways.get(&own), Some(Ok(_))));
    }
}
