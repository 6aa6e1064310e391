//! Structured values (RFC 2045 section 5.1): a type or a disposition, and parameters. Read as the rules say, and in
//! every other way in which some client reads them.

use mail_parser::parsers::MessageStream;
use mail_parser::{ContentType as ParsedType, HeaderValue};
use memchr::memmem;

use super::codec::{Codec, Undecided};
use super::field::{decode_words, unfold};

/// The most file names of one part. Each is compared with the ones before it: a mail of 10 MB full of
/// names costs some 10^8 comparisons.
pub(super) const MOST_NAMES: usize = 256;

/// A declared type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContentType {
    /// Lower case, such as `text/plain`.
    pub essence: String,
    /// Parameters: lower-case name, decoded value (RFC 2231).
    pub parameters: Vec<(String, String)>,
}

impl ContentType {
    /// The parameter of this name.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// Whether the type is `text/` something.
    pub fn is_text(&self) -> bool {
        self.essence.starts_with("text/")
    }

    pub(super) fn assumed(essence: &str) -> Self {
        Self { essence: essence.to_owned(), parameters: Vec::new() }
    }

    /// A structured value: `type/subtype` or a disposition, and parameters.
    pub(crate) fn parse(value: &[u8]) -> Self {
        // The parser stops at the first line end, so folds go.
        let line = [unfold(value).as_ref(), b"\n"].concat();
        let HeaderValue::ContentType(parsed) = MessageStream::new(&line).parse_content_type()
        else {
            return Self::assumed("");
        };
        let ParsedType { c_type, c_subtype, attributes } = parsed;
        let essence = match c_subtype {
            Some(subtype) => format!("{c_type}/{subtype}"),
            None => c_type.into_owned(),
        };
        let parameters = attributes
            .into_iter()
            .flatten()
            .map(|attribute| {
                let name = attribute.name.trim_end_matches('*').to_lowercase();
                (name, attribute.value.into_owned())
            })
            .collect();
        Self { essence: essence.trim().to_lowercase(), parameters }
    }

    /// The boundary between parts.
    pub(super) fn boundary(&self) -> Option<&str> {
        self.parameter("boundary").map(str::trim_end).filter(|boundary| !boundary.is_empty())
    }
}

/// Collects every file name that some client finds in a value: those of the parameter as it is parsed first, then
/// what else may be meant; each also decoded where the sender used encoded words against the rules (RFC 2231
/// section 1), as clients read them all the same.
pub(super) fn collect_names(
    value: &[u8],
    parsed: &ContentType,
    parameter: &str,
    names: &mut Vec<String>,
) {
    let parsed = parsed.parameters.iter().filter(|(name, _)| name == parameter);
    let parsed = parsed.map(|(_, value)| value.clone());
    let written = ["name", "filename"].into_iter().flat_map(|name| written(value, name));
    let written = written.map(|value| String::from_utf8_lossy(&value).into_owned());
    for name in parsed.chain(written) {
        let decoded = decode_words(name.as_bytes());
        for name in [name, decoded] {
            if names.len() < MOST_NAMES && !names.contains(&name) {
                names.push(name);
            }
        }
    }
}

/// Everything that a client may take for the value of a parameter: of each place where it is set, with quotes or
/// up to a blank, a semicolon or NUL, percent-encoded (RFC 2231 section 4), and put together of pieces in their order
/// and as they come (section 3).
pub(super) fn written(value: &[u8], parameter: &str) -> Vec<Vec<u8>> {
    let value = unfold(value);
    let lower = value.to_ascii_lowercase();
    let mut found = Vec::new();
    let mut pieces: Vec<(u32, Vec<u8>)> = Vec::new();
    for at in memmem::find_iter(&lower, parameter).take(MOST_NAMES) {
        let before = at.checked_sub(1).and_then(|before| lower.get(before));
        if before.is_some_and(|octet| octet.is_ascii_alphanumeric()) {
            continue;
        }
        let rest = value.get(at + parameter.len()..).unwrap_or_default();
        let Some((sort, rest)) = assignment(rest) else { continue };
        let spellings = spellings(rest).into_iter();
        let mut values =
            spellings.map(|value| if sort.is_extended { extended(&value) } else { value });
        match sort.piece {
            Some(nth) => pieces.extend(values.next().map(|value| (nth, value))),
            None => values.for_each(|value| push_new(&mut found, value)),
        }
    }
    if !pieces.is_empty() {
        let joined = |pieces: &[(u32, Vec<u8>)]| -> Vec<u8> {
            pieces.iter().flat_map(|(_, value)| value.iter().copied()).collect()
        };
        push_new(&mut found, joined(&pieces));
        pieces.sort_by_key(|(nth, _)| *nth);
        push_new(&mut found, joined(&pieces));
        pieces.dedup_by_key(|(nth, _)| *nth);
        push_new(&mut found, joined(&pieces));
    }
    found
}

fn push_new(found: &mut Vec<Vec<u8>>, value: Vec<u8>) {
    // For some programs a text ends at NUL.
    let until_nul = memchr::memchr(0, &value).and_then(|nul| value.get(..nul)).map(<[u8]>::to_vec);
    for value in [value].into_iter().chain(until_nul) {
        if !value.is_empty() && !found.contains(&value) {
            found.push(value);
        }
    }
}

