//! `vrrp_track_process`, `track_file`, `track_mysql`: their last verdicts, wherever they come from.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    base::status::TrackedProcess,
    config::model::{Config, TrackLists, TrackScript},
    io::track::{Report, Sources, Watch},
    vrrp::track::{Kind, Tracked, Verdict},
};

/// Trackers that are no script.
#[derive(Debug, Default)]
pub(super) struct Trackers {
    /// The thread that looks at files and processes; `None`: nothing to look at so far.
    sources: Option<Sources>,
    verdicts: BTreeMap<String, Verdict>,
    /// Told by our own thread: what a process before us knew is older.
    learned: BTreeSet<String>,
}

impl Trackers {
    /// Takes a configuration. `checker`: whether there is a checker process, which makes the
    /// probes of `track_mysql`.
    pub fn configure(&mut self, config: &Config, checker: bool) {
        let keys: BTreeSet<String> = keys(config).collect();
        self.verdicts.retain(|key, _| keys.contains(key));
        self.learned.retain(|key| keys.contains(key));
        if !checker {
            for name in config.track_mysql.keys() {
                let told = self.verdicts.insert(Kind::Mysql.key(name), Verdict::Ignored);
                if told.is_none() {
                    tracing::error!(
                        track_mysql = name,
                        "not tracked: -P starts no checker process, which would ask MySQL"
                    );
                }
            }
        }
        let watch = Watch {
            processes: config.track_processes.values().cloned().collect(),
            files: config
                .track_files
                .values()
                .map(|file| (file.name.clone(), file.path.clone()))
                .collect(),
        };
        if self.sources.is_none() && watch != Watch::default() {
            match Sources::start() {
                Ok(sources) => self.sources = Some(sources),
                Err(error) => tracing::error!(%error, "files and processes are not tracked"),
            }
        }
        if let Some(sources) = &self.sources {
            sources.watch(watch);
        }
    }

    /// All that is known.
    pub fn verdicts(&self) -> Vec<(String, Verdict)> {
        self.verdicts.iter().map(|(key, verdict)| (key.clone(), *verdict)).collect()
    }

    /// What is known of tracked processes.
    pub fn processes(&self) -> Vec<TrackedProcess> {
        self.sources.as_ref().map(Sources::processes).unwrap_or_default()
    }

    /// The next report of our thread; never comes when there is none.
    pub async fn report(&mut self) -> Report {
        let Some(sources) = &mut self.sources else { return std::future::pending().await };
        match sources.report().await {
            Some(report) => report,
            None => {
                tracing::error!("the thread that tracks files and processes has ended");
                self.sources = None;
                std::future::pending().await
            }
        }
    }

    /// As [`Trackers::report`], if one waits.
    pub fn try_report(&mut self) -> Option<Report> {
        self.sources.as_mut()?.try_report()
    }

    /// Takes a report of our thread.
    pub fn learn(&mut self, report: &Report) {
        self.learned.insert(report.key.clone());
        self.verdicts.insert(report.key.clone(), report.verdict);
    }

    /// A verdict of another process: the checker's, or of the process before this one. Returns it
    /// when it counts and is new.
    pub fn hear(&mut self, key: &str, verdict: Verdict) -> Option<Verdict> {
        let kinds = [Kind::Process, Kind::File, Kind::Mysql];
        if !kinds.iter().any(|kind| kind.name(key).is_some()) || self.learned.contains(key) {
            return None;
        }
        // Set by `configure` when nobody can know better.
        if self.verdicts.get(key) == Some(&Verdict::Ignored) {
            return None;
        }
        (self.verdicts.insert(key.to_owned(), verdict) != Some(verdict)).then_some(verdict)
    }
}

fn keys(config: &Config) -> impl Iterator<Item = String> + '_ {
    let processes = config.track_processes.keys().map(|name| Kind::Process.key(name));
    let files = config.track_files.keys().map(|name| Kind::File.key(name));
    let mysql = config.track_mysql.keys().map(|name| Kind::Mysql.key(name));
    processes.chain(files).chain(mysql)
}

