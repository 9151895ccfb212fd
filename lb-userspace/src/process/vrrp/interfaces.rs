//! Interfaces of this host as the vrrp role needs them: state, source address, sockets.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    net::IpAddr,
};

use tokio::io::unix::AsyncFd;

use super::{
    claims::{Claims, Watched},
    closing::Closing,
    lower::Ear,
    sys,
};

use crate::{
    base::net::Mac,
    io::{
        link::{AddressInfo, Assigned, Event, FrameSocket, LinkInfo, VmacSocket},
        vrrp::{Channel, VrrpSocket},
    },
    vrrp::wire::{Datagram, PROTOCOL_AH},
};

/// Datagrams read from one socket before timers get their turn again.
const READ_BUDGET: usize = 512;

/// A link as the kernel told it, with its addresses.
pub(super) struct Interface {
    pub link: LinkInfo,
    /// With the order of their appearance, which is the kernel's.
    addresses: BTreeMap<Assigned, (u64, AddressInfo)>,
    seen: u64,
}

/// A socket that hears adverts.
struct Advert {
    /// Of the link that it was opened on.
    index: u32,
    socket: AsyncFd<VrrpSocket>,
    /// What it has joined.
    groups: BTreeSet<IpAddr>,
}

/// A socket that hears, on a macvlan, adverts of its MAC.
struct Heard {
    /// Of the link that it was opened on.
    index: u32,
    /// Which its filter names.
    mac: Mac,
    ear: Ear,
    socket: AsyncFd<VmacSocket>,
}

/// Sockets on the interface of one name, with the index of the link they were opened on.
#[derive(Default)]
struct Ports {
    sockets: BTreeMap<Channel, Advert>,
    heard: Option<Heard>,
    claims: Claims,
    frames: Option<(u32, FrameSocket)>,
}

impl Ports {
    /// The socket for frames, opened anew when the interface is another one.
    fn frames(
        &mut self,
        name: &str,
        index: u32,
        closing: &mut Closing,
    ) -> std::io::Result<&FrameSocket> {
        closing.add(self.frames.take_if(|open| open.0 != index));
        let open = match self.frames.take() {
            Some(open) => open,
            None => (index, FrameSocket::open_at(name, index)?),
        };
        Ok(&self.frames.insert(open).1)
    }

    /// Closes all of them.
    fn close(self, closing: &mut Closing) {
        let Self { sockets, heard, mut claims, frames } = self;
        for (_, it) in sockets {
            closing.add(Some(it.socket.into_inner()));
        }
        closing.add(heard.map(|it| it.socket.into_inner()));
        claims.close(closing);
        closing.add(frames);
    }
}

impl Interface {
    fn new(link: LinkInfo) -> Self {
        Self { link, addresses: BTreeMap::new(), seen: 0 }
    }

    pub fn up(&self) -> bool {
        self.link.up
    }

    /// Where adverts of a family come from: the first primary IPv4 address, or the link-local IPv6
    /// address (`global`: a global one, for peers behind a router), that is not one of `vips`.
    pub fn source(&self, vips: &BTreeSet<IpAddr>, ipv6: bool, global: bool) -> Option<IpAddr> {
        let mut candidates: Vec<(u64, IpAddr)> = self
            .addresses
            .values()
            .filter(|(_, it)| !it.secondary && !it.tentative && it.address().is_ipv6() == ipv6)
            .map(|(order, it)| (*order, it.address()))
            .filter(|(_, address)| !vips.contains(address))
            .collect();
        candidates.sort_unstable();
        let candidates: Vec<IpAddr> = candidates.into_iter().map(|(_, address)| address).collect();
        let link_local = |it: &IpAddr| matches!(it, IpAddr::V6(it) if it.is_unicast_link_local());
        let mut fits = candidates.iter().filter(|it| !ipv6 || link_local(it) != global);
        let first = fits.next().copied();
        first.or_else(|| candidates.first().copied().filter(|_| global))
    }

    /// Whether an address for adverts is still being asked for on the link (RFC 4862 §5.4).
    pub fn asks_for_source(&self, vips: &BTreeSet<IpAddr>) -> bool {
        let addresses = self.addresses.values();
        addresses.map(|(_, it)| it).any(|it| it.asking && !vips.contains(&it.address()))
    }

    /// Its addresses.
    pub fn assigned(&self) -> impl Iterator<Item = Assigned> {
        self.addresses.keys().copied()
    }

    pub fn has(&self, address: Assigned) -> bool {
        self.addresses.contains_key(&address)
    }
}

