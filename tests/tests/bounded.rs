//! What a running `callout-server` uses: for connections that do nothing, and after transactions that
//! came to nothing.

#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing)]

use std::thread;

use tempfile::tempdir;
use tests::peer::{Peer, clean_session, data, message, opening, transact};
use tests::{CalloutServer, allow_open_files, memory_is_back, not_run};

const MIB: u64 = 1024 * 1024;

/// Connections that have negotiated, opened a group and a dialog, and wait.
#[test]
fn ten_thousand_idle_connections() {
    const CONNECTIONS: usize = 10_000;
    if !allow_open_files(CONNECTIONS + 200) {
        return not_run(
            "ten_thousand_idle_connections",
            "the system does not allow so many open files",
        );
    }
    let folder = tempdir().unwrap();
    let config = "[limits]\nconnections = 10100\n\
        [log]\nlevel = \"warn,callout_server::commands=info\"\n";
    let mut server = CalloutServer::start(folder.path(), config, &[]);
    let start = server.memory();
    let mut peers = Vec::with_capacity(CONNECTIONS);
    // Some at a time, so that the queue of new connections never overflows.
    for _ in 0..CONNECTIONS / 100 {
        let mut some: Vec<Peer> = (0..100).map(|_| Peer::connect(server.address())).collect();
        for peer in &mut some {
            peer.send(opening(&["mail-from", "virus-scan"]).concat());
        }
        for peer in &mut some {
            peer.synchronise();
        }
        peers.append(&mut some);
    }
    let idle = server.memory();
    let each = (idle - start) / CONNECTIONS as u64;
    println!("{CONNECTIONS} idle connections: {} KiB in all, {each} octets each", idle / 1024);
    assert!(idle < 120 * MIB, "{idle} octets for {CONNECTIONS} idle connections");
    // Every one of them is alive.
    for peer in peers.iter_mut().step_by(97) {
        transact(peer, 1);
    }
    let after = server.memory();
    println!("{} KiB after a transaction on every 97th", after / 1024);
    assert!(after < 120 * MIB, "{after} octets");
    server.terminate();
    let stopping = server.wait_for("stopping: open dialogs may end");
    assert_eq!(stopping["dialogs"], CONNECTIONS);
    for mut peer in peers {
        peer.read_message("Dialog-Drain;\r\n");
        peer.send("Dialog-End 1;\r\n");
    }
    assert_eq!(server.ended().0, Some(0));
}

/// Where a transaction is broken off.
#[derive(Clone, Copy, Debug)]
enum End {
    /// TE 400, and the connection goes on.
    Transaction,
    /// Dialog-End, and the connection goes on.
    Dialog,
    /// The connection is broken off.
    Connection,
}

/// 5,000 transactions are broken off by their processor at every place, also while services work.
/// Then there is room for as much as before.
#[test]
fn broken_off_transactions_leave_nothing_behind() {
    const WORKERS: usize = 10;
    // The allocator's arenas and the server's threads grow to what the load needs.
    const WARM_UP: usize = 5_000;
    const TRANSACTIONS: usize = 5_000;
    // Room for one message of this size, and nothing more.
    const ROOM: usize = 8 * MIB as usize;
    let folder = tempdir().unwrap();
    let config = format!(
        "[limits]\ncontent-octets = {ROOM}\n[log]\nlevel = \"error,callout_server::commands=info\"\n"
    );
    let server = CalloutServer::start(folder.path(), &config, &[]);
    let break_off = |range: std::ops::Range<usize>| {
        thread::scope(|scope| {
            for worker in 0..WORKERS {
                let address = server.address();
                let numbers = range.clone().filter(move |number| number % WORKERS == worker);
                scope.spawn(move || break_off(address, numbers));
            }
        });
    };
    break_off(0..WARM_UP);
    let fill = |server: &CalloutServer| {
        // The last broken connections may still be on their way out.
        let header = "Subject: x\r\n\r\n";
        let body = "x".repeat(ROOM - header.len());
        let mut peer = Peer::open(server.address(), &["log"]);
        for xid in 1..1_000 {
            peer.send(message(xid, 1, header, &body, true).concat());
            let answer = peer.read_message(&format!("TE {xid}"));
            if answer.ends_with(&format!("TE {xid};\r\n")) {
                return;
            }
            assert!(answer.contains("works on too much content"), "{answer}");
        }
        panic!("the room for content is not free again");
    };
    clean_session(server.address());
    let before = server.memory();
    break_off(WARM_UP..WARM_UP + TRANSACTIONS);
    memory_is_back(&server, before);
    fill(&server);
    clean_session(server.address());
    server.terminate();
    let (code, lines) = server.ended();
    assert_eq!(code, Some(0));
    let stopping = lines.iter().find(|line| line["dialogs"].is_u64()).unwrap();
    assert_eq!(stopping["dialogs"], 0, "{stopping}");
    assert!(lines.iter().all(|line| line["level"] != "ERROR" && line.is_object()), "{lines:#?}");
}

/// Breaks off a transaction for each number, which says where and how.
fn break_off(address: &str, numbers: impl Iterator<Item = usize>) {
    let services = ["virus-scan", "spam-score", "mime-strip"];
    let body = "A line of the body.\r\n".repeat(400);
    let mut connection: Option<(Peer, u32)> = None;
    for number in numbers {
        let (mut peer, xid) = match connection.take() {
            Some((peer, last)) => (peer, last + 1),
            None => (Peer::open(address, &services), 1),
        };
        let mut dialog = 1;
        if xid > 1 {
            dialog = xid;
            peer.send(tests::peer::dialog(dialog));
        }
        let mut messages = message(xid, dialog, "Subject: x\r\n\r\n", &body, number % 2 == 0);
        messages.insert(3, data(xid, 14, "message-header", "", false));
        let end = [End::Transaction, End::Dialog, End::Connection][number % 3];
        // From TS alone to all of it, when the services begin; broken off in the last message, or
        // behind it.
        let mut octets = messages[..1 + number / 6 % messages.len()].concat();
        if matches!(end, End::Connection) && number % 4 < 2 {
            octets.truncate(octets.len() - 1 - number % 5);
        }
        peer.send(octets);
        match end {
            End::Transaction => peer.send(format!("TE {xid} {{400 \"4:away\"}};\r\n")),
            End::Dialog => peer.send(format!("Dialog-End {dialog};\r\n")),
            End::Connection if number % 2 == 0 => {
                peer.reset();
                continue;
            }
            End::Connection => continue,
        }
        if matches!(end, End::Transaction) {
            peer.send(format!("Dialog-End {dialog};\r\n"));
        }
        peer.synchronise();
        connection = Some((peer, xid));
    }
}
