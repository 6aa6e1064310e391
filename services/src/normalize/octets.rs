//! Octets that no line may hold: NUL, and CR and LF that make no line end together.

use std::ops::Range;

use super::corrections::{EDIT_COST, Fix, View};
use crate::mail::{Octets, SpoolError};

/// Edits that are nearer to each other become one, so that all of them take memory in proportion to the message,
/// even if every octet of it is wrong.
const NEAR: usize = 128;
/// Octets from which on an edit takes no more to it.
const LONG_EDIT: usize = 64 * 1024;

/// NUL, which RFC 5322 section 4 calls obsolete, becomes a blank: nothing moves, and no line becomes empty.
pub(super) fn nul(view: &View<'_>) -> Result<Vec<Fix>, SpoolError> {
    each_half(view, |octets, base, edits| {
        let mut at = base;
        for piece in octets.chunks() {
            let piece = piece?;
            for found in memchr::memchr_iter(0, &piece) {
                edits.replace(at + found..at + found + 1, b" ")?;
            }
            at += piece.len();
        }
        Ok(())
    })
}

/// A bare CR or LF becomes a line end (RFC 5322 section 2.3), and CRs before a line end go. In the header section
/// a CR becomes a blank: what is behind it must not become a field, or the body.
pub(super) fn line_ends(view: &View<'_>) -> Result<Vec<Fix>, SpoolError> {
    each_half(view, |octets, base, edits| {
        let mut at = base;
        // CRs behind us that may belong to a line end.
        let mut run = 0..0;
        for piece in octets.chunks() {
            let piece = piece?;
            for found in memchr::memchr2_iter(b'\r', b'\n', &piece) {
                let place = at + found;
                if run.end != place {
                    edits.bare_cr(&run)?;
                    run = place..place;
                }
                if piece.get(found) == Some(&b'\r') {
                    run.end = place + 1;
                    continue;
                }
                match run.len() {
                    0 => edits.replace(place..place + 1, b"\r\n")?,
                    1 => {}
                    _ => edits.cr_before_line_end(run.start..run.end - 1)?,
                }
                run = 0..0;
            }
            at += piece.len();
        }
        edits.bare_cr(&run)
    })
}

/// Looks at the header section, and at the body unless that may hold any octets. Each is put right as a whole, or not.
fn each_half(
    view: &View<'_>,
    look: impl Fn(&Octets, usize, &mut Edits<'_>) -> Result<(), SpoolError>,
) -> Result<Vec<Fix>, SpoolError> {
    let header = view.mail.header();
    let mut edits = Edits::new(view, true);
    look(&header.clone().into(), 0, &mut edits)?;
    let mut fixes = edits.fixes();
    if !view.is_binary() {
        let mut edits = Edits::new(view, false);
        look(view.mail.body(), header.len(), &mut edits)?;
        fixes.extend(edits.fixes());
    }
    Ok(fixes)
}

/// Edits from the first octet to the last, put together where they are near to each other.
struct Edits<'a> {
    view: &'a View<'a>,
    is_header: bool,
    open: Option<(Range<usize>, Vec<u8>)>,
    fixes: Vec<Fix>,
    /// There is no room for all of them.
    is_full: bool,
}

impl<'a> Edits<'a> {
    fn new(view: &'a View<'a>, is_header: bool) -> Self {
        Self { view, is_header, open: None, fixes: Vec::new(), is_full: false }
    }

    fn bare_cr(&mut self, run: &Range<usize>) -> Result<(), SpoolError> {
        let end: &[u8] = if self.is_header { b" " } else { b"\r\n" };
        run.clone().try_for_each(|at| self.replace(at..at + 1, end))
    }

    fn cr_before_line_end(&mut self, run: Range<usize>) -> Result<(), SpoolError> {
        match self.is_header {
            // A line of nothing else must not become an empty one.
            true => self.bare_cr(&run),
            false => self.replace(run, b""),
        }
    }

    fn replace(&mut self, range: Range<usize>, insert: &[u8]) -> Result<(), SpoolError> {
        if self.is_full {
            return Ok(());
        }
        if let Some((open, new)) = &mut self.open {
            let is_near = range.start - open.end < NEAR && open.len() < LONG_EDIT;
            if is_near && !self.view.sealed.begins_or_ends_in(open.start..range.end) {
                new.extend_from_slice(&self.view.read(open.end..range.start)?);
                new.extend_from_slice(insert);
                open.end = range.end;
                return Ok(());
            }
        }
        self.close();
        self.open = Some((range, insert.to_vec()));
        Ok(())
    }

    fn close(&mut self) {
        let Some((range, new)) = self.open.take() else { return };
        self.is_full = !self.view.takes(new.len() + EDIT_COST);
        self.fixes.push(Fix::one(self.what(), range, new));
    }

    fn fixes(mut self) -> Vec<Fix> {
        self.close();
        if self.is_full { vec![Fix::none(self.what())] } else { self.fixes }
    }

    fn what(&self) -> &'static str {
        if self.is_header { "header" } else { "body" }
    }
}
