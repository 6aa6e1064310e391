//! How many notifications an address gets in an hour, and all together. No clock: `now` comes in.

use std::collections::HashMap;
use std::time::Duration;

use ocp_proto::smtp::Address;
use tokio::time::Instant;

/// The span in which notifications are counted.
const HOUR: Duration = Duration::from_secs(3_600);

/// Addresses that are known at a time. While there are more within an hour, no other is told.
const MOST_ADDRESSES: usize = 10_000;

/// Counts what goes out.
#[derive(Debug)]
pub(super) struct Limiter {
    by_address: u32,
    all: u32,
    count: Count,
    addresses: HashMap<Vec<u8>, Count>,
}

/// Notifications since the beginning of an hour.
#[derive(Debug, Default)]
struct Count {
    since: Option<Instant>,
    count: u32,
}

impl Limiter {
    /// Octets of memory: the longest path (RFC 5321 section 4.5.3.1.3 has 256) and its count.
    pub(super) const WORST_CASE: usize = MOST_ADDRESSES * 1_024;

    /// So many to each address, and so many to all, in an hour.
    pub(super) fn new(by_address: u32, all: u32) -> Self {
        Self { by_address, all, count: Count::default(), addresses: HashMap::new() }
    }

    /// Whether one more may go to this address; it is counted then.
    pub(super) fn admits(&mut self, address: &Address, now: Instant) -> bool {
        let key = address.path().to_ascii_lowercase();
        if self.addresses.len() >= MOST_ADDRESSES && !self.addresses.contains_key(&key) {
            self.addresses.retain(|_, count| !count.is_over(now));
            if self.addresses.len() >= MOST_ADDRESSES {
                return false;
            }
        }
        if !self.count.has_room(self.all, now) {
            return false;
        }
        let of_address = self.addresses.entry(key).or_default();
        if !of_address.has_room(self.by_address, now) {
            return false;
        }
        of_address.count += 1;
        self.count.count += 1;
        true
    }
}

impl Count {
    fn is_over(&self, now: Instant) -> bool {
        self.since.is_none_or(|since| now.saturating_duration_since(since) >= HOUR)
    }

    fn has_room(&mut self, most: u32, now: Instant) -> bool {
        if self.is_over(now) {
            *self = Self { since: Some(now), count: 0 };
        }
        self.count < most
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(number: usize) -> Address {
        Address::new(format!("<a{number}@example.org>")).unwrap()
    }

    #[test]
    fn an_hour_has_limits() {
        let now = Instant::now();
        let mut limiter = Limiter::new(2, 3);
        let admitted: Vec<_> = [1, 1, 1, 2, 3].map(|n| limiter.admits(&address(n), now)).into();
        assert_eq!(admitted, [true, true, false, true, false]);
        let upper = Address::new("<A1@EXAMPLE.ORG>").unwrap();
        assert!(!limiter.admits(&upper, now + HOUR - Duration::from_secs(1)));
        assert!(limiter.admits(&upper, now + HOUR));
    }

    #[test]
    fn addresses_are_forgotten_when_there_are_too_many() {
        let now = Instant::now();
        let mut limiter = Limiter::new(1, u32::MAX);
        assert!((0..MOST_ADDRESSES).all(|number| limiter.admits(&address(number), now)));
        assert!(!limiter.admits(&address(MOST_ADDRESSES), now));
        assert!(limiter.admits(&address(MOST_ADDRESSES), now + HOUR));
        assert_eq!(limiter.addresses.len(), 1);
    }
}
