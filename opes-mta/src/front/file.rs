//! Stored mail: each message is a dialog of its own (activation point 2).
//!
//! ```no_run
//! use opes_mta::consult::Policy;
//! use opes_mta::front::file::{self, StoredMail};
//! use opes_mta::ocp::Client;
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let services = vec!["ocp://service/spam-score".to_owned()];
//! let client = Client::connect(&file::target("127.0.0.1:4037".parse()?, services)).await?;
//! let mail = StoredMail::new("hello.eml", "Subject: hello\r\n\r\nworld\r\n".into());
//! let report = file::adapt(&client, &mail, &Policy::default()).await;
//! println!("{} {}", report.decision, report.why());
//! for octets in &report.message {
//!     // The adapted message, slice by slice.
//! }
//! client.close().await;
//! # Ok(())
//! # }
//! ```

use std::time::Duration;

use bytes::Bytes;
use ocp_proto::smtp::{
    Activation, Address, Command, CommandLine, CommandProfile, DialogFacts, EffectName, Envelope,
    FailurePolicy, SideEffect,
};
use ocp_proto::{Config, MAXIMUM, OcpResult};
use tokio::time::Instant;

use crate::apply::{Adapted, Answer, Variant};
use crate::consult::{Adaptation, Failure, Policy, begin, consult, failure_reply};
use crate::event::{Event, Message, address_of, carry_out, parse_address};
use crate::ocp::{Client, Dialog, ServerAddress, Target};
use crate::report::{Decision, Report, Version};

/// A message that lies somewhere, with the envelope that it would travel in.
#[derive(Clone, Debug)]
pub struct StoredMail {
    /// What reports call it.
    pub name: String,
    /// The return path.
    pub sender: Address,
    /// The recipients; often nobody knows them any more.
    pub recipients: Vec<Address>,
    /// The message as it is stored: line ends are never repaired.
    pub octets: Bytes,
}

/// The services that stored mail goes through unless others are named.
pub const SERVICES: [&str; 4] = [
    "ocp://service/mail-from",
    "ocp://service/virus-scan",
    "ocp://service/mime-strip",
    "ocp://service/spam-score",
];

impl StoredMail {
    /// A message without recipients; its sender is that of its first Return-Path field, or null.
    pub fn new(name: impl Into<String>, octets: Bytes) -> Self {
        let message = Message::split(octets.clone());
        let sender = message
            .field("Return-Path")
            .and_then(|value| std::str::from_utf8(value).ok())
            .and_then(|value| parse_address(value).ok())
            .unwrap_or_else(Address::null);
        Self { name: name.into(), sender, recipients: Vec::new(), octets }
    }
}

/// A server and its services for stored mail.
pub fn target(server: ServerAddress, services: Vec<String>) -> Target {
    Target {
        server,
        tls: None,
        services,
        offer: offer().into(),
        connect_timeout: Duration::from_secs(10),
        connection: Config {
            // A server answers PQ whatever it works on, so a dead one is found out before the
            // deadline of the first mail.
            idle_timeout: Duration::from_secs(30),
            ping_timeout: Duration::from_secs(15),
            ..Config::default()
        },
    }
}

/// What this front end can vector out and carry out.
fn offer() -> CommandProfile {
    CommandProfile {
        commands: vec![Command::Mail, Command::Rcpt, Command::Message],
        side_effects: vec![
            EffectName::AddRecipient,
            EffectName::DeleteRecipient,
            EffectName::SetRecipients,
            EffectName::ChangeSender,
            EffectName::Quarantine,
            EffectName::Discard,
        ],
        multiple_messages: true,
        recipient_replies: true,
        ..CommandProfile::default()
    }
}

/// Runs one message through the services. Nothing is written anywhere: the report says what became
/// of it, and holds the adapted message.
pub async fn adapt(client: &Client, mail: &StoredMail, policy: &Policy) -> Report {
    let started = Instant::now();
    let mut report = match begin(client, facts(), policy).await {
        Ok(dialog) => adapt_in(&dialog, mail, policy).await,
        Err(failure) => not_adapted(mail, failure.policy, failure.to_string()),
    };
    report.elapsed = started.elapsed();
    report
}

/// What is known of a dialog about stored mail.
pub fn facts() -> DialogFacts {
    DialogFacts { activation: Activation::Queued, ..DialogFacts::default() }
}

/// As [`adapt`], in a dialog that has begun.
pub async fn adapt_in(dialog: &Dialog, mail: &StoredMail, policy: &Policy) -> Report {
    let started = Instant::now();
    let mut report = Passage::new(dialog, mail, policy).run().await;
    report.elapsed = started.elapsed();
    report
}

