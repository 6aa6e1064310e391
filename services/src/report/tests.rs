use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ocp_proto::smtp::{
    Address as SmtpAddress, Auth, Command, CommandLine, DialogFacts, Envelope, Reply, SideEffect,
};
use ocp_proto::wire::Atom;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket, UnixDatagram};
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::conclusion::Fate;
use crate::fixtures::{mail, request};
use crate::service::Input;
use crate::setting::documented;

const RULES: &str = "host = \"mx.example.org\"\nfields = [\"Subject\", \"X-None\"]\n\
    [[rules]]\nfound = [\"virus-scan=infected\"]\nseverity = \"alert\"\n\
    [[rules]]\nfates = [\"refused\"]\n";

/// A service whose targets are tried again at once.
fn report(targets: &str, folder: &Path) -> Report {
    impatient(targets, folder, Duration::from_secs(30))
}

/// The same, and a try may take so long.
fn impatient(targets: &str, folder: &Path, timeout: Duration) -> Report {
    let settings = format!("{RULES}{targets}");
    let (settings, mut targets) =
        settings::read(Settings::parse(&settings, folder).unwrap()).unwrap();
    for target in &mut targets {
        target.patience.pause = Duration::from_millis(1);
        target.patience.timeout = timeout;
    }
    Report { settings, queues: targets.into_iter().map(Queue::new).collect() }
}

fn started(targets: &str) -> Report {
    let report = report(targets, Path::new(""));
    report.queues.iter().for_each(Queue::start);
    report
}

fn address(path: &'static str) -> SmtpAddress {
    SmtpAddress::new(path).unwrap()
}

fn message(subject: &str) -> Request {
    let mail = mail(format!("Subject: {subject}\r\n\r\nthe text\r\n").into_bytes());
    let dialog = DialogFacts {
        client_address: Some("192.0.2.7".into()),
        helo: Some("client.example".into()),
        queue_id: Some("4bXyZk".into()),
        ..DialogFacts::default()
    };
    Request {
        dialog: Arc::new(dialog),
        envelope: Envelope {
            sender: Some(address("<a@a.example>")),
            recipients: vec![address("<b@b.example>"), address("<c@c.example>")],
        },
        ..request(&mail, &[])
    }
}

fn found(service: &str, verdict: &'static str, reason: &str) -> Found {
    let finding = Finding::new(verdict).with_reason(reason);
    Found { service: service.to_owned(), finding }
}

fn refused() -> Fate {
    let reply = Some(Reply::new(554, "5.7.1", "no").unwrap());
    Fate { recipients: Vec::new(), reply, is_changed: false, effects: Vec::new() }
}

/// What it says of an event.
fn concluded(report: &Report, request: &Request, found: &[Found], fates: &[Fate]) -> Finding {
    let conclusion = Conclusion { request, found, fates };
    let outcome = report.conclude(&conclusion).now_or_never().unwrap().unwrap();
    assert_eq!(outcome, Outcome::unchanged(outcome.finding.clone()));
    outcome.finding
}

/// Reports an infected message with this subject.
fn infected(report: &Report, subject: &str) -> Finding {
    let found = [found("log", "logged", "x"), found("virus-scan", "infected", "Eicar in part 1")];
    concluded(report, &message(subject), &found, &[refused()])
}

/// The object of a report, without what is new each time; and its id.
fn object(json: &str) -> (Value, String) {
    assert!(json.bytes().all(|octet| matches!(octet, b' '..=b'~')), "{json}");
    let mut object: Value = serde_json::from_str(json).unwrap();
    let members = object.as_object_mut().unwrap();
    let id = members.remove("id").unwrap().as_str().unwrap().to_owned();
    assert!(id.len() == 32 && id.bytes().all(|octet| octet.is_ascii_hexdigit()), "{id}");
    let time = members.remove("time").unwrap();
    let time = time.as_str().unwrap();
    assert!(time.len() == 20 && time.ends_with('Z') && time.contains('T'), "{time}");
    (object, id)
}

