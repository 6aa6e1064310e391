//! Commands that read a message and write it, run by the real server.

#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing)]

use std::path::{Path, PathBuf};

use serde_json::Value;
use tempfile::tempdir;
use tests::{CalloutServer, found, text};

const MAIL: &str = "From: a@a.example\r\nSubject: s\r\n\r\ntext\r\n";

fn start(folder: &Path, command: &[&str], more: &str) -> CalloutServer {
    let config = format!(
        "[services.filter]\ndeadline = 2\n[services.filter.settings]\ncommand = {command:?}\n{more}"
    );
    CalloutServer::start(folder, &config, &[])
}

fn adapt(server: &CalloutServer, folder: &Path, mail: &str) -> Value {
    let (file, out) = (folder.join("mail.eml"), folder.join("out"));
    std::fs::write(&file, mail).unwrap();
    let arguments = [Path::new("--services"), Path::new("filter"), Path::new("--out"), &out, &file];
    server.adapt(arguments).only().clone()
}

fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../deploy/plugins/disclaimer.sh")
        .canonicalize()
        .unwrap()
}

#[test]
fn a_shell_script_adds_a_line_and_refuses() {
    let folder = tempdir().unwrap();
    let server = start(folder.path(), &[script().to_str().unwrap()], "");
    let long = "x".repeat(70) + "\r\n";
    let mail = format!("Return-Path: <a@a.example>\r\nSubject: s\r\n\r\n{}", long.repeat(10_000));
    let report = adapt(&server, folder.path(), &mail);
    assert_eq!(text(&report, "decision"), "modify", "{report}");
    assert!(report["octets_returned"].as_u64().unwrap() < 1_000, "only what changed: {report}");
    let adapted = std::fs::read_to_string(folder.path().join("out/mail.eml")).unwrap();
    assert_eq!(adapted.strip_prefix(&mail).unwrap(), "Sent by <a@a.example>.\r\n");

    let report =
        adapt(&server, folder.path(), &MAIL.replace("Subject", "X-Refuse-Me: 1\r\nSubject"));
    assert!(text(&report, "reply").starts_with("554 5.7.1 Message refused"), "{report}");
    assert_eq!(found(&report, "filter").unwrap().2, "it asks for it");

    let encoded = MAIL.replace("Subject", "Content-Transfer-Encoding: base64\r\nSubject");
    let report = adapt(&server, folder.path(), &encoded);
    assert_eq!(text(&report, "decision"), "accept", "{report}");
}

/// A body that lies in a file on the server, through a command that changes nothing.
#[test]
fn a_large_message_comes_back_as_it_was() {
    let folder = tempdir().unwrap();
    let server = start(folder.path(), &["cat"], "line-ends = \"crlf\"\n");
    let line = "0123456789".repeat(7) + "\r\n";
    let mail = format!("Subject: s\r\n\r\n{}", line.repeat(100_000));
    let report = adapt(&server, folder.path(), &mail);
    assert_eq!(text(&report, "decision"), "accept", "{report}");
    assert_eq!(found(&report, "filter").unwrap().0, "unchanged");
}

#[test]
fn a_command_that_fails_says_how() {
    let folder = tempdir().unwrap();
    for (command, more, stage, cause) in [
        (&["sh", "-c", "echo broken >&2; exit 75"][..], "", "run", "sh: exit code 75: broken"),
        (&["sh", "-c", "kill -9 $$"], "", "run", "sh: killed by a signal"),
        (&["/nowhere/filter"], "", "start", "/nowhere/filter: No such file or directory"),
        (&["sleep", "600"], "", "deadline", "no answer within 2 s"),
        (&["yes"], "output-octets = 100000\n", "run", "more than 100000 octets of output"),
        (&["echo", "no mail"], "", "compare", "no empty line behind its header section"),
    ] {
        let mut server = start(folder.path(), command, more);
        let report = adapt(&server, folder.path(), MAIL);
        assert!(text(&report, "reply").starts_with("451 4.3.0 "), "{command:?}: {report}");
        let line = server.wait_for("service failed");
        assert_eq!(text(&line, "stage"), stage, "{line}");
        assert!(text(&line, "cause").contains(cause), "{line}");
    }
}
