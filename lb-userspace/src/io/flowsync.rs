//! The socket of flow sync: UDP to every peer, or to a multicast group on one interface. Never blocks; what the
//! kernel has no room for is lost, counted, and asked for again by who misses it.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use anyhow::Context as _;
use nix::{
    net::if_::if_nametoindex,
    sys::socket::{setsockopt, sockopt},
};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::UdpSocket;

/// Receive and send buffer asked for, bytes: a resync of some thousand datagrams while the forwarder has other work.
const BUFFER: usize = 4 << 20;
/// Longest datagram that is read whole; a longer one is none of ours, and is refused for its length.
const LONGEST: usize = 2048;

/// Where datagrams go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ways {
    /// Peers, or the one group.
    pub to: Vec<IpAddr>,
    pub interface: Option<String>,
    pub source: Option<IpAddr>,
    pub port: u16,
}

/// See the module.
#[derive(Debug)]
pub struct FlowSocket {
    socket: UdpSocket,
    to: Vec<SocketAddr>,
    port: u16,
    scope: u32,
    lost: u64,
}

impl FlowSocket {
    /// Opens and binds it. Needs CAP_NET_RAW to bind to an interface.
    ///
    /// # Errors
    /// With the step that failed: an interface or address that is not there (yet), a port that is taken.
    pub fn open(ways: &Ways) -> anyhow::Result<Self> {
        let Ways { to, interface, source, port } = ways;
        let v6 = to.first().is_some_and(IpAddr::is_ipv6);
        let domain = if v6 { Domain::IPV6 } else { Domain::IPV4 };
        let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP)).context("open it")?;
        socket.set_nonblocking(true).context("make it nonblocking")?;
        socket.set_reuse_address(true).context("set SO_REUSEADDR")?;
        if v6 {
            socket.set_only_v6(true).context("set IPV6_V6ONLY")?;
        }
        let scope = match interface {
            Some(name) => {
                socket
                    .bind_device(Some(name.as_bytes()))
                    .with_context(|| format!("bind to {name}"))?;
                if_nametoindex(name.as_str()).with_context(|| format!("look up {name}"))?
            }
            None => 0,
        };
        let any: IpAddr =
            if v6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
        let group = to.first().copied().filter(IpAddr::is_multicast);
        // Bound to its own address a socket hears no group.
        let local = if group.is_some() { any } else { source.unwrap_or(any) };
        let local = scoped(local, *port, scope);
        socket.bind(&local.into()).with_context(|| format!("bind to {local}"))?;
        match group {
            Some(IpAddr::V4(group)) => {
                let by = socket2::InterfaceIndexOrAddress::Index(scope);
                socket.join_multicast_v4_n(&group, &by).with_context(|| format!("join {group}"))?;
                // It is the default by itself, and the source address with it.
                if let Some(IpAddr::V4(source)) = source {
                    socket.set_multicast_if_v4(source).context("set IP_MULTICAST_IF")?;
                }
                socket.set_multicast_loop_v4(false).context("unset IP_MULTICAST_LOOP")?;
            }
            Some(IpAddr::V6(group)) => {
                socket.join_multicast_v6(&group, scope).with_context(|| format!("join {group}"))?;
                socket.set_multicast_if_v6(scope).context("set IPV6_MULTICAST_IF")?;
                socket.set_multicast_loop_v6(false).context("unset IPV6_MULTICAST_LOOP")?;
            }
            None => {}
        }
        // As much as there is; less means more gaps, which heal.
        let _ = socket.set_recv_buffer_size(BUFFER);
        let _ = socket.set_send_buffer_size(BUFFER);
        // Beyond net.core.rmem_max, which CAP_NET_ADMIN allows.
        let _ = setsockopt(&socket, sockopt::RcvBufForce, &BUFFER);
        let socket = UdpSocket::from_std(socket.into()).context("watch it")?;
        let to = to.iter().map(|addr| scoped(*addr, *port, scope)).collect();
        Ok(Self { socket, to, port: *port, scope, lost: 0 })
    }

    /// Waits until there may be something to read.
    ///
    /// # Errors
    /// That of the kernel.
    pub async fn readable(&self) -> io::Result<()> {
        self.socket.readable().await
    }

    /// The next datagram and who sent it; `None` when there is none now.
    pub fn receive(&self) -> Option<(IpAddr, Vec<u8>)> {
        let mut bytes = vec![0; LONGEST];
        loop {
            match self.socket.try_recv_from(&mut bytes) {
                Ok((length, from)) => {
                    bytes.truncate(length);
                    return Some((from.ip().to_canonical(), bytes));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return None,
                // What an earlier one met on its way (ICMP); each is told once.
                Err(_) => {}
            }
        }
    }

    /// Sends to every peer, or to the group.
    pub fn send_all(&mut self, bytes: &[u8]) {
        for at in 0..self.to.len() {
            if let Some(to) = self.to.get(at).copied() {
                self.send(to, bytes);
            }
        }
    }

    /// Sends to one of them.
    pub fn send_one(&mut self, to: IpAddr, bytes: &[u8]) {
        self.send(scoped(to, self.port, self.scope), bytes);
    }

    fn send(&mut self, to: SocketAddr, bytes: &[u8]) {
        let sent = SockRef::from(&self.socket).send_to(bytes, &to.into());
        // What the last one met on its way is told by this one, which was then not sent.
        let again =
            sent.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused);
        let sent =
            if again { SockRef::from(&self.socket).send_to(bytes, &to.into()) } else { sent };
        if sent.is_err() {
            self.lost += 1;
        }
    }

    /// Datagrams that the kernel did not take (no room, no route).
    pub fn lost(&self) -> u64 {
        self.lost
    }
}

