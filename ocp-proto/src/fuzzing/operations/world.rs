//! Two ends, what is under way between them, and the model.

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use bytes::{Buf, Bytes};

use crate::connection::{
    AdaptedData, Closed, Config, Connection, Event, Misuse, Offer, OutgoingPayload, Response,
};
use crate::ids::{AdaptedMessageId, GroupId, Xid};
use crate::message::{AdaptedEnd, AdaptedRole, AdaptedStart, DataLabel, OcpResult, OriginalStart};
use crate::role::Role;
use crate::smtp::{
    Command, CommandProfile, DialogFacts, DialogFeature, Part, Profile, ReplyProfile, TLS,
};
use crate::wire::{Structure, Value};

use super::Operation;
use crate::fuzzing::{take, tls, transaction};

/// One transaction as the model sees it.
pub(super) struct Trace {
    xid: Xid,
    /// What the processor sent, and what the server got.
    original: Vec<u8>,
    received: Vec<u8>,
    /// What the server answered, and what the processor made of it.
    adapted: BTreeMap<Option<AdaptedMessageId>, Vec<u8>>,
    pub(super) rebuilt: BTreeMap<Option<AdaptedMessageId>, Vec<u8>>,
    /// The latest Am-Id.
    latest: Option<AdaptedMessageId>,
    /// Whether somebody has given it up, or broken a rule in it.
    doomed: bool,
}

pub(super) struct World {
    pub(super) processor: Connection,
    server: Connection,
    /// To the processor and to the server.
    under_way: [VecDeque<Bytes>; 2],
    group: GroupId,
    /// Which event the transactions are about, and its two parts.
    command: Command,
    parts: [Part; 2],
    now: Instant,
    pub(super) traces: Vec<Trace>,
    /// Who knows that TLS was agreed on, and waits for the handshake.
    shaking: [bool; 2],
}

impl World {
    pub(super) fn new(flags: u8) -> Result<Self, Misuse> {
        let now = Instant::now();
        let flag = |bit: u8| flags & bit != 0;
        let profile = match flag(64) {
            false => Profile::Command(CommandProfile {
                commands: vec![Command::Message],
                multiple_messages: flag(1),
                recipient_replies: flag(1),
                pause_at_body: flag(2).then_some(40),
                stop_receiving_body: flag(4).then_some(60),
                leave_at_body: flag(8).then_some(50),
                preservation_interest_body: flag(16).then_some(30),
                ..CommandProfile::default()
            }),
            true => Profile::Reply(ReplyProfile {
                commands: vec![Command::Rcpt],
                auxiliary_parts: if flag(128) { Vec::new() } else { vec![Part::Command] },
                ..ReplyProfile::default()
            }),
        };
        let (command, parts) = match profile {
            Profile::Command(_) => (Command::Message, [Part::MessageHeader, Part::MessageBody]),
            Profile::Reply(_) => (Command::Rcpt, [Part::Command, Part::Reply]),
        };
        let mut world = Self {
            processor: Connection::new(Role::Processor, Config::default(), now),
            server: Connection::new(Role::Server, Config::default(), now),
            under_way: [VecDeque::new(), VecDeque::new()],
            group: GroupId::new(1).ok_or(Misuse::Exhausted)?,
            command,
            parts,
            now,
            traces: Vec::new(),
            shaking: [false; 2],
        };
        if flag(32) {
            world.offer_tls(Role::Processor)?;
            world.quiesce();
            world.shake_hands();
        }
        let dialogs = DialogFeature { version: 1 }.to_structure();
        world.processor.offer(Offer { features: vec![dialogs], ..Offer::default() })?;
        world.quiesce();
        let uri = vec![Value::atom("ocp://service/x")];
        let service = Structure { members: uri, ..Structure::default() };
        world.group = world.processor.create_group(vec![service])?;
        let features = vec![profile.to_structure()];
        world.processor.offer(Offer { features, group: Some(world.group), pending: false })?;
        world.quiesce();
        Ok(world)
    }

    fn end(&mut self, role: Role) -> &mut Connection {
        match role {
            Role::Processor => &mut self.processor,
            Role::Server => &mut self.server,
        }
    }

    /// What the operation does; a refusal must have no effect.
    pub(super) fn act(&mut self, operation: Operation, transaction: usize) {
        let before = (self.processor.output().remaining(), self.server.output().remaining());
        if self.try_act(operation, transaction).is_err() {
            let after = (self.processor.output().remaining(), self.server.output().remaining());
            assert_eq!(before, after, "{operation:?} was refused and sent something");
        }
        self.transmit();
    }