fn expected(subject: &str) -> Value {
    json!({
        "version": 1,
        "severity": "alert",
        "host": "mx.example.org",
        "event": "MESSAGE",
        "fates": ["refused"],
        "replies": ["554 5.7.1 no"],
        "client": "192.0.2.7",
        "helo": "client.example",
        "queue-id": "4bXyZk",
        "sender": "<a@a.example>",
        "recipients": ["<b@b.example>", "<c@c.example>"],
        "recipient-count": 2,
        "fields": { "Subject": subject },
        "findings": [
            { "service": "log", "verdict": "logged", "reason": "x" },
            { "service": "virus-scan", "verdict": "infected", "reason": "Eicar in part 1" },
        ],
    })
}

/// The object in a syslog message with this priority, whose header says what the object says.
fn syslog(message: &str, priority: u8) -> (Value, String) {
    let (header, json) = message.split_at(message.find('{').unwrap());
    let raw: Value = serde_json::from_str(json).unwrap();
    let (time, process) = (raw["time"].as_str().unwrap(), std::process::id());
    let expected =
        format!("<{priority}>1 {time} mx.example.org callout-server {process} incident - ");
    assert_eq!(header, expected);
    object(json)
}

/// Waits until a target's worker has done so much.
async fn until(done: impl Fn() -> bool) {
    for _ in 0..30_000 {
        if done() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    panic!("it never was done");
}

#[tokio::test]
async fn syslog_over_udp_is_a_datagram() {
    let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let to = server.local_addr().unwrap();
    let report = started(&format!("[[targets]]\nname = \"s\"\nsyslog = \"udp:{to}\""));
    assert_eq!(infected(&report, "x"), Finding::new("reported").with_reason("s"));
    let mut datagram = vec![0; 65_536];
    let octets = server.recv(&mut datagram).await.unwrap();
    // mail is facility 2, alert is severity 1.
    let (object, _) = syslog(std::str::from_utf8(&datagram[..octets]).unwrap(), 17);
    assert_eq!(object, expected("x"));
}

#[tokio::test]
async fn syslog_to_a_unix_socket_outlives_its_server() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    let report = started(&format!(
        "[[targets]]\nname = \"s\"\nfacility = \"local7\"\nretries = 1000\nsyslog = \"unix:{}\"",
        path.display()
    ));
    infected(&report, "before it is there");
    until(|| report.queues[0].failure().is_some()).await;
    assert!(report.condition().unwrap().starts_with("no report reaches s: "));
    for subject in ["before it is there", "again"] {
        let _ = std::fs::remove_file(&path);
        let server = UnixDatagram::bind(&path).unwrap();
        if subject == "again" {
            infected(&report, subject);
        }
        let mut datagram = vec![0; 65_536];
        let octets = server.recv(&mut datagram).await.unwrap();
        let (object, _) = syslog(std::str::from_utf8(&datagram[..octets]).unwrap(), 23 * 8 + 1);
        assert_eq!(object, expected(subject));
    }
    until(|| report.queues[0].sent() == 2).await;
    assert_eq!(report.condition(), None);
}

/// A frame of RFC 6587 section 3.4.1.
async fn frame(stream: &mut TcpStream) -> String {
    let mut length = 0;
    loop {
        match stream.read_u8().await.unwrap() {
            b' ' => break,
            digit => length = 10 * length + usize::from(digit - b'0'),
        }
    }
    let mut message = vec![0; length];
    stream.read_exact(&mut message).await.unwrap();
    String::from_utf8(message).unwrap()
}

#[tokio::test]
async fn syslog_over_tcp_counts_octets_and_comes_again() {
    let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let to = server.local_addr().unwrap();
    let report =
        started(&format!("[[targets]]\nname = \"s\"\nretries = 1000\nsyslog = \"tcp:{to}\""));
    infected(&report, "first");
    infected(&report, "second");
    let (mut stream, _) = server.accept().await.unwrap();
    for subject in ["first", "second"] {
        assert_eq!(syslog(&frame(&mut stream).await, 17).0, expected(subject));
    }
    until(|| report.queues[0].sent() == 2).await;
    // The server ends, and is not there for a while.
    drop((stream, server));
    infected(&report, "third");
    until(|| report.queues[0].failure().is_some()).await;
    let server = TcpListener::bind(to).await.unwrap();
    let (mut stream, _) = server.accept().await.unwrap();
    assert_eq!(syslog(&frame(&mut stream).await, 17).0, expected("third"));
    // A server that ends the connection, and is there, loses nothing.
    until(|| report.queues[0].sent() == 3).await;
    drop(stream);
    infected(&report, "fourth");
    let (mut stream, _) = server.accept().await.unwrap();
    assert_eq!(syslog(&frame(&mut stream).await, 17).0, expected("fourth"));
    until(|| report.queues[0].sent() == 4).await;
    assert_eq!((report.queues[0].failed(), report.queues[0].dropped()), (0, 0));
}

