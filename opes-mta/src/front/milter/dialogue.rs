//! An SMTP client of the MTA: stages become events, and what the services make of them becomes answers.

use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use ocp_proto::OcpResult;
use ocp_proto::smtp::{
    self, Address, CommandLine, EffectName, Envelope, FailurePolicy, Reply, SideEffect,
};

use super::Unfit;
use super::edits::edits;
use super::effects::{Effects, effects};
use super::facts::{self, Connect};
use super::mail::{Mail, NoContent, values};
use super::message::Original;
use crate::apply::{Adapted, Answer};
use crate::bypass::{self, Outcome};
use crate::config::Origin;
use crate::consult::{Failure, failure_reply};
use crate::event::{Content, Event, Message, address_of};
use crate::milter::{self, Client, Command, Macros, Modification, Path};
use crate::passage::{Accepted, Advice, Passage};
use crate::processor::Processor;
use crate::record::{Decision, Record};
use crate::trace::Pass;

/// What the MTA is told at a stage.
#[derive(Debug)]
pub(super) struct Told {
    /// At the end of a message only.
    pub(super) modifications: Vec<Modification>,
    pub(super) decision: milter::Decision,
}

/// One client, from CONNECT to its end.
#[derive(Debug)]
pub(super) struct Dialogue {
    processor: Arc<Processor>,
    listen: Arc<str>,
    /// What the MTA told before CONNECT.
    macros: Vec<Macros>,
    /// From CONNECT on.
    passage: Option<Passage>,
    mail: Option<Mail>,
    /// A refusal at a stage that the MTA awaits no answer to.
    owed: Option<milter::Decision>,
}

/// What the services said of a stage.
enum Said {
    /// It goes on; these are for the stage's own use.
    Go(Advice),
    /// The client gets this.
    Refused(milter::Decision),
}

impl Dialogue {
    /// A client that has not come yet.
    pub(super) fn new(processor: Arc<Processor>, listen: Arc<str>) -> Self {
        Self { processor, listen, macros: Vec::new(), passage: None, mail: None, owed: None }
    }

    /// Whether a message is under way.
    pub(super) fn has_mail(&self) -> bool {
        self.mail.is_some()
    }

    /// What the MTA tells of the stage that follows.
    pub(super) fn learn(&mut self, macros: Macros) {
        match &mut self.passage {
            None => {
                // Those of a stage replace each other: there are never more than stages.
                self.macros.retain(|known| known.stage != macros.stage);
                self.macros.push(macros);
            }
            Some(passage) => {
                let update = facts::update(passage.facts(), None, pairs(&macros));
                update.into_iter().for_each(|update| passage.update(update));
            }
        }
    }

    /// A refusal that the MTA could not be told of is its answer to the next stage.
    pub(super) fn owe(&mut self, decision: milter::Decision) {
        if decision != milter::Decision::Continue {
            self.owed.get_or_insert(decision);
        }
    }

    /// The message that was under way is given up.
    pub(super) fn abandon(&mut self) {
        if let Some(mail) = self.mail.take() {
            let decision =
                if mail.refused.is_some() { Decision::Reject } else { Decision::Abandoned };
            self.log(&mail, decision, mail.refusal());
        }
    }

    /// A stage has come.
    pub(super) async fn stage(&mut self, command: Command) -> Told {
        if let Some(owed) = &self.owed
            && !matches!(command, Command::Header { .. } | Command::Body(_))
        {
            return owed.clone().into();
        }
        match command {
            Command::Connect { host, client } => self.connect(&host, client).await.into(),
            Command::Helo(name) => self.helo(&name).await.into(),
            Command::Mail(path) => self.mail(&path).await.into(),
            Command::Rcpt(path) => self.rcpt(&path).await.into(),
            Command::Data => self.data().await.into(),
            Command::Header { name, value } => {
                self.mail.iter_mut().for_each(|mail| mail.field(&name, &value));
                milter::Decision::Continue.into()
            }
            Command::Body(octets) => {
                self.mail.iter_mut().for_each(|mail| mail.body(&octets));
                milter::Decision::Continue.into()
            }
            Command::EndOfMessage(octets) => self.end_of_message(&octets).await,
            _ => milter::Decision::Continue.into(),
        }
    }

