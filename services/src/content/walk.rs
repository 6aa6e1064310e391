//! The walk over everything in a mail.

use std::io::Read;
use std::ops::{ControlFlow, Range};

use bytes::Bytes;

use super::archive::{File, Incomplete, Member, cost, members};
use super::limits::Limits;
use super::sniff;
use crate::mail::{Mail, Part, PartKind, Transfer, data_uris, header_length, uuencoded};

/// Something that a user could open.
pub(crate) struct Object<'a> {
    /// The part of the outermost message that it is in.
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
    pub(crate) octets: &'a [u8],
}

impl Object<'_> {
    /// The way to it in one line for people, without control characters and not too long.
    pub(crate) fn location(&self) -> String {
        location(self.place)
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

/// Shows every object in a mail to `visit`, outer before inner.
pub(crate) fn walk(
    mail: &Mail,
    limits: &Limits,
    visit: &mut dyn FnMut(&Object<'_>) -> Next,
) -> Remarks {
    let mut walker = Walker {
        limits,
        visit,
        remarks: Remarks::default(),
        place: Vec::new(),
        part: 0,
        members: 0,
        unpacked: 0,
        held: 0,
        search: MOST_SEARCH,
    };
    let _ = walker.mail(mail);
    walker.remarks
}

/// The parts' labels for people: number and name. The message is 1, the second part in it 1.2.
pub(crate) fn part_labels(mail: &Mail) -> Vec<String> {
    let mut numbers: Vec<String> = Vec::with_capacity(mail.parts().len());
    let mut children = vec![0usize; mail.parts().len()];
    for part in mail.parts() {
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
    numbers.into_iter().zip(mail.parts()).map(label).collect()
}

fn location(place: &[String]) -> String {
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

/// Where the walk is left.
enum Leave {
    Part,
    All,
}

type Flow = ControlFlow<Leave>;

/// An object before it is shown.
struct Found<'a> {
    origin: Origin,
    names: &'a [String],
    declared: &'a str,
    octets: &'a [u8],
}

struct Walker<'v> {
    limits: &'v Limits,
    visit: &'v mut dyn FnMut(&Object<'_>) -> Next,
    remarks: Remarks,
    place: Vec<String>,
    part: usize,
    members: usize,
    unpacked: usize,
    held: usize,
    /// What is left for the directories of archives.
    search: u64,
}

/// What the directories of all archives in a message may cost: a second or two.
const MOST_SEARCH: u64 = 8_000_000_000;

impl Walker<'_> {
    fn mail(&mut self, mail: &Mail) -> Flow {
        let is_outermost = self.place.is_empty();
        if let Some(bound) = mail.is_truncated() {
            self.remark_limit(bound);
        }
        for ((index, part), label) in mail.parts().iter().enumerate().zip(part_labels(mail)) {
            if part.kind != PartKind::Leaf {
                continue;
            }
            if is_outermost {
                self.part = index;
            } else if !self.count_member() {
                break;
            }
            self.place.push(label);
            let flow = self.leaf(mail, part);
            self.place.pop();
            match flow {
                ControlFlow::Break(Leave::Part) if is_outermost => {}
                flow => flow?,
            }
        }
        ControlFlow::Continue(())
    }

    fn leaf(&mut self, mail: &Mail, part: &Part) -> Flow {
        let raw = mail.raw(part.body.clone());
        let found = Found {
            origin: Origin::RawPart,
            names: &part.names,
            declared: &part.content_type.essence,
            octets: raw,
        };
        let transfers = transfers(mail, part);
        for transfer in &transfers {
            let part = Part { transfer: transfer.clone(), ..part.clone() };
            let decoded = mail.decoded(&part, usize::MAX).octets;
            self.object(&Found { origin: Origin::Part, octets: &decoded, ..found })?;
        }
        if matches!(part.transfer, Transfer::Identity | Transfer::Unknown(_)) {
            return ControlFlow::Continue(());
        }
        match self.show(&found) {
            Next::Descend if transfers.contains(&Transfer::Uuencode) => self.text(raw),
            next => leave(next),
        }
    }

    /// Shows an object, and goes into it.
    fn object(&mut self, found: &Found<'_>) -> Flow {
        match self.show(found) {
            Next::Descend => self.inside(found),
            next => leave(next),
        }
    }

    fn show(&mut self, found: &Found<'_>) -> Next {
        (self.visit)(&Object {
            part: self.part,
            place: &self.place,
            origin: &found.origin,
            names: found.names,
            declared: found.declared,
            octets: found.octets,
        })
    }

    fn inside(&mut self, found: &Found<'_>) -> Flow {
        let octets = found.octets;
        if let Some(archive) = sniff::archive(octets) {
            return self.archive(archive, octets, true);
        }
        if sniff::has_zip_end(octets) {
            self.archive(sniff::Archive::Zip, octets, false)?;
        } else if let Some(kind) = sniff::unread_archive(octets) {
            self.remark_unreadable(&format!("{kind} archives are not read"));
        }
        if sniff::is_text(octets) || found.declared.starts_with("text/") {
            self.text(octets)?;
        }
        if found.declared.starts_with("message/") || sniff::is_mail(octets) {
            return self.nested(octets);
        }
        ControlFlow::Continue(())
    }

    /// Goes into a message that is encoded or in an archive.
    fn nested(&mut self, octets: &[u8]) -> Flow {
        if !self.may_enter() {
            return ControlFlow::Continue(());
        }
        let Some(size) = self.account(octets) else { return ControlFlow::Continue(()) };
        let message = Bytes::copy_from_slice(octets);
        let header = header_length(&message);
        let flow = self.mail(&Mail::new(message.slice(..header), message.slice(header..)));
        self.held -= size;
        flow
    }

    /// Goes into the files that stand in a text.
    fn text(&mut self, text: &[u8]) -> Flow {
        for file in uuencoded(text) {
            if !self.may_enter() || !self.count_member() {
                break;
            }
            let Some(size) = self.account(&file.octets) else { break };
            let names = [file.name];
            let flow = self.entered(&Found {
                origin: Origin::Uuencoded(file.lines),
                names: &names,
                declared: "",
                octets: &file.octets,
            });
            self.held -= size;
            flow?;
        }
        for octets in data_uris(text) {
            if !self.may_enter() || !self.count_member() {
                break;
            }
            let Some(size) = self.account(&octets) else { break };
            let flow = self.entered(&Found {
                origin: Origin::DataUri,
                names: &[],
                declared: "",
                octets: &octets,
            });
            self.held -= size;
            flow?;
        }
        ControlFlow::Continue(())
    }

    /// Goes into an archive. `is_certain` unless the octets might be one by accident only.
    fn archive(&mut self, archive: sniff::Archive, octets: &[u8], is_certain: bool) -> Flow {
        if !self.may_enter() {
            return ControlFlow::Continue(());
        }
        let mut allowance = self.limits.allowance(octets.len());
        let left = self.limits.members.saturating_sub(self.members);
        let search = self.search.checked_sub(cost(archive, octets));
        self.search = search.unwrap_or(self.search);
        let mut each = |member: Member<'_>| self.member(member, &mut allowance);
        let handed = members(archive, octets, left, search.is_some(), &mut each);
        match handed {
            Ok(flow) => flow,
            Err(Incomplete::TooMany(what)) => {
                self.remark_limit(&format!("an archive with too many {what}"));
                ControlFlow::Continue(())
            }
            Err(Incomplete::Broken(why)) => {
                if is_certain {
                    self.remark_unreadable(&format!("broken archive ({why})"));
                }
                ControlFlow::Continue(())
            }
        }
    }

    fn member(&mut self, member: Member<'_>, allowance: &mut usize) -> Flow {
        match member {
            Member::Encrypted(names) => {
                if self.count_member() {
                    self.place.push(names.first().cloned().unwrap_or_default());
                    let place = location(&self.place);
                    self.remarks.encrypted.get_or_insert(format!("needs a password: {place}"));
                    let found =
                        Found { origin: Origin::Member, names: &names, declared: "", octets: &[] };
                    let next = self.show(&found);
                    self.place.pop();
                    return leave(next);
                }
            }
            Member::Unreadable(names, why) => {
                if self.count_member() {
                    self.remark_unreadable(&format!("member that can't be read ({why})"));
                    return self.entered(&Found {
                        origin: Origin::Member,
                        names: &names,
                        declared: "",
                        octets: &[],
                    });
                }
            }
            Member::Files { content, files } => {
                let octets = self.unpack(content, allowance);
                let flow = self.files(&octets, &files);
                self.held -= octets.len();
                return flow;
            }
        }
        ControlFlow::Continue(())
    }

    fn files(&mut self, octets: &[u8], files: &[File]) -> Flow {
        for File { names, range } in files {
            if !self.count_member() {
                break;
            }
            let end = range.end.min(octets.len());
            let octets = octets.get(range.start.min(end)..end).unwrap_or_default();
            self.entered(&Found { origin: Origin::Member, names, declared: "", octets })?;
        }
        ControlFlow::Continue(())
    }

    /// Shows an object that is inside another one.
    fn entered(&mut self, found: &Found<'_>) -> Flow {
        let label = match (found.names.first(), &found.origin) {
            (Some(name), _) => name.clone(),
            (None, Origin::DataUri) => "data URI".to_owned(),
            (None, _) => "unnamed".to_owned(),
        };
        self.place.push(label);
        let flow = self.object(found);
        self.place.pop();
        flow
    }

    /// Unpacks content within all bounds; what is beyond is remarked and left.
    fn unpack(&mut self, content: &mut dyn Read, allowance: &mut usize) -> Vec<u8> {
        let bounds = [
            (*allowance, "an archive that unpacks to many times its size"),
            (self.limits.unpacked.saturating_sub(self.unpacked), "too many octets to unpack"),
            (self.limits.memory.saturating_sub(self.held), "too many octets to hold"),
        ];
        let (bound, reason) =
            bounds.into_iter().min_by_key(|(bound, _)| *bound).unwrap_or_default();
        let mut octets = Vec::new();
        let most = u64::try_from(bound).unwrap_or(u64::MAX).saturating_add(1);
        if let Err(error) = content.take(most).read_to_end(&mut octets) {
            self.remark_unreadable(&format!("broken archive ({error})"));
        }
        if octets.len() > bound {
            octets.truncate(bound);
            self.remark_limit(reason);
        }
        *allowance -= octets.len();
        self.unpacked += octets.len();
        self.held += octets.len();
        octets
    }

    /// Accounts for octets that were decoded: none, or all.
    fn account(&mut self, octets: &[u8]) -> Option<usize> {
        let left = self.limits.unpacked.saturating_sub(self.unpacked);
        if octets.len() > left.min(self.limits.memory.saturating_sub(self.held)) {
            self.remark_limit("too many octets to unpack");
            return None;
        }
        self.unpacked += octets.len();
        self.held += octets.len();
        Some(octets.len())
    }

    fn may_enter(&mut self) -> bool {
        let may = self.place.len() <= self.limits.depth;
        if !may {
            self.remark_limit("nested too deep");
        }
        may
    }

    fn count_member(&mut self) -> bool {
        self.members += 1;
        let may = self.members <= self.limits.members;
        if !may {
            self.remark_limit("too many archive members, files in text and nested parts");
        }
        may
    }

    fn remark_limit(&mut self, reason: &str) {
        let place = location(&self.place);
        self.remarks.limit.get_or_insert_with(|| remark(reason, &place));
    }

    fn remark_unreadable(&mut self, reason: &str) {
        let place = location(&self.place);
        self.remarks.unreadable.get_or_insert_with(|| remark(reason, &place));
    }
}

