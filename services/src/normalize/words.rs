//! Octets beyond ASCII in fields, which only SMTPUTF8 can carry (RFC 6532): text and names become encoded words (RFC
//! 2047), parameters extended ones (RFC 2231).

use std::ops::Range;

use encoding_rs::Encoding;

use super::corrections::{Fix, View};
use super::fields::{Form, all, form, shown};
use super::parameters::{extended, parameters, unquoted};
use crate::mail::{SpoolError, encoded_words, unfold};

/// Fields with octets beyond ASCII. In an address itself nothing can stand for them.
pub(super) fn raw_fields(view: &View<'_>) -> Result<Vec<Fix>, SpoolError> {
    let is_utf8_mail = view.sender_parameter("SMTPUTF8").is_some();
    let mut fixes = Vec::new();
    for field in all(view.parts()?) {
        let value = field.raw_value();
        if value.is_ascii() || (is_utf8_mail && std::str::from_utf8(value).is_ok()) {
            continue;
        }
        let words = Words { charset: view.settings.charset, end: view.mail.line_ending() };
        let new = match form(field) {
            Form::Text => Some(words.text(value)),
            Form::Addresses => words.structured(value, true),
            Form::Parameters => words.parameters(value),
            Form::Other => words.structured(value, false),
        };
        fixes.push(match new.filter(|new| new != value) {
            Some(new) => Fix::one(shown(field), field.value.clone(), new),
            None => Fix::none(shown(field)),
        });
    }
    Ok(fixes)
}

/// Writes encoded words.
pub(super) struct Words {
    /// What octets are read in that are no UTF-8.
    pub(super) charset: &'static Encoding,
    /// The message's line end.
    pub(super) end: &'static str,
}

impl Words {
    /// A value that is text: words beyond ASCII are encoded, together where they stand side by side.
    fn text(&self, value: &[u8]) -> Vec<u8> {
        let words = words(value);
        let octets = |word: &Range<usize>| value.get(word.clone()).unwrap_or_default();
        let mut new = Vec::new();
        let mut at = 0;
        let mut next = 0;
        while let Some(first) = words.get(next) {
            let count = words.get(next..).unwrap_or_default().iter();
            let count = count.take_while(|word| !octets(word).is_ascii()).count();
            let Some(last) = count.checked_sub(1).and_then(|count| words.get(next + count)) else {
                next += 1;
                continue;
            };
            // What is between encoded words does not count (RFC 2047 section 6.2).
            let is_behind = next.checked_sub(1).and_then(|before| words.get(before)).map(octets);
            let is_before = words.get(next + count).map(octets);
            let is_word = |word: Option<&[u8]>| word.is_some_and(is_encoded_word);
            let run = value.get(first.start..last.end).unwrap_or_default();
            new.extend_from_slice(value.get(at..first.start).unwrap_or_default());
            new.extend(self.encoded(run, is_word(is_behind), is_word(is_before)));
            at = last.end;
            next += count;
        }
        new.extend_from_slice(value.get(at..).unwrap_or_default());
        new
    }

    /// All of a text in encoded words.
    pub(super) fn all(&self, text: &str) -> String {
        encoded_words(text).join(&format!("{} ", self.end))
    }

    fn encoded(&self, octets: &[u8], blank_before: bool, blank_behind: bool) -> Vec<u8> {
        let text = self.read(octets);
        let (before, behind) =
            (if blank_before { " " } else { "" }, if blank_behind { " " } else { "" });
        self.all(&format!("{before}{text}{behind}")).into()
    }

    fn read(&self, octets: &[u8]) -> String {
        let octets = unfold(octets);
        match std::str::from_utf8(&octets) {
            Ok(text) => text.to_owned(),
            Err(_) => self.charset.decode_without_bom_handling(&octets).0.into_owned(),
        }
    }

