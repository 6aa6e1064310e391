use std::path::Path;

use futures_util::FutureExt;
use proptest::prelude::*;

use super::*;
use crate::fixtures::{base64, mail, request, shared, spooled, whole};
use crate::mail::PartKind;

const TEXT: &str = "text = \"\"\"\nf\u{fc}r alle\nzwei\n\"\"\"\n";
const ASCII: &str = "text = \"all\\ntwo\"\n";
const HTML: &str = "html = \"<hr>\u{fc}\"\n";

fn footer(settings: &str) -> Footer {
    Footer::new(Settings::parse(settings, Path::new("")).unwrap()).unwrap()
}

/// What becomes of a message, and the verdict with its reason.
fn added(settings: &str, octets: impl AsRef<[u8]>) -> (Vec<u8>, String) {
    let original = mail(octets.as_ref().to_vec());
    let mut results = [original.clone(), spooled(&original)].map(|mail| {
        let outcome = footer(settings).0.add(&mail).unwrap();
        let Finding { verdict, reason, .. } = &outcome.finding;
        let said = [&**verdict, reason.as_deref().unwrap_or_default()].join(" ").trim().to_owned();
        match &outcome.change {
            Change::Content(edits) => (whole(&mail.edited(edits).unwrap()), said),
            _ => (whole(&mail), said),
        }
    });
    if !results[0].1.starts_with("wrapped") {
        assert_eq!(results[0], results[1], "where octets lie makes no difference");
    }
    std::mem::take(&mut results[0])
}

fn text(octets: &[u8]) -> String {
    String::from_utf8(octets.to_vec()).unwrap()
}

fn check(settings: &str, original: &str, expected: &str) {
    let (octets, said) = added(settings, original);
    assert_eq!(text(&octets), expected);
    assert_eq!(said, "added");
}

/// With a boundary that is always the same.
fn wrapped(settings: &str, original: &str) -> (String, String) {
    let (octets, said) = added(settings, original);
    let octets = text(&octets);
    let at = octets.find("=_").unwrap();
    let boundary = octets[at..at + 34].to_owned();
    (octets.replace(&boundary, "B"), said)
}

#[test]
fn a_text_gets_lines_behind_and_before() {
    let plain = "Subject: x\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n";
    let lines = "f\u{fc}r alle\r\nzwei";
    check(TEXT, &format!("{plain}one\r\n"), &format!("{plain}one\r\n\r\n{lines}\r\n"));
    check(TEXT, &format!("{plain}one"), &format!("{plain}one\r\n\r\n{lines}\r\n"));
    check(TEXT, plain, &format!("{plain}{lines}\r\n"));
    let top = format!("{TEXT}place = \"top\"\n");
    check(&top, &format!("{plain}one\r\n"), &format!("{plain}{lines}\r\n\r\none\r\n"));
    // Whatever the line ends of the message are.
    check(ASCII, "A: b\n\none\n", "A: b\n\none\n\nall\ntwo\n");
}

#[test]
fn a_charset_is_kept() {
    let part = |charset: &str, encoding: &str, body: &str| {
        format!(
            "Content-Type: text/plain; charset={charset}\r\nContent-Transfer-Encoding: {encoding}\r\n\r\n{body}"
        )
    };
    let (octets, said) = added(TEXT, part("iso-8859-1", "8bit", "x\r\n"));
    let expected = part("iso-8859-1", "8bit", "x\r\n\r\n");
    assert_eq!(
        (octets, &said[..]),
        ([expected.as_bytes(), b"f\xfcr alle\r\nzwei\r\n"].concat(), "added")
    );
    check(
        TEXT,
        &part("windows-1252", "quoted-printable", "x\r\n"),
        &part("windows-1252", "quoted-printable", "x\r\n\r\nf=FCr alle\r\nzwei\r\n"),
    );
    check(
        ASCII,
        &part("us-ascii", "7bit", "x\r\n"),
        &part("us-ascii", "7bit", "x\r\n\r\nall\r\ntwo\r\n"),
    );
    for (charset, encoding) in [
        ("us-ascii", "8bit"),
        ("iso-8859-1", "7bit"),
        ("utf-8", "7bit"),
        ("iso-8859-5", "8bit"),
        ("utf-16le", "8bit"),
        ("x-unknown", "8bit"),
        ("utf-8", "x-own"),
    ] {
        let (_, said) = wrapped(TEXT, &part(charset, encoding, "x\r\n"));
        assert_eq!(said, "wrapped the text can't hold it", "{charset} {encoding}");
    }
}

