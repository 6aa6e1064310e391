//! `opes-mta smtp` and XCLIENT: from peers that speak as others, and to a real Postfix that is to know who comes.

#![allow(missing_docs, clippy::indexing_slicing)]

use std::net::Ipv4Addr;

use tests::actor::{actor, config};
use tests::gateway::told;
use tests::postfix::{self, Port, Postfix};
use tests::programs::swaks;
use tests::scripted::Scripted;
use tests::smtp::{Client, NextHop, is_queued};
use tests::{Milter, not_run, text};

const MAIL: &str = "From: a@a.example\r\nDate: Thu, 1 Jan 2026 00:00:00 +0000\r\n\
                    Message-ID: <1@a.example>\r\nSubject: x\r\n\r\nx\r\n";

struct Chain {
    server: Scripted,
    proxy: Milter,
    hop: NextHop,
    _folder: tempfile::TempDir,
}

/// The proxy alone; its next hop keeps what arrives.
fn chain(more: &[&str]) -> Chain {
    let server = Scripted::start(&[actor()]);
    let folder = tempfile::tempdir().expect("a folder");
    let hop = NextHop::start();
    let next_hop = format!("127.0.0.1:{}", hop.port);
    let arguments = [&["--listen", "127.0.0.1:0", "--next-hop", &next_hop], more].concat();
    let proxy = Milter::start_proxy_with(&arguments, folder.path(), &config(&server));
    Chain { server, proxy, hop, _folder: folder }
}

impl Chain {
    fn told(&mut self) -> String {
        told(&self.proxy.wait_for("message"))
    }
}

#[test]
fn a_peer_that_is_heard_may_be_another_client() {
    let mut chain = chain(&[]);
    let mut client = Client::greeted(chain.proxy.port());
    let offered = client.say("EHLO peer.example");
    let keyword = "250 XCLIENT NAME ADDR PORT PROTO HELO LOGIN DESTADDR DESTPORT";
    assert_eq!(offered.lines().last(), Some(keyword));
    assert_eq!(client.mail("a@a.example", &["b@b.example"], MAIL.as_bytes()), "250 2.0.0 taken");
    assert!(chain.told().contains("(proxy 127.0.0.1 name=- helo=peer.example auth=-)"));
    for event in ["CONNECT", "RCPT", "MESSAGE"] {
        assert_eq!(chain.server.next_event(), format!("{event} actor"));
    }

    // All of it does not have to come at once; and nothing of what was before is left.
    let greeting = "220 next.example ESMTP";
    assert_eq!(client.say("XCLIENT NAME=client.a.example ADDR=192.0.2.7 PORT=1024"), greeting);
    assert_eq!(client.say("XCLIENT LOGIN=ann+2Bx HELO=said.example PROTO=ESMTP"), greeting);
    assert_eq!(client.say("MAIL FROM:<a@a.example>"), "503 5.5.1 Send EHLO first");
    assert!(client.say("EHLO ann.example").ends_with(keyword));
    assert_eq!(chain.server.next_event(), "CONNECT actor");
    assert_eq!(client.mail("mark@a.example", &["b@b.example"], MAIL.as_bytes()), "250 2.0.0 taken");
    let line = chain.proxy.wait_for("message");
    assert_eq!(
        (text(&line, "decision"), text(&line, "client"), text(&line, "helo")),
        ("modify".to_owned(), "192.0.2.7".to_owned(), "ann.example".to_owned())
    );
    let seen = "(proxy 192.0.2.7 name=client.a.example helo=ann.example auth=XCLIENT)";
    assert!(text(&line, "verdicts").contains(seen), "{line}");
    assert!(chain.hop.wait_for(2)[1].octets.starts_with(b"X-Mark: new\r\n"));

    assert_eq!(client.say("MAIL FROM:<a@a.example>"), "250 2.1.0 ok");
    let within = client.say("XCLIENT ADDR=192.0.2.8");
    assert!(within.starts_with("503 5.5.1 "), "{within}");
    assert_eq!(client.say("RSET"), "250 ok");
    assert_eq!(client.say("XCLIENT ADDR=192.0.2.8"), greeting);
    client.say("EHLO bob.example");
    assert_eq!(client.mail("a@a.example", &["b@b.example"], MAIL.as_bytes()), "250 2.0.0 taken");
    let line = chain.proxy.wait_for("message");
    assert_eq!(text(&line, "decision"), "abandoned", "{line}");
    assert!(chain.told().contains("(proxy 192.0.2.8 name=- helo=bob.example auth=-)"));
}

