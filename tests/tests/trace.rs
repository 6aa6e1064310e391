//! What mail that passes a real Postfix with `opes-mta` says of it, and senders who ask for services to be
//! skipped. IDs are those of the project's catalogue; `opes-mta/COMPLIANCE.md` has all of them.

#![allow(missing_docs)]

use std::io::{Read, Write};
use std::net::TcpStream;

use tests::postfix::{self, Port, Postfix};
use tests::smtp::{Client, Delivered, NextHop};
use tests::{CalloutServer, Milter, not_run, text};

const SYSTEM: &str = "[system]\nuri = \"https://opes.example.org/opes\"\nname = \"mx1\"\n";

/// spam-score may be skipped, the others may not.
const SERVICES: &str = "[services.spam-score]\nbypassable = true\n\
                        [services.mail-from.settings]\ndeny = [\"denied.example\"]\n";

/// Postfix, whose milter is `opes-mta`, which asks a callout server.
struct Gateway {
    _server: CalloutServer,
    milter: Milter,
    postfix: Postfix,
    hop: NextHop,
    _folder: tempfile::TempDir,
}

/// A test virus, put together here.
fn eicar() -> Vec<u8> {
    let halves = [r"X5O!P%@AP[4\PZX54(P^)7CC)7}$EICAR-", "STANDARD-ANTIVIRUS-TEST-FILE!$H+H*"];
    halves.concat().into_bytes()
}

/// A text that spam-score refuses, put together here.
fn gtube() -> Vec<u8> {
    let halves = ["XJS*C4JDBQADN1.NSBN3*2IDNEN*", "GTUBE-STANDARD-ANTI-UBE-TEST-EMAIL*C.34X"];
    halves.concat().into_bytes()
}

