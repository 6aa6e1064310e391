//! What the history keeps of one message, or of an attempt at one.
//!
//! These types are the objects of `callout-server history --json` too: a field that stands in one stays, with its
//! meaning; new ones may come. README.md explains them.

use ocp_proto::smtp::{Address, DialogFacts, ProfileKind, SideEffect, Verdict};
use opes_mta::store::Moment;
use serde::{Deserialize, Serialize};

use super::text::Text;
use crate::chain::{Adapted, Answer};
use crate::metrics::EventResult;

/// The most recipients that are named; their number is always there.
const MOST_RECIPIENTS: usize = 20;

/// The most findings of one event, and the most side effects and versions: a service is asked again for each
/// version of a message.
const MOST_FINDINGS: usize = 32;
const MOST_EFFECTS: usize = 8;
const MOST_VERSIONS: usize = 8;

/// A message as the server saw it: the events of one envelope, in a group for commands or in one for replies.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Record {
    /// Counts the records of this process from 1.
    pub(crate) id: u64,
    /// When its first event began.
    pub(crate) time: Moment,
    /// From then until its last event was answered, in milliseconds.
    pub(crate) took_ms: u64,
    pub(crate) profile: Profile,
    /// The processor that asked, as the log names it, and the number of its connection.
    pub(crate) peer: Text,
    pub(crate) connection: u64,
    #[serde(flatten)]
    pub(crate) facts: Facts,
    /// The MTA's name for the message.
    pub(crate) queue_id: Option<Text>,
    /// What the MTA accepted, or else the path in the command line.
    pub(crate) sender: Option<Text>,
    /// The same, the first 20 of them.
    pub(crate) recipients: Vec<Text>,
    pub(crate) recipient_count: u64,
    /// Of the whole message, as it came; of what was sent of it if nobody said how long it is.
    pub(crate) octets: Option<u64>,
    /// What became of it: of the message, if it came, or else of the first event that did not stay as it is.
    pub(crate) result: EventResult,
    /// The services of the group, in their order.
    pub(crate) services: Vec<Text>,
    pub(crate) events: Vec<Event>,
    /// Events that are not kept, since there are too many.
    pub(crate) events_left_out: u64,
}

/// What a group is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Profile {
    #[default]
    Command,
    Reply,
}

/// Who brought it (profile section 3).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Facts {
    /// Where in its life: `receiving`, `queued`, `sending` or `proxy`.
    pub(crate) activation: Text,
    pub(crate) protocol: Option<Text>,
    pub(crate) client_address: Option<Text>,
    pub(crate) client_name: Option<Text>,
    pub(crate) helo: Option<Text>,
    /// Who authenticated.
    pub(crate) user: Option<Text>,
    /// Protocol version and cipher suite.
    pub(crate) tls: Option<Text>,
}

/// One event, and what became of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Event {
    /// Its name in the profile, such as `RCPT`.
    pub(crate) event: Text,
    /// The command line of HELO, MAIL and RCPT.
    pub(crate) line: Option<Text>,
    /// In a group for replies, what the next hop replied.
    pub(crate) next_hop_reply: Option<Text>,
    /// From the record's time until it began, in milliseconds, and until it was answered from there.
    pub(crate) after_ms: u64,
    pub(crate) took_ms: u64,
    pub(crate) result: EventResult,
    /// Why the server would not work on it, or why there was no answer.
    pub(crate) cause: Option<Text>,
    /// What each service found that was asked, in the order of their answers.
    pub(crate) findings: Vec<Finding>,
    /// The answer: one for all, or one for each set of recipients that differ.
    pub(crate) versions: Vec<Version>,
    /// New messages that services wanted to have submitted.
    pub(crate) notifications: u64,
    /// What the MTA said became of it, if it did.
    pub(crate) outcome: Option<Outcome>,
}

/// What one service found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Finding {
    /// Its name.
    pub(crate) service: Text,
    /// One word, such as `clean`; `failed` if it failed.
    pub(crate) verdict: Text,
    pub(crate) score: Option<Text>,
    pub(crate) reason: Option<Text>,
    pub(crate) took_ms: u64,
}

/// What recipients get who share it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Version {
    /// The first 20 of them; nobody if it is for all.
    pub(crate) recipients: Vec<Text>,
    pub(crate) recipient_count: u64,
    pub(crate) result: EventResult,
    /// The reply instead of the event, or in the place of the next hop's.
    pub(crate) reply: Option<Text>,
    /// What the MTA was asked to do besides.
    pub(crate) effects: Vec<Text>,
}