    fn try_act(&mut self, operation: Operation, transaction: usize) -> Result<(), Misuse> {
        match operation {
            Operation::Start => return self.start(),
            Operation::Offer(role, pending) => {
                return self.end(role).offer(Offer { pending, ..Offer::default() });
            }
            Operation::Ping(role) => {
                self.end(role).ping(None);
                return Ok(());
            }
            Operation::Deliver(role, count) => {
                self.deliver(role, usize::from(count) + 1);
                return Ok(());
            }
            Operation::OfferTls(role) => return self.offer_tls(role),
            Operation::TlsStarted(role) => return self.start_tls(role),
            _ => {}
        }
        let count = self.traces.len();
        let Some(at) = transaction.checked_rem(count) else { return Ok(()) };
        let Some(trace) = self.traces.get_mut(at) else { return Ok(()) };
        let (processor, server) = (&mut self.processor, &mut self.server);
        let xid = trace.xid;
        let [first, second] = self.parts;
        match operation {
            Operation::Header(size) => original(processor, trace, first, size),
            Operation::Body(size) => original(processor, trace, second, size),
            Operation::EndOriginal => processor.end_original(xid, OcpResult::ok()),
            Operation::EndOriginalEarly => processor.end_original(xid, OcpResult::partial()),
            Operation::StopSending => processor.stop_sending(xid),
            Operation::StartAdapted => {
                server.start_adapted(xid, Vec::new(), &AdaptedStart::default())?;
                trace.adapted.insert(None, Vec::new());
                Ok(())
            }
            Operation::StartVariant(number) => {
                let id = AdaptedMessageId::new(u32::from(number));
                let role = Some(AdaptedRole::Variant);
                let start = AdaptedStart { id, role, ..AdaptedStart::default() };
                server.start_adapted(xid, Vec::new(), &start)?;
                trace.adapted.insert(id, Vec::new());
                trace.latest = id;
                Ok(())
            }
            Operation::Insert(size) => {
                let octets = vec![b'+'; usize::from(size)];
                let part = Some(second);
                let data = AdaptedData { id: trace.latest, part, ..AdaptedData::default() };
                server.send_adapted_data(xid, data, pieces(&octets))?;
                trace.adapted.entry(trace.latest).or_default().extend_from_slice(&octets);
                Ok(())
            }
            Operation::Preserved(start, size) => {
                let range = u32::from(start)..u32::from(start) + u32::from(size);
                let label = DataLabel { part: Some(second), id: trace.latest };
                server.use_preserved_data(xid, range.clone(), label)?;
                let octets = slice(&trace.received, &range);
                trace.adapted.entry(trace.latest).or_default().extend_from_slice(octets);
                Ok(())
            }
            Operation::EndAdapted => {
                server.end_adapted(xid, &AdaptedEnd { id: trace.latest, ..AdaptedEnd::default() })
            }
            Operation::EndAdaptedEarly => server.end_adapted_early(xid, &AdaptedEnd::default()),
            Operation::StopReceivingWanted(size) => server.want_stop_receiving(xid, size.into()),
            Operation::StopSendingWanted => server.want_stop_sending(xid),
            Operation::Leave(size) => server.want_to_leave(xid, size.into()),
            Operation::InterestIn(start, size) => {
                server.want_preserved(xid, start.into(), size.into())
            }
            Operation::PauseWanted(Role::Processor, at) => processor.want_pause(xid, at.into()),
            Operation::PauseWanted(Role::Server, at) => server.want_pause(xid, at.into()),
            Operation::MoreWanted(Role::Processor) => processor.want_more(xid, None),
            Operation::MoreWanted(Role::Server) => server.want_more(xid, None),
            Operation::Finish => {
                server.end_transaction(xid, &OcpResult::ok(), false)?;
                Ok(())
            }
            Operation::GiveUp(role) => {
                let end = if role == Role::Processor { processor } else { server };
                end.end_transaction(xid, &OcpResult::failure("enough"), false)?;
                trace.doomed = true;
                Ok(())
            }
            Operation::Hostile(role, which) => {
                let sender = if role == Role::Processor { server } else { processor };
                if sender.is_negotiating() || self.shaking.contains(&true) {
                    // Whatever it is, there it concerns the connection.
                    return Ok(());
                }
                trace.doomed = true;
                let octets = hostile(role, which, xid);
                self.transmit();
                self.queue(role).push_back(octets.into());
                Ok(())
            }
            Operation::Start
            | Operation::Offer(..)
            | Operation::Ping(_)
            | Operation::OfferTls(_)
            | Operation::TlsStarted(_)
            | Operation::Deliver(..) => Ok(()),
        }
    }

