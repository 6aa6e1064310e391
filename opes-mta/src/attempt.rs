//! One attempt at an event: a transaction with one server.

use std::time::Duration;

use ocp_proto::smtp::{Command, DialogFacts, FailurePolicy, Part};
use ocp_proto::{DialogId, Misuse, OcpResult, OriginalStart, Traffic, Xid};
use tokio::time::{Instant, timeout_at};
use tracing::Span;

use crate::apply::{AnswerError, Assembly, Checked};
use crate::consult::{Adaptation, Cause, Failure, Policy, Stage};
use crate::event::{Content, Event, Message};
use crate::kept::Kept;
use crate::ocp::{Client, ClientError, Dialog, Ended, ServerAddress, Transaction};
use crate::telemetry::spans;

/// A span of time that ends.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadline {
    pub(crate) begin: Instant,
    pub(crate) end: Instant,
}

/// An attempt that came to nothing.
#[derive(Debug)]
pub(crate) struct Broken {
    server: ServerAddress,
    dialog: Option<DialogId>,
    xid: Option<Xid>,
    pub(crate) stage: Stage,
    pub(crate) cause: Cause,
    /// Whether the server says that another one may try.
    retry: bool,
    /// What the server says about failures.
    pub(crate) on_failure: FailurePolicy,
    pub(crate) traffic: Traffic,
}

/// What an attempt that came to nothing says of its server, the worst last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Blame {
    /// Nothing: it has answered, and the answer is that the services failed, or is void.
    Answered,
    /// It takes nothing more now, or nothing more from us.
    Refused,
    /// It is late.
    Late,
    /// The connection to it is over.
    Lost,
}

impl Deadline {
    /// From now on.
    pub(crate) fn within(limit: Duration) -> Self {
        let begin = Instant::now();
        Self { begin, end: begin + limit }
    }

    /// The earlier one of two ends.
    pub(crate) fn or_at(self, other: Instant) -> Self {
        Self { end: self.end.min(other), ..self }
    }

    pub(crate) fn has_passed(self) -> bool {
        Instant::now() >= self.end
    }

    /// That it has passed.
    pub(crate) fn cause(self) -> Cause {
        Cause::Deadline(self.end.saturating_duration_since(self.begin))
    }
}

/// Asks one server about an event, unless it does not want it or an earlier answer of its holds.
pub(crate) async fn attempt(
    dialog: &Dialog,
    event: &Event,
    policy: &Policy,
    deadline: Deadline,
) -> Result<Adaptation, Broken> {
    let profile = dialog.client().profile();
    if profile.kind() != event.profile() || !profile.commands().contains(&event.command) {
        return Ok(Adaptation::unchanged());
    }
    let begin = Instant::now();
    let answers = policy.reuse.then(|| dialog.client().reusable());
    if let Some(adaptation) = answers.and_then(|known| known.find(event, dialog.facts(), begin)) {
        let event = &event.command;
        tracing::debug!(dialog = dialog.id().number(), %event, "an earlier answer holds");
        return Ok(adaptation);
    }
    if !is_enough(dialog, event) {
        return Err(not_begun(dialog.client(), Some(dialog.id()), Cause::BodyNotSent));
    }
    let mut transaction = transact(dialog, event, policy);
    let adaptation = conclude(&mut transaction, event, deadline).await?;
    if let Some(answers) = answers {
        answers.keep(event, dialog.facts(), &adaptation, begin);
    }
    Ok(adaptation)
}

/// Starts a dialog.
pub(crate) async fn open_dialog(
    client: &Client,
    facts: DialogFacts,
    deadline: Deadline,
) -> Result<Dialog, Broken> {
    let cause = match timeout_at(deadline.end, client.start_dialog(facts)).await {
        Ok(Ok(dialog)) => return Ok(dialog),
        Ok(Err(error)) => error.into(),
        Err(_) => deadline.cause(),
    };
    Err(not_begun(client, None, cause))
}

/// Whether there is as much of the event as the server wants to see.
pub(crate) fn is_enough(dialog: &Dialog, event: &Event) -> bool {
    let Content::Message(Message { body, .. }) = &event.content else { return true };
    let profile = dialog.client().profile().as_command();
    let wanted = profile.and_then(|profile| profile.leave_at_body);
    !body.is_cut() || wanted.is_some_and(|wanted| wanted as usize <= body.len())
}

/// No transaction was started.
fn not_begun(client: &Client, dialog: Option<DialogId>, cause: Cause) -> Broken {
    Broken {
        server: client.server().clone(),
        dialog,
        xid: None,
        stage: Stage::Start,
        cause,
        retry: false,
        on_failure: on_failure(client),
        traffic: Traffic::default(),
    }
}

/// Sends an event. Its place among the events of the dialog is settled; the answer is in
/// [`conclude`].
pub(crate) fn transact(dialog: &Dialog, event: &Event, policy: &Policy) -> Transaction {
    dialog.transact(start(dialog, event), kept(dialog, event, policy))
}

/// The same of an event that is only watched.
pub(crate) fn show(dialog: &Dialog, event: &Event, policy: &Policy) -> Transaction {
    match event.command {
        // The server learns what it clears by its outcome, which has to come before the next event.
        Command::StartTls => transact(dialog, event, policy),
        _ => dialog.show(start(dialog, event), kept(dialog, event, policy)),
    }
}

