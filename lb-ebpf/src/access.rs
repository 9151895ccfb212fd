//! The only raw access to packets, and the few helpers that are no map operations.

use core::marker::PhantomData;

use aya_ebpf::{
    bindings::{
        __sk_buff, BPF_F_ADJ_ROOM_ENCAP_L3_IPV4, BPF_F_ADJ_ROOM_ENCAP_L3_IPV6,
        BPF_F_ADJ_ROOM_FIXED_GSO, BPF_F_PSEUDO_HDR, bpf_adj_room_mode, bpf_fib_lookup, xdp_md,
    },
    helpers::generated as helper,
    programs::{TcContext, XdpContext},
};
use lb_common::abi::Addr;

/// Length of an Ethernet header.
const ETH_LEN: usize = 14;

/// A place in the kernel's receive path that the program is compiled for. Everything is written once; what the
/// places differ in is here, and costs nothing where it is not needed.
pub trait Hook {
    /// What the kernel calls the program with.
    type Context;
    /// Whether a packet's checksum may be partial (its field then holds the sum of the pseudo header, for a device to
    /// complete), so that only the kernel's helper changes it right.
    const BY_HELPER: bool;

    /// Interface it came in by.
    ///
    /// # Safety
    /// The context is valid for the run of the program, here and below.
    unsafe fn ifindex(ctx: *mut Self::Context) -> u32;
    /// Begin and end of what can be read. The verifier turns both loads into packet pointers.
    ///
    /// # Safety
    /// As [`Hook::ifindex`].
    unsafe fn bounds(ctx: *mut Self::Context) -> (usize, usize);
    /// Bytes of the whole frame.
    ///
    /// # Safety
    /// As [`Hook::ifindex`].
    unsafe fn full_len(ctx: *mut Self::Context) -> u32;
    /// Cuts the frame from `from` to `to` bytes.
    ///
    /// # Safety
    /// As [`Hook::ifindex`]; no view of the packet is used any more.
    unsafe fn trim(ctx: *mut Self::Context, from: u32, to: u32) -> bool;
    /// See [`Packet::correct`].
    ///
    /// # Safety
    /// As [`Hook::trim`].
    unsafe fn correct(ctx: *mut Self::Context, at: u32, delta: u16, flags: u64) -> bool;
    /// Adds to the sum of the whole packet that the device gave (CHECKSUM_COMPLETE), which covers what lies behind the
    /// Ethernet header; the new sum, negative where there is none.
    ///
    /// # Safety
    /// As [`Hook::ifindex`].
    unsafe fn add_to_sum(ctx: *mut Self::Context, delta: u32) -> i64;
    /// Makes room behind the Ethernet header, or before it; the header is to be written anew.
    ///
    /// # Safety
    /// As [`Hook::trim`].
    unsafe fn grow(ctx: *mut Self::Context, by: u32, what: Room) -> bool;
    /// Payload of each of the segments that the packet will be cut into; 0: it is one.
    ///
    /// # Safety
    /// As [`Hook::ifindex`].
    unsafe fn segment_payload(ctx: *mut Self::Context) -> u32;
    /// Length that the routing is asked with. An skb says itself what it is cut into.
    fn route_len(len: u16) -> u16;
}

/// What room before a packet is for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Room {
    /// An outer IPv4 header.
    Outer4,
    /// An outer IPv6 header.
    Outer6,
    /// Headers of an answer, of which the packet becomes the data.
    Answer,
}

impl Room {
    /// What tc's helper wants to be told. Segments keep their payload: whoever asks has seen that they fit, and a
    /// size that is not the one by which they were put together has been more than old kernels could take.
    #[inline(always)]
    const fn flags(self) -> u64 {
        match self {
            Self::Outer4 => (BPF_F_ADJ_ROOM_ENCAP_L3_IPV4 | BPF_F_ADJ_ROOM_FIXED_GSO) as u64,
            Self::Outer6 => (BPF_F_ADJ_ROOM_ENCAP_L3_IPV6 | BPF_F_ADJ_ROOM_FIXED_GSO) as u64,
            Self::Answer => 0,
        }
    }
}

/// The driver, before there is an skb. A packet's checksum is complete, or has been checked by the device.
pub struct Driver;

impl Hook for Driver {
    type Context = xdp_md;
    const BY_HELPER: bool = false;

    #[inline(always)]
    unsafe fn ifindex(ctx: *mut xdp_md) -> u32 {
        // SAFETY: the caller's.
        unsafe { (*ctx).ingress_ifindex }
    }