    /// A value with comments, and perhaps names (phrases) outside of addresses; what is neither stays. `None` if it
    /// can't be read.
    fn structured(&self, value: &[u8], has_names: bool) -> Option<Vec<u8>> {
        let mut new: Vec<u8> = Vec::with_capacity(value.len());
        // Whether nothing but blanks has come since the last encoded word.
        let mut is_behind_word = false;
        let mut at = 0;
        while let Some(&octet) = value.get(at) {
            let rest = value.get(at..)?;
            let length = match octet {
                b'"' => quoted_length(rest)?,
                b'(' => comment_length(rest)?,
                b'<' => angle_length(rest)?,
                octet if octet.is_ascii_whitespace() || is_special(octet) => {
                    is_behind_word &= octet.is_ascii_whitespace();
                    1
                }
                _ => phrase_length(rest),
            };
            let token = rest.get(..length)?;
            let behind = rest.get(length..)?;
            at += length;
            if token.is_ascii() {
                new.extend_from_slice(token);
                if length > 1 || !(octet.is_ascii_whitespace() || is_special(octet)) {
                    is_behind_word = is_encoded_word(token);
                }
                continue;
            }
            if octet == b'(' {
                let inner = token.get(1..length - 1)?;
                new.push(b'(');
                new.extend(self.encoded(inner, false, false));
                new.push(b')');
                is_behind_word = false;
                continue;
            }
            let is_of_address = behind.first() == Some(&b'@') || token.contains(&b'@');
            let is_name = match octet {
                b'"' => behind.first() != Some(&b'@'),
                b'<' => false,
                _ => !is_of_address,
            };
            if !is_name || !has_names {
                new.extend_from_slice(token);
                is_behind_word = false;
                continue;
            }
            // An encoded word stands apart from what is around it (RFC 2047 section 5).
            if new.last().is_some_and(|last| !last.is_ascii_whitespace()) {
                new.push(b' ');
            }
            let text = if octet == b'"' { unquoted(token) } else { token.to_vec() };
            let is_before_word = behind.trim_ascii_start().starts_with(b"=?");
            new.extend(self.encoded(&text, is_behind_word, is_before_word));
            if behind.first().is_some_and(|next| !next.is_ascii_whitespace()) {
                new.push(b' ');
            }
            is_behind_word = true;
        }
        Some(new)
    }

    /// A value with parameters.
    fn parameters(&self, value: &[u8]) -> Option<Vec<u8>> {
        let mut new = Vec::with_capacity(value.len());
        let mut at = 0;
        for parameter in parameters(value) {
            let written = value.get(parameter.value.clone())?;
            if written.is_ascii() {
                continue;
            }
            let name = std::str::from_utf8(value.get(parameter.name.clone())?).ok()?;
            if !name.bytes().all(|octet| octet.is_ascii_alphanumeric() || octet == b'-') {
                return None;
            }
            new.extend_from_slice(value.get(at..parameter.name.start)?);
            new.extend(extended(name, &self.read(&unquoted(written)), self.end).into_bytes());
            at = parameter.value.end;
        }
        new.extend_from_slice(value.get(at..)?);
        Some(new)
    }
}

/// Where the words of a text stand.
fn words(text: &[u8]) -> Vec<Range<usize>> {
    let mut words = Vec::new();
    let mut start = None;
    for (at, octet) in text.iter().enumerate() {
        match (octet.is_ascii_whitespace(), start) {
            (false, None) => start = Some(at),
            (true, Some(first)) => {
                words.push(first..at);
                start = None;
            }
            _ => {}
        }
    }
    words.extend(start.map(|first| first..text.len()));
    words
}

fn is_encoded_word(word: &[u8]) -> bool {
    word.starts_with(b"=?") && word.ends_with(b"?=")
}

/// What ends a word of a name.
fn is_special(octet: u8) -> bool {
    b"()<>[]:;,\"".contains(&octet)
}

/// Octets of the words beyond ASCII at the start, and of what is between them; or of the first word.
fn phrase_length(text: &[u8]) -> usize {
    let word = |from: usize| {
        let rest = text.get(from..).unwrap_or_default().iter();
        from + rest.take_while(|octet| !octet.is_ascii_whitespace() && !is_special(**octet)).count()
    };
    let mut end = word(0);
    let is_raw = |from: usize, to: usize| text.get(from..to).is_some_and(|word| !word.is_ascii());
    let is_address =
        |from: usize, to: usize| text.get(from..to).is_some_and(|word| word.contains(&b'@'));
    while is_raw(0, end) {
        let rest = text.get(end..).unwrap_or_default().iter();
        let next = end + rest.take_while(|octet| octet.is_ascii_whitespace()).count();
        let behind = word(next);
        if !is_raw(next, behind) || is_address(next, behind) {
            break;
        }
        end = behind;
    }
    end
}

/// Octets of the quoted string at the start, if it ends.
fn quoted_length(text: &[u8]) -> Option<usize> {
    let mut octets = text.iter().enumerate().skip(1);
    while let Some((at, octet)) = octets.next() {
        match octet {
            b'"' => return Some(at + 1),
            b'\\' => drop(octets.next()),
            _ => {}
        }
    }
    None
}

/// Octets of the comment at the start, if it ends.
fn comment_length(text: &[u8]) -> Option<usize> {
    let mut depth = 0usize;
    let mut octets = text.iter().enumerate();
    while let Some((at, octet)) = octets.next() {
        match octet {
            b'(' => depth += 1,
            b')' if depth == 1 => return Some(at + 1),
            b')' => depth -= 1,
            b'\\' => drop(octets.next()),
            _ => {}
        }
    }
    None
}

/// Octets of the address in angle brackets at the start, if it ends.
fn angle_length(text: &[u8]) -> Option<usize> {
    let mut at = 1;
    loop {
        match text.get(at)? {
            b'>' => return Some(at + 1),
            b'"' => at += quoted_length(text.get(at..)?)?,
            _ => at += 1,
        }
    }
}