    async fn connect(&mut self, host: &[u8], client: Client) -> milter::Decision {
        let (origin, address, port) = match &client {
            Client::Internet { address, port } => {
                (Origin::Address(*address), Some(*address), *port)
            }
            Client::Unix(_) => (Origin::Unix, None, 0),
            Client::Unknown => (Origin::Unknown, None, 0),
        };
        let address = address.as_ref().map(IpAddr::to_string);
        let connect = Connect { name: host, address: address.as_deref().map(str::as_bytes), port };
        let macros = std::mem::take(&mut self.macros);
        let facts = facts::start(&connect, macros.iter().flat_map(pairs));
        self.passage = Some(self.processor.passage(&self.listen, origin, facts));
        let event = Event {
            command: smtp::Command::Connect,
            content: Content::Nothing,
            envelope: Envelope::default(),
            bypass: Vec::new(),
        };
        let mut record = Record::default();
        let said = self.ask(event, Accepted::default(), &mut record).await;
        self.refused_client(said, &record)
    }

    async fn helo(&mut self, name: &[u8]) -> milter::Decision {
        self.abandon();
        if let Some(passage) = &mut self.passage {
            let update = facts::update(passage.facts(), Some(name), std::iter::empty());
            update.into_iter().for_each(|update| passage.update(update));
        }
        // The MTA does not tell which of HELO and EHLO it was.
        let Some(event) = command("HELO ", name, &[], Envelope::default()) else {
            return syntax("the name given with HELO");
        };
        let mut record = Record::default();
        let said = self.ask(event, Accepted::default(), &mut record).await;
        self.refused_client(said, &record)
    }

    /// A client that was refused before MAIL has a line in the log of its own.
    fn refused_client(&mut self, said: Said, record: &Record) -> milter::Decision {
        match said {
            Said::Go(mut advice) => {
                advice.report(&OcpResult::ok(), None);
                milter::Decision::Continue
            }
            Said::Refused(decision) => {
                if let Some(passage) = &self.passage {
                    let reason = reason(&decision);
                    record.log(passage, None, &[], decided(&decision), Some(&reason));
                }
                decision
            }
        }
    }

    async fn mail(&mut self, path: &Path) -> milter::Decision {
        self.abandon();
        let Some((event, sender)) = envelope_command("MAIL FROM:", path, Envelope::default())
        else {
            return syntax("the sender's address");
        };
        let mut mail = Mail::new(sender.clone(), &self.processor);
        let accepted = Accepted { sender: Some(&sender), ..Accepted::default() };
        match self.ask(event, accepted, &mut mail.record).await {
            Said::Refused(decision) => {
                self.log(&mail, decided(&decision), Some(&reason(&decision)));
                decision
            }
            Said::Go(mut advice) => {
                mail.done = advice.envelope_done;
                if let Answer::Line(line) = &advice.answer
                    && let Ok(changed) = address_of(line)
                    && let Some(changed) = rewritten(&sender, changed)
                {
                    mail.effects.push(SideEffect::ChangeSender(changed));
                }
                mail.effects.append(&mut advice.effects);
                advice.report(&OcpResult::ok(), None);
                self.mail = Some(mail);
                milter::Decision::Continue
            }
        }
    }

    async fn rcpt(&mut self, path: &Path) -> milter::Decision {
        let Some(mut mail) = self.mail.take() else { return milter::Decision::Continue };
        let decision = self.recipient(&mut mail, path).await;
        self.mail = Some(mail);
        decision
    }

