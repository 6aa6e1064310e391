use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use ocp_proto::smtp::{EffectName, FailurePolicy, SideEffect};

use super::*;
use crate::fixtures::{
    base64, cabinet, compound, gzip, mail, request, shared, spooled, tar, tnef, uuencode, whole,
    with_attachment, workbook, zip,
};
use crate::mail::Octets;

const EMPTY_FILE: &str = "d41d8cd98f00b204e9800998ecf8427e:0:Test.Empty\n";

fn service(settings: &str) -> VirusScan {
    service_in(settings, Path::new("")).unwrap()
}

fn service_in(settings: &str, directory: &Path) -> Result<VirusScan, SettingsError> {
    let settings = format!("{{ {settings} }}");
    let table = toml::de::ValueDeserializer::parse(&settings).unwrap();
    VirusScan::new(Settings::new(table, directory))
}

async fn handle(service: &VirusScan, mail: &Arc<Mail>) -> Outcome {
    service.handle(&request(mail, &[])).await.unwrap()
}

async fn verdict(service: &VirusScan, octets: Vec<u8>) -> (String, String) {
    let outcome = handle(service, &mail(octets)).await;
    let finding = outcome.finding;
    (finding.verdict.into_owned(), finding.reason.unwrap_or_default())
}

#[tokio::test]
async fn eicar_in_every_wrapping() {
    let eicar = eicar::text();
    let inner = with_attachment("x.com", &eicar);
    let uuencoded = "begin 644 x.com\r\n".to_owned() + &uuencode(&eicar) + "`\r\nend\r\n";
    let html = format!("<a href=\"data:application/x;base64,{}\">x</a>", base64(&eicar));
    let wrapped: [(&str, Vec<u8>); 13] = [
        ("x.com", eicar.clone()),
        ("a.zip / x.com", zip(&[("y", b"1"), ("x.com", &eicar)])),
        ("a.tgz / unnamed / x.com", gzip(&tar(&[("x.com", &eicar)]))),
        ("a.cab / x.com", cabinet(&[("y", b"1"), ("x.com", &eicar), ("z", b"2")])),
        ("winmail.dat / x.com", tnef(&[("y", b"1"), ("x.com", &eicar)])),
        ("a.eml / part 1.2 (x.com)", inner.clone()),
        ("a.zip / b.zip / x.com", zip(&[("b.zip", &zip(&[("x.com", &eicar)]))])),
        ("a.exe / x.com", [&b"MZ\0\0 a program"[..], &zip(&[("x.com", &eicar)])].concat()),
        ("a.txt / x.com", uuencoded.clone().into()),
        ("a.html / data URI", html.clone().into()),
        ("a.gz / unnamed", [gzip(&eicar[..9]), gzip(&eicar[9..]), b"junk".to_vec()].concat()),
        ("a.zip / m.eml / part 1.2 (x.com)", zip(&[("m.eml", &inner)])),
        ("a.zip / p.html / data URI", zip(&[("p.html", html.as_bytes())])),
    ];
    let service = service("");
    for (place, octets) in wrapped {
        let name = place.split(" / ").next().unwrap();
        let (verdict, reason) = verdict(&service, with_attachment(name, &octets)).await;
        let expected = match place.strip_prefix(name).unwrap() {
            "" => format!("{} in part 1.2 ({name})", eicar::NAME),
            rest => format!("{} in part 1.2 ({name}){rest}", eicar::NAME),
        };
        assert_eq!((verdict.as_str(), reason), ("infected", expected));
    }
    let plain = format!("Subject: x\r\n\r\nhello\r\n{uuencoded}");
    let found = verdict(&service, plain.into()).await;
    assert_eq!(found.1, format!("{} in part 1 / x.com", eicar::NAME));
}

#[tokio::test]
async fn clients_disagree_about_the_transfer_encoding() {
    let service = service("");
    let encoded = base64(&eicar::text());
    for fields in [
        "Content-Transfer-Encoding: 7bit\r\nContent-Transfer-Encoding: base64",
        "Content-Transfer-Encoding: base64\r\nContent-Transfer-Encoding: 7bit",
        "Content-Transfer-Encoding: \"base64\"",
        "Content-Transfer-Encoding: x-base64",
        &format!(
            "{}Content-Transfer-Encoding: base64",
            "Content-Transfer-Encoding: 7bit\r\n".repeat(20)
        ),
    ] {
        let octets = format!("{fields}\r\n\r\n{encoded}\r\n");
        assert_eq!(verdict(&service, octets.into()).await.0, "infected", "{fields}");
    }
}

