//! What services make of the next hop's replies, between a client and `opes-mta smtp`.

#![allow(missing_docs, clippy::indexing_slicing)]

use std::time::Duration;

use ocp_proto::smtp::{Command, EffectName, SideEffect};
use services::{Change, Declaration, Finding, Outcome, Request};
use tests::gateway::told;
use tests::postfix::{self, Port, Postfix};
use tests::scripted::{Script, Scripted, reply};
use tests::smtp::{Client, Instead, NextHop, is_queued};
use tests::{CalloutServer, Milter, not_run, text};

const MAIL: &str = "Subject: x\r\n\r\nbody\r\n";

const SERVICES: &str = r#"
[[services.reply-filter.settings.rule]]
text = '\b[a-z0-9]+\.internal\b'
replacement = "mail.example.com"

[[services.recipient-retry.settings.rule]]
recipient = '^(.+)@old\.example$'
reply = '^550'
address = '${1}@new.example'

[[services.recipient-retry.settings.rule]]
recipient = '^loop([0-9])@'
address = 'loop1@'

[[services.recipient-retry.settings.rule]]
recipient = '@moved\.example$'
next-hop = "127.0.0.1:PORT"
"#;

struct Chain<S> {
    _server: S,
    proxy: Milter,
    folder: tempfile::TempDir,
}

/// A proxy whose group for replies has these services.
fn proxy<S>(server: S, address: &str, services: &str, next_hop: u16, more: &[&str]) -> Chain<S> {
    let folder = tempfile::tempdir().expect("a folder");
    let config = format!(
        "[system]\nuri = \"https://opes.example.org/opes\"\nname = \"mx1\"\n\
         [[group]]\nname = \"mail\"\nservers = [\"{address}\"]\nservices = [\"log\"]\n\
         [[group]]\nname = \"replies\"\nservers = [\"{address}\"]\nservices = [{services}]\n\
         profile = \"reply\"\n"
    );
    let next_hop = format!("127.0.0.1:{next_hop}");
    let arguments = [&["--listen", "127.0.0.1:0", "--next-hop", &next_hop], more].concat();
    let proxy = Milter::start_proxy_with(&arguments, folder.path(), &config);
    Chain { _server: server, proxy, folder }
}

/// A proxy with the services that everybody has; recipients that have moved go to that port.
fn chain(next_hop: u16, moved_to: u16, more: &[&str]) -> Chain<CalloutServer> {
    let folder = tempfile::tempdir().expect("a folder");
    let services = SERVICES.replace("PORT", &moved_to.to_string());
    let server = CalloutServer::start(folder.path(), &services, &[]);
    let address = server.address().to_owned();
    let both = "\"recipient-retry\", \"reply-filter\"";
    let chain = proxy(server, &address, both, next_hop, more);
    drop(folder);
    chain
}

impl<S> Chain<S> {
    fn told(&mut self) -> String {
        told(&self.proxy.wait_for("message"))
    }
}

/// A next hop that says its own name wherever it can, and does not know who has moved.
fn talkative() -> NextHop {
    NextHop::unless(|line| match line {
        "" => Instead::say("220 mx3.internal ESMTP"),
        "." => Instead::say("250 2.0.0 taken by mx3.internal"),
        line if line.starts_with("EHLO") => {
            Instead::say("250-mx3.internal greets you\r\n250 8BITMIME")
        }
        line if line.contains("@old.example") || line.contains("@moved.example") => {
            Instead::say("550 5.1.1 mx3.internal does not know it")
        }
        line if line.contains("loop") => Instead::say("452 4.2.2 mx3.internal is full"),
        "VRFY b" => Instead::say("252 2.0.0 ask mx3.internal"),
        "QUIT" => Instead::say("221 2.0.0 mx3.internal says bye"),
        _ => None,
    })
}

