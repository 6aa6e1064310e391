//! The OPES processor that front ends share: groups of callout servers, and the rules that say whose
//! events go to which of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ocp_proto::smtp::{Command, CommandProfile, DialogFacts};

use crate::config::{self, Config, Origin};
use crate::group::Group;
use crate::ocp::{ServerAddress, Target};
use crate::octets::TemporaryFiles;
use crate::passage::Passage;
use crate::room::{Budget, Room};

/// For a connection to a callout server, with TLS if there is any, and for the negotiation as long again.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Of dialogs: 48 bits.
const NUMBERS: u64 = 1 << 48;

/// Groups that are connected, and what holds for all dialogs.
#[derive(Debug)]
pub struct Processor {
    config: Config,
    groups: Vec<Group>,
    /// Octets of messages that may be worked on besides those that are.
    room: Budget,
    /// The same of what waits for groups that only watch.
    shadow_room: Budget,
    /// Where octets of messages go that are not held in memory.
    temporary: TemporaryFiles,
    /// The number of the next dialog. What begins by chance differs from that of other processes.
    next: AtomicU64,
}

impl Processor {
    /// Begins to connect to all groups; `offer` is what the front end can vector out and carry out.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn start(config: Config, offer: &CommandProfile) -> Arc<Self> {
        let room = Budget::new(config.limits.content_octets);
        let shadow_room = Budget::new(config.limits.shadow_octets);
        let start = |group: &config::Group| {
            let mut settings = group.settings();
            // A group that only watches does not take the memory that mail needs.
            settings.policy.answers = match group.shadow {
                None => room.clone(),
                Some(_) => shadow_room.clone(),
            };
            Group::start(targets(group, offer), settings)
        };
        let groups = config.groups.iter().map(start).collect();
        let temporary = TemporaryFiles::new(&config.temporary_folder, config.limits.disk_octets);
        let next = AtomicU64::new(fastrand::u64(..NUMBERS));
        Arc::new(Self { config, groups, room, shadow_room, temporary, next })
    }

    /// Waits until each server has been tried once.
    pub async fn tried(&self) {
        for group in &self.groups {
            group.tried().await;
        }
    }

    /// What was configured.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// A group, by its position in the configuration.
    pub(crate) fn group(&self, at: usize) -> Option<(&config::Group, &Group)> {
        self.config.groups.get(at).zip(self.groups.get(at))
    }

    /// Whether some group wants this event.
    pub fn wants(&self, command: &Command) -> bool {
        self.groups.iter().any(|group| group.profile().commands.contains(command))
    }

    /// Whether some group may answer this event, and not only watch it.
    pub fn waits_for(&self, command: &Command) -> bool {
        self.groups.iter().any(|group| {
            let profile = group.profile();
            profile.commands.contains(command) && !profile.observed.contains(command)
        })
    }

    /// The way of one SMTP dialog through the groups.
    pub fn passage(self: &Arc<Self>, listen: &str, origin: Origin, facts: DialogFacts) -> Passage {
        let number = self.next.fetch_add(1, Ordering::Relaxed) % NUMBERS;
        Passage::new(Arc::clone(self), listen, origin, facts, number)
    }

    /// Where octets of messages go that are not held in memory.
    pub fn temporary(&self) -> &TemporaryFiles {
        &self.temporary
    }

    /// Room for a message of which nothing has come.
    pub fn room(&self) -> Room {
        self.room.room()
    }

    /// Room for what a group that only watches is to see.
    pub(crate) fn shadow_room(&self) -> Room {
        self.shadow_room.room()
    }
}

/// The servers of a group.
fn targets(group: &config::Group, offer: &CommandProfile) -> Vec<Target> {
    let target = |server: &ServerAddress| Target {
        server: server.clone(),
        tls: group.tls.clone(),
        services: group.services.clone(),
        offer: offer.clone(),
        connect_timeout: CONNECT_TIMEOUT,
        connection: ocp_proto::Config::default(),
    };
    group.servers.iter().map(target).collect()
}
