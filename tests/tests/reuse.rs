//! Answers that hold for a while: `valid-for` of `mail-from`, from the configuration to the report.

#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing)]

use std::path::Path;

use serde_json::{Value, json};
use tempfile::tempdir;
use tests::{CalloutServer, found, text};

const SETTINGS: &str = "deny = [\"bad.example\"]\n\
    rewrite = [{ pattern = '@old\\.example$', replacement = '@new.example' }]\n";

/// The senders of a mailbox, one mail after the other through these services: the reports, and what the
/// server logged of MAIL.
fn run(settings: &str, services: &str, senders: &[&str]) -> (Vec<Value>, Vec<Value>) {
    let folder = tempdir().unwrap();
    let config = format!("[services.mail-from.settings]\n{SETTINGS}{settings}");
    let server = CalloutServer::start(folder.path(), &config, &[]);
    let mail = |from: &&str| {
        format!("From {from} Thu Nov  5 10:00:00 2026\nSubject: x\n\nfrom {from}\n\n")
    };
    let mailbox = folder.path().join("box");
    std::fs::write(&mailbox, senders.iter().map(mail).collect::<String>()).unwrap();
    let adapted = server.adapt([
        Path::new("--jobs=1"),
        Path::new("--services"),
        Path::new(services),
        Path::new("--to=x@example.com"),
        &mailbox,
    ]);
    assert_eq!(adapted.code, Some(0), "{}", adapted.stderr);
    server.terminate();
    let (_, mut lines) = server.ended();
    lines.retain(|line| line["message"] == "adapted" && line["span"]["command"] == "MAIL");
    (adapted.reports, lines)
}

const SENDERS: [&str; 7] = [
    "a@old.example",
    "b@bad.example",
    "a@old.example",
    "b@bad.example",
    "c@bad.example",
    "A@old.example",
    "b@bad.example",
];

#[test]
fn a_sender_is_asked_about_once() {
    let asked_each_time = run("", "mail-from", &SENDERS);
    let (reports, lines) = run("valid-for = 600\n", "mail-from", &SENDERS);
    let reused: Vec<_> = reports.iter().map(|report| report["reused"] == json!(["MAIL"])).collect();
    assert_eq!(reused, [false, false, true, true, false, false, true]);
    assert_eq!(lines.len(), 4, "one for each sender");
    assert!(lines.iter().all(|line| line["valid_for"] == 600), "{lines:#?}");
    // What comes of it is the same as if each was asked about.
    assert_eq!(asked_each_time.1.len(), SENDERS.len());
    assert!(asked_each_time.1.iter().all(|line| line["valid_for"].is_null()));
    for (report, asked) in reports.iter().zip(&asked_each_time.0) {
        for member in ["decision", "reply", "sender", "recipients", "effects", "error"] {
            assert_eq!(report[member], asked[member], "{member}");
        }
        assert_eq!(found(report, "mail-from"), found(asked, "mail-from"));
        let saved = asked["octets_sent"].as_u64() > report["octets_sent"].as_u64();
        assert_eq!(saved, !report["reused"].is_null(), "{report}");
    }
    let decisions: Vec<_> = reports.iter().map(|report| text(report, "decision")).collect();
    let (modify, reject) = ("modify", "reject");
    assert_eq!(decisions, [modify, reject, modify, reject, reject, modify, reject]);
}

/// A group with a service that wants to see every event is asked each time.
#[test]
fn one_service_that_says_nothing_speaks_for_all() {
    let (reports, lines) = run("valid-for = 600\n", "log,mail-from", &SENDERS);
    assert!(reports.iter().all(|report| report["reused"].is_null()), "{reports:#?}");
    assert_eq!(lines.len(), SENDERS.len());
}
