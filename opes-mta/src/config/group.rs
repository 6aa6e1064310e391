//! `[[group]]`: callout servers that are worth the same, and what is asked of them.

use std::collections::HashSet;
use std::fmt;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ocp_proto::smtp::{FailurePolicy, ProfileKind};
use serde::Deserialize;
use toml::Spanned;

use super::checked::{Checker, Limits};
use super::error::ConfigError;
use super::raw::{Asked, Negotiation, Policy, RawGroup, RawTls};
use super::system::text;
use crate::consult::Policy as Consulting;
use crate::group::{GroupSettings, Overload};
use crate::ocp::{ServerAddress, Tls, TlsNegotiation, TlsSettings, service_uri};

/// Servers of which any can be asked, and the services that each of them is asked for.
#[derive(Clone, Debug)]
pub struct Group {
    /// What rules and the log call it.
    pub name: String,
    /// The servers; at least one.
    pub servers: Vec<ServerAddress>,
    /// How connections to them are secured; there if a server needs it.
    pub tls: Option<Tls>,
    /// URIs of the services, in their order; at least one.
    pub services: Vec<String>,
    /// Whether it is asked about commands and content, or about a next hop's replies.
    pub profile: ProfileKind,
    /// What happens to mail that could not be adapted, if that is stricter than what the server says.
    pub on_failure: FailurePolicy,
    /// For the answer to a command; no more than [`Limits::command_deadline`].
    pub command_deadline: Duration,
    /// For the answer to content; no more than [`Limits::content_deadline`].
    pub content_deadline: Duration,
    /// Connections to each server.
    pub connections: u32,
    /// Transactions that are open at a time at each server. A group all of whose servers have so many is
    /// overloaded.
    pub open_limit: u32,
    /// What happens to events while the group is overloaded.
    pub overload: Overload,
    /// After so many failures within `eject_after` a server is not asked.
    pub eject_failures: u32,
    /// The time in which failures are counted.
    pub eject_after: Duration,
    /// How long a server is not asked then, at first; see [`GroupSettings::revival`].
    pub revive_after: Duration,
    /// The share of dialogs, above 0 and up to 1, that is shown to the group without changing anything,
    /// while the log says what would have happened; `None`: the group takes effect.
    pub shadow: Option<f64>,
    /// What happens to a message of which recipients get different versions, if the front end has one for
    /// all.
    pub recipients_differ: RecipientsDiffer,
    /// Whether a milter has the mail server send all of a body though no service looks at all of it. Else no
    /// service can change a body before its end.
    pub whole_body: bool,
}

/// What happens to a message of which recipients get different versions, if the front end has one for all
/// (profile section 5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RecipientsDiffer {
    /// All are refused.
    #[default]
    Reject,
    /// The sender tries again later, for all.
    Tempfail,
    /// It is quarantined, if the front end can; else all are refused.
    Quarantine,
}

impl fmt::Display for RecipientsDiffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Reject => "reject",
            Self::Tempfail => "tempfail",
            Self::Quarantine => "quarantine",
        })
    }
}

impl Group {
    /// A group with the defaults of everything else.
    pub fn new(name: String, servers: Vec<ServerAddress>, services: Vec<String>) -> Self {
        let defaults = GroupSettings::default();
        let Consulting { command_deadline, content_deadline, on_failure, .. } = defaults.policy;
        Self {
            name,
            servers,
            tls: None,
            services,
            profile: ProfileKind::default(),
            on_failure,
            command_deadline,
            content_deadline,
            connections: defaults.connections,
            open_limit: defaults.open_limit,
            overload: defaults.overload,
            eject_failures: defaults.failures,
            eject_after: defaults.failure_window,
            revive_after: defaults.revival,
            shadow: None,
            recipients_differ: RecipientsDiffer::default(),
            whole_body: false,
        }
    }

