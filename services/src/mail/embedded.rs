//! Files that stand in a text: uuencoded ones and `data:` URIs.

use std::io;
use std::ops::Range;

use super::codec::{Base64, Codec, Undecided, Uuencode};
use super::decode::Decoder;
use super::octets::Octets;
use super::window::{Lines, Window};

/// A file inside a text.
#[derive(Debug)]
pub struct Embedded {
    /// Its name; empty if it has none.
    pub name: String,
    /// Where it stands in the text, encoded: its lines from `begin` to `end`, or the data of a URI.
    pub range: Range<usize>,
    /// Reads its octets.
    pub content: Decoder,
}

/// The uuencoded files in a text. A file without `end` goes on to the next `begin`.
pub fn uuencoded(text: &Octets) -> impl Iterator<Item = io::Result<Embedded>> + use<> {
    let text = text.clone();
    let mut lines = Lines::new(text.clone());
    // The `begin` line that ended the file before it.
    let mut begin = None;
    std::iter::from_fn(move || next_uuencoded(&text, &mut lines, &mut begin).transpose())
}

fn next_uuencoded(
    text: &Octets,
    lines: &mut Lines,
    begin: &mut Option<(Range<usize>, String)>,
) -> io::Result<Option<Embedded>> {
    let (first, name) = loop {
        if let Some(begin) = begin.take() {
            break begin;
        }
        let Some((range, line)) = lines.next()? else { return Ok(None) };
        *begin = uuencode_name(line).map(|name| (range, name));
    };
    let mut range = first;
    while let Some((next, line)) = lines.next()? {
        if let Some(name) = uuencode_name(line) {
            *begin = Some((next, name));
            break;
        }
        range.end = next.end;
        if line.strip_suffix(b"\r").unwrap_or(line) == b"end" {
            break;
        }
    }
    let content = Decoder::new(text, range.clone(), Codec::Uuencode(Uuencode::default()));
    Ok(Some(Embedded { name, range, content }))
}

/// The name in `begin 644 name`.
fn uuencode_name(line: &[u8]) -> Option<String> {
    let rest = line.strip_prefix(b"begin ")?.trim_ascii_end();
    let blank = memchr::memchr(b' ', rest)?;
    let (mode, name) = rest.split_at(blank);
    let is_mode = matches!(mode.len(), 3 | 4) && mode.iter().all(|o| matches!(o, b'0'..=b'7'));
    is_mode.then(|| String::from_utf8_lossy(name.trim_ascii()).into_owned())
}

/// The contents of `data:` URIs in a text (RFC 2397): a way to carry files inside HTML. A URI ends
/// where the next one starts, so all of them together are no larger than the text.
pub fn data_uris(text: &Octets) -> impl Iterator<Item = io::Result<Embedded>> + use<> {
    let text = text.clone();
    let mut window = Window::new(text.clone());
    let mut at = after_scheme(&mut window, 0).transpose();
    std::iter::from_fn(move || {
        loop {
            let found = at.take()?.and_then(|start| {
                let next = after_scheme(&mut window, start)?;
                at = next.map(Ok);
                let end = next.map_or(text.len(), |next| next - DATA_SCHEME.len());
                let end = end_of_uri(&mut window, start, end)?;
                data_uri(&text, start..end)
            });
            if let Some(found) = found.transpose() {
                return Some(found);
            }
        }
    })
}

const DATA_SCHEME: &[u8] = b"data:";
/// Octets before the comma that are looked through.
const LONGEST_TYPE: usize = 256;

/// Where the next `data:` ends; case does not matter (RFC 3986 section 3.1).
fn after_scheme(window: &mut Window, mut at: usize) -> io::Result<Option<usize>> {
    // The scheme stands behind `at` as a whole.
    let start = at;
    loop {
        let here = window.at(at, 1)?;
        if here.is_empty() {
            return Ok(None);
        }
        let Some(colon) = memchr::memchr(b':', here) else {
            at += here.len();
            continue;
        };
        at += colon + 1;
        if let Some(from) = at.checked_sub(DATA_SCHEME.len()).filter(|from| *from >= start) {
            let scheme = window.at(from, DATA_SCHEME.len())?.get(..DATA_SCHEME.len());
            if scheme.is_some_and(|scheme| scheme.eq_ignore_ascii_case(DATA_SCHEME)) {
                return Ok(Some(at));
            }
        }
    }
}

/// Where a URI ends that starts here, at `end` at the latest.
fn end_of_uri(window: &mut Window, mut at: usize, end: usize) -> io::Result<usize> {
    while at < end {
        let here = window.at(at, 1)?;
        let here = here.get(..end - at).unwrap_or(here);
        let is_end = |octet: &u8| matches!(octet, b'"' | b'\'' | b'<' | b'>' | b')' | 0);
        if let Some(found) = here.iter().position(is_end) {
            return Ok(at + found);
        }
        if here.is_empty() {
            break;
        }
        at += here.len();
    }
    Ok(end)
}

