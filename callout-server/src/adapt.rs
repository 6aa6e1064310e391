//! From the chain's answer to messages: what stays is named (DUY) where the processor keeps it and
//! sent again (DUM with As-is) where it does not; what is new is sent (DUM).
//!
//! An answer goes out piece by piece, as far as the peer takes it: [`Outgoing`] knows how far it
//! has come.

use std::ops::Range;

use bytes::{Buf, Bytes};
use ocp_proto::smtp::{Part, Validity};
use ocp_proto::{
    AdaptedData, AdaptedEnd, AdaptedMessageId, AdaptedRole, AdaptedStart, Connection, DataLabel,
    Misuse, OcpResult, Traffic, Xid,
};
use services::Notification;
use services::mail::{Octets, Segment};
use smallvec::SmallVec;

use crate::branch::Branch;
use crate::chain::{Adapted, Answer};
use crate::spool::Held;
use crate::terms::Terms;

/// Octets of the original that are sent at a time.
const PIECE: usize = 256 * 1024;

/// The octets of an event, as they came: all of them, or those before DSS.
#[derive(Debug)]
pub(crate) struct Original {
    /// The part that `first` is: the command line, the message header, or the reply.
    pub(crate) part: Part,
    pub(crate) first: Bytes,
    /// Octets of `first` that only go before the reply: the command that it answers.
    pub(crate) auxiliary: usize,
    /// The message body, else empty.
    pub(crate) body: Octets,
    /// What they hold of the process's budgets until the answer is out.
    pub(crate) held: Held,
}

impl Original {
    /// Octets in all.
    pub(crate) fn len(&self) -> usize {
        self.first.len() + self.body.len()
    }

    /// Octets of one part.
    fn slice(&self, range: Range<usize>) -> Octets {
        match range.start.checked_sub(self.first.len()) {
            Some(start) => self.body.slice(start..range.end - self.first.len()),
            None => self.first.slice(range).into(),
        }
    }
}

/// An answer on its way out.
#[derive(Debug)]
pub(crate) struct Outgoing {
    original: Original,
    /// Those that are not sent whole, the next one last.
    messages: SmallVec<[Message; 1]>,
    /// Octets of the original that were read from its file, and where they stand.
    read: Option<(usize, Bytes)>,
    /// Octets of the original that were named.
    reused: u64,
}

/// How far an answer has come.
#[derive(Debug)]
pub(crate) enum Sent {
    /// All is sent, with TE 200; what the transaction cost on the wire.
    All(Traffic),
    /// The peer takes no more now.
    Full,
    /// These octets have to be read first; then [`Outgoing::provide`] takes them.
    Needs(Octets),
}

/// One adapted message.
#[derive(Debug)]
struct Message {
    /// Its AMS, until that is sent.
    start: Option<AdaptedStart>,
    /// Percent of certainty that octets change; said once, with the first data (RFC 4037 section
    /// 11.9). A new message changes none.
    modp: Option<u32>,
    /// What is not sent yet, the next stretch last.
    steps: SmallVec<[Step; 4]>,
    /// Whether it stands for the whole event, even if the processor has the rest of that.
    is_reply: bool,
    end: AdaptedEnd,
}

/// A stretch of an adapted message.
#[derive(Debug)]
enum Step {
    /// These octets of the original.
    Keep(Part, Range<usize>),
    /// These octets.
    Insert(Part, Bytes),
}

impl Step {
    fn is_empty(&self) -> bool {
        match self {
            Self::Keep(_, range) => range.is_empty(),
            Self::Insert(_, octets) => octets.is_empty(),
        }
    }
}

