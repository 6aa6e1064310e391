//! `opes-mta smtp` alone before a mail server, which is a real Postfix: clients connect to nothing else.

#![allow(missing_docs, clippy::indexing_slicing)]

use std::fs;
use std::sync::{Arc, Mutex};

use tests::actor::{actor, config};
use tests::certificates::Authority;
use tests::gateway::told;
use tests::postfix::{self, Port, Postfix};
use tests::programs::{smtp_source, swaks};
use tests::scripted::Scripted;
use tests::smtp::{Client, Instead, NextHop, is_queued, stuffed};
use tests::{Milter, not_run, text};

const MAIL: &str = "From: a@a.example\r\nTo: b@b.example\r\nDate: Thu, 1 Jan 2026 00:00:00 +0000\r\n\
                    Message-ID: <1@a.example>\r\nSubject: x\r\n\r\nfirst\r\n.dot\r\n..\r\n";

/// The proxy before Postfix, which delivers to the next hop.
struct Alone {
    proxy: Milter,
    /// Where Postfix's mail arrives.
    hop: NextHop,
    _postfix: Postfix,
    _server: Scripted,
    folder: tempfile::TempDir,
}

/// `server.pem` is the certificate that clients are shown.
fn alone(story: &str) -> Option<Alone> {
    if !postfix::is_there() {
        not_run(story, "there is no Postfix, or no root to start it");
        return None;
    }
    let server = Scripted::start(&[actor()]);
    let folder = tempfile::tempdir().expect("a folder");
    Authority::new(folder.path(), "ca").sign("server", &["127.0.0.1"]);
    let hop = NextHop::start();
    let port = Port::default().and("smtpd_recipient_restrictions=reject_unauth_destination");
    let parameters = ["relay_domains = b.example", "message_size_limit = 100000"];
    let postfix = Postfix::start(folder.path(), &[port], hop.port, &parameters);
    let next_hop = format!("127.0.0.1:{}", postfix.ports[0]);
    let file = |name: &str| folder.path().join(name).display().to_string();
    let (certificate, key) = (file("server.pem"), file("server.key"));
    let arguments = [
        ["--listen", "127.0.0.1:0"],
        ["--next-hop", &next_hop],
        ["--trust", "unix"],
        ["--tls-certificate", &certificate],
        ["--tls-key", &key],
    ];
    let proxy = Milter::start_proxy_with(arguments.as_flattened(), folder.path(), &config(&server));
    Some(Alone { proxy, hop, _postfix: postfix, _server: server, folder })
}

impl Alone {
    fn told(&mut self) -> String {
        told(&self.proxy.wait_for("message"))
    }

    /// The next mail behind Postfix, without what that put before it.
    fn arrived(&self) -> String {
        let delivered = self.hop.wait_for(1).remove(0);
        String::from_utf8_lossy(delivered.without_received()).into_owned()
    }
}