/// Mails in which some client finds the test file and another one doesn't, each with what is odd about it.
fn odd_mails() -> Vec<(&'static str, String)> {
    let eicar = base64(&eicar::text());
    let evil = format!(
        "Content-Type: application/x; name=x.com\r\nContent-Transfer-Encoding: base64\r\n\r\n{eicar}"
    );
    let evil_only = format!("--b\r\n{evil}\r\n--b--\r\n");
    let encoded = format!("--b\r\n\r\n{}\r\n--b--\r\n", String::from_utf8(eicar::text()).unwrap());
    let encoded = base64(encoded.as_bytes());
    let multipart = "Content-Type: multipart/mixed; boundary=b\r\n";
    let good = "--b\r\n\r\ngood\r\n";
    let cut = base64(&[&eicar::text()[..], b"!!"].concat());
    vec![
        (
            "a boundary that can be read in several ways",
            format!(
                "Content-Type: multipart/mixed; boundary=a; boundary=b\r\n\r\n--a\r\n\r\nx\r\n{evil_only}--a--\r\n"
            ),
        ),
        (
            "more than one Content-Type field",
            format!("Content-Type: text/plain\r\n{multipart}\r\n{evil_only}"),
        ),
        (
            "a multipart without a boundary",
            format!("Content-Type: multipart/mixed\r\n\r\n{evil_only}"),
        ),
        ("a bare CR in a header section", format!("A: x\r{multipart}\r\n{evil_only}")),
        ("a bare LF in a header section", format!("A: x\n\nB: y\r\n{multipart}\r\n{evil_only}")),
        (
            "more than one Content-Type field, behind a line of blanks",
            format!("{multipart} \t\r\n{evil_only}"),
        ),
        (
            "more than one Content-Type field, behind a line that is no field",
            format!("{multipart}Hello!\r\n{evil_only}"),
        ),
        (
            "a delimiter that not every client sees",
            format!("{multipart}\r\n{good}--bb\r\n{evil}\r\n--b--\r\n"),
        ),
        ("parts behind the last delimiter", format!("{multipart}\r\n{good}--b--\r\n{evil_only}")),
        (
            "text before the first part",
            format!(
                "{multipart}\r\nbegin 644 x.com\r\n{}`\r\nend\r\n{good}--b--\r\n",
                uuencode(&eicar::text())
            ),
        ),
        (
            "an encoded multipart",
            format!("{multipart}Content-Transfer-Encoding: base64\r\n\r\n{encoded}\r\n"),
        ),
        (
            "a bare CR in a header section, and an encoding behind it",
            format!("A: x\rContent-Transfer-Encoding: base64\r\n\r\n{eicar}\r\n"),
        ),
        (
            "a bare CR in a header section, and all else",
            format!(
                "A: x\rContent-Type: multipart/mixed; boundary=b\r\r--b\r\r{}\r--b--\r\n\r\nbody\r\n",
                String::from_utf8(eicar::text()).unwrap()
            ),
        ),
        (
            "an encoded multipart, by its second field",
            format!(
                "{multipart}Content-Transfer-Encoding: 7bit\r\nContent-Transfer-Encoding: base64\r\n\r\n{encoded}\r\n"
            ),
        ),
        // The test file has to be all of a file.
        (
            "base64 that can be read in several ways",
            format!("Content-Transfer-Encoding: base64\r\n\r\n{eicar}\r\n{cut}\r\n"),
        ),
    ]
}

#[tokio::test]
async fn clients_disagree_about_what_is_a_part() {
    for (oddity, octets) in odd_mails() {
        let (verdict, reason) = verdict(&service(""), octets.clone().into()).await;
        assert_eq!(verdict, "infected", "{oddity}");
        // What looks like a mail is read as one anyway.
        let is_named =
            reason.contains(oddity.split(", ").next().unwrap()) || oddity.starts_with("a bare LF");
        assert!(is_named, "{oddity}: {reason}");
        let with_good = octets.replace(&base64(&eicar::text()), "Z29vZA==");
        let with_good = with_good.replace(&uuencode(&eicar::text()), "#9V]O\r\n");
        if with_good != octets {
            let found = handle(&service(""), &mail(with_good)).await.finding;
            assert_eq!(found.verdict, "clean", "{oddity}");
        }
    }
}

/// For no client is it there any more; or the mail is refused.
#[tokio::test]
async fn what_only_some_clients_see_is_replaced_too() {
    let service = service("action = \"replace\"");
    let mut refused = Vec::new();
    for (oddity, octets) in odd_mails() {
        let infected = mail(octets);
        match handle(&service, &infected).await.change {
            Change::Content(edits) => {
                let cured = Arc::new(infected.edited(&edits).unwrap());
                let cured = mail(whole(&cured));
                assert_eq!(handle(&service, &cured).await.finding.verdict, "clean", "{oddity}");
            }
            Change::Reply(_) => refused.push(oddity),
            other => panic!("{oddity}: {other:?}"),
        }
    }
    // A replaced body does not help against what stands in front of it.
    assert_eq!(refused, ["a bare CR in a header section, and all else"]);
}