/// A gateway with this in the configuration of `opes-mta`; mail passes as many milters of that kind as it
/// is said.
fn gateway(story: &str, config: &str, passes: usize) -> Option<Gateway> {
    if !postfix::is_there() {
        not_run(story, "there is no Postfix, or no root to start it");
        return None;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let server = CalloutServer::start(folder.path(), SERVICES, &[]);
    let config = format!(
        "{config}[[group]]\nname = \"mail\"\nservers = [\"{}\"]\n\
         services = [\"mail-from\", \"virus-scan\", \"spam-score\"]\n",
        server.address()
    );
    let milter = Milter::start(folder.path(), &config);
    let hop = NextHop::start();
    let ports = [Port::with_milter(&vec![milter.address.as_str(); passes].join(" "))];
    let postfix = Postfix::start(folder.path(), &ports, hop.port, &[]);
    Some(Gateway { _server: server, milter, postfix, hop, _folder: folder })
}

impl Gateway {
    /// Sends a mail: the client's last reply.
    fn send(&self, sender: &str, message: &[u8]) -> String {
        let port = self.postfix.ports.first().expect("it has one");
        Client::greeted(*port).mail(sender, &["b@b.example"], message)
    }

    /// Sends a mail that arrives: as it arrived, and its line in the log.
    fn deliver(&mut self, message: &[u8]) -> (String, serde_json::Value) {
        let reply = self.send("a@a.example", message);
        assert!(reply.starts_with("250 2.0.0 Ok: queued as "), "{reply}");
        let delivered: Delivered = self.hop.wait_for(1).remove(0);
        let line = self.milter.wait_for("message");
        (String::from_utf8_lossy(delivered.without_received()).into_owned(), line)
    }
}

/// OPES-3897-3-01, OPES-3897-3.1-01, OPES-3897-3.1-02, OPES-3897-3.1-05, OPES-3897-3.1-06,
/// OPES-3897-3.2-04, OPES-4902-1.5-02, OPES-4902-3.1-02, OPES-4902-3.1-07, OPES-4902-4-01,
/// OPES-4236-4-01, OPES-4236-4-03, OPES-BIND-01, OPES-3837-3.3-01, OPES-4496-4.3-01
#[test]
fn every_message_says_which_system_it_passed() {
    let Some(mut gateway) = gateway("traces through Postfix", SYSTEM, 1) else { return };
    let mail =
        "From: a@a.example\r\nOPES-System: https://other.example/\r\nSubject: x\r\n\r\nbody\r\n";
    for _ in 0..2 {
        let (arrived, line) = gateway.deliver(mail.as_bytes());
        let id = text(&line, "queue_id");
        let field = format!(
            "OPES-System: https://opes.example.org/opes ; processor=mx1\r\n\t; session={id}\r\n"
        );
        assert_eq!(arrived, format!("{field}{mail}"));
        assert_eq!(line["earlier_passes"], serde_json::Value::Null, "{line}");
        assert!(text(&line, "verdicts").contains("virus-scan=clean"), "{line}");
    }
}

/// OPES-3897-3-02, OPES-4236-4-05, OPES-BIND-01
#[test]
fn a_message_that_passes_twice_has_two_fields() {
    let Some(mut gateway) = gateway("two passes", SYSTEM, 2) else { return };
    let (arrived, first) = gateway.deliver(b"Subject: x\r\n\r\nbody\r\n");
    let second = gateway.milter.wait_for("message");
    assert_eq!(
        (&first["earlier_passes"], &second["earlier_passes"]),
        (&serde_json::Value::Null, &1.into())
    );
    let field = |line: &serde_json::Value| {
        let id = text(line, "queue_id");
        format!(
            "OPES-System: https://opes.example.org/opes ; processor=mx1\r\n\t; session={id}\r\n"
        )
    };
    let (newest, oldest) = (field(&second), field(&first));
    assert_eq!(arrived, format!("{newest}{oldest}Subject: x\r\n\r\nbody\r\n"));
}

/// OPES-3897-3.1-03, OPES-4236-4-04, OPES-4236-4-07, OPES-3836-3.13-07, OPES-BIND-02, OPES-3835-2.5-02
#[test]
fn services_are_named_if_that_is_configured() {
    let config = format!("{SYSTEM}services-in-trace = true\n");
    let Some(mut gateway) = gateway("OPES-Via through Postfix", &config, 1) else { return };
    let (arrived, _) = gateway.deliver(b"From: a@a.example\r\nSubject: x\r\n\r\nbody\r\n");
    let via = "OPES-Via: https://opes.example.org/opes, ocp://service/virus-scan\r\n\t\
               ; verdict=clean, ocp://service/spam-score ; verdict=ham\r\nOPES-System: ";
    assert!(arrived.starts_with(via), "{arrived}");
}

/// OPES-4902-3.1-09, OPES-4902-5.3-01, OPES-BIND-10, OPES-BIND-11, OPES-4496-4.8-01, OPES-4496-4.8-02
/// OPES-4496-4.2-04
#[test]
fn a_rejection_says_by_whom_and_the_log_why() {
    let Some(mut gateway) = gateway("traces in replies", SYSTEM, 1) else { return };
    let infected = [b"Subject: x\r\n\r\n", &eicar()[..], b"\r\n"].concat();
    let cases = [
        ("a@denied.example", "mail-from", infected.clone()),
        ("a@a.example", "virus-scan", infected),
    ];
    for (sender, service, message) in cases {
        let reply = gateway.send(sender, &message);
        let line = gateway.milter.wait_for("message");
        let id = ["queue_id", "id"].map(|name| text(&line, name));
        let traced = id
            .iter()
            .any(|id| reply.ends_with(&format!(" [opes https://opes.example.org/opes {id}]")));
        assert!(reply.starts_with('5') && traced, "{reply} {line}");
        assert!(!reply.contains(service), "{reply}");
        assert_eq!(line["decision"], "reject");
        assert!(text(&line, "verdicts").contains(service), "{line}");
    }
    assert!(gateway.hop.is_empty());
}

/// OPES-3897-3-01, OPES-3897-3.1-06
#[test]
fn a_message_has_no_id_of_the_one_before_it() {
    let Some(mut gateway) = gateway("ids of messages", SYSTEM, 1) else { return };
    let mut client = Client::greeted(gateway.postfix.ports[0]);
    let reply = client.mail("a@a.example", &["b@b.example"], b"Subject: x\r\n\r\nbody\r\n");
    assert!(reply.starts_with("250 2.0.0 "), "{reply}");
    let line = gateway.milter.wait_for("message");
    assert!(reply.ends_with(&text(&line, "queue_id")), "{reply} {line}");
    let reply = client.mail("a@denied.example", &["b@b.example"], b"");
    let line = gateway.milter.wait_for("message");
    assert_eq!(line["queue_id"], serde_json::Value::Null, "{line}");
    let trace = format!(" [opes https://opes.example.org/opes {}]", text(&line, "id"));
    assert!(reply.starts_with("550 ") && reply.ends_with(&trace), "{reply} {line}");
}

/// OPES-4902-3.1-09: what our own failure policy says is no finding of a service.
#[test]
fn a_failure_of_ours_is_no_rejection_by_a_service() {
    let Some(gateway) = gateway("a failure without trace", SYSTEM, 1) else { return };
    let Gateway { _server: server, postfix, .. } = gateway;
    drop(server);
    let reply =
        Client::greeted(postfix.ports[0]).mail("a@a.example", &["b@b.example"], b"\r\nx\r\n");
    assert!(reply.starts_with("451 4."), "{reply}");
    assert!(!reply.contains("[opes"), "{reply}");
}

/// OPES-3897-4-01, OPES-3897-4-02, OPES-3897-4-04, OPES-3897-4.1-01, OPES-3897-4.2-01, OPES-3897-4.2-02,
/// OPES-3897-4.2-03, OPES-3897-4.2-04, OPES-3897-4.3-01, OPES-3897-4.3-02, OPES-3897-4.3-03,
/// OPES-3897-4.3-04, OPES-4902-3.2-01, OPES-4902-3.2-05, OPES-4902-4-03, OPES-4236-5-01, OPES-4236-5-02,
/// OPES-BIND-14, OPES-BIND-15, OPES-BIND-16, OPES-3837-2.2.3-01
#[test]
fn what_may_be_skipped_is_skipped_for_who_is_heard() {
    let config = format!("{SYSTEM}[bypass]\nclients = [\"127.0.0.1\"]\n");
    let Some(mut gateway) = gateway("bypass through Postfix", &config, 1) else { return };
    let cases = [
        ("ocp://service/spam-score", "ok"),
        ("*", "partial"),
        ("https://opes.example.org/opes", "partial"),
        ("http://nobody.example/knows", "partial"),
        ("not a URI", "partial"),
        ("ocp://service/virus-scan, ocp://service/spam-score", "partial"),
    ];
    for (request, outcome) in cases {
        let field = format!("OPES-Bypass: {request}\r\n");
        let spam = [field.as_bytes(), b"Subject: x\r\n\r\n", &gtube()[..], b"\r\n"].concat();
        let (arrived, line) = gateway.deliver(&spam);
        let first = arrived.find(&field).unwrap_or_else(|| panic!("{request}: {arrived}"));
        assert_eq!(&arrived.as_bytes()[first..], spam, "{request}");
        assert!(arrived[..first].contains(&format!("; bypass={outcome}\r\n")), "{arrived}");
        let verdicts = text(&line, "verdicts");
        assert!(verdicts.contains("spam-score=bypassed"), "{line}");
        assert!(verdicts.contains("virus-scan=clean"), "{line}");
        assert!(text(&line, "bypass").starts_with(&format!("{outcome}: ")), "{line}");
    }
    let virus = [b"OPES-Bypass: *\r\nSubject: x\r\n\r\n", &eicar()[..], b"\r\n"].concat();
    let reply = gateway.send("a@a.example", &virus);
    assert!(reply.starts_with("554 5.7.1 "), "{reply}");
    let line = gateway.milter.wait_for("message");
    let verdicts = text(&line, "verdicts");
    assert!(verdicts.contains("virus-scan=bypass-refused (not bypassable)"), "{line}");
    // The sender was judged before anybody could know of the request.
    let reply = gateway.send("a@denied.example", b"OPES-Bypass: *\r\n\r\n");
    assert!(reply.starts_with("550 5.7.1 "), "{reply}");
}

/// OPES-3897-4.4-01, OPES-3897-8.2-01, OPES-3835-3.2-01, OPES-4902-3.2-03, OPES-BIND-15
#[test]
fn who_is_not_heard_skips_nothing_and_the_log_says_so() {
    let Some(mut gateway) = gateway("bypass that is not heard", SYSTEM, 1) else { return };
    let spam = [b"OPES-Bypass: *\r\nSubject: x\r\n\r\n", &gtube()[..], b"\r\n"].concat();
    let reply = gateway.send("a@a.example", &spam);
    assert!(reply.starts_with("550 5.7.1 "), "{reply}");
    let line = gateway.milter.wait_for("message");
    assert_eq!(line["bypass"], "ignored: *", "{line}");
    assert!(!text(&line, "verdicts").contains("bypass"), "{line}");
    let (arrived, line) = gateway.deliver(b"OPES-Bypass: *\r\nSubject: x\r\n\r\nbody\r\n");
    assert!(arrived.contains("; bypass=denied\r\nOPES-Bypass: *\r\n"), "{arrived}");
    assert_eq!(line["bypass"], "ignored: *", "{line}");
}

/// OPES-3897-8.1-01, OPES-3897-8.1-02, OPES-3837-2.2.10-01
#[test]
fn foreign_traces_are_harmless_however_many_they_are() {
    let Some(mut gateway) = gateway("foreign traces", SYSTEM, 1) else { return };
    let broken = "OPES-System: ;;,,\"\r\nOPES-Via:\r\nOPES-System:\r\n\t<>\r\n";
    let forged = "OPES-System: https://opes.example.org/opes ; session=forged\r\n";
    // Postfix cuts a field beyond 60,000 octets.
    let long =
        format!("OPES-Via: {}\r\n", format!("{}\r\n\t", "x".repeat(900)).repeat(60).trim_end());
    // virus-scan looks at no section of 10,000 fields or more.
    let many = "OPES-Via: ocp://service/x ; verdict=clean\r\n".repeat(9_000);
    for (fields, passes) in [(broken, 0), (forged, 1), (&long, 0), (&many, 0)] {
        let mail = format!("{fields}Subject: x\r\n\r\nbody\r\n");
        let (arrived, line) = gateway.deliver(mail.as_bytes());
        let (ours, rest) = arrived.split_at(arrived.len().saturating_sub(mail.len()));
        let beginning = &arrived[..400.min(arrived.len())];
        let field = "OPES-System: https://opes.example.org/opes ;";
        assert!(ours.contains(field), "{} of {}: {beginning}", arrived.len(), mail.len());
        assert!(rest == mail, "{}", &rest[..200.min(rest.len())]);
        assert_eq!(line["earlier_passes"].as_u64().unwrap_or(0), passes, "{line}");
    }
}

/// OPES-4902-4-04, OPES-BIND-17, OPES-BIND-18: as far as milter goes. A mail server refuses a parameter
/// that it does not know, and the field is left.
#[test]
fn the_parameter_does_not_come_through_a_milter() {
    let Some(mut gateway) = gateway("XOPES-BYPASS", SYSTEM, 1) else { return };
    let mut client = Client::greeted(gateway.postfix.ports[0]);
    let reply = client.say("MAIL FROM:<a@a.example> XOPES-BYPASS=*");
    assert!(reply.starts_with("555 5.5.4 "), "{reply}");
    gateway.deliver(b"Subject: x\r\n\r\nbody\r\n");
}

/// OPES-3897-3.2-02, OPES-3897-3.2-03, OPES-3897-3.2-05, OPES-3835-3.4-01
#[test]
fn the_disclosure_page_is_served() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = format!(
        "{SYSTEM}[system.disclosure]\nlisten = \"127.0.0.1:0\"\noperator = \"Example Ltd\"\n\
         contact = \"postmaster@example.org\"\nprivacy-policy = \"https://example.org/privacy\"\n\
         reference-validity = \"References stay as they are.\"\n\
         [[group]]\nname = \"mail\"\nservers = [\"127.0.0.1:1\"]\nservices = [\"spam-score\"]\n"
    );
    let milter = Milter::start(folder.path(), &config);
    let served = milter.lines.iter().find(|line| line["message"] == "serving the disclosure page");
    let address = text(served.expect("it says where"), "address");
    let mut stream = TcpStream::connect(address).expect("it listens");
    stream.write_all(b"GET /opes?session=1 HTTP/1.1\r\nHost: x\r\n\r\n").expect("it reads");
    let mut page = String::new();
    stream.read_to_string(&mut page).expect("it answers");
    assert!(page.starts_with("HTTP/1.1 200 OK\r\n"), "{page}");
    for part in ["Example Ltd", "https://example.org/privacy", "References stay", "spam-score"] {
        assert!(page.contains(part), "{part}: {page}");
    }
}
