//! The shipped kernel object, packet by packet, under `BPF_PROG_TEST_RUN`: which outcome is
//! counted, what the kernel is told to do with the frame, and what the frame looks like then.
//! Checksums are verified by etherparse over the bytes that come out.

use std::net::Ipv4Addr;

use lb_common::{
    abi::{self, Addr, Real, Service, be16, macs},
    maps,
    verdict::Outcome,
};
use lb_tests::packet::{
    build::{
        ACK, FIN, GATEWAY_MAC, LB_MAC, PSH, RST, SYN, Tcp, arp, is_six, is_tc, mac, ping, udp,
        vlan, with_ip, with_ip_options,
    },
    engine::{Engine, addr},
};

use lb_tests::packet::bed::*;

#[test]
fn dr_changes_nothing_but_macs() {
    let Some(mut bed) = Bed::new(abi::SCHED_RR, DR, &[(1, 1)]) else { return };
    let syn = Tcp::new(CLIENT, VIP, SYN).syn_options();
    assert_dr(&syn, &bed.expect(&syn, Outcome::Scheduled), 1);
    assert_dr(&syn, &bed.expect(&syn, Outcome::SynRepeated), 1);
    assert_eq!(bed.engine.conns(1).expect("conns"), 0, "a SYN is no connection yet");
    let ack = Tcp::new(CLIENT, VIP, ACK);
    assert_dr(&ack, &bed.expect(&ack, Outcome::Promoted), 1);
    assert_eq!(bed.engine.conns(1).expect("conns"), 1);
    for payload in [b"".as_slice(), b"x", b"select 1", &[7; 1446]] {
        let data = Tcp::new(CLIENT, VIP, ACK | PSH).payload(payload);
        assert_dr(&data, &bed.expect(&data, Outcome::DrForwarded), 1);
    }
    let flow = bed.engine.flow(CLIENT, VIP).expect("read").expect("a flow");
    assert_eq!((flow.real, flow.generation, flow.packets), (1, 7, 7));
    assert_eq!(flow.seq_end, 0x1000_0000 + 1446);
    assert_eq!(flow.ack, 0x7fff_fff0);
    let stats = bed.engine.real_stats(1).expect("stats");
    assert_eq!((stats.packets, stats.connections), (7, 1));
    assert_eq!(stats.bytes, flow.bytes);
    let stats = bed.engine.service_stats(SERVICE).expect("stats");
    assert_eq!((stats.scheduled, stats.resets), (1, 0));
}

#[test]
fn nat_rewrites_both_ways() {
    let Some(mut bed) = Bed::new(abi::SCHED_WLC, NAT, &[(1, 1)]) else { return };
    let to_server = |sent: &Tcp| Tcp {
        to_mac: mac(101),
        from_mac: LB_MAC,
        dst: server(1).0,
        dport: server(1).1,
        ..sent.clone()
    };
    let reply = |flags, payload: &[u8]| Tcp {
        from_mac: mac(101),
        ..Tcp::new(server(1), CLIENT, flags).payload(payload)
    };
    let to_client = |sent: &Tcp| Tcp {
        to_mac: GATEWAY_MAC,
        from_mac: LB_MAC,
        src: VIP.0,
        sport: VIP.1,
        ..sent.clone()
    };
    let syn = Tcp::new(CLIENT, VIP, SYN).syn_options();
    assert_eq!(bed.expect(&syn, Outcome::Scheduled), to_server(&syn));
    // The SYN-ACK finds the embryo.
    let syn_ack = reply(SYN | ACK, b"");
    assert_eq!(bed.expect(&syn_ack, Outcome::NatReply), to_client(&syn_ack));
    let ack = Tcp::new(CLIENT, VIP, ACK);
    assert_eq!(bed.expect(&ack, Outcome::Promoted), to_server(&ack));
    for payload in [b"".as_slice(), b"odd", b"even", &[255; 1446], &[0; 1445]] {
        let query = Tcp::new(CLIENT, VIP, ACK | PSH).payload(payload);
        assert_eq!(bed.expect(&query, Outcome::NatForwarded), to_server(&query));
        let answer = reply(ACK | PSH, payload);
        assert_eq!(bed.expect(&answer, Outcome::NatReply), to_client(&answer));
    }
    let stats = bed.engine.real_stats(1).expect("stats");
    assert_eq!((stats.packets, stats.reply_packets, stats.connections), (7, 6, 1));
    assert_eq!(bed.engine.conns(1).expect("conns"), 1);

    // The client's gateway fails over: replies follow it.
    let moved = Tcp { from_mac: mac(77), ..Tcp::new(CLIENT, VIP, ACK) };
    bed.expect(&moved, Outcome::NatForwarded);
    assert_eq!(bed.expect(&reply(ACK, b""), Outcome::NatReply).to_mac, mac(77));

    // The server's RST ends the connection for the counters too.
    let flow = bed.engine.flow(CLIENT, VIP).expect("read").expect("flow");
    bed.expect(&reply(RST | ACK, b"").numbers(flow.ack, 0), Outcome::NatReply);
    assert_eq!(bed.engine.conns(1).expect("conns"), 0);
}

