//! The client of the next hop, and next hops that keep to no rule.

#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing)]

use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use ocp_proto::smtp::{Address, CommandLine};
use opes_mta::relay::{
    Answer, Cause, Connection, Expected, Message, NextHop, Options, Origin, Outcome, Pool,
    PoolLimits, RelayError, Stage,
};
use opes_mta::smtp::Protocol;
use opes_mta::smtp::reply::InvalidReply;

#[path = "support/next_hop.rs"]
mod next_hop;

use next_hop::{Peer, serve, serve_one};

fn line(text: &str) -> CommandLine {
    CommandLine::new(text.to_owned()).unwrap()
}

fn address(path: &str) -> Address {
    Address::new(path.to_owned()).unwrap()
}

fn message(content: &[u8]) -> Message<&[u8]> {
    let size = content.len() as u64;
    Message { content, size, is_eight_bit: false, has_utf8_header: false }
}

/// Delivers a small message to so many recipients, `<1@b.example>` and so on.
async fn deliver(next_hop: &Arc<NextHop>, recipients: usize, content: &[u8]) -> Vec<Outcome> {
    let mut connection = Connection::open(next_hop).await.unwrap();
    let outcomes = deliver_over(&mut connection, recipients, content).await;
    connection.quit().await;
    outcomes
}

async fn deliver_over(
    connection: &mut Connection,
    recipients: usize,
    content: &[u8],
) -> Vec<Outcome> {
    let recipients: Vec<_> = (1..=recipients).map(|n| address(&format!("<{n}@b>"))).collect();
    let options = Options::default();
    connection.deliver(&address("<a@a>"), &recipients, message(content), options).await
}

/// Outcomes in a word each: `+`, `deferred` or `failed` with stage and status, and what was said.
fn words(outcomes: &[Outcome]) -> Vec<String> {
    let error = |word: &str, error: &RelayError| {
        let said = error.reply().map(|reply| format!(" {}", reply.code()));
        format!("{word} {} {}{}", error.stage, error.status(), said.unwrap_or_default())
    };
    let words = outcomes.iter().map(|outcome| match outcome {
        Outcome::Delivered { reply, notifies } => format!("+ {reply} {notifies}"),
        Outcome::Deferred(cause) => error("deferred", cause),
        Outcome::Failed(cause) => error("failed", cause),
    });
    words.collect()
}

const TEXT: &[u8] = b"Subject: x\r\n\r\n.dot\r\n";

#[tokio::test]
async fn commands_go_out_together_where_that_is_offered() {
    let script = serve_one(|mut peer| {
        peer.greet(&["PIPELINING", "DSN"]);
        // All of them have come before any is answered.
        let lines: Vec<_> = (0..4).map(|_| peer.line()).collect();
        peer.say("250 sender\n250 first\n550 5.1.1 second\n354 go on");
        let content: Vec<_> = (0..4).map(|_| peer.line()).collect();
        peer.say("250 2.0.0 taken");
        peer.answer("QUIT", "221 bye");
        (lines, content)
    });
    let outcomes = deliver(&script.next_hop(), 2, TEXT).await;
    assert_eq!(words(&outcomes), ["+ 250 2.0.0 taken true", "failed RCPT 5.1.1 550"]);
    let (lines, content) = script.ended().await.remove(0);
    assert_eq!(lines, ["MAIL FROM:<a@a>", "RCPT TO:<1@b>", "RCPT TO:<2@b>", "DATA"]);
    assert_eq!(content, ["Subject: x", "", "..dot", "."]);
}

#[tokio::test]
async fn commands_wait_for_each_other_where_it_is_not() {
    let script = serve_one(|mut peer| {
        peer.greet(&["SIZE 1000"]);
        peer.answer("MAIL FROM:<a@a> SIZE=20", "250 ok");
        peer.answer("RCPT TO:<1@b>", "450 4.2.0 later");
        peer.answer("RCPT TO:<2@b>", "250 ok");
        peer.answer("DATA", "452 4.3.1 full");
        peer.answer("QUIT", "221 bye");
    });
    let outcomes = deliver(&script.next_hop(), 2, TEXT).await;
    assert_eq!(words(&outcomes), ["deferred RCPT 4.2.0 450", "deferred DATA 4.3.1 452"]);
    script.ended().await;
}

