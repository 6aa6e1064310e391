//! The parts of a message (RFC 2045, RFC 2046), as ranges.

use std::io;
use std::ops::Range;

use bytes::Bytes;

use super::decode::Transfer;
use super::delimiters::between_delimiters;
use super::field::{Field, MOST_FIELDS, fields, unfold};
use super::octets::Octets;
use super::parameters::{ContentType, MOST_NAMES, collect_names};
use super::version::{Mail, header_end};

/// The deepest nesting that is looked into.
pub(super) const DEEPEST: usize = 64;
/// The most parts that are looked at. Worst case: 4,096 × about 500 octets.
pub(super) const MOST_PARTS: usize = 4_096;
/// The longest header section of a part inside the message.
pub(super) const LONGEST_HEADER: usize = 1024 * 1024;
/// The most octets in the header sections of all parts inside the message: they are kept in memory.
pub(super) const MOST_HEADER_OCTETS: usize = 8 * 1024 * 1024;
/// The most fields in these. Worst case: 100,000 × 80 octets.
pub(super) const MOST_FIELDS_IN_ALL: usize = 100_000;
/// The longest value of a structured field that is parsed.
pub(super) const LONGEST_VALUE: usize = 16 * 1024;

/// A part of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// The part around this one; `None` for the message itself.
    pub parent: Option<usize>,
    /// How many parts are around this one.
    pub depth: usize,
    /// Its header section, with the empty line that ends it.
    pub header: Range<usize>,
    /// Its body, without the line end that belongs to the delimiter behind it.
    pub body: Range<usize>,
    /// Header and body.
    pub whole: Range<usize>,
    /// The fields of its header section.
    pub fields: Vec<Field>,
    /// Its declared type.
    pub content_type: ContentType,
    /// Lower-case disposition, such as `attachment`.
    pub disposition: Option<String>,
    /// Every file name that some client might see.
    pub names: Vec<String>,
    /// How its body is encoded.
    pub transfer: Transfer,
    /// What is in it.
    pub kind: PartKind,
}

/// What is in a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PartKind {
    /// Content.
    Leaf,
    /// Parts between delimiters.
    Multipart,
    /// One message, neither encoded nor empty; it is the next part.
    Message,
}

/// The parts of a message.
#[derive(Debug, Default)]
pub(super) struct Structure {
    pub(super) parts: Vec<Part>,
    pub(super) truncated: Option<&'static str>,
}

/// A part that is still to be looked at.
pub(super) struct Pending {
    pub(super) parent: Option<usize>,
    pub(super) depth: usize,
    pub(super) whole: Range<usize>,
    /// Its type, if it declares none.
    pub(super) assumed: &'static str,
}

/// Finds the parts. Inner parts are looked for only between the delimiters of outer ones, so each
/// level of nesting costs one search over its octets.
pub(super) fn scan(mail: &Mail) -> io::Result<Structure> {
    let mut structure = Structure::default();
    let (mut header_octets, mut fields) = (0, 0);
    let whole = 0..mail.len();
    let mut pending = vec![Pending { parent: None, depth: 0, whole, assumed: "text/plain" }];
    while let Some(next) = pending.pop() {
        if structure.parts.len() >= MOST_PARTS {
            structure.truncated = Some("more than 4,096 parts");
            break;
        }
        let index = structure.parts.len();
        let part = read_part(mail, next)?;
        structure.truncated = structure.truncated.or(cut_short(&part));
        if part.parent.is_some() {
            header_octets += part.header.len();
            fields += part.fields.len();
            if header_octets > MOST_HEADER_OCTETS || fields > MOST_FIELDS_IN_ALL {
                structure.truncated = Some("header sections of parts that are too large together");
                break;
            }
        }
        let inner = inner_parts(mail, &part, index)?;
        if !inner.is_empty() && part.depth + 1 >= DEEPEST {
            structure.truncated = Some("parts nested more than 64 deep");
        } else if inner.len() > MOST_PARTS {
            structure.truncated = Some("more than 4,096 parts");
        } else {
            pending.extend(inner.into_iter().rev());
        }
        structure.parts.push(part);
    }
    Ok(structure)
}

