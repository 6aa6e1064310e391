use ocp_proto::smtp::Reply;

use super::*;
use crate::smtp::line::LONGEST_AUTH_LINE;

fn reply(line: &str) -> Reply {
    Reply::parse(format!("{line}\r\n")).unwrap()
}

/// A session, what it was given, and what it has written.
struct Talk {
    session: Session,
    input: BytesMut,
    out: BytesMut,
}

impl Talk {
    fn new(settings: Settings) -> Self {
        let mut talk =
            Self { session: Session::new(settings), input: BytesMut::new(), out: BytesMut::new() };
        talk.answer("220 ready");
        talk.out.clear();
        talk
    }

    fn smtp() -> Self {
        Self::new(Settings::default())
    }

    fn lmtp() -> Self {
        Self::new(Settings { protocol: Protocol::Lmtp, ..Settings::default() })
    }

    fn answer(&mut self, line: &str) {
        self.session.answer(&reply(line), &mut self.out).unwrap();
    }

    fn receive(&mut self) -> Option<Event> {
        self.session.receive(&mut self.input)
    }

    /// Sends lines, all at once, of which each is answered so if it may come.
    fn say(&mut self, lines: &[(&str, &str)]) -> &mut Self {
        for (line, _) in lines {
            self.input.extend_from_slice(format!("{line}\r\n").as_bytes());
        }
        for (line, answer) in lines {
            let Some(Event::Command(request)) = self.receive() else { panic!("{line}") };
            assert_eq!(request.octets(), line);
            self.answer(answer);
        }
        self
    }

    /// A message up to its recipients.
    fn recipients(mut self, mail: &str, count: usize) -> Self {
        let hello =
            if self.session.settings.protocol == Protocol::Lmtp { "LHLO x" } else { "EHLO x" };
        self.say(&[(hello, "250 x"), (mail, "250 ok")]);
        (0..count).for_each(|n| {
            self.say(&[(&format!("RCPT TO:<r{n}@x>"), "250 ok")]);
        });
        self.out.clear();
        self
    }

    /// What is refused, and what is written for it.
    fn refused(&mut self, octets: &str) -> String {
        self.input.extend_from_slice(octets.as_bytes());
        let event = self.receive();
        let Some(Event::Refused(_)) = event else { panic!("{octets:?}: {event:?}") };
        self.out.clear();
        self.session.refuse(&mut self.out).unwrap();
        String::from_utf8(self.out.split().to_vec()).unwrap()
    }

    fn is_accepted(&mut self, line: &str) -> bool {
        self.input.extend_from_slice(format!("{line}\r\n").as_bytes());
        matches!(self.receive(), Some(Event::Command(_)))
    }

    /// The octets of the content that has come, and the event behind it.
    fn content(&mut self) -> (Vec<u8>, Option<Event>) {
        let mut content = Vec::new();
        loop {
            match self.receive() {
                Some(Event::Content(octets)) => content.extend_from_slice(&octets),
                event => return (content, event),
            }
        }
    }
}

#[test]
fn every_refusal_is_a_reply() {
    for refusal in [
        Refusal::LineTooLong,
        Refusal::AuthLineTooLong,
        Refusal::LineOctet,
        Refusal::Verb,
        Refusal::Arguments("EHLO name"),
        Refusal::UnknownChunk,
        Refusal::Sender,
        Refusal::Recipient,
        Refusal::Parameters,
        Refusal::TurnedAway,
        Refusal::NotSmtp,
        Refusal::NotLmtp,
        Refusal::First("EHLO"),
        Refusal::NestedMail,
        Refusal::NoRecipients,
        Refusal::TooManyRecipients,
        Refusal::ContentBegun,
        Refusal::Mixed,
        Refusal::Binary,
        Refusal::ChunkRefused,
        Refusal::ChunkTooLarge,
        Refusal::WithinMessage("AUTH"),
        Refusal::Authenticated,
        Refusal::Secure,
        Refusal::Injected,
    ] {
        let reply = reply(&refusal.to_string());
        assert!(reply.is_permanent() || refusal == Refusal::TooManyRecipients, "{reply}");
    }
}

