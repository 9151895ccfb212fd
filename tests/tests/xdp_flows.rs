//! Connections in the shipped kernel object under `BPF_PROG_TEST_RUN`: how entries are made, what ends
//! them and what does not, and what becomes of segments without one.

use std::{collections::BTreeMap, net::Ipv4Addr};

use anyhow::{Context as _, Result};
use lb_common::{
    abi::{self, Control, Flow},
    maps,
    verdict::Outcome,
};
use lb_tests::{
    netns::Namespace,
    packet::{
        bed::*,
        build::{ACK, FIN, PSH, RST, SYN, Tcp, family, host, is_six, mac},
        engine::flow_key,
    },
};

#[test]
fn unknown_midstream_by_policy() {
    // Several candidates, no hash: the client is told.
    let Some(mut bed) = Bed::new(abi::SCHED_WLC, DR, &[(1, 1), (2, 1)]) else { return };
    let data = Tcp::new(CLIENT, VIP, ACK | PSH).payload(b"select 1").numbers(9, 0x0102_0304);
    let ran = bed.run(&data.frame());
    assert_eq!(ran.outcome, Outcome::ResetUnknown);
    assert_reset(&Tcp::read(&trimmed(&ran.frame)), &data);
    assert_eq!(bed.run(&Tcp::new(CLIENT, VIP, RST).frame()).outcome, Outcome::RstUnmatched);
    // One candidate: it can only be that one.
    bed.select(&[(2, 1)]);
    assert_eq!(server_of(&bed.expect(&data, Outcome::MidstreamSingle)), 2);
    assert_eq!(server_of(&bed.expect(&data, Outcome::DrForwarded)), 2);
    assert_eq!(bed.engine.conns(2).expect("conns"), 1);

    // mh: the hash knows, and what it says equals what another host's hash said to the SYN.
    let members: Vec<_> = (1..=5).map(|id| (id, 1)).collect();
    let Some(mut first) = Bed::new(abi::SCHED_MH, DR, &members) else { return };
    let Some(mut second) = Bed::new(abi::SCHED_MH, DR, &members) else { return };
    for index in 0..50 {
        let id = first.connect(client(index));
        let ack = Tcp::new(client(index), VIP, ACK);
        assert_eq!(server_of(&second.expect(&ack, Outcome::MidstreamHashed)), id);
        assert_eq!(server_of(&second.expect(&ack, Outcome::DrForwarded)), id);
    }
}

#[test]
fn tuple_of_an_ended_connection_is_scheduled_anew() {
    let Some(mut bed) = Bed::new(abi::SCHED_RR, DR, &[(1, 1), (2, 1)]) else { return };
    let id = bed.connect(CLIENT);
    // A SYN in the middle of a living connection goes to its server, which knows what to do.
    let syn = Tcp::new(CLIENT, VIP, SYN);
    assert_eq!(server_of(&bed.expect(&syn, Outcome::DrForwarded)), id);
    bed.expect(&Tcp::new(CLIENT, VIP, FIN | ACK), Outcome::DrForwarded);
    assert_eq!(bed.engine.conns(id).expect("conns"), 0);
    assert_eq!(server_of(&bed.expect(&syn, Outcome::Scheduled)), 3 - id);
    bed.expect(&Tcp::new(CLIENT, VIP, ACK), Outcome::Promoted);
    assert_eq!(bed.engine.conns(3 - id).expect("conns"), 1);
}

