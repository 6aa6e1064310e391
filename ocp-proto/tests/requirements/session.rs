//! Connections, groups and queries (RFC 4037 sections 11.1 to 11.4 and 11.20 to 11.24).

use std::time::Instant;

use bytes::{Buf, Bytes};
use ocp_proto::wire::Value;
use ocp_proto::{
    AdaptedData, AdaptedEnd, AdaptedStart, Closed, Config, Connection, DataLabel, Event, Misuse,
    OcpResult, Offer, OriginalData, Role, Rule,
};

use crate::support::{
    GROUP, OPEN, Pair, answer, core_processor, events, feed, is_ce400, is_te400, processor_answer,
    server, service, take_text,
};

/// OCP-2.1-01, OCP-11.1-01, OCP-11.1-03, OCP-6.1-05, OCP-6.1-06
#[test]
fn cs_comes_first_and_once_and_an_offer_follows() {
    let mut pair = Pair::new();
    assert_eq!(pair.processor.create_group(Vec::new()).map(|g| g.number()), Ok(1), "for its sake");
    let group = ocp_proto::GroupId::new(1).unwrap();
    let early = pair.processor.start_transaction(group, pair.now);
    assert_eq!(early, Err(Misuse::OfferFirst));
    let mut pair = Pair::new();
    pair.processor.offer(Offer::default()).unwrap();
    pair.drive();
    assert_eq!(pair.sent[0], "CS;\r\nNO ();\r\n");
    assert_eq!(pair.sent[1], "CS;\r\nNR;\r\n");
    let (mut refusing, _) = server("");
    refusing.close(OcpResult::failure("too many connections"));
    assert_eq!(take_text(&mut refusing), "CE {400 \"20:too many connections\"};\r\n");
    let sent = server("CS;\r\nCS;\r\nNO ();\r\nCS;\r\n").1;
    assert_eq!(sent, "CS;\r\nNR;\r\n");
}

/// OCP-11.2-01, OCP-11.2-02, OCP-11.2-04
#[test]
fn ce_is_the_last_message_and_frees_everything() {
    let (mut server, _) = server(OPEN);
    let (seen, sent) = feed(&mut server, b"CE;\r\nPQ;\r\n", Instant::now());
    assert_eq!(sent, "");
    assert!(matches!(
        &seen[..],
        [Event::TransactionEnded { result, .. }, Event::Closed(Closed::ByPeer(_))] if result.code == 400
    ));
    assert_eq!((server.transactions(), server.is_closed()), (0, true));
    let (mut processor, _) = core_processor();
    processor.close(OcpResult::ok());
    assert_eq!(take_text(&mut processor), "CE;\r\n");
    processor.ping(None);
    assert_eq!(take_text(&mut processor), "");
}

/// OCP-2.5-01, OCP-11.2-03, OCP-4-02, OCP-10.10-05, OCP-10.10-06, OCP-10.10-07
#[test]
fn what_fails_is_destroyed_and_an_unknown_code_fails() {
    let (mut lost, _) = core_processor();
    lost.handle_end_of_input();
    let seen = events(&mut lost);
    assert!(matches!(
        &seen[..],
        [Event::TransactionEnded { result, .. }, Event::Closed(Closed::Lost { mid_message: false })]
            if result.code == 400
    ));
    for end in ["AME 1 {400};\r\n", "AME 1 {299};\r\n", "TE 1 {299};\r\n", "TE 1 {206};\r\n"] {
        let text = format!("AMS 1;\r\nDUM 1 0\r\n1:x\r\n;\r\n{end}");
        let (seen, _) = processor_answer(&text);
        let Some(Event::TransactionEnded { result, .. }) = seen.last() else { panic!("{seen:?}") };
        assert_eq!(result.code, 400, "{end}");
    }
    let (seen, _) = processor_answer("AMS 1;\r\nAME 1;\r\nTE 1;\r\n");
    let Some(Event::TransactionEnded { result, .. }) = seen.last() else { panic!("{seen:?}") };
    assert_eq!(*result, OcpResult::ok());
}

/// OCP-11.3-01, OCP-11.3-02, OCP-11.5-03
#[test]
fn a_group_outlives_its_transactions() {
    let (mut server, _) = server(GROUP);
    let now = Instant::now();
    for xid in 1..50 {
        let text = format!("TS {xid} 1;\r\nAMS {xid};\r\nTE {xid};\r\n");
        assert_eq!(feed(&mut server, text.as_bytes(), now).1, "");
    }
    assert_eq!(
        feed(&mut server, b"TS 50 1;\r\nAMS 50;\r\nPQ 50;\r\n", now).1,
        "PA 50\r\nOrg-Data: 0\r\n;\r\n"
    );
}

