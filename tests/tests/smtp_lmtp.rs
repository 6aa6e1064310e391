//! `opes-mta smtp --protocol lmtp`: each recipient has a reply of its own.

#![allow(missing_docs, clippy::indexing_slicing)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use ocp_proto::smtp::{Command as Verb, CommandLine, EffectName, SideEffect};
use services::{Change, Declaration, Finding, Outcome, Request};
use tests::actor;
use tests::gateway::told;
use tests::postfix::{self, Port, Postfix};
use tests::scripted::{Script, Scripted, address, reply, sender};
use tests::smtp::{Client, NextHop, is_queued};
use tests::{Milter, not_run, text};

const MAIL: &str = "Subject: x\r\n\r\n.\r\nx\r\n";

/// What stands on the wire behind DATA for it.
const CONTENT: &[u8] = b"Subject: x\r\n\r\n..\r\nx\r\n.\r\n";

/// Does with content what the sender is called after.
fn actor() -> Script {
    let declaration = Declaration {
        effects: vec![
            EffectName::AddRecipient,
            EffectName::DeleteRecipient,
            EffectName::SetRecipients,
            EffectName::Discard,
        ],
        ..Declaration::on([Verb::Mail, Verb::Rcpt, Verb::Message])
    };
    Script { name: "actor", declaration, answer: act }
}

fn act(request: &Request) -> (Duration, Outcome) {
    let passed = Outcome::unchanged(Finding::new("passed"));
    let line = request.line().map(|line| String::from_utf8_lossy(line.as_bytes()).into_owned());
    let delete = |name: &str| SideEffect::DeleteRecipient(address(&format!("{name}@b.example")));
    let add = |name: &str| SideEffect::AddRecipient(address(&format!("{name}@b.example")));
    let outcome = match (&request.command, sender(request).as_str()) {
        (Verb::Rcpt, _) if line.is_some_and(|line| line.contains("alias")) => {
            let line = CommandLine::new("RCPT TO:<full@b.example>").expect("it is a line");
            Outcome::changed(Change::Command(line), "rewritten")
        }
        (Verb::Message, "bad") => {
            Outcome::changed(Change::Reply(reply("554 5.6.0 is bad\r\n")), "refused")
        }
        (Verb::Message, "discard") => passed.with_effect(SideEffect::Discard("x".into())),
        (Verb::Message, "delete") => passed.with_effect(delete("c")),
        (Verb::Message, "add") => passed.with_effect(add("added")).with_effect(add("gone")),
        (Verb::Message, "nobody") => passed.with_effect(add("nobody")),
        (Verb::Message, "moved") => passed.with_effect(delete("c")).with_effect(add("d")),
        (Verb::Message, "lost") => passed.with_effect(delete("c")).with_effect(add("full")),
        (Verb::Message, "all") => {
            passed.with_effect(SideEffect::SetRecipients(vec![address("nobody@b.example")]))
        }
        _ => passed,
    };
    (Duration::ZERO, outcome)
}

struct Chain {
    _server: Scripted,
    proxy: Milter,
    folder: tempfile::TempDir,
}

fn chain(next_hop: &str, more: &str) -> Chain {
    let server = Scripted::start(&[actor()]);
    let folder = tempfile::tempdir().expect("a folder");
    let config = format!("{}{more}", actor::config(&server));
    let arguments = ["--protocol", "lmtp", "--listen", "127.0.0.1:0", "--next-hop", next_hop];
    let proxy = Milter::start_proxy_with(&arguments, folder.path(), &config);
    Chain { _server: server, proxy, folder }
}

fn before(hop: &NextHop, more: &str) -> Chain {
    chain(&format!("127.0.0.1:{}", hop.port), more)
}

impl Chain {
    fn client(&self) -> Client {
        let (mut client, greeting) = Client::connect(self.proxy.port());
        assert_eq!(greeting, "220 next.example ESMTP");
        let offered = client.say("LHLO client.example");
        assert!(
            offered.starts_with("250-next.example\n250-8BITMIME\n250-PIPELINING\n"),
            "{offered}"
        );
        client
    }

    fn told(&mut self) -> String {
        told(&self.proxy.wait_for("message"))
    }
}

/// A message: the replies behind its content, one for each recipient.
fn replies(client: &mut Client, sender: &str, recipients: &[&str], content: &[u8]) -> Vec<String> {
    assert_eq!(client.say(&format!("MAIL FROM:<{sender}@a.example>")), "250 2.1.0 ok");
    for recipient in recipients {
        assert_eq!(client.say(&format!("RCPT TO:<{recipient}@b.example>")), "250 2.1.5 ok");
    }
    assert!(client.say("DATA").starts_with("354 "));
    client.send(content);
    recipients.iter().map(|_| client.reply()).collect()
}

