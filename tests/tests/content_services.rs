//! Services that change what people read, behind real mail servers: what arrives is compared with what should.

#![allow(missing_docs, clippy::indexing_slicing)]

use std::net::UdpSocket;

use tests::gateway::{Gateway, told};
use tests::postfix::{self, Port, Postfix};
use tests::smtp::{Client, NextHop, is_queued};
use tests::{CalloutServer, Milter, PATIENCE, not_run};

const SERVER: &str = "[services.legal]\nkind = \"footer\"\n[services.legal.settings]\n\
    text = \"Example Ltd\\n1 Stra\u{df}e\"\nhtml = \"<i>Example Ltd</i>\"\n\
    [services.notify.settings]\nfrom = \"filter@b.example\"\n\
    [[services.notify.settings.rules]]\nfound = [\"virus-scan=infected\"]\n\
    to = [\"security@b.example\", \"recipients\"]\nsubject = \"{verdict}\"\n\
    text = \"{from} {recipients}: {fate}, {reason}\"\n";

fn config(server: &CalloutServer, services: &str) -> String {
    let address = server.address();
    format!("[[group]]\nname = \"g\"\nservices = [{services}]\nservers = [\"{address}\"]\n")
}

fn text_of(octets: &[u8]) -> String {
    String::from_utf8_lossy(octets).into_owned()
}

const PLAIN: &str = "Subject: x\r\nContent-Type: text/plain; charset=utf-8\r\n\
    Content-Transfer-Encoding: quoted-printable\r\n\r\nGr=C3=BC=C3=9Fe\r\n";
const ALTERNATIVE: &str = "Subject: x\r\nMIME-Version: 1.0\r\n\
    Content-Type: multipart/alternative; boundary=b\r\n\r\n--b\r\n\
    Content-Type: text/plain; charset=iso-8859-1\r\nContent-Transfer-Encoding: base64\r\n\r\nR3L83w==\r\n\
    --b\r\nContent-Type: text/html\r\n\r\n<body>Hi</body>\r\n--b--\r\n";
const SIGNED: &str = "Subject: x\r\nMIME-Version: 1.0\r\n\
    Content-Type: multipart/signed; boundary=s\r\n\r\n--s\r\n\r\nsigned\r\n--s\r\n\
    Content-Type: application/pgp-signature\r\n\r\nx\r\n--s--\r\n";

/// Mails, and what they are with the text behind them; `B` is a boundary that nobody knows before.
fn footers() -> [(&'static str, String); 3] {
    let alternative = ALTERNATIVE
        .replace("R3L83w==", "R3L8\r\n3w0KDQpFeGFtcGxlIEx0ZA0KMSBTdHJh32U=")
        .replace("</body>", "\r\n<i>Example Ltd</i>\r\n</body>");
    let signed = SIGNED.split_once("\r\nContent-Type: multipart/signed; boundary=s\r\n\r\n");
    let (header, sealed) = signed.expect("it has a type");
    let signed = format!(
        "{header}\r\nContent-Type: multipart/mixed; boundary=\"B\"\r\n\r\n--B\r\n\
         Content-Type: multipart/signed; boundary=s\r\n\r\n{sealed}\r\n--B\r\n\
         Content-Type: text/plain; charset=utf-8\r\nContent-Disposition: inline\r\n\
         Content-Transfer-Encoding: base64\r\n\r\nRXhhbXBsZSBMdGQNCjEgU3RyYcOfZQ0K\r\n--B--\r\n"
    );
    [
        (PLAIN, format!("{PLAIN}\r\nExample Ltd\r\n1 Stra=C3=9Fe\r\n")),
        (ALTERNATIVE, alternative),
        (SIGNED, signed),
    ]
}

fn eicar() -> String {
    [r"X5O!P%@AP[4\PZX54(P^)7CC)7}$EICAR-", "STANDARD-ANTIVIRUS-TEST-FILE!$H+H*"].concat()
}

fn with_known_boundary(octets: &[u8]) -> String {
    let text = text_of(octets);
    match text.find("=_").and_then(|at| text.get(at..at + 34)) {
        Some(boundary) => text.replace(boundary, "B"),
        None => text,
    }
}

#[test]
fn footers_behind_postfix() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = CalloutServer::start(folder.path(), SERVER, &[]);
    let config = config(&server, "\"legal\"");
    let Some(mut gateway) = Gateway::start("footers through Postfix", &config, &[]) else { return };
    for (mail, expected) in footers() {
        let mut client = Client::greeted(gateway.port());
        let reply = client.mail("a@a.example", &["b@b.example"], mail.as_bytes());
        assert!(is_queued(&reply), "{reply}");
        let delivered = gateway.hop.wait_for(1).remove(0);
        assert_eq!(with_known_boundary(delivered.without_received()), expected);
        let told = gateway.told();
        assert!(
            told.starts_with("modify <a@a.example> -> <b@b.example>\nverdicts: legal="),
            "{told}"
        );
    }
}

