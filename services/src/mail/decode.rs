//! Transfer encodings and charsets, read as tolerantly as mail clients read them: what a client can
//! open, a scanner has to see.

use std::borrow::Cow;
use std::ops::Range;

use super::structure::Part;
use super::version::Mail;

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
}

/// A decoded body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decoded<'a> {
    /// The octets; those of the message itself if it is not encoded.
    pub octets: Cow<'a, [u8]>,
    /// Whether these are all; otherwise the rest is beyond the limit.
    pub complete: bool,
}

impl Mail {
    /// The decoded body of a part, at most `limit` octets.
    pub fn decoded(&self, part: &Part, limit: usize) -> Decoded<'_> {
        let raw = self.raw(part.body.clone());
        let octets = match &part.transfer {
            Transfer::Base64 => Cow::Owned(decode_base64(raw, limit.saturating_add(1))),
            Transfer::QuotedPrintable => {
                Cow::Owned(decode_quoted_printable(raw, limit.saturating_add(1)))
            }
            Transfer::Uuencode => {
                Cow::Owned(uuencoded(raw).next().map_or_else(Vec::new, |found| found.octets))
            }
            Transfer::Identity | Transfer::Unknown(_) => Cow::Borrowed(raw),
        };
        let complete = octets.len() <= limit;
        let octets = match octets {
            Cow::Borrowed(octets) => Cow::Borrowed(octets.get(..limit).unwrap_or(octets)),
            Cow::Owned(mut octets) => {
                octets.truncate(limit);
                Cow::Owned(octets)
            }
        };
        Decoded { octets, complete }
    }

    /// The text of a part, at most `limit` octets of it, by its charset; windows-1252 if that is not
    /// known. HTML stays HTML.
    pub fn text(&self, part: &Part, limit: usize) -> String {
        let decoded = self.decoded(part, limit);
        let label = part.content_type.parameter("charset").unwrap_or("utf-8");
        let encoding =
            encoding_rs::Encoding::for_label(label.as_bytes()).unwrap_or(encoding_rs::WINDOWS_1252);
        encoding.decode(&decoded.octets).0.into_owned()
    }
}

/// Decodes base64; octets that are not of its alphabet are passed over (RFC 2045 section 6.8), and
/// padding in the middle starts a new run.
pub fn decode_base64(encoded: &[u8], limit: usize) -> Vec<u8> {
    let mut octets = Vec::with_capacity((encoded.len() / 4 * 3 + 3).min(limit));
    let mut bits = 0u32;
    let mut count = 0u32;
    for &octet in encoded {
        let value = match octet {
            b'A'..=b'Z' => octet - b'A',
            b'a'..=b'z' => octet - b'a' + 26,
            b'0'..=b'9' => octet - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            b'=' => {
                (bits, count) = (0, 0);
                continue;
            }
            _ => continue,
        };
        bits = (bits << 6) | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            octets.push(u8::try_from((bits >> count) & 0xff).unwrap_or_default());
            if octets.len() >= limit {
                break;
            }
        }
    }
    octets
}

/// Decodes quoted-printable; what is wrong stays as it is (RFC 2045 section 6.7).
fn decode_quoted_printable(encoded: &[u8], limit: usize) -> Vec<u8> {
    let mut octets = Vec::with_capacity(encoded.len().min(limit));
    let mut rest = encoded;
    while let Some((&octet, after)) = rest.split_first() {
        if octets.len() >= limit {
            break;
        }
        rest = after;
        if octet != b'=' {
            octets.push(octet);
            continue;
        }
        if let [high, low, tail @ ..] = after
            && let (Some(high), Some(low)) = (hex_digit(*high), hex_digit(*low))
        {
            octets.push(high * 16 + low);
            rest = tail;
            continue;
        }
        // A soft line break, perhaps with blanks before the line end.
        let blanks = after.iter().take_while(|octet| matches!(octet, b' ' | b'\t')).count();
        match after.get(blanks..) {
            Some([b'\r', b'\n', tail @ ..] | [b'\n', tail @ ..]) => rest = tail,
            _ => octets.push(b'='),
        }
    }
    octets
}

