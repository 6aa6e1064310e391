//! The state vectors of the requirements catalogue: everything that one agent sends from the start
//! of a connection, and what the agent under test answers.

#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing, clippy::expect_used)]

mod support;

use std::time::Instant;

use bytes::{Bytes, BytesMut};
use ocp_proto::message::Message;
use ocp_proto::wire::{Decoder, Frame};
use ocp_proto::{
    AdaptedData, AdaptedEnd, AdaptedStart, Config, Connection, DataLabel, Event, Misuse, OcpResult,
    Offer, OriginalData, Response, Role, WireLimits, feature_uri,
};
use serde_json::Value as Json;
use support::{comparable, events, take};

/// One message of a stream: its octets, and what it says.
struct Sent {
    octets: Vec<u8>,
    message: Option<Message>,
    payload: Bytes,
}

/// Cuts a stream into its messages; a rest that is none stays as it is.
fn messages(octets: &[u8], sender: Role) -> Vec<Sent> {
    let mut decoder = Decoder::new(WireLimits::default());
    let mut input = BytesMut::from(octets);
    let (mut all, mut begin) = (Vec::new(), 0);
    let mut payload = Vec::new();
    let mut head = None;
    while let Ok(Some(frame)) = decoder.decode(&mut input) {
        let ends = match frame {
            Frame::Head(next) => {
                let ends = next.payload.is_none();
                head = Some(next);
                ends
            }
            Frame::Chunk(octets) => {
                payload.extend_from_slice(&octets);
                false
            }
            Frame::End => true,
        };
        if ends {
            let end = usize::try_from(decoder.consumed()).unwrap();
            let message = Message::parse(&head.take().unwrap(), sender, false).ok().flatten();
            let payload = std::mem::take(&mut payload).into();
            all.push(Sent { octets: octets[begin..end].to_vec(), message, payload });
            begin = end;
        }
    }
    if begin < octets.len() {
        all.push(Sent { octets: octets[begin..].to_vec(), message: None, payload: Bytes::new() });
    }
    all
}

/// Does by commands what the context says that the agent under test sends.
fn act(connection: &mut Connection, sent: &Sent) -> Result<(), Misuse> {
    let now = Instant::now();
    let payload = sent.payload.clone();
    match sent.message.clone().unwrap() {
        // Every connection has sent it by itself.
        Message::Cs => Ok(()),
        Message::No(no) => {
            connection.offer(Offer { features: no.features, group: no.group, pending: no.pending })
        }
        Message::Sgc { services, .. } => connection.create_group(services).map(|_| ()),
        Message::Ts { group, .. } => connection.start_transaction(group, now).map(|_| ()),
        Message::Te { xid, result, .. } => {
            connection.end_transaction(xid, &result, false).map(|_| ())
        }
        Message::Ams { xid, .. } => match connection.role() {
            Role::Processor => connection.start_core_original(xid),
            Role::Server => connection.start_adapted(xid, Vec::new(), &AdaptedStart::default()),
        },
        Message::Ame { xid, .. } => match connection.role() {
            Role::Processor => connection.end_original(xid, OcpResult::ok()),
            Role::Server => connection.end_adapted(xid, &AdaptedEnd::default()),
        },
        Message::Dum(dum) => match connection.role() {
            Role::Processor => {
                let data = OriginalData { part: None, kept: dum.kept };
                connection.send_original_data(dum.xid, data, payload)
            }
            Role::Server => connection.send_adapted_data(dum.xid, AdaptedData::default(), payload),
        },
        Message::Duy { xid, offset, size, .. } => {
            connection.use_preserved_data(xid, offset..offset + size, DataLabel::default())
        }
        Message::Dpi { xid, offset, size } => connection.want_preserved(xid, offset, size),
        Message::Dwss { xid } => connection.want_stop_sending(xid),
        Message::Dwm { xid, size_request } => connection.want_more(xid, size_request),
        other => panic!("the contexts hold no {other:?}"),
    }
}

/// A plausible application: selects the one feature that it knows, and lets the server go.
fn answer(connection: &mut Connection) {
    while let Some(event) = connection.poll_event() {
        match event {
            Event::Offered(offer) => {
                let known = offer.features.iter().find(|f| feature_uri(f) == Some(b"1:known"));
                let feature = known.cloned();
                connection.respond(Response { feature, ..Response::default() }).unwrap();
            }
            Event::StopSendingWanted { xid } => connection.stop_sending(xid).unwrap(),
            _ => {}
        }
    }
}

