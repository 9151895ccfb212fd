//! Reloads: one that is refused changes nothing and says what is wrong and where. Those that are taken
//! are in proc_reload_touches.

use std::{fs, process::Output, thread};

use anyhow::{Context as _, Result, ensure};
use lb_tests::{
    single::{self, Single, VIP, config, instance},
    vip_watch::Watch,
};
use nix::sys::signal::Signal;

/// A master under watch, and its file.
fn watched() -> Result<Option<(Single, Watch, String)>> {
    if !single::ready("proc_reload")? {
        return Ok(None);
    }
    let good = config("0.2", "", "", "");
    let mut single = Single::new()?;
    // Files stand here as they are, some without their last brace: nothing is put behind them.
    single.host.leave_hook_to_lbd();
    single.host.write_config(&good)?;
    single.host.start()?;
    single.wait_master()?;
    let watch = Watch::start(&single);
    Ok(Some((single, watch, good)))
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn refused_reloads_change_nothing_and_say_where() -> Result<()> {
    let Some((mut single, watch, good)) = watched()? else { return Ok(()) };
    let path = single.host.config_file();
    let name = path.display().to_string();
    let twice = config("0.2", "", "", "").replace("VI_1", "VI_2");
    let bad: [(&str, String, &str); 6] = [
        ("a number that is none", good.replace("priority 101", "priority high"), ":13:14"),
        ("no virtual_router_id", good.replace("virtual_router_id 51", ""), "virtual_router_id"),
        ("the same VRID twice", format!("{good}\n{twice}"), "virtual_router_id"),
        ("an unclosed string", good.replace("router_id LBD", "router_id \"LBD"), ":2:"),
        ("an empty file", String::new(), "empty"),
        ("a binary file", "\u{7f}ELF\0\u{1}".to_owned(), "NUL"),
    ];
    let mut refused = 0;
    for (what, text, phrase) in &bad {
        fs::write(&path, text)?;
        let output = single.lbctl(&["reload"])?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.code() == Some(1), "{what}: {:?} {said}", output.status);
        ensure!(said.contains(phrase) && said.contains(&name), "{what}: {said}");
        ensure!(said.contains("generation 1 stays in force"), "{what}: {said}");
        refused += 1;
        let status = single.host.status()?;
        ensure!(status.config_generation == 1, "{what}");
        ensure!(status.reload_failures == refused, "{what}: {}", status.reload_failures);
        let error = status.last_reload_error.clone().context("the status has the error")?;
        ensure!(error.contains(phrase), "{what}: {error}");
        ensure!(!error.contains("notice:"), "{what}: only what is wrong: {error}");
        ensure!(single.log().contains(phrase), "{what} is not in the log");
        ensure!(status.processes.iter().all(|process| process.restarts == 0), "{what}");
        ensure!(instance(&status)?.counters.become_master == 1, "{what}");
    }
    // By SIGHUP, with files that are not there: nobody waits for an answer, status and log have it.
    fs::remove_file(&path)?;
    single.host.signal_main(Signal::SIGHUP)?;
    single.wait_status("the deleted file", |status| {
        status.last_reload_error.as_ref().is_some_and(|error| error.contains("does not exist"))
    })?;
    fs::create_dir(&path)?;
    single.host.signal_main(Signal::SIGHUP)?;
    single.wait_status("the directory", |status| {
        status.last_reload_error.as_ref().is_some_and(|error| error.contains("directory"))
    })?;
    let text = String::from_utf8(single.lbctl(&["status"])?.stdout)?;
    ensure!(text.contains("PROBLEM: the last reload was refused, generation 1"), "{text}");
    // Mended: everything is well again.
    fs::remove_dir(&path)?;
    fs::write(&path, good.replace("priority 101", "priority 102"))?;
    let output = single.lbctl(&["reload"])?;
    ensure!(output.status.success(), "{output:?}");
    let status = single.host.status()?;
    ensure!(status.config_generation == 2 && status.last_reload_error.is_none());
    ensure!(status.reload_failures == refused + 2);
    single.wait_status("the new priority", |status| {
        instance(status).is_ok_and(|vrrp| vrrp.base_priority == 102)
    })?;
    watch.finish()?;
    single.host.stop()
}