fn read_part(mail: &Mail, pending: Pending) -> io::Result<Part> {
    let (fields, header_end) = match pending.parent {
        None => (mail.fields().to_vec(), mail.header().len()),
        Some(_) => {
            let (header, _) = header_of(&mail.octets(pending.whole.clone()))?;
            (fields(&header, pending.whole.start), pending.whole.start + header.len())
        }
    };
    let types = declared_types(&fields);
    let content_type = types.first().filter(|parsed| parsed.essence.contains('/')).cloned();
    let content_type = content_type.unwrap_or_else(|| ContentType::assumed(pending.assumed));
    Ok(Part::new(pending, fields, header_end, content_type, &types))
}

/// The types that the fields of a part declare, in order.
pub(super) fn declared_types(fields: &[Field]) -> Vec<ContentType> {
    values(fields, "Content-Type").map(ContentType::parse).collect()
}

/// The values of the fields of this name, cut.
pub(super) fn values<'f>(
    fields: &'f [Field],
    name: &'static str,
) -> impl Iterator<Item = &'f [u8]> {
    fields.iter().filter(move |field| field.is_named(name)).map(|field| {
        let value = field.raw_value();
        value.get(..LONGEST_VALUE).unwrap_or(value)
    })
}

impl Part {
    /// A part of this type, which is one of those that its fields declare, or an assumed one.
    pub(super) fn new(
        pending: Pending,
        fields: Vec<Field>,
        header_end: usize,
        content_type: ContentType,
        types: &[ContentType],
    ) -> Self {
        let Pending { parent, depth, whole, .. } = pending;
        let mut names = Vec::new();
        for (value, parsed) in values(&fields, "Content-Type").zip(types) {
            collect_names(value, parsed, "name", &mut names);
        }
        let mut disposition = None;
        for value in values(&fields, "Content-Disposition") {
            let parsed = ContentType::parse(value);
            collect_names(value, &parsed, "filename", &mut names);
            disposition.get_or_insert(parsed.essence);
        }
        let transfer = values(&fields, "Content-Transfer-Encoding").next();
        let transfer = transfer.map_or(Transfer::Identity, |value| {
            Transfer::from_name(&String::from_utf8_lossy(&unfold(value)))
        });
        let kind = match content_type.essence.as_str() {
            essence if essence.starts_with("multipart/") && content_type.boundary().is_some() => {
                PartKind::Multipart
            }
            "message/rfc822" | "message/global"
                if transfer == Transfer::Identity && header_end < whole.end =>
            {
                PartKind::Message
            }
            _ => PartKind::Leaf,
        };
        Self {
            parent,
            depth,
            header: whole.start..header_end,
            body: header_end..whole.end,
            whole,
            fields,
            content_type,
            disposition,
            names,
            transfer,
            kind,
        }
    }
}

/// The header section at the start of a part or message: up to the first empty line, all octets if
/// there is none, and never more than the bound; and whether that cut it.
pub(crate) fn header_of(message: &Octets) -> io::Result<(Bytes, bool)> {
    /// Most header sections are shorter.
    const FIRST: usize = 16 * 1024;
    let is_in_memory = message.in_memory().is_some();
    let mut length = if is_in_memory { LONGEST_HEADER } else { FIRST };
    loop {
        let octets = message.read(0..length)?;
        if let Some(end) = header_end(&octets) {
            let header = octets.slice(..end);
            // A copy of its own does not keep all that was read.
            let header = if is_in_memory { header } else { Bytes::copy_from_slice(&header) };
            return Ok((header, false));
        }
        if octets.len() == message.len() || length == LONGEST_HEADER {
            let is_cut = octets.len() < message.len();
            return Ok((octets, is_cut));
        }
        length = (8 * length).min(LONGEST_HEADER);
    }
}