#[test]
fn a_nic_sends_back_what_came_in_by_it() {
    const IN: u32 = 1; // of test runs
    for method in [DR, NAT] {
        let Some(mut bed) = Bed::new(abi::SCHED_RR, method, &[(1, 1)]) else { return };
        let passed = if method == NAT { Outcome::NatForwarded } else { Outcome::DrForwarded };
        bed.connect(CLIENT);
        let data = Tcp::new(CLIENT, VIP, ACK | PSH).payload(b"x");
        let reply = Tcp::new(server(1), CLIENT, ACK);
        let redirected = bed.expect(&data, passed);
        bed.set(1, |real| (real.flags, real.ifindex) = (real.flags | abi::FLAG_TX, IN));
        assert_eq!(bed.expect_back(&data, passed), redirected);
        if method == NAT {
            assert_eq!(bed.expect_back(&reply, Outcome::NatReply).to_mac, GATEWAY_MAC);
        }
        // A NIC, but not the one it came in by.
        bed.set(1, |real| real.ifindex = IN + 1);
        assert_eq!(bed.expect(&data, passed), redirected);
        if method == NAT {
            bed.expect(&reply, Outcome::NatReply);
        }
    }
}

#[test]
fn nat_checksums_hold_for_any_address() {
    let Some(mut bed) = Bed::new(abi::SCHED_RR, NAT, &[(1, 1)]) else { return };
    // Sums that fold twice, end in zero or in all ones.
    for (host, port) in [(0, 1), (255, 65_535), (1, 32_768), (127, 255), (128, 256)] {
        let client = (Ipv4Addr::new(host, 255, 0, host), port);
        for payload in [&[0xff; 3][..], &[0; 8], &[0xff, 0xfe]] {
            for seq in [0, u32::MAX, 0x8000_0000] {
                let syn = Tcp::new(client, VIP, SYN).payload(payload).numbers(seq, 0);
                let ran = bed.run(&syn.frame());
                assert_eq!(Tcp::read(&ran.frame).dst, server(1).0);
                let reply = Tcp::new(server(1), client, SYN | ACK).payload(payload);
                assert_eq!(bed.expect(&reply, Outcome::NatReply).src, VIP.0);
            }
        }
    }
}

