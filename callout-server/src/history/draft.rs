//! The record of an envelope that is not done with.

use std::time::{Instant, SystemTime};

use memchr::memchr;
use ocp_proto::smtp::{Command, CommandLine, DialogFacts, ProfileKind};
use ocp_proto::wire::Atom;
use ocp_proto::{OcpResult, OriginalStart, Xid};
use services::Input;

use super::record::{Event, Facts, Outcome, Record, name, named};
use super::text::Text;
use crate::chain::{Answer, milliseconds};
use crate::metrics::EventResult;
use crate::router::Chain;
use crate::server::Reservation;

/// Events of a record without that of the content, of which there are as many as recipients.
const MOST_EVENTS: usize = 50;

/// Octets that they may take together: without any text they take half of it.
const MOST_EVENT_OCTETS: usize = 32 * 1024;

/// Services of a record.
const MOST_SERVICES: usize = 30;

/// Octets that the event of the content may take.
const MOST_CONTENT_OCTETS: usize = 16 * 1024;

/// What is known of an envelope so far.
#[derive(Debug)]
pub(super) struct Draft {
    record: Record,
    kind: ProfileKind,
    began: Instant,
    /// How far each of the record's events has come.
    marks: Vec<Mark>,
    /// No more events belong to it.
    is_complete: bool,
    /// There was MAIL or what follows it.
    has_envelope: bool,
    /// What the MTA had accepted before the latest event.
    accepted_sender: Option<Atom>,
    accepted_recipients: usize,
    /// The dialog's queue id at the latest event.
    queue_id: Option<Atom>,
    /// Octets of the record's events, without that of the content, and of that.
    events_size: usize,
    content_size: usize,
    room: Reservation,
}

#[derive(Debug)]
struct Mark {
    xid: Xid,
    began: Instant,
    is_answered: bool,
    has_outcome: bool,
}

impl Draft {
    /// One without events; what it takes it reserves.
    pub(super) fn new(
        kind: ProfileKind,
        peer: Text,
        connection: u64,
        room: Reservation,
        now: Instant,
    ) -> Self {
        let record = Record {
            id: 0,
            time: SystemTime::now().into(),
            took_ms: 0,
            profile: kind.into(),
            peer,
            connection,
            facts: Facts::default(),
            queue_id: None,
            sender: None,
            recipients: Vec::new(),
            recipient_count: 0,
            octets: None,
            result: EventResult::Unchanged,
            services: Vec::new(),
            events: Vec::new(),
            events_left_out: 0,
        };
        Self {
            record,
            kind,
            began: now,
            marks: Vec::new(),
            is_complete: false,
            has_envelope: false,
            accepted_sender: None,
            accepted_recipients: 0,
            queue_id: None,
            events_size: 0,
            content_size: 0,
            room,
        }
    }

    /// Whether an event belongs to it: of an envelope a server sees what its services want, so it may
    /// begin and end with anything (profile section 3).
    pub(super) fn takes(&self, kind: ProfileKind, start: &OriginalStart) -> bool {
        if self.is_complete || self.kind != kind {
            return false;
        }
        match start.command {
            Command::Rcpt | Command::Data | Command::Message => {
                let sender = start.sender.as_ref().map(|sender| sender.path());
                let is_other = matches!(
                    (&self.accepted_sender, sender),
                    (Some(before), Some(sender)) if before != sender
                );
                !is_other && start.recipients.len() >= self.accepted_recipients
            }
            Command::Noop | Command::Vrfy | Command::Expn | Command::Other(_) => true,
            _ => !self.has_envelope,
        }
    }

    /// What its events are: commands or replies.
    pub(super) fn kind(&self) -> ProfileKind {
        self.kind
    }

    /// No more events belong to it.
    pub(super) fn complete(&mut self) {
        self.is_complete = true;
    }

    /// The queue id that the dialog had last.
    pub(super) fn queue_id(&self) -> Option<&Atom> {
        self.queue_id.as_ref()
    }

