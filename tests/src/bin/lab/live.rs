//! The live table and its keys; without a terminal, a list of commands to try.

use std::{
    io::{IsTerminal as _, Write as _},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use crossterm::{
    cursor,
    event::{self, Event, KeyCode, KeyModifiers},
    execute, queue, terminal,
};
use lb_tests::{
    host::{Program, bin_dir},
    lab::{Lab, Mode, VIP},
    mariadb::{APP_PASSWORD, APP_USER},
    sampler::Sampler,
    traffic::Traffic,
    verdict::judge,
};

const REFRESH: Duration = Duration::from_millis(500);
const RECENT: Duration = Duration::from_secs(10);

/// Shows the lab until `q` or an interrupt.
pub fn run(
    lab: &mut Lab,
    traffic: &Traffic,
    sampler: &Sampler,
    interrupted: &AtomicBool,
) -> Result<()> {
    let began = Instant::now();
    if !std::io::stdout().is_terminal() || !std::io::stdin().is_terminal() {
        super::say(&commands(lab));
        super::say("No terminal: the lab stays up until it is interrupted (Ctrl-C or TERM).");
        while !interrupted.load(Ordering::Relaxed) {
            thread::sleep(REFRESH);
            for line in table(lab, traffic, sampler, began).lines().take(1) {
                super::say(line);
            }
            thread::sleep(Duration::from_secs(5).saturating_sub(REFRESH));
        }
        return Ok(());
    }
    terminal::enable_raw_mode().context("cannot take the terminal")?;
    let shown = show(lab, traffic, sampler, interrupted, began);
    let _ = execute!(std::io::stdout(), terminal::LeaveAlternateScreen, cursor::Show);
    let _ = terminal::disable_raw_mode();
    shown
}

fn show(
    lab: &mut Lab,
    traffic: &Traffic,
    sampler: &Sampler,
    interrupted: &AtomicBool,
    began: Instant,
) -> Result<()> {
    let mut out = std::io::stdout();
    execute!(out, terminal::EnterAlternateScreen, cursor::Hide).context("cannot draw")?;
    let mut note = String::new();
    while !interrupted.load(Ordering::Relaxed) {
        queue!(out, cursor::MoveTo(0, 0), terminal::Clear(terminal::ClearType::All))
            .context("cannot draw")?;
        let text = format!("{}\n{}\n{note}\n", table(lab, traffic, sampler, began), keys(lab));
        write!(out, "{}", text.replace('\n', "\r\n")).context("cannot draw")?;
        out.flush().context("cannot draw")?;
        if !event::poll(REFRESH).context("cannot read keys")? {
            continue;
        }
        let Event::Key(key) = event::read().context("cannot read keys")? else { continue };
        let control = key.modifiers.contains(KeyModifiers::CONTROL);
        match key.code {
            KeyCode::Char('q') | KeyCode::Esc => return Ok(()),
            KeyCode::Char('c') if control => return Ok(()),
            KeyCode::Char('c') => {
                note = commands(lab);
            }
            KeyCode::Char(key) => {
                note = match press(lab, key) {
                    Ok(done) => done,
                    Err(err) => format!("{err:#}"),
                };
            }
            _ => {}
        }
    }
    Ok(())
}

fn keys(lab: &Lab) -> String {
    let (servers, cables) = match lab.servers.len() {
        2 => ("1-2", "5-6"),
        _ => ("1-3", "5-7"),
    };
    format!(
        "q quit · {servers} stop or start db · {cables} cut or mend db's cable · s stop or start lb1 · \
         S the same for lb2 · k kill -9 all of lb1 · K of lb2 · h HUP both · c commands to try"
    )
}

/// Does what a key stands for and says so.
fn press(lab: &mut Lab, key: char) -> Result<String> {
    match key {
        '1'..='3' => {
            let id = u32::from(key) - u32::from('0');
            let server = lab.server(id)?;
            if server.db.running() {
                server.db.stop()?;
                Ok(format!("db{id}: mysqld stopped"))
            } else {
                server.db.run()?;
                Ok(format!("db{id}: mysqld started"))
            }
        }
        '5'..='7' => {
            let id = u32::from(key) - u32::from('4');
            let server = lab.server(id)?;
            let up = server.db.netns().ip(&["-br", "link", "show", "eth0"])?.contains("LOWER_UP");
            server.cable.set_link(!up)?;
            Ok(format!("db{id}: cable {}", if up { "cut" } else { "mended" }))
        }
        's' | 'S' | 'k' | 'K' => {
            let number = usize::from(key.is_uppercase());
            let host = lab.hosts.get_mut(number).context("no such host")?;
            let name = host.name().to_owned();
            if !host.running() {
                host.start()?;
                Ok(format!("{name}: started"))
            } else if key.eq_ignore_ascii_case(&'s') {
                host.stop()?;
                Ok(format!("{name}: stopped"))
            } else {
                host.kill_all()?;
                Ok(format!("{name}: every process killed; its addresses are left behind"))
            }
        }
        'h' => {
            for host in &mut lab.hosts {
                host.signal_main(nix::sys::signal::Signal::SIGHUP)?;
            }
            Ok("both hosts were told to reload".to_owned())
        }
        _ => Ok(String::new()),
    }
}

/// What stands where now.
fn table(lab: &Lab, traffic: &Traffic, sampler: &Sampler, began: Instant) -> String {
    let now = Instant::now();
    // Before its first second is over, the traffic has not begun for every client.
    let recent = now.checked_sub(RECENT).unwrap_or(now);
    let since = recent.max(began + Duration::from_secs(1)).min(now);
    let seen = judge(&traffic.since(since), &[since], now);
    let forwards: Vec<_> = lab
        .hosts
        .iter()
        .enumerate()
        .filter(|(bit, _)| sampler.forwarders() >> bit & 1 == 1)
        .map(|(_, host)| host.name())
        .collect();
    let mut text = format!(
        "VIP {VIP}:3306 ({}) · forwards now: {} · sessions {} · last {} s: {} new connections, \
         {} failed, longest gap {} ms, slowest query {} ms\n\n",
        lab.spec.mode.name(),
        if forwards.is_empty() { "nobody".to_owned() } else { forwards.join(" and ") },
        traffic.sessions().len(),
        (now - since).as_secs(),
        seen.connects,
        seen.connect_errors,
        seen.longest_gap_ms,
        seen.slowest_query_ms,
    );
    for host in &lab.hosts {
        // In local mode it may have been its own check script that stopped it.
        if host.pids().is_empty() {
            let key = if host.name() == lab.hosts[0].name() { 's' } else { 'S' };
            text.push_str(&format!("{:4} not running (key {key} starts it)\n", host.name()));
        } else {
            text.push_str(&host_lines(host));
        }
    }
    text
}

fn host_lines(host: &lb_tests::host::Host) -> String {
    if host.program() == Program::Keepalived {
        let vip = matches!(host.has(VIP), Ok(true));
        return format!(
            "{:4} keepalived, {} the VIP\n",
            host.name(),
            if vip { "has" } else { "without" }
        );
    }
    let status = match host.status() {
        Ok(status) => status,
        Err(_) => return format!("{:4} does not answer\n", host.name()),
    };
    let mut text = String::new();
    for vrrp in &status.vrrp {
        let lease = match vrrp.lease_ms {
            None => "none".to_owned(),
            Some(ms) => format!("{ms} ms"),
        };
        text.push_str(&format!(
            "{:4} {} {} priority {} lease {lease} · {}\n",
            host.name(),
            vrrp.name,
            vrrp.state.name(),
            vrrp.effective_priority,
            vrrp.reason,
        ));
    }
    let Some(forwarder) = status.forwarder else { return text };
    let cost = forwarder.ns_per_packet.map_or(String::new(), |ns| format!(" · {ns} ns/packet"));
    text.push_str(&format!(
        "       engine {} · {} flows, {} embryos{cost}\n",
        forwarder.engine, forwarder.flows, forwarder.embryos
    ));
    for server in &forwarder.virtual_servers {
        text.push_str(&format!("       {} {}\n", server.key, server.scheduler));
        for real in &server.real_servers {
            let health = status
                .servers
                .iter()
                .find(|entry| entry.real_server == real.addr && entry.virtual_server == server.key)
                .map_or(String::new(), |entry| format!("{:?}", entry.health));
            // An operator's drain is not the checker's affair.
            let health = match &real.admin {
                Some(admin) => format!("{health}, {admin}"),
                None => health,
            };
            text.push_str(&format!(
                "         {:21} {} {:12} {:>5} active {:>8} connections {:>10} packets {}\n",
                real.addr.to_string(),
                real.method,
                health,
                real.active_connections,
                real.connections,
                real.packets,
                real.problem.as_deref().unwrap_or_default(),
            ));
        }
    }
    text
}

/// Commands to try in another terminal.
fn commands(lab: &Lab) -> String {
    let client = lab.client.path();
    let mut text = format!(
        "try, in another terminal:\n  nsenter --net={} mariadb -h {VIP} -u {APP_USER} \
         -p{APP_PASSWORD} -e 'SELECT @@server_id, CONNECTION_ID()'\n",
        client.display()
    );
    let lbctl = bin_dir().join("lbctl");
    let lbctl = lbctl.display();
    for host in &lab.hosts {
        if host.program() == Program::Lbd {
            text.push_str(&format!("  {lbctl} --socket {} status\n", host.socket().display()));
        }
        text.push_str(&format!(
            "  nsenter --net={} ip addr    # {}\n",
            host.netns().path().display(),
            host.name()
        ));
    }
    let first = &lab.hosts[0];
    if first.program() == Program::Lbd {
        let ask = format!("{lbctl} --socket {}", first.socket().display());
        if let Some(server) = lab.servers.first().filter(|_| lab.spec.mode != Mode::Local) {
            text.push_str(&format!(
                "  {ask} drain {}:3306    # and: enable {0}:3306; flows; explain tcp/{VIP}:3306\n",
                server.addr
            ));
        }
        text.push_str(&format!(
            "  {ask} reload --plan    # after a change of {}\n",
            first.config_file().display()
        ));
    }
    for server in &lab.servers {
        let id = server.db.server_id();
        text.push_str(&format!(
            "  kill $(cat {})    # stops db{id}\n",
            server.db.dir().join("pid").display()
        ));
    }
    if let Some(server) = lab.servers.first() {
        let id = server.db.server_id();
        text.push_str(&format!(
            "  {}    # cuts db{id}'s cable; up mends it\n",
            server.cable.cut_by()
        ));
    }
    if first.program() == Program::Lbd {
        let run = first.socket().with_file_name("*.pid");
        text.push_str(&format!(
            "  kill -9 $(cat {})    # kills {}: every process of lbd there\n",
            run.display(),
            first.name()
        ));
    }
    if lab.spec.mode != Mode::Local {
        text.push_str(&format!("  tail -f {}\n", lab.hosts[0].log().display()));
    }
    text
}
