//! Any octets for either end of a connection.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};

use crate::connection::{Closed, Config, Connection, Event, Misuse, Offer, Response};
use crate::ids::Xid;
use crate::message::{AdaptedEnd, AdaptedStart, OcpResult, OriginalStart};
use crate::role::Role;
use crate::smtp::{
    COMMAND_PROFILE, Command, CommandProfile, DIALOG, DialogFacts, DialogFeature, EffectName, Part,
    REPLY_PROFILE, ReplyProfile, TLS,
};
use crate::violation::Rule;
use crate::wire::{Structure, Value};

/// What a connection may say for each octet that it hears: a TE with its reason answers `TS 0 0;`.
const ANSWER_FACTOR: usize = 64;
/// What it may say besides: its CS, and the CE at the end.
const ANSWER_BASE: usize = 1_024;

/// Where the handshake stands in octets, if TLS was agreed on before: the first octet of its records.
const HANDSHAKE: u8 = 0x16;

/// Octets as a processor may send them to a server: however they are cut, the same happens, what is
/// answered is bounded, each transaction ends once and nothing follows its end. Between an agreement
/// on TLS and the handshake nothing is taken and nothing goes out.
///
/// # Panics
/// If that is not so.
pub fn connection_server(octets: &[u8]) {
    check(octets, |now| (Connection::new(Role::Server, Config::default(), now), Vec::new()));
}

/// Octets as a server may send them to a processor that has negotiated the profiles and waits for
/// the answers to a message (xid 1), a command (xid 2) and a reply (xid 3), and to one that besides has
/// offered TLS; else as [`connection_server`].
///
/// # Panics
/// If that is not so.
pub fn connection_processor(octets: &[u8]) {
    check(octets, |now| processor_with_transactions(now).expect("our own negotiation is valid"));
    check(octets, |now| processor_that_offers_tls(now).expect("our own negotiation is valid"));
}

fn check(octets: &[u8], connection: impl Fn(Instant) -> (Connection, Vec<Xid>)) {
    let now = Instant::now();
    let (whole, piece) = (octets.len().max(1), 1 + octets.len() % 7);
    let expected = run(octets, whole, Way::Input, connection(now), now);
    let pieces = run(octets, piece, Way::Input, connection(now), now);
    assert_eq!(expected, pieces, "fragmentation changes what happens");
    let straight = run(octets, piece, Way::Straight, connection(now), now);
    assert_eq!(expected, straight, "bodies that come straight change what happens");
}

/// What happened, pieces of data joined, and what was sent.
type Seen = (Vec<Event>, Bytes);

/// What does not depend on how octets are cut: those behind an agreement on TLS end the connection,
/// which may have been told to us before they came, or not.
fn comparable(seen: Seen) -> Seen {
    let (mut events, sent) = seen;
    let Some(Event::Closed(Closed::Violation(violation))) = events.last() else {
        return (events, sent);
    };
    if violation.rule != Rule::OctetsBehindTls {
        return (events, sent);
    }
    events.retain(|event| !matches!(event, Event::StartTls | Event::Responded(_)));
    (events, Bytes::new())
}

/// How octets come to a connection.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// All through its input.
    Input,
    /// Those of message bodies past it, where it says so.
    Straight,
}

fn run(octets: &[u8], size: usize, way: Way, start: (Connection, Vec<Xid>), now: Instant) -> Seen {
    let (mut connection, own) = start;
    let mut events = Vec::new();
    for part in octets.split_inclusive(|octet| *octet == HANDSHAKE) {
        let (before, handshake) = match part.split_last() {
            Some((&HANDSHAKE, before)) => (before, true),
            _ => (part, false),
        };
        for piece in before.chunks(size) {
            feed(piece, way, &mut connection, &mut events, now);
        }
        if handshake && !shake_hands(&mut connection, &mut events, now) {
            feed(&[HANDSHAKE], way, &mut connection, &mut events, now);
        }
    }
    connection.handle_end_of_input();
    act(&mut connection, &mut events);
    check_events(&events, own);
    let sent = take(&mut connection);
    let bound = ANSWER_BASE + ANSWER_FACTOR * octets.len();
    assert!(sent.len() <= bound, "{} octets in answer to {}", sent.len(), octets.len());
    check_silence(&mut connection, now);
    comparable((events, sent))
}

fn feed(
    mut piece: &[u8],
    way: Way,
    connection: &mut Connection,
    events: &mut Vec<Event>,
    now: Instant,
) {
    if way == Way::Straight
        && let Some((xid, left)) = connection.awaited_body()
    {
        let (body, rest) = piece.split_at(piece.len().min(left as usize));
        connection.handle_body(body.len(), now);
        let octets = Bytes::copy_from_slice(body);
        push(events, Event::Data { xid, part: Some(Part::MessageBody), octets });
        piece = rest;
    }
    connection.input().extend_from_slice(piece);
    connection.handle_input(now);
    act(connection, events);
}

