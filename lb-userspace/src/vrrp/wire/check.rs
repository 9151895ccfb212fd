//! Every receive check, in keepalived's order.

use std::{net::IpAddr, time::Duration};

use super::{ChecksumForm, Datagram, Message, OldUnicastChecksum, Options, Reason, TTL, Version};
use crate::{
    base::net::{Priority, Vrid},
    vrrp::{
        auth::{Auth, ah, hmac},
        timing::AdvertInterval,
    },
};

/// What an instance demands of an advert.
#[derive(Clone, Copy, Debug)]
pub struct Expect<'a> {
    pub version: Version,
    pub vrid: Vrid,
    pub auth: Auth,
    /// Our own interval, which VRRPv2 compares.
    pub interval: AdvertInterval,
    pub options: &'a Options,
    /// Empty: multicast.
    pub peers: &'a [IpAddr],
    /// Our own source address.
    pub own: Option<IpAddr>,
    /// Our own advertised addresses.
    pub addresses: &'a [IpAddr],
    /// The last sequence number of an authentication header, sent or accepted.
    pub sequence: u32,
    /// The last one of these that was accepted: two routers that become master at one instant send
    /// the same number, and each has to hear the other.
    pub heard: u32,
    /// Sequences of `auth_hmac` that were accepted.
    pub hmac: &'a hmac::State,
    /// The wall clock since 1970, which `auth_hmac` compares.
    pub unix: Duration,
}

/// An advert that passed every check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    pub source: IpAddr,
    pub priority: Priority,
    pub interval: AdvertInterval,
    pub checksum: ChecksumForm,
    /// Set and count of addresses equal ours. A mismatch is logged, not refused, as keepalived
    /// does since 2.3.3; before, it made two masters.
    pub same_addresses: bool,
    /// It is marked as the farewell of a router that is fenced.
    pub told: bool,
    /// Sequence number of its authentication header, to be remembered.
    pub sequence: Option<u32>,
    /// Sequence of its `auth_hmac` trailer, to be remembered.
    pub trailer: Option<u64>,
}

