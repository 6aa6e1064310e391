//! The search for signatures in a mail.

use super::eicar;
use super::signatures::{Signatures, Unfinished};
use crate::content::{Next, Object, Origin, Remarks, Room, walk};
use crate::mail::{Mail, SpoolError};

/// Something that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Infection {
    /// The name of what was found.
    pub(super) name: String,
    /// Where, for people.
    pub(super) place: String,
    /// The part to replace.
    pub(super) part: usize,
}

/// What a scan brought to light.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Report {
    /// One infection, or one a part.
    pub(super) infections: Vec<Infection>,
    /// What could not be looked at.
    pub(super) remarks: Remarks,
    /// Whether an infection is there for some clients only.
    pub(super) is_odd: bool,
    /// Whether it stays if all infected parts go.
    pub(super) is_beyond_repair: bool,
    /// The first macros, if they are looked for, and where.
    pub(super) macros: Option<String>,
}

/// What a search is for besides signatures.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Wanted {
    /// One infection for each part, instead of the first one.
    pub(super) all: bool,
    /// Macros in Office files.
    pub(super) macros: bool,
}

/// Searches a mail. The first infection ends the search, unless one is wanted for each part.
///
/// # Errors
/// If the mail can't be read, or unpacked octets not kept.
pub(super) fn scan(
    mail: &Mail,
    signatures: &Signatures,
    room: &Room,
    wanted: Wanted,
) -> Result<Report, SpoolError> {
    let mut infections = Vec::new();
    let mut is_odd = false;
    let mut out_of_steps = None;
    if signatures.wants_mail() {
        match signatures.find(&mail.whole(), true) {
            Ok(Some(name)) => {
                let (name, place) = (name.to_owned(), "the message".to_owned());
                infections.push(Infection { name, place, part: 0 });
            }
            Ok(None) => {}
            Err(Unfinished::OutOfSteps) => out_of_steps = Some("the message".to_owned()),
            Err(Unfinished::Unreadable(error)) => return Err(error),
        }
    }
    if !infections.is_empty() {
        return Ok(Report { infections, ..Report::default() });
    }
    let mut macros: Option<String> = None;
    let mut visit = |object: &Object<'_>| {
        if wanted.macros
            && macros.is_none()
            && let Some(which) = object.macros()?
        {
            macros = Some(format!("{which} in {}", object.location()));
        }
        match find(object, signatures) {
            Ok(None) => Ok(Next::Descend),
            Ok(Some(name)) => {
                let (name, place, part) = (name.to_owned(), object.location(), object.part);
                infections.push(Infection { name, place, part });
                is_odd |= object.oddity.is_some();
                Ok(if wanted.all { Next::SkipPart } else { Next::Stop })
            }
            Err(Unfinished::OutOfSteps) => {
                out_of_steps.get_or_insert_with(|| object.location());
                Ok(Next::Descend)
            }
            Err(Unfinished::Unreadable(error)) => Err(error),
        }
    };
    let mut remarks = walk(mail, room, &mut visit)?;
    if let Some(place) = out_of_steps {
        remarks.limit.get_or_insert(format!("content made to slow down the search: {place}"));
    }
    Ok(Report { infections, remarks, macros, is_odd, is_beyond_repair: false })
}

fn find<'s>(
    object: &Object<'_>,
    signatures: &'s Signatures,
) -> Result<Option<&'s str>, Unfinished> {
    let is_whole = object.head.len() == object.octets.len();
    if *object.origin != Origin::RawPart && is_whole && eicar::is_eicar(object.head) {
        return Ok(Some(eicar::NAME));
    }
    signatures.find(object.octets, object.declared == "message/rfc822")
}
