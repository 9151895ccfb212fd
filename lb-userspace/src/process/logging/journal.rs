//! Events as systemd-journald's native protocol wants them (systemd.io/JOURNAL_NATIVE_PROTOCOL):
//! one datagram of fields an event, with the field names that tracing-journald uses. That crate
//! itself is not used because its socket waits for the journal, without a way to say otherwise.

use std::{
    fmt::{self, Write as _},
    io,
    os::unix::net::UnixDatagram,
    path::PathBuf,
};

use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    fmt::{FmtContext, FormatEvent, FormatFields, format::Writer},
    registry::LookupSpan,
};

/// journald's socket (systemd-journald.service(8)).
const SOCKET: &str = "/run/systemd/journal/socket";

/// A socket to the journal that never waits; an error when nobody listens there.
///
/// # Errors
/// From the kernel.
pub(super) fn connect() -> io::Result<Journal> {
    let journal = Journal::at(SOCKET.into())?;
    // The journal discards what is empty.
    journal.send(&[])?;
    Ok(journal)
}

/// A way to the journal.
#[derive(Debug)]
pub(super) struct Journal {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Journal {
    /// To whoever listens at `path`.
    ///
    /// # Errors
    /// From the kernel.
    pub fn at(path: PathBuf) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        Ok(Self { socket, path })
    }

    /// Sends one event. By path each time: the journal may have been restarted.
    ///
    /// # Errors
    /// From the kernel; `WouldBlock` when the journal does not read.
    pub fn send(&self, fields: &[u8]) -> io::Result<usize> {
        self.socket.send_to(&wire(fields), &self.path)
    }
}

/// The event that says how many were lost.
pub(super) fn lost(count: u64) -> Vec<u8> {
    let mut text = String::new();
    head(&mut text, Level::WARN, module_path!());
    field(&mut text, "MESSAGE", &super::lost_text(count));
    field(&mut text, "F_LOST", &count.to_string());
    text.into_bytes()
}

fn head(out: &mut String, level: Level, target: &str) {
    // syslog(3): error, warning, notice, informational, debug.
    let priority = match level {
        Level::ERROR => "3",
        Level::WARN => "4",
        Level::INFO => "5",
        Level::DEBUG => "6",
        Level::TRACE => "7",
    };
    field(out, "PRIORITY", priority);
    field(out, "TARGET", target);
    field(out, "SYSLOG_IDENTIFIER", "lbd");
}

/// Stands for a line end inside a value until [`wire`]: text cannot hold the length that goes with one.
const LINE_END: char = '\0';

/// `NAME=value` in a line.
fn field(out: &mut String, name: &str, value: &str) {
    let _ = write!(out, "{name}=");
    out.extend(value.chars().map(|c| match c {
        LINE_END => char::REPLACEMENT_CHARACTER,
        '\n' => LINE_END,
        other => other,
    }));
    out.push('\n');
}

/// Lines of fields as they are sent: a value with line ends has its length before it, in place of
/// the `=`.
fn wire(fields: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(fields.len() + 16);
    for line in fields.split_inclusive(|&byte| byte == b'\n') {
        let equals = line.iter().position(|&byte| byte == b'=');
        let (Some(equals), true) = (equals, line.contains(&(LINE_END as u8))) else {
            out.extend_from_slice(line);
            continue;
        };
        let (name, value) = (&line[..equals], &line[equals + 1..]);
        let value = value.strip_suffix(b"\n").unwrap_or(value);
        out.extend_from_slice(name);
        out.push(b'\n');
        out.extend_from_slice(&(value.len() as u64).to_le_bytes());
        out.extend(value.iter().map(|&byte| if byte == LINE_END as u8 { b'\n' } else { byte }));
        out.push(b'\n');
    }
    out
}

/// Writes the fields of events for [`Journal::send`].
#[derive(Debug)]
pub(super) struct Fields;

impl<S, N> FormatEvent<S, N> for Fields
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let about = event.metadata();
        let mut out = String::with_capacity(256);
        head(&mut out, *about.level(), about.target());
        if let (Some(file), Some(line)) = (about.file(), about.line()) {
            field(&mut out, "CODE_FILE", file);
            field(&mut out, "CODE_LINE", &line.to_string());
        }
        event.record(&mut Visitor(&mut out));
        writer.write_str(&out)
    }
}

struct Visitor<'a>(&'a mut String);

impl Visit for Visitor<'_> {
    fn record_str(&mut self, name: &Field, value: &str) {
        match name.name() {
            "message" => field(self.0, "MESSAGE", value),
            // Capitals, digits and underscores only.
            name => {
                let upper = name.chars().map(|c| match c.to_ascii_uppercase() {
                    c @ ('A'..='Z' | '0'..='9') => c,
                    _ => '_',
                });
                let name: String = "F_".chars().chain(upper).collect();
                field(self.0, &name, value);
            }
        }
    }

    fn record_debug(&mut self, name: &Field, value: &dyn fmt::Debug) {
        self.record_str(name, &format!("{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::{super::lossy::Lossy, *};

    #[test]
    fn an_event_is_one_datagram_of_fields() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("socket");
        let reader = UnixDatagram::bind(&path).expect("bound");
        let layer = tracing_subscriber::fmt::layer()
            .event_format(Fields)
            .with_ansi(false)
            .with_writer(Lossy::journal(Journal::at(path).expect("made")));
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            tracing::error!(real_server = "a b", some.count = 7, "two\nlines");
            tracing::debug!("next");
        });
        let mut buffer = [0; 4096];
        let mut read = || {
            let len = reader.recv(&mut buffer).expect("a datagram");
            String::from_utf8_lossy(&buffer[..len]).into_owned()
        };
        let first = read();
        let lines: Vec<&str> = first.lines().filter(|line| !line.starts_with("CODE_")).collect();
        let want = [
            "PRIORITY=3",
            "TARGET=lb_userspace::process::logging::journal::tests",
            "SYSLOG_IDENTIFIER=lbd",
            "MESSAGE",
            "\u{9}\0\0\0\0\0\0\0two",
            "lines",
            "F_REAL_SERVER=a b",
            "F_SOME_COUNT=7",
        ];
        assert_eq!(lines, want);
        assert!(first.contains("\nCODE_LINE="), "{first}");
        assert!(read().starts_with("PRIORITY=6\n"));
    }
}
