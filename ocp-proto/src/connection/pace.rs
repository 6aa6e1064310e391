//! The least pace of a peer (RFC 4037 sections 2.7 and 13). One octet now and then keeps no
//! transaction and no connection: what counts as progress is [`Config::least_octets`] within
//! [`Config::transaction_timeout`], or the end of what is on its way.
//!
//! [`Config::least_octets`]: super::Config::least_octets
//! [`Config::transaction_timeout`]: super::Config::transaction_timeout

use std::time::Instant;

use bytes::Buf;

use super::{Connection, Payload};
use crate::ids::Xid;
use crate::role::Role;
use crate::transaction::{Progress, Transaction};
use crate::violation::{Rule, Violation};

/// What the peer has begun and not ended.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// A message of which only a part has come.
    message: Option<Mark>,
    /// Octets of ours that it has not read.
    output: Option<Mark>,
}

/// What happened to a transaction that may be progress.
#[derive(Clone, Copy, Debug)]
pub(super) struct Step {
    at: Instant,
    /// Octets that the original counts and that have not come.
    under_way: u32,
    /// Octets from which on it is progress.
    least: u32,
}

impl Step {
    pub(super) fn note(self, transaction: &mut Transaction) {
        let octets = transaction.moved(self.under_way);
        if octets >= transaction.progress.octets + u64::from(self.least) {
            transaction.progress = Progress { at: self.at, octets };
        }
    }
}

/// How far something has to come from here.
#[derive(Clone, Copy, Debug)]
struct Mark {
    since: Instant,
    /// In octets since the connection began.
    goal: u64,
}

impl Mark {
    /// Goes on from a mark that was not reached, else from here, as long as something `waits`.
    fn next(
        this: Option<Self>,
        waits: bool,
        position: u64,
        least: u64,
        now: Instant,
    ) -> Option<Self> {
        let mark = this.filter(|mark| position < mark.goal);
        waits.then(|| mark.unwrap_or(Self { since: now, goal: position + least }))
    }
}

impl Connection {
    /// When something has to have come further.
    pub(super) fn pace_deadline(&self) -> Option<Instant> {
        let marks = [self.pace.message, self.pace.output];
        let since = marks.into_iter().flatten().map(|mark| mark.since).min();
        since.map(|since| since + self.config.transaction_timeout)
    }

    /// Time has passed: what came too slowly, or was read so.
    pub(super) fn check_pace(&mut self, now: Instant) -> Result<(), Violation> {
        self.watch_output();
        let timeout = self.config.transaction_timeout;
        let late = |mark: Option<Mark>| mark.is_some_and(|mark| now >= mark.since + timeout);
        if late(self.pace.output) {
            return Err(Violation::connection(self.too_slow("what we sent is read too slowly")));
        }
        if late(self.pace.message) {
            if !self.is_watched_by_transaction() {
                return Err(Violation::connection(self.too_slow("a message comes too slowly")));
            }
            self.pace.message = None;
            self.watch_message();
        }
        Ok(())
    }

    /// All that has come was looked at.
    pub(super) fn watch_message(&mut self) {
        let position = self.decoder.consumed() + self.input.len() as u64;
        let least = self.config.least_octets.into();
        let mark = self.pace.message;
        self.pace.message =
            Mark::next(mark, self.is_mid_message(), position, least, self.timers.now);
    }

    /// The head of another message has come whole.
    pub(super) fn begin_message(&mut self) {
        self.pace.message = None;
    }

    /// Something came: time to look how much of our octets is left: without any input the
    /// connection is idle, and ends for that.
    pub(super) fn received(&mut self, now: Instant) {
        self.timers.received(now);
        self.watch_output();
    }

    fn watch_output(&mut self) {
        let waiting = self.output.remaining() as u64;
        let least = waiting.min(self.config.least_octets.into());
        let mark = self.pace.output;
        self.pace.output =
            Mark::next(mark, waiting > 0, self.output.taken(), least, self.timers.now);
    }

    /// A message of a transaction begins or ends, or we wait for it anew.
    pub(super) fn step(&self, xid: Xid) -> Step {
        Step { at: self.timers.now, under_way: self.under_way(xid), least: 0 }
    }

    /// Something came or went for a transaction. At a processor, whose application has deadlines for
    /// what it asks, that is progress; at a server it is if it was octets, and enough of them.
    pub(super) fn move_on(&self, xid: Xid) -> Step {
        let least = match self.role {
            Role::Processor => 0,
            Role::Server => self.config.least_octets,
        };
        Step { least, ..self.step(xid) }
    }

    /// The rule that the peer broke in a transaction that it did not carry on.
    pub(super) fn standstill(&self, xid: Xid) -> Rule {
        let comes = self.transactions.get(&xid).is_some_and(|transaction| {
            let moved = transaction.moved(self.under_way(xid));
            !transaction.original.has_ended() && moved > transaction.progress.octets
        });
        match comes && self.role == Role::Server {
            true => self.too_slow("the original message comes too slowly"),
            false => Rule::Timeout("the transaction stands still"),
        }
    }

    fn too_slow(&self, what: &'static str) -> Rule {
        let seconds = self.config.transaction_timeout.as_secs();
        Rule::TooSlow { what, octets: self.config.least_octets, seconds }
    }

    /// Whether the octets that are due belong to a transaction, which has a deadline of its own.
    fn is_watched_by_transaction(&self) -> bool {
        matches!(self.payload, Payload::Data { xid, .. } if self.has_transaction(xid))
    }
}
