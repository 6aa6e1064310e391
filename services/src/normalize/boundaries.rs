//! Boundaries (RFC 2046 section 5.1.1): delimiters that are not there, and boundaries that are none.

use std::ops::Range;

use bytes::Bytes;
use memchr::memmem::Finder;

use super::corrections::{Fix, View, name_of};
use super::parameters::set_parameter;
use crate::mail::{Edit, Part, PartKind, SpoolError, Window, trim_line_end};

/// The longest boundary.
const LONGEST: usize = 70;
/// Octets behind a boundary that are looked at; longer lines are none.
const LONGEST_LINE: usize = 1_000;
/// Octets that are looked through for the first delimiter of a part that does not name its boundary.
const LOOKED_THROUGH: usize = 64 * 1024;
/// What stands before a boundary, and behind the last one.
const HYPHENS: &str = "--";

/// A boundary that a type does not name, or that is nowhere, is that of the first line that looks like a delimiter, if
/// there is another one; one that is too long or holds other characters gets a new name; and a last delimiter is added.
pub(super) fn boundaries(view: &View<'_>) -> Result<Vec<Fix>, SpoolError> {
    let mut fixes = Vec::new();
    // Where not all parts are known it can't be told where they end.
    if view.mail.is_truncated()?.is_some() {
        return Ok(fixes);
    }
    let parts = view.parts()?;
    // Inner parts first: where several end at one place, theirs is the first delimiter.
    let mut closed_at = None;
    for (index, part) in parts.iter().enumerate().rev() {
        if !part.content_type.essence.starts_with("multipart/") {
            continue;
        }
        let inner: Vec<&Part> = parts.iter().filter(|inner| inner.parent == Some(index)).collect();
        let boundary = part.content_type.parameter("boundary").unwrap_or_default();
        let edits = match part.kind {
            PartKind::Multipart if inner.is_empty() => match named(view, part, boundary)? {
                // It may be empty.
                None => continue,
                Some(edit) => vec![edit],
            },
            PartKind::Multipart if !is_valid(boundary) => renamed(view, part, &inner, boundary)?,
            PartKind::Multipart => match closed(view, part, &inner, boundary, closed_at)? {
                None => continue,
                Some(edit) => {
                    closed_at = Some(edit.range.start);
                    vec![edit]
                }
            },
            PartKind::Leaf | PartKind::Message => {
                named(view, part, boundary)?.into_iter().collect()
            }
        };
        fixes.push(Fix::new(name_of(index), edits));
    }
    Ok(fixes)
}

/// Whether these are `bcharsnospace`, or blanks before the last character.
fn is_valid(boundary: &str) -> bool {
    (1..=LONGEST).contains(&boundary.len())
        && !boundary.ends_with(' ')
        && boundary.bytes().all(|octet| octet == b' ' || is_boundary_character(octet))
}

fn is_boundary_character(octet: u8) -> bool {
    octet.is_ascii_alphanumeric() || b"'()+_,-./:=?".contains(&octet)
}

/// The boundary that the body has, if it is another one.
fn named(view: &View<'_>, part: &Part, boundary: &str) -> Result<Option<Edit>, SpoolError> {
    let body = view.mail.octets(part.body.clone());
    let start = body.read(0..LOOKED_THROUGH)?;
    // A line that goes on behind that can't be read.
    let end = match start.len() == body.len() {
        true => start.len(),
        false => memchr::memrchr(b'\n', &start).unwrap_or_default(),
    };
    let mut lines = start.get(..end).unwrap_or_default().split(|octet| *octet == b'\n');
    let found = lines.find_map(|line| {
        let found = trim_line_end(line).strip_prefix(HYPHENS.as_bytes())?.trim_ascii_end();
        let found = std::str::from_utf8(found).ok().filter(|found| is_valid(found))?;
        // `--` alone often stands before a signature, and a rule is made of hyphens.
        found.bytes().any(|octet| octet.is_ascii_alphanumeric()).then_some(found)
    });
    let Some(found) = found.filter(|found| *found != boundary) else { return Ok(None) };
    let count = Window::new(body).count(format!("{HYPHENS}{found}").as_bytes(), 2)?;
    Ok((count == 2).then(|| set_parameter(part, "boundary", found)).flatten())
}

