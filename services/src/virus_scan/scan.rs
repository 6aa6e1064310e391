//! The search for signatures in a mail.

use super::eicar;
use super::signatures::{OutOfSteps, Signatures};
use crate::content::{Limits, Next, Object, Origin, Remarks, walk};
use crate::mail::Mail;

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
}

/// Searches a mail. The first infection ends the search, unless `all` wants one for each part.
pub(super) fn scan(mail: &Mail, signatures: &Signatures, limits: &Limits, all: bool) -> Report {
    let mut infections = Vec::new();
    let mut out_of_steps = None;
    if signatures.wants_mail() {
        let whole = [&mail.header()[..], &mail.body()[..]].concat();
        match signatures.find(&whole, true) {
            Ok(Some(name)) => {
                let (name, place) = (name.to_owned(), "the message".to_owned());
                infections.push(Infection { name, place, part: 0 });
            }
            Ok(None) => {}
            Err(_) => out_of_steps = Some("the message".to_owned()),
        }
    }
    if !infections.is_empty() {
        return Report { infections, remarks: Remarks::default() };
    }
    let mut visit = |object: &Object<'_>| match find(object, signatures) {
        Ok(None) => Next::Descend,
        Ok(Some(name)) => {
            let (name, place, part) = (name.to_owned(), object.location(), object.part);
            infections.push(Infection { name, place, part });
            if all { Next::SkipPart } else { Next::Stop }
        }
        Err(_) => {
            out_of_steps.get_or_insert_with(|| object.location());
            Next::Descend
        }
    };
    let mut remarks = walk(mail, limits, &mut visit);
    if let Some(place) = out_of_steps {
        remarks.limit.get_or_insert(format!("content made to slow down the search: {place}"));
    }
    Report { infections, remarks }
}

fn find<'s>(
    object: &Object<'_>,
    signatures: &'s Signatures,
) -> Result<Option<&'s str>, OutOfSteps> {
    if *object.origin != Origin::RawPart && eicar::is_eicar(object.octets) {
        return Ok(Some(eicar::NAME));
    }
    signatures.find(object.octets, object.declared == "message/rfc822")
}
