//! What follows from a real server's fields, and what it still takes.

use crate::{
    abi::{
        Addr, Be16, DONT_FRAGMENT, FLAG_CLOSED, FLAG_INHIBITED, FLAG_RESOLVED, METHOD_LOCAL,
        METHOD_TUN, METHOD_TUN6, PROTO_IPIP, PROTO_IPV6, Real, STATE_DRAIN, STATE_UP, TUNNEL_TTL,
        be16,
    },
    csum,
};

impl Real {
    /// Sets addresses and ports and the checksum deltas that follow from them.
    #[must_use]
    pub const fn with_nat(mut self, vip: Addr, vip_port: Be16, addr: Addr, port: Be16) -> Self {
        self.vip = vip;
        self.vip_port = vip_port;
        self.addr = addr;
        self.port = port;
        let (old, new) = (vip.words, addr.words);
        let mut sum = csum::delta32(old[3], new[3]);
        self.ip_delta = csum::fold(sum);
        if addr.to_v4().is_none() {
            let rest = csum::delta32(old[0], new[0]) + csum::delta32(old[1], new[1]);
            sum += rest + csum::delta32(old[2], new[2]);
        }
        self.l4_delta = csum::fold(sum + csum::delta16(vip_port, port));
        self
    }

    /// Sets what outer headers from `source` by a way of `mtu` are made of, once addresses and method are set:
    /// their sum without traffic class and length (a checksum's part, or that of an IPv6 header, which has none).
    #[must_use]
    pub const fn with_tunnel(mut self, source: Addr, mtu: u32) -> Self {
        let mtu = if mtu > u16::MAX as u32 { u16::MAX } else { mtu as u16 };
        self.tunnel_source = source;
        self.tunnel_room = mtu.saturating_sub(self.tunnel_header());
        let (from, to) = (source.words, self.addr.words);
        let inner = [TUNNEL_TTL, self.tunnelled()];
        self.tunnel_sum = if self.method == METHOD_TUN {
            let fixed =
                be16(0x4500) as u32 + DONT_FRAGMENT as u32 + u16::from_ne_bytes(inner) as u32;
            csum::fold(fixed + csum::sum32(from[3]) + csum::sum32(to[3]))
        } else {
            let next = u16::from_ne_bytes([inner[1], inner[0]]) as u32;
            let (mut sum, mut word) = (be16(0x6000) as u32 + next, 0);
            while word < 4 {
                sum += csum::sum32(from[word]) + csum::sum32(to[word]);
                word += 1;
            }
            csum::fold(sum)
        };
        self
    }

    /// Bytes of the outer header.
    #[inline(always)]
    pub const fn tunnel_header(&self) -> u16 {
        if self.method == METHOD_TUN6 { 40 } else { 20 }
    }

    /// Protocol number of what is in the tunnel: a packet of the virtual server's family.
    #[inline(always)]
    pub const fn tunnelled(&self) -> u8 {
        if self.vip.to_v4().is_some() { PROTO_IPIP } else { PROTO_IPV6 }
    }

    /// Whether it is reached by a tunnel.
    #[inline(always)]
    pub const fn is_tunnel(&self) -> bool {
        self.method >= METHOD_TUN
    }

    /// Whether its virtual server has persistence.
    #[inline(always)]
    pub const fn is_persistent(&self) -> bool {
        // A mask begins with its first bit, in either family.
        self.granularity.words[0] != 0
    }

    /// Whether it is overloaded with `conns` connections, if it was so or not before: IPVS's rule.
    #[inline(always)]
    pub const fn is_overloaded(&self, conns: u64, before: bool) -> bool {
        if self.upper == 0 {
            return false;
        }
        let relieved = match self.lower {
            0 => conns * 4 < self.upper as u64 * 3,
            lower => conns < lower as u64,
        };
        conns >= self.upper as u64 || (before && !relieved)
    }

    /// Whether a template may lead clients to it. As in IPVS that is so where a scheduler would not choose it,
    /// because it is drained or has weight 0; but not where it is known that they would not be served.
    #[inline(always)]
    pub const fn keeps_clients(&self) -> bool {
        let serves = match self.state {
            STATE_UP => true,
            STATE_DRAIN => self.flags & (FLAG_INHIBITED | FLAG_CLOSED) == 0,
            _ => false,
        };
        serves && (self.method == METHOD_LOCAL || self.flags & FLAG_RESOLVED != 0)
    }
}
