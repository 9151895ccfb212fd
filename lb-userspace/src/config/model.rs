//! The checked configuration: what the rest of lbd sees. Durations and addresses are parsed,
//! defaults filled in, references resolved. Serialisable, because the watchdog parses once and
//! hands the same model to every role.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use serde::{Deserialize, Serialize};

mod host;
mod http;
mod lvs;

pub use host::*;
pub use http::*;
pub use lvs::*;

use crate::{
    base::net::{IpPrefix, Priority, Vrid},
    vrrp::{auth::hmac::Secret, garp::Garp, wire::Options},
};

/// One configuration file with everything it includes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Config {
    pub global: Global,
    pub vrrp_scripts: BTreeMap<String, VrrpScript>,
    pub track_processes: BTreeMap<String, TrackProcess>,
    pub track_files: BTreeMap<String, TrackFile>,
    /// Ours.
    pub track_mysql: BTreeMap<String, TrackMysql>,
    /// In file order.
    pub vrrp_instances: Vec<VrrpInstance>,
    /// In file order.
    pub vrrp_sync_groups: Vec<SyncGroup>,
    /// In file order.
    pub virtual_servers: Vec<VirtualServer>,
    pub statics: Statics,
    pub garp_groups: Vec<GarpGroup>,
    pub link_delays: Vec<LinkDelay>,
}

/// `global_defs`, as far as we act on it, and our own words.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Global {
    pub router_id: Option<String>,
    pub notification_email: Vec<String>,
    pub notification_email_from: Option<String>,
    pub smtp_server: Option<MailServer>,
    /// Name in HELO; the host's when not given.
    pub smtp_helo_name: Option<String>,
    pub smtp_connect_timeout: Duration,
    /// Default of every `smtp_alert`.
    pub smtp_alert: Option<bool>,
    /// Default of `smtp_alert` of instances and sync groups.
    pub smtp_alert_vrrp: Option<bool>,
    /// Default of `smtp_alert` of virtual and real servers.
    pub smtp_alert_checker: Option<bool>,
    pub no_email_faults: bool,
    /// All events.
    pub notify_fifo: Fifo,
    pub vrrp_notify_fifo: Fifo,
    pub lvs_notify_fifo: Fifo,
    pub vrrp_notify_priority_changes: bool,
    pub fifo_write_vrrp_states_on_reload: bool,
    /// Runs before the first role is started.
    pub startup_script: Timed,
    /// Runs after the last role has ended.
    pub shutdown_script: Timed,
    pub dumps: DumpFiles,
    /// Ours: how long a notify script may keep a later one of its object waiting; then it is ended.
    pub notify_timeout: Duration,
    /// Default identity of scripts.
    pub script_user: Option<User>,
    pub enable_script_security: bool,
    pub vrrp_version: VrrpVersion,
    /// Defaults of instances that do not say.
    pub election: Election,
    /// `vrrp_startup_delay`: from the daemon's start to VRRP's.
    pub vrrp_startup_delay: Duration,
    /// `vrrp_delay_after_boot`: from the host's boot to VRRP's start, at least.
    pub vrrp_delay_after_boot: Duration,
    /// `vrrp_rt_priority` and its like.
    pub vrrp_process: Scheduling,
    /// `vrrp_mcast_group4`, of instances that name none.
    pub mcast_group4: Option<IpAddr>,
    /// `vrrp_mcast_group6`.
    pub mcast_group6: Option<IpAddr>,
    /// `vrrp_check_unicast_src`.
    pub check_unicast_src: bool,
    pub v3_checksum_as_v2: bool,
    /// Name that the daemon gives its main process (`process_name`).
    pub process_name: Option<String>,
    /// Defaults of instances.
    pub garp: Garp,
    /// Between two gratuitous ARPs of one interface; zero: none.
    pub garp_interval: Duration,
    /// Between two unsolicited neighbour advertisements of one interface; zero: none.
    pub gna_interval: Duration,
    pub garp_extra: Option<GarpExtra>,
    /// Interfaces may be absent.
    pub dynamic_interfaces: bool,
    /// Of static addresses without `dev`.
    pub default_interface: Option<String>,
    /// Names of virtual MAC interfaces: PREFIX.VRID.
    pub vmac_prefix: String,
    /// `vmac_addr_prefix`; `None`: that of `vmac_prefix`.
    pub vmac_addr_prefix: Option<String>,
    /// Priority of the chains that `no_accept` makes.
    pub nftables_priority: i32,
    pub nftables_counters: bool,
    /// Ours: address of /metrics and the page; `None`: off. Word `metrics_listen ADDR:PORT`.
    pub metrics_listen: Option<SocketAddr>,
    /// Ours: rows in the table of established connections. Word `lvs_flow_table N`.
    pub flow_table_size: u32,
    /// Ours: `lvs_hook auto|xdp|tc`.
    pub hook: Hook,
    /// Ours: `lvs_xdp_mode auto|native|generic`.
    pub xdp_mode: XdpMode,
    /// Ours: `flow_sync`.
    pub flow_sync: Option<FlowSync>,
}

