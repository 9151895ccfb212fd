//! The kernel's connections, from /proc/net/ip_vs_conn, in slices.

use std::{
    fs::File,
    io::{BufRead as _, BufReader},
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use crate::base::{filter::FlowFilter, status::FlowStatus};

/// Lines that a slice reads.
const SLICE: usize = 512;
/// Longest line: IPv6 addresses three times, and a persistence engine's data.
const LINE_LIMIT: usize = 512;

/// A listing that is under way.
#[derive(Debug)]
pub struct Listing {
    lines: Option<BufReader<File>>,
    filter: FlowFilter,
    limit: usize,
    found: Vec<FlowStatus>,
}

impl Listing {
    /// At most `limit` connections of those that `filter` asks for.
    pub fn new(filter: FlowFilter, limit: usize) -> Self {
        let lines = File::open("/proc/thread-self/net/ip_vs_conn").ok().map(BufReader::new);
        Self { lines, filter, limit, found: Vec::new() }
    }

    /// A slice of it, of those that `ours` names; whether that was the last. `tcp` is the life of an
    /// established connection, in seconds.
    pub fn work(&mut self, tcp: u32, ours: impl Fn(&FlowStatus) -> bool) -> bool {
        let Some(lines) = &mut self.lines else { return true };
        let mut line = Vec::new();
        for _ in 0..SLICE {
            line.clear();
            match lines.read_until(b'\n', &mut line) {
                Ok(read) if read > 0 && read <= LINE_LIMIT => {}
                _ => return true,
            }
            let text = String::from_utf8_lossy(&line);
            let asked = |flow: &FlowStatus| ours(flow) && self.filter.matches(flow);
            self.found.extend(parse(&text, tcp).filter(asked));
            if self.found.len() >= self.limit {
                return true;
            }
        }
        false
    }

    /// What was found.
    pub fn end(self) -> Vec<FlowStatus> {
        self.found
    }
}

/// One line; `None` for the head, for a persistence template and for what is none.
fn parse(line: &str, tcp: u32) -> Option<FlowStatus> {
    let mut words = line.split_whitespace();
    let _protocol = words.next()?;
    let mut end = || Some(SocketAddr::new(address(words.next()?)?, port(words.next()?)?));
    let (client, vip, real) = (end()?, end()?, end()?);
    let state = words.next()?;
    // The client of a template has no port.
    if client.port() == 0 && state == "NONE" {
        return None;
    }
    let left: u64 = words.next()?.parse().ok()?;
    let (state, idle) = match state {
        "ESTABLISHED" => ("established", u64::from(tcp).saturating_sub(left) * 1000),
        "UDP" | "NONE" => ("established", 0),
        "SYN_RECV" | "SYN_SENT" | "SYNACK" => ("embryo", 0),
        _ => ("closing", 0),
    };
    Some(FlowStatus {
        client,
        vip,
        real_server: Some(real),
        state: state.to_owned(),
        idle_ms: idle,
        packets: 0,
        bytes: 0,
    })
}

fn address(word: &str) -> Option<IpAddr> {
    if word.contains(':') {
        return word.trim_matches(['[', ']']).parse().ok();
    }
    if word.len() != 8 {
        return None;
    }
    u32::from_str_radix(word, 16).ok().map(|bits| Ipv4Addr::from_bits(bits).into())
}

fn port(word: &str) -> Option<u16> {
    u16::from_str_radix(word, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_kernel_are_read() {
        let line = "TCP CB007109 C350 C000020A 0CEA C6336401 0CEB ESTABLISHED     840\n";
        let flow = parse(line, 900).expect("a connection");
        assert_eq!(flow.client.to_string(), "203.0.113.9:50000");
        assert_eq!(flow.vip.to_string(), "192.0.2.10:3306");
        assert_eq!(flow.real_server.map(|it| it.to_string()).as_deref(), Some("198.51.100.1:3307"));
        assert_eq!((flow.state.as_str(), flow.idle_ms), ("established", 60_000));
        let six = "TCP 2001:0db8:0000:0000:0000:0000:0000:0009 C350 2001:0db8:0000:0000:0000:0000:0000:0010 0050 \
                   2001:0db8:0000:0000:0000:0000:0000:0011 0050 FIN_WAIT          12\n";
        let flow = parse(six, 900).expect("a connection");
        assert_eq!(flow.vip.to_string(), "[2001:db8::10]:80");
        assert_eq!(flow.state, "closing");
        for no in [
            "Pro FromIP   FPrt ToIP     TPrt DestIP   DPrt State       Expires PEName PEData\n",
            "",
            "TCP CB007109 C350\n",
            "TCP CB0071 C350 C000020A 0CEA C6336401 0CEB ESTABLISHED 840\n",
            "TCP CB007109 C350 C000020A 0CEA C6336401 0CEB ESTABLISHED soon\n",
            "TCP CB007109 0000 C000020A 0CEA C6336401 0CEB NONE     300\n",
            "\u{fffd}",
        ] {
            assert!(parse(no, 900).is_none(), "{no}");
        }
    }
}
