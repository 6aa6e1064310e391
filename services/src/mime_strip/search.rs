//! The search for what is forbidden in a mail.

use std::ops::Range;

use super::rules::{Applied, Decision};
use super::settings::Action;
use crate::content::{Next, Object, Origin, Room, part_labels, walk};
use crate::mail::{Mail, Part, PartKind, SpoolError, Transfer};

/// Something forbidden.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Match {
    pub(super) part: usize,
    /// The lines of the message that hold it, if it is a file in unencoded text.
    pub(super) lines: Option<Range<usize>>,
    pub(super) name: String,
    pub(super) declared: String,
    /// What happens to it, and why.
    pub(super) decision: Decision,
    /// Where.
    pub(super) place: String,
    /// Whether only some clients see it.
    pub(super) is_odd: bool,
}

impl Match {
    /// What it is and where, for people.
    pub(super) fn reason(&self) -> String {
        format!("{} in {}", self.decision.reason, self.place)
    }
}

/// Everything forbidden in a mail, and the first bound that kept something from being looked at.
///
/// # Errors
/// If the mail can't be read, or unpacked octets not kept.
pub(super) fn search(
    mail: &Mail,
    rules: &Applied,
    room: &Room,
    inside_archives: bool,
) -> Result<(Vec<Match>, Option<String>), SpoolError> {
    let mut found: Vec<Match> = Vec::new();
    let parts = mail.parts()?;
    let labels = part_labels(parts);
    let name = |names: &[String]| names.first().cloned().unwrap_or_else(|| "unnamed".to_owned());
    // Parts that hold others have names and types too, and go with all that is in them.
    let mut is_gone = vec![false; parts.len()];
    for (index, (part, place)) in parts.iter().zip(labels).enumerate() {
        let parent_is_gone =
            part.parent.and_then(|parent| is_gone.get(parent)).is_some_and(|gone| *gone);
        let is_container = part.kind != PartKind::Leaf && !parent_is_gone;
        let decision = if is_container { rules.container(part)? } else { None };
        if let Some(gone) = is_gone.get_mut(index) {
            *gone = parent_is_gone || decision.as_ref().is_some_and(|d| d.action != Action::Tag);
        }
        if let Some(decision) = decision {
            let declared = part.content_type.essence.clone();
            let name = name(&part.names);
            let is_odd = false;
            found.push(Match { part: index, lines: None, name, declared, decision, place, is_odd });
        }
    }
    // How deep the archive lies that is not looked into.
    let mut shut: Option<usize> = None;
    let mut visit = |object: &Object<'_>| {
        if is_gone.get(object.part).is_some_and(|gone| *gone) {
            return Ok(Next::SkipPart);
        }
        if *object.origin == Origin::RawPart {
            return Ok(Next::Descend);
        }
        shut = shut.filter(|depth| object.place.len() > *depth);
        let decision = match shut {
            Some(_) => rules.shut_file(object)?,
            None => rules.file(object)?,
        };
        if shut.is_none() && !inside_archives && object.is_archive()? {
            shut = Some(object.place.len());
        }
        let Some(decision) = decision else {
            let may_skip = shut.is_some() && !rules.look_inside();
            return Ok(if may_skip { Next::Skip } else { Next::Descend });
        };
        let Some(part) = parts.get(object.part) else { return Ok(Next::SkipPart) };
        let lines = plain_lines(mail, part, object)?;
        // What is removed with all around it has the name of that.
        let is_inside = object.place.len() > 1 && lines.is_none();
        let shown = if is_inside { &part.names[..] } else { object.names };
        let next = match (decision.action, &lines) {
            (Action::Tag, _) => Next::Descend,
            (_, Some(_)) => Next::Skip,
            (_, None) => Next::SkipPart,
        };
        if next == Next::SkipPart {
            // The whole part goes, and these lines with it.
            found.retain(|earlier| earlier.part != object.part);
        }
        found.push(Match {
            part: object.part,
            lines,
            name: name(shown),
            declared: part.content_type.essence.clone(),
            decision,
            place: object.location(),
            is_odd: object.oddity.is_some(),
        });
        Ok(next)
    };
    let remarks = walk(mail, room, &mut visit)?;
    Ok((found, remarks.limit))
}

/// The lines of the message that hold a file, if they stand there as they are.
fn plain_lines(
    mail: &Mail,
    part: &Part,
    object: &Object<'_>,
) -> Result<Option<Range<usize>>, SpoolError> {
    // What only some clients see may stand elsewhere in the part that goes for it.
    let Origin::Uuencoded(lines) = object.origin else { return Ok(None) };
    if object.oddity.is_some() {
        return Ok(None);
    }
    let is_plain = matches!(part.transfer, Transfer::Identity) && object.place.len() == 2;
    let lines = part.body.start + lines.start..part.body.start + lines.end;
    let start = mail.octets(lines.clone()).read(0..6)?;
    Ok((is_plain && start == "begin ").then_some(lines))
}
