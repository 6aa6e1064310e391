use std::fs;
use std::path::Path;

use ocp_proto::smtp::{
    Address, Command, CommandLine, DialogFacts, EffectName, Envelope, SideEffect,
};
use ocp_proto::wire::Atom;

use super::*;
use crate::fixtures::{mail, request, shared, spooled, whole};
use crate::mail::{Mail, header_length};
use crate::outcome::{Change, Finding};
use crate::service::Input;
use crate::setting::documented;

/// The fields that each message has.
const BASE: &str = "Date: Thu, 1 Jan 2026 00:00:00 +0000\r\nFrom: <a@a.example>\r\n\
                    Message-ID: <1@a.example>\r\n";
/// The same of one with parts.
const MIXED: &str = "Date: Thu, 1 Jan 2026 00:00:00 +0000\r\nFrom: <a@a.example>\r\n\
    Message-ID: <1@a.example>\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n";

fn service(settings: &str) -> Result<Normalize, SettingsError> {
    Normalize::new(Settings::parse(settings, Path::new(""))?)
}

fn said(finding: &Finding) -> String {
    [&*finding.verdict, finding.reason.as_deref().unwrap_or_default()].join(" ").trim().to_owned()
}

/// What becomes of a message whose envelope has this sender, and the verdict with its reason.
fn normalized_from(sender: Option<Address>, settings: &str, octets: &[u8]) -> (Vec<u8>, String) {
    let original = mail(octets.to_vec());
    let service = service(settings).unwrap();
    let [result, from_file] = [original.clone(), spooled(&original)].map(|mail| {
        let request = Request {
            envelope: Envelope { sender: sender.clone(), ..Envelope::default() },
            ..request(&mail, &[EffectName::Quarantine])
        };
        let outcome = service.normalized(&request).unwrap();
        let octets = match &outcome.change {
            Change::Content(edits) => whole(&mail.edited(edits).unwrap()),
            Change::Reply(reply) => reply.to_string().into_bytes(),
            _ => whole(&mail),
        };
        (octets, said(&outcome.finding))
    });
    assert_eq!(from_file.1, result.1, "wherever the octets lie");
    result
}

fn normalized(settings: &str, octets: impl AsRef<[u8]>) -> (Vec<u8>, String) {
    normalized_from(None, settings, octets.as_ref())
}

/// Shows what stands there, with CR and octets beyond ASCII escaped.
fn shown(octets: &[u8]) -> String {
    String::from_utf8(octets.to_vec()).unwrap_or_else(|_| octets.escape_ascii().to_string())
}

/// What a message becomes, and what is said.
#[track_caller]
fn check(original: impl AsRef<[u8]>, expected: impl AsRef<[u8]>, reason: &str) {
    let (octets, said) = normalized("", &original);
    assert_eq!(shown(&octets), shown(expected.as_ref()));
    assert_eq!(said, reason);
    if said != "unchanged" {
        assert_eq!(normalized("", &octets).0, octets, "once more");
    }
}

/// With a boundary that is always the same.
fn with_known_boundary(octets: &[u8]) -> String {
    let text = shown(octets);
    let at = text.find("=_").unwrap();
    let boundary = text[at..at + 34].to_owned();
    text.replace(&boundary, "B")
}

#[test]
fn a_message_that_is_right_is_not_touched() {
    for right in [
        format!("{BASE}Subject: x\r\n\r\none\r\n"),
        format!("{BASE}\r\n"),
        // Without an empty line there is no body.
        BASE.to_owned(),
        format!(
            "{MIXED}--b\r\n\r\none\r\n--b\r\nContent-Type: text/plain; charset=utf-8\r\n\
                 Content-Transfer-Encoding: 8bit\r\n\r\n\u{fc}\r\n--b--\r\nepilogue\r\n"
        ),
        format!(
            "{MIXED}--b\r\nContent-Type: message/rfc822\r\n\r\nTo: <a@b>\r\nTo: <c@d>\r\n\r\nx\r\n--b--\r\n"
        ),
        String::new(),
    ] {
        let mail = mail(right.clone());
        let outcome = service("").unwrap().normalized(&request(&mail, &[])).unwrap();
        assert_eq!(outcome, Outcome::unchanged(Finding::new("unchanged")), "{right}");
    }
}

#[test]
fn every_line_ends_with_crlf() {
    check(
        format!(
            "{BASE}Subject: bare\rX-Not-A-Field: x\nTo: <b@b>\r\n\r\none\ntwo\rthree\r\r\r\n\r\nfour\r\n"
        ),
        format!(
            "{BASE}Subject: bare X-Not-A-Field: x\r\nTo: <b@b>\r\n\r\none\r\ntwo\r\nthree\r\n\r\nfour\r\n"
        ),
        "corrected line-ends (header, body)",
    );
    // A line of CRs does not become the end of the header section.
    check(
        format!("{BASE}Subject: x\r\n\r\r\nTo: <b@b>\r\n\r\nx\r\n"),
        format!("{BASE}Subject: x\r\nTo: <b@b>\r\n\r\nx\r\n"),
        "corrected line-ends (header), header-lines (message)",
    );
}

#[test]
fn edits_are_as_small_as_what_is_wrong() {
    let line = format!("{}\r\n", "x".repeat(200));
    let octets = format!("{BASE}\r\n{line}one\ntwo\n{line}three\n{line}");
    let mail = mail(octets.clone());
    let outcome = service("").unwrap().normalized(&request(&mail, &[])).unwrap();
    let Change::Content(edits) = outcome.change else { panic!("{:?}", outcome.finding) };
    let edits: Vec<_> =
        edits.iter().map(|edit| (&octets[edit.range.clone()], shown(&edit.insert))).collect();
    assert_eq!(edits, [("\ntwo\n", "\r\ntwo\r\n".to_owned()), ("\n", "\r\n".to_owned())]);
}

