//! TLS, the processor's side of it (profile section 9).

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Buf;
use ocp_proto::smtp::TLS;
use ocp_proto::wire::{Structure, Value};
use ocp_proto::{Closed, Connection, Event, OcpResult, Offer};
use rustls::client::Resumption;
use rustls::crypto::ring;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::address::ServerAddress;

/// Octets that are read at a time while TLS is negotiated: more than the answer has.
const ANSWER: usize = 4 * 1024;

/// How connections to a callout server are secured.
#[derive(Clone)]
pub struct Tls {
    negotiation: TlsNegotiation,
    name: Option<ServerName<'static>>,
    config: Arc<ClientConfig>,
}

/// Whether TLS is negotiated with a server whose address does not begin with it
/// ([`ServerAddress::Tls`]).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TlsNegotiation {
    /// No.
    Off,
    /// It is offered; a server without it is used in plain text. That keeps out who only listens, not
    /// who changes what is sent.
    Offer,
    /// It is offered; a server without it is not used.
    #[default]
    Required,
}

/// What the client of a TLS connection knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsSettings {
    /// Whether TLS is negotiated.
    pub negotiation: TlsNegotiation,
    /// The authorities that sign the server's certificate, in PEM form.
    pub ca: PathBuf,
    /// Our certificate and its private key, in PEM form, if the server wants to know who we are.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// The name in the server's certificate; `None`: the host of its address.
    pub name: Option<String>,
}

/// A file or a name that can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct TlsError {
    message: String,
    /// The file, if it is one.
    pub file: Option<PathBuf>,
}

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// The file or the name that can't be used, and why.
    pub fn new(settings: &TlsSettings) -> Result<Self, TlsError> {
        let TlsSettings { negotiation, ca, identity, name } = settings;
        let name = match name {
            Some(name) => Some(server_name(name)?),
            None => None,
        };
        let config = verifying(ca, identity.as_ref())?;
        Ok(Self { negotiation: *negotiation, name, config: Arc::new(config) })
    }

    /// The handshake. Its time is the caller's to bound.
    pub(super) async fn handshake<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: S,
        server: &ServerAddress,
    ) -> Result<Secured<S>, TlsError> {
        let name = match (&self.name, server) {
            (Some(name), _) => name.clone(),
            (None, ServerAddress::Tcp(address) | ServerAddress::Tls(address)) => {
                let host = address.rsplit_once(':').map_or(address.as_str(), |(host, _)| host);
                server_name(host.trim_start_matches('[').trim_end_matches(']'))?
            }
            (None, ServerAddress::Unix(_)) => {
                return Err(TlsError::new("a unix socket does not say the server's name"));
            }
        };
        let connector = TlsConnector::from(Arc::clone(&self.config));
        let stream = connector.connect(name, stream).await;
        stream
            .map(|stream| Secured(Box::new(stream)))
            .map_err(|error| TlsError::new(format!("the handshake failed: {error}")))
    }

    /// Negotiates TLS, if that is wanted, and does the handshake.
    pub(super) async fn negotiate<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        mut stream: S,
        connection: &mut Connection,
        server: &ServerAddress,
    ) -> Result<Negotiation<S>, TlsError> {
        if self.negotiation == TlsNegotiation::Off {
            return Ok(Negotiation::Plain(stream));
        }
        let agreed = agree(&mut stream, connection).await?;
        if agreed {
            let stream = self.handshake(stream, server).await?;
            let now = Instant::now().into_std();
            connection.tls_started(now).map_err(|misuse| TlsError::new(misuse.to_string()))?;
            return Ok(Negotiation::Secured(stream));
        }
        if self.negotiation == TlsNegotiation::Required {
            connection.close(OcpResult::failure("TLS is required"));
            // The connection is over either way.
            let _ = flush(&mut stream, connection).await;
            return Err(TlsError::new("it does not accept TLS, which is required"));
        }
        tracing::warn!(%server, "the callout server has no TLS: going on in plain text");
        Ok(Negotiation::Plain(stream))
    }
}

impl TlsError {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), file: None }
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls")
            .field("negotiation", &self.negotiation)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// What a negotiation led to.
pub(super) enum Negotiation<S> {
    /// No TLS.
    Plain(S),
    /// TLS.
    Secured(Secured<S>),
}

/// Offers TLS; whether the server accepts it.
async fn agree<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    connection: &mut Connection,
) -> Result<bool, TlsError> {
    let feature = Structure { members: vec![Value::atom(TLS)], ..Structure::default() };
    let offer = Offer { features: vec![feature], ..Offer::default() };
    connection.offer(offer).map_err(|misuse| TlsError::new(misuse.to_string()))?;
    loop {
        while let Some(event) = connection.poll_event() {
            match event {
                Event::StartTls => return Ok(true),
                Event::Responded(response) if response.feature.is_none() => return Ok(false),
                Event::Closed(closed) => {
                    // It should hear what it did.
                    let _ = flush(stream, connection).await;
                    return Err(TlsError::new(match closed {
                        Closed::ByPeer(result) => format!("it closed it: {}", result.reason()),
                        Closed::Violation(violation) => format!("it broke OCP: {violation}"),
                        Closed::ByUs | Closed::Lost { .. } => "it hung up".to_owned(),
                    }));
                }
                _ => {}
            }
        }
        flush(stream, connection).await.map_err(|error| TlsError::new(error.to_string()))?;
        connection.input().reserve(ANSWER);
        match stream.read_buf(connection.input()).await {
            Ok(0) => connection.handle_end_of_input(),
            Ok(_) => connection.handle_input(Instant::now().into_std()),
            Err(error) => return Err(TlsError::new(error.to_string())),
        }
    }
}