#[tokio::test]
async fn content_that_is_for_nobody_is_a_dot() {
    for (mail, recipient, expected) in [
        ("250 ok", "550 5.1.1 no", "failed RCPT 5.1.1 550"),
        ("451 4.3.0 later", "503 5.5.1 no sender", "deferred MAIL 4.3.0 451"),
    ] {
        let script = serve_one(move |mut peer| {
            peer.greet(&["PIPELINING"]);
            (0..3).for_each(|_| drop(peer.line()));
            peer.say(&format!("{mail}\n{recipient}\n354 go on"));
            peer.answer(".", "554 5.5.1 no recipients");
            peer.answer("QUIT", "221 bye");
        });
        let outcomes = deliver(&script.next_hop(), 1, TEXT).await;
        assert_eq!(words(&outcomes), [expected]);
        script.ended().await;
    }
}

#[tokio::test]
async fn more_recipients_than_go_out_at_a_time_get_their_own_replies() {
    const COUNT: usize = 200;
    let script = serve_one(|mut peer| {
        peer.greet(&["PIPELINING"]);
        peer.answer("MAIL FROM:<a@a>", "250 ok");
        for n in 1..=COUNT {
            let reply = if n % 3 == 0 { "550 5.1.1 no" } else { "250 ok" };
            peer.answer(&format!("RCPT TO:<{n}@b>"), reply);
        }
        peer.answer("DATA", "354 go on");
        while peer.line() != "." {}
        peer.say("250 taken");
        peer.answer("QUIT", "221 bye");
    });
    let outcomes = deliver(&script.next_hop(), COUNT, TEXT).await;
    for (n, word) in words(&outcomes).into_iter().enumerate() {
        let is_refused = (n + 1) % 3 == 0;
        assert_eq!(word, if is_refused { "failed RCPT 5.1.1 550" } else { "+ 250 taken false" });
    }
    script.ended().await;
}

#[tokio::test]
async fn who_knows_no_ehlo_gets_helo() {
    let script = serve_one(|mut peer| {
        peer.say("220-mx\n220 welcome");
        peer.answer("EHLO mta.example", "502 5.5.2 what");
        peer.answer("HELO mta.example", "250 PIPELINING");
        peer.answer("QUIT", "221 bye");
    });
    let connection = Connection::open(&script.next_hop()).await.unwrap();
    assert_eq!(connection.greeting().unwrap().to_string(), "220-mx / 220 welcome");
    assert_eq!(connection.hello_reply().unwrap().to_string(), "250 PIPELINING");
    assert_eq!(connection.extensions().lines().count(), 0);
    connection.quit().await;
    script.ended().await;
}

fn not_smtp(error: InvalidReply) -> String {
    format!("it does not speak SMTP: {error}")
}

#[tokio::test]
async fn a_greeting_that_is_none_says_why() {
    for (octets, stage, cause) in [
        ("554 5.7.1 not you\r\n", Stage::Greeting, "it said: 554 5.7.1 not you"),
        ("HTTP/1.1 400 Bad Request\r\n", Stage::Greeting, &not_smtp(InvalidReply::Code)),
        ("220 a\n", Stage::Greeting, &not_smtp(InvalidReply::LineEnd)),
        ("220-a\r\n250 b\r\n", Stage::Greeting, &not_smtp(InvalidReply::OtherCode)),
        ("", Stage::Greeting, "it hung up"),
        ("220 a\r\n250 b\r\n", Stage::Hello, "it spoke without being asked"),
        ("220 a\r\n421 4.3.2 down\r\n", Stage::Hello, "it said: 421 4.3.2 down"),
    ] {
        let script = serve_one(move |mut peer| peer.send(octets.as_bytes()));
        let error = Connection::open(&script.next_hop()).await.unwrap_err();
        assert_eq!((error.stage, error.cause.to_string().as_str()), (stage, cause));
        assert!(!error.is_permanent(), "{error}");
        script.ended().await;
    }
}

#[tokio::test]
async fn nobody_who_listens_is_an_error_with_the_address() {
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let next_hop = Arc::new(NextHop::new(address.parse().unwrap(), "mta.example"));
    let error = Connection::open(&next_hop).await.unwrap_err();
    let text = error.to_string();
    let expected = format!("next hop {address}, connecting: no connection: {address}: Connection");
    assert!(text.starts_with(&expected), "{text}");
    assert_eq!(error.status().to_string(), "4.4.1");
}

