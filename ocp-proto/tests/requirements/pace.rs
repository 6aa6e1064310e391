//! The least pace of a peer (RFC 4037 section 2.7): an octet now and then is no progress.

use std::time::{Duration, Instant};

use bytes::Buf;
use ocp_proto::{
    AdaptedData, AdaptedStart, Closed, Config, Connection, Event, OcpResult, Role, Rule, Xid,
};

use crate::support::{GROUP, OPEN, core_processor, events, feed, is_te400, take_text};

const TIMEOUT: Duration = Duration::from_secs(120);

fn xid(number: u32) -> Xid {
    Xid::new(number).unwrap()
}

fn too_slow(what: &'static str) -> Rule {
    Rule::TooSlow { what, octets: 2_048, seconds: 120 }
}

/// A server that has heard this, at a time that tests know.
fn server(octets: &str) -> (Connection, Instant) {
    let start = Instant::now();
    let mut server = Connection::new(Role::Server, Config::default(), start);
    feed(&mut server, octets.as_bytes(), start);
    (server, start)
}

/// Time passes; what ended for that, and what is sent.
fn wait(server: &mut Connection, now: Instant) -> (Vec<Event>, String) {
    server.handle_timeout(now);
    (events(server), take_text(server))
}

fn has_ended_for(seen: &[Event], expected: &Rule) -> bool {
    matches!(seen, [.., Event::Closed(Closed::Violation(violation))] if violation.rule == *expected)
}

fn dum(offset: u32, octets: &str) -> String {
    format!("DUM 1 {offset}\r\n{}:{octets}\r\n;\r\n", octets.len())
}

/// OCP-2.7-01
#[test]
fn a_message_that_trickles_ends_its_transaction_alone() {
    let (mut server, start) = server(&format!("{OPEN}TS 2 1;\r\nAMS 2;\r\nAME 2;\r\n"));
    for second in 1..120 {
        let now = start + Duration::from_secs(second);
        feed(&mut server, dum(second as u32 - 1, "x").as_bytes(), now);
        assert_eq!(wait(&mut server, now), (vec![], String::new()), "{second}");
    }
    assert_eq!(server.poll_timeout(), Some(start + TIMEOUT));
    let (seen, sent) = wait(&mut server, start + TIMEOUT);
    assert!(matches!(&seen[..], [Event::TransactionEnded { xid: ended, .. }] if *ended == xid(1)));
    let reason = too_slow("the original message comes too slowly").to_string();
    assert!(is_te400(&sent, 1) && sent.contains(&reason), "{sent}");
    assert!(server.has_transaction(xid(2)));
    // Whose answer it is our turn to give, however long it takes.
    feed(&mut server, b"PQ;\r\n", start + 5 * TIMEOUT);
    assert_eq!(wait(&mut server, start + 5 * TIMEOUT).0, []);
}

#[test]
fn enough_octets_buy_time_and_so_do_messages_that_begin_and_end() {
    let (mut server, start) = server(OPEN);
    let almost = TIMEOUT - Duration::from_secs(1);
    let mut now = start;
    for round in 0..3 {
        // The second half comes in time, octet by octet.
        feed(&mut server, dum(round * 2_048, &"x".repeat(1_024)).as_bytes(), now + almost / 2);
        now += almost;
        let rest = (0..1_024).map(|n| dum(round * 2_048 + 1_024 + n, "x")).collect::<String>();
        feed(&mut server, rest.as_bytes(), now);
        assert_eq!(wait(&mut server, now + almost - almost / 2).0, []);
    }
    feed(&mut server, b"AME 1;\r\n", now + almost);
    assert_eq!(wait(&mut server, now + 2 * TIMEOUT).0, []);
    // Nothing of a second transaction but its start and its AMS.
    feed(&mut server, b"TS 2 1;\r\n", now + 2 * TIMEOUT);
    feed(&mut server, b"AMS 2;\r\n", now + 2 * TIMEOUT + almost);
    feed(&mut server, b"PQ;\r\n", now + 3 * TIMEOUT + almost);
    let (seen, sent) = wait(&mut server, now + 3 * TIMEOUT + almost);
    assert!(is_te400(&sent, 2) && sent.contains("stands still"), "{sent} {seen:?}");
}

