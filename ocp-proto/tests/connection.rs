//! Both roles of the connection: the profile's examples, and what a peer may do wrong.

#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing, clippy::expect_used)]

mod support;

use std::time::{Duration, Instant};

use bytes::Bytes;
use ocp_proto::smtp::{
    Command, CommandProfile, DialogFacts, DialogFeature, EffectName, FailurePolicy, Part, Reply,
    Verdict,
};
use ocp_proto::{
    AdaptedEnd, AdaptedStart, Closed, Config, Connection, Event, Misuse, OcpResult, Offer,
    OriginalStart, Response, Role, Rule, Scope, Xid,
};
use support::{Pair, events, feed, service, take};

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
            Event::DialogStarted { dialog, facts },
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
    pair.processor.send_original(xid, Part::MessageHeader, header[..].into(), true).unwrap();
    pair.processor.send_original(xid, Part::MessageBody, body[..].into(), true).unwrap();
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

/// What a hostile server says for transaction 1 of a message with 8 + 4 octets, and the rule that it
/// breaks.
#[test]
fn a_hostile_server_ends_its_transaction_only() {
    let cases: [(&str, Rule); 12] = [
        ("DUM 1 0\r\nAM-Part: reply\r\n\r\n1:x\r\n;\r\n", Rule::NotStarted("DUM")),
        ("AMS 1;\r\nAMS 1;\r\n", Rule::StartedTwice),
        (
            "AMS 1;\r\nDUM 1 1\r\nAM-Part: reply\r\n\r\n1:x\r\n;\r\n",
            Rule::Offset { expected: 0, found: 1 },
        ),
        ("AMS 1;\r\nDUM 1 0\r\n1:x\r\n;\r\n", Rule::PartMissing),
        ("AMS 1;\r\nDUM 1 0\r\nAM-Part: command\r\n\r\n1:x\r\n;\r\n", Rule::PartOrder("command")),
        ("AMS 1;\r\nDUY 1 8 4;\r\nDUY 1 0 8;\r\n", Rule::PartOrder("message-header")),
        (
            "AMS 1;\r\nDUY 1 8 4;\r\nDUM 1 4\r\nAM-Part: reply\r\n\r\n1:x\r\n;\r\n",
            Rule::PartOrder("reply"),
        ),
        ("AMS 1;\r\nDUY 1 8 5;\r\n", Rule::NotKept),
        ("AMS 1;\r\nDPI 1 8 4;\r\nDUY 1 0 8;\r\n", Rule::Disposable),
        ("AMS 1;\r\nAME 1 {206};\r\n", Rule::EarlyEnd),
        ("AME 1;\r\n", Rule::NotStarted("AME")),
        (
            "AMS 1;\r\nAME 1\r\nSide-Effects: ({discard \"1:x\"})\r\n;\r\n",
            Rule::NotNegotiated("discard".into()),
        ),
    ];
    for (octets, rule) in cases {
        let (mut pair, xid) = Pair::message();
        let (seen, sent) = feed(&mut pair.processor, octets.as_bytes(), pair.now);
        let Some(Event::TransactionEnded { xid: ended, result, .. }) = seen.last() else {
            panic!("{octets}: {seen:?}");
        };
        assert_eq!((*ended, result.reason()), (xid, rule.to_string()), "{octets}");
        assert!(sent.starts_with("TE 1 {400 "), "{octets}: {sent}");
        // The connection lives, and late messages for the transaction are dropped.
        let (seen, sent) = feed(&mut pair.processor, b"AME 1;\r\nPQ;\r\n", pair.now);
        assert_eq!((seen.len(), sent.as_str()), (0, "PA;\r\n"), "{octets}");
    }
}

#[test]
fn a_success_without_the_adapted_message_is_a_failure() {
    for octets in ["TE 1;\r\n", "AMS 1;\r\nTE 1;\r\n", "TE 1 {206};\r\n", "AME 1 {400};\r\n"] {
        let (mut pair, _) = Pair::message();
        let (seen, _) = feed(&mut pair.processor, octets.as_bytes(), pair.now);
        assert!(
            matches!(seen.last(), Some(Event::TransactionEnded { result, .. }) if result.code == 400),
            "{octets}: {seen:?}"
        );
    }
}

