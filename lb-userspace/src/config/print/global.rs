//! `global_defs`.

use super::{
    super::model::{
        DumpFiles, Election, Fifo, FlowSync, Global, Hook, MailServer, Scheduling, SyncPeers,
        Timed, VrrpVersion, XdpMode,
    },
    Item, Lines, host,
};
use crate::vrrp::auth::hmac::Secret;

/// The block. `script_user` comes last: scripts before it have no other user than their own.
pub fn global(global: &Global) -> Item {
    let Global {
        router_id,
        notification_email,
        notification_email_from,
        smtp_server,
        smtp_helo_name,
        smtp_connect_timeout,
        smtp_alert,
        smtp_alert_vrrp,
        smtp_alert_checker,
        no_email_faults,
        notify_fifo,
        vrrp_notify_fifo,
        lvs_notify_fifo,
        vrrp_notify_priority_changes,
        fifo_write_vrrp_states_on_reload,
        startup_script,
        shutdown_script,
        dumps,
        notify_timeout,
        script_user,
        enable_script_security,
        vrrp_version,
        election,
        vrrp_startup_delay,
        vrrp_delay_after_boot,
        vrrp_process,
        mcast_group4,
        mcast_group6,
        check_unicast_src,
        v3_checksum_as_v2,
        process_name,
        garp,
        garp_interval,
        gna_interval,
        garp_extra,
        dynamic_interfaces,
        default_interface,
        vmac_prefix,
        vmac_addr_prefix,
        nftables_priority,
        nftables_counters,
        metrics_listen,
        flow_table_size,
        hook,
        xdp_mode,
        flow_sync,
    } = global;
    let mut out = Lines::default();
    out.maybe("router_id", router_id.as_ref());
    out.maybe("process_name", process_name.as_ref());
    out.list("notification_email", notification_email.iter().map(Item::entry));
    out.maybe("notification_email_from", notification_email_from.as_ref());
    if let Some(MailServer { host, port }) = smtp_server {
        out.put(Item::new("smtp_server").word(host).word(port));
    }
    out.maybe("smtp_helo_name", smtp_helo_name.as_ref());
    out.time("smtp_connect_timeout", *smtp_connect_timeout);
    out.maybe("smtp_alert", smtp_alert.as_ref());
    out.maybe("smtp_alert_vrrp", smtp_alert_vrrp.as_ref());
    out.maybe("smtp_alert_checker", smtp_alert_checker.as_ref());
    out.flag("no_email_faults", *no_email_faults);
    for (keyword, Fifo { path, script }) in [
        ("notify_fifo", notify_fifo),
        ("vrrp_notify_fifo", vrrp_notify_fifo),
        ("lvs_notify_fifo", lvs_notify_fifo),
    ] {
        if let Some((path, user)) = path {
            out.put(Item::new(keyword).word(path.display()).user(user.as_ref()));
        }
        out.command(&format!("{keyword}_script"), script.as_ref());
    }
    out.switch("vrrp_notify_priority_changes", *vrrp_notify_priority_changes);
    out.flag("fifo_write_vrrp_states_on_reload", *fifo_write_vrrp_states_on_reload);
    for (keyword, Timed { command, timeout }) in
        [("startup_script", startup_script), ("shutdown_script", shutdown_script)]
    {
        out.command(keyword, command.as_ref());
        out.time(&format!("{keyword}_timeout"), *timeout);
    }
    dump_files(&mut out, dumps);
    out.time("notify_timeout", *notify_timeout);
    out.flag("enable_script_security", *enable_script_security);
    out.value("vrrp_version", version(*vrrp_version));
    election_defaults(&mut out, election);
    out.time("vrrp_startup_delay", *vrrp_startup_delay);
    out.time("vrrp_delay_after_boot", *vrrp_delay_after_boot);
    scheduling(&mut out, vrrp_process);
    out.maybe("vrrp_mcast_group4", mcast_group4.as_ref());
    out.maybe("vrrp_mcast_group6", mcast_group6.as_ref());
    out.flag("vrrp_check_unicast_src", *check_unicast_src);
    out.switch("v3_checksum_as_v2", *v3_checksum_as_v2);
    host::garp(&mut out, "vrrp_", garp);
    out.time_unless_zero("vrrp_garp_interval", *garp_interval);
    out.time_unless_zero("vrrp_gna_interval", *gna_interval);
    out.put(host::garp_extra("vrrp_garp_extra_if", *garp_extra));
    out.flag("dynamic_interfaces", *dynamic_interfaces);
    out.maybe("default_interface", default_interface.as_ref());
    out.value("vmac_prefix", vmac_prefix);
    out.maybe("vmac_addr_prefix", vmac_addr_prefix.as_ref());
    out.value("nftables_priority", nftables_priority);
    out.flag("nftables_counters", *nftables_counters);
    out.maybe("metrics_listen", metrics_listen.as_ref());
    out.value("lvs_flow_table", flow_table_size);
    let hook = match hook {
        Hook::Auto => "auto",
        Hook::Xdp => "xdp",
        Hook::Tc => "tc",
    };
    out.value("lvs_hook", hook);
    let mode = match xdp_mode {
        XdpMode::Auto => "auto",
        XdpMode::Native => "native",
        XdpMode::Generic => "generic",
    };
    out.value("lvs_xdp_mode", mode);
    if let Some(sync) = flow_sync {
        out.put(self::flow_sync(sync));
    }
    if script_user.is_some() {
        out.put(Item::new("script_user").user(script_user.as_ref()));
    }
    Item::new("global_defs").opens(out.0)
}

