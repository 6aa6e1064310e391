//! `opes-mta smtp` between clients and next hops that mean it ill: every failure is said to the client and
//! in the log, nothing arrives that was not accepted, nothing arrives twice, and memory is bounded.

#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing)]

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ocp_proto::smtp::{Command, EffectName, SideEffect};
use services::{Declaration, Finding, Outcome};
use socket2::SockRef;
use tests::gateway::told;
use tests::peer::Peer;
use tests::scripted::{Script, Scripted, address, sender};
use tests::smtp::{Client, Instead, NextHop};
use tests::story::GROWTH;
use tests::{Milter, text};

const MAIL: &[u8] = b"Subject: x\r\n\r\nx\r\n";

/// What nothing happens in for so long has stopped.
const QUIET: Duration = Duration::from_millis(500);

const BROKE: &str = "the dialog of a client broke";

struct Chain {
    _server: Scripted,
    proxy: Milter,
    hop: NextHop,
    /// Of the proxy, before anybody came.
    memory: u64,
    _folder: tempfile::TempDir,
}

fn chain(hop: NextHop, more: &str) -> Chain {
    let commands = [Command::Mail, Command::Rcpt, Command::Message];
    let passes = Script {
        name: "passes",
        declaration: Declaration {
            effects: vec![EffectName::AddRecipient],
            ..Declaration::on(commands)
        },
        answer: |request| {
            let passed = Outcome::unchanged(Finding::new("passed"));
            let adds = request.command == Command::Mail && sender(request) == "more";
            let added = SideEffect::AddRecipient(address("added@b.example"));
            (Duration::ZERO, if adds { passed.with_effect(added) } else { passed })
        },
    };
    let server = Scripted::start(&[passes]);
    let folder = tempfile::tempdir().unwrap();
    let config = format!(
        "[[group]]\nname = \"a\"\nservices = [\"passes\"]\nservers = [\"{}\"]\n{more}",
        server.address
    );
    let next_hop = format!("127.0.0.1:{}", hop.port);
    let proxy = Milter::start_proxy("127.0.0.1:0", &next_hop, folder.path(), &config);
    let memory = proxy.memory();
    Chain { _server: server, proxy, hop, memory, _folder: folder }
}

impl Chain {
    fn peer(&self) -> Peer {
        let mut peer = Peer::connect(&format!("127.0.0.1:{}", self.proxy.port()));
        peer.read_until(b"220 next.example ESMTP\r\n");
        peer
    }

    /// Others are served, and little memory was taken at any time.
    fn survived(&self) {
        let mut client = Client::greeted(self.proxy.port());
        assert_eq!(client.mail("a@a.example", &["b@b.example"], MAIL), "250 2.0.0 taken");
        assert_eq!(self.hop.wait_for(1)[0].octets, MAIL);
        assert!(self.hop.is_empty());
        let growth = self.proxy.peak_memory().saturating_sub(self.memory);
        println!("{} KiB more at the most", growth / 1024);
        assert!(growth < GROWTH, "the proxy grew by {growth} octets");
    }
}

#[test]
fn lines_that_are_none() {
    let chain = chain(NextHop::start(), "");
    let mut client = Client::greeted(chain.proxy.port());
    for (line, expected) in [
        ("x".repeat(100_000), "500 5.5.2 "),
        (format!("NOOP {}", "x".repeat(5_000)), "500 5.5.2 "),
        ("MAIL FROM:<nul\0@a.example>".to_owned(), "500 5.5.2 "),
        ("NOOP\nMAIL FROM:<a@a.example>".to_owned(), "500 5.5.2 "),
        ("NOOP\rMAIL FROM:<a@a.example>".to_owned(), "500 5.5.2 "),
        ("\u{fffd}\u{0}\u{1}".to_owned(), "500 5.5.2 "),
        (String::new(), "500 5.5.2 "),
        ("MAIL FROM:<a@a.example".to_owned(), "501 5."),
    ] {
        let reply = client.say(&line);
        assert!(reply.starts_with(expected), "{expected}: {reply}");
    }
    assert_eq!(client.say("NOOP"), "250 ok");
    // What a chunk is can't be told once its line is none.
    client.send(b"BDAT x\r\nMAIL FROM:<a@a.example>\r\n");
    assert!(client.reply().starts_with("501 5.5.4 "));
    assert_eq!(client.reply(), "");
    // A line without end is thrown away as it comes.
    let mut peer = chain.peer();
    for _ in 0..1_000 {
        peer.send([b'x'; 64 * 1024]);
    }
    peer.send(b"\r\nQUIT\r\n");
    let said = peer.read_to_end();
    assert!(said.starts_with("500 ") && said.ends_with("\r\n221 2.0.0 bye\r\n"), "{said}");
    chain.survived();
}

