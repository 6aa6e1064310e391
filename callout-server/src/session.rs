//! One OCP connection: its groups, dialogs and transactions.
//!
//! ```text
//!               TS           AMS             AME           services done             all sent
//! transaction ─────▶ Started ────▶ Receiving ────▶ Working ──────────────▶ Answering ──────────▶ TE
//! ```
//!
//! Services work in tasks of their own, or at once if they are quick; the session only collects octets
//! and hands answers on.

use std::collections::{HashSet, VecDeque};
use std::fs::File;
use std::future::Future;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use bytes::{Buf, Bytes};
use ocp_proto::smtp::{
    COMMAND_PROFILE, Command, CommandLine, CommandProfile, DIALOG, DialogFeature, Envelope, Part,
    REPLY_PROFILE, TLS,
};
use ocp_proto::wire::{Structure, Value};
use ocp_proto::{
    Closed, Connection, DialogId, Event, GroupId, IdMap, OcpResult, Offer, OriginalStart, Response,
    Xid, feature_uri,
};
use services::Input;
use services::mail::Mail;
use tokio::task::{AbortHandle, JoinError, JoinSet};
use tracing::{Instrument, Level, Span, debug, enabled, error, info, info_span, warn};

use crate::access::{Access, Peer};
use crate::adapt::{Original, Outgoing, Sent};
use crate::branch::Abilities;
use crate::chain::{self, Adapted, Answer, milliseconds};
use crate::driver::now;
use crate::router::{Chain, UnknownService};
use crate::server::{ConnectionId, Server};
use crate::spool::{Content, Full};

/// Events up to this size are worked on at once if their services say that they are quick.
const IMMEDIATE_OCTETS: usize = 64 * 1024;

/// The application behind one [`Connection`].
pub(crate) struct Session {
    id: ConnectionId,
    server: Arc<Server>,
    peer: Peer,
    access: Access,
    opening: Opening,
    groups: IdMap<GroupId, Result<Arc<Chain>, UnknownService>>,
    dialogs: HashSet<DialogId>,
    transactions: IdMap<Xid, Transaction>,
    tasks: JoinSet<Completed>,
    /// Those whose answers the peer has not taken whole.
    answering: VecDeque<Xid>,
    /// No sign of life is due before that.
    next_progress: Option<Instant>,
    draining: bool,
}

/// What the processor may do with TLS now (profile section 9).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Opening {
    /// It has to negotiate it before anything else.
    TlsFirst,
    /// It may, since nothing else was agreed on.
    TlsPossible,
    /// It is too late for it, there is none, or it is done.
    Past,
}

/// One event on its way through the services.
struct Transaction {
    chain: Arc<Chain>,
    stage: Stage,
    span: Span,
    started: Instant,
}

enum Stage {
    Started,
    Receiving { start: OriginalStart, content: Content, is_complete: bool, is_paused: bool },
    Working { original: Original, task: AbortHandle, progress: Instant },
    Answering { outgoing: Outgoing, decision: Decision, is_reading: bool },
}

/// What was done for a transaction, away from the connection.
pub(crate) enum Completed {
    /// Its services have answered.
    Answered(Xid, Answer),
    /// Octets of its content are in the file.
    Written(Xid, io::Result<Arc<File>>),
    /// Octets of its content were read from the file.
    Read(Xid, io::Result<Bytes>),
}

/// What the log says of an answer.
struct Decision {
    word: &'static str,
    reply: Option<String>,
    verdicts: Option<String>,
}

impl Session {
    /// A session for a connection that has just been accepted. Without `access` TLS has to come
    /// first.
    pub(crate) fn new(
        id: ConnectionId,
        server: Arc<Server>,
        peer: Peer,
        access: Option<Access>,
    ) -> Self {
        let opening = match access {
            None => Opening::TlsFirst,
            Some(_) if server.config.tls.is_some() && peer.names.is_none() => Opening::TlsPossible,
            Some(_) => Opening::Past,
        };
        Self {
            id,
            server,
            peer,
            access: access.unwrap_or_default(),
            opening,
            groups: IdMap::default(),
            dialogs: HashSet::new(),
            transactions: IdMap::default(),
            tasks: JoinSet::new(),
            answering: VecDeque::new(),
            next_progress: None,
            draining: false,
        }
    }

