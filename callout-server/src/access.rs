//! Who may use what: rules by address and by name, the first that matches decides (profile section
//! 9).

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use ocp_proto::smtp::EffectName;
use opes_mta::config::{self, Clients};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tracing::Span;

/// The other end of a connection, as far as it is known.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    pub(crate) origin: Origin,
    /// `None` in plain text. With TLS the DNS names of its verified certificate: none if it has
    /// shown no certificate.
    pub(crate) names: Option<Vec<String>>,
}

/// Where a connection comes from.
#[derive(Clone, Debug)]
pub(crate) enum Origin {
    Tcp(SocketAddr),
    /// The socket that was connected to.
    Unix(PathBuf),
}

impl Peer {
    pub(crate) fn plain(origin: Origin) -> Self {
        Self { origin, names: None }
    }
}

impl Origin {
    pub(crate) fn is_tcp(&self) -> bool {
        matches!(self, Self::Tcp(_))
    }

    /// The same, as sets of clients know it.
    fn client(&self) -> config::Origin {
        match self {
            Self::Tcp(address) => config::Origin::Address(address.ip()),
            Self::Unix(_) => config::Origin::Unix,
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// The rules in their order. Without rules everybody may use everything; with rules, whom none of
/// them matches may use nothing.
#[derive(Debug, Default)]
pub struct Rules(Vec<Arc<Rule>>);

/// What those may use whom it matches.
#[derive(Debug)]
pub struct Rule {
    /// What logs call it.
    pub name: String,
    /// The addresses that it matches; empty: all.
    pub clients: Vec<Clients>,
    /// The names in certificates that it matches; empty: no certificate is needed.
    pub certificates: Vec<NamePattern>,
    /// Nothing may be used.
    pub deny: bool,
    /// The services that exist for them; `None`: all.
    pub services: Option<Vec<String>>,
    /// The side effects that they are granted at most; `None`: all.
    pub effects: Option<Vec<EffectName>>,
    /// What all of them together, or one of their connections, may use up.
    pub limits: RuleLimits,
    places: Arc<Semaphore>,
}

/// Bounds of a rule, besides those of the whole server: the smaller one counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuleLimits {
    /// Connections at a time of all whom the rule matches; one more is refused with CE 400.
    pub connections: Option<usize>,
    /// Dialogs of a connection; one more is refused with Dialog-End 400.
    pub dialogs: Option<usize>,
    /// Transactions of a connection at a time; one more is refused with TE 400.
    pub transactions: Option<usize>,
    /// Octets of one message; a larger one is refused with TE 400.
    pub message_octets: Option<u32>,
}

/// A DNS name in a certificate; `*.example.net` stands for every name with one label more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamePattern(String);

/// What one connection may use. Its place among the connections of its rule is free again when this
/// is dropped.
#[derive(Debug, Default)]
pub(crate) struct Access {
    rule: Option<Arc<Rule>>,
    _place: Option<OwnedSemaphorePermit>,
}

/// Why a connection may use nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("access denied")]
    Denied { rule: Option<String> },
    #[error("too many connections")]
    Full { rule: String },
}

impl Refusal {
    /// The rule that decided.
    pub(crate) fn rule(&self) -> Option<&str> {
        match self {
            Self::Denied { rule } => rule.as_deref(),
            Self::Full { rule } => Some(rule),
        }
    }
}

impl Rules {
    /// Rules in their order.
    pub fn new(rules: Vec<Rule>) -> Self {
        Self(rules.into_iter().map(Arc::new).collect())
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The rules in their order.
    pub fn iter(&self) -> impl Iterator<Item = &Rule> {
        self.0.iter().map(AsRef::as_ref)
    }

    /// What a peer may use, as far as it is known now.
    pub(crate) fn admit(&self, peer: &Peer) -> Result<Access, Refusal> {
        if self.is_empty() {
            return Ok(Access::default());
        }
        let rule = self.0.iter().find(|rule| rule.matches(peer));
        let rule = rule.ok_or(Refusal::Denied { rule: None })?;
        if rule.deny {
            return Err(Refusal::Denied { rule: Some(rule.name.clone()) });
        }
        let place = Arc::clone(&rule.places).try_acquire_owned();
        let place = place.map_err(|_| Refusal::Full { rule: rule.name.clone() })?;
        Ok(Access { rule: Some(Arc::clone(rule)), _place: Some(place) })
    }

    /// Whether a certificate could make a peer of this origin welcome.
    pub(crate) fn wants_certificate(&self, origin: &Origin) -> bool {
        let mut rules = self.0.iter();
        rules.any(|rule| !rule.deny && !rule.certificates.is_empty() && rule.matches_origin(origin))
    }
}

impl Rule {
    /// A rule for everybody that allows everything within these limits.
    pub fn new(name: impl Into<String>, limits: RuleLimits) -> Self {
        let places = limits.connections.unwrap_or(Semaphore::MAX_PERMITS);
        Self {
            name: name.into(),
            clients: Vec::new(),
            certificates: Vec::new(),
            deny: false,
            services: None,
            effects: None,
            limits,
            places: Arc::new(Semaphore::new(places.min(Semaphore::MAX_PERMITS))),
        }
    }

