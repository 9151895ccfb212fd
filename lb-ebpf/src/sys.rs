//! Maps of the bench and the tail call.

use aya_ebpf::{
    helpers::generated::bpf_xdp_adjust_head,
    macros::map,
    maps::{Array, ProgramArray},
    programs::{TcContext, XdpContext},
};

#[map(name = "jump")]
static JUMP: ProgramArray = ProgramArray::with_max_entries(1, 0);
/// As `jump`; an array holds programs of one type.
#[map(name = "jump_tc")]
static JUMP_TC: ProgramArray = ProgramArray::with_max_entries(1, 0);
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

/// Takes bytes off before the packet. Views of it end here.
#[inline(always)]
pub fn take_off(ctx: &XdpContext, bytes: i32) -> bool {
    // SAFETY: a valid context.
    unsafe { bpf_xdp_adjust_head(ctx.ctx, bytes) == 0 }
}

/// Goes on with the program under test; comes back only if there is none.
#[inline(always)]
pub fn jump(ctx: &XdpContext) {
    // SAFETY: a valid context and index.
    unsafe { JUMP.tail_call(ctx, 0) }
}

/// The same on tc's ingress.
#[inline(always)]
pub fn jump_tc(ctx: &TcContext) {
    // SAFETY: a valid context and index.
    unsafe { JUMP_TC.tail_call(ctx, 0) }
}