#[test]
fn a_reply_says_no_more_than_it_should() {
    let hop = talkative();
    let mut chain = chain(hop.port, 1, &["--trust", "unix"]);
    let (mut client, greeting) = Client::connect(chain.proxy.port());
    assert_eq!(greeting, "220 mail.example.com ESMTP");
    let offered = client.say("EHLO client.example");
    assert!(offered.starts_with("250-mail.example.com greets you\n250-8BITMIME\n"), "{offered}");
    assert_eq!(client.say("VRFY b"), "252 2.0.0 ask mail.example.com");
    let taken = client.mail("a@a.example", &["b@b.example"], MAIL.as_bytes());
    assert_eq!(taken, "250 2.0.0 taken by mail.example.com");
    assert_eq!(hop.wait_for(1).len(), 1);
    let line = chain.proxy.wait_for("message");
    assert_eq!(text(&line, "decision"), "accept");
    assert!(text(&line, "verdicts").contains("reply-filter=rewritten"), "{line}");
    assert_eq!(client.say("QUIT"), "221 2.0.0 mail.example.com says bye");
}

#[test]
fn a_refused_recipient_is_tried_again_under_another_address() {
    let hop = talkative();
    let mut chain = chain(hop.port, 1, &[]);
    let mut client = Client::greeted(chain.proxy.port());
    client.say("MAIL FROM:<a@a.example>");
    assert_eq!(client.say("RCPT TO:<ann@old.example> NOTIFY=NEVER"), "250 2.1.5 ok");
    assert_eq!(client.say("RCPT TO:<bob@b.example>"), "250 2.1.5 ok");
    // It goes from one address to the other until there were too many.
    assert_eq!(client.say("RCPT TO:<loop2@b.example>"), "452 4.2.2 mail.example.com is full");
    assert_eq!(client.data(MAIL.as_bytes()), "250 2.0.0 taken by mail.example.com");
    let delivered = hop.wait_for(1).remove(0);
    assert_eq!(delivered.recipients, ["ann@new.example", "bob@b.example"]);
    assert_eq!(delivered.parameters[1], "NOTIFY=NEVER");
    let line = chain.told();
    assert!(
        line.starts_with("modify <a@a.example> -> <ann@old.example> <bob@b.example>\n"),
        "{line}"
    );
    assert!(line.contains("refused: <loop2@b.example> 452"), "{line}");
}

/// OPES-4496-4.7-01
#[test]
fn a_refused_recipient_is_tried_again_at_another_next_hop() {
    let (hop, other) = (talkative(), NextHop::start());
    let route = format!("127.0.0.1:{}", other.port);
    let mut chain = chain(hop.port, other.port, &["--spool", "spool", "--route", &route]);
    let mut client = Client::greeted(chain.proxy.port());
    let both = ["ann@moved.example", "bob@b.example"];
    assert_eq!(client.mail("a@a.example", &both, MAIL.as_bytes()), "250 2.0.0 Ok");
    let there = other.wait_for(1).remove(0);
    assert_eq!(
        (&there.recipients[..], &there.sender[..]),
        (&["ann@moved.example".to_owned()][..], "a@a.example")
    );
    assert!(there.octets.ends_with(MAIL.as_bytes()));
    assert_eq!(hop.wait_for(1)[0].recipients, ["bob@b.example"]);
    let line = chain.proxy.wait_for("message");
    assert!(!text(&line, "spooled").is_empty(), "{line}");
    assert!(chain.folder.path().join("spool").exists());
}

/// Nobody is told that a recipient is taken unless somebody has said so.
#[test]
fn another_next_hop_may_refuse_be_away_or_not_be_allowed() {
    let hop = talkative();
    let refuses = NextHop::unless(|line| {
        line.starts_with("RCPT").then(|| Instead::say("550 5.1.1 not here either"))?
    });
    let route = |port: u16| format!("127.0.0.1:{port}");
    let ask = |moved_to: u16, more: &[&str]| {
        let mut chain = chain(hop.port, moved_to, more);
        let mut client = Client::greeted(chain.proxy.port());
        client.say("MAIL FROM:<a@a.example>");
        let reply = client.say("RCPT TO:<ann@moved.example>");
        client.say("RSET");
        (reply, chain.told())
    };
    let allowed = route(refuses.port);
    let (reply, _) = ask(refuses.port, &["--spool", "spool", "--route", &allowed]);
    assert_eq!(reply, "550 5.1.1 not here either");
    let (reply, line) = ask(1, &["--spool", "spool", "--route", "127.0.0.1:1"]);
    assert_eq!(reply, "451 4.4.1 The mail server of this recipient is not there, try again later");
    assert!(line.contains("failure: next hop 127.0.0.1:1, connecting: "), "{line}");
    let (reply, line) = ask(refuses.port, &["--spool", "spool"]);
    assert_eq!(reply, "550 5.1.1 mail.example.com does not know it");
    assert!(
        line.contains(&format!("failure: RCPT does not go to the next hop {allowed} (--route)")),
        "{line}"
    );
    assert!(refuses.is_empty());
}

