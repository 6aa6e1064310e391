//! `opes-mta smtp` behind the queue of a real Postfix (`content_filter`), whose second smtpd is the next hop.

#![allow(missing_docs, clippy::indexing_slicing)]

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use tests::actor::{actor, config};
use tests::gateway::told;
use tests::postfix::{self, Port, Postfix};
use tests::programs::{smtp_source, swaks};
use tests::scripted::Scripted;
use tests::smtp::{Client, Delivered, NextHop, is_queued};
use tests::{Milter, not_run, text};

const MAIL: &str = "From: a@a.example\r\nTo: b@b.example\r\nDate: Thu, 1 Jan 2026 00:00:00 +0000\r\n\
                    Message-ID: <1@a.example>\r\nSubject:  spaces\r\n\tand a fold\r\n\r\nfirst\r\n.dot\r\n..\r\n";

const SYSTEM: &str = "[system]\nuri = \"https://opes.example.org/\"\nname = \"mx1\"\n";

/// Postfix receives, queues, sends through the proxy to itself, queues again, and delivers to the next hop.
struct Filtered {
    server: Option<Scripted>,
    proxy: Milter,
    postfix: Postfix,
    hop: NextHop,
    folder: tempfile::TempDir,
}

fn filtered(story: &str, more: &str) -> Option<Filtered> {
    if !postfix::is_there() {
        not_run(story, "there is no Postfix, or no root to start it");
        return None;
    }
    let server = Scripted::start(&[actor()]);
    let folder = tempfile::tempdir().expect("a folder");
    let hop = NextHop::start();
    let ports = [
        Port::default()
            .and("smtpd_authorized_xclient_hosts=127.0.0.0/8")
            .and("mynetworks=127.0.0.0/8 192.0.2.0/24"),
        Port::default()
            .and("content_filter=")
            .and("myhostname=inside.mx.example")
            .and("smtpd_authorized_xforward_hosts=127.0.0.0/8"),
    ];
    let config = format!("{}{more}", config(&server));
    let (postfix, proxy) = Postfix::start_around(folder.path(), &ports, hop.port, |ports| {
        let proxy = start(folder.path(), ports[1], &config);
        let parameters = vec![
            format!("content_filter = smtp:[127.0.0.1]:{}", proxy.port()),
            "smtp_send_xforward_command = yes".to_owned(),
        ];
        (proxy, parameters)
    });
    Some(Filtered { server: Some(server), proxy, postfix, hop, folder })
}

fn start(folder: &Path, next_hop: u16, config: &str) -> Milter {
    let next_hop = format!("127.0.0.1:{next_hop}");
    let folder_of = |name: &str| folder.join(name).display().to_string();
    let (quarantine, spool) = (folder_of("quarantine"), folder_of("spool"));
    let arguments = [
        ["--listen", "127.0.0.1:0"],
        ["--next-hop", &next_hop],
        ["--placement", "queued"],
        ["--next-hop-client", "xforward"],
        ["--quarantine", &quarantine],
        ["--spool", &spool],
    ];
    Milter::start_proxy_with(arguments.as_flattened(), folder, config)
}

impl Filtered {
    fn client(&self) -> Client {
        Client::greeted(self.postfix.ports[0])
    }

    /// Sends a mail, which Postfix takes whatever becomes of it.
    fn send(&self, sender: &str, recipients: &[&str]) {
        let reply = self.client().mail(sender, recipients, MAIL.as_bytes());
        assert!(is_queued(&reply), "{reply}");
    }

    fn told(&mut self) -> String {
        told(&self.proxy.wait_for("message"))
    }

    fn arrived(&self) -> Delivered {
        self.hop.wait_for(1).remove(0)
    }
}

/// A mail without what Postfix put before it each time, and what the proxy's services did between.
fn without_received(mail: &Delivered) -> (String, String) {
    let second = mail.without_received();
    let at = second.windows(10).position(|octets| octets == b"Received: ").expect("a field");
    let first = Delivered { octets: second[at..].to_vec(), ..Delivered::default() };
    let text = |octets: &[u8]| String::from_utf8_lossy(octets).into_owned();
    (text(&second[..at]), text(first.without_received()))
}

