use std::fs;
use std::path::Path;

use super::*;
use crate::fixtures::{
    cabinet, gzip, mail, request, shared, tar, uuencode, whole, with_attachment, zip,
};

fn service(settings: &str) -> MimeStrip {
    let settings = format!("{{ {settings} }}");
    let table = toml::de::ValueDeserializer::parse(&settings).unwrap();
    MimeStrip::new(Settings::new(table, Path::new(""))).unwrap()
}

async fn handle(service: &MimeStrip, mail: &Arc<Mail>) -> Outcome {
    service.handle(&request(mail, &[])).await.unwrap()
}

/// The mail after the service, and why it changed.
async fn stripped(service: &MimeStrip, before: &Arc<Mail>) -> (Arc<Mail>, String) {
    let outcome = handle(service, before).await;
    assert_eq!(outcome.finding.verdict, "stripped");
    let Change::Content(edits) = outcome.change else { panic!("{:?}", outcome.change) };
    (Arc::new(before.edited(&edits).unwrap()), outcome.finding.reason.unwrap())
}

fn text(mail: &Mail) -> String {
    String::from_utf8(whole(mail)).unwrap()
}

#[tokio::test]
async fn a_part_is_replaced_and_all_else_stays() {
    let service = service("notice = \"{name} ({type}): {reason}\"");
    let before = mail(with_attachment("a.exe", b"program"));
    let (after, reason) = stripped(&service, &before).await;
    assert_eq!(reason, "forbidden extension .exe in part 1.2 (a.exe)");
    let whole = text(&before);
    let start = whole.find("Content-Type: application/octet").unwrap();
    let end = whole.find("\r\n--b--").unwrap();
    let notice = "Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\
        Content-Disposition: attachment; filename=\"removed.txt\"\r\n\r\n\
        a.exe (application/octet-stream): forbidden extension .exe in part 1.2 (a.exe)";
    assert_eq!(text(&after), [&whole[..start], notice, &whole[end..]].concat());
    assert_eq!(handle(&service, &after).await.finding, Finding::new("clean"));
}

#[tokio::test]
async fn files_inside_of_files() {
    let program = [&b"MZ"[..], &[0; 64]].concat();
    let service = service("");
    for (octets, reason) in [
        (zip(&[("b.scr", b"x")]), "forbidden extension .scr in part 1.2 (a.bin) / b.scr"),
        (
            gzip(&tar(&[("b.scr", b"x")])),
            "forbidden extension .scr in part 1.2 (a.bin) / unnamed / b.scr",
        ),
        (
            cabinet(&[("b.txt", b"x"), ("c.txt", &program)]),
            "forbidden content (windows-executable) in part 1.2 (a.bin) / c.txt",
        ),
        (
            with_attachment("b.js", b"x"),
            "forbidden extension .js in part 1.2 (a.bin) / part 1.2 (b.js)",
        ),
    ] {
        let (after, found) = stripped(&service, &mail(with_attachment("a.bin", &octets))).await;
        assert_eq!(found, reason);
        assert_eq!(after.parts().unwrap()[2].names, ["removed.txt"]);
    }
    let outside = self::service("inside-archives = false");
    let archive = mail(with_attachment("a.bin", &zip(&[("b.scr", b"x")])));
    assert_eq!(handle(&outside, &archive).await.finding.verdict, "clean");
    let nested = mail(with_attachment("a.bin", &with_attachment("b.js", b"x")));
    assert_eq!(handle(&outside, &nested).await.finding.verdict, "stripped");
}

#[tokio::test]
async fn the_name_in_an_encrypted_archive_counts() {
    let mut archive = zip(&[("b.scr", b"hello")]);
    archive[6] |= 1;
    let at = memchr::memmem::find(&archive, b"PK\x01\x02").unwrap();
    archive[at + 8] |= 1;
    let (_, reason) = stripped(&service(""), &mail(with_attachment("a.zip", &archive))).await;
    assert!(reason.starts_with("forbidden extension .scr in "), "{reason}");
}

#[tokio::test]
async fn a_message_that_is_nothing_but_a_file() {
    let before = mail(
        "From: a@example.org\nContent-Type: application/x-msdownload; name=x\n\
         Subject: hi\n\nprogram\n",
    );
    let (after, reason) = stripped(&service("notice = \"gone: {reason}\""), &before).await;
    assert_eq!(reason, "forbidden type (application/x-msdownload) in part 1 (x)");
    assert_eq!(
        text(&after),
        "From: a@example.org\nSubject: hi\nContent-Type: text/plain; charset=utf-8\n\
         Content-Transfer-Encoding: 8bit\nContent-Disposition: attachment; filename=\"removed.txt\"\n\n\
         gone: forbidden type (application/x-msdownload) in part 1 (x)\n"
    );
}

#[tokio::test]
async fn lines_of_a_uuencoded_file_are_cut_out() {
    let file = |name: &str| format!("begin 644 {name}\r\n{}`\r\nend\r\n", uuencode(b"hello"));
    let (good, bad) = (file("a.txt"), file("b.exe"));
    let before = mail(format!("Subject: x\r\n\r\nhi\r\n{good}{bad}bye\r\n{bad}"));
    let (after, reason) = stripped(&service("notice = \"{name} is gone\""), &before).await;
    assert_eq!(reason, "forbidden extension .exe in part 1 / b.exe; 1 more");
    let expected =
        format!("Subject: x\r\n\r\nhi\r\n{good}b.exe is gone\r\nbye\r\nb.exe is gone\r\n");
    assert_eq!(text(&after), expected);
}

