//! TLS, the server's side of it: certificates from files, and the handshake (profile section 9).

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// The certificates in use, and where they come from.
pub struct Tls {
    /// Where they come from.
    pub settings: TlsSettings,
    current: Arc<ServerConfig>,
}

/// Where certificates come from, and who has to use them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsSettings {
    /// The server's certificate, and those that lead to a root, in PEM form.
    pub certificate: PathBuf,
    /// The private key of the certificate, in PEM form.
    pub key: PathBuf,
    /// The authorities that sign the certificates of clients, in PEM form.
    pub client_ca: Option<PathBuf>,
    /// Whether clients show certificates.
    pub client_certificates: ClientCertificates,
    /// Whether connections over TCP have to negotiate TLS before anything else.
    pub required: bool,
}

/// Whether clients show certificates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClientCertificates {
    /// They are not asked for one.
    None,
    /// They may; a wrong one ends the handshake.
    Optional,
    /// They have to.
    Required,
}

/// Files that can't be used.
#[derive(Debug, thiserror::Error)]
#[error("{}: {cause}", path.display())]
pub struct TlsError {
    /// Which of the files.
    pub file: TlsFile,
    path: PathBuf,
    cause: String,
}

/// One of the files of [`TlsSettings`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsFile {
    /// [`TlsSettings::certificate`].
    Certificate,
    /// [`TlsSettings::key`].
    Key,
    /// [`TlsSettings::client_ca`].
    ClientCa,
}

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// The file that can't be used, and why.
    pub fn load(settings: TlsSettings) -> Result<Self, TlsError> {
        let current = Arc::new(settings.read()?);
        Ok(Self { settings, current })
    }

    /// The handshake; what it leads to, and the DNS names of the client's certificate.
    pub(crate) async fn accept<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: S,
    ) -> io::Result<(TlsStream<S>, Vec<String>)> {
        let stream = TlsAcceptor::from(Arc::clone(&self.current)).accept(stream).await?;
        let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
        let names = certificate.map(names).unwrap_or_default();
        Ok((stream, names))
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// The DNS names that a verified certificate gives its owner. A name with a star is no host's.
fn names(certificate: &CertificateDer<'_>) -> Vec<String> {
    let Ok(certificate) = webpki::EndEntityCert::try_from(certificate) else { return Vec::new() };
    let names = certificate.valid_dns_names().filter(|name| !name.contains('*'));
    names.map(str::to_ascii_lowercase).collect()
}

impl TlsSettings {
    fn read(&self) -> Result<ServerConfig, TlsError> {
        let wrong = |file, path: &Path, cause: String| TlsError { file, path: path.into(), cause };
        let chain = certificates(&self.certificate)
            .map_err(|cause| wrong(TlsFile::Certificate, &self.certificate, cause))?;
        let key = private_key(&self.key).map_err(|cause| wrong(TlsFile::Key, &self.key, cause))?;
        let provider = Arc::new(ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| wrong(TlsFile::Certificate, &self.certificate, error.to_string()))?;
        let builder = match &self.client_ca {
            Some(path) if self.client_certificates != ClientCertificates::None => {
                let verifier = self
                    .client_verifier(path, provider)
                    .map_err(|cause| wrong(TlsFile::ClientCa, path, cause))?;
                builder.with_client_cert_verifier(verifier)
            }
            _ => builder.with_no_client_auth(),
        };
        let mut config = builder.with_single_cert(chain, key).map_err(|error| match error {
            rustls::Error::InvalidCertificate(_) => {
                wrong(TlsFile::Certificate, &self.certificate, error.to_string())
            }
            rustls::Error::InconsistentKeys(_) => {
                let certificate = self.certificate.display();
                wrong(TlsFile::Key, &self.key, format!("is not the key of {certificate}"))
            }
            error => wrong(TlsFile::Key, &self.key, error.to_string()),
        })?;
        // Connections live long; and a session that is taken up again would not ask the present
        // authorities whether they still vouch for the client.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(config)
    }

    fn client_verifier(
        &self,
        path: &Path,
        provider: Arc<CryptoProvider>,
    ) -> Result<Arc<dyn rustls::server::danger::ClientCertVerifier>, String> {
        let mut roots = RootCertStore::empty();
        for certificate in certificates(path)? {
            roots.add(certificate).map_err(|error| error.to_string())?;
        }
        let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
        let builder = match self.client_certificates {
            ClientCertificates::Optional => builder.allow_unauthenticated(),
            _ => builder,
        };
        builder.build().map_err(|error| error.to_string())
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let octets = read(path)?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&octets).collect();
    let certificates = certificates.map_err(|error| format!("is no PEM file: {error}"))?;
    match certificates.is_empty() {
        true => Err("has no certificate in PEM form".to_owned()),
        false => Ok(certificates),
    }
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, String> {
    PrivateKeyDer::from_pem_slice(&read(path)?).map_err(|error| match error {
        pem::Error::NoItemsFound => "has no private key in PEM form".to_owned(),
        error => format!("is no PEM file: {error}"),
    })
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(path).map_err(|error| format!("can't be read: {error}"))
}
