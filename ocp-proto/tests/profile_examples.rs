//! The examples of SMTP-PROFILE.md are what both ends send.

#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing, clippy::expect_used)]

mod support;

use bytes::{Bytes, BytesMut};
use ocp_proto::smtp::{
    Address, Command, CommandLine, CommandProfile, DialogFacts, DialogFeature, EffectName, Fact,
    FailurePolicy, Part, Reply, ReplyProfile, SideEffect, Validity, Verdict, may_replace,
};
use ocp_proto::{
    AdaptedData, AdaptedEnd, AdaptedMessageId, AdaptedRole, AdaptedStart, DataLabel, Event,
    OcpResult, OriginalStart, Xid,
};
use support::{Pair, message_profile, service};

/// The messages of one direction of an example: `P: ` or `S: `, continued by three blanks.
fn example(block: &str, agent: char) -> String {
    let mut octets = String::new();
    let mut takes = false;
    for line in block.lines() {
        let text = match line.strip_prefix("   ") {
            Some(text) => text,
            None if line.is_empty() => "",
            None => {
                takes = line.starts_with(agent);
                &line[3..]
            }
        };
        if takes {
            octets.push_str(&text.replace("\\r\\n", "\r\n"));
            octets.push_str("\r\n");
        }
    }
    octets
}

fn examples() -> Vec<String> {
    let text = include_str!("../SMTP-PROFILE.md");
    let blocks = text.split("```ocp\n").skip(1);
    blocks.map(|block| block.split("```").next().unwrap().to_owned()).collect()
}

#[test]
fn the_profile_example_of_a_rejected_sender_is_what_we_send() {
    let example_text = &examples()[0];
    let mut pair = Pair::new();
    let dialogs = DialogFeature { version: 1 }.to_structure();
    pair.negotiate(dialogs.clone(), dialogs, None);
    let services = vec![service("ocp://service/mail-from"), service("ocp://service/virus-scan")];
    let group = pair.processor.create_group(services).unwrap();
    let names = ["CONNECT", "HELO", "MAIL", "RCPT", "DATA", "MESSAGE", "RSET", "QUIT"];
    let offer = CommandProfile {
        commands: names.iter().map(|n| Command::from_name(n.as_bytes()).unwrap()).collect(),
        side_effects: vec![
            EffectName::AddRecipient,
            EffectName::DeleteRecipient,
            EffectName::ChangeSender,
            EffectName::Quarantine,
            EffectName::Discard,
        ],
        ..CommandProfile::default()
    };
    let answer = CommandProfile {
        commands: vec![Command::Mail, Command::Message],
        side_effects: vec![EffectName::Quarantine],
        on_failure: Some(FailurePolicy::Tempfail),
        ..CommandProfile::default()
    };
    pair.negotiate(offer.to_structure(), answer.to_structure(), Some(group));
    assert_eq!(pair.processor.command_profile(group), Some(&answer));

    let facts = DialogFacts {
        client_address: Some("192.0.2.138".into()),
        client_name: Some("client.example.net".into()),
        ..DialogFacts::default()
    };
    let dialog = pair.processor.start_dialog(&facts).unwrap();
    let xid = pair.processor.start_transaction(group, pair.now).unwrap();
    pair.processor.start_original(xid, &OriginalStart::new(dialog, Command::Mail)).unwrap();
    let line = Bytes::from_static(b"MAIL FROM:<steve@example.org>");
    pair.processor.send_original(xid, Part::Command, line.clone(), true).unwrap();
    pair.processor.end_original(xid, OcpResult::ok()).unwrap();
    let seen = pair.deliver_to_server();
    assert_eq!(
        seen[seen.len() - 5..],
        [
            Event::DialogStarted { dialog, facts: Box::new(facts) },
            Event::TransactionStarted { xid, group },
            Event::OriginalStarted { xid, start: Some(OriginalStart::new(dialog, Command::Mail)) },
            Event::Data { xid, part: Some(Part::Command), octets: line },
            Event::OriginalEnded { xid, result: OcpResult::ok() },
        ]
    );

    let reply = Reply::new(550, "5.1.8", "sender domain does not resolve").unwrap();
    pair.server.start_adapted(xid, Vec::new(), &AdaptedStart::default()).unwrap();
    pair.server.send_adapted(xid, Part::Reply, reply.as_bytes().clone(), None).unwrap();
    pair.server.end_adapted(xid, &AdaptedEnd::default()).unwrap();
    pair.server.end_transaction(xid, &OcpResult::ok(), false).unwrap();
    let seen = pair.deliver_to_processor();
    assert!(
        matches!(seen.last(), Some(Event::TransactionEnded { result, .. }) if result.is_success()),
        "{seen:?}"
    );
    pair.processor.report_outcome(dialog, xid, OcpResult::ok(), Some(&reply), None).unwrap();
    pair.processor.end_dialog(dialog, OcpResult::ok()).unwrap();
    pair.deliver_to_server();
    assert_eq!(String::from_utf8_lossy(&pair.sent[0]), example(example_text, 'P'));
    assert_eq!(String::from_utf8_lossy(&pair.sent[1]), example(example_text, 'S'));
}

