//! `virus-scan`: looks for viruses in everything that a user could open.
//!
//! It looks at decoded parts, nested messages, uuencoded files and `data:` URIs in text, and into
//! zip, gzip, tar and cabinet archives and Outlook's winmail.dat, recursively; what octets are is decided by the octets, not
//! by names. Scanners are the EICAR test file, signatures in ClamAV's text formats, and clamd.
//!
//! A message in a spool file is read a window at a time, and what is unpacked of any message stands
//! in memory only up to `limits.memory`, beyond that in unnamed files of the server's folder for
//! temporary files. Signatures match all the same, however far apart the pieces are that they look for.
//!
//! What could not be looked at is never called clean: the verdict is `infected`, else `too-big`
//! (something is beyond a limit), `encrypted`, `unreadable` (broken, or an archive of a kind that is
//! not read), `macro` (in an Office file, if looked for), and `clean` only if everything was looked at. When the service
//! itself fails, the sender has to try again later, unless `on-error` says what happens to a message that could not be
//! scanned (`error`).
//!
//! What clamd says of octets is kept for a while, by their SHA-256: a message that comes again, or in several versions, is
//! not scanned again before clamd has another database. While no clamd can be reached, since it starts or starts
//! again, a scan waits for `clamd-retry` seconds.
//!
//! ```toml
//! action = "reject"            # infected mail: reject, replace (the part, by a notice), quarantine,
//!                              # discard, tag
//! on-limit = "reject"          # these four: accept, tag, quarantine, tempfail, discard, reject
//! on-encrypted = "accept"
//! on-unreadable = "accept"
//! on-macros = "quarantine"     # looked for if this is set
//! on-error = "tempfail"        # instead of on-failure of the service
//! tag = { subject = "[unchecked] ", field = "X-Content-Warning" }
//! signatures = "signatures"    # a folder with .hdb, .hsb and .ndb files
//! clamd = "unix:/run/clamav/clamd.ctl"    # or "127.0.0.1:3310", or a list of several
//! clamd-timeout = 60           # seconds
//! clamd-retry = 10             # seconds, while none can be reached; 0: not at all
//! clamd-ping = 10              # seconds between two PINGs; 0: none
//! clamd-size = 26214400        # octets; no more than clamd's StreamMaxLength
//! clamd-cache = { entries = 10000, seconds = 180 }    # 0 entries: none
//! scans = 8                    # messages at the same time
//! notice = "Removed: {virus} in {place}"
//!
//! [limits]
//! depth = 16                   # archives and messages inside each other
//! members = 10000
//! unpacked = 268435456         # octets in all
//! memory = 4194304             # octets in memory at the same time; others in temporary files
//! ratio = 250                  # unpacked to packed, above 16 MiB
//! ```

mod cache;
mod clamd;
mod clamds;
mod eicar;
mod scan;
mod settings;
mod signatures;
#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt, ready};
use ocp_proto::smtp::Command;

pub use cache::CacheSettings;
pub use settings::{Action, ClamdAddresses, VirusScanSettings};

use crate::content::{
    Policy, Room, Scan, Scans, applied, effects, fill, outermost, part_labels, printable,
    stored_part,
};
use crate::mail::{Edits, Mail, Notice, PartKind, SpoolError};
use crate::measure::Measure;
use crate::outcome::{Change, Finding, Outcome};
use crate::registry::{Kind, Settings, SettingsError};
use crate::service::{Declaration, Request, Service, ServiceError, compute};
use clamd::Answer;
use clamds::{Clamds, Times};
use scan::{Infection, Report, Wanted, scan};
use signatures::Signatures;

/// The kind `virus-scan`.
pub const KIND: Kind = Kind {
    name: "virus-scan",
    summary: "looks for viruses in parts, nested messages and archives",
    needs_settings: false,
    build: |settings| Ok(Arc::new(VirusScan::new(settings)?)),
};

/// Parts that clamd is asked about one by one, to find which one it means.
const MOST_PARTS_ASKED: usize = 32;

struct VirusScan {
    settings: VirusScanSettings,
    room: Room,
    signatures: Arc<Signatures>,
    clamd: Option<Clamds>,
    scans: Scans,
}

impl VirusScan {
    fn new(settings: Settings<'_>) -> Result<Self, SettingsError> {
        let directory = settings.directory().to_owned();
        let folder = settings.temporary_folder().clone();
        let settings: VirusScanSettings = settings.read()?;
        let load = |folder: &Path| {
            Signatures::load(&directory.join(folder))
                .map_err(|error| SettingsError::new(format!("signatures: {error}")))
        };
        let signatures = settings.signatures.as_deref().map(load).transpose()?;
        let [timeout, retry] =
            [settings.clamd_timeout, settings.clamd_retry].map(Duration::from_secs);
        let times = Times { timeout, retry };
        let clamd = settings
            .clamd
            .as_ref()
            .map(|clamd| Clamds::new(clamd.addresses(), times, settings.clamd_cache.clone()));
        Ok(Self {
            signatures: Arc::new(signatures.unwrap_or_default()),
            clamd: clamd.transpose().map_err(SettingsError::new)?,
            scans: Scans::new(settings.scans)?,
            room: Room { limits: settings.limits.clone(), folder },
            settings,
        })
    }