/// Which bound on a part's own fields cut the view of it short: what a boundary, a type or a name
/// behind it says, some client will heed.
fn cut_short(part: &Part) -> Option<&'static str> {
    let structured = ["Content-Type", "Content-Disposition", "Content-Transfer-Encoding"];
    let is_cut = |field: &Field| {
        field.value.len() > LONGEST_VALUE && structured.iter().any(|name| field.is_named(name))
    };
    if part.parent.is_some() && part.header.len() >= LONGEST_HEADER {
        Some("1,048,576 or more octets in the header section of a part")
    } else if part.fields.len() >= MOST_FIELDS {
        Some("10,000 or more fields in a header section")
    } else if part.fields.iter().any(is_cut) {
        Some("a content field of more than 16,384 octets")
    } else if part.names.len() >= MOST_NAMES {
        Some("256 or more file names for a part")
    } else {
        None
    }
}

fn inner_parts(mail: &Mail, part: &Part, index: usize) -> io::Result<Vec<Pending>> {
    let pending =
        |whole, assumed| Pending { parent: Some(index), depth: part.depth + 1, whole, assumed };
    Ok(match (part.kind, part.content_type.boundary()) {
        (PartKind::Message, _) => vec![pending(part.body.clone(), "text/plain")],
        (PartKind::Multipart, Some(boundary)) => {
            let assumed = assumed_inside(&part.content_type);
            let body = mail.octets(part.body.clone());
            between_delimiters(body, boundary.as_bytes(), MOST_PARTS)?
                .into_iter()
                .map(|range| {
                    let base = part.body.start;
                    pending(base + range.start..base + range.end, assumed)
                })
                .collect()
        }
        _ => Vec::new(),
    })
}

