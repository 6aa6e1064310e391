//! Lines of fields that are too long.

use bytes::Bytes;

use super::corrections::{Fix, View};
use super::fields::{all, shown};
use super::words::Words;
use crate::mail::{Edit, Field, SpoolError, decode_words, trim_line_end};

/// The longest line, without its end (RFC 5322 section 2.1.1).
pub(super) const LONGEST_LINE: usize = 998;
/// What a line that is folded should have at the most (the same section).
const WIDTH: usize = 78;

/// Fields with a line that is too long are folded where they have blanks. Text that has too few becomes encoded words.
pub(super) fn long_fields(view: &View<'_>) -> Result<Vec<Fix>, SpoolError> {
    let end = view.mail.line_ending();
    let mut fixes = Vec::new();
    for field in all(view.parts()?) {
        let whole = view.read(field.whole.clone())?;
        if lines(&whole).all(|line| line.len() <= LONGEST_LINE) {
            continue;
        }
        let folds = folds(&whole, field.value.start - field.whole.start);
        fixes.push(match folds {
            Some(places) => {
                let fold = |place: usize| {
                    let at = field.whole.start + place;
                    Edit { range: at..at, insert: Bytes::from_static(end.as_bytes()) }
                };
                Fix::new(shown(field), places.into_iter().map(fold).collect())
            }
            None if is_text(field) => {
                Fix::one(shown(field), field.value.clone(), encoded(field, view))
            }
            None => Fix::none(shown(field)),
        });
    }
    Ok(fixes)
}

/// Whether people read it: what programs read in other fields would be lost in encoded words.
fn is_text(field: &Field) -> bool {
    ["Subject", "Comments", "Content-Description", "X-Invalid-Line"]
        .iter()
        .any(|name| field.is_named(name))
}

fn lines(octets: &[u8]) -> impl Iterator<Item = &[u8]> {
    octets.split_inclusive(|octet| *octet == b'\n').map(trim_line_end)
}

/// Where line ends go before blanks, so that no line is too long; `None` if there are too few.
fn folds(field: &[u8], value: usize) -> Option<Vec<usize>> {
    let mut places = Vec::new();
    let mut at = 0;
    for whole in field.split_inclusive(|octet| *octet == b'\n') {
        let line = trim_line_end(whole);
        if line.len() > LONGEST_LINE {
            places.extend(
                folds_of_line(line, value.saturating_sub(at))?.into_iter().map(|place| at + place),
            );
        }
        at += whole.len();
    }
    Some(places)
}

/// The same of one line, of which something stands before `from` and behind the last fold.
fn folds_of_line(line: &[u8], from: usize) -> Option<Vec<usize>> {
    let is_blank = |at: usize| matches!(line.get(at), Some(b' ' | b'\t'));
    let first = (from..line.len()).find(|at| !is_blank(*at))?;
    let candidates = (first + 1..line.trim_ascii_end().len())
        .filter(|at| is_blank(*at) && !is_blank(at - 1))
        .chain([line.len()]);
    let mut places = Vec::new();
    let (mut start, mut last) = (0, None);
    for place in candidates {
        if place - start > WIDTH
            && let Some(fold) = last.replace(place)
        {
            places.push(fold);
            start = fold;
        }
        if place - start > LONGEST_LINE {
            return None;
        }
        last = Some(place);
    }
    Some(places)
}

fn encoded(field: &Field, view: &View<'_>) -> Vec<u8> {
    let words = Words { charset: view.settings.charset, end: view.mail.line_ending() };
    format!(" {}", words.all(&decode_words(field.raw_value()))).into()
}
