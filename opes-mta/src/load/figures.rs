//! What was counted, and how it is shown.

use std::collections::BTreeMap;
use std::time::Duration;

use ocp_proto::Traffic;
use ocp_proto::smtp::Command;
use serde::{Serialize, Serializer};

use super::histogram::Histogram;

/// Causes of failures that are told apart; all others are counted together.
const MOST_CAUSES: usize = 16;

/// What happened in some time.
#[derive(Clone, Debug, Default)]
pub(crate) struct Figures {
    /// How long it took.
    pub(crate) elapsed: Duration,
    /// Transactions that were answered, by their place in the list of events, with the octets that
    /// they cost.
    pub(crate) events: Vec<Count>,
    /// How long each of them took.
    pub(crate) latencies: Histogram,
    /// Answers.
    pub(crate) unchanged: u64,
    pub(crate) modified: u64,
    pub(crate) replied: u64,
    /// Transactions and dialogs that failed, by their cause.
    pub(crate) failures: BTreeMap<String, u64>,
}

/// Transactions of one kind.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Count {
    pub(crate) transactions: u64,
    pub(crate) traffic: Traffic,
}

impl Figures {
    /// Figures of nothing yet, for so many kinds of transactions.
    pub(crate) fn new(events: usize) -> Self {
        Self { events: vec![Count::default(); events], ..Self::default() }
    }

    /// Counts a transaction that was answered.
    pub(crate) fn answered(&mut self, event: usize, traffic: Traffic, latency: Duration) {
        if let Some(count) = self.events.get_mut(event) {
            count.add(Count { transactions: 1, traffic });
        }
        self.latencies.record(latency);
    }

    /// Counts one that was not.
    pub(crate) fn failed(&mut self, cause: String) {
        self.count_failures(cause, 1);
    }

    /// Counts what others have counted at the same time.
    pub(crate) fn add(&mut self, other: Self) {
        self.events.resize(self.events.len().max(other.events.len()), Count::default());
        self.events.iter_mut().zip(other.events).for_each(|(own, more)| own.add(more));
        self.latencies.add(&other.latencies);
        self.unchanged += other.unchanged;
        self.modified += other.modified;
        self.replied += other.replied;
        for (cause, count) in other.failures {
            self.count_failures(cause, count);
        }
    }

    /// Counts what was counted at another time.
    pub(crate) fn add_later(&mut self, other: Self) {
        self.elapsed += other.elapsed;
        self.add(other);
    }

    fn count_failures(&mut self, cause: String, count: u64) {
        let known = self.failures.contains_key(&cause) || self.failures.len() < MOST_CAUSES;
        let cause = if known { cause } else { "other causes".to_owned() };
        *self.failures.entry(cause).or_default() += count;
    }

    /// All kinds together.
    pub(crate) fn total(&self) -> Count {
        let mut total = Count::default();
        self.events.iter().for_each(|count| total.add(*count));
        total
    }

    fn per_second(&self, count: u64) -> f64 {
        count as f64 / self.elapsed.as_secs_f64().max(f64::MIN_POSITIVE)
    }
}

impl Count {
    fn add(&mut self, more: Self) {
        self.transactions += more.transactions;
        self.traffic.sent += more.traffic.sent;
        self.traffic.received += more.traffic.received;
    }

    /// The mean of what one transaction costs.
    pub(crate) fn mean(&self) -> Traffic {
        let mean = |octets: u64| octets.checked_div(self.transactions).unwrap_or_default();
        Traffic { sent: mean(self.traffic.sent), received: mean(self.traffic.received) }
    }
}

/// What was asked for.
#[derive(Debug, Serialize)]
pub(crate) struct Plan {
    pub(crate) server: String,
    pub(crate) services: Vec<String>,
    pub(crate) connections: u16,
    pub(crate) open: u16,
    pub(crate) size: usize,
    #[serde(serialize_with = "names")]
    pub(crate) events: Vec<Command>,
}

fn names<S: Serializer>(events: &[Command], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(events.iter().map(Command::name))
}

/// The result of a run, as it is printed.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    #[serde(flatten)]
    plan: Plan,
    #[serde(flatten)]
    load: Rates,
    messages: u64,
    messages_per_second: f64,
    unchanged: u64,
    modified: u64,
    replied: u64,
    failed: u64,
    failures: BTreeMap<String, u64>,
    /// The same octets against the echo peer.
    echo: Option<Rates>,
    /// Transactions a second: those of the server to those of the echo peer.
    ratio: Option<f64>,
}

/// How fast it went.
#[derive(Debug, Serialize)]
pub(crate) struct Rates {
    pub(crate) seconds: f64,
    pub(crate) transactions: u64,
    pub(crate) transactions_per_second: f64,
    /// 1,000,000 octets a second, both ways together.
    pub(crate) megabytes_per_second: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) octets_sent: u64,
    pub(crate) octets_returned: u64,
}