/// The handshake, if there is to be one: then it was agreed on, and what was said since goes out now.
fn shake_hands(connection: &mut Connection, events: &mut Vec<Event>, now: Instant) -> bool {
    let agreed = events.contains(&Event::StartTls);
    let waits = agreed && !connection.has_tls() && !connection.is_over();
    let before = connection.output().remaining();
    if waits {
        connection.ping(None);
        assert_eq!(connection.output().remaining(), before, "a message in the clear");
    }
    let started = connection.tls_started(now).is_ok();
    assert_eq!(started, waits);
    if started {
        assert!(connection.has_tls());
        // But what waits for the end of a Negotiation Phase as well.
        assert_eq!(connection.output().remaining() == before, connection.is_negotiating());
    }
    act(connection, events);
    started
}

/// A plausible application: takes every feature that it knows and returns messages unchanged.
fn act(connection: &mut Connection, events: &mut Vec<Event>) {
    while let Some(event) = connection.poll_event() {
        match &event {
            Event::Offered(offer) => {
                let known = [TLS, DIALOG, COMMAND_PROFILE, REPLY_PROFILE];
                let feature = known.iter().find_map(|uri| offer.feature(uri)).cloned();
                // A feature that is known by name alone may be refused.
                let _ = connection.respond(Response { feature, ..Response::default() });
            }
            // It may come too late.
            Event::StopSendingWanted { xid } => drop(connection.stop_sending(*xid)),
            Event::OriginalEnded { xid, .. } => {
                return_unchanged(connection, *xid);
                assert!(!connection.has_transaction(*xid), "we have ended {xid}");
            }
            _ => {}
        }
        push(events, event);
    }
}

/// Adds an event; data joins the data before it.
fn push(events: &mut Vec<Event>, event: Event) {
    match (events.last_mut(), event) {
        (
            Some(Event::Data { xid, part, octets }),
            Event::Data { xid: next_xid, part: next_part, octets: next },
        ) if (*xid, *part) == (next_xid, next_part) => {
            *octets = [&octets[..], &next[..]].concat().into();
        }
        (
            Some(Event::MessageData { xid, id, part, octets }),
            Event::MessageData { xid: next_xid, id: next_id, part: next_part, octets: next },
        ) if (*xid, *id, *part) == (next_xid, next_id, next_part) => {
            *octets = [&octets[..], &next[..]].concat().into();
        }
        (_, event) => events.push(event),
    }
}

fn return_unchanged(connection: &mut Connection, xid: Xid) {
    let preserved = connection.preserved(xid);
    connection
        .start_adapted(xid, Vec::new(), &AdaptedStart::default())
        .expect("the transaction is open and has no adapted message yet");
    // A CONNECT has no parts, so that nothing of it can be returned.
    let _ = connection.use_preserved(xid, preserved, None);
    connection.end_adapted(xid, &AdaptedEnd::default()).expect("the message is open");
    connection.end_transaction(xid, &OcpResult::ok(), false).expect("the transaction is open");
}

/// Each transaction that began ended once, nothing follows its end, and nothing follows the end of
/// the connection.
fn check_events(events: &[Event], own: Vec<Xid>) {
    let mut open = BTreeSet::from_iter(own);
    let mut ended = BTreeSet::new();
    for event in events {
        let xid = transaction(event);
        assert!(xid.is_none_or(|xid| !ended.contains(&xid)), "{event:?} after its end");
        match event {
            Event::TransactionStarted { xid, .. } => assert!(open.insert(*xid), "{xid} twice"),
            // The application above ends the transaction then.
            Event::TransactionEnded { xid, .. } | Event::OriginalEnded { xid, .. } => {
                assert!(open.remove(xid), "{xid} ends without a start");
                ended.insert(*xid);
            }
            _ => assert!(xid.is_none_or(|xid| open.contains(&xid)), "{event:?} before a start"),
        }
    }
    assert!(open.is_empty(), "{open:?} never ended");
    let closed = events.iter().position(|event| matches!(event, Event::Closed(_)));
    assert_eq!(closed, events.len().checked_sub(1), "the last event is that all is over");
}

pub(super) fn transaction(event: &Event) -> Option<Xid> {
    match event {
        Event::TransactionStarted { xid, .. }
        | Event::OriginalStarted { xid, .. }
        | Event::AdaptedStarted { xid, .. }
        | Event::Data { xid, .. }
        | Event::Preserved { xid, .. }
        | Event::MessageData { xid, .. }
        | Event::MessagePreserved { xid, .. }
        | Event::ModificationExpected { xid, .. }
        | Event::PreservationInterest { xid, .. }
        | Event::PauseWanted { xid, .. }
        | Event::Paused { xid }
        | Event::MoreWanted { xid, .. }
        | Event::StopReceivingWanted { xid, .. }
        | Event::StopSendingWanted { xid }
        | Event::StopSending { xid, .. }
        | Event::OriginalEnded { xid, .. }
        | Event::AdaptedEnded { xid, .. }
        | Event::TransactionEnded { xid, .. } => Some(*xid),
        Event::Progress { xid, .. } => *xid,
        Event::Started
        | Event::Offered(_)
        | Event::Responded(_)
        | Event::Ability { .. }
        | Event::StartTls
        | Event::GroupCreated { .. }
        | Event::GroupDestroyed { .. }
        | Event::DialogStarted { .. }
        | Event::DialogUpdated { .. }
        | Event::DialogOutcome { .. }
        | Event::DialogEnded { .. }
        | Event::Draining
        | Event::Refused(_)
        | Event::Closed(_) => None,
    }
}

