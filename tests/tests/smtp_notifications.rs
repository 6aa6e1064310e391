//! New messages that services want to have submitted: `opes-mta smtp --spool` does it, all others say that they can't.

#![allow(missing_docs, clippy::indexing_slicing)]

use std::collections::HashSet;
use std::sync::Mutex;
use std::time::Duration;

use ocp_proto::smtp::Command;
use services::mail::Edits;
use services::{Change, Declaration, Finding, Notification, Outcome, Request};
use tests::gateway::{Gateway, told};
use tests::scripted::{Script, Scripted, address, reply, sender};
use tests::smtp::{Client, Delivered, Instead, NextHop, is_queued};
use tests::{Milter, adapt, text};

const MAIL: &str = "Subject: x\r\n\r\nbody\r\n";
const ADMIN: &str = "admin@b.example";
const SYSTEM: &str = "[system]\nuri = \"https://opes.example.org/\"\nname = \"mx1\"\n";

/// Senders whose mail was put off once.
static PUT_OFF: Mutex<Option<HashSet<String>>> = Mutex::new(None);

/// Tells the administrator of each message, and does besides what the sender is called after; or marks those for
/// Ann.
fn script(name: &'static str) -> Script {
    let declaration =
        Declaration { notifies: name == "tells", ..Declaration::on([Command::Message]) };
    let answer = if name == "tells" { tells } else { marks };
    Script { name, declaration, answer }
}

fn tells(request: &Request) -> (Duration, Outcome) {
    assert!(request.may_notify);
    let name = sender(request);
    let refused = |lines| Outcome::changed(Change::Reply(reply(lines)), "refused");
    let is_new = || PUT_OFF.lock().expect("lock").get_or_insert_default().insert(name.clone());
    let outcome = match name.as_str() {
        "bad" => refused("550 5.7.1 not this\r\n"),
        "later" if is_new() => refused("451 4.7.1 not now\r\n"),
        _ => Outcome::unchanged(Finding::new("passed")),
    };
    let header = format!("From: <filter@b.example>\r\nTo: <{ADMIN}>\r\nSubject: {name}\r\n\r\n");
    let new = Notification::new(vec![address(ADMIN)], header, "It has come.\r\n");
    (Duration::ZERO, outcome.with_notification(new.expect("it is right")))
}

fn marks(request: &Request) -> (Duration, Outcome) {
    let mut edits = Edits::new();
    edits.prepend_field(request.mail().expect("it is about content"), "X-Mark", "new");
    (Duration::ZERO, Outcome::changed(Change::Content(edits), "marked"))
}

fn server() -> Scripted {
    let for_ann = |name: &str| (name == "marks").then_some("ann@b.example");
    Scripted::start_for("127.0.0.1:0", &[script("marks"), script("tells")], for_ann)
}

fn config(server: &Scripted, services: &str) -> String {
    let address = &server.address;
    format!("{SYSTEM}[[group]]\nname = \"g\"\nservices = [{services}]\nservers = [\"{address}\"]\n")
}

struct Chain {
    _server: Scripted,
    proxy: Milter,
    _folder: tempfile::TempDir,
}

fn chain(next_hop: u16, services: &str, more: &[&str]) -> Chain {
    let (server, folder) = (server(), tempfile::tempdir().expect("a folder"));
    let spool = folder.path().join("spool").display().to_string();
    let next_hop = format!("127.0.0.1:{next_hop}");
    let mut arguments = vec!["--listen", "127.0.0.1:0", "--next-hop", &next_hop];
    for argument in more {
        arguments.push(if *argument == "SPOOL" { &spool } else { argument });
    }
    let config = config(&server, services);
    let proxy = Milter::start_proxy_with(&arguments, folder.path(), &config);
    Chain { _server: server, proxy, _folder: folder }
}

const SPOOL: [&str; 2] = ["--spool", "SPOOL"];

impl Chain {
    fn mail(&self, sender: &str, recipients: &[&str]) -> String {
        let sender = format!("{sender}@a.example");
        Client::greeted(self.proxy.port()).mail(&sender, recipients, MAIL.as_bytes())
    }

    /// What the log says of the next message, and how the traces of this pass are called.
    fn told(&mut self) -> (String, String) {
        let line = self.proxy.wait_for("message");
        (told(&line), text(&line, "id"))
    }
}

/// The octets with the trace of this pass before them.
fn traced(id: &str, octets: &str) -> String {
    format!(
        "OPES-System: https://opes.example.org/ ; processor=mx1\r\n\t; session={id}\r\n{octets}"
    )
}

