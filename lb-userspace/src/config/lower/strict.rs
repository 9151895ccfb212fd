//! `vrrp_strict`, `strict_mode`: what RFC mode refuses, and what it clears with a warning
//! (keepalived's list: reference/vrrp.md §2, reference/keepalived.md §3).

use std::{net::IpAddr, time::Duration};

use crate::{base::net::Priority, vrrp::auth::hmac::Mode};

use super::{
    super::{
        diag::Severity,
        model::{Authentication, Election, InitialState, VrrpVersion},
        source::Span,
    },
    Lower, Spanned,
    vrrp::Raw,
};

/// What is already known of the instance.
pub(super) struct Known<'a> {
    pub(super) name: &'a Spanned<String>,
    pub(super) version: VrrpVersion,
    pub(super) priority: Priority,
}

impl Lower<'_> {
    /// Does nothing outside of strict mode.
    pub(super) fn strict(
        &mut self,
        known: &Known<'_>,
        raw: &mut Raw,
        election: &mut Election,
        state: &mut InitialState,
    ) {
        if !election.strict {
            return;
        }
        let (name, at) = (known.name.value.as_str(), known.name.span);
        let is_owner = known.priority == Priority::OWNER;
        election.lower_prio_no_advert = true;
        if std::mem::take(&mut election.told_handover) {
            self.strict_clears(name, at, "`told_handover`", "it marks adverts with a reserved bit");
        }
        if election.down_timer_adverts != Election::default().down_timer_adverts {
            election.down_timer_adverts = Election::default().down_timer_adverts;
            self.strict_clears(name, at, "`down_timer_adverts`", "it is 3");
        }
        if raw.vips.is_empty() {
            self.strict_refuses(name, at, "an instance without `virtual_ipaddress`");
        }
        if let Some(span) = raw.wire.unicast.filter(|_| !raw.wire.peers.is_empty()) {
            self.strict_refuses(name, span, "`unicast_peer`");
        }
        if let Some(given) = raw.wire.authentication.take_if(|it| it.value != Authentication::None)
        {
            self.strict_clears(name, given.span, "`authentication`", "adverts go without it");
        }
        if let Some((mode, span)) = raw.wire.hmac_mode()
            && mode != Mode::Enforce
        {
            self.strict_refuses(name, span, "`auth_hmac` in another mode than enforce");
        }
        if let Some(given) = raw.preempt_delay.take_if(|it| it.value != Duration::ZERO) {
            self.strict_clears(name, given.span, "`preempt_delay`", "it is 0");
        }
        if *state == InitialState::Master && !is_owner {
            *state = InitialState::Backup;
            self.strict_clears(name, at, "state MASTER below priority 255", "it starts as BACKUP");
        }
        if let Some(vip) = raw.vips.first()
            && matches!(vip.value.prefix.addr, IpAddr::V6(it) if !it.is_unicast_link_local())
        {
            self.strict_refuses(name, vip.span, "a first IPv6 VIP that is not link-local");
        }
        self.strict_host(known, raw, is_owner);
    }

    /// The words about the host.
    fn strict_host(&mut self, known: &Known<'_>, raw: &mut Raw, is_owner: bool) {
        let name = known.name.value.as_str();
        if let Some(span) = raw.host.own_mac() {
            self.strict_refuses(name, span, "a chosen MAC address of `use_vmac`");
        }
        if let Some(span) = raw.host.xmit_base {
            self.strict_refuses(name, span, "`vmac_xmit_base`");
        }
        if let Some(span) = raw.host.clear_lower_garp() {
            self.strict_clears(name, span, "`garp_lower_prio_*`", "none is sent");
        }
        if is_owner {
            return;
        }
        match &mut raw.host.accept {
            Some(given) if given.value && known.version == VrrpVersion::V2 => {
                given.value = false;
                let given = given.clone();
                let so = "packets to the VIPs are dropped on this host";
                self.strict_clears(name, given.span, "`accept` in version 2", so);
            }
            Some(_) => {}
            None => {
                raw.host.accept = Some(Spanned { value: false, span: known.name.span });
                self.notice(
                    known.name.span,
                    format!(
                        "vrrp_instance `{name}`: in strict mode the host itself does not answer \
                         for its VIPs"
                    ),
                    "they answer with `accept` (version 3) or priority 255; what a virtual_server \
                     forwards is not concerned",
                );
            }
        }
    }

    fn strict_clears(&mut self, name: &str, at: Span, what: &str, so: &str) {
        let message = format!("vrrp_instance `{name}`: strict mode has no {what}");
        self.warn(at, message, &format!("{so}; take out vrrp_strict or strict_mode to have it"));
    }

    fn strict_refuses(&mut self, name: &str, at: Span, what: &str) {
        let message = format!("vrrp_instance `{name}`: strict mode does not go with {what}");
        let diagnostic = self
            .diagnostic(Severity::Error, at, message)
            .help("take out vrrp_strict or strict_mode, or this");
        self.sink.push(diagnostic);
    }
}
