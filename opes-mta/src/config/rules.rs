//! Which groups are asked about a dialog's events: rules, of which the first that matches decides.
//!
//! A dialog becomes known bit by bit, so each event is asked about with what is known at it:
//!
//! | condition | what is known, and when |
//! | --- | --- |
//! | `listen`, `clients` | all, from CONNECT on |
//! | `authenticated` | that it is, at once; that it is not, from MAIL on (RFC 4954 section 4) |
//! | `senders` | all, from MAIL on |
//! | `recipients` | that one of them is listed, from its RCPT on; that none is, from DATA on |
//! | `all-recipients` | that one of them is not listed, from its RCPT on; that all are, from DATA on |
//!
//! A rule matches if all its conditions do. While it is open which rule decides, an event goes to the
//! groups that all rules name that may still decide, in the order of the first of them, and to no other:
//! nothing that becomes known later takes a group away that was asked. From DATA on a rule has decided. Where none matches, all groups are
//! asked in the file's order: mail that nobody looks at is mail for which a rule says so.

use std::fmt;

use ocp_proto::smtp::Address;

use super::address::AddressPattern;
use super::clients::{Clients, Origin};

/// Rules in their order, and behind them what holds where none of them matches.
#[derive(Clone, Debug)]
pub struct Rules {
    rules: Vec<Rule>,
    otherwise: Rule,
}

/// Whose events go to which groups. A condition that is empty matches everybody.
#[derive(Clone, Debug, Default)]
pub struct Rule {
    /// What the log calls it.
    pub name: String,
    /// Names of front ends.
    pub listen: Vec<String>,
    /// SMTP clients.
    pub clients: Vec<Clients>,
    /// Whether the client has authenticated.
    pub authenticated: Option<bool>,
    /// Senders.
    pub senders: Vec<AddressPattern>,
    /// Recipients: at least one of the message's is listed.
    pub recipients: Vec<AddressPattern>,
    /// Recipients: all of the message's are listed.
    pub all_recipients: Vec<AddressPattern>,
    /// The groups, in the order in which they are asked: positions in
    /// [`Config::groups`](super::Config::groups).
    pub groups: Vec<usize>,
}

/// What is known of a dialog at an event. Addresses are those that the client gave: what services make
/// of them does not bring a message to other services.
#[derive(Clone, Copy, Debug)]
pub struct Known<'a> {
    /// The name of the front end.
    pub listen: &'a str,
    /// Where the client is.
    pub origin: Origin,
    /// Whether it has authenticated by now.
    pub authenticated: bool,
    /// The sender; `None` before MAIL.
    pub sender: Option<&'a Address>,
    /// The recipients that were accepted.
    pub recipients: &'a [Address],
    /// At RCPT, the recipient that it names.
    pub recipient: Option<&'a Address>,
    /// Whether there will be no more recipients: from DATA on.
    pub complete: bool,
}

/// What the rules say of an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selection<'a> {
    /// The groups that are asked, in this order: positions in
    /// [`Config::groups`](super::Config::groups).
    pub groups: Vec<usize>,
    /// The name of the rule that decided; `None` while that is open.
    pub rule: Option<&'a str>,
}

/// Whether a condition holds. A rule is as its worst condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Match {
    /// It does not, whatever becomes known.
    No,
    /// Not known yet.
    Open,
    /// It does, whatever becomes known.
    Yes,
}

/// What stands in the log where no rule matches.
const NO_RULE: &str = "(no rule)";

impl Rules {
    /// Rules in their order, for so many groups.
    pub fn new(rules: Vec<Rule>, groups: usize) -> Self {
        let name = NO_RULE.to_owned();
        let otherwise = Rule { name, groups: (0..groups).collect(), ..Rule::default() };
        Self { rules, otherwise }
    }

    /// The rules of the file, in their order.
    pub fn written(&self) -> &[Rule] {
        &self.rules
    }

    /// The rules in their order, with the one that holds where no other does.
    pub fn iter(&self) -> impl Iterator<Item = &Rule> {
        self.rules.iter().chain([&self.otherwise])
    }

