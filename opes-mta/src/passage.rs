//! The way of one SMTP dialog's events through the groups that the rules choose.
//!
//! Groups are asked one after the other, each about what the ones before it made of the event: about each version of
//! a message, if recipients get different ones. A reply ends a version's way, so nothing later weakens a rejection.

mod reply;

use std::sync::Arc;
use std::time::Duration;

use ocp_proto::smtp::{
    Address, Command, DialogFacts, DialogUpdate, FailurePolicy, ProfileKind, Reply, SideEffect,
    Verdict,
};
use ocp_proto::wire::Atom;
use ocp_proto::{OcpResult, Traffic};
use tokio::time::Instant;
use tracing::{Instrument, Span};

pub use self::reply::{MOST_RETRIES, ReplyAdvice, ReplyEvent, Retry};
use crate::apply::{Answer, Notification};
use crate::bypass;
use crate::config::{Config, Known, Origin, RecipientsDiffer};
use crate::consult::{Adaptation, Failure};
use crate::event::Event;
use crate::group::Consultation;
use crate::ocp::{Asked, learn};
use crate::processor::Processor;
use crate::shadow::Shadow;
use crate::telemetry::spans;
use crate::versions::{Version, keep_refused, one_for_all, together};

/// One SMTP dialog.
#[derive(Debug)]
pub struct Passage {
    processor: Arc<Processor>,
    listen: String,
    origin: Origin,
    facts: DialogFacts,
    /// Unique in the log, but for chance.
    number: u64,
    /// Messages that have begun.
    messages: u32,
    span: Span,
    /// By the group's position; a dialog with it begins with the first event for it.
    ways: Vec<Option<Way>>,
}

/// How a group is asked.
#[derive(Debug)]
enum Way {
    /// Its answers take effect.
    Effective(Box<Consultation>),
    /// The log says what it would have done.
    Shadow(Shadow),
    /// It is not asked about this dialog: the sample has left it out.
    LeftOut,
}

/// The sender and the recipients, as the client gave them and the MTA accepted them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Accepted<'a> {
    /// From MAIL on.
    pub sender: Option<&'a Address>,
    /// Those before this event.
    pub recipients: &'a [Address],
    /// At RCPT, the one that it names.
    pub recipient: Option<&'a Address>,
}

/// What the groups made of an event; committed by all of them.
#[derive(Debug)]
pub struct Advice {
    /// What becomes of its octets.
    pub answer: Answer,
    /// What to do besides, in this order.
    pub effects: Vec<SideEffect>,
    /// What each service found.
    pub verdicts: Vec<Verdict>,
    /// New messages that the services want to have submitted.
    pub notifications: Vec<Notification>,
    /// Whether no group wants more events of this envelope.
    pub envelope_done: bool,
    /// The rule that chose the groups; `None` while that is open.
    pub rule: Option<String>,
    /// What it cost on the wire.
    pub traffic: Traffic,
    /// How long it took.
    pub took: Duration,
    /// Groups that failed, and whose policy lets the event pass.
    pub failures: Vec<String>,
    /// What happens if recipients can't have versions of their own: what the group says that made them.
    differ: Option<RecipientsDiffer>,
    asked: Vec<Asked>,
}

impl Passage {
    pub(crate) fn new(
        processor: Arc<Processor>,
        listen: &str,
        origin: Origin,
        facts: DialogFacts,
        number: u64,
    ) -> Self {
        let ways = processor.config().groups.iter().map(|_| None).collect();
        let span = spans::dialog(listen, &facts, format_args!("{number:012x}"));
        let listen = listen.to_owned();
        Self { processor, listen, origin, facts, number, messages: 0, span, ways }
    }

    /// What is known of the dialog.
    pub fn facts(&self) -> &DialogFacts {
        &self.facts
    }

    /// What traces name the message by: the MTA's queue id, or else what the log calls it.
    pub fn trace_id(&self) -> String {
        let queue_id = self.facts.queue_id.as_deref();
        queue_id.map_or_else(|| self.id(), |id| String::from_utf8_lossy(id).into_owned())
    }

    /// The message is done with; the next one has another queue id.
    pub fn end_message(&mut self) {
        self.facts.queue_id = None;
    }

    /// Where its client is.
    pub fn origin(&self) -> Origin {
        self.origin
    }

