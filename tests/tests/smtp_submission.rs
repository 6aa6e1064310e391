//! `opes-mta smtp` before a real Postfix that clients submit mail to: AUTH is between the two of them.

#![allow(missing_docs, clippy::indexing_slicing)]

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use ocp_proto::smtp::Command as Verb;
use services::{Change, Declaration, Finding, Outcome, Request};
use tests::actor::seen;
use tests::gateway::told;
use tests::postfix::{self, Port, Postfix};
use tests::programs::swaks;
use tests::scripted::{Script, Scripted, reply};
use tests::smtp::{Client, NextHop, is_queued};
use tests::{CalloutServer, Milter, not_run, text};

const SASLPASSWD: &str = "/usr/sbin/saslpasswd2";

const USER: &str = "ann";
const PASSWORD: &str = "sesame-in-the-clear";

/// `USER@mx.example` and `PASSWORD` as AUTH says them.
const NAME: &str = "YW5uQG14LmV4YW1wbGU=";
const SECRET: &str = "c2VzYW1lLWluLXRoZS1jbGVhcg==";
const PLAIN: &str = "AGFubkBteC5leGFtcGxlAHNlc2FtZS1pbi10aGUtY2xlYXI=";

const MAIL: &str = "From: a@a.example\r\nTo: b@b.example\r\nDate: Thu, 1 Jan 2026 00:00:00 +0000\r\n\
                    Message-ID: <1@a.example>\r\nSubject: x\r\n\r\nx\r\n";

/// All that a service was told, as far as it can be printed.
static TOLD: Mutex<String> = Mutex::new(String::new());

/// Says what it knows of the client in its verdict.
fn submission() -> Script {
    let events = [Verb::Connect, Verb::Helo, Verb::Mail, Verb::Rcpt, Verb::Data, Verb::Message];
    let answer = |request: &Request| {
        TOLD.lock().expect("nobody panics with it").push_str(&format!("{request:?}\n"));
        let finding = Finding::new("passed").with_reason(seen(&request.dialog));
        (Duration::ZERO, Outcome::unchanged(finding))
    };
    Script { name: "submission", declaration: Declaration::on(events), answer }
}

/// Everybody else's mail is refused.
fn stranger() -> Script {
    let answer = |request: &Request| {
        TOLD.lock().expect("nobody panics with it").push_str(&format!("{request:?}\n"));
        (Duration::ZERO, Outcome::changed(Change::Reply(reply("550 5.7.1 who are you\r\n")), "no"))
    };
    Script { name: "stranger", declaration: Declaration::on([Verb::Message]), answer }
}

/// The proxy before Postfix, which knows one user and delivers to the next hop.
struct Submission {
    proxy: Milter,
    hop: NextHop,
    postfix: Postfix,
    _folder: tempfile::TempDir,
}