/// Reads a request, and answers with this status.
async fn answered(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    status: &str,
) -> (String, String) {
    let mut request = Vec::new();
    let (header, body) = loop {
        assert_ne!(stream.read_buf(&mut request).await.unwrap(), 0, "the request ends too early");
        let text = String::from_utf8(request.clone()).unwrap();
        let Some((header, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = header.lines().find_map(|line| line.strip_prefix("content-length: "));
        if body.len() == length.unwrap().parse::<usize>().unwrap() {
            break (header.to_owned(), body.to_owned());
        }
    };
    let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n");
    stream.write_all(answer.as_bytes()).await.unwrap();
    (header, body)
}

#[tokio::test]
async fn a_webhook_knows_who_posts() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("token"), "secret token\n").unwrap();
    std::fs::write(folder.path().join("key"), "Jefe\n").unwrap();
    let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let to = server.local_addr().unwrap();
    let targets = format!(
        "[[targets]]\nname = \"w\"\nwebhook = \"http://{to}/a?b=c\"\ntoken-file = \"token\"\n\
         signature-key-file = \"key\"\n"
    );
    let report = report(&targets, folder.path());
    let note = format!("w: the token goes to http://{to}/a?b=c without TLS");
    assert_eq!(report.notes(), [note]);
    report.start().await.unwrap();
    infected(&report, "x");
    let (header, body) = answered(server.accept().await.unwrap().0, "204 No Content").await;
    assert_eq!(object(&body).0, expected("x"));
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, b"Jefe");
    let hmac = ring::hmac::sign(&key, body.as_bytes());
    let hmac: String = hmac.as_ref().iter().map(|octet| format!("{octet:02x}")).collect();
    let length = body.len();
    let version = env!("CARGO_PKG_VERSION");
    let expected = format!(
        "POST /a?b=c HTTP/1.1\r\nhost: {to}\r\nuser-agent: callout-server/{version}\r\n\
         content-type: application/json\r\nconnection: close\r\nauthorization: Bearer secret token\r\n\
         opes-signature: sha256={hmac}\r\ncontent-length: {length}"
    );
    assert_eq!(header, expected);
    assert!(!body.contains("secret") && !format!("{:?}", report.settings).contains("secret"));
}

#[tokio::test]
async fn a_webhook_is_tried_again_where_that_may_help() {
    let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let to = server.local_addr().unwrap();
    let report =
        started(&format!("[[targets]]\nname = \"w\"\nwebhook = \"http://{to}/\"\nretries = 2\n"));
    let mut ids = Vec::new();
    // Each with the answers to its tries, and what became of it.
    for (answers, sent, failed) in [
        (&["500 x", "429 x", "200 x"][..], 1, 0),
        (&["400 x"], 1, 1),
        (&["503 x", "301 x", "408 x"], 1, 2),
        (&["201 x"], 2, 2),
    ] {
        infected(&report, "x");
        let mut bodies = Vec::new();
        for answer in answers {
            bodies.push(answered(server.accept().await.unwrap().0, answer).await.1);
        }
        bodies.dedup();
        assert_eq!(bodies.len(), 1, "a report that comes again is the same");
        ids.push(object(&bodies[0]).1);
        until(|| (report.queues[0].sent(), report.queues[0].failed()) == (sent, failed)).await;
    }
    ids.dedup();
    assert_eq!(ids.len(), 4);
}

