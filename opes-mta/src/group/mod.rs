//! Groups: callout servers with the same services, of which any may answer.
//!
//! ```text
//!   front end ──event──▶ Consultation ──▶ place (roster) ──▶ attempt ──▶ ocp::Dialog ──▶ server
//!        ▲                    │  ▲                              │
//!        └──── Adaptation ────┘  └── another server, while ─────┘
//!              or Failure            nothing is committed
//!   keeper, one a server: connects, replaces what is lost or drained, probes what is out (health)
//! ```
//!
//! - **Placing.** A dialog begins at the one of two random servers that has fewer events open, then fewer
//!   dialogs, and stays there while it can.
//! - **Health.** Connections are pinged (PQ). [`failures`](GroupSettings::failures) within a window eject a
//!   server; a new connection with its negotiation brings it back. Ejection only moves events
//!   elsewhere: where nobody else is left, a server that is out and can be reached is used.
//! - **Failover.** An event is asked about anew at another server if the connection was lost, the server
//!   ended the dialog, had no room for it (TE 400 with Retry), or said nothing any more. All of an
//!   answer is void before TE 200, so nothing is adapted twice. Services that have failed, void answers
//!   and a deadline are not tried again: the failure policy decides.
//! - **Profiles.** Servers may want different events, in a rolling upgrade for example. The profile of the
//!   server that a dialog is on decides what is asked; while there is none, that of the group
//!   ([`Group::profile`]).

mod consultation;
mod health;
mod keeper;
mod roster;
mod settings;
mod union;

use std::sync::Arc;

use ocp_proto::smtp::Profile;
use tokio::task::JoinSet;

pub use self::consultation::Consultation;
use self::roster::Roster;
pub(crate) use self::roster::ServerStanding;
pub use self::settings::{GroupSettings, Overload};
use crate::metrics::GroupMetrics;
use crate::ocp::Target;

/// Callout servers with the same services. Clones share them; connections end when the last clone and
/// the last dialog are dropped.
#[derive(Clone, Debug)]
pub struct Group(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    roster: Arc<Roster>,
    services: Vec<String>,
    settings: GroupSettings,
    /// Dropped, and so ended, with the group.
    _keepers: JoinSet<()>,
}

/// Why no server takes an event.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoServer {
    /// None is there.
    #[error("no callout server is there: {0}")]
    Away(String),
    /// All have as many events as they may have.
    #[error("all callout servers are busy")]
    Busy,
    /// None but those that have been asked.
    #[error("there is no other callout server to ask")]
    Others,
}

impl Group {
    /// Begins to connect to the servers. Services and offer should be the same for all of them; those
    /// of the first are used where no server is concerned. The times of [`GroupSettings`] replace those
    /// of [`Target::connection`].
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn start(targets: Vec<Target>, settings: GroupSettings) -> Self {
        let targets: Vec<_> = targets.into_iter().map(|target| settings.apply(target)).collect();
        let services = targets.first().map(|target| target.services.clone()).unwrap_or_default();
        let roster = Arc::new(Roster::new(&targets, settings.clone()));
        let mut keepers = JoinSet::new();
        for (server, target) in targets.into_iter().enumerate() {
            keepers.spawn(keeper::keep(Arc::clone(&roster), server, target));
        }
        Self(Arc::new(Shared { roster, services, settings, _keepers: keepers }))
    }

    /// Waits until each server has been tried once, so that [`Group::profile`] says what they want.
    pub async fn tried(&self) {
        self.0.roster.tried().await;
    }

    /// What the front end should have sent to it: what any server that is there wants; without one, what
    /// those that have been there wanted; before that, all that we offer, so that nothing passes
    /// unseen.
    pub fn profile(&self) -> Arc<Profile> {
        self.0.roster.profile()
    }

    /// The ends of its connections, which come once it is dropped, and all that is under way is answered.
    pub(crate) fn ends(&self) -> Vec<impl Future<Output = ()> + Send + use<>> {
        self.0.roster.ends()
    }

    /// URIs of the services, in their order.
    pub fn services(&self) -> &[String] {
        &self.0.services
    }

    /// What is counted of it.
    pub(crate) fn metrics(&self) -> &GroupMetrics {
        &self.0.roster.metrics
    }

    /// How its servers are now, by their position.
    pub(crate) fn servers(&self) -> Vec<ServerStanding> {
        self.0.roster.servers()
    }

    /// How it is used.
    pub fn settings(&self) -> &GroupSettings {
        &self.0.settings
    }
}
