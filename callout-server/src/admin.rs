//! The admin listener: how the server is, over HTTP, for those who operate it.
//!
//! | path | answer |
//! | --- | --- |
//! | `/metrics` | all metrics, as OpenMetrics text |
//! | `/healthz` | 200 as long as the process serves |
//! | `/readyz` | 200 while it takes connections; 503 with a reason while it only lets open dialogs end |
//!
//! It is apart from the way of mail and shares nothing with it but the threads: whatever asks here, and
//! however slowly, has one of [`CONNECTIONS`] places for [`PATIENCE`] at the most. It knows no passwords
//! and changes nothing, and no metric tells anything of a message.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::listen::ACCEPT_PAUSE;
use crate::metrics::Exposition;
use crate::server::Server;

/// Connections at a time; more wait in the system's queue. Worst case: so many times
/// [`HEADER_OCTETS`] and the text of the metrics, 30 KiB, and 300 KiB once every service has had every
/// result; 20 MiB in all.
const CONNECTIONS: usize = 64;

/// Octets of a request's header section.
const HEADER_OCTETS: usize = 16 * 1024;

/// For a request's header section.
const HEADER_PATIENCE: Duration = Duration::from_secs(5);

/// For a connection from its beginning to its end, which is one request.
const PATIENCE: Duration = Duration::from_secs(10);

/// A bound admin listener.
#[derive(Debug)]
pub struct Admin(TcpListener);

/// What is asked about.
#[derive(Debug)]
struct Subject {
    server: Arc<Server>,
    stop: CancellationToken,
    exposition: Exposition,
}

impl Admin {
    /// Binds `HOST:PORT`.
    ///
    /// # Errors
    /// If the address can't be bound, with the address and why.
    pub async fn bind(address: &str) -> io::Result<Self> {
        let bound = TcpListener::bind(address).await;
        let named = |error: io::Error| {
            io::Error::new(error.kind(), format!("{address} can't be listened on: {error}"))
        };
        bound.map(Self).map_err(named)
    }

    /// Where it listens, with the port that the system chose.
    pub fn address(&self) -> String {
        self.0.local_addr().map(|address| address.to_string()).unwrap_or_default()
    }

    /// Answers for a server until it is dropped. The server accepts until `stop` is cancelled.
    pub async fn serve(self, server: Arc<Server>, stop: CancellationToken) {
        let exposition = Exposition::new(server.clone());
        let router = Router::new()
            .route("/metrics", get(metrics))
            .route("/healthz", get(async || "alive\n"))
            .route("/readyz", get(readiness))
            .with_state(Arc::new(Subject { server, stop, exposition }));
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new())
            .header_read_timeout(HEADER_PATIENCE)
            .max_buf_size(HEADER_OCTETS)
            .keep_alive(false);
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        // Without a place nothing is accepted. The places are never closed.
        while let Ok(place) = places.clone().acquire_owned().await {
            let stream = match self.0.accept().await {
                Ok((stream, _)) => TokioIo::new(stream),
                Err(error) => {
                    warn!(%error, "no admin connection could be accepted");
                    sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let service = TowerToHyperService::new(router.clone());
            let served = timeout(PATIENCE, http.serve_connection(stream, service));
            tokio::spawn(async move {
                match served.await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => debug!(%error, "admin connection"),
                    Err(_) => debug!(seconds = PATIENCE.as_secs(), "admin connection: too slow"),
                }
                drop(place);
            });
        }
    }
}

async fn metrics(State(subject): State<Arc<Subject>>) -> Response {
    match subject.exposition.text() {
        Ok(text) => ([(CONTENT_TYPE, Exposition::MEDIA_TYPE)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

async fn readiness(State(subject): State<Arc<Subject>>) -> Response {
    if subject.stop.is_cancelled() {
        let dialogs = subject.server.open_dialogs();
        let reason = format!("draining: the server is stopping, open dialogs: {dialogs}\n");
        return (StatusCode::SERVICE_UNAVAILABLE, reason).into_response();
    }
    "ready\n".into_response()
}