/// How a parameter is set.
struct Sort {
    /// Which piece of the value it is.
    piece: Option<u32>,
    is_extended: bool,
}

/// `*0*=` and what is behind it.
fn assignment(mut rest: &[u8]) -> Option<(Sort, &[u8])> {
    let mut sort = Sort { piece: None, is_extended: false };
    while let Some(behind) = rest.strip_prefix(b"*") {
        let digits = behind.iter().take_while(|octet| octet.is_ascii_digit()).count();
        let (number, behind) = behind.split_at(digits);
        match std::str::from_utf8(number).ok().and_then(|number| number.parse().ok()) {
            Some(number) if sort.piece.is_none() => sort.piece = Some(number),
            _ => sort.is_extended = true,
        }
        rest = behind;
    }
    let value = behind_comment(rest).strip_prefix(b"=")?;
    Some((sort, behind_comment(value)))
}

/// What stands behind blanks and a comment (RFC 5322 section 3.2.2).
fn behind_comment(octets: &[u8]) -> &[u8] {
    let octets = octets.trim_ascii_start();
    let comment = octets.strip_prefix(b"(");
    let end = comment.and_then(|comment| memchr::memchr(b')', comment).map(|end| (comment, end)));
    let behind = end.and_then(|(comment, end)| comment.get(end + 1..));
    behind.map_or(octets, <[u8]>::trim_ascii_start)
}

/// What the octets behind an equals sign may mean.
fn spellings(rest: &[u8]) -> Vec<Vec<u8>> {
    let until = |is_end: fn(&u8) -> bool, rest: &[u8]| -> Vec<u8> {
        let end = rest.iter().position(is_end).unwrap_or(rest.len());
        rest.get(..end).unwrap_or_default().trim_ascii().to_vec()
    };
    let mut found = Vec::new();
    if let Some(quoted) = rest.strip_prefix(b"\"") {
        push_new(&mut found, unquoted(quoted));
        push_new(&mut found, until(|octet| *octet == b'"', quoted));
        return found;
    }
    let word = until(|octet| matches!(octet, b';' | b'"' | b' ' | b'\t'), rest);
    let inner = word.strip_prefix(b"'").and_then(|word| word.strip_suffix(b"'"));
    let inner = inner.map(<[u8]>::to_vec);
    push_new(&mut found, word);
    push_new(&mut found, inner.unwrap_or_default());
    push_new(&mut found, until(|octet| *octet == b';', rest));
    found
}

/// What is in quotes, without the backslashes that quote a character (RFC 5322 section 3.2.4).
fn unquoted(quoted: &[u8]) -> Vec<u8> {
    let mut text = Vec::new();
    let mut octets = quoted.iter();
    while let Some(octet) = octets.next() {
        match octet {
            b'"' => break,
            b'\\' => text.extend(octets.next()),
            octet => text.push(*octet),
        }
    }
    text
}

/// A value with its percent-encoding decoded, without charset and language.
fn extended(value: &[u8]) -> Vec<u8> {
    let mut quotes = memchr::memchr_iter(b'\'', value);
    let start = quotes.nth(1).map_or(0, |second| second + 1);
    let mut decoded = Vec::new();
    let encoded = value.get(start..).unwrap_or_default();
    Codec::Percent(Undecided::new()).feed(encoded, true, &mut decoded);
    decoded
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(value: &str, parameter: &str) -> Vec<String> {
        let found = written(value.as_bytes(), parameter);
        found.into_iter().map(|value| String::from_utf8(value).unwrap()).collect()
    }

    #[test]
    fn a_value_as_the_rules_say_has_one_reading() {
        for value in [
            "multipart/mixed; boundary=\"b 1\"; charset=x",
            "multipart/mixed;\r\n\tBoundary = \"b 1\"",
            "multipart/mixed; boundary*0=\"b \"; boundary*1=1",
            "multipart/mixed; boundary*=us-ascii'en'b%201",
            "multipart/mixed; boundary (x) = (y) \"b 1\"",
        ] {
            assert_eq!(texts(value, "boundary"), ["b 1"], "{value}");
        }
        assert_eq!(texts("multipart/mixed; boundary=b; x=y", "boundary"), ["b"]);
        assert_eq!(texts("text/plain; charset=x", "boundary"), [""; 0]);
        assert_eq!(texts("a/b; filename=c", "name"), [""; 0]);
    }

    #[test]
    fn what_clients_disagree_about_has_all_readings() {
        let value = "multipart/mixed; boundary=a; boundary=\"b\"";
        assert_eq!(texts(value, "boundary"), ["a", "b"]);
        assert_eq!(texts("multipart/mixed boundary='b'", "boundary"), ["'b'", "b"]);
        assert_eq!(texts("x/y; boundary=\"a\\b\"", "boundary"), ["ab", "a\\b"]);
        assert_eq!(texts("x/y; name=a b.exe; z", "name"), ["a", "a b.exe"]);
        assert_eq!(texts("x/y; filename=\"a.exe", "filename"), ["a.exe"]);
        assert_eq!(texts("x/y; boundary=\"b\0c\"", "boundary"), ["b\0c", "b"]);
        let value = "x; filename*1=b; filename*0=a; filename*0=c";
        assert_eq!(texts(value, "filename"), ["bac", "acb", "ab"]);
    }
}
