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

use access::{Packet, View, exchange_macs};
use aya_ebpf::{
    bindings::xdp_action::{XDP_ABORTED, XDP_PASS, XDP_TX},
    macros::xdp,
    programs::XdpContext,
};

#[allow(unsafe_code, reason = "map access")]
mod tables {
    use aya_ebpf::{
        macros::map,
        maps::{Array, ProgramArray},
        programs::XdpContext,
    };

    #[map(name = "jump")]
    static JUMP: ProgramArray = ProgramArray::with_max_entries(1, 0);
    #[map(name = "template")]
    static TEMPLATE: Array<[u64; 8]> = Array::with_max_entries(1, 0);
    /// Element 0: how many clients to walk through (0: none). Element 1: the next one.
    #[map(name = "walk")]
    static WALK: Array<u64> = Array::with_max_entries(2, 0);

    #[inline(always)]
    pub fn template() -> Option<&'static [u64; 8]> {
        TEMPLATE.get(0)
    }

    /// Number of the next client, if clients are to be walked through.
    #[inline(always)]
    pub fn next() -> Option<u64> {
        let walk = *WALK.get(0)?;
        if walk == 0 {
            return None;
        }
        let next = WALK.get_ptr_mut(1)?;
        // SAFETY: one bench runs at a time, pinned to one CPU.
        let number = unsafe {
            *next += 1;
            *next
        };
        Some(number & (walk - 1))
    }

    /// Goes on with the program under test; comes back only if there is none.
    #[inline(always)]
    pub fn jump(ctx: &XdpContext) {
        // SAFETY: a valid context and index.
        unsafe { JUMP.tail_call(ctx, 0) }
    }
}

#[xdp(frags)]
pub fn bench_wrapper(ctx: XdpContext) -> u32 {
    if restore(&Packet::new(&ctx)).is_some() {
        tables::jump(&ctx);
    }
    XDP_ABORTED
}

#[inline(always)]
fn restore(packet: &Packet) -> Option<()> {
    let view = packet.view::<64>()?;
    let words = tables::template()?;
    view.set::<u64, 0>(words[0]);
    view.set::<u64, 8>(words[1]);
    view.set::<u64, 16>(words[2]);
    view.set::<u64, 24>(words[3]);
    view.set::<u64, 32>(words[4]);
    view.set::<u64, 40>(words[5]);
    view.set::<u64, 48>(words[6]);
    view.set::<u64, 56>(words[7]);
    if let Some(client) = tables::next() {
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
    let packet = Packet::new(&ctx);
    let Some(view) = packet.view::<14>() else { return XDP_ABORTED };
    let macs = exchange_macs(view.get::<u32, 0>(), view.get::<u32, 4>(), view.get::<u32, 8>());
    view.set::<u32, 0>(macs[0]);
    view.set::<u32, 4>(macs[1]);
    view.set::<u32, 8>(macs[2]);
    XDP_TX
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
