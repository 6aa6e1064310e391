//! The handles of a connection: [`Client`], [`Dialog`], and the two flows of a transaction.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use ocp_proto::smtp::{COMMAND_PROFILE, CommandProfile, DialogFacts, DialogFeature, Part, Reply};
use ocp_proto::wire::{Structure, Value};
use ocp_proto::{
    Config, Connection, DialogId, GroupId, OcpResult, Offer, OriginalStart, Role, Xid, feature_uri,
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout};

use super::address::ServerAddress;
pub use super::driver::Piece;
use super::driver::{Answer, ClientError, Driver, Ended, Notice, Request, State};

/// Requests that wait for the driver. Worst case a connection: that many × [`PAYLOAD`] octets, which
/// are slices of kept content.
const REQUESTS: usize = 16;

/// Pieces of an adapted message that wait for their dialog. Worst case a transaction: that many
/// slices of read buffers, 16 × 64 KiB.
const PIECES: usize = 16;

/// Octets of one DUM.
const PAYLOAD: usize = 256 * 1024;

/// A callout server, and what we want of it.
#[derive(Clone, Debug)]
pub struct Target {
    /// Where it listens.
    pub server: ServerAddress,
    /// URIs of the services of the group, in their order.
    pub services: Vec<String>,
    /// What we can do: events to vector out, side effects that we carry out.
    pub offer: CommandProfile,
    /// How long connecting may take; the negotiation may take as long again.
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
    handle: Handle,
    negotiated: Arc<Negotiated>,
}

#[derive(Debug)]
struct Negotiated {
    server: ServerAddress,
    services: Vec<String>,
    group: GroupId,
    profile: CommandProfile,
}

/// Ways to the driver.
#[derive(Clone, Debug)]
struct Handle {
    requests: mpsc::Sender<Request>,
    notices: mpsc::UnboundedSender<Notice>,
    state: Arc<State>,
}

/// One SMTP dialog. Dropping it ends it.
#[derive(Debug)]
pub struct Dialog {
    client: Client,
    id: DialogId,
}

/// The original message of a transaction.
#[derive(Clone, Debug)]
pub struct OriginalFlow {
    handle: Handle,
    xid: Xid,
}

/// The adapted message of a transaction. Dropping it before its end ends the transaction with TE
/// 400.
#[derive(Debug)]
pub struct AdaptedFlow {
    handle: Handle,
    xid: Xid,
    pieces: mpsc::Receiver<Piece>,
    ended: Option<oneshot::Receiver<Ended>>,
}

impl Client {
    /// Connects, negotiates dialogs, creates the service group, and negotiates the command profile
    /// for it.
    ///
    /// # Errors
    /// What failed, where, and in which step.
    pub async fn connect(target: &Target) -> Result<Self, ConnectError> {
        let seconds = target.connect_timeout;
        let late = |stage| ConnectError::Timeout { server: target.server.clone(), seconds, stage };
        let (reader, writer) = timeout(seconds, open(&target.server))
            .await
            .map_err(|_| late("connecting"))?
            .map_err(|error| ConnectError::Transport { server: target.server.clone(), error })?;
        let now = Instant::now().into_std();
        let connection = Connection::new(Role::Processor, target.connection.clone(), now);
        let (requests, asked) = mpsc::channel(REQUESTS);
        let (notices, noticed) = mpsc::unbounded_channel();
        let state = Arc::new(State::default());
        let handle = Handle { requests, notices, state: Arc::clone(&state) };
        tokio::spawn(Driver::new(connection, state).run(reader, writer, asked, noticed));
        let negotiated = timeout(seconds, negotiate(&handle, target))
            .await
            .map_err(|_| late("OCP negotiation"))?
            .map_err(|cause| ConnectError::Negotiation { server: target.server.clone(), cause })?;
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
    pub fn profile(&self) -> &CommandProfile {
        &self.negotiated.profile
    }

    /// Whether new dialogs can start here: the connection is open, and the server does not drain it.
    pub fn is_usable(&self) -> bool {
        let state = &self.handle.state;
        state.closed.get().is_none() && !state.draining.load(Ordering::Relaxed)
    }

    /// Starts a dialog.
    ///
    /// # Errors
    /// If the connection is over, or has too many dialogs.
    pub async fn start_dialog(&self, facts: DialogFacts) -> Result<Dialog, ClientError> {
        let facts = Box::new(facts);
        let id = self.handle.ask(|answer| Request::StartDialog(facts, answer)).await?;
        Ok(Dialog { client: self.clone(), id })
    }

    /// Ends the connection for all its handles, and waits until the server was told.
    pub async fn close(self) {
        let _ = self.handle.notices.send(Notice::Close);
        self.handle.requests.closed().await;
    }
}

impl Dialog {
    /// The connection.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The dialog's number.
    pub fn id(&self) -> DialogId {
        self.id
    }

    /// Starts a transaction for an event. Both flows should go on at the same time: a server may
    /// answer, and even end, before it has received all.
    ///
    /// # Errors
    /// If the connection or the dialog is over, the event was not negotiated, or another one of the
    /// dialog is open.
    pub async fn transact(
        &self,
        start: OriginalStart,
    ) -> Result<(OriginalFlow, AdaptedFlow), ClientError> {
        let handle = self.client.handle.clone();
        let group = self.client.negotiated.group;
        let (pieces, received) = mpsc::channel(PIECES);
        let (ended, end) = oneshot::channel();
        let start = Box::new(start);
        let xid = handle
            .ask(|answer| Request::StartTransaction { group, start, pieces, ended, answer })
            .await?;
        let original = OriginalFlow { handle: handle.clone(), xid };
        Ok((original, AdaptedFlow { handle, xid, pieces: received, ended: Some(end) }))
    }

