//! The reply profile (profile sections 2, 4 and 6).

use std::time::Instant;

use ocp_proto::smtp::{
    Command, CommandLine, CommandProfile, DialogFacts, DialogFeature, EffectName, Part,
    REPLY_PROFILE, ReplyProfile, SideEffect,
};
use ocp_proto::{
    AdaptedData, AdaptedEnd, AdaptedMessageId, AdaptedRole, AdaptedStart, Closed, Config,
    Connection, DialogId, Event, GroupId, Misuse, OcpResult, OriginalStart, Role, Rule, Xid,
};

use crate::support::{Pair, events, feed, is_ce400, is_te400, message_profile, service, take_text};

const LINE: &str = "RCPT TO:<a@b>";
const REPLY: &str = "550 5.1.1 nobody\r\n";

fn profile() -> ReplyProfile {
    ReplyProfile {
        commands: vec![Command::Greeting, Command::Mail, Command::Rcpt, Command::Message],
        auxiliary_parts: vec![Part::Command],
        observed: vec![Command::Mail],
        side_effects: vec![EffectName::RetryCommand, EffectName::Disconnect],
        on_failure: None,
    }
}

/// A pair with a group for replies.
fn negotiated(profile: &ReplyProfile) -> (Pair, GroupId, DialogId) {
    let mut pair = Pair::new();
    let dialog = DialogFeature { version: 1 }.to_structure();
    pair.negotiate(dialog.clone(), dialog, None);
    let group = pair.processor.create_group(vec![service("ocp://service/x")]).unwrap();
    pair.negotiate(profile.to_structure(), profile.to_structure(), Some(group));
    let dialog = pair.processor.start_dialog(&DialogFacts::default()).unwrap();
    pair.deliver_to_server();
    (pair, group, dialog)
}

fn begin(pair: &mut Pair, group: GroupId, dialog: DialogId, command: Command) -> Xid {
    let xid = pair.processor.start_transaction(group, pair.now).unwrap();
    pair.processor.start_original(xid, &OriginalStart::new(dialog, command)).unwrap();
    xid
}

/// A pair whose transaction 1 carries the reply to RCPT, with that in front.
fn with_reply() -> (Pair, Xid) {
    let (mut pair, group, dialog) = negotiated(&profile());
    let xid = begin(&mut pair, group, dialog, Command::Rcpt);
    pair.processor.send_original(xid, Part::Command, LINE, true).unwrap();
    pair.processor.send_original(xid, Part::Reply, REPLY, true).unwrap();
    pair.processor.end_original(xid, OcpResult::ok()).unwrap();
    let seen = pair.deliver_to_server();
    assert!(matches!(seen.last(), Some(Event::OriginalEnded { .. })), "{seen:?}");
    (pair, xid)
}

/// What a server says to a DUM of this part after these octets.
fn server_says(auxiliary: bool, command: &str, parts: &[&str]) -> String {
    let auxiliary = if auxiliary { "Aux-Parts: (command)\r\n" } else { "" };
    let mut text = format!(
        "CS;\r\nNO ({{\"17:ocp://smtp/dialog\"\r\nVersion: 1\r\n}});\r\nSGC 1 ({{x}});\r\n\
         NO ({{\"16:ocp://smtp/reply\"\r\nCommands: (GREETING,RCPT,MESSAGE)\r\n{auxiliary}}})\r\n\
         SG: 1\r\n;\r\nDialog-Start 1;\r\nTS 1 1;\r\nAMS 1\r\nDialog: 1\r\nCommand: {command}\r\n;\r\n"
    );
    for (at, part) in parts.iter().enumerate() {
        text.push_str(&format!("DUM 1 {at}\r\nAM-Part: {part}\r\n\r\n1:x\r\n;\r\n"));
    }
    let now = Instant::now();
    let mut server = Connection::new(Role::Server, Config::default(), now);
    server.input().extend_from_slice(text.as_bytes());
    server.handle_input(now);
    while let Some(event) = server.poll_event() {
        if let Event::Offered(offer) = event {
            let feature = offer.features.first().cloned();
            let response = ocp_proto::Response { feature, ..ocp_proto::Response::default() };
            server.respond(response).unwrap();
        }
    }
    let sent = take_text(&mut server);
    sent.split_once("TE 1 ").map(|(_, end)| end.to_owned()).unwrap_or_default()
}