#[test]
fn every_alternative_has_it() {
    let mail = |plain: &str, html: &str| {
        format!(
            "Content-Type: multipart/mixed; boundary=o\r\n\r\n--o\r\n\
             Content-Type: multipart/alternative; boundary=i\r\n\r\n--i\r\n\r\n{plain}\r\n--i\r\n\
             Content-Type: multipart/related; boundary=r\r\n\r\n--r\r\n\
             Content-Type: text/html; charset=us-ascii\r\n\r\n{html}\r\n--r\r\nContent-Type: image/png\r\n\r\nx\r\n\
             --r--\r\n--i\r\nContent-Type: text/calendar\r\n\r\nx\r\n--i--\r\n--o\r\n\
             Content-Disposition: attachment\r\n\r\nattached\r\n--o--\r\n"
        )
    };
    let settings = format!("{ASCII}{HTML}");
    check(
        &settings,
        &mail("hello", "<BODY>hello</BODY></html>"),
        &mail("hello\r\n\r\nall\r\ntwo", "<BODY>hello\r\n<hr>&#252;\r\n</BODY></html>"),
    );
    let top = format!("{settings}place = \"top\"\n");
    check(
        &top,
        &mail("hello", "<html><body class=\"a>b\">hello"),
        &mail("all\r\ntwo\r\n\r\nhello", "<html><body class=\"a>b\">\r\n<hr>&#252;\r\nhello"),
    );
}

#[test]
fn quoted_printable_goes_on() {
    let part = |kind: &str, body: &str| {
        format!(
            "Content-Type: text/{kind}\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n{body}"
        )
    };
    check(ASCII, &part("plain", "x=\r\n"), &part("plain", "x=\r\n\r\n\r\nall\r\ntwo\r\n"));
    let settings = format!("{ASCII}html = '<b a=\"1\">'\n");
    check(
        &settings,
        &part("html", "<p>=\r\nx</p></body>"),
        &part("html", "<p>=\r\nx</p>=\r\n\r\n<b a=3D\"1\">\r\n=\r\n</body>"),
    );
}

#[test]
fn base64_is_encoded_anew_where_it_has_to_be() {
    let part = |kind: &str, body: &str| {
        format!("Content-Type: text/{kind}\r\nContent-Transfer-Encoding: base64\r\n\r\n{body}\r\n")
    };
    for (kind, text) in [
        ("plain", "a".repeat(60)),
        ("plain", "a".repeat(61)),
        ("plain", "a".repeat(62) + "\r\n"),
        ("plain", String::new()),
        ("html", "a".repeat(60) + "</body></html>"),
        ("html", "a".repeat(61) + "</body></html>"),
        ("html", "a".repeat(62) + "</body>"),
        ("html", "<body>".to_owned() + &"a".repeat(100)),
        ("html", "<body >".to_owned() + &"a".repeat(100)),
    ] {
        for place in ["top", "end"] {
            let settings = format!("{ASCII}{HTML}place = \"{place}\"\n");
            let original = mail(part(kind, &base64(text.as_bytes())));
            let (octets, said) = added(&settings, whole(&original));
            assert_eq!(said, "added");
            let after = mail(octets);
            let shown = after.text(&after.parts().unwrap()[0], usize::MAX).unwrap();
            let new = if kind == "html" { "\r\n<hr>&#252;\r\n" } else { "all\r\ntwo" };
            let (before, behind) = shown.split_once(new).unwrap();
            let kept = [before, behind].concat().replace(['\r', '\n', ' '], "");
            assert_eq!(kept, text.replace(['\r', '\n', ' '], ""), "{kind} {place} {text}");
            let is_first = before.replace("<body>", "").replace("<body >", "").trim().is_empty();
            assert!(is_first == (place == "top" || text.is_empty()), "{kind} {place} {text}");
            let encoded = after.body().in_memory().unwrap();
            for line in std::str::from_utf8(encoded).unwrap().lines() {
                assert!(!line.is_empty() && line.len() <= 76, "{line}");
            }
        }
    }
    // Some readers stop at padding, some pass over what is no base64.
    for odd in ["YQ==YQ==", "YWJj.YWJj", "YWJjY"] {
        assert_eq!(
            wrapped(ASCII, &part("plain", odd)).1,
            "wrapped the text can't hold it",
            "{odd}"
        );
    }
}

#[test]
fn lines_that_flow_do_not_flow_into_it() {
    let part = |body: &str| format!("Content-Type: text/plain; format=flowed\r\n\r\n{body}\r\n");
    let settings = "text = \"-- \\n>x  \\nFrom y\"\n";
    check(settings, &part("one "), &part("one \r\n\r\n-- \r\n >x\r\n From y"));
}

