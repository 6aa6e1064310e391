//! What a sender is told of a message that was released from the quarantine of `opes-mta smtp` and that the next hop
//! refuses.

#![allow(missing_docs, clippy::indexing_slicing)]

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ocp_proto::smtp::{Command, EffectName, SideEffect};
use services::{Declaration, Finding, Outcome, Request};
use tests::scripted::{Script, Scripted};
use tests::smtp::{Client, Instead, NextHop};
use tests::stores::Stores;
use tests::text;

fn keeper() -> Script {
    let declaration = Declaration {
        effects: vec![EffectName::Quarantine],
        ..Declaration::on([Command::Message])
    };
    Script { name: "keeper", declaration, answer: keep }
}

fn keep(_: &Request) -> (Duration, Outcome) {
    let kept = Outcome::unchanged(Finding::new("odd"));
    (Duration::ZERO, kept.with_effect(SideEffect::Quarantine("odd".into())))
}

/// OPES-4902-3.1-08, OPES-4902-4-02, OPES-BIND-13: by the name that the log has for the message.
#[test]
fn a_report_on_what_was_released_says_which_system_it_passed() {
    let server = Scripted::start(&[keeper()]);
    let folder = tempfile::tempdir().expect("a folder");
    // The message is refused, the report is not.
    let was_refused = AtomicBool::new(false);
    let hop = NextHop::unless(move |line| {
        let is_first = line == "." && !was_refused.swap(true, Ordering::Relaxed);
        if is_first { Instead::say("554 5.6.0 not that") } else { None }
    });
    let config = format!(
        "[system]\nuri = \"https://opes.example.org/\"\nname = \"mx1\"\n\
         [[group]]\nname = \"a\"\nservices = [\"keeper\"]\nservers = [\"{}\"]\n",
        server.address
    );
    let stores = Stores::new(folder.path());
    let mut proxy = stores.start_proxy("127.0.0.1:0", hop.port, &config);
    let mut client = Client::greeted(proxy.port());
    let reply = client.mail("a@a.example", &["b@b.example"], b"Subject: x\r\n\r\nbody\r\n");
    assert_eq!(reply, "250 2.0.0 Ok");
    let id = text(&proxy.wait_for("message"), "id");
    let released = stores.release(&[text(&stores.kept()[0], "id")]).status();
    assert!(released.expect("it runs").success());
    let report = hop.wait_for(1).remove(0);
    assert_eq!((&report.sender[..], &report.recipients[..]), ("", &["a@a.example".to_owned()][..]));
    let told =
        String::from_utf8_lossy(&report.octets).replace("\r\n\t", " ").replace("\r\n ses", " ses");
    let trace = format!("https://opes.example.org/ ; processor=mx1 ; session={id}\r\n");
    for part in [
        format!(
            "It passed this OPES system, which its operator finds by the name behind it:\r\n    \
             https://opes.example.org/ {id}\r\n"
        ),
        format!("\r\nX-OPES-System: {trace}X-OPES-Verdicts: keeper=odd\r\n"),
        // The header that is returned has its own.
        format!("\r\nOPES-System: {trace}Subject: x\r\n"),
    ] {
        assert!(told.contains(&part), "{part} is not in {told}");
    }
}
