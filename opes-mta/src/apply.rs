//! What a server answered, put together and checked before it can touch anything.
//!
//! A callout server may be as hostile as any peer: what it sends is bounded while it arrives, and what
//! could reach an SMTP peer is checked. One violation voids the whole answer.

use std::collections::HashSet;
use std::io;
use std::ops::Range;

use bytes::{Bytes, BytesMut};
use ocp_proto::smtp::{
    Address, Command, CommandLine, CommandLineError, EffectName, Part, ReplacementError, Reply,
    ReplyError, SideEffect, Validity, Verdict, may_replace, uncovered,
};
use ocp_proto::wire::Atom;
use ocp_proto::{AdaptedEnd, AdaptedMessageId, AdaptedRole, AdaptedStart};

use crate::event::{Body, Content, Event, Message, PathError, address_of, check_path, header_end};
use crate::kept::Kept;
use crate::octets::{Octets, is_same};
use crate::room::Room;

/// The most stretches that one answer may consist of. Services make a handful of edits; the bound
/// is what stops a server that returns a message octet by octet. Worst case an answer: 65,536 ×
/// about 40 octets, 2.6 MB.
const MOST_PIECES: usize = 65_536;

/// The longest line of a header field that is new, without its line end (RFC 5322 section 2.1.1).
const LONGEST_HEADER_LINE: usize = 998;

/// What becomes of an event's octets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// They stay as they are.
    Unchanged,
    /// Another command line with the same verb.
    Line(CommandLine),
    /// Another message.
    Message(Adapted),
    /// This reply goes to the peer; the event is not executed. Of an event that is a reply, this one in its
    /// place.
    Reply(Reply),
    /// Recipients differ: each of them is covered by one of these, or deleted by a side effect.
    Several(Vec<Variant>),
}

impl Answer {
    /// In a word, as the server's log has it.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Unchanged => "unchanged",
            Self::Line(_) | Self::Message(_) => "modified",
            Self::Reply(_) => "replied",
            Self::Several(_) => "several",
        }
    }
}

/// What becomes of a message for some of its recipients (SMTP profile section 5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Variant {
    /// Whom it is for.
    pub recipients: Vec<Address>,
    /// What becomes of the octets for them: they stay, another message, or a reply.
    pub answer: Answer,
    /// What to do besides, for these recipients only.
    pub effects: Vec<SideEffect>,
    /// What groups before had made of the octets, if the answer is a reply in their place.
    pub made: Option<Adapted>,
}

/// A message that the services want to have submitted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notification {
    /// Its sender.
    pub sender: Address,
    /// Its recipients.
    pub recipients: Vec<Address>,
    /// Its octets.
    pub message: Adapted,
}

/// An adapted message: slices of the original and new octets in their order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Adapted {
    /// The header section with the empty line that ends it.
    pub header: Vec<Bytes>,
    /// The rest.
    pub body: Body,
}

/// A whole, checked answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked {
    /// What becomes of the octets.
    pub answer: Answer,
    /// What to do besides, in this order.
    pub effects: Vec<SideEffect>,
    /// What each service found.
    pub verdicts: Vec<Verdict>,
    /// New messages to be submitted.
    pub notifications: Vec<Notification>,
    /// Whether no more events of this envelope are wanted.
    pub envelope_done: bool,
    /// How long the answer may be used again; `None` if it may not.
    pub validity: Option<Validity>,
    /// Octets of the original that it refers to (DUY): they did not come back.
    pub preserved: u64,
}

