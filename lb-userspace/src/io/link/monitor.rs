//! The rtnetlink thread: a cache of links and addresses, notifications, and requests.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::IpAddr,
    path::PathBuf,
};

use anyhow::{Context as _, anyhow};
use netlink_packet_core::NetlinkPayload;
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage as Rtnl,
    address::{AddressAttribute, AddressFlags, AddressMessage},
    link::{LinkAttribute, LinkFlags, LinkMessage},
    route::{RouteAddress, RouteAttribute, RouteMessage},
    rule::{RuleAttribute, RuleMessage},
};
use netlink_sys::{
    AsyncSocket as _, AsyncSocketExt as _, SocketAddr, TokioSocket, protocols::NETLINK_ROUTE,
};
use tokio::{sync::mpsc, time};

use super::{
    AddressInfo, Assigned, Declaration, Event, Gone, LinkInfo, Object, Order, Request, Vip,
    connections::Connections,
    journal::Journal,
    make::Maker,
    socket::{RequestSocket, each},
};
use crate::{
    base::net::{IpPrefix, Mac},
    config::model::PROTOCOL,
};

/// How often everything is read again, in case a notification was lost.
const RESYNC: time::Duration = time::Duration::from_secs(10);
/// Receive buffer for notifications; when it overflows, everything is read again.
const RECEIVE_BUFFER: usize = 4 << 20;
/// Of one datagram of notifications.
const DATAGRAM: usize = 1 << 16;
/// rtnetlink's multicast groups: links, addresses, rules; and routes, which a host with a full
/// table has too many of to listen without need.
const GROUPS: [u32; 5] = [
    libc::RTNLGRP_LINK,
    libc::RTNLGRP_IPV4_IFADDR,
    libc::RTNLGRP_IPV6_IFADDR,
    libc::RTNLGRP_IPV4_RULE,
    libc::RTNLGRP_IPV6_RULE,
];
const ROUTE_GROUPS: [u32; 2] = [libc::RTNLGRP_IPV4_ROUTE, libc::RTNLGRP_IPV6_ROUTE];

#[derive(Default)]
struct Cache {
    links: BTreeMap<u32, LinkInfo>,
    addresses: BTreeMap<(u32, Assigned), AddressInfo>,
}

impl Cache {
    fn link(&mut self, link: LinkInfo) -> Option<Event> {
        let old = self.links.insert(link.index, link.clone());
        (old.as_ref() != Some(&link)).then_some(Event::Link(link))
    }

    fn link_gone(&mut self, index: u32) -> Option<Event> {
        self.links.remove(&index).map(Event::LinkGone)
    }

    fn address(&mut self, address: AddressInfo) -> Option<Event> {
        let old = self.addresses.insert((address.index, address.assigned), address);
        (old != Some(address)).then_some(Event::Address(address))
    }

    fn address_gone(&mut self, index: u32, assigned: Assigned) -> Option<Event> {
        self.addresses.remove(&(index, assigned)).map(Event::AddressGone)
    }

    fn index(&self, name: &str) -> Option<u32> {
        self.links.values().find(|link| link.name == name).map(|link| link.index)
    }

    /// Addresses that are on this host now and on no interface after the request. One that stays
    /// elsewhere (a real server by DR has the VIP on `lo`) keeps its connections.
    fn leaving(&self, request: &Request) -> BTreeSet<IpAddr> {
        let vips = |objects: &[Object]| -> Vec<Vip> {
            let vip = |object: &Object| match object {
                Object::Address(vip) => Some(vip.clone()),
                _ => None,
            };
            objects.iter().filter_map(vip).collect()
        };
        let cleared: BTreeSet<(u32, Assigned)> = vips(&request.clear)
            .iter()
            .filter_map(|vip| Some((self.index(&vip.interface)?, vip.assigned())))
            .collect();
        if cleared.is_empty() {
            return BTreeSet::new();
        }
        let set: BTreeSet<IpAddr> = vips(&request.set).iter().map(|vip| vip.prefix.addr).collect();
        let elsewhere: BTreeSet<IpAddr> = self
            .addresses
            .keys()
            .filter(|it| !cleared.contains(it))
            .map(|(_, assigned)| assigned.prefix.addr)
            .collect();
        let stays = |addr: IpAddr| set.contains(&addr) || elsewhere.contains(&addr);
        let here = cleared.iter().filter(|it| self.addresses.contains_key(it));
        here.map(|(_, it)| it.prefix.addr).filter(|addr| !stays(*addr)).collect()
    }

