//! `opes-mta adapt` and a server that means it ill: it ends in time, says why, and lets nothing
//! through that was not checked.

#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing)]

use std::net::TcpListener;
use std::process::{Output, Stdio};
use std::thread;

use tests::peer::{Peer, data};
use tests::{fixtures, memory, program};

/// More memory than this `opes-mta` never takes, however much the server sends or declares.
const MEMORY: u64 = 256 * 1024 * 1024;

/// What the server says before it turns hostile.
const AGREES: [&str; 3] = [
    "CS;\r\n",
    "NR {\"17:ocp://smtp/dialog\"\r\nVersion: 1\r\n};\r\n",
    "NR {\"18:ocp://smtp/command\"\r\nCommands: (MESSAGE)\r\nOn-Failure: tempfail\r\n}\r\n\
     SG: 1\r\n;\r\n",
];

/// What `opes-mta adapt` made of a server.
struct Ended {
    code: Option<i32>,
    stdout: String,
    stderr: String,
    /// Octets in use at the most, as far as it was measured.
    memory: u64,
}

impl Ended {
    fn everything(&self) -> String {
        format!("{:?} {} {}", self.code, self.stdout, self.stderr)
    }

    /// Exit code 1, and both the decision and its cause are said.
    fn failed(&self, cause: &str) {
        assert_eq!(self.code, Some(1), "{}", self.everything());
        assert!(self.everything().contains(cause), "{cause:?}: {}", self.everything());
        assert!(!self.stdout.contains("\"accept\""), "{}", self.stdout);
    }
}

/// Runs `opes-mta adapt` against a server that does `act` with its first connection, and takes no other
/// one.
fn adapt(act: impl FnOnce(&mut Peer) + Send + 'static) -> Ended {
    measured(|peer, _| {
        act(peer);
        0
    })
}

/// The same; `act` gets the process's id, and returns the octets that it used.
fn measured(act: impl FnOnce(&mut Peer, u32) -> u64 + Send + 'static) -> Ended {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let mut command = program("opes-mta");
    command.args(["adapt", "--json", "--timeout", "2", "--services", "log", "--server", &address]);
    command.arg(fixtures().join("plain.eml")).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    let pid = child.id();
    let server = thread::spawn(move || {
        let mut peer = Peer::new(listener.accept().unwrap().0);
        drop(listener);
        act(&mut peer, pid)
    });
    let Output { status, stdout, stderr } = child.wait_with_output().unwrap();
    let text = |octets: Vec<u8>| String::from_utf8_lossy(&octets).into_owned();
    let memory = server.join().unwrap();
    Ended { code: status.code(), stdout: text(stdout), stderr: text(stderr), memory }
}

/// Agrees to everything, and waits for the whole message of transaction 1.
fn agree(peer: &mut Peer) {
    peer.read_message("NO ");
    peer.send(AGREES[..2].concat());
    peer.read_message("SGC ");
    peer.read_message("NO ");
    peer.send(AGREES[2]);
    peer.read_message("AME 1");
}

/// Begins an answer and goes on with it as long as the other side takes it.
fn endless(beginning: &'static str, octets: &[u8]) -> Ended {
    let octets = octets.to_vec();
    let ended = measured(move |peer, pid| {
        agree(peer);
        peer.send(beginning);
        let (mut sent, mut highest) = (0, 0);
        while peer.try_send(&octets).is_ok() {
            sent += octets.len();
            highest = memory(pid, "VmHWM").unwrap_or(0).max(highest);
        }
        println!("{sent} octets, {} KiB at the most", highest / 1024);
        highest
    });
    assert!(ended.memory > 0 && ended.memory < MEMORY, "{} octets", ended.memory);
    ended
}

#[test]
fn a_refusal_is_said_with_its_reason() {
    let ended = adapt(|peer| {
        agree(peer);
        peer.send("AMS 1;\r\nDUY 1 0 10;\r\n");
        peer.send("TE 1 {400 \"4:busy\"};\r\n");
        let _ = peer.read();
    });
    ended.failed("busy");
}

#[test]
fn a_server_that_never_speaks() {
    adapt(|peer| while matches!(peer.read(), Ok(1..)) {}).failed("is it a callout server");
}

#[test]
fn a_server_that_never_answers_a_mail() {
    let ended = adapt(|peer| {
        agree(peer);
        while matches!(peer.read(), Ok(1..)) {}
    });
    ended.failed("no answer within 2s");
}

