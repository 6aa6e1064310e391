//! A group of real callout servers that are killed and restarted while mail goes through them.

#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing)]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use ocp_proto::OcpResult;
use ocp_proto::smtp::{Address, CommandLine, DialogFacts, Envelope};
use opes_mta::apply::Answer;
use opes_mta::event::{Event, Message};
use opes_mta::front::file;
use opes_mta::group::{Consultation, Group, GroupSettings};
use tests::CalloutServer;

/// Messages between two kills.
const MESSAGES: usize = 24;
const DIALOGS: usize = 8;
const KILLS: usize = 6;
/// Between two looks at how far it has come.
const PAUSE: Duration = Duration::from_millis(5);
/// For all of it.
const PATIENCE: Duration = Duration::from_secs(120);

fn start(folder: &Path, number: usize) -> CalloutServer {
    let folder = folder.join(number.to_string());
    std::fs::create_dir_all(&folder).unwrap();
    let config = "[services.spam-score.settings]\nmark-ham = true\n";
    CalloutServer::start(&folder, config, &[format!("unix:{}/ocp.sock", folder.display())])
}

/// MAIL, RCPT and MESSAGE: each has to be answered, and the message marked once.
async fn message(dialog: &mut Consultation, number: usize) {
    let sender = Address::new(format!("<{number}@a.example>")).unwrap();
    let recipient = Address::new("<b@c.example>").unwrap();
    let line = CommandLine::new(format!("MAIL FROM:{sender}")).unwrap();
    let mail_from = Event::command(line, Envelope::default()).unwrap();
    let octets = format!("From: a@b.example\r\nSubject: {number}\r\n\r\n{}", "x".repeat(2_000));
    let envelope = Envelope { sender: Some(sender), recipients: vec![recipient] };
    let content = Event::message(Message::split(octets.clone().into()), envelope);
    for event in [mail_from, content] {
        let adaptation = dialog.ask(&event).await.unwrap();
        let asked = adaptation.asked.expect("a server has seen it");
        asked.report(OcpResult::ok(), None);
        if let Answer::Message(adapted) = adaptation.answer {
            let adapted: Bytes = adapted.read().unwrap().concat().into();
            let text = std::str::from_utf8(&adapted).unwrap();
            assert_eq!(text.matches("X-Spam-Status:").count(), 1, "{}", &text[..200]);
            assert!(text.ends_with(&octets), "{}", &text[..200]);
        } else {
            assert!(!event.command.has_content(), "{:?}", adaptation.answer);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_mail_fails_while_servers_are_killed() {
    let folder = tempfile::tempdir().unwrap();
    let mut servers: Vec<_> = (0..3).map(|number| start(folder.path(), number)).collect();
    let targets = servers.iter().map(|server| {
        let services = vec!["ocp://service/mail-from".into(), "ocp://service/spam-score".into()];
        file::target(server.addresses[1].parse().unwrap(), services)
    });
    // An event may be under way at one server after the other, each time when that one is killed.
    let settings = GroupSettings { attempts: KILLS + 1, ..GroupSettings::default() };
    let group = Group::start(targets.collect(), settings);
    group.tried().await;

    let (done, over) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let dialogs: Vec<_> = (0..DIALOGS)
        .map(|_| {
            let (group, done, over) = (group.clone(), Arc::clone(&done), Arc::clone(&over));
            tokio::spawn(async move {
                // A long session: what becomes of one message is not to touch the next.
                let mut dialog = Consultation::new(&group, DialogFacts::default());
                while !over.load(Ordering::Relaxed) {
                    message(&mut dialog, done.fetch_add(1, Ordering::Relaxed)).await;
                }
            })
        })
        .collect();
    let count = Arc::clone(&done);
    let killer = tokio::task::spawn_blocking(move || {
        let begin = Instant::now();
        for kill in 0..KILLS {
            while count.load(Ordering::Relaxed) < kill * MESSAGES {
                assert!(begin.elapsed() < PATIENCE, "the dialogs stand still");
                std::thread::sleep(PAUSE);
            }
            let number = kill % servers.len();
            // The socket file of one that was killed is still there.
            drop(servers.remove(number));
            std::fs::remove_file(folder.path().join(format!("{number}/ocp.sock"))).unwrap();
            servers.insert(number, start(folder.path(), number));
        }
        (servers, folder)
    });
    let _servers = killer.await.unwrap();
    over.store(true, Ordering::Relaxed);
    for dialog in dialogs {
        dialog.await.unwrap();
    }
    println!("{} messages, {KILLS} servers killed", done.load(Ordering::Relaxed));
}
