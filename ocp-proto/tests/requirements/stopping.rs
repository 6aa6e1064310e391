//! Premature termination (RFC 4037 sections 8 and 11.12 to 11.14).

use std::time::Instant;

use bytes::Bytes;
use ocp_proto::smtp::{CommandProfile, Part};
use ocp_proto::{AdaptedData, AdaptedEnd, AdaptedStart, Event, OcpResult, OriginalData, Rule, Xid};

use crate::support::{
    OPEN, Pair, core_processor, events, feed, is_te400, message_profile, processor_answer, server,
    take_text,
};

fn xid() -> Xid {
    Xid::new(1).unwrap()
}

/// OCP-11.12-01, OCP-11.12-02, OCP-8.1-01, OCP-10.3-01
#[test]
fn a_processor_ends_early_once_the_wanted_octets_are_sent() {
    let (mut processor, xid) = core_processor();
    let now = Instant::now();
    let (seen, _) = feed(&mut processor, b"DWSR 1 12;\r\n", now);
    assert_eq!(seen, [Event::StopReceivingWanted { xid, size: 12 }]);
    assert_eq!(processor.wanted_original(xid), Some(12));
    let misuse = processor.end_original(xid, OcpResult::partial());
    assert_eq!(misuse, Err(Rule::PartialTooEarly(12).into()));
    processor.send_original_data(xid, OriginalData::default(), "abc").unwrap();
    processor.end_original(xid, OcpResult::partial()).unwrap();
    assert_eq!(take_text(&mut processor), "DUM 1 10\r\n3:abc\r\n;\r\nAME 1 {206};\r\n");
    assert!(is_te400(&processor_answer("DWSR 1 -1;\r\n").1, 1));
}

/// OCP-8.1-02, OCP-8.1-03
#[test]
fn the_adapted_message_is_whole_after_an_early_end_of_the_original() {
    let (mut server, _) = server(OPEN);
    let now = Instant::now();
    let (seen, _) = feed(&mut server, b"DUM 1 0\r\n2:ab\r\n;\r\nAME 1 {206};\r\n", now);
    assert_eq!(
        seen.last(),
        Some(&Event::OriginalEnded { xid: xid(), result: OcpResult::partial() })
    );
    assert_eq!(server.want_stop_sending(xid()), Err(Rule::NoEarlyEnd("DWSS").into()));
    server.start_adapted(xid(), Vec::new(), &AdaptedStart::default()).unwrap();
    server.send_adapted_data(xid(), AdaptedData::default(), "whole").unwrap();
    server.end_adapted(xid(), &AdaptedEnd::default()).unwrap();
    let (mut processor, xid) = core_processor();
    processor.end_original(xid, OcpResult::partial()).unwrap();
    assert_eq!(feed(&mut processor, b"DWSS 1;\r\n", now).0, [], "refused by not answering");
    assert_eq!(processor.stop_sending(xid), Err(Rule::NoEarlyEnd("DSS").into()));
}

/// OCP-8-01, OCP-11.13-03
#[test]
fn an_early_end_without_dss_fails_the_transaction() {
    for octets in ["AMS 1;\r\nAME 1 {206};\r\n", "AMS 1;\r\nDWSS 1;\r\nAME 1 {206};\r\n"] {
        let (seen, sent) = processor_answer(octets);
        assert!(is_te400(&sent, 1), "{sent}");
        let Some(Event::TransactionEnded { result, .. }) = seen.last() else { panic!("{seen:?}") };
        assert_eq!(result.reason(), Rule::EarlyEnd.to_string());
    }
}

/// OCP-11.13-01, OCP-11.13-02, OCP-8.2-01
#[test]
fn a_server_goes_on_until_dss_comes() {
    let (mut server, _) = server(OPEN);
    server.start_adapted(xid(), Vec::new(), &AdaptedStart::default()).unwrap();
    server.want_stop_sending(xid()).unwrap();
    let early = server.end_adapted_early(xid(), &AdaptedEnd::default());
    assert_eq!(early, Err(Rule::EarlyEnd.into()));
    server.send_adapted_data(xid(), AdaptedData::default(), "more").unwrap();
    server.end_adapted(xid(), &AdaptedEnd::default()).unwrap();
    let sent = take_text(&mut server);
    assert_eq!(sent, "AMS 1;\r\nDWSS 1;\r\nDUM 1 0\r\n4:more\r\n;\r\nAME 1;\r\n");
    assert_eq!(feed(&mut server, b"DSS 1;\r\nPQ;\r\n", Instant::now()).1, "PA;\r\n", "too late");
}