    /// Puts what was read in the place of everything known; what is different.
    fn replace(&mut self, links: &[Rtnl], addresses: &[Rtnl]) -> Vec<Event> {
        let links: Vec<_> = links
            .iter()
            .filter_map(|it| if let Rtnl::NewLink(link) = it { link_info(link) } else { None })
            .collect();
        let addresses: Vec<_> = addresses
            .iter()
            .filter_map(|it| if let Rtnl::NewAddress(it) = it { address_info(it) } else { None })
            .collect();
        let seen_links: BTreeSet<_> = links.iter().map(|link| link.index).collect();
        let seen: BTreeSet<_> = addresses.iter().map(|it| (it.index, it.assigned)).collect();
        let gone_links: Vec<_> =
            self.links.keys().copied().filter(|index| !seen_links.contains(index)).collect();
        let gone: Vec<_> = self.addresses.keys().copied().filter(|it| !seen.contains(it)).collect();
        let mut changes: Vec<Event> = Vec::new();
        changes.extend(links.into_iter().filter_map(|link| self.link(link)));
        changes.extend(addresses.into_iter().filter_map(|it| self.address(it)));
        changes.extend(gone.into_iter().filter_map(|(index, it)| self.address_gone(index, it)));
        changes.extend(gone_links.into_iter().filter_map(|index| self.link_gone(index)));
        changes
    }
}

/// The thread's state.
struct Monitor<'a> {
    notices: TokioSocket,
    maker: Maker,
    connections: Connections,
    cache: Cache,
    events: &'a mpsc::Sender<Event>,
    routes_watched: bool,
    /// Times that the kernel had to drop notifications.
    overruns: u64,
}

/// Runs until the queue of orders is closed and empty.
pub(super) async fn run(
    mut orders: mpsc::Receiver<Order>,
    events: &mpsc::Sender<Event>,
    journal: Option<PathBuf>,
) -> anyhow::Result<()> {
    let notices = listen().context("rtnetlink socket")?;
    let socket = RequestSocket::open().context("rtnetlink socket for requests")?;
    let mut monitor = Monitor {
        notices,
        maker: Maker::new(socket, Journal::new(journal)),
        connections: Connections::default(),
        cache: Cache::default(),
        events,
        routes_watched: false,
        overruns: 0,
    };
    monitor.resync().await?;
    monitor.send(Event::Ready).await?;
    let mut tick = time::interval(RESYNC);
    tick.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
    tick.reset();
    let mut buffer = Vec::with_capacity(DATAGRAM);
    loop {
        buffer.clear();
        tokio::select! {
            biased;
            received = monitor.notices.recv(&mut buffer) => {
                monitor.received(received, &buffer).await?;
                monitor.drain().await?;
            }
            order = orders.recv() => match order {
                Some(Order::Change(request)) => monitor.perform(request).await?,
                Some(Order::Declare(declaration)) => monitor.declare(declaration).await?,
                None => return Ok(()),
            },
            _ = tick.tick() => monitor.resync().await?,
        }
    }
}

fn listen() -> io::Result<TokioSocket> {
    let mut tokio = TokioSocket::new(NETLINK_ROUTE)?;
    let socket = tokio.socket_mut();
    // A wish: the default works, it overflows earlier.
    let _ = socket.set_rx_buf_sz(RECEIVE_BUFFER);
    socket.bind(&SocketAddr::new(0, 0))?;
    for group in GROUPS {
        socket.add_membership(group)?;
    }
    Ok(tokio)
}

