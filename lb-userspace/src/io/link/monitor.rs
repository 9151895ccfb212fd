//! The rtnetlink thread: a cache of links and addresses, notifications, and requests.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use anyhow::{Context as _, anyhow};
use futures_util::{StreamExt as _, TryStreamExt as _};
use netlink_packet_core::NetlinkPayload;
use netlink_packet_route::{
    RouteNetlinkMessage,
    address::{AddressAttribute, AddressFlags, AddressMessage},
    link::{LinkAttribute, LinkFlags, LinkMessage},
};
use netlink_sys::AsyncSocket as _;
use rtnetlink::{Handle, MulticastGroup};
use tokio::sync::mpsc;

use super::{AddressInfo, Event, LinkInfo, Request, Vip, connections::Connections};
use crate::base::net::{IpPrefix, Mac};

/// A request that the kernel has not answered by then is told as failed.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// How often everything is read again, in case a notification was lost.
const RESYNC: Duration = Duration::from_secs(10);
/// Receive buffer for notifications; when it overflows, everything is read again.
const RECEIVE_BUFFER: usize = 1 << 20;

#[derive(Default)]
struct Cache {
    links: BTreeMap<u32, LinkInfo>,
    addresses: BTreeMap<(u32, IpPrefix), AddressInfo>,
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
        let old = self.addresses.insert((address.index, address.prefix), address);
        (old != Some(address)).then_some(Event::Address(address))
    }

    fn address_gone(&mut self, index: u32, prefix: IpPrefix) -> Option<Event> {
        self.addresses.remove(&(index, prefix)).map(Event::AddressGone)
    }

    fn index(&self, name: &str) -> Option<u32> {
        self.links.values().find(|link| link.name == name).map(|link| link.index)
    }

    /// Addresses that are on this host now and on no interface after the request. One that stays
    /// elsewhere (a real server by DR has the VIP on `lo`) keeps its connections.
    fn leaving(&self, request: &Request) -> BTreeSet<IpAddr> {
        let cleared: BTreeSet<(u32, IpPrefix)> = request
            .clear
            .iter()
            .filter_map(|vip| Some((self.index(&vip.interface)?, vip.prefix)))
            .collect();
        let stays = |addr: IpAddr| {
            request.set.iter().any(|vip| vip.prefix.addr == addr)
                || self.addresses.keys().any(|it| it.1.addr == addr && !cleared.contains(it))
        };
        let here = cleared.iter().filter(|it| self.addresses.contains_key(it));
        here.map(|(_, prefix)| prefix.addr).filter(|addr| !stays(*addr)).collect()
    }
}

/// Runs until the request queue is closed and empty.
pub(super) async fn run(
    mut requests: mpsc::Receiver<Request>,
    events: &mpsc::Sender<Event>,
) -> anyhow::Result<()> {
    let groups = [MulticastGroup::Link, MulticastGroup::Ipv4Ifaddr, MulticastGroup::Ipv6Ifaddr];
    let (mut connection, handle, mut messages) =
        rtnetlink::new_multicast_connection(&groups).context("rtnetlink socket")?;
    // A wish: the default works, it overflows earlier.
    let _ = connection.socket_mut().socket_mut().set_rx_buf_sz(RECEIVE_BUFFER);
    let connection = tokio::spawn(connection);
    let mut cache = Cache::default();
    let mut connections = Connections::default();
    resync(&handle, &mut cache, events).await?;
    send(events, Event::Ready).await?;
    let mut tick = tokio::time::interval(RESYNC);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    tick.reset();
    loop {
        tokio::select! {
            biased;
            message = messages.next() => match message {
                Some((message, _)) => notice(message.payload, &handle, &mut cache, events).await?,
                None => return Err(anyhow!("rtnetlink socket closed")),
            },
            request = requests.recv() => {
                let Some(request) = request else { break };
                let id = request.id;
                let aborted = connections.abort(&cache.leaving(&request));
                let (added, errors, changes) = perform(&handle, &mut cache, request).await;
                // What the request caused is told before its end.
                while let Ok((message, _)) = messages.try_recv() {
                    notice(message.payload, &handle, &mut cache, events).await?;
                }
                for change in changes {
                    send(events, change).await?;
                }
                send(events, Event::Done { id, added, aborted, errors }).await?;
            }
            _ = tick.tick() => resync(&handle, &mut cache, events).await?,
        }
    }
    connection.abort();
    Ok(())
}

