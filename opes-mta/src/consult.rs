//! Asking the callout server: the one way from an event to its adaptation.

use std::time::Duration;

use ocp_proto::smtp::{Command, DialogFacts, FailurePolicy, Reply, SideEffect, Validity, Verdict};
use ocp_proto::{DialogId, OcpResult, OriginalStart, Traffic, Xid};
use tokio::time::{Instant, timeout_at};

use crate::apply::{Answer, AnswerError, Assembly, Checked, Notification};
use crate::event::{Content, Event};
use crate::kept::Kept;
use crate::ocp::{Client, ClientError, Dialog, Ended};

/// How long to wait and what to do when nothing comes of it.
#[derive(Clone, Debug)]
pub struct Policy {
    /// For the answer to a command, from its first octet on (profile section 7).
    pub command_deadline: Duration,
    /// For the answer to content, all in all (profile section 7).
    pub content_deadline: Duration,
    /// What happens when adaptation fails, if that is stricter than what the server says.
    pub on_failure: FailurePolicy,
    /// How many octets more than it was sent a server may return. Worst case an event: the size of
    /// its content and that much.
    pub answer_allowance: usize,
    /// Whether answers that still hold are used again, see [`crate::reuse`].
    pub reuse: bool,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            command_deadline: Duration::from_secs(20),
            content_deadline: Duration::from_secs(80),
            on_failure: FailurePolicy::Accept,
            answer_allowance: 1024 * 1024,
            reuse: true,
        }
    }
}

/// What a server made of an event; checked, and committed by its TE 200.
#[derive(Clone, Debug)]
pub struct Adaptation {
    /// What becomes of its octets.
    pub answer: Answer,
    /// What to do besides, in this order; only what was offered.
    pub effects: Vec<SideEffect>,
    /// What each service found.
    pub verdicts: Vec<Verdict>,
    /// New messages to be submitted.
    pub notifications: Vec<Notification>,
    /// Whether the services want no more events of this envelope: RCPT, DATA and MESSAGE.
    pub envelope_done: bool,
    /// How long the answer may be used again; `None` if it may not.
    pub validity: Option<Validity>,
    /// Whether it is an earlier answer, used again: nobody was asked.
    pub reused: bool,
    /// The transaction, for [`Dialog::report`]; `None` if there was none, since nobody wanted the
    /// event or an earlier answer holds.
    pub xid: Option<Xid>,
    /// What it cost on the wire.
    pub traffic: Traffic,
}

/// An event that could not be adapted; all of the answer is void.
#[derive(Debug, thiserror::Error)]
#[error("{command}, {stage}: {cause}")]
pub struct Failure {
    /// The event.
    pub command: Command,
    /// The transaction, once it had begun.
    pub xid: Option<Xid>,
    /// How far it had come.
    pub stage: Stage,
    /// What went wrong.
    pub cause: Cause,
    /// What to do about it: the stricter one of the server's policy and ours.
    pub policy: FailurePolicy,
    /// Whether another server may try.
    pub retry: bool,
    /// How long it took.
    pub elapsed: Duration,
    /// What it cost on the wire.
    pub traffic: Traffic,
}

/// How far a transaction has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The dialog or the transaction begins.
    Start,
    /// The event goes out.
    Send,
    /// All is sent, nothing has come back.
    Wait,
    /// The answer comes in.
    Receive,
    /// The answer is there and is checked.
    Check,
}

/// Why an event could not be adapted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Cause {
    /// The deadline passed.
    #[error("no answer within {0:?}")]
    Deadline(Duration),
    /// The server, the connection, the protocol between, or the answer.
    #[error(transparent)]
    Client(#[from] ClientError),
}

