//! Deadlines: every state that a connection waits in is bounded (RFC 4037 section 2.7).

use std::time::Instant;

use super::Connection;
use crate::ids::Xid;
use crate::message::Message;
use crate::role::Role;
use crate::transaction::Transaction;
use crate::violation::{Rule, Violation};

/// The times that matter.
#[derive(Debug)]
pub(super) struct Timers {
    pub(super) now: Instant,
    created: Instant,
    /// When TLS was agreed on.
    pub(super) tls: Instant,
    /// When the peer last sent something.
    last_input: Instant,
    /// When we asked whether it is still there.
    pinged: Option<Instant>,
    /// No transaction can time out before that: progress only moves deadlines away, so they need
    /// to be looked at no sooner.
    transaction_check: Option<Instant>,
}

impl Timers {
    pub(super) fn new(now: Instant) -> Self {
        Self { now, created: now, tls: now, last_input: now, pinged: None, transaction_check: None }
    }

    pub(super) fn received(&mut self, now: Instant) {
        self.now = now;
        self.last_input = now;
        self.pinged = None;
    }

    pub(super) fn watch_transaction(&mut self, deadline: Instant) {
        let check = self.transaction_check.get_or_insert(deadline);
        *check = deadline.min(*check);
    }
}

impl Connection {
    /// When [`Connection::handle_timeout`] wants to be called next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.is_over() {
            return None;
        }
        let config = &self.config;
        let idle = match self.timers.pinged {
            Some(pinged) => pinged + config.ping_timeout,
            None => self.timers.last_input + config.idle_timeout,
        };
        let handshake =
            self.awaits_handshake().then(|| self.timers.created + config.handshake_timeout);
        let tls = self.is_handshaking().then(|| self.timers.tls + config.handshake_timeout);
        let offer = self.negotiation.awaits_since().map(|at| at + config.negotiation_timeout);
        [Some(idle), handshake, tls, offer, self.pace_deadline(), self.timers.transaction_check]
            .into_iter()
            .flatten()
            .min()
    }

    /// Time has passed. Call `poll_event` afterwards.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.timers.now = now;
        if self.is_over() {
            return;
        }
        let config = &self.config;
        let timeout = |cause| Violation::connection(Rule::Timeout(cause));
        if self.awaits_handshake() && now >= self.timers.created + config.handshake_timeout {
            return self.violate(timeout("no CS and no offer came"));
        }
        if self.negotiation.awaits_since().is_some_and(|at| now >= at + config.negotiation_timeout)
        {
            let cause = match self.negotiation.is_pending() {
                true => "the offer was not answered",
                false => "no further offer came",
            };
            return self.violate(timeout(cause));
        }
        if self.is_handshaking() && now >= self.timers.tls + config.handshake_timeout {
            return self.violate(timeout("TLS did not start"));
        }
        if let Err(violation) = self.check_pace(now) {
            return self.violate(violation);
        }
        let config = &self.config;
        match self.timers.pinged {
            Some(pinged) if now >= pinged + config.ping_timeout => {
                return self.violate(timeout("PQ was not answered"));
            }
            None if now >= self.timers.last_input + config.idle_timeout => {
                self.timers.pinged = Some(now);
                self.send(&Message::Pq { xid: None });
            }
            _ => {}
        }
        if self.timers.transaction_check.is_some_and(|check| now >= check) {
            self.check_transactions(now);
        }
    }

    fn awaits_handshake(&self) -> bool {
        !self.has_started() || (self.role == Role::Server && !self.negotiation.peer_has_offered())
    }

    fn check_transactions(&mut self, now: Instant) {
        let timeout = self.config.transaction_timeout;
        let role = self.role;
        // A server waits for the original message, unless it has paused it, and for DWM; otherwise
        // it is its own turn.
        let waits = |transaction: &Transaction| {
            let receives = !transaction.original.has_ended() && !transaction.peer_paused;
            role == Role::Processor || receives || transaction.pause.is_paused()
        };
        let late: Vec<Xid> = self
            .transactions
            .iter()
            .filter(|(_, transaction)| {
                waits(transaction) && now >= transaction.progress.at + timeout
            })
            .map(|(xid, _)| *xid)
            .collect();
        for xid in late {
            self.violate(Violation::transaction(xid, self.standstill(xid)));
        }
        // One that we do not wait for now may make us wait later.
        self.timers.transaction_check = self
            .transactions
            .values()
            .map(
                |transaction| if waits(transaction) { transaction.progress.at } else { now } + timeout,
            )
            .min();
    }
}
