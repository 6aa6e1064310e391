//! Several adapted messages and replies per recipient (profile section 5).

use ocp_proto::smtp::{Address, CommandProfile, EffectName, Part, SideEffect};
use ocp_proto::{
    AdaptedData, AdaptedEnd, AdaptedMessageId, AdaptedRole, AdaptedStart, DataLabel, Event, Misuse,
    OcpResult, Rule, Xid,
};

use crate::support::{Pair, feed, is_te400, message_profile};

fn profile() -> CommandProfile {
    CommandProfile {
        multiple_messages: true,
        recipient_replies: true,
        side_effects: vec![EffectName::Quarantine],
        ..message_profile()
    }
}

fn id(number: u32) -> Option<AdaptedMessageId> {
    AdaptedMessageId::new(number)
}

fn start(number: u32, role: AdaptedRole, recipients: &[&'static str]) -> AdaptedStart {
    let recipients = recipients.iter().map(|path| Address::new(*path).unwrap()).collect();
    AdaptedStart { id: id(number), role: Some(role), recipients, ..AdaptedStart::default() }
}

fn pair() -> (Pair, Xid) {
    Pair::message_under(&profile())
}

#[test]
fn variants_and_replies_have_their_own_offsets_and_may_interleave() {
    let (mut pair, xid) = pair();
    let variant = start(1, AdaptedRole::Variant, &["<a@x>"]);
    let reply = start(3, AdaptedRole::Reply, &["<b@x>"]);
    pair.server.start_adapted(xid, Vec::new(), &variant).unwrap();
    pair.server.start_adapted(xid, Vec::new(), &reply).unwrap();
    let label = |number, part| DataLabel { id: id(number), part };
    pair.server.use_preserved_data(xid, 0..8, label(1, None)).unwrap();
    let data = AdaptedData { id: id(3), part: Some(Part::Reply), ..AdaptedData::default() };
    pair.server.send_adapted_data(xid, data, "550 no\r\n").unwrap();
    pair.server.use_preserved_data(xid, 8..12, label(1, None)).unwrap();
    let ends = [3, 1].map(|number| AdaptedEnd {
        id: id(number),
        side_effects: vec![SideEffect::Quarantine("odd".into())],
        ..AdaptedEnd::default()
    });
    for end in &ends {
        pair.server.end_adapted(xid, end).unwrap();
    }
    pair.server.end_transaction(xid, &OcpResult::ok(), false).unwrap();
    let seen = pair.deliver_to_processor();
    let number = AdaptedMessageId::new;
    let expected = [
        Event::AdaptedStarted { xid, services: Vec::new(), start: Some(variant) },
        Event::AdaptedStarted { xid, services: Vec::new(), start: Some(reply) },
        Event::MessagePreserved { xid, id: number(1).unwrap(), part: None, range: 0..8 },
        Event::MessageData {
            xid,
            id: number(3).unwrap(),
            part: Some(Part::Reply),
            octets: "550 no\r\n".into(),
        },
        Event::MessagePreserved { xid, id: number(1).unwrap(), part: None, range: 8..12 },
        Event::AdaptedEnded { xid, result: OcpResult::ok(), end: ends[0].clone() },
        Event::AdaptedEnded { xid, result: OcpResult::ok(), end: ends[1].clone() },
    ];
    assert_eq!(seen[..expected.len()], expected);
    assert!(
        matches!(seen.last(), Some(Event::TransactionEnded { result, .. }) if result.is_success())
    );
}

/// What a server may not say, and its processor answers alike.
#[test]
fn what_does_not_go_together_fails_on_both_sides() {
    use AdaptedRole::{Notification, Reply, Variant};
    let several = |cause| Rule::SeveralMessages(cause);
    let no_role = AdaptedStart { id: id(1), ..AdaptedStart::default() };
    let no_id = AdaptedStart { role: Some(Variant), ..AdaptedStart::default() };
    let cases: Vec<(Vec<AdaptedStart>, Rule)> = vec![
        (vec![no_role], several("Am-Id without Role")),
        (vec![no_id], several("Role without Am-Id")),
        (
            vec![start(2, Variant, &["<a@x>"]), start(1, Variant, &["<b@x>"])],
            several("an Am-Id that does not rise"),
        ),
        (
            vec![start(1, Variant, &["<a@x>"]), start(2, Variant, &["<b@x>", "<a@x>"])],
            several("a recipient of two variants"),
        ),
        (
            vec![start(1, Variant, &[]), start(2, Variant, &[])],
            several("a second variant without recipients"),
        ),
        (
            vec![start(1, Reply, &["<a@x>"]), start(2, Reply, &["<a@x>"])],
            several("a recipient of two replies"),
        ),
        (vec![start(1, Notification, &[])], several("a notification without recipients")),
        (
            vec![start(1, Variant, &[]), start(2, Reply, &[])],
            several("a reply for all behind a variant or reply"),
        ),
        (
            vec![start(1, Reply, &["<a@x>"]), start(2, Reply, &[])],
            several("a reply for all behind a variant or reply"),
        ),
        (
            vec![start(1, Reply, &[]), start(2, Reply, &[])],
            several("a variant or reply behind a reply for all"),
        ),
        (
            vec![start(1, Reply, &[]), start(2, Variant, &["<a@x>"])],
            several("a variant or reply behind a reply for all"),
        ),
        (
            vec![start(1, Notification, &["<a@x>"]), AdaptedStart::default()],
            several("AMS without Am-Id"),
        ),
        (
            vec![AdaptedStart::default(), start(1, Notification, &["<a@x>"])],
            several("an Am-Id that does not rise"),
        ),
        (
            vec![start(1, Variant, &["<a@x>"]), AdaptedStart::default()],
            several("AMS without Am-Id"),
        ),
        (
            vec![AdaptedStart::default(), start(1, Variant, &["<a@x>"])],
            several("an Am-Id that does not rise"),
        ),
    ];
    for (starts, rule) in cases {
        let (mut server_side, xid) = pair();
        let results: Vec<_> = starts
            .iter()
            .map(|start| server_side.server.start_adapted(xid, Vec::new(), start))
            .collect();
        assert_eq!(results.last(), Some(&Err(Misuse::Rule(rule.clone()))));
        // The same octets from a server that does it all the same.
        let (mut pair, _) = pair();
        let text: String = starts.iter().map(written).collect();
        let (seen, sent) = feed(&mut pair.processor, text.as_bytes(), pair.now);
        assert!(is_te400(&sent, 1), "{text}{sent}");
        let Some(Event::TransactionEnded { result, .. }) = seen.last() else { panic!("{seen:?}") };
        assert_eq!(result.reason(), rule.to_string(), "{text}");
    }
}

/// What becomes of the message for all of its recipients stands beside notifications, whose recipients are
/// nobody's but their own.
#[test]
fn a_message_or_a_refusal_stands_beside_notifications() {
    use AdaptedRole::{Notification, Reply, Variant};
    let profile = CommandProfile { recipient_replies: false, ..profile() };
    for role in [Variant, Reply] {
        let (mut pair, xid) = Pair::message_under(&profile);
        let starts = [
            start(1, role, &[]),
            start(2, Notification, &["<a@x>"]),
            start(3, Notification, &["<a@x>"]),
        ];
        for start in &starts {
            pair.server.start_adapted(xid, Vec::new(), start).unwrap();
        }
        let send = |pair: &mut Pair, number, part, octets: &'static str| {
            let data = AdaptedData { id: id(number), part: Some(part), ..AdaptedData::default() };
            pair.server.send_adapted_data(xid, data, octets).unwrap();
        };
        match role {
            Reply => send(&mut pair, 1, Part::Reply, "550 no\r\n"),
            _ => send(&mut pair, 1, Part::MessageBody, "x"),
        }
        for number in [2, 3] {
            send(&mut pair, number, Part::MessageHeader, "A: b\r\n\r\n");
            let data =
                AdaptedData { id: id(number), part: Some(Part::Reply), ..AdaptedData::default() };
            let misuse = pair.server.send_adapted_data(xid, data, "550 no\r\n");
            assert_eq!(misuse, Err(Rule::PartOrder("reply").into()), "it is no reply");
        }
        for number in 1..=3 {
            let end = AdaptedEnd { id: id(number), ..AdaptedEnd::default() };
            pair.server.end_adapted(xid, &end).unwrap();
        }
        pair.server.end_transaction(xid, &OcpResult::ok(), false).unwrap();
        let seen = pair.deliver_to_processor();
        let begun = seen.iter().filter_map(|event| match event {
            Event::AdaptedStarted { start, .. } => start.clone(),
            _ => None,
        });
        assert_eq!(begun.collect::<Vec<_>>(), starts);
        assert!(
            matches!(seen.last(), Some(Event::TransactionEnded { result, .. }) if result.is_success())
        );
    }
}