    async fn recipient(&mut self, mail: &mut Mail, path: &Path) -> milter::Decision {
        let Some((event, recipient)) = envelope_command("RCPT TO:", path, mail.envelope()) else {
            return syntax("the recipient's address");
        };
        if mail.done {
            mail.recipients.push(recipient);
            return milter::Decision::Continue;
        }
        let (sender, recipients) = (mail.sender.clone(), mail.recipients.clone());
        let accepted = Accepted {
            sender: Some(&sender),
            recipients: &recipients,
            recipient: Some(&recipient),
        };
        match self.ask(event, accepted, &mut mail.record).await {
            Said::Refused(decision) => {
                mail.refused = Some(format!("{recipient}: {}", reason(&decision)));
                decision
            }
            Said::Go(mut advice) => {
                mail.done = advice.envelope_done;
                mail.recipients.push(recipient.clone());
                if let Answer::Line(line) = &advice.answer
                    && let Ok(changed) = address_of(line)
                    && let Some(changed) = rewritten(&recipient, changed)
                {
                    mail.effects.push(SideEffect::DeleteRecipient(recipient));
                    mail.effects.push(SideEffect::AddRecipient(changed));
                }
                mail.effects.append(&mut advice.effects);
                advice.report(&OcpResult::ok(), None);
                milter::Decision::Continue
            }
        }
    }

    async fn data(&mut self) -> milter::Decision {
        let Some(mut mail) = self.mail.take().filter(|mail| !mail.done) else {
            return milter::Decision::Continue;
        };
        let Some(event) = command("DATA", b"", &[], mail.envelope()) else {
            return milter::Decision::Continue;
        };
        let (sender, recipients) = (mail.sender.clone(), mail.recipients.clone());
        let accepted = Accepted { sender: Some(&sender), recipients: &recipients, recipient: None };
        match self.ask(event, accepted, &mut mail.record).await {
            Said::Refused(decision) => {
                self.log(&mail, decided(&decision), Some(&reason(&decision)));
                decision
            }
            Said::Go(mut advice) => {
                mail.effects.append(&mut advice.effects);
                advice.report(&OcpResult::ok(), None);
                self.mail = Some(mail);
                milter::Decision::Continue
            }
        }
    }

    async fn end_of_message(&mut self, octets: &[u8]) -> Told {
        let Some(mut mail) = self.mail.take() else { return milter::Decision::Continue.into() };
        mail.body(octets);
        let (told, decision, why) = match mail.content() {
            Err(error) => self.without_content(&error),
            Ok(original) => self.message(&mut mail, &original).await,
        };
        self.log(&mail, decision, why.as_deref());
        told
    }

    /// Content that services can't look at: the failure policy decides, and the log says why.
    fn without_content(&self, error: &NoContent) -> (Told, Decision, Option<String>) {
        let configured = self.passage.as_ref().map(Passage::failure_policy).unwrap_or_default();
        let policy = match error {
            NoContent::Message(_) => configured,
            NoContent::NoRoom => FailurePolicy::Tempfail,
        };
        tracing::warn!(stage = "content", cause = %error, %policy, "adaptation failed");
        let decision = self.failed(policy);
        (decision.clone().into(), decided(&decision), Some(error.to_string()))
    }

    async fn message(
        &mut self,
        mail: &mut Mail,
        original: &Original,
    ) -> (Told, Decision, Option<String>) {
        let system = self.processor.config().system.clone();
        let Message { header, body } = &original.message;
        let id = self.passage.as_ref().map(Passage::trace_id).unwrap_or_default();
        let pass = system.as_ref().map(|system| Pass { system, id: &id });
        let shown = match &pass {
            Some(pass) => {
                mail.record.earlier_passes(pass.earlier(header));
                [&pass.field()[..], header].concat().into()
            }
            None => header.clone(),
        };
        let shown = Message { header: shown, body: body.clone() };
        let unchanged =
            Adapted { header: vec![shown.header.clone()], body: vec![shown.body.clone()] };
        let request = bypass::request(values(original, bypass::FIELD));
        let said = self.ask_about(mail, &request, &shown).await;
        let outcome = (!request.is_empty()).then(|| match self.hears_bypass() {
            true => Outcome::of(mail.record.verdicts()),
            false => Outcome::Ignored,
        });
        if let Some(outcome) = outcome {
            mail.record.bypass(outcome, &request);
        }
        let mut advice = match said {
            Some(Said::Go(advice)) => Some(advice),
            Some(Said::Refused(decision)) => {
                let why = reason(&decision);
                return (decision.clone().into(), decided(&decision), Some(why));
            }
            None => None,
        };
        let verdicts = advice.as_ref().map_or(&[][..], |advice| &advice.verdicts);
        let mut adapted = match advice.as_ref().map(|advice| &advice.answer) {
            Some(Answer::Message(adapted)) => adapted.clone(),
            _ => unchanged,
        };
        if let Some(pass) = &pass {
            pass.complete(&mut adapted, header, outcome, verdicts);
        }
        let asked_for = advice.as_mut().map(|advice| std::mem::take(&mut advice.effects));
        mail.effects.extend(asked_for.into_iter().flatten());
        let (result, told) = match carried_out(mail, original, &adapted) {
            Ok(told) => (OcpResult::ok(), told),
            Err(error) => {
                let policy = self.passage.as_ref().map(Passage::failure_policy);
                let policy = policy.unwrap_or_default();
                tracing::warn!(stage = "milter", cause = %error, %policy, "adaptation failed");
                let decision = self.failed(policy);
                if let Some(advice) = &mut advice {
                    advice.report(&OcpResult::failure(error.to_string()), None);
                }
                let why = Some(error.to_string());
                return (decision.clone().into(), decided(&decision), why);
            }
        };
        if let Some(advice) = &mut advice {
            advice.report(&result, None);
        }
        let asked = |name| mail.effects.iter().any(|effect| effect.name() == name);
        let decision = match &told.decision {
            milter::Decision::Discard => Decision::Discard,
            _ if asked(EffectName::Quarantine) || asked(EffectName::Hold) => Decision::Quarantine,
            _ if told.modifications.is_empty() => Decision::Accept,
            _ => Decision::Modify,
        };
        (told, decision, None)
    }