#[tokio::test]
async fn zip_members_can_not_hide() {
    let service = service("");
    // Two members of one name: programs differ in which of them they open.
    let mut twice = zip(&[("a.com", &eicar::text()), ("b.com", b"harmless")]);
    for at in memchr::memmem::find_iter(&twice.clone(), b"b.com") {
        twice[at] = b'a';
    }
    assert_eq!(verdict(&service, with_attachment("z", &twice)).await.0, "infected");
    // No directory: programs repair that.
    let mut headless = zip(&[("y", b"1"), ("a.com", &eicar::text())]);
    headless.truncate(memchr::memmem::find(&headless, b"PK\x01\x02").unwrap());
    assert_eq!(verdict(&service, with_attachment("z", &headless)).await.0, "infected");
    // An empty directory behind the true one, and a member that only its own header tells of.
    let empty = [&zip(&[("a.com", &eicar::text())])[..], &zip(&[])].concat();
    assert_eq!(verdict(&service, with_attachment("z", &empty)).await.0, "infected");
    let hidden = zip(&[("a.com", &eicar::text())]);
    let hidden = &hidden[..memchr::memmem::find(&hidden, b"PK\x01\x02").unwrap()];
    let behind = [hidden, &zip(&[("y", b"1")])].concat();
    assert_eq!(verdict(&service, with_attachment("z", &behind)).await.0, "infected");
}

#[tokio::test]
async fn a_fragment_is_not_clean() {
    let fragment =
        "Content-Type: message/partial; id=x; number=1; total=2\r\n\r\nSubject: y\r\n\r\nhalf";
    let expected = "a fragment of a message, which clients put together: part 1";
    let found = verdict(&service(""), fragment.into()).await;
    assert_eq!(found, ("unreadable".to_owned(), expected.to_owned()));
}

#[tokio::test]
async fn two_cabinet_files_of_one_name() {
    let mut twice = cabinet(&[("a.com", b"harmless"), ("b.com", &eicar::text())]);
    for at in memchr::memmem::find_iter(&twice.clone(), b"b.com") {
        twice[at] = b'a';
    }
    assert_eq!(verdict(&service(""), with_attachment("z", &twice)).await.0, "infected");
}

#[tokio::test]
async fn what_can_not_be_read_is_not_called_clean() {
    let service = service("");
    let mut encrypted = zip(&[("a.com", b"hello")]);
    for signature in [&b"PK\x03\x04"[..], b"PK\x01\x02"] {
        let at = memchr::memmem::find(&encrypted, signature).unwrap();
        encrypted[at + if signature == b"PK\x03\x04" { 6 } else { 8 }] |= 1;
    }
    let mut broken = gzip(&[7; 1000]);
    broken.truncate(broken.len() - 9);
    let truncated_cabinet = cabinet(&[("a", b"hello")])[..50].to_vec();
    for (octets, expected, reason) in [
        (encrypted, "encrypted", "needs a password: part 1.2 (z) / a.com"),
        (broken, "unreadable", "broken archive (incomplete deflate stream): part 1.2 (z)"),
        (
            truncated_cabinet,
            "unreadable",
            "broken archive (the directory of the cabinet is cut short): part 1.2 (z)",
        ),
        (b"Rar!\x1a\x07\0\0\0".to_vec(), "unreadable", "rar archives are not read: part 1.2 (z)"),
        (b"harmless".to_vec(), "clean", ""),
    ] {
        let found = verdict(&service, with_attachment("z", &octets)).await;
        assert_eq!((found.0.as_str(), found.1.as_str()), (expected, reason));
    }
}

fn limited() -> VirusScan {
    service("limits = { depth = 4, members = 100, unpacked = 40_000_000, memory = 30_000_000 }")
}