/// OCP-11.3-04, OCP-13-04, OCP-5-01
#[test]
fn a_group_that_is_not_created_ends_the_connection() {
    let now = Instant::now();
    let config = Config { groups: 1, ..Config::default() };
    let mut server = Connection::new(Role::Server, config, now);
    feed(&mut server, GROUP.as_bytes(), now);
    let (seen, sent) = feed(&mut server, b"SGC 2 ({\"1:a\"});\r\nPQ;\r\n", now);
    assert!(is_ce400(&sent), "{sent}");
    let Some(Event::Closed(Closed::Violation(violation))) = seen.last() else { panic!("{seen:?}") };
    assert_eq!(violation.rule, Rule::GroupLimit(1));
}

/// OCP-11.20-01, OCP-11.20-02, OCP-11.21-01, OCP-11.21-04
#[test]
fn a_query_is_answered_truthfully_and_changes_nothing() {
    let now = Instant::now();
    let config = Config { features: vec!["ocp://smtp/dialog".into()], ..Config::default() };
    let mut server = Connection::new(Role::Server, config, now);
    feed(&mut server, b"CS;\r\nNO ();\r\n", now);
    let asked = "AQ {\"17:ocp://smtp/dialog\"};\r\nAQ {\"1:x\"};\r\nDialog-Start 1;\r\nPQ;\r\n";
    let (seen, sent) = feed(&mut server, asked.as_bytes(), now);
    assert_eq!(sent, "AA true;\r\nAA false;\r\nPA;\r\n");
    assert_eq!(seen, [], "the feature is not in effect");
    let (mut processor, _) = core_processor();
    let feature = service("ocp://smtp/dialog");
    processor.query(feature.clone()).unwrap();
    assert_eq!(take_text(&mut processor), "AQ {\"17:ocp://smtp/dialog\"};\r\n");
    let (seen, _) = feed(&mut processor, b"AA true;\r\nAA false;\r\n", now);
    assert_eq!(seen, [Event::Ability { feature, supported: true }], "the second was not asked for");
    assert!(is_ce400(&answer("CS;\r\nNO ();\r\n", "AA;\r\n")));
}

/// OCP-11.23-01, OCP-11.23-02, OCP-11.23-04, OCP-11.23-05, OCP-11.23-06, OCP-11.24-01
#[test]
fn progress_is_told_of_open_messages() {
    let before = format!("{OPEN}DUM 1 0\r\n5:hello\r\n;\r\n");
    let sent = answer(
        &before,
        "PQ 1;\r\nPQ 999;\r\nAME 1;\r\nPQ 1;\r\nPR;\r\nPR 1\r\nOrg-Data: 5\r\n;\r\n",
    );
    assert_eq!(sent, "PA 1\r\nOrg-Data: 5\r\n;\r\nPA;\r\nPA 1;\r\n");
    let (seen, sent) = processor_answer("PA;\r\nPQ 1;\r\n");
    assert_eq!(seen, [Event::Progress { xid: None, original_octets: None }]);
    assert_eq!(sent, "PA 1\r\nOrg-Data: 10\r\n;\r\n");
}

/// OCP-11-06, OCP-11.6-01
#[test]
fn nothing_is_sent_for_a_transaction_that_has_ended() {
    let (mut processor, xid) = core_processor();
    feed(&mut processor, b"TE 1;\r\n", Instant::now());
    let none = Err(Misuse::UnknownTransaction(xid));
    assert_eq!(processor.start_core_original(xid), none);
    let data = OriginalData::default();
    assert_eq!(processor.send_original_data(xid, data, Bytes::new()), none);
    assert_eq!(processor.end_original(xid, OcpResult::ok()), none);
    assert_eq!(processor.stop_sending(xid), none);
    assert_eq!(processor.want_pause(xid, 0), none);
    assert_eq!(processor.want_more(xid, None), none);
    assert_eq!(processor.end_transaction(xid, &OcpResult::ok(), false).map(|_| ()), none);
    processor.report_progress(Some(xid));
    assert_eq!(take_text(&mut processor), "PR;\r\n");

    let (mut server, _) = server(&format!("{OPEN}TE 1;\r\n"));
    assert_eq!(server.start_adapted(xid, Vec::new(), &AdaptedStart::default()), none);
    assert_eq!(server.send_adapted_data(xid, AdaptedData::default(), Bytes::new()), none);
    assert_eq!(server.use_preserved_data(xid, 0..0, DataLabel::default()), none);
    assert_eq!(server.end_adapted(xid, &AdaptedEnd::default()), none);
    assert_eq!(server.end_adapted_early(xid, &AdaptedEnd::default()), none);
    assert_eq!(server.want_stop_receiving(xid, 0), none);
    assert_eq!(server.want_stop_sending(xid), none);
    assert_eq!(server.want_to_leave(xid, 0), none);
    assert_eq!(server.want_preserved(xid, 0, 0), none);
    assert_eq!(server.output().remaining(), 0);
}

