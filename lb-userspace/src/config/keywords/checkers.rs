//! Checker blocks of a `real_server`.

use super::{
    Argument::*,
    Status::{Acts, Later, Ours},
    Topic as T,
};

const U32: i64 = u32::MAX as i64;
const LONG: u64 = 4_294_967_000;
const HOUR: u64 = 3_600_000_000;

keywords! {
    RealServer: "TCP_CHECK", Nothing, "", A, Acts, "a connection is accepted; ours is never finished, so MySQL does not count it as a failed login", opens TcpCheck + many;
    RealServer: "MISC_CHECK", Nothing, "", A, Acts, "a script ends with 0", opens MiscCheck + many;
    RealServer: "MYSQL_CHECK", Nothing, "", A, Ours, "a MySQL or MariaDB server answers, lets us in, has its role", opens MysqlCheck + many;
    RealServer: "HTTP_GET", Nothing, "", A, Acts, "pages come as expected, such as that of a Galera node's clustercheck", opens HttpGet + many;
    RealServer: "SSL_GET", Nothing, "", A, Acts, "pages come as expected over TLS (1.2 or later), whatever the certificate", opens HttpGet + many;
    RealServer: "PING_CHECK", Nothing, "", B, Later(T::Checker), "ICMP echo is answered", opens PingCheck + many;
    RealServer: "UDP_CHECK", Nothing, "", B, Later(T::Checker), "UDP is answered or at least not refused", opens UdpCheck + many;
    RealServer: "DNS_CHECK", Nothing, "", C, Later(T::Checker), "a DNS query is answered", opens DnsCheck + many;
    RealServer: "SMTP_CHECK", Nothing, "", C, Later(T::Checker), "an SMTP dialogue succeeds", opens SmtpCheck + many;
    RealServer: "BFD_CHECK", Nothing, "", C, Later(T::Checker), "a BFD session is up", opens BfdCheck + many;
    RealServer: "FILE_CHECK", Nothing, "", C, Later(T::Checker), "a track_file has its value", opens FileCheck + many;
    // ---- words of all checkers (retry, delay_loop and their like: lvs.rs)
    TcpCheck MysqlCheck TrackMysql HttpGet PingCheck UdpCheck DnsCheck SmtpCheck SmtpHost: "connect_ip", Address, "the real server's; track_mysql 127.0.0.1", B, Acts, "where to connect";
    TcpCheck MysqlCheck TrackMysql HttpGet PingCheck UdpCheck DnsCheck SmtpCheck SmtpHost: "connect_port", Int { min: 1, max: 65_535 }, "the real server's; track_mysql 3306", B, Acts, "where to connect";
    TcpCheck MysqlCheck TrackMysql HttpGet PingCheck UdpCheck DnsCheck SmtpCheck SmtpHost: "bindto", Address, "", B, Acts, "source address";
    TcpCheck MysqlCheck TrackMysql HttpGet PingCheck UdpCheck DnsCheck SmtpCheck SmtpHost: "bind_port", Int { min: 1, max: 65_535 }, "", C, Later(T::CheckerDetail), "source port";
    TcpCheck MysqlCheck TrackMysql HttpGet PingCheck UdpCheck DnsCheck SmtpCheck SmtpHost: "bind_if", Word("IF"), "", C, Later(T::CheckerDetail), "source interface";
    TcpCheck MysqlCheck TrackMysql HttpGet PingCheck UdpCheck DnsCheck SmtpCheck SmtpHost: "fwmark", Int { min: 0, max: U32 }, "", C, Later(T::CheckerDetail), "firewall mark of the connection";
    TcpCheck MiscCheck MysqlCheck TrackMysql HttpGet PingCheck UdpCheck DnsCheck SmtpCheck SmtpHost: "alpha", Nothing, "off", B, Acts, "down until the first good check";
    TcpCheck MiscCheck MysqlCheck TrackMysql HttpGet PingCheck UdpCheck DnsCheck SmtpCheck SmtpHost: "log_all_failures", Nothing, "off", C, Later(T::CheckerDetail), "log every failed check";
    // ---- MISC_CHECK
    MiscCheck: "misc_path", Command { user: false }, "", A, Acts, "the script; exit code 0 is good";
    MiscCheck: "misc_timeout", Seconds { min: 0, max: LONG }, "delay_loop", A, Acts, "a run that lasts longer has failed and is ended";
    MiscCheck: "misc_dynamic", Nothing, "off", B, Acts, "exit codes 2–255 set the weight to code − 2";
    MiscCheck MysqlCheck TrackMysql: "user", User, "MISC_CHECK: script_user; MYSQL_CHECK: a made-up user, whose refusal proves life", B, Acts, "MISC_CHECK: who runs the script; MYSQL_CHECK: who logs in";
    // ---- MYSQL_CHECK: ours
    MysqlCheck TrackMysql: "level", Choice(&["greeting", "login", "ping", "query", "role"]), "ping with user, else greeting", A, Ours, "how deep it looks; each level includes the ones before it";
    MysqlCheck TrackMysql: "role", Choice(&["writer", "read_only", "any"]), "any", A, Ours, "role that the server must have to be up; writer: read_only off; any: either, but it must be told; implies level role";
    MysqlCheck TrackMysql: "password", Secret, "", A, Ours, "of user; password_file keeps it out of this file";
    MysqlCheck TrackMysql: "password_file", Word("FILE"), "", A, Ours, "it holds the password; read at start and reload";
    MysqlCheck TrackMysql: "tls", Choice(&["off", "prefer", "require"]), "prefer", A, Ours, "prefer: when the server offers it";
    MysqlCheck TrackMysql: "tls_ca", Word("FILE"), "", B, Ours, "certificate authority (PEM) that must have signed the server's certificate, which must name its address (subjectAltName IP); read at start and reload; else no login, see on_auth_error";
    MysqlCheck TrackMysql: "query", Word("SQL"), "", B, Ours, "must succeed; implies level query";
    MysqlCheck TrackMysql: "expect", Word("TEXT"), "", B, Ours, "first column of the first row";
    MysqlCheck TrackMysql: "ping_interval", Time { min: 10_000, max: HOUR }, "0.1", A, Ours, "time between pings of the kept session";
    MysqlCheck TrackMysql: "ping_timeout", Time { min: 10_000, max: HOUR }, "0.1", A, Ours, "a ping that lasts longer is missed";
    MysqlCheck TrackMysql: "login_interval", Time { min: 100_000, max: HOUR }, "10", A, Ours, "a fresh connection and login this often";
    MysqlCheck TrackMysql: "role_interval", Time { min: 10_000, max: HOUR }, "0.5", B, Ours, "time between looks at role or query";
    MysqlCheck TrackMysql: "suspect", Int { min: 1, max: 1000 }, "2", A, Ours, "missed probes until no new connections";
    MysqlCheck TrackMysql: "fall", Int { min: 1, max: 1000 }, "4", A, Ours, "missed probes until it is down";
    MysqlCheck TrackMysql: "rise", Int { min: 1, max: 1000 }, "2", A, Ours, "good probes until it is up";
    MysqlCheck TrackMysql: "on_auth_error", Choice(&["hold", "down"]), "hold", B, Ours, "login refused: keep the last verdict, or down";
    MysqlCheck TrackMysql: "on_full", Choice(&["hold", "down", "up"]), "hold", B, Ours, "too many connections: no new ones, or down, or up";
    // ---- HTTP_GET, SSL_GET
    HttpGet: "nb_get_retry", Int { min: 1, max: U32 }, "", B, Acts, "old name of retry";
    HttpGet: "http_protocol", Choice(&["1.0", "1.0C", "1.0c", "1.0K", "1.0k", "1.1", "1.1K", "1.1k"]), "1.0", C, Acts, "HTTP version; C: Connection: close is said (1.1 says it), K: keep-alive";
    HttpGet: "enable_sni", Nothing, "off", C, Acts, "virtualhost is the server name in TLS";
    HttpGet: "sni_name", Word("NAME"), "", C, Acts, "server name in TLS, in place of virtualhost";
    HttpGet: "fast_recovery", Optional("[true|false]"), "off", C, Later(T::CheckerDetail), "no delay between the pages while it comes up";
    HttpGet Url: "tls_compliant", Bool, "off", C, Later(T::CheckerDetail), "strict end of TLS";
    HttpGet Url: "virtualhost", Word("NAME"), "the next outer one, else address and port", B, Acts, "Host header";
    HttpGet: "url", Nothing, "", A, Acts, "one page; all must come as expected", opens Url + many;
    Url: "path", Word("PATH"), "/", A, Acts, "what to get";
    Url: "digest", Word("MD5"), "", B, Acts, "of the page, which has 1 MiB at most";
    Url: "status_code", Words("CODE[-CODE]…"), "200-299", A, Acts, "expected";
    Url: "regex", Words("REGEX"), "", C, Acts, "must match the page; no look-around and no back references";
    Url: "regex_no_match", Nothing, "off", C, Acts, "regex must not match";
    Url: "regex_options", Words("OPTION…"), "", C, Acts, "of PCRE2; lbd knows caseless, dotall, extended, multiline, ungreedy";
    Url: "regex_stack", Words("START MAX"), "", C, Later(T::CheckerDetail), "of PCRE2";
    Url: "regex_min_offset", Int { min: 0, max: U32 }, "0", C, Acts, "earliest byte at which regex may match";
    Url: "regex_max_offset", Int { min: 0, max: U32 }, "", C, Acts, "latest such byte";
    // ---- the rest
    UdpCheck: "payload", Words("HEX…"), "", C, Later(T::Checker), "what is sent";
    UdpCheck: "require_reply", Optional("[HEX…]"), "", C, Later(T::Checker), "an answer must come";
    UdpCheck: "min_reply_length", Int { min: 0, max: 65_535 }, "0", C, Later(T::Checker), "bytes";
    UdpCheck: "max_reply_length", Int { min: 0, max: 65_535 }, "255", C, Later(T::Checker), "bytes";
    DnsCheck: "type", Word("TYPE"), "SOA", C, Later(T::Checker), "record type";
    DnsCheck BfdCheck: "name", Word("NAME"), ".", C, Later(T::Checker), "what is asked for; name of the BFD session";
    BfdCheck: "alpha", Nothing, "off", C, Later(T::Checker), "down until the first event";
    SmtpCheck: "helo_name", Word("NAME"), "", C, Later(T::Checker), "name in HELO";
    SmtpCheck: "host", Nothing, "", C, Later(T::Checker), "old form: where to connect", opens SmtpHost + many;
    FileCheck: "track_file", Word("NAME"), "", C, Later(T::Checker), "the track_file";
    FileCheck: "weight", Words("N [reverse]"), "1", C, Later(T::Checker), "weight change";
}
