//! New messages on the wire, behind what becomes of the message that they are about (profile section 5).

#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing)]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use callout_server::{Address, Config, Entry, Listeners, Server};
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, ready};
use ocp_proto::smtp::{self, Command, Reply};
use services::{
    Change, Content, Declaration, Finding, Notification, Outcome, Registry, Request, Service,
    ServiceError,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

/// Tells somebody of each message, and refuses it or does not.
struct Tells {
    refuses: bool,
}

impl Service for Tells {
    fn declaration(&self) -> Declaration {
        Declaration {
            content: Content::Header,
            notifies: true,
            ..Declaration::on([Command::Message])
        }
    }

    fn handle<'a>(&'a self, _: &'a Request) -> BoxFuture<'a, Result<Outcome, ServiceError>> {
        let to = vec![smtp::Address::new("<admin@x>").unwrap()];
        let header = "Subject: new\r\nAuto-Submitted: auto-replied\r\n\r\n";
        let first = Notification::new(to.clone(), header, "\u{e9}\r\n").unwrap();
        let sender = smtp::Address::new("<filter@x>").unwrap();
        let second = Notification::new(to, header, "").unwrap().with_sender(&sender);
        let outcome = match self.refuses {
            true => Outcome::changed(Change::Reply(Reply::new(550, "", "no").unwrap()), "told"),
            false => Outcome::unchanged(Finding::new("told")),
        };
        ready(Ok(outcome.with_notification(first).with_notification(second))).boxed()
    }
}

/// What a server says to a message of 12 octets, of which all are kept; `offered` is what it may select.
async fn answered(config: &str, service: &str, offered: &str) -> String {
    let mut config = Config::parse(config, Path::new(""), &Registry::default()).unwrap();
    for (name, refuses) in [("tells", false), ("refuses", true)] {
        let entry = Entry::new(name, "", Arc::new(Tells { refuses }), Duration::from_secs(60));
        config.router.add(entry).unwrap();
    }
    let listeners = Listeners::bind(&["127.0.0.1:0".parse().unwrap()]).await.unwrap();
    let Address::Tcp(address) = listeners.addresses().remove(0) else { panic!("it is TCP") };
    let stop = CancellationToken::new();
    let served = tokio::spawn(listeners.serve(Arc::new(Server::new(config)), stop.clone()));
    let mut stream = TcpStream::connect(address).await.unwrap();
    let uri = format!("ocp://service/{service}");
    let size = uri.len();
    let said = format!(
        "CS;\r\nNO ({{\"17:ocp://smtp/dialog\"\r\nVersion: 1\r\n}});\r\nSGC 1 ({{\"{size}:{uri}\"}});\r\n\
         NO ({{\"18:ocp://smtp/command\"\r\nCommands: (MESSAGE)\r\n{offered}}})\r\nSG: 1\r\n;\r\n\
         Dialog-Start 1;\r\nTS 1 1;\r\nAMS 1\r\nDialog: 1\r\nCommand: MESSAGE\r\n;\r\n\
         DUM 1 0\r\nKept: {{0 12}}\r\nAM-Part: message-header\r\n\r\n8:A: b\r\n\r\n\r\n;\r\n\
         DUM 1 8\r\nKept: {{0 12}}\r\nAM-Part: message-body\r\n\r\n4:body\r\n;\r\nAME 1;\r\n"
    );
    stream.write_all(said.as_bytes()).await.unwrap();
    let mut read = Vec::new();
    let answer = async {
        while !String::from_utf8_lossy(&read).contains("TE 1") || !read.ends_with(b";\r\n") {
            assert_ne!(stream.read_buf(&mut read).await.unwrap(), 0, "it goes on");
        }
    };
    tokio::time::timeout(Duration::from_secs(10), answer).await.unwrap();
    drop(stream);
    stop.cancel();
    served.await.unwrap();
    let text = String::from_utf8(read).unwrap();
    let lines = text.split("\r\n").filter(|line| !line.starts_with("Milliseconds: "));
    lines.collect::<Vec<_>>().join("\r\n")
}

/// The notifications, with these Am-Ids.
fn notifications() -> String {
    let header = "46:Subject: new\r\nAuto-Submitted: auto-replied\r\n\r\n\r\n;\r\n";
    format!(
        "AMS 1\r\nAm-Id: 2\r\nRole: notification\r\n\
         Sender: {{\"2:<>\"\r\nParams: (\"13:BODY=8BITMIME\")\r\n}}\r\n\
         Recipients: ({{\"9:<admin@x>\"}})\r\n;\r\n\
         DUM 1 0\r\nAM-Part: message-header\r\nAm-Id: 2\r\n\r\n{header}\
         DUM 1 46\r\nAM-Part: message-body\r\nAm-Id: 2\r\n\r\n4:\u{e9}\r\n\r\n;\r\n\
         AME 1\r\nAm-Id: 2\r\n;\r\n\
         AMS 1\r\nAm-Id: 3\r\nRole: notification\r\nSender: {{\"10:<filter@x>\"}}\r\n\
         Recipients: ({{\"9:<admin@x>\"}})\r\n;\r\n\
         DUM 1 0\r\nAM-Part: message-header\r\nAm-Id: 3\r\n\r\n{header}\
         AME 1\r\nAm-Id: 3\r\n;\r\nTE 1;\r\n"
    )
}

#[tokio::test]
async fn notifications_stand_behind_the_message_or_its_refusal() {
    let verdict = |service: &str| {
        let uri = format!("ocp://service/{service}");
        format!("Verdicts: ({{\"{}:{uri}\" told\r\n}})\r\n;\r\n", uri.len())
    };
    let several = "Multiple-Messages: true\r\n";
    let answer = answered("", "tells", several).await;
    let selected = "Commands: (MESSAGE)\r\nMultiple-Messages: true\r\nOn-Failure: tempfail\r\n}";
    assert!(answer.contains(selected), "whole messages come: {answer}");
    let whole = format!(
        "AMS 1\r\nAm-Id: 1\r\nRole: variant\r\n;\r\nDUY 1 0 8\r\nAm-Id: 1\r\n;\r\n\
         DUY 1 8 4\r\nAm-Id: 1\r\n;\r\nAME 1\r\nAm-Id: 1\r\n{}{}",
        verdict("tells"),
        notifications()
    );
    assert!(answer.ends_with(&whole), "{answer}\n{whole}");

    let answer = answered("", "refuses", several).await;
    let refusal = format!(
        "AMS 1\r\nAm-Id: 1\r\nRole: reply\r\n;\r\n\
         DUM 1 0\r\nModp: 100\r\nAM-Part: reply\r\nAm-Id: 1\r\n\r\n8:550 no\r\n\r\n;\r\n\
         AME 1\r\nAm-Id: 1\r\n{}{}",
        verdict("refuses"),
        notifications()
    );
    assert!(answer.ends_with(&refusal), "{answer}\n{refusal}");
}

#[tokio::test]
async fn where_a_message_has_one_answer_nobody_can_be_notified() {
    let answer = answered("", "tells", "").await;
    assert!(answer.contains("Leave-At-Body: 0\r\n"), "{answer}");
    assert!(answer.contains("451 4.3.0 Mail inspection is not available now"), "{answer}");
    let cause = "answer: a notification where there can be none; policy: tempfail";
    assert!(answer.contains(cause) && answer.ends_with("TE 1;\r\n"), "{answer}");
}

/// New messages count among the octets that are worked on.
#[tokio::test]
async fn notifications_without_room_are_no_answer() {
    let answered = |octets| async move {
        let config = format!("[limits]\ncontent-octets = {octets}\n");
        answered(&config, "tells", "Multiple-Messages: true\r\n").await
    };
    // The message, two header sections, one body.
    assert!(answered(12 + 2 * 46 + 4).await.ends_with("TE 1;\r\n"));
    let refused = "TE 1 {400 \"36:the server works on too much content\"}\r\nRetry: true\r\n;\r\n";
    assert!(answered(12 + 2 * 46 + 3).await.ends_with(refused));
}