#[test]
fn nul_becomes_a_blank() {
    check(
        format!("{BASE}Subject: a\0b\r\n\0\r\n\r\nc\0d\r\n"),
        format!("{BASE}Subject: a b\r\n\r\nc d\r\n"),
        "corrected nul (header, body), header-lines (message)",
    );
    let binary = Address::new("<a@a.example>").unwrap();
    let binary = binary.with_parameters(vec![Atom::from_static(b"BODY=BINARYMIME")]).unwrap();
    let octets = format!("{BASE}\r\nc\0d\ne{}\r\n", "x".repeat(1_000));
    let left = normalized_from(Some(binary), "", octets.as_bytes());
    assert_eq!(left, (octets.into_bytes(), "unchanged".to_owned()), "a body may be binary");
}

#[test]
fn lines_that_are_no_field_become_one() {
    check(
        format!(
            "From a@a Thu Jan  1 00:00:00 2026\r\n{BASE}no field\r\n folded\r\nSubject : x\r\n \t\r\n\ty\r\n\r\nx\r\n"
        ),
        format!(
            "X-Invalid-Line: From a@a Thu Jan  1 00:00:00 2026\r\n{BASE}X-Invalid-Line: no field\r\n folded\r\n\
             Subject: x\r\n\ty\r\n\r\nx\r\n"
        ),
        "corrected header-lines (message)",
    );
    check(
        format!("{MIXED}--b\r\nno field\r\nContent-Type: text/html\r\n\r\nx\r\n--b--\r\n"),
        format!(
            "{MIXED}--b\r\nX-Invalid-Line: no field\r\nContent-Type: text/html\r\n\r\nx\r\n--b--\r\n"
        ),
        "corrected header-lines (part 1)",
    );
    check(
        format!("{MIXED}--b\r\na text\r\n\r\n: x\r\n--b--\r\n"),
        format!("{MIXED}--b\r\n\r\na text\r\n\r\n: x\r\n--b--\r\n"),
        "corrected header-lines (part 1)",
    );
}

#[test]
fn the_first_of_a_field_stays() {
    check(
        format!(
            "{BASE}To: <b@b>\r\nSubject: 1\r\nTO: <c@c>,\r\n <d@d>\r\nsubject: 2\r\nReceived: x\r\nReceived: y\r\n\r\nx\r\n"
        ),
        format!("{BASE}To: <b@b>\r\nSubject: 1\r\nReceived: x\r\nReceived: y\r\n\r\nx\r\n"),
        "corrected doubled-fields (To, Subject)",
    );
    check(
        format!(
            "{MIXED}--b\r\nContent-Type: text/html\r\nContent-Type: text/plain\r\nSubject: 1\r\nSubject: 2\r\n\r\nx\r\n--b--\r\n"
        ),
        format!(
            "{MIXED}--b\r\nContent-Type: text/html\r\nSubject: 1\r\nSubject: 2\r\n\r\nx\r\n--b--\r\n"
        ),
        "corrected doubled-fields (Content-Type)",
    );
}

#[test]
fn fields_beyond_ascii_are_encoded() {
    let field = |before: &str, after: &str, reason: &str| {
        let [before, after] = [before, after].map(|field| format!("{BASE}{field}\r\n\r\nx\r\n"));
        check(before, after, reason);
    };
    // Words that stand side by side are encoded with what is between them.
    field(
        "Subject: Gr\u{fc}\u{df}e \u{fc}ber dem Tal =?utf-8?Q?x?= \u{fc}",
        "Subject: =?utf-8?B?R3LDvMOfZSDDvGJlcg==?= dem Tal =?utf-8?Q?x?= =?utf-8?B?IMO8?=",
        "corrected raw-fields (Subject)",
    );
    field(
        "To: M\u{fc}ller M\u{fc}ller<m@b>, \"\u{c4}\\\"x\" y <x@b> (\u{f6} z)",
        "To: =?utf-8?B?TcO8bGxlciBNw7xsbGVy?= <m@b>, =?utf-8?B?w4QieA==?= y <x@b> (=?utf-8?B?w7Ygeg==?=)",
        "corrected raw-fields (To)",
    );
    field(
        "To: \u{fc} =?utf-8?Q?x?= \u{fc} <a@b>",
        "To: =?utf-8?B?w7wg?= =?utf-8?Q?x?= =?utf-8?B?IMO8?= <a@b>",
        "corrected raw-fields (To)",
    );
    field(
        "Received: by x (\u{fc}) for <b@b>",
        "Received: by x (=?utf-8?B?w7w=?=) for <b@b>",
        "corrected raw-fields (Received)",
    );
    // An address itself has no other form; what is around it has.
    field(
        "To: \u{fc} <\u{fc}@b>, \u{fc}@b, \"\u{fc}\"@b",
        "To: =?utf-8?B?w7w=?= <\u{fc}@b>, \u{fc}@b, \"\u{fc}\"@b",
        "corrected raw-fields (To); left: raw-fields (To)",
    );
    field("Received: from \u{fc}", "Received: from \u{fc}", "left left: raw-fields (Received)");
    field(
        "MIME-Version: 1.0\r\nContent-Disposition: attachment; filename=\"\u{fc} a.txt\"; size=3",
        "MIME-Version: 1.0\r\nContent-Disposition: attachment; filename*=utf-8''%C3%BC%20a.txt; size=3",
        "corrected raw-fields (Content-Disposition)",
    );
    let long = "\u{fc}".repeat(15);
    let (first, second) = ("%C3%BC".repeat(10), "%C3%BC".repeat(5));
    field(
        &format!("MIME-Version: 1.0\r\nContent-Type: text/plain; name={long}"),
        &format!(
            "MIME-Version: 1.0\r\nContent-Type: text/plain; name*0*=utf-8''{first};\r\n name*1*={second}"
        ),
        "corrected raw-fields (Content-Type)",
    );
}

#[test]
fn octets_that_are_no_utf8_are_read_in_the_assumed_charset() {
    let octets = [BASE.as_bytes(), b"Subject: \xfc\r\n\r\nx\r\n"].concat();
    let subject = |encoded: &str| format!("{BASE}Subject: =?utf-8?B?{encoded}?=\r\n\r\nx\r\n");
    check(&octets, subject("w7w="), "corrected raw-fields (Subject)");
    let greek = normalized("charset = 'iso-8859-7'", &octets).0;
    assert_eq!(shown(&greek), subject("z4w="));
}