#[test]
fn choosing_what_was_not_offered_ends_the_connection() {
    let mut pair = Pair::new();
    let dialogs = DialogFeature { version: 1 }.to_structure();
    pair.negotiate(dialogs.clone(), dialogs, None);
    let group = pair.processor.create_group(vec![service("ocp://service/x")]).unwrap();
    let offer = CommandProfile { commands: vec![Command::Mail], ..CommandProfile::default() };
    let features = vec![offer.to_structure()];
    pair.processor.offer(Offer { features, group: Some(group), pending: false }).unwrap();
    let answer = b"NR {\"18:ocp://smtp/command\"\r\nCommands: (MESSAGE)\r\n}\r\nSG: 1\r\n;\r\n";
    let (seen, sent) = feed(&mut pair.processor, answer, pair.now);
    let Some(Event::Closed(Closed::Violation(violation))) = seen.last() else { panic!("{seen:?}") };
    assert_eq!(
        (violation.scope, &violation.rule),
        (Scope::Connection, &Rule::BeyondOffer("Commands"))
    );
    assert!(sent.contains("CE {400 "), "{sent}");
}

#[test]
fn one_command_of_a_dialog_is_open_at_a_time() {
    let profile = CommandProfile {
        commands: vec![Command::Mail, Command::Helo],
        observed: vec![Command::Helo],
        ..CommandProfile::default()
    };
    let (mut pair, group) = Pair::negotiated(&profile, &profile);
    let dialog = pair.processor.start_dialog(&DialogFacts::default()).unwrap();
    let mut start = |command| {
        let xid = pair.processor.start_transaction(group, pair.now).unwrap();
        (xid, pair.processor.start_original(xid, &OriginalStart::new(dialog, command)))
    };
    assert_eq!(start(Command::Helo).1, Ok(()));
    let (first, result) = start(Command::Mail);
    assert_eq!(result, Ok(()));
    assert_eq!(start(Command::Mail).1, Err(Misuse::Rule(Rule::DialogBusy)));
    pair.processor.end_transaction(first, &OcpResult::failure("no"), false).unwrap();
    let xid = pair.processor.start_transaction(group, pair.now).unwrap();
    let start = OriginalStart::new(dialog, Command::Mail);
    assert_eq!(pair.processor.start_original(xid, &start), Ok(()));

    // A server sees the same: the second one is refused, the first goes on.
    let mut pair = Pair::negotiated(&profile, &profile).0;
    let now = pair.now;
    let _ = pair.deliver_to_server();
    let octets = "Dialog-Start 1;\r\nTS 1 1;\r\nAMS 1\r\nDialog: 1\r\nCommand: MAIL\r\n;\r\n\
                  TS 2 1;\r\nAMS 2\r\nDialog: 1\r\nCommand: MAIL\r\n;\r\n";
    let (seen, sent) = feed(&mut pair.server, octets.as_bytes(), now);
    assert!(sent.starts_with("TE 2 {400 "), "{sent}");
    assert!(matches!(seen.last(), Some(Event::TransactionEnded { xid, .. }) if xid.number() == 2));
    assert!(pair.server.has_transaction(Xid::new(1).unwrap()));
}

#[test]
fn dialogs_end_alone_with_their_transactions() {
    let (mut pair, _) = Pair::message();
    let now = pair.now;
    let (seen, sent) = feed(
        &mut pair.server,
        b"Dialog-Start 9;\r\nDialog-Update 7;\r\nDialog-Update 11;\r\n",
        now,
    );
    assert_eq!(seen.len(), 1, "{seen:?}");
    assert!(sent.starts_with("Dialog-End 11 {400 ") && !sent.contains("Dialog-End 7"), "{sent}");
    let (seen, _) = feed(&mut pair.server, b"Dialog-End 1;\r\nPQ;\r\n", now);
    assert!(
        matches!(
            &seen[..],
            [Event::TransactionEnded { result, .. }, Event::DialogEnded { .. }] if result.code == 400
        ),
        "{seen:?}"
    );
    let (_, sent) = feed(&mut pair.server, b"Dialog-Start 9;\r\n", now);
    assert!(sent.starts_with("Dialog-End 9 {400 "), "{sent}");
}

