//! A message on its way through the services: its envelope as the client, the next hop and the services
//! know it.

use ocp_proto::smtp::{Address, EffectName, Envelope, SideEffect};

use super::content::Content;
use super::recipients;
use crate::event::carry_out;
use crate::passage::Advice;
use crate::record::Record;
use crate::relay::Answer;

/// A message that has begun with MAIL.
#[derive(Debug)]
pub(super) struct Mail {
    /// As the client gave them, and the next hop accepted them.
    pub(super) sender: Address,
    pub(super) recipients: Vec<Address>,
    /// As the next hop knows them.
    pub(super) known: Envelope,
    /// What the services asked for so far, in order.
    pub(super) effects: Vec<SideEffect>,
    /// Whether they want no more events of this envelope.
    pub(super) done: bool,
    /// Whether they were asked about DATA.
    pub(super) is_data_asked: bool,
    pub(super) record: Record,
    pub(super) content: Content,
    /// What they said of the command whose reply has not come, and what it names.
    pub(super) asked: Option<(Advice, Address, Address)>,
}

impl Mail {
    /// The envelope in force: what the next hop knows, after all that the services asked for.
    pub(super) fn envelope(&self) -> Envelope {
        let mut envelope = self.known.clone();
        self.effects.iter().for_each(|effect| carry_out(&mut envelope, effect));
        envelope
    }

    /// Why it is to be kept, if it is.
    pub(super) fn quarantine(&self) -> Option<String> {
        self.effects.iter().find_map(|effect| match effect {
            SideEffect::Quarantine(reason) => Some(String::from_utf8_lossy(reason).into_owned()),
            _ => None,
        })
    }

    pub(super) fn asks(&self, name: EffectName) -> bool {
        self.effects.iter().any(|effect| effect.name() == name)
    }

    /// Whether it goes to others than the client named.
    pub(super) fn is_changed(&self) -> bool {
        let envelope = self.envelope();
        envelope.sender.as_ref() != Some(&self.sender) || envelope.recipients != self.recipients
    }

    /// The next hop has answered for the recipients of the envelope in force: what the client's get. The line
    /// in the log names who was refused.
    pub(super) fn answered(&mut self, answer: Answer) -> Answer {
        let (known, in_force) = (&self.known.recipients, self.envelope().recipients);
        if let Answer::Each(_) = &answer {
            let added = recipients::added(&answer, known, &in_force);
            for (recipient, reply) in added.filter(|(_, reply)| !reply.is_success()) {
                self.record.failed(format!("the next hop refused the added {recipient}: {reply}"));
            }
        }
        let told = recipients::for_client(answer, known, &in_force);
        if let Answer::Each(each) = &told {
            let each = self.recipients.iter().zip(each);
            for (recipient, reply) in each.filter(|(_, reply)| !reply.is_success()) {
                self.record.refused(recipient, &reply.to_string());
            }
        }
        told
    }
}
