//! What the address families differ in. A family is named by the type of its addresses: [`Be32`] is IPv4,
//! [`Addr`] is IPv6. Everything else is written once, and compiled for each.

use lb_common::{
    abi::{
        Addr, Be16, Be32, DONT_FRAGMENT, FILTER_NAT_SOURCE, FILTER_NAT_SOURCE6, FlowKey,
        PROTO_IPIP, PROTO_IPV6, PROTO_TCP, Real,
    },
    csum, hash,
};

use crate::{
    access::{Hook, NextHop, Packet, View},
    maps::{self, Tables},
    parse::{
        ETH_LEN, Frame, IP_CHECK, IP_DST, IP_FRAGS, IP_ID, IP_LEN, IP_PROTO, IP_SRC, IP_TOS,
        IP_TTL, IP_VIHL, IP4_END, IP6_DST, IP6_END, IP6_HEAD, IP6_HOPS, IP6_LEN, IP6_NEXT, IP6_SRC,
        TCP_LEN,
    },
    too_big::{self, Error},
};

/// TTL and hop limit of packets that we make.
pub const TTL: u8 = 64;

pub trait Family: Tables + PartialEq {
    /// View of the Ethernet and the IP header.
    type Ip<'a>: Copy;
    /// Length of the IP header.
    const HEADER: u32;
    /// Whether the IP header has a checksum, so that its sum stays whatever its addresses are.
    const BALANCED: bool;
    /// What a tunnel's header says of a packet of the family in it.
    const TUNNELLED: u8;

