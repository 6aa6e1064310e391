//! An SMTP client of the MTA: stages become events, and what the services make of them becomes answers.

use std::net::IpAddr;
use std::sync::Arc;

use super::Unfit;
use super::edits::edits;
use super::effects::{Effects, effects};
use super::facts::{self, Connect};
use super::mail::{Mail, NoContent, values};
use super::message::{Collector, Original};
use super::sent::Sent;
use super::words::{
    command, decided, decision_of, envelope_command, failed, is_same_recipient, no_room, pairs,
    reason, rewritten, syntax,
};
use crate::apply::{Adapted, Answer};
use crate::bypass::{self, Outcome};
use crate::config::Origin;
use crate::event::{Content, Event, Message, address_of};
use crate::front::advisor::{Abilities, Advisor, Refusal, Said};
use crate::metrics::ListenerMetrics;
use crate::milter::{self, Actions, Client, Command, Macros, Modification, Path, Stage};
use crate::passage::{Accepted, Advice};
use crate::processor::Processor;
use crate::record::{Decision, Record};
use bytes::Bytes;
use ocp_proto::OcpResult;
use ocp_proto::smtp::{self, EffectName, Envelope, FailurePolicy, SideEffect};
use ocp_proto::wire::Atom;

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
    listen: Arc<ListenerMetrics>,
    /// What the MTA sends of a message.
    sent: Sent,
    /// What it lets us change.
    actions: Actions,
    /// What the MTA told before CONNECT.
    macros: Vec<Macros>,
    advisor: Advisor,
    mail: Option<Mail>,
    owed: Owed,
}

/// Refusals at stages that the MTA awaits no answer to, and of DATA: they are its answer to each stage that
/// follows, as long as what was refused goes on.
#[derive(Debug, Default)]
struct Owed {
    to_client: Option<milter::Decision>,
    to_message: Option<milter::Decision>,
}

impl Dialogue {
    /// A client that has not come yet.
    pub(super) fn new(
        processor: Arc<Processor>,
        listen: Arc<ListenerMetrics>,
        sent: Sent,
        actions: Actions,
    ) -> Self {
        Self {
            listen,
            sent,
            actions,
            macros: Vec::new(),
            advisor: Advisor::new(processor, Abilities::default()),
            mail: None,
            owed: Owed::default(),
        }
    }

    /// Whether a message is under way.
    pub(super) fn has_mail(&self) -> bool {
        self.mail.is_some()
    }

    /// What the MTA tells of the stage that follows.
    pub(super) fn learn(&mut self, macros: Macros) {
        let Some(known) = self.advisor.facts() else {
            // Those of a stage replace each other: there are never more than stages.
            self.macros.retain(|known| known.stage != macros.stage);
            return self.macros.push(macros);
        };
        let update = facts::update(known, None, pairs(&macros));
        self.advisor.update(update);
    }

    /// A refusal that the MTA could not be told of.
    pub(super) fn owe(&mut self, stage: Stage, decision: milter::Decision) {
        let owed = match stage {
            Stage::Connect | Stage::Helo => &mut self.owed.to_client,
            _ => &mut self.owed.to_message,
        };
        if decision != milter::Decision::Continue {
            owed.get_or_insert(decision);
        }
    }

    /// The message that was under way is given up.
    pub(super) fn abandon(&mut self) {
        let decision = match &self.mail {
            Some(Mail { refused: Some(refused), recipients, .. }) if recipients.is_empty() => {
                decided(refused)
            }
            _ => Decision::Abandoned,
        };
        self.close(decision, None);
    }

    /// The message is done with, if there is one: its line in the log.
    fn close(&mut self, decision: Decision, why: Option<&str>) {
        self.owed.to_message = None;
        if let (Some(mail), Some(facts)) = (self.mail.take(), self.advisor.facts()) {
            mail.record.log(facts, Some(&mail.sender), &mail.recipients, decision, why);
            self.listen.message(decision);
        }
        self.advisor.end_message();
    }