    #[inline(always)]
    unsafe fn bounds(ctx: *mut xdp_md) -> (usize, usize) {
        // SAFETY: the caller's.
        unsafe { ((*ctx).data as usize, (*ctx).data_end as usize) }
    }

    #[inline(always)]
    unsafe fn full_len(ctx: *mut xdp_md) -> u32 {
        // SAFETY: the caller's.
        unsafe { helper::bpf_xdp_get_buff_len(ctx) as u32 }
    }

    #[inline(always)]
    unsafe fn trim(ctx: *mut xdp_md, from: u32, to: u32) -> bool {
        // SAFETY: the caller's.
        unsafe { helper::bpf_xdp_adjust_tail(ctx, to as i32 - from as i32) == 0 }
    }

    #[inline(always)]
    unsafe fn correct(_: *mut xdp_md, _: u32, _: u16, _: u64) -> bool {
        true // written directly
    }

    #[inline(always)]
    unsafe fn add_to_sum(_: *mut xdp_md, _: u32) -> i64 {
        -1
    }

    #[inline(always)]
    unsafe fn grow(ctx: *mut xdp_md, by: u32, _: Room) -> bool {
        // SAFETY: the caller's.
        unsafe { helper::bpf_xdp_adjust_head(ctx, -by.cast_signed()) == 0 }
    }

    #[inline(always)]
    unsafe fn segment_payload(_: *mut xdp_md) -> u32 {
        0
    }

    #[inline(always)]
    fn route_len(len: u16) -> u16 {
        len
    }
}

/// tc's ingress. A packet may be one of many segments (GSO), lie in pieces, and have a partial checksum.
pub struct Ingress;

impl Hook for Ingress {
    type Context = __sk_buff;
    const BY_HELPER: bool = true;

    #[inline(always)]
    unsafe fn ifindex(ctx: *mut __sk_buff) -> u32 {
        // SAFETY: the caller's.
        unsafe { (*ctx).ifindex }
    }

    #[inline(always)]
    unsafe fn bounds(ctx: *mut __sk_buff) -> (usize, usize) {
        // SAFETY: the caller's.
        unsafe { ((*ctx).data as usize, (*ctx).data_end as usize) }
    }

    #[inline(always)]
    unsafe fn full_len(ctx: *mut __sk_buff) -> u32 {
        // SAFETY: the caller's.
        unsafe { (*ctx).len }
    }

    #[inline(always)]
    unsafe fn trim(ctx: *mut __sk_buff, _: u32, to: u32) -> bool {
        // SAFETY: the caller's.
        unsafe { helper::bpf_skb_change_tail(ctx, to, 0) == 0 }
    }

    #[inline(always)]
    unsafe fn correct(ctx: *mut __sk_buff, at: u32, delta: u16, flags: u64) -> bool {
        // SAFETY: the caller's.
        unsafe { helper::bpf_l4_csum_replace(ctx, at, 0, u64::from(delta), flags) == 0 }
    }

    #[inline(always)]
    unsafe fn add_to_sum(ctx: *mut __sk_buff, delta: u32) -> i64 {
        // SAFETY: the caller's.
        unsafe { helper::bpf_csum_update(ctx, delta) }
    }

    #[inline(always)]
    unsafe fn grow(ctx: *mut __sk_buff, by: u32, what: Room) -> bool {
        let (by, mode) = (by.cast_signed(), bpf_adj_room_mode::BPF_ADJ_ROOM_MAC);
        // SAFETY: the caller's.
        unsafe { helper::bpf_skb_adjust_room(ctx, by, mode, what.flags()) == 0 }
    }

    #[inline(always)]
    unsafe fn segment_payload(ctx: *mut __sk_buff) -> u32 {
        // SAFETY: the caller's.
        unsafe { (*ctx).gso_size }
    }

    #[inline(always)]
    fn route_len(_: u16) -> u16 {
        0
    }
}

/// A packet under the program's hands.
pub struct Packet<H: Hook> {
    ctx: *mut H::Context,
}

impl Packet<Driver> {
    /// Takes the packet that the program was called for.
    #[inline(always)]
    pub fn new(ctx: &XdpContext) -> Self {
        Self { ctx: ctx.ctx }
    }
}

impl Packet<Ingress> {
    /// Takes the packet that the program was called for.
    #[inline(always)]
    pub fn of_skb(ctx: &TcContext) -> Self {
        Self { ctx: ctx.skb.skb }
    }

    /// Whether it came with the tag of a VLAN, which the kernel has taken out of its data. One of VLAN 0 says a priority
    /// only (802.1Q): the kernel takes such a frame for what it is without.
    #[inline(always)]
    pub fn is_tagged(&self) -> bool {
        // SAFETY: the context is valid for the run of the program.
        unsafe { (*self.ctx).vlan_present != 0 && (*self.ctx).vlan_tci & 0xfff != 0 }
    }

