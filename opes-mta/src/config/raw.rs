//! What stands in the file.

use std::num::{NonZeroU32, NonZeroU64};
use std::path::PathBuf;

use serde::Deserialize;
use toml::Spanned;

use super::group::RecipientsDiffer;
use crate::group::Overload;
use crate::telemetry::RawTelemetry;

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub(super) struct Raw {
    pub(super) system: Option<RawSystem>,
    pub(super) listen: Vec<Spanned<RawListen>>,
    pub(super) group: Vec<Spanned<RawGroup>>,
    pub(super) rule: Vec<Spanned<RawRule>>,
    pub(super) limits: RawLimits,
    pub(super) temporary: RawTemporary,
    pub(super) bypass: RawBypass,
    pub(super) admin: Option<RawAdmin>,
    pub(super) telemetry: Option<Spanned<RawTelemetry>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct RawAdmin {
    pub(super) listen: Spanned<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct RawSystem {
    pub(super) uri: Spanned<String>,
    pub(super) name: Spanned<String>,
    pub(super) services_in_trace: Option<bool>,
    pub(super) disclosure: Option<RawDisclosure>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct RawDisclosure {
    pub(super) listen: Spanned<String>,
    pub(super) operator: Spanned<String>,
    pub(super) privacy_policy: Spanned<String>,
    pub(super) contact: Spanned<String>,
    pub(super) reference_validity: Spanned<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct RawListen {
    pub(super) name: Option<Spanned<String>>,
    pub(super) milter: Spanned<String>,
}

/// Deadlines are in seconds.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct RawGroup {
    pub(super) name: Spanned<String>,
    pub(super) servers: Spanned<Vec<Spanned<String>>>,
    pub(super) tls: Option<RawTls>,
    pub(super) services: Spanned<Vec<Spanned<String>>>,
    pub(super) profile: Option<Asked>,
    pub(super) on_failure: Option<Policy>,
    pub(super) command_deadline: Option<Spanned<NonZeroU32>>,
    pub(super) content_deadline: Option<Spanned<NonZeroU32>>,
    pub(super) connections: Option<NonZeroU32>,
    pub(super) open_limit: Option<NonZeroU32>,
    pub(super) overload: Option<Spanned<Overload>>,
    pub(super) eject_failures: Option<NonZeroU32>,
    pub(super) eject_seconds: Option<NonZeroU32>,
    pub(super) revive_seconds: Option<NonZeroU32>,
    pub(super) shadow: Option<Spanned<bool>>,
    pub(super) sample: Option<Spanned<f64>>,
    pub(super) recipients_differ: Option<RecipientsDiffer>,
    pub(super) whole_body: Option<bool>,
}

/// What a group is asked about.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Asked {
    Command,
    Reply,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Policy {
    Accept,
    Tempfail,
    Reject,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct RawTls {
    pub(super) negotiation: Option<Negotiation>,
    pub(super) ca: Spanned<PathBuf>,
    pub(super) certificate: Option<Spanned<PathBuf>>,
    pub(super) key: Option<Spanned<PathBuf>>,
    pub(super) name: Option<Spanned<String>>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Negotiation {
    Required,
    Offer,
    Off,
}

/// Names and patterns; an absent list matches everybody.
pub(super) type RawList = Option<Spanned<Vec<Spanned<String>>>>;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct RawRule {
    pub(super) name: Option<Spanned<String>>,
    pub(super) listen: RawList,
    pub(super) clients: RawList,
    pub(super) authenticated: Option<bool>,
    pub(super) senders: RawList,
    pub(super) recipients: RawList,
    pub(super) all_recipients: RawList,
    pub(super) groups: Vec<Spanned<String>>,
}

/// Deadlines are in seconds.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub(super) struct RawLimits {
    pub(super) connections: Option<NonZeroU32>,
    pub(super) message_octets: Option<Spanned<NonZeroU32>>,
    pub(super) content_octets: Option<Spanned<NonZeroU64>>,
    pub(super) memory_octets: Option<u32>,
    pub(super) disk_octets: Option<Spanned<u64>>,
    pub(super) shadow_octets: Option<NonZeroU64>,
    pub(super) command_deadline: Option<NonZeroU32>,
    pub(super) content_deadline: Option<NonZeroU32>,
    pub(super) progress_interval: Option<NonZeroU32>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub(super) struct RawTemporary {
    pub(super) folder: Option<Spanned<PathBuf>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub(super) struct RawBypass {
    pub(super) clients: Vec<Spanned<String>>,
    pub(super) authenticated: Option<bool>,
    pub(super) xopes_bypass: Option<bool>,
}
