//! Both roles of the connection: what a peer may do wrong, and what that ends.

#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing, clippy::expect_used)]

mod support;

use std::time::{Duration, Instant};

use ocp_proto::smtp::{Command, CommandProfile, DialogFacts, DialogFeature};
use ocp_proto::{
    Closed, Config, Connection, DialogId, Event, Misuse, OcpResult, Offer, OriginalStart, Response,
    Role, Rule, Scope, Xid,
};
use support::{Pair, events, feed, message_profile, service, take};

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
    let [Event::DialogStarted { .. }, Event::Refused(violation)] = &seen[..] else {
        panic!("{seen:?}")
    };
    assert_eq!(violation.scope, Scope::Dialog(DialogId::new(11).unwrap()));
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

/// Nothing takes effect before TE 200: if a server says nothing any more, another one may answer. What it
/// says wrong, others would say too.
#[test]
fn a_transaction_that_stands_still_may_be_tried_elsewhere() {
    let limits = Config::default();
    for (octets, expected) in [(&b""[..], true), (b"DUM 1 0\r\n\r\n1:x\r\n;\r\n", false)] {
        let (mut pair, xid) = Pair::message();
        let (mut seen, _) = feed(&mut pair.processor, octets, pair.now);
        if octets.is_empty() {
            pair.processor.handle_timeout(pair.now + limits.transaction_timeout);
            seen = events(&mut pair.processor);
        }
        let ended = seen.iter().find_map(|event| match event {
            Event::TransactionEnded { xid: ended, retry, .. } => Some((*ended, *retry)),
            _ => None,
        });
        assert_eq!(ended, Some((xid, expected)), "{seen:?}");
    }
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

/// Octets of a body may go where they belong without coming through the input; all else may not.
#[test]
fn a_body_may_be_read_straight_to_its_place() {
    let (mut pair, xid, _) = Pair::begun(&message_profile());
    pair.header(xid);
    pair.deliver_to_server();
    pair.body(xid, "Hello, world.");
    let sent = take(&mut pair.processor);
    let (head, rest) = sent.split_at(sent.windows(5).position(|five| five == b"Hello").unwrap());
    let (server, now) = (&mut pair.server, pair.now);
    assert_eq!(server.awaited_body(), None, "a head has to come first");
    assert_eq!(feed(server, head, now).0, []);
    assert_eq!(server.awaited_body(), Some((xid, 13)));
    server.handle_body(6, now);
    assert_eq!(server.awaited_body(), Some((xid, 7)));
    server.input().extend_from_slice(&rest[6..7]);
    assert_eq!(server.awaited_body(), None, "octets that have come are before them");
    let piece = events(server);
    assert!(matches!(&piece[..], [Event::Data { octets, .. }] if octets == " "), "{piece:?}");
    // More than the payload has left: the rest is none of it.
    server.handle_body(100, now);
    assert_eq!(server.awaited_body(), None);
    assert_eq!(&rest[13..], b"\r\n;\r\n");
    assert_eq!(feed(server, &rest[13..], now).0, []);
    assert_eq!(server.preserved(xid), 0..8 + 13);
}