#[test]
fn full_table_hashes_and_keeps_what_it_has() {
    let members: Vec<_> = (1..=3).map(|id| (id, 1)).collect();
    let Some(mut bed) = Bed::sized(abi::SCHED_WLC, DR, &members, 16, 8192) else { return };
    let old: Vec<_> = (0..16).map(|index| bed.connect(client(index))).collect();
    let mut sent = BTreeMap::new();
    let mut full = 0;
    for index in 100..140 {
        let syn = bed.expect(&Tcp::new(client(index), VIP, SYN), Outcome::Scheduled);
        // Preallocated maps may keep a few elements more than asked, so the first ones may fit.
        let ran = bed.run(&Tcp::new(client(index), VIP, ACK).frame());
        full += u64::from(ran.outcome == Outcome::TableFull);
        assert!(matches!(ran.outcome, Outcome::TableFull | Outcome::Promoted));
        sent.insert(index, server_of(&syn));
        assert_eq!(server_of(&Tcp::read(&ran.frame)), server_of(&syn));
    }
    assert!(full >= 30, "{full}");
    assert_eq!(bed.engine.service_stats(SERVICE).expect("stats").table_full, full);
    // Established ones stay, and those without an entry keep their server.
    for (index, id) in old.iter().enumerate() {
        let got = bed.expect(&Tcp::new(client(index as u16), VIP, ACK), Outcome::DrForwarded);
        assert_eq!(server_of(&got), *id);
    }
    for (index, id) in sent {
        let ran = bed.run(&Tcp::new(client(index), VIP, ACK).frame());
        assert_eq!(server_of(&Tcp::read(&ran.frame)), id, "client {index}");
    }
}

/// Sequence numbers of both ends right after the handshake.
const OURS: u32 = 0x1000_0001;
const THEIRS: u32 = 0x7fff_fff0;
/// What idle connections must survive: numbers that a forger may try.
const GUESSES: [u32; 6] = [0, 1, u32::MAX, OURS - 1, OURS + 1, OURS.wrapping_add(1 << 31)];

fn sent(flags: u8) -> Tcp {
    Tcp::new(CLIENT, VIP, flags).numbers(OURS, THEIRS)
}

fn replied(flags: u8) -> Tcp {
    Tcp::new(server(1), CLIENT, flags).numbers(THEIRS, OURS)
}

/// A bed with one idle connection after its handshake.
fn idle(method: u8) -> Option<Bed> {
    let mut bed = Bed::new(abi::SCHED_RR, method, &[(1, 1)])?;
    bed.expect(&Tcp::new(CLIENT, VIP, SYN).numbers(OURS - 1, 0), Outcome::Scheduled);
    if method == NAT {
        bed.expect(&replied(SYN | ACK).numbers(THEIRS - 1, OURS), Outcome::NatReply);
    }
    bed.expect(&sent(ACK), Outcome::Promoted);
    Some(bed)
}

fn passed(method: u8) -> Outcome {
    if method == NAT { Outcome::NatForwarded } else { Outcome::DrForwarded }
}

fn entry(bed: &mut Bed) -> Flow {
    bed.engine.flow(CLIENT, VIP).expect("read").expect("flow")
}

fn reverse(bed: &mut Bed) -> Flow {
    bed.engine.flow(server(1), CLIENT).expect("read").expect("reverse entry")
}

fn ending(flow: &Flow) -> u16 {
    flow.flags & abi::FLOW_CLOSING
}

#[test]
fn forged_ends_of_an_idle_connection_are_ignored() {
    for method in [DR, NAT] {
        let Some(mut bed) = idle(method) else { return };
        let before = entry(&mut bed);
        for seq in GUESSES {
            for flags in [RST, RST | ACK] {
                bed.expect(&sent(flags).numbers(seq, THEIRS), passed(method));
                assert_eq!(entry(&mut bed), before, "RST {seq:#x}");
            }
        }
        // A FIN far from where the client is, or that acknowledges what was never sent.
        for (seq, ack) in [(OURS + (1 << 21), THEIRS), (OURS - (1 << 21), THEIRS), (OURS, 5)] {
            bed.expect(&sent(FIN | ACK).numbers(seq, ack), passed(method));
            assert_eq!(entry(&mut bed), before, "FIN {seq:#x} {ack:#x}");
        }
        assert_eq!(bed.engine.conns(1).expect("conns"), 1);
        // Segments of other numbers do not move the entry to where a RST would fit.
        for forged in [7, OURS + (1 << 30)] {
            bed.expect(&sent(ACK).numbers(forged, 9), passed(method));
            bed.expect(&sent(RST).numbers(forged, 0), passed(method));
            let now = entry(&mut bed);
            assert_eq!((now.seq_end, now.ack, ending(&now)), (OURS, THEIRS, 0));
        }
        assert_eq!(bed.engine.conns(1).expect("conns"), 1);
    }
}

