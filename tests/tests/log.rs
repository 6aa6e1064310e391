//! The log: a line is there before the answer that it speaks of, and where whoever read it has gone, mail goes on, and both
//! programs end when they are told to.

#![allow(missing_docs)]

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::Value;
use tests::peer::{Peer, command};
use tests::smtp::{Client, NextHop};
use tests::{PATIENCE, program, text};

/// Starts a program and reads its log until it listens: it, and its address.
fn start(mut command: Command) -> (Child, String) {
    let mut child = command.stderr(Stdio::piped()).spawn().expect("it can be started");
    let log = BufReader::new(child.stderr.take().expect("its standard error is a pipe"));
    let lines = log.lines().map(|line| line.expect("a line"));
    let mut lines = lines.map(|line| serde_json::from_str::<Value>(&line).expect("a log line"));
    let listening = lines.find(|line| line["message"] == "listening").expect("it listens");
    (child, text(&listening, "address"))
}

/// Ends with the test.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
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

#[test]
fn an_answer_is_in_the_log_before_it_is_known_elsewhere() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("log");
    let log = || fs::read_to_string(&path).expect("the log is text");
    let mut serve = program("callout-server");
    serve.args(["serve", "--listen", "127.0.0.1:0"]);
    serve.stderr(File::create(&path).expect("the log can be made"));
    let _server = Killed(serve.spawn().expect("it can be started"));
    let deadline = Instant::now() + PATIENCE;
    let at = loop {
        if let Some(line) = log().lines().find(|line| line.contains("\"listening\"")) {
            break text(&serde_json::from_str(line).expect("a log line"), "address");
        }
        assert!(Instant::now() < deadline, "it does not listen: {}", log());
        sleep(Duration::from_millis(10));
    };
    let mut peer = Peer::open(&at, &["log"]);
    // More than is read at once, so that the server goes on while we look.
    let last = 2_000;
    let rcpt = |xid| command(xid, 1, "RCPT TO:<b@b.example>", true).concat();
    peer.send((1..=last).map(rcpt).collect::<Vec<_>>().concat());
    let mut answered = 0;
    while answered < last {
        assert!(peer.read().expect("answers come") > 0, "the server left after {answered}");
        let came = String::from_utf8_lossy(peer.unread());
        let Some((_, end)) = came.rsplit_once("\r\nTE ") else { continue };
        let Some((xid, _)) = end.split_once(';') else { continue };
        answered = xid.parse().expect("the id of a transaction");
        let log = log();
        for message in ["event", "adapted"] {
            let (message, xid) = (format!("\"message\":\"{message}\""), format!("\"xid\":{xid},"));
            let is_there = log.lines().any(|line| line.contains(&message) && line.contains(&xid));
            assert!(is_there, "{message} of {xid} is not in the log");
        }
    }
}