#[test]
fn a_field_in_utf8_may_stay_in_a_mail_of_smtputf8() {
    let sender = Address::new("<a@a.example>").unwrap();
    let sender = sender.with_parameters(vec![Atom::from_static(b"SMTPUTF8")]).unwrap();
    let right = format!("{BASE}Subject: \u{fc}\r\n\r\nx\r\n");
    assert_eq!(normalized_from(Some(sender.clone()), "", right.as_bytes()).1, "unchanged");
    let wrong = [BASE.as_bytes(), b"Subject: \xfc\r\n\r\nx\r\n"].concat();
    let said = normalized_from(Some(sender), "", &wrong).1;
    assert_eq!(said, "corrected raw-fields (Subject)");
}

#[test]
fn long_fields_are_folded_where_they_have_blanks() {
    let word = "x".repeat(69);
    let words = |between: &str| vec![word.clone(); 15].join(between);
    check(
        format!("{BASE}References: {}\r\n\r\nx\r\n", words(" ")),
        format!("{BASE}References: {}\r\n\r\nx\r\n", words("\r\n ")),
        "corrected long-fields (References)",
    );
    let long = "y".repeat(1_000);
    let (octets, reason) =
        normalized("", format!("{BASE}Subject: {long}\r\nX-Y: {long}\r\n\r\nx\r\n"));
    assert_eq!(reason, "corrected long-fields (Subject); left: long-fields (X-Y)");
    let octets = mail(octets);
    assert_eq!(octets.field("Subject").unwrap().text(), long);
    assert!(
        shown(octets.field("Subject").unwrap().raw_value()).lines().all(|line| line.len() < 76)
    );
}

#[test]
fn delimiters_that_are_not_there_are_added() {
    check(
        format!("{MIXED}--b\r\n\r\none\r\n"),
        format!("{MIXED}--b\r\n\r\none\r\n--b--\r\n"),
        "corrected boundaries (message)",
    );
    let inner = "Content-Type: multipart/mixed; boundary=i\r\n\r\n--i\r\n\r\none";
    check(
        format!("{MIXED}--b\r\n{inner}\r\n--b\r\n{inner}"),
        format!("{MIXED}--b\r\n{inner}\r\n--i--\r\n--b\r\n{inner}\r\n--i--\r\n--b--\r\n"),
        "corrected boundaries (part 3, part 1, message)",
    );
    check(
        format!("{MIXED}--b\r\n{inner}\r\n"),
        format!("{MIXED}--b\r\n{inner}\r\n--i--\r\n--b--\r\n"),
        "corrected boundaries (part 1, message)",
    );
    check(
        format!("{MIXED}--b\r\n\r\none\r\n--b \t-- \r\nbehind\r\n"),
        format!("{MIXED}--b\r\n\r\none\r\n--b-- \r\nbehind\r\n"),
        "corrected boundaries (message)",
    );
    check(
        format!("{MIXED}--b\r\n\r\none\r\n--b"),
        format!("{MIXED}--b\r\n\r\none\r\n--b--"),
        "corrected boundaries (message)",
    );
}

#[test]
fn a_boundary_that_is_not_named_is_found() {
    let named = MIXED.replace("; boundary=b", "");
    let body = "a line\r\n-- \r\n-----\r\n--b\r\n\r\none\r\n--b--\r\n";
    check(
        format!("{named}{body}"),
        format!("{}{body}", MIXED.replace("boundary=b", "boundary=\"b\"")),
        "corrected boundaries (message)",
    );
    check(
        format!("{}{body}", MIXED.replace("boundary=b", "boundary=c")),
        format!("{}{body}", MIXED.replace("boundary=b", "boundary=\"b\"")),
        "corrected boundaries (message)",
    );
    // One line alone is no proof.
    let nothing = format!("{named}--b\r\n\r\none\r\n");
    check(&nothing, &nothing, "left left: boundaries (message)");
}

#[test]
fn a_boundary_that_is_none_gets_another_name() {
    for boundary in ["x".repeat(71), "a*b".to_owned()] {
        let header = MIXED.replace("=b\r\n", &format!("=\"{boundary}\"\r\n"));
        let body = format!(
            "--{boundary} is no delimiter\r\n--{boundary}\r\n\r\none\r\n--{boundary}  \r\n\r\n--{boundary}--\r\n"
        );
        let (octets, said) = normalized("", format!("{header}{body}"));
        let expected = format!(
            "{}--{boundary} is no delimiter\r\n--B\r\n\r\none\r\n--B  \r\n\r\n--B--\r\n",
            MIXED.replace("=b\r\n", "=\"B\"\r\n")
        );
        assert_eq!(with_known_boundary(&octets), expected);
        assert_eq!(said, "corrected boundaries (message)");
    }
}

#[test]
fn transfer_encodings_say_what_is_there() {
    let part = |encoding: &str, body: &str| {
        format!(
            "{MIXED}--b\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding:{encoding}\r\n\r\n{body}\r\n--b--\r\n"
        )
    };
    let reason = "corrected transfer-encoding (part 1)";
    check(part(" 8-bit", "\u{fc}"), part(" 8bit", "\u{fc}"), reason);
    check(part(" none", "x"), part(" 7bit", "x"), reason);
    check(part(" 7bit", "\u{fc}"), part(" 8bit", "\u{fc}"), reason);
    check(part(" BASE64; x", "aGk="), part(" base64", "aGk="), reason);
    let message = |encoding: &str| {
        let header = MIXED.replace(
            "boundary=b\r\n",
            &format!("boundary=b\r\nContent-Transfer-Encoding: {encoding}\r\n"),
        );
        format!("{header}--b\r\n\r\none\r\n--b--\r\n")
    };
    check(message("base64"), message("7bit"), "corrected transfer-encoding (message)");
}