    async fn report(&self, mail: &Arc<Mail>) -> Result<Report, ServiceError> {
        let running = self.scans.start().await?;
        let all = self.settings.action == Action::Replace;
        let mut report = {
            let (mail, signatures) = (Arc::clone(mail), Arc::clone(&self.signatures));
            let room = self.room.clone();
            let wanted = Wanted { all, macros: self.settings.on_macros.is_some() };
            running.run(move || scan(&mail, &signatures, &room, wanted)).await??
        };
        if let Some(clamd) = self.clamd.as_ref().filter(|_| all || report.infections.is_empty()) {
            self.ask(clamd, mail, &mut report).await?;
        }
        if all && report.is_odd {
            report.is_beyond_repair = self.is_still_infected(&running, mail, &report).await?;
        }
        Ok(report)
    }

    /// Whether there is an infection for some client once the infected parts are replaced: where clients disagree about
    /// what is a part, it is looked at again.
    async fn is_still_infected(
        &self,
        running: &Scan,
        mail: &Mail,
        report: &Report,
    ) -> Result<bool, ServiceError> {
        let edited = mail.edited(&self.replace(mail, report)?);
        let edited = edited.map_err(|error| ServiceError::new("replacing", error))?;
        let (signatures, room) = (Arc::clone(&self.signatures), self.room.clone());
        let again =
            running.run(move || scan(&edited, &signatures, &room, Wanted::default())).await??;
        Ok(!again.infections.is_empty())
    }

    async fn ask(
        &self,
        clamd: &Clamds,
        mail: &Mail,
        report: &mut Report,
    ) -> Result<(), ServiceError> {
        if mail.len() > self.settings.clamd_size {
            let reason = format!("larger than the {} octets for clamd", self.settings.clamd_size);
            report.remarks.limit.get_or_insert(reason);
            return Ok(());
        }
        let name = match clamd.scan_mail(mail).await? {
            Answer::Clean => return Ok(()),
            Answer::TooLarge => {
                report.remarks.limit.get_or_insert_with(too_large);
                return Ok(());
            }
            Answer::Found(name) => name,
        };
        // With clamd's Alert... options: not malware, but what it could not look at.
        if name.starts_with("Heuristics.Limits.Exceeded") {
            report.remarks.limit.get_or_insert(format!("clamd: {name}"));
        } else if name.starts_with("Heuristics.Encrypted") {
            report.remarks.encrypted.get_or_insert(format!("clamd: {name}"));
        } else if self.settings.action == Action::Replace {
            self.ask_for_parts(clamd, mail, name, report).await?;
        } else {
            let place = "the message, by clamd".to_owned();
            report.infections.push(Infection { name, place, part: 0 });
        }
        Ok(())
    }

    /// Finds the parts that clamd means; the message as a whole if it is none alone.
    async fn ask_for_parts(
        &self,
        clamd: &Clamds,
        mail: &Mail,
        name: String,
        report: &mut Report,
    ) -> Result<(), ServiceError> {
        let mut found = Vec::new();
        let parts = mail.parts()?;
        let mut leaves = parts.iter().enumerate().zip(part_labels(parts));
        let mut asked = 0;
        for ((part, of), place) in leaves.by_ref().filter(|((_, p), _)| p.kind == PartKind::Leaf) {
            asked += 1;
            if asked > MOST_PARTS_ASKED {
                found.clear();
                break;
            }
            let (raw, transfer) = (mail.octets(of.body.clone()), of.transfer.clone());
            let Room { limits, folder } = self.room.clone();
            let work = move || stored_part(&raw, &transfer, limits.memory, &folder);
            let octets = compute(of.body.len(), work).await??;
            match clamd.scan(&[octets]).await? {
                Answer::Clean => {}
                Answer::Found(name) => found.push(Infection { name, place, part }),
                Answer::TooLarge => {
                    report.remarks.limit.get_or_insert_with(too_large);
                }
            }
        }
        if found.is_empty() {
            found.push(Infection { name, place: "the message, by clamd".to_owned(), part: 0 });
        }
        report.infections.append(&mut found);
        Ok(())
    }

