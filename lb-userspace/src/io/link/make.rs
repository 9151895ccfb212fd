//! Putting objects on the host and taking them off: the part of the thread that changes things.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    fs,
    net::IpAddr,
    path::Path,
};

use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage as Rtnl,
    address::AddressMessage,
    link::{
        AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoData, InfoKind, InfoMacVlan, LinkAttribute,
        LinkFlags, LinkInfo as Info, LinkMessage, MacVlanMode,
    },
    route::{RouteAttribute, RouteMessage},
    rule::RuleMessage,
};
use nix::net::if_::if_nametoindex;

use super::{
    Assigned, Declaration, Failure, Object, Setting, VirtualLink,
    encode::{self, Place},
    filter,
    journal::{Journal, Predecessor},
    socket::{REQUEST_TIMEOUT, RequestSocket},
};
use crate::config::model::{Route, Rule, VirtualLinkKind};

/// What a request did.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// Addresses that were not there before.
    pub added: u32,
    pub errors: Vec<Failure>,
}

impl Outcome {
    fn failed(&mut self, object: &Object, on: bool, cause: impl Into<String>) {
        self.errors.push(Failure { object: object.clone(), on, cause: cause.into() });
    }
}

/// Changes the host.
#[derive(Debug)]
pub(super) struct Maker {
    pub socket: RequestSocket,
    /// What settings were before us, and how many want them changed.
    settings: BTreeMap<String, (String, u32)>,
    journal: Journal,
    /// A declaration has come.
    declared: bool,
    /// Indexes of the interfaces that addresses were put on: an interface may change its name
    /// meanwhile, and keeps its addresses.
    put: BTreeMap<(String, Assigned), u32>,
    /// Read while a request is carried out: routes by family, table and protocol, and there by their place.
    routes: BTreeMap<(u8, u32, u8), BTreeMap<Place, Vec<RouteMessage>>>,
}

impl Maker {
    pub(super) fn new(socket: RequestSocket, journal: Journal) -> Self {
        Self {
            socket,
            settings: BTreeMap::new(),
            journal,
            declared: false,
            put: BTreeMap::new(),
            routes: BTreeMap::new(),
        }
    }

    /// Writes down what may be put on from now on. The first time returns what a predecessor has
    /// left of its own and nobody wants any more, in the order in which it is to be taken off.
    pub(super) fn declare(
        &mut self,
        mut declaration: Declaration,
        index: &dyn Fn(&str) -> Option<u32>,
    ) -> Vec<Object> {
        let mut leftovers = Vec::new();
        if !std::mem::replace(&mut self.declared, true) {
            let Predecessor { objects, settings } = self.journal.predecessor();
            let settings = settings.into_iter().map(|(key, before)| (key, (before, 0)));
            self.settings.extend(settings);
            let wanted: BTreeSet<&Object> = declaration.wanted.iter().collect();
            let objects = objects.into_iter().rev().filter(|it| !wanted.contains(it)).collect();
            leftovers = self.own(objects, index);
            declaration.held.extend(leftovers.iter().cloned());
        }
        for object in &declaration.wanted {
            if let Object::Setting(setting) = object
                && !self.settings.contains_key(&setting.key)
                && let Ok(before) = read(&setting.key)
            {
                self.settings.insert(setting.key.clone(), (before, 0));
            }
        }
        self.journal.declare(declaration);
        self.write_journal();
        leftovers
    }

    fn write_journal(&mut self) {
        let before = |(key, (before, _)): (&String, &(String, u32))| (key.clone(), before.clone());
        self.journal.write(self.settings.iter().map(before).collect());
    }