#[tokio::test]
async fn a_uuencoded_file_in_encoded_text_takes_the_part_with_it() {
    let file = format!("begin 644 b.exe\r\n{}`\r\nend\r\n", uuencode(b"hello"));
    let before = mail(with_attachment("a.txt", file.as_bytes()));
    let (after, _) = stripped(&service(""), &before).await;
    assert_eq!(after.parts().unwrap()[2].names, ["removed.txt"]);
}

#[tokio::test]
async fn a_forbidden_container_goes_with_all_that_is_in_it() {
    let before = mail(
        "Content-Type: multipart/mixed; boundary=b\n\n--b\n\
         Content-Type: message/rfc822; name=\"a.exe\"\n\n\
         Content-Type: text/plain; name=\"b.exe\"\n\nhello\n--b--\n",
    );
    let (after, reason) = stripped(&service(""), &before).await;
    assert_eq!(reason, "forbidden extension .exe in part 1.1 (a.exe)");
    assert_eq!(after.parts().unwrap().len(), 2);
}

#[tokio::test]
async fn a_notice_is_no_template_and_no_delimiter() {
    let before = mail(with_attachment("--b{type}.exe", b"x"));
    let (after, _) = stripped(&service("notice = \"{name}\""), &before).await;
    assert_eq!(after.text(&after.parts().unwrap()[2], 100).unwrap(), "b{type}.exe");
    assert_eq!(after.parts().unwrap().len(), 3);
}

#[tokio::test]
async fn what_is_beyond_a_limit_is_not_clean() {
    let settings = "limits = { members = 3 }";
    let before =
        mail(with_attachment("a", &zip(&[("1", b""), ("2", b""), ("3", b""), ("4", b"")])));
    let outcome = handle(&service(settings), &before).await;
    assert_eq!(outcome.finding.verdict, "too-big");
    let Change::Reply(reply) = outcome.change else { panic!("{:?}", outcome.change) };
    assert_eq!(
        reply.to_string(),
        "554 5.7.1 content can't be examined: an archive with too many members: part 1.2 (a)"
    );
    let accepting = service(&format!("{settings}, on-limit = \"accept\""));
    let outcome = handle(&accepting, &before).await;
    assert_eq!((outcome.change, &outcome.finding.verdict[..]), (Change::None, "too-big"));
}

#[test]
fn the_example_of_the_documentation_is_read() {
    let example: String = include_str!("mod.rs")
        .lines()
        .skip_while(|line| *line != "//! ```toml")
        .skip(1)
        .take_while(|line| *line != "//! ```")
        .map(|line| format!("{}\n", line.trim_start_matches("//!")))
        .collect();
    let table = toml::de::Deserializer::parse(&example).unwrap();
    let read: MimeStripSettings = serde::Deserialize::deserialize(table).unwrap();
    assert!(Rules::new(&read).is_ok());
    assert_eq!(read.forbidden_names, ["*secret*", "/^invoice_[0-9]+\\./"]);
    assert_eq!((read.inside_archives, read.on_limit), (true, Policy::Reject));
}

/// Whatever goes from the mails of the test data, the parts around it stay.
#[tokio::test]
async fn the_test_mails() {
    let Some(data) = shared("testdata") else { return };
    let service = service("forbidden-types = [\"image/*\", \"application/*\"]");
    let mut count = 0;
    for folder in ["ham", "spam", "torture", "virus", "normalise", "auth"] {
        for entry in fs::read_dir(data.join(folder)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_none_or(|extension| extension != "eml") {
                continue;
            }
            let before = mail(fs::read(&path).unwrap());
            let outcome = handle(&service, &before).await;
            let Change::Content(edits) = outcome.change else { continue };
            let after = before.edited(&edits).unwrap();
            let (found, _) = search(&before, &service.rules, &service.room, true).unwrap();
            let (old, new) = (before.parts().unwrap(), after.parts().unwrap());
            // A container that goes takes its parts along.
            if found.iter().any(|found| old[found.part].kind != PartKind::Leaf) {
                continue;
            }
            count += 1;
            assert_eq!(old.len(), new.len(), "{path:?}");
            for (index, (old, new)) in old.iter().zip(new).enumerate() {
                assert_eq!(old.depth, new.depth, "{path:?}");
                let is_whole = !found.iter().any(|found| found.part == index);
                if is_whole && old.kind == PartKind::Leaf {
                    let whole = |mail: &Mail, part: &Part| {
                        (
                            mail.octets(part.header.clone()).read(0..mail.len()).unwrap(),
                            mail.octets(part.body.clone()).read(0..mail.len()).unwrap(),
                        )
                    };
                    assert_eq!(whole(&before, old), whole(&after, new), "{path:?} part {index}");
                }
            }
        }
    }
    assert!(count > 20, "{count}");
}
