//! How long an answer may be used again (profile section 4, `Valid-For` and `Valid-With`).

use crate::wire::Atom;
use std::collections::BTreeSet;
use std::fmt;

/// Something that an answer depends on besides its command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fact {
    /// The peer: its address and its verified name.
    Client,
    /// The name that the peer gave in HELO, EHLO or LHLO.
    Helo,
    /// Who authenticated, and how.
    Auth,
    /// The sender of the envelope in force, with its parameters.
    Sender,
}

impl Fact {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Client, Self::Helo, Self::Auth, Self::Sender];

    /// The name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Helo => "helo",
            Self::Auth => "auth",
            Self::Sender => "sender",
        }
    }

    /// The fact of this name.
    pub fn from_name(name: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|fact| fact.name().as_bytes() == name)
    }
}

impl fmt::Display for Fact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How long an answer may be used again for the same group and the same full command line, and
/// which facts must be the same then (RFC 3836 section 3.13).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Validity {
    /// For how many seconds.
    pub seconds: u32,
    /// What it depends on besides; what is not named may differ.
    pub with: BTreeSet<Fact>,
}

impl Validity {
    /// An answer that depends on the command line alone.
    pub fn new(seconds: u32) -> Self {
        Self { seconds, with: BTreeSet::new() }
    }

    /// The same for an answer that depends on this fact too.
    pub fn with_fact(mut self, fact: Fact) -> Self {
        self.with.insert(fact);
        self
    }

    /// That of an answer made of two: the shorter time, and the facts of both.
    pub fn and(mut self, other: Self) -> Self {
        self.seconds = self.seconds.min(other.seconds);
        self.with.extend(other.with);
        self
    }

    /// What an AME says; `None` if it names a fact that we don't know and so can't compare.
    pub fn from_names(seconds: u32, names: &[Atom]) -> Option<Self> {
        let with = names.iter().map(|name| Fact::from_name(name)).collect::<Option<_>>()?;
        Some(Self { seconds, with })
    }

    /// The names of the facts on the wire.
    pub fn names(&self) -> Vec<Atom> {
        self.with.iter().map(|fact| Atom::from_static(fact.name().as_bytes())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_hold_as_long_as_the_shorter_one_with_the_facts_of_both() {
        let one = Validity::new(60).with_fact(Fact::Sender).with_fact(Fact::Client);
        let both = one.clone().and(Validity::new(20).with_fact(Fact::Client));
        assert_eq!(both.seconds, 20);
        assert_eq!(both.names(), ["client", "sender"]);
        assert_eq!(Validity::from_names(20, &both.names()), Some(both));
        assert_eq!(Validity::new(20).and(one.clone()).with, one.with);
    }

    #[test]
    fn an_unknown_fact_can_not_be_compared() {
        for fact in Fact::ALL {
            assert_eq!(Fact::from_name(fact.to_string().as_bytes()), Some(fact));
        }
        assert_eq!(Validity::from_names(20, &["client".into(), "moon".into()]), None);
    }
}
