//! Asking the callout server: the one way from an event to its adaptation.

use std::time::Duration;

use ocp_proto::smtp::{
    Command, DialogFacts, FailurePolicy, Reply, SideEffect, Validity, Verdict, may_replace,
};
use ocp_proto::{DialogId, Traffic, Xid};

use crate::apply::{Answer, Notification};
use crate::attempt::{Deadline, attempt, open_dialog};
use crate::event::Event;
use crate::group::NoServer;
use crate::ocp::{Asked, Client, ClientError, Dialog, ServerAddress};
use crate::room::Budget;

/// How long to wait and what to do when nothing comes of it.
#[derive(Clone, Debug)]
pub struct Policy {
    /// For the answer to a command, from its first octet on (profile section 7).
    pub command_deadline: Duration,
    /// For the answer to content, all in all (profile section 7).
    pub content_deadline: Duration,
    /// What happens when adaptation fails, if that is stricter than what the server says.
    pub on_failure: FailurePolicy,
    /// How many octets more than it was sent a server may return. Worst case an event: what it has in memory,
    /// and that much.
    pub answer_allowance: usize,
    /// What octets that a server sends anew take if they are more than that: where a message is in a file, as
    /// many as it has. Worst case twice that, while they grow.
    pub answers: Budget,
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
            answers: Budget::new(u64::MAX),
            reuse: true,
        }
    }
}

/// What a server made of an event; checked, and committed by its TE 200.
#[derive(Debug)]
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
    /// Who wants to know the outcome; `None` if there was no transaction, since nobody wanted the
    /// event or an earlier answer holds.
    pub asked: Option<Asked>,
    /// What it cost on the wire.
    pub traffic: Traffic,
    /// Octets of the event that the answer refers to (DUY): they did not come back.
    pub preserved: u64,
}

/// An event that could not be adapted; all of the answer is void.
#[derive(Debug, thiserror::Error)]
#[error("{command}, {stage}: {cause}")]
pub struct Failure {
    /// The event.
    pub command: Command,
    /// The server that was asked last, if there was one.
    pub server: Option<ServerAddress>,
    /// Its dialog, once that had begun.
    pub dialog: Option<DialogId>,
    /// Its transaction, once that had begun.
    pub xid: Option<Xid>,
    /// How far it had come.
    pub stage: Stage,
    /// What went wrong.
    pub cause: Cause,
    /// What to do about it: the stricter one of the server's policy and ours.
    pub policy: FailurePolicy,
    /// Servers that were asked.
    pub attempts: usize,
    /// How long all of it took.
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
    /// There was nobody to ask.
    #[error(transparent)]
    NoServer(#[from] NoServer),
    /// The server wants more of the body than any did when the mail server was told what to send.
    #[error("this server wants more of the body than the mail server was told to send")]
    BodyNotSent,
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
    let deadline = policy.deadline(event.has_content());
    let asked = attempt(dialog, event, policy, deadline).await;
    asked.map_err(|broken| {
        let failure = broken.into_failure(event.command.clone(), policy, deadline);
        failure.log(dialog.client().services());
        failure
    })
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
    let deadline = policy.deadline(false);
    let begun = open_dialog(client, facts, deadline).await;
    begun.map_err(|broken| {
        let failure = broken.into_failure(Command::Connect, policy, deadline);
        failure.log(client.services());
        failure
    })
}

impl Policy {
    /// From now on, for an event that is content or not.
    pub(crate) fn deadline(&self, content: bool) -> Deadline {
        Deadline::within(if content { self.content_deadline } else { self.command_deadline })
    }
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
            asked: None,
            traffic: Traffic::default(),
            preserved: 0,
        }
    }
}

impl Failure {
    /// What the peer gets; `None` if the event goes on as it is.
    pub fn reply(&self) -> Option<Reply> {
        failure_reply(self.policy)
    }

    /// What the peer gets instead of a next hop's reply that could not be adapted; `None` if that goes on,
    /// since the policy lets it or nothing else may stand in its place (profile section 4, "Replies").
    pub fn reply_instead_of(&self, original: &Reply) -> Option<Reply> {
        self.reply().filter(|reply| may_replace(&self.command, original, reply, &[]).is_ok())
    }

    /// The line in the log.
    pub(crate) fn log(&self, services: &[String]) {
        tracing::warn!(
            server = self.server.as_ref().map(tracing::field::display),
            services = %services.join(" "),
            dialog = self.dialog.map(DialogId::number),
            xid = self.xid.map(Xid::number),
            event = %self.command,
            stage = %self.stage,
            cause = %self.cause,
            attempts = self.attempts,
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