/// Asks the services about an event.
///
/// Events that the server does not want cost nothing and stay as they are. The answer to an event
/// that the server only observes changes nothing. An earlier answer that holds for this event costs
/// nothing either.
///
/// # Errors
/// When the answer is late, missing or void. [`Failure::policy`] says what to do; a line in the log
/// says what happened.
pub async fn consult(
    dialog: &Dialog,
    event: &Event,
    policy: &Policy,
) -> Result<Adaptation, Failure> {
    let profile = dialog.client().profile();
    if !profile.commands.contains(&event.command) {
        return Ok(Adaptation::unchanged());
    }
    let begin = Instant::now();
    let answers = policy.reuse.then(|| dialog.client().reusable());
    if let Some(adaptation) = answers.and_then(|known| known.find(event, dialog.facts(), begin)) {
        let event = &event.command;
        tracing::debug!(dialog = dialog.id().number(), %event, "an earlier answer holds");
        return Ok(adaptation);
    }
    let limit =
        if event.command.has_content() { policy.content_deadline } else { policy.command_deadline };
    let attempt = Attempt { dialog, event, policy, limit, deadline: begin + limit };
    let adaptation = attempt.run().await.map_err(|broken| {
        let on_failure = failure_policy(dialog.client(), policy);
        let failure = broken.into_failure(event.command.clone(), on_failure, begin.elapsed());
        failure.log(dialog.client(), Some(dialog.id()));
        failure
    })?;
    if let Some(answers) = answers {
        answers.keep(event, dialog.facts(), &adaptation, begin);
    }
    Ok(adaptation)
}

/// Starts a dialog.
///
/// # Errors
/// As [`consult`]; the event is CONNECT.
pub async fn begin(
    client: &Client,
    facts: DialogFacts,
    policy: &Policy,
) -> Result<Dialog, Failure> {
    let begin = Instant::now();
    let limit = policy.command_deadline;
    let started = timeout_at(begin + limit, client.start_dialog(facts)).await;
    let cause = match started {
        Ok(Ok(dialog)) => return Ok(dialog),
        Ok(Err(error)) => error.into(),
        Err(_) => Cause::Deadline(limit),
    };
    let on_failure = failure_policy(client, policy);
    let broken = Broken::new(Stage::Start, cause);
    let failure = broken.into_failure(Command::Connect, on_failure, begin.elapsed());
    failure.log(client, None);
    Err(failure)
}

/// The stricter of the server's policy and ours (profile section 2, On-Failure).
pub fn failure_policy(client: &Client, policy: &Policy) -> FailurePolicy {
    client.profile().on_failure.unwrap_or_default().max(policy.on_failure)
}

impl Adaptation {
    /// An event that stays as it is.
    pub fn unchanged() -> Self {
        Self {
            answer: Answer::Unchanged,
            effects: Vec::new(),
            verdicts: Vec::new(),
            notifications: Vec::new(),
            envelope_done: false,
            validity: None,
            reused: false,
            xid: None,
            traffic: Traffic::default(),
        }
    }
}

impl Failure {
    /// What the peer gets; `None` if the event goes on as it is.
    pub fn reply(&self) -> Option<Reply> {
        failure_reply(self.policy)
    }

    fn log(&self, client: &Client, dialog: Option<DialogId>) {
        tracing::warn!(
            server = %client.server(),
            services = %client.services().join(" "),
            dialog = dialog.map(DialogId::number),
            xid = self.xid.map(Xid::number),
            event = %self.command,
            stage = %self.stage,
            cause = %self.cause,
            milliseconds = u64::try_from(self.elapsed.as_millis()).unwrap_or(u64::MAX),
            policy = %self.policy,
            "adaptation failed"
        );
    }
}

/// What a peer gets when its mail can't be adapted.
pub fn failure_reply(policy: FailurePolicy) -> Option<Reply> {
    let (code, enhanced, text) = match policy {
        FailurePolicy::Accept => return None,
        FailurePolicy::Tempfail => (451, "4.3.0", "Message could not be checked, try again later"),
        FailurePolicy::Reject => (554, "5.3.0", "Message could not be checked"),
    };
    Reply::new(code, enhanced, text).ok()
}

