//! One lbd host on one cable, for suites about the daemon itself: starting, stopping, reloading,
//! scripts, what an operator reads. The other end of the cable is a host without lbd.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, TcpListener, TcpStream},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use lb_userspace::base::status::{InstanceStatus, Status, VrrpState};
use tempfile::TempDir;

use crate::{
    host::{self, Host, Program, bin_dir},
    netns::{self, Namespace, Switch},
    process::output,
    wait::wait_until,
};

/// The virtual address.
pub const VIP: Ipv4Addr = Ipv4Addr::new(10, 79, 0, 100);
/// lbd's host.
pub const OWN: Ipv4Addr = Ipv4Addr::new(10, 79, 0, 1);
/// The other end: real server or peer.
pub const OTHER: Ipv4Addr = Ipv4Addr::new(10, 79, 0, 2);
/// An address nobody has.
pub const NOBODY: Ipv4Addr = Ipv4Addr::new(10, 79, 0, 77);

/// How long a busy machine may take for anything, the usual elections included: no promise of the product's.
pub const LIMIT: Duration = Duration::from_secs(30);

/// False, after saying why, when a suite cannot run here.
///
/// # Errors
/// Instead of false under `LB_NO_SKIP=1` or `CI=true`.
pub fn ready(suite: &str) -> Result<bool> {
    let why = match (netns::available(), host::available(Program::Lbd)) {
        (Ok(()), Ok(())) => return Ok(true),
        (Err(why), _) | (_, Err(why)) => why,
    };
    let is = |name: &str, wanted: &str| std::env::var(name).is_ok_and(|value| value == wanted);
    if is("LB_NO_SKIP", "1") || is("CI", "true") {
        bail!("{suite} cannot run: {why}");
    }
    eprintln!("SKIPPED {suite}: {why}");
    Ok(false)
}

/// The wiring and the host.
#[derive(Debug)]
pub struct Single {
    pub host: Host,
    pub other: Namespace,
    switch: Switch,
    dir: TempDir,
}

impl Single {
    /// Wires both hosts; nothing runs yet.
    ///
    /// # Errors
    /// When the namespaces cannot be made.
    pub fn new() -> Result<Self> {
        let dir = tempfile::tempdir().context("cannot make a scratch directory")?;
        // Scripts of other users are below.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755))?;
        let switch = Switch::new("switch")?;
        let (lb, other) = (Namespace::new("lb")?, Namespace::new("other")?);
        switch.plug(&lb, "eth0", Some(&format!("{OWN}/24")))?;
        switch.plug(&other, "eth0", Some(&format!("{OTHER}/24")))?;
        let host = Host::new(&lb, Program::Lbd, dir.path())?;
        Ok(Self { host, other, switch, dir })
    }

