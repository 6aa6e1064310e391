//! The adapted flow: what the server answers, in one message or in several (profile section 5).

use std::collections::HashSet;
use std::ops::Range;

use smallvec::SmallVec;

use super::{Flow, Stage, Subject};
use crate::ids::AdaptedMessageId;
use crate::message::{AdaptedRole, AdaptedStart, DataLabel};
use crate::smtp::{Command, CommandProfile, Part};
use crate::violation::Rule;
use crate::wire::Atom;

/// The adapted application messages of a transaction.
#[derive(Debug, Default)]
pub(crate) struct AdaptedFlow {
    /// The only message, or those with an Am-Id in rising order.
    messages: SmallVec<[AdaptedMessage; 1]>,
    /// Octets of all of them: what DWP counts.
    octets: u32,
    /// Whom messages with an Am-Id are for.
    taken: Option<Box<Taken>>,
}

/// One adapted message.
#[derive(Clone, Debug)]
struct AdaptedMessage {
    id: Option<AdaptedMessageId>,
    role: Option<AdaptedRole>,
    flow: Flow,
    /// The part of the latest DUM or DUY.
    part: Option<Part>,
    /// Whether the message ended with a success, or with 206 after DSS.
    complete: bool,
    /// Whether octets may differ from those at the same offset of the original.
    changed: bool,
    /// The latest Modp.
    modp: Option<u32>,
}

/// Recipients that have their variant or their reply already. Worst case: the recipients of
/// [`crate::Config::adapted_messages`] AMS.
#[derive(Debug, Default)]
struct Taken {
    variants: HashSet<Atom>,
    replies: HashSet<Atom>,
    /// Whether a variant serves the rest.
    rest: bool,
    /// Whether a reply serves all.
    all_refused: bool,
}

impl AdaptedFlow {
    /// AMS. `limit` messages are allowed in a transaction.
    pub(crate) fn start(
        &mut self,
        start: &AdaptedStart,
        subject: Option<&Subject>,
        profile: Option<&CommandProfile>,
        limit: usize,
    ) -> Result<(), Rule> {
        match start.id {
            Some(id) => self.check_several(id, start, subject, profile, limit)?,
            None if self.is_several() => return Err(Rule::SeveralMessages("AMS without Am-Id")),
            None if !self.messages.is_empty() => return Err(Rule::StartedTwice),
            None if start.role.is_some() => {
                return Err(Rule::SeveralMessages("Role without Am-Id"));
            }
            None => {}
        }
        let flow = Flow { stage: Stage::Open, octets: 0 };
        self.messages.push(AdaptedMessage {
            id: start.id,
            role: start.role,
            flow,
            part: None,
            complete: false,
            changed: false,
            modp: None,
        });
        Ok(())
    }

