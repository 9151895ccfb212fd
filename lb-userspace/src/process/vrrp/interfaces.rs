//! Interfaces of this host as the vrrp role needs them: state, source address, sockets.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
};

use tokio::io::unix::AsyncFd;

use super::sys;

use crate::{
    base::net::{IpPrefix, Mac},
    io::{
        link::{AddressInfo, ArpSocket, Event, FrameSocket, LinkInfo},
        vrrp::{Channel, VrrpSocket},
    },
    vrrp::arp,
};

/// Datagrams read from one socket before timers get their turn again.
const READ_BUDGET: usize = 512;
/// ARP packets read from one socket in one turn; claims of VIPs are told, not counted on.
const ARP_BUDGET: usize = 64;

#[derive(Default)]
pub(super) struct Interface {
    pub link: Option<LinkInfo>,
    /// With the order of their appearance, which is the kernel's.
    addresses: BTreeMap<IpPrefix, (u64, AddressInfo)>,
    seen: u64,
    sockets: BTreeMap<Channel, (u32, AsyncFd<VrrpSocket>)>,
    arp: Option<(u32, AsyncFd<ArpSocket>)>,
    frames: Option<(u32, FrameSocket)>,
    /// Whose ARP packets the ARP socket receives.
    watched: BTreeSet<Ipv4Addr>,
}

impl Interface {
    pub fn up(&self) -> bool {
        self.link.as_ref().is_some_and(|link| link.up)
    }

    /// Where adverts of a family come from: the first primary IPv4 address, or the link-local IPv6
    /// address (`global`: a global one, for peers behind a router), that is not one of `vips`.
    pub fn source(&self, vips: &BTreeSet<IpAddr>, ipv6: bool, global: bool) -> Option<IpAddr> {
        let mut candidates: Vec<(u64, IpAddr)> = self
            .addresses
            .values()
            .filter(|(_, it)| !it.secondary && !it.tentative && it.prefix.addr.is_ipv6() == ipv6)
            .map(|(order, it)| (*order, it.prefix.addr))
            .filter(|(_, address)| !vips.contains(address))
            .collect();
        candidates.sort_unstable();
        let candidates: Vec<IpAddr> = candidates.into_iter().map(|(_, address)| address).collect();
        let link_local = |it: &IpAddr| matches!(it, IpAddr::V6(it) if it.is_unicast_link_local());
        let mut fits = candidates.iter().filter(|it| !ipv6 || link_local(it) != global);
        let first = fits.next().copied();
        first.or_else(|| candidates.first().copied().filter(|_| global))
    }

    pub fn has(&self, prefix: IpPrefix) -> bool {
        self.addresses.contains_key(&prefix)
    }

    fn mac(&self) -> Option<(u32, Mac)> {
        self.link.as_ref().and_then(|link| Some((link.index, link.mac?)))
    }
}

/// Every interface by name.
#[derive(Default)]
pub(super) struct Interfaces {
    by_name: BTreeMap<String, Interface>,
}

impl Interfaces {
    pub fn get(&self, name: &str) -> Option<&Interface> {
        self.by_name.get(name).filter(|it| it.link.is_some())
    }

    /// The name under which an interface is known.
    pub fn name_of(&self, index: u32) -> Option<String> {
        let is = |it: &Interface| it.link.as_ref().is_some_and(|link| link.index == index);
        self.by_name.iter().find(|(_, it)| is(it)).map(|(name, _)| name.clone())
    }

    /// Takes a notification; returns the name of the interface that it is about.
    pub fn notice(&mut self, event: &Event) -> Option<String> {
        match event {
            Event::Link(link) => {
                // A rename leaves the old name without a link.
                for (name, other) in &mut self.by_name {
                    if *name != link.name
                        && other.link.as_ref().is_some_and(|it| it.index == link.index)
                    {
                        other.link = None;
                    }
                }
                self.by_name.entry(link.name.clone()).or_default().link = Some(link.clone());
                Some(link.name.clone())
            }
            Event::LinkGone(link) => {
                self.by_name.remove(&link.name);
                Some(link.name.clone())
            }
            Event::Address(address) => {
                let (name, interface) = self.by_index(address.index)?;
                interface.seen += 1;
                let order = interface.seen;
                let known = interface.addresses.entry(address.prefix).or_insert((order, *address));
                known.1 = *address;
                Some(name)
            }
            Event::AddressGone(address) => {
                let (name, interface) = self.by_index(address.index)?;
                interface.addresses.remove(&address.prefix);
                Some(name)
            }
            Event::Ready | Event::Done { .. } | Event::ObjectGone(_) | Event::Failed(_) => None,
        }
    }

