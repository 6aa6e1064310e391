//! DUM, DUY, DPI and what is kept (RFC 4037 sections 7 and 11.9 to 11.11).

use std::time::Instant;

use bytes::Bytes;
use ocp_proto::message::Kept;
use ocp_proto::{
    AdaptedData, AdaptedStart, DataLabel, Event, MAXIMUM, Misuse, OriginalData, Rule, Xid,
};

use crate::support::{
    OPEN, answer, core_processor, feed, is_te400, processor_answer, server, take_text,
};

fn xid() -> Xid {
    Xid::new(1).unwrap()
}

/// A server whose transaction has received `0123456789`, kept as said, and has begun to answer.
fn begun(kept: &str) -> ocp_proto::Connection {
    let text = format!("{OPEN}DUM 1 0\r\n{kept}10:0123456789\r\n;\r\n");
    let (mut server, _) = server(&text);
    server.start_adapted(xid(), Vec::new(), &AdaptedStart::default()).unwrap();
    take_text(&mut server);
    server
}

fn adapted(as_is: Option<u32>, modp: Option<u32>) -> AdaptedData {
    AdaptedData { as_is, modp, ..AdaptedData::default() }
}

/// OCP-11.9-03, OCP-11.9-04, OCP-11.9-05, OCP-3.1-17
#[test]
fn dum_has_a_payload_that_may_be_empty() {
    assert!(is_te400(&answer(OPEN, "DUM 1 0;\r\n"), 1));
    let sent = answer(OPEN, "DUM 1 0\r\n0:\r\n;\r\nDUM 1 0\r\n2:ab\r\n;\r\nPQ 1;\r\n");
    assert_eq!(sent, "PA 1\r\nOrg-Data: 2\r\n;\r\n");
    let mut server = begun("");
    server.send_adapted_data(xid(), AdaptedData::default(), Bytes::new()).unwrap();
    assert_eq!(take_text(&mut server), "DUM 1 0\r\n0:\r\n;\r\n");
}

/// OCP-10.3-02, OCP-10.4-01, OCP-3.1-16
#[test]
fn no_message_is_larger_than_ocp_can_count() {
    let text = format!("DUM 1 0\r\n{MAXIMUM}:");
    let (mut server, _) = server(OPEN);
    feed(&mut server, text.as_bytes(), Instant::now());
    assert!(is_te400(&answer(OPEN, "DUM 1 01\r\n0:\r\n;\r\n"), 1));
    assert!(is_te400(&answer(OPEN, "DUM 1 2147483648\r\n0:\r\n;\r\n"), 1));
    let (_, sent) = processor_answer("AMS 1;\r\nDUM 1 0\r\n2147483648:");
    assert!(sent.contains("CE {400"), "{sent}");
}

/// OCP-11.9-06, OCP-11.9-08, OCP-7-01, OCP-7-02, OCP-11.11-08
#[test]
fn preservation_is_optional_and_may_run_ahead() {
    assert_eq!(answer(OPEN, "DUM 1 0\r\nKept: {0 1000}\r\n\r\n0:\r\n;\r\nPQ;\r\n"), "PA;\r\n");
    let mut server = begun("Kept: {0 10}\r\n\r\n");
    server.use_preserved_data(xid(), 0..10, DataLabel::default()).unwrap();
    assert_eq!(take_text(&mut server), "DUY 1 0 10;\r\n");
    let mut server = begun("");
    let misuse = server.use_preserved_data(xid(), 0..10, DataLabel::default());
    assert_eq!(misuse, Err(Rule::NotKept.into()));
    assert_eq!(processor_answer("DPI 1 0 0;\r\nPQ;\r\n").1, "PA;\r\n");
}

/// OCP-11.9-09
#[test]
fn a_promise_broken_before_its_use_is_not_relied_on() {
    let mut server = begun("Kept: {0 10}\r\n\r\n");
    feed(&mut server, b"DUM 1 10\r\nKept: {5 5}\r\n\r\n0:\r\n;\r\n", Instant::now());
    assert_eq!(server.preserved(xid()), 0..0);
    let misuse = server.use_preserved_data(xid(), 5..10, DataLabel::default());
    assert_eq!(misuse, Err(Rule::NotKept.into()));
    // And a processor of ours does not break its own.
    let (mut processor, xid) = core_processor();
    let kept = |offset, size| OriginalData { part: None, kept: Some(Kept { offset, size }) };
    let misuse = processor.send_original_data(xid, kept(5, 5), Bytes::new());
    assert_eq!(misuse, Err(Rule::KeptWithdrawn.into()));
    processor.send_original_data(xid, kept(0, 50), Bytes::new()).unwrap();
    assert_eq!(take_text(&mut processor), "DUM 1 10\r\nKept: {0 50}\r\n\r\n0:\r\n;\r\n");
}