#[test]
fn footers_and_notifications_by_the_proxy() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = CalloutServer::start(folder.path(), SERVER, &[]);
    let hop = NextHop::start();
    let (spool, next_hop) =
        (folder.path().join("spool").display().to_string(), format!("127.0.0.1:{}", hop.port));
    let arguments = ["--listen", "127.0.0.1:0", "--next-hop", &next_hop, "--spool", &spool];
    let config = config(&server, "\"notify\", \"virus-scan\", \"legal\"");
    let mut proxy = Milter::start_proxy_with(&arguments, folder.path(), &config);
    for (mail, expected) in footers() {
        let mut client = Client::greeted(proxy.port());
        let reply = client.mail("a@a.example", &["b@b.example"], mail.as_bytes());
        assert!(reply.starts_with("250 "), "{reply}");
        assert_eq!(with_known_boundary(&hop.wait_for(1).remove(0).octets), expected);
        let told = told(&proxy.wait_for("message"));
        assert!(told.contains("virus-scan=clean, legal="), "{told}");
        assert!(told.ends_with("notify=quiet"), "{told}");
    }
    let infected = format!("Subject: x\r\n\r\n{}\r\n", eicar());
    let mut client = Client::greeted(proxy.port());
    let reply = client.mail("a@a.example", &["b@b.example"], infected.as_bytes());
    assert!(reply.starts_with("554 5.7.1 "), "{reply}");
    let told = told(&proxy.wait_for("message"));
    assert!(told.contains("notify=notified (<security@b.example> <b@b.example>)"), "{told}");
    let mut notified = hop.wait_for(1);
    let notified = notified.remove(0);
    assert_eq!(notified.sender, "");
    assert_eq!(notified.recipients, ["security@b.example", "b@b.example"]);
    let text = text_of(&notified.octets);
    assert!(text.contains("\r\nSubject: infected\r\n"), "{text}");
    let body = "\r\n\r\n<a@a.example> <b@b.example>: refused, Eicar-Test-Signature in part 1\r\n";
    assert!(text.ends_with(body), "{text}");
}

/// A message that is put right, whose attachment becomes a link, and which gets a text behind its own.
fn mail_for_all() -> String {
    let attachment = format!("{}\r\n", "ABCD".repeat(19)).repeat(1_000);
    format!(
        "{COMPLETE}Subject: x\r\nSubject: y\r\nMIME-Version: 1.0\r\n\
         Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\
         Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\nhello\r\n--b\r\n\
         Content-Type: application/x-data; name=\"a.dat\"\r\nContent-Transfer-Encoding: base64\r\n\r\n\
         {attachment}--b--\r\n"
    )
}

/// The fields that Postfix would add.
const COMPLETE: &str = "From: a@a.example\r\nTo: b@b.example\r\n\
    Date: Thu, 26 Nov 2026 12:00:00 +0000\r\nMessage-ID: <1@a.example>\r\n";