/// OCP-11.14-01, OCP-11.14-03
#[test]
fn dss_is_never_ignored() {
    let now = Instant::now();
    let (mut asked, _) = server(OPEN);
    asked.start_adapted(xid(), Vec::new(), &AdaptedStart::default()).unwrap();
    asked.want_stop_sending(xid()).unwrap();
    take_text(&mut asked);
    // The answer precedes whatever follows.
    assert_eq!(feed(&mut asked, b"DSS 1;\r\nPQ;\r\n", now).1, "AME 1 {206};\r\nPA;\r\n");
    // The application may say more with it, before it asks for the next event.
    let (mut asked, _) = server(OPEN);
    asked.start_adapted(xid(), Vec::new(), &AdaptedStart::default()).unwrap();
    asked.want_stop_sending(xid()).unwrap();
    take_text(&mut asked);
    asked.input().extend_from_slice(b"DUM 1 0\r\n2:ab\r\n;\r\nDSS 1;\r\nPQ;\r\n");
    asked.handle_input(now);
    while let Some(event) = asked.poll_event() {
        if event == (Event::StopSending { xid: xid(), octets: 2 }) {
            asked.send_adapted_data(xid(), AdaptedData::default(), "AB").unwrap();
            asked.end_adapted_early(xid(), &AdaptedEnd::default()).unwrap();
        }
    }
    assert_eq!(take_text(&mut asked), "DUM 1 0\r\n2:AB\r\n;\r\nAME 1 {206};\r\nPA;\r\n");
    let (mut unasked, _) = server(OPEN);
    assert!(is_te400(&feed(&mut unasked, b"DSS 1;\r\n", now).1, 1));
}

/// OCP-8.3-01, OCP-8.3-02, OCP-11.13-04, OCP-11.13-05
#[test]
fn dss_comes_before_the_early_end_of_the_original() {
    let (mut server, _) = server(OPEN);
    server.want_to_leave(xid(), 0).unwrap();
    let wish = take_text(&mut server);
    assert_eq!(wish, "DWSS 1;\r\nDWSR 1 0;\r\n");
    let (mut processor, xid) = core_processor();
    let (seen, _) = feed(&mut processor, wish.as_bytes(), Instant::now());
    let wanted = [Event::StopSendingWanted { xid }, Event::StopReceivingWanted { xid, size: 0 }];
    assert_eq!(seen, wanted);
    let early = processor.end_original(xid, OcpResult::partial());
    assert_eq!(early, Err(Rule::PartialBeforeStop.into()));
    processor.stop_sending(xid).unwrap();
    processor.end_original(xid, OcpResult::partial()).unwrap();
    assert_eq!(take_text(&mut processor), "DSS 1;\r\nAME 1 {206};\r\n");
}

/// OCP-11.14-04, OCP-8.2-02, OCP-8.2-03, OCP-8.2-04
#[test]
fn the_message_is_whole_wherever_the_server_leaves() {
    const BODY: &str = "the body of the mail";
    for split in 1..BODY.len() {
        let (mut pair, xid, _) = Pair::begun(&message_profile());
        pair.header(xid);
        pair.body(xid, &BODY[..split]);
        pair.deliver_to_server();
        pair.server.start_adapted(xid, Vec::new(), &AdaptedStart::default()).unwrap();
        let mark = Bytes::from_static(b"X: y\r\n");
        pair.server.send_adapted(xid, Part::MessageHeader, mark, None).unwrap();
        pair.server.want_stop_sending(xid).unwrap();
        let wish = pair.deliver_to_processor();
        assert_eq!(wish.last(), Some(&Event::StopSendingWanted { xid }));
        pair.processor.stop_sending(xid).unwrap();
        let from = pair.processor.rest_from(xid).unwrap();
        // It goes on sending, keeps a copy, and ends as it would have.
        pair.body(xid, &BODY[split..]);
        pair.processor.end_original(xid, OcpResult::ok()).unwrap();
        pair.server.input().extend_from_slice(&crate::support::take(&mut pair.processor));
        pair.server.handle_input(pair.now);
        while let Some(event) = pair.server.poll_event() {
            if let Event::StopSending { xid, octets } = event {
                pair.server.use_preserved(xid, 0..octets, None).unwrap();
                pair.server.end_adapted_early(xid, &AdaptedEnd::default()).unwrap();
            }
        }
        pair.server.end_transaction(xid, &OcpResult::ok(), false).unwrap();
        let seen = pair.deliver_to_processor();
        let original = format!("A: b\r\n\r\n{BODY}");
        let mut whole = String::from("X: y\r\n");
        for event in &seen {
            match event {
                Event::Preserved { range, .. } => {
                    whole.push_str(&original[range.start as usize..range.end as usize]);
                }
                Event::AdaptedEnded { result, .. } => assert!(result.is_partial()),
                Event::TransactionEnded { result, .. } => {
                    assert!(result.is_success(), "{result:?}")
                }
                other => panic!("{other:?}"),
            }
        }
        whole.push_str(&original[from as usize..]);
        assert_eq!(whole, format!("X: y\r\n{original}"), "{split}");
    }
}

