//! HTTP_GET and SSL_GET.

use std::{net::SocketAddr, time::Duration};

use crate::check::page::{self, PageRegex, RegexOption, Spec};

use super::{
    super::{
        diag::{Class, Severity},
        keywords::Block,
        model::{Checker, HttpCheck, HttpProtocol, HttpUrl, Sni},
        source::Span,
        words,
    },
    Entry, Lower, Spanned,
    checkers::{Schedule, Target},
};

/// keepalived's time between failures, where the file says none.
const DELAY_BEFORE_RETRY: Duration = Duration::from_secs(3);

/// Whether it can be a server name in TLS.
fn is_name(name: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    name.len() <= 253 && name.split('.').all(label)
}

impl Lower<'_> {
    /// `None` for one that keepalived drops, too: it names no page.
    pub(super) fn http_check(
        &mut self,
        real: SocketAddr,
        inherited: &Schedule,
        block: &Entry<'_>,
    ) -> Option<Checker> {
        let mut schedule = inherited.clone();
        let mut target = Target::default();
        let mut check = HttpCheck {
            tls: block.name() == "SSL_GET",
            protocol: HttpProtocol::default(),
            sni: Sni::Off,
            urls: Vec::new(),
        };
        for entry in self.entries(Block::HttpGet, block.block()) {
            match entry.name() {
                "url" => {
                    let url = self.url(&entry);
                    check.urls.extend(url);
                }
                "http_protocol" => {
                    let choice = self.choice(&entry).and_then(|at| HttpProtocol::CHOICES.get(at));
                    check.protocol = choice.map_or(check.protocol, |(_, protocol)| *protocol);
                }
                "enable_sni" if check.sni == Sni::Off => check.sni = Sni::Host,
                "enable_sni" => {}
                "sni_name" => {
                    let name = self.word(&entry).filter(|name| {
                        let good = is_name(&name.value);
                        if !good {
                            self.error(name.span, "`sni_name` is the name of a host");
                        }
                        good
                    });
                    check.sni = name.map_or(check.sni, |name| Sni::Name(name.value));
                }
                "nb_get_retry" => schedule.retry = self.u32(&entry).or(schedule.retry),
                _ if target.take(self, &entry) || self.schedule(&mut schedule, &entry) => {}
                other => self.unhandled(&entry, other),
            }
        }
        // A page that was wrong in itself is an error already.
        let given = block.block().any(|it| it.keyword().is_some_and(|row| row.name == "url"));
        if !given {
            self.warn(
                block.head(),
                format!("{} of {real} names no page and is dropped", block.name()),
                "name one: url { path / }",
            );
            return None;
        }
        for url in &mut check.urls {
            url.virtualhost = url.virtualhost.take().or_else(|| schedule.virtualhost.clone());
        }
        let named = check.urls.iter().all(|url| url.virtualhost.is_some());
        if check.sni == Sni::Host && !named {
            self.warn(
                block.head(),
                format!(
                    "{} of {real}: enable_sni tells a page's virtualhost, and one has none",
                    block.name()
                ),
                "give virtualhost, or sni_name",
            );
        }
        schedule.delay_before_retry = schedule.delay_before_retry.or(Some(DELAY_BEFORE_RETRY));
        Some(Checker::Http(target.common(real, &schedule, 1), Box::new(check)))
    }

    fn url(&mut self, block: &Entry<'_>) -> Option<HttpUrl> {
        let mut url = HttpUrl {
            path: "/".to_owned(),
            virtualhost: None,
            expected: Spec { status: Vec::new(), digest: None, regex: None },
        };
        let (mut pattern, mut first_of_regex) = (None, None);
        let mut regex = PageRegex {
            pattern: String::new(),
            options: Vec::new(),
            no_match: false,
            min_offset: 0,
            max_offset: None,
        };
        for entry in self.entries(Block::Url, block.block()) {
            if entry.name().starts_with("regex_") {
                first_of_regex.get_or_insert(entry.head());
            }
            match entry.name() {
                // A bad one is an error, and so no URL is used; the other words are read all the same.
                "path" => url.path = self.path(&entry).unwrap_or(url.path),
                "virtualhost" => url.virtualhost = self.word(&entry).map(|word| word.value),
                "status_code" => self.codes(&mut url.expected.status, &entry),
                "digest" => url.expected.digest = self.digest(&entry),
                "regex" => pattern = self.pattern(&entry),
                "regex_no_match" => regex.no_match = true,
                "regex_options" => self.regex_options(&mut regex.options, &entry),
                "regex_min_offset" => regex.min_offset = self.u32(&entry).unwrap_or_default(),
                "regex_max_offset" => regex.max_offset = self.u32(&entry),
                other => self.unhandled(&entry, other),
            }
        }
        if url.expected.status.is_empty() {
            url.expected.status.push((200, 299));
        }
        let Some(pattern) = pattern else {
            if let Some(span) = first_of_regex {
                self.warn(span, "there is no `regex` that this could be about", "it has no effect");
            }
            return Some(url);
        };
        regex.pattern = pattern.value;
        if regex.max_offset.is_some_and(|max| max < regex.min_offset) {
            self.error(
                pattern.span,
                "regex_max_offset is less than regex_min_offset: nothing matches",
            );
        }
        if let Err(reason) = page::compile(&regex) {
            self.error(pattern.span, format!("this `regex` cannot be used: {reason}"));
        }
        url.expected.regex = Some(regex);
        Some(url)
    }

    /// keepalived resolves quotes and backslashes here as in the words of a script: `\\.` is `\.`.
    fn pattern(&mut self, entry: &Entry<'_>) -> Option<Spanned<String>> {
        let word = self.first(entry)?;
        let raw = words::uncomment(self.source.slice(entry.statement.span()));
        match words::split(&raw, true) {
            Ok(line) => Some(Spanned { value: line.into_iter().nth(1)?, span: word.span }),
            Err(error) => {
                self.error(word.span, format!("this `regex` cannot be read: {error}"));
                None
            }
        }
    }

    /// What stands between `GET` and the version.
    fn path(&mut self, entry: &Entry<'_>) -> Option<String> {
        let path = self.word(entry)?;
        // What else a request line does not take would fail at every probe.
        let fits = path.value.starts_with('/')
            && path.value.bytes().all(|byte| byte.is_ascii_graphic() && !b"#\"<>`".contains(&byte));
        if !fits {
            let message = "`path` begins with `/` and has what a URL may have, blanks as %20";
            self.error(path.span, message);
            return None;
        }
        Some(path.value)
    }

    fn codes(&mut self, codes: &mut Vec<(u16, u16)>, entry: &Entry<'_>) {
        for word in entry.args() {
            let text = self.text(*word);
            let (from, to) = text.split_once('-').unwrap_or((&text, &text));
            let code = |text: &str| text.parse().ok().filter(|code| (100..=999).contains(code));
            match (code(from), code(to)) {
                (Some(from), Some(to)) if from <= to => codes.push((from, to)),
                _ => self.bad_value(entry, *word),
            }
        }
    }

    fn digest(&mut self, entry: &Entry<'_>) -> Option<[u8; 16]> {
        let word = self.first(entry)?;
        let digits = self.text(word);
        let mut digest = [0; 16];
        let pair = |at: usize| u8::from_str_radix(digits.get(2 * at..2 * at + 2)?, 16).ok();
        let hexadecimal = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        for (at, byte) in digest.iter_mut().enumerate() {
            match pair(at) {
                Some(read) if hexadecimal && digits.len() == 32 => *byte = read,
                _ => {
                    self.error(word.span, "`digest` is an MD5 of 32 hexadecimal digits");
                    return None;
                }
            }
        }
        Some(digest)
    }

    fn regex_options(&mut self, options: &mut Vec<RegexOption>, entry: &Entry<'_>) {
        for word in entry.args() {
            let text = self.text(*word);
            match RegexOption::ALL.iter().find(|(name, _)| *name == text) {
                Some((_, option)) if options.contains(option) => {}
                Some((_, option)) => options.push(*option),
                None => self.unknown_option(word.span, &text),
            }
        }
    }

    fn unknown_option(&mut self, span: Span, text: &str) {
        let shown: String = text.chars().take(64).collect();
        let known: Vec<_> = RegexOption::ALL.iter().map(|(name, _)| *name).collect();
        let message = format!("lbd does not know the option `{shown}` of regex; it is left out");
        let diagnostic = self
            .diagnostic(Severity::Warning, span, message)
            .class(Class::Advice)
            .help(format!("available: {}", known.join(", ")));
        self.sink.push(diagnostic);
    }
}
