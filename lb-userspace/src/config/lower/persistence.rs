//! `persistence_timeout` and `persistence_granularity`.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use super::{super::value, Entry, Lower};
use crate::base::{net, table::Persistence};

impl Lower<'_> {
    /// What the two words mean together: either is enough, as in keepalived.
    pub(super) fn persistence(
        &mut self,
        vip: SocketAddr,
        entries: &[Entry<'_>],
    ) -> Option<Persistence> {
        let (mut timeout, mut granularity) = (None, None);
        for entry in entries {
            match entry.name() {
                "persistence_timeout" => timeout = Some(self.persistence_timeout(entry)),
                "persistence_granularity" => granularity = self.granularity(vip.ip(), entry),
                _ => {}
            }
        }
        (timeout.is_some() || granularity.is_some()).then(|| Persistence {
            timeout: timeout.unwrap_or(Persistence::TIMEOUT),
            granularity: granularity.unwrap_or(Persistence::whole(vip.ip())),
        })
    }

    /// A time out of its range has been told of, and its statement left out.
    fn persistence_timeout(&self, entry: &Entry<'_>) -> Duration {
        let read = self.first(entry).and_then(|word| value::int(&self.text(word)));
        read.and_then(|read| u64::try_from(read.value).ok())
            .map_or(Persistence::TIMEOUT, Duration::from_secs)
    }

    fn granularity(&mut self, vip: IpAddr, entry: &Entry<'_>) -> Option<u8> {
        let word = self.first(entry)?;
        let text = self.text(word).into_owned();
        let shown: String = text.chars().take(64).collect();
        let Some(bits) = bits(&text, vip) else {
            let form = match vip {
                IpAddr::V4(_) => "a mask such as 255.255.255.0",
                IpAddr::V6(_) => "a length, 1..128",
            };
            let name = entry.name();
            self.error_about(word, format!("`{name}` cannot be `{shown}`; expected {form}"));
            return None;
        };
        let is_length = !text.contains('.');
        if vip.is_ipv4() && is_length {
            let help = match text.starts_with('/') {
                true => "keepalived takes a mask only: write the mask",
                false => "keepalived reads it as the mask 0.0.0.N: write the mask",
            };
            self.warn(
                word.span,
                format!("`{} {shown}` is read as {}", entry.name(), net::mask4(bits)),
                help,
            );
        } else if !is_length && text.starts_with('/') {
            self.junk(entry, word, &net::mask4(bits).to_string());
        }
        Some(bits)
    }
}

/// Length of a network: of a mask without gaps, or by its number.
fn bits(text: &str, vip: IpAddr) -> Option<u8> {
    let text = text.strip_prefix('/').unwrap_or(text);
    let bits = match text.parse::<Ipv4Addr>() {
        Ok(mask) if vip.is_ipv4() => {
            let mask = mask.to_bits();
            let solid = mask.leading_ones() + mask.trailing_zeros() == u32::BITS;
            solid.then_some(mask.leading_ones()).and_then(|bits| u8::try_from(bits).ok())?
        }
        Ok(_) => return None,
        Err(_) => {
            let read = value::int(text).filter(|read| !read.junk)?;
            u8::try_from(read.value).ok()?
        }
    };
    (1..=Persistence::whole(vip)).contains(&bits).then_some(bits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{load, tests::has_finding as has};

    fn file(words: &str) -> String {
        format!(
            "virtual_server 192.0.2.1 3306 {{\n lb_algo rr\n lb_kind NAT\n protocol TCP\n {words}\n \
             real_server 192.0.2.2 3306 {{\n TCP_CHECK {{ }}\n }}\n}}\n"
        )
    }

    fn read(words: &str) -> Option<(u64, u8)> {
        let outcome = load("t", &file(words));
        let config = outcome.config.as_ref().unwrap_or_else(|| panic!("{}", outcome.render()));
        let persistence = config.virtual_servers[0].persistence?;
        Some((persistence.timeout.as_secs(), persistence.granularity))
    }

    #[test]
    fn either_word_is_enough() {
        for (words, want) in [
            ("", None),
            ("persistence_timeout", Some((360, 32))),
            ("persistence_timeout 50", Some((50, 32))),
            ("persistence_timeout 2678400", Some((2_678_400, 32))),
            // Told of and ignored.
            ("persistence_timeout 0", None),
            ("persistence_granularity 255.255.255.0", Some((360, 24))),
            ("persistence_timeout 0\n persistence_granularity 255.0.0.0", Some((360, 8))),
            ("persistence_granularity 255.255.0.0\n persistence_timeout 7", Some((7, 16))),
            ("persistence_timeout 7\n persistence_granularity 255.255.255.255", Some((7, 32))),
            ("persistence_granularity 128.0.0.0", Some((360, 1))),
            ("persistence_granularity /24", Some((360, 24))),
            ("persistence_granularity 24", Some((360, 24))),
        ] {
            assert_eq!(read(words), want, "{words}");
        }
        let clean = load("t", &file("persistence_timeout 50")).render();
        assert!(!clean.contains("persistence"), "{clean}");
    }

    #[test]
    fn what_is_no_network_is_an_error_at_its_place() {
        for word in ["0.0.0.0", "0", "33", "/0", "255.0.255.0", "0.0.0.255", "x", "24x", "-1", "::"]
        {
            let text = file(&format!("persistence_granularity {word}"));
            has(&text, "t:5:", &format!("`persistence_granularity` cannot be `{word}`"));
            assert!(load("t", &text).config.is_none(), "{word}");
        }
        has(&file("persistence_granularity 24"), "t:5:", "is read as 255.255.255.0");
        has(&file("persistence_granularity 24"), "t:5:", "the mask 0.0.0.N");
        has(&file("persistence_granularity /9"), "t:5:", "keepalived takes a mask only");
        has(&file("persistence_engine sip"), "t:5:", "IPVS's alone");
    }

    #[test]
    fn networks_of_ipv6_go_by_their_length() {
        let vip = IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1]);
        for (text, want) in [
            ("64", Some(64)),
            ("/64", Some(64)),
            ("1", Some(1)),
            ("128", Some(128)),
            ("0", None),
            ("129", None),
            ("255.255.255.0", None),
            ("ffff::", None),
        ] {
            assert_eq!(bits(text, vip), want, "{text}");
        }
        assert_eq!(Persistence::whole(vip), 128);
    }
}
