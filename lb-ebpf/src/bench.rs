//! The bench's wrapper and floors; never attached, not part of the shipped object.
//!
//! A test run does not restore the packet between repeats, so the wrapper writes its first 64
//! bytes anew, optionally as another client's each time, and tail-calls the program under test
//! (reference/xdp.md §6).
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]
#![deny(unsafe_code)]

#[allow(unsafe_code, dead_code, reason = "the same packet access as the shipped program's")]
mod access;

use access::{Hook, Packet, View, exchange_macs};
use aya_ebpf::{
    bindings::{
        TC_ACT_OK, TC_ACT_UNSPEC,
        xdp_action::{XDP_ABORTED, XDP_PASS, XDP_TX},
    },
    macros::{classifier, xdp},
    programs::{TcContext, XdpContext},
};

#[allow(unsafe_code, reason = "map access and the tail call")]
mod sys;

#[xdp(frags)]
pub fn bench_wrapper(ctx: XdpContext) -> u32 {
    if restore(&Packet::new(&ctx)).is_some() {
        sys::jump(&ctx);
    }
    XDP_ABORTED
}

/// As `bench_wrapper`, where the program puts twenty bytes before the packet each time: they are taken off again.
#[xdp(frags)]
pub fn bench_wrapper_tunnel(ctx: XdpContext) -> u32 {
    // The first run finds the packet as it was given.
    if Packet::new(&ctx).linear_len() > TUNNELLED && !sys::take_off(&ctx, 20) {
        return XDP_ABORTED;
    }
    if restore(&Packet::new(&ctx)).is_some() {
        sys::jump(&ctx);
    }
    XDP_ABORTED
}

/// Length of the frame that goes into a tunnel.
const TUNNELLED: u32 = 86;

/// On tc's ingress. 0 says, as XDP_ABORTED does, that there was no program to go on with.
#[classifier]
pub fn bench_wrapper_tc(ctx: TcContext) -> i32 {
    if restore(&Packet::of_skb(&ctx)).is_some() {
        sys::jump_tc(&ctx);
    }
    TC_ACT_OK
}

#[inline(always)]
fn restore<H: Hook>(packet: &Packet<H>) -> Option<()> {
    let view = packet.view::<64>()?;
    let words = sys::template()?;
    view.set::<u64, 0>(words[0]);
    view.set::<u64, 8>(words[1]);
    view.set::<u64, 16>(words[2]);
    view.set::<u64, 24>(words[3]);
    view.set::<u64, 32>(words[4]);
    view.set::<u64, 40>(words[5]);
    view.set::<u64, 48>(words[6]);
    view.set::<u64, 56>(words[7]);
    if let Some(client) = sys::next() {
        walk(&view, client);
    }
    Some(())
}

/// Source port and the low half of the source address name the client. Checksums do not follow:
/// nobody on this path reads them.
#[inline(always)]
fn walk(view: &View<'_, 64>, client: u64) {
    view.set::<u16, 28>((client >> 16) as u16);
    view.set::<u16, 34>(client as u16);
}

/// Floor: nothing.
#[xdp(frags)]
pub fn floor_pass(_ctx: XdpContext) -> u32 {
    XDP_PASS
}

/// Floor: the least that a forwarder does.
#[xdp(frags)]
pub fn floor_swap(ctx: XdpContext) -> u32 {
    if swap(&Packet::new(&ctx)).is_some() { XDP_TX } else { XDP_ABORTED }
}

/// Floors on tc's ingress, where a forwarder has to say where to.
#[classifier]
pub fn floor_pass_tc(_ctx: TcContext) -> i32 {
    TC_ACT_UNSPEC
}

#[classifier]
pub fn floor_swap_tc(ctx: TcContext) -> i32 {
    let packet = Packet::of_skb(&ctx);
    if swap(&packet).is_some() { access::redirect(packet.ifindex()) as i32 } else { TC_ACT_OK }
}

#[inline(always)]
fn swap<H: Hook>(packet: &Packet<H>) -> Option<()> {
    let view = packet.view::<14>()?;
    let macs = exchange_macs(view.get::<u32, 0>(), view.get::<u32, 4>(), view.get::<u32, 8>());
    view.set::<u32, 0>(macs[0]);
    view.set::<u32, 4>(macs[1]);
    view.set::<u32, 8>(macs[2]);
    Some(())
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