impl std::fmt::Display for Stage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Start => "start",
            Self::Send => "sending",
            Self::Wait => "waiting for the answer",
            Self::Receive => "receiving the answer",
            Self::Check => "checking the answer",
        })
    }
}

/// One transaction.
struct Attempt<'a> {
    dialog: &'a Dialog,
    event: &'a Event,
    policy: &'a Policy,
    limit: Duration,
    deadline: Instant,
}

/// A transaction that came to nothing.
struct Broken {
    xid: Option<Xid>,
    stage: Stage,
    cause: Cause,
    retry: bool,
    traffic: Traffic,
}

impl Attempt<'_> {
    async fn run(&self) -> Result<Adaptation, Broken> {
        let mut kept = Kept::default();
        self.event.parts().for_each(|(part, octets)| kept.push(part, octets));
        let answer = Assembly::new(kept, self.policy.answer_allowance);
        let mut transaction = self.dialog.transact(self.start(), answer);
        let (ended, late) = match timeout_at(self.deadline, transaction.ended()).await {
            Ok(ended) => (ended, None),
            Err(_) => {
                let cause = Cause::Deadline(self.limit);
                (transaction.give_up(cause.to_string()).await, Some(cause))
            }
        };
        let Ended { xid, result, sent, answered, retry, traffic } = ended;
        let stage = match (xid, answered, sent) {
            (None, ..) => Stage::Start,
            (_, true, _) => Stage::Receive,
            (_, false, true) => Stage::Wait,
            (_, false, false) => Stage::Send,
        };
        let broken = |stage, cause| Broken { xid, stage, cause, retry, traffic };
        let answer = match (result, late) {
            (Ok(answer), _) => answer,
            (Err(_), Some(cause)) => return Err(broken(stage, cause)),
            (Err(error), None) => return Err(broken(stage, error.into())),
        };
        match answer.finish(self.event) {
            Ok(checked) => Ok(self.adaptation(checked, xid, traffic)),
            Err(error) => Err(broken(Stage::Check, self.void(xid, error))),
        }
    }

    fn start(&self) -> OriginalStart {
        let Event { command, content, envelope, bypass } = self.event;
        let body = match content {
            Content::Message(message) => u32::try_from(message.body.len()).ok(),
            _ => None,
        };
        OriginalStart {
            sender: envelope.sender.clone(),
            recipients: envelope.recipients.clone(),
            bypass: bypass.clone(),
            body_size: body,
            ..OriginalStart::new(self.dialog.id(), command.clone())
        }
    }

    /// An answer that the server has committed and that can't be carried out: it is told so.
    fn void(&self, xid: Option<Xid>, error: AnswerError) -> Cause {
        if let Some(xid) = xid {
            self.dialog.report(xid, OcpResult::failure(error.to_string()), None);
        }
        ClientError::from(error).into()
    }

    fn adaptation(&self, checked: Checked, xid: Option<Xid>, traffic: Traffic) -> Adaptation {
        let observed = &self.dialog.client().profile().observed;
        if observed.contains(&self.event.command) {
            let verdicts = checked.verdicts;
            return Adaptation { verdicts, xid, traffic, ..Adaptation::unchanged() };
        }
        let Checked { answer, effects, verdicts, notifications, envelope_done, validity } = checked;
        Adaptation {
            answer,
            effects,
            verdicts,
            notifications,
            envelope_done,
            validity,
            reused: false,
            xid,
            traffic,
        }
    }
}

impl Broken {
    fn new(stage: Stage, cause: Cause) -> Self {
        Self { xid: None, stage, cause, retry: false, traffic: Traffic::default() }
    }

    fn into_failure(self, command: Command, policy: FailurePolicy, elapsed: Duration) -> Failure {
        let Self { xid, stage, cause, retry, traffic } = self;
        Failure { command, xid, stage, cause, policy, retry, elapsed, traffic }
    }
}
