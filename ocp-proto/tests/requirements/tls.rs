//! TLS, as far as it is negotiated (profile section 9).

use std::time::Instant;

use ocp_proto::smtp::TLS;
use ocp_proto::{
    Closed, Config, Connection, Event, Misuse, OcpResult, Offer, Response, Role, Rule,
};

use crate::support::{Pair, events, feed, is_ce400, service, take, take_text};

fn offer() -> Offer {
    Offer { features: vec![service(TLS)], ..Offer::default() }
}

fn offered() -> String {
    format!("NO ({{\"{}:{TLS}\"}});\r\n", TLS.len())
}

/// Feeds an offer of TLS, and octets behind it, to a server that accepts it.
fn accept(octets: &str) -> (Connection, Result<(), Misuse>, Vec<Event>) {
    let now = Instant::now();
    let mut server = Connection::new(Role::Server, Config::default(), now);
    take(&mut server);
    server.input().extend_from_slice(format!("CS;\r\n{}{octets}", offered()).as_bytes());
    server.handle_input(now);
    let (mut result, mut seen) = (Ok(()), Vec::new());
    while let Some(event) = server.poll_event() {
        if let Event::Offered(offer) = &event {
            let feature = offer.feature(TLS).cloned();
            result = server.respond(Response { feature, ..Response::default() });
        }
        seen.push(event);
    }
    (server, result, seen)
}

/// OCP-6-07, OCP-13-07, OCP-11.19-04, OCP-11.19-05
#[test]
fn the_handshake_stands_between_the_response_and_everything_else() {
    let (mut server, result, seen) = accept("");
    assert_eq!(result, Ok(()));
    assert!(matches!(&seen[..], [Event::Started, Event::Offered(_), Event::StartTls]), "{seen:?}");
    assert_eq!(take_text(&mut server), format!("NR {{\"{}:{TLS}\"}};\r\n", TLS.len()));
    server.ping(None);
    assert_eq!(take_text(&mut server), "");
    assert_eq!(server.poll_event(), None);
    server.tls_started(Instant::now()).unwrap();
    assert!(server.has_tls());
    assert_eq!(take_text(&mut server), "PQ;\r\n");
    assert_eq!(server.tls_started(Instant::now()), Err(Misuse::NotNegotiated(TLS.to_owned())));
    assert_eq!(feed(&mut server, b"PQ;\r\n", Instant::now()).1, "PA;\r\n");

    let mut pair = Pair::new();
    pair.processor.offer(offer()).unwrap();
    let answer = format!("CS;\r\nNR {{\"{}:{TLS}\"}};\r\n", TLS.len());
    let (seen, _) = feed(&mut pair.processor, answer.as_bytes(), pair.now);
    assert!(
        matches!(&seen[..], [Event::Started, Event::Responded(_), Event::StartTls]),
        "{seen:?}"
    );
    pair.processor.create_group(Vec::new()).unwrap();
    assert_eq!(take_text(&mut pair.processor), "");
    pair.processor.tls_started(pair.now).unwrap();
    assert_eq!(take_text(&mut pair.processor), "SGC 1 ();\r\n");
    assert!(pair.processor.offer(offer()).is_err(), "once is enough");
}

/// Profile section 9: the processor sends nothing between its NO and the NR, whatever it is asked.
#[test]
fn nothing_follows_an_offer_of_tls() {
    let answers = [format!("NR {{\"{}:{TLS}\"}};\r\n", TLS.len()), "NR;\r\n".to_owned()];
    for (answer, starts) in answers.iter().zip([true, false]) {
        let mut pair = Pair::new();
        pair.processor.offer(offer()).unwrap();
        take(&mut pair.processor);
        pair.processor.ping(None);
        assert_eq!(feed(&mut pair.processor, b"CS;\r\nPQ;\r\n", pair.now).1, "");
        let (_, sent) = feed(&mut pair.processor, answer.as_bytes(), pair.now);
        assert_eq!(sent, if starts { "" } else { "PQ;\r\nPA;\r\n" });
        if starts {
            pair.processor.tls_started(pair.now).unwrap();
            assert_eq!(take_text(&mut pair.processor), "PQ;\r\nPA;\r\n");
        }
    }
    // It may give up.
    let mut pair = Pair::new();
    pair.processor.offer(offer()).unwrap();
    take(&mut pair.processor);
    pair.processor.close(OcpResult::ok());
    assert_eq!(take_text(&mut pair.processor), "CE;\r\n");
}

