use std::fs;
use std::path::Path;

use ocp_proto::smtp::{Address, Auth, EffectName, SideEffect};

use super::*;
use crate::fixtures::{
    cabinet, compound, gzip, mail, request, shared, spooled, tar, uuencode, whole, with_attachment,
    zip,
};
use crate::mail::{Part, PartKind};

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

/// A request with a sender and recipients.
fn envelope(mail: &Arc<Mail>, sender: &'static str, recipients: &[&'static str]) -> Request {
    let mut request = request(mail, &[EffectName::Quarantine, EffectName::Discard]);
    request.envelope.sender = Some(Address::new(sender).unwrap());
    let addresses = recipients.iter().map(|path| Address::new(*path).unwrap());
    request.envelope.recipients = addresses.collect();
    request
}

fn macros() -> Vec<u8> {
    compound(&[("/WordDocument", b"x"), ("/Macros/VBA/dir", b"x")])
}

async fn found(service: &MimeStrip, name: &str, octets: &[u8]) -> (String, String) {
    let finding = handle(service, &mail(with_attachment(name, octets))).await.finding;
    (finding.verdict.into_owned(), finding.reason.unwrap_or_default())
}

#[tokio::test]
async fn what_a_rule_may_be_about() {
    let rule = |what: &str| service(&format!("rules = [{{ {what}, action = \"replace\" }}]"));
    let mut locked = zip(&[("b.txt", b"hello")]);
    locked[6] |= 1;
    let at = memchr::memmem::find(&locked, b"PK\x01\x02").unwrap();
    locked[at + 8] |= 1;
    let office = compound(&[("/EncryptedPackage", b"x")]);
    let docm = zip(&[("word/vbaProject.bin", &macros())]);
    let cases: [(&str, &str, &[u8], &str); 9] = [
        ("macros = true", "a.doc", &macros(), "VBA macros in part 1.2 (a.doc)"),
        ("macros = true", "a.docm", &docm, "VBA macros in part 1.2 (a.docm) / word/vbaProject.bin"),
        (
            "encrypted = true",
            "a.zip",
            &locked,
            "only a password opens it in part 1.2 (a.zip) / b.txt",
        ),
        ("encrypted = true", "a.xlsx", &office, "only a password opens it in part 1.2 (a.xlsx)"),
        ("larger-than = 99", "a.txt", &[b'x'; 100], "larger than 99 octets in part 1.2 (a.txt)"),
        (
            "mismatched = true",
            "a.pdf",
            &zip(&[]),
            "named .pdf, but of the kind zip in part 1.2 (a.pdf)",
        ),
        ("names = [\"b*\"]", "b.txt", b"x", "forbidden name (b*) in part 1.2 (b.txt)"),
        ("extensions = [\".TXT\"]", "b.txt", b"x", "forbidden extension .txt in part 1.2 (b.txt)"),
        (
            "types = [\"*/octet-stream\"]",
            "b",
            b"x",
            "forbidden type (*/octet-stream) in part 1.2 (b)",
        ),
    ];
    for (what, name, octets, reason) in cases {
        let expected = ("stripped".to_owned(), reason.to_owned());
        assert_eq!(found(&rule(what), name, octets).await, expected, "{what}");
        let others = found(&rule("content = [\"flash\"]"), name, octets).await;
        assert_eq!(others.0, "clean", "{what}: the rules for all name none of these");
    }
    let at_most = rule("larger-than = 100");
    assert_eq!(found(&at_most, "a.txt", &[b'x'; 100]).await.0, "clean");
}

/// Macros and passwords are those of the whole file, even if archives are not looked into.
#[tokio::test]
async fn what_counts_inside_of_archives_that_are_not_looked_into() {
    let outside = service(
        "inside-archives = false, rules = [{ macros = true, names = [\"b*\"], action = \"strip\" }]",
    );
    let docm = zip(&[("b.exe", b"x"), ("word/vbaProject.bin", &macros())]);
    let reason = "VBA macros in part 1.2 (a.docm) / word/vbaProject.bin";
    assert_eq!(found(&outside, "a.docm", &docm).await.1, reason);
    assert_eq!(found(&outside, "a.zip", &zip(&[("b.exe", b"x")])).await.0, "clean");
    assert_eq!(found(&outside, "b.zip", &zip(&[])).await.0, "stripped");
}

