//! What is counted of next hops, and of mail that reaches them from the spool.

use ocp_proto::smtp::Reply;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;

use crate::instruments::{Open, Table};

/// What is counted of a next hop.
#[derive(Debug, Default)]
pub struct NextHopMetrics {
    pub(super) open: Gauge,
    pub(super) established: Counter,
    pub(super) failed: Counter,
    /// By the first digit of their codes, from 2 on (RFC 5321 section 4.2.1).
    replies: [Counter; 4],
}

/// What is counted of mail from the spool.
#[derive(Debug)]
pub struct DeliveryMetrics {
    pub(super) results: Table<DeliveryResult, Counter>,
    pub(super) reports: Counter,
}

/// What an attempt comes to for a recipient.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeliveryResult {
    /// The next hop has it.
    Delivered,
    /// It is tried again.
    Deferred,
    /// It is given up.
    Failed,
}

impl NextHopMetrics {
    /// A connection is there as long as this is held.
    pub(crate) fn opened(&self) -> Open {
        Open::new(&self.open)
    }

    /// There is a connection with a greeting, or there is none.
    pub(crate) fn connected(&self, is_there: bool) {
        if is_there {
            self.established.inc()
        } else {
            self.failed.inc()
        };
    }

    /// It has replied to something.
    pub(crate) fn replied(&self, reply: &Reply) {
        let class = usize::from(reply.code() / 100);
        if let Some(counter) = class.checked_sub(2).and_then(|class| self.replies.get(class)) {
            counter.inc();
        }
    }

    pub(super) fn replies(&self) -> impl Iterator<Item = (&'static str, &Counter)> {
        ["2xx", "3xx", "4xx", "5xx"].into_iter().zip(&self.replies)
    }
}

impl Default for DeliveryMetrics {
    fn default() -> Self {
        Self {
            results: Table::new(DeliveryResult::ALL, Counter::default),
            reports: Counter::default(),
        }
    }
}

impl DeliveryMetrics {
    /// An attempt is over for a recipient.
    pub(crate) fn tried(&self, result: DeliveryResult) {
        self.results.count(result);
    }

    /// A report to a sender is in the spool.
    pub(crate) fn reported(&self) {
        self.reports.inc();
    }
}

impl DeliveryResult {
    const ALL: [Self; 3] = [Self::Delivered, Self::Deferred, Self::Failed];

    /// The word for it, in the log too.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Deferred => "deferred",
            Self::Failed => "failed",
        }
    }
}
