//! What is known of a message in the quarantine.

use std::collections::BTreeMap;
use std::time::SystemTime;

use ocp_proto::smtp::{Address, Verdict};
use serde::{Deserialize, Serialize};

use crate::spool::{NewRecipient, Trace};
use crate::store::{Id, Moment, Record};

/// A message in the quarantine, as it stands in its file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kept {
    /// Its name.
    pub id: Id,
    /// When it came.
    pub arrived: Moment,
    /// When it is removed, whatever became of it; never if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Moment>,
    /// Octets of the message.
    pub octets: u64,
    /// Why it is here, for people.
    pub reason: String,
    /// The return path, with ESMTP parameters.
    #[serde(with = "crate::store::address")]
    pub sender: Address,
    /// Whom it is for.
    pub recipients: Vec<NewRecipient>,
    /// What is known of who sent it: `client-address`, `client-name`, `helo`, `auth`, ...
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub client: BTreeMap<String, String>,
    /// What each service found.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub verdicts: Vec<Found>,
    /// The services that have looked at it, of which one or more stopped it: side effects do not say whose they
    /// are (profile section 6). None of them is asked again after it is released.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stopped_by: Vec<String>,
    /// What traces and reports say of its way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<Trace>,
    /// The name that the mail server before us has for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue_id: Option<String>,
    /// What became of it.
    pub state: State,
}

/// What became of a message in the quarantine.
///
/// ```text
///  kept ──▶ releasing ──▶ released
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "lowercase", deny_unknown_fields)]
pub enum State {
    /// It waits for somebody to look at it.
    Kept,
    /// It is in the spool, and will be delivered; a process ended before it could say so there.
    Releasing {
        /// Since when.
        at: Moment,
    },
    /// It was given to the spool.
    Released {
        /// When.
        at: Moment,
    },
}

/// What a service found (profile section 4).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Found {
    /// The service's URI.
    pub service: String,
    /// One word.
    pub verdict: String,
    /// A number that only the service can read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub score: Option<String>,
    /// Why, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// A message that comes into the quarantine.
#[derive(Clone, Debug)]
pub struct Arrival {
    /// See [`Kept::reason`].
    pub reason: String,
    /// See [`Kept::expires`].
    pub expires: Option<SystemTime>,
    /// See [`Kept::sender`].
    pub sender: Address,
    /// Whom it is for; at least one.
    pub recipients: Vec<NewRecipient>,
    /// See [`Kept::client`].
    pub client: BTreeMap<String, String>,
    /// What each service found.
    pub verdicts: Vec<Verdict>,
    /// See [`Kept::stopped_by`].
    pub stopped_by: Vec<String>,
    /// See [`Kept::trace`].
    pub trace: Option<Trace>,
    /// See [`Kept::queue_id`].
    pub queue_id: Option<String>,
}

impl Kept {
    pub(super) fn new(id: Id, arrival: Arrival, arrived: Moment) -> Self {
        let Arrival {
            reason,
            expires,
            sender,
            recipients,
            client,
            verdicts,
            stopped_by,
            trace,
            queue_id,
        } = arrival;
        Self {
            id,
            arrived,
            expires: expires.map(Moment::from),
            octets: 0,
            reason,
            sender,
            recipients,
            client,
            verdicts: verdicts.iter().map(Found::from).collect(),
            stopped_by,
            trace,
            queue_id,
            state: State::Kept,
        }
    }

    /// Whether its time is over. One whose release was interrupted stays until that is finished.
    pub fn is_expired(&self, now: Moment) -> bool {
        self.expires.is_some_and(|expires| expires <= now) && !self.is_releasing()
    }

    pub(super) fn is_releasing(&self) -> bool {
        matches!(self.state, State::Releasing { .. })
    }
}

impl State {
    /// One word for people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kept => "kept",
            Self::Releasing { .. } => "releasing",
            Self::Released { .. } => "released",
        }
    }
}

impl From<&Verdict> for Found {
    fn from(verdict: &Verdict) -> Self {
        let text = |octets: &[u8]| String::from_utf8_lossy(octets).into_owned();
        Self {
            service: text(&verdict.service),
            verdict: text(&verdict.verdict),
            score: verdict.score.as_deref().map(text),
            reason: verdict.reason.as_deref().map(text),
        }
    }
}

impl Record for Kept {
    const KIND: &'static str = "quarantine";
    const FORMAT: &'static str = "opes-mta-quarantine/1";

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
