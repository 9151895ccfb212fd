//! `cargo xtask run` ends here: builds the lab, then shows it or runs the script of events.

mod live;

use std::{
    io::Write as _,
    path::PathBuf,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use anyhow::{Result, bail};
use clap::{Parser, ValueEnum};
use lb_tests::{
    host::Program,
    lab::{Hook, Lab, Mode, Spec},
    looks, mariadb, netns,
    sampler::Sampler,
    script,
    traffic::Traffic,
};

/// A lab in network namespaces: client, two lbd hosts, real MariaDB servers behind one VIP.
#[derive(Debug, Parser)]
struct Arguments {
    /// Forwarding method; local is the classic dual-master pair without virtual_server.
    #[arg(long, value_enum, default_value_t = ModeWord::Dr)]
    mode: ModeWord,
    /// Scheduler of the virtual server.
    #[arg(long, default_value = "wlc")]
    algo: String,
    /// Where lbd's program sits: what lbd chooses on veth (tc), or XDP, with the offloads that it needs there.
    #[arg(long, value_enum, default_value_t = HookWord::Auto)]
    hook: HookWord,
    /// Run the script of events without a terminal, then exit.
    #[arg(long)]
    once: bool,
    /// Of the script, only the events whose name has this in it.
    #[arg(long, value_name = "WORD", requires = "once")]
    only: Option<String>,
    /// Allow no longer gap between new connections, in any event.
    #[arg(long, value_name = "MS", requires = "once")]
    gap_limit: Option<u64>,
    /// Write what the script found as JSON.
    #[arg(long, value_name = "FILE", requires = "once")]
    report: Option<PathBuf>,
    /// Balance with real keepalived instead (local mode only), for comparison.
    #[arg(long)]
    keepalived: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ModeWord {
    Dr,
    Nat,
    Local,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum HookWord {
    Auto,
    Xdp,
}

fn main() -> ExitCode {
    let ended = run(&Arguments::parse());
    // However it ended, no server runs any more.
    mariadb::forget_template();
    match ended {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(err) => {
            let _ = writeln!(std::io::stderr(), "error: {err:#}");
            ExitCode::from(2)
        }
    }
}

/// True when every expectation held (or nothing was expected).
fn run(arguments: &Arguments) -> Result<bool> {
    netns::available().map_err(|why| anyhow::anyhow!("the lab needs root and iproute2: {why}"))?;
    mariadb::available().map_err(|why| anyhow::anyhow!(why))?;
    let mode = match arguments.mode {
        ModeWord::Dr => Mode::Dr,
        ModeWord::Nat => Mode::Nat,
        ModeWord::Local => Mode::Local,
    };
    let mut spec = Spec::new(mode);
    spec.scheduler.clone_from(&arguments.algo);
    spec.hook = match arguments.hook {
        HookWord::Auto => Hook::Auto,
        HookWord::Xdp => Hook::Xdp,
    };
    if arguments.keepalived {
        if mode != Mode::Local {
            bail!("keepalived balances in local mode only: this kernel has no IPVS");
        }
        spec.programs = [Program::Keepalived; 2];
    }
    let interrupted = on_interrupt()?;
    say(&format!(
        "building the lab ({}, hook {}): namespaces, MariaDB servers, replication …",
        mode.name(),
        spec.hook.name()
    ));
    let mut lab = Lab::build(spec)?;
    for setting in lab.settings() {
        say(&format!("  {setting}"));
    }
    say(&format!("  files and logs: {}", lab.dir().display()));
    lab.start_hosts()?;
    let sampler = Sampler::start(looks::of(&lab.hosts)?)?;
    let traffic = Traffic::start(&lab.client, lab.load())?;
    let passed = if arguments.once {
        let report = script::run(
            &mut lab,
            &traffic,
            &sampler,
            &|| interrupted.load(Ordering::Relaxed),
            script::Part { only: arguments.only.as_deref(), gap_ms: arguments.gap_limit },
            &mut |lines| say(lines),
        );
        if let Some(path) = &arguments.report {
            script::write(&report, path)?;
            say(&format!("report: {}", path.display()));
        }
        let failed = report.events.iter().filter(|event| !event.problems.is_empty()).count();
        say(&format!("{} events, {failed} not as expected", report.events.len()));
        if let Some(error) = report.error {
            bail!(error);
        }
        report.passed
    } else {
        live::run(&mut lab, &traffic, &sampler, &interrupted)?;
        true
    };
    Ok(passed)
}

/// INT and TERM ask for an orderly end, so that the lab cleans up.
fn on_interrupt() -> Result<Arc<AtomicBool>> {
    let flag = Arc::new(AtomicBool::new(false));
    let theirs = Arc::clone(&flag);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::spawn(move || {
        runtime.block_on(async {
            use tokio::signal::unix::{SignalKind, signal};
            let (Ok(mut int), Ok(mut term)) =
                (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
            else {
                return;
            };
            tokio::select! { _ = int.recv() => {}, _ = term.recv() => {} }
            theirs.store(true, Ordering::Relaxed);
            // A second one ends it at once; the next run reaps what is left.
            tokio::select! { _ = int.recv() => {}, _ = term.recv() => {} }
            std::process::exit(130);
        });
    });
    Ok(flag)
}

/// Prints, and does not mind a closed pipe.
fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{}", text.trim_end());
    let _ = out.flush();
}