impl Rates {
    pub(crate) fn of(figures: &Figures) -> Self {
        let Count { transactions, traffic } = figures.total();
        let milliseconds = |share| figures.latencies.quantile(share).as_secs_f64() * 1_000.0;
        Self {
            seconds: figures.elapsed.as_secs_f64(),
            transactions,
            transactions_per_second: figures.per_second(transactions),
            megabytes_per_second: figures.per_second(traffic.sent + traffic.received) / 1e6,
            p50_ms: milliseconds(0.5),
            p99_ms: milliseconds(0.99),
            octets_sent: traffic.sent,
            octets_returned: traffic.received,
        }
    }

    fn heading() -> String {
        format!(
            "{:<10}  {:>14}  {:>9}  {:>9}  {:>9}  {:>11}  {:>15}",
            "", "transactions/s", "MB/s", "p50, ms", "p99, ms", "octets sent", "octets returned",
        )
    }

    /// The octets are those of one transaction.
    fn row(&self, name: &str) -> String {
        let mean = |octets: u64| octets.checked_div(self.transactions).unwrap_or_default();
        format!(
            "{name:<10}  {:>14.0}  {:>9.1}  {:>9.2}  {:>9.2}  {:>11}  {:>15}",
            self.transactions_per_second,
            self.megabytes_per_second,
            self.p50_ms,
            self.p99_ms,
            mean(self.octets_sent),
            mean(self.octets_returned),
        )
    }
}

impl Report {
    /// What a run came to.
    pub(crate) fn new(plan: Plan, figures: Figures, echo: Option<&Figures>) -> Self {
        let load = Rates::of(&figures);
        let echo = echo.map(Rates::of);
        let messages = plan
            .events
            .iter()
            .zip(&figures.events)
            .filter(|(event, _)| **event == Command::Message)
            .map(|(_, count)| count.transactions)
            .sum();
        let ratio = echo
            .as_ref()
            .map(|echo| load.transactions_per_second / echo.transactions_per_second)
            .filter(|ratio| ratio.is_finite());
        Self {
            plan,
            load,
            messages,
            messages_per_second: figures.per_second(messages),
            unchanged: figures.unchanged,
            modified: figures.modified,
            replied: figures.replied,
            failed: figures.failures.values().sum(),
            failures: figures.failures,
            echo,
            ratio,
        }
    }

    /// How many transactions and dialogs failed.
    pub(crate) fn failed(&self) -> u64 {
        self.failed
    }

    /// One JSON object without a line end.
    pub(crate) fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// A table for people.
    pub(crate) fn to_text(&self) -> String {
        let Plan { server, services, connections, open, size, events } = &self.plan;
        let Rates { seconds, transactions, .. } = self.load;
        let mut lines = vec![
            format!("{server}, {}", services.join(" ")),
            format!(
                "{connections} connections with {open} transactions open on each, {}, messages of \
                 {size} octets",
                events.iter().map(Command::name).collect::<Vec<_>>().join(" ")
            ),
            format!(
                "{transactions} transactions in {seconds:.1} s: {} unchanged, {} modified, {} \
                 replied to, {} failed; {:.0} messages/s",
                self.unchanged, self.modified, self.replied, self.failed, self.messages_per_second,
            ),
        ];
        lines.extend(self.failures.iter().map(|(cause, count)| format!("  {count} x {cause}")));
        lines.extend([String::new(), Rates::heading(), self.load.row("server")]);
        lines.extend(self.echo.as_ref().map(|echo| echo.row("echo peer")));
        lines.extend(self.ratio.map(|ratio| format!("{:<10}  {ratio:>14.2}", "ratio")));
        lines.join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_are_counted_and_bounded() {
        let mut figures = Figures::new(1);
        for number in 0..100 {
            figures.failed(format!("cause {}", number % 50));
        }
        let mut all = Figures::new(1);
        all.add(figures.clone());
        all.add(figures);
        assert_eq!(all.failures.len(), MOST_CAUSES + 1);
        assert_eq!(all.failures["cause 0"], 4);
        assert_eq!(all.failures.values().sum::<u64>(), 200);
    }

    #[test]
    fn rates_are_those_of_all_events() {
        let mut figures = Figures::new(2);
        let traffic = Traffic { sent: 900, received: 100 };
        figures.answered(0, traffic, Duration::from_millis(1));
        figures.answered(1, traffic, Duration::from_millis(1));
        figures.answered(1, traffic, Duration::from_millis(1));
        figures.elapsed = Duration::from_secs(2);
        let rates = Rates::of(&figures);
        assert_eq!((rates.transactions, rates.transactions_per_second), (3, 1.5));
        assert_eq!((rates.octets_sent, rates.octets_returned), (2_700, 300));
        assert!((rates.megabytes_per_second - 0.0015).abs() < 1e-9);
        assert!((1.0..1.04).contains(&rates.p99_ms), "{}", rates.p99_ms);
        assert_eq!(figures.events[1].mean(), traffic);
    }
}
