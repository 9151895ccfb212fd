//! What other hosts say of this host's VIPs: the sockets of one interface.

use std::{collections::BTreeSet, net::IpAddr};

use tokio::io::unix::AsyncFd;

use super::{closing::Closing, sys};
use crate::{
    base::net::Mac,
    io::link::ClaimSocket,
    vrrp::{arp, nd},
};

/// Packets read from one socket in one turn; claims of VIPs are told, not counted on.
const BUDGET: usize = 64;
/// An advertisement with its option is longer than any ARP packet.
const LONGEST: usize = nd::FRAME_LEN;

/// What is watched on an interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Watched {
    /// The VIPs.
    pub addresses: BTreeSet<IpAddr>,
    /// Virtual MACs of interfaces above this one, which another router of the same group has as well.
    pub shared: BTreeSet<Mac>,
}

/// A socket, with the index of the link that it was opened on.
type Open = (u32, AsyncFd<ClaimSocket>);

/// The sockets of one interface, one for each family of VIPs there.
#[derive(Default)]
pub(super) struct Claims {
    open: [Option<Open>; 2],
    watched: Watched,
}

impl Claims {
    /// Opens what these addresses need, again when the interface was made anew.
    ///
    /// # Errors
    /// For the log.
    pub fn watch(
        &mut self,
        name: &str,
        index: u32,
        watched: Watched,
        closing: &mut Closing,
    ) -> Result<(), String> {
        let mut changed = self.watched.addresses != watched.addresses;
        // Until all of it is in force: what fails is tried again.
        self.watched = Watched::default();
        for (open, ipv6) in self.open.iter_mut().zip([false, true]) {
            let wanted = watched.addresses.iter().any(|it| it.is_ipv6() == ipv6);
            let old = open.take_if(|(at, _)| !wanted || *at != index);
            closing.add(old.map(|(_, socket)| socket.into_inner()));
            if wanted && open.is_none() {
                let socket = ClaimSocket::open_at(name, index, ipv6).and_then(sys::claim_socket);
                *open = Some((index, socket.map_err(|error| error.to_string())?));
                changed = true;
            }
        }
        if changed {
            let addresses: Vec<IpAddr> = watched.addresses.iter().copied().collect();
            for (_, socket) in self.open.iter().flatten() {
                socket.get_ref().watch(&addresses).map_err(|error| error.to_string())?;
            }
        }
        self.watched = watched;
        Ok(())
    }

    /// Closes all.
    pub fn close(&mut self, closing: &mut Closing) {
        for open in &mut self.open {
            closing.add(open.take().map(|(_, socket)| socket.into_inner()));
        }
        self.watched = Watched::default();
    }

    /// Every socket.
    pub fn sockets(&self) -> impl Iterator<Item = &AsyncFd<ClaimSocket>> {
        self.open.iter().flatten().map(|(_, socket)| socket)
    }

    /// What others said they have. `is_own`: whether this host has that MAC; it does not matter for one that others
    /// have as well.
    pub fn read(&self, name: &str, is_own: impl Fn(Mac) -> bool) -> Vec<(Mac, IpAddr)> {
        let mut claims = Vec::new();
        let mut buffer = [0; LONGEST];
        for socket in self.sockets() {
            for _ in 0..BUDGET {
                match socket.get_ref().receive(&mut buffer) {
                    Ok(Some(len)) => claims.extend(claim(buffer.get(..len).unwrap_or_default())),
                    Ok(None) => break,
                    Err(error) => tracing::debug!(interface = name, %error, "receive claims"),
                }
            }
        }
        claims.retain(|(mac, address)| {
            let of_others = self.watched.shared.contains(mac) || !is_own(*mac);
            of_others && self.watched.addresses.contains(address)
        });
        claims
    }
}

fn claim(frame: &[u8]) -> Option<(Mac, IpAddr)> {
    let four = arp::claim(frame).map(|(mac, address)| (mac, IpAddr::V4(address)));
    four.or_else(|| nd::claim(frame).map(|(mac, address)| (mac, IpAddr::V6(address))))
}
