//! Negotiation (RFC 4037 sections 6, 11.18 and 11.19).

use std::time::Instant;

use ocp_proto::smtp::{
    COMMAND_PROFILE, Command, CommandProfile, DialogFeature, REPLY_PROFILE, ReplyProfile,
};
use ocp_proto::wire::{Name, Structure, Value};
use ocp_proto::{
    Closed, Config, Connection, Event, GroupId, Misuse, OcpResult, Offer, Response, Role, Rule,
};

use crate::support::{
    GROUP, OPEN, Pair, core_processor, events, feed, is_ce400, is_te400, message_profile, server,
    service, take_text,
};

fn offer(features: Vec<Structure>, group: Option<GroupId>) -> Offer {
    Offer { features, group, pending: false }
}

fn group(number: u32) -> GroupId {
    GroupId::new(number).unwrap()
}

/// A server that selects this feature whenever it is offered, and what it answers to the octets.
fn selects(before: &str, octets: &str, uri: &str) -> (Result<(), Misuse>, String) {
    let (mut server, _) = server(before);
    server.input().extend_from_slice(octets.as_bytes());
    server.handle_input(Instant::now());
    let mut result = Ok(());
    while let Some(event) = server.poll_event() {
        if let Event::Offered(offer) = event {
            let feature = offer.feature(uri).cloned();
            result = server.respond(Response { feature, ..Response::default() });
        }
    }
    (result, take_text(&mut server))
}

const COMMANDS: &str = "{\"18:ocp://smtp/command\"\r\nCommands: (MAIL)\r\n}";
const REPLIES: &str = "{\"16:ocp://smtp/reply\"\r\nCommands: (MAIL)\r\n}";

/// OCP-6-02, OCP-6-03, OCP-10.12-01, OCP-11.19-01, OCP-11.18-01, OCP-11.18-02, OCP-9-05
#[test]
fn one_offer_selects_one_feature_at_most() {
    let text = "NO ({\"1:a\"},{\"1:b\"\r\nNew-Member: 1\r\n});\r\n";
    assert_eq!(
        selects("CS;\r\n", text, "b").1,
        "NR {\"1:b\"\r\nNew-Member: 1\r\n};\r\n".replace("\"1:b\"", "b")
    );
    let sent = selects("CS;\r\n", "NO ({\"1:x\"});\r\nNO ({\"1:a\"});\r\n", "a").1;
    assert_eq!(sent, "NR;\r\nNR {a};\r\n");
    assert!(is_ce400(&server("CS;\r\nNO;\r\n").1));
}

