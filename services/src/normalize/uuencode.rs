//! Files in uuencode inside of texts.

use std::ops::Range;

use bytes::Bytes;

use super::boundaries::new_boundary;
use super::corrections::{Fix, View, name_of, new_field_at, set_field};
use super::parameters::extended;
use super::sealed::is_content;
use crate::mail::{
    Edit, Embedded, Octets, Part, PartKind, SpoolError, Transfer, encode_base64, trim_line_end,
    uuencoded,
};

/// The longest name of a file; longer ones are cut.
const LONGEST_NAME: usize = 255;

/// Files in a text become attachments of their own, with the text before and behind them; a body in uuencode becomes
/// base64.
pub(super) fn uuencode(view: &View<'_>) -> Result<Vec<Fix>, SpoolError> {
    let mut fixes = Vec::new();
    for (index, part) in view.parts()?.iter().enumerate() {
        let is_shown = part.disposition.as_deref() != Some("attachment");
        let fix = match (&part.transfer, part.content_type.essence.as_str()) {
            _ if part.kind != PartKind::Leaf => None,
            (Transfer::Uuencode, _) => Some(encoded_anew(view, index, part)?),
            (Transfer::Identity, "text/plain") if is_shown => attached(view, index, part)?,
            _ => None,
        };
        fixes.extend(fix);
    }
    Ok(fixes)
}

fn encoded_anew(view: &View<'_>, index: usize, part: &Part) -> Result<Fix, SpoolError> {
    let has_room = view.takes(part.body.len());
    let octets = view.mail.decoded(part, if has_room { usize::MAX } else { 0 })?.octets;
    if octets.is_empty() {
        return Ok(Fix::none(name_of(index)));
    }
    let end = view.mail.line_ending();
    let last = if part.parent.is_none() { end } else { "" };
    let body = encode_base64(&octets).replace("\r\n", end) + last;
    let field = set_field(view.mail, part, "Content-Transfer-Encoding", "base64");
    let body = Edit { range: part.body.clone(), insert: body.into() };
    Ok(Fix::new(name_of(index), vec![field, body]))
}

/// A file in a text.
struct File {
    name: String,
    lines: Range<usize>,
    octets: Vec<u8>,
}

/// A text with files as a `multipart/mixed`, if it has some.
fn attached(view: &View<'_>, index: usize, part: &Part) -> Result<Option<Fix>, SpoolError> {
    let body = view.mail.octets(part.body.clone());
    let (mut files, mut has_room) = (Vec::new(), true);
    for file in uuencoded(&body) {
        let Embedded { name, range, mut content } = file?;
        // A file is read as a whole, so there must be room for it even if it is none.
        has_room = has_room && view.takes(range.len());
        if has_room && is_file(&body.slice(range.clone()))? {
            files.push(File { name, lines: range, octets: content.collect(usize::MAX)? });
        }
    }
    if !has_room {
        return Ok(Some(Fix::none(name_of(index))));
    }
    if files.is_empty() {
        return Ok(None);
    }
    let mut attached = Attached::new(view, part)?;
    let mut behind = 0;
    for file in &files {
        attached.text(behind..file.lines.start, &body)?;
        attached.file(file);
        behind = file.lines.end;
    }
    attached.text(behind..body.len(), &body)?;
    Ok(Some(Fix::new(name_of(index), attached.finish())))
}

/// Whether lines from `begin` to `end` are a file, and not some text that begins with such a word.
fn is_file(lines: &Octets) -> Result<bool, SpoolError> {
    let octets = lines.read(0..lines.len())?;
    let lines = octets.split_inclusive(|octet| *octet == b'\n').map(trim_line_end).skip(1);
    let (mut has_octets, mut ends) = (false, false);
    for line in lines {
        match line.split_first() {
            _ if line == b"end" => ends = true,
            Some((size @ b' '..=b'`', encoded))
                if encoded.iter().all(|o| (b' '..=b'`').contains(o)) =>
            {
                // Four characters for three octets; blanks at the end may have been lost.
                let size = usize::from(size.wrapping_sub(b' ') & 0x3f);
                has_octets |= size > 0 && encoded.len() >= size.div_ceil(3) * 4;
            }
            None => {}
            Some(_) => return Ok(false),
        }
    }
    Ok(has_octets && ends)
}

