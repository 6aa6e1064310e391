//! Runs the services of a group over one event, one after the other.

mod concluding;
mod replies;
mod shadow;

use std::any::Any;
use std::borrow::Cow;
use std::ops::Range;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use ocp_proto::smtp::{
    Address, Command, CommandLine, DialogFacts, EffectName, Envelope, FailurePolicy, ProfileKind,
    Reply, Verdict, may_replace,
};
use ocp_proto::wire::Atom;
use opes_mta::telemetry::spans;
use services::mail::{Edits, Mail};
use services::{
    Change, Commitment, Content, Finding, Input, Notification, Outcome, Request, ServiceError,
};
use tracing::{Instrument, debug, warn};

use self::concluding::Conclusions;
use self::replies::{failure_reply, may_reply, refusable, replace};
use crate::branch::{self, Abilities, Branch};
use crate::bypass::{Bypass, Decision};
use crate::metrics::ServiceResult;
use crate::router::{Chain, Link};
use crate::terms::{Agreement, Terms};

/// One event, as the processor vectored it out.
#[derive(Clone, Debug)]
pub(crate) struct Event {
    pub(crate) dialog: Arc<DialogFacts>,
    pub(crate) command: Command,
    pub(crate) input: Input,
    pub(crate) envelope: Envelope,
    /// The side effects that were negotiated.
    pub(crate) granted: Arc<[EffectName]>,
    /// What the answer can say of several recipients.
    pub(crate) abilities: Abilities,
    /// Whether the processor does not wait for the answer: it can't be changed then.
    pub(crate) observed: bool,
    /// The services that its sender asks to skip.
    pub(crate) bypass: Bypass,
}

/// What the chain makes of an event.
#[derive(Debug)]
pub(crate) struct Answer {
    /// One, or several with disjoint recipients where these differ.
    pub(crate) branches: Vec<Branch>,
    /// New messages, whatever becomes of the branches that services were asked about.
    pub(crate) notifications: Vec<Notification>,
    pub(crate) verdicts: Vec<Verdict>,
    /// What services keep only if the event goes on with these branches.
    pub(crate) commitments: Vec<Commitment>,
    /// What it says beyond this event.
    pub(crate) terms: Terms,
}

/// What becomes of the event's octets.
#[derive(Clone, Debug)]
pub(crate) enum Adapted {
    /// They stay.
    Unchanged,
    /// Another command line.
    Command(CommandLine),
    /// Another version of the content.
    Content(Arc<Mail>),
    /// A reply instead of the event; of an event that is a reply, a refusal instead of a success.
    Reply(Reply),
    /// Of an event that is a reply, another one in its place.
    OtherReply(Reply),
}

/// What an answer is measured by, besides what was granted.
struct Measure {
    /// Nobody waits for the answer.
    observed: bool,
    /// The next hop's reply, if the event is one.
    original: Option<Reply>,
}

/// The most new messages of one event, whatever branches there are: a quarter of the adapted messages that a
/// connection takes. Worst case an event: that many times [`Notification::LARGEST`], 64 MiB, within the budget for
/// content.
const MOST_NOTIFICATIONS: usize = 64;

/// The longest reason that goes into a verdict, in octets.
const LONGEST_REASON: usize = 512;