/// A connection that is over says nothing more, whatever comes and whatever is asked of it.
fn check_silence(connection: &mut Connection, now: Instant) {
    assert!(connection.is_closed() && connection.transactions() == 0);
    connection.input().extend_from_slice(b"CS;\r\nPQ;\r\n");
    connection.handle_input(now);
    connection.handle_timeout(now + Duration::from_secs(3_600));
    connection.ping(None);
    connection.report_progress(None);
    let _ = connection.respond(Response::default());
    let _ = connection.offer(Offer::default());
    connection.close(OcpResult::ok());
    assert_eq!(connection.poll_event(), None);
    assert_eq!(connection.poll_timeout(), None);
    assert_eq!(take(connection), "");
}

/// A processor with three transactions under way: with a message, a command, and a reply in a group of
/// its own.
fn processor_with_transactions(now: Instant) -> Result<(Connection, Vec<Xid>), Misuse> {
    let mut processor = Connection::new(Role::Processor, Config::default(), now);
    let mut server = Connection::new(Role::Server, Config::default(), now);
    let features = vec![DialogFeature { version: 1 }.to_structure()];
    processor.offer(Offer { features, ..Offer::default() })?;
    exchange(&mut processor, &mut server, now);
    let uri = vec![Value::atom("ocp://service/log")];
    let service = Structure { members: uri, ..Structure::default() };
    let group = processor.create_group(vec![service.clone()])?;
    let replies = processor.create_group(vec![service])?;
    let profile = CommandProfile {
        commands: vec![Command::Mail, Command::Message],
        side_effects: vec![EffectName::Quarantine, EffectName::Discard],
        multiple_messages: true,
        recipient_replies: true,
        ..CommandProfile::default()
    };
    let features = vec![profile.to_structure()];
    processor.offer(Offer { features, group: Some(group), pending: false })?;
    exchange(&mut processor, &mut server, now);
    let profile = ReplyProfile {
        commands: vec![Command::Greeting, Command::Rcpt],
        auxiliary_parts: vec![Part::Command],
        side_effects: vec![EffectName::RetryCommand, EffectName::Disconnect],
        ..ReplyProfile::default()
    };
    let features = vec![profile.to_structure()];
    processor.offer(Offer { features, group: Some(replies), pending: false })?;
    exchange(&mut processor, &mut server, now);

    let dialog = processor.start_dialog(&DialogFacts::default())?;
    let message = processor.start_transaction(group, now)?;
    processor.start_original(message, &OriginalStart::new(dialog, Command::Message))?;
    let header = Bytes::from_static(b"Subject: hi\r\n\r\n");
    processor.send_original(message, Part::MessageHeader, header, true)?;
    let body = Bytes::from_static(b"Dear Paul,\r\nhello\r\n");
    processor.send_original(message, Part::MessageBody, body, true)?;
    processor.end_original(message, OcpResult::ok())?;

    let dialog = processor.start_dialog(&DialogFacts::default())?;
    let command = processor.start_transaction(group, now)?;
    processor.start_original(command, &OriginalStart::new(dialog, Command::Mail))?;
    let line = Bytes::from_static(b"MAIL FROM:<steve@example.org>");
    processor.send_original(command, Part::Command, line, true)?;

    let reply = processor.start_transaction(replies, now)?;
    processor.start_original(reply, &OriginalStart::new(dialog, Command::Rcpt))?;
    let line = Bytes::from_static(b"RCPT TO:<paul@example.com>");
    processor.send_original(reply, Part::Command, line, true)?;
    let octets = Bytes::from_static(b"550 5.1.1 nobody\r\n");
    processor.send_original(reply, Part::Reply, octets, true)?;
    processor.end_original(reply, OcpResult::ok())?;
    take(&mut processor);
    Ok((processor, vec![message, command, reply]))
}

/// The same, and its offer of TLS waits for an answer.
fn processor_that_offers_tls(now: Instant) -> Result<(Connection, Vec<Xid>), Misuse> {
    let (mut processor, own) = processor_with_transactions(now)?;
    processor.offer(Offer { features: vec![tls()], ..Offer::default() })?;
    take(&mut processor);
    Ok((processor, own))
}

pub(super) fn tls() -> Structure {
    Structure { members: vec![Value::atom(TLS)], ..Structure::default() }
}

fn exchange(processor: &mut Connection, server: &mut Connection, now: Instant) {
    for _ in 0..2 {
        server.input().extend_from_slice(&take(processor));
        server.handle_input(now);
        act(server, &mut Vec::new());
        processor.input().extend_from_slice(&take(server));
        processor.handle_input(now);
        act(processor, &mut Vec::new());
    }
}

pub(super) fn take(connection: &mut Connection) -> Bytes {
    let count = connection.output().remaining();
    connection.output().copy_to_bytes(count)
}

#[cfg(test)]
mod tests;