#[tokio::test]
async fn actions_for_the_whole_message() {
    let before = mail(with_attachment("a.doc", &macros()));
    let outcome = |action: &str, granted: &[EffectName]| {
        let service = service(&format!("rules = [{{ macros = true, action = \"{action}\" }}]"));
        let request = request(&before, granted);
        async move { service.handle(&request).await.unwrap() }
    };
    let code = |outcome: &Outcome| match &outcome.change {
        Change::Reply(reply) => reply.to_string(),
        _ => String::new(),
    };
    let refusal = "attachment not allowed: VBA macros in part 1.2 (a.doc)";
    for (action, reply) in [("reject", "554"), ("quarantine", "554"), ("discard", "554")] {
        let outcome = outcome(action, &[]).await;
        assert_eq!(code(&outcome), format!("{reply} 5.7.1 {refusal}"), "{action}");
        assert_eq!(outcome.finding.verdict, "forbidden");
    }
    assert_eq!(code(&outcome("tempfail", &[]).await), format!("451 4.7.1 {refusal}"));
    let reason = "forbidden: VBA macros in part 1.2 (a.doc)";
    let kept = outcome("quarantine", &[EffectName::Quarantine]).await;
    assert_eq!(kept.effects, [SideEffect::Quarantine(reason.into())]);
    let dropped = outcome("discard", &[EffectName::Discard]).await;
    assert_eq!(dropped.effects, [SideEffect::Discard(reason.into())]);
    assert_eq!((kept.change, dropped.change), (Change::None, Change::None));
    let effects =
        service("rules = [{ macros = true, action = \"discard\" }]").declaration().effects;
    assert_eq!(effects, [EffectName::Discard]);
}

#[tokio::test]
async fn a_tagged_message_passes_with_its_parts() {
    let service = service(
        "tag = { subject = \"[macros] \", field = \"X-Odd\" }, \
         rules = [{ macros = true, action = \"tag\" }]",
    );
    let octets = with_attachment("a.doc", &macros());
    let outcome = handle(&service, &mail(octets.clone())).await;
    assert_eq!(outcome.finding.verdict, "tagged");
    let Change::Content(edits) = outcome.change else { panic!("{:?}", outcome.change) };
    let after = text(&mail(octets.clone()).edited(&edits).unwrap());
    let rest = String::from_utf8(octets).unwrap();
    let field = "X-Odd: tagged: VBA macros in part 1.2 (a.doc)\r\nSubject: [macros]\r\n";
    assert_eq!(after, format!("{field}{rest}"));
}

/// What is tagged may hold something worse.
#[tokio::test]
async fn the_strictest_of_several_counts() {
    let service = service(
        "rules = [{ extensions = [\"zip\"], action = \"tag\" }, { macros = true, action = \"reject\" }]",
    );
    let archive = zip(&[("a.doc", &macros())]);
    assert_eq!(found(&service, "a.zip", &archive).await.0, "forbidden");
    assert_eq!(found(&service, "a.zip", &zip(&[("a.txt", b"x")])).await.0, "tagged");
    assert_eq!(found(&service, "a.zip", &zip(&[("a.exe", b"x")])).await.0, "stripped");
}

/// Mails in which only some clients see a forbidden file: for none is it there any more, or the mail is refused.
#[tokio::test]
async fn what_only_some_clients_see_goes_too() {
    let evil = "Content-Type: application/x; name=x.com\r\n\r\nx";
    let evil_only = format!("--b\r\n{evil}\r\n--b--\r\n");
    let multipart = "Content-Type: multipart/mixed; boundary=b\r\n";
    let good = "--b\r\n\r\ngood\r\n";
    let uuencoded = format!("begin 644 x.com\r\n{}`\r\nend\r\n", uuencode(b"x"));
    let mails = [
        format!(
            "Content-Type: multipart/mixed; boundary=a; boundary=b\r\n\r\n--a\r\n\r\nx\r\n{evil_only}--a--\r\n"
        ),
        format!("Content-Type: text/plain\r\n{multipart}\r\n{evil_only}"),
        format!("{multipart}\r\n{good}--bb\r\n{evil}\r\n--b--\r\n"),
        format!("{multipart}\r\n{good}--b--\r\n{evil_only}"),
        format!("{multipart}\r\n{uuencoded}{good}--b\r\n{evil}\r\n--b--\r\n"),
        format!("A: x\r{multipart}\r\n{evil_only}"),
    ];
    for action in ["replace", "strip"] {
        let service =
            service(&format!("rules = [{{ extensions = [\"com\"], action = \"{action}\" }}]"));
        let mut refused = 0;
        for octets in &mails {
            match handle(&service, &mail(octets.clone())).await.change {
                Change::Content(edits) => {
                    let after = whole(&mail(octets.clone()).edited(&edits).unwrap());
                    let found = handle(&service, &mail(after.clone())).await.finding;
                    assert_eq!(found.verdict, "clean", "{}", String::from_utf8_lossy(&after));
                }
                Change::Reply(reply) => {
                    assert!(
                        reply.to_string().starts_with("554 5.7.1 attachment can't be removed: ")
                    );
                    refused += 1;
                }
                other => panic!("{other:?}: {octets}"),
            }
        }
        assert!(refused < mails.len() / 2, "{refused}");
    }
}

