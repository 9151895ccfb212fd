//! lbd's program on the packet path, for two hooks: XDP ([`lbd_xdp`]) and tc's ingress ([`lbd_tc`]), over the same maps.
//!
//! A packet is parsed ([`parse`]), checked against the filter ([`lookup`], [`ipv6`]), and then either comes
//! from a client ([`client`]: flow table, embryo, [`persistence`], [`schedule`]) or from a NAT real server
//! ([`reply`]); both ask the [`gate`] whether this host may act. What is to be done is a [`Plan`];
//! [`forward`], [`reset`] and [`too_big`] carry it out. Every packet ends in one [`Outcome`], which is counted
//! here and nowhere else.
#![no_std]
#![no_main]
// The BPF target has no `AtomicU64::fetch_add`, although BPF has the instruction.
#![feature(core_intrinsics)]
// See `access::Word`.
#![feature(asm_experimental_arch)]
#![allow(internal_features, reason = "as above; the object is built by nightly in any case")]
#![deny(unsafe_code)]

#[allow(unsafe_code, reason = "the only raw packet access")]
mod access;
mod arp;
mod client;
mod family;
mod flow;
mod forward;
mod gate;
mod ipv6;
mod lookup;
#[allow(unsafe_code, reason = "the only map access")]
mod maps;
#[cfg(feature = "packet-log")]
mod packet_log;
mod parse;
mod persistence;
mod reply;
mod reset;
mod schedule;
mod too_big;

use aya_ebpf::{
    bindings::{
        TC_ACT_SHOT, TC_ACT_UNSPEC,
        xdp_action::{XDP_DROP, XDP_PASS, XDP_TX},
    },
    macros::{classifier, xdp},
    programs::{TcContext, XdpContext},
};
use lb_common::{
    abi::{PROTO_TCP, Real, be16},
    verdict::{Action, Outcome},
};

use access::{Driver, Hook, NextHop, Packet, View};

