//! Hostile processors against a running `callout-server`. Whatever they do, others are served as if
//! nothing had happened, and the log says what they did.

#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing)]

use std::io::Write;

use serde_json::Value;
use tests::peer::{Peer, clean_session, command, data, message, opening, outcome};
use tests::story::Story;
use tests::text;

/// Sends `count` messages while the answers are read; all that came, until the server has seen the
/// last message or has ended the connection.
fn flood(mut peer: Peer, count: u32, message: impl Fn(u32) -> Vec<u8> + Send + 'static) -> String {
    let mut stream = peer.stream().try_clone().unwrap();
    let writer = std::thread::spawn(move || {
        for numbers in (0..count).collect::<Vec<_>>().chunks(512) {
            let messages: Vec<u8> = numbers.iter().flat_map(|number| message(*number)).collect();
            if stream.write_all(&messages).is_err() {
                return;
            }
        }
        let _ = stream.write_all(b"AQ {\"6:x://it\"};\r\n");
    });
    let mut looked = 0;
    loop {
        let seen = peer.unread()[looked..].windows(3).any(|octets| octets == b"AA ");
        looked = peer.unread().len().saturating_sub(2);
        if seen || !matches!(peer.read(), Ok(1..)) {
            break;
        }
    }
    writer.join().unwrap();
    String::from_utf8_lossy(peer.unread()).into_owned()
}