#[test]
fn the_profile_example_of_a_marked_message_is_what_we_send() {
    let example_text = &examples()[1];
    let mut pair = Pair::new();
    let dialogs = DialogFeature { version: 1 }.to_structure();
    pair.negotiate(dialogs.clone(), dialogs, None);
    let group = pair.processor.create_group(vec![service("ocp://service/spam-score")]).unwrap();
    let offer = CommandProfile { commands: vec![Command::Message], ..CommandProfile::default() };
    let answer = CommandProfile { on_failure: Some(FailurePolicy::Accept), ..offer.clone() };
    pair.negotiate(offer.to_structure(), answer.to_structure(), Some(group));
    let facts =
        DialogFacts { activation: ocp_proto::smtp::Activation::Queued, ..DialogFacts::default() };
    let dialog = pair.processor.start_dialog(&facts).unwrap();
    let xid = pair.processor.start_transaction(group, pair.now).unwrap();
    let address = |path: &'static str| ocp_proto::smtp::Address::new(path).unwrap();
    let start = OriginalStart {
        sender: Some(address("<steve@example.org>")),
        recipients: vec![address("<paul@example.com>")],
        body_size: Some(21),
        ..OriginalStart::new(dialog, Command::Message)
    };
    pair.processor.start_original(xid, &start).unwrap();
    let header = b"From: <steve@example.org>\r\nTo: <paul@example.com>\r\nSubject: hi\r\n\r\n";
    let body = b"Dear Paul,\r\nhello!!\r\n";
    pair.processor.send_original(xid, Part::MessageHeader, &header[..], true).unwrap();
    pair.processor.send_original(xid, Part::MessageBody, &body[..], true).unwrap();
    pair.processor.end_original(xid, OcpResult::ok()).unwrap();
    pair.deliver_to_server();
    assert_eq!(pair.server.preserved(xid), 0..87);

    pair.server.start_adapted(xid, Vec::new(), &AdaptedStart::default()).unwrap();
    let field = Bytes::from_static(b"X-Spam-Score: 1.3\r\n");
    pair.server.send_adapted(xid, Part::MessageHeader, field.clone(), None).unwrap();
    pair.server.use_preserved(xid, 0..66, None).unwrap();
    pair.server.use_preserved(xid, 66..87, None).unwrap();
    let verdict = Verdict {
        service: "ocp://service/spam-score".into(),
        verdict: "ham".into(),
        score: Some("1.3".into()),
        reason: None,
        milliseconds: None,
    };
    let end = AdaptedEnd { verdicts: vec![verdict], ..AdaptedEnd::default() };
    pair.server.end_adapted(xid, &end).unwrap();
    let cost = pair.server.end_transaction(xid, &OcpResult::ok(), false).unwrap();
    let seen = pair.deliver_to_processor();
    assert_eq!(
        seen[1..],
        [
            Event::Data { xid, part: Some(Part::MessageHeader), octets: field },
            Event::Preserved { xid, part: None, range: 0..66 },
            Event::Preserved { xid, part: None, range: 66..87 },
            Event::AdaptedEnded { xid, result: OcpResult::ok(), end },
            match &seen[5] {
                Event::TransactionEnded { traffic, .. } => {
                    // What one side sent is what the other received.
                    assert_eq!((traffic.sent, traffic.received), (cost.received, cost.sent));
                    seen[5].clone()
                }
                other => panic!("{other:?}"),
            },
        ]
    );
    pair.processor.report_outcome(dialog, xid, OcpResult::ok(), None, None).unwrap();
    pair.processor.end_dialog(dialog, OcpResult::ok()).unwrap();
    pair.deliver_to_server();
    assert_eq!(String::from_utf8_lossy(&pair.sent[0]), example(example_text, 'P'));
    assert_eq!(String::from_utf8_lossy(&pair.sent[1]), example(example_text, 'S'));
}

