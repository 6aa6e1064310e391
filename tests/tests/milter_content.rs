//! What services make of messages and envelopes, as a real Postfix carries it out: the next hop gets exactly
//! that.

#![allow(missing_docs, clippy::indexing_slicing)]

use std::process::Command as Program;
use std::time::Duration;

use ocp_proto::smtp::{Command, EffectName, SideEffect};
use services::mail::{Edits, Mail};
use services::{Change, Declaration, Finding, Outcome, Request};
use tests::gateway::{Gateway, told};
use tests::scripted::{Script, Scripted, address, sender};
use tests::smtp::Client;
use tests::{adapt, files, fixtures, not_run, shared, text};

const HEADER: &str = "From: a@a.example\r\nX-Old: one\r\nSubject:  spaces\r\n\tand a fold\r\n\
                      X-Old: two\r\nX-Dup: 1\r\nX-Dup: 2\r\n";
const BODY: &str = "\r\nfirst\r\n.dot\r\n..\r\nlast without much\r\n";

/// Does what the sender is called after.
fn editor() -> Script {
    let declaration = Declaration {
        effects: vec![
            EffectName::AddRecipient,
            EffectName::DeleteRecipient,
            EffectName::ChangeSender,
            EffectName::Quarantine,
            EffectName::Discard,
        ],
        ..Declaration::on([Command::Rcpt, Command::Data, Command::Message])
    };
    Script { name: "editor", declaration, answer: edit }
}

fn edit(request: &Request) -> (Duration, Outcome) {
    let passed = Outcome::unchanged(Finding::new("passed"));
    let Some(mail) = request.mail() else {
        // Asked for at RCPT, carried out at the end.
        let outcome = match sender(request).as_str() {
            "early" => passed.with_effect(SideEffect::AddRecipient(address("early@b.example"))),
            "done" => passed
                .with_effect(SideEffect::AddRecipient(address("done@b.example")))
                .with_envelope_done(),
            _ => passed,
        };
        return (Duration::ZERO, outcome);
    };
    let with = |parameters: &[&str], path: &str| {
        let parameters = parameters.iter().map(|p| p.as_bytes().into()).collect();
        address(path).with_parameters(parameters).expect("legal parameters")
    };
    let outcome = match sender(request).as_str() {
        "add" => passed.with_effect(SideEffect::AddRecipient(with(
            &["NOTIFY=FAILURE", "ORCPT=rfc822;first@b.example"],
            "added@b.example",
        ))),
        "delete" => passed.with_effect(SideEffect::DeleteRecipient(address("c@b.example"))),
        "sender" => passed.with_effect(SideEffect::ChangeSender(with(
            &["RET=HDRS", "ENVID=x1"],
            "new@a.example",
        ))),
        "quarantine" => passed.with_effect(SideEffect::Quarantine("100% odd".into())),
        "discard" => passed.with_effect(SideEffect::Discard("spam".into())),
        "slow" => return (Duration::from_secs(6), passed),
        "mark" | "chain" => edited(|edits| edits.prepend_field(mail, "X-Mark", "100% new")),
        "change" => edited(|edits| change(edits, mail)),
        "remove" => edited(|edits| edits.remove_fields(mail, "x-old")),
        "body" => {
            edited(|edits| edits.replace(mail.header().len()..mail.len(), "new\r\n.\r\n".into()))
        }
        "empty" => edited(|edits| edits.delete(mail.header().len()..mail.len())),
        _ => passed,
    };
    (Duration::ZERO, outcome)
}

fn edited(edit: impl FnOnce(&mut Edits)) -> Outcome {
    let mut edits = Edits::new();
    edit(&mut edits);
    Outcome::changed(Change::Content(edits), "edited")
}

fn change(edits: &mut Edits, mail: &Mail) {
    let second = mail.fields_named("X-Dup").nth(1).expect("it is there");
    edits.replace(second.value.clone(), "  changed\r\n  and folded".into());
}

/// Says whether it saw the mark of the one before.
fn second() -> Script {
    let answer = |request: &Request| {
        let saw = request.mail().is_some_and(|mail| mail.field("X-Mark").is_some());
        let mail = request.mail().cloned();
        let outcome = edited(|edits| {
            mail.iter().for_each(|mail| {
                edits.prepend_field(mail, "X-Second", if saw { "saw it" } else { "saw nothing" });
            });
        });
        (Duration::ZERO, outcome)
    };
    Script { name: "second", declaration: Declaration::on([Command::Message]), answer }
}