/// What is kept of an event, for its answer to refer to.
fn kept(dialog: &Dialog, event: &Event, policy: &Policy) -> Assembly {
    let mut kept = Kept::default();
    // The command before a reply is for those who want to see it.
    let reply = dialog.client().profile().as_reply();
    let hides_command = reply.is_some_and(|profile| !profile.shows_command());
    let parts = event.parts().filter(|(part, _)| !(hides_command && *part == Part::Command));
    parts.for_each(|(part, octets)| kept.push(part, octets));
    if matches!(&event.content, Content::Message(message) if message.body.is_cut()) {
        kept.cut();
    }
    Assembly::new(kept, policy.answer_allowance, policy.answers.room())
}

/// Waits for the answer to an event, and checks it.
pub(crate) async fn conclude(
    transaction: &mut Transaction,
    event: &Event,
    deadline: Deadline,
) -> Result<Adaptation, Broken> {
    let (ended, late) = match timeout_at(deadline.end, transaction.ended()).await {
        Ok(ended) => (ended, None),
        Err(_) => {
            let cause = deadline.cause();
            (transaction.give_up(cause.to_string()).await, Some(cause))
        }
    };
    let Ended { xid, result, sent, answered, retry, traffic } = ended;
    let span = Span::current();
    spans::set(&span, "dialog", transaction.dialog().number());
    if let Some(xid) = xid {
        spans::set(&span, "xid", xid.number());
    }
    let stage = match (xid, answered, sent) {
        (None, ..) => Stage::Start,
        (_, true, _) => Stage::Receive,
        (_, false, true) => Stage::Wait,
        (_, false, false) => Stage::Send,
    };
    let (client, dialog) = (transaction.client(), Some(transaction.dialog()));
    let server = client.server().clone();
    let on_failure = on_failure(client);
    let broken =
        |stage, cause| Broken { server, dialog, xid, stage, cause, retry, on_failure, traffic };
    let answer = match (result, late) {
        (Ok(answer), _) => answer,
        (Err(_), Some(cause)) => return Err(broken(stage, cause)),
        (Err(error), None) => return Err(broken(stage, error.into())),
    };
    let asked = xid.map(|xid| transaction.asked(xid));
    match answer.finish(event) {
        Ok(checked) => {
            let observed = client.profile().observed().contains(&event.command);
            let adaptation = if observed { watched(checked) } else { adaptation(checked) };
            Ok(Adaptation { asked, traffic, ..adaptation })
        }
        // The server has committed what can't be carried out: it is told so.
        Err(error) => {
            if let Some(asked) = asked {
                asked.report(OcpResult::failure(error.to_string()), None);
            }
            Err(broken(Stage::Check, void(error)))
        }
    }
}

fn start(dialog: &Dialog, event: &Event) -> OriginalStart {
    let Event { command, content, envelope, bypass } = event;
    let body = match content {
        Content::Message(Message { body, .. }) if !body.is_cut() => u32::try_from(body.len()).ok(),
        _ => None,
    };
    OriginalStart {
        sender: envelope.sender.clone(),
        recipients: envelope.recipients.clone(),
        bypass: bypass.clone(),
        body_size: body,
        ..OriginalStart::new(dialog.id(), command.clone())
    }
}

/// Before negotiation, and without a word on it, tempfail (profile section 2).
fn on_failure(client: &Client) -> FailurePolicy {
    client.profile().on_failure().unwrap_or_default()
}

fn void(error: AnswerError) -> Cause {
    ClientError::from(error).into()
}

/// Of an event that is only watched nothing changes.
fn watched(checked: Checked) -> Adaptation {
    let Checked { verdicts, preserved, .. } = checked;
    Adaptation { verdicts, preserved, ..Adaptation::unchanged() }
}

fn adaptation(checked: Checked) -> Adaptation {
    let Checked { answer, effects, verdicts, notifications, envelope_done, validity, preserved } =
        checked;
    Adaptation {
        answer,
        effects,
        verdicts,
        notifications,
        envelope_done,
        validity,
        preserved,
        ..Adaptation::unchanged()
    }
}

impl Broken {
    /// What it says of the server.
    pub(crate) fn blame(&self) -> Blame {
        match &self.cause {
            Cause::Client(ClientError::Closed(_)) => Blame::Lost,
            Cause::Client(ClientError::Misuse(Misuse::Over)) => Blame::Lost,
            Cause::Client(ClientError::DialogEnded(_)) => Blame::Refused,
            Cause::Client(ClientError::Misuse(
                Misuse::Draining | Misuse::Limit(_) | Misuse::Exhausted,
            )) => Blame::Refused,
            Cause::Client(ClientError::Failed(_)) if self.retry => Blame::Refused,
            Cause::Client(_) => Blame::Answered,
            Cause::Deadline(_) => Blame::Late,
            Cause::NoServer(_) | Cause::BodyNotSent => Blame::Answered,
        }
    }

    /// What the caller gets, unless there was more than this attempt.
    pub(crate) fn into_failure(
        self,
        command: Command,
        policy: &Policy,
        deadline: Deadline,
    ) -> Failure {
        let Self { server, dialog, xid, stage, cause, on_failure, traffic, .. } = self;
        // What we lack for now is no matter of the services.
        let is_ours = matches!(
            cause,
            Cause::BodyNotSent
                | Cause::Client(
                    ClientError::Unreadable(_) | ClientError::Answer(AnswerError::NoRoom)
                )
        );
        Failure {
            command,
            server: Some(server),
            dialog,
            xid,
            stage,
            cause,
            policy: if is_ours {
                FailurePolicy::Tempfail
            } else {
                on_failure.max(policy.on_failure)
            },
            attempts: 1,
            elapsed: deadline.begin.elapsed(),
            traffic,
        }
    }
}
