//! The original message, put together from what the MTA sends.
//!
//! Milter sends a message as fields and pieces of the body. With `SMFIP_HDR_LEADSPC` a field's value is
//! all that stands behind the colon, leading blanks included; lines of a folded one are separated by
//! LF. So name, colon, value and CRLF are the octets that the SMTP client sent, but for what the MTA
//! itself changes before it queues a message: Postfix removes blanks before the colon, turns a first
//! line `From ` into a field, and ends the header section before a line that is no field.

use std::ops::Range;

use bytes::{BufMut, Bytes, BytesMut};

use crate::event::{Body, Message};
use crate::front::pieces::Pieces;

/// Octets that a field costs besides its own: its ranges are kept.
const FIELD_COST: usize = size_of::<Field>();

/// A message on its way in.
#[derive(Debug)]
pub struct Collector {
    header: BytesMut,
    fields: Vec<Field>,
    body: Pieces,
    limit: usize,
}

/// A message as the SMTP client sent it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Original {
    /// Its octets.
    pub message: Message,
    /// The fields of its header section, in their order.
    pub fields: Vec<Field>,
}

/// Where a field stands in a header section.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    start: usize,
    colon: usize,
    end: usize,
}

impl Collector {
    /// Nothing so far. The message may take this many octets: its own, and 24 for each field. The worst
    /// case is three times that, and a packet.
    pub fn new(limit: usize) -> Self {
        Self { header: BytesMut::new(), fields: Vec::new(), body: Pieces::default(), limit }
    }

    /// The next field (`SMFIC_HEADER`).
    ///
    /// What would end the field, or the header section, before its time is mended as Postfix mends it
    /// (`cleanup_out_header`): a further line that does not begin with a blank gets one. NUL, which
    /// ends the value on the wire, becomes a blank. A CR inside of a line is the client's: it stays.
    ///
    /// # Errors
    /// If the name is none, or the message gets too large.
    pub fn field(&mut self, name: &[u8], value: &[u8]) -> Result<(), MessageError> {
        if name.is_empty() || !name.iter().all(|&octet| may_name(octet)) {
            return Err(MessageError::Name(excerpt(name)));
        }
        let start = self.header.len();
        self.header.extend_from_slice(name);
        let colon = self.header.len();
        self.header.put_u8(b':');
        for (number, line) in value.split(|&octet| octet == b'\n').enumerate() {
            if number > 0 && !is_blank(line.first()) {
                self.header.put_u8(b'\t');
            }
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            self.header.extend(line.iter().map(|&octet| if octet == 0 { b' ' } else { octet }));
            self.header.extend_from_slice(b"\r\n");
        }
        self.fields.push(Field { start, colon, end: self.header.len() });
        self.check()
    }

    /// The next octets of the body (`SMFIC_BODY`), with CRLF as they are.
    ///
    /// # Errors
    /// If the message gets too large.
    pub fn body(&mut self, octets: &Bytes) -> Result<(), MessageError> {
        self.body.push(octets);
        self.check()
    }

    /// Octets of the body so far.
    pub(super) fn body_octets(&self) -> usize {
        self.body.octets()
    }

    /// The message, of which nothing is copied, or its front, if its body is cut. The empty line behind the header
    /// section is added here: milter does not send it.
    pub fn finish(mut self, is_cut: bool) -> Original {
        self.header.extend_from_slice(b"\r\n");
        let body = Body::from(self.body.finish()).cut(is_cut);
        let message = Message { header: self.header.freeze(), body };
        Original { message, fields: self.fields }
    }

    fn check(&self) -> Result<(), MessageError> {
        let fields = self.fields.len().saturating_mul(FIELD_COST);
        let octets = self.header.len().saturating_add(self.body.octets()).saturating_add(fields);
        (octets <= self.limit).then_some(()).ok_or(MessageError::TooLarge(self.limit))
    }
}

impl Field {
    /// A field of one line, which ends behind its CRLF.
    pub(super) fn new(start: usize, colon: usize, end: usize) -> Self {
        Self { start, colon, end }
    }

    /// The same field with one more line.
    pub(super) fn folded(self, end: usize) -> Self {
        Self { end, ..self }
    }

    /// All of its lines, with the last CRLF.
    pub fn range(&self) -> Range<usize> {
        self.start..self.end
    }

