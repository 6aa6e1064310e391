//! Both programs when whoever read their log has gone: mail goes on, and they end when they are told to.

#![allow(missing_docs)]

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use tests::smtp::{Client, NextHop};
use tests::{program, text};

/// Starts a program and reads its log until it listens: it, and its address.
fn start(mut command: Command) -> (Child, String) {
    let mut child = command.stderr(Stdio::piped()).spawn().expect("it can be started");
    let log = BufReader::new(child.stderr.take().expect("its standard error is a pipe"));
    let lines = log.lines().map(|line| line.expect("a line"));
    let mut lines = lines.map(|line| serde_json::from_str::<Value>(&line).expect("a log line"));
    let listening = lines.find(|line| line["message"] == "listening").expect("it listens");
    (child, text(&listening, "address"))
}

fn terminated(mut child: Child) -> Option<i32> {
    let pid = child.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().expect("kill runs").success());
    child.wait().expect("it is our child").code()
}

#[test]
fn a_log_that_nobody_reads_stops_nothing() {
    let mut serve = program("callout-server");
    serve.args(["serve", "--listen", "127.0.0.1:0"]);
    let (server, at) = start(serve);

    let hop = NextHop::start();
    let next_hop = format!("127.0.0.1:{}", hop.port);
    let mut smtp = program("opes-mta");
    smtp.args(["smtp", "--listen", "127.0.0.1:0", "--next-hop", &next_hop]);
    smtp.args(["--server", &at, "--services", "log"]);
    let (proxy, address) = start(smtp);

    let (_, port) = address.rsplit_once(':').expect("a port");
    let mut client = Client::greeted(port.parse().expect("a number"));
    let reply = client.mail("a@a.example", &["b@b.example"], b"Subject: unread\r\n\r\ntext\r\n");
    assert!(reply.starts_with("250"), "{reply}");
    client.say("QUIT");
    assert_eq!(hop.wait_for(1).len(), 1);

    assert_eq!(terminated(proxy), Some(0));
    assert_eq!(terminated(server), Some(0));
}
