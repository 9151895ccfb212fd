//! How the adverts of an instance travel, beyond what most files say.

use std::{collections::BTreeMap, net::IpAddr, ops::RangeInclusive};

use serde::{Deserialize, Serialize};

use super::{ChecksumForm, GROUP, GROUP_V6, TTL, UNICAST_HOP_LIMIT, Version};
use crate::vrrp::auth::hmac::Hmac;

/// TTLs of a unicast peer's adverts (`min_ttl`, `max_ttl`).
pub type TtlRange = RangeInclusive<u8>;

/// `old_unicast_checksum`: VRRPv3 over IPv4 as keepalived before 1.3.7 sent it to unicast peers,
/// with 224.0.0.18 in the pseudo-header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum OldUnicastChecksum {
    /// Accepted, and that peer is answered in kind.
    #[default]
    Detect,
    /// Always sent.
    Always,
    /// Refused.
    Never,
}

/// Words of a vrrp_instance about its adverts on the wire. The default is what keepalived does
/// without any of them, over IPv4.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Options {
    /// Adverts go over IPv6: the VIPs are IPv6, or `native_ipv6`.
    pub ipv6: bool,
    /// `mcast_dst_ip`, `vrrp_mcast_group4`, `vrrp_mcast_group6`; `None`: the protocol's.
    pub group: Option<IpAddr>,
    /// Peers with `min_ttl` or `max_ttl`.
    pub peer_ttl: BTreeMap<IpAddr, TtlRange>,
    /// `unicast_ttl`.
    pub unicast_ttl: Option<u8>,
    /// `check_unicast_src`.
    pub check_source: bool,
    /// `unicast_fault_no_peer`.
    pub fault_without_peers: bool,
    /// `v3_checksum_as_v2`: VRRPv3 over IPv4 without pseudo-header (RFC 9568).
    pub checksum_as_v2: bool,
    pub old_unicast_checksum: OldUnicastChecksum,
    /// `check_adv_addr`, ours: adverts with other addresses than ours are discarded, as keepalived
    /// did before 2.3.3.
    pub same_addresses: bool,
    /// `auth_hmac`.
    pub hmac: Option<Hmac>,
}

impl Options {
    /// Where multicast adverts go.
    pub fn group(&self) -> IpAddr {
        self.group.unwrap_or(if self.ipv6 { GROUP_V6.into() } else { GROUP.into() })
    }

    /// TTL or hop limit of our adverts.
    pub fn ttl(&self, unicast: bool) -> u8 {
        match self.unicast_ttl {
            Some(ttl) if unicast => ttl,
            _ if unicast && self.ipv6 => UNICAST_HOP_LIMIT,
            _ => TTL,
        }
    }

    /// Checksum of our adverts to a peer that is not known to want another.
    pub fn checksum(&self, version: Version, unicast: bool) -> ChecksumForm {
        let v3 = version == Version::V3 && !self.ipv6;
        if v3 && self.checksum_as_v2 {
            ChecksumForm::Message
        } else if v3 && unicast && self.old_unicast_checksum == OldUnicastChecksum::Always {
            ChecksumForm::GroupPseudoHeader
        } else {
            ChecksumForm::PseudoHeader
        }
    }

    /// Whether unicast adverts are taken from peers only.
    pub fn checks_source(&self) -> bool {
        self.check_source || !self.peer_ttl.is_empty()
    }
}