/// Postfix forgets who the client is together with an envelope that is told again.
#[test]
fn an_envelope_that_services_change_has_its_client_still() {
    let Some(chain) = filtered("XFORWARD for a changed envelope", "") else { return };
    chain.send("add@a.example", &["b@b.example"]);
    assert_eq!(chain.arrived().recipients, ["added@b.example", "b@b.example"]);
    let log = chain.postfix.log();
    let known = log.lines().filter(|line| line.contains("orig_client="));
    assert_eq!(known.count(), 2, "of the envelope as it came, and as it went on: {log}");
}

#[test]
fn what_services_make_of_queued_mail_is_what_arrives() {
    let Some(mut chain) = filtered("content_filter of Postfix", "") else { return };
    let cases = [
        ("a", "a", "", "accept", &["b", "c"][..]),
        ("mark", "mark", "X-Mark: new\r\n", "modify", &["b", "c"]),
        ("add", "add", "", "modify", &["added", "b", "c"]),
        ("delete", "delete", "", "modify", &["b"]),
        ("sender", "other", "", "modify", &["b", "c"]),
    ];
    for (sender, sent_by, field, decision, recipients) in cases {
        chain.send(&format!("{sender}@a.example"), &["b@b.example", "c@b.example"]);
        let delivered = chain.arrived();
        assert_eq!(without_received(&delivered), (field.to_owned(), MAIL.to_owned()), "{sender}");
        assert_eq!(delivered.sender, format!("{sent_by}@a.example"));
        let paths: Vec<_> = recipients.iter().map(|name| format!("{name}@b.example")).collect();
        // Postfix sorts them.
        assert_eq!(delivered.recipients, paths, "{sender}");
        let line = chain.told();
        let expected = format!(
            "{decision} <{sender}@a.example> -> <b@b.example> <c@b.example>\nverdicts: actor="
        );
        assert!(line.starts_with(&expected), "{line}");
        assert!(line.contains("(queued 127.0.0.1 name=- helo=client.example auth=-)"), "{line}");
    }
    chain.send("discard@a.example", &["b@b.example"]);
    assert!(chain.told().starts_with("discard <discard@a.example> -> <b@b.example>"));
    chain.postfix.wait_for(&["to=<b@b.example>", "status=sent (250 2.0.0 Ok)"]);
    assert!(chain.hop.is_empty());
}

/// What a client does before a queue it is told by a bounce.
#[test]
fn refusals_become_bounces_with_the_trace() {
    let Some(mut chain) = filtered("bounces behind content_filter", SYSTEM) else { return };
    chain.send("bad@a.example", &["b@b.example"]);
    let line = chain.proxy.wait_for("message");
    assert_eq!(
        (text(&line, "decision"), text(&line, "client")),
        ("reject".to_owned(), "127.0.0.1".to_owned())
    );
    // Postfix's name for the message is the one that an operator has.
    let traced = |line: &serde_json::Value, reply: &str| {
        format!("{reply} [opes https://opes.example.org/ {}]", text(line, "queue_id"))
    };
    let reason = traced(&line, "554 5.6.0 is bad");
    assert_eq!(text(&line, "reason"), reason);
    let bounce = chain.arrived();
    assert_eq!((&bounce.sender[..], &bounce.recipients[..]), ("", &["bad@a.example".into()][..]));
    let flat = words(&bounce.octets);
    assert!(flat.contains(&reason), "{flat}");

    chain.send("a@a.example", &["b@b.example", "nobody@b.example"]);
    let mut delivered = chain.hop.wait_for(2);
    delivered.sort_by_key(|mail| mail.sender.clone());
    let line = chain.proxy.wait_for("message");
    let refused = traced(&line, "550 5.1.1 nobody here");
    assert_eq!(
        (text(&line, "decision"), text(&line, "refused")),
        ("accept".to_owned(), format!("<nobody@b.example> {refused}"))
    );
    let flat = words(&delivered[0].octets);
    assert!(
        flat.contains(&refused) && flat.contains("Final-Recipient: rfc822; nobody@b"),
        "{flat}"
    );
    assert_eq!(delivered[1].recipients, ["b@b.example"]);
    assert!(chain.hop.is_empty());
}

