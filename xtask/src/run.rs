//! `cargo xtask run`: set-up, build, then the lab; or lbd on this very host.

use std::{
    convert::Infallible,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};
use clap::{Args, ValueEnum};

use crate::{
    build, setup,
    shell::{command, release, say, words},
};

/// What to run.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Forwarding method of the lab; local: the two-host classic without virtual_server.
    #[arg(long, value_enum, default_value_t = Mode::Dr, conflicts_with = "lbd")]
    mode: Mode,
    /// Scheduler of the lab's virtual server.
    #[arg(long, default_value = "wlc", conflicts_with = "lbd")]
    algo: String,
    /// Where lbd's program sits in the lab: what lbd chooses on veth (tc), or XDP.
    #[arg(long, value_enum, default_value_t = Hook::Auto, conflicts_with = "lbd")]
    hook: Hook,
    /// Run the script of events without a terminal; exit 0 only if every expectation held.
    #[arg(long, conflicts_with = "lbd")]
    once: bool,
    /// Write what the script found as JSON.
    #[arg(long, value_name = "FILE", requires = "once")]
    report: Option<PathBuf>,
    /// Run lbd on this host instead of the lab: `-- --config FILE [lbd's own options]`.
    #[arg(last = true, value_name = "LBD OPTIONS")]
    lbd: Vec<String>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Mode {
    Dr,
    Nat,
    Local,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Hook {
    Auto,
    Xdp,
}

impl Hook {
    fn word(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Xdp => "xdp",
        }
    }
}

impl Mode {
    fn word(self) -> &'static str {
        match self {
            Self::Dr => "dr",
            Self::Nat => "nat",
            Self::Local => "local",
        }
    }
}

/// Sets up, builds and becomes the lab, so that signals reach it and its exit code is ours.
///
/// # Errors
/// When set-up or build fails, or the program cannot be started.
pub fn run(arguments: &Arguments) -> Result<Infallible> {
    if !arguments.lbd.is_empty() {
        let here = std::env::current_dir().context("cannot tell the current directory")?;
        let lbd = on_this_host(&arguments.lbd, &here);
        // Nothing of the lab's: no database and no second balancer on somebody's host.
        setup::toolchain()?;
        build::run()?;
        return Err(become_it(lbd));
    }
    setup::run()?;
    build::run()?;
    Err(become_it(the_lab(arguments)?))
}

/// The lab with the user's words; its report is written in the user's directory.
fn the_lab(arguments: &Arguments) -> Result<Command> {
    let mut lab = command(release("lab"), &["--mode", arguments.mode.word()]);
    lab.args(["--algo", &arguments.algo, "--hook", arguments.hook.word()]);
    if arguments.once {
        lab.arg("--once");
    }
    if let Some(report) = &arguments.report {
        let report = std::path::absolute(report).context("cannot resolve the report's path")?;
        lab.arg("--report").arg(report);
    }
    Ok(lab)
}

/// lbd in the foreground with the user's options, in the user's directory `here`. `--config` is our
/// word for lbd's `-f`.
fn on_this_host(options: &[String], here: &Path) -> Command {
    let mut lbd = command(release("lbd"), &["-n", "-l", "-D"]);
    lbd.current_dir(here);
    for option in options {
        match option.strip_prefix("--config") {
            Some("") => lbd.arg("-f"),
            Some(rest) if rest.starts_with('=') => lbd.args(["-f", &rest[1..]]),
            _ => lbd.arg(option),
        };
    }
    lbd
}

/// Replaces this process; returns only if that fails.
fn become_it(mut program: Command) -> anyhow::Error {
    say(&format!("   $ {}", words(&program)));
    let err = program.exec();
    anyhow::Error::new(err).context(format!("cannot start `{}`", words(&program)))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        arguments: Arguments,
    }

    #[test]
    fn the_users_words_reach_the_lab() {
        let args = |line: &str| -> Vec<String> {
            let line = Line::try_parse_from(line.split(' ')).expect(line);
            let lab = the_lab(&line.arguments).expect("a command");
            lab.get_args().map(|word| word.to_string_lossy().into_owned()).collect()
        };
        for (line, wanted) in [
            ("run", "--mode dr --algo wlc --hook auto"),
            ("run --mode nat", "--mode nat --algo wlc --hook auto"),
            ("run --mode local --once", "--mode local --algo wlc --hook auto --once"),
            ("run --algo mh --hook xdp --once", "--mode dr --algo mh --hook xdp --once"),
        ] {
            assert_eq!(args(line).join(" "), wanted, "{line}");
        }
        let args = args("run --once --report r.json");
        let here = std::env::current_dir().expect("a directory").join("r.json");
        assert_eq!(args[6..], ["--once", "--report", &here.to_string_lossy()]);
        // Words that would be lost are refused.
        for line in [
            "run --report r.json",
            "run --once -- --config f",
            "run --mode nat -- --config f",
            "run --algo mh -- --config f",
            "run --hook xdp -- --config f",
            "run --mode tun",
        ] {
            assert!(Line::try_parse_from(line.split(' ')).is_err(), "{line}");
        }
    }

    #[test]
    fn the_users_words_reach_lbd_in_the_users_directory() {
        let options = ["--config", "a.conf", "--config=b.conf", "--config-test", "-P"];
        let lbd = on_this_host(&options.map(str::to_owned), Path::new("/home"));
        let args: Vec<_> = lbd.get_args().map(|word| word.to_string_lossy()).collect();
        let wanted = ["-n", "-l", "-D", "-f", "a.conf", "-f", "b.conf", "--config-test", "-P"];
        assert_eq!(args, wanted);
        assert_eq!(lbd.get_current_dir(), Some(Path::new("/home")));
    }
}
