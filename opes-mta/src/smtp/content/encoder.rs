//! Content to what follows DATA.

use bytes::Bytes;
use memchr::memmem;

/// Puts dots in where lines start with one, and ends the content.
///
/// It takes lines as they are: content with a bare CR or LF stays one that MTAs may read otherwise, see
/// [`LineEnds`](super::LineEnds).
#[derive(Debug)]
pub struct Encoder {
    last: Last,
}

/// What was written last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Last {
    /// CRLF, or nothing.
    LineEnd,
    Cr,
    Other,
}

impl Default for Encoder {
    fn default() -> Self {
        Self::new()
    }
}

impl Encoder {
    /// An encoder for the start of content.
    pub fn new() -> Self {
        Self { last: Last::LineEnd }
    }

    /// Writes a piece of the content, uncopied, in one stretch unless dots are put in.
    pub fn encode(&mut self, piece: &Bytes, mut write: impl FnMut(Bytes)) {
        let first = match (self.last, &**piece) {
            (Last::LineEnd, [b'.', ..]) => Some(0),
            (Last::Cr, [b'\n', b'.', ..]) => Some(1),
            _ => None,
        };
        let further = memmem::find_iter(piece, b"\r\n.").map(|at| at + 2);
        let mut written = 0;
        for dot in first.into_iter().chain(further) {
            if dot > written {
                write(piece.slice(written..dot));
            }
            write(Bytes::from_static(b"."));
            written = dot;
        }
        if written < piece.len() {
            write(piece.slice(written..));
        }
        self.last = match (self.last, &**piece) {
            (last, []) => last,
            (_, [.., b'\r', b'\n']) | (Last::Cr, [b'\n']) => Last::LineEnd,
            (_, [.., b'\r']) => Last::Cr,
            _ => Last::Other,
        };
    }

    /// What ends the content; with a CRLF before if its last line has none.
    pub fn end(self) -> &'static [u8] {
        match self.last {
            Last::LineEnd => b".\r\n",
            Last::Cr | Last::Other => b"\r\n.\r\n",
        }
    }
}