#[tokio::test]
async fn each_wait_has_its_own_end() {
    for stage in [Stage::Greeting, Stage::Hello, Stage::Data, Stage::EndOfContent] {
        let mut script = serve_one(move |mut peer| {
            let steps: [(Stage, &str, &str); 5] = [
                (Stage::Hello, "EHLO mta.example", "250 mx"),
                (Stage::Mail, "MAIL FROM:<a@a>", "250 ok"),
                (Stage::Rcpt, "RCPT TO:<1@b>", "250 ok"),
                (Stage::Data, "DATA", "354 go on"),
                (Stage::EndOfContent, "", ""),
            ];
            if stage != Stage::Greeting {
                peer.say("220 mx");
                for (_, line, reply) in steps.into_iter().take_while(|step| step.0 != stage) {
                    peer.answer(line, reply);
                }
                // What it does not answer.
                let is_content = stage == Stage::EndOfContent;
                while is_content && peer.line() != "." {}
                assert!(is_content || !peer.line().is_empty());
            }
            // Octets that come one by one do not make it last longer.
            peer.send(b"2");
            peer.rest()
        });
        let short = Duration::from_millis(80);
        let timeouts = &mut script.next_hop.timeouts;
        match stage {
            Stage::Greeting => timeouts.greeting = short,
            Stage::EndOfContent => timeouts.end_of_content = short,
            Stage::Data => timeouts.data = short,
            _ => timeouts.command = short,
        }
        let error = match Connection::open(&script.next_hop()).await {
            Err(error) => error,
            Ok(mut connection) => {
                let mut outcomes = deliver_over(&mut connection, 1, TEXT).await;
                assert!(!connection.is_usable());
                let Outcome::Deferred(error) = outcomes.remove(0) else { panic!("{outcomes:?}") };
                error
            }
        };
        assert_eq!(error.stage, stage, "{error}");
        assert!(matches!(error.cause, Cause::Silence(limit) if limit == short), "{error}");
        assert!(error.took >= short, "{error}");
        script.ended().await;
    }
}

#[tokio::test]
async fn a_reply_that_nobody_asked_for_is_not_taken_for_the_next_one() {
    let script = serve_one(|mut peer| {
        peer.greet(&[]);
        peer.answer("NOOP", "250 ok\n250 for the next");
        peer.rest()
    });
    let mut connection = Connection::open(&script.next_hop()).await.unwrap();
    connection.command(&line("NOOP")).await.unwrap();
    let error = connection.command(&line("MAIL FROM:<a@a>")).await.unwrap_err();
    assert!(error.stage == Stage::Mail && matches!(error.cause, Cause::Unasked), "{error}");
    let again = connection.reply().await.unwrap_err();
    assert!(matches!(again.cause, Cause::Unasked), "it stays so: {again}");
    drop(connection);
    assert_eq!(script.ended().await, [""], "nothing more was said");
}

#[tokio::test]
async fn a_refusal_in_the_middle_of_the_content_holds() {
    let script = serve_one(|mut peer| {
        peer.greet(&[]);
        for reply in ["250 ok", "250 ok", "354 go on"] {
            drop(peer.line());
            peer.say(reply);
        }
        drop(peer.line());
        peer.say("552 5.3.4 too much");
        // It reads on until the client has understood.
        assert!(!peer.rest().ends_with("\r\n.\r\n"));
    });
    let mut connection = Connection::open(&script.next_hop()).await.unwrap();
    // More than sockets hold.
    let content = b"0123456789\r\n".repeat(2_000_000);
    let outcomes = deliver_over(&mut connection, 1, &content).await;
    assert_eq!(words(&outcomes), ["failed content 5.3.4 552"]);
    drop(connection);
    script.ended().await;
}