    /// Those that are still there and as a predecessor made them. Of routes, rules and settings
    /// the request that removes them says so; tables of the firewall have our name.
    fn own(&mut self, objects: Vec<Object>, index: &dyn Fn(&str) -> Option<u32>) -> Vec<Object> {
        let marked = self.marked_addresses();
        let own_link = |maker: &mut Self, link: &VirtualLink| {
            let Some(base) = maker.index(&link.base, index) else { return false };
            maker.look(&link.name).is_ok_and(|found| found.is_some_and(|it| it.is(link, base)))
        };
        let mut links = BTreeSet::new();
        for object in &objects {
            if let Object::Link(link) = object
                && own_link(self, link)
            {
                links.insert(link.name.clone());
            }
        }
        let is_own = |object: &Object| match object {
            Object::Address(vip) => self.index(&vip.interface, index).is_some_and(|index| {
                marked.as_ref().is_none_or(|all| all.contains(&(index, vip.prefix.addr)))
            }),
            Object::Link(link) => links.contains(&link.name),
            Object::Master(name, _) => links.contains(name),
            Object::Setting(_) | Object::Filter(_) | Object::Route(_) | Object::Rule(_) => true,
        };
        objects.into_iter().filter(is_own).collect()
    }

    /// Addresses with our protocol number; `None` when this kernel does not keep it.
    fn marked_addresses(&mut self) -> Option<BTreeSet<(u32, IpAddr)>> {
        let addresses = match self.socket.dump(Rtnl::GetAddress(AddressMessage::default())) {
            Ok(addresses) => addresses,
            Err(error) => {
                tracing::warn!(%error, "addresses could not be read");
                return Some(BTreeSet::new());
            }
        };
        let marked = |message: Rtnl| {
            let Rtnl::NewAddress(message) = message else { return None };
            encode::marked(&message)
        };
        keeps_protocol().then(|| addresses.into_iter().filter_map(marked).collect())
    }

    /// Takes objects off, then puts others on. `index` finds interfaces as last told.
    pub(super) fn change(
        &mut self,
        clear: &[Object],
        set: &[Object],
        index: &dyn Fn(&str) -> Option<u32>,
    ) -> Outcome {
        let mut outcome = Outcome::default();
        for (objects, on) in [(clear, false), (set, true)] {
            let mut rest = objects;
            while let Some(first) = rest.first() {
                // Addresses come in thousands: neighbours in the list share a system call.
                let run = match first {
                    Object::Address(_) => {
                        rest.iter().take_while(|it| matches!(it, Object::Address(_))).count()
                    }
                    _ => 1,
                };
                let (now, later) = rest.split_at(run.max(1));
                match first {
                    Object::Address(_) => self.addresses(now, on, index, &mut outcome),
                    other => {
                        if let Err(error) = self.other(other, on, index) {
                            outcome.failed(other, on, error);
                        }
                    }
                }
                rest = later;
            }
        }
        self.routes.clear();
        // What could not be taken off stays recorded.
        if outcome.errors.is_empty() && self.journal.taken_off(clear) {
            self.write_journal();
        }
        outcome
    }

    fn addresses(
        &mut self,
        objects: &[Object],
        on: bool,
        index: &dyn Fn(&str) -> Option<u32>,
        outcome: &mut Outcome,
    ) {
        let mut messages = Vec::new();
        let mut sent = Vec::new();
        for object in objects {
            let Object::Address(vip) = object else { continue };
            let named = self.index(&vip.interface, index);
            let key = (vip.interface.clone(), vip.assigned());
            if !on && let Some(put) = self.put.remove(&key).filter(|put| Some(*put) != named) {
                messages.push(encode::address(vip, put, on));
                sent.push(object);
            }
            match named {
                Some(index) => {
                    messages.push(encode::address(vip, index, on));
                    sent.push(object);
                    if on {
                        self.put.insert(key, index);
                    }
                }
                // Nothing can be left on an interface that is gone.
                None if !on => {}
                None => outcome.failed(object, on, "no such interface"),
            }
        }
        for (object, answer) in sent.into_iter().zip(self.socket.perform(messages)) {
            match answer {
                None => outcome.added += u32::from(on),
                Some(libc::EEXIST) if on => {}
                Some(libc::EADDRNOTAVAIL | libc::ENODEV) if !on => {}
                Some(errno) => outcome.failed(object, on, text(errno)),
            }
        }
    }

