//! Plugins that are slow: in reading, in answering, and too slow. What they hold up is their own mail.

#![allow(missing_docs, clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use tests::plugin::{FAILED, Plugin, adapt, generated, says};
use tests::relay::Relay;
use tests::{CalloutServer, PATIENCE, found, text};

const MAIL: &str = "From: a@a.example\r\nSubject: s\r\n\r\ntext\r\n";
/// How much memory a server may need more than before, whatever a mail's size.
const GROWTH: u64 = 32 << 20;

/// A mail that others send meanwhile, to a service; what became of it.
fn meanwhile(server: &str, service: &str, folder: &Path) -> Value {
    let file = folder.join("meanwhile.eml");
    std::fs::write(&file, MAIL).unwrap();
    tests::adapt(server, [Path::new("--services"), Path::new(service), &file]).only().clone()
}

fn accepted(report: &Value) {
    assert_eq!(text(report, "decision"), "accept", "{report}");
}

/// What the plugin, which counts octets, has seen of a mail.
fn seen(report: &Value, octets: usize) {
    accepted(report);
    let (verdict, score, _) = found(report, "plugin").unwrap();
    assert_eq!((verdict.as_str(), score), ("seen", octets.to_string()), "{report}");
}

/// One that does not read a body gets no more of it: that stays where it is, in a file. Other mails go through the same
/// plugin, on the same connection, and through other services.
#[test]
fn a_plugin_that_reads_slowly_holds_its_own_mail() {
    let Some(folder) = generated("a plugin that reads slowly") else { return };
    let folder = folder.path();
    assert!(Command::new("mkfifo").arg(folder.join("go-on")).status().unwrap().success());
    let plugin = Plugin { deadline: PATIENCE.as_secs(), ..Plugin::behaving(folder, "dawdles") };
    let mut server = plugin.serve(folder);
    let address = server.address().to_owned();
    seen(&meanwhile(&address, "plugin", folder), MAIL.len());
    let before = server.memory();

    let large = format!("{MAIL}{}", ("x".repeat(70) + "\r\n").repeat(1_000_000));
    let file = folder.join("large.eml");
    std::fs::write(&file, &large).unwrap();
    let sent = [PathBuf::from("--services"), "plugin".into(), file];
    let to = address.clone();
    let slow = std::thread::spawn(move || tests::adapt(&to, sent).only().clone());
    says(&mut server, "dawdles");
    for _ in 0..5 {
        seen(&meanwhile(&address, "plugin", folder), MAIL.len());
        accepted(&meanwhile(&address, "spam-score", folder));
    }
    assert!(!slow.is_finished(), "the plugin has not read on");
    let growth = server.peak_memory().saturating_sub(before);
    println!("{} KiB more for a mail of {} KiB", growth / 1024, large.len() / 1024);

    // Whoever opens it to write wakes the reader.
    std::fs::write(folder.join("go-on"), "").unwrap();
    seen(&slow.join().unwrap(), large.len());
    let growth = server.peak_memory().saturating_sub(before);
    assert!(growth < GROWTH, "{growth} octets for a mail of {}", large.len());
}

/// A plugin behind a relay, and its server.
fn relayed(folder: &Path, plugin: Plugin) -> (Relay, CalloutServer) {
    let relay = Relay::start(&folder.join("behind.sock"));
    let Plugin { mut command, .. } = plugin.clone();
    command.push("unix:behind.sock".to_owned());
    let server = Plugin { address: relay.address.clone(), command, ..plugin }.serve(folder);
    (relay, server)
}

/// An answer is good whenever it comes, in whatever pieces, up to the deadline.
#[test]
fn an_answer_that_comes_octet_by_octet_is_an_answer() {
    let Some(folder) = generated("a plugin that answers slowly") else { return };
    let folder = folder.path();
    let plugin = Plugin { deadline: PATIENCE.as_secs(), ..Plugin::behaving(folder, "tells") };
    let (relay, mut server) = relayed(folder, plugin);
    let address = server.address().to_owned();
    seen(&meanwhile(&address, "plugin", folder), MAIL.len());
    says(&mut server, "asked");

    relay.hold();
    let (to, at) = (address.clone(), folder.to_owned());
    let slow = std::thread::spawn(move || meanwhile(&to, "plugin", &at));
    says(&mut server, "asked");
    for _ in 0..10 {
        relay.pass(1);
        accepted(&meanwhile(&address, "spam-score", folder));
    }
    assert!(!slow.is_finished(), "its answer has more than ten octets");
    relay.release();
    seen(&slow.join().unwrap(), MAIL.len());
}

/// One whose answers come too late is asked no more for a while, and again once it answers; what comes late changes
/// nothing.
#[test]
fn an_answer_behind_the_deadline_is_none() {
    let Some(folder) = generated("a plugin that answers too late") else { return };
    let folder = folder.path();
    let mut plugin = Plugin::behaving(folder, "tells");
    plugin.settings = "failures = 2\nrevive-seconds = 1\n".to_owned();
    let (relay, mut server) = relayed(folder, plugin);
    seen(&adapt(&server, folder, MAIL), MAIL.len());

    relay.hold();
    for _ in 0..2 {
        let (to, at) = (server.address().to_owned(), folder.to_owned());
        let slow = std::thread::spawn(move || meanwhile(&to, "plugin", &at));
        // It begins to answer, and does not get to the end.
        says(&mut server, "asked");
        relay.pass(10);
        let report = slow.join().unwrap();
        assert_eq!(text(&report, "reply"), FAILED, "{report}");
        let line = server.wait_for("service failed");
        let told = ["stage", "cause", "policy"].map(|member| text(&line, member));
        assert_eq!(told, ["deadline", "no answer within 2 s", "tempfail"], "{line}");
    }
    // That was said before the second mail's line.
    let said =
        |line: &&Value| text(line, "message") == "the plugin is left alone: too many failures";
    let left = server.lines.iter().find(said).unwrap();
    assert!(text(left, "cause").starts_with("no answer within 2."), "{left}");
    accepted(&meanwhile(server.address(), "spam-score", folder));

    // Both answers come now, to nobody. Until the pause is over mails fail at once.
    relay.release();
    let report = loop {
        let report = adapt(&server, folder, MAIL);
        if text(&report, "decision") == "accept" {
            break report;
        }
        assert_eq!(text(&report, "reply"), FAILED, "{report}");
    };
    seen(&report, MAIL.len());
    server.wait_for("the plugin is back");
}