impl Outgoing {
    /// Nothing is sent yet.
    pub(crate) fn new(original: Original, answer: Answer) -> Self {
        // What is for all names nobody, even if new messages stand beside it.
        let (differ, several) =
            (answer.branches.len() > 1, answer.branches.len() + answer.notifications.len() > 1);
        // The first message's AME names the verdicts of all, and what holds beyond the event.
        let mut verdicts = answer.verdicts;
        let mut terms = answer.terms;
        let mut messages = SmallVec::new();
        let mut ids = (1..).map(|number| AdaptedMessageId::new(number).filter(|_| several));
        for (branch, id) in answer.branches.into_iter().zip(&mut ids) {
            let start = start(&branch, id, differ);
            let modp = if matches!(branch.adapted, Adapted::Unchanged) { 0 } else { 100 };
            let is_reply = branch.has_ended();
            let steps = steps(&original, branch.adapted);
            let verdicts = std::mem::take(&mut verdicts);
            let Terms { envelope_done, validity } = std::mem::take(&mut terms);
            let end = AdaptedEnd {
                id,
                side_effects: branch.effects,
                envelope_done,
                verdicts,
                valid_for: validity.as_ref().map(|validity| validity.seconds),
                valid_with: validity.as_ref().map(Validity::names).unwrap_or_default(),
            };
            messages.push(Message { start: Some(start), modp: Some(modp), steps, is_reply, end });
        }
        let new = answer.notifications.into_iter().zip(ids);
        messages.extend(new.map(|(notification, id)| Message::new(&notification, id)));
        messages.reverse();
        Self { original, messages, read: None, reused: 0 }
    }

    /// Sends as much as the peer takes: until `room` octets wait for the transport, or the peer has
    /// paused us.
    ///
    /// # Errors
    /// If the transaction has ended, or if the answer breaks a rule of the protocol, which would be
    /// a fault of the server.
    pub(crate) fn send(
        &mut self,
        connection: &mut Connection,
        xid: Xid,
        room: usize,
    ) -> Result<Sent, Misuse> {
        while let Some(message) = self.messages.last_mut() {
            if let Some(start) = message.start.take() {
                connection.start_adapted(xid, Vec::new(), &start)?;
            }
            while let Some(step) = message.steps.last_mut() {
                let allowed = connection.may_send(xid) as usize;
                if connection.output().remaining() >= room || allowed == 0 {
                    return Ok(Sent::Full);
                }
                let (id, modp) = (message.end.id, message.modp);
                let reused = &mut self.reused;
                let mut out = Out { connection, xid, id, modp, reused };
                match step {
                    Step::Insert(part, octets) => {
                        let piece = octets.split_to(octets.len().min(allowed));
                        out.data(*part, piece, None)?;
                    }
                    Step::Keep(part, range) => {
                        let read = &mut self.read;
                        if let Some(needs) =
                            out.keep(*part, range, allowed, &self.original, read)?
                        {
                            return Ok(Sent::Needs(needs));
                        }
                    }
                }
                if step.is_empty() {
                    message.steps.pop();
                }
            }
            // After DSS the processor appends the rest of the original by itself.
            match connection.rest_from(xid) {
                Some(_) if !message.is_reply => connection.end_adapted_early(xid, &message.end)?,
                _ => connection.end_adapted(xid, &message.end)?,
            }
            self.messages.pop();
        }
        connection.end_transaction(xid, &OcpResult::ok(), false).map(Sent::All)
    }

    /// Octets of the original that were named so far, and not sent.
    pub(crate) fn reused(&self) -> u64 {
        self.reused
    }

    /// The memory of the body, once all is sent; `None` if it is in a file.
    pub(crate) fn into_memory(self) -> Option<Bytes> {
        self.original.body.in_memory().cloned()
    }

    /// Takes what [`Sent::Needs`] asked for.
    pub(crate) fn provide(&mut self, octets: Bytes) {
        if let Some((_, read)) = &mut self.read {
            *read = octets;
        }
    }
}

impl Message {
    /// A new message, whole.
    fn new(new: &Notification, id: Option<AdaptedMessageId>) -> Self {
        let sender = new.sender();
        let is_said = !(sender.is_null() && sender.parameters.is_empty());
        let start = AdaptedStart {
            id,
            role: Some(AdaptedRole::Notification),
            sender: is_said.then(|| sender.clone()),
            recipients: new.recipients().to_vec(),
        };
        let parts = [(Part::MessageBody, new.body()), (Part::MessageHeader, new.header())];
        let mut steps: SmallVec<[Step; 4]> =
            parts.into_iter().map(|(part, octets)| Step::Insert(part, octets.clone())).collect();
        steps.retain(|step| !step.is_empty());
        let end = AdaptedEnd { id, ..AdaptedEnd::default() };
        Self { start: Some(start), modp: None, steps, is_reply: false, end }
    }
}

