//! Atoms: the octet strings that messages are made of (RFC 4037 section 3.1).

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::{Deref, Range};
use std::sync::Arc;

use bytes::Bytes;

/// An octet string that is never changed. Names, numbers, codes and most addresses are short and
/// stand in place: reading a message allocates for the few long ones only. A clone never copies more
/// than [`IN_PLACE`](Self::IN_PLACE) octets.
#[derive(Clone)]
pub struct Atom(Form);

#[derive(Clone)]
enum Form {
    InPlace { length: u8, octets: [u8; Atom::IN_PLACE] },
    Static(&'static [u8]),
    Shared(Arc<[u8]>),
}

impl Atom {
    /// The most octets that stand in place: as many as fit beside their length in four words.
    pub const IN_PLACE: usize = 30;

    /// No octets.
    pub const fn new() -> Self {
        Self::from_static(&[])
    }

    /// Octets of this program.
    pub const fn from_static(octets: &'static [u8]) -> Self {
        Self(Form::Static(octets))
    }

    /// The octets of `place` in `octets`; none if it is beyond their end. Where there is enough behind them as many are
    /// copied as fit in place, which takes no count.
    pub(super) fn at(octets: &[u8], place: Range<usize>) -> Self {
        let behind = octets.get(place.start..).unwrap_or_default();
        match (behind.first_chunk(), u8::try_from(place.len())) {
            (Some(octets), Ok(length)) if place.len() <= Self::IN_PLACE => {
                Self(Form::InPlace { length, octets: *octets })
            }
            _ => behind.get(..place.len()).unwrap_or_default().into(),
        }
    }

    /// The octets for those who share them as [`Bytes`]: a copy.
    pub fn to_bytes(&self) -> Bytes {
        match self.0 {
            Form::Static(octets) => Bytes::from_static(octets),
            _ => Bytes::copy_from_slice(self),
        }
    }
}

impl Default for Atom {
    fn default() -> Self {
        Self::new()
    }
}

impl Deref for Atom {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            Form::InPlace { length, octets } => {
                octets.get(..usize::from(*length)).unwrap_or_default()
            }
            Form::Static(octets) => octets,
            Form::Shared(octets) => octets,
        }
    }
}

impl From<&[u8]> for Atom {
    fn from(octets: &[u8]) -> Self {
        let mut place = [0; Self::IN_PLACE];
        match (place.get_mut(..octets.len()), u8::try_from(octets.len())) {
            (Some(begin), Ok(length)) => {
                begin.copy_from_slice(octets);
                Self(Form::InPlace { length, octets: place })
            }
            _ => Self(Form::Shared(octets.into())),
        }
    }
}

macro_rules! from_owned {
    ($($owned:ty),*) => {
        $(impl From<$owned> for Atom {
            fn from(octets: $owned) -> Self {
                let octets: &[u8] = octets.as_ref();
                octets.into()
            }
        })*
    };
}

from_owned!(&str, String, Vec<u8>, Bytes, &Bytes);

impl<const N: usize> From<&[u8; N]> for Atom {
    fn from(octets: &[u8; N]) -> Self {
        octets.as_slice().into()
    }
}

impl AsRef<[u8]> for Atom {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl Borrow<[u8]> for Atom {
    fn borrow(&self) -> &[u8] {
        self
    }
}

impl PartialEq for Atom {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for Atom {}

macro_rules! equal {
    ($($other:ty),*) => {
        $(impl PartialEq<$other> for Atom {
            fn eq(&self, other: &$other) -> bool {
                let other: &[u8] = other.as_ref();
                **self == *other
            }
        })*
    };
}

equal!([u8], &[u8], str, &str, String);

impl PartialOrd for Atom {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Atom {
    fn cmp(&self, other: &Self) -> Ordering {
        (**self).cmp(&**other)
    }
}

impl Hash for Atom {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (**self).hash(state);
    }
}

impl fmt::Debug for Atom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "b\"{}\"", self.escape_ascii())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn a_length_in_place_or_not_is_the_same_octets() {
        for length in [0, 1, 29, 30, 31, 300, 70_000] {
            let octets: Vec<u8> = (0..length).map(|at: usize| at as u8).collect();
            let made = Atom::from(octets.as_slice());
            assert_eq!(&*made, octets.as_slice());
            assert_eq!(made.clone(), made);
            assert_eq!(made.to_bytes(), octets);
            assert_eq!(made, Atom::from_static(octets.clone().leak()));
            let map = HashMap::from([(made, length)]);
            assert_eq!(map.get(octets.as_slice()), Some(&length));
        }
    }

    #[test]
    fn octets_are_those_of_their_place_whatever_stands_around_it() {
        let octets: Vec<u8> = (0..100).collect();
        for (start, end) in
            [(0, 0), (0, 30), (0, 31), (3, 7), (60, 100), (70, 100), (71, 71), (90, 95)]
        {
            assert_eq!(Atom::at(&octets, start..end), octets[start..end]);
        }
        assert_eq!(Atom::at(&octets, 90..101), Atom::new());
        assert_eq!(Atom::at(&octets, 101..101), Atom::new());
    }

    #[test]
    fn it_is_as_large_as_it_says() {
        assert_eq!(size_of::<Atom>(), 32);
    }
}
