//! The generic-netlink socket. Everything is answered within the system call that asks, so that a call here takes
//! microseconds; the time-out is for a kernel that breaks that.

use std::{io, os::fd::AsFd as _, time::Duration};

use netlink_packet_core::{
    DecodeError, Emitable, NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkBuffer,
    NetlinkDeserializable, NetlinkHeader, NetlinkMessage, NetlinkPayload, NetlinkSerializable,
    ParseableParametrized,
};
use netlink_packet_generic::{
    GenlFamily, GenlHeader, GenlMessage,
    ctrl::{GenlCtrl, GenlCtrlCmd, nlas::GenlCtrlAttrs},
};
use netlink_sys::{Socket as Netlink, SocketAddr, protocols::NETLINK_GENERIC};
use nix::{
    errno::Errno,
    sys::{
        socket::{setsockopt, sockopt},
        time::TimeVal,
    },
};
use thiserror::Error;
use tracing::debug;

use super::wire::{Answer, FAMILY, Message, Request, VERSION, WireError};

/// An answer that is not here by then never comes.
const TIMEOUT: Duration = Duration::from_secs(5);
/// A datagram of a list is at most this long.
const DATAGRAM: usize = 1 << 16;

/// Why a request was not carried out.
#[derive(Debug, Error)]
pub enum Refusal {
    /// The kernel's word: ENOENT, EEXIST and the like are data for whoever asked.
    #[error("{}", .0.desc())]
    Errno(Errno),
    #[error("the kernel's answer is not understood: {0}")]
    Wire(#[from] WireError),
    #[error("netlink: {0}")]
    Socket(#[from] io::Error),
}

impl Refusal {
    /// The kernel's error number, if it is one.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Errno(errno) => Some(*errno),
            Self::Wire(_) | Self::Socket(_) => None,
        }
    }
}

/// Whoever answers: the kernel, or a test.
pub trait Kernel {
    /// Carries a request out.
    ///
    /// # Errors
    /// [`Refusal`]. With the kernel's own word nothing has been changed; when only the answer was lost or not understood
    /// it may have been.
    fn call(&mut self, request: &Request) -> Result<Vec<Answer>, Refusal>;
}

/// The kernel's IPVS of the network namespace in which this was opened.
#[derive(Debug)]
pub struct Socket {
    netlink: Netlink,
    family: u16,
    sequence: u32,
}

impl Socket {
    /// Opens it. Where the module is not loaded the question for the family makes the kernel load it
    /// (alias `net-pf-16-proto-16-family-IPVS`, which the module of 5.10 has not and that of 6.1 has), which needs no
    /// privilege and no modprobe of ours; so does the first use of a scheduler (`ip_vs_NAME`).
    ///
    /// # Errors
    /// A sentence that names the module when the kernel has none.
    pub fn open() -> anyhow::Result<Self> {
        use anyhow::Context as _;
        let mut netlink = Netlink::new(NETLINK_GENERIC).context("open a netlink socket")?;
        netlink.bind_auto().context("bind a netlink socket")?;
        netlink.connect(&SocketAddr::new(0, 0)).context("connect a netlink socket")?;
        let _ = netlink.set_cap_ack(true); // a wish: without it acknowledgements are longer
        let limit = TimeVal::new(i64::try_from(TIMEOUT.as_secs()).unwrap_or(5), 0);
        setsockopt(&netlink.as_fd(), sockopt::ReceiveTimeout, &limit).context("set a time-out")?;
        let mut socket = Self { netlink, family: 0, sequence: 0 };
        let family = socket.resolve();
        socket.family = match family {
            Err(Refusal::Errno(Errno::ENOENT)) => anyhow::bail!(
                "the kernel has no IPVS: its module ip_vs is missing, may not be loaded, or waits for \
                 `modprobe ip_vs`, as kernels like 5.10 do"
            ),
            other => other.context("ask the kernel for the netlink family IPVS")?,
        };
        Ok(socket)
    }