impl Chain {
    /// Every interested service in its order, each seeing what the ones before it made. A reply
    /// ends its branch, so nothing later weakens a rejection.
    pub(crate) async fn run(&self, event: Event) -> Answer {
        let mut request = Request {
            dialog: event.dialog,
            command: event.command,
            input: Input::Nothing,
            envelope: event.envelope,
            parameters: Arc::default(),
            granted: event.granted,
            may_notify: false,
        };
        let may_notify =
            event.abilities.variants && request.command == Command::Message && !event.observed;
        let profile = event.input.profile();
        let original = match &event.input {
            Input::Reply { reply, .. } => Some(reply.clone()),
            _ => None,
        };
        let measure = Measure { observed: event.observed, original };
        let recipients = std::mem::take(&mut request.envelope.recipients);
        let command = request.command.clone();
        let mut conclusions = Conclusions::default();
        for link in self.interested(profile, &command).filter(|link| link.concludes()) {
            if event.bypass.of(&link.entry) != Some(Decision::Bypassed) {
                conclusions.add(link, &event.input);
            }
        }
        let mut branches = vec![Branch::new(recipients, event.input)];
        let (mut verdicts, mut notifications) = (Vec::new(), Vec::new());
        let mut agreement = Agreement::among(self.waiting(&command).count());
        for link in self.interested(profile, &command) {
            if let Some(bypass) = event.bypass.of(&link.entry) {
                verdicts.push(verdict(link.entry.uri(), bypass.finding(), Duration::ZERO));
                if bypass == Decision::Bypassed {
                    link.entry.metrics.bypassed(profile, &command);
                    // What is not asked agrees to nothing.
                    agreement.add(Terms::default(), link.waits(&command));
                    continue;
                }
            }
            if link.concludes() {
                // What is said at the end holds for this event alone.
                agreement.add(Terms::default(), link.waits(&command));
                continue;
            }
            if event.abilities.variants && link.distinguishes(&command) {
                branch::fork(&mut branches, |recipient| link.treatment(recipient, &command));
            }
            request.parameters = link.parameters.clone();
            request.may_notify = may_notify && link.entry.declaration.notifies;
            let mut said: Option<Terms> = None;
            for branch in &mut branches {
                if branch.has_ended() || !link.is_for(branch) {
                    continue;
                }
                let started = Instant::now();
                let (finding, terms) =
                    link.work(&mut request, branch, &mut notifications, &measure, started).await;
                conclusions.found(&link.entry.name, &finding);
                verdicts.push(verdict(link.entry.uri(), finding, started.elapsed()));
                said = Some(match said {
                    Some(said) => said.and(terms),
                    None => terms,
                });
            }
            // One that is not for these recipients says nothing.
            agreement.add(said.unwrap_or_default(), link.waits(&command));
            branch::join(&mut branches);
            if branches.iter().all(Branch::has_ended) {
                break;
            }
        }
        branch::settle(&mut branches, event.abilities, &request.granted);
        // They are an event's: there is one reply to each command (profile section 4).
        let mut terms = match profile {
            ProfileKind::Command => agreement.settle(&command),
            ProfileKind::Reply => Terms::default(),
        };
        // An effect is to be carried out each time that a service asks for it.
        if branches.iter().any(|branch| !branch.effects.is_empty()) {
            terms.validity = None;
        }
        conclusions.ask(request, &branches, may_notify, &mut verdicts, &mut notifications).await;
        // Those of a branch that reaches nobody end here.
        let mut commitments = Vec::new();
        for branch in &mut branches {
            let own = std::mem::take(&mut branch.commitments);
            if !branch.reaches_nobody() {
                commitments.extend(own);
            }
        }
        Answer { branches, notifications, verdicts, commitments, terms }
    }
}

impl Link {
    /// Whether it is told what the others have made of an event.
    fn concludes(&self) -> bool {
        self.entry.declaration.concludes
    }

    /// Whether recipients of this event may not be the same to it.
    fn distinguishes(&self, command: &Command) -> bool {
        self.entry.recipients.is_some() || self.may_treat_differently(command)
    }

    fn may_treat_differently(&self, command: &Command) -> bool {
        *command == Command::Message && self.entry.declaration.distinguishes_recipients
    }

    /// How it treats a recipient; `None` for whom it is not there.
    fn treatment(&self, recipient: &Address, command: &Command) -> Option<u64> {
        let named = self.entry.recipients.as_ref();
        named.is_none_or(|named| named.find(recipient).is_some()).then(|| {
            match self.may_treat_differently(command) {
                true => self.entry.service.treatment(recipient),
                false => 0,
            }
        })
    }

