//! keepalived's dump files, which exporters and scripts parse: SIGUSR1 state, SIGUSR2 statistics,
//! SIGRTMIN+2 JSON, SIGRTMAX−1 statistics and then from zero. Names, fields and units are
//! keepalived's; passwords are not written.

mod json;
mod text;
mod words;

use std::{
    fs::{self, File},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use crate::{
    base::status::{InstanceCounters, InstanceStatus, TrackedProcess, VrrpState},
    config::model::{Config, VrrpInstance},
    vrrp::{track::Verdict, wire::Reason},
};

pub use json::render as json;
pub use text::{data, stats};

/// Signal numbers by the names of `--signum`. keepalived counts from the kernel's 34 and 64, two
/// of which the C library keeps.
pub const SIGNALS: [(&str, i32); 6] =
    [("STOP", 15), ("RELOAD", 1), ("DATA", 10), ("STATS", 12), ("STATS_CLEAR", 63), ("JSON", 36)];

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dump {
    Data,
    Stats,
    StatsClear,
    Json,
}

impl Dump {
    /// Every signal that asks for one.
    pub const NUMBERS: [i32; 4] = [10, 12, 63, 36];

    /// By its signal.
    pub fn of(signal: i32) -> Option<Self> {
        match signal {
            10 => Some(Self::Data),
            12 => Some(Self::Stats),
            63 => Some(Self::StatsClear),
            36 => Some(Self::Json),
            _ => None,
        }
    }

    /// Where it is written.
    pub fn path(self, config: &Config, instance: Option<&str>) -> PathBuf {
        let files = &config.global.dumps;
        let (given, ending) = match self {
            Self::Data => (&files.state, "data"),
            Self::Stats | Self::StatsClear => (&files.stats, "stats"),
            Self::Json => (&files.json, "json"),
        };
        if let Some(path) = given {
            return path.clone();
        }
        let name = match instance.filter(|_| files.use_instance) {
            Some(instance) => format!("keepalived_{instance}.{ending}"),
            None => format!("keepalived.{ending}"),
        };
        let directory = std::env::var_os("TMPDIR").map_or_else(|| "/tmp".into(), PathBuf::from);
        directory.join(name)
    }

    /// Its text.
    pub fn render(self, known: &Known<'_>) -> String {
        match self {
            Self::Data => data(known),
            Self::Stats | Self::StatsClear => stats(known),
            Self::Json => json(known),
        }
    }
}

/// All that a dump says.
#[derive(Clone, Copy, Debug)]
pub struct Known<'a> {
    pub config: &'a Config,
    pub instances: &'a [InstanceStatus],
    /// Last verdicts of tracked objects.
    pub verdicts: &'a [(String, Verdict)],
    /// Tracked processes, as counted last.
    pub processes: &'a [TrackedProcess],
}

impl<'a> Known<'a> {
    /// Instances with their configuration.
    fn pairs(&self) -> impl Iterator<Item = (&'a VrrpInstance, &'a InstanceStatus)> {
        let Self { config, instances, .. } = *self;
        config
            .vrrp_instances
            .iter()
            .filter_map(|model| Some((model, instances.iter().find(|it| it.name == model.name)?)))
    }

    fn verdict(&self, key: &str) -> Option<Verdict> {
        self.verdicts.iter().find(|(name, _)| name == key).map(|(_, verdict)| *verdict)
    }
}

/// keepalived's number of a state.
fn number(state: VrrpState) -> u8 {
    match state {
        VrrpState::Init => 0,
        VrrpState::Backup => 1,
        VrrpState::Master => 2,
        VrrpState::Fault => 3,
    }
}

/// keepalived's counters of discarded adverts from ours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Errors {
    length: u64,
    interval: u64,
    ttl: u64,
    kind: u64,
    addresses: u64,
    auth_type: u64,
    auth_mismatch: u64,
    auth_failure: u64,
}

/// Where keepalived 2.4 counts what it discards for this reason. It never counts an interval that
/// is not its own, though it has a field for it: ours are there.
fn field(errors: &mut Errors, reason: Reason) -> Option<&mut u64> {
    Some(match reason {
        // Without `auth_hmac` a trailer is so many bytes too many.
        Reason::IpTruncated | Reason::TooShort | Reason::TooLong | Reason::HmacTrailer => {
            &mut errors.length
        }
        Reason::Interval | Reason::IntervalZero => &mut errors.interval,
        Reason::Ttl | Reason::PeerTtl => &mut errors.ttl,
        Reason::Type => &mut errors.kind,
        // Unicast where multicast is expected, and the reverse, are addresses to it, too.
        Reason::NoAddress | Reason::AddressList | Reason::Mode => &mut errors.addresses,
        Reason::AuthTypeUnknown => &mut errors.auth_type,
        Reason::AuthTypeMismatch | Reason::AuthHeader | Reason::AuthHeaderMissing => {
            &mut errors.auth_mismatch
        }
        Reason::AuthFailed
        | Reason::AuthHeaderMalformed
        | Reason::AuthHeaderIcv
        | Reason::AuthHeaderSpi
        | Reason::AuthHeaderReplay => &mut errors.auth_failure,
        // Fields of their own in the JSON of an instance with `auth_hmac`.
        Reason::HmacMissing
        | Reason::HmacMalformed
        | Reason::HmacStale
        | Reason::HmacKey
        | Reason::HmacInvalid
        | Reason::HmacReplay => return None,
        // It has no field for these, or they do not reach it.
        Reason::IpHeader
        | Reason::IpChecksum
        | Reason::IpFragment
        | Reason::IpProtocol
        | Reason::Family
        | Reason::PeerUnknown
        | Reason::Version
        | Reason::Checksum
        | Reason::Vrid
        | Reason::Group
        | Reason::OwnAddress => return None,
    })
}

fn errors(counters: &InstanceCounters) -> Errors {
    // keepalived counts other addresses of adverts that it accepts.
    let mut errors = Errors { addresses: counters.address_list_differs, ..Errors::default() };
    for reason in Reason::ALL {
        if let Some(count) = counters.discarded.get(reason.name())
            && let Some(field) = field(&mut errors, *reason)
        {
            *field += count;
        }
    }
    errors
}

/// Writes a dump as a whole: readers see the old file or the new one. The name is never followed
/// if it is a link, and nobody but the owner may read it, as keepalived's.
///
/// # Errors
/// What the directory does not allow.
pub fn write(path: &Path, text: &str) -> io::Result<()> {
    let name = path.file_name().ok_or_else(|| io::Error::other("not the name of a file"))?;
    let mut hidden = std::ffi::OsString::from(".");
    hidden.push(name);
    hidden.push(format!(".{}", std::process::id()));
    let temporary = path.with_file_name(hidden);
    let _ = fs::remove_file(&temporary); // of a process that died writing
    let mut file = File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC)
        .open(&temporary)?;
    let written = file.write_all(text.as_bytes()).and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        let _ = fs::remove_file(&temporary); // the error that matters is the first one
    }
    written
}

#[cfg(test)]
mod tests;