/// The content of the URI whose octets behind the scheme are these, unless it is just text.
fn data_uri(text: &Octets, uri: Range<usize>) -> io::Result<Option<Embedded>> {
    let head = text.read(uri.start..uri.end.min(uri.start + LONGEST_TYPE))?;
    let Some(comma) = memchr::memchr(b',', &head) else { return Ok(None) };
    // Browsers pass over blanks here, but `data: 1, 2` is just text.
    let mut media_type = head.slice(..comma).to_ascii_lowercase();
    let is_empty = media_type.is_empty();
    media_type.retain(|octet| !octet.is_ascii_whitespace());
    let is_base64 = media_type.ends_with(b";base64");
    if !is_empty && !is_base64 && !media_type.contains(&b'/') {
        return Ok(None);
    }
    let codec = match is_base64 {
        true => Codec::Base64InPercent(Undecided::new(), Base64::default()),
        false => Codec::Percent(Undecided::new()),
    };
    let range = uri.start + comma + 1..uri.end;
    let content = Decoder::new(text, range.clone(), codec);
    Ok(Some(Embedded { name: String::new(), range, content }))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Found = (String, Range<usize>, Vec<u8>);

    fn collected(found: impl Iterator<Item = io::Result<Embedded>>) -> Vec<Found> {
        found
            .map(|found| {
                let Embedded { name, range, mut content } = found.unwrap();
                (name, range, content.collect(usize::MAX).unwrap())
            })
            .collect()
    }

    fn files(text: &'static str) -> Vec<Found> {
        collected(uuencoded(&text.into()))
    }

    fn uris(text: &'static str) -> Vec<Vec<u8>> {
        collected(data_uris(&text.into())).into_iter().map(|(_, _, octets)| octets).collect()
    }

    #[test]
    fn uuencoded_files_are_found_in_text() {
        let text = "hi\r\nbegin 644 a.txt\r\n.:&%R;6QE<W,@=&5X= H \r\n`\r\nend\r\nbegin the day\r\nbegin 600 b\n#86)C\n";
        let found = files(text);
        assert_eq!(found.len(), 2);
        assert_eq!((&found[0].0[..], &found[0].2[..]), ("a.txt", &b"harmless text\n"[..]));
        assert_eq!((&found[1].0[..], &found[1].2[..]), ("b", &b"abc"[..]));
        assert!(text[found[0].1.clone()].starts_with("begin 644"));
        assert!(text[found[0].1.clone()].ends_with("\nend\r\n"));
        assert_eq!(found[1].1.end, text.len());
    }

    #[test]
    fn a_file_without_an_end_hides_no_other() {
        let text = "begin 644 a\n#86)C\nbegin 644 b\n#86)C\nend\nrest";
        let found = files(text);
        assert_eq!(found.len(), 2);
        assert_eq!(&text[found[0].1.clone()], "begin 644 a\n#86)C\n");
        assert_eq!(&text[found[1].1.clone()], "begin 644 b\n#86)C\nend\n");
        assert_eq!((&found[0].2[..], &found[1].2[..]), (&b"abc"[..], &b"abc"[..]));
        assert_eq!(files("begin 644 a"), [("a".to_owned(), 0..11, Vec::new())]);
    }

    #[test]
    fn data_uris_are_found_in_html() {
        let html = "<a href=\"data:application/x;base64,aGVsbG8=\">x</a><img src='data:,a%20b'>";
        assert_eq!(uris(html), [b"hello".to_vec(), b"a b".to_vec()]);
        let text = "data: no comma here; data: 1, 2 DATA:,x data: a/b ; base64,aGk=";
        assert_eq!(uris(text), [b"x ".to_vec(), b"hi".to_vec()]);
    }

    #[test]
    fn data_uris_are_no_larger_than_the_text() {
        let text = "data:,".repeat(100_000);
        assert_eq!(data_uris(&text.into_bytes().into()).count(), 100_000);
    }

    proptest! {
        #[test]
        fn what_is_found_does_not_depend_on_where_the_text_is(
            text in proptest::collection::vec(prop_oneof![
                Just("begin 644 a\n"), Just("#86)C\n"), Just("end\n"), Just("\n"), Just("\r\n"),
                Just("data:,"), Just("dat"), Just("a:"), Just("data:;base64,"), Just("aGVs"),
                Just("%2"), Just("0"), Just("\""), Just(":"), Just("begin 644"), Just(" b"),
            ], 0..40),
            window in 1usize..30,
        ) {
            let text = Octets::from(text.concat().into_bytes());
            let stored = text.clone().in_windows(window);
            prop_assert_eq!(collected(uuencoded(&stored)), collected(uuencoded(&text)));
            prop_assert_eq!(collected(data_uris(&stored)), collected(data_uris(&text)));
        }
    }
}
