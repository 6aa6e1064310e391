//! Transactions: an event's octets come in, services work on it, its answer goes out.
//!
//! ```text
//!               TS           AMS           AME, DSS        services done             all sent
//! transaction ─────▶ Started ────▶ Receiving ────▶ Working ──────────────▶ Answering ──────────▶ TE
//! ```
//!
//! DSS comes where Leave-At-Body was negotiated: what was sent before it is answered without waiting
//! for more (RFC 4037 section 11.14), and the processor appends the rest by itself.

use std::future::Future;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use bytes::buf::Limit;
use bytes::{Buf, Bytes, BytesMut};
use ocp_proto::smtp::{Command, CommandLine, Envelope, Part};
use ocp_proto::{Connection, GroupId, OcpResult, OriginalStart, Xid};
use services::Input;
use services::mail::Mail;
use tokio::task::{AbortHandle, JoinError};
use tracing::{Instrument, Level, Span, enabled, error, info, info_span, warn};

use super::Session;
use crate::adapt::{Original, Outgoing, Sent};
use crate::branch::Abilities;
use crate::chain::{self, Adapted, Answer, milliseconds};
use crate::driver::now;
use crate::router::Chain;
use crate::spool::{Content, Full, Room, Written};
use crate::terms::Terms;

/// Events up to this size are worked on at once if their services say that they are quick.
const IMMEDIATE_OCTETS: usize = 64 * 1024;

/// Octets of a body to come from which on they are read straight to where they belong: below, one read
/// that brings other messages with them is better.
const STRAIGHT_OCTETS: u32 = 8 * 1024;

/// Where octets of a transaction's body are read to.
pub(crate) struct BodyRoom {
    xid: Xid,
    room: Room,
}

/// One event on its way through the services.
pub(super) struct Transaction {
    chain: Arc<Chain>,
    stage: Stage,
    span: Span,
    started: Instant,
}

enum Stage {
    Started,
    Receiving {
        start: OriginalStart,
        content: Box<Content>,
        /// No more octets come, or count.
        is_complete: bool,
        is_paused: bool,
    },
    Working {
        original: Original,
        task: AbortHandle,
        progress: Instant,
    },
    /// The peer has not taken all, or octets have to be read first.
    Answering(Box<(Outgoing, Decision)>),
}

/// What was done for a transaction, away from the connection.
pub(crate) enum Completed {
    /// Its services have answered.
    Answered(Xid, Answer),
    /// Octets of its content are in the file.
    Written(Xid, io::Result<Written>),
    /// Octets of its content were read from the file.
    Read(Xid, io::Result<Bytes>),
}

/// What the log says of an answer.
struct Decision {
    word: &'static str,
    reply: Option<String>,
    verdicts: Option<String>,
    envelope_done: Option<bool>,
    valid_for: Option<u32>,
}

impl Session {
    /// Waits for services and files; for ever if none works. Safe to cancel.
    pub(crate) async fn completed(&mut self) -> Result<Completed, JoinError> {
        match self.tasks.join_next().await {
            Some(completed) => completed,
            None => std::future::pending().await,
        }
    }

    /// Goes on with what was done, and with whatever else is done by now.
    pub(crate) fn handle_completed(
        &mut self,
        connection: &mut Connection,
        completed: Result<Completed, JoinError>,
    ) {
        let mut next = Some(completed);
        while let Some(completed) = next {
            match completed {
                Ok(Completed::Answered(xid, answer)) => self.answer(connection, xid, answer),
                Ok(Completed::Written(xid, written)) => self.written(connection, xid, written),
                Ok(Completed::Read(xid, read)) => self.read(connection, xid, read),
                Err(error) if error.is_cancelled() => {}
                Err(error) => self.fail(connection, &error),
            }
            next = self.tasks.try_join_next();
        }
        self.close_if_drained(connection);
    }