/// What is to be done with a TCP segment.
enum Plan {
    /// Nothing more.
    Done(Outcome),
    /// To a real server.
    Forward { id: u16, real: &'static Real, what: Outcome },
    /// From a NAT real server to the client.
    Reply { id: u16, real: &'static Real, way: NextHop, what: Outcome },
    /// A RST to its sender.
    Reset(Outcome),
    /// A RST to the client in place of the server's segment.
    ResetClient { real: &'static Real, way: NextHop, what: Outcome },
}

/// What became of a packet, and where it goes if it goes anywhere.
struct Decision {
    outcome: Outcome,
    /// 0: back by XDP_TX.
    ifindex: u32,
}

impl Decision {
    #[inline(always)]
    const fn of(outcome: Outcome) -> Self {
        Self { outcome, ifindex: 0 }
    }
}

/// Entry. IPv6 goes on in [`lbd_xdp6`].
#[xdp(frags)]
#[inline(always)] // into the symbol that the macro makes: a call between BPF functions costs 10 ns
pub fn lbd_xdp(ctx: XdpContext) -> u32 {
    let decision = decide(&mut Packet::new(&ctx), || maps::go_on_with_ipv6(&ctx));
    end(&ctx, &decision)
}

/// IPv6, behind a tail call that the JIT makes a jump of: the tuples of both families do not fit on one stack, and
/// the verifier looks at each program by itself. Its frames have an Ethernet header.
#[xdp(frags)]
#[inline(always)]
pub fn lbd_xdp6(ctx: XdpContext) -> u32 {
    let decision = ipv6::decide(&mut Packet::new(&ctx));
    end(&ctx, &decision)
}

/// Bytes in which the headers that are read, and those that a RST has, lie.
const HEADERS: u32 = (parse::IP4_END + parse::TCP_LEN) as u32;
const HEADERS6: u32 = (parse::IP6_END + parse::TCP_LEN) as u32;
/// The same of what is no TCP: a solicitation behind a few extension headers. Some drivers leave nothing but the Ethernet
/// header in the linear part, and what is not seen is not fenced.
const SOLICITATION: u32 = 256;

/// Entry on tc's ingress. IPv6 goes on in [`lbd_tc6`].
#[classifier]
#[inline(always)]
pub fn lbd_tc(ctx: TcContext) -> i32 {
    let packet = &mut Packet::of_skb(&ctx);
    if packet.is_tagged() {
        return end_tc(&ctx, &Decision::of(Outcome::Vlan));
    }
    packet.pull(HEADERS);
    let decision = decide(packet, || maps::go_on_with_ipv6_of_tc(&ctx));
    end_tc(&ctx, &decision)
}

/// IPv6 on tc's ingress, as [`lbd_xdp6`].
#[classifier]
#[inline(always)]
pub fn lbd_tc6(ctx: TcContext) -> i32 {
    let packet = &mut Packet::of_skb(&ctx);
    packet.pull(HEADERS6);
    let next =
        packet.view::<{ parse::IP6_END }>().map(|view| view.get::<u8, { parse::IP6_NEXT }>());
    if next.is_some_and(|next| next != PROTO_TCP) {
        packet.pull(SOLICITATION);
    }
    let decision = ipv6::decide(packet);
    end_tc(&ctx, &decision)
}

/// As [`end`]. What is not ours goes on to other programs on the interface, as if this one were not there.
#[inline(always)]
fn end_tc(ctx: &TcContext, decision: &Decision) -> i32 {
    let came = Packet::of_skb(ctx).ifindex();
    maps::count(decision.outcome);
    #[cfg(feature = "packet-log")]
    packet_log::tell(ctx, came, ctx.len(), decision);
    match decision.outcome.action() {
        Action::Pass => TC_ACT_UNSPEC,
        Action::Drop => TC_ACT_SHOT,
        Action::Forward | Action::Reset if decision.ifindex == 0 => access::redirect(came) as i32,
        Action::Forward | Action::Reset => access::redirect(decision.ifindex) as i32,
    }
}

/// Counts the outcome, and says it to the kernel.
#[inline(always)]
fn end(_ctx: &XdpContext, decision: &Decision) -> u32 {
    maps::count(decision.outcome);
    #[cfg(feature = "packet-log")]
    packet_log::tell(
        _ctx,
        _ctx.ingress_ifindex() as u32,
        (_ctx.data_end() - _ctx.data()) as u32,
        decision,
    );
    match decision.outcome.action() {
        Action::Pass => XDP_PASS,
        Action::Drop => XDP_DROP,
        Action::Forward | Action::Reset if decision.ifindex == 0 => XDP_TX,
        Action::Forward | Action::Reset => access::redirect(decision.ifindex),
    }
}

#[inline(always)]
fn decide<H: Hook>(packet: &mut Packet<H>, go_on_with_ipv6: impl FnOnce()) -> Decision {
    const IPV4: u16 = be16(0x0800);
    const ARP: u16 = be16(0x0806);
    const IPV6: u16 = be16(0x86dd);
    const VLAN: u16 = be16(0x8100);
    const VLAN_OUTER: u16 = be16(0x88a8);
    let Some(view) = packet.view::<14>() else { return Decision::of(Outcome::Short) };
    match view.get::<u16, { parse::ETH_TYPE }>() {
        IPV4 => lookup::decide(packet),
        ARP => Decision::of(arp::decide(packet)),
        IPV6 => {
            go_on_with_ipv6();
            Decision::of(Outcome::Ipv6Unready)
        }
        VLAN | VLAN_OUTER => Decision::of(Outcome::Vlan),
        _ => Decision::of(Outcome::NotIp),
    }
}

/// Reports jiffies64 and CLOCK_MONOTONIC in the first sixteen bytes of its packet; the loader
/// runs it to learn how the two go together.
#[xdp]
pub fn lbd_clock(ctx: XdpContext) -> u32 {
    let packet = Packet::<Driver>::new(&ctx);
    let Some(view) = packet.view::<16>() else { return XDP_DROP };
    let (jiffies, now) = (access::jiffies(), access::monotonic_ns());
    write(&view, jiffies, now);
    XDP_PASS
}

#[inline(always)]
fn write(view: &View<'_, 16>, jiffies: u64, now: u64) {
    view.set::<u64, 0>(jiffies);
    view.set::<u64, 8>(now);
}

/// Licence of the object, as the kernel reads it.
#[allow(unsafe_code, reason = "placing a symbol needs it")]
mod license {
    #[unsafe(link_section = "license")]
    #[unsafe(no_mangle)]
    static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
