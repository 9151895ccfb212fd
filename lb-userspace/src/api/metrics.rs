//! /metrics: a status snapshot as Prometheus text.
//!
//! Nothing is counted here: every number is somebody's own counter, so a restart of the api role
//! loses none.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, MetricEncoder, text},
    metrics::{MetricType, exemplar::Exemplar},
    registry::Registry,
};

use crate::base::status::{CheckerStatus, Health, Status, SyncPeerStatus, VrrpState};

/// Content type of [`render`]'s text.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The text for one scrape.
///
/// # Errors
/// Never for a real snapshot: writing into a string does not fail.
pub fn render(status: Status) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("lbd");
    registry.register_collector(Box::new(Snapshot(status)));
    let mut out = String::new();
    text::encode(&mut out, &registry)?;
    Ok(out)
}

#[derive(Debug)]
struct Snapshot(Status);

type Labels<'a> = Vec<(&'static str, &'a str)>;

/// One metric being written: its samples follow each other, as the format wants.
struct Metric<'a>(MetricEncoder<'a>);

impl Metric<'_> {
    fn gauge(&mut self, labels: &Labels<'_>, value: i64) -> fmt::Result {
        if labels.is_empty() {
            return self.0.encode_gauge(&value); // an empty family would leave `{}` behind
        }
        self.0.encode_family(labels)?.encode_gauge(&value)
    }

    fn ratio(&mut self, labels: &Labels<'_>, value: f64) -> fmt::Result {
        self.0.encode_family(labels)?.encode_gauge(&value)
    }

    fn counter(&mut self, labels: &Labels<'_>, value: u64) -> fmt::Result {
        let none: Option<&Exemplar<[(&str, &str); 0], u64>> = None;
        if labels.is_empty() {
            return self.0.encode_counter(&value, none);
        }
        self.0.encode_family(labels)?.encode_counter(&value, none)
    }
}

fn gauge<'a>(
    encoder: &'a mut DescriptorEncoder<'_>,
    name: &'a str,
    help: &'a str,
) -> Result<Metric<'a>, fmt::Error> {
    encoder.encode_descriptor(name, help, None, MetricType::Gauge).map(Metric)
}

fn counter<'a>(
    encoder: &'a mut DescriptorEncoder<'_>,
    name: &'a str,
    help: &'a str,
) -> Result<Metric<'a>, fmt::Error> {
    encoder.encode_descriptor(name, help, None, MetricType::Counter).map(Metric)
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

impl Collector for Snapshot {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let encoder = &mut encoder;
        self.daemon(encoder)?;
        self.processes(encoder)?;
        self.scripts(encoder)?;
        self.vrrp(encoder)?;
        self.checks(encoder)?;
        self.forwarder(encoder)?;
        self.flow_sync(encoder)
    }
}

impl Snapshot {
    fn daemon(&self, e: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let status = &self.0;
        let mut labels = vec![("version", status.version.as_str())];
        labels.extend(status.instance.as_deref().map(|name| ("instance_name", name)));
        gauge(e, "build", "Version of the running daemon.")?.gauge(&labels, 1)?;
        gauge(e, "config_generation", "Configuration in force; grows with each reload.")?
            .gauge(&vec![], signed(status.config_generation))?;
        gauge(e, "config_last_reload_failed", "1 when the last reload was refused.")?
            .gauge(&vec![], i64::from(status.last_reload_error.is_some()))?;
        counter(e, "config_reloads", "Times the file was read again, with whatever result.")?
            .counter(&vec![], status.reloads)?;
        counter(e, "config_reload_failures", "Reloads that were refused.")?
            .counter(&vec![], status.reload_failures)?;
        gauge(e, "problems", "Problems that `lbctl status` lists.")?
            .gauge(&vec![], signed(status.problems.len() as u64))?;
        let mut metric = counter(
            e,
            "bound_reached",
            "Times that a bound of lbctl's socket or /metrics was reached.",
        )?;
        for (bound, times) in &status.bounds {
            metric.counter(&vec![("bound", bound)], *times)?;
        }
        Ok(())
    }