/// One that takes connections and says nothing costs its own reports, and no mail.
#[tokio::test]
async fn a_target_that_hangs_fills_its_own_queue() {
    let hung = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let good = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let (to_hung, to_good) = (hung.local_addr().unwrap(), good.local_addr().unwrap());
    let targets = format!(
        "[[targets]]\nname = \"hung\"\nqueue = 2\nwebhook = \"http://{to_hung}/\"\n\
         [[targets]]\nname = \"good\"\nsyslog = \"udp:{to_good}\"\n"
    );
    let report = report(&targets, Path::new(""));
    report.start().await.unwrap();
    infected(&report, "0");
    let (held, _) = hung.accept().await.unwrap();
    let verdicts: Vec<_> = (1..5).map(|n| infected(&report, &n.to_string()).verdict).collect();
    assert_eq!(verdicts, ["reported", "reported", "dropped", "dropped"]);
    let dropped = infected(&report, "5");
    assert_eq!(dropped, Finding::new("dropped").with_reason("the queue is full: hung"));
    until(|| report.queues[1].sent() == 6).await;
    let counts: Vec<_> =
        report.measures().iter().map(|measure| (measure.name, measure.value)).collect();
    let expected = [
        ("reports", 6),
        ("reports", 0),
        ("reports", 3),
        ("reports_waiting", 2),
        ("report_targets_failing", 0),
    ];
    assert_eq!(counts, expected);
    drop(held);
}

#[tokio::test]
async fn a_target_that_hangs_is_given_up_at_last() {
    let hung = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let to = hung.local_addr().unwrap();
    let targets =
        format!("[[targets]]\nname = \"hung\"\nretries = 1\nwebhook = \"http://{to}/\"\n");
    let report = impatient(&targets, Path::new(""), Duration::from_millis(20));
    report.start().await.unwrap();
    infected(&report, "x");
    until(|| report.queues[0].failed() == 1).await;
    let condition = "no report reaches hung: not done within 0 s";
    assert_eq!(report.condition().as_deref(), Some(condition));
    let mut tries = 0;
    while hung.accept().now_or_never().is_some() {
        tries += 1;
    }
    assert_eq!(tries, 2);
}

/// A certificate authority, and a server's certificate that it has signed.
fn certificates(folder: &Path, name: &str) -> ServerConfig {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, name);
    let key = KeyPair::generate().unwrap();
    let ca = params.self_signed(&key).unwrap();
    std::fs::write(folder.join(name), ca.pem()).unwrap();
    let issuer = Issuer::new(params, key);
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    let certificate = params.signed_by(&key, &issuer).unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .unwrap()
}

#[tokio::test]
async fn a_webhook_over_tls_is_the_one_that_the_authority_names() {
    let folder = tempfile::tempdir().unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(certificates(folder.path(), "good.pem")));
    certificates(folder.path(), "other.pem");
    let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let to = server.local_addr().unwrap();
    let targets = |ca: &str| {
        format!(
            "[[targets]]\nname = \"w\"\nretries = 0\nwebhook = \"https://{to}/\"\nca = \"{ca}\"\n"
        )
    };
    let good = report(&targets("good.pem"), folder.path());
    good.start().await.unwrap();
    infected(&good, "x");
    let stream = acceptor.accept(server.accept().await.unwrap().0).await.unwrap();
    assert_eq!(object(&answered(stream, "200 x").await.1).0, expected("x"));
    let other = report(&targets("other.pem"), folder.path());
    other.start().await.unwrap();
    infected(&other, "x");
    assert!(acceptor.accept(server.accept().await.unwrap().0).await.is_err());
    until(|| other.queues[0].failed() == 1).await;
    let condition = other.condition().unwrap();
    assert!(condition.contains("invalid peer certificate: UnknownIssuer"), "{condition}");
}