    /// What the log calls the message that began last, whoever looks at it: the dialog, and the message's
    /// number in it; 0 before the first one.
    pub fn id(&self) -> String {
        format!("{:012x}.{}", self.number, self.messages)
    }

    /// What is learnt later.
    pub fn update(&mut self, update: DialogUpdate) {
        learn(&mut self.facts, update.clone());
        for way in self.ways.iter_mut().flatten() {
            match way {
                Way::Effective(consultation) => consultation.update(update.clone()),
                Way::Shadow(shadow) => shadow.update(update.clone()),
                Way::LeftOut => {}
            }
        }
    }

    /// Asks the groups about an event. One that fails and lets the event pass has no say; what the others make of
    /// it holds.
    ///
    /// # Errors
    /// The first failure of a group that does not: nothing of the others' answers takes effect then.
    pub async fn ask(&mut self, event: Event, accepted: Accepted<'_>) -> Result<Advice, Failure> {
        self.messages += u32::from(event.command == Command::Mail);
        let id = self.id();
        let span = spans::event(&self.span, &event.command, &id, &self.facts);
        let advice = self.ask_groups(event, accepted, id).instrument(span.clone()).await;
        match &advice {
            Ok(advice) => spans::set(&span, "answer", advice.answer.name()),
            Err(failure) => spans::failed(&span, failure.stage),
        }
        advice
    }

    async fn ask_groups(
        &mut self,
        event: Event,
        accepted: Accepted<'_>,
        id: String,
    ) -> Result<Advice, Failure> {
        let begin = Instant::now();
        let processor = Arc::clone(&self.processor);
        let limits = &processor.config().limits;
        let limit = match event.command.has_content() {
            true => limits.content_deadline,
            false => limits.command_deadline,
        };
        let selection = processor.config().rules.groups(&self.known(&event.command, accepted));
        let mut advice = Advice { rule: selection.rule.map(str::to_owned), ..Advice::default() };
        let mut event = event;
        let request = std::mem::take(&mut event.bypass);
        let mut versions = vec![Version::new(event)];
        // Groups that are asked later on have not agreed, nor do those that are only watched.
        let mut done = selection.rule.is_some();
        let mut asked = false;
        for at in selection.groups {
            let bypass = bypass_for(processor.config(), &request, at);
            let differ = processor.config().groups.get(at).map(|group| group.recipients_differ);
            let (before, differ) = (std::mem::take(&mut versions), differ.unwrap_or_default());
            let count = before.len();
            for mut version in before {
                if version.has_ended() {
                    versions.push(version);
                    continue;
                }
                version.event.bypass.clone_from(&bypass);
                let consultation = match self.way(at, ProfileKind::Command) {
                    Some(Way::Effective(consultation)) => consultation,
                    Some(Way::Shadow(shadow)) => {
                        shadow.show(&version.event, id.clone(), processor.shadow_room());
                        done = false;
                        versions.push(version);
                        continue;
                    }
                    Some(Way::LeftOut) | None => {
                        versions.push(version);
                        continue;
                    }
                };
                let adaptation = match consultation.ask_until(&version.event, begin + limit).await {
                    Ok(adaptation) => adaptation,
                    // Otherwise mail would get past all groups because of the one that may fail.
                    Err(failure) if failure.policy == FailurePolicy::Accept => {
                        advice.failed(&failure);
                        done = false;
                        versions.push(version);
                        continue;
                    }
                    Err(failure) => {
                        advice.report(&OcpResult::failure("another service group failed"), None);
                        return Err(failure);
                    }
                };
                done &= adaptation.envelope_done;
                asked = true;
                let (answer, effects) = advice.heard(adaptation, differ);
                let others = versions.len().max(count) - 1;
                versions.extend(version.adapted(answer, effects, others, differ));
            }
        }
        (advice.answer, advice.effects) = together(versions);
        advice.envelope_done = done && asked;
        advice.took = begin.elapsed();
        Ok(advice)
    }

    /// What happens if an event can't be shown to the groups: the strictest policy of those that want it,
    /// `None` if none does.
    pub fn failure_policy(
        &self,
        command: &Command,
        accepted: Accepted<'_>,
    ) -> Option<FailurePolicy> {
        let known = self.known(command, accepted);
        let selection = self.processor.config().rules.groups(&known);
        let groups = selection.groups.into_iter().filter_map(|at| self.processor.group(at));
        let policies = groups.filter_map(|(settings, group)| {
            let profile = group.profile();
            let counts = settings.shadow.is_none()
                && settings.profile == ProfileKind::Command
                && profile.commands().contains(command);
            counts.then(|| settings.on_failure.max(profile.on_failure().unwrap_or_default()))
        });
        policies.max()
    }