    /// Whether the service is for one of the branch's recipients; commands before the first
    /// recipient are for all services.
    fn is_for(&self, branch: &Branch) -> bool {
        let Some(named) = &self.entry.recipients else { return true };
        let is_named = |recipient: &Address| named.find(recipient).is_some();
        branch.recipients.is_empty() || branch.recipients.iter().any(is_named)
    }

    /// Asks the service about a branch, and does what it says.
    async fn work(
        &self,
        request: &mut Request,
        branch: &mut Branch,
        notifications: &mut Vec<Notification>,
        measure: &Measure,
        started: Instant,
    ) -> (Finding, Terms) {
        request.input = std::mem::replace(&mut branch.input, Input::Nothing);
        request.envelope.recipients = std::mem::take(&mut branch.recipients);
        let span = spans::service(&self.entry.name);
        let outcome =
            self.guarded(|| self.entry.service.handle(request)).instrument(span.clone()).await;
        branch.input = std::mem::replace(&mut request.input, Input::Nothing);
        branch.recipients = std::mem::take(&mut request.envelope.recipients);
        // A service that could not read all of it has judged something else.
        let outcome = outcome.and_then(|outcome| match &branch.input {
            Input::Content(mail) => Ok(mail.body().check().map(|()| outcome)?),
            Input::Line(_) | Input::Nothing | Input::Reply { .. } => Ok(outcome),
        });
        let profile = branch.input.profile();
        let change = outcome.as_ref().map(|outcome| ServiceResult::of(&outcome.change, profile));
        let result = change.unwrap_or(ServiceResult::Failed);
        let outcome = outcome.and_then(|outcome| match self.entry.shadow {
            true => Ok((shadow::finding(&self.entry.name, outcome), Terms::default())),
            false => self.apply(outcome, request, branch, notifications, measure),
        });
        let took = started.elapsed();
        match outcome {
            Ok((finding, terms)) => {
                let (service, verdict) = (&self.entry.name, &finding.verdict);
                debug!(service, %verdict, took_ms = milliseconds(took), "asked");
                spans::set(&span, "verdict", verdict);
                spans::set(&span, "result", result.name());
                self.entry.metrics.answered(profile, &request.command, result, took);
                (finding, terms)
            }
            // The policy decides, and for this event alone.
            Err(error) => {
                spans::failed(&span, error.stage);
                self.entry.metrics.failed(profile, &request.command, &error, took);
                let finding = self.fail(&error, took, &request.command, branch, measure);
                (finding, Terms::default())
            }
        }
    }

    /// What the service answers, within its deadline; a panic is a failure of this service alone.
    async fn guarded<'a, F: Future<Output = Result<Outcome, ServiceError>> + 'a>(
        &'a self,
        ask: impl FnOnce() -> F,
    ) -> Result<Outcome, ServiceError> {
        // It may panic before there is a future.
        let asked = AssertUnwindSafe(async { ask().await });
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
        request: &Request,
        branch: &mut Branch,
        notifications: &mut Vec<Notification>,
        measure: &Measure,
    ) -> Result<(Finding, Terms), ServiceError> {
        let Outcome {
            change,
            effects,
            notifications: new,
            commitments,
            finding,
            envelope_done,
            validity,
        } = outcome;
        let wrong = |cause: String| Err(ServiceError::new("answer", cause));
        let observed = measure.observed;
        if observed && !(change == Change::None && effects.is_empty() && new.is_empty()) {
            return wrong("an answer to an event that is only observed".to_owned());
        }
        if let Some(effect) = effects.iter().find(|effect| !request.may(effect.name())) {
            return wrong(format!("{} was not granted", effect.name()));
        }
        if let Some(cause) = self.too_much(&new, notifications.len(), request) {
            return wrong(cause);
        }
        if let Some(original) = &measure.original {
            return match replace(change, effects, request, original, branch) {
                Ok(()) => Ok((finding, Terms::default())),
                Err(cause) => wrong(cause),
            };
        }
        match change {
            Change::None => {}
            Change::Command(line) => {
                let is_command = matches!(branch.input, Input::Line(_));
                if !is_command || line.command().as_ref() != Some(&request.command) {
                    return wrong("another verb than the command's".to_owned());
                }
                branch.adapted = Adapted::Command(line.clone());
                branch.input = Input::Line(line);
            }
            Change::Content(edits) => {
                let Input::Content(mail) = &branch.input else {
                    return wrong("edits of an event without content".to_owned());
                };
                let content = self.entry.declaration.content;
                if let Some(range) = beyond(content, mail, &edits) {
                    return wrong(format!("an edit of octets {range:?}, beyond {content}"));
                }
                let mail = match mail.edited(&edits) {
                    Ok(mail) => Arc::new(mail),
                    Err(error) => return wrong(error.to_string()),
                };
                branch.adapted = Adapted::Content(mail.clone());
                branch.input = Input::Content(mail);
            }
            Change::Reply(reply) => {
                if !may_reply(&request.command, &reply, &effects) {
                    return wrong(format!("{} can't be answered by {reply}", request.command));
                }
                // What was asked for before concerns a message that is not taken.
                branch.effects.clear();
                branch.adapted = Adapted::Reply(reply);
            }
        }
        branch.effects.extend(effects);
        branch.commitments.extend(commitments);
        notifications.extend(new);
        // Nobody waits for the answer to an event that is only observed. A service for some recipients
        // is asked or not for recipients that no fact names.
        let terms = Terms {
            envelope_done: envelope_done && !observed,
            validity: validity.filter(|_| !observed && self.entry.recipients.is_none()),
        };
        Ok((finding, terms))
    }

