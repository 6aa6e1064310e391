//! One end of an OCP connection.

mod commands;
mod config;
mod event;
mod negotiation;
mod output;
mod pace;
mod payload;
mod receive;
mod scope;
mod timers;
mod tls;
mod useless;

use std::collections::VecDeque;
use std::time::Instant;

use bytes::BytesMut;

pub use commands::{AdaptedData, Misuse, OriginalData};
pub use config::Config;
pub use event::{Closed, Event, Offer, Response, feature_uri};
pub use output::Output;
pub use payload::OutgoingPayload;

use crate::ids::{DialogId, GroupId, IdMap, MAXIMUM, Rising, Xid};
use crate::message::{AdaptedEnd, DataLabel, Kind, Message, OcpResult};
use crate::role::Role;
use crate::smtp::{CommandProfile, Part, Profile, ReplyProfile};
use crate::transaction::Transaction;
use crate::violation::{Rule, Scope, Useless, Violation};
use crate::wire::Decoder;
use negotiation::NegotiationState;
use pace::Pace;
use scope::{Dialog, Dialogs, Features, Groups};
use timers::Timers;
use tls::TlsStage;
use useless::Stocks;

/// One end of an OCP connection, without socket and clock.
///
/// # Contract
/// A driver does, in this order and for ever:
/// 1. Append what the transport delivered to [`input`](Self::input) and call
///    [`handle_input`](Self::handle_input); at its end,
///    [`handle_end_of_input`](Self::handle_end_of_input). Where [`awaited_body`](Self::awaited_body)
///    says so it may take octets straight to where they belong instead, and call
///    [`handle_body`](Self::handle_body).
/// 2. Call [`poll_event`](Self::poll_event) until it returns `None`, and act on each event before
///    asking for the next: a message is decoded only when it is asked for, so whatever is answered
///    to an event is queued before anything that a later message causes (RFC 4037 section 1.3,
///    "immediately"). Not asking leaves the input where it is: that is back-pressure.
/// 3. Write [`output`](Self::output).
/// 4. Wake up at [`poll_timeout`](Self::poll_timeout), call
///    [`handle_timeout`](Self::handle_timeout), and go on with 2.
///
/// After [`Event::Closed`] write what is left of the output, then close the transport.
///
/// Commands return [`Misuse`] and change nothing where the protocol does not allow them. A
/// transaction may end at any time; commands for one that has ended return
/// [`Misuse::UnknownTransaction`].
///
/// ```
/// use std::time::Instant;
/// use bytes::Buf;
/// use ocp_proto::{Config, Connection, Event, Offer, Role};
///
/// let now = Instant::now();
/// let mut processor = Connection::new(Role::Processor, Config::default(), now);
/// let mut server = Connection::new(Role::Server, Config::default(), now);
/// processor.offer(Offer::default())?;
///
/// let count = processor.output().remaining();
/// let octets = processor.output().copy_to_bytes(count);
/// assert_eq!(octets, "CS;\r\nNO ();\r\n");
/// server.input().extend_from_slice(&octets);
/// server.handle_input(now);
/// assert_eq!(server.poll_event(), Some(Event::Started));
/// assert!(matches!(server.poll_event(), Some(Event::Offered(_))));
/// assert_eq!(server.poll_event(), None);
/// let count = server.output().remaining();
/// let answer = server.output().copy_to_bytes(count);
/// assert_eq!(answer, "CS;\r\nNR;\r\n");
/// # Ok::<(), ocp_proto::Misuse>(())
/// ```
#[derive(Debug)]
pub struct Connection {
    role: Role,
    config: Config,
    decoder: Decoder,
    /// Octets that the decoder had consumed with the last frame.
    consumed: u64,
    input: BytesMut,
    input_ended: bool,
    output: Output,
    /// What may go out only after the Negotiation Phase or the TLS handshake.
    held: Output,
    stage: Stage,
    tls: TlsStage,
    payload: Payload,
    events: VecDeque<Event>,
    negotiation: NegotiationState,
    groups: Groups,
    dialogs: Dialogs,
    transactions: IdMap<Xid, Transaction>,
    xids: Rising,
    /// The transaction whose adapted message ends early before anything else happens.
    owed_end: Option<Xid>,
    stocks: Stocks,
    pace: Pace,
    timers: Timers,
}

/// How far a connection has come.
///
/// ```text
/// Opening ──peer's CS──▶ Open ──CE, violation, lost transport──▶ Over
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Opening,
    Open,
    Over,
}

/// Where the payload goes that is being received.
#[derive(Clone, Copy, Debug)]
enum Payload {
    /// Nobody wants it (RFC 4037 section 9: any message may have one).
    Skipped,
    /// To this transaction.
    Data { xid: Xid, label: DataLabel, left: u32 },
}