    /// What holds for a message with an Am-Id; from then on its recipients are taken.
    fn check_several(
        &mut self,
        id: AdaptedMessageId,
        start: &AdaptedStart,
        subject: Option<&Subject>,
        profile: Option<&CommandProfile>,
        limit: usize,
    ) -> Result<(), Rule> {
        let several = profile.is_some_and(|profile| profile.multiple_messages);
        if !several || !subject.is_some_and(Subject::is_message) {
            return Err(Rule::NotNegotiated("Multiple-Messages".to_owned()));
        }
        if profile.is_some_and(|profile| profile.leave_at_body.is_some()) {
            // The processor may leave at any moment without having heard of the Am-Id.
            return Err(Rule::SeveralMessages("Am-Id where Leave-At-Body was negotiated"));
        }
        if self.messages.last().is_some_and(|last| last.id.is_none_or(|last| id <= last)) {
            return Err(Rule::SeveralMessages("an Am-Id that does not rise"));
        }
        if self.messages.len() >= limit {
            return Err(Rule::AdaptedMessageLimit(limit));
        }
        let role = start.role.ok_or(Rule::SeveralMessages("Am-Id without Role"))?;
        let for_all = start.recipients.is_empty();
        let replies = profile.is_some_and(|profile| profile.recipient_replies);
        if role == AdaptedRole::Reply && !for_all && !replies {
            return Err(Rule::NotNegotiated("Recipient-Replies".to_owned()));
        }
        let taken = self.taken.get_or_insert_default();
        if role != AdaptedRole::Notification && taken.all_refused {
            return Err(Rule::SeveralMessages("a variant or reply behind a reply for all"));
        }
        let (known, cause) = match role {
            AdaptedRole::Notification if for_all => {
                return Err(Rule::SeveralMessages("a notification without recipients"));
            }
            AdaptedRole::Notification => return Ok(()),
            AdaptedRole::Variant if for_all => {
                let first = !std::mem::replace(&mut taken.rest, true);
                let cause = Rule::SeveralMessages("a second variant without recipients");
                return first.then_some(()).ok_or(cause);
            }
            AdaptedRole::Reply if for_all => {
                taken.all_refused = true;
                let alone = !taken.rest && taken.variants.is_empty() && taken.replies.is_empty();
                let cause = Rule::SeveralMessages("a reply for all behind a variant or reply");
                return alone.then_some(()).ok_or(cause);
            }
            AdaptedRole::Variant => (&mut taken.variants, "a recipient of two variants"),
            AdaptedRole::Reply => (&mut taken.replies, "a recipient of two replies"),
        };
        let twice = start.recipients.iter().any(|address| known.contains(address.path()));
        if twice {
            return Err(Rule::SeveralMessages(cause));
        }
        // The same address twice in one list is one recipient.
        known.extend(start.recipients.iter().map(|address| address.path().clone()));
        Ok(())
    }

    /// DUM: `size` octets at `offset`; `subject` is what it is about, if a profile is in force. `as_is`
    /// says where the same octets stand in the original, behind its auxiliary part.
    pub(crate) fn data(
        &mut self,
        offset: u32,
        size: u32,
        label: DataLabel,
        subject: Option<&Subject>,
        as_is: Option<u32>,
    ) -> Result<(), Rule> {
        let message = self.message(label.id, "DUM")?;
        message.flow.check_offset(offset)?;
        let part = match subject {
            Some(subject) => {
                Some(message.check_part(subject, label.part.ok_or(Rule::PartMissing)?)?)
            }
            None => None,
        };
        message.flow.advance(size)?;
        message.part = part.or(message.part);
        message.changed |= size > 0 && as_is != Some(offset);
        self.octets = self.octets.saturating_add(size);
        Ok(())
    }

    /// DUY of these original octets: they keep their part unless one is named. `first_part` is the size
    /// of the first of the original's two parts.
    pub(crate) fn preserved(
        &mut self,
        range: &Range<u32>,
        label: DataLabel,
        subject: Option<&Subject>,
        first_part: u32,
    ) -> Result<(), Rule> {
        let message = self.message(label.id, "DUY")?;
        let size = range.end - range.start;
        let mut part = message.part;
        if let Some(subject) = subject {
            let own = |offset| match subject {
                Subject::Event(Command::Message) if offset < first_part => Part::MessageHeader,
                Subject::Event(Command::Message) => Part::MessageBody,
                Subject::Event(_) => Part::Command,
                Subject::Reply { .. } => Part::Reply,
            };
            let first =
                message.check_part(subject, label.part.unwrap_or_else(|| own(range.start)))?;
            let last = label.part.unwrap_or_else(|| own(range.end.saturating_sub(1)));
            let checked = AdaptedMessage { part: Some(first), ..message.clone() };
            part = Some(checked.check_part(subject, last)?);
        }
        let auxiliary = if subject.is_some_and(Subject::is_reply) { first_part } else { 0 };
        let offset = message.flow.octets.saturating_add(auxiliary);
        message.flow.advance(size)?;
        message.part = part;
        message.changed |= size > 0 && range.start != offset;
        self.octets = self.octets.saturating_add(size);
        Ok(())
    }