#[test]
fn what_is_encoded_wrongly_is_encoded_anew() {
    let part = |encoding: &str, body: &str| {
        format!(
            "{MIXED}--b\r\nContent-Type: text/plain\r\nContent-Transfer-Encoding: {encoding}\r\n\r\n{body}\r\n--b--\r\n"
        )
    };
    let reason = "corrected base64 (part 1)";
    check(part("base64", "aGVs*\r\nbG8"), part("base64", "aGVsbG8="), reason);
    check(part("base64", "aGk=aGk="), part("base64", "aGloaQ=="), reason);
    check(part("base64", "aGVs \r\nbG8=\r\n"), part("base64", "aGVs \r\nbG8=\r\n"), "unchanged");
    check(
        part("quoted-printable", "a=3db=ZZ= \r\nc"),
        part("quoted-printable", "a=3Db=3DZZc"),
        "corrected quoted-printable (part 1)",
    );
    check(
        part("quoted-printable", "a=3db=\t\r\nc="),
        part("quoted-printable", "a=3db=\t\r\nc="),
        "unchanged",
    );
    // Line ends in what is no text are octets as any others.
    let binary =
        |encoding: &str, body: &str| part(encoding, body).replace("text/plain", "image/x-y");
    check(
        binary("quoted-printable", "a=0Ab=ZZ"),
        binary("base64", "YQpiPVpa"),
        "corrected quoted-printable (part 1)",
    );
}

#[test]
fn long_lines_are_encoded() {
    let long = "x".repeat(999);
    let encoded = format!("{}=\r\n", "x".repeat(75)).repeat(13) + &"x".repeat(24);
    check(
        format!("{MIXED}--b\r\n\r\n{long}\r\n=\r\n--b--\r\n"),
        format!(
            "{MIXED}--b\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n{encoded}\r\n=3D\r\n--b--\r\n"
        ),
        "corrected long-lines (part 1)",
    );
    let image = format!("{MIXED}--b\r\nContent-Type: image/x-y\r\n\r\n{long}\r\n--b--\r\n");
    let (octets, said) = normalized("", &image);
    assert_eq!(said, "corrected long-lines (part 1)");
    let octets = mail(octets);
    let part = &octets.parts().unwrap()[1];
    assert_eq!(shown(&octets.decoded(part, 2_000).unwrap().octets), long);
    assert_eq!(part.transfer, crate::mail::Transfer::Base64);
    // 998 octets and CRLF are a line, wherever they are read from one window to the next.
    let right = mail(format!("{BASE}\r\n{}\r\n", "x".repeat(998)));
    for window in [64, 998, 999, 1_000] {
        let body = right.body().clone().in_windows(window);
        let stored = Arc::new(Mail::new(right.header().clone(), body));
        let outcome = service("").unwrap().normalized(&request(&stored, &[])).unwrap();
        assert_eq!(outcome.finding, Finding::new("unchanged"), "{window}");
    }
    let report =
        format!("{MIXED}--b\r\nContent-Type: message/delivery-status\r\n\r\n{long}\r\n--b--\r\n");
    check(&report, &report, "left left: long-lines (part 1)");
}

#[test]
fn charsets_say_what_is_there() {
    let part = |content_type: &str, body: &[u8]| {
        let header = format!("{MIXED}--b\r\nContent-Transfer-Encoding: 8bit\r\n{content_type}\r\n");
        [header.as_bytes(), body, b"\r\n--b--\r\n"].concat()
    };
    let (utf8, latin) = ("\u{fc}".as_bytes(), &b"\xfc"[..]);
    let reason = "corrected charset (part 1)";
    let plain = |charset: &str| format!("Content-Type: text/plain{charset}\r\n");
    for (before, body, after) in [
        ("", utf8, "; charset=\"utf-8\""),
        ("", latin, "; charset=\"windows-1252\""),
        ("; charset=us-ascii; x=y", utf8, "; charset=\"utf-8\"; x=y"),
        ("; charset=\"x-unknown\"", latin, "; charset=\"windows-1252\""),
        ("; charset=utf-8", latin, "; charset=\"windows-1252\""),
        ("; x=\"charset=z\";", utf8, "; x=\"charset=z\"; charset=\"utf-8\""),
    ] {
        check(part(&plain(before), body), part(&plain(after), body), reason);
    }
    for (right, body) in [
        ("; charset=iso-8859-1", latin),
        ("; charset=us-ascii", b"x"),
        ("; charset=x-unknown", b"x"),
        ("; charset=utf-8", b"\xfc and \xc3\xbc"),
        ("; charset=utf-7", latin),
    ] {
        let right = part(&plain(right), body);
        check(&right, &right, "unchanged");
    }
    let html = part("Content-Type: text/html\r\n", b"<meta charset=x>\xfc");
    check(&html, &html, "unchanged");
    check(
        [BASE.as_bytes(), b"\r\n\xfc\r\n"].concat(),
        [
            BASE.as_bytes(),
            b"Content-Transfer-Encoding: 8bit\r\nContent-Type: text/plain; charset=\"windows-1252\"\r\n\
              MIME-Version: 1.0\r\n\r\n\xfc\r\n",
        ]
        .concat(),
        "corrected transfer-encoding (message), charset (message), mime-version (MIME-Version)",
    );
}

#[test]
fn uuencoded_files_become_attachments() {
    let text = "Content-Type: text/plain; charset=us-ascii\r\n";
    let file = "begin 644 cat \u{fc}.txt\r\n#0V%T\r\n`\r\nend\r\n";
    let (octets, said) =
        normalized("", format!("{BASE}{text}X: y\r\n\r\nbefore\r\n{file}{file}behind\r\n"));
    let attached = "--B\r\nContent-Type: application/octet-stream\r\nContent-Transfer-Encoding: base64\r\n\
        Content-Disposition: attachment; filename*=utf-8''cat%20%C3%BC.txt\r\n\r\nQ2F0\r\n";
    assert_eq!(
        with_known_boundary(&octets),
        format!(
            "{BASE}X: y\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=\"B\"\r\n\r\n\
             --B\r\n{text}\r\nbefore\r\n{attached}{attached}--B\r\n{text}\r\nbehind\r\n--B--\r\n"
        )
    );
    assert_eq!(said, "corrected uuencode (message)");
    let in_part = format!("{MIXED}--b\r\n\r\nbegin 600 a.txt\r\n#0V%T\r\nend\r\n--b--\r\n");
    let (octets, said) = normalized("", in_part);
    assert_eq!(
        with_known_boundary(&octets),
        format!(
            "{MIXED}--b\r\nContent-Type: multipart/mixed; boundary=\"B\"\r\n\r\n{}\
             --B--\r\n--b--\r\n",
            attached.replace("filename*=utf-8''cat%20%C3%BC.txt", "filename=\"a.txt\"")
        )
    );
    assert_eq!(said, "corrected uuencode (part 1)");
    let body = format!(
        "{BASE}MIME-Version: 1.0\r\nContent-Type: text/plain\r\nContent-Transfer-Encoding: x-uuencode\r\n\r\n\
         begin 644 a\r\n#0V%T\r\nend\r\n"
    );
    check(
        body,
        format!(
            "{BASE}MIME-Version: 1.0\r\nContent-Type: text/plain\r\nContent-Transfer-Encoding: base64\r\n\r\nQ2F0\r\n"
        ),
        "corrected uuencode (message)",
    );
}

