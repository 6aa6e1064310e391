//! Content behind DATA (RFC 5321 section 4.5.2): CRLF, dot, CRLF ends it, and nothing that looks like it.

mod encoder;
mod line_ends;

use bytes::{Buf, Bytes, BytesMut};
use memchr::memmem;

pub use encoder::{BareLineEnd, Encoder};
pub use line_ends::{Bare, LineEnds};

/// Octets from which on what stands between removed dots is handed out where it lies. Shorter stretches
/// are put together: content that is all dots would otherwise cost ten times its size in handles.
const WORTH_A_PIECE: usize = 1_024;

/// The most octets that are put together.
const GATHERED: usize = 16 * 1_024;

/// Takes content off octets as they come, and removes the dots that were put in.
#[derive(Debug)]
pub struct Decoder {
    /// Whether the next octet is the first one of a line. The CRLF of the command line counts: content may
    /// have no octets.
    at_line_start: bool,
}

/// What the decoder has taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// Octets of the content, at least one.
    Octets(Bytes),
    /// CRLF.CRLF; the first CRLF belongs to the content.
    End,
}

impl Default for Decoder {
    fn default() -> Self {
        Self::new()
    }
}

impl Decoder {
    /// A decoder for what follows the command line.
    pub fn new() -> Self {
        Self { at_line_start: true }
    }

    /// Takes the next piece off the front of `input`; `None` if more octets are needed, of which it keeps
    /// two at most in `input`. A piece from which nothing is removed shares the memory of `input`. Behind
    /// the end the decoder is of no more use.
    pub fn decode(&mut self, input: &mut BytesMut) -> Option<Piece> {
        let mut gathered = Vec::new();
        loop {
            match self.next_run(input) {
                Run::Octets(0) | Run::End if !gathered.is_empty() => break,
                Run::Octets(0) => return None,
                Run::End => {
                    input.advance(b".\r\n".len());
                    return Some(Piece::End);
                }
                Run::Octets(length) => {
                    let stands_alone = length >= WORTH_A_PIECE || !is_dot_removed(length, input);
                    if gathered.is_empty() && stands_alone {
                        self.step_over(length, input);
                        return Some(Piece::Octets(input.split_to(length).freeze()));
                    }
                    if !gathered.is_empty()
                        && (length >= WORTH_A_PIECE || gathered.len() + length > GATHERED)
                    {
                        break;
                    }
                    self.step_over(length, input);
                    gathered.extend_from_slice(&input.split_to(length));
                }
            }
        }
        Some(Piece::Octets(gathered.into()))
    }

    /// What is at the front of the input, behind a dot that is removed from it.
    fn next_run(&mut self, input: &mut BytesMut) -> Run {
        if self.at_line_start {
            match **input {
                [] | [b'.'] | [b'.', b'\r'] => return Run::Octets(0),
                [b'.', b'\r', b'\n', ..] => return Run::End,
                [b'.', ..] => input.advance(1),
                _ => {}
            }
            self.at_line_start = false;
        }
        if let Some(at) = memmem::find(input, b"\r\n.") {
            return Run::Octets(at + 2);
        }
        // A CR at the end may be the first half of a line end.
        Run::Octets(input.len() - usize::from(input.ends_with(b"\r")))
    }

    fn step_over(&mut self, length: usize, input: &BytesMut) {
        self.at_line_start = input.get(..length).is_some_and(|run| run.ends_with(b"\r\n"));
    }
}

/// Whether a dot is removed behind so many octets.
fn is_dot_removed(length: usize, input: &[u8]) -> bool {
    match input.get(length..) {
        Some([b'.', rest @ ..]) => !b"\r\n".starts_with(rest) && !rest.starts_with(b"\r\n"),
        _ => false,
    }
}

enum Run {
    /// So many octets of content; none if more are needed.
    Octets(usize),
    End,
}

#[cfg(test)]
mod tests;