/// Every receive check, over bytes that begin with an IP header. Nothing is remembered here: what
/// is discarded leaves no trace, replay marks included.
///
/// # Errors
/// The first check that fails. The order is keepalived 2.4's: authentication header or not,
/// length, TTL, version, `auth_hmac`, VRRPv2 authentication, interval, type, checksum, multicast
/// or unicast, addresses, unicast source and TTL; our own source address comes before all.
pub fn receive(bytes: &[u8], expect: &Expect<'_>) -> Result<Received, Reason> {
    let datagram = Datagram::parse(bytes)?;
    let Datagram { source, destination, payload, .. } = datagram;
    if source.is_ipv6() != expect.options.ipv6 {
        return Err(Reason::Family);
    }
    if expect.own == Some(source) {
        return Err(Reason::OwnAddress);
    }
    match (datagram.auth_header, expect.auth) {
        (Some(_), Auth::None | Auth::Pass(_)) => return Err(Reason::AuthHeader),
        (None, Auth::Ah(_)) => return Err(Reason::AuthHeaderMissing),
        (Some(_), Auth::Ah(_)) | (None, Auth::None | Auth::Pass(_)) => {}
    }
    let unicast = !expect.peers.is_empty();
    let parsed = Message::parse(payload, source.is_ipv4());
    // A unicast instance checks TTLs with its peers.
    let forwarded = !unicast && datagram.ttl != TTL;
    let message = match parsed {
        Err(Reason::Version) if forwarded => return Err(Reason::Ttl),
        Err(reason) => return Err(reason),
        Ok(message) => message,
    };
    if message.trailer().is_some() && expect.options.hmac.is_none() {
        return Err(Reason::HmacTrailer);
    }
    if forwarded {
        return Err(Reason::Ttl);
    }
    if message.version() != expect.version {
        return Err(Reason::Version);
    }
    if message.vrid() != Some(expect.vrid) {
        return Err(Reason::Vrid);
    }
    let trailer = check_trailer(&message, source, unicast, expect)?;
    let sequence = check_auth(&datagram, &message, unicast, expect)?;
    let interval = message.interval().ok_or(Reason::IntervalZero)?;
    if expect.version == Version::V2 && interval != expect.interval {
        return Err(Reason::Interval);
    }
    if !message.is_advert() {
        return Err(Reason::Type);
    }
    let checksum = message.checksum_form(source, destination).ok_or(Reason::Checksum)?;
    let old = expect.options.old_unicast_checksum;
    let never = !unicast || old == OldUnicastChecksum::Never;
    if checksum == ChecksumForm::GroupPseudoHeader && never {
        return Err(Reason::Checksum);
    }
    if destination.is_multicast() == unicast {
        return Err(Reason::Mode);
    }
    // Another instance on the interface may listen to it, on the same socket.
    if !unicast && destination != expect.options.group() {
        return Err(Reason::Group);
    }
    let same_addresses = same_set(message.addresses(), expect.addresses);
    // keepalived's `no_virtual_ipaddress`, and VRRPv2 with excluded addresses only, send none.
    if message.addresses().next().is_none() && !expect.addresses.is_empty() {
        return Err(Reason::NoAddress);
    }
    if !same_addresses && expect.options.same_addresses {
        return Err(Reason::AddressList);
    }
    if unicast && expect.options.checks_source() {
        if !expect.peers.contains(&source) {
            return Err(Reason::PeerUnknown);
        }
        let range = expect.options.peer_ttl.get(&source);
        if range.is_some_and(|range| !range.contains(&datagram.ttl)) {
            return Err(Reason::PeerTtl);
        }
    }
    let priority = message.priority();
    let told = message.is_told();
    Ok(Received { source, priority, interval, checksum, same_addresses, told, sequence, trailer })
}

fn check_trailer(
    message: &Message<'_>,
    source: IpAddr,
    unicast: bool,
    expect: &Expect<'_>,
) -> Result<Option<u64>, Reason> {
    let Some(hmac) = &expect.options.hmac else { return Ok(None) };
    let trailer = message.trailer();
    if trailer.is_some() && unicast && !expect.peers.contains(&source) {
        return Err(Reason::PeerUnknown);
    }
    let signed = hmac::Signed {
        version: expect.version,
        vrid: expect.vrid,
        source,
        message: message.bytes(),
        trailer,
    };
    hmac.check(expect.hmac, &signed, expect.unix)
}

/// VRRPv2: type and password, or the authentication header: its code first, because nothing of a
/// forged one may be believed.
fn check_auth(
    datagram: &Datagram<'_>,
    message: &Message<'_>,
    unicast: bool,
    expect: &Expect<'_>,
) -> Result<Option<u32>, Reason> {
    let Some((type_number, data)) = message.auth() else { return Ok(None) };
    expect.auth.check(type_number, &data)?;
    let (Auth::Ah(password), Some(header)) = (expect.auth, datagram.auth_header) else {
        return Ok(None);
    };
    if !ah::verify(&password, datagram.header, unicast, header.0, datagram.payload) {
        return Err(Reason::AuthHeaderIcv);
    }
    if IpAddr::V4(header.spi()) != datagram.source {
        return Err(Reason::AuthHeaderSpi);
    }
    let sequence = header.sequence();
    if sequence < expect.sequence || sequence <= expect.heard {
        return Err(Reason::AuthHeaderReplay);
    }
    Ok(Some(sequence))
}

fn same_set(theirs: impl Iterator<Item = IpAddr>, ours: &[IpAddr]) -> bool {
    let mut theirs: Vec<_> = theirs.collect();
    let mut ours = ours.to_vec();
    theirs.sort_unstable();
    ours.sort_unstable();
    theirs == ours
}
