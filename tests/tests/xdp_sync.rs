//! What flow sync needs of the shipped kernel object, under `BPF_PROG_TEST_RUN`: that it reports changes, and
//! how it takes entries that a peer vouches for.

use lb_common::{
    abi::{self, Control, Flow, FlowKey6},
    maps,
    verdict::Outcome,
};
use lb_tests::{
    netns::Namespace,
    packet::{
        bed::*,
        build::{ACK, FIN, PSH, RST, SYN, Tcp, family},
        engine::flow_key,
    },
};

const OURS: u32 = 0x1000_0001;
const THEIRS: u32 = 0x7fff_fff0;

fn sent(flags: u8) -> Tcp {
    Tcp::new(CLIENT, VIP, flags).numbers(OURS, THEIRS)
}

fn replied(flags: u8) -> Tcp {
    Tcp::new(server(1), CLIENT, flags).numbers(THEIRS, OURS)
}

fn passed(method: u8) -> Outcome {
    if method == NAT { Outcome::NatForwarded } else { Outcome::DrForwarded }
}

fn report(bed: &mut Bed, on: u32) {
    let mut array = bed.engine.array::<Control>(maps::CONTROL).expect("control");
    let control = array.get(&0, 0).expect("control");
    array.set(0, Control { report_changes: on, ..control }, 0).expect("control");
}

fn changes(bed: &mut Bed) -> Vec<FlowKey6> {
    bed.engine.changes().expect("changes")
}

fn lost(bed: &mut Bed) -> u64 {
    bed.engine.array::<u64>(maps::CHANGES_LOST).expect("map").get(&0, 0).expect("read")
}

#[test]
fn what_begins_and_ends_is_reported_and_nothing_else() {
    for method in [DR, NAT] {
        let Some(mut bed) = Bed::new(abi::SCHED_RR, method, &[(1, 1)]) else { return };
        let key = flow_key(CLIENT, VIP);
        report(&mut bed, 1);
        bed.expect(&Tcp::new(CLIENT, VIP, SYN).numbers(OURS - 1, 0), Outcome::Scheduled);
        assert!(changes(&mut bed).is_empty(), "a SYN is no connection yet");
        bed.expect(&sent(ACK), Outcome::Promoted);
        assert_eq!(changes(&mut bed), [key]);
        for _ in 0..3 {
            bed.expect(&sent(ACK | PSH), passed(method));
        }
        // Forged: out of step.
        bed.expect(&sent(RST).numbers(5, 0), passed(method));
        assert!(changes(&mut bed).is_empty());
        if method == NAT {
            bed.expect(&replied(FIN | ACK), Outcome::NatReply);
            assert_eq!(changes(&mut bed), [key], "the connection, not its replies");
        }
        bed.expect(&sent(FIN | ACK), passed(method));
        assert_eq!(changes(&mut bed), [key]);
        bed.expect(&sent(ACK).numbers(OURS + 1, THEIRS), passed(method));
        assert!(changes(&mut bed).is_empty());
        // The server dies: once, however often the client asks.
        let Some(mut bed) = Bed::new(abi::SCHED_RR, method, &[(1, 1)]) else { return };
        bed.connect(CLIENT);
        report(&mut bed, 1);
        bed.set(1, |real| real.generation += 1);
        for _ in 0..3 {
            assert_eq!(bed.run(&sent(ACK | PSH).frame()).outcome, Outcome::ResetDead);
        }
        assert_eq!(changes(&mut bed), [key]);
    }
}

#[test]
fn nothing_is_reported_where_nobody_listens_and_what_has_no_room_is_counted() {
    let Some(mut bed) = Bed::new(abi::SCHED_RR, DR, &[(1, 1)]) else { return };
    bed.connect(CLIENT);
    assert!(changes(&mut bed).is_empty());
    report(&mut bed, 1);
    // A record takes 48 bytes with its head.
    let room = maps::CHANGES_BYTES / 48;
    let mut frames = [FIN | ACK, ACK | PSH].map(|flags| sent(flags).payload(b"x"));
    // Data beyond a FIN takes it back, and the next FIN follows it: each is a change.
    for number in 0..room + 100 {
        let frame = &mut frames[number as usize % 2];
        *frame = frame.clone().numbers(OURS.wrapping_add(number * 2), THEIRS);
        bed.engine.send(&frame.frame()).expect("sent");
    }
    assert!(lost(&mut bed) > 0, "{} changes", changes(&mut bed).len());
    let read = changes(&mut bed).len();
    assert!(read > room as usize - 100, "{read} of {room}");
    bed.connect(client(1));
    assert_eq!(changes(&mut bed), [flow_key(client(1), VIP)], "it goes on");
}