    /// As told, else as the kernel says now: it may have been made a moment ago, by us.
    fn index(&self, name: &str, told: &dyn Fn(&str) -> Option<u32>) -> Option<u32> {
        told(name).or_else(|| if_nametoindex(name).ok())
    }

    fn other(
        &mut self,
        object: &Object,
        on: bool,
        index: &dyn Fn(&str) -> Option<u32>,
    ) -> Result<(), String> {
        match object {
            Object::Address(_) => Ok(()),
            Object::Filter(filter) => filter::apply(filter, on),
            Object::Setting(setting) if on => self.set(setting),
            Object::Setting(setting) => self.put_back(setting),
            Object::Link(link) if on => self.make_link(link, index),
            Object::Link(link) => self.remove_link(link),
            Object::Master(name, master) => {
                let wanted = if on { Some(master.as_str()) } else { None };
                self.join(name, wanted, index)
            }
            Object::Route(route) => self.route(route, on, index),
            Object::Rule(rule) => {
                let gone = [libc::ENOENT, libc::ESRCH, libc::EAFNOSUPPORT];
                let there = [libc::EEXIST];
                let accepted: &[i32] = if on { &there } else { &gone };
                // The kernel would choose another priority, and add the same rule again.
                if on && rule.priority.is_none() && self.has_rule(rule)? {
                    return Ok(());
                }
                done(self.socket.one(encode::rule(rule, on)), accepted)
            }
        }
    }

    /// One that is there as it is wanted is not touched: connections may depend on it.
    fn route(
        &mut self,
        route: &Route,
        on: bool,
        index: &dyn Fn(&str) -> Option<u32>,
    ) -> Result<(), String> {
        let message = |on| encode::route(route, on, |name| self.index(name, index));
        if !on {
            let Ok(message) = message(false) else { return Ok(()) };
            return done(self.socket.one(message), &[libc::ESRCH, libc::ENODEV]);
        }
        let (add, remove) = (message(true)?, message(false)?);
        let answer = self.socket.one(add.clone());
        if answer != Some(libc::EEXIST) {
            return done(answer, &[]);
        }
        let Rtnl::NewRoute(wanted) = &add.0 else { return Ok(()) };
        let found = self.routes_beside(wanted)?;
        if found.iter().any(|it| encode::is_route(it, wanted)) {
            return Ok(());
        }
        let ours = found.iter().any(|it| encode::is_in_its_place(it, wanted));
        // Ours of a process before us makes room, one that differs in what a removal does not
        // compare; someone else's is left alone. To a removal without a metric any of ours would do.
        if ours {
            self.socket.one(remove);
        }
        match self.socket.one(add) {
            Some(libc::EEXIST) => Err("another route is in its place".into()),
            answer => done(answer, &[]),
        }
    }

    /// The routes of ours that may be this one, or are where it is to be.
    fn routes_beside(&mut self, wanted: &RouteMessage) -> Result<&[RouteMessage], String> {
        let header = &wanted.header;
        let table = wanted.attributes.iter().find_map(|attribute| match attribute {
            RouteAttribute::Table(table) => Some(*table),
            _ => None,
        });
        let table = table.unwrap_or_else(|| header.table.into());
        let (family, protocol) = (header.address_family, header.protocol);
        let found = match self.routes.entry((family.into(), table, protocol.into())) {
            Entry::Occupied(read) => read.into_mut(),
            Entry::Vacant(place) => {
                let found = self.socket.routes(family, table, protocol);
                let found = found.map_err(|error| format!("read routes: {error}"))?;
                let mut sorted = BTreeMap::<Place, Vec<RouteMessage>>::new();
                for route in found {
                    sorted.entry(encode::place(&route)).or_default().push(route);
                }
                place.insert(sorted)
            }
        };
        Ok(found.get(&encode::place(wanted)).map_or(&[], Vec::as_slice))
    }

