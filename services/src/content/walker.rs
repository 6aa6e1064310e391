//! The one who walks.

use std::cell::OnceCell;
use std::io::Read;

use bytes::Bytes;

use super::archive::{Ended, File, Incomplete, Member, cost, members};
use super::limits::{Limits, Room};
use super::office::{Office, office};
use super::sniff;
use super::store::{Stored, store, stored_part_by};
use super::walk::{Next, Object, Origin, Remarks, Visit, location, part_labels};
use crate::mail::{
    Base64Rule, Decoder, Embedded, Mail, Octets, OtherPart, Part, PartKind, SpoolError, Transfer,
    data_uris, header_of, uuencoded,
};
use crate::temporary::TemporaryFolder;

/// Where the walk is left.
pub(super) enum Leave {
    Part,
    All,
    Failed(SpoolError),
}

impl<E: Into<SpoolError>> From<E> for Leave {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

type Flow = Result<(), Leave>;

/// An object before it is shown.
struct Found<'a> {
    origin: Origin,
    names: &'a [String],
    declared: &'a str,
    octets: &'a Octets,
    /// The encoded part that it is the body of.
    body_of: Option<&'a Part>,
}

pub(super) struct Walker<'v> {
    limits: &'v Limits,
    folder: &'v TemporaryFolder,
    visit: Visit<'v>,
    pub(super) remarks: Remarks,
    place: Vec<String>,
    part: usize,
    /// What is odd about the message where only some clients see what is looked at.
    oddity: Option<&'static str>,
    members: usize,
    unpacked: usize,
    /// Unpacked octets in memory.
    held: usize,
    /// What is left for the directories of archives.
    search: u64,
}

/// What the directories of all archives in a message may cost: a second or two.
const MOST_SEARCH: u64 = 8_000_000_000;

impl<'v> Walker<'v> {
    pub(super) fn new(room: &'v Room, visit: Visit<'v>) -> Self {
        Self {
            limits: &room.limits,
            folder: &room.folder,
            visit,
            remarks: Remarks::default(),
            place: Vec::new(),
            part: 0,
            oddity: None,
            members: 0,
            unpacked: 0,
            held: 0,
            search: MOST_SEARCH,
        }
    }

    pub(super) fn mail(&mut self, mail: &Mail) -> Flow {
        let is_outermost = self.place.is_empty();
        if let Some(bound) = mail.is_truncated()? {
            self.remark_limit(bound);
        }
        if let Some(bound) = mail.others_are_truncated()? {
            self.remark_limit(bound);
        }
        let parts = mail.parts()?;
        let labels = part_labels(parts);
        let known = parts.iter().zip(&labels).enumerate();
        let known = known.filter(|(_, (part, _))| part.kind == PartKind::Leaf);
        let known = known.map(|(index, (part, label))| (index, part, label.clone(), None));
        let others = mail.other_parts()?.iter().map(|OtherPart { part, oddity }| {
            let within = part.parent.unwrap_or_default();
            let label = labels.get(within).map_or("part 1", String::as_str);
            (within, part, format!("{label}, {oddity}"), Some(*oddity))
        });
        let mut is_left = vec![false; parts.len()];
        let oddity = self.oddity;
        for (index, part, label, other) in known.chain(others) {
            if is_outermost {
                if is_left.get(index).is_some_and(|is_left| *is_left) {
                    continue;
                }
                self.part = index;
            } else if !self.count_member() {
                break;
            }
            self.place.push(label);
            self.oddity = oddity.or(other);
            let flow = self.leaf(mail, part);
            self.oddity = oddity;
            self.place.pop();
            match flow {
                Err(Leave::Part) if is_outermost => {
                    if let Some(is_left) = is_left.get_mut(index) {
                        *is_left = true;
                    }
                }
                flow => flow?,
            }
        }
        Ok(())
    }

