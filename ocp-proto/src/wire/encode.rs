//! Messages to octets, in the strict form that the grammar allows (RFC 4037 section 3.1, A-01).

use bytes::BytesMut;

use super::value::{Value, is_safe};

/// What follows the octets of a payload.
pub const PAYLOAD_TAIL: &[u8] = b"\r\n;\r\n";

/// Writes one message: name, anonymous parameters, named parameters, and the end or a payload.
///
/// ```
/// use bytes::BytesMut;
/// use ocp_proto::wire::{Encoder, PAYLOAD_TAIL};
///
/// let mut out = BytesMut::new();
/// let mut message = Encoder::new(&mut out, "DUM");
/// message.number(1).number(0).named_number("Modp", 75);
/// message.payload(5);
/// out.extend_from_slice(b"hello");
/// out.extend_from_slice(PAYLOAD_TAIL);
/// assert_eq!(out, "DUM 1 0\r\nModp: 75\r\n\r\n5:hello\r\n;\r\n");
/// ```
#[derive(Debug)]
pub struct Encoder<'a> {
    out: &'a mut BytesMut,
    has_named: bool,
}

impl<'a> Encoder<'a> {
    /// Begins a message of this name.
    pub fn new(out: &'a mut BytesMut, name: &str) -> Self {
        out.extend_from_slice(name.as_bytes());
        Self { out, has_named: false }
    }

    /// An anonymous number.
    pub fn number(&mut self, number: u32) -> &mut Self {
        self.begin_anonymous();
        write_number(self.out, number);
        self
    }

    /// An anonymous atom.
    pub fn atom(&mut self, octets: &[u8]) -> &mut Self {
        self.begin_anonymous();
        write_atom(self.out, octets);
        self
    }

    /// An anonymous value.
    pub fn value(&mut self, value: &Value) -> &mut Self {
        self.begin_anonymous();
        write_value(self.out, value);
        self
    }

    /// A named value.
    pub fn named(&mut self, name: &str, value: &Value) -> &mut Self {
        self.begin_named(name);
        write_value(self.out, value);
        self.out.extend_from_slice(b"\r\n");
        self
    }

    /// A named number.
    pub fn named_number(&mut self, name: &str, number: u32) -> &mut Self {
        self.begin_named(name);
        write_number(self.out, number);
        self.out.extend_from_slice(b"\r\n");
        self
    }

    /// A named structure of numbers.
    pub fn named_numbers<const N: usize>(&mut self, name: &str, numbers: [u32; N]) -> &mut Self {
        self.begin_named(name);
        for (index, number) in numbers.into_iter().enumerate() {
            self.out.extend_from_slice(if index == 0 { b"{" } else { b" " });
            write_number(self.out, number);
        }
        self.out.extend_from_slice(b"}\r\n");
        self
    }

    /// A named atom.
    pub fn named_atom(&mut self, name: &str, octets: &[u8]) -> &mut Self {
        self.begin_named(name);
        write_atom(self.out, octets);
        self.out.extend_from_slice(b"\r\n");
        self
    }

    /// Ends a message without payload.
    pub fn finish(self) {
        self.out.extend_from_slice(b";\r\n");
    }

    /// Begins the payload: `size` octets have to follow, and [`PAYLOAD_TAIL`].
    pub fn payload(self, size: u32) {
        self.out.extend_from_slice(b"\r\n");
        write_number(self.out, size);
        self.out.extend_from_slice(b":");
    }

    fn begin_anonymous(&mut self) {
        debug_assert!(!self.has_named, "anonymous parameters come first");
        self.out.extend_from_slice(b" ");
    }

    fn begin_named(&mut self, name: &str) {
        if !self.has_named {
            self.out.extend_from_slice(b"\r\n");
            self.has_named = true;
        }
        self.out.extend_from_slice(name.as_bytes());
        self.out.extend_from_slice(b": ");
    }
}

/// Writes a value.
pub fn write_value(out: &mut BytesMut, value: &Value) {
    match value {
        Value::Atom(octets) => write_atom(out, octets),
        Value::List(items) => {
            out.extend_from_slice(b"(");
            write_separated(out, items, b",");
            out.extend_from_slice(b")");
        }
        Value::Structure(structure) => {
            out.extend_from_slice(b"{");
            write_separated(out, &structure.members, b" ");
            for (index, (name, value)) in structure.named.iter().enumerate() {
                if index == 0 {
                    out.extend_from_slice(b"\r\n");
                }
                out.extend_from_slice(name.as_str().as_bytes());
                out.extend_from_slice(b": ");
                write_value(out, value);
                out.extend_from_slice(b"\r\n");
            }
            out.extend_from_slice(b"}");
        }
    }
}

/// Writes an atom: bare if it can be, else quoted.
pub fn write_atom(out: &mut BytesMut, octets: &[u8]) {
    if !octets.is_empty() && octets.iter().all(|octet| is_safe(*octet)) {
        out.extend_from_slice(octets);
        return;
    }
    out.extend_from_slice(b"\"");
    write_number(out, u32::try_from(octets.len()).unwrap_or(u32::MAX));
    out.extend_from_slice(b":");
    out.extend_from_slice(octets);
    out.extend_from_slice(b"\"");
}

fn write_separated(out: &mut BytesMut, values: &[Value], separator: &[u8]) {
    for (index, value) in values.iter().enumerate() {
        if index > 0 {
            out.extend_from_slice(separator);
        }
        write_value(out, value);
    }
}

fn write_number(out: &mut BytesMut, number: u32) {
    out.extend_from_slice(Digits::of(number).as_slice());
}

/// Decimal digits, without the detour over a `String`.
pub(super) struct Digits {
    digits: [u8; 10],
    begin: usize,
}

impl Digits {
    pub(super) fn of(number: u32) -> Self {
        let mut digits = [0; 10];
        let mut begin = digits.len();
        let mut rest = number;
        for digit in digits.iter_mut().rev() {
            *digit = b'0' + u8::try_from(rest % 10).unwrap_or_default();
            rest /= 10;
            begin -= 1;
            if rest == 0 {
                break;
            }
        }
        Self { digits, begin }
    }

    pub(super) fn as_slice(&self) -> &[u8] {
        self.digits.get(self.begin..).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_their_digits() {
        for number in [0, 9, 10, 4_294_967_295, 2_147_483_647, 100] {
            let mut out = BytesMut::new();
            write_number(&mut out, number);
            assert_eq!(out, number.to_string());
        }
    }

    #[test]
    fn atoms_are_quoted_only_if_they_must_be() {
        let written = |octets: &[u8]| {
            let mut out = BytesMut::new();
            write_atom(&mut out, octets);
            out
        };
        assert_eq!(written(b"a_2-Z"), "a_2-Z");
        assert_eq!(written(b""), "\"0:\"");
        assert_eq!(written(b"a b"), "\"3:a b\"");
        assert_eq!(written(b"\"\r\n"), "\"3:\"\r\n\"");
    }
}
