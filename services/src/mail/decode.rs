//! Transfer encodings and charsets, read as tolerantly as mail clients read them: what a client can
//! open, a scanner has to see.

use std::io::{self, Read};
use std::ops::Range;

use bytes::Bytes;

use super::codec::{Base64, Base64Rule, Codec, Undecided, Uuencode};
use super::embedded::uuencoded;
use super::octets::{Octets, SpoolError};
use super::structure::Part;
use super::version::Mail;

/// Encoded octets that are decoded at a time.
const PIECE: usize = 64 * 1024;

/// How a body is encoded (RFC 2045 section 6).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Transfer {
    /// 7bit, 8bit, binary, or nothing declared.
    Identity,
    /// base64.
    Base64,
    /// quoted-printable.
    QuotedPrintable,
    /// uuencode.
    Uuencode,
    /// Something else, lower case: read as it is.
    Unknown(String),
}

impl Transfer {
    pub(super) fn from_name(name: &str) -> Self {
        match name.trim().to_ascii_lowercase().as_str() {
            "" | "7bit" | "8bit" | "binary" => Self::Identity,
            "base64" => Self::Base64,
            "quoted-printable" => Self::QuotedPrintable,
            "x-uuencode" | "uuencode" | "x-uue" => Self::Uuencode,
            other => Self::Unknown(other.chars().take(64).collect()),
        }
    }

    /// Whether the octets of a body are those of its content.
    pub fn is_identity(&self) -> bool {
        matches!(self, Self::Identity | Self::Unknown(_))
    }
}

/// A decoded body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decoded {
    /// The octets; those of the message itself if it is not encoded and in memory.
    pub octets: Bytes,
    /// Whether these are all; otherwise the rest is beyond the limit.
    pub complete: bool,
}

impl Mail {
    /// The decoded body of a part, at most `limit` octets: that much memory, and no more is read
    /// than that takes.
    ///
    /// # Errors
    /// If the body can't be read.
    pub fn decoded(&self, part: &Part, limit: usize) -> Result<Decoded, SpoolError> {
        let raw = self.octets(part.body.clone());
        if part.transfer.is_identity() {
            let octets = raw.read(0..limit)?;
            return Ok(Decoded { octets, complete: raw.len() <= limit });
        }
        let mut octets = decoder(&raw, &part.transfer)?.collect(limit.saturating_add(1))?;
        let complete = octets.len() <= limit;
        octets.truncate(limit);
        Ok(Decoded { octets: octets.into(), complete })
    }

    /// Reads the decoded body of a part from its start, however large it is.
    ///
    /// # Errors
    /// If the body can't be read.
    pub fn decoder(&self, part: &Part) -> Result<Decoder, SpoolError> {
        Ok(decoder(&self.octets(part.body.clone()), &part.transfer)?)
    }

    /// The text of a part, at most `limit` octets of it, by its charset; windows-1252 if that is not
    /// known. HTML stays HTML.
    ///
    /// # Errors
    /// If the body can't be read.
    pub fn text(&self, part: &Part, limit: usize) -> Result<String, SpoolError> {
        let decoded = self.decoded(part, limit)?;
        let label = part.content_type.parameter("charset").unwrap_or("utf-8");
        let encoding =
            encoding_rs::Encoding::for_label(label.as_bytes()).unwrap_or(encoding_rs::WINDOWS_1252);
        Ok(encoding.decode(&decoded.octets).0.into_owned())
    }
}

/// A decoder of a body; of one in uuencode only the first file counts.
fn decoder(raw: &Octets, transfer: &Transfer) -> io::Result<Decoder> {
    decoder_by(raw, transfer, Base64Rule::default())
}

/// The same, by another rule for base64.
pub(crate) fn decoder_by(
    raw: &Octets,
    transfer: &Transfer,
    rule: Base64Rule,
) -> io::Result<Decoder> {
    let codec = match transfer {
        Transfer::Base64 => Codec::Base64(Base64::by(rule)),
        Transfer::QuotedPrintable => Codec::QuotedPrintable(Undecided::new()),
        Transfer::Uuencode => {
            let first = uuencoded(raw).next().transpose()?;
            let lines = first.map_or(0..0, |file| file.range);
            return Ok(Decoder::new(raw, lines, Codec::Uuencode(Uuencode::default())));
        }
        Transfer::Identity | Transfer::Unknown(_) => Codec::Identity,
    };
    Ok(Decoder::new(raw, 0..raw.len(), codec))
}

/// Reads octets that stand in a message encoded.
#[derive(Debug)]
pub struct Decoder {
    encoded: Octets,
    /// Encoded octets that are behind us.
    at: usize,
    codec: Codec,
    decoded: Vec<u8>,
    /// Decoded octets that are behind us.
    taken: usize,
}