fn latin1(text: &str) -> Vec<u8> {
    text.chars().map(|c| u8::try_from(u32::from(c)).unwrap()).collect()
}

/// Runs one vector: what was sent in answer, without what the context itself sends.
fn run(parsed: &Json, input: &[u8]) -> Vec<u8> {
    let sender = if parsed["from"] == "server" { Role::Server } else { Role::Processor };
    let role = sender.peer();
    let mut connection = Connection::new(role, Config::default(), Instant::now());
    let none = Vec::new();
    let context = parsed["context"].as_array().unwrap_or(&none);
    // With a context that begins with CS, ours belongs to it.
    if context.first().is_some_and(|step| step["after"] == 0) {
        take(&mut connection);
    }
    let mut sent = Vec::new();
    let mut input = messages(input, sender).into_iter();
    let mut fed = 0;
    let mut feed_next = |connection: &mut Connection, sent: &mut Vec<u8>| {
        let next = input.next()?;
        connection.input().extend_from_slice(&next.octets);
        connection.handle_input(Instant::now());
        answer(connection);
        sent.extend_from_slice(&take(connection));
        Some(())
    };
    for step in context {
        while fed < step["after"].as_u64().unwrap() {
            feed_next(&mut connection, &mut sent).unwrap();
            fed += 1;
        }
        for own in messages(step["sent"].as_str().unwrap().as_bytes(), role) {
            // A processor sends nothing behind its offer before it is answered, while the
            // contexts do: the peer's next messages come first.
            while let Err(misuse) = act(&mut connection, &own) {
                assert!(matches!(misuse, Misuse::OfferPending), "{misuse}");
                feed_next(&mut connection, &mut sent).unwrap();
                fed += 1;
            }
            take(&mut connection);
        }
    }
    while feed_next(&mut connection, &mut sent).is_some() {}
    assert_eq!(events(&mut connection), []);
    sent
}

/// OCP-1.3-01, OCP-2.6-01, OCP-5-02, OCP-5-03, OCP-5-04, OCP-6-01, OCP-10.2-02, OCP-10.2-03
/// OCP-11.1-02, OCP-11.1-04, OCP-11.3-05, OCP-11.4-01, OCP-11.4-02, OCP-11.5-01, OCP-11.5-05
/// OCP-11.6-03, OCP-11.9-01, OCP-11.9-02, OCP-11.9-10, OCP-11.10-01, OCP-11.10-03, OCP-11.11-02
/// OCP-11.11-06, OCP-11.11-07, OCP-11.14-01, OCP-11.14-02, OCP-11.18-04, OCP-11.18-06, OCP-11.18-08
/// OCP-11.19-02, OCP-11.19-03, OCP-11.19-06, OCP-11.19-07, OCP-11.19-09, OCP-11.22-01, OCP-11.23-03
/// OCP-7-05, OCP-11.8-04, OCP-10.10-04, OCP-10.10-06, OCP-11.16-02, OCP-15-01
#[test]
fn every_state_vector_is_answered_as_it_says() {
    let text = include_str!("data/ocp-wire-vectors.json");
    let vectors: Vec<Json> = serde_json::from_str(text).unwrap();
    let mut checked = 0;
    for vector in vectors.iter().filter(|vector| vector["parsed"]["kind"] == "stream") {
        let parsed = &vector["parsed"];
        let input = latin1(vector["input"].as_str().unwrap());
        let sent = run(parsed, &input);
        let expected = parsed["decision"]["send"].as_array().unwrap().iter();
        let mut expected: String = expected.map(|message| message.as_str().unwrap()).collect();
        if vector["id"] == "OCPV-246" {
            // The vector leaves the TE of OCP-11.8-04 to the application; ours goes out at once.
            expected.push_str("TE 1 {400};\r\n");
        }
        assert_eq!(
            comparable(&sent),
            comparable(expected.as_bytes()),
            "{}: {}",
            vector["id"],
            String::from_utf8_lossy(&sent)
        );
        checked += 1;
    }
    assert_eq!(checked, 66);
}
