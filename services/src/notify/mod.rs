//! `notify`: tells administrators, recipients or senders by mail what other services of its group found.
//!
//! It concludes: it stands anywhere in its group, is asked once all others have answered, and changes nothing. A
//! notification goes out whatever becomes of the message, if the front end submits new messages (`opes-mta smtp
//! --spool`).
//!
//! Senders and recipients are told of messages that a person may have sent: not of one with a null sender, with
//! `Auto-Submitted`, of a mailing list, or with `Precedence: bulk`, `junk` or `list` (RFC 3834 section 2). What a
//! stranger says the sender is may be anybody: tell senders where they have authenticated. In an hour each address
//! gets a bounded number, and all together do.
//!
//! The verdict is `notified`, `limited` or `quiet`.
//!
//! ```toml
//! from = "filter@example.org"                 # needed; the envelope's sender is null
//!
//! [[rules]]                                   # each that matches notifies
//! found = ["virus-scan=infected", "mime-strip=*"]
//! to = ["security@example.org", "recipients"] # addresses, and: recipients, sender
//! subject = "{service}: {verdict}"
//! text = """
//! A message from {from} for {recipients} was {fate}: {reason}
//! Its subject is {subject}. It came from {client}, and is {queue-id} in the log.
//! """
//!
//! [limits]
//! address-hour = 10
//! hour = 100
//! ```

mod limit;
mod settings;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use futures_util::future::{BoxFuture, FutureExt, ready};
use ocp_proto::smtp::{Address, Command, FailurePolicy};
use tokio::time::Instant;

use crate::conclusion::{Conclusion, Found};
use crate::content::fill;
use crate::mail::Mail;
use crate::notification::{Notification, TextMail};
use crate::outcome::{Finding, Outcome};
use crate::registry::{Kind, Settings, SettingsError};
use crate::service::{Content, Declaration, Request, Service, ServiceError};
use limit::Limiter;
use settings::{Checked, Recipient, Rule};

/// The kind `notify`.
pub const KIND: Kind = Kind {
    name: "notify",
    summary: "tells administrators, recipients or senders by mail what others found",
    needs_settings: true,
    build: |settings| Ok(Arc::new(Notify::new(settings)?)),
};

struct Notify {
    settings: Checked,
    limiter: Mutex<Limiter>,
}

impl Notify {
    fn new(settings: Settings<'_>) -> Result<Self, SettingsError> {
        let settings = Checked::read(settings)?;
        let limiter = Mutex::new(Limiter::new(settings.address_hour, settings.hour));
        Ok(Self { settings, limiter })
    }

    fn notifications(&self, conclusion: &Conclusion<'_>) -> Result<Outcome, ServiceError> {
        let matching = |rule: &&Rule| conclusion.found.iter().any(|found| rule.names(found));
        let mut rules = self.settings.rules.iter().filter(matching).peekable();
        if rules.peek().is_none() {
            return Ok(Outcome::unchanged(Finding::new("quiet")));
        }
        if !conclusion.request.may_notify {
            let reason = "new messages can't be submitted here";
            return Ok(Outcome::unchanged(Finding::new("quiet").with_reason(reason)));
        }
        let mut outcome = Outcome::unchanged(Finding::new("quiet"));
        let (mut told, mut limited) = (Vec::new(), 0);
        for rule in rules {
            let mut to = self.recipients(rule, conclusion.request);
            let before = to.len();
            {
                let mut limiter = self.limiter.lock().unwrap_or_else(PoisonError::into_inner);
                to.retain(|address| limiter.admits(address, Instant::now()));
            }
            limited += before - to.len();
            if to.is_empty() {
                continue;
            }
            told.extend(to.iter().map(Address::to_string));
            let Some(found) = conclusion.found.iter().find(|found| rule.names(found)) else {
                continue;
            };
            outcome = outcome.with_notification(self.written(rule, found, to, conclusion)?);
        }
        let finding = match (told.is_empty(), limited) {
            (true, 0) => Finding::new("quiet"),
            (true, count) => Finding::new("limited").with_reason(format!("not told: {count}")),
            (false, 0) => Finding::new("notified").with_reason(told.join(" ")),
            (false, count) => {
                let reason = format!("{}; beyond the limits: {count}", told.join(" "));
                Finding::new("notified").with_reason(reason)
            }
        };
        Ok(outcome.with_finding(finding))
    }

