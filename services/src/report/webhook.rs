//! A webhook: a POST for each report, on a connection of its own.

use std::fmt::Write;
use std::io;
use std::sync::Arc;

use hyper::client::conn::http1::handshake;
use hyper::header::{AUTHORIZATION, CONNECTION, CONTENT_TYPE, HOST, HeaderValue, USER_AGENT};
use hyper::{Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use ring::hmac;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

use super::incident::Incident;
use super::queue::Failure;

/// The field with the HMAC of the body.
const SIGNATURE: &str = "opes-signature";

/// Where reports are POSTed to.
#[derive(Debug)]
pub(super) struct Webhook {
    pub(super) uri: Uri,
    /// As a TCP connection needs it, with the port.
    pub(super) address: String,
    pub(super) tls: Option<Tls>,
    /// `Bearer TOKEN`.
    pub(super) authorization: Option<HeaderValue>,
    pub(super) signature: Option<hmac::Key>,
}

/// What it takes to know the server.
#[derive(Clone, Debug)]
pub(super) struct Tls {
    pub(super) config: Arc<ClientConfig>,
    pub(super) name: ServerName<'static>,
}

impl Webhook {
    pub(super) async fn send(&self, incident: &Incident) -> Result<(), Failure> {
        let body = incident.json();
        match self.post(body).await.map_err(Failure::passing)? {
            status if status.is_success() => Ok(()),
            status => {
                Err(Failure { cause: format!("it answers {status}"), is_final: is_final(status) })
            }
        }
    }

    /// What the server answers.
    async fn post(&self, body: String) -> io::Result<StatusCode> {
        let request = self.request(body).map_err(io::Error::other)?;
        let stream = TcpStream::connect(&self.address).await?;
        match &self.tls {
            None => exchange(stream, request).await,
            Some(Tls { config, name }) => {
                let connector = TlsConnector::from(Arc::clone(config));
                exchange(connector.connect(name.clone(), stream).await?, request).await
            }
        }
    }

    fn request(&self, body: String) -> hyper::http::Result<Request<String>> {
        let host = self.uri.authority().map_or("", |authority| authority.as_str());
        let path = self.uri.path_and_query().map_or("/", |path| path.as_str());
        let mut request = Request::post(path)
            .header(HOST, host)
            .header(USER_AGENT, concat!("callout-server/", env!("CARGO_PKG_VERSION")))
            .header(CONTENT_TYPE, "application/json")
            .header(CONNECTION, "close");
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        if let Some(key) = &self.signature {
            let mut signature = "sha256=".to_owned();
            for octet in hmac::sign(key, body.as_bytes()).as_ref() {
                // Writing to a string can't fail.
                let _ = write!(signature, "{octet:02x}");
            }
            request = request.header(SIGNATURE, signature);
        }
        request.body(body)
    }
}

/// Sends a request, and waits for the status alone: the connection ends with it.
async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    request: Request<String>,
) -> io::Result<StatusCode> {
    let (mut sender, connection) =
        handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    let mut connections = JoinSet::new();
    connections.spawn(connection);
    let response = sender.send_request(request).await.map_err(io::Error::other)?;
    Ok(response.status())
}

/// Whether the same request would be refused again (RFC 9110 section 15.5).
fn is_final(status: StatusCode) -> bool {
    let passing = [StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_MANY_REQUESTS];
    status.is_client_error() && !passing.contains(&status)
}