impl Monitor<'_> {
    async fn send(&self, event: Event) -> anyhow::Result<()> {
        self.events.send(event).await.map_err(|_| anyhow!("nobody listens"))
    }

    async fn declare(&mut self, declaration: Declaration) -> anyhow::Result<()> {
        let (id, cache) = (declaration.id, &self.cache);
        let clear = self.maker.declare(declaration, &|name| cache.index(name));
        for object in &clear {
            tracing::info!(%object, "left by a predecessor that was killed: removed");
        }
        self.perform(Request { id, set: vec![], clear }).await
    }

    async fn perform(&mut self, request: Request) -> anyhow::Result<()> {
        let aborted = self.connections.abort(&self.cache.leaving(&request));
        let Request { id, set, clear } = request;
        if !self.routes_watched && set.iter().any(|it| matches!(it, Object::Route(_))) {
            self.routes_watched = true;
            for group in ROUTE_GROUPS {
                // Without it a deleted route is not noticed, and nothing else is lost.
                let _ = self.notices.socket_ref().add_membership(group);
            }
        }
        let cache = &self.cache;
        let outcome = self.maker.change(&clear, &set, &|name| cache.index(name));
        // What the request caused is told before its end.
        self.drain().await?;
        let (added, errors) = (outcome.added, outcome.errors);
        self.send(Event::Done { id, added, aborted, errors }).await
    }

    /// Reads every notification that waits.
    async fn drain(&mut self) -> anyhow::Result<()> {
        let mut buffer = Vec::with_capacity(DATAGRAM);
        loop {
            buffer.clear();
            match self.notices.socket_ref().recv(&mut buffer, libc::MSG_DONTWAIT) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                received => self.received(received.map(drop), &buffer).await?,
            }
        }
    }

    async fn received(&mut self, received: io::Result<()>, bytes: &[u8]) -> anyhow::Result<()> {
        match received {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(()),
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                self.overruns += 1;
                let count = self.overruns;
                tracing::warn!(count, "rtnetlink notifications were lost: all is read again");
                return self.resync().await;
            }
            Err(error) => return Err(error).context("rtnetlink socket"),
        }
        let (own, cache) = (self.maker.socket.port(), &mut self.cache);
        let mut changes = Vec::new();
        let mut lost = false;
        each(bytes, |header, payload| {
            if let NetlinkPayload::InnerMessage(message) = payload {
                let own = header.port_number == own;
                lost |= !own && is_ipv6_address_gone(&message);
                changes.extend(notice(message, own, cache));
            }
        });
        if lost {
            self.links_first().await?;
        }
        for event in changes {
            self.send(event).await?;
        }
        Ok(())
    }

    /// A link that goes down loses its IPv6 addresses, and the kernel tells of them before it tells
    /// of the link: the cause is told first.
    async fn links_first(&mut self) -> anyhow::Result<()> {
        // Unread, they are told in the kernel's order.
        let links = self.maker.socket.dump(Rtnl::GetLink(LinkMessage::default()));
        let mut changes = Vec::new();
        for message in links.unwrap_or_default() {
            if let Rtnl::NewLink(message) = message {
                changes.extend(link_info(&message).and_then(|link| self.cache.link(link)));
            }
        }
        for event in changes {
            self.send(event).await?;
        }
        Ok(())
    }

    /// Reads everything and tells the differences.
    async fn resync(&mut self) -> anyhow::Result<()> {
        let socket = &mut self.maker.socket;
        let dumps =
            [Rtnl::GetLink(LinkMessage::default()), Rtnl::GetAddress(AddressMessage::default())]
                .map(|request| socket.dump(request));
        let [links, addresses] = match dumps {
            [Ok(links), Ok(addresses)] => [links, addresses],
            [Err(error), _] | [_, Err(error)] => {
                // The next tick tries again.
                tracing::warn!(%error, "links and addresses could not be read");
                return Ok(());
            }
        };
        let changes = self.cache.replace(&links, &addresses);
        for event in changes {
            self.send(event).await?;
        }
        Ok(())
    }
}