fn gateway(story: &str) -> Option<(Scripted, Gateway)> {
    let server = Scripted::start(&[editor(), second()]);
    let group = |name: &str| {
        format!(
            "[[group]]\nname = \"{name}\"\nservices = [\"{name}\"]\nservers = [\"{}\"]\n",
            server.address
        )
    };
    let config = format!(
        "{}{}{}[[rule]]\nname = \"chained\"\nsenders = [\"chain@a.example\"]\n\
         groups = [\"editor\", \"second\"]\n\
         [[rule]]\nname = \"strip\"\nsenders = [\"strip@a.example\"]\ngroups = [\"mime-strip\"]\n\
         [[rule]]\nname = \"postmaster\"\nall-recipients = [\"postmaster@b.example\"]\ngroups = []\n\
         [[rule]]\ngroups = [\"editor\"]\n\
         [limits]\nmessage-octets = 60000\nprogress-interval = 1\n",
        group("editor"),
        group("second"),
        group("mime-strip"),
    );
    let gateway = Gateway::start(story, &config, &["milter_content_timeout = 4s"])?;
    Some((server, gateway))
}

fn mail() -> String {
    format!("{HEADER}{BODY}")
}

/// Sends a mail whose sender says what is to be done with it: what arrives, and what the log says.
fn send(gateway: &mut Gateway, sender: &str) -> (tests::smtp::Delivered, String) {
    let mut client = Client::greeted(gateway.port());
    let sender = format!("{sender}@a.example");
    let reply = client.mail(&sender, &["b@b.example", "c@b.example"], mail().as_bytes());
    assert!(reply.starts_with("250 2.0.0 Ok: queued as "), "{sender} {reply}");
    (gateway.hop.wait_for(1).remove(0), gateway.told())
}

fn sorted(mut recipients: Vec<String>) -> Vec<String> {
    recipients.sort();
    recipients
}

fn text_of(octets: &[u8]) -> String {
    String::from_utf8_lossy(octets).into_owned()
}

/// OPES-4496-3.1-02
#[test]
fn what_is_edited_arrives_edited_and_the_rest_as_it_was() {
    let Some((_server, mut gateway)) = gateway("edits through Postfix") else { return };
    let second = "X-Dup: 1\r\nX-Dup:  changed\r\n  and folded\r\n";
    let cases = [
        ("accept", mail()),
        ("mark", format!("X-Mark: 100% new\r\n{}", mail())),
        ("change", mail().replace("X-Dup: 1\r\nX-Dup: 2\r\n", second)),
        ("remove", mail().replace("X-Old: one\r\n", "").replace("X-Old: two\r\n", "")),
        ("body", format!("{HEADER}\r\nnew\r\n.\r\n")),
        ("empty", format!("{HEADER}\r\n")),
        // The second group sees what the first one made.
        ("chain", format!("X-Second: saw it\r\nX-Mark: 100% new\r\n{}", mail())),
    ];
    for (sender, expected) in cases {
        let (delivered, told) = send(&mut gateway, sender);
        assert_eq!(text_of(delivered.without_received()), expected, "{sender}");
        assert_eq!(delivered.recipients, ["b@b.example", "c@b.example"]);
        let (decision, verdicts) = match sender {
            "accept" => ("accept", "editor=passed"),
            "chain" => ("modify", "editor=edited, second=edited"),
            _ => ("modify", "editor=edited"),
        };
        let verdicts = format!("editor=passed, editor=passed, editor=passed, {verdicts}");
        let envelope = format!("<{sender}@a.example> -> <b@b.example> <c@b.example>");
        assert_eq!(told, format!("{decision} {envelope}\nverdicts: {verdicts}"));
    }
}