#[test]
fn what_is_not_ours_passes_untouched() {
    let Some(mut bed) = Bed::new(abi::SCHED_RR, NAT, &[(1, 1)]) else { return };
    let other = (Ipv4Addr::new(10, 9, 8, 7), 3306);
    let syn = Tcp::new(CLIENT, VIP, SYN).frame();
    let ipv6 = [&LB_MAC[..], &GATEWAY_MAC, &[0x86, 0xdd], &[0x60; 60]].concat();
    let lldp = [&LB_MAC[..], &GATEWAY_MAC, &[0x88, 0xcc], &[0; 60]].concat();
    let mut double = vlan(&vlan(&syn, 20), 10);
    double[12..14].copy_from_slice(&[0x88, 0xa8]);
    let mut rows = vec![
        (Tcp::new(CLIENT, other, SYN).frame(), Outcome::Foreign),
        (Tcp::new(other, CLIENT, ACK).frame(), Outcome::Foreign),
        (udp(CLIENT, other), Outcome::Foreign),
        (vlan(&syn, 10), Outcome::Vlan),
        (double, Outcome::Vlan),
        (ipv6, Outcome::Foreign),
        (lldp, Outcome::NotIp),
        (ping(CLIENT.0, VIP.0), Outcome::VipIcmp),
        (udp(CLIENT, VIP), Outcome::VipProtocol),
        (Tcp::new(CLIENT, (VIP.0, 22), SYN).frame(), Outcome::NoVirtualServer),
        (Tcp::new(CLIENT, (BARE_VIP, 3306), SYN).frame(), Outcome::NoVirtualServer),
        (arp(1, CLIENT.0, VIP.0), Outcome::Arp),
        (arp(1, CLIENT.0, other.0), Outcome::Arp),
        // A real server's own business.
        (Tcp::new((server(1).0, 22), CLIENT, ACK).frame(), Outcome::ServerOther),
        (udp(server(1), CLIENT), Outcome::ServerOther),
    ];
    if !is_six() {
        let options = |dst| with_ip_options(&Tcp::new(CLIENT, dst, ACK).frame());
        rows.push((options(other), Outcome::Foreign));
        rows.push((options((BARE_VIP, 22)), Outcome::NoVirtualServer));
    }
    for (frame, outcome) in rows {
        assert_eq!(bed.run(&frame).outcome, outcome);
    }
}

#[test]
fn probe_replies_to_this_host_pass() {
    let Some(mut bed) = Bed::new(abi::SCHED_RR, NAT, &[(1, 1)]) else { return };
    let own = (Ipv4Addr::new(172, 16, 0, 254), 50_000);
    let reply = Tcp::new(server(1), own, SYN | ACK).frame();
    bed.engine
        .hash::<Addr, u8>(maps::LOCALS)
        .and_then(|mut locals| Ok(locals.insert(addr(own.0), 1, 0)?))
        .expect("locals");
    assert_eq!(bed.run(&reply).outcome, Outcome::OwnAddress);
}

#[test]
fn local_real_server_gets_the_packet_unchanged() {
    let Some(mut bed) = Bed::new(abi::SCHED_RR, abi::METHOD_LOCAL, &[(1, 1)]) else { return };
    for flags in [SYN, ACK, ACK | PSH, ACK | FIN] {
        assert_eq!(bed.run(&Tcp::new(CLIENT, VIP, flags).frame()).outcome, Outcome::Local);
    }
    // It is a connection like any other: counted, and sticky.
    assert_eq!(bed.engine.real_stats(1).expect("stats").connections, 1);
    bed.engine.lease(GATE, abi::LEASE_FENCED).expect("lease");
    assert_eq!(bed.run(&Tcp::new(CLIENT, VIP, ACK).frame()).outcome, Outcome::Fenced);
}

#[test]
fn fragments_options_and_nonsense_are_named_drops() {
    if is_six() {
        return; // `xdp_six` has its own
    }
    let Some(mut bed) = Bed::new(abi::SCHED_RR, DR, &[(1, 1)]) else { return };
    bed.connect(CLIENT);
    let data = Tcp::new(CLIENT, VIP, ACK | PSH).payload(&[9; 64]).frame();
    let first = with_ip(&data, |ip| ip[6..8].copy_from_slice(&0x2000u16.to_be_bytes()));
    let later = with_ip(&data, |ip| ip[6..8].copy_from_slice(&0x0010u16.to_be_bytes()));
    let total = |len: u16| with_ip(&data, |ip| ip[2..4].copy_from_slice(&len.to_be_bytes()));
    let mut offset_short = data.clone();
    offset_short[46] = 4 << 4;
    let mut offset_long = Tcp::new(CLIENT, VIP, ACK).frame();
    offset_long[46] = 15 << 4;
    for (frame, outcome) in [
        (first, Outcome::Fragment),
        (later, Outcome::Fragment),
        (with_ip_options(&data), Outcome::IpOptions),
        (with_ip(&data, |ip| ip[0] = 0x44), Outcome::Malformed),
        (with_ip(&data, |ip| ip[0] = 0x65), Outcome::Malformed),
        (total(39), Outcome::Malformed),
        (total(0), Outcome::Malformed),
        (total(2000), Outcome::Malformed),
        (offset_short, Outcome::Malformed),
        (offset_long, Outcome::Malformed),
        (Tcp::new(client(1), VIP, SYN | ACK).frame(), Outcome::BadFlags),
        (Tcp::new(client(1), VIP, SYN | FIN).frame(), Outcome::BadFlags),
        (Tcp::new(client(1), VIP, SYN | RST).frame(), Outcome::BadFlags),
        (Tcp::new(client(1), VIP, FIN).frame(), Outcome::BadFlags),
        (Tcp::new(client(1), VIP, 0).frame(), Outcome::BadFlags),
    ] {
        assert_eq!(bed.run(&frame).outcome, outcome);
    }
    // What has DF but is no fragment goes on.
    let whole = with_ip(&data, |ip| ip[6..8].copy_from_slice(&0x4000u16.to_be_bytes()));
    assert_eq!(bed.run(&whole).outcome, Outcome::DrForwarded);
}

