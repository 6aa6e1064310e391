//! The bodies over the corpora and over what is near the grammar.

use proptest::prelude::*;

use super::*;

#[test]
fn the_corpora_hold() {
    crate::fuzzing::run_corpus("connection_server", connection_server);
    crate::fuzzing::run_corpus("connection_processor", connection_processor);
}

/// What the harness shows of octets in one piece.
fn seen(octets: &str, start: (Connection, Vec<Xid>)) -> Seen {
    run(octets.as_bytes(), octets.len(), Way::Input, start, Instant::now())
}

#[test]
fn the_harness_reaches_the_end_of_a_transaction_in_both_roles() {
    let now = Instant::now();
    let server = Connection::new(Role::Server, Config::default(), now);
    let (events, sent) = seen(&PROCESSOR.concat(), (server, Vec::new()));
    assert!(events.iter().any(|e| matches!(e, Event::OriginalEnded { .. })), "{events:?}");
    let sent = String::from_utf8_lossy(&sent).into_owned();
    assert!(sent.contains("AMS 1;\r\nDUY 1 0 17;\r\nAME 1;\r\nTE 1;\r\n"), "{sent}");
    assert!(sent.contains("AMS 2;\r\nDUY 2 13 8;\r\nAME 2;\r\nTE 2;\r\n"), "{sent}");

    let (events, _) = seen(&SERVER.concat(), processor_with_transactions(now).unwrap());
    let successes = events
        .iter()
        .filter(|e| matches!(e, Event::TransactionEnded { result, .. } if result.is_success()));
    assert_eq!(successes.count(), 3, "{events:?}");
    assert!(matches!(events.last(), Some(Event::Closed(Closed::ByPeer(_)))), "{events:?}");
}

/// With the agreement and the handshake in front, the same comes to the same end.
#[test]
fn the_harness_goes_on_with_tls_in_both_roles() {
    let now = Instant::now();
    let reaches = |(events, sent): &Seen, count: usize| {
        assert!(events.contains(&Event::StartTls), "{events:?}");
        let ended = |event: &&Event| {
            let succeeded = |result: &OcpResult| result.is_success();
            matches!(event, Event::TransactionEnded { result, .. } if succeeded(result))
                || matches!(event, Event::OriginalEnded { .. })
        };
        assert_eq!(events.iter().filter(ended).count(), count, "{events:?}");
        // It was held back until the handshake was done.
        let sent = String::from_utf8_lossy(sent);
        assert!(sent.contains("PQ;\r\n"), "{sent}");
    };
    let server = Connection::new(Role::Server, Config::default(), now);
    let octets = [PROCESSOR[0], OFFER, &PROCESSOR[1..].concat()].concat();
    reaches(&seen(&octets, (server, Vec::new())), 2);
    let octets = [RESPONSE, &SERVER.concat()].concat();
    reaches(&seen(&octets, processor_that_offers_tls(now).unwrap()), 3);
}

/// The messages of a processor, in an order that makes sense.
const PROCESSOR: [&str; 24] = [
    "CS;\r\n",
    "NO ({\"17:ocp://smtp/dialog\"\r\nVersion: 1\r\n});\r\n",
    "SGC 1 ({\"17:ocp://service/log\"});\r\n",
    "NO ({\"18:ocp://smtp/command\"\r\nCommands: (MAIL,MESSAGE)\r\n})\r\nSG: 1\r\n;\r\n",
    "Dialog-Start 1;\r\n",
    "TS 1 1;\r\n",
    "AMS 1\r\nDialog: 1\r\nCommand: MESSAGE\r\n;\r\n",
    "DUM 1 0\r\nKept: {0 11}\r\nAM-Part: message-header\r\n\r\n11:Subject: x\n\r\n;\r\n",
    "DUM 1 11\r\nKept: {0 17}\r\nAM-Part: message-body\r\n\r\n6:\n\n\n\n\n\n\r\n;\r\n",
    "AME 1;\r\n",
    "DPI 1 0 5;\r\n",
    "PQ\r\nXid: 1\r\n;\r\n",
    "TE 1;\r\n",
    "Dialog-Outcome 1 1 {200};\r\n",
    "SGC 2 ({\"17:ocp://service/log\"});\r\n",
    "NO ({\"16:ocp://smtp/reply\"\r\nCommands: (GREETING,RCPT)\r\nAux-Parts: (command)\r\n})\r\nSG: 2\r\n;\r\n",
    "TS 2 2;\r\n",
    "AMS 2\r\nDialog: 1\r\nCommand: RCPT\r\n;\r\n",
    "DUM 2 0\r\nKept: {0 13}\r\nAM-Part: command\r\n\r\n13:RCPT TO:<a@b>\r\n;\r\n",
    "DUM 2 13\r\nKept: {0 21}\r\nAM-Part: reply\r\n\r\n8:550 no\r\n\r\n;\r\n",
    "DPI 2 0 13;\r\n",
    "AME 2;\r\n",
    "Dialog-End 1;\r\n",
    "TE 1 {400};\r\n",
];