#[test]
fn true_ends_of_an_idle_connection_are_noted() {
    for method in [DR, NAT] {
        for (flags, bit) in
            [(RST, abi::FLOW_RST), (RST | ACK, abi::FLOW_RST), (FIN | ACK, abi::FLOW_FIN)]
        {
            let Some(mut bed) = idle(method) else { return };
            // A keepalive, one below: the number stays that of the highest segment.
            bed.expect(&sent(ACK).numbers(OURS - 1, THEIRS), passed(method));
            bed.expect(&sent(ACK | PSH).payload(b"select"), passed(method));
            bed.expect(&sent(ACK), passed(method));
            bed.expect(&sent(flags).numbers(OURS + 6, THEIRS), passed(method));
            assert_eq!(ending(&entry(&mut bed)), bit, "{flags:#x}");
            assert_eq!(bed.engine.conns(1).expect("conns"), 0);
        }
    }
}

#[test]
fn the_servers_ends_count_under_nat() {
    let Some(mut bed) = idle(NAT) else { return };
    for seq in [0, 1, THEIRS - 1, THEIRS + 1, THEIRS + (1 << 31)] {
        bed.expect(&replied(RST | ACK).numbers(seq, OURS), Outcome::NatReply);
        assert_eq!((ending(&entry(&mut bed)), ending(&reverse(&mut bed))), (0, 0), "{seq:#x}");
    }
    bed.expect(&replied(FIN | ACK).numbers(THEIRS + (1 << 22), OURS), Outcome::NatReply);
    assert_eq!(ending(&reverse(&mut bed)), 0);
    assert_eq!(bed.engine.conns(1).expect("conns"), 1);
    // Rows are under way; a rebooted server answers with what the client has acknowledged.
    bed.expect(&replied(ACK | PSH).payload(&[1; 1000]), Outcome::NatReply);
    bed.expect(&replied(RST).numbers(THEIRS, 0), Outcome::NatReply);
    assert_eq!(ending(&entry(&mut bed)), abi::FLOW_RST);
    assert_eq!(bed.engine.conns(1).expect("conns"), 0);

    let Some(mut bed) = idle(NAT) else { return };
    bed.expect(&replied(ACK | PSH).payload(&[1; 1000]), Outcome::NatReply);
    bed.expect(&replied(RST).numbers(THEIRS + 1000, 0), Outcome::NatReply);
    assert_eq!(ending(&reverse(&mut bed)), abi::FLOW_RST);
    assert_eq!(bed.engine.conns(1).expect("conns"), 0);
    // The client's RST by what the server has acknowledged, not by what was sent last.
    let Some(mut bed) = idle(NAT) else { return };
    bed.expect(&sent(ACK | PSH).payload(b"lost"), Outcome::NatForwarded);
    bed.expect(&sent(RST), Outcome::NatForwarded);
    assert_eq!(ending(&entry(&mut bed)), abi::FLOW_RST);
}

#[test]
fn data_beyond_a_fin_or_rst_takes_it_back() {
    for method in [DR, NAT] {
        for flags in [FIN | ACK, RST] {
            let Some(mut bed) = idle(method) else { return };
            bed.expect(&sent(flags), passed(method));
            assert_eq!(bed.engine.conns(1).expect("conns"), 0);
            // What was sent before it, and its repetition, change nothing.
            bed.expect(&sent(ACK | PSH).numbers(OURS - 4, THEIRS).payload(b"late"), passed(method));
            bed.expect(&sent(flags), passed(method));
            assert_ne!(ending(&entry(&mut bed)), 0);
            bed.expect(&sent(ACK | PSH).payload(b"select 1"), passed(method));
            assert_eq!(ending(&entry(&mut bed)), 0);
            assert_eq!(bed.engine.conns(1).expect("conns"), 1);
        }
    }
}

