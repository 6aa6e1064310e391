//! What all connections share.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use dashmap::DashMap;
use ocp_proto::smtp::{Command, DialogFacts};
use ocp_proto::{DialogId, Xid};
use tracing::warn;

use crate::access::{Access, Peer, Refusal};
use crate::buffers::Buffers;
use crate::config::Config;
use crate::history::History;
use crate::metrics::Metrics;
use crate::spool::Spool;

/// The configuration, the open dialogs of all connections, and what is used up.
#[derive(Debug)]
pub struct Server {
    /// What was configured.
    pub config: Config,
    dialogs: DashMap<(ConnectionId, DialogId), Dialog>,
    connections: AtomicU64,
    spool: Spool,
    /// `None` if nobody could read it.
    pub(crate) history: Option<Arc<History>>,
    pub(crate) metrics: Metrics,
}

/// A connection of this process; never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ConnectionId(u64);

impl ConnectionId {
    pub(crate) fn number(self) -> u64 {
        self.0
    }
}

/// What is known of a dialog (profile section 3).
#[derive(Clone, Debug, Default)]
pub(crate) struct Dialog {
    /// Dialog-Start with every Dialog-Update merged over it.
    pub(crate) facts: Arc<DialogFacts>,
    /// The latest event: Dialog-Outcome says what became of it.
    pub(crate) latest: Option<(Xid, Command)>,
}

impl Server {
    /// A server of this configuration, with nothing going on.
    pub fn new(config: Config) -> Self {
        let spool = Spool {
            folder: config.spool.folder.clone(),
            threshold: config.spool.threshold,
            memory: Budget::new(config.limits.content_octets),
            disk: Budget::new(config.spool.octets),
            buffers: Buffers::default(),
        };
        let history = config.kept_history().map(|most| Arc::new(History::new(most)));
        Self {
            config,
            dialogs: DashMap::new(),
            connections: AtomicU64::new(1),
            spool,
            history,
            metrics: Metrics::default(),
        }
    }

    /// How many dialogs are open on all connections.
    pub fn open_dialogs(&self) -> usize {
        self.dialogs.len()
    }

    /// How many connections there were, with those that are open.
    pub(crate) fn connections(&self) -> u64 {
        self.connections.load(Ordering::Relaxed) - 1
    }

    pub(crate) fn next_connection(&self) -> ConnectionId {
        ConnectionId(self.connections.fetch_add(1, Ordering::Relaxed))
    }

    /// What a peer may use; `None` if TLS has to come first.
    pub(crate) fn admit(&self, peer: &Peer) -> Result<Option<Access>, Refusal> {
        let rules = &self.config.access;
        let tls = self.config.tls.as_ref().filter(|_| peer.names.is_none());
        let required = tls.is_some_and(|tls| tls.settings.required) && peer.origin.is_tcp();
        match rules.admit(peer) {
            Ok(_) if required => Ok(None),
            Ok(access) => Ok(Some(access)),
            Err(_) if tls.is_some() && rules.wants_certificate(&peer.origin) => Ok(None),
            Err(refusal) => {
                warn!(rule = refusal.rule(), names = ?peer.names, "refused: {refusal}");
                self.metrics.denied.inc();
                Err(refusal)
            }
        }
    }

    /// Where the octets of messages that are being worked on are, and how many may be.
    pub(crate) fn spool(&self) -> &Spool {
        &self.spool
    }

    pub(crate) fn start_dialog(&self, connection: ConnectionId, id: DialogId, facts: DialogFacts) {
        let dialog = Dialog { facts: Arc::new(facts), latest: None };
        self.dialogs.insert((connection, id), dialog);
    }

    pub(crate) fn end_dialog(&self, connection: ConnectionId, id: DialogId) {
        self.dialogs.remove(&(connection, id));
    }

    pub(crate) fn dialog(&self, connection: ConnectionId, id: DialogId) -> Option<Dialog> {
        self.dialogs.get(&(connection, id)).map(|dialog| dialog.value().clone())
    }

    /// Changes what is known of a dialog, if it is open.
    pub(crate) fn change_dialog(
        &self,
        connection: ConnectionId,
        id: DialogId,
        change: impl FnOnce(&mut Dialog),
    ) {
        if let Some(mut dialog) = self.dialogs.get_mut(&(connection, id)) {
            change(dialog.value_mut());
        }
    }
}

/// Octets that may be held at a time.
#[derive(Clone, Debug)]
pub(crate) struct Budget {
    most: usize,
    left: Arc<AtomicUsize>,
}

/// Octets taken from a budget; given back when dropped.
#[derive(Debug)]
pub(crate) struct Reservation {
    budget: Budget,
    octets: usize,
}

impl Budget {
    /// That many octets.
    pub(crate) fn new(octets: usize) -> Self {
        Self { most: octets, left: Arc::new(AtomicUsize::new(octets)) }
    }

    /// Octets in all.
    pub(crate) fn most(&self) -> usize {
        self.most
    }

    /// Octets that somebody holds.
    pub(crate) fn used(&self) -> usize {
        self.most - self.left.load(Ordering::Relaxed)
    }

    /// Octets that nobody holds.
    #[cfg(test)]
    pub(crate) fn left(&self) -> usize {
        self.left.load(Ordering::Relaxed)
    }

    /// An empty reservation, which can grow.
    pub(crate) fn reservation(&self) -> Reservation {
        Reservation { budget: self.clone(), octets: 0 }
    }
}

impl Reservation {
    /// Takes more octets; `false` if there are not that many left.
    #[must_use]
    pub(crate) fn grow(&mut self, octets: usize) -> bool {
        let taken = self
            .budget
            .left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(octets));
        if taken.is_ok() {
            self.octets += octets;
        }
        taken.is_ok()
    }

    /// Holds that many octets, more or fewer than before; `false` if there are not that many left, and nothing changes.
    #[must_use]
    pub(crate) fn resize(&mut self, octets: usize) -> bool {
        match octets.checked_sub(self.octets) {
            Some(more) => self.grow(more),
            None => {
                self.shrink(self.octets - octets);
                true
            }
        }
    }

    /// Gives octets back.
    pub(crate) fn shrink(&mut self, octets: usize) {
        let octets = octets.min(self.octets);
        self.octets -= octets;
        self.budget.left.fetch_add(octets, Ordering::Relaxed);
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.budget.left.fetch_add(self.octets, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_given_back() {
        let budget = Budget::new(10);
        let mut first = budget.reservation();
        assert!(first.grow(4) && first.grow(6) && !first.grow(1));
        assert!(!budget.reservation().grow(1));
        assert_eq!((budget.used(), budget.most()), (10, 10));
        drop(first);
        assert_eq!((budget.used(), budget.most()), (0, 10));
        assert!(budget.reservation().grow(10));
    }
}
