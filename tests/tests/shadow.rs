//! A group that only watches, and `opes-mta compare`.

#![allow(missing_docs, clippy::indexing_slicing)]

use std::io::Write as _;
use std::process::{Output, Stdio};

use serde_json::{Value, json};
use tests::postfix::{self, Port, Postfix};
use tests::smtp::{Client, NextHop};
use tests::{CalloutServer, Milter, not_run, program};

fn compare(arguments: &[&str], input: &str) -> (Option<i32>, String, String) {
    let mut command = program("opes-mta");
    command.arg("compare").args(arguments).stdin(Stdio::piped());
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("started");
    let mut stdin = child.stdin.take().expect("it is a pipe");
    // It may have ended before it has read all.
    let _ = stdin.write_all(input.as_bytes());
    drop(stdin);
    let Output { status, stdout, stderr } = child.wait_with_output().expect("it ends");
    let text = |octets: Vec<u8>| String::from_utf8(octets).expect("text");
    (status.code(), text(stdout), text(stderr))
}

#[test]
fn the_log_says_where_a_watching_group_differs() {
    if !postfix::is_there() {
        not_run("a group that watches", "there is no Postfix, or no root to start it");
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let settings = "[services.mail-from.settings]\ndeny = [\"bad.example\"]\n";
    let server = CalloutServer::start(folder.path(), settings, &[]);
    let group = |name: &str, service: &str, rest: &str| {
        let address = server.address();
        format!(
            "[[group]]\nname = \"{name}\"\nservers = [\"{address}\"]\n\
             services = [\"{service}\"]\n{rest}\n"
        )
    };
    let config = group("next", "spam-score", "shadow = true") + &group("now", "mail-from", "");
    let mut milter = Milter::start(folder.path(), &config);
    let hop = NextHop::start();
    let ports = [Port::with_milter(&milter.address)];
    let postfix = Postfix::start(folder.path(), &ports, hop.port, &[]);

    let head = "From: a@a.example\r\nTo: b@b.example\r\nDate: Thu, 5 Nov 2026 10:00:00 +0000\r\n\
        Message-ID: <1@a.example>\r\nSubject: lunch\r\n\r\n";
    let spam =
        ["XJS*C4JDBQADN1.NSBN3*2IDNEN*", "GTUBE-STANDARD-ANTI-UBE-TEST-EMAIL*C.34X"].concat();
    let mails = [format!("{head}At noon?\r\n"), format!("{head}{spam}\r\n")];
    let mut client = Client::greeted(postfix.ports[0]);
    for mail in &mails {
        let reply = client.mail("a@a.example", &["b@b.example"], mail.as_bytes());
        assert!(reply.starts_with("250 "), "{reply}");
        assert_eq!(hop.wait_for(1)[0].without_received(), mail.as_bytes(), "nothing changes");
        milter.wait_for("shadow");
    }
    let reply = client.mail("a@bad.example", &["b@b.example"], mails[0].as_bytes());
    assert!(reply.starts_with("550 "), "{reply}");
    drop(client);
    milter.terminate();
    let (_, lines) = milter.ended();
    let log: String = lines.iter().map(|line| format!("{line}\n")).collect();

    let shadow: Vec<_> = lines.iter().filter(|line| line["message"] == "shadow").collect();
    let message = lines.iter().filter(|line| line["message"] == "message").collect::<Vec<_>>();
    for (shadow, message) in shadow.iter().zip(&message) {
        for member in ["id", "queue_id", "sender", "recipients", "event", "octets", "client"] {
            assert_eq!(shadow[member], message[member], "{member}: {shadow} {message}");
        }
        assert_eq!(shadow["group"], "next");
    }
    let decisions = |lines: &[&Value]| -> Vec<Value> {
        lines.iter().map(|line| line["decision"].clone()).collect()
    };
    assert_eq!(decisions(&shadow), ["accept", "reject"]);
    assert_eq!(decisions(&message), ["accept", "accept", "reject"]);

    let (code, printed, stderr) = compare(&["--json", "-"], &log);
    assert_eq!((code, stderr.as_str()), (Some(3), ""), "{printed}");
    let found: Value = serde_json::from_str(&printed).expect("one object");
    assert_eq!(
        found["decisions"][0],
        json!({"first": "accept", "second": "accept", "messages": 1})
    );
    assert_eq!(
        found["decisions"][1],
        json!({"first": "accept", "second": "reject", "messages": 1})
    );
    let counts = ["agree", "differ", "only_first", "only_second"].map(|name| &found[name]);
    assert_eq!(counts, [1, 1, 1, 0]);
    let difference = &found["differences"][0];
    assert_eq!(difference["queue_id"], message[1]["queue_id"]);
    assert_eq!(difference["first"]["decision"], "accept");
    assert_eq!(difference["second"]["decision"], "reject");

    let file = folder.path().join("log");
    std::fs::write(&file, &log).expect("written");
    let (code, printed, _) = compare(&[file.to_str().expect("text")], "");
    assert_eq!(code, Some(3));
    assert!(
        printed.starts_with("effective and next: 2 messages, 1 agree, 1 differ\n"),
        "{printed}"
    );
    assert!(printed.contains("1 of effective, 0 of next"), "{printed}");
    let (code, _, _) = compare(&["--between", "next", "next", "-"], &log);
    assert_eq!(code, Some(0), "it agrees with itself");
}

#[test]
fn what_can_not_be_compared_is_said() {
    let message = "{\"message\":\"message\",\"id\":\"a.1\",\"decision\":\"accept\"}\n";
    for (arguments, input, cause) in [
        (&["-"][..], "nonsense\n", "none of 1 lines is about a message"),
        (&["-"], message, "no group has watched"),
        (&["--between", "effective", "x", "-"], message, "no line is about x; there are effective"),
        (&["/nonexistent/log"], "", "/nonexistent/log can't be read: No such file"),
    ] {
        let (code, printed, stderr) = compare(arguments, input);
        assert_eq!((code, printed.as_str()), (Some(1), ""), "{stderr}");
        assert!(stderr.contains(cause), "{stderr}");
    }
}
