//! Our connection to a MySQL server, and the task that joins it to the client library's.
//!
//! The task ends when either side does; a session that ends from our side without a COM_QUIT is
//! given one, as far as that is possible (not before the login is over).
//!
//! TLS is the tap's: the library reaches it by a Unix socket, where it sends its SSLRequest and
//! then goes on without encryption, as a mysql client does on such a socket; the tap sends the
//! request on, shakes hands, and relays the rest through TLS, with the library's own sequence
//! numbers and flags. Without TLS the library has to come by TCP: on a Unix socket it would send
//! the password in clear to a server that asks.

use std::{
    hash::{BuildHasher as _, Hasher as _},
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use rustls::pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf},
    net::{TcpListener, TcpSocket, TcpStream, UnixListener},
    sync::watch,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{
    Failure,
    late::{Progress, Stage},
    of_this_host,
    trust::Judge,
    wire::{self, Greeting, Guard, Stop},
};

/// COM_QUIT with its header.
const COM_QUIT: [u8; 5] = [1, 0, 0, 0, 1];
/// Time for the library to connect to the tap.
const JOIN_LIMIT: Duration = Duration::from_secs(1);
/// Time for the server to close after COM_QUIT.
const CLOSE_LIMIT: Duration = Duration::from_millis(500);
/// Time for the server to refuse a login that was given up; a module of PAM takes two seconds.
const DECLINE_LIMIT: Duration = Duration::from_secs(5);
/// A silent host is given up after 20 s.
const KEEPALIVE: TcpKeepalive = TcpKeepalive::new()
    .with_time(Duration::from_secs(5))
    .with_interval(Duration::from_secs(5))
    .with_retries(3);
const CHUNK: usize = 4096;
/// Bytes of a server's answer to an SSLRequest that are kept, to tell what it was.
const WITNESS_LIMIT: usize = 512;

/// Why a tap ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The server closed the connection, or showed or asked what we do not take.
    Failed(Failure),
    /// Our side closed it.
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
        // A greeting may be awaited for very long: a host that is gone has to be noticed.
        let socket = SockRef::from(&stream);
        socket.set_tcp_keepalive(&KEEPALIVE)?;
        // Given up before the greeting: of a reset a server makes less than of an early FIN.
        socket.set_linger(Some(Duration::ZERO))?;
        Ok(Connected { stream })
    };
    attempt.await.map_err(|error: io::Error| match error.kind() {
        io::ErrorKind::ConnectionRefused => Failure::Refused,
        _ => of_this_host(&error, &format!("connect: {error}")),
    })
}

