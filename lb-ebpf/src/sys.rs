//! Maps of the bench and the tail call.

use aya_ebpf::{
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
