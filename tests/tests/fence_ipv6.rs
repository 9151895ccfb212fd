//! A host that held an IPv6 VIP, and whose lbd is killed or stopped, is silent before its heir takes
//! over: no answer to a neighbour solicitation for the VIP, no answer to packets that reach it by its
//! MAC address, although the VIP is still on its interface. Whole daemons, on the wire.

use std::{
    fs,
    io::ErrorKind,
    net::{Ipv6Addr, SocketAddr, TcpStream},
    os::unix::fs::PermissionsExt as _,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use lb_tests::{
    host::{Host, Program},
    looks,
    netns::{Namespace, Switch},
    sampler::Sampler,
    single,
    wait::wait_until,
};
use nix::sys::signal::Signal;
use tempfile::TempDir;

const VIP: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x77, 0, 0, 0, 0, 0x100);
/// Nobody listens: a host that gets the SYN refuses at once, which proves that it answers.
const PORT: u16 = 3306;
/// Start and election on a busy machine, at adverts every three seconds.
const ELECTION: Duration = Duration::from_secs(60);
/// How long a fenced host is given to answer: less than from the end of its lease to the takeover, which is so long
/// (1.9 s) that this test sees it even when the machine stops it for a moment.
const PROBE: Duration = Duration::from_millis(200);

struct Bed {
    hosts: Vec<Host>,
    macs: Vec<String>,
    /// Asks for the way to the VIP.
    client: Namespace,
    /// Knows the first host's MAC for good.
    stubborn: Namespace,
    _switch: Switch,
    _dir: TempDir,
}

fn speak_ipv6(netns: &Namespace, address: &str) -> Result<()> {
    netns.sysctl("net/ipv6/conf/all/disable_ipv6", "0")?;
    netns.sysctl("net/ipv6/conf/eth0/disable_ipv6", "0")?;
    netns.sysctl("net/ipv6/conf/eth0/accept_dad", "0")?;
    netns.ip(&["-6", "addr", "add", address, "dev", "eth0", "nodad"]).map(drop)
}

/// Which list the VIP stands in.
#[derive(Clone, Copy)]
enum List {
    Named,
    /// The adverts do not name it.
    Excluded,
}

fn bed(list: List) -> Result<Bed> {
    let between = match list {
        List::Named => "",
        List::Excluded => "}\n    virtual_ipaddress_excluded {",
    };
    let dir = tempfile::tempdir().context("cannot make a scratch directory")?;
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755))?;
    let switch = Switch::new("lan")?;
    let plug = |role: &str, number: u8| -> Result<Namespace> {
        let netns = Namespace::new(role)?;
        switch.plug(&netns, "eth0", Some(&format!("10.77.0.{number}/24")))?;
        speak_ipv6(&netns, &format!("2001:db8:77::{number}/64"))?;
        Ok(netns)
    };
    let (mut hosts, mut macs) = (Vec::new(), Vec::new());
    for (role, number, priority) in [("a", 1, 150), ("b", 2, 100)] {
        let netns = plug(role, number)?;
        let link = netns.ip(&["-br", "link", "show", "dev", "eth0"])?;
        macs.push(link.split_whitespace().nth(2).context("no MAC address")?.to_owned());
        let mut host = Host::new(&netns, Program::Lbd, dir.path())?;
        host.write_config(&format!(
            "vrrp_instance VI_6 {{
    state BACKUP
    interface eth0
    version 3
    virtual_router_id 66
    priority {priority}
    advert_int 3
    virtual_ipaddress {{
        fe80::77:100/64
    {between}
        {VIP}/64
    }}
}}
"
        ))?;
        host.start()?;
        hosts.push(host);
    }
    let (client, stubborn) = (plug("client", 3)?, plug("stubborn", 4)?);
    let vip = VIP.to_string();
    stubborn.ip(&[
        "-6",
        "neigh",
        "replace",
        &vip,
        "lladdr",
        &macs[0],
        "dev",
        "eth0",
        "nud",
        "permanent",
    ])?;
    Ok(Bed { hosts, macs, client, stubborn, _switch: switch, _dir: dir })
}

/// Whether a host refuses a connection to the VIP, and so has answered. A client that has to ask for
/// the way asks anew.
fn is_answered(from: &Namespace) -> Result<bool> {
    let target = SocketAddr::from((VIP, PORT));
    let outcome = from.enter(|| TcpStream::connect_timeout(&target, PROBE))?;
    Ok(outcome.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused))
}

/// Whether `host` has the VIP on its interface.
fn has_vip(host: &Host) -> Result<bool> {
    let vip = VIP.to_string();
    Ok(!host
        .netns()
        .ip(&["-6", "-o", "addr", "show", "dev", "eth0", "to", &vip])?
        .trim()
        .is_empty())
}

