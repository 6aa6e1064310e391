//! Sessions that were valid before something happened to their octets, against a running
//! `callout-server`: it stays up, and keeps nothing.

#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tempfile::tempdir;
use tests::peer::{Peer, clean_session, command, data, dialog, message, opening, outcome};
use tests::random::Random;
use tests::{CalloutServer, memory_is_back};

/// Sessions before memory is measured for the first time: until then the allocator's arenas, the
/// threads and the tables of the server grow to what this many connections need.
const WARM_UP: u64 = 10_000;

/// Sessions after that.
const SESSIONS: u64 = 20_000;

/// Connections at a time.
const WORKERS: usize = 64;

/// What a session may do to be over before it is broken off: a mutation may have made the rest of it a
/// payload that never ends.
const QUIET: Duration = Duration::from_millis(100);

/// Valid sessions, as messages.
fn sessions() -> Vec<Vec<Vec<u8>>> {
    let header = "From: <steve@example.org>\r\nSubject: hello\r\nMIME-Version: 1.0\r\n\
        Content-Type: multipart/mixed; boundary=b\r\n\r\n";
    let body = "--b\r\n\r\ntext\r\n--b\r\nContent-Type: application/octet-stream\r\n\
        Content-Transfer-Encoding: base64\r\nContent-Disposition: attachment; filename=x.exe\r\n\r\n\
        TVqQAAMAAAAEAAAA\r\n--b--\r\n";
    let groups: [&[&str]; 6] = [
        &["log"],
        &["mail-from", "virus-scan"],
        &["spam-score"],
        &["mime-strip", "spam-score"],
        &["mail-from", "virus-scan", "mime-strip", "spam-score", "log"],
        &["nothing"],
    ];
    let mut sessions = Vec::new();
    for services in groups {
        for kept in [true, false] {
            let mut whole = opening(services);
            whole.extend(command(1, 1, "MAIL FROM:<steve@example.org> SIZE=100", kept));
            whole.push(outcome(1, 1));
            // Each on a dialog of its own, since nobody waits for the answers.
            whole.push(dialog(2));
            whole.extend(command(2, 2, "RCPT TO:<paul@example.com>", kept));
            whole.push(outcome(2, 2));
            whole.push(dialog(3));
            whole.push(
                b"Dialog-Update 3\r\nHelo: \"18:client.example.net\"\r\nAuth: {PLAIN steve}\r\n;\r\n"
                    .to_vec(),
            );
            whole.extend(message(3, 3, header, body, kept));
            whole.push(outcome(3, 3));
            whole.push(b"Dialog-End 3;\r\n".to_vec());
            sessions.push(whole);
            let mut content = opening(services);
            content.extend(message(1, 1, header, body, kept));
            content.push(b"PQ 1;\r\n".to_vec());
            sessions.push(content);
            let mut pieces = opening(services);
            let whole = message(1, 1, header, body, kept);
            pieces.extend_from_slice(&whole[..2]);
            for (at, octet) in header.char_indices() {
                pieces.push(data(1, at, "message-header", &octet.to_string(), kept));
            }
            pieces.push(b"DPI 1 0 2147483647;\r\n".to_vec());
            pieces.push(b"TE 1 {400 \"4:away\"};\r\n".to_vec());
            pieces.push(b"SGD 1;\r\n".to_vec());
            sessions.push(pieces);
        }
    }
    sessions
}

/// A valid session after one to four mishaps.
fn mutated(sessions: &[Vec<Vec<u8>>], seed: u64) -> Vec<u8> {
    let mut random = Random::new(seed);
    let mut messages = sessions[random.below(sessions.len())].clone();
    let mishaps = 1 + random.below(4);
    for _ in 0..mishaps {
        let at = random.below(messages.len());
        match random.below(8) {
            0 => drop(messages.remove(at)),
            1 => messages.insert(at, messages[random.below(messages.len())].clone()),
            2 => {
                let other = random.below(messages.len());
                messages.swap(at, other);
            }
            3 => {
                let other = &sessions[random.below(sessions.len())];
                messages.truncate(at);
                messages.extend_from_slice(&other[random.below(other.len())..]);
            }
            _ => damage(&mut messages[at], &mut random),
        }
        if messages.is_empty() {
            messages.push(b"CS;\r\n".to_vec());
        }
    }
    messages.concat()
}

