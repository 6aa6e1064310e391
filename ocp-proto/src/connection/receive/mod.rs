//! What the peer's messages do: a file for each family of messages.

mod dialog;
mod negotiation;
mod steering;
mod transaction;

use super::event::{Closed, Event};
use super::{Connection, Features, Payload, Stage};
use crate::ids::{GroupId, Xid};
use crate::message::{Kind, Message};
use crate::violation::{Rule, Scope, Useless, Violation};
use crate::wire::{Frame, Head, Structure};

/// What a message led to.
type Received = Result<Option<Event>, Violation>;

impl Connection {
    pub(super) fn receive(&mut self, frame: Frame) -> Received {
        let consumed = self.decoder.consumed();
        let received = consumed - self.consumed;
        self.consumed = consumed;
        match (frame, self.payload) {
            (Frame::Head(head), _) => self.receive_head(head, received),
            (Frame::Chunk(octets), Payload::Data { xid, label, left }) => {
                let left = left.saturating_sub(u32::try_from(octets.len()).unwrap_or(u32::MAX));
                self.payload = Payload::Data { xid, label, left };
                let part = label.part;
                Ok(self.count(xid, received).then_some(match label.id {
                    None => Event::Data { xid, part, octets },
                    Some(id) => Event::MessageData { xid, id, part, octets },
                }))
            }
            (Frame::End, Payload::Data { xid, .. }) => {
                self.count(xid, received);
                self.payload = Payload::Skipped;
                Ok(None)
            }
            (Frame::Chunk(_) | Frame::End, Payload::Skipped) => Ok(None),
        }
    }

    /// Counts octets of a message for a transaction; whether it is active.
    pub(super) fn count(&mut self, xid: Xid, octets: u64) -> bool {
        let step = self.move_on(xid);
        let Some(transaction) = self.transactions.get_mut(&xid) else { return false };
        transaction.traffic.received += octets;
        step.note(transaction);
        true
    }

    fn receive_head(&mut self, head: Head, octets: u64) -> Received {
        self.payload = Payload::Skipped;
        self.begin_message();
        if self.stage == Stage::Opening {
            if head.name != *Kind::Cs.name() {
                return Err(Violation::connection(Rule::FirstMessageNotCs));
            }
            self.stage = Stage::Open;
            return Ok(Some(Event::Started));
        }
        let peer = self.role.peer();
        let message = match Message::parse(&head, peer, self.dialogs.enabled) {
            Ok(Some(message)) => message,
            Ok(None) => {
                self.bear(Useless::UnknownMessages)?;
                return Ok(None);
            }
            Err(violation) => return self.unless_late(violation),
        };
        if message == Message::Cs {
            self.bear(Useless::UnknownMessages)?;
            return Ok(None);
        }
        self.negotiation.check(message.kind(), peer).map_err(Violation::connection)?;
        let xid = message.xid();
        let starts = message.kind() == Kind::Ts;
        if let Some(xid) = xid.filter(|_| !starts) {
            self.count_head(xid, octets);
        }
        let received = self.receive_message(message);
        if let Some(xid) = xid.filter(|_| starts) {
            self.count_head(xid, octets);
        }
        received
    }

    fn count_head(&mut self, xid: Xid, octets: u64) {
        if let Some(transaction) = self.transactions.get_mut(&xid) {
            transaction.traffic.received += octets;
        }
    }

    /// What is wrong with a message for a transaction that has ended is no longer of interest
    ///
    fn unless_late(&self, violation: Violation) -> Received {
        match violation.scope {
            Scope::Transaction(xid)
                if self.xids.is_past(xid.number()) && !self.has_transaction(xid) =>
            {
                Ok(None)
            }
            _ => Err(violation),
        }
    }

    fn receive_message(&mut self, message: Message) -> Received {
        match message {
            Message::Cs => Ok(None),
            Message::Aa { supported } => {
                self.bear(Useless::Queries)?;
                Ok(self.receive_ability(supported))
            }
            Message::Ce(result) => {
                self.over(Closed::ByPeer(result));
                Ok(None)
            }
            Message::Sgc { group, services } => self.receive_group(group, services),
            Message::Sgd { group } => match self.groups.active.remove(&group) {
                Some(_) => Ok(Some(Event::GroupDestroyed { group })),
                None => Err(Violation::connection(Rule::UnknownGroup(group.number()))),
            },
            Message::No(offer) => self.receive_offer(offer),
            Message::Nr(selection) => self.receive_response(selection),
            Message::Aq { feature } => {
                self.bear(Useless::Queries)?;
                self.receive_query(&feature);
                Ok(None)
            }
            Message::Pq { xid } => {
                self.bear(Useless::Queries)?;
                let (xid, original_octets) = self.progress_of(xid);
                self.send(&Message::Pa { xid, original_octets });
                Ok(None)
            }
            Message::Pa { xid, original_octets } | Message::Pr { xid, original_octets } => {
                self.bear(Useless::Queries)?;
                Ok(self.receive_progress(xid, original_octets))
            }
            Message::Dialog(message) => self.receive_dialog(message),
            Message::Ts { xid, group } => self.receive_start(xid, group),
            Message::Te { xid, result, extensions } => self.receive_end(xid, result, &extensions),
            message => self.receive_for_transaction(message),
        }
    }

    fn receive_group(&mut self, group: GroupId, services: Vec<Structure>) -> Received {
        if !self.groups.numbers.accept(group.number()) {
            return Err(Violation::connection(Rule::GroupNotRising(group.number())));
        }
        if self.groups.active.len() >= self.config.groups {
            return Err(Violation::connection(Rule::GroupLimit(self.config.groups)));
        }
        self.groups.active.insert(group, Features::default());
        Ok(Some(Event::GroupCreated { group, services }))
    }

    /// What PA and PR say: the xid if we work on it, octets while its original flow is open.
    pub(super) fn progress_of(&self, xid: Option<Xid>) -> (Option<Xid>, Option<u32>) {
        let xid = xid.filter(|xid| self.transactions.contains_key(xid));
        let octets = xid
            .and_then(|xid| Some((xid, self.transactions.get(&xid)?)))
            .filter(|(_, transaction)| transaction.original.is_open())
            .map(|(xid, transaction)| transaction.original.octets() - self.under_way(xid));
        (xid, octets)
    }

    fn receive_progress(&mut self, xid: Option<Xid>, octets: Option<u32>) -> Option<Event> {
        if let Some(xid) = xid {
            let step = self.move_on(xid);
            step.note(self.transactions.get_mut(&xid)?);
        }
        Some(Event::Progress { xid, original_octets: octets })
    }
}
