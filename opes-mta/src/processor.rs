//! The OPES processor that front ends share: groups of callout servers, and the rules that say whose
//! events go to which of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use ocp_proto::smtp::{Command, CommandProfile, DialogFacts, Profile, ProfileKind, ReplyProfile};
use tokio::time::timeout;

use crate::config::{self, Config, Origin};
use crate::group::Group;
use crate::ocp::{ServerAddress, Target};
use crate::octets::TemporaryFiles;
use crate::passage::Passage;
use crate::room::{Budget, Room};

/// For a connection to a callout server, with TLS if there is any, and for the negotiation as long again.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long what is only watched may take once nothing else is under way.
const ENDING: Duration = Duration::from_secs(5);

/// Of dialogs: 48 bits.
const NUMBERS: u64 = 1 << 48;

/// Groups that are connected, and what holds for all dialogs.
#[derive(Debug)]
pub struct Processor {
    config: Config,
    /// By their position; `None` for what the front end does not ask about.
    groups: Vec<Option<Group>>,
    /// Octets of messages that may be worked on besides those that are.
    room: Budget,
    /// The same of what waits for groups that only watch.
    shadow_room: Budget,
    /// Where octets of messages go that are not held in memory.
    temporary: TemporaryFiles,
    /// The number of the next dialog. What begins by chance differs from that of other processes.
    next: AtomicU64,
}

/// What a front end can vector out and carry out.
#[derive(Clone, Debug, Default)]
pub struct Offers {
    /// Commands and content.
    pub commands: CommandProfile,
    /// A next hop's replies; `None` if there is no next hop whose replies it sees.
    pub replies: Option<ReplyProfile>,
}

impl From<&CommandProfile> for Offers {
    fn from(commands: &CommandProfile) -> Self {
        Self { commands: commands.clone(), replies: None }
    }
}

impl Offers {
    fn of(&self, kind: ProfileKind) -> Option<Profile> {
        match kind {
            ProfileKind::Command => Some(self.commands.clone().into()),
            ProfileKind::Reply => self.replies.clone().map(Profile::Reply),
        }
    }
}

impl Processor {
    /// Begins to connect to all groups that the front end can ask; it offers them what it can vector
    /// out and carry out.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn start(config: Config, offers: impl Into<Offers>) -> Arc<Self> {
        let offers = offers.into();
        let room = Budget::new(config.limits.content_octets);
        let shadow_room = Budget::new(config.limits.shadow_octets);
        let start = |group: &config::Group| {
            let Some(offer) = offers.of(group.profile) else {
                let (group, profile) = (&group.name, group.profile);
                tracing::warn!(group, %profile, "a group is not asked: this front end sees no replies");
                return None;
            };
            let mut settings = group.settings();
            // A group that only watches does not take the memory that mail needs.
            settings.policy.answers = match group.shadow {
                None => room.clone(),
                Some(_) => shadow_room.clone(),
            };
            Some(Group::start(targets(group, &offer), settings))
        };
        let groups = config.groups.iter().map(start).collect();
        let temporary = TemporaryFiles::new(&config.temporary_folder, config.limits.disk_octets);
        let next = AtomicU64::new(fastrand::u64(..NUMBERS));
        Arc::new(Self { config, groups, room, shadow_room, temporary, next })
    }

    /// Waits until each server has been tried once.
    pub async fn tried(&self) {
        for group in self.groups.iter().flatten() {
            group.tried().await;
        }
    }

    /// Ends it once its front end has: what is only watched or shown to a shadow group is answered before, if
    /// that takes no longer than a few seconds.
    pub async fn end(self: Arc<Self>) {
        let ends: Vec<_> = self.groups.iter().flatten().flat_map(Group::ends).collect();
        drop(self);
        if timeout(ENDING, join_all(ends)).await.is_err() {
            tracing::warn!(
                "callout servers were left before they had answered what is only watched"
            );
        }
    }

    /// What was configured.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// A group that is asked, by its position in the configuration.
    pub(crate) fn group(&self, at: usize) -> Option<(&config::Group, &Group)> {
        self.config.groups.get(at).zip(self.groups.get(at)?.as_ref())
    }

    /// Whether some group wants this event.
    pub fn wants(&self, command: &Command) -> bool {
        self.profiles(ProfileKind::Command).any(|profile| profile.commands().contains(command))
    }

    /// Whether some group wants the next hop's reply to this command.
    pub fn wants_reply(&self, command: &Command) -> bool {
        self.profiles(ProfileKind::Reply).any(|profile| profile.commands().contains(command))
    }

    /// How many octets of a message's body some group wants to see; `None`: all of them.
    pub fn body_wanted(&self) -> Option<usize> {
        let groups = self.config.groups.iter().zip(&self.groups);
        let mut most = 0;
        for (settings, group) in
            groups.filter_map(|(settings, group)| Some((settings, group.as_ref()?)))
        {
            let profile = group.profile();
            if !profile.commands().contains(&Command::Message) {
                continue;
            }
            let leaves = profile.as_command()?.leave_at_body.filter(|_| !settings.whole_body)?;
            most = most.max(leaves as usize);
        }
        Some(most)
    }

    /// Whether some group may answer this event, and not only watch it.
    pub fn waits_for(&self, command: &Command) -> bool {
        self.profiles(ProfileKind::Command).any(|profile| {
            profile.commands().contains(command) && !profile.observed().contains(command)
        })
    }

    /// What the groups of this kind want.
    fn profiles(&self, kind: ProfileKind) -> impl Iterator<Item = Arc<Profile>> {
        let profiles = self.groups.iter().flatten().map(Group::profile);
        profiles.filter(move |profile| profile.kind() == kind)
    }

    /// The way of one SMTP dialog through the groups.
    pub fn passage(self: &Arc<Self>, listen: &str, origin: Origin, facts: DialogFacts) -> Passage {
        let number = self.next.fetch_add(1, Ordering::Relaxed) % NUMBERS;
        Passage::new(Arc::clone(self), listen, origin, facts, number)
    }

    /// Octets of messages that are worked on, in memory.
    pub(crate) fn content(&self) -> &Budget {
        &self.room
    }

    /// Octets of what waits for groups that only watch.
    pub(crate) fn shadow_content(&self) -> &Budget {
        &self.shadow_room
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
fn targets(group: &config::Group, offer: &Profile) -> Vec<Target> {
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