#[test]
fn truncated_at_every_length() {
    let Some(mut bed) = Bed::new(abi::SCHED_RR, DR, &[(1, 1)]) else { return };
    bed.connect(CLIENT);
    let whole = Tcp::new(CLIENT, VIP, ACK | PSH).payload(&[1; 20]).frame();
    // A test run takes frames of 14 bytes and more, one of tc those with a whole IP header only.
    let shortest = if is_tc() { if is_six() { 54 } else { 34 } } else { 14 };
    for len in shortest..whole.len() {
        let outcome = bed.run(&whole[..len]).outcome;
        let headers = if is_six() { 54 } else { 34 };
        let expected = if len < headers { Outcome::Short } else { Outcome::Malformed };
        assert_eq!(outcome, expected, "{len} bytes");
    }
    assert_eq!(bed.run(&whole).outcome, Outcome::DrForwarded);
    let ask = arp(1, CLIENT.0, VIP.0);
    for len in 14..42 {
        assert_eq!(bed.run(&ask[..len]).outcome, Outcome::Short, "ARP of {len} bytes");
    }
}

#[test]
fn fenced_vip_is_silent() {
    let Some(mut bed) = Bed::new(abi::SCHED_WLC, NAT, &[(1, 1)]) else { return };
    bed.connect(CLIENT);
    bed.expect(&Tcp::new(client(1), VIP, SYN), Outcome::Scheduled);
    // Fenced by order, and by a lease that ran out a while after boot: both are in the past.
    for lease in [abi::LEASE_FENCED, 2] {
        bed.engine.lease(GATE, lease).expect("lease");
        for frame in [
            Tcp::new(CLIENT, VIP, ACK).frame(),
            Tcp::new(CLIENT, VIP, SYN).frame(),
            Tcp::new(client(1), VIP, ACK).frame(),
            Tcp::new(client(2), VIP, SYN).frame(),
            Tcp::new(client(2), VIP, ACK).frame(),
            Tcp::new(server(1), CLIENT, ACK).frame(),
            Tcp::new(server(1), client(1), SYN | ACK).frame(),
            Tcp::new(server(1), client(9), ACK).frame(),
            Tcp::new(CLIENT, (VIP.0, 22), SYN).frame(),
            Tcp::new(CLIENT, (BARE_VIP, 3306), SYN).frame(),
            udp(CLIENT, VIP),
            ping(CLIENT.0, VIP.0),
            ping(CLIENT.0, BARE_VIP),
        ] {
            assert_eq!(bed.run(&frame).outcome, Outcome::Fenced);
        }
        if is_six() {
            continue; // neighbour solicitations: `xdp_ipv6`
        }
        let options = with_ip_options(&Tcp::new(CLIENT, VIP, ACK).frame());
        assert_eq!(bed.run(&options).outcome, Outcome::Fenced);
        for frame in [arp(1, CLIENT.0, VIP.0), arp(1, CLIENT.0, BARE_VIP), arp(2, VIP.0, VIP.0)] {
            assert_eq!(bed.run(&frame).outcome, Outcome::FencedArp);
        }
        // Others' ARP is none of our business, even with the VIP as sender.
        assert_eq!(bed.run(&arp(1, VIP.0, CLIENT.0)).outcome, Outcome::Arp);
    }
    // Mastership back: the flow is still there.
    bed.engine.lease(GATE, abi::LEASE_ALWAYS).expect("lease");
    bed.expect(&Tcp::new(CLIENT, VIP, ACK), Outcome::NatForwarded);
}