async fn send(events: &mpsc::Sender<Event>, event: Event) -> anyhow::Result<()> {
    events.send(event).await.map_err(|_| anyhow!("nobody listens"))
}

async fn notice(
    payload: NetlinkPayload<RouteNetlinkMessage>,
    handle: &Handle,
    cache: &mut Cache,
    events: &mpsc::Sender<Event>,
) -> anyhow::Result<()> {
    let event = match payload {
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(message)) => {
            link_info(&message).and_then(|link| cache.link(link))
        }
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelLink(message)) => {
            cache.link_gone(message.header.index)
        }
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewAddress(message)) => {
            address_info(&message).and_then(|address| cache.address(address))
        }
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelAddress(message)) => {
            address_info(&message).and_then(|it| cache.address_gone(it.index, it.prefix))
        }
        NetlinkPayload::Overrun(_) => return resync(handle, cache, events).await,
        _ => None,
    };
    match event {
        Some(event) => send(events, event).await,
        None => Ok(()),
    }
}

/// Reads everything and tells the differences.
async fn resync(
    handle: &Handle,
    cache: &mut Cache,
    events: &mpsc::Sender<Event>,
) -> anyhow::Result<()> {
    let dump = async {
        let links: Vec<_> = handle.link().get().execute().try_collect().await?;
        let addresses: Vec<_> = handle.address().get().execute().try_collect().await?;
        Ok::<_, rtnetlink::Error>((links, addresses))
    };
    let (links, addresses) = match tokio::time::timeout(REQUEST_TIMEOUT, dump).await {
        Ok(result) => result.context("read links and addresses")?,
        // The next tick tries again.
        Err(_) => return Ok(()),
    };
    let links: Vec<_> = links.iter().filter_map(link_info).collect();
    let addresses: Vec<_> = addresses.iter().filter_map(address_info).collect();
    let seen_links: BTreeSet<_> = links.iter().map(|link| link.index).collect();
    let seen: BTreeSet<_> = addresses.iter().map(|it| (it.index, it.prefix)).collect();
    let gone_links: Vec<_> =
        cache.links.keys().copied().filter(|index| !seen_links.contains(index)).collect();
    let gone: Vec<_> = cache.addresses.keys().copied().filter(|it| !seen.contains(it)).collect();
    let mut changes: Vec<Event> = Vec::new();
    changes.extend(links.into_iter().filter_map(|link| cache.link(link)));
    changes.extend(addresses.into_iter().filter_map(|it| cache.address(it)));
    changes.extend(gone.into_iter().filter_map(|(index, it)| cache.address_gone(index, it)));
    changes.extend(gone_links.into_iter().filter_map(|index| cache.link_gone(index)));
    for event in changes {
        send(events, event).await?;
    }
    Ok(())
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
    // On point-to-point links the plain address is the peer's.
    let address = find(true).or_else(|| find(false))?;
    let prefix = IpPrefix::new(address, message.header.prefix_len)?;
    let has = |wanted: AddressFlags| {
        message.attributes.iter().any(|attribute| {
            matches!(attribute, AddressAttribute::Flags(flags) if flags.intersects(wanted))
        })
    };
    // The same bit means secondary in IPv4 and temporary (RFC 8981) in IPv6, which suits.
    let secondary = has(AddressFlags::Secondary);
    let tentative = has(AddressFlags::Tentative | AddressFlags::Dadfailed);
    Some(AddressInfo { index: message.header.index, prefix, secondary, tentative })
}

