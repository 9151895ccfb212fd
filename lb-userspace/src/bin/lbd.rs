//! The daemon: `lbd` is the watchdog, `lbd role NAME` one of its roles; `lbd check-host` looks at the host.

use std::{
    ffi::OsString,
    fs,
    io::Write as _,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context as _;
use clap::{CommandFactory as _, Parser as _};
use lb_userspace::config::{model::Config, print::Original, report};
use lb_userspace::process::{
    api, check_host, checker, child,
    cli::{self, Args, Format, RoleArgs},
    completions,
    config_file::{self, Reading},
    daemon, dumps, forwarder,
    ipc::{Role, Runtime},
    logging::{self, Logging},
    pidfile::{LockError, PidFile},
    privileges, vrrp,
    watchdog::{self, children::Spawner},
};

/// keepalived's exit codes (reference/keepalived.md §1).
const EXIT_FATAL: u8 = 1;
const EXIT_NO_PERMISSION: u8 = 4;

/// keepalived's name, under which scripts in the wild look for it.
const KEEPALIVED: &str = "keepalived";

fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().collect();
    if args.get(1).is_some_and(|word| word == "role") {
        return role(RoleArgs::parse_from(&args[1..]));
    }
    if args.get(1).is_some_and(|word| word == "check-host") {
        return check_host(&check_host::Args::parse_from(&args[1..]));
    }
    let args = cli::normalise(args);
    ExitCode::from(daemon_main(&args))
}

/// One of the roles.
fn role(args: RoleArgs) -> ExitCode {
    let bootstrap = child::Bootstrap {
        process_name: args.process_name,
        log: Logging { console: args.log_console, detail: args.log_detail },
        run_dir: args.run_dir,
    };
    match args.role {
        Role::Vrrp => child::run(Role::Vrrp, &bootstrap, vrrp::run),
        Role::Checker => child::run(Role::Checker, &bootstrap, checker::run),
        Role::Forwarder => child::run(Role::Forwarder, &bootstrap, forwarder::run),
        Role::Api => child::run(Role::Api, &bootstrap, api::run),
    }
}

/// What this host can do.
fn check_host(args: &check_host::Args) -> ExitCode {
    if let Some(text) = not_permitted() {
        eprintln!("{text}");
        return ExitCode::from(EXIT_NO_PERMISSION);
    }
    ExitCode::from(check_host::run(args))
}

fn not_permitted() -> Option<String> {
    let missing: Vec<String> = privileges::missing().iter().map(ToString::to_string).collect();
    (!missing.is_empty())
        .then(|| format!("lbd: not permitted: needs root or {}", missing.join(", ")))
}

/// The watchdog, from its arguments to its exit code.
fn daemon_main(words: &[OsString]) -> u8 {
    let args = Args::parse_from(words);
    if let Some(name) = &args.signum {
        return signum(name);
    }
    if let Some(shell) = args.completions {
        completions::print(Args::command(), shell);
        return 0;
    }
    let path = args.config.clone().unwrap_or_else(config_file::default_path);
    let path = std::path::absolute(&path).unwrap_or(path);
    let reading =
        Reading { id: args.config_id.clone(), strict: args.all_config, ..Reading::default() };
    if let Some(log) = &args.config_test {
        return config_test(&path, &reading, log.as_deref(), args.format);
    }
    let loaded = config_file::load_with(&path, &reading);
    let findings = loaded.outcome.render();
    let code = loaded.start_code();
    let reading = Reading { before: loaded.included(), ..reading };
    if !args.background {
        eprint!("{findings}");
    }
    let original = loaded.outcome.original;
    let Some(config) = loaded.outcome.config else {
        eprintln!("lbd: not started: the configuration cannot be run");
        return code;
    };
    if let Some(text) = not_permitted() {
        eprintln!("{text}");
        return EXIT_NO_PERMISSION;
    }
    if !args.dont_fork && !args.background {
        return daemon::into_background(words).unwrap_or_else(|error| {
            eprintln!("lbd: not started in the background: {error}");
            EXIT_FATAL
        });
    }
    match start(words, args, path, reading, (config, original)) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("lbd: {error:#}");
            EXIT_FATAL
        }
    }
}