    fn processes(&self, e: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let processes = &self.0.processes;
        let mut metric =
            gauge(e, "process_ready", "1 when the role has its configuration in force.")?;
        for process in processes {
            metric.gauge(&vec![("role", &process.role)], i64::from(process.ready))?;
        }
        let mut metric = counter(e, "process_restarts", "Restarts of a role since the start.")?;
        for process in processes {
            metric.counter(&vec![("role", &process.role)], process.restarts)?;
        }
        let mut metric = gauge(e, "process_up_seconds", "Age of a role's process.")?;
        for process in processes {
            metric.gauge(&vec![("role", &process.role)], signed(process.up_s))?;
        }
        Ok(())
    }

    fn scripts(&self, e: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let scripts = &self.0.scripts;
        counter(e, "scripts_started", "Scripts started.")?.counter(&vec![], scripts.started)?;
        counter(e, "scripts_refused", "Check scripts refused: too many were waiting.")?
            .counter(&vec![], scripts.refused)?;
        counter(e, "scripts_displaced", "Notify scripts dropped: their queue was full.")?
            .counter(&vec![], scripts.displaced)?;
        let mut metric = counter(e, "script_ends", "Ends of scripts by outcome.")?;
        for (outcome, count) in &scripts.outcomes {
            metric.counter(&vec![("outcome", outcome)], *count)?;
        }
        Ok(())
    }

    fn vrrp(&self, e: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let all = &self.0.vrrp;
        let mut metric =
            gauge(e, "vrrp_state", "1 for the state in force (init, backup, master, fault).")?;
        for instance in all {
            for state in [VrrpState::Init, VrrpState::Backup, VrrpState::Master, VrrpState::Fault] {
                let name = state.name().to_ascii_lowercase();
                let labels = vec![("vrrp_instance", instance.name.as_str()), ("state", &name)];
                metric.gauge(&labels, i64::from(instance.state == state))?;
            }
        }
        type Read<T> = fn(&crate::base::status::InstanceStatus) -> T;
        let gauges: [(&str, &str, Read<i64>); 3] = [
            ("vrrp_base_priority", "Priority as configured.", |i| i64::from(i.base_priority)),
            ("vrrp_effective_priority", "Priority after tracking weights.", |i| {
                i64::from(i.effective_priority)
            }),
            ("vrrp_vips_set", "1 when this host holds the VIPs.", |i| i64::from(i.vips_set)),
        ];
        for (name, help, read) in gauges {
            let mut metric = gauge(e, name, help)?;
            for instance in all {
                metric.gauge(&vec![("vrrp_instance", &instance.name)], read(instance))?;
            }
        }
        let mut metric =
            gauge(e, "vrrp_lease_seconds", "Time that the lease still runs; absent on standby.")?;
        for instance in all {
            if let Some(ms) = instance.lease_ms {
                // Milliseconds of a lease are far below 2^52.
                let seconds = ms as f64 / 1000.0;
                metric.ratio(&vec![("vrrp_instance", &instance.name)], seconds)?;
            }
        }
        let counters: [(&str, &str, Read<u64>); 13] = [
            ("vrrp_adverts_received", "Adverts accepted.", |i| i.counters.advert_rcvd),
            ("vrrp_adverts_sent", "Adverts sent.", |i| i.counters.advert_sent),
            ("vrrp_became_master", "Transitions to MASTER.", |i| i.counters.become_master),
            ("vrrp_released_master", "Transitions from MASTER.", |i| i.counters.release_master),
            ("vrrp_priority_zero_received", "Farewells of peers.", |i| i.counters.pri_zero_rcvd),
            ("vrrp_priority_zero_sent", "Own farewells.", |i| i.counters.pri_zero_sent),
            ("vrrp_garps_sent", "Gratuitous ARPs.", |i| i.counters.garp_sent),
            ("vrrp_late_timers", "Timers later than a tenth of their interval.", |i| {
                i.counters.late_timers
            }),
            (
                "vrrp_vip_claims",
                "ARP packets and neighbour advertisements of others that claimed a VIP.",
                |i| i.counters.vip_claims,
            ),
            ("vrrp_foreign_vips", "VIPs that others put on this host, not master.", |i| {
                i.counters.foreign_vips
            }),
            ("vrrp_lease_faults", "Times that the lease could not be written.", |i| {
                i.counters.lease_faults
            }),
            ("vrrp_address_list_differs", "Adverts accepted with other VIPs than ours.", |i| {
                i.counters.address_list_differs
            }),
            ("vrrp_connections_aborted", "Own TCP connections reset as their VIP left.", |i| {
                i.counters.connections_aborted
            }),
        ];
        for (name, help, read) in counters {
            let mut metric = counter(e, name, help)?;
            for instance in all {
                metric.counter(&vec![("vrrp_instance", &instance.name)], read(instance))?;
            }
        }
        let mut metric = counter(e, "vrrp_discards", "Adverts discarded, by reason.")?;
        for instance in all {
            for (reason, count) in &instance.counters.discarded {
                let labels = vec![("vrrp_instance", instance.name.as_str()), ("reason", reason)];
                metric.counter(&labels, *count)?;
            }
        }
        let timers = &self.0.vrrp_timers;
        let mut metric = e.encode_descriptor(
            "vrrp_timer_lateness_seconds",
            "How late timers fire, of all instances; a tenth of advert_int is much.",
            None,
            MetricType::Histogram,
        )?;
        for (timer, late) in [("advert", &timers.advert), ("master_down", &timers.master_down)] {
            // Nobody has answered for the vrrp process.
            if !late.late_us.is_empty() {
                histogram(&mut metric, &vec![("timer", timer)], &late.late_us, late.total_us)?;
            }
        }
        let mut metric = counter(e, "vrrp_strays", "Adverts for no instance, by reason.")?;
        for stray in &self.0.strays {
            let vrid = stray.vrid.map(|vrid| vrid.to_string()).unwrap_or_default();
            let labels = vec![
                ("interface", stray.interface.as_str()),
                ("reason", &stray.reason),
                ("vrid", &vrid),
            ];
            metric.counter(&labels, stray.count)?;
        }
        Ok(())
    }

