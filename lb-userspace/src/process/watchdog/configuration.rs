//! Reloads: reading the file beside the loop, and putting its configuration in force.

use std::sync::Arc;

use super::{Happening, Watchdog, init_files, notify, reload::READ_LIMIT};
use crate::{
    base::time::Instant,
    process::{
        config_file,
        ipc::{Down, Reply, Role},
        secrets,
    },
};

impl Watchdog {
    pub(super) fn request_reload(&mut self, ask: Option<u64>, now: Instant) {
        if let Some(number) = self.reloads.request(ask, now) {
            self.read_config(number);
        }
    }

    /// Reads and parses beside the loop: a large file must not cost heartbeats.
    fn read_config(&self, number: u64) {
        notify::reloading();
        let path = self.runtime.config_file.clone();
        let happenings = self.happenings.clone();
        tokio::spawn(async move {
            let read = tokio::task::spawn_blocking(move || config_file::load(&path)).await;
            // A panic in the parser aborts the process, so the task always ends well.
            if let Ok(loaded) = read {
                let _ = happenings.send(Happening::Read { number, loaded: Box::new(loaded) }).await;
            }
        });
    }

    /// A reading ended: take the new generation or keep the old one.
    pub(super) fn loaded(&mut self, number: u64, loaded: config_file::Loaded, now: Instant) {
        let Some((asked, next)) = self.reloads.read(number, now) else {
            tracing::warn!("a reading of the configuration that was given up has ended: dropped");
            return;
        };
        self.reloads_read += 1;
        let findings = match loaded.outcome.config {
            None => loaded.outcome.render_errors(),
            Some(_) => loaded.outcome.render(),
        };
        match loaded.outcome.config {
            None => self.refuse(findings.trim_end(), asked, now),
            Some(config) => {
                if !findings.is_empty() {
                    tracing::warn!("findings in the configuration:\n{}", findings.trim_end());
                }
                self.last_reload_error = None;
                if config == *self.config {
                    tracing::info!(generation = self.generation, "configuration unchanged");
                } else {
                    self.generation += 1;
                    init_files::write(&config, Some(&self.config));
                    self.config = Arc::new(config);
                    self.values.retain(&self.config);
                    self.scripts.configure(&self.config.global);
                    self.notifications.configure(&self.config);
                    tracing::info!(generation = self.generation, "configuration reloaded");
                    let roles: Vec<Role> = self.children.keys().copied().collect();
                    for role in roles {
                        let config = secrets::for_role(&self.config, role);
                        let generation = self.generation;
                        self.send(role, Down::Reload { generation, config }, now);
                    }
                }
                self.reloads.confirm(asked, self.generation, now);
            }
        }
        self.reading_ended(next);
    }

    /// The old generation stays; everybody who waits for the new one is told why.
    fn refuse(&mut self, why: &str, asked: Vec<u64>, now: Instant) {
        let generation = self.generation;
        self.reload_failures += 1;
        tracing::error!(generation, "reload refused, the old configuration stays in force:\n{why}");
        self.last_reload_error = Some(why.to_owned());
        let why = format!("reload refused, generation {generation} stays in force:\n{why}");
        for ask in asked {
            self.answer(ask, Reply::Error(why.clone()), now);
        }
    }

    /// The service manager is told that the reload is over, or that the next one begins.
    fn reading_ended(&self, next: Option<u64>) {
        notify::ready(&format!("configuration generation {}", self.generation));
        if let Some(number) = next {
            self.read_config(number);
        }
    }

    /// Answers those who wait for a generation that is in force, and gives up a reading that
    /// lasts too long.
    pub(super) fn settle_reloads(&mut self, now: Instant) {
        if let Some((asked, next)) = self.reloads.overdue(now) {
            let file = self.runtime.config_file.display();
            let why = format!("{file}: not read within {} s", READ_LIMIT.as_secs());
            self.reloads_read += 1;
            self.refuse(&why, asked, now);
            self.reading_ended(next);
        }
        let core = &self.core;
        let answers = self.reloads.settle(now, |generation| {
            core.behind(generation).into_iter().map(Role::name).collect()
        });
        for (ask, reply) in answers {
            self.answer(ask, reply, now);
        }
    }
}
