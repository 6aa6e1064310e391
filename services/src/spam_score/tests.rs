use std::path::Path;
use std::sync::LazyLock;

use proptest::prelude::*;

use super::rules::tests::gtube;
use super::view::tests::mail;
use super::*;
use crate::fixtures::{spooled, whole};
use crate::mail::header_length;
use crate::setting::documented;

/// One rule, so that a score is what a test says.
const WORD: &str = "rule = [{ name = 'WORD', score = 5.0, in = 'text', pattern = 'pill' }]";

fn service(settings: &str) -> Result<SpamScore, SettingsError> {
    SpamScore::new(Settings::parse(settings, Path::new(""))?)
}

/// The service with the rules [`WORD`] and these settings.
fn with_word(settings: &str) -> SpamScore {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("r.toml"), WORD).unwrap();
    let settings = format!("rules = 'r.toml'\n{settings}");
    SpamScore::new(Settings::parse(&settings, directory.path()).unwrap()).unwrap()
}

/// The outcome and the message that it makes.
fn judged(service: &SpamScore, text: &str) -> (Outcome, String) {
    let mail = mail(text);
    let outcome = service.0.judge(&mail, &Envelope::default()).unwrap();
    let next = match &outcome.change {
        Change::Content(edits) => mail.edited(edits).unwrap(),
        _ => mail,
    };
    let octets = whole(&next);
    (outcome, String::from_utf8(octets).unwrap())
}

#[test]
fn ham_stays_as_it_is() {
    let text = "Subject: hello\r\n\r\nworld\r\n";
    let (outcome, made) = judged(&with_word(""), text);
    assert_eq!(outcome, Outcome::unchanged(Finding::new("ham").with_score("0.0/5.0")));
    assert_eq!(made, text);
}

#[test]
fn ham_is_marked_on_demand() {
    let (_, made) = judged(&with_word("mark-ham = true"), "Subject: hello\n\nworld\n");
    assert_eq!(
        made,
        "X-Spam-Score: 0.0\nX-Spam-Status: No, score=0.0 required=5.0 tests=none\n\
         Subject: hello\n\nworld\n"
    );
}

#[test]
fn forged_fields_are_removed() {
    let text = "x-spam-flag: NO\r\nSubject: s\r\nX-Spam-Status: No,\r\n score=-9\r\nX-SPAM-Level:\r\nX-Spam-Score: 1\r\nX-Spam-Report: y\r\n\r\n";
    let (outcome, made) = judged(&with_word(""), text);
    assert_eq!(made, "Subject: s\r\nX-Spam-Report: y\r\n\r\n");
    assert_eq!(outcome.finding.verdict, "ham");
    let (outcome, made) = judged(&with_word(""), &format!("{text}pill"));
    assert_eq!(
        made,
        "X-Spam-Flag: YES\r\nX-Spam-Score: 5.0\r\nX-Spam-Status: Yes, score=5.0 required=5.0 tests=WORD\r\n\
         Subject: s\r\nX-Spam-Report: y\r\n\r\npill"
    );
    let finding = Finding::new("spam").with_score("5.0/5.0").with_reason("WORD 5.0");
    assert_eq!(outcome.finding, finding);
}

#[test]
fn the_worst_is_refused() {
    let text = format!("Subject: s\n\n{}\n", gtube());
    let (outcome, _) = judged(&service("").unwrap(), &text);
    let Change::Reply(reply) = &outcome.change else { panic!("{outcome:?}") };
    assert_eq!(reply.to_string(), "550 5.7.1 Message refused: it looks like spam");
    assert_eq!(outcome.finding.verdict, "rejected");
    assert!(outcome.finding.reason.unwrap().starts_with("GTUBE 1000.0"));
    let (outcome, made) = judged(&service("reject = inf").unwrap(), &text);
    assert_eq!(outcome.finding.verdict, "spam");
    assert!(made.starts_with("X-Spam-Flag: YES\n"), "{made}");
    let (outcome, _) = judged(&with_word("reject = 5\nreject-reply = '450 4.7.1 later'"), "\npill");
    assert!(matches!(outcome.change, Change::Reply(reply) if reply.code() == 450));
}

#[test]
fn a_status_is_cut_between_names() {
    let service = service("").unwrap();
    let rules = vec![("A_RULE_WITH_A_LONG_NAME", 1.0); 100];
    let status = service.0.status(&Found { score: 100.0, rules }, true);
    assert!((800..=LONGEST_STATUS).contains(&status.len()), "{status}");
    assert!(status.starts_with("Yes, score=100.0 required=5.0 tests=A_RULE_WITH_A_LONG_NAME,A"));
    assert!(status.ends_with(",A_RULE_WITH_A_LONG_NAME"), "{status}");
}