    fn checks(&self, e: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let servers = &self.0.servers;
        let mut metric = gauge(e, "health", "1 for the health in force of a real server.")?;
        for server in servers {
            let addr = server.real_server.to_string();
            for (health, name) in HEALTHS {
                let labels = vec![
                    ("virtual_server", server.virtual_server.as_str()),
                    ("real_server", &addr),
                    ("health", name),
                ];
                metric.gauge(&labels, i64::from(server.health == health))?;
            }
        }
        type Read = fn(&CheckerStatus) -> u64;
        let counters: [(&str, &str, Read); 4] = [
            ("probes", "Probes made.", |c| c.probes),
            ("probe_failures", "Probes that failed.", |c| c.failures),
            ("probe_restarts", "Probes that ended by themselves.", |c| c.restarts),
            (
                "probe_deferred",
                "Logins of MYSQL_CHECK not made because earlier ones are not finished.",
                |c| c.deferred,
            ),
        ];
        for (name, help, read) in counters {
            let mut metric = counter(e, name, help)?;
            for server in servers {
                let addr = server.real_server.to_string();
                for checker in &server.checkers {
                    let labels = checker_labels(&server.virtual_server, &addr, checker);
                    metric.counter(&labels, read(checker))?;
                }
            }
        }
        let mut metric = e.encode_descriptor(
            "probe_duration_seconds",
            "Duration of probes.",
            None,
            MetricType::Histogram,
        )?;
        for server in servers {
            let addr = server.real_server.to_string();
            for checker in &server.checkers {
                let labels = checker_labels(&server.virtual_server, &addr, checker);
                histogram(&mut metric, &labels, &checker.latency_us, checker.latency_total_us)?;
            }
        }
        let quorum = &self.0.quorum;
        let mut metric = gauge(e, "quorum_up", "1 when enough real servers are up.")?;
        for q in quorum {
            metric.gauge(&vec![("virtual_server", &q.virtual_server)], i64::from(q.quorum_up))?;
        }
        let mut metric = gauge(e, "sorry_server_in_use", "1 when the sorry server stands in.")?;
        for q in quorum {
            let labels = vec![("virtual_server", q.virtual_server.as_str())];
            metric.gauge(&labels, i64::from(q.sorry_in_use))?;
        }
        Ok(())
    }

