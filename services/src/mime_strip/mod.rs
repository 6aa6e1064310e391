//! `mime-strip`: removes parts by name, declared type and content.
//!
//! Every name that some client might see counts, in every spelling that some system might read it
//! in; so do the names and contents of files in archives, in nested messages, and uuencoded in text.
//! A text notice takes the place of a part (of the lines, for a file in unencoded text); all other
//! octets stay. A message that is nothing but a forbidden file becomes the notice.
//!
//! Rules go before that: the first one that is for a mail, by its direction, its sender and a recipient, and about a
//! file decides what happens to that. Recipients with different rules get versions of their own where the MTA can;
//! otherwise the strictest rule counts for all of them, and the verdict's reason says so.
//!
//! What only some clients see, since the mail breaks the rules of MIME, goes as well; a mail in which it would stay is
//! refused.
//!
//! The verdict is `stripped`, `tagged`, `forbidden` (a rule stopped the message), `too-big` (something is beyond a
//! limit), `exempt` (a rule lets all pass) or `clean`. When the service itself fails, the sender has to try again
//! later.
//!
//! ```toml
//! forbidden-names = ["*secret*", "/^invoice_[0-9]+\\./"]   # patterns, or regular expressions
//! forbidden-extensions = ["exe", "scr", "js"]              # instead of the list built in
//! forbidden-types = ["application/x-ms*"]
//! forbidden-content = ["windows-executable", "elf", "mach-o", "java-class", "windows-shortcut"]
//! inside-archives = true
//! scans = 8                                                # messages at the same time
//! on-limit = "reject"                         # accept, tag, quarantine, tempfail, discard, reject
//! notice = "{name} ({type}) was removed: {reason}"
//! language = "en"                             # of notices that are built in
//! languages = [{ recipients = ["example.de", ".example.at"], language = "de" }]
//! tag = { subject = "[attachment] ", field = "X-Content-Warning" }
//!
//! [[rules]]                                   # the first one that is about a file decides
//! recipients = ["abuse@example.org"]          # nothing is removed for them
//! action = "accept"
//!
//! [[rules]]
//! direction = "inbound"                       # from clients that have not authenticated
//! senders = [".example.net"]
//! macros = true                               # any of these: names, extensions, types, content,
//! encrypted = true                            # macros, encrypted, mismatched, larger-than
//! mismatched = true
//! larger-than = 20971520
//! action = "strip"            # accept, tag, replace, strip, quarantine, tempfail, discard, reject
//!
//! [limits]
//! depth = 16                                               # as for virus-scan
//! ```

mod notices;
mod patterns;
mod removal;
mod rules;
mod search;
mod settings;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use futures_util::future::{BoxFuture, FutureExt};
use ocp_proto::smtp::{Address, Command};

pub use settings::{Action, Direction, LanguageSettings, MimeStripSettings, RuleSettings};

use crate::content::{Policy, Room, Scan, Scans, applied, effects, printable};
use crate::mail::{Edits, Mail, SpoolError};
use crate::outcome::{Change, Finding, Outcome};
use crate::registry::{Kind, Settings, SettingsError};
use crate::service::{Declaration, Request, Service, ServiceError};
use notices::Notices;
use removal::remove;
use rules::{Applied, Rules};
use search::{Match, search};

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

impl MimeStrip {
    fn new(settings: Settings<'_>) -> Result<Self, SettingsError> {
        let directory = settings.directory().to_owned();
        let folder = settings.temporary_folder().clone();
        let settings: MimeStripSettings = settings.read()?;
        let notices = Notices::new(&settings, &directory)?;
        Ok(Self {
            rules: Arc::new(Rules::new(&settings, notices)?),
            scans: Scans::new(settings.scans)?,
            room: Room { limits: settings.limits.clone(), folder },
            settings,
        })
    }