fn hex_digit(octet: u8) -> Option<u8> {
    char::from(octet).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

/// A uuencoded file inside text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uuencoded {
    /// Its name.
    pub name: String,
    /// Its octets.
    pub octets: Vec<u8>,
    /// Its lines in the text, from `begin` to `end`.
    pub lines: Range<usize>,
}

/// The uuencoded files in a text. A file without `end` goes on to the next `begin`.
pub fn uuencoded(text: &[u8]) -> impl Iterator<Item = Uuencoded> {
    let mut lines = Lines { text, at: 0 }.peekable();
    std::iter::from_fn(move || {
        let (start, name) =
            lines.find_map(|(range, line)| Some((range.start, uuencode_name(line)?)))?;
        let mut octets = Vec::new();
        let mut end = start;
        while let Some((range, line)) = lines.next_if(|(_, line)| uuencode_name(line).is_none()) {
            end = range.end;
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            if line == b"end" {
                break;
            }
            uudecode_line(line, &mut octets);
        }
        Some(Uuencoded { name, octets, lines: start..end })
    })
}

/// Lines with the ranges they take, line ends included in these alone.
struct Lines<'a> {
    text: &'a [u8],
    at: usize,
}

impl<'a> Iterator for Lines<'a> {
    type Item = (Range<usize>, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let rest = self.text.get(self.at..).filter(|rest| !rest.is_empty())?;
        let length = memchr::memchr(b'\n', rest).unwrap_or(rest.len());
        let start = self.at;
        self.at = self.text.len().min(start + length + 1);
        Some((start..self.at, rest.get(..length)?))
    }
}

/// The name in `begin 644 name`.
fn uuencode_name(line: &[u8]) -> Option<String> {
    let rest = line.trim_ascii_end().strip_prefix(b"begin ")?;
    let blank = memchr::memchr(b' ', rest)?;
    let (mode, name) = rest.split_at(blank);
    let is_mode = matches!(mode.len(), 3 | 4) && mode.iter().all(|o| matches!(o, b'0'..=b'7'));
    is_mode.then(|| String::from_utf8_lossy(name.trim_ascii()).into_owned())
}

fn uudecode_line(line: &[u8], octets: &mut Vec<u8>) {
    let six = |octet: u8| octet.wrapping_sub(b' ') & 0x3f;
    let Some((&size, encoded)) = line.split_first() else { return };
    let end = octets.len() + usize::from(six(size));
    for group in encoded.chunks(4) {
        let mut sextets = [0u8; 4];
        for (sextet, octet) in sextets.iter_mut().zip(group) {
            *sextet = six(*octet);
        }
        let [a, b, c, d] = sextets;
        octets.extend([a << 2 | b >> 4, b << 4 | c >> 2, c << 6 | d]);
    }
    octets.truncate(end);
}

/// The contents of `data:` URIs in a text (RFC 2397): a way to carry files inside HTML. A URI ends
/// where the next one starts, so all of them together are no larger than the text.
pub fn data_uris(text: &[u8]) -> impl Iterator<Item = Vec<u8>> + '_ {
    /// Octets before the comma that are looked through.
    const LONGEST_TYPE: usize = 256;
    let mut rest = after_scheme(text);
    std::iter::from_fn(move || {
        loop {
            let uri = rest?;
            rest = after_scheme(uri);
            let next = rest.map_or(uri.len(), |rest| uri.len() - rest.len() - DATA_SCHEME.len());
            let uri = uri.get(..next)?;
            let end = uri.iter().position(|o| matches!(o, b'"' | b'\'' | b'<' | b'>' | b')' | 0));
            let uri = uri.get(..end.unwrap_or(uri.len()))?;
            let Some(comma) = memchr::memchr(b',', uri.get(..uri.len().min(LONGEST_TYPE))?) else {
                continue;
            };
            let (media_type, data) = (uri.get(..comma)?, uri.get(comma + 1..)?);
            // Browsers pass over blanks here, but `data: 1, 2` is just text.
            let mut media_type = media_type.to_ascii_lowercase();
            let is_empty = media_type.is_empty();
            media_type.retain(|octet| !octet.is_ascii_whitespace());
            let is_base64 = media_type.ends_with(b";base64");
            if !is_empty && !is_base64 && !media_type.contains(&b'/') {
                continue;
            }
            let plain = percent_decoded(data);
            return Some(if is_base64 { decode_base64(&plain, usize::MAX) } else { plain });
        }
    })
}