/// OPES-4236-3.2.1-04
#[test]
fn a_reply_comes_behind_its_command_if_that_was_negotiated() {
    let wrong = |part: &str| format!("part {part} does not fit here (SMTP profile section 4)");
    let cases: &[(bool, &str, &[&str], Option<&str>)] = &[
        (true, "RCPT", &["command", "reply", "reply"], None),
        (true, "RCPT", &["command", "command", "reply"], None),
        // What is not there can't be sent (RFC 4236 section 3.2.1).
        (true, "RCPT", &["reply"], None),
        (true, "RCPT", &["command", "reply", "command"], Some("command")),
        (true, "RCPT", &["command", "message-body"], Some("message-body")),
        (true, "RCPT", &["message-header"], Some("message-header")),
        (true, "GREETING", &["reply"], None),
        (true, "GREETING", &["command"], Some("command")),
        (true, "MESSAGE", &["reply"], None),
        (true, "MESSAGE", &["command"], Some("command")),
        (false, "RCPT", &["reply"], None),
        (false, "RCPT", &["command"], Some("command")),
    ];
    for (auxiliary, command, parts, refused) in cases {
        let said = server_says(*auxiliary, command, parts);
        match refused {
            None => assert_eq!(said, "", "{command} {parts:?}"),
            Some(part) => assert!(said.contains(&wrong(part)), "{command} {parts:?}: {said}"),
        }
        // A processor does not send what its server would refuse.
        let auxiliary_parts = if *auxiliary { vec![Part::Command] } else { Vec::new() };
        let (mut pair, group, dialog) = negotiated(&ReplyProfile { auxiliary_parts, ..profile() });
        let command = Command::from_name(command.as_bytes()).unwrap();
        let xid = begin(&mut pair, group, dialog, command);
        let sent: Result<(), Misuse> = parts.iter().try_for_each(|part| {
            let part = Part::from_name(part.as_bytes()).unwrap();
            pair.processor.send_original(xid, part, "x", true)
        });
        let rule = refused.map(|part| Part::from_name(part.as_bytes()).unwrap().name());
        assert_eq!(sent.err(), rule.map(|part| Rule::PartOrder(part).into()), "{parts:?}");
    }
}

#[test]
fn auxiliary_octets_are_never_used() {
    let size = LINE.len() as u32;
    let whole = size + REPLY.len() as u32;
    let (mut pair, xid) = with_reply();
    assert_eq!((pair.server.auxiliary(xid), pair.server.preserved(xid)), (size, size..whole));
    pair.server.start_adapted(xid, Vec::new(), &AdaptedStart::default()).unwrap();
    for range in [0..whole, 0..1, size - 1..whole] {
        let misuse = pair.server.use_preserved(xid, range, None);
        assert_eq!(misuse, Err(Rule::AuxiliaryUsed.into()));
    }
    pair.server.use_preserved(xid, size..whole, None).unwrap();
    // A server that does it all the same.
    for text in ["DUY 1 0 5;\r\n", "DUY 1 12 5;\r\n", "DUY 1 0 5\r\nAM-Part: reply\r\n;\r\n"] {
        let (mut pair, xid) = with_reply();
        let (seen, sent) =
            feed(&mut pair.processor, format!("AMS 1;\r\n{text}").as_bytes(), pair.now);
        assert!(is_te400(&sent, 1), "{sent}");
        let reason = Rule::AuxiliaryUsed.to_string();
        assert!(
            matches!(seen.last(), Some(Event::TransactionEnded { xid: of, result, .. })
                if *of == xid && result.reason() == reason),
            "{seen:?}"
        );
    }
    // As long as the reply has not begun nobody knows where the command ends.
    let (mut pair, group, dialog) = negotiated(&profile());
    let xid = begin(&mut pair, group, dialog, Command::Rcpt);
    pair.processor.send_original(xid, Part::Command, LINE, true).unwrap();
    pair.deliver_to_server();
    assert_eq!(pair.server.preserved(xid), size..size);
    let (_, sent) = feed(&mut pair.processor, b"AMS 1;\r\nDUY 1 0 1;\r\n", pair.now);
    assert!(sent.ends_with("auxiliary octets (SMTP profile section 4)\"};\r\n"), "{sent}");
}

#[test]
fn an_adapted_reply_is_a_reply_and_nothing_else() {
    for part in [Part::Command, Part::MessageHeader, Part::MessageBody] {
        let (mut pair, xid) = with_reply();
        pair.server.start_adapted(xid, Vec::new(), &AdaptedStart::default()).unwrap();
        let rule = Rule::PartOrder(part.name());
        assert_eq!(pair.server.send_adapted(xid, part, "x", None), Err(rule.clone().into()));
        let text = format!("AMS 1;\r\nDUM 1 0\r\nAM-Part: {}\r\n\r\n1:x\r\n;\r\n", part.name());
        let (_, sent) = feed(&mut pair.processor, text.as_bytes(), pair.now);
        assert!(sent.contains(&rule.to_string()), "{sent}");
    }
    // One reply, and no others for some recipients.
    let (mut pair, xid) = with_reply();
    let start = AdaptedStart {
        id: AdaptedMessageId::new(1),
        role: Some(AdaptedRole::Reply),
        ..AdaptedStart::default()
    };
    let refused = pair.server.start_adapted(xid, Vec::new(), &start);
    assert_eq!(refused, Err(Rule::NotNegotiated("Multiple-Messages".into()).into()));
}