/// The notification of a message as it arrives, see [`tells`].
fn is_notified(new: &Delivered, id: &str, name: &str) {
    let octets = format!(
        "From: <filter@b.example>\r\nTo: <{ADMIN}>\r\nSubject: {name}\r\n\
         Auto-Submitted: auto-generated\r\n\r\nIt has come.\r\n"
    );
    assert_eq!(String::from_utf8_lossy(&new.octets), traced(id, &octets));
    assert_eq!((new.sender.as_str(), &new.recipients[..]), ("", &[ADMIN.to_owned()][..]));
}

/// What has arrived, in the order of the recipients: the administrator's first.
fn arrived(hop: &NextHop, count: usize) -> Vec<Delivered> {
    let mut mails = hop.wait_for(count);
    mails.sort_by(|one, other| one.recipients.cmp(&other.recipients));
    mails
}

/// OPES-4496-4.1-05
#[test]
fn a_message_and_its_notification_arrive() {
    let hop = NextHop::start();
    let mut chain = chain(hop.port, "\"tells\"", &SPOOL);
    assert_eq!(chain.mail("good", &["bob@b.example"]), "250 2.0.0 taken", "the next hop's own");
    let mails = arrived(&hop, 2);
    let line = chain.proxy.wait_for("message");
    let id = text(&line, "id");
    is_notified(&mails[0], &id, "good");
    assert_eq!(String::from_utf8_lossy(&mails[1].octets), traced(&id, MAIL));
    assert_eq!(mails[1].sender, "good@a.example");
    assert_eq!(told(&line), "accept <good@a.example> -> <bob@b.example>\nverdicts: tells=passed");
    let delivery = chain.proxy.wait_for("delivery");
    assert_eq!(text(&line, "spooled"), text(&delivery, "id"));
}

/// OPES-4496-4.1-05
#[test]
fn who_is_refused_is_notified_of() {
    let hop = NextHop::start();
    let mut chain = chain(hop.port, "\"tells\"", &SPOOL);
    let reply = chain.mail("bad", &["bob@b.example"]);
    let (line, id) = chain.told();
    assert_eq!(reply, format!("550 5.7.1 not this [opes https://opes.example.org/ {id}]"));
    is_notified(&arrived(&hop, 1)[0], &id, "bad");
    assert!(line.starts_with("reject <bad@a.example> -> <bob@b.example>\n"), "{line}");
    assert!(hop.is_empty());
}

/// OPES-3837-3.8-01
#[test]
fn what_is_put_off_is_notified_of_once_it_is_taken() {
    let hop = NextHop::start();
    let mut chain = chain(hop.port, "\"tells\"", &SPOOL);
    assert!(chain.mail("later", &["bob@b.example"]).starts_with("451 4.7.1 not now"));
    let line = chain.proxy.wait_for("message");
    assert!(line["spooled"].is_null() && hop.is_empty(), "{line}");
    assert_eq!(chain.mail("later", &["bob@b.example"]), "250 2.0.0 taken");
    let (_, id) = chain.told();
    is_notified(&arrived(&hop, 2)[0], &id, "later");
    chain.proxy.terminate();
    assert_eq!(chain.proxy.ended().0, Some(0));
    assert!(hop.is_empty(), "once");
}

#[test]
fn what_the_next_hop_refuses_notifies_nobody() {
    let hop = NextHop::unless(|line| (line == ".").then(|| Instead::say("550 5.6.0 not here"))?);
    let mut chain = chain(hop.port, "\"tells\"", &SPOOL);
    assert!(chain.mail("good", &["bob@b.example"]).starts_with("550 5.6.0 not here"));
    let line = chain.proxy.wait_for("message");
    assert!(line["spooled"].is_null(), "{line}");
    chain.proxy.terminate();
    let (code, lines) = chain.proxy.ended();
    assert_eq!(code, Some(0));
    assert!(lines.iter().all(|line| line["message"] != "delivery"), "{lines:#?}");
}

/// Over LMTP somebody has the message, or nobody does.
#[test]
fn over_lmtp_one_recipient_is_enough() {
    let hop = NextHop::start_lmtp();
    let lmtp = ["--spool", "SPOOL", "--protocol", "lmtp"];
    let mut chain = chain(hop.port, "\"tells\"", &lmtp);
    let mut mail = |recipients: &[&str], replies: &[&str]| {
        let (mut client, _) = Client::connect(chain.proxy.port());
        client.say("LHLO client.example");
        client.say("MAIL FROM:<good@a.example>");
        for recipient in recipients {
            assert_eq!(client.say(&format!("RCPT TO:<{recipient}>")), "250 2.1.5 ok");
        }
        client.say("DATA");
        client.send(format!("{MAIL}.\r\n").as_bytes());
        for reply in replies {
            assert!(client.reply().starts_with(reply));
        }
        chain.proxy.wait_for("message")
    };
    let line = mail(&["full@b.example", "gone@b.example"], &["452 4.2.2", "550 5.2.1"]);
    assert!(line["spooled"].is_null(), "{line}");
    // The next hop of these stories keeps what it has refused.
    hop.wait_for(1);
    let line = mail(&["full@b.example", "bob@b.example"], &["452 4.2.2", "250 2.0.0"]);
    is_notified(&arrived(&hop, 2)[0], &text(&line, "id"), "good");
}