    fn forwarder(&self, e: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let Some(forwarder) = &self.0.forwarder else { return Ok(()) };
        gauge(e, "engine", "1 for what forwards: xdp, ipvs, or none.")?
            .gauge(&vec![("engine", forwarder.engine.as_str())], 1)?;
        gauge(e, "flows", "Connections in the flow tables.")?
            .gauge(&vec![], signed(forwarder.flows))?;
        gauge(e, "flows_limit", "Size of the flow table of each address family.")?
            .gauge(&vec![], signed(forwarder.flows_max))?;
        gauge(e, "embryos", "Connections that have not finished opening.")?
            .gauge(&vec![], signed(forwarder.embryos))?;
        counter(e, "reconcile_errors", "Operations on the data plane that failed.")?
            .counter(&vec![], forwarder.reconcile_errors)?;
        let mut metric = e.encode_descriptor(
            "health_to_map_seconds",
            "From a checker's verdict to the data plane's maps.",
            None,
            MetricType::Histogram,
        )?;
        histogram(&mut metric, &vec![], &forwarder.verdict_us, forwarder.verdict_total_us)?;
        if let Some(ns) = forwarder.ns_per_packet {
            gauge(e, "packet_nanoseconds", "Average cost of a packet in the kernel program.")?
                .gauge(&vec![], signed(ns))?;
        }
        let mut metric = counter(e, "packets", "Packets by outcome.")?;
        for (outcome, count) in &forwarder.outcomes {
            metric.counter(&vec![("outcome", outcome)], *count)?;
        }
        let mut metric = counter(
            e,
            "reset_segments",
            "Segments about connections of dead real servers: probe (to a client), reset (to a server), failed.",
        )?;
        for (kind, count) in &forwarder.reset_segments {
            metric.counter(&vec![("kind", kind)], *count)?;
        }
        let mut metric = gauge(e, "interface_attached", "1 when the program is on the interface.")?;
        for interface in &forwarder.interfaces {
            let labels = vec![("interface", interface.name.as_str()), ("mode", &interface.mode)];
            metric.gauge(&labels, i64::from(interface.mode != "none"))?;
        }
        self.virtual_servers(e)?;
        self.real_servers(e)
    }

    fn virtual_servers(&self, e: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let Some(forwarder) = &self.0.forwarder else { return Ok(()) };
        type Read = fn(&crate::base::status::VirtualServerStatus) -> u64;
        let counters: [(&str, &str, Read); 7] = [
            ("virtual_server_connections", "Connections given to a real server.", |vs| {
                vs.connections
            }),
            (
                "virtual_server_unavailable",
                "Connections refused for want of a real server.",
                |vs| vs.unavailable,
            ),
            (
                "virtual_server_table_full",
                "Packets forwarded by hash because the table of connections was full.",
                |vs| vs.table_full,
            ),
            ("virtual_server_resets", "RSTs sent to clients.", |vs| vs.resets),
            (
                "virtual_server_templates_full",
                "Connections whose client found no room among those that keep their real server.",
                |vs| vs.templates_full,
            ),
            ("virtual_server_packets", "Packets, both directions.", |vs| vs.packets),
            ("virtual_server_bytes", "Bytes, both directions.", |vs| vs.bytes),
        ];
        for (name, help, read) in counters {
            let mut metric = counter(e, name, help)?;
            for vs in &forwarder.virtual_servers {
                metric.counter(&vec![("virtual_server", &vs.key)], read(vs))?;
            }
        }
        let help = "Clients or networks that keep their real server, where persistence is set.";
        let mut metric = gauge(e, "virtual_server_templates", help)?;
        for vs in &forwarder.virtual_servers {
            if let Some(templates) = vs.templates {
                metric.gauge(&vec![("virtual_server", &vs.key)], signed(templates))?;
            }
        }
        Ok(())
    }

