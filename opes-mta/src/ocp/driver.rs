//! The only place where a socket meets a [`Connection`]: one task a connection.
//!
//! ```text
//!   dialogs ──requests──▶ driver ──▶ Connection ──output──▶ socket
//!   dialogs ◀──ended───── driver ◀── Connection ◀──input─── socket
//! ```
//!
//! An event goes to the driver whole and comes back as a whole answer, or as the reason why there is
//! none. In between nobody is woken: the octets of events go out while the output is low, a turn
//! each, and answers are put together here, within their bounds. Octets that lie in a file are read
//! elsewhere first, while others have their turn. What nobody waits for stays in the output for a moment,
//! so that one write takes many of them.

mod lingering;
mod sending;

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use ocp_proto::smtp::{CommandProfile, Profile};
use ocp_proto::{
    Closed, Connection, DialogId, Event, GroupId, IdMap, Misuse, OcpResult, OriginalStart,
    Response, Traffic, Xid,
};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{Instant, Sleep, sleep_until, timeout};
use tokio_util::io::{poll_read_buf, poll_write_buf};
use tokio_util::sync::CancellationToken;

use super::requests::{Answer, Request, RequestReceiver, Transact};
use crate::apply::{AnswerError, Assembly};
use crate::input::make_room;
use lingering::Lingering;
use sending::{Sending, TURN};

pub(crate) use sending::MOST_READS;

/// Octets of one read.
const READ: usize = 64 * 1024;

/// How long the last octets may take after the connection has ended.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);

/// What a transaction is called before it has an xid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ticket(u64);

/// How a transaction ended.
#[derive(Debug)]
pub(crate) struct Ended {
    /// Its xid, if it has begun.
    pub(crate) xid: Option<Xid>,
    /// The answer. Success is TE 200: only now it counts.
    pub(crate) result: Result<Assembly, ClientError>,
    /// Whether the event went out to its end.
    pub(crate) sent: bool,
    /// Whether something of an answer has come.
    pub(crate) answered: bool,
    /// Whether another server may try.
    pub(crate) retry: bool,
    /// What it cost on the wire.
    pub(crate) traffic: Traffic,
}

