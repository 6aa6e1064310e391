//! `callout-server history`: the last messages of a running server, explained.

#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing)]

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tempfile::{TempDir, tempdir};
use tests::peer::{Peer, command, message, outcome, quoted};
use tests::smtp::{Client, NextHop};
use tests::{CalloutServer, Milter, fixtures, program};

struct Story {
    folder: TempDir,
    server: CalloutServer,
    control: PathBuf,
}

impl Story {
    fn start(config: &str) -> Self {
        let folder = tempdir().unwrap();
        let control = folder.path().join("control");
        let config = format!("[admin]\ncontrol = \"{}\"\n{config}", control.display());
        let server = CalloutServer::start(folder.path(), &config, &[]);
        Self { folder, server, control }
    }

    fn history(&self, arguments: &[&str]) -> String {
        history(&self.control, arguments)
    }

    /// The records, once there are so many.
    fn records(&self, count: usize) -> Vec<Value> {
        for _ in 0..10_000 {
            let lines = self.history(&["--json"]);
            let records: Vec<Value> =
                lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
            if records.len() == count {
                return records;
            }
        }
        panic!("there never were {count}: {}", self.history(&[]));
    }
}

fn history(control: &Path, arguments: &[&str]) -> String {
    let mut history = program("callout-server");
    let output = history.args(["history", "--control"]).arg(control).args(arguments);
    let output = output.output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    String::from_utf8(output.stdout).unwrap()
}

/// What became of a record, and what each service found.
fn told(record: &Value) -> String {
    let findings = record["events"].as_array().unwrap().iter().flat_map(|event| {
        event["findings"].as_array().unwrap().iter().map(|finding| {
            let text = |member: &str| finding[member].as_str().unwrap_or_default().to_owned();
            format!("{}={}", text("service"), text("verdict"))
        })
    });
    let findings = findings.collect::<Vec<_>>().join(" ");
    let text = |member: &str| record[member].as_str().unwrap_or_default();
    format!("{} {} {findings}", text("result"), text("sender"))
}

/// Mails of each kind through the SMTP proxy.
#[test]
fn messages_of_each_kind_are_explained() {
    let story = Story::start(
        "[services.mail-from.settings]\ndeny = [\"bulk.example\"]\n\
         [services.broken]\nkind = \"plugin\"\non-failure = \"tempfail\"\n\
         recipients = [\"broken@example.com\"]\n\
         [services.broken.settings]\naddress = \"unix:nobody.sock\"\n\
         grants = { events = [\"MESSAGE\"] }\n",
    );
    let config = format!(
        "[[group]]\nname = \"clean\"\nservers = [\"{}\"]\n\
         services = [\"mail-from\", \"virus-scan\", \"mime-strip\", \"broken\"]\n",
        story.server.address()
    );
    let hop = NextHop::start();
    let next_hop = format!("127.0.0.1:{}", hop.port);
    let proxy = Milter::start_proxy("127.0.0.1:0", &next_hop, story.folder.path(), &config);
    let mut client = Client::greeted(proxy.port());
    let plain = b"Subject: x\r\n\r\nNothing special.\r\n";
    let eicar =
        [r"X5O!P%@AP[4\PZX54(P^)7CC)7}$EICAR-", "STANDARD-ANTIVIRUS-TEST-FILE!$H+H*"].concat();
    let infected = format!("Subject: x\r\n\r\n{eicar}\r\n");
    let attachment = "MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\n\
        text\r\n--b\r\nContent-Type: application/octet-stream; name=setup.exe\r\n\r\nMZ\r\n--b--\r\n";
    let to = ["b@example.com"];
    assert!(client.mail("a@example.org", &to, plain).starts_with("250 "));
    assert!(client.mail("a@example.org", &to, infected.as_bytes()).starts_with("554 "));
    assert!(client.mail("a@example.org", &to, attachment.as_bytes()).starts_with("250 "));
    assert!(client.say("MAIL FROM:<x@bulk.example>").starts_with("550 "));
    let two = ["b@example.com", "broken@example.com"];
    let said = client.mail("a@example.org", &two, plain);
    assert!(said.starts_with("554 5.5.0 recipients should get different versions"), "{said}");
    client.say("QUIT");

    let records = story.records(5);
    let said: Vec<String> = records.iter().map(told).collect();
    let clean = "mail-from=unchanged virus-scan=clean mime-strip=clean";
    assert_eq!(
        said,
        [
            format!("unchanged <a@example.org> {clean}"),
            "replied <a@example.org> mail-from=unchanged virus-scan=infected".to_owned(),
            "modified <a@example.org> mail-from=unchanged virus-scan=clean mime-strip=stripped"
                .to_owned(),
            "replied <x@bulk.example> mail-from=denied".to_owned(),
            format!("several <a@example.org> {clean} broken=failed"),
        ]
    );
    let ids: Vec<u64> = records.iter().map(|record| record["id"].as_u64().unwrap()).collect();
    assert_eq!(ids, [1, 2, 3, 4, 5]);
    let first = &records[0];
    assert_eq!(first["recipients"], json!(["<b@example.com>"]));
    assert_eq!(first["octets"], plain.len());
    assert_eq!(first["client_address"], "127.0.0.1");
    assert_eq!(first["services"], json!(["mail-from", "virus-scan", "mime-strip", "broken"]));
    let outcome = &records[1]["events"][1]["outcome"];
    assert!(outcome["reply"].as_str().unwrap().starts_with("554 5.7.1 "), "{outcome}");
    let failed = &records[4]["events"][1]["findings"][2]["reason"];
    assert!(failed.as_str().unwrap().contains("policy: tempfail"), "{failed}");

    // What recipients get who differ stands apart.
    let versions = records[4]["events"][1]["versions"].as_array().unwrap();
    let version = |recipient: &str, result: &str, reply: Value| json!({ "recipients": [recipient], "recipient_count": 1, "result": result, "reply": reply, "effects": [] });
    let late = "451 4.3.0 Mail inspection is not available now, try again later";
    assert!(
        versions.contains(&version("<b@example.com>", "unchanged", Value::Null)),
        "{versions:?}"
    );
    assert!(
        versions.contains(&version("<broken@example.com>", "replied", late.into())),
        "{versions:?}"
    );

    // For people, with a search, and the newest alone.
    let text = story.history(&["--search", "INFECTED eicar"]);
    assert_eq!(text.matches("asked by").count(), 1, "{text}");
    assert!(text.contains("replied     <a@example.org> to <b@example.com>\n  #2, "), "{text}");
    assert!(text.contains("    virus-scan: infected (Eicar"), "{text}");
    assert!(text.contains("    answer: 554 5.7.1 "), "{text}");
    assert!(text.contains("  not asked: mime-strip, broken\n"), "{text}");
    let text = story.history(&["--last", "2"]);
    let at = |id: &str| text.find(id).unwrap_or(usize::MAX);
    assert!(at("#4, ") < at("#5, ") && at("#5, ") < usize::MAX && !text.contains("#3, "), "{text}");
    assert_eq!(story.history(&["--search", "nowhere"]), "no messages\n");
}