#[test]
fn a_tuple_that_only_its_server_has_ended_is_used_anew() {
    const NEW: u32 = 0x9000_0000;
    for method in [DR, NAT] {
        let Some(mut bed) = idle(method) else { return };
        let syn = Tcp::new(CLIENT, VIP, SYN).numbers(NEW - 1, 0);
        bed.expect(&syn, passed(method));
        assert_eq!(entry(&mut bed).seq_end, OURS, "a SYN proves nothing");
        if method == NAT {
            // A forged SYN: the server challenges it, and the answer to a guess stays a guess.
            bed.expect(&replied(ACK), Outcome::NatReply);
            bed.expect(&sent(ACK).numbers(NEW, 1), Outcome::NatForwarded);
            assert_eq!(entry(&mut bed).seq_end, OURS);
            bed.expect(&replied(SYN | ACK).numbers(99, NEW), Outcome::NatReply);
            assert_eq!(reverse(&mut bed).seq_end, 100);
        }
        bed.expect(&sent(ACK).numbers(NEW, 100), passed(method));
        let flow = entry(&mut bed);
        assert_eq!((flow.seq_end, flow.ack, ending(&flow)), (NEW, 100, 0));
        assert_eq!(bed.engine.conns(1).expect("conns"), 1);
        bed.expect(&sent(RST).numbers(OURS, 0), passed(method));
        assert_eq!(ending(&entry(&mut bed)), 0);
        bed.expect(&sent(RST).numbers(NEW, 0), passed(method));
        assert_eq!(ending(&entry(&mut bed)), abi::FLOW_RST);
    }
}

/// The clients of a server that died find it again, by chance with the same port: what is left of the connection that
/// died with it says nothing about theirs. Under NAT it is the entry of the replies that is left.
#[test]
fn the_tuple_of_a_dead_connection_is_used_anew() {
    const NEW: u32 = 0x9000_0000;
    for (method, answer) in [(DR, None), (NAT, Some(SYN | ACK)), (NAT, Some(RST | ACK))] {
        let Some(mut bed) = idle(method) else { return };
        bed.set(1, |real| (real.state, real.generation) = (abi::STATE_DOWN, real.generation + 1));
        if method == NAT {
            let ran = bed.run(&replied(ACK | PSH).frame());
            assert_eq!(ran.outcome, Outcome::ResetDead);
        }
        bed.set(1, |real| real.state = abi::STATE_UP);
        bed.expect(&Tcp::new(CLIENT, VIP, SYN).numbers(NEW - 1, 0), Outcome::Scheduled);
        if let Some(flags) = answer {
            // The server may still have the old connection, and challenges the SYN.
            bed.expect(&replied(ACK), Outcome::NatReply);
            bed.expect(&replied(flags).numbers(99, NEW), Outcome::NatReply);
        }
        bed.expect(&sent(ACK).numbers(NEW, 100), Outcome::Promoted);
        if method == NAT {
            bed.expect(&replied(ACK | PSH).numbers(100, NEW), Outcome::NatReply);
        }
        bed.expect(&sent(ACK | PSH).numbers(NEW, 100), passed(method));
        let flow = entry(&mut bed);
        assert_eq!((flow.seq_end, flow.ack, ending(&flow)), (NEW, 100, 0));
    }
}

#[test]
fn a_new_tenure_takes_the_first_segment_at_its_word() {
    for method in [DR, NAT] {
        let Some(mut bed) = idle(method) else { return };
        let far = OURS.wrapping_add(1 << 29);
        new_tenure(&mut bed);
        // A RST cannot be told from a forged one.
        bed.expect(&sent(RST).numbers(far, 0), passed(method));
        assert_eq!(ending(&entry(&mut bed)), 0);
        bed.expect(&sent(ACK).numbers(far, 77), passed(method));
        let flow = entry(&mut bed);
        assert_eq!((flow.seq_end, flow.ack), (far, 77));
        if method == NAT {
            bed.expect(&replied(ACK | PSH).numbers(77, far), Outcome::NatReply);
            assert_eq!(reverse(&mut bed).seq_end, 77);
        }
        bed.expect(&sent(RST).numbers(far, 0), passed(method));
        assert_eq!(ending(&entry(&mut bed)), abi::FLOW_RST);
    }
}

