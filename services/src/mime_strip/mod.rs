//! `mime-strip`: removes parts by name, declared type and content.
//!
//! Every name that some client might see counts, in every spelling that some system might read it
//! in; so do the names and contents of files in archives, in nested messages, and uuencoded in text.
//! A text notice takes the place of a part (of the lines, for a file in unencoded text); all other
//! octets stay. A message that is nothing but a forbidden file becomes the notice.
//!
//! The verdict is `stripped`, `too-big` (something is beyond a limit) or `clean`. When the service
//! itself fails, the sender has to try again later.
//!
//! ```toml
//! forbidden-names = ["*secret*", "/^invoice_[0-9]+\\./"]   # patterns, or regular expressions
//! forbidden-extensions = ["exe", "scr", "js"]              # instead of the list built in
//! forbidden-types = ["application/x-ms*"]
//! forbidden-content = ["windows-executable", "elf", "mach-o", "java-class", "windows-shortcut"]
//! inside-archives = true
//! scans = 8                                                # messages at the same time
//! on-limit = "reject"                                      # accept, quarantine, tempfail, reject
//! notice = "{name} ({type}) was removed: {reason}"
//!
//! [limits]
//! depth = 16                                               # as for virus-scan
//! ```

mod rules;
mod settings;
#[cfg(test)]
mod tests;

use std::ops::Range;
use std::sync::Arc;

use futures_util::future::{BoxFuture, FutureExt};
use ocp_proto::smtp::{Command, EffectName};

pub use settings::MimeStripSettings;

use crate::content::{
    Next, Object, Origin, Policy, Room, Scans, applied, fill, part_labels, printable, walk,
};
use crate::mail::{Edits, Mail, Notice, Part, PartKind, SpoolError, Transfer};
use crate::outcome::{Change, Finding, Outcome};
use crate::registry::{Kind, Settings, SettingsError};
use crate::service::{Declaration, Request, Service, ServiceError};
use rules::Rules;

/// The kind `mime-strip`.
pub const KIND: Kind = Kind {
    name: "mime-strip",
    summary: "removes forbidden attachments, by name, type and content",
    needs_settings: false,
    build: |settings| Ok(Arc::new(MimeStrip::new(settings)?)),
};

struct MimeStrip {
    rules: Arc<Rules>,
    scans: Scans,
    room: Room,
    settings: MimeStripSettings,
}

/// Something forbidden.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Match {
    part: usize,
    /// The lines of the message that hold it, if it is a file in unencoded text.
    lines: Option<Range<usize>>,
    name: String,
    declared: String,
    /// Why.
    reason: String,
    /// Where.
    place: String,
}

impl MimeStrip {
    fn new(settings: Settings<'_>) -> Result<Self, SettingsError> {
        let folder = settings.temporary_folder().clone();
        let settings: MimeStripSettings = settings.read()?;
        Ok(Self {
            rules: Arc::new(Rules::new(&settings)?),
            scans: Scans::new(settings.scans)?,
            room: Room { limits: settings.limits.clone(), folder },
            settings,
        })
    }

    async fn strip(&self, request: &Request, mail: &Arc<Mail>) -> Result<Outcome, ServiceError> {
        let (found, limit) = {
            let (mail, rules) = (Arc::clone(mail), Arc::clone(&self.rules));
            let (room, inside) = (self.room.clone(), self.settings.inside_archives);
            let running = self.scans.start().await?;
            running.run(move || search(&mail, &rules, &room, inside)).await??
        };
        if let Some(reason) = &limit
            && (found.is_empty() || self.settings.on_limit != Policy::Accept)
        {
            let text = format!("content can't be examined: {reason}");
            return applied(request, self.settings.on_limit, "too-big", reason, &text);
        }
        let Some(first) = found.first() else {
            return Ok(Outcome::unchanged(Finding::new("clean")));
        };
        let mut reason = format!("{} in {}", first.reason, first.place);
        if found.len() > 1 {
            reason = format!("{reason}; {} more", found.len() - 1);
        }
        let mut edits = Edits::new();
        for found in &found {
            self.remove(mail, found, &mut edits)?;
        }
        let finding = Finding::new("stripped").with_reason(printable(&reason));
        Ok(Outcome::changed(Change::Content(edits), "stripped").with_finding(finding))
    }

