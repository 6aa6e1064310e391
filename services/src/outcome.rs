//! What a service answers.

use std::borrow::Cow;

use ocp_proto::smtp::{CommandLine, Reply, SideEffect, Validity};

use crate::commitment::Commitment;
use crate::mail::Edits;
use crate::notification::Notification;

/// What a service answers to one event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// What becomes of the event's octets.
    pub change: Change,
    /// What the MTA should do besides, in this order; only what was granted.
    pub effects: Vec<SideEffect>,
    /// New messages to be submitted besides: of content only, where [`Request::may_notify`] says so, and
    /// at most [`Notification::MOST`].
    ///
    /// [`Request::may_notify`]: crate::Request::may_notify
    pub notifications: Vec<Notification>,
    /// What the service keeps only if the message goes on: of content only.
    pub commitments: Vec<Commitment>,
    /// What the service found.
    pub finding: Finding,
    /// Whether the service needs no more events of this envelope: RCPT, DATA and MESSAGE after MAIL.
    /// They stay away if every service of the group that wants some of them says so in the same
    /// answer; so say it again as long as it holds.
    pub envelope_done: bool,
    /// How long this answer may be used again without asking, and what it depends on besides the
    /// command line; `None` if never. Whatever else the answer was made of (the recipients, TLS, a
    /// counter, an event that was seen before) makes it one that may not. CONNECT, HELO, MAIL and
    /// RCPT only, without side effects; it is not said where another service of the group says
    /// nothing. Of an event that is answered so the service hears nothing.
    pub validity: Option<Validity>,
}

/// What becomes of an event's octets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// They stay.
    None,
    /// Another command line with the same verb (command modification).
    Command(CommandLine),
    /// Edits over the message that the service saw (content modification).
    Content(Edits),
    /// A reply instead of the event (command satisfaction): 4xx or 5xx; 2xx to content only
    /// together with discard, quarantine or hold. Where the event is a reply, another one in its place
    /// (reply modification), see [`may_replace`](ocp_proto::smtp::may_replace).
    Reply(Reply),
}

/// What a service found, for people, logs and traces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// One word, lower case: `clean`, `spam`, `infected`, `unchanged`, ...
    pub verdict: Cow<'static, str>,
    /// A number that only the service can read.
    pub score: Option<String>,
    /// Why.
    pub reason: Option<String>,
}

impl Finding {
    /// A verdict without score and reason.
    pub fn new(verdict: impl Into<Cow<'static, str>>) -> Self {
        Self { verdict: verdict.into(), score: None, reason: None }
    }

    /// The same with a score.
    pub fn with_score(mut self, score: impl Into<String>) -> Self {
        self.score = Some(score.into());
        self
    }

    /// The same with a reason.
    pub fn with_reason(mut self, reason: impl Into<String>) -> Self {
        self.reason = Some(reason.into());
        self
    }
}

impl Outcome {
    /// Nothing to change and nothing to ask for.
    pub fn unchanged(finding: Finding) -> Self {
        Self {
            change: Change::None,
            effects: Vec::new(),
            notifications: Vec::new(),
            commitments: Vec::new(),
            finding,
            envelope_done: false,
            validity: None,
        }
    }

    /// A change with a verdict.
    pub fn changed(change: Change, verdict: impl Into<Cow<'static, str>>) -> Self {
        Self { change, ..Self::unchanged(Finding::new(verdict)) }
    }

    /// The same with another finding.
    pub fn with_finding(mut self, finding: Finding) -> Self {
        self.finding = finding;
        self
    }

    /// The same with one more side effect.
    pub fn with_effect(mut self, effect: SideEffect) -> Self {
        self.effects.push(effect);
        self
    }

    /// The same with one more new message.
    pub fn with_notification(mut self, notification: Notification) -> Self {
        self.notifications.push(notification);
        self
    }

    /// The same, and the service hears what becomes of the message.
    pub fn with_commitment(mut self, commitment: Commitment) -> Self {
        self.commitments.push(commitment);
        self
    }

    /// The same, and this service needs no more events of the envelope.
    pub fn with_envelope_done(mut self) -> Self {
        self.envelope_done = true;
        self
    }

    /// The same, and it may be used again.
    pub fn with_validity(mut self, validity: Validity) -> Self {
        self.validity = Some(validity);
        self
    }
}
