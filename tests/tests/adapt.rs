//! Stored mail through `opes-mta adapt` and a running `callout-server`.

#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde_json::Value;
use services::mail::{Mail, header_length};
use tempfile::{TempDir, tempdir};
use tests::{CalloutServer, adapt, files, fixtures, found, not_run, shared, text};

fn started(config: &str) -> (TempDir, CalloutServer) {
    let folder = tempdir().unwrap();
    let server = CalloutServer::start(folder.path(), config, &[]);
    (folder, server)
}

fn write(folder: &Path, name: &str, octets: impl AsRef<[u8]>) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, octets).unwrap();
    path
}

fn parse(octets: Vec<u8>) -> Mail {
    let octets = bytes::Bytes::from(octets);
    let header = header_length(&octets);
    Mail::new(octets.slice(..header), octets.slice(header..))
}

/// Every mail of the development data that is a message of its own: folder, path, manifest entry.
fn shared_mails() -> Option<Vec<(PathBuf, Value)>> {
    let root = shared("")?;
    let manifest = std::fs::read_to_string(root.join("manifest.json")).unwrap();
    let entries: Vec<Value> = serde_json::from_str(&manifest).unwrap();
    assert_eq!(entries.len(), 411);
    Some(entries.into_iter().map(|entry| (root.join(text(&entry, "file")), entry)).collect())
}

/// The report of a mail of the manifest; an mbox line at its start makes it the first of one.
fn report_of<'a>(reports: &HashMap<String, &'a Value>, entry: &Value) -> &'a Value {
    let file = text(entry, "file");
    reports.get(&file).or_else(|| reports.get(&format!("{file}#1"))).copied().expect(&file)
}

/// So that bodies travel for `log`.
const WHOLE: &str = "[services.log.settings]\nparts = true\n";

/// With `log` alone every mail comes back octet for octet, over TCP and over a unix socket.
#[test]
fn nothing_is_repaired_on_the_way() {
    let folder = tempdir().unwrap();
    let socket = format!("unix:{}", folder.path().join("ocp.sock").display());
    let server = CalloutServer::start(folder.path(), WHOLE, std::slice::from_ref(&socket));
    for (address, name) in [(server.address(), "tcp"), (&socket, "unix")] {
        let out = folder.path().join(name);
        let arguments = [Path::new("--services"), Path::new("log"), Path::new("--out"), &out];
        let adapted = adapt(address, arguments.into_iter().chain([&*fixtures()]));
        let originals = files(&fixtures());
        assert_eq!(
            (adapted.reports.len(), adapted.code),
            (originals.len(), Some(0)),
            "{}",
            adapted.stderr
        );
        for original in originals {
            let name = original.file_name().unwrap();
            let returned = std::fs::read(out.join(name)).unwrap();
            assert!(returned == std::fs::read(&original).unwrap(), "{name:?} changed");
        }
        for report in &adapted.reports {
            assert_eq!(text(report, "decision"), "accept", "{report}");
            assert_eq!(
                found(report, "log").map(|(verdict, ..)| verdict).as_deref(),
                Some("logged")
            );
        }
    }
}

/// OPES-3837-2.2.7-01
#[test]
fn every_real_mail_comes_back_as_it_was() {
    let Some(mails) = shared_mails() else {
        return not_run(
            "every_real_mail_comes_back_as_it_was",
            "the development mails are not here",
        );
    };
    let (folder, server) = started(WHOLE);
    let out = folder.path().join("out");
    let root = shared("").unwrap();
    let kinds = ["ham", "spam", "torture", "virus", "gtube", "normalise", "auth"];
    for kind in kinds {
        let target = out.join(kind);
        let adapted = server.adapt([
            Path::new("--services"),
            Path::new("log"),
            Path::new("--out"),
            &target,
            &root.join(kind),
        ]);
        assert_eq!(adapted.code, Some(0), "{}", adapted.stderr);
    }
    let mut compared = 0;
    for (path, entry) in mails {
        let original = std::fs::read(&path).unwrap();
        let file = text(&entry, "file");
        if original.starts_with(b"From ") {
            continue;
        }
        let returned = std::fs::read(out.join(&file)).unwrap();
        assert!(returned == original, "{file} changed");
        compared += 1;
    }
    assert!(compared >= 400, "{compared}");
}