#[tokio::test]
async fn bombs() {
    let service = limited();
    let zeros = vec![0; 20_000_000];
    let bomb = gzip(&zeros);
    let many: Vec<(String, Vec<u8>)> = (0..200).map(|n| (n.to_string(), Vec::new())).collect();
    let many: Vec<(&str, &[u8])> = many.iter().map(|(n, o)| (n.as_str(), o.as_slice())).collect();
    let mut deep = b"harmless".to_vec();
    for _ in 0..64 {
        deep = gzip(&deep);
    }
    let mut nested = with_attachment("x", b"harmless");
    for _ in 0..8 {
        nested = with_attachment("x.eml", &nested);
    }
    for (octets, reason) in [
        (bomb.clone(), "an archive that unpacks to many times its size: part 1.2 (z)"),
        (
            tar(&[
                ("a", &zeros[..15_000_000]),
                ("b", &zeros[..15_000_000]),
                ("c", &zeros[..15_000_000]),
            ]),
            "too many octets to unpack: part 1.2 (z)",
        ),
        (
            zip(&[("a", &bomb), ("b", &bomb)]),
            "an archive that unpacks to many times its size: part 1.2 (z) / a",
        ),
        (zip(&many), "an archive with too many members: part 1.2 (z)"),
        (tar(&many), "too many archive members, files in text and nested parts: part 1.2 (z)"),
        (cabinet(&many), "an archive with too many members: part 1.2 (z)"),
        (deep, "nested too deep: part 1.2 (z) / unnamed / unnamed / unnamed / unnamed"),
        (
            "begin 644 x\n`\nend\n".repeat(200).into(),
            "too many archive members, files in text and nested parts: part 1.2 (z)",
        ),
        (
            "data:,x\"".repeat(200).into(),
            "too many archive members, files in text and nested parts: part 1.2 (z)",
        ),
        (
            nested,
            "nested too deep: part 1.2 (z) / part 1.2 (x.eml) / part 1.2 (x.eml) / part 1.2 (x.eml) / part 1.2 (x.eml)",
        ),
    ] {
        let found = verdict(&service, with_attachment("z", &octets)).await;
        assert_eq!((found.0.as_str(), found.1.as_str()), ("too-big", reason));
    }
}

/// Many directory entries for the same octets: each alone is harmless.
#[tokio::test]
async fn overlapping_zip_members() {
    let one = zip(&[("a", &vec![0; 1_000_000])]);
    let directory = memchr::memmem::find(&one, b"PK\x01\x02").unwrap();
    let end = memchr::memmem::find(&one, b"PK\x05\x06").unwrap();
    let mut overlapping = one[..directory].to_vec();
    for name in b'a'..=b'y' {
        let mut entry = one[directory..end].to_vec();
        entry[46] = name;
        overlapping.extend(entry);
    }
    let size = u32::try_from(overlapping.len() - directory).unwrap();
    let mut record = one[end..].to_vec();
    record[8..10].copy_from_slice(&25u16.to_le_bytes());
    record[10..12].copy_from_slice(&25u16.to_le_bytes());
    record[12..16].copy_from_slice(&size.to_le_bytes());
    overlapping.extend(record);
    let found = verdict(&limited(), with_attachment("z", &overlapping)).await;
    assert_eq!(found.1, "an archive that unpacks to many times its size: part 1.2 (z)");
}