    /// Asks about content; `None` if the services have had enough of this envelope.
    async fn ask_about(
        &mut self,
        mail: &mut Mail,
        request: &[Bytes],
        shown: &Message,
    ) -> Option<Said> {
        if mail.done {
            return None;
        }
        let bypass = if self.hears_bypass() { request.to_vec() } else { Vec::new() };
        let event = Event { bypass, ..Event::message(shown.clone(), mail.envelope()) };
        let (sender, recipients) = (mail.sender.clone(), mail.recipients.clone());
        let accepted = Accepted { sender: Some(&sender), recipients: &recipients, recipient: None };
        Some(self.ask(event, accepted, &mut mail.record).await)
    }

    fn hears_bypass(&self) -> bool {
        let Some(passage) = &self.passage else { return false };
        let authenticated = passage.facts().auth.is_some();
        self.processor.config().bypass.hears(passage.origin(), authenticated)
    }

    /// Asks the groups, and says what a refusal or a failure comes to.
    async fn ask(&mut self, event: Event, accepted: Accepted<'_>, record: &mut Record) -> Said {
        let name = event.command.name().to_owned();
        let Some(passage) = &mut self.passage else { return Said::Go(Advice::default()) };
        match passage.ask(event, accepted).await {
            Err(failure) => {
                record.took(&name, failure.elapsed);
                self.after_failure(&failure)
            }
            Ok(mut advice) => {
                record.add(&name, &advice);
                match &advice.answer {
                    // A message that is taken and dropped or kept; the effects say so.
                    Answer::Reply(reply) if !reply.is_success() => {
                        let reply = reply.clone();
                        advice.report(&OcpResult::ok(), Some(&reply));
                        Said::Refused(self.refusal(&reply))
                    }
                    _ => Said::Go(advice),
                }
            }
        }
    }

    fn after_failure(&self, failure: &Failure) -> Said {
        match self.failed(failure.policy) {
            milter::Decision::Continue => Said::Go(Advice::default()),
            decision => Said::Refused(decision),
        }
    }

    fn failed(&self, policy: FailurePolicy) -> milter::Decision {
        failure_reply(policy).map_or(milter::Decision::Continue, |reply| decision_of(&reply))
    }

    /// A service's refusal, with its trace.
    fn refusal(&self, reply: &Reply) -> milter::Decision {
        let id = self.passage.as_ref().map(Passage::trace_id).unwrap_or_default();
        match &self.processor.config().system {
            Some(system) => decision_of(&Pass { system, id: &id }.reply(reply)),
            None => decision_of(reply),
        }
    }

