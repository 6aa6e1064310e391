//! The walk over everything in a mail.

use std::cell::OnceCell;
use std::ops::Range;

use super::extension::mismatch;
use super::limits::Room;
use super::office::{Office, office};
use super::sniff;
use super::walker::{Leave, Walker};
use crate::mail::{Mail, Octets, Part, SpoolError};

/// Something that a user could open.
pub(crate) struct Object<'a> {
    /// The part of the outermost message that it is in: what goes with that is gone for all clients that see no other
    /// header section than we do.
    pub(crate) part: usize,
    /// The way to it, from the outside in; the last is the object itself.
    pub(crate) place: &'a [String],
    /// What it is.
    pub(crate) origin: &'a Origin,
    /// Every name that some client might give it; may be empty.
    pub(crate) names: &'a [String],
    /// The type that the mail declares for it; empty if none.
    pub(crate) declared: &'a str,
    /// Its octets, decoded and unpacked; empty if it is encrypted.
    pub(crate) octets: &'a Octets,
    /// Octets at its start that tell what it is.
    pub(crate) head: &'a [u8],
    /// If only some clients see it: what is odd about the message.
    pub(crate) oddity: Option<&'static str>,
    /// What it is as an Office file, once somebody has asked.
    pub(super) office: OnceCell<Office>,
}

impl Object<'_> {
    /// The way to it in one line for people, without control characters and not too long.
    pub(crate) fn location(&self) -> String {
        location(self.place)
    }

    /// Which macros it holds, for people; those of what is in it are its own.
    pub(crate) fn macros(&self) -> Result<Option<&'static str>, SpoolError> {
        Ok(self.office()?.macros)
    }

    /// Whether only a password opens it.
    pub(crate) fn is_encrypted(&self) -> Result<bool, SpoolError> {
        let is_locked = *self.origin == Origin::LockedMember;
        Ok(is_locked || self.office()?.is_encrypted)
    }

    fn office(&self) -> Result<Office, SpoolError> {
        if let Some(known) = self.office.get() {
            return Ok(*known);
        }
        let found = office(self.names, self.head, self.octets)?;
        Ok(*self.office.get_or_init(|| found))
    }

    /// What it is, if files of this extension, in lower case, are something else.
    pub(crate) fn mismatch(&self, extension: &str) -> Option<&'static str> {
        mismatch(extension, self.head)
    }

    /// Whether it is an archive that is looked into.
    pub(crate) fn is_archive(&self) -> Result<bool, SpoolError> {
        Ok(sniff::archive(self.head).is_some() || sniff::has_zip_end(self.octets)?)
    }
}

/// What an object is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// A part, decoded.
    Part,
    /// The body of a part as it stands in the message, where that is something else.
    RawPart,
    /// Lines of the text that it was found in.
    Uuencoded(Range<usize>),
    /// A `data:` URI in a text.
    DataUri,
    /// A member of an archive.
    Member,
    /// A member of an archive that only a password opens; it has no octets.
    LockedMember,
}

/// How the walk goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Into the object.
    Descend,
    /// Past it.
    Skip,
    /// To the next part of the outermost message.
    SkipPart,
    /// Not at all.
    Stop,
}

/// What kept the walk from seeing all; of each sort the first, with its place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Remarks {
    /// A bound was reached, and there is more behind it.
    pub(crate) limit: Option<String>,
    /// Something can be opened with a password only.
    pub(crate) encrypted: Option<String>,
    /// An archive is broken, or of a kind that is not read.
    pub(crate) unreadable: Option<String>,
}

/// What looks at objects.
pub(crate) type Visit<'v> = &'v mut dyn FnMut(&Object<'_>) -> Result<Next, SpoolError>;

/// Shows every object in a mail to `visit`, outer before inner: also those that only some clients see, since the mail
/// breaks the rules of MIME.
///
/// # Errors
/// If octets of the mail can't be read, or unpacked ones not kept; whatever was seen until then says
/// nothing about the mail.
pub(crate) fn walk(mail: &Mail, room: &Room, visit: Visit<'_>) -> Result<Remarks, SpoolError> {
    let mut walker = Walker::new(room, visit);
    if let Err(Leave::Failed(error)) = walker.mail(mail) {
        return Err(error);
    }
    mail.body().check()?;
    Ok(walker.remarks)
}

/// The parts' labels for people: number and name. The message is 1, the second part in it 1.2.
pub(crate) fn part_labels(parts: &[Part]) -> Vec<String> {
    let mut numbers: Vec<String> = Vec::with_capacity(parts.len());
    let mut children = vec![0usize; parts.len()];
    for part in parts {
        let number = match part.parent {
            None => "1".to_owned(),
            Some(parent) => {
                let nth = children.get_mut(parent).map_or(0, |count| {
                    *count += 1;
                    *count
                });
                format!("{}.{nth}", numbers.get(parent).map_or("", String::as_str))
            }
        };
        numbers.push(number);
    }
    let label = |(number, part): (String, &Part)| match part.names.first() {
        Some(name) => format!("part {number} ({name})"),
        None => format!("part {number}"),
    };
    numbers.into_iter().zip(parts).map(label).collect()
}

/// Those of these parts that lie in no other one of them, each once: what lies in another one goes with it.
pub(crate) fn outermost(parts: &[Part], mut chosen: Vec<usize>) -> Vec<usize> {
    chosen.sort_unstable();
    chosen.dedup();
    let parent = |part: usize| parts.get(part).and_then(|part| part.parent);
    let is_inside = |part: usize| {
        let mut around = std::iter::successors(parent(part), |around| parent(*around));
        around.any(|around| chosen.binary_search(&around).is_ok())
    };
    chosen.iter().copied().filter(|part| !is_inside(*part)).collect()
}

pub(super) fn location(place: &[String]) -> String {
    /// Characters of one name, and names from either end, that are shown.
    const NAME: usize = 80;
    let shown = |name: &String| -> String {
        name.chars().take(NAME).map(|c| if c.is_control() { '?' } else { c }).collect()
    };
    match place {
        [first, .., last] if place.len() > 6 => format!("{} / ... / {}", shown(first), shown(last)),
        _ => place.iter().map(shown).collect::<Vec<_>>().join(" / "),
    }
}