/// Another boundary, in the type and in each delimiter.
fn renamed(
    view: &View<'_>,
    part: &Part,
    inner: &[&Part],
    boundary: &str,
) -> Result<Vec<Edit>, SpoolError> {
    let new = new_boundary();
    let Some(edit) = set_parameter(part, "boundary", &new) else { return Ok(Vec::new()) };
    let mut edits = vec![edit];
    let mut rename = |delimiter: Option<Range<usize>>| {
        edits.extend(delimiter.map(|Range { start, end }| Edit {
            range: start + HYPHENS.len()..end,
            insert: new.clone().into(),
        }));
    };
    let delimiters = Delimiters::new(view, boundary);
    let mut behind = part.body.start;
    for next in inner {
        rename(delimiters.last_in(behind..next.whole.start)?);
        behind = next.whole.end;
    }
    rename(delimiters.first_in(behind..part.body.end)?);
    Ok(edits)
}

/// The edit that makes the last delimiter one, if there is none. `closed_at` is where one of a part inside was added.
fn closed(
    view: &View<'_>,
    part: &Part,
    inner: &[&Part],
    boundary: &str,
    closed_at: Option<usize>,
) -> Result<Option<Edit>, SpoolError> {
    let (end, size) = (view.mail.line_ending(), part.body.end);
    let behind = inner.last().map_or(size, |last| last.whole.end);
    if behind < size {
        let delimiter = Delimiters::new(view, boundary).first_in(behind..size)?;
        let Some(at) = delimiter.map(|delimiter| delimiter.end) else { return Ok(None) };
        let rest = view.read(at..size.min(at + LONGEST_LINE))?;
        let line = rest.split(|octet| *octet == b'\n').next().unwrap_or_default();
        let blanks = line.len() - line.trim_ascii_start().len();
        return Ok(match (line.trim_ascii_start().starts_with(HYPHENS.as_bytes()), blanks) {
            (true, 0) => None,
            // Not every reader takes it for one.
            (true, _) => Some(Edit { range: at..at + blanks, insert: Bytes::new() }),
            (false, _) => Some(Edit { range: at..at, insert: HYPHENS.into() }),
        });
    }
    let is_at_line_start =
        closed_at != Some(size) && view.read(size.saturating_sub(1)..size)?.ends_with(b"\n");
    let before = if is_at_line_start { "" } else { end };
    let behind = if part.parent.is_none() { end } else { "" };
    let insert = format!("{before}{HYPHENS}{boundary}{HYPHENS}{behind}").into();
    Ok(Some(Edit { range: size..size, insert }))
}

/// Finds the delimiters of a part between the parts inside it.
struct Delimiters<'a> {
    view: &'a View<'a>,
    delimiter: Finder<'static>,
}

impl<'a> Delimiters<'a> {
    fn new(view: &'a View<'a>, boundary: &str) -> Self {
        let delimiter = format!("{HYPHENS}{}", boundary.trim_end());
        Self { view, delimiter: Finder::new(&delimiter).into_owned() }
    }

    /// The first one, without the rest of its line.
    fn first_in(&self, range: Range<usize>) -> Result<Option<Range<usize>>, SpoolError> {
        let start = range.start;
        let found = Window::new(self.view.mail.octets(range)).find(&self.delimiter, 0)?;
        Ok(found.map(|at| start + at..start + at + self.delimiter.needle().len()))
    }

    /// The last one.
    fn last_in(&self, range: Range<usize>) -> Result<Option<Range<usize>>, SpoolError> {
        let mut last = None;
        let mut from = range.start;
        while let Some(found) = self.first_in(from..range.end)? {
            from = found.end;
            last = Some(found);
        }
        Ok(last)
    }
}

/// By chance no line of the message.
pub(super) fn new_boundary() -> String {
    format!("=_{:016x}{:016x}", fastrand::u64(..), fastrand::u64(..))
}