    /// A further host on the same switch, such as a client.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn plug(&self, role: &str, address: &str) -> Result<Namespace> {
        let netns = Namespace::new(role)?;
        self.switch.plug(&netns, "eth0", Some(address))?;
        Ok(netns)
    }

    /// With `config` written and lbd started.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(config: &str) -> Result<Self> {
        let mut single = Self::new()?;
        single.host.write_config(config)?;
        single.host.start()?;
        Ok(single)
    }

    /// Scratch space, readable by everybody.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Writes an executable file below [`Single::dir`].
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn script(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.dir().join(name);
        let written = self.dir().join(format!("{name}.text"));
        fs::write(&written, text).with_context(|| format!("cannot write {}", written.display()))?;
        install(&written, &path)?;
        Ok(path)
    }

    /// lbd with these arguments in the host's namespace, to its end.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn lbd(&self, args: &[&str]) -> Result<Output> {
        // timeout(1): a start that should be refused and is not must fail, not hang the suite.
        let mut command = self.host.netns().command("timeout");
        command.args(["-k", "2", "60"]).arg(bin_dir().join("lbd"));
        command.args(args).stdin(std::process::Stdio::null());
        command.output().context("cannot start lbd")
    }

    /// `lbctl ARGS` and how it ended, whatever that is.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn lbctl(&self, args: &[&str]) -> Result<Output> {
        let mut command = Command::new(bin_dir().join("lbctl"));
        command.args(args).arg("--socket").arg(self.host.socket());
        command.output().context("cannot start lbctl")
    }

    /// Waits until the status is as wanted, and returns it.
    ///
    /// # Errors
    /// After [`LIMIT`]; the message has the last status and the log.
    pub fn wait_status(&self, what: &str, wanted: impl Fn(&Status) -> bool) -> Result<Status> {
        wait_until(
            what,
            LIMIT,
            || Ok(self.host.status().ok().filter(|status| wanted(status))),
            || format!("{:#?}\n{}", self.host.status(), self.host.log_tail(40)),
        )
    }

    /// Waits until the log contains `text`.
    ///
    /// # Errors
    /// After [`LIMIT`].
    pub fn wait_log(&self, text: &str) -> Result<()> {
        wait_until(
            &format!("`{text}` in the log"),
            LIMIT,
            || Ok(self.log().contains(text).then_some(())),
            || self.host.log_tail(60),
        )
    }

    /// The whole log.
    pub fn log(&self) -> String {
        fs::read_to_string(self.host.log()).unwrap_or_default()
    }

    /// Waits until the host is master of VI_1 and holds the VIP.
    ///
    /// # Errors
    /// After [`LIMIT`].
    pub fn wait_master(&self) -> Result<()> {
        self.host.wait_state(VrrpState::Master, VIP, LIMIT)
    }

    /// Waits until each instance has sent one more advert: a vrrp process that is killed now has its whole lease to
    /// come back in.
    ///
    /// # Errors
    /// After [`LIMIT`].
    pub fn wait_advert(&self) -> Result<()> {
        let sent = |status: &Status| -> Vec<u64> {
            status.vrrp.iter().map(|it| it.counters.advert_sent).collect()
        };
        let before = sent(&self.wait_status("an instance", |status| !status.vrrp.is_empty())?);
        self.wait_status("the next adverts", |status| {
            let now = sent(status);
            now.len() == before.len() && now.iter().zip(&before).all(|(now, then)| now > then)
        })
        .map(drop)
    }

    /// GET `path` from an address of the host, from within; the body.
    ///
    /// # Errors
    /// When nobody answers 200.
    pub fn http(&self, addr: &str, path: &str) -> Result<String> {
        self.host.netns().enter(|| {
            let mut stream = TcpStream::connect(addr).with_context(|| format!("connect {addr}"))?;
            stream.set_read_timeout(Some(LIMIT))?;
            write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
            let mut text = String::new();
            stream.read_to_string(&mut text)?;
            let (head, body) = text.split_once("\r\n\r\n").context("no header")?;
            ensure!(head.starts_with("HTTP/1.1 200"), "{head}");
            Ok(body.to_owned())
        })?
    }

    /// A listener in the other host. Connections are taken by the kernel and never answered.
    ///
    /// # Errors
    /// When the port is taken.
    pub fn listen_on_other(&self, port: u16) -> Result<TcpListener> {
        self.other.enter(|| TcpListener::bind((OTHER, port)))?.context("cannot listen")
    }
}

/// An executable copy that can be executed at once. Another process makes it: a child that a thread beside this one
/// starts meanwhile would hold what we have open for writing until it is executed itself, and the kernel executes no
/// file that is being written (ETXTBSY).
///
/// # Errors
/// When it cannot be made.
pub fn install(from: &Path, to: &Path) -> Result<()> {
    let mut command = Command::new("install");
    command.args(["--mode", "0755"]).args([from, to]);
    output(command).map(drop)
}

/// What a status says about VI_1.
///
/// # Errors
/// When it has no vrrp_instance.
pub fn instance(status: &Status) -> Result<&InstanceStatus> {
    status.vrrp.first().context("no vrrp_instance in the status")
}

/// A configuration with one vrrp_instance, VI_1, which wins its election after
/// 3.6 × `advert_int` seconds. `global` and `instance` are further lines of their blocks, `rest`
/// further blocks.
pub fn config(advert_int: &str, global: &str, instance: &str, rest: &str) -> String {
    format!(
        "global_defs {{
    router_id LBD
    {global}
}}

{rest}

vrrp_instance VI_1 {{
    state BACKUP
    interface eth0
    version 3
    virtual_router_id 51
    priority 101
    advert_int {advert_int}
    {instance}
    virtual_ipaddress {{
        {VIP}/24
    }}
}}
"
    )
}

/// A virtual server on the VIP with one real server by DR for each of `pool`.
pub fn virtual_server(port: u16, scheduler: &str, pool: &[Ipv4Addr]) -> String {
    let servers: String = pool
        .iter()
        .map(|addr| {
            format!(
                "    real_server {addr} {port} {{
        weight 1
        TCP_CHECK {{
            connect_timeout 1
        }}
    }}
"
            )
        })
        .collect();
    format!(
        "virtual_server {VIP} {port} {{
    delay_loop 1
    lb_algo {scheduler}
    lb_kind DR
    protocol TCP
{servers}}}
"
    )
}
