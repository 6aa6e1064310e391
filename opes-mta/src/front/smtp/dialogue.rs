//! What the services make of an SMTP dialog: commands as they go to the next hop, and content.

use std::sync::Arc;

use bytes::Bytes;
use ocp_proto::OcpResult;
use ocp_proto::smtp::{
    Address, Auth, Command, CommandLine, DialogFacts, DialogUpdate, EffectName, Envelope, Reply,
    SideEffect, Tls,
};
use ocp_proto::wire::Atom;

use super::carry::Carried;
use super::content::{Content, NoContent};
use super::listen::Settings;
use super::mail::Mail;
use super::plan::Plan;
use super::replies::{self, syntax};
use super::stored::Provenance;
use super::{peer, recipients};
use crate::apply::Answer;
use crate::bypass::{self, Outcome};
use crate::config::Origin;
use crate::consult::failure_reply;
use crate::event::{self, Event, Message, address_of};
use crate::front::advisor::{Abilities, Advisor, Refusal, Said};
use crate::front::facts::text;
use crate::passage::{Accepted, Advice};
use crate::processor::Processor;
use crate::record::{Decision, Record};
use crate::relay;
use crate::smtp::Attribute;
use crate::trace;

/// What becomes of a command.
#[derive(Debug)]
pub(super) enum Told {
    /// The client gets this; the next hop hears nothing.
    Refuse(Reply),
    /// The next hop gets this line; its reply is the client's.
    Pass(CommandLine),
}

/// What MAIL asks of us besides.
#[derive(Clone, Debug, Default)]
pub(super) struct Terms {
    /// A reply for each recipient (draft-hall-prdr).
    pub(super) has_prdr: bool,
    /// Services that are to be skipped.
    pub(super) bypass: Vec<Atom>,
}

/// For whom a peer speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Speaks {
    /// It is the client.
    ForItself,
    /// For a client of its own (XFORWARD).
    ForAnother,
    /// As if another client had connected (XCLIENT).
    AsAnother,
}

/// One client's dialog.
#[derive(Debug)]
pub(super) struct Dialogue {
    settings: Arc<Settings>,
    listen: Arc<str>,
    advisor: Advisor,
    /// What the connection alone says of the client, and the name that it gave last.
    connected: (DialogFacts, Origin),
    origin: Origin,
    /// What is known before the services are told.
    facts: DialogFacts,
    /// Whose they are.
    speaks: Speaks,
    /// Whether the services know of the client. A peer that speaks for others may yet say who it is.
    is_begun: bool,
    /// The client as a whole was refused, whatever it calls itself.
    turned_away: Option<Reply>,
    /// The name that it gave was refused; it may give another one.
    refused: Option<Reply>,
    /// A service wants the client to go.
    disconnects: bool,
    mail: Option<Mail>,
}

impl Dialogue {
    /// A client that has connected from there, to a processor that stands there.
    pub(super) fn new(
        processor: Arc<Processor>,
        settings: Arc<Settings>,
        listen: Arc<str>,
        origin: Origin,
        client_port: u16,
    ) -> Self {
        let facts = peer::connected(settings.placement, origin, client_port);
        let notifications = settings.stores.spool.is_some();
        let advisor = Advisor::new(processor, Abilities { versions: true, notifications });
        Self {
            settings,
            listen,
            advisor,
            connected: (facts.clone(), origin),
            origin,
            facts,
            speaks: Speaks::ForItself,
            is_begun: false,
            turned_away: None,
            refused: None,
            disconnects: false,
            mail: None,
        }
    }

    /// Tells the services of the client, as it is known by now: what it is refused with, if it is.
    pub(super) async fn begin(&mut self) -> Option<Reply> {
        if !self.is_begun {
            self.is_begun = true;
            self.advisor.begin(&self.listen, self.origin, self.facts.clone());
            let connect = Event {
                command: Command::Connect,
                content: event::Content::Nothing,
                envelope: Envelope::default(),
                bypass: Vec::new(),
            };
            self.turned_away = self.client(connect).await;
            if let (None, Some(name)) = (&self.turned_away, self.facts.helo.clone()) {
                self.refused = self.hello(&name).await;
            }
        }
        self.turned_away.clone().or(self.refused.clone())
    }