/// What is left of a connection that ended before another host was master says nothing about the
/// client's next one with the same port.
#[test]
fn an_ended_connection_of_an_older_tenure_is_forgotten() {
    for method in [DR, NAT] {
        let Some(mut bed) = Bed::new(abi::SCHED_RR, method, &[(1, 1), (2, 1)]) else { return };
        bed.expect(&Tcp::new(CLIENT, VIP, SYN), Outcome::Scheduled);
        bed.expect(&sent(ACK).numbers(OURS, 1), Outcome::Promoted);
        bed.expect(&sent(FIN | ACK).numbers(OURS, 1), passed(method));
        bed.expect(&sent(ACK).numbers(OURS + 1, 1), passed(method));
        new_tenure(&mut bed);
        bed.expect(&sent(ACK | PSH).numbers(OURS + 1, 1), Outcome::ResetUnknown);
        bed.expect(&sent(ACK | PSH).numbers(OURS + 1, 1), Outcome::ResetUnknown);
    }
}

/// Begins another tenure of the bed's VIP.
fn new_tenure(bed: &mut Bed) {
    let (jiffies, _) = bed.engine.clock().expect("clock");
    let mut leases = bed.engine.array::<u64>(maps::LEASE).expect("lease");
    leases.set(maps::tenure(GATE), jiffies + 1000, 0).expect("tenure");
}

/// Another host was master, has reset the client and may have chosen another server for its next
/// connection, by chance with the same port: the old server's answer would leave the client hanging.
#[test]
fn a_connection_of_another_host_does_not_go_to_the_server_of_an_older_one() {
    for method in [DR, NAT] {
        let Some(mut bed) = Bed::new(abi::SCHED_RR, method, &[(1, 1), (2, 1)]) else { return };
        bed.expect(&Tcp::new(CLIENT, VIP, SYN).numbers(OURS - 1, 0), Outcome::Scheduled);
        bed.expect(&sent(ACK), Outcome::Promoted);
        new_tenure(&mut bed);
        let far = OURS.wrapping_add(1 << 29);
        for flags in [ACK, ACK | PSH, FIN | ACK] {
            let data = sent(flags).numbers(far, 77);
            let ran = bed.run(&data.frame());
            assert_eq!(ran.outcome, Outcome::ResetUnknown);
            assert_reset(&Tcp::read(&trimmed(&ran.frame)), &data);
        }
        bed.expect(&sent(RST).numbers(far, 0), passed(method));
        // Whoever sent those, the old connection is not forgotten for it.
        let flow = entry(&mut bed);
        assert_eq!((flow.seq_end, ending(&flow)), (OURS, 0));
        bed.expect(&sent(ACK | PSH), passed(method));
        assert_eq!(bed.engine.conns(1).expect("conns") + bed.engine.conns(2).expect("conns"), 1);
    }
}

/// Where the choice is a hash the connection has gone on at the other host, with the same server.
#[test]
fn a_hashed_connection_is_taken_at_its_word_after_another_tenure() {
    for method in [DR, NAT] {
        let Some(mut bed) = Bed::new(abi::SCHED_MH, method, &[(1, 1), (2, 1)]) else { return };
        let syn = Tcp::new(CLIENT, VIP, SYN).numbers(OURS - 1, 0);
        let server = server_of(&bed.expect(&syn, Outcome::Scheduled));
        bed.expect(&sent(ACK), Outcome::Promoted);
        new_tenure(&mut bed);
        let far = OURS.wrapping_add(1 << 29);
        let data = bed.expect(&sent(ACK | PSH).numbers(far, 77), passed(method));
        assert_eq!(server_of(&data), server);
        assert_eq!(entry(&mut bed).seq_end, far);
    }
}

