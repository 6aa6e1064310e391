//! One transaction: an original flow from the processor, an adapted flow from the server, and what
//! is kept of the original (RFC 4037 sections 2.4 and 7).
//!
//! The same state machines run on both sides: what they answer is a violation when the peer caused
//! it and a misuse when we did.

mod adapted;
mod original;
mod pause;
mod preserve;
mod stop;

use std::sync::Arc;
use std::time::Instant;

pub(crate) use adapted::AdaptedFlow;
pub(crate) use original::OriginalFlow;
pub(crate) use pause::Pause;
pub(crate) use preserve::Preservation;
pub(crate) use stop::Stop;

use crate::ids::{DialogId, GroupId, MAXIMUM};
use crate::role::Role;
use crate::smtp::{Command, CommandProfile, Profile};
use crate::violation::Rule;

/// Octets that a transaction cost on the wire, message heads included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// What we sent.
    pub sent: u64,
    /// What we received.
    pub received: u64,
}

/// The state of one transaction.
#[derive(Debug)]
pub(crate) struct Transaction {
    /// The service group that works on it.
    pub(crate) group: GroupId,
    /// The profile in force when the transaction began: later negotiations do not touch it (RFC 4037
    /// section 11.18).
    pub(crate) profile: Option<Arc<Profile>>,
    /// The dialog that the event belongs to.
    pub(crate) dialog: Option<DialogId>,
    pub(crate) original: OriginalFlow,
    pub(crate) adapted: AdaptedFlow,
    pub(crate) preservation: Preservation,
    pub(crate) stop: Stop,
    /// How far the peer lets us send.
    pub(crate) pause: Pause,
    /// Whether we want the peer's data paused (DWP, Pause-At-Body), and have not asked for more since.
    pub(crate) pause_wanted: bool,
    /// Whether the peer has paused it (DPM) as long as we want that: we do not wait for it then.
    pub(crate) peer_paused: bool,
    pub(crate) traffic: Traffic,
    pub(crate) progress: Progress,
}

/// What a transaction is about, and so which parts its messages have (profile section 4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Subject {
    /// A command or content.
    Event(Command),
    /// The reply to it.
    Reply {
        command: Command,
        /// Whether the command goes before it as an auxiliary part.
        shows_command: bool,
    },
}

impl Subject {
    pub(crate) fn new(command: &Command, profile: &Profile) -> Self {
        match profile {
            Profile::Command(_) => Self::Event(command.clone()),
            Profile::Reply(profile) => Self::Reply {
                command: command.clone(),
                shows_command: profile.shows_command() && command.has_line(),
            },
        }
    }

    pub(crate) fn is_message(&self) -> bool {
        *self == Self::Event(Command::Message)
    }

    pub(crate) fn is_reply(&self) -> bool {
        matches!(self, Self::Reply { .. })
    }
}

/// How far a transaction had come when it last made progress.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Progress {
    pub(crate) at: Instant,
    /// Octets of both flows.
    pub(crate) octets: u64,
}

impl Transaction {
    pub(crate) fn new(group: GroupId, profile: Option<Arc<Profile>>, now: Instant) -> Self {
        let commands = profile.as_deref().and_then(Profile::as_command);
        let pause_wanted = commands.is_some_and(|profile| profile.pause_at_body.is_some());
        Self {
            group,
            profile,
            dialog: None,
            original: OriginalFlow::default(),
            adapted: AdaptedFlow::default(),
            preservation: Preservation::default(),
            stop: Stop::default(),
            pause: Pause::default(),
            pause_wanted,
            peer_paused: false,
            traffic: Traffic::default(),
            progress: Progress { at: now, octets: 0 },
        }
    }

    /// The command profile, if the transaction began under it.
    pub(crate) fn command_profile(&self) -> Option<&CommandProfile> {
        self.profile.as_deref().and_then(Profile::as_command)
    }

    /// Whether it is about a reply.
    pub(crate) fn is_reply(&self) -> bool {
        self.profile.as_deref().and_then(Profile::as_reply).is_some()
    }

    /// Octets of both flows that have come or gone; `under_way` are those of the original that it
    /// counts already.
    pub(crate) fn moved(&self, under_way: u32) -> u64 {
        u64::from(self.original.octets() - under_way) + u64::from(self.adapted.octets())
    }

    /// Octets of the flow that this agent sends.
    pub(crate) fn octets_of(&self, role: Role) -> u32 {
        match role {
            Role::Processor => self.original.octets(),
            Role::Server => self.adapted.octets(),
        }
    }

    /// Whether the flow that this agent sends has ended.
    pub(crate) fn has_ended(&self, role: Role) -> bool {
        match role {
            Role::Processor => self.original.has_ended(),
            Role::Server => self.adapted.has_ended(),
        }
    }

    /// The first octet of the body comes or goes: what the profile says in terms of the body begins
    /// to hold for both agents (profile section 2).
    pub(crate) fn begin_body(&mut self) {
        let interest = self.command_profile().and_then(|p| p.preservation_interest_body);
        if let Some(size) = interest {
            self.preservation.limit(self.body_offset(size));
        }
    }

    /// An offset of the body as one of the whole message.
    pub(crate) fn body_offset(&self, offset: u32) -> u32 {
        self.original.first_part().saturating_add(offset).min(MAXIMUM)
    }

    /// Whether the body has come to the offset of Leave-At-Body, and the agents did not act on it
    /// yet. Once all of the original is there, nothing can be left.
    pub(crate) fn leaves_now(&self) -> bool {
        let leave = self.command_profile().and_then(|profile| profile.leave_at_body);
        let reached = leave.zip(self.original.body()).is_some_and(|(leave, body)| body >= leave);
        reached && self.original.is_open() && !self.stop.left && !self.adapted.is_several()
    }
}

/// How far a flow has come.
///
/// ```text
/// Idle ──AMS──▶ Open ──AME──▶ Ended
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Stage {
    #[default]
    Idle,
    Open,
    Ended,
}

/// What both flows have in common: their stage, and the octets so far.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Flow {
    pub(crate) stage: Stage,
    pub(crate) octets: u32,
}

impl Flow {
    pub(crate) fn start(&mut self) -> Result<(), Rule> {
        match self.stage {
            Stage::Idle => {
                self.stage = Stage::Open;
                Ok(())
            }
            Stage::Open | Stage::Ended => Err(Rule::StartedTwice),
        }
    }

    pub(crate) fn check_open(&self, message: &'static str) -> Result<(), Rule> {
        match self.stage {
            Stage::Idle => Err(Rule::NotStarted(message)),
            Stage::Open => Ok(()),
            Stage::Ended => Err(Rule::AfterEnd(message)),
        }
    }

    /// Section 11.9: no gaps and no overlaps; DUM and DUY count together (A-14).
    pub(crate) fn check_offset(&self, found: u32) -> Result<(), Rule> {
        let expected = self.octets;
        (found == expected).then_some(()).ok_or(Rule::Offset { expected, found })
    }

    pub(crate) fn advance(&mut self, size: u32) -> Result<(), Rule> {
        let octets = self.octets.checked_add(size).filter(|octets| *octets <= MAXIMUM);
        self.octets = octets.ok_or(Rule::TooLarge)?;
        Ok(())
    }

    pub(crate) fn end(&mut self) -> Result<(), Rule> {
        self.check_open("AME")?;
        self.stage = Stage::Ended;
        Ok(())
    }
}