    /// The client says its name. The services hear it at once, or with the rest.
    pub(super) async fn greet(&mut self, name: &[u8]) -> Option<Reply> {
        self.abandon();
        self.facts.helo = text(name).or(self.facts.helo.take());
        self.connected.0.helo = text(name);
        if !self.is_begun && self.speaks == Speaks::AsAnother {
            return self.begin().await;
        }
        if !self.is_begun || self.turned_away.is_some() {
            return self.turned_away.clone();
        }
        let update = DialogUpdate { helo: text(name), ..DialogUpdate::default() };
        self.advisor.update(Some(update));
        self.refused = self.hello(name).await;
        self.refused.clone()
    }

    /// The peer speaks for another client from now on. Until that one says something it may say more of it.
    pub(super) fn speak(&mut self, speaks: Speaks, attributes: &[Attribute]) {
        if self.is_begun || self.speaks != speaks {
            // Its own name is what there is of a client whose name nobody says.
            let DialogFacts { activation, helo, .. } = self.connected.0.clone();
            self.facts = DialogFacts { activation, helo, ..DialogFacts::default() };
            self.origin = Origin::Unknown;
        }
        self.origin = peer::forward(&mut self.facts, attributes).unwrap_or(self.origin);
        (self.speaks, self.is_begun) = (speaks, false);
        (self.turned_away, self.refused) = (None, None);
    }

    /// There is TLS with the client. What it said before could be somebody else's words (RFC 3207 section
    /// 4.2); services that know of it are told, or of whom it spoke for no more.
    pub(super) fn secured(&mut self, tls: Tls) {
        self.abandon();
        self.connected.0.helo = None;
        let (connected, origin) = self.connected.clone();
        let spoke = std::mem::replace(&mut self.speaks, Speaks::ForItself);
        self.is_begun &= spoke == Speaks::ForItself;
        (self.facts, self.origin) = (DialogFacts { tls: Some(tls.clone()), ..connected }, origin);
        if self.is_begun {
            self.advisor.update(Some(DialogUpdate { tls: Some(tls), ..DialogUpdate::default() }));
        }
    }

    /// What a next hop may learn of the client.
    pub(super) fn origin(&self) -> relay::Origin {
        peer::origin(&self.facts)
    }

    async fn hello(&mut self, name: &[u8]) -> Option<Reply> {
        let line = CommandLine::new([b"HELO ", name].concat()).ok()?;
        self.client(Event::command(line, Envelope::default())?).await
    }

    /// Asks about the client itself. One that was refused has a line in the log of its own.
    async fn client(&mut self, event: Event) -> Option<Reply> {
        let mut record = Record::default();
        let said = self.advisor.ask(event, Accepted::default(), &mut record).await;
        match self.heard(said) {
            Ok(mut advice) => {
                advice.report(&OcpResult::ok(), None);
                None
            }
            Err(Refusal { reply, .. }) => {
                if let Some(facts) = self.advisor.facts() {
                    record.log(facts, None, &[], decision_of(&reply), Some(&reply.to_string()));
                }
                Some(reply)
            }
        }
    }

    /// What the services said. They may want the client to go, with a reply of theirs or without.
    fn heard(&mut self, said: Said) -> Result<Advice, Refusal> {
        let wants = |effect: &SideEffect| effect.name() == EffectName::Disconnect;
        match said {
            Said::Go(mut advice) if advice.effects.iter().any(wants) => {
                self.disconnects = true;
                let reply = replies::disconnected();
                advice.report(&OcpResult::ok(), Some(&reply));
                let Advice { effects, notifications, .. } = advice;
                Err(Refusal { reply, effects, notifications })
            }
            Said::Go(advice) => Ok(advice),
            Said::Refused(refusal) => {
                self.disconnects |= refusal.effects.iter().any(wants);
                Err(refusal)
            }
        }
    }

    /// Whether the client has heard all that it is to hear.
    pub(super) fn disconnects(&self) -> bool {
        self.disconnects
    }

    /// Whether MAIL may ask for services to be skipped, whoever is heard.
    pub(super) fn takes_bypass(&self) -> bool {
        self.advisor.processor().config().bypass.xopes_bypass
    }