/// The AMS that says this.
fn written(start: &AdaptedStart) -> String {
    let mut named = String::new();
    if let Some(id) = start.id {
        named.push_str(&format!("Am-Id: {id}\r\n"));
    }
    if let Some(role) = start.role {
        named.push_str(&format!("Role: {}\r\n", format!("{role:?}").to_lowercase()));
    }
    if !start.recipients.is_empty() {
        let paths = start.recipients.iter().map(|address| {
            let path = String::from_utf8_lossy(address.path()).into_owned();
            format!("{{\"{}:{path}\"}}", path.len())
        });
        named.push_str(&format!("Recipients: ({})\r\n", paths.collect::<Vec<_>>().join(",")));
    }
    let begin = if named.is_empty() { "" } else { "\r\n" };
    format!("AMS 1{begin}{named};\r\n")
}

#[test]
fn several_messages_exclude_early_ends_and_share_a_pause() {
    let (mut pair, xid) = pair();
    pair.server
        .start_adapted(xid, Vec::new(), &start(1, AdaptedRole::Variant, &["<a@x>"]))
        .unwrap();
    pair.server.start_adapted(xid, Vec::new(), &start(2, AdaptedRole::Variant, &[])).unwrap();
    assert_eq!(pair.server.want_stop_sending(xid), Err(Rule::NoEarlyEnd("DWSS").into()));
    pair.processor.want_pause(xid, 6).unwrap();
    pair.deliver_to_server();
    let label = |number| DataLabel { id: id(number), part: None };
    pair.server.use_preserved_data(xid, 0..4, label(1)).unwrap();
    let misuse = pair.server.use_preserved_data(xid, 0..4, label(2));
    assert_eq!(misuse, Err(Misuse::Paused { octets: 2 }));
    pair.server.use_preserved_data(xid, 0..2, label(2)).unwrap();
    assert!(pair.server.paused(xid));
    let seen = pair.deliver_to_processor();
    assert_eq!(seen.last(), Some(&Event::Paused { xid }));
    let (_, sent) = feed(&mut pair.processor, b"AME 1 {206}\r\nAm-Id: 1\r\n;\r\n", pair.now);
    assert!(is_te400(&sent, 1), "{sent}");
}

