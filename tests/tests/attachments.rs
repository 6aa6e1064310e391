//! `virus-scan` and `mime-strip` behind real mail servers: what arrives is compared with what should.

#![allow(missing_docs, clippy::indexing_slicing)]

use tests::attachment::{document_with_macros, with_attachment, with_notice, without_attachment};
use tests::gateway::{Gateway, told};
use tests::postfix::{self, Port, Postfix};
use tests::smtp::{Client, NextHop};
use tests::{CalloutServer, Milter, not_run};

const SERVER: &str = "[services.virus-scan.settings]\naction = \"replace\"\n\
    notice = \"{virus} was in {place}\"\n\
    [services.macros]\nkind = \"virus-scan\"\n[services.macros.settings]\non-macros = \"tag\"\n\
    tag = { subject = \"[macros] \", field = \"X-Macros\" }\n\
    [services.mime-strip.settings]\nnotice = \"{name} is gone\"\n\
    [[services.mime-strip.settings.rules]]\nextensions = [\"strip\"]\naction = \"strip\"\n\
    [[services.mime-strip.settings.rules]]\nmismatched = true\naction = \"reject\"\n\
    [[services.mime-strip.settings.rules]]\nlarger-than = 5000\naction = \"discard\"\n\
    [[services.mime-strip.settings.rules]]\nsenders = [\"a.example\"]\ndirection = \"outbound\"\n\
    extensions = [\"txt\"]\naction = \"reject\"\n";

fn config(server: &CalloutServer) -> String {
    let address = server.address();
    format!(
        "[[group]]\nname = \"g\"\nservices = [\"virus-scan\", \"macros\", \"mime-strip\"]\nservers = [\"{address}\"]\n"
    )
}

/// A mail, what the reply to it begins with, what arrives of it, and what is said in the log.
type Case = (String, &'static str, Option<String>, &'static str);

fn cases() -> [Case; 7] {
    let eicar =
        [r"X5O!P%@AP[4\PZX54(P^)7CC)7}$EICAR-", "STANDARD-ANTIVIRUS-TEST-FILE!$H+H*"].concat();
    let with_macros = with_attachment("a.doc", &document_with_macros());
    let tagged = with_macros.replacen("Subject: x", "Subject: [macros] x", 1);
    let tagged = format!("X-Macros: macro: VBA macros in part 1.2 (a.doc)\r\n{tagged}");
    [
        // It would arrive before the next one.
        (with_attachment("a.dat", &[b'x'; 5_001]), "250", None, "discard"),
        (
            with_attachment("a.txt", b"hello"),
            "250",
            Some(with_attachment("a.txt", b"hello")),
            "accept",
        ),
        (with_attachment("a.exe", b"x"), "250", Some(with_notice("a.exe is gone")), "modify"),
        (with_attachment("a.strip", b"x"), "250", Some(without_attachment()), "modify"),
        (with_macros, "250", Some(tagged), "modify"),
        (
            with_attachment("a.dat", eicar.as_bytes()),
            "250",
            Some(with_notice("Eicar-Test-Signature was in part 1.2 (a.dat)")),
            "modify",
        ),
        (
            with_attachment("a.pdf", b"PK\x03\x04"),
            "554 5.7.1 attachment not allowed: named .pdf, but of the kind zip in part 1.2 (a.pdf)",
            None,
            "reject",
        ),
    ]
}

/// Sends each mail, and compares what arrives.
fn check(port: u16, hop: &NextHop, mut told: impl FnMut() -> String) {
    for (mail, reply, expected, decision) in cases() {
        let mut client = Client::greeted(port);
        let heard = client.mail("a@a.example", &["b@b.example"], mail.as_bytes());
        assert!(heard.starts_with(reply), "{heard}");
        let told = told();
        assert!(told.starts_with(&format!("{decision} <a@a.example>")), "{told}");
        if let Some(expected) = expected {
            let delivered = hop.wait_for(1).remove(0);
            assert_eq!(String::from_utf8_lossy(delivered.without_received()), expected);
        }
    }
    assert!(hop.is_empty());
}

#[test]
fn attachments_through_a_milter() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = CalloutServer::start(folder.path(), SERVER, &[]);
    let Some(gateway) = Gateway::start("attachments through a milter", &config(&server), &[])
    else {
        return;
    };
    let port = gateway.port();
    let Gateway { mut milter, hop, postfix, folder: _folder } = gateway;
    check(port, &hop, || told(&milter.wait_for("message")));
    drop(postfix);
}

/// In front of Postfix's own queue.
#[test]
fn attachments_through_the_proxy() {
    if !postfix::is_there() {
        let why = "there is no Postfix, or no root to start it";
        return not_run("attachments through the proxy", why);
    }
    let folder = tempfile::tempdir().expect("a folder");
    let server = CalloutServer::start(folder.path(), SERVER, &[]);
    let hop = NextHop::start();
    let again = Port::default().and("smtpd_authorized_xforward_hosts=127.0.0.0/8");
    let behind = Postfix::start(folder.path(), &[again], hop.port, &[]);
    let next_hop = format!("127.0.0.1:{}", behind.ports[0]);
    let mut proxy = Milter::start_proxy("127.0.0.1:0", &next_hop, folder.path(), &config(&server));
    let port = proxy.port();
    check(port, &hop, || told(&proxy.wait_for("message")));
}
