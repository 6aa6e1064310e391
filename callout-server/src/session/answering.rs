//! What the services make of an event, and its way out.

use std::future::{Future, poll_fn};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::{Buf, Bytes};
use ocp_proto::smtp::{Command, CommandLine, Envelope, Part, Profile, ProfileKind, Reply, Verdict};
use ocp_proto::{Connection, Xid};
use opes_mta::telemetry::{self, spans};
use services::Input;
use services::mail::Mail;
use tracing::{Instrument, Level, enabled, error, info};

use super::Session;
use super::transaction::{Completed, Stage, refuse};
use crate::adapt::{Original, Outgoing, Sent};
use crate::branch::Abilities;
use crate::bypass::Bypass;
use crate::chain::{self, Adapted, Answer, milliseconds};
use crate::driver::now;
use crate::metrics::EventResult;
use crate::terms::Terms;

/// Events up to this size are worked on at once if their services say that they are quick.
const IMMEDIATE_OCTETS: usize = 64 * 1024;

/// What the log says of an answer.
pub(super) struct Decision {
    result: EventResult,
    reply: Option<String>,
    verdicts: Option<String>,
    notifications: Option<usize>,
    envelope_done: Option<bool>,
    valid_for: Option<u32>,
}

impl Session {
    /// The services get the event, once all of it is where it belongs.
    pub(super) fn ask(&mut self, connection: &mut Connection, xid: Xid) {
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
        let auxiliary = connection.auxiliary(xid) as usize;
        let kind = connection.transaction_profile(xid).map(Profile::kind).unwrap_or_default();
        let metrics = &self.server.metrics;
        metrics.content_received.inc_by((first.len() + body.len()) as u64);
        let (part, input) = match start.command {
            _ if kind == ProfileKind::Reply => match reply_of(&start.command, &first, auxiliary) {
                Ok(input) => (Part::Reply, input),
                Err(reason) => return self.refuse(connection, xid, &reason, false),
            },
            Command::Message => {
                let announced = start.body_size.map(|size| size as usize);
                let mail = match connection.rest_from(xid) {
                    None => Mail::new(first.clone(), body.clone()),
                    Some(_) => {
                        let left = announced.map_or(0, |all| all.saturating_sub(body.len()));
                        metrics.content_left.inc_by(left as u64);
                        Mail::front(first.clone(), body.clone(), announced)
                    }
                };
                (Part::MessageHeader, Input::Content(Arc::new(mail)))
            }
            Command::Connect => (Part::Command, Input::Nothing),
            _ => match command_line(&start.command, &first) {
                Ok(line) => (Part::Command, Input::Line(line)),
                Err(reason) => return self.refuse(connection, xid, &reason, false),
            },
        };
        self.recorder.ask(start.dialog, xid, &dialog.facts, &start.command, &input);
        let profile = connection.transaction_profile(xid);
        let event = chain::Event {
            dialog: dialog.facts,
            observed: profile.is_some_and(|profile| profile.observed().contains(&start.command)),
            granted: profile.map_or(&[][..], Profile::side_effects).into(),
            abilities: match (profile.and_then(Profile::as_command), &start.command) {
                (Some(profile), Command::Message) => Abilities {
                    variants: profile.multiple_messages,
                    replies: profile.recipient_replies,
                    fallback: self.generation.config.recipients_differ,
                },
                // Only content may have several answers (profile section 5).
                _ => Abilities::default(),
            },
            bypass: Bypass::new(start.bypass, &self.generation.config.router, &self.access),
            command: start.command,
            input,
            envelope: Envelope { sender: start.sender, recipients: start.recipients },
        };
        if let Some(id) = spans::queue_id(&event.dialog) {
            spans::set(&transaction.span, "queue_id", id);
        }
        let chain = transaction.chain.clone();
        let original = Original { part, first, auxiliary, body, held };
        let immediate =
            original.len() <= IMMEDIATE_OCTETS && chain.is_immediate(kind, &event.command);
        let asked = async move { chain.run(event).await };
        let mut asked = Box::pin(asked.instrument(transaction.span.clone()));
        if immediate {
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
        mut asked: Pin<Box<impl Future<Output = Answer> + Send + 'static>>,
    ) {
        let Some(transaction) = self.transactions.get_mut(&xid) else { return };
        let progress = now() + self.generation.config.timeouts.progress;
        self.next_progress = Some(self.next_progress.map_or(progress, |next| next.min(progress)));
        let asked = poll_fn(move |cx| {
            let polled = asked.as_mut().poll(cx);
            // Another thread may send the answer that its lines speak of.
            telemetry::flush();
            polled
        });
        let task = self.tasks.spawn(async move { Completed::Answered(xid, asked.await) });
        transaction.stage = Stage::Working { original, task, progress };
    }

    pub(super) fn answer(&mut self, connection: &mut Connection, xid: Xid, answer: Answer) {
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
        mut original: Original,
        mut answer: Answer,
    ) {
        let new = answer.notifications.iter();
        let octets = new.map(|new| new.header().len() + new.body().len()).sum();
        if let Err(full) = original.held.grow(octets) {
            return self.refuse(connection, xid, &full.to_string(), true);
        }
        if let Some(transaction) = self.transactions.get_mut(&xid) {
            transaction.commitments = std::mem::take(&mut answer.commitments);
            if let Some(dialog) = transaction.dialog {
                self.recorder.answer(dialog, xid, &answer);
            }
        }
        let decision = Decision::of(&answer);
        self.send(connection, xid, Outgoing::new(original, answer), decision);
    }

    /// Sends more of the answers that the peer did not take at once, each in its turn.
    pub(crate) fn send_more(&mut self, connection: &mut Connection) {
        for _ in 0..self.answering.len() {
            if connection.output().remaining() >= self.generation.config.limits.unsent_octets {
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
        let room = self.generation.config.limits.unsent_octets;
        let Some(transaction) = self.transactions.get_mut(&xid) else { return };
        let entered = transaction.span.enter();
        let (mut result, mut cause) = (EventResult::Refused, None);
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
            Ok(Sent::All(traffic)) => {
                result = decision.result;
                info!(
                    decision = decision.result.name(),
                    reply = decision.reply,
                    verdicts = decision.verdicts,
                    notifications = decision.notifications,
                    envelope_done = decision.envelope_done,
                    valid_for = decision.valid_for,
                    octets_received = traffic.received,
                    octets_sent = traffic.sent,
                    took_ms = milliseconds(transaction.started.elapsed()),
                    "adapted"
                );
            }
            Err(misuse) => {
                error!(%misuse, "our answer broke a rule");
                cause = Some("our answer broke a rule");
                refuse(connection, xid, "the server failed", true);
            }
        }
        drop(entered);
        spans::set(&transaction.span, "decision", result.name());
        self.server.metrics.content_reused.inc_by(outgoing.reused());
        if let Some(transaction) = self.transactions.remove(&xid) {
            if let Some(dialog) = transaction.dialog {
                self.recorder.end(dialog, xid, result, cause);
                if cause.is_none() {
                    self.unsettled.add(dialog, xid, transaction.commitments);
                }
            }
            transaction.open.end(result);
        }
        if let Some(body) = outgoing.into_memory() {
            self.generation.spool.buffers.give_back(body);
        }
    }

    pub(super) fn read(&mut self, connection: &mut Connection, xid: Xid, read: io::Result<Bytes>) {
        match read {
            Ok(octets) => self.send_on(connection, xid, Some(octets)),
            Err(error) => self.refuse_io(connection, xid, &error),
        }
    }
}

impl Decision {
    fn of(answer: &Answer) -> Self {
        let results = answer.branches.iter().map(|branch| EventResult::of(&branch.adapted));
        let result = match answer.branches.len() {
            0 | 1 => results.last().unwrap_or(EventResult::Unchanged),
            _ => EventResult::Several,
        };
        let Terms { envelope_done, validity } = &answer.terms;
        let envelope_done = envelope_done.then_some(true);
        let notifications = Some(answer.notifications.len()).filter(|count| *count > 0);
        let valid_for = validity.as_ref().map(|validity| validity.seconds);
        if !enabled!(Level::INFO) {
            let (reply, verdicts) = (None, None);
            return Self { result, reply, verdicts, notifications, envelope_done, valid_for };
        }
        let replies = answer.branches.iter().filter_map(|branch| match &branch.adapted {
            Adapted::Reply(reply) | Adapted::OtherReply(reply) => Some(reply.to_string()),
            _ => None,
        });
        let replies: Vec<String> = replies.collect();
        let reply = (!replies.is_empty()).then(|| replies.join(", "));
        Self {
            result,
            reply,
            verdicts: Some(Verdict::summary(&answer.verdicts)),
            notifications,
            envelope_done,
            valid_for,
        }
    }
}

/// A reply, and the command before it if that is there.
fn reply_of(command: &Command, octets: &Bytes, auxiliary: usize) -> Result<Input, String> {
    let (line, reply) = (octets.slice(..auxiliary), octets.slice(auxiliary..));
    let line = match line.is_empty() {
        true => None,
        false => Some(command_line(command, &line)?),
    };
    let reply = Reply::parse(reply).map_err(|error| error.to_string())?;
    Ok(Input::Reply { reply, line })
}

fn command_line(command: &Command, octets: &bytes::Bytes) -> Result<CommandLine, String> {
    let line = CommandLine::new(octets.clone()).map_err(|error| error.to_string())?;
    match line.command() {
        Some(verb) if verb == *command => Ok(line),
        _ => Err(format!("the command line is no {command}")),
    }
}