    /// TLS is there, and says whom we have to do with.
    pub(crate) fn identify(&mut self, connection: &mut Connection, names: Vec<String>) {
        self.opening = Opening::Past;
        self.peer.names = Some(names);
        // Its place among those of a rule for plain text is free.
        self.access = Access::default();
        match self.server.admit(&self.peer) {
            Ok(access) => self.access = access.inspect(Access::record).unwrap_or_default(),
            Err(refusal) => connection.close(OcpResult::failure(refusal.to_string())),
        }
    }

    /// Acts on what happened on the connection.
    pub(crate) fn handle(&mut self, connection: &mut Connection, event: Event) {
        let opens = matches!(event, Event::Started | Event::Offered(_) | Event::Closed(_));
        if self.opening == Opening::TlsFirst && !opens {
            return self.want_tls(connection);
        }
        match event {
            Event::Offered(offer) => self.answer_offer(connection, &offer),
            Event::GroupCreated { group, services } => self.create_group(group, &services),
            Event::GroupDestroyed { group } => {
                self.groups.remove(&group);
            }
            Event::DialogStarted { dialog, .. } if self.draining => {
                let _ = connection.end_dialog(dialog, OcpResult::failure("the server is stopping"));
            }
            Event::DialogStarted { dialog, .. } if self.has_all_dialogs() => {
                let _ = connection.end_dialog(dialog, OcpResult::failure("too many dialogs"));
            }
            Event::DialogStarted { dialog, facts } => {
                self.dialogs.insert(dialog);
                self.server.start_dialog(self.id, dialog, facts);
            }
            Event::DialogUpdated { dialog, update } => {
                self.server.change_dialog(self.id, dialog, |known| {
                    Arc::make_mut(&mut known.facts).update(update);
                });
            }
            Event::DialogOutcome { dialog, xid, result, .. } => {
                self.server.change_dialog(self.id, dialog, |known| match &known.latest {
                    Some((latest, command)) if *latest == xid && result.is_success() => {
                        Arc::make_mut(&mut known.facts).after(command);
                    }
                    _ => {}
                });
            }
            Event::DialogEnded { dialog, .. } => {
                self.dialogs.remove(&dialog);
                self.server.end_dialog(self.id, dialog);
            }
            Event::TransactionStarted { xid, group } => self.start(connection, xid, group),
            Event::OriginalStarted { xid, start } => self.receive(connection, xid, start),
            Event::Data { xid, part, octets } => self.collect(connection, xid, part, &octets),
            Event::OriginalEnded { xid, result } => self.work(connection, xid, &result),
            Event::TransactionEnded { xid, result, .. } => self.forget(xid, &result),
            Event::Closed(closed) => self.log_end(&closed),
            // What is left is for processors, or a wish that the answer need not follow.
            _ => {}
        }
        self.close_if_drained(connection);
    }

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

    /// Takes no new dialogs; the connection ends with its last dialog and transaction.
    pub(crate) fn drain(&mut self, connection: &mut Connection) {
        self.draining = true;
        let _ = connection.drain();
        self.close_if_drained(connection);
    }

    fn close_if_drained(&self, connection: &mut Connection) {
        if self.draining && self.dialogs.is_empty() && connection.transactions() == 0 {
            connection.close(OcpResult::ok());
        }
    }

    fn want_tls(&self, connection: &mut Connection) {
        warn!("the processor did not negotiate TLS");
        connection.close(OcpResult::failure(format!("TLS has to be negotiated first ({TLS})")));
    }

    fn has_all_dialogs(&self) -> bool {
        let limit = self.access.limits().and_then(|limits| limits.dialogs);
        limit.is_some_and(|limit| self.dialogs.len() >= limit)
    }

    fn message_octets(&self) -> u32 {
        let limit = self.server.config.limits.message_octets;
        self.access.limits().and_then(|limits| limits.message_octets).unwrap_or(limit).min(limit)
    }

    fn answer_offer(&mut self, connection: &mut Connection, offer: &Offer) {
        let mut response = Response::default();
        for feature in &offer.features {
            let selected = match feature_uri(feature) {
                Some(uri) if uri == TLS.as_bytes() => self.select_tls(offer),
                _ if self.opening == Opening::TlsFirst => None,
                Some(uri) if uri == DIALOG.as_bytes() => select_dialogs(offer, feature),
                Some(uri) if uri == COMMAND_PROFILE.as_bytes() => {
                    self.select_commands(offer, feature)
                }
                Some(uri) if uri == REPLY_PROFILE.as_bytes() => None,
                _ => {
                    response.unknowns.push(named_only(feature));
                    continue;
                }
            };
            match selected {
                Some(selected) => {
                    response.feature = Some(selected);
                    break;
                }
                None => response.rejects.push(named_only(feature)),
            }
        }
        if response.feature.is_some() {
            self.opening = Opening::Past;
        } else if self.opening == Opening::TlsFirst {
            return self.want_tls(connection);
        }
        if let Err(misuse) = connection.respond(response) {
            error!(%misuse, "our response broke a rule");
        }
    }

