//! A callout server that is worth more than one connection: what is lost is made anew.

use std::sync::Arc;
use std::time::Duration;

use ocp_proto::smtp::DialogFacts;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep};

use super::client::{Client, ConnectError, Target};
use super::dialog::Dialog;
use crate::consult::{Failure, Policy, begin};

/// Between two attempts to connect to a server that is away.
const RETRY_INTERVAL: Duration = Duration::from_millis(250);

/// Connections on which a dialog may find that the server wants them left meanwhile.
const ATTEMPTS: u32 = 3;

/// Why a dialog did not begin.
#[derive(Debug, thiserror::Error)]
pub enum BeginError {
    /// The server is away.
    #[error(transparent)]
    Away(#[from] Arc<ConnectError>),
    /// It did not take the dialog.
    #[error(transparent)]
    Failed(#[from] Failure),
}

/// One server, and the connection to it that new dialogs start on.
#[derive(Debug)]
pub struct Upstream {
    target: Target,
    current: Mutex<Current>,
}

#[derive(Debug)]
struct Current {
    client: Client,
    /// The last attempt to replace it, if that failed: when, and why.
    failed: Option<(Instant, Arc<ConnectError>)>,
}

impl Upstream {
    /// Connects for the first time.
    ///
    /// # Errors
    /// At the first failure: whoever starts us wants to know at once.
    pub async fn connect(target: Target) -> Result<Self, ConnectError> {
        let client = Client::connect(&target).await?;
        Ok(Self { target, current: Mutex::new(Current { client, failed: None }) })
    }

    /// The connection for a new dialog. A lost one is replaced: since a server that restarts is away
    /// for a moment, that is tried for [`Target::connect_timeout`], and after that not before the
    /// same time has passed, so that a server that is gone holds up nobody twice.
    ///
    /// # Errors
    /// The last failure.
    pub async fn client(&self) -> Result<Client, Arc<ConnectError>> {
        let mut current = self.current.lock().await;
        if current.client.is_usable() {
            return Ok(current.client.clone());
        }
        let patience = self.target.connect_timeout;
        if let Some((at, error)) = &current.failed
            && at.elapsed() < patience
        {
            return Err(Arc::clone(error));
        }
        let begin = Instant::now();
        loop {
            match Client::connect(&self.target).await {
                Ok(client) => {
                    tracing::info!(server = %self.target.server, "connected again");
                    *current = Current { client: client.clone(), failed: None };
                    return Ok(client);
                }
                Err(_) if begin.elapsed() + RETRY_INTERVAL < patience => {
                    sleep(RETRY_INTERVAL).await;
                }
                Err(error) => {
                    tracing::warn!(server = %self.target.server, cause = %error, "server is away");
                    let error = Arc::new(error);
                    current.failed = Some((Instant::now(), Arc::clone(&error)));
                    return Err(error);
                }
            }
        }
    }

    /// A new dialog. One that finds its connection drained (Dialog-Drain) begins on the next one.
    ///
    /// # Errors
    /// As [`Upstream::client`], and what the server says of the dialog.
    pub async fn begin(&self, facts: DialogFacts, policy: &Policy) -> Result<Dialog, BeginError> {
        let mut attempts = 1;
        loop {
            let client = self.client().await?;
            match begin(&client, facts.clone(), policy).await {
                Err(_) if client.is_drained() && attempts < ATTEMPTS => attempts += 1,
                begun => return Ok(begun?),
            }
        }
    }

    /// Ends the connection; see [`Client::close`].
    pub async fn close(self) {
        self.current.into_inner().client.close().await;
    }
}
