//! One message: its envelope as the MTA accepted it, what services asked for so far, and its content on
//! the way in.

use std::sync::Arc;

use bytes::Bytes;
use ocp_proto::smtp::{Address, Envelope, SideEffect};

use super::message::{Collector, MessageError, Original};
use super::sent::Sent;
use crate::event::carry_out;
use crate::milter::Decision;
use crate::processor::Processor;
use crate::record::Record;
use crate::room::Room;

/// A message that has begun with MAIL.
#[derive(Debug)]
pub(super) struct Mail {
    /// As the client gave it.
    pub(super) sender: Address,
    /// Those that were accepted, as the client gave them.
    pub(super) recipients: Vec<Address>,
    /// What the services asked for so far, rewritten addresses as well, in order.
    pub(super) effects: Vec<SideEffect>,
    /// Whether the services want no more events of this envelope.
    pub(super) done: bool,
    /// The last refusal of a recipient.
    pub(super) refused: Option<Decision>,
    pub(super) record: Record,
    sent: Sent,
    collector: Collector,
    room: Room,
    /// Of the content, and of the list of recipients.
    octets: usize,
    listed: usize,
    broken: Option<NoContent>,
}

/// Why there is no content that services could look at.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NoContent {
    #[error(transparent)]
    Message(#[from] MessageError),
    /// Too much is worked on.
    #[error("messages that are worked on have content-octets already")]
    NoRoom,
    /// The MTA was not asked for it.
    #[error("no server wanted content when the mail server connected")]
    NotSent,
}

impl Mail {
    /// A message of this sender, of which the MTA sends that much.
    pub(super) fn new(sender: Address, processor: &Arc<Processor>, sent: Sent) -> Self {
        Self {
            sender,
            recipients: Vec::new(),
            effects: Vec::new(),
            done: false,
            refused: None,
            record: Record::default(),
            sent,
            collector: Collector::new(processor.config().limits.message_octets as usize),
            room: processor.room(),
            octets: 0,
            listed: 0,
            broken: (sent == Sent::Nothing).then_some(NoContent::NotSent),
        }
    }

    /// The envelope in force: what was accepted, after all adaptations.
    pub(super) fn envelope(&self) -> Envelope {
        let recipients = self.recipients.clone();
        let mut envelope = Envelope { sender: Some(self.sender.clone()), recipients };
        self.effects.iter().for_each(|effect| carry_out(&mut envelope, effect));
        envelope
    }

    /// A recipient that was accepted, unless there is no room for it.
    pub(super) fn accept(&mut self, recipient: Address) -> Result<(), NoContent> {
        let octets = recipient.parameters.iter().map(|parameter| parameter.len());
        self.listed += size_of::<Address>() + recipient.path().len() + octets.sum::<usize>();
        if !self.room.grow_to((self.octets + self.listed) as u64) {
            return Err(NoContent::NoRoom);
        }
        self.recipients.push(recipient);
        Ok(())
    }

    /// A header field.
    pub(super) fn field(&mut self, name: &[u8], value: &[u8]) {
        self.take(name.len() + value.len(), |collector| collector.field(name, value));
    }

    /// A piece of the body. Whether the next one is wanted; if the MTA can skip none, they all are.
    pub(super) fn body(&mut self, octets: &Bytes) -> bool {
        self.take(octets.len(), |collector| collector.body(octets));
        match self.sent {
            Sent::Front(most) => self.broken.is_none() && self.collector.body_octets() <= most,
            Sent::Nothing | Sent::Header | Sent::Whole => true,
        }
    }

    /// Whether the MTA has octets of the body that it was not to send.
    fn is_cut(&self) -> bool {
        match self.sent {
            Sent::Front(most) => self.collector.body_octets() > most,
            Sent::Header => true,
            Sent::Nothing | Sent::Whole => false,
        }
    }

    /// Once something is missing, nothing more is kept.
    fn take(
        &mut self,
        octets: usize,
        take: impl FnOnce(&mut Collector) -> Result<(), MessageError>,
    ) {
        if self.broken.is_some() {
            return;
        }
        self.octets += octets;
        let taken = match self.room.grow_to((self.octets + self.listed) as u64) {
            true => take(&mut self.collector).map_err(NoContent::from),
            false => Err(NoContent::NoRoom),
        };
        if let Err(error) = taken {
            self.collector = Collector::new(0);
            self.broken = Some(error);
        }
    }

    /// The whole content.
    ///
    /// # Errors
    /// If it was not kept.
    pub(super) fn content(&mut self) -> Result<Original, NoContent> {
        self.record.octets(self.octets);
        if let Some(error) = self.broken.take() {
            return Err(error);
        }
        let is_cut = self.is_cut();
        let collector = std::mem::replace(&mut self.collector, Collector::new(0));
        let original = collector.finish(is_cut);
        self.record.octets(original.message.len());
        Ok(original)
    }
}

/// The values of the fields of this name.
pub(super) fn values<'a>(original: &'a Original, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
    let header: &Bytes = &original.message.header;
    let named = original
        .fields
        .iter()
        .filter(move |field| field.name(header).eq_ignore_ascii_case(name.as_bytes()));
    named.map(|field| field.value(header))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::Config;

    /// However small its content: recipients take their place among the octets that are worked on.
    #[tokio::test]
    async fn recipients_take_room() {
        let text = "[limits]\nmessage-octets = 4096\ncontent-octets = 8192\n\
                    [[group]]\nname = \"a\"\nservers = [\"unix:/nonexistent\"]\nservices = [\"log\"]\n";
        let config = Config::parse(text, Path::new("test.toml")).unwrap();
        let processor = Processor::start(config, &crate::front::milter::offer());
        let address = |length: usize| Address::new(format!("<{}@b>", "x".repeat(length))).unwrap();
        let mut mail = Mail::new(Address::null(), &processor, Sent::Whole);
        let accepted = (0..100).take_while(|_| mail.accept(address(996)).is_ok()).count();
        assert_eq!(accepted, 8192 / (1000 + size_of::<Address>()));
        assert_eq!(mail.recipients.len(), accepted);
        let mut other = Mail::new(Address::null(), &processor, Sent::Whole);
        assert_eq!(other.accept(address(996)), Err(NoContent::NoRoom));
        drop(mail);
        assert_eq!(other.accept(address(996)), Ok(()));
    }
}