/// An entry as a peer's word makes it: of before the tenure, with numbers of long ago, by no packet of here.
fn vouched(bed: &mut Bed, method: u8, change: impl Fn(&mut Flow)) {
    let (jiffies, _) = bed.engine.clock().expect("clock");
    let mut leases = bed.engine.array::<u64>(maps::LEASE).expect("lease");
    leases.set(maps::tenure(GATE), jiffies, 0).expect("tenure");
    let generation = {
        let reals = bed.engine.array::<abi::Real>(maps::REALS_MAP).expect("reals");
        reals.get(&1, 0).expect("real").generation
    };
    let mut flow = Flow {
        last_seen: jiffies - 1000,
        created: jiffies - 2000,
        generation,
        real: 1,
        seq_end: OURS,
        ack: THEIRS,
        ..Flow::default()
    };
    change(&mut flow);
    bed.engine.set_flow(CLIENT, VIP, flow).expect("entered");
    if method == NAT {
        let flags = abi::FLOW_REVERSE;
        let back = Flow { flags, seq_end: flow.ack, ack: flow.seq_end, ..flow };
        bed.engine.set_flow(server(1), CLIENT, back).expect("entered");
    }
}

/// Without a peer's word the same segment is answered with a RST (`xdp_flows`, a connection of another host).
#[test]
fn a_peers_word_is_taken_over_a_tenure() {
    for method in [DR, NAT] {
        for far in [OURS, OURS.wrapping_add(1 << 29), OURS.wrapping_sub(1 << 29)] {
            for flags in [ACK, ACK | PSH, FIN | ACK] {
                let Some(mut bed) = Bed::new(abi::SCHED_RR, method, &[(1, 1), (2, 1)]) else {
                    return;
                };
                vouched(&mut bed, method, |_| {});
                // A FIN in step with an acknowledgement out of all bounds would be a forged one.
                let ack = if far == OURS { THEIRS + 9 } else { 77 };
                let data = bed.expect(&sent(flags).numbers(far, ack), passed(method));
                assert_eq!(server_of(&data), 1);
                let flow = bed.engine.flow(CLIENT, VIP).expect("read").expect("flow");
                let end = far.wrapping_add(u32::from(flags & FIN != 0));
                assert_eq!((flow.seq_end, flow.ack, flow.packets), (end, ack, 1));
                // Replies go by it; under DR nothing does.
                if method == NAT {
                    assert_ne!(flow.ifindex, 0, "the way to the client is known now");
                    let back = bed.engine.flow(server(1), CLIENT).expect("read").expect("back");
                    assert_eq!((back.macs, back.ifindex), (flow.macs, flow.ifindex));
                }
            }
        }
        // It counts once: what was seen here is as doubtful in a later tenure as ever.
        let Some(mut bed) = Bed::new(abi::SCHED_RR, method, &[(1, 1), (2, 1)]) else { return };
        vouched(&mut bed, method, |flow| flow.packets = 1);
        let far = sent(ACK | PSH).numbers(OURS.wrapping_add(1 << 29), 77);
        assert_eq!(bed.run(&far.frame()).outcome, Outcome::ResetUnknown);
    }
}

#[test]
fn a_connection_that_is_ending_goes_on_to_its_end() {
    for method in [DR, NAT] {
        let Some(mut bed) = Bed::new(abi::SCHED_RR, method, &[(1, 1), (2, 1)]) else { return };
        vouched(&mut bed, method, |flow| flow.flags = abi::FLOW_FIN);
        bed.expect(&sent(ACK), passed(method));
        // Its client begins anew.
        let Some(mut bed) = Bed::new(abi::SCHED_RR, method, &[(1, 1), (2, 1)]) else { return };
        vouched(&mut bed, method, |flow| flow.flags = abi::FLOW_FIN);
        bed.expect(&Tcp::new(CLIENT, VIP, SYN), Outcome::Scheduled);
    }
}

/// The server speaks first: the client's way is not known here.
#[test]
fn a_reply_that_is_earlier_than_the_client_is_reported_or_routed() {
    if !lb_tests::packet::ready() {
        return;
    }
    let alone = Namespace::of_family("fib", family()).expect("namespace");
    alone
        .enter(|| {
            let mut bed = Bed::new(abi::SCHED_WLC, NAT, &[(1, 1), (2, 1)]).expect("ready");
            vouched(&mut bed, NAT, |_| {});
            let reply = replied(ACK | PSH).payload(b"rows");
            assert_eq!(bed.run(&reply.frame()).outcome, Outcome::OrphanReported);
            assert_eq!(bed.engine.orphans().expect("reports").len(), 1);
            // Asked, the client acknowledges, and the server repeats.
            bed.expect(&sent(ACK), Outcome::NatForwarded);
            let got = bed.expect(&reply, Outcome::NatReply);
            assert_eq!((got.src, got.sport), (VIP.0, VIP.1));
            assert!(bed.engine.orphans().expect("reports").is_empty());
        })
        .expect("namespace");
}