    fn start(&mut self) -> Result<(), Misuse> {
        if self.traces.len() >= 8 {
            return Ok(());
        }
        let dialog = self.processor.start_dialog(&DialogFacts::default())?;
        let xid = self.processor.start_transaction(self.group, self.now)?;
        self.processor.start_original(xid, &OriginalStart::new(dialog, self.command.clone()))?;
        self.traces.push(Trace {
            xid,
            original: Vec::new(),
            received: Vec::new(),
            adapted: BTreeMap::new(),
            rebuilt: BTreeMap::new(),
            latest: None,
            doomed: false,
        });
        Ok(())
    }

    fn offer_tls(&mut self, role: Role) -> Result<(), Misuse> {
        self.end(role).offer(Offer { features: vec![tls()], ..Offer::default() })
    }

    /// The handshake, if both ends wait for it; without an agreement there is none.
    fn start_tls(&mut self, role: Role) -> Result<(), Misuse> {
        match self.shaking {
            [true, true] => self.shake_hands(),
            [false, false] => {
                let now = self.now;
                let started = self.end(role).tls_started(now);
                assert_eq!(started, Err(Misuse::NotNegotiated(TLS.to_owned())));
                return started;
            }
            // The other one does not know yet.
            _ => {}
        }
        Ok(())
    }

    fn shake_hands(&mut self) {
        assert_eq!(self.shaking, [true; 2]);
        self.shaking = [false; 2];
        let now = self.now;
        for role in [Role::Processor, Role::Server] {
            assert_eq!(take(self.end(role)), "", "the {role} speaks in the clear");
            assert_eq!(self.end(role).tls_started(now), Ok(()));
            assert!(self.end(role).has_tls());
        }
    }

    fn queue(&mut self, to: Role) -> &mut VecDeque<Bytes> {
        let [processor, server] = &mut self.under_way;
        if to == Role::Processor { processor } else { server }
    }

    /// What both ends wrote is under way.
    fn transmit(&mut self) {
        for role in [Role::Processor, Role::Server] {
            let octets = take(self.end(role));
            if !octets.is_empty() {
                self.queue(role.peer()).push_back(octets);
            }
        }
    }

    fn deliver(&mut self, to: Role, count: usize) {
        let Some(octets) = self.queue(to).front_mut() else { return };
        let octets = octets.split_to(count.min(octets.len()));
        self.queue(to).retain(|octets| !octets.is_empty());
        let now = self.now;
        let end = self.end(to);
        end.input().extend_from_slice(&octets);
        end.handle_input(now);
        self.see(to);
    }

    /// Lets everything arrive.
    pub(super) fn quiesce(&mut self) {
        self.see(Role::Processor);
        self.transmit();
        while self.under_way.iter().any(|queue| !queue.is_empty()) {
            for role in [Role::Processor, Role::Server] {
                self.deliver(role, usize::MAX);
            }
            self.transmit();
        }
    }

    fn see(&mut self, role: Role) {
        while let Some(event) = self.end(role).poll_event() {
            match event {
                Event::Offered(offer) => {
                    let feature = offer.features.first().cloned();
                    let response = Response { feature, ..Response::default() };
                    let answered = self.end(role).respond(response);
                    assert_eq!(answered, Ok(()));
                }
                event => self.note(role, event),
            }
        }
    }

    /// What an end saw, beside the model.
    fn note(&mut self, role: Role, event: Event) {
        if event == Event::StartTls {
            let [processor, server] = &mut self.shaking;
            *(if role == Role::Processor { processor } else { server }) = true;
        }
        if let Event::Closed(Closed::Violation(violation)) = &event {
            panic!("{role} ended the connection: {violation}");
        }
        let Some(xid) = transaction(&event) else { return };
        let Some(trace) = self.traces.iter_mut().find(|trace| trace.xid == xid) else { return };
        match event {
            Event::Data { octets, .. } if role == Role::Server => {
                trace.received.extend_from_slice(&octets);
            }
            Event::Data { octets, .. } => {
                trace.rebuilt.entry(None).or_default().extend_from_slice(&octets);
            }
            Event::MessageData { id, octets, .. } => {
                trace.rebuilt.entry(Some(id)).or_default().extend_from_slice(&octets);
            }
            Event::Preserved { range, .. } => {
                let octets = slice(&trace.original, &range);
                trace.rebuilt.entry(None).or_default().extend_from_slice(octets);
            }
            Event::MessagePreserved { id, range, .. } => {
                let octets = slice(&trace.original, &range);
                trace.rebuilt.entry(Some(id)).or_default().extend_from_slice(octets);
            }
            Event::AdaptedStarted { start, .. } => {
                trace.rebuilt.entry(start.and_then(|start| start.id)).or_default();
            }
            Event::AdaptedEnded { result, .. } if !trace.doomed => {
                let rest = self.processor.rest_from(xid);
                let sent = trace.original.len();
                let held = rest.is_some_and(|rest| usize::try_from(rest).is_ok_and(|r| r <= sent));
                assert!(!result.is_partial() || held, "{rest:?} of {sent}");
            }
            Event::OriginalEnded { .. } => assert_eq!(trace.received, trace.original),
            Event::TransactionEnded { result, .. } if !trace.doomed => {
                let incomplete = result.reason().starts_with("TE before the end");
                assert!(result.is_success() || incomplete, "{xid} at the {role}: {result:?}");
                assert!(incomplete || trace.rebuilt == trace.adapted, "{xid} came otherwise");
            }
            _ => {}
        }
    }