fn notice(message: Rtnl, own: bool, cache: &mut Cache) -> Option<Event> {
    match message {
        Rtnl::NewLink(message) => link_info(&message).and_then(|link| cache.link(link)),
        Rtnl::DelLink(message) if !is_bridge_port(&message) => {
            cache.link_gone(message.header.index)
        }
        Rtnl::NewAddress(message) => address_info(&message).and_then(|it| cache.address(it)),
        Rtnl::DelAddress(message) => {
            address_info(&message).and_then(|it| cache.address_gone(it.index, it.assigned))
        }
        Rtnl::DelRoute(message) if !own => route_gone(&message).map(Event::ObjectGone),
        Rtnl::DelRule(message) if !own => Some(Event::ObjectGone(rule_gone(&message))),
        _ => None,
    }
}

fn is_ipv6_address_gone(message: &Rtnl) -> bool {
    matches!(message, Rtnl::DelAddress(it) if it.header.family == AddressFamily::Inet6)
}

/// A port that leaves a bridge is told as a deleted link of the family of bridges.
fn is_bridge_port(message: &LinkMessage) -> bool {
    message.header.interface_family == AddressFamily::Bridge
}

/// Only of our protocol number.
fn route_gone(message: &RouteMessage) -> Option<Gone> {
    let header = &message.header;
    if u8::from(header.protocol) != PROTOCOL {
        return None;
    }
    let mut to = match header.address_family {
        AddressFamily::Inet => IpPrefix::new([0, 0, 0, 0].into(), 0)?,
        AddressFamily::Inet6 => IpPrefix::new(std::net::Ipv6Addr::UNSPECIFIED.into(), 0)?,
        _ => return None,
    };
    let (mut table, mut metric) = (u32::from(header.table), 0);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => {
                let address = match address {
                    RouteAddress::Inet(address) => (*address).into(),
                    RouteAddress::Inet6(address) => (*address).into(),
                    _ => return None,
                };
                to = IpPrefix::new(address, header.destination_prefix_length)?;
            }
            RouteAttribute::Table(number) => table = *number,
            RouteAttribute::Priority(number) => metric = *number,
            _ => {}
        }
    }
    Some(Gone::Route { table, to, metric, tos: header.tos })
}

fn rule_gone(message: &RuleMessage) -> Gone {
    let header = &message.header;
    let v6 = header.family == AddressFamily::Inet6;
    let (mut priority, mut from, mut to) = (0, None, None);
    let mut table = u32::from(header.table);
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::Source(address) => from = IpPrefix::new(*address, header.src_len),
            RuleAttribute::Destination(address) => to = IpPrefix::new(*address, header.dst_len),
            RuleAttribute::Priority(number) => priority = *number,
            RuleAttribute::Table(number) => table = *number,
            _ => {}
        }
    }
    Gone::Rule { v6, priority, from, to, table }
}

fn link_info(message: &LinkMessage) -> Option<LinkInfo> {
    let name = message.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name.clone()),
        _ => None,
    })?;
    let mac = message.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Address(bytes) => <[u8; 6]>::try_from(bytes.as_slice()).ok().map(Mac),
        _ => None,
    });
    // RUNNING is admin up and operational state up or unknown, which is keepalived's test.
    let up = message.header.flags.contains(LinkFlags::Up | LinkFlags::Running);
    let mtu = message.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Mtu(mtu) => Some(*mtu),
        _ => None,
    });
    let mtu = mtu.unwrap_or(u32::MAX);
    Some(LinkInfo { name, index: message.header.index, up, mac, mtu })
}

