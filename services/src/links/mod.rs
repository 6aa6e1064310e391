//! `links`: takes large attachments out of messages, and puts links in their place.
//!
//! A small part stands where an attachment was, as text, HTML or both; all other octets stay. The file, decoded, lies in a
//! folder and is fetched at a listener of the service's own: over HTTP, for a web server in front of it that speaks
//! TLS under `url` and passes requests on. Its name in links has 160 random bits. The page that a link leads to shows name, size and
//! a button, which fetches the file: what only looks at links fetches nothing, and does not count.
//!
//! What is stored for a message that is not delivered after all goes as soon as the MTA says so. If it says nothing, since a
//! process ended, the file stays for `unconfirmed-hours`; whoever opens the page shows that the message has arrived. A
//! file ends with its `days`, or once it was fetched `most-downloads` times: a download counts when it begins.
//!
//! What is inside of an attached message, of a report, or shown by HTML stays, and so does what is signed or encrypted by
//! S/MIME or PGP unless `signed = "link"`. A DKIM signature does not survive: sign behind this service. Recipients whose
//! messages differ get files of their own, and so do groups that only watch (`shadow` of an OPES MTA), to which nobody gets
//! links.
//!
//! The listener and the files go on over a reload, which can't give a folder that is in use another address.
//!
//! With a password a page asks for it. There is one for all files of a message; its hash is stored. `in-notice` has it stand beside
//! the link: it keeps out who sees the link alone. `to-sender` has a new message tell the sender, who must have authenticated; if
//! new messages can't be submitted, or the sender is not known so, attachments stay. A file takes ten wrong passwords in an hour.
//!
//! The verdict is `linked`, `left` (with the reason) or `unchanged`.
//!
//! ```toml
//! folder = "/var/lib/callout-server/links"          # needed; made if it is not there
//! listen = "127.0.0.1:8037"               # needed
//! url = "https://files.example.org/"      # needed; what links begin with
//! larger-than = 10000000                  # octets, decoded
//! types = ["video/*"]                     # only these, or these extensions; all if both are absent
//! extensions = ["zip"]
//! signed = "leave"                        # or link
//! days = 14
//! unconfirmed-hours = 72
//! most-downloads = 20                     # as often as anybody likes if absent
//! quota = 10000000000                     # octets of all files; beyond it attachments stay
//! form = "both"                           # or text, html
//! text = "{name} ({size}) can be fetched until {until}, with the password {password}: {url}"
//! html = "<p><a href='{url}'>{name}</a> ({size}), {until}, {password}</p>"
//! password = "to-sender"                  # or none (default), in-notice
//! from = "files@example.org"              # who tells senders
//! password-subject = "Password for: {subject}"
//! password-text = "{names} for {recipients}: {password}"
//! stores = 4                              # messages that are stored at the same time
//! ```

mod choice;
mod http;
mod notice;
mod page;
mod password;
mod settings;
mod site;
mod store;
#[cfg(test)]
mod tests;

use std::io;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::SystemTime;

use futures_util::future::{BoxFuture, FutureExt};
use ocp_proto::smtp::{Address, Command, FailurePolicy};
use tokio::runtime::Handle;
use tracing::warn;

use self::settings::{Checked, PasswordPolicy};
use self::site::Site;
use self::store::{Name, Record, StoreError};
use crate::commitment::{Commitment, Prepared, Settlement};
use crate::content::{Scans, fill};
use crate::mail::{Edits, Mail, Part};
use crate::measure::{Measure, MeasureKind};
use crate::notification::{Notification, TextMail};
use crate::outcome::{Change, Finding, Outcome};
use crate::password::Password;
use crate::registry::{Kind, Settings, SettingsError};
use crate::service::{Declaration, Request, Service, ServiceError};

/// The kind `links`.
pub const KIND: Kind = Kind {
    name: "links",
    summary: "takes large attachments out, and puts links in their place",
    needs_settings: true,
    build: |settings| Ok(Arc::new(Links::new(settings)?)),
};

struct Links {
    settings: Arc<Checked>,
    stores: Scans,
    site: OnceLock<Arc<Site>>,
    /// Why the last message kept its attachments, if it should not have.
    condition: Arc<Mutex<Option<String>>>,
}

/// What was made of a message.
struct Linked {
    edits: Edits,
    files: Vec<String>,
    octets: u64,
    password: Option<String>,
    commitment: Commitment,
}

/// Files that stay if their message is delivered.
struct Files {
    site: Arc<Site>,
    names: Vec<Name>,
    runtime: Handle,
}

impl Prepared for Files {
    fn settle(&self, settlement: Settlement) {
        let (site, names) = (Arc::clone(&self.site), self.names.clone());
        let settle = move || {
            names.into_iter().try_for_each(|name| match settlement {
                Settlement::Taken => site.store.confirm(name),
                Settlement::Void => site.store.remove(name),
                Settlement::Unknown => Ok(()),
            })
        };
        self.runtime.spawn_blocking(move || {
            if let Err(error) = settle() {
                warn!(%error, "a file behind a link does not stay, or go, as its message says");
            }
        });
    }
}

