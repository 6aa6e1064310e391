//! The original flow: what the processor sends.

use super::{Flow, Stage, Subject};
use crate::ids::MAXIMUM;
use crate::smtp::{Command, Part};
use crate::violation::Rule;

/// The original application message.
#[derive(Debug, Default)]
pub(crate) struct OriginalFlow {
    flow: Flow,
    /// What it is about, if a profile is in force.
    subject: Option<Subject>,
    /// Octets of the first of two parts: of `message-header`, or of the command before a reply.
    first_part: u32,
    /// The part of the latest DUM.
    part: Option<Part>,
    /// Whether AME said 206.
    partial: bool,
}

impl OriginalFlow {
    /// AMS.
    pub(crate) fn start(&mut self, subject: Option<Subject>) -> Result<(), Rule> {
        self.flow.start()?;
        self.subject = subject;
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
            self.subject.as_ref().map(|subject| self.check_part(subject, part)).transpose()?;
        self.flow.advance(size)?;
        let is_auxiliary = self.is_reply() && next == Some(Part::Command);
        if next == Some(Part::MessageHeader) || is_auxiliary {
            self.first_part = self.flow.octets;
        }
        let begins_body = next == Some(Part::MessageBody) && self.part != next;
        self.part = next.or(self.part);
        Ok(begins_body)
    }

    /// A command has one part, content has its header and then its body, CONNECT has none; a reply has
    /// the command before it if that was negotiated and is there.
    fn check_part(&self, subject: &Subject, part: Option<Part>) -> Result<Part, Rule> {
        use Subject::{Event, Reply};
        let part = part.ok_or(Rule::PartMissing)?;
        let fits = match (subject, part) {
            (Event(Command::Message), Part::MessageHeader) => self.part != Some(Part::MessageBody),
            (Event(Command::Message), Part::MessageBody) => true,
            (Event(Command::Message | Command::Connect), _) => false,
            (Event(_), part) => part == Part::Command,
            (Reply { shows_command, .. }, Part::Command) => {
                *shows_command && self.part != Some(Part::Reply)
            }
            (Reply { .. }, Part::Reply) => true,
            (Reply { .. }, _) => false,
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

    /// Octets of the first of two parts so far: the header of content, the command before a reply.
    pub(crate) fn first_part(&self) -> u32 {
        self.first_part
    }

    /// Octets of the auxiliary part: where the application message begins that is to be adapted.
    pub(crate) fn auxiliary(&self) -> u32 {
        if self.is_reply() { self.first_part } else { 0 }
    }

    /// From which offset on a DUY may name octets: behind the auxiliary part, of which the end is known
    /// once the reply has begun.
    pub(crate) fn usable_from(&self) -> u32 {
        match self.is_reply() && self.part != Some(Part::Reply) {
            true => MAXIMUM,
            false => self.auxiliary(),
        }
    }

    /// An offset of the original as one of the message that is to be adapted: what a reply's adapted
    /// octets are counted against (As-is, Modp).
    pub(crate) fn adaptable_offset(&self, at: Option<u32>) -> Option<u32> {
        at?.checked_sub(self.auxiliary())
    }

    fn is_reply(&self) -> bool {
        self.subject.as_ref().is_some_and(Subject::is_reply)
    }

    /// Octets of the body part so far, once it has begun.
    pub(crate) fn body(&self) -> Option<u32> {
        (self.part == Some(Part::MessageBody)).then(|| self.flow.octets - self.first_part)
    }

    /// Whether AMS came.
    pub(crate) fn has_started(&self) -> bool {
        self.flow.stage != Stage::Idle
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

    /// What it is about, if a profile is in force.
    pub(crate) fn subject(&self) -> Option<&Subject> {
        self.subject.as_ref()
    }
}