#[tokio::test]
async fn a_tar_that_lies_about_sizes() {
    let mut lying = tar(&[("x", b"hello")]);
    lying[124..135].copy_from_slice(b"77777777777");
    let sum: u32 =
        lying[..148].iter().chain(&lying[156..512]).map(|o| u32::from(*o)).sum::<u32>() + 256;
    lying[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    let found = verdict(&service(""), with_attachment("z", &lying)).await;
    assert_eq!(found.0, "unreadable", "{}", found.1);
}

#[tokio::test]
async fn a_view_that_is_cut_short_is_beyond_a_limit() {
    let mut text = String::new();
    for level in 0..100 {
        text.push_str(&format!(
            "Content-Type: multipart/mixed; boundary=b{level}x\n\n--b{level}x\n"
        ));
    }
    let outcome = handle(&service(""), &mail(text)).await;
    assert_eq!(outcome.finding.verdict, "too-big");
    let Change::Reply(reply) = outcome.change else { panic!("{outcome:?}") };
    assert_eq!(
        reply.to_string(),
        "554 5.7.1 content can't be scanned: parts nested more than 64 deep"
    );
}

/// A scanner asks for the whole; should it ever get the front of a mail, that is not clean.
#[tokio::test]
async fn the_front_of_a_mail_is_not_clean() {
    let front = Mail::front("A: b\r\n\r\n".into(), "harmless", None);
    let finding = handle(&service(""), &Arc::new(front)).await.finding;
    assert_eq!(finding.verdict, "too-big");
    assert_eq!(finding.reason.as_deref(), Some("only the front of the body is here"));
}

#[tokio::test]
async fn policies() {
    let broken = mail(with_attachment("z", b"\x1f\x8b\x08"));
    let code = |outcome: &Outcome| match &outcome.change {
        Change::Reply(reply) => reply.code(),
        _ => 0,
    };
    for (policy, expected) in
        [("accept", 0), ("tempfail", 451), ("reject", 554), ("quarantine", 554)]
    {
        let service = service(&format!("on-unreadable = \"{policy}\""));
        let outcome = handle(&service, &broken).await;
        assert_eq!(outcome.finding.verdict, "unreadable");
        assert_eq!(code(&outcome), expected, "{policy}");
    }
    let tagging = service("on-unreadable = \"tag\", tag = { field = \"X-Odd\" }");
    let Change::Content(edits) = handle(&tagging, &broken).await.change else { panic!() };
    let tagged = whole(&broken.edited(&edits).unwrap());
    assert!(tagged.starts_with(b"X-Odd: unreadable: broken archive ("));
    let discarding = service("on-unreadable = \"discard\"");
    assert_eq!(discarding.declaration().effects, [EffectName::Discard]);
    assert_eq!(code(&handle(&discarding, &broken).await), 554, "it was not granted");
    let outcome = discarding.handle(&request(&broken, &[EffectName::Discard])).await.unwrap();
    assert_eq!(outcome.effects[0].name(), EffectName::Discard);
    let infected = mail(with_attachment("z", &eicar::text()));
    let outcome = handle(&service("action = \"tag\""), &infected).await;
    let Change::Content(edits) = outcome.change else { panic!("{:?}", outcome.change) };
    let tagged = whole(&infected.edited(&edits).unwrap());
    assert!(tagged.starts_with(b"X-Content-Warning: infected: Eicar-Test-Signature in part"));
    let service = service("action = \"quarantine\"");
    assert_eq!(service.declaration().effects, [EffectName::Quarantine]);
    assert_eq!(service.declaration().on_failure, FailurePolicy::Tempfail);
    assert_eq!(code(&handle(&service, &infected).await), 554);
    let granted = request(&infected, &[EffectName::Quarantine]);
    let outcome = service.handle(&granted).await.unwrap();
    let reason = "infected: Eicar-Test-Signature in part 1.2 (z)";
    assert_eq!(outcome.effects, [SideEffect::Quarantine(reason.into())]);
    assert_eq!(outcome.change, Change::None);
}

/// Programs unpack what stands before damage, and so do we, wherever the mail is.
#[tokio::test]
async fn damage_behind_something_hides_nothing() {
    let service = service("");
    let noise: Vec<u8> = (0..3_000u32).flat_map(|n| (n * n).to_string().into_bytes()).collect();
    let padded = tar(&[("x.com", &eicar::text()), ("noise", &noise)]);
    for octets in [gzip(&padded), zip(&[("a.tar", &padded)])] {
        for at in (octets.len() / 2..octets.len()).step_by(97) {
            let mut damaged = octets.clone();
            damaged[at] ^= 0x55;
            let damaged = mail(with_attachment("z", &damaged));
            let found = handle(&service, &damaged).await.finding;
            assert_eq!(found.verdict, "infected", "{at}: {found:?}");
            assert_eq!(handle(&service, &spooled(&damaged)).await.finding, found, "{at}");
        }
    }
}

#[tokio::test]
async fn macros_are_found_in_every_wrapping() {
    let looking = service("on-macros = \"reject\"");
    let xls = compound(&[("/Workbook", &workbook(&[(0, 0x10), (1, 0x40)], false, 0))]);
    let doc = compound(&[("/WordDocument", b"x"), ("/Macros/VBA/dir", b"x")]);
    let docm = zip(&[("[Content_Types].xml", b"<Types/>"), ("word/vbaProject.bin", &doc)]);
    let xlsm = zip(&[("[Content_Types].xml", b"<Override ContentType=\"x.macroEnabled.y\"/>")]);
    for (octets, found) in [
        (xls.clone(), "Excel 4 macros in part 1.2 (z)"),
        (doc.clone(), "VBA macros in part 1.2 (z)"),
        (docm.clone(), "VBA macros in part 1.2 (z) / word/vbaProject.bin"),
        (xlsm, "content types with macros in part 1.2 (z) / [Content_Types].xml"),
        (zip(&[("a.docm", &docm)]), "VBA macros in part 1.2 (z) / a.docm / word/vbaProject.bin"),
        (gzip(&tar(&[("a.xls", &xls)])), "Excel 4 macros in part 1.2 (z) / unnamed / a.xls"),
    ] {
        let found = ("macro".to_owned(), found.to_owned());
        assert_eq!(verdict(&looking, with_attachment("z", &octets)).await, found);
        assert_eq!(verdict(&service(""), with_attachment("z", &octets)).await.0, "clean");
    }
    let outcome = handle(&looking, &mail(with_attachment("z", &doc))).await;
    let Change::Reply(reply) = outcome.change else { panic!("{:?}", outcome.change) };
    assert_eq!(reply.to_string(), "554 5.7.1 content has VBA macros in part 1.2 (z)");
    let infected = zip(&[("a.doc", &doc), ("x.com", &eicar::text())]);
    assert_eq!(verdict(&looking, with_attachment("z", &infected)).await.0, "infected");
}

#[tokio::test]
async fn an_office_file_with_a_password_is_encrypted() {
    let locked = compound(&[("/EncryptedPackage", b"x"), ("/EncryptionInfo", b"x")]);
    let found = verdict(&service(""), with_attachment("a.docx", &locked)).await;
    let expected = ("encrypted", "needs a password: part 1.2 (a.docx)");
    assert_eq!((found.0.as_str(), found.1.as_str()), expected);
}

#[tokio::test]
async fn infected_parts_are_replaced() {
    let service = service("action = \"replace\", notice = \"{virus} was in {place}\"");
    let mut text = String::from_utf8(with_attachment("a", &eicar::text())).unwrap();
    let second = text[text.find("--b\r\nContent-Type: app").unwrap()..].replace("=\"a\"", "=\"b\"");
    text.truncate(text.find("--b--").unwrap());
    text.push_str("--b\r\n\r\nbetween\r\n");
    text.push_str(&second);
    let infected = mail(text.clone());
    let outcome = handle(&service, &infected).await;
    let Change::Content(edits) = outcome.change else { panic!("{:?}", outcome.change) };
    let cured = Arc::new(infected.edited(&edits).unwrap());
    let bodies: Vec<_> =
        cured.parts().unwrap().iter().skip(1).map(|part| cured.text(part, 1000).unwrap()).collect();
    assert_eq!(
        bodies,
        [
            "hello",
            "Eicar-Test-Signature was in part 1.2 (a)",
            "between",
            "Eicar-Test-Signature was in part 1.4 (b)"
        ]
    );
    assert_eq!(handle(&service, &cured).await.finding.verdict, "clean");
}

/// Everything that was found in a mail in memory is found in one in a file, and edits of it copy
/// nothing.
#[tokio::test]
async fn a_mail_in_a_file_is_scanned_like_any_other() {
    let service = service("action = \"replace\", limits = { memory = 100 }");
    let octets =
        [&[7; 100_000][..], &zip(&[("y", &[7; 100_000]), ("x.com", &eicar::text())])].concat();
    let infected = mail(with_attachment("a.exe", &octets));
    let outcome = handle(&service, &infected).await;
    assert_eq!(outcome.finding.verdict, "infected");
    let stored = spooled(&infected);
    assert_eq!(handle(&service, &stored).await, outcome);
    let Change::Content(edits) = outcome.change else { panic!("{:?}", outcome.change) };
    let cured = stored.edited(&edits).unwrap();
    assert!(cured.body().in_memory().is_none());
    assert_eq!(whole(&cured), whole(&infected.edited(&edits).unwrap()));
    assert_eq!(handle(&service, &Arc::new(cured)).await.finding.verdict, "clean");
}

/// A mail that can't be read is neither clean nor broken: the service failed.
#[tokio::test]
async fn a_mail_that_can_not_be_read_is_an_error() {
    let file = Arc::new(tempfile::tempfile().unwrap());
    let unreadable = || Mail::new("A: b\n\n".into(), Octets::from_file(file.clone(), 200_000));
    let registry = crate::Registry::builtin();
    for name in ["virus-scan", "mime-strip", "spam-score"] {
        let service = (registry.find(name).unwrap().build)(Settings::none()).unwrap();
        let request = request(&Arc::new(unreadable()), &[]);
        let error = service.handle(&request).await.unwrap_err();
        let expected =
            "spool: a spool file of the message can't be read: it is shorter than it was";
        assert_eq!(error.to_string(), expected, "{name}");
    }
}

/// Nor is one whose archives can't be unpacked: the operator hears where.
#[tokio::test]
async fn a_folder_that_takes_no_files_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let member = [b'x'; 1_000];
    let request = request(&mail(with_attachment("a.zip", &zip(&[("x", &member)]))), &[]);
    for name in ["virus-scan", "mime-strip"] {
        let build = |folder: &Path| {
            let settings = Settings::parse("limits = { memory = 100 }", Path::new("")).unwrap();
            let settings = settings.with_temporary_folder(folder.to_owned().into());
            (crate::Registry::builtin().find(name).unwrap().build)(settings).unwrap()
        };
        let service = build(folder.path());
        assert_eq!(service.handle(&request).await.unwrap().finding.verdict, "clean");
        let gone = folder.path().join("gone");
        let error = build(&gone).handle(&request).await.unwrap_err();
        let expected = format!("a temporary file in {} can't be written: ", gone.display());
        assert_eq!(error.stage, "spool");
        assert!(error.cause.starts_with(&expected), "{name}: {error}");
    }
}