    /// An event begins; there is no place for too many.
    pub(super) fn begin(&mut self, xid: Xid, start: &OriginalStart, chain: &Chain, now: Instant) {
        for service in chain.names().into_iter().take(MOST_SERVICES) {
            if !self.record.services.iter().any(|known| known.as_str() == service) {
                self.record.services.push(service.into());
            }
        }
        self.accepted_recipients = start.recipients.len();
        if let Some(sender) = &start.sender {
            self.record.sender = Some(Text::new(sender.path()));
            self.accepted_sender = Some(sender.path().clone());
        }
        let is_content = start.command == Command::Message;
        if is_content || start.command == Command::Data {
            self.record.recipients = named(&start.recipients);
            self.record.recipient_count = start.recipients.len() as u64;
        }
        self.has_envelope |= matches!(
            start.command,
            Command::Mail | Command::Rcpt | Command::Data | Command::Message
        );
        self.is_complete |= is_content;
        let after_ms = milliseconds(now.saturating_duration_since(self.began)).into();
        let event = start.command.name().into();
        let event = Event { event, after_ms, ..Event::default() };
        let has_place =
            self.marks.len() < MOST_EVENTS && self.events_size + event.size() <= MOST_EVENT_OCTETS;
        match is_content {
            true => self.content_size = event.size(),
            false if has_place => self.events_size += event.size(),
            false => {
                self.record.events_left_out += 1;
                return;
            }
        }
        self.record.events.push(event);
        self.marks.push(Mark { xid, began: now, is_answered: false, has_outcome: false });
    }

    /// Where its event of this transaction is.
    pub(super) fn find(&self, xid: Xid) -> Option<usize> {
        self.marks.iter().rposition(|mark| mark.xid == xid)
    }

    /// The services are asked about an event. A queue id that the envelope before had is that one's.
    pub(super) fn ask(
        &mut self,
        at: usize,
        facts: &DialogFacts,
        queue_id_before: Option<&Atom>,
        command: &Command,
        input: &Input,
    ) {
        self.record.facts = Facts::of(facts);
        self.queue_id.clone_from(&facts.queue_id);
        let queue_id = facts.queue_id.as_ref().filter(|id| Some(*id) != queue_id_before);
        if let Some(queue_id) = queue_id {
            self.record.queue_id = Some(Text::new(queue_id));
        }
        let mut shown = (None, None);
        match input {
            Input::Content(mail) => {
                let octets = mail.whole_len().unwrap_or_else(|| mail.len());
                self.record.octets = Some(octets as u64);
            }
            Input::Line(line) => shown.0 = self.read(command, line),
            Input::Reply { reply, line } => {
                shown.1 = Some(reply.to_string().into());
                shown.0 = line.as_ref().and_then(|line| self.read(command, line));
            }
            Input::Nothing => {}
        }
        self.change(at, |event| (event.line, event.next_hop_reply) = shown);
    }

    /// What may be shown of a command line, and what it says of the envelope.
    fn read(&mut self, command: &Command, line: &CommandLine) -> Option<Text> {
        let path = || path(line.as_bytes()).map(Text::new);
        match command {
            Command::Helo => {}
            Command::Mail => self.record.sender = path(),
            Command::Rcpt => {
                self.record.recipient_count += 1;
                if let Some(path) = path() {
                    name(&mut self.record.recipients, path);
                }
            }
            // Others, such as AUTH, may hold secrets.
            _ => return None,
        }
        Some(Text::new(line.as_bytes().trim_ascii_end()))
    }

    /// The services have answered.
    pub(super) fn answer(&mut self, at: usize, answer: &Answer) {
        self.change(at, |event| event.answer(answer));
    }