impl Connected {
    /// Reads the greeting.
    pub(super) async fn greeting(mut self) -> Result<Opened, Failure> {
        let mut bytes = Vec::new();
        loop {
            let greeting = wire::greeting(&bytes);
            match greeting.map_err(|violation| Failure::NotMysql(violation.to_string()))? {
                Some(greeting) => {
                    let reset = SockRef::from(&self.stream).set_linger(None);
                    reset.map_err(|error| Failure::Io(format!("greeting: {error}")))?;
                    return Ok(Opened { stream: self.stream, greeting, bytes });
                }
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

/// How a TLS session is made.
#[derive(Clone, Debug)]
pub(super) struct Trust {
    pub(super) judge: Arc<Judge>,
    /// What the certificate has to name.
    pub(super) name: ServerName<'static>,
}

/// What the task tells.
#[derive(Clone, Debug, Default)]
struct State {
    /// Why the server's certificate is not to be trusted: the library is to come again, as nobody.
    distrust: Option<String>,
    end: Option<End>,
}

/// Handle of the joining task.
#[derive(Debug)]
pub(super) struct Tap {
    state: watch::Receiver<State>,
}

impl Opened {
    /// Starts the task; the library is to connect to the place returned.
    pub(super) fn join(
        self,
        trust: Option<Trust>,
        empty_password: bool,
        progress: Progress,
    ) -> io::Result<(Tap, Entrance)> {
        let (door, entrance) = Door::open(trust.is_some())?;
        let (tx, state) = watch::channel(State::default());
        let guard = Guard::new(empty_password);
        tokio::spawn(async move {
            let ended = match run(self, door, trust, guard, &tx, &progress).await {
                Ok(()) => End::Client,
                Err(failure) => End::Failed(failure),
            };
            // What a refusal has said already is the reason.
            tx.send_modify(|state| {
                state.end.get_or_insert(ended);
            });
        });
        Ok((Tap { state }, entrance))
    }
}

impl Tap {
    /// Why it has ended, if it has.
    pub(super) fn ended(&self) -> Option<End> {
        self.state.borrow().end.clone()
    }

    /// Why the server is not to be trusted; the library's login has been cut off then, and one
    /// more is awaited that gives nothing away.
    pub(super) fn distrust(&self) -> Option<String> {
        self.state.borrow().distrust.clone()
    }

    /// Waits for the end. Cancel-safe.
    pub(super) async fn wait(&mut self) -> End {
        match self.state.wait_for(|state| state.end.is_some()).await {
            Ok(state) => state.end.clone().unwrap_or(End::Client),
            // The task is gone without a word: the runtime is stopping.
            Err(_) => End::Client,
        }
    }

    /// Waits for the end after our side has closed; `None` when it does not come.
    pub(super) async fn end(mut self) -> Option<End> {
        timeout(JOIN_LIMIT, self.wait()).await.ok()
    }
}

/// A connection in either direction.
trait Duplex: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Duplex for T {}

/// The life of a tap after the greeting. `Ok`: our side ended it.
async fn run(
    opened: Opened,
    door: Door,
    trust: Option<Trust>,
    guard: Guard,
    tell: &watch::Sender<State>,
    progress: &Progress,
) -> Result<(), Failure> {
    let Opened { stream: server, bytes, .. } = opened;
    let Some(mut library) = admit(&door, &bytes).await else { return Ok(()) };
    let Some(trust) = trust else {
        drop(door);
        return relay(Box::new(server), library, guard, tell).await;
    };
    let Some(request) = ssl_request(&mut library).await else { return Ok(()) };
    progress.reach(Stage::Handshake);
    let server = secure(server, &request, &trust).await?;
    progress.reach(Stage::Inside);
    if let Some(objection) = trust.judge.objection() {
        tell.send_modify(|state| state.distrust = Some(objection));
        drop(library);
        let Some(nobody) = admit(&door, &bytes).await else { return Ok(()) };
        library = nobody;
        // The server has had one.
        if ssl_request(&mut library).await.is_none() {
            return Ok(());
        }
    }
    // A session lives long, and nobody else is let in.
    drop(door);
    relay(Box::new(server), library, guard, tell).await
}

/// The library's connection, with the greeting handed over.
async fn admit(door: &Door, greeting: &[u8]) -> Option<Box<dyn Duplex>> {
    let mut library = timeout(JOIN_LIMIT, door.accept_own()).await.ok()??;
    library.write_all(greeting).await.ok()?;
    Some(library)
}

/// The library's SSLRequest. Anything else is not sent on: it might be a login in clear.
async fn ssl_request(library: &mut (impl AsyncRead + Unpin)) -> Option<[u8; wire::SSL_REQUEST]> {
    let mut request = [0; wire::SSL_REQUEST];
    let read = timeout(JOIN_LIMIT, library.read_exact(&mut request)).await;
    read.ok()?.ok()?;
    if wire::is_ssl_request(&request) {
        Some(request)
    } else {
        tracing::error!("the MySQL library did not ask for TLS: login given up");
        None
    }
}

/// Asks for TLS and shakes hands, whatever the certificate; the verdict is with the judge.
async fn secure(
    mut server: TcpStream,
    request: &[u8],
    trust: &Trust,
) -> Result<TlsStream<Witness>, Failure> {
    let config = trust.judge.config();
    let config = config.map_err(|error| Failure::Credentials(format!("TLS: {error}")))?;
    if let Err(error) = server.write_all(request).await {
        return Err(Failure::Io(format!("request for TLS: {error}")));
    }
    let witness = Witness { stream: server, seen: Vec::new() };
    let connector = TlsConnector::from(Arc::new(config));
    let handshake = connector.connect(trust.name.clone(), witness).into_fallible();
    handshake.await.map_err(|(error, witness)| {
        let seen = witness.seen;
        let record = matches!(*seen.as_slice(), [20..=23, 3, ..] | [20..=23] | []);
        match (error.kind(), wire::error_packet(&seen)) {
            (_, Some((code, message))) if !record => {
                Failure::Server { code, message, statement: false, tls: false }
            }
            _ if !record => Failure::Handshake(format!(
                "TLS: the server answers in plain text: {}",
                wire::first_bytes(&seen)
            )),
            // What rustls itself has to say.
            (io::ErrorKind::InvalidData | io::ErrorKind::Other, _) => {
                Failure::Handshake(format!("TLS: {error}"))
            }
            // A server that dies shows again at once, without TLS.
            (io::ErrorKind::UnexpectedEof, _) => {
                Failure::Handshake("closed by the server during the TLS handshake".to_owned())
            }
            _ => Failure::Handshake(format!("TLS handshake: {error}")),
        }
    })
}

/// Relays between the two until one ends.
async fn relay(
    mut server: Box<dyn Duplex>,
    mut library: Box<dyn Duplex>,
    mut guard: Guard,
    tell: &watch::Sender<State>,
) -> Result<(), Failure> {
    let mut from_server = [0; CHUNK];
    let mut from_library = [0; CHUNK];
    let mut out = Vec::with_capacity(CHUNK);
    let mut said_quit = false;
    loop {
        tokio::select! {
            read = server.read(&mut from_server) => {
                let length = match read {
                    Ok(0) => return Err(Failure::Io("closed by the server".to_owned())),
                    Ok(length) => length,
                    // Inside TLS: without a farewell, as a killed server closes.
                    Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                        return Err(Failure::Io("closed by the server".to_owned()));
                    }
                    Err(error) => return Err(Failure::Io(error.to_string())),
                };
                out.clear();
                let chunk = from_server.get(..length).unwrap_or_default();
                match guard.received(chunk, &mut out) {
                    Ok(()) => {}
                    Err(Stop::Violation(violation)) => {
                        return Err(Failure::NotMysql(violation.to_string()));
                    }
                    Err(Stop::Declined { reason, decline }) => {
                        let end = End::Failed(Failure::Credentials(reason));
                        tell.send_modify(|state| state.end = Some(end));
                        drop(library);
                        self::decline(server, &decline).await;
                        return Ok(());
                    }
                }
                if library.write_all(&out).await.is_err() {
                    farewell(server, &guard, said_quit).await;
                    return Ok(());
                }
            }
            read = library.read(&mut from_library) => {
                let length = match read {
                    Ok(0) | Err(_) => {
                        farewell(server, &guard, said_quit).await;
                        return Ok(());
                    }
                    Ok(length) => length,
                };
                guard.sent();
                let chunk = from_library.get(..length).unwrap_or_default();
                said_quit = chunk == COM_QUIT;
                if let Err(error) = say(&mut server, chunk).await {
                    return Err(Failure::Io(error.to_string()));
                }
            }
        }
    }
}

/// Writes all of it to the network: TLS keeps what is not flushed.
async fn say(server: &mut Box<dyn Duplex>, bytes: &[u8]) -> io::Result<()> {
    server.write_all(bytes).await?;
    server.flush().await
}

/// Gives a wrong answer to a question that will not be answered, and waits for the refusal.
async fn decline(mut server: Box<dyn Duplex>, answer: &[u8]) {
    let _ = timeout(DECLINE_LIMIT, async {
        say(&mut server, answer).await?;
        let mut chunk = [0; CHUNK];
        while server.read(&mut chunk).await? > 0 {}
        server.shutdown().await
    })
    .await;
}

/// Where the library is let in.
enum Door {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// The same, for the library.
pub(super) enum Entrance {
    Tcp(SocketAddr),
    /// A socket's path: a NUL and a name in the abstract namespace (unix(7)).
    Unix(String),
}

impl Door {
    fn open(unix: bool) -> io::Result<(Self, Entrance)> {
        if !unix {
            let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
            listener.set_nonblocking(true)?;
            let at = listener.local_addr()?;
            return Ok((Self::Tcp(TcpListener::from_std(listener)?), Entrance::Tcp(at)));
        }
        // Not to be guessed: a name that is taken could not be had.
        let random = std::hash::RandomState::new().build_hasher().finish();
        let path = format!("\0lbd-probe-{}-{random:016x}", std::process::id());
        Ok((Self::Unix(UnixListener::bind(&path)?), Entrance::Unix(path)))
    }

    /// Accepts until the other end is a socket of this very process: anybody on this host can
    /// connect, and would be handed a MySQL session from the balancer's address.
    async fn accept_own(&self) -> Option<Box<dyn Duplex>> {
        loop {
            let (stream, peer, own): (Box<dyn Duplex>, _, _) = match self {
                Self::Unix(listener) => {
                    let (stream, _) = listener.accept().await.ok()?;
                    let peer = stream.peer_cred();
                    let process = peer.as_ref().ok().and_then(tokio::net::unix::UCred::pid);
                    let own = peer.map(|_| process == i32::try_from(std::process::id()).ok());
                    (Box::new(stream), format!("process {}", process.unwrap_or(0)), own)
                }
                Self::Tcp(listener) => {
                    let (stream, peer) = listener.accept().await.ok()?;
                    let local = stream.local_addr().ok()?;
                    let _ = stream.set_nodelay(true);
                    // An error: the runtime is stopping.
                    let own = tokio::task::spawn_blocking(move || is_surely_own(peer, local))
                        .await
                        .ok()?;
                    (Box::new(stream), peer.to_string(), own)
                }
            };
            match own {
                Ok(true) => return Some(stream),
                Ok(false) => tracing::warn!(peer, "stranger at a probe's own socket: closed"),
                Err(error) => {
                    tracing::warn!(%error, "whose connection this is cannot be told: closed");
                }
            }
        }
    }
}

/// As [`is_own`], whose lists are walked while others change them and may miss what was there all the time.
fn is_surely_own(local: SocketAddr, remote: SocketAddr) -> io::Result<bool> {
    for _ in 0..2 {
        if is_own(local, remote)? {
            return Ok(true);
        }
    }
    is_own(local, remote)
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
async fn farewell(mut server: Box<dyn Duplex>, guard: &Guard, said_quit: bool) {
    let _ = timeout(CLOSE_LIMIT, async {
        if guard.authenticated() && !said_quit {
            say(&mut server, &COM_QUIT).await?;
        }
        server.shutdown().await?;
        let mut rest = [0; CHUNK];
        while server.read(&mut rest).await? > 0 {}
        io::Result::Ok(())
    })
    .await;
}

/// A connection that remembers the first bytes that came.
#[derive(Debug)]
struct Witness {
    stream: TcpStream,
    seen: Vec<u8>,
}

impl AsyncRead for Witness {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        let polled = Pin::new(&mut this.stream).poll_read(cx, buf);
        let room = WITNESS_LIMIT.saturating_sub(this.seen.len());
        if room > 0 {
            this.seen.extend(buf.filled().iter().skip(before).take(room));
        }
        polled
    }
}

impl AsyncWrite for Witness {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    /// Another process that gets there first learns nothing and takes nobody's place.
    #[tokio::test]
    async fn only_our_own_process_is_let_in() {
        let (mut tls, mut late) = (Some(false), 0);
        while let Some(with) = tls {
            let began = std::time::Instant::now();
            let server = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("bind");
            let addr = server.local_addr().expect("name");
            let stream = TcpStream::connect(addr).await.expect("connect");
            let greeting = Greeting::Hello { version: "8".to_owned(), tls: with };
            let opened = Opened { stream, greeting, bytes: b"greeting".to_vec() };
            let name = super::super::trust::name_of(addr.ip());
            let trust = with.then(|| Trust { judge: Judge::lenient(), name });
            let (tap, entrance) = opened.join(trust, false, Progress::default()).expect("listens");
            let mut stranger = match &entrance {
                Entrance::Tcp(at) => {
                    let mut bash = Command::new("bash");
                    let script = format!("exec 3<>/dev/tcp/127.0.0.1/{}; cat <&3", at.port());
                    bash.args(["-c", &script]);
                    bash
                }
                Entrance::Unix(path) => {
                    // The one language that every Debian has, and quick to start.
                    let mut perl = Command::new("perl");
                    let script = "use Socket; socket(S, AF_UNIX, SOCK_STREAM, 0) or die $!; \
                                  connect(S, pack_sockaddr_un(\"\\0$ARGV[0]\")) or die $!; \
                                  sysread(S, $told, 99); print $told // ''";
                    perl.args(["-e", script, &path[1..]]);
                    perl
                }
            };
            stranger.stdin(Stdio::null());
            let output = tokio::task::spawn_blocking(move || stranger.output())
                .await
                .expect("joined")
                .expect("it runs");
            if began.elapsed() > JOIN_LIMIT / 2 {
                // A busy machine: the door may be closed, which proves nothing.
                late += 1;
                assert!(late < 20, "no other process starts in time");
                continue;
            }
            assert!(output.status.success(), "it was let in to the socket: {output:?}");
            assert_eq!(output.stdout, b"", "it was told something");
            let mut own: Box<dyn Duplex> = match entrance {
                Entrance::Tcp(at) => Box::new(TcpStream::connect(at).await.expect("still open")),
                Entrance::Unix(path) => {
                    Box::new(tokio::net::UnixStream::connect(path).await.expect("still open"))
                }
            };
            let mut bytes = [0; 8];
            own.read_exact(&mut bytes).await.expect("the greeting");
            assert_eq!(&bytes, b"greeting");
            assert_eq!(tap.ended(), None);
            tls = (!with).then_some(true);
        }
    }

    /// A session lives for days: its door is closed behind the library.
    #[tokio::test]
    async fn nobody_can_knock_once_the_library_is_in() {
        let server = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("bind");
        let stream = TcpStream::connect(server.local_addr().expect("name")).await.expect("connect");
        let greeting = Greeting::Hello { version: "8".to_owned(), tls: false };
        let opened = Opened { stream, greeting, bytes: b"greeting".to_vec() };
        let (tap, entrance) = opened.join(None, false, Progress::default()).expect("listens");
        let Entrance::Tcp(at) = entrance else { panic!("without TLS it is TCP") };
        let mut own = TcpStream::connect(at).await.expect("open");
        let mut bytes = [0; 8];
        own.read_exact(&mut bytes).await.expect("the greeting");
        timeout(10 * JOIN_LIMIT, async {
            while TcpStream::connect(at).await.is_ok() {
                tokio::task::yield_now().await;
            }
        })
        .await
        .expect("it is closed");
        assert_eq!(tap.ended(), None, "the session goes on");
    }

    /// Should the library ever log in without asking for TLS, the server does not hear of it.
    #[tokio::test]
    async fn a_login_in_clear_is_never_sent_on() {
        let server = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("bind");
        let addr = server.local_addr().expect("name");
        let stream = TcpStream::connect(addr).await.expect("connect");
        let (mut peer, _) = server.accept().await.expect("ours");
        let greeting = Greeting::Hello { version: "8".to_owned(), tls: true };
        let opened = Opened { stream, greeting, bytes: b"greeting".to_vec() };
        let name = super::super::trust::name_of(addr.ip());
        let trust = Trust { judge: Judge::lenient(), name };
        let (_tap, entrance) =
            opened.join(Some(trust), false, Progress::default()).expect("listens");
        let Entrance::Unix(path) = entrance else { panic!("TLS is by a Unix socket") };
        let mut library = tokio::net::UnixStream::connect(path).await.expect("open");
        library.write_all(&[&[60, 0, 0, 1], [7; 60].as_slice()].concat()).await.expect("said");
        let mut heard = Vec::new();
        peer.read_to_end(&mut heard).await.expect("closed in order");
        assert_eq!(heard, b"");
    }
}
