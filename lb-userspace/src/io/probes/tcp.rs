//! TCP_CHECK: is somebody listening?
//!
//! keepalived connects and closes. A MySQL server counts each of these as a connect error and
//! after `max_connect_errors` of them refuses the whole host, which under source NAT is every
//! client. So the probe here stays half open: a SYN from a raw socket; the kernel, which knows
//! of no such connection, answers the SYN/ACK with a RST, and `accept()` never fires.
//!
//! The source port is reserved by a bound TCP socket that never connects, so no connection of
//! this host can collide with the probe. Without CAP_NET_RAW the probe is a full connect, closed
//! by a RST, and the log says so once.

use std::{
    collections::hash_map::RandomState,
    hash::{BuildHasher as _, Hasher as _},
    io::{self, Read as _},
    net::{IpAddr, SocketAddr},
    sync::Once,
    time::Duration,
};

use socket2::{Domain, Protocol, SockAddr, SockFilter, Socket, Type};
use tokio::{io::unix::AsyncFd, net::TcpSocket, time};

use super::{
    is_shortage,
    segment::{self, Reply},
    sys,
};

/// What to probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    pub addr: SocketAddr,
    /// Source address.
    pub bindto: Option<IpAddr>,
    /// For the whole probe.
    pub timeout: Duration,
}

/// Why nobody seems to be listening.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error("connection refused")]
    Refused,
    #[error("no answer within {} ms", .0.as_millis())]
    TimedOut(Duration),
    #[error("{0}")]
    Io(io::Error),
    /// This host had no room for the probe, which says nothing about the server.
    #[error("not made: {0}")]
    NotMade(io::Error),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Self::Refused,
            _ if is_shortage(&error) => Self::NotMade(error),
            _ => Self::Io(error),
        }
    }
}

/// How a probe was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    HalfOpen,
    /// Raw sockets are not allowed.
    Connect,
}

/// Waits before the SYN is sent again, as the kernel's TCP does.
const RESEND: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(2)];

/// Probes once.
///
/// # Errors
/// [`Failure`] in words for the log.
pub async fn probe(target: &Target) -> Result<Manner, Failure> {
    let attempt = async {
        let domain = Domain::for_address(target.addr);
        match Socket::new(domain, Type::RAW.nonblocking(), Some(Protocol::TCP)) {
            Ok(raw) => HalfOpen::start(raw, target)?.finish().await.map(|()| Manner::HalfOpen),
            // Of the socket alone: a packet filter or a route may deny the rest, and that is no reason to be counted.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                static SAID: Once = Once::new();
                SAID.call_once(|| {
                    tracing::warn!(
                        "TCP_CHECK connects in full, because raw sockets are not allowed \
                         (CAP_NET_RAW): a MySQL server counts each probe as a connect error"
                    );
                });
                connect(target).await.map(|()| Manner::Connect)
            }
            Err(error) => Err(error.into()),
        }
    };
    time::timeout(target.timeout, attempt).await.unwrap_or(Err(Failure::TimedOut(target.timeout)))
}

/// A full connect, ended by a RST, which leaves no TIME_WAIT behind.
async fn connect(target: &Target) -> Result<(), Failure> {
    let socket = match target.addr {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    }?;
    if let Some(from) = target.bindto {
        socket.bind(SocketAddr::new(from, 0))?;
    }
    let stream = socket.connect(target.addr).await?;
    socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
    Ok(())
}

/// A SYN that has been sent.
struct HalfOpen {
    raw: AsyncFd<Socket>,
    /// Holds the source port.
    _reserved: Socket,
    from: SocketAddr,
    to: SocketAddr,
    seq: u32,
}

impl HalfOpen {
    fn start(raw: Socket, target: &Target) -> io::Result<Self> {
        let to = target.addr;
        let domain = Domain::for_address(to);
        if let Some(from) = target.bindto {
            raw.bind(&SockAddr::from(SocketAddr::new(from, 0)))?;
        }
        // Connected, so that the kernel hands us this server's packets and ICMP errors only.
        let mut peer = to;
        peer.set_port(0);
        raw.connect(&SockAddr::from(peer))?;
        let source = raw
            .local_addr()?
            .as_socket()
            .ok_or_else(|| io::Error::other("raw socket without a source address"))?;

        let reserved = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
        reserved.bind(&SockAddr::from(SocketAddr::new(source.ip(), 0)))?;
        let port = reserved
            .local_addr()?
            .as_socket()
            .ok_or_else(|| io::Error::other("no source port"))?
            .port();
        let from = SocketAddr::new(source.ip(), port);
        raw.attach_filter(&to_port(port, to.is_ipv4()))?;

        // Unguessable, so that a stranger cannot answer for the server.
        let random = RandomState::new().build_hasher().finish();
        let seq = u32::try_from(random & 0xffff_ffff).unwrap_or(0);
        let probe = Self { raw: sys::register(raw)?, _reserved: reserved, from, to, seq };
        probe.send()?;
        Ok(probe)
    }

    fn send(&self) -> io::Result<()> {
        let segment = segment::syn(self.from, self.to, self.seq)
            .ok_or_else(|| io::Error::other("source and target of different families"))?;
        self.raw.get_ref().send(&segment).map(drop)
    }