/// As Postfix does it; and nothing of it is left for the next one.
#[test]
fn what_xforward_says_may_come_in_several_commands() {
    let mut chain = chain(&[]);
    let mut client = Client::greeted(chain.proxy.port());
    for (forwarded, seen, queue_id) in [
        (
            &["NAME=client.a.example ADDR=192.0.2.7 PORT=1", "HELO=ann.example IDENT=4XyZ"][..],
            "(proxy 192.0.2.7 name=client.a.example helo=ann.example auth=-)",
            "4XyZ",
        ),
        (&["ADDR=192.0.2.8"], "(proxy 192.0.2.8 name=- helo=client.example auth=-)", ""),
    ] {
        for attributes in forwarded {
            assert_eq!(client.say(&format!("XFORWARD {attributes}")), "250 2.0.0 Ok");
        }
        let reply = client.mail("a@a.example", &["b@b.example"], MAIL.as_bytes());
        assert_eq!(reply, "250 2.0.0 taken");
        let line = chain.proxy.wait_for("message");
        assert!(text(&line, "verdicts").contains(seen), "{line}");
        assert_eq!(text(&line, "queue_id"), queue_id);
    }
}

#[test]
fn another_client_is_refused_as_if_it_had_connected() {
    let mut chain = chain(&[]);
    let mut client = Client::greeted(chain.proxy.port());
    assert_eq!(client.say("XCLIENT ADDR=192.0.2.66"), "220 next.example ESMTP");
    assert_eq!(client.say("EHLO client.example"), "554 5.7.1 not from there");
    assert!(chain.told().starts_with("reject - -> -\nreason: 554 5.7.1 not from there\n"));
    assert_eq!(client.say("MAIL FROM:<a@a.example>"), "503 5.5.1 Send EHLO first");
    assert_eq!(client.say("HELO client.example"), "554 5.7.1 not from there");
    assert_eq!(client.say("XCLIENT ADDR=192.0.2.7"), "220 next.example ESMTP");
    client.say("EHLO client.example");
    // Who has authenticated at the next hop stays who he is there.
    assert_eq!(client.say("AUTH EXTERNAL ="), "250 ok");
    assert_eq!(client.say("XCLIENT ADDR=192.0.2.8"), "503 5.5.1 XCLIENT comes before AUTH");
    assert_eq!(client.mail("a@a.example", &["b@b.example"], MAIL.as_bytes()), "250 2.0.0 taken");
    assert!(chain.told().contains("(proxy 192.0.2.7 name=- helo=client.example auth=EXTERNAL)"));
    assert_eq!(chain.hop.wait_for(1).len(), 1);
}

#[test]
fn nobody_else_may() {
    let mut chain = chain(&["--trust", "127.0.0.2"]);
    let mut client = Client::greeted(chain.proxy.port());
    assert!(!client.say("EHLO client.example").contains("XCLIENT"));
    assert_eq!(client.say("XCLIENT ADDR=192.0.2.7"), "550 5.7.0 You may not speak for others");
    assert_eq!(client.mail("a@a.example", &["b@b.example"], MAIL.as_bytes()), "250 2.0.0 taken");
    assert!(chain.told().contains("(proxy 127.0.0.1 name=- helo=client.example auth=-)"));
    let (mut client, _) = Client::connect_from(Ipv4Addr::new(127, 0, 0, 2), chain.proxy.port());
    assert!(client.say("EHLO client.example").contains("XCLIENT"));
}

/// A next hop that does not take XCLIENT would let everybody do what we may.
#[test]
fn a_next_hop_that_can_not_be_told_gets_no_mail() {
    let mut chain = chain(&["--next-hop-client", "xclient"]);
    let (mut client, _) = Client::connect(chain.proxy.port());
    let reply = client.say("EHLO client.example");
    assert_eq!(reply, "421 4.4.1 The next mail server is not there, try again later");
    assert_eq!(client.reply(), "");
    let line = chain.proxy.wait_for("the dialog of a client broke");
    assert_eq!(text(&line, "stage"), "XCLIENT or XFORWARD");
    let cause = "it does not offer XCLIENT, and would take every client for us";
    assert!(text(&line, "cause").contains(cause), "{line}");
}

/// The proxy before a Postfix that believes it, and lets clients do what they may themselves.
struct Believed {
    proxy: Milter,
    postfix: Postfix,
    hop: NextHop,
    _server: Scripted,
    _folder: tempfile::TempDir,
}

fn believed(story: &str) -> Option<Believed> {
    if !postfix::is_there() {
        not_run(story, "there is no Postfix, or no root to start it");
        return None;
    }
    let server = Scripted::start(&[actor()]);
    let folder = tempfile::tempdir().expect("a folder");
    let hop = NextHop::start();
    let port = Port::default().and("smtpd_authorized_xclient_hosts=127.0.0.1");
    let parameters = [
        "mynetworks = 127.0.0.1 192.0.2.7",
        "relay_domains = inside.example",
        "smtpd_recipient_restrictions = permit_mynetworks, reject_unauth_destination",
        "smtpd_relay_restrictions =",
        "smtpd_client_restrictions = check_client_access inline:{192.0.2.9=REJECT}",
        "smtpd_delay_reject = no",
    ];
    let postfix = Postfix::start(folder.path(), &[port], hop.port, &parameters);
    let next_hop = format!("127.0.0.1:{}", postfix.ports[0]);
    let arguments =
        [["--listen", "127.0.0.1:0"], ["--next-hop", &next_hop], ["--next-hop-client", "xclient"]];
    let proxy = Milter::start_proxy_with(arguments.as_flattened(), folder.path(), &config(&server));
    Some(Believed { proxy, postfix, hop, _server: server, _folder: folder })
}