#[test]
fn a_text_that_begins_like_a_file_is_none() {
    for text in [
        "begin 644 with this\r\nand there is the end\r\nend\r\n",
        "begin 644 x\r\nTHE SHOUTING\r\nend\r\n",
        "begin 644 x\r\n#0V%T\r\n",
        "begin 644 x\r\n`\r\nend\r\n",
    ] {
        let right = format!("{BASE}\r\n{text}");
        check(&right, &right, "unchanged");
    }
}

#[test]
fn fields_that_are_not_there_are_added() {
    let mail = mail("Received: x\r\nSubject: x\r\nContent-Type: text/plain\r\n\r\nx\r\n");
    let facts = DialogFacts {
        server_name: Some(Atom::from_static(b"mx.b.example")),
        ..DialogFacts::default()
    };
    let normalized = |settings: &str, sender: &'static str| {
        let sender = Some(Address::new(sender).unwrap());
        let request = Request {
            dialog: Arc::new(facts.clone()),
            envelope: Envelope { sender, ..Envelope::default() },
            ..request(&mail, &[])
        };
        let outcome = service(settings).unwrap().normalized(&request).unwrap();
        let Change::Content(edits) = &outcome.change else { panic!("{:?}", outcome.finding) };
        (mail.edited(edits).unwrap(), said(&outcome.finding))
    };
    let (message, reason) = normalized("message.from = 'correct'", "<a@a.example>");
    let fields: Vec<_> = message.fields().iter().map(|field| shown(field.raw_name())).collect();
    let expected =
        ["Received", "Subject", "Content-Type", "Date", "Message-ID", "From", "MIME-Version"];
    assert_eq!(fields, expected);
    assert_eq!(message.field("From").unwrap().text(), "<a@a.example>");
    assert!(message.field("Message-ID").unwrap().text().ends_with("@mx.b.example>"));
    let date = message.field("Date").unwrap().text();
    assert!(date.ends_with(" +0000") && date.len() > 25, "{date}");
    let added = "date (Date), message-id (Message-ID)";
    assert_eq!(reason, format!("corrected {added}, from (From), mime-version (MIME-Version)"));
    let (message, reason) = normalized("message.from = 'correct'\ndomain = 'c.example'", "<>");
    assert!(message.field("Message-ID").unwrap().text().ends_with("@c.example>"));
    assert_eq!(
        reason,
        format!("corrected {added}, mime-version (MIME-Version); left: from (From)")
    );
    let (message, _) = normalized("", "<a@a.example>");
    assert!(message.field("From").is_none(), "unless somebody says so");
}

#[test]
fn what_is_signed_is_left_alone() {
    let signed = MIXED.replace("multipart/mixed", "multipart/signed; x=\u{fc}");
    let inside = "--b\r\n\r\none\ntwo\r\n--b\r\nContent-Type: application/pgp-signature\r\n\r\nx\r\n--b--\r\n";
    let subject = |octets: &str| {
        octets.replacen("MIME-Version", "Subject: =?utf-8?B?w7w=?=\r\nMIME-Version", 1)
    };
    let raw = |octets: &str| octets.replacen("MIME-Version", "Subject: \u{fc}\r\nMIME-Version", 1);
    let message = format!("{signed}{inside}");
    check(
        raw(&message),
        subject(&message),
        "corrected raw-fields (Subject); left: line-ends (body), raw-fields (Content-Type)",
    );
    let part = format!(
        "{MIXED}--b\r\n\r\none\n--b\r\n{}--b--\r\n",
        "Content-Type: application/pkcs7-mime\r\n\r\nx\ny\r\n"
    );
    check(
        &part,
        part.replace("one\n", "one\r\n"),
        "corrected line-ends (body); left: line-ends (body)",
    );
    let text = format!("{BASE}\r\n-----BEGIN PGP SIGNED MESSAGE-----\none\n");
    check(&text, &text, "left left: line-ends (body)");
    let (octets, said) = normalized("signed = ['line-ends']", &text);
    assert_eq!(shown(&octets), text.replace('\n', "\r\n").replace("\r\r", "\r"));
    assert_eq!(said, "corrected line-ends (body)");
    let dkim = format!("DKIM-Signature: x\r\n{BASE}Subject: \u{fc}\r\n\r\nx\n");
    check(&dkim, &dkim, "left left: line-ends (body), raw-fields (Subject)");
    let (octets, said) = normalized("signed = ['nul', 'raw-fields']", &dkim);
    assert_eq!(shown(&octets), dkim.replace('\u{fc}', "=?utf-8?B?w7w=?="));
    assert_eq!(said, "corrected raw-fields (Subject); left: line-ends (body)");
}