    fn has_rule(&mut self, rule: &Rule) -> Result<bool, String> {
        let mut request = RuleMessage::default();
        request.header.family = if rule.v6 { AddressFamily::Inet6 } else { AddressFamily::Inet };
        let rules = self
            .socket
            .dump(Rtnl::GetRule(request))
            .map_err(|error| format!("read rules: {error}"))?;
        let is = |message: &Rtnl| matches!(message, Rtnl::NewRule(found) if encode::is_rule(found, rule));
        Ok(rules.iter().any(is))
    }

    fn set(&mut self, setting: &Setting) -> Result<(), String> {
        let before = read(&setting.key)?;
        if !self.settings.contains_key(&setting.key) {
            self.settings.insert(setting.key.clone(), (before.clone(), 0));
            self.write_journal();
        }
        if let Some((_, users)) = self.settings.get_mut(&setting.key) {
            *users += 1;
        }
        if before == setting.value.to_string() {
            return Ok(());
        }
        write(&setting.key, &setting.value.to_string())
    }

    fn put_back(&mut self, setting: &Setting) -> Result<(), String> {
        let Some((before, users)) = self.settings.get_mut(&setting.key) else { return Ok(()) };
        *users = users.saturating_sub(1);
        if *users > 0 {
            return Ok(());
        }
        let before = before.clone();
        self.settings.remove(&setting.key);
        match read(&setting.key) {
            // Gone with its interface, or someone else's by now.
            Ok(now) if now == setting.value.to_string() && now != before => {
                write(&setting.key, &before)
            }
            _ => Ok(()),
        }
    }

    /// Makes a virtual interface, or adopts the one that a process before us has left.
    fn make_link(
        &mut self,
        link: &VirtualLink,
        index: &dyn Fn(&str) -> Option<u32>,
    ) -> Result<(), String> {
        let base = self.index(&link.base, index).ok_or_else(|| format!("no {}", link.base))?;
        match self.look(&link.name)? {
            Some(found) if found.is(link, base) => {}
            Some(found) if found.kind == Some(encode::link_kind(link)) => {
                self.remove_link(link)?;
                self.create(link, base)?;
            }
            Some(_) => return Err("an interface of another kind has this name".into()),
            None => self.create(link, base)?,
        }
        let made = if_nametoindex(link.name.as_str()).map_err(|error| error.to_string())?;
        // Before it is up, so that no link-local address is made from the virtual MAC
        // (RFC 9568 §7.4).
        let mut message = LinkMessage::default();
        message.header.index = made;
        let mode = AfSpecInet6::AddrGenMode(In6AddrGenMode::None);
        message.attributes.push(LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(vec![mode])]));
        // Without IPv6 in the kernel there is nothing to prevent.
        let _ = self.socket.one((Rtnl::NewLink(message), 0));
        let name = &link.name;
        let mut settings = vec![(format!("ipv4/conf/{name}/arp_ignore"), 1)];
        if matches!(link.kind, VirtualLinkKind::Macvlan { .. }) {
            settings.extend([
                (format!("ipv4/conf/{name}/accept_local"), 1),
                (format!("ipv4/conf/{name}/rp_filter"), 0),
                (format!("ipv4/conf/{name}/promote_secondaries"), 1),
            ]);
        }
        for (key, value) in settings {
            write(&key, &value.to_string())?;
        }
        // A kernel without IPv6 has no such file.
        let _ = write(&format!("ipv6/conf/{name}/disable_ipv6"), if link.ipv6 { "0" } else { "1" });
        let mut message = LinkMessage::default();
        message.header.index = made;
        (message.header.flags, message.header.change_mask) = (LinkFlags::Up, LinkFlags::Up);
        done(self.socket.one((Rtnl::NewLink(message), 0)), &[])
    }

    fn create(&mut self, link: &VirtualLink, base: u32) -> Result<(), String> {
        match self.socket.one(encode::link(link, base)) {
            Some(libc::EOPNOTSUPP) => {
                Err(format!("this kernel has no {} interfaces", encode::link_kind(link)))
            }
            answer => done(answer, &[]),
        }
    }

    fn remove_link(&mut self, link: &VirtualLink) -> Result<(), String> {
        let Some(found) = self.look(&link.name)? else { return Ok(()) };
        if found.kind != Some(encode::link_kind(link)) {
            return Ok(());
        }
        let mut message = LinkMessage::default();
        message.header.index = found.index;
        done(self.socket.one((Rtnl::DelLink(message), 0)), &[libc::ENODEV])
    }

    fn join(
        &mut self,
        name: &str,
        master: Option<&str>,
        index: &dyn Fn(&str) -> Option<u32>,
    ) -> Result<(), String> {
        let Some(own) = self.index(name, index) else {
            return if master.is_some() { Err(format!("no interface {name}")) } else { Ok(()) };
        };
        let master = match master {
            None => 0,
            Some(master) => {
                self.index(master, index).ok_or_else(|| format!("no interface {master}"))?
            }
        };
        done(self.socket.one(encode::controller(own, master)), &[])
    }

    fn look(&mut self, name: &str) -> Result<Option<Found>, String> {
        let Ok(index) = if_nametoindex(name) else { return Ok(None) };
        let links = self
            .socket
            .dump(Rtnl::GetLink(LinkMessage::default()))
            .map_err(|error| format!("read interfaces: {error}"))?;
        Ok(links.into_iter().find_map(|message| match message {
            Rtnl::NewLink(link) if link.header.index == index => Some(Found::new(&link)),
            _ => None,
        }))
    }
}

