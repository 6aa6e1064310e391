//! `callout-server` as an operator meets it.

#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing)]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::process::Output;

use tempfile::tempdir;
use tests::{CalloutServer, fixtures, program, text};

fn run(arguments: &[&str]) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } =
        program("callout-server").args(arguments).output().unwrap();
    let text = |octets: Vec<u8>| String::from_utf8(octets).unwrap();
    (status.code(), text(stdout), text(stderr))
}

#[test]
fn help_and_version_are_good_enough_to_work_from() {
    let (code, help, _) = run(&["--help"]);
    assert_eq!(code, Some(0));
    for word in [
        "serve",
        "check",
        "services",
        "demo",
        "healthy",
        "--listen",
        "--config",
        "127.0.0.1:4037",
        "tls:HOST:PORT",
        "unix:PATH",
    ] {
        assert!(help.contains(word), "{word}: {help}");
    }
    let (code, version, _) = run(&["--version"]);
    assert_eq!(
        (code, version.as_str()),
        (Some(0), concat!("callout-server ", env!("CARGO_PKG_VERSION"), "\n"))
    );
    assert_eq!(run(&["--nonsense"]).0, Some(2));
}

#[test]
fn services_are_listed() {
    let (code, list, _) = run(&["services"]);
    assert_eq!(code, Some(0));
    for name in ["log", "mail-from", "spam-score", "virus-scan", "mime-strip"] {
        assert!(list.contains(&format!("ocp://service/{name}")), "{list}");
    }
}

#[test]
fn a_configuration_is_checked_with_line_and_column() {
    let (code, said, _) = run(&["check"]);
    assert_eq!(code, Some(0));
    assert!(said.contains("embedded defaults: valid") && said.contains("127.0.0.1:4037"), "{said}");

    // 1024 MiB of messages and as much decoded, 1,024 connections of 1.3 MiB each, 16 MiB of buffers, and 320 MiB of
    // services.
    assert!(said.contains("memory: 3728 MiB at the most"), "{said}");
    assert!(said.contains("        96 MiB  service virus-scan"), "{said}");
    assert!(said.contains("spool: 4096 MiB at the most in "), "{said}");

    let folder = tempdir().unwrap();
    let file = folder.path().join("wrong.toml");
    std::fs::write(&file, "# one\n[limits]\n  conections = 5\n").unwrap();
    let (code, _, error) = run(&["check", file.to_str().unwrap()]);
    assert_eq!(code, Some(1));
    assert!(
        error.contains("wrong.toml:3:3") && error.contains("unknown field `conections`"),
        "{error}"
    );
    let (code, _, error) = run(&["serve", "--config", file.to_str().unwrap()]);
    assert_eq!(code, Some(1));
    assert!(error.contains("wrong.toml:3:3"), "{error}");

    // A file that anybody could have written is none to start with.
    std::fs::write(&file, "").unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o602)).unwrap();
    let (code, _, error) = run(&["serve", "--config", file.to_str().unwrap()]);
    assert_eq!(code, Some(1));
    assert!(error.contains("wrong.toml: chmod o-w "), "{error}");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();

    // Signature lines that are not supported do not stop the server, but nobody should think them used.
    std::fs::create_dir(folder.path().join("signatures")).unwrap();
    std::fs::write(folder.path().join("signatures/a.ndb"), "Name:0:EP+0:aabbccdd\n").unwrap();
    std::fs::write(&file, "[services.virus-scan.settings]\nsignatures = \"signatures\"\n").unwrap();
    let (code, said, _) = run(&["check", file.to_str().unwrap()]);
    assert_eq!(code, Some(0));
    assert!(said.contains("note: ") && said.contains("a.ndb") && said.contains("EP+0"), "{said}");
}

/// One that it does not let in is told so.
#[test]
fn a_health_check_says_what_is_wrong() {
    let folder = tempdir().unwrap();
    let server = CalloutServer::start(folder.path(), "", &[]);
    let asked = run(&["healthy", "--server", server.address()]);
    assert_eq!(asked, (Some(0), String::new(), String::new()));
    let elsewhere = "[[access]]\nclients = [\"192.0.2.1\"]\n";
    let server = CalloutServer::start(folder.path(), elsewhere, &[]);
    let (code, _, error) = run(&["healthy", "--server", server.address()]);
    assert_eq!(code, Some(1));
    assert!(error.contains(server.address()) && error.contains("access denied"), "{error}");
}

#[test]
fn an_address_that_is_taken_is_named() {
    let folder = tempdir().unwrap();
    let server = CalloutServer::start(folder.path(), "", &[]);
    let (code, _, error) = run(&["serve", "--listen", server.address()]);
    assert_eq!(code, Some(1));
    assert!(error.contains(server.address()) && error.contains("can't be listened on"), "{error}");
}

