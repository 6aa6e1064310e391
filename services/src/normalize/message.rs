//! A message put right: all corrections, one after the other, until there is nothing left to correct.

use std::borrow::Cow;
use std::cell::Cell;
use std::fmt;
use std::ops::Range;

use bytes::BytesMut;
use ocp_proto::smtp::Reply;

use super::corrections::{CORRECTIONS, Fix, View};
use super::sealed::Sealed;
use super::settings::{Action, Checked};
use crate::content::{Policy, applied, printable};
use crate::mail::{Edits, Mail, Segment, SpoolError};
use crate::outcome::{Change, Finding, Outcome};
use crate::service::{Request, ServiceError};

/// How often all corrections are made. What one of them uncovers, such as a part in what had no boundary, is put
/// right the next time. Worst case a message: this many times each correction, and a copy of it in memory each time.
const ROUNDS: usize = 4;
/// The most fields and parts that are named for one correction.
const MOST_NAMED: usize = 4;

/// Puts a message right.
pub(super) fn normalized(
    settings: &Checked,
    request: &Request,
    mail: &Mail,
) -> Result<Outcome, ServiceError> {
    if mail.header().is_empty() {
        return Ok(Outcome::unchanged(Finding::new("unchanged")));
    }
    if mail.is_cut() {
        let (policy, tag) = (settings.on_limit, &settings.tag);
        return applied(request, policy, tag, "limit", "not all of it is here", REFUSAL);
    }
    let mut work = Work {
        settings,
        request,
        mail,
        version: None,
        sealed: None,
        room: settings.new_octets,
        is_full: false,
        corrected: Report::default(),
        left: Report::default(),
    };
    let mut is_at_rest = false;
    for _ in 0..ROUNDS {
        match work.round()? {
            Round::AtRest => {
                is_at_rest = true;
                break;
            }
            Round::Corrected => {}
            Round::Refused(found) => return refused(settings, &found.to_string()),
        }
    }
    let limit = match work.current().is_truncated()? {
        _ if !is_at_rest => Some("one correction makes another one necessary"),
        _ if work.is_full => Some("it would take more new octets than allowed"),
        truncated => truncated,
    };
    work.outcome(limit)
}

/// What a refusal says.
const REFUSAL: &str = "The message is malformed";

fn refused(settings: &Checked, found: &str) -> Result<Outcome, ServiceError> {
    let reply = match &settings.reject_reply {
        Some(reply) => reply.clone(),
        None => {
            Reply::new(554, "5.6.0", REFUSAL).map_err(|error| ServiceError::new("reply", error))?
        }
    };
    let finding = Finding::new("refused").with_reason(printable(found));
    Ok(Outcome::changed(Change::Reply(reply), "refused").with_finding(finding))
}

/// A message that is being put right.
struct Work<'a> {
    settings: &'a Checked,
    request: &'a Request,
    /// As the service saw it.
    mail: &'a Mail,
    /// As it is now, over that.
    version: Option<Mail>,
    /// What of that is signed or encrypted, once somebody has looked.
    sealed: Option<Sealed>,
    /// New octets that it may still get.
    room: usize,
    /// Whether it would need more.
    is_full: bool,
    /// What was corrected so far.
    corrected: Report,
    /// What the last round has found and not corrected.
    left: Report,
}

/// What came of all corrections, made once.
enum Round {
    /// There was nothing to correct.
    AtRest,
    /// There was.
    Corrected,
    /// This was found, and leads to a refusal.
    Refused(Report),
}