#[test]
fn a_correction_can_be_a_refusal_or_none() {
    let twice = format!("{BASE}Subject: 1\r\nSubject: 2\r\n\r\n\u{fc}\n");
    let (reply, said) = normalized("message.doubled-fields = 'reject'", &twice);
    assert_eq!(shown(&reply).trim_end(), "554 5.6.0 The message is malformed");
    assert_eq!(said, "refused doubled-fields (Subject)");
    let own = "reject-reply = '550 5.6.0 No'\nmessage.doubled-fields = 'reject'";
    // A refusal breaks no signature.
    let (reply, _) = normalized(own, format!("DKIM-Signature: x\r\n{twice}"));
    assert_eq!(shown(&reply).trim_end(), "550 5.6.0 No");
    let left = "[message]\ndoubled-fields = 'leave'\nline-ends = 'leave'\ntransfer-encoding = 'leave'\ncharset = 'leave'";
    let (octets, said) = normalized(left, &twice);
    assert_eq!((shown(&octets), &said[..]), (twice, "unchanged"));
}

#[test]
fn what_is_beyond_a_limit_is_told_and_follows_the_policy() {
    let octets = format!("{BASE}Subject: \u{fc}\r\n\r\n{}", "one\n".repeat(100));
    let reason = "limit it would take more new octets than allowed; \
                  raw-fields (Subject); left: line-ends (body)";
    let (accepted, said) = normalized("new-octets = 500", &octets);
    assert_eq!(said, reason);
    assert_eq!(shown(&accepted), octets.replace('\u{fc}', "=?utf-8?B?w7w=?="));
    let (reply, said) = normalized("new-octets = 500\non-limit = 'reject'", &octets);
    assert_eq!(shown(&reply).trim_end(), "554 5.7.1 The message is malformed");
    assert_eq!(said, reason);
    let (tagged, _) = normalized("new-octets = 500\non-limit = 'tag'", &octets);
    assert_eq!(
        shown(&tagged),
        format!("X-Content-Warning: limit: {}\r\n{}", &reason[6..], shown(&accepted))
    );
    let mail = mail(octets);
    let service = service("new-octets = 500\non-limit = 'quarantine'").unwrap();
    let outcome = service.normalized(&request(&mail, &[EffectName::Quarantine])).unwrap();
    assert!(matches!(&outcome.effects[..], [SideEffect::Quarantine(_)]), "{outcome:?}");
    assert!(matches!(outcome.change, Change::Content(_)), "{outcome:?}");
    let nested = (0..70)
        .map(|n| format!("Content-Type: multipart/mixed; boundary=b{n}x\r\n\r\n--b{n}x\r\n"));
    let nested = format!("{BASE}MIME-Version: 1.0\r\n{}", nested.collect::<String>());
    assert_eq!(normalized("", nested).1, "limit parts nested more than 64 deep");
}

/// Every octet of it wrong: what it takes is bounded by the message's size.
#[test]
fn a_message_that_is_nothing_but_wrong_takes_few_edits() {
    let octets = [BASE.as_bytes(), b"\r\n", &[b'\n'; 1 << 20]].concat();
    let mail = mail(octets);
    let outcome = service("").unwrap().normalized(&request(&mail, &[])).unwrap();
    let Change::Content(edits) = outcome.change else { panic!("{:?}", outcome.finding) };
    let inserted: usize = edits.iter().map(|edit| edit.insert.len()).sum();
    assert_eq!((edits.iter().count() <= 20, inserted), (true, 2 << 20));
}

/// All mails of the test data, as they are, as they come over SMTP, and with faults put into them: what is put right is
/// right.
#[test]
fn a_message_that_was_put_right_is_right() {
    let Some(folder) = shared("testdata") else {
        println!("not run: normalize on the test data: it is not there");
        return;
    };
    let mut random = fastrand::Rng::with_seed(4_496);
    let mut mails = 0;
    for kind in ["ham", "spam", "torture", "virus", "gtube", "normalise", "auth"] {
        for entry in fs::read_dir(folder.join(kind)).unwrap() {
            let octets = fs::read(entry.unwrap().path()).unwrap();
            fuzzing::normalize(&octets);
            let octets = crlf(&octets);
            fuzzing::normalize(&octets);
            if octets.len() < 10_000 {
                fuzzing::normalize(&with_faults(octets, &mut random));
            }
            mails += 1;
        }
    }
    assert!(mails > 400, "{mails}");
}

/// Puts some faults into a mail.
fn with_faults(mut octets: Vec<u8>, random: &mut fastrand::Rng) -> Vec<u8> {
    const FAULTS: [&[u8]; 12] = [
        b"\r",
        b"\n",
        b"\0",
        b"\xfc",
        b"\xc3\xbc",
        b"--",
        b" \r\n",
        b"no field\r\n",
        b"=",
        b"begin 644 x\r\n",
        b"Content-Type: multipart/mixed\r\n",
        b"Content-Transfer-Encoding: base64\r\n",
    ];
    for _ in 0..random.usize(1..8) {
        let at = random.usize(..=octets.len());
        // Many faults are those of a line.
        let line = octets[..at].iter().rposition(|octet| *octet == b'\n').map_or(0, |end| end + 1);
        let at = if random.bool() { line } else { at };
        let gone = if random.bool() { random.usize(..=(octets.len() - at).min(100)) } else { 0 };
        octets.splice(at..at + gone, FAULTS[random.usize(..FAULTS.len())].iter().copied());
    }
    octets
}

fn crlf(octets: &[u8]) -> Vec<u8> {
    let lines = octets.split_inclusive(|octet| *octet == b'\n');
    let line = |line: &[u8]| match line.strip_suffix(b"\n") {
        Some(rest) => [rest.strip_suffix(b"\r").unwrap_or(rest), b"\r\n"].concat(),
        None => line.to_vec(),
    };
    lines.flat_map(line).collect()
}

