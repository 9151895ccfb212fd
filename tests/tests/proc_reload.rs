//! Reloads that are refused: nothing of the running balancer changes, and everybody is told what
//! is wrong and where.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use lb_tests::{
    netns::thread_has_address,
    single::{self, Single, VIP, config, instance},
};
use nix::sys::signal::Signal;

/// Looks all the time whether the VIP is on the host.
struct Watch {
    over: Arc<AtomicBool>,
    absent: Arc<AtomicU64>,
    thread: Option<thread::JoinHandle<Result<u64>>>,
}

impl Watch {
    fn start(single: &Single) -> Self {
        let (over, absent) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let netns = single.host.netns().clone();
        let (stop, count) = (Arc::clone(&over), Arc::clone(&absent));
        let thread = thread::spawn(move || {
            netns.enter_thread()?;
            let mut looks = 0;
            while !stop.load(Ordering::Relaxed) {
                if !thread_has_address(VIP)? {
                    count.fetch_add(1, Ordering::Relaxed);
                }
                looks += 1;
                thread::sleep(Duration::from_millis(2));
            }
            Ok(looks)
        });
        Self { over, absent, thread: Some(thread) }
    }

    /// The VIP was there in every look.
    fn finish(mut self) -> Result<()> {
        self.over.store(true, Ordering::Relaxed);
        let looks = self.thread.take().and_then(|t| t.join().ok()).context("watcher died")??;
        let absent = self.absent.load(Ordering::Relaxed);
        ensure!(looks > 0 && absent == 0, "the VIP was absent in {absent} of {looks} looks");
        Ok(())
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join(); // its result was taken by `finish`, or the test failed already
        }
    }
}

/// A master under watch, and its file.
fn watched() -> Result<Option<(Single, Watch, String)>> {
    if !single::ready("proc_reload")? {
        return Ok(None);
    }
    let good = config("0.2", "", "", "");
    let single = Single::start(&good)?;
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
    // An instance on an interface that does not exist waits in FAULT; the other one is untouched.
    let absent = good.replace("VI_1", "VI_2").replace("eth0", "eth9").replace("_id 51", "_id 52");
    let absent = absent.replace(&VIP.to_string(), "10.79.0.101");
    let second = absent.get(absent.find("vrrp_instance").context("a block")?..).context("text")?;
    single.host.write_config(&format!("{good}\n{second}"))?;
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
