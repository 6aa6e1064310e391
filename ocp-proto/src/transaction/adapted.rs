//! The adapted flow: what the server answers.

use std::ops::Range;

use super::{Flow, Stage};
use crate::smtp::{Command, Part};
use crate::violation::Rule;

/// The adapted application message.
#[derive(Debug, Default)]
pub(crate) struct AdaptedFlow {
    flow: Flow,
    /// The part of the latest DUM or DUY.
    part: Option<Part>,
    /// Whether the message ended with a success.
    complete: bool,
}

impl AdaptedFlow {
    /// AMS.
    pub(crate) fn start(&mut self) -> Result<(), Rule> {
        self.flow.start()
    }

    /// DUM: `size` octets at `offset`; `command` is the event, if the profile is in force.
    pub(crate) fn data(
        &mut self,
        offset: u32,
        size: u32,
        part: Option<Part>,
        command: Option<&Command>,
    ) -> Result<(), Rule> {
        self.flow.check_open("DUM")?;
        self.flow.check_offset(offset)?;
        if let Some(command) = command {
            self.part = Some(self.check_part(command, part.ok_or(Rule::PartMissing)?)?);
        }
        self.flow.advance(size)
    }

    /// DUY of these original octets: they keep their part unless one is named. `header` is the
    /// size of the original header part.
    pub(crate) fn preserved(
        &mut self,
        range: &Range<u32>,
        part: Option<Part>,
        command: Option<&Command>,
        header: u32,
    ) -> Result<(), Rule> {
        self.flow.check_open("DUY")?;
        if let Some(command) = command {
            let own = |offset| match command {
                Command::Message if offset < header => Part::MessageHeader,
                Command::Message => Part::MessageBody,
                _ => Part::Command,
            };
            let first = self.check_part(command, part.unwrap_or_else(|| own(range.start)))?;
            let last = part.unwrap_or_else(|| own(range.end.saturating_sub(1)));
            self.part = Some(first);
            self.part = Some(self.check_part(command, last)?);
        }
        self.flow.advance(range.end - range.start)
    }

    /// The parts of the original in their order, or `reply` alone: never both.
    fn check_part(&self, command: &Command, part: Part) -> Result<Part, Rule> {
        let fits = match (command, self.part, part) {
            (_, None | Some(Part::Reply), Part::Reply) => true,
            (_, _, Part::Reply) | (_, Some(Part::Reply), _) | (Command::Connect, ..) => false,
            (Command::Message, before, Part::MessageHeader) => before != Some(Part::MessageBody),
            (Command::Message, _, Part::MessageBody) => true,
            (Command::Message, ..) => false,
            (_, _, part) => part == Part::Command,
        };
        fits.then_some(part).ok_or(Rule::PartOrder(part.name()))
    }

    /// AME with a success.
    pub(crate) fn end(&mut self) -> Result<(), Rule> {
        self.flow.end()?;
        self.complete = true;
        Ok(())
    }

    /// Octets so far.
    pub(crate) fn octets(&self) -> u32 {
        self.flow.octets
    }

    /// Whether AMS came.
    pub(crate) fn has_started(&self) -> bool {
        self.flow.stage != Stage::Idle
    }

    /// Whether AME came.
    pub(crate) fn has_ended(&self) -> bool {
        self.flow.stage == Stage::Ended
    }

    /// Whether the whole adapted message is there.
    pub(crate) fn is_complete(&self) -> bool {
        self.complete
    }
}
