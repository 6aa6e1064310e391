//! Sockets that MTAs connect to.

use std::io;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tracing::info;

use super::connection::Connection;
use crate::config::{Listen, MilterAddress};
use crate::front::listen::{Accepted, Sockets};
use crate::metrics::{FrontEnd, ListenerMetrics};
use crate::processor::Processor;

/// Bound sockets. A unix socket's file goes with them.
#[derive(Debug)]
pub struct Listeners(Sockets);

impl Listeners {
    /// Binds all of them. A unix socket that nobody listens on any more is replaced; all users may connect to
    /// it who get into its folder.
    ///
    /// # Errors
    /// The address that can't be bound, and why.
    pub async fn bind(listen: &[Listen]) -> io::Result<Self> {
        let named: Vec<_> =
            listen.iter().map(|listen| (&listen.name[..], &listen.milter)).collect();
        Ok(Self(Sockets::bind(FrontEnd::Milter, named).await?))
    }

    /// Where they listen, with the ports that the system chose.
    pub fn addresses(&self) -> Vec<MilterAddress> {
        self.0.addresses()
    }

    /// What is counted of each of them.
    pub fn metrics(&self) -> Vec<Arc<ListenerMetrics>> {
        self.0.metrics()
    }

    /// Serves MTAs until `stop` is cancelled, then lets messages that are under way end.
    pub async fn serve(self, processor: Arc<Processor>, stop: CancellationToken) {
        let most = processor.config().limits.connections as usize;
        let stopping = stop.clone();
        let serve = |accepted: Accepted, metrics: Arc<ListenerMetrics>| {
            let (processor, stop, peer) =
                (Arc::clone(&processor), stopping.clone(), accepted.peer());
            async move {
                let listen = Arc::clone(&metrics);
                let served = match accepted {
                    Accepted::Inet(stream, _) => {
                        Connection::new(stream, processor, metrics).serve(stop).await
                    }
                    Accepted::Unix(stream) => {
                        Connection::new(stream, processor, metrics).serve(stop).await
                    }
                };
                if let Err(cause) = served {
                    info!(listen = listen.name, peer, %cause, "the mail server's connection broke");
                }
            }
        };
        self.0.serve(most, b"", stop, serve).await;
    }
}