#[test]
fn floods_of_valid_messages() {
    let story = Story::start("");
    type Flood = (&'static str, u32, fn(u32) -> Vec<u8>);
    let floods: [Flood; 5] = [
        ("PQ", 20_000, |_| b"PQ;\r\n".to_vec()),
        ("NO", 2_000, |_| b"NO ({\"17:ocp://smtp/dialog\"\r\nVersion: 1\r\n});\r\n".to_vec()),
        ("unknown", 20_000, |_| b"Nonsense (1,2,{3 4}) x;\r\n".to_vec()),
        ("PQ for a transaction", 5_000, |_| b"PQ 1;\r\n".to_vec()),
        ("groups", 2_000, |number| {
            let group = number + 2;
            format!("SGC {group} ({{\"17:ocp://service/log\"}});\r\nSGD {group};\r\n").into()
        }),
    ];
    for (name, count, message) in floods {
        let answer = flood(story.open(), count, message);
        let answers = answer.matches(";\r\n").count();
        println!("{name}: {count} messages, {answers} answers, {} octets", answer.len());
        assert!(answers <= count as usize + 1, "{name}: more answers than questions");
        story.survived();
    }
    // Data that carries nothing, in a transaction that goes nowhere.
    let mut peer = story.open();
    peer.send(message(1, 1, "A: b\r\n\r\n", "", false)[..2].concat());
    flood(peer, 20_000, |_| data(1, 0, "message-header", "", false));
    story.survived();
    story.end();
}

#[test]
fn floods_beyond_the_limits() {
    let mut story = Story::start("[limits]\ngroups = 8\ndialogs = 64\ntransactions = 64\n");
    let peer = story.open();
    let name = peer.name();
    let answer = flood(peer, 100, |number| {
        format!("SGC {} ({{\"17:ocp://service/log\"}});\r\n", number + 2).into()
    });
    assert!(answer.contains("CE {400"), "{answer}");
    let line = story.server.wait_for_peer("the peer broke a rule", &name);
    assert_eq!(text(&line, "violation"), "more than 8 service groups");
    story.survived();

    // One transaction or dialog too many costs only itself.
    let peer = story.open();
    let name = peer.name();
    let answer = flood(peer, 2_000, |number| format!("TS {} 1;\r\n", number + 1).into());
    assert!(answer.starts_with("TE 65 {400 \"35:more than 64 transactions at a time\"};"));
    let line = story.server.wait_for_peer("refused", &name);
    assert_eq!(text(&line, "violation"), "more than 64 transactions at a time");
    story.survived();
    let answer =
        flood(story.open(), 2_000, |number| format!("Dialog-Start {};\r\n", number + 2).into());
    assert!(answer.starts_with("Dialog-End 65 {400 \"30:more than 64 dialogs at a time\"};"));
    story.survived();
    story.end();
}

#[test]
fn connections_beyond_the_limit() {
    let mut story = Story::start("[limits]\nconnections = 16\n");
    // With the witness.
    let peers: Vec<Peer> = (0..15).map(|_| story.open()).collect();
    for _ in 0..200 {
        let refused = story.connect().read_to_end();
        assert!(refused.is_empty() || refused.contains("too many connections"), "{refused}");
    }
    let line = story.server.wait_for("too many connections: refused");
    assert_eq!(line["limit"], 16);
    let names: Vec<String> = peers.iter().map(Peer::name).collect();
    drop(peers);
    for name in names {
        story.server.wait_for_peer("disconnected", &name);
    }
    story.survived();
    story.end();
}

#[test]
fn octets_that_are_no_ocp() {
    let mut story = Story::start("");
    let hello = "\x16\x03\x01\x02\x00\x01\x00\x01\u{fc}\x03\x03";
    let smtp = "EHLO client.example.net\r\nMAIL FROM:<a@example.org>\r\n";
    let cases: Vec<(String, &str)> = vec![
        (hello.to_owned(), "octet 0 is 0x16: expected a message name"),
        ("GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(), "octet 4 is '/'"),
        (smtp.to_owned(), "octet 11 is '.'"),
        ("\0".repeat(100_000), "octet 0 is 0x00: expected a message name"),
        ("PQ;\r\n".to_owned(), "the first message is CS"),
        ("CS;\r\nTS 1 1;\r\n".to_owned(), "immediately after its CS"),
        (format!("CS;\r\nNO {}", "(".repeat(100_000)), "fewer nested values"),
        (format!("CS;\r\nNO {}", "{a ".repeat(100_000)), "fewer nested values"),
        (format!("CS;\r\nNO ({}", "a,".repeat(100_000)), "fewer values in one message"),
        ("A".repeat(1_000_000), "fewer octets in one message"),
        (format!("CS;\r\nNO ()\r\n{}", "A".repeat(1_000_000)), "fewer octets in one message"),
        (
            format!("CS;\r\nNO \"2147483647:{}", "A".repeat(1_000_000)),
            "fewer octets in one message",
        ),
        ("CS;\r\nNO \"2147483648:".to_owned(), "a size of at most 2147483647"),
        (format!("CS;\r\nNO \"{}", "9".repeat(1_000_000)), "a size of at most 2147483647"),
        (format!("CS;\r\nNO {}", "9".repeat(1_000_000)), "fewer octets in one message"),
    ];
    for (octets, rule) in cases {
        let mut peer = story.connect();
        // The server may end the connection before it has read everything.
        let _ = peer.try_send(&octets);
        story.ended_for(peer, rule);
    }
    // The same inside a session.
    for (octets, rule) in [
        ("DUM 1 0\r\n2147483648:".to_owned(), "a size of at most 2147483647"),
        ("DUM 1 0\r\n3:abcd".to_owned(), "CRLF ';' CRLF right after the payload"),
        (format!("AMS 1\r\nRecipients: ({}", "{a},".repeat(50_000)), "fewer values"),
    ] {
        let mut peer = story.open();
        let _ = peer.try_send(&octets);
        story.ended_for(peer, rule);
    }
    story.end();
}

/// OPES-3837-3.1-01
#[test]
fn resets_at_every_place() {
    let mut story = Story::start("");
    let mut messages = opening(&["virus-scan", "spam-score", "log"]);
    messages.extend(command(1, 1, "MAIL FROM:<steve@example.org>", true));
    messages.push(outcome(1, 1));
    messages.extend(message(2, 1, "Subject: x\r\n\r\n", "body\r\n", true));
    messages.push(outcome(1, 2));
    messages.push(b"Dialog-End 1;\r\n".to_vec());
    messages.push(b"CE;\r\n".to_vec());
    let mut resets = 0;
    for count in 0..=messages.len() {
        // At the boundary, then inside of the next message.
        let next = messages.get(count).map(Vec::as_slice).unwrap_or_default();
        for part in [0, 1, next.len() / 2, next.len().saturating_sub(1)] {
            let mut peer = story.connect();
            peer.send(messages[..count].concat());
            // Everything so far has taken effect, where the server can say so.
            if (2..messages.len()).contains(&count) {
                peer.synchronise();
            }
            let _ = peer.try_send(&next[..part.min(next.len())]);
            let name = peer.name();
            peer.reset();
            story.server.wait_for_peer("disconnected", &name);
            resets += 1;
        }
        clean_session(story.server.address());
    }
    println!("{resets} resets");
    story.end();
}

#[test]
fn nothing_counts_after_ce() {
    let mut story = Story::start("");
    for garbage in ["\0\x01\x02", "CS;\r\n", "TS 1 1;\r\n", "((((", "\"2147483647:"] {
        let mut peer = story.open();
        let name = peer.name();
        peer.send(["CE;\r\n", garbage].concat());
        assert_eq!(peer.read_to_end(), "");
        let from = story.server.lines.len();
        story.server.wait_for_peer("disconnected", &name);
        let broken = |line: &&Value| text(line, "message") == "the peer broke a rule";
        assert_eq!(story.server.lines[from..].iter().find(broken), None);
    }
    story.survived();
    story.end();
}