/// What becomes of a message that no server could be asked about.
pub fn not_adapted(mail: &StoredMail, policy: FailurePolicy, error: String) -> Report {
    let decision = failed(policy);
    Report {
        decision,
        reply: failure_reply(policy),
        sender: mail.sender.clone(),
        recipients: mail.recipients.clone(),
        message: if decision == Decision::Accept { vec![mail.octets.clone()] } else { Vec::new() },
        ..Report::error(mail.name.clone(), error)
    }
}

/// For stored mail nobody tries again later: what would be a temporary failure is an error.
fn failed(policy: FailurePolicy) -> Decision {
    match policy {
        FailurePolicy::Accept => Decision::Accept,
        FailurePolicy::Tempfail => Decision::Error,
        FailurePolicy::Reject => Decision::Reject,
    }
}

/// One message on its way through a dialog.
struct Passage<'a> {
    dialog: &'a Dialog,
    mail: &'a StoredMail,
    policy: &'a Policy,
    envelope: Envelope,
    modified: bool,
    report: Report,
}

/// The decision is made before the last event.
struct Decided(Decision);

impl<'a> Passage<'a> {
    fn new(dialog: &'a Dialog, mail: &'a StoredMail, policy: &'a Policy) -> Self {
        let report = Report { error: None, ..Report::error(mail.name.clone(), String::new()) };
        Self { dialog, mail, policy, envelope: Envelope::default(), modified: false, report }
    }

    async fn run(mut self) -> Report {
        let decided = self.pass().await;
        let has = |name| self.report.effects.iter().any(|effect| effect.name() == name);
        let decision = match decided {
            Err(Decided(decision)) => decision,
            Ok(()) if has(EffectName::Quarantine) => Decision::Quarantine,
            Ok(()) if has(EffectName::Discard) => Decision::Discard,
            Ok(()) if self.modified => Decision::Modify,
            Ok(()) => Decision::Accept,
        };
        let mut report = self.report;
        report.decision = decision;
        report.sender = self.envelope.sender.unwrap_or_else(|| self.mail.sender.clone());
        report.recipients = self.envelope.recipients;
        match decision {
            Decision::Accept | Decision::Modify if !report.versions.is_empty() => {}
            Decision::Accept | Decision::Modify if report.message.is_empty() => {
                report.message = vec![self.mail.octets.clone()];
            }
            Decision::Accept | Decision::Modify => {}
            _ => report.message = Vec::new(),
        }
        report
    }

    async fn pass(&mut self) -> Result<(), Decided> {
        let mail = self.mail;
        if mail.octets.len() > MAXIMUM as usize {
            self.report.error = Some(format!("larger than OCP can say, {MAXIMUM} octets"));
            return Err(Decided(Decision::Error));
        }
        self.envelope.sender = Some(mail.sender.clone());
        let mut done = self.command("MAIL FROM:", &mail.sender, true).await?;
        for recipient in &mail.recipients {
            if done {
                self.envelope.recipients.push(recipient.clone());
            } else {
                done = self.command("RCPT TO:", recipient, false).await?;
            }
        }
        let refused = self.report.refused.last().map(|(_, reply)| reply.clone());
        if let Some(reply) = refused
            && self.envelope.recipients.is_empty()
        {
            self.report.reply = Some(reply);
            return Err(Decided(Decision::Reject));
        }
        if done {
            return Ok(());
        }
        let message = Message::split(mail.octets.clone());
        let adaptation = self.ask(Event::message(message, self.envelope.clone())).await?;
        match adaptation.answer {
            Answer::Message(adapted) => {
                self.modified = true;
                self.report.message = self.read(adapted)?;
            }
            Answer::Reply(reply) => {
                let refuses = !reply.is_success();
                self.report.reply = Some(reply);
                if refuses {
                    return Err(Decided(Decision::Reject));
                }
            }
            Answer::Several(variants) => return self.differ(variants),
            Answer::Unchanged | Answer::Line(_) => {}
        }
        Ok(())
    }

    /// Recipients have versions of their own: the decision is that of all of them, or that the mail
    /// is modified.
    fn differ(&mut self, variants: Vec<Variant>) -> Result<(), Decided> {
        let versions = variants.into_iter().map(|variant| self.version(variant));
        self.report.versions = versions.collect::<Result<_, _>>()?;
        let decisions: Vec<Decision> =
            self.report.versions.iter().map(|version| version.decision).collect();
        match decisions.split_first() {
            Some((first, others)) if others.iter().all(|other| other == first) => {
                Err(Decided(*first))
            }
            _ => Err(Decided(Decision::Modify)),
        }
    }

