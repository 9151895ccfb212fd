//! `vrrp_instance` and `vrrp_sync_group`.

use super::{
    super::model::{
        Authentication, Election, InitialState, NotifyWords, SyncGroup, TrackInterface, TrackLists,
        TrackScript, VrrpInstance, VrrpVersion,
    },
    Item, Lines, global, host, quote,
};
use crate::vrrp::{
    auth::hmac::{Hmac, Key, Mode},
    wire::{OldUnicastChecksum, Options},
};

/// `vrrp_instance NAME { … }`.
pub fn instance(instance: &VrrpInstance) -> Item {
    let VrrpInstance {
        name,
        state,
        interface,
        vrid,
        priority,
        version,
        advert_int,
        authentication,
        nopreempt,
        preempt_delay,
        election,
        timer_expired_backup,
        source,
        unicast_peers,
        wire,
        virtual_ipaddress,
        track_scripts,
        track_more,
        track_interfaces,
        dont_track_primary,
        garp,
        on_host,
        notify,
    } = instance;
    let mut out = Lines::default();
    let state = match state {
        InitialState::Master => "MASTER",
        InitialState::Backup => "BACKUP",
    };
    out.value("state", state);
    out.value("interface", interface);
    out.value("virtual_router_id", vrid);
    out.value("priority", priority);
    out.value("version", global::version(*version));
    out.time("advert_int", *advert_int);
    self::authentication(&mut out, authentication);
    out.flag("nopreempt", *nopreempt);
    out.time("preempt_delay", *preempt_delay);
    self::election(&mut out, election, *version);
    out.maybe("timer_expired_backup", timer_expired_backup.as_ref());
    let unicast = !unicast_peers.is_empty();
    out.maybe(if unicast { "unicast_src_ip" } else { "mcast_src_ip" }, source.as_ref());
    self::wire(&mut out, instance, wire);
    if virtual_ipaddress.is_empty() {
        out.flag("no_virtual_ipaddress", true);
    }
    out.list("virtual_ipaddress", virtual_ipaddress.iter().map(host::address));
    tracked(&mut out, track_scripts, track_interfaces, track_more);
    out.flag("dont_track_primary", *dont_track_primary);
    host::garp(&mut out, "", garp);
    host::on_host(&mut out, on_host);
    self::notify(&mut out, notify);
    Item::new("vrrp_instance").word(name).opens(out.0)
}

/// `vrrp_sync_group NAME { … }`.
pub fn group(group: &SyncGroup) -> Item {
    let SyncGroup {
        name,
        members,
        track_scripts,
        track_interfaces,
        track_more,
        tracking_weight,
        notify,
    } = group;
    let mut out = Lines::default();
    out.list("group", members.iter().map(Item::entry));
    out.flag("sync_group_tracking_weight", *tracking_weight);
    tracked(&mut out, track_scripts, track_interfaces, track_more);
    self::notify(&mut out, notify);
    Item::new("vrrp_sync_group").word(name).opens(out.0)
}

fn authentication(out: &mut Lines, authentication: &Authentication) {
    let (kind, pass) = match authentication {
        Authentication::None => return,
        Authentication::Pass(pass) => ("PASS", *pass),
        Authentication::Ah(pass) => ("AH", *pass),
    };
    let mut block = Lines::default();
    block.value("auth_type", kind);
    block.put(Item::new("auth_pass").secret(quote::pass(pass)));
    out.put(Item::new("authentication").opens(block.0));
}

fn election(out: &mut Lines, election: &Election, version: VrrpVersion) {
    let Election {
        down_timer_adverts,
        lower_prio_no_advert,
        higher_prio_send_advert,
        owner_ignore_adverts,
        told_handover,
        strict,
    } = election;
    out.value("down_timer_adverts", down_timer_adverts);
    out.switch("lower_prio_no_advert", *lower_prio_no_advert);
    out.switch("higher_prio_send_advert", *higher_prio_send_advert);
    out.switch("owner_ignore_adverts", *owner_ignore_adverts);
    if version == VrrpVersion::V3 {
        out.switch("told_handover", *told_handover);
    }
    out.switch("strict_mode", *strict);
}