    /// What is wrong with new messages, behind those that there are already.
    fn too_much(&self, new: &[Notification], before: usize, request: &Request) -> Option<String> {
        match new.len() {
            0 => None,
            _ if !self.entry.declaration.notifies => {
                Some("a notification, which it does not declare".to_owned())
            }
            _ if !request.may_notify => Some("a notification where there can be none".to_owned()),
            count if count > Notification::MOST => {
                Some(format!("{count} notifications, more than {}", Notification::MOST))
            }
            count if before + count > MOST_NOTIFICATIONS => {
                Some(format!("more than {MOST_NOTIFICATIONS} notifications of one event"))
            }
            _ => None,
        }
    }

    /// What a failure means for the mail, and the line in the log that says so.
    fn fail(
        &self,
        error: &ServiceError,
        took: Duration,
        command: &Command,
        branch: &mut Branch,
        measure: &Measure,
    ) -> Finding {
        let reply = failure_reply(self.entry.on_failure, command);
        let reply = reply.filter(|reply| match &measure.original {
            None => refusable(command),
            Some(original) => may_replace(command, original, reply, &[]).is_ok(),
        });
        let policy = match &reply {
            Some(_) if !measure.observed => self.entry.on_failure,
            _ => FailurePolicy::Accept,
        };
        warn!(
            service = self.entry.name,
            stage = error.stage,
            cause = error.cause,
            took_ms = milliseconds(took),
            policy = policy.name(),
            "service failed"
        );
        if let Some(reply) = reply.filter(|_| !measure.observed) {
            branch.effects.clear();
            branch.adapted = Adapted::Reply(reply);
        }
        Finding::new("failed").with_reason(format!("{error}; policy: {policy}"))
    }
}

/// The first edit beyond what a service needs. It may have seen more, but with other services in its
/// group it would not have.
fn beyond(content: Content, mail: &Mail, edits: &Edits) -> Option<Range<usize>> {
    let end = mail.header().len().saturating_add(content.body_octets()? as usize);
    edits.iter().map(|edit| edit.range.clone()).find(|range| range.end > end)
}

fn verdict(service: Atom, finding: Finding, took: Duration) -> Verdict {
    Verdict {
        service,
        verdict: printable(&finding.verdict),
        score: finding.score.as_deref().map(printable),
        reason: finding.reason.as_deref().map(printable),
        milliseconds: Some(milliseconds(took)),
    }
}

/// Text for logs and traces: bounded, without control characters.
fn printable(text: &str) -> Atom {
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