impl Bed {
    fn forget_way(&self) -> Result<()> {
        self.client.ip(&["-6", "neigh", "flush", "dev", "eth0"]).map(drop)
    }

    /// MAC address that the client has learned for the VIP.
    fn way(&self) -> Result<Option<String>> {
        let row = self.client.ip(&["-6", "neigh", "show", &VIP.to_string(), "dev", "eth0"])?;
        let mut words = row.split_whitespace().skip_while(|word| *word != "lladdr");
        Ok(words.nth(1).map(str::to_owned))
    }

    fn logs(&self) -> String {
        self.hosts.iter().map(|host| host.log_tail(20)).collect()
    }
}

fn fenced(list: List, silence: impl FnOnce(&mut Host) -> Result<()>) -> Result<()> {
    if !single::ready("fence_ipv6")? {
        return Ok(());
    }
    let mut bed = bed(list)?;
    for host in &bed.hosts {
        host.wait_plane(ELECTION)?;
    }
    let sampler = Sampler::start(looks::of(&bed.hosts)?)?;
    wait_until(
        "the first host to be the only master",
        ELECTION,
        || Ok((sampler.forwarders() == 0b01 && has_vip(&bed.hosts[0])?).then_some(())),
        || format!("{:?}\n{}", sampler.changes(), bed.logs()),
    )?;
    wait_until(
        "both clients to be answered by the master",
        Duration::from_secs(30),
        || Ok((is_answered(&bed.client)? && is_answered(&bed.stubborn)?).then_some(())),
        || bed.logs(),
    )?;
    ensure!(bed.way()?.as_deref() == Some(&bed.macs[0]), "who answers? {:?}", bed.way()?);
    bed.forget_way()?;
    let mut now = looks::of(&bed.hosts)?;
    silence(&mut bed.hosts[0])?;
    let begin = Instant::now();
    wait_until(
        "the old master's lease to end",
        Duration::from_secs(30),
        || Ok((sampler.forwarders() == 0).then_some(())),
        || format!("{:?}", sampler.changes()),
    )?;
    // Both at once: there is little time before the heir takes over.
    let (asked, knew) = thread::scope(|scope| {
        let asking = scope.spawn(|| is_answered(&bed.client));
        let knowing = scope.spawn(|| is_answered(&bed.stubborn));
        (asking.join(), knowing.join())
    });
    // The sampler may not have been run since.
    let in_time = now.iter_mut().all(|forwards| !forwards());
    let way = bed.way()?;
    let gone = || anyhow::anyhow!("a client panicked");
    ensure!(!knew.map_err(|_| gone())??, "the fenced host answers packets for the VIP");
    // The heir may have taken over while the client asked, and may then well be who answered.
    let asked = asked.map_err(|_| gone())??;
    ensure!(way.as_deref() != Some(&bed.macs[0]), "the fenced host answers solicitations");
    ensure!(!(asked && in_time), "somebody answers while nobody forwards");
    ensure!(has_vip(&bed.hosts[0])?, "the VIP is gone: this proves nothing");
    wait_until(
        "the heir to take over",
        Duration::from_secs(30),
        || Ok((sampler.forwarders() == 0b10 && has_vip(&bed.hosts[1])?).then_some(())),
        || format!("{:?}\n{}", sampler.changes(), bed.logs()),
    )?;
    // Nobody has tidied the old host up: it stays silent with the VIP on it.
    ensure!(has_vip(&bed.hosts[0])?, "the VIP is gone: this proves nothing");
    ensure!(!is_answered(&bed.stubborn)?, "the fenced host answers packets for the VIP");
    bed.forget_way()?;
    wait_until(
        "the heir to answer",
        Duration::from_secs(30),
        || Ok(is_answered(&bed.client)?.then_some(())),
        || bed.logs(),
    )?;
    ensure!(bed.way()?.as_deref() == Some(&bed.macs[1]), "who answers? {:?}", bed.way()?);
    let both = sampler.overlap(begin, Instant::now());
    ensure!(both.is_zero(), "two hosts forwarded for {both:?}");
    // A stopped daemon cannot end in order.
    bed.hosts[0].signal_all(Signal::SIGCONT)?;
    for host in bed.hosts.iter_mut() {
        if host.running() {
            host.stop()?;
        }
    }
    Ok(())
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn killed_master_of_an_ipv6_vip_is_fenced() -> Result<()> {
    fenced(List::Named, Host::kill_all)
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn killed_master_of_an_excluded_vip_is_fenced() -> Result<()> {
    fenced(List::Excluded, Host::kill_all)
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn stopped_master_of_an_ipv6_vip_is_fenced() -> Result<()> {
    fenced(List::Named, |host| host.signal_all(Signal::SIGSTOP))
}