#[tokio::test]
async fn a_next_hop_that_goes_in_the_middle_of_the_content_has_no_message() {
    let script = serve_one(|mut peer| {
        peer.greet(&[]);
        for reply in ["250 ok", "250 ok", "354 go on"] {
            drop(peer.line());
            peer.say(reply);
        }
        drop(peer.line());
    });
    let mut connection = Connection::open(&script.next_hop()).await.unwrap();
    let content = b"0123456789\r\n".repeat(2_000_000);
    let outcomes = deliver_over(&mut connection, 1, &content).await;
    assert_eq!(words(&outcomes), ["deferred content 4.4.2"]);
    let [Outcome::Deferred(error)] = &outcomes[..] else { panic!("{outcomes:?}") };
    assert!(matches!(error.cause, Cause::HungUp), "{error}");
    script.ended().await;
}

#[tokio::test]
async fn a_next_hop_that_reads_no_content_is_left() {
    let mut script = serve_one(|mut peer| {
        peer.greet(&[]);
        for reply in ["250 ok", "250 ok", "354 go on"] {
            drop(peer.line());
            peer.say(reply);
        }
        peer
    });
    script.next_hop.timeouts.content = Duration::from_millis(80);
    let mut connection = Connection::open(&script.next_hop()).await.unwrap();
    let content = b"0123456789\r\n".repeat(2_000_000);
    let outcomes = deliver_over(&mut connection, 1, &content).await;
    let [Outcome::Deferred(error)] = &outcomes[..] else { panic!("{outcomes:?}") };
    assert_eq!(error.stage, Stage::Content);
    assert!(matches!(error.cause, Cause::Silence(_)), "{error}");
    script.ended().await;
}

/// How a message ends that must not take effect, and what the next hop has of it.
#[tokio::test]
async fn a_message_that_is_given_up_has_no_end() {
    fn play(mut peer: Peer) -> String {
        peer.greet(&[]);
        for reply in ["250 ok", "250 ok", "354 go on"] {
            drop(peer.line());
            peer.say(reply);
        }
        peer.rest()
    }
    // Too few octets, too many, a line end that is none, and a transfer that is dropped.
    for (size, content, expected) in [
        (21, TEXT, "deferred content 4.3.0"),
        (19, TEXT, "deferred content 4.3.0"),
        (9, &b"a\r\n.\nb\r\n"[..], "failed content 5.6.0"),
    ] {
        let script = serve_one(play);
        let mut connection = Connection::open(&script.next_hop()).await.unwrap();
        let message = Message { content, size, is_eight_bit: false, has_utf8_header: false };
        let to = [address("<1@b>")];
        let outcomes =
            connection.deliver(&address("<a@a>"), &to, message, Options::default()).await;
        assert_eq!(words(&outcomes), [expected]);
        assert!(!connection.is_usable());
        let heard = script.ended().await.remove(0);
        assert!(!heard.contains("\r\n.\r\n") && !heard.contains("QUIT"), "{heard:?}");
    }
    let script = serve_one(play);
    let mut connection = Connection::open(&script.next_hop()).await.unwrap();
    let error = connection.start_tls().await.unwrap_err();
    assert!(matches!(error.cause, Cause::Handshake(_)), "nobody wants it: {error}");
    for text in ["MAIL FROM:<a@a>", "RCPT TO:<1@b>", "DATA"] {
        connection.command(&line(text)).await.unwrap();
    }
    let mut transfer = connection.content();
    transfer.write(b"a\r\n").await.unwrap();
    drop(transfer);
    let error = connection.command(&line("QUIT")).await.unwrap_err();
    assert!(matches!(error.cause, Cause::Aborted), "{error}");
    assert_eq!(script.ended().await, [""]);
}

