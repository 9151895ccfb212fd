//! `virtual_server`, `real_server`, `virtual_server_group`.

use super::{
    Argument::*,
    Status::{Acts, Later, Never, Ours},
    Topic as T,
};

const COUNT: i64 = i32::MAX as i64;
const U32: i64 = u32::MAX as i64;
const LONG: u64 = 4_294_967_000;
const DAYS_31: u64 = 31 * 86_400_000_000;

keywords! {
    VirtualServer: "lb_algo", Word("rr|wrr|lc|wlc|sed|nq|sh|mh"), "wlc", A, Acts, "scheduler; keepalived's others are not available yet";
    VirtualServer: "lvs_sched", Word("rr|wrr|lc|wlc|sed|nq|sh|mh"), "wlc", A, Acts, "the same as lb_algo";
    VirtualServer: "lb_kind", Words("NAT|DR|TUN [type ipip]"), "NAT", A, Acts, "forwarding method; TUN: in a packet of its own (IPIP), also to a real server of the other address family; a real server that is this host is served locally";
    VirtualServer RealServer: "lvs_method", Words("NAT|DR|TUN [type ipip]"), "NAT", A, Acts, "the same as lb_kind; in a real_server: for it alone, not available yet";
    VirtualServer: "protocol", Choice(&["TCP", "UDP", "SCTP"]), "UDP, but TCP where the port or the checks say so", A, Acts, "TCP so far";
    VirtualServer: "persistence_timeout", Optional("[SECONDS]"), "off; 360 alone", A, Acts, "a client's next connections go to the real server that it had, until it has had none for so long";
    VirtualServer: "persistence_granularity", Words("MASK | LEN"), "a whole address", C, Acts, "clients of one network of this size count as one; without persistence_timeout it stands for 360 s";
    VirtualServer: "persistence_engine", Word("sip"), "", C, Never(T::Persistence), "persistence by SIP call";
    VirtualServer: "sh-port", Nothing, "off", C, Acts, "sh: the client's port counts beside its address; without it all of a client's connections go to one server";
    VirtualServer: "sh-fallback", Nothing, "off", C, Acts, "sh: a client whose server has weight 0 by inhibit_on_failure gets another one instead of a refusal";
    VirtualServer: "mh-port", Nothing, "off", C, Acts, "the same for mh";
    VirtualServer: "mh-fallback", Nothing, "off", C, Acts, "the same for mh";
    VirtualServer: "hashed", Nothing, "off", C, Never(T::Ipvs), "IPVS flag";
    VirtualServer: "flag-1", Nothing, "off", C, Acts, "sh-fallback, mh-fallback by its number";
    VirtualServer: "flag-2", Nothing, "off", C, Acts, "sh-port, mh-port by its number";
    VirtualServer: "flag-3", Nothing, "off", C, Never(T::Ipvs), "IPVS flag";
    VirtualServer: "ops", Nothing, "off", C, Never(T::Ipvs), "one packet a connection (UDP)";
    VirtualServer: "quorum", Int { min: 1, max: U32 }, "1", B, Acts, "weight of real servers that must be up";
    VirtualServer: "hysteresis", Int { min: 0, max: U32 }, "0", B, Acts, "gained at quorum + this, lost below quorum − this";
    VirtualServer: "quorum_up", Command { user: true }, "", B, Acts, "runs when the quorum is gained";
    VirtualServer: "quorum_down", Command { user: true }, "", B, Acts, "runs when the quorum is lost";
    VirtualServer: "sorry_server", Server, "", A, Acts, "stands in when the quorum is lost";
    VirtualServer: "sorry_server_inhibit", Nothing, "off", C, Later(T::CheckerDetail), "weight 0 for the others rather than removal";
    VirtualServer: "sorry_server_lvs_method", Words("NAT|DR|TUN"), "lb_kind", C, Later(T::CheckerDetail), "its forwarding method";
    VirtualServer: "omega", Nothing, "off", B, Acts, "quorum_down and notify_down run at stop too";
    VirtualServer: "ha_suspend", Nothing, "off", B, Later(T::Suspend), "no checks while the VIP is elsewhere";
    VirtualServer RealServer: "virtualhost", Word("NAME"), "", B, Acts, "Host header of HTTP_GET and SSL_GET";
    VirtualServer RealServer: "snmp_name", Word("NAME"), "", C, Never(T::Snmp), "name in SNMP";
    VirtualServer RealServer: "weight", Int { min: 0, max: COUNT }, "1", A, Acts, "share of new connections; 0: none; in a virtual_server: default of its real servers";
    VirtualServer RealServer: "inhibit_on_failure", Nothing, "off", A, Acts, "weight 0 when it is down; its connections are left alone";
    VirtualServer RealServer: "alpha", Nothing, "off", B, Acts, "down until the first good check";
    VirtualServer: "real_server", Server, "", A, Acts, "one server of the pool", opens RealServer + many;
    RealServer: "uthreshold", Int { min: 0, max: U32 }, "0", C, Acts, "most established connections; with so many it takes no new ones (0: no limit)";
    RealServer: "lthreshold", Int { min: 0, max: U32 }, "0", C, Acts, "below so many it takes new ones again (0: below 3/4 of uthreshold)";
    RealServer: "notify_up", Command { user: true }, "", A, Acts, "runs when it comes up";
    RealServer: "notify_down", Command { user: true }, "", A, Acts, "runs when it goes down";
    // ---- shared with checkers, whose rows are in checkers.rs
    VirtualServer RealServer TcpCheck MiscCheck MysqlCheck HttpGet PingCheck UdpCheck DnsCheck SmtpCheck SmtpHost: "delay_loop", Seconds { min: 1_000, max: LONG }, "60", A, Acts, "time between checks";
    VirtualServer RealServer TcpCheck MiscCheck MysqlCheck HttpGet PingCheck UdpCheck DnsCheck SmtpCheck SmtpHost: "retry", Int { min: 0, max: U32 }, "1; MISC_CHECK 0, DNS_CHECK 3", B, Acts, "failures after the first until it is down; MYSQL_CHECK: see fall";
    VirtualServer RealServer TcpCheck MiscCheck MysqlCheck HttpGet PingCheck UdpCheck DnsCheck SmtpCheck SmtpHost: "delay_before_retry", Seconds { min: 0, max: LONG }, "1; HTTP_GET 3", B, Acts, "time between those failures";
    VirtualServer RealServer TcpCheck MiscCheck MysqlCheck HttpGet PingCheck UdpCheck DnsCheck SmtpCheck SmtpHost: "warmup", Seconds { min: 0, max: LONG }, "delay_loop", B, Acts, "the first check waits a random part of it";
    VirtualServer RealServer TcpCheck MysqlCheck HttpGet PingCheck UdpCheck DnsCheck SmtpCheck SmtpHost: "connect_timeout", Seconds { min: 1_000, max: LONG }, "5", B, Acts, "time for the connection";
    // ---- ours
    VirtualServer: "idle_timeout", Time { min: 1_000_000, max: DAYS_31 }, "28860 (wait_timeout of MySQL + 60 s)", A, Ours, "life of a connection without a packet";
    VirtualServer: "on_down", Words("reset | drain SECONDS | keep"), "reset; keep with inhibit_on_failure", A, Ours, "connections of a real server that went down: reset at once at both ends, idle ones included; reset after so long; left alone";
    // ---- entries
    VirtualServerGroup: "IP[-RANGE] PORT | fwmark N", Nothing, "", B, Later(T::Group), "one VIP or range a line" + many;
}