impl Global {
    /// How the program is to be put on interfaces.
    pub fn attachment(&self) -> Attachment {
        Attachment { hook: self.hook, xdp_mode: self.xdp_mode }
    }
}

/// What the operator says of where the program is put. `lvs_xdp_mode` with a name asks for XDP, but where `lvs_hook` asks
/// for tc.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attachment {
    pub hook: Hook,
    pub xdp_mode: XdpMode,
}

impl Attachment {
    /// Native XDP and nothing else.
    pub const XDP: Self = Self { hook: Hook::Xdp, xdp_mode: XdpMode::Auto };
    /// tc and nothing else.
    pub const TC: Self = Self { hook: Hook::Tc, xdp_mode: XdpMode::Auto };
}

/// `lvs_hook`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Hook {
    /// By the interface's driver.
    #[default]
    Auto,
    Xdp,
    Tc,
}

/// `lvs_xdp_mode`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum XdpMode {
    /// Native, or a clear error.
    #[default]
    Auto,
    Native,
    /// Generic (skb) mode, by name only.
    Generic,
}

impl Default for Global {
    fn default() -> Self {
        Self {
            router_id: None,
            notification_email: Vec::new(),
            notification_email_from: None,
            smtp_server: None,
            smtp_helo_name: None,
            smtp_connect_timeout: Duration::from_secs(30),
            smtp_alert: None,
            smtp_alert_vrrp: None,
            smtp_alert_checker: None,
            no_email_faults: false,
            notify_fifo: Fifo::default(),
            vrrp_notify_fifo: Fifo::default(),
            lvs_notify_fifo: Fifo::default(),
            vrrp_notify_priority_changes: false,
            fifo_write_vrrp_states_on_reload: false,
            startup_script: Timed::default(),
            shutdown_script: Timed::default(),
            dumps: DumpFiles::default(),
            notify_timeout: Duration::from_secs(30),
            script_user: None,
            enable_script_security: false,
            vrrp_version: VrrpVersion::V2,
            election: Election::default(),
            vrrp_startup_delay: Duration::ZERO,
            vrrp_delay_after_boot: Duration::ZERO,
            vrrp_process: Scheduling::default(),
            mcast_group4: None,
            mcast_group6: None,
            check_unicast_src: false,
            v3_checksum_as_v2: false,
            process_name: None,
            garp: Garp::default(),
            garp_interval: Duration::ZERO,
            gna_interval: Duration::ZERO,
            garp_extra: None,
            dynamic_interfaces: false,
            default_interface: None,
            vmac_prefix: "vrrp".into(),
            vmac_addr_prefix: None,
            nftables_priority: -1,
            nftables_counters: false,
            metrics_listen: None,
            flow_table_size: 131_072,
            hook: Hook::Auto,
            xdp_mode: XdpMode::Auto,
            flow_sync: None,
        }
    }
}

