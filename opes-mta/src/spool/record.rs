//! What is known of an entry.

use ocp_proto::smtp::Address;
use serde::{Deserialize, Serialize};

use crate::store::{Id, Moment, Record};

/// An entry as it stands in its file: one message, and what becomes of it for whom.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Its name.
    pub id: Id,
    /// When it was accepted.
    pub arrived: Moment,
    /// Octets of its message.
    pub octets: u64,
    /// The return path, with ESMTP parameters.
    #[serde(with = "crate::store::address")]
    pub sender: Address,
    /// Whom it is for.
    pub recipients: Vec<Recipient>,
    /// Not delivered before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<Moment>,
    /// Not delivered until it is released; why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold: Option<String>,
    /// Not delivered until that has happened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub awaits: Option<Awaits>,
    /// What traces and reports say of its way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<Trace>,
    /// The name that the mail server before us has for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue_id: Option<String>,
    /// Services that are not asked about it any more: they had looked at it when it was stopped, and somebody
    /// released it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub skips: Vec<String>,
    /// Reports that were made of it.
    #[serde(default, skip_serializing_if = "is_none")]
    pub reports: u32,
}

/// Whom a message is for, and what became of it there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipient {
    /// The forward path, with ESMTP parameters.
    #[serde(with = "crate::store::address")]
    pub address: Address,
    /// Where it goes, if not to the configured next hop.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_hop: Option<String>,
    /// What became of it.
    pub state: State,
    /// The sender has heard that it takes longer.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub delay_reported: bool,
}

/// What became of a message for a recipient.
///
/// ```text
///  queued ──▶ deferred ──┬──▶ delivered
///     └─────▶    ↺  ─────┴──▶ failed
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "lowercase", deny_unknown_fields)]
pub enum State {
    /// Nobody has tried yet.
    Queued,
    /// The next hop took it not yet.
    Deferred {
        /// When the next attempt may come.
        until: Moment,
        /// Attempts so far.
        attempts: u32,
        /// What the next hop said last, or why there was none.
        reply: String,
    },
    /// The next hop took it.
    Delivered {
        /// When.
        at: Moment,
        /// What the next hop said.
        reply: String,
    },
    /// It is given up.
    Failed {
        /// When.
        at: Moment,
        /// What the next hop said, or why it was given up.
        reply: String,
    },
}

/// What has to happen before an entry is delivered, so that both happen or neither does, whenever the process
/// ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "lowercase", deny_unknown_fields)]
pub enum Awaits {
    /// It is a report, and counts once the entry that it is about has counted it.
    Report {
        /// What it is about.
        of: Id,
        /// Its number.
        number: u32,
    },
    /// It comes from a quarantine, and counts once that says so.
    Release {
        /// Its name there.
        of: Id,
    },
    /// It was accepted together with another entry, and counts once that one is there.
    Leader {
        /// Its name.
        of: Id,
    },
    /// Entries were accepted together with it, and all of them are to be delivered before it may be gone.
    Followers,
}

/// What traces and reports say of a message's way (RFC 3897, RFC 4902).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trace {
    /// The system's URI.
    pub system: String,
    /// The processor's name.
    pub processor: String,
    /// What the log finds the message by.
    pub id: String,
    /// What the services found, in a line.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub verdicts: String,
}

/// A message that is to be accepted.
#[derive(Clone, Debug)]
pub struct NewEntry {
    /// See [`Entry::sender`].
    pub sender: Address,
    /// Whom it is for; at least one.
    pub recipients: Vec<NewRecipient>,
    /// See [`Entry::not_before`].
    pub not_before: Option<std::time::SystemTime>,
    /// See [`Entry::hold`].
    pub hold: Option<String>,
    /// See [`Entry::trace`].
    pub trace: Option<Trace>,
    /// See [`Entry::queue_id`].
    pub queue_id: Option<String>,
    /// See [`Entry::skips`].
    pub skips: Vec<String>,
}

/// Whom a message that is to be accepted is for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewRecipient {
    /// See [`Recipient::address`].
    #[serde(with = "crate::store::address")]
    pub address: Address,
    /// See [`Recipient::next_hop`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_hop: Option<String>,
}

