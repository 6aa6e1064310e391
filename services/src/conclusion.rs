//! What a group has made of an event, for services that tell others of it.

use std::fmt;

use ocp_proto::smtp::{Address, EffectName, Reply, SideEffect};
use serde::{Deserialize, Serialize};
use toml::Spanned;

use crate::outcome::Finding;
use crate::registry::SettingsError;
use crate::service::Request;

/// What has become of an event once all services of the group have answered.
#[derive(Clone, Copy, Debug)]
pub struct Conclusion<'a> {
    /// The event as the processor sent it, with all of its recipients.
    pub request: &'a Request,
    /// What services found, in their order; one that was asked about recipients apart has several.
    pub found: &'a [Found],
    /// What becomes of it; several where recipients differ.
    pub fates: &'a [Fate],
}

/// What a service found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The service, as the configuration calls it.
    pub service: String,
    /// What it said.
    pub finding: Finding,
}

/// What becomes of an event for some recipients, or for all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fate {
    /// Whom it is about; empty if the event names no recipients.
    pub recipients: Vec<Address>,
    /// The reply instead of the event.
    pub reply: Option<Reply>,
    /// Whether its octets were changed.
    pub is_changed: bool,
    /// What the MTA is asked to do besides.
    pub effects: Vec<SideEffect>,
}

/// What becomes of an event, in a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FateName {
    /// A reply refuses it for good.
    Refused,
    /// A reply has the client try again later.
    PutOff,
    /// The MTA takes it and throws it away.
    Discarded,
    /// The MTA keeps it for review.
    Quarantined,
    /// The MTA holds it.
    Held,
    /// It passes with other octets.
    Changed,
    /// It passes as it is.
    PassedOn,
}

impl Fate {
    /// Its name.
    pub fn name(&self) -> FateName {
        let asks = |name: EffectName| self.effects.iter().any(|effect| effect.name() == name);
        match &self.reply {
            Some(reply) if reply.is_permanent() => FateName::Refused,
            Some(reply) if !reply.is_success() => FateName::PutOff,
            _ if asks(EffectName::Discard) => FateName::Discarded,
            _ if asks(EffectName::Quarantine) => FateName::Quarantined,
            _ if asks(EffectName::Hold) => FateName::Held,
            _ if self.is_changed => FateName::Changed,
            _ => FateName::PassedOn,
        }
    }
}

impl Conclusion<'_> {
    /// The names of its fates, each once.
    pub(crate) fn fate_names(&self) -> Vec<FateName> {
        let mut names = Vec::new();
        for name in self.fates.iter().map(Fate::name) {
            if !names.contains(&name) {
                names.push(name);
            }
        }
        names
    }
}

/// As people say it.
impl fmt::Display for FateName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Refused => "refused",
            Self::PutOff => "put off",
            Self::Discarded => "discarded",
            Self::Quarantined => "quarantined",
            Self::Held => "held",
            Self::Changed => "changed",
            Self::PassedOn => "passed on",
        })
    }
}

/// Findings that a rule is about: `virus-scan=infected`, and with `*` any service or any verdict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FindingPattern {
    service: Option<String>,
    verdict: Option<String>,
}

impl FindingPattern {
    /// The pattern that stands in a configuration.
    ///
    /// # Errors
    /// If it does not name both.
    pub(crate) fn read(written: &Spanned<String>) -> Result<Self, SettingsError> {
        let named = |name: &str| (name != "*").then(|| name.to_owned());
        match written.get_ref().split_once('=') {
            Some((service, verdict)) if !service.is_empty() && !verdict.is_empty() => {
                Ok(Self { service: named(service), verdict: named(verdict) })
            }
            _ => {
                let message = "found names a service and its verdict, such as \
                               virus-scan=infected, or mime-strip=* for any";
                Err(SettingsError::at(written.span(), message))
            }
        }
    }

    /// Whether it is about this.
    pub(crate) fn matches(&self, found: &Found) -> bool {
        let Found { service, finding } = found;
        self.service.as_ref().is_none_or(|name| name == service)
            && self.verdict.as_ref().is_none_or(|verdict| **verdict == *finding.verdict)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_finds_what_it_names() {
        let found = Found { service: "virus-scan".to_owned(), finding: Finding::new("infected") };
        for (pattern, expected) in [
            ("virus-scan=infected", true),
            ("virus-scan=*", true),
            ("*=infected", true),
            ("*=*", true),
            ("virus-scan=clean", false),
            ("virus=infected", false),
            ("*=failed", false),
        ] {
            let read = FindingPattern::read(&Spanned::new(0..1, pattern.to_owned())).unwrap();
            assert_eq!(read.matches(&found), expected, "{pattern}");
        }
        for pattern in ["", "virus-scan", "=infected", "virus-scan="] {
            let error = FindingPattern::read(&Spanned::new(3..5, pattern.to_owned())).unwrap_err();
            assert_eq!(error.span, Some(3..5), "{pattern}");
        }
    }
}