    async fn strip(&self, request: &Request, mail: &Arc<Mail>) -> Result<Outcome, ServiceError> {
        let rules = self.rules.applied(request);
        if rules.are_all_exempt() {
            return Ok(Outcome::unchanged(Finding::new("exempt")));
        }
        let differ = rules.are_different();
        let running = self.scans.start().await?;
        let (found, limit) = self.search(&running, mail, &rules).await?;
        let strictest = found.iter().max_by_key(|one| one.decision.action);
        let policy = strictest.and_then(|one| one.decision.action.policy());
        if let Some(reason) = &limit
            && (found.is_empty() || self.settings.on_limit != Policy::Accept)
            && policy.is_none_or(|policy| policy <= self.settings.on_limit)
        {
            let text = format!("content can't be examined: {reason}");
            return self.applied(request, self.settings.on_limit, "too-big", reason, &text);
        }
        let Some(strictest) = strictest else {
            return Ok(Outcome::unchanged(Finding::new("clean")));
        };
        let mut reason = strictest.reason();
        if found.len() > 1 {
            reason = format!("{reason}; {} more", found.len() - 1);
        }
        if differ {
            reason =
                format!("{reason}; recipients have different rules, the strictest counts for all");
        }
        if let Some(policy) = policy {
            let text = format!("attachment not allowed: {}", strictest.reason());
            return self.applied(request, policy, "forbidden", &reason, &text);
        }
        let edits = self.edits(mail, &found)?;
        // Where clients disagree about what is a part, it is looked at again.
        if found.iter().any(|one| one.is_odd && one.decision.action != Action::Tag) {
            let edited = mail.edited(&edits);
            let edited = edited.map_err(|error| ServiceError::new("removing", error))?;
            let (left, _) = self.search(&running, &Arc::new(edited), &rules).await?;
            if let Some(left) = left.iter().find(|one| one.decision.action != Action::Tag) {
                let text = format!("attachment can't be removed: {}", left.reason());
                return self.applied(request, Policy::Reject, "forbidden", &reason, &text);
            }
        }
        let verdict = if strictest.decision.action == Action::Tag { "tagged" } else { "stripped" };
        let finding = Finding::new(verdict).with_reason(printable(&reason));
        Ok(Outcome::changed(Change::Content(edits), verdict).with_finding(finding))
    }

    async fn search(
        &self,
        running: &Scan,
        mail: &Arc<Mail>,
        rules: &Applied,
    ) -> Result<(Vec<Match>, Option<String>), ServiceError> {
        let (mail, rules) = (Arc::clone(mail), rules.clone());
        let (room, inside) = (self.room.clone(), self.settings.inside_archives);
        Ok(running.run(move || search(&mail, &rules, &room, inside)).await??)
    }

    fn edits(&self, mail: &Mail, found: &[Match]) -> Result<Edits, SpoolError> {
        let mut edits = Edits::new();
        if let Some(tagged) = found.iter().find(|one| one.decision.action == Action::Tag) {
            self.settings.tag.mark(mail, "tagged", &tagged.reason(), &mut edits);
        }
        remove(mail, found, &mut edits)?;
        Ok(edits)
    }

    fn applied(
        &self,
        request: &Request,
        policy: Policy,
        verdict: &'static str,
        reason: &str,
        text: &str,
    ) -> Result<Outcome, ServiceError> {
        applied(request, policy, &self.settings.tag, verdict, reason, text)
    }
}

impl Service for MimeStrip {
    fn declaration(&self) -> Declaration {
        let mut policies: Vec<Policy> = self.rules.actions().filter_map(Action::policy).collect();
        policies.push(self.settings.on_limit);
        let effects = effects(&policies);
        let distinguishes_recipients = self.rules.differ();
        Declaration { effects, distinguishes_recipients, ..Declaration::on([Command::Message]) }
    }

    fn treatment(&self, recipient: &Address) -> u64 {
        self.rules.treatment(recipient).number()
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
