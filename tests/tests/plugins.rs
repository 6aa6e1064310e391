//! Plugins in Python, asked by the real server: one that works, and others that are killed, hang and lie.

#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::Path;

use serde_json::Value;
use tests::certificates::Authority;
use tests::plugin::{FAILED, GRANTS, Plugin, adapt, generated, says};
use tests::{found, text};

const MAIL: &str = "From: a@a.example\r\nSubject: s\r\n\r\ntext\r\n";

#[test]
fn a_footer_of_fifty_lines_of_python() {
    let Some(folder) = generated("a plugin in Python adds a footer") else { return };
    let mut footer = Plugin::python(folder.path(), "deploy/plugins/footer.py", &[]);
    footer.grants = "events = [\"MESSAGE\"]\nbody = \"whole\"\nreplace-body = true\n".to_owned();
    let server = footer.serve(folder.path());
    let long = "x".repeat(70) + "\r\n";
    let mail = format!("From: a@a.example\r\nSubject: s\r\n\r\n{}", long.repeat(10_000));
    let report = adapt(&server, folder.path(), &mail);
    assert_eq!(text(&report, "decision"), "modify", "{report}");
    assert!(report["octets_returned"].as_u64().unwrap() < 1_000, "only what changed: {report}");
    let adapted = std::fs::read_to_string(folder.path().join("out/mail.eml")).unwrap();
    assert_eq!(adapted.strip_prefix(&mail).unwrap(), "-- \r\nSent through mail.example.\r\n");
    let html = MAIL.replace("Subject", "Content-Type: text/html\r\nSubject");
    let report = adapt(&server, folder.path(), &html);
    assert_eq!(text(&report, "decision"), "accept", "{report}");
}

/// An engine for translations, of which the first answer is the text in capital letters, and the next one none.
fn engine() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for (number, stream) in listener.incoming().enumerate() {
            let mut stream = BufReader::new(stream.unwrap());
            let mut length = 0;
            loop {
                let mut line = String::new();
                stream.read_line(&mut line).unwrap();
                if let Some(octets) = line.to_lowercase().strip_prefix("content-length:") {
                    length = octets.trim().parse().unwrap();
                }
                if line.trim().is_empty() {
                    break;
                }
            }
            let mut asked = vec![0; length];
            stream.read_exact(&mut asked).unwrap();
            let asked: Value = serde_json::from_slice(&asked).unwrap();
            assert_eq!(text(&asked, "target"), "de");
            let answer = serde_json::json!({ "translatedText": text(&asked, "q").to_uppercase() })
                .to_string();
            let status = if number < 2 { "200 OK" } else { "503 Busy" };
            let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n", answer.len());
            stream.get_mut().write_all(format!("{head}{answer}").as_bytes()).unwrap();
        }
    });
    format!("http://{address}/translate")
}

#[test]
fn a_plugin_translates_with_an_engine() {
    let Some(folder) = generated("a plugin in Python translates") else { return };
    let script = "deploy/plugins/translate.py";
    let mut translator = Plugin::python(folder.path(), script, &[&engine(), "de"]);
    translator.grants = "events = [\"MESSAGE\"]\nbody = \"whole\"\nreplace-body = true\n\
        fields = [\"Subject\", \"Content-*\", \"MIME-Version\"]\n"
        .to_owned();
    let mut server = translator.serve(folder.path());
    let mail = MAIL.replace("Subject: s", "Subject: =?utf-8?q?f=C3=BCr?=\r\n dich\r\nX-Other: 1");
    let report = adapt(&server, folder.path(), &mail);
    assert_eq!(text(&report, "decision"), "modify", "{report}");
    let adapted = std::fs::read_to_string(folder.path().join("out/mail.eml")).unwrap();
    assert!(
        adapted.starts_with("Subject: =?utf-8?") && adapted.ends_with("\r\n\r\nTEXT\r\n"),
        "{adapted}"
    );
    assert!(adapted.contains("From: a@a.example\r\nX-Other: 1\r\n\r\n"), "{adapted}");
    // What the engine does not do is the plugin's failure.
    let report = adapt(&server, folder.path(), &mail);
    assert_eq!(text(&report, "reply"), FAILED, "{report}");
    let line = server.wait_for("service failed");
    assert!(text(&line, "cause").contains("HTTP Error 503: Busy"), "{line}");
}

