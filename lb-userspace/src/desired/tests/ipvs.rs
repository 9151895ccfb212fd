//! What differs under the engine ipvs.

use super::*;

/// IPVS rules are inert while this host has not got the address, and stand in nobody's way then. Where it has, on
/// `lo`, they would send on what the master sends here.
#[test]
fn ipvs_rules_of_a_standby_are_there_unless_it_has_the_address() {
    let mut scene = Scene::new();
    scene.engine = Engine::Ipvs;
    let there = |scene: &Scene| scene.table().virtual_servers.contains_key(&key(VIP));
    assert!(there(&scene), "inert on standby: a failover has nothing to write");
    // The election's own doing is no reason to take them away in the midst of it.
    let vip = |device: &str| (device.to_owned(), "192.0.2.10/24".parse().expect("prefix"));
    scene.host.addresses.insert(vip("eth0"));
    assert!(there(&scene));
    scene.host.addresses.insert(vip("lo"));
    assert!(!there(&scene), "a real server by DR on standby");
    scene.masters.insert("VI_1".to_owned());
    assert!(there(&scene));
    scene.masters.clear();
    scene.engine = Engine::Xdp;
    assert!(there(&scene), "XDP has its leases");
    scene.engine = Engine::Ipvs;
    scene.vrrp = false;
    assert!(there(&scene), "nobody else's election");
}

/// The kernel finds its ways by itself, to this host too: the method is the configuration's.
#[test]
fn ipvs_keeps_the_configured_method_for_this_host() {
    let mut scene = Scene::new();
    scene.host.addresses.insert(("eth0".to_owned(), "198.51.100.1/24".parse().expect("prefix")));
    assert_eq!(scene.server(DB1).map(|it| it.method), Some(Method::Local));
    scene.engine = Engine::Ipvs;
    let configured = scene.config.virtual_servers[0].method;
    assert_eq!(scene.server(DB1).map(|it| it.method), Some(configured));
}

/// A virtual MAC's interface, or that of other addresses, is the election's own place.
#[test]
fn ipvs_rules_stay_when_the_election_puts_the_vip_on_a_link_of_its_own() {
    use crate::config::model::{AddressLink, VirtualLink, VirtualLinkKind};
    let mut scene = Scene::new();
    scene.engine = Engine::Ipvs;
    let there = |scene: &Scene| scene.table().virtual_servers.contains_key(&key(VIP));
    let vip = |device: &str| (device.to_owned(), "192.0.2.10/24".parse().expect("prefix"));
    for link in ["vrrp.51", "vrrp4.52"] {
        scene.host.addresses = [vip(link)].into_iter().collect();
        assert!(!there(&scene), "{link} is nobody's yet");
    }
    let kind = VirtualLinkKind::Macvlan { mac: None };
    let host = &mut scene.config.vrrp_instances[0].on_host;
    host.virtual_link = Some(VirtualLink { name: "vrrp.51".to_owned(), kind, xmit_base: false });
    host.address_links =
        vec![AddressLink { name: "vrrp4.52".to_owned(), base: "eth1".to_owned(), ipv6: false }];
    for link in ["vrrp.51", "vrrp4.52"] {
        scene.host.addresses = [vip(link)].into_iter().collect();
        assert!(there(&scene), "{link}");
    }
}
