//! Both ends of a connection in memory, under a clock that only tests move.

#![allow(dead_code, clippy::unwrap_used, clippy::indexing_slicing, clippy::expect_used)]

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes, BytesMut};
use ocp_proto::smtp::{Command, CommandProfile, DialogFacts, DialogFeature, EffectName, Part};
use ocp_proto::wire::{Decoder, Frame, Structure, Value};
use ocp_proto::{
    Config, Connection, DialogId, Event, GroupId, OcpResult, Offer, OriginalStart, Response, Role,
    WireLimits, Xid,
};

/// What a server says before the messages of a test (`[H]` of the requirements), with a group.
pub(crate) const GROUP: &str = "CS;\r\nNO ();\r\nSGC 1 ({\"24:http://example.com/svc/a\"});\r\n";
/// And a transaction whose original message has begun (`[A]`).
pub(crate) const OPEN: &str = "CS;\r\nNO ();\r\nSGC 1 ({\"24:http://example.com/svc/a\"});\r\n\
                        TS 1 1;\r\nAMS 1;\r\n";

pub(crate) fn take(connection: &mut Connection) -> Bytes {
    let count = connection.output().remaining();
    connection.output().copy_to_bytes(count)
}

pub(crate) fn take_text(connection: &mut Connection) -> String {
    String::from_utf8_lossy(&take(connection)).into_owned()
}

pub(crate) fn events(connection: &mut Connection) -> Vec<Event> {
    std::iter::from_fn(|| connection.poll_event()).collect()
}

/// Feeds octets as one read; what the connection says to the application and to the peer.
pub(crate) fn feed(
    connection: &mut Connection,
    octets: &[u8],
    now: Instant,
) -> (Vec<Event>, String) {
    connection.input().extend_from_slice(octets);
    connection.handle_input(now);
    let events = events(connection);
    (events, take_text(connection))
}

/// A server that has heard this, and what it said.
pub(crate) fn server(octets: &str) -> (Connection, String) {
    let now = Instant::now();
    let mut server = Connection::new(Role::Server, Config::default(), now);
    let (_, sent) = feed(&mut server, octets.as_bytes(), now);
    (server, sent)
}

/// What a server answers to `octets` after `before`.
pub(crate) fn answer(before: &str, octets: &str) -> String {
    let (mut server, _) = server(before);
    feed(&mut server, octets.as_bytes(), Instant::now()).1
}

/// A processor without the profile: transaction 1 has sent and keeps `0123456789`.
pub(crate) fn core_processor() -> (Connection, Xid) {
    let now = Instant::now();
    let mut processor = Connection::new(Role::Processor, Config::default(), now);
    processor.offer(Offer::default()).unwrap();
    feed(&mut processor, b"CS;\r\nNR;\r\n", now);
    let group = processor.create_group(vec![service("http://example.com/svc/a")]).unwrap();
    let xid = processor.start_transaction(group, now).unwrap();
    processor.start_core_original(xid).unwrap();
    let kept = Some(ocp_proto::message::Kept { offset: 0, size: 10 });
    let data = ocp_proto::OriginalData { part: None, kept };
    processor.send_original_data(xid, data, Bytes::from_static(b"0123456789")).unwrap();
    take(&mut processor);
    (processor, xid)
}

/// What [`core_processor`] answers to these octets of a server.
pub(crate) fn processor_answer(octets: &str) -> (Vec<Event>, String) {
    let (mut processor, _) = core_processor();
    feed(&mut processor, octets.as_bytes(), Instant::now())
}

pub(crate) fn service(uri: &'static str) -> Structure {
    Structure { members: vec![Value::atom(uri)], ..Structure::default() }
}

pub(crate) fn is_te400(sent: &str, xid: u32) -> bool {
    sent.starts_with(&format!("TE {xid} {{400"))
}

pub(crate) fn is_ce400(sent: &str) -> bool {
    sent.contains("CE {400") && sent.ends_with(";\r\n")
}

/// The messages of an octet stream, without the reasons of results, which are for people.
pub(crate) fn comparable(octets: &[u8]) -> Vec<String> {
    let mut decoder = Decoder::new(WireLimits::default());
    let mut input = BytesMut::from(octets);
    let mut messages = Vec::new();
    while let Some(frame) = decoder.decode(&mut input).unwrap() {
        match frame {
            Frame::Head(mut head) => {
                let code = if head.name == *"CE" { 0 } else { 1 };
                if let Some(Value::Structure(result)) = head.anonymous.get_mut(code)
                    && (head.name == *"TE" || head.name == *"CE")
                {
                    result.members.truncate(1);
                }
                messages.push(format!("{:?} {:?} {:?}", head.name, head.anonymous, head.named));
            }
            Frame::Chunk(octets) => messages.push(format!("{octets:?}")),
            Frame::End => {}
        }
    }
    messages
}

/// A connection of both roles in memory: what one end writes arrives at the other after the
/// latency, in order.
pub(crate) struct Pair {
    pub(crate) processor: Connection,
    pub(crate) server: Connection,
    pub(crate) now: Instant,
    pub(crate) latency: Duration,
    /// Everything that left the processor and the server.
    pub(crate) sent: [BytesMut; 2],
    under_way: [VecDeque<(Instant, Bytes)>; 2],
}

impl Pair {
    pub(crate) fn new() -> Self {
        Self::with(Config::default(), Config::default())
    }

    pub(crate) fn with(processor: Config, server: Config) -> Self {
        let now = Instant::now();
        Self {
            processor: Connection::new(Role::Processor, processor, now),
            server: Connection::new(Role::Server, server, now),
            now,
            latency: Duration::ZERO,
            sent: [BytesMut::new(), BytesMut::new()],
            under_way: [VecDeque::new(), VecDeque::new()],
        }
    }