    fn by_index(&mut self, index: u32) -> Option<(String, &mut Interface)> {
        self.by_name
            .iter_mut()
            .find(|(_, it)| it.link.as_ref().is_some_and(|link| link.index == index))
            .map(|(name, it)| (name.clone(), it))
    }

    /// Opens the advert sockets of an interface, again when the interface was made anew, and joins
    /// a multicast group on them.
    ///
    /// # Errors
    /// For the log.
    pub fn open(
        &mut self,
        name: &str,
        channels: &[Channel],
        group: Option<IpAddr>,
    ) -> Result<(), String> {
        let interface = self.by_name.get_mut(name).ok_or("no such interface")?;
        let index = interface.link.as_ref().ok_or("no such interface")?.index;
        for channel in channels {
            if interface.sockets.get(channel).is_none_or(|(open, _)| *open != index) {
                let socket = VrrpSocket::open(name, index, *channel);
                let socket = socket.and_then(sys::advert_socket);
                let socket = socket.map_err(|error| error.to_string())?;
                interface.sockets.insert(*channel, (index, socket));
            }
            if let (Some((_, socket)), Some(group)) = (interface.sockets.get(channel), group) {
                socket.get_ref().join(group).map_err(|error| error.to_string())?;
            }
        }
        Ok(())
    }

    /// Closes the sockets that no instance uses.
    pub fn close_unless(&mut self, used: impl Fn(&str, Channel) -> bool) {
        for (name, interface) in &mut self.by_name {
            interface.sockets.retain(|channel, _| used(name, *channel));
        }
    }

    /// Sends a datagram.
    ///
    /// # Errors
    /// For the log.
    pub fn send(
        &self,
        name: &str,
        channel: Channel,
        datagram: &[u8],
        to: IpAddr,
    ) -> Result<(), String> {
        let (_, socket) = self
            .get(name)
            .and_then(|interface| interface.sockets.get(&channel))
            .ok_or_else(|| format!("interface {name} has no socket"))?;
        socket.get_ref().send(datagram, to).map_err(|error| format!("to {to}: {error}"))
    }

    /// Sends a frame that `make` builds from the interface's MAC.
    ///
    /// # Errors
    /// For the log.
    pub fn send_frame(
        &mut self,
        name: &str,
        make: impl FnOnce(Mac) -> Vec<u8>,
    ) -> Result<(), String> {
        let interface = self.by_name.get_mut(name).ok_or("no such interface")?;
        let (index, mac) = interface.mac().ok_or("the interface has no Ethernet address")?;
        let socket = match &interface.frames {
            Some((open, socket)) if *open == index => socket,
            _ => {
                let socket = FrameSocket::open(name).map_err(|error| error.to_string())?;
                &interface.frames.insert((index, socket)).1
            }
        };
        socket.send(&make(mac)).map_err(|error| error.to_string())
    }

    /// Sends an advert to the group with the interface's own MAC, which is a virtual router's.
    ///
    /// # Errors
    /// For the log.
    pub fn send_advert_frame(
        &mut self,
        name: &str,
        datagram: &[u8],
        group: IpAddr,
    ) -> Result<(), String> {
        self.send_frame(name, |mac| {
            let (destination, ethertype) = match group {
                IpAddr::V4(group) => {
                    let [_, b, c, d] = group.octets();
                    ([1, 0, 0x5e, b & 0x7f, c, d], [0x08, 0x00])
                }
                IpAddr::V6(group) => {
                    let [.., a, b, c, d] = group.octets();
                    ([0x33, 0x33, a, b, c, d], [0x86, 0xdd])
                }
            };
            [&destination[..], &mac.0, &ethertype, datagram].concat()
        })
        .map_err(|error| format!("by {name}: {error}"))
    }

