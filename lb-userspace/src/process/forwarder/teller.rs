//! Ends of connections whose real server is gone are told: the engine's notices go out as frames, by the
//! way that the connection's own packets take. Of a connection that a peer has told of no packet came here yet: its
//! client is told by the host's routes.

use std::{collections::BTreeMap, io};

use nix::{errno::Errno, net::if_::if_indextoname};
use tracing::{debug, info};

use crate::{
    dataplane::xdp::resets::{Kind, Notice},
    io::{
        link::FrameSocket,
        nudge::{self, Nudger, Segment},
    },
};

/// Sockets that are kept, one for each interface that clients or servers are behind. At the bound all are
/// closed and those that are needed opened anew.
const SOCKETS: usize = 64;

/// Sends, and counts.
#[derive(Debug, Default)]
pub struct Teller {
    sockets: BTreeMap<u32, FrameSocket>,
    nudger: Option<Nudger>,
    counts: Counts,
    /// As logged last.
    logged: Counts,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    clients: u64,
    servers: u64,
    failed: u64,
}

impl Teller {
    /// Sends each. One that fails is sent again in the next round, if there is one.
    pub fn send(&mut self, notices: &[Notice]) {
        for notice in notices {
            let Err(error) = self.send_one(notice) else {
                match notice.kind {
                    Kind::Probe => self.counts.clients += 1,
                    Kind::Reset => self.counts.servers += 1,
                }
                continue;
            };
            self.counts.failed += 1;
            debug!(?notice, %error, "notice not sent");
            if !is_fullness(&error) {
                // The interface may be another one by now.
                self.sockets.remove(&notice.ifindex);
            }
        }
    }

    /// One line for all that was sent since the last one.
    pub fn log(&mut self) {
        let Counts { clients, servers, failed } = self.counts;
        let before = std::mem::replace(&mut self.logged, self.counts);
        if before != self.counts {
            info!(
                clients = clients - before.clients,
                servers = servers - before.servers,
                failed = failed - before.failed,
                "connections of dead real servers told"
            );
        }
    }

    /// Segments by what became of them, for status outputs.
    pub fn counts(&self) -> BTreeMap<String, u64> {
        let Counts { clients, servers, failed } = self.counts;
        [("probe", clients), ("reset", servers), ("failed", failed)]
            .map(|(name, count)| (name.to_owned(), count))
            .into()
    }

    fn send_one(&mut self, notice: &Notice) -> io::Result<()> {
        let Notice { kind, from, to, seq, ack, macs, ifindex, tunnel, .. } = *notice;
        if kind == Kind::Probe && ifindex == 0 {
            let nudger = match self.nudger.take() {
                Some(nudger) => nudger,
                None => Nudger::open()?,
            };
            let nudger = self.nudger.insert(nudger);
            // It counts from the segment that the client waits for.
            return nudger.send(from, to, seq.wrapping_add(1), ack);
        }
        let flags = match kind {
            Kind::Probe => nudge::ACK,
            Kind::Reset => nudge::RST,
        };
        let frame = nudge::frame(macs, tunnel, &Segment { from, to, seq, ack, flags });
        if !self.sockets.contains_key(&ifindex) {
            if self.sockets.len() >= SOCKETS {
                self.sockets.clear();
            }
            let name = if_indextoname(ifindex)?;
            let name = name.to_str().map_err(|_| io::Error::from(Errno::ENODEV))?;
            self.sockets.insert(ifindex, FrameSocket::open(name)?);
        }
        match self.sockets.get(&ifindex) {
            Some(socket) => socket.send(&frame),
            None => Err(Errno::ENODEV.into()),
        }
    }
}

/// Whether a send failed because queues or buffers were full, which says nothing against the socket: a new one
/// would find them as full.
fn is_fullness(error: &io::Error) -> bool {
    let full = [Errno::EAGAIN, Errno::ENOBUFS, Errno::ENOMEM];
    error.raw_os_error().is_some_and(|code| full.contains(&Errno::from_raw(code)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_outlives_a_full_queue_and_not_its_interface() {
        for errno in [Errno::EAGAIN, Errno::ENOBUFS, Errno::ENOMEM] {
            assert!(is_fullness(&errno.into()), "{errno}");
        }
        for errno in [Errno::ENXIO, Errno::ENODEV, Errno::ENETDOWN] {
            assert!(!is_fullness(&errno.into()), "{errno}");
        }
    }
}
