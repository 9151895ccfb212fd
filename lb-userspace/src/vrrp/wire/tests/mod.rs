//! Golden rows: every captured advert with what it was made from.

mod checks;
mod fuzz;
mod golden;

use std::{net::IpAddr, time::Duration};

use super::*;
use crate::{
    base::net::{Priority, Vrid},
    vrrp::{
        auth::{Auth, hmac},
        timing::AdvertInterval,
    },
};

const OWN: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
const PEER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
const S3CRET: [u8; 8] = *b"s3cret\0\0";

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn vips(last: &[u8]) -> Vec<IpAddr> {
    last.iter().map(|last| IpAddr::from([10, 77, 0, *last])).collect()
}

fn advert(version: Version, centis: u16, addresses: &[u8]) -> Advert {
    Advert {
        version,
        vrid: Vrid::new(51).expect("nonzero"),
        priority: Priority(150),
        interval: AdvertInterval::from_centis(centis).expect("in range"),
        auth: Auth::None,
        addresses: vips(addresses),
        told: false,
    }
}

fn v6_advert() -> Advert {
    Advert { addresses: vec![ip("fe80::5e:33"), ip("fd77::100")], ..advert(Version::V3, 100, &[]) }
}

/// A vector and what it was made from.
struct Row {
    name: &'static str,
    advert: Advert,
    envelope: Envelope,
    sequence: u32,
}

impl Row {
    fn new(name: &'static str, advert: Advert) -> Self {
        let bytes = vectors::datagram(name);
        let v6 = advert.addresses.first().is_some_and(IpAddr::is_ipv6);
        let checksum = match advert.version {
            Version::V2 if !v6 => ChecksumForm::Message,
            Version::V2 | Version::V3 => ChecksumForm::PseudoHeader,
        };
        let (source, destination, ttl) = if v6 {
            (ip("fe80::ff:fe77:1"), GROUP_V6.into(), TTL)
        } else {
            (OWN.into(), GROUP.into(), TTL)
        };
        // The kernel's choice, not keepalived's.
        let first = u32::from_be_bytes(*bytes.first_chunk().expect("long enough"));
        let flow_label = if v6 { first & 0xf_ffff } else { 0 };
        let envelope = Envelope { source, destination, ttl, id: 1, flow_label, checksum };
        Self { name, advert, envelope, sequence: 1 }
    }

    fn id(mut self, id: u16) -> Self {
        self.envelope.id = id;
        self
    }

    fn sequence(mut self, sequence: u32) -> Self {
        self.sequence = sequence;
        self
    }

    fn checksum(mut self, checksum: ChecksumForm) -> Self {
        self.envelope.checksum = checksum;
        self
    }

    fn unicast(mut self) -> Self {
        self.envelope.destination = PEER.into();
        self
    }

    fn zero(mut self) -> Self {
        self.advert.priority = Priority(0);
        self
    }

    fn bytes(&self) -> Vec<u8> {
        vectors::datagram(self.name)
    }

    fn demand(&self) -> Demand {
        let v6 = self.envelope.source.is_ipv6();
        let unicast = !self.envelope.destination.is_multicast();
        Demand {
            advert: self.advert.clone(),
            options: Options { ipv6: v6, ..Options::default() },
            peers: if unicast { vec![self.envelope.source] } else { vec![] },
            own: Some(if v6 { ip("fe80::2") } else { PEER.into() }),
            sequence: 0,
            heard: 0,
            state: hmac::State::default(),
            unix: Duration::ZERO,
        }
    }
}

/// What an [`Expect`] borrows from.
#[derive(Clone)]
struct Demand {
    advert: Advert,
    options: Options,
    peers: Vec<IpAddr>,
    own: Option<IpAddr>,
    sequence: u32,
    heard: u32,
    state: hmac::State,
    unix: Duration,
}