impl Ended {
    /// One that has not begun.
    pub(super) fn early(error: ClientError) -> Self {
        Self {
            xid: None,
            result: Err(error),
            sent: false,
            answered: false,
            retry: false,
            traffic: Traffic::default(),
        }
    }
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
    /// The answer can't be carried out.
    #[error("the answer is void: {0}")]
    Answer(#[from] AnswerError),
    /// Octets of the event lie in a file, which can't be read.
    #[error("octets of the message can't be read: {0}")]
    Unreadable(String),
    /// The protocol does not allow it now.
    #[error(transparent)]
    Misuse(#[from] Misuse),
}

/// What the handles of a connection can see of it.
#[derive(Debug, Default)]
pub(super) struct State {
    /// Why it is over.
    pub(super) closed: OnceLock<String>,
    /// Cancelled when new dialogs can't start any more: it is over, or the server drains it.
    pub(super) unusable: CancellationToken,
    tickets: AtomicU64,
}

impl State {
    pub(super) fn ticket(&self) -> Ticket {
        Ticket(self.tickets.fetch_add(1, Ordering::Relaxed))
    }
}

/// A stream to the server.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}
pub(super) type Transport = Box<dyn Stream>;

/// The task of one connection.
pub(super) struct Driver {
    connection: Connection,
    state: Arc<State>,
    offer: Option<Answer<Response>>,
    transactions: IdMap<Xid, Transaction>,
    /// Events that are not all sent, in the order of their turns.
    sending: VecDeque<Sending>,
    /// Those that the server has paused (DWP).
    paused: VecDeque<Sending>,
    /// Those whose next octets are read from a file now.
    reading: Vec<(Sending, JoinHandle<io::Result<Vec<u8>>>)>,
    /// Those whose next octets are to be read, once fewer are.
    to_be_read: VecDeque<Sending>,
    /// The dialogs, and why the server ended one before us.
    dialogs: IdMap<DialogId, Option<String>>,
    endings: Vec<Ending>,
    /// When the output goes out.
    lingering: Lingering,
    /// What the transport said when it failed.
    failure: Option<io::Error>,
}

/// A transaction under way.
struct Transaction {
    ticket: Ticket,
    dialog: DialogId,
    is_watched: bool,
    answer: Assembly,
    sent: bool,
    answered: bool,
    ended: oneshot::Sender<Ended>,
}

/// A transaction that has ended, and whose dialog is to be told.
struct Ending {
    dialog: DialogId,
    ended: oneshot::Sender<Ended>,
    told: Ended,
}

impl Driver {
    pub(super) fn new(connection: Connection, state: Arc<State>) -> Self {
        Self {
            connection,
            state,
            offer: None,
            transactions: IdMap::default(),
            sending: VecDeque::new(),
            paused: VecDeque::new(),
            reading: Vec::new(),
            to_be_read: VecDeque::new(),
            dialogs: IdMap::default(),
            endings: Vec::new(),
            lingering: Lingering::default(),
            failure: None,
        }
    }

    /// Serves the handles until the connection is over.
    pub(super) async fn run(mut self, mut stream: Transport, mut requests: RequestReceiver) {
        let mut timer = pin!(sleep_until(Instant::now()));
        poll_fn(|cx| {
            while !self.connection.is_closed() {
                ready!(self.poll(cx, &mut stream, &mut requests, timer.as_mut()));
            }
            Poll::Ready(())
        })
        .await;
        requests.close();
        if self.failure.is_none() {
            let flush = async {
                while self.connection.output().has_remaining() {
                    stream.write_buf(self.connection.output()).await?;
                }
                stream.shutdown().await
            };
            // The connection is over either way.
            let _ = timeout(FLUSH_TIMEOUT, flush).await;
        }
    }

    /// All that can be done now: requests, then what they cause on the wire, then what the server
    /// says. Ready if there may be more.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut Transport,
        requests: &mut RequestReceiver,
        mut timer: Pin<&mut Sleep>,
    ) -> Poll<()> {
        if let Some((requests, until)) = requests.poll(cx, Instant::now()) {
            self.lingering.end_at(until);
            for request in requests {
                if request.is_urgent() {
                    self.lingering.end();
                }
                self.request(request);
                if self.connection.is_over() {
                    // Who has asked for what is left is told the cause.
                    self.poll_events();
                    break;
                }
            }
        }
        self.send();
        while self.poll_reads(cx) {
            self.send();
        }
        let written = self.poll_write(cx, stream);
        let unwritten = self.connection.output().remaining();
        let read = self.poll_read(cx, stream);
        self.poll_events();
        self.hurry_beyond(unwritten);
        if written || read || self.connection.is_closed() {
            return Poll::Ready(());
        }
        let deadline = self.connection.poll_timeout().map(Instant::from_std);
        let deadlines = [deadline, requests.poll_timeout(), self.lingering.poll_timeout()];
        let deadline = deadlines.into_iter().flatten().min();
        let Some(deadline) = deadline else { return Poll::Pending };
        // Deadlines mostly move away: the timer is set when it rings, or for a nearer one.
        if timer.is_elapsed() || deadline < timer.deadline() {
            timer.as_mut().reset(deadline);
        }
        ready!(timer.poll(cx));
        self.connection.handle_timeout(now());
        self.poll_events();
        self.hurry_beyond(unwritten);
        Poll::Ready(())
    }

    /// What the connection says by itself, to what it has read or because time has come, goes out at
    /// once.
    fn hurry_beyond(&mut self, unwritten: usize) {
        if self.connection.output().remaining() > unwritten {
            self.lingering.end();
        }
    }

    /// Writes what there is and does not linger; whether octets moved. A server that takes no more has
    /// mostly said why, in a CE or in a TLS alert: what it said is still read, and the connection ends
    /// with that.
    fn poll_write(&mut self, cx: &mut Context<'_>, stream: &mut Transport) -> bool {
        let mut moved = false;
        while self.lingering.is_over(self.connection.output().remaining(), Instant::now()) {
            let error = match poll_write_buf(Pin::new(&mut *stream), cx, self.connection.output()) {
                Poll::Ready(Ok(1..)) => {
                    moved = true;
                    continue;
                }
                Poll::Ready(Ok(0)) => io::ErrorKind::WriteZero.into(),
                Poll::Ready(Err(error)) => error,
                Poll::Pending => break,
            };
            self.failure.get_or_insert(error);
            let lost = self.connection.output().remaining();
            self.connection.output().advance(lost);
        }
        moved
    }

    /// Reads once; whether octets, or the end, came.
    fn poll_read(&mut self, cx: &mut Context<'_>, stream: &mut Transport) -> bool {
        if self.connection.is_over() {
            return false;
        }
        let input = self.connection.input();
        make_room(input, READ);
        match poll_read_buf(Pin::new(stream), cx, input) {
            Poll::Ready(Ok(0)) => self.connection.handle_end_of_input(),
            Poll::Ready(Ok(_)) => self.connection.handle_input(now()),
            Poll::Ready(Err(error)) => self.fail(error),
            Poll::Pending => {
                // A connection that waits holds no buffer.
                if input.is_empty() && self.transactions.is_empty() {
                    *input = BytesMut::new();
                }
                return false;
            }
        }
        true
    }

    fn fail(&mut self, error: io::Error) {
        self.failure = Some(error);
        self.connection.handle_end_of_input();
    }

    fn poll_events(&mut self) {
        while let Some(event) = self.connection.poll_event() {
            self.event(event);
        }
        // Only now: what ended a transaction may have been said by a later event.
        for Ending { dialog, ended, mut told } in self.endings.drain(..) {
            if told.result.is_err() {
                if let Some(cause) = self.state.closed.get() {
                    told.result = Err(ClientError::Closed(cause.clone()));
                } else if let Some(Some(cause)) = self.dialogs.get(&dialog) {
                    told.result = Err(ClientError::DialogEnded(cause.clone()));
                }
            }
            // A dialog that has given up does not listen.
            let _ = ended.send(told);
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
                self.answer(xid, |answer| {
                    answer.start(start.unwrap_or_default());
                    Ok(())
                });
            }
            Event::Data { xid, part, octets } => {
                self.answer(xid, |answer| answer.data(None, part, &octets));
            }
            Event::MessageData { xid, id, part, octets } => {
                self.answer(xid, |answer| answer.data(Some(id), part, &octets));
            }
            Event::Preserved { xid, part, range } => {
                self.answer(xid, |answer| answer.preserved(None, part, range));
            }
            Event::MessagePreserved { xid, id, part, range } => {
                self.answer(xid, |answer| answer.preserved(Some(id), part, range));
            }
            Event::AdaptedEnded { xid, result, end } => {
                let rest = self.connection.rest_from(xid).filter(|_| result.is_partial());
                self.answer(xid, |answer| answer.end(end, rest));
            }
            // All of the original stays at hand, whatever was sent of it.
            Event::StopSendingWanted { xid } => {
                // Fails only if the transaction has ended meanwhile.
                let _ = self.connection.stop_sending(xid);
            }
            Event::MoreWanted { xid, .. } => {
                if let Some(at) = self.paused.iter().position(|paused| paused.xid == xid) {
                    self.sending.extend(self.paused.remove(at));
                }
            }
            Event::TransactionEnded { xid, result, retry, traffic } => {
                let error = match result.is_success() {
                    true => None,
                    false => Some(ClientError::Failed(reason(&result))),
                };
                self.end(xid, error, retry, traffic);
            }
            Event::DialogEnded { dialog, result } => {
                if let Some(ended) = self.dialogs.get_mut(&dialog) {
                    *ended = Some(reason(&result));
                }
            }
            Event::Refused(violation) => tracing::warn!(%violation, "the server broke a rule"),
            Event::Draining => self.state.unusable.cancel(),
            Event::Closed(closed) => {
                let cause = self.describe(&closed);
                if let Some(answer) = self.offer.take() {
                    let _ = answer.send(Err(ClientError::Closed(cause.clone())));
                }
                // Set once: the connection closes once.
                let _ = self.state.closed.set(cause);
                self.state.unusable.cancel();
            }
            // What is left is progress, or for servers only.
            _ => {}
        }
    }

