//! Servers that speak TLS, with every kind of certificate, and those that do not when they should.

use std::sync::Arc;

use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use super::*;

const CA: &str = include_str!("../testdata/ca.pem");
const EXPIRED_CA: &str = include_str!("../testdata/expired-ca.pem");
const KEY: &str = include_str!("../testdata/server.key.pem");
const GOOD: &str = include_str!("../testdata/server.pem");
/// X.509 version 1, as `openssl x509 -req` makes them without `-extfile`.
const V1: &str = include_str!("../testdata/server-v1.pem");
const SELF_SIGNED: &str = include_str!("../testdata/self-signed.pem");

const DENIED: &[u8] = b"\xff\x15\x04#28000Access denied";

/// TLS needs more of a busy machine than [`LIMIT`]; none of these waits for its end.
const PATIENT: Duration = Duration::from_secs(10);

/// Shows one certificate, however odd.
#[derive(Debug)]
struct Shows(Arc<CertifiedKey>);

impl ResolvesServerCert for Shows {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

fn acceptor(certificate: &str) -> TlsAcceptor {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).expect("PEM")];
    let key = PrivateKeyDer::from_pem_slice(KEY.as_bytes()).expect("PEM");
    let key = provider.key_provider.load_private_key(key).expect("a key");
    let shows = Shows(Arc::new(CertifiedKey::new(chain, key)));
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(shows));
    TlsAcceptor::from(Arc::new(config))
}

fn require(ca: Option<&str>) -> Target {
    let authority = |pem: &str| Authority { name: "/ca.pem".into(), content: Ok(pem.to_owned()) };
    Target { tls: Tls::Require, tls_ca: ca.map(authority), timeout: PATIENT, ..target() }
}

/// Greets, offers TLS, and takes the SSLRequest.
async fn offer(stream: &mut TcpStream) {
    stream.write_all(&hello_with("caching_sha2_password", 0xffdf)).await.expect("greeting");
    let (seq, request) = read_packet(stream).await.expect("SSLRequest");
    assert_eq!((seq, request.len()), (1, 32));
}

/// As [`offer`], then shakes hands.
async fn shake(mut stream: TcpStream, certificate: &str) -> io::Result<TlsStream<TcpStream>> {
    offer(&mut stream).await;
    acceptor(certificate).accept(stream).await
}

/// Answers the login inside TLS with each of these in turn; returns every packet of the client.
async fn converse(
    stream: TcpStream,
    certificate: &str,
    answers: Vec<Vec<u8>>,
) -> Result<Vec<(u8, Vec<u8>)>, String> {
    let mut stream =
        shake(stream, certificate).await.map_err(|error| format!("handshake: {error}"))?;
    let mut heard = Vec::new();
    for answer in answers {
        let Some((seq, payload)) = read_packet(&mut stream).await else { return Ok(heard) };
        heard.push((seq, payload));
        let _ = stream.write_all(&packet(seq.wrapping_add(1), &answer)).await;
        let _ = stream.flush().await;
    }
    while let Some(last) = read_packet(&mut stream).await {
        heard.push(last);
    }
    Ok(heard)
}

fn says_user(login: &(u8, Vec<u8>), user: &str) -> bool {
    login.1.windows(user.len()).any(|window| window == user.as_bytes())
}

async fn with_certificate(
    target: Target,
    certificate: &'static str,
    answers: Vec<Vec<u8>>,
) -> (Result<Answer, Failure>, Vec<(u8, Vec<u8>)>) {
    let serve =
        move |stream: TcpStream| async move { converse(stream, certificate, answers).await };
    let (result, heard) = against_target(target, &somebody(), serve).await;
    (result, heard.unwrap_or_else(|error| panic!("{error}")))
}

#[tokio::test]
async fn a_good_certificate_gets_the_login_and_com_quit() {
    let prefer = Target { tls: Tls::Prefer, tls_ca: None, ..require(None) };
    for (target, certificate) in [
        (require(Some(CA)), GOOD),
        (require(Some(&format!("{EXPIRED_CA}{CA}"))), GOOD),
        // Without a CA any will do.
        (require(None), SELF_SIGNED),
        (require(None), V1),
        (prefer, V1),
    ] {
        // Inside TLS caching_sha2_password takes the password itself.
        let answers = vec![b"\x01\x04".to_vec(), OK.to_vec()];
        let (result, heard) = with_certificate(target, certificate, answers).await;
        assert_eq!(result, Ok(Answer::Alive));
        let [login, password, quit] = &heard[..] else { panic!("{heard:?}") };
        assert!(says_user(login, "lbcheck"), "{login:?}");
        assert_eq!(login.0, 2);
        assert_eq!(*password, (4, b"secret\0".to_vec()));
        assert_eq!(*quit, (0, vec![1]), "COM_QUIT");
    }
}

