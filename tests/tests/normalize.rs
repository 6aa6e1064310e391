//! Malformed messages and commands behind real mail servers: what arrives is compared with what should.

#![allow(missing_docs, clippy::indexing_slicing)]

use tests::gateway::{Gateway, told};
use tests::smtp::{Client, Delivered, NextHop};
use tests::{CalloutServer, Milter};

fn config(server: &CalloutServer) -> String {
    let address = server.address();
    format!("[[group]]\nname = \"g\"\nservices = [\"normalize\"]\nservers = [\"{address}\"]\n")
}

/// The fields that each of them has.
const BASE: &str = "Date: Thu, 1 Jan 2026 00:00:00 +0000\r\nFrom: <a@a.example>\r\n\
    To: <b@b.example>\r\nMessage-ID: <1@a.example>\r\n";
const MIXED: &str = "MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n";

/// A message, what becomes of it, and what is said.
struct Case {
    original: Vec<u8>,
    /// `B` is a boundary that nobody knows before.
    expected: String,
    verdict: &'static str,
}

fn case(original: impl AsRef<[u8]>, expected: &str, verdict: &'static str) -> Case {
    let original = [BASE.as_bytes(), original.as_ref()].concat();
    Case { original, expected: format!("{BASE}{expected}"), verdict }
}

fn cases() -> Vec<Case> {
    let right = format!("Subject: x\r\n{MIXED}\r\n--b\r\n\r\none\r\n--b--\r\n");
    let signed = "Subject: 1\r\nSubject: 2\r\nDKIM-Signature: x\r\n\r\nx\r\n";
    let long = "x".repeat(1_100);
    let words = |between: &str| vec!["y".repeat(69); 15].join(between);
    let encoded = format!("{}=\r\n", "x".repeat(75)).repeat(14) + &"x".repeat(50);
    vec![
        case(&right, &right, "unchanged"),
        case(signed, signed, "left (left: doubled-fields (Subject))"),
        case(
            b"Subject: Gr\xfc\xdfe\r\nTo: <c@b.example>\r\nCc: M\xc3\xbcller <m@b.example>\r\n\r\nGr\xfc\xdfe\r\n",
            "Subject: =?utf-8?B?R3LDvMOfZQ==?=\r\nCc: =?utf-8?B?TcO8bGxlcg==?= <m@b.example>\r\n\
             Content-Transfer-Encoding: 8bit\r\nContent-Type: text/plain; charset=\"windows-1252\"\r\n\
             MIME-Version: 1.0\r\n\r\nGr\\xfc\\xdfe\r\n",
            "corrected (doubled-fields (To), raw-fields (Subject, Cc), transfer-encoding (message), \
             charset (message), mime-version (MIME-Version))",
        ),
        case(
            format!("Subject: {}\r\n\r\n{long}\r\n", words(" ")),
            &format!(
                "Subject: {}\r\nContent-Transfer-Encoding: quoted-printable\r\nMIME-Version: 1.0\r\n\r\n\
                 {encoded}\r\n",
                words("\r\n ")
            ),
            "corrected (long-fields (Subject), long-lines (message), mime-version (MIME-Version))",
        ),
        case(
            format!(
                "Subject: x\r\n{MIXED}\r\n--b\r\nContent-Type: image/x-y\r\n\
                 Content-Transfer-Encoding: base64\r\n\r\naGVs*\r\nbG8\r\n--b\r\n\r\nlast\r\n"
            ),
            &format!(
                "Subject: x\r\n{MIXED}\r\n--b\r\nContent-Type: image/x-y\r\n\
                 Content-Transfer-Encoding: base64\r\n\r\naGVsbG8=\r\n--b\r\n\r\nlast\r\n--b--\r\n"
            ),
            "corrected (boundaries (message), base64 (part 1))",
        ),
        case(
            "Subject: x\r\n\r\nbefore\r\nbegin 644 cat.txt\r\n#0V%T\r\n`\r\nend\r\n",
            "Subject: x\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=\"B\"\r\n\r\n\
             --B\r\n\r\nbefore\r\n--B\r\nContent-Type: application/octet-stream\r\n\
             Content-Transfer-Encoding: base64\r\n\
             Content-Disposition: attachment; filename=\"cat.txt\"\r\n\r\nQ2F0\r\n--B--\r\n",
            "corrected (uuencode (message))",
        ),
    ]
}

