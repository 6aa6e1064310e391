//! The only place where a socket meets a [`Connection`]: one task a connection.
//!
//! ```text
//!   dialogs ──requests (bounded)──▶ driver ──▶ Connection ──output──▶ socket
//!   dialogs ◀──pieces (bounded)──── driver ◀── Connection ◀──input─── socket
//! ```
//!
//! Back-pressure goes both ways: no request is taken while the output stands high, and no event is
//! asked for while the dialog that the last one belongs to is behind, so nothing more is read.

use std::collections::HashMap;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use ocp_proto::smtp::{DialogFacts, Part, Reply};
use ocp_proto::wire::Structure;
use ocp_proto::{
    AdaptedEnd, AdaptedStart, Closed, Connection, DialogId, Event, GroupId, Misuse, OcpResult,
    Offer, OriginalStart, Response, Traffic, Xid,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until, timeout};

/// Octets of the output above which no request is taken. Worst case a connection: that much and one
/// payload more.
const HIGH_WATER: usize = 512 * 1024;

/// Octets of one read.
const READ: usize = 64 * 1024;

/// Spare room below which a read gets a new buffer.
const LEAST_READ: usize = 8 * 1024;

/// How long the last octets may take after the connection has ended.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);

/// What a dialog asks of the driver.
#[derive(Debug)]
pub(super) enum Request {
    /// NO; answered by NR.
    Offer(Offer, Answer<Response>),
    /// SGC.
    CreateGroup(Vec<Structure>, Answer<GroupId>),
    /// Dialog-Start.
    StartDialog(Box<DialogFacts>, Answer<DialogId>),
    /// TS and AMS.
    StartTransaction {
        group: GroupId,
        start: Box<OriginalStart>,
        pieces: mpsc::Sender<Piece>,
        ended: oneshot::Sender<Ended>,
        answer: Answer<Xid>,
    },
    /// DUM.
    Send { xid: Xid, part: Part, octets: Bytes },
    /// AME.
    EndOriginal { xid: Xid },
}

/// What a dialog tells the driver without waiting. At most one a transaction and two a dialog stand
/// in the queue.
#[derive(Debug)]
pub(super) enum Notice {
    /// TE 400.
    GiveUp { xid: Xid, reason: String },
    /// Dialog-Outcome.
    Outcome { dialog: DialogId, xid: Xid, result: OcpResult, reply: Option<Reply> },
    /// Dialog-End.
    EndDialog { dialog: DialogId, result: OcpResult },
    /// CE.
    Close,
}

/// One piece of an adapted message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// AMS.
    Started(AdaptedStart),
    /// DUM, or a piece of one.
    Data(Option<Part>, Bytes),
    /// DUY.
    Preserved(Option<Part>, Range<u32>),
    /// AME.
    Ended(AdaptedEnd),
}

/// How a transaction ended.
#[derive(Debug)]
pub struct Ended {
    /// Success is TE 200: only now the adapted message counts.
    pub result: Result<(), ClientError>,
    /// Whether another server may try.
    pub retry: bool,
    /// What it cost on the wire.
    pub traffic: Traffic,
}

/// Why something did not come about.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    /// The connection is over.
    #[error("the connection is lost: {0}")]
    Closed(String),
    /// The server ended the dialog.
    #[error("the server ended the dialog: {0}")]
    DialogEnded(String),
    /// The transaction failed: the server's TE 400, or a rule that it broke.
    #[error("the transaction failed: {0}")]
    Failed(String),
    /// The protocol does not allow it now.
    #[error(transparent)]
    Misuse(#[from] Misuse),
}

/// What the handles of a connection can see of it.
#[derive(Debug, Default)]
pub(super) struct State {
    /// Why it is over.
    pub(super) closed: OnceLock<String>,
    /// Whether the server wants no new dialogs.
    pub(super) draining: AtomicBool,
}

pub(super) type Answer<T> = oneshot::Sender<Result<T, ClientError>>;
type Reader = Box<dyn AsyncRead + Send + Unpin>;
type Writer = Box<dyn AsyncWrite + Send + Unpin>;

/// The task of one connection.
pub(super) struct Driver {
    connection: Connection,
    arrived: BytesMut,
    state: Arc<State>,
    offer: Option<Answer<Response>>,
    transactions: HashMap<Xid, Consumer>,
    /// The dialogs, and why the server ended one before us.
    dialogs: HashMap<DialogId, Option<String>>,
    /// Transactions that have ended and whose dialogs are to be told.
    endings: Vec<(Consumer, Ended)>,
    /// A piece that its dialog has no room for.
    behind: Option<(mpsc::Sender<Piece>, Piece)>,
    /// What the transport said when it failed.
    failure: Option<io::Error>,
}

/// Where the events of a transaction go.
struct Consumer {
    dialog: DialogId,
    pieces: mpsc::Sender<Piece>,
    ended: oneshot::Sender<Ended>,
}

/// What woke the driver.
enum Wake {
    Read(io::Result<usize>),
    Written(io::Result<usize>),
    Request(Option<Request>),
    Notice(Option<Notice>),
    Room,
    Timeout,
}

