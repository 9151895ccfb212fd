//! Adverts wait for nobody who holds a lock of the kernel that everybody needs: rtnetlink's. Containers that come and
//! go by the hundred hold it for long.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow, ensure};
use lb_tests::{
    netns::{Namespace, ready_or_skip},
    vrrp::{RoleThread, Sniffer, cable, fast, is_vrrp},
    wait::wait_true,
};
use lb_userspace::config::model::VrrpInstance;

const LIMIT: Duration = Duration::from_secs(20);
/// Pairs of interfaces in one group; the kernel holds the lock while it takes them all away.
const CROWD: u32 = 1500;
/// Rounds until one is judged: a machine that does not run the role for a moment delays adverts, too.
const ROUNDS: u32 = 6;

/// Makes interfaces in a namespace of their own, and takes them away in one request.
fn crowd(netns: &Namespace) -> Result<()> {
    let lines = (0..CROWD)
        .map(|n| format!("link add d{n} group 77 type veth peer name e{n}\n"))
        .collect::<String>();
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), lines)?;
    netns.ip(&["-batch", &file.path().to_string_lossy()]).map(drop)
}

/// The longest time that somebody in a third namespace waited for the lock while `busy` ran: a change of an address
/// needs it.
fn longest_wait(netns: &Namespace, over: &AtomicBool) -> Result<Duration> {
    let mut longest = Duration::ZERO;
    for turn in 0u32.. {
        let since = Instant::now();
        let verb = if turn % 2 == 0 { "add" } else { "del" };
        netns.ip(&["address", verb, "192.0.2.1/32", "dev", "lo"])?;
        longest = longest.max(since.elapsed());
        if over.load(Ordering::Relaxed) {
            if turn % 2 == 0 {
                netns.ip(&["address", "del", "192.0.2.1/32", "dev", "lo"])?;
            }
            break;
        }
    }
    Ok(longest)
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn adverts_do_not_wait_for_the_lock_of_rtnetlink() -> Result<()> {
    if !ready_or_skip("vrrp_locks")? {
        return Ok(());
    }
    let (lb, peer) = cable()?;
    let (others, third) = (Namespace::new("crowd")?, Namespace::new("third")?);
    let quick = VrrpInstance { advert_int: Duration::from_millis(10), ..fast(150, &[100]) };
    let role = RoleThread::start(&lb, quick)?;
    role.converge()?;
    wait_true("the VIP", LIMIT, || lb.has_address([10, 77, 0, 100]).unwrap_or(false))?;
    let mut rounds = vec![];
    for _ in 0..ROUNDS {
        crowd(&others)?;
        let over = AtomicBool::new(false);
        let sniffer = Sniffer::new(&peer)?;
        let (held, gaps) = thread::scope(|scope| -> Result<_> {
            let waiter = scope.spawn(|| longest_wait(&third, &over));
            let watcher = scope.spawn(|| -> Result<Vec<Duration>> {
                let (mut gaps, mut last) = (vec![], sniffer.next_sent(LIMIT, is_vrrp)?.0);
                while !over.load(Ordering::Relaxed) {
                    let (sent, _) = sniffer.next_sent(LIMIT, is_vrrp)?;
                    gaps.push(sent.saturating_sub(last));
                    last = sent;
                }
                Ok(gaps)
            });
            let done = others.ip(&["link", "del", "group", "77"]);
            over.store(true, Ordering::Relaxed);
            done?;
            let held = waiter.join().map_err(|_| anyhow!("the waiter panicked"))??;
            let gaps = watcher.join().map_err(|_| anyhow!("the watcher panicked"))??;
            Ok((held, gaps))
        })?;
        let longest = gaps.iter().max().copied().unwrap_or_default();
        println!(
            "the lock was held for {held:?}; of {} gaps the longest is {longest:?}",
            gaps.len()
        );
        rounds.push((held, longest));
        // Ten intervals, and what waits for it would be silent for as long.
        if held > Duration::from_millis(100) && longest < held / 3 {
            role.finish()?;
            return Ok(());
        }
    }
    ensure!(
        rounds.iter().any(|(held, _)| *held > Duration::from_millis(100)),
        "nobody held the lock for long: {rounds:?}"
    );
    Err(anyhow!("adverts waited for the lock (held, longest gap): {rounds:?}"))
}