/// Every interface. The kernel knows them by their index: addresses stay with a link that changes
/// its name, and are not told again. The configuration knows them by their name.
#[derive(Default)]
pub(super) struct Interfaces {
    by_index: BTreeMap<u32, Interface>,
    /// Indexes by the name of now.
    names: BTreeMap<String, u32>,
    ports: BTreeMap<String, Ports>,
    closing: Closing,
}

impl Interfaces {
    /// Closes what is not used any more, without waiting for it. To be called in every turn of the loop.
    pub fn close(&mut self) {
        self.closing.close();
    }

    pub fn get(&self, name: &str) -> Option<&Interface> {
        self.by_index.get(self.names.get(name)?)
    }

    /// The name under which an interface is known.
    pub fn name_of(&self, index: u32) -> Option<String> {
        self.by_index.get(&index).map(|it| it.link.name.clone())
    }

    /// Takes a notification; returns the name of the interface that it is about.
    pub fn notice(&mut self, event: &Event) -> Option<String> {
        match event {
            Event::Link(link) => {
                if let Some(old) = self.name_of(link.index).filter(|old| *old != link.name) {
                    self.forget_name(&old, link.index);
                }
                self.names.insert(link.name.clone(), link.index);
                match self.by_index.entry(link.index) {
                    Entry::Occupied(mut known) => known.get_mut().link = link.clone(),
                    Entry::Vacant(new) => drop(new.insert(Interface::new(link.clone()))),
                }
                Some(link.name.clone())
            }
            Event::LinkGone(link) => {
                self.by_index.remove(&link.index);
                self.forget_name(&link.name, link.index);
                Some(link.name.clone())
            }
            Event::Address(address) => {
                let interface = self.by_index.get_mut(&address.index)?;
                interface.seen += 1;
                let order = interface.seen;
                let known =
                    interface.addresses.entry(address.assigned).or_insert((order, *address));
                known.1 = *address;
                Some(interface.link.name.clone())
            }
            Event::AddressGone(address) => {
                let interface = self.by_index.get_mut(&address.index)?;
                interface.addresses.remove(&address.assigned);
                Some(interface.link.name.clone())
            }
            Event::Ready | Event::Done { .. } | Event::ObjectGone(_) | Event::Failed(_) => None,
        }
    }

    /// A name no longer means this link; another may have it already.
    fn forget_name(&mut self, name: &str, index: u32) {
        if self.names.get(name) == Some(&index) {
            self.names.remove(name);
            // What is heard there is no longer heard on an interface of this name.
            if let Some(ports) = self.ports.remove(name) {
                ports.close(&mut self.closing);
            }
        }
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
        let index = self.get(name).ok_or("no such interface")?.link.index;
        let ports = self.ports.entry(name.to_owned()).or_default();
        for channel in channels {
            if ports.sockets.get(channel).is_none_or(|it| it.index != index) {
                let socket = VrrpSocket::open(name, index, *channel);
                let socket = socket.and_then(sys::advert_socket);
                let socket = socket.map_err(|error| error.to_string())?;
                let advert = Advert { index, socket, groups: BTreeSet::new() };
                let old = ports.sockets.insert(*channel, advert);
                self.closing.add(old.map(|it| it.socket.into_inner()));
            }
            if let (Some(it), Some(group)) = (ports.sockets.get_mut(channel), group)
                && !it.groups.contains(&group)
            {
                it.socket.get_ref().join(group).map_err(|error| error.to_string())?;
                it.groups.insert(group);
            }
        }
        Ok(())
    }

    /// Opens the socket that hears adverts from the virtual MAC of a macvlan, again when the macvlan
    /// was made anew or has another MAC.
    ///
    /// # Errors
    /// For the log.
    pub fn hear(&mut self, ear: &Ear) -> Result<(), String> {
        let link = &self.get(&ear.link).ok_or("no such interface")?.link;
        let (index, mac) = (link.index, link.mac.ok_or("the interface has no Ethernet address")?);
        let heard = &mut self.ports.entry(ear.link.clone()).or_default().heard;
        let same = |it: &Heard| it.index == index && it.mac == mac && it.ear == *ear;
        if !heard.as_ref().is_some_and(same) {
            let socket =
                VmacSocket::open_at(&ear.link, index, mac, ear.ipv6).and_then(sys::vmac_socket);
            let socket = socket.map_err(|error| error.to_string())?;
            let old = heard.replace(Heard { index, mac, ear: ear.clone(), socket });
            self.closing.add(old.map(|it| it.socket.into_inner()));
        }
        Ok(())
    }