    /// Sees to it that what there is of the first `len` bytes can be read. Where it cannot, views will be found too
    /// short.
    #[inline(always)]
    pub fn pull(&mut self, len: u32) {
        let (linear, full) = (self.linear_len(), self.full_len());
        if linear < len && linear < full {
            let len = if full < len { full } else { len };
            // SAFETY: a valid context, and no view outlives the call.
            unsafe { helper::bpf_skb_pull_data(self.ctx, len) };
        }
    }
}

impl<H: Hook> Packet<H> {
    /// Interface it came in by.
    #[inline(always)]
    pub fn ifindex(&self) -> u32 {
        // SAFETY: the context is valid for the run of the program.
        unsafe { H::ifindex(self.ctx) }
    }

    #[inline(always)]
    fn bounds(&self) -> (usize, usize) {
        // SAFETY: as above.
        unsafe { H::bounds(self.ctx) }
    }

    /// Bytes in the linear part: the whole frame unless it came in several buffers.
    #[inline(always)]
    pub fn linear_len(&self) -> u32 {
        let (start, end) = self.bounds();
        (end - start) as u32
    }

    /// Bytes of the whole frame. For XDP a helper call: off the hot path only.
    #[inline(always)]
    pub fn full_len(&self) -> u32 {
        // SAFETY: takes a valid context.
        unsafe { H::full_len(self.ctx) }
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
        from == to || unsafe { H::trim(self.ctx, from, to) }
    }

    /// Makes room for headers behind the Ethernet header, all of which are to be written then. Views end here.
    #[inline(always)]
    pub fn grow(&mut self, by: u32, what: Room) -> bool {
        // SAFETY: takes a valid context.
        unsafe { H::grow(self.ctx, by, what) }
    }

    /// Payload of each of the segments that the packet will be cut into; 0: it is one.
    #[inline(always)]
    pub fn segment_payload(&self) -> u32 {
        // SAFETY: as above.
        unsafe { H::segment_payload(self.ctx) }
    }

    /// What was put before the packet adds `delta` to the device's sum of it.
    #[inline(always)]
    pub fn add_to_sum(&mut self, delta: u32) {
        // SAFETY: as above.
        unsafe { H::add_to_sum(self.ctx, delta) };
    }

    /// Brings the transport checksum in line with changes that add `addresses` to the sum of the pseudo header and
    /// `rest` to that of what follows it: a partial one takes the first only. To be called after the changes; true
    /// without doing anything where the checksum is written directly ([`Hook::BY_HELPER`]). Views end here.
    ///
    /// `balanced`: a checksum of the IP header has taken up what its addresses were changed by. The helper believes that
    /// of every packet, and takes the change out of the device's sum of the whole packet. IPv6's header has no checksum:
    /// there address and transport checksum cancel out, and what it took must come back. (BPF_F_IPV6 would tell it; kernels
    /// before 6.16 refuse a flag that they do not know.)
    #[inline(always)]
    pub fn correct(&mut self, at: u32, addresses: u16, rest: u16, balanced: bool) -> bool {
        // SAFETY: takes a valid context.
        unsafe {
            if addresses != 0 {
                if !H::correct(self.ctx, at, addresses, u64::from(BPF_F_PSEUDO_HDR)) {
                    return false;
                }
                if !balanced {
                    H::add_to_sum(self.ctx, addresses.into());
                }
            }
            rest == 0 || H::correct(self.ctx, at, rest, 0)
        }
    }

    /// After the whole packet was written anew: what the device gave as its sum becomes that of the headers, which end at
    /// `END`, a multiple of four behind the Ethernet header. Nothing but zeros follows them. Views end here.
    #[inline(always)]
    pub fn resum<const END: usize>(&mut self) {
        if !H::BY_HELPER {
            return;
        }
        // SAFETY: takes a valid context.
        let was = unsafe { H::add_to_sum(self.ctx, 0) };
        if was < 0 {
            return;
        }
        let Some(view) = self.view::<END>() else { return };
        // SAFETY: the bytes from there to the end of the view belong to the packet.
        let now = unsafe {
            let from = view.start.add(ETH_LEN).cast();
            helper::bpf_csum_diff(core::ptr::null_mut(), 0, from, (END - ETH_LEN) as u32, 0)
        };
        let delta = u64::from(now as u32) + u64::from(!(was as u32));
        // SAFETY: takes a valid context.
        unsafe { H::add_to_sum(self.ctx, delta as u32 + (delta >> 32) as u32) };
    }