#[test]
fn nothing_waits_for_ever() {
    let limits = Config::default();
    let start = Instant::now();
    // (a) No CS, or no offer after it.
    for octets in ["", "CS;\r\n"] {
        let mut server = Connection::new(Role::Server, limits.clone(), start);
        feed(&mut server, octets.as_bytes(), start);
        assert_eq!(server.poll_timeout(), Some(start + limits.handshake_timeout));
        server.handle_timeout(start + limits.handshake_timeout);
        assert!(matches!(
            &events(&mut server)[..],
            [.., Event::Closed(Closed::Violation(v))] if v.rule == Rule::Timeout("no CS and no offer came")
        ));
    }
    // (b) A transaction that stands still ends alone; PQ is no progress.
    let mut server = Connection::new(Role::Server, limits.clone(), start);
    let begin = "CS;\r\nNO ();\r\nSGC 1 ({\"1:a\"});\r\nTS 1 1;\r\nAMS 1;\r\n";
    feed(&mut server, begin.as_bytes(), start);
    let later = start + limits.transaction_timeout;
    feed(&mut server, b"PQ 1;\r\n", later - Duration::from_secs(1));
    server.handle_timeout(later);
    let seen = events(&mut server);
    assert!(matches!(&seen[..], [Event::TransactionEnded { .. }]), "{seen:?}");
    // (c) A silent peer is asked, then given up.
    let asked = later - Duration::from_secs(1) + limits.idle_timeout;
    take(&mut server);
    server.handle_timeout(asked);
    assert_eq!(take(&mut server), "PQ;\r\n");
    assert_eq!(server.poll_timeout(), Some(asked + limits.ping_timeout));
    server.handle_timeout(asked + limits.ping_timeout);
    assert!(matches!(
        &events(&mut server)[..],
        [Event::Closed(Closed::Violation(v))] if v.rule == Rule::Timeout("PQ was not answered")
    ));
    // (d) An unanswered offer.
    let mut processor = Connection::new(Role::Processor, limits.clone(), start);
    feed(&mut processor, b"CS;\r\n", start);
    processor.offer(Offer::default()).unwrap();
    processor.handle_timeout(start + limits.negotiation_timeout);
    assert!(matches!(
        &events(&mut processor)[..],
        [Event::Closed(Closed::Violation(v))] if v.rule == Rule::Timeout("the offer was not answered")
    ));
}

#[test]
fn a_lost_connection_fails_what_was_open() {
    let (mut pair, xid) = Pair::message();
    pair.processor.input().extend_from_slice(b"AMS 1;\r\nDUM 1 0\r\n");
    pair.processor.handle_end_of_input();
    let seen = events(&mut pair.processor);
    assert!(
        matches!(
            &seen[..],
            [
                Event::AdaptedStarted { .. },
                Event::TransactionEnded { xid: ended, result, .. },
                Event::Closed(Closed::Lost { mid_message: true }),
            ] if *ended == xid && result.code == 400
        ),
        "{seen:?}"
    );
}

#[test]
fn limits_hit_only_what_exceeds_them() {
    let now = Instant::now();
    let config = Config { transactions: 1, dialogs: 1, groups: 1, ..Config::default() };
    let mut server = Connection::new(Role::Server, config, now);
    let begin = "CS;\r\nNO ();\r\nSGC 1 ({\"1:a\"});\r\nTS 1 1;\r\nTS 2 1;\r\n";
    let (_, sent) = feed(&mut server, begin.as_bytes(), now);
    assert!(
        sent.contains("TE 2 {400 \"36:more than 1 transactions at a time\"}")
            || sent.contains("TE 2 {400 "),
        "{sent}"
    );
    assert!(server.has_transaction(Xid::new(1).unwrap()));
    let (seen, _) = feed(&mut server, b"SGC 2 ({\"1:a\"});\r\n", now);
    assert!(matches!(
        seen.last(),
        Some(Event::Closed(Closed::Violation(v))) if v.rule == Rule::GroupLimit(1)
    ));
}

#[test]
fn a_message_with_a_nesting_bomb_is_refused_early() {
    let now = Instant::now();
    let mut server = Connection::new(Role::Server, Config::default(), now);
    feed(&mut server, b"CS;\r\nNO ();\r\n", now);
    let (seen, sent) = feed(&mut server, format!("X {}", "(".repeat(100_000)).as_bytes(), now);
    assert!(sent.contains("fewer nested values"), "{sent}");
    assert!(matches!(seen.last(), Some(Event::Closed(Closed::Violation(_)))));
}

#[test]
fn nothing_is_said_after_ce() {
    let now = Instant::now();
    let mut server = Connection::new(Role::Server, Config::default(), now);
    server.input().extend_from_slice(b"CS;\r\nNO ();\r\n");
    server.handle_input(now);
    assert_eq!(server.poll_event(), Some(Event::Started));
    assert!(matches!(server.poll_event(), Some(Event::Offered(_))));
    server.close(OcpResult::ok());
    assert_eq!(server.respond(Response::default()), Err(Misuse::Over));
    assert_eq!(events(&mut server), [Event::Closed(Closed::ByUs)]);
    assert_eq!(take(&mut server), "CS;\r\nCE;\r\n");
}
