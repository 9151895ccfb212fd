use super::*;

fn has(other: &str) -> Around {
    Around { has_tc: Some(other.to_owned()), ..Around::default() }
}

fn will(other: &str) -> Around {
    Around { will_have_tc: Some(other.to_owned()), ..Around::default() }
}

fn without_tc(around: Around) -> Around {
    Around { no_tc: Some("the kernel has no tc".to_owned()), ..around }
}

#[test]
fn the_hook_is_chosen_by_driver_unless_it_is_named() {
    use XdpMode::{Auto, Generic, Native};
    let chosen =
        |hook, xdp_mode, driver| choose(Attachment { hook, xdp_mode }, driver, &Around::default());
    for driver in ["veth", "bridge", "tun"] {
        let (choice, reason) = chosen(Hook::Auto, Auto, driver);
        assert_eq!(choice, Choice::TcElseXdp, "{driver}");
        assert!(reason.contains(driver), "{reason}");
    }
    for driver in ["mlx5_core", "virtio_net", "bonding", "802.1Q VLAN Support", ""] {
        assert_eq!(chosen(Hook::Auto, Auto, driver).0, Choice::XdpElseTc, "{driver}");
    }
    for driver in ["veth", "mlx5_core"] {
        for (hook, mode, choice) in [
            (Hook::Xdp, Auto, Choice::Xdp(Mode::Native)),
            (Hook::Xdp, Generic, Choice::Xdp(Mode::Generic)),
            (Hook::Auto, Native, Choice::Xdp(Mode::Native)),
            (Hook::Auto, Generic, Choice::Xdp(Mode::Generic)),
            (Hook::Tc, Auto, Choice::Tc),
        ] {
            assert_eq!(chosen(hook, mode, driver).0, choice, "{driver} {hook:?} {mode:?}");
        }
    }
}

#[test]
fn one_interface_with_tc_takes_all_of_auto_there() {
    let auto = Attachment::default();
    let (choice, reason) = choose(auto, "mlx5_core", &has("eth1"));
    assert_eq!(choice, Choice::Tc);
    assert!(reason.contains("eth1"), "{reason}");
    assert_eq!(choose(auto, "mlx5_core", &will("eth1")).0, Choice::TcElseXdp);
    assert!(fits(auto, Mode::Native, &Around::default()));
    assert!(!fits(auto, Mode::Native, &has("eth1")));
    assert!(fits(auto, Mode::Tcx, &has("eth1")));
    // By name it is the operator's affair.
    let named = Attachment::XDP;
    assert_eq!(choose(named, "mlx5_core", &has("eth1")).0, Choice::Xdp(Mode::Native));
    assert!(fits(named, Mode::Native, &has("eth1")));
}

#[test]
fn on_a_host_without_tc_nobody_has_it_or_will() {
    let auto = Attachment::default();
    for driver in SOFTWARE {
        for around in [Around::default(), will("eth1")] {
            let (choice, reason) = choose(auto, driver, &without_tc(around));
            assert_eq!(choice, Choice::Xdp(Mode::Native), "{driver}");
            assert!(reason.contains("no tc") && reason.contains(driver), "{reason}");
        }
    }
    let (choice, _) = choose(auto, "mlx5_core", &without_tc(will("eth1")));
    assert_eq!(choice, Choice::XdpElseTc);
    assert!(fits(auto, Mode::Native, &without_tc(will("eth1"))));
    // What is there refutes what an attempt said.
    assert_eq!(choose(auto, "veth", &without_tc(has("eth1"))).0, Choice::Tc);
}

#[test]
fn auto_keeps_what_is_there_but_never_generic_xdp() {
    let kept = |hook, xdp_mode| {
        let wanted = Attachment { hook, xdp_mode };
        let fits = move |mode: &Mode| fits(wanted, *mode, &Around::default());
        Mode::ALL.into_iter().filter(fits)
    };
    let list = |hook, mode| kept(hook, mode).collect::<Vec<_>>();
    assert_eq!(list(Hook::Auto, XdpMode::Auto), [Mode::Native, Mode::Tcx, Mode::Clsact]);
    assert_eq!(list(Hook::Xdp, XdpMode::Auto), [Mode::Native]);
    assert_eq!(list(Hook::Auto, XdpMode::Generic), [Mode::Generic]);
    assert_eq!(list(Hook::Tc, XdpMode::Auto), [Mode::Tcx, Mode::Clsact]);
}