#[test]
fn a_message_with_pipelining() {
    let mut talk = Talk::smtp();
    talk.say(&[
        ("EHLO client.example", "250 x"),
        ("MAIL FROM:<a@b> SIZE=3", "250 sender"),
        ("RCPT TO:<c@d>", "250 one"),
        ("RCPT TO:<e@f>", "550 no"),
        ("RCPT TO:<g@h>", "251 two"),
        ("DATA", "354 go on"),
    ]);
    let written = "250 x\r\n250 sender\r\n250 one\r\n550 no\r\n251 two\r\n354 go on\r\n";
    assert_eq!(talk.out.split(), written, "in one buffer");
    let envelope = talk.session.envelope();
    assert_eq!(envelope.sender.as_ref().unwrap().parameters, ["SIZE=3"]);
    let paths: Vec<_> = envelope.recipients.iter().map(ToString::to_string).collect();
    assert_eq!(paths, ["<c@d>", "<g@h>"]);
    talk.input.extend_from_slice(b"..a\r\nb\n\r\n.\r\nQUIT\r\n");
    let (content, event) = talk.content();
    assert_eq!(
        (&content[..], event),
        (&b".a\r\nb\n\r\n"[..], Some(Event::ContentEnd(Replies::One)))
    );
    assert_eq!(talk.session.bare(), Some(Bare { at: 5, octet: b'\n' }));
    assert_eq!(talk.session.octets(), 8);
    assert!(talk.session.awaits_reply());
    assert_eq!(talk.receive(), None, "QUIT waits for the reply to the content");
    talk.answer("250 taken");
    assert_eq!(*talk.session.envelope(), Envelope::default());
    let Some(Event::Command(Request { command: Command::Quit, .. })) = talk.receive() else {
        panic!()
    };
    talk.answer("221 bye");
    assert!(talk.session.is_over());
    talk.input.extend_from_slice(b"NOOP\r\n");
    assert_eq!((talk.receive(), talk.input.len()), (None, 0));
}

/// Which commands may come at which stage, and what is said where they may not.
#[test]
fn the_order_is_that_of_the_table() {
    let start = "503 5.5.1 Send EHLO first\r\n";
    let mail = "503 5.5.1 Send MAIL first\r\n";
    let within = |name| format!("503 5.5.1 {name} comes before MAIL\r\n");
    let nested = "503 5.5.1 A message has already begun\r\n";
    let nobody = "503 5.5.1 No valid recipients\r\n";
    let refused = "503 5.5.1 A chunk was refused, send RSET\r\n";
    let ok = "";
    let stages: [fn() -> Talk; 6] = [
        Talk::smtp,
        || {
            let mut talk = Talk::smtp();
            talk.say(&[("EHLO x", "250 x")]);
            talk
        },
        || Talk::smtp().recipients("MAIL FROM:<>", 0),
        || Talk::smtp().recipients("MAIL FROM:<>", 1),
        || {
            let mut talk = Talk::smtp().recipients("MAIL FROM:<>", 1);
            assert!(talk.is_accepted("BDAT 0"));
            assert_eq!(talk.receive(), Some(Event::ChunkEnd));
            talk.answer("250 ok");
            talk
        },
        || {
            let mut talk = Talk::smtp().recipients("MAIL FROM:<>", 1);
            assert!(talk.is_accepted("BDAT 0"));
            assert_eq!(talk.receive(), Some(Event::ChunkEnd));
            talk.answer("452 full");
            talk
        },
    ];
    let (auth, xclient) = (within("AUTH"), within("XCLIENT"));
    let rows: [(&str, [&str; 6]); 15] = [
        ("EHLO x", [ok; 6]),
        ("HELO x", [ok; 6]),
        ("LHLO x", ["500 5.5.1 SMTP begins with EHLO\r\n"; 6]),
        ("STARTTLS", [start, ok, ok, ok, ok, ok]),
        ("AUTH PLAIN", [start, ok, &auth, &auth, &auth, &auth]),
        ("XCLIENT NAME=x", [ok, ok, &xclient, &xclient, &xclient, &xclient]),
        ("MAIL FROM:<a@b>", [start, ok, nested, nested, nested, refused]),
        (
            "RCPT TO:<a@b>",
            [start, mail, ok, ok, "503 5.5.1 The content has already begun\r\n", refused],
        ),
        ("DATA", [start, mail, nobody, ok, "503 5.5.1 DATA and BDAT do not mix\r\n", refused]),
        ("BDAT 0 LAST", [start, mail, nobody, ok, ok, refused]),
        ("RSET", [ok; 6]),
        ("NOOP", [ok; 6]),
        ("VRFY x", [ok; 6]),
        ("X-OTHER", [ok; 6]),
        ("QUIT", [ok; 6]),
    ];
    for (line, expected) in rows {
        for (stage, expected) in stages.iter().zip(expected) {
            let mut talk = stage();
            if expected.is_empty() {
                assert!(talk.is_accepted(line), "{line} at {:?}", talk.session.stage);
            } else {
                let stage = talk.session.stage;
                assert_eq!(talk.refused(&format!("{line}\r\n")), expected, "{line} at {stage:?}");
                assert_eq!(talk.session.stage, stage, "nothing has changed");
            }
        }
    }
}