    /// The number of the family, from the controller.
    fn resolve(&mut self) -> Result<u16, Refusal> {
        let ask = GenlCtrl {
            cmd: GenlCtrlCmd::GetFamily,
            nlas: vec![GenlCtrlAttrs::FamilyName(FAMILY.to_owned())],
        };
        let mut id = None;
        self.exchange(GenlMessage::from_payload(ask), 0, |answer: GenlMessage<GenlCtrl>| {
            let found = answer.payload.nlas.iter().find_map(|attribute| match attribute {
                GenlCtrlAttrs::FamilyId(id) => Some(*id),
                _ => None,
            });
            id = found.or(id);
        })?;
        id.ok_or(Refusal::Errno(Errno::ENOENT))
    }

    /// Sends one message, hands on what comes, and waits for the end of it.
    fn exchange<M>(
        &mut self,
        message: M,
        flags: u16,
        mut take: impl FnMut(M),
    ) -> Result<(), Refusal>
    where
        M: NetlinkSerializable + NetlinkDeserializable,
        NetlinkPayload<M>: From<M>,
    {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        // A list ends by itself; an acknowledgement ends all else.
        header.flags = NLM_F_REQUEST | if flags & NLM_F_DUMP == 0 { NLM_F_ACK } else { flags };
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::from(message));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.netlink.send(&bytes, 0)?;
        let mut buffer = Vec::with_capacity(DATAGRAM);
        loop {
            self.receive(&mut buffer)?;
            let mut rest = buffer.as_slice();
            while let Ok(framed) = NetlinkBuffer::new_checked(rest) {
                let length = (framed.length() as usize).next_multiple_of(4);
                if framed.sequence_number() == self.sequence {
                    match NetlinkMessage::<M>::deserialize(rest).map(|it| it.payload) {
                        Ok(NetlinkPayload::InnerMessage(answer)) => take(answer),
                        Ok(NetlinkPayload::Done(_)) => return Ok(()),
                        Ok(NetlinkPayload::Error(error)) => {
                            return match error.code.map(|code| -code.get()) {
                                None => Ok(()),
                                Some(code) => Err(Refusal::Errno(Errno::from_raw(code))),
                            };
                        }
                        Ok(_) => {}
                        Err(error) => return Err(io::Error::other(error).into()),
                    }
                }
                rest = match rest.get(length..) {
                    Some(more) if length > 0 => more,
                    _ => break,
                };
            }
        }
    }

    fn receive(&self, buffer: &mut Vec<u8>) -> io::Result<()> {
        loop {
            buffer.clear();
            match self.netlink.recv(buffer, 0) {
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

impl Kernel for Socket {
    fn call(&mut self, request: &Request) -> Result<Vec<Answer>, Refusal> {
        let message = request.encode();
        let header = GenlHeader { cmd: message.command, version: VERSION };
        let flags = if request.is_dump() { NLM_F_DUMP } else { 0 };
        let service = match request {
            Request::GetDests(key) => Some(*key),
            _ => None,
        };
        let mut answers = Vec::new();
        let mut wrong = None;
        self.exchange(
            GenlMessage::new(header, message, self.family),
            flags,
            |answer: GenlMessage<Message>| match Answer::decode(&answer.payload, service.as_ref()) {
                Ok(answer) => answers.push(answer),
                // Of a list the others are as good as ever. lbd makes none that it cannot read.
                Err(error) if *request == Request::GetServices => {
                    debug!(%error, "an IPVS service of others is not understood and left alone");
                }
                Err(error) => wrong = Some(error),
            },
        )?;
        wrong.map_or(Ok(answers), |error| Err(error.into()))
    }
}

impl GenlFamily for Message {
    fn family_name() -> &'static str {
        FAMILY
    }

    fn command(&self) -> u8 {
        self.command
    }

    fn version(&self) -> u8 {
        VERSION
    }
}

impl Emitable for Message {
    fn buffer_len(&self) -> usize {
        self.attributes.len()
    }

    fn emit(&self, buffer: &mut [u8]) {
        if let Some(place) = buffer.get_mut(..self.attributes.len()) {
            place.copy_from_slice(&self.attributes);
        }
    }
}

impl ParseableParametrized<[u8], GenlHeader> for Message {
    fn parse_with_param(buffer: &[u8], header: GenlHeader) -> Result<Self, DecodeError> {
        Ok(Self { command: header.cmd, attributes: buffer.to_vec() })
    }
}
