//! The role on a host where no engine can be had: VRRP alone goes on unfenced, virtual servers
//! wait for a host that can carry them.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use anyhow::{Context as _, bail};
use tokio::time::{Instant, sleep_until};
use tracing::{error, warn};

use crate::{
    base::{status::ForwarderStatus, table::Engine},
    config::model::Config,
    desired::{Inputs, LeaseSlots, placement},
    process::{
        Link,
        ipc::{Down, Event, Query, Reply, Runtime, Up},
        leftovers,
    },
};

/// With virtual servers in the configuration, a new process tries again after this long; more
/// than a stable run, so that the watchdog counts no crash loop.
pub const RETRY: Duration = Duration::from_secs(15);

/// The sentence for the operator.
pub fn no_engine(why: &str) -> String {
    format!("no engine: {why}")
}

/// Why XDP is not it.
pub fn xdp_failed(why: &str) -> String {
    format!("xdp failed because {why}")
}

/// Runs the role without an engine until it is told to stop or the watchdog is gone.
///
/// With virtual servers it says [`Up::Fatal`] and waits: the watchdog ends the daemon at its first
/// start. A daemon that has served before keeps what its vrrp process holds; this process ends after
/// `retry`.
///
/// # Errors
/// When it is worth while to try again for an engine, or the watchdog takes no messages.
pub async fn run(
    mut link: Link,
    mut config: Arc<Config>,
    mut generation: u64,
    runtime: &Runtime,
    message: String,
    retry: Duration,
) -> anyhow::Result<()> {
    let again = Instant::now() + retry;
    let waits = !config.virtual_servers.is_empty();
    if waits {
        error!("{message}");
        say(&link, Up::Fatal { message: message.clone() }).await?;
    } else {
        announce(&link, &config, generation, &message).await?;
    }
    loop {
        let heard = tokio::select! {
            heard = link.rx.recv() => heard,
            () = sleep_until(again), if waits => bail!("{message}"),
        };
        match heard {
            None => return Ok(()),
            Some(Down::Stop) => {
                leftovers::remove(&runtime.run_dir).await;
                let _ = link.tx.send(Up::Stopped).await; // the watchdog may be gone
                return Ok(());
            }
            Some(Down::Ping { seq }) => say(&link, Up::Pong { seq }).await?,
            Some(Down::Reload { generation: next, config: new }) => {
                if !new.virtual_servers.is_empty() {
                    say(&link, Up::Refused { generation: next, why: message.clone() }).await?;
                    continue;
                }
                (generation, config) = (next, new);
                say(&link, Up::Taken { generation }).await?;
                announce(&link, &config, generation, &message).await?;
            }
            Some(Down::Query { id, query }) => {
                let reply = answer(&config, generation, runtime.vrrp, query, &message);
                say(&link, Up::Reply { id, reply }).await?;
            }
            Some(_) => {}
        }
    }
}

/// VRRP works as it does in keepalived.
async fn announce(
    link: &Link,
    config: &Config,
    generation: u64,
    message: &str,
) -> anyhow::Result<()> {
    warn!("this host cannot fence itself: {message}");
    let leases = LeaseSlots::default().allocate(config, &BTreeMap::new()).0.list();
    say(link, Up::Event(Event::Converged { generation, leases, fenced: false })).await?;
    say(link, Up::Ready { generation }).await
}

async fn say(link: &Link, up: Up) -> anyhow::Result<()> {
    link.tx.send(up).await.context("the watchdog takes no messages")
}

