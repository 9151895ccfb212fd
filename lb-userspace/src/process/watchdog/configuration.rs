//! Reloads: reading the file beside the loop, and putting its configuration in force.

use std::{collections::BTreeSet, sync::Arc};

use nix::net::if_::if_nametoindex;

use super::{Happening, Watchdog, init_files, notify, reload::READ_LIMIT};
use crate::{
    base::{plan::Plan, time::Instant},
    config::{model::Config, plan, print::Original},
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
    files: Files,
    plan: Arc<Plan>,
    /// A forwarder has ended while it had the offer; its successor is asked once more.
    again: bool,
}

/// What the text of a configuration leaves behind for the next reload and for `lbctl config`.
#[derive(Debug)]
pub(super) struct Files {
    /// For the origins of what is in force.
    original: Option<Original>,
    /// Files that it includes by name.
    included: BTreeSet<String>,
}

/// What came of reading the file.
#[derive(Debug)]
pub struct Read {
    pub loaded: config_file::Loaded,
    /// From what is in force to it; empty when there is no configuration.
    pub plan: Arc<Plan>,
}

/// What is to be said about a file; of a refused one the errors alone.
pub(super) fn findings(loaded: &config_file::Loaded) -> String {
    match loaded.outcome.config {
        None => loaded.outcome.render_errors(),
        Some(_) => loaded.outcome.render(),
    }
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
        let reading = self.reading();
        let happenings = self.happenings.clone();
        tokio::spawn(async move {
            let read = tokio::task::spawn_blocking(reading).await;
            // A panic in the parser aborts the process, so the task always ends well.
            if let Ok(read) = read {
                let _ = happenings.send(Happening::Read { number, read: Box::new(read) }).await;
            }
        });
    }

    /// Reads the file and compares it with what is in force. Only a reload changes that, and
    /// there is one at a time.
    pub(super) fn reading(&self) -> impl FnOnce() -> Read + Send + 'static {
        let (path, reading) = (self.runtime.config_file.clone(), self.reading.clone());
        let running = Arc::clone(&self.config);
        let states = self.values.states();
        move || {
            let mut loaded = config_file::load_with(&path, &reading);
            loaded.check_interfaces(&running, |name| if_nametoindex(name).is_ok());
            let config = loaded.outcome.config.as_ref();
            let plan = config.map(|config| plan::plan(&running, config, &states));
            Read { loaded, plan: Arc::new(plan.unwrap_or_default()) }
        }
    }

    /// A reading ended: take the new generation or keep the old one.
    pub(super) fn loaded(&mut self, number: u64, read: Read, now: Instant) {
        let Read { loaded, plan } = read;
        if !self.reloads.hold(number, now) {
            tracing::warn!("a reading of the configuration that was given up has ended: dropped");
            return;
        }
        self.reloads_read += 1;
        let findings = findings(&loaded);
        let files = Files { included: loaded.included(), original: loaded.outcome.original };
        match loaded.outcome.config {
            None => self.refuse(number, findings.trim_end(), now),
            Some(config) => {
                if !findings.is_empty() {
                    tracing::warn!("findings in the configuration:\n{}", findings.trim_end());
                }
                if config == *self.config {
                    let generation = self.generation;
                    tracing::info!(generation, "configuration unchanged");
                    // The states are asked for at every reload, and only vrrp knows them.
                    if config.global.fifo_write_vrrp_states_on_reload {
                        let config = secrets::for_role(&config, Role::Vrrp);
                        self.send(Role::Vrrp, Down::Reload { generation, config }, now);
                    }
                    // Its lines may have moved.
                    self.keep(files);
                    self.accepted(number, &plan, now);
                } else if self.children.contains_key(&Role::Forwarder) {
                    let generation = self.generation + 1;
                    let again = false;
                    self.offer = Some(Offer { number, generation, config, files, plan, again });
                    self.offer(now);
                } else {
                    // Its successor starts with it.
                    self.commit(config, files, &plan, now);
                    self.accepted(number, &plan, now);
                }
            }
        }
    }

    /// Asks the forwarder about the offered configuration, if there is one.
    pub(super) fn offer(&mut self, now: Instant) {
        if let Some(offer) = &self.offer {
            let config = secrets::for_role(&offer.config, Role::Forwarder);
            let offer = Down::Reload { generation: offer.generation, config };
            self.send(Role::Forwarder, offer, now);
        }
    }

    /// The forwarder is gone, and perhaps by chance while it had an offer: its successor is asked too. What
    /// ends the second one as well is not put in force.
    pub(super) fn forwarder_gone(&mut self, now: Instant) {
        match &mut self.offer {
            Some(offer) if !offer.again => {
                offer.again = true;
                tracing::warn!("the forwarder ended during a reload: its successor is asked again");
            }
            Some(_) => {
                self.refused(None, "the forwarder process ended twice while it took it over", now);
            }
            None => {}
        }
    }

    /// The forwarder works on an offered configuration: the others follow.
    pub(super) fn taken(&mut self, generation: u64, now: Instant) {
        if let Some(offer) = self.offer.take_if(|offer| offer.generation == generation) {
            self.commit(offer.config, offer.files, &offer.plan, now);
            self.accepted(offer.number, &offer.plan, now);
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

    fn keep(&mut self, files: Files) {
        self.original = files.original;
        self.reading.before = files.included;
    }

    /// Puts a configuration in force that the forwarder has, or gets at its start.
    fn commit(&mut self, config: Config, files: Files, plan: &Plan, now: Instant) {
        self.generation += 1;
        self.keep(files);
        init_files::write(&config, Some(&self.config));
        self.config = Arc::new(config);
        self.values.retain(&self.config);
        self.scripts.configure(&self.config.global);
        self.notifications.configure(&self.config);
        let (steps, untouched) = (plan.steps.len() + plan.omitted, plan.untouched);
        tracing::info!(generation = self.generation, steps, untouched, "configuration reloaded");
        for step in &plan.steps {
            tracing::info!(%step, "reload");
        }
        let others = self.children.keys().copied().filter(|role| *role != Role::Forwarder);
        for role in others.collect::<Vec<_>>() {
            let config = secrets::for_role(&self.config, role);
            self.send(role, Down::Reload { generation: self.generation, config }, now);
        }
    }

    /// The reading of this number has led to what is in force now.
    fn accepted(&mut self, number: u64, plan: &Arc<Plan>, now: Instant) {
        self.last_reload_error = None;
        if let Some((asked, next)) = self.reloads.read(number, now) {
            self.reloads.confirm(asked, self.generation, plan, now);
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
