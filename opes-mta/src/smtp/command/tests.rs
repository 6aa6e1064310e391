use proptest::prelude::*;

use super::*;

fn parse(line: &str) -> Result<Command, InvalidCommand> {
    Request::parse(Bytes::copy_from_slice(line.as_bytes())).map(|request| request.command)
}

fn path_of(line: &str) -> Path {
    match parse(line) {
        Ok(Command::Mail(path) | Command::Rcpt(path)) => path,
        other => panic!("{other:?}"),
    }
}

fn text(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

#[test]
fn verbs_are_read_in_any_case_and_with_blanks_behind() {
    let hello = |verb, name| Command::Hello { verb, name: text(name) };
    let auth =
        |has_initial_response| Command::Auth { mechanism: text("PLAIN"), has_initial_response };
    for (line, command) in [
        ("EHLO mx.example.org", hello(Hello::Ehlo, "mx.example.org")),
        ("helo  two words ", hello(Hello::Helo, "two words")),
        ("LHLO [IPv6:::1]", hello(Hello::Lhlo, "[IPv6:::1]")),
        ("StartTLS", Command::StartTls),
        ("AUTH plain", auth(false)),
        ("AUTH PLAIN =", auth(true)),
        ("DATA ", Command::Data),
        ("bdat 5 last", Command::Bdat(Chunk { size: 5, last: true })),
        ("RSET", Command::Rset),
        ("VRFY user", Command::Vrfy(text("user"))),
        ("EXPN list", Command::Expn(text("list"))),
        ("HELP", Command::Help(text(""))),
        ("NOOP all is well", Command::Noop(text("all is well"))),
        ("Quit  ", Command::Quit),
        ("x-Any_1 thing", Command::Other(text("X-ANY_1"))),
    ] {
        assert_eq!(parse(line), Ok(command), "{line}");
    }
}

#[test]
fn what_is_no_command_is_said() {
    use InvalidCommand::{Arguments, Chunk, Parameters, Recipient, Sender, Verb};
    for (line, error) in [
        ("", Verb),
        (" NOOP", Verb),
        ("NOOP\tx", Verb),
        ("250 OK", Verb),
        ("caf\u{e9}", Verb),
        ("EHLO", Arguments("EHLO name")),
        ("EHLO a\u{7}b", Arguments("EHLO name")),
        ("HELO ", Arguments("HELO name")),
        ("LHLO", Arguments("LHLO name")),
        ("STARTTLS now", Arguments("STARTTLS")),
        ("AUTH", Arguments("AUTH mechanism [initial-response]")),
        ("AUTH PLAIN a b", Arguments("AUTH mechanism [initial-response]")),
        ("AUTH PL+IN", Arguments("AUTH mechanism [initial-response]")),
        ("DATA x", Arguments("DATA")),
        ("RSET x", Arguments("RSET")),
        ("QUIT x", Arguments("QUIT")),
        ("VRFY", Arguments("VRFY name")),
        ("EXPN ", Arguments("EXPN name")),
        ("BDAT", Chunk),
        ("BDAT five", Chunk),
        ("BDAT\t5", Chunk),
        ("MAIL <a@b>", Arguments("MAIL FROM:<path>")),
        ("MAIL TO:<a@b>", Arguments("MAIL FROM:<path>")),
        ("MAIL  FROM:<a@b>", Arguments("MAIL FROM:<path>")),
        ("RCPT FROM:<a@b>", Arguments("RCPT TO:<path>")),
        ("RCPT TO:<>", Recipient),
        ("RCPT TO:<@c:>", Recipient),
        ("RCPT TO:a@b", Recipient),
        ("RCPT TO:<a@b> <c@d>", Recipient),
        ("MAIL FROM:<a b@c>", Sender),
        ("MAIL FROM:<a@b>SIZE=1", Sender),
        ("MAIL FROM:<a@b> SIZE=", Parameters),
        ("MAIL FROM:<a@b> S_ZE=1", Parameters),
        ("MAIL FROM:<a@b> size=1 SIZE=2", Parameters),
        ("XCLIENT", Arguments("XCLIENT name=value ...")),
        ("XCLIENT NAME", Arguments("XCLIENT name=value ...")),
        ("XCLIENT NAME=+0Aa", Arguments("XCLIENT name=value ...")),
        ("XFORWARD NAME=+4", Arguments("XFORWARD name=value ...")),
        ("XFORWARD =x", Arguments("XFORWARD name=value ...")),
    ] {
        assert_eq!(parse(line), Err(error), "{line}");
    }
}

#[test]
fn a_path_has_its_route_and_parameters_aside() {
    let path = path_of("mail from: <@one,@two:\"a> b\"@c> Size=10 SMTPUTF8 ORCPT=rfc822;a=b");
    assert_eq!(path.address.path(), &b"<\"a> b\"@c>"[..]);
    assert_eq!(path.route, "@one,@two");
    let parameters: Vec<_> = path.parameters().collect();
    let value = |text: &'static str| Some(text.as_bytes());
    assert_eq!(
        parameters,
        [(&b"Size"[..], value("10")), (b"SMTPUTF8", None), (b"ORCPT", value("rfc822;a=b"))]
    );
    assert_eq!(path.parameter("SIZE"), Some(value("10")));
    assert_eq!(path.parameter("smtputf8"), Some(None));
    assert_eq!(path.parameter("BODY"), None);
    let null = path_of("MAIL FROM:<>");
    assert!(null.address.is_null() && null.route.is_empty());
    assert_eq!(
        path_of("RCPT TO:<\u{e4}@\u{f6}.example>").address.mailbox(),
        "ä@ö.example".as_bytes()
    );
    assert_eq!(path_of("RCPT TO:<\"@x:y\"@c>").route, "");
}

#[test]
fn parameters_are_few() {
    let line =
        |count| (0..count).fold("RCPT TO:<a@b>".to_owned(), |line, n| format!("{line} P{n}"));
    assert_eq!(path_of(&line(32)).parameters().count(), 32);
    assert_eq!(parse(&line(33)), Err(InvalidCommand::Parameters));
}

#[test]
fn xtext_of_attributes_is_decoded() {
    let line = "XFORWARD Name=a+2Bb+3Dc ADDR=IPv6:::1 HELO=[UNAVAILABLE] IDENT=";
    let Ok(Command::Xforward(attributes)) = parse(line) else { panic!() };
    let attributes: Vec<_> = attributes.iter().map(|a| (&a.name[..], &a.value[..])).collect();
    let expected: [(&[u8], &[u8]); 4] =
        [(b"NAME", b"a+b=c"), (b"ADDR", b"IPv6:::1"), (b"HELO", b"[UNAVAILABLE]"), (b"IDENT", b"")];
    assert_eq!(attributes, expected);
}

#[test]
fn a_secret_is_for_the_next_hop_alone() {
    for line in ["AUTH PLAIN c2VjcmV0", "auth  plain  c2VjcmV0"] {
        let request = Request::parse(text(line)).unwrap();
        assert_eq!(request.octets(), line);
        assert_eq!(request.line().unwrap().as_bytes(), "AUTH PLAIN");
        let shown = format!("{request:?}");
        assert!(!shown.contains("c2VjcmV0") && shown.contains("PLAIN"), "{shown}");
    }
    let other = Request::parse(text("noop  x ")).unwrap();
    assert_eq!(other.line().unwrap().as_bytes(), "noop  x ");
    assert_eq!(format!("{:?}", Secret::new(text("c2VjcmV0"))), "Secret(8 octets)");
}

proptest! {
    #[test]
    fn any_line_is_read_or_refused(line in "[A-Za-z0-9<>@:=+ \",.\\\\-]{0,80}") {
        let _ = parse(&line);
        for verb in ["MAIL FROM:", "RCPT TO:", "AUTH ", "XCLIENT ", "EHLO ", "BDAT "] {
            let _ = parse(&format!("{verb}{line}"));
        }
    }

    #[test]
    fn xtext_is_read_as_it_was_written(value in "[ -~]{0,30}") {
        let mut written = String::from("XCLIENT NAME=");
        for octet in value.bytes() {
            written.push_str(&format!("+{octet:02X}"));
        }
        let attribute = Attribute { name: text("NAME"), value: value.into() };
        prop_assert_eq!(parse(&written), Ok(Command::Xclient(vec![attribute])));
    }
}