#[test]
fn nothing_counts_behind_quit() {
    let chain = chain(NextHop::start(), "");
    let mut peer = chain.peer();
    peer.send(
        b"EHLO x\r\nMAIL FROM:<a@a.example>\r\nRCPT TO:<b@b.example>\r\nQUIT\r\nDATA\r\nx\r\n.\r\n",
    );
    let said = peer.read_to_end();
    assert!(said.ends_with("\r\n250 2.1.5 ok\r\n221 2.0.0 bye\r\n"), "{said}");
    chain.survived();
}

#[test]
fn content_without_end() {
    let mut chain = chain(NextHop::start(), "[limits]\nmessage-octets = 4000000\n");
    let message = ("The message", "the message has more than 4000000 octets");
    let header = ("The header section", "the header section has more than 1048576 octets");
    for (line, megabytes, (what, cause)) in [
        ("X-Field: of an endless header section\r\n", 64, header),
        ("\r\n", 8, message),
        ("\r\n.x\r\n", 8, message),
        ("\0", 64, header),
    ] {
        let mut peer = chain.peer();
        peer.send("EHLO x\r\nMAIL FROM:<a@a.example>\r\nRCPT TO:<b@b.example>\r\nDATA\r\n");
        peer.read_until(b"354 End data with <CR><LF>.<CR><LF>\r\n");
        let piece = line.repeat(1_000_000 / line.len());
        for _ in 0..megabytes {
            peer.send(&piece);
        }
        peer.send("\r\n.\r\nQUIT\r\n");
        let said = peer.read_to_end();
        let expected = format!("552 5.3.4 {what} is too large\r\n221 2.0.0 bye\r\n");
        assert_eq!(said, expected, "{line:?}");
        let line = told(&chain.proxy.wait_for("message"));
        assert!(line.starts_with("reject <a@a.example> -> <b@b.example>\n"), "{line}");
        assert!(line.contains(&format!("\nfailure: {cause}")), "{line}");
    }
    chain.survived();
}

/// Replies are not kept for who does not read them.
#[test]
fn clients_that_never_read() {
    let help = format!("214-{}\r\n", "x".repeat(500)).repeat(16) + "214 end\r\n";
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let hop = NextHop::unless(move |line| {
        (line == "HELP").then(|| {
            count.fetch_add(1, Ordering::Relaxed);
            Instead::Say(help.clone().into_bytes())
        })
    });
    let chain = chain(hop, "");
    let mut peer = chain.peer();
    SockRef::from(peer.stream()).set_recv_buffer_size(64 * 1024).unwrap();
    peer.stream().set_write_timeout(Some(QUIET)).unwrap();
    let lines = b"HELP\r\n".repeat(10_000);
    let sent = (0..1_000).take_while(|_| peer.try_send(&lines).is_ok()).count();
    assert!(sent < 1_000, "the proxy reads on without being read");
    let mut before = 0;
    while before != asked.load(Ordering::Relaxed) {
        before = asked.load(Ordering::Relaxed);
        assert!(chain.proxy.memory() < chain.memory + GROWTH, "after {before} replies");
        std::thread::sleep(QUIET);
    }
    println!("{before} replies until nothing more was asked");
    assert!(before > 1);
    chain.survived();
    drop(peer);
}

#[test]
fn commands_by_the_thousand() {
    const COMMANDS: usize = 5_000;
    let chain = chain(NextHop::start(), "");
    let mut client = Client::greeted(chain.proxy.port());
    client.send(&b"NOOP\r\n".repeat(COMMANDS));
    client.send(b"MAIL FROM:<a@a.example>\r\n");
    for _ in 0..COMMANDS {
        assert_eq!(client.reply(), "250 ok");
    }
    assert_eq!(client.reply(), "250 2.1.0 ok");
    let recipients = b"RCPT TO:<b@b.example>\r\n".repeat(COMMANDS);
    client.send(&recipients);
    let accepted = (0..COMMANDS).filter(|_| client.reply() == "250 2.1.5 ok").count();
    assert_eq!(accepted, 1_000);
    assert_eq!(client.data(MAIL), "250 2.0.0 taken");
    assert_eq!(chain.hop.wait_for(1)[0].recipients.len(), accepted);
    chain.survived();
}