/// OCP-11.9-11, OCP-11.9-12, OCP-10.5-02, OCP-10.9-01
#[test]
fn modp_is_said_once_and_zero_is_a_promise() {
    let mut server = begun("");
    let mut send = |as_is, modp, octets: &'static str| {
        let sent = server.send_adapted_data(xid(), adapted(as_is, modp), octets);
        sent.map(|()| take_text(&mut server))
    };
    let first = send(Some(0), Some(0), "01").unwrap();
    assert_eq!(first, "DUM 1 0\r\nAs-is: 0\r\nModp: 0\r\n\r\n2:01\r\n;\r\n");
    let again = send(Some(2), Some(0), "23").unwrap();
    assert_eq!(again, "DUM 1 2\r\nAs-is: 2\r\n\r\n2:23\r\n;\r\n");
    assert_eq!(send(None, None, "xx"), Err(Misuse::Rule(Rule::ModpBroken)));
    let mut server = begun("");
    server.send_adapted_data(xid(), adapted(None, Some(100)), "xx").unwrap();
    let misuse = server.send_adapted_data(xid(), adapted(Some(2), Some(0)), "23");
    assert_eq!(misuse, Err(Rule::ModpBroken.into()), "octets have changed before");
    let (seen, _) = processor_answer("AMS 1;\r\nDUM 1 0\r\nModp: 75\r\n\r\n1:x\r\n;\r\n");
    let expected = Event::ModificationExpected { xid: xid(), id: None, percent: 75 };
    assert_eq!(seen[1], expected);
}

/// OCP-11.9-14, OCP-11.9-15
#[test]
fn as_is_names_what_was_received_and_nonsense_is_ignored() {
    let mut server = begun("");
    server.send_adapted_data(xid(), adapted(Some(8), None), "89x").unwrap();
    assert_eq!(take_text(&mut server), "DUM 1 0\r\n3:89x\r\n;\r\n");
    for as_is in ["999999", "(a)", "-1"] {
        let text = format!("AMS 1;\r\nDUM 1 0\r\nAs-is: {as_is}\r\n\r\n5:hello\r\n;\r\nPQ;\r\n");
        let (seen, sent) = processor_answer(&text);
        assert_eq!(sent, "PA;\r\n", "{as_is}");
        assert!(matches!(&seen[1], Event::Data { octets, .. } if octets == "hello"), "{seen:?}");
    }
}

/// OCP-11.9-16, OCP-11.10-02, OCP-7-04, OCP-11.8-02, OCP-11.12-03
#[test]
fn nothing_but_the_end_releases_what_is_kept() {
    let (mut processor, xid) = core_processor();
    let now = Instant::now();
    let (seen, _) = feed(&mut processor, b"AMS 1;\r\nDWSR 1 10;\r\n", now);
    assert_eq!(seen[1], Event::StopReceivingWanted { xid, size: 10 });
    processor.end_original(xid, ocp_proto::OcpResult::partial()).unwrap();
    let octets =
        b"DUM 1 0\r\n10:0123456789\r\n;\r\nDUY 1 0 10;\r\nDUY 1 0 10;\r\nAME 1;\r\nTE 1;\r\n";
    let (seen, _) = feed(&mut processor, octets, now);
    let preserved = Event::Preserved { xid, part: None, range: 0..10 };
    assert_eq!(seen.iter().filter(|event| **event == preserved).count(), 2);
    let Some(Event::TransactionEnded { result, .. }) = seen.last() else { panic!("{seen:?}") };
    assert!(result.is_success());
    // Behind the end of the message there is nothing to keep.
    assert!(is_te400(&processor_answer("AMS 1;\r\nDUY 1 0 11;\r\n").1, 1));
}

/// OCP-11.11-01, OCP-11.11-02, OCP-11.11-03, OCP-11.11-04, OCP-11.11-05, OCP-11.11-06, OCP-7-06
#[test]
fn interest_shrinks_and_frees_what_it_leaves() {
    let mut server = begun("Kept: {0 10}\r\n\r\n");
    server.want_preserved(xid(), 0, MAXIMUM).unwrap();
    server.want_preserved(xid(), 4, MAXIMUM).unwrap();
    assert_eq!(server.preserved(xid()), 4..10);
    assert_eq!(server.want_preserved(xid(), 3, 2), Err(Rule::InterestGrows.into()));
    let misuse = server.use_preserved_data(xid(), 0..5, DataLabel::default());
    assert_eq!(misuse, Err(Rule::Disposable.into()));
    let sent = take_text(&mut server);
    assert_eq!(sent, "DPI 1 0 2147483647;\r\nDPI 1 4 2147483647;\r\n");
    let (mut processor, xid) = core_processor();
    let (seen, answered) = feed(&mut processor, sent.as_bytes(), Instant::now());
    assert_eq!(answered, "");
    assert_eq!(seen[1], Event::PreservationInterest { xid, range: 4..MAXIMUM });
    let kept = Some(Kept { offset: 4, size: 20 });
    processor.send_original_data(xid, OriginalData { part: None, kept }, Bytes::new()).unwrap();
    take_text(&mut processor);
    assert_eq!(feed(&mut processor, b"DPI 1 129 2147483647;\r\n", Instant::now()).1, "");
}
