//! `opes-mta smtp` behind the queue on the way out: the `relayhost` of a real Postfix.

#![allow(missing_docs, clippy::indexing_slicing)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tests::actor::{actor, config};
use tests::gateway::told;
use tests::postfix::{self, Port, Postfix};
use tests::programs::swaks;
use tests::scripted::Scripted;
use tests::smtp::{Client, Instead, NextHop, is_queued};
use tests::{Milter, not_run, text};

const MAIL: &str = "From: a@a.example\r\nTo: b@b.example\r\nDate: Thu, 1 Jan 2026 00:00:00 +0000\r\n\
                    Message-ID: <1@a.example>\r\nSubject: x\r\n\r\nfirst\r\n.dot\r\n..\r\n";

/// Postfix, which sends everything through the proxy to the server of somebody else.
struct Outbound {
    proxy: Milter,
    postfix: Postfix,
    hop: NextHop,
    _server: Scripted,
    folder: tempfile::TempDir,
}

fn outbound(story: &str, hop: NextHop) -> Option<Outbound> {
    if !postfix::is_there() {
        not_run(story, "there is no Postfix, or no root to start it");
        return None;
    }
    let server = Scripted::start(&[actor()]);
    let folder = tempfile::tempdir().expect("a folder");
    let next_hop = format!("127.0.0.1:{}", hop.port);
    let arguments =
        [["--listen", "127.0.0.1:0"], ["--next-hop", &next_hop], ["--placement", "sending"]];
    let proxy = Milter::start_proxy_with(arguments.as_flattened(), folder.path(), &config(&server));
    let postfix = Postfix::start(folder.path(), &[Port::default()], proxy.port(), &[]);
    Some(Outbound { proxy, postfix, hop, _server: server, folder })
}

impl Outbound {
    /// Sends a mail, which Postfix takes whatever becomes of it.
    fn send(&self, sender: &str, recipients: &[&str]) {
        let reply =
            Client::greeted(self.postfix.ports[0]).mail(sender, recipients, MAIL.as_bytes());
        assert!(is_queued(&reply), "{reply}");
    }

    fn told(&mut self) -> String {
        told(&self.proxy.wait_for("message"))
    }
}

#[test]
fn services_hear_that_mail_is_sent_and_what_they_make_of_it_goes_out() {
    let Some(mut chain) = outbound("the relayhost of Postfix", NextHop::start()) else { return };
    for (sender, sent_by, field, decision) in [
        ("a", "a", "", "accept"),
        ("mark", "mark", "X-Mark: new\r\n", "modify"),
        ("sender", "other", "", "modify"),
    ] {
        chain.send(&format!("{sender}@a.example"), &["b@b.example", "c@b.example"]);
        let delivered = chain.hop.wait_for(1).remove(0);
        let octets = String::from_utf8_lossy(&delivered.octets).into_owned();
        assert!(octets.starts_with(&format!("{field}Received: ")) && octets.ends_with(MAIL));
        assert_eq!(delivered.sender, format!("{sent_by}@a.example"));
        assert_eq!(delivered.recipients, ["b@b.example", "c@b.example"]);
        let line = chain.told();
        let expected = format!("{decision} <{sender}@a.example> -> <b@b.example> <c@b.example>\n");
        assert!(line.starts_with(&expected), "{line}");
        // The client is Postfix itself, which says nothing of its own.
        assert!(line.contains("(sending 127.0.0.1 name=- helo=mx.example auth=-)"), "{line}");
    }
    let file = chain.folder.path().join("mail");
    std::fs::write(&file, MAIL).expect("written");
    let data = format!("@{}", file.display());
    let arguments = ["--from", "mark@a.example", "--to", "b@b.example", "--data", &data];
    match swaks(chain.postfix.ports[0], &arguments) {
        None => not_run("swaks behind a relayhost", "there is no swaks"),
        Some((is_sent, said)) => {
            assert!(is_sent, "{said}");
            let delivered = chain.hop.wait_for(1).remove(0);
            assert!(delivered.octets.starts_with(b"X-Mark: new\r\nReceived: "));
            assert!(delivered.octets.ends_with(format!("{MAIL}\r\n").as_bytes()));
            assert!(chain.told().starts_with("modify <mark@a.example> -> <b@b.example>\n"));
        }
    }
}