#[test]
fn a_client_speaks_to_postfix_as_far_as_services_let_it() {
    let Some(mut chain) = alone("swaks to the proxy before Postfix") else { return };
    let mut client = Client::greeted(chain.proxy.port());
    let offered = client.say("EHLO client.example");
    let keywords: Vec<_> = offered.lines().skip(1).filter_map(|line| line.get(4..)).collect();
    let expected = [
        "SIZE 100000",
        "VRFY",
        "ENHANCEDSTATUSCODES",
        "8BITMIME",
        "DSN",
        "SMTPUTF8",
        "PIPELINING",
        "CHUNKING",
        "PRDR",
        "XOPES-BYPASS",
        "STARTTLS",
    ];
    assert_eq!(keywords, expected, "ETRN does not get through");
    // What Postfix says is what the client hears.
    assert!(client.say("VRFY nobody@c.example").ends_with("Relay access denied"));
    let too_large = client.say("MAIL FROM:<a@a.example> SIZE=100001");
    assert!(too_large.starts_with("552 5.3.4 "), "{too_large}");
    assert!(chain.told().starts_with("reject <a@a.example> -> -\nreason: 552 5.3.4 "));
    // Postfix remembers the size until then.
    client.say("RSET");
    let refused = client.mail("a@a.example", &["b@c.example"], MAIL.as_bytes());
    assert!(refused.starts_with("554 5.7.1 <b@c.example>: Relay access denied"), "{refused}");
    drop(client);
    assert!(chain.told().contains("\nrefused: <b@c.example> 554 5.7.1 "));

    let file = chain.folder.path().join("mail");
    fs::write(&file, MAIL).expect("written");
    let data = format!("@{}", file.display());
    let port = chain.proxy.port();
    let cases = [
        ("a", "b", Some(""), "", "accept"),
        ("mark", "b", Some("X-Mark: new\r\n"), "", "modify"),
        ("bad", "b", None, "<** 554 5.6.0 is bad", "reject"),
        ("a", "nobody", None, "<** 550 5.1.1 nobody here", "abandoned"),
        ("later-alone", "b", None, "<** 451 4.7.1 not now", "tempfail"),
        ("discard", "b", None, "", "discard"),
    ];
    for (sender, recipient, field, said, decision) in cases {
        let (from, to) = (format!("{sender}@a.example"), format!("{recipient}@b.example"));
        let arguments = ["--pipeline", "--from", &from, "--to", &to, "--data", &data];
        let Some((is_sent, dialog)) = swaks(port, &arguments) else {
            return not_run("swaks to the proxy before Postfix", "there is no swaks");
        };
        assert_eq!(is_sent, said.is_empty(), "{dialog}");
        assert!(dialog.contains(said), "{dialog}");
        if let Some(field) = field {
            assert_eq!(chain.arrived(), format!("{field}{MAIL}\r\n"));
        }
        let line = chain.told();
        assert!(line.starts_with(&format!("{decision} <{from}> -> ")), "{line}");
        if decision == "modify" {
            let seen = "(proxy 127.0.0.1 name=- helo=client.example auth=-)";
            assert!(line.contains(seen), "{line}");
        }
    }
    assert!(chain.hop.is_empty());
}

/// Two messages and a refused recipient in one packet; then the same content in chunks.
#[test]
fn commands_and_chunks_come_together_and_postfix_has_each_message() {
    let Some(chain) = alone("PIPELINING and BDAT before Postfix") else { return };
    let mut client = Client::greeted(chain.proxy.port());
    let envelope = "MAIL FROM:<mark@a.example> BODY=8BITMIME\r\nRCPT TO:<nobody@b.example>\r\n\
                    RCPT TO:<b@b.example>\r\n";
    client.send(format!("{envelope}DATA\r\n").as_bytes());
    let replies: Vec<_> = (0..4).map(|_| client.reply()).collect();
    let expected = ["250 2.1.0 Ok", "550 5.1.1 nobody here", "250 2.1.5 Ok"];
    assert_eq!(replies[..3], expected);
    assert!(replies[3].starts_with("354 "), "{replies:?}");
    let octets = [&stuffed(MAIL.as_bytes())[..], envelope.as_bytes()].concat();
    client.send(&octets);
    let replies: Vec<_> = (0..4).map(|_| client.reply()).collect();
    assert!(is_queued(&replies[0]), "{replies:?}");
    assert_eq!(replies[1..], expected);
    let (first, last) = MAIL.split_at(60);
    let chunks = format!("BDAT 60\r\n{first}BDAT {}\r\n{last}BDAT 0 LAST\r\nQUIT\r\n", last.len());
    client.send(chunks.as_bytes());
    let replies: Vec<_> = (0..4).map(|_| client.reply()).collect();
    assert_eq!(replies[..2], ["250 2.0.0 Octets received"; 2]);
    assert!(is_queued(&replies[2]), "{replies:?}");
    assert_eq!((&replies[3][..], &client.reply()[..]), ("221 2.0.0 Bye", ""));
    let marked = format!("X-Mark: new\r\n{MAIL}");
    assert_eq!([chain.arrived(), chain.arrived()], [marked.clone(), marked]);
    assert!(chain.hop.is_empty());
}

#[test]
fn many_sessions_of_smtp_source_come_through() {
    let Some(mut chain) = alone("smtp-source to the proxy before Postfix") else { return };
    let source = ["-f", "a@a.example", "-t", "t@b.example", "-l", "10000"];
    let port = chain.proxy.port();
    // A connection for each message, then twenty connections for all; each time with three recipients.
    smtp_source(port, &[&source[..], &["-s", "20", "-m", "100", "-r", "3"]].concat());
    smtp_source(port, &[&source[..], &["-d", "-s", "20", "-m", "200", "-r", "3"]].concat());
    for _ in 0..300 {
        let line = chain.proxy.wait_for("message");
        assert_eq!(
            (text(&line, "decision").as_str(), &line["recipient_count"]),
            ("accept", &3.into())
        );
    }
    let delivered = chain.hop.wait_for(300);
    assert!(delivered.iter().all(|mail| mail.recipients.len() == 3));
    assert!(chain.hop.is_empty());
}