    /// Asks the kernel's routing for the way from `src` to `dst`, both of `family` (AF_INET: in the first
    /// word). About 100 ns: off the hot path only. Needs forwarding enabled on the interface the packet came in
    /// by.
    #[inline(always)]
    pub fn route(
        &self,
        query: &mut RouteQuery,
        family: u8,
        src: [u32; 4],
        dst: [u32; 4],
        len: u16,
    ) -> Option<NextHop> {
        *query = RouteQuery {
            family,
            protocol: lb_common::abi::PROTO_TCP,
            ports: [0; 2],
            len: H::route_len(len),
            ifindex: self.ifindex(),
            tos: 0,
            src,
            dst,
            vlan: 0,
            macs: [0; 3],
        };
        let size = size_of::<RouteQuery>() as i32;
        // SAFETY: valid context, and a struct of the kernel's layout and of the size given.
        let found =
            unsafe { helper::bpf_fib_lookup(self.ctx.cast(), (&raw mut *query).cast(), size, 0) };
        let [a, b, c] = query.macs;
        (found == 0).then(|| NextHop { macs: exchange_macs(a, b, c), ifindex: query.ifindex })
    }
}

/// `struct bpf_fib_lookup`, with what we read in words, so that it lies aligned.
#[repr(C, align(8))]
pub struct RouteQuery {
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
    packet: PhantomData<&'a [u8]>,
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

impl<'a, const N: usize> View<'a, N> {
    /// The first `M` bytes, and the rest, of `R`.
    #[inline(always)]
    pub fn split<const M: usize, const R: usize>(self) -> (View<'a, M>, View<'a, R>) {
        const { assert!(M + R <= N, "outside of the view") };
        let start = self.start;
        // SAFETY: within the packet, as the view is.
        let rest = unsafe { start.add(M) };
        (View { start, packet: PhantomData }, View { start: rest, packet: PhantomData })
    }

    /// The word at offset `AT`, as it lies in the packet.
    #[inline(always)]
    pub fn get<T: Word, const AT: usize>(&self) -> T {
        const { assert!(AT + size_of::<T>() <= N, "outside of the view") };
        // SAFETY: `N` bytes from `start` belong to the packet, and every bit pattern is a `T`.
        unsafe { T::load::<AT>(self.start) }
    }

    /// The IPv6 address at offset `AT`.
    #[inline(always)]
    pub fn addr6<const AT: usize>(&self) -> Addr {
        const { assert!(AT + size_of::<Addr>() <= N, "outside of the view") };
        // SAFETY: as above.
        unsafe {
            let at = self.start.add(AT);
            Addr {
                words: [
                    u32::load::<0>(at),
                    u32::load::<4>(at),
                    u32::load::<8>(at),
                    u32::load::<12>(at),
                ],
            }
        }
    }

    /// Writes an IPv6 address at offset `AT`.
    #[inline(always)]
    pub fn set_addr6<const AT: usize>(&self, addr: &Addr) {
        const { assert!(AT + size_of::<Addr>() <= N, "outside of the view") };
        // SAFETY: as above; a packet belongs to one run of the program at a time.
        unsafe {
            let at = self.start.add(AT);
            u32::store::<0>(at, addr.words[0]);
            u32::store::<4>(at, addr.words[1]);
            u32::store::<8>(at, addr.words[2]);
            u32::store::<12>(at, addr.words[3]);
        }
    }

    /// Sum of the 16-bit words from offset `FROM` to `TO`, an even number of them, not folded.
    #[inline(always)]
    pub fn sum<const FROM: usize, const TO: usize>(&self) -> u32 {
        const { assert!(FROM < TO && TO <= N && (TO - FROM).is_multiple_of(4)) };
        let (mut sum, mut at) = (0, FROM);
        while at < TO {
            // SAFETY: as in `get`.
            let word = unsafe { u32::load::<0>(self.start.add(at)) };
            sum += (word & 0xffff) + (word >> 16);
            at += 4;
        }
        sum
    }

    /// Destination and source MAC as words.
    #[inline(always)]
    pub fn macs(&self) -> [u32; 3] {
        [self.get::<u32, 0>(), self.get::<u32, 4>(), self.get::<u32, 8>()]
    }

    /// Writes both.
    #[inline(always)]
    pub fn set_macs(&self, macs: [u32; 3]) {
        self.set::<u32, 0>(macs[0]);
        self.set::<u32, 4>(macs[1]);
        self.set::<u32, 8>(macs[2]);
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