/// OPES-4496-4.7-02
#[test]
fn the_envelope_is_changed_as_asked() {
    let Some((_server, mut gateway)) = gateway("envelopes through Postfix") else { return };
    let told = |decision: &str, sender: &str| {
        let envelope = format!("<{sender}@a.example> -> <b@b.example> <c@b.example>");
        let verdicts = "editor=passed, editor=passed, editor=passed, editor=passed";
        format!("{decision} {envelope}\nverdicts: {verdicts}")
    };
    let (delivered, line) = send(&mut gateway, "add");
    // Behind the parameters of MAIL.
    let added = delivered.recipients.iter().position(|path| path == "added@b.example");
    let parameters = &delivered.parameters[added.expect("it was added") + 1];
    assert_eq!(parameters, "ORCPT=rfc822;first@b.example NOTIFY=FAILURE");
    assert_eq!(delivered.recipients.len(), 3);
    assert_eq!(line, told("modify", "add"));
    assert_eq!(text_of(delivered.without_received()), mail());

    let (delivered, line) = send(&mut gateway, "delete");
    assert_eq!(
        (delivered.recipients, line),
        (vec!["b@b.example".to_owned()], told("modify", "delete"))
    );

    let (delivered, line) = send(&mut gateway, "sender");
    assert_eq!((&delivered.sender[..], line), ("new@a.example", told("modify", "sender")));
    assert!(delivered.parameters[0].contains("ENVID=x1 RET=HDRS"), "{:?}", delivered.parameters);

    let (delivered, line) = send(&mut gateway, "early");
    assert_eq!(sorted(delivered.recipients), ["b@b.example", "c@b.example", "early@b.example"]);
    assert_eq!(line, told("modify", "early"));

    // The services want nothing more of the envelope: what they asked for is done all the same.
    let (delivered, line) = send(&mut gateway, "done");
    assert_eq!(sorted(delivered.recipients), ["b@b.example", "c@b.example", "done@b.example"]);
    assert_eq!(
        line,
        "modify <done@a.example> -> <b@b.example> <c@b.example>\nverdicts: editor=passed"
    );
}

/// OPES-4496-4.1-04, OPES-4496-4.2-03
#[test]
fn messages_are_kept_dropped_and_waited_for() {
    let Some((_server, mut gateway)) = gateway("quarantine, discard, progress") else { return };
    let mut client = Client::greeted(gateway.port());
    let send = |client: &mut Client, sender: &str| {
        client.mail(&format!("{sender}@a.example"), &["b@b.example"], mail().as_bytes())
    };
    let told = |decision: &str, sender: &str| {
        let envelope = format!("<{sender}@a.example> -> <b@b.example>");
        format!("{decision} {envelope}\nverdicts: editor=passed, editor=passed, editor=passed")
    };
    let reply = send(&mut client, "quarantine");
    let queue_id = reply.strip_prefix("250 2.0.0 Ok: queued as ").expect("it is taken").to_owned();
    assert_eq!(gateway.told(), told("quarantine", "quarantine"));
    let held = gateway.postfix.queued("hold");
    assert_eq!(held.len(), 1);
    assert_eq!(held[0].file_name().and_then(|name| name.to_str()), Some(&queue_id[..]));
    assert!(gateway.postfix.content(&held[0]).ends_with(&mail().replace('\r', "")));
    gateway.postfix.wait_for(&[&queue_id, "milter-hold"]);

    let reply = send(&mut client, "discard");
    assert!(reply.starts_with("250 2.0.0 Ok"), "{reply}");
    assert_eq!(gateway.told(), told("discard", "discard"));
    assert!(gateway.hop.is_empty(), "neither of them goes on");

    // Postfix waits for 4 seconds (milter_content_timeout), and hears of progress each second.
    let reply = send(&mut client, "slow");
    assert!(reply.starts_with("250 2.0.0 Ok: queued as "), "{reply}");
    assert_eq!(gateway.told(), told("accept", "slow"));
    assert_eq!(text_of(gateway.hop.wait_for(1)[0].without_received()), mail());
}

/// OPES-4496-4.1-01
#[test]
fn parts_are_stripped_from_real_mails() {
    let Some((server, mut gateway)) = gateway("mime-strip behind Postfix") else { return };
    let folder = gateway.folder.path().join("mails");
    std::fs::create_dir(&folder).expect("a folder");
    let mut mails = vec![fixtures().join("two-types.eml")];
    match shared("virus") {
        Some(virus) => mails.extend(files(&virus)),
        None => not_run("stripping real mails", "the development mails are not there"),
    }
    for path in &mails {
        let lines = text_of(&std::fs::read(path).expect("a mail")).replace("\r\n", "\n");
        let name = path.file_name().expect("it has a name");
        // Postfix takes away a return path that is not its own.
        let lines = lines.split_inclusive('\n').filter(|line| !line.starts_with("Return-Path:"));
        let mail = lines.collect::<String>().replace('\n', "\r\n");
        std::fs::write(folder.join(name), mail).expect("written");
    }
    let out = gateway.folder.path().join("out");
    let services = "--services=mime-strip".to_owned();
    let out_folder = format!("--out={}", out.display());
    let adapted = adapt(&server.address, [services, out_folder, folder.display().to_string()]);
    let stripped: Vec<_> =
        adapted.reports.iter().filter(|report| report["decision"] == "modify").collect();
    assert!(stripped.len() * 2 > mails.len(), "{:#?}", adapted.reports);
    let mut client = Client::greeted(gateway.port());
    for report in stripped {
        let name = text(report, "file");
        let mail = std::fs::read(folder.join(&name)).expect("a mail");
        let reply = client.mail("strip@a.example", &["b@b.example"], &mail);
        assert!(reply.starts_with("250 2.0.0 Ok: queued as "), "{name} {reply}");
        let delivered = gateway.hop.wait_for(1).remove(0);
        let mut expected = std::fs::read(out.join(&name)).expect("it was written");
        if !expected.ends_with(b"\r\n") {
            // SMTP has whole lines only.
            expected.extend_from_slice(b"\r\n");
        }
        assert_eq!(text_of(delivered.without_received()), text_of(&expected), "{name}");
        let line = gateway.milter.wait_for("message");
        assert_eq!((&line["decision"], &line["rule"]), (&"modify".into(), &"strip".into()));
    }
}