/// How what becomes of a branch begins; where branches differ it names its recipients.
fn start(branch: &Branch, id: Option<AdaptedMessageId>, differ: bool) -> AdaptedStart {
    let Some(id) = id else { return AdaptedStart::default() };
    let role = match &branch.adapted {
        Adapted::Reply(_) => AdaptedRole::Reply,
        _ => AdaptedRole::Variant,
    };
    let recipients = if differ { branch.recipients.clone() } else { Vec::new() };
    AdaptedStart { id: Some(id), role: Some(role), recipients, ..AdaptedStart::default() }
}

/// The stretches of an adapted message, the first one last.
fn steps(original: &Original, adapted: Adapted) -> SmallVec<[Step; 4]> {
    let header = original.first.len();
    let mut steps: SmallVec<[Step; 4]> = SmallVec::new();
    match adapted {
        Adapted::Unchanged => {
            steps.push(Step::Keep(original.part, original.auxiliary..header));
            steps.push(Step::Keep(Part::MessageBody, header..original.len()));
        }
        Adapted::Command(line) => {
            steps.push(Step::Insert(Part::Command, line.as_bytes().clone()));
        }
        Adapted::Reply(reply) | Adapted::OtherReply(reply) => {
            steps.push(Step::Insert(Part::Reply, reply.as_bytes().clone()))
        }
        Adapted::Content(mail) => {
            let version = mail.version();
            let parts =
                [(Part::MessageHeader, &version.header), (Part::MessageBody, &version.body)];
            for (part, segments) in parts {
                steps.extend(segments.iter().map(|segment| match segment {
                    Segment::Keep(range) => Step::Keep(part, range.clone()),
                    Segment::Insert(octets) => Step::Insert(part, octets.clone()),
                }));
            }
        }
    }
    steps.retain(|step| !step.is_empty());
    steps.reverse();
    steps
}

/// One adapted message's way out.
struct Out<'a> {
    connection: &'a mut Connection,
    xid: Xid,
    id: Option<AdaptedMessageId>,
    modp: Option<u32>,
    reused: &'a mut u64,
}

impl Out<'_> {
    fn data(&mut self, part: Part, octets: Bytes, as_is: Option<u32>) -> Result<(), Misuse> {
        let data = AdaptedData { id: self.id, part: Some(part), as_is, modp: self.modp };
        self.connection.send_adapted_data(self.xid, data, octets)
    }

    /// Sends the front of a range of the original: what the processor keeps of it, or a piece that it
    /// does not keep. Returns the piece if that has to be read first.
    fn keep(
        &mut self,
        part: Part,
        range: &mut Range<usize>,
        allowed: usize,
        original: &Original,
        read: &mut Option<(usize, Bytes)>,
    ) -> Result<Option<Octets>, Misuse> {
        let preserved = self.connection.preserved(self.xid);
        let clip = |at: u32| (at as usize).clamp(range.start, range.end);
        let (start, end) = (clip(preserved.start), clip(preserved.end));
        let at = range.start;
        if at == start && start < end {
            range.start = end.min(start + allowed);
            let label = DataLabel { part: None, id: self.id };
            *self.reused += (range.start - at) as u64;
            let kept = offset(at)..offset(range.start);
            return self.connection.use_preserved_data(self.xid, kept, label).map(|()| None);
        }
        let end = if at < start { start } else { range.end };
        let piece = original.slice(at..end.min(at + PIECE.min(allowed)));
        let octets = match (piece.in_memory(), read.take()) {
            (Some(octets), _) => octets.clone(),
            (None, Some((of, octets))) if of == at && octets.len() <= piece.len() => octets,
            (None, _) => {
                *read = Some((at, Bytes::new()));
                return Ok(Some(piece));
            }
        };
        range.start += octets.len();
        self.data(part, octets, Some(offset(at))).map(|()| None)
    }
}

/// An offset on the wire; content is bounded by what OCP can count.
fn offset(at: usize) -> u32 {
    u32::try_from(at).unwrap_or(u32::MAX)
}
