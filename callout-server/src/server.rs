//! What all connections share.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use dashmap::DashMap;
use ocp_proto::smtp::{Command, DialogFacts};
use ocp_proto::{DialogId, Xid};
use tracing::warn;

use crate::access::{Access, Peer, Refusal};
use crate::buffers::Buffers;
use crate::config::Config;
use crate::generation::Generation;
use crate::history::History;
use crate::metrics::Metrics;

/// The configuration in use, the open dialogs of all connections, and what is used up.
#[derive(Debug)]
pub struct Server {
    /// That of new connections.
    current: RwLock<Arc<Generation>>,
    dialogs: DashMap<(ConnectionId, DialogId), Dialog>,
    connections: AtomicU64,
    pub(crate) budgets: Budgets,
    /// `None` if nobody could read it.
    pub(crate) history: Option<Arc<History>>,
    pub(crate) metrics: Metrics,
}

/// What all connections may use up together, whatever configuration each of them has.
#[derive(Debug, Default)]
pub(crate) struct Budgets {
    /// Connections at a time.
    pub(crate) connections: Budget,
    /// Octets of messages in memory.
    pub(crate) memory: Budget,
    /// Octets of messages in files.
    pub(crate) disk: Budget,
    /// Memory of messages that have gone.
    pub(crate) buffers: Arc<Buffers>,
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
        let history = config.kept_history().map(|most| Arc::new(History::new(most)));
        let budgets = Budgets::default();
        let generation = Generation::new(config, &budgets);
        Self {
            current: RwLock::new(Arc::new(generation)),
            dialogs: DashMap::new(),
            connections: AtomicU64::new(1),
            budgets,
            history,
            metrics: Metrics::default(),
        }
    }

    /// The configuration of new connections, and what belongs to it.
    pub(crate) fn current(&self) -> Arc<Generation> {
        // Nobody panics while holding the lock.
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Puts another configuration into the place of the present one, for new connections. Those that are open keep
    /// theirs, and their peers are asked to begin new dialogs elsewhere (Dialog-Drain).
    pub fn exchange(&self, mut config: Config) {
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        config.router.count_on(&current.config.router);
        let next = Arc::new(Generation::new(config, &self.budgets));
        let old = std::mem::replace(&mut *current, next);
        drop(current);
        old.superseded.cancel();
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
    pub(crate) fn admit(&self, config: &Config, peer: &Peer) -> Result<Option<Access>, Refusal> {
        let rules = &config.access;
        let tls = config.tls.as_ref().filter(|_| peer.names.is_none());
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

impl Budgets {
    /// From now on this is the most. What is beyond it already comes back by itself.
    pub(crate) fn limit(&self, config: &Config) {
        self.connections.limit(config.limits.connections);
        self.memory.limit(config.limits.content_octets);
        self.disk.limit(config.spool.octets);
    }
}

/// What may be held at a time: octets, or connections.
#[derive(Clone, Debug, Default)]
pub(crate) struct Budget(Arc<Amounts>);

#[derive(Debug, Default)]
struct Amounts {
    most: AtomicUsize,
    used: AtomicUsize,
}

/// What was taken from a budget; given back when dropped.
#[derive(Debug)]
pub(crate) struct Reservation {
    budget: Budget,
    amount: usize,
}

impl Budget {
    /// That much.
    pub(crate) fn new(most: usize) -> Self {
        let budget = Self::default();
        budget.limit(most);
        budget
    }

    /// From now on that much; what is beyond it already is not taken from anybody.
    pub(crate) fn limit(&self, most: usize) {
        self.0.most.store(most, Ordering::Relaxed);
    }

    /// How much there is in all.
    pub(crate) fn most(&self) -> usize {
        self.0.most.load(Ordering::Relaxed)
    }

    /// What somebody holds.
    pub(crate) fn used(&self) -> usize {
        self.0.used.load(Ordering::Relaxed)
    }

    /// What nobody holds.
    #[cfg(test)]
    pub(crate) fn left(&self) -> usize {
        self.most().saturating_sub(self.used())
    }

    /// An empty reservation, which can grow.
    pub(crate) fn reservation(&self) -> Reservation {
        Reservation { budget: self.clone(), amount: 0 }
    }
}

impl Reservation {
    /// Takes more; `false` if there is not that much left.
    #[must_use]
    pub(crate) fn grow(&mut self, more: usize) -> bool {
        let most = self.budget.most();
        let grown = |used: usize| used.checked_add(more).filter(|used| *used <= most || more == 0);
        let used = &self.budget.0.used;
        let taken = used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, grown);
        if taken.is_ok() {
            self.amount += more;
        }
        taken.is_ok()
    }

    /// Holds that much, more or less than before; `false` if there is not that much left, and nothing changes.
    #[must_use]
    pub(crate) fn resize(&mut self, amount: usize) -> bool {
        match amount.checked_sub(self.amount) {
            Some(more) => self.grow(more),
            None => {
                self.shrink(self.amount - amount);
                true
            }
        }
    }

    /// Gives some back.
    pub(crate) fn shrink(&mut self, less: usize) {
        let less = less.min(self.amount);
        self.amount -= less;
        self.budget.0.used.fetch_sub(less, Ordering::Relaxed);
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.budget.0.used.fetch_sub(self.amount, Ordering::Relaxed);
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

    #[test]
    fn a_budget_that_shrinks_takes_nothing_back() {
        let budget = Budget::new(10);
        let mut held = budget.reservation();
        assert!(held.grow(8));
        budget.limit(5);
        let mut other = budget.reservation();
        assert!(other.grow(0) && !other.grow(1) && !held.grow(1));
        assert_eq!((budget.used(), budget.most()), (8, 5));
        held.shrink(4);
        assert!(other.grow(1) && !other.grow(1));
        budget.limit(6);
        assert!(other.grow(1));
    }
}