#[test]
fn what_is_signed_is_wrapped_octet_for_octet() {
    let sealed =
        "--s\r\n\r\nsigned\r\n--s\r\nContent-Type: application/pgp-signature\r\n\r\nx\r\n--s--\r\n";
    let kind = "Content-Type: multipart/signed;\r\n boundary=s\r\nContent-Language: de\r\n";
    let original = format!("From: a@b\r\n{kind}Subject: x\r\n\r\n{sealed}");
    let header = "From: a@b\r\nSubject: x\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=\"B\"\r\n\r\n";
    let own = "Content-Type: text/plain; charset=utf-8\r\nContent-Disposition: inline\r\n\
               Content-Transfer-Encoding: 7bit\r\n\r\nall\r\ntwo";
    let (octets, said) = wrapped(ASCII, &original);
    assert_eq!(said, "wrapped signed or encrypted");
    assert_eq!(octets, format!("{header}--B\r\n{kind}\r\n{sealed}\r\n--B\r\n{own}\r\n--B--\r\n"));
    let (octets, _) = wrapped(&format!("{ASCII}place = \"top\""), &original);
    assert_eq!(octets, format!("{header}--B\r\n{own}\r\n--B\r\n{kind}\r\n{sealed}\r\n--B--\r\n"));
    let leave = format!("{ASCII}signed = \"leave\"");
    assert_eq!(
        added(&leave, &original),
        (original.clone().into(), "left signed or encrypted".to_owned())
    );
    let encrypted = original.replace("multipart/signed", "application/pkcs7-mime");
    assert_eq!(
        added(&leave, &encrypted),
        (encrypted.into(), "left signed or encrypted".to_owned())
    );
    let report = original.replace("multipart/signed", "multipart/report");
    assert_eq!(added(ASCII, &report), (report.into(), "left a report of delivery".to_owned()));
}

#[test]
fn headers_without_an_end_have_one_then() {
    for original in [
        "From: a@b\r\nContent-Type: image/png",
        "From: a@b\r\nContent-Type: image/png\r\n",
        "",
        "\r\nx",
    ] {
        let (octets, said) = added(ASCII, original);
        let after = mail(octets);
        match said.as_str() {
            "added" => assert_eq!(whole(&after), b"\r\nx\r\n\r\nall\r\ntwo\r\n"),
            _ => {
                let parts = after.parts().unwrap();
                let types: Vec<_> =
                    parts.iter().map(|part| &part.content_type.essence[..]).collect();
                let first = if original.is_empty() { "text/plain" } else { "image/png" };
                assert_eq!(types, ["multipart/mixed", first, "text/plain"], "{original:?}");
            }
        }
    }
}

#[test]
fn settings_are_checked() {
    for (settings, expected) in [
        ("", "footer needs a text"),
        ("text = \" \"", "text is empty"),
        ("text = \"a\\u0000\"", "text holds a control character"),
        ("text = \"a\"\nhtml = \"\"", "html is empty"),
    ] {
        let error = Footer::new(Settings::parse(settings, Path::new("")).unwrap()).err().unwrap();
        assert_eq!(error.message, expected);
    }
    let long = format!("text = \"{}\"", "x".repeat(LONGEST + 1));
    let error = Footer::new(Settings::parse(&long, Path::new("")).unwrap()).err().unwrap();
    assert_eq!(error.message, "text has more than 65536 octets");
    let request = request(&mail("A: b\r\n\r\nx\r\n"), &[]);
    let outcome = footer(ASCII).handle(&request).now_or_never().unwrap().unwrap();
    assert_eq!(outcome.finding, Finding::new("added"));
}

/// In real mails all that was there is there, and readers see what was added.
#[test]
fn real_mails_keep_all_that_they_have() {
    let mut count = 0;
    let names = ["ham", "spam", "torture", "virus"].map(|name| format!("testdata/{name}"));
    let mut folders: Vec<_> = names.iter().filter_map(|name| shared(name)).collect();
    if folders.is_empty() {
        return;
    }
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let octets = std::fs::read(&path).unwrap();
            let (after, said) = added(ASCII, &octets);
            if said.starts_with("left") {
                continue;
            }
            let (before, after) = (mail(octets), mail(after));
            assert!(
                before.is_truncated().unwrap().is_some() || after.len() > before.len(),
                "{path:?}"
            );
            let leaves = |mail: &Mail| {
                let leaves =
                    mail.parts().unwrap().iter().filter(|part| part.kind == PartKind::Leaf);
                leaves.map(|part| mail.text(part, usize::MAX).unwrap()).collect::<Vec<_>>()
            };
            let shown = leaves(&after)
                .into_iter()
                .filter(|text| text.contains("all") && text.contains("two"));
            assert!(shown.count() > 0, "{path:?} {said}");
            count += 1;
        }
    }
    assert!(count > 0);
}

proptest! {
    #[test]
    fn base64_of_any_length_keeps_its_text(text in "[a-z]{0,40}", front in "[a-z]{0,9}", top: bool) {
        let html = format!("{front}<body>{text}</body>{front}");
        let original = format!("Content-Type: text/html\r\nContent-Transfer-Encoding: base64\r\n\r\n{}\r\n", base64(html.as_bytes()));
        let place = if top { "top" } else { "end" };
        let (octets, said) = added(&format!("{ASCII}{HTML}place = \"{place}\""), original);
        prop_assert_eq!(said, "added");
        let after = mail(octets);
        let shown = after.text(&after.parts().unwrap()[0], usize::MAX).unwrap();
        let new = "\r\n<hr>&#252;\r\n";
        let expected = if top { format!("{front}<body>{new}~{text}</body>{front}") } else { format!("{front}<body>{text}{new}~</body>{front}") };
        let (before, behind) = shown.split_once(new).unwrap();
        let found = format!("{before}{new}~{}", behind.trim_start_matches(' '));
        prop_assert_eq!(found, expected);
    }
}