/// The mails of which the test data says what is wrong.
#[test]
fn each_fault_of_the_test_data_is_put_right() {
    let Some(folder) = shared("testdata/normalise") else {
        println!("not run: normalize on known faults: the test data is not there");
        return;
    };
    let faults = [
        ("df0001", "corrected line-ends (body)", "eins\r\nzwei\r\ndrei\r\n"),
        ("df0002", "corrected line-ends (header)", "Subject: bare CR in a header\r\n"),
        ("df0003", "corrected nul (header)", "Subject: NUL  in header\r\n"),
        (
            "df0004",
            "corrected long-lines (message)",
            "Content-Transfer-Encoding: quoted-printable\r\n",
        ),
        ("df0005", "corrected raw-fields (From)", "From: =?utf-8?B?QW5uw6k=?= Muster <"),
        ("df0006", "corrected message-id (Message-ID)", "Subject: dev no id\r\nMessage-ID: <"),
        ("df0007", "corrected doubled-fields (To)", "To: x@example.net\r\nSubject"),
        ("df0008", "corrected header-lines (message)", "X-Invalid-Line: garbage line here\r\n"),
        ("df0009", "unchanged", "\r\n.\r\n.x\r\n"),
    ];
    for (name, verdict, expected) in faults {
        let octets = fs::read(folder.join(format!("{name}.eml"))).unwrap();
        let (octets, said) = normalized("", octets);
        assert_eq!(said, verdict, "{name}");
        let text = shown(&octets);
        assert!(text.contains(expected), "{name}: {text}");
        assert!(header_length(&octets) < octets.len());
    }
}

