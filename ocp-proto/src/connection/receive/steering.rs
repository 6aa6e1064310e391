//! DPI, DWSR, DWSS, DSS, DWP, DPM and DWM (RFC 4037 sections 11.11 to 11.17).

use super::Received;
use crate::connection::{Connection, Event};
use crate::ids::Xid;
use crate::message::Message;
use crate::transaction::Transaction;
use crate::violation::{Rule, Violation};

impl Connection {
    pub(super) fn receive_signal(&mut self, xid: Xid, message: &Message) -> Received {
        let role = self.role;
        let Some(transaction) = self.transactions.get_mut(&xid) else { return Ok(None) };
        let invalid = |rule: Rule| Violation::transaction(xid, rule);
        match *message {
            Message::Dpi { offset, size, .. } => {
                transaction.preservation.narrow(offset, size).map_err(invalid)?;
                let interest = transaction.preservation.interest();
                let clip = |offset: u64| u32::try_from(offset).unwrap_or(u32::MAX);
                let range = clip(interest.start)..clip(interest.end);
                Ok(Some(Event::PreservationInterest { xid, range }))
            }
            // A message that has ended needs no steering.
            Message::Dwsr { size, .. } if !transaction.original.has_ended() => {
                transaction.stop.receiving = Some(size);
                Ok(Some(Event::StopReceivingWanted { xid, size }))
            }
            Message::Dwss { .. } => receive_stop_wish(xid, transaction).map_err(invalid),
            Message::Dss { .. } => {
                let event = receive_stop(xid, transaction).map_err(invalid)?;
                // Section 11.14: an adapted message that runs is ended before anything else.
                let runs = self.transactions.get(&xid).is_some_and(|t| t.adapted.has_started());
                self.owed_end = event.as_ref().filter(|_| runs).map(|_| xid);
                Ok(event)
            }
            Message::Dwp { offset, .. } if !transaction.has_ended(role) => {
                let octets = transaction.octets_of(role);
                let owed = transaction.pause.want(offset, octets);
                self.send_paused(xid, owed);
                Ok(Some(Event::PauseWanted { xid, offset }))
            }
            Message::Dpm { .. } => {
                transaction.peer_paused = transaction.pause_wanted;
                Ok(Some(Event::Paused { xid }))
            }
            Message::Dwm { size_request, .. } if !transaction.has_ended(role) => {
                transaction.pause.more();
                Ok(Some(Event::MoreWanted { xid, size: size_request }))
            }
            _ => Ok(None),
        }
    }
}

/// DWSS at the processor. Where it can have no effect any more, not answering refuses it.
fn receive_stop_wish(xid: Xid, transaction: &mut Transaction) -> Result<Option<Event>, Rule> {
    if transaction.adapted.is_several() || transaction.is_reply() {
        return Err(Rule::NoEarlyEnd("DWSS"));
    }
    let again = std::mem::replace(&mut transaction.stop.sending, true);
    // Section 8.1: without the rest of the original nobody could complete the message.
    let possible = !transaction.adapted.has_ended() && !transaction.original.is_partial();
    Ok((possible && !again && !transaction.stop.left).then_some(Event::StopSendingWanted { xid }))
}

/// DSS at the server.
fn receive_stop(xid: Xid, transaction: &mut Transaction) -> Result<Option<Event>, Rule> {
    if transaction.adapted.has_ended() || transaction.stop.granted.is_some() {
        return Ok(None);
    }
    if transaction.adapted.is_several() {
        return Err(Rule::NoEarlyEnd("DSS"));
    }
    // Section 11.14: never ignored if we have not asked for it.
    if !transaction.stop.sending && !transaction.leaves_now() {
        return Err(Rule::UnsolicitedStop);
    }
    let octets = transaction.original.octets();
    transaction.stop.sending = true;
    transaction.stop.left = true;
    transaction.stop.granted = Some(octets);
    Ok(Some(Event::StopSending { xid, octets }))
}