#[test]
fn postfix_does_with_a_client_what_it_would_do_itself() {
    let Some(chain) = believed("XCLIENT to Postfix") else { return };
    let port = chain.proxy.port();
    // Who connects is not who we are, to whom Postfix relays everything.
    let (mut client, _) = Client::connect_from(Ipv4Addr::new(127, 0, 0, 2), port);
    assert_eq!(client.say("HELO client.example"), "250 mx.example");
    let reply = client.mail("a@a.example", &["b@b.example"], MAIL.as_bytes());
    assert_eq!(reply, "554 5.7.1 <b@b.example>: Relay access denied");
    client.say("RSET");
    let reply = client.mail("a@a.example", &["b@inside.example"], MAIL.as_bytes());
    assert!(is_queued(&reply), "{reply}");
    chain.postfix.wait_for(&["client=unknown[127.0.0.2]"]);
    let delivered = chain.hop.wait_for(1).remove(0);
    assert_eq!(String::from_utf8_lossy(delivered.without_received()), MAIL);
    let received = String::from_utf8_lossy(&delivered.octets).into_owned();
    assert!(
        received.starts_with("Received: from client.example (unknown [127.0.0.2])"),
        "{received}"
    );
    // Whoever is heard says who comes, by XFORWARD for each message, or by XCLIENT.
    let mut client = Client::greeted(port);
    for (address, relayed) in [("192.0.2.7", true), ("192.0.2.8", false), ("192.0.2.7", true)] {
        let line = format!("XFORWARD NAME=client.a.example ADDR={address} HELO=ann.example");
        assert_eq!(client.say(&line), "250 2.0.0 Ok");
        let reply = client.mail("a@a.example", &["b@b.example"], MAIL.as_bytes());
        assert_eq!(is_queued(&reply), relayed, "{reply}");
        client.say("RSET");
    }
    for delivered in chain.hop.wait_for(2) {
        let received = String::from_utf8_lossy(&delivered.octets).into_owned();
        let from = "Received: from ann.example (client.a.example [192.0.2.7])";
        assert!(received.starts_with(from), "{received}");
    }
    assert!(client.say("XCLIENT ADDR=192.0.2.8 NAME=client.b.example").starts_with("220 "));
    client.say("EHLO bob.example");
    let reply = client.mail("a@a.example", &["b@b.example"], MAIL.as_bytes());
    assert_eq!(reply, "554 5.7.1 <b@b.example>: Relay access denied");
    // Postfix turns a client away; it may become another one.
    assert!(client.say("RSET").starts_with("250 "));
    assert!(client.say("XCLIENT ADDR=192.0.2.9 NAME=client.c.example").starts_with("220 "));
    let reply = client.say("EHLO eve.example");
    assert!(reply.starts_with("554 5.7.1 <client.c.example[192.0.2.9]>: Client host"), "{reply}");
    assert!(client.say("XCLIENT ADDR=192.0.2.7 NAME=client.a.example").starts_with("220 "));
    client.say("EHLO ann.example");
    let reply = client.mail("mark@a.example", &["b@b.example"], MAIL.as_bytes());
    assert!(is_queued(&reply), "{reply}");
    assert!(chain.hop.wait_for(1)[0].without_received().starts_with(b"X-Mark: new\r\n"));
    assert!(chain.hop.is_empty());
}

#[test]
fn swaks_speaks_as_another_client() {
    let Some(mut chain) = believed("XCLIENT of swaks") else { return };
    let other = "ADDR=192.0.2.7 NAME=client.a.example HELO=ann.example";
    let arguments =
        ["--xclient", other, "--from", "a@a.example", "--to", "b@b.example", "--body", "x"];
    match swaks(chain.proxy.port(), &arguments) {
        None => not_run("XCLIENT of swaks", "there is no swaks"),
        Some((is_sent, dialog)) => {
            assert!(is_sent, "{dialog}");
            let line = told(&chain.proxy.wait_for("message"));
            let seen = "(proxy 192.0.2.7 name=client.a.example helo=client.example auth=-)";
            assert!(line.starts_with("accept ") && line.contains(seen), "{line}");
            chain.postfix.wait_for(&["client=client.a.example[192.0.2.7]"]);
            assert_eq!(chain.hop.wait_for(1).len(), 1);
        }
    }
}