fn submitted(story: &str, config: &str) -> Option<Submission> {
    if !postfix::is_there() || !Path::new(SASLPASSWD).exists() {
        not_run(story, "there is no Postfix with Cyrus SASL, or no root to start it");
        return None;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let users = folder.path().join("sasldb");
    let library = format!(
        "pwcheck_method: auxprop\nauxprop_plugin: sasldb\nmech_list: PLAIN LOGIN\nsasldb_path: {}\n",
        users.display()
    );
    // Debian's Postfix looks beside its main.cf, whatever that says.
    let sasl = folder.path().join("postfix/sasl");
    fs::create_dir_all(&sasl).expect("a folder");
    fs::write(sasl.join("smtpd.conf"), library).expect("written");
    let mut command = Command::new(SASLPASSWD);
    command.args(["-p", "-c", "-u", "mx.example", USER, "-f"]).arg(&users).stdin(Stdio::piped());
    let mut child = command.spawn().expect("it can be started");
    let stdin = child.stdin.as_mut().expect("it is a pipe");
    stdin.write_all(PASSWORD.as_bytes()).expect("it reads");
    assert!(child.wait().expect("it is our child").success());
    let owned = Command::new("chown").arg("postfix").arg(&users).arg(folder.path()).status();
    assert!(owned.expect("chown runs").success());
    let hop = NextHop::start();
    let port = Port::default()
        .and("smtpd_sasl_auth_enable=yes")
        .and("smtpd_recipient_restrictions=permit_sasl_authenticated reject_unauth_destination");
    let sasl = format!("cyrus_sasl_config_path = {}", sasl.display());
    let parameters = ["relay_domains = inside.example", "mynetworks = 192.0.2.1", &sasl];
    let postfix = Postfix::start(folder.path(), &[port], hop.port, &parameters);
    let file = folder.path().join("opes-mta.toml");
    fs::write(&file, config).expect("written");
    let mut command = tests::program("opes-mta");
    let next_hop = format!("127.0.0.1:{}", postfix.ports[0]);
    command.args(["smtp", "--listen", "127.0.0.1:0", "--next-hop", &next_hop, "--config"]);
    // What is logged for those who look for errors has no secrets either.
    command.arg(&file).env("RUST_LOG", "trace");
    Some(Submission { proxy: Milter::run(command), hop, postfix, _folder: folder })
}

/// Who has authenticated is asked about at one group, everybody else at another one.
fn by_rule(server: &Scripted) -> String {
    let address = &server.address;
    ["submission", "stranger"]
        .map(|name| {
            format!(
                "[[group]]\nname = \"{name}\"\nservices = [\"{name}\"]\nservers = [\"{address}\"]\n"
            )
        })
        .concat()
        + "[[rule]]\nname = \"ours\"\nauthenticated = true\ngroups = [\"submission\"]\n\
           [[rule]]\nname = \"others\"\ngroups = [\"stranger\"]\n"
}

impl Submission {
    fn client(&self) -> Client {
        Client::greeted(self.proxy.port())
    }
}

#[test]
fn who_has_authenticated_is_known_and_secrets_are_not() {
    let server = Scripted::start(&[submission(), stranger()]);
    let Some(mut chain) = submitted("AUTH through the proxy", &by_rule(&server)) else { return };
    let mut client = chain.client();
    let offered = client.say("EHLO ann.example");
    assert!(offered.contains("\n250-AUTH PLAIN LOGIN\n"), "{offered}");
    // Not yet.
    let reply = client.mail("a@a.example", &["b@b.example"], MAIL.as_bytes());
    assert_eq!(reply, "454 4.7.1 <b@b.example>: Relay access denied");
    client.say("RSET");
    let reply = client.mail("a@a.example", &["c@inside.example"], MAIL.as_bytes());
    assert_eq!(reply, "550 5.7.1 who are you");
    let taken = "235 2.7.0 Authentication successful";
    let plain = |client: &mut Client| client.say(&format!("AUTH PLAIN {PLAIN}"));
    let plain_later = |client: &mut Client| {
        assert_eq!(client.say("AUTH PLAIN"), "334");
        client.say(PLAIN)
    };
    let login = |client: &mut Client| {
        assert_eq!(client.say("AUTH LOGIN"), "334 VXNlcm5hbWU6");
        assert_eq!(client.say(NAME), "334 UGFzc3dvcmQ6");
        client.say(SECRET)
    };
    for (mechanism, authenticate) in [
        ("PLAIN", &plain as &dyn Fn(&mut Client) -> String),
        ("PLAIN", &plain_later),
        ("LOGIN", &login),
    ] {
        let mut client = chain.client();
        assert_eq!(authenticate(&mut client), taken);
        let again = client.say(&format!("AUTH PLAIN {PLAIN}"));
        assert!(again.starts_with("503 5.5.1 "), "{again}");
        let reply = client.mail("a@a.example", &["b@b.example"], MAIL.as_bytes());
        assert!(is_queued(&reply), "{reply}");
        let delivered = chain.hop.wait_for(1).remove(0);
        assert_eq!(String::from_utf8_lossy(delivered.without_received()), MAIL);
        let line = loop {
            let line = chain.proxy.wait_for("message");
            if line["decision"] == "accept" {
                break line;
            }
        };
        assert_eq!(text(&line, "rule"), "ours", "{line}");
        let seen = format!("(proxy 127.0.0.1 name=- helo=client.example auth={mechanism})");
        assert!(text(&line, "verdicts").contains(&seen), "{line}");
    }
    // Whoever gives up, or does not know the password, is nobody.
    let mut client = chain.client();
    assert_eq!(client.say("AUTH LOGIN"), "334 VXNlcm5hbWU6");
    assert!(client.say("*").starts_with("501 "));
    let wrong = "AGFubkBteC5leGFtcGxlAG90aGVy";
    assert!(client.say(&format!("AUTH PLAIN {wrong}")).starts_with("535 5.7.8 "));
    let reply = client.mail("a@a.example", &["c@inside.example"], MAIL.as_bytes());
    assert_eq!(reply, "550 5.7.1 who are you");
    drop(client);
    for mechanism in ["PLAIN", "LOGIN"] {
        let (name, port) = (format!("{USER}@mx.example"), chain.proxy.port());
        let arguments = ["--from", "a@a.example", "--to", "b@b.example", "--body", "x"];
        let auth = ["--auth", mechanism, "--auth-user", &name, "--auth-password", PASSWORD];
        match swaks(port, &[&arguments[..], &auth].concat()) {
            None => not_run("AUTH of swaks through the proxy", "there is no swaks"),
            Some((is_sent, dialog)) => assert!(is_sent, "{dialog}"),
        }
    }
    chain.postfix.wait_for(&["sasl_method=LOGIN", &format!("sasl_username={USER}@mx.example")]);

    chain.proxy.terminate();
    let (code, lines) = chain.proxy.ended();
    assert_eq!(code, Some(0));
    let shown = TOLD.lock().expect("nobody panics with it").clone();
    assert!(shown.contains("client.example"), "this shows nothing: {shown}");
    let log: String = lines.iter().map(|line| format!("{line}\n")).collect();
    for secret in [PASSWORD, PLAIN, SECRET, NAME, wrong] {
        assert!(!log.contains(secret), "the log has {secret}");
        assert!(!shown.contains(secret), "a service saw {secret}");
    }
}

/// A message that spam-score refuses, put together here, and asks for it to be skipped.
fn gtube() -> Vec<u8> {
    let halves = ["XJS*C4JDBQADN1.NSBN3*2IDNEN*", "GTUBE-STANDARD-ANTI-UBE-TEST-EMAIL*C.34X"];
    format!("OPES-Bypass: *\r\n{MAIL}{}\r\n", halves.concat()).into_bytes()
}

/// OPES-Bypass is heard from who has authenticated, and from nobody else.
#[test]
fn who_has_authenticated_may_ask_for_services_to_be_skipped() {
    let folder = tempfile::tempdir().expect("a folder");
    let services = "[services.spam-score]\nbypassable = true\n";
    let server = CalloutServer::start(folder.path(), services, &[]);
    let config = format!(
        "[system]\nuri = \"https://opes.example.org/\"\nname = \"mx1\"\n[[group]]\nname = \"mail\"\n\
         services = [\"mail-from\", \"spam-score\"]\nservers = [\"{}\"]\n",
        server.address()
    );
    let Some(mut chain) = submitted("bypass through the proxy", &config) else { return };
    let reply = chain.client().mail("a@a.example", &["c@inside.example"], &gtube());
    assert!(reply.starts_with("550 5.7.1 "), "{reply}");
    let line = chain.proxy.wait_for("message");
    assert_eq!(
        (text(&line, "decision"), text(&line, "bypass")),
        ("reject".to_owned(), "ignored: *".to_owned())
    );
    let mut client = chain.client();
    assert!(client.say(&format!("AUTH PLAIN {PLAIN}")).starts_with("235 "));
    let reply = client.mail("a@a.example", &["c@inside.example"], &gtube());
    assert!(is_queued(&reply), "{reply}");
    let line = chain.proxy.wait_for("message");
    assert_eq!(text(&line, "bypass"), "ok: *", "{line}");
    assert!(text(&line, "verdicts").contains("spam-score=bypassed"), "{line}");
    let line = told(&line);
    assert!(line.starts_with("accept <a@a.example> -> <c@inside.example>\n"), "{line}");
    let delivered = chain.hop.wait_for(1).remove(0);
    let arrived = String::from_utf8_lossy(delivered.without_received()).into_owned();
    assert!(arrived.starts_with("OPES-System: https://opes.example.org/ ;"), "{arrived}");
    assert!(arrived.contains("; bypass=ok\r\nOPES-Bypass: *\r\n"), "{arrived}");
    assert!(arrived.as_bytes().ends_with(&gtube()));
    // The next one on the same connection has not.
    assert!(client.say("QUIT").starts_with("221 "));
    let reply = chain.client().mail("a@a.example", &["c@inside.example"], &gtube());
    assert!(reply.starts_with("550 5.7.1 "), "{reply}");
}
