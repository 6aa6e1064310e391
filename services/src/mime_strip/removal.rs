//! Edits that take forbidden files out of a mail.

use std::ops::Range;

use super::search::Match;
use super::settings::Action;
use crate::content::{fill, outermost};
use crate::mail::{Edits, Mail, Notice, Part, SpoolError};

/// Octets before a part in which the delimiter line is looked for: a boundary has at most 70 (RFC 2046 section 5.1.1), and
/// blanks may follow. Where there are more, a notice takes the part's place.
const DELIMITER: usize = 1_024;

/// Removes or replaces what was found; what is to be stripped and can't go gets a notice.
///
/// # Errors
/// If the octets around a part can't be read.
pub(super) fn remove(mail: &Mail, found: &[Match], edits: &mut Edits) -> Result<(), SpoolError> {
    let parts = mail.parts()?;
    let gone = gone(found, parts);
    let is_inside = |one: &Match| {
        let around = std::iter::successors(Some(one.part), |part| parts.get(*part)?.parent);
        let mut around = around.skip(usize::from(one.lines.is_none()));
        around.any(|part| gone.contains(&part))
    };
    for one in found.iter().filter(|one| !is_inside(one)) {
        let notice = filled(one);
        match (one.decision.action, &one.lines, parts.get(one.part)) {
            (Action::Strip, Some(lines), _) => edits.delete(lines.clone()),
            (Action::Replace, Some(lines), _) => {
                let end = mail.line_ending();
                let text: String = notice.lines().flat_map(|line| [line, end]).collect();
                edits.replace(lines.clone(), text.into());
            }
            (Action::Strip, None, Some(part)) if may_go(one.part, found, parts) => {
                match with_delimiter(mail, part, parts)? {
                    Some(range) => edits.delete(range),
                    None => replace(mail, part, &notice, edits)?,
                }
            }
            (Action::Strip | Action::Replace, None, Some(part)) => {
                replace(mail, part, &notice, edits)?;
            }
            _ => {}
        }
    }
    Ok(())
}

/// The parts that go with all that is in them, those that lie in others left out.
fn gone(found: &[Match], parts: &[Part]) -> Vec<usize> {
    let goes = |one: &&Match| one.lines.is_none() && one.decision.action != Action::Tag;
    outermost(parts, found.iter().filter(goes).map(|one| one.part).collect())
}

fn filled(found: &Match) -> String {
    let reason = found.reason();
    let values = [("{name}", &found.name[..]), ("{type}", &found.declared), ("{reason}", &reason)];
    fill(&found.decision.notice, &values)
}

fn replace(mail: &Mail, part: &Part, text: &str, edits: &mut Edits) -> Result<(), SpoolError> {
    edits.replace_part(mail, part, Notice { text, filename: Some("removed.txt") })
}

/// Whether something is left around a part that goes: of parts that go together the first stays, as a notice, if
/// there is no other.
fn may_go(index: usize, found: &[Match], parts: &[Part]) -> bool {
    let Some(parent) = parts.get(index).and_then(|part| part.parent) else { return false };
    let goes = |part: usize| {
        found.iter().any(|one| {
            one.part == part && one.lines.is_none() && one.decision.action == Action::Strip
        })
    };
    let mut siblings = (0..parts.len())
        .filter(|part| parts.get(*part).is_some_and(|part| part.parent == Some(parent)));
    let first = siblings.clone().next();
    first != Some(index) || siblings.any(|part| !goes(part))
}

/// A part with the delimiter line before it; `None` if that is not there, as that of a message in a message.
fn with_delimiter(
    mail: &Mail,
    part: &Part,
    parts: &[Part],
) -> Result<Option<Range<usize>>, SpoolError> {
    let parent = part.parent.and_then(|parent| parts.get(parent));
    let Some(parent) = parent else { return Ok(None) };
    let from = part.whole.start.saturating_sub(DELIMITER).max(parent.body.start);
    let before = mail.octets(from..part.whole.start);
    let before = before.read(0..before.len())?;
    let Some(lines) = before.strip_suffix(b"\n") else { return Ok(None) };
    let line = memchr::memrchr(b'\n', lines).map_or(0, |end| end + 1);
    let is_first = line == 0 && from > parent.body.start;
    if is_first || !lines.get(line..).unwrap_or_default().starts_with(b"--") {
        return Ok(None);
    }
    let behind = mail.octets(part.whole.end..mail.len()).read(0..2)?;
    let end = match &behind[..] {
        [b'\r', b'\n'] => 2,
        [b'\n', ..] => 1,
        _ => 0,
    };
    Ok(Some(from + line..part.whole.end + end))
}
