//! Ends this host's own TCP connections on addresses that are about to leave it.
//!
//! Without that, a peer whose request is just being answered waits for its own time-out: the answer
//! would leave with an address that the host has no more, so it never leaves. The kernel ends a
//! socket on request (`SOCK_DESTROY` of sock_diag(7)) and tells the peer by a RST, which must happen
//! while the address is still there. The fence does not stop it, because XDP sees ingress only.
//!
//! What is left of ended connections (TIME-WAIT and its like) is forgotten too. When the VIP comes back
//! within a minute, it would catch the client that has taken the same port for a connection to the host
//! between: TIME-WAIT answers a stray segment with an ACK, which that client ignores, and no RST, so that
//! it waits for minutes.
//!
//! Listening sockets are never touched: they are not asked for, and every socket is named with the
//! cookie that the kernel gave it, so that one that is gone meanwhile is not taken for the listener
//! on the same address.

use std::{collections::BTreeSet, io, net::IpAddr, time::Duration};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader, NetlinkMessage,
    NetlinkPayload, NetlinkSerializable,
};
use netlink_packet_sock_diag::{
    AF_INET, AF_INET6, IPPROTO_TCP, SockDiagDestroy, SockDiagMessage,
    inet::{ExtensionFlags, InetRequest, SocketId, StateFlags},
};
use netlink_sys::{Socket, protocols::NETLINK_SOCK_DIAG};
use nix::time::{ClockId, clock_gettime};

/// All connections of one change of addresses together are given this much of a processor, and then their
/// remains as much again; what is left times out. A host that cannot fence itself answers for the VIP so much
/// longer. A connection takes some 10 to 30 µs. Of a processor, because a host that is busy with other things
/// would otherwise end none.
const TIME_LIMIT: Duration = Duration::from_millis(100);
/// Connections that are aborted for one change of addresses.
const COUNT_LIMIT: usize = 65_536;
/// Sockets are listed again until none is left, at most so often: a list of a table that others
/// change at the same moment may miss some.
const ROUNDS: u32 = 3;
/// The kernel fills a message of a dump up to this.
const MESSAGE_LEN: usize = 32 << 10;

/// What became of the connections.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Aborted {
    /// Connections that ended; their peers were sent a RST.
    pub count: u32,
    /// Why others did not.
    pub error: Option<String>,
}

/// Connections of which the peer is told by a RST, and those under way from here.
const LIVING: StateFlags = StateFlags::ESTABLISHED
    .union(StateFlags::SYN_SENT)
    .union(StateFlags::FIN_WAIT1)
    .union(StateFlags::FIN_WAIT2)
    .union(StateFlags::CLOSE_WAIT);
/// Half-open ones and remains: forgotten without a word.
const REMAINS: StateFlags = StateFlags::SYN_RECV
    .union(StateFlags::LAST_ACK)
    .union(StateFlags::CLOSING)
    .union(StateFlags::TIME_WAIT);

/// A server on `::` has IPv4 connections with mapped addresses, in sockets of the family of IPv6.
fn is_of(id: &SocketId, addresses: &BTreeSet<IpAddr>) -> bool {
    addresses.contains(&id.source_address.to_canonical())
}

/// Ends connections. Remembers whether the kernel can.
#[derive(Debug, Default)]
pub(super) struct Connections {
    /// It cannot, and that was told.
    unable: bool,
}

impl Connections {
    /// Ends every TCP connection whose address on this host is one of these. Does not wait for
    /// anything but the kernel's own work, for twice [`TIME_LIMIT`] at most.
    pub(super) fn abort(&mut self, addresses: &BTreeSet<IpAddr>) -> Aborted {
        let mut done = Aborted::default();
        if addresses.is_empty() || self.unable {
            return done;
        }
        done.error = abort(addresses, &mut done.count).err().map(|error| {
            self.unable = matches!(error, Error::Unable(_));
            error.to_string()
        });
        done
    }
}

/// What this thread has computed; nothing where the kernel does not say, so that the other limit holds alone.
fn computed() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map(Duration::from).unwrap_or_default()
}

#[derive(Clone, Copy)]
struct Limits {
    /// By [`computed`].
    deadline: Duration,
    count: usize,
}

impl Limits {
    fn from_now() -> Self {
        Self { deadline: computed() + TIME_LIMIT, count: COUNT_LIMIT }
    }