#[tokio::test]
async fn chunks_have_their_length_and_a_refused_one_ends_the_message() {
    const CHUNK: usize = 128 * 1024;
    for pipelining in [true, false] {
        let script = serve_one(move |mut peer| {
            peer.greet(if pipelining { &["CHUNKING", "PIPELINING"] } else { &["CHUNKING"] });
            let mut heard = Vec::new();
            for is_refused in [false, true] {
                peer.answer("MAIL FROM:<a@a>", "250 ok");
                peer.answer("RCPT TO:<1@b>", "250 ok");
                let mut content = Vec::new();
                loop {
                    let command = peer.line();
                    let Some(size) = command.strip_prefix("BDAT ") else {
                        assert_eq!(command, "RSET");
                        peer.say("250 ok");
                        break;
                    };
                    let size = size.trim_end_matches(" LAST").parse().unwrap();
                    content.extend(peer.octets(size));
                    peer.say(if is_refused { "552 5.3.4 too much" } else { "250 taken" });
                    heard.push(command);
                }
                assert!(is_refused || content == *b".0123456789\n".repeat(50_000));
            }
            heard
        });
        let mut connection = Connection::open(&script.next_hop()).await.unwrap();
        let content = b".0123456789\n".repeat(50_000);
        let outcomes = deliver_over(&mut connection, 1, &content).await;
        assert_eq!(words(&outcomes), ["+ 250 taken false"]);
        connection.reset().await.unwrap();
        let outcomes = deliver_over(&mut connection, 1, &content).await;
        assert_eq!(words(&outcomes), ["failed content 5.3.4 552"]);
        connection.reset().await.unwrap();
        let heard = script.ended().await.remove(0);
        let sizes: Vec<_> = heard.iter().map(String::as_str).collect();
        let whole = format!("BDAT {CHUNK}");
        let last = format!("BDAT {} LAST", content.len() - 4 * CHUNK);
        let under_way = if pipelining { 2 } else { 1 };
        let expected = [vec![whole.as_str(); 4], vec![&last], vec![&whole; under_way]].concat();
        assert_eq!(sizes, expected);
    }
}

#[tokio::test]
async fn lmtp_has_a_reply_for_each_recipient_that_was_accepted() {
    let mut script = serve_one(|mut peer| {
        peer.say("220 mx LMTP");
        assert_eq!(peer.line(), "LHLO mta.example");
        peer.offer(&["PIPELINING"]);
        (0..5).for_each(|_| drop(peer.line()));
        peer.say("250 ok\n250 ok\n550 5.1.1 no\n250 ok\n354 go on");
        while peer.line() != "." {}
        peer.say("250 2.1.5 first\n452 4.2.2 third");
        peer.answer("QUIT", "221 bye");
    });
    script.next_hop.protocol = Protocol::Lmtp;
    let outcomes = deliver(&script.next_hop(), 3, TEXT).await;
    assert_eq!(
        words(&outcomes),
        ["+ 250 2.1.5 first false", "failed RCPT 5.1.1 550", "deferred end of content 4.2.2 452"]
    );
    script.ended().await;
}

#[tokio::test]
async fn lmtp_says_nothing_to_content_that_is_for_nobody() {
    let mut script = serve_one(|mut peer| {
        peer.say("220 mx LMTP");
        assert_eq!(peer.line(), "LHLO mta.example");
        peer.offer(&["PIPELINING"]);
        (0..3).for_each(|_| drop(peer.line()));
        peer.say("250 ok\n550 5.1.1 no\n354 go on");
        peer.rest()
    });
    script.next_hop.protocol = Protocol::Lmtp;
    let outcomes = deliver(&script.next_hop(), 1, TEXT).await;
    assert_eq!(words(&outcomes), ["failed RCPT 5.1.1 550"]);
    assert_eq!(script.ended().await, [""]);
}

#[tokio::test]
async fn lmtp_does_not_fall_back_to_helo() {
    let mut script = serve_one(|mut peer| {
        peer.say("220 mx ESMTP");
        peer.answer("LHLO mta.example", "502 5.5.1 this is SMTP");
        peer.rest()
    });
    script.next_hop.protocol = Protocol::Lmtp;
    let error = Connection::open(&script.next_hop()).await.unwrap_err();
    assert!(matches!(&error.cause, Cause::Refused(reply) if reply.code() == 502), "{error}");
    assert_eq!(script.ended().await, [""]);
}

