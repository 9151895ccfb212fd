//! Reloads: reading the file beside the loop, and putting its configuration in force.

use std::sync::Arc;

use super::{Happening, Watchdog, init_files, notify, reload::READ_LIMIT};
use crate::{
    base::time::Instant,
    config::model::Config,
    process::{
        config_file,
        ipc::{Down, Reply, Role},
        secrets, sys,
    },
};

/// A configuration that the forwarder is asked about before the others get it: it alone can find
/// that this host cannot carry it.
#[derive(Debug)]
pub(super) struct Offer {
    /// Of its reading.
    number: u64,
    generation: u64,
    config: Config,
}

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
        if !self.reloads.hold(number, now) {
            tracing::warn!("a reading of the configuration that was given up has ended: dropped");
            return;
        }
        self.reloads_read += 1;
        let findings = match loaded.outcome.config {
            None => loaded.outcome.render_errors(),
            Some(_) => loaded.outcome.render(),
        };
        match loaded.outcome.config {
            None => self.refuse(number, findings.trim_end(), now),
            Some(config) => {
                if !findings.is_empty() {
                    tracing::warn!("findings in the configuration:\n{}", findings.trim_end());
                }
                if config == *self.config {
                    tracing::info!(generation = self.generation, "configuration unchanged");
                    self.accepted(number, now);
                } else if self.children.contains_key(&Role::Forwarder) {
                    let generation = self.generation + 1;
                    let forwarders = secrets::for_role(&config, Role::Forwarder);
                    self.offer = Some(Offer { number, generation, config });
                    let offer = Down::Reload { generation, config: forwarders };
                    self.send(Role::Forwarder, offer, now);
                } else {
                    // Its successor starts with it.
                    self.commit(config, now);
                    self.accepted(number, now);
                }
            }
        }
    }

    /// The forwarder works on an offered configuration: the others follow.
    pub(super) fn taken(&mut self, generation: u64, now: Instant) {
        if let Some(offer) = self.offer.take_if(|offer| offer.generation == generation) {
            self.commit(offer.config, now);
            self.accepted(offer.number, now);
        }
    }

    /// The forwarder did not take an offered configuration over: nobody does. `None`: whichever
    /// was offered.
    pub(super) fn refused(&mut self, generation: Option<u64>, why: &str, now: Instant) {
        let asked = |offer: &mut Offer| generation.is_none_or(|it| it == offer.generation);
        if let Some(offer) = self.offer.take_if(asked) {
            self.refuse(offer.number, why, now);
        }
    }

    /// Puts a configuration in force that the forwarder has, or gets at its start.
    fn commit(&mut self, config: Config, now: Instant) {
        self.generation += 1;
        init_files::write(&config, Some(&self.config));
        self.config = Arc::new(config);
        self.values.retain(&self.config);
        self.scripts.configure(&self.config.global);
        self.notifications.configure(&self.config);
        tracing::info!(generation = self.generation, "configuration reloaded");
        let others = self.children.keys().copied().filter(|role| *role != Role::Forwarder);
        for role in others.collect::<Vec<_>>() {
            let config = secrets::for_role(&self.config, role);
            self.send(role, Down::Reload { generation: self.generation, config }, now);
        }
    }

    /// The reading of this number has led to what is in force now.
    fn accepted(&mut self, number: u64, now: Instant) {
        self.last_reload_error = None;
        if let Some((asked, next)) = self.reloads.read(number, now) {
            self.reloads.confirm(asked, self.generation, now);
            self.reading_ended(next);
        }
    }

    /// The reading of this number has led to nothing.
    fn refuse(&mut self, number: u64, why: &str, now: Instant) {
        if let Some((asked, next)) = self.reloads.read(number, now) {
            self.tell_refused(why, asked, now);
            self.reading_ended(next);
        }
    }

    /// The old generation stays; everybody who waits for the new one is told why.
    fn tell_refused(&mut self, why: &str, asked: Vec<u64>, now: Instant) {
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
        sys::trim();
        if let Some(number) = next {
            self.read_config(number);
        }
    }

    /// Answers those who wait for a generation that is in force, and gives up a reading that
    /// lasts too long.
    pub(super) fn settle_reloads(&mut self, now: Instant) {
        if let Some((asked, next)) = self.reloads.overdue(now) {
            let file = self.runtime.config_file.display();
            let limit = READ_LIMIT.as_secs();
            let why = match self.offer.take() {
                None => {
                    self.reloads_read += 1;
                    format!("{file}: not read within {limit} s")
                }
                Some(_) => format!("{file}: not taken by the forwarder within {limit} s"),
            };
            self.tell_refused(&why, asked, now);
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
