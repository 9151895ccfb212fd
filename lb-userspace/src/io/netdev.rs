//! What drivers say that they can do with XDP: generic netlink's family `netdev`, since Linux 6.3.

use std::{io, os::fd::AsFd as _, time::Duration};

use anyhow::Context as _;
use netlink_packet_core::{
    DecodeError, Emitable, NLM_F_ACK, NLM_F_REQUEST, NetlinkBuffer, NetlinkDeserializable,
    NetlinkHeader, NetlinkMessage, NetlinkPayload, NetlinkSerializable, ParseableParametrized,
};
use netlink_packet_generic::{
    GenlFamily, GenlHeader, GenlMessage,
    ctrl::{GenlCtrl, GenlCtrlCmd, nlas::GenlCtrlAttrs},
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_GENERIC};
use nix::{
    errno::Errno,
    sys::{
        socket::{setsockopt, sockopt},
        time::TimeVal,
    },
};

const FAMILY: &str = "netdev";
// linux/netdev.h.
const CMD_DEV_GET: u8 = 1;
const A_DEV_IFINDEX: u16 = 1;
const A_DEV_XDP_FEATURES: u16 = 3;
/// `NETDEV_XDP_ACT_BASIC`: XDP_PASS, XDP_DROP, XDP_TX, XDP_ABORTED.
const ACT_BASIC: u64 = 1;
/// `NETDEV_XDP_ACT_REDIRECT`.
const ACT_REDIRECT: u64 = 2;
/// An answer that is not here by then never comes.
const TIMEOUT: Duration = Duration::from_secs(2);
const DATAGRAM: usize = 1 << 14;

/// The kernel's list.
#[derive(Debug)]
pub struct Netdev {
    socket: Socket,
    family: u16,
    sequence: u32,
}

impl Netdev {
    /// `None` where the kernel has no such list.
    ///
    /// # Errors
    /// When the socket cannot be had, or the kernel does not answer.
    pub fn open() -> anyhow::Result<Option<Self>> {
        let mut socket = Socket::new(NETLINK_GENERIC).context("open a netlink socket")?;
        socket.bind_auto().context("bind a netlink socket")?;
        socket.connect(&SocketAddr::new(0, 0)).context("connect a netlink socket")?;
        let limit = TimeVal::new(TIMEOUT.as_secs().try_into().unwrap_or(2), 0);
        setsockopt(&socket.as_fd(), sockopt::ReceiveTimeout, &limit).context("set a time-out")?;
        let mut netdev = Self { socket, family: 0, sequence: 0 };
        let ask = GenlCtrl {
            cmd: GenlCtrlCmd::GetFamily,
            nlas: vec![GenlCtrlAttrs::FamilyName(FAMILY.to_owned())],
        };
        let mut id = None;
        let take = |answer: GenlMessage<GenlCtrl>| {
            let found = answer.payload.nlas.iter().find_map(|attribute| match attribute {
                GenlCtrlAttrs::FamilyId(id) => Some(*id),
                _ => None,
            });
            id = found.or(id);
        };
        match netdev.exchange(GenlMessage::from_payload(ask), take) {
            Err(error) if error.raw_os_error() == Some(Errno::ENOENT as i32) => return Ok(None),
            other => other.context("ask the kernel for the netlink family netdev")?,
        }
        netdev.family = id.context("the netlink family netdev has no number")?;
        Ok(Some(netdev))
    }

    /// Whether the driver of an interface can run our program: pass, drop, send back and redirect.
    ///
    /// # Errors
    /// When the kernel does not answer, or says nothing of it.
    pub fn has_xdp(&mut self, ifindex: u32) -> anyhow::Result<bool> {
        let mut attributes = Vec::new();
        attributes.extend(8_u16.to_ne_bytes());
        attributes.extend(A_DEV_IFINDEX.to_ne_bytes());
        attributes.extend(ifindex.to_ne_bytes());
        let message = Message { command: CMD_DEV_GET, attributes };
        let header = GenlHeader { cmd: CMD_DEV_GET, version: 1 };
        let mut features = None;
        self.exchange(
            GenlMessage::new(header, message, self.family),
            |answer: GenlMessage<Message>| {
                features = xdp_features(&answer.payload.attributes).or(features);
            },
        )
        .with_context(|| format!("ask what interface {ifindex} can do"))?;
        let features = features.context("the kernel says nothing of XDP there")?;
        Ok(features & (ACT_BASIC | ACT_REDIRECT) == ACT_BASIC | ACT_REDIRECT)
    }

