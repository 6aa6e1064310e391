//! Names of entries.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::Moment;

/// The name of an entry: letters in lower case, digits and hyphens, so that it can be the name of a file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Id(String);

impl Id {
    /// Octets, at most. Names that are made of others add some.
    const LONGEST: usize = 100;

    /// A name that nobody has yet: the time, so that names are in the order of arrival, and chance.
    pub fn new(now: Moment) -> Self {
        Self(format!("{:012x}-{:08x}", now.milliseconds(), fastrand::u32(..)))
    }

    /// The name of what is made of this entry, and of nothing else.
    pub fn derived(&self, what: &str) -> Result<Self, InvalidId> {
        Self::try_from(format!("{self}-{what}"))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A text that names no entry.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} names no entry: names are 1 to {longest} of a to z, 0 to 9 and hyphens",
    longest = Id::LONGEST
)]
pub struct InvalidId(String);

impl TryFrom<String> for Id {
    type Error = InvalidId;

    fn try_from(text: String) -> Result<Self, InvalidId> {
        let legal = |o: u8| o.is_ascii_lowercase() || o.is_ascii_digit() || o == b'-';
        if (1..=Self::LONGEST).contains(&text.len()) && text.bytes().all(legal) {
            return Ok(Self(text));
        }
        Err(InvalidId(text.chars().take(Self::LONGEST).collect()))
    }
}

impl FromStr for Id {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        Self::try_from(text.to_owned())
    }
}

impl From<Id> for String {
    fn from(id: Id) -> Self {
        id.0
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_leads_out_of_no_folder() {
        for wrong in ["", "../a", "a/b", "a.json", "A", "ä", &"a".repeat(101)] {
            assert!(wrong.parse::<Id>().is_err(), "{wrong}");
        }
        let id = Id::new(Moment::EPOCH);
        assert_eq!(id.as_str().parse::<Id>().unwrap(), id);
        let derived = id.derived("report-1").unwrap();
        assert_eq!(derived.to_string(), format!("{id}-report-1"));
    }

    #[test]
    fn names_are_in_the_order_of_arrival() {
        let later = Moment::parse("2026-11-26T10:00:00.000Z").unwrap();
        assert!(Id::new(Moment::EPOCH) < Id::new(later));
    }
}