/// Why an answer is void.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AnswerError {
    /// More octets than allowed.
    #[error("more than {0} octets came back")]
    TooLarge(usize),
    /// New octets for which there is no room.
    #[error("there is no room now for so many new octets")]
    NoRoom,
    /// A header section or a reply made of octets that are not in memory.
    #[error("octets of the body behind its first memory-octets became its {}", .0.name())]
    Stored(Part),
    /// Too many stretches.
    #[error("the message came back in more than {MOST_PIECES} pieces")]
    TooManyPieces,
    /// DUY of what was not kept.
    #[error("octets {0:?} of the original were not kept")]
    NotKept(Range<u32>),
    /// A recipient whom no variant, reply or deletion covers.
    #[error("nothing is said of the recipient {0}")]
    Uncovered(Address),
    /// Octets without a part.
    #[error("octets that belong to no part")]
    NoPart,
    /// Nothing came back.
    #[error("nothing came back for {0}")]
    Empty(Command),
    /// No reply.
    #[error("the reply is none: {0}")]
    Reply(#[from] ReplyError),
    /// A reply that this event can't get.
    #[error("{reply} is no answer to {command} (SMTP profile section 4)")]
    Satisfaction {
        /// The event.
        command: Command,
        /// The reply's code.
        reply: u16,
    },
    /// A reply that can't stand for the next hop's.
    #[error("the reply does not fit: {0} (SMTP profile section 4)")]
    Replacement(#[from] ReplacementError),
    /// No command line.
    #[error("the command is none: {0}")]
    Line(#[from] CommandLineError),
    /// Another verb.
    #[error("{expected} became another command")]
    Verb {
        /// The event.
        expected: Command,
    },
    /// MAIL or RCPT without a path.
    #[error("the command names no address: {0}")]
    Path(#[from] PathError),
    /// An address that an SMTP peer would misread.
    #[error("address {address}: {error}")]
    Address {
        /// The address.
        address: Address,
        /// What is wrong with it.
        error: PathError,
    },
    /// A header section that ends too early or not at all.
    #[error("the header section does not end where its part ends")]
    HeaderEnd,
    /// NUL, or CR without LF.
    #[error("octet 0x{0:02x} is not allowed in new header fields")]
    HeaderOctet(u8),
    /// A line too long.
    #[error(
        "a line of new header fields has at most {LONGEST_HEADER_LINE} octets, not {0} (RFC 5322 section 2.1.1)"
    )]
    HeaderLine(usize),
}

/// An answer on its way in.
#[derive(Debug)]
pub(crate) struct Assembly {
    kept: Kept,
    /// What comes from the server itself is copied: a slice would hold back the whole buffer that
    /// it arrived in.
    fresh: BytesMut,
    /// One, or several with an Am-Id; the connection bounds how many.
    messages: Vec<Incoming>,
    /// Stretches of all of them.
    pieces: usize,
    octets: usize,
    /// Octets of them that are the original's.
    preserved: u64,
    /// Octets of each message.
    limit: usize,
    /// Octets of all messages that may be fresh without taking room.
    free: usize,
    room: Room,
}

/// An adapted message on its way in.
#[derive(Debug)]
struct Incoming {
    start: AdaptedStart,
    pieces: Vec<Piece>,
    /// Whether the rest of the original ends it.
    has_rest: bool,
    end: AdaptedEnd,
}

#[derive(Debug)]
struct Piece {
    part: Part,
    octets: Stretch,
}

/// Octets of the server itself, and the room that they take as long as somebody holds some of them.
struct Fresh {
    octets: Bytes,
    _room: Room,
}

impl AsRef<[u8]> for Fresh {
    fn as_ref(&self) -> &[u8] {
        &self.octets
    }
}

#[derive(Debug)]
enum Stretch {
    /// A slice of the original.
    Kept(Octets),
    /// A range of [`Assembly::fresh`].
    Fresh(Range<usize>),
}

impl Assembly {
    /// An answer to an event of which `kept` was sent. At most `allowance` octets more than that
    /// may come back in each of its messages. What is sent anew is held in memory: what is more, in all of them,
    /// than the event has there itself, and `allowance`, takes `room`.
    pub(crate) fn new(kept: Kept, allowance: usize, room: Room) -> Self {
        let limit = kept.octets().saturating_add(allowance);
        let free = kept.in_memory().saturating_add(allowance);
        Self {
            kept,
            fresh: BytesMut::new(),
            messages: Vec::new(),
            pieces: 0,
            octets: 0,
            preserved: 0,
            limit,
            free,
            room,
        }
    }

    /// What was sent.
    pub(crate) fn kept(&self) -> &Kept {
        &self.kept
    }

    /// The start of a message (AMS).
    pub(crate) fn start(&mut self, start: AdaptedStart) {
        let (pieces, end) = (Vec::new(), AdaptedEnd::default());
        self.messages.push(Incoming { start, pieces, has_rest: false, end });
    }

    /// Octets of the server (DUM).
    pub(crate) fn data(
        &mut self,
        id: Option<AdaptedMessageId>,
        part: Option<Part>,
        octets: &[u8],
    ) -> Result<(), AnswerError> {
        let part = part.ok_or(AnswerError::NoPart)?;
        self.count(octets.len())?;
        let start = self.fresh.len();
        let beyond = (start + octets.len()).saturating_sub(self.free);
        self.room.grow_to(beyond as u64).then_some(()).ok_or(AnswerError::NoRoom)?;
        self.fresh.extend_from_slice(octets);
        let end = self.fresh.len();
        match self.message(id)?.pieces.last_mut() {
            // One DUM may arrive in several pieces.
            Some(Piece { part: last, octets: Stretch::Fresh(range) })
                if *last == part && range.end == start =>
            {
                range.end = end;
                Ok(())
            }
            _ => self.push(id, part, Stretch::Fresh(start..end)),
        }
    }

    /// Octets of the original (DUY).
    pub(crate) fn preserved(
        &mut self,
        id: Option<AdaptedMessageId>,
        part: Option<Part>,
        range: Range<u32>,
    ) -> Result<(), AnswerError> {
        let not_kept = || AnswerError::NotKept(range.clone());
        let start = usize::try_from(range.start).map_err(|_| not_kept())?;
        let end = usize::try_from(range.end).map_err(|_| not_kept())?;
        self.count(end.saturating_sub(start))?;
        let slices: Vec<_> = self.kept.slices(start..end).ok_or_else(not_kept)?.collect();
        self.preserved += (end - start) as u64;
        for (own, octets) in slices {
            self.push(id, part.unwrap_or(own), Stretch::Kept(octets))?;
        }
        Ok(())
    }

    /// The end of a message (AME). With `rest`, the server has left the rest of the original from
    /// that offset on to us (AME 206 after DSS).
    pub(crate) fn end(&mut self, end: AdaptedEnd, rest: Option<u32>) -> Result<(), AnswerError> {
        let id = end.id;
        if let Some(rest) = rest {
            let all = u32::try_from(self.kept.octets()).unwrap_or(u32::MAX);
            self.preserved(id, None, rest.min(all)..all)?;
        }
        let message = self.message(id)?;
        message.has_rest = rest.is_some();
        message.end = end;
        Ok(())
    }

    /// The answer, once the server has committed it with TE 200.
    pub(crate) fn finish(self, event: &Event) -> Result<Checked, AnswerError> {
        let Self { fresh, messages, room, preserved, .. } = self;
        let fresh = match (fresh.freeze(), room.is_empty()) {
            (fresh, true) => fresh,
            (octets, false) => Bytes::from_owner(Fresh { octets, _room: room }),
        };
        let mut checked = Checked {
            answer: Answer::Unchanged,
            effects: Vec::new(),
            verdicts: Vec::new(),
            notifications: Vec::new(),
            envelope_done: false,
            validity: None,
            preserved,
        };
        check_coverage(&messages, &event.envelope.recipients)?;
        let (mut variants, mut is_one) = (Vec::new(), true);
        for mut message in messages {
            check_effects(&message.end.side_effects)?;
            checked.verdicts.append(&mut message.end.verdicts);
            checked.envelope_done |= message.end.envelope_done;
            let effects = std::mem::take(&mut message.end.side_effects);
            let start = std::mem::take(&mut message.start);
            match start.role {
                None => {
                    checked.validity = message.end.validity();
                    checked.answer = message.answer(event, &effects, &fresh)?;
                    checked.effects = effects;
                }
                Some(AdaptedRole::Notification) => {
                    checked.notifications.push(message.notification(start, &fresh)?);
                }
                Some(AdaptedRole::Variant | AdaptedRole::Reply) => {
                    let answer = message.answer(event, &effects, &fresh)?;
                    is_one &= variants.is_empty() && start.recipients.is_empty();
                    let recipients = start.recipients;
                    variants.push(Variant { recipients, answer, effects, made: None });
                }
            }
        }
        // What is for all is no version, whatever is submitted besides.
        if is_one && let Some(Variant { answer, effects, .. }) = variants.pop() {
            (checked.answer, checked.effects) = (answer, effects);
        }
        if !variants.is_empty() {
            name_the_rest(&mut variants, &event.envelope.recipients);
            checked.answer = Answer::Several(variants);
        }
        Ok(checked)
    }

    fn message(&mut self, id: Option<AdaptedMessageId>) -> Result<&mut Incoming, AnswerError> {
        // The connection tells of no octets before their AMS.
        let mut messages = self.messages.iter_mut();
        messages.find(|message| message.start.id == id).ok_or(AnswerError::NoPart)
    }

    fn count(&mut self, octets: usize) -> Result<(), AnswerError> {
        self.octets = self.octets.saturating_add(octets);
        let limit = self.limit.saturating_mul(self.messages.len().max(1));
        (self.octets <= limit).then_some(()).ok_or(AnswerError::TooLarge(limit))
    }

    fn push(
        &mut self,
        id: Option<AdaptedMessageId>,
        part: Part,
        octets: Stretch,
    ) -> Result<(), AnswerError> {
        if self.pieces >= MOST_PIECES {
            return Err(AnswerError::TooManyPieces);
        }
        self.pieces += 1;
        self.message(id)?.pieces.push(Piece { part, octets });
        Ok(())
    }
}

impl Incoming {
    fn answer(
        self,
        event: &Event,
        effects: &[SideEffect],
        fresh: &Bytes,
    ) -> Result<Answer, AnswerError> {
        if matches!(self.pieces.first(), Some(Piece { part: Part::Reply, .. })) {
            let octets = self.pieces.into_iter().map(|piece| piece.take_from_memory(fresh));
            let octets = octets.collect::<Result<Vec<Bytes>, _>>()?;
            let reply = match octets.as_slice() {
                [only] => Reply::parse(only.clone())?,
                several => Reply::parse(several.concat())?,
            };
            if let Content::Reply(replied) = &event.content {
                may_replace(&event.command, &replied.reply, &reply, effects)?;
                let same = reply == replied.reply;
                return Ok(if same { Answer::Unchanged } else { Answer::Reply(reply) });
            }
            check_satisfaction(&event.command, &reply, effects)?;
            return Ok(Answer::Reply(reply));
        }
        match &event.content {
            Content::Nothing => Ok(Answer::Unchanged),
            Content::Line(line) => adapted_line(event, line, self.pieces, fresh),
            Content::Message(message) => {
                adapted_message(message, self.pieces, self.has_rest, fresh)
            }
            Content::Reply(_) => Err(AnswerError::Empty(event.command.clone())),
        }
    }

    fn notification(self, start: AdaptedStart, fresh: &Bytes) -> Result<Notification, AnswerError> {
        let sender = start.sender.unwrap_or_else(Address::null);
        for address in start.recipients.iter().chain([&sender]) {
            check_path(address)
                .map_err(|error| AnswerError::Address { address: address.clone(), error })?;
        }
        let message = match adapted_message(&Message::default(), self.pieces, false, fresh)? {
            Answer::Message(message) => message,
            _ => return Err(AnswerError::Empty(Command::Message)),
        };
        Ok(Notification { sender, recipients: start.recipients, message })
    }
}

/// Profile section 5: a recipient of whom nothing is said makes the transaction fail.
fn check_coverage(messages: &[Incoming], recipients: &[Address]) -> Result<(), AnswerError> {
    if messages.iter().all(|message| message.start.role.is_none()) {
        return Ok(());
    }
    let said: Vec<_> =
        messages.iter().map(|message| (message.start.clone(), message.end.clone())).collect();
    match uncovered(recipients, &said).first() {
        Some(address) => Err(AnswerError::Uncovered((*address).clone())),
        None => Ok(()),
    }
}

/// The variant that names no recipients serves those that no other one names.
fn name_the_rest(variants: &mut [Variant], recipients: &[Address]) {
    let named: HashSet<Atom> = variants
        .iter()
        .flat_map(|variant| variant.recipients.iter().map(|address| address.path().clone()))
        .collect();
    if let Some(rest) = variants.iter_mut().find(|variant| variant.recipients.is_empty()) {
        let others = recipients.iter().filter(|address| !named.contains(address.path()));
        rest.recipients = others.cloned().collect();
    }
}

impl Piece {
    fn take(self, fresh: &Bytes) -> Octets {
        match self.octets {
            Stretch::Kept(octets) => octets,
            Stretch::Fresh(range) => fresh.slice(range).into(),
        }
    }

    /// The same, of a part that is held in memory.
    fn take_from_memory(self, fresh: &Bytes) -> Result<Bytes, AnswerError> {
        let part = self.part;
        match self.take(fresh) {
            Octets::Memory(octets) => Ok(octets),
            Octets::Stored(_) => Err(AnswerError::Stored(part)),
        }
    }
}

impl Adapted {
    /// How many octets there are.
    pub(crate) fn len(&self) -> usize {
        let header = self.header.iter().map(Bytes::len);
        header.sum::<usize>() + self.body.len()
    }

    /// All octets in their order.
    pub fn octets(self) -> Vec<Octets> {
        self.header.into_iter().map(Octets::from).chain(self.body.into_pieces()).collect()
    }

    /// The same, all of them in memory. Blocks on the disk if some are in a file.
    ///
    /// # Errors
    /// If the file can't be read.
    pub fn read(self) -> io::Result<Vec<Bytes>> {
        self.octets().iter().map(Octets::read).collect()
    }
}

fn adapted_line(
    event: &Event,
    line: &CommandLine,
    pieces: Vec<Piece>,
    fresh: &Bytes,
) -> Result<Answer, AnswerError> {
    let octets = pieces.into_iter().map(|piece| piece.take_from_memory(fresh));
    let adapted = CommandLine::new(octets.collect::<Result<Vec<Bytes>, _>>()?.concat())?;
    if adapted == *line {
        return Ok(Answer::Unchanged);
    }
    if adapted.command().as_ref() != Some(&event.command) {
        return Err(AnswerError::Verb { expected: event.command.clone() });
    }
    if matches!(event.command, Command::Mail | Command::Rcpt) {
        address_of(&adapted)?;
    }
    Ok(Answer::Line(adapted))
}

fn adapted_message(
    original: &Message,
    pieces: Vec<Piece>,
    has_rest: bool,
    fresh: &Bytes,
) -> Result<Answer, AnswerError> {
    let mut adapted = Adapted::default();
    let mut new_header = Vec::new();
    for piece in pieces {
        let is_new = matches!(piece.octets, Stretch::Fresh(_));
        let is_header = piece.part == Part::MessageHeader;
        if !is_header {
            adapted.body.push(piece.take(fresh));
            continue;
        }
        let octets = piece.take_from_memory(fresh)?;
        if is_new {
            new_header.push(octets.clone());
        }
        adapted.header.push(octets);
    }
    adapted.body = adapted.body.cut(has_rest && original.body.is_cut());
    if is_same(&adapted.header, [&original.header]) && adapted.body == original.body {
        return Ok(Answer::Unchanged);
    }
    if adapted.header.is_empty() && adapted.body.is_empty() {
        return Err(AnswerError::Empty(Command::Message));
    }
    new_header.iter().try_for_each(|octets| check_new_header(octets))?;
    let header = adapted.header.concat();
    let ends = match header_end(&header) {
        Some(end) => end == header.len(),
        // A header section alone may come back as it was: without an empty line.
        None => adapted.body.is_empty() && header_end(&original.header).is_none(),
    };
    if !ends {
        return Err(AnswerError::HeaderEnd);
    }
    Ok(Answer::Message(adapted))
}

/// New header fields hold nothing that an SMTP peer reads otherwise than we do. What the original
/// held stays: its line ends are the front end's policy.
fn check_new_header(octets: &[u8]) -> Result<(), AnswerError> {
    for line in octets.split(|&octet| octet == b'\n') {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.len() > LONGEST_HEADER_LINE {
            return Err(AnswerError::HeaderLine(line.len()));
        }
        if let Some(&octet) = line.iter().find(|octet| matches!(octet, 0 | b'\r')) {
            return Err(AnswerError::HeaderOctet(octet));
        }
    }
    Ok(())
}

/// Profile section 4, "What may be answered".
fn check_satisfaction(
    command: &Command,
    reply: &Reply,
    effects: &[SideEffect],
) -> Result<(), AnswerError> {
    let takes_over = effects.iter().any(|effect| {
        matches!(effect.name(), EffectName::Discard | EffectName::Quarantine | EffectName::Hold)
    });
    let fits = reply.is_temporary()
        || reply.is_permanent()
        || match command {
            Command::Message => reply.is_success() && takes_over,
            Command::Mail | Command::Rcpt | Command::Data => false,
            // Their successes change the session's state: 220 and 235 are never altered.
            Command::StartTls | Command::Auth => false,
            _ => reply.is_success(),
        };
    let wrong = || AnswerError::Satisfaction { command: command.clone(), reply: reply.code() };
    fits.then_some(()).ok_or_else(wrong)
}

/// The connection has refused effects that were not negotiated; here their addresses are checked, and
/// those of commands that are to be sent again. What else holds for these [`may_replace`] has checked.
fn check_effects(effects: &[SideEffect]) -> Result<(), AnswerError> {
    for effect in effects {
        if let SideEffect::RetryCommand { line, .. } = effect
            && matches!(line.command(), Some(Command::Mail | Command::Rcpt))
        {
            address_of(line)?;
        }
    }
    let addresses = effects.iter().flat_map(|effect| match effect {
        SideEffect::AddRecipient(address)
        | SideEffect::DeleteRecipient(address)
        | SideEffect::ChangeSender(address) => std::slice::from_ref(address),
        SideEffect::SetRecipients(addresses) => addresses,
        SideEffect::Route { recipients, .. } => recipients,
        _ => &[],
    });
    for address in addresses {
        check_path(address)
            .map_err(|error| AnswerError::Address { address: address.clone(), error })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use ocp_proto::smtp::Envelope;
    use proptest::prelude::*;

    use super::*;
    use crate::octets::{Stored, TemporaryFiles};
    use crate::room::Budget;

    fn message(text: &'static str) -> Event {
        Event::message(Message::split(text.into()), Envelope::default())
    }

    fn line(text: &'static str) -> Event {
        Event::command(CommandLine::new(text).unwrap(), Envelope::default()).unwrap()
    }

    fn assembly(event: &Event) -> Assembly {
        let mut kept = Kept::default();
        event.parts().for_each(|(part, octets)| kept.push(part, octets));
        let mut assembly = Assembly::new(kept, 4_096, Budget::new(0).room());
        assembly.start(AdaptedStart::default());
        assembly
    }

    fn answer(event: &Event, data: &[(Part, &[u8])]) -> Result<Answer, AnswerError> {
        let mut assembly = assembly(event);
        for (part, octets) in data {
            assembly.data(None, Some(*part), octets)?;
        }
        assembly.finish(event).map(|checked| checked.answer)
    }

    #[test]
    fn a_reply_fits_the_event_or_voids_the_answer() {
        let reply = |command: &'static str, text: &str| {
            let event = if command == "MESSAGE" { message("A: b\n\n") } else { line(command) };
            answer(&event, &[(Part::Reply, text.as_bytes())])
        };
        for (command, text) in [
            ("MAIL FROM:<>", "550 no\r\n"),
            ("RCPT TO:<a@b>", "450-a\r\n450 b\r\n"),
            ("NOOP", "250 ok\r\n"),
            ("MESSAGE", "554 no\r\n"),
        ] {
            let expected = Answer::Reply(Reply::parse(text).unwrap());
            assert_eq!(reply(command, text), Ok(expected), "{command}");
        }
        for (command, text, code) in [
            ("MAIL FROM:<>", "250 ok\r\n", 250),
            ("DATA", "354 go\r\n", 354),
            ("MESSAGE", "250 ok\r\n", 250),
            ("STARTTLS", "220 go\r\n", 220),
            ("AUTH PLAIN", "235 in\r\n", 235),
            ("NOOP", "334 x\r\n", 334),
        ] {
            let found = reply(command, text);
            assert!(
                matches!(found, Err(AnswerError::Satisfaction { reply, .. }) if reply == code),
                "{command}: {found:?}"
            );
        }
        assert_eq!(
            reply("NOOP", "550 a\r\n250 b\r\n"),
            Err(AnswerError::Reply(ReplyError::Continuation))
        );
    }

    #[test]
    fn content_is_accepted_only_by_whom_takes_it_over() {
        let event = message("A: b\n\n");
        let mut assembly = assembly(&event);
        assembly.data(None, Some(Part::Reply), b"250 kept\r\n").unwrap();
        let effects = vec![SideEffect::Quarantine("why".into())];
        assembly.end(AdaptedEnd { side_effects: effects, ..AdaptedEnd::default() }, None).unwrap();
        let checked = assembly.finish(&event).unwrap();
        assert_eq!(checked.answer, Answer::Reply(Reply::parse("250 kept\r\n").unwrap()));
    }

    #[test]
    fn a_command_keeps_its_verb_and_is_one_line() {
        let event = line("MAIL FROM:<a@b>");
        let part = Part::Command;
        assert_eq!(
            answer(&event, &[(part, b"mail from:<c@d>")]),
            Ok(Answer::Line(CommandLine::new("mail from:<c@d>").unwrap()))
        );
        assert_eq!(answer(&event, &[(part, b"MAIL FROM:<a@b>")]), Ok(Answer::Unchanged));
        assert_eq!(
            answer(&event, &[(part, b"RCPT TO:<c@d>")]),
            Err(AnswerError::Verb { expected: Command::Mail })
        );
        assert_eq!(
            answer(&event, &[(part, b"MAIL FROM:<c@d>\r\nRCPT TO:<e@f>")]),
            Err(AnswerError::Line(CommandLineError::Octet(b'\r')))
        );
        assert_eq!(
            answer(&event, &[(part, b"MAIL FROM:<c@d> <e@f>")]),
            Err(AnswerError::Path(PathError::Syntax))
        );
        assert_eq!(answer(&event, &[]), Err(AnswerError::Line(CommandLineError::Length(0))));
    }

    #[test]
    fn a_header_ends_where_its_part_ends() {
        let event = message("A: b\n\nbody");
        let header = |octets: &'static [u8]| {
            answer(&event, &[(Part::MessageHeader, octets), (Part::MessageBody, b"body")])
        };
        assert_eq!(header(b"A: b\n\n"), Ok(Answer::Unchanged));
        assert!(matches!(header(b"A: c\r\n\r\n"), Ok(Answer::Message(_))));
        assert_eq!(header(b"A: c\n"), Err(AnswerError::HeaderEnd));
        assert_eq!(header(b"A: c\n\nB: d\n\n"), Err(AnswerError::HeaderEnd));
        assert_eq!(header(b"A: c\0\n\n"), Err(AnswerError::HeaderOctet(0)));
        assert_eq!(header(b"A: c\rB: d\n\n"), Err(AnswerError::HeaderOctet(b'\r')));
        assert_eq!(
            answer(&event, &[(Part::MessageHeader, &[b'A'; 999][..])]),
            Err(AnswerError::HeaderLine(999))
        );
        assert_eq!(
            answer(&event, &[(Part::MessageBody, b"body")]),
            Err(AnswerError::HeaderEnd),
            "a body never becomes the header"
        );
        assert_eq!(answer(&event, &[]), Err(AnswerError::Empty(Command::Message)));
    }

    #[test]
    fn what_comes_back_is_bounded() {
        let event = message("A: b\n\nbody");
        let mut assembly = assembly(&event);
        assembly.data(None, Some(Part::MessageBody), &[b'x'; 4_096]).unwrap();
        assert_eq!(assembly.preserved(None, None, 0..11), Err(AnswerError::TooLarge(4_106)));

        let octets = Bytes::from(vec![b'x'; 200_000]);
        let event = Event::message(Message::split(octets), Envelope::default());
        let mut assembly = self::assembly(&event);
        let error = (0..70_000u32).find_map(|at| assembly.preserved(None, None, at..at + 1).err());
        assert_eq!(error, Some(AnswerError::TooManyPieces));
    }

    #[test]
    fn several_messages_have_no_more_memory_than_one() {
        let event = message("A: b\n\nbody");
        let mut assembly = assembly(&event);
        // What the event has itself, and the allowance.
        let free = 10 + 4_096;
        for id in 0..3 {
            let id = AdaptedMessageId::new(id);
            assembly.start(AdaptedStart { id, ..AdaptedStart::default() });
        }
        let half = vec![b'x'; free / 2];
        let mut data = |id, octets: &[u8]| {
            assembly.data(AdaptedMessageId::new(id), Some(Part::MessageBody), octets)
        };
        assert_eq!((data(0, &half), data(1, &half)), (Ok(()), Ok(())));
        assert_eq!(data(2, b"x"), Err(AnswerError::NoRoom));
    }

    /// A message of which all of the body is in a file.
    fn stored(body: &[u8]) -> Event {
        let mut file = TemporaryFiles::new(&std::env::temp_dir(), u64::MAX).file().unwrap();
        file.append(body).unwrap();
        let body = vec![Octets::Stored(Stored::new(file))].into();
        Event::message(Message { header: "A: b\n\n".into(), body }, Envelope::default())
    }

    #[test]
    fn octets_in_a_file_stay_there() {
        let event = stored(b"0123456789");
        let answer = |keeps: &[(Option<Part>, Range<u32>)]| {
            let mut assembly = assembly(&event);
            for (part, range) in keeps {
                assembly.preserved(None, *part, range.clone())?;
            }
            assembly.finish(&event).map(|checked| checked.answer)
        };
        assert_eq!(answer(&[(None, 0..16)]), Ok(Answer::Unchanged));
        assert_eq!(answer(&[(None, 0..9), (None, 9..9), (None, 9..16)]), Ok(Answer::Unchanged));
        let Ok(Answer::Message(adapted)) = answer(&[(None, 0..9), (None, 10..16)]) else {
            panic!("an octet is missing")
        };
        assert!(adapted.body.pieces().iter().all(|octets| octets.in_memory().is_none()));
        assert_eq!(adapted.read().unwrap().concat(), b"A: b\n\n012456789");
        for part in [Part::MessageHeader, Part::Reply] {
            assert_eq!(answer(&[(Some(part), 6..16)]), Err(AnswerError::Stored(part)));
        }
    }

    /// A message for all, or a refusal of it, and the new messages beside it.
    fn notifying(role: AdaptedRole, beside: &[AdaptedStart]) -> Result<Checked, AnswerError> {
        let event = Event::message(
            Message::split("A: b\n\n".into()),
            Envelope { sender: None, recipients: vec![Address::new("<a@x>").unwrap()] },
        );
        let mut kept = Kept::default();
        event.parts().for_each(|(part, octets)| kept.push(part, octets));
        let mut assembly = Assembly::new(kept, 4_096, Budget::new(0).room());
        let id = AdaptedMessageId::new(1);
        assembly.start(AdaptedStart { id, role: Some(role), ..AdaptedStart::default() });
        match role {
            AdaptedRole::Reply => assembly.data(id, Some(Part::Reply), b"550 no\r\n")?,
            _ => assembly.preserved(id, None, 0..6)?,
        }
        let side_effects = vec![SideEffect::Disconnect];
        assembly.end(AdaptedEnd { id, side_effects, ..AdaptedEnd::default() }, None)?;
        for (start, number) in beside.iter().zip(2..) {
            let id = AdaptedMessageId::new(number);
            let role = Some(AdaptedRole::Notification);
            assembly.start(AdaptedStart { id, role, ..start.clone() });
            assembly.data(id, Some(Part::MessageHeader), b"C: d\r\n\r\n")?;
            assembly.data(id, Some(Part::MessageBody), b"new\r\n")?;
            assembly.preserved(id, Some(Part::MessageBody), 0..4)?;
            assembly.end(AdaptedEnd { id, ..AdaptedEnd::default() }, None)?;
        }
        assembly.finish(&event)
    }

    #[test]
    fn what_is_for_all_is_one_answer_beside_new_messages() {
        let new = |sender: Option<&'static str>, recipient: &'static str| AdaptedStart {
            sender: sender.map(|path| Address::new(path).unwrap()),
            recipients: vec![Address::new(recipient).unwrap()],
            ..AdaptedStart::default()
        };
        let beside = [new(None, "<admin@x>"), new(Some("<filter@x>"), "<a@x>")];
        let refusal = Answer::Reply(Reply::parse("550 no\r\n").unwrap());
        for (role, answer) in
            [(AdaptedRole::Variant, Answer::Unchanged), (AdaptedRole::Reply, refusal)]
        {
            let checked = notifying(role, &beside).unwrap();
            assert_eq!(
                (checked.answer, &checked.effects[..]),
                (answer, &[SideEffect::Disconnect][..])
            );
            let envelope = |new: &Notification| format!("{} {}", new.sender, new.recipients[0]);
            let envelopes: Vec<_> = checked.notifications.iter().map(envelope).collect();
            assert_eq!(envelopes, ["<> <admin@x>", "<filter@x> <a@x>"]);
            let octets = checked.notifications[0].message.clone().read().unwrap().concat();
            assert_eq!(octets, b"C: d\r\n\r\nnew\r\nA: b");
        }
        let address = Address::new("<a@b> <c@d>").unwrap();
        let smuggled = AdaptedStart { recipients: vec![address.clone()], ..new(None, "<a@x>") };
        assert_eq!(
            notifying(AdaptedRole::Variant, &[smuggled]),
            Err(AnswerError::Address { address, error: PathError::Syntax })
        );
    }

    #[test]
    fn an_address_smuggles_nothing() {
        let event = message("A: b\n\n");
        let mut assembly = assembly(&event);
        assembly.preserved(None, None, 0..6).unwrap();
        let address = Address::new("<a@b> NOTIFY=<x>").unwrap();
        let effects = vec![SideEffect::AddRecipient(address.clone())];
        assembly.end(AdaptedEnd { side_effects: effects, ..AdaptedEnd::default() }, None).unwrap();
        let error = PathError::Syntax;
        assert_eq!(assembly.finish(&event), Err(AnswerError::Address { address, error }));
    }

    proptest! {
        #[test]
        fn a_body_is_put_together_in_order(
            body in proptest::collection::vec(any::<u8>(), 0..60),
            edits in proptest::collection::vec(
                (any::<bool>(), 0usize..70, 0usize..70, proptest::collection::vec(any::<u8>(), 1..9)),
                0..12,
            ),
        ) {
            let octets = Bytes::from([b"A: b\r\n\r\n", &body[..]].concat());
            let event = Event::message(Message::split(octets.clone()), Envelope::default());
            let mut assembly = assembly(&event);
            assembly.preserved(None, None, 0..8).unwrap();
            let mut naive = octets[..8].to_vec();
            for (keeps, a, b, fresh) in edits {
                if keeps {
                    let range = a.min(b).max(8)..a.max(b).max(8);
                    let (start, end) = (range.start as u32, range.end as u32);
                    let result = assembly.preserved(None, Some(Part::MessageBody), start..end);
                    match octets.get(range) {
                        Some(slice) => naive.extend_from_slice(slice),
                        None => prop_assert_eq!(result, Err(AnswerError::NotKept(start..end))),
                    }
                } else {
                    assembly.data(None, Some(Part::MessageBody), &fresh).unwrap();
                    naive.extend_from_slice(&fresh);
                }
            }
            let found = match assembly.finish(&event).unwrap().answer {
                Answer::Unchanged => octets.to_vec(),
                Answer::Message(adapted) => adapted.read().unwrap().concat(),
                other => panic!("{other:?}"),
            };
            prop_assert_eq!(found, naive);
        }
    }
}