#[test]
fn each_recipient_gets_the_next_hops_own_reply() {
    let hop = NextHop::start_lmtp();
    let mut chain = before(&hop, "");
    let mut client = chain.client();
    assert_eq!(client.say("EHLO client.example"), "500 5.5.1 LMTP begins with LHLO");
    let said = replies(&mut client, "a", &["b", "c"], CONTENT);
    assert_eq!(said, ["250 2.0.0 b@b.example has it", "250 2.0.0 c@b.example has it"]);
    assert_eq!(hop.wait_for(1)[0].octets, MAIL.as_bytes());
    assert!(
        chain.told().starts_with("accept <a@a.example> -> <b@b.example> <c@b.example>\nverdicts: ")
    );
    // A recipient that was refused before gets nothing behind the content.
    client.say("MAIL FROM:<a@a.example>");
    assert_eq!(client.say("RCPT TO:<full@b.example>"), "250 2.1.5 ok");
    assert_eq!(client.say("RCPT TO:<nobody@b.example>"), "550 5.1.1 nobody there");
    assert_eq!(client.say("RCPT TO:<gone@b.example>"), "250 2.1.5 ok");
    assert_eq!(client.say("RCPT TO:<b@b.example>"), "250 2.1.5 ok");
    client.send(b"BDAT 12\r\nSubject: x\r\nBDAT 5 LAST\r\n\r\nx\r\nNOOP\r\n");
    let said: Vec<_> = (0..5).map(|_| client.reply()).collect();
    let expected = [
        "250 2.0.0 Octets received",
        "452 4.2.2 is full",
        "550 5.2.1 is gone",
        "250 2.0.0 b@b.example has it",
        "250 ok",
    ];
    assert_eq!(said, expected);
    let line = chain.told();
    let expected = "accept <a@a.example> -> <full@b.example> <gone@b.example> <b@b.example>\n\
         refused: <nobody@b.example> 550 5.1.1 nobody there; \
         <full@b.example> 452 4.2.2 is full; <gone@b.example> 550 5.2.1 is gone\n";
    assert!(line.starts_with(expected), "{line}");
    let said = replies(&mut client, "a", &["b", "full"], CONTENT);
    assert_eq!(said, ["250 2.0.0 b@b.example has it", "452 4.2.2 is full"]);
    assert!(chain.told().starts_with("accept <a@a.example> -> <b@b.example> <full@b.example>\n"));
}

#[test]
fn what_holds_for_the_message_holds_for_each_recipient() {
    let hop = NextHop::start_lmtp();
    let mut chain = before(&hop, "[limits]\nmessage-octets = 60000\n");
    let mut client = chain.client();
    let large = format!("Subject: x\r\n\r\n{}.\r\n", "0123456789\r\n".repeat(6_000));
    let cases: [(&str, &[u8], &str, &str); 4] = [
        ("bad", CONTENT, "554 5.6.0 is bad", "reject"),
        ("discard", CONTENT, "250 2.0.0 Ok", "discard"),
        ("a", large.as_bytes(), "552 5.3.4 The message is too large", "reject"),
        (
            "a",
            b"Subject: x\r\n\r\nx\n.\nMAIL FROM:<b@a.example>\r\n.\r\n",
            "550 5.6.0 A line of the message ends with CR or LF alone",
            "reject",
        ),
    ];
    for (sender, content, said, decision) in cases {
        assert_eq!(replies(&mut client, sender, &["b", "c", "d"], content), [said; 3]);
        let line = chain.told();
        assert!(line.starts_with(&format!("{decision} <{sender}@a.example> -> ")), "{line}");
        assert!(!line.contains("refused: "), "{line}");
        assert_eq!(client.say("NOOP"), "250 ok");
    }
    assert!(hop.is_empty());
}