    /// Whether an address is on any interface.
    pub fn has_address(&self, address: IpAddr) -> bool {
        self.by_name.values().any(|it| it.addresses.keys().any(|it| it.addr == address))
    }

    /// Opens the ARP socket of an interface, again when the interface was made anew, and receives
    /// what is said of these addresses.
    ///
    /// # Errors
    /// For the log.
    pub fn watch(&mut self, name: &str, addresses: BTreeSet<Ipv4Addr>) -> Result<(), String> {
        let interface = self.by_name.get_mut(name).ok_or("no such interface")?;
        let index = interface.link.as_ref().ok_or("no such interface")?.index;
        if interface.arp.as_ref().is_none_or(|(open, _)| *open != index) {
            let socket = ArpSocket::open(name).map_err(|error| error.to_string())?;
            let socket = sys::arp_socket(socket).map_err(|error| error.to_string())?;
            interface.arp = Some((index, socket));
            interface.watched.clear();
        }
        if interface.watched != addresses
            && let Some((_, socket)) = &interface.arp
        {
            let senders: Vec<Ipv4Addr> = addresses.iter().copied().collect();
            socket.get_ref().watch(&senders).map_err(|error| error.to_string())?;
            interface.watched = addresses;
        }
        Ok(())
    }

    /// Closes the ARP sockets of interfaces that hold no VIP.
    pub fn unwatch_unless(&mut self, used: impl Fn(&str) -> bool) {
        for (name, interface) in &mut self.by_name {
            if !used(name) {
                interface.arp = None;
            }
        }
    }

    /// What hosts other than this one said they have: interface, MAC, address.
    pub fn claims(&self) -> Vec<(String, Mac, Ipv4Addr)> {
        let own: BTreeSet<Mac> =
            self.by_name.values().filter_map(|it| it.link.as_ref()?.mac).collect();
        let mut claims = Vec::new();
        let mut buffer = [0u8; 64];
        for (name, interface) in &self.by_name {
            let Some((_, socket)) = &interface.arp else { continue };
            for _ in 0..ARP_BUDGET {
                match socket.get_ref().receive(&mut buffer) {
                    Ok(Some(len)) => {
                        let claim = arp::claim(buffer.get(..len).unwrap_or_default());
                        claims.extend(
                            claim
                                .filter(|(mac, _)| !own.contains(mac))
                                .map(|(mac, address)| (name.clone(), mac, address)),
                        );
                    }
                    Ok(None) => break,
                    Err(error) => tracing::debug!(interface = name, %error, "receive ARP"),
                }
            }
        }
        claims
    }

    /// Waits until a socket has something; readiness is cleared, so everything must be read then.
    pub async fn readable(&self) {
        std::future::poll_fn(|cx| {
            let mut ready = false;
            for (_, socket) in self.by_name.values().flat_map(|it| it.sockets.values()) {
                while let std::task::Poll::Ready(Ok(mut guard)) = socket.poll_read_ready(cx) {
                    guard.clear_ready();
                    ready = true;
                }
            }
            for (_, socket) in self.by_name.values().filter_map(|it| it.arp.as_ref()) {
                while let std::task::Poll::Ready(Ok(mut guard)) = socket.poll_read_ready(cx) {
                    guard.clear_ready();
                    ready = true;
                }
            }
            if ready { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
        })
        .await;
    }

    /// Reads what waits in every socket, without asking the reactor: after a stall the datagrams
    /// are there before the reactor knows. True when a budget ended before the queue.
    pub fn read(&self, mut take: impl FnMut(&str, &[u8])) -> bool {
        let mut buffer = [0u8; crate::vrrp::wire::DATAGRAM_LIMIT];
        let mut more = false;
        let sockets = self.by_name.iter().flat_map(|(name, interface)| {
            interface.sockets.values().map(move |(_, socket)| (name, socket))
        });
        for (name, socket) in sockets {
            let mut budget = READ_BUDGET;
            loop {
                match socket.get_ref().receive(&mut buffer) {
                    Ok(Some(len)) => take(name, buffer.get(..len).unwrap_or_default()),
                    Ok(None) => break,
                    Err(error) => tracing::debug!(interface = name, %error, "receive"),
                }
                budget -= 1;
                if budget == 0 {
                    more = true;
                    break;
                }
            }
        }
        more
    }
}