/// Leave-At-Body: as if DWSS and then DWSR had come at the offset, and the server may take its time
/// for the answer to what came before, as long as its message has not begun.
#[test]
fn a_profile_can_leave_the_body() {
    let profile = CommandProfile { leave_at_body: Some(4), ..message_profile() };
    let (mut pair, xid, _) = Pair::begun(&profile);
    pair.header(xid);
    pair.body(xid, "bo");
    assert_eq!(events(&mut pair.processor), []);
    pair.body(xid, "dy");
    let wishes = events(&mut pair.processor);
    let wanted = [Event::StopSendingWanted { xid }, Event::StopReceivingWanted { xid, size: 12 }];
    assert_eq!(wishes, wanted);
    pair.processor.stop_sending(xid).unwrap();
    pair.processor.end_original(xid, OcpResult::partial()).unwrap();
    let seen = pair.deliver_to_server();
    assert!(seen.contains(&Event::StopSending { xid, octets: 12 }), "{seen:?}");
    assert_eq!(pair.deliver_to_processor(), []);
    pair.server.start_adapted(xid, Vec::new(), &AdaptedStart::default()).unwrap();
    pair.server.use_preserved(xid, 0..12, None).unwrap();
    pair.server.end_adapted_early(xid, &AdaptedEnd::default()).unwrap();
    pair.server.end_transaction(xid, &OcpResult::ok(), false).unwrap();
    let seen = pair.deliver_to_processor();
    assert!(
        matches!(seen.last(), Some(Event::TransactionEnded { result, .. }) if result.is_success())
    );
    // Before the offset nobody has asked for it.
    let (mut pair, xid, _) = Pair::begun(&profile);
    pair.header(xid);
    pair.body(xid, "bod");
    assert_eq!(pair.processor.stop_sending(xid), Err(Rule::NoEarlyEnd("DSS").into()));
    pair.deliver_to_server();
    let (_, sent) = feed(&mut pair.server, b"DSS 1;\r\n", pair.now);
    assert!(is_te400(&sent, 1), "{sent}");
    // Nor is anything left once all of the message is there.
    let (mut pair, xid, _) = Pair::begun(&profile);
    pair.header(xid);
    pair.body(xid, "body");
    pair.deliver_to_server();
    pair.processor.end_original(xid, OcpResult::ok()).unwrap();
    assert_eq!(pair.processor.stop_sending(xid), Err(Rule::NoEarlyEnd("DSS").into()));
    pair.server.start_adapted(xid, Vec::new(), &AdaptedStart::default()).unwrap();
    take_text(&mut pair.server);
    let (_, sent) = feed(&mut pair.server, b"AME 1;\r\nDSS 1;\r\n", pair.now);
    assert!(is_te400(&sent, 1), "{sent}");
}

/// Stop-Receiving-Body and Preservation-Interest-Body hold as soon as the header's size is known.
#[test]
fn a_profile_can_bound_the_body() {
    let profile = CommandProfile {
        stop_receiving_body: Some(2),
        preservation_interest_body: Some(1),
        ..message_profile()
    };
    let (mut pair, xid, _) = Pair::begun(&profile);
    pair.header(xid);
    pair.body(xid, "body");
    assert_eq!(events(&mut pair.processor), [Event::StopReceivingWanted { xid, size: 10 }]);
    pair.processor.end_original(xid, OcpResult::partial()).unwrap();
    pair.deliver_to_server();
    assert_eq!(pair.server.preserved(xid), 0..9);
    pair.server.want_preserved(xid, 0, 500).unwrap();
    assert_eq!(pair.server.preserved(xid), 0..9);
    pair.server.start_adapted(xid, Vec::new(), &AdaptedStart::default()).unwrap();
    assert_eq!(pair.server.use_preserved(xid, 0..10, None), Err(Rule::Disposable.into()));
    pair.server.use_preserved(xid, 0..9, None).unwrap();
    let seen = pair.deliver_to_processor();
    assert_eq!(seen.last(), Some(&Event::Preserved { xid, part: None, range: 0..9 }));
}