    fn over(self) -> bool {
        computed() >= self.deadline
    }
}

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(
        "this kernel cannot end connections of an address that leaves ({0}; it takes \
         CONFIG_INET_DIAG_DESTROY): their peers wait for their own time-out"
    )]
    Unable(io::Error),
    #[error("more than {0} connections: the others wait for their own time-out")]
    Count(usize),
    #[error("no time left after {TIME_LIMIT:?}: {0} connections wait for their own time-out")]
    Time(usize),
    #[error("not all that is left of ended connections could be removed in {TIME_LIMIT:?}")]
    Remains,
    #[error("list TCP sockets: {0}")]
    List(io::Error),
    #[error("{failed} connections not ended, the first because: {first}")]
    End { failed: usize, first: io::Error },
}

fn abort(addresses: &BTreeSet<IpAddr>, count: &mut u32) -> Result<(), Error> {
    let mut kernel = Kernel::open().map_err(Error::List)?;
    kernel.try_destroy().map_err(Error::Unable)?;
    let families = if addresses.iter().any(IpAddr::is_ipv4) {
        [AF_INET, AF_INET6].as_slice()
    } else {
        [AF_INET6].as_slice()
    };
    let limits = Limits::from_now();
    for &family in families {
        clear(&mut kernel, family, LIVING, addresses, limits, count)?;
    }
    let limits = Limits::from_now();
    for &family in families {
        let done = clear(&mut kernel, family, REMAINS, addresses, limits, &mut 0);
        done.map_err(|error| match error {
            Error::Count(_) | Error::Time(_) => Error::Remains,
            other => other,
        })?;
    }
    Ok(())
}

/// Ends all sockets in these states, and counts them.
fn clear(
    kernel: &mut Kernel,
    family: u8,
    states: StateFlags,
    addresses: &BTreeSet<IpAddr>,
    limits: Limits,
    count: &mut u32,
) -> Result<(), Error> {
    for _ in 0..ROUNDS {
        let all = request(family, states.clone(), SocketId::new_v6());
        let (found, complete) = kernel.list(all, addresses, limits)?;
        let before = *count;
        end(kernel, family, &found, limits, count)?;
        if !complete {
            return Err(Error::Count(limits.count));
        }
        if *count == before {
            break;
        }
    }
    Ok(())
}

fn end(
    kernel: &mut Kernel,
    family: u8,
    found: &[SocketId],
    limits: Limits,
    count: &mut u32,
) -> Result<(), Error> {
    let (mut failed, mut first) = (0, None);
    for (at, id) in found.iter().enumerate() {
        if limits.over() {
            return Err(Error::Time(found.len() - at));
        }
        match kernel.destroy(family, id) {
            Ok(()) => *count += 1,
            Err(error) => match error.raw_os_error() {
                // It ended by itself, or its place is another socket's by now. Older kernels do not
                // end what is in TIME-WAIT.
                Some(libc::ENOENT | libc::ESTALE | libc::EOPNOTSUPP) => {}
                _ => {
                    failed += 1;
                    first.get_or_insert(error);
                }
            },
        }
    }
    first.map_or(Ok(()), |first| Err(Error::End { failed, first }))
}

/// A socket of sock_diag. The kernel answers while it is asked, so nothing ever waits here.
struct Kernel {
    socket: Socket,
    buffer: Vec<u8>,
}

impl Kernel {
    fn open() -> io::Result<Self> {
        let socket = Socket::new(NETLINK_SOCK_DIAG)?;
        socket.set_non_blocking(true)?;
        Ok(Self { socket, buffer: vec![0; MESSAGE_LEN] })
    }