/// The client has repeated its SYN at another host, which may have chosen another server.
#[test]
fn a_handshake_of_an_older_tenure_proves_nothing() {
    for method in [DR, NAT] {
        for (scheduler, pool, outcome) in [
            (abi::SCHED_RR, &[(1, 1), (2, 1)][..], Outcome::ResetUnknown),
            // There it can only have been the same one.
            (abi::SCHED_RR, &[(1, 1)], Outcome::Promoted),
            (abi::SCHED_MH, &[(1, 1), (2, 1)], Outcome::Promoted),
        ] {
            let Some(mut bed) = Bed::new(scheduler, method, pool) else { return };
            let syn = Tcp::new(CLIENT, VIP, SYN).numbers(OURS - 1, 0);
            let first = server_of(&bed.expect(&syn, Outcome::Scheduled));
            new_tenure(&mut bed);
            bed.expect(&sent(ACK | PSH), outcome);
            if outcome == Outcome::ResetUnknown {
                // It repeats it here too.
                assert_eq!(server_of(&bed.expect(&syn, Outcome::SynRepeated)), first);
            }
        }
    }
}

fn limits(bed: &mut Bed, change: impl FnOnce(&mut Control)) {
    let mut array = bed.engine.array::<Control>(maps::CONTROL).expect("control");
    let mut control = array.get(&0, 0).expect("control");
    change(&mut control);
    array.set(0, control, 0).expect("control");
}

#[test]
fn a_half_open_connection_is_forgotten_in_time() {
    // Far more than this thread may have to wait for a CPU.
    const LIMIT: u32 = 1_000_000;
    for (age, known) in [(LIMIT / 2, true), (LIMIT + 1, false)] {
        let Some(mut bed) = Bed::new(abi::SCHED_RR, DR, &[(1, 1), (2, 1)]) else { return };
        limits(&mut bed, |control| control.half_open = LIMIT);
        let first = server_of(&bed.expect(&Tcp::new(CLIENT, VIP, SYN), Outcome::Scheduled));
        let other = server_of(&bed.expect(&Tcp::new(client(1), VIP, SYN), Outcome::Scheduled));
        assert_ne!(first, other, "round robin");
        // The first one's server drains meanwhile.
        bed.set(first, |real| real.state = abi::STATE_DRAIN);
        bed.select(&[(other, 1)]);
        let (jiffies, _) = bed.engine.clock().expect("clock");
        let embryo = bed.engine.embryo(CLIENT, VIP).expect("read").expect("embryo");
        let aged = Flow { last_seen: jiffies - u64::from(age), ..embryo };
        bed.engine.set_embryo(CLIENT, VIP, aged).expect("embryo");
        let (outcome, id) =
            if known { (Outcome::SynRepeated, first) } else { (Outcome::Scheduled, other) };
        assert_eq!(server_of(&bed.expect(&Tcp::new(CLIENT, VIP, SYN), outcome)), id);
        assert_eq!(server_of(&bed.expect(&Tcp::new(CLIENT, VIP, ACK), Outcome::Promoted)), id);
    }
    // An answer that comes too late belongs to no connection.
    let Some(mut bed) = Bed::new(abi::SCHED_RR, DR, &[(1, 1), (2, 1)]) else { return };
    limits(&mut bed, |control| control.half_open = 1);
    bed.expect(&Tcp::new(CLIENT, VIP, SYN), Outcome::Scheduled);
    let (begin, _) = bed.engine.clock().expect("clock");
    lb_tests::wait::wait_true("two jiffies", std::time::Duration::from_secs(20), || {
        bed.engine.clock().is_ok_and(|(now, _)| now > begin + 2)
    })
    .expect("jiffies go on");
    assert_eq!(bed.run(&Tcp::new(CLIENT, VIP, ACK).frame()).outcome, Outcome::ResetUnknown);
}

#[test]
fn a_forged_reset_does_not_end_a_handshake() {
    let Some(mut bed) = Bed::new(abi::SCHED_RR, DR, &[(1, 1), (2, 1)]) else { return };
    let syn = Tcp::new(CLIENT, VIP, SYN).numbers(OURS - 1, 0);
    bed.expect(&syn, Outcome::Scheduled);
    bed.expect(&sent(RST).numbers(5, 0), Outcome::DrForwarded);
    bed.expect(&syn, Outcome::SynRepeated);
    bed.expect(&sent(RST), Outcome::DrForwarded);
    bed.expect(&syn, Outcome::Scheduled);
}

