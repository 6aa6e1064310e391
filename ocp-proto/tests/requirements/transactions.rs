//! Transactions and their messages (RFC 4037 sections 11.5 to 11.8).

use std::time::Instant;

use bytes::Bytes;
use ocp_proto::{
    AdaptedData, AdaptedEnd, AdaptedStart, Config, Connection, Event, Misuse, OcpResult, Role,
    Rule, Xid,
};

use crate::support::{
    GROUP, OPEN, answer, core_processor, feed, is_te400, processor_answer, server, take_text,
};

fn xid(number: u32) -> Xid {
    Xid::new(number).unwrap()
}

/// OCP-4-01, OCP-4-03
#[test]
fn only_a_processor_starts_and_both_end() {
    let (mut server, _) = server(&format!("{GROUP}TS 1 1;\r\n"));
    let group = ocp_proto::GroupId::new(1).unwrap();
    let misuse = server.start_transaction(group, Instant::now());
    assert_eq!(misuse, Err(Misuse::Role(Role::Processor)));
    server.end_transaction(xid(1), &OcpResult::failure("no"), false).unwrap();
    assert_eq!(take_text(&mut server), "TE 1 {400 no};\r\n");
}

/// OCP-11.6-02, OCP-11.8-03
#[test]
fn an_end_is_the_next_message_for_the_transaction() {
    let (mut server, _) = server(OPEN);
    server.start_adapted(xid(1), Vec::new(), &AdaptedStart::default()).unwrap();
    server.end_adapted(xid(1), &AdaptedEnd::default()).unwrap();
    server.end_transaction(xid(1), &OcpResult::ok(), false).unwrap();
    assert_eq!(take_text(&mut server), "AMS 1;\r\nAME 1;\r\nTE 1;\r\n");
    let (mut processor, xid) = core_processor();
    processor.end_original(xid, OcpResult::ok()).unwrap();
    assert_eq!(take_text(&mut processor), "AME 1;\r\n");
    processor.end_transaction(xid, &OcpResult::failure("gone"), false).unwrap();
    assert_eq!(take_text(&mut processor), "TE 1 {400 gone};\r\n");
    assert_eq!(feed(&mut processor, b"AMS 1;\r\nPQ;\r\n", Instant::now()).1, "PA;\r\n");
}

/// OCP-11.7-01, OCP-11.8-01, OCP-2.4-01
#[test]
fn data_stands_between_ams_and_ame() {
    let begun = format!("{GROUP}TS 1 1;\r\n");
    assert!(is_te400(&answer(&begun, "DUM 1 0\r\n0:\r\n;\r\n"), 1));
    assert!(is_te400(&answer(OPEN, "AME 1;\r\nDUM 1 0\r\n1:a\r\n;\r\n"), 1));
    assert!(is_te400(&answer(OPEN, "AMS 1;\r\n"), 1));
    let (mut processor, xid) = core_processor();
    assert_eq!(processor.start_core_original(xid), Err(Rule::StartedTwice.into()));
}

/// OCP-11.7-02, OCP-11.8-04
#[test]
fn a_message_may_be_refused_before_ams() {
    let (seen, sent) = processor_answer("AME 1 {400 \"7:refused\"};\r\n");
    assert!(is_te400(&sent, 1), "{sent}");
    assert!(
        matches!(&seen[..], [Event::TransactionEnded { result, .. }] if result.reason() == "refused")
    );
    assert!(is_te400(&processor_answer("AME 1 {206};\r\n").1, 1));
}

/// OCP-11.7-03, OCP-11.7-05, OCP-9-02
#[test]
fn a_server_names_the_services_that_it_applies() {
    let (mut server, _) = server(&format!("{OPEN}AME 1;\r\n"));
    let services = vec![ocp_proto::wire::Atom::from_static(b"ocp://service/b")];
    server.start_adapted(xid(1), services.clone(), &AdaptedStart::default()).unwrap();
    let sent = take_text(&mut server);
    assert_eq!(sent, "AMS 1\r\nServices: ({\"15:ocp://service/b\"})\r\n;\r\n");
    let (seen, _) = processor_answer(&sent);
    assert_eq!(seen, [Event::AdaptedStarted { xid: xid(1), services, start: None }]);
    let (seen, _) = processor_answer("AMS 1\r\nServices: ()\r\n;\r\n");
    assert_eq!(seen, [Event::AdaptedStarted { xid: xid(1), services: Vec::new(), start: None }]);
}

/// OCP-13-05, OCP-13-06
#[test]
fn transactions_are_limited_on_both_sides() {
    let now = Instant::now();
    let limited = || Config { transactions: 1, ..Config::default() };
    let mut server = Connection::new(Role::Server, limited(), now);
    let (_, sent) = feed(&mut server, format!("{GROUP}TS 1 1;\r\nTS 2 1;\r\n").as_bytes(), now);
    assert!(is_te400(sent.strip_prefix("CS;\r\nNR;\r\n").unwrap(), 2), "{sent}");
    assert!(server.has_transaction(xid(1)));
    let mut processor = Connection::new(Role::Processor, limited(), now);
    processor.offer(ocp_proto::Offer::default()).unwrap();
    feed(&mut processor, b"CS;\r\nNR;\r\n", now);
    let group = processor.create_group(Vec::new()).unwrap();
    processor.start_transaction(group, now).unwrap();
    assert_eq!(processor.start_transaction(group, now), Err(Misuse::Limit(1)));
}

/// OCP-2.6-03, OCP-3.1-24, OCP-1.3-02
#[test]
fn messages_of_transactions_do_not_mix() {
    let (mut server, _) = server(&format!("{OPEN}TS 2 1;\r\nAMS 2;\r\n"));
    let octets = Bytes::from("\r\n;\r\nCS;\r\n".repeat(1_000));
    for number in [1, 2] {
        server.start_adapted(xid(number), Vec::new(), &AdaptedStart::default()).unwrap();
    }
    for number in [1, 2, 1] {
        server.send_adapted_data(xid(number), AdaptedData::default(), octets.clone()).unwrap();
    }
    let seen = crate::support::comparable(take_text(&mut server).as_bytes());
    let payload = format!("{octets:?}");
    let payloads: Vec<bool> = seen.iter().map(|item| *item == payload).collect();
    assert_eq!(payloads, [false, false, false, true, false, true, false, true]);
    let (seen, _) = processor_answer("AMS 1;\r\nDUM 1 0\r\n10:;\r\nCS;\r\n\"{\r\n;\r\n");
    assert!(
        matches!(&seen[1], Event::Data { octets, .. } if octets == ";\r\nCS;\r\n\"{"),
        "{seen:?}"
    );
    assert_eq!(answer(OPEN, "AME 1;\r\nPQ;\r\n"), "PA;\r\n");
}