/// OCP-6-04, OCP-6-05, OCP-11.18-11, OCP-11.18-12
#[test]
fn what_conflicts_is_neither_offered_nor_selected() {
    let before = format!("{GROUP}SGC 2 ({{\"1:a\"}});\r\n");
    // A group's profile and the other for the group, for the connection, and for another group.
    let enabled = format!("NO ({COMMANDS})\r\nSG: 1\r\n;\r\n");
    let uris = [COMMAND_PROFILE, REPLY_PROFILE];
    for (text, possible) in [
        (format!("NO ({REPLIES})\r\nSG: 1\r\n;\r\n"), false),
        (format!("NO ({REPLIES});\r\n"), false),
        (format!("NO ({REPLIES})\r\nSG: 2\r\n;\r\n"), true),
    ] {
        let (mut server, _) = server(&before);
        server.input().extend_from_slice(format!("{enabled}{text}").as_bytes());
        server.handle_input(Instant::now());
        let mut results = Vec::new();
        while let Some(event) = server.poll_event() {
            let Event::Offered(offer) = event else { continue };
            let feature = uris.iter().find_map(|uri| offer.feature(uri)).cloned();
            results.push(server.respond(Response { feature, ..Response::default() }));
        }
        let sent = take_text(&mut server);
        let conflict = Misuse::Rule(Rule::Conflict(REPLY_PROFILE.to_owned()));
        let expected = if possible { Ok(()) } else { Err(conflict) };
        assert_eq!(results, [Ok(()), expected], "{text}");
        let rejects = sent.contains("Rejects: ({\"16:ocp://smtp/reply\"})");
        assert_eq!((rejects, server.is_closed()), (!possible, false), "{sent}");
    }
    // A connection's profile and the other for a group.
    let (mut server, _) = server(&before);
    let texts = format!("NO ({COMMANDS});\r\nNO ({REPLIES})\r\nSG: 1\r\n;\r\n");
    server.input().extend_from_slice(texts.as_bytes());
    server.handle_input(Instant::now());
    let mut results = Vec::new();
    while let Some(event) = server.poll_event() {
        let Event::Offered(offer) = event else { continue };
        let feature = uris.iter().find_map(|uri| offer.feature(uri)).cloned();
        results.push(server.respond(Response { feature, ..Response::default() }).is_ok());
    }
    assert_eq!(results, [true, false]);
    // And the offering side.
    let profile = message_profile();
    let (mut pair, group) = Pair::negotiated(&profile, &profile);
    let replies = ReplyProfile { commands: vec![Command::Mail], ..ReplyProfile::default() };
    for scope in [Some(group), None] {
        let misuse = pair.processor.offer(offer(vec![replies.to_structure()], scope));
        assert_eq!(misuse, Err(Rule::Conflict(REPLY_PROFILE.to_owned()).into()));
    }
}

/// OCP-6-06, OCP-11.18-05, OCP-11.19-10
#[test]
fn a_server_may_offer_and_is_answered_at_once() {
    let (mut processor, _) = core_processor();
    let (seen, sent) = feed(&mut processor, b"NO ({\"1:a\"});\r\nPQ;\r\n", Instant::now());
    assert!(matches!(&seen[..], [Event::Offered(_)]));
    assert_eq!(sent, "NR;\r\nPA;\r\n");
    let mut pair = Pair::new();
    pair.processor.offer(Offer::default()).unwrap();
    pair.drive();
    pair.server.offer(offer(vec![service("a")], None)).unwrap();
    pair.transmit();
    pair.step();
    let Some(Event::Offered(_)) = pair.processor.poll_event() else { panic!("no offer") };
    let response = Response { unknowns: vec![service("a")], ..Response::default() };
    pair.processor.respond(response).unwrap();
    pair.drive();
    assert!(pair.sent[0].ends_with(b"NR\r\nUnknowns: ({a})\r\n;\r\n"));
}

/// OCP-6.1-01, OCP-6.1-02, OCP-6.1-03, OCP-6.1-04, OCP-6.1-07, OCP-6.1-08, OCP-11.18-09, OCP-11.19-11
#[test]
fn only_messages_of_the_phase_go_out_in_it() {
    let (mut processor, xid) = core_processor();
    let now = Instant::now();
    processor.offer(Offer { pending: true, ..Offer::default() }).unwrap();
    assert!(processor.is_negotiating());
    assert_eq!(processor.create_group(Vec::new()), Err(Misuse::OfferPending));
    // Data of a transaction under way waits; queries do not.
    processor.send_original_data(xid, Default::default(), "abc").unwrap();
    processor.ping(None);
    assert_eq!(take_text(&mut processor), "NO ()\r\nOffer-Pending: true\r\n;\r\nPQ;\r\n");
    // What the peer sent before it knew is taken.
    let (seen, sent) = feed(&mut processor, b"AMS 1;\r\nNR;\r\n", now);
    assert!(matches!(&seen[..], [Event::AdaptedStarted { .. }, Event::Responded(_)]), "{seen:?}");
    assert_eq!((sent.as_str(), processor.is_negotiating()), ("", true), "we promised an offer");
    assert_eq!(processor.start_transaction(group(1), now), Err(Misuse::PhaseOpen));
    processor.offer(Offer::default()).unwrap();
    let (_, sent) = feed(&mut processor, b"NR;\r\n", now);
    assert_eq!(sent, "NO ();\r\nDUM 1 10\r\n3:abc\r\n;\r\n");
    assert!(!processor.is_negotiating());
    // Who waits for the offer that the peer promised does not wait for ever.
    processor.offer(Offer::default()).unwrap();
    feed(&mut processor, b"NR\r\nOffer-Pending: true\r\n;\r\n", now);
    processor.handle_timeout(now + Config::default().negotiation_timeout);
    let seen = events(&mut processor);
    let Some(Event::Closed(Closed::Violation(violation))) = seen.last() else { panic!("{seen:?}") };
    assert_eq!(violation.rule, Rule::Timeout("no further offer came"));
}