#[test]
fn the_documented_settings_and_rules_are_valid() {
    let source = include_str!("mod.rs");
    let service = service(&documented(source)).unwrap();
    assert!(service.0.mark_ham);
    let (_, rules) = source.split_once("//! # Rules\n").unwrap();
    Rules::parse(&documented(rules)).unwrap();
}

#[test]
fn wrong_settings_are_shown_where_they_stand() {
    let wrong = |settings: &str| {
        let error = service(settings).unwrap_err();
        (settings.get(error.span.unwrap_or_default()).unwrap_or_default().to_owned(), error.message)
    };
    assert_eq!(wrong("reject = 4.5"), ("4.5".into(), "`reject` is not below `mark`".into()));
    assert_eq!(wrong("mark = nan"), ("nan".into(), "`mark` is a number".into()));
    assert_eq!(wrong("reject-reply = 'no'").0, "'no'");
    assert_eq!(wrong("scores.NONE = 1"), ("NONE".into(), "there is no rule \"NONE\"".into()));
    let (span, message) = wrong("rules = '/no/such/file.toml'");
    assert_eq!(span, "'/no/such/file.toml'");
    assert!(message.starts_with("/no/such/file.toml can't be read: "), "{message}");
}

#[test]
fn a_wrong_rule_is_shown_in_its_file() {
    let directory = tempfile::tempdir().unwrap();
    let text = "[[rule]]\nname = 'A'\nfact = 'html-only'\n\n[[rule]]\nname = 'B'\nin = 'text'\npattern = '('\n";
    std::fs::write(directory.path().join("r.toml"), text).unwrap();
    let settings = Settings::parse("rules = 'r.toml'", directory.path()).unwrap();
    let message = SpamScore::new(settings).unwrap_err().message;
    let expected =
        "r.toml, line 5, column 1: rule \"B\": \"(\" is no regular expression: unclosed group";
    assert!(message.ends_with(expected), "{message}");
}

/// The verdict of the built-in rules on a mail with a plausible header.
fn verdict(from: &str, subject: &str, body: &str) -> Finding {
    let text = format!(
        "Received: from mx.example.net (mx.example.net [192.0.2.1]) by in.example.org; Mon, 6 May 2024 10:00:05 +0000\n\
         From: {from}\nTo: paul@example.org\nSubject: {subject}\nDate: Mon, 6 May 2024 10:00:00 +0000\n\
         Message-ID: <1@example.net>\nMIME-Version: 1.0\nContent-Type: {}\n\n{body}\n",
        if body.starts_with('<') { "text/html" } else { "text/plain" },
    );
    judged(&DEFAULTS, &text).0.finding
}

/// Built once, like [`ALL_MARKED`]: compiling the rules takes longer than any mail.
static DEFAULTS: LazyLock<SpamScore> =
    LazyLock::new(|| service("").expect("the built-in rules are valid"));

#[test]
fn the_built_in_rules_know_spam() {
    let spam = [
        (
            "Barrister James <james@example.net>",
            "URGENT BUSINESS PROPOSAL",
            "Dear Friend,\n\nI am Barrister James, attorney to my late client, who died in a plane crash. The sum of \
             US$ 12.5 million lies in a dormant account of the central bank. I need your urgent assistance to transfer the \
             funds into your account. Strictly confidential! Send your full names and telephone number for more details.",
        ),
        (
            "\"PayPal Service\" <x@example.net>",
            "Your account has been limited",
            "<p>Unusual login activity. Verify your account within 24 hours or your account will be suspended.</p>\
             <a href='https://evil.pages.dev/x'>https://www.paypal.com/signin</a> <p>Click here to confirm your identity.</p>",
        ),
        (
            "Great Offers <sales1234@example.net>",
            "Lose weight fast!!",
            "Lose 30 pounds in 30 days, guaranteed! Order now: http://192.0.2.7/diet\n\nYou are receiving this e-mail \
             because you opted in. To be removed click here: http://192.0.2.7/remove",
        ),
    ];
    for (from, subject, body) in spam {
        let finding = verdict(from, subject, body);
        assert!(matches!(&*finding.verdict, "spam" | "rejected"), "{subject}: {finding:?}");
    }
}

#[test]
fn the_built_in_rules_let_people_write() {
    let ham = [
        (
            "Anna <anna@example.net>",
            "Lunch on Friday?",
            "Hi Paul,\n\nshall we meet at noon? I can call you tomorrow.\n\nAnna",
        ),
        (
            "Shop <orders@shop.example.net>",
            "Your order 12345678 has been shipped",
            "<p>Dear Paul,</p><p>your order is on its way. <a href='https://shop.example.net/track?x=1'>Track your parcel</a>. \
             Total: $49.00, free shipping.</p><p><a href='https://shop.example.net/unsubscribe'>Unsubscribe</a></p>",
        ),
        (
            "Bank <news@bank.example.net>",
            "Your statement is ready",
            "Your statement for May is ready. Please log in to your account to read it. We never ask for your password.",
        ),
    ];
    for (from, subject, body) in ham {
        let finding = verdict(from, subject, body);
        assert_eq!(finding.verdict, "ham", "{subject}: {finding:?}");
    }
}