/// What could not be looked at may be infected too.
#[tokio::test]
async fn a_mail_beyond_a_limit_is_not_repaired() {
    let service = service("action = \"replace\", limits = { members = 2 }");
    let octets = zip(&[("a", &eicar::text()), ("b", b"1"), ("c", b"2")]);
    let mut text = String::from_utf8(with_attachment("a", &eicar::text())).unwrap();
    let second = String::from_utf8(with_attachment("z", &octets)).unwrap();
    text.truncate(text.find("--b--").unwrap());
    text.push_str(&second[second.find("--b\r\nContent-Type: app").unwrap()..]);
    let outcome = handle(&service, &mail(text)).await;
    assert_eq!(outcome.finding.verdict, "infected");
    let Change::Reply(reply) = outcome.change else { panic!("{:?}", outcome.change) };
    assert_eq!(reply.to_string(), "554 5.7.1 message contains Eicar-Test-Signature");
}

#[test]
fn settings_that_can_not_be_used() {
    let error = |settings: &str| service_in(settings, Path::new("/base")).err().unwrap().message;
    assert!(error("signatures = \"nowhere\"").starts_with("signatures: /base/nowhere: "));
    assert_eq!(error("clamd = \"x\""), "clamd: \"x\" is neither host:port nor unix:/path");
    assert_eq!(error("scans = 0"), "scans: must be at least 1");
    assert!(error("on-limit = \"ignore\"").contains("unknown variant `ignore`"));
    assert!(error("limits = { ratios = 1 }").contains("unknown field `ratios`"));
}