fn line(command: Command, line: impl Into<String>, parameters: &[&'static str]) -> Request {
    let sender = Address::new("<a@a.example>").unwrap();
    let parameters = parameters.iter().map(|word| Atom::from_static(word.as_bytes())).collect();
    let sender = Some(sender.with_parameters(parameters).unwrap());
    Request {
        command,
        input: Input::Line(CommandLine::new(line.into()).unwrap()),
        envelope: Envelope { sender, ..Envelope::default() },
        ..request(&mail(""), &[])
    }
}

/// What becomes of a line, and what is said.
fn answered(settings: &str, request: &Request) -> String {
    let outcome = service(settings).unwrap().normalized(request).unwrap();
    let said = said(&outcome.finding);
    match outcome.change {
        Change::Command(line) => format!("{said}: {}", shown(line.as_bytes())),
        Change::Reply(reply) => format!("{said}: {}", reply.to_string().trim_end()),
        _ => said,
    }
}

#[test]
fn commands_are_put_right_or_refused() {
    let long = |count: usize| "x".repeat(count);
    let domain = |labels: usize| vec![long(50); labels].join(".");
    for (text, expected) in [
        ("MAIL FROM:<>".to_owned(), "unchanged"),
        ("MAIL FROM:<a@b> SIZE=1".to_owned(), "unchanged"),
        (format!("MAIL FROM:<{}@b>", long(100)), "unchanged"),
        ("MAIL FROM:<a@b%c>".to_owned(), "refused syntax: 501 5.1.7 Bad address syntax"),
        ("MAIL FROM:<a%b@c>".to_owned(), "unchanged"),
        (
            "Mail From:<@x.example,@y:a@b> SIZE=1".to_owned(),
            "corrected source-route: Mail From:<a@b> SIZE=1",
        ),
        ("MAIL FROM:<\"a.b\"@c>".to_owned(), "corrected quotes: MAIL FROM:<a.b@c>"),
        (
            "MAIL FROM:<@r:\"\\a\"@C> X".to_owned(),
            "corrected source-route, quotes: MAIL FROM:<a@C> X",
        ),
        ("MAIL FROM:<\"a b\"@c>".to_owned(), "unchanged"),
        ("MAIL FROM:<\"a@b\"@c>".to_owned(), "refused local-part: 553 5.1.7 Local part refused"),
        ("MAIL FROM:<-a@c>".to_owned(), "refused local-part: 553 5.1.7 Local part refused"),
        (
            "MAIL FROM:<a\t@c>".to_owned(),
            "refused control-characters: 501 5.1.7 Bad address syntax",
        ),
        ("MAIL FROM:<a@[192.0.2]>".to_owned(), "refused syntax: 501 5.1.7 Bad address syntax"),
        ("MAIL FROM:<a@b> =".to_owned(), "refused syntax: 501 5.5.4 Bad parameters"),
        ("MAIL TO:<a@b>".to_owned(), "refused syntax: 501 5.5.4 Bad command syntax"),
        (format!("MAIL FROM:<{}@b>", long(253)), "refused length: 501 5.1.7 Path too long"),
        (format!("MAIL FROM:<a@{}>", domain(5)), "refused length: 501 5.1.7 Path too long"),
        (format!("MAIL FROM:<{}@b>", long(1_500)), "refused length: 501 5.1.7 Path too long"),
        (
            "MAIL FROM:<\u{fc}@b>".to_owned(),
            "refused smtputf8: 553 5.6.7 An address beyond ASCII needs SMTPUTF8",
        ),
        ("MAIL FROM:<\u{fc}@b> SMTPUTF8".to_owned(), "unchanged"),
    ] {
        assert_eq!(answered("", &line(Command::Mail, text.clone(), &[])), expected, "{text}");
    }
    for (text, expected) in [
        ("RCPT TO:<Postmaster> NOTIFY=NEVER", "unchanged"),
        ("RCPT TO:<>", "refused syntax: 501 5.1.3 Bad address syntax"),
        ("RCPT TO:<a%b@c>", "refused percent-hack: 550 5.7.1 No relaying by address here"),
        ("RCPT TO:<b!a@c>", "refused bang-path: 550 5.7.1 No relaying by address here"),
        ("RCPT TO:<\"|a\"@c>", "refused local-part: 553 5.1.3 Local part refused"),
        ("RCPT TO:<@r:a@c>", "corrected source-route: RCPT TO:<a@c>"),
    ] {
        assert_eq!(answered("", &line(Command::Rcpt, text, &[])), expected, "{text}");
    }
    let beyond_ascii = |parameters: &[&'static str]| {
        answered("", &line(Command::Rcpt, "RCPT TO:<\u{fc}@c>", parameters))
    };
    assert!(beyond_ascii(&[]).starts_with("refused smtputf8: 553 5.6.7 "));
    assert_eq!(beyond_ascii(&["SMTPUTF8"]), "unchanged");
    for (text, expected) in [
        ("EHLO client.example".to_owned(), "unchanged"),
        ("HELO my_pc".to_owned(), "unchanged"),
        ("EHLO [192.0.2.1]".to_owned(), "unchanged"),
        ("EHLO [192.0.2.1".to_owned(), "refused helo: 501 5.5.4 Bad name"),
        ("EHLO".to_owned(), "refused helo: 501 5.5.4 Bad name"),
        ("EHLO a b".to_owned(), "refused helo: 501 5.5.4 Bad name"),
        ("EHLO \u{fc}".to_owned(), "refused helo: 501 5.5.4 Bad name"),
        ("EHLO a\x07".to_owned(), "refused control-characters: 501 5.5.4 Bad name"),
        (format!("EHLO {}", long(256)), "refused length: 501 5.5.4 Name too long"),
    ] {
        assert_eq!(answered("", &line(Command::Helo, text.clone(), &[])), expected, "{text}");
    }
}

#[test]
fn a_check_of_commands_can_be_a_refusal_or_none() {
    let routed = line(Command::Rcpt, "RCPT TO:<@r:\"a\"@c>", &[]);
    for (settings, expected) in [
        (
            "commands.source-route = 'reject'",
            "refused source-route: 550 5.7.1 No mail by source routes here",
        ),
        ("commands.source-route = 'leave'", "corrected quotes: RCPT TO:<@r:a@c>"),
        ("commands.quotes = 'leave'", "corrected source-route: RCPT TO:<\"a\"@c>"),
        ("commands.quotes = 'reject'", "refused quotes: 553 5.1.3 Local part refused"),
    ] {
        assert_eq!(answered(settings, &routed), expected, "{settings}");
    }
    let long = line(Command::Rcpt, format!("RCPT TO:<{}@c>", "x".repeat(65)), &[]);
    let strict = "commands.local-part-length = 'reject'";
    assert_eq!(answered(strict, &long), "refused local-part-length: 501 5.1.3 Local part too long");
    let hack = line(Command::Rcpt, "RCPT TO:<a%b@c>", &[]);
    assert_eq!(answered("commands.percent-hack = 'leave'", &hack), "unchanged");
}

#[test]
fn events_in_which_nobody_looks_for_anything_are_not_asked_for() {
    let source = documented(include_str!("mod.rs"));
    let off = |table: &str| {
        let lines = source.lines().skip_while(|line| !line.starts_with(table)).skip(1);
        let lines = lines.take_while(|line| !line.is_empty());
        let names = lines.filter_map(|line| line.split_once(" = "));
        let off: String = names.map(|(name, _)| format!("{name} = \"leave\"\n")).collect();
        service(&format!("{table}\n{off}")).unwrap().declaration().events
    };
    let commands = [Command::Helo, Command::Mail, Command::Rcpt];
    let all = service("").unwrap().declaration().events;
    assert_eq!(all, [&commands[..], &[Command::Message]].concat());
    assert_eq!(off("[commands]"), [Command::Message]);
    assert_eq!(off("[message]"), commands);
}

#[test]
fn the_documented_settings_are_the_defaults() {
    let documented = documented(include_str!("mod.rs"));
    let (documented, default) = (service(&documented).unwrap(), service("").unwrap());
    let reply = documented.settings.reject_reply.as_ref().map(ToString::to_string);
    assert_eq!(reply.unwrap().trim_end(), "554 5.6.0 The message is malformed");
    let without_reply = |service: &Normalize| {
        let text = format!("{:?}", service.settings);
        let (before, behind) = text.split_once("reject_reply: ").unwrap();
        let (_, behind) = behind.split_once("message: ").unwrap();
        format!("{before}{behind}")
    };
    assert_eq!(without_reply(&documented), without_reply(&default));
}

#[test]
fn wrong_settings_are_shown_where_they_stand() {
    let wrong = |settings: &str| {
        let error = service(settings).unwrap_err();
        let place = settings.get(error.span.unwrap_or_default()).unwrap_or_default().to_owned();
        (place, error.message)
    };
    let (place, message) = wrong("signed = ['nul', 'lines']");
    assert_eq!(place, "'lines'");
    assert!(
        message.starts_with("\"lines\" is no correction; these are: nul, line-ends, "),
        "{message}"
    );
    assert_eq!(
        wrong("charset = 'utf-8'"),
        (
            "'utf-8'".to_owned(),
            "\"utf-8\" is no charset of one octet a character, such as windows-1252 or iso-8859-2"
                .to_owned()
        )
    );
    assert_eq!(wrong("domain = 'a b'").0, "'a b'");
    assert_eq!(wrong("scans = 0").1, "scans: must be at least 1");
    assert_eq!(wrong("reject-reply = '250 ok'").0, "'250 ok'");
    assert_eq!(wrong("message.nul = 'drop'").0, "'drop'");
    assert_eq!(wrong("message.date-field = 'leave'").0, "date-field");
}

/// What only some clients see of a message, and what they would see of it afterwards.
#[test]
fn a_message_that_was_put_right_is_read_in_one_way() {
    let inside = "--b\r\nContent-Type: text/plain\r\nContent-Type: text/html\r\n\r\none\r\n";
    for odd in [
        format!(
            "{BASE}Subject: x\r\n \r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n{inside}--b--\r\n"
        ),
        format!("{BASE}no field\r\nContent-Type: text/html\r\n\r\none\r\n"),
        format!("{BASE}Subject: x\rContent-Type: text/html\r\n\r\none\r\n"),
        MIXED.replace("; boundary=b", "") + inside + "--b--\r\n",
        MIXED.replace("=b\r\n", "=c\r\n") + inside + "--b--\r\n",
        format!("{MIXED}{inside}--b --\r\n"),
        format!("{MIXED}{inside}\r--b\r\n\r\ntwo\r\n--b--\r\n"),
        format!("{MIXED}--b\r\na text\r\n--b--\r\n"),
        format!("Content-Transfer-Encoding: base64\r\n{MIXED}--b\r\n\r\none\r\n--b--\r\n"),
    ] {
        let oddities = |octets: &[u8]| {
            let mail = mail(octets.to_vec());
            mail.other_parts().unwrap().iter().map(|other| other.oddity).collect::<Vec<_>>()
        };
        assert!(!oddities(odd.as_bytes()).is_empty(), "{odd}");
        let (octets, _) = normalized("", &odd);
        assert_eq!(oddities(&octets), [""; 0], "{}", shown(&octets));
    }
}