/// Addresses that were added, errors, and what changed: the kernel's notification of a change
/// carries the request's sequence number, so the library takes it for an answer to the request
/// and tells nobody.
async fn perform(
    handle: &Handle,
    cache: &mut Cache,
    request: Request,
) -> (u32, Vec<String>, Vec<Event>) {
    let (mut added, mut errors, mut changes) = (0, Vec::new(), Vec::new());
    for (vip, on) in request
        .clear
        .iter()
        .map(|vip| (vip, false))
        .chain(request.set.iter().map(|vip| (vip, true)))
    {
        let Some(index) = cache.index(&vip.interface) else {
            // Nothing can be left on an interface that is gone.
            if on {
                errors.push(format!("add {}: no interface {}", vip.prefix, vip.interface));
            }
            continue;
        };
        let change = async {
            if on { add(handle, index, vip).await } else { remove(handle, index, vip).await }
        };
        let what = if on { "add" } else { "remove" };
        match tokio::time::timeout(REQUEST_TIMEOUT, change).await {
            Ok(Ok(changed)) if on => {
                added += u32::from(changed);
                let prefix = vip.prefix;
                let known = cache.addresses.contains_key(&(index, prefix));
                if changed || !known {
                    // Whether it is secondary the next resync tells.
                    changes.extend(cache.address(AddressInfo {
                        index,
                        prefix,
                        secondary: false,
                        tentative: false,
                    }));
                }
            }
            Ok(Ok(_)) => changes.extend(cache.address_gone(index, vip.prefix)),
            Ok(Err(error)) => {
                errors.push(format!("{what} {} on {}: {error}", vip.prefix, vip.interface));
            }
            Err(_) => errors.push(format!(
                "{what} {} on {}: no answer from the kernel for {REQUEST_TIMEOUT:?}",
                vip.prefix, vip.interface
            )),
        }
    }
    (added, errors, changes)
}

/// Whether the address was not there before.
async fn add(handle: &Handle, index: u32, vip: &Vip) -> Result<bool, rtnetlink::Error> {
    let mut request = handle.address().add(index, vip.prefix.addr, vip.prefix.len);
    let message = request.message_mut();
    message.header.scope = vip.scope.into();
    // The library sets the subnet's broadcast address; a VIP has one only when configured.
    message.attributes.retain(|attribute| !matches!(attribute, AddressAttribute::Broadcast(_)));
    if let Some(broadcast) = vip.broadcast {
        message.attributes.push(AddressAttribute::Broadcast(broadcast));
    }
    if let (Some(label), IpAddr::V4(_)) = (&vip.label, vip.prefix.addr) {
        message.attributes.push(AddressAttribute::Label(label.clone()));
    }
    match request.execute().await {
        Ok(()) => Ok(true),
        Err(error) if errno(&error) == Some(libc::EEXIST) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether the address was there.
async fn remove(handle: &Handle, index: u32, vip: &Vip) -> Result<bool, rtnetlink::Error> {
    let mut message = AddressMessage::default();
    message.header.family = match vip.prefix.addr {
        IpAddr::V4(_) => netlink_packet_route::AddressFamily::Inet,
        IpAddr::V6(_) => netlink_packet_route::AddressFamily::Inet6,
    };
    message.header.index = index;
    message.header.prefix_len = vip.prefix.len;
    message.attributes.push(AddressAttribute::Local(vip.prefix.addr));
    match handle.address().del(message).execute().await {
        Ok(()) => Ok(true),
        Err(error) if matches!(errno(&error), Some(libc::EADDRNOTAVAIL | libc::ENODEV)) => {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

fn errno(error: &rtnetlink::Error) -> Option<i32> {
    match error {
        rtnetlink::Error::NetlinkError(message) => message.code.map(|code| -code.get()),
        _ => None,
    }
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
            cache.address(AddressInfo { index, prefix, secondary: false, tentative: false });
        }
        let leaving = |clear: &[IpPrefix], set: &[IpPrefix]| {
            let on_eth0 =
                |all: &[IpPrefix]| all.iter().map(|prefix| vip("eth0", *prefix)).collect();
            cache.leaving(&Request { id: 1, set: on_eth0(set), clear: on_eth0(clear) })
        };
        let own = |last: u8| BTreeSet::from([IpAddr::from([10, 77, 0, last])]);
        assert_eq!(leaving(&[prefix(100, 24)], &[]), own(100));
        assert!(leaving(&[prefix(101, 24)], &[]).is_empty(), "it stays on lo");
        assert!(leaving(&[prefix(102, 24)], &[]).is_empty(), "it is not here");
        assert!(leaving(&[prefix(100, 32)], &[]).is_empty(), "that prefix is not here");
        assert!(leaving(&[prefix(100, 24)], &[prefix(100, 32)]).is_empty(), "another prefix");
        assert_eq!(leaving(&[prefix(100, 24)], &[prefix(103, 24)]), own(100));
        let gone = Request { id: 1, set: vec![], clear: vec![vip("eth9", prefix(100, 24))] };
        assert!(cache.leaving(&gone).is_empty(), "no such interface");
    }
}
