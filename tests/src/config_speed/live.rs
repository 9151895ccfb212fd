//! A running lbd with many real servers, all of which are up, and an operator who adds one and takes it
//! away again: how long he waits, and that nothing else is touched.

use std::{
    collections::BTreeMap,
    net::{SocketAddr, TcpListener},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use lb_userspace::base::status::{Health, Status};
use serde::Serialize;

use super::{median, ms, one_more, written};
use crate::{
    single::{OTHER, Single, config, instance},
    wait::wait_until,
};

/// From the start until every real server has answered once; probes wait a part of delay_loop.
const UP_LIMIT: Duration = Duration::from_secs(120);

/// What an operator waited for.
#[derive(Clone, Debug, Serialize)]
pub struct Live {
    pub real_servers: usize,
    pub reloads: u32,
    /// `lbctl reload --plan` whole: the file is read, parsed, checked and compared. Median and
    /// greatest, milliseconds.
    pub plan_ms: f64,
    pub plan_max_ms: f64,
    /// `lbctl reload` whole, until every process has the new configuration.
    pub reload_ms: f64,
    pub reload_max_ms: f64,
}

/// Health, number of probes, and in the data plane generation and packets of each real server.
type Servers = BTreeMap<(String, SocketAddr), (Health, u64, Option<(u32, u64)>)>;

fn servers(status: &Status) -> Servers {
    let planes = status.forwarder.iter().flat_map(|it| &it.virtual_servers);
    let planes: BTreeMap<(String, SocketAddr), (u32, u64)> = planes
        .flat_map(|vs| vs.real_servers.iter().map(move |rs| (vs, rs)))
        .map(|(vs, rs)| ((vs.key.to_string(), rs.addr), (rs.generation, rs.packets)))
        .collect();
    let checked = status.servers.iter();
    checked
        .map(|it| {
            let key = (it.virtual_server.clone(), it.real_server);
            let probes = it.checkers.iter().map(|checker| checker.probes).sum();
            (key.clone(), (it.health, probes, planes.get(&key).copied()))
        })
        .collect()
}

/// Who is there in both was not touched: still up, not probed from zero, its flows not cut.
fn untouched(before: &Servers, after: &Servers) -> Result<usize> {
    let mut count = 0;
    for (key, (health, probes, plane)) in before {
        let Some((now, more, still)) = after.get(key) else { continue };
        ensure!(health == now && more >= probes, "{key:?}: {health:?} {probes}, {now:?} {more}");
        ensure!(plane.is_some(), "{key:?} is not in the data plane");
        let generation = |plane: &Option<(u32, u64)>| plane.map(|(generation, _)| generation);
        ensure!(generation(plane) == generation(still), "{key:?}: {plane:?} became {still:?}");
        count += 1;
    }
    Ok(count)
}

/// Adds a real server and takes it away again, `rounds` times.
///
/// # Errors
/// When lbd cannot be run (root, its object), a reload is refused, or touches anything else.
pub fn measure(real_servers: usize, rounds: u32) -> Result<Live> {
    let mut single = Single::new()?;
    let (netns, other) = (single.host.netns().clone(), single.other.clone());
    // One listener answers for every real server's address.
    other.ip(&["route", "add", "local", "10.64.0.0/10", "dev", "lo"])?;
    netns.ip(&["route", "add", "10.64.0.0/10", "via", &OTHER.to_string()])?;
    let _listener =
        other.enter(|| TcpListener::bind(("0.0.0.0", 3306)))?.context("cannot listen")?;
    let texts = [written(real_servers), one_more(real_servers)];
    let texts = texts.map(|text| {
        let blocks = text.split_once("virtual_server").map_or("", |(_, rest)| rest);
        config("0.2", "", "", &format!("virtual_server{blocks}"))
    });
    single.host.write_config(&texts[0])?;
    single.host.start()?;
    single.wait_master()?;
    let up = |status: &Status| {
        let all = servers(status);
        all.len() >= real_servers
            && all.values().all(|(health, _, plane)| *health == Health::Up && plane.is_some())
    };
    wait_until(
        "all real servers up",
        UP_LIMIT,
        || Ok(single.host.status().ok().filter(|status| up(status))),
        || {
            let status = single.host.status();
            let ups = status.as_ref().map(|status| {
                let all = servers(status);
                let up = all.values().filter(|(health, ..)| *health == Health::Up).count();
                format!("{up} of {} are up: {:?}", all.len(), all.iter().next())
            });
            format!("{ups:?}\n{}", single.host.log_tail(20))
        },
    )?;
    let (mut plans, mut reloads) = (Vec::new(), Vec::new());
    for round in 0..rounds.max(1) * 2 {
        let (text, sign) = match round % 2 {
            0 => (&texts[1], "+ real_server"),
            _ => (&texts[0], "- real_server"),
        };
        single.host.write_config(text)?;
        let before = single.host.status()?;
        for (words, times) in
            [(&["reload", "--plan"][..], &mut plans), (&["reload"][..], &mut reloads)]
        {
            let begin = Instant::now();
            let output = single.lbctl(words)?;
            times.push(ms(begin.elapsed()));
            ensure!(output.status.success(), "{words:?}: {output:?}");
            let said = String::from_utf8_lossy(&output.stdout);
            let steps: Vec<_> = said.lines().filter(|it| it.starts_with(['+', '-', '~'])).collect();
            let [step] = steps[..] else { bail!("{words:?} has not one step: {said}") };
            ensure!(step.starts_with(sign), "{words:?}: {step}");
        }
        let after = single.host.status()?;
        let same = untouched(&servers(&before), &servers(&after))?;
        ensure!(same >= real_servers, "only {same} real servers are in both");
        let counters = &instance(&after)?.counters;
        ensure!(
            (counters.become_master, counters.release_master) == (1, 0),
            "the VIP moved: {counters:?}"
        );
        ensure!(after.processes.iter().all(|it| it.restarts == 0), "{:?}", after.processes);
    }
    single.host.stop()?;
    let greatest = |times: &[f64]| times.iter().copied().fold(0.0, f64::max);
    Ok(Live {
        real_servers,
        reloads: rounds.max(1) * 2,
        plan_max_ms: greatest(&plans),
        plan_ms: median(&mut plans),
        reload_max_ms: greatest(&reloads),
        reload_ms: median(&mut reloads),
    })
}