    /// Something that the MTA has not agreed to: the failure policy decides, and the log says what.
    pub(super) fn can_not(&self, cause: &milter::Misuse) -> milter::Decision {
        let policy = self.passage.as_ref().map(Passage::failure_policy).unwrap_or_default();
        tracing::warn!(stage = "milter", %cause, %policy, "adaptation failed");
        self.failed(policy)
    }

    /// The line for a message that is done with.
    fn log(&mut self, mail: &Mail, decision: Decision, why: Option<&str>) {
        if let Some(passage) = &mut self.passage {
            let (sender, recipients) = (Some(&mail.sender), &mail.recipients);
            mail.record.log(passage, sender, recipients, decision, why);
            passage.end_message();
        }
    }
}

impl From<milter::Decision> for Told {
    fn from(decision: milter::Decision) -> Self {
        Self { modifications: Vec::new(), decision }
    }
}

/// The edits and effects of a message.
fn carried_out(mail: &Mail, original: &Original, adapted: &Adapted) -> Result<Told, Unfit> {
    let Effects { modifications: envelope, discard } = effects(&mail.recipients, &mail.effects)?;
    if discard {
        return Ok(milter::Decision::Discard.into());
    }
    let mut modifications = edits(original, adapted)?;
    modifications.extend(envelope);
    Ok(Told { modifications, decision: milter::Decision::Continue })
}

fn pairs(macros: &Macros) -> impl Iterator<Item = (&[u8], &[u8])> {
    macros.values.iter().map(|(name, value)| (name.as_str(), &value[..]))
}

/// A command line as an event; `None` if it is none.
fn command(verb: &str, rest: &[u8], arguments: &[Bytes], envelope: Envelope) -> Option<Event> {
    let mut line = [verb.as_bytes(), rest].concat();
    for argument in arguments {
        line.push(b' ');
        line.extend_from_slice(argument);
    }
    Event::command(CommandLine::new(line).ok()?, envelope)
}

/// MAIL or RCPT as an event, and its address.
fn envelope_command(verb: &str, path: &Path, envelope: Envelope) -> Option<(Event, Address)> {
    let bare = path.address.first() != Some(&b'<');
    let address = match bare {
        true => [b"<", &path.address[..], b">"].concat().into(),
        false => path.address.clone(),
    };
    let event = command(verb, &address, &path.arguments, envelope)?;
    let Content::Line(line) = &event.content else { return None };
    let address = address_of(line).ok()?;
    Some((event, address))
}

/// What is new in an address that a service has rewritten: parameters that were there before stay with the
/// MTA. `None` if nothing is.
fn rewritten(before: &Address, after: Address) -> Option<Address> {
    let new = after.parameters.iter().filter(|parameter| !before.parameters.contains(parameter));
    let new: Vec<Bytes> = new.cloned().collect();
    if after.path() == before.path() && new.is_empty() {
        return None;
    }
    after.with_parameters(new).ok()
}

/// An address that can't be shown to services can't be let pass unseen either.
fn syntax(what: &str) -> milter::Decision {
    let text = format!("501 5.5.4 {what} is no legal one\r\n");
    Reply::parse(text).map_or(milter::Decision::Reject, |reply| decision_of(&reply))
}

/// A reply in milter's words.
fn decision_of(reply: &Reply) -> milter::Decision {
    let lines = reply.lines().map(|line| Bytes::copy_from_slice(line.get(4..).unwrap_or_default()));
    match milter::Reply::new(reply.code(), lines.collect()) {
        Ok(reply) => milter::Decision::Reply(reply),
        Err(_) if reply.is_success() => milter::Decision::Continue,
        Err(_) if reply.is_temporary() => milter::Decision::Tempfail,
        Err(_) => milter::Decision::Reject,
    }
}

fn decided(decision: &milter::Decision) -> Decision {
    match decision {
        milter::Decision::Continue => Decision::Accept,
        milter::Decision::Discard => Decision::Discard,
        milter::Decision::Tempfail => Decision::Tempfail,
        milter::Decision::Reply(reply) if reply.code() < 500 => Decision::Tempfail,
        _ => Decision::Reject,
    }
}

fn reason(decision: &milter::Decision) -> String {
    match decision {
        milter::Decision::Reply(reply) => reply.to_string(),
        other => other.name().to_owned(),
    }
}
