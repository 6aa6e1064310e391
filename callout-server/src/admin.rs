//! The admin listener and the control socket: how the server is, over HTTP, for those who operate it.
//!
//! What they answer, and that they are apart from the way of mail, says [`opes_mta::admin`]: `opes-mta` has the same
//! listener. It is a TCP port: it knows no passwords and changes nothing. The control socket is the server's user's and
//! root's alone, so it needs no passwords either.
//!
//! Worst case of each: [`CONNECTIONS`] times [`HEADER_OCTETS`] and the text of the metrics, 30 KiB, and 300 KiB once
//! every service has had every result; 20 MiB in all.
//!
//! [`CONNECTIONS`]: opes_mta::http::CONNECTIONS
//! [`HEADER_OCTETS`]: opes_mta::http::HEADER_OCTETS

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use opes_mta::admin;
use opes_mta::http::{self, Listener};
use tokio::net::UnixStream;
use tokio_util::sync::CancellationToken;

use crate::metrics::exposition;
use crate::server::Server;
use crate::unix::{UnixSocket, Users};

/// A bound admin listener, or a bound control socket.
#[derive(Debug)]
pub struct Admin(Door);

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
    pub async fn bind(address: &str) -> io::Result<Self> {
        Ok(Self(Door::Port(Listener::bind(address).await?)))
    }

    /// Binds a unix socket, which the user of this process and root may use. One that nobody listens on any
    /// more is replaced; it is removed at the end.
    ///
    /// # Errors
    /// If it can't be bound, with its path and why.
    pub async fn bind_control(path: PathBuf) -> io::Result<Self> {
        let shown = path.display().to_string();
        let bound = UnixSocket::bind(path, Users::Owner).await;
        let named = |error: io::Error| {
            io::Error::new(error.kind(), format!("{shown} can't be listened on: {error}"))
        };
        Ok(Self(Door::Control(bound.map_err(named)?)))
    }

    /// Where it listens, with the port that the system chose.
    pub fn address(&self) -> String {
        match &self.0 {
            Door::Port(listener) => listener.address(),
            Door::Control(socket) => format!("unix:{}", socket.path().display()),
        }
    }

    /// Answers for a server until it is dropped. The server accepts until `stop` is cancelled.
    pub async fn serve(self, server: Arc<Server>, stop: CancellationToken) {
        let exposition = exposition(server.clone());
        let readiness = move || {
            if stop.is_cancelled() {
                let dialogs = server.open_dialogs();
                return Err(format!("draining: the server is stopping, open dialogs: {dialogs}"));
            }
            Ok(())
        };
        let routes = admin::routes(exposition, readiness);
        match self.0 {
            Door::Port(listener) => http::serve(&listener, routes).await,
            Door::Control(socket) => http::serve(&socket, routes).await,
        }
    }
}

impl http::Accept for UnixSocket {
    type Stream = UnixStream;

    async fn accept(&self) -> io::Result<UnixStream> {
        Self::accept(self).await
    }
}