    /// The answer is out, or there will be none.
    pub(super) fn end(
        &mut self,
        at: usize,
        result: EventResult,
        cause: Option<&str>,
        now: Instant,
    ) {
        let Some(mark) = self.marks.get_mut(at) else { return };
        mark.is_answered = true;
        let took_ms = milliseconds(now.saturating_duration_since(mark.began)).into();
        self.record.took_ms = milliseconds(now.saturating_duration_since(self.began)).into();
        self.change(at, |event| {
            (event.result, event.took_ms) = (result, took_ms);
            event.cause = cause.map(Text::from);
        });
    }

    /// What the MTA says became of it.
    pub(super) fn outcome(
        &mut self,
        at: usize,
        result: &OcpResult,
        reply: Option<&Atom>,
        queue_id: Option<&Atom>,
    ) {
        if let Some(mark) = self.marks.get_mut(at) {
            mark.has_outcome = true;
        }
        if let Some(queue_id) = queue_id {
            self.queue_id = Some(queue_id.clone());
            self.record.queue_id = Some(Text::new(queue_id));
        }
        let outcome = Outcome {
            success: result.is_success(),
            reason: result.reason.as_deref().map(Text::new),
            reply: reply.map(|reply| Text::new(reply.trim_ascii_end())),
        };
        self.change(at, |event| event.outcome = Some(outcome));
    }

    /// Changes an event; what makes it too large is left out again.
    fn change(&mut self, at: usize, change: impl FnOnce(&mut Event)) {
        let Some(event) = self.record.events.get_mut(at) else { return };
        let is_content = event.event.as_str() == Command::Message.name();
        let (size, most) = match is_content {
            true => (&mut self.content_size, MOST_CONTENT_OCTETS),
            false => (&mut self.events_size, MOST_EVENT_OCTETS),
        };
        let before = event.size();
        change(event);
        event.shorten(most - (*size - before));
        *size = *size - before + event.size();
    }

    /// Reserves what it takes by now; `false` if there is no room for that.
    pub(super) fn settle(&mut self) -> bool {
        let size = self.record.head_size() + self.events_size + self.content_size;
        self.room.resize(size)
    }

    /// Whether all is known that can be.
    pub(super) fn is_over(&self) -> bool {
        let is_answered = self.marks.iter().all(|mark| mark.is_answered);
        self.is_complete && is_answered && self.marks.last().is_none_or(|mark| mark.has_outcome)
    }

    /// The record, unless it tells of nothing but a client that came and went.
    pub(super) fn into_record(self) -> Option<Record> {
        let mut record = self.record;
        let changed = record.events.iter().find(|event| event.result != EventResult::Unchanged);
        let telling = record.message().or(changed);
        record.result = telling.map_or(EventResult::Unchanged, |event| event.result);
        (self.has_envelope || record.result != EventResult::Unchanged).then_some(record)
    }
}

/// The path in a MAIL or RCPT line (RFC 5321 section 4.1.2); a quoted local part may hold brackets.
fn path(line: &[u8]) -> Option<&[u8]> {
    let path = line.get(memchr(b'<', line)?..)?;
    let (mut is_quoted, mut is_escaped) = (false, false);
    let end = path.iter().position(|octet| {
        let is_end = *octet == b'>' && !is_quoted;
        is_quoted ^= *octet == b'"' && !is_escaped;
        is_escaped = *octet == b'\\' && !is_escaped;
        is_end
    })?;
    path.get(..=end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_ends_at_its_bracket() {
        let found = |line: &'static str| path(line.as_bytes()).map(String::from_utf8_lossy);
        assert_eq!(found("MAIL FROM:<a@b.example> AUTH=<>\r\n").unwrap(), "<a@b.example>");
        assert_eq!(found(r#"RCPT TO:<"a> b\""@c> X=>"#).unwrap(), r#"<"a> b\""@c>"#);
        assert_eq!(found("RCPT TO:<> "), Some("<>".into()));
        assert_eq!((found("RCPT TO:a@b"), found("RCPT TO:<a@b")), (None, None));
    }
}