    async fn finish(self) -> Result<(), Failure> {
        let mut resend = RESEND.into_iter();
        loop {
            let Some(wait) = resend.next() else {
                return self.answer().await;
            };
            match time::timeout(wait, self.answer()).await {
                Ok(result) => return result,
                Err(_) => self.send()?,
            }
        }
    }

    /// Waits for the server's answer.
    async fn answer(&self) -> Result<(), Failure> {
        let mut buffer = [0u8; 256];
        loop {
            let mut ready = self.raw.readable().await?;
            let length = match ready.try_io(|raw| raw.get_ref().read(&mut buffer)) {
                Err(_would_block) => continue,
                Ok(result) => result?,
            };
            let packet = buffer.get(..length).unwrap_or_default();
            let reply = segment::tcp_part(packet, self.to.is_ipv4())
                .and_then(|tcp| segment::reply(tcp, self.to.port(), self.from.port(), self.seq));
            match reply {
                Some(Reply::Open) => return Ok(()),
                Some(Reply::Refused) => return Err(Failure::Refused),
                None => {}
            }
        }
    }
}

/// Classic BPF: TCP segments to `port` only. A raw socket is otherwise given a copy of every
/// segment from the server, replies of real connections included.
fn to_port(port: u16, v4: bool) -> Vec<SockFilter> {
    let op = |code: u32, jt: u8, jf: u8, k: u32| {
        SockFilter::new(u16::try_from(code).unwrap_or(0), jt, jf, k)
    };
    let load = if v4 {
        vec![
            op(libc::BPF_LDX | libc::BPF_B | libc::BPF_MSH, 0, 0, 0),
            op(libc::BPF_LD | libc::BPF_H | libc::BPF_IND, 0, 0, 2),
        ]
    } else {
        vec![op(libc::BPF_LD | libc::BPF_H | libc::BPF_ABS, 0, 0, 2)]
    };
    let judge = [
        op(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, u32::from(port)),
        op(libc::BPF_RET | libc::BPF_K, 0, 0, 256),
        op(libc::BPF_RET | libc::BPF_K, 0, 0, 0),
    ];
    load.into_iter().chain(judge).collect()
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn target(addr: SocketAddr) -> Target {
        Target { addr, bindto: None, timeout: Duration::from_secs(10) }
    }

    /// A port of this family that nobody listens on, kept from others by the bound socket.
    fn closed_port(ip: &str) -> (Socket, SocketAddr) {
        let ip: IpAddr = ip.parse().expect("an address");
        let socket =
            Socket::new(Domain::for_address((ip, 0).into()), Type::STREAM, None).expect("a socket");
        socket.bind(&SocketAddr::new(ip, 0).into()).expect("bind");
        let addr = socket.local_addr().expect("name").as_socket().expect("inet");
        (socket, addr)
    }

    #[test]
    fn a_shortage_of_this_host_is_no_fault_of_the_server() {
        let failure = |code| Failure::from(io::Error::from_raw_os_error(code));
        for code in [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM, libc::EAGAIN] {
            assert!(matches!(failure(code), Failure::NotMade(_)), "{code}");
        }
        // No port of our own is left.
        assert!(matches!(failure(libc::EADDRINUSE), Failure::NotMade(_)));
        for code in [libc::EHOSTUNREACH, libc::ENETUNREACH, libc::EACCES, libc::EPERM] {
            assert!(matches!(failure(code), Failure::Io(_)), "{code}");
        }
        assert!(matches!(failure(libc::ECONNREFUSED), Failure::Refused));
    }

    #[tokio::test]
    async fn full_connect_tells_open_from_refused() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let addr = listener.local_addr().expect("name");
        connect(&target(addr)).await.expect("open");
        let (_held, addr) = closed_port("127.0.0.1");
        assert!(matches!(connect(&target(addr)).await, Err(Failure::Refused)));
    }

    #[tokio::test]
    async fn half_open_probe_is_never_accepted() {
        for ip in ["127.0.0.1", "::1"] {
            let listener = TcpListener::bind((ip, 0)).expect("bind");
            listener.set_nonblocking(true).expect("nonblocking");
            let addr = listener.local_addr().expect("name");
            for _ in 0..20 {
                match probe(&target(addr)).await.expect("open") {
                    Manner::HalfOpen => {}
                    Manner::Connect => {
                        eprintln!("SKIPPED: no CAP_NET_RAW here");
                        return;
                    }
                }
            }
            let error = listener.accept().expect_err("nothing to accept");
            assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
            let (_held, addr) = closed_port(ip);
            assert!(matches!(probe(&target(addr)).await, Err(Failure::Refused)), "{ip}");
        }
    }

    #[tokio::test]
    async fn bindto_is_the_source_and_a_wrong_one_is_an_error() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let addr = listener.local_addr().expect("name");
        let from =
            |text: &str| Target { bindto: Some(text.parse().expect("an address")), ..target(addr) };
        probe(&from("127.0.0.9")).await.expect("open");
        // TEST-NET-1 is nobody's address.
        assert!(matches!(probe(&from("192.0.2.77")).await, Err(Failure::Io(_))));
    }
}
