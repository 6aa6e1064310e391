//! One transaction: an original flow from the processor, an adapted flow from the server, and what
//! is kept of the original (RFC 4037 sections 2.4 and 7).
//!
//! The same state machines run on both sides: what they answer is a violation when the peer caused
//! it and a misuse when we did.

mod adapted;
mod original;
mod preserve;

use std::sync::Arc;
use std::time::Instant;

pub(crate) use adapted::AdaptedFlow;
pub(crate) use original::OriginalFlow;
pub(crate) use preserve::Preservation;

use crate::ids::{DialogId, MAXIMUM};
use crate::smtp::CommandProfile;
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
    /// The command profile in force when the transaction began: later negotiations do not touch it
    /// (RFC 4037 section 11.18).
    pub(crate) profile: Option<Arc<CommandProfile>>,
    /// The dialog that the event belongs to.
    pub(crate) dialog: Option<DialogId>,
    pub(crate) original: OriginalFlow,
    pub(crate) adapted: AdaptedFlow,
    pub(crate) preservation: Preservation,
    pub(crate) traffic: Traffic,
    /// The last message of either side that carried the transaction on.
    pub(crate) progress: Instant,
}

impl Transaction {
    pub(crate) fn new(profile: Option<Arc<CommandProfile>>, now: Instant) -> Self {
        Self {
            profile,
            dialog: None,
            original: OriginalFlow::default(),
            adapted: AdaptedFlow::default(),
            preservation: Preservation::default(),
            traffic: Traffic::default(),
            progress: now,
        }
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