    fn select_tls(&self, offer: &Offer) -> Option<Structure> {
        let possible = self.opening != Opening::Past && offer.group.is_none();
        possible.then(|| Structure { members: vec![Value::atom(TLS)], ..Structure::default() })
    }

    /// The command profile is one group's: what its services want of what was offered.
    fn select_commands(&self, offer: &Offer, feature: &Structure) -> Option<Structure> {
        let chain = self.groups.get(&offer.group?)?.as_ref().ok()?;
        let mut offered = CommandProfile::from_structure(feature)?;
        offered.side_effects.retain(|effect| self.access.has_effect(*effect));
        let selected = chain.profile(&offered);
        for (service, effect) in chain.missing_effects(&offered) {
            info!(
                service = service.name,
                %effect,
                "a side effect that the service can ask for is not offered, or not allowed"
            );
        }
        debug!(services = ?chain.names(), profile = ?selected, "negotiated");
        Some(selected.to_structure())
    }

    fn create_group(&mut self, group: GroupId, services: &[Structure]) {
        self.opening = Opening::Past;
        let chain = self.server.config.router.chain(services, &self.access).map(Arc::new);
        if let Err(error) = &chain {
            warn!(group = group.number(), %error, "its transactions will be refused");
        }
        self.groups.insert(group, chain);
    }

