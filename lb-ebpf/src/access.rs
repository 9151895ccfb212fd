//! The only raw access to packets, and the few helpers that are no map operations.

use core::marker::PhantomData;

use aya_ebpf::{
    bindings::{bpf_fib_lookup, xdp_md},
    helpers::generated as helper,
    programs::XdpContext,
};
use lb_common::abi::{Addr6, Be32};

/// A packet under the program's hands.
pub struct Packet {
    ctx: *mut xdp_md,
}

impl Packet {
    /// Takes the packet that the program was called for.
    #[inline(always)]
    pub fn new(ctx: &XdpContext) -> Self {
        Self { ctx: ctx.ctx }
    }

    /// Interface it came in by.
    #[inline(always)]
    pub fn ifindex(&self) -> u32 {
        // SAFETY: the context is valid for the run of the program.
        unsafe { (*self.ctx).ingress_ifindex }
    }

    #[inline(always)]
    fn bounds(&self) -> (usize, usize) {
        // SAFETY: as above; the verifier turns both loads into packet pointers.
        unsafe { ((*self.ctx).data as usize, (*self.ctx).data_end as usize) }
    }

    /// Bytes in the linear part: the whole frame unless it came in several buffers.
    #[inline(always)]
    pub fn linear_len(&self) -> u32 {
        let (start, end) = self.bounds();
        (end - start) as u32
    }

    /// Bytes of the whole frame. A helper call: off the hot path only.
    #[inline(always)]
    pub fn full_len(&self) -> u32 {
        // SAFETY: takes a valid context.
        unsafe { helper::bpf_xdp_get_buff_len(self.ctx) as u32 }
    }

    /// The first `N` bytes, if the packet has them.
    #[inline(always)]
    pub fn view<const N: usize>(&self) -> Option<View<'_, N>> {
        let (start, end) = self.bounds();
        if start + N > end {
            return None;
        }
        Some(View { start: start as *mut u8, packet: PhantomData })
    }

    /// `N` bytes from a place that is known only now, if the packet has them. Places are taken modulo
    /// 16 KiB, so that the verifier knows a bound. Two bytes at least: for one, LLVM compares in a way
    /// that proves nothing to the verifier.
    #[inline(always)]
    pub fn view_at<const N: usize>(&self, at: u32) -> Option<View<'_, N>> {
        const { assert!(N > 1) };
        let (start, end) = self.bounds();
        let start = start + (at & 0x3fff) as usize;
        if start + N > end {
            return None;
        }
        Some(View { start: start as *mut u8, packet: PhantomData })
    }

    /// Cuts the frame from `from` to `to` bytes. Views end here, as the borrow checker sees.
    #[inline(always)]
    pub fn trim(&mut self, from: u32, to: u32) -> bool {
        // SAFETY: takes a valid context.
        from == to || unsafe { helper::bpf_xdp_adjust_tail(self.ctx, to as i32 - from as i32) } == 0
    }

    /// Asks the kernel's routing for the way to `to`. About 100 ns: off the hot path only. Needs
    /// forwarding enabled on the interface the packet came in by.
    #[inline(always)]
    pub fn route(&self, from: Be32, to: Be32, len: u16) -> Option<NextHop> {
        let mut query = RouteQuery {
            family: 2, // AF_INET
            protocol: lb_common::abi::PROTO_TCP,
            ports: [0; 2],
            len,
            ifindex: self.ifindex(),
            tos: 0,
            src: [from, 0, 0, 0],
            dst: [to, 0, 0, 0],
            vlan: 0,
            macs: [0; 3],
        };
        let size = size_of::<RouteQuery>() as i32;
        // SAFETY: valid context, and a struct of the kernel's layout and of the size given.
        let found =
            unsafe { helper::bpf_fib_lookup(self.ctx.cast(), (&raw mut query).cast(), size, 0) };
        let [a, b, c] = query.macs;
        (found == 0).then(|| NextHop { macs: exchange_macs(a, b, c), ifindex: query.ifindex })
    }
}

/// `struct bpf_fib_lookup`, with what we read in words, so that it lies aligned on the stack.
#[repr(C, align(8))]
struct RouteQuery {
    family: u8,
    protocol: u8,
    ports: [u16; 2],
    len: u16,
    ifindex: u32,
    tos: u32,
    src: [u32; 4],
    dst: [u32; 4],
    vlan: u32,
    /// Source MAC, destination MAC.
    macs: [u32; 3],
}
const _: () = assert!(size_of::<RouteQuery>() == size_of::<bpf_fib_lookup>());

/// Where a frame is sent.
#[repr(C, align(8))] // see `lb_common::abi` on the stack
#[derive(Clone, Copy)]
pub struct NextHop {
    /// As `lb_common::abi::macs` makes it.
    pub macs: [u32; 3],
    /// Interface.
    pub ifindex: u32,
}

