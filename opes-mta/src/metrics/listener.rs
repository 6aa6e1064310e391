//! What is counted of a listener: who came, and what became of their mail.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;

use crate::instruments::{Open, Table};
use crate::milter::Modification;
use crate::record::Decision;

/// What those who connect speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrontEnd {
    /// A mail server, with the milter protocol.
    Milter,
    /// Clients, with SMTP or LMTP.
    Smtp,
}

/// A listener: its name, and what is counted of it.
#[derive(Debug)]
pub struct ListenerMetrics {
    /// What rules and the log call it.
    pub name: String,
    pub(super) front_end: FrontEnd,
    pub(super) open: Gauge,
    pub(super) connections: Counter,
    pub(super) too_many: Counter,
    pub(super) messages: Table<Decision, Counter>,
    pub(super) refused_clients: Table<Decision, Counter>,
    pub(super) notifications: Counter,
    pub(super) progress: Counter,
    pub(super) modifications: Table<&'static str, Counter>,
}

impl FrontEnd {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Milter => "milter",
            Self::Smtp => "smtp",
        }
    }
}

impl ListenerMetrics {
    /// Of a listener that nobody has come to.
    pub fn new(name: &str, front_end: FrontEnd) -> Self {
        Self {
            name: name.to_owned(),
            front_end,
            open: Gauge::default(),
            connections: Counter::default(),
            too_many: Counter::default(),
            messages: Table::new(Decision::ALL, Counter::default),
            refused_clients: Table::new([Decision::Reject, Decision::Tempfail], Counter::default),
            notifications: Counter::default(),
            progress: Counter::default(),
            modifications: Table::new(Modification::NAMES, Counter::default),
        }
    }

    /// Connections that are served now.
    pub fn open_connections(&self) -> u64 {
        u64::try_from(self.open.get()).unwrap_or(0)
    }

    /// A connection is served as long as this is held.
    pub(crate) fn connected(&self) -> Open {
        self.connections.inc();
        Open::new(&self.open)
    }

    /// A connection beyond the limit.
    pub(crate) fn turned_away(&self) {
        self.connections.inc();
        self.too_many.inc();
    }

    /// A message is done with.
    pub(crate) fn message(&self, decision: Decision) {
        self.messages.count(decision);
    }

    /// A client was refused as such.
    pub(crate) fn refused_client(&self, decision: Decision) {
        self.refused_clients.count(decision);
    }

    /// New messages of services are in the spool.
    pub(crate) fn notified(&self, messages: usize) {
        self.notifications.inc_by(messages as u64);
    }

    /// The mail server was told that its message is being worked on.
    pub(crate) fn told_of_progress(&self) {
        self.progress.inc();
    }

    /// The mail server was told to do these.
    pub(crate) fn modified(&self, modifications: &[Modification]) {
        modifications.iter().for_each(|each| self.modifications.count(each.name()));
    }
}