    /// In the end both ends agree, and what is left ends well.
    pub(super) fn settle(&mut self) {
        // Who promised a further offer keeps it.
        for role in [Role::Processor, Role::Server, Role::Processor] {
            self.quiesce();
            if self.shaking.contains(&true) {
                self.shake_hands();
                self.quiesce();
            }
            if self.end(role).is_negotiating() {
                let _ = self.end(role).offer(Offer::default());
            }
        }
        self.quiesce();
        assert!(!self.processor.is_negotiating() && !self.server.is_negotiating());
        assert!(!self.processor.is_over() && !self.server.is_over());
        for trace in &self.traces {
            let open = self.processor.has_transaction(trace.xid);
            assert_eq!(open, self.server.has_transaction(trace.xid), "{}", trace.xid);
            if open && !trace.doomed {
                assert_eq!(trace.received, trace.original);
                assert_eq!(trace.rebuilt, trace.adapted);
            }
        }
        self.traces.iter_mut().for_each(|trace| trace.doomed = true);
        self.processor.close(OcpResult::ok());
        self.quiesce();
        assert!(self.processor.is_closed() && self.server.is_closed());
        assert_eq!((self.processor.transactions(), self.server.transactions()), (0, 0));
    }
}

/// Octets that differ from their neighbours, all of them kept.
fn original(
    processor: &mut Connection,
    trace: &mut Trace,
    part: Part,
    size: u8,
) -> Result<(), Misuse> {
    let begin = trace.original.len();
    let mut octets: Vec<u8> =
        (begin..begin + usize::from(size)).map(|at| at.to_le_bytes()[0]).collect();
    let allowed = processor.may_send(trace.xid);
    match processor.send_original(trace.xid, part, pieces(&octets), true) {
        Err(Misuse::Paused { octets: left }) => {
            assert_eq!(left, allowed);
            octets.truncate(left as usize);
            if octets.is_empty() {
                return Err(Misuse::Paused { octets: left });
            }
            processor.send_original(trace.xid, part, pieces(&octets), true)?;
        }
        other => other?,
    }
    trace.original.extend_from_slice(&octets);
    Ok(())
}

fn slice<'a>(octets: &'a [u8], range: &std::ops::Range<u32>) -> &'a [u8] {
    octets.get(range.start as usize..range.end as usize).expect("only what was sent is named")
}

fn hostile(to: Role, which: u8, xid: Xid) -> String {
    let message = match (to, which % 8 / 2) {
        (Role::Server, 0) => "DUM {x} 2000000000\r\n1:a\r\n;\r\n",
        (Role::Server, 1) => "AMS {x};\r\n",
        (Role::Server, 2) => "TS {x} 1;\r\n",
        (Role::Server, _) => "DWP {x} -1;\r\n",
        (Role::Processor, 0) => "DUY {x} 2000000 5;\r\n",
        (Role::Processor, 1) => "DPI {x} 9 9;\r\nDPI {x} 0 20;\r\n",
        (Role::Processor, 2) => "DUM {x} 2000000000\r\n1:a\r\n;\r\n",
        (Role::Processor, _) => "AMS {x}\r\nAm-Id: x\r\n;\r\n",
    };
    message.replace("{x}", &xid.to_string())
}

/// Octets in two pieces: where they are cut makes no difference.
fn pieces(octets: &[u8]) -> OutgoingPayload {
    let (begin, end) = octets.split_at(octets.len() / 3);
    [begin, end].into_iter().map(Bytes::copy_from_slice).collect()
}
