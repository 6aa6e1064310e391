//! DWP, DPM and DWM (RFC 4037 sections 11.15 to 11.17).

use std::time::Instant;

use bytes::Bytes;
use ocp_proto::smtp::CommandProfile;
use ocp_proto::{AdaptedData, AdaptedStart, Event, MAXIMUM, Misuse, OcpResult, OriginalData, Xid};

use crate::support::{
    OPEN, Pair, answer, core_processor, feed, message_profile, server, take_text,
};

fn xid() -> Xid {
    Xid::new(1).unwrap()
}

/// OCP-11.15-02, OCP-11.15-04, OCP-11.15-05, OCP-11.16-01, OCP-11.17-03
#[test]
fn a_processor_pauses_at_once_when_it_is_past_the_offset() {
    let (mut processor, xid) = core_processor();
    let now = Instant::now();
    let (seen, sent) = feed(&mut processor, b"DWP 1 4;\r\n", now);
    assert_eq!((seen, sent.as_str()), (vec![Event::PauseWanted { xid, offset: 4 }], "DPM 1;\r\n"));
    assert!(processor.paused(xid));
    assert_eq!(processor.may_send(xid), 0);
    let data = OriginalData::default();
    for octets in [Bytes::new(), Bytes::from_static(b"x")] {
        let misuse = processor.send_original_data(xid, data, octets);
        assert_eq!(misuse, Err(Misuse::Paused { octets: 0 }));
    }
    // What is no data goes on; a second wish gets its own answer.
    assert_eq!(feed(&mut processor, b"PQ;\r\nDWP 1 99;\r\n", now).1, "PA;\r\nDPM 1;\r\n");
    let (seen, _) = feed(&mut processor, b"DWM 1\r\nSize-request: 3\r\n;\r\n", now);
    assert_eq!(seen, [Event::MoreWanted { xid, size: Some(3) }]);
    assert_eq!(processor.may_send(xid), MAXIMUM - 10);
    processor.send_original_data(xid, data, "abc").unwrap();
    assert_eq!(take_text(&mut processor), "DUM 1 10\r\n3:abc\r\n;\r\n");
}

/// OCP-11.15-03, OCP-11.15-01, OCP-10.15-01
#[test]
fn a_server_pauses_when_it_comes_to_the_offset() {
    let (mut server, _) = server(OPEN);
    server.start_adapted(xid(), Vec::new(), &AdaptedStart::default()).unwrap();
    let now = Instant::now();
    feed(&mut server, b"DWP 1 6;\r\n", now);
    let mut send = |octets: &'static str| {
        let data = AdaptedData::default();
        let sent = server.send_adapted_data(xid(), data, octets);
        (sent, take_text(&mut server))
    };
    assert_eq!(send("abcd"), (Ok(()), "DUM 1 0\r\n4:abcd\r\n;\r\n".into()));
    assert_eq!(send("efg"), (Err(Misuse::Paused { octets: 2 }), String::new()));
    assert_eq!(send("ef"), (Ok(()), "DUM 1 4\r\n2:ef\r\n;\r\nDPM 1;\r\n".into()));
    assert!(server.paused(xid()));
    // It still receives, and may want a pause itself.
    feed(&mut server, b"DUM 1 0\r\n1:x\r\n;\r\n", now);
    server.want_pause(xid(), 1).unwrap();
    assert_eq!(take_text(&mut server), "DWP 1 1;\r\n");
}

/// OCP-11.15-06, OCP-11.16-02
#[test]
fn who_wants_a_pause_bears_that_there_is_none() {
    let (mut server, _) = server(OPEN);
    server.want_pause(xid(), 0).unwrap();
    let (seen, sent) = feed(&mut server, b"DUM 1 0\r\n5:hello\r\n;\r\nDPM 1;\r\n", Instant::now());
    assert_eq!(sent, "DWP 1 0;\r\n");
    assert_eq!(seen[1], Event::Paused { xid: xid() });
    let (seen, _) = feed(&mut server, b"DUM 1 5\r\n1:!\r\n;\r\n", Instant::now());
    assert!(matches!(&seen[..], [Event::Data { .. }]), "{seen:?}");
}

/// OCP-11.17-01, OCP-11.17-02
#[test]
fn more_may_be_wanted_at_any_time() {
    assert_eq!(answer(OPEN, "DWM 1;\r\nDWM 1\r\nSize-request: 16384\r\n;\r\nPQ;\r\n"), "PA;\r\n");
    let (mut processor, xid) = core_processor();
    processor.want_more(xid, Some(16_384)).unwrap();
    assert_eq!(take_text(&mut processor), "DWM 1\r\nSize-request: 16384\r\n;\r\n");
}

/// A pause that has not come is cancelled by DWM, and by the end of the message.
#[test]
fn ame_comes_instead_of_dpm() {
    let (mut processor, xid) = core_processor();
    let now = Instant::now();
    feed(&mut processor, b"DWP 1 20;\r\n", now);
    assert_eq!(processor.may_send(xid), 10);
    processor.end_original(xid, OcpResult::ok()).unwrap();
    assert_eq!(take_text(&mut processor), "AME 1;\r\n");
    assert_eq!(feed(&mut processor, b"DWP 1 0;\r\n", now), (Vec::new(), String::new()));
    let (mut processor, xid) = core_processor();
    feed(&mut processor, b"DWP 1 20;\r\nDWM 1;\r\n", now);
    assert_eq!(processor.may_send(xid), MAXIMUM - 10);
}

/// Pause-At-Body is a DWP that comes with the profile.
#[test]
fn a_profile_can_pause_the_body() {
    let profile = CommandProfile { pause_at_body: Some(6), ..message_profile() };
    let (mut pair, xid, _) = Pair::begun(&profile);
    pair.header(xid);
    pair.body(xid, "body");
    assert_eq!(pair.processor.may_send(xid), 2);
    pair.body(xid, "!!");
    assert!(pair.processor.paused(xid));
    let seen = pair.deliver_to_server();
    assert_eq!(seen.last(), Some(&Event::Paused { xid }));
    pair.server.want_more(xid, None).unwrap();
    pair.deliver_to_processor();
    assert!(!pair.processor.paused(xid));
    pair.body(xid, "more");
}