/// Another Postfix is the client, which sends within TLS or not at all.
#[test]
fn postfix_sends_to_it_within_tls() {
    let Some(mut chain) = alone("Postfix as a client within TLS") else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let authority = format!("smtp_tls_CAfile = {}", chain.folder.path().join("ca.pem").display());
    let parameters = [
        "smtp_tls_security_level = secure",
        "smtp_tls_secure_cert_match = 127.0.0.1",
        "smtp_tls_loglevel = 1",
        "myhostname = other.example",
        &authority,
    ];
    let ports = [Port::default()];
    let other = Postfix::start(folder.path(), &ports, chain.proxy.port(), &parameters);
    let reply =
        Client::greeted(other.ports[0]).mail("mark@a.example", &["b@b.example"], MAIL.as_bytes());
    assert!(is_queued(&reply), "{reply}");
    let line = chain.told();
    assert!(line.starts_with("modify <mark@a.example> -> <b@b.example>\n"), "{line}");
    assert!(line.contains("(proxy 127.0.0.1 name=- helo=other.example auth=-)"), "{line}");
    other.wait_for(&["Verified TLS connection established to 127.0.0.1", "TLSv1.3"]);
    let arrived = chain.arrived();
    assert!(arrived.starts_with("X-Mark: new\r\nReceived: ") && arrived.ends_with(MAIL));
}

/// A next hop that offers CHUNKING, and the lines that it has heard.
fn chunking() -> (NextHop, Arc<Mutex<Vec<String>>>) {
    let heard = Arc::<Mutex<Vec<String>>>::default();
    let hears = heard.clone();
    let hop = NextHop::unless(move |line| {
        hears.lock().expect("nobody panics with it").push(line.to_owned());
        match line {
            "EHLO client.example" => Instead::say("250-next.example\r\n250 CHUNKING"),
            "BDAT 23 LAST" => Instead::say("550 5.6.0 not this"),
            _ => None,
        }
    });
    (hop, heard)
}

#[test]
fn a_next_hop_that_takes_chunks_has_content_with_its_command() {
    let (hop, heard) = chunking();
    let server = Scripted::start(&[actor()]);
    let folder = tempfile::tempdir().expect("a folder");
    let next_hop = format!("127.0.0.1:{}", hop.port);
    let arguments = ["--listen", "127.0.0.1:0", "--next-hop", &next_hop];
    let proxy = Milter::start_proxy_with(&arguments, folder.path(), &config(&server));
    let mut client = Client::greeted(proxy.port());
    let mut arrived = |content: &[u8]| {
        let reply = client.mail("a@a.example", &["b@b.example"], content);
        assert_eq!(reply, "250 2.0.0 taken");
        hop.wait_for(1).remove(0).octets
    };
    let small = MAIL.as_bytes();
    assert_eq!(arrived(small), small);
    let line = format!("{}\r\n", "x".repeat(998));
    let large = format!("Subject: x\r\n\r\n{}", line.repeat(70));
    assert_eq!(arrived(large.as_bytes()), large.as_bytes());
    let refused = client.mail("a@a.example", &["b@b.example"], b"Subject: x\r\n\r\nrefused\r\n");
    assert_eq!(refused, "550 5.6.0 not this");
    // Only DATA gives a last line the end that it lacks.
    client.say("MAIL FROM:<a@a.example>");
    client.say("RCPT TO:<b@b.example>");
    client.send(b"BDAT 19 LAST\r\nSubject: x\r\n\r\nbody!");
    assert_eq!(client.reply(), "250 2.0.0 taken");
    assert_eq!(hop.wait_for(1).remove(0).octets, b"Subject: x\r\n\r\nbody!\r\n");
    assert_eq!(client.say("QUIT"), "221 2.0.0 bye");
    let heard = heard.lock().expect("nobody panics with it");
    let verbs: Vec<_> = heard.iter().filter(|line| !line.contains(':')).collect();
    let small = format!("BDAT {} LAST", small.len());
    let [first, large, refused, last] =
        [&[&small[..]][..], &["DATA", "."], &["BDAT 23 LAST", "RSET"], &["DATA", "."]];
    let expected = [&["", "EHLO client.example"], first, large, refused, last, &["QUIT"]].concat();
    assert_eq!(verbs, expected);
}
