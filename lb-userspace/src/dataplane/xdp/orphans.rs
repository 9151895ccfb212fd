//! Replies of NAT real servers that found no connection, as the program reports them.

use std::{
    mem::size_of,
    net::SocketAddr,
    os::fd::{AsRawFd, RawFd},
    path::Path,
};

use anyhow::Context as _;
use aya::maps::{MapData, RingBuf};
use lb_common::{abi::Orphan, maps};

use super::{encode::socket, maps::pinned, syncing};

/// A segment to be sent to a client in a virtual server's name, so that it answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ask {
    /// VIP and port.
    pub from: SocketAddr,
    /// The client.
    pub to: SocketAddr,
    /// Sequence number of the server's segment that the client may be waiting for.
    pub seq: u32,
    /// Its acknowledgement number.
    pub ack: u32,
}

/// The reading end of the reports. Readable when there are some.
pub struct Orphans {
    ring: RingBuf<MapData>,
}

impl Orphans {
    /// Opens the pinned map. One reader at a time.
    ///
    /// # Errors
    /// When it is missing or cannot be mapped.
    pub fn open(pin_dir: &Path) -> anyhow::Result<Self> {
        let ring = RingBuf::try_from(pinned(pin_dir, maps::ORPHANS)?)
            .with_context(|| format!("use the map {}", maps::ORPHANS))?;
        Ok(Self { ring })
    }

    /// The oldest report.
    pub fn take(&mut self) -> Option<Orphan> {
        let item = self.ring.next()?;
        Some(read(&item).unwrap_or_default())
    }
}

impl AsRawFd for Orphans {
    fn as_raw_fd(&self) -> RawFd {
        self.ring.as_raw_fd()
    }
}

/// The record's fields, as the program lays them out; `None` when it is too short.
pub fn read(bytes: &[u8]) -> Option<Orphan> {
    let bytes = bytes.get(..size_of::<Orphan>())?;
    let u32_at = |at: usize| Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    let reply = syncing::read(bytes)?;
    Some(Orphan { reply, seq: u32_at(40)?, ack: u32_at(44)? })
}

/// Address and port of the client that a report is about.
pub fn client(orphan: &Orphan) -> SocketAddr {
    socket(orphan.reply.dst, orphan.reply.dport)
}

#[cfg(test)]
mod tests {
    use lb_common::abi::{Addr, FlowKey6, be16, be32};

    use super::*;

    #[test]
    fn a_record_is_read_as_it_is_laid_out() {
        let mut bytes = Vec::new();
        bytes.extend(Addr::v4(be32([10, 0, 0, 1])).octets());
        bytes.extend(Addr::v4(be32([192, 0, 2, 99])).octets());
        bytes.extend(3306u16.to_be_bytes());
        bytes.extend(40000u16.to_be_bytes());
        bytes.extend(6u16.to_ne_bytes());
        bytes.extend([0; 2]);
        bytes.extend(7u32.to_ne_bytes());
        bytes.extend(8u32.to_ne_bytes());
        let orphan = read(&bytes).expect("whole");
        let end = |addr, port| (Addr::v4(be32(addr)), be16(port));
        let reply = FlowKey6::tcp(end([10, 0, 0, 1], 3306), end([192, 0, 2, 99], 40_000));
        assert_eq!(orphan, Orphan { reply, seq: 7, ack: 8 });
        assert_eq!(client(&orphan).to_string(), "192.0.2.99:40000");
        assert_eq!(read(&bytes[..47]), None);
        let client6 = "2001:db8::99".parse().expect("IPv6");
        bytes[16..32].copy_from_slice(&Addr::from_ip(client6).octets());
        let orphan = read(&bytes).expect("whole");
        assert_eq!(client(&orphan).to_string(), "[2001:db8::99]:40000");
    }
}