fn wire(out: &mut Lines, instance: &VrrpInstance, options: &Options) {
    let Options {
        ipv6,
        group,
        peer_ttl,
        unicast_ttl,
        check_source,
        fault_without_peers,
        checksum_as_v2,
        old_unicast_checksum,
        same_addresses,
        hmac,
    } = options;
    // Without a VIP the words alone tell the family.
    out.flag("native_ipv6", *ipv6 && instance.virtual_ipaddress.is_empty());
    out.maybe("mcast_dst_ip", group.as_ref());
    out.list(
        "unicast_peer",
        instance.unicast_peers.iter().map(|peer| match peer_ttl.get(peer) {
            Some(ttl) => Item::entry(peer).pair("min_ttl", ttl.start()).pair("max_ttl", ttl.end()),
            None => Item::entry(peer),
        }),
    );
    out.maybe("unicast_ttl", unicast_ttl.as_ref());
    out.flag("check_unicast_src", *check_source);
    out.flag("unicast_fault_no_peer", *fault_without_peers);
    out.switch("v3_checksum_as_v2", *checksum_as_v2);
    match old_unicast_checksum {
        OldUnicastChecksum::Detect => {}
        OldUnicastChecksum::Always => out.flag("old_unicast_checksum", true),
        OldUnicastChecksum::Never => out.value("old_unicast_checksum", "never"),
    }
    out.flag("check_adv_addr", *same_addresses);
    if let Some(hmac) = hmac {
        self::hmac(out, hmac);
    }
}

fn hmac(out: &mut Lines, hmac: &Hmac) {
    let Hmac { keys, active, window, mode } = hmac;
    let mut block = Lines::default();
    for Key { id, secret } in keys {
        let item = Item::new("key").word(id);
        block.put(global::secret(item, secret));
    }
    block.value("active_key", active);
    match window {
        Some(window) => {
            block.value("anti_replay", "time");
            block.value("time_window", window);
        }
        None => block.value("anti_replay", "monotonic"),
    }
    let mode = match mode {
        Mode::Enforce => "enforce",
        Mode::Permissive => "permissive",
        Mode::ReceiveOnly => "receive-only",
    };
    block.value("mode", mode);
    out.put(Item::new("auth_hmac").opens(block.0));
}

fn tracked(
    out: &mut Lines,
    scripts: &[TrackScript],
    interfaces: &[TrackInterface],
    more: &TrackLists,
) {
    let object = |track: &TrackScript| {
        let TrackScript { name, weight, reverse } = track;
        let item = Item::entry(name).maybe("weight", weight.as_ref());
        match reverse {
            Some(true) => item.word("reverse"),
            Some(false) => item.word("noreverse"),
            None => item,
        }
    };
    let interface = |track: &TrackInterface| {
        let TrackInterface { name, weight, reverse } = track;
        Item::entry(name).pair("weight", weight).flag("reverse", *reverse)
    };
    let TrackLists { processes, files, mysql } = more;
    out.list("track_script", scripts.iter().map(object));
    out.list("track_interface", interfaces.iter().map(interface));
    out.list("track_process", processes.iter().map(object));
    out.list("track_file", files.iter().map(object));
    out.list("track_mysql", mysql.iter().map(object));
}

fn notify(out: &mut Lines, words: &NotifyWords) {
    let NotifyWords {
        master,
        backup,
        fault,
        stop,
        tells_deleted,
        deleted,
        master_rx_lower_pri,
        any,
        priority_changes,
        mail,
        // `no_email_faults` of global_defs.
        mail_faults: _,
    } = words;
    out.command("notify_master", master.as_ref());
    out.command("notify_backup", backup.as_ref());
    out.command("notify_fault", fault.as_ref());
    out.command("notify_stop", stop.as_ref());
    match deleted {
        Some(_) => out.command("notify_deleted", deleted.as_ref()),
        None => out.flag("notify_deleted", *tells_deleted),
    }
    out.command("notify_master_rx_lower_pri", master_rx_lower_pri.as_ref());
    out.command("notify", any.as_ref());
    out.switch("notify_priority_changes", *priority_changes);
    out.switch("smtp_alert", *mail);
}
