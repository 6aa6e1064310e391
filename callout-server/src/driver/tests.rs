//! Time and back-pressure, over pipes in memory and a clock that only runs when all wait.

use std::path::Path;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use ocp_proto::smtp::Command;
use services::{Declaration, Outcome, Registry, Request, Service, ServiceError};
use tokio::io::DuplexStream;
use tokio::task::JoinHandle;

use super::*;
use crate::config::Config;
use crate::router::Entry;

struct Hanging;

impl Service for Hanging {
    fn declaration(&self) -> Declaration {
        Declaration::on([Command::Connect])
    }

    fn handle<'a>(&'a self, _request: &'a Request) -> BoxFuture<'a, Result<Outcome, ServiceError>> {
        std::future::pending().boxed()
    }
}

fn start(config: &str, pipe: usize) -> (DuplexStream, JoinHandle<()>) {
    let mut config = Config::parse(config, Path::new(""), &Registry::default()).unwrap();
    let entry = Entry::new("hang", "", Arc::new(Hanging), Duration::from_secs(25));
    config.router.add(entry).unwrap();
    let server = Arc::new(Server::new(config));
    let (peer, stream) = tokio::io::duplex(pipe);
    let id = server.next_connection();
    (peer, tokio::spawn(drive(stream, id, server, CancellationToken::new())))
}

async fn read_until(peer: &mut DuplexStream, end: &str) -> String {
    let mut read = Vec::new();
    while !read.ends_with(end.as_bytes()) {
        let so_far = String::from_utf8_lossy(&read).into_owned();
        assert_ne!(peer.read_buf(&mut read).await.unwrap(), 0, "no {end:?} in {so_far:?}");
    }
    String::from_utf8(read).unwrap()
}

const HELLO: &[u8] = b"CS;\r\nNO ({\"17:ocp://smtp/dialog\"});\r\n";

#[tokio::test(start_paused = true)]
async fn the_peer_hears_that_a_slow_service_is_still_at_work() {
    let (mut peer, served) = start("", 1024);
    peer.write_all(HELLO).await.unwrap();
    let rest = "SGC 1 ({\"18:ocp://service/hang\"});\r\nNO ({\"18:ocp://smtp/command\"\r\n\
        Commands: (CONNECT)\r\n})\r\nSG: 1\r\n;\r\nDialog-Start 1;\r\n\
        TS 1 1;\r\nAMS 1\r\nDialog: 1\r\nCommand: CONNECT\r\n;\r\nAME 1;\r\n";
    peer.write_all(rest.as_bytes()).await.unwrap();
    let begun = tokio::time::Instant::now();
    let mut heard = Vec::new();
    for _ in 0..2 {
        let end = read_until(&mut peer, "PR 1;\r\n").await;
        heard.push((begun.elapsed().as_secs(), end.ends_with("PR 1;\r\n")));
    }
    assert_eq!(heard, [(10, true), (20, true)]);
    let answer = read_until(&mut peer, "TE 1;\r\n").await;
    assert_eq!(begun.elapsed().as_secs(), 25);
    assert!(answer.contains("421 4.3.0 Mail inspection is not available now"), "{answer}");
    peer.write_all(b"CE;\r\n").await.unwrap();
    drop(peer);
    served.await.unwrap();
}

/// A message may be larger than what is read at a time, and than what fits a pipe.
#[tokio::test(start_paused = true)]
async fn a_message_is_read_up_to_its_limit() {
    let (mut peer, served) = start("[limits]\nhead-octets = 200000\n", 1024);
    peer.write_all(HELLO).await.unwrap();
    let large = format!("Nonsense \"190000:{}\";\r\nPQ;\r\n", "x".repeat(190_000));
    peer.write_all(large.as_bytes()).await.unwrap();
    read_until(&mut peer, "PA;\r\n").await;
    peer.write_all(b"CE;\r\n").await.unwrap();
    drop(peer);
    served.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_flood_keeps_nobody_else_waiting() {
    let pipe = 2 * 1024 * 1024;
    let (mut flooding, _served) = start("", pipe);
    let (mut other, _also_served) = start("", pipe);
    for peer in [&mut flooding, &mut other] {
        peer.write_all(HELLO).await.unwrap();
        peer.write_all(b"PQ;\r\n").await.unwrap();
        read_until(peer, "PA;\r\n").await;
    }
    let dialogs = (1..30_000).map(|n| format!("Dialog-Start {n};\r\nDialog-End {n};\r\n"));
    let flood = dialogs.collect::<String>() + "PQ;\r\n";
    flooding.write_all(flood.as_bytes()).await.unwrap();
    other.write_all(b"PQ;\r\n").await.unwrap();
    read_until(&mut other, "PA;\r\n").await;
    assert!(flooding.read_u8().now_or_never().is_none(), "the flood was worked off first");
    read_until(&mut flooding, "PA;\r\n").await;
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_does_not_read_is_not_read_either() {
    let (mut peer, served) = start("[limits]\nunsent-octets = 1000\n", 512);
    peer.write_all(HELLO).await.unwrap();
    // Each PQ has 5 octets and so has its answer; what neither pipe nor limits hold has to wait.
    let mut sent = 0;
    while let Ok(written) = timeout(Duration::from_secs(1), peer.write_all(b"PQ;\r\n")).await {
        written.unwrap();
        sent += 1;
        assert!(sent < 20_000, "all was taken");
    }
    // Once it reads, everything is answered.
    let mut answers = String::new();
    while answers.matches("PA;").count() < sent {
        answers += &read_until(&mut peer, ";\r\n").await;
    }
    drop(peer);
    served.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_never_reads_is_given_up() {
    let (mut peer, served) = start("[limits]\nunsent-octets = 1000\n", 512);
    peer.write_all(HELLO).await.unwrap();
    let begun = tokio::time::Instant::now();
    // What the pipes hold, and then one write a second.
    for _ in 0..2_000 {
        if served.is_finished() {
            break;
        }
        let _ = timeout(Duration::from_secs(1), peer.write_all(b"PQ;\r\n")).await;
    }
    assert!(served.is_finished() && begun.elapsed().as_secs() < 160);
    assert!(begun.elapsed().as_secs() >= 120);
}

/// Ten thousand of them stand around idle.
#[test]
fn a_connection_takes_little_room() {
    let server =
        Arc::new(Server::new(Config::parse("", Path::new(""), &Registry::default()).unwrap()));
    let (_peer, stream) = tokio::io::duplex(1);
    let id = server.next_connection();
    let size = size_of_val(&drive(stream, id, server, CancellationToken::new()));
    assert!(size <= 2_048, "{size} octets");
}