    /// What happens to the mail. Of several policies the strictest decides, and a mail that was not
    /// looked at as a whole is never called repaired.
    fn outcome(
        &self,
        request: &Request,
        mail: &Mail,
        report: &Report,
    ) -> Result<Outcome, ServiceError> {
        let remarks = &report.remarks;
        let remark = [
            ("too-big", self.settings.on_limit, &remarks.limit),
            ("encrypted", self.settings.on_encrypted, &remarks.encrypted),
            ("unreadable", self.settings.on_unreadable, &remarks.unreadable),
            ("macro", self.settings.on_macros.unwrap_or(Policy::Accept), &report.macros),
        ];
        let mut strictest: Option<(&'static str, Policy, &str)> = None;
        for (verdict, policy, reason) in remark {
            let Some(reason) = reason else { continue };
            if strictest.is_none_or(|(_, known, _)| policy > known) {
                strictest = Some((verdict, policy, reason));
            }
        }
        let Some(infection) = report.infections.first() else {
            let Some((verdict, policy, reason)) = strictest else {
                return Ok(Outcome::unchanged(Finding::new("clean")));
            };
            let text = match verdict {
                "macro" => format!("content has {reason}"),
                _ => format!("content can't be scanned: {reason}"),
            };
            return applied(request, policy, &self.settings.tag, verdict, reason, &text);
        };
        let reason = format!("{} in {}", infection.name, infection.place);
        let text = format!("message contains {}", infection.name);
        let policy = match (self.settings.action, strictest) {
            (Action::Reject, _) => Policy::Reject,
            (Action::Quarantine, Some((_, policy, _))) => policy.max(Policy::Quarantine),
            (Action::Quarantine, None) => Policy::Quarantine,
            (Action::Tag, Some((_, policy, _))) => policy.max(Policy::Tag),
            (Action::Tag, None) => Policy::Tag,
            (Action::Discard, _) => Policy::Discard,
            (Action::Replace, _) if report.is_beyond_repair => Policy::Reject,
            (Action::Replace, Some((_, policy, _))) => policy,
            (Action::Replace, None) => Policy::Accept,
        };
        // Infected mail is not worth another attempt.
        let policy = if policy == Policy::Tempfail { Policy::Reject } else { policy };
        if policy != Policy::Accept {
            return applied(request, policy, &self.settings.tag, "infected", &reason, &text);
        }
        let change = Change::Content(self.replace(mail, report)?);
        let finding = Finding::new("infected").with_reason(printable(&reason));
        Ok(Outcome::changed(change, "infected").with_finding(finding))
    }

    fn replace(&self, mail: &Mail, report: &Report) -> Result<Edits, SpoolError> {
        let mut edits = Edits::new();
        let infected = report.infections.iter().map(|infection| infection.part).collect();
        let parts = mail.parts()?;
        for infected in outermost(parts, infected) {
            let infection = report.infections.iter().find(|infection| infection.part == infected);
            let (Some(infection), Some(part)) = (infection, parts.get(infected)) else { continue };
            let values = [("{virus}", &infection.name[..]), ("{place}", &infection.place[..])];
            let text = fill(&self.settings.notice, &values);
            edits.replace_part(
                mail,
                part,
                Notice { text: &text, filename: Some("removed.txt") },
            )?;
        }
        Ok(edits)
    }
}

/// Why clamd has not looked at something.
fn too_large() -> String {
    "larger than the StreamMaxLength of clamd".to_owned()
}

impl Service for VirusScan {
    fn declaration(&self) -> Declaration {
        let settings = &self.settings;
        let macros = settings.on_macros.unwrap_or(Policy::Accept);
        let infected = match settings.action {
            Action::Quarantine => Policy::Quarantine,
            Action::Discard => Policy::Discard,
            Action::Tag | Action::Replace | Action::Reject => Policy::Reject,
        };
        let on_error = settings.on_error.unwrap_or(Policy::Accept);
        let on_others =
            [settings.on_limit, settings.on_encrypted, settings.on_unreadable, macros, on_error];
        let effects = effects(&[&[infected][..], &on_others].concat());
        Declaration { effects, indispensable: true, ..Declaration::on([Command::Message]) }
    }

    fn handle<'a>(&'a self, request: &'a Request) -> BoxFuture<'a, Result<Outcome, ServiceError>> {
        async move {
            let Some(mail) = request.mail() else {
                return Ok(Outcome::unchanged(Finding::new("unchanged")));
            };
            match (self.report(mail).await, self.settings.on_error) {
                (Ok(report), _) => self.outcome(request, mail, &report),
                (Err(error), None) => Err(error),
                (Err(error), Some(policy)) => {
                    tracing::warn!(
                        stage = error.stage,
                        cause = error.cause,
                        ?policy,
                        "scan failed"
                    );
                    let text = "message could not be scanned";
                    let tag = &self.settings.tag;
                    applied(request, policy, tag, "error", &error.to_string(), text)
                }
            }
        }
        .boxed()
    }

    fn worst_case_memory(&self) -> usize {
        let clamd = self.clamd.as_ref().map_or(0, Clamds::worst_case_memory);
        self.settings.limits.worst_case(self.settings.scans).saturating_add(clamd)
    }

    fn start(&self) -> BoxFuture<'_, Result<(), ServiceError>> {
        let interval = Duration::from_secs(self.settings.clamd_ping);
        if let Some(clamd) = self.clamd.as_ref().filter(|_| !interval.is_zero()) {
            clamd.ping_each(interval);
        }
        ready(Ok(())).boxed()
    }

    fn condition(&self) -> Option<String> {
        self.clamd.as_ref().and_then(Clamds::condition)
    }

    fn measures(&self) -> Vec<Measure> {
        self.clamd.as_ref().map(Clamds::measures).unwrap_or_default()
    }

    fn notes(&self) -> Vec<String> {
        self.signatures.notes()
    }
}