    /// Carries what the processor wrote to the server: the server's events.
    pub(crate) fn deliver_to_server(&mut self) -> Vec<Event> {
        let octets = take(&mut self.processor);
        self.sent[0].extend_from_slice(&octets);
        self.server.input().extend_from_slice(&octets);
        self.server.handle_input(self.now);
        events(&mut self.server)
    }

    /// And back.
    pub(crate) fn deliver_to_processor(&mut self) -> Vec<Event> {
        let octets = take(&mut self.server);
        self.sent[1].extend_from_slice(&octets);
        self.processor.input().extend_from_slice(&octets);
        self.processor.handle_input(self.now);
        events(&mut self.processor)
    }

    /// Puts what both ends wrote on its way.
    pub(crate) fn transmit(&mut self) {
        let arrival = self.now + self.latency;
        for (end, connection) in [&mut self.processor, &mut self.server].into_iter().enumerate() {
            let octets = take(connection);
            if !octets.is_empty() {
                self.sent[end].extend_from_slice(&octets);
                self.under_way[end].push_back((arrival, octets));
            }
        }
    }

    /// Moves the clock to the next arrival and hands the octets over: which end they came to.
    pub(crate) fn step(&mut self) -> Option<Role> {
        self.transmit();
        let next = |queue: &VecDeque<(Instant, Bytes)>| queue.front().map(|(at, _)| *at);
        let (first, second) = (next(&self.under_way[0]), next(&self.under_way[1]));
        let from = match (first, second) {
            (None, None) => return None,
            (Some(first), Some(second)) => usize::from(second < first),
            (first, _) => usize::from(first.is_none()),
        };
        let (at, octets) = self.under_way[from].pop_front()?;
        self.now = self.now.max(at);
        let connection = if from == 0 { &mut self.server } else { &mut self.processor };
        connection.input().extend_from_slice(&octets);
        connection.handle_input(self.now);
        Some(if from == 0 { Role::Server } else { Role::Processor })
    }

    /// Lets everything arrive: what each end saw.
    pub(crate) fn drive(&mut self) -> Vec<(Role, Event)> {
        let mut seen = Vec::new();
        while let Some(role) = self.step() {
            let connection = match role {
                Role::Processor => &mut self.processor,
                Role::Server => &mut self.server,
            };
            seen.extend(events(connection).into_iter().map(|event| (role, event)));
        }
        seen
    }

    /// One offer, answered with this feature.
    pub(crate) fn negotiate(
        &mut self,
        offered: Structure,
        selected: Structure,
        group: Option<GroupId>,
    ) {
        let features = vec![offered];
        self.processor.offer(Offer { features, group, pending: false }).unwrap();
        let octets = take(&mut self.processor);
        self.sent[0].extend_from_slice(&octets);
        self.server.input().extend_from_slice(&octets);
        self.server.handle_input(self.now);
        while let Some(event) = self.server.poll_event() {
            if let Event::Offered(_) = event {
                let feature = Some(selected.clone());
                self.server.respond(Response { feature, ..Response::default() }).unwrap();
            }
        }
        let answered = self.deliver_to_processor();
        assert!(
            answered.iter().any(|e| matches!(e, Event::Responded(r) if r.feature.is_some())),
            "{answered:?}"
        );
    }

    /// A pair with dialogs and the command profile.
    pub(crate) fn negotiated(offer: &CommandProfile, answer: &CommandProfile) -> (Self, GroupId) {
        let mut pair = Self::new();
        let dialog = DialogFeature { version: 1 }.to_structure();
        pair.negotiate(dialog.clone(), dialog, None);
        let group = pair.processor.create_group(vec![service("ocp://service/x")]).unwrap();
        pair.negotiate(offer.to_structure(), answer.to_structure(), Some(group));
        (pair, group)
    }

    /// A pair whose transaction carries a message of which nothing was sent yet.
    pub(crate) fn begun(profile: &CommandProfile) -> (Self, Xid, DialogId) {
        let (mut pair, group) = Self::negotiated(profile, profile);
        let dialog = pair.processor.start_dialog(&DialogFacts::default()).unwrap();
        let xid = pair.processor.start_transaction(group, pair.now).unwrap();
        let start = OriginalStart::new(dialog, Command::Message);
        pair.processor.start_original(xid, &start).unwrap();
        pair.deliver_to_server();
        (pair, xid, dialog)
    }

    /// A pair whose transaction carries a whole message: 8 octets of header and 4 of body, kept.
    pub(crate) fn message() -> (Self, Xid) {
        Self::message_under(&message_profile())
    }

    pub(crate) fn message_under(profile: &CommandProfile) -> (Self, Xid) {
        let (mut pair, xid, _) = Self::begun(profile);
        pair.header(xid);
        pair.body(xid, "body");
        pair.processor.end_original(xid, OcpResult::ok()).unwrap();
        let seen = pair.deliver_to_server();
        assert!(matches!(seen.last(), Some(Event::OriginalEnded { .. })), "{seen:?}");
        (pair, xid)
    }

    pub(crate) fn header(&mut self, xid: Xid) {
        let header = Bytes::from_static(b"A: b\r\n\r\n");
        self.processor.send_original(xid, Part::MessageHeader, header, true).unwrap();
    }

    pub(crate) fn body(&mut self, xid: Xid, octets: &'static str) {
        self.processor.send_original(xid, Part::MessageBody, octets, true).unwrap();
    }
}

/// The profile of the pairs above.
pub(crate) fn message_profile() -> CommandProfile {
    CommandProfile {
        commands: vec![Command::Mail, Command::Message],
        side_effects: vec![EffectName::Quarantine],
        ..CommandProfile::default()
    }
}
