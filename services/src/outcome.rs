//! What a service answers.

use std::borrow::Cow;

use ocp_proto::smtp::{CommandLine, Reply, SideEffect};

use crate::mail::Edits;

/// What a service answers to one event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// What becomes of the event's octets.
    pub change: Change,
    /// What the MTA should do besides, in this order; only what was granted.
    pub effects: Vec<SideEffect>,
    /// What the service found.
    pub finding: Finding,
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
    /// together with discard, quarantine or hold.
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
        Self { change: Change::None, effects: Vec::new(), finding }
    }

    /// A change with a verdict.
    pub fn changed(change: Change, verdict: impl Into<Cow<'static, str>>) -> Self {
        Self { change, effects: Vec::new(), finding: Finding::new(verdict) }
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
}
