//! The kernel's process events: netlink connector, CN_PROC (linux/connector.h, linux/cn_proc.h).

use std::{io, time::Duration};

use netlink_sys::{Socket, SocketAddr};
use tokio::io::unix::AsyncFd;

use super::sys;

/// NETLINK_CONNECTOR.
const PROTOCOL: isize = 11;
/// CN_IDX_PROC and CN_VAL_PROC.
const INDEX: u32 = 1;
/// PROC_CN_MCAST_LISTEN.
const LISTEN: u32 = 1;
/// NLMSG_DONE.
const DONE: u16 = 3;
/// Bytes of nlmsghdr and of cn_msg.
const NETLINK_HEADER: usize = 16;
const MESSAGE_HEADER: usize = 20;
/// Bytes of a proc_event before what happened: what, cpu, timestamp.
const EVENT_HEADER: usize = 16;
/// The kernel answers a request to listen at once; outside the first PID and network namespaces it
/// refuses or says nothing.
const ANSWER_LIMIT: Duration = Duration::from_secs(1);
/// Receive buffer in bytes, for storms of processes; what overflows is found by a scan.
const BUFFER: usize = 1 << 20;

/// What happened to a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Happened {
    /// The kernel's answer to the request to listen: its error number, 0 for none.
    Answer(u32),
    /// A new process, or one that runs another program or has another name.
    Changed(u32),
    Ended(u32),
    /// Of a thread, or of no interest.
    Other,
}

/// Reads one netlink message; `None`: it is none of the connector's.
pub fn decode(bytes: &[u8]) -> Option<Happened> {
    let word = |at: usize| {
        let word = bytes.get(at..at.checked_add(4)?)?;
        Some(u32::from_ne_bytes(word.try_into().ok()?))
    };
    if word(NETLINK_HEADER)? != INDEX || word(NETLINK_HEADER + 4)? != INDEX {
        return None;
    }
    let event = NETLINK_HEADER + MESSAGE_HEADER;
    let data = event + EVENT_HEADER;
    Some(match word(event)? {
        0 => Happened::Answer(word(data)?),
        // fork: parent pid, parent tgid, child pid, child tgid.
        1 if word(data + 8)? == word(data + 12)? => Happened::Changed(word(data + 12)?),
        // exec and comm: pid, tgid. A name of a thread is not that of its process.
        2 => Happened::Changed(word(data + 4)?),
        0x200 if word(data)? == word(data + 4)? => Happened::Changed(word(data + 4)?),
        0x8000_0000 if word(data)? == word(data + 4)? => Happened::Ended(word(data + 4)?),
        _ => Happened::Other,
    })
}

/// The request to listen.
fn request() -> Vec<u8> {
    let mut bytes = Vec::new();
    let length = NETLINK_HEADER + MESSAGE_HEADER + 4;
    bytes.extend(u32::try_from(length).unwrap_or(0).to_ne_bytes());
    bytes.extend(DONE.to_ne_bytes());
    bytes.extend([0; 10]); // flags, sequence, port
    bytes.extend(INDEX.to_ne_bytes());
    bytes.extend(INDEX.to_ne_bytes());
    bytes.extend([0; 8]); // sequence, acknowledgement
    bytes.extend(4_u16.to_ne_bytes());
    bytes.extend([0; 2]); // flags
    bytes.extend(LISTEN.to_ne_bytes());
    bytes
}

/// A socket that hears of every process.
#[derive(Debug)]
pub struct Connector(AsyncFd<Socket>);

impl Connector {
    /// Opens it and waits until the kernel confirms.
    ///
    /// # Errors
    /// No privilege (CAP_NET_ADMIN), not in the first network or PID namespace, no such kernel
    /// option.
    pub async fn open() -> io::Result<Self> {
        let mut socket = Socket::new(PROTOCOL)?;
        socket.set_rx_buf_sz(i32::try_from(BUFFER).unwrap_or(i32::MAX))?;
        socket.bind(&SocketAddr::new(0, INDEX))?;
        socket.set_non_blocking(true)?;
        socket.send(&request(), 0)?;
        let connector = Self(sys::events(socket)?);
        let answer = async {
            loop {
                if let Happened::Answer(error) = connector.next().await? {
                    return match i32::try_from(error) {
                        Ok(0) | Err(_) => Ok(()),
                        Ok(error) => Err(io::Error::from_raw_os_error(error)),
                    };
                }
            }
        };
        match tokio::time::timeout(ANSWER_LIMIT, answer).await {
            Ok(result) => result?,
            Err(_) => return Err(io::Error::other("the kernel does not answer")),
        }
        Ok(connector)
    }

    /// The next event. Cancel safe.
    ///
    /// # Errors
    /// ENOBUFS: events were lost, look at everything. Others: open a new one.
    pub async fn next(&self) -> io::Result<Happened> {
        loop {
            let mut guard = self.0.readable().await?;
            let mut buffer = Vec::with_capacity(512);
            match guard.try_io(|it| it.get_ref().recv(&mut buffer, 0)) {
                Ok(Ok(_)) => {
                    if let Some(happened) = decode(&buffer) {
                        return Ok(happened);
                    }
                }
                Ok(Err(error)) => return Err(error),
                Err(_) => {} // not readable after all
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(what: u32, words: &[u32]) -> Vec<u8> {
        let mut bytes = vec![0; NETLINK_HEADER];
        bytes.extend(INDEX.to_ne_bytes());
        bytes.extend(INDEX.to_ne_bytes());
        bytes.extend([0; 12]);
        bytes.extend(what.to_ne_bytes());
        bytes.extend([0; 12]);
        bytes.extend(words.iter().flat_map(|word| word.to_ne_bytes()));
        bytes
    }

    #[test]
    fn events_of_processes_are_told_from_those_of_threads() {
        let rows = [
            (event(0, &[0]), Happened::Answer(0)),
            (event(1, &[10, 10, 20, 20]), Happened::Changed(20)),
            (event(1, &[10, 10, 21, 20]), Happened::Other),
            (event(2, &[30, 30]), Happened::Changed(30)),
            (event(0x200, &[30, 30, 0, 0, 0, 0]), Happened::Changed(30)),
            (event(0x200, &[31, 30, 0, 0, 0, 0]), Happened::Other),
            (event(0x8000_0000, &[40, 40, 0, 17]), Happened::Ended(40)),
            (event(0x8000_0000, &[41, 40, 0, 17]), Happened::Other),
            (event(4, &[40, 40, 0, 0]), Happened::Other),
        ];
        for (bytes, happened) in rows {
            assert_eq!(decode(&bytes), Some(happened), "{bytes:?}");
            for len in 0..bytes.len() {
                let _ = decode(&bytes[..len]); // cut short: never a panic
            }
        }
        assert_eq!(decode(&[0xff; 80]), None, "of another connector");
        assert_eq!(request().len(), 40);
    }
}
