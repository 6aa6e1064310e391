//! The vectors of the requirements catalogue: syntax, message definitions, and single connections.

#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing)]

use bytes::BytesMut;
use ocp_proto::message::Message;
use ocp_proto::wire::{Decoder, Frame, NamedValues, Structure, SyntaxError, Value};
use ocp_proto::{Role, Scope, WireLimits, Xid};
use serde_json::{Value as Json, json};

struct Vector {
    id: String,
    input: Vec<u8>,
    parsed: Json,
    scope: String,
}

fn latin1(text: &str) -> Vec<u8> {
    text.chars().map(|c| u8::try_from(u32::from(c)).unwrap()).collect()
}

fn vectors() -> Vec<Vector> {
    let text = include_str!("data/ocp-wire-vectors.json");
    let vectors: Vec<Json> = serde_json::from_str(text).unwrap();
    assert_eq!(vectors.len(), 254);
    vectors
        .into_iter()
        .map(|vector| Vector {
            id: vector["id"].as_str().unwrap().to_owned(),
            input: latin1(vector["input"].as_str().unwrap()),
            parsed: vector["parsed"].clone(),
            scope: vector["scope"].as_str().unwrap().to_owned(),
        })
        .collect()
}

/// Limits under which only the grammar decides.
fn unlimited() -> WireLimits {
    WireLimits {
        head_octets: usize::MAX,
        depth: usize::MAX,
        values: usize::MAX,
        ..WireLimits::default()
    }
}

/// Decodes pieces one after the other: the messages as the vectors write them, and the error.
fn decode(pieces: &[&[u8]]) -> (Vec<Json>, Option<SyntaxError>) {
    let mut decoder = Decoder::new(unlimited());
    let mut input = BytesMut::new();
    let mut messages = Vec::new();
    let mut open: Option<(Json, Vec<u8>)> = None;
    for piece in pieces {
        input.extend_from_slice(piece);
        loop {
            match decoder.decode(&mut input) {
                Ok(None) => break,
                Ok(Some(Frame::Head(head))) => {
                    let message = json!({
                        "name": head.name.as_str(),
                        "anon": head.anonymous.iter().map(value_json).collect::<Vec<_>>(),
                        "named": named_json(&head.named),
                        "payload": null,
                    });
                    match head.payload {
                        None => messages.push(message),
                        Some(_) => open = Some((message, Vec::new())),
                    }
                }
                Ok(Some(Frame::Chunk(octets))) => {
                    assert!(!octets.is_empty());
                    open.as_mut().unwrap().1.extend_from_slice(&octets);
                }
                Ok(Some(Frame::End)) => {
                    let (mut message, payload) = open.take().unwrap();
                    message["payload"] = json!(text(&payload));
                    messages.push(message);
                }
                Err(error) => {
                    assert_eq!(decoder.decode(&mut input), Err(error.clone()), "errors stick");
                    return (messages, Some(error));
                }
            }
        }
    }
    (messages, None)
}

fn text(octets: &[u8]) -> String {
    octets.iter().copied().map(char::from).collect()
}

fn value_json(value: &Value) -> Json {
    match value {
        Value::Atom(octets) => json!({ "atom": text(octets) }),
        Value::List(items) => json!({ "list": items.iter().map(value_json).collect::<Vec<_>>() }),
        Value::Structure(Structure { members, named }) => json!({ "struct": {
            "anon": members.iter().map(value_json).collect::<Vec<_>>(),
            "named": named_json(named),
        }}),
    }
}

fn named_json(named: &NamedValues) -> Vec<Json> {
    named.iter().map(|(name, value)| json!([name.as_str(), value_json(value)])).collect()
}

fn fragmentations(input: &[u8]) -> Vec<Vec<&[u8]>> {
    let mut all = vec![vec![input], input.chunks(1).collect()];
    all.extend((1..input.len()).map(|at| vec![&input[..at], &input[at..]]));
    all
}

/// OCP-3.1-01, OCP-3.1-02, OCP-3.1-03, OCP-3.1-04, OCP-3.1-05, OCP-3.1-07, OCP-3.1-09, OCP-3.1-10
/// OCP-3.1-11, OCP-3.1-12, OCP-3.1-13, OCP-3.1-14, OCP-3.1-15, OCP-3.1-16, OCP-3.1-23
#[test]
fn syntax_is_accepted_and_rejected_as_the_vectors_say() {
    for vector in vectors() {
        let level = vector.parsed["level"].as_str().unwrap();
        // Kept with two values is read by default.
        let lenient = vector.parsed["lenient"] == "D6";
        for pieces in fragmentations(&vector.input) {
            let (messages, error) = decode(&pieces);
            let offset = error.as_ref().map(|error| error.offset);
            if lenient {
                assert_eq!((messages.len(), offset), (1, None), "{}", vector.id);
                let kept = json!([["Kept", { "struct": { "anon": [{ "atom": "65" }, { "atom": "64" }], "named": [] } }]]);
                assert_eq!(messages[0]["named"], kept, "{}", vector.id);
                continue;
            }
            let expected = vector.parsed["error_offset"].as_u64().filter(|_| level == "syntax");
            assert_eq!(offset, expected, "{} in {} pieces: {error:?}", vector.id, pieces.len());
            assert_eq!(json!(messages), vector.parsed["messages"], "{}", vector.id);
        }
    }
}

#[test]
fn every_truncation_of_a_valid_vector_needs_more() {
    let mut prefixes = 0;
    for vector in vectors().iter().filter(|vector| vector.parsed["level"] != "syntax") {
        for end in 0..vector.input.len() {
            let (_, error) = decode(&[&vector.input[..end]]);
            assert_eq!(error, None, "{} cut at {end}", vector.id);
            prefixes += 1;
        }
    }
    assert_eq!(prefixes, 7_563);
}

/// OCP-10-01, OCP-10.10-01, OCP-11-03
#[test]
fn definitions_are_checked_with_their_scope() {
    let mut checked = 0;
    for vector in vectors().iter().filter(|vector| vector.parsed["kind"] == "message") {
        let level = vector.parsed["level"].as_str().unwrap();
        if !matches!(level, "ok" | "definition") {
            continue;
        }
        let sender = match vector.parsed["from"].as_str().unwrap() {
            "server" => Role::Server,
            _ => Role::Processor,
        };
        let mut input = BytesMut::from(&vector.input[..]);
        let mut decoder = Decoder::new(unlimited());
        let mut error = None;
        while let Some(frame) = decoder.decode(&mut input).unwrap() {
            if let Frame::Head(head) = frame {
                error = error.or(Message::parse(&head, sender, false).err());
            }
        }
        let scope = error.as_ref().map(|violation| violation.scope);
        let xid = vector.parsed["decision"]["xid"].as_u64();
        let expected = match vector.scope.as_str() {
            "none" => None,
            "connection" => Some(Scope::Connection),
            _ => xid.map(|xid| Scope::Transaction(Xid::new(u32::try_from(xid).unwrap()).unwrap())),
        };
        assert_eq!(scope, expected, "{}: {error:?}", vector.id);
        checked += 1;
    }
    assert_eq!(checked, 67 + 46);
}

#[test]
fn the_copy_of_the_vectors_is_current() {
    let original = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/spec/ocp-wire-vectors.json");
    match std::fs::read_to_string(original) {
        Ok(original) => assert!(original == include_str!("data/ocp-wire-vectors.json")),
        Err(_) => println!("not compared: {original} is not here"),
    }
}
