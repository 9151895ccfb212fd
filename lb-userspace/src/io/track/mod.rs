//! What `track_file` and `vrrp_track_process` look at. A thread of its own, because reading files
//! and all of /proc takes time that adverts do not have.

mod connector;
mod files;
mod processes;
mod sys;

use std::{io, path::PathBuf};

use tokio::sync::{mpsc, watch};

pub use connector::{Connector, Happened};
pub use files::parse as file_value;

use crate::{
    base::status::TrackedProcess,
    config::model::TrackProcess,
    vrrp::track::{Kind, Verdict},
};

/// Reports that may wait; at the bound the thread waits for the reader.
const REPORT_LIMIT: usize = 1024;

/// What to look at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Watch {
    pub processes: Vec<TrackProcess>,
    /// Name and path.
    pub files: Vec<(String, PathBuf)>,
}

/// A verdict that is new.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// [`Kind::key`].
    pub key: String,
    pub verdict: Verdict,
}

/// The thread's other end. Dropping it ends the thread.
#[derive(Debug)]
pub struct Sources {
    watch: mpsc::UnboundedSender<Watch>,
    reports: mpsc::Receiver<Report>,
    processes: watch::Receiver<Vec<TrackedProcess>>,
}

impl Sources {
    /// Starts the thread; it looks at nothing yet.
    ///
    /// # Errors
    /// No thread.
    pub fn start() -> io::Result<Self> {
        // One message for each reload.
        let (watch, watches) = mpsc::unbounded_channel();
        let (tx, reports) = mpsc::channel(REPORT_LIMIT);
        let (counts, processes) = watch::channel(vec![]);
        std::thread::Builder::new().name("trackers".into()).spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            match runtime {
                Ok(runtime) => runtime.block_on(run(watches, tx, counts)),
                Err(error) => tracing::error!(%error, "trackers do not run"),
            }
        })?;
        Ok(Self { watch, reports, processes })
    }

    /// Looks at these from now on. What it looked at before and goes on to is not told again.
    pub fn watch(&self, watch: Watch) {
        let _ = self.watch.send(watch); // the thread ends only with us
    }

    /// The processes that are tracked, as they were seen last.
    pub fn processes(&self) -> Vec<TrackedProcess> {
        self.processes.borrow().clone()
    }

    /// The next report; `None` when the thread has ended.
    pub async fn report(&mut self) -> Option<Report> {
        self.reports.recv().await
    }

    /// The next report if one waits.
    pub fn try_report(&mut self) -> Option<Report> {
        self.reports.try_recv().ok()
    }
}

async fn run(
    mut watches: mpsc::UnboundedReceiver<Watch>,
    reports: mpsc::Sender<Report>,
    counts: watch::Sender<Vec<TrackedProcess>>,
) {
    let mut files = files::Files::default();
    let mut processes = processes::Watcher::default();
    loop {
        let told = tokio::select! {
            watch = watches.recv() => {
                let Some(watch) = watch else { return };
                processes.configure(watch.processes).await;
                files.configure(watch.files)
            }
            told = files.next() => told,
            () = processes.next() => vec![],
        };
        let status = processes.status();
        counts.send_if_modified(|last| {
            let differs = *last != status;
            *last = status;
            differs
        });
        let files =
            told.into_iter().map(|(name, value)| (Kind::File.key(&name), Verdict::Value(value)));
        let counted = processes.changes().into_iter().map(|(name, good)| {
            (Kind::Process.key(&name), if good { Verdict::Good } else { Verdict::Bad })
        });
        for (key, verdict) in files.chain(counted).collect::<Vec<_>>() {
            if reports.send(Report { key, verdict }).await.is_err() {
                return;
            }
        }
    }
}
