//! Asks the groups about one client's events, and says what a refusal or a failure comes to.

use std::sync::Arc;

use ocp_proto::OcpResult;
use ocp_proto::smtp::{Command, DialogFacts, DialogUpdate, FailurePolicy, Reply, SideEffect};

use crate::apply::{Answer, Notification};
use crate::config::Origin;
use crate::consult::failure_reply;
use crate::event::Event;
use crate::passage::{Accepted, Advice, Passage, ReplyAdvice, ReplyEvent};
use crate::processor::Processor;
use crate::record::Record;
use crate::trace::Pass;

/// One client's way through the groups.
#[derive(Debug)]
pub(super) struct Advisor {
    processor: Arc<Processor>,
    abilities: Abilities,
    /// From CONNECT on.
    passage: Option<Passage>,
}

/// What a front end can do with the services' answers beyond what it has offered them.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Abilities {
    /// It can give recipients versions of their own; if not, the configured fallback holds.
    pub(super) versions: bool,
    /// It can submit new messages; if not, there are none, and the message's line in the log says so.
    pub(super) notifications: bool,
}

/// What the services said of a stage.
pub(super) enum Said {
    /// It goes on; these are for the stage's own use.
    Go(Advice),
    /// It does not.
    Refused(Refusal),
}

/// That an event is not executed.
#[derive(Debug)]
pub(super) struct Refusal {
    /// The client gets this.
    pub(super) reply: Reply,
    /// What to do besides, in this order.
    pub(super) effects: Vec<SideEffect>,
    /// New messages that the services want to have submitted, with their trace.
    pub(super) notifications: Vec<Notification>,
}

impl Advisor {
    /// For a client that has not come yet.
    pub(super) fn new(processor: Arc<Processor>, abilities: Abilities) -> Self {
        Self { processor, abilities, passage: None }
    }

    /// What it goes by.
    pub(super) fn processor(&self) -> &Arc<Processor> {
        &self.processor
    }

    /// The client has come.
    pub(super) fn begin(&mut self, listen: &str, origin: Origin, facts: DialogFacts) {
        self.passage = Some(self.processor.passage(listen, origin, facts));
    }

    /// The message is done with.
    pub(super) fn end_message(&mut self) {
        self.passage.iter_mut().for_each(Passage::end_message);
    }

    /// What traces name the message by.
    pub(super) fn trace_id(&self) -> String {
        self.passage.as_ref().map(Passage::trace_id).unwrap_or_default()
    }

    /// What this pass of a message leaves in it, if that is configured.
    pub(super) fn pass<'a>(&'a self, id: &'a str) -> Option<Pass<'a>> {
        self.processor.config().system.as_ref().map(|system| Pass { system, id })
    }

    /// What is known of the client; nothing before CONNECT.
    pub(super) fn facts(&self) -> Option<&DialogFacts> {
        self.passage.as_ref().map(Passage::facts)
    }

    /// Something more is known of it.
    pub(super) fn update(&mut self, update: Option<DialogUpdate>) {
        if let (Some(passage), Some(update)) = (&mut self.passage, update) {
            passage.update(update);
        }
    }

    /// Whether the client's requests to skip services are heard.
    pub(super) fn hears_bypass(&self) -> bool {
        let Some(passage) = &self.passage else { return false };
        let authenticated = passage.facts().auth.is_some();
        self.processor.config().bypass.hears(passage.origin(), authenticated)
    }

    /// Asks the groups.
    pub(super) async fn ask(
        &mut self,
        event: Event,
        accepted: Accepted<'_>,
        record: &mut Record,
    ) -> Said {
        let name = event.command.name().to_owned();
        let Some(passage) = &mut self.passage else { return Said::Go(Advice::default()) };
        let asked = passage.ask(event, accepted).await;
        record.is_of(passage.id());
        match asked {
            Err(failure) => {
                record.took(&name, failure.elapsed);
                record.failed(failure.to_string());
                match failure_reply(failure.policy) {
                    None => Said::Go(Advice::default()),
                    Some(reply) => Said::Refused(Refusal::of(reply)),
                }
            }
            Ok(mut advice) => {
                record.add(&name, &advice);
                if !self.abilities.versions {
                    advice.unite();
                }
                if !(self.abilities.notifications || advice.notifications.is_empty()) {
                    let count = std::mem::take(&mut advice.notifications).len();
                    record.failed(format!("notifications that can't be submitted here: {count}"));
                }
                // They go out by themselves, whatever becomes of the message.
                if let Some(pass) = self.pass(&self.trace_id()) {
                    for new in &mut advice.notifications {
                        new.message.header.insert(0, pass.field());
                    }
                }
                match &advice.answer {
                    // A success is for a message that is taken and dropped or kept; the effects say so.
                    Answer::Reply(reply) if !reply.is_success() => {
                        let reply = reply.clone();
                        advice.report(&OcpResult::ok(), Some(&reply));
                        Said::Refused(Refusal {
                            reply: self.refusal(&reply),
                            effects: advice.effects,
                            notifications: advice.notifications,
                        })
                    }
                    _ => Said::Go(advice),
                }
            }
        }
    }

    /// Asks the groups about a next hop's reply. A failure leaves the reply, or puts what the policy says in its place.
    pub(super) async fn ask_reply(
        &mut self,
        event: ReplyEvent,
        accepted: Accepted<'_>,
        record: &mut Record,
    ) -> ReplyAdvice {
        let (name, original) = (event.command.name().to_owned(), event.reply.clone());
        let Some(passage) = &mut self.passage else { return ReplyAdvice::unchanged(original) };
        let mut advice = match passage.ask_reply(event, accepted).await {
            Ok(advice) => advice,
            Err(failure) => {
                record.took(&name, failure.elapsed);
                record.failed(failure.to_string());
                let instead = failure.reply_instead_of(&original);
                return ReplyAdvice::unchanged(instead.unwrap_or(original));
            }
        };
        record.add_reply(&name, &advice);
        if original.is_success() && !advice.reply.is_success() {
            advice.reply = self.refusal(&advice.reply);
        }
        advice
    }

    /// What happens to a message that the services can't be shown; `None` if none of them wants it.
    pub(super) fn failure_policy(&self, accepted: Accepted<'_>) -> Option<FailurePolicy> {
        self.passage.as_ref()?.failure_policy(&Command::Message, accepted)
    }

    /// The rule that is to blame for that.
    pub(super) fn rule(&self, accepted: Accepted<'_>) -> Option<&str> {
        self.passage.as_ref()?.rule(&Command::Message, accepted)
    }

    /// A service's refusal, with its trace.
    pub(super) fn refusal(&self, reply: &Reply) -> Reply {
        self.pass(&self.trace_id()).map_or_else(|| reply.clone(), |pass| pass.reply(reply))
    }
}

impl Refusal {
    /// This alone.
    fn of(reply: Reply) -> Self {
        Self { reply, effects: Vec::new(), notifications: Vec::new() }
    }
}
