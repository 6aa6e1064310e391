//! Parameters of `Content-Type` and `Content-Disposition` (RFC 2045 section 5.1), where they stand.

use std::fmt::Write;
use std::ops::Range;

use crate::mail::{ContentType, Edit, Field, Part};

/// The longest value of a parameter in one piece; longer ones are continued (RFC 2231 section 3).
const LONGEST: usize = 60;

/// A parameter, as ranges of the field's value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Parameter {
    pub(super) name: Range<usize>,
    /// With its quotes.
    pub(super) value: Range<usize>,
}

/// The parameters of a value, in order.
pub(super) fn parameters(value: &[u8]) -> Vec<Parameter> {
    let mut found = Vec::new();
    let mut start = next_semicolon(value, 0);
    while start < value.len() {
        let end = next_semicolon(value, start + 1);
        let within = trimmed(value, start + 1..end);
        let text = value.get(within.clone()).unwrap_or_default();
        if let Some(equals) = memchr::memchr(b'=', text) {
            let name = trimmed(value, within.start..within.start + equals);
            let value = trimmed(value, within.start + equals + 1..within.end);
            found.push(Parameter { name, value });
        }
        start = end;
    }
    found
}

/// The next semicolon from a place on that is in no quotes, or the end.
fn next_semicolon(value: &[u8], from: usize) -> usize {
    let (mut is_quoted, mut is_escaped) = (false, false);
    for (at, octet) in value.iter().enumerate().skip(from) {
        match octet {
            _ if is_escaped => is_escaped = false,
            b'\\' if is_quoted => is_escaped = true,
            b'"' => is_quoted = !is_quoted,
            b';' if !is_quoted => return at,
            _ => {}
        }
    }
    value.len()
}

fn trimmed(value: &[u8], range: Range<usize>) -> Range<usize> {
    let text = value.get(range.clone()).unwrap_or_default();
    let start = range.start + (text.len() - text.trim_ascii_start().len());
    start..start + text.trim_ascii().len()
}

/// A value without its quotes.
pub(super) fn unquoted(value: &[u8]) -> Vec<u8> {
    let Some(inner) = value.strip_prefix(b"\"") else { return value.to_vec() };
    let inner = inner.strip_suffix(b"\"").unwrap_or(inner);
    let mut is_escaped = false;
    let mut keep = |octet: &u8| {
        is_escaped = *octet == b'\\' && !is_escaped;
        !is_escaped
    };
    inner.iter().copied().filter(|octet| keep(octet)).collect()
}

/// Gives the type of a part a parameter, or another value of it; `None` if readers may find another one all the
/// same.
pub(super) fn set_parameter(part: &Part, name: &str, value: &str) -> Option<Edit> {
    let field = part.fields.iter().find(|field| field.is_named("Content-Type"))?;
    let old = field.raw_value();
    let is_named = |parameter: &Parameter| {
        let written = old.get(parameter.name.clone()).unwrap_or_default();
        written.eq_ignore_ascii_case(name.as_bytes())
    };
    let (range, insert) = match parameters(old).into_iter().find(is_named) {
        Some(parameter) => (parameter.value, format!("\"{value}\"")),
        None => {
            let end = old.trim_ascii_end().len();
            let before = if old.get(..end)?.ends_with(b";") { "" } else { ";" };
            (end..end, format!("{before} {name}=\"{value}\""))
        }
    };
    let new = [old.get(..range.start)?, insert.as_bytes(), old.get(range.end..)?].concat();
    let is_read = ContentType::parse(&new).parameter(name) == Some(value);
    is_read.then(|| Edit { range: place(field, range), insert: insert.into() })
}

/// A range of a field's value, in the message.
fn place(field: &Field, range: Range<usize>) -> Range<usize> {
    field.value.start + range.start..field.value.start + range.end
}

/// A parameter whose value is beyond ASCII (RFC 2231 sections 3 and 4), on lines of its own if it is long.
pub(super) fn extended(name: &str, value: &str, end: &str) -> String {
    let mut pieces = vec![String::new()];
    for character in value.chars() {
        let mut octets = String::new();
        for octet in character.encode_utf8(&mut [0; 4]).bytes() {
            let is_plain = octet.is_ascii_alphanumeric() || b"!#$&+-.^_`{|}~".contains(&octet);
            let _ = match is_plain {
                true => write!(octets, "{}", char::from(octet)),
                false => write!(octets, "%{octet:02X}"),
            };
        }
        match pieces.last_mut() {
            Some(piece) if piece.len() + octets.len() <= LONGEST => piece.push_str(&octets),
            _ => pieces.push(octets),
        }
    }
    if let [piece] = pieces.as_slice() {
        return format!("{name}*=utf-8''{piece}");
    }
    let numbered = pieces.iter().enumerate().map(|(number, piece)| {
        let charset = if number == 0 { "utf-8''" } else { "" };
        format!("{name}*{number}*={charset}{piece}")
    });
    numbered.collect::<Vec<_>>().join(&format!(";{end} "))
}