#[tokio::test]
async fn prdr_has_a_reply_for_each_and_one_for_all() {
    for (replies, expected) in [
        ("353 here they come\n250 one\n550 5.7.1 two\n250 all", ["+ 250 one", "failed 5.7.1"]),
        ("353 here they come\n250 one\n550 5.7.1 two\n451 4.3.0 all", ["deferred 4.3.0"; 2]),
        ("250 all alike", ["+ 250 all alike"; 2]),
        ("554 5.7.0 none", ["failed 5.7.0"; 2]),
    ] {
        let script = serve_one(move |mut peer| {
            peer.greet(&["PRDR"]);
            peer.answer("MAIL FROM:<a@a> PRDR", "250 ok");
            peer.answer("RCPT TO:<1@b>", "250 ok");
            peer.answer("RCPT TO:<2@b>", "250 ok");
            peer.answer("DATA", "354 go on");
            while peer.line() != "." {}
            peer.say(replies);
            peer.answer("QUIT", "221 bye");
        });
        let outcomes = deliver(&script.next_hop(), 2, TEXT).await;
        let found = outcomes.iter().map(|outcome| match outcome {
            Outcome::Delivered { reply, .. } => format!("+ {reply}"),
            Outcome::Deferred(error) => format!("deferred {}", error.status()),
            Outcome::Failed(error) => format!("failed {}", error.status()),
        });
        assert_eq!(found.collect::<Vec<_>>(), expected, "{replies}");
        script.ended().await;
    }
}

#[tokio::test]
async fn secrets_go_out_as_they_are_and_stand_in_no_error() {
    let script = serve_one(|mut peer| {
        peer.greet(&["AUTH PLAIN"]);
        peer.answer("AUTH PLAIN", "334 ");
        let response = peer.line();
        peer.say("334 more");
        peer.answer("", "535 5.7.8 no\n250 unasked");
        response
    });
    let secret = "c2VjcmV0".repeat(400);
    let mut connection = Connection::open(&script.next_hop()).await.unwrap();
    assert_eq!(connection.command(&line("AUTH PLAIN")).await.unwrap().code(), 334);
    connection.push_response(secret.as_bytes()).unwrap();
    assert_eq!(connection.reply().await.unwrap().code(), 334);
    connection.push_response(b"").unwrap();
    assert_eq!(connection.reply().await.unwrap().code(), 535);
    let error = connection.push_response(b"c2VjcmV0\r\nQUIT").unwrap_err();
    assert!(matches!(error.cause, Cause::Line), "{error}");
    assert!(!format!("{error:?} {connection:?}").contains("c2VjcmV0"));
    drop(connection);
    assert_eq!(script.ended().await, [secret]);
}

#[tokio::test]
async fn a_client_is_named_where_the_next_hop_wants_to_know() {
    let script = serve_one(|mut peer| {
        peer.greet(&["XCLIENT ADDR PORT", "XFORWARD ADDR IDENT"]);
        peer.answer("XCLIENT ADDR=192.0.2.1 PORT=[UNAVAILABLE]", "220 mx again");
        assert_eq!(peer.line(), "EHLO client.example");
        peer.offer(&["XFORWARD ADDR IDENT"]);
        peer.answer("XFORWARD ADDR=192.0.2.1 IDENT=Q+20x", "501 5.5.4 no");
    });
    let mut connection = Connection::open(&script.next_hop()).await.unwrap();
    let origin = Origin {
        address: Some("192.0.2.1".parse().unwrap()),
        identifier: Some("Q x".to_owned()),
        ..Origin::default()
    };
    connection.xclient(&origin).await.unwrap();
    connection.hello("client.example").await.unwrap();
    let error = connection.xclient(&origin).await.unwrap_err();
    assert!(matches!(error.cause, Cause::NoXclient), "it is not offered any more: {error}");
    let error = connection.xforward(&origin).await.unwrap_err();
    assert!(matches!(&error.cause, Cause::Refused(reply) if reply.code() == 501), "{error}");
    assert_eq!(error.stage, Stage::Origin);
    drop(connection);
    script.ended().await;
}

#[tokio::test]
async fn a_next_hop_that_forgets_an_envelope_is_told_again_whose_it_is() {
    let script = serve_one(|mut peer| {
        peer.greet(&["XFORWARD ADDR"]);
        peer.answer("XFORWARD ADDR=192.0.2.1", "250 ok");
        peer.answer("RSET", "250 ok");
        peer.answer("XFORWARD ADDR=192.0.2.1", "501 5.5.4 no");
        peer.answer("RSET", "250 ok");
    });
    let mut connection = Connection::open(&script.next_hop()).await.unwrap();
    connection.xforward_again().await.unwrap();
    let address = Some("192.0.2.1".parse().unwrap());
    assert!(connection.xforward(&Origin { address, ..Origin::default() }).await.unwrap());
    connection.reset().await.unwrap();
    // For its log alone: a message goes on without it.
    connection.xforward_again().await.unwrap();
    connection.reset().await.unwrap();
    drop(connection);
    script.ended().await;
}