/// Included files, conditions and variables are read by the daemon as by `lbd -t`. keepalived goes on
/// without an included file that is gone, and releases what it held.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn an_included_file_that_is_gone_changes_nothing() -> Result<()> {
    let Some((mut single, watch, good)) = watched()? else { return Ok(()) };
    let path = single.host.config_file();
    let directory = path.parent().context("a directory")?;
    let (name, included) = ("election.inc", directory.join("election.inc"));
    fs::write(&included, "$PRIO=103\n@^nobody priority ${PRIO}\n@nobody priority 7\n")?;
    fs::write(&path, good.replace("priority 101", &format!("include {name}")))?;
    let output = single.lbctl(&["reload"])?;
    ensure!(output.status.success(), "{output:?}");
    single.wait_status("the included priority", |status| {
        instance(status).is_ok_and(|vrrp| vrrp.base_priority == 103)
    })?;
    fs::remove_file(&included)?;
    let output = single.lbctl(&["reload"])?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.code() == Some(1) && said.contains("generation 2 stays"), "{said}");
    ensure!(said.contains("is gone") && said.contains(":13:13"), "{said}");
    single.host.signal_main(Signal::SIGHUP)?;
    single.wait_status("the refusal of SIGHUP", |status| status.reload_failures == 2)?;
    // It is back, with another value: taken.
    fs::write(&included, "priority 104\n")?;
    let output = single.lbctl(&["reload"])?;
    ensure!(output.status.success(), "{output:?}");
    single.wait_status("the new priority", |status| {
        instance(status).is_ok_and(|vrrp| vrrp.base_priority == 104)
    })?;
    watch.finish()?;
    single.host.stop()
}

/// keepalived itself runs such files, so lbd does too, and says what it saw and where. A stray
/// brace after the last block is such a file; a missing interface may appear later.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn doubtful_reloads_run_and_are_reported() -> Result<()> {
    let Some((mut single, watch, good)) = watched()? else { return Ok(()) };
    let line = good.lines().count() + 1;
    single.host.write_config(&format!("{good}}}}}{{\n"))?;
    let output = single.lbctl(&["reload"])?;
    let log = single.log();
    let place = format!("{}:{line}:1", single.host.config_file().display());
    ensure!(log.contains(&place), "{place} is not in the log; {output:?}\n{log}");
    let status = single.host.status()?;
    ensure!(instance(&status)?.counters.become_master == 1);
    // An instance on an interface that does not exist: where that may be, it waits in FAULT, and the
    // other one is untouched.
    let absent = good.replace("VI_1", "VI_2").replace("eth0", "eth9").replace("_id 51", "_id 52");
    let absent = absent.replace(&VIP.to_string(), "10.79.0.101");
    let second = absent.get(absent.find("vrrp_instance").context("a block")?..).context("text")?;
    let both = format!("{good}\n{second}");
    single.host.write_config(&both)?;
    let output = single.lbctl(&["reload"])?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.code() == Some(1), "a typing error is refused: {output:?}");
    ensure!(said.contains("interface eth9 does not exist"), "{said}");
    let dynamic = both.replace("router_id LBD", "router_id LBD\n    dynamic_interfaces");
    single.host.write_config(&dynamic)?;
    let output = single.lbctl(&["reload"])?;
    ensure!(output.status.success(), "{output:?}");
    let status = single.wait_status("VI_2 in FAULT", |status| {
        status.vrrp.iter().any(|vrrp| vrrp.name == "VI_2" && vrrp.state.name() == "FAULT")
    })?;
    let second = status.vrrp.iter().find(|vrrp| vrrp.name == "VI_2").context("VI_2")?;
    ensure!(second.reason.contains("eth9"), "{}", second.reason);
    ensure!(instance(&status)?.counters.become_master == 1);
    watch.finish()?;
    single.host.stop()
}