impl Links {
    fn new(settings: Settings<'_>) -> Result<Self, SettingsError> {
        let settings = Arc::new(Checked::read(settings)?);
        let stores = Scans::new(settings.stores)?;
        Ok(Self { settings, stores, site: OnceLock::new(), condition: Arc::default() })
    }

    async fn link(&self, request: &Request, mail: &Arc<Mail>) -> Result<Outcome, ServiceError> {
        if mail.len() as u64 <= self.settings.larger_than {
            return Ok(Outcome::unchanged(Finding::new("unchanged")));
        }
        let not_started =
            || ServiceError::new("start", "the store was not opened; the log says why");
        let site = Arc::clone(self.site.get().ok_or_else(not_started)?);
        let (settings, mail) = (Arc::clone(&self.settings), Arc::clone(mail));
        let may_tell = may_tell(request);
        let runtime = Handle::current();
        let running = self.stores.start().await?;
        let linked = running.run(move || settings.link(&mail, site, runtime, may_tell)).await?;
        let mut condition = self.condition.lock().unwrap_or_else(PoisonError::into_inner);
        *condition = match &linked {
            Err(StoreError::Full) => Some("attachments stay: the store is full".to_owned()),
            Err(StoreError::Io(error)) => Some(format!("attachments stay: {error}")),
            Ok(_) => None,
        };
        drop(condition);
        match linked {
            Ok(Ok(linked)) => self.outcome(request, linked),
            Ok(Err(finding)) => Ok(Outcome::unchanged(finding)),
            Err(StoreError::Full) => Ok(Outcome::unchanged(left("the store is full"))),
            Err(StoreError::Io(error)) => Err(ServiceError::new("store", error)),
        }
    }

    fn outcome(&self, request: &Request, linked: Linked) -> Result<Outcome, ServiceError> {
        let Linked { edits, files, octets, password, commitment } = linked;
        let size = page::octets(octets);
        let reason = match files.as_slice() {
            [_] => format!("1 file, {size}"),
            files => format!("{} files, {size}", files.len()),
        };
        let outcome = Outcome::changed(Change::Content(edits), "linked")
            .with_finding(Finding::new("linked").with_reason(reason))
            .with_commitment(commitment);
        match password.filter(|_| self.settings.password == PasswordPolicy::ToSender) {
            Some(password) => Ok(outcome.with_notification(self.told(request, &files, &password)?)),
            None => Ok(outcome),
        }
    }

    /// What the sender is told.
    fn told(
        &self,
        request: &Request,
        files: &[String],
        password: &str,
    ) -> Result<Notification, ServiceError> {
        let envelope = &request.envelope;
        let nobody = || ServiceError::new("notification", "there is nobody to be told");
        let sender = envelope.sender.as_ref().ok_or_else(nobody)?;
        let sender = Address::new(sender.path().clone())
            .map_err(|error| ServiceError::new("notification", error))?;
        let recipients: Vec<_> = envelope.recipients.iter().map(Address::to_string).collect();
        let subject = request.mail().and_then(|mail| mail.field("Subject"));
        let subject = subject.map_or_else(|| "none".to_owned(), |field| field.text());
        let (recipients, names) = (recipients.join(" "), files.join(", "));
        let values = [
            ("{subject}", subject.as_str()),
            ("{recipients}", &recipients),
            ("{names}", &names),
            ("{password}", password),
        ];
        let Checked { from, password_subject, password_text, .. } = &*self.settings;
        let mail = TextMail {
            from: from.clone().ok_or_else(nobody)?,
            to: vec![sender],
            subject: fill(password_subject, &values),
            text: fill(password_text, &values),
            date: SystemTime::now(),
        };
        Ok(mail.notification()?)
    }
}

/// Whether the sender can be told something, and is who they say they are: a stranger would have others get mail.
fn may_tell(request: &Request) -> bool {
    let sender = request.envelope.sender.as_ref();
    request.may_notify
        && request.dialog.auth.is_some()
        && sender.is_some_and(|sender| !sender.is_null())
}

fn left(why: &'static str) -> Finding {
    Finding::new("left").with_reason(why)
}

