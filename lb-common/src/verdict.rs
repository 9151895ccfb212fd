//! What the program did with a packet. One list serves as counter index, metric label and
//! documentation.

/// What happens to the packet in consequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Up the stack, unchanged.
    Pass,
    /// Gone.
    Drop,
    /// To a real server, or to the client (NAT replies).
    Forward,
    /// Turned into an answer (a RST, or an ICMP error) and sent back.
    Reset,
}

macro_rules! outcomes {
    ($($(#[$doc:meta])* $variant:ident = $name:literal => $action:ident,)*) => {
        /// Outcome of one packet: index into the `stats` map.
        #[repr(u32)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Outcome { $($(#[$doc])* $variant,)* }

        impl Outcome {
            /// Every outcome, in order of index.
            pub const ALL: [Self; Self::COUNT as usize] = [$(Self::$variant,)*];
            /// Number of outcomes: elements of the `stats` map.
            pub const COUNT: u32 = [$(Self::$variant as u32,)*].len() as u32;

            /// Metric label.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// What happens to the packet.
            #[inline(always)]
            pub const fn action(self) -> Action {
                match self { $(Self::$variant => Action::$action,)* }
            }
        }
    };
}

outcomes! {
    /// IP, neither to a VIP nor from a NAT real server.
    Foreign = "foreign" => Pass,
    /// Ethertype other than IPv4, IPv6, ARP and VLAN.
    NotIp = "not_ip" => Pass,
    /// Too short to hold the headers that would say whom it is for.
    Short = "short" => Pass,
    /// IPv6, while the program for it is not where the loader put it.
    Ipv6Unready = "ipv6_unready" => Pass,
    /// Neighbour solicitation (IPv6's ARP) that the gate does not forbid.
    Nd = "nd" => Pass,
    /// VLAN-tagged: not forwarded yet.
    Vlan = "vlan" => Pass,
    /// ARP that the gate does not forbid.
    Arp = "arp" => Pass,
    /// For a VIP, but this host is not master of it.
    Standby = "standby" => Pass,
    /// For a VIP, to a protocol that no virtual server can have.
    VipProtocol = "vip_protocol" => Pass,
    /// TCP for a VIP, to a port without virtual server.
    NoVirtualServer = "no_virtual_server" => Pass,
    /// ICMP or ICMPv6 for a VIP: echo and errors that match no flow.
    VipIcmp = "vip_icmp" => Pass,
    /// Scheduled to a real server that is this host.
    Local = "local" => Pass,
    /// From a NAT real server to this host's own address (probe replies).
    OwnAddress = "own_address" => Pass,
    /// From a NAT real server's address, but not a reply of a service.
    ServerOther = "server_other" => Pass,

    /// For a VIP whose lease has run out.
    Fenced = "fenced" => Drop,
    /// ARP for a VIP whose lease has run out.
    FencedArp = "fenced_arp" => Drop,
    /// Neighbour solicitation for a VIP whose lease has run out.
    FencedNd = "fenced_nd" => Drop,
    /// Behind more extension headers than are followed: perhaps a neighbour solicitation for a VIP, or TCP for
    /// one with a virtual server.
    Ipv6Extensions = "ipv6_extensions" => Drop,
    /// TCP fragment for a VIP with a virtual server: the stack would answer it with a RST.
    Fragment = "fragment" => Drop,
    /// TCP with IP options or IPv6 extension headers for a VIP with a virtual server, for the same reason.
    IpOptions = "ip_options" => Drop,
    /// TCP for a VIP with a virtual server, with lengths that contradict each other.
    Malformed = "malformed" => Drop,
    /// TCP for a virtual server with neither SYN nor ACK nor RST, or with SYN and another of ACK,
    /// FIN, RST.
    BadFlags = "bad_flags" => Drop,
    /// The real server's MAC address or interface is not known (yet).
    NextHopUnresolved = "next_hop_unresolved" => Drop,
    /// RST of a connection that nobody knows.
    RstUnmatched = "rst_unmatched" => Drop,
    /// Reply of a NAT real server without a flow that needs no answer (SYN-ACK), or that could not
    /// be reported because too many were.
    OrphanDropped = "orphan_dropped" => Drop,
    /// Reply of a NAT real server without a flow, and no way known to the client: the forwarder asks
    /// the client, whose answer is then an unknown mid-stream packet.
    OrphanReported = "orphan_reported" => Drop,
    /// The frame could not be trimmed or read again while it was made into a RST.
    ResetFailed = "reset_failed" => Drop,

    /// The checksum could not be brought in line after a rewrite (tc: the kernel had no memory for the packet's head).
    RewriteFailed = "rewrite_failed" => Drop,
    /// TUN: there was no room before the packet for another header, it would be longer than an IPv4 packet can be, or the
    /// kernel had no memory for an answer.
    TunnelFailed = "tunnel_failed" => Drop,
    /// TUN: longer than the way to the real server takes, and its sender does not want to hear of that (IPv4 without
    /// DF): lbd does not fragment.
    TooBigDropped = "too_big_dropped" => Drop,
    /// TUN: the same, where too many senders were told a moment ago.
    TooBigLimited = "too_big_limited" => Drop,

    /// Established connection, DR.
    DrForwarded = "dr_forwarded" => Forward,
    /// Established connection, TUN.
    TunForwarded = "tun_forwarded" => Forward,
    /// Established connection, NAT, towards the real server.
    NatForwarded = "nat_forwarded" => Forward,
    /// Established connection, NAT, towards the client.
    NatReply = "nat_reply" => Forward,
    /// SYN, real server chosen.
    Scheduled = "scheduled" => Forward,
    /// SYN repeated: same real server.
    SynRepeated = "syn_repeated" => Forward,
    /// The segment after the SYN: the embryo became a flow.
    Promoted = "promoted" => Forward,
    /// SYN or mid-stream packet hashed without an entry because the flow table is full.
    TableFull = "table_full" => Forward,
    /// Unknown mid-stream packet of an `mh` or `sh` virtual server: flow made by hash.
    MidstreamHashed = "midstream_hashed" => Forward,
    /// Unknown mid-stream packet, only one real server is selectable: flow to that one.
    MidstreamSingle = "midstream_single" => Forward,
    /// NAT reply without a flow of an `mh` or `sh` virtual server whose hash names its sender.
    OrphanAdopted = "orphan_adopted" => Forward,
    /// ICMP error that quotes a flow, to its real server.
    IcmpForwarded = "icmp_forwarded" => Forward,

    /// The flow's real server is dead: RST to the client.
    ResetDead = "reset_dead" => Reset,
    /// Unknown mid-stream packet that nobody can be found for: RST to the client.
    ResetUnknown = "reset_unknown" => Reset,
    /// SYN, no real server is selectable: RST to the client.
    NoRealServer = "no_real_server" => Reset,
    /// The connection would share its NAT tuple with another one: RST to the client.
    NatCollision = "nat_collision" => Reset,
    /// NAT reply without a flow: RST to the client.
    OrphanReset = "orphan_reset" => Reset,
    /// TUN: longer than the way to the real server takes: ICMP's "fragmentation needed", or ICMPv6's "packet too big".
    TooBig = "too_big" => Reset,
}