    fn leaf(&mut self, mail: &Mail, part: &Part) -> Flow {
        let raw = mail.octets(part.body.clone());
        let found = Found {
            origin: Origin::RawPart,
            names: &part.names,
            declared: &part.content_type.essence,
            octets: &raw,
            body_of: None,
        };
        let transfers = transfers(part);
        for transfer in &transfers {
            let is_odd = self.decoded(&found, part, transfer, Base64Rule::Tolerant)?;
            if is_odd {
                self.decoded_otherwise(&found, part, transfer)?;
            }
        }
        if part.transfer.is_identity() {
            return Ok(());
        }
        match self.show(&found, &raw.read(0..sniff::HEAD)?)?.0 {
            Next::Descend if transfers.contains(&Transfer::Uuencode) => self.text(&raw),
            next => leave(next),
        }
    }

    /// Shows a part as a client decodes it; returns whether another rule for base64 would decode it to something else.
    fn decoded(
        &mut self,
        raw: &Found<'_>,
        part: &Part,
        transfer: &Transfer,
        rule: Base64Rule,
    ) -> Result<bool, Leave> {
        let memory = self.memory_left();
        let (octets, is_odd) = stored_part_by(raw.octets, transfer, rule, memory, self.folder)?;
        // The octets of parts don't count if the message itself is in memory.
        let held = if raw.octets.in_memory().is_some() { 0 } else { in_memory(&octets) };
        self.held += held;
        let body_of = (!transfer.is_identity()).then_some(part);
        let flow = self.object(&Found { origin: Origin::Part, octets: &octets, body_of, ..*raw });
        self.held -= held;
        flow.map(|()| is_odd)
    }

    /// The same by the other rules for base64.
    fn decoded_otherwise(&mut self, raw: &Found<'_>, part: &Part, transfer: &Transfer) -> Flow {
        const ODDITY: &str = "base64 that can be read in several ways";
        let oddity = self.oddity;
        let label = self.place.pop().unwrap_or_default();
        self.place.push(format!("{label}, {ODDITY}"));
        self.oddity = oddity.or(Some(ODDITY));
        let mut flow = Ok(());
        for rule in [Base64Rule::Ends, Base64Rule::PassedOver] {
            flow = flow.and_then(|()| self.decoded(raw, part, transfer, rule).map(drop));
        }
        self.oddity = oddity;
        self.place.pop();
        self.place.push(label);
        flow
    }

    /// Shows an object, and goes into it.
    fn object(&mut self, found: &Found<'_>) -> Flow {
        let head = found.octets.read(0..sniff::HEAD)?;
        let flow = match self.show(found, &head)? {
            (Next::Descend, office) => self.inside(found, &head, office),
            (next, _) => leave(next),
        };
        // What went into it can't tell broken content from octets that can't be read.
        found.octets.check()?;
        flow
    }

    /// How the walk goes on, and what the visitor has found out about an Office file.
    fn show(
        &mut self,
        found: &Found<'_>,
        head: &[u8],
    ) -> Result<(Next, Option<Office>), SpoolError> {
        let object = Object {
            part: self.part,
            place: &self.place,
            origin: &found.origin,
            names: found.names,
            declared: found.declared,
            octets: found.octets,
            head,
            oddity: self.oddity,
            office: OnceCell::new(),
        };
        let next = (self.visit)(&object)?;
        Ok((next, object.office.into_inner()))
    }

    fn inside(&mut self, found: &Found<'_>, head: &[u8], known: Option<Office>) -> Flow {
        let octets = found.octets;
        if let Some(part) = found.body_of
            && found.declared.starts_with("multipart/")
        {
            return self.message(&content_fields(part), octets);
        }
        if let Some(archive) = sniff::archive(head) {
            return self.archive(archive, octets, true);
        }
        let office = known.map_or_else(|| office(found.names, head, octets), Ok)?;
        if office.is_encrypted {
            self.remark_encrypted();
        }
        if sniff::has_zip_end(octets)? {
            self.archive(sniff::Archive::Zip, octets, false)?;
        } else if let Some(kind) = sniff::unread_archive(head) {
            self.remark_unreadable(&format!("{kind} archives are not read"));
        }
        if sniff::is_text(head) || found.declared.starts_with("text/") {
            self.text(octets)?;
        }
        if found.declared == "message/partial" {
            self.remark_unreadable("a fragment of a message, which clients put together");
        }
        if found.declared.starts_with("message/") || sniff::is_mail(octets)? {
            return self.nested(octets);
        }
        Ok(())
    }