impl Checked {
    /// Stores what is large, and says what the message becomes; or why it stays as it is. It waits for the disk.
    fn link(
        &self,
        mail: &Mail,
        site: Arc<Site>,
        runtime: Handle,
        may_tell: bool,
    ) -> Result<Result<Linked, Finding>, StoreError> {
        let read = |error| StoreError::Io(io::Error::from(error));
        let parts = mail.parts().map_err(read)?;
        let chosen = choice::chosen(parts, self);
        if chosen.is_empty() {
            return Ok(Err(Finding::new("unchanged")));
        }
        if mail.is_truncated().map_err(read)?.is_some() {
            return Ok(Err(left("there is more in the message than can be seen")));
        }
        if self.password == PasswordPolicy::ToSender && !may_tell {
            return Ok(Err(left("the sender can't be told a password")));
        }
        let password = match self.password {
            PasswordPolicy::None => None,
            PasswordPolicy::InNotice | PasswordPolicy::ToSender => Some(password::random()?),
        };
        let hash = password.as_deref().map(Password::hash).transpose().map_err(io::Error::other)?;
        let hash = hash.map(|hash| hash.to_string());
        let mut files = Files { site: Arc::clone(&site), names: Vec::new(), runtime };
        let mut linked: Vec<(&Part, Name, Record)> = Vec::new();
        for part in chosen {
            match self.store(mail, part, &site, hash.clone()) {
                Ok(Some((name, record))) => {
                    files.names.push(name);
                    linked.push((part, name, record));
                }
                Ok(None) => {}
                Err(error) => {
                    files.settle(Settlement::Void);
                    return Err(error);
                }
            }
        }
        // From here on what is stored goes unless somebody gets the message.
        let commitment = Commitment::new(files);
        if linked.is_empty() {
            return Ok(Err(Finding::new("unchanged")));
        }
        let mut edits = Edits::new();
        for (part, name, record) in &linked {
            let notice = password.as_deref();
            notice::replace(&mut edits, mail, part, self, (*name, record), notice).map_err(read)?;
        }
        let octets = linked.iter().map(|(_, _, record)| record.octets).sum();
        let files = linked.into_iter().map(|(_, _, record)| record.file_name).collect();
        Ok(Ok(Linked { edits, files, octets, password, commitment }))
    }

    /// Stores a part, if it is large enough decoded.
    fn store(
        &self,
        mail: &Mail,
        part: &Part,
        site: &Site,
        password: Option<String>,
    ) -> Result<Option<(Name, Record)>, StoreError> {
        let mut content = mail.decoder(part).map_err(io::Error::from)?;
        let written = site.store.write(&mut content, self.quota)?;
        if written.octets() <= self.larger_than {
            return Ok(None);
        }
        let now = site::now();
        let record = Record {
            version: store::VERSION,
            file_name: choice::file_name(part),
            octets: written.octets(),
            until: now.saturating_add(self.lifetime),
            unconfirmed_until: now.saturating_add(self.unconfirmed),
            is_confirmed: false,
            password,
            downloads: 0,
            most_downloads: self.most_downloads,
        };
        Ok(Some((written.keep(record.clone())?, record)))
    }
}

impl Service for Links {
    fn declaration(&self) -> Declaration {
        Declaration {
            notifies: self.settings.password == PasswordPolicy::ToSender,
            // A message with its attachments is better than none.
            on_failure: FailurePolicy::Accept,
            ..Declaration::on([Command::Message])
        }
    }

    fn handle<'a>(&'a self, request: &'a Request) -> BoxFuture<'a, Result<Outcome, ServiceError>> {
        async move {
            match request.mail() {
                Some(mail) => self.link(request, mail).await,
                None => Ok(Outcome::unchanged(Finding::new("unchanged"))),
            }
        }
        .boxed()
    }

    fn start(&self) -> BoxFuture<'_, Result<(), ServiceError>> {
        async move {
            let settings = Arc::clone(&self.settings);
            let opened =
                tokio::task::spawn_blocking(move || Site::of(&settings.listen, &settings.folder));
            let opened = opened.await.map_err(|error| ServiceError::new("start", error))?;
            let site = opened.map_err(|error| ServiceError::new("start", error))?;
            self.site.get_or_init(|| site);
            Ok(())
        }
        .boxed()
    }

    fn worst_case_memory(&self) -> usize {
        let hash = match self.settings.password {
            PasswordPolicy::None => 0,
            PasswordPolicy::InNotice | PasswordPolicy::ToSender => Password::MEMORY,
        };
        let storing = self.settings.stores.saturating_mul(hash + STORING);
        let serving = http::CONNECTIONS * (http::HEADER_OCTETS + 2 * http::PIECE) + hash;
        storing.saturating_add(serving).saturating_add(store::WORST_CASE)
    }

    fn measures(&self) -> Vec<Measure> {
        let Some(site) = self.site.get() else { return Vec::new() };
        let (files, octets) = site.store.size();
        let measure = |name, help, kind, value| Measure { name, help, kind, label: None, value };
        let (counter, gauge) = (MeasureKind::Counter, MeasureKind::Gauge);
        vec![
            measure("links_files", "Files behind links", gauge, files),
            measure("links_octets", "Octets of files behind links", gauge, octets),
            measure(
                "links_downloads",
                "Downloads of files behind links",
                counter,
                site.downloads(),
            ),
            measure(
                "links_refused_passwords",
                "Passwords for files behind links that were wrong, or too many",
                counter,
                site.passwords.refused(),
            ),
        ]
    }

    fn condition(&self) -> Option<String> {
        self.condition.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn notes(&self) -> Vec<String> {
        let Checked { listen, url, folder, .. } = &*self.settings;
        let folder = folder.display();
        let bound = self.site.get().map(|site| site.address().to_string());
        let listen = bound.as_ref().unwrap_or(listen);
        vec![format!("files in {folder} are served at {listen}, for a web server at {url}")]
    }
}

/// Octets that storing a message takes besides: pieces of it encoded and decoded.
const STORING: usize = 1024 * 1024;