fn with_parts(parts: &[&str]) -> Arc<Mail> {
    let parts: String = parts.iter().map(|part| format!("--b\r\n{part}\r\n")).collect();
    mail(format!("Content-Type: multipart/mixed; boundary=b\r\n\r\n{parts}--b--\r\n"))
}

#[tokio::test]
async fn a_part_that_is_stripped_goes_with_its_delimiter() {
    let service = service("notice = \"gone\", rules = [{ names = [\"x*\"], action = \"strip\" }]");
    let text = "\r\nhello";
    let x = "Content-Disposition: attachment; filename=x1\r\n\r\nx";
    let empty = "Content-Disposition: attachment; filename=x2\r\n";
    for (before, after) in [
        (vec![text, x], vec![text]),
        (vec![x, text], vec![text]),
        (vec![x, x, text, empty, x], vec![text]),
    ] {
        let before = with_parts(&before);
        let stripped = stripped(&service, &before).await.0;
        assert_eq!(whole(&stripped), whole(&with_parts(&after)));
        assert_eq!(whole(&self::stripped(&service, &spooled(&before)).await.0), whole(&stripped));
    }
    let notice = "Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\
                  Content-Disposition: attachment; filename=\"removed.txt\"\r\n\r\ngone";
    let nothing_left = stripped(&service, &with_parts(&[x, x])).await.0;
    assert_eq!(whole(&nothing_left), whole(&with_parts(&[notice])));
    let alone = mail("Content-Disposition: attachment; filename=x1\r\n\r\nx");
    assert!(self::text(&stripped(&service, &alone).await.0).ends_with("\r\n\r\ngone\r\n"));
}

#[tokio::test]
async fn rules_for_some_mail() {
    let service = service(
        "rules = [\
         { senders = [\"friend.example\"], names = [\"tool.exe\"], action = \"accept\" }, \
         { direction = \"outbound\", extensions = [\"exe\"], action = \"reject\" }, \
         { recipients = [\"abuse@b.example\"], action = \"accept\" }]",
    );
    let before = mail(with_attachment("tool.exe", b"x"));
    let ask = async |sender, recipients: &[&'static str], authenticated: bool| {
        let mut request = envelope(&before, sender, recipients);
        let (mechanism, identity) = ("PLAIN".into(), "ann".into());
        let auth = authenticated.then_some(Auth { mechanism, identity });
        Arc::make_mut(&mut request.dialog).auth = auth;
        service.handle(&request).await.unwrap().finding
    };
    let ann = "<ann@b.example>";
    assert_eq!(ask("<a@friend.example>", &[ann], false).await.verdict, "clean");
    assert_eq!(ask("<a@friend.example>", &[ann], true).await.verdict, "clean");
    assert_eq!(ask("<a@a.example>", &[ann], false).await.verdict, "stripped");
    assert_eq!(ask("<>", &[ann], false).await.verdict, "stripped");
    assert_eq!(ask("<a@a.example>", &[ann], true).await.verdict, "forbidden");
    let abuse = "<abuse@b.example>";
    assert_eq!(ask("<a@a.example>", &[abuse], false).await.verdict, "exempt");
    let both = ask("<a@a.example>", &[abuse, ann], false).await;
    assert_eq!(
        both.reason.unwrap(),
        "forbidden extension .exe in part 1.2 (tool.exe); \
         recipients have different rules, the strictest counts for all"
    );
}

#[test]
fn recipients_are_treated_alike_unless_rules_or_languages_differ() {
    let service = service(
        "rules = [{ recipients = [\"a.example\"], macros = true, action = \"strip\" }, \
         { senders = [\"c.example\"], recipients = [\"b.example\"], action = \"accept\" }], \
         languages = [{ recipients = [\"/^karl@/\"], language = \"de\" }]",
    );
    let of = |path: &'static str| service.treatment(&Address::new(path).unwrap());
    assert_eq!(of("<ann@a.example>"), of("<BOB@A.example>"));
    let all = ["<x@a.example>", "<x@b.example>", "<x@c.example>", "<karl@a.example>"].map(of);
    let distinct: std::collections::BTreeSet<_> = all.into_iter().collect();
    assert_eq!(distinct.len(), 4);
    assert!(service.declaration().distinguishes_recipients);
    let same = "rules = [{ macros = true, action = \"strip\" }], \
                languages = [{ recipients = [\"a.example\"], language = \"en\" }]";
    assert!(!self::service(same).declaration().distinguishes_recipients);
    assert!(!self::service("").declaration().distinguishes_recipients);
}

