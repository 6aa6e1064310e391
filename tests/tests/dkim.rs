//! DKIM signatures on their way through a real Postfix with `opes-mta milter` and a callout server: made
//! and verified by dkimpy, canonicalization simple/simple, which no changed octet survives.

#![allow(missing_docs, clippy::indexing_slicing)]

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;
use tests::postfix::{self, Port, Postfix};
use tests::smtp::{Client, Delivered, NextHop, is_queued};
use tests::{CalloutServer, Milter, not_run};

/// Debian's own: it has Debian's `dkim`.
const PYTHON: &str = "/usr/bin/python3";
const SIGNATURE: &str = include_str!("../src/signature.py");
/// The seed of the key.
const KEY: &str = "b3Blbi1wbHVnZ2FibGUtZWRnZS1zZXJ2aWNlcy0tLS0=";

/// Folded lines of each kind, blanks in front, behind and alone, fields twice and without a value.
const MAILS: [&str; 4] = [
    "From: a@a.example\r\nTo: b@b.example\r\nSubject: plain\r\n\r\nbody\r\n",
    "From:a@a.example\r\nSubject:   three blanks in front, two behind  \r\nTo:\tb@b.example,\r\n\t\
     c@b.example,\r\n    d@b.example\r\nX-Value-Below:\r\n\tone\r\n two\r\nX-Empty:\r\nX-Blank: \r\n\
     X-Blanks: \t \r\n\r\n.dots\r\n..more\r\n\r\nblank at the end \r\n\r\n\r\n",
    "Received: from x by y;\r\n  Mon, 2 Nov 2026 10:00:00 +0000\r\nX-Twice: 1\r\nx-twice:  2\r\n\
     From: \"A, B\"\r\n <a@a.example>\r\nX-Twice:\r\n 3\r\nSubject: =?utf-8?q?=C3=A4?=\r\n\t\
     =?utf-8?q?=C3=B6?=\r\n\r\n",
    "From: a@a.example\r\nX-Spam: no own field\r\nX-Octets: \u{e4}\u{f6}\r\nX-Last: folded\r\n \t \
     twice\r\n \tand more\r\n\r\nno line end, and \u{e4} in the body\r\n",
];

/// A server, a milter, a Postfix and its next hop.
struct Gateway {
    _server: CalloutServer,
    _milter: Milter,
    postfix: Postfix,
    hop: NextHop,
    folder: TempDir,
}

impl Gateway {
    /// `None` if something is missing here, which is said.
    fn start(story: &str, server: &str, system: &str, services: &str) -> Option<Self> {
        if !postfix::is_there() {
            not_run(story, "there is no Postfix, or no root to start it");
            return None;
        }
        let found = Command::new(PYTHON).args(["-c", "import dkim, nacl.signing"]).output();
        if !found.is_ok_and(|output| output.status.success()) {
            not_run(story, "there is no python3-dkim");
            return None;
        }
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("key"), KEY).expect("the folder can be written to");
        let server = CalloutServer::start(folder.path(), server, &[]);
        let config = format!(
            "{system}[[group]]\nname = \"mail\"\nservices = [{services}]\nservers = [\"{}\"]\n",
            server.address()
        );
        let milter = Milter::start(folder.path(), &config);
        let hop = NextHop::start();
        let ports = [Port::with_milter(&milter.address)];
        let postfix = Postfix::start(folder.path(), &ports, hop.port, &[]);
        Some(Self { _server: server, _milter: milter, postfix, hop, folder })
    }

    fn key(&self) -> PathBuf {
        self.folder.path().join("key")
    }

    /// What arrives at the next hop.
    fn deliver(&self, mail: &[u8]) -> Delivered {
        let mut client = Client::greeted(self.postfix.ports[0]);
        let reply = client.mail("a@a.example", &["b@b.example"], mail);
        assert!(is_queued(&reply), "{reply}");
        self.hop.wait_for(1).remove(0)
    }
}

#[test]
fn a_signature_holds_where_nothing_is_changed() {
    let services = "\"log\", \"mail-from\", \"virus-scan\", \"mime-strip\", \"spam-score\"";
    let Some(gateway) = Gateway::start("DKIM, nothing changed", "", "", services) else { return };
    for mail in MAILS {
        let signed = sign(mail.as_bytes(), &gateway.key());
        let delivered = gateway.deliver(&signed);
        assert_eq!(shown(delivered.without_received()), shown(&signed));
        assert_verdict(&delivered.octets, &gateway.key(), "valid");
    }
}

#[test]
fn a_signature_holds_where_fields_are_added() {
    let system = "[system]\nuri = \"https://opes.example.org/\"\nname = \"mx1\"\n";
    let server = "[services.spam-score.settings]\nmark-ham = true\n";
    let story = "DKIM, fields added";
    let Some(gateway) = Gateway::start(story, server, system, "\"spam-score\"") else { return };
    for mail in MAILS {
        let signed = sign(mail.as_bytes(), &gateway.key());
        let delivered = gateway.deliver(&signed);
        let text = shown(&delivered.octets);
        for field in ["\r\nX-Spam-Status: No, score=", "\r\nX-Spam-Score: ", "\r\nOPES-System: "] {
            assert_eq!(text.matches(field).count(), 1, "{field}: {text}");
        }
        assert!(text.ends_with(&shown(&signed)), "below the new fields all is as it was: {text}");
        assert_verdict(&delivered.octets, &gateway.key(), "valid");
    }
}

/// Each octet counts: that a signature holds says something.
#[test]
fn a_changed_octet_is_seen() {
    let story = "DKIM, an octet changed";
    let Some(gateway) = Gateway::start(story, "", "", "\"log\"") else { return };
    let signed = sign(MAILS[1].as_bytes(), &gateway.key());
    let changes = [
        ("Subject:   three", "Subject:  three"),
        ("behind  \r\n", "behind \r\n"),
        (",\r\n\tc@b", ",\r\n c@b"),
        ("X-Blank: \r\n", "X-Blank:\r\n"),
        ("blank at the end \r\n", "blank at the end\r\n"),
    ];
    for (from, to) in changes {
        let changed = shown(&signed).replacen(from, to, 1);
        assert_ne!(changed, shown(&signed), "{from:?}");
        let delivered = gateway.deliver(changed.as_bytes());
        assert_verdict(&delivered.octets, &gateway.key(), "invalid");
    }
}

fn sign(message: &[u8], key: &Path) -> Vec<u8> {
    python("sign", message, key)
}

fn assert_verdict(message: &[u8], key: &Path, verdict: &str) {
    let found = python("verify", message, key);
    assert_eq!(shown(&found).trim(), verdict, "{}", shown(message));
}

fn python(what: &str, message: &[u8], key: &Path) -> Vec<u8> {
    let mut child = Command::new(PYTHON)
        .args(["-c", SIGNATURE, what])
        .arg(key)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("Python runs");
    // It reads all before it writes.
    let mut stdin = child.stdin.take().expect("it is a pipe");
    stdin.write_all(message).expect("it reads");
    drop(stdin);
    let output = child.wait_with_output().expect("Python ends");
    assert!(output.status.success(), "{what}: {output:?}");
    output.stdout
}

fn shown(octets: &[u8]) -> String {
    String::from_utf8_lossy(octets).into_owned()
}
