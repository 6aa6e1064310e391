//! `opes-mta smtp` and TLS: with clients, and with the next hop.

#![allow(missing_docs, clippy::indexing_slicing)]

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use ocp_proto::smtp::{Command as Verb, Reply};
use services::{Change, Declaration, Finding, Outcome, Request};
use tests::certificates::Authority;
use tests::postfix::{self, Port, Postfix};
use tests::scripted::{Script, Scripted};
use tests::smtp::{Client, NextHop, is_queued};
use tests::{Milter, not_run, text};

const MAIL: &str = "Subject: x\r\n\r\nx\r\n.\r\n";

/// Refuses the recipient `tell` with what is known of the client.
fn teller() -> Script {
    let declaration = Declaration::on([Verb::Helo, Verb::Rcpt]);
    Script { name: "teller", declaration, answer: tell }
}

fn tell(request: &Request) -> (Duration, Outcome) {
    let line = request.line().map(|line| String::from_utf8_lossy(line.as_bytes()).into_owned());
    if line.is_none_or(|line| line != "RCPT TO:<tell@b.example>") {
        return (Duration::ZERO, Outcome::unchanged(Finding::new("passed")));
    }
    let dialog = &request.dialog;
    let name = |atom: Option<&[u8]>| String::from_utf8_lossy(atom.unwrap_or(b"-")).into_owned();
    let tls = dialog.tls.as_ref().map(|tls| [name(Some(&tls.protocol)), name(Some(&tls.cipher))]);
    let known = format!(
        "{} {} {}",
        tls.map_or("no TLS".to_owned(), |tls| tls.join(" ")),
        name(dialog.helo.as_deref()),
        name(dialog.client_address.as_deref()),
    );
    let reply = Reply::new(550, "5.7.1", &known).expect("it is a reply");
    (Duration::ZERO, Outcome::changed(Change::Reply(reply), "told"))
}

struct Setting {
    server: Scripted,
    hop: NextHop,
    folder: tempfile::TempDir,
}

/// A certificate for 127.0.0.1 is `server.pem`, signed by `ca.pem`.
fn setting() -> Setting {
    let folder = tempfile::tempdir().expect("a folder");
    Authority::new(folder.path(), "ca").sign("server", &["127.0.0.1"]);
    Setting { server: Scripted::start(&[teller()]), hop: NextHop::start(), folder }
}

