//! The harness itself: a cable carries, a cut one does not, servers replicate, guards clean up.

use std::{path::Path, time::Duration};

use anyhow::{Result, ensure};
use lb_tests::{
    mariadb::{self, MariaDb},
    netns::{Namespace, Switch, arping, ready_or_skip},
    process::alive,
    wait::{wait_for, wait_true},
};

#[test]
#[ignore = "needs root: cargo xtask test"]
fn cables_carry_and_guards_remove_everything() -> Result<()> {
    if !ready_or_skip("e2e_harness")? {
        return Ok(());
    }
    let (name, pid);
    {
        let switch = Switch::new("switch")?;
        let a = Namespace::new("a")?;
        let b = Namespace::new("b")?;
        switch.plug(&a, "eth0", Some("10.9.0.1/24"))?;
        let cable = switch.plug(&b, "eth0", Some("10.9.0.2/24"))?;
        ensure!(b.has_address([10, 9, 0, 2])?);
        ensure!(!b.has_address([10, 9, 0, 1])?);
        a.run("ping", &["-c1", "-W10", "10.9.0.2"])?;
        // arping waits for a second at most.
        let answers = wait_for("an answer to arping", Duration::from_secs(10), || {
            let answers = arping(&a, "eth0", [10, 9, 0, 2].into())?;
            Ok((!answers.is_empty()).then_some(answers))
        })?;
        ensure!(answers.len() == 1, "{answers:?}");
        cable.set_link(false)?;
        ensure!(a.run("ping", &["-c1", "-W1", "10.9.0.2"]).is_err());
        ensure!(arping(&a, "eth0", [10, 9, 0, 2].into())?.is_empty());
        cable.set_link(true)?;
        wait_true("the restored cable", Duration::from_secs(20), || {
            a.run("ping", &["-c1", "-W1", "10.9.0.2"]).is_ok()
        })?;
        let mut sleeper = b.command("sleep");
        sleeper.arg("1000");
        let sleeper = b.spawn("sleep", sleeper, None)?;
        pid = sleeper.pid();
        name = b.name().to_owned();
        ensure!(b.pids() == [pid], "the child is not inside: {:?}", b.pids());
    }
    ensure!(!alive(pid));
    ensure!(!Path::new("/run/netns").join(name).exists());
    Ok(())
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn servers_replicate_both_ways_and_survive_kill() -> Result<()> {
    if !ready_or_skip("e2e_harness")? {
        return Ok(());
    }
    let switch = Switch::new("switch")?;
    let (one, two) = (Namespace::new("db1")?, Namespace::new("db2")?);
    switch.plug(&one, "eth0", Some("10.9.0.1/24"))?;
    switch.plug(&two, "eth0", Some("10.9.0.2/24"))?;
    let mut db1 = MariaDb::start(&one, 1)?;
    let mut db2 = MariaDb::start(&two, 2)?;
    mariadb::dual_master((&db1, [10, 9, 0, 1].into()), (&db2, [10, 9, 0, 2].into()))?;
    db1.kill();
    ensure!(db1.sql("SELECT 1").is_err());
    db2.sql("INSERT INTO lab.notes (note) VALUES ('while db1 was away')")?;
    db1.run()?;
    mariadb::arrived(&db1, "while db1 was away")?;
    db2.stop()?;
    ensure!(!db2.running());
    mariadb::forget_template();
    Ok(())
}
