//! `lbd --record FILE`: each role appends what its core was fed to `FILE.ROLE`, one JSON object a
//! line: `{"t":NANOSECONDS,"role":"vrrp","input":…}`.
//!
//! Callers leave out secrets (`secrets::recordable`); the file is created with mode 0600 all the
//! same, because a configuration and queries tell much about a site.
//! Every line is one write, so that a process that dies leaves all it was fed.

use std::{
    borrow::Cow,
    fs::{File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::ipc::{Event, Role};
use crate::{
    base::time::Instant,
    check::{
        Verdict,
        services::{ProbeId, ServiceSpec},
    },
    vrrp::router,
};

/// Bytes that one run of a role records at most; recording then ends with a warning, the role
/// goes on.
pub const RECORD_LIMIT: u64 = 256 << 20;

/// What the vrrp role records; `String` is the instance's name. `lbctl replay` reads it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum VrrpStep<'a> {
    /// The process began; nothing of before is in its memory.
    Start,
    /// A router begins with this configuration.
    New(String, Box<router::Config>),
    Input(String, Cow<'a, router::Input>),
    /// Its timer fired.
    Timeout(String),
}

/// What the checker role records.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum CheckerStep<'a> {
    /// The process began.
    Start,
    /// A configuration comes into force.
    Configure(Cow<'a, [ServiceSpec]>),
    /// Last events of the process before.
    Restore(Cow<'a, [(Role, Event)]>),
    /// A probe's verdict, which fell at `at`.
    Verdict { probe: ProbeId, verdict: Cow<'a, Verdict>, at: Instant },
}

/// Writes inputs when recording is on, does nothing when it is off.
#[derive(Debug)]
pub struct Recorder {
    role: Role,
    out: Option<Out>,
}

#[derive(Debug)]
struct Out {
    file: File,
    path: PathBuf,
    left: u64,
}

#[derive(Serialize)]
struct Written<'a, T> {
    t: u64,
    role: &'a str,
    input: &'a T,
}

/// A line of a recording, read back.
#[derive(Debug, Deserialize)]
pub struct Line<T> {
    /// Nanoseconds of the recording host's monotonic clock.
    pub t: u64,
    pub role: String,
    pub input: T,
}

impl Recorder {
    /// Opens `FILE.ROLE` for appending; `None` gives a recorder that does nothing.
    pub fn open(record: Option<&Path>, role: Role) -> io::Result<Self> {
        let Some(base) = record else { return Ok(Self { role, out: None }) };
        let mut name = base.as_os_str().to_owned();
        name.push(".");
        name.push(role.name());
        let path = PathBuf::from(name);
        let file = OpenOptions::new().append(true).create(true).mode(0o600).open(&path).map_err(
            |error| io::Error::new(error.kind(), format!("--record {}: {error}", path.display())),
        )?;
        Ok(Self { role, out: Some(Out { file, path, left: RECORD_LIMIT }) })
    }

    /// Whether anything is written.
    pub fn is_on(&self) -> bool {
        self.out.is_some()
    }

    /// Writes one input. The first failure (disk full, limit reached) is logged and ends
    /// recording: it must never stop the role.
    pub fn record(&mut self, input: &impl Serialize, now: Instant) {
        let Some(out) = &mut self.out else { return };
        let line = Written { t: now.as_nanos(), role: self.role.name(), input };
        let result = serde_json::to_vec(&line).map_err(io::Error::other).and_then(|mut bytes| {
            bytes.push(b'\n');
            let length = bytes.len() as u64;
            if length > out.left {
                return Err(io::Error::other(format!("limit of {RECORD_LIMIT} bytes reached")));
            }
            out.left -= length;
            out.file.write_all(&bytes)
        });
        if let Err(error) = result {
            tracing::warn!(file = %out.path.display(), %error, "recording ends");
            self.out = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn lines_carry_time_role_and_input_and_are_private() {
        let dir = tempfile::tempdir().expect("tempdir");
        let base = dir.path().join("rec");
        let mut recorder = Recorder::open(Some(&base), Role::Vrrp).expect("opened");
        recorder.record(&("advert", 7), Instant::from_nanos(5));
        recorder.record(&"timer", Instant::from_nanos(6));
        let path = dir.path().join("rec.vrrp");
        let text = std::fs::read_to_string(&path).expect("written");
        assert_eq!(
            text,
            "{\"t\":5,\"role\":\"vrrp\",\"input\":[\"advert\",7]}\n\
             {\"t\":6,\"role\":\"vrrp\",\"input\":\"timer\"}\n"
        );
        let mode = std::fs::metadata(&path).expect("metadata").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn limit_ends_recording_not_the_role() {
        let dir = tempfile::tempdir().expect("tempdir");
        let mut recorder = Recorder::open(Some(&dir.path().join("r")), Role::Api).expect("opened");
        if let Some(out) = &mut recorder.out {
            out.left = 40;
        }
        recorder.record(&1, Instant::ZERO);
        assert!(recorder.is_on());
        recorder.record(&2, Instant::ZERO);
        assert!(!recorder.is_on());
        recorder.record(&3, Instant::ZERO);
        let text = std::fs::read_to_string(dir.path().join("r.api")).expect("written");
        assert_eq!(text.lines().count(), 1);
    }

    #[test]
    fn off_writes_nothing_and_an_impossible_file_is_named() {
        let mut off = Recorder::open(None, Role::Vrrp).expect("off");
        off.record(&1, Instant::ZERO);
        assert!(!off.is_on());
        let error = Recorder::open(Some(Path::new("/nonexistent/x")), Role::Vrrp)
            .expect_err("no such folder");
        assert!(error.to_string().contains("/nonexistent/x.vrrp"), "{error}");
    }
}
