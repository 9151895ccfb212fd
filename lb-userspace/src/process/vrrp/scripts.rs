//! `vrrp_script`s: run once each however many instances track them, through the watchdog.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    base::time::Instant,
    config::model::{Config, VrrpScript},
    process::ipc::{ScriptDone, ScriptOutcome, ScriptRun},
    vrrp::track::{Script, Verdict},
};

struct Running {
    spec: VrrpScript,
    core: Script,
    run: Option<u64>,
}

/// The scripts that some instance tracks.
#[derive(Default)]
pub(super) struct Scripts {
    by_name: BTreeMap<String, Running>,
    next_id: u64,
}

impl Scripts {
    /// Takes a configuration; a script whose command stays keeps its verdict.
    pub fn configure(&mut self, config: &Config, now: Instant) {
        let tracked: BTreeSet<&String> = config
            .vrrp_instances
            .iter()
            .map(|instance| &instance.track_scripts)
            .chain(config.vrrp_sync_groups.iter().map(|group| &group.track_scripts))
            .flat_map(|tracked| tracked.iter().map(|track| &track.name))
            .collect();
        self.by_name.retain(|name, old| {
            tracked.contains(name)
                && config.vrrp_scripts.get(name).is_some_and(|new| new.command == old.spec.command)
        });
        for spec in config.vrrp_scripts.values().filter(|spec| tracked.contains(&spec.name)) {
            match self.by_name.get_mut(&spec.name) {
                Some(old) => {
                    old.core.configure(spec.interval, spec.rise, spec.fall, now);
                    old.spec = spec.clone();
                }
                None => {
                    let core =
                        Script::new(spec.interval, spec.rise, spec.fall, spec.init_fail, now);
                    let new = Running { spec: spec.clone(), core, run: None };
                    self.by_name.insert(spec.name.clone(), new);
                }
            }
        }
    }

    pub fn verdicts(&self) -> Vec<(String, Verdict)> {
        self.by_name.iter().map(|(name, it)| (name.clone(), it.core.verdict())).collect()
    }

    /// Takes what the process before this one knew, until this one has a result of its own.
    /// Returns the verdict when that changed.
    pub fn restore(&mut self, name: &str, verdict: Verdict) -> Option<Verdict> {
        self.by_name.get_mut(name)?.core.restore(verdict)
    }

    pub fn poll_timeout(&self) -> Option<Instant> {
        self.by_name.values().map(|it| it.core.poll_timeout()).min()
    }

    /// Scripts to start now.
    pub fn due(&mut self, now: Instant) -> Vec<ScriptRun> {
        let mut runs = Vec::new();
        for (name, script) in &mut self.by_name {
            let skipped = script.core.skipped;
            if script.core.due(now) {
                self.next_id += 1;
                script.run = Some(self.next_id);
                runs.push(ScriptRun {
                    id: self.next_id,
                    object: format!("vrrp_script {name}"),
                    command: script.spec.command.clone(),
                    extra_args: vec![],
                    timeout: Some(script.spec.timeout),
                    queue: None,
                    reply: true,
                });
            } else if script.core.skipped > skipped {
                tracing::warn!(script = name, "still running, this run is skipped");
            }
        }
        runs
    }

    /// A script ended. Returns its name and verdict when that changed.
    pub fn done(&mut self, done: &ScriptDone) -> Option<(String, Verdict)> {
        let (name, script) =
            self.by_name.iter_mut().find(|(_, script)| script.run == Some(done.id))?;
        script.run = None;
        let elapsed_ms = u64::try_from(done.elapsed.as_millis()).unwrap_or(u64::MAX);
        let verdict = match &done.outcome {
            ScriptOutcome::Exit(code) => script.core.done(*code == 0),
            ScriptOutcome::Signal(_) | ScriptOutcome::TimedOut => script.core.done(false),
            ScriptOutcome::NotStarted(_) => script.core.not_started(),
            // Told where scripts are started.
            ScriptOutcome::NotNow(_) => {
                script.core.not_now();
                None
            }
        }?;
        let outcome = format!("{:?}", done.outcome);
        match verdict {
            Verdict::Ignored => tracing::error!(
                script = name,
                outcome,
                "script cannot be started: not tracked until it can"
            ),
            Verdict::Good => tracing::info!(script = name, elapsed_ms, "script succeeds"),
            Verdict::Bad | Verdict::Pending | Verdict::Value(_) => {
                tracing::warn!(script = name, outcome, elapsed_ms, "script fails");
            }
        }
        Some((name.clone(), verdict))
    }
}
