//! The original flow: what the processor sends.

use super::{Flow, Stage};
use crate::smtp::{Command, Part};
use crate::violation::Rule;

/// The original application message.
#[derive(Debug, Default)]
pub(crate) struct OriginalFlow {
    flow: Flow,
    /// The event, if the command profile is in force.
    command: Option<Command>,
    /// Octets of the first of two parts: of `message-header`.
    header: u32,
    /// The part of the latest DUM.
    part: Option<Part>,
    /// Whether AME said 206.
    partial: bool,
}

impl OriginalFlow {
    /// AMS.
    pub(crate) fn start(&mut self, command: Option<Command>) -> Result<(), Rule> {
        self.flow.start()?;
        self.command = command;
        Ok(())
    }

    /// DUM: `size` octets of `part` at `offset`. Whether it is the first of the body: from now on
    /// the size of the header is known.
    pub(crate) fn data(
        &mut self,
        offset: u32,
        size: u32,
        part: Option<Part>,
    ) -> Result<bool, Rule> {
        self.flow.check_open("DUM")?;
        self.flow.check_offset(offset)?;
        let next =
            self.command.as_ref().map(|command| self.check_part(command, part)).transpose()?;
        self.flow.advance(size)?;
        if next == Some(Part::MessageHeader) {
            self.header = self.flow.octets;
        }
        let begins_body = next == Some(Part::MessageBody) && self.part != next;
        self.part = next.or(self.part);
        Ok(begins_body)
    }

    /// A command has one part, content has its header and then its body, CONNECT has none.
    fn check_part(&self, command: &Command, part: Option<Part>) -> Result<Part, Rule> {
        let part = part.ok_or(Rule::PartMissing)?;
        let fits = match (command, part) {
            (Command::Message, Part::MessageHeader) => self.part != Some(Part::MessageBody),
            (Command::Message, Part::MessageBody) => true,
            (Command::Message | Command::Connect, _) => false,
            (_, part) => part == Part::Command,
        };
        fits.then_some(part).ok_or(Rule::PartOrder(part.name()))
    }

    /// AME.
    pub(crate) fn end(&mut self, partial: bool) -> Result<(), Rule> {
        self.flow.end()?;
        self.partial = partial;
        Ok(())
    }

    /// Octets so far.
    pub(crate) fn octets(&self) -> u32 {
        self.flow.octets
    }

    /// Octets of the header part so far.
    pub(crate) fn header(&self) -> u32 {
        self.header
    }

    /// Octets of the body part so far, once it has begun.
    pub(crate) fn body(&self) -> Option<u32> {
        (self.part == Some(Part::MessageBody)).then(|| self.flow.octets - self.header)
    }

    /// Whether the flow is between AMS and AME.
    pub(crate) fn is_open(&self) -> bool {
        self.flow.stage == Stage::Open
    }

    /// Whether AME came.
    pub(crate) fn has_ended(&self) -> bool {
        self.flow.stage == Stage::Ended
    }

    /// Whether AME left the rest of the message out.
    pub(crate) fn is_partial(&self) -> bool {
        self.partial
    }

    /// The event, if the command profile is in force.
    pub(crate) fn command(&self) -> Option<&Command> {
        self.command.as_ref()
    }
}
