//! A configuration in use.

use std::time::SystemTime;

use futures_util::future::join_all;
use services::ServiceError;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::config::Config;
use crate::server::Budgets;
use crate::spool::Spool;

/// A configuration in use, from its beginning until the last connection that was accepted under it has ended.
///
/// A connection has the one that it was accepted under to its end: no transaction sees two. With it end its services,
/// and with those what they keep running.
#[derive(Debug)]
pub(crate) struct Generation {
    pub(crate) config: Config,
    /// Where the octets of messages that are being worked on are.
    pub(crate) spool: Spool,
    /// Cancelled once another configuration is in its place.
    pub(crate) superseded: CancellationToken,
    /// When it came into use.
    pub(crate) since: SystemTime,
}

impl Generation {
    /// What is used up is the process's; how much may be is this configuration's from now on.
    pub(crate) fn new(config: Config, budgets: &Budgets) -> Self {
        budgets.limit(&config);
        let spool = Spool {
            folder: config.spool.folder.clone(),
            threshold: config.spool.threshold,
            memory: budgets.memory.clone(),
            disk: budgets.disk.clone(),
            buffers: budgets.buffers.clone(),
        };
        let (superseded, since) = (CancellationToken::new(), SystemTime::now());
        Self { config, spool, superseded, since }
    }
}

impl Config {
    /// Starts the services, and waits until those that keep something running have it.
    ///
    /// # Errors
    /// The services that can't work, by name, and why.
    pub(crate) async fn start(&self) -> Result<(), Vec<(String, ServiceError)>> {
        let started = self.router.iter().map(async |entry| {
            let started = entry.service.start().await;
            started.map_err(|error| (entry.name.clone(), error))
        });
        let failed: Vec<_> = join_all(started).await.into_iter().filter_map(Result::err).collect();
        if failed.is_empty() { Ok(()) } else { Err(failed) }
    }

    /// Starts the services; one that can't work is logged, and its events fail.
    pub(crate) async fn start_what_can(&self) {
        for (service, cause) in self.start().await.err().unwrap_or_default() {
            warn!(service, %cause, "a service is not there yet");
        }
    }
}