/// Ours: `flow_sync`, connection sync with the other hosts of the virtual routers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowSync {
    /// Shared by all hosts.
    pub key: Secret,
    pub peers: SyncPeers,
    /// The only one that datagrams go out of and come in by.
    pub interface: Option<String>,
    /// Source address of datagrams.
    pub source: Option<IpAddr>,
    /// UDP, the same on all hosts.
    pub port: u16,
    /// How long a start holds mastership back for its peers' connections.
    pub timeout: Duration,
}

impl FlowSync {
    /// With the defaults, and no peer yet.
    pub fn new(key: Secret) -> Self {
        Self {
            key,
            peers: SyncPeers::Hosts(Vec::new()),
            interface: None,
            source: None,
            port: 8849,
            timeout: Duration::from_secs(5),
        }
    }
}

/// Whom connections are told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SyncPeers {
    /// `peer`, or what `unicast_peer` of the instances says.
    Hosts(Vec<IpAddr>),
    /// `multicast`.
    Group(IpAddr),
}

/// `state_dump_file` and its like: where signals write, and in what form.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DumpFiles {
    pub state: Option<PathBuf>,
    pub stats: Option<PathBuf>,
    pub json: Option<PathBuf>,
    /// 1 or 2.
    pub json_version: u8,
    /// `data_use_instance`: the name of `--instance` in default names.
    pub use_instance: bool,
}

impl Default for DumpFiles {
    fn default() -> Self {
        Self { state: None, stats: None, json: None, json_version: 1, use_instance: false }
    }
}

/// `smtp_server HOST [PORT]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MailServer {
    /// Address or name.
    pub host: String,
    pub port: u16,
}

/// `notify_fifo` and its like.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fifo {
    /// Absolute path, and who owns the FIFO if not the user that runs lbd.
    pub path: Option<(PathBuf, Option<User>)>,
    /// Is started with the path as its last word, and started again when it ends.
    pub script: Option<Command>,
}

/// A script around the daemon's life.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timed {
    pub command: Option<Command>,
    pub timeout: Duration,
}

impl Default for Timed {
    fn default() -> Self {
        Self { command: None, timeout: Duration::from_secs(10) }
    }
}

/// A script's identity.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    pub name: String,
    pub group: Option<String>,
}

/// A command with its identity, split into words as keepalived does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    /// Program and arguments; never empty.
    pub argv: Vec<String>,
    pub user: Option<User>,
}

/// `vrrp_script NAME`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VrrpScript {
    pub name: String,
    pub command: Command,
    pub interval: Duration,
    /// Equal to the interval when not given.
    pub timeout: Duration,
    /// −253..253; 0: a failure means FAULT.
    pub weight: i32,
    pub reverse: bool,
    pub fall: u32,
    pub rise: u32,
    /// Starts as failed.
    pub init_fail: bool,
}

/// Protocol version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum VrrpVersion {
    V2,
    V3,
}

/// The configured start state; nearly cosmetic (keepalived.md §3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum InitialState {
    Master,
    Backup,
}

/// `authentication`. The password does not show in logs or dumps.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Authentication {
    None,
    /// NUL-padded to eight bytes, cut there.
    Pass([u8; 8]),
    /// Key of the IP authentication header, as a password.
    Ah([u8; 8]),
}

impl std::fmt::Debug for Authentication {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::None => "None",
            Self::Pass(_) => "Pass(***)",
            Self::Ah(_) => "Ah(***)",
        })
    }
}

/// `virtual_ipaddress` entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VipAddress {
    pub prefix: IpPrefix,
    /// `dev`; the instance's interface when not given.
    pub dev: Option<String>,
    pub label: Option<String>,
    pub broadcast: Option<Ipv4Addr>,
    /// `scope` as rtnetlink's number (0 global, 253 link, 254 host).
    pub scope: u8,
    pub options: AddressOptions,
}