    /// Its octets in this header section, with the last CRLF.
    pub fn octets<'a>(&self, header: &'a [u8]) -> &'a [u8] {
        header.get(self.range()).unwrap_or_default()
    }

    /// Its name.
    pub fn name<'a>(&self, header: &'a [u8]) -> &'a [u8] {
        header.get(self.start..self.colon).unwrap_or_default()
    }

    /// What stands between the colon and the last CRLF.
    pub fn value<'a>(&self, header: &'a [u8]) -> &'a [u8] {
        header.get(self.colon + 1..self.end.saturating_sub(2)).unwrap_or_default()
    }
}

/// Why there is no message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// More octets than allowed.
    #[error("the message takes more than {0} octets with its list of fields")]
    TooLarge(usize),
    /// A name that would not be read back as one.
    #[error("the MTA sent a header field with the name {0:?}")]
    Name(String),
}

/// What Postfix and sendmail take for a part of a name; sendmail lets octets beyond ASCII pass.
fn may_name(octet: u8) -> bool {
    octet > b' ' && octet != b':' && octet != 0x7f
}

pub(super) fn is_blank(octet: Option<&u8>) -> bool {
    matches!(octet, Some(b' ' | b'\t'))
}

/// The front of a line, for people.
pub(super) fn excerpt(line: &[u8]) -> String {
    String::from_utf8_lossy(line.get(..60).unwrap_or(line)).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn collect(fields: &[(&str, &str)], body: &[&str]) -> Result<Original, MessageError> {
        let mut collector = Collector::new(1_000);
        for (name, value) in fields {
            collector.field(name.as_bytes(), value.as_bytes())?;
        }
        for octets in body {
            collector.body(&Bytes::copy_from_slice(octets.as_bytes()))?;
        }
        Ok(collector.finish(false))
    }

    #[test]
    fn the_octets_are_those_of_the_smtp_client() {
        let fields = [
            ("Subject", "x"),
            ("Subject", "  x"),
            ("To", "\ta,\n\tb,\n  c"),
            ("X-Crlf", " a\r\n b\r\n"),
            ("X-Empty", ""),
            ("X-Cr", " a\rb"),
        ];
        let found = collect(&fields, &["one\r\ntw", "o\r\n"]).unwrap();
        let header = "Subject:x\r\nSubject:  x\r\nTo:\ta,\r\n\tb,\r\n  c\r\nX-Crlf: a\r\n b\r\n\t\r\n\
                      X-Empty:\r\nX-Cr: a\rb\r\n\r\n";
        assert_eq!(found.message, Message { header: header.into(), body: "one\r\ntwo\r\n".into() });
        let header = header.as_bytes();
        let ranges: Vec<_> = found.fields.iter().flat_map(Field::range).collect();
        assert_eq!(ranges, Vec::from_iter(0..header.len() - 2), "fields cover the section");
        let names: Vec<_> = found.fields.iter().map(|field| field.name(header)).collect();
        assert_eq!(names, fields.map(|(name, _)| name.as_bytes()));
        assert_eq!(found.fields[2].value(header), b"\ta,\r\n\tb,\r\n  c");
        assert_eq!(found.fields[4].value(header), b"");
    }

    #[test]
    fn a_message_without_fields_is_all_body() {
        let found = collect(&[], &["x\r\n"]).unwrap();
        assert_eq!(found.message, Message { header: "\r\n".into(), body: "x\r\n".into() });
    }

    #[test]
    fn a_value_ends_neither_its_field_nor_the_header() {
        let found = collect(&[("A", " b\nB: c\n\nbody"), ("C", " d\0e")], &[]).unwrap();
        assert_eq!(found.message.header, "A: b\r\n\tB: c\r\n\t\r\n\tbody\r\nC: d e\r\n\r\n");
        assert_eq!(Message::split(found.message.header.clone()).body, "".into());
        assert_eq!(found.fields.len(), 2);
        for name in ["", "A:b", "A\r\nB", " A", "A\0", "A\x7f"] {
            let error = MessageError::Name(name.to_owned());
            assert_eq!(collect(&[(name, "x")], &[]), Err(error), "{name:?}");
        }
        assert!(collect(&[("\u{e9}", "x")], &[]).is_ok());
    }

    #[test]
    fn a_message_has_a_size() {
        let mut collector = Collector::new(40);
        collector.field(b"A", b" b").unwrap();
        collector.body(&Bytes::from_static(b"0123456789")).unwrap();
        let more = collector.body(&Bytes::from_static(b"x"));
        assert_eq!(more, Err(MessageError::TooLarge(40)));
        let mut collector = Collector::new(80);
        let many = (0..).find_map(|number| Some((number, collector.field(b"A", b"").err()?)));
        assert_eq!(many, Some((2, MessageError::TooLarge(80))), "28 octets a field");
    }
}
