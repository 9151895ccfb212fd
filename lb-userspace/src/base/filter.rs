//! Which connections an operator asks for.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

use serde::{Deserialize, Serialize};

use super::status::FlowStatus;

/// One end of a connection: ADDRESS, ADDRESS:PORT or NETWORK/PREFIX.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    addr: IpAddr,
    /// Bits of the address that count.
    prefix: u8,
    /// `None`: any.
    port: Option<u16>,
}

/// A text that is no [`End`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("neither ADDRESS nor ADDRESS:PORT nor NETWORK/PREFIX")]
pub struct NoEnd;

/// An address as a number of 128 bits, from the left.
fn bits(addr: IpAddr) -> (u128, u8) {
    match addr {
        IpAddr::V4(addr) => (u128::from(addr.to_bits()) << 96, 32),
        IpAddr::V6(addr) => (addr.to_bits(), 128),
    }
}

impl End {
    /// Whether `end` is one of those.
    pub fn covers(&self, end: SocketAddr) -> bool {
        let ((own, family), (other, its)) = (bits(self.addr), bits(end.ip()));
        // A shift by the whole width is no bits at all.
        let differ = (own ^ other).checked_shr(128 - u32::from(self.prefix)).unwrap_or(0);
        family == its && differ == 0 && self.port.is_none_or(|port| port == end.port())
    }
}

impl FromStr for End {
    type Err = NoEnd;

    fn from_str(text: &str) -> Result<Self, NoEnd> {
        if let Ok(end) = text.parse::<SocketAddr>() {
            return Ok(Self { addr: end.ip(), prefix: bits(end.ip()).1, port: Some(end.port()) });
        }
        let (addr, prefix) = match text.split_once('/') {
            Some((addr, prefix)) => (addr, Some(prefix.parse().map_err(|_| NoEnd)?)),
            None => (text, None),
        };
        // As an address with a port has them.
        let addr: IpAddr = addr.trim_matches(['[', ']']).parse().map_err(|_| NoEnd)?;
        let width = bits(addr).1;
        let prefix = prefix.unwrap_or(width);
        if prefix > width { Err(NoEnd) } else { Ok(Self { addr, prefix, port: None }) }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => SocketAddr::new(self.addr, port).fmt(f),
            None if self.prefix == bits(self.addr).1 => self.addr.fmt(f),
            None => write!(f, "{}/{}", self.addr, self.prefix),
        }
    }
}

/// What all of them have in common; the default asks for every connection.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct FlowFilter {
    pub client: Option<End>,
    pub vip: Option<End>,
    pub real_server: Option<End>,
    /// A state of [`FlowStatus`].
    pub state: Option<String>,
    /// Milliseconds without a packet, at least.
    pub idle_ms: u64,
}

impl FlowFilter {
    /// What can be told without more than the ends: most of a large table is passed over by it.
    pub fn admits(
        &self,
        client: SocketAddr,
        vip: SocketAddr,
        real_server: Option<SocketAddr>,
    ) -> bool {
        self.client.is_none_or(|end| end.covers(client))
            && self.vip.is_none_or(|end| end.covers(vip))
            && self.real_server.is_none_or(|end| real_server.is_some_and(|it| end.covers(it)))
    }

    /// Whether `flow` is asked for.
    pub fn matches(&self, flow: &FlowStatus) -> bool {
        self.admits(flow.client, flow.vip, flow.real_server)
            && self.state.as_ref().is_none_or(|state| *state == flow.state)
            && flow.idle_ms >= self.idle_ms
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn covers(end: &str, addr: &str) -> bool {
        let end: End = end.parse().expect("an end");
        end.covers(addr.parse().expect("an address"))
    }

    #[test]
    fn ends_cover_what_they_name() {
        for (end, addr, wanted) in [
            ("192.0.2.1", "192.0.2.1:5", true),
            ("192.0.2.1", "192.0.2.2:5", false),
            ("192.0.2.1:5", "192.0.2.1:5", true),
            ("192.0.2.1:5", "192.0.2.1:6", false),
            ("192.0.2.0/24", "192.0.2.255:6", true),
            ("192.0.2.0/25", "192.0.2.128:6", false),
            // Host bits of a network do not count.
            ("192.0.2.77/24", "192.0.2.1:6", true),
            ("0.0.0.0/0", "203.0.113.1:1", true),
            ("0.0.0.0/0", "[::1]:1", false),
            ("::/0", "[2001:db8::1]:1", true),
            ("::/0", "192.0.2.1:1", false),
            ("[2001:db8::1]", "[2001:db8::1]:7", true),
            ("[2001:db8::1]:7", "[2001:db8::1]:8", false),
            ("2001:db8::/127", "[2001:db8::2]:8", false),
        ] {
            assert_eq!(covers(end, addr), wanted, "{end} {addr}");
        }
    }

    #[test]
    fn what_is_no_end_is_refused_and_ends_are_printed_as_they_are_read() {
        for text in ["", "db1", "192.0.2.1:", "192.0.2.1/33", "192.0.2.0/24:3306", "::1/129", "/8"]
        {
            assert_eq!(text.parse::<End>(), Err(NoEnd), "{text}");
        }
        for text in ["192.0.2.1", "192.0.2.1:5", "192.0.2.0/24", "[2001:db8::1]:7", "2001:db8::/32"]
        {
            assert_eq!(text.parse::<End>().expect("an end").to_string(), text);
        }
    }

    #[test]
    fn every_part_of_a_filter_counts() {
        let flow = FlowStatus {
            client: "203.0.113.9:40000".parse().expect("an address"),
            vip: "192.0.2.10:3306".parse().expect("an address"),
            real_server: Some("192.0.2.21:3306".parse().expect("an address")),
            state: "established".to_owned(),
            idle_ms: 5000,
            packets: 1,
            bytes: 1,
        };
        let end = |text: &str| Some(text.parse().expect("an end"));
        let all = FlowFilter {
            client: end("203.0.113.0/24"),
            vip: end("192.0.2.10:3306"),
            real_server: end("192.0.2.21"),
            state: Some("established".to_owned()),
            idle_ms: 5000,
        };
        assert!(FlowFilter::default().matches(&flow) && all.matches(&flow));
        for other in [
            FlowFilter { client: end("203.0.114.0/24"), ..all.clone() },
            FlowFilter { vip: end("192.0.2.10:3307"), ..all.clone() },
            FlowFilter { real_server: end("192.0.2.22"), ..all.clone() },
            FlowFilter { state: Some("closing".to_owned()), ..all.clone() },
            FlowFilter { idle_ms: 5001, ..all.clone() },
        ] {
            assert!(!other.matches(&flow), "{other:?}");
        }
        let lost = FlowStatus { real_server: None, ..flow };
        assert!(!all.matches(&lost) && FlowFilter::default().matches(&lost));
    }
}
