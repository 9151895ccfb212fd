//! The operator's tool: asks a running lbd through its control socket.

use std::{
    fs::File,
    io::{BufReader, Write as _},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use clap::{CommandFactory as _, Parser, Subcommand};
use lb_userspace::{
    api::{
        SOCKET_NAME,
        client::{self, AskError},
        render,
    },
    base::{
        filter::{End, FlowFilter},
        net::VirtualServerKey,
        query::{Query, Reply},
    },
    config::{docs, migrate, print},
    dataplane::FLOWS_LIMIT,
    process::{
        cli, completions,
        config_file::{self, Reading},
        replay::{self, Transition},
        top,
    },
};

/// lbd said no, or something failed.
const EXIT_ERROR: u8 = 1;
/// lbd is not running.
const EXIT_NOT_RUNNING: u8 = 3;
/// Longest `drain --within`: 31 days, as the longest `on_down drain`.
const WITHIN_LIMIT: i64 = 31 * 86_400;

/// Asks and steers a running lbd
#[derive(Debug, Parser)]
#[command(name = "lbctl", version, max_term_width = 100)]
struct Args {
    #[command(subcommand)]
    command: Command,
    /// Control socket [default: /run/lbd/lbd.sock, or /run/lbd-NAME/lbd.sock]
    #[arg(long, global = true, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Name that lbd was started with (--instance)
    #[arg(long, global = true, value_name = "NAME", value_parser = cli::instance_name)]
    instance: Option<String>,
    /// Answer as JSON
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Who is master and why, servers and their health, processes
    Status,
    /// Rates now: connections, packets and bits a second of every virtual server and real server. Keys on
    /// a terminal: n a c p b sort, q quits
    Top {
        /// Seconds between two frames
        #[arg(long, short = 'i', default_value_t = 1.0, value_name = "SECONDS", value_parser = interval)]
        interval: f64,
        /// So many frames, then the end [default: without end]
        #[arg(long, short = 'n', value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
        count: Option<u64>,
    },
    /// Connections in the flow table, all or those that every given option names. ENDs are ADDRESS,
    /// ADDRESS:PORT or NETWORK/PREFIX
    Flows {
        /// Of these clients
        #[arg(long, value_name = "END")]
        client: Option<End>,
        /// To these VIPs
        #[arg(long, value_name = "END")]
        vip: Option<End>,
        /// At these real servers
        #[arg(long, value_name = "END")]
        real_server: Option<End>,
        /// In this state
        #[arg(long, value_parser = ["embryo", "established", "closing", "stale"])]
        state: Option<String>,
        /// Without a packet for so many seconds, or longer
        #[arg(long, value_name = "SECONDS", default_value_t = 0)]
        idle: u32,
        /// At most so many, up to 65536
        #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(..=65_536))]
        limit: u32,
    },
    /// No new connections for a real server; established ones stay, or for a time. `lbctl status`
    /// counts what remains
    Drain {
        /// ADDRESS:PORT
        real_server: SocketAddr,
        /// Reset what remains after so many seconds
        #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(..=WITHIN_LIMIT))]
        within: Option<u32>,
        /// Only in this virtual server, as in tcp/192.0.2.10:3306 [default: in all]
        #[arg(long, value_name = "VS")]
        virtual_server: Option<VirtualServerKey>,
    },
    /// Undoes drain
    Enable {
        /// ADDRESS:PORT
        real_server: SocketAddr,
        /// Only in this virtual server [default: in all]
        #[arg(long, value_name = "VS")]
        virtual_server: Option<VirtualServerKey>,
    },
    /// Read the configuration again, as SIGHUP does, wait until it is in force, and say what that
    /// changed. Exit code 1: refused, what was in force stays
    Reload {
        /// Change nothing: say what a reload would add, change and remove, and what that interrupts. The data
        /// plane is not asked: a reload can be refused for what only it knows (an interface that does not
        /// carry the program)
        #[arg(long)]
        plan: bool,
    },
    /// The configuration in force, every word with its value and where it comes from; passwords are
    /// hidden
    Config,
    /// What becomes of a keepalived.conf under lbd, word by word; needs no running lbd. Exit code 0:
    /// every word works, 1: some are ignored, 2: some are refused
    Migrate {
        file: PathBuf,
        /// Whose @ID lines of the file count [default: the host name up to its first dot]
        #[arg(short = 'i', long, value_name = "ID")]
        config_id: Option<String>,
    },
    /// What a word of the configuration means, why a vrrp_instance is (not) master, where a
    /// connection goes (CLIENT:PORT VIP:PORT), or what a virtual server stands for
    Explain {
        #[arg(required = true)]
        what: Vec<String>,
    },
    /// State transitions of a recording of the vrrp or checker process (lbd --record FILE writes
    /// FILE.vrrp and FILE.checker); needs no running lbd. With --json one object a line
    Replay { file: PathBuf },
    /// Completions for a shell, those of `explain` included; lbd has --completions
    Completions { shell: clap_complete::Shell },
}

fn main() -> ExitCode {
    let args = Args::parse();
    match &args.command {
        Command::Replay { file } => return replay_file(file, args.json),
        Command::Migrate { file, config_id } => {
            return migrate_file(file, config_id.clone(), args.json);
        }
        _ => {}
    }
    if let Command::Completions { shell } = &args.command {
        let command = completions::with_keywords(Args::command(), "explain", "what");
        completions::print(command, *shell);
        return ExitCode::SUCCESS;
    }
    let socket = args
        .socket
        .clone()
        .unwrap_or_else(|| cli::run_dir(args.instance.as_deref(), None).join(SOCKET_NAME));
    if let Command::Top { interval, count } = args.command {
        let interval = Duration::from_secs_f64(interval);
        return top_of(&socket, top::Options { interval, count, json: args.json });
    }
    // Words of the configuration are known without a running lbd.
    if let Command::Explain { what } = &args.command
        && let [word] = &what[..]
        && let reply @ Reply::Text(_) = explain_word(word)
    {
        return show(&reply, args.json);
    }
    let word = match &args.command {
        Command::Explain { what } if what.len() == 1 => what.first().cloned(),
        _ => None,
    };
    let flows_limit = match &args.command {
        Command::Flows { limit, .. } => Some((*limit as usize).min(FLOWS_LIMIT)),
        _ => None,
    };
    let query = match args.command {
        Command::Status => Query::Status,
        Command::Flows { client, vip, real_server, state, idle, limit } => {
            let idle_ms = u64::from(idle) * 1000;
            Query::Flows { limit, filter: FlowFilter { client, vip, real_server, state, idle_ms } }
        }
        Command::Drain { real_server, virtual_server, within } => Query::Drain {
            virtual_server,
            real_server,
            within_ms: within.map(|seconds| u64::from(seconds) * 1000),
        },
        Command::Enable { real_server, virtual_server } => {
            Query::Enable { virtual_server, real_server }
        }
        Command::Reload { plan: false } => Query::Reload,
        Command::Reload { plan: true } => Query::Plan,
        Command::Config => Query::Config { from: 0 },
        Command::Explain { what } => Query::Explain { what: what.join(" ") },
        // Done above: they ask no daemon, or more than once.
        Command::Replay { .. }
        | Command::Migrate { .. }
        | Command::Completions { .. }
        | Command::Top { .. } => return ExitCode::SUCCESS,
    };
    let answer = match query {
        Query::Config { .. } => client::config(&socket),
        query => client::ask(&socket, &query),
    };
    match answer {
        Ok(reply) => {
            if let (Reply::Flows(flows), Some(limit)) = (&reply, flows_limit)
                && flows.len() >= limit
            {
                eprintln!(
                    "lbctl: the first {limit} connections; `lbctl status` counts all, --limit takes \
                     {FLOWS_LIMIT} at most"
                );
            }
            show(&reply, args.json)
        }
        Err(AskError::NotRunning { .. }) if word.is_some() => {
            show(&explain_word(word.as_deref().unwrap_or_default()), args.json)
        }
        Err(error) => {
            fail(&error.to_string(), args.json);
            ExitCode::from(match error {
                AskError::NotRunning { .. } => EXIT_NOT_RUNNING,
                _ => EXIT_ERROR,
            })
        }
    }
}

/// Seconds between two frames of `top`.
fn interval(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(seconds) if (0.1..=3600.0).contains(&seconds) => Ok(seconds),
        _ => Err("seconds from 0.1 to 3600".to_owned()),
    }
}

