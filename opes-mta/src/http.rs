//! HTTP beside the way of mail: what operators, monitoring and readers of a page ask for.
//!
//! It shares nothing with mail but the threads: whoever asks, and however slowly, has one of [`CONNECTIONS`] places
//! for [`PATIENCE`] at the most, for one request; where something may take its time, for longer. It knows no
//! passwords and no TLS: those are the matter of a web server in front of it.

use std::fmt::Display;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, ToSocketAddrs};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tracing::{debug, warn};

/// Connections at a time; more wait in the system's queue. Worst case: so many times [`HEADER_OCTETS`] and the
/// longest answer.
pub const CONNECTIONS: usize = 64;

/// Octets of a request's header section.
pub const HEADER_OCTETS: usize = 16 * 1024;

/// For a request's header section.
const HEADER_PATIENCE: Duration = Duration::from_secs(5);

/// For a connection from its beginning to its end, which is one request, where nothing takes its time.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// After an error of `accept` that concerns the whole process, such as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A bound address.
#[derive(Debug)]
pub struct Listener(TcpListener);

impl Listener {
    /// Binds an address with a port.
    ///
    /// # Errors
    /// If it can't be bound, with the address and why.
    pub async fn bind(address: impl ToSocketAddrs + Display) -> io::Result<Self> {
        let bound = TcpListener::bind(&address).await;
        let named = |error: io::Error| {
            io::Error::new(error.kind(), format!("{address} can't be listened on: {error}"))
        };
        bound.map(Self).map_err(named)
    }

    /// Where it listens, with the port that the system chose.
    pub fn address(&self) -> String {
        self.0.local_addr().map(|address| address.to_string()).unwrap_or_default()
    }
}

/// Something that connections come to.
pub trait Accept: Sync {
    /// A connection.
    type Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static;

    /// The next one.
    fn accept(&self) -> impl Future<Output = io::Result<Self::Stream>> + Send;
}

impl Accept for Listener {
    type Stream = TcpStream;

    async fn accept(&self) -> io::Result<TcpStream> {
        self.0.accept().await.map(|(stream, _)| stream)
    }
}

/// Answers until it is dropped.
pub async fn serve(listener: &impl Accept, router: Router) {
    serve_within(listener, router, PATIENCE).await;
}

/// The same where answers take their time: a connection may take so long from its beginning to its end.
pub async fn serve_within(listener: &impl Accept, router: Router, patience: Duration) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(HEADER_PATIENCE)
        .max_buf_size(HEADER_OCTETS)
        .keep_alive(false);
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    // Without a place nothing is accepted. The places are never closed.
    while let Ok(place) = places.clone().acquire_owned().await {
        let stream = match listener.accept().await {
            Ok(stream) => TokioIo::new(stream),
            Err(error) => {
                warn!(%error, "no connection for HTTP could be accepted");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let service = TowerToHyperService::new(router.clone());
        let served = timeout(patience, http.serve_connection(stream, service));
        tokio::spawn(async move {
            match served.await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => debug!(%error, "HTTP connection"),
                Err(_) => debug!(seconds = patience.as_secs(), "HTTP connection: too slow"),
            }
            drop(place);
        });
    }
}