impl Decoder {
    pub(super) fn new(octets: &Octets, range: Range<usize>, codec: Codec) -> Self {
        let encoded = octets.slice(range);
        Self { encoded, at: 0, codec, decoded: Vec::new(), taken: 0 }
    }

    /// The octets from the start, up to a limit.
    pub(crate) fn collect(&mut self, limit: usize) -> io::Result<Vec<u8>> {
        // A piece more may be decoded than wanted.
        self.decoded.reserve(self.encoded.len().min(limit.saturating_add(PIECE)));
        while self.decoded.len() < limit && self.step()? {}
        self.decoded.truncate(limit);
        Ok(std::mem::take(&mut self.decoded))
    }

    /// Whether what was decoded so far is base64 that clients read in several ways.
    pub(crate) fn is_odd(&self) -> bool {
        matches!(&self.codec, Codec::Base64(state) if state.is_odd)
    }

    /// Decodes the next piece, if there is one.
    fn step(&mut self) -> io::Result<bool> {
        let end = self.encoded.len().min(self.at + PIECE);
        let piece = self.encoded.read(self.at..end)?;
        self.codec.feed(&piece, end == self.encoded.len(), &mut self.decoded);
        self.at = end;
        Ok(!piece.is_empty())
    }
}

impl Read for Decoder {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.taken == self.decoded.len() {
            self.decoded.clear();
            self.taken = 0;
            if !self.step()? {
                return Ok(0);
            }
        }
        let rest = self.decoded.get(self.taken..).unwrap_or_default();
        let count = rest.len().min(buffer.len());
        let (head, _) = buffer.split_at_mut(count);
        head.copy_from_slice(rest.get(..count).unwrap_or_default());
        self.taken += count;
        Ok(count)
    }
}

/// Decodes base64, at most `limit` octets; octets that are not of its alphabet are passed over
/// (RFC 2045 section 6.8), and padding in the middle starts a new run.
pub fn decode_base64(encoded: &[u8], limit: usize) -> Vec<u8> {
    let mut octets = Vec::new();
    let mut state = Base64::default();
    for piece in encoded.chunks(PIECE) {
        state.feed(piece, &mut octets);
        if octets.len() >= limit {
            break;
        }
    }
    octets.truncate(limit);
    octets
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mail(transfer: &str, body: &str) -> Mail {
        let header = format!("Content-Transfer-Encoding: {transfer}\n\n");
        Mail::new(header.into(), body.as_bytes().to_vec())
    }

    #[test]
    fn decoding_has_a_limit() {
        for (transfer, body) in [
            ("7bit", "hello"),
            ("base64", "aGVs\nbG8="),
            ("quoted-printable", "he=6C=\nlo"),
            ("x-uuencode", "to you\nbegin 644 x\n%:&5L;&\\ \n`\nend\nbegin 644 y\n!0 \n"),
        ] {
            let mail = mail(transfer, body);
            let stored = Mail::new(mail.header().clone(), mail.body().clone().in_windows(3));
            for mail in [mail, stored] {
                let part = &mail.parts().unwrap()[0];
                let decoded = |limit| mail.decoded(part, limit).unwrap();
                assert_eq!(decoded(5), Decoded { octets: "hello".into(), complete: true });
                assert_eq!(decoded(4), Decoded { octets: "hell".into(), complete: false });
                assert_eq!(mail.text(part, 2).unwrap(), "he");
                let mut streamed = String::new();
                mail.decoder(part).unwrap().read_to_string(&mut streamed).unwrap();
                assert_eq!(streamed, "hello", "{transfer}");
            }
        }
        assert_eq!(decode_base64(b"aGVsbG8=", 2), b"he");
    }

    #[test]
    fn large_bodies_are_decoded_piece_by_piece() {
        let body = "aGVs\r\nbG8gd29y\r\nbGQh".repeat(20_000);
        let mail = mail("base64", &body);
        let stored = Mail::new(mail.header().clone(), mail.body().clone().in_windows(10_000));
        let expected = decode_base64(body.as_bytes(), usize::MAX);
        assert_eq!(expected, b"hello world!".repeat(20_000));
        for mail in [mail, stored] {
            let part = &mail.parts().unwrap()[0];
            let mut streamed = Vec::new();
            mail.decoder(part).unwrap().read_to_end(&mut streamed).unwrap();
            assert!(streamed == expected);
            assert_eq!(mail.decoded(part, 100).unwrap().octets, expected[..100]);
        }
    }
}