fn top_of(socket: &Path, options: top::Options) -> ExitCode {
    let Err(error) = top::run(socket, options) else { return ExitCode::SUCCESS };
    fail(&error.to_string(), options.json);
    ExitCode::from(match error {
        top::Error::Ask(AskError::NotRunning { .. }) => EXIT_NOT_RUNNING,
        _ => EXIT_ERROR,
    })
}

fn replay_file(path: &Path, json: bool) -> ExitCode {
    let mut out = std::io::stdout().lock();
    let mut tell = |transition: Transition| {
        // A closed pipe (`| head`) is no failure.
        let _ = if json {
            serde_json::to_string(&transition).map(|line| writeln!(out, "{line}")).map(drop)
        } else {
            let Transition { t, object, state, detail } = transition;
            let seconds = t as f64 / 1e9;
            let _ = writeln!(out, "{seconds:>14.6} {object} {state} {detail}");
            Ok(())
        };
    };
    let result = File::open(path)
        .map_err(replay::Error::from)
        .and_then(|file| replay::replay(BufReader::new(file), &mut tell));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            fail(&format!("{}: {error}", path.display()), json);
            ExitCode::from(EXIT_ERROR)
        }
    }
}

fn migrate_file(path: &Path, id: Option<String>, json: bool) -> ExitCode {
    let reading = Reading { id, ..Reading::default() };
    // As lbd does: `${_PWD}` is the directory of the file, and not `.`.
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let report = migrate::report(&config_file::load_with(&path, &reading).outcome);
    let text = match serde_json::to_string_pretty(&report) {
        Ok(text) if json => text + "\n",
        _ => report.render(),
    };
    // A closed pipe (`| head`) is no failure.
    let _ = std::io::stdout().write_all(text.as_bytes());
    ExitCode::from(report.exit_code())
}

