//! What the groups for replies make of a next hop's reply.
//!
//! ```text
//!   command ──▶ next hop ──reply──▶ ask_reply ──▶ ReplyAdvice: the reply that the client gets, or
//!      ▲                                              │         the command that is sent instead
//!      └──────────────────── Retry ───────────────────┘
//! ```

use std::sync::Arc;
use std::time::Duration;

use ocp_proto::smtp::{
    Command, CommandLine, Envelope, FailurePolicy, ProfileKind, Reply, SideEffect, Verdict,
};
use ocp_proto::wire::Atom;
use ocp_proto::{OcpResult, Traffic};
use tokio::time::Instant;
use tracing::Instrument;

use super::{Accepted, Passage, Way, bypass_for};
use crate::apply::Answer;
use crate::consult::{Adaptation, Failure};
use crate::event::{Event, Replied};
use crate::ocp::Asked;
use crate::telemetry::spans;

/// How often one command of a client is sent again: services see the reply to a retried command too, and
/// two rules could send a recipient back and forth.
pub const MOST_RETRIES: u32 = 4;

/// A next hop's reply.
#[derive(Clone, Debug)]
pub struct ReplyEvent {
    /// The command that it answers; GREETING for the banner.
    pub command: Command,
    /// That command's line as the next hop got it; of AUTH the mechanism alone. `None` for the banner and
    /// for content.
    pub line: Option<CommandLine>,
    /// The reply.
    pub reply: Reply,
    /// The envelope in force before the command, after all adaptations. Where each recipient has a reply
    /// behind content, that recipient alone.
    pub envelope: Envelope,
    /// URIs of the services that the sender may skip (profile section 8).
    pub bypass: Vec<Atom>,
    /// How often this command was sent again before: no more than [`MOST_RETRIES`] times.
    pub retries: u32,
}

/// A command that goes to a next hop instead of the one that was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retry {
    /// Its line: the same verb, and an address that is one.
    pub line: CommandLine,
    /// Where to, `host:port`, as the service wrote it; where the first one went if `None`. Whether that is
    /// allowed is for the front end to know.
    pub next_hop: Option<String>,
}

/// What the groups made of a reply; committed by all of them.
#[derive(Debug)]
pub struct ReplyAdvice {
    /// What the client gets, unless the retry can be sent.
    pub reply: Reply,
    /// Whether that is another one than the next hop's. If it refuses what the next hop has taken, it is a
    /// rejection of ours, with a trace, and the next hop must not act on what it has taken (profile
    /// section 4, "Replies").
    pub changed: bool,
    /// What to send instead. The reply to it is the next one to ask about; what the client gets is made of
    /// that.
    pub retry: Option<Retry>,
    /// Whether the dialog ends behind the reply.
    pub disconnect: bool,
    /// What becomes of the envelope, in this order.
    pub effects: Vec<SideEffect>,
    /// What each service found.
    pub verdicts: Vec<Verdict>,
    /// Groups that failed, and whose policy lets the reply pass.
    pub failures: Vec<String>,
    /// The rule that chose the groups; `None` while that is open.
    pub rule: Option<String>,
    /// What it cost on the wire.
    pub traffic: Traffic,
    /// How long it took.
    pub took: Duration,
    asked: Vec<Asked>,
}

impl Passage {
    /// Asks the groups for replies about a next hop's reply, before the client gets it. They are asked one
    /// after the other, each about what the ones before it made of it; a refusal instead of a success
    /// ends the way.
    ///
    /// # Errors
    /// The first failure of a group that may not fail: nothing of the others' answers takes effect then.
    /// [`Failure::reply_instead_of`] says what the client gets.
    pub async fn ask_reply(
        &mut self,
        event: ReplyEvent,
        accepted: Accepted<'_>,
    ) -> Result<ReplyAdvice, Failure> {
        let span = spans::reply(&self.span, &event.command, self.id());
        let advice = self.ask_groups_for_replies(event, accepted).instrument(span.clone()).await;
        match &advice {
            Ok(advice) => spans::set(&span, "changed", advice.changed),
            Err(failure) => spans::failed(&span, failure.stage),
        }
        advice
    }