impl NewEntry {
    /// A message that is due at once, for the configured next hop.
    pub fn new(sender: Address, recipients: Vec<Address>) -> Self {
        let recipient = |address| NewRecipient { address, next_hop: None };
        Self {
            sender,
            recipients: recipients.into_iter().map(recipient).collect(),
            not_before: None,
            hold: None,
            trace: None,
            queue_id: None,
            skips: Vec::new(),
        }
    }
}

impl Entry {
    pub(super) fn new(id: Id, entry: NewEntry, awaits: Option<Awaits>, arrived: Moment) -> Self {
        let NewEntry { sender, recipients, not_before, hold, trace, queue_id, skips } = entry;
        let recipient = |NewRecipient { address, next_hop }| Recipient {
            address,
            next_hop,
            state: State::Queued,
            delay_reported: false,
        };
        Self {
            id,
            arrived,
            octets: 0,
            sender,
            recipients: recipients.into_iter().map(recipient).collect(),
            not_before: not_before.map(Moment::from),
            hold,
            awaits,
            trace,
            queue_id,
            skips,
            reports: 0,
        }
    }

    /// When it is to be delivered; `None` if it waits for somebody, or nothing is left to do.
    pub fn due(&self) -> Option<Moment> {
        if self.hold.is_some() || self.awaits.is_some() {
            return None;
        }
        let next = self.recipients.iter().filter_map(|recipient| recipient.due(self.arrived)).min();
        next.map(|next| next.max(self.not_before.unwrap_or(next)))
    }

    /// The recipients whose turn it is, with their places.
    pub fn due_recipients(&self, now: Moment) -> impl Iterator<Item = (usize, &Recipient)> {
        let is_due =
            move |recipient: &Recipient| recipient.due(self.arrived).is_some_and(|due| due <= now);
        self.recipients.iter().enumerate().filter(move |(_, recipient)| is_due(recipient))
    }

    /// Whether nothing is left to do.
    pub fn is_settled(&self) -> bool {
        self.recipients.iter().all(|recipient| recipient.state.is_settled())
    }

    /// One word for people: what it does at the moment.
    pub fn status(&self, now: Moment) -> &'static str {
        let is_deferred = |recipient: &Recipient| matches!(recipient.state, State::Deferred { .. });
        match self {
            _ if self.awaits.is_some() => "unfinished",
            _ if self.hold.is_some() => "hold",
            _ if self.not_before.is_some_and(|moment| moment > now) => "delayed",
            _ if self.recipients.iter().any(is_deferred) => "deferred",
            _ => "queued",
        }
    }

    pub(super) fn flush(&mut self, now: Moment) {
        for recipient in &mut self.recipients {
            if let State::Deferred { until, .. } = &mut recipient.state {
                *until = now.min(*until);
            }
        }
    }
}

impl Recipient {
    fn due(&self, arrived: Moment) -> Option<Moment> {
        match self.state {
            State::Queued => Some(arrived),
            State::Deferred { until, .. } => Some(until),
            State::Delivered { .. } | State::Failed { .. } => None,
        }
    }
}

impl State {
    /// Whether nothing is left to do.
    pub fn is_settled(&self) -> bool {
        matches!(self, Self::Delivered { .. } | Self::Failed { .. })
    }

    /// Attempts that did not decide anything.
    pub fn attempts(&self) -> u32 {
        if let Self::Deferred { attempts, .. } = self { *attempts } else { 0 }
    }

    /// What the next hop said last.
    pub fn reply(&self) -> Option<&str> {
        match self {
            Self::Queued => None,
            Self::Deferred { reply, .. }
            | Self::Delivered { reply, .. }
            | Self::Failed { reply, .. } => Some(reply),
        }
    }
}

impl Record for Entry {
    const KIND: &'static str = "spool";
    const FORMAT: &'static str = "opes-mta-spool/1";

    fn id(&self) -> &Id {
        &self.id
    }

    fn octets(&self) -> u64 {
        self.octets
    }

    fn check(&self) -> Result<(), String> {
        match self.recipients.iter().find(|recipient| recipient.address.is_null()) {
            Some(_) => Err("a recipient has no address".to_owned()),
            None if self.recipients.is_empty() => Err("it has no recipients".to_owned()),
            None => Ok(()),
        }
    }
}

fn is_none(number: &u32) -> bool {
    *number == 0
}