    /// A stage has come.
    pub(super) async fn stage(&mut self, command: Command) -> Told {
        if matches!(command, Command::Helo(_) | Command::Mail(_)) {
            self.abandon();
        }
        let owed = self.owed.to_client.as_ref().or(self.owed.to_message.as_ref()).cloned();
        match (command, owed) {
            (Command::Header { name, value }, _) => {
                self.mail.iter_mut().for_each(|mail| mail.field(&name, &value));
                milter::Decision::Continue.into()
            }
            (Command::Body(octets), _) => {
                let goes_on = self.mail.as_mut().is_none_or(|mail| mail.body(&octets));
                let decision =
                    if goes_on { milter::Decision::Continue } else { milter::Decision::Skip };
                decision.into()
            }
            (Command::EndOfMessage(_), Some(owed)) => {
                self.close(decided(&owed), Some(&reason(&owed)));
                owed.into()
            }
            (_, Some(owed)) => owed.into(),
            (Command::Connect { host, client }, None) => self.connect(&host, client).await.into(),
            (Command::Helo(name), None) => self.helo(&name).await.into(),
            (Command::Mail(path), None) => self.mail(&path).await.into(),
            (Command::Rcpt(path), None) => self.rcpt(&path).await.into(),
            (Command::Data, None) => self.data().await.into(),
            (Command::EndOfMessage(octets), None) => self.end_of_message(&octets).await,
            (_, None) => milter::Decision::Continue.into(),
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
        self.advisor.begin(&self.listen.name, origin, facts);
        self.client(Event {
            command: smtp::Command::Connect,
            content: Content::Nothing,
            envelope: Envelope::default(),
            bypass: Vec::new(),
        })
        .await
    }

    async fn helo(&mut self, name: &[u8]) -> milter::Decision {
        let known = self.advisor.facts();
        let update = known.and_then(|known| facts::update(known, Some(name), std::iter::empty()));
        self.advisor.update(update);
        // The MTA does not tell which of HELO and EHLO it was.
        match command("HELO ", name, &[], Envelope::default()) {
            Some(event) => self.client(event).await,
            None => syntax("the name given with HELO", name),
        }
    }

    /// Asks about the client itself. One that was refused has a line in the log of its own.
    async fn client(&mut self, event: Event) -> milter::Decision {
        let mut record = Record::default();
        match self.advisor.ask(event, Accepted::default(), &mut record).await {
            Said::Go(mut advice) => {
                advice.report(&OcpResult::ok(), None);
                milter::Decision::Continue
            }
            Said::Refused(Refusal { reply, .. }) => {
                let decision = decision_of(&reply);
                self.listen.refused_client(decided(&decision));
                if let Some(facts) = self.advisor.facts() {
                    record.log(facts, None, &[], decided(&decision), Some(&reason(&decision)));
                }
                decision
            }
        }
    }

    async fn mail(&mut self, path: &Path) -> milter::Decision {
        let Some((event, sender)) = envelope_command("MAIL FROM:", path, Envelope::default())
        else {
            return syntax("the sender's address", &path.address);
        };
        let mail = Mail::new(sender.clone(), self.advisor.processor(), self.sent);
        let mail = self.mail.insert(mail);
        let accepted = Accepted { sender: Some(&sender), ..Accepted::default() };
        match self.advisor.ask(event, accepted, &mut mail.record).await {
            Said::Refused(Refusal { reply, .. }) => {
                let decision = decision_of(&reply);
                self.close(decided(&decision), Some(&reason(&decision)));
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
                milter::Decision::Continue
            }
        }
    }

    async fn rcpt(&mut self, path: &Path) -> milter::Decision {
        let Some(mail) = &mut self.mail else { return milter::Decision::Continue };
        let Some((event, recipient)) = envelope_command("RCPT TO:", path, mail.envelope()) else {
            return syntax("the recipient's address", &path.address);
        };
        if mail.done {
            return match mail.accept(recipient) {
                Ok(()) => milter::Decision::Continue,
                Err(error) => no_room(&error),
            };
        }
        let accepted = Accepted {
            sender: Some(&mail.sender),
            recipients: &mail.recipients,
            recipient: Some(&recipient),
        };
        match self.advisor.ask(event, accepted, &mut mail.record).await {
            Said::Refused(Refusal { reply, .. }) => {
                let decision = decision_of(&reply);
                mail.record.refused(&recipient, &reason(&decision));
                mail.refused = Some(decision.clone());
                decision
            }
            Said::Go(mut advice) => {
                if let Err(error) = mail.accept(recipient.clone()) {
                    advice.report(&OcpResult::failure(error.to_string()), None);
                    return no_room(&error);
                }
                mail.done = advice.envelope_done;
                if let Answer::Line(line) = &advice.answer
                    && let Ok(changed) = address_of(line)
                    && let Some(changed) = rewritten(&recipient, changed)
                    && !(changed.parameters.is_empty() && is_same_recipient(&recipient, &changed))
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
        let Some(mail) = self.mail.as_mut().filter(|mail| !mail.done) else {
            return milter::Decision::Continue;
        };
        let Some(event) = command("DATA", b"", &[], mail.envelope()) else {
            return milter::Decision::Continue;
        };
        let accepted = accepted(&mail.sender, &mail.recipients);
        match self.advisor.ask(event, accepted, &mut mail.record).await {
            Said::Refused(Refusal { reply, .. }) => {
                let decision = decision_of(&reply);
                self.close(decided(&decision), Some(&reason(&decision)));
                self.owed.to_message = Some(decision.clone());
                decision
            }
            Said::Go(mut advice) => {
                mail.done = advice.envelope_done;
                mail.effects.append(&mut advice.effects);
                advice.report(&OcpResult::ok(), None);
                milter::Decision::Continue
            }
        }
    }

    async fn end_of_message(&mut self, octets: &Bytes) -> Told {
        let Some(mail) = &mut self.mail else { return milter::Decision::Continue.into() };
        mail.body(octets);
        let (told, decision, why) = match mail.content() {
            Err(error) => self.without_content(&error),
            Ok(original) => self.message(&original).await,
        };
        self.close(decision, why.as_deref());
        told
    }

    /// Content that services can't look at: the failure policy decides, and the log says why.
    fn without_content(&mut self, error: &NoContent) -> Concluded {
        let nothing = Collector::new(0).finish(false);
        let shown = self.shown(&nothing);
        let Some(mail) = &mut self.mail else { return accept() };
        let accepted = accepted(&mail.sender, &mail.recipients);
        let policy = self.advisor.failure_policy(accepted);
        mail.record.chosen_by(self.advisor.rule(accepted));
        let Some(configured) = policy.filter(|_| !mail.done) else {
            // Nobody wants it.
            return self.conclude(&nothing, &shown, None, None);
        };
        let policy = match error {
            NoContent::NoRoom => FailurePolicy::Tempfail,
            NoContent::Message(_) | NoContent::NotSent => configured,
        };
        tracing::warn!(stage = "content", cause = %error, %policy, "adaptation failed");
        mail.record.failed(error.to_string());
        match failed(policy) {
            milter::Decision::Continue => self.conclude(&nothing, &shown, None, None),
            decision => refused(decision),
        }
    }

    async fn message(&mut self, original: &Original) -> Concluded {
        let shown = self.shown(original);
        let request = bypass::request(values(original, bypass::FIELD));
        let said = self.ask_about(&request, &shown).await;
        let outcome = self.outcome_of(&request);
        match said {
            Some(Said::Refused(Refusal { reply, .. })) => refused(decision_of(&reply)),
            Some(Said::Go(advice)) => self.conclude(original, &shown, Some(advice), outcome),
            None => self.conclude(original, &shown, None, outcome),
        }
    }

    /// The message as services see it: with our own trace on top.
    fn shown(&mut self, original: &Original) -> Message {
        let Message { header, body } = &original.message;
        let id = self.advisor.trace_id();
        let header = match self.advisor.pass(&id) {
            None => header.clone(),
            Some(pass) => {
                let earlier = pass.earlier(header);
                self.mail.iter_mut().for_each(|mail| mail.record.earlier_passes(earlier));
                [&pass.field()[..], header].concat().into()
            }
        };
        Message { header, body: body.clone() }
    }

    /// Asks about content; `None` if the services have had enough of this envelope.
    async fn ask_about(&mut self, request: &[Atom], shown: &Message) -> Option<Said> {
        let mail = self.mail.as_mut().filter(|mail| !mail.done)?;
        let bypass = if self.advisor.hears_bypass() { request.to_vec() } else { Vec::new() };
        let event = Event { bypass, ..Event::message(shown.clone(), mail.envelope()) };
        let accepted = accepted(&mail.sender, &mail.recipients);
        Some(self.advisor.ask(event, accepted, &mut mail.record).await)
    }

    /// What became of a request to skip services, if there is one.
    fn outcome_of(&mut self, request: &[Atom]) -> Option<Outcome> {
        let mail = self.mail.as_mut().filter(|_| !request.is_empty())?;
        let outcome = match self.advisor.hears_bypass() {
            true => Outcome::of(mail.record.verdicts()),
            false => Outcome::Ignored,
        };
        mail.record.bypass(outcome, request);
        Some(outcome)
    }

    /// The message goes on: as the services have made it of what was shown to them, and with all that was
    /// asked for at any stage.
    fn conclude(
        &mut self,
        original: &Original,
        shown: &Message,
        mut advice: Option<Advice>,
        bypass: Option<Outcome>,
    ) -> Concluded {
        let Some(mail) = &mut self.mail else { return accept() };
        let verdicts = advice.as_ref().map_or(&[][..], |advice| &advice.verdicts);
        let mut adapted = match advice.as_ref().map(|advice| &advice.answer) {
            Some(Answer::Message(adapted)) => adapted.clone(),
            _ => Adapted { header: vec![shown.header.clone()], body: shown.body.clone() },
        };
        let id = self.advisor.trace_id();
        if let Some(pass) = self.advisor.pass(&id) {
            pass.complete(&mut adapted, &original.message.header, bypass, verdicts);
        }
        let asked_for = advice.as_mut().map(|advice| std::mem::take(&mut advice.effects));
        mail.effects.extend(asked_for.into_iter().flatten());
        let (told, result) = match carried_out(mail, original, &adapted, self.actions) {
            Ok(told) => (told, OcpResult::ok()),
            Err(error) => {
                let policy = self.advisor.failure_policy(accepted(&mail.sender, &mail.recipients));
                let policy = policy.unwrap_or_default();
                tracing::warn!(stage = "milter", cause = %error, %policy, "adaptation failed");
                mail.record.failed(error.to_string());
                (failed(policy).into(), OcpResult::failure(error.to_string()))
            }
        };
        if let Some(advice) = &mut advice {
            advice.report(&result, None);
        }
        let asked = |name| mail.effects.iter().any(|effect| effect.name() == name);
        let decision = match &told.decision {
            milter::Decision::Continue if told.modifications.is_empty() => Decision::Accept,
            milter::Decision::Continue
                if asked(EffectName::Quarantine) || asked(EffectName::Hold) =>
            {
                Decision::Quarantine
            }
            milter::Decision::Continue => Decision::Modify,
            milter::Decision::Discard => Decision::Discard,
            refusal => return refused(refusal.clone()),
        };
        (told, decision, None)
    }

    /// Something that can't be written to the MTA: the failure policy decides, and the log says what.
    pub(super) fn can_not(&self, cause: &milter::Misuse) -> milter::Decision {
        let policy = self.advisor.failure_policy(Accepted::default()).unwrap_or_default();
        tracing::warn!(stage = "milter", %cause, %policy, "adaptation failed");
        failed(policy)
    }
}

/// What the MTA is told of a message; what the log says of it, and why.
type Concluded = (Told, Decision, Option<String>);

fn accept() -> Concluded {
    (milter::Decision::Continue.into(), Decision::Accept, None)
}

fn refused(decision: milter::Decision) -> Concluded {
    let (decided, why) = (decided(&decision), reason(&decision));
    (decision.into(), decided, Some(why))
}

fn accepted<'a>(sender: &'a smtp::Address, recipients: &'a [smtp::Address]) -> Accepted<'a> {
    Accepted { sender: Some(sender), recipients, recipient: None }
}

impl From<milter::Decision> for Told {
    fn from(decision: milter::Decision) -> Self {
        Self { modifications: Vec::new(), decision }
    }
}

/// The edits and effects of a message.
fn carried_out(
    mail: &Mail,
    original: &Original,
    adapted: &Adapted,
    actions: Actions,
) -> Result<Told, Unfit> {
    let Effects { modifications: envelope, discard } = effects(&mail.recipients, &mail.effects)?;
    if discard {
        return Ok(milter::Decision::Discard.into());
    }
    let mut modifications = edits(original, adapted)?;
    modifications.extend(envelope);
    let mut wanted = modifications.iter().map(Modification::action);
    if let Some(action) = wanted.find(|action| !actions.contain(*action)) {
        return Err(Unfit::NotAgreed(action));
    }
    Ok(Told { modifications, decision: milter::Decision::Continue })
}
