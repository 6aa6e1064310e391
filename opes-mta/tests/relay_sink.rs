//! The client of the next hop with Postfix's own servers: smtp-sink, and smtpd.

#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ocp_proto::smtp::Address;
use ocp_proto::wire::Atom;
use opes_mta::relay::{Connection, Message, NextHop, Options, Origin, Outcome, TlsPolicy};
use opes_mta::smtp::Protocol;
use opes_mta::smtp::extensions::{CHUNKING, PIPELINING};
use tempfile::{TempDir, tempdir};
use tests::certificates::Authority;
use tests::not_run;
use tests::postfix::{self, Port, Postfix};

/// A running smtp-sink, at a unix socket, that writes each message to a file.
struct Sink {
    child: Child,
    folder: TempDir,
}

impl Sink {
    fn start(options: &[&str]) -> Self {
        let folder = tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
        let mut command = Command::new("/usr/sbin/smtp-sink");
        command.args(["-u", "postfix", "-d"]).arg(folder.path().join("%M."));
        command.args(options).arg(format!("unix:{}", folder.path().join("s").display())).arg("9");
        let child = command.stdout(Stdio::null()).spawn().expect("smtp-sink runs");
        let deadline = Instant::now() + Duration::from_secs(30);
        while UnixStream::connect(folder.path().join("s")).is_err() {
            assert!(Instant::now() < deadline, "smtp-sink does not listen");
            std::thread::sleep(Duration::from_millis(5));
        }
        Self { child, folder }
    }

    fn next_hop(&self, protocol: Protocol) -> Arc<NextHop> {
        let address = format!("unix:{}", self.folder.path().join("s").display());
        Arc::new(NextHop { protocol, ..NextHop::new(address.parse().unwrap(), "mta.example") })
    }