#[test]
fn sigterm_drains_and_exits_with_0() {
    let folder = tempdir().unwrap();
    let mut server = CalloutServer::start(folder.path(), "", &[]);
    let mut peer = TcpStream::connect(server.address()).unwrap();
    peer.write_all(b"CS;\r\nNO ({\"17:ocp://smtp/dialog\"});\r\nDialog-Start 1;\r\nPQ;\r\n")
        .unwrap();
    let mut read = Vec::new();
    let mut octet = [0];
    while !read.ends_with(b"PA;\r\n") {
        assert_eq!(peer.read(&mut octet).unwrap(), 1);
        read.push(octet[0]);
    }
    server.wait_for("connected");
    server.terminate();
    let stopping = server.wait_for("stopping: open dialogs may end");
    assert_eq!(stopping["dialogs"], 1, "{stopping}");
    let mut rest = Vec::new();
    while !rest.ends_with(b"Dialog-Drain;\r\n") {
        assert_eq!(peer.read(&mut octet).unwrap(), 1);
        rest.push(octet[0]);
    }
    peer.write_all(b"Dialog-End 1;\r\n").unwrap();
    rest.clear();
    peer.read_to_end(&mut rest).unwrap();
    assert_eq!(rest, b"CE;\r\n");
    drop(peer);
    let (code, lines) = server.ended();
    assert_eq!(code, Some(0), "{lines:#?}");
    assert_eq!(lines.last().map(|line| text(line, "message")).as_deref(), Some("stopped"));
}

/// Every line about a mail says which connection, dialog and transaction it is about.
#[test]
fn log_lines_say_what_they_are_about() {
    let folder = tempdir().unwrap();
    let mut server = CalloutServer::start(folder.path(), "", &[]);
    let adapted = server.adapt([fixtures().join("plain.eml")]);
    assert_eq!(adapted.code, Some(0), "{}", adapted.stderr);
    let line = loop {
        let line = server.wait_for("adapted");
        if line["span"]["command"] == "MESSAGE" {
            break line;
        }
    };
    for member in ["connection", "dialog", "xid"] {
        assert!(line["span"][member].is_u64(), "{member}: {line}");
    }
    for member in ["octets_received", "octets_sent", "took_ms"] {
        assert!(line[member].is_u64(), "{member}: {line}");
    }
    assert!(text(&line, "verdicts").contains("virus-scan=clean"), "{line}");
}

/// What services unpack goes where the spool is, and nowhere else: without that folder they fail.
#[test]
fn services_keep_their_files_in_the_spool() {
    let folder = tempdir().unwrap();
    let spool = folder.path().join("spool");
    std::fs::create_dir(&spool).unwrap();
    let config = "[spool]\nfolder = \"spool\"\n\
        [services.virus-scan.settings]\nlimits = { memory = 1 }\n";
    let mut server = CalloutServer::start(folder.path(), config, &[]);
    let mail = folder.path().join("cat.eml");
    std::fs::write(&mail, "Subject: cat\r\n\r\nbegin 644 cat\r\n#0V%T\r\n`\r\nend\r\n").unwrap();
    let adapted = server.adapt([&mail]);
    assert_eq!(adapted.reports[0]["decision"], "accept", "{}", adapted.stderr);
    assert_eq!(std::fs::read_dir(&spool).unwrap().count(), 0, "files have no names");
    std::fs::remove_dir(&spool).unwrap();
    let adapted = server.adapt([&mail]);
    assert!(text(&adapted.reports[0], "reply").starts_with("451 4.3.0"), "{:?}", adapted.reports);
    let line = server.wait_for("service failed");
    let expected = format!("a temporary file in {} can't be written", spool.display());
    assert!(text(&line, "cause").contains(&expected), "{line}");
}

#[test]
fn the_demo_shows_a_mail_of_every_kind() {
    let (code, table, error) = run(&["demo"]);
    assert_eq!(code, Some(0), "{table}{error}");
    assert!(table.contains("11 of 11 mails as expected"), "{table}");
}

/// A build with one kind of service more is the same program.
#[test]
fn a_build_of_ones_own_has_its_service() {
    let listed = program("plugin-template").arg("services").output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    for line in ["blocklist: refuses clients by their addresses", "spam-score: "] {
        assert!(listed.contains(line), "{listed}");
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("callout-server.toml");
    std::fs::write(&file, "[services.blocklist.settings]\nclients = [\"nobody\"]\n").unwrap();
    let checked = program("plugin-template").arg("check").arg(&file).output().unwrap();
    assert_eq!(checked.status.code(), Some(1));
    let said = String::from_utf8(checked.stderr).unwrap();
    assert!(
        said.contains("blocklist: invalid IP address syntax") && said.contains(":2:12]"),
        "{said}"
    );
}