/// Whose refusal it is, the sender reads in the bounce, which takes the same way.
#[test]
fn refusals_of_services_and_of_the_server_beyond_become_bounces() {
    let hop = NextHop::unless(|line| match line {
        line if line.contains("<gone@") => Instead::say("550 5.1.1 gone from here"),
        _ => None,
    });
    let Some(mut chain) = outbound("bounces behind a relayhost", hop) else { return };
    chain.send("bad@a.example", &["b@b.example"]);
    let line = chain.told();
    assert!(
        line.starts_with("reject <bad@a.example> -> <b@b.example>\nreason: 554 5.6.0 is bad\n"),
        "{line}"
    );
    let bounce = chain.hop.wait_for(1).remove(0);
    assert_eq!((&bounce.sender[..], &bounce.recipients[..]), ("", &["bad@a.example".into()][..]));
    assert!(String::from_utf8_lossy(&bounce.octets).contains("554 5.6.0 is bad"));
    let line = chain.told();
    assert!(line.starts_with("accept <> -> <bad@a.example>\n"), "{line}");

    chain.send("a@a.example", &["b@b.example", "gone@b.example", "nobody@b.example"]);
    let mut delivered = chain.hop.wait_for(2);
    delivered.sort_by_key(|mail| mail.sender.clone());
    let bounce = String::from_utf8_lossy(&delivered[0].octets).into_owned();
    for said in ["550 5.1.1 nobody here", "550 5.1.1 gone from here"] {
        assert!(bounce.contains(said), "{bounce}");
    }
    assert_eq!(delivered[1].recipients, ["b@b.example"]);
    let line = chain.proxy.wait_for("message");
    assert_eq!(
        (text(&line, "decision"), text(&line, "refused")),
        (
            "accept".to_owned(),
            "<gone@b.example> 550 5.1.1 gone from here; <nobody@b.example> 550 5.1.1 nobody here"
                .to_owned()
        )
    );
}

/// The server beyond is not there for a while: the mail stays with Postfix, and arrives once.
#[test]
fn mail_waits_with_postfix_for_the_server_beyond() {
    let is_there = Arc::new(AtomicBool::new(false));
    let looks = Arc::clone(&is_there);
    let hop = NextHop::unless(move |line| {
        (line.is_empty() && !looks.load(Ordering::Relaxed)).then_some(Instead::HangUp)
    });
    let Some(mut chain) = outbound("what waits behind a relayhost", hop) else { return };
    chain.send("a@a.example", &["b@b.example"]);
    let line = chain.proxy.wait_for("the dialog of a client broke");
    assert_eq!(text(&line, "stage"), "greeting", "{line}");
    chain.postfix.wait_for(&["to=<b@b.example>", "status=deferred", "421 4.4.1 The next mail"]);
    assert!(chain.hop.is_empty());
    is_there.store(true, Ordering::Relaxed);
    chain.postfix.flush();
    assert!(chain.hop.wait_for(1)[0].octets.ends_with(MAIL.as_bytes()));
    assert!(chain.told().starts_with("accept <a@a.example> -> <b@b.example>\n"));

    chain.send("later@a.example", &["c@b.example"]);
    chain.postfix.wait_for(&["to=<c@b.example>", "status=deferred", "451 4.7.1 not now"]);
    assert!(chain.told().starts_with("tempfail <later@a.example> -> <c@b.example>\n"));
    assert!(chain.hop.is_empty());
    chain.postfix.flush();
    assert_eq!(chain.hop.wait_for(1)[0].recipients, ["c@b.example"]);
    assert!(chain.hop.is_empty());
}