    /// The messages that have come, each with what smtp-sink says of its envelope.
    fn messages(&self) -> Vec<String> {
        let entries = fs::read_dir(self.folder.path()).unwrap().map(|entry| entry.unwrap().path());
        let files = entries.filter(|path| !path.ends_with("s"));
        files.map(|path| fs::read_to_string(path).unwrap()).collect()
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn is_there(story: &str) -> bool {
    let is_there = postfix::is_there();
    if !is_there {
        not_run(story, "there is no Postfix, or no root to start it");
    }
    is_there
}

fn address(path: &str, parameters: &[&'static str]) -> Address {
    let parameters = parameters.iter().map(|p| Atom::from_static(p.as_bytes())).collect();
    Address::new(path.to_owned()).unwrap().with_parameters(parameters).unwrap()
}

/// Delivers over a new connection: what became of each recipient, in its reply's code or `!` and a stage.
async fn deliver(next_hop: &Arc<NextHop>, content: &[u8]) -> Vec<String> {
    let mut connection = Connection::open(next_hop).await.unwrap();
    let sender = address("<a@a.example>", &["RET=HDRS", "ENVID=id"]);
    let recipients = [address("<b@b.example>", &["NOTIFY=FAILURE"]), address("<c@c.example>", &[])];
    let size = content.len() as u64;
    let message = Message { content, size, is_eight_bit: false, has_utf8_header: false };
    let outcomes = connection.deliver(&sender, &recipients, message, Options::default()).await;
    connection.quit().await;
    outcomes
        .into_iter()
        .map(|outcome| match outcome {
            Outcome::Delivered { reply, .. } => reply.code().to_string(),
            Outcome::Deferred(error) => format!("later {}", error.stage),
            Outcome::Failed(error) => format!("never {}", error.stage),
        })
        .collect()
}

const TEXT: &[u8] = b"Subject: x\r\n\r\n.dot\r\n..\r\n.\r\nlast\r\n";

#[tokio::test]
async fn a_message_arrives_as_it_is() {
    if !is_there("messages to smtp-sink") {
        return;
    }
    let ways: [(&[&str], Protocol); 5] = [
        (&[], Protocol::Smtp),
        (&["-p"], Protocol::Smtp),
        (&["-e"], Protocol::Smtp),
        (&["-L"], Protocol::Lmtp),
        (&["-L", "-p", "-N"], Protocol::Lmtp),
    ];
    for (options, protocol) in ways {
        let sink = Sink::start(options);
        let outcomes = deliver(&sink.next_hop(protocol), TEXT).await;
        assert_eq!(outcomes, ["250", "250"], "{options:?}");
        let messages = sink.messages();
        let [message] = &messages[..] else { panic!("{messages:?}") };
        let lines = String::from_utf8_lossy(TEXT).replace("\r\n", "\n");
        assert!(message.contains(&lines), "{options:?}: {message}");
        let has_dsn = !options.contains(&"-e") && !options.contains(&"-N");
        assert_eq!(message.contains("NOTIFY=FAILURE"), has_dsn, "{options:?}: {message}");
        assert_eq!(message.contains("RET=HDRS ENVID=id"), has_dsn, "{options:?}: {message}");
    }
}

#[tokio::test]
async fn what_is_refused_at_each_stage_is_known() {
    if !is_there("refusals of smtp-sink") {
        return;
    }
    for (stage, name) in
        [("MAIL", "MAIL"), ("RCPT", "RCPT"), ("DATA", "DATA"), (".", "end of content")]
    {
        for (option, word) in [("-f", "never"), ("-r", "later"), ("-q", "later"), ("-Q", "later")] {
            let sink = Sink::start(&[option, stage]);
            let outcomes = deliver(&sink.next_hop(Protocol::Smtp), TEXT).await;
            let expected = format!("{word} {name}");
            // With 421 to the first RCPT the connection is over before the second is answered.
            assert_eq!(outcomes, [expected.clone(), expected], "{option} {stage}");
        }
    }
}

#[tokio::test]
async fn a_refusal_before_the_end_of_the_content_holds() {
    if !is_there("smtp-sink that refuses early") {
        return;
    }
    let sink = Sink::start(&["-A", "0"]);
    let content = b"0123456789\r\n".repeat(1_000_000);
    let outcomes = deliver(&sink.next_hop(Protocol::Smtp), &content).await;
    assert_eq!(outcomes, ["never content"; 2]);
}

#[tokio::test]
async fn forty_megabytes_arrive() {
    if !is_there("a large message to smtp-sink") {
        return;
    }
    let sink = Sink::start(&[]);
    let content = b".123456789\r\n".repeat(3_500_000);
    assert_eq!(deliver(&sink.next_hop(Protocol::Smtp), &content).await, ["250", "250"]);
    let messages = sink.messages();
    assert_eq!(messages[0].matches("\n.123456789").count(), 3_500_000);
}

/// The whole way with smtpd: TLS with a checked certificate, XCLIENT, XFORWARD, and chunks.
#[tokio::test]
async fn postfix_takes_chunks_over_tls_from_a_client_that_it_is_told_of() {
    if !is_there("messages to Postfix") {
        return;
    }
    let folder = tempdir().unwrap();
    Authority::new(folder.path(), "ca").sign("mx", &["mx.example"]);
    let file = |name: &str| folder.path().join(name).display().to_string();
    let hop = tests::smtp::NextHop::start();
    let port = Port::default()
        .and(&format!("smtpd_tls_cert_file={}", file("mx.pem")))
        .and(&format!("smtpd_tls_key_file={}", file("mx.key")))
        .and("smtpd_tls_security_level=may")
        .and("smtpd_authorized_xclient_hosts=127.0.0.1")
        .and("smtpd_authorized_xforward_hosts=127.0.0.0/8");
    let postfix = Postfix::start(folder.path(), &[port], hop.port, &[]);
    let address_of = format!("127.0.0.1:{}", postfix.ports[0]).parse().unwrap();
    let tls = TlsPolicy::require(&folder.path().join("ca.pem"), None, Some("mx.example")).unwrap();
    let next_hop = Arc::new(NextHop { tls, ..NextHop::new(address_of, "mta.example") });
    let mut connection = Connection::open(&next_hop).await.unwrap();
    assert!(connection.is_secured());
    let origin = Origin {
        address: Some("127.0.0.7".parse().unwrap()),
        name: Some("told.example".to_owned()),
        identifier: Some("id42".to_owned()),
        ..Origin::default()
    };
    connection.xclient(&origin).await.unwrap();
    connection.hello("told.example").await.unwrap();
    assert!(connection.extensions().offers(CHUNKING) && connection.extensions().offers(PIPELINING));
    let sender = address("<a@a.example>", &[]);
    let to = [address("<b@b.example>", &["NOTIFY=NEVER"]), address("<>", &[])];
    for chunking in [true, false] {
        let content = b"Subject: x\r\n\r\n".iter().copied();
        let content: Vec<u8> = content.chain(b".123456789\r\n".repeat(50_000)).collect();
        let size = content.len() as u64;
        let message =
            Message { content: &content[..], size, is_eight_bit: false, has_utf8_header: false };
        let options = Options { chunking, prdr: true };
        let outcomes = connection.deliver(&sender, &to, message, options).await;
        let [Outcome::Delivered { reply, notifies: true }, Outcome::Failed(refused)] =
            &outcomes[..]
        else {
            panic!("{outcomes:?}")
        };
        assert!(reply.to_string().starts_with("250 2.0.0 Ok: "), "{reply}");
        assert_eq!(refused.status().class, 5);
        connection.reset().await.unwrap();
    }
    connection.quit().await;
    postfix.wait_for(&["client=told.example[127.0.0.7]"]);
}