/// OCP-6.1-09
#[test]
fn a_server_insists_on_what_it_requires() {
    let dialogs = DialogFeature { version: 1 }.to_structure();
    let config = || Config { requires: vec![dialogs.clone()], ..Config::default() };
    let now = Instant::now();
    let begin = format!("{GROUP}TS 1 1;\r\n");
    let mut server = Connection::new(Role::Server, config(), now);
    let (_, sent) = feed(&mut server, begin.as_bytes(), now);
    let offered = "CS;\r\nNR\r\nOffer-Pending: true\r\n;\r\nNO ({\"17:ocp://smtp/dialog\"\r\nVersion: 1\r\n});\r\n";
    assert!(sent.starts_with(offered), "{sent}");
    // Nothing is served meanwhile, and the refusal waits for the end of the Phase.
    assert_eq!(server.transactions(), 0);
    assert_eq!(sent, offered);
    let (seen, sent) = feed(&mut server, b"NR;\r\n", now);
    assert!(is_ce400(&sent), "{sent}");
    let Some(Event::Closed(Closed::Violation(violation))) = seen.last() else { panic!("{seen:?}") };
    assert_eq!(violation.rule, Rule::FeatureRequired("ocp://smtp/dialog".into()));
    // Accepted, or offered at first, all is well.
    let mut server = Connection::new(Role::Server, config(), now);
    feed(&mut server, b"CS;\r\nNO ();\r\n", now);
    let selected = "NR {\"17:ocp://smtp/dialog\"\r\nVersion: 1\r\n};\r\nDialog-Start 1;\r\n";
    let (seen, _) = feed(&mut server, selected.as_bytes(), now);
    assert!(matches!(seen.last(), Some(Event::DialogStarted { .. })), "{seen:?}");
    // A group without the profile that is required gets nothing done.
    let requires = vec![CommandProfile::default().to_structure()];
    let mut server = Connection::new(Role::Server, Config { requires, ..Config::default() }, now);
    let (_, sent) = feed(&mut server, begin.as_bytes(), now);
    assert!(is_te400(sent.strip_prefix("CS;\r\nNR;\r\n").unwrap(), 1), "{sent}");
}

/// OCP-11.18-03, OCP-11.18-13
#[test]
fn one_offer_at_a_time_and_none_for_a_busy_group() {
    let (mut processor, _) = core_processor();
    let busy = processor.offer(offer(Vec::new(), Some(group(1))));
    assert_eq!(busy, Err(Misuse::GroupBusy(group(1))));
    processor.offer(Offer::default()).unwrap();
    assert_eq!(processor.offer(Offer::default()), Err(Misuse::OfferPending));
    let (mut server, _) = server("CS;\r\n");
    server.input().extend_from_slice(b"NO ();\r\n");
    server.handle_input(Instant::now());
    assert!(matches!(server.poll_event(), Some(Event::Offered(_))));
    assert_eq!(server.offer(Offer::default()), Err(Misuse::PhaseOpen));
}

/// OCP-11.18-07
#[test]
fn a_server_answers_before_anything_else() {
    assert_eq!(
        server("CS;\r\nNO ();\r\nPQ;\r\nAQ {\"1:a\"};\r\n").1,
        "CS;\r\nNR;\r\nPA;\r\nAA false;\r\n"
    );
}