/// With octets beyond ASCII escaped.
fn with_known_boundary(octets: &[u8]) -> String {
    let text = octets
        .escape_ascii()
        .to_string()
        .replace("\\r\\n", "\r\n")
        .replace("\\\"", "\"")
        .replace("\\'", "'");
    match text.find("\"=_").and_then(|at| text.get(at + 1..at + 35)) {
        Some(boundary) => text.replace(boundary, "B"),
        None => text,
    }
}

/// Each message of the cases, delivered, with what the log says of it.
fn check(port: u16, cases: Vec<Case>, mut arrived: impl FnMut() -> (Vec<u8>, String)) {
    for Case { original, expected, verdict } in cases {
        let mut client = Client::greeted(port);
        let reply = client.mail("a@a.example", &["b@b.example"], &original);
        assert!(reply.starts_with("250 "), "{reply}");
        let (octets, told) = arrived();
        assert_eq!(with_known_boundary(&octets), expected);
        assert!(told.ends_with(&format!(", normalize={verdict}")), "{told}");
    }
}

/// Paths of MAIL and RCPT, and what the first one is answered that is refused.
const REFUSED: [(&str, &str, &str); 4] = [
    ("<a@[192.0.2]>", "<b@b.example>", "501 5.1.7 Bad sender address syntax"),
    ("<a@a.example>", "<b%c@b.example>", "550 5.7.1 No relaying by address here"),
    ("<a@a.example>", "<c!b@b.example>", "550 5.7.1 No relaying by address here"),
    ("<a@a.example>", "<\"b|c@d\"@b.example>", "553 5.1.3 Local part refused"),
];

/// Paths of MAIL and RCPT that have another form.
const CORRECTED: [(&str, &str); 2] = [
    ("<@r.example,@s.example:a@a.example>", "<@r.example:b@b.example>"),
    ("<\"a\"@a.example>", "<\"b\"@b.example>"),
];

/// The next line about a message that was not refused.
fn taken(mut told: impl FnMut() -> String) -> String {
    loop {
        let told = told();
        if ["accept ", "modify "].iter().any(|taken| told.starts_with(taken)) {
            return told;
        }
    }
}

/// What becomes of commands.
fn check_commands(port: u16, mut arrived: impl FnMut() -> (Delivered, String)) {
    for (sender, recipient, expected) in REFUSED {
        let mut client = Client::greeted(port);
        let mut reply = client.say(&format!("MAIL FROM:{sender}"));
        if reply.starts_with("250 ") {
            reply = client.say(&format!("RCPT TO:{recipient}"));
        }
        // Postfix and the proxy check a syntax themselves.
        let (code, _) = expected.split_once(' ').expect("a reply has a code");
        let is_syntax = code == "501" && reply.starts_with("501 ");
        assert!(reply == expected || is_syntax, "{sender} {recipient}: {reply}");
    }
    for (sender, recipient) in CORRECTED {
        let is_quoted = sender.contains('"');
        let mut client = Client::greeted(port);
        for command in [format!("MAIL FROM:{sender}"), format!("RCPT TO:{recipient}")] {
            let reply = client.say(&command);
            assert!(reply.starts_with("250 "), "{command}: {reply}");
        }
        let reply = client.data(format!("{BASE}\r\nx\r\n").as_bytes());
        assert!(reply.starts_with("250 "), "{reply}");
        let (Delivered { sender, recipients, .. }, told) = arrived();
        assert_eq!(
            (&sender[..], &recipients[..]),
            ("a@a.example", &["b@b.example".to_owned()][..])
        );
        // The proxy leaves a source route out before services see it.
        assert!(!is_quoted || told.contains("normalize=corrected (quotes), "), "{told}");
    }
    let (mut client, _) = Client::connect(port);
    let mut reply = client.say("EHLO [192.0.2");
    if reply.starts_with("250") {
        // Postfix waits for the sender before it refuses.
        reply = client.say("MAIL FROM:<a@a.example>");
    }
    assert_eq!(reply, "501 5.5.4 Bad name");
}