    /// Tells the server what became of an event (Dialog-Outcome).
    pub fn report(&self, xid: Xid, result: OcpResult, reply: Option<Reply>) {
        let dialog = self.id;
        self.client.handle.notify(Notice::Outcome { dialog, xid, result, reply });
    }
}

impl Drop for Dialog {
    fn drop(&mut self) {
        let result = OcpResult::ok();
        self.client.handle.notify(Notice::EndDialog { dialog: self.id, result });
    }
}

impl OriginalFlow {
    /// Sends octets of the message; they have to be kept until the transaction ends. Waits while
    /// the connection is busy.
    pub async fn send(&self, part: Part, mut octets: Bytes) {
        while !octets.is_empty() {
            let octets = octets.split_to(octets.len().min(PAYLOAD));
            self.handle.request(Request::Send { xid: self.xid, part, octets }).await;
        }
    }

    /// Ends the message.
    pub async fn end(self) {
        self.handle.request(Request::EndOriginal { xid: self.xid }).await;
    }
}

impl AdaptedFlow {
    /// The transaction.
    pub fn xid(&self) -> Xid {
        self.xid
    }

    /// The next piece of the message; `None` when there are no more since the transaction ended.
    pub async fn next(&mut self) -> Option<Piece> {
        self.pieces.recv().await
    }

    /// How the transaction ended.
    pub async fn ended(mut self) -> Ended {
        match self.ended.take() {
            Some(ended) => self.handle.await_end(ended).await,
            None => self.handle.lost(),
        }
    }

    /// Ends the transaction (TE 400): what it had cost until then, or how it ended just before.
    pub async fn give_up(self, reason: String) -> Ended {
        self.handle.notify(Notice::GiveUp { xid: self.xid, reason });
        self.ended().await
    }
}

impl Drop for AdaptedFlow {
    fn drop(&mut self) {
        if self.ended.is_some() {
            let reason = "nobody waits for the answer".to_owned();
            self.handle.notify(Notice::GiveUp { xid: self.xid, reason });
        }
    }
}

impl Handle {
    async fn ask<T>(&self, request: impl FnOnce(Answer<T>) -> Request) -> Result<T, ClientError> {
        let (answer, answered) = oneshot::channel();
        self.request(request(answer)).await;
        answered.await.unwrap_or_else(|_| Err(self.closed()))
    }

    /// Hands a request to the driver. One that has ended takes none, and says so in other ways.
    async fn request(&self, request: Request) {
        let _ = self.requests.send(request).await;
    }

    fn notify(&self, notice: Notice) {
        let _ = self.notices.send(notice);
    }

    async fn await_end(&self, ended: oneshot::Receiver<Ended>) -> Ended {
        ended.await.unwrap_or_else(|_| self.lost())
    }

    fn lost(&self) -> Ended {
        let traffic = ocp_proto::Traffic::default();
        Ended { result: Err(self.closed()), retry: false, traffic }
    }

    fn closed(&self) -> ClientError {
        let cause = self.state.closed.get().cloned();
        ClientError::Closed(cause.unwrap_or_else(|| "its task has ended".to_owned()))
    }
}

type Transport = (Box<dyn AsyncRead + Send + Unpin>, Box<dyn AsyncWrite + Send + Unpin>);

async fn open(server: &ServerAddress) -> std::io::Result<Transport> {
    Ok(match server {
        ServerAddress::Tcp(address) => {
            let stream = TcpStream::connect(address.as_str()).await?;
            // Heads are small and somebody waits for each of them.
            stream.set_nodelay(true)?;
            let (reader, writer) = stream.into_split();
            (Box::new(reader), Box::new(writer))
        }
        ServerAddress::Unix(path) => {
            let (reader, writer) = UnixStream::connect(path).await?.into_split();
            (Box::new(reader), Box::new(writer))
        }
    })
}

/// RFC 4037 section 6: dialogs for the connection, then the command profile for the group.
async fn negotiate(handle: &Handle, target: &Target) -> Result<Negotiated, String> {
    let offer = |feature: Structure, group| async move {
        let offer = Offer { features: vec![feature], group, pending: false };
        let response = handle.ask(|answer| Request::Offer(offer, answer)).await;
        response.map(|response| response.feature).map_err(|error| error.to_string())
    };
    if offer(DialogFeature { version: 1 }.to_structure(), None).await?.is_none() {
        return Err("it does not know SMTP dialogs (ocp://smtp/dialog)".to_owned());
    }
    let services = target
        .services
        .iter()
        .map(|uri| Structure { members: vec![Value::atom(uri.clone())], ..Structure::default() });
    let services = services.collect();
    let group = handle
        .ask(|answer| Request::CreateGroup(services, answer))
        .await
        .map_err(|error| error.to_string())?;
    let selected = offer(target.offer.to_structure(), Some(group)).await?;
    let selected =
        selected.filter(|feature| feature_uri(feature) == Some(COMMAND_PROFILE.as_bytes()));
    let profile = selected.as_ref().and_then(CommandProfile::from_structure).ok_or_else(|| {
        format!(
            "it declines the services {}; does it know all of them?",
            target.services.join(", ")
        )
    })?;
    let (server, services) = (target.server.clone(), target.services.clone());
    Ok(Negotiated { server, services, group, profile })
}
