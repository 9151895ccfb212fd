//! `virtual_rules` and `static_rules`: the words of ip-rule(8) that keepalived takes.

use super::{
    super::{
        lex::Word,
        model::{PROTOCOL, Rule, RuleAction, TABLE_MAIN},
    },
    Entry, Lower,
    route::{Line, entry_word, number},
};

impl Lower<'_> {
    /// Every rule of a block. A line that is not understood is an error and no rule.
    pub(super) fn rules(&mut self, entry: &Entry<'_>) -> Vec<Rule> {
        let lines = self.list_lines(entry);
        let fixed = entry.name() == "static_rules";
        lines.into_iter().filter_map(|line| self.rule(line, entry, fixed)).collect()
    }

    fn rule(&mut self, words: &[Word], entry: &Entry<'_>, fixed: bool) -> Option<Rule> {
        let head = words.first()?.span;
        let mut line = Line::new(words, head);
        let (mut v6, mut action) = (None, None);
        let mut rule = Rule {
            v6: false,
            action: RuleAction::Table(TABLE_MAIN),
            invert: false,
            from: None,
            to: None,
            priority: None,
            tos: 0,
            fwmark: None,
            iif: None,
            oif: None,
            suppress_prefixlen: None,
            suppress_ifgroup: None,
            tunnel_id: None,
            uidrange: None,
            l3mdev: false,
            protocol: PROTOCOL,
            ipproto: None,
            sport: None,
            dport: None,
            no_track: false,
            track_group: None,
        };
        while let Some(word) = line.next() {
            let text = self.text(word).into_owned();
            match entry_word(&text) {
                "inet" => v6 = Some(false),
                "inet6" => v6 = Some(true),
                "from" => rule.from = self.rule_prefix(&mut line, "from")?,
                "to" => rule.to = self.rule_prefix(&mut line, "to")?,
                "not" => rule.invert = true,
                "table" | "lookup" => action = Some(RuleAction::Table(self.table(&mut line)?)),
                "preference" | "order" | "priority" | "pref" => {
                    rule.priority = Some(self.number(&mut line, u32::MAX)?);
                }
                "tos" | "dsfield" => rule.tos = self.octet(&mut line)?,
                "fwmark" => rule.fwmark = Some(self.mark(&mut line)?),
                "iif" | "dev" => rule.iif = Some(self.device(&mut line, entry.name())?),
                "oif" => rule.oif = Some(self.device(&mut line, entry.name())?),
                "suppress_prefixlength" | "sup_pl" => {
                    rule.suppress_prefixlen = Some(self.number(&mut line, 128)?);
                }
                "suppress_ifgroup" | "sup_group" => {
                    rule.suppress_ifgroup = Some(self.number(&mut line, i32::MAX as u32)?);
                }
                "tunnel-id" => rule.tunnel_id = Some(u64::from(self.number(&mut line, u32::MAX)?)),
                "uidrange" => rule.uidrange = Some(self.range(&mut line, u32::MAX)?),
                "l3mdev" => {
                    rule.l3mdev = true;
                    action = Some(RuleAction::Table(0));
                }
                "protocol" | "proto" => rule.protocol = self.made_by(&mut line)?,
                "ipproto" => rule.ipproto = Some(self.ip_protocol(&mut line)?),
                "sport" => rule.sport = Some(self.ports(&mut line)?),
                "dport" => rule.dport = Some(self.ports(&mut line)?),
                "goto" => action = Some(RuleAction::Goto(self.number(&mut line, u32::MAX)?)),
                "nop" => action = Some(RuleAction::Nop),
                "type" => {}
                "blackhole" => action = Some(RuleAction::Blackhole),
                "unreachable" => action = Some(RuleAction::Unreachable),
                "prohibit" => action = Some(RuleAction::Prohibit),
                "realms" => {
                    let help = "the rule would not be what the file asks";
                    self.cannot(word.span, "`realms` of a rule is not available", help);
                    return None;
                }
                "no_track" => rule.no_track = true,
                "track_group" if fixed => {
                    let word = self.argument(&mut line, "track_group")?;
                    let group = self.text(word).into_owned();
                    self.marks.track_groups.uses.push((group.clone(), word.span));
                    rule.track_group = Some(group);
                }
                _ => {
                    self.unknown_entry_word(word, "a rule");
                    return None;
                }
            }
        }
        let addresses = [rule.from, rule.to].into_iter().flatten();
        let families: Vec<bool> = addresses.map(|prefix| prefix.addr.is_ipv6()).chain(v6).collect();
        rule.v6 = families.first().copied().unwrap_or(false);
        if families.iter().any(|other| *other != rule.v6) {
            self.error(head, "addresses of the rule are of both families");
            return None;
        }
        let Some(action) = action else {
            self.error(head, "the rule has no `table` or other action");
            return None;
        };
        rule.action = action;
        Some(rule)
    }

    /// `all` matches everything, as if the word were not there.
    #[expect(clippy::option_option, reason = "outer: an error was told; inner: everything")]
    fn rule_prefix(
        &mut self,
        line: &mut Line<'_>,
        name: &str,
    ) -> Option<Option<crate::base::net::IpPrefix>> {
        if line.skip_if(|word| matches!(&*self.text(word), "all" | "any" | "default")) {
            return Some(None);
        }
        self.prefix(line, name).map(Some)
    }

    /// `VALUE[/MASK]`.
    fn mark(&mut self, line: &mut Line<'_>) -> Option<(u32, Option<u32>)> {
        let word = self.argument(line, "fwmark")?;
        let text = self.text(word).into_owned();
        let read = |text: &str| number(text).and_then(|value| u32::try_from(value).ok());
        let mark = match text.split_once('/') {
            None => read(&text).map(|mark| (mark, None)),
            Some((mark, mask)) => read(mark).zip(read(mask)).map(|(mark, mask)| (mark, Some(mask))),
        };
        self.or_error(word, mark, "a mark, as in 0x10/0xff")
    }

    /// `A-B` or one number.
    fn range(&mut self, line: &mut Line<'_>, max: u32) -> Option<(u32, u32)> {
        let word = self.argument(line, "this word")?;
        let text = self.text(word).into_owned();
        let (start, end) = text.split_once('-').unwrap_or((&text, &text));
        let read = |text: &str| text.parse::<u32>().ok().filter(|value| *value <= max);
        let range = read(start).zip(read(end)).filter(|(start, end)| start <= end);
        self.or_error(word, range, "a range, as in 100-200")
    }

    fn ports(&mut self, line: &mut Line<'_>) -> Option<(u16, u16)> {
        let (start, end) = self.range(line, 65_535)?;
        u16::try_from(start).ok().zip(u16::try_from(end).ok())
    }

    fn ip_protocol(&mut self, line: &mut Line<'_>) -> Option<u8> {
        let word = self.argument(line, "ipproto")?;
        let text = self.text(word).into_owned();
        let number = match text.as_str() {
            "icmp" => Some(1),
            "tcp" => Some(6),
            "udp" => Some(17),
            "ipv6-icmp" | "icmpv6" => Some(58),
            "sctp" => Some(132),
            text => text.parse().ok(),
        };
        self.or_error(word, number, "tcp, udp, icmp, icmpv6, sctp or a number")
    }

    fn or_error<T>(&mut self, word: Word, value: Option<T>, expected: &str) -> Option<T> {
        if value.is_none() {
            let shown: String = self.text(word).chars().take(64).collect();
            self.error(word.span, format!("`{shown}` is not {expected}"));
        }
        value
    }
}