/// The type of a part of a multipart that declares none (RFC 2046 section 5.1.5).
pub(super) fn assumed_inside(multipart: &ContentType) -> &'static str {
    if multipart.essence == "multipart/digest" { "message/rfc822" } else { "text/plain" }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::mail::header_length;

    fn mail(text: &str) -> Mail {
        let octets = bytes::Bytes::from(text.to_owned());
        let header = header_length(&octets);
        Mail::new(octets.slice(..header), octets.slice(header..))
    }

    fn bodies(mail: &Mail) -> Vec<(usize, String, String)> {
        mail.parts()
            .unwrap()
            .iter()
            .map(|part| {
                let body = mail.octets(part.body.clone()).read(0..mail.len()).unwrap();
                let body = String::from_utf8_lossy(&body).into_owned();
                (part.depth, part.content_type.essence.clone(), body)
            })
            .collect()
    }

    #[test]
    fn a_nested_message_with_a_missing_end() {
        let text = "Content-Type: multipart/mixed;\r\n\tboundary=\"b 1\"\r\n\r\npreamble\r\n--b 1 \r\n\r\none\r\n--b 1\r\n\
            Content-Type: message/rfc822\r\n\r\nContent-Type: multipart/digest; boundary=b\r\n\r\n--b\r\n\r\nSubject: x\r\n\r\ntwo\r\n--b--\r\n--b 1\r\nContent-Type: text/html\r\n\r\nlast";
        let mail = mail(text);
        let found = bodies(&mail);
        let shown: Vec<_> = found.iter().map(|(d, t, b)| (*d, t.as_str(), b.as_str())).collect();
        assert_eq!(shown[1], (1, "text/plain", "one"));
        assert_eq!(shown[2].1, "message/rfc822");
        assert_eq!((shown[3].0, shown[3].1), (2, "multipart/digest"));
        assert_eq!((shown[4].0, shown[4].1), (3, "message/rfc822"));
        assert_eq!(shown[5], (4, "text/plain", "two"));
        assert_eq!(shown[6], (1, "text/html", "last"));
        assert_eq!(mail.is_truncated().unwrap(), None);
    }

    #[test]
    fn every_name_is_collected() {
        let mail = mail(
            "Content-Type: application/x; name=\"=?utf-8?Q?a=2Eexe?=\"\n\
             Content-Disposition: attachment; filename*0*=utf-8''b%2E; filename*1=scr\n\n",
        );
        let names = &mail.parts().unwrap()[0].names;
        assert!(names.iter().any(|name| name == "a.exe"), "{names:?}");
        assert!(names.iter().any(|name| name == "b.scr"), "{names:?}");
    }

    #[test]
    fn nesting_is_bounded() {
        let mut text = String::new();
        for level in 0..100 {
            text.push_str(&format!(
                "Content-Type: multipart/mixed; boundary=b{level}x\n\n--b{level}x\n"
            ));
        }
        let mail = mail(&text);
        assert_eq!(mail.is_truncated().unwrap(), Some("parts nested more than 64 deep"));
        assert_eq!(mail.parts().unwrap().len(), 64);
    }

    #[test]
    fn what_hides_behind_a_bound_is_not_passed_over_in_silence() {
        let truncated = |text: String| mail(&text).is_truncated().unwrap();
        let filler = " ".repeat(LONGEST_VALUE);
        let hidden = format!("Content-Type: multipart/mixed;{filler}boundary=b\n\n--b\n\nx\n");
        assert_eq!(truncated(hidden), Some("a content field of more than 16,384 octets"));
        let late = format!("{}Content-Type: multipart/x; boundary=b\n\n", "A: b\n".repeat(10_000));
        assert_eq!(truncated(late), Some("10,000 or more fields in a header section"));
        let names: String = (0..256).map(|n| format!(" name=a{n};")).collect();
        let many = format!("Content-Type: text/plain;{names}\n\n");
        assert_eq!(truncated(many), Some("256 or more file names for a part"));
        let inner = |text: String| format!("Content-Type: multipart/x; boundary=b\n\n--b\n{text}");
        let many = inner("A: b\n".repeat(10_000));
        assert_eq!(truncated(many), Some("10,000 or more fields in a header section"));
        let long = inner("a\n".repeat(LONGEST_HEADER / 2 + 1));
        let expected = "1,048,576 or more octets in the header section of a part";
        assert_eq!(truncated(long), Some(expected));
        let many = inner(format!("{}\nx\n--b\n", "A: b\n".repeat(9_999)).repeat(11));
        assert_eq!(truncated(many), Some("header sections of parts that are too large together"));
        assert_eq!(truncated(format!("A: {filler}b\nContent-Type: text/plain\n\n")), None);
    }

    proptest! {
        #[test]
        fn parts_nest(pieces in proptest::collection::vec(prop_oneof![
            Just("Content-Type: multipart/mixed; boundary=b\n"), Just("\n"), Just("\r\n"), Just("--b\n"),
            Just("--b--\n"), Just("--c\r\n"), Just("Content-Type: multipart/x; boundary=\"c\"\r\n"),
            Just("Content-Type: message/rfc822\n"), Just("text"), Just("\0\r"), Just("--b \t-- \n"),
            Just("--b-\n"), Just("--b- -\n"),
        ], 0..40), window in 1usize..40) {
            let mail = mail(&pieces.concat());
            for part in mail.parts().unwrap() {
                prop_assert!(part.header.start == part.whole.start && part.body.end == part.whole.end);
                prop_assert!(part.header.end == part.body.start && part.body.end <= mail.len());
                if let Some(parent) = part.parent.map(|parent| &mail.parts().unwrap()[parent]) {
                    prop_assert!(parent.body.start <= part.whole.start);
                    prop_assert!(part.whole.end <= parent.body.end);
                }
            }
            let stored = Mail::new(mail.header().clone(), mail.body().clone().in_windows(window));
            prop_assert_eq!(stored.parts().unwrap(), mail.parts().unwrap());
        }
    }
}