/// Whether an object of this name is configured.
pub(in crate::process) fn is_known(key: &str, config: &Config) -> bool {
    keys(config).any(|known| known == key)
}

/// What an instance or a sync group tracks beside scripts, for its state machine.
pub(super) fn tracked(lists: &TrackLists, config: &Config) -> Vec<Tracked> {
    let one = |kind: Kind, track: &TrackScript, weight: i32, reverse: bool| Tracked {
        name: kind.key(&track.name),
        weight: track.weight.unwrap_or(weight),
        reverse: track.reverse.unwrap_or(reverse),
    };
    let processes = lists.processes.iter().filter_map(|track| {
        let it = config.track_processes.get(&track.name)?;
        Some(one(Kind::Process, track, it.weight, it.reverse))
    });
    let files = lists.files.iter().filter_map(|track| {
        let it = config.track_files.get(&track.name)?;
        Some(one(Kind::File, track, it.weight, it.reverse))
    });
    let mysql = lists.mysql.iter().filter_map(|track| {
        let it = config.track_mysql.get(&track.name)?;
        Some(one(Kind::Mysql, track, it.weight, it.reverse))
    });
    processes.chain(files).chain(mysql).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "vrrp_track_process p {\n process x\n weight 3\n}\n\
        track_file f {\n file /tmp/nothing\n}\ntrack_mysql m {\n weight -20 reverse\n}\n\
        vrrp_instance V {\n interface lo\n virtual_router_id 1\n virtual_ipaddress {\n 192.0.2.1\n }\n \
        track_process {\n p weight -7\n }\n track_file {\n f\n }\n track_mysql {\n m noreverse\n }\n}\n";

    fn config() -> Config {
        crate::config::load("test", TEXT).config.expect("good")
    }

    #[test]
    fn weights_of_the_list_go_before_those_of_the_object() {
        let config = config();
        let found = tracked(&config.vrrp_instances[0].track_more, &config);
        let rows: Vec<_> = found.iter().map(|it| (&*it.name, it.weight, it.reverse)).collect();
        assert_eq!(
            rows,
            [("process p", -7, false), ("file f", 1, false), ("MySQL check m", -20, false)]
        );
    }

    #[test]
    fn own_reports_are_newer_than_what_a_predecessor_knew() {
        let mut trackers = Trackers::default();
        let key = Kind::File.key("f");
        assert_eq!(trackers.hear(&key, Verdict::Value(3)), Some(Verdict::Value(3)));
        assert_eq!(trackers.hear(&key, Verdict::Value(3)), None, "nothing new");
        trackers.learn(&Report { key: key.clone(), verdict: Verdict::Value(4) });
        assert_eq!(trackers.hear(&key, Verdict::Value(3)), None, "older");
        assert_eq!(trackers.verdicts(), [(key, Verdict::Value(4))]);
        assert_eq!(trackers.hear("chk", Verdict::Good), None, "a script");
        let mysql = Kind::Mysql.key("m");
        for verdict in [Verdict::Bad, Verdict::Good] {
            assert_eq!(trackers.hear(&mysql, verdict), Some(verdict), "the checker's word counts");
        }
    }

    #[test]
    fn without_a_checker_process_mysql_is_not_tracked() {
        let (mut trackers, mut config) = (Trackers::default(), config());
        config.track_files.clear();
        config.track_processes.clear();
        trackers.configure(&config, false);
        let mysql = Kind::Mysql.key("m");
        assert_eq!(trackers.verdicts(), [(mysql.clone(), Verdict::Ignored)]);
        assert_eq!(trackers.hear(&mysql, Verdict::Bad), None);
        assert!(is_known(&mysql, &config) && !is_known("MySQL check x", &config));
    }
}