/// `track_script` entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrackScript {
    pub name: String,
    /// Overrides the script's.
    pub weight: Option<i32>,
    pub reverse: Option<bool>,
}

/// `param_match`: how the parameters of a process are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ParamMatch {
    /// The last one may be longer than configured.
    Initial,
    /// There may be more of them.
    Partial,
}

/// `vrrp_track_process NAME`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrackProcess {
    pub name: String,
    /// Program and parameters; never empty.
    pub command: Vec<String>,
    pub param_match: Option<ParamMatch>,
    /// Compares the command line and not the name that the kernel keeps.
    pub full_command: bool,
    /// 0: too few or too many mean FAULT.
    pub weight: i32,
    pub reverse: bool,
    pub quorum: u32,
    pub quorum_max: Option<u32>,
    /// After more processes, before that counts.
    pub fork_delay: Duration,
    /// After fewer processes, before that counts.
    pub terminate_delay: Duration,
}

impl TrackProcess {
    /// keepalived's defaults: one process at least, or FAULT, at once.
    pub fn new(name: &str, command: Vec<String>) -> Self {
        Self {
            name: name.to_owned(),
            command,
            param_match: None,
            full_command: false,
            weight: 0,
            reverse: false,
            quorum: 1,
            quorum_max: None,
            fork_delay: Duration::ZERO,
            terminate_delay: Duration::ZERO,
        }
    }
}

/// `track_file NAME`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrackFile {
    pub name: String,
    pub path: PathBuf,
    /// Times the number in the file; 0: a number that is not 0 means FAULT.
    pub weight: i32,
    pub reverse: bool,
    /// `init_file`: what is written when lbd starts.
    pub init: Option<InitFile>,
}

/// `init_file [VALUE] [overwrite]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InitFile {
    pub value: i64,
    /// Also when the file exists.
    pub overwrite: bool,
}

/// Ours: `track_mysql NAME`, a MYSQL_CHECK in place of a `vrrp_script`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrackMysql {
    pub name: String,
    /// 0: DOWN means FAULT.
    pub weight: i32,
    pub reverse: bool,
    /// [`Checker::Mysql`].
    pub checker: Checker,
}

/// What an instance or a sync group tracks beside scripts and interfaces, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrackLists {
    pub processes: Vec<TrackScript>,
    pub files: Vec<TrackScript>,
    pub mysql: Vec<TrackScript>,
}

/// `track_interface` entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrackInterface {
    pub name: String,
    /// 0: down means FAULT.
    pub weight: i32,
    pub reverse: bool,
}

/// The words of `vrrp_instance` and of `vrrp_sync_group` that tell of changes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotifyWords {
    pub master: Option<Command>,
    pub backup: Option<Command>,
    pub fault: Option<Command>,
    pub stop: Option<Command>,
    /// `notify_deleted`: a removal is told as DELETED and not as FAULT; instances only.
    pub tells_deleted: bool,
    /// The script that `notify_deleted` may name; instances only.
    pub deleted: Option<Command>,
    /// `notify_master_rx_lower_pri`; instances only.
    pub master_rx_lower_pri: Option<Command>,
    /// `notify`: runs after the special one, with TYPE NAME STATE PRIORITY appended.
    pub any: Option<Command>,
    /// `notify_priority_changes`, else `vrrp_notify_priority_changes`.
    pub priority_changes: bool,
    /// `smtp_alert`, else `smtp_alert_vrrp`, else the global `smtp_alert`.
    pub mail: bool,
    /// Not under `no_email_faults`: mails tell of FAULT too.
    pub mail_faults: bool,
}

/// Options of an instance's election that global_defs sets for all.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Election {
    /// 1-100.
    pub down_timer_adverts: u32,
    pub lower_prio_no_advert: bool,
    pub higher_prio_send_advert: bool,
    pub owner_ignore_adverts: bool,
    /// `told_handover`, ours.
    pub told_handover: bool,
    /// `vrrp_strict`, `strict_mode`: what it refuses is refused, or cleared with a warning, before;
    /// what it changes elsewhere (accept mode, gratuitous ARP after a lower priority) asks here.
    pub strict: bool,
}

