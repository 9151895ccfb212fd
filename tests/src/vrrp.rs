//! The vrrp role in a thread inside a namespace, and a cable to watch it on.

use std::{
    io::{IoSliceMut, Read as _},
    net::Ipv4Addr,
    os::fd::AsRawFd as _,
    path::PathBuf,
    sync::Arc,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use lb_userspace::{
    base::{
        net::{IpPrefix, Priority, Vrid},
        status::InstanceStatus,
        table::LeaseSlot,
    },
    config::model::{
        AddressOptions, Authentication, Config, InitialState, NotifyWords, OnHost, VipAddress,
        VrrpInstance, VrrpVersion,
    },
    process::{
        Link,
        ipc::{Down, EngineChoice, Event, Query, Reply, Role, Runtime, Up},
        vrrp,
    },
    vrrp::{
        auth::Auth,
        garp::Garp,
        timing::AdvertInterval,
        wire::{Advert, ChecksumForm, GROUP, Options, Version},
    },
};
use nix::sys::{
    socket::{
        ControlMessageOwned, LinkAddr, MsgFlags, recvmsg, setsockopt, sockopt::ReceiveTimestampns,
    },
    time::TimeSpec,
};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::sync::mpsc;

use crate::{netns::Namespace, wait::wait_true};

/// The first VIP of [`instance`].
pub const VIP: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 100);

/// A VRRPv2 instance VI_1, VRID 51, with VIPs 10.77.0.x of label `eth0:vip`.
///
/// # Panics
/// Never: the VRID is not zero.
pub fn instance(priority: u8, vips: &[u8]) -> VrrpInstance {
    let vip = |last: &u8| VipAddress {
        prefix: IpPrefix::host(Ipv4Addr::new(10, 77, 0, *last).into()),
        dev: None,
        label: Some("eth0:vip".into()),
        broadcast: None,
        scope: 0,
        options: AddressOptions::default(),
    };
    VrrpInstance {
        name: "VI_1".into(),
        state: InitialState::Backup,
        interface: "eth0".into(),
        vrid: Vrid::new(51).expect("nonzero"),
        priority: Priority(priority),
        version: VrrpVersion::V2,
        advert_int: Duration::from_secs(1),
        authentication: Authentication::None,
        nopreempt: false,
        preempt_delay: Duration::ZERO,
        election: lb_userspace::config::model::Election::default(),
        timer_expired_backup: None,
        source: None,
        unicast_peers: vec![],
        wire: Options::default(),
        virtual_ipaddress: vips.iter().map(vip).collect(),
        track_scripts: vec![],
        track_more: Default::default(),
        track_interfaces: vec![],
        dont_track_primary: false,
        garp: Garp::default(),
        on_host: OnHost::default(),
        notify: NotifyWords::default(),
    }
}

/// [`instance`] over VRRPv3 with adverts every 200 ms and one batch of announcements, so that tests
/// are short.
pub fn fast(priority: u8, vips: &[u8]) -> VrrpInstance {
    VrrpInstance {
        version: VrrpVersion::V3,
        advert_int: Duration::from_millis(200),
        garp: Garp { delay: Duration::ZERO, ..Garp::default() },
        ..instance(priority, vips)
    }
}

/// A configuration with nothing but this instance.
pub fn one(instance: VrrpInstance) -> Config {
    Config { vrrp_instances: vec![instance], ..Config::default() }
}

/// A vrrp role in a thread inside a namespace; the test is its watchdog and its data plane.
#[derive(Debug)]
pub struct RoleThread {
    down: Option<mpsc::Sender<Down>>,
    /// What it says.
    pub up: mpsc::Receiver<Up>,
    /// Its thread.
    pub thread: JoinHandle<Result<()>>,
}

impl RoleThread {
    /// Starts it with one instance.
    ///
    /// # Errors
    /// When the thread cannot be told.
    pub fn start(netns: &Namespace, instance: VrrpInstance) -> Result<Self> {
        Self::start_with(netns, one(instance))
    }

    /// Starts it with a configuration.
    ///
    /// # Errors
    /// When the thread cannot be told.
    pub fn start_with(netns: &Namespace, config: Config) -> Result<Self> {
        Self::start_at(netns, config, PathBuf::from("/nonexistent"))
    }

