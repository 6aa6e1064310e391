//! Runs the services of a group over one event, one after the other.

use std::any::Any;
use std::borrow::Cow;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::FutureExt;
use ocp_proto::smtp::{
    Command, CommandLine, DialogFacts, EffectName, Envelope, FailurePolicy, Reply, SideEffect,
    Verdict,
};
use services::mail::Mail;
use services::{Change, Finding, Input, Outcome, Request, ServiceError};
use tracing::{debug, warn};

use crate::router::{Chain, Link};

/// One event, as the processor vectored it out.
#[derive(Clone, Debug)]
pub(crate) struct Event {
    pub(crate) dialog: Arc<DialogFacts>,
    pub(crate) command: Command,
    pub(crate) input: Input,
    pub(crate) envelope: Envelope,
    /// The side effects that were negotiated.
    pub(crate) granted: Arc<[EffectName]>,
    /// Whether the processor does not wait for the answer: it can't be changed then.
    pub(crate) observed: bool,
}

/// What the chain makes of an event.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) adapted: Adapted,
    pub(crate) effects: Vec<SideEffect>,
    pub(crate) verdicts: Vec<Verdict>,
}

/// What becomes of the event's octets.
#[derive(Debug)]
pub(crate) enum Adapted {
    /// They stay.
    Unchanged,
    /// Another command line.
    Command(CommandLine),
    /// Another version of the content.
    Content(Arc<Mail>),
    /// A reply instead of the event.
    Reply(Reply),
}

/// The longest reason that goes into a verdict, in octets.
const LONGEST_REASON: usize = 512;

impl Chain {
    /// Every interested service in its order, each seeing what the ones before it made. A reply
    /// ends the chain, so nothing later weakens a rejection.
    pub(crate) async fn run(&self, event: Event) -> Answer {
        let mut answer =
            Answer { adapted: Adapted::Unchanged, effects: Vec::new(), verdicts: Vec::new() };
        let mut request = Request {
            dialog: event.dialog,
            command: event.command,
            input: event.input,
            envelope: event.envelope,
            parameters: Arc::default(),
            granted: event.granted,
        };
        for link in self.interested(&request.command.clone()) {
            request.parameters = link.parameters.clone();
            let started = Instant::now();
            let outcome = match link.ask(&request).await {
                Ok(outcome) => link.apply(outcome, &mut request, &mut answer, event.observed),
                Err(error) => Err(error),
            };
            let took = started.elapsed();
            let finding = match outcome {
                Ok(finding) => {
                    debug!(service = link.entry.name, verdict = %finding.verdict, took_ms = milliseconds(took), "asked");
                    finding
                }
                Err(error) => {
                    link.fail(&error, took, &request.command, &mut answer, event.observed)
                }
            };
            answer.verdicts.push(verdict(link.entry.uri(), finding, took));
            if matches!(answer.adapted, Adapted::Reply(_)) {
                break;
            }
        }
        answer
    }
}