    /// MAIL: the line as it came, without source route.
    pub(super) async fn mail(&mut self, line: CommandLine, sender: &Address, terms: Terms) -> Told {
        self.abandon();
        if let Some(refused) = self.begin().await {
            return Told::Refuse(refused);
        }
        let processor = Arc::clone(self.advisor.processor());
        let mut mail = Mail {
            sender: sender.clone(),
            recipients: Vec::new(),
            known: Envelope::default(),
            effects: Vec::new(),
            done: false,
            is_data_asked: false,
            record: Record::default(),
            content: Content::new(&processor),
            asked: None,
            terms,
        };
        let Some(event) = Event::command(line.clone(), Envelope::default()) else {
            return Told::Refuse(syntax());
        };
        let bypass = mail.heard_bypass(&self.advisor);
        let accepted = Accepted { sender: Some(sender), ..Accepted::default() };
        let event = Event { bypass, ..event };
        let said = self.advisor.ask(event, accepted, &mut mail.record).await;
        match self.heard(said) {
            Err(Refusal { reply, .. }) => {
                self.mail = Some(mail);
                self.close(decision_of(&reply), Some(&reply.to_string()));
                Told::Refuse(reply)
            }
            Ok(advice) => {
                let (line, adapted) = adapted_line(&advice, line, sender);
                mail.asked = Some((advice, sender.clone(), adapted));
                self.mail = Some(mail);
                Told::Pass(line)
            }
        }
    }

    /// RCPT, as MAIL.
    pub(super) async fn rcpt(&mut self, line: CommandLine, recipient: &Address) -> Told {
        let Some(mail) = &mut self.mail else { return Told::Pass(line) };
        if mail.done {
            mail.asked = Some((Advice::default(), recipient.clone(), recipient.clone()));
            return Told::Pass(line);
        }
        let Some(event) = Event::command(line.clone(), mail.envelope()) else {
            return Told::Refuse(syntax());
        };
        let accepted = Accepted {
            sender: Some(&mail.sender),
            recipients: &mail.recipients,
            recipient: Some(recipient),
        };
        let event = Event { bypass: mail.heard_bypass(&self.advisor), ..event };
        let said = self.advisor.ask(event, accepted, &mut mail.record).await;
        let heard = self.heard(said);
        let Some(mail) = &mut self.mail else { return Told::Pass(line) };
        match heard {
            Err(Refusal { reply, .. }) => {
                mail.record.refused(recipient, &reply.to_string());
                Told::Refuse(reply)
            }
            Ok(advice) => {
                let (line, adapted) = adapted_line(&advice, line, recipient);
                mail.asked = Some((advice, recipient.clone(), adapted));
                Told::Pass(line)
            }
        }
    }

    /// The next hop has replied to MAIL or RCPT.
    pub(super) fn replied(&mut self, command: &Command, reply: &Reply) {
        let Some(mail) = &mut self.mail else { return };
        let Some((mut advice, given, passed)) = mail.asked.take() else { return };
        let result = match reply.is_success() {
            true => OcpResult::ok(),
            false => OcpResult::failure("the next hop refused it"),
        };
        advice.report(&result, Some(reply).filter(|reply| !reply.is_success()));
        match (command, reply.is_success()) {
            (Command::Mail, true) => {
                mail.known.sender = Some(passed);
                mail.done = advice.envelope_done;
                mail.effects.append(&mut advice.effects);
            }
            (Command::Rcpt, true) => {
                mail.recipients.push(given);
                mail.known.recipients.push(passed);
                mail.done |= advice.envelope_done;
                mail.effects.append(&mut advice.effects);
            }
            (Command::Rcpt, false) => mail.record.refused(&given, &reply.to_string()),
            (_, false) => {
                self.close(decision_of(reply), Some(&reply.to_string()));
            }
            (_, true) => {}
        }
    }

    /// DATA, or the first BDAT: what it is refused with, if it is.
    pub(super) async fn data(&mut self) -> Option<Reply> {
        let mail = self.mail.as_mut().filter(|mail| !(mail.done || mail.is_data_asked))?;
        mail.is_data_asked = true;
        let event = Event::command(CommandLine::new("DATA").ok()?, mail.envelope())?;
        let event = Event { bypass: mail.heard_bypass(&self.advisor), ..event };
        let accepted = accepted(&mail.sender, &mail.recipients);
        let said = self.advisor.ask(event, accepted, &mut mail.record).await;
        match self.heard(said) {
            Err(Refusal { reply, .. }) => {
                self.close(decision_of(&reply), Some(&reply.to_string()));
                Some(reply)
            }
            Ok(mut advice) => {
                let mail = self.mail.as_mut()?;
                mail.done = advice.envelope_done;
                mail.effects.append(&mut advice.effects);
                advice.report(&OcpResult::ok(), None);
                None
            }
        }
    }