    /// Starts it with a configuration, and the folder where its data plane has pinned the lease map.
    ///
    /// # Errors
    /// When the thread cannot be told.
    pub fn start_at(netns: &Namespace, config: Config, pin_dir: PathBuf) -> Result<Self> {
        let (down, rx) = mpsc::channel(64);
        let (tx, up) = mpsc::channel(1024);
        let netns = netns.clone();
        let thread = std::thread::spawn(move || {
            netns.enter_thread()?;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(vrrp::run(Link { rx, tx }))
        });
        let runtime = Runtime {
            instance: None,
            run_dir: PathBuf::from("/nonexistent"),
            pin_dir,
            config_file: PathBuf::from("test"),
            engine: EngineChoice::Auto,
            record: None,
            vrrp: true,
            checker: false,
        };
        let config = Arc::new(config);
        down.blocking_send(Down::Start { runtime, generation: 1, config })?;
        Ok(Self { down: Some(down), up, thread })
    }

    /// Tells it something.
    ///
    /// # Errors
    /// When it has ended.
    pub fn say(&self, message: Down) -> Result<()> {
        self.down.as_ref().context("watchdog is gone")?.blocking_send(message)?;
        Ok(())
    }

    /// The data plane is ready; the host cannot fence itself.
    ///
    /// # Errors
    /// When it has ended.
    pub fn converge(&self) -> Result<()> {
        let event = Event::Converged { generation: 1, leases: vec![], fenced: false };
        self.say(Down::Event { from: Role::Forwarder, event })
    }

    /// The data plane is ready and silences the host while these leases do not run.
    ///
    /// # Errors
    /// When it has ended.
    pub fn converge_fenced(&self, leases: &[(&str, LeaseSlot)]) -> Result<()> {
        let leases = leases.iter().map(|(name, slot)| ((*name).to_owned(), *slot)).collect();
        let event = Event::Converged { generation: 1, leases, fenced: true };
        self.say(Down::Event { from: Role::Forwarder, event })
    }

    /// Puts another configuration in force.
    ///
    /// # Errors
    /// When it has ended.
    pub fn reload(&self, config: Config) -> Result<()> {
        self.say(Down::Reload { generation: 2, config: Arc::new(config) })
    }

    /// The next message that `wanted` makes something of; the others are dropped.
    ///
    /// # Errors
    /// None comes within ten seconds.
    pub fn until<T>(&mut self, mut wanted: impl FnMut(Up) -> Option<T>) -> Result<T> {
        let deadline = Instant::now() + Duration::from_secs(10);
        while Instant::now() < deadline {
            match self.up.try_recv() {
                Ok(message) => {
                    if let Some(found) = wanted(message) {
                        return Ok(found);
                    }
                }
                Err(mpsc::error::TryRecvError::Empty) => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err(mpsc::error::TryRecvError::Disconnected) => bail!("the role has ended"),
            }
        }
        bail!("the role did not say it")
    }

    /// Asks for the status of its first instance. What else it said until then is dropped.
    ///
    /// # Errors
    /// No answer.
    pub fn status(&mut self) -> Result<InstanceStatus> {
        self.statuses().map(|mut all| all.remove(0))
    }

    /// Asks for the status of every instance, in the order of the configuration. What else it said
    /// until then is dropped.
    ///
    /// # Errors
    /// No answer.
    pub fn statuses(&mut self) -> Result<Vec<InstanceStatus>> {
        self.say(Down::Query { id: 7, query: Query::Status })?;
        self.until(|message| match message {
            Up::Reply { id: 7, reply: Reply::Vrrp { instances, .. } } if !instances.is_empty() => {
                Some(instances)
            }
            _ => None,
        })
    }

    /// Lets go of it; everything it said until its end.
    ///
    /// # Errors
    /// When it failed or panicked.
    pub fn finish(mut self) -> Result<Vec<Up>> {
        self.down = None;
        let mut said = vec![];
        while let Some(message) = self.up.blocking_recv() {
            said.push(message);
        }
        self.thread.join().map_err(|_| anyhow::anyhow!("the role panicked"))??;
        Ok(said)
    }
}

/// Two namespaces and a cable: lb with 10.77.0.1, and the other end.
///
/// # Errors
/// When they cannot be made.
pub fn cable() -> Result<(Namespace, Namespace)> {
    let lb = Namespace::new("lb")?;
    let peer = Namespace::new("peer")?;
    lb.ip(&[
        "link",
        "add",
        "eth0",
        "address",
        "02:00:00:77:00:01",
        "type",
        "veth",
        "peer",
        "name",
        "eth0",
        "address",
        "02:00:00:77:00:02",
        "netns",
        peer.name(),
    ])?;
    for (netns, address) in [(&lb, "10.77.0.1/24"), (&peer, "10.77.0.2/24")] {
        // Keeps IPv6 chatter off the wire.
        netns.sysctl("net/ipv6/conf/all/disable_ipv6", "1")?;
        netns.ip(&["address", "add", address, "dev", "eth0"])?;
        netns.ip(&["link", "set", "eth0", "up"])?;
    }
    // The kernel tells changes of carrier at most once a second; until then they are FAULT.
    for netns in [&lb, &peer] {
        wait_true("the cable", Duration::from_secs(5), || {
            netns.ip(&["link", "show", "eth0"]).is_ok_and(|text| text.contains("state UP"))
        })?;
    }
    Ok((lb, peer))
}