    /// The rule that chooses the groups of an event; `None` while that is open.
    pub fn rule(&self, command: &Command, accepted: Accepted<'_>) -> Option<&str> {
        self.processor.config().rules.groups(&self.known(command, accepted)).rule
    }

    /// What the rules may go by at an event.
    fn known<'a>(&'a self, command: &Command, accepted: Accepted<'a>) -> Known<'a> {
        Known {
            listen: &self.listen,
            origin: self.origin,
            authenticated: self.facts.auth.is_some(),
            sender: accepted.sender,
            recipients: accepted.recipients,
            recipient: accepted.recipient,
            complete: matches!(command, Command::Data | Command::Message),
        }
    }

    /// The way to a group, if it is asked about events of this kind.
    fn way(&mut self, at: usize, kind: ProfileKind) -> Option<&mut Way> {
        let known = self.processor.group(at);
        let (settings, group) = known.filter(|(settings, _)| settings.profile == kind)?;
        let traced = self.processor.config().system.is_some();
        let way = self.ways.get_mut(at)?;
        Some(way.get_or_insert_with(|| match settings.shadow {
            None => Way::Effective(Box::new(Consultation::new(group, self.facts.clone()))),
            Some(share) if fastrand::f64() < share => {
                Way::Shadow(Shadow::start(settings, group, self.facts.clone(), traced))
            }
            Some(_) => Way::LeftOut,
        }))
    }
}

/// What a group is told of a request to skip services.
fn bypass_for(config: &Config, request: &[Atom], at: usize) -> Vec<Atom> {
    let group = config.groups.get(at);
    group.map_or_else(Vec::new, |group| {
        bypass::for_group(request, config.system.as_ref(), group, &config.groups)
    })
}

impl Default for Advice {
    /// The event stays as it is.
    fn default() -> Self {
        Self {
            answer: Answer::Unchanged,
            effects: Vec::new(),
            verdicts: Vec::new(),
            notifications: Vec::new(),
            envelope_done: false,
            rule: None,
            traffic: Traffic::default(),
            took: Duration::ZERO,
            failures: Vec::new(),
            differ: None,
            asked: Vec::new(),
        }
    }
}

impl Advice {
    /// Adds what a group says of an event: what becomes of the octets, and what to do besides.
    fn heard(
        &mut self,
        adaptation: Adaptation,
        differ: RecipientsDiffer,
    ) -> (Answer, Vec<SideEffect>) {
        self.traffic.sent += adaptation.traffic.sent;
        self.traffic.received += adaptation.traffic.received;
        self.verdicts.extend(adaptation.verdicts);
        self.notifications.extend(adaptation.notifications);
        self.asked.extend(adaptation.asked);
        if matches!(adaptation.answer, Answer::Several(_)) {
            self.differ.get_or_insert(differ);
        }
        (adaptation.answer, adaptation.effects)
    }

    /// Adds a group that says nothing.
    fn failed(&mut self, failure: &Failure) {
        self.traffic.sent += failure.traffic.sent;
        self.traffic.received += failure.traffic.received;
        self.failures.push(failure.to_string());
    }

    /// If that is configured, what is refused for some recipients is kept for them instead; whether it is.
    pub(crate) fn keep_refused(&mut self) -> bool {
        let Answer::Several(variants) = &mut self.answer else { return false };
        let keeps = self.differ == Some(RecipientsDiffer::Quarantine);
        if keeps {
            variants.iter_mut().for_each(keep_refused);
        }
        keeps
    }

    /// Recipients get the same: what is configured for a mail server that has one version for all.
    pub(crate) fn unite(&mut self) {
        if let Answer::Several(variants) = &mut self.answer {
            let variants = std::mem::take(variants);
            (self.answer, self.effects) = one_for_all(variants, self.differ.unwrap_or_default());
        }
    }

    /// Tells those who were asked what became of the event.
    pub fn report(&mut self, result: &OcpResult, reply: Option<&Reply>) {
        for asked in self.asked.drain(..) {
            asked.report(result.clone(), reply.cloned());
        }
    }
}