fn explain_word(word: &str) -> Reply {
    match docs::explain(word) {
        Ok(text) => Reply::Text(text),
        Err(Some(near)) => Reply::Error(format!(
            "`{word}` is no word of the configuration; the nearest is `{near}`"
        )),
        Err(None) => Reply::Error(format!("`{word}` is no word of the configuration")),
    }
}

/// Prints an answer; a closed pipe (`lbctl status | head`) is no failure.
fn show(reply: &Reply, json: bool) -> ExitCode {
    if let Reply::Error(why) = reply {
        fail(why, json);
        return ExitCode::from(EXIT_ERROR);
    }
    let text = if json { as_json(reply) } else { as_text(reply) };
    let _ = std::io::stdout().write_all(text.as_bytes());
    ExitCode::SUCCESS
}

fn fail(why: &str, json: bool) {
    if json {
        let _ = writeln!(std::io::stdout(), "{}", serde_json::json!({ "error": why }));
    } else {
        let _ = writeln!(std::io::stderr(), "lbctl: {why}");
    }
}

fn as_text(reply: &Reply) -> String {
    match reply {
        Reply::Status(status) => render::status(status),
        Reply::Flows(flows) => render::flows(flows),
        Reply::Text(text) | Reply::Done(text) => format!("{}\n", text.trim_end()),
        Reply::Plan { done, plan } => format!("{done}\n{plan}"),
        Reply::Config { statements, .. } => print::annotated(statements),
        // Not answers to anything lbctl asks.
        other => as_json(other),
    }
}

/// The bare value, without the envelope of the protocol.
fn as_json(reply: &Reply) -> String {
    let value = match reply {
        Reply::Status(status) => serde_json::to_value(status),
        Reply::Flows(flows) => serde_json::to_value(flows),
        Reply::Text(text) => Ok(serde_json::json!({ "text": text })),
        Reply::Done(text) => Ok(serde_json::json!({ "done": text })),
        Reply::Plan { done, plan } => Ok(serde_json::json!({ "done": done, "plan": plan })),
        Reply::Config { statements, .. } => serde_json::to_value(statements),
        other => serde_json::to_value(other),
    };
    match value.and_then(|value| serde_json::to_string_pretty(&value)) {
        Ok(text) => text + "\n",
        Err(error) => format!("{}\n", serde_json::json!({ "error": error.to_string() })),
    }
}

#[cfg(test)]
mod tests {
    use clap::error::ErrorKind;
    use lb_userspace::process::{check_host, cli::Args as DaemonArgs};

    use super::*;

    /// What one of our programs says of a command line; `None`: it is another's.
    fn judged(words: &[&str]) -> Option<Result<(), clap::Error>> {
        match *words.first()? {
            "lbctl" => Some(Args::try_parse_from(words).map(drop)),
            "lbd" if words.get(1) == Some(&"check-host") => {
                Some(check_host::Args::try_parse_from(&words[1..]).map(drop))
            }
            "lbd" => {
                let words = cli::normalise(words.iter().map(std::ffi::OsString::from));
                Some(DaemonArgs::try_parse_from(words).map(drop))
            }
            _ => None,
        }
    }

    /// `lb2# lbctl status   # remark` is `lbctl status`.
    fn commands(line: &str) -> Vec<Vec<&str>> {
        let line = match line.split_once(['#', '$']) {
            Some((prompt, rest)) if !prompt.is_empty() && !prompt.contains(' ') => rest,
            _ => line,
        };
        let line = line.split_once(" #").map_or(line, |(command, _)| command);
        let parts = line.split([';', '|']).flat_map(|part| part.split("&&"));
        parts.map(|part| part.split_whitespace().collect()).collect()
    }

    #[test]
    fn commands_of_the_migration_guide_are_known() {
        let guide = include_str!("../../../docs/migration.md");
        let (mut told, mut wrong) = (0, Vec::new());
        for (at, text) in guide.split("```").enumerate() {
            let code = at % 2 == 1;
            let found: Vec<Vec<&str>> = match code {
                true => text.lines().flat_map(commands).collect(),
                false => {
                    let inline = text.split('`').skip(1).step_by(2);
                    inline.map(|it| it.split_whitespace().collect()).collect()
                }
            };
            for words in found {
                let Some(answer) = judged(&words) else { continue };
                told += 1;
                let Err(error) = answer else { continue };
                // In the text a command may be named without its arguments.
                if code || error.kind() != ErrorKind::MissingRequiredArgument {
                    wrong.push(format!("{words:?}: {error}"));
                }
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
        assert!(told >= 15, "{told}");
        assert!(judged(&["lbctl", "migrat", "x"]).is_some_and(|answer| answer.is_err()));
        assert!(judged(&["lbd", "--no-such-option"]).is_some_and(|answer| answer.is_err()));
    }
}