/// Over TCP, and within TLS if the certificate is of who should have signed it.
#[test]
fn plugins_elsewhere() {
    let Some(folder) = generated("plugins over TCP and TLS") else { return };
    let folder = folder.path();
    let authority = Authority::new(folder, "ca");
    authority.sign("plugin", &["localhost"]);
    Authority::new(folder, "other");
    for (scheme, more, expected) in [
        ("http", "", "seen"),
        ("https", "ca = \"ca.pem\"\n", "seen"),
        ("https", "ca = \"other.pem\"\n", "failed"),
    ] {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let address = format!("{scheme}://localhost:{port}");
        let plugin = Plugin::behaving(folder, "looks");
        let plugin = Plugin { address: address.clone(), settings: more.to_owned(), ..plugin };
        let server = plugin.serve(folder);
        let report = adapt(&server, folder, MAIL);
        let (verdict, score, reason) = found(&report, "plugin").unwrap();
        assert_eq!(verdict, expected, "{address} {report}");
        match expected {
            "seen" => assert_eq!(score, MAIL.len().to_string()),
            _ => assert!(reason.contains("certificate"), "{reason}"),
        }
    }
}

/// A header section is all that it sees, and all that travels.
#[test]
fn a_plugin_in_rust_tags_subjects() {
    let folder = tempfile::tempdir().unwrap();
    let program = tests::program("plugin-example");
    let mut plugin = Plugin::program(&[program.get_program().to_str().unwrap(), "[external]"]);
    plugin.grants = "events = [\"MESSAGE\"]\nfields = [\"Subject\"]\n".to_owned();
    let server = plugin.serve(folder.path());
    let mail = format!("{MAIL}{}", "text\r\n".repeat(100_000));
    let report = adapt(&server, folder.path(), &mail);
    assert_eq!(text(&report, "decision"), "modify", "{report}");
    let travelled = ["octets_sent", "octets_returned"].map(|way| report[way].as_u64().unwrap());
    assert!(travelled.iter().all(|octets| *octets < 1_000), "no body: {report}");
    let adapted = std::fs::read_to_string(folder.path().join("out/mail.eml")).unwrap();
    assert!(adapted == mail.replace("Subject: s", "Subject: [external] s"));
}

/// An answer beyond what is granted is void as a whole, and says why.
#[test]
fn an_answer_is_nothing_but_what_is_granted() {
    let Some(folder) = generated("plugins that lie") else { return };
    let nowhere = "is not within the 39 octets of the message";
    for (behaviour, stage, cause) in [
        ("beyond", "grants", nowhere),
        ("backwards", "answer", "edit: it starts at octet 9 and ends before, at 3"),
        (
            "subject",
            "grants",
            "an edit of the header section that touches Subject; it is not in grants.fields",
        ),
        ("smuggles", "grants", "no empty line at its end, or one before it"),
        ("bare", "grants", "an edit with CR or LF alone"),
        ("body", "grants", "an edit of the body; grants.replace-body is missing"),
        ("quarantines", "grants", "the side effect quarantine; it is not in grants.effects"),
        ("rejects", "grants", "a reply; grants.reply is missing"),
        ("splits", "answer", "reply: a status and a text are one line without CR and LF"),
        ("endless", "handle", "OutOfRange: Error, decoded message length too large"),
        ("raises", "handle", "Unknown: Exception calling application: division by zero"),
        ("wants", "describe", "the plugin wants QUIT, which is not granted"),
        (
            "wants-effects",
            "describe",
            "the plugin wants the side effect quarantine, which is not granted",
        ),
    ] {
        let mut server = Plugin::behaving(folder.path(), behaviour).serve(folder.path());
        let report = adapt(&server, folder.path(), MAIL);
        assert_eq!(text(&report, "reply"), FAILED, "{behaviour}: {report}");
        let line = server.wait_for("service failed");
        assert_eq!(text(&line, "stage"), stage, "{behaviour}: {line}");
        assert!(text(&line, "cause").contains(cause), "{behaviour}: {line}");
        server.terminate();
        assert_eq!(server.ended().0, Some(0), "{behaviour}");
    }
    let server = Plugin::behaving(folder.path(), "granted").serve(folder.path());
    let report = adapt(&server, folder.path(), MAIL);
    assert_eq!(text(&report, "decision"), "modify", "{report}");
    let adapted = std::fs::read_to_string(folder.path().join("out/mail.eml")).unwrap();
    assert_eq!(adapted, format!("X-Granted: yes\r\n{MAIL}"));
}

