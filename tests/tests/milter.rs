//! A real Postfix whose milter is `opes-mta`, with a real callout server behind it.

#![allow(missing_docs)]

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;

use tests::postfix::{self, Port, Postfix};
use tests::smtp::{Client, NextHop};
use tests::{CalloutServer, Milter, not_run};

const GROUP: &str = "[[group]]\nname = \"mail\"\nservices = [\"mail-from\", \"spam-score\"]\n";

/// A callout server, a milter, a Postfix and its next hop.
struct Gateway {
    _server: CalloutServer,
    milter: Milter,
    postfix: Postfix,
    hop: NextHop,
    _folder: tempfile::TempDir,
}

fn gateway(story: &str) -> Option<Gateway> {
    if !postfix::is_there() {
        not_run(story, "there is no Postfix, or no root to start it");
        return None;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let server = CalloutServer::start(folder.path(), "", &[]);
    let config = format!("{GROUP}servers = [\"{}\"]\n", server.address());
    let milter = Milter::start(folder.path(), &config);
    let hop = NextHop::start();
    let ports = [Port::with_milter(&milter.address)];
    let postfix = Postfix::start(folder.path(), &ports, hop.port, &[]);
    Some(Gateway { _server: server, milter, postfix, hop, _folder: folder })
}

#[test]
fn a_unix_socket_is_open_to_the_mail_server() {
    if !postfix::is_there() {
        return not_run("a unix socket", "there is no Postfix, or no root to start it");
    }
    let folder = tempfile::tempdir().expect("a folder");
    // Who gets into the folder may connect: Postfix has a user of its own.
    std::fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).expect("it is ours");
    let server = CalloutServer::start(folder.path(), "", &[]);
    let config = format!("{GROUP}servers = [\"{}\"]\n", server.address());
    let socket = folder.path().join("milter");
    let address = format!("unix:{}", socket.display());
    let mut milter = Milter::start_at(&address, folder.path(), &config);
    assert_eq!(milter.address, address);
    let hop = NextHop::start();
    let ports = [Port::with_milter(&address)];
    let postfix = Postfix::start(folder.path(), &ports, hop.port, &[]);
    let mail = b"Subject: x\r\n\r\nbody\r\n";
    let reply = Client::greeted(postfix.ports[0]).mail("a@a.example", &["b@b.example"], mail);
    assert!(reply.starts_with("250 2.0.0 Ok: queued as "), "{reply}");
    assert_eq!(milter.wait_for("message")["client"], "127.0.0.1");
    milter.terminate();
    assert_eq!(milter.ended().0, Some(0));
    assert!(!socket.exists());
}

/// OPES-4496-3.1-01
#[test]
fn a_mail_that_nobody_changes_arrives_as_it_was() {
    let Some(mut gateway) = gateway("a mail through Postfix") else { return };
    let mail = b"From: a@a.example\r\nSubject:x\r\nX-Fold: a\r\n\tb\r\n  c\r\n\r\n.dot\r\nbody\r\n";
    let mut client = Client::greeted(gateway.postfix.ports[0]);
    let reply = client.mail("a@a.example", &["b@b.example", "c@b.example"], mail);
    assert!(reply.starts_with("250 2.0.0 Ok: queued as "), "{reply}");
    let delivered = gateway.hop.wait_for(1).remove(0);
    assert_eq!(delivered.without_received(), mail);
    assert_eq!((&delivered.sender[..], delivered.recipients.len()), ("a@a.example", 2));
    let line = gateway.milter.wait_for("message");
    assert_eq!(line["decision"], "accept");
    assert_eq!(line["sender"], "<a@a.example>");
    assert_eq!(line["recipients"], "<b@b.example> <c@b.example>");
    assert!(reply.ends_with(line["queue_id"].as_str().expect("a queue id")), "{line}");
    assert!(line["verdicts"].as_str().expect("verdicts").contains("spam-score=ham"), "{line}");
}