#[test]
fn an_orphan_without_a_way_to_its_client_is_reported() {
    if !lb_tests::packet::ready() {
        return;
    }
    routed(false, || {
        for scheduler in [abi::SCHED_WLC, abi::SCHED_MH] {
            let mut bed = Bed::new(scheduler, NAT, &[(1, 1), (2, 1)]).expect("ready");
            let sent = Tcp::new(server(1), CLIENT, ACK | PSH).payload(b"rows");
            assert_eq!(bed.run(&sent.frame()).outcome, Outcome::OrphanReported);
            let reports = bed.engine.orphans().expect("reports");
            let [report] = reports.as_slice() else { panic!("{reports:?}") };
            let key = flow_key(server(1), CLIENT);
            assert_eq!((report.reply, report.seq, report.ack), (key, sent.seq, sent.ack));
            // A client that lacks its SYN-ACK repeats its SYN.
            bed.expect(&Tcp::new(server(1), CLIENT, SYN | ACK), Outcome::OrphanDropped);
            assert!(bed.engine.orphans().expect("reports").is_empty());
        }
    })
    .expect("namespace");
}

#[test]
fn too_many_orphans_are_counted_and_dropped() {
    let Some(mut bed) = Bed::new(abi::SCHED_WLC, NAT, &[(1, 1), (2, 1)]) else { return };
    for _ in 0..3000 {
        bed.run(&Tcp::new(server(1), CLIENT, ACK).frame());
    }
    let outcomes = bed.engine.outcomes().expect("stats");
    assert_eq!(outcomes[&Outcome::OrphanReported], bed.engine.orphans().expect("all").len() as u64);
    assert!(outcomes[&Outcome::OrphanReported] >= 1500, "{outcomes:?}");
    assert!(outcomes[&Outcome::OrphanDropped] >= 500, "{outcomes:?}");
    bed.expect(&Tcp::new(server(1), CLIENT, ACK), Outcome::OrphanReported);
}

#[test]
fn orphans_of_standby_hosts_are_not_ours() {
    for (lease, outcome) in
        [(abi::LEASE_STANDBY, Outcome::Standby), (abi::LEASE_FENCED, Outcome::Fenced)]
    {
        let Some(mut bed) = Bed::new(abi::SCHED_WLC, NAT, &[(1, 1), (2, 1)]) else { return };
        bed.engine.lease(GATE, lease).expect("lease");
        bed.expect(&Tcp::new(server(1), CLIENT, ACK), outcome);
        assert!(bed.engine.orphans().expect("reports").is_empty());
    }
}

const ROUTER: Ipv4Addr = Ipv4Addr::new(10, 200, 0, 254);
const ROUTER_MAC: [u8; 6] = mac(250);
const OUT_MAC: [u8; 6] = mac(251);

/// Runs `work` in a namespace with a default route by a known neighbour, which `forwards` or not what
/// comes in by loopback, as test runs do.
fn routed<T: Send>(forwards: bool, work: impl FnOnce() -> T + Send) -> Result<T> {
    let netns = Namespace::of_family("fib", family())?;
    let tree = if is_six() { "ipv6" } else { "ipv4" };
    netns.sysctl(&format!("net/{tree}/conf/lo/forwarding"), if forwards { "1" } else { "0" })?;
    let out = OUT_MAC.map(|byte| format!("{byte:02x}")).join(":");
    netns.ip(&["link", "add", "out", "address", &out, "type", "veth", "peer", "name", "far"])?;
    for name in ["lo", "out", "far"] {
        netns.ip(&["link", "set", name, "up"])?;
    }
    let own = family().on_link(Ipv4Addr::new(10, 200, 0, 1));
    netns.ip(&["addr", "add", &own, "dev", "out"])?;
    let router = ROUTER_MAC.map(|byte| format!("{byte:02x}")).join(":");
    let at = host(ROUTER).to_string();
    netns.ip(&["neigh", "add", &at, "lladdr", &router, "dev", "out", "nud", "permanent"])?;
    netns.ip(&[family().option(), "route", "add", "default", "via", &at])?;
    netns.enter(work).context("enter the namespace")
}

