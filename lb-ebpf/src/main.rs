//! lbd's XDP program.
//!
//! A packet is parsed ([`parse`]), checked against the filter ([`lookup`]), and then either comes
//! from a client ([`client`]: flow table, embryo, [`persistence`], [`schedule`]) or from a NAT real server
//! ([`reply`]); both ask the [`gate`] whether this host may act. What is to be done is a [`Plan`];
//! [`forward`] and [`reset`] carry it out. Every packet ends in one [`Outcome`], which is counted
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

use aya_ebpf::{
    bindings::xdp_action::{XDP_DROP, XDP_PASS, XDP_TX},
    macros::xdp,
    programs::XdpContext,
};
use lb_common::{
    abi::{Real, be16},
    verdict::{Action, Outcome},
};

use access::{NextHop, Packet, View};

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

/// Entry.
#[xdp(frags)]
#[inline(always)] // into the symbol that the macro makes: a call between BPF functions costs 10 ns
pub fn lbd_xdp(ctx: XdpContext) -> u32 {
    let decision = decide(&mut Packet::new(&ctx));
    maps::count(decision.outcome);
    #[cfg(feature = "packet-log")]
    packet_log::tell(&ctx, &decision);
    match decision.outcome.action() {
        Action::Pass => XDP_PASS,
        Action::Drop => XDP_DROP,
        Action::Forward | Action::Reset if decision.ifindex == 0 => XDP_TX,
        Action::Forward | Action::Reset => access::redirect(decision.ifindex),
    }
}

#[inline(always)]
fn decide(packet: &mut Packet) -> Decision {
    const IPV4: u16 = be16(0x0800);
    const ARP: u16 = be16(0x0806);
    const IPV6: u16 = be16(0x86dd);
    const VLAN: u16 = be16(0x8100);
    const VLAN_OUTER: u16 = be16(0x88a8);
    let Some(view) = packet.view::<14>() else { return Decision::of(Outcome::Short) };
    match view.get::<u16, { parse::ETH_TYPE }>() {
        IPV4 => lookup::decide(packet),
        ARP => Decision::of(arp::decide(packet)),
        IPV6 => Decision::of(ipv6::decide(packet)),
        VLAN | VLAN_OUTER => Decision::of(Outcome::Vlan),
        _ => Decision::of(Outcome::NotIp),
    }
}

/// Reports jiffies64 and CLOCK_MONOTONIC in the first sixteen bytes of its packet; the loader
/// runs it to learn how the two go together.
#[xdp]
pub fn lbd_clock(ctx: XdpContext) -> u32 {
    let packet = Packet::new(&ctx);
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
