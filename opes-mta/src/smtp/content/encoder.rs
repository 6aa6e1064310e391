//! Content on its way behind DATA (RFC 5321 section 4.5.2).

use bytes::{BufMut, BytesMut};
use memchr::memmem;

use super::line_ends::are_paired;

/// Writes content so that no line of it is taken for its end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Encoder {
    /// A line begins.
    #[default]
    LineStart,
    /// Inside of a line.
    Inside,
    /// Behind CR.
    Cr,
}

/// CR without LF, or LF without CR: some servers take them for line ends, others do not, and where they
/// differ one message becomes two (RFC 5321 section 2.3.8).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a line ends with CR or LF alone")]
pub struct BareLineEnd;

impl Encoder {
    /// Appends a piece of content.
    ///
    /// # Errors
    /// If a line ends with CR or LF alone. What was appended is of no use then.
    pub fn encode(&mut self, piece: &[u8], out: &mut BytesMut) -> Result<(), BareLineEnd> {
        let Some(last) = piece.last() else { return Ok(()) };
        if !are_paired(*self == Self::Cr, piece) {
            return Err(BareLineEnd);
        }
        if *self == Self::LineStart && piece.starts_with(b".") {
            out.put_u8(b'.');
        }
        let mut rest = piece;
        while let Some(at) = memmem::find(rest, b"\n.") {
            let (line, behind) = rest.split_at(at + 1);
            out.put_slice(line);
            out.put_u8(b'.');
            rest = behind;
        }
        out.put_slice(rest);
        *self = match last {
            b'\r' => Self::Cr,
            b'\n' => Self::LineStart,
            _ => Self::Inside,
        };
        Ok(())
    }

    /// Appends the end. A last line without CRLF gets one (RFC 5321 section 4.1.1.4).
    ///
    /// # Errors
    /// If the last line ends with CR alone.
    pub fn finish(self, out: &mut BytesMut) -> Result<(), BareLineEnd> {
        match self {
            Self::Cr => return Err(BareLineEnd),
            Self::Inside => out.put_slice(b"\r\n.\r\n"),
            Self::LineStart => out.put_slice(b".\r\n"),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn encode(content: &[u8], piece: usize) -> Result<Vec<u8>, BareLineEnd> {
        let (mut encoder, mut out) = (Encoder::default(), BytesMut::new());
        for piece in content.chunks(piece) {
            encoder.encode(piece, &mut out)?;
        }
        encoder.finish(&mut out)?;
        Ok(out.to_vec())
    }

    #[test]
    fn a_dot_that_a_line_starts_with_is_doubled() {
        for (content, sent) in [
            (&b""[..], &b".\r\n"[..]),
            (b".", b"..\r\n.\r\n"),
            (b".\r\n", b"..\r\n.\r\n"),
            (b"a.\r\n..b\r\n\r\n", b"a.\r\n...b\r\n\r\n.\r\n"),
            (b"a", b"a\r\n.\r\n"),
        ] {
            for piece in 1..5 {
                assert_eq!(encode(content, piece).unwrap(), sent, "{content:?}");
            }
        }
    }

    #[test]
    fn what_some_servers_take_for_a_line_end_does_not_go_out() {
        for content in [
            &b"a\n.\r\n"[..],
            b"a\r.\r\n",
            b"a\r\n.\n",
            b"a\r\n\n",
            b"\n",
            b"\r",
            b"a\r\r\n",
            b"a\r",
        ] {
            for piece in 1..5 {
                assert_eq!(encode(content, piece), Err(BareLineEnd), "{content:?}");
            }
        }
    }

    proptest! {
        /// A server that takes dots away finds the content, and its end at the end only.
        #[test]
        fn content_is_read_as_it_was(
            lines in proptest::collection::vec("[.a]{0,4}", 0..8), piece in 1_usize..9,
        ) {
            let content: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
            let sent = String::from_utf8(encode(content.as_bytes(), piece).unwrap()).unwrap();
            let mut read = String::new();
            let mut rest = sent.split_inclusive("\r\n");
            for line in rest.by_ref().take_while(|line| *line != ".\r\n") {
                read.push_str(line.strip_prefix('.').unwrap_or(line));
            }
            prop_assert_eq!((read, rest.next()), (content, None));
        }
    }
}