/// What became of an event at the MTA.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Outcome {
    pub(crate) success: bool,
    pub(crate) reason: Option<Text>,
    /// The reply that the SMTP peer got, if it was said.
    pub(crate) reply: Option<Text>,
}

impl Record {
    /// The octets that it takes in memory.
    pub(crate) fn size(&self) -> usize {
        self.head_size() + self.events.iter().map(Event::size).sum::<usize>()
    }

    /// The same without its events.
    pub(super) fn head_size(&self) -> usize {
        size_of::<Self>() + octets(self.own_texts()) + octets(&self.recipients)
    }

    /// Whether each of some words, in lower case, stands somewhere in it.
    pub(crate) fn matches(&self, words: &[String]) -> bool {
        let mut missing: Vec<&String> = words.iter().collect();
        let mut look = |text: &str| {
            if !missing.is_empty() {
                let text = text.to_lowercase();
                missing.retain(|word| !text.contains(word.as_str()));
            }
        };
        look(self.result.name());
        self.own_texts().for_each(|text| look(text.as_str()));
        self.recipients.iter().for_each(|text| look(text.as_str()));
        for event in &self.events {
            look(event.result.name());
            event.texts().for_each(|text| look(text.as_str()));
        }
        missing.is_empty()
    }

    /// The most telling reply: that instead of the message, or else the first one.
    pub(crate) fn reply(&self) -> Option<&Text> {
        let replies = |event: &Event| event.versions.iter().any(|version| version.reply.is_some());
        let event = self.message().filter(|event| replies(event));
        let event = event.or_else(|| self.events.iter().find(|event| replies(event)))?;
        event.versions.iter().find_map(|version| version.reply.as_ref())
    }

    /// How many recipients were refused by a reply of a service.
    pub(crate) fn refused_recipients(&self) -> usize {
        let is_refused =
            |event: &&Event| event.event.as_str() == "RCPT" && event.result == EventResult::Replied;
        self.events.iter().filter(is_refused).count()
    }

    /// The event of its content.
    pub(crate) fn message(&self) -> Option<&Event> {
        self.events.iter().find(|event| event.event.as_str() == "MESSAGE")
    }

    fn own_texts(&self) -> impl Iterator<Item = &Text> {
        let Facts { activation, protocol, client_address, client_name, helo, user, tls } =
            &self.facts;
        let optional = [protocol, client_address, client_name, helo, user, tls];
        let optional = optional.into_iter().chain([&self.queue_id, &self.sender]).flatten();
        [&self.peer, activation].into_iter().chain(optional).chain(&self.services)
    }
}

impl Event {
    /// The octets that it takes in memory.
    pub(crate) fn size(&self) -> usize {
        size_of::<Self>()
            + self.findings.len() * size_of::<Finding>()
            + self.versions.len() * size_of::<Version>()
            + octets(self.texts())
    }

    /// Takes over what the services made of it.
    pub(super) fn answer(&mut self, answer: &Answer) {
        self.findings = answer.verdicts.iter().take(MOST_FINDINGS).map(Finding::of).collect();
        let differ = answer.branches.len() > 1;
        let branches = answer.branches.iter().take(MOST_VERSIONS);
        self.versions = branches
            .map(|branch| {
                let recipients = if differ { branch.recipients.as_slice() } else { &[] };
                let effects = branch.effects.iter().take(MOST_EFFECTS).map(described).collect();
                Version {
                    recipients: named(recipients),
                    recipient_count: recipients.len() as u64,
                    result: EventResult::of(&branch.adapted),
                    reply: match &branch.adapted {
                        Adapted::Reply(reply) | Adapted::OtherReply(reply) => {
                            Some(reply.to_string().into())
                        }
                        _ => None,
                    },
                    effects,
                }
            })
            .collect();
        self.notifications = answer.notifications.len() as u64;
    }

    /// Forgets the last of what the services made of it, and then the rest of its texts, until it takes so many octets
    /// at the most. Its name is left, and what became of it.
    pub(super) fn shorten(&mut self, most: usize) {
        while self.size() > most && self.findings.pop().is_some() {}
        while self.size() > most && self.versions.pop().is_some() {}
        if self.size() > most {
            (self.line, self.next_hop_reply, self.cause, self.outcome) = (None, None, None, None);
        }
    }