/// What a peer says acts on no terminal, and nothing of a message's content is kept.
#[test]
fn hostile_names_are_spelt_out_and_content_is_not_kept() {
    let mut story = Story::start("");
    let mut peer = Peer::open(story.server.address(), &["log"]);
    let helo = "\u{1b}]0;pwned\u{7}\u{202e}gro.elpmaxe";
    peer.send(format!("Dialog-Update 1\r\nHelo: {}\r\n;\r\n", quoted(helo)));
    peer.send(command(1, 1, "MAIL FROM:<\u{1b}[2J@example.org>", true).concat());
    peer.read_message("TE 1");
    peer.send(message(2, 1, "Subject: SECRET\r\n\r\n", "secret\r\n", true).concat());
    peer.read_message("TE 2");
    peer.send(outcome(1, 2));
    peer.send("Dialog-End 1;\r\nCE;\r\n");
    peer.read_to_end();
    story.server.wait_for("disconnected");
    let text = story.history(&[]);
    assert!(text.contains(r"HELO \u{1b}]0;pwned\u{7}\u{202e}gro.elpmaxe"), "{text}");
    assert!(!text.contains(|c: char| c.is_control() && c != '\n'), "{text:?}");
    let lines = story.history(&["--json"]);
    assert!(!lines.to_lowercase().contains("secret"), "{lines}");
}

#[test]
fn the_oldest_go_and_without_a_history_that_is_said() {
    let mut story = Story::start("[history]\nmessages = 3\n");
    let mails = ["plain.eml", "folded.eml", "bare-lf.eml", "two-types.eml", "nul.eml"];
    let mails: Vec<PathBuf> = mails.iter().map(|mail| fixtures().join(mail)).collect();
    story.server.adapt(
        [Path::new("--jobs"), Path::new("1")].into_iter().chain(mails.iter().map(PathBuf::as_path)),
    );
    story.server.wait_for("disconnected");
    let ids: Vec<Value> = story.records(3).iter().map(|record| record["id"].clone()).collect();
    assert_eq!(ids, [3, 4, 5]);

    let none = Story::start("[history]\nmessages = 0\n");
    let mut history = program("callout-server");
    let output = history.args(["history", "--control"]).arg(&none.control).output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(error.contains("keeps no history: [history] messages is 0"), "{error}");
}
