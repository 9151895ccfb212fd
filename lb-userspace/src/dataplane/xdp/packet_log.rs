//! The kernel program's decisions in lbd's log: only in a build with the feature `packet-log`
//! (`cargo build --release --features packet-log`), for looking for a fault.

use std::{os::fd::AsFd as _, thread};

use anyhow::Context as _;
use aya::Ebpf;
use aya_log::EbpfLogger;
use lb_common::verdict::Outcome;
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};

/// Hands records on as tracing events, with the outcome by its name.
struct ToTracing;

impl log::Log for ToTracing {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        tracing::info!("{}", named(&record.args().to_string()));
    }

    fn flush(&self) {}
}

/// `outcome 3 len 60 …` → `outcome short len 60 …`.
fn named(line: &str) -> String {
    let name = |rest: &str| -> Option<String> {
        let (number, rest) = rest.split_once(' ')?;
        let outcome = Outcome::ALL.get(number.parse::<usize>().ok()?)?;
        Some(format!("outcome {} {rest}", outcome.name()))
    };
    line.strip_prefix("outcome ").and_then(name).unwrap_or_else(|| line.to_owned())
}

/// Reads the program's lines from now on.
///
/// # Errors
/// When the object has no ring buffer for them, or no thread can be made.
pub fn start(ebpf: &mut Ebpf) -> anyhow::Result<()> {
    let mut logger = EbpfLogger::init_with_logger(ebpf, ToTracing)
        .context("the kernel object was built without packet-log")?;
    tracing::warn!("this build logs every packet of a VIP: it is slow, and not for service");
    let reader = move || {
        loop {
            let mut fds = [PollFd::new(logger.as_fd(), PollFlags::POLLIN)];
            match poll(&mut fds, PollTimeout::NONE) {
                Ok(_) | Err(Errno::EINTR) => logger.flush(),
                Err(error) => return tracing::error!(%error, "packets are logged no longer"),
            }
        }
    };
    thread::Builder::new()
        .name("packet-log".to_owned())
        .spawn(reader)
        .context("start the packet log's thread")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_have_their_names() {
        assert_eq!(named("outcome 2 len 60 in 3 out 0"), "outcome short len 60 in 3 out 0");
        assert_eq!(named("outcome 9999 len 60"), "outcome 9999 len 60");
        assert_eq!(named("whatever"), "whatever");
    }
}
