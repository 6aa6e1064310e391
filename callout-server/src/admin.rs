//! The admin listener and the control socket: how the server is, over HTTP, for those who operate it.
//!
//! What both answer, and that they are apart from the way of mail, says [`opes_mta::admin`]: `opes-mta` has the same
//! listener. It is a TCP port, and asks for no passwords but for the pages of [`status`]. The control socket is the
//! server's user's and root's alone, so it needs none; it has `/history` too, `/config`, which is the configuration in
//! use, and POST `/reload`, which has it read again: what changed, or 422 with why it stays as it was.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use opes_mta::admin;
use opes_mta::http::{self, CONNECTIONS, HEADER_OCTETS, Listener};
use tokio::net::UnixStream;
use tokio_util::sync::CancellationToken;

use crate::config::AdminConfig;
use crate::history;
use crate::metrics::exposition;
use crate::reload::Reloader;
use crate::server::Server;
use crate::status;
use crate::unix::{UnixSocket, Users};

/// Octets of the metrics, at the most: 30 KiB, and 300 KiB once every service has had every result.
const METRICS_OCTETS: usize = 300 * 1024;

/// For a request at the control socket, where services may have to start first.
const CONTROL_PATIENCE: Duration = Duration::from_secs(300);

/// A bound admin listener, or a bound control socket.
#[derive(Debug)]
pub(crate) struct Admin(Door);

#[derive(Debug)]
enum Door {
    Port(Listener),
    Control(UnixSocket),
}

impl Admin {
    /// Binds `HOST:PORT`.
    ///
    /// # Errors
    /// If the address can't be bound, with the address and why.
    pub(crate) async fn bind(address: &str) -> io::Result<Self> {
        Ok(Self(Door::Port(Listener::bind(address).await?)))
    }

    /// Binds a unix socket, which the user of this process and root may use. One that nobody listens on any
    /// more is replaced; it is removed at the end.
    ///
    /// # Errors
    /// If it can't be bound, with its path and why.
    pub(crate) async fn bind_control(path: PathBuf) -> io::Result<Self> {
        let shown = path.display().to_string();
        let bound = UnixSocket::bind(path, Users::Owner).await;
        let named = |error: io::Error| {
            io::Error::new(error.kind(), format!("{shown} can't be listened on: {error}"))
        };
        Ok(Self(Door::Control(bound.map_err(named)?)))
    }

    /// Where it listens, with the port that the system chose.
    pub(crate) fn address(&self) -> String {
        match &self.0 {
            Door::Port(listener) => listener.address(),
            Door::Control(socket) => format!("unix:{}", socket.path().display()),
        }
    }

    /// Answers for a server until it is dropped. The server accepts until `stop` is cancelled.
    pub(crate) async fn serve(
        self,
        server: Arc<Server>,
        stop: CancellationToken,
        reloader: Arc<Reloader>,
    ) {
        let exposition = exposition(server.clone());
        let (subject, stopping) = (server.clone(), stop.clone());
        let readiness = move || {
            if stopping.is_cancelled() {
                let dialogs = subject.open_dialogs();
                return Err(format!("draining: the server is stopping, open dialogs: {dialogs}"));
            }
            Ok(())
        };
        let routes = admin::routes(exposition, readiness);
        match self.0 {
            Door::Port(listener) => {
                http::serve(&listener, routes.merge(status::router(server, stop))).await;
            }
            Door::Control(socket) => {
                let running = reloader.clone();
                let routes = routes
                    .route("/history", get(history::lines).with_state(server))
                    .route("/config", get(async move || running.running()))
                    .route("/reload", post(async move || reload(reloader).await));
                http::serve_within(&socket, routes, CONTROL_PATIENCE).await;
            }
        }
    }
}

async fn reload(reloader: Arc<Reloader>) -> Response {
    // It goes on where nobody waits for it any more.
    match tokio::spawn(async move { reloader.reload().await }).await {
        Ok(Ok(changed)) => format!("{changed}\n").into_response(),
        Ok(Err(error)) => (StatusCode::UNPROCESSABLE_ENTITY, error).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

impl http::Accept for UnixSocket {
    type Stream = UnixStream;

    async fn accept(&self) -> io::Result<UnixStream> {
        Self::accept(self).await
    }
}

/// Octets that those who are answered can make it hold: so many connections' header sections and answers, and one
/// password that is checked.
pub(crate) fn worst_case_memory(config: &AdminConfig) -> usize {
    let AdminConfig { listen, control, users } = config;
    let page = if users.is_empty() { METRICS_OCTETS } else { status::LARGEST_PAGE };
    let listen = listen.as_ref().map_or(0, |_| HEADER_OCTETS + page);
    let control =
        control.as_ref().map_or(0, |_| HEADER_OCTETS + METRICS_OCTETS.max(history::LARGEST_LINES));
    let password = users.iter().map(|user| user.password.memory()).max().unwrap_or_default();
    CONNECTIONS * (listen + control) + password
}