/// [`cable`] whose ends speak IPv6 too, with the addresses of the golden frames.
///
/// # Errors
/// When it cannot be made.
pub fn dual_cable() -> Result<(Namespace, Namespace)> {
    let (lb, peer) = cable()?;
    for netns in [&lb, &peer] {
        netns.sysctl("net/ipv6/conf/all/disable_ipv6", "0")?;
        netns.sysctl("net/ipv6/conf/eth0/disable_ipv6", "0")?;
        netns.sysctl("net/ipv6/conf/eth0/accept_dad", "0")?;
    }
    Ok((lb, peer))
}

/// A frame with an advert of VRID 51 over VRRPv3, as another router sends it to the group.
///
/// # Panics
/// When the interval is outside 1-4095 centiseconds.
pub fn advert_frame(from: Ipv4Addr, vip: Ipv4Addr, priority: u8, centis: u16) -> Vec<u8> {
    let advert = Advert {
        version: Version::V3,
        vrid: Vrid::new(51).expect("nonzero"),
        priority: Priority(priority),
        interval: AdvertInterval::from_centis(centis).expect("in range"),
        auth: Auth::None,
        addresses: vec![vip.into()],
        told: false,
    };
    let mut frame = vec![1, 0, 0x5e, 0, 0, 0x12, 2, 0, 0, 0x77, 0, 2, 8, 0];
    frame.extend(advert.datagram_v4(from, GROUP, ChecksumForm::PseudoHeader, 1));
    frame
}

/// Reads every frame that arrives in a namespace.
#[derive(Debug)]
pub struct Sniffer(Socket);

impl Sniffer {
    /// Listens from now on.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub fn new(netns: &Namespace) -> Result<Self> {
        let all = i32::from(0x0003u16.to_be());
        let socket =
            netns.enter(|| Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(all))))??;
        socket.set_read_timeout(Some(Duration::from_millis(100)))?;
        setsockopt(&socket, ReceiveTimestampns, &true)?;
        Ok(Self(socket))
    }

    /// The next frame that `wanted` accepts.
    ///
    /// # Errors
    /// None comes within `limit`.
    pub fn next(&self, limit: Duration, wanted: impl Fn(&[u8]) -> bool) -> Result<Vec<u8>> {
        let deadline = Instant::now() + limit;
        let mut buffer = [0; 2048];
        while Instant::now() < deadline {
            if let Ok(len) = (&self.0).read(&mut buffer)
                && wanted(&buffer[..len])
            {
                return Ok(buffer[..len].to_vec());
            }
        }
        bail!("no such frame within {limit:?}")
    }

    /// As [`Sniffer::next`], with the time since 1970 at which the kernel got the frame: on a cable that is when it
    /// was sent, however late this thread reads it.
    ///
    /// # Errors
    /// None comes within `limit`.
    pub fn next_sent(
        &self,
        limit: Duration,
        wanted: impl Fn(&[u8]) -> bool,
    ) -> Result<(Duration, Vec<u8>)> {
        let deadline = Instant::now() + limit;
        let mut buffer = [0; 2048];
        while Instant::now() < deadline {
            let mut control = nix::cmsg_space!(TimeSpec);
            let mut parts = [IoSliceMut::new(&mut buffer)];
            let message = recvmsg::<LinkAddr>(
                self.0.as_raw_fd(),
                &mut parts,
                Some(&mut control),
                MsgFlags::empty(),
            );
            let Ok(message) = message else { continue };
            let stamp = message.cmsgs()?.find_map(|part| match part {
                ControlMessageOwned::ScmTimestampns(stamp) => Some(Duration::from(stamp)),
                _ => None,
            });
            let len = message.bytes;
            if wanted(&buffer[..len]) {
                return Ok((stamp.context("a frame without its time")?, buffer[..len].to_vec()));
            }
        }
        bail!("no such frame within {limit:?}")
    }
}

/// An advert over IPv4.
pub fn is_vrrp(frame: &[u8]) -> bool {
    frame.len() > 34 && frame[12..14] == [8, 0] && frame[23] == 112
}

/// An advert over IPv6.
pub fn is_vrrp6(frame: &[u8]) -> bool {
    frame.len() > 62 && frame[12..14] == [0x86, 0xdd] && frame[20] == 112
}

/// A gratuitous ARP.
pub fn is_garp(frame: &[u8]) -> bool {
    frame.len() >= 42 && frame[12..14] == [8, 6] && frame[28..32] == frame[38..42]
}