#[test]
fn the_example_of_the_documentation_is_read() {
    let source = include_str!("mod.rs");
    let example: String = source
        .lines()
        .skip_while(|line| *line != "//! ```toml")
        .skip(1)
        .take_while(|line| *line != "//! ```")
        .map(|line| format!("{}\n", line.trim_start_matches("//!")))
        .collect();
    let table = toml::de::Deserializer::parse(&example).unwrap();
    let read: VirusScanSettings = serde::Deserialize::deserialize(table).unwrap();
    let expected = VirusScanSettings {
        signatures: Some("signatures".into()),
        clamd: Some(ClamdAddresses::One("unix:/run/clamav/clamd.ctl".to_owned())),
        notice: read.notice.clone(),
        on_macros: Some(Policy::Quarantine),
        on_error: Some(Policy::Tempfail),
        tag: read.tag.clone(),
        ..VirusScanSettings::default()
    };
    assert_eq!(read, expected);
}

#[tokio::test]
async fn signatures_of_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("sub")).unwrap();
    fs::write(folder.path().join("sub/a.hdb"), EMPTY_FILE).unwrap();
    fs::write(folder.path().join("sub/b.ndb"), "Test.Body:0:*:6576696c{1-3}636f6465\nX:0:VI:00\n")
        .unwrap();
    let service = service_in("signatures = \"sub\"", folder.path()).unwrap();
    assert_eq!(service.notes(), ["b.ndb line 2: not supported: offset VI"]);
    let found = verdict(&service, with_attachment("a", b"some evil code")).await;
    assert_eq!(found.1, "Test.Body in part 1.2 (a)");
}

/// The mails of the test data, where they are.
#[tokio::test]
async fn the_test_mails() {
    let Some(data) = shared("testdata") else { return };
    let service = service_in("signatures = \"clamdb\"", &data).unwrap();
    assert_eq!(service.notes(), Vec::<String>::new());
    let manifest = fs::read_to_string(data.join("manifest.json")).unwrap();
    let mut infected = 0;
    for line in manifest.lines().filter(|line| line.contains("\"file\":\"")) {
        let file = line.split("\"file\":\"").nth(1).unwrap().split('"').next().unwrap();
        let octets = fs::read(data.join(file)).unwrap();
        let (verdict, reason) = verdict(&service, octets).await;
        let expected = match () {
            () if line.contains("\"detectable\":\"encrypted\"") => "encrypted",
            () if line.contains("\"has_virus\":true") => "infected",
            () if file.starts_with("virus/") => "clean",
            () => {
                assert_ne!(verdict, "infected", "{file}: {reason}");
                assert_ne!(verdict, "too-big", "{file}: {reason}");
                continue;
            }
        };
        infected += 1;
        assert_eq!(verdict, expected, "{file}: {reason}");
    }
    assert_eq!(infected, 15);
}

/// A clamd with one signature, on a socket of its own.
struct RunningClamd {
    process: std::process::Child,
    /// What it says; kept open, since it ends when nobody reads.
    output: BufReader<std::process::ChildStdout>,
    folder: tempfile::TempDir,
}

impl RunningClamd {
    /// Starts it; `None`, and a word about it, where it is not installed.
    fn start() -> Option<Self> {
        let program = ["/usr/sbin/clamd", "/usr/bin/clamd", "/usr/local/sbin/clamd"];
        let Some(program) = program.into_iter().find(|path| Path::new(path).exists()) else {
            eprintln!("not run: clamd is not installed");
            return None;
        };
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).display().to_string();
        fs::create_dir(path("db")).unwrap();
        let hex: String = eicar::text().iter().map(|octet| format!("{octet:02x}")).collect();
        fs::write(path("db/test.ndb"), format!("Eicar-Test-Signature:0:0:{hex}\n")).unwrap();
        let configuration = format!(
            "Foreground true\nDatabaseDirectory {}\nLocalSocket {}\nStreamMaxLength 1M\n",
            path("db"),
            path("socket")
        );
        fs::write(path("clamd.conf"), configuration).unwrap();
        let mut process = std::process::Command::new(program)
            .args(["-c", &path("clamd.conf")])
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let output = BufReader::new(process.stdout.take().unwrap());
        let mut clamd = Self { process, output, folder };
        // It says when its socket is there, and in the end its output tells why it is not.
        let mut said = Vec::new();
        for line in clamd.output.by_ref().lines() {
            let line = line.unwrap();
            if line.contains("Self checking every") {
                return Some(clamd);
            }
            said.push(line);
        }
        panic!("clamd does not start: {said:?}");
    }

    fn address(&self) -> String {
        format!("unix:{}", self.folder.path().join("socket").display())
    }
}