#[test]
fn every_real_mail_is_processed_and_every_virus_found() {
    let Some(mails) = shared_mails() else {
        return not_run(
            "every_real_mail_is_processed_and_every_virus_found",
            "the development mails are not here",
        );
    };
    let signatures = shared("clamdb").unwrap().canonicalize().unwrap();
    let (folder, server) =
        started(&format!("[services.virus-scan.settings]\nsignatures = {signatures:?}\n"));
    let root = shared("").unwrap();
    let out = folder.path().join("out");
    // Each service alone, so that a rejection by one hides nothing of another.
    let run = |service: &str| {
        let target = out.join(service);
        let kinds = ["ham", "spam", "torture", "virus", "gtube", "normalise", "auth"];
        let mut reports = HashMap::new();
        for kind in kinds {
            let target = target.join(kind);
            let adapted = server.adapt([
                Path::new("--services"),
                Path::new(service),
                Path::new("--out"),
                &target,
                &root.join(kind),
            ]);
            assert_eq!(adapted.code, Some(0), "{service} {kind}: {}", adapted.stderr);
            for report in adapted.reports {
                let decision = text(&report, "decision");
                assert!(decision != "error" && report["error"].is_null(), "{report}");
                reports.insert(format!("{kind}/{}", text(&report, "file")), report);
            }
        }
        assert!(reports.len() >= 411, "{service}: {}", reports.len());
        reports
    };
    let viruses = run("virus-scan");
    let spam = run("spam-score");
    let stripped = run("mime-strip");
    run("mail-from");

    let find = |reports: &HashMap<String, Value>, entry: &Value| {
        let borrowed = reports.iter().map(|(file, report)| (file.clone(), report)).collect();
        report_of(&borrowed, entry).clone()
    };
    let mut found_viruses = 0;
    let mut clean_controls = 0;
    for (_, entry) in &mails {
        let expected = &entry["expected"];
        let report = find(&viruses, entry);
        let (verdict, ..) = found(&report, "virus-scan").unwrap();
        match (expected["has_virus"].as_bool(), expected["detectable"].as_str()) {
            (Some(true), Some("encrypted")) => {
                assert_eq!(verdict, "encrypted", "{report}");
                found_viruses += 1;
            }
            (Some(true), _) => {
                assert_eq!(
                    (verdict.as_str(), text(&report, "decision").as_str()),
                    ("infected", "reject"),
                    "{report}"
                );
                found_viruses += 1;
            }
            (Some(false), _) => {
                assert_eq!(verdict, "clean", "{report}");
                clean_controls += 1;
            }
            (None, _) if entry["kind"] == "ham" => assert_ne!(verdict, "infected", "{report}"),
            (None, _) => {}
        }
        if let Some(gtube) = expected["gtube"].as_bool() {
            let report = find(&spam, entry);
            let (_, score, _) = found(&report, "spam-score").unwrap();
            let score: f64 = score.split('/').next().unwrap().parse().unwrap();
            assert_eq!(score >= 1000.0, gtube, "{report}");
            assert_eq!(text(&report, "decision") == "reject", gtube, "{report}");
        }
    }
    assert_eq!((found_viruses, clean_controls), (13, 2));

    let mut compared = 0;
    for (path, entry) in &mails {
        let report = find(&stripped, entry);
        if text(&report, "decision") != "modify" {
            continue;
        }
        let original = parse(std::fs::read(path).unwrap());
        let target = out.join("mime-strip").join(text(entry, "file"));
        let returned = parse(std::fs::read(target).unwrap());
        same_other_parts(&original, &returned, &text(entry, "file"));
        compared += 1;
    }
    assert!(compared >= 8, "only {compared} mails were stripped");
}

/// The stripped mail has as many parts outside of nested ones that went, and each leaf is as it was or a
/// notice.
fn same_other_parts(original: &Mail, returned: &Mail, file: &str) {
    let leaves = |mail: &Mail| -> Vec<Vec<u8>> {
        let parts = mail.parts().unwrap().iter();
        let leaves = parts.filter(|part| part.kind == services::mail::PartKind::Leaf);
        leaves.map(|part| mail.decoded(part, usize::MAX).unwrap().octets.to_vec()).collect()
    };
    let (before, after) = (leaves(original), leaves(returned));
    assert!(!after.is_empty() && after.len() <= before.len(), "{file}");
    let changed: Vec<_> = after.iter().filter(|leaf| !before.contains(leaf)).collect();
    assert!(!changed.is_empty(), "{file}: nothing was stripped");
    for leaf in changed {
        let notice = String::from_utf8_lossy(leaf);
        assert!(notice.contains("removed"), "{file}: {notice}");
    }
}