/// A pair with one dialog and one message, of which nothing was sent yet; from then on its octets
/// are an example's.
fn begin(profile: &CommandProfile, recipients: &[&'static str]) -> (Pair, Xid) {
    let (mut pair, group) = Pair::negotiated(profile, profile);
    let dialog = pair.processor.start_dialog(&DialogFacts::default()).unwrap();
    pair.deliver_to_server();
    pair.sent = [BytesMut::new(), BytesMut::new()];
    let xid = pair.processor.start_transaction(group, pair.now).unwrap();
    let start = OriginalStart {
        sender: Some(Address::new("<steve@example.org>").unwrap()),
        recipients: recipients.iter().map(|path| Address::new(*path).unwrap()).collect(),
        ..OriginalStart::new(dialog, Command::Message)
    };
    pair.processor.start_original(xid, &start).unwrap();
    (pair, xid)
}

fn header(pair: &mut Pair, xid: Xid) {
    let header = Bytes::from_static(b"Subject: hi\r\n\r\n");
    pair.processor.send_original(xid, Part::MessageHeader, header, true).unwrap();
}

fn check(pair: &Pair, example_text: &str) {
    assert_eq!(String::from_utf8_lossy(&pair.sent[0]), example(example_text, 'P'));
    assert_eq!(String::from_utf8_lossy(&pair.sent[1]), example(example_text, 'S'));
}

#[test]
fn the_profile_example_of_leaving_the_loop_is_what_we_send() {
    let (mut pair, xid) = begin(&message_profile(), &["<paul@example.com>"]);
    header(&mut pair, xid);
    pair.body(xid, "Dear Paul,\r\n");
    pair.deliver_to_server();
    pair.server.start_adapted(xid, Vec::new(), &AdaptedStart::default()).unwrap();
    let mark = Bytes::from_static(b"X-Seen: yes\r\n");
    pair.server.send_adapted(xid, Part::MessageHeader, mark, None).unwrap();
    pair.server.use_preserved(xid, 0..15, None).unwrap();
    pair.server.want_to_leave(xid, 15).unwrap();
    let wishes = pair.deliver_to_processor();
    assert!(wishes.contains(&Event::StopSendingWanted { xid }), "{wishes:?}");
    pair.processor.stop_sending(xid).unwrap();
    pair.processor.end_original(xid, OcpResult::partial()).unwrap();
    let octets = support::take(&mut pair.processor);
    pair.sent[0].extend_from_slice(&octets);
    pair.server.input().extend_from_slice(&octets);
    pair.server.handle_input(pair.now);
    while let Some(event) = pair.server.poll_event() {
        if let Event::StopSending { xid, octets } = event {
            pair.server.use_preserved(xid, 15..octets, None).unwrap();
            pair.server.end_adapted_early(xid, &AdaptedEnd::default()).unwrap();
        }
    }
    pair.server.end_transaction(xid, &OcpResult::ok(), false).unwrap();
    pair.deliver_to_processor();
    check(&pair, &examples()[2]);
}

#[test]
fn the_profile_example_of_two_variants_is_what_we_send() {
    let profile = CommandProfile { multiple_messages: true, ..message_profile() };
    let recipients = ["<paul@example.com>", "<mary@example.com>"];
    let (mut pair, xid) = begin(&profile, &recipients);
    header(&mut pair, xid);
    pair.body(xid, "Dear all\r\n");
    pair.processor.end_original(xid, OcpResult::ok()).unwrap();
    pair.deliver_to_server();
    for (number, path) in [(1, Some(recipients[0])), (2, None)] {
        let id = AdaptedMessageId::new(number);
        let start = AdaptedStart {
            id,
            role: Some(AdaptedRole::Variant),
            recipients: path.into_iter().map(|path| Address::new(path).unwrap()).collect(),
            ..AdaptedStart::default()
        };
        pair.server.start_adapted(xid, Vec::new(), &start).unwrap();
        if number == 1 {
            let part = Some(Part::MessageHeader);
            let data = AdaptedData { id, part, ..AdaptedData::default() };
            pair.server.send_adapted_data(xid, data, "X-Spam: no\r\n").unwrap();
        }
        pair.server.use_preserved_data(xid, 0..25, DataLabel { part: None, id }).unwrap();
        pair.server.end_adapted(xid, &AdaptedEnd { id, ..AdaptedEnd::default() }).unwrap();
    }
    pair.server.end_transaction(xid, &OcpResult::ok(), false).unwrap();
    pair.deliver_to_processor();
    check(&pair, &examples()[5]);
}

#[test]
fn the_profile_example_of_a_notification_is_what_we_send() {
    let profile = CommandProfile { multiple_messages: true, ..message_profile() };
    let (mut pair, xid) = begin(&profile, &["<paul@example.com>", "<mary@example.com>"]);
    header(&mut pair, xid);
    pair.body(xid, "Dear all\r\n");
    pair.processor.end_original(xid, OcpResult::ok()).unwrap();
    pair.deliver_to_server();
    let message = |role, recipient: Option<&'static str>| AdaptedStart {
        role: Some(role),
        recipients: recipient.into_iter().map(|path| Address::new(path).unwrap()).collect(),
        ..AdaptedStart::default()
    };
    let reply = vec![(Part::Reply, "554 5.7.1 not for us\r\n")];
    let header = "From: <filter@example.com>\r\nSubject: refused: hi\r\n\
                  Auto-Submitted: auto-generated\r\n\r\n";
    let note =
        vec![(Part::MessageHeader, header), (Part::MessageBody, "From <steve@example.org>\r\n")];
    let messages = [
        (message(AdaptedRole::Reply, None), reply),
        (message(AdaptedRole::Notification, Some("<postmaster@example.com>")), note),
    ];
    for ((start, parts), number) in messages.into_iter().zip(1..) {
        let id = AdaptedMessageId::new(number);
        pair.server.start_adapted(xid, Vec::new(), &AdaptedStart { id, ..start }).unwrap();
        for (part, octets) in parts {
            let data = AdaptedData { id, part: Some(part), ..AdaptedData::default() };
            pair.server.send_adapted_data(xid, data, octets).unwrap();
        }
        pair.server.end_adapted(xid, &AdaptedEnd { id, ..AdaptedEnd::default() }).unwrap();
    }
    pair.server.end_transaction(xid, &OcpResult::ok(), false).unwrap();
    pair.deliver_to_processor();
    check(&pair, &examples()[6]);
}