#[test]
fn parts_fit_the_role_and_every_message_ends() {
    let (mut pair, xid) = pair();
    pair.server.start_adapted(xid, Vec::new(), &start(1, AdaptedRole::Reply, &["<a@x>"])).unwrap();
    pair.server.start_adapted(xid, Vec::new(), &start(2, AdaptedRole::Variant, &[])).unwrap();
    let data =
        |number, part| AdaptedData { id: id(number), part: Some(part), ..AdaptedData::default() };
    let misuse = pair.server.send_adapted_data(xid, data(1, Part::MessageBody), "x");
    assert_eq!(misuse, Err(Rule::PartOrder("message-body").into()));
    let misuse = pair.server.send_adapted_data(xid, data(2, Part::Reply), "x");
    assert_eq!(misuse, Err(Rule::PartOrder("reply").into()));
    let misuse = pair.server.send_adapted_data(xid, data(9, Part::Reply), "x");
    assert_eq!(misuse, Err(Rule::NotStarted("DUM").into()));
    let misuse = pair.server.send_adapted(xid, Part::Reply, "x", None);
    assert_eq!(misuse, Err(Rule::SeveralMessages("data or AME without Am-Id").into()));
    pair.server.end_adapted(xid, &AdaptedEnd { id: id(1), ..AdaptedEnd::default() }).unwrap();
    pair.server.end_transaction(xid, &OcpResult::ok(), false).unwrap();
    let seen = pair.deliver_to_processor();
    let Some(Event::TransactionEnded { result, .. }) = seen.last() else { panic!("{seen:?}") };
    assert_eq!(result.code, 400, "the variant did not end");
}

#[test]
fn what_was_not_negotiated_is_refused() {
    let (mut pair, xid) = Pair::message();
    let variant = start(1, AdaptedRole::Variant, &[]);
    let misuse = pair.server.start_adapted(xid, Vec::new(), &variant);
    assert_eq!(misuse, Err(Rule::NotNegotiated("Multiple-Messages".into()).into()));
    let profile = CommandProfile { recipient_replies: false, ..profile() };
    let (mut pair, xid) = Pair::message_under(&profile);
    let reply = start(1, AdaptedRole::Reply, &["<a@x>"]);
    let misuse = pair.server.start_adapted(xid, Vec::new(), &reply);
    assert_eq!(misuse, Err(Rule::NotNegotiated("Recipient-Replies".into()).into()));
    let reusable = AdaptedEnd { valid_for: Some(60), ..AdaptedEnd::default() };
    pair.server.start_adapted(xid, Vec::new(), &AdaptedStart::default()).unwrap();
    let misuse = pair.server.end_adapted(xid, &reusable);
    assert_eq!(misuse, Err(Rule::NotReusable("MESSAGE".into()).into()));
}