/// Octets that are not protected do not pass for octets that are.
#[test]
fn octets_behind_the_offer_or_the_response_end_the_connection() {
    let (mut server, result, seen) = accept("SGC 1 ();\r\n");
    assert_eq!(result, Err(Rule::OctetsBehindTls.into()));
    let Some(Event::Closed(Closed::Violation(violation))) = seen.last() else { panic!("{seen:?}") };
    assert_eq!(violation.rule, Rule::OctetsBehindTls);
    assert!(is_ce400(&take_text(&mut server)));

    let now = Instant::now();
    let mut processor = Connection::new(Role::Processor, Config::default(), now);
    processor.offer(offer()).unwrap();
    let answer = format!("CS;\r\nNR {{\"{}:{TLS}\"}};\r\nPQ;\r\n", TLS.len());
    let (seen, _) = feed(&mut processor, answer.as_bytes(), now);
    let Some(Event::Closed(Closed::Violation(violation))) = seen.last() else { panic!("{seen:?}") };
    assert_eq!(violation.rule, Rule::OctetsBehindTls);

    let (mut server, ..) = accept("");
    take(&mut server);
    let (seen, sent) = feed(&mut server, b"\x16\x03\x01", now);
    assert!(matches!(seen.last(), Some(Event::Closed(Closed::Violation(_)))), "{seen:?}");
    assert_eq!(sent, "", "nothing goes out in the clear");
}

/// OCP-2.1-02
#[test]
fn a_server_that_requires_tls_serves_nobody_without_it() {
    let now = Instant::now();
    let config = || Config { requires: vec![service(TLS)], ..Config::default() };
    let mut server = Connection::new(Role::Server, config(), now);
    let text = b"CS;\r\nNO ();\r\nSGC 1 ();\r\nTS 1 1;\r\nAMS 1;\r\n";
    let (seen, sent) = feed(&mut server, text, now);
    let Some(Event::Closed(Closed::Violation(violation))) = seen.last() else { panic!("{seen:?}") };
    assert_eq!(violation.rule, Rule::FeatureRequired(TLS.to_owned()));
    assert!(is_ce400(&sent) && !sent.contains("AMS"), "{sent}");
    // A processor that requires it does not go on without it either.
    let mut processor = Connection::new(Role::Processor, config(), now);
    processor.offer(offer()).unwrap();
    let (seen, _) = feed(&mut processor, b"CS;\r\nNR;\r\n", now);
    let Some(Event::Closed(Closed::Violation(violation))) = seen.last() else { panic!("{seen:?}") };
    assert_eq!(violation.rule, Rule::FeatureRequired(TLS.to_owned()));
}

/// A handshake that does not come about ends the connection; only processors offer TLS.
#[test]
fn a_handshake_is_awaited_for_a_while_only() {
    let (mut server, ..) = accept("");
    take(&mut server);
    let deadline = server.poll_timeout().unwrap();
    server.handle_timeout(deadline);
    let seen = events(&mut server);
    let Some(Event::Closed(Closed::Violation(violation))) = seen.last() else { panic!("{seen:?}") };
    assert_eq!(violation.rule, Rule::Timeout("TLS did not start"));
    assert_eq!(take_text(&mut server), "");
    let mut server = Connection::new(Role::Server, Config::default(), Instant::now());
    assert_eq!(server.offer(offer()), Err(Misuse::NotNegotiated(TLS.to_owned())));
}