impl Default for Election {
    fn default() -> Self {
        Self {
            down_timer_adverts: 3,
            lower_prio_no_advert: false,
            higher_prio_send_advert: false,
            owner_ignore_adverts: false,
            told_handover: false,
            strict: false,
        }
    }
}

/// How the kernel schedules a process; `None` and false: as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scheduling {
    /// Niceness, −20..19.
    pub nice: Option<i8>,
    /// Memory is locked.
    pub no_swap: bool,
    /// SCHED_RR at this priority, 1-99.
    pub rt_priority: Option<u8>,
    /// Numbers of CPUs; empty: all.
    pub cpu_affinity: Vec<usize>,
    /// Limit of CPU time without a blocking system call under a realtime priority, µs.
    pub rlimit_rttime_us: Option<u64>,
}

/// `vrrp_sync_group NAME`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncGroup {
    pub name: String,
    /// Names of defined instances, in file order; each in one group at most.
    pub members: Vec<String>,
    pub track_scripts: Vec<TrackScript>,
    pub track_interfaces: Vec<TrackInterface>,
    /// Files, processes and MySQL checks.
    pub track_more: TrackLists,
    /// Weights count inside the group; without it those of group and members were cleared.
    pub tracking_weight: bool,
    pub notify: NotifyWords,
}

/// `vrrp_instance NAME`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VrrpInstance {
    pub name: String,
    pub state: InitialState,
    pub interface: String,
    pub vrid: Vrid,
    pub priority: Priority,
    pub version: VrrpVersion,
    /// v2 whole seconds; v3 10 ms..40.95 s in steps of 10 ms.
    pub advert_int: Duration,
    pub authentication: Authentication,
    pub nopreempt: bool,
    pub preempt_delay: Duration,
    pub election: Election,
    /// `timer_expired_backup`, only with nopreempt.
    pub timer_expired_backup: Option<Priority>,
    /// `mcast_src_ip` or `unicast_src_ip`; the interface's primary address when not given.
    pub source: Option<IpAddr>,
    /// Empty: multicast.
    pub unicast_peers: Vec<IpAddr>,
    /// How adverts travel.
    pub wire: Options,
    pub virtual_ipaddress: Vec<VipAddress>,
    pub track_scripts: Vec<TrackScript>,
    pub track_more: TrackLists,
    pub track_interfaces: Vec<TrackInterface>,
    pub dont_track_primary: bool,
    pub garp: Garp,
    /// What it does to this host beside its VIPs.
    pub on_host: OnHost,
    /// `notify_*`, `smtp_alert`.
    pub notify: NotifyWords,
}

impl VrrpInstance {
    /// Its VIPs, those that its adverts do not name (`virtual_ipaddress_excluded`) included: both come and go
    /// with its state, and behind its lease.
    pub fn addresses(&self) -> impl Iterator<Item = &VipAddress> {
        self.virtual_ipaddress.iter().chain(&self.on_host.excluded)
    }

    /// Where a VIP needs a virtual MAC interface beside the instance's own: the interface below.
    /// keepalived's rule: on another interface or of the other family by `use_vmac_addr`, anywhere
    /// by the address's own `use_vmac`, unless the instance's own virtual MAC serves it.
    pub fn address_link_base<'a>(&'a self, vip: &'a VipAddress) -> Option<&'a str> {
        let host = &self.on_host;
        let base = vip.dev.as_deref().unwrap_or(&self.interface);
        let ours = base == self.interface && vip.prefix.addr.is_ipv6() == self.wire.ipv6;
        let served = ours && host.virtual_link.is_some();
        let wanted = vip.options.use_vmac || host.vmac_addresses && !ours;
        (wanted && !served).then_some(base)
    }
}
