//! The body of the fuzz target `mail`; a unit test runs it over the corpus. Those of `content`, `archives` and `normalize`
//! stand beside what they are about.

use std::ops::Range;

use bytes::Bytes;

pub use crate::content::fuzzing::{archives, content};
use crate::mail::{
    Edits, Embedded, Mail, Notice, OtherPart, Part, PartKind, data_uris, header_length, uuencoded,
};
pub use crate::normalize::fuzzing::normalize;

/// The most octets that a part is decoded to here.
const LIMIT: usize = 4_096;

const NOTICE: Notice<'_> = Notice { text: "removed\nby policy", filename: Some("notice.txt") };

/// Why reading does not fail here.
const IN_MEMORY: &str = "octets in memory can be read";

/// Any octets as a mail: its parts lie within each other, decoding is bounded, any part can be
/// replaced by a notice, and what comes out reads as the same mail with that notice in it. Parts that only some clients
/// see lie within those that we see. A mail that is read window by window is no other.
///
/// # Panics
/// If that is not so.
pub fn mail(octets: &[u8]) {
    let mail = read(octets);
    let window = 1 + usize::from(octets.first().copied().unwrap_or_default()) % 64;
    let stored = Mail::new(mail.header().clone(), mail.body().clone().in_windows(window));
    check_ranges(&mail);
    assert_eq!(parts(&stored), parts(&mail));
    assert_eq!(stored.is_truncated().expect(IN_MEMORY), mail.is_truncated().expect(IN_MEMORY));
    for part in parts(&mail) {
        assert_eq!(decoded(&stored, part), decoded(&mail, part));
    }
    check_others(&mail);
    assert_eq!(others(&stored), others(&mail));
    let leaves = |(index, part): (usize, &Part)| (part.kind == PartKind::Leaf).then_some(index);
    let leaves: Vec<usize> = parts(&mail).iter().enumerate().filter_map(leaves).collect();
    let each = (0..parts(&mail).len()).map(|index| vec![index]);
    for replaced in each.chain([leaves]) {
        assert_eq!(replacement(&stored, &replaced), replacement(&mail, &replaced));
    }
}

fn read(octets: &[u8]) -> Mail {
    let (header, body) = octets.split_at(header_length(octets));
    Mail::new(Bytes::copy_from_slice(header), Bytes::copy_from_slice(body))
}

fn parts(mail: &Mail) -> &[Part] {
    mail.parts().expect(IN_MEMORY)
}

fn others(mail: &Mail) -> (&[OtherPart], Option<&'static str>) {
    let truncated = mail.others_are_truncated().expect(IN_MEMORY);
    (mail.other_parts().expect(IN_MEMORY), truncated)
}

fn check_others(mail: &Mail) {
    for OtherPart { part, .. } in others(mail).0 {
        assert_eq!((part.header.start, part.body.end), (part.whole.start, part.whole.end));
        assert_eq!(part.header.end, part.body.start);
        assert!(part.body.start <= part.body.end && part.kind == PartKind::Leaf);
        let within = part.parent.and_then(|parent| parts(mail).get(parent));
        let within = &within.expect("it lies in a part of the first reading").whole;
        assert!(within.start <= part.whole.start && part.whole.end <= within.end);
        let decoded = mail.decoded(part, LIMIT).expect(IN_MEMORY).octets;
        assert!(decoded.len() <= LIMIT);
    }
}

fn raw(mail: &Mail, range: Range<usize>) -> Bytes {
    mail.octets(range.clone()).read(0..range.len()).expect(IN_MEMORY)
}

fn check_ranges(mail: &Mail) {
    assert!(!parts(mail).is_empty(), "every mail has a part");
    for (index, part) in parts(mail).iter().enumerate() {
        assert_eq!((part.header.start, part.body.end), (part.whole.start, part.whole.end));
        assert_eq!(part.header.end, part.body.start);
        assert!(part.body.start <= part.body.end && part.body.end <= mail.len());
        let mut at = part.header.start;
        for field in &part.fields {
            assert!(at <= field.whole.start && field.whole.end <= part.header.end);
            assert!(field.whole.start == field.name.start && field.name.end < field.value.start);
            assert!(field.value.end <= field.whole.end);
            assert_eq!(field.raw_name(), raw(mail, field.name.clone()));
            assert_eq!(field.raw_value(), raw(mail, field.value.clone()));
            field.text();
            at = field.whole.end;
        }
        let Some(parent) = part.parent else {
            assert_eq!((index, part.whole.clone()), (0, 0..mail.len()));
            continue;
        };
        assert!(parent < index, "outer parts stand before inner ones");
        let parent = parts(mail).get(parent).expect("the parent stands before");
        assert_eq!(part.depth, parent.depth + 1);
        assert!(parent.body.start <= part.whole.start && part.whole.end <= parent.body.end);
    }
}

/// Name, place and octets of a file in a text.
type InText = (String, Range<usize>, Vec<u8>);