    fn start(&mut self, connection: &mut Connection, xid: Xid, group: GroupId) {
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

    fn receive(&mut self, connection: &mut Connection, xid: Xid, start: Option<OriginalStart>) {
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
        if start.body_size.is_some_and(|size| size > limit) {
            return self.refuse(connection, xid, &too_large(limit), false);
        }
        self.server.change_dialog(self.id, start.dialog, |dialog| {
            dialog.latest = Some((xid, start.command.clone()));
        });
        let content = Content::new(self.server.spool(), start.body_size);
        transaction.stage =
            Stage::Receiving { start, content, is_complete: false, is_paused: false };
    }

    fn collect(
        &mut self,
        connection: &mut Connection,
        xid: Xid,
        part: Option<Part>,
        octets: &[u8],
    ) {
        let limit = self.message_octets();
        let Some(transaction) = self.transactions.get_mut(&xid) else { return };
        let Stage::Receiving { content, .. } = &mut transaction.stage else { return };
        if content.len() + octets.len() > limit as usize {
            return self.refuse(connection, xid, &too_large(limit), false);
        }
        let taken = match part {
            Some(Part::MessageBody) => content.push_body(octets, self.server.spool()),
            _ => content.push_first(octets),
        };
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
        match content.next_write(self.server.spool(), *is_complete) {
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

    fn written(&mut self, connection: &mut Connection, xid: Xid, written: io::Result<Arc<File>>) {
        let Some(transaction) = self.transactions.get_mut(&xid) else { return };
        let Stage::Receiving { content, is_complete, .. } = &mut transaction.stage else { return };
        let is_complete = *is_complete;
        match written {
            Ok(file) => content.written(file),
            Err(error) => return self.refuse_io(connection, xid, &error),
        }
        self.write(connection, xid);
        if is_complete {
            self.ask(connection, xid);
        }
    }

    fn read(&mut self, connection: &mut Connection, xid: Xid, read: io::Result<Bytes>) {
        let Some(transaction) = self.transactions.get_mut(&xid) else { return };
        let Stage::Answering { outgoing, is_reading, .. } = &mut transaction.stage else { return };
        match read {
            Ok(octets) => {
                *is_reading = false;
                outgoing.provide(octets);
                self.send_or_wait(connection, xid);
            }
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

    /// The event is complete.
    fn work(&mut self, connection: &mut Connection, xid: Xid, result: &OcpResult) {
        let Some(transaction) = self.transactions.get_mut(&xid) else { return };
        let Stage::Receiving { is_complete, .. } = &mut transaction.stage else { return };
        if result.is_partial() {
            // A-18: never report an incomplete message as clean.
            return self.refuse(connection, xid, "the message is incomplete (AME 206)", false);
        }
        *is_complete = true;
        self.write(connection, xid);
        self.ask(connection, xid);
    }

    /// The services get the event, once all of it is where it belongs.
    fn ask(&mut self, connection: &mut Connection, xid: Xid) {
        let Some(transaction) = self.transactions.get_mut(&xid) else { return };
        let stage = std::mem::replace(&mut transaction.stage, Stage::Started);
        let Stage::Receiving { start, content, is_complete, is_paused } = stage else { return };
        let (first, body, held) = match content.finish() {
            Ok(finished) => finished,
            Err(content) => {
                transaction.stage = Stage::Receiving { start, content, is_complete, is_paused };
                return;
            }
        };
        let Some(dialog) = self.server.dialog(self.id, start.dialog) else { return };
        let (part, input) = match start.command {
            Command::Message => {
                let mail = Mail::new(first.clone(), body.clone());
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
        let Some(transaction) = self.transactions.get_mut(&xid) else { return };
        let decision = Decision::of(&answer);
        let outgoing = Outgoing::new(original, answer);
        transaction.stage = Stage::Answering { outgoing, decision, is_reading: false };
        self.send_or_wait(connection, xid);
    }

    fn send_or_wait(&mut self, connection: &mut Connection, xid: Xid) {
        if !self.send(connection, xid) {
            self.answering.push_back(xid);
        }
    }

    /// Sends more of the answers that the peer did not take at once, each in its turn.
    pub(crate) fn send_more(&mut self, connection: &mut Connection) {
        for _ in 0..self.answering.len() {
            if connection.output().remaining() >= self.server.config.limits.unsent_octets {
                return;
            }
            let Some(xid) = self.answering.pop_front() else { return };
            self.send_or_wait(connection, xid);
        }
        self.close_if_drained(connection);
    }

    /// Sends as much of an answer as the peer takes; `false` if there is more to send when it takes
    /// more.
    fn send(&mut self, connection: &mut Connection, xid: Xid) -> bool {
        let room = self.server.config.limits.unsent_octets;
        let Some(transaction) = self.transactions.get_mut(&xid) else { return true };
        let Stage::Answering { outgoing, decision, is_reading } = &mut transaction.stage else {
            return true;
        };
        if *is_reading {
            return true;
        }
        let _entered = transaction.span.enter();
        match outgoing.send(connection, xid, room) {
            Ok(Sent::Full) => return false,
            Ok(Sent::Needs(octets)) => {
                *is_reading = true;
                let read = move || Completed::Read(xid, octets.read(0..octets.len()));
                self.tasks.spawn_blocking(read);
                return true;
            }
            Ok(Sent::All(traffic)) => info!(
                decision = decision.word,
                reply = decision.reply,
                verdicts = decision.verdicts,
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
        drop(_entered);
        let ended = self.transactions.remove(&xid).map(|transaction| transaction.stage);
        if let Some(Stage::Answering { outgoing, .. }) = ended
            && let Some(body) = outgoing.into_memory()
        {
            self.server.spool().buffers.give_back(body);
        }
        true
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
    fn forget(&mut self, xid: Xid, result: &OcpResult) {
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

    fn log_end(&self, closed: &Closed) {
        match closed {
            Closed::ByUs => debug!("connection ended by us"),
            Closed::ByPeer(result) if result.is_success() => debug!("connection ended by the peer"),
            Closed::ByPeer(result) => warn!(reason = result.reason(), "the peer gave up"),
            Closed::Lost { mid_message } => info!(mid_message, "connection lost"),
            Closed::Violation(violation) => warn!(%violation, "the peer broke a rule"),
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        for dialog in &self.dialogs {
            self.server.end_dialog(self.id, *dialog);
        }
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
        if !enabled!(Level::INFO) {
            return Self { word, reply: None, verdicts: None };
        }
        let replies = answer.branches.iter().filter_map(|branch| match &branch.adapted {
            Adapted::Reply(reply) => Some(reply.to_string()),
            _ => None,
        });
        let replies: Vec<String> = replies.collect();
        let reply = (!replies.is_empty()).then(|| replies.join(", "));
        Self { word, reply, verdicts: Some(summary(answer)) }
    }
}

impl Transaction {
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

/// Dialogs are the connection's, in version 1.
fn select_dialogs(offer: &Offer, feature: &Structure) -> Option<Structure> {
    let offered = DialogFeature::from_structure(feature)?;
    let possible = offer.group.is_none() && offered.version >= 1;
    possible.then(|| DialogFeature { version: 1 }.to_structure())
}

/// A feature by its URI alone, for Rejects and Unknowns.
fn named_only(feature: &Structure) -> Structure {
    let members = feature.members.iter().take(1).cloned().collect();
    Structure { members, ..Structure::default() }
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
