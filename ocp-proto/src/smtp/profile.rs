//! The profile that a service group works under: commands, or replies (profile section 2).

use std::fmt;

use super::command::Command;
use super::effect::EffectName;
use super::feature::{COMMAND_PROFILE, CommandProfile, FailurePolicy, REPLY_PROFILE, ReplyProfile};
use crate::wire::Structure;

/// What a group is asked about. The two exclude each other in one group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ProfileKind {
    /// Commands and content, before they are executed.
    #[default]
    Command,
    /// The replies to them, before the peer gets them.
    Reply,
}

/// What was negotiated for a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Profile {
    /// `ocp://smtp/command`.
    Command(CommandProfile),
    /// `ocp://smtp/reply`.
    Reply(ReplyProfile),
}

impl ProfileKind {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Command, Self::Reply];

    /// The URI of the feature.
    pub fn uri(self) -> &'static str {
        match self {
            Self::Command => COMMAND_PROFILE,
            Self::Reply => REPLY_PROFILE,
        }
    }

    /// The profile with this URI.
    pub fn from_uri(uri: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.uri().as_bytes() == uri)
    }

    /// The type of the feature (profile section 2).
    pub fn feature(self) -> &'static str {
        match self {
            Self::Command => "SMTP-Command-Profile",
            Self::Reply => "SMTP-Reply-Profile",
        }
    }

    /// The other one, which excludes it.
    pub fn other(self) -> Self {
        match self {
            Self::Command => Self::Reply,
            Self::Reply => Self::Command,
        }
    }
}

impl fmt::Display for ProfileKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Command => "command",
            Self::Reply => "reply",
        })
    }
}

impl Profile {
    /// The profile of this kind in a value with its URI, or `None` if a member has the wrong type.
    pub fn from_structure(kind: ProfileKind, structure: &Structure) -> Option<Self> {
        match kind {
            ProfileKind::Command => CommandProfile::from_structure(structure).map(Self::Command),
            ProfileKind::Reply => ReplyProfile::from_structure(structure).map(Self::Reply),
        }
    }

    /// The feature as a structure; absent and empty members are left out.
    pub fn to_structure(&self) -> Structure {
        match self {
            Self::Command(profile) => profile.to_structure(),
            Self::Reply(profile) => profile.to_structure(),
        }
    }

    /// What of this response goes beyond `offer`, if anything.
    pub fn beyond(&self, offer: &Self) -> Option<&'static str> {
        match (self, offer) {
            (Self::Command(chosen), Self::Command(offer)) => chosen.beyond(offer),
            (Self::Reply(chosen), Self::Reply(offer)) => chosen.beyond(offer),
            _ => Some("features"),
        }
    }

    /// Which one it is.
    pub fn kind(&self) -> ProfileKind {
        match self {
            Self::Command(_) => ProfileKind::Command,
            Self::Reply(_) => ProfileKind::Reply,
        }
    }

    /// The command profile, if it is that.
    pub fn as_command(&self) -> Option<&CommandProfile> {
        match self {
            Self::Command(profile) => Some(profile),
            Self::Reply(_) => None,
        }
    }

    /// The reply profile, if it is that.
    pub fn as_reply(&self) -> Option<&ReplyProfile> {
        match self {
            Self::Command(_) => None,
            Self::Reply(profile) => Some(profile),
        }
    }

    /// The commands that are vectored out, or whose replies are.
    pub fn commands(&self) -> &[Command] {
        match self {
            Self::Command(profile) => &profile.commands,
            Self::Reply(profile) => &profile.commands,
        }
    }

    /// Those that the server only watches.
    pub fn observed(&self) -> &[Command] {
        match self {
            Self::Command(profile) => &profile.observed,
            Self::Reply(profile) => &profile.observed,
        }
    }

    /// Side effects that may be asked for.
    pub fn side_effects(&self) -> &[EffectName] {
        match self {
            Self::Command(profile) => &profile.side_effects,
            Self::Reply(profile) => &profile.side_effects,
        }
    }

    /// The strictest policy of the group's services.
    pub fn on_failure(&self) -> Option<FailurePolicy> {
        match self {
            Self::Command(profile) => profile.on_failure,
            Self::Reply(profile) => profile.on_failure,
        }
    }
}

impl From<CommandProfile> for Profile {
    fn from(profile: CommandProfile) -> Self {
        Self::Command(profile)
    }
}

impl From<ReplyProfile> for Profile {
    fn from(profile: ReplyProfile) -> Self {
        Self::Reply(profile)
    }
}
