//! Options of elections and of the VRRP process, in global_defs and in instances.

use crate::base::net::Priority;

use super::{
    super::{
        model::{Election, VrrpVersion},
        source::Span,
    },
    Entry, Lower, Spanned,
};

/// Highest number of a CPU, exclusive, as keepalived's cpu_set_t has it.
const CPU_LIMIT: usize = 1024;

impl Lower<'_> {
    /// A word of global_defs that is the default of instances; false when it is none.
    pub(super) fn election_default(&mut self, entry: &Entry<'_>, word: &str) -> bool {
        let mut election = self.config.global.election.clone();
        let word = word.strip_prefix("vrrp_").unwrap_or(word);
        let taken = self.election(
            entry,
            if word == "strict" { "strict_mode" } else { word },
            &mut election,
        );
        self.config.global.election = election;
        taken
    }

    /// A word of an instance's election; false when it is none.
    pub(super) fn election(
        &mut self,
        entry: &Entry<'_>,
        word: &str,
        election: &mut Election,
    ) -> bool {
        let flag = match word {
            "down_timer_adverts" => {
                let adverts = self.u32(entry).unwrap_or(election.down_timer_adverts);
                election.down_timer_adverts = adverts;
                if adverts == 1 {
                    // keepalived has it so without a word.
                    self.advise(
                        entry.head(),
                        "with `down_timer_adverts 1` a single lost or late advert moves the VIP",
                        "a master whose advert is late by half a skew stops forwarding; use 2 or more",
                    );
                }
                return true;
            }
            "lower_prio_no_advert" => &mut election.lower_prio_no_advert,
            "higher_prio_send_advert" => &mut election.higher_prio_send_advert,
            "owner_ignore_adverts" => &mut election.owner_ignore_adverts,
            "told_handover" => &mut election.told_handover,
            "strict_mode" => &mut election.strict,
            _ => return false,
        };
        *flag = self.bool(entry, *flag);
        true
    }

    /// `vrrp_rt_priority` and its like, and the delays of the start; false when it is none.
    pub(super) fn scheduling(&mut self, entry: &Entry<'_>, word: &str) -> bool {
        match word {
            "vrrp_priority" => {
                let nice = self.int(entry).and_then(|value| i8::try_from(value).ok());
                self.config.global.vrrp_process.nice = nice;
            }
            "vrrp_no_swap" => self.config.global.vrrp_process.no_swap = true,
            "vrrp_rt_priority" => {
                let priority = self.int(entry).and_then(|value| u8::try_from(value).ok());
                self.config.global.vrrp_process.rt_priority = priority;
            }
            "vrrp_rlimit_rttime" | "vrrp_rlimit_rtime" => {
                let micros = self.u32(entry).map(u64::from);
                self.config.global.vrrp_process.rlimit_rttime_us = micros;
            }
            "vrrp_cpu_affinity" => {
                for word in entry.args() {
                    match self.text(*word).parse() {
                        Ok(cpu) if cpu < CPU_LIMIT => {
                            self.config.global.vrrp_process.cpu_affinity.push(cpu);
                        }
                        _ => self.bad_value(entry, *word),
                    }
                }
            }
            "vrrp_startup_delay" => {
                self.config.global.vrrp_startup_delay = self.duration(entry).unwrap_or_default();
            }
            "vrrp_delay_after_boot" => {
                self.config.global.vrrp_delay_after_boot = self.duration(entry).unwrap_or_default();
            }
            _ => return false,
        }
        true
    }

    /// `timer_expired_backup [PRIORITY]`.
    pub(super) fn timer_expired(&mut self, entry: &Entry<'_>) -> Option<Spanned<Priority>> {
        let value = match self.first(entry) {
            None => Priority(254),
            Some(word) => match self.text(word).parse() {
                Ok(priority @ 1..=254) => Priority(priority),
                _ => {
                    self.bad_value(entry, word);
                    return None;
                }
            },
        };
        Some(Spanned { value, span: entry.head() })
    }

    /// It is for a master that nobody preempts.
    pub(super) fn timer_expired_backup(
        &mut self,
        name: &str,
        given: Option<Spanned<Priority>>,
        nopreempt: bool,
    ) -> Option<Priority> {
        let given = given?;
        if nopreempt {
            return Some(given.value);
        }
        self.warn(
            given.span,
            format!("vrrp_instance `{name}`: `timer_expired_backup` has no effect here"),
            "it needs nopreempt: otherwise the better router becomes master again anyway",
        );
        None
    }

    /// It needs a bit that version 2 does not have.
    pub(super) fn told_handover(
        &mut self,
        name: &str,
        at: Span,
        version: VrrpVersion,
        election: &mut Election,
    ) {
        if version == VrrpVersion::V2 && std::mem::take(&mut election.told_handover) {
            self.warn(
                at,
                format!("vrrp_instance `{name}`: `told_handover` has no effect in VRRP version 2"),
                "its adverts have no bit to spare; use `version 3` on every host of the virtual router",
            );
        }
    }
}