    /// Sends one message and hands on what comes until it is acknowledged.
    fn exchange<M>(&mut self, message: M, mut take: impl FnMut(M)) -> io::Result<()>
    where
        M: NetlinkSerializable + NetlinkDeserializable,
        NetlinkPayload<M>: From<M>,
    {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | NLM_F_ACK;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::from(message));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;
        let mut buffer = Vec::with_capacity(DATAGRAM);
        loop {
            buffer.clear();
            match self.socket.recv(&mut buffer, 0) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                other => other?,
            };
            let mut rest = buffer.as_slice();
            while let Ok(framed) = NetlinkBuffer::new_checked(rest) {
                let length = (framed.length() as usize).next_multiple_of(4);
                if framed.sequence_number() == self.sequence {
                    match NetlinkMessage::<M>::deserialize(rest).map(|it| it.payload) {
                        Ok(NetlinkPayload::InnerMessage(answer)) => take(answer),
                        Ok(NetlinkPayload::Error(error)) => {
                            return match error.code.map(|code| -code.get()) {
                                None => Ok(()),
                                Some(code) => Err(io::Error::from_raw_os_error(code)),
                            };
                        }
                        Ok(_) => {}
                        Err(error) => return Err(io::Error::other(error)),
                    }
                }
                rest = match rest.get(length..) {
                    Some(more) if length > 0 => more,
                    _ => break,
                };
            }
        }
    }
}

/// The attribute of that name among attributes as they are on the wire.
fn xdp_features(attributes: &[u8]) -> Option<u64> {
    let mut rest = attributes;
    loop {
        let (length, kind) = (rest.get(..2)?, rest.get(2..4)?);
        let length = usize::from(u16::from_ne_bytes(length.try_into().ok()?));
        let kind = u16::from_ne_bytes(kind.try_into().ok()?);
        let payload = rest.get(4..length)?;
        // The upper two bits are flags.
        if kind & 0x3fff == A_DEV_XDP_FEATURES {
            return Some(u64::from_ne_bytes(payload.try_into().ok()?));
        }
        rest = rest.get(length.next_multiple_of(4)..)?;
    }
}

/// A command with its attributes as they are on the wire.
#[derive(Clone, Debug)]
struct Message {
    command: u8,
    attributes: Vec<u8>,
}

impl GenlFamily for Message {
    fn family_name() -> &'static str {
        FAMILY
    }

    fn command(&self) -> u8 {
        self.command
    }

    fn version(&self) -> u8 {
        1
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

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(kind: u16, payload: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend((4 + payload.len() as u16).to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(payload);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    #[test]
    fn the_features_are_found_among_other_attributes() {
        let features = attribute(A_DEV_XDP_FEATURES, &0x23_u64.to_ne_bytes());
        let all = [attribute(A_DEV_IFINDEX, &7_u32.to_ne_bytes()), attribute(9, b"x"), features];
        assert_eq!(xdp_features(&all.concat()), Some(0x23));
        assert_eq!(xdp_features(&all[..2].concat()), None);
    }

    /// The kernel is not distrusted, but no bytes may make us run on or over.
    #[test]
    fn torn_attributes_end_the_reading() {
        let good = attribute(A_DEV_XDP_FEATURES, &1_u64.to_ne_bytes());
        for length in 0..good.len() {
            assert_eq!(xdp_features(&good[..length]), None, "{length}");
        }
        for length in [0_u16, 1, 3, 5, 0xffff] {
            let mut bad = good.clone();
            bad[..2].copy_from_slice(&length.to_ne_bytes());
            assert_eq!(xdp_features(&bad), None, "{length}");
        }
    }
}