    /// Adds a piece to an answer; one that is wrong ends the transaction.
    fn answer(&mut self, xid: Xid, add: impl FnOnce(&mut Assembly) -> Result<(), AnswerError>) {
        let Some(transaction) = self.transactions.get_mut(&xid) else { return };
        transaction.answered = true;
        if let Err(error) = add(&mut transaction.answer) {
            self.give_up(xid, error.into());
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
            Request::UpdateDialog { dialog, update } => {
                // Fails only if the dialog has ended: then nobody wants to know.
                let _ = self.connection.update_dialog(dialog, &update);
            }
            Request::Transact(transact) => self.transact(*transact),
            Request::GiveUp { ticket, reason } => {
                let mut open = self.transactions.iter();
                let given_up = open.find(|(_, transaction)| transaction.ticket == ticket);
                if let Some(xid) = given_up.map(|(xid, _)| *xid) {
                    self.give_up(xid, ClientError::Failed(reason));
                }
            }
            Request::Outcome { dialog, xid, result, reply } => {
                // Fails only if the dialog has ended: then nobody wants to know.
                let _ = self.connection.report_outcome(dialog, xid, result, reply.as_ref(), None);
            }
            Request::EndDialog { dialog, result } => self.end_dialog(dialog, result),
            Request::Hurry => {}
            Request::Close => self.connection.close(OcpResult::ok()),
        }
    }

