//! When TLS is used with the next hop, and what its certificate has to be.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::address::NextHopAddress;
use super::transport::Transport;
use crate::ocp::{TlsError, server_name, verifying};

/// When TLS is used with the next hop.
#[derive(Clone, Default)]
pub struct TlsPolicy(Option<Use>);

#[derive(Clone)]
struct Use {
    is_required: bool,
    name: Option<ServerName<'static>>,
    config: Arc<ClientConfig>,
}

impl TlsPolicy {
    /// Never.
    pub fn none() -> Self {
        Self(None)
    }

    /// Where the next hop offers it, whatever its certificate is; where that fails, plain text is sent.
    /// That keeps out who only listens, not who changes what is sent (RFC 7435).
    ///
    /// # Errors
    /// None that is known: if TLS itself can't be set up.
    pub fn may() -> Result<Self, TlsError> {
        let provider = Arc::new(ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| TlsError::new(error.to_string()))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
            .with_no_client_auth();
        config.resumption = Resumption::disabled();
        Ok(Self(Some(Use { is_required: false, name: None, config: Arc::new(config) })))
    }

    /// Always, with a certificate that one of these authorities has signed (PEM), for the host of the next
    /// hop's address or for `name`; `identity` is our certificate and its key, if it wants to know.
    ///
    /// # Errors
    /// The file or the name that can't be used, and why.
    pub fn require(
        ca: &Path,
        identity: Option<&(PathBuf, PathBuf)>,
        name: Option<&str>,
    ) -> Result<Self, TlsError> {
        let name = name.map(server_name).transpose()?;
        let config = Arc::new(verifying(ca, identity)?);
        Ok(Self(Some(Use { is_required: true, name, config })))
    }

    /// Whether mail waits rather than going in plain text.
    pub fn is_required(&self) -> bool {
        self.0.as_ref().is_some_and(|used| used.is_required)
    }

    /// Whether STARTTLS is to be said to a next hop that offers it.
    pub fn is_wanted(&self) -> bool {
        self.0.is_some()
    }

    /// The handshake. Its time is the caller's to bound.
    pub(super) async fn handshake(
        &self,
        stream: Transport,
        next_hop: &NextHopAddress,
    ) -> Result<TlsStream<Transport>, TlsError> {
        let used = self.0.as_ref().ok_or_else(|| TlsError::new("TLS is not used"))?;
        let name = match (&used.name, next_hop) {
            (Some(name), _) => name.clone(),
            (None, NextHopAddress::Tcp { host, .. }) if used.is_required => server_name(host)?,
            // Nothing is checked: what is no name, or an address, is not sent either.
            (None, NextHopAddress::Tcp { host, .. }) => {
                server_name(host).unwrap_or_else(|_| no_name())
            }
            (None, NextHopAddress::Unix(_)) if !used.is_required => no_name(),
            (None, NextHopAddress::Unix(_)) => {
                return Err(TlsError::new("a unix socket does not say the server's name"));
            }
        };
        let connected = TlsConnector::from(Arc::clone(&used.config)).connect(name, stream).await;
        connected.map_err(|error| TlsError::new(format!("the handshake failed: {error}")))
    }
}

impl fmt::Debug for TlsPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &self.0 {
            None => "None",
            Some(Use { is_required: false, .. }) => "May",
            Some(_) => "Require",
        })
    }
}

/// Stands for a name where there is none.
fn no_name() -> ServerName<'static> {
    ServerName::from(IpAddr::from(Ipv4Addr::LOCALHOST))
}

/// Takes any certificate, but only from who has its key.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