    /// Whether it ends sockets at all, asked with one that cannot exist.
    fn try_destroy(&mut self) -> io::Result<()> {
        match self.destroy(AF_INET, &SocketId::new_v4()) {
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESTALE)) => {
                Ok(())
            }
            other => other,
        }
    }

    /// Sockets of `addresses`; false when there are more than the limit.
    fn list(
        &mut self,
        all: InetRequest,
        addresses: &BTreeSet<IpAddr>,
        limits: Limits,
    ) -> Result<(Vec<SocketId>, bool), Error> {
        let family = all.family;
        let request = message(SockDiagMessage::InetRequest(all), NLM_F_DUMP);
        self.socket.send(&request, 0).map_err(Error::List)?;
        let mut found = Vec::new();
        loop {
            let end = self.receive(|payload| match payload {
                NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(response)) => {
                    let id = response.header.socket_id;
                    // One more than the limit tells that there are more.
                    if is_of(&id, addresses) && found.len() <= limits.count {
                        found.push(id);
                    }
                    None
                }
                NetlinkPayload::Done(_) => Some(Ok(())),
                NetlinkPayload::Error(error) => Some(match error.raw_code() {
                    0 => Ok(()),
                    _ => Err(error.to_io()),
                }),
                _ => None,
            });
            match end {
                Ok(None) if limits.over() => {
                    return Err(Error::Time(found.len()));
                }
                Ok(None) => {}
                Ok(Some(())) => break,
                // A kernel without IPv6 has no such sockets.
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) && family == AF_INET6 => {
                    break;
                }
                Err(error) => return Err(Error::List(error)),
            }
        }
        let complete = found.len() <= limits.count;
        found.truncate(limits.count);
        Ok((found, complete))
    }

    fn destroy(&mut self, family: u8, id: &SocketId) -> io::Result<()> {
        let request = request(family, StateFlags::empty(), id.clone());
        let request = SockDiagMessage::InetRequest(request);
        self.socket.send(&message(SockDiagDestroy::new(request), NLM_F_ACK), 0)?;
        let answer = self.receive(|payload: NetlinkPayload<SockDiagMessage>| match payload {
            NetlinkPayload::Error(error) if error.raw_code() == 0 => Some(Ok(())),
            NetlinkPayload::Error(error) => Some(Err(error.to_io())),
            _ => None,
        })?;
        answer.ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))
    }

    /// One datagram; each message of it until `take` knows the end.
    fn receive<M>(
        &mut self,
        mut take: impl FnMut(NetlinkPayload<M>) -> Option<io::Result<()>>,
    ) -> io::Result<Option<()>>
    where
        M: NetlinkDeserializable<Error: Send + Sync + 'static> + std::fmt::Debug,
    {
        let len = self.socket.recv(&mut self.buffer.as_mut_slice(), 0)?;
        let mut rest = self.buffer.get(..len).unwrap_or_default();
        while !rest.is_empty() {
            let message = NetlinkMessage::<M>::deserialize(rest).map_err(io::Error::other)?;
            // Messages begin at multiples of four bytes.
            let len = (message.header.length as usize).next_multiple_of(4).max(4);
            rest = rest.get(len..).unwrap_or_default();
            if let Some(end) = take(message.payload) {
                return end.map(Some);
            }
        }
        Ok(None)
    }
}

fn request(family: u8, states: StateFlags, socket_id: SocketId) -> InetRequest {
    InetRequest {
        family,
        protocol: IPPROTO_TCP,
        extensions: ExtensionFlags::empty(),
        states,
        socket_id,
    }
}

fn message<M>(payload: M, flags: u16) -> Vec<u8>
where
    M: NetlinkSerializable + Into<NetlinkPayload<M>>,
{
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | flags;
    let mut message = NetlinkMessage::new(header, payload.into());
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr, TcpListener, TcpStream};

    use super::*;

    fn far() -> Limits {
        Limits { deadline: computed() + Duration::from_secs(60), count: 3 }
    }

    #[test]
    fn mapped_addresses_are_ipv4_ones() {
        let vip = Ipv4Addr::new(10, 77, 0, 100);
        let of = |addr: IpAddr| {
            let id = SocketId { source_address: addr, ..SocketId::new_v6() };
            is_of(&id, &[vip.into()].into())
        };
        assert!(of(vip.into()));
        assert!(of(vip.to_ipv6_mapped().into()));
        assert!(!of(Ipv4Addr::new(10, 77, 0, 101).into()));
        assert!(!of(Ipv6Addr::UNSPECIFIED.into()));
    }

    /// Listing takes no privilege. Both ends of a connection of this host to itself are its own.
    #[test]
    fn connections_are_listed_to_the_limit_and_listeners_are_not() {
        let addr = Ipv4Addr::new(127, 77, 1, 9);
        let addresses = [IpAddr::from(addr)].into();
        let listener = TcpListener::bind((addr, 0)).expect("loopback");
        let mut kernel = Kernel::open().expect("sock_diag");
        let mut list =
            |limits| kernel.list(request(AF_INET, LIVING, SocketId::new_v4()), &addresses, limits);
        assert_eq!(list(far()).expect("listed"), (vec![], true), "the listener is not one");
        let target = listener.local_addr().expect("bound");
        let connect = || (TcpStream::connect(target).expect("up"), listener.accept().expect("up"));
        let first = connect();
        let (found, complete) = list(far()).expect("listed");
        // The client's end has an address of its own choice, 127.0.0.1 or this one.
        assert!((1..=2).contains(&found.len()) && complete, "{found:?}");
        let more: Vec<_> = (0..4).map(|_| connect()).collect();
        let (found, complete) = list(far()).expect("listed");
        assert_eq!((found.len(), complete), (3, false), "at the limit");
        let late = Limits { deadline: Duration::ZERO, ..far() };
        let error = list(late).expect_err("late").to_string();
        assert!(error.starts_with("no time left after 100ms"), "{error}");
        drop((first, more));
    }
}