    /// Goes into a message that is encoded or in an archive.
    fn nested(&mut self, octets: &Octets) -> Flow {
        let (header, is_cut) = header_of(octets)?;
        if is_cut {
            self.remark_limit("1,048,576 or more octets in a header section");
        }
        let body = octets.slice(header.len()..octets.len());
        self.message(&header, &body)
    }

    /// Goes into a message, if it is within all bounds.
    fn message(&mut self, header: &Bytes, body: &Octets) -> Flow {
        if !self.may_enter() {
            return Ok(());
        }
        let length = header.len() + body.len();
        if length > self.limits.unpacked.saturating_sub(self.unpacked) {
            self.remark_limit("too many octets to unpack");
            return Ok(());
        }
        self.unpacked += length;
        self.mail(&Mail::new(header.clone(), body.clone()))
    }

    /// Goes into the files that stand in a text.
    fn text(&mut self, text: &Octets) -> Flow {
        for file in uuencoded(text) {
            let Embedded { name, range, content } = file?;
            if !self.embedded(Origin::Uuencoded(range), &[name], content)? {
                break;
            }
        }
        for file in data_uris(text) {
            if !self.embedded(Origin::DataUri, &[], file?.content)? {
                break;
            }
        }
        Ok(())
    }

    /// Goes into a file that stands in a text, if it is within all bounds.
    fn embedded(
        &mut self,
        origin: Origin,
        names: &[String],
        mut content: Decoder,
    ) -> Result<bool, Leave> {
        if !self.may_enter() || !self.count_member() {
            return Ok(false);
        }
        let left = self.limits.unpacked.saturating_sub(self.unpacked);
        let stored = store(&mut content, left, self.memory_left(), self.folder)?;
        let Stored { octets, is_cut, broken } = stored;
        if let Some(error) = broken {
            return Err(error.into());
        }
        if is_cut {
            self.remark_limit("too many octets to unpack");
            return Ok(false);
        }
        self.unpacked += octets.len();
        self.held += in_memory(&octets);
        let flow =
            self.entered(&Found { origin, names, declared: "", octets: &octets, body_of: None });
        self.held -= in_memory(&octets);
        flow.map(|()| true)
    }

    /// Goes into an archive. `is_certain` unless the octets might be one by accident only.
    fn archive(&mut self, archive: sniff::Archive, octets: &Octets, is_certain: bool) -> Flow {
        if !self.may_enter() {
            return Ok(());
        }
        let mut allowance = self.limits.allowance(octets.len());
        let left = self.limits.members.saturating_sub(self.members);
        let search = self.search.checked_sub(cost(archive, octets)?);
        self.search = search.unwrap_or(self.search);
        let mut each = |member: Member<'_>| self.member(member, &mut allowance);
        match members(archive, octets, left, search.is_some(), &mut each) {
            Err(Ended::Left(leave)) => return Err(leave),
            Err(Ended::Incomplete(Incomplete::TooMany(what))) => {
                self.remark_limit(&format!("an archive with too many {what}"));
            }
            Err(Ended::Incomplete(Incomplete::Broken(why))) if is_certain => {
                self.remark_unreadable(&format!("broken archive ({why})"));
            }
            Err(Ended::Incomplete(Incomplete::Broken(_))) | Ok(()) => {}
        }
        Ok(())
    }

