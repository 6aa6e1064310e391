//! What a peer can use up (RFC 4037 section 13).

use std::time::{Duration, Instant};

use ocp_proto::{Closed, Config, Connection, Event, Role, Rule, Useless};

use crate::support::{OPEN, events, feed, is_ce400};

/// OCP-13-02, OCP-5-01
#[test]
fn elements_without_a_limit_have_one() {
    let name = "a".repeat(10_000_000);
    for text in [
        "X ".to_owned() + &"(".repeat(100_000),
        name,
        "X \"2147483647:".to_owned() + &"x".repeat(300_000),
    ] {
        let now = Instant::now();
        let mut server = Connection::new(Role::Server, Config::default(), now);
        feed(&mut server, b"CS;\r\nNO ();\r\n", now);
        let (seen, sent) = feed(&mut server, text.as_bytes(), now);
        let begin: String = text.chars().take(20).collect();
        assert!(is_ce400(&sent), "{begin}: {sent}");
        assert!(matches!(seen.last(), Some(Event::Closed(Closed::Violation(_)))));
    }
}

/// Messages without use, each kind with its own bound; a little time refills it.
#[test]
fn messages_without_use_end_the_connection_when_there_are_too_many() {
    let limits = Config::default().useless;
    let cases = [
        ("DUM 1 0\r\n0:\r\n;\r\n", limits.signals, Useless::Signals),
        ("DWM 1;\r\n", limits.signals, Useless::Signals),
        ("DWP 1 5;\r\n", limits.signals, Useless::Signals),
        ("PQ;\r\n", limits.queries, Useless::Queries),
        ("AQ {\"1:a\"};\r\n", limits.queries, Useless::Queries),
        ("PR 1;\r\n", limits.queries, Useless::Queries),
        ("NO ();\r\n", limits.offers, Useless::Offers),
        ("x;\r\n", limits.unknown_messages, Useless::UnknownMessages),
        ("CS;\r\n", limits.unknown_messages, Useless::UnknownMessages),
        ("DUY 1 0 0;\r\n", limits.unknown_messages, Useless::UnknownMessages),
        ("DUM 99 0\r\n0:\r\n;\r\n", limits.unknown_identifiers, Useless::UnknownIdentifiers),
        ("TE 99;\r\n", limits.unknown_identifiers, Useless::UnknownIdentifiers),
        ("TS 0 1;\r\n", limits.unknown_identifiers, Useless::UnknownIdentifiers),
    ];
    for (message, allowance, useless) in cases {
        let start = Instant::now();
        let mut server = Connection::new(Role::Server, Config::default(), start);
        feed(&mut server, OPEN.as_bytes(), start);
        // The offer of the beginning counts as well.
        let burst = allowance.burst as usize - usize::from(useless == Useless::Offers);
        let (_, sent) = feed(&mut server, message.repeat(burst).as_bytes(), start);
        assert!(!sent.contains("CE"), "{message}");
        let later = start + Duration::from_secs(1);
        let more = message.repeat(allowance.per_second as usize);
        feed(&mut server, more.as_bytes(), later);
        assert!(!server.is_over(), "{message}");
        let (seen, _) = feed(&mut server, message.as_bytes(), later);
        let Some(Event::Closed(Closed::Violation(violation))) = seen.last() else {
            panic!("{message}: {seen:?}");
        };
        assert_eq!(violation.rule, Rule::Useless(useless), "{message}");
    }
}

#[test]
fn late_messages_and_useful_ones_cost_nothing() {
    let now = Instant::now();
    let mut server = Connection::new(Role::Server, Config::default(), now);
    let text = format!("{OPEN}TS 2 1;\r\nTE 2;\r\n");
    feed(&mut server, text.as_bytes(), now);
    feed(&mut server, "DUM 2 0\r\n1:a\r\n;\r\n".repeat(10_000).as_bytes(), now);
    let (mut data, mut offset) = (String::new(), 0);
    for _ in 0..10_000 {
        data.push_str(&format!("DUM 1 {offset}\r\n1:a\r\n;\r\nDWM 1;\r\n"));
        offset += 1;
    }
    server.input().extend_from_slice(data.as_bytes());
    server.handle_input(now);
    assert_eq!(events(&mut server).len(), 20_000);
    assert!(!server.is_over());
}
