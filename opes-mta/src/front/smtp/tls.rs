//! TLS for clients that say STARTTLS (RFC 3207): a certificate from files, and the handshake.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use ocp_proto::smtp::Tls as Facts;
use rustls::crypto::ring;
use rustls::server::NoServerSessionStorage;
use rustls::{ProtocolVersion, ServerConfig, ServerConnection};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use crate::ocp::{TlsError, certificates, private_key, wrong};
use crate::relay::Transport;

/// How long a client may take for the handshake.
const HANDSHAKE: Duration = Duration::from_secs(60);

/// What clients are shown, and where it comes from.
pub struct Tls {
    /// The certificate and those that lead to a root, in PEM form.
    certificate: PathBuf,
    /// Its private key, in PEM form.
    key: PathBuf,
    current: RwLock<Arc<ServerConfig>>,
}

impl Tls {
    /// Reads a certificate and its private key, both in PEM form.
    ///
    /// # Errors
    /// The file that can't be used, and why.
    pub fn load(certificate: PathBuf, key: PathBuf) -> Result<Self, TlsError> {
        let current = RwLock::new(Arc::new(read(&certificate, &key)?));
        Ok(Self { certificate, key, current })
    }

    /// Reads the files again, for clients that say STARTTLS from now on.
    ///
    /// # Errors
    /// As [`Tls::load`]: then everything stays as it was.
    pub fn reload(&self) -> Result<(), TlsError> {
        let new = Arc::new(read(&self.certificate, &self.key)?);
        // Nobody panics while holding the lock.
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = new;
        Ok(())
    }

    /// The handshake, and what it led to.
    pub(super) async fn accept(&self, stream: Transport) -> io::Result<(Transport, Facts)> {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner).clone();
        let handshake = TlsAcceptor::from(current).accept(stream);
        let stream = timeout(HANDSHAKE, handshake).await??;
        let facts = facts(stream.get_ref().1);
        Ok((Box::new(stream), facts))
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("certificate", &self.certificate).finish_non_exhaustive()
    }
}

fn read(certificate: &Path, key: &Path) -> Result<ServerConfig, TlsError> {
    let (chain, secret) = (certificates(certificate)?, private_key(key)?);
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| TlsError::new(error.to_string()))?
        .with_no_client_auth()
        .with_single_cert(chain, secret)
        .map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => {
                wrong(key, format!("it is not the key of {}", certificate.display()))
            }
            error => wrong(certificate, error),
        })?;
    // A shortcut to the next connection is not worth the state.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// What services are told: the names of the version and, as IANA has it, of the cipher suite.
fn facts(connection: &ServerConnection) -> Facts {
    let protocol = match connection.protocol_version() {
        Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
        _ => "TLSv1.3",
    };
    let suite = connection.negotiated_cipher_suite().map(|suite| suite.suite());
    let cipher = suite.as_ref().and_then(|suite| suite.as_str()).unwrap_or_default();
    Facts {
        protocol: protocol.into(),
        cipher: cipher.replacen("TLS13_", "TLS_", 1).into(),
        client_subject: None,
        verified: false,
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;
    use tokio::time::{Instant, sleep};

    use super::*;

    /// A client that says an octet every ten seconds.
    #[tokio::test(start_paused = true)]
    async fn a_handshake_does_not_last_for_ever() {
        let folder = tempfile::tempdir().unwrap();
        ::tests::certificates::Authority::new(folder.path(), "ca").sign("mx", &["mx.example"]);
        let path = |name: &str| folder.path().join(name);
        let tls = Tls::load(path("mx.pem"), path("mx.key")).unwrap();
        let (ours, mut peers) = tokio::io::duplex(16);
        tokio::spawn(async move {
            // The header of a record, and what could go on.
            for octet in [0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3] {
                peers.write_u8(octet).await.unwrap();
                sleep(Duration::from_secs(10)).await;
            }
        });
        let begin = Instant::now();
        let Err(error) = tls.accept(Box::new(ours)).await else { panic!("there is no handshake") };
        assert_eq!((error.kind(), begin.elapsed()), (io::ErrorKind::TimedOut, HANDSHAKE));
    }
}