/// TLS, offered and agreed on, with the handshake behind it.
const OFFER: &str = "NO ({\"44:http://www.iana.org/assignments/opes/ocp/tls\"});\r\n\x16";
const RESPONSE: &str = "NR {\"44:http://www.iana.org/assignments/opes/ocp/tls\"};\r\n\x16";

/// And those of a server.
const SERVER: [&str; 20] = [
    "AMS 1;\r\n",
    "PR 1;\r\n",
    "DUM 1 0\r\nAM-Part: message-header\r\n\r\n6:X: y\r\n\r\n;\r\n",
    "DUY 1 0 15;\r\n",
    "DUY 1 15 19;\r\n",
    "AME 1;\r\n",
    "TE 1;\r\n",
    "PQ;\r\n",
    "AMS 2;\r\n",
    "DUM 2 0\r\nAM-Part: reply\r\n\r\n16:550 5.1.8 sorry\n\r\n;\r\n",
    "AME 2;\r\n",
    "TE 2;\r\n",
    "AMS 3;\r\n",
    "DUM 3 0\r\nAM-Part: reply\r\n\r\n4:550-\r\n;\r\n",
    "DUY 3 30 14;\r\n",
    "DUY 3 26 18;\r\n",
    "AME 3\r\nSide-Effects: ({retry-command \"13:RCPT TO:<c@d>\"})\r\n;\r\n",
    "TE 3;\r\n",
    "Dialog-Drain;\r\n",
    "CE;\r\n",
];

/// Messages, and for every other one of these lists an agreement on TLS behind its first `before`.
fn near_grammar(
    messages: &'static [&'static str],
    before: usize,
    tls: &'static str,
) -> impl Strategy<Value = Vec<u8>> {
    let message = prop_oneof![
        16 => proptest::sample::select(messages).prop_map(str::to_owned),
        1 => Just(tls.to_owned()),
        4 => (proptest::sample::select(messages), any::<u16>(), any::<u8>()).prop_map(
            |(message, at, octet)| {
                let mut message = message.as_bytes().to_vec();
                let at = usize::from(at) % message.len();
                message[at] = octet & 0x7f;
                String::from_utf8_lossy(&message).into_owned()
            }
        ),
    ];
    // Mostly in order, so that it gets far.
    (any::<bool>(), before..=messages.len(), proptest::collection::vec(message, 0..12)).prop_map(
        move |(agrees, sensible, rest)| {
            let (first, second) = messages[..sensible].split_at(before);
            let tls = if agrees { tls } else { "" };
            [&first.concat(), tls, &second.concat(), &rest.concat()].concat().into_bytes()
        },
    )
}

proptest! {
    #[test]
    fn any_octets_hold(octets in proptest::collection::vec(any::<u8>(), 0..300)) {
        connection_server(&octets);
        connection_processor(&octets);
    }

    #[test]
    fn near_grammar_holds_for_a_server(octets in near_grammar(&PROCESSOR, 1, OFFER)) {
        connection_server(&octets);
    }

    #[test]
    fn near_grammar_holds_for_a_processor(octets in near_grammar(&SERVER, 0, RESPONSE)) {
        connection_processor(&octets);
    }
}