fn errno(errno: Errno) -> io::Error {
    io::Error::from_raw_os_error(errno as i32)
}

/// What becomes of a choice when XDP and tc say this, if they are asked.
fn placed(
    choice: Choice,
    tries: u32,
    xdp: Option<Errno>,
    tc: Option<Errno>,
) -> Result<Placed, AttachError> {
    let xdp = |_| xdp.map_or(Ok(()), |it| Err(refusal("eth0", errno(it), || None)));
    let tc = || tc.map_or(Ok(Mode::Tcx), |it| Err(tc_error("eth0", errno(it))));
    place("eth0", (choice, "first".to_owned()), "veth", tries, xdp, tc)
}

#[test]
fn a_host_without_tc_takes_native_xdp_and_says_so() {
    for refused in [Errno::ENOENT, Errno::EOPNOTSUPP, Errno::EPERM] {
        let placed = placed(Choice::TcElseXdp, 0, None, Some(refused)).expect("native XDP");
        assert_eq!(placed.mode, Mode::Native);
        assert!(placed.no_tc.is_some() && placed.reason.contains("driver veth"), "{placed:?}");
    }
    let neither = placed(Choice::TcElseXdp, 0, Some(Errno::EOPNOTSUPP), Some(Errno::ENOENT));
    let neither = neither.expect_err("neither");
    assert_eq!(neither.kind(), FailureKind::Hopeless);
    let text = neither.to_string();
    assert!(text.contains("no native XDP") && text.contains("tcx"), "{text}");
    // Another interface has it: the two hooks would not meet.
    let error = placed(Choice::Tc, 0, None, Some(Errno::ENOENT)).expect_err("no mixture");
    assert!(matches!(error, AttachError::NoTc(..)), "{error}");
    let error = placed(Choice::XdpElseTc, 0, Some(Errno::EOPNOTSUPP), Some(Errno::ENOENT));
    assert!(matches!(error, Err(AttachError::Neither(..))), "{error:?}");
    let error = place(
        "tun0",
        (Choice::TcElseXdp, String::new()),
        "tun",
        0,
        |_| unreachable!("XDP wants Ethernet too"),
        || Err(AttachError::NoEthernet("tun0".to_owned())),
    );
    assert!(matches!(error, Err(AttachError::NoEthernet(_))), "{error:?}");
}

#[test]
fn what_may_pass_is_tried_again_and_decides_nothing() {
    let moments = [Errno::EBUSY, Errno::EAGAIN, Errno::ENOMEM, Errno::ENOBUFS, Errno::ENETDOWN];
    for moment in moments {
        for choice in [Choice::XdpElseTc, Choice::TcElseXdp, Choice::Tc, Choice::Xdp(Mode::Native)]
        {
            let error = placed(choice, 0, Some(moment), Some(moment)).expect_err("not now");
            assert_eq!(error.kind(), FailureKind::Passing, "{moment} {choice:?}");
            assert!(error.to_string().ends_with("lbd tries again"), "{error}");
        }
        // Who says it for ever, means something else by it.
        let late = placed(Choice::XdpElseTc, PATIENCE, Some(moment), None).expect("tc");
        assert_eq!(late.mode, Mode::Tcx, "{moment}");
        let late = placed(Choice::TcElseXdp, PATIENCE, None, Some(moment)).expect("native XDP");
        assert_eq!(late.mode, Mode::Native, "{moment}");
        let named = placed(Choice::Xdp(Mode::Native), PATIENCE, Some(moment), None);
        let named = named.expect_err("as the operator wants it, or not at all");
        assert_eq!(named.kind(), FailureKind::Passing, "{moment}");
    }
    for (gone, choice) in [(Errno::ENODEV, Choice::XdpElseTc), (Errno::ENODEV, Choice::TcElseXdp)] {
        let error = placed(choice, 0, Some(gone), Some(gone)).expect_err("it is gone");
        assert_eq!(error.kind(), FailureKind::Absent, "{error}");
    }
    // A program that is known to be there is no matter of the moment.
    let busy = refusal("eth0", errno(Errno::EBUSY), || Some("program 7".to_owned()));
    assert!(busy.to_string().contains("program 7 is there"), "{busy}");
}