fn address_info(message: &AddressMessage) -> Option<AddressInfo> {
    let find = |local: bool| {
        message.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Local(address) if local => Some(*address),
            AddressAttribute::Address(address) if !local => Some(*address),
            _ => None,
        })
    };
    // With a peer, as on point-to-point links, the plain address is the peer's.
    let address = find(true).or_else(|| find(false))?;
    let prefix = IpPrefix::new(address, message.header.prefix_len)?;
    let assigned = Assigned { prefix, peer: find(false).filter(|it| *it != address) };
    let has = |wanted: AddressFlags| {
        message.attributes.iter().any(|attribute| {
            matches!(attribute, AddressAttribute::Flags(flags) if flags.intersects(wanted))
        })
    };
    // The same bit means secondary in IPv4 and temporary (RFC 8981) in IPv6, which suits.
    let secondary = has(AddressFlags::Secondary);
    let tentative = has(AddressFlags::Tentative | AddressFlags::Dadfailed);
    let asking = tentative && !has(AddressFlags::Dadfailed);
    Some(AddressInfo { index: message.header.index, assigned, secondary, tentative, asking })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::model::AddressOptions;

    fn prefix(last: u8, len: u8) -> IpPrefix {
        IpPrefix::new([10, 77, 0, last].into(), len).expect("prefix")
    }

    fn vip(interface: &str, prefix: IpPrefix) -> Vip {
        Vip {
            interface: interface.into(),
            prefix,
            label: None,
            broadcast: None,
            scope: 0,
            options: AddressOptions::default(),
        }
    }

    #[test]
    fn an_address_leaves_when_no_interface_has_it_afterwards() {
        let mut cache = Cache::default();
        for (index, name) in [(1, "lo"), (2, "eth0")] {
            cache.link(LinkInfo { name: name.into(), index, up: true, mtu: 1500, mac: None });
        }
        for (index, prefix) in
            [(2, prefix(1, 24)), (2, prefix(100, 24)), (2, prefix(101, 24)), (1, prefix(101, 32))]
        {
            let (secondary, tentative, asking) = (false, false, false);
            let assigned = Assigned { prefix, peer: None };
            cache.address(AddressInfo { index, assigned, secondary, tentative, asking });
        }
        let leaving = |clear: &[IpPrefix], set: &[IpPrefix]| {
            let on_eth0 = |all: &[IpPrefix]| {
                all.iter().map(|prefix| Object::Address(vip("eth0", *prefix))).collect()
            };
            cache.leaving(&Request { id: 1, set: on_eth0(set), clear: on_eth0(clear) })
        };
        let own = |last: u8| BTreeSet::from([IpAddr::from([10, 77, 0, last])]);
        assert_eq!(leaving(&[prefix(100, 24)], &[]), own(100));
        assert!(leaving(&[prefix(101, 24)], &[]).is_empty(), "it stays on lo");
        assert!(leaving(&[prefix(102, 24)], &[]).is_empty(), "it is not here");
        assert!(leaving(&[prefix(100, 32)], &[]).is_empty(), "that prefix is not here");
        assert!(leaving(&[prefix(100, 24)], &[prefix(100, 32)]).is_empty(), "another prefix");
        assert_eq!(leaving(&[prefix(100, 24)], &[prefix(103, 24)]), own(100));
        let gone = Request {
            id: 1,
            set: vec![],
            clear: vec![Object::Address(vip("eth9", prefix(100, 24)))],
        };
        assert!(cache.leaving(&gone).is_empty(), "no such interface");
    }

    #[test]
    fn an_address_with_a_peer_is_another_one_than_without() {
        let own: IpAddr = [10, 77, 0, 102].into();
        let peer: IpPrefix = "10.77.9.1/25".parse().expect("prefix");
        let options = AddressOptions { peer: Some(peer), ..AddressOptions::default() };
        let vip = Vip { options, ..vip("eth0", prefix(102, 32)) };
        // What is asked for, told as the kernel tells it.
        let (Rtnl::NewAddress(message), _) = super::super::encode::address(&vip, 2, true) else {
            panic!("no address");
        };
        let told = address_info(&message).expect("an address").assigned;
        assert_eq!(told, vip.assigned());
        assert_eq!(told.to_string(), "10.77.0.102 peer 10.77.9.1/25");
        let plain = Assigned { prefix: IpPrefix::new(own, 25).expect("prefix"), peer: None };
        assert_ne!(told, plain);
        let mut cache = Cache::default();
        let (secondary, tentative, asking) = (false, false, false);
        for assigned in [told, plain] {
            cache.address(AddressInfo { index: 2, assigned, secondary, tentative, asking });
        }
        assert!(cache.address_gone(2, told).is_some());
        assert!(cache.addresses.contains_key(&(2, plain)), "the other one stays");
    }
}