impl Connection {
    /// A connection over a transport that has just been established. Our CS is queued.
    pub fn new(role: Role, config: Config, now: Instant) -> Self {
        let own = Rising::from_one();
        let (groups, dialogs, xids) = match role {
            Role::Processor => (own, own, own),
            Role::Server => (Rising::default(), Rising::default(), Rising::default()),
        };
        let mut connection = Self {
            role,
            decoder: Decoder::new(config.wire.clone()),
            stocks: Stocks::new(&config.useless, now),
            config,
            consumed: 0,
            input: BytesMut::new(),
            input_ended: false,
            output: Output::default(),
            held: Output::default(),
            stage: Stage::Opening,
            tls: TlsStage::Plain,
            payload: Payload::Skipped,
            events: VecDeque::new(),
            negotiation: NegotiationState::default(),
            groups: Groups { numbers: groups, ..Groups::default() },
            dialogs: Dialogs { numbers: dialogs, ..Dialogs::default() },
            transactions: IdMap::default(),
            xids,
            owed_end: None,
            pace: Pace::default(),
            timers: Timers::new(now),
        };
        connection.send(&Message::Cs);
        connection
    }

    /// Where the driver appends what the transport delivers.
    pub fn input(&mut self) -> &mut BytesMut {
        &mut self.input
    }

    /// The transport delivered something.
    pub fn handle_input(&mut self, now: Instant) {
        self.received(now);
    }

    /// Whose message body the transport delivers next, and how many octets of it before anything else:
    /// the rest of a DUM's payload, with no input left before it. `None` where octets have to go through
    /// [`input`](Self::input).
    pub fn awaited_body(&self) -> Option<(Xid, u32)> {
        let Payload::Data { xid, label, left } = self.payload else { return None };
        let is_body = label == DataLabel { part: Some(Part::MessageBody), id: None };
        let is_next = left > 0 && self.input.is_empty() && self.events.is_empty();
        (is_body && is_next && self.has_transaction(xid)).then_some((xid, left))
    }

    /// The transport delivered octets of the awaited body, which the application has: there is no
    /// [`Event::Data`] for them. Those beyond it are not counted.
    pub fn handle_body(&mut self, octets: usize, now: Instant) {
        let Some((xid, left)) = self.awaited_body() else { return };
        let Payload::Data { label, .. } = self.payload else { return };
        let octets = u32::try_from(octets).unwrap_or(u32::MAX).min(left);
        self.received(now);
        self.decoder.skip_payload(octets);
        self.consumed = self.decoder.consumed();
        self.payload = Payload::Data { xid, label, left: left - octets };
        self.count(xid, octets.into());
    }

    /// The transport delivers no more. Without CE that counts as a failure (RFC 4037 section 11.2).
    pub fn handle_end_of_input(&mut self) {
        self.input_ended = true;
    }