    fn remove(&self, mail: &Mail, found: &Match, edits: &mut Edits) -> Result<(), SpoolError> {
        let reason = format!("{} in {}", found.reason, found.place);
        let text = fill(
            &self.settings.notice,
            &[("{name}", &found.name), ("{type}", &found.declared), ("{reason}", &reason)],
        );
        if let Some(lines) = &found.lines {
            let end = mail.line_ending();
            let text: String = text.lines().flat_map(|line| [line, end]).collect();
            edits.replace(lines.clone(), text.into());
        } else if let Some(part) = mail.parts()?.get(found.part) {
            edits.replace_part(
                mail,
                part,
                Notice { text: &text, filename: Some("removed.txt") },
            )?;
        }
        Ok(())
    }
}

/// Everything forbidden in a mail, and the first bound that kept something from being looked at.
fn search(
    mail: &Mail,
    rules: &Rules,
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
        let reason = rules.forbid(&part.names, &part.content_type.essence, b"");
        let reason = reason.filter(|_| part.kind != PartKind::Leaf && !parent_is_gone);
        if let Some(gone) = is_gone.get_mut(index) {
            *gone = parent_is_gone || reason.is_some();
        }
        if let Some(reason) = reason {
            let declared = part.content_type.essence.clone();
            let name = name(&part.names);
            found.push(Match { part: index, lines: None, name, declared, reason, place });
        }
    }
    let mut visit = |object: &Object<'_>| {
        if is_gone.get(object.part).is_some_and(|gone| *gone) {
            return Ok(Next::SkipPart);
        }
        if *object.origin == Origin::RawPart {
            return Ok(Next::Descend);
        }
        let Some(reason) = rules.forbid(object.names, object.declared, object.head) else {
            let is_shut = !inside_archives && object.is_archive()?;
            return Ok(if is_shut { Next::Skip } else { Next::Descend });
        };
        let Some(part) = parts.get(object.part) else { return Ok(Next::SkipPart) };
        let lines = plain_lines(mail, part, object)?;
        // What is removed with all around it has the name of that.
        let is_inside = object.place.len() > 1 && lines.is_none();
        let shown = if is_inside { &part.names[..] } else { object.names };
        let next = if lines.is_some() { Next::Skip } else { Next::SkipPart };
        if lines.is_none() {
            // The whole part goes, and these lines with it.
            found.retain(|earlier| earlier.part != object.part);
        }
        found.push(Match {
            part: object.part,
            lines,
            name: name(shown),
            declared: part.content_type.essence.clone(),
            reason,
            place: object.location(),
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
    let Origin::Uuencoded(lines) = object.origin else { return Ok(None) };
    let is_plain = matches!(part.transfer, Transfer::Identity) && object.place.len() == 2;
    let lines = part.body.start + lines.start..part.body.start + lines.end;
    let start = mail.octets(lines.clone()).read(0..6)?;
    Ok((is_plain && start == "begin ").then_some(lines))
}

impl Service for MimeStrip {
    fn declaration(&self) -> Declaration {
        let quarantines = self.settings.on_limit == Policy::Quarantine;
        let effects = if quarantines { vec![EffectName::Quarantine] } else { Vec::new() };
        Declaration { effects, ..Declaration::on([Command::Message]) }
    }

    fn worst_case_memory(&self) -> usize {
        self.settings.limits.worst_case(self.settings.scans)
    }

    fn handle<'a>(&'a self, request: &'a Request) -> BoxFuture<'a, Result<Outcome, ServiceError>> {
        async move {
            match request.mail() {
                Some(mail) => self.strip(request, mail).await,
                None => Ok(Outcome::unchanged(Finding::new("unchanged"))),
            }
        }
        .boxed()
    }
}
