use std::time::{Duration, UNIX_EPOCH};

use proptest::prelude::*;

use super::*;
use crate::fixtures;

fn address(path: &'static str) -> Address {
    Address::new(path).unwrap()
}

fn new(header: &'static str, body: &'static str) -> Result<Notification, NotificationError> {
    Notification::new(vec![address("<ann@x>")], header, body)
}

fn header(notification: &Notification) -> &str {
    std::str::from_utf8(notification.header()).unwrap()
}

#[test]
fn what_every_reader_takes_alike_is_a_notification() {
    let octet = |part, octet| NotificationError::Octet { part, octet };
    let (head, body) = (Part::MessageHeader, Part::MessageBody);
    for (header, text, error) in [
        ("A: b\r\n", "", NotificationError::HeaderEnd),
        ("\r\n", "", NotificationError::HeaderEnd),
        ("", "", NotificationError::HeaderEnd),
        ("A: b\r\n\r\nC: d\r\n\r\n", "", NotificationError::HeaderEnd),
        ("A: b\n\n", "", octet(head, b'\n')),
        ("A: b\rC: d\r\n\r\n", "", octet(head, b'\r')),
        ("A: b\0\r\n\r\n", "", octet(head, 0)),
        ("A: b\r\nno field\r\n\r\n", "", NotificationError::Field),
        (" A: b\r\n\r\n", "", NotificationError::Field),
        ("A : b\r\n\r\n", "", NotificationError::Field),
        (": b\r\n\r\n", "", NotificationError::Field),
        ("Auto-Submitted: No; x\r\n\r\n", "", NotificationError::NotAutomatic),
        ("auto-submitted:\r\n no\r\n\r\n", "", NotificationError::NotAutomatic),
        ("A: b\r\n\r\n", "x\ny", octet(body, b'\n')),
        ("A: b\r\n\r\n", "x\r\r\n", octet(body, b'\r')),
        ("A: b\r\n\r\n", "x\r", octet(body, b'\r')),
        ("A: b\r\n\r\n", "\0", octet(body, 0)),
    ] {
        assert_eq!(new(header, text), Err(error), "{header:?} {text:?}");
    }
    let long =
        |octets| Notification::new(vec![address("<ann@x>")], "A: b\r\n\r\n", "x".repeat(octets));
    assert!(long(998).is_ok());
    assert_eq!(long(999), Err(NotificationError::Line { part: body, octets: 999 }));
}

/// OPES-4496-4.1-05, OPES-3837-3.8-01
#[test]
fn a_notification_says_that_it_was_made_by_a_program() {
    let made = new("A: b\r\n\r\n", "x\r\n").unwrap();
    assert_eq!(header(&made), "A: b\r\nAuto-Submitted: auto-generated\r\n\r\n");
    assert_eq!((made.sender(), &made.body()[..]), (&Address::null(), &b"x\r\n"[..]));
    for said in
        ["AUTO-SUBMITTED: auto-replied\r\n\r\n", "Auto-Submitted: auto-notified; x=no\r\n\r\n"]
    {
        assert_eq!(header(&new(said, "").unwrap()), said);
    }
}

#[test]
fn whom_it_goes_to_and_how_much_it_is_are_bounded() {
    let to = |recipients| Notification::new(recipients, "A: b\r\n\r\n", "");
    let ann = address("<ann@x>");
    assert_eq!(to(Vec::new()), Err(NotificationError::Recipients));
    assert_eq!(to(vec![ann.clone(), Address::null()]), Err(NotificationError::Recipients));
    assert!(to(vec![ann.clone(); 100]).is_ok());
    assert_eq!(to(vec![ann.clone(); 101]), Err(NotificationError::Recipients));
    let header = "Auto-Submitted: auto-generated\r\n\r\n";
    let large = |octets: usize| {
        let body = b"x\r\n".repeat(octets / 3 + 1)[..octets].to_vec();
        Notification::new(vec![ann.clone()], header, body).map(|made| made.body().len())
    };
    let rest = Notification::LARGEST - header.len();
    assert_eq!(large(rest - rest % 3), Ok(rest - rest % 3));
    let more = rest - rest % 3 + 3;
    assert_eq!(large(more), Err(NotificationError::TooLarge(header.len() + more)));
}

#[test]
fn octets_beyond_ascii_are_announced() {
    let parameters = |to, header: &'static str, body: &'static str, sender| {
        let made = Notification::new(vec![address(to)], header, body).unwrap();
        let made = made.with_sender(&address(sender));
        made.sender().parameters.clone()
    };
    let eight = Atom::from_static(b"BODY=8BITMIME");
    let utf8 = Atom::from_static(b"SMTPUTF8");
    for (to, header, body, sender, expected) in [
        ("<a@x>", "A: b\r\n\r\n", "x", "<>", vec![]),
        ("<a@x>", "A: b\r\n\r\n", "\u{e9}", "<>", vec![eight.clone()]),
        ("<a@x>", "A: \u{e9}\r\n\r\n", "x", "<>", vec![eight.clone(), utf8.clone()]),
        ("<\u{e9}@x>", "A: b\r\n\r\n", "x", "<>", vec![eight.clone(), utf8.clone()]),
        ("<a@x>", "A: b\r\n\r\n", "x", "<\u{e9}@x>", vec![eight, utf8]),
    ] {
        assert_eq!(
            parameters(to, header, body, sender),
            expected,
            "{to} {header:?} {body} {sender}"
        );
    }
    let sender = address("<s@x>").with_parameters(vec![Atom::from_static(b"RET=FULL")]).unwrap();
    let made = new("A: b\r\n\r\n", "").unwrap().with_sender(&sender);
    assert_eq!(made.sender(), &address("<s@x>"));
}