    /// The next thing that happened, if any; see the contract above.
    pub fn poll_event(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Some(event);
            }
            if self.is_over() {
                return None;
            }
            if self.negotiation.owes_response() {
                // Section 11.18: an offer is answered before anything else.
                let _ = self.respond(Response::default());
                continue;
            }
            if let Some(xid) = self.owed_end.take() {
                // Section 11.14: as is a DSS. It fails if the application has done it.
                let _ = self.end_adapted_early(xid, &AdaptedEnd::default());
            }
            if self.is_handshaking() {
                if !self.input.is_empty() {
                    self.violate(Violation::connection(Rule::OctetsBehindTls));
                    continue;
                }
                if !self.input_ended {
                    return None;
                }
            }
            match self.decoder.decode(&mut self.input) {
                Ok(Some(frame)) => match self.receive(frame) {
                    Ok(Some(event)) => return Some(event),
                    Ok(None) => {}
                    Err(violation) => self.violate(violation),
                },
                Ok(None) if self.input_ended => {
                    self.over(Closed::Lost { mid_message: self.is_mid_message() });
                }
                Ok(None) => {
                    self.watch_message();
                    return None;
                }
                Err(error) => self.violate(Violation::connection(error)),
            }
        }
    }

    /// What the transport should take.
    pub fn output(&mut self) -> &mut Output {
        &mut self.output
    }

    /// Which end this is.
    pub fn role(&self) -> Role {
        self.role
    }

    /// Whether the connection is over; see [`Event::Closed`].
    pub fn is_closed(&self) -> bool {
        self.is_over() && self.events.is_empty()
    }

    /// How many transactions are open.
    pub fn transactions(&self) -> usize {
        self.transactions.len()
    }

    /// Whether this transaction is open.
    pub fn has_transaction(&self, xid: Xid) -> bool {
        self.transactions.contains_key(&xid)
    }

    /// The command profile in force for new transactions of this group: the server's response.
    pub fn command_profile(&self, group: GroupId) -> Option<&CommandProfile> {
        self.groups.profile(group)?.as_command()
    }

    /// The reply profile in force for new transactions of this group: the server's response.
    pub fn reply_profile(&self, group: GroupId) -> Option<&ReplyProfile> {
        self.groups.profile(group)?.as_reply()
    }

    /// The profile that this transaction began under; later negotiations do not touch it (RFC 4037
    /// section 11.18).
    pub fn transaction_profile(&self, xid: Xid) -> Option<&Profile> {
        self.transactions.get(&xid)?.profile.as_deref()
    }

    /// The original octets that a DUY may name now: kept, received, not given up, and not auxiliary.
    pub fn preserved(&self, xid: Xid) -> std::ops::Range<u32> {
        self.transactions.get(&xid).map_or(0..0, |transaction| {
            let original = &transaction.original;
            let kept = transaction.preservation.usable(original.octets() - self.under_way(xid));
            let start = kept.start.max(original.usable_from());
            if start < kept.end { start..kept.end } else { kept.end..kept.end }
        })
    }

    /// Octets of the original that only go before the reply that is to be adapted: the command's
    /// (profile section 4, "Parts").
    pub fn auxiliary(&self, xid: Xid) -> u32 {
        self.transactions.get(&xid).map_or(0, |transaction| transaction.original.auxiliary())
    }

    /// Octets of a DUM of this transaction that the original counts already, and that are still on
    /// their way to a server.
    fn under_way(&self, xid: Xid) -> u32 {
        match self.payload {
            Payload::Data { xid: of, left, .. } if of == xid && self.role == Role::Server => left,
            _ => 0,
        }
    }

    /// How many octets of our message (all our messages together, if there are several) the peer
    /// lets us send now: 0 while it is paused, once it has ended, and without such a transaction.
    pub fn may_send(&self, xid: Xid) -> u32 {
        let Some(transaction) = self.transactions.get(&xid) else { return 0 };
        if transaction.has_ended(self.role) {
            return 0;
        }
        let octets = transaction.octets_of(self.role);
        transaction.pause.room(octets).unwrap_or(MAXIMUM - octets)
    }

    /// Whether we have paused our data for the peer (DPM), and it has not asked for more.
    pub fn paused(&self, xid: Xid) -> bool {
        self.transactions.get(&xid).is_some_and(|transaction| transaction.pause.is_paused())
    }

    /// The octets of the original message that DWSR still asks for, if it came.
    pub fn wanted_original(&self, xid: Xid) -> Option<u32> {
        self.transactions.get(&xid)?.stop.receiving
    }

    /// After DSS: from which offset on the original is the processor's to append, once the adapted
    /// message has ended with 206 (profile section 4).
    pub fn rest_from(&self, xid: Xid) -> Option<u32> {
        self.transactions.get(&xid)?.stop.granted
    }

    /// Whether only messages of a Negotiation Phase go out now; others are held back until its end.
    pub fn is_negotiating(&self) -> bool {
        self.negotiation.is_open()
    }

    /// Whether nothing more is received; events may be left, the last is [`Event::Closed`].
    pub fn is_over(&self) -> bool {
        self.stage == Stage::Over
    }

    /// Whether only a part has come of a message.
    fn is_mid_message(&self) -> bool {
        !self.decoder.is_between_messages() || !self.input.is_empty()
    }

    fn has_started(&self) -> bool {
        self.stage != Stage::Opening
    }

    fn send(&mut self, message: &Message) {
        let goes_out = match message.kind() {
            Kind::Cs | Kind::Ce => true,
            // Profile section 9: nothing stands between the NO and the NR that start TLS.
            kind => kind.in_phase() && !self.negotiation.offers_tls(),
        };
        message.encode(self.out(goes_out).tail());
    }

    /// Where a message goes: out, or to those that wait.
    fn out(&mut self, in_phase: bool) -> &mut Output {
        let waits = self.tls == TlsStage::Handshaking || (!in_phase && self.negotiation.is_open());
        match waits {
            true => &mut self.held,
            false => &mut self.output,
        }
    }

    /// What was held back goes out, if nothing stands in its way any more.
    fn release(&mut self) {
        if self.tls != TlsStage::Handshaking && !self.negotiation.is_open() {
            self.output.append(&mut self.held);
        }
    }

    /// The peer broke a rule: section 5 says what ends, and that everything else goes on.
    fn violate(&mut self, violation: Violation) {
        let known = match violation.scope {
            Scope::Transaction(xid) => self.transactions.contains_key(&xid),
            Scope::Dialog(dialog) => self.dialogs.active.contains_key(&dialog),
            Scope::Connection => true,
        };
        let borne = if known { Ok(()) } else { self.bear(Useless::UnknownIdentifiers) };
        let violation = borne.err().unwrap_or(violation);
        let result = OcpResult::failure(violation.to_string());
        if !known && violation.scope != Scope::Connection {
            self.events.push_back(Event::Refused(violation.clone()));
        }
        match violation.scope {
            Scope::Transaction(xid) => {
                self.send_transaction_end(xid, &result, false);
                if self.transactions.contains_key(&xid) {
                    // One that stands still is lost with its server: another one may answer.
                    let retry = matches!(violation.rule, Rule::Timeout(_));
                    self.end_locally(xid, result, retry);
                }
            }
            Scope::Dialog(dialog) => {
                self.send(&Message::Dialog(crate::message::DialogMessage::End {
                    dialog,
                    result: result.clone(),
                }));
                self.end_dialog_locally(dialog, result);
            }
            Scope::Connection => {
                self.send(&Message::Ce(result));
                self.over(Closed::Violation(violation));
            }
        }
    }

    /// Forgets a transaction and tells the application.
    fn end_locally(&mut self, xid: Xid, result: OcpResult, retry: bool) {
        if let Some(transaction) = self.forget(xid) {
            let traffic = transaction.traffic;
            self.events.push_back(Event::TransactionEnded { xid, result, retry, traffic });
        }
    }

    fn forget(&mut self, xid: Xid) -> Option<Transaction> {
        let transaction = self.transactions.remove(&xid)?;
        if let Some(dialog) = transaction.dialog.and_then(|id| self.dialogs.active.get_mut(&id)) {
            dialog.ended(xid);
        }
        self.close_if_used_up();
        Some(transaction)
    }

    /// When all numbers are used up, the connection ends with its last transaction (RFC 4037 section
    /// 10.2, A-26).
    fn close_if_used_up(&mut self) {
        let used_up = self.xids.is_used_up() || self.groups.numbers.is_used_up();
        if used_up && self.role == Role::Processor && self.transactions.is_empty() {
            self.close(OcpResult::ok());
        }
    }

    /// Forgets a dialog: its end implies TE 400 for its open transactions (profile section 3).
    fn end_dialog_locally(&mut self, id: DialogId, result: OcpResult) {
        let Some(dialog) = self.dialogs.active.remove(&id) else { return };
        for xid in dialog.open {
            self.end_locally(xid, OcpResult::failure("the dialog ended"), false);
        }
        self.events.push_back(Event::DialogEnded { dialog: id, result });
    }

    /// Ends everything (RFC 4037 section 11.2).
    fn over(&mut self, closed: Closed) {
        if self.is_over() {
            return;
        }
        self.stage = Stage::Over;
        self.owed_end = None;
        let mut open: Vec<Xid> = self.transactions.keys().copied().collect();
        open.sort_unstable();
        for xid in open {
            self.end_locally(xid, OcpResult::failure("the connection ended"), false);
        }
        self.dialogs.active.clear();
        self.groups.active.clear();
        self.input.clear();
        self.held = Output::default();
        self.events.push_back(Event::Closed(closed));
    }
}

#[cfg(test)]
mod tests {
    use bytes::Buf;

    use super::*;

    /// OCP-10.2-04
    #[test]
    fn a_connection_ends_with_its_last_number() {
        let now = Instant::now();
        let mut processor = Connection::new(Role::Processor, Config::default(), now);
        processor.offer(Offer::default()).unwrap();
        processor.input().extend_from_slice(b"CS;\r\nNR;\r\n");
        processor.handle_input(now);
        while processor.poll_event().is_some() {}
        let group = processor.create_group(Vec::new()).unwrap();
        assert!(processor.xids.accept(MAXIMUM - 1));
        let last = processor.start_transaction(group, now).unwrap();
        assert_eq!(last.number(), MAXIMUM);
        assert_eq!(processor.start_transaction(group, now), Err(Misuse::Exhausted));
        processor.end_transaction(last, &OcpResult::failure("enough"), false).unwrap();
        assert_eq!(processor.poll_event(), Some(Event::Closed(Closed::ByUs)));
        let count = processor.output().remaining();
        let sent = processor.output().copy_to_bytes(count);
        assert!(sent.ends_with(b"CE;\r\n"), "{sent:?}");
    }
}
