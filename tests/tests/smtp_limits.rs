//! `opes-mta smtp`: how many clients there may be, and how long both sides may take.

#![allow(missing_docs, clippy::indexing_slicing)]

use std::thread::sleep;
use std::time::{Duration, Instant};

use tests::actor::{actor, config};
use tests::gateway::told;
use tests::postfix::{self, Port, Postfix};
use tests::scripted::Scripted;
use tests::smtp::{Client, Instead, NextHop, is_queued};
use tests::{Milter, not_run, text};

const MAIL: &str = "Subject: x\r\n\r\nx\r\n";

const TOO_MANY: &str = "421 4.3.2 Too many connections, try again later";

/// Longer than anything here waits for.
const VERY_LONG: Duration = Duration::from_secs(60);

struct Chain {
    _server: Scripted,
    proxy: Milter,
    hop: NextHop,
    folder: tempfile::TempDir,
}

fn chain(hop: NextHop, limits: &str, more: &[&str]) -> Chain {
    let server = Scripted::start(&[actor()]);
    let folder = tempfile::tempdir().expect("a folder");
    let next_hop = format!("127.0.0.1:{}", hop.port);
    let arguments = [&["--listen", "127.0.0.1:0", "--next-hop", &next_hop], more].concat();
    let config = format!("{limits}{}", config(&server));
    let proxy = Milter::start_proxy_with(&arguments, folder.path(), &config);
    Chain { _server: server, proxy, hop, folder }
}

/// A client that is let in once there is a place.
fn let_in(port: u16) -> Client {
    let deadline = Instant::now() + VERY_LONG;
    loop {
        let (client, greeting) = Client::connect(port);
        if greeting.starts_with("220 ") {
            return client;
        }
        assert!(greeting == TOO_MANY && Instant::now() < deadline, "{greeting}");
        sleep(Duration::from_millis(10));
    }
}

#[test]
fn who_is_one_too_many_hears_so() {
    let mut chain = chain(NextHop::start(), "[limits]\nconnections = 2\n", &[]);
    let port = chain.proxy.port();
    let (mut first, mut second) = (Client::greeted(port), Client::greeted(port));
    for _ in 0..10 {
        let (mut third, greeting) = Client::connect(port);
        assert_eq!((&greeting[..], &third.reply()[..]), (TOO_MANY, ""));
    }
    let line = chain.proxy.wait_for("too many connections");
    assert_eq!((&line["level"], &line["refused"]), (&"WARN".into(), &1.into()), "{line}");
    // Nobody else notices.
    let mut mail = |client: &mut Client| {
        let reply = client.mail("a@a.example", &["b@b.example"], MAIL.as_bytes());
        assert_eq!(reply, "250 2.0.0 taken");
        let line = chain.proxy.wait_for("message");
        assert!(told(&line).starts_with("accept <a@a.example> -> <b@b.example>\n"), "{line}");
        assert_eq!(text(&line, "client"), "127.0.0.1");
    };
    mail(&mut first);
    assert_eq!(second.say("QUIT"), "221 2.0.0 bye");
    let mut third = let_in(port);
    third.say("EHLO client.example");
    mail(&mut third);
    mail(&mut first);
}

/// Postfix keeps its mail until there is a place.
#[test]
fn postfix_comes_again_where_it_was_one_too_many() {
    if !postfix::is_there() {
        let why = "there is no Postfix, or no root to start it";
        return not_run("Postfix as one client too many", why);
    }
    let chain = chain(NextHop::start(), "[limits]\nconnections = 1\n", &[]);
    let mut first = Client::greeted(chain.proxy.port());
    let ports = [Port::default()];
    let postfix = Postfix::start(chain.folder.path(), &ports, chain.proxy.port(), &[]);
    let reply =
        Client::greeted(postfix.ports[0]).mail("a@a.example", &["b@b.example"], MAIL.as_bytes());
    assert!(is_queued(&reply), "{reply}");
    postfix.wait_for(&["to=<b@b.example>", "status=deferred", TOO_MANY]);
    assert!(first.say("QUIT").starts_with("221 "));
    let mut next = let_in(chain.proxy.port());
    assert!(next.say("QUIT").starts_with("221 "));
    let deadline = Instant::now() + VERY_LONG;
    while chain.hop.is_empty() {
        assert!(Instant::now() < deadline, "{}", postfix.log());
        postfix.flush();
        sleep(Duration::from_millis(200));
    }
    assert_eq!(chain.hop.wait_for(1)[0].recipients, ["b@b.example"]);
}

#[test]
fn a_client_may_be_silent_as_long_as_it_is_told() {
    let mut chain = chain(NextHop::start(), "", &["--client-timeout", "1"]);
    let silence = "421 4.4.2 Nothing came for too long";
    let mut client = Client::greeted(chain.proxy.port());
    assert_eq!((&client.reply()[..], &client.reply()[..]), (silence, ""));
    let line = chain.proxy.wait_for("the dialog of a client broke");
    assert_eq!(text(&line, "cause"), "the client said nothing for 1s", "{line}");
    let mut client = Client::greeted(chain.proxy.port());
    client.say("MAIL FROM:<a@a.example>");
    client.say("RCPT TO:<b@b.example>");
    client.say("DATA");
    client.send(b"Subject: x\r\n");
    assert_eq!((&client.reply()[..], &client.reply()[..]), (silence, ""));
    let line = told(&chain.proxy.wait_for("message"));
    let expected = format!("tempfail <a@a.example> -> <b@b.example>\nreason: {silence}\n");
    assert!(line.starts_with(&expected), "{line}");
    assert!(chain.hop.is_empty());
}

#[test]
fn the_next_hop_may_take_as_long_as_it_is_told() {
    for (word, flag, stage) in [
        ("", "--next-hop-command-timeout", "greeting"),
        ("MAIL", "--next-hop-command-timeout", "MAIL"),
        (".", "--next-hop-content-timeout", "end of content"),
        ("QUIT", "--farewell-timeout", "QUIT"),
    ] {
        let hop = NextHop::unless(move |line| {
            let is_meant = line == word || (!word.is_empty() && line.starts_with(word));
            is_meant.then(|| sleep(VERY_LONG)).map(|()| Instead::HangUp)
        });
        let mut chain = chain(hop, "", &[flag, "1"]);
        let (mut client, mut reply) = Client::connect(chain.proxy.port());
        if !word.is_empty() {
            client.say("EHLO client.example");
            reply = client.mail("a@a.example", &["b@b.example"], MAIL.as_bytes());
        }
        if word == "QUIT" {
            assert_eq!(reply, "250 2.0.0 taken");
            reply = client.say("QUIT");
        }
        assert_eq!(reply, "421 4.4.1 The next mail server is not there, try again later");
        let line = chain.proxy.wait_for("the dialog of a client broke");
        assert_eq!(text(&line, "stage"), stage, "{line}");
        assert!(text(&line, "cause").contains("no answer within 1.000 s"), "{line}");
    }
}