const DATA_SCHEME: &[u8] = b"data:";

/// What follows the next `data:`; case does not matter (RFC 3986 section 3.1).
fn after_scheme(text: &[u8]) -> Option<&[u8]> {
    let found = memchr::memchr_iter(b':', text).find(|colon| {
        colon
            .checked_sub(DATA_SCHEME.len() - 1)
            .and_then(|start| text.get(start..=*colon))
            .is_some_and(|scheme| scheme.eq_ignore_ascii_case(DATA_SCHEME))
    })?;
    text.get(found + 1..)
}

fn percent_decoded(encoded: &[u8]) -> Vec<u8> {
    let mut octets = Vec::with_capacity(encoded.len());
    let mut rest = encoded;
    while let Some((&octet, after)) = rest.split_first() {
        rest = after;
        match (octet, after) {
            (b'%', [high, low, tail @ ..]) => match (hex_digit(*high), hex_digit(*low)) {
                (Some(high), Some(low)) => {
                    octets.push(high * 16 + low);
                    rest = tail;
                }
                _ => octets.push(octet),
            },
            _ => octets.push(octet),
        }
    }
    octets
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_read_like_clients_read_it() {
        assert_eq!(decode_base64(b"aGVs\r\nbG8=", 99), b"hello");
        assert_eq!(decode_base64(b"aG*Vs\0bG8", 99), b"hello");
        assert_eq!(decode_base64(b"aGk=aGk=", 99), b"hihi");
        assert_eq!(decode_base64(b"aGVsbG8=", 2), b"he");
    }

    #[test]
    fn quoted_printable_keeps_what_is_wrong() {
        assert_eq!(decode_quoted_printable(b"a=3Db= \r\nc=\nd=ZZ=", 99), b"a=bcd=ZZ=");
    }

    #[test]
    fn uuencoded_files_are_found_in_text() {
        let text = b"hi\r\nbegin 644 a.txt\r\n.:&%R;6QE<W,@=&5X= H \r\n`\r\nend\r\nbegin the day\r\nbegin 600 b\n#86)C\n";
        let found: Vec<_> = uuencoded(text).collect();
        assert_eq!(found.len(), 2);
        assert_eq!(
            (found[0].name.as_str(), &found[0].octets[..]),
            ("a.txt", &b"harmless text\n"[..])
        );
        assert_eq!((found[1].name.as_str(), &found[1].octets[..]), ("b", &b"abc"[..]));
        assert!(text[found[0].lines.clone()].starts_with(b"begin 644"));
        assert!(text[found[0].lines.clone()].ends_with(b"\nend\r\n"));
        assert_eq!(found[1].lines.end, text.len());
    }

    #[test]
    fn a_file_without_an_end_hides_no_other() {
        let text = b"begin 644 a\n#86)C\nbegin 644 b\n#86)C\nend\nrest";
        let found: Vec<_> = uuencoded(text).collect();
        assert_eq!(found.len(), 2);
        assert_eq!(&text[found[0].lines.clone()], b"begin 644 a\n#86)C\n");
        assert_eq!(&text[found[1].lines.clone()], b"begin 644 b\n#86)C\nend\n");
        assert_eq!((&found[0].octets[..], &found[1].octets[..]), (&b"abc"[..], &b"abc"[..]));
    }

    #[test]
    fn data_uris_are_found_in_html() {
        let html = b"<a href=\"data:application/x;base64,aGVsbG8=\">x</a><img src='data:,a%20b'>";
        assert_eq!(data_uris(html).collect::<Vec<_>>(), [b"hello".to_vec(), b"a b".to_vec()]);
        let text = b"data: no comma here; data: 1, 2 DATA:,x data: a/b ; base64,aGk=";
        assert_eq!(data_uris(text).collect::<Vec<_>>(), [b"x ".to_vec(), b"hi".to_vec()]);
    }

    #[test]
    fn data_uris_are_no_larger_than_the_text() {
        let text = b"data:,".repeat(100_000);
        assert_eq!(data_uris(&text).count(), 100_000);
    }
}