impl Demand {
    fn check(&self, bytes: &[u8]) -> Result<Received, Reason> {
        let Advert { version, vrid, auth, interval, .. } = self.advert;
        let expect = Expect {
            version,
            vrid,
            auth,
            interval,
            options: &self.options,
            peers: &self.peers,
            own: self.own,
            addresses: &self.advert.addresses,
            sequence: self.sequence,
            heard: self.heard,
            hmac: &self.state,
            unix: self.unix,
        };
        receive(bytes, &expect)
    }
}

/// Every vector that is an advert.
fn rows() -> Vec<Row> {
    use Version::{V2, V3};
    let three = [102, 100, 101];
    let plain = || advert(V2, 100, &[100]);
    let pass = || Advert { auth: Auth::Pass(S3CRET), ..advert(V2, 100, &three) };
    let long = Advert { auth: Auth::Pass(*b"01234567"), ..advert(V2, 300, &[100]) };
    let ah = || Advert { auth: Auth::Ah(S3CRET), ..plain() };
    let v3 = |centis| advert(V3, centis, &[100]);
    let owner = Advert { priority: Priority(255), ..v3(4095) };
    let v6_unicast = |name, advert| {
        let mut row = Row::new(name, advert);
        let v6 = (ip("fd77::1"), ip("fd77::2"), UNICAST_HOP_LIMIT);
        (row.envelope.source, row.envelope.destination, row.envelope.ttl) = v6;
        row
    };
    let v2_v6 = || Advert { version: V2, ..v6_advert() };
    vec![
        Row::new("v2-none", plain()),
        Row::new("v2-vmac", plain()),
        Row::new("v2-pass", pass()),
        Row::new("v2-pass-prio0", pass()).id(2).zero(),
        Row::new("v2-pass-long", long),
        Row::new("v2-count0", advert(V2, 100, &[])),
        Row::new("v2-unicast", plain()).unicast(),
        Row::new("v2-ah", ah()),
        Row::new("v2-ah-seq2", ah()).id(2).sequence(2),
        Row::new("v2-ah-prio0", ah()).id(6).sequence(6).zero(),
        Row::new("v2-ah-unicast", ah()).unicast(),
        Row::new("v3-ipv4", v3(100)),
        Row::new("v3-ipv4-vmac", v3(100)),
        Row::new("v3-ipv4-prio0", v3(100)).id(2).zero(),
        Row::new("v3-ipv4-3vips", advert(V3, 10, &three)),
        Row::new("v3-ipv4-10ms", v3(1)),
        Row::new("v3-ipv4-max-interval", owner),
        Row::new("v3-ipv4-unicast", v3(100)).unicast(),
        Row::new("v3-ipv4-unicast-oldsum", v3(100))
            .unicast()
            .checksum(ChecksumForm::GroupPseudoHeader),
        Row::new("computed-v3-ipv4-rfc9568-sum", v3(100)).checksum(ChecksumForm::Message),
        Row::new("v3-ipv6", v6_advert()),
        Row::new("v3-ipv6-vmac", v6_advert()),
        Row::new("v3-ipv6-prio0", v6_advert()).zero(),
        v6_unicast("v3-ipv6-unicast", v6_advert()),
        Row::new("v2-ipv6", v2_v6()),
        Row::new("v2-ipv6-prio0", v2_v6()).zero(),
        v6_unicast("v2-ipv6-unicast", v2_v6()),
    ]
}

fn row(name: &str) -> Row {
    rows().into_iter().find(|row| row.name == name).expect("a known vector")
}

/// Another payload behind the same IPv4 header, whose length and checksum are made right.
fn with_payload(bytes: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut out = bytes[..20].to_vec();
    out.extend(payload);
    let total = u16::try_from(out.len()).expect("short");
    out[2..4].copy_from_slice(&total.to_be_bytes());
    repair_ip(&mut out);
    out
}

fn repair_ip(bytes: &mut [u8]) {
    bytes[10..12].fill(0);
    let header = usize::from(bytes[0] & 0xf) * 4;
    let sum = !checksum::sum(&[&bytes[..header]]);
    bytes[10..12].copy_from_slice(&sum.to_be_bytes());
}
