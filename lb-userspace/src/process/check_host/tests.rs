use super::*;

fn card(name: &str) -> Interface {
    Interface {
        name: name.to_owned(),
        driver: Some("ixgbe".to_owned()),
        mtu: 1500,
        nic: true,
        named: false,
        native: Native::Yes,
        lro: Some(false),
    }
}

fn host(interfaces: Vec<Interface>) -> Facts {
    Facts {
        release: "6.12.1".to_owned(),
        program: Ok(vec![115_624, 128_248]),
        ipvs: Ok(()),
        schedulers: vec![("rr", Module::Here), ("mh", Module::Loadable)],
        tcx: true,
        clsact: Module::Loadable,
        nftables: Module::Here,
        forwarding: vec![("net.ipv4.ip_forward", Some(false))],
        interfaces,
        absent: Vec::new(),
    }
}

fn about<'a>(report: &'a Report, name: &str) -> Vec<&'a Finding> {
    report.findings.iter().filter(|it| it.about.starts_with(name)).collect()
}

#[test]
fn a_good_host_has_nothing_to_change() {
    let report = judge(&host(vec![card("eth0")]));
    assert_eq!((report.engine, report.code()), (Verdict::Xdp, 0));
    let bad = |it: &&Finding| matches!(it.level, Level::Change | Level::Missing);
    assert_eq!(report.findings.iter().find(bad), None);
    let text = report.text();
    for part in ["Linux 6.12.1", "115624 and 128248", "eth0 (ixgbe)", "tcx and clsact"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let json = serde_json::to_value(&report).expect("JSON");
    assert_eq!(json["engine"], "xdp");
    assert_eq!(json["findings"][0]["level"], "good");
    assert!(json["findings"][0].get("advice").is_none());
}

#[test]
fn without_the_program_it_is_ipvs_and_nat_wants_forwarding() {
    let mut facts = host(vec![card("eth0")]);
    facts.program = Err("load the program lbd_xdp: no".to_owned());
    let report = judge(&facts);
    assert_eq!((report.engine, report.code()), (Verdict::Ipvs, 1));
    let forward = about(&report, "net.ipv4.ip_forward");
    assert_eq!(forward[0].level, Level::Change);
    assert!(report.summary.contains("without a fence"), "{}", report.summary);
    facts.ipvs = Err("the kernel has no IPVS".to_owned());
    let report = judge(&facts);
    assert_eq!((report.engine, report.code()), (Verdict::None, 2));
    assert!(report.text().contains("load the program lbd_xdp: no"));
}

#[test]
fn a_card_without_xdp_decides_and_a_bridge_nobody_named_does_not() {
    let bridge = Interface {
        driver: Some("bridge".to_owned()),
        nic: false,
        native: Native::No,
        ..card("docker0")
    };
    let report = judge(&host(vec![card("eth0"), bridge.clone()]));
    assert_eq!(report.engine, Verdict::Xdp);
    let named = Interface { named: true, ..bridge };
    let without_tc = |interfaces| Facts { tcx: false, clsact: Module::Missing, ..host(interfaces) };
    let report = judge(&without_tc(vec![card("eth0"), named.clone()]));
    assert_eq!(report.engine, Verdict::Ipvs);
    assert_eq!(about(&report, "docker0")[0].level, Level::Missing);
    let report = judge(&host(vec![card("eth0"), named]));
    assert_eq!(report.engine, Verdict::Xdp, "tc takes it");
    assert_eq!(about(&report, "docker0")[0].level, Level::Good);
    for native in [Native::No, Native::Refused("attach to eth1: too few queues".to_owned())] {
        let interfaces = vec![card("eth0"), Interface { native, ..card("eth1") }];
        let report = judge(&without_tc(interfaces.clone()));
        assert_eq!(report.engine, Verdict::Ipvs);
        let report = judge(&host(interfaces));
        assert_eq!(report.engine, Verdict::Xdp);
        assert_eq!(about(&report, "eth1")[0].level, Level::Note);
    }
    let mut facts = host(vec![card("eth0")]);
    facts.absent = vec!["eth9".to_owned()];
    let report = judge(&facts);
    assert_eq!(about(&report, "eth9")[0].level, Level::Missing);
    assert_ne!(report.code(), 0, "what was asked for is not there");
}

#[test]
fn what_hurts_has_its_remedy() {
    let bad = Interface {
        driver: Some("virtio_net".to_owned()),
        mtu: 9000,
        lro: Some(true),
        native: Native::Unknown,
        ..card("eth0")
    };
    let report = judge(&host(vec![bad]));
    let advice: Vec<&str> =
        about(&report, "eth0").iter().filter_map(|it| it.advice.as_deref()).collect();
    for part in ["--attach", "ethtool -K eth0 lro off", "mtu 1500"] {
        assert!(advice.iter().any(|it| it.contains(part)), "{part}: {advice:?}");
    }
    assert!(report.summary.contains("not known of all"), "{}", report.summary);
    let veth = Interface { driver: Some("veth".to_owned()), ..card("eth0") };
    let report = judge(&host(vec![veth]));
    assert!(about(&report, "eth0")[0].advice.as_deref().is_some_and(|it| it.contains("PEER")));
    let veth = Interface { driver: Some("veth".to_owned()), ..card("eth0") };
    let without_tc = Facts { tcx: false, clsact: Module::Missing, ..host(vec![veth]) };
    let report = judge(&without_tc);
    assert_eq!((report.engine, about(&report, "eth0")[0].level), (Verdict::Xdp, Level::Change));
    assert!(about(&report, "eth0")[0].advice.as_deref().is_some_and(|it| it.contains("cls_bpf")));
    let foreign = Interface { native: Native::Foreign(7), ..card("eth0") };
    let report = judge(&host(vec![foreign]));
    assert_eq!(about(&report, "eth0")[0].level, Level::Change);
    let mut facts = host(Vec::new());
    facts.schedulers = vec![("rr", Module::Here), ("mh", Module::Missing)];
    (facts.tcx, facts.clsact) = (false, Module::Missing);
    let report = judge(&facts);
    assert!(about(&report, "ipvs")[0].text.ends_with("schedulers mh"), "{report:?}");
    assert!(about(&report, "tc hook")[0].text.starts_with("neither"), "{report:?}");
}