/// Wherever a client goes away: only a message that is whole arrives, and it arrives once.
#[test]
fn clients_that_go_away_at_every_octet() {
    let chain = chain(NextHop::start(), "");
    let begin = "EHLO x\r\nMAIL FROM:<a@a.example>\r\nRCPT TO:<b@b.example>\r\n";
    for (content, end) in [
        ("DATA\r\nSubject: x\r\n\r\n..\r\n.\r\n", "QUIT\r\n"),
        ("BDAT 12\r\nSubject: x\r\nBDAT 5 LAST\r\n\r\n.\r\n", "QUIT\r\n"),
    ] {
        let session = [begin, content, end].concat();
        let whole = begin.len() + content.len();
        for length in 0..=session.len() {
            // It says that nothing more comes, and listens on.
            let mut peer = chain.peer();
            peer.send(&session.as_bytes()[..length]);
            peer.end_output();
            let said = peer.read_to_end();
            let is_accepted = said.contains("250 2.0.0 taken\r\n");
            assert_eq!(is_accepted, length >= whole, "{length}: {said}");
            // It is not there any more.
            if length < whole {
                let mut peer = chain.peer();
                peer.send(&session.as_bytes()[..length]);
                peer.reset();
            }
            let expected = usize::from(is_accepted);
            assert_eq!(chain.hop.len(), expected, "{length}");
            for mail in chain.hop.wait_for(expected) {
                assert_eq!(String::from_utf8_lossy(&mail.octets), "Subject: x\r\n\r\n.\r\n");
            }
        }
    }
    chain.survived();
}

#[test]
fn a_client_that_breaks_off_a_chunk() {
    let mut chain = chain(NextHop::start(), "");
    let mut peer = chain.peer();
    peer.send(
        "EHLO x\r\nMAIL FROM:<a@a.example>\r\nRCPT TO:<b@b.example>\r\nBDAT 1000000000 LAST\r\n",
    );
    peer.send("Subject: x\r\n\r\nMAIL FROM:<c@a.example>\r\n.\r\n");
    peer.read_until(b"250 2.1.5 ok\r\n");
    peer.end_output();
    assert_eq!(peer.read_to_end(), "");
    let line = told(&chain.proxy.wait_for("message"));
    assert!(line.starts_with("abandoned <a@a.example> -> <b@b.example>"), "{line}");
    let line = chain.proxy.wait_for(BROKE);
    assert_eq!(
        (text(&line, "stage").as_str(), text(&line, "cause").as_str()),
        ("client", "the client went away in the middle of a message")
    );
    chain.survived();
}

