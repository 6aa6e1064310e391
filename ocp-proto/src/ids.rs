//! Identifiers: decimal numbers that are created once and in rising order (RFC 4037 section 10.2).

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasherDefault, Hasher};

/// The largest `uni`, `size` and `offset` (RFC 4037 sections 10.2 to 10.4).
pub const MAXIMUM: u32 = 0x7fff_ffff;

/// Reads a decimal number of 0 to [`MAXIMUM`] without sign or leading zero, or `None`.
pub fn parse_number(text: &[u8]) -> Option<u32> {
    match text {
        [b'0'] => return Some(0),
        [] | [b'0', ..] => return None,
        _ => {}
    }
    text.iter().try_fold(0u32, |number, &digit| {
        let digit = digit.is_ascii_digit().then(|| u32::from(digit - b'0'))?;
        let number = number.checked_mul(10)?.checked_add(digit)?;
        (number <= MAXIMUM).then_some(number)
    })
}

/// A map with identifiers for keys, which are looked up for each message.
pub type IdMap<K, V> = HashMap<K, V, BuildHasherDefault<IdHasher>>;

/// Hashes identifiers: one multiplication. A peer that chooses colliding ones makes a look-up as slow
/// as a walk through a map of at most [`Config::transactions`](crate::Config) entries: a microsecond.
#[derive(Clone, Copy, Debug, Default)]
pub struct IdHasher(u64);

impl Hasher for IdHasher {
    fn write(&mut self, octets: &[u8]) {
        octets.iter().for_each(|octet| self.write_u32((*octet).into()));
    }

    fn write_u32(&mut self, number: u32) {
        // The golden ratio's digits; the map looks at the upper and at the lowest bits.
        let product = (self.0 ^ u64::from(number)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = product ^ (product >> 32);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

macro_rules! identifier {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(u32);

        impl $name {
            /// The identifier with this number, or `None` above [`MAXIMUM`].
            pub fn new(number: u32) -> Option<Self> {
                (number <= MAXIMUM).then_some(Self(number))
            }

            /// The identifier's number.
            pub fn number(self) -> u32 {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

identifier! {
    /// A transaction of one connection (RFC 4037 section 10.7).
    Xid
}
identifier! {
    /// A service group of one connection (RFC 4037 section 10.8).
    GroupId
}
identifier! {
    /// A dialog of one connection (SMTP profile section 2).
    DialogId
}
identifier! {
    /// One of several adapted messages of a transaction (SMTP profile section 5).
    AdaptedMessageId
}

/// Hands out or checks identifiers of one scope: each is higher than all before (RFC 4037 section
/// 10.2).
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Rising {
    /// The lowest number that was not used yet; one more than [`MAXIMUM`] when all are used up.
    next: u32,
}

impl Rising {
    /// A scope whose first own identifier is 1 (reading A-07 numbers from 1 upwards).
    pub(crate) fn from_one() -> Self {
        Self { next: 1 }
    }

    /// Whether `number` is higher than all before; from then on it counts as used.
    pub(crate) fn accept(&mut self, number: u32) -> bool {
        let rises = number >= self.next;
        if rises {
            self.next = number + 1;
        }
        rises
    }

    /// The next number, or `None` when the scope is used up.
    pub(crate) fn create(&mut self) -> Option<u32> {
        let number = self.next;
        self.accept(number).then_some(number).filter(|&n| n <= MAXIMUM)
    }

    /// Whether no number is left.
    pub(crate) fn is_used_up(self) -> bool {
        self.next > MAXIMUM
    }

    /// Whether `number` was created in this scope, or passed over by a higher one.
    pub(crate) fn is_past(self, number: u32) -> bool {
        number < self.next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_spread_over_a_map() {
        use std::collections::HashSet;
        use std::hash::BuildHasher;
        let hashes = BuildHasherDefault::<IdHasher>::default();
        for step in [1u32, 2, 1_024, 65_536] {
            let hash = |number: u32| hashes.hash_one(Xid::new(number * step).unwrap());
            let low: HashSet<u64> = (0..1_024).map(|number| hash(number) % 2_048).collect();
            let tags: HashSet<u64> = (0..1_024).map(|number| hash(number) >> 57).collect();
            assert!(low.len() > 600 && tags.len() > 100, "{step}: {} {}", low.len(), tags.len());
        }
    }

    #[test]
    fn numbers_have_no_sign_leading_zero_or_overflow() {
        assert_eq!(parse_number(b"0"), Some(0));
        assert_eq!(parse_number(b"2147483647"), Some(MAXIMUM));
        for wrong in ["", "00", "01", "-1", "+1", "1x", "2147483648", "99999999999999999999"] {
            assert_eq!(parse_number(wrong.as_bytes()), None, "{wrong}");
        }
    }

    #[test]
    fn identifiers_only_rise() {
        let mut scope = Rising::default();
        assert!(scope.accept(0));
        assert!(!scope.accept(0));
        assert!(scope.accept(5));
        assert!(!scope.accept(3));
        assert!(scope.is_past(3) && !scope.is_past(6));
        assert!(scope.accept(MAXIMUM));
        assert!(scope.is_used_up());
        assert_eq!(scope.create(), None);
    }
}