/// A link's name, which nobody can know before, is `N`, and its last day `D`.
fn with_known_link(text: &str) -> String {
    let mut known = text.to_owned();
    for (before, length, shown) in [("https://files.b.example/", 40, "N"), ("until ", 10, "D")] {
        if let Some(at) = known.find(before).map(|at| at + before.len()) {
            known.replace_range(at..at + length, shown);
        }
    }
    known
}

/// All of them together, by the proxy in front of a Postfix that queues what they have made.
#[test]
fn all_of_them_by_the_proxy_in_front_of_postfix() {
    if !postfix::is_there() {
        let why = "there is no Postfix, or no root to start it";
        return not_run("content services in front of Postfix", why);
    }
    let folder = tempfile::tempdir().expect("a folder");
    let syslog = UdpSocket::bind("127.0.0.1:0").expect("a port");
    syslog.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let settings = format!(
        "{SERVER}[services.links.settings]\nfolder = \"{}\"\nlisten = \"127.0.0.1:0\"\n\
         url = \"https://files.b.example/\"\nlarger-than = 50000\nform = \"text\"\n\
         [[services.report.settings.rules]]\nfound = [\"virus-scan=infected\"]\n\
         [[services.report.settings.targets]]\nname = \"siem\"\nsyslog = \"udp:{}\"\n",
        folder.path().join("store").display(),
        syslog.local_addr().expect("it has an address"),
    );
    let server = CalloutServer::start(folder.path(), &settings, &[]);
    let hop = NextHop::start();
    let again = Port::default().and("smtpd_authorized_xforward_hosts=127.0.0.0/8");
    let behind = Postfix::start(folder.path(), &[again], hop.port, &[]);
    let next_hop = format!("127.0.0.1:{}", behind.ports[0]);
    let spool = folder.path().join("spool").display().to_string();
    let arguments = ["--listen", "127.0.0.1:0", "--next-hop", &next_hop, "--spool", &spool];
    let services = ["notify", "report", "normalize", "virus-scan", "mime-strip", "links", "legal"];
    let services = services.map(|name| format!("\"{name}\"")).join(", ");
    let config = config(&server, &services);
    let proxy = Milter::start_proxy_with(&arguments, folder.path(), &config);

    let mut client = Client::greeted(proxy.port());
    let reply = client.mail("a@a.example", &["b@b.example"], mail_for_all().as_bytes());
    assert!(reply.starts_with("250 "), "{reply}");
    let delivered = hop.wait_for(1).remove(0);
    let expected = format!(
        "{COMPLETE}Subject: x\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\
         Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n\
         hello\r\n\r\nExample Ltd\r\n1 Stra\u{df}e\r\n--b\r\n\
         Content-Type: text/plain; charset=utf-8\r\nContent-Disposition: inline\r\n\
         Content-Transfer-Encoding: 7bit\r\n\r\n\
         a.dat (57.0 KB) can be fetched until D:\r\nhttps://files.b.example/N\r\n--b--\r\n"
    );
    assert_eq!(with_known_link(&text_of(delivered.without_received())), expected);

    let infected = format!("{COMPLETE}Subject: x\r\n\r\n{}\r\n", eicar());
    let mut client = Client::greeted(proxy.port());
    let reply = client.mail("a@a.example", &["b@b.example"], infected.as_bytes());
    assert!(reply.starts_with("554 5.7.1 "), "{reply}");
    let mut notified = hop.wait_for(1).remove(0);
    // Postfix has an order of its own.
    notified.recipients.sort();
    assert_eq!(notified.recipients, ["b@b.example", "security@b.example"]);
    let text = text_of(&notified.octets);
    assert!(text.contains("\r\nSubject: infected\r\n"), "{text}");
    let mut datagram = [0; 2_048];
    let octets = syslog.recv(&mut datagram).expect("a report arrives");
    let text = text_of(&datagram[..octets]);
    assert!(text.contains("\"service\":\"virus-scan\",\"verdict\":\"infected\""), "{text}");
    assert!(hop.is_empty());
}
