//! Who acts for the VIP, by the frames that really leave the balancer hosts.
//!
//! A packet socket at the switch's end of both hosts' cables. It sees what a client could see,
//! whatever leases, addresses and counters say: connections that a host forwards or answers, and ARP
//! in the VIP's name.

use std::{
    collections::BTreeSet,
    net::Ipv4Addr,
    os::fd::{AsFd as _, AsRawFd as _},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{LinkAddr, SockaddrLike as _, recvfrom},
};
use socket2::{Domain, Protocol, Socket, Type};

use crate::{
    netns::{Port, Switch},
    wait::wait_true,
};

/// Acts kept at most: about an hour of the lab's load.
const ACT_LIMIT: usize = 4_000_000;
/// Room for some thousand frames, should the thread have to wait for a CPU.
const RECEIVE_BUFFER: usize = 8 << 20;
/// A frame that this host sends itself, seen by the tap (linux/if_packet.h).
const PACKET_OUTGOING: u8 = 4;
/// Between two changes of the master lie a takeover and a preemption at least, which with
/// advert_int 1 are further apart than this. A shorter turn means that both hosts acted.
const TURN: Duration = Duration::from_secs(1);

/// How a host is seen to act for the VIP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// It forwards the client's frames, or answers for its data plane: any TCP frame to or from the
    /// VIP. The data plane alone sends them, because the host has no socket on the VIP.
    Forwards,
    /// It takes connections itself: the first SYN-ACK of each. Later frames may come from a
    /// connection that was made before the VIP left and is not forwarding.
    Accepts,
}

/// One frame in the VIP's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Act {
    pub at: Instant,
    /// 0 or 1.
    pub host: usize,
    /// ARP; else TCP.
    pub arp: bool,
}

#[derive(Debug, Default)]
struct Shared {
    acts: Mutex<Vec<Act>>,
    /// When no frame was left to be read.
    drained: Mutex<Option<Instant>>,
    stop: AtomicBool,
}

