//! SMTP replies (RFC 5321 section 4.2), checked before they can reach an SMTP peer.

use std::fmt;

use bytes::Bytes;

/// A whole SMTP reply: one or more lines with the same code, each ending with CRLF.
///
/// Only [`Reply::parse`] and [`Reply::new`] make one, so its octets can be sent as they are: no
/// stray CR, LF or NUL, no line above 512 octets, no other code on a later line.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Reply(Bytes);

impl Reply {
    /// The longest line with its CRLF (RFC 5321 section 4.5.3.1.5).
    pub const LONGEST_LINE: usize = 512;
    /// The most octets of all lines; a bound of ours, worst case once a transaction.
    pub const LONGEST: usize = 8_192;

    /// A reply of one line, such as `550 5.7.1 Message refused`.
    pub fn new(code: u16, enhanced: &str, text: &str) -> Result<Self, ReplyError> {
        let blank = if enhanced.is_empty() { "" } else { " " };
        Self::parse(Bytes::from(format!("{code} {enhanced}{blank}{text}\r\n")))
    }

    /// The octets as a reply, or what is wrong with them.
    pub fn parse(octets: impl Into<Bytes>) -> Result<Self, ReplyError> {
        let octets = octets.into();
        if octets.len() > Self::LONGEST {
            return Err(ReplyError::Length(octets.len()));
        }
        let code: [u8; 3] =
            octets.get(..3).and_then(|code| code.try_into().ok()).ok_or(ReplyError::Code)?;
        if !matches!(code, [b'2'..=b'5', b'0'..=b'5', b'0'..=b'9']) {
            return Err(ReplyError::Code);
        }
        let mut rest = octets.as_ref();
        loop {
            let end = memchr::memmem::find(rest, b"\r\n").ok_or(ReplyError::LineEnd)?;
            let (line, after) = rest.split_at(end);
            if line.len() + 2 > Self::LONGEST_LINE {
                return Err(ReplyError::Line(line.len() + 2));
            }
            if let Some(&octet) = line.iter().find(|o| o.is_ascii_control() && **o != b'\t') {
                return Err(ReplyError::Octet(octet));
            }
            if line.get(..3) != Some(&code) {
                return Err(ReplyError::Code);
            }
            rest = after.get(2..).unwrap_or_default();
            match (line.get(3), rest.is_empty()) {
                (None | Some(b' '), true) | (Some(b'-'), false) => {}
                _ => return Err(ReplyError::Continuation),
            }
            if rest.is_empty() {
                return Ok(Self(octets));
            }
        }
    }

    /// The octets, every line with its CRLF.
    pub fn as_bytes(&self) -> &Bytes {
        &self.0
    }

    /// The reply code.
    pub fn code(&self) -> u16 {
        self.0.iter().take(3).fold(0, |code, digit| code * 10 + u16::from(digit.wrapping_sub(b'0')))
    }

    /// Whether the code is 2xx.
    pub fn is_success(&self) -> bool {
        self.0.first() == Some(&b'2')
    }

    /// Whether the code is 4xx.
    pub fn is_temporary(&self) -> bool {
        self.0.first() == Some(&b'4')
    }

    /// Whether the code is 5xx.
    pub fn is_permanent(&self) -> bool {
        self.0.first() == Some(&b'5')
    }

    /// The lines without their line ends.
    pub fn lines(&self) -> impl Iterator<Item = &[u8]> {
        self.0
            .split(|&octet| octet == b'\n')
            .map(|line| line.strip_suffix(b"\r").unwrap_or(line))
            .filter(|line| !line.is_empty())
    }
}

impl fmt::Display for Reply {
    /// The lines, joined by ` / `.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, line) in self.lines().enumerate() {
            if index > 0 {
                f.write_str(" / ")?;
            }
            f.write_str(&String::from_utf8_lossy(line))?;
        }
        Ok(())
    }
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Reply({self})")
    }
}

/// Why octets are no reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReplyError {
    /// No code, a code outside 200 to 559, or two different codes.
    #[error("every line of a reply starts with the same code from 200 to 559")]
    Code,
    /// The last line does not end, or a line ends otherwise than by CRLF.
    #[error("every line of a reply ends with CRLF")]
    LineEnd,
    /// `-` and blank after the code do not match the number of lines.
    #[error("the code is followed by '-' on all lines of a reply but the last")]
    Continuation,
    /// A control character.
    #[error("octet 0x{0:02x} is not allowed in a reply")]
    Octet(u8),
    /// A line is too long.
    #[error("a line of a reply has at most {longest} octets, not {0}", longest = Reply::LONGEST_LINE)]
    Line(usize),
    /// The whole is too long.
    #[error("a reply has at most {longest} octets, not {0}", longest = Reply::LONGEST)]
    Length(usize),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_reply_is_one() {
        let reply = Reply::parse("550-5.7.1 no\r\n550 5.7.1 never\r\n").unwrap();
        assert_eq!((reply.code(), reply.is_permanent()), (550, true));
        assert_eq!(reply.to_string(), "550-5.7.1 no / 550 5.7.1 never");
        let wrong = [
            ("", ReplyError::Code),
            ("150 x\r\n", ReplyError::Code),
            ("550 x", ReplyError::LineEnd),
            ("550 x\n", ReplyError::LineEnd),
            ("550 x\r\n250 ok\r\n", ReplyError::Continuation),
            ("550-x\r\n250 ok\r\n", ReplyError::Code),
            ("550-x\r\n", ReplyError::Continuation),
            ("550x\r\n", ReplyError::Continuation),
            ("550 a\rb\r\n", ReplyError::Octet(b'\r')),
            ("550 a\0b\r\n", ReplyError::Octet(0)),
        ];
        for (octets, error) in wrong {
            assert_eq!(Reply::parse(octets), Err(error), "{octets:?}");
        }
        assert_eq!(Reply::new(550, "5.7.1", &"x".repeat(600)), Err(ReplyError::Line(612)));
    }
}