fn start(
    words: &[OsString],
    args: Args,
    path: PathBuf,
    reading: Reading,
    (config, original): (Config, Option<Original>),
) -> anyhow::Result<u8> {
    let starter = if args.background {
        Some(daemon::Starter::take().context("background start")?)
    } else {
        None
    };
    let run_dir = cli::run_dir(args.instance.as_deref(), args.run_dir.clone());
    let run_dir = std::path::absolute(&run_dir).unwrap_or(run_dir);
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(&run_dir)
        .with_context(|| format!("run directory {}", run_dir.display()))?;
    let lock = match PidFile::acquire(&run_dir.join("lbd.pid")) {
        Err(LockError::Held { pid, .. }) => anyhow::bail!(
            "this instance is running already: pid {pid}, run directory {}; \
             another one on this host needs --instance NAME",
            run_dir.display()
        ),
        other => other?,
    };
    let log = Logging { console: args.dont_fork || args.log_console, detail: args.log_detail };
    logging::init(log);
    for option in args.ignored() {
        tracing::warn!(option, "keepalived's option has no effect");
    }
    let process_name = process_name(words.first(), config.global.process_name.as_deref());
    child::set_process_name(process_name.as_deref().unwrap_or(child::DEFAULT_NAME));
    let absolute = |path: PathBuf| std::path::absolute(&path).unwrap_or(path);
    let runtime = Runtime {
        pin_dir: cli::pin_dir(args.instance.as_deref(), &run_dir),
        instance: args.instance,
        run_dir: run_dir.clone(),
        config_file: path,
        engine: args.engine.into(),
        record: args.record.map(absolute),
        vrrp: !args.check,
        checker: !args.vrrp,
    };
    let spawner =
        Spawner { executable: PathBuf::from("/proc/self/exe"), process_name, log, run_dir };
    let pid_file = args.pid.map(absolute);
    std::env::set_current_dir("/").context("chdir /")?;
    privileges::limit_watchdog()?;
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        config = %runtime.config_file.display(),
        run_dir = %runtime.run_dir.display(),
        "lbd starts"
    );
    let tokio = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("tokio runtime")?;
    let start =
        watchdog::Start { runtime, reading, config, original, spawner, pid_file, lock, starter };
    let code = tokio.block_on(watchdog::run(start));
    // A reading of the configuration may hang in the file system for ever.
    tokio.shutdown_background();
    code
}

/// The name to show, when it is not simply lbd's: `process_name`, or keepalived's when lbd was
/// called by it.
fn process_name(called: Option<&OsString>, configured: Option<&str>) -> Option<String> {
    let called_keepalived =
        called.and_then(|word| Path::new(word).file_name()).is_some_and(|base| base == KEEPALIVED);
    configured.map(str::to_owned).or_else(|| called_keepalived.then(|| KEEPALIVED.to_owned()))
}

/// `--signum`, as scripts and exporters ask keepalived.
fn signum(name: &str) -> u8 {
    match dumps::SIGNALS.iter().find(|(known, _)| *known == name) {
        Some((_, number)) => {
            println!("{number}");
            0
        }
        None => {
            eprintln!("lbd: unknown signal {name}");
            EXIT_FATAL
        }
    }
}

/// `-t`: findings to stderr (as JSON: to stdout) or to a file; keepalived's exit code.
fn config_test(path: &Path, reading: &Reading, log: Option<&Path>, format: Format) -> u8 {
    let mut loaded = config_file::load_with(path, reading);
    loaded.check_host(|name| nix::net::if_::if_nametoindex(name).is_ok());
    loaded.check_script_security();
    let code = loaded.test_code();
    let findings = match format {
        Format::Text => loaded.outcome.render(),
        Format::Json => report::json(&loaded.outcome, &path.display().to_string(), code),
    };
    match (log, format) {
        (None, Format::Text) => eprint!("{findings}"),
        // A closed pipe (`| head`) is no failure.
        (None, Format::Json) => drop(std::io::stdout().write_all(findings.as_bytes())),
        (Some(file), _) => {
            if let Err(error) = fs::write(file, &findings) {
                eprintln!("lbd: {}: {error}", file.display());
                return EXIT_FATAL;
            }
        }
    }
    // The process ends here: the kernel takes all memory back at once, which is faster than freeing it statement
    // by statement.
    std::mem::forget(loaded);
    code
}