fn scoped(addr: IpAddr, port: u16, scope: u32) -> SocketAddr {
    let mut addr = SocketAddr::new(addr, port);
    if let SocketAddr::V6(v6) = &mut addr {
        v6.set_scope_id(scope);
    }
    addr
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    async fn next(socket: &FlowSocket) -> (IpAddr, Vec<u8>) {
        let waiting = async {
            loop {
                socket.readable().await.expect("readable");
                if let Some(got) = socket.receive() {
                    return got;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(10), waiting).await.expect("in time")
    }

    /// Loopback addresses of their own stand for two hosts.
    #[tokio::test]
    async fn two_hosts_hear_each_other() {
        let hosts: [IpAddr; 2] =
            ["127.3.1.1", "127.3.1.2"].map(|ip| ip.parse().expect("an address"));
        let port = 20_000 + (std::process::id() % 20_000) as u16;
        let open = |own: usize| {
            FlowSocket::open(&Ways {
                to: vec![hosts[1 - own]],
                interface: None,
                source: Some(hosts[own]),
                port,
            })
        };
        let (mut one, mut two) = (open(0).expect("opened"), open(1).expect("opened"));
        one.send_all(b"to all");
        assert_eq!(next(&two).await, (hosts[0], b"to all".to_vec()));
        two.send_one(hosts[0], b"to one");
        assert_eq!(next(&one).await, (hosts[1], b"to one".to_vec()));
        // A peer that is away is no error that stays.
        drop(two);
        for _ in 0..3 {
            one.send_all(b"nobody");
        }
        let mut two = open(1).expect("opened");
        two.send_one(hosts[0], b"back");
        assert_eq!(next(&one).await.1, b"back");
        one.send_all(b"again");
        assert_eq!(next(&two).await.1, b"again");
    }

    #[test]
    fn what_is_not_there_is_named() {
        let runtime = tokio::runtime::Runtime::new().expect("runtime");
        let _entered = runtime.enter();
        let ways = Ways {
            to: vec!["127.0.0.1".parse().expect("an address")],
            interface: Some("no-such-if".to_owned()),
            source: None,
            port: 1,
        };
        let error = format!("{:#}", FlowSocket::open(&ways).expect_err("not there"));
        assert!(error.contains("no-such-if"), "{error}");
    }
}
