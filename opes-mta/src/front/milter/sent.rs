//! How much of a message the MTA is asked for: what no service wants to see need not come.

use ocp_proto::smtp::Command;

use crate::milter::{Stage, Steps};
use crate::processor::Processor;

/// What the MTA sends of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sent {
    /// Nothing.
    Nothing,
    /// Its header section.
    Header,
    /// That, and of its body more than so many octets, until it is told to skip the rest (`SMFIR_SKIP`).
    Front(usize),
    /// All of it.
    Whole,
}

impl Sent {
    /// What the groups want by now. A server that comes later and wants more gets no part of a message at all
    /// (`Cause::BodyNotSent`).
    pub(super) fn wanted(processor: &Processor) -> Self {
        match processor.body_wanted() {
            _ if !processor.wants(&Command::Message) => Self::Nothing,
            Some(0) => Self::Header,
            Some(octets) => Self::Front(octets),
            None => Self::Whole,
        }
    }

    /// The steps that say so. An MTA that has to be told to skip waits for an answer to each piece.
    pub(super) fn steps(self) -> Steps {
        match self {
            Self::Nothing => Steps::NO_HEADER.and(Steps::NO_END_OF_HEADER).and(Steps::NO_BODY),
            Self::Header => Steps::NO_BODY.and(Steps::SKIP),
            Self::Front(_) => Steps::SKIP,
            Self::Whole => Steps::NO_REPLY_BODY,
        }
    }

    /// What it has come to with an MTA that has agreed to those steps.
    pub(super) fn agreed(self, steps: Steps) -> Self {
        let can_skip = steps.contain(Steps::SKIP) && steps.await_answer(Stage::Body);
        match self {
            _ if !steps.send(Stage::Header) => Self::Nothing,
            _ if !steps.send(Stage::Body) => Self::Header,
            Self::Header if can_skip => Self::Front(0),
            Self::Front(octets) if can_skip => Self::Front(octets),
            _ => Self::Whole,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_mta_that_can_not_leave_out_octets_sends_more() {
        let all = Steps::NO_HEADER.and(Steps::NO_BODY).and(Steps::SKIP).and(Steps::NO_REPLY_BODY);
        for (sent, offered, expected) in [
            (Sent::Nothing, all, Sent::Nothing),
            (Sent::Nothing, Steps::NONE, Sent::Whole),
            (Sent::Header, all, Sent::Header),
            (Sent::Header, Steps::SKIP, Sent::Front(0)),
            (Sent::Header, Steps::NONE, Sent::Whole),
            (Sent::Front(9), all, Sent::Front(9)),
            (Sent::Front(9), Steps::NO_BODY, Sent::Whole),
            (Sent::Whole, all, Sent::Whole),
        ] {
            assert_eq!(sent.agreed(sent.steps().within(offered)), expected, "{sent:?}, {offered}");
        }
    }
}