#[test]
fn what_is_refused_changes_nothing() {
    let mut talk = Talk::smtp();
    talk.say(&[("EHLO x", "550 no"), ("NOOP", "250 ok")]);
    assert_eq!(talk.refused("MAIL FROM:<>\r\n"), "503 5.5.1 Send EHLO first\r\n");
    talk.say(&[("HELO x", "250 x"), ("MAIL FROM:<a@b>", "451 later")]);
    assert_eq!(talk.refused("RCPT TO:<a@b>\r\n"), "503 5.5.1 Send MAIL first\r\n");
    talk.say(&[("MAIL FROM:<a@b>", "250 ok"), ("RCPT TO:<a@b>", "550 no")]);
    assert_eq!(talk.refused("DATA\r\n"), "503 5.5.1 No valid recipients\r\n");
    talk.say(&[("RCPT TO:<c@d>", "250 ok"), ("DATA", "451 later"), ("EHLO x", "501 no")]);
    assert_eq!(talk.session.envelope().recipients.len(), 1, "the message is still there");
    // BDAT is an extension, and HELO has none; its octets are no commands all the same.
    assert_eq!(talk.refused("BDAT 6\r\nQUIT\r\n"), "503 5.5.1 Send EHLO first\r\n");
    talk.say(&[("RSET", "250 ok")]);
    assert_eq!(*talk.session.envelope(), Envelope::default());
}

#[test]
fn invalid_lines_are_refused_and_passed_over() {
    let mut talk = Talk::smtp();
    talk.say(&[("EHLO x", "250 x")]);
    for (octets, expected) in [
        ("NOOP\nQUIT\r\n", "500 5.5.2 Lines end with CRLF, and have no other CR, LF or NUL\r\n"),
        ("\r\n", "500 5.5.2 Command not recognized\r\n"),
        ("DATA now\r\n", "501 5.5.4 Syntax: DATA\r\n"),
        ("MAIL FROM:a@b\r\n", "501 5.1.7 Bad sender address syntax\r\n"),
        ("RCPT TO:<>\r\n", "501 5.1.3 Bad recipient address syntax\r\n"),
        ("MAIL FROM:<> A=\r\n", "501 5.5.4 Bad parameters\r\n"),
        (&format!("NOOP {}\r\n", "a".repeat(2_044)), "500 5.5.2 Line too long\r\n"),
    ] {
        assert_eq!(talk.refused(octets), expected);
        assert_eq!(talk.receive(), None);
        talk.say(&[("NOOP", "250 ok")]);
    }
    // The line of a chunk: what follows can't be told from its octets.
    for line in ["BDAT\r\n", "BDAT 1x\r\n", "BDAT 18446744073709551616\r\n", "BDAT 5\n"] {
        let mut talk = Talk::smtp().recipients("MAIL FROM:<>", 1);
        let expected = "501 5.5.4 Syntax: BDAT size [LAST]\r\n";
        assert_eq!(talk.refused(&format!("{line}QUIT\r\n")), expected);
        assert_eq!((talk.session.is_over(), talk.receive()), (true, None));
    }
}

#[test]
fn content_ends_a_message_whatever_the_reply() {
    for answer in ["250 taken", "451 later", "550 no"] {
        for content in ["DATA\r\n.\r\n", "BDAT 1 LAST\r\na"] {
            let mut talk = Talk::smtp().recipients("MAIL FROM:<> BODY=8BITMIME", 1);
            talk.input.extend_from_slice(content.as_bytes());
            assert!(matches!(talk.receive(), Some(Event::Command(_))));
            if talk.session.awaits_reply() {
                talk.answer("354 go on");
            }
            assert_eq!(talk.content().1, Some(Event::ContentEnd(Replies::One)));
            assert_eq!(talk.session.envelope().recipients.len(), 1);
            talk.answer(answer);
            assert_eq!(*talk.session.envelope(), Envelope::default());
            talk.say(&[("MAIL FROM:<>", "250 ok")]);
            assert_eq!(talk.refused("DATA\r\n"), "503 5.5.1 No valid recipients\r\n");
        }
    }
}

