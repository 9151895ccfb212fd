//! Why a received datagram is discarded.

use serde::{Deserialize, Serialize};

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// Why a received datagram was discarded. A discarded datagram changes nothing.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum Reason { $($(#[$doc])* $variant,)* }

        impl Reason {
            /// Every reason.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// Name of its counter.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
        }
    };
}

reasons! {
    /// Shorter than an IP header, or than its own length field says.
    IpTruncated = "ip_truncated",
    /// Neither IPv4 nor IPv6, or a nonsensical header length.
    IpHeader = "ip_header",
    /// IPv4 header checksum.
    IpChecksum = "ip_checksum",
    /// Adverts are never fragmented.
    IpFragment = "ip_fragment",
    /// Another IP protocol.
    IpProtocol = "ip_protocol",
    /// IPv6 to an IPv4 instance, or the reverse.
    Family = "address_family",
    /// Carries an authentication header, which the instance does not use.
    AuthHeader = "auth_header_unexpected",
    /// Carries none, and the instance demands one (`auth_type AH`).
    AuthHeaderMissing = "auth_header_missing",
    /// Its length or reserved field is not that of keepalived's HMAC-MD5-96.
    AuthHeaderMalformed = "auth_header_malformed",
    /// Its integrity check value is wrong: another password, or changed on the way.
    AuthHeaderIcv = "auth_header_icv",
    /// Its SPI is not the source address.
    AuthHeaderSpi = "auth_header_spi",
    /// Its sequence number is not above the last one that was accepted, or below the last one sent.
    AuthHeaderReplay = "auth_header_replay",
    /// TTL of a multicast advert is not 255: it was forwarded.
    Ttl = "ttl",
    /// TTL of a unicast advert is outside its peer's `min_ttl`..`max_ttl`.
    PeerTtl = "peer_ttl",
    /// Unicast, and its source is none of our peers (`check_unicast_src`, `auth_hmac`).
    PeerUnknown = "peer_unknown",
    /// Other version than configured.
    Version = "version",
    /// Not an advert.
    Type = "type",
    /// Shorter than its address count says.
    TooShort = "too_short",
    /// Longer than its address count says.
    TooLong = "too_long",
    /// Longer by exactly the trailer of `auth_hmac`, which the instance does not use.
    HmacTrailer = "hmac_trailer",
    /// No trailer, and the instance demands one (`auth_hmac`, mode enforce).
    HmacMissing = "hmac_missing",
    /// The trailer is of another kind.
    HmacMalformed = "hmac_malformed",
    /// Its time is further from ours than the window.
    HmacStale = "hmac_stale",
    /// It is signed with a key that we do not have.
    HmacKey = "hmac_key_unknown",
    /// Wrong signature.
    HmacInvalid = "hmac_invalid",
    /// Its sequence is not above the last one that was accepted from this sender.
    HmacReplay = "hmac_replay",
    /// VRRP checksum, in every form that is in use.
    Checksum = "checksum",
    /// VRRPv2 authentication type above 2.
    AuthTypeUnknown = "auth_type_unknown",
    /// VRRPv2 authentication type is not ours.
    AuthTypeMismatch = "auth_type_mismatch",
    /// Wrong password.
    AuthFailed = "auth_failed",
    /// VRRPv2 interval is not ours (RFC 3768 §7.1).
    Interval = "interval_mismatch",
    /// Interval zero.
    IntervalZero = "interval_zero",
    /// VRID zero, or none of ours on this interface.
    Vrid = "vrid_unknown",
    /// No address although we have some.
    NoAddress = "no_address",
    /// Other addresses than ours, and `check_adv_addr` demands the same.
    AddressList = "address_list",
    /// Multicast to a unicast instance, or the reverse.
    Mode = "delivery_mode",
    /// Multicast to another group than ours (`mcast_dst_ip`, `vrrp_mcast_group4`).
    Group = "other_group",
    /// Came from our own address: looped or duplicated.
    OwnAddress = "own_address",
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}
