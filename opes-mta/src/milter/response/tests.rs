use proptest::prelude::*;

use super::*;
use crate::milter::fuzzing::read_modification;

fn text(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

fn written(decision: &Decision) -> Vec<u8> {
    let mut out = BytesMut::new();
    decision.encode(&mut out);
    out.to_vec()
}

#[test]
fn decisions_are_one_letter() {
    let letters = [
        (Decision::Continue, b'c'),
        (Decision::Accept, b'a'),
        (Decision::Reject, b'r'),
        (Decision::Tempfail, b't'),
        (Decision::Discard, b'd'),
        (Decision::Skip, b's'),
        (Decision::Shutdown, b'4'),
        (Decision::ConnectionFailure, b'f'),
    ];
    for (decision, letter) in letters {
        assert_eq!(written(&decision), [0, 0, 0, 1, letter]);
    }
    let mut out = BytesMut::new();
    encode_progress(&mut out);
    assert_eq!(&out[..], b"\0\0\0\x01p");
}

#[test]
fn a_reply_is_an_smtp_reply_with_doubled_percent_signs() {
    let reply = Reply::new(550, vec![text("5.7.1 not here,"), text("5.7.1 100% sure")]).unwrap();
    let expected = b"\0\0\0\x2by550-5.7.1 not here,\r\n550 5.7.1 100%% sure\0";
    assert_eq!(written(&Decision::Reply(reply)), expected);
    let empty = Reply::new(421, vec![Bytes::new()]).unwrap();
    assert_eq!(written(&Decision::Reply(empty)), b"\0\0\0\x06y421 \0");
}

#[test]
fn a_reply_can_be_read_in_one_way_only() {
    let one = |line: &'static str| vec![text(line)];
    let control = |octet| InvalidReply::Control { number: 1, octet };
    let cases = [
        (250, one("fine"), InvalidReply::Code(250)),
        (600, one("no"), InvalidReply::Code(600)),
        (550, Vec::new(), InvalidReply::Lines(0)),
        (550, vec![text("x"); 33], InvalidReply::Lines(33)),
        (550, one("a\r\n250 fine"), control(b'\r')),
        (550, one("a\n"), control(b'\n')),
        (550, one("a\0b"), control(0)),
        (550, one("\x1b[1m"), control(0x1b)),
        (550, vec![vec![b'x'; 981].into()], InvalidReply::Long { number: 1, octets: 981 }),
        (550, vec![text("5.7.1 a"), text("4.7.1 b")], InvalidReply::Class { number: 2 }),
    ];
    for (code, lines, expected) in cases {
        assert_eq!(Reply::new(code, lines), Err(expected));
    }
    assert!(Reply::new(550, vec![vec![b'x'; 980].into(); 32]).is_ok());
    let class = InvalidReply::Class { number: 2 }.to_string();
    let expected =
        "line 2 of a reply starts with another digit than its code, which Postfix refuses";
    assert_eq!(class, expected);
}

#[test]
fn modifications_are_written_as_libmilter_does() {
    let (name, value) = (text("Subject"), text(" new"));
    let address = text("<a@b>");
    let arguments = Some(text("NOTIFY=NEVER"));
    let cases: [(Modification, &[u8]); 11] = [
        (
            Modification::AddRecipient { address: address.clone(), arguments: None },
            b"\0\0\0\x07+<a@b>\0",
        ),
        (
            Modification::AddRecipient { address: address.clone(), arguments },
            b"\0\0\0\x142<a@b>\0NOTIFY=NEVER\0",
        ),
        (Modification::DeleteRecipient { address: address.clone() }, b"\0\0\0\x07-<a@b>\0"),
        (
            Modification::ChangeSender { address: address.clone(), arguments: None },
            b"\0\0\0\x07e<a@b>\0",
        ),
        (
            Modification::ChangeSender { address, arguments: Some(text("RET=HDRS")) },
            b"\0\0\0\x10e<a@b>\0RET=HDRS\0",
        ),
        (
            Modification::AddField { name: name.clone(), value: value.clone() },
            b"\0\0\0\x0ehSubject\0 new\0",
        ),
        (
            Modification::InsertField { index: 2, name: name.clone(), value: value.clone() },
            b"\0\0\0\x12i\0\0\0\x02Subject\0 new\0",
        ),
        (
            Modification::ChangeField { index: 1, name, value: Bytes::new() },
            b"\0\0\0\x0em\0\0\0\x01Subject\0\0",
        ),
        (Modification::ReplaceBody(text("a\r\n")), b"\0\0\0\x04ba\r\n"),
        (Modification::ReplaceBody(Bytes::new()), b"\0\0\0\x01b"),
        (Modification::Quarantine(text("held")), b"\0\0\0\x06qheld\0"),
    ];
    for (modification, octets) in cases {
        let mut out = BytesMut::new();
        modification.encode(&mut out).unwrap();
        assert_eq!(&out[..], octets, "{modification:?}");
        assert_eq!(read_modification(&out), modification);
    }
}

#[test]
fn a_body_goes_in_chunks() {
    for (length, chunks) in [(65_535, vec![65_535]), (65_536, vec![65_535, 1])] {
        let mut out = BytesMut::new();
        let body = Modification::ReplaceBody(vec![b'x'; length].into());
        body.encode(&mut out).unwrap();
        let sizes: Vec<usize> = std::iter::from_fn(|| {
            let size = u32::from_be_bytes(*out.first_chunk::<4>()?) as usize;
            drop(out.split_to(4 + size));
            Some(size - 1)
        })
        .collect();
        assert_eq!(sizes, chunks);
    }
}

/// A hostile service gets nothing into the message or the queue that was not meant.
#[test]
fn a_modification_can_be_read_in_one_way_only() {
    let field = |name: &'static str, value: &'static str| Modification::AddField {
        name: text(name),
        value: text(value),
    };
    let recipient = |address: &'static str, arguments: Option<&'static str>| {
        Modification::AddRecipient { address: text(address), arguments: arguments.map(text) }
    };
    let control = |what, octet| InvalidModification::Control { what, octet };
    let value = "value of a header field";
    let cases = [
        (field("", "x"), InvalidModification::FieldName),
        (field("A:", "x"), InvalidModification::FieldName),
        (field("A\nB", "x"), InvalidModification::FieldName),
        (field("A", " x\nEvil: y"), InvalidModification::NotFolded),
        (field("A", " x\n"), InvalidModification::NotFolded),
        (field("A", " x\r\n y"), control(value, b'\r')),
        (field("A", "x\0y"), control(value, 0)),
        (recipient("", None), InvalidModification::Empty("address")),
        (recipient("<a@b>\0", None), control("address", 0)),
        (recipient("<a@b>\r\n", None), control("address", b'\r')),
        (recipient("<a@b>", Some("A\nB")), control("argument", b'\n')),
        (
            Modification::ChangeField { index: u32::MAX, name: text("A"), value: text("x") },
            InvalidModification::Index(u32::MAX),
        ),
        (
            Modification::Quarantine(Bytes::new()),
            InvalidModification::Empty("reason of a quarantine"),
        ),
        (
            Modification::AddField { name: text("A"), value: vec![b'x'; 65_529].into() },
            InvalidModification::Long { what: "header field", octets: 65_530 },
        ),
    ];
    for (modification, expected) in cases {
        let mut out = BytesMut::new();
        assert_eq!(modification.encode(&mut out), Err(expected), "{modification:?}");
        assert!(out.is_empty());
    }
}

fn any_modification() -> impl Strategy<Value = Modification> {
    let octets = || proptest::collection::vec(any::<u8>(), 0..12).prop_map(Bytes::from);
    let name = || "[A-Za-z:-]{0,4}".prop_map(Bytes::from);
    let arguments = || proptest::option::of(octets());
    prop_oneof![
        (octets(), arguments())
            .prop_map(|(address, arguments)| Modification::AddRecipient { address, arguments }),
        octets().prop_map(|address| Modification::DeleteRecipient { address }),
        (octets(), arguments())
            .prop_map(|(address, arguments)| Modification::ChangeSender { address, arguments }),
        (name(), octets()).prop_map(|(name, value)| Modification::AddField { name, value }),
        (any::<u32>(), name(), octets())
            .prop_map(|(index, name, value)| Modification::InsertField { index, name, value }),
        (any::<u32>(), name(), octets())
            .prop_map(|(index, name, value)| Modification::ChangeField { index, name, value }),
        octets().prop_map(Modification::ReplaceBody),
        octets().prop_map(Modification::Quarantine),
    ]
}

proptest! {
    #[test]
    fn every_modification_is_read_as_it_was_meant(modification in any_modification()) {
        let mut out = BytesMut::new();
        match modification.encode(&mut out) {
            Ok(()) => prop_assert_eq!(read_modification(&out), modification),
            Err(_) => prop_assert!(out.is_empty()),
        }
    }
}