/// 30 MB of content pass, and nothing of it stays.
#[test]
fn large_content_is_handed_on() {
    let mut talk = Talk::smtp().recipients("MAIL FROM:<>", 1);
    talk.say(&[("DATA", "354 go on")]);
    let piece = b"A line of some length, as they are.\r\n..\r\n".repeat(1_500);
    let (mut octets, mut most) = (0, 0);
    while octets < 30_000_000 {
        talk.input.extend_from_slice(&piece);
        while let Some(event) = talk.receive() {
            let Event::Content(content) = event else { panic!("{event:?}") };
            octets += content.len();
        }
        most = most.max(talk.input.len());
    }
    assert!(most <= 2, "{most} octets are kept");
    assert_eq!(talk.session.octets(), octets as u64);
    talk.input.extend_from_slice(b".\r\n");
    assert_eq!(talk.receive(), Some(Event::ContentEnd(Replies::One)));
    assert_eq!(talk.session.bare(), None);
}

#[test]
fn content_in_chunks() {
    let mut talk = Talk::smtp().recipients("MAIL FROM:<> BODY=binarymime", 1);
    assert_eq!(talk.refused("DATA\r\n"), "503 5.5.1 BINARYMIME comes with BDAT\r\n");
    talk.input.extend_from_slice(b"BDAT 5\r\na\r\n.\rBDAT 6 LAST\r\n\n.\r\nb\nQUIT\r\n");
    let Some(Event::Command(request)) = talk.receive() else { panic!() };
    assert_eq!(request.command, Command::Bdat(Chunk { size: 5, last: false }));
    assert!(!talk.session.awaits_reply(), "its octets come first");
    assert_eq!(talk.content(), (b"a\r\n.\r".to_vec(), Some(Event::ChunkEnd)));
    talk.answer("250 5 octets");
    assert!(matches!(talk.receive(), Some(Event::Command(_))));
    let end = Some(Event::ContentEnd(Replies::One));
    assert_eq!(talk.content(), (b"\n.\r\nb\n".to_vec(), end));
    let bare = Bare { at: 10, octet: b'\n' };
    assert_eq!(talk.session.bare(), Some(bare), "CR and LF in two chunks are a line end");
    talk.answer("250 taken");
    assert!(matches!(talk.receive(), Some(Event::Command(_))));
}

#[test]
fn the_octets_of_a_refused_chunk_are_no_commands() {
    let settings = || Settings { largest_chunk: 6, ..Settings::default() };
    let octets = "BDAT 7\r\nQUIT\r\n.BDAT 6 LAST\r\nRSET\r\nNOOP\r\n";
    for size in 1..octets.len() {
        let mut talk = Talk::new(settings()).recipients("MAIL FROM:<>", 1);
        let mut written = String::new();
        for piece in octets.as_bytes().chunks(size) {
            talk.input.extend_from_slice(piece);
            while let Some(event) = talk.receive() {
                match event {
                    Event::Refused(_) => talk.session.refuse(&mut talk.out).unwrap(),
                    Event::Command(request) => {
                        written.push_str(request.command.name());
                        talk.answer("250 ok");
                    }
                    other => panic!("{other:?}"),
                }
            }
        }
        assert_eq!(written, "NOOP");
        let expected = "552 5.3.4 Chunk too large\r\n\
                        503 5.5.1 A chunk was refused, send RSET\r\n\
                        250 ok\r\n";
        assert_eq!(talk.out, expected);
        assert_eq!(*talk.session.envelope(), Envelope::default());
    }
    // The last one ends the message, and LMTP has a reply for each recipient.
    let mut talk = Talk::new(Settings { protocol: Protocol::Lmtp, ..settings() });
    talk = talk.recipients("MAIL FROM:<>", 2);
    let expected = "552 5.3.4 Chunk too large\r\n".repeat(2);
    assert_eq!(talk.refused("BDAT 7 LAST\r\n1234567"), expected);
    talk.say(&[("MAIL FROM:<>", "250 ok")]);
}

