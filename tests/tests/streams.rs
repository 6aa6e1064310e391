//! Messages that are larger than the memory that they may cost.

#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing)]

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use tempfile::tempdir;
use tests::{CalloutServer, found, text};

/// What the server's memory may grow by, whatever the size of a message.
const MOST_GROWTH: u64 = 32 * 1024 * 1024;

/// A message of text lines and, at its end, a file of base64 lines.
fn write_large(path: &Path, octets: u64) {
    let mut file = BufWriter::new(File::create(path).unwrap());
    file.write_all(
        b"From: a@example.org\r\nSubject: large\r\nMIME-Version: 1.0\r\n\
          Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\n",
    )
    .unwrap();
    let line = b"A line of a large message that nobody wants to hold in memory.\r\n";
    let base64 = b"QmFzZTY0IHRoYXQgbm9ib2R5IHdhbnRzIHRvIGhvbGQgaW4gbWVtb3J5IGVpdGhlci4u\r\n";
    for _ in 0..octets / 2 / line.len() as u64 {
        file.write_all(line).unwrap();
    }
    file.write_all(
        b"--b\r\nContent-Type: application/octet-stream\r\n\
          Content-Transfer-Encoding: base64\r\n\r\n",
    )
    .unwrap();
    for _ in 0..octets / 2 / base64.len() as u64 {
        file.write_all(base64).unwrap();
    }
    file.write_all(b"--b--\r\n").unwrap();
    file.flush().unwrap();
}

#[test]
fn a_large_message_streams_through_services_in_bounded_memory() {
    let folder = tempdir().unwrap();
    let size = if std::env::var_os("OPES_TESTS_FULL").is_some() { 300 } else { 64 } * 1024 * 1024;
    let file = folder.path().join("large.eml");
    write_large(&file, size);
    let server = CalloutServer::start(
        folder.path(),
        "[limits]\nmessage-octets = 400000000\n[services.virus-scan]\ndeadline = 300\n\
         [services.virus-scan.settings.limits]\nunpacked = 400000000\n\
         [services.log.settings]\nparts = true\n",
        &[],
    );
    for service in ["log", "virus-scan"] {
        // A small message first: what every message costs is not what this is about.
        let small = folder.path().join("small.eml");
        std::fs::write(&small, "Subject: x\r\n\r\nx\r\n").unwrap();
        let services = [Path::new("--services"), Path::new(service)];
        server.adapt(services.into_iter().chain([&*small]));
        let before = server.memory();
        let timeout = [Path::new("--timeout"), Path::new("300")];
        let adapted = server.adapt(services.into_iter().chain(timeout).chain([&*file]));
        let report = adapted.only();
        assert_eq!(text(report, "decision"), "accept", "{report}\n{}", adapted.stderr);
        let (verdict, ..) = found(report, service).unwrap();
        assert!(matches!(verdict.as_str(), "logged" | "clean"), "{report}");
        // An answer, and a pause (DWP, DWM) whenever the disk was behind; nothing of the mail.
        assert!(report["octets_returned"].as_u64().unwrap() < 10_000, "{report}");
        let growth = server.peak_memory().saturating_sub(before);
        println!("{service}: {} MiB of growth for {} MiB", growth >> 20, size >> 20);
        assert!(growth < MOST_GROWTH, "{service}: {growth} octets");
    }
}