/// The handshake is finished, so the server counts no error, and the only login is nobody's.
#[tokio::test]
async fn a_bad_certificate_ends_in_the_refused_login_of_nobody() {
    for (ca, certificate, expected) in [
        (include_str!("../testdata/other-ca.pem"), GOOD, "is not signed by tls_ca /ca.pem"),
        (CA, SELF_SIGNED, "is self-signed, not by tls_ca /ca.pem"),
        (CA, include_str!("../testdata/server-expired.pem"), "has expired"),
        (
            CA,
            include_str!("../testdata/server-other-name.pem"),
            "does not name 127.0.0.1 (subjectAltName IP)",
        ),
        (CA, V1, "is no good: "),
    ] {
        let (result, heard) =
            with_certificate(require(Some(ca)), certificate, vec![DENIED.to_vec()]).await;
        let Err(Failure::Credentials(text)) = result else { panic!("{result:?}") };
        assert!(text.starts_with("TLS: certificate of the server "), "{text}");
        assert!(text.contains(expected), "{text}");
        let [login] = &heard[..] else { panic!("{heard:?}") };
        assert!(says_user(login, NOBODY), "{login:?}");
        assert!(!says_user(login, "lbcheck"), "{login:?}");
    }
}

/// A certificate that belongs to somebody else, whose key this server has not.
#[tokio::test]
async fn a_signature_that_is_not_the_certificates_is_seen() {
    let serve = |mut stream: TcpStream| async move {
        offer(&mut stream).await;
        let provider = rustls::crypto::ring::default_provider();
        let chain = vec![CertificateDer::from_pem_slice(GOOD.as_bytes()).expect("PEM")];
        let other = rustls::crypto::ring::sign::any_ecdsa_type(
            &PrivateKeyDer::from_pem_slice(include_bytes!("../testdata/other.key.pem"))
                .expect("PEM"),
        );
        let shows = Shows(Arc::new(CertifiedKey::new(chain, other.expect("a key"))));
        let config = ServerConfig::builder_with_provider(Arc::new(provider))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(shows));
        let mut stream =
            TlsAcceptor::from(Arc::new(config)).accept(stream).await.expect("shakes hands");
        let login = read_packet(&mut stream).await.expect("a login");
        let _ = stream.write_all(&packet(3, DENIED)).await;
        let _ = stream.flush().await;
        login
    };
    let (result, login) = against_target(require(Some(CA)), &somebody(), serve).await;
    let Err(Failure::Credentials(text)) = result else { panic!("{result:?}") };
    assert!(text.starts_with("TLS: signature of the handshake"), "{text}");
    assert!(says_user(&login, NOBODY), "{login:?}");
}

/// Nothing to verify with: nobody logs in, and no TLS is tried for it.
#[tokio::test]
async fn a_tls_ca_that_is_of_no_use_is_named() {
    let unreadable = Err("Permission denied (os error 13)".to_owned());
    for (content, expected) in [
        (unreadable, "tls_ca /ca.pem: Permission denied"),
        (Ok("no PEM".to_owned()), "tls_ca /ca.pem: it holds no certificate"),
        (Ok(EXPIRED_CA.to_owned()), "tls_ca /ca.pem: the certificate of the authority has expired"),
    ] {
        let authority = Authority { name: "/ca.pem".into(), content };
        for tls in [Tls::Prefer, Tls::Require] {
            let target = Target { tls, tls_ca: Some(authority.clone()), ..require(None) };
            let serve = |mut stream: TcpStream| async move {
                let greeting = hello_with("caching_sha2_password", 0xffdf);
                stream.write_all(&greeting).await.expect("greeting");
                let login = read_packet(&mut stream).await.expect("a login");
                let _ = stream.write_all(&packet(2, DENIED)).await;
                login
            };
            let (result, login) = against_target(target, &somebody(), serve).await;
            let Err(Failure::Credentials(text)) = result else { panic!("{result:?}") };
            assert!(text.starts_with(expected), "{text}");
            assert!(says_user(&login, NOBODY), "{login:?}");
        }
    }
    // The server's certificate is fine otherwise: the dates of the authority are looked at.
    let of_expired = include_str!("../testdata/server-of-expired-ca.pem");
    let both = format!("{EXPIRED_CA}{CA}");
    let (result, _) =
        with_certificate(require(Some(&both)), of_expired, vec![DENIED.to_vec()]).await;
    let Err(Failure::Credentials(text)) = result else { panic!("{result:?}") };
    assert!(text.contains("is not signed by tls_ca"), "{text}");
}

