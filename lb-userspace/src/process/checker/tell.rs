//! What is told of real and virtual servers that go up or down: scripts, FIFO lines, mail.

use std::net::SocketAddr;

use crate::{
    base::net::VirtualServerKey,
    config::model::{Command, VirtualServer},
    vrrp::notify::{Channel, LineKind, Mail, Notification, Script},
};

/// keepalived's form of an address in lines and subjects: `[192.0.2.1]:tcp:3306`.
fn shown(key: VirtualServerKey, addr: SocketAddr) -> String {
    format!("[{}]:{}:{}", addr.ip(), key.protocol, addr.port())
}

fn word(up: bool) -> &'static str {
    if up { "UP" } else { "DOWN" }
}

fn scripts(word: &str, command: Option<&Command>) -> Vec<Script> {
    command
        .map(|command| Script { word: word.to_owned(), command: command.clone(), args: vec![] })
        .into_iter()
        .collect()
}

/// A real server went up or down. `None`: the configuration does not have it.
pub(super) fn real_server(
    service: &VirtualServer,
    addr: SocketAddr,
    up: bool,
) -> Option<Notification> {
    let server = service.real_servers.iter().find(|server| server.addr == addr)?;
    let (script, command) =
        if up { ("notify_up", &server.notify_up) } else { ("notify_down", &server.notify_down) };
    let (rs, vs) = (shown(service.key, addr), shown(service.key, service.key.addr));
    let state = word(up);
    Some(Notification {
        object: format!("real_server {addr} in virtual_server {}", service.key),
        state: None,
        scripts: scripts(script, command.as_ref()),
        channel: Channel::Lvs,
        kind: LineKind::State,
        line: Some(format!("RS {rs} {vs} {state}")),
        mail: server.mail.then(|| Mail {
            subject: format!("Realserver {rs} of virtual server {vs} - {state}"),
            text: match up {
                true => "Its checks succeed; it takes new connections.".to_owned(),
                false => "Its checks fail; it takes no connections.".to_owned(),
            },
        }),
    })
}

/// Quorum of a virtual server was gained or lost.
pub(super) fn quorum(service: &VirtualServer, up: bool) -> Notification {
    let (script, command) =
        if up { ("quorum_up", &service.quorum_up) } else { ("quorum_down", &service.quorum_down) };
    let (vs, state) = (shown(service.key, service.key.addr), word(up));
    Notification {
        object: format!("quorum of virtual_server {}", service.key),
        state: None,
        scripts: scripts(script, command.as_ref()),
        channel: Channel::Lvs,
        kind: LineKind::State,
        line: Some(format!("VS {vs} {state}")),
        mail: service.mail.then(|| Mail {
            subject: format!("Virtualserver {vs} - {state}"),
            text: match up {
                true => "Enough of its real servers are up.".to_owned(),
                false => "Too few of its real servers are up.".to_owned(),
            },
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "virtual_server 192.0.2.1 3306 {\n lb_algo rr\n lb_kind DR\n protocol TCP\n \
        smtp_alert\n quorum_down /bin/q\n real_server 192.0.2.2 3306 {\n  notify_up /bin/u\n \
        TCP_CHECK {\n }\n }\n}\n";

    #[test]
    fn lines_and_subjects_are_keepaliveds() {
        let config = crate::config::load("test", TEXT).config.expect("good");
        let service = &config.virtual_servers[0];
        let addr = service.real_servers[0].addr;
        let up = real_server(service, addr, true).expect("known");
        assert_eq!(up.line.as_deref(), Some("RS [192.0.2.2]:tcp:3306 [192.0.2.1]:tcp:3306 UP"));
        assert_eq!(up.scripts[0].word, "notify_up");
        assert_eq!(
            up.mail.map(|mail| mail.subject).as_deref(),
            Some("Realserver [192.0.2.2]:tcp:3306 of virtual server [192.0.2.1]:tcp:3306 - UP")
        );
        assert!(real_server(service, addr, false).is_some_and(|told| told.scripts.is_empty()));
        let lost = quorum(service, false);
        assert_eq!(lost.line.as_deref(), Some("VS [192.0.2.1]:tcp:3306 DOWN"));
        assert_eq!(lost.scripts[0].word, "quorum_down");
        assert_eq!(
            lost.mail.map(|mail| mail.subject).as_deref(),
            Some("Virtualserver [192.0.2.1]:tcp:3306 - DOWN")
        );
        let none = "192.0.2.9:1".parse().expect("address");
        assert_eq!(real_server(service, none, true), None);
    }
}