fn remark(reason: &str, place: &str) -> String {
    if place.is_empty() { reason.to_owned() } else { format!("{reason}: {place}") }
}

fn leave(next: Next) -> Flow {
    match next {
        Next::Descend | Next::Skip => ControlFlow::Continue(()),
        Next::SkipPart => ControlFlow::Break(Leave::Part),
        Next::Stop => ControlFlow::Break(Leave::All),
    }
}

/// The transfer encodings by which some client may read a part: the first field that declares one
/// counts, but not for every client, and not every client minds what an unknown one looks like.
fn transfers(mail: &Mail, part: &Part) -> Vec<Transfer> {
    /// Fields that are looked at.
    const FIELDS: usize = 4;
    let mut transfers = vec![part.transfer.clone()];
    let fields = part.fields.iter().filter(|f| f.is_named(mail, "Content-Transfer-Encoding"));
    let declared: Vec<String> =
        fields.take(FIELDS).map(|field| field.text(mail).to_lowercase()).collect();
    let known = [("base64", Transfer::Base64), ("quoted", Transfer::QuotedPrintable)];
    for (word, transfer) in known {
        if declared.iter().any(|value| value.contains(word)) && !transfers.contains(&transfer) {
            transfers.push(transfer);
        }
    }
    transfers
}