    /// When [`Session::handle_timeout`] wants to be called next.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.next_progress
    }

    /// Says that we are still at work where nothing was said for a while (profile section 7).
    pub(crate) fn handle_timeout(&mut self, connection: &mut Connection, now: Instant) {
        if self.next_progress.is_none_or(|next| now < next) {
            return;
        }
        let interval = self.server.config.timeouts.progress;
        for (xid, transaction) in &mut self.transactions {
            if let Stage::Working { progress, .. } = &mut transaction.stage
                && *progress <= now
            {
                *progress = now + interval;
                connection.report_progress(Some(*xid));
            }
        }
        self.next_progress = self.transactions.values().filter_map(Transaction::progress).min();
    }

    pub(super) fn start(&mut self, connection: &mut Connection, xid: Xid, group: GroupId) {
        let chain = match self.groups.get(&group) {
            Some(Ok(chain)) => chain.clone(),
            Some(Err(error)) => return refuse(connection, xid, &error.to_string(), false),
            None => return refuse(connection, xid, "there is no such service group", false),
        };
        let limit = self.access.limits().and_then(|limits| limits.transactions);
        if limit.is_some_and(|limit| self.transactions.len() >= limit) {
            return refuse(connection, xid, "too many transactions at a time", true);
        }
        let transaction =
            Transaction { chain, stage: Stage::Started, span: Span::none(), started: now() };
        self.transactions.insert(xid, transaction);
    }

    pub(super) fn receive(
        &mut self,
        connection: &mut Connection,
        xid: Xid,
        start: Option<OriginalStart>,
    ) {
        let limit = self.message_octets();
        let Some(transaction) = self.transactions.get_mut(&xid) else { return };
        let Some(start) = start else {
            return self.refuse(connection, xid, "the group has no SMTP command profile", false);
        };
        transaction.span = info_span!(
            "transaction",
            connection = self.id.number(),
            dialog = start.dialog.number(),
            xid = xid.number(),
            command = start.command.name(),
        );
        // What the processor keeps to itself needs no place here.
        let leave = connection.transaction_profile(xid).and_then(|profile| profile.leave_at_body);
        let announced = start.body_size.map(|size| leave.map_or(size, |leave| leave.min(size)));
        if announced.is_some_and(|size| size > limit) {
            return self.refuse(connection, xid, &too_large(limit), false);
        }
        self.server.change_dialog(self.id, start.dialog, |dialog| {
            dialog.latest = Some((xid, start.command.clone()));
        });
        let content = Box::new(Content::new(self.server.spool(), announced));
        transaction.stage =
            Stage::Receiving { start, content, is_complete: false, is_paused: false };
    }

    pub(super) fn collect(
        &mut self,
        connection: &mut Connection,
        xid: Xid,
        part: Option<Part>,
        octets: &[u8],
    ) {
        let limit = self.message_octets();
        let Some(transaction) = self.transactions.get_mut(&xid) else { return };
        let Some(content) = transaction.collecting() else { return };
        if content.len() + octets.len() > limit as usize {
            return self.refuse(connection, xid, &too_large(limit), false);
        }
        let taken = match part {
            Some(Part::MessageBody) => content.push_body(octets, self.server.spool()),
            _ => content.push_first(octets),
        };
        self.taken(connection, xid, taken);
    }

    /// Room for octets of the body that comes next, to be read straight to where they belong, if they
    /// are worth it. [`Session::put_back`] has to follow before anything else is done.
    pub(crate) fn take_room(&mut self, connection: &Connection) -> Option<BodyRoom> {
        let (xid, left) = connection.awaited_body()?;
        if left < STRAIGHT_OCTETS {
            return None;
        }
        let limit = self.message_octets() as usize;
        let content = self.transactions.get_mut(&xid)?.collecting()?;
        // What is too large is refused where all other octets come along.
        let most = limit.checked_sub(content.len()).filter(|most| *most >= left as usize)?;
        let room = content.take_room(most.min(left as usize), self.server.spool());
        Some(BodyRoom { xid, room })
    }

    /// Takes that room back, and what was read into it.
    pub(crate) fn put_back(&mut self, connection: &mut Connection, room: BodyRoom) {
        let BodyRoom { xid, room } = room;
        let transaction = self.transactions.get_mut(&xid);
        let Some(content) = transaction.and_then(Transaction::collecting) else { return };
        let is_empty = room.octets() == 0;
        let taken = content.put_back(room, self.server.spool());
        if !is_empty {
            self.taken(connection, xid, taken);
        }
    }

    /// Octets were taken, or there was no room for them.
    fn taken(&mut self, connection: &mut Connection, xid: Xid, taken: Result<(), Full>) {
        match taken {
            Ok(()) => self.write(connection, xid),
            Err(full) => self.refuse_full(connection, xid, full),
        }
    }

    /// Writes to the file what is due, and pauses the processor while the disk is behind.
    fn write(&mut self, connection: &mut Connection, xid: Xid) {
        let Some(transaction) = self.transactions.get_mut(&xid) else { return };
        let Stage::Receiving { content, is_complete, is_paused, .. } = &mut transaction.stage
        else {
            return;
        };
        let next = content.next_write(self.server.spool(), *is_complete);
        match content.is_behind() {
            true => self.behind = Some(xid),
            false => self.behind = self.behind.filter(|behind| *behind != xid),
        }
        match next {
            Ok(Some(write)) => {
                self.tasks.spawn_blocking(move || Completed::Written(xid, write.run()));
            }
            Ok(None) => {}
            Err(full) => return self.refuse_full(connection, xid, full),
        }
        if *is_complete {
            return;
        }
        // Both fail only if the transaction has ended meanwhile.
        if !*is_paused && content.should_pause() {
            *is_paused = true;
            let _ = connection.want_pause(xid, u32::try_from(content.len()).unwrap_or(u32::MAX));
        } else if *is_paused && content.may_go_on() {
            *is_paused = false;
            let _ = connection.want_more(xid, None);
        }
    }

    fn written(&mut self, connection: &mut Connection, xid: Xid, written: io::Result<Written>) {
        let Some(transaction) = self.transactions.get_mut(&xid) else { return };
        let Stage::Receiving { content, is_complete, .. } = &mut transaction.stage else { return };
        let is_complete = *is_complete;
        match written {
            Ok(written) => content.written(written),
            Err(error) => return self.refuse_io(connection, xid, &error),
        }
        self.write(connection, xid);
        if is_complete {
            self.ask(connection, xid);
        }
    }

    fn read(&mut self, connection: &mut Connection, xid: Xid, read: io::Result<Bytes>) {
        match read {
            Ok(octets) => self.send_on(connection, xid, Some(octets)),
            Err(error) => self.refuse_io(connection, xid, &error),
        }
    }

    fn refuse_full(&mut self, connection: &mut Connection, xid: Xid, full: Full) {
        self.refuse(connection, xid, &full.to_string(), true);
    }

    fn refuse_io(&mut self, connection: &mut Connection, xid: Xid, error: &io::Error) {
        let folder = self.server.config.spool.folder.display();
        error!(xid = xid.number(), %folder, cause = %error, "the spool failed");
        self.refuse(connection, xid, "the server's spool failed", true);
    }

    /// The original has ended.
    pub(super) fn work(&mut self, connection: &mut Connection, xid: Xid, result: &OcpResult) {
        if result.is_partial() && connection.rest_from(xid).is_none() {
            // A-18: never report an incomplete message as clean.
            return self.refuse(connection, xid, "the message is incomplete (AME 206)", false);
        }
        self.complete(connection, xid);
    }

    /// What has come of the original is what the services get.
    pub(super) fn complete(&mut self, connection: &mut Connection, xid: Xid) {
        let Some(transaction) = self.transactions.get_mut(&xid) else { return };
        let Stage::Receiving { is_complete: is_complete @ false, .. } = &mut transaction.stage
        else {
            return;
        };
        *is_complete = true;
        self.write(connection, xid);
        self.ask(connection, xid);
    }

    /// The services get the event, once all of it is where it belongs.
    fn ask(&mut self, connection: &mut Connection, xid: Xid) {
        let Some(transaction) = self.transactions.get_mut(&xid) else { return };
        let waits = |stage: &Stage| match stage {
            Stage::Receiving { content, .. } => !content.is_ready(),
            _ => true,
        };
        if waits(&transaction.stage) {
            return;
        }
        let stage = std::mem::replace(&mut transaction.stage, Stage::Started);
        let Stage::Receiving { start, content, .. } = stage else { return };
        let (first, body, held) = content.finish();
        let Some(dialog) = self.server.dialog(self.id, start.dialog) else { return };
        let (part, input) = match start.command {
            Command::Message => {
                let announced = start.body_size.map(|size| size as usize);
                let mail = match connection.rest_from(xid) {
                    None => Mail::new(first.clone(), body.clone()),
                    Some(_) => Mail::front(first.clone(), body.clone(), announced),
                };
                (Part::MessageHeader, Input::Content(Arc::new(mail)))
            }
            Command::Connect => (Part::Command, Input::Nothing),
            _ => match command_line(&start.command, &first) {
                Ok(line) => (Part::Command, Input::Line(line)),
                Err(reason) => return self.refuse(connection, xid, &reason, false),
            },
        };
        let profile = connection.transaction_profile(xid);
        let event = chain::Event {
            dialog: dialog.facts,
            observed: profile.is_some_and(|profile| profile.observed.contains(&start.command)),
            granted: profile.map_or(&[][..], |profile| &profile.side_effects).into(),
            abilities: Abilities {
                variants: profile.is_some_and(|profile| profile.multiple_messages),
                replies: profile.is_some_and(|profile| profile.recipient_replies),
                fallback: self.server.config.recipients_differ,
            },
            command: start.command,
            input,
            envelope: Envelope { sender: start.sender, recipients: start.recipients },
        };
        let chain = transaction.chain.clone();
        let original = Original { part, first, body, _held: held };
        let immediate = original.len() <= IMMEDIATE_OCTETS && chain.is_immediate(&event.command);
        let asked = async move { chain.run(event).await };
        let asked = asked.instrument(transaction.span.clone());
        if immediate {
            let mut asked = Box::pin(asked);
            let mut once = || asked.as_mut().poll(&mut Context::from_waker(Waker::noop()));
            match catch_unwind(AssertUnwindSafe(&mut once)) {
                Ok(Poll::Ready(answer)) => self.conclude(connection, xid, original, answer),
                // It waits for something after all: a task can be woken.
                Ok(Poll::Pending) => self.spawn(xid, original, asked),
                Err(_) => self.refuse(connection, xid, "the server failed", true),
            }
        } else {
            self.spawn(xid, original, asked);
        }
    }

    fn spawn(
        &mut self,
        xid: Xid,
        original: Original,
        asked: impl Future<Output = Answer> + Send + 'static,
    ) {
        let Some(transaction) = self.transactions.get_mut(&xid) else { return };
        let progress = now() + self.server.config.timeouts.progress;
        self.next_progress = Some(self.next_progress.map_or(progress, |next| next.min(progress)));
        let task = self.tasks.spawn(async move { Completed::Answered(xid, asked.await) });
        transaction.stage = Stage::Working { original, task, progress };
    }

    fn answer(&mut self, connection: &mut Connection, xid: Xid, answer: Answer) {
        let Some(transaction) = self.transactions.get_mut(&xid) else { return };
        let stage = std::mem::replace(&mut transaction.stage, Stage::Started);
        let Stage::Working { original, .. } = stage else { return };
        self.conclude(connection, xid, original, answer);
    }

    /// The services have answered: their answer goes out.
    fn conclude(
        &mut self,
        connection: &mut Connection,
        xid: Xid,
        original: Original,
        answer: Answer,
    ) {
        let decision = Decision::of(&answer);
        self.send(connection, xid, Outgoing::new(original, answer), decision);
    }

    /// Sends more of the answers that the peer did not take at once, each in its turn.
    pub(crate) fn send_more(&mut self, connection: &mut Connection) {
        for _ in 0..self.answering.len() {
            if connection.output().remaining() >= self.server.config.limits.unsent_octets {
                return;
            }
            let Some(xid) = self.answering.pop_front() else { return };
            self.send_on(connection, xid, None);
        }
        self.close_if_drained(connection);
    }

    /// Sends more of an answer, with octets that it waited for.
    fn send_on(&mut self, connection: &mut Connection, xid: Xid, read: Option<Bytes>) {
        let Some(transaction) = self.transactions.get_mut(&xid) else { return };
        let stage = std::mem::replace(&mut transaction.stage, Stage::Started);
        let Stage::Answering(waiting) = stage else { return };
        let (mut outgoing, decision) = *waiting;
        if let Some(octets) = read {
            outgoing.provide(octets);
        }
        self.send(connection, xid, outgoing, decision);
    }

    /// Sends as much of an answer as the peer takes; the rest waits.
    fn send(
        &mut self,
        connection: &mut Connection,
        xid: Xid,
        mut outgoing: Outgoing,
        decision: Decision,
    ) {
        let room = self.server.config.limits.unsent_octets;
        let Some(transaction) = self.transactions.get_mut(&xid) else { return };
        let entered = transaction.span.enter();
        match outgoing.send(connection, xid, room) {
            Ok(Sent::Full) => {
                drop(entered);
                transaction.stage = Stage::Answering(Box::new((outgoing, decision)));
                self.answering.push_back(xid);
                return;
            }
            Ok(Sent::Needs(octets)) => {
                drop(entered);
                transaction.stage = Stage::Answering(Box::new((outgoing, decision)));
                let read = move || Completed::Read(xid, octets.read(0..octets.len()));
                self.tasks.spawn_blocking(read);
                return;
            }
            Ok(Sent::All(traffic)) => info!(
                decision = decision.word,
                reply = decision.reply,
                verdicts = decision.verdicts,
                envelope_done = decision.envelope_done,
                valid_for = decision.valid_for,
                octets_received = traffic.received,
                octets_sent = traffic.sent,
                took_ms = milliseconds(transaction.started.elapsed()),
                "adapted"
            ),
            Err(misuse) => {
                error!(%misuse, "our answer broke a rule");
                refuse(connection, xid, "the server failed", true);
            }
        }
        drop(entered);
        self.transactions.remove(&xid);
        if let Some(body) = outgoing.into_memory() {
            self.server.spool().buffers.give_back(body);
        }
    }

    /// A task that ended without an answer, which no service can cause.
    fn fail(&mut self, connection: &mut Connection, error: &JoinError) {
        let failed = self.transactions.iter().find(|(_, transaction)| {
            matches!(&transaction.stage, Stage::Working { task, .. } if task.id() == error.id())
        });
        if let Some(xid) = failed.map(|(xid, _)| *xid) {
            self.refuse(connection, xid, "the server failed", true);
        }
    }

    /// Ends a transaction without an answer: the processor's failure policy decides.
    fn refuse(&mut self, connection: &mut Connection, xid: Xid, reason: &str, retry: bool) {
        self.behind = self.behind.filter(|behind| *behind != xid);
        if let Some(transaction) = self.transactions.remove(&xid) {
            let _entered = transaction.span.enter();
            warn!(
                xid = xid.number(),
                reason,
                took_ms = milliseconds(transaction.started.elapsed()),
                "refused"
            );
        }
        refuse(connection, xid, reason, retry);
    }

    /// The processor, a violation or a time-out ended it.
    pub(super) fn forget(&mut self, xid: Xid, result: &OcpResult) {
        self.behind = self.behind.filter(|behind| *behind != xid);
        let Some(transaction) = self.transactions.remove(&xid) else { return };
        if let Stage::Working { task, .. } = &transaction.stage {
            task.abort();
        }
        let _entered = transaction.span.enter();
        info!(
            xid = xid.number(),
            reason = result.reason(),
            took_ms = milliseconds(transaction.started.elapsed()),
            "ended without an answer"
        );
    }

    fn message_octets(&self) -> u32 {
        let limit = self.server.config.limits.message_octets;
        self.access.limits().and_then(|limits| limits.message_octets).unwrap_or(limit).min(limit)
    }
}

