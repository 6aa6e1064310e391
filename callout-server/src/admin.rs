//! The admin listener: how the server is, over HTTP, for those who operate it.
//!
//! What it answers, and that it is apart from the way of mail, says [`opes_mta::admin`]: `opes-mta` has the same
//! one. Worst case: [`CONNECTIONS`] times [`HEADER_OCTETS`] and the text of the metrics, 30 KiB, and 300 KiB once
//! every service has had every result; 20 MiB in all.
//!
//! [`CONNECTIONS`]: opes_mta::http::CONNECTIONS
//! [`HEADER_OCTETS`]: opes_mta::http::HEADER_OCTETS

use std::io;
use std::sync::Arc;

use opes_mta::admin;
use opes_mta::http::Listener;
use tokio_util::sync::CancellationToken;

use crate::metrics::exposition;
use crate::server::Server;

/// A bound admin listener.
#[derive(Debug)]
pub struct Admin(Listener);

impl Admin {
    /// Binds `HOST:PORT`.
    ///
    /// # Errors
    /// If the address can't be bound, with the address and why.
    pub async fn bind(address: &str) -> io::Result<Self> {
        Listener::bind(address).await.map(Self)
    }

    /// Where it listens, with the port that the system chose.
    pub fn address(&self) -> String {
        self.0.address()
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
        self.0.serve(admin::routes(exposition, readiness)).await;
    }
}
