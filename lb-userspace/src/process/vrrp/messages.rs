//! What the watchdog says to the vrrp role, and asks.

use super::{
    super::{
        clock,
        ipc::{Down, Event, Query, Reply, Up},
    },
    VrrpRole,
};
use crate::{base::status::TimerStatus, vrrp::lateness};

impl VrrpRole {
    pub(super) fn message(&mut self, message: Down) {
        let now = clock::now();
        match message {
            Down::Ping { seq } => self.shell.say(Up::Pong { seq }),
            Down::Stop => self.stop(),
            Down::Reload { generation, config } if self.stop_by.is_none() => {
                if let Err(message) = self.check_interfaces(&config) {
                    tracing::error!("{message}: the instance waits in FAULT");
                }
                self.declare(&config);
                self.apply(generation, &config);
                if config.global.fifo_write_vrrp_states_on_reload {
                    self.groups.tell_again(&mut self.shell);
                    for instance in &mut self.instances {
                        instance.tell_again(&mut self.shell);
                    }
                }
                // A script whose command changed has no verdict any more.
                for (name, verdict) in self.scripts.verdicts() {
                    self.shell.say(Up::Event(Event::Script { name, verdict }));
                }
            }
            Down::Event { event: Event::Converged { leases, fenced, .. }, .. } => {
                if !fenced && self.converged.is_none() {
                    tracing::warn!(
                        "this host cannot fence itself: an old master that hangs keeps answering"
                    );
                }
                self.converge_by = None;
                self.converged = Some((leases, fenced));
                if self.stop_by.is_none() {
                    self.lend(now);
                }
            }
            Down::Replay { events } => {
                for (from, event) in events {
                    self.message(Down::Event { from, event });
                }
            }
            Down::Event { event: Event::Script { name, verdict }, .. } => {
                let heard = self.scripts.restore(&name, verdict);
                if let Some(verdict) = heard.or_else(|| self.trackers.hear(&name, verdict)) {
                    self.script_verdict(&name, verdict, now);
                }
            }
            Down::ScriptDone(done) => {
                if let Some((name, verdict)) = self.scripts.done(&done) {
                    let event = Event::Script { name: name.clone(), verdict };
                    self.shell.say(Up::Event(event));
                    self.script_verdict(&name, verdict, now);
                }
            }
            Down::Query { id, query: Query::Status } => {
                let instances =
                    self.instances.iter().map(|it| it.status(now, &self.shell)).collect();
                let (timers, strays) = (self.timers(), self.strays.status());
                let processes = self.trackers.processes();
                let reply = Reply::Vrrp { instances, timers, strays, processes };
                self.shell.say(Up::Reply { id, reply });
            }
            Down::Query { id, query: Query::Explain { what } } => {
                let found = self.instances.iter().find(|it| it.model.name == what);
                let reply = match found {
                    Some(instance) => Reply::Text(instance.explain(now)),
                    None => Reply::Error(format!("there is no vrrp_instance {what}")),
                };
                self.shell.say(Up::Reply { id, reply });
            }
            Down::Query { query: Query::ClearStatistics, .. } => {
                self.lateness = lateness::Timers::default();
                self.strays.clear();
                for instance in &mut self.instances {
                    instance.clear_statistics();
                }
                tracing::info!("statistics start from zero");
            }
            Down::Query { id, .. } => {
                let reply = Reply::Error("vrrp answers status only".into());
                self.shell.say(Up::Reply { id, reply });
            }
            Down::Start { .. }
            | Down::Reload { .. }
            | Down::Event { .. }
            | Down::Mail { .. }
            | Down::Answer { .. } => {}
        }
    }

    /// Over every instance that was run.
    fn timers(&self) -> TimerStatus {
        let mut all = self.lateness.clone();
        for instance in self.instances.iter().chain(&self.leaving) {
            all.add(instance.lateness());
        }
        TimerStatus { advert: all.advert.status(), master_down: all.master_down.status() }
    }
}