#[test]
fn an_orphan_with_a_way_to_its_client_becomes_a_reset() {
    if !lb_tests::packet::ready() {
        return;
    }
    routed(true, || {
        let members = [(1, 1), (2, 1)];
        let mut bed = Bed::new(abi::SCHED_WLC, NAT, &members).expect("ready");
        let reply = replied(ACK | PSH).payload(&[7; 300]).numbers(0xfff0_0001, 44);
        let ran = bed.run(&reply.frame());
        assert_eq!(ran.outcome, Outcome::OrphanReset);
        // As if the server had closed: what the client expects next, from the VIP, by the router.
        let want = Tcp {
            from_mac: OUT_MAC,
            to_mac: ROUTER_MAC,
            src: VIP.0,
            sport: VIP.1,
            flags: RST | ACK,
            ttl: 64,
            payload: Vec::new(),
            ..reply
        };
        assert_eq!(Tcp::read(&trimmed(&ran.frame)), want);
        assert!(bed.engine.orphans().expect("reports").is_empty());
        assert_eq!(bed.engine.flow(CLIENT, VIP).expect("read"), None);
        assert_eq!(bed.engine.flow(server(1), CLIENT).expect("read"), None);
        assert_eq!(bed.engine.service_stats(SERVICE).expect("stats").resets, 1);
        // A RST needs none.
        bed.expect(&replied(RST), Outcome::OrphanDropped);
    })
    .expect("namespace");
}

#[test]
fn an_orphan_that_the_hash_knows_is_adopted() {
    if !lb_tests::packet::ready() {
        return;
    }
    routed(true, || {
        let members = [(1, 1), (2, 1)];
        let mut bed = Bed::new(abi::SCHED_MH, NAT, &members).expect("ready");
        // Where the hash sends the client, by a connection that is then forgotten.
        let id = bed.connect(CLIENT);
        bed.engine.forget(CLIENT, VIP).expect("the connection");
        bed.engine.forget(server(id), CLIENT).expect("its other half");
        let from = |id| Tcp::new(server(id), CLIENT, ACK | PSH).payload(b"rows").numbers(1000, 44);
        // The other server's reply can be no connection of ours.
        let ran = bed.run(&from(3 - id).frame());
        assert_eq!(ran.outcome, Outcome::OrphanReset);
        let ran = bed.run(&from(id).frame());
        assert_eq!(ran.outcome, Outcome::OrphanAdopted);
        let want =
            Tcp { from_mac: OUT_MAC, to_mac: ROUTER_MAC, src: VIP.0, sport: VIP.1, ..from(id) };
        assert_eq!(Tcp::read(&ran.frame), want);
        let flow = bed.engine.flow(CLIENT, VIP).expect("read").expect("flow");
        assert_eq!((flow.real, flow.generation, flow.flags), (id, 7, abi::FLOW_MIDSTREAM));
        assert_eq!((flow.seq_end, flow.ack), (44, 1004));
        let back = bed.engine.flow(server(id), CLIENT).expect("read").expect("reverse");
        assert_eq!((back.real, back.flags), (id, abi::FLOW_REVERSE));
        assert_eq!((back.seq_end, back.ack), (1004, 44));
        assert_eq!((back.macs, back.ifindex), (flow.macs, flow.ifindex));
        assert_eq!(flow.macs, abi::macs(ROUTER_MAC, OUT_MAC));
        // The connection goes on both ways, and ends by its true numbers.
        let more = from(id).numbers(1004, 44);
        assert_eq!(bed.expect(&more, Outcome::NatReply).to_mac, ROUTER_MAC);
        let query = Tcp::new(CLIENT, VIP, ACK | PSH).payload(b"next").numbers(44, 1008);
        assert_eq!(server_of(&bed.expect(&query, Outcome::NatForwarded)), id);
        bed.expect(&Tcp::new(CLIENT, VIP, RST).numbers(48, 0), Outcome::NatForwarded);
        let flow = bed.engine.flow(CLIENT, VIP).expect("read").expect("flow");
        assert_eq!(ending(&flow), abi::FLOW_RST);
    })
    .expect("namespace");
}
