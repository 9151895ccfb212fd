//! lbd's command line: keepalived's options where it has them, ours beside them.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use clap::{ArgAction, Parser, ValueEnum};

use super::ipc::{EngineChoice, Role};

/// `--engine`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Engine {
    Auto,
    Xdp,
    Ipvs,
}

impl From<Engine> for EngineChoice {
    fn from(engine: Engine) -> Self {
        match engine {
            Engine::Auto => Self::Auto,
            Engine::Xdp => Self::Xdp,
            Engine::Ipvs => Self::Ipvs,
        }
    }
}

/// `--format`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    Text,
    Json,
}

/// keepalived's job done with XDP, made for MySQL.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "lbd",
    version,
    disable_version_flag = true,
    max_term_width = 100,
    after_help = "`lbd check-host` says what this kernel and its interfaces can do, and what to change"
)]
pub struct Args {
    /// Configuration [default: /etc/lbd/lbd.conf, else /etc/keepalived/keepalived.conf]
    #[arg(short = 'f', long = "use-file", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Stay in the foreground and log to the console
    #[arg(short = 'n', long)]
    pub dont_fork: bool,
    /// Log to the console even where there is a journal
    #[arg(short = 'l', long)]
    pub log_console: bool,
    /// Log details
    #[arg(short = 'D', long)]
    pub log_detail: bool,
    /// Check the configuration and exit: 0 fine, 2 argument missing, 4 cannot run, 5 faults,
    /// 6 script security. FILE (written -tFILE) gets the findings instead of stderr
    #[arg(
        short = 't', long = "config-test", value_name = "FILE",
        num_args = 0..=1, require_equals = true
    )]
    pub config_test: Option<Option<PathBuf>>,
    /// How -t tells its findings: text for people, json (to stdout) for tools
    #[arg(long, value_enum, default_value = "text", requires = "config_test")]
    pub format: Format,
    /// Whose @ID lines of the configuration count [default: the host name up to its first dot]
    #[arg(short = 'i', long = "config-id", value_name = "ID")]
    pub config_id: Option<String>,
    /// Every include of the configuration must find its files
    #[arg(short = 'e', long = "all-config")]
    pub all_config: bool,
    /// VRRP only: no health checks, and no `track_mysql`
    #[arg(short = 'P', long = "vrrp", conflicts_with = "check")]
    pub vrrp: bool,
    /// Health checks and forwarding only, no VRRP
    #[arg(short = 'C', long = "check")]
    pub check: bool,
    /// A further pid file [always written: RUN_DIR/lbd.pid]
    #[arg(short = 'p', long = "pid", value_name = "FILE")]
    pub pid: Option<PathBuf>,
    /// What forwards packets
    #[arg(long, value_enum, default_value = "auto")]
    pub engine: Engine,
    /// Append what each role is fed to FILE.ROLE
    #[arg(long, value_name = "FILE")]
    pub record: Option<PathBuf>,
    /// Name of this lbd, when one host runs several
    #[arg(long, value_name = "NAME", value_parser = instance_name)]
    pub instance: Option<String>,
    /// Sockets and pid files [default: /run/lbd, or /run/lbd-NAME]
    #[arg(long, value_name = "DIR")]
    pub run_dir: Option<PathBuf>,
    /// Print the number of a signal (STOP, RELOAD, DATA, STATS, STATS_CLEAR, JSON) and exit
    #[arg(long, value_name = "NAME")]
    pub signum: Option<String>,
    /// Print completions for a shell and exit
    #[arg(long, value_name = "SHELL")]
    pub completions: Option<clap_complete::Shell>,
    /// Print the version
    #[arg(short = 'v', long, action = ArgAction::Version)]
    version: Option<bool>,
    #[arg(long, hide = true)]
    pub background: bool,

    // keepalived's further options: taken, so that its start scripts work, and reported.
    #[arg(short = 'd', long = "dump-conf", hide = true)]
    dump_conf: bool,
    #[arg(short = 'R', long = "dont-respawn", hide = true)]
    dont_respawn: bool,
    #[arg(short = 'V', long = "dont-release-vrrp", hide = true)]
    dont_release_vrrp: bool,
    #[arg(short = 'I', long = "dont-release-ipvs", hide = true)]
    dont_release_ipvs: bool,
    #[arg(short = 'X', long = "release-vips", hide = true)]
    release_vips: bool,
    #[arg(short = 'B', long = "no-bfd", hide = true)]
    no_bfd: bool,
    #[arg(long = "all", hide = true)]
    all: bool,
    #[arg(short = 'a', long = "address-monitoring", hide = true)]
    address_monitoring: bool,
    #[arg(short = 'm', long = "core-dump", hide = true)]
    core_dump: bool,
    #[arg(short = 'x', long = "snmp", hide = true)]
    snmp: bool,
    #[arg(short = 'G', long = "no-syslog", hide = true)]
    no_syslog: bool,
    #[arg(short = 'S', long = "log-facility", hide = true, value_name = "N")]
    log_facility: Option<String>,
    #[arg(short = 'g', long = "log-file", hide = true, value_name = "FILE")]
    log_file: Option<PathBuf>,
    #[arg(short = 'r', long = "vrrp_pid", hide = true, value_name = "FILE")]
    vrrp_pid: Option<PathBuf>,
    #[arg(short = 'c', long = "checkers_pid", hide = true, value_name = "FILE")]
    checkers_pid: Option<PathBuf>,
    #[arg(short = 'b', long = "bfd_pid", hide = true, value_name = "FILE")]
    bfd_pid: Option<PathBuf>,
    #[arg(short = 's', long = "namespace", hide = true, value_name = "NAME")]
    namespace: Option<String>,
    #[arg(short = 'u', long = "umask", hide = true, value_name = "MASK")]
    umask: Option<String>,
    #[arg(short = 'M', long = "core-dump-pattern", hide = true, value_name = "PATTERN")]
    core_dump_pattern: Option<String>,
    #[arg(short = 'A', long = "snmp-agent-socket", hide = true, value_name = "SOCKET")]
    snmp_agent_socket: Option<String>,
}

