//! Octets of a server to replies (RFC 5321 section 4.2).

use bytes::{Buf, Bytes, BytesMut};
use ocp_proto::smtp::Reply;

#[doc(hidden)]
pub mod fuzzing;
mod status;

pub use status::EnhancedStatus;

/// Octets of one line with its CRLF, at most. RFC 5321 section 4.5.3.1.5 allows 512; servers that put
/// addresses of web pages into their refusals go beyond.
pub const MAXIMUM_LINE: usize = 2_048;

/// Lines of one reply, at most. EHLO has about 20 of them, HELP some more.
pub const MAXIMUM_LINES: usize = 128;

/// Octets of one reply, at most: what [`Reply`] can hold. Worst case a connection: that many octets and
/// one line wait for the end of their reply.
pub const MAXIMUM_REPLY: usize = Reply::LONGEST;

/// Takes replies off octets as they come.
#[derive(Debug, Default)]
pub struct ReplyDecoder {
    /// Where the line begins that is not whole yet.
    line: usize,
    /// Octets of it that were looked at.
    scanned: usize,
    lines: usize,
    code: Option<[u8; 3]>,
    failed: Option<InvalidReply>,
}

impl ReplyDecoder {
    /// A decoder for the start of a connection.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next reply off the front of `input`; `None` if more octets are needed.
    ///
    /// Codes and the number of lines are as the server wrote them. What can't be passed on to an SMTP
    /// peer is made harmless: a line beyond [`Reply::LONGEST_LINE`] is cut, a control character becomes
    /// `?`, and a code such as 571, which the grammar does not have, becomes 550: who does not know a
    /// code goes by its first digit (RFC 5321 section 4.3.2).
    ///
    /// # Errors
    /// What is no reply. The start of the next one can't be found: the connection ends.
    pub fn decode(&mut self, input: &mut BytesMut) -> Result<Option<Reply>, InvalidReply> {
        if let Some(failed) = self.failed {
            return Err(failed);
        }
        let found = self.find(input);
        self.failed = found.err();
        let Some(length) = found? else { return Ok(None) };
        *self = Self::default();
        let octets = input.get(..length).unwrap_or_default();
        // Copied, or a reply that is kept would keep the read buffer alive.
        let reply = Reply::parse(Bytes::copy_from_slice(octets)).or_else(|_| harmless(octets));
        input.advance(length);
        self.failed = reply.as_ref().err().copied();
        reply.map(Some)
    }

    /// Octets of the reply that `input` begins with, once it is whole.
    fn find(&mut self, input: &[u8]) -> Result<Option<usize>, InvalidReply> {
        loop {
            let unread = input.get(self.line + self.scanned..).unwrap_or_default();
            let Some(end) = memchr::memchr2(b'\r', b'\n', unread) else {
                self.scanned += unread.len();
                self.check_length(self.scanned)?;
                return Ok(None);
            };
            let length = self.scanned + end;
            self.check_length(length)?;
            match (unread.get(end), unread.get(end + 1)) {
                (Some(b'\r'), Some(b'\n')) => {}
                (Some(b'\r'), None) => {
                    self.scanned = length;
                    return Ok(None);
                }
                _ => return Err(InvalidReply::LineEnd),
            }
            let line = input.get(self.line..self.line + length).unwrap_or_default();
            let is_last = self.check_line(line)?;
            self.line += length + 2;
            self.scanned = 0;
            if is_last {
                return Ok(Some(self.line));
            }
        }
    }

    /// Checks a line of so many octets without its CRLF, and all lines before it.
    fn check_length(&self, length: usize) -> Result<(), InvalidReply> {
        if length + 2 > MAXIMUM_LINE {
            return Err(InvalidReply::Line);
        }
        if self.line + length + 2 > MAXIMUM_REPLY {
            return Err(InvalidReply::Length);
        }
        Ok(())
    }

    /// Whether this is the last line of its reply.
    fn check_line(&mut self, line: &[u8]) -> Result<bool, InvalidReply> {
        let code = match line.first_chunk::<3>() {
            Some(code @ [b'2'..=b'5', b'0'..=b'9', b'0'..=b'9']) => *code,
            _ => return Err(InvalidReply::Code),
        };
        // RFC 5321 section 4.2.1: the same code on every line.
        if *self.code.get_or_insert(code) != code {
            return Err(InvalidReply::OtherCode);
        }
        self.lines += 1;
        match line.get(3) {
            None | Some(b' ') => Ok(true),
            Some(b'-') if self.lines == MAXIMUM_LINES => Err(InvalidReply::Lines),
            Some(b'-') => Ok(false),
            Some(_) => Err(InvalidReply::Separator),
        }
    }
}

/// A whole reply whose text can't be passed on as it is.
fn harmless(octets: &[u8]) -> Result<Reply, InvalidReply> {
    let mut written = BytesMut::with_capacity(octets.len());
    let lines = octets.split(|octet| *octet == b'\n').filter(|line| !line.is_empty());
    for line in lines.map(|line| line.strip_suffix(b"\r").unwrap_or(line)) {
        let (code, text) = line.split_first_chunk::<3>().ok_or(InvalidReply::Code)?;
        match code {
            [class, b'6'..=b'9', _] => written.extend_from_slice(&[*class, b'5', b'0']),
            code => written.extend_from_slice(code),
        }
        let is_control = |octet: u8| octet.is_ascii_control() && octet != b'\t';
        let text = text.iter().take(Reply::LONGEST_LINE - 5);
        written.extend(text.map(|octet| if is_control(*octet) { b'?' } else { *octet }));
        written.extend_from_slice(b"\r\n");
    }
    Reply::parse(written.freeze()).map_err(|_| InvalidReply::Code)
}

/// What is no reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidReply {
    /// No code, or one that says nothing.
    #[error("a line does not start with a code from 200 to 599")]
    Code,
    /// Lines that do not belong together.
    #[error("the lines of a reply have different codes")]
    OtherCode,
    /// Something else behind the code.
    #[error("a code is followed by neither '-' nor a blank")]
    Separator,
    /// CR without LF, or LF without CR.
    #[error("a line has a bare CR or LF")]
    LineEnd,
    /// A line beyond [`MAXIMUM_LINE`].
    #[error("a line has more than {MAXIMUM_LINE} octets")]
    Line,
    /// A reply beyond [`MAXIMUM_LINES`].
    #[error("a reply has more than {MAXIMUM_LINES} lines")]
    Lines,
    /// A reply beyond [`MAXIMUM_REPLY`].
    #[error("a reply has more than {MAXIMUM_REPLY} octets")]
    Length,
}

#[cfg(test)]
mod tests;
