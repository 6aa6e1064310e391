//! Operations at both ends of a connection, with octets under way between them, beside a model that
//! only knows octets.

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use bytes::{Buf, Bytes};

use crate::connection::{AdaptedData, Closed, Config, Connection, Event, Misuse, Offer, Response};
use crate::ids::{AdaptedMessageId, GroupId, Xid};
use crate::message::{AdaptedEnd, AdaptedRole, AdaptedStart, DataLabel, OcpResult, OriginalStart};
use crate::role::Role;
use crate::smtp::{Command, CommandProfile, DialogFacts, DialogFeature, Part};
use crate::wire::{Structure, Value};

/// Something that an application, the network or a hostile peer does. Most have effect only in some
/// states: elsewhere they have to be refused.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Operation {
    /// A new dialog with a message.
    Start,
    Header(u8),
    Body(u8),
    EndOriginal,
    EndOriginalEarly,
    StopSending,
    StartAdapted,
    /// One of several.
    StartVariant(u8),
    Insert(u8),
    Preserved(u8, u8),
    EndAdapted,
    EndAdaptedEarly,
    StopReceivingWanted(u8),
    StopSendingWanted,
    Leave(u8),
    InterestIn(u8, u8),
    PauseWanted(Role, u8),
    MoreWanted(Role),
    Finish,
    GiveUp(Role),
    Offer(Role, bool),
    Ping(Role),
    /// Lets octets arrive: that many of those under way to this end.
    Deliver(Role, u8),
    /// A message that breaks a rule of its transaction, to this end.
    Hostile(Role, u8),
}

impl Operation {
    /// Every three octets are one operation: which, with what, and for which transaction.
    fn read(octets: [u8; 3]) -> (Self, u8) {
        let [which, with, transaction] = octets;
        let role = if with & 1 == 0 { Role::Processor } else { Role::Server };
        let operation = match which % 28 {
            0 => Self::Start,
            1 => Self::Header(with),
            2 | 3 => Self::Body(with),
            4 => Self::EndOriginal,
            5 => Self::EndOriginalEarly,
            6 => Self::StopSending,
            7 => Self::StartAdapted,
            8 => Self::StartVariant(with),
            9 => Self::Insert(with),
            10 | 11 => Self::Preserved(with, transaction),
            12 => Self::EndAdapted,
            13 => Self::EndAdaptedEarly,
            14 => Self::StopReceivingWanted(with),
            15 => Self::StopSendingWanted,
            16 => Self::Leave(with),
            17 => Self::InterestIn(with, transaction),
            18 => Self::PauseWanted(role, with),
            19 => Self::MoreWanted(role),
            20 => Self::Finish,
            21 => Self::GiveUp(role),
            22 => Self::Offer(role, with & 2 == 0),
            23 => Self::Ping(role),
            24 => Self::Hostile(role, with),
            _ => Self::Deliver(role, with),
        };
        (operation, transaction)
    }
}

/// Operations as octets: whatever they are and however they interleave, nothing panics, what is
/// refused sends nothing, what one end may send the other accepts, messages arrive octet for octet,
/// and a hostile message ends its own transaction only.
///
/// # Panics
/// If that is not so.
pub fn operations(octets: &[u8]) {
    let Some((flags, rest)) = octets.split_first() else { return };
    let (triples, _) = rest.as_chunks::<3>();
    let operations: Vec<_> = triples.iter().map(|triple| Operation::read(*triple)).collect();
    run(*flags, &operations);
}

/// Runs operations between two ends whose profile the flags choose.
fn run(flags: u8, operations: &[(Operation, u8)]) {
    let Ok(mut world) = World::new(flags) else { return };
    for (operation, transaction) in operations {
        world.act(*operation, usize::from(*transaction));
    }
    world.settle();
}

/// One transaction as the model sees it.
struct Trace {
    xid: Xid,
    /// What the processor sent, and what the server got.
    original: Vec<u8>,
    received: Vec<u8>,
    /// What the server answered, and what the processor made of it.
    adapted: BTreeMap<Option<AdaptedMessageId>, Vec<u8>>,
    rebuilt: BTreeMap<Option<AdaptedMessageId>, Vec<u8>>,
    /// The latest Am-Id.
    latest: Option<AdaptedMessageId>,
    /// Whether somebody has given it up, or broken a rule in it.
    doomed: bool,
}

struct World {
    processor: Connection,
    server: Connection,
    /// To the processor and to the server.
    under_way: [VecDeque<Bytes>; 2],
    group: GroupId,
    now: Instant,
    traces: Vec<Trace>,
}