impl Args {
    /// keepalived's options on this command line that lbd takes without acting on them.
    pub fn ignored(&self) -> Vec<&'static str> {
        [
            (self.dump_conf, "-d/--dump-conf"),
            (self.dont_respawn, "-R/--dont-respawn"),
            (self.dont_release_vrrp, "-V/--dont-release-vrrp"),
            (self.dont_release_ipvs, "-I/--dont-release-ipvs"),
            (self.release_vips, "-X/--release-vips"),
            (self.address_monitoring, "-a/--address-monitoring"),
            (self.core_dump, "-m/--core-dump"),
            (self.snmp, "-x/--snmp"),
            (self.no_syslog, "-G/--no-syslog"),
            (self.log_facility.is_some(), "-S/--log-facility"),
            (self.log_file.is_some(), "-g/--log-file"),
            (self.vrrp_pid.is_some(), "-r/--vrrp_pid"),
            (self.checkers_pid.is_some(), "-c/--checkers_pid"),
            (self.bfd_pid.is_some(), "-b/--bfd_pid"),
            (self.namespace.is_some(), "-s/--namespace"),
            (self.umask.is_some(), "-u/--umask"),
            (self.core_dump_pattern.is_some(), "-M/--core-dump-pattern"),
            (self.snmp_agent_socket.is_some(), "-A/--snmp-agent-socket"),
        ]
        .into_iter()
        .filter_map(|(given, name)| given.then_some(name))
        .collect()
    }
}

/// The hidden command line `lbd role NAME`.
#[derive(Clone, Debug, Parser)]
#[command(name = "lbd role")]
pub struct RoleArgs {
    #[arg(value_parser = role)]
    pub role: Role,
    #[arg(long)]
    pub run_dir: PathBuf,
    #[arg(long)]
    pub log_console: bool,
    #[arg(long)]
    pub log_detail: bool,
    #[arg(long)]
    pub process_name: Option<String>,
}

fn role(name: &str) -> Result<Role, String> {
    [Role::Vrrp, Role::Checker, Role::Forwarder, Role::Api]
        .into_iter()
        .find(|role| role.name() == name)
        .ok_or_else(|| "no such role".to_owned())
}

/// Instance names become parts of file names.
pub fn instance_name(name: &str) -> Result<String, String> {
    let fits = (1..=32).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
    if fits { Ok(name.to_owned()) } else { Err("1 to 32 letters, digits, - and _".to_owned()) }
}

/// Directory of sockets and pid files.
pub fn run_dir(instance: Option<&str>, given: Option<PathBuf>) -> PathBuf {
    given.unwrap_or_else(|| match instance {
        None => PathBuf::from("/run/lbd"),
        Some(name) => PathBuf::from(format!("/run/lbd-{name}")),
    })
}

/// bpffs directory of the instance. Without a name the run directory tells instances apart, so
/// that two lbd with a `--run-dir` each never share pins. bpffs takes no dots in names.
pub fn pin_dir(instance: Option<&str>, run_dir: &Path) -> PathBuf {
    if let Some(name) = instance {
        return PathBuf::from(format!("/sys/fs/bpf/lbd-{name}"));
    }
    if run_dir == self::run_dir(None, None) {
        return PathBuf::from("/sys/fs/bpf/lbd");
    }
    let full = std::path::absolute(run_dir).unwrap_or_else(|_| run_dir.to_owned());
    let mut name = String::from("/sys/fs/bpf/lbd-at");
    for byte in full.as_os_str().as_encoded_bytes() {
        match byte {
            b'/' => name.push('-'),
            byte if byte.is_ascii_alphanumeric() => name.push(char::from(*byte)),
            // Reversible, so that two directories never get one name.
            byte => name.push_str(&format!("_{byte:02x}")),
        }
    }
    PathBuf::from(name)
}