    /// The headers of a packet, if it has them, with an IP header of that length.
    fn frame<H: Hook>(packet: &Packet<H>) -> Option<Frame<'_, Self>>;
    /// [`Packet::resum`] of a TCP packet without data.
    fn resum<H: Hook>(packet: &mut Packet<H>);
    fn src(ip: &Self::Ip<'_>) -> Self;
    fn dst(ip: &Self::Ip<'_>) -> Self;
    /// Length of the packet as its IP header states it.
    fn len(ip: &Self::Ip<'_>) -> u32;
    /// DSCP and ECN: IPv4's type of service, IPv6's traffic class.
    fn class(ip: &Self::Ip<'_>) -> u8;
    /// Whether its sender is to be told, and not the packet cut in pieces, where it is too long for a way.
    fn is_whole(ip: &Self::Ip<'_>) -> bool;
    /// Makes the answer of that of a packet, which is cut to its headers, with room for the answer's before it.
    fn too_big<H: Hook>(packet: &mut Packet<H>, error: &Error<Self>) -> bool;
    /// Destination and source MAC.
    fn macs(ip: &Self::Ip<'_>) -> [u32; 3];
    /// Writes destination and source MAC.
    fn set_macs(ip: &Self::Ip<'_>, macs: [u32; 3]);
    /// `real.vip` becomes `real.addr` as destination.
    fn to_server(ip: &Self::Ip<'_>, real: &Real);
    /// `real.addr` becomes `real.vip` as source.
    fn to_client(ip: &Self::Ip<'_>, real: &Real);
    /// Writes the header of a TCP packet without data from `src` to `dst`; the sum of its addresses.
    fn write(ip: &Self::Ip<'_>, src: Self, dst: Self) -> u32;

    /// An address of the family as maps hold it.
    fn of(addr: &Addr) -> Self;
    /// Whether maps hold it as `addr`, which may be of another family.
    fn is(self, addr: &Addr) -> bool;
    /// As maps hold it.
    fn wide(self) -> Addr;
    /// Whether it may be a NAT real server's.
    fn is_source(self) -> bool;
    /// Hash of a client for `mh` and `sh`.
    fn hash(self, port: Be16) -> u64;
    /// The kernel's way from one to the other; see [`Packet::route`].
    fn route<H: Hook>(packet: &Packet<H>, from: Self, to: Self, len: u16) -> Option<NextHop>;
}

impl Family for Be32 {
    type Ip<'a> = View<'a, IP4_END>;
    const HEADER: u32 = (IP4_END - ETH_LEN) as u32;
    const BALANCED: bool = true;
    const TUNNELLED: u8 = PROTO_IPIP;

    #[inline(always)]
    fn frame<H: Hook>(packet: &Packet<H>) -> Option<Frame<'_, Self>> {
        let (ip, tcp) = packet.view::<{ IP4_END + TCP_LEN }>()?.split();
        Some(Frame { ip, tcp })
    }

    #[inline(always)]
    fn resum<H: Hook>(packet: &mut Packet<H>) {
        packet.resum::<{ IP4_END + TCP_LEN }>();
    }

    #[inline(always)]
    fn src(ip: &Self::Ip<'_>) -> Self {
        ip.get::<u32, IP_SRC>()
    }

    #[inline(always)]
    fn dst(ip: &Self::Ip<'_>) -> Self {
        ip.get::<u32, IP_DST>()
    }

    #[inline(always)]
    fn len(ip: &Self::Ip<'_>) -> u32 {
        u32::from(u16::from_be(ip.get::<u16, IP_LEN>()))
    }

    #[inline(always)]
    fn class(ip: &Self::Ip<'_>) -> u8 {
        ip.get::<u8, IP_TOS>()
    }

    #[inline(always)]
    fn is_whole(ip: &Self::Ip<'_>) -> bool {
        ip.get::<u16, IP_FRAGS>() & DONT_FRAGMENT != 0
    }

    #[inline(always)]
    fn too_big<H: Hook>(packet: &mut Packet<H>, error: &Error<Self>) -> bool {
        too_big::write4(packet, error)
    }

    #[inline(always)]
    fn macs(ip: &Self::Ip<'_>) -> [u32; 3] {
        ip.macs()
    }

    #[inline(always)]
    fn set_macs(ip: &Self::Ip<'_>, macs: [u32; 3]) {
        ip.set_macs(macs);
    }

    #[inline(always)]
    fn to_server(ip: &Self::Ip<'_>, real: &Real) {
        ip.set::<u32, IP_DST>(Self::of(&real.addr));
        ip.set::<u16, IP_CHECK>(csum::update(ip.get::<u16, IP_CHECK>(), real.ip_delta));
    }

    #[inline(always)]
    fn to_client(ip: &Self::Ip<'_>, real: &Real) {
        ip.set::<u32, IP_SRC>(Self::of(&real.vip));
        let delta = csum::reverse(real.ip_delta);
        ip.set::<u16, IP_CHECK>(csum::update(ip.get::<u16, IP_CHECK>(), delta));
    }

    #[inline(always)]
    fn write(ip: &Self::Ip<'_>, src: Self, dst: Self) -> u32 {
        const LEN: u16 = (IP4_END - ETH_LEN + TCP_LEN) as u16;
        let addresses = csum::sum32(src) + csum::sum32(dst);
        ip.set::<u16, IP_VIHL>(0x4500_u16.to_be());
        ip.set::<u16, IP_LEN>(LEN.to_be());
        ip.set::<u16, IP_ID>(0);
        ip.set::<u16, IP_FRAGS>(DONT_FRAGMENT);
        ip.set::<u8, IP_TTL>(TTL);
        ip.set::<u8, IP_PROTO>(PROTO_TCP);
        ip.set::<u32, IP_SRC>(src);
        ip.set::<u32, IP_DST>(dst);
        let fixed = 0x4500_u16.to_be() as u32
            + LEN.to_be() as u32
            + DONT_FRAGMENT as u32
            + (u16::from_be_bytes([TTL, PROTO_TCP])).to_be() as u32;
        ip.set::<u16, IP_CHECK>(csum::finish(fixed + addresses));
        addresses
    }

    #[inline(always)]
    fn of(addr: &Addr) -> Self {
        addr.words[3]
    }

    #[inline(always)]
    fn is(self, addr: &Addr) -> bool {
        addr.to_v4() == Some(self)
    }

    #[inline(always)]
    fn wide(self) -> Addr {
        Addr::v4(self)
    }

    #[inline(always)]
    fn is_source(self) -> bool {
        maps::filter(self) & FILTER_NAT_SOURCE != 0
    }

    #[inline(always)]
    fn hash(self, port: Be16) -> u64 {
        hash::client(self, port)
    }

    #[inline(always)]
    fn route<H: Hook>(packet: &Packet<H>, from: Self, to: Self, len: u16) -> Option<NextHop> {
        const AF_INET: u8 = 2;
        packet.route(maps::route_query()?, AF_INET, [from, 0, 0, 0], [to, 0, 0, 0], len)
    }
}

impl Family for Addr {
    type Ip<'a> = View<'a, IP6_END>;
    const HEADER: u32 = (IP6_END - ETH_LEN) as u32;
    const BALANCED: bool = false;
    const TUNNELLED: u8 = PROTO_IPV6;

    #[inline(always)]
    fn frame<H: Hook>(packet: &Packet<H>) -> Option<Frame<'_, Self>> {
        let (ip, tcp) = packet.view::<{ IP6_END + TCP_LEN }>()?.split();
        Some(Frame { ip, tcp })
    }

    #[inline(always)]
    fn resum<H: Hook>(packet: &mut Packet<H>) {
        packet.resum::<{ IP6_END + TCP_LEN }>();
    }

    #[inline(always)]
    fn src(ip: &Self::Ip<'_>) -> Self {
        ip.addr6::<IP6_SRC>()
    }

    #[inline(always)]
    fn dst(ip: &Self::Ip<'_>) -> Self {
        ip.addr6::<IP6_DST>()
    }

    #[inline(always)]
    fn len(ip: &Self::Ip<'_>) -> u32 {
        u32::from(u16::from_be(ip.get::<u16, IP6_LEN>())) + Self::HEADER
    }

    #[inline(always)]
    fn class(ip: &Self::Ip<'_>) -> u8 {
        (u32::from_be(ip.get::<u32, IP6_HEAD>()) >> 20) as u8
    }

    #[inline(always)]
    fn is_whole(_: &Self::Ip<'_>) -> bool {
        true
    }

    #[inline(always)]
    fn too_big<H: Hook>(packet: &mut Packet<H>, error: &Error<Self>) -> bool {
        too_big::write6(packet, error)
    }

    #[inline(always)]
    fn macs(ip: &Self::Ip<'_>) -> [u32; 3] {
        ip.macs()
    }

    #[inline(always)]
    fn set_macs(ip: &Self::Ip<'_>, macs: [u32; 3]) {
        ip.set_macs(macs);
    }

    #[inline(always)]
    fn to_server(ip: &Self::Ip<'_>, real: &Real) {
        ip.set_addr6::<IP6_DST>(&real.addr);
    }

    #[inline(always)]
    fn to_client(ip: &Self::Ip<'_>, real: &Real) {
        ip.set_addr6::<IP6_SRC>(&real.vip);
    }

    #[inline(always)]
    fn write(ip: &Self::Ip<'_>, src: Self, dst: Self) -> u32 {
        ip.set::<u32, IP6_HEAD>(0x6000_0000_u32.to_be());
        ip.set::<u16, IP6_LEN>((TCP_LEN as u16).to_be());
        ip.set::<u8, IP6_NEXT>(PROTO_TCP);
        ip.set::<u8, IP6_HOPS>(TTL);
        ip.set_addr6::<IP6_SRC>(&src);
        ip.set_addr6::<IP6_DST>(&dst);
        let [a, b, c, d] = src.words.map(csum::sum32);
        let [e, f, g, h] = dst.words.map(csum::sum32);
        a + b + c + d + e + f + g + h
    }

    #[inline(always)]
    fn of(addr: &Addr) -> Self {
        *addr
    }

    #[inline(always)]
    fn is(self, addr: &Addr) -> bool {
        self == *addr
    }

    #[inline(always)]
    fn wide(self) -> Addr {
        self
    }

    #[inline(always)]
    fn is_source(self) -> bool {
        maps::filter6(&self) & FILTER_NAT_SOURCE6 != 0
    }

    #[inline(always)]
    fn hash(self, port: Be16) -> u64 {
        hash::client6(&self, port)
    }

    #[inline(always)]
    fn route<H: Hook>(packet: &Packet<H>, from: Self, to: Self, len: u16) -> Option<NextHop> {
        const AF_INET6: u8 = 10;
        packet.route(maps::route_query()?, AF_INET6, from.words, to.words, len)
    }
}

/// A tuple as user space takes it.
#[inline(always)]
pub fn widen<A: Family>(key: &FlowKey<A>) -> FlowKey<Addr> {
    FlowKey::tcp((key.src.wide(), key.sport), (key.dst.wide(), key.dport))
}