/// What a stranger writes begins no line of its own, hides nothing, and fits.
#[tokio::test]
async fn what_strangers_write_is_escaped_and_cut() {
    let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let to = server.local_addr().unwrap();
    let report = started(&format!("[[targets]]\nname = \"s\"\nsyslog = \"udp:{to}\""));
    let mut datagram = vec![0; 65_536];
    let hostile = "a\u{202e}\u{1b}[31m\u{7f}\"}\\\u{fc}\r\n <1>1 - - - - - fake";
    let octets = {
        infected(&report, hostile);
        server.recv(&mut datagram).await.unwrap()
    };
    let (object, _) = syslog(std::str::from_utf8(&datagram[..octets]).unwrap(), 17);
    let subject = object["fields"]["Subject"].as_str().unwrap();
    assert_eq!(subject, "a\u{202e}\u{fffd}[31m\u{fffd}\"}\\\u{fc} <1>1 - - - - - fake");
    let long = "\u{1f600}".repeat(300);
    let many = |text: &str| vec![found(text, "infected", text); 50];
    let mut request = message(&long);
    let facts = Arc::make_mut(&mut request.dialog);
    let atom = || Some(Atom::from(long.clone()));
    (facts.client_address, facts.client_name) = (atom(), atom());
    (facts.helo, facts.queue_id) = (atom(), atom());
    request.envelope.recipients = vec![address("<b@b.example>"); 200];
    let fates = [refused(), refused(), refused()];
    concluded(&report, &request, &many(&long), &fates);
    let octets = server.recv(&mut datagram).await.unwrap();
    assert!(octets <= super::syslog::DATAGRAM, "{octets}");
    let (object, _) = syslog(std::str::from_utf8(&datagram[..octets]).unwrap(), 20);
    assert_eq!(object["recipient-count"], 200);
    assert_eq!(object["recipients"].as_array().unwrap().len(), 2);
    assert_eq!(object["findings"].as_array().unwrap().len(), 2);
    assert_eq!(object["helo"], "\u{1f600}\u{1f600}\u{2026}");
    let facts = Facts::of(
        &Conclusion { request: &request, found: &[], fates: &fates },
        &report.settings,
        SystemTime::UNIX_EPOCH,
    );
    let json = Incident::new(facts, Default::default(), many(&long).iter()).json();
    assert!(json.len() <= Incident::LARGEST && json.len() > 8_000, "{}", json.len());
    assert!(json.contains("\"time\":\"1970-01-01T00:00:00Z\""), "{json}");
}

#[test]
fn a_rule_reports_what_it_is_about_to_whom_it_names() {
    let rules = "fields = []\n\
        [[rules]]\nfound = [\"virus-scan=infected\", \"*=failed\"]\ntargets = [\"one\"]\n\
        [[rules]]\nfates = [\"quarantined\", \"put-off\"]\nseverity = \"notice\"\ntargets = [\"two\"]\n\
        [[targets]]\nname = \"one\"\nsyslog = \"unix:/x\"\n\
        [[targets]]\nname = \"two\"\nsyslog = \"unix:/x\"\n";
    let report = Report::new(Settings::parse(rules, Path::new("")).unwrap()).unwrap();
    let fate = |reply: Option<u16>, effects: Vec<SideEffect>| Fate {
        recipients: Vec::new(),
        reply: reply.map(|code| Reply::new(code, "", "no").unwrap()),
        is_changed: false,
        effects,
    };
    let quarantine = || vec![SideEffect::Quarantine("x".into())];
    for (verdict, fates, told) in [
        ("clean", vec![fate(None, Vec::new())], None),
        ("clean", vec![fate(Some(554), Vec::new())], None),
        ("infected", vec![fate(Some(554), Vec::new())], Some("one")),
        ("failed", vec![fate(Some(451), Vec::new())], Some("one two")),
        ("clean", vec![fate(None, Vec::new()), fate(None, quarantine())], Some("two")),
    ] {
        let found = [found("virus-scan", verdict, "x")];
        let finding = concluded(&report, &message("x"), &found, &fates);
        let expected = match told {
            Some(told) => Finding::new("reported").with_reason(told),
            None => Finding::new("quiet"),
        };
        assert_eq!(finding, expected, "{verdict} {fates:?}");
    }
}

