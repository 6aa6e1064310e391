//! From the chain's answer to messages: what stays is named (DUY) where the processor keeps it and
//! sent again (DUM with As-is) where it does not; what is new is sent (DUM).

use std::ops::Range;

use bytes::Bytes;
use ocp_proto::smtp::{Part, Verdict};
use ocp_proto::{AdaptedEnd, AdaptedStart, Connection, Misuse, OcpResult, Traffic, Xid};
use services::mail::Segment;

use crate::branch::Branch;
use crate::chain::Adapted;

/// The octets of an event, as they came.
#[derive(Clone, Debug)]
pub(crate) struct Original {
    /// The part that `first` is: the command line or the message header.
    pub(crate) part: Part,
    pub(crate) first: Bytes,
    /// The message body, else empty.
    pub(crate) body: Bytes,
}

impl Original {
    pub(crate) fn len(&self) -> usize {
        self.first.len() + self.body.len()
    }

    /// Octets of one part.
    fn slice(&self, range: &Range<usize>) -> Bytes {
        match range.start.checked_sub(self.first.len()) {
            Some(start) => self.body.slice(start..range.end - self.first.len()),
            None => self.first.slice(range.clone()),
        }
    }
}

/// Sends the whole adapted message and TE 200. Returns what the transaction cost on the wire.
///
/// # Errors
/// If the transaction has ended, or if the answer breaks a rule of the protocol, which would be a
/// fault of the server.
pub(crate) fn send(
    connection: &mut Connection,
    xid: Xid,
    original: &Original,
    branch: Branch,
    verdicts: Vec<Verdict>,
) -> Result<Traffic, Misuse> {
    connection.start_adapted(xid, Vec::new(), &AdaptedStart::default())?;
    let mut flow = Flow { connection, xid, original };
    match branch.adapted {
        Adapted::Unchanged => {
            flow.keep(original.part, 0..original.first.len())?;
            flow.keep(Part::MessageBody, original.first.len()..original.len())?;
        }
        Adapted::Command(line) => flow.insert(Part::Command, line.as_bytes().clone())?,
        Adapted::Reply(reply) => flow.insert(Part::Reply, reply.as_bytes().clone())?,
        Adapted::Content(mail) => {
            flow.segments(Part::MessageHeader, &mail.version().header)?;
            flow.segments(Part::MessageBody, &mail.version().body)?;
        }
    }
    let end = AdaptedEnd { side_effects: branch.effects, verdicts, ..AdaptedEnd::default() };
    connection.end_adapted(xid, &end)?;
    connection.end_transaction(xid, &OcpResult::ok(), false)
}

/// The adapted flow of one transaction.
struct Flow<'a> {
    connection: &'a mut Connection,
    xid: Xid,
    original: &'a Original,
}

impl Flow<'_> {
    fn segments(&mut self, part: Part, segments: &[Segment]) -> Result<(), Misuse> {
        segments.iter().try_for_each(|segment| match segment {
            Segment::Keep(range) => self.keep(part, range.clone()),
            Segment::Insert(octets) => self.insert(part, octets.clone()),
        })
    }

    fn insert(&mut self, part: Part, octets: Bytes) -> Result<(), Misuse> {
        self.connection.send_adapted(self.xid, part, octets, None)
    }

    /// Original octets: the middle of the range may be kept by the processor, its ends may not.
    fn keep(&mut self, part: Part, range: Range<usize>) -> Result<(), Misuse> {
        let preserved = self.connection.preserved(self.xid);
        let clip = |at: u32| (at as usize).clamp(range.start, range.end);
        let (start, end) = (clip(preserved.start), clip(preserved.end));
        self.send_again(part, range.start..start)?;
        if start < end {
            let offset = |at| u32::try_from(at).unwrap_or(u32::MAX);
            self.connection.use_preserved(self.xid, offset(start)..offset(end), None)?;
        }
        self.send_again(part, end..range.end)
    }

    fn send_again(&mut self, part: Part, range: Range<usize>) -> Result<(), Misuse> {
        if range.is_empty() {
            return Ok(());
        }
        let as_is = u32::try_from(range.start).ok();
        self.connection.send_adapted(self.xid, part, self.original.slice(&range), as_is)
    }
}
