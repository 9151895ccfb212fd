//! Our connection to a MySQL server, and the task that joins it to the client library's over
//! loopback.
//!
//! The task ends when either side does; a session that ends from our side without a COM_QUIT is
//! given one, as far as that is possible (not inside TLS, not before the login is over).

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::watch,
    time::timeout,
};

use super::{
    Failure,
    wire::{self, Greeting, Guard},
};

/// COM_QUIT with its header.
const COM_QUIT: [u8; 5] = [1, 0, 0, 0, 1];
/// Time for the library to connect to the tap.
const JOIN_LIMIT: Duration = Duration::from_secs(1);
/// Time for the server to close after COM_QUIT.
const CLOSE_LIMIT: Duration = Duration::from_millis(500);
const CHUNK: usize = 4096;

/// Why a tap ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The server sent what we do not take.
    Violation(String),
    /// The server closed or reset the connection.
    Server(String),
    /// Our side did.
    Client,
}

/// A connection that has not spoken yet.
pub(super) struct Connected {
    stream: TcpStream,
}

/// A connection whose greeting has been read.
pub(super) struct Opened {
    stream: TcpStream,
    pub(super) greeting: Greeting,
    /// The greeting as it came, and anything behind it.
    bytes: Vec<u8>,
}

/// Connects.
pub(super) async fn connect(
    addr: SocketAddr,
    bindto: Option<IpAddr>,
) -> Result<Connected, Failure> {
    let attempt = async {
        let socket = match addr {
            SocketAddr::V4(_) => TcpSocket::new_v4(),
            SocketAddr::V6(_) => TcpSocket::new_v6(),
        }?;
        if let Some(from) = bindto {
            socket.bind(SocketAddr::new(from, 0))?;
        }
        let stream = socket.connect(addr).await?;
        stream.set_nodelay(true)?;
        Ok(Connected { stream })
    };
    attempt.await.map_err(|error: io::Error| match error.kind() {
        io::ErrorKind::ConnectionRefused => Failure::Refused,
        _ => Failure::Io(format!("connect: {error}")),
    })
}

impl Connected {
    /// Reads the greeting.
    pub(super) async fn greeting(mut self) -> Result<Opened, Failure> {
        let mut bytes = Vec::new();
        loop {
            let greeting = wire::greeting(&bytes);
            match greeting.map_err(|violation| Failure::NotMysql(violation.to_string()))? {
                Some(greeting) => return Ok(Opened { stream: self.stream, greeting, bytes }),
                None => {
                    let mut chunk = [0; CHUNK];
                    let length = match self.stream.read(&mut chunk).await {
                        Ok(length) => length,
                        Err(error) => return Err(Failure::Io(format!("greeting: {error}"))),
                    };
                    if length == 0 {
                        let text = wire::truncated(&bytes).to_string();
                        return Err(if bytes.is_empty() {
                            Failure::Io(text)
                        } else {
                            Failure::NotMysql(text)
                        });
                    }
                    // Bounded: `greeting` refuses more than one packet's limit.
                    bytes.extend_from_slice(chunk.get(..length).unwrap_or_default());
                }
            }
        }
    }
}

/// Handle of the joining task.
#[derive(Debug)]
pub(super) struct Tap {
    end: watch::Receiver<Option<End>>,
}

impl Opened {
    /// Starts the task; the library is to connect to the address returned.
    pub(super) async fn join(
        self,
        tls: bool,
        empty_password: bool,
    ) -> io::Result<(Tap, SocketAddr)> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let at = listener.local_addr()?;
        let (tx, end) = watch::channel(None);
        let guard = Guard::new(tls, empty_password);
        tokio::spawn(async move {
            let ended = run(self, listener, guard).await;
            let _ = tx.send(Some(ended));
        });
        Ok((Tap { end }, at))
    }
}

impl Tap {
    /// Why it has ended, if it has.
    pub(super) fn ended(&self) -> Option<End> {
        self.end.borrow().clone()
    }

    /// Waits for the end. Cancel-safe.
    pub(super) async fn wait(&mut self) -> End {
        match self.end.wait_for(Option::is_some).await {
            Ok(end) => end.clone().unwrap_or(End::Client),
            // The task is gone without a word: the runtime is stopping.
            Err(_) => End::Client,
        }
    }

    /// Waits for the end after our side has closed; `None` when it does not come.
    pub(super) async fn end(mut self) -> Option<End> {
        timeout(JOIN_LIMIT, self.wait()).await.ok()
    }
}