impl BodyRoom {
    /// Where the octets go; never full.
    pub(crate) fn free(&mut self) -> Limit<&mut BytesMut> {
        self.room.free()
    }
}

impl Decision {
    fn of(answer: &Answer) -> Self {
        let words = answer.branches.iter().map(|branch| match &branch.adapted {
            Adapted::Unchanged => "unchanged",
            Adapted::Command(_) | Adapted::Content(_) => "modified",
            Adapted::Reply(_) => "replied",
        });
        let word = if answer.branches.len() > 1 { "several" } else { words.last().unwrap_or("") };
        let Terms { envelope_done, validity } = &answer.terms;
        let envelope_done = envelope_done.then_some(true);
        let valid_for = validity.as_ref().map(|validity| validity.seconds);
        if !enabled!(Level::INFO) {
            return Self { word, reply: None, verdicts: None, envelope_done, valid_for };
        }
        let replies = answer.branches.iter().filter_map(|branch| match &branch.adapted {
            Adapted::Reply(reply) => Some(reply.to_string()),
            _ => None,
        });
        let replies: Vec<String> = replies.collect();
        let reply = (!replies.is_empty()).then(|| replies.join(", "));
        Self { word, reply, verdicts: Some(summary(answer)), envelope_done, valid_for }
    }
}