    /// Whether no later rule ever decides.
    pub fn matches_everybody(&self) -> bool {
        self.clients.is_empty() && self.certificates.is_empty()
    }

    fn matches(&self, peer: &Peer) -> bool {
        let named = || {
            let mut names = peer.names.iter().flatten();
            names.any(|name| self.certificates.iter().any(|pattern| pattern.matches(name)))
        };
        self.matches_origin(&peer.origin) && (self.certificates.is_empty() || named())
    }

    fn matches_origin(&self, origin: &Origin) -> bool {
        self.clients.is_empty()
            || self.clients.iter().any(|clients| clients.contain(origin.client()))
    }
}

impl Access {
    /// Names the rule in the connection's log lines.
    pub(crate) fn record(&self) {
        if let Some(rule) = &self.rule {
            Span::current().record("rule", rule.name.as_str());
        }
    }

    /// Whether this service exists for the peer.
    pub(crate) fn has_service(&self, name: &str) -> bool {
        let services = self.rule.as_ref().and_then(|rule| rule.services.as_ref());
        services.is_none_or(|services| services.iter().any(|known| known == name))
    }

    /// Whether the peer may be asked for this side effect.
    pub(crate) fn has_effect(&self, effect: EffectName) -> bool {
        let effects = self.rule.as_ref().and_then(|rule| rule.effects.as_ref());
        effects.is_none_or(|effects| effects.contains(&effect))
    }

    /// Its limits; none where the server's are the only ones.
    pub(crate) fn limits(&self) -> Option<&RuleLimits> {
        self.rule.as_ref().map(|rule| &rule.limits)
    }
}

impl NamePattern {
    /// `name` is in lower case.
    fn matches(&self, name: &str) -> bool {
        match self.0.strip_prefix('*') {
            Some(domain) => name
                .strip_suffix(domain)
                .is_some_and(|label| !label.is_empty() && !label.contains('.')),
            None => self.0 == name,
        }
    }
}

impl FromStr for NamePattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let name = text.strip_prefix("*.").unwrap_or(text);
        match rustls::pki_types::DnsName::try_from(name) {
            Ok(_) => Ok(Self(text.to_ascii_lowercase())),
            Err(_) => Err(format!(
                "{text} is no name of a certificate: write mta.example.net or *.example.net"
            )),
        }
    }
}

