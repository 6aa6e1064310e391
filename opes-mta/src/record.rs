//! What the log says of a message when it is done with.

use std::time::Duration;

use ocp_proto::Traffic;
use ocp_proto::smtp::{Address, DialogFacts, Verdict};
use ocp_proto::wire::Atom;
use tokio::time::Instant;

use crate::bypass::Outcome;
use crate::consult::Adaptation;
use crate::passage::{Advice, ReplyAdvice};
use crate::store::Id;

/// The most recipients that are named; their number is always there.
const MOST_RECIPIENTS: usize = 20;

/// The most failures that are named: there may be one at each recipient.
const MOST_FAILURES: usize = 4;

/// One message, or an attempt at one.
#[derive(Debug)]
pub struct Record {
    /// By which lines about one message are found.
    id: Option<String>,
    /// The group that only watches it.
    watched_by: Option<String>,
    begin: Instant,
    rule: Option<String>,
    verdicts: Vec<Verdict>,
    /// Events and how long they took.
    stages: Vec<(String, Duration)>,
    /// Recipients that were refused, and the replies.
    refused: Vec<String>,
    refused_count: usize,
    /// What went wrong, whatever the policy made of it.
    failures: Vec<String>,
    traffic: Traffic,
    octets: usize,
    bypass: Option<String>,
    earlier_passes: usize,
    /// Names in the quarantine, and in the spool.
    kept: Vec<String>,
    spooled: Vec<String>,
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It goes on as it is.
    Accept,
    /// It goes on changed.
    Modify,
    /// It is kept for review.
    Quarantine,
    /// It waits until somebody releases it.
    Hold,
    /// It waits, or goes another way.
    Delay,
    /// It is accepted and dropped.
    Discard,
    /// It is refused for good.
    Reject,
    /// It is refused for now.
    Tempfail,
    /// The client, or the mail server, gave it up.
    Abandoned,
}

impl Decision {
    pub(crate) const ALL: [Self; 9] = [
        Self::Accept,
        Self::Modify,
        Self::Quarantine,
        Self::Hold,
        Self::Delay,
        Self::Discard,
        Self::Reject,
        Self::Tempfail,
        Self::Abandoned,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Accept => "accept",
            Self::Modify => "modify",
            Self::Quarantine => "quarantine",
            Self::Hold => "hold",
            Self::Delay => "delay",
            Self::Discard => "discard",
            Self::Reject => "reject",
            Self::Tempfail => "tempfail",
            Self::Abandoned => "abandoned",
        }
    }
}

impl Default for Record {
    fn default() -> Self {
        Self {
            id: None,
            watched_by: None,
            begin: Instant::now(),
            rule: None,
            verdicts: Vec::new(),
            stages: Vec::new(),
            refused: Vec::new(),
            refused_count: 0,
            failures: Vec::new(),
            traffic: Traffic::default(),
            octets: 0,
            bypass: None,
            earlier_passes: 0,
            kept: Vec::new(),
            spooled: Vec::new(),
        }
    }
}

impl Record {
    /// What a group that only watches would have made of the message with this id.
    pub(crate) fn watched(group: &str, id: &str) -> Self {
        let (watched_by, id) = (Some(group.to_owned()), Some(id.to_owned()));
        Self { watched_by, id, ..Self::default() }
    }

    /// What the log calls the message, see [`Passage::id`](crate::passage::Passage::id).
    pub fn is_of(&mut self, id: String) {
        self.id = Some(id);
    }

    /// One more event.
    pub fn add(&mut self, event: &str, advice: &Advice) {
        self.rule.clone_from(&advice.rule);
        self.verdicts.extend(advice.verdicts.iter().cloned());
        self.traffic.sent += advice.traffic.sent;
        self.traffic.received += advice.traffic.received;
        advice.failures.iter().for_each(|failure| self.failed(failure.clone()));
        self.took(event, advice.took);
    }

    /// What the groups made of the next hop's reply to an event.
    pub(crate) fn add_reply(&mut self, event: &str, advice: &ReplyAdvice) {
        advice.failures.iter().for_each(|failure| self.failed(failure.clone()));
        self.verdicts.extend(advice.verdicts.iter().cloned());
        self.traffic.sent += advice.traffic.sent;
        self.traffic.received += advice.traffic.received;
        self.took(event, advice.took);
    }