#[test]
fn lmtp_has_a_reply_for_each_recipient() {
    let mut talk = Talk::lmtp();
    assert_eq!(talk.refused("EHLO x\r\n"), "500 5.5.1 LMTP begins with LHLO\r\n");
    assert_eq!(talk.refused("MAIL FROM:<>\r\n"), "503 5.5.1 Send LHLO first\r\n");
    for content in ["BDAT 1 LAST\r\na", "DATA\r\n.\r\n"] {
        let mut talk = Talk::lmtp().recipients("MAIL FROM:<> PRDR", 2);
        talk.input.extend_from_slice(content.as_bytes());
        assert!(matches!(talk.receive(), Some(Event::Command(_))));
        if talk.session.awaits_reply() {
            talk.answer("354 go on");
        }
        assert_eq!(talk.content().1, Some(Event::ContentEnd(Replies::Recipients)));
        let announced = talk.session.answer(&reply("353 x"), &mut talk.out);
        assert_eq!(
            announced.unwrap_err().to_string(),
            "353 is no reply to the content of a recipient"
        );
        talk.answer("250 one");
        assert!(talk.session.awaits_reply());
        talk.answer("550 two");
        assert!(!talk.session.awaits_reply());
        talk.say(&[("MAIL FROM:<>", "250 ok")]);
    }
}

#[test]
fn prdr_has_one_reply_or_one_for_each_and_one_for_all() {
    let content = |talk: &mut Talk| {
        talk.say(&[("DATA", "354 go on")]);
        talk.input.extend_from_slice(b".\r\n");
        let (_, event) = talk.content();
        talk.out.clear();
        event
    };
    let mut talk = Talk::smtp().recipients("MAIL FROM:<> prdr", 2);
    assert_eq!(content(&mut talk), Some(Event::ContentEnd(Replies::OneOrRecipients)));
    for line in ["353 content", "250 one", "550 two"] {
        talk.answer(line);
        assert!(talk.session.awaits_reply(), "{line}");
    }
    talk.answer("250 all");
    assert_eq!(talk.out.split(), "353 content\r\n250 one\r\n550 two\r\n250 all\r\n");
    talk.say(&[("NOOP", "250 ok")]);
    let mut talk = Talk::smtp().recipients("MAIL FROM:<> PRDR", 2);
    content(&mut talk);
    talk.answer("550 all");
    talk.say(&[("NOOP", "250 ok")]);
    // Who has not asked for it does not get it.
    let mut talk = Talk::smtp().recipients("MAIL FROM:<>", 2);
    assert_eq!(content(&mut talk), Some(Event::ContentEnd(Replies::One)));
    let announced = talk.session.answer(&reply("353 x"), &mut talk.out);
    assert_eq!(announced, Err(Misuse::Reply { code: 353, to: "the content" }));
    assert!(talk.out.is_empty());
}

#[test]
fn tls_begins_a_session_anew() {
    let mut talk = Talk::smtp().recipients("MAIL FROM:<>", 1);
    assert_eq!(talk.session.secured(), Err(Misuse::NotTls));
    talk.say(&[("STARTTLS", "454 not now")]).say(&[("STARTTLS", "220 go on")]);
    assert_eq!(talk.session.secured(), Err(Misuse::NotTls));
    assert_eq!(talk.receive(), Some(Event::StartTls));
    assert_eq!(talk.receive(), None, "it is told once");
    talk.session.secured().unwrap();
    assert!(talk.session.is_secure());
    assert_eq!(*talk.session.envelope(), Envelope::default());
    for line in ["RCPT TO:<a@b>\r\n", "AUTH PLAIN\r\n"] {
        assert_eq!(talk.refused(line), "503 5.5.1 Send EHLO first\r\n");
    }
    talk.say(&[("EHLO x", "250 x")]);
    assert_eq!(talk.refused("STARTTLS\r\n"), "503 5.5.1 TLS is already active\r\n");
}

#[test]
fn nothing_gets_into_tls_from_before() {
    let expected = "503 5.5.1 Nothing comes behind STARTTLS before TLS\r\n";
    let mut talk = Talk::smtp();
    talk.say(&[("EHLO x", "250 x")]);
    assert_eq!(talk.refused("STARTTLS\r\nRSET\r\n"), expected);
    assert!(talk.session.is_over());
    // Or behind the reply.
    for octets in ["R", "RSET\r\n"] {
        let mut talk = Talk::smtp();
        talk.say(&[("EHLO x", "250 x")]).say(&[("STARTTLS", "220 go on")]);
        assert_eq!(talk.refused(octets), expected);
        assert_eq!((talk.session.is_over(), talk.receive()), (true, None));
        assert_eq!(talk.session.secured(), Err(Misuse::NotTls));
    }
}