#[test]
fn servers_that_speak_something_else() {
    for (octets, cause) in [
        ("220 mail.example.org ESMTP\r\n", "octet 0 is '2': expected a message name"),
        ("HTTP/1.1 400 Bad Request\r\n\r\n", "octet 4 is '/'"),
        ("\x15\x03\x01\x00\x02\x02\x16", "octet 0 is 0x15: expected a message name"),
        ("TS 1 1;\r\n", "the first message is CS"),
    ] {
        let ended = adapt(move |peer| {
            peer.send(octets);
            while matches!(peer.read(), Ok(1..)) {}
        });
        ended.failed(cause);
    }
}

#[test]
fn a_server_that_hangs_up_at_every_message() {
    for count in 0..AGREES.len() {
        for part in [false, true] {
            let ended = adapt(move |peer| {
                peer.read_message("NO ");
                peer.send(AGREES[..count].concat());
                if part {
                    peer.send(&AGREES[count][..AGREES[count].len() / 2]);
                }
                if count == AGREES.len() - 1 {
                    peer.read_message("SGC ");
                }
                // RST takes nothing back that has been read.
                peer.reset_when_dropped();
            });
            assert_eq!(ended.code, Some(1), "{}", ended.everything());
            assert!(ended.stderr.contains("the connection is lost"), "{}", ended.everything());
            assert!(ended.stderr.contains("the server's log says"), "{}", ended.everything());
        }
    }
    let answer = ["AMS 1;\r\n", "DUY 1 0 10;\r\n", "DUY 1 10 20;\r\n", "AME 1;\r\n"];
    for count in 0..=answer.len() {
        let ended = adapt(move |peer| {
            agree(peer);
            peer.send(answer[..count].concat());
            peer.reset_when_dropped();
        });
        ended.failed("the connection is lost");
    }
    let ended = adapt(|peer| {
        agree(peer);
        peer.send("AMS 1;\r\nDUM 1 0\r\nAM-Part: reply\r\n\r\n100:550 ");
        peer.send("CE 200;\r\n");
        peer.end_output();
        while matches!(peer.read(), Ok(1..)) {}
    });
    ended.failed("hung up in the middle of an OCP message");
}

#[test]
fn answers_that_break_the_rules() {
    for (answer, cause) in [
        ("AMS 1;\r\nDUY 1 0 2147483647;\r\n", "DUY of octets that are not kept"),
        ("AMS 1;\r\nDUY 1 5000000 1;\r\n", "DUY of octets that are not kept"),
        ("AMS 1;\r\nDUM 1 2147483647\r\nAM-Part: reply\r\n\r\n1:x\r\n;\r\n", "gap in data offsets"),
        ("AMS 1;\r\nDUM 1 0\r\nAM-Part: reply\r\n\r\n2147483648:", "a size of at most 2147483647"),
        ("AMS 1;\r\nAME 1;\r\nAME 1;\r\nTE 1;\r\n", "AME after AME"),
        ("TE 1;\r\n", "TE before the end of the adapted message"),
        ("AMS 1;\r\nDUY 1 0 10;\r\nCE {400 \"4:busy\"};\r\n", "the server closed it: busy"),
        ("AMS 2;\r\n", "no answer within 2s"),
    ] {
        let ended = adapt(move |peer| {
            agree(peer);
            let _ = peer.try_send(answer);
            while matches!(peer.read(), Ok(1..)) {}
        });
        ended.failed(cause);
    }
}

/// A server that never stops is stopped, and what it says is not kept without end.
#[test]
fn answers_without_end() {
    endless("AMS 1;\r\n", &b"PQ;\r\n".repeat(4096)).failed("too many queries");
    let nonsense = b"Nonsense 1 2 3;\r\n".repeat(4096);
    endless("AMS 1;\r\n", &nonsense).failed("too many unknown messages");
    let empty = data(1, 0, "message-header", "", false);
    endless("AMS 1;\r\n", &empty.repeat(1024)).failed("too many messages that carry no data");
    let again = "the application message has started already";
    endless("", &b"AMS 1;\r\n".repeat(4096)).failed(again);
    let payload = "AMS 1;\r\nDUM 1 0\r\nAM-Part: message-header\r\n\r\n2147483647:";
    endless(payload, &[b'x'; 256 * 1024]).failed("octets came back");
}