async fn run(opened: Opened, listener: TcpListener, mut guard: Guard) -> End {
    let Opened { stream: mut server, bytes, .. } = opened;
    let Ok(Some(mut library)) = timeout(JOIN_LIMIT, accept_own(&listener)).await else {
        return End::Client;
    };
    drop(listener);
    let _ = library.set_nodelay(true);
    if library.write_all(&bytes).await.is_err() {
        return End::Client;
    }
    let mut from_server = [0; CHUNK];
    let mut from_library = [0; CHUNK];
    let mut out = Vec::with_capacity(CHUNK);
    let mut said_quit = false;
    loop {
        tokio::select! {
            read = server.read(&mut from_server) => {
                let length = match read {
                    Ok(0) => return End::Server("closed by the server".to_owned()),
                    Ok(length) => length,
                    Err(error) => return End::Server(error.to_string()),
                };
                out.clear();
                let chunk = from_server.get(..length).unwrap_or_default();
                if let Err(violation) = guard.received(chunk, &mut out) {
                    return End::Violation(violation.to_string());
                }
                if library.write_all(&out).await.is_err() {
                    farewell(server, &guard, said_quit).await;
                    return End::Client;
                }
            }
            read = library.read(&mut from_library) => {
                let length = match read {
                    Ok(0) | Err(_) => {
                        farewell(server, &guard, said_quit).await;
                        return End::Client;
                    }
                    Ok(length) => length,
                };
                guard.sent();
                let chunk = from_library.get(..length).unwrap_or_default();
                said_quit = chunk == COM_QUIT;
                if let Err(error) = server.write_all(chunk).await {
                    return End::Server(error.to_string());
                }
            }
        }
    }
}

/// Accepts until the other end is a socket of this very process: anybody on this host can connect
/// to a loopback port, and would be handed a MySQL session from the balancer's address.
async fn accept_own(listener: &TcpListener) -> Option<TcpStream> {
    loop {
        let (stream, peer) = listener.accept().await.ok()?;
        let local = stream.local_addr().ok()?;
        match tokio::task::spawn_blocking(move || is_own(peer, local)).await {
            Ok(Ok(true)) => return Some(stream),
            Ok(Ok(false)) => tracing::warn!(%peer, "stranger on a probe's loopback port: closed"),
            Ok(Err(error)) => {
                tracing::warn!(%error, "whose connection this is cannot be told: closed");
            }
            Err(_) => return None, // the runtime is stopping
        }
    }
}

/// Whether the socket that is bound to `local` and connected to `remote` is one of ours: its row in
/// /proc/net/tcp (proc_net(5)) has the inode of one of our descriptors.
fn is_own(local: SocketAddr, remote: SocketAddr) -> io::Result<bool> {
    let (SocketAddr::V4(local), SocketAddr::V4(remote)) = (local, remote) else {
        return Ok(false);
    };
    // Addresses are shown as the kernel's 32-bit words, ports as numbers.
    let shown = |addr: SocketAddrV4| {
        format!("{:08X}:{:04X}", u32::from_ne_bytes(addr.ip().octets()), addr.port())
    };
    let (local, remote) = (shown(local), shown(remote));
    // Of this thread: a process may have threads in several network namespaces.
    let table = std::fs::read_to_string("/proc/thread-self/net/tcp")?;
    let inode = table.lines().find_map(|line| {
        let mut words = line.split_ascii_whitespace().skip(1);
        let ours = words.next()? == local && words.next()? == remote;
        ours.then(|| words.nth(6)).flatten()
    });
    let Some(inode) = inode else { return Ok(false) };
    let wanted = format!("socket:[{inode}]");
    let descriptors = std::fs::read_dir("/proc/self/fd")?;
    // A descriptor may be closed while we look.
    let mut links = descriptors.flatten().filter_map(|entry| entry.path().read_link().ok());
    Ok(links.any(|link| link.as_os_str() == wanted.as_str()))
}

/// Ends our connection in order: COM_QUIT if the library did not get to it, then our FIN, then
/// whatever the server still says, so that no RST overtakes the farewell.
async fn farewell(mut server: TcpStream, guard: &Guard, said_quit: bool) {
    let _ = timeout(CLOSE_LIMIT, async {
        if guard.authenticated() && !said_quit {
            server.write_all(&COM_QUIT).await?;
        }
        server.shutdown().await?;
        let mut rest = [0; CHUNK];
        while server.read(&mut rest).await? > 0 {}
        io::Result::Ok(())
    })
    .await;
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    /// Another process that gets there first learns nothing and takes nobody's place.
    #[tokio::test]
    async fn only_our_own_process_is_let_in() {
        let server = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("bind");
        let addr = server.local_addr().expect("name");
        let stream = TcpStream::connect(addr).await.expect("connect");
        let greeting = Greeting::Hello { version: "8".to_owned(), tls: false };
        let opened = Opened { stream, greeting, bytes: b"greeting".to_vec() };
        let (tap, at) = opened.join(false, false).await.expect("listens");
        let script = format!("exec 3<>/dev/tcp/127.0.0.1/{}; cat <&3", at.port());
        let mut stranger = Command::new("bash");
        stranger.args(["-c", &script]).stdin(Stdio::null());
        let output = tokio::task::spawn_blocking(move || stranger.output())
            .await
            .expect("joined")
            .expect("bash runs");
        assert!(output.status.success(), "it was let in to the port: {output:?}");
        assert_eq!(output.stdout, b"", "it was told something");
        let mut own = TcpStream::connect(at).await.expect("still open for us");
        let mut bytes = [0; 8];
        own.read_exact(&mut bytes).await.expect("the greeting");
        assert_eq!(&bytes, b"greeting");
        assert_eq!(tap.ended(), None);
    }
}