/// getopt's `-tFILE` is clap's `--config-test=FILE`.
pub fn normalise(args: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    args.into_iter()
        .map(|arg| match arg.to_str().and_then(|text| text.strip_prefix("-t")) {
            Some(file) if !file.is_empty() => {
                OsString::from(format!("--config-test={}", file.trim_start_matches('=')))
            }
            _ => arg,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn parse(words: &[&str]) -> Args {
        let words = std::iter::once("lbd").chain(words.iter().copied()).map(OsString::from);
        Args::try_parse_from(normalise(words)).expect("parses")
    }

    #[test]
    fn definition_is_sound() {
        Args::command().debug_assert();
        RoleArgs::command().debug_assert();
    }

    #[test]
    fn keepaliveds_short_and_long_forms_are_the_same() {
        let short = parse(&["-nlD", "-P", "-f", "/a.conf", "-p", "/b.pid"]);
        let long = parse(&[
            "--dont-fork",
            "--log-console",
            "--log-detail",
            "--vrrp",
            "--use-file=/a.conf",
            "--pid=/b.pid",
        ]);
        assert_eq!(format!("{short:?}"), format!("{long:?}"));
        assert!(short.dont_fork && short.log_console && short.log_detail && short.vrrp);
        assert_eq!(short.config.as_deref(), Some(Path::new("/a.conf")));
        assert!(parse(&["-C"]).check && parse(&["--check"]).check);
    }

    #[test]
    fn config_test_takes_its_file_as_getopt_does() {
        assert_eq!(parse(&["-t"]).config_test, Some(None));
        assert_eq!(parse(&["-t", "-f", "x"]).config_test, Some(None));
        let file = Some(Some(PathBuf::from("/tmp/log")));
        assert_eq!(parse(&["-t/tmp/log"]).config_test, file);
        assert_eq!(parse(&["--config-test=/tmp/log"]).config_test, file);
        assert_eq!(parse(&[]).config_test, None);
        let json = parse(&["-t", "--format", "json", "-i", "main", "-e"]);
        assert_eq!((json.format, json.config_id.as_deref()), (Format::Json, Some("main")));
        assert!(json.all_config && json.ignored().is_empty());
    }

    #[test]
    fn engine_and_bad_words() {
        assert_eq!(parse(&[]).engine, Engine::Auto);
        assert_eq!(parse(&["--engine", "ipvs"]).engine, Engine::Ipvs);
        for bad in [&["--engine", "dpdk"][..], &["-P", "-C"], &["extra"], &["--instance", "a/b"]] {
            let words = std::iter::once("lbd").chain(bad.iter().copied());
            assert!(Args::try_parse_from(words).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn options_of_keepalived_that_do_nothing_are_listed() {
        let args = parse(&["-D", "-d", "-S", "0", "-x", "-r", "/run/k.pid"]);
        assert_eq!(
            args.ignored(),
            ["-d/--dump-conf", "-x/--snmp", "-S/--log-facility", "-r/--vrrp_pid"]
        );
    }

    #[test]
    fn instances_have_their_own_directories() {
        assert_eq!(run_dir(None, None), Path::new("/run/lbd"));
        assert_eq!(run_dir(Some("a"), None), Path::new("/run/lbd-a"));
        assert_eq!(run_dir(Some("a"), Some("/x".into())), Path::new("/x"));
        let (default, other) = (Path::new("/run/lbd"), Path::new("/tmp/a.b/x-y"));
        assert_eq!(pin_dir(None, default), Path::new("/sys/fs/bpf/lbd"));
        assert_eq!(pin_dir(Some("a"), other), Path::new("/sys/fs/bpf/lbd-a"));
        assert_eq!(pin_dir(None, other), Path::new("/sys/fs/bpf/lbd-at-tmp-a_2eb-x_2dy"));
    }

    #[test]
    fn role_command_line_is_what_the_spawner_writes() {
        let args = RoleArgs::try_parse_from([
            "role",
            "forwarder",
            "--run-dir",
            "/run/x",
            "--log-console",
            "--process-name",
            "keepalived",
        ])
        .expect("parses");
        assert_eq!(args.role, Role::Forwarder);
        assert_eq!(args.process_name.as_deref(), Some("keepalived"));
        assert!(RoleArgs::try_parse_from(["role", "bfd", "--run-dir", "/x"]).is_err());
    }
}