    /// Whom a rule tells of a message, each once.
    fn recipients(&self, rule: &Rule, request: &Request) -> Vec<Address> {
        let may_answer = request.mail().is_some_and(|mail| is_personal(mail))
            && request.envelope.sender.as_ref().is_some_and(|sender| !sender.is_null());
        let mut to: Vec<Address> = Vec::new();
        let mut add = |address: &Address| {
            // Parameters belong to the message that it is about.
            let Ok(address) = Address::new(address.path().clone()) else { return };
            if !to.contains(&address) && to.len() < Notification::MOST_RECIPIENTS {
                to.push(address);
            }
        };
        for recipient in &rule.to {
            match recipient {
                Recipient::Address(address) => add(address),
                Recipient::Sender if may_answer => {
                    request.envelope.sender.iter().for_each(&mut add)
                }
                Recipient::Recipients if may_answer => {
                    request.envelope.recipients.iter().for_each(&mut add);
                }
                Recipient::Sender | Recipient::Recipients => {}
            }
        }
        to
    }

    fn written(
        &self,
        rule: &Rule,
        found: &Found,
        to: Vec<Address>,
        conclusion: &Conclusion<'_>,
    ) -> Result<Notification, ServiceError> {
        let Request { dialog, envelope, .. } = conclusion.request;
        let mail = conclusion.request.mail();
        let or_unknown = |octets: Option<&[u8]>| {
            octets.map_or("unknown".into(), |octets| String::from_utf8_lossy(octets).into_owned())
        };
        let recipients: Vec<_> = envelope.recipients.iter().map(Address::to_string).collect();
        let fates: Vec<_> = conclusion.fate_names().iter().map(ToString::to_string).collect();
        let subject = mail.and_then(|mail| mail.field("Subject")).map(|field| field.text());
        let values = [
            ("{service}", found.service.clone()),
            ("{verdict}", found.finding.verdict.to_string()),
            ("{reason}", found.finding.reason.clone().unwrap_or_else(|| "unknown".to_owned())),
            ("{fate}", fates.join(" or ")),
            ("{from}", envelope.sender.as_ref().map(Address::to_string).unwrap_or_default()),
            ("{recipients}", recipients.join(" ")),
            ("{subject}", subject.unwrap_or_else(|| "none".to_owned())),
            ("{client}", or_unknown(dialog.client_address.as_deref())),
            ("{queue-id}", or_unknown(dialog.queue_id.as_deref())),
        ];
        let values: Vec<_> = values.iter().map(|(key, value)| (*key, value.as_str())).collect();
        let mail = TextMail {
            from: self.settings.from.clone(),
            to,
            subject: fill(&rule.subject, &values),
            text: fill(&rule.text, &values),
            date: SystemTime::now(),
        };
        Ok(mail.notification()?)
    }
}

/// Whether a person may have sent it, and not a program or a list (RFC 3834 section 2).
fn is_personal(mail: &Mail) -> bool {
    let is = |name: &'static str, tests: &[&str]| {
        mail.fields_named(name).any(|field| {
            let text = field.text().trim().to_ascii_lowercase();
            tests.iter().any(|test| text.starts_with(test))
        })
    };
    let is_automatic = mail.fields_named("Auto-Submitted").any(|field| !is_no(&field.text()));
    let is_of_list = mail.fields().iter().any(|field| {
        field.raw_name().get(..5).is_some_and(|name| name.eq_ignore_ascii_case(b"List-"))
    });
    !is_automatic && !is_of_list && !is("Precedence", &["bulk", "junk", "list"])
}

/// `Auto-Submitted: no`, with or without a comment or parameters.
fn is_no(value: &str) -> bool {
    let word = value.split([';', '(']).next().unwrap_or_default();
    word.trim().eq_ignore_ascii_case("no")
}

impl Service for Notify {
    fn declaration(&self) -> Declaration {
        Declaration {
            content: Content::Header,
            concludes: true,
            notifies: true,
            // A message that nobody is told of is better than none.
            on_failure: FailurePolicy::Accept,
            ..Declaration::on([Command::Message])
        }
    }

    fn handle<'a>(&'a self, _: &'a Request) -> BoxFuture<'a, Result<Outcome, ServiceError>> {
        ready(Ok(Outcome::unchanged(Finding::new("quiet")))).boxed()
    }

    fn conclude<'a>(
        &'a self,
        conclusion: &'a Conclusion<'a>,
    ) -> BoxFuture<'a, Result<Outcome, ServiceError>> {
        ready(self.notifications(conclusion)).boxed()
    }

    fn worst_case_memory(&self) -> usize {
        Limiter::WORST_CASE
    }
}
