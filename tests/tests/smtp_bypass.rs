//! Senders who ask `opes-mta smtp` by MAIL for services to be skipped.

#![allow(missing_docs, clippy::indexing_slicing)]

use tests::smtp::{Client, Instead, NextHop};
use tests::{CalloutServer, Milter, text};

const MAIL: &str = "Subject: x\r\n\r\nbody\r\n";

/// A text that spam-score refuses, put together here.
fn gtube() -> Vec<u8> {
    let halves = ["XJS*C4JDBQADN1.NSBN3*2IDNEN*", "GTUBE-STANDARD-ANTI-UBE-TEST-EMAIL*C.34X"];
    format!("Subject: x\r\n\r\n{}\r\n", halves.concat()).into_bytes()
}

struct Chain {
    _server: CalloutServer,
    proxy: Milter,
    hop: NextHop,
    _folder: tempfile::TempDir,
}

/// A proxy whose services judge senders and look for spam; both may be skipped.
fn chain(hop: NextHop, more: &str) -> Chain {
    let folder = tempfile::tempdir().expect("a folder");
    let services = "[services.spam-score]\nbypassable = true\n[services.mail-from]\nbypassable = true\n\
                    [services.mail-from.settings]\ndeny = [\"denied.example\"]\n";
    let server = CalloutServer::start(folder.path(), services, &[]);
    let config = format!(
        "{more}[[group]]\nname = \"mail\"\nservers = [\"{}\"]\n\
         services = [\"mail-from\", \"spam-score\"]\n",
        server.address()
    );
    let next_hop = format!("127.0.0.1:{}", hop.port);
    let proxy = Milter::start_proxy("127.0.0.1:0", &next_hop, folder.path(), &config);
    Chain { _server: server, proxy, hop, _folder: folder }
}

/// Says MAIL, and the rest of a message if that is taken: the last reply.
fn mail(client: &mut Client, line: &str, message: &[u8]) -> String {
    let reply = client.say(line);
    if !reply.starts_with("250") {
        return reply;
    }
    client.say("RCPT TO:<b@b.example>");
    client.data(message)
}

/// OPES-4902-4-04, OPES-BIND-17, OPES-BIND-19
#[test]
fn what_may_be_skipped_is_skipped_from_mail_on() {
    let mut chain = chain(NextHop::start(), "[bypass]\nclients = [\"127.0.0.1\"]\n");
    let mut client = Client::greeted(chain.proxy.port());
    for (parameter, told) in [
        ("XOPES-BYPASS=*", "ok: *"),
        (
            "xopes-bypass=ocp://service/mail-from,ocp://service/spam-score",
            "ok: ocp://service/mail-from ocp://service/spam-score",
        ),
    ] {
        let line = format!("MAIL FROM:<a@denied.example> {parameter} BODY=8BITMIME");
        assert_eq!(mail(&mut client, &line, &gtube()), "250 2.0.0 taken");
        let delivered = chain.hop.wait_for(1).remove(0);
        assert_eq!(delivered.parameters[0], "BODY=8BITMIME", "the next hop does not speak of it");
        let line = chain.proxy.wait_for("message");
        assert_eq!(text(&line, "bypass"), told, "{line}");
        assert!(text(&line, "verdicts").contains("mail-from=bypassed"), "{line}");
    }
    // For that message alone.
    assert!(mail(&mut client, "MAIL FROM:<a@a.example>", &gtube()).starts_with("550 5.7.1 "));
    let some = "MAIL FROM:<a@a.example> XOPES-BYPASS=ocp://service/mail-from";
    assert!(mail(&mut client, some, &gtube()).starts_with("550 5.7.1 "));
}

/// OPES-BIND-18
#[test]
fn a_request_that_can_not_be_read_is_refused() {
    let chain = chain(NextHop::start(), "");
    let mut client = Client::greeted(chain.proxy.port());
    for parameter in ["XOPES-BYPASS", "XOPES-BYPASS=", "XOPES-BYPASS=+0A", "XOPES-BYPASS=+"] {
        let reply = client.say(&format!("MAIL FROM:<a@a.example> {parameter}"));
        assert!(reply.starts_with("501 5.5.4 "), "{parameter}: {reply}");
    }
    let uris = format!("ocp://service/{}", "x".repeat(900));
    let line = format!("MAIL FROM:<a@a.example> XOPES-BYPASS={uris}");
    assert_eq!(
        mail(&mut client, &line, MAIL.as_bytes()),
        "250 2.0.0 taken",
        "it is long, and no more"
    );
}

/// Who is not heard skips nothing, and whoever is next hears of the request if it speaks of such ones.
/// OPES-BIND-19
#[test]
fn a_request_goes_on_whoever_is_heard() {
    let hop = NextHop::unless(|line| {
        line.starts_with("EHLO").then(|| Instead::say("250-next.example\r\n250 XOPES-BYPASS"))?
    });
    let mut chain = chain(hop, "");
    let mut client = Client::greeted(chain.proxy.port());
    let line = "MAIL FROM:<a@a.example> XOPES-BYPASS=*";
    assert!(mail(&mut client, line, &gtube()).starts_with("550 5.7.1 "));
    assert_eq!(text(&chain.proxy.wait_for("message"), "bypass"), "ignored: *");
    assert_eq!(mail(&mut client, line, MAIL.as_bytes()), "250 2.0.0 taken");
    assert_eq!(chain.hop.wait_for(1)[0].parameters[0], "XOPES-BYPASS=*");
}

/// Where it is switched off the next hop decides, as with any parameter.
#[test]
fn it_is_not_offered_where_it_is_switched_off() {
    let hop = NextHop::unless(|line| {
        line.contains("XOPES").then(|| Instead::say("555 5.5.4 unknown parameter"))?
    });
    let chain = chain(hop, "[bypass]\nxopes-bypass = false\n");
    let (mut client, _) = Client::connect(chain.proxy.port());
    assert!(!client.say("EHLO client.example").contains("XOPES"));
    let reply = client.say("MAIL FROM:<a@a.example> XOPES-BYPASS=*");
    assert_eq!(reply, "555 5.5.4 unknown parameter");
}