    fn real_servers(&self, e: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let Some(forwarder) = &self.0.forwarder else { return Ok(()) };
        type Read = fn(&crate::base::status::RealServerStatus) -> u64;
        let gauges: [(&str, &str, Read); 4] = [
            ("real_server_up", "1 when it takes new connections.", |rs| {
                u64::from(rs.state == "UP" && rs.problem.is_none())
            }),
            ("real_server_weight", "Weight in force.", |rs| u64::from(rs.weight)),
            ("real_server_active_connections", "Established connections.", |rs| {
                rs.active_connections
            }),
            ("real_server_stale_connections", "Connections that lost it, not reset yet.", |rs| {
                rs.stale_connections
            }),
        ];
        let counters: [(&str, &str, Read); 3] = [
            ("real_server_connections", "Connections given to it.", |rs| rs.connections),
            ("real_server_packets", "Packets forwarded to it.", |rs| rs.packets),
            ("real_server_bytes", "Bytes forwarded to it.", |rs| rs.bytes),
        ];
        for (name, help, read) in gauges {
            let mut metric = gauge(e, name, help)?;
            for vs in &forwarder.virtual_servers {
                for rs in &vs.real_servers {
                    let addr = rs.addr.to_string();
                    let labels = vec![("virtual_server", vs.key.as_str()), ("real_server", &addr)];
                    metric.gauge(&labels, signed(read(rs)))?;
                }
            }
        }
        for (name, help, read) in counters {
            let mut metric = counter(e, name, help)?;
            for vs in &forwarder.virtual_servers {
                for rs in &vs.real_servers {
                    let addr = rs.addr.to_string();
                    let labels = vec![("virtual_server", vs.key.as_str()), ("real_server", &addr)];
                    metric.counter(&labels, read(rs))?;
                }
            }
        }
        Ok(())
    }
}

