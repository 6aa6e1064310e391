//! Slow processors against a running `callout-server`: what they do not bring, or do not take, costs
//! them their transaction or their connection, and nobody else anything.

#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing)]

use std::io::ErrorKind;
use std::time::Duration;

use socket2::SockRef;
use tests::peer::{Peer, clean_session, data, message, opening, transact};
use tests::story::{GROWTH, Story};
use tests::text;

/// What ends a transaction, and what a connection.
const TRANSACTION: &str = "the original message comes too slowly";
const MESSAGE: &str = "a message comes too slowly";

/// Sizes that are only declared allocate nothing.
#[test]
fn payloads_that_never_come() {
    let mut story = Story::start("[timeouts]\ntransaction = 1\n");
    let mut peers: Vec<Peer> = (0..64).map(|_| story.open()).collect();
    for peer in &mut peers {
        peer.send("TS 1 1;\r\nAMS 1\r\nDialog: 1\r\nCommand: MESSAGE\r\n;\r\n");
        peer.send("DUM 1 0\r\nAM-Part: message-header\r\n\r\n2147483647:Subject: x");
    }
    for peer in &mut peers {
        let answer = peer.read_message("TE 1 ");
        assert!(answer.contains(TRANSACTION), "{answer}");
    }
    let line = story.server.wait_for("ended without an answer");
    assert!(text(&line, "reason").contains(TRANSACTION), "{line}");
    // Nothing but payload is left to be read on such a connection.
    for peer in peers {
        story.ended_for(peer, MESSAGE);
    }
    story.survived();
    let mut peer = story.open();
    peer.send("TS 1 1;\r\nAMS 1\r\nDialog: 1\r\nCommand: MESSAGE\r\nAM-EL: 2147483647\r\n;\r\n");
    let answer = peer.read_message("TE 1 ");
    assert!(answer.contains("more than the 104857600 octets"), "{answer}");
    let name = peer.name();
    drop(peer);
    story.server.wait_for_peer("disconnected", &name);
    story.survived();
    story.end();
}

/// Sends one piece after the other, with a pause behind each, until there is none left or something
/// comes back.
fn trickle(peer: &mut Peer, pieces: impl Iterator<Item = Vec<u8>>) {
    const PAUSE: Duration = Duration::from_millis(20);
    let patience = peer.stream().read_timeout().unwrap();
    peer.stream().set_read_timeout(Some(PAUSE)).unwrap();
    for piece in pieces {
        if peer.try_send(piece).is_err() {
            break;
        }
        let read = peer.read();
        if !matches!(&read, Err(error) if error.kind() == ErrorKind::WouldBlock) {
            break;
        }
    }
    peer.stream().set_read_timeout(patience).unwrap();
}

fn leave(mut peer: Peer) {
    peer.send("Dialog-End 1;\r\nCE;\r\n");
    assert_eq!(peer.read_to_end(), "");
}

fn letters() -> impl Iterator<Item = Vec<u8>> {
    std::iter::repeat_n(b"x".to_vec(), 100_000)
}

#[test]
fn writers_that_stop() {
    let config = "[timeouts]\nhandshake = 1\ntransaction = 1\nidle = 2\nping = 2\n";
    let mut story = Story::start(config);
    // Before the handshake is done: nothing, or half of something.
    for octets in ["", "C", "CS;\r\n", "CS;\r\nNO ({\"17:ocp://smtp/dia"] {
        let mut peer = story.connect();
        peer.send(octets);
        story.ended_for(peer, "timeout: no CS and no offer came");
    }
    // One octet after the other does not buy time.
    let mut peer = story.connect();
    trickle(&mut peer, std::iter::once(b"CS;\r\nNO x".to_vec()).chain(letters()));
    story.ended_for(peer, "timeout: no CS and no offer came");
    // Half a message, then silence.
    let mut peer = story.open();
    peer.send("Dialog-Upd");
    story.ended_for(peer, MESSAGE);
    // Half of a transaction, then silence; and it keeps nobody waiting after that.
    let mut peer = story.open();
    peer.send(message(1, 1, "A: b\r\n\r\n", "body\r\n", false)[..3].concat());
    let answer = peer.read_message("TE 1 ");
    assert!(answer.contains(TRANSACTION), "{answer}");
    story.ended_for(peer, "timeout: PQ was not answered");
    // No more octets will come, but the peer listens on.
    let mut peer = story.open();
    peer.send("Dialog-Upd");
    peer.end_output();
    let name = peer.name();
    assert_eq!(peer.read_to_end(), "");
    let line = story.server.wait_for_peer("connection lost", &name);
    assert_eq!(line["mid_message"], true);
    story.survived();
    story.end();
}

