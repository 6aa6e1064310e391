//! Time and back-pressure, over pipes in memory and a clock that only runs when all wait.

use std::path::Path;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use ocp_proto::smtp::Command;
use rustls::crypto::ring;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use services::{Declaration, Outcome, Registry, Request, Service, ServiceError};
use tokio::io::DuplexStream;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;

use super::*;
use crate::access::Origin;
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
    let access = Some(Access::default());
    (peer, tokio::spawn(drive(stream, pipe_peer(), access, id, shared(server))))
}

fn shared(server: Arc<Server>) -> Shared {
    Shared { generation: server.current(), server, stop: CancellationToken::new() }
}

fn pipe_peer() -> Peer {
    Peer::plain(Origin::Unix("pipe".into()))
}

async fn read_until(peer: &mut DuplexStream, end: &str) -> String {
    let mut read = Vec::new();
    while !read.ends_with(end.as_bytes()) {
        let so_far = String::from_utf8_lossy(&read).into_owned();
        assert_ne!(peer.read_buf(&mut read).await.unwrap(), 0, "no {end:?} in {so_far:?}");
    }
    String::from_utf8(read).unwrap()
}

/// A server with a certificate, and a client that trusts it.
fn secured(config: &str) -> (Arc<Server>, ConnectionId, TlsConnector) {
    let folder = tempfile::tempdir().unwrap();
    let authority = ::tests::certificates::Authority::new(folder.path(), "ca");
    authority.sign("server", &["ocp.example.net"]);
    let config = format!("[tls]\ncertificate = \"server.pem\"\nkey = \"server.key\"\n{config}");
    let file = folder.path().join("callout-server.toml");
    let config = Config::parse(&config, &file, &Registry::default()).unwrap();
    let server = Arc::new(Server::new(config));
    let id = server.next_connection();
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(folder.path().join("ca.pem")).unwrap()).unwrap();
    let client = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    (server, id, Arc::new(client).into())
}

/// TLS holds octets that the pipe has no room for; they go out without more to write.
#[tokio::test(start_paused = true)]
async fn what_tls_holds_back_is_sent_when_there_is_room() {
    let (server, id, client) = secured("");
    let (peer, stream) = tokio::io::duplex(16);
    let served = tokio::spawn(drive_tls(stream, pipe_peer(), id, shared(server)));
    let name = "ocp.example.net".try_into().unwrap();
    let mut peer = client.connect(name, peer).await.unwrap();
    peer.write_all(HELLO).await.unwrap();
    peer.flush().await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"dialog\"\r\nVersion: 1\r\n};\r\n") {
        let read = timeout(Duration::from_secs(1), peer.read_buf(&mut answer)).await;
        assert_ne!(read.expect("all of it comes").unwrap(), 0);
    }
    peer.shutdown().await.unwrap();
    drop(peer);
    served.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_tls_handshake_that_does_not_go_on_is_given_up() {
    let offer = "CS;\r\nNO ({\"44:http://www.iana.org/assignments/opes/ocp/tls\"});\r\n";
    // From the start, and negotiated with a peer that takes the answer or does not.
    for (begins, pipe) in [("", 1024), (offer, 1024), (offer, 64)] {
        let (server, id, _) = secured("[timeouts]\nhandshake = 7\n");
        let (mut peer, stream) = tokio::io::duplex(pipe);
        let served = match begins {
            "" => tokio::spawn(drive_tls(stream, pipe_peer(), id, shared(server))),
            _ => tokio::spawn(drive(
                stream,
                pipe_peer(),
                Some(Access::default()),
                id,
                shared(server),
            )),
        };
        let begun = tokio::time::Instant::now();
        peer.write_all(begins.as_bytes()).await.unwrap();
        served.await.unwrap();
        assert_eq!(begun.elapsed().as_secs(), 7, "{begins} {pipe}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_stops_waits_for_no_handshake() {
    let (server, id, _) = secured("");
    let (_peer, stream) = tokio::io::duplex(1024);
    let shared = shared(server);
    shared.stop.cancel();
    let begun = tokio::time::Instant::now();
    drive_tls(stream, pipe_peer(), id, shared).await;
    assert_eq!(begun.elapsed().as_secs(), 0);
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

/// Who goes on sending is not idle, and what waits for it is far below `unsent-octets`.
#[tokio::test(start_paused = true)]
async fn a_peer_that_only_sends_is_given_up() {
    for (octets, seconds) in [("", 120), ("transaction = 30\ntransaction-octets = 10\n", 30)] {
        let (mut peer, served) = start(&format!("[timeouts]\n{octets}"), 16);
        peer.write_all(HELLO).await.unwrap();
        let begun = tokio::time::Instant::now();
        while !served.is_finished() {
            tokio::time::advance(Duration::from_secs(1)).await;
            // Every message of it is complete.
            let _ = timeout(Duration::from_millis(1), peer.write_all(b"AA true;\r\n")).await;
        }
        let elapsed = begun.elapsed().as_secs();
        // Besides, its last words wait for a little.
        assert!((seconds..seconds + 10).contains(&elapsed), "{elapsed} instead of {seconds}");
        let mut left = Vec::new();
        let _ = peer.read_to_end(&mut left).await;
        assert_eq!(left.len(), 16, "it has read nothing");
    }
}

/// Ten thousand of them stand around idle.
#[test]
fn a_connection_takes_little_room() {
    let server =
        Arc::new(Server::new(Config::parse("", Path::new(""), &Registry::default()).unwrap()));
    let (_peer, stream) = tokio::io::duplex(1);
    let id = server.next_connection();
    let access = Some(Access::default());
    let size = size_of_val(&drive(stream, pipe_peer(), access, id, shared(server)));
    assert!(size <= 2_560, "{size} octets");
}