    async fn ask_groups_for_replies(
        &mut self,
        event: ReplyEvent,
        accepted: Accepted<'_>,
    ) -> Result<ReplyAdvice, Failure> {
        let begin = Instant::now();
        let processor = Arc::clone(&self.processor);
        let limit = processor.config().limits.command_deadline;
        let selection = processor.config().rules.groups(&self.known(&event.command, accepted));
        let ReplyEvent { command, line, reply: original, envelope, bypass, retries } = event;
        let mut advice = ReplyAdvice::unchanged(original.clone());
        advice.rule = selection.rule.map(str::to_owned);
        for at in selection.groups {
            let Some(Way::Effective(consultation)) = self.way(at, ProfileKind::Reply) else {
                continue;
            };
            let replied = Replied { line: line.clone(), reply: advice.reply.clone() };
            let mut event = Event::reply(command.clone(), replied, envelope.clone());
            event.bypass = bypass_for(processor.config(), &bypass, at);
            match consultation.ask_until(&event, begin + limit).await {
                Ok(adaptation) => advice.add(adaptation),
                // It has no say; the others have theirs.
                Err(failure) if failure.policy == FailurePolicy::Accept => {
                    advice.traffic.sent += failure.traffic.sent;
                    advice.traffic.received += failure.traffic.received;
                    advice.failures.push(failure.to_string());
                }
                Err(failure) => {
                    advice.report(&OcpResult::failure("another service group failed"), None);
                    return Err(failure);
                }
            }
            if original.is_success() && !advice.reply.is_success() {
                break;
            }
        }
        if retries >= MOST_RETRIES
            && let Some(Retry { line, .. }) = advice.retry.take()
        {
            let line = String::from_utf8_lossy(line.as_bytes()).into_owned();
            tracing::warn!(%command, line, retries, "a command is not sent again: too often");
        }
        advice.changed = advice.reply != original;
        advice.took = begin.elapsed();
        Ok(advice)
    }
}

impl ReplyAdvice {
    /// The reply goes on as it is.
    pub(crate) fn unchanged(reply: Reply) -> Self {
        Self {
            reply,
            changed: false,
            retry: None,
            disconnect: false,
            effects: Vec::new(),
            verdicts: Vec::new(),
            failures: Vec::new(),
            rule: None,
            traffic: Traffic::default(),
            took: Duration::ZERO,
            asked: Vec::new(),
        }
    }

    /// What one more group makes of it.
    fn add(&mut self, adaptation: Adaptation) {
        let Adaptation { answer, effects, verdicts, asked, traffic, .. } = adaptation;
        if let Answer::Reply(reply) = answer {
            if self.reply.is_success() && !reply.is_success() {
                // What was asked for before concerns a command that is not taken.
                self.effects.clear();
            }
            self.reply = reply;
        }
        for effect in effects {
            match effect {
                SideEffect::RetryCommand { line, next_hop } => {
                    let next_hop = next_hop.map(|hop| String::from_utf8_lossy(&hop).into_owned());
                    // There is one command in the place of another: the first group has it.
                    self.retry.get_or_insert(Retry { line, next_hop });
                }
                SideEffect::Disconnect => self.disconnect = true,
                effect => self.effects.push(effect),
            }
        }
        self.verdicts.extend(verdicts);
        self.traffic.sent += traffic.sent;
        self.traffic.received += traffic.received;
        self.asked.extend(asked);
    }

    /// Tells those who were asked what became of the reply: what the client got, or that a command was
    /// sent instead.
    pub fn report(&mut self, result: &OcpResult, reply: Option<&Reply>) {
        for asked in self.asked.drain(..) {
            asked.report(result.clone(), reply.cloned());
        }
    }
}