impl Driver {
    pub(super) fn new(connection: Connection, state: Arc<State>) -> Self {
        Self {
            connection,
            arrived: BytesMut::new(),
            state,
            offer: None,
            transactions: HashMap::new(),
            dialogs: HashMap::new(),
            endings: Vec::new(),
            behind: None,
            failure: None,
        }
    }

    /// Runs until the connection is over: by either side, or since nobody holds a handle any more.
    pub(super) async fn run(
        mut self,
        mut reader: Reader,
        mut writer: Writer,
        mut requests: mpsc::Receiver<Request>,
        mut notices: mpsc::UnboundedReceiver<Notice>,
    ) {
        let mut asked = true;
        loop {
            self.poll_events();
            if self.connection.is_closed() {
                break;
            }
            if self.arrived.capacity() - self.arrived.len() < LEAST_READ {
                self.arrived.reserve(READ);
            }
            let deadline = self.connection.poll_timeout().map(Instant::from_std);
            let takes = asked && self.connection.output().remaining() < HIGH_WATER;
            let writes = self.connection.output().has_remaining();
            let wake = tokio::select! {
                read = reader.read_buf(&mut self.arrived), if self.behind.is_none() => Wake::Read(read),
                written = writer.write_buf(self.connection.output()), if writes => {
                    Wake::Written(written)
                }
                request = requests.recv(), if takes => Wake::Request(request),
                notice = notices.recv() => Wake::Notice(notice),
                () = room(&mut self.behind), if self.behind.is_some() => Wake::Room,
                () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => {
                    Wake::Timeout
                }
            };
            match wake {
                Wake::Read(Ok(0)) => self.connection.handle_end_of_input(),
                Wake::Read(Ok(_)) => {
                    self.connection.input().unsplit(self.arrived.split());
                    self.connection.handle_input(now());
                }
                Wake::Written(Ok(1..)) | Wake::Room => {}
                Wake::Written(Ok(0)) => self.fail(io::ErrorKind::WriteZero.into()),
                Wake::Read(Err(error)) | Wake::Written(Err(error)) => self.fail(error),
                Wake::Request(Some(request)) => self.request(request),
                Wake::Request(None) => asked = false,
                Wake::Notice(Some(notice)) => self.notice(notice),
                // Nobody holds a handle any more.
                Wake::Notice(None) => self.connection.close(OcpResult::ok()),
                Wake::Timeout => self.connection.handle_timeout(now()),
            }
        }
        if self.failure.is_none() {
            let flush = async {
                while self.connection.output().has_remaining() {
                    writer.write_buf(self.connection.output()).await?;
                }
                writer.shutdown().await
            };
            // The connection is over either way.
            let _ = timeout(FLUSH_TIMEOUT, flush).await;
        }
    }

    fn fail(&mut self, error: io::Error) {
        self.failure = Some(error);
        self.behind = None;
        self.connection.handle_end_of_input();
    }