    /// One more event, of which one group alone was asked.
    pub(crate) fn add_adaptation(&mut self, event: &str, adaptation: &Adaptation, took: Duration) {
        self.verdicts.extend(adaptation.verdicts.iter().cloned());
        self.traffic.sent += adaptation.traffic.sent;
        self.traffic.received += adaptation.traffic.received;
        self.took(event, took);
    }

    /// How long an event took; those of one name are added up.
    pub fn took(&mut self, event: &str, took: Duration) {
        match self.stages.iter_mut().find(|(name, _)| name == event) {
            Some((_, sum)) => *sum += took,
            None => self.stages.push((event.to_owned(), took)),
        }
    }

    /// The rule that chose the groups.
    pub fn chosen_by(&mut self, rule: Option<&str>) {
        self.rule = rule.map(str::to_owned);
    }

    /// A recipient was refused.
    pub fn refused(&mut self, recipient: &Address, reply: &str) {
        self.refused_count += 1;
        if self.refused.len() < MOST_RECIPIENTS {
            self.refused.push(format!("{recipient} {reply}"));
        }
    }

    /// An event could not be adapted.
    pub fn failed(&mut self, failure: String) {
        if self.failures.len() < MOST_FAILURES {
            self.failures.push(failure);
        }
    }

    /// The size of the message.
    pub fn octets(&mut self, octets: usize) {
        self.octets = octets;
    }

    /// What each service found so far.
    pub fn verdicts(&self) -> &[Verdict] {
        &self.verdicts
    }

    /// What its sender asks to skip, and what became of that.
    pub fn bypass(&mut self, outcome: Outcome, uris: &[Atom]) {
        let uris: Vec<_> = uris.iter().map(|uri| String::from_utf8_lossy(uri)).collect();
        self.bypass = Some(format!("{}: {}", outcome.name(), uris.join(" ")));
    }

    /// The names that the quarantine and the spool have for what they took of it.
    pub(crate) fn stored(&mut self, kept: &[Id], spooled: &[Id]) {
        let names = |ids: &[Id]| ids.iter().take(MOST_RECIPIENTS).map(Id::to_string).collect();
        (self.kept, self.spooled) = (names(kept), names(spooled));
    }

    /// How often it has passed this system before, if its header is right.
    pub fn earlier_passes(&mut self, passes: usize) {
        self.earlier_passes = passes;
    }

    /// The line.
    pub fn log(
        &self,
        facts: &DialogFacts,
        sender: Option<&Address>,
        recipients: &[Address],
        decision: Decision,
        reason: Option<&str>,
    ) {
        let text = |octets: &Option<Atom>| {
            octets.as_deref().map(|octets| String::from_utf8_lossy(octets).into_owned())
        };
        let named = recipients.iter().take(MOST_RECIPIENTS).map(Address::to_string);
        let stages = self.stages.iter().map(|(name, took)| format!("{name}={}", took.as_millis()));
        tracing::info!(
            id = self.id,
            group = self.watched_by,
            event = self.stages.last().map(|(name, _)| name.as_str()),
            queue_id = text(&facts.queue_id),
            client = text(&facts.client_address),
            helo = text(&facts.helo),
            sender = sender.map(tracing::field::display),
            recipients = named.collect::<Vec<_>>().join(" "),
            recipient_count = recipients.len(),
            refused = joined(&self.refused),
            refused_count = (self.refused_count > 0).then_some(self.refused_count),
            rule = self.rule,
            decision = decision.name(),
            reason,
            failure = joined(&self.failures),
            verdicts = Verdict::summary(&self.verdicts),
            bypass = self.bypass,
            kept = names(&self.kept),
            spooled = names(&self.spooled),
            earlier_passes = (self.earlier_passes > 0).then_some(self.earlier_passes),
            stages_ms = stages.collect::<Vec<_>>().join(" "),
            took_ms = u64::try_from(self.begin.elapsed().as_millis()).unwrap_or(u64::MAX),
            octets = self.octets,
            octets_sent = self.traffic.sent,
            octets_returned = self.traffic.received,
            "{}",
            if self.watched_by.is_some() { "shadow" } else { "message" }
        );
    }
}

/// `None` if there are none.
fn names(ids: &[String]) -> Option<String> {
    (!ids.is_empty()).then(|| ids.join(" "))
}

/// `None` if there are none.
fn joined(texts: &[String]) -> Option<String> {
    (!texts.is_empty()).then(|| texts.join("; "))
}