#[test]
fn a_reply_is_as_it_was_wherever_its_command_ends() {
    let (mut pair, xid) = with_reply();
    let size = LINE.len() as u32;
    pair.server.start_adapted(xid, Vec::new(), &AdaptedStart::default()).unwrap();
    let data = |as_is| AdaptedData {
        part: Some(Part::Reply),
        as_is: Some(as_is),
        modp: Some(0),
        ..AdaptedData::default()
    };
    assert_eq!(
        pair.server.send_adapted_data(xid, data(0), "5"),
        Err(Rule::ModpBroken.into()),
        "the command's octets are not the reply's"
    );
    pair.server.send_adapted_data(xid, data(size), "550").unwrap();
    let end = size + REPLY.len() as u32;
    pair.server.use_preserved(xid, size + 3..end, None).unwrap();
    pair.server.end_adapted(xid, &AdaptedEnd::default()).unwrap();
    pair.server.end_transaction(xid, &OcpResult::ok(), false).unwrap();
    let seen = pair.deliver_to_processor();
    let preserved = Event::Preserved { xid, part: None, range: size + 3..end };
    assert!(seen.contains(&preserved), "{seen:?}");
    assert!(
        matches!(seen.last(), Some(Event::TransactionEnded { result, .. }) if result.is_success())
    );
}

#[test]
fn what_a_reply_does_not_have_fails_on_both_sides() {
    let retry = SideEffect::RetryCommand {
        line: CommandLine::new("RCPT TO:<c@d>").unwrap(),
        next_hop: Some("mx.example:25".into()),
    };
    let ends = [
        (AdaptedEnd { side_effects: vec![retry], ..AdaptedEnd::default() }, None),
        (
            AdaptedEnd {
                side_effects: vec![SideEffect::ChangeSender(ocp_proto::smtp::Address::null())],
                ..AdaptedEnd::default()
            },
            Some(Rule::NotNegotiated("change-sender".into())),
        ),
        (
            AdaptedEnd { valid_for: Some(60), ..AdaptedEnd::default() },
            Some(Rule::NotReusable("a reply to RCPT".into())),
        ),
    ];
    for (end, rule) in ends {
        let (mut pair, xid) = with_reply();
        pair.server.start_adapted(xid, Vec::new(), &AdaptedStart::default()).unwrap();
        pair.server.send_adapted(xid, Part::Reply, "550 no\r\n", None).unwrap();
        let ended = pair.server.end_adapted(xid, &end);
        assert_eq!(ended.err(), rule.clone().map(Misuse::Rule));
        let Some(rule) = rule else {
            let seen = pair.deliver_to_processor();
            let Some(Event::AdaptedEnded { end: told, .. }) = seen.last() else {
                panic!("{seen:?}")
            };
            assert_eq!(*told, end);
            continue;
        };
        let text = match end.valid_for {
            Some(_) => "AMS 1;\r\nAME 1\r\nValid-For: 60\r\n;\r\n",
            None => {
                "AMS 1;\r\nAME 1\r\nSide-Effects: ({change-sender\r\nAddress: {\"2:<>\"}\r\n})\r\n;\r\n"
            }
        };
        let (_, sent) = feed(&mut pair.processor, text.as_bytes(), pair.now);
        assert!(sent.contains(&rule.to_string()), "{sent}");
    }
    // Nothing of a reply is left to the processor.
    let (mut pair, group, dialog) = negotiated(&profile());
    let xid = begin(&mut pair, group, dialog, Command::Rcpt);
    pair.deliver_to_server();
    let leaving = pair.server.want_stop_sending(xid);
    assert_eq!(leaving, Err(Rule::NoEarlyEnd("DWSS").into()));
    let (_, sent) = feed(&mut pair.processor, b"DWSS 1;\r\n", pair.now);
    assert!(sent.contains(&Rule::NoEarlyEnd("DWSS").to_string()), "{sent}");
}

