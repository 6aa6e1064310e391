//! What stands in the file: `[limits]`, `[timeouts]`, `[log]`, `[telemetry]`, `[admin]`, `[tls]`, `[[access]]` and
//! `[services.NAME]`.

use std::num::{NonZeroU32, NonZeroUsize};
use std::path::PathBuf;

use opes_mta::telemetry::RawTelemetry;
use serde::Deserialize;
use toml::Spanned;

use super::operators::{RawHistory, RawUser};
use super::security::{RawRule, RawTls};

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub(super) struct Raw {
    pub(super) listen: Option<Vec<Spanned<String>>>,
    pub(super) limits: RawLimits,
    pub(super) timeouts: RawTimeouts,
    pub(super) spool: RawSpool,
    pub(super) log: RawLog,
    pub(super) telemetry: Option<Spanned<RawTelemetry>>,
    pub(super) admin: Option<Spanned<RawAdmin>>,
    pub(super) history: RawHistory,
    pub(super) recipients_differ: Option<crate::branch::Fallback>,
    pub(super) tls: Option<RawTls>,
    pub(super) access: Vec<Spanned<RawRule>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub(super) struct RawLimits {
    pub(super) connections: Option<NonZeroUsize>,
    pub(super) groups: Option<NonZeroUsize>,
    pub(super) dialogs: Option<NonZeroUsize>,
    pub(super) transactions: Option<NonZeroUsize>,
    pub(super) message_octets: Option<NonZeroU32>,
    pub(super) content_octets: Option<NonZeroUsize>,
    pub(super) unsent_octets: Option<NonZeroUsize>,
    pub(super) head_octets: Option<NonZeroUsize>,
    pub(super) values: Option<NonZeroUsize>,
    pub(super) nesting: Option<NonZeroUsize>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub(super) struct RawSpool {
    pub(super) folder: Option<Spanned<PathBuf>>,
    pub(super) threshold_octets: Option<NonZeroUsize>,
    pub(super) octets: Option<NonZeroUsize>,
}

/// In seconds, but for `transaction-octets`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub(super) struct RawTimeouts {
    pub(super) handshake: Option<NonZeroU32>,
    pub(super) transaction: Option<NonZeroU32>,
    pub(super) transaction_octets: Option<NonZeroU32>,
    pub(super) idle: Option<NonZeroU32>,
    pub(super) ping: Option<NonZeroU32>,
    pub(super) progress: Option<NonZeroU32>,
    pub(super) drain: Option<NonZeroU32>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub(super) struct RawLog {
    pub(super) format: Option<super::LogFormat>,
    pub(super) level: Option<Spanned<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub(super) struct RawAdmin {
    pub(super) listen: Option<Spanned<String>>,
    pub(super) control: Option<Spanned<PathBuf>>,
    pub(super) user: Vec<Spanned<RawUser>>,
}

/// A service without its settings.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub(super) struct RawService {
    pub(super) kind: Option<Spanned<String>>,
    pub(super) uris: Vec<Spanned<String>>,
    pub(super) enabled: Option<bool>,
    pub(super) deadline: Option<NonZeroU32>,
    pub(super) on_failure: Option<Spanned<String>>,
    pub(super) recipients: Option<Vec<Spanned<String>>>,
    pub(super) bypassable: Option<Spanned<bool>>,
    pub(super) shadow: bool,
}