#[test]
fn a_message_beyond_the_limit_is_a_matter_of_who_wants_it() {
    let Some((_server, mut gateway)) = gateway("large mails through Postfix") else { return };
    let large = format!("{HEADER}\r\n{}", "0123456789\r\n".repeat(6_000));
    let mut client = Client::greeted(gateway.port());
    let reply = client.mail("a@a.example", &["b@b.example"], large.as_bytes());
    assert_eq!(reply, "451 4.3.0 Message could not be checked, try again later");
    let line = gateway.milter.wait_for("message");
    let failure = "the message takes more than 60000 octets with its list of fields";
    assert_eq!(
        told(&line),
        format!(
            "tempfail <a@a.example> -> <b@b.example>\nreason: {reply}\nfailure: {failure}\nverdicts: editor=passed, editor=passed"
        )
    );
    // Nobody wants to see this one.
    let reply = client.mail("a@a.example", &["postmaster@b.example"], large.as_bytes());
    assert!(reply.starts_with("250 2.0.0 Ok: queued as "), "{reply}");
    let line = gateway.milter.wait_for("message");
    assert_eq!(
        (&line["decision"], &line["rule"]),
        (&"accept".into(), &"postmaster".into()),
        "{line}"
    );
    assert_eq!(text_of(gateway.hop.wait_for(1)[0].without_received()), large);
}

#[test]
fn other_clients_have_the_same_experience() {
    let Some((_server, mut gateway)) = gateway("swaks and smtp-source through Postfix") else {
        return;
    };
    let server = format!("127.0.0.1:{}", gateway.port());
    let swaks = |sender: &str| {
        let mut swaks = Program::new("swaks");
        swaks.args(["--server", &server, "--from", sender, "--to", "b@b.example"]);
        swaks.args(["--helo", "client.example", "--header", "Subject: from swaks"]);
        swaks.output().map(|output| text_of(&output.stdout))
    };
    match swaks("mark@a.example") {
        Err(error) => not_run("swaks through Postfix", &error.to_string()),
        Ok(dialog) => {
            assert!(dialog.contains("<-  250 2.0.0 Ok: queued as "), "{dialog}");
            let sent: Vec<_> =
                dialog.lines().filter_map(|line| line.strip_prefix(" -> ")).collect();
            let at = sent.iter().position(|line| *line == "DATA").expect("it sends data") + 1;
            let end = sent.iter().rposition(|line| *line == ".").expect("data ends");
            let expected = format!("X-Mark: 100% new\r\n{}\r\n", sent[at..end].join("\r\n"));
            let delivered = gateway.hop.wait_for(1).remove(0);
            assert_eq!(text_of(delivered.without_received()), expected);
            assert!(gateway.told().starts_with("modify <mark@a.example> -> <b@b.example>\n"));
            let dialog = swaks("discard@a.example").expect("it ran before");
            assert!(dialog.contains("<-  250 2.0.0 Ok: queued as "), "{dialog}");
            assert!(gateway.told().starts_with("discard <discard@a.example> -> <b@b.example>\n"));
            assert!(gateway.hop.is_empty());
        }
    }
    let source = Program::new("smtp-source")
        .args(["-s", "10", "-m", "100", "-l", "4000", "-f", "mark@a.example", "-t", "b@b.example"])
        .arg(&server)
        .output();
    let source = source.expect("smtp-source comes with Postfix");
    assert!(source.status.success(), "{source:?}");
    for delivered in gateway.hop.wait_for(100) {
        let octets = delivered.without_received();
        assert!(octets.starts_with(b"X-Mark: 100% new\r\n"), "{}", text_of(octets));
        assert_eq!(octets.windows(7).filter(|seven| seven == b"X-Mark:").count(), 1);
    }
    for _ in 0..100 {
        assert!(gateway.told().starts_with("modify <mark@a.example> -> <b@b.example>\n"));
    }
}
