//! Parts that only some clients see.
//!
//! Where a message breaks the rules of MIME, clients disagree about what is in it. [`Mail::parts`] is what most of
//! them see: the first of several fields and parameters counts, lines end in LF with or without CR, and a delimiter
//! stands alone on its line. Here are the parts of all other readings, whatever combination of them a client
//! follows: each part that is found is read in every way again.
//!
//! - several `Content-Type` fields, and several boundaries in one, in every spelling; a `multipart` without a boundary
//! - a bare CR or a bare LF in a header section; a line there that is no field or has nothing but blanks
//! - delimiters behind a bare CR, or with something behind them; parts behind the last delimiter
//! - text before the first delimiter and behind the last one
//! - a `multipart` that says that it is encoded, or has no parts at all
//!
//! How a leaf's own octets are decoded is another matter: see [`Transfer`](super::Transfer).

use std::collections::HashSet;
use std::io;
use std::ops::Range;

use bytes::Bytes;
use memchr::memmem::Finder;

use super::decode::Transfer;
use super::delimiters::{Delimiter, Delimiters};
use super::field::{Field, LineEnd, fields, unfold};
use super::other_headers::{OtherHeader, other_headers};
use super::parameters::{ContentType, written};
use super::structure::{
    DEEPEST, LONGEST_HEADER, MOST_FIELDS_IN_ALL, MOST_HEADER_OCTETS, MOST_PARTS, Part, PartKind,
    Pending, Structure, assumed_inside, declared_types, header_of, values,
};
use super::version::Mail;
use super::window::Window;

/// The most octets that are searched for delimiters, as a multiple of the message, and beyond that: each level of
/// nesting and each boundary costs its octets once.
const MOST_SEARCHED: usize = 12;
const SEARCHED_ANYWAY: usize = 16 * 1024 * 1024;
/// The most `Content-Type` fields of a part, and boundaries of one of its readings.
const MOST_TYPES: usize = 8;
const MOST_BOUNDARIES: usize = 16;
/// The longest line that is taken for a delimiter where no boundary is declared.
const LONGEST_DELIMITER: usize = 256;

/// A part in another reading of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OtherPart {
    /// The part. Its parent is the one of [`Mail::parts`] that it lies in.
    pub part: Part,
    /// What is odd about the message there, for people.
    pub oddity: &'static str,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct OtherParts {
    pub(super) parts: Vec<OtherPart>,
    pub(super) truncated: Option<&'static str>,
}

/// Octets that may be a part.
struct Candidate {
    whole: Range<usize>,
    depth: usize,
    assumed: &'static str,
    /// Whether there is no header section: text outside of the parts.
    is_bare: bool,
    oddity: &'static str,
}

/// How a candidate's octets are divided, and what they declare.
struct Head {
    end: usize,
    fields: Vec<Field>,
    oddity: &'static str,
}

/// A stretch of a body that some clients take for a part.
struct Stretch {
    range: Range<usize>,
    is_bare: bool,
    oddity: &'static str,
}

struct Search<'m> {
    mail: &'m Mail,
    known: &'m [Part],
    /// What has been a candidate, as whole and assumed type.
    seen: HashSet<(usize, usize, bool, &'static str)>,
    /// Which [leaves](leaf) there are.
    leaves: HashSet<(usize, usize, String)>,
    pending: Vec<Candidate>,
    found: OtherParts,
    header_octets: usize,
    fields: usize,
    /// Octets that may still be searched.
    left: usize,
    /// Whether a line ends in CR and LF.
    has_both: bool,
}

/// Finds the parts of all readings but the first.
pub(super) fn search(mail: &Mail, structure: &Structure) -> io::Result<OtherParts> {
    let known = &structure.parts;
    let left = mail.len().saturating_mul(MOST_SEARCHED).saturating_add(SEARCHED_ANYWAY);
    let mut search = Search {
        mail,
        known,
        seen: HashSet::new(),
        leaves: HashSet::new(),
        pending: Vec::new(),
        found: OtherParts::default(),
        header_octets: 0,
        fields: 0,
        left,
        has_both: has_both(mail)?,
    };
    for part in known {
        let assumed = part.parent.and_then(|parent| known.get(parent));
        let assumed = assumed.map_or("text/plain", |parent| match parent.kind {
            PartKind::Multipart => assumed_inside(&parent.content_type),
            _ => "text/plain",
        });
        search.seen.insert((part.whole.start, part.whole.end, false, assumed));
        search.leaves.insert(leaf(part));
    }
    for part in known {
        search.known(part)?;
    }
    while let Some(candidate) = search.pending.pop() {
        search.candidate(candidate)?;
    }
    Ok(search.found)
}