impl World {
    fn new(flags: u8) -> Result<Self, Misuse> {
        let now = Instant::now();
        let flag = |bit: u8| flags & bit != 0;
        let profile = CommandProfile {
            commands: vec![Command::Message],
            multiple_messages: flag(1),
            recipient_replies: flag(1),
            pause_at_body: flag(2).then_some(40),
            stop_receiving_body: flag(4).then_some(60),
            leave_at_body: flag(8).then_some(50),
            preservation_interest_body: flag(16).then_some(30),
            ..CommandProfile::default()
        };
        let mut world = Self {
            processor: Connection::new(Role::Processor, Config::default(), now),
            server: Connection::new(Role::Server, Config::default(), now),
            under_way: [VecDeque::new(), VecDeque::new()],
            group: GroupId::new(1).ok_or(Misuse::Exhausted)?,
            now,
            traces: Vec::new(),
        };
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
    fn act(&mut self, operation: Operation, transaction: usize) {
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
            _ => {}
        }
        let count = self.traces.len();
        let Some(at) = transaction.checked_rem(count) else { return Ok(()) };
        let Some(trace) = self.traces.get_mut(at) else { return Ok(()) };
        let (processor, server) = (&mut self.processor, &mut self.server);
        let xid = trace.xid;
        match operation {
            Operation::Header(size) => original(processor, trace, Part::MessageHeader, size),
            Operation::Body(size) => original(processor, trace, Part::MessageBody, size),
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
                let part = Some(Part::MessageBody);
                let data = AdaptedData { id: trace.latest, part, ..AdaptedData::default() };
                server.send_adapted_data(xid, data, octets.clone().into())?;
                trace.adapted.entry(trace.latest).or_default().extend_from_slice(&octets);
                Ok(())
            }
            Operation::Preserved(start, size) => {
                let range = u32::from(start)..u32::from(start) + u32::from(size);
                let label = DataLabel { part: Some(Part::MessageBody), id: trace.latest };
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
                if sender.is_negotiating() {
                    // Whatever it is, in a Phase it concerns the connection.
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
            | Operation::Deliver(..) => Ok(()),
        }
    }

    fn start(&mut self) -> Result<(), Misuse> {
        if self.traces.len() >= 8 {
            return Ok(());
        }
        let dialog = self.processor.start_dialog(&DialogFacts::default())?;
        let xid = self.processor.start_transaction(self.group, self.now)?;
        self.processor.start_original(xid, &OriginalStart::new(dialog, Command::Message))?;
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

    fn queue(&mut self, to: Role) -> &mut VecDeque<Bytes> {
        let [processor, server] = &mut self.under_way;
        if to == Role::Processor { processor } else { server }
    }

    /// What both ends wrote is under way.
    fn transmit(&mut self) {
        for role in [Role::Processor, Role::Server] {
            let octets = super::take(self.end(role));
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
    fn quiesce(&mut self) {
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
        if let Event::Closed(Closed::Violation(violation)) = &event {
            panic!("{role} ended the connection: {violation}");
        }
        let Some(xid) = super::transaction(&event) else { return };
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
    fn settle(&mut self) {
        // Who promised a further offer keeps it.
        for role in [Role::Processor, Role::Server, Role::Processor] {
            self.quiesce();
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
    match processor.send_original(trace.xid, part, octets.clone().into(), true) {
        Err(Misuse::Paused { octets: left }) => {
            assert_eq!(left, allowed);
            octets.truncate(left as usize);
            if octets.is_empty() {
                return Err(Misuse::Paused { octets: left });
            }
            processor.send_original(trace.xid, part, octets.clone().into(), true)?;
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_corpus_holds() {
        crate::fuzzing::run_corpus("operations", operations);
    }

    #[test]
    fn a_whole_transaction_succeeds() {
        use Operation as O;
        let both = [Role::Server; 4].map(|role| (O::Deliver(role, 255), 0));
        let mut all =
            vec![(O::Start, 0), (O::Header(20), 0), (O::Body(90), 0), (O::EndOriginal, 0)];
        all.extend(both);
        all.extend([(O::StartAdapted, 0), (O::Insert(5), 0), (O::Preserved(0, 110), 0)]);
        all.extend([(O::EndAdapted, 0), (O::Finish, 0)]);
        let mut world = World::new(0).unwrap();
        for (operation, transaction) in &all {
            world.act(*operation, *transaction);
        }
        world.quiesce();
        let trace = &world.traces[0];
        assert_eq!(world.processor.transactions(), 0);
        assert_eq!(trace.rebuilt[&None].len(), 115);
        world.settle();
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

        #[test]
        fn both_ends_agree_whatever_they_do(
            flags in 0u8..32,
            triples in proptest::collection::vec(any::<[u8; 3]>(), 0..120),
        ) {
            let operations: Vec<_> = triples.iter().map(|octets| Operation::read(*octets)).collect();
            run(flags, &operations);
        }

        /// Mostly in an order that gets far, with something else in between.
        #[test]
        fn what_gets_far_arrives_octet_for_octet(
            flags in 0u8..32,
            others in proptest::collection::vec((any::<u8>(), any::<[u8; 3]>()), 0..12),
        ) {
            let sensible: &[u8] = &[0, 1, 2, 25, 26, 18, 2, 7, 14, 15, 25, 26, 6, 9, 10, 19, 2, 4, 27, 25, 10, 12, 20];
            let step = |which: &u8| Operation::read([*which, 0x3f, 0]);
            let mut operations: Vec<_> = sensible.iter().map(step).collect();
            for (at, octets) in others {
                let at = usize::from(at) % (operations.len() + 1);
                operations.insert(at, Operation::read(octets));
            }
            run(flags, &operations);
        }

        /// The same without enemies: nothing at all is refused by the other end.
        #[test]
        fn what_is_allowed_is_accepted(
            flags in 0u8..32,
            triples in proptest::collection::vec((0u8..28, any::<u8>(), 0u8..2), 0..200),
        ) {
            let friendly = |triple: &(u8, u8, u8)| Operation::read([triple.0, triple.1, triple.2]);
            let operations: Vec<_> = triples
                .iter()
                .map(friendly)
                .filter(|(operation, _)| !matches!(operation, Operation::Hostile(..)))
                .collect();
            run(flags, &operations);
        }
    }
}
