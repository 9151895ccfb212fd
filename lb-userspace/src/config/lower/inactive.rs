//! Words that lbd does not act on: read for what keepalived finds fault with.

use std::net::{IpAddr, SocketAddr};

use super::{
    super::{
        keywords::{Argument, Block},
        lex::Word,
        value,
    },
    Entry, Form, Lower,
};

/// keepalived's `max_reply_length` of UDP_CHECK.
const MAX_REPLY_LENGTH: i64 = 255;

impl Lower<'_> {
    /// A word that does not act, and its block: unknown words in it, missing arguments, and values that
    /// keepalived would find fault with.
    pub(super) fn inactive(&mut self, entry: &Entry<'_>) {
        self.inactive_value(entry);
        let Some(block) = entry.keyword.opens.filter(|opens| !opens.is_list()) else { return };
        let (mut least, mut most) = (None, MAX_REPLY_LENGTH);
        for statement in entry.block() {
            let Some(keyword) = self.keyword(block, statement) else { continue };
            let inner = Entry { keyword, statement };
            if self.form(block, &inner) != Form::Good {
                continue;
            }
            self.inactive(&inner);
            match (block, inner.name()) {
                (Block::UdpCheck, "min_reply_length") => {
                    least = self.whole_number(&inner).zip(self.first(&inner)).or(least);
                }
                (Block::UdpCheck, "max_reply_length") => {
                    most = self.whole_number(&inner).unwrap_or(most)
                }
                _ => {}
            }
        }
        if let Some((least, word)) = least.filter(|(least, _)| *least > most) {
            self.warn(
                word.span,
                format!("min_reply_length {least} is more than max_reply_length {most}"),
                "in keepalived such a check always fails",
            );
        }
    }

    /// `ip_family` that is not the address's: keepalived goes on without it.
    pub(super) fn other_family(&mut self, vip: SocketAddr, block: &Entry<'_>) {
        for statement in block.block() {
            let row = statement.keyword().filter(|row| row.name == "ip_family");
            let Some(entry) = row.map(|keyword| Entry { keyword, statement }) else { continue };
            let Some(word) = self.first(&entry) else { continue };
            let text = self.text(word);
            let four = match &*text {
                "inet" => true,
                "inet6" => false,
                _ => continue,
            };
            if four != vip.is_ipv4() {
                let message = format!("virtual_server {vip}: `ip_family {text}` is another family");
                self.warn(word.span, message, "keepalived ignores it too");
            }
        }
    }

    fn inactive_value(&mut self, entry: &Entry<'_>) {
        let Some(word) = self.first(entry) else { return };
        // Digits of any number of words, of which one may be none.
        let signs = match entry.name() {
            "payload" => Some(""),
            // A digit that does not count is an x.
            "require_reply" => Some("xX"),
            _ => None,
        };
        if let Some(signs) = signs {
            if let Some(word) = self.no_hex(entry.args(), signs) {
                self.left_alone(entry, word);
            }
            return;
        }
        let text = self.text(word);
        let good = match entry.keyword.argument {
            Argument::Bool => ["true", "on", "yes", "false", "off", "no"].contains(&&*text),
            Argument::Int { .. } => self.whole_number(entry).is_some(),
            Argument::Seconds { min, max } => {
                value::seconds(&text).is_some_and(|it| !it.junk && (min..=max).contains(&it.value))
            }
            Argument::Millis { min, max } => value::seconds(&text).is_some_and(|it| {
                !it.junk && (min * 1_000_000..=max * 1_000_000).contains(&it.value)
            }),
            Argument::Choice(words) => words.contains(&&*text),
            Argument::Address => text.parse::<IpAddr>().is_ok(),
            // The others are keepalived's own forms, or ours.
            _ => true,
        };
        if !good {
            self.left_alone(entry, word);
        }
    }

    /// The number of a word of [`Argument::Int`] when keepalived takes it.
    fn whole_number(&self, entry: &Entry<'_>) -> Option<i64> {
        let Argument::Int { min, max } = entry.keyword.argument else { return None };
        let read = value::int(&self.text(self.first(entry)?))?;
        (!read.junk && (min..=max).contains(&read.value)).then_some(read.value)
    }

    /// The first of some words that is not made of digits of hexadecimal numbers, in groups of any size; `also` are
    /// signs beside them. The first one when there is no digit at all.
    fn no_hex(&self, words: &[Word], also: &str) -> Option<Word> {
        let mut digits = 0;
        let odd = words.iter().find(|word| {
            !self.text(**word).chars().all(|c| {
                let digit = c.is_ascii_hexdigit() || also.contains(c);
                digits += usize::from(digit);
                digit || c.is_ascii_whitespace()
            })
        });
        odd.or_else(|| words.first().filter(|_| digits == 0)).copied()
    }
}

#[cfg(test)]
mod tests {
    use crate::config::load;

    fn server(words: &str, inner: &str) -> String {
        format!(
            "virtual_server 192.0.2.1 80 {{\n protocol TCP\n lb_algo wlc\n lb_kind DR\n{words}\n \
             real_server 192.0.2.2 80 {{\n{inner}\n }}\n}}\n"
        )
    }

    /// As keepalived 2.2.7 answers, file by file.
    #[test]
    fn values_of_words_that_do_not_act_are_checked_as_keepalived_checks_them() {
        let udp = |words: &str| server("", &format!("UDP_CHECK {{\n{words}\n}}"));
        for (text, code) in [
            (udp("min_reply_length 0"), 0),
            (udp("min_reply_length 255"), 0),
            (udp("min_reply_length 256"), 5),
            (udp("min_reply_length 65536"), 5),
            (udp("min_reply_length abc"), 5),
            (udp("min_reply_length 10\nmax_reply_length 5"), 5),
            (udp("max_reply_length 5\nmin_reply_length 5"), 0),
            (udp("min_reply_length 65507\nmax_reply_length 65507"), 0),
            (udp("max_reply_length 65536"), 5),
            (udp("payload aa"), 0),
            (udp("payload Ab12f 3 456"), 0),
            (udp("payload \"aa bb\""), 0),
            (udp("payload aa,bb"), 5),
            (udp("payload aabb zz"), 5),
            (udp("payload xx"), 5),
            (udp("payload 0x12"), 5),
            (udp("payload \"\""), 5),
            (udp("require_reply"), 0),
            (udp("require_reply aX"), 0),
            (udp("require_reply zz"), 5),
            (udp("require_reply \"\""), 5),
            (server("ip_family inet", ""), 0),
            (server("ip_family inet6", ""), 5),
            (server("ip_family foo", ""), 5),
        ] {
            let outcome = load("t", &text);
            assert_eq!(outcome.exit_code(), code, "{text}{}", outcome.render());
            assert!(outcome.config.is_some(), "it runs without the word: {text}");
        }
    }
}