async fn flush<S: AsyncWrite + Unpin>(
    stream: &mut S,
    connection: &mut Connection,
) -> io::Result<()> {
    while connection.output().has_remaining() {
        stream.write_buf(connection.output()).await?;
    }
    stream.flush().await
}

/// A connection with TLS. It takes more octets than the socket does at a time; since the driver
/// writes only what is new, but always reads, reading sends the rest.
#[derive(Debug)]
pub(super) struct Secured<S>(Box<TlsStream<S>>);

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Secured<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Poll::Ready(Err(error)) = Pin::new(&mut self.0).poll_flush(cx) {
            return Poll::Ready(Err(error));
        }
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Secured<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        octets: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, octets)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// What trusts these authorities, and shows our certificate if there is one.
pub(crate) fn verifying(
    ca: &Path,
    identity: Option<&(PathBuf, PathBuf)>,
) -> Result<ClientConfig, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(ca)? {
        roots.add(certificate).map_err(|error| wrong(ca, error))?;
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| TlsError::new(error.to_string()))?
        .with_root_certificates(roots);
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => builder
            .with_client_auth_cert(certificates(certificate)?, private_key(key)?)
            .map_err(|error| wrong(certificate, error))?,
    };
    // Connections live long; a shortcut to the next one is not worth the state.
    config.resumption = Resumption::disabled();
    Ok(config)
}

pub(crate) fn server_name(name: &str) -> Result<ServerName<'static>, TlsError> {
    ServerName::try_from(name.to_owned())
        .map_err(|_| TlsError::new(format!("{name} is neither a DNS name nor an address")))
}

pub(crate) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let octets = std::fs::read(path).map_err(|error| wrong(path, error))?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&octets).collect();
    let certificates = certificates.map_err(|error| wrong(path, error))?;
    match certificates.is_empty() {
        true => Err(wrong(path, "there is no certificate in PEM form")),
        false => Ok(certificates),
    }
}

pub(crate) fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let octets = std::fs::read(path).map_err(|error| wrong(path, error))?;
    PrivateKeyDer::from_pem_slice(&octets).map_err(|error| match error {
        pem::Error::NoItemsFound => wrong(path, "there is no private key in PEM form"),
        error => wrong(path, error),
    })
}

pub(crate) fn wrong(path: &Path, cause: impl fmt::Display) -> TlsError {
    let message = format!("{} can't be used: {cause}", path.display());
    TlsError { message, file: Some(path.to_owned()) }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rustls::ServerConfig;
    use tokio_rustls::TlsAcceptor;

    use super::*;

    /// TLS holds octets that the pipe has no room for; they go out though nobody writes more.
    #[tokio::test(start_paused = true)]
    async fn reading_sends_what_tls_holds_back() {
        let folder = tempfile::tempdir().unwrap();
        ::tests::certificates::Authority::new(folder.path(), "ca")
            .sign("server", &["ocp.example.net"]);
        let path = |name: &str| folder.path().join(name);
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                certificates(&path("server.pem")).unwrap(),
                private_key(&path("server.key")).unwrap(),
            )
            .unwrap();
        let (ours, peers) = tokio::io::duplex(16);
        let peer = tokio::spawn(async move {
            let mut stream = TlsAcceptor::from(Arc::new(config)).accept(peers).await.unwrap();
            let mut read = [0; 1_000];
            stream.read_exact(&mut read).await.unwrap();
            stream.write_all(b"all").await.unwrap();
            stream.flush().await.unwrap();
            read
        });
        let name = Some("ocp.example.net".to_owned());
        let settings = TlsSettings { ca: path("ca.pem"), name, ..TlsSettings::default() };
        let server = "127.0.0.1:1".parse().unwrap();
        let tls = Tls::new(&settings).unwrap();
        let mut stream = tls.handshake(ours, &server).await.unwrap();
        assert_eq!(stream.write(&[b'x'; 1_000]).await.unwrap(), 1_000);
        let mut answer = [0; 3];
        let answered = tokio::time::timeout(Duration::from_secs(1), stream.read_exact(&mut answer));
        answered.await.expect("the server has got everything").unwrap();
        assert_eq!(&answer, b"all");
        assert_eq!(peer.await.unwrap(), [b'x'; 1_000]);
    }

    #[test]
    fn files_that_cannot_be_used_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let authority = ::tests::certificates::Authority::new(folder.path(), "ca");
        authority.sign("mta", &["mta.example.net"]);
        authority.sign("other", &["mta.example.net"]);
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("empty.pem"), "").unwrap();
        let identity = |certificate, key| Some((path(certificate), path(key)));
        let good = TlsSettings { ca: path("ca.pem"), ..TlsSettings::default() };
        let cases = [
            (TlsSettings { ca: path("missing.pem"), ..good.clone() }, "missing.pem can't be used"),
            (TlsSettings { ca: path("empty.pem"), ..good.clone() }, "no certificate"),
            (
                TlsSettings { identity: identity("mta.pem", "mta.pem"), ..good.clone() },
                "no private",
            ),
            (TlsSettings { identity: identity("mta.pem", "other.key"), ..good.clone() }, "mta.pem"),
            (TlsSettings { name: Some("a b".to_owned()), ..good.clone() }, "neither a DNS name"),
        ];
        for (settings, cause) in cases {
            let error = Tls::new(&settings).unwrap_err().to_string();
            assert!(error.contains(cause), "{error}");
        }
        let identity = identity("mta.pem", "mta.key");
        Tls::new(&TlsSettings { identity, ..good }).unwrap();
    }
}
