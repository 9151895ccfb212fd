//! Whom a login by TLS trusts: `tls_ca`, and the verdict on a server's certificate.
//!
//! The verdict is recorded and the handshake goes on. A MySQL server counts a handshake that its
//! client breaks off for `max_connect_errors`, and blocks the balancer's address after a hundred of
//! them; a refused login it counts for nobody. Nothing secret is said before the verdict is read.

use std::{
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::{
        Resumption, WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject as _},
};
use x509_cert::{Certificate, der::Decode as _};

use crate::base::text::printable;

/// Longest `tls_ca` in bytes: a handful of authorities, not a system's bundle of public ones.
pub const AUTHORITY_LIMIT: usize = 64 << 10;

/// `tls_ca`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authority {
    /// The path, for messages. The file itself is not read here: a checker has no right to.
    pub name: String,
    /// PEM text, or why there is none.
    pub content: Result<String, String>,
}

/// The certificates of a `tls_ca`.
///
/// # Errors
/// Why it can never verify anything: it holds no certificate, or something unreadable.
pub fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    if pem.len() > AUTHORITY_LIMIT {
        return Err(format!("longer than {AUTHORITY_LIMIT} bytes"));
    }
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let found = found.map_err(|error| format!("not PEM: {}", shown(&error)))?;
    if found.is_empty() {
        return Err("it holds no certificate (PEM)".to_owned());
    }
    for (index, der) in found.iter().enumerate() {
        if let Err(error) = RootCertStore::empty().add(der.clone()) {
            return Err(format!("certificate {} in it: {}", index + 1, shown(&error)));
        }
    }
    Ok(found)
}

/// How one TLS login verifies, and what came of it.
#[derive(Debug)]
pub(in crate::io::probes) struct Judge {
    /// `None`: any certificate will do.
    verifier: Option<Arc<WebPkiServerVerifier>>,
    authority: String,
    provider: Arc<CryptoProvider>,
    /// Why the server is not to be trusted.
    objection: Mutex<Option<String>>,
}

impl Judge {
    /// Takes any certificate. Not even the handshake's signature is looked at, so that
    /// certificates of X.509 version 1 do, which many a server was given by hand.
    pub(in crate::io::probes) fn lenient() -> Arc<Self> {
        Arc::new(Self {
            verifier: None,
            authority: String::new(),
            provider: Arc::new(ring::default_provider()),
            objection: Mutex::new(None),
        })
    }

    /// Takes certificates that chain to `authority` and name the address that is dialled.
    ///
    /// # Errors
    /// Why the authority cannot verify anything now.
    pub(super) fn strict(authority: &Authority) -> Result<Arc<Self>, String> {
        let provider = Arc::new(ring::default_provider());
        let verifier = authority.content.clone().and_then(|pem| {
            let mut roots = RootCertStore::empty();
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            for der in certificates(pem.as_bytes())? {
                // The library does not look at the dates of an authority; MySQL's clients do.
                if !expired(&der, now) {
                    roots.add(der).map_err(|error| shown(&error))?;
                }
            }
            if roots.is_empty() {
                return Err("the certificate of the authority has expired".to_owned());
            }
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
                .build()
                .map_err(|error| shown(&error))
        });
        let verifier = verifier.map_err(|reason| format!("tls_ca {}: {reason}", authority.name))?;
        Ok(Arc::new(Self {
            verifier: Some(verifier),
            authority: authority.name.clone(),
            provider,
            // Until the contrary is proved.
            objection: Mutex::new(Some("the server has shown no certificate".to_owned())),
        }))
    }

    /// Configuration of a handshake that this judge watches.
    ///
    /// # Errors
    /// None is known: the provider has the protocol versions that are asked for.
    pub(in crate::io::probes) fn config(self: &Arc<Self>) -> Result<ClientConfig, Error> {
        let mut config = ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(Arc::clone(self) as Arc<dyn ServerCertVerifier>)
            .with_no_client_auth();
        // A resumed session would show no certificate.
        config.resumption = Resumption::disabled();
        Ok(config)
    }

    /// After the handshake: why the server is not to be trusted.
    pub(super) fn objection(&self) -> Option<String> {
        self.objection.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn rule(&self, objection: Option<String>) {
        *self.objection.lock().unwrap_or_else(PoisonError::into_inner) = objection;
    }

    /// The words for a certificate that did not verify.
    fn explain(&self, error: &Error, der: &CertificateDer<'_>, name: &ServerName<'_>) -> String {
        let what = match error {
            Error::InvalidCertificate(CertificateError::UnknownIssuer) if self_signed(der) => {
                format!("is self-signed, not by tls_ca {}", self.authority)
            }
            Error::InvalidCertificate(CertificateError::UnknownIssuer) => {
                format!("is not signed by tls_ca {}", self.authority)
            }
            Error::InvalidCertificate(
                CertificateError::Expired | CertificateError::ExpiredContext { .. },
            ) => "has expired".to_owned(),
            Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            ) => format!("does not name {} (subjectAltName IP)", name.to_str()),
            other => format!("is no good: {}", shown(other)),
        };
        format!("certificate of the server {what}")
    }

    fn signed(&self, verdict: Result<HandshakeSignatureValid, Error>) -> HandshakeSignatureValid {
        if let (Some(_), Err(error)) = (&self.verifier, verdict) {
            // What was wrong with the certificate itself says more.
            if self.objection().is_none() {
                self.rule(Some(format!("signature of the handshake: {}", shown(&error))));
            }
        }
        HandshakeSignatureValid::assertion()
    }
}

impl ServerCertVerifier for Judge {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if let Some(verifier) = &self.verifier {
            let verdict =
                verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp, now);
            self.rule(verdict.err().map(|error| self.explain(&error, end_entity, server_name)));
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        Ok(self.signed(verify_tls12_signature(message, cert, signed, algorithms)))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        Ok(self.signed(verify_tls13_signature(message, cert, signed, algorithms)))
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// The name that a server at `ip` has to prove.
pub(super) fn name_of(ip: IpAddr) -> ServerName<'static> {
    ServerName::IpAddress(ip.into())
}

fn expired(der: &CertificateDer<'_>, now: Duration) -> bool {
    Certificate::from_der(der)
        .is_ok_and(|it| it.tbs_certificate.validity.not_after.to_unix_duration() < now)
}

fn self_signed(der: &CertificateDer<'_>) -> bool {
    Certificate::from_der(der)
        .is_ok_and(|it| it.tbs_certificate.issuer == it.tbs_certificate.subject)
}

fn shown(error: &impl ToString) -> String {
    printable(error.to_string().as_bytes(), 160)
}
