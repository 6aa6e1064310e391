//! The handle of a connection, and how it comes about.

use std::sync::Arc;
use std::time::Duration;

use ocp_proto::smtp::{DialogFacts, DialogFeature, Profile, ProfileKind};
use ocp_proto::wire::{Structure, Value};
use ocp_proto::{Config, GroupId, Offer, feature_uri};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::address::ServerAddress;
use super::dialog::Dialog;
use super::driver::{ClientError, Driver, State};
use super::requests::{Answer, Request, RequestSender, requests};
use super::tls::Tls;
use super::transport;
use crate::front::file;
use crate::reuse::ReusableAnswers;

/// A callout server, and what we want of it.
#[derive(Clone, Debug)]
pub struct Target {
    /// Where it listens.
    pub server: ServerAddress,
    /// How the connection is secured; a server at [`ServerAddress::Tls`] needs it.
    pub tls: Option<Tls>,
    /// URIs of the services of the group, in their order.
    pub services: Vec<String>,
    /// What we can do: events, or replies, to vector out; side effects that we carry out.
    pub offer: Profile,
    /// How long connecting may take, with TLS if there is any; the negotiation may take as long again.
    pub connect_timeout: Duration,
    /// Limits and timeouts of the connection.
    pub connection: Config,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The transport failed.
    #[error("cannot connect to the callout server at {server}: {error}")]
    Transport {
        /// Where.
        server: ServerAddress,
        /// What the system said.
        error: std::io::Error,
    },
    /// There is no TLS where it is needed, or no agreement on it.
    #[error("no TLS with the callout server at {server}: {cause}")]
    Tls {
        /// Where.
        server: ServerAddress,
        /// Why.
        cause: String,
    },
    /// It took too long.
    #[error("the callout server at {server} did not answer within {seconds:?} ({stage})")]
    Timeout {
        /// Where.
        server: ServerAddress,
        /// How long we waited.
        seconds: Duration,
        /// What we waited for.
        stage: &'static str,
    },
    /// The connection was over before the negotiation.
    #[error("the callout server at {server} does not work for us: the connection is lost: {cause}")]
    Lost {
        /// Where.
        server: ServerAddress,
        /// Why.
        cause: String,
    },
    /// The server speaks OCP, but does not agree.
    #[error("the callout server at {server} does not work for us: {cause}")]
    Negotiation {
        /// Where.
        server: ServerAddress,
        /// Why.
        cause: String,
    },
}

/// A connection to a callout server with one service group. Clones share it; it ends when the last
/// handle is dropped.
#[derive(Clone, Debug)]
pub struct Client {
    pub(super) handle: Handle,
    pub(super) negotiated: Arc<Negotiated>,
}

#[derive(Debug)]
pub(super) struct Negotiated {
    server: ServerAddress,
    services: Vec<String>,
    pub(super) group: GroupId,
    profile: Profile,
    reusable: ReusableAnswers,
}

/// The way to the driver.
#[derive(Clone, Debug)]
pub(super) struct Handle {
    requests: Arc<RequestSender>,
    pub(super) state: Arc<State>,
}

impl Client {
    /// Connects, negotiates dialogs, creates the service group, and negotiates the profile for it.
    ///
    /// # Errors
    /// What failed, where, and in which step.
    pub async fn connect(target: &Target) -> Result<Self, ConnectError> {
        let handle = open(target).await?;
        let negotiated = timeout(target.connect_timeout, negotiate(&handle, target))
            .await
            .map_err(|_| late(target, "OCP negotiation"))??;
        tracing::debug!(server = %target.server, profile = ?negotiated.profile, "connected");
        Ok(Self { handle, negotiated: Arc::new(negotiated) })
    }

    /// Where the server listens.
    pub fn server(&self) -> &ServerAddress {
        &self.negotiated.server
    }

    /// URIs of the services of the group.
    pub fn services(&self) -> &[String] {
        &self.negotiated.services
    }

    /// What the server wants of what we offered.
    pub fn profile(&self) -> &Profile {
        &self.negotiated.profile
    }

    /// The answers of its service group that may be used again.
    pub(crate) fn reusable(&self) -> &ReusableAnswers {
        &self.negotiated.reusable
    }

    /// Whether new dialogs can start here: the connection is open, and the server does not drain it.
    pub fn is_usable(&self) -> bool {
        !self.handle.state.unusable.is_cancelled()
    }

    /// Whether the server wants new dialogs to start elsewhere (Dialog-Drain); those that are open go on.
    pub fn is_drained(&self) -> bool {
        !self.is_usable() && self.closed().is_none()
    }

    /// Waits until no new dialogs can start here, without holding the connection.
    pub fn unusable(&self) -> impl Future<Output = ()> + Send + use<> {
        self.handle.state.unusable.clone().cancelled_owned()
    }

    /// Why the connection is over, for the dialogs that are open as well; `None` if it is not.
    pub fn closed(&self) -> Option<&str> {
        self.handle.state.closed.get().map(String::as_str)
    }

    /// Starts a dialog, of which this is known already.
    ///
    /// # Errors
    /// If the connection is over, or has too many dialogs.
    pub async fn start_dialog(&self, facts: DialogFacts) -> Result<Dialog, ClientError> {
        let told = Box::new(facts.clone());
        let id = self.handle.ask(|answer| Request::StartDialog(told, answer)).await?;
        Ok(Dialog::new(self.clone(), id, facts))
    }