/// Who sends mail at which a plugin fails does not get it left alone.
#[test]
fn a_plugin_that_fails_at_a_mail_is_there() {
    let Some(folder) = generated("a plugin that fails") else { return };
    for behaviour in ["raises", "quarantines"] {
        let mut plugin = Plugin::behaving(folder.path(), behaviour);
        plugin.settings = "failures = 1\nrevive-seconds = 600\n".to_owned();
        let mut server = plugin.serve(folder.path());
        for _ in 0..3 {
            let report = adapt(&server, folder.path(), MAIL);
            assert_eq!(text(&report, "reply"), FAILED, "{report}");
            let line = server.wait_for("service failed");
            assert!(!text(&line, "cause").contains("left alone"), "{line}");
        }
    }
}

/// One that ends is started again; what it had in hand fails.
#[test]
fn a_plugin_that_dies_is_started_again() {
    let Some(folder) = generated("a plugin that dies") else { return };
    let mut server = Plugin::behaving(folder.path(), "dies").serve(folder.path());
    let report = adapt(&server, folder.path(), MAIL);
    assert_eq!(text(&report, "reply"), FAILED, "{report}");
    let ended = server.wait_for("a plugin has ended and is started again");
    assert_eq!(text(&ended, "cause"), "exit status: 7", "{ended}");
    says(&mut server, "ready");
    let report = adapt(&server, folder.path(), MAIL);
    assert_eq!(text(&report, "reply"), FAILED, "it has died again: {report}");
    server.wait_for("a plugin has ended and is started again");
}

/// One that hangs costs each of its mails its deadline, until it is left alone.
#[test]
fn a_plugin_that_hangs_is_left_alone() {
    let Some(folder) = generated("a plugin that hangs") else { return };
    let mut plugin = Plugin::behaving(folder.path(), "hangs");
    plugin.settings = "failures = 2\nrevive-seconds = 600\n".to_owned();
    // MAIL, which it does not want, says nothing of it.
    plugin.grants = GRANTS.replace("[\"MESSAGE\"]", "[\"MAIL\", \"MESSAGE\"]");
    let mut server = plugin.serve(folder.path());
    for _ in 0..2 {
        let report = adapt(&server, folder.path(), MAIL);
        assert_eq!(text(&report, "reply"), FAILED, "{report}");
        let line = server.wait_for("service failed");
        assert_eq!(
            (text(&line, "stage"), text(&line, "cause")),
            ("deadline".into(), "no answer within 2 s".into())
        );
    }
    let report = adapt(&server, folder.path(), MAIL);
    assert_eq!(text(&report, "reply"), FAILED, "{report}");
    let line = server.wait_for("service failed");
    assert_eq!(text(&line, "stage"), "plugin", "{line}");
    assert!(
        text(&line, "cause").starts_with("left alone after 2 failures, the last: no answer within"),
        "{line}"
    );
    // Other services have nothing of it.
    let file = folder.path().join("mail.eml");
    let report = server.adapt([Path::new("--services"), Path::new("spam-score"), &file]);
    assert_eq!(text(report.only(), "decision"), "accept", "{}", report.only());
}
