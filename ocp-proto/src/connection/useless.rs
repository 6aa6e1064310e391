//! Stocks of useless messages: what takes from them and what refills them.

use std::time::Instant;

use super::Connection;
use crate::limits::{Allowance, UselessLimits};
use crate::violation::{Rule, Useless, Violation};

/// One stock.
#[derive(Clone, Copy, Debug)]
struct Stock {
    left: u32,
    filled: Instant,
}

impl Stock {
    /// Takes one; whether there was one.
    fn take(&mut self, allowance: Allowance, now: Instant) -> bool {
        let elapsed = now.saturating_duration_since(self.filled).as_millis();
        let earned = elapsed * u128::from(allowance.per_second) / 1_000;
        if earned > 0 {
            let earned = u32::try_from(earned).unwrap_or(u32::MAX);
            self.left = self.left.saturating_add(earned).min(allowance.burst);
            self.filled = now;
        }
        let left = self.left.checked_sub(1);
        self.left = left.unwrap_or(0);
        left.is_some()
    }
}

/// The stocks of one connection, by [`Useless`].
#[derive(Debug)]
pub(super) struct Stocks {
    signals: Stock,
    queries: Stock,
    offers: Stock,
    unknown_messages: Stock,
    unknown_identifiers: Stock,
}

impl Stocks {
    pub(super) fn new(limits: &UselessLimits, now: Instant) -> Self {
        let full = |allowance: Allowance| Stock { left: allowance.burst, filled: now };
        Self {
            signals: full(limits.signals),
            queries: full(limits.queries),
            offers: full(limits.offers),
            unknown_messages: full(limits.unknown_messages),
            unknown_identifiers: full(limits.unknown_identifiers),
        }
    }
}

impl Connection {
    /// A message without use came: the connection ends when there are too many.
    pub(super) fn bear(&mut self, useless: Useless) -> Result<(), Violation> {
        let limits = &self.config.useless;
        let (stock, allowance) = match useless {
            Useless::Signals => (&mut self.stocks.signals, limits.signals),
            Useless::Queries => (&mut self.stocks.queries, limits.queries),
            Useless::Offers => (&mut self.stocks.offers, limits.offers),
            Useless::UnknownMessages => {
                (&mut self.stocks.unknown_messages, limits.unknown_messages)
            }
            Useless::UnknownIdentifiers => {
                (&mut self.stocks.unknown_identifiers, limits.unknown_identifiers)
            }
        };
        let enough = stock.take(allowance, self.timers.now);
        enough.then_some(()).ok_or_else(|| Violation::connection(Rule::Useless(useless)))
    }

    /// A useful message came: it stands for the signals that go with it.
    pub(super) fn welcome(&mut self) {
        let signals = &mut self.stocks.signals;
        signals.left = signals.left.saturating_add(1).min(self.config.useless.signals.burst);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn time_refills_a_stock_up_to_its_burst() {
        let start = Instant::now();
        let allowance = Allowance { burst: 2, per_second: 10 };
        let mut stock = Stock { left: 2, filled: start };
        assert!(stock.take(allowance, start) && stock.take(allowance, start));
        assert!(!stock.take(allowance, start + Duration::from_millis(99)));
        assert!(stock.take(allowance, start + Duration::from_millis(100)));
        assert!(!stock.take(allowance, start + Duration::from_millis(199)));
        let later = start + Duration::from_secs(60);
        assert!(stock.take(allowance, later) && stock.take(allowance, later));
        assert!(!stock.take(allowance, later));
    }
}
