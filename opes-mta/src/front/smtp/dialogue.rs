//! What the services make of an SMTP dialog: commands as they go to the next hop, its replies, and content.

mod envelope;
mod message;
mod replied;

use std::sync::Arc;

use ocp_proto::OcpResult;
use ocp_proto::smtp::{
    Address, Auth, Command, CommandLine, DialogFacts, DialogUpdate, EffectName, Envelope, Reply,
    SideEffect, Tls,
};
use ocp_proto::wire::Atom;

use super::listen::Settings;
use super::mail::Mail;
use super::peer;
use super::replies;
use crate::apply::Answer;
use crate::config::Origin;
use crate::event::{self, Event};
use crate::front::advisor::{Abilities, Advisor, Refusal, Said};
use crate::front::facts::text;
use crate::metrics::ListenerMetrics;
use crate::passage::{Accepted, Advice};
use crate::processor::Processor;
use crate::record::{Decision, Record};
use crate::relay;
use crate::smtp::Attribute;

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
    listen: Arc<ListenerMetrics>,
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
        listen: Arc<ListenerMetrics>,
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
            self.advisor.begin(&self.listen.name, self.origin, self.facts.clone());
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
        if spoke != Speaks::ForItself {
            (self.turned_away, self.refused) = (None, None);
        }
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
                self.listen.refused_client(decision_of(&reply));
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
            Said::Go(advice) => {
                // For some of a message's recipients: once it is clear what becomes of it.
                self.disconnects |= match &advice.answer {
                    Answer::Several(variants) => {
                        variants.iter().flat_map(|variant| &variant.effects).any(wants)
                    }
                    _ => false,
                };
                Ok(advice)
            }
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
            self.listen.message(decision);
        }
        self.advisor.end_message();
    }
}

fn accepted<'a>(sender: &'a Address, recipients: &'a [Address]) -> Accepted<'a> {
    Accepted { sender: Some(sender), recipients, recipient: None }
}

fn decision_of(reply: &Reply) -> Decision {
    if reply.is_temporary() { Decision::Tempfail } else { Decision::Reject }
}