/// One field comes back, 25 MB stay at home.
#[test]
fn a_large_marked_mail_returns_few_octets() {
    let (folder, server) = started("[services.spam-score.settings]\nmark = -1000\n");
    let mut mail = b"From: a@example.org\r\nSubject: large\r\n\r\n".to_vec();
    let line = b"A line of a large mail, again and again.\r\n";
    while mail.len() < 25 * 1024 * 1024 {
        mail.extend_from_slice(line);
    }
    let file = write(folder.path(), "large.eml", &mail);
    let out = folder.path().join("out");
    let adapted = server.adapt([
        Path::new("--services"),
        Path::new("spam-score"),
        Path::new("--out"),
        &out,
        &file,
    ]);
    let report = adapted.only();
    assert_eq!(text(report, "decision"), "modify", "{report}");
    let returned = report["octets_returned"].as_u64().unwrap();
    assert!(returned < 1_500, "{returned}");
    assert!(report["octets_sent"].as_u64().unwrap() > 25 * 1024 * 1024);
    let marked = std::fs::read(out.join("large.eml")).unwrap();
    assert!(marked.starts_with(b"X-Spam-Flag: YES\r\nX-Spam-Score: "));
    assert!(marked.ends_with(&mail));
}

/// OPES-4496-4.1-03, OPES-4496-4.2-02
#[test]
fn forged_marks_go_and_new_ones_come() {
    let (folder, server) = started("[services.spam-score.settings]\nmark = 900\nreject = inf\n");
    let gtube =
        ["XJS*C4JDBQADN1.NSBN3*2IDNEN*", "GTUBE-STANDARD-ANTI-UBE-TEST-EMAIL*C.34X"].concat();
    let mail = format!(
        "X-SPAM-flag: NO\nFrom: a@example.org\nX-Spam-Status: No,\n\tscore=0\nSubject: x\n\n{gtube}\n"
    );
    let file = write(folder.path(), "gtube.eml", mail);
    let out = folder.path().join("out");
    let adapted = server.adapt([
        Path::new("--services"),
        Path::new("spam-score"),
        Path::new("--out"),
        &out,
        &file,
    ]);
    assert_eq!(text(adapted.only(), "decision"), "modify", "{}", adapted.only());
    let marked = std::fs::read_to_string(out.join("gtube.eml")).unwrap();
    let (marks, rest) = marked.split_once("From: ").unwrap();
    assert!(marks.starts_with("X-Spam-Flag: YES\nX-Spam-Score: "), "{marks}");
    assert_eq!(marks.matches("X-Spam-Status:").count(), 1, "{marks}");
    assert_eq!(rest, format!("a@example.org\nSubject: x\n\n{gtube}\n"));
}

/// OPES-4496-4.4-01, OPES-4496-4.6-02
#[test]
fn senders_are_refused_and_rewritten() {
    let (folder, server) = started(
        "[services.mail-from.settings]\ndeny = [\".bad.example\"]\n\
         rewrite = [{ pattern = '@old\\.example$', replacement = '@new.example' }]\n",
    );
    let file = write(folder.path(), "a.eml", "Subject: x\r\n\r\nx\r\n");
    let out = folder.path().join("out");
    let run = |from: &str| {
        let adapted = server.adapt([
            Path::new("--services"),
            Path::new("mail-from"),
            Path::new("--from"),
            Path::new(from),
            Path::new("--out"),
            &out,
            &file,
        ]);
        assert_eq!(adapted.code, Some(0), "{}", adapted.stderr);
        adapted.only().clone()
    };
    let report = run("x@sub.bad.example");
    assert_eq!(text(&report, "decision"), "reject");
    assert!(text(&report, "reply").starts_with("550 5.7.1 "), "{report}");
    assert!(!out.join("a.eml").exists(), "nothing is written for a rejected mail");
    let report = run("a@old.example");
    assert_eq!(text(&report, "decision"), "modify", "{report}");
    assert_eq!(text(&report, "sender"), "<a@new.example>", "{report}");
    assert!(out.join("a.eml").exists());
}

