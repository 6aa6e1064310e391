//! STARTTLS with next hops that have it, have it not, or have somebody in between.

#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing)]

use std::io::Read;
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;

use opes_mta::relay::{Cause, Connection, Stage, TlsPolicy};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use tempfile::{TempDir, tempdir};
use tests::certificates::Authority;

#[path = "support/next_hop.rs"]
mod next_hop;

use next_hop::{Peer, serve, serve_one};

fn certificates() -> TempDir {
    let folder = tempdir().unwrap();
    let authority = Authority::new(folder.path(), "ca");
    authority.sign("mx", &["mx.example"]);
    authority.sign("other", &["other.example"]);
    authority.sign_expired("expired", &["mx.example"]);
    Authority::new(folder.path(), "stranger").sign("false", &["mx.example"]);
    folder
}

fn config(folder: &Path, name: &str) -> Arc<ServerConfig> {
    let certificate = CertificateDer::from_pem_file(folder.join(format!("{name}.pem"))).unwrap();
    let key = PrivateKeyDer::from_pem_file(folder.join(format!("{name}.key"))).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key);
    Arc::new(config.unwrap())
}

fn require(folder: &Path) -> TlsPolicy {
    TlsPolicy::require(&folder.join("ca.pem"), None, Some("mx.example")).unwrap()
}

/// Greets, takes STARTTLS, and goes on over TLS; what is heard there.
fn secured(mut peer: Peer, config: Arc<ServerConfig>) -> Vec<String> {
    peer.greet(&["STARTTLS", "XPLAIN"]);
    peer.answer("STARTTLS", "220 go on");
    let connection = ServerConnection::new(config).unwrap();
    let mut peer = Peer::new(StreamOwned::new(connection, peer.into_stream()));
    let mut heard = vec![peer.line()];
    if heard[0].is_empty() {
        return heard;
    }
    peer.offer(&["SIZE 7"]);
    heard.push(peer.line());
    peer.say("221 bye");
    heard
}

#[tokio::test]
async fn behind_tls_the_next_hop_says_anew_what_it_offers() {
    for (policy, name) in [("require", "mx"), ("may", "mx"), ("may", "false"), ("may", "expired")] {
        let folder = certificates();
        let config = config(folder.path(), name);
        let mut script = serve_one(|peer| secured(peer, config));
        script.next_hop.tls = match policy {
            "require" => require(folder.path()),
            _ => TlsPolicy::may().unwrap(),
        };
        let connection = Connection::open(&script.next_hop()).await.unwrap();
        assert!(connection.is_secured());
        assert_eq!(connection.extensions().maximum_size(), Some(7));
        assert!(!connection.extensions().offers("XPLAIN"), "that was plain text");
        connection.quit().await;
        assert_eq!(script.ended().await, [["EHLO mta.example", "QUIT"]], "{policy} {name}");
    }
}

#[tokio::test]
async fn what_was_offered_in_plain_text_is_forgotten_at_once() {
    let folder = certificates();
    let config = config(folder.path(), "mx");
    let mut script = serve_one(|peer| secured(peer, config));
    script.next_hop.tls = require(folder.path());
    let mut connection = Connection::connect(&script.next_hop()).await.unwrap();
    connection.hello("mta.example").await.unwrap();
    assert!(connection.extensions().offers("XPLAIN"));
    connection.start_tls().await.unwrap();
    assert_eq!(connection.extensions().lines().count(), 0);
    assert_eq!(connection.hello_reply(), None);
    drop(connection);
    script.ended().await;
}

#[tokio::test]
async fn a_certificate_that_is_required_has_to_be_right() {
    for (name, cause) in [
        ("other", "not valid for name"),
        ("expired", "certificate expired"),
        ("false", "invalid peer certificate"),
    ] {
        let folder = certificates();
        let config = config(folder.path(), name);
        let mut script = serve_one(|peer| secured(peer, config));
        script.next_hop.tls = require(folder.path());
        let error = Connection::open(&script.next_hop()).await.unwrap_err();
        let text = error.to_string();
        assert!(text.contains("the handshake failed") && text.contains(cause), "{text}");
        assert_eq!((error.stage, error.is_permanent()), (Stage::Handshake, false));
        assert_eq!(error.status().to_string(), "4.7.5");
        assert_eq!(script.ended().await, [[""]], "nothing was said");
    }
}

#[tokio::test]
async fn who_has_no_tls_gets_plain_text_or_nothing() {
    for is_required in [false, true] {
        for offers in [false, true] {
            let folder = certificates();
            let mut script = serve_one(move |mut peer| {
                peer.greet(if offers { &["STARTTLS"] } else { &[] });
                if offers {
                    peer.answer("STARTTLS", "454 4.7.0 not now");
                }
                peer.answer("QUIT", "221 bye");
            });
            script.next_hop.tls =
                if is_required { require(folder.path()) } else { TlsPolicy::may().unwrap() };
            match (Connection::open(&script.next_hop()).await, offers) {
                (Ok(connection), _) => {
                    assert!(!is_required && !connection.is_secured());
                    connection.quit().await;
                }
                (Err(error), true) => {
                    assert!(is_required, "{error}");
                    let reply = error.reply().expect("it is a refusal");
                    assert_eq!((error.stage, reply.code()), (Stage::StartTls, 454));
                }
                (Err(error), false) => {
                    assert!(is_required && matches!(error.cause, Cause::NoTls), "{error}");
                }
            }
            script.ended().await;
        }
    }
}

#[tokio::test]
async fn plain_text_behind_the_answer_ends_the_connection() {
    let folder = certificates();
    let mut script = serve_one(|mut peer| {
        peer.greet(&["STARTTLS"]);
        peer.answer("STARTTLS", "220 go on\n250-mx.example\n250 XEVIL");
        peer.rest()
    });
    script.next_hop.tls = require(folder.path());
    let error = Connection::open(&script.next_hop()).await.unwrap_err();
    assert!(matches!(error.cause, Cause::PlainText), "{error}");
    assert_eq!(script.ended().await, [""], "no octet followed");
}

#[tokio::test]
async fn where_tls_may_be_used_and_fails_plain_text_is_tried_anew() {
    let broken = |mut peer: Peer<TcpStream>| {
        peer.greet(&["STARTTLS"]);
        peer.answer("STARTTLS", "220 go on");
        // The first octet of the handshake, to something that is no TLS.
        let mut stream = peer.into_stream();
        stream.read_exact(&mut [0]).unwrap();
        Peer::new(stream).say("500 what");
    };
    let plain = |mut peer: Peer| {
        peer.greet(&["STARTTLS"]);
        peer.answer("QUIT", "221 bye");
    };
    let mut script = serve(vec![Box::new(broken), Box::new(plain)]);
    script.next_hop.tls = TlsPolicy::may().unwrap();
    let connection = Connection::open(&script.next_hop()).await.unwrap();
    assert!(!connection.is_secured());
    connection.quit().await;
    script.ended().await;
}