/// OCP-2.6-02, OCP-10.7-01, OCP-10.8-01, OCP-13-01, OCP-11.1-06
#[test]
fn an_identifier_belongs_to_one_connection() {
    let (first, _) = server(OPEN);
    let sent = answer("CS;\r\nNO ();\r\n", "DUM 1 0\r\n1:a\r\n;\r\n");
    assert!(is_te400(&sent, 1), "{sent}");
    assert_eq!(first.transactions(), 1);
}

/// OCP-2.7-01
#[test]
fn whatever_stands_still_ends() {
    let (mut server, _) = server(OPEN);
    let xid = ocp_proto::Xid::new(1).unwrap();
    let start = Instant::now();
    // The server has paused the original: it does not wait for the processor.
    server.want_pause(xid, 0).unwrap();
    feed(&mut server, b"DPM 1;\r\n", start);
    let late = start + 2 * Config::default().transaction_timeout;
    feed(&mut server, b"PQ;\r\n", late);
    server.handle_timeout(late);
    assert_eq!(events(&mut server), []);
    // The processor has paused the server, and never asks for more.
    feed(&mut server, b"DWP 1 0;\r\n", late);
    let later = late + 2 * Config::default().transaction_timeout;
    feed(&mut server, b"PQ 1;\r\n", later);
    server.handle_timeout(later);
    let sent = take_text(&mut server);
    assert!(is_te400(&sent, 1), "{sent}");
}

/// OCP-10-01, OCP-5-06, OCP-5-07, OCP-10.5-01, OCP-11-03
#[test]
fn one_invalid_part_spoils_the_message() {
    let broken = "AMS 1;\r\nDUM 1 0\r\nModp: 101\r\n\r\n5:hello\r\n;\r\n";
    let (seen, sent) = processor_answer(broken);
    assert!(is_te400(&sent, 1), "{sent}");
    assert!(!seen.iter().any(|event| matches!(event, Event::Data { .. })), "{seen:?}");
    for octets in ["TE 1 200;\r\n", "DUM 1 0\r\nKept: {0 0}\r\nKept: {0 0}\r\n\r\n0:\r\n;\r\n"] {
        assert!(is_te400(&answer(OPEN, octets), 1), "{octets}");
    }
    for octets in
        ["NO ()\r\nOffer-Pending: yes\r\n;\r\n", "TS x 1;\r\n", "x-a\r\nA: 1\r\nA: 1\r\n;\r\n"]
    {
        assert!(is_ce400(&answer(OPEN, octets)), "{octets}");
    }
    assert_eq!(answer(OPEN, "DWM 1\r\nSize-Request: many\r\n;\r\nPQ;\r\n"), "PA;\r\n");
}

/// OCP-11-04, OCP-11-05, OCP-9-03, OCP-9-04, OCP-3.1-08, OCP-3.4-01
#[test]
fn what_is_valid_and_unknown_is_passed_over() {
    let name = "x".repeat(1_000);
    let unknown = format!(
        "x-new {{1\r\nA: (b)\r\n}}\r\nC: \"0:\"\r\n\r\n3:abc\r\n;\r\n{name} ((),{{}},({{\r\nA: ()\r\n}}));\r\n\
         DUY 1 0 5;\r\nDPI 1 0 0;\r\nPQ\r\n3:abc\r\n;\r\nTS 2 1 9;\r\nPQ 2;\r\n"
    );
    assert_eq!(answer(OPEN, &unknown), "PA;\r\nPA 2;\r\n");
    let (seen, sent) = processor_answer("TS 4 1;\r\nDSS 1;\r\nPQ;\r\n");
    assert_eq!((seen.len(), sent.as_str()), (0, "PA;\r\n"));
}

/// OCP-10.11-01, OCP-10.13-01
#[test]
fn members_of_a_service_reach_the_application() {
    let text = "CS;\r\nNO ();\r\nSGC 1 ({\"1:a\" x\r\nMode: fast\r\n});\r\n";
    let now = Instant::now();
    let mut server = Connection::new(Role::Server, Config::default(), now);
    let (seen, _) = feed(&mut server, text.as_bytes(), now);
    let Some(Event::GroupCreated { services, .. }) = seen.last() else { panic!("{seen:?}") };
    assert_eq!(services[0].members, [Value::atom("a"), Value::atom("x")]);
    assert_eq!(services[0].named.get("Mode"), Some(&Value::atom("fast")));
}