#[test]
fn malformed_mail_behind_postfix() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = CalloutServer::start(folder.path(), "", &[]);
    let story = "normalize through Postfix";
    let Some(mut gateway) = Gateway::start(story, &config(&server), &[]) else { return };
    // Postfix has put right what it reads as the end of a line before milters see it; where a line is no field
    // it ends the header section, and it cuts a field at NUL.
    let mut cases = cases();
    let lines = "Subject: a b\r\n\r\none two\r\nthree\r\n";
    cases.push(case("Subject: a\rb\r\n\r\none\rtwo\nthree\r\n", lines, "unchanged"));
    let ended = "Subject: x\r\n\r\nno field\r\nX: y\r\n\r\nx\r\n";
    cases.push(case("Subject: x\r\nno field\r\nX: y\r\n\r\nx\r\n", ended, "unchanged"));
    let nul = "Subject: a\r\n\r\none two\r\n";
    cases.push(case("Subject: a\0b\r\n\r\none\0two\r\n", nul, "corrected (nul (body))"));
    let port = gateway.port();
    check(port, cases, || {
        let delivered = gateway.hop.wait_for(1).remove(0);
        (delivered.without_received().to_vec(), gateway.told())
    });
    let mut client = Client::greeted(port);
    assert!(
        client
            .mail("a@a.example", &["b@b.example"], b"Subject: x\r\n\r\nx\r\n")
            .starts_with("250 ")
    );
    let delivered = gateway.hop.wait_for(1).remove(0);
    let text = String::from_utf8_lossy(delivered.without_received()).into_owned();
    for name in ["Date", "Message-ID"] {
        assert_eq!(text.matches(&format!("\r\n{name}: ")).count(), 1, "{text}");
    }
    let told = gateway.told();
    assert!(told.ends_with("normalize=corrected (date (Date), message-id (Message-ID))"), "{told}");
    check_commands(port, || (gateway.hop.wait_for(1).remove(0), taken(|| gateway.told())));
}

#[test]
fn malformed_mail_by_the_proxy() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = CalloutServer::start(folder.path(), "", &[]);
    let hop = NextHop::start();
    let next_hop = format!("127.0.0.1:{}", hop.port);
    let arguments = ["--listen", "127.0.0.1:0", "--next-hop", &next_hop];
    let mut proxy = Milter::start_proxy_with(&arguments, folder.path(), &config(&server));
    let mut cases = cases();
    cases.push(case(
        "Subject: a\0b\r\nno field\r\nX : y\r\n\r\none\0two\r\n",
        "Subject: a b\r\nX-Invalid-Line: no field\r\nX: y\r\n\r\none two\r\n",
        "corrected (nul (header, body), header-lines (message))",
    ));
    let port = proxy.port();
    check(port, cases, || (hop.wait_for(1).remove(0).octets, told(&proxy.wait_for("message"))));
    // Where a line ends is not for services to say: the proxy takes CRLF alone.
    for bare in ["a\rb\r\n", "a\nb\r\n"] {
        let mut client = Client::greeted(port);
        let mail = format!("{BASE}\r\n{bare}");
        let reply = client.mail("a@a.example", &["b@b.example"], mail.as_bytes());
        assert!(reply.starts_with("550 5.6.0 "), "{reply}");
        assert!(told(&proxy.wait_for("message")).starts_with("reject "));
    }
    check_commands(port, || {
        (hop.wait_for(1).remove(0), taken(|| told(&proxy.wait_for("message"))))
    });
    let refusing = "[services.normalize.settings.message]\ndoubled-fields = \"reject\"\n";
    let server = CalloutServer::start(folder.path(), refusing, &[]);
    let mut proxy = Milter::start_proxy_with(&arguments, folder.path(), &config(&server));
    let mut client = Client::greeted(proxy.port());
    let mail = format!("{BASE}To: <c@b.example>\r\n\r\nx\r\n");
    let reply = client.mail("a@a.example", &["b@b.example"], mail.as_bytes());
    assert!(reply.starts_with("554 5.6.0 The message is malformed"), "{reply}");
    let told = told(&proxy.wait_for("message"));
    assert!(told.ends_with("normalize=refused (doubled-fields (To))"), "{told}");
}