impl Snapshot {
    fn flow_sync(&self, e: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let sync = self.0.forwarder.as_ref().and_then(|forwarder| forwarder.flow_sync.as_ref());
        let Some(sync) = sync else { return Ok(()) };
        gauge(e, "flow_sync_settled", "0 while mastership is held back for peers' connections.")?
            .gauge(&vec![], i64::from(sync.settled))?;
        type Read = fn(&SyncPeerStatus) -> u64;
        let peers: Vec<_> = sync.peers.iter().map(|peer| (peer.addr.to_string(), peer)).collect();
        let gauges: [(&str, &str, Read); 3] = [
            ("flow_sync_peer_in_sync", "1 when all connections of the peer are here.", |peer| {
                u64::from(peer.state == "in sync")
            }),
            ("flow_sync_peer_away", "1 when the peer is not heard.", |peer| {
                u64::from(peer.state == "away")
            }),
            ("flow_sync_behind", "Datagrams of the peer that are missing.", |peer| peer.behind),
        ];
        for (name, help, read) in gauges {
            let mut metric = gauge(e, name, help)?;
            for (addr, peer) in &peers {
                metric.gauge(&vec![("peer", addr)], signed(read(peer)))?;
            }
        }
        let mut metric = counter(e, "flow_sync_received", "Records heard of a peer.")?;
        for (addr, peer) in &peers {
            for (kind, count) in &peer.received {
                metric.counter(&vec![("peer", addr), ("kind", kind)], *count)?;
            }
        }
        let counters: [(&str, &str, Read); 3] = [
            ("flow_sync_gaps", "Requests for datagrams that were missing.", |peer| peer.gaps),
            ("flow_sync_duplicates", "Datagrams that had come before.", |peer| peer.duplicates),
            ("flow_sync_resyncs", "Full resyncs heard to their end.", |peer| peer.resyncs),
        ];
        for (name, help, read) in counters {
            let mut metric = counter(e, name, help)?;
            for (addr, peer) in &peers {
                metric.counter(&vec![("peer", addr)], read(peer))?;
            }
        }
        let mut metric = counter(e, "flow_sync_sent", "Records told to peers.")?;
        for (kind, count) in &sync.sent {
            metric.counter(&vec![("kind", kind)], *count)?;
        }
        let mut metric =
            counter(e, "flow_sync_rejected", "Datagrams that were not taken, by reason.")?;
        for (reason, count) in &sync.rejected {
            metric.counter(&vec![("reason", reason)], *count)?;
        }
        let help = "Connections that peers told of: entered, or why not.";
        let mut metric = counter(e, "flow_sync_connections", help)?;
        for (result, count) in &sync.connections {
            metric.counter(&vec![("result", result)], *count)?;
        }
        for (name, help, value) in [
            ("flow_sync_datagrams_sent", "Datagrams sent.", sync.datagrams_sent),
            ("flow_sync_repaired", "Datagrams sent again for a peer.", sync.repaired),
            ("flow_sync_resyncs_sent", "Full resyncs told.", sync.resyncs_sent),
            ("flow_sync_datagrams_lost", "Datagrams that did not leave.", sync.datagrams_lost),
            (
                "flow_sync_changes_lost",
                "Times that the program had no room for changes; all is then told anew.",
                sync.changes_lost,
            ),
        ] {
            counter(e, name, help)?.counter(&vec![], value)?;
        }
        Ok(())
    }
}

const HEALTHS: [(Health, &str); 6] = [
    (Health::Up, "up"),
    (Health::Suspect, "suspect"),
    (Health::Full, "full"),
    (Health::Drain, "drain"),
    (Health::Down, "down"),
    (Health::Unknown, "unknown"),
];

fn checker_labels<'a>(
    virtual_server: &'a str,
    real_server: &'a str,
    checker: &'a CheckerStatus,
) -> Labels<'a> {
    vec![
        ("virtual_server", virtual_server),
        ("real_server", real_server),
        ("checker", &checker.kind),
        ("target", &checker.target),
    ]
}

/// Buckets by upper bound in microseconds, not cumulative; `u64::MAX` is the unbounded one.
fn histogram(
    metric: &mut MetricEncoder<'_>,
    labels: &Labels<'_>,
    buckets_us: &BTreeMap<u64, u64>,
    total_us: u64,
) -> fmt::Result {
    let mut buckets: Vec<(f64, u64)> = buckets_us
        .iter()
        .map(|(bound, count)| match *bound {
            u64::MAX => (f64::INFINITY, *count),
            bound => (bound as f64 / 1e6, *count),
        })
        .collect();
    if buckets.last().is_none_or(|(bound, _)| bound.is_finite()) {
        buckets.push((f64::INFINITY, 0)); // the format wants one
    }
    let count = buckets.iter().map(|(_, count)| count).sum();
    let sum = total_us as f64 / 1e6;
    if labels.is_empty() {
        return metric.encode_histogram(sum, count, &buckets, NO_EXEMPLARS);
    }
    metric.encode_family(labels)?.encode_histogram(sum, count, &buckets, NO_EXEMPLARS)
}

/// We give no exemplars; the encoder wants to know of which type.
type Exemplars = HashMap<usize, Exemplar<[(&'static str, &'static str); 0], f64>>;
const NO_EXEMPLARS: Option<&Exemplars> = None;

#[cfg(test)]
#[path = "metrics_tests.rs"]
mod tests;