    fn texts(&self) -> impl Iterator<Item = &Text> {
        let optional = [&self.line, &self.next_hop_reply, &self.cause].into_iter().flatten();
        let findings = self.findings.iter().flat_map(|finding| {
            let details = [&finding.score, &finding.reason].into_iter().flatten();
            [&finding.service, &finding.verdict].into_iter().chain(details)
        });
        let versions = self.versions.iter().flat_map(|version| {
            version.recipients.iter().chain(&version.reply).chain(&version.effects)
        });
        let outcome = self.outcome.iter();
        let outcome = outcome.flat_map(|outcome| [&outcome.reason, &outcome.reply]).flatten();
        [&self.event].into_iter().chain(optional).chain(findings).chain(versions).chain(outcome)
    }
}

impl Outcome {
    /// The event went well, be it with a reply that refuses it.
    pub(crate) fn word(&self) -> &'static str {
        if self.success { "success" } else { "failure" }
    }
}

impl Finding {
    fn of(verdict: &Verdict) -> Self {
        Self {
            service: Text::new(verdict.service_name()),
            verdict: Text::new(&verdict.verdict),
            score: verdict.score.as_deref().map(Text::new),
            reason: verdict.reason.as_deref().map(Text::new),
            took_ms: verdict.milliseconds.unwrap_or_default().into(),
        }
    }
}

impl Facts {
    pub(super) fn of(facts: &DialogFacts) -> Self {
        let tls = facts.tls.as_ref().map(|tls| [&tls.protocol[..], b" ", &tls.cipher].concat());
        Self {
            activation: facts.activation.name().into(),
            protocol: facts.protocol.as_deref().map(Text::new),
            client_address: facts.client_address.as_deref().map(Text::new),
            client_name: facts.client_name.as_deref().map(Text::new),
            helo: facts.helo.as_deref().map(Text::new),
            user: facts.auth.as_ref().map(|auth| Text::new(&auth.identity)),
            tls: tls.as_deref().map(Text::new),
        }
    }
}

impl From<ProfileKind> for Profile {
    fn from(kind: ProfileKind) -> Self {
        match kind {
            ProfileKind::Command => Self::Command,
            ProfileKind::Reply => Self::Reply,
        }
    }
}

/// The first of some recipients.
pub(super) fn named(recipients: &[Address]) -> Vec<Text> {
    recipients.iter().take(MOST_RECIPIENTS).map(|address| Text::new(address.path())).collect()
}

/// One more recipient, if it is still to be named.
pub(super) fn name(recipients: &mut Vec<Text>, recipient: Text) {
    if recipients.len() < MOST_RECIPIENTS {
        recipients.push(recipient);
    }
}

fn octets<'a>(texts: impl IntoIterator<Item = &'a Text>) -> usize {
    texts.into_iter().map(|text| size_of::<Text>() + text.as_str().len()).sum()
}

fn described(effect: &SideEffect) -> Text {
    let name = effect.name();
    let text = String::from_utf8_lossy;
    let count = |recipients: &[Address]| match recipients {
        [] => String::new(),
        [one] => format!(" for {one}"),
        [first, rest @ ..] => format!(" for {first} and {} more", rest.len()),
    };
    match effect {
        SideEffect::AddRecipient(address)
        | SideEffect::DeleteRecipient(address)
        | SideEffect::ChangeSender(address) => format!("{name} {address}"),
        SideEffect::SetRecipients(addresses) => format!("{name}{}", count(addresses)),
        SideEffect::Quarantine(why) | SideEffect::Hold(why) | SideEffect::Discard(why) => {
            format!("{name}: {}", text(why))
        }
        SideEffect::Delay { seconds, reason } => format!("{name} {seconds} s: {}", text(reason)),
        SideEffect::Route { next_hop, recipients } => {
            format!("{name} {}{}", text(next_hop), count(recipients))
        }
        SideEffect::RetryCommand { line, next_hop } => {
            let at = next_hop.as_deref().map(|next_hop| format!(" at {}", text(next_hop)));
            let line = text(line.as_bytes()).trim_end().to_owned();
            format!("{name} {line}{}", at.unwrap_or_default())
        }
        SideEffect::Disconnect => name.to_string(),
    }
    .into()
}
