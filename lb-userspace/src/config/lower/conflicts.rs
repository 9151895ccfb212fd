//! Words of one instance that cannot go together, or that do nothing without another.

use super::{Lower, vrrp::Raw};

impl Lower<'_> {
    pub(super) fn conflicts(&mut self, name: &str, raw: &Raw) {
        let host = &raw.host;
        let mut findings = Vec::new();
        let links = host.on_host.virtual_link.is_some()
            || host.on_host.vmac_addresses
            || raw.vips.iter().any(|vip| vip.value.options.use_vmac);
        if let Some(span) = host.xmit_base
            && host.on_host.virtual_link.is_none()
        {
            findings.push((
                span,
                "`vmac_xmit_base` without `use_vmac` or `use_ipvlan`",
                "adverts leave by the interface itself anyway",
            ));
        }
        // keepalived finds fault with either: with it `vrf` is for unicast without an `interface`.
        if let Some(span) = host.vrf {
            let finding = match links {
                true => (
                    "`vrf` beside `interface`, which keepalived leaves out",
                    "lbd puts the virtual interfaces into it: take the line out if that is not meant",
                ),
                false => (
                    "`vrf` without `use_vmac` or `use_ipvlan`",
                    "it is for virtual interfaces: put the interface itself into the VRF by `ip link`",
                ),
            };
            findings.push((span, finding.0, finding.1));
        }
        if let Some(span) = raw.wire.group_span().filter(|_| !raw.wire.peers.is_empty()) {
            findings.push((
                span,
                "`mcast_dst_ip` has no effect beside `unicast_peer`",
                "adverts go to the peers only",
            ));
        }
        if let Some((mcast, unicast)) = raw.wire.both_sources() {
            let finding = if raw.wire.peers.is_empty() {
                (
                    unicast,
                    "`unicast_src_ip` has no effect: there is no `unicast_peer`",
                    "the address of `mcast_src_ip` is used",
                )
            } else {
                (
                    mcast,
                    "`mcast_src_ip` has no effect beside `unicast_peer`",
                    "the address of `unicast_src_ip` is used",
                )
            };
            findings.push(finding);
        }
        if let Some(span) = raw.no_vips.filter(|_| !raw.vips.is_empty()) {
            findings.push((
                span,
                "`no_virtual_ipaddress` has no effect: there are VIPs",
                "they are held as if it were not there",
            ));
        }
        for (span, message, help) in findings {
            self.warn(span, format!("vrrp_instance `{name}`: {message}"), help);
        }
    }
}
