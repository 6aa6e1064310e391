use std::path::Path;

use ocp_proto::smtp::{Envelope, Reply, SideEffect};

use super::settings::LONGEST;
use super::*;
use crate::conclusion::Fate;
use crate::fixtures::{mail, request};

const SETTINGS: &str = "from = \"filter@example.org\"\n\
    [[rules]]\nfound = [\"virus-scan=infected\", \"mime-strip=*\"]\n\
    to = [\"Security@example.org\", \"sender\", \"recipients\"]\n\
    subject = \"{service} {verdict} {nothing}\"\n\
    text = \"{from} {recipients} {fate} {reason} {subject} {client} {queue-id}\\n{service}\"\n";

fn notify(settings: &str) -> Notify {
    Notify::new(Settings::parse(settings, Path::new("")).unwrap()).unwrap()
}

fn address(path: &'static str) -> Address {
    Address::new(path).unwrap()
}

fn message(sender: Address, fields: &str) -> Request {
    let mail = mail(format!("{fields}Subject: {{service}}\r\n\r\nx\r\n").into_bytes());
    Request {
        envelope: Envelope {
            sender: Some(sender),
            recipients: vec![
                address("<b@b.example>"),
                address("<c@c.example>"),
                address("<b@b.example>"),
            ],
        },
        may_notify: true,
        ..request(&mail, &[])
    }
}

fn found(service: &str, verdict: &'static str) -> Found {
    let finding = Finding::new(verdict).with_reason("Eicar in part 1");
    Found { service: service.to_owned(), finding }
}

fn fate_of(reply: Option<(u16, &str)>, is_changed: bool, effects: Vec<SideEffect>) -> Fate {
    let reply = reply.map(|(code, status)| Reply::new(code, status, "no").unwrap());
    Fate { recipients: Vec::new(), reply, is_changed, effects }
}

/// Whom it tells, and what it says of that.
fn told(notify: &Notify, request: &Request, found: &[Found]) -> (Vec<String>, String) {
    let fates = [fate_of(None, true, Vec::new())];
    let conclusion = Conclusion { request, found, fates: &fates };
    let outcome = notify.conclude(&conclusion).now_or_never().unwrap().unwrap();
    assert_eq!((&outcome.change, &outcome.effects[..]), (&crate::Change::None, &[][..]));
    let to = outcome
        .notifications
        .iter()
        .flat_map(|new| new.recipients().iter().map(Address::to_string));
    let Finding { verdict, reason, .. } = &outcome.finding;
    let said = [verdict, reason.as_deref().unwrap_or_default()].join(" ");
    (to.collect(), said.trim_end().to_owned())
}

#[test]
fn a_notification_says_what_was_found() {
    let notify = notify(SETTINGS);
    let request = message(address("<a@a.example>"), "");
    let fates = [
        fate_of(Some((554, "5.7.1")), false, Vec::new()),
        fate_of(None, true, vec![SideEffect::Quarantine("x".into())]),
        fate_of(Some((554, "5.7.1")), false, Vec::new()),
    ];
    let found = [found("log", "logged"), found("mime-strip", "stripped")];
    let conclusion = Conclusion { request: &request, found: &found, fates: &fates };
    let outcome = notify.conclude(&conclusion).now_or_never().unwrap().unwrap();
    let [new] = &outcome.notifications[..] else { panic!("{outcome:?}") };
    assert!(new.sender().is_null());
    let header = String::from_utf8(new.header().to_vec()).unwrap();
    assert!(
        header.starts_with("From: <filter@example.org>\r\nTo: <Security@example.org>,\r\n "),
        "{header}"
    );
    assert!(header.contains("\r\nSubject: mime-strip stripped {nothing}\r\n"), "{header}");
    assert!(header.contains("\r\nAuto-Submitted: auto-generated\r\n"), "{header}");
    // What a stranger has put into the message is no template.
    let text = "<a@a.example> <b@b.example> <c@c.example> <b@b.example> refused or quarantined \
                Eicar in part 1 {service} unknown unknown\r\nmime-strip\r\n";
    assert_eq!(String::from_utf8(new.body().to_vec()).unwrap(), text);
    let reason = "<Security@example.org> <a@a.example> <b@b.example> <c@c.example>";
    assert_eq!(outcome.finding, Finding::new("notified").with_reason(reason));
}