fn flow_sync(sync: &FlowSync) -> Item {
    let FlowSync { key, peers, interface, source, port, timeout } = sync;
    let mut out = Lines::default();
    out.put(secret(Item::new("key"), key));
    match peers {
        SyncPeers::Hosts(peers) => {
            peers.iter().for_each(|peer| out.value("peer", peer));
        }
        SyncPeers::Group(group) => out.value("multicast", group),
    }
    out.maybe("interface", interface.as_ref());
    out.maybe("source", source.as_ref());
    out.value("port", port);
    out.time("timeout", *timeout);
    Item::new("flow_sync").opens(out.0)
}

/// A key as it is written.
pub(super) fn secret(item: Item, secret: &Secret) -> Item {
    match secret {
        Secret::Bytes(bytes) => {
            let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            item.secret(format!("hex:{digits}"))
        }
        Secret::File(path) => item.word(format!("file:{}", path.display())),
    }
}

fn dump_files(out: &mut Lines, dumps: &DumpFiles) {
    let DumpFiles { state, stats, json, json_version, use_instance } = dumps;
    out.maybe("state_dump_file", state.as_ref().map(|path| path.display()));
    out.maybe("stats_dump_file", stats.as_ref().map(|path| path.display()));
    out.maybe("json_dump_file", json.as_ref().map(|path| path.display()));
    out.value("json_version", json_version);
    out.switch("data_use_instance", *use_instance);
}

fn election_defaults(out: &mut Lines, election: &Election) {
    let Election {
        down_timer_adverts,
        lower_prio_no_advert,
        higher_prio_send_advert,
        owner_ignore_adverts,
        // No word of global_defs sets it.
        told_handover: _,
        strict,
    } = election;
    out.value("vrrp_down_timer_adverts", down_timer_adverts);
    out.switch("vrrp_lower_prio_no_advert", *lower_prio_no_advert);
    out.switch("vrrp_higher_prio_send_advert", *higher_prio_send_advert);
    out.switch("vrrp_owner_ignore_adverts", *owner_ignore_adverts);
    out.flag("vrrp_strict", *strict);
}

fn scheduling(out: &mut Lines, process: &Scheduling) {
    let Scheduling { nice, no_swap, rt_priority, cpu_affinity, rlimit_rttime_us } = process;
    out.maybe("vrrp_priority", nice.as_ref());
    out.flag("vrrp_no_swap", *no_swap);
    out.maybe("vrrp_rt_priority", rt_priority.as_ref());
    if !cpu_affinity.is_empty() {
        let item = Item::new("vrrp_cpu_affinity");
        out.put(cpu_affinity.iter().fold(item, |item, cpu| item.word(cpu)));
    }
    out.maybe("vrrp_rlimit_rttime", rlimit_rttime_us.as_ref());
}

pub(super) fn version(version: VrrpVersion) -> u8 {
    match version {
        VrrpVersion::V2 => 2,
        VrrpVersion::V3 => 3,
    }
}
