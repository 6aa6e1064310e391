//! Sockets that SMTP clients connect to.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use ocp_proto::smtp::Activation;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::client;
use super::dialogue::Dialogue;
use super::introduction::Introduce;
use super::peer::Trust;
use super::replies;
use super::stored::Stores;
use super::tls::Tls;
use crate::config::{MilterAddress, Origin};
use crate::front::listen::{Accepted, Sockets};
use crate::metrics::{FrontEnd, ListenerMetrics};
use crate::processor::Processor;
use crate::relay::{NextHop, NextHopAddress, Transport};

/// What a proxy goes by.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where in the life of its mail it stands.
    pub placement: Activation,
    /// Where everything goes. What it speaks, clients speak too.
    pub next_hop: Arc<NextHop>,
    /// What clients are offered STARTTLS with, if they are.
    pub tls: Option<Arc<Tls>>,
    /// How the next hop learns who the client is.
    pub introduce: Introduce,
    /// Who may say for whom it speaks (XFORWARD, XCLIENT).
    pub trust: Trust,
    /// How long a client may say nothing, or not read what we say.
    pub silence: Duration,
    /// Where messages wait that the next hop does not get at once.
    pub stores: Stores,
    /// Next hops that services may choose instead.
    pub routes: Vec<Arc<NextHop>>,
}

impl Settings {
    /// The next hop of this name, `HOST:PORT` or `unix:/PATH`, if services may choose it.
    pub(super) fn route(&self, next_hop: &str) -> Option<&Arc<NextHop>> {
        let address: NextHopAddress = next_hop.parse().ok()?;
        self.routes.iter().find(|route| route.address == address)
    }
}

/// Bound sockets. A unix socket's file goes with them.
#[derive(Debug)]
pub struct Listeners(Sockets);

impl Listeners {
    /// Binds all of them. A unix socket that nobody listens on any more is replaced; all users may connect to
    /// it who get into its folder.
    ///
    /// # Errors
    /// The address that can't be bound, and why.
    pub async fn bind(listen: &[MilterAddress]) -> io::Result<Self> {
        let names: Vec<_> = listen.iter().map(MilterAddress::without_kind).collect();
        let named = names.iter().map(String::as_str).zip(listen);
        Ok(Self(Sockets::bind(FrontEnd::Smtp, named).await?))
    }

    /// Where they listen, with the ports that the system chose.
    pub fn addresses(&self) -> Vec<MilterAddress> {
        self.0.addresses()
    }

    /// What is counted of each of them.
    pub fn metrics(&self) -> Vec<Arc<ListenerMetrics>> {
        self.0.metrics()
    }

    /// Serves clients until `stop` is cancelled, then lets messages that are under way end.
    pub async fn serve(
        self,
        settings: Settings,
        processor: Arc<Processor>,
        stop: CancellationToken,
    ) {
        let most = processor.config().limits.connections as usize;
        let settings = Arc::new(settings);
        let stopping = stop.clone();
        let serve = |accepted: Accepted, metrics: Arc<ListenerMetrics>| {
            let (settings, stop, peer) = (Arc::clone(&settings), stopping.clone(), accepted.peer());
            let (origin, port) = match &accepted {
                Accepted::Inet(_, peer) => (Origin::Address(peer.ip()), peer.port()),
                Accepted::Unix(_) => (Origin::Unix, 0),
            };
            let (processor, listen) = (Arc::clone(&processor), Arc::clone(&metrics));
            let dialogue = Dialogue::new(processor, Arc::clone(&settings), listen, origin, port);
            async move {
                let is_heard = settings.trust.hears(origin);
                let stream: Transport = match accepted {
                    Accepted::Inet(stream, _) => Box::new(stream),
                    Accepted::Unix(stream) => Box::new(stream),
                };
                let served = client::serve(stream, &settings, dialogue, is_heard, stop).await;
                if let Err(cause) = served {
                    let stage = cause.stage();
                    warn!(listen = metrics.name, peer, stage, %cause, "the dialog of a client broke");
                }
            }
        };
        self.0.serve(most, replies::too_many().as_bytes(), stop, serve).await;
    }
}