impl fmt::Display for NamePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// In one line, for people.
impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut words = Vec::new();
        let mut list = |label: &str, items: Vec<String>| {
            if !items.is_empty() {
                words.push(format!("{label} {}", items.join(" ")));
            }
        };
        list("clients", self.clients.iter().map(ToString::to_string).collect());
        list("certificates", self.certificates.iter().map(ToString::to_string).collect());
        if words.is_empty() {
            words.push("everybody".to_owned());
        }
        let who = words.join(", ");
        if self.deny {
            return write!(f, "{}: {who}: denied", self.name);
        }
        let names = |names: Vec<&str>| match names.is_empty() {
            true => "none".to_owned(),
            false => names.join(" "),
        };
        let services = self.services.as_ref().map_or("all".to_owned(), |services| {
            names(services.iter().map(String::as_str).collect())
        });
        let effects = self.effects.as_ref().map_or("all".to_owned(), |effects| {
            names(effects.iter().map(|effect| effect.name()).collect())
        });
        write!(f, "{}: {who}: services {services}; effects {effects}", self.name)?;
        let RuleLimits { connections, dialogs, transactions, message_octets } = &self.limits;
        let bounds = [
            ("connections", *connections),
            ("dialogs", *dialogs),
            ("transactions", *transactions),
            ("message-octets", message_octets.map(|octets| octets as usize)),
        ];
        for (name, bound) in bounds {
            if let Some(bound) = bound {
                write!(f, "; {name} {bound}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(address: &str, names: Option<&[&str]>) -> Peer {
        let names = names.map(|names| names.iter().map(|name| (*name).to_owned()).collect());
        Peer { origin: Origin::Tcp(SocketAddr::new(address.parse().unwrap(), 1)), names }
    }

    fn rule(name: &str, clients: &[&str], certificates: &[&str]) -> Rule {
        Rule {
            clients: clients.iter().map(|text| text.parse().unwrap()).collect(),
            certificates: certificates.iter().map(|text| text.parse().unwrap()).collect(),
            ..Rule::new(name, RuleLimits::default())
        }
    }

    fn decided(rules: &Rules, peer: &Peer) -> String {
        match rules.admit(peer) {
            Ok(access) => access.rule.as_ref().map_or("no rules", |rule| &rule.name).to_owned(),
            Err(Refusal::Denied { rule }) => format!("denied by {}", rule.unwrap_or_default()),
            Err(Refusal::Full { rule }) => format!("{rule} is full"),
        }
    }

    #[test]
    fn a_star_stands_for_one_label() {
        let cases = [
            ("mta.example.net", "mta.example.net", true),
            ("MTA.example.net", "mta.example.net", true),
            ("mta.example.net", "xmta.example.net", false),
            ("*.example.net", "mta.example.net", true),
            ("*.example.net", "example.net", false),
            ("*.example.net", ".example.net", false),
            ("*.example.net", "a.b.example.net", false),
            ("*.example.net", "mta.badexample.net", false),
        ];
        for (pattern, name, same) in cases {
            let pattern: NamePattern = pattern.parse().unwrap();
            assert_eq!(pattern.matches(name), same, "{pattern} {name}");
        }
        for wrong in ["", "*", "*.", "a.*.example.net", "**.example.net", "a b", "mta*.example.net"]
        {
            assert!(wrong.parse::<NamePattern>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_first_rule_that_matches_decides() {
        assert_eq!(decided(&Rules::default(), &tcp("192.0.2.1", None)), "no rules");
        let denied = Rule { deny: true, ..rule("bad", &["192.0.2.66"], &[]) };
        let rules = Rules::new(vec![
            denied,
            rule("named", &["192.0.2.0/24"], &["*.example.net"]),
            rule("near", &["192.0.2.0/25", "unix"], &[]),
        ]);
        let cases = [
            (tcp("192.0.2.66", Some(&["mta.example.net"])), "denied by bad"),
            (tcp("192.0.2.1", Some(&["x", "mta.example.net"])), "named"),
            (tcp("192.0.2.1", Some(&["mta.example.org"])), "near"),
            (tcp("192.0.2.1", Some(&[])), "near"),
            (tcp("192.0.2.1", None), "near"),
            (tcp("192.0.2.200", None), "denied by "),
            (tcp("198.51.100.1", Some(&["mta.example.net"])), "denied by "),
            (Peer::plain(Origin::Unix("/run/x".into())), "near"),
        ];
        for (peer, rule) in cases {
            assert_eq!(decided(&rules, &peer), rule, "{peer:?}");
        }
        assert!(rules.wants_certificate(&tcp("192.0.2.200", None).origin));
        assert!(!rules.wants_certificate(&tcp("198.51.100.1", None).origin));
    }

    #[test]
    fn a_rule_counts_its_own_connections() {
        let limits = RuleLimits { connections: Some(2), ..RuleLimits::default() };
        let few = Rule { clients: vec!["192.0.2.1".parse().unwrap()], ..Rule::new("few", limits) };
        let rules = Rules::new(vec![few, rule("others", &[], &[])]);
        let peer = tcp("192.0.2.1", None);
        let first = rules.admit(&peer).unwrap();
        let _second = rules.admit(&peer).unwrap();
        assert_eq!(decided(&rules, &peer), "few is full");
        assert_eq!(decided(&rules, &tcp("192.0.2.2", None)), "others");
        drop(first);
        assert_eq!(decided(&rules, &peer), "few");
    }

    #[test]
    fn a_rule_says_what_exists() {
        let narrow = Rule {
            services: Some(vec!["log".to_owned()]),
            effects: Some(Vec::new()),
            ..rule("narrow", &["::1"], &[])
        };
        assert_eq!(narrow.to_string(), "narrow: clients ::1/128: services log; effects none");
        let access = Rules::new(vec![narrow]).admit(&tcp("::1", None)).unwrap();
        assert!(access.has_service("log") && !access.has_service("virus-scan"));
        assert!(!access.has_effect(EffectName::Discard));
        let all = Access::default();
        assert!(all.has_service("virus-scan") && all.has_effect(EffectName::Discard));
    }
}