/// A text with all blanks alike.
fn words(octets: &[u8]) -> String {
    let text = String::from_utf8_lossy(octets).into_owned();
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Postfix keeps what is put off, and what can't be checked, until it can.
#[test]
fn what_is_put_off_waits_in_the_queue() {
    let Some(mut chain) = filtered("what waits behind content_filter", "command-deadline = 2\n")
    else {
        return;
    };
    chain.send("later@a.example", &["b@b.example"]);
    let put_off = "451 4.7.1 not now";
    assert!(
        chain.told().starts_with(&format!(
            "tempfail <later@a.example> -> <b@b.example>\nreason: {put_off}\n"
        ))
    );
    chain.postfix.wait_for(&["to=<b@b.example>", "status=deferred", put_off]);
    assert!(chain.hop.is_empty());
    chain.postfix.flush();
    assert_eq!(without_received(&chain.arrived()), (String::new(), MAIL.to_owned()));
    assert!(chain.told().starts_with("accept <later@a.example> -> <b@b.example>\n"));

    let address = chain.server.take().expect("it runs").address.clone();
    chain.send("down@a.example", &["d@b.example"]);
    let line = chain.told();
    assert!(line.starts_with("tempfail - -> -\nreason: 451 4.3.0 "), "{line}");
    assert!(line.contains("\nfailure: CONNECT, start: no callout server is there: "), "{line}");
    chain.postfix.wait_for(&["to=<d@b.example>", "status=deferred", "451 4.3.0"]);
    assert!(chain.hop.is_empty());
    chain.server = Some(Scripted::start_at(&address, &[actor()]));
    // It is looked for again in a moment.
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        chain.postfix.flush();
        let line = chain.told();
        if line.starts_with("accept <down@a.example> -> <d@b.example>\n") {
            break;
        }
        assert!(line.starts_with("tempfail - -> -\n") && Instant::now() < deadline, "{line}");
    }
    assert_eq!(chain.arrived().recipients, ["d@b.example"]);
    assert!(chain.hop.is_empty());
}

#[test]
fn what_is_kept_behind_the_queue_arrives_once_it_is_released() {
    let Some(mut chain) = filtered("the quarantine behind content_filter", "") else { return };
    chain.send("odd@a.example", &["b@b.example", "c@b.example"]);
    let line = chain.proxy.wait_for("message");
    let (id, line) = (text(&line, "kept"), told(&line));
    assert!(
        line.starts_with("quarantine <odd@a.example> -> <b@b.example> <c@b.example>\n"),
        "{line}"
    );
    chain.postfix.wait_for(&["to=<c@b.example>", "status=sent (250 2.0.0 Ok)"]);
    assert!(chain.hop.is_empty());
    let mut release = tests::program("opes-mta");
    release.args(["quarantine", "release", &id]);
    release.arg("--store").arg(chain.folder.path().join("quarantine"));
    release.arg("--spool").arg(chain.folder.path().join("spool"));
    assert!(release.status().expect("it runs").success());
    let delivered = chain.arrived();
    assert_eq!(without_received(&delivered), ("X-Mark: new\r\n".to_owned(), MAIL.to_owned()));
    assert_eq!(
        (&delivered.sender[..], &delivered.recipients[..]),
        ("odd@a.example", &["b@b.example".to_owned(), "c@b.example".to_owned()][..])
    );
    assert!(chain.hop.is_empty());
}

