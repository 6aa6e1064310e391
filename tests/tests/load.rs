//! `opes-mta load` as an operator meets it.

#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing)]

use serde_json::Value;
use tempfile::tempdir;
use tests::{CalloutServer, program};

/// The lines that each transaction would have.
const QUIET: &str = "[log]\nlevel = \"info,opes::log=off,callout_server::session=off\"\n\
    [services.log.settings]\nparts = true\n";

/// A second of load: what it printed, its standard error, and its exit code.
fn load(server: &str, arguments: &[&str]) -> (String, String, Option<i32>) {
    let mut command = program("opes-mta");
    command.args(["load", "--server", server, "--seconds", "1"]).args(arguments);
    let output = command.output().unwrap();
    let text = |octets: Vec<u8>| String::from_utf8(octets).unwrap();
    (text(output.stdout), text(output.stderr), output.status.code())
}

#[test]
fn transactions_are_counted_and_compared_with_an_echo_peer() {
    let folder = tempdir().unwrap();
    let unix = format!("unix:{}", folder.path().join("ocp.sock").display());
    let server = CalloutServer::start(folder.path(), QUIET, std::slice::from_ref(&unix));
    for (address, size) in [(server.address(), "4096"), (&unix, "600000")] {
        let arguments = ["--json", "--connections", "2", "--open", "3", "--size", size];
        let (printed, stderr, code) = load(address, &arguments);
        assert_eq!((code, stderr.as_str()), (Some(0), ""), "{printed}");
        let report: Value = serde_json::from_str(&printed).unwrap();
        let number = |member: &str| report[member].as_f64().unwrap_or_else(|| panic!("{member}"));
        assert_eq!((number("failed"), number("modified"), number("replied")), (0.0, 0.0, 0.0));
        let transactions = number("transactions");
        assert!(transactions > 0.0 && number("unchanged") == transactions, "{report}");
        let messages = number("messages");
        // Each of six dialogs is measured from some place of its round of three events to another.
        assert!(messages > 0.0 && messages * 3.0 <= transactions + 12.0, "{report}");
        let size: f64 = size.parse().unwrap();
        assert!(number("octets_sent") > messages * size, "{report}");
        assert!(number("octets_returned") / transactions > 50.0, "{report}");
        assert!(number("p50_ms") > 0.0 && number("p50_ms") <= number("p99_ms"), "{report}");
        assert_eq!(report["events"], serde_json::json!(["MAIL", "RCPT", "MESSAGE"]));
        // The same octets, but for the digits of an xid.
        let echo = |member: &str| report["echo"][member].as_f64().unwrap();
        let (sent, blobs) = (echo("octets_sent"), echo("transactions"));
        assert!((sent / blobs / (number("octets_sent") / transactions) - 1.0).abs() < 0.1);
        let ratio = number("transactions_per_second") / echo("transactions_per_second");
        assert!((number("ratio") - ratio).abs() < 1e-9);
    }
}

#[test]
fn failures_are_counted_by_their_cause() {
    let folder = tempdir().unwrap();
    let config = format!("{QUIET}[limits]\nmessage-octets = 1000\n");
    let server = CalloutServer::start(folder.path(), &config, &[]);
    let arguments = ["--no-echo", "--connections", "1", "--open", "2", "--events", "mail,message"];
    let (printed, _, code) = load(server.address(), &arguments);
    assert_eq!(code, Some(1));
    let cause = "x MESSAGE, waiting for the answer: the transaction failed: the message has more \
        than the 1000 octets that this server takes";
    assert!(printed.contains(cause), "{printed}");
    assert!(!printed.contains("echo peer") && !printed.contains("ratio"), "{printed}");
}

#[test]
fn what_can_not_be_measured_is_said() {
    let folder = tempdir().unwrap();
    let server = CalloutServer::start(folder.path(), QUIET, &[]);
    let (_, stderr, code) =
        load(server.address(), &["--services", "mail-from", "--events", "message"]);
    assert_eq!(code, Some(1));
    assert!(stderr.contains("no service of ocp://service/mail-from wants MESSAGE"), "{stderr}");
    let (_, stderr, code) = load("unix:/nowhere/ocp.sock", &[]);
    assert_eq!(code, Some(1));
    assert!(stderr.contains("cannot connect to the callout server at unix:/nowhere"), "{stderr}");
}