    /// The groups that are asked about an event.
    pub fn groups(&self, known: &Known<'_>) -> Selection<'_> {
        let mut open = Vec::new();
        let mut last = &self.otherwise;
        for rule in &self.rules {
            match rule.matches(known) {
                Match::No => {}
                Match::Open => open.push(rule),
                Match::Yes => {
                    last = rule;
                    break;
                }
            }
        }
        let first = open.first().unwrap_or(&last);
        let certain = |group: &usize| open.iter().chain([&last]).all(|r| r.groups.contains(group));
        Selection {
            groups: first.groups.iter().copied().filter(certain).collect(),
            rule: open.is_empty().then_some(last.name.as_str()),
        }
    }
}

impl Rule {
    /// Whether no later rule ever decides.
    pub fn matches_everybody(&self) -> bool {
        let Self { listen, clients, authenticated, senders, recipients, all_recipients, .. } = self;
        listen.is_empty()
            && clients.is_empty()
            && authenticated.is_none()
            && [senders, recipients, all_recipients].iter().all(|patterns| patterns.is_empty())
    }

    fn matches(&self, known: &Known<'_>) -> Match {
        let conditions = [
            Match::from(self.listen.is_empty() || self.listen.iter().any(|l| l == known.listen)),
            Match::from(
                self.clients.is_empty() || self.clients.iter().any(|c| c.contain(known.origin)),
            ),
            self.matches_authentication(known),
            self.matches_sender(known),
            self.matches_some_recipient(known),
            self.matches_all_recipients(known),
        ];
        conditions.into_iter().min().unwrap_or(Match::Yes)
    }

    fn matches_authentication(&self, known: &Known<'_>) -> Match {
        match self.authenticated {
            None => Match::Yes,
            Some(_) if !known.authenticated && known.sender.is_none() => Match::Open,
            Some(wanted) => Match::from(wanted == known.authenticated),
        }
    }

    fn matches_sender(&self, known: &Known<'_>) -> Match {
        match known.sender {
            _ if self.senders.is_empty() => Match::Yes,
            None => Match::Open,
            Some(sender) => Match::from(is_listed(sender, &self.senders)),
        }
    }

    fn matches_some_recipient(&self, known: &Known<'_>) -> Match {
        let found = || known.all_recipients().any(|address| is_listed(address, &self.recipients));
        match known.complete {
            _ if self.recipients.is_empty() || found() => Match::Yes,
            true => Match::No,
            false => Match::Open,
        }
    }

    fn matches_all_recipients(&self, known: &Known<'_>) -> Match {
        let listed = |address| is_listed(address, &self.all_recipients);
        match known.complete {
            _ if self.all_recipients.is_empty() => Match::Yes,
            _ if !known.all_recipients().all(listed) => Match::No,
            true => Match::from(known.all_recipients().next().is_some()),
            false => Match::Open,
        }
    }
}

impl<'a> Known<'a> {
    fn all_recipients(&self) -> impl Iterator<Item = &'a Address> + use<'a> {
        self.recipients.iter().chain(self.recipient)
    }
}

impl From<bool> for Match {
    fn from(holds: bool) -> Self {
        if holds { Self::Yes } else { Self::No }
    }
}

fn is_listed(address: &Address, patterns: &[AddressPattern]) -> bool {
    patterns.iter().any(|pattern| pattern.matches(address))
}

/// The name and the conditions, in one line for people.
impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fn words<T: fmt::Display>(label: &str, items: &[T]) -> Option<String> {
            let items: Vec<String> = items.iter().map(ToString::to_string).collect();
            (!items.is_empty()).then(|| format!("{label} {}", items.join(" ")))
        }
        let authenticated = self.authenticated.map(|wanted| match wanted {
            true => "authenticated".to_owned(),
            false => "not authenticated".to_owned(),
        });
        let conditions: Vec<String> = [
            words("listen", &self.listen),
            words("clients", &self.clients),
            authenticated,
            words("senders", &self.senders),
            words("recipients", &self.recipients),
            words("all-recipients", &self.all_recipients),
        ]
        .into_iter()
        .flatten()
        .collect();
        let conditions = match conditions.is_empty() {
            true => "everybody".to_owned(),
            false => conditions.join(", "),
        };
        write!(f, "{}: {conditions}", self.name)
    }
}

#[cfg(test)]
mod tests;