#[test]
fn recipients_that_services_change_have_the_replies_of_those_they_became() {
    let hop = NextHop::start_lmtp();
    let mut chain = before(&hop, "");
    let mut client = chain.client();
    let has = |name: &str| format!("250 2.0.0 {name}@b.example has it");
    let taken = || "250 2.0.0 Ok".to_owned();
    let full = || "452 4.2.2 is full".to_owned();
    let nobody = || "550 5.1.1 nobody there".to_owned();
    let added = "failure: the next hop refused the added ";
    let cases = [
        ("a", vec!["b", "alias"], vec![has("b"), full()], "b full", "modify", ""),
        ("delete", vec!["c", "full"], vec![taken(), full()], "full", "modify", ""),
        ("delete", vec!["c", "b"], vec![taken(), has("b")], "b", "modify", ""),
        ("delete", vec!["c"], vec![taken()], "", "discard", ""),
        (
            "add",
            vec!["b"],
            vec![has("b")],
            "b added gone",
            "modify",
            "<gone@b.example>: 550 5.2.1 is gone",
        ),
        (
            "nobody",
            vec!["b", "c"],
            vec![has("b"), has("c")],
            "b c",
            "modify",
            "<nobody@b.example>: 550 ",
        ),
        ("moved", vec!["c", "b"], vec![taken(), has("b")], "b d", "modify", ""),
        // Nobody would have it: that is told.
        (
            "lost",
            vec!["c", "b"],
            vec![full(), has("b")],
            "b full",
            "modify",
            "<full@b.example>: 452 ",
        ),
        ("all", vec!["b", "c"], vec![nobody(), nobody()], "", "reject", "<nobody@b.example>: 550 "),
    ];
    for (sender, recipients, said, reached, decision, failure) in cases {
        assert_eq!(replies(&mut client, sender, &recipients, CONTENT), said, "{sender}");
        if !reached.is_empty() {
            let reached: Vec<_> =
                reached.split(' ').map(|name| format!("{name}@b.example")).collect();
            assert_eq!(hop.wait_for(1)[0].recipients, reached, "{sender}");
        }
        let line = chain.told();
        assert!(line.starts_with(&format!("{decision} <{sender}@a.example> -> ")), "{line}");
        let is_failed = line.contains(&format!("{added}{failure}"));
        assert_eq!(is_failed, !failure.is_empty(), "{line}");
    }
    assert!(hop.is_empty());
}

/// A running smtp-sink that speaks LMTP at a unix socket.
struct Sink(Child);

impl Sink {
    fn start(socket: &Path) -> Self {
        let mut command = Command::new("/usr/sbin/smtp-sink");
        command.args(["-u", "postfix", "-L"]).arg(format!("unix:{}", socket.display())).arg("9");
        let sink = Self(command.stdout(Stdio::null()).spawn().expect("smtp-sink runs"));
        let deadline = Instant::now() + Duration::from_secs(30);
        while UnixStream::connect(socket).is_err() {
            assert!(Instant::now() < deadline, "smtp-sink does not listen");
            std::thread::sleep(Duration::from_millis(5));
        }
        sink
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Postfix's own client and server of LMTP, which know how many replies there have to be.
#[test]
fn it_stands_between_smtp_source_and_smtp_sink() {
    if !postfix::is_there() {
        return not_run("LMTP with smtp-sink", "there is no Postfix, or no root to start it");
    }
    let folder = tempfile::tempdir().expect("a folder");
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).expect("it is ours");
    let socket = folder.path().join("lmtp");
    let _sink = Sink::start(&socket);
    let mut chain = chain(&format!("unix:{}", socket.display()), "");
    let mut source = Command::new("/usr/sbin/smtp-source");
    source.args(["-L", "-s", "3", "-m", "12", "-r", "5", "-f", "a@a.example", "-t", "b@b.example"]);
    let address = format!("inet:127.0.0.1:{}", chain.proxy.port());
    let output = source.arg(address).output().expect("smtp-source runs");
    assert!(output.status.success(), "{output:?}");
    for _ in 0..12 {
        let line = chain.proxy.wait_for("message");
        assert_eq!(
            (text(&line, "decision").as_str(), &line["recipient_count"]),
            ("accept", &5.into())
        );
    }
}

/// Postfix has a queue: what it is told of each recipient is what becomes of that one.
#[test]
fn postfix_delivers_through_it() {
    if !postfix::is_there() {
        return not_run("LMTP from Postfix", "there is no Postfix, or no root to start it");
    }
    let hop = NextHop::start_lmtp();
    let chain = before(&hop, "");
    let transport = format!("default_transport = lmtp:[127.0.0.1]:{}", chain.proxy.port());
    let parameters = ["relayhost =", &transport, "default_destination_recipient_limit = 50"];
    let postfix = Postfix::start(chain.folder.path(), &[Port::default()], hop.port, &parameters);
    let mut client = Client::greeted(postfix.ports[0]);
    let recipients = ["b@b.example", "full@b.example", "gone@b.example", "c@b.example"];
    let reply = client.mail("delete@a.example", &recipients, MAIL.as_bytes());
    assert!(is_queued(&reply), "{reply}");
    postfix.wait_for(&["to=<b@b.example>", "status=sent (250 2.0.0 b@b.example has it)"]);
    postfix.wait_for(&["to=<full@b.example>", "status=deferred", "452 4.2.2 is full"]);
    postfix.wait_for(&["to=<gone@b.example>", "status=bounced", "550 5.2.1 is gone"]);
    postfix.wait_for(&["to=<c@b.example>", "status=sent (250 2.0.0 Ok)"]);
    let reached = hop.wait_for(1).remove(0);
    assert_eq!(reached.recipients, ["b@b.example", "full@b.example", "gone@b.example"]);
}