#[test]
fn a_command_and_a_reply_of_a_dialog_may_be_open_at_a_time_but_not_two() {
    let (mut pair, replies, dialog) = negotiated(&profile());
    let commands = pair.processor.create_group(vec![service("ocp://service/x")]).unwrap();
    let offer = message_profile().to_structure();
    pair.negotiate(offer.clone(), offer, Some(commands));
    begin(&mut pair, replies, dialog, Command::Rcpt);
    begin(&mut pair, commands, dialog, Command::Mail);
    // Those that are only watched wait for nobody.
    begin(&mut pair, replies, dialog, Command::Mail);
    let seen = pair.deliver_to_server();
    assert!(!seen.iter().any(|event| matches!(event, Event::TransactionEnded { .. })), "{seen:?}");
    for (group, command) in [(replies, Command::Greeting), (commands, Command::Message)] {
        let xid = pair.processor.start_transaction(group, pair.now).unwrap();
        let start = OriginalStart::new(dialog, command.clone());
        assert_eq!(pair.processor.start_original(xid, &start), Err(Rule::DialogBusy.into()));
        pair.deliver_to_server();
        let text = format!("AMS {xid}\r\nDialog: {dialog}\r\nCommand: {command}\r\n;\r\n");
        let (_, sent) = feed(&mut pair.server, text.as_bytes(), pair.now);
        assert!(sent.contains(&Rule::DialogBusy.to_string()), "{sent}");
    }
    // What was not negotiated is no event, on either side.
    let xid = pair.processor.start_transaction(replies, pair.now).unwrap();
    let start = OriginalStart::new(dialog, Command::Data);
    let misuse = pair.processor.start_original(xid, &start);
    assert_eq!(misuse, Err(Misuse::NotNegotiated("DATA".into())));
    pair.deliver_to_server();
    let text = format!("AMS {xid}\r\nDialog: {dialog}\r\nCommand: DATA\r\n;\r\n");
    let (_, sent) = feed(&mut pair.server, text.as_bytes(), pair.now);
    assert!(sent.contains("DATA was not negotiated"), "{sent}");
}

/// OPES-4236-3.2.3-01
#[test]
fn choosing_more_than_was_offered_ends_the_connection() {
    let offered = ReplyProfile {
        commands: vec![Command::Rcpt],
        auxiliary_parts: Vec::new(),
        observed: Vec::new(),
        side_effects: Vec::new(),
        on_failure: None,
    };
    let chosen = [
        ("Commands: (RCPT,MAIL)\r\n", Rule::BeyondOffer("Commands").to_string()),
        ("Observed: (RCPT)\r\n", Rule::BeyondOffer("Observed").to_string()),
        (
            "Commands: (RCPT)\r\nSide-Effects: (disconnect)\r\n",
            Rule::BeyondOffer("Side-Effects").to_string(),
        ),
        (
            "Commands: (RCPT)\r\nAux-Parts: (command)\r\n",
            Rule::BeyondOffer("Aux-Parts").to_string(),
        ),
        ("Commands: (CONNECT)\r\n", "SMTP-Reply-Profile".to_owned()),
    ];
    for (members, reason) in chosen {
        let (mut pair, _, _) = negotiated(&profile());
        let group = pair.processor.create_group(vec![service("ocp://service/x")]).unwrap();
        let features = vec![offered.to_structure()];
        let offer = ocp_proto::Offer { features, group: Some(group), pending: false };
        pair.processor.offer(offer).unwrap();
        crate::support::take(&mut pair.processor);
        let text = format!("NR {{\"16:ocp://smtp/reply\"\r\n{members}}}\r\nSG: {group}\r\n;\r\n");
        let (seen, sent) = feed(&mut pair.processor, text.as_bytes(), pair.now);
        assert!(is_ce400(&sent) && sent.contains(&reason), "{members}: {sent}");
        let Some(Event::Closed(Closed::Violation(violation))) = seen.last() else {
            panic!("{seen:?}")
        };
        assert!(violation.rule.to_string().contains(&reason), "{}", violation.rule);
        assert!(events(&mut pair.processor).is_empty());
    }
}

#[test]
fn a_group_without_the_profile_that_is_required_gets_nothing_done() {
    let required = |features: Vec<ocp_proto::wire::Structure>| {
        let config = Config { requires: features, ..Config::default() };
        let mut pair = Pair::with(Config::default(), config);
        let offer = ocp_proto::Offer::default();
        pair.processor.offer(offer).unwrap();
        pair.drive();
        let bare = pair.processor.create_group(vec![service("a")]).unwrap();
        let replies = pair.processor.create_group(vec![service("a")]).unwrap();
        pair.negotiate(profile().to_structure(), profile().to_structure(), Some(replies));
        let started = [bare, replies].map(|group| {
            let xid = pair.processor.start_transaction(group, pair.now).unwrap();
            pair.drive();
            pair.server.has_transaction(xid)
        });
        assert_eq!(pair.server.reply_profile(replies), Some(&profile()));
        started
    };
    let (commands, replies) =
        (CommandProfile::default().to_structure(), ReplyProfile::default().to_structure());
    assert_eq!(required(vec![commands.clone()]), [false, false]);
    assert_eq!(required(vec![replies.clone()]), [false, true]);
    assert_eq!(required(vec![commands, replies]), [false, true]);
    assert_eq!(required(Vec::new()), [true, true]);
    assert_eq!(REPLY_PROFILE, "ocp://smtp/reply");
}
