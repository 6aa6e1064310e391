//! Octets to frames (RFC 4037 section 3.1).

use bytes::{Buf, Bytes, BytesMut};
use smallvec::SmallVec;

use super::scan::{Scanner, Step};
use super::value::{NamedValues, Value};
use crate::limits::WireLimits;
use crate::wire::Name;

/// A message without its payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// The message's name.
    pub name: Name,
    /// Anonymous parameters: their position is their meaning.
    pub anonymous: SmallVec<[Value; 3]>,
    /// Named parameters.
    pub named: NamedValues,
    /// Octets of the payload that follows; `None` if there is none, which is not the same as an
    /// empty one.
    pub payload: Option<u32>,
}

/// A piece of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// A message, or the part before its payload. Its values keep nothing of the input alive.
    Head(Head),
    /// Octets of the payload as they arrived, a slice of the input; never empty.
    Chunk(Bytes),
    /// The message with the payload is complete. A message without payload has no `End`.
    End,
}

/// Reads frames from octets, however they are fragmented.
///
/// Each octet is looked at once. What can't be part of a valid message is rejected at the first
/// octet that makes it so, and every later call repeats that error.
#[derive(Debug)]
pub struct Decoder {
    limits: WireLimits,
    scanner: Scanner,
    stage: Stage,
    /// Octets consumed since the connection began.
    consumed: u64,
    failed: Option<SyntaxError>,
}

/// What comes next.
///
/// ```text
/// Head ──no payload──▶ Head
/// Head ──"size:"──▶ Payload ──size octets──▶ Tail ──CRLF ; CRLF──▶ Head
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Head,
    /// Octets of the payload that are still to come.
    Payload(u32),
    /// Octets of the tail that have come.
    Tail(usize),
}

impl Decoder {
    /// A decoder for the start of a connection.
    pub fn new(limits: WireLimits) -> Self {
        Self { limits, scanner: Scanner::default(), stage: Stage::Head, consumed: 0, failed: None }
    }

    /// Takes the next frame off the front of `input`; `None` if more octets are needed. Between two
    /// calls `input` may only grow at its end.
    ///
    /// # Errors
    /// The first octet that no valid message has there.
    pub fn decode(&mut self, input: &mut BytesMut) -> Result<Option<Frame>, SyntaxError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let before = input.len();
        let frame = match self.stage {
            Stage::Head => self.decode_head(input),
            Stage::Payload(left) => Ok(self.decode_payload(left, input)),
            Stage::Tail(_) => self.decode_tail(input),
        };
        self.consumed += (before - input.len()) as u64;
        frame.inspect_err(|error| self.failed = Some(error.clone()))
    }

    /// Whether the octets consumed so far are complete messages.
    pub fn is_between_messages(&self) -> bool {
        self.stage == Stage::Head && self.scanner.is_at_start()
    }

    /// Octets consumed since the connection began: all up to the end of the last frame.
    pub fn consumed(&self) -> u64 {
        self.consumed
    }

    /// Octets of a payload that came another way than through [`decode`](Self::decode), with no input
    /// left before them; those beyond the payload are not counted.
    pub fn skip_payload(&mut self, octets: u32) {
        let Stage::Payload(left) = self.stage else { return };
        let octets = octets.min(left);
        self.stage = after_payload(left - octets);
        self.consumed += u64::from(octets);
    }

    fn decode_head(&mut self, input: &mut BytesMut) -> Result<Option<Frame>, SyntaxError> {
        let step =
            self.scanner.scan(input, &self.limits).map_err(|(position, expected)| SyntaxError {
                offset: self.consumed + position as u64,
                found: input.get(position).copied(),
                expected,
            })?;
        let (length, payload) = match step {
            Step::More => return Ok(None),
            Step::End { length } => (length, None),
            Step::Payload { length, size } => (length, Some(size)),
        };
        let head = self.scanner.take(input, payload);
        input.advance(length);
        self.stage = payload.map_or(Stage::Head, after_payload);
        Ok(Some(Frame::Head(head)))
    }

    fn decode_payload(&mut self, left: u32, input: &mut BytesMut) -> Option<Frame> {
        let size = u32::try_from(input.len()).unwrap_or(u32::MAX).min(left);
        if size == 0 {
            return None;
        }
        self.stage = after_payload(left - size);
        Some(Frame::Chunk(input.split_to(size as usize).freeze()))
    }

    fn decode_tail(&mut self, input: &mut BytesMut) -> Result<Option<Frame>, SyntaxError> {
        let Stage::Tail(mut done) = self.stage else { return Ok(None) };
        let expected = super::PAYLOAD_TAIL.get(done..).unwrap_or_default();
        let mut count = 0;
        for (wanted, found) in expected.iter().zip(input.iter()) {
            if wanted != found {
                return Err(SyntaxError {
                    offset: self.consumed + count as u64,
                    found: Some(*found),
                    expected: Expected::PayloadTail,
                });
            }
            count += 1;
        }
        input.advance(count);
        done += count;
        let complete = done == super::PAYLOAD_TAIL.len();
        self.stage = if complete { Stage::Head } else { Stage::Tail(done) };
        Ok(complete.then_some(Frame::End))
    }
}