impl Setting {
    fn file(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    fn proxy(&self, next_hop: u16, options: &[&str]) -> Milter {
        let server = self.server.address.to_string();
        let config = format!(
            "[[group]]\nname = \"teller\"\nservices = [\"teller\"]\nservers = [\"{server}\"]\n"
        );
        std::fs::write(self.file("opes-mta.toml"), config).expect("written");
        let mut command = tests::program("opes-mta");
        let next_hop = format!("127.0.0.1:{next_hop}");
        command.args(["smtp", "--listen", "127.0.0.1:0", "--next-hop", &next_hop]);
        command.args(["--config", &self.file("opes-mta.toml")]).args(options);
        Milter::run(command)
    }

    /// Offers STARTTLS.
    fn with_tls(&self, more: &[&str]) -> Milter {
        let (certificate, key) = (self.file("server.pem"), self.file("server.key"));
        let tls = ["--tls-certificate", &certificate, "--tls-key", &key];
        self.proxy(self.hop.port, &[&tls[..], more].concat())
    }
}

/// What a client in Python prints; its arguments are the port and a file of authorities.
fn python(program: &str, port: u16, ca: &Path) -> String {
    let begin = "\
import smtplib, ssl, sys
def tell(said): print(said[0], said[1].decode().replace('\\n', '|'))
smtp = smtplib.SMTP('127.0.0.1', int(sys.argv[1]), timeout=60)
context = ssl.create_default_context(cafile=sys.argv[2])
";
    let mut command = Command::new("python3");
    command.args(["-c", &format!("{begin}{program}"), &port.to_string()]).arg(ca);
    let output = command.output().expect("there is a Python");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn what_was_said_before_starttls_is_forgotten() {
    let setting = setting();
    let mut proxy = setting.with_tls(&[]);
    let program = "\
tell(smtp.ehlo('plain.example'))
tell(smtp.docmd('XFORWARD', 'ADDR=192.0.2.1 HELO=forwarded.example'))
tell(smtp.mail('plain@a.example'))
tell(smtp.rcpt('tell@b.example'))
tell(smtp.rcpt('b@b.example'))
tell(smtp.starttls(context=context))
tell(smtp.mail('a@a.example'))
tell(smtp.docmd('DATA'))
tell(smtp.ehlo('tls.example'))
tell(smtp.docmd('STARTTLS'))
tell(smtp.mail('tls@a.example'))
tell(smtp.rcpt('tell@b.example'))
tell(smtp.rcpt('c@b.example'))
tell(smtp.data('Subject: x\\r\\n\\r\\nwithin\\r\\n'))
tell(smtp.docmd('XFORWARD', 'ADDR=192.0.2.2 HELO=forwarded.example'))
tell(smtp.mail('tls@a.example'))
tell(smtp.rcpt('tell@b.example'))
tell(smtp.quit())
";
    let ca = setting.folder.path().join("ca.pem");
    let told = python(program, proxy.port(), &ca);
    let expected = "\
250 next.example|8BITMIME|DSN|SMTPUTF8|PIPELINING|CHUNKING|PRDR|XOPES-BYPASS|STARTTLS|XFORWARD NAME ADDR PORT PROTO HELO IDENT SOURCE|XCLIENT NAME ADDR PORT PROTO HELO LOGIN DESTADDR DESTPORT
250 2.0.0 Ok
250 2.1.0 ok
550 5.7.1 no TLS forwarded.example 192.0.2.1
250 2.1.5 ok
220 2.0.0 Begin TLS
503 5.5.1 Send EHLO first
503 5.5.1 Send EHLO first
250 next.example|8BITMIME|DSN|SMTPUTF8|PIPELINING|CHUNKING|PRDR|XOPES-BYPASS|XFORWARD NAME ADDR PORT PROTO HELO IDENT SOURCE|XCLIENT NAME ADDR PORT PROTO HELO LOGIN DESTADDR DESTPORT
503 5.5.1 TLS is already active
250 2.1.0 ok
550 5.7.1 TLSv1.3 TLS_AES_256_GCM_SHA384 tls.example 127.0.0.1
250 2.1.5 ok
250 2.0.0 taken
250 2.0.0 Ok
250 2.1.0 ok
550 5.7.1 no TLS forwarded.example 192.0.2.2
221 2.0.0 bye
";
    assert_eq!(told, expected);
    let delivered = setting.hop.wait_for(1).remove(0);
    assert_eq!(
        (&delivered.sender[..], &delivered.recipients[..], &delivered.octets[..]),
        ("tls@a.example", &["c@b.example".to_owned()][..], &b"Subject: x\r\n\r\nwithin\r\n"[..])
    );
    assert!(setting.hop.is_empty());
    for (sender, decision) in [("plain", "abandoned"), ("tls", "accept"), ("tls", "abandoned")] {
        let line = proxy.wait_for("message");
        let sender = format!("<{sender}@a.example>");
        assert_eq!((text(&line, "sender"), text(&line, "decision")), (sender, decision.to_owned()));
    }
}

/// Services that know of the client from the beginning on learn of TLS by what is told them later.
#[test]
fn services_learn_of_tls_in_the_same_dialog() {
    let setting = setting();
    let proxy = setting.with_tls(&["--trust", "unix"]);
    let program = "\
context.maximum_version = ssl.TLSVersion.TLSv1_2
smtp.ehlo('plain.example')
smtp.mail('a@a.example')
tell(smtp.rcpt('tell@b.example'))
smtp.starttls(context=context)
smtp.ehlo('tls.example')
smtp.mail('a@a.example')
tell(smtp.rcpt('tell@b.example'))
";
    let told = python(program, proxy.port(), &setting.folder.path().join("ca.pem"));
    let expected = "\
550 5.7.1 no TLS plain.example 127.0.0.1
550 5.7.1 TLSv1.2 TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384 tls.example 127.0.0.1
";
    assert_eq!(told, expected);
}

/// What stands behind STARTTLS in plain text could be somebody else's, and counts as said within TLS for
/// who reads it later (CVE-2011-0411).
#[test]
fn nothing_is_injected_behind_starttls() {
    let setting = setting();
    let mut proxy = setting.with_tls(&[]);
    let injected = "EHLO b.example\r\nMAIL FROM:<a@a.example>\r\nRCPT TO:<b@b.example>\r\nDATA\r\n";
    let mut client = Client::greeted(proxy.port());
    client.send(format!("STARTTLS\r\n{injected}").as_bytes());
    assert_eq!(client.reply(), "503 5.5.1 Nothing comes behind STARTTLS before TLS");
    assert_eq!(client.reply(), "", "the connection is over");
    let mut client = Client::greeted(proxy.port());
    client.send(b"NOOP\r\nSTARTTLS\r\n\r\n");
    assert_eq!(client.reply(), "250 ok");
    assert_eq!(client.reply(), "503 5.5.1 Nothing comes behind STARTTLS before TLS");
    assert_eq!(client.reply(), "", "the connection is over");
    let mut client = Client::greeted(proxy.port());
    assert_eq!(client.say("STARTTLS"), "220 2.0.0 Begin TLS");
    client.send(injected.as_bytes());
    let line = proxy.wait_for("the dialog of a client broke");
    let cause = text(&line, "cause");
    assert!(cause.starts_with("the handshake of TLS failed: "), "{line}");
    assert!(setting.hop.is_empty());
}

#[test]
fn authentication_and_starttls_keep_their_order() {
    let setting = setting();
    let outer = setting.with_tls(&[]);
    let mut client = Client::greeted(outer.port());
    assert_eq!(client.say("AUTH PLAIN AGEAYg=="), "250 ok");
    assert_eq!(client.say("STARTTLS"), "503 5.5.1 STARTTLS comes before AUTH");
    // What the next hop hears within TLS is not said in plain text before.
    let proxy = setting.proxy(outer.port(), &["--next-hop-tls", "may"]);
    let mut client = Client::greeted(proxy.port());
    assert_eq!(client.say("AUTH PLAIN AGEAYg=="), "538 5.7.11 AUTH needs TLS here");
}

#[test]
fn certificates_are_read_again() {
    let setting = setting();
    let mut proxy = setting.with_tls(&[]);
    let program = "\
smtp.ehlo()
try: tell(smtp.starttls(context=context))
except ssl.SSLCertVerificationError as error: print(error.verify_message)
";
    let ask = |ca: &str| python(program, proxy.port(), &setting.folder.path().join(ca));
    assert_eq!(ask("ca.pem"), "220 2.0.0 Begin TLS\n");
    Authority::new(setting.folder.path(), "other").sign("server", &["127.0.0.1"]);
    assert_eq!(ask("ca.pem"), "220 2.0.0 Begin TLS\n");
    proxy.reload();
    proxy.wait_for("certificates read again");
    let ask = |ca: &str| python(program, proxy.port(), &setting.folder.path().join(ca));
    assert_eq!(ask("other.pem"), "220 2.0.0 Begin TLS\n");
    assert!(!ask("ca.pem").starts_with("220"), "the old authority has not signed the new one");
    std::fs::write(setting.file("server.key"), "no key").expect("written");
    proxy.reload();
    let line = proxy.wait_for("certificates stay as they were");
    assert!(text(&line, "error").contains("server.key can't be used"), "{line}");
    let told = python(program, proxy.port(), &setting.folder.path().join("other.pem"));
    assert_eq!(told, "220 2.0.0 Begin TLS\n");
}

#[test]
fn a_next_hop_has_to_prove_who_it_is() {
    let setting = setting();
    Authority::new(setting.folder.path(), "other");
    let inner = setting.with_tls(&[]);
    let (ca, other) = (setting.file("ca.pem"), setting.file("other.pem"));
    let require = ["--next-hop-tls", "require", "--next-hop-tls-ca"];
    let mut proxy = setting.proxy(inner.port(), &[&require[..], &[&ca]].concat());
    let mut client = Client::greeted(proxy.port());
    // The next hop has been told of us first, and of the client then.
    assert!(client.say("RCPT TO:<tell@b.example>").starts_with("503 "));
    client.say("MAIL FROM:<a@a.example>");
    assert_eq!(client.say("RCPT TO:<b@b.example>"), "250 2.1.5 ok");
    assert_eq!(client.data(MAIL.as_bytes()), "250 2.0.0 taken");
    assert_eq!(setting.hop.wait_for(1)[0].octets, MAIL.as_bytes());
    assert_eq!(text(&proxy.wait_for("message"), "decision"), "accept");
    let wrong = [
        (inner.port(), vec![&other[..]], "UnknownIssuer"),
        (
            inner.port(),
            vec![&ca, "--next-hop-tls-name", "mail.example"],
            "not valid for name \"mail.example\"",
        ),
        (setting.hop.port, vec![&ca], "it does not offer STARTTLS, and TLS is required"),
    ];
    for (next_hop, options, cause) in wrong {
        let mut proxy = setting.proxy(next_hop, &[&require[..], &options].concat());
        let (mut client, greeting) = Client::connect(proxy.port());
        assert_eq!(greeting, "421 4.4.1 The next mail server is not there, try again later");
        assert_eq!(client.reply(), "", "the connection is over");
        let line = proxy.wait_for("the dialog of a client broke");
        assert!(text(&line, "cause").contains(cause), "{line}");
    }
    // Where TLS may be used, it is for those who have it.
    for next_hop in [inner.port(), setting.hop.port] {
        let proxy = setting.proxy(next_hop, &["--next-hop-tls", "may"]);
        let mut client = Client::greeted(proxy.port());
        let reply = client.mail("a@a.example", &["b@b.example"], MAIL.as_bytes());
        assert_eq!(reply, "250 2.0.0 taken");
        assert_eq!(setting.hop.wait_for(1)[0].octets, MAIL.as_bytes());
    }
}

#[test]
fn postfix_takes_mail_within_tls() {
    if !postfix::is_there() {
        return not_run("TLS with Postfix", "there is no Postfix, or no root to start it");
    }
    let setting = setting();
    let (certificate, key) = (setting.file("server.pem"), setting.file("server.key"));
    let port = Port::default()
        .and("smtpd_tls_security_level=encrypt")
        .and("smtpd_tls_loglevel=1")
        .and(&format!("smtpd_tls_cert_file={certificate}"))
        .and(&format!("smtpd_tls_key_file={key}"));
    let postfix = Postfix::start(setting.folder.path(), &[port], setting.hop.port, &[]);
    let ca = setting.file("ca.pem");
    let require = ["--next-hop-tls", "require", "--next-hop-tls-ca", &ca];
    let proxy = setting.proxy(postfix.ports[0], &require);
    let mut client = Client::greeted(proxy.port());
    let reply = client.mail("a@a.example", &["b@b.example"], MAIL.as_bytes());
    assert!(is_queued(&reply), "{reply}");
    assert_eq!(setting.hop.wait_for(1)[0].without_received(), MAIL.as_bytes());
    postfix.wait_for(&["TLS connection established from", "TLSv1.3"]);
    let plain = setting.proxy(postfix.ports[0], &[]);
    let mut client = Client::greeted(plain.port());
    let reply = client.mail("a@a.example", &["b@b.example"], MAIL.as_bytes());
    assert_eq!(reply, "530 5.7.0 Must issue a STARTTLS command first");
}

/// A client that is neither Python's nor ours.
#[test]
fn openssl_delivers_within_tls() {
    let setting = setting();
    let proxy = setting.with_tls(&[]);
    let said = setting.file("said");
    let commands = format!(
        "EHLO c.example\r\nMAIL FROM:<a@a.example>\r\nRCPT TO:<b@b.example>\r\nDATA\r\n{MAIL}.\r\nQUIT\r\n"
    );
    std::fs::write(&said, commands.replace("\r\n.\r\n.\r\n", "\r\n..\r\n.\r\n")).expect("written");
    let mut client = Command::new("openssl");
    client.args(["s_client", "-quiet", "-starttls", "smtp", "-verify_return_error"]);
    client.args(["-CAfile", &setting.file("ca.pem"), "-verify_ip", "127.0.0.1"]);
    client.args(["-connect", &format!("127.0.0.1:{}", proxy.port())]);
    let output = client.stdin(std::fs::File::open(&said).expect("it is there")).output();
    let Ok(output) = output else {
        return not_run("STARTTLS with OpenSSL's client", "there is no openssl");
    };
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(told.ends_with("250 2.0.0 taken\r\n221 2.0.0 bye\r\n"), "{told}");
    assert_eq!(setting.hop.wait_for(1)[0].octets, MAIL.as_bytes());
}

#[test]
fn what_cannot_be_meant_is_no_start() {
    let setting = setting();
    let (ca, other) = (setting.file("ca.pem"), setting.file("opes-mta.toml"));
    std::fs::write(&other, "").expect("written");
    let certificate = setting.file("server.pem");
    let cases = [
        (vec!["--next-hop-tls", "require"], "needs --next-hop-tls-ca FILE"),
        (vec!["--next-hop-tls-ca", &ca], "--next-hop-tls-ca needs that"),
        (vec!["--tls-certificate", &certificate], "--tls-key <FILE>"),
        (vec!["--tls-certificate", &certificate, "--tls-key", &other], "no private key"),
        (
            vec!["--next-hop", "unix:/x", "--next-hop-tls", "require", "--next-hop-tls-ca", &ca],
            "a unix socket does not say",
        ),
    ];
    for (options, cause) in cases {
        let mut command = tests::program("opes-mta");
        command.args(["smtp", "--listen", "127.0.0.1:0"]).args(&options);
        if options[0] != "--next-hop" {
            command.args(["--next-hop", "127.0.0.1:25"]);
        }
        let output = command.output().expect("it runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(cause), "{said}");
    }
}