impl Transaction {
    /// Where octets of the event go, as long as any are wanted.
    fn collecting(&mut self) -> Option<&mut Content> {
        match &mut self.stage {
            Stage::Receiving { content, is_complete: false, .. } => Some(content),
            _ => None,
        }
    }

    fn progress(&self) -> Option<Instant> {
        match &self.stage {
            Stage::Working { progress, .. } => Some(*progress),
            _ => None,
        }
    }
}

fn refuse(connection: &mut Connection, xid: Xid, reason: &str, retry: bool) {
    let _ = connection.end_transaction(xid, &OcpResult::failure(reason), retry);
}

fn too_large(limit: u32) -> String {
    format!("the message has more than the {limit} octets that this server takes")
}

fn command_line(command: &Command, octets: &bytes::Bytes) -> Result<CommandLine, String> {
    let line = CommandLine::new(octets.clone()).map_err(|error| error.to_string())?;
    match line.command() {
        Some(verb) if verb == *command => Ok(line),
        _ => Err(format!("the command line is no {command}")),
    }
}

/// Every service's verdict in one line.
fn summary(answer: &Answer) -> String {
    let words = answer.verdicts.iter().map(|verdict| {
        let name = verdict.service.rsplit(|octet| *octet == b'/').next().unwrap_or_default();
        let text = |octets: &[u8]| String::from_utf8_lossy(octets).into_owned();
        let mut word = format!("{}={}", text(name), text(&verdict.verdict));
        for detail in [&verdict.score, &verdict.reason].into_iter().flatten() {
            word.push_str(&format!(" ({})", text(detail)));
        }
        word
    });
    words.collect::<Vec<_>>().join(", ")
}