    /// Somebody waits for what was asked for, even if that is only watched.
    pub(crate) fn hurry(&self) {
        self.handle.request(Request::Hurry);
    }

    /// Waits until its last handle is dropped and the server was told, without holding it.
    pub(crate) fn ended(&self) -> impl Future<Output = ()> + Send + use<> {
        self.handle.requests.ended().cancelled_owned()
    }

    /// Ends the connection for all its handles, and waits until the server was told.
    pub async fn close(self) {
        self.handle.close().await;
    }
}

/// Asks a server for a sign of life: connects, without TLS, agrees on dialogs, and ends the connection.
///
/// # Errors
/// What failed, and in which step; each may take so long.
pub async fn probe(server: ServerAddress, patience: Duration) -> Result<(), ConnectError> {
    let target = Target { connect_timeout: patience, ..file::target(server, Vec::new()) };
    let handle = open(&target).await?;
    timeout(patience, negotiate_dialogs(&handle, &target))
        .await
        .map_err(|_| late(&target, "OCP negotiation"))??;
    timeout(patience, handle.close()).await.map_err(|_| late(&target, "the end of the connection"))
}

/// Connects, and has a driver look after the connection.
async fn open(target: &Target) -> Result<Handle, ConnectError> {
    let (stream, connection) = timeout(target.connect_timeout, transport::open(target))
        .await
        .map_err(|_| late(target, "connecting"))??;
    let (requests, asked) = requests();
    let state = Arc::new(State::default());
    let handle = Handle { requests: Arc::new(requests), state: Arc::clone(&state) };
    tokio::spawn(Driver::new(connection, state).run(stream, asked));
    Ok(handle)
}

fn late(target: &Target, stage: &'static str) -> ConnectError {
    let (server, seconds) = (target.server.clone(), target.connect_timeout);
    ConnectError::Timeout { server, seconds, stage }
}

fn refused(target: &Target, cause: String) -> ConnectError {
    ConnectError::Negotiation { server: target.server.clone(), cause }
}

fn failed(target: &Target, error: ClientError) -> ConnectError {
    match error {
        ClientError::Closed(cause) => ConnectError::Lost { server: target.server.clone(), cause },
        error => refused(target, error.to_string()),
    }
}

impl Handle {
    /// NO; what the server selected of it.
    async fn offer(
        &self,
        feature: Structure,
        group: Option<GroupId>,
    ) -> Result<Option<Structure>, ClientError> {
        let offer = Offer { features: vec![feature], group, pending: false };
        let response = self.ask(|answer| Request::Offer(offer, answer)).await?;
        Ok(response.feature)
    }

    async fn ask<T>(&self, request: impl FnOnce(Answer<T>) -> Request) -> Result<T, ClientError> {
        let (answer, answered) = oneshot::channel();
        self.request(request(answer));
        answered.await.unwrap_or_else(|_| Err(self.closed()))
    }

    /// Ends the connection, and waits until the server was told.
    async fn close(&self) {
        self.request(Request::Close);
        self.requests.ended().cancelled().await;
    }

    /// Hands a request to the driver. One that has ended takes none, and says so in other ways.
    pub(super) fn request(&self, request: Request) {
        self.requests.send(request);
    }

    pub(super) fn closed(&self) -> ClientError {
        let cause = self.state.closed.get().cloned();
        ClientError::Closed(cause.unwrap_or_else(|| "its task has ended".to_owned()))
    }
}

/// RFC 4037 section 6: dialogs for the connection.
async fn negotiate_dialogs(handle: &Handle, target: &Target) -> Result<(), ConnectError> {
    let dialogs = handle.offer(DialogFeature { version: 1 }.to_structure(), None).await;
    match dialogs.map_err(|error| failed(target, error))? {
        Some(_) => Ok(()),
        None => {
            Err(refused(target, "it does not know SMTP dialogs (ocp://smtp/dialog)".to_owned()))
        }
    }
}

/// Dialogs, then the profile for the group.
async fn negotiate(handle: &Handle, target: &Target) -> Result<Negotiated, ConnectError> {
    negotiate_dialogs(handle, target).await?;
    let failed = |error| failed(target, error);
    let services = target
        .services
        .iter()
        .map(|uri| Structure { members: vec![Value::atom(uri.clone())], ..Structure::default() });
    let services = services.collect();
    let group =
        handle.ask(|answer| Request::CreateGroup(services, answer)).await.map_err(failed)?;
    let selected = handle.offer(target.offer.to_structure(), Some(group)).await.map_err(failed)?;
    let kind = target.offer.kind();
    let selected = selected.filter(|feature| feature_uri(feature) == Some(kind.uri().as_bytes()));
    let read = |feature: &Structure| Profile::from_structure(kind, feature);
    let profile = selected.as_ref().and_then(read).ok_or_else(|| {
        let what = match kind {
            ProfileKind::Command => "",
            ProfileKind::Reply => "replies for ",
        };
        let services = target.services.join(", ");
        refused(
            target,
            format!("it declines {what}the services {services}; does it know all of them?"),
        )
    })?;
    let (server, services) = (target.server.clone(), target.services.clone());
    Ok(Negotiated { server, services, group, profile, reusable: ReusableAnswers::default() })
}