/// All ways to read a part, each of which is bounded.
fn decoded(mail: &Mail, part: &Part) -> (Bytes, String, Vec<InText>) {
    let octets = mail.decoded(part, LIMIT).expect(IN_MEMORY).octets;
    assert!(octets.len() <= LIMIT);
    // A replaced octet takes three in UTF-8.
    let text = mail.text(part, LIMIT).expect(IN_MEMORY);
    assert!(text.len() <= 3 * LIMIT);
    let body = mail.octets(part.body.clone());
    let read = |file: std::io::Result<Embedded>| {
        let Embedded { name, range, mut content } = file.expect(IN_MEMORY);
        (name, range, content.collect(usize::MAX).expect(IN_MEMORY))
    };
    let mut files: Vec<_> = uuencoded(&body).map(read).collect();
    // A line of one octet may stand for 63.
    assert!(files.iter().map(|(_, _, octets)| octets.len()).sum::<usize>() <= 63 * body.len());
    let uris: Vec<_> = data_uris(&body).map(read).collect();
    assert!(uris.iter().map(|(_, _, octets)| octets.len()).sum::<usize>() <= body.len());
    files.extend(uris);
    (octets, text, files)
}

/// Replaces these parts, none of which holds another one.
fn replacement(mail: &Mail, replaced: &[usize]) -> Vec<u8> {
    let mut edits = Edits::new();
    for (index, part) in parts(mail).iter().enumerate() {
        if replaced.contains(&index) {
            edits.replace_part(mail, part, NOTICE).expect(IN_MEMORY);
        }
    }
    let edited = mail.edited(&edits).expect("no two of the edits overlap");
    let octets = raw(&edited, 0..edited.header().len()).to_vec();
    let octets = [octets, raw(&edited, edited.header().len()..edited.len()).to_vec()].concat();
    let expected = outline(mail, replaced);
    assert_eq!(outline(&read(&octets), &[]), expected, "as the recipient sees it");
    // Where the header section lacked its end, the missing line ends went to the body.
    if header_length(&octets) == edited.header().len() {
        assert_eq!(outline(&edited, &[]), expected, "as the next service sees it");
    }
    octets
}

/// Depth and type of each part, and what is in it if nothing else is; of replaced parts, what
/// stands there afterwards.
fn outline(mail: &Mail, replaced: &[usize]) -> Vec<(usize, String, Vec<u8>)> {
    let mut outline = Vec::new();
    let mut hidden = vec![false; parts(mail).len()];
    for (index, part) in parts(mail).iter().enumerate() {
        let around = part.parent.and_then(|parent| hidden.get(parent)).copied().unwrap_or(false);
        let is_replaced = replaced.contains(&index);
        if let Some(slot) = hidden.get_mut(index) {
            *slot = around || is_replaced;
        }
        if around {
            continue;
        }
        let (essence, body) = match (is_replaced, part.kind) {
            (true, _) => ("text/plain", NOTICE.text.as_bytes().to_vec()),
            (false, PartKind::Leaf) => {
                (part.content_type.essence.as_str(), raw(mail, part.body.clone()).to_vec())
            }
            (false, _) => (part.content_type.essence.as_str(), Vec::new()),
        };
        let text = without_line_ends(&body);
        let is_notice = text.starts_with(b"removed");
        let body = if is_notice { text } else { body };
        outline.push((part.depth, essence.to_owned(), body));
    }
    outline
}

/// A notice's line ends are those of the message, and the last one of the message is nobody's; where
/// the header section ended in a bare CR, an empty line more stands before the notice.
fn without_line_ends(octets: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(octets).replace("\r\n", "\n");
    text.trim_matches('\n').as_bytes().to_vec()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    #[test]
    fn the_corpus_holds() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/corpus/mail");
        let mut files = 0;
        for entry in std::fs::read_dir(folder).unwrap() {
            super::mail(&std::fs::read(entry.unwrap().path()).unwrap());
            files += 1;
        }
        assert!(files >= 8, "{files} seeds");
    }

    proptest! {
        #[test]
        fn any_octets_hold(octets in proptest::collection::vec(any::<u8>(), 0..300)) {
            super::mail(&octets);
        }

        #[test]
        fn near_grammar_holds(pieces in proptest::collection::vec(prop_oneof![
            Just("Content-Type: multipart/mixed; boundary=b"), Just("\n"), Just("\r\n"),
            Just("--b"), Just("--b\n"), Just("--b--"), Just("--c\r\n"), Just("--"), Just(" "),
            Just("Content-Type: multipart/digest;\r\n\tboundary=\"c\"\r\n"),
            Just("Content-Type: message/rfc822\n"), Just("Content-Type: text/html\r\n"),
            Just("Content-Transfer-Encoding: base64\r\n"), Just("Content-Disposition: attachment"),
            Just("text"), Just("\0\r"), Just("begin 644 a\n"), Just("data:,"), Just("A: b\r\n"),
            Just("Content-Type: multipart/mixed; boundary=c; boundary=b\r\n"), Just("--bb\r"), Just("\r"),
        ], 0..40)) {
            super::mail(pieces.concat().as_bytes());
        }
    }
}