/// OCP-11.18-10, OCP-11.18-14, OCP-11.19-04, OCP-11.19-05
#[test]
fn a_profile_holds_for_its_group_and_for_later_transactions() {
    let profile = message_profile();
    let (mut pair, first) = Pair::negotiated(&profile, &profile);
    let second = pair.processor.create_group(vec![service("ocp://service/y")]).unwrap();
    assert_eq!(pair.processor.command_profile(second), None);
    let old = pair.processor.start_transaction(second, pair.now).unwrap();
    pair.processor.start_core_original(old).unwrap();
    pair.drive();
    assert_eq!(pair.server.command_profile(second), None);
    // For the whole connection, while a transaction of that group runs.
    let other = CommandProfile { commands: vec![Command::Mail], ..CommandProfile::default() };
    pair.negotiate(other.to_structure(), other.to_structure(), None);
    let new = pair.processor.start_transaction(second, pair.now).unwrap();
    pair.drive();
    for end in [&pair.processor, &pair.server] {
        assert_eq!(end.transaction_profile(old), None);
        assert_eq!(end.transaction_profile(new), Some(&other.clone().into()));
        assert_eq!(end.command_profile(first), Some(&profile));
    }
    pair.processor.end_transaction(old, &OcpResult::failure("enough"), false).unwrap();
}

/// OCP-11.19-06, OCP-11.19-08, OCP-3.1-18, OCP-9.1-03
#[test]
fn a_response_repeats_the_group_of_its_offer() {
    let answered = |text: &str| {
        let (mut server, _) = server(GROUP);
        feed(&mut server, text.as_bytes(), Instant::now()).1
    };
    assert_eq!(
        answered("NO ({\"1:a\"})\r\nOffer-Pending: false\r\nSG: 1\r\n;\r\n"),
        "NR\r\nSG: 1\r\n;\r\n"
    );
    assert_eq!(answered("NO ({\"1:a\"})\r\nSG: \"1:1\"\r\n;\r\n"), "NR\r\nSG: 1\r\n;\r\n");
    assert_eq!(answered("NO ({\"1:a\"});\r\n"), "NR;\r\n");
    assert!(is_ce400(&answered("NO ({\"1:a\"})\r\nSG: 7\r\n;\r\n")));
}

/// OCP-11.19-02
#[test]
fn a_selection_that_was_not_offered_is_a_failure() {
    let mut pair = Pair::new();
    pair.processor.offer(offer(vec![service("a")], None)).unwrap();
    let text = b"CS;\r\nNR {\"17:ocp://smtp/dialog\"};\r\n";
    let (seen, _) = feed(&mut pair.processor, text, pair.now);
    assert!(matches!(&seen[1], Event::Responded(response) if response.feature.is_none()));
    let facts = ocp_proto::smtp::DialogFacts::default();
    let misuse = pair.processor.start_dialog(&facts);
    assert_eq!(misuse, Err(Misuse::NotNegotiated("ocp://smtp/dialog".into())));
    let named = Structure {
        members: vec![Value::atom("z")],
        named: [(Name::from_static("A"), Value::atom("1"))].into_iter().fold(
            ocp_proto::wire::NamedValues::new(),
            |mut all, (name, value)| {
                all.push(name, value);
                all
            },
        ),
    };
    let (result, sent) = {
        let (mut server, _) = server("CS;\r\n");
        server.input().extend_from_slice(b"NO ({\"1:a\"});\r\n");
        server.handle_input(pair.now);
        server.poll_event();
        let response = Response { feature: Some(named), ..Response::default() };
        (server.respond(response), take_text(&mut server))
    };
    assert_eq!(
        (result, sent.as_str()),
        (Err(Misuse::NotNegotiated("z".into())), "NR\r\nRejects: ({z})\r\n;\r\n")
    );
    assert!(OPEN.starts_with(GROUP));
}
