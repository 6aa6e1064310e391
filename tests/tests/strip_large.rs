//! A large mail of which one part is forbidden: the rest stays where it is.

#![allow(missing_docs, clippy::indexing_slicing)]

use std::path::Path;

use tests::{CalloutServer, found, text};

/// The most octets of OCP that the server may say about it.
const MOST_RETURNED: u64 = 4_096;

/// Octets of each part.
const PART: usize = 10 * 1024 * 1024;

const SERVER: &str = "[services.mime-strip.settings]\nnotice = \"gone\"\n\
    [[services.mime-strip.settings.rules]]\nnames = [\"*.strip\"]\naction = \"strip\"\n";

const NOTICE: &str = "Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\
    Content-Disposition: attachment; filename=\"removed.txt\"\r\n\r\ngone";

/// A part of base64 lines.
fn part(name: &str) -> String {
    let line = "QSBsaW5lIG9mIGEgbGFyZ2UgZmlsZSB0aGF0IG5vYm9keSBoYXMgdG8gc2VuZCBhZ2Fpbi4u\r\n";
    let lines = line.repeat(PART / line.len());
    format!(
        "Content-Type: application/octet-stream; name=\"{name}\"\r\n\
         Content-Transfer-Encoding: base64\r\n\r\n{}",
        lines.trim_end()
    )
}

fn mail(parts: &[&str]) -> String {
    let parts: Vec<String> = parts.iter().map(|part| format!("--b\r\n{part}\r\n")).collect();
    format!(
        "Subject: large\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n{}--b--\r\n",
        parts.concat()
    )
}

#[test]
fn a_part_of_thirty_megabytes_goes_and_the_rest_is_not_sent_back() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = CalloutServer::start(folder.path(), SERVER, &[]);
    let (first, last) = (part("first.dat"), part("last.dat"));
    let out = folder.path().join("out");
    for (name, instead) in [("setup.exe", Some(NOTICE)), ("setup.strip", None)] {
        let forbidden = part(name);
        let file = folder.path().join("large.eml");
        std::fs::write(&file, mail(&[&first, &forbidden, &last])).expect("it can be written");
        let services = ["--services", "mime-strip", "--out"].map(Path::new);
        let adapted = server.adapt(services.into_iter().chain([&*out, &file]));
        let report = adapted.only();
        assert_eq!(text(report, "decision"), "modify", "{report} {}", adapted.stderr);
        let (verdict, ..) = found(report, "mime-strip").expect("it was asked");
        assert_eq!(verdict, "stripped");
        let returned = report["octets_returned"].as_u64().expect("a number");
        let sent = report["octets_sent"].as_u64().expect("a number");
        println!("{name}: {sent} octets sent, {returned} returned");
        assert!(sent > 3 * PART as u64 - 1_000, "{report}");
        assert!(returned < MOST_RETURNED, "{returned} octets");
        let expected = match instead {
            Some(notice) => mail(&[&first, notice, &last]),
            None => mail(&[&first, &last]),
        };
        let after = std::fs::read(out.join("large.eml")).expect("it goes on");
        assert!(after == expected.as_bytes(), "{name}: other octets have changed");
    }
}
