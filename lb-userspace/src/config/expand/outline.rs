//! In which block the text that was written so far ends: words that act on reading itself do so in
//! `global_defs` alone, as in keepalived.

use super::super::lex::{self, Token};

/// How far the text was looked at, and what is open there. Each byte is looked at once.
#[derive(Default)]
pub(super) struct Outline {
    read: usize,
    /// Blocks that are open, each inside the one before it.
    depth: usize,
    /// The outermost of them is `global_defs`.
    global: bool,
    /// The first word of the last statement is `global_defs`: a `{` may be the next line's.
    named: bool,
    /// The next word begins a statement.
    fresh: bool,
}

impl Outline {
    /// Whether what follows this text, which has grown since the last time, stands in `global_defs` itself.
    pub(super) fn in_global_defs(&mut self, text: &str) -> bool {
        let rest = text.get(self.read..).unwrap_or("");
        self.read = text.len();
        // What was written ends with a statement.
        self.fresh = true;
        lex::read(rest, |token| {
            match token {
                Ok(Token::Word(word)) if self.fresh => {
                    self.named = rest.get(word.span.range()) == Some("global_defs");
                    self.fresh = false;
                }
                Ok(Token::Open(_)) => {
                    if self.depth == 0 {
                        self.global = self.named;
                    }
                    self.depth += 1;
                    (self.named, self.fresh) = (false, true);
                }
                Ok(Token::Close(_)) => {
                    self.depth = self.depth.saturating_sub(1);
                    (self.named, self.fresh) = (false, true);
                }
                Ok(Token::EndOfLine) => self.fresh = true,
                Ok(Token::Word(_)) | Err(_) => {}
            }
            true
        });
        self.depth == 1 && self.global
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_global_defs_itself_is_meant_however_it_is_written() {
        for (text, inside) in [
            ("", false),
            ("global_defs", false),
            ("global_defs {", true),
            ("global_defs\n{\n", true),
            ("global_defs {\n router_id x\n", true),
            ("global_defs { a { } ", true),
            ("global_defs { a {", false),
            ("global_defs { }\n", false),
            ("global_defs { }\nvrrp_instance V {\n", false),
            ("vrrp_instance global_defs {\n", false),
            ("global_defs x\nvrrp_instance V {\n", false),
            ("} global_defs {\n", true),
            ("\"a {\" b\nglobal_defs { c \"}\"\n", true),
        ] {
            assert_eq!(Outline::default().in_global_defs(text), inside, "{text}");
            // In two parts, cut behind each brace, as the text is written.
            for (at, _) in text.match_indices(['{', '}']) {
                if text[..at].matches('"').count() % 2 == 1 {
                    continue;
                }
                let mut outline = Outline::default();
                outline.in_global_defs(&text[..=at]);
                assert_eq!(outline.in_global_defs(text), inside, "{text} cut at {at}");
            }
        }
    }
}
