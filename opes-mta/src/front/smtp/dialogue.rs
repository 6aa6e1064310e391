//! What the services make of an SMTP dialog: commands as they go to the next hop, and content.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use ocp_proto::OcpResult;
use ocp_proto::smtp::{
    Activation, Address, Auth, Command, CommandLine, DialogFacts, DialogUpdate, EffectName,
    Envelope, Reply, Tls, Verdict,
};
use ocp_proto::wire::Atom;

use super::content::{Content, NoContent};
use super::mail::Mail;
use super::replies::{fixed, syntax, taken};
use super::{peer, recipients};
use crate::apply::{Adapted, Answer};
use crate::bypass::{self, Outcome};
use crate::config::Origin;
use crate::event::{self, Event, Message, address_of};
use crate::front::advisor::{Advisor, Said};
use crate::front::facts::text;
use crate::passage::{Accepted, Advice};
use crate::processor::Processor;
use crate::quarantine::Arrival;
use crate::record::{Decision, Record};
use crate::relay;
use crate::smtp::Attribute;
use crate::spool::NewRecipient;
use crate::trace;

/// How long a message is kept that nobody releases.
const KEPT: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// What becomes of a command.
#[derive(Debug)]
pub(super) enum Told {
    /// The client gets this; the next hop hears nothing.
    Refuse(Reply),
    /// The next hop gets this line; its reply is the client's.
    Pass(CommandLine),
}

/// What becomes of content.
#[derive(Debug)]
pub(super) enum Delivery {
    /// The client gets this; the next hop gets no content.
    Answer(Reply),
    /// The next hop gets this message, for this envelope.
    Send {
        /// The header section, then the body.
        content: Vec<Bytes>,
        /// The envelope in force.
        envelope: Envelope,
        /// Whether the next hop knows that envelope.
        is_known: bool,
    },
    /// The message is kept for somebody to look at; the next hop gets no content.
    Keep {
        /// The header section, then the body.
        content: Vec<Bytes>,
        /// What is known of it.
        arrival: Box<Arrival>,
    },
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
    mail: Option<Mail>,
}