fn text_mail(subject: &str, text: &str) -> TextMail {
    TextMail {
        from: address("<filter@x.example>"),
        to: vec![address("<ann@x>"), address("<bob@x>")],
        subject: subject.to_owned(),
        text: text.to_owned(),
        date: UNIX_EPOCH + Duration::from_secs(1_767_225_600),
    }
}

#[test]
fn a_text_becomes_a_right_small_mail() {
    let made = text_mail("A virus\nfor you", "one\ntwo\r\nthree\r").notification().unwrap();
    let (_, id) = header(&made).split_once("Message-ID: <").unwrap();
    let (id, _) = id.split_once('>').unwrap();
    assert!(id.starts_with("6955b900.") && id.ends_with("@x.example"), "{id}");
    let expected = format!(
        "From: <filter@x.example>\r\nTo: <ann@x>,\r\n <bob@x>\r\nSubject: A virus for you\r\n\
         Date: Thu, 1 Jan 2026 00:00:00 +0000\r\nMessage-ID: <{id}>\r\nMIME-Version: 1.0\r\n\
         Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 7bit\r\n\
         Auto-Submitted: auto-generated\r\n\r\n"
    );
    assert_eq!((header(&made), &made.body()[..]), (&expected[..], &b"one\r\ntwo\r\nthree\r\n"[..]));
    assert_eq!(made.recipients().len(), 2);
    let again = text_mail("A virus\nfor you", "one").notification().unwrap();
    assert_ne!(again.header(), made.header(), "it has an id of its own");
    let nobody = TextMail { from: Address::null(), ..text_mail("", "") };
    assert_eq!(nobody.notification(), Err(NotificationError::Author));
    let utf8 = text_mail("Gr\u{fc}\u{df}e", "Gr\u{fc}\u{df}e").notification().unwrap();
    assert!(
        header(&utf8).contains("\r\nSubject: =?utf-8?B?R3LDvMOfZQ==?=\r\n"),
        "{}",
        header(&utf8)
    );
    assert_eq!(utf8.sender(), &Address::null(), "any next hop takes it");
}

/// What people read: without control characters, blanks at the ends, and differences of line ends.
fn read(text: &str) -> String {
    let text = text.replace("\r\n", "\n").replace('\r', "\n");
    text.replace(|c: char| c.is_control() && !matches!(c, '\t' | '\n'), " ")
}

proptest! {
    #[test]
    fn any_subject_and_text_can_be_read(subject in "\\PC{0,200}|[ -~\\n\\r\\t]{0,90}", text in "(\\PC|[\\n\\r\\t\\x00\\x7f]){0,300}") {
        let made = text_mail(&subject, &text).notification().unwrap();
        prop_assert!(made.header().is_ascii() && made.body().is_ascii());
        let longest = made.header().split(|octet| *octet == b'\n').map(<[u8]>::len).max();
        prop_assert!(longest <= Some(77), "{}", header(&made));
        let octets = [&made.header()[..], &made.body()[..]].concat();
        let mail = fixtures::mail(octets.clone());
        let said = mail.field("Subject").unwrap().text();
        let subject = subject.replace(char::is_control, " ");
        prop_assert_eq!(said, subject.trim());
        let parsed = mail_parser::MessageParser::default().parse(&octets).unwrap();
        let body = read(&parsed.body_text(0).unwrap());
        let text = read(&text);
        prop_assert_eq!(body.strip_suffix('\n').unwrap_or(&body), text.strip_suffix('\n').unwrap_or(&text));
    }

    #[test]
    fn what_is_taken_is_a_message_of_lines(header in "(([AB]: ?|[ \\r\\n\\x00:A]){1,3}(\\r\\n)?){0,6}(\\r\\n){0,2}", body in "([a\\x00]|\\r|\\n|\\r\\n){0,6}") {
        let Ok(made) = Notification::new(vec![address("<a@x>")], header.clone(), body) else { return Ok(()) };
        let octets = [&made.header()[..], &made.body()[..]].concat();
        let without = String::from_utf8(octets.clone()).unwrap().replace("\r\n", "");
        prop_assert!(!without.contains(['\r', '\n', '\0']));
        let mail = fixtures::mail(octets);
        prop_assert_eq!(mail.header(), made.header());
        prop_assert_eq!(mail.fields_named("Auto-Submitted").count(), 1);
        prop_assert!(made.header().starts_with(header.strip_suffix("\r\n").unwrap().as_bytes()));
    }
}