impl Work<'_> {
    fn current(&self) -> &Mail {
        self.version.as_ref().unwrap_or(self.mail)
    }

    /// Makes each correction once.
    fn round(&mut self) -> Result<Round, ServiceError> {
        self.left = Report::default();
        let mut round = Round::AtRest;
        for correction in &CORRECTIONS {
            let action = (correction.action)(&self.settings.message);
            if action == Action::Leave {
                continue;
            }
            let may_break = self.settings.signed.contains(&correction.name);
            let (fixes, not_made) = self.find(correction.find, may_break)?;
            if action == Action::Reject && !(fixes.is_empty() && not_made.is_empty()) {
                let mut found = Report::default();
                found.add(correction.name, fixes);
                found.add(correction.name, not_made);
                return Ok(Round::Refused(found));
            }
            self.left.add(correction.name, not_made);
            if !fixes.is_empty() {
                self.apply(&fixes)?;
                self.corrected.add(correction.name, fixes);
                round = Round::Corrected;
            }
        }
        Ok(round)
    }

    /// What one correction finds: what is to be done, and what is not.
    fn find(
        &mut self,
        find: fn(&View<'_>) -> Result<Vec<Fix>, SpoolError>,
        may_break: bool,
    ) -> Result<(Vec<Fix>, Vec<Fix>), SpoolError> {
        let sealed = match self.sealed.take() {
            Some(sealed) => sealed,
            None => Sealed::of(self.current())?,
        };
        let view = View {
            mail: self.current(),
            settings: self.settings,
            request: self.request,
            sealed: &sealed,
            room: Cell::new(self.room),
            is_full: Cell::new(self.is_full),
        };
        let is_sealed = |fix: &Fix| fix.edits.iter().any(|edit| sealed.covers(&edit.range));
        let (mut room, mut is_full) = (self.room, false);
        let (fixes, not_made) = find(&view)?.into_iter().partition(|fix| {
            let octets = fix.cost();
            let is_wanted = !fix.edits.is_empty() && (may_break || !is_sealed(fix));
            let is_made = is_wanted && octets <= room;
            is_full |= is_wanted && !is_made;
            room -= if is_made { octets } else { 0 };
            is_made
        });
        self.is_full = is_full || view.is_full.get();
        (self.room, self.sealed) = (room, Some(sealed));
        Ok((fixes, not_made))
    }

    fn apply(&mut self, fixes: &[Fix]) -> Result<(), ServiceError> {
        let mut edits = Edits::new();
        for edit in fixes.iter().flat_map(|fix| &fix.edits) {
            edits.replace(edit.range.clone(), edit.insert.clone());
        }
        self.edit(&edits)
    }

    fn edit(&mut self, edits: &Edits) -> Result<(), ServiceError> {
        let edited = match &self.version {
            Some(version) => version.edited(edits),
            // Its edits are counted from what the service saw.
            None => Mail::new(self.mail.header().clone(), self.mail.body().clone()).edited(edits),
        };
        self.sealed = None;
        self.version = Some(edited.map_err(|error| ServiceError::new("normalize", error))?);
        Ok(())
    }

    /// What becomes of the message, if nothing that was found leads to a refusal. Not all of it could be put right if
    /// there is a `limit`.
    fn outcome(mut self, limit: Option<&'static str>) -> Result<Outcome, ServiceError> {
        let (corrected, left) = (self.corrected.to_string(), self.left.to_string());
        let left = if left.is_empty() { left } else { format!("left: {left}") };
        let reasons = [limit.unwrap_or_default(), &corrected, &left];
        let reasons: Vec<_> = reasons.into_iter().filter(|reason| !reason.is_empty()).collect();
        let reason = reasons.join("; ");
        let verdict = match (corrected.is_empty(), left.is_empty()) {
            _ if limit.is_some() => "limit",
            (false, _) => "corrected",
            (true, false) => "left",
            (true, true) => return Ok(Outcome::unchanged(Finding::new("unchanged"))),
        };
        let reason = printable(&reason);
        let corrected = Outcome::unchanged(Finding::new(verdict).with_reason(reason.clone()));
        let outcome = match (limit, self.settings.on_limit) {
            (None, _) => corrected,
            (Some(_), Policy::Tag) => {
                let mut edits = Edits::new();
                self.settings.tag.mark(self.current(), verdict, &reason, &mut edits);
                self.edit(&edits)?;
                corrected
            }
            (Some(_), policy) => {
                applied(self.request, policy, &self.settings.tag, verdict, &reason, REFUSAL)?
            }
        };
        Ok(match outcome.change {
            Change::None => Outcome { change: self.change(), ..outcome },
            _ => outcome,
        })
    }

    /// All edits together.
    fn change(&self) -> Change {
        let Some(version) = self.version.as_ref().map(Mail::version) else { return Change::None };
        let header = self.mail.header().len();
        let mut edits = Edits::new();
        add_edits(&mut edits, &version.header, 0..header);
        add_edits(&mut edits, &version.body, header..self.mail.len());
        if edits.is_empty() { Change::None } else { Change::Content(edits) }
    }
}

/// The edits that make these stretches of one half of a message.
fn add_edits(edits: &mut Edits, segments: &[Segment], whole: Range<usize>) {
    let mut at = whole.start;
    let mut new = BytesMut::new();
    for segment in segments {
        match segment {
            Segment::Insert(octets) => new.extend_from_slice(octets),
            Segment::Keep(range) => {
                if at < range.start || !new.is_empty() {
                    edits.replace(at..range.start, new.split().freeze());
                }
                at = range.end;
            }
        }
    }
    if at < whole.end || !new.is_empty() {
        edits.replace(at..whole.end, new.freeze());
    }
}

/// What was found: names of corrections, each with the fields and parts that it is about.
#[derive(Debug, Default)]
struct Report(Vec<(&'static str, Vec<Cow<'static, str>>)>);

impl Report {
    fn add(&mut self, name: &'static str, fixes: Vec<Fix>) {
        if fixes.is_empty() {
            return;
        }
        let at = self.0.iter().position(|(known, _)| *known == name).unwrap_or(self.0.len());
        if at == self.0.len() {
            self.0.push((name, Vec::new()));
        }
        let Some((_, named)) = self.0.get_mut(at) else { return };
        for fix in fixes {
            if named.len() <= MOST_NAMED && !named.contains(&fix.what) {
                named.push(fix.what);
            }
        }
    }
}

impl fmt::Display for Report {
    /// As in `line-ends (header, body), doubled-fields (To)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for (name, named) in &self.0 {
            let shown = named.get(..named.len().min(MOST_NAMED)).unwrap_or_default().join(", ");
            let more = if named.len() > MOST_NAMED { ", ..." } else { "" };
            write!(f, "{separator}{name} ({shown}{more})")?;
            separator = ", ";
        }
        Ok(())
    }
}