/// The mails of a folder of samples; `None` without the samples beside the repository.
fn samples(folder: &str) -> Option<Vec<Mail>> {
    let samples = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/testdata");
    let files = std::fs::read_dir(format!("{samples}/{folder}")).ok()?;
    let mails = files
        .map(|file| file.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "eml"));
    let mail = |path: std::path::PathBuf| {
        let octets = bytes::Bytes::from(std::fs::read(path).unwrap());
        let header = header_length(&octets);
        Mail::new(octets.slice(..header), octets.slice(header..))
    };
    Some(mails.map(mail).collect())
}

#[test]
fn every_sample_is_judged_and_its_octets_stay() {
    for folder in ["torture", "virus", "gtube", "normalise", "auth"] {
        for mail in samples(folder).unwrap_or_default() {
            let outcome = ALL_MARKED.0.judge(&mail, &Envelope::default()).unwrap();
            let same = ALL_MARKED.0.judge(&spooled(&mail), &Envelope::default()).unwrap();
            assert_eq!(same, outcome);
            let Change::Content(edits) = outcome.change else { continue };
            let next = mail.edited(&edits).unwrap();
            assert!(next.header().ends_with(mail.header()), "{folder}: {:?}", outcome.finding);
            assert_eq!(next.body().in_memory(), mail.body().in_memory());
        }
    }
}

#[test]
fn the_built_in_rules_tell_real_ham_from_real_spam() {
    let verdicts = |folder: &str| -> Option<Vec<Finding>> {
        let judged = |mail: &Mail| DEFAULTS.0.judge(mail, &Envelope::default()).unwrap().finding;
        Some(samples(folder)?.iter().map(judged).collect())
    };
    let (Some(ham), Some(spam), Some(gtube)) =
        (verdicts("ham"), verdicts("spam"), verdicts("gtube"))
    else {
        return;
    };
    let marked = |findings: &[Finding]| findings.iter().filter(|f| f.verdict != "ham").count();
    assert!(marked(&ham) * 100 <= ham.len(), "{} of {} ham", marked(&ham), ham.len());
    assert!(marked(&spam) * 100 >= spam.len() * 65, "{} of {} spam", marked(&spam), spam.len());
    assert_eq!((marked(&gtube), gtube.len()), (2, 3));
}

static ALL_MARKED: LazyLock<SpamScore> =
    LazyLock::new(|| service("mark = 0.5\nreject = inf").expect("these settings are valid"));

const PIECES: &[&[u8]] = &[
    b"X-Spam-Flag: YES\r\n",
    b"x-spam-status: a\n b\n",
    b"Subject: URGENT",
    b"\r\n",
    b"\n",
    b"From: \"a@b.c\" <a@b",
    b"Date: Mon, 99 Foo 99999 99:99",
    b"Date: 0",
    b"Received: x; Mon, 6 May 2024 10:00:00 +9999\n",
    b"Message-ID: <>",
    b"Content-Type: text/html; charset=utf-7\n",
    b"Content-Type: multipart/mixed; boundary=b\n",
    b"--b\n",
    b"Content-Transfer-Encoding: base64\n",
    b"<a href='http://",
    b"</a>",
    b"=?utf-8?b?\xff",
    b"lottery",
    b"\xc3\xad\0",
];

proptest! {
    /// Any mail gets an answer, and its edits can be made.
    #[test]
    fn any_mail_is_judged(
        pieces in proptest::collection::vec(proptest::sample::select(PIECES), 0..30),
        split in 0usize..100,
    ) {
        let octets = bytes::Bytes::from(pieces.concat());
        let split = split.min(octets.len());
        let mail = Mail::new(octets.slice(..split), octets.slice(split..));
        let outcome = ALL_MARKED.0.judge(&mail, &Envelope::default()).unwrap();
        let same = ALL_MARKED.0.judge(&spooled(&mail), &Envelope::default()).unwrap();
        prop_assert_eq!(&same, &outcome);
        if let Change::Content(edits) = &outcome.change {
            let next = mail.edited(edits).unwrap();
            let flags = next.fields_named("X-Spam-Flag").count();
            prop_assert_eq!(flags, usize::from(split > 0 && outcome.finding.verdict == "spam"));
        }
    }
}