#[test]
fn the_profile_example_of_a_pause_is_what_we_send() {
    let (mut pair, xid) = begin(&message_profile(), &["<paul@example.com>"]);
    header(&mut pair, xid);
    pair.deliver_to_server();
    pair.server.want_pause(xid, 20).unwrap();
    pair.deliver_to_processor();
    assert_eq!(pair.processor.may_send(xid), 5);
    pair.body(xid, "Dear,");
    let seen = pair.deliver_to_server();
    assert_eq!(seen.last(), Some(&Event::Paused { xid }));
    pair.server.want_more(xid, Some(16_384)).unwrap();
    pair.deliver_to_processor();
    pair.body(xid, "Paul\r\n");
    pair.processor.end_original(xid, OcpResult::ok()).unwrap();
    pair.deliver_to_server();
    pair.server.start_adapted(xid, Vec::new(), &AdaptedStart::default()).unwrap();
    pair.server.use_preserved(xid, 0..26, None).unwrap();
    pair.server.end_adapted(xid, &AdaptedEnd::default()).unwrap();
    pair.server.end_transaction(xid, &OcpResult::ok(), false).unwrap();
    pair.deliver_to_processor();
    check(&pair, &examples()[3]);
}

#[test]
fn the_profile_example_of_an_answer_that_holds_is_what_we_send() {
    let (mut pair, group) = Pair::negotiated(&message_profile(), &message_profile());
    let dialog = pair.processor.start_dialog(&DialogFacts::default()).unwrap();
    pair.deliver_to_server();
    pair.sent = [BytesMut::new(), BytesMut::new()];
    let xid = pair.processor.start_transaction(group, pair.now).unwrap();
    pair.processor.start_original(xid, &OriginalStart::new(dialog, Command::Mail)).unwrap();
    let line = Bytes::from_static(b"MAIL FROM:<steve@example.org>");
    pair.processor.send_original(xid, Part::Command, line, true).unwrap();
    pair.processor.end_original(xid, OcpResult::ok()).unwrap();
    pair.deliver_to_server();
    let validity = Validity::new(600).with_fact(Fact::Client);
    let end = AdaptedEnd {
        envelope_done: true,
        valid_for: Some(validity.seconds),
        valid_with: validity.names(),
        ..AdaptedEnd::default()
    };
    pair.server.start_adapted(xid, Vec::new(), &AdaptedStart::default()).unwrap();
    pair.server.use_preserved(xid, 0..29, None).unwrap();
    pair.server.end_adapted(xid, &end).unwrap();
    pair.server.end_transaction(xid, &OcpResult::ok(), false).unwrap();
    let seen = pair.deliver_to_processor();
    let ended = seen.iter().find_map(|event| match event {
        Event::AdaptedEnded { end, .. } => Some(end),
        _ => None,
    });
    assert_eq!(ended.unwrap().validity(), Some(validity));
    check(&pair, &examples()[4]);
}