#[tokio::test]
async fn notices_in_the_language_of_the_reader() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("sv.txt"), "Borttagen: {name} \u{e5}").unwrap();
    let settings = "language = \"fr\"\nnotices = { sv = \"sv.txt\" }\n\
        languages = [{ recipients = [\"b.example\"], language = \"DE\" }, \
        { recipients = [\"c.example\"], language = \"sv\" }]\n\
        [[rules]]\nnames = [\"x\"]\naction = \"replace\"\nlanguage = \"es\"\n\
        [[rules]]\nnames = [\"y\"]\naction = \"replace\"\nnotice = \"own {name}\"\n";
    let service = MimeStrip::new(Settings::parse(settings, folder.path()).unwrap()).unwrap();
    for (name, recipient, begins) in [
        (
            "a.exe",
            "<a@a.example>",
            "Une pi\u{e8}ce jointe a \u{e9}t\u{e9} supprim\u{e9}e ici.\nNom : a.exe",
        ),
        ("a.exe", "<a@b.example>", "Ein Anhang wurde hier entfernt.\nName: a.exe"),
        ("a.exe", "<a@c.example>", "Borttagen: a.exe \u{e5}"),
        ("x", "<a@b.example>", "Se ha eliminado aqu\u{ed} un archivo adjunto.\nNombre: x"),
        ("y", "<a@b.example>", "own y"),
    ] {
        let before = mail(with_attachment(name, b"x"));
        let outcome = service.handle(&envelope(&before, "<a@x.example>", &[recipient])).await;
        let Change::Content(edits) = outcome.unwrap().change else { panic!("{name}") };
        let after = before.edited(&edits).unwrap();
        let notice = after.text(&after.parts().unwrap()[2], 1_000).unwrap().replace("\r\n", "\n");
        assert!(notice.starts_with(begins), "{notice}");
    }
}

#[test]
fn settings_that_can_not_be_used_are_shown_where_they_stand() {
    let error = |settings: &str| {
        let error = MimeStrip::new(Settings::parse(settings, Path::new("/base")).unwrap());
        let error = error.err().unwrap();
        let at = error.span.map_or("", |span| &settings[span]).to_owned();
        (error.message, at)
    };
    let rule = |rest: &str| error(&format!("[[rules]]\n{rest}\n"));
    let (why, at) = rule("action = \"replace\"");
    assert!(why.starts_with("the rule names no files: it needs names, "), "{why}");
    assert_eq!(at, "\"replace\"");
    assert_eq!(rule("names = [\"/(/\"]\naction = \"strip\"").1, "\"/(/\"");
    assert_eq!(rule("senders = [\"a b\"]\naction = \"accept\"").1, "\"a b\"");
    assert!(rule("action = \"drop\"").0.contains("unknown variant `drop`"));
    assert!(rule("macros = true").0.contains("missing field `action`"));
    let (why, at) = error("language = \"tlh\"");
    assert!(
        why.starts_with("there is no notice in \"tlh\": these languages have one: cs, de, en, "),
        "{why}"
    );
    assert_eq!(at, "\"tlh\"");
    let (why, at) = error("notices = { tlh = \"none.txt\" }");
    assert!(why.starts_with("notices: /base/none.txt: No such file"), "{why}");
    assert_eq!(at, "\"none.txt\"");
    assert!(error("tag = { subject = \"\u{fc}\" }").0.contains("subject is text in ASCII"));
    let many = "[[rules]]\naction = \"accept\"\n".repeat(56);
    assert_eq!(error(&many).0, "mime-strip has at most 55 rules");
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
    assert_eq!(read.rules.len(), 2);
    assert_eq!(*read.rules[1].action.get_ref(), Action::Strip);
    let notices = Notices::new(&read, Path::new("")).unwrap();
    assert!(Rules::new(&read, notices).is_ok());
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
            let rules = service.rules.applied(&request(&before, &[]));
            let (found, _) = search(&before, &rules, &service.room, true).unwrap();
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