#[tokio::test]
async fn what_is_not_tls_is_named() {
    let full = packet(2, b"\xff\x10\x04Too many connections");
    let alert = b"\x15\x03\x03\x00\x02\x02\x46".to_vec();
    for (bytes, expected) in [
        (full, "ERROR 1040: Too many connections"),
        (b"HTTP/1.1 400 Bad".to_vec(), "TLS: the server answers in plain text: 48 54 54 50"),
        (packet(2, OK), "TLS: the server answers in plain text: 07 00 00 02"),
        (alert, "TLS: received fatal alert"),
        (b"\x16\x03\x03\xff\xff".to_vec(), "TLS: "),
        (Vec::new(), "closed by the server during the TLS handshake"),
        (b"\x16\x03".to_vec(), "closed by the server during the TLS handshake"),
    ] {
        let serve = |mut stream: TcpStream| async move {
            offer(&mut stream).await;
            // The ClientHello first: what is not read is answered by a RST.
            let mut hello = [0; 4096];
            let _ = stream.read(&mut hello).await;
            let _ = stream.write_all(&bytes).await;
        };
        let (result, ()) = against_target(require(Some(CA)), &somebody(), serve).await;
        let failure = result.expect_err(expected);
        assert!(words(&failure).starts_with(expected), "{failure}");
        let by_words = match expected {
            text if text.starts_with("ERROR") => {
                matches!(failure, Failure::Server { code: 1040, .. })
            }
            _ => matches!(failure, Failure::Handshake(_)),
        };
        assert!(by_words, "{failure:?}");
    }
}

/// The server gives up in the end and counts it, as when large packets do not come through.
#[tokio::test]
async fn a_handshake_that_hangs_is_a_failed_one() {
    let serve = |mut stream: TcpStream| async move {
        offer(&mut stream).await;
        linger(stream).await;
    };
    let target = Target { timeout: LIMIT, ..require(Some(CA)) };
    let (result, ()) = against_target(target, &somebody(), serve).await;
    let text = "TLS handshake not finished within 400 ms";
    assert_eq!(result, Err(Failure::Handshake(text.to_owned())));
}

/// What the library must not see is stopped inside TLS as well.
#[tokio::test]
async fn packets_inside_tls_are_watched() {
    let (result, heard) = with_certificate(require(Some(CA)), GOOD, vec![vec![]]).await;
    assert_eq!(result, Err(Failure::NotMysql("empty packet during the login".into())));
    assert_eq!(heard.len(), 1);

    let switch = b"\xfemysql_clear_password\0".to_vec();
    let answers = vec![switch, DENIED.to_vec()];
    let (result, heard) = with_certificate(require(Some(CA)), GOOD, answers).await;
    let Err(Failure::Credentials(text)) = result else { panic!("{result:?}") };
    assert!(text.contains("would send the password in clear"), "{text}");
    assert_eq!(heard[1..], [(4, vec![0])], "a wrong answer, so that the login ends refused");
}

/// A session that is just dropped is ended in order, inside TLS too.
#[tokio::test]
async fn a_dropped_session_says_com_quit_inside_tls() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("bind");
    let target = Target { addr: listener.local_addr().expect("name"), ..require(Some(CA)) };
    let server = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.expect("a client");
        converse(stream, GOOD, vec![OK.to_vec()]).await
    });
    let (session, _) = login(&target, &somebody(), &Places::default()).await.expect("logs in");
    drop(session);
    let heard = server.await.expect("joined").expect("shakes hands");
    assert_eq!(heard.last(), Some(&(0, vec![1])), "COM_QUIT");
}