/// A pair whose transaction carries the reply to RCPT, kept, with its command before it; from the
/// transaction's start on its octets are an example's.
fn begin_reply(line: &'static str, reply: &Reply) -> (Pair, Xid) {
    let mut pair = Pair::new();
    let dialogs = DialogFeature { version: 1 }.to_structure();
    pair.negotiate(dialogs.clone(), dialogs, None);
    let group = pair.processor.create_group(vec![service("ocp://service/x")]).unwrap();
    let profile = ReplyProfile {
        commands: vec![Command::Rcpt],
        auxiliary_parts: vec![Part::Command],
        side_effects: vec![EffectName::RetryCommand],
        ..ReplyProfile::default()
    };
    pair.negotiate(profile.to_structure(), profile.to_structure(), Some(group));
    assert_eq!(pair.processor.reply_profile(group), Some(&profile));
    let dialog = pair.processor.start_dialog(&DialogFacts::default()).unwrap();
    pair.deliver_to_server();
    pair.sent = [BytesMut::new(), BytesMut::new()];
    let xid = pair.processor.start_transaction(group, pair.now).unwrap();
    let start = OriginalStart {
        sender: Some(Address::new("<steve@example.org>").unwrap()),
        ..OriginalStart::new(dialog, Command::Rcpt)
    };
    pair.processor.start_original(xid, &start).unwrap();
    pair.processor.send_original(xid, Part::Command, line, true).unwrap();
    pair.processor.send_original(xid, Part::Reply, reply.as_bytes().clone(), true).unwrap();
    pair.processor.end_original(xid, OcpResult::ok()).unwrap();
    pair.deliver_to_server();
    pair.server.start_adapted(xid, Vec::new(), &AdaptedStart::default()).unwrap();
    (pair, xid)
}

fn end(pair: &mut Pair, xid: Xid, end: &AdaptedEnd) {
    pair.server.end_adapted(xid, end).unwrap();
    pair.server.end_transaction(xid, &OcpResult::ok(), false).unwrap();
    let seen = pair.deliver_to_processor();
    assert!(
        matches!(seen.last(), Some(Event::TransactionEnded { result, .. }) if result.is_success()),
        "{seen:?}"
    );
}

#[test]
fn the_profile_example_of_a_reply_that_says_too_much_is_what_we_send() {
    let original = Reply::new(452, "4.2.2", "mx3.internal: mailbox full").unwrap();
    let (mut pair, xid) = begin_reply("RCPT TO:<paul@example.com>", &original);
    let adapted = Reply::new(452, "4.2.2", "mail.example.com: mailbox full").unwrap();
    may_replace(&Command::Rcpt, &original, &adapted, &[]).unwrap();
    pair.server.use_preserved(xid, 26..36, None).unwrap();
    pair.server.send_adapted(xid, Part::Reply, "mail.example.com", None).unwrap();
    pair.server.use_preserved(xid, 48..64, None).unwrap();
    end(&mut pair, xid, &AdaptedEnd::default());
    check(&pair, &examples()[7]);
}

#[test]
fn the_profile_example_of_a_recipient_that_has_moved_is_what_we_send() {
    let original = Reply::new(550, "5.1.1", "no such user").unwrap();
    let (mut pair, xid) = begin_reply("RCPT TO:<paul@old.example>", &original);
    let retry = SideEffect::RetryCommand {
        line: CommandLine::new("RCPT TO:<paul@new.example>").unwrap(),
        next_hop: Some("mx.new.example:25".into()),
    };
    let effects = vec![retry];
    may_replace(&Command::Rcpt, &original, &original, &effects).unwrap();
    pair.server.use_preserved(xid, 26..50, None).unwrap();
    end(&mut pair, xid, &AdaptedEnd { side_effects: effects, ..AdaptedEnd::default() });
    check(&pair, &examples()[8]);
}