#[test]
fn standby_passes_everything() {
    let Some(mut bed) = Bed::new(abi::SCHED_WLC, NAT, &[(1, 1)]) else { return };
    bed.connect(CLIENT);
    bed.expect(&Tcp::new(client(1), VIP, SYN), Outcome::Scheduled);
    bed.engine.lease(GATE, abi::LEASE_STANDBY).expect("lease");
    for frame in [
        Tcp::new(CLIENT, VIP, ACK).frame(),
        Tcp::new(client(1), VIP, ACK).frame(),
        Tcp::new(client(2), VIP, SYN).frame(),
        Tcp::new(client(2), VIP, ACK).frame(),
        Tcp::new(CLIENT, (BARE_VIP, 22), SYN).frame(),
        Tcp::new(server(1), CLIENT, ACK).frame(),
        Tcp::new(server(1), client(9), ACK).frame(),
        ping(CLIENT.0, VIP.0),
    ] {
        assert_eq!(bed.run(&frame).outcome, Outcome::Standby);
    }
    if !is_six() {
        let options = with_ip_options(&Tcp::new(CLIENT, VIP, ACK).frame());
        assert_eq!(bed.run(&options).outcome, Outcome::Standby);
    }
    assert_eq!(bed.run(&arp(1, CLIENT.0, VIP.0)).outcome, Outcome::Arp);
}

#[test]
fn lease_runs_out_by_itself() {
    let Some(mut bed) = Bed::new(abi::SCHED_RR, DR, &[(1, 1)]) else { return };
    let clock = |engine: &Engine| engine.clock().expect("clock program");
    let (jiffies, before) = clock(&bed.engine);
    assert!(jiffies > 0 && before > 0);
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    let end = loop {
        let end = clock(&bed.engine).0 + 20;
        bed.engine.lease(GATE, end).expect("lease");
        let outcome = bed.run(&Tcp::new(CLIENT, VIP, SYN).frame()).outcome;
        let (now, _) = clock(&bed.engine);
        // Whoever was not run for 20 ticks has missed this lease, and takes another one.
        if outcome != Outcome::Fenced || now < end || std::time::Instant::now() >= deadline {
            assert_eq!(outcome, Outcome::Scheduled, "{end} at {now}");
            break end;
        }
    };
    loop {
        let outcome = bed.run(&Tcp::new(CLIENT, VIP, SYN).frame()).outcome;
        let (jiffies, now) = clock(&bed.engine);
        assert!(now > before);
        if outcome == Outcome::Fenced {
            assert!(jiffies >= end, "fenced {} ticks early", end - jiffies);
            break;
        }
        assert!(std::time::Instant::now() < deadline, "a lease of 20 ticks still runs");
    }
}

#[test]
fn dead_server_resets_its_clients() {
    for method in [DR, NAT] {
        let Some(mut bed) = Bed::new(abi::SCHED_RR, method, &[(1, 1), (2, 1)]) else { return };
        let id = bed.connect(CLIENT);
        let other = 3 - id;
        bed.select(&[(other, 1)]);
        bed.set(id, |real| {
            real.generation += 1;
            real.state = abi::STATE_DOWN;
        });
        let dying = Tcp::new(CLIENT, VIP, ACK | PSH).payload(&[5; 700]).numbers(77, 0xfeed_beef);
        let ran = bed.run(&dying.frame());
        assert_eq!(ran.outcome, Outcome::ResetDead);
        assert_eq!(ran.frame.len(), shortest().max(60), "nothing of the payload goes back");
        assert!(ran.frame[shortest()..].iter().all(|byte| *byte == 0));
        assert_reset(&Tcp::read(&trimmed(&ran.frame)), &dying);
        // A frame without padding is not made longer.
        let ran = bed.run(&Tcp::new(CLIENT, VIP, ACK).numbers(5, 0).frame());
        assert_eq!((ran.outcome, ran.frame.len()), (Outcome::ResetDead, shortest()));
        Tcp::read(&ran.frame);
        // No RST in answer to a RST.
        assert_eq!(
            bed.run(&Tcp::new(CLIENT, VIP, RST | ACK).frame()).outcome,
            Outcome::RstUnmatched
        );
        // The server comes back: the old flow stays dead, the client's next SYN is free to go on.
        bed.set(id, |real| real.state = abi::STATE_UP);
        assert_eq!(bed.run(&dying.frame()).outcome, Outcome::ResetDead);
        assert_eq!(bed.connect(CLIENT), other);
        assert_eq!(bed.engine.service_stats(SERVICE).expect("stats").resets, 3);
    }
}