/// Changes some octets of a message.
fn damage(octets: &mut Vec<u8>, random: &mut Random) {
    let at = random.below(octets.len());
    let end = octets.len().min(at + 1 + random.below(16));
    match random.below(6) {
        0 if at < octets.len() => octets[at] ^= 1 << random.below(8),
        1 => drop(octets.drain(at..end)),
        2 => {
            let again = octets[at..end].to_vec();
            octets.splice(at..at, again);
        }
        3 => {
            let inserted = [b'(', b')', b'{', b'}', b'"', b':', b';', b' ', b'\r', b'\n', 0, 255];
            octets.insert(at, inserted[random.below(inserted.len())]);
        }
        _ => {
            // The number behind that place.
            let digit = |octet: &u8| octet.is_ascii_digit();
            let Some(start) = octets[at..].iter().position(digit) else { return };
            let start = at + start;
            let length = octets[start..].iter().take_while(|octet| digit(octet)).count();
            let numbers = ["0", "1", "2", "3", "7", "00", "65536", "2147483647", "2147483648", ""];
            let number = numbers[random.below(numbers.len())];
            octets.splice(start..start + length, number.bytes());
        }
    }
}

/// Sends a session and reads until it is over, or quiet; whether it was over by itself. `ends` is
/// whether the session says that it is over, so that the services work in vain.
fn play(address: &str, octets: &[u8], ends: bool) -> bool {
    let mut peer = Peer::connect(address);
    // The server may end the connection before it has read everything.
    let _ = peer.try_send(octets);
    if ends {
        let _ = peer.try_send("CE;\r\n");
    }
    peer.end_when_quiet(QUIET)
}

/// Plays the sessions with these seeds, many at a time.
fn play_all(address: &str, sessions: &Arc<Vec<Vec<Vec<u8>>>>, seeds: std::ops::Range<u64>) {
    let next = Arc::new(AtomicU64::new(seeds.start));
    let over = Arc::new(AtomicU64::new(0));
    let started = Instant::now();
    let workers: Vec<_> = (0..WORKERS)
        .map(|_| {
            let (next, over) = (next.clone(), over.clone());
            let (sessions, address) = (sessions.clone(), address.to_owned());
            std::thread::spawn(move || {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        break;
                    }
                    if play(&address, &mutated(&sessions, seed), seed % 4 != 0) {
                        over.fetch_add(1, Ordering::Relaxed);
                    }
                }
            })
        })
        .collect();
    for worker in workers {
        worker.join().unwrap();
    }
    let (count, took) = (seeds.end - seeds.start, started.elapsed());
    let rate = count as f64 / took.as_secs_f64();
    let over = over.load(Ordering::Relaxed);
    println!("{count} sessions in {took:.1?}, {rate:.0} a second; {over} were ended by the server");
}

/// OPES-3837-2-01, OPES-3837-3.1-01
#[test]
fn the_server_stays_up_and_keeps_nothing() {
    let folder = tempdir().unwrap();
    let config = "[log]\nlevel = \"warn,callout_server::commands=info\"\n";
    let server = CalloutServer::start(folder.path(), config, &[]);
    let sessions = Arc::new(sessions());
    for session in sessions.iter() {
        // What is mutated was valid.
        let mut peer = Peer::connect(server.address());
        peer.send(session.concat());
        let answer = peer.synchronise();
        assert!(!answer.contains("CE") && !answer.contains("Dialog-End"), "{answer}");
    }
    // So do the buffers of connections that are all in the middle of a message.
    let mut held: Vec<Peer> =
        (0..2 * WORKERS).map(|_| Peer::open(server.address(), &["log"])).collect();
    for peer in &mut held {
        peer.send("Dialog-Upd");
    }
    clean_session(server.address());
    drop(held);
    play_all(server.address(), &sessions, 0..WARM_UP);
    clean_session(server.address());
    let before = server.memory();
    play_all(server.address(), &sessions, WARM_UP..WARM_UP + SESSIONS);
    clean_session(server.address());
    memory_is_back(&server, before);

    server.terminate();
    let (code, lines) = server.ended();
    assert_eq!(code, Some(0), "{:#?}", lines.last());
    let stopping = lines.iter().find(|line| line["dialogs"].is_u64()).unwrap();
    assert_eq!(stopping["dialogs"], 0, "{stopping}");
    for line in &lines {
        let broken = !line.is_object() || line["stage"] == "panic" || line["level"] == "ERROR";
        assert!(!broken, "{line}");
    }
    let broke = lines.iter().filter(|line| line["message"] == "the peer broke a rule").count();
    println!("{broke} of them broke a rule");
    assert!(broke as u64 > SESSIONS / 10, "only {broke} sessions were broken");
}