impl Shared {
    fn acts(&self) -> MutexGuard<'_, Vec<Act>> {
        self.acts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A running witness.
#[derive(Debug)]
pub struct Witness {
    shared: Arc<Shared>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Witness {
    /// Watches the hosts' cables to `switch` from now on.
    ///
    /// # Errors
    /// When the socket or the thread cannot be made.
    pub fn start(switch: &Switch, ports: &[Port], vip: Ipv4Addr, method: Method) -> Result<Self> {
        let all = i32::from(0x0003u16.to_be()); // ETH_P_ALL
        let (socket, hosts) = switch.netns().enter(|| -> Result<_> {
            let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(all)))
                .context("packet socket")?;
            let hosts = ports
                .iter()
                .map(|port| Ok(nix::net::if_::if_nametoindex(port.name())? as usize))
                .collect::<Result<Vec<usize>>>()?;
            Ok((socket, hosts))
        })??;
        socket.set_read_timeout(Some(Duration::from_millis(50)))?;
        let _ = socket.set_recv_buffer_size(RECEIVE_BUFFER);
        ensure!(!hosts.is_empty(), "nobody to watch");
        let shared = Arc::new(Shared::default());
        let theirs = Arc::clone(&shared);
        let thread = thread::Builder::new()
            .name("witness".to_owned())
            .spawn(move || watch(&socket, &hosts, &mut Reader::new(vip, method), &theirs))
            .context("cannot start the witness")?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Acts between two instants.
    pub fn acts(&self, from: Instant, to: Instant) -> Vec<Act> {
        let acts = self.shared.acts();
        let first = acts.partition_point(|act| act.at < from);
        let last = acts.partition_point(|act| act.at <= to);
        acts.get(first..last).unwrap_or_default().to_vec()
    }
}

impl Witness {
    /// Waits until every frame that had arrived by `at` has been read, so that [`Witness::acts`]
    /// tells all of them.
    ///
    /// # Errors
    /// After ten seconds.
    pub fn has_read(&self, at: Instant) -> Result<()> {
        let drained = &self.shared.drained;
        wait_true("the witness to read what has arrived", Duration::from_secs(10), || {
            drained.lock().unwrap_or_else(PoisonError::into_inner).is_some_and(|when| when > at)
        })
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn watch(socket: &Socket, hosts: &[usize], reader: &mut Reader, shared: &Shared) {
    let mut buffer = [0; 128];
    while !shared.stop.load(Ordering::Relaxed) {
        let now = Instant::now();
        let empty = PollFd::new(socket.as_fd(), PollFlags::POLLIN);
        if poll(&mut [empty], PollTimeout::ZERO) == Ok(0) {
            *shared.drained.lock().unwrap_or_else(PoisonError::into_inner) = Some(now);
        }
        let Ok((len, Some(from))) = recvfrom::<LinkAddr>(socket.as_raw_fd(), &mut buffer) else {
            continue;
        };
        let at = Instant::now();
        if from.family().is_none() || from.pkttype() == PACKET_OUTGOING {
            continue;
        }
        let Some(host) = hosts.iter().position(|index| *index == from.ifindex()) else { continue };
        if let Some(arp) = reader.act(host, &buffer[..len.min(buffer.len())]) {
            let mut acts = shared.acts();
            if acts.len() < ACT_LIMIT {
                acts.push(Act { at, host, arp });
            }
        }
    }
}

/// Tells acts from other frames.
struct Reader {
    vip: [u8; 4],
    method: Method,
    /// Connections whose SYN-ACK was seen: host and client's port.
    accepted: BTreeSet<(usize, [u8; 2])>,
}

impl Reader {
    fn new(vip: Ipv4Addr, method: Method) -> Self {
        Self { vip: vip.octets(), method, accepted: BTreeSet::new() }
    }

    /// `Some(whether it is ARP)` for a frame in the VIP's name.
    fn act(&mut self, host: usize, frame: &[u8]) -> Option<bool> {
        match frame.get(12..14)? {
            // A request asks, unless it is gratuitous; an answer says.
            [8, 6] => {
                let (operation, sender) = (frame.get(20..22)?, frame.get(28..32)?);
                let gratuitous = frame.get(38..42)? == self.vip;
                (sender == self.vip && (operation == [0, 2] || gratuitous)).then_some(true)
            }
            [8, 0] if frame.get(23)? == &6 => {
                let tcp = 14 + usize::from(frame.get(14)? & 0xf) * 4;
                let (from, to) = (frame.get(26..30)?, frame.get(30..34)?);
                let flags = *frame.get(tcp + 13)?;
                let is = match self.method {
                    Method::Forwards => from == self.vip || to == self.vip,
                    Method::Accepts => {
                        let port = frame.get(tcp + 2..tcp + 4)?.try_into().ok()?;
                        from == self.vip
                            && flags & 0x12 == 0x12
                            && self.accepted.insert((host, port))
                    }
                };
                is.then_some(false)
            }
            _ => None,
        }
    }
}

/// For how long both hosts acted: turns between two of the other's acts that are too short to be a
/// takeover and its return.
pub fn both_acted(acts: &[Act]) -> Duration {
    let mut turns: Vec<(usize, Instant)> = Vec::new();
    for act in acts {
        if turns.last().is_none_or(|(host, _)| *host != act.host) {
            turns.push((act.host, act.at));
        }
    }
    turns
        .windows(3)
        .map(|turn| turn[2].1.saturating_duration_since(turn[1].1))
        .filter(|length| *length < TURN)
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    const VIP: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 100);

    #[test]
    fn short_turns_are_both_and_long_ones_are_takeovers() {
        let base = Instant::now();
        let acts = |all: &[(u64, usize)]| -> Vec<Act> {
            let at = |ms| base + Duration::from_millis(ms);
            all.iter().map(|(ms, host)| Act { at: at(*ms), host: *host, arp: false }).collect()
        };
        assert_eq!(both_acted(&acts(&[])), Duration::ZERO);
        assert_eq!(both_acted(&acts(&[(0, 0), (5, 0), (9, 1), (900, 1)])), Duration::ZERO);
        let back = acts(&[(0, 0), (100, 1), (3000, 1), (3100, 0)]);
        assert_eq!(both_acted(&back), Duration::ZERO);
        let both = acts(&[(0, 0), (100, 1), (130, 0), (150, 1), (5000, 1)]);
        assert_eq!(both_acted(&both), Duration::from_millis(50));
    }

    #[test]
    fn frames_in_the_name_of_the_vip_are_acts() {
        let tcp = |from: Ipv4Addr, to: Ipv4Addr, flags: u8| {
            let mut frame = vec![0; 54];
            frame[12..14].copy_from_slice(&[8, 0]);
            frame[14] = 0x45;
            frame[23] = 6;
            frame[26..30].copy_from_slice(&from.octets());
            frame[30..34].copy_from_slice(&to.octets());
            frame[47] = flags;
            frame
        };
        let client = Ipv4Addr::new(10, 77, 0, 50);
        let mut forwards = Reader::new(VIP, Method::Forwards);
        assert_eq!(forwards.act(0, &tcp(client, VIP, 0x10)), Some(false));
        assert_eq!(forwards.act(0, &tcp(VIP, client, 0x10)), Some(false));
        assert_eq!(forwards.act(0, &tcp(client, client, 0x10)), None);
        let mut accepts = Reader::new(VIP, Method::Accepts);
        assert_eq!(accepts.act(0, &tcp(VIP, client, 0x10)), None);
        assert_eq!(accepts.act(0, &tcp(VIP, client, 0x12)), Some(false));
        assert_eq!(accepts.act(0, &tcp(VIP, client, 0x12)), None, "repeated");
        assert_eq!(accepts.act(1, &tcp(VIP, client, 0x12)), Some(false));
        let mac = lb_userspace::base::net::Mac([2, 0, 0, 0, 0, 1]);
        let garp = lb_userspace::vrrp::arp::gratuitous(mac, VIP);
        assert_eq!(accepts.act(0, &garp), Some(true));
        let probe = lb_userspace::vrrp::arp::probe(mac, VIP);
        assert_eq!(accepts.act(0, &probe), None);
        assert_eq!(accepts.act(0, &[0; 13]), None, "short");
    }
}