#[test]
fn dead_nat_server_that_still_speaks_resets_the_client_too() {
    let Some(mut bed) = Bed::new(abi::SCHED_RR, NAT, &[(1, 1)]) else { return };
    bed.connect(CLIENT);
    bed.set(1, |real| {
        real.generation += 1;
        real.state = abi::STATE_DOWN;
    });
    let answer = Tcp::new(server(1), CLIENT, ACK | PSH).payload(&[3; 300]).numbers(900, 44);
    let ran = bed.run(&answer.frame());
    assert_eq!(ran.outcome, Outcome::ResetDead);
    let reset = Tcp::read(&trimmed(&ran.frame));
    assert_eq!(
        (reset.src, reset.sport, reset.dst, reset.dport),
        (VIP.0, VIP.1, CLIENT.0, CLIENT.1)
    );
    assert_eq!((reset.flags, reset.seq, reset.ack), (RST | ACK, 900, 44));
    assert_eq!(reset.to_mac, GATEWAY_MAC);
}

#[test]
fn kept_and_drained_servers_keep_their_flows() {
    let Some(mut bed) = Bed::new(abi::SCHED_RR, DR, &[(1, 1), (2, 1)]) else { return };
    let id = bed.connect(CLIENT);
    bed.select(&[(3 - id, 1)]);
    for change in [(|real: &mut Real| real.state = abi::STATE_DRAIN) as fn(&mut Real), |real| {
        (real.state, real.flags) = (abi::STATE_DOWN, real.flags | abi::FLAG_KEEP)
    }] {
        bed.set(id, change);
        let got = bed.expect(&Tcp::new(CLIENT, VIP, ACK), Outcome::DrForwarded);
        assert_eq!(server_of(&got), id, "the old flow goes on");
    }
    for index in 0..20 {
        assert_eq!(bed.connect(client(index)), 3 - id, "new ones go elsewhere");
    }
}

#[test]
fn unresolved_next_hop_is_a_named_drop() {
    let Some(mut bed) = Bed::new(abi::SCHED_RR, DR, &[(1, 1)]) else { return };
    bed.connect(CLIENT);
    bed.set(1, |real| real.flags = 0);
    let ack = Tcp::new(CLIENT, VIP, ACK);
    assert_eq!(bed.run(&ack.frame()).outcome, Outcome::NextHopUnresolved);
    // A neighbour's new address is used from the next packet on.
    bed.set(1, |real| (real.flags, real.macs) = (abi::FLAG_RESOLVED, macs(mac(200), mac(201))));
    let got = bed.expect(&ack, Outcome::DrForwarded);
    assert_eq!((got.to_mac, got.from_mac), (mac(200), mac(201)));
}

#[test]
fn no_selectable_server_refuses_at_once() {
    let Some(mut bed) = Bed::new(abi::SCHED_WLC, DR, &[(1, 1)]) else { return };
    bed.select(&[]);
    let syn = Tcp::new(CLIENT, VIP, SYN).syn_options().numbers(41, 0);
    let ran = bed.run(&syn.frame());
    assert_eq!(ran.outcome, Outcome::NoRealServer);
    let reset = Tcp::read(&trimmed(&ran.frame));
    // What a closed port says: the client gives up with "connection refused".
    assert_eq!((reset.flags, reset.seq, reset.ack), (RST | ACK, 0, 42));
    assert_eq!((reset.src, reset.dst, reset.to_mac), (VIP.0, CLIENT.0, GATEWAY_MAC));
    assert_eq!(bed.engine.service_stats(SERVICE).expect("stats").unavailable, 1);
}

