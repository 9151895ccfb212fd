//! Requests to the kernel, many at once: one system call carries a batch, one acknowledgement
//! comes for each message. By the time the last one is here, every notification that the batch
//! caused waits in the sockets of those who listen.

use std::{collections::BTreeMap, io, os::fd::AsFd as _, time::Duration};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkBuffer, NetlinkHeader, NetlinkMessage,
    NetlinkPayload,
};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    route::{RouteAttribute, RouteMessage, RouteProtocol},
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use nix::sys::{
    socket::{setsockopt, sockopt},
    time::TimeVal,
};

/// A request that the kernel has not answered by then is told as failed.
pub(super) const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// Messages in one batch: their acknowledgements have to fit the receive buffer.
const BATCH: usize = 128;
/// For acknowledgements and dumps.
const RECEIVE_BUFFER: usize = 1 << 20;
/// A datagram of a dump is at most this long.
const DATAGRAM: usize = 1 << 16;

/// One message and the flags that go with it (CREATE, EXCL, …).
pub(super) type Message = (RouteNetlinkMessage, u16);

/// A blocking rtnetlink socket for requests.
#[derive(Debug)]
pub(super) struct RequestSocket {
    socket: Socket,
    port: u32,
    sequence: u32,
}

impl RequestSocket {
    pub(super) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        let port = socket.bind_auto()?.port_number();
        socket.connect(&SocketAddr::new(0, 0))?;
        // Wishes: without them acknowledgements are longer and errors have no text.
        let _ = socket.set_cap_ack(true);
        let _ = socket.set_rx_buf_sz(RECEIVE_BUFFER);
        let limit = TimeVal::new(i64::try_from(REQUEST_TIMEOUT.as_secs()).unwrap_or(5), 0);
        setsockopt(&socket.as_fd(), sockopt::ReceiveTimeout, &limit)?;
        Ok(Self { socket, port, sequence: 0 })
    }

    /// The port that notifications of our own requests carry.
    pub(super) fn port(&self) -> u32 {
        self.port
    }

    /// Sends all messages and waits for their answers: `None` is done, else the errno.
    pub(super) fn perform(&mut self, messages: Vec<Message>) -> Vec<Option<i32>> {
        let mut answers = Vec::with_capacity(messages.len());
        let mut messages = messages.into_iter().peekable();
        while messages.peek().is_some() {
            let batch: Vec<Message> = messages.by_ref().take(BATCH).collect();
            answers.extend(self.batch(batch));
        }
        answers
    }

    /// One message.
    pub(super) fn one(&mut self, message: Message) -> Option<i32> {
        self.perform(vec![message]).into_iter().next().unwrap_or(Some(libc::EIO))
    }

    fn batch(&mut self, batch: Vec<Message>) -> Vec<Option<i32>> {
        let first = self.sequence.wrapping_add(1);
        let count = batch.len();
        let mut bytes = Vec::new();
        for (message, flags) in batch {
            self.sequence = self.sequence.wrapping_add(1);
            let flags = NLM_F_REQUEST | NLM_F_ACK | flags;
            append(&mut bytes, message, flags, self.sequence);
        }
        let mut answers: BTreeMap<u32, Option<i32>> = BTreeMap::new();
        let result = self.socket.send(&bytes, 0).and_then(|_| {
            let mut buffer = Vec::with_capacity(DATAGRAM);
            while answers.len() < count {
                self.receive(&mut buffer)?;
                each(&buffer, |header, payload| {
                    let known = header.sequence_number.wrapping_sub(first) < count as u32;
                    if let (true, NetlinkPayload::Error(error)) = (known, payload) {
                        let code = error.code.map(|code| -code.get());
                        answers.insert(header.sequence_number, code);
                    }
                });
            }
            Ok(())
        });
        let lost = result.err().map(|error| error.raw_os_error().unwrap_or(libc::EIO));
        (0..count as u32)
            .map(|at| match (answers.get(&first.wrapping_add(at)), lost) {
                (Some(answer), _) => *answer,
                (None, Some(libc::EAGAIN)) => Some(libc::ETIMEDOUT),
                (None, lost) => Some(lost.unwrap_or(libc::EIO)),
            })
            .collect()
    }

    /// Everything that a dump request brings.
    pub(super) fn dump(
        &mut self,
        message: RouteNetlinkMessage,
    ) -> io::Result<Vec<RouteNetlinkMessage>> {
        self.sequence = self.sequence.wrapping_add(1);
        let sequence = self.sequence;
        let mut bytes = Vec::new();
        append(&mut bytes, message, NLM_F_REQUEST | NLM_F_DUMP, sequence);
        self.socket.send(&bytes, 0)?;
        let (mut found, mut end) = (Vec::new(), None);
        let mut buffer = Vec::with_capacity(DATAGRAM);
        while end.is_none() {
            self.receive(&mut buffer)?;
            each(&buffer, |header, payload| {
                if header.sequence_number != sequence {
                    return;
                }
                match payload {
                    NetlinkPayload::InnerMessage(message) => found.push(message),
                    NetlinkPayload::Done(_) => end = Some(Ok(())),
                    NetlinkPayload::Error(error) => end = Some(Err(error.to_io())),
                    _ => {}
                }
            });
        }
        end.unwrap_or(Ok(())).map(|()| found)
    }

    /// The routes of a family in one table, of one protocol.
    pub(super) fn routes(
        &mut self,
        family: AddressFamily,
        table: u32,
        protocol: RouteProtocol,
    ) -> io::Result<Vec<RouteMessage>> {
        let mut request = RouteMessage::default();
        request.header.address_family = family;
        request.header.protocol = protocol;
        request.attributes.push(RouteAttribute::Table(table));
        // Then the kernel leaves out the others, of which a router may have a million; before Linux
        // 4.20 it tells them all.
        let _ = self.socket.set_netlink_get_strict_chk(true);
        let found = self.dump(RouteNetlinkMessage::GetRoute(request));
        let _ = self.socket.set_netlink_get_strict_chk(false);
        let route = |message| match message {
            RouteNetlinkMessage::NewRoute(it) if it.header.protocol == protocol => Some(it),
            _ => None,
        };
        Ok(found?.into_iter().filter_map(route).collect())
    }

    fn receive(&self, buffer: &mut Vec<u8>) -> io::Result<()> {
        loop {
            buffer.clear();
            match self.socket.recv(buffer, 0) {
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

fn append(bytes: &mut Vec<u8>, message: RouteNetlinkMessage, flags: u16, sequence: u32) {
    let mut header = NetlinkHeader::default();
    header.flags = flags;
    header.sequence_number = sequence;
    let mut message = NetlinkMessage::new(header, NetlinkPayload::from(message));
    message.finalize();
    // Messages of one datagram begin at multiples of four bytes.
    let start = bytes.len().next_multiple_of(4);
    bytes.resize(start + message.buffer_len(), 0);
    if let Some(place) = bytes.get_mut(start..) {
        message.serialize(place);
    }
}

/// Every message of a datagram; what cannot be read is left out.
pub(super) fn each(
    mut bytes: &[u8],
    mut take: impl FnMut(NetlinkHeader, NetlinkPayload<RouteNetlinkMessage>),
) {
    while let Ok(buffer) = NetlinkBuffer::new_checked(bytes) {
        let len = (buffer.length() as usize).next_multiple_of(4);
        if let Ok(message) = NetlinkMessage::<RouteNetlinkMessage>::deserialize(bytes) {
            take(message.header, message.payload);
        }
        bytes = match bytes.get(len..) {
            Some(rest) if len > 0 && !rest.is_empty() => rest,
            _ => return,
        };
    }
}