    fn member(&mut self, member: Member<'_>, allowance: &mut usize) -> Flow {
        let octets = Octets::default();
        let found =
            |origin, names| Found { origin, names, declared: "", octets: &octets, body_of: None };
        match member {
            Member::Encrypted(names) if self.count_member() => {
                self.place.push(names.first().cloned().unwrap_or_default());
                self.remark_encrypted();
                let next = self.show(&found(Origin::LockedMember, &names), &[]);
                self.place.pop();
                leave(next?.0)
            }
            Member::Unreadable(names, why) if self.count_member() => {
                self.remark_unreadable(&format!("member that can't be read ({why})"));
                self.entered(&found(Origin::Member, &names))
            }
            Member::Encrypted(_) | Member::Unreadable(..) => Ok(()),
            Member::Files { content, files } => {
                let octets = self.unpack(content, allowance)?;
                self.held += in_memory(&octets);
                let flow = self.files(&octets, &files);
                self.held -= in_memory(&octets);
                flow
            }
        }
    }

    fn files(&mut self, octets: &Octets, files: &[File]) -> Flow {
        for File { names, range } in files {
            if !self.count_member() {
                break;
            }
            let octets = octets.slice(range.clone());
            let found = Found {
                origin: Origin::Member,
                names,
                declared: "",
                octets: &octets,
                body_of: None,
            };
            self.entered(&found)?;
        }
        Ok(())
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
    fn unpack(
        &mut self,
        content: &mut dyn Read,
        allowance: &mut usize,
    ) -> Result<Octets, SpoolError> {
        let unpacked = self.limits.unpacked.saturating_sub(self.unpacked);
        let (most, reason) = match *allowance < unpacked {
            true => (*allowance, "an archive that unpacks to many times its size"),
            false => (unpacked, "too many octets to unpack"),
        };
        let stored = store(content, most, self.memory_left(), self.folder)?;
        let Stored { octets, is_cut, broken } = stored;
        if let Some(error) = broken {
            self.remark_unreadable(&format!("broken archive ({error})"));
        }
        if is_cut {
            self.remark_limit(reason);
        }
        *allowance -= octets.len();
        self.unpacked += octets.len();
        Ok(octets)
    }

    fn memory_left(&self) -> usize {
        self.limits.memory.saturating_sub(self.held)
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

    fn remark_encrypted(&mut self) {
        let place = location(&self.place);
        self.remarks.encrypted.get_or_insert_with(|| format!("needs a password: {place}"));
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
        Next::Descend | Next::Skip => Ok(()),
        Next::SkipPart => Err(Leave::Part),
        Next::Stop => Err(Leave::All),
    }
}

/// Octets that take memory.
fn in_memory(octets: &Octets) -> usize {
    octets.in_memory().map_or(0, |octets| octets.len())
}

/// The types of a part, as a header section of their own.
fn content_fields(part: &Part) -> Bytes {
    let types = part.fields.iter().filter(|field| field.is_named("Content-Type"));
    let lines = types.flat_map(|field| [field.raw_name(), b":", field.raw_value(), b"\r\n"]);
    lines.chain([&b"\r\n"[..]]).collect::<Vec<_>>().concat().into()
}

/// The transfer encodings by which some client may read a part: the first field that declares one
/// counts, but not for every client, and not every client minds what an unknown one looks like.
fn transfers(part: &Part) -> Vec<Transfer> {
    let mut transfers = vec![part.transfer.clone()];
    let fields = part.fields.iter().filter(|f| f.is_named("Content-Transfer-Encoding"));
    let declared: Vec<String> = fields.map(|field| field.text().to_lowercase()).collect();
    let known = [("base64", Transfer::Base64), ("quoted", Transfer::QuotedPrintable)];
    for (word, transfer) in known {
        if declared.iter().any(|value| value.contains(word)) && !transfers.contains(&transfer) {
            transfers.push(transfer);
        }
    }
    transfers
}