#[test]
fn two_virtual_servers_share_a_nat_server() {
    let Some(mut bed) = Bed::new(abi::SCHED_RR, NAT, &[(1, 1)]) else { return };
    let (name, port) = server(1);
    let second = Real { service: 2, ..real(1, NAT) }.with_nat(
        addr(VIP2.0),
        be16(VIP2.1),
        addr(name),
        be16(port),
    );
    bed.engine.real(2, second).expect("real");
    let service = Service { id: 2, ..service(abi::SCHED_RR) };
    bed.engine.service(VIP2, service, &[(2, 1)]).expect("service");
    let connect = |bed: &mut Bed, client, vip: (Ipv4Addr, u16)| {
        bed.expect(&Tcp::new(client, vip, SYN), Outcome::Scheduled);
        let syn_ack = Tcp::new(server(1), client, SYN | ACK);
        assert_eq!(bed.expect(&syn_ack, Outcome::NatReply).src, vip.0);
        bed.expect(&Tcp::new(client, vip, ACK), Outcome::Promoted);
        let answer = Tcp::new(server(1), client, ACK);
        assert_eq!(bed.expect(&answer, Outcome::NatReply).src, vip.0);
    };
    connect(&mut bed, client(1), VIP);
    connect(&mut bed, client(2), VIP2);
    // The same client port to both: the server could not tell them apart.
    bed.expect(&Tcp::new(client(1), VIP2, SYN), Outcome::Scheduled);
    let ran = bed.run(&Tcp::new(client(1), VIP2, ACK).frame());
    assert_eq!(ran.outcome, Outcome::NatCollision);
    assert_eq!(Tcp::read(&trimmed(&ran.frame)).flags, RST);
    let answer = Tcp::new(server(1), client(1), ACK);
    assert_eq!(bed.expect(&answer, Outcome::NatReply).src, VIP.0, "the first one goes on");
}

#[test]
fn every_frame_is_counted_once() {
    let Some(mut bed) = Bed::new(abi::SCHED_RR, DR, &[(1, 1)]) else { return };
    let before: u64 = bed.engine.outcomes().expect("stats").values().sum();
    for index in 0..100 {
        bed.run(&Tcp::new(client(index), VIP, SYN).frame());
        bed.run(&ping(CLIENT.0, VIP.0));
    }
    let after = bed.engine.outcomes().expect("stats");
    assert_eq!(after.values().sum::<u64>() - before, 200);
    assert_eq!(after[&Outcome::Scheduled], 100);
    assert_eq!(after[&Outcome::VipIcmp], 100);
}

/// VRRP's groups are link-local: adverts go up to the vrrp process and are never sent on, whatever
/// their TTL, lease and virtual servers.
#[test]
fn adverts_are_passed_up_and_never_sent_on() {
    if is_six() {
        return; // both families are here
    }
    let Some(mut bed) = Bed::new(abi::SCHED_RR, NAT, &[(1, 1)]) else { return };
    let group4 = with_ip(&udp(CLIENT, VIP), |ip| {
        ip[9] = 112;
        ip[16..20].copy_from_slice(&[224, 0, 0, 18]);
    });
    let mut group6 = [&[0x33, 0x33, 0, 0, 0, 0x12][..], &GATEWAY_MAC, &[0x86, 0xdd]].concat();
    group6.extend([0x60, 0, 0, 0, 0, 24, 112, 255]);
    group6.extend(std::net::Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 9).octets());
    group6.extend(std::net::Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x12).octets());
    group6.extend([0; 24]);
    for lease in [abi::LEASE_ALWAYS, abi::LEASE_STANDBY, abi::LEASE_FENCED] {
        bed.engine.lease(GATE, lease).expect("lease");
        for ttl in [255, 1] {
            let frame = with_ip(&group4, |ip| ip[8] = ttl);
            let ran = bed.run(&frame);
            assert_eq!((ran.outcome, ran.frame), (Outcome::Foreign, frame), "{lease:#x} {ttl}");
            let mut frame = group6.clone();
            frame[21] = ttl;
            let ran = bed.run(&frame);
            assert_eq!((ran.outcome, ran.frame), (Outcome::Foreign, frame), "{lease:#x} {ttl}");
        }
    }
}
