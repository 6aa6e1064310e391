//! Whole transactions through both ends of a connection in memory.

#![allow(missing_docs, clippy::unwrap_used)]

use std::time::Instant;

use bytes::{Buf, Bytes};
use divan::counter::{BytesCount, ItemsCount};
use divan::{Bencher, black_box};
use ocp_proto::smtp::{
    Address, Command, CommandProfile, DialogFacts, DialogFeature, Part, Verdict,
};
use ocp_proto::wire::{Structure, Value};
use ocp_proto::{
    AdaptedEnd, AdaptedStart, Config, Connection, DialogId, Event, GroupId, OcpResult, Offer,
    OriginalStart, Response, Role,
};

fn main() {
    divan::main();
}

/// Both ends, with a group and a dialog.
struct Pair {
    processor: Connection,
    server: Connection,
    now: Instant,
    group: GroupId,
    dialog: DialogId,
}

impl Pair {
    fn new() -> Self {
        let now = Instant::now();
        let mut processor = Connection::new(Role::Processor, Config::default(), now);
        let mut server = Connection::new(Role::Server, Config::default(), now);
        let commands = vec![Command::Mail, Command::Message];
        let profile = CommandProfile { commands, ..CommandProfile::default() };
        let dialogs = DialogFeature { version: 1 }.to_structure();
        negotiate(&mut processor, &mut server, dialogs, None, now);
        let service = vec![Value::atom("ocp://service/log")];
        let service = Structure { members: service, ..Structure::default() };
        let group = processor.create_group(vec![service]).unwrap();
        negotiate(&mut processor, &mut server, profile.to_structure(), Some(group), now);
        let dialog = processor.start_dialog(&DialogFacts::default()).unwrap();
        Self { processor, server, now, group, dialog }
    }

    /// An event, kept whole by the processor and sent back unchanged.
    fn transact(&mut self, start: &OriginalStart, parts: &[(Part, Bytes)], end: &AdaptedEnd) {
        let Self { processor, server, now, group, .. } = self;
        let xid = processor.start_transaction(*group, *now).unwrap();
        processor.start_original(xid, start).unwrap();
        for (part, octets) in parts {
            processor.send_original(xid, *part, octets.clone(), true).unwrap();
        }
        processor.end_original(xid, OcpResult::ok()).unwrap();
        carry(processor, server, *now);
        while let Some(event) = server.poll_event() {
            if let Event::OriginalEnded { xid, .. } = event {
                server.start_adapted(xid, Vec::new(), &AdaptedStart::default()).unwrap();
                let kept = server.preserved(xid);
                server.use_preserved(xid, kept, None).unwrap();
                server.end_adapted(xid, end).unwrap();
                server.end_transaction(xid, &OcpResult::ok(), false).unwrap();
            }
        }
        carry(server, processor, *now);
        let mut ended = false;
        while let Some(event) = processor.poll_event() {
            ended |=
                matches!(event, Event::TransactionEnded { ref result, .. } if result.is_success());
        }
        assert!(ended);
    }
}

/// What one end wrote, as one read of the other.
fn carry(from: &mut Connection, to: &mut Connection, now: Instant) {
    let output = from.output();
    while output.has_remaining() {
        to.input().extend_from_slice(output.chunk());
        output.advance(output.chunk().len());
    }
    to.handle_input(now);
}

fn negotiate(
    processor: &mut Connection,
    server: &mut Connection,
    feature: Structure,
    group: Option<GroupId>,
    now: Instant,
) {
    let features = vec![feature.clone()];
    processor.offer(Offer { features, group, pending: false }).unwrap();
    carry(processor, server, now);
    while let Some(event) = server.poll_event() {
        if let Event::Offered(_) = event {
            let feature = Some(feature.clone());
            server.respond(Response { feature, ..Response::default() }).unwrap();
        }
    }
    carry(server, processor, now);
    while processor.poll_event().is_some() {}
}

fn answer() -> AdaptedEnd {
    let verdict = Verdict {
        service: "ocp://service/log".into(),
        verdict: "logged".into(),
        score: None,
        reason: None,
        milliseconds: Some(0),
    };
    AdaptedEnd { verdicts: vec![verdict], ..AdaptedEnd::default() }
}

#[divan::bench]
fn mail_transaction(bencher: Bencher<'_, '_>) {
    let mut pair = Pair::new();
    let start = OriginalStart::new(pair.dialog, Command::Mail);
    let parts = [(Part::Command, Bytes::from_static(b"MAIL FROM:<steve@example.org>"))];
    let end = answer();
    bencher
        .counter(ItemsCount::new(1_u32))
        .bench_local(|| black_box(&mut pair).transact(&start, &parts, &end));
}

#[divan::bench(args = [4_096, 1_048_576])]
fn message_transaction(bencher: Bencher<'_, '_>, size: usize) {
    let mut pair = Pair::new();
    let address = |path: &'static str| Address::new(path).unwrap();
    let start = OriginalStart {
        sender: Some(address("<steve@example.org>")),
        recipients: vec![address("<paul@example.com>")],
        body_size: u32::try_from(size).ok(),
        ..OriginalStart::new(pair.dialog, Command::Message)
    };
    let header = Bytes::from_static(b"From: <steve@example.org>\r\nSubject: hi\r\n\r\n");
    let parts = [(Part::MessageHeader, header), (Part::MessageBody, vec![b'x'; size].into())];
    let end = answer();
    bencher
        .counter(BytesCount::new(size))
        .bench_local(|| black_box(&mut pair).transact(&start, &parts, &end));
}
