//! The body of the fuzz target `mail`; a unit test runs it over the corpus.

use bytes::Bytes;

use crate::mail::{Edits, Mail, Notice, Part, PartKind, data_uris, header_length, uuencoded};

/// The most octets that a part is decoded to here.
const LIMIT: usize = 4_096;

const NOTICE: Notice<'_> = Notice { text: "removed\nby policy", filename: Some("notice.txt") };

/// Any octets as a mail: its parts lie within each other, decoding is bounded, any part can be
/// replaced by a notice, and what comes out reads as the same mail with that notice in it.
///
/// # Panics
/// If that is not so.
pub fn mail(octets: &[u8]) {
    let mail = read(octets);
    check_ranges(&mail);
    for part in mail.parts() {
        check_decoding(&mail, part);
    }
    for index in 0..mail.parts().len() {
        check_replacement(&mail, &[index]);
    }
    let leaves: Vec<usize> = (0..mail.parts().len())
        .filter(|index| mail.parts().get(*index).is_some_and(|part| part.kind == PartKind::Leaf))
        .collect();
    check_replacement(&mail, &leaves);
}

fn read(octets: &[u8]) -> Mail {
    let (header, body) = octets.split_at(header_length(octets));
    Mail::new(Bytes::copy_from_slice(header), Bytes::copy_from_slice(body))
}

fn check_ranges(mail: &Mail) {
    assert!(!mail.parts().is_empty(), "every mail has a part");
    for (index, part) in mail.parts().iter().enumerate() {
        assert_eq!((part.header.start, part.body.end), (part.whole.start, part.whole.end));
        assert_eq!(part.header.end, part.body.start);
        assert!(part.body.start <= part.body.end && part.body.end <= mail.len());
        let mut at = part.header.start;
        for field in &part.fields {
            assert!(at <= field.whole.start && field.whole.end <= part.header.end);
            assert!(field.whole.start == field.name.start && field.name.end < field.value.start);
            assert!(field.value.end <= field.whole.end);
            at = field.whole.end;
        }
        let Some(parent) = part.parent else {
            assert_eq!((index, part.whole.clone()), (0, 0..mail.len()));
            continue;
        };
        assert!(parent < index, "outer parts stand before inner ones");
        let parent = mail.parts().get(parent).expect("the parent stands before");
        assert_eq!(part.depth, parent.depth + 1);
        assert!(parent.body.start <= part.whole.start && part.whole.end <= parent.body.end);
    }
}

fn check_decoding(mail: &Mail, part: &Part) {
    let decoded = mail.decoded(part, LIMIT);
    assert!(decoded.octets.len() <= LIMIT);
    // A replaced octet takes three in UTF-8.
    assert!(mail.text(part, LIMIT).len() <= 3 * LIMIT);
    let raw = mail.raw(part.body.clone());
    let files: usize = uuencoded(raw).map(|file| file.octets.len()).sum();
    // A line of one octet may stand for 63.
    assert!(files <= 63 * raw.len());
    let embedded: usize = data_uris(raw).map(|octets| octets.len()).sum();
    assert!(embedded <= raw.len());
    for field in &part.fields {
        field.text(mail);
    }
}

/// Replaces these parts, none of which holds another one.
fn check_replacement(mail: &Mail, replaced: &[usize]) {
    let mut edits = Edits::new();
    for (index, part) in mail.parts().iter().enumerate() {
        if replaced.contains(&index) {
            edits.replace_part(mail, part, NOTICE);
        }
    }
    let edited = mail.edited(&edits).expect("no two of the edits overlap");
    let octets = [&edited.header()[..], &edited.body()[..]].concat();
    let expected = outline(mail, replaced);
    assert_eq!(outline(&read(&octets), &[]), expected, "as the recipient sees it");
    // Where the header section lacked its end, the missing line ends went to the body.
    if header_length(&octets) == edited.header().len() {
        assert_eq!(outline(&edited, &[]), expected, "as the next service sees it");
    }
}

/// Depth and type of each part, and what is in it if nothing else is; of replaced parts, what
/// stands there afterwards.
fn outline(mail: &Mail, replaced: &[usize]) -> Vec<(usize, String, Vec<u8>)> {
    let mut outline = Vec::new();
    let mut hidden = vec![false; mail.parts().len()];
    for (index, part) in mail.parts().iter().enumerate() {
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
                (part.content_type.essence.as_str(), mail.raw(part.body.clone()).to_vec())
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
        ], 0..40)) {
            super::mail(pieces.concat().as_bytes());
        }
    }
}