/// What comes next in or behind a payload.
fn after_payload(left: u32) -> Stage {
    match left {
        0 => Stage::Tail(0),
        left => Stage::Payload(left),
    }
}

/// Octets that are no OCP. The end of the broken message can't be found, so it ends the connection
/// (RFC 4037 section 5, A-05).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("octet {offset}{}: expected {expected} (RFC 4037 section 3.1)", shown(*found))]
pub struct SyntaxError {
    /// Position of the octet since the connection began.
    pub offset: u64,
    /// The octet, unless it has not come yet.
    pub found: Option<u8>,
    /// What the grammar or a limit wants there.
    pub expected: Expected,
}

fn shown(found: Option<u8>) -> String {
    match found {
        Some(octet) if octet.is_ascii_graphic() => format!(" is '{}'", char::from(octet)),
        Some(octet) => format!(" is 0x{octet:02x}"),
        None => String::new(),
    }
}

/// What should have stood there: the violated rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Expected {
    /// Start of a message.
    #[error("a message name, which starts with a letter")]
    MessageName,
    /// After a message name or an anonymous parameter.
    #[error("a blank, CRLF or ';'")]
    AfterAnonymous,
    /// After CR.
    #[error("LF after CR")]
    LineFeed,
    /// First line after the anonymous parameters.
    #[error("a parameter name or the size of a payload")]
    NameOrPayload,
    /// A line after a named parameter.
    #[error("a parameter name, ';' or an empty line and a payload")]
    NextParameter,
    /// After a parameter's or member's name.
    #[error("':'")]
    Colon,
    /// After that colon.
    #[error("one blank after ':'")]
    Blank,
    /// A value.
    #[error("a value")]
    Value,
    /// In a list.
    #[error("',' or ')'")]
    ListEnd,
    /// In a structure, after an anonymous member.
    #[error("a blank, CRLF or '}}'")]
    AfterMember,
    /// In a structure, on the line of its first named member.
    #[error("a member name, which starts with a letter")]
    MemberName,
    /// In a structure, on a line after a named member.
    #[error("a member name or '}}'")]
    NextMember,
    /// After a named parameter or member.
    #[error("CRLF after a named value")]
    AfterNamed,
    /// A size.
    #[error("a decimal size")]
    Size,
    /// After a size; it has no leading zero.
    #[error("':' after a size without leading zero")]
    SizeEnd,
    /// After quoted data.
    #[error("the closing quotation mark right after the counted octets")]
    ClosingQuote,
    /// After a payload.
    #[error("CRLF ';' CRLF right after the payload")]
    PayloadTail,
    /// After the semicolon.
    #[error("CRLF after ';'")]
    MessageEnd,
    /// A size above 2147483647.
    #[error("a size of at most 2147483647")]
    SizeRange,
    /// [`WireLimits::head_octets`].
    #[error("fewer octets in one message")]
    HeadLimit,
    /// [`WireLimits::depth`].
    #[error("fewer nested values")]
    DepthLimit,
    /// [`WireLimits::values`].
    #[error("fewer values in one message")]
    ValueLimit,
    /// [`WireLimits::payload`].
    #[error("a smaller payload")]
    PayloadLimit,
}