#[test]
fn messages_that_bring_no_octets_buy_no_time() {
    // The last one is a pause that nobody has asked for.
    for message in ["PQ 1;\r\n", "PR 1;\r\n", "DWM 1;\r\n", "DWP 1 9;\r\nDWM 1;\r\n", "DPM 1;\r\n"]
    {
        let (mut server, start) = server(OPEN);
        for second in 1..=120 {
            feed(&mut server, message.as_bytes(), start + Duration::from_secs(second));
        }
        let (_, sent) = wait(&mut server, start + TIMEOUT);
        assert!(is_te400(&sent, 1) && sent.contains("stands still"), "{message}: {sent}");
    }
}

#[test]
fn an_answer_that_is_fetched_octet_by_octet_ends_too() {
    let (mut server, start) = server(&format!("{OPEN}DWP 1 0;\r\nAME 1;\r\n"));
    server.start_adapted(xid(1), Vec::new(), &AdaptedStart::default()).unwrap();
    for second in 1..120 {
        let steps = format!("DWP 1 {second};\r\nDWM 1;\r\nDWP 1 {second};\r\n");
        feed(&mut server, steps.as_bytes(), start + Duration::from_secs(second));
        server.send_adapted_data(xid(1), AdaptedData::default(), "x").unwrap();
    }
    take_text(&mut server);
    let (_, sent) = wait(&mut server, start + TIMEOUT);
    assert!(is_te400(&sent, 1) && sent.contains("stands still"), "{sent}");
}

#[test]
fn a_pause_of_ours_is_not_held_against_the_peer() {
    let (mut server, start) = server(OPEN);
    server.want_pause(xid(1), 0).unwrap();
    feed(&mut server, b"DPM 1;\r\n", start);
    let late = start + 2 * TIMEOUT;
    feed(&mut server, b"PQ;\r\n", late);
    assert_eq!(wait(&mut server, late).0, []);
    // From when we want more on it has the whole time again.
    let resumed = late + TIMEOUT - Duration::from_secs(1);
    feed(&mut server, b"PQ;\r\n", resumed);
    server.want_more(xid(1), None).unwrap();
    take_text(&mut server);
    assert_eq!(wait(&mut server, late + TIMEOUT).0, []);
    let (_, sent) = wait(&mut server, resumed + TIMEOUT);
    assert!(sent.contains("TE 1 {400"), "{sent}");
}

#[test]
fn a_long_work_of_ours_is_not_held_against_the_peer() {
    let (mut server, start) = server(&format!("{OPEN}AME 1;\r\n"));
    let answered = start + 2 * TIMEOUT - Duration::from_secs(1);
    feed(&mut server, b"PQ;\r\n", start + TIMEOUT);
    assert_eq!(wait(&mut server, start + TIMEOUT).0, []);
    feed(&mut server, b"PQ;\r\n", answered);
    server.start_adapted(xid(1), Vec::new(), &AdaptedStart::default()).unwrap();
    feed(&mut server, b"DWP 1 0;\r\n", answered);
    assert_eq!(wait(&mut server, start + 2 * TIMEOUT).0, []);
    let (_, sent) = wait(&mut server, answered + TIMEOUT);
    assert!(sent.contains("TE 1 {400"), "{sent}");
}