/// The edits that make parts of a text and its files.
struct Attached<'a> {
    part: &'a Part,
    boundary: String,
    end: &'static str,
    /// The fields of the text, for each stretch of it.
    fields: Vec<u8>,
    edits: Vec<Edit>,
    /// Whether what is behind us ends a line.
    is_at_line_start: bool,
}

impl<'a> Attached<'a> {
    fn new(view: &View<'_>, part: &'a Part) -> Result<Self, SpoolError> {
        let end = view.mail.line_ending();
        let boundary = new_boundary();
        let at = new_field_at(view.mail, part);
        let version = match part.parent.is_none() && view.mail.field("MIME-Version").is_none() {
            true => format!("MIME-Version: 1.0{end}"),
            false => String::new(),
        };
        let field = format!("{version}Content-Type: multipart/mixed; boundary=\"{boundary}\"{end}");
        let mut edits = vec![Edit { range: at..at, insert: field.into() }];
        let mut fields = Vec::new();
        for field in part.fields.iter().filter(|field| is_content(field.raw_name())) {
            fields.extend_from_slice(&view.read(field.whole.clone())?);
            edits.push(Edit { range: field.whole.clone(), insert: Bytes::new() });
        }
        Ok(Self { part, boundary, end, fields, edits, is_at_line_start: true })
    }

    /// A stretch of the text, which stays where it is; if it is blank, it goes.
    fn text(&mut self, stretch: Range<usize>, body: &Octets) -> Result<(), SpoolError> {
        let octets = body.slice(stretch.clone());
        let start = self.part.body.start;
        let range = start + stretch.start..start + stretch.end;
        if is_blank(&octets)? {
            self.edits.push(Edit { range, insert: Bytes::new() });
            return Ok(());
        }
        let opening = [self.delimiter().as_bytes(), &self.fields, self.end.as_bytes()].concat();
        self.edits.push(Edit { range: range.start..range.start, insert: opening.into() });
        self.is_at_line_start = octets.read(octets.len() - 1..octets.len())?.ends_with(b"\n");
        Ok(())
    }

    /// A file, in the place of its lines.
    fn file(&mut self, file: &File) {
        let (start, end) = (self.part.body.start, self.end);
        let (delimiter, octets) =
            (self.delimiter(), encode_base64(&file.octets).replace("\r\n", end));
        let insert = format!(
            "{delimiter}Content-Type: application/octet-stream{end}\
             Content-Transfer-Encoding: base64{end}\
             Content-Disposition: attachment; {}{end}{end}{octets}",
            filename(&file.name, end)
        );
        let range = start + file.lines.start..start + file.lines.end;
        self.edits.push(Edit { range, insert: insert.into() });
        self.is_at_line_start = false;
    }

    fn finish(mut self) -> Vec<Edit> {
        let before = if self.is_at_line_start { "" } else { self.end };
        let behind = if self.part.parent.is_none() { self.end } else { "" };
        let at = self.part.body.end;
        let insert = format!("{before}--{}--{behind}", self.boundary).into();
        self.edits.push(Edit { range: at..at, insert });
        self.edits
    }

    fn delimiter(&self) -> String {
        let before = if self.is_at_line_start { "" } else { self.end };
        format!("{before}--{}{}", self.boundary, self.end)
    }
}

fn is_blank(octets: &Octets) -> Result<bool, SpoolError> {
    for piece in octets.chunks() {
        if !piece?.trim_ascii().is_empty() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The parameter with the name of a file.
fn filename(name: &str, end: &str) -> String {
    let name: String = name.chars().filter(|c| !c.is_control()).take(LONGEST_NAME).collect();
    let is_plain = |c: char| c == ' ' || (c.is_ascii_graphic() && !matches!(c, '"' | '\\'));
    match name.trim() {
        "" => "filename=\"file\"".to_owned(),
        name if name.chars().all(is_plain) => format!("filename=\"{name}\""),
        name => extended("filename", name, end),
    }
}
