//! Negotiated TLS with servers that keep to no rule (profile section 9).

#![allow(missing_docs, clippy::unwrap_used)]

use std::io::{Read, Write};
use std::net::TcpListener;

use opes_mta::front::file;
use opes_mta::ocp::{Client, ConnectError, Target, Tls, TlsNegotiation, TlsSettings};
use tempfile::tempdir;
use tests::certificates::Authority;

const OFFER: &str = "CS;\r\nNO ({\"44:http://www.iana.org/assignments/opes/ocp/tls\"});\r\n";
const ACCEPTED: &str = "CS;\r\nNR {\"44:http://www.iana.org/assignments/opes/ocp/tls\"};\r\n";

/// What a client says to a server that answers its offer of TLS so, and why it gives up.
async fn answered(negotiation: TlsNegotiation, answer: &str) -> (String, String) {
    let folder = tempdir().unwrap();
    let _authority = Authority::new(folder.path(), "ca");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = listener.local_addr().unwrap().to_string().parse().unwrap();
    let answer = answer.to_owned();
    let heard = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut offer = vec![0; OFFER.len()];
        stream.read_exact(&mut offer).unwrap();
        assert_eq!(String::from_utf8(offer).unwrap(), OFFER);
        stream.write_all(answer.as_bytes()).unwrap();
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).unwrap();
        String::from_utf8_lossy(&rest).into_owned()
    });
    let ca = folder.path().join("ca.pem");
    let settings = TlsSettings { negotiation, ca, ..TlsSettings::default() };
    let tls = Some(Tls::new(&settings).unwrap());
    let target = Target { tls, ..file::target(server, vec!["ocp://service/log".to_owned()]) };
    let error = Client::connect(&target).await.unwrap_err();
    let ConnectError::Tls { cause, .. } = error else { panic!("{error}") };
    (tokio::task::spawn_blocking(|| heard.join().unwrap()).await.unwrap(), cause)
}

#[tokio::test]
async fn plain_text_behind_the_answer_ends_the_connection() {
    for negotiation in [TlsNegotiation::Offer, TlsNegotiation::Required] {
        let answer = format!("{ACCEPTED}Dialog-Drain;\r\n");
        let (heard, cause) = answered(negotiation, &answer).await;
        assert!(cause.contains("octets behind the NO or NR that starts TLS"), "{cause}");
        assert!(heard.starts_with("CE {400 "), "{heard}");
    }
}

#[tokio::test]
async fn a_server_that_agrees_and_then_speaks_plain_text_is_left() {
    // The same octets, late enough to be taken for the handshake.
    let folder = tempdir().unwrap();
    let _authority = Authority::new(folder.path(), "ca");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = listener.local_addr().unwrap().to_string().parse().unwrap();
    let peer = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.read_exact(&mut vec![0; OFFER.len()]).unwrap();
        stream.write_all(ACCEPTED.as_bytes()).unwrap();
        // The first octet of the handshake.
        stream.read_exact(&mut [0]).unwrap();
        stream.write_all(b"Dialog-Drain;\r\n").unwrap();
        let _ = stream.read_to_end(&mut Vec::new());
    });
    let settings = TlsSettings { ca: folder.path().join("ca.pem"), ..TlsSettings::default() };
    let tls = Some(Tls::new(&settings).unwrap());
    let target = Target { tls, ..file::target(server, vec!["ocp://service/log".to_owned()]) };
    let error = Client::connect(&target).await.unwrap_err();
    assert!(error.to_string().contains("the handshake failed"), "{error}");
    tokio::task::spawn_blocking(|| peer.join().unwrap()).await.unwrap();
}

#[tokio::test]
async fn a_required_tls_that_is_declined_ends_the_connection() {
    for answer in ["CS;\r\nNR;\r\n", "CS;\r\nNR Unknowns: ({\"3:x:y\"});\r\n"] {
        let answer = answer.replace("NR Unknowns", "NR\r\nUnknowns").replace("});", "})\r\n;");
        let (heard, cause) = answered(TlsNegotiation::Required, &answer).await;
        assert!(cause.contains("it does not accept TLS, which is required"), "{cause}");
        assert_eq!(heard, "CE {400 \"15:TLS is required\"};\r\n");
    }
}

#[tokio::test]
async fn a_server_that_hangs_up_or_closes_says_so() {
    let closed = answered(TlsNegotiation::Offer, "CS;\r\nCE {400 \"4:busy\"};\r\n").await;
    assert_eq!(closed.1, "it closed it: busy");
}