fn answer(config: &Config, generation: u64, vrrp: bool, query: Query, message: &str) -> Reply {
    match query {
        Query::Status => Reply::Forwarder(Box::new(ForwarderStatus {
            engine: "none".into(),
            generation,
            problem: (!config.virtual_servers.is_empty()).then(|| message.to_owned()),
            ..Default::default()
        })),
        Query::Flows { .. } => Reply::Flows(Vec::new()),
        Query::Explain { what } => {
            let (slots, _) = LeaseSlots::default().allocate(config, &BTreeMap::new());
            let inputs = Inputs {
                config,
                engine: Engine::default(),
                masters: &Default::default(),
                vrrp,
                slots: &slots,
                health: &Default::default(),
                quorum: &Default::default(),
                admin: &Default::default(),
                host: &Default::default(),
                now: super::clock::now(),
            };
            placement::explain(&inputs, &what)
                .map_or_else(Reply::Error, |text| Reply::Text(format!("{text}\n{message}")))
        }
        _ => Reply::Error(message.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;
    use crate::{
        config,
        process::{forwarder::tests, ipc::EngineChoice},
    };

    const WHY: &str = "the kernel has no bpf(2)";

    struct Rig {
        down: mpsc::Sender<Down>,
        up: mpsc::Receiver<Up>,
        role: tokio::task::JoinHandle<anyhow::Result<()>>,
    }

    impl Rig {
        fn start(config: Arc<Config>, retry: Duration) -> Self {
            let ((down, rx), (tx, up)) = (mpsc::channel(8), mpsc::channel(8));
            let link = Link { rx, tx };
            let role = tokio::spawn(async move {
                // A run directory in which no vrrp process has left anything.
                let dir = tempfile::tempdir().expect("tempdir");
                let runtime = Runtime {
                    instance: None,
                    run_dir: dir.path().to_owned(),
                    pin_dir: dir.path().to_owned(),
                    config_file: dir.path().join("lbd.conf"),
                    engine: EngineChoice::Auto,
                    record: None,
                    vrrp: true,
                    checker: true,
                };
                run(link, config, 1, &runtime, no_engine(WHY), retry).await
            });
            Self { down, up, role }
        }

        async fn heard(&mut self) -> Up {
            self.up.recv().await.expect("the role goes on")
        }
    }

    fn vrrp_only() -> Arc<Config> {
        let text = "vrrp_instance VI_1 {\n interface eth0\n virtual_router_id 51\n \
                    virtual_ipaddress {\n 192.0.2.1/24\n }\n}\n";
        Arc::new(config::load("test", text).config.expect("a good configuration"))
    }

    #[tokio::test]
    async fn vrrp_alone_goes_on_and_a_virtual_server_is_refused() {
        let mut rig = Rig::start(vrrp_only(), Duration::ZERO);
        let said = rig.heard().await;
        assert!(
            matches!(&said, Up::Event(Event::Converged { fenced: false, leases, .. })
                if leases.iter().any(|(name, _)| name == "VI_1")),
            "{said:?}"
        );
        assert!(matches!(rig.heard().await, Up::Ready { generation: 1 }));
        let config = tests::config(&[1]);
        rig.down.send(Down::Reload { generation: 2, config }).await.expect("it listens");
        let said = rig.heard().await;
        let refused = matches!(&said, Up::Refused { generation: 2, why } if why.contains(WHY));
        assert!(refused, "{said:?}");
        // What was in force is.
        rig.down.send(Down::Query { id: 7, query: Query::Status }).await.expect("it listens");
        let said = rig.heard().await;
        let Up::Reply { id: 7, reply: Reply::Forwarder(status) } = said else { panic!("{said:?}") };
        assert_eq!((status.generation, status.problem), (1, None));
        let config = vrrp_only();
        rig.down.send(Down::Reload { generation: 2, config }).await.expect("it listens");
        assert!(matches!(rig.heard().await, Up::Taken { generation: 2 }));
        assert!(matches!(rig.heard().await, Up::Event(Event::Converged { generation: 2, .. })));
        assert!(matches!(rig.heard().await, Up::Ready { generation: 2 }));
        drop(rig.down);
        rig.role.await.expect("no panic").expect("an orderly end");
    }

    /// At the first start the watchdog ends all; a daemon that serves goes on, and a new process
    /// tries again.
    #[tokio::test]
    async fn virtual_servers_wait_for_an_engine_and_are_never_ready() {
        let mut rig = Rig::start(tests::config(&[1]), Duration::from_secs(2));
        let said = rig.heard().await;
        assert!(matches!(&said, Up::Fatal { message } if message.contains(WHY)), "{said:?}");
        rig.down.send(Down::Query { id: 7, query: Query::Status }).await.expect("it listens");
        let said = rig.heard().await;
        let Up::Reply { reply: Reply::Forwarder(status), .. } = said else { panic!("{said:?}") };
        assert!(status.problem.is_some_and(|problem| problem.contains(WHY)));
        let error = rig.role.await.expect("no panic").expect_err("a new process is to try");
        assert!(error.to_string().contains(WHY), "{error:#}");
        assert!(rig.up.recv().await.is_none(), "never Ready");
    }
}
