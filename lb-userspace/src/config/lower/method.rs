//! `lb_kind`: the forwarding method, and what keepalived lets follow TUN.

use crate::base::table::Method;

use super::{super::lex::Word, Entry, Lower, quirks};

impl Lower<'_> {
    /// `NAT`, `DR` or `TUN`, in either case.
    pub(super) fn method(&mut self, entry: &Entry<'_>) -> Option<Method> {
        let word = self.first(entry)?;
        let text = self.text(word);
        let upper = text.to_ascii_uppercase();
        let method = match upper.as_str() {
            "NAT" => Some(Method::Nat),
            "DR" => Some(Method::Dr),
            "TUN" => Some(Method::Tun),
            _ => {
                let shown: String = text.chars().take(64).collect();
                self.error(
                    word.span,
                    format!("`{}` cannot be `{shown}`; expected NAT, DR or TUN", entry.name()),
                );
                None
            }
        };
        let extra = entry.args().get(1..).unwrap_or_default();
        let rest = if method == Some(Method::Tun) { self.tunnel(entry, extra) } else { extra };
        if let Some(extra) = rest.first() {
            let extra_text = self.text(*extra);
            let help = if extra_text.starts_with("//") {
                quirks::NO_COMMENT
            } else if method == Some(Method::Tun) {
                "take them out: `type ipip` is all that there is of a tunnel"
            } else {
                "take them out: keepalived reads options of a tunnel there, and there is none"
            };
            self.warn(
                extra.span,
                format!("words after `{}` and its value are ignored", entry.name()),
                help,
            );
        }
        let method = method?;
        if upper != *text {
            self.warn(
                word.span,
                format!("`{} {text}` is read as {upper}", entry.name()),
                "keepalived wants capital letters",
            );
        }
        Some(method)
    }

    /// `[type {ipip | gue port N | gre}] [nocsum | csum | remcsum]` of a tunnel; the words behind what is known.
    fn tunnel<'w>(&mut self, entry: &Entry<'_>, mut words: &'w [Word]) -> &'w [Word] {
        while let [word, rest @ ..] = words {
            match (self.text(*word).as_ref(), rest) {
                ("type", [kind, after @ ..]) => {
                    let name = self.text(*kind).into_owned();
                    words = after;
                    if name == "ipip" {
                        continue;
                    }
                    if ["gue", "gre"].contains(&name.as_str()) {
                        self.cannot(
                            kind.span,
                            format!("`{} TUN type {name}` is not available yet", entry.name()),
                            "available: `type ipip`, which is the default",
                        );
                    } else {
                        let shown: String = name.chars().take(64).collect();
                        self.error(
                            kind.span,
                            format!("a tunnel's type cannot be `{shown}`; expected ipip"),
                        );
                    }
                    if let [port, _number, after @ ..] = words
                        && name == "gue"
                        && self.text(*port) == "port"
                    {
                        words = after;
                    }
                }
                ("nocsum", _) => words = rest,
                ("csum" | "remcsum", _) => {
                    self.warn(
                        word.span,
                        "a tunnel of type ipip has no checksum of its own".to_owned(),
                        "take the word out: keepalived has it for gue and gre",
                    );
                    words = rest;
                }
                _ => break,
            }
        }
        words
    }
}