/// OPES-4496-4.1-05
#[test]
fn two_versions_and_notifications_of_both() {
    let hop = NextHop::start();
    let mut chain = chain(hop.port, "\"marks\", \"tells\"", &SPOOL);
    assert_eq!(chain.mail("good", &["ann@b.example", "bob@b.example"]), "250 2.0.0 Ok");
    let mails = arrived(&hop, 4);
    let (line, id) = chain.told();
    assert!(line.starts_with("modify <good@a.example> -> "), "{line}");
    is_notified(&mails[0], &id, "good");
    is_notified(&mails[1], &id, "good");
    let marked = traced(&id, &format!("X-Mark: new\r\n{MAIL}"));
    let octets = |mail: &Delivered| String::from_utf8_lossy(&mail.octets).into_owned();
    assert_eq!(mails[2].recipients, ["ann@b.example"]);
    assert_eq!((octets(&mails[2]), octets(&mails[3])), (marked, traced(&id, MAIL)));
}

const NOT_HERE: &str = "\nfailure: notifications that can't be submitted here: 1\n";

#[test]
fn without_a_spool_the_message_goes_on_and_its_line_says_so() {
    let hop = NextHop::start();
    let mut chain = chain(hop.port, "\"tells\"", &[]);
    assert_eq!(chain.mail("good", &["bob@b.example"]), "250 2.0.0 taken");
    let (line, id) = chain.told();
    assert!(line.contains(NOT_HERE) && line.starts_with("accept "), "{line}");
    assert_eq!(String::from_utf8_lossy(&hop.wait_for(1)[0].octets), traced(&id, MAIL));
    assert!(chain.mail("bad", &["bob@b.example"]).starts_with("550 5.7.1 not this"));
    let (line, _) = chain.told();
    assert!(line.contains(NOT_HERE) && line.starts_with("reject "), "{line}");
    assert!(hop.is_empty());
}

#[test]
fn a_milter_submits_nothing_and_says_so() {
    let server = server();
    let config = config(&server, "\"tells\"");
    let Some(mut gateway) = Gateway::start("notifications by a milter", &config, &[]) else {
        return;
    };
    let mut client = Client::greeted(gateway.port());
    let reply = client.mail("good@a.example", &["bob@b.example"], MAIL.as_bytes());
    assert!(is_queued(&reply), "{reply}");
    let line = gateway.told();
    // Its trace is an edit.
    assert!(line.contains(NOT_HERE) && line.starts_with("modify "), "{line}");
    assert_eq!(gateway.hop.wait_for(1)[0].recipients, ["bob@b.example"]);
    let reply = client.mail("bad@a.example", &["bob@b.example"], MAIL.as_bytes());
    assert!(reply.starts_with("550 5.7.1 not this"), "{reply}");
    assert!(gateway.told().contains(NOT_HERE));
    assert!(gateway.hop.is_empty());
}

#[test]
fn the_report_on_stored_mail_names_whom_services_notify() {
    let (server, folder) = (server(), tempfile::tempdir().expect("a folder"));
    let mail = folder.path().join("mail").display().to_string();
    std::fs::write(&mail, MAIL).expect("written");
    // Who it is for is known or not.
    for to in [&[][..], &["--to", "bob@b.example"]] {
        for (sender, decision) in [("good", "accept"), ("bad", "reject")] {
            let from = format!("--from={sender}@a.example");
            let arguments = ["--services=tells", &from, &mail];
            let adapted = adapt(&server.address, arguments.iter().chain(to));
            let report = adapted.only();
            assert_eq!(report["decision"], decision, "{report}");
            let new = &report["notifications"][0];
            assert_eq!(
                (&new["sender"], &new["recipients"][0]),
                (&"<>".into(), &"<admin@b.example>".into())
            );
            assert!(new["octets"].as_u64() > Some(100) && report["versions"].is_null(), "{report}");
        }
    }
    let mut command = tests::program("opes-mta");
    command.args(["adapt", "--server", &server.address, "--services=tells", &mail]);
    let said = String::from_utf8(command.output().expect("it runs").stdout).expect("it is UTF-8");
    assert!(said.contains("  notifies <admin@b.example>\n"), "{said}");
}
