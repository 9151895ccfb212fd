//! `HTTP_GET` and `SSL_GET`.

use serde::{Deserialize, Serialize};

use crate::check::page::Spec;

/// `HTTP_GET`, or `SSL_GET`. All pages must come as expected.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpCheck {
    /// `SSL_GET`. Any certificate will do, as with keepalived.
    pub tls: bool,
    pub protocol: HttpProtocol,
    pub sni: Sni,
    /// At least one, in file order.
    pub urls: Vec<HttpUrl>,
}

/// `http_protocol`: the version, and what the header Connection says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum HttpProtocol {
    /// Without that header.
    #[default]
    Http10,
    Http10Close,
    Http10KeepAlive,
    /// `close`.
    Http11,
    Http11KeepAlive,
}

impl HttpProtocol {
    /// Words of the configuration, in the order of the keyword's choices; letters of either case.
    pub const CHOICES: [(&'static str, Self); 8] = [
        ("1.0", Self::Http10),
        ("1.0C", Self::Http10Close),
        ("1.0c", Self::Http10Close),
        ("1.0K", Self::Http10KeepAlive),
        ("1.0k", Self::Http10KeepAlive),
        ("1.1", Self::Http11),
        ("1.1K", Self::Http11KeepAlive),
        ("1.1k", Self::Http11KeepAlive),
    ];

    /// The word of the configuration.
    pub fn word(self) -> &'static str {
        let found = Self::CHOICES.iter().find(|(_, choice)| *choice == self);
        found.map_or("1.0", |(word, _)| word)
    }
}

/// Server name in the TLS hello.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Sni {
    #[default]
    Off,
    /// `enable_sni`: the page's `virtualhost`.
    Host,
    /// `sni_name`.
    Name(String),
}

/// `url`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpUrl {
    /// Path and query.
    pub path: String,
    /// Header Host; `None`: address and port.
    pub virtualhost: Option<String>,
    /// What its answer must be like.
    pub expected: Spec,
}