    /// Closes the sockets that no instance uses, and leaves the groups that none listens to.
    /// `used` has the groups of each socket that stays; `ears` are all that are wanted; frames leave by the
    /// interfaces `senders`.
    pub fn keep_only(
        &mut self,
        used: &BTreeMap<(&str, Channel), BTreeSet<IpAddr>>,
        ears: &BTreeSet<Ear>,
        senders: &BTreeSet<&str>,
    ) {
        let closing = &mut self.closing;
        for (name, ports) in &mut self.ports {
            let heard = ports.heard.take_if(|it| !ears.contains(&it.ear));
            closing.add(heard.map(|it| it.socket.into_inner()));
            closing.add(ports.frames.take_if(|_| !senders.contains(name.as_str())));
            let unused = |channel: &Channel| !used.contains_key(&(name.as_str(), *channel));
            for (_, it) in ports.sockets.extract_if(.., |channel, _| unused(channel)) {
                closing.add(Some(it.socket.into_inner()));
            }
            for (channel, it) in &mut ports.sockets {
                let Some(wanted) = used.get(&(name.as_str(), *channel)) else { continue };
                for group in it.groups.difference(wanted) {
                    if let Err(error) = it.socket.get_ref().leave(*group) {
                        tracing::warn!(interface = name, %error, "multicast group not left");
                    }
                }
                it.groups.retain(|group| wanted.contains(group));
            }
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
        let it = self
            .ports
            .get(name)
            .and_then(|ports| ports.sockets.get(&channel))
            .ok_or_else(|| format!("interface {name} has no socket"))?;
        it.socket.get_ref().send(datagram, to).map_err(|error| format!("to {to}: {error}"))
    }

    /// Opens what frames leave by, before a takeover needs it. An error is told when a frame is sent.
    pub fn open_frames(&mut self, name: &str) {
        if let Some(index) = self.get(name).map(|it| it.link.index) {
            let ports = self.ports.entry(name.to_owned()).or_default();
            if let Err(error) = ports.frames(name, index, &mut self.closing) {
                tracing::debug!(interface = name, %error, "no socket for frames yet");
            }
        }
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
        let link = &self.get(name).ok_or("no such interface")?.link;
        let (index, mac) = (link.index, link.mac.ok_or("the interface has no Ethernet address")?);
        let ports = self.ports.entry(name.to_owned()).or_default();
        let socket =
            ports.frames(name, index, &mut self.closing).map_err(|error| error.to_string())?;
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
        self.by_index.values().any(|it| it.addresses.keys().any(|it| it.prefix.addr == address))
    }

    /// Opens the sockets of an interface that receive what others say of these addresses, again when the interface was made
    /// anew.
    ///
    /// # Errors
    /// For the log.
    pub fn watch(&mut self, name: &str, watched: Watched) -> Result<(), String> {
        let index = self.get(name).ok_or("no such interface")?.link.index;
        let ports = self.ports.entry(name.to_owned()).or_default();
        ports.claims.watch(name, index, watched, &mut self.closing)
    }

    /// Closes those of interfaces on which no VIP is asked for.
    pub fn unwatch_unless(&mut self, used: impl Fn(&str) -> bool) {
        for (name, ports) in &mut self.ports {
            if !used(name) {
                ports.claims.close(&mut self.closing);
            }
        }
    }

    /// What hosts other than this one said they have: interface, MAC, address.
    pub fn claims(&self) -> Vec<(String, Mac, IpAddr)> {
        let is_own = |mac| self.by_index.values().any(|it| it.link.mac == Some(mac));
        let mut claims = Vec::new();
        for (name, ports) in &self.ports {
            let said = ports.claims.read(name, is_own);
            claims.extend(said.into_iter().map(|(mac, address)| (name.clone(), mac, address)));
        }
        claims
    }

    /// Waits until a socket has something; readiness is cleared, so everything must be read then.
    pub async fn readable(&self) {
        std::future::poll_fn(|cx| {
            let mut ready = false;
            for it in self.ports.values().flat_map(|it| it.sockets.values()) {
                while let std::task::Poll::Ready(Ok(mut guard)) = it.socket.poll_read_ready(cx) {
                    guard.clear_ready();
                    ready = true;
                }
            }
            for it in self.ports.values().filter_map(|it| it.heard.as_ref()) {
                while let std::task::Poll::Ready(Ok(mut guard)) = it.socket.poll_read_ready(cx) {
                    guard.clear_ready();
                    ready = true;
                }
            }
            for socket in self.ports.values().flat_map(|it| it.claims.sockets()) {
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
    /// are there before the reactor knows. What a macvlan heard counts as heard on the interface
    /// below. True when a budget ended before the queue.
    pub fn read(&self, mut take: impl FnMut(&str, &[u8])) -> bool {
        let mut buffer = [0u8; crate::vrrp::wire::DATAGRAM_LIMIT];
        let mut more = false;
        for (name, ports) in &self.ports {
            for it in ports.sockets.values() {
                let socket = it.socket.get_ref();
                more |= read_all(name, &mut buffer, |it| socket.receive(it), |it| take(name, it));
            }
            let Some(Heard { ear, socket, .. }) = &ports.heard else { continue };
            let socket = socket.get_ref();
            let base = self.ports.get(&ear.base).map(|it| &it.sockets);
            let take = |bytes: &[u8]| {
                if base.is_some_and(|sockets| is_listened_to(sockets, bytes)) {
                    take(&ear.base, bytes);
                }
            };
            more |= read_all(name, &mut buffer, |it| socket.receive(it), take);
        }
        more
    }
}

/// One socket's part of [`Interfaces::read`].
fn read_all(
    name: &str,
    buffer: &mut [u8],
    receive: impl Fn(&mut [u8]) -> std::io::Result<Option<usize>>,
    mut take: impl FnMut(&[u8]),
) -> bool {
    for _ in 0..READ_BUDGET {
        match receive(buffer) {
            Ok(Some(len)) => take(buffer.get(..len).unwrap_or_default()),
            Ok(None) => return false,
            Err(error) => tracing::debug!(interface = name, %error, "receive"),
        }
    }
    true
}

/// Whether the kernel would give a datagram to one of these sockets: a packet socket hears every
/// group.
fn is_listened_to(sockets: &BTreeMap<Channel, Advert>, bytes: &[u8]) -> bool {
    let Some((group, protocol)) = Datagram::destination_of(bytes) else { return false };
    let channel = match group {
        IpAddr::V6(_) => Channel::V6,
        IpAddr::V4(_) if protocol == PROTOCOL_AH => Channel::V4Ah,
        IpAddr::V4(_) => Channel::V4,
    };
    sockets.get(&channel).is_some_and(|it| it.groups.contains(&group))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(index: u32, name: &str) -> Event {
        Event::Link(info(index, name))
    }

    fn info(index: u32, name: &str) -> LinkInfo {
        LinkInfo { name: name.into(), index, up: true, mac: None, mtu: 1500 }
    }

    fn address(index: u32, text: &str) -> AddressInfo {
        let prefix = text.parse().expect("prefix");
        let assigned = Assigned { prefix, peer: None };
        AddressInfo { index, assigned, secondary: false, tentative: false, asking: false }
    }

    fn source(interfaces: &Interfaces, name: &str) -> Option<String> {
        let source = interfaces.get(name)?.source(&BTreeSet::new(), false, false);
        source.map(|it| it.to_string())
    }

    #[test]
    fn addresses_go_with_a_link_that_changes_its_name() {
        let mut all = Interfaces::default();
        all.notice(&link(2, "other0"));
        all.notice(&Event::Address(address(2, "192.0.2.1/24")));
        assert_eq!(source(&all, "eth0"), None);
        // The kernel tells a rename of the link, and nothing of its addresses.
        assert_eq!(all.notice(&link(2, "eth0")), Some("eth0".to_owned()));
        assert_eq!(source(&all, "eth0").as_deref(), Some("192.0.2.1"));
        assert!(all.get("other0").is_none());
        all.notice(&link(2, "other0"));
        assert!(all.get("eth0").is_none());
        assert_eq!(source(&all, "other0").as_deref(), Some("192.0.2.1"));
        all.notice(&Event::AddressGone(address(2, "192.0.2.1/24")));
        all.notice(&link(2, "eth0"));
        assert_eq!(source(&all, "eth0"), None, "gone under the other name");
    }

    #[test]
    fn a_name_that_changed_its_link_is_not_taken_away_by_the_old_one() {
        let mut all = Interfaces::default();
        all.notice(&link(2, "eth0"));
        all.notice(&Event::Address(address(2, "192.0.2.1/24")));
        // Notifications were lost: the new link of the name is told before the old one's end.
        all.notice(&link(7, "eth0"));
        all.notice(&Event::Address(address(7, "192.0.2.7/24")));
        all.notice(&Event::AddressGone(address(2, "192.0.2.1/24")));
        all.notice(&Event::LinkGone(info(2, "eth0")));
        assert_eq!(all.get("eth0").map(|it| it.link.index), Some(7));
        assert_eq!(source(&all, "eth0").as_deref(), Some("192.0.2.7"));
        all.notice(&Event::LinkGone(info(7, "eth0")));
        assert!(all.get("eth0").is_none());
    }
}