/// After the handshake one octet after the other buys no time either.
#[test]
fn writers_that_trickle() {
    let config = "[timeouts]\ntransaction = 1\ntransaction-octets = 1000\n";
    let mut story = Story::start(config);
    // A message whose next octet is always about to come.
    let mut peer = story.open();
    let whole = message(1, 1, "A: b\r\n\r\n", "", false);
    peer.send(whole[..3].concat());
    trickle(&mut peer, (0..).map(|offset| data(1, 8 + offset, "message-body", "x", false)));
    let answer = peer.read_message("TE 1 ");
    assert!(answer.contains(TRANSACTION) && answer.contains("fewer than 1000 octets in 1 s"));
    let line = story.server.wait_for("ended without an answer");
    assert!(text(&line, "reason").contains(TRANSACTION), "{line}");
    // It ended alone.
    transact(&mut peer, 2);
    leave(peer);
    // A head, and a payload that nobody waits for.
    for begin in ["Dialog-Update 1 x", "Nonsense\r\n1000000:"] {
        let mut peer = story.open();
        peer.send(begin);
        trickle(&mut peer, letters());
        story.ended_for(peer, MESSAGE);
    }
    // Slow, but fast enough: the message is much longer than what has to come in a second.
    let mut peer = story.open();
    let body = "A line of it.\r\n".repeat(1_000);
    let whole = message(3, 1, "A: b\r\n\r\n", &body, true).concat();
    trickle(&mut peer, whole.chunks(150).map(<[u8]>::to_vec));
    let answer = peer.read_message("TE 3");
    assert!(answer.ends_with("TE 3;\r\n"), "{answer}");
    leave(peer);
    story.end();
}

/// Octets may come one at a time; the answer is the same.
#[test]
fn one_octet_at_a_time() {
    let story = Story::start("");
    let mut messages = opening(&["virus-scan", "log"]);
    messages.extend(message(1, 1, "Subject: x\r\n\r\n", "body\r\n", true));
    let mut peer = story.connect();
    let mut slow_reader = story.connect();
    slow_reader.send(messages.concat());
    for octet in messages.concat().chunks(1) {
        peer.send(octet);
    }
    let answer = peer.read_message("TE 1");
    assert!(answer.ends_with("TE 1;\r\n"), "{answer}");
    let mut octet = [0];
    let mut read = Vec::new();
    while !read.ends_with(b"TE 1;\r\n") {
        std::io::Read::read_exact(&mut slow_reader.stream(), &mut octet).unwrap();
        read.push(octet[0]);
    }
    leave(peer);
    leave(slow_reader);
    story.end();
}

/// Who does not read gets no more work done than fits his socket, and is given up in the end.
/// OPES-3837-2.1.2-01
#[test]
fn readers_that_never_read() {
    let mut story = Story::start("[timeouts]\nidle = 2\nping = 2\n");
    let mut names = Vec::new();
    let mut peers = Vec::new();
    // Nobody keeps them, so that they come back as long as they are.
    let body = "A line of a message that nobody keeps.\r\n".repeat(200);
    for _ in 0..8 {
        // Events that are only observed need not wait for each other.
        let mut peer = Peer::open(story.server.address(), &["log"]);
        names.push(peer.name());
        SockRef::from(peer.stream()).set_recv_buffer_size(64 * 1024).unwrap();
        peer.stream().set_write_timeout(Some(Duration::from_millis(200))).unwrap();
        let mut sent = 0;
        let mut xids = 1..;
        // 64 MB of messages; the server stops to read long before.
        while sent < 64 * 1024 * 1024
            && let Some(xid) = xids.next()
            && let octets = message(xid, 1, "Subject: x\r\n\r\n", &body, false).concat()
            && peer.try_send(&octets).is_ok()
        {
            sent += octets.len();
        }
        assert!(sent < 64 * 1024 * 1024, "the server reads on without being read");
        peers.push(peer);
    }
    clean_session(story.server.address());
    let growth = story.server.memory().saturating_sub(story.memory);
    assert!(growth < GROWTH, "{growth}");
    for name in &names {
        let line = story.server.wait_for_peer("the peer broke a rule", name);
        println!("{}", text(&line, "violation"));
        story.server.wait_for_peer("disconnected", name);
    }
    drop(peers);
    story.survived();
    story.end();
}