    /// How its servers are used.
    pub fn settings(&self) -> GroupSettings {
        let policy = Consulting {
            command_deadline: self.command_deadline,
            content_deadline: self.content_deadline,
            on_failure: self.on_failure,
            ..Consulting::default()
        };
        GroupSettings {
            policy,
            connections: self.connections,
            open_limit: self.open_limit,
            overload: self.overload,
            failures: self.eject_failures,
            failure_window: self.eject_after,
            revival: self.revive_after,
            ..GroupSettings::default()
        }
    }
}

impl Checker<'_> {
    pub(super) fn groups(
        &self,
        raw: &[Spanned<RawGroup>],
        limits: &Limits,
    ) -> Result<Vec<Group>, ConfigError> {
        if raw.is_empty() {
            return Err(self.error("there is no [[group]]: nobody would look at any mail", None));
        }
        self.unique(raw.iter().map(|group| &group.get_ref().name), "group")?;
        raw.iter().map(|group| self.group(group.get_ref(), limits)).collect()
    }

    fn group(&self, raw: &RawGroup, limits: &Limits) -> Result<Group, ConfigError> {
        let name = self.value(&raw.name, text)?;
        let servers: Vec<ServerAddress> = self.values(&raw.servers, "servers", str::parse)?;
        let services = self.values(&raw.services, "services", service_uri)?;
        let defaults = Group::new(name, servers, services);
        let tls = self.group_tls(raw, &defaults.servers)?;
        let on_failure = raw.on_failure.map_or(defaults.on_failure, FailurePolicy::from);
        let deadline = |raw: &Option<Spanned<NonZeroU32>>, default: Duration, most: Duration| {
            let Some(raw) = raw else { return Ok(default.min(most)) };
            let chosen = seconds(*raw.get_ref());
            if chosen > most {
                let message = format!("[limits] allows {} s in all", most.as_secs());
                return Err(self.error(message, Some(raw.span())));
            }
            Ok(chosen)
        };
        let number = |raw: Option<NonZeroU32>, default| raw.map_or(default, NonZeroU32::get);
        Ok(Group {
            tls,
            on_failure,
            command_deadline: deadline(
                &raw.command_deadline,
                defaults.command_deadline,
                limits.command_deadline,
            )?,
            content_deadline: deadline(
                &raw.content_deadline,
                defaults.content_deadline,
                limits.content_deadline,
            )?,
            connections: number(raw.connections, defaults.connections),
            open_limit: number(raw.open_limit, defaults.open_limit),
            overload: self.overload(raw, on_failure)?,
            eject_failures: number(raw.eject_failures, defaults.eject_failures),
            eject_after: raw.eject_seconds.map_or(defaults.eject_after, seconds),
            revive_after: raw.revive_seconds.map_or(defaults.revive_after, seconds),
            profile: raw.profile.map_or(defaults.profile, ProfileKind::from),
            shadow: self.shadow(raw)?,
            recipients_differ: raw.recipients_differ.unwrap_or_default(),
            whole_body: raw.whole_body.unwrap_or_default(),
            ..defaults
        })
    }

    /// A policy that holds mail back when no server answers does not let it pass when they are busy.
    fn overload(&self, raw: &RawGroup, on_failure: FailurePolicy) -> Result<Overload, ConfigError> {
        let Some(overload) = &raw.overload else { return Ok(Overload::default()) };
        if *overload.get_ref() == Overload::Bypass && on_failure != FailurePolicy::Accept {
            let message = format!("bypass lets mail pass that on-failure = \"{on_failure}\" holds");
            return Err(self.error(message, Some(overload.span())));
        }
        Ok(*overload.get_ref())
    }

    fn shadow(&self, raw: &RawGroup) -> Result<Option<f64>, ConfigError> {
        let shadow = raw.shadow.as_ref().is_some_and(|shadow| *shadow.get_ref());
        if let (Some(written), true, Some(Asked::Reply)) = (&raw.shadow, shadow, raw.profile) {
            let message = "a group that is asked about replies takes effect: its shadow would be that of \
                           no message";
            return Err(self.error(message, Some(written.span())));
        }
        match (&raw.sample, shadow) {
            (None, shadow) => Ok(shadow.then_some(1.0)),
            (Some(sample), false) => {
                Err(self.error("a sample is for shadow = true", Some(sample.span())))
            }
            (Some(sample), true) if *sample.get_ref() > 0.0 && *sample.get_ref() <= 1.0 => {
                Ok(Some(*sample.get_ref()))
            }
            (Some(sample), true) => {
                let message = "a sample is above 0 and at most 1: 0.1 is every tenth dialog";
                Err(self.error(message, Some(sample.span())))
            }
        }
    }

    /// The certificates, read; and what the servers need of them.
    fn group_tls(
        &self,
        raw: &RawGroup,
        servers: &[ServerAddress],
    ) -> Result<Option<Tls>, ConfigError> {
        let mut seen = HashSet::new();
        for (server, written) in servers.iter().zip(raw.servers.get_ref()) {
            if !seen.insert(server) {
                return Err(self.error("it is there twice", Some(written.span())));
            }
            let needs = match (server, &raw.tls) {
                (ServerAddress::Tls(_), None) => {
                    "it needs [group.tls] with ca: the certificates of the authorities that sign the \
                     server's"
                }
                (ServerAddress::Unix(_), Some(RawTls { name: None, negotiation, .. }))
                    if !matches!(negotiation, Some(Negotiation::Off)) =>
                {
                    "TLS needs a name in [group.tls]: a unix socket does not say the server's"
                }
                _ => continue,
            };
            return Err(self.error(needs, Some(written.span())));
        }
        raw.tls.as_ref().map(|tls| self.tls(tls)).transpose()
    }

    fn tls(&self, raw: &RawTls) -> Result<Tls, ConfigError> {
        let RawTls { negotiation, ca, certificate, key, name } = raw;
        let path = |path: &Spanned<PathBuf>| self.folder().join(path.get_ref());
        let identity = match (certificate, key) {
            (Some(certificate), Some(key)) => Some((path(certificate), path(key))),
            (None, None) => None,
            (Some(alone), None) => {
                return Err(self.error("its private key is missing: key", Some(alone.span())));
            }
            (None, Some(alone)) => {
                let message = "the certificate that it belongs to is missing: certificate";
                return Err(self.error(message, Some(alone.span())));
            }
        };
        let negotiation = match negotiation {
            Some(Negotiation::Off) => TlsNegotiation::Off,
            Some(Negotiation::Offer) => TlsNegotiation::Offer,
            Some(Negotiation::Required) | None => TlsNegotiation::Required,
        };
        let settings = TlsSettings {
            negotiation,
            ca: path(ca),
            identity,
            name: name.as_ref().map(|name| name.get_ref().clone()),
        };
        Tls::new(&settings).map_err(|error| {
            let is_wrong = |written: &&Spanned<PathBuf>| {
                error.file.as_deref().is_some_and(|file: &Path| file == path(written))
            };
            let mut files = [Some(ca), certificate.as_ref(), key.as_ref()].into_iter().flatten();
            let span = files.find(is_wrong).map(Spanned::span);
            let span = span.or(name.as_ref().map(Spanned::span));
            self.error(error, span)
        })
    }
}

pub(super) fn seconds(number: NonZeroU32) -> Duration {
    Duration::from_secs(number.get().into())
}

impl From<Asked> for ProfileKind {
    fn from(asked: Asked) -> Self {
        match asked {
            Asked::Command => Self::Command,
            Asked::Reply => Self::Reply,
        }
    }
}

impl From<Policy> for FailurePolicy {
    fn from(policy: Policy) -> Self {
        match policy {
            Policy::Accept => Self::Accept,
            Policy::Tempfail => Self::Tempfail,
            Policy::Reject => Self::Reject,
        }
    }
}