#[test]
fn what_it_is_not_about_stays_quiet() {
    let notify = notify(SETTINGS);
    let request = message(address("<a@a.example>"), "");
    let quiet = |request: &Request, found: &[Found]| {
        let (to, said) = told(&notify, request, found);
        assert!(to.is_empty());
        said
    };
    assert_eq!(quiet(&request, &[]), "quiet");
    assert_eq!(quiet(&request, &[found("virus-scan", "clean"), found("x", "infected")]), "quiet");
    let deaf = Request { may_notify: false, ..request };
    let infected = [found("virus-scan", "infected")];
    assert_eq!(quiet(&deaf, &infected), "quiet new messages can't be submitted here");
}

/// RFC 3834 section 2.
#[test]
fn programs_and_lists_get_no_answers() {
    let infected = [found("virus-scan", "infected")];
    let all = ["<Security@example.org>", "<a@a.example>", "<b@b.example>", "<c@c.example>"];
    let sender = || address("<a@a.example>");
    for (request, expected) in [
        (message(sender(), ""), &all[..]),
        (message(sender(), "Auto-Submitted: No (by hand)\r\nPrecedence: first-class\r\n"), &all),
        (message(Address::null(), ""), &all[..1]),
        (message(sender(), "auto-submitted: auto-replied; x=y\r\n"), &all[..1]),
        (message(sender(), "Auto-Submitted:\r\n"), &all[..1]),
        (message(sender(), "LIST-Unsubscribe: <x:y>\r\n"), &all[..1]),
        (message(sender(), "Precedence: Bulk\r\n"), &all[..1]),
    ] {
        assert_eq!(told(&notify(SETTINGS), &request, &infected).0, expected, "{:?}", request.input);
    }
}

#[test]
fn there_are_limits() {
    let settings = "from = \"filter@example.org\"\n[limits]\naddress-hour = 1\nhour = 2\n\
        [[rules]]\nfound = [\"a=b\"]\nto = [\"x@example.org\"]\n\
        [[rules]]\nfound = [\"a=b\"]\nto = [\"x@example.org\", \"recipients\"]\n";
    let notify = notify(settings);
    let request = message(address("<a@a.example>"), "");
    let found = [found("a", "b")];
    let first = "notified <x@example.org> <b@b.example>; beyond the limits: 2";
    let to = ["<x@example.org>", "<b@b.example>"].map(str::to_owned).to_vec();
    assert_eq!(told(&notify, &request, &found), (to, first.to_owned()));
    let second = "limited not told: 4";
    assert_eq!(told(&notify, &request, &found), (Vec::new(), second.to_owned()));
}

#[test]
fn settings_are_checked() {
    let rule = "from = \"a@b\"\n[[rules]]\nto = [\"sender\"]\n";
    for (settings, expected) in [
        (String::new(), "notify needs an address in from"),
        (
            "from = \"x\"\nrules = [{ found = [\"a=b\"], to = [\"sender\"] }]".to_owned(),
            "\"x\" is no address such as postmaster@example.org",
        ),
        ("from = \"a@b\"".to_owned(), "notify needs rules"),
        (format!("{rule}found = []"), "found is empty"),
        (
            format!("{rule}found = [\"virus-scan\"]"),
            "found names a service and its verdict, such as virus-scan=infected, or mime-strip=* for any",
        ),
        (
            format!("{rule}found = [\"a=b\"]\ntext = \"{}\"", "x".repeat(LONGEST + 1)),
            "a template has at most 65536 octets",
        ),
    ] {
        let error = Notify::new(Settings::parse(&settings, Path::new("")).unwrap()).err().unwrap();
        assert_eq!(error.message, expected);
    }
}