/// Services see Postfix's client, and what it said of its mail gets through.
#[test]
fn clients_and_parameters_are_those_that_postfix_has_received() {
    let Some(mut chain) = filtered("XFORWARD and parameters behind content_filter", "") else {
        return;
    };
    let mut client = chain.client();
    let reply = client.say("XCLIENT NAME=client.a.example ADDR=192.0.2.7 HELO=ann.a.example");
    assert!(reply.starts_with("220 "), "{reply}");
    client.say("EHLO ann.a.example");
    let commands = [
        "MAIL FROM:<jos\u{e9}@a.example> BODY=8BITMIME SMTPUTF8 RET=HDRS ENVID=id+2B1",
        "RCPT TO:<b\u{e9}@b.example> NOTIFY=FAILURE ORCPT=rfc822;b@b.example",
    ];
    for command in commands {
        let reply = client.say(command);
        assert!(reply.starts_with("250 "), "{reply}");
    }
    let eight = MAIL.replace("first", "f\u{ef}rst");
    assert!(client.data(eight.as_bytes()).starts_with("250 "));
    let line = chain.proxy.wait_for("message");
    assert_eq!(
        (text(&line, "client"), text(&line, "helo")),
        ("192.0.2.7".to_owned(), "ann.a.example".to_owned())
    );
    let seen = "(queued 192.0.2.7 name=client.a.example helo=ann.a.example auth=-)";
    assert!(text(&line, "verdicts").contains(seen), "{line}");
    let delivered = chain.arrived();
    assert_eq!(without_received(&delivered), (String::new(), eight));
    assert_eq!(
        (&delivered.sender[..], &delivered.recipients[..]),
        ("jos\u{e9}@a.example", &["b\u{e9}@b.example".to_owned()][..])
    );
    let parameters: Vec<_> = delivered.parameters.iter().map(String::as_str).collect();
    for (parameters, parameter) in [
        (parameters[0], "BODY=8BITMIME"),
        (parameters[0], "SMTPUTF8"),
        (parameters[0], "RET=HDRS"),
        (parameters[0], "ENVID=id+2B1"),
        (parameters[1], "NOTIFY=FAILURE"),
        (parameters[1], "ORCPT=rfc822;b@b.example"),
    ] {
        assert!(parameters.split(' ').any(|word| word == parameter), "{parameter}: {parameters}");
    }
    // The second smtpd logs the client of the first one, and its name for the message.
    let id = text(&line, "queue_id");
    chain.postfix.wait_for(&[
        "smtpd",
        &format!("orig_queue_id={id}, orig_client=client.a.example[192.0.2.7]"),
    ]);
    // Whom services do not want is refused at each of his messages.
    let mut client = chain.client();
    assert!(client.say("XCLIENT ADDR=192.0.2.66").starts_with("220 "));
    client.say("EHLO client.example");
    assert!(client.mail("a@a.example", &["b@b.example"], MAIL.as_bytes()).starts_with("250 "));
    let line = chain.proxy.wait_for("message");
    assert_eq!(
        (text(&line, "decision"), text(&line, "client"), text(&line, "reason")),
        ("reject".to_owned(), "192.0.2.66".to_owned(), "554 5.7.1 not from there".to_owned())
    );
    assert!(words(&chain.arrived().octets).contains("554 5.7.1 not from there"));
}

/// Mail of programs that others have written, several sessions at a time.
#[test]
fn swaks_and_smtp_source_come_through() {
    let Some(mut chain) = filtered("swaks and smtp-source behind content_filter", "") else {
        return;
    };
    let port = chain.postfix.ports[0];
    let file = chain.folder.path().join("mail");
    fs::write(&file, MAIL).expect("written");
    let data = format!("@{}", file.display());
    let arguments = ["--from", "mark@a.example", "--to", "b@b.example", "--data", &data];
    match swaks(port, &arguments) {
        None => not_run("swaks behind content_filter", "there is no swaks"),
        Some((is_sent, said)) => {
            assert!(is_sent, "{said}");
            // It ends each message with an empty line.
            let expected = ("X-Mark: new\r\n".to_owned(), format!("{MAIL}\r\n"));
            assert_eq!(without_received(&chain.arrived()), expected);
            assert!(chain.told().starts_with("modify <mark@a.example> -> <b@b.example>\n"));
        }
    }
    smtp_source(
        port,
        &["-s", "5", "-m", "50", "-r", "3", "-l", "4096", "-f", "a@a.example", "-t", "t@b.example"],
    );
    let delivered = chain.hop.wait_for(50);
    assert!(delivered.iter().all(|mail| mail.recipients.len() == 3));
    for _ in 0..50 {
        let line = chain.proxy.wait_for("message");
        assert_eq!(
            (text(&line, "decision").as_str(), &line["recipient_count"]),
            ("accept", &3.into())
        );
    }
}