/// What a next hop does at a certain line; see [`NextHop::unless`].
type Turn = Option<(&'static str, Instead)>;

/// A next hop that does what the story says at the moment.
fn turning() -> (NextHop, Arc<Mutex<Turn>>) {
    let turn = Arc::new(Mutex::new(None));
    let now: Arc<Mutex<Turn>> = Arc::clone(&turn);
    let hop = NextHop::unless(move |line| {
        let verb = line.get(..4).unwrap_or(line);
        let turn = now.lock().unwrap();
        turn.as_ref().filter(|(at, _)| *at == verb).map(|(_, instead)| instead.clone())
    });
    (hop, turn)
}

/// A whole session: whether the message was accepted, and the first reply that is no success, if there is one.
fn session(port: u16) -> (bool, Option<String>) {
    let (mut client, greeting) = Client::connect(port);
    let steps: [&dyn Fn(&mut Client) -> String; 6] = [
        &|_| greeting.clone(),
        &|client| client.say("EHLO x"),
        &|client| client.mail("a@a.example", &["b@b.example"], MAIL),
        &|client| client.say("NOOP"),
        &|client| client.say("RSET"),
        &|client| client.say("QUIT"),
    ];
    for (number, step) in steps.into_iter().enumerate() {
        let reply = step(&mut client);
        if !reply.starts_with('2') {
            if reply.starts_with("421") {
                assert_eq!(client.reply(), "", "behind {reply}");
            }
            return (number > 2, Some(reply));
        }
    }
    (true, None)
}

/// Lines of the next hop, where the log says it is lost there, and mails that have arrived by then.
const LINES: [(&str, &str, usize); 9] = [
    ("", "greeting", 0),
    ("EHLO", "EHLO", 0),
    ("MAIL", "MAIL", 0),
    ("RCPT", "RCPT", 0),
    ("DATA", "DATA", 0),
    (".", "end of content", 0),
    ("NOOP", "command", 1),
    ("RSET", "RSET", 1),
    ("QUIT", "QUIT", 1),
];

#[test]
fn next_hops_that_are_lost_at_every_command() {
    let (hop, turn) = turning();
    let mut chain = chain(hop, "");
    let say = |octets: &[u8]| Instead::Say(octets.to_vec());
    let nonsense = [
        (Instead::HangUp, "it hung up"),
        (say(b"nonsense\r\n"), "it does not speak SMTP: "),
        (say(b"250 a bare\nLF\r\n"), "it does not speak SMTP: "),
        (say(b"250-one\r\n550 other\r\n"), "it does not speak SMTP: "),
        (say(b"\0\xff\x16\x03\x01\r\n"), "it does not speak SMTP: "),
        (say(&[b'2'; 100_000]), "it does not speak SMTP: "),
        (say(&b"250-again\r\n".repeat(10_000)), "it does not speak SMTP: "),
    ];
    for (line, stage, arrived) in LINES {
        for (instead, cause) in &nonsense {
            *turn.lock().unwrap() = Some((line, instead.clone()));
            let (is_accepted, reply) = session(chain.proxy.port());
            let expected = "421 4.4.1 The next mail server is not there, try again later";
            assert_eq!(reply.as_deref(), Some(expected), "{line}: {instead:?}");
            assert_eq!(is_accepted, arrived > 0, "{line}: {instead:?}");
            let broke = chain.proxy.wait_for(BROKE);
            assert_eq!(text(&broke, "stage"), stage, "{broke}");
            assert!(text(&broke, "cause").contains(cause), "{cause}: {broke}");
            // A next hop may have taken what it can't say.
            let is_taken = matches!(instead, Instead::Say(said) if said.starts_with(b"2"));
            let arrived = arrived + usize::from(line == "." && is_taken);
            assert_eq!(chain.hop.len(), arrived, "{line}: {instead:?}");
            chain.hop.wait_for(arrived);
            if ["RCPT", "DATA", "."].contains(&line) {
                let lines = &chain.proxy.lines;
                let message = lines.iter().rfind(|line| line["message"] == "message").unwrap();
                let told = told(message);
                let recipients = if line == "RCPT" { "-" } else { "<b@b.example>" };
                let start = format!("tempfail <a@a.example> -> {recipients}\nreason: {expected}");
                assert!(told.starts_with(&start), "{line}: {told}");
            }
        }
    }
    *turn.lock().unwrap() = None;
    assert_eq!(session(chain.proxy.port()), (true, None));
    chain.hop.wait_for(1);
    chain.survived();
    chain.proxy.terminate();
    let (code, lines) = chain.proxy.ended();
    assert_eq!(code, Some(0));
    let broke = lines.iter().filter(|line| line["message"] == BROKE).count();
    assert_eq!(broke, LINES.len() * nonsense.len(), "one line a failure");
}

/// A reply that no client could make sense of is no acceptance.
#[test]
fn next_hops_that_say_what_has_no_place() {
    let (hop, turn) = turning();
    let mut chain = chain(hop, "");
    for (line, said, cause) in [
        ("MAIL", "354 go on", "354 is no reply to MAIL"),
        ("RCPT", "334 ", "334 is no reply to RCPT"),
        ("DATA", "250 2.0.0 taken", ""),
        ("DATA", "334 ", ""),
        (".", "354 go on", "354 is no reply to the content"),
        (".", "353 each", "353 is no reply to the content"),
    ] {
        *turn.lock().unwrap() = Instead::say(said).map(|instead| (line, instead));
        let told = session(chain.proxy.port());
        let expected = "421 4.5.0 The next mail server makes no sense, try again later".to_owned();
        assert_eq!(told, (false, Some(expected)), "{line}: {said}");
        if line == "DATA" {
            // It is the proxy's own answer to the message.
            let message = chain.proxy.wait_for("message");
            assert!(text(&message, "reason").starts_with("421 4.5.0 "), "{message}");
        } else {
            let broke = chain.proxy.wait_for(BROKE);
            assert_eq!(text(&broke, "stage"), "reply", "{broke}");
            assert!(text(&broke, "cause").ends_with(cause), "{broke}");
        }
        assert!(chain.hop.is_empty());
    }
    // One reply too many would be taken for the next one.
    let unasked = "it spoke without being asked";
    for (line, said, stage, cause) in [
        ("MAIL", "250 ok\r\n250 ok", "RCPT", unasked),
        ("RCPT", "250 ok\r\n250 ok", "DATA", unasked),
        ("DATA", "354 go on\r\n250 2.0.0 taken", "content", "it said: 250 2.0.0 taken"),
    ] {
        *turn.lock().unwrap() = Instead::say(said).map(|instead| (line, instead));
        let told = session(chain.proxy.port());
        let expected = "421 4.4.1 The next mail server is not there, try again later".to_owned();
        assert_eq!(told, (false, Some(expected)), "{line}: {said}");
        let broke = chain.proxy.wait_for(BROKE);
        assert_eq!(text(&broke, "stage"), stage, "{broke}");
        assert!(text(&broke, "cause").contains(cause), "{broke}");
        assert!(chain.hop.is_empty());
    }
    *turn.lock().unwrap() = None;
    chain.survived();
}

/// What it says is what the client hears, and nothing has arrived.
#[test]
fn next_hops_that_refuse() {
    let (hop, turn) = turning();
    let chain = chain(hop, "");
    for line in ["MAIL", "RCPT", "DATA", "."] {
        for said in ["450 4.2.0 later", "554 5.7.1 never", "421 4.3.2 closing"] {
            *turn.lock().unwrap() = Instead::say(said).map(|instead| (line, instead));
            assert_eq!(session(chain.proxy.port()), (false, Some(said.to_owned())), "{line}");
            assert!(chain.hop.is_empty());
        }
    }
    *turn.lock().unwrap() = None;
    chain.survived();
}

/// An envelope that is not forgotten is not added to.
#[test]
fn next_hops_that_do_not_forget() {
    let (hop, turn) = turning();
    let chain = chain(hop, "");
    let mut client = Client::greeted(chain.proxy.port());
    *turn.lock().unwrap() = Instead::say("451 4.3.0 not now").map(|instead| ("RSET", instead));
    let reply = client.mail("more@a.example", &["b@b.example"], MAIL);
    assert_eq!(reply, "421 4.4.1 The next mail server is not there, try again later");
    assert!(chain.hop.is_empty());
    *turn.lock().unwrap() = None;
    let mut client = Client::greeted(chain.proxy.port());
    let reply = client.mail("more@a.example", &["b@b.example"], MAIL);
    assert_eq!(reply, "250 2.0.0 taken");
    assert_eq!(chain.hop.wait_for(1)[0].recipients, ["b@b.example", "added@b.example"]);
    chain.survived();
}

#[test]
fn a_next_hop_that_takes_its_time() {
    let hop = NextHop::unless(|_| {
        std::thread::sleep(Duration::from_millis(100));
        None
    });
    let chain = chain(hop, "");
    assert_eq!(session(chain.proxy.port()), (true, None));
    assert_eq!(chain.hop.wait_for(1)[0].octets, MAIL);
    chain.survived();
}

/// What was read with a single octet is not kept.
#[test]
fn one_octet_at_a_time() {
    let chain = chain(NextHop::start(), "");
    let body = "A line.\r\n".repeat(1_000);
    let session = format!(
        "EHLO x\r\nMAIL FROM:<a@a.example>\r\nRCPT TO:<b@b.example>\r\nDATA\r\nA: b\r\n\r\n{body}.\r\nQUIT\r\n"
    );
    let mut stream = TcpStream::connect(("127.0.0.1", chain.proxy.port())).unwrap();
    stream.set_nodelay(true).unwrap();
    for octet in session.as_bytes().chunks(1) {
        stream.write_all(octet).unwrap();
    }
    stream.shutdown(Shutdown::Write).unwrap();
    let mut said = String::new();
    stream.read_to_string(&mut said).unwrap();
    assert!(said.ends_with("\r\n250 2.0.0 taken\r\n221 2.0.0 bye\r\n"), "{said}");
    assert!(chain.hop.wait_for(1)[0].octets.ends_with(body.as_bytes()));
    chain.survived();
}