#[test]
fn no_report_shows_what_somebody_has_authenticated_with() {
    let report = report("[[targets]]\nname = \"s\"\nsyslog = \"unix:/x\"", Path::new(""));
    let line = CommandLine::new("AUTH PLAIN AGFkYQBzZWNyZXQ=").unwrap();
    let dialog = DialogFacts {
        auth: Some(Auth { mechanism: "PLAIN".into(), identity: "ada".into() }),
        ..DialogFacts::default()
    };
    let request = Request {
        command: Command::Auth,
        input: Input::Line(line),
        dialog: Arc::new(dialog),
        ..message("x")
    };
    let conclusion = Conclusion { request: &request, found: &[], fates: &[refused()] };
    let facts = Facts::of(&conclusion, &report.settings, SystemTime::UNIX_EPOCH);
    let json = Incident::new(facts, Default::default(), [].iter()).json();
    let (object, _) = object(&json);
    assert_eq!((&object["line"], &object["user"]), (&json!("AUTH PLAIN"), &json!("ada")));
    assert_eq!(object["event"], "AUTH");
    assert!(!json.contains("AGFk"), "{json}");
}

#[test]
fn settings_are_checked() {
    let targets = "[[targets]]\nname = \"s\"\nsyslog = \"udp:h:514\"\n";
    let rules = "[[rules]]\nfound = [\"a=b\"]\n";
    let target = |lines: &str| format!("{rules}[[targets]]\nname = \"s\"\n{lines}");
    for (settings, expected) in [
        (String::new(), "report needs 1 to 16 rules"),
        (rules.to_owned(), "report needs 1 to 16 targets"),
        (format!("[[rules]]\n{targets}"), "a rule of report names found or fates"),
        (format!("{rules}targets = [\"x\"]\n{targets}"), "\"x\" is no target; these are: s"),
        (format!("{rules}{targets}{targets}"), "there are two targets s"),
        (
            format!("host = \"a b\"\n{rules}{targets}"),
            "host has 1 to 64 ASCII characters without blanks",
        ),
        (
            format!("fields = [\"a:b\"]\n{rules}{targets}"),
            "\"a:b\" is no name of a header field of at most 32 characters",
        ),
        (target(""), "a target has either syslog or webhook"),
        (
            target("syslog = \"udp:h\""),
            "\"udp:h\" is no syslog server such as udp:HOST:514, tcp:HOST:601 or unix:/dev/log",
        ),
        (target("syslog = \"udp:h:1\"\nca = \"x\""), "this belongs to a webhook"),
        (target("webhook = \"http://h/\"\nca = \"x\""), "this belongs to https"),
        (target("webhook = \"http://h/\"\nfacility = \"mail\""), "this belongs to syslog"),
        (
            target("webhook = \"ftp://h/\""),
            "\"ftp://h/\" is no webhook such as https://soc.example.org/opes",
        ),
        (
            target("webhook = \"http://u:p@h/\""),
            "\"http://u:p@h/\" is no webhook such as https://soc.example.org/opes",
        ),
        (
            target("webhook = \"https://h/\"\nca = \"nowhere.pem\""),
            "nowhere.pem can't be read: No such file or directory (os error 2); ca names a PEM \
             file with who signs the certificate",
        ),
        (target("syslog = \"udp:h:1\"\nqueue = 0"), "a queue has 1 to 100000 places"),
        (target("syslog = \"udp:h:1\"\ntimeout = 0"), "a try may take 1 to 3600 seconds"),
        (target("syslog = \"udp:h:1\"\nretries = 1001"), "there are at most 1000 retries"),
    ] {
        let error = Report::new(Settings::parse(&settings, Path::new("")).unwrap()).err().unwrap();
        assert_eq!(error.message, expected);
        assert_eq!(error.span.is_none(), expected.starts_with("report needs"), "{expected}");
    }
}

#[test]
fn the_documented_settings_are_valid() {
    let folder = tempfile::tempdir().unwrap();
    certificates(folder.path(), "ca.pem");
    let settings =
        documented(include_str!("mod.rs")).replace("/etc/ssl/certs/ca-certificates.crt", "ca.pem");
    let report = Report::new(Settings::parse(&settings, folder.path()).unwrap()).unwrap();
    assert_eq!(report.worst_case_memory(), 1_000 * Incident::LARGEST);
    assert_eq!(report.declaration().events, [Command::Message]);
    assert!(report.notes().is_empty());
}