/// An interface of a wanted name.
struct Found {
    index: u32,
    kind: Option<InfoKind>,
    base: Option<u32>,
    mac: Option<Vec<u8>>,
    private: bool,
}

impl Found {
    fn new(message: &LinkMessage) -> Self {
        let mut found =
            Self { index: message.header.index, kind: None, base: None, mac: None, private: false };
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::Link(base) => found.base = Some(*base),
                LinkAttribute::Address(mac) => found.mac = Some(mac.clone()),
                LinkAttribute::LinkInfo(infos) => {
                    for info in infos {
                        match info {
                            Info::Kind(kind) => found.kind = Some(kind.clone()),
                            Info::Data(InfoData::MacVlan(data)) => {
                                found.private =
                                    data.contains(&InfoMacVlan::Mode(MacVlanMode::Private));
                            }
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        found
    }

    fn is(&self, link: &VirtualLink, base: u32) -> bool {
        let macvlan = matches!(link.kind, VirtualLinkKind::Macvlan { .. });
        self.kind == Some(encode::link_kind(link))
            && self.base == Some(base)
            && (!macvlan || self.private && self.mac.as_deref() == Some(&link.mac.0[..]))
    }
}

fn done(answer: Option<i32>, accepted: &[i32]) -> Result<(), String> {
    match answer {
        None => Ok(()),
        Some(errno) if accepted.contains(&errno) => Ok(()),
        Some(errno) => Err(text(errno)),
    }
}

fn text(errno: i32) -> String {
    if errno == libc::ETIMEDOUT {
        return format!("no answer from the kernel for {REQUEST_TIMEOUT:?}");
    }
    std::io::Error::from_raw_os_error(errno).to_string()
}

/// Whether this kernel keeps and tells IFA_PROTO (Linux 5.18).
fn keeps_protocol() -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut numbers = release.split(['.', '-']).map_while(|number| number.parse::<u32>().ok());
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (5, 18)
}

fn path(key: &str) -> std::path::PathBuf {
    Path::new("/proc/sys/net").join(key)
}

fn read(key: &str) -> Result<String, String> {
    fs::read_to_string(path(key))
        .map(|text| text.trim().to_owned())
        .map_err(|error| format!("read /proc/sys/net/{key}: {error}"))
}

fn write(key: &str, value: &str) -> Result<(), String> {
    fs::write(path(key), value)
        .map_err(|error| format!("write {value} to /proc/sys/net/{key}: {error}"))
}