#[test]
fn the_exchange_of_auth_is_opaque() {
    let mut talk = Talk::smtp();
    talk.say(&[("EHLO x", "250 x"), ("AUTH PLAIN", "334 ")]);
    talk.input.extend_from_slice(b"QUIT\r\nc2VjcmV0\r\n");
    let Some(Event::AuthLine(line)) = talk.receive() else { panic!() };
    assert_eq!((line.octets(), format!("{line:?}")), (&"QUIT".into(), "Secret(4 octets)".into()));
    talk.answer("334 Lg==");
    assert!(matches!(talk.receive(), Some(Event::AuthLine(_))));
    talk.answer("535 5.7.8 no");
    assert!(!talk.session.is_authenticated());
    let long = format!("{}\r\n", "a".repeat(LONGEST_AUTH_LINE + 1));
    for (octets, expected) in [
        ("a\nb\r\n", "500 5.5.2 Lines end with CRLF, and have no other CR, LF or NUL\r\n"),
        (&long, "500 5.5.6 Authentication exchange line is too long\r\n"),
    ] {
        talk.say(&[("AUTH PLAIN", "334 ")]);
        assert_eq!(talk.refused(octets), expected);
    }
    talk.say(&[("AUTH PLAIN c2VjcmV0", "235 yes")]);
    assert!(talk.session.is_authenticated());
    assert_eq!(talk.refused("AUTH PLAIN\r\n"), "503 5.5.1 Already authenticated\r\n");
    talk.say(&[("EHLO y", "250 y"), ("XCLIENT NAME=x", "220 ready")]);
    assert!(!talk.session.is_authenticated(), "that was somebody else");
    assert_eq!(talk.refused("MAIL FROM:<>\r\n"), "503 5.5.1 Send EHLO first\r\n");
}

#[test]
fn a_session_ends_where_it_is_said() {
    let mut talk = Talk::smtp();
    talk.say(&[("NOOP", "421 closing")]);
    assert!(talk.session.is_over());
    let mut talk = Talk::smtp();
    talk.session.hang_up(&reply("421 4.4.2 timeout"), &mut talk.out);
    assert_eq!((talk.session.is_over(), &talk.out[..]), (true, &b"421 4.4.2 timeout\r\n"[..]));
    let mut session = Session::new(Settings::default());
    let (mut out, mut input) = (BytesMut::new(), BytesMut::from(&b"EHLO x\r\nQUIT\r\n"[..]));
    assert_eq!(session.receive(&mut input), None, "not before the greeting");
    session.answer(&reply("554 no"), &mut out).unwrap();
    assert_eq!(session.receive(&mut input), Some(Event::Refused(Refusal::TurnedAway)));
    assert_eq!(session.answer(&reply("250 ok"), &mut out).unwrap_err().to_string(), {
        "250 is no reply to what was refused"
    });
    session.answer(&reply("503 no"), &mut out).unwrap();
    assert!(matches!(session.receive(&mut input), Some(Event::Command(_))));
    assert_eq!(session.refuse(&mut out), Err(Misuse::NotAwaited), "QUIT may come");
}

#[test]
fn replies_are_those_of_their_commands() {
    let mut talk = Talk::smtp();
    let mut out = BytesMut::new();
    assert_eq!(talk.session.answer(&reply("250 ok"), &mut out), Err(Misuse::NotAwaited));
    for (line, wrong) in
        [("NOOP", "354 x"), ("EHLO x", "334 x"), ("AUTH X", "354 x"), ("MAIL FROM:<>", "353 x")]
    {
        assert!(talk.is_accepted(line));
        let code = reply(wrong).code();
        let Err(misuse) = talk.session.answer(&reply(wrong), &mut out) else { panic!("{line}") };
        assert!(misuse.to_string().starts_with(&format!("{code} is no reply to ")), "{misuse}");
        assert!(out.is_empty());
        talk.answer(if line == "AUTH X" { "535 no" } else { "250 ok" });
    }
    talk.say(&[("RCPT TO:<a@b>", "250 ok")]);
    assert!(talk.is_accepted("DATA"));
    let early = talk.session.answer(&reply("250 ok"), &mut out);
    assert_eq!(early, Err(Misuse::Reply { code: 250, to: "DATA" }));
}

#[test]
fn recipients_are_bounded() {
    let settings = Settings { most_recipients: 2, ..Settings::default() };
    let mut talk = Talk::new(settings).recipients("MAIL FROM:<>", 2);
    assert_eq!(talk.refused("RCPT TO:<a@b>\r\n"), "452 4.5.3 Too many recipients\r\n");
    talk.say(&[("DATA", "354 go on")]);
}