/// The first `N` bytes of a packet, proven to be there.
#[derive(Clone, Copy)]
pub struct View<'a, const N: usize> {
    start: *mut u8,
    packet: PhantomData<&'a Packet>,
}

/// Integers that the program reads and writes in packets, each with one instruction.
///
/// Header words lie at 2 mod 4, where Rust (and LLVM's BPF back end) would read a `u32` byte by
/// byte. BPF's own load has no such limit for packets where the CPU has none (x86-64, arm64), so
/// it is written out.
pub trait Word: Copy {
    /// # Safety
    /// `size_of::<Self>()` bytes at `start + AT` belong to the packet.
    unsafe fn load<const AT: usize>(start: *const u8) -> Self;
    /// # Safety
    /// As [`Word::load`].
    unsafe fn store<const AT: usize>(start: *mut u8, value: Self);
}

macro_rules! word {
    ($type:ident, $load:literal, $store:literal) => {
        impl Word for $type {
            #[inline(always)]
            unsafe fn load<const AT: usize>(start: *const u8) -> Self {
                let word: u64;
                // SAFETY: the caller vouches for the bytes; the verifier checks it again.
                unsafe {
                    core::arch::asm!(
                        $load,
                        out(reg) word, in(reg) start, at = const AT,
                        options(pure, readonly, nostack, preserves_flags),
                    );
                }
                word as Self
            }

            #[inline(always)]
            unsafe fn store<const AT: usize>(start: *mut u8, value: Self) {
                // SAFETY: as above.
                unsafe {
                    core::arch::asm!(
                        $store,
                        in(reg) start, in(reg) u64::from(value), at = const AT,
                        options(nostack, preserves_flags),
                    );
                }
            }
        }
    };
}
word!(u8, "{0} = *(u8 *)({1} + {at})", "*(u8 *)({0} + {at}) = {1}");
word!(u16, "{0} = *(u16 *)({1} + {at})", "*(u16 *)({0} + {at}) = {1}");
word!(u32, "{0} = *(u32 *)({1} + {at})", "*(u32 *)({0} + {at}) = {1}");
word!(u64, "{0} = *(u64 *)({1} + {at})", "*(u64 *)({0} + {at}) = {1}");

impl<const N: usize> View<'_, N> {
    /// The word at offset `AT`, as it lies in the packet.
    #[inline(always)]
    pub fn get<T: Word, const AT: usize>(&self) -> T {
        const { assert!(AT + size_of::<T>() <= N, "outside of the view") };
        // SAFETY: `N` bytes from `start` belong to the packet, and every bit pattern is a `T`.
        unsafe { T::load::<AT>(self.start) }
    }

    /// The IPv6 address at offset `AT`.
    #[inline(always)]
    pub fn addr6<const AT: usize>(&self) -> Addr6 {
        const { assert!(AT + size_of::<Addr6>() <= N, "outside of the view") };
        // SAFETY: as above.
        unsafe {
            let at = self.start.add(AT);
            Addr6 {
                words: [
                    u32::load::<0>(at),
                    u32::load::<4>(at),
                    u32::load::<8>(at),
                    u32::load::<12>(at),
                ],
            }
        }
    }

    /// Writes the word at offset `AT`.
    #[inline(always)]
    pub fn set<T: Word, const AT: usize>(&self, value: T) {
        const { assert!(AT + size_of::<T>() <= N, "outside of the view") };
        // SAFETY: as above; a packet belongs to one run of the program at a time.
        unsafe { T::store::<AT>(self.start, value) }
    }
}

/// jiffies64; the JIT makes a load of it.
#[inline(always)]
pub fn jiffies() -> u64 {
    // SAFETY: no arguments.
    unsafe { helper::bpf_jiffies64() }
}

/// CLOCK_MONOTONIC. Never on the packet path.
#[inline(always)]
pub fn monotonic_ns() -> u64 {
    // SAFETY: no arguments.
    unsafe { helper::bpf_ktime_get_ns() }
}

/// Sends the packet out by an interface. Not XDP_TX even for the one it came in by: on veth only
/// the flush after a redirect wakes the other end (reference/testbed.md §2).
#[inline(always)]
pub fn redirect(ifindex: u32) -> u32 {
    // SAFETY: takes integers.
    unsafe { helper::bpf_redirect(ifindex, 0) as u32 }
}

/// Two MAC addresses, as they follow each other in three words, exchanged.
#[inline(always)]
pub fn exchange_macs(a: u32, b: u32, c: u32) -> [u32; 3] {
    // [x0-x3] [x4 x5 y0 y1] [y2-y5] becomes [y0-y3] [y4 y5 x0 x1] [x2-x5].
    if cfg!(target_endian = "little") {
        [b >> 16 | c << 16, c >> 16 | a << 16, a >> 16 | b << 16]
    } else {
        [b << 16 | c >> 16, c << 16 | a >> 16, a << 16 | b >> 16]
    }
}