#[tokio::test]
async fn who_waits_for_somebody_else_hears_the_next_hop_go() {
    let (go, went) = std::sync::mpsc::channel();
    let script = serve_one(move |mut peer| {
        peer.greet(&[]);
        went.recv().unwrap();
        peer.say("421 4.3.2 going down");
    });
    let mut connection = Connection::open(&script.next_hop()).await.unwrap();
    go.send(()).unwrap();
    let error = connection.closed().await;
    assert!(matches!(&error.cause, Cause::Refused(reply) if reply.code() == 421), "{error}");
    script.ended().await;
}

#[tokio::test]
async fn a_connection_serves_messages_as_long_as_it_answers() {
    fn mail(peer: &mut Peer) {
        peer.answer("MAIL FROM:<a@a>", "250 ok");
        peer.answer("RCPT TO:<1@b>", "250 ok");
        peer.answer("DATA", "354 go on");
        while peer.line() != "." {}
        peer.say("250 taken");
    }
    let script = serve(vec![
        Box::new(|mut peer: Peer| {
            peer.greet(&[]);
            mail(&mut peer);
            peer.answer("RSET", "250 ok");
            mail(&mut peer);
            // Gone meanwhile, which RSET finds out.
            peer.answer("RSET", "421 4.4.2 too late");
        }),
        Box::new(|mut peer: Peer| {
            peer.greet(&[]);
            mail(&mut peer);
            peer.answer("RSET", "250 ok");
            mail(&mut peer);
            peer.answer("RSET", "250 ok");
            mail(&mut peer);
            // Its share of messages is done.
            peer.answer("QUIT", "221 bye");
        }),
    ]);
    let limits = PoolLimits { messages: 3, ..PoolLimits::default() };
    let pool = Pool::new(script.next_hop(), limits);
    for _ in 0..5 {
        let mut kept = pool.take().await.unwrap();
        let outcomes = deliver_over(&mut kept.connection, 1, TEXT).await;
        assert_eq!(words(&outcomes), ["+ 250 taken false"]);
        pool.give_back(kept).await;
    }
    assert_eq!(pool.idle(), 0);
    script.ended().await;
}

#[tokio::test]
async fn connections_that_wait_too_long_or_are_too_many_are_closed() {
    let play = || {
        Box::new(|mut peer: Peer| {
            peer.greet(&[]);
            peer.answer("QUIT", "221 bye");
        })
    };
    let script = serve(vec![play(), play()]);
    let idle_timeout = Duration::from_millis(50);
    let pool = Pool::new(script.next_hop(), PoolLimits { idle: 1, idle_timeout, messages: 9 });
    // The scripts are played one after the other: the second connection is greeted when the first is over.
    let first = pool.take().await.unwrap();
    pool.give_back(first).await;
    let second = Connection::open(&script.next_hop()).await.unwrap();
    assert_eq!(pool.idle(), 0, "the first one's time was over");
    second.quit().await;
    script.ended().await;

    let script = serve(vec![play()]);
    let pool = Pool::new(script.next_hop(), PoolLimits { idle: 0, ..PoolLimits::default() });
    let kept = pool.take().await.unwrap();
    pool.give_back(kept).await;
    assert_eq!(pool.idle(), 0, "there was no room for it");
    script.ended().await;
}

#[tokio::test]
async fn answers_are_those_of_their_recipients() {
    let script = serve_one(|mut peer| {
        peer.greet(&[]);
        peer.answer("DATA", "354 go on");
        peer.answer(".", "353 x\n250 a\n450 b\n250 c");
        peer.answer("QUIT", "221 bye");
    });
    let mut connection = Connection::open(&script.next_hop()).await.unwrap();
    connection.command(&line("DATA")).await.unwrap();
    let answer = connection.content().finish(Expected::Prdr(2)).await.unwrap();
    assert!(matches!(&answer, Answer::Prdr { each, .. } if each.len() == 2));
    assert_eq!(answer.of(1).unwrap().code(), 450);
    assert_eq!(answer.of(2), None);
    connection.quit().await;
    script.ended().await;
}