/// What keepalived does not survive, or survives badly (reference/keepalived.md §1, observed with 2.2.7
/// and its master): lbd goes on in each case, the VIP stays, and where a fault is in the file it is
/// refused with its place.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn each_fault_of_keepaliveds_reload_leaves_lbd_running() -> Result<()> {
    let Some((mut single, watch, good)) = watched()? else { return Ok(()) };
    let swap = |from: &str, to: &str| -> Result<String> {
        ensure!(good.contains(from), "{from}");
        Ok(good.replacen(from, to, 1))
    };
    let global = |words: &str| swap("router_id LBD", &format!("router_id LBD\n    {words}"));
    let brace = good.trim_end().strip_suffix('}').context("a last brace")?.to_owned();
    // What keepalived does; the file, or `None`: deleted; what the answer says; whether it is taken.
    let rows: [(&str, Option<String>, &str, bool); 13] = [
        ("dies: unknown interface", Some(swap("interface eth0", "interface eht0")?), "eht0", false),
        (
            "dies: the VRID is gone",
            Some(swap("virtual_router_id 51", "")?),
            "virtual_router_id",
            false,
        ),
        (
            "dies: keyword without argument",
            Some(swap("priority 101", "priority")?),
            "priority",
            false,
        ),
        ("releases everything: empty", Some(String::new()), "empty", false),
        ("releases everything: deleted", None, "does not exist", false),
        (
            "takes it: unknown keyword",
            Some(swap("priority 101", "prioritty 7\n    priority 102")?),
            "",
            true,
        ),
        (
            "takes it: no last brace",
            Some(brace.replacen("priority 101", "priority 103", 1)),
            "",
            true,
        ),
        ("refuses it: other namespace", Some(format!("net_namespace other\n{good}")), "", true),
        ("refuses it: other instance", Some(format!("instance other\n{good}")), "", true),
        (
            "refuses it: other namespace of IPVS",
            Some(global("net_namespace_ipvs other")?),
            "",
            true,
        ),
        (
            "refuses it: other names in nftables",
            Some(global("nftables other\n    nftables_ipvs other_ipvs")?),
            "",
            true,
        ),
        (
            "refuses it: other directory of copies",
            Some(global("tmp_config_directory /run/other")?),
            "",
            true,
        ),
        ("refuses it: other way to join the group", Some(global("disable_local_igmp")?), "", true),
    ];
    let path = single.host.config_file();
    for (what, text, phrase, taken) in rows {
        match &text {
            Some(text) => single.host.write_config(text)?,
            None => fs::remove_file(&path)?,
        }
        let generation = single.host.status()?.config_generation;
        // The dry run says the same before, and changes nothing.
        for dry in [true, false] {
            let words: &[&str] = if dry { &["reload", "--plan"] } else { &["reload"] };
            let output = single.lbctl(words)?;
            ensure!(output.status.success() == taken, "{what} {words:?}: {output:?}");
            let said = String::from_utf8_lossy(&output.stderr);
            ensure!(said.contains(phrase), "{what} {words:?}: {said}");
            let status = single.host.status()?;
            ensure!(status.processes.iter().all(|it| it.restarts == 0), "{what}: {status:?}");
            ensure!(dry || taken || status.last_reload_error.is_some(), "{what}");
            if dry || !taken {
                ensure!(status.config_generation == generation, "{what} {words:?}");
            }
            let counters = &instance(&status)?.counters;
            ensure!((counters.become_master, counters.release_master) == (1, 0), "{what}");
            // Taken means in force, and not that nothing was found to do: a fault's neighbour counts.
            if taken && !dry {
                let text = text.as_deref().unwrap_or_default();
                let wanted = in_file(text, "priority").context(what)?;
                single.wait_status(what, |status| {
                    instance(status).is_ok_and(|it| it.base_priority == wanted)
                })?;
            }
        }
    }
    single.host.write_config(&good)?;
    ensure!(single.lbctl(&["reload"])?.status.success());
    watch.finish()?;
    single.host.stop()
}

/// The first number behind a word.
fn in_file(text: &str, word: &str) -> Option<u8> {
    let mut words = text.split_whitespace().skip_while(|it| *it != word);
    words.nth(1)?.parse().ok()
}

/// Reloads that come at once are one after the other: each is answered, the last file counts.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn reloads_that_come_at_once_are_all_answered_and_the_last_file_counts() -> Result<()> {
    let Some((mut single, watch, good)) = watched()? else { return Ok(()) };
    let (shared, asks) = (&single, 8);
    let answers = thread::scope(|scope| -> Result<Vec<Output>> {
        let mut waiting = Vec::new();
        for n in 0..asks {
            // As editors do it: a reload never sees half a file.
            let text = good.replace("priority 101", &format!("priority {}", 110 + n));
            let new = shared.dir().join("new.conf");
            fs::write(&new, text)?;
            fs::rename(&new, shared.host.config_file())?;
            waiting.push(scope.spawn(move || shared.lbctl(&["reload"])));
        }
        let ended = waiting.into_iter().map(|it| it.join().ok().context("an lbctl")?);
        ended.collect()
    })?;
    for output in &answers {
        ensure!(output.status.success(), "{output:?}");
    }
    single.wait_status("the last file", |status| {
        instance(status).is_ok_and(|it| it.base_priority == 110 + asks - 1)
    })?;
    let status = single.host.status()?;
    ensure!(instance(&status)?.counters.become_master == 1 && status.reload_failures == 0);
    watch.finish()?;
    single.host.stop()
}
