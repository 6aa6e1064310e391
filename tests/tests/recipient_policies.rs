//! Recipients under different rules: each gets the version that is meant for them, once.

#![allow(missing_docs, clippy::indexing_slicing)]

use std::collections::BTreeMap;
use std::path::Path;

use tests::attachment::{document_with_macros, with_attachment, with_notice, without_attachment};
use tests::gateway::{Gateway, told};
use tests::smtp::{Client, NextHop};
use tests::stores::Stores;
use tests::{CalloutServer, text};

/// At a.example a notice in German, at b.example nothing is removed, at c.example the attachment goes.
const SERVER: &str = "[services.mime-strip.settings]\n\
    languages = [{ recipients = [\"a.example\"], language = \"de\" }]\n\
    [[services.mime-strip.settings.rules]]\nrecipients = [\"b.example\"]\naction = \"accept\"\n\
    [[services.mime-strip.settings.rules]]\nrecipients = [\"c.example\"]\nmacros = true\naction = \"strip\"\n\
    [[services.mime-strip.settings.rules]]\nmacros = true\naction = \"replace\"\n";

/// Fifty of them, in turns.
fn fifty() -> Vec<String> {
    (0..50).map(|nth| format!("u{nth}@{}.example", ["a", "b", "c", "a", "b"][nth % 5])).collect()
}

fn mail() -> String {
    with_attachment("offer.doc", &document_with_macros())
}

/// What whoever has this domain gets.
fn expected(domain: &str) -> String {
    match domain {
        "a.example" => with_notice(
            "Ein Anhang wurde hier entfernt.\r\nName: offer.doc\r\n\
             Typ: application/octet-stream\r\nGrund: VBA macros in part 1.2 (offer.doc)",
        ),
        "b.example" => mail(),
        _ => without_attachment(),
    }
}

fn domain(address: &str) -> &str {
    address.trim_end_matches('>').split_once('@').map_or("", |(_, domain)| domain)
}

fn config(server: &CalloutServer, more: &str) -> String {
    let address = server.address();
    format!(
        "[[group]]\nname = \"g\"\nservices = [\"virus-scan\", \"mime-strip\"]\nservers = [\"{address}\"]\n{more}\n"
    )
}

#[test]
fn fifty_recipients_under_three_policies() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = CalloutServer::start(folder.path(), SERVER, &[]);
    let hop = NextHop::start();
    let mut proxy =
        Stores::new(folder.path()).start_proxy("127.0.0.1:0", hop.port, &config(&server, ""));
    let fifty = fifty();
    let recipients: Vec<&str> = fifty.iter().map(String::as_str).collect();
    let reply = Client::greeted(proxy.port()).mail("s@x.example", &recipients, mail().as_bytes());
    assert_eq!(reply, "250 2.0.0 Ok");
    let mails = hop.wait_for(3);
    let mut times: BTreeMap<String, usize> = BTreeMap::new();
    for mail in &mails {
        let domain = domain(&mail.recipients[0]).to_owned();
        assert_eq!(String::from_utf8_lossy(&mail.octets), expected(&domain), "{domain}");
        for recipient in &mail.recipients {
            assert_eq!(self::domain(recipient), domain, "they share a version");
            *times.entry(recipient.clone()).or_default() += 1;
        }
    }
    assert_eq!(times.len(), 50);
    assert!(times.values().all(|times| *times == 1), "{times:?}");
    let line = told(&proxy.wait_for("message"));
    let (_, verdicts) = line.split_once("\nverdicts: ").expect("there are verdicts");
    assert_eq!(verdicts.matches("virus-scan=").count(), 1, "they share that answer: {verdicts}");
    assert_eq!(verdicts.matches("mime-strip=").count(), 3, "{verdicts}");
    proxy.terminate();
    assert_eq!(proxy.ended().0, Some(0));
    assert!(hop.is_empty(), "nobody gets another one");
}

/// The same of stored mail: a file for each version.
#[test]
fn three_versions_of_a_stored_mail() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = CalloutServer::start(folder.path(), SERVER, &[]);
    let file = folder.path().join("offer.eml");
    std::fs::write(&file, mail()).expect("it can be written");
    let out = folder.path().join("out");
    let fifty = fifty();
    let mut arguments = vec!["--services", "virus-scan,mime-strip", "--from", "s@x.example"];
    arguments.extend(fifty.iter().flat_map(|one| ["--to", one.as_str()]));
    arguments.push("--out");
    let paths = [out.as_path(), &file].map(Path::as_os_str);
    let adapted = server.adapt(arguments.iter().map(AsRef::as_ref).chain(paths));
    let report = adapted.only();
    assert_eq!(text(report, "decision"), "modify", "{report}");
    let versions = report["versions"].as_array().expect("recipients differ");
    assert_eq!(versions.len(), 3, "{report}");
    let mut seen = 0;
    for (version, number) in versions.iter().zip(1..) {
        let recipients = version["recipients"].as_array().expect("it is for some");
        let of = domain(recipients[0].as_str().expect("an address"));
        assert!(recipients.iter().all(|one| domain(one.as_str().expect("one")) == of));
        let octets = std::fs::read(out.join(format!("offer.eml.version-{number}")));
        let octets = octets.expect("each version has a file");
        assert_eq!(String::from_utf8_lossy(&octets), expected(of), "{of}");
        seen += recipients.len();
    }
    assert_eq!(seen, 50);
}

/// A mail server has one version of a message for all: what happens then is configured, and told.
#[test]
fn where_there_is_one_version_the_fallback_holds() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = CalloutServer::start(folder.path(), SERVER, &[]);
    let differ = "recipients should get different versions of the message";
    for (fallback, decision, begins) in [
        ("reject", "reject", "554 5.5.0"),
        ("tempfail", "tempfail", "451 4.5.0"),
        ("quarantine", "quarantine", "250 2.0.0"),
    ] {
        let config = config(&server, &format!("recipients-differ = \"{fallback}\""));
        let Some(mut gateway) = Gateway::start("policies through a milter", &config, &[]) else {
            return;
        };
        let mut send = |recipients: &[&str]| {
            let mut client = Client::greeted(gateway.port());
            let reply = client.mail("s@x.example", recipients, mail().as_bytes());
            let log = gateway.milter.wait_for("message");
            (reply, log)
        };
        let (reply, line) = send(&["u0@a.example", "u1@b.example"]);
        assert!(reply.starts_with(begins), "{reply}");
        let refused = decision != "quarantine";
        assert_eq!(reply.contains(differ), refused, "{reply}");
        assert_eq!(text(&line, "decision"), decision);
        let verdicts = text(&line, "verdicts");
        assert!(verdicts.contains("mime-strip=exempt"), "{verdicts}");
        assert!(verdicts.contains("mime-strip=stripped (VBA macros in part 1.2"), "{verdicts}");
        // Those who are treated alike get theirs.
        let (reply, line) = send(&["u0@a.example", "u3@a.example"]);
        assert!(reply.starts_with("250 2.0.0 Ok: queued"), "{reply}");
        assert_eq!(text(&line, "decision"), "modify");
        let mails = gateway.hop.wait_for(1);
        assert_eq!(String::from_utf8_lossy(mails[0].without_received()), expected("a.example"));
        let told: Vec<_> = gateway
            .milter
            .lines
            .iter()
            .filter(|line| {
                line["message"] == "recipients should get different versions of a message"
            })
            .collect();
        assert_eq!(told.len(), 1, "once, for the first of both: {told:?}");
        assert_eq!(text(told[0], "fallback"), fallback, "{}", told[0]);
    }
}
