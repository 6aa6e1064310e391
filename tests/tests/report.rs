//! Reports of incidents, behind real mail servers: what arrives at a syslog server and a webhook, and that no mail waits
//! for them.

#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};

use serde_json::Value;
use tests::gateway::{Gateway, told};
use tests::http::Metrics;
use tests::smtp::{Client, NextHop};
use tests::{CalloutServer, Milter, PATIENCE};

/// Where reports go.
struct Targets {
    syslog: UdpSocket,
    webhook: TcpListener,
}

impl Targets {
    fn new() -> Self {
        let syslog = UdpSocket::bind("127.0.0.1:0").unwrap();
        syslog.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { syslog, webhook: TcpListener::bind("127.0.0.1:0").unwrap() }
    }

    fn config(&self) -> String {
        let (syslog, webhook) =
            (self.syslog.local_addr().unwrap(), self.webhook.local_addr().unwrap());
        format!(
            "[admin]\nlisten = \"127.0.0.1:0\"\n[services.report.settings]\nhost = \"mx\"\n\
             [[services.report.settings.rules]]\nfound = [\"virus-scan=infected\"]\n\
             severity = \"critical\"\n\
             [[services.report.settings.targets]]\nname = \"siem\"\nsyslog = \"udp:{syslog}\"\n\
             [[services.report.settings.targets]]\nname = \"soc\"\nqueue = 1\ntimeout = 3600\n\
             webhook = \"http://{webhook}/\"\n"
        )
    }

    /// The next object that arrives by syslog.
    fn logged(&self) -> Value {
        let mut datagram = [0; 2_048];
        let octets = self.syslog.recv(&mut datagram).expect("a report arrives");
        let text = std::str::from_utf8(&datagram[..octets]).unwrap();
        let (header, json) = text.split_at(text.find('{').unwrap());
        // mail is facility 2, critical is severity 2.
        assert!(header.starts_with("<18>1 ") && header.ends_with(" incident - "), "{header}");
        serde_json::from_str(json).unwrap()
    }
}

/// The object in a request, which is answered.
fn posted(stream: TcpStream) -> Value {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut stream = BufReader::new(stream);
    let mut length = 0;
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).unwrap();
        if let Some(value) = line.strip_prefix("content-length: ") {
            length = value.trim().parse().unwrap();
        }
        if line == "\r\n" {
            break;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).unwrap();
    stream.into_inner().write_all(b"HTTP/1.1 204 x\r\n\r\n").unwrap();
    serde_json::from_slice(&body).unwrap()
}

fn infected() -> String {
    let eicar =
        [r"X5O!P%@AP[4\PZX54(P^)7CC)7}$EICAR-", "STANDARD-ANTIVIRUS-TEST-FILE!$H+H*"].concat();
    format!("Subject: a\r\n b\r\n\r\n{eicar}\r\n")
}

fn config(server: &CalloutServer, services: &str) -> String {
    let address = server.address();
    format!("[[group]]\nname = \"g\"\nservices = [{services}]\nservers = [\"{address}\"]\n")
}

/// What every report of these mails says.
fn assert_is_incident(object: &Value, subject: &str) {
    assert_eq!(object["severity"], "critical");
    assert_eq!(object["fates"][0], "refused");
    assert_eq!(object["sender"], "<a@a.example>");
    assert_eq!(object["recipients"][0], "<b@b.example>");
    assert_eq!(object["fields"]["Subject"], subject);
    let finding = &object["findings"][0];
    assert_eq!(
        (&finding["service"], &finding["verdict"]),
        (&"virus-scan".into(), &"infected".into())
    );
    assert_eq!(finding["reason"], "Eicar-Test-Signature in part 1");
    assert!(object["replies"][0].as_str().unwrap().starts_with("554 5.7.1 "), "{object}");
    assert!(!object.to_string().contains("STANDARD-ANTIVIRUS"), "{object}");
}

#[test]
fn incidents_behind_postfix() {
    let targets = Targets::new();
    let folder = tempfile::tempdir().unwrap();
    let server = CalloutServer::start(folder.path(), &targets.config(), &[]);
    let config = config(&server, "\"report\", \"virus-scan\"");
    let Some(mut gateway) = Gateway::start("reports through Postfix", &config, &[]) else { return };
    let mut client = Client::greeted(gateway.port());
    let reply = client.mail("a@a.example", &["b@b.example"], b"Subject: x\r\n\r\nhello\r\n");
    assert!(reply.starts_with("250 "), "{reply}");
    assert!(gateway.told().ends_with("report=quiet"));
    assert_eq!(gateway.hop.wait_for(1)[0].without_received(), b"Subject: x\r\n\r\nhello\r\n");
    let mut client = Client::greeted(gateway.port());
    let reply = client.mail("a@a.example", &["b@b.example"], infected().as_bytes());
    assert!(reply.starts_with("554 5.7.1 "), "{reply}");
    let told = gateway.told();
    assert!(told.ends_with("report=reported (siem soc)"), "{told}");
    let (logged, posted) = (targets.logged(), posted(targets.webhook.accept().unwrap().0));
    assert_eq!(logged, posted, "all targets are told the same");
    assert_is_incident(&logged, "a b");
    assert_eq!(logged["client"], "127.0.0.1");
}

/// A webhook that takes connections and says nothing, and a queue of one: mail is answered all the same.
#[test]
fn a_webhook_that_hangs_holds_no_mail_of_the_proxy() {
    let targets = Targets::new();
    let folder = tempfile::tempdir().unwrap();
    let mut server = CalloutServer::start(folder.path(), &targets.config(), &[]);
    let admin = server.admin();
    let hop = NextHop::start();
    let next_hop = format!("127.0.0.1:{}", hop.port);
    let config = config(&server, "\"virus-scan\", \"report\"");
    let mut proxy = Milter::start_proxy("127.0.0.1:0", &next_hop, folder.path(), &config);
    let mut held = None;
    for (round, expected) in [
        "report=reported (siem soc)",
        "report=reported (siem soc)",
        "report=dropped (the queue is full: soc)",
    ]
    .into_iter()
    .enumerate()
    {
        let mut client = Client::greeted(proxy.port());
        let reply = client.mail("a@a.example", &["b@b.example"], infected().as_bytes());
        assert!(reply.starts_with("554 5.7.1 "), "{reply}");
        let told = told(&proxy.wait_for("message"));
        assert!(told.ends_with(expected), "round {round}: {told}");
        assert_is_incident(&targets.logged(), "a b");
        if held.is_none() {
            // It is on its way from now on, and no longer in the queue.
            held = Some(targets.webhook.accept().unwrap().0);
        }
    }
    let metrics = Metrics::when(&admin, |metrics| {
        metrics.value("reports_total{service=\"report\",result=\"sent\"}") == 3.0
    });
    assert_eq!(metrics.value("reports_total{service=\"report\",result=\"dropped\"}"), 1.0);
    assert_eq!(metrics.value("reports_waiting{service=\"report\"}"), 1.0);
    // It comes back: what has waited arrives.
    assert_is_incident(&posted(held.unwrap()), "a b");
    assert_is_incident(&posted(targets.webhook.accept().unwrap().0), "a b");
    let metrics = Metrics::when(&admin, |metrics| {
        metrics.value("reports_total{service=\"report\",result=\"sent\"}") == 5.0
    });
    assert_eq!(metrics.value("reports_waiting{service=\"report\"}"), 0.0);
}