/// Whether a line of the message ends in CR and LF; most of the time the first one tells.
fn has_both(mail: &Mail) -> io::Result<bool> {
    let both = Finder::new("\r\n");
    Ok(both.find(mail.header()).is_some()
        || Window::new(mail.body().clone()).find(&both, 0)?.is_some())
}

/// What a client makes of a leaf: its body, and what is declared of that.
fn leaf(part: &Part) -> (usize, usize, String) {
    let encodings = values(&part.fields, "Content-Transfer-Encoding").map(String::from_utf8_lossy);
    let names = part.names.iter().map(|name| name.as_str().into());
    let declared = [part.content_type.essence.as_str().into()].into_iter().chain(encodings);
    let declared: Vec<_> = declared.chain(names).collect();
    (part.body.start, part.body.end, declared.join("\0"))
}

impl Search<'_> {
    /// What else may be in a part of the first reading.
    fn known(&mut self, part: &Part) -> io::Result<()> {
        let header = self.mail.octets(part.header.clone()).read(0..part.header.len())?;
        for head in self.other_heads(part.whole.clone(), &header)? {
            let candidate = Candidate {
                whole: part.whole.clone(),
                depth: part.depth,
                assumed: "text/plain",
                is_bare: false,
                oddity: head.oddity,
            };
            self.read(&candidate, head)?;
        }
        let types = declared_types(&part.fields);
        self.types(part, &types, "a boundary that can be read in several ways")?;
        self.encoded(part);
        Ok(())
    }

    /// A multipart that some field says to be encoded: for some clients a leaf that has to be decoded first.
    fn encoded(&mut self, part: &Part) {
        let encodings = values(&part.fields, "Content-Transfer-Encoding");
        let mut encodings =
            encodings.map(|value| Transfer::from_name(&String::from_utf8_lossy(&unfold(value))));
        if part.kind == PartKind::Multipart && !encodings.all(|encoding| encoding.is_identity()) {
            self.add(Part { kind: PartKind::Leaf, ..part.clone() }, "an encoded multipart");
        }
    }

    /// What may be in octets that are no part of the first reading.
    fn candidate(&mut self, candidate: Candidate) -> io::Result<()> {
        if candidate.depth >= DEEPEST {
            self.found.truncated = Some("parts nested more than 64 deep");
            return Ok(());
        }
        let start = candidate.whole.start;
        if candidate.is_bare {
            let head = Head { end: start, fields: Vec::new(), oddity: candidate.oddity };
            return self.read(&candidate, head);
        }
        let whole = self.mail.octets(candidate.whole.clone());
        let (header, is_cut) = header_of(&whole)?;
        if is_cut {
            self.found.truncated = Some("1,048,576 or more octets in the header section of a part");
        }
        let head = Head {
            end: start + header.len(),
            fields: fields(&header, start),
            oddity: candidate.oddity,
        };
        let others = self.other_heads(candidate.whole.clone(), &header)?;
        self.read(&candidate, head)?;
        for head in others {
            self.read(&candidate, head)?;
        }
        Ok(())
    }

    /// The other ways to read a header section.
    fn other_heads(&mut self, whole: Range<usize>, header: &Bytes) -> io::Result<Vec<Head>> {
        let start = whole.start;
        let longer = || {
            let is_longer = self.has_both && self.may_search(whole.len().min(LONGEST_HEADER));
            is_longer.then(|| self.mail.octets(whole).read(0..LONGEST_HEADER)).transpose()
        };
        let others = other_headers(header, start, longer)?;
        let head =
            |OtherHeader { length, fields, oddity }| Head { end: start + length, fields, oddity };
        Ok(others.into_iter().map(head).collect())
    }

    /// Whether so many octets may still be searched.
    fn may_search(&mut self, octets: usize) -> bool {
        let left = self.left.checked_sub(octets);
        if left.is_none() {
            self.found.truncated = Some("too many ways to read it");
            self.pending.clear();
        }
        self.left = left.unwrap_or(self.left);
        left.is_some()
    }

    /// Reads a candidate with this header section, by the first of its types and by all others.
    fn read(&mut self, candidate: &Candidate, head: Head) -> io::Result<()> {
        self.header_octets += head.end - candidate.whole.start;
        self.fields += head.fields.len();
        if self.header_octets > MOST_HEADER_OCTETS || self.fields > MOST_FIELDS_IN_ALL {
            self.found.truncated = Some("header sections of parts that are too large together");
            self.pending.clear();
            return Ok(());
        }
        let types = declared_types(&head.fields);
        let content_type = types.first().filter(|parsed| parsed.essence.contains('/')).cloned();
        let content_type = content_type.unwrap_or_else(|| ContentType::assumed(candidate.assumed));
        let pending = Pending {
            parent: Some(self.around(&candidate.whole)),
            depth: candidate.depth,
            whole: candidate.whole.clone(),
            assumed: candidate.assumed,
        };
        let part = Part::new(pending, head.fields, head.end, content_type, &types);
        match part.kind {
            PartKind::Leaf => self.add(part.clone(), head.oddity),
            PartKind::Message => self.push(&part, part.body.clone(), "text/plain", head.oddity),
            PartKind::Multipart => self.encoded(&part),
        }
        self.types(&part, &types, head.oddity)
    }

    /// Reads a part by all types that its fields may declare, of which the first reading has one at the most.
    fn types(
        &mut self,
        part: &Part,
        types: &[ContentType],
        first_oddity: &'static str,
    ) -> io::Result<()> {
        if types.len() > MOST_TYPES {
            self.found.truncated = Some("more than 8 Content-Type fields");
        }
        let fields = part.fields.clone();
        let mut boundaries: Vec<(Vec<u8>, &'static str)> = Vec::new();
        let mut is_multipart = part.content_type.essence.starts_with("multipart/");
        let declared = values(&fields, "Content-Type").zip(types).take(MOST_TYPES);
        for (nth, (value, parsed)) in declared.enumerate() {
            let oddity = match nth {
                0 => first_oddity,
                _ => "more than one Content-Type field",
            };
            let lower = value.to_ascii_lowercase();
            let says = |essence: &str| memchr::memmem::find(&lower, essence.as_bytes()).is_some();
            is_multipart |= says("multipart/");
            let parsed_boundary = parsed.boundary().map(|boundary| boundary.as_bytes().to_vec());
            for boundary in parsed_boundary.into_iter().chain(written(value, "boundary")) {
                for boundary in [boundary.trim_ascii_end(), boundary.trim_ascii()] {
                    let is_new = !boundaries.iter().any(|(known, _)| known == boundary);
                    if is_new && !boundary.is_empty() {
                        boundaries.push((boundary.to_vec(), oddity));
                    }
                }
            }
            let is_message = says("message/rfc822") || says("message/global");
            // One that is encoded has to be decoded first.
            if is_message && part.kind != PartKind::Message && part.transfer.is_identity() {
                self.push(part, part.body.clone(), "text/plain", oddity);
            }
            let is_other = nth > 0 && parsed.essence.contains('/');
            if is_other && !parsed.essence.starts_with("multipart/") {
                let content_type = parsed.clone();
                let other = Part { kind: PartKind::Leaf, content_type, ..part.clone() };
                self.add(other, "more than one Content-Type field");
            }
        }
        if !is_multipart {
            return Ok(());
        }
        if boundaries.is_empty()
            && let Some(boundary) = self.guessed(part)?
        {
            boundaries.push((boundary, "a multipart without a boundary"));
        }
        if boundaries.len() > MOST_BOUNDARIES {
            self.found.truncated = Some("more than 16 boundaries for a part");
        }
        for (boundary, oddity) in boundaries.into_iter().take(MOST_BOUNDARIES) {
            self.multipart(part, &boundary, oddity)?;
        }
        Ok(())
    }

    /// The stretches between delimiters of a boundary, in every way.
    fn multipart(&mut self, part: &Part, boundary: &[u8], oddity: &'static str) -> io::Result<()> {
        if !self.may_search(part.body.len()) {
            return Ok(());
        }
        let body = self.mail.octets(part.body.clone());
        let mut delimiters = Delimiters::new(body, boundary);
        let mut all = Vec::new();
        while let Some(delimiter) = delimiters.next()? {
            if all.len() > 2 * MOST_PARTS {
                self.found.truncated = Some("more than 4,096 parts");
                break;
            }
            all.push(delimiter);
        }
        let assumed = assumed_inside(&part.content_type);
        for stretch in stretches(&mut delimiters, &all, oddity)? {
            let Stretch { range, is_bare, oddity } = stretch;
            let range = part.body.start + range.start..part.body.start + range.end;
            if !is_bare {
                self.push(part, range, assumed, oddity);
            } else if !self.is_blank(&range)? {
                self.push_bare(part, range, oddity);
            }
        }
        Ok(())
    }

    /// The boundary of the first line that looks like a delimiter, if none is declared.
    fn guessed(&self, part: &Part) -> io::Result<Option<Vec<u8>>> {
        let octets = self.mail.octets(part.body.clone()).read(0..LONGEST_HEADER)?;
        let mut rest = &octets[..];
        while !rest.is_empty() {
            let (line, length) = LineEnd::LineFeed.first_line(rest);
            let boundary = line.strip_prefix(b"--").map(<[u8]>::trim_ascii_end);
            let boundary = boundary.filter(|boundary| !boundary.is_empty());
            if let Some(boundary) = boundary.filter(|found| found.len() <= LONGEST_DELIMITER) {
                return Ok(Some(boundary.to_vec()));
            }
            rest = rest.get(length..).unwrap_or_default();
        }
        Ok(None)
    }

    fn is_blank(&self, range: &Range<usize>) -> io::Result<bool> {
        for piece in self.mail.octets(range.clone()).chunks() {
            if !piece?.trim_ascii().is_empty() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn push(
        &mut self,
        around: &Part,
        whole: Range<usize>,
        assumed: &'static str,
        oddity: &'static str,
    ) {
        self.push_candidate(around, whole, assumed, false, oddity);
    }

    fn push_bare(&mut self, around: &Part, whole: Range<usize>, oddity: &'static str) {
        self.push_candidate(around, whole, "text/plain", true, oddity);
    }

    fn push_candidate(
        &mut self,
        around: &Part,
        whole: Range<usize>,
        assumed: &'static str,
        is_bare: bool,
        oddity: &'static str,
    ) {
        if self.seen.len() > 2 * MOST_PARTS {
            self.found.truncated = Some("too many ways to read it");
        } else if self.seen.insert((whole.start, whole.end, is_bare, assumed)) {
            let depth = around.depth + 1;
            self.pending.push(Candidate { whole, depth, assumed, is_bare, oddity });
        }
    }

    /// Another leaf, unless it is known.
    fn add(&mut self, part: Part, oddity: &'static str) {
        let is_decoded_multipart = part.content_type.essence.starts_with("multipart/");
        if !self.leaves.insert(leaf(&part)) && !is_decoded_multipart {
            return;
        }
        if self.found.parts.len() >= MOST_PARTS {
            self.found.truncated = Some("more than 4,096 parts");
            return;
        }
        let parent = Some(self.around(&part.whole));
        self.found.parts.push(OtherPart { part: Part { parent, ..part }, oddity });
    }

    /// The innermost part of the first reading around these octets.
    fn around(&self, range: &Range<usize>) -> usize {
        let holds = |part: &Part| part.whole.start <= range.start && range.end <= part.whole.end;
        self.known.iter().rposition(holds).unwrap_or(0)
    }
}

/// The stretches of a body that some clients take for parts.
fn stretches(
    delimiters: &mut Delimiters,
    all: &[Delimiter],
    oddity: &'static str,
) -> io::Result<Vec<Stretch>> {
    let exact: Vec<Delimiter> = all.iter().filter(|found| found.is_exact).copied().collect();
    let until_closed = exact.iter().position(|found| found.closes).map_or(exact.len(), |at| at + 1);
    let (read, behind) = exact.split_at(until_closed);
    let mut found = Vec::new();
    between(delimiters, read, oddity, &mut found)?;
    if !behind.is_empty() {
        between(delimiters, &exact, "parts behind the last delimiter", &mut found)?;
    }
    if exact.len() < all.len() {
        between(delimiters, all, "a delimiter that not every client sees", &mut found)?;
    }
    let (range, oddity) = match exact.first() {
        Some(first) => (delimiters.stretch(0, first.at)?, "text before the first part"),
        None => (0..delimiters.len(), "a multipart without parts"),
    };
    found.push(Stretch { range, is_bare: true, oddity });
    if let Some(next) = read.last().filter(|last| last.closes).and_then(|last| last.next) {
        let range = next..delimiters.len();
        found.push(Stretch { range, is_bare: true, oddity: "text behind the last part" });
    }
    Ok(found)
}

/// The stretches between these delimiters; a missing last one ends the last stretch where the octets end.
fn between(
    delimiters: &mut Delimiters,
    these: &[Delimiter],
    oddity: &'static str,
    found: &mut Vec<Stretch>,
) -> io::Result<()> {
    let ends = these.iter().skip(1).map(|next| Some(next.at)).chain([None]);
    for (delimiter, end) in these.iter().zip(ends) {
        let Some(start) = delimiter.next else { continue };
        let range = match end {
            Some(end) => delimiters.stretch(start, end)?,
            None if delimiter.closes => continue,
            None => start..delimiters.len(),
        };
        found.push(Stretch { range, is_bare: false, oddity });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