impl Dialogue {
    /// A client that has connected from there, to a processor that stands there.
    pub(super) fn new(
        processor: Arc<Processor>,
        listen: Arc<str>,
        activation: Activation,
        origin: Origin,
        client_port: u16,
    ) -> Self {
        let facts = peer::connected(activation, origin, client_port);
        let advisor = Advisor::new(processor);
        Self {
            listen,
            advisor,
            connected: (facts.clone(), origin),
            origin,
            facts,
            speaks: Speaks::ForItself,
            is_begun: false,
            turned_away: None,
            refused: None,
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
        match self.advisor.ask(event, Accepted::default(), &mut record).await {
            Said::Go(mut advice) => {
                advice.report(&OcpResult::ok(), None);
                None
            }
            Said::Refused(reply) => {
                if let Some(facts) = self.advisor.facts() {
                    record.log(facts, None, &[], decision_of(&reply), Some(&reply.to_string()));
                }
                Some(reply)
            }
        }
    }

    /// MAIL: the line as it came, without source route.
    pub(super) async fn mail(&mut self, line: CommandLine, sender: &Address) -> Told {
        self.abandon();
        if let Some(refused) = self.begin().await {
            return Told::Refuse(refused);
        }
        let processor = Arc::clone(self.advisor.processor());
        let limit = processor.config().limits.message_octets as usize;
        let mut mail = Mail {
            sender: sender.clone(),
            recipients: Vec::new(),
            known: Envelope::default(),
            effects: Vec::new(),
            done: false,
            is_data_asked: false,
            record: Record::default(),
            content: Content::new(limit, processor.room()),
            asked: None,
        };
        let Some(event) = Event::command(line.clone(), Envelope::default()) else {
            return Told::Refuse(syntax());
        };
        let accepted = Accepted { sender: Some(sender), ..Accepted::default() };
        match self.advisor.ask(event, accepted, &mut mail.record).await {
            Said::Refused(reply) => {
                self.mail = Some(mail);
                self.close(decision_of(&reply), Some(&reply.to_string()));
                Told::Refuse(reply)
            }
            Said::Go(advice) => {
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
        match self.advisor.ask(event, accepted, &mut mail.record).await {
            Said::Refused(reply) => {
                mail.record.refused(recipient, &reply.to_string());
                Told::Refuse(reply)
            }
            Said::Go(advice) => {
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
        let accepted = accepted(&mail.sender, &mail.recipients);
        match self.advisor.ask(event, accepted, &mut mail.record).await {
            Said::Refused(reply) => {
                self.close(decision_of(&reply), Some(&reply.to_string()));
                Some(reply)
            }
            Said::Go(mut advice) => {
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
    pub(super) fn content(&mut self, octets: &Bytes) {
        self.mail.iter_mut().for_each(|mail| mail.content.push(octets));
    }

    /// The content is complete: what becomes of it. Then [`Dialogue::delivered`].
    pub(super) async fn message(&mut self) -> Delivery {
        let Some(mail) = &mut self.mail else { return Delivery::Answer(syntax()) };
        mail.record.octets(mail.content.octets());
        match mail.content.finish() {
            Ok(message) => self.adapt(message).await,
            Err(error) => self.without_content(error),
        }
    }

    /// Content that services can't look at, and that is no longer there to be passed on.
    fn without_content(&mut self, error: NoContent) -> Delivery {
        tracing::warn!(stage = "content", cause = %error, "a message is refused");
        self.mail.iter_mut().for_each(|mail| mail.record.failed(error.to_string()));
        Delivery::Answer(match error {
            NoContent::TooLarge(_) => fixed(552, "5.3.4", "The message is too large"),
            NoContent::NoRoom => fixed(452, "4.3.1", "Too much mail is under way, try again later"),
        })
    }

    async fn adapt(&mut self, message: Message) -> Delivery {
        let id = self.advisor.trace_id();
        let shown = self.shown(&message, &id);
        let request = bypass::request(trace::values(&message.header, bypass::FIELD));
        let hears = self.advisor.hears_bypass();
        let Some(mail) = &mut self.mail else { return Delivery::Answer(syntax()) };
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
        let advice = match said {
            Said::Refused(reply) => return Delivery::Answer(reply),
            Said::Go(advice) => advice,
        };
        let mut adapted = match &advice.answer {
            Answer::Message(adapted) => adapted.clone(),
            _ => Adapted { header: vec![shown.header], body: shown.body.pieces().to_vec() },
        };
        if let Some(pass) = self.advisor.pass(&id) {
            pass.complete(&mut adapted, &message.header, bypass, &advice.verdicts);
        }
        mail.effects.extend(advice.effects.iter().cloned());
        let envelope = mail.envelope();
        let verdicts = advice.verdicts.clone();
        mail.asked = Some((advice, mail.sender.clone(), mail.sender.clone()));
        let content = adapted.octets();
        if let Some(reason) = mail.quarantine() {
            let facts = self.advisor.facts();
            let arrival = Box::new(arrival(reason, envelope, facts, verdicts));
            return Delivery::Keep { content, arrival };
        }
        if mail.asks(EffectName::Discard) {
            return Delivery::Answer(taken());
        }
        if envelope.recipients.is_empty() {
            return Delivery::Answer(taken());
        }
        let is_known = envelope == mail.known;
        Delivery::Send { content, envelope, is_known }
    }

    /// The message as services see it: with our own trace on top.
    fn shown(&mut self, message: &Message, id: &str) -> Message {
        let Some(pass) = self.advisor.pass(id) else { return message.clone() };
        let earlier = pass.earlier(&message.header);
        let header = [&pass.field()[..], &message.header].concat().into();
        self.mail.iter_mut().for_each(|mail| mail.record.earlier_passes(earlier));
        Message { header, body: message.body.clone() }
    }

    /// The next hop, or we in its place, has answered for the recipients of the envelope in force: what the
    /// client's get.
    pub(super) fn delivered(&mut self, answer: relay::Answer, is_sent: bool) -> relay::Answer {
        let Some(mail) = &mut self.mail else { return answer };
        let is_changed = mail.is_changed();
        let discards = mail.asks(EffectName::Discard) || mail.envelope().recipients.is_empty();
        let told = mail.answered(answer);
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
            None if !is_sent && mail.quarantine().is_some() => Decision::Quarantine,
            None if !is_sent && discards => Decision::Discard,
            None if is_modified || is_changed => Decision::Modify,
            None => Decision::Accept,
        };
        let reason = refused.map(Reply::to_string);
        self.close(decision, reason.as_deref());
        told
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

/// What a quarantine is told of a message.
fn arrival(
    reason: String,
    envelope: Envelope,
    facts: Option<&DialogFacts>,
    verdicts: Vec<Verdict>,
) -> Arrival {
    let known = |name: &str, fact: &Option<Atom>| {
        let fact = String::from_utf8_lossy(fact.as_deref()?).into_owned();
        Some((name.to_owned(), fact))
    };
    let client = facts.into_iter().flat_map(|facts| {
        [
            known("address", &facts.client_address),
            known("name", &facts.client_name),
            known("helo", &facts.helo),
        ]
    });
    let recipient = |address| NewRecipient { address, next_hop: None };
    let name = |verdict: &Verdict| String::from_utf8_lossy(&verdict.service).into_owned();
    Arrival {
        reason,
        expires: SystemTime::now().checked_add(KEPT),
        sender: envelope.sender.unwrap_or_else(Address::null),
        recipients: envelope.recipients.into_iter().map(recipient).collect(),
        client: client.flatten().collect(),
        stopped_by: verdicts.iter().map(name).collect(),
        verdicts,
        trace: None,
        queue_id: facts.and_then(|facts| known("", &facts.queue_id)).map(|(_, id)| id),
    }
}

fn accepted<'a>(sender: &'a Address, recipients: &'a [Address]) -> Accepted<'a> {
    Accepted { sender: Some(sender), recipients, recipient: None }
}

fn decision_of(reply: &Reply) -> Decision {
    if reply.is_temporary() { Decision::Tempfail } else { Decision::Reject }
}