/// Refuses what the next hop has taken, for some.
fn strict() -> Script {
    let declaration = Declaration {
        effects: vec![EffectName::Disconnect],
        ..Declaration::on_replies([Command::Mail, Command::Rcpt, Command::Message])
    };
    Script { name: "strict", declaration, answer: act }
}

fn act(request: &Request) -> (Duration, Outcome) {
    let passed = Outcome::unchanged(Finding::new("passed"));
    let line = request
        .reply()
        .and_then(|(_, line)| line)
        .map(|line| String::from_utf8_lossy(line.as_bytes()).into_owned());
    let line = line.unwrap_or_default();
    let refused = |lines| Outcome::changed(Change::Reply(reply(lines)), "refused");
    let outcome = match line.as_str() {
        line if line.contains("not-you@") => refused("550 5.7.1 not you\r\n"),
        line if line.contains("not-there@") => refused("550 5.7.1 not there\r\n"),
        line if line.contains("leave@") => passed.with_effect(SideEffect::Disconnect),
        _ => passed,
    };
    (Duration::ZERO, outcome)
}

/// What the next hop has taken and the client was refused does not come about.
#[test]
fn what_services_refuse_after_the_next_hop_has_taken_it() {
    let hop = NextHop::start();
    let server = Scripted::start(&[strict()]);
    let address = server.address.clone();
    let mut chain = proxy(server, &address, "\"strict\"", hop.port, &[]);
    let mut client = Client::greeted(chain.proxy.port());
    let trace = |reply: &str, text: &str| {
        reply.starts_with(&format!("{text} [opes https://opes.example.org/opes "))
    };
    let reply = client.say("MAIL FROM:<not-you@a.example>");
    assert!(trace(&reply, "550 5.7.1 not you"), "{reply}");
    client.say("MAIL FROM:<a@a.example>");
    let reply = client.say("RCPT TO:<not-there@b.example>");
    assert!(trace(&reply, "550 5.7.1 not there"), "{reply}");
    assert_eq!(client.say("RCPT TO:<b@b.example>"), "250 2.1.5 ok");
    assert_eq!(client.data(MAIL.as_bytes()), "250 2.0.0 taken");
    assert_eq!(hop.wait_for(1)[0].recipients, ["b@b.example"]);
    assert!(chain.told().starts_with("reject <not-you@a.example>"));
    assert!(chain.told().contains("refused: <not-there@b.example> 550 5.7.1 not there"));
    assert_eq!(client.say("MAIL FROM:<leave@a.example>"), "250 2.1.0 ok");
    assert_eq!(client.reply(), "421 4.7.0 Closing");
}

/// What Postfix says of itself, and a recipient that it does not relay for.
#[test]
fn what_postfix_replies() {
    if !postfix::is_there() {
        return not_run("replies of Postfix", "there is no Postfix, or no root to start it");
    }
    let hop = NextHop::start();
    let folder = tempfile::tempdir().expect("a folder");
    let settings = "smtpd_banner=mx3.internal ESMTP";
    let postfix = Postfix::start(folder.path(), &[Port::default()], hop.port, &[settings]);
    let mut chain = chain(postfix.ports[0], 1, &["--trust", "unix"]);
    let (mut client, greeting) = Client::connect(chain.proxy.port());
    assert_eq!(greeting, "220 mail.example.com ESMTP");
    client.say("EHLO client.example");
    let reply = client.mail("a@a.example", &["ann@old.example"], MAIL.as_bytes());
    assert!(is_queued(&reply), "{reply}");
    assert_eq!(hop.wait_for(1)[0].recipients.len(), 1);
    assert_eq!(text(&chain.proxy.wait_for("message"), "decision"), "accept");
}
