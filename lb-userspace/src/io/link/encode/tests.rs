//! Objects as the kernel is told them.

use netlink_packet_core::Emitable as _;

use super::*;
use crate::{base::net::Mac, config::load};

/// The VIP of a line of virtual_ipaddress, on the interface of index 7.
fn vip(line: &str) -> Vip {
    let text = format!(
        "vrrp_instance V {{\n interface eth0\n virtual_router_id 1\n virtual_ipaddress {{\n {line}\n }}\n}}\n"
    );
    let outcome = load("t", &text);
    let said = outcome.render();
    let config = outcome.config.unwrap_or_else(|| panic!("{said}"));
    let address = config.vrrp_instances[0].virtual_ipaddress[0].clone();
    Vip {
        interface: "eth0".into(),
        prefix: address.prefix,
        label: address.label,
        broadcast: address.broadcast,
        scope: address.scope,
        options: address.options,
    }
}

fn message(line: &str, on: bool) -> (AddressMessage, u16) {
    match address(&vip(line), 7, on) {
        (Rtnl::NewAddress(message), flags) if on => (message, flags),
        (Rtnl::DelAddress(message), flags) if !on => (message, flags),
        other => panic!("{line}: {other:?}"),
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("address")
}

fn flags(flags: AddressFlags) -> AddressAttribute {
    AddressAttribute::Flags(flags)
}

fn preferred(seconds: u32) -> AddressAttribute {
    let mut life = CacheInfo::default();
    (life.ifa_preferred, life.ifa_valid) = (seconds, u32::MAX);
    AddressAttribute::CacheInfo(life)
}

/// A line, the prefix length and scope that the kernel gets, the other end of the link, and the
/// attributes beyond addresses and protocol.
type Row = (&'static str, u8, u8, &'static str, Vec<AddressAttribute>);

#[test]
fn every_word_of_an_address_reaches_the_kernel() {
    let broadcast = |last| AddressAttribute::Broadcast([192, 0, 2, last].into());
    let label = AddressAttribute::Label("eth0:vip".into());
    let v4 = "192.0.2.10";
    let nodad = AddressFlags::Nodad;
    let rows: Vec<Row> = vec![
        ("192.0.2.10", 32, 0, v4, vec![]),
        ("192.0.2.10/24 brd +", 24, 0, v4, vec![broadcast(255)]),
        ("192.0.2.10/24 brd -", 24, 0, v4, vec![broadcast(0)]),
        ("192.0.2.10/24 brd 192.0.2.99", 24, 0, v4, vec![broadcast(99)]),
        ("192.0.2.10/24 label eth0:vip", 24, 0, v4, vec![label]),
        ("192.0.2.10/24 scope link", 24, 253, v4, vec![]),
        ("192.0.2.10/24 scope host", 24, 254, v4, vec![]),
        ("192.0.2.10/24 scope site", 24, 200, v4, vec![]),
        ("192.0.2.10/24 scope 17", 24, 17, v4, vec![]),
        ("192.0.2.10 peer 198.51.100.1", 32, 0, "198.51.100.1", vec![]),
        ("192.0.2.10 peer 198.51.100.1/25", 25, 0, "198.51.100.1", vec![]),
        ("192.0.2.10 noprefixroute", 32, 0, v4, vec![flags(AddressFlags::Noprefixroute)]),
        ("192.0.2.10 autojoin", 32, 0, v4, vec![flags(AddressFlags::Mcautojoin)]),
        ("192.0.2.10 preferred_lft 900", 32, 0, v4, vec![preferred(900)]),
        // A VIP was its master's a moment ago: nobody asks for it. keepalived keeps a /128 from
        // being chosen as a source.
        ("fe80::10", 128, 0, "fe80::10", vec![flags(nodad), preferred(0)]),
        ("fe80::10/64", 64, 0, "fe80::10", vec![flags(nodad)]),
        ("fe80::10/64 -nodad", 64, 0, "fe80::10", vec![]),
        ("fe80::10/64 -nodad home", 64, 0, "fe80::10", vec![flags(AddressFlags::Homeaddress)]),
        (
            "fe80::10/64 -nodad mngtmpaddr",
            64,
            0,
            "fe80::10",
            vec![flags(AddressFlags::Managetempaddr)],
        ),
        (
            "fe80::10/64 home autojoin noprefixroute mngtmpaddr",
            64,
            0,
            "fe80::10",
            vec![flags(
                nodad
                    | AddressFlags::Homeaddress
                    | AddressFlags::Mcautojoin
                    | AddressFlags::Noprefixroute
                    | AddressFlags::Managetempaddr,
            )],
        ),
        ("fe80::10/64 preferred_lft 30", 64, 0, "fe80::10", vec![flags(nodad), preferred(30)]),
        ("fe80::10 preferred_lft forever", 128, 0, "fe80::10", vec![flags(nodad)]),
        ("fe80::10 peer fe80::99/64", 64, 0, "fe80::99", vec![flags(nodad), preferred(0)]),
    ];
    for (line, len, scope, other_end, words) in rows {
        let (message, command) = message(line, true);
        let header = &message.header;
        assert_eq!(command, ADD, "{line}");
        assert_eq!((header.index, header.prefix_len), (7, len), "{line}");
        assert_eq!(header.scope, scope.into(), "{line}");
        let own = if line.starts_with("fe80") { ip("fe80::10") } else { ip(v4) };
        assert_eq!(header.family, family(own.is_ipv6()), "{line}");
        let mut want = vec![AddressAttribute::Local(own), AddressAttribute::Address(ip(other_end))];
        want.extend(words);
        // The mark by which a successor knows it again.
        want.push(AddressAttribute::Protocol(AddressProtocol::from(PROTOCOL)));
        assert_eq!(message.attributes, want, "{line}");
        assert_eq!(marked(&message), Some((7, own)), "{line}");
    }
}

/// The kernel removes the address that matches every attribute of the request.
#[test]
fn an_address_is_removed_by_what_makes_it_the_one() {
    for (line, len, other_end) in [
        ("192.0.2.10/24 brd + label eth0:vip scope link", 24, "192.0.2.10"),
        ("192.0.2.10 peer 198.51.100.1/25 noprefixroute", 25, "198.51.100.1"),
    ] {
        let (message, command) = message(line, false);
        assert_eq!((command, message.header.prefix_len), (0, len), "{line}");
        let want =
            [AddressAttribute::Local(ip("192.0.2.10")), AddressAttribute::Address(ip(other_end))];
        assert_eq!(message.attributes, want, "{line}");
    }
}

/// Attributes of a message as rtnetlink(7) has them: type, value; nested ones in place.
fn attributes(bytes: &[u8]) -> Vec<(u16, Vec<u8>)> {
    let mut rest = bytes;
    let mut found = Vec::new();
    while let [a, b, c, d, ..] = *rest {
        let len = usize::from(u16::from_ne_bytes([a, b]));
        found.push((u16::from_ne_bytes([c, d]) & 0x3fff, rest[4..len].to_vec()));
        rest = &rest[len.next_multiple_of(4).min(rest.len())..];
    }
    found
}

/// The kernel of a test may lack ipvlan and VRF: their numbers are those of linux/if_link.h.
#[test]
fn virtual_interfaces_have_the_kernels_numbers() {
    const ADDRESS: u16 = 1; // IFLA_ADDRESS
    const NAME: u16 = 3; // IFLA_IFNAME
    const LINK: u16 = 5; // IFLA_LINK
    const INFO: u16 = 18; // IFLA_LINKINFO
    let ipvlan = |flag| VirtualLinkKind::Ipvlan { address: None, flag };
    let mac = [0, 0, 0x5e, 0, 1, 51];
    // The kind, then the numbers inside of its data: IFLA_MACVLAN_MODE is 1 (private: 1);
    // IFLA_IPVLAN_MODE is 1 (L2: 0), IFLA_IPVLAN_FLAGS 2 (private 1, VEPA 2).
    let two = |flag: u16| vec![(1, vec![0, 0]), (2, flag.to_ne_bytes().to_vec())];
    let private = vec![(1, 1u32.to_ne_bytes().to_vec())];
    for (kind, name, want) in [
        (VirtualLinkKind::Macvlan { mac: None }, "macvlan", private),
        (ipvlan(IpvlanFlag::Bridge), "ipvlan", two(0)),
        (ipvlan(IpvlanFlag::Private), "ipvlan", two(1)),
        (ipvlan(IpvlanFlag::Vepa), "ipvlan", two(2)),
    ] {
        let (own, base) = ("vrrp.51".to_owned(), "eth0".to_owned());
        let made = VirtualLink { name: own, base, kind, mac: Mac(mac), ipv6: false };
        let (Rtnl::NewLink(message), ADD) = link(&made, 7) else { panic!("{made:?}") };
        let mut bytes = vec![0; message.buffer_len()];
        message.emit(&mut bytes);
        // Behind ifinfomsg.
        let all = attributes(&bytes[16..]);
        let value = |wanted| all.iter().find(|(number, _)| *number == wanted).map(|it| &it.1[..]);
        assert_eq!(value(NAME), Some(&b"vrrp.51\0"[..]), "{made:?}");
        assert_eq!(value(LINK), Some(&7u32.to_ne_bytes()[..]), "{made:?}");
        let has_mac = (name == "macvlan").then_some(&mac[..]);
        assert_eq!(value(ADDRESS), has_mac, "{made:?}: an ipvlan has its parent's MAC");
        let info = attributes(value(INFO).expect("IFLA_LINKINFO"));
        let [(1, told), (2, data)] = &info[..] else { panic!("{info:?}") };
        assert_eq!(told.strip_suffix(b"\0").unwrap_or(told), name.as_bytes());
        assert_eq!(attributes(data), want, "{made:?}");
    }
    for controlled_by in [9, 0] {
        let (Rtnl::NewLink(message), 0) = controller(7, controlled_by) else { panic!("a link") };
        let mut bytes = vec![0; message.buffer_len()];
        message.emit(&mut bytes);
        assert_eq!((message.header.index, bytes.len()), (7, 24));
        // IFLA_MASTER
        assert_eq!(attributes(&bytes[16..]), [(10, u32::to_ne_bytes(controlled_by).to_vec())]);
    }
}

/// The request of a line of virtual_routes; every interface has the index 7.
fn asked(line: &str) -> RouteMessage {
    let text = format!(
        "vrrp_instance V {{\n interface eth0\n virtual_router_id 1\n virtual_ipaddress {{\n 192.0.2.10\n }}\n \
         virtual_routes {{\n {line}\n }}\n}}\n"
    );
    let outcome = load("t", &text);
    let said = outcome.render();
    let config = outcome.config.unwrap_or_else(|| panic!("{said}"));
    let route = route(&config.vrrp_instances[0].on_host.routes[0], true, |_| Some(7));
    let Ok((Rtnl::NewRoute(message), ADD)) = route else { panic!("{line}: {route:?}") };
    message
}

/// As the kernel tells a route: with what nobody asked for, in an order of its own.
fn told(line: &str) -> RouteMessage {
    let mut message = asked(line);
    let v6 = message.header.address_family == AddressFamily::Inet6;
    let all = &mut message.attributes;
    let has = |all: &[RouteAttribute], is: fn(&RouteAttribute) -> bool| all.iter().any(is);
    let leads = has(all, |it| is_gateway(it) || matches!(it, RouteAttribute::Oif(_)));
    if leads && !has(all, |it| matches!(it, RouteAttribute::Oif(_))) {
        all.push(RouteAttribute::Oif(7));
    }
    for attribute in all.iter_mut() {
        if let RouteAttribute::MultiPath(hops) = attribute {
            hops.reverse();
            hops.iter_mut().for_each(|hop| hop.interface_index = 7);
            hops.iter_mut().for_each(|hop| hop.flags |= RouteNextHopFlags::Linkdown);
        }
    }
    if v6 {
        let cache = netlink_packet_route::route::RouteCacheInfo::parse(&[0; 32]);
        all.push(RouteAttribute::CacheInfo(cache.expect("zeros")));
        if !has(all, |it| matches!(it, RouteAttribute::Preference(_))) {
            all.push(RouteAttribute::Preference(RoutePreference::Medium));
        }
        if !has(all, |it| matches!(it, RouteAttribute::Priority(_))) {
            all.push(RouteAttribute::Priority(1024));
        }
    }
    all.retain(|it| !matches!(it, RouteAttribute::Expires(_)));
    all.reverse();
    message.header.flags |= RouteFlags::Linkdown;
    message
}

#[test]
fn a_route_is_known_again_and_no_other_is_taken_for_it() {
    let lines = [
        "198.51.100.0/24 via 192.0.2.1",
        "198.51.100.0/24 via 192.0.2.2",
        "198.51.100.0/24 via 192.0.2.1 onlink dev eth0",
        "198.51.100.0/25 via 192.0.2.1",
        "198.51.100.0/24 via 192.0.2.1 metric 5",
        "198.51.100.0/24 via 192.0.2.1 table 77",
        "198.51.100.0/24 via 192.0.2.1 table 70000",
        "198.51.100.0/24 via 192.0.2.1 src 192.0.2.10",
        "198.51.100.0/24 via 192.0.2.1 mtu 1400",
        "198.51.100.0/24 via 192.0.2.1 mtu lock 1400",
        "198.51.100.0/24 via 192.0.2.1 mtu 1300",
        "198.51.100.0/24 via 192.0.2.1 tos 4",
        "198.51.100.0/24 via 192.0.2.1 protocol 99",
        "198.51.100.0/24 dev eth0",
        "blackhole 198.51.100.0/24",
        "unreachable 198.51.100.0/24",
        "198.51.100.0/24 nexthop via 192.0.2.1 weight 1 nexthop via 192.0.2.2 weight 1",
        "198.51.100.0/24 nexthop via 192.0.2.1 weight 1 nexthop via 192.0.2.2 weight 2",
        "198.51.100.0/24 nexthop via 192.0.2.1 weight 1 nexthop via 192.0.2.3 weight 1",
        "default via 192.0.2.1",
        "2001:db8::/32 via fe80::1 dev eth0",
        "2001:db8::/32 via fe80::2 dev eth0",
        "2001:db8::/32 via fe80::1 dev eth0 pref high",
        "2001:db8::/32 via fe80::1 dev eth0 metric 5",
        "blackhole 2001:db8::/32",
        "2001:db8::/32 nexthop via fe80::1 dev eth0 nexthop via fe80::2 dev eth0",
    ];
    for (at, line) in lines.iter().enumerate() {
        for (other, wanted) in lines.iter().enumerate() {
            assert_eq!(is_route(&told(line), &asked(wanted)), at == other, "{line}: {wanted}");
        }
    }
    // The kernel cuts the bits behind the prefix off; how long it still lives is its own affair.
    let same = "2001:db8::1/32 via fe80::1 dev eth0 expires 600";
    assert!(is_route(&told(lines[20]), &asked(same)) && is_route(&told(same), &asked(same)));
    // To IPv6 a route that leads nowhere leads to `lo`.
    let mut hole = told("blackhole 2001:db8::/32");
    hole.attributes.push(RouteAttribute::Oif(1));
    assert!(is_route(&hole, &asked("blackhole 2001:db8::/32")));
    // By another interface it is another route, when one was asked for.
    let mut other = asked("198.51.100.0/24 via 192.0.2.1 dev eth0");
    other.attributes.retain(|it| !matches!(it, RouteAttribute::Oif(_)));
    other.attributes.push(RouteAttribute::Oif(8));
    assert!(!is_route(&other, &asked("198.51.100.0/24 via 192.0.2.1 dev eth0")));
    assert!(is_route(&other, &asked("198.51.100.0/24 via 192.0.2.1")));
}