/// A service for some recipients only: everybody gets a version of their own.
/// OPES-4496-3.1-02, OPES-4496-4.1-07
#[test]
fn recipients_get_versions_of_their_own() {
    let (folder, server) = started(
        "[services.mime-strip]\nrecipients = [\"office.example\"]\n\
         [services.spam-score]\nrecipients = [\"strict.example\"]\n\
         [services.spam-score.settings]\nreject = -1000\nmark = -1000\n",
    );
    let program = "From: a@example.org\nSubject: x\nMIME-Version: 1.0\n\
        Content-Type: multipart/mixed; boundary=b\n\n--b\n\nhello\n--b\n\
        Content-Type: application/octet-stream; name=\"a.exe\"\n\nMZ harmless\n--b--\n";
    let file = write(folder.path(), "a.eml", program);
    let out = folder.path().join("out");
    let adapted = server.adapt([
        Path::new("--services"),
        Path::new("mime-strip,spam-score"),
        Path::new("--to"),
        Path::new("a@office.example"),
        Path::new("--to"),
        Path::new("b@strict.example"),
        Path::new("--to"),
        Path::new("c@lab.example"),
        Path::new("--out"),
        &out,
        &file,
    ]);
    let report = adapted.only();
    assert_eq!(text(report, "decision"), "modify", "{report}");
    let versions: Vec<(String, String)> = report["versions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|version| (text(version, "decision"), version["recipients"].to_string()))
        .collect();
    let expected = [
        ("accept", "[\"<c@lab.example>\"]"),
        ("reject", "[\"<b@strict.example>\"]"),
        ("modify", "[\"<a@office.example>\"]"),
    ];
    assert_eq!(versions, expected.map(|(a, b)| (a.to_owned(), b.to_owned())), "{report}");
    assert_eq!(std::fs::read_to_string(out.join("a.eml.version-1")).unwrap(), program);
    assert!(!out.join("a.eml.version-2").exists());
    let stripped = std::fs::read_to_string(out.join("a.eml.version-3")).unwrap();
    assert!(stripped.contains("was removed") && !stripped.contains("MZ"), "{stripped}");
}

#[test]
fn recipients_names_and_mailboxes_are_taken_as_they_come() {
    let (folder, server) = started("");
    let mbox = "From a@example.org Thu Nov  5 10:00:00 2026\nSubject: 1\n\none\n\n\
        From b@example.org Thu Nov  5 10:00:01 2026\nSubject: 2\n\ntwo\n";
    let file = write(folder.path(), "box", mbox);
    let adapted = server.adapt([
        Path::new("--services"),
        Path::new("ocp://service/log"),
        Path::new("--to"),
        Path::new("c@example.org"),
        Path::new("--to"),
        Path::new("d@example.org"),
        &file,
    ]);
    assert_eq!(adapted.code, Some(0), "{}", adapted.stderr);
    let senders: Vec<_> = adapted.reports.iter().map(|report| text(report, "sender")).collect();
    assert_eq!(senders, ["<a@example.org>", "<b@example.org>"]);
    let recipients = &adapted.reports[1]["recipients"];
    assert_eq!(*recipients, serde_json::json!(["<c@example.org>", "<d@example.org>"]));
}

/// A scanner that can't do its work lets nothing through, and the log says why.
#[test]
fn virus_scanning_fails_closed() {
    // A port that was free a moment ago and that nobody listens on.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (folder, mut server) =
        started(&format!("[services.virus-scan.settings]\nclamd = \"{free}\"\nclamd-retry = 0\n"));
    let file = write(folder.path(), "a.eml", "Subject: x\r\n\r\nx\r\n");
    let out = folder.path().join("out");
    let adapted = server.adapt([
        Path::new("--services"),
        Path::new("virus-scan"),
        Path::new("--out"),
        &out,
        &file,
    ]);
    let report = adapted.only();
    assert_eq!(
        text(report, "reply"),
        "451 4.3.0 Mail inspection is not available now, try again later"
    );
    let (verdict, _, reason) = found(report, "virus-scan").unwrap();
    assert_eq!(verdict, "failed");
    assert!(reason.starts_with("clamd: ") && reason.ends_with("; policy: tempfail"), "{reason}");
    assert!(!out.join("a.eml").exists());
    let line = server.wait_for("service failed");
    for (member, value) in [("service", "virus-scan"), ("stage", "clamd"), ("policy", "tempfail")] {
        assert_eq!(text(&line, member), value, "{line}");
    }
    assert!(line["took_ms"].is_u64() && !text(&line, "cause").is_empty(), "{line}");
    for member in ["connection", "dialog", "xid"] {
        assert!(line["span"][member].is_u64(), "{member}: {line}");
    }
}

#[test]
fn services_that_are_not_there_are_never_skipped() {
    let (folder, server) = started("");
    let file = write(folder.path(), "a.eml", "Subject: x\r\n\r\nx\r\n");
    let adapted = server.adapt([Path::new("--services"), Path::new("log,nothing"), &file]);
    assert_eq!((adapted.code, adapted.reports.len()), (Some(1), 0));
    assert!(adapted.stderr.contains("ocp://service/nothing"), "{}", adapted.stderr);
}

#[test]
fn a_server_that_is_not_there_is_named_with_what_to_do() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let adapted = adapt(&free.to_string(), [fixtures().join("plain.eml")]);
    assert_eq!(adapted.code, Some(1));
    assert!(adapted.stderr.contains(&free.to_string()), "{}", adapted.stderr);
    assert!(adapted.stderr.contains("callout-server"), "{}", adapted.stderr);
}