    fn poll_events(&mut self) {
        while self.behind.is_none() {
            let Some(event) = self.connection.poll_event() else { break };
            self.event(event);
        }
        // Only now: what ended a transaction may have been said by a later event.
        for (consumer, mut ended) in std::mem::take(&mut self.endings) {
            if ended.result.is_err() {
                if let Some(cause) = self.state.closed.get() {
                    ended.result = Err(ClientError::Closed(cause.clone()));
                } else if let Some(Some(cause)) = self.dialogs.get(&consumer.dialog) {
                    ended.result = Err(ClientError::DialogEnded(cause.clone()));
                }
            }
            // A dialog that has given up does not listen.
            let _ = consumer.ended.send(ended);
        }
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Responded(response) => {
                if let Some(answer) = self.offer.take() {
                    let _ = answer.send(Ok(response));
                }
            }
            Event::AdaptedStarted { xid, start, .. } => {
                self.forward(xid, Piece::Started(start.unwrap_or_default()));
            }
            Event::Data { xid, part, octets } => self.forward(xid, Piece::Data(part, octets)),
            Event::Preserved { xid, part, range } => {
                self.forward(xid, Piece::Preserved(part, range));
            }
            Event::AdaptedEnded { xid, end, .. } => self.forward(xid, Piece::Ended(end)),
            Event::TransactionEnded { xid, result, retry, traffic } => {
                if let Some(consumer) = self.transactions.remove(&xid) {
                    let result = match result.is_success() {
                        true => Ok(()),
                        false => Err(ClientError::Failed(reason(&result))),
                    };
                    self.endings.push((consumer, Ended { result, retry, traffic }));
                }
            }
            Event::DialogEnded { dialog, result } => {
                if let Some(ended) = self.dialogs.get_mut(&dialog) {
                    *ended = Some(reason(&result));
                }
            }
            Event::Draining => self.state.draining.store(true, Ordering::Relaxed),
            Event::Closed(closed) => {
                let cause = self.describe(&closed);
                if let Some(answer) = self.offer.take() {
                    let _ = answer.send(Err(ClientError::Closed(cause.clone())));
                }
                // Set once: the connection closes once.
                let _ = self.state.closed.set(cause);
            }
            // What is left is progress, or for servers only.
            _ => {}
        }
    }

    /// Hands a piece to its dialog; if that has no room, the connection waits.
    fn forward(&mut self, xid: Xid, piece: Piece) {
        let Some(consumer) = self.transactions.get(&xid) else { return };
        if let Err(mpsc::error::TrySendError::Full(piece)) = consumer.pieces.try_send(piece) {
            self.behind = Some((consumer.pieces.clone(), piece));
        }
    }

    fn request(&mut self, request: Request) {
        match request {
            Request::Offer(offer, answer) => match self.connection.offer(offer) {
                Ok(()) => self.offer = Some(answer),
                Err(misuse) => drop(answer.send(Err(misuse.into()))),
            },
            Request::CreateGroup(services, answer) => {
                let group = self.connection.create_group(services);
                let _ = answer.send(group.map_err(ClientError::from));
            }
            Request::StartDialog(facts, answer) => {
                let dialog = self.connection.start_dialog(&facts).map_err(ClientError::from);
                let id = dialog.as_ref().ok().copied();
                self.dialogs.extend(id.map(|id| (id, None)));
                if answer.send(dialog).is_err()
                    && let Some(dialog) = id
                {
                    // Its asker has given up meanwhile.
                    self.end_dialog(dialog, OcpResult::ok());
                }
            }
            Request::StartTransaction { group, start, pieces, ended, answer } => {
                let consumer = Consumer { dialog: start.dialog, pieces, ended };
                let xid = self.start_transaction(group, &start, consumer);
                if let Err(Ok(xid)) = answer.send(xid) {
                    self.give_up(xid, "nobody waits for the answer".to_owned());
                }
            }
            // Both fail only if the transaction has ended, which its dialog is told of.
            Request::Send { xid, part, octets } => {
                let _ = self.connection.send_original(xid, part, octets, true);
            }
            Request::EndOriginal { xid } => {
                let _ = self.connection.end_original(xid, OcpResult::ok());
            }
        }
    }

    fn start_transaction(
        &mut self,
        group: GroupId,
        start: &OriginalStart,
        consumer: Consumer,
    ) -> Result<Xid, ClientError> {
        if let Some(Some(cause)) = self.dialogs.get(&start.dialog) {
            return Err(ClientError::DialogEnded(cause.clone()));
        }
        let xid = self.connection.start_transaction(group, now())?;
        if let Err(misuse) = self.connection.start_original(xid, start) {
            let result = OcpResult::failure(misuse.to_string());
            self.connection.end_transaction(xid, &result, false)?;
            return Err(misuse.into());
        }
        self.transactions.insert(xid, consumer);
        Ok(xid)
    }

    fn notice(&mut self, notice: Notice) {
        match notice {
            Notice::GiveUp { xid, reason } => self.give_up(xid, reason),
            Notice::Outcome { dialog, xid, result, reply } => {
                // Fails only if the dialog has ended: then nobody wants to know.
                let _ = self.connection.report_outcome(dialog, xid, result, reply.as_ref(), None);
            }
            Notice::EndDialog { dialog, result } => self.end_dialog(dialog, result),
            Notice::Close => self.connection.close(OcpResult::ok()),
        }
    }

    fn give_up(&mut self, xid: Xid, reason: String) {
        let result = OcpResult::failure(reason.clone());
        let Ok(traffic) = self.connection.end_transaction(xid, &result, false) else { return };
        if let Some(consumer) = self.transactions.remove(&xid) {
            let result = Err(ClientError::Failed(reason));
            // The dialog may have gone.
            let _ = consumer.ended.send(Ended { result, retry: false, traffic });
        }
    }

    fn end_dialog(&mut self, dialog: DialogId, result: OcpResult) {
        self.dialogs.remove(&dialog);
        // Fails only if the server has ended it already.
        let _ = self.connection.end_dialog(dialog, result);
    }

    fn describe(&self, closed: &Closed) -> String {
        match (closed, &self.failure) {
            (Closed::Lost { .. }, Some(error)) => error.to_string(),
            (Closed::Lost { mid_message: true }, None) => {
                "the server hung up in the middle of an OCP message".to_owned()
            }
            (Closed::Lost { mid_message: false }, None) => "the server hung up".to_owned(),
            (Closed::ByUs, _) => "we have closed it".to_owned(),
            (Closed::ByPeer(result), _) => format!("the server closed it: {}", reason(result)),
            (Closed::Violation(violation), _) => format!("the server broke OCP: {violation}"),
        }
    }
}

/// Waits until the dialog that is behind has room, and gives it its piece.
async fn room(behind: &mut Option<(mpsc::Sender<Piece>, Piece)>) {
    let Some((pieces, _)) = behind else { return };
    let permit = pieces.clone().reserve_owned().await;
    if let (Ok(permit), Some((_, piece))) = (permit, behind.take()) {
        permit.send(piece);
    }
}

fn now() -> std::time::Instant {
    // tokio's clock, so that tests can pause it.
    Instant::now().into_std()
}

fn reason(result: &OcpResult) -> String {
    match result.reason() {
        reason if reason.is_empty() => format!("result {} without a reason", result.code),
        reason => reason,
    }
}