    fn transact(&mut self, transact: Transact) {
        let Transact { ticket, group, start, is_watched, answer, ended } = transact;
        let dialog = start.dialog;
        match self.start_transaction(group, &start) {
            Ok(xid) => {
                let (sent, answered) = (false, false);
                let transaction =
                    Transaction { ticket, dialog, is_watched, answer, sent, answered, ended };
                let body = transaction.answer.kept().body();
                let profile = self.connection.transaction_profile(xid);
                let profile = profile.and_then(Profile::as_command);
                let speaks = profile.filter(|profile| speaks_of_body(profile));
                let leave = profile.and_then(|profile| profile.leave_at_body);
                let leaves = body.zip(leave).map(|(body, at)| body.saturating_add(at as usize));
                let body = body.filter(|_| speaks.is_some());
                self.transactions.insert(xid, transaction);
                let (turn, read) = (TURN, Bytes::new());
                self.sending.push_back(Sending { xid, offset: 0, turn, body, leaves, read });
            }
            // The dialog may have given up.
            Err(error) => drop(ended.send(Ended::early(error))),
        }
    }

    fn start_transaction(
        &mut self,
        group: GroupId,
        start: &OriginalStart,
    ) -> Result<Xid, ClientError> {
        if let Some(cause) = self.state.closed.get() {
            return Err(ClientError::Closed(cause.clone()));
        }
        if let Some(Some(cause)) = self.dialogs.get(&start.dialog) {
            return Err(ClientError::DialogEnded(cause.clone()));
        }
        let xid = self.connection.start_transaction(group, now())?;
        if let Err(misuse) = self.connection.start_original(xid, start) {
            let result = OcpResult::failure(misuse.to_string());
            self.connection.end_transaction(xid, &result, false)?;
            return Err(misuse.into());
        }
        Ok(xid)
    }

    /// Ends a transaction from our side (TE 400).
    fn give_up(&mut self, xid: Xid, error: ClientError) {
        let result = OcpResult::failure(error.to_string());
        self.lingering.end();
        // Fails only if the server has ended it already, which its dialog is told of.
        if let Ok(traffic) = self.connection.end_transaction(xid, &result, false) {
            self.end(xid, Some(error), false, traffic);
        }
    }

    fn end(&mut self, xid: Xid, error: Option<ClientError>, retry: bool, traffic: Traffic) {
        let Some(transaction) = self.transactions.remove(&xid) else { return };
        self.paused.retain(|paused| paused.xid != xid);
        let Transaction { dialog, answer, sent, answered, ended, .. } = transaction;
        let result = match error {
            None => Ok(answer),
            Some(error) => Err(error),
        };
        let told = Ended { xid: Some(xid), result, sent, answered, retry, traffic };
        self.endings.push(Ending { dialog, ended, told });
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

/// Whether a server wants something else than the whole body at once (profile section 2).
fn speaks_of_body(profile: &CommandProfile) -> bool {
    let sizes = [profile.pause_at_body, profile.stop_receiving_body, profile.leave_at_body];
    sizes.iter().any(Option::is_some)
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