impl Link {
    /// Asks the service, within its deadline; a panic is a failure of this service alone.
    async fn ask(&self, request: &Request) -> Result<Outcome, ServiceError> {
        let asked = AssertUnwindSafe(async { self.entry.service.handle(request).await });
        match tokio::time::timeout(self.entry.deadline, asked.catch_unwind()).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(panic)) => Err(ServiceError::new("panic", panic_message(&*panic))),
            Err(_) => {
                let cause = format!("no answer within {} s", self.entry.deadline.as_secs());
                Err(ServiceError::new("deadline", cause))
            }
        }
    }

    /// Takes over what the service answered; an answer beyond what it may say counts as a failure
    /// and changes nothing.
    fn apply(
        &self,
        outcome: Outcome,
        request: &mut Request,
        answer: &mut Answer,
        observed: bool,
    ) -> Result<Finding, ServiceError> {
        let Outcome { change, effects, finding } = outcome;
        let wrong = |cause: String| Err(ServiceError::new("answer", cause));
        if observed && !(change == Change::None && effects.is_empty()) {
            return wrong("an answer to an event that is only observed".to_owned());
        }
        if let Some(effect) = effects.iter().find(|effect| !request.may(effect.name())) {
            return wrong(format!("{} was not granted", effect.name()));
        }
        let (adapted, next) = match change {
            Change::None => (None, None),
            Change::Command(line) => {
                if request.line().is_none() || line.command().as_ref() != Some(&request.command) {
                    return wrong("another verb than the command's".to_owned());
                }
                (Some(Adapted::Command(line.clone())), Some(Input::Line(line)))
            }
            Change::Content(edits) => {
                let Some(mail) = request.mail() else {
                    return wrong("edits of an event without content".to_owned());
                };
                let mail = match mail.edited(&edits) {
                    Ok(mail) => Arc::new(mail),
                    Err(error) => return wrong(error.to_string()),
                };
                (Some(Adapted::Content(mail.clone())), Some(Input::Content(mail)))
            }
            Change::Reply(reply) => {
                if !may_reply(&request.command, &reply, &effects) {
                    return wrong(format!("{} can't be answered by {reply}", request.command));
                }
                // What was asked for before concerns a message that is not taken.
                answer.effects.clear();
                (Some(Adapted::Reply(reply)), None)
            }
        };
        if let Some(adapted) = adapted {
            answer.adapted = adapted;
        }
        if let Some(input) = next {
            request.input = input;
        }
        answer.effects.extend(effects);
        Ok(finding)
    }

    /// What a failure means for the mail, and the line in the log that says so.
    fn fail(
        &self,
        error: &ServiceError,
        took: Duration,
        command: &Command,
        answer: &mut Answer,
        observed: bool,
    ) -> Finding {
        let policy = match refusable(command) && !observed {
            true => self.entry.on_failure,
            false => FailurePolicy::Accept,
        };
        warn!(
            service = self.entry.name,
            stage = error.stage,
            cause = error.cause,
            took_ms = milliseconds(took),
            policy = policy.name(),
            "service failed"
        );
        if let Some(reply) = failure_reply(policy, command) {
            answer.effects.clear();
            answer.adapted = Adapted::Reply(reply);
        }
        Finding::new("failed").with_reason(format!("{error}; policy: {policy}"))
    }
}

/// Whether this reply may stand instead of executing the command (profile section 4).
fn may_reply(command: &Command, reply: &Reply, effects: &[SideEffect]) -> bool {
    match command {
        Command::StartTls => !reply.is_success(),
        Command::Message if reply.is_success() => effects.iter().any(|effect| {
            use EffectName::{Discard, Hold, Quarantine};
            matches!(effect.name(), Discard | Hold | Quarantine)
        }),
        Command::Mail | Command::Rcpt | Command::Data | Command::Message => {
            reply.is_temporary() || reply.is_permanent()
        }
        _ => !matches!(reply.code(), 334 | 354),
    }
}

/// Whether an SMTP client can be told that this failed, so that it tries again or gives up.
fn refusable(command: &Command) -> bool {
    !matches!(command, Command::Rset | Command::Noop | Command::Quit | Command::StartTls)
}

/// What the peer gets when a service failed (RFC 3463 section 3.4: X.3.0, "other mail system
/// status").
fn failure_reply(policy: FailurePolicy, command: &Command) -> Option<Reply> {
    let (code, enhanced, text) = match (policy, command) {
        (FailurePolicy::Accept, _) => return None,
        // RFC 5321 section 3.1: a server that refuses the session says 421 or 554.
        (FailurePolicy::Tempfail, Command::Connect | Command::Helo) => {
            (421, "4.3.0", "Mail inspection is not available now, try again later")
        }
        (FailurePolicy::Tempfail, _) => {
            (451, "4.3.0", "Mail inspection is not available now, try again later")
        }
        (FailurePolicy::Reject, _) => (554, "5.3.0", "Mail inspection failed, mail refused"),
    };
    Reply::new(code, enhanced, text).ok()
}

fn verdict(service: Bytes, finding: Finding, took: Duration) -> Verdict {
    Verdict {
        service,
        verdict: printable(&finding.verdict),
        score: finding.score.as_deref().map(printable),
        reason: finding.reason.as_deref().map(printable),
        milliseconds: Some(milliseconds(took)),
    }
}

/// Text for logs and traces: bounded, without control characters.
fn printable(text: &str) -> Bytes {
    let mut end = text.len().min(LONGEST_REASON);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let text = text.get(..end).unwrap_or_default();
    let text: Cow<'_, str> = match text.contains(char::is_control) {
        true => text.replace(char::is_control, " ").into(),
        false => text.into(),
    };
    text.into_owned().into()
}

pub(crate) fn milliseconds(took: Duration) -> u32 {
    u32::try_from(took.as_millis()).unwrap_or(u32::MAX).min(ocp_proto::MAXIMUM)
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default()
}

#[cfg(test)]
mod tests;
