//! A message on its way through the services: its envelope as the client, the next hop and the services
//! know it.

use ocp_proto::smtp::{Address, Envelope, SideEffect};
use ocp_proto::wire::Atom;

use super::content::Content;
use super::dialogue::Terms;
use super::listen::Settings;
use super::plan::{Fate, Part, Wait};
use super::recipients;
use crate::event::carry_out;
use crate::front::advisor::Advisor;
use crate::passage::Advice;
use crate::record::{Decision, Record};
use crate::relay::Answer;
use crate::smtp::Protocol;

/// A message that has begun with MAIL.
#[derive(Debug)]
pub(super) struct Mail {
    /// As the client gave them, and the next hop accepted them.
    pub(super) sender: Address,
    pub(super) recipients: Vec<Address>,
    /// As the next hop knows them, or another one to which a recipient goes.
    pub(super) known: Envelope,
    /// What the services asked for so far, in order.
    pub(super) effects: Vec<SideEffect>,
    /// Whether they want no more events of this envelope.
    pub(super) done: bool,
    /// Whether they were asked about DATA.
    pub(super) is_data_asked: bool,
    pub(super) record: Record,
    pub(super) content: Content,
    /// The command whose reply has not come.
    pub(super) asked: Option<Asked>,
    /// The next hop has taken something that the client was refused: it has to hear the envelope again.
    pub(super) is_known_otherwise: bool,
    pub(super) terms: Terms,
}

/// A command on its way.
#[derive(Debug)]
pub(super) struct Asked {
    /// What the services said of it.
    pub(super) advice: Advice,
    /// The address in it, as the client gave it.
    pub(super) given: Address,
    /// The same as it went on.
    pub(super) passed: Address,
    /// Where it went, if not to the configured next hop.
    pub(super) next_hop: Option<String>,
    /// What the services asked for when they saw its reply.
    pub(super) effects: Vec<SideEffect>,
}

impl Asked {
    pub(super) fn new(advice: Advice, given: Address, passed: Address) -> Self {
        Self { advice, given, passed, next_hop: None, effects: Vec::new() }
    }
}

impl Mail {
    /// The envelope in force: what the next hop knows, after all that the services asked for.
    pub(super) fn envelope(&self) -> Envelope {
        let mut envelope = self.known.clone();
        self.effects.iter().for_each(|effect| carry_out(&mut envelope, effect));
        envelope
    }

    /// What the services are told of its request to skip some of them.
    pub(super) fn heard_bypass(&self, advisor: &Advisor) -> Vec<Atom> {
        if advisor.hears_bypass() { self.terms.bypass.clone() } else { Vec::new() }
    }

    /// Whether its client hears what became of it for each recipient.
    pub(super) fn hears_of_each(&self, settings: &Settings) -> bool {
        settings.next_hop.protocol == Protocol::Lmtp || self.terms.has_prdr
    }

    /// What became of it for the log, if nobody has refused it.
    pub(super) fn decision(&self, parts: &[(Part, Answer)], is_modified: bool) -> Decision {
        let fates = || parts.iter().map(|(part, _)| &part.fate);
        let waits = |is: fn(&Wait) -> bool| {
            fates().any(|fate| matches!(fate, Fate::Wait(wait) if is(wait)))
        };
        match parts {
            _ if fates().any(|fate| matches!(fate, Fate::Keep(_))) => Decision::Quarantine,
            _ if waits(|wait| wait.hold.is_some()) => Decision::Hold,
            _ if waits(|wait| wait.delay.is_some()) => Decision::Delay,
            _ if fates().all(|fate| *fate == Fate::Drop) => Decision::Discard,
            [(part, _)] if !is_modified && self.is_for(&part.envelope) => Decision::Accept,
            _ => Decision::Modify,
        }
    }

    /// Whether it goes to whom the client named, and comes from there.
    fn is_for(&self, envelope: &Envelope) -> bool {
        envelope.sender.as_ref() == Some(&self.sender) && envelope.recipients == self.recipients
    }

    /// Each part has its answer: what the client's recipients get. The line in the log names who was refused.
    pub(super) fn answered(&mut self, parts: &[(Part, Answer)], each: bool) -> Answer {
        let known = &self.known.recipients;
        for (part, answer) in parts.iter().filter(|(_, answer)| !matches!(answer, Answer::One(_))) {
            let added = recipients::added(answer, known, &part.envelope.recipients);
            for (recipient, reply) in added.filter(|(_, reply)| !reply.is_success()) {
                self.record.failed(format!("the next hop refused the added {recipient}: {reply}"));
            }
        }
        let told = recipients::for_client(parts, known, each);
        if let Answer::Each(each) = &told {
            let each = self.recipients.iter().zip(each);
            for (recipient, reply) in each.filter(|(_, reply)| !reply.is_success()) {
                self.record.refused(recipient, &reply.to_string());
            }
        }
        told
    }
}