impl Drop for RunningClamd {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[tokio::test]
async fn a_real_clamd() {
    let Some(clamd) = RunningClamd::start() else { return };
    let minute = Duration::from_secs(60);
    let times = Times { timeout: minute, retry: minute };
    let asked = Clamds::new(&[clamd.address()], times, CacheSettings::default()).unwrap();
    let infected = mail(with_attachment("a.com", &eicar::text()));
    // What clamd makes of a name depends on its database: `.UNOFFICIAL` is added.
    let found = "Eicar-Test-Signature.UNOFFICIAL".to_owned();
    assert_eq!(asked.scan_mail(&infected).await, Ok(Answer::Found(found.clone())));
    let clean = mail(with_attachment("a.com", b"harmless"));
    assert_eq!(asked.scan_mail(&clean).await, Ok(Answer::Clean));

    let large = mail(with_attachment("a.com", &vec![b'x'; 3_000_000]));
    assert_eq!(asked.scan_mail(&large).await, Ok(Answer::TooLarge));
    // Given up before it is answered.
    assert_eq!(asked.scan_mail(&clean).now_or_never(), None);
    let counted: Vec<_> = asked
        .measures()
        .iter()
        .filter(|measure| measure.name == "clamd_scans")
        .map(|measure| (measure.label.unwrap().1, measure.value))
        .collect();
    assert_eq!(counted, [("clean", 1), ("found", 1), ("too_large", 1), ("failed", 1)]);
    let settings = format!("clamd = \"{}\"", clamd.address());
    let found = handle(&service(&settings), &large).await.finding;
    assert_eq!(found.verdict, "too-big");
    assert_eq!(found.reason.unwrap(), "larger than the StreamMaxLength of clamd");
    let limited = service(&format!("{settings}, clamd-size = 1_000_000"));
    let found = handle(&limited, &large).await.finding;
    assert_eq!(found.verdict, "too-big");
    assert_eq!(found.reason.unwrap(), "larger than the 1000000 octets for clamd");
}

/// clamd finds what this service does not; each part is asked about to replace the right one.
#[tokio::test]
async fn a_real_clamd_points_at_the_part() {
    let Some(clamd) = RunningClamd::start() else { return };
    let service = service(&format!("clamd = \"{}\", action = \"replace\"", clamd.address()));
    // Too long for the EICAR file, but clamd's signature is for any file that starts so.
    let octets = [&eicar::text()[..], &[b'x'; 200]].concat();
    let infected = mail(with_attachment("a.com", &octets));
    let outcome = handle(&service, &infected).await;
    assert_eq!(
        outcome.finding.reason.unwrap(),
        "Eicar-Test-Signature.UNOFFICIAL in part 1.2 (a.com)"
    );
    let Change::Content(edits) = outcome.change else { panic!("{:?}", outcome.change) };
    let cured = Arc::new(infected.edited(&edits).unwrap());
    assert_eq!(handle(&service, &cured).await.finding.verdict, "clean");
}

#[tokio::test]
async fn a_clamd_that_is_not_there_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket").display().to_string();
    let settings = format!("clamd = \"unix:{path}\", clamd-retry = 0");
    let mail = mail(with_attachment("a", b"harmless"));
    let cause = format!("clamd: {path}: No such file or directory (os error 2)");
    let error = service(&settings).handle(&request(&mail, &[])).await.unwrap_err();
    assert_eq!(error.to_string(), cause);
    let keeping = service(&format!("{settings}, on-error = \"quarantine\""));
    assert_eq!(keeping.declaration().effects, [EffectName::Quarantine]);
    let outcome = keeping.handle(&request(&mail, &[EffectName::Quarantine])).await.unwrap();
    assert_eq!(outcome.effects, [SideEffect::Quarantine(format!("error: {cause}").into())]);
    let deferring = service(&format!("{settings}, on-error = \"tempfail\""));
    let Change::Reply(reply) = handle(&deferring, &mail).await.change else { panic!() };
    assert_eq!(reply.to_string(), "451 4.7.1 message could not be scanned");
}