    /// Whether a message is under way.
    pub(super) fn has_mail(&self) -> bool {
        self.mail.is_some()
    }

    /// The client has authenticated, so the next hop says. As whom is between the two of them.
    pub(super) fn authenticated(&mut self, mechanism: &[u8]) {
        let Some(mechanism) = text(mechanism) else { return };
        let auth = Some(Auth { mechanism, identity: Atom::new() });
        self.facts.auth.clone_from(&auth);
        self.advisor.update(Some(DialogUpdate { auth, ..DialogUpdate::default() }));
    }

    /// Octets of the content.
    pub(super) async fn content(&mut self, octets: Bytes) {
        if let Some(mail) = &mut self.mail {
            mail.content.push(octets).await;
        }
    }

    /// The content is complete: what becomes of it. Then [`Dialogue::carried`].
    pub(super) async fn message(&mut self) -> Plan {
        let Some(mail) = &mut self.mail else { return Plan::refuse(syntax()) };
        mail.record.octets(mail.content.octets());
        match mail.content.finish() {
            Ok(message) => self.adapt(message).await,
            Err(error) => self.without_content(error),
        }
    }

    /// Content that services can't look at, and that is no longer there to be passed on.
    fn without_content(&mut self, error: NoContent) -> Plan {
        error.log();
        self.mail.iter_mut().for_each(|mail| mail.record.failed(error.to_string()));
        Plan::refuse(error.reply())
    }

    async fn adapt(&mut self, message: Message) -> Plan {
        let id = self.advisor.trace_id();
        let shown = self.shown(&message, &id);
        let hears = self.advisor.hears_bypass();
        let Some(mail) = &mut self.mail else { return Plan::refuse(syntax()) };
        let fields = trace::values(&message.header, bypass::FIELD);
        let request = bypass::both(mail.terms.bypass.clone(), bypass::request(fields));
        let said = if mail.done {
            Said::Go(Advice::default())
        } else {
            let bypass = if hears { request.clone() } else { Vec::new() };
            let event = Event { bypass, ..Event::message(shown.clone(), mail.envelope()) };
            let accepted = accepted(&mail.sender, &mail.recipients);
            self.advisor.ask(event, accepted, &mut mail.record).await
        };
        let bypass = (!request.is_empty()).then(|| match hears {
            true => Outcome::of(mail.record.verdicts()),
            false => Outcome::Ignored,
        });
        bypass.into_iter().for_each(|outcome| mail.record.bypass(outcome, &request));
        let mut advice = match self.heard(said) {
            Ok(advice) => advice,
            Err(Refusal { reply, mut notifications, .. }) => {
                // What is put off comes again, and is notified of then.
                notifications.retain(|_| reply.is_permanent());
                return Plan { notifications, ..Plan::refuse(reply) };
            }
        };
        let mut plan = self.plan(&shown, &mut advice);
        if let Some(pass) = self.advisor.pass(&id) {
            plan.traced(&pass, &message.header, bypass, &advice.verdicts);
        }
        if let Some(mail) = &mut self.mail {
            mail.asked = Some((advice, mail.sender.clone(), mail.sender.clone()));
        }
        plan
    }

    /// What the services' answer comes to; where that can't be carried out, what the configuration says.
    fn plan(&mut self, shown: &Message, advice: &mut Advice) -> Plan {
        let Some(mail) = &mut self.mail else { return Plan::refuse(syntax()) };
        let envelope = mail.envelope();
        let new = |advice: &Advice| {
            Plan::new(shown, &envelope, &mail.effects, &advice.answer, &advice.effects)
        };
        let (each, settings) = (mail.hears_of_each(&self.settings), &self.settings);
        let is_possible = |plan: &Plan| plan.is_possible(each, settings.stores.spool.is_some());
        let mut plan = new(advice);
        if !is_possible(&plan) && advice.keep_refused() {
            plan = new(advice);
        }
        if !is_possible(&plan) {
            advice.unite();
            plan = new(advice);
        }
        plan.notifications = std::mem::take(&mut advice.notifications);
        let Some(next_hop) = plan.next_hops().find(|next_hop| !settings.may_route_to(next_hop))
        else {
            return plan;
        };
        let cause = format!("the next hop {next_hop} is not allowed (--route)");
        let accepted = accepted(&mail.sender, &mail.recipients);
        let policy = self.advisor.failure_policy(accepted).unwrap_or_default();
        tracing::warn!(stage = "route", cause, %policy, "adaptation failed");
        advice.report(&OcpResult::failure(cause.clone()), None);
        mail.record.failed(cause);
        match failure_reply(policy) {
            Some(reply) => Plan::refuse(reply),
            None => Plan::new(shown, &mail.known, &[], &Answer::Unchanged, &[]),
        }
    }