#[test]
fn half_a_message_holds_no_connection() {
    let late = too_slow("a message comes too slowly");
    for begin in ["Nonsense \"99999:", "DUM 7 0\r\n99999:", "Nonsense;"] {
        let (mut server, start) = server(&format!("{GROUP}{begin}"));
        let half = start + TIMEOUT / 2;
        feed(
            &mut server,
            "x".repeat(if begin.ends_with(':') { 2_047 } else { 0 }).as_bytes(),
            half,
        );
        assert_eq!(server.poll_timeout(), Some(start + TIMEOUT), "{begin}");
        let (seen, sent) = wait(&mut server, start + TIMEOUT);
        assert!(has_ended_for(&seen, &late) && sent.contains("CE {400"), "{begin}: {seen:?}");
    }
    // With one octet more it goes on for as long again.
    let (mut server, start) = server(&format!("{GROUP}Nonsense \"99999:"));
    let half = start + TIMEOUT / 2;
    feed(&mut server, "x".repeat(2_048).as_bytes(), half);
    assert_eq!(wait(&mut server, start + TIMEOUT).0, []);
    assert!(has_ended_for(&wait(&mut server, half + TIMEOUT).0, &late));
    // Messages that end do so too, however they are cut.
    let (mut server, start) = self::server(&format!("{GROUP}P"));
    for second in 1..400 {
        let now = start + Duration::from_secs(second);
        assert_eq!(feed(&mut server, b"Q;\r\nP", now).1, "PA;\r\n");
        assert_eq!(wait(&mut server, now).0, []);
    }
}

/// A payload of a transaction is its matter; once that has ended, the rest has as long again.
#[test]
fn a_payload_that_trickles_ends_its_transaction_first() {
    let (mut server, start) = server(&format!("{OPEN}TS 2 1;\r\nAMS 2;\r\nAME 2;\r\n"));
    feed(&mut server, b"DUM 1 0\r\n2147483647:", start);
    for second in 1..120 {
        feed(&mut server, b"x", start + Duration::from_secs(second));
    }
    let (_, sent) = wait(&mut server, start + TIMEOUT);
    assert!(is_te400(&sent, 1) && sent.contains("comes too slowly"), "{sent}");
    assert!(server.has_transaction(xid(2)));
    for second in 120..240 {
        let now = start + Duration::from_secs(second);
        feed(&mut server, b"x", now);
        assert_eq!(wait(&mut server, now).0, []);
    }
    let (seen, _) = wait(&mut server, start + 2 * TIMEOUT);
    assert!(has_ended_for(&seen, &too_slow("a message comes too slowly")), "{seen:?}");
}

#[test]
fn octets_that_are_not_read_end_the_connection() {
    let fill = |server: &mut Connection, count: usize, now| {
        server.input().extend_from_slice("PQ;\r\n".repeat(count).as_bytes());
        server.handle_input(now);
        events(server)
    };
    for (read, goes_on) in [(0, false), (2_047, false), (2_048, true)] {
        let (mut server, start) = server(GROUP);
        fill(&mut server, 1_000, start);
        // Somebody who only sends is not idle.
        fill(&mut server, 1, start + Duration::from_secs(1));
        fill(&mut server, 1, start + Duration::from_secs(60));
        server.output().advance(read);
        let end = start + Duration::from_secs(1) + TIMEOUT;
        assert!(server.poll_timeout().is_some_and(|at| at <= end), "{read}");
        server.handle_timeout(end);
        let seen = events(&mut server);
        let late = too_slow("what we sent is read too slowly");
        assert_eq!(has_ended_for(&seen, &late), !goes_on, "{read}: {seen:?}");
    }
    // Few octets that are read at once are enough, again and again.
    let (mut server, start) = server(GROUP);
    for second in 1..400 {
        let now = start + Duration::from_secs(second);
        fill(&mut server, 1, now);
        assert_eq!(wait(&mut server, now), (vec![], "PA;\r\n".to_owned()));
    }
}

/// What a processor asks for has deadlines of its application's.
#[test]
fn a_processor_bears_slow_answers() {
    let (mut processor, xid) = core_processor();
    processor.end_original(xid, OcpResult::ok()).unwrap();
    take_text(&mut processor);
    let start = Instant::now();
    feed(&mut processor, b"AMS 1;\r\n", start);
    for second in 1..400 {
        let now = start + Duration::from_secs(second);
        feed(&mut processor, dum(second as u32 - 1, "x").as_bytes(), now);
        assert_eq!(wait(&mut processor, now).0, []);
    }
    assert!(processor.has_transaction(xid));
}