    fn version(&mut self, variant: Variant) -> Result<Version, Decided> {
        let Variant { recipients, answer, effects, .. } = variant;
        let has = |name| effects.iter().any(|effect| effect.name() == name);
        let (decision, reply, message) = match answer {
            Answer::Reply(reply) if !reply.is_success() => {
                (Decision::Reject, Some(reply), Vec::new())
            }
            Answer::Message(adapted) => (Decision::Modify, None, self.read(adapted)?),
            _ => (Decision::Accept, None, vec![self.mail.octets.clone()]),
        };
        let decision = match decision {
            Decision::Reject => decision,
            _ if has(EffectName::Quarantine) => Decision::Quarantine,
            _ if has(EffectName::Discard) => Decision::Discard,
            _ => decision,
        };
        let goes_on = matches!(decision, Decision::Accept | Decision::Modify);
        let message = if goes_on { message } else { Vec::new() };
        Ok(Version { recipients, decision, reply, effects, message })
    }

    /// The octets of what goes on.
    fn read(&mut self, adapted: Adapted) -> Result<Vec<Bytes>, Decided> {
        adapted.read().map_err(|error| {
            self.report.error = Some(error.to_string());
            Decided(Decision::Error)
        })
    }

    /// MAIL or RCPT; whether the services want no more events of this envelope.
    async fn command(
        &mut self,
        verb: &str,
        address: &Address,
        is_sender: bool,
    ) -> Result<bool, Decided> {
        let line = [verb.as_bytes(), address.path()].concat();
        // RFC 6531 section 3.4: the parameter of MAIL.
        let utf8: &[u8] = if is_sender && !line.is_ascii() { b" SMTPUTF8" } else { b"" };
        let mut envelope = self.envelope.clone();
        if is_sender {
            envelope = Envelope::default();
        }
        let event = CommandLine::new([&line, utf8].concat())
            .ok()
            .and_then(|line| Event::command(line, envelope));
        let Some(event) = event else {
            self.report.error = Some(format!("{address} fits into no command line"));
            return Err(Decided(Decision::Error));
        };
        let mut accepted = address.clone();
        // Effects of RCPT concern the envelope with this recipient.
        if !is_sender {
            self.envelope.recipients.push(address.clone());
        }
        let adaptation = self.ask(event).await?;
        match adaptation.answer {
            Answer::Line(line) => {
                accepted = address_of(&line).unwrap_or(accepted);
                self.modified = true;
            }
            Answer::Reply(reply) if is_sender => {
                self.report.reply = Some(reply);
                return Err(Decided(Decision::Reject));
            }
            Answer::Reply(reply) => {
                self.envelope.recipients.retain(|recipient| recipient != address);
                self.report.refused.push((address.clone(), reply));
                return Ok(adaptation.envelope_done);
            }
            // The connection has made sure that only content has several messages.
            Answer::Unchanged | Answer::Message(_) | Answer::Several(_) => {}
        }
        if accepted != *address {
            if is_sender {
                self.envelope.sender = Some(accepted);
            } else {
                let slot = self.envelope.recipients.iter_mut().find(|known| *known == address);
                slot.into_iter().for_each(|slot| *slot = accepted.clone());
            }
        }
        Ok(adaptation.envelope_done)
    }

    /// Consults the services about an event, and keeps book.
    async fn ask(&mut self, event: Event) -> Result<Adaptation, Decided> {
        let mut adaptation = match consult(self.dialog, &event, self.policy).await {
            Ok(adaptation) => adaptation,
            Err(failure) => return self.fail(failure),
        };
        self.report.traffic.sent += adaptation.traffic.sent;
        self.report.traffic.received += adaptation.traffic.received;
        self.report.services.extend(adaptation.verdicts.iter().cloned());
        self.report.notifications.append(&mut adaptation.notifications);
        if adaptation.reused {
            self.report.reused.push(event.command.clone());
        }
        if adaptation.envelope_done && !event.command.has_content() {
            self.report.done_after = Some(event.command);
        }
        for effect in &adaptation.effects {
            self.apply(effect);
        }
        if let Some(asked) = adaptation.asked.take() {
            let reply = match &adaptation.answer {
                Answer::Reply(reply) => Some(reply.clone()),
                _ => None,
            };
            asked.report(OcpResult::ok(), reply);
        }
        Ok(adaptation)
    }

    fn fail(&mut self, failure: Failure) -> Result<Adaptation, Decided> {
        self.report.traffic.sent += failure.traffic.sent;
        self.report.traffic.received += failure.traffic.received;
        self.report.error = Some(failure.to_string());
        match failed(failure.policy) {
            Decision::Accept => Ok(Adaptation::unchanged()),
            decision => {
                self.report.reply = failure.reply();
                Err(Decided(decision))
            }
        }
    }

    /// Carries out a side effect on the envelope; the decision follows from the rest of them.
    fn apply(&mut self, effect: &SideEffect) {
        let before = self.envelope.clone();
        carry_out(&mut self.envelope, effect);
        self.modified |= self.envelope != before;
        self.report.effects.push(effect.clone());
    }
}