    /// Whether the next hop knows the envelope already.
    pub(super) fn is_known(&self, plan: &Plan) -> bool {
        let known = self.mail.as_ref().map(|mail| &mail.known);
        matches!(&plan.parts[..], [part] if Some(&part.envelope) == known)
    }

    /// Where the message comes from.
    pub(super) fn provenance(&self) -> Provenance {
        let asked = self.mail.as_ref().and_then(|mail| mail.asked.as_ref());
        let verdicts = asked.map(|(advice, ..)| advice.verdicts.clone()).unwrap_or_default();
        let found = self.mail.as_ref().map(|mail| mail.record.verdicts()).unwrap_or_default();
        let id = self.advisor.trace_id();
        let trace = self.advisor.pass(&id).map(|pass| pass.record(found));
        Provenance::new(id, self.advisor.facts(), verdicts, trace)
    }

    /// The message as services see it: with our own trace on top.
    fn shown(&mut self, message: &Message, id: &str) -> Message {
        let Some(pass) = self.advisor.pass(id) else { return message.clone() };
        let earlier = pass.earlier(&message.header);
        let header = [&pass.field()[..], &message.header].concat().into();
        self.mail.iter_mut().for_each(|mail| mail.record.earlier_passes(earlier));
        Message { header, body: message.body.clone() }
    }

    /// The plan was carried out: what the client gets.
    pub(super) fn carried(&mut self, carried: Carried) -> relay::Answer {
        let Carried { parts, spooled, kept, .. } = carried;
        let Some(mail) = &mut self.mail else {
            return recipients::for_client(&parts, &[], false);
        };
        mail.record.stored(&kept, &spooled);
        let told = mail.answered(&parts, mail.hears_of_each(&self.settings));
        let refused = recipients::worst(recipients::replies(&told));
        let is_modified = mail.asked.take().is_some_and(|(mut advice, ..)| {
            let result = match refused {
                None => OcpResult::ok(),
                Some(_) => OcpResult::failure("the next hop refused it"),
            };
            advice.report(&result, refused);
            matches!(advice.answer, Answer::Message(_))
        });
        let decision = match refused {
            Some(reply) => decision_of(reply),
            None => mail.decision(&parts, is_modified),
        };
        let why = || parts.iter().find_map(|(part, _)| part.fate.why());
        let reason = refused.map(Reply::to_string).or_else(why);
        let has_prdr = mail.terms.has_prdr;
        self.close(decision, reason.as_deref());
        if has_prdr { recipients::announced(told) } else { told }
    }

    /// Whether the client hears what became of the message for each recipient.
    pub(super) fn hears_of_each(&self) -> bool {
        self.mail.as_ref().is_some_and(|mail| mail.hears_of_each(&self.settings))
    }

    /// The message that was under way can't go on: the client was told so.
    pub(super) fn failed(&mut self, reply: &Reply) {
        self.close(decision_of(reply), Some(&reply.to_string()));
    }

    /// The message that was under way is given up.
    pub(super) fn abandon(&mut self) {
        self.close(Decision::Abandoned, None);
    }

    /// The message is done with, if there is one: its line in the log.
    fn close(&mut self, decision: Decision, why: Option<&str>) {
        if let (Some(mail), Some(facts)) = (self.mail.take(), self.advisor.facts()) {
            mail.record.log(facts, Some(&mail.sender), &mail.recipients, decision, why);
        }
        self.advisor.end_message();
    }
}

/// The line for the next hop, and the address in it.
fn adapted_line(advice: &Advice, line: CommandLine, given: &Address) -> (CommandLine, Address) {
    match &advice.answer {
        Answer::Line(adapted) => match address_of(adapted) {
            Ok(address) => (adapted.clone(), address),
            Err(_) => (line, given.clone()),
        },
        _ => (line, given.clone()),
    }
}

fn accepted<'a>(sender: &'a Address, recipients: &'a [Address]) -> Accepted<'a> {
    Accepted { sender: Some(sender), recipients, recipient: None }
}

fn decision_of(reply: &Reply) -> Decision {
    if reply.is_temporary() { Decision::Tempfail } else { Decision::Reject }
}