    /// AME with a success, or with 206 after DSS.
    pub(crate) fn end(&mut self, id: Option<AdaptedMessageId>) -> Result<(), Rule> {
        let message = self.message(id, "AME")?;
        message.flow.end()?;
        message.complete = true;
        Ok(())
    }

    /// Modp: whether there is anything new to say (section 11.9: once per value and message).
    pub(crate) fn expect_changes(
        &mut self,
        id: Option<AdaptedMessageId>,
        percent: u32,
    ) -> Result<bool, Rule> {
        let message = self.message(id, "DUM")?;
        Ok(message.modp.replace(percent) != Some(percent))
    }

    /// Whether octets of this message that stand so in the original would be the first to differ.
    pub(crate) fn has_changed(&self, id: Option<AdaptedMessageId>) -> bool {
        self.find(id).and_then(|at| self.messages.get(at)).is_some_and(|message| message.changed)
    }

    /// Whether this message was promised to stay as it is (Modp 0).
    pub(crate) fn is_promised_unchanged(&self, id: Option<AdaptedMessageId>) -> bool {
        let message = self.find(id).and_then(|at| self.messages.get(at));
        message.is_some_and(|message| message.modp == Some(0))
    }

    /// The open message of this Am-Id.
    fn message(
        &mut self,
        id: Option<AdaptedMessageId>,
        what: &'static str,
    ) -> Result<&mut AdaptedMessage, Rule> {
        if id.is_none() && self.is_several() {
            return Err(Rule::SeveralMessages("data or AME without Am-Id"));
        }
        let at = self.find(id).ok_or(Rule::NotStarted(what))?;
        let message = self.messages.get_mut(at).ok_or(Rule::NotStarted(what))?;
        message.flow.check_open(what)?;
        Ok(message)
    }

    fn find(&self, id: Option<AdaptedMessageId>) -> Option<usize> {
        self.messages.binary_search_by_key(&id, |message| message.id).ok()
    }

    /// Octets of all messages so far: what DWP counts.
    pub(crate) fn octets(&self) -> u32 {
        self.octets
    }

    /// Octets of one message so far.
    pub(crate) fn octets_of(&self, id: Option<AdaptedMessageId>) -> u32 {
        let message = self.find(id).and_then(|at| self.messages.get(at));
        message.map_or(0, |message| message.flow.octets)
    }

    /// Whether an Am-Id is in use.
    pub(crate) fn is_several(&self) -> bool {
        self.messages.last().is_some_and(|last| last.id.is_some())
    }

    /// Whether AMS came.
    pub(crate) fn has_started(&self) -> bool {
        !self.messages.is_empty()
    }

    /// Whether the only message has ended; of several there may always be one more.
    pub(crate) fn has_ended(&self) -> bool {
        !self.is_several() && self.messages.first().is_some_and(|m| m.flow.stage == Stage::Ended)
    }

    /// Whether every adapted message that began is there as a whole.
    pub(crate) fn is_complete(&self) -> bool {
        !self.messages.is_empty() && self.messages.iter().all(|message| message.complete)
    }
}

impl AdaptedMessage {
    /// The parts of the original in their order, or `reply` alone: never both.
    fn check_part(&self, subject: &Subject, part: Part) -> Result<Part, Rule> {
        use Subject::{Event, Reply};
        let fits = match (subject, self.part, part) {
            (_, None | Some(Part::Reply), Part::Reply) => {
                matches!(self.role, None | Some(AdaptedRole::Reply))
            }
            (Reply { .. } | Event(Command::Connect), ..) => false,
            (_, _, Part::Reply) | (_, Some(Part::Reply), _) => false,
            _ if self.role == Some(AdaptedRole::Reply) => false,
            (Event(Command::Message), before, Part::MessageHeader) => {
                before != Some(Part::MessageBody)
            }
            (Event(Command::Message), _, Part::MessageBody) => true,
            (Event(Command::Message), ..) => false,
            (_, _, part) => part == Part::Command,
        };
        fits.then_some(part).ok_or(Rule::PartOrder(part.name()))
    }
}
