//! What services may do to an event, and what their failures do to the mail.

mod commitments;
mod notifications;

use futures_util::future::BoxFuture;
use ocp_proto::smtp::{Address, SideEffect};
use ocp_proto::wire::{Structure, Value};
use services::mail::{Edits, Octets};
use services::{Declaration, Service};

use super::*;
use crate::access::Access;
use crate::router::{Entry, Router};

/// A service that answers with a function.
struct Scripted<F>(F);

impl<F: Fn(&Request) -> Result<Outcome, ServiceError> + Send + Sync + 'static> Service
    for Scripted<F>
{
    fn declaration(&self) -> Declaration {
        Declaration::on([Command::Mail, Command::Message, Command::Quit, Command::Connect])
    }

    fn handle<'a>(&'a self, request: &'a Request) -> BoxFuture<'a, Result<Outcome, ServiceError>> {
        async move { (self.0)(request) }.boxed()
    }
}

/// A service that never answers.
struct Hanging;

impl Service for Hanging {
    fn declaration(&self) -> Declaration {
        Declaration::on([Command::Mail])
    }

    fn handle<'a>(&'a self, _request: &'a Request) -> BoxFuture<'a, Result<Outcome, ServiceError>> {
        std::future::pending().boxed()
    }
}

fn chain(services: Vec<(Arc<dyn Service>, FailurePolicy)>) -> Chain {
    let mut router = Router::default();
    let mut group = Vec::new();
    for (index, (service, policy)) in services.into_iter().enumerate() {
        let mut entry = Entry::new(&format!("s{index}"), "", service, Duration::from_secs(5));
        entry.on_failure = policy;
        router.add(entry).unwrap();
        let members = vec![Value::atom(format!("ocp://service/s{index}"))];
        group.push(Structure { members, ..Structure::default() });
    }
    router.chain(&group, &Access::default()).unwrap()
}

fn scripted(
    answer: impl Fn(&Request) -> Result<Outcome, ServiceError> + Send + Sync + 'static,
) -> (Arc<dyn Service>, FailurePolicy) {
    (Arc::new(Scripted(answer)), FailurePolicy::Tempfail)
}

fn clean() -> Outcome {
    Outcome::unchanged(Finding::new("clean"))
}

fn event(command: Command, input: Input) -> Event {
    Event {
        dialog: Arc::default(),
        command,
        input,
        envelope: Envelope { sender: Some(Address::null()), recipients: Vec::new() },
        granted: Arc::new([EffectName::Quarantine]),
        abilities: Abilities::default(),
        observed: false,
        bypass: Bypass::default(),
    }
}

fn mail_from() -> Event {
    event(Command::Mail, Input::Line(CommandLine::new("MAIL FROM:<a@b>").unwrap()))
}

fn message() -> Event {
    let mail = Mail::new("A: b\r\n\r\n".into(), "body");
    event(Command::Message, Input::Content(Arc::new(mail)))
}

fn prepend(field: &'static str) -> impl Fn(&Request) -> Result<Outcome, ServiceError> {
    move |request| {
        let mut edits = Edits::new();
        edits.insert(0, field.into());
        let seen = String::from_utf8_lossy(request.mail().unwrap().header()).into_owned();
        let finding = Finding::new("marked").with_reason(seen);
        Ok(Outcome::changed(Change::Content(edits), "marked").with_finding(finding))
    }
}

fn words(answer: &Answer) -> Vec<&[u8]> {
    answer.verdicts.iter().map(|verdict| verdict.verdict.as_ref()).collect()
}

fn reply_of(answer: &Answer) -> Option<String> {
    match &answer.branches[0].adapted {
        Adapted::Reply(reply) => Some(reply.to_string()),
        _ => None,
    }
}

#[tokio::test]
async fn each_service_sees_what_the_ones_before_it_made() {
    let chain = chain(vec![scripted(prepend("X: 1\r\n")), scripted(prepend("Y: 2\r\n"))]);
    let answer = chain.run(message()).await;
    let Adapted::Content(mail) = &answer.branches[0].adapted else { panic!("{answer:?}") };
    assert_eq!(mail.header(), "Y: 2\r\nX: 1\r\nA: b\r\n\r\n");
    assert_eq!(answer.verdicts[1].reason.as_deref(), Some(&b"X: 1  A: b    "[..]));
}

#[tokio::test]
async fn a_rejection_ends_the_chain_and_what_was_asked_for_before() {
    let quarantine = |_: &Request| Ok(clean().with_effect(SideEffect::Quarantine("why".into())));
    let reject = |_: &Request| {
        let reply = Reply::new(550, "5.7.1", "no").unwrap();
        Ok(Outcome::changed(Change::Reply(reply), "spam"))
    };
    let never = |_: &Request| -> Result<Outcome, ServiceError> { panic!("asked") };
    let chain = chain(vec![scripted(quarantine), scripted(reject), scripted(never)]);
    let answer = chain.run(message()).await;
    assert_eq!(reply_of(&answer).as_deref(), Some("550 5.7.1 no"));
    assert_eq!(words(&answer), [&b"clean"[..], b"spam"]);
    assert!(answer.branches[0].effects.is_empty());
}

#[tokio::test]
async fn a_body_that_could_not_be_read_is_not_clean_whoever_says_so() {
    let careless = |request: &Request| {
        let _ = request.mail().unwrap().body().read(0..100);
        Ok(clean())
    };
    let empty = Arc::new(tempfile::tempfile().unwrap());
    let mail = Mail::new("A: b\r\n\r\n".into(), Octets::from_file(empty, 100));
    let chain = chain(vec![scripted(careless)]);
    let answer = chain.run(event(Command::Message, Input::Content(Arc::new(mail)))).await;
    assert_eq!(words(&answer), [b"failed"]);
    let reason = answer.verdicts[0].reason.as_deref().unwrap();
    let expected = "spool: a spool file of the message can't be read: it is shorter than it was; \
        policy: tempfail";
    assert_eq!(String::from_utf8_lossy(reason), expected);
    assert!(reply_of(&answer).unwrap().starts_with("451 4.3.0 "), "{answer:?}");
}

#[tokio::test]
async fn a_failure_ends_in_the_policy_of_its_service() {
    let fails = |_: &Request| Err(ServiceError::new("clamd", "connection refused"));
    let cases = [
        (FailurePolicy::Accept, None),
        (
            FailurePolicy::Tempfail,
            Some("451 4.3.0 Mail inspection is not available now, try again later"),
        ),
        (FailurePolicy::Reject, Some("554 5.3.0 Mail inspection failed, mail refused")),
    ];
    for (policy, reply) in cases {
        let failing: Arc<dyn Service> = Arc::new(Scripted(fails));
        let chain = chain(vec![(failing, policy), scripted(|_| Ok(clean()))]);
        let answer = chain.run(message()).await;
        assert_eq!(reply_of(&answer).as_deref(), reply, "{policy}");
        let reason = answer.verdicts[0].reason.clone().unwrap();
        assert_eq!(reason, *format!("clamd: connection refused; policy: {policy}"));
        assert_eq!(answer.verdicts.len(), if reply.is_some() { 1 } else { 2 });
    }
    let chain = chain(vec![scripted(fails)]);
    let answer = chain.run(event(Command::Connect, Input::Nothing)).await;
    assert!(reply_of(&answer).unwrap().starts_with("421 4.3.0 "));
    let line = Input::Line(CommandLine::new("QUIT").unwrap());
    let answer = chain.run(event(Command::Quit, line)).await;
    assert_eq!((reply_of(&answer), words(&answer)), (None, vec![&b"failed"[..]]));
}

#[tokio::test]
async fn a_panic_is_a_failure_of_its_service() {
    let panics = |_: &Request| -> Result<Outcome, ServiceError> { panic!("oops {}", 1) };
    let answer = chain(vec![scripted(panics)]).run(mail_from()).await;
    assert_eq!(answer.verdicts[0].reason.as_deref(), Some(&b"panic: oops 1; policy: tempfail"[..]));
    assert!(reply_of(&answer).unwrap().starts_with("451 4.3.0 "));
}

#[tokio::test(start_paused = true)]
async fn a_service_that_hangs_meets_its_deadline() {
    let answer = chain(vec![(Arc::new(Hanging), FailurePolicy::Reject)]).run(mail_from()).await;
    let reason = answer.verdicts[0].reason.clone().unwrap();
    assert_eq!(reason, "deadline: no answer within 5 s; policy: reject");
    assert!(reply_of(&answer).unwrap().starts_with("554 5.3.0 "));
}

#[tokio::test]
async fn a_service_in_shadow_says_what_it_would_do() {
    let reply = |_: &Request| {
        let reply = Reply::new(550, "5.7.1", "no").unwrap();
        let quarantine = SideEffect::Quarantine("because".into());
        let outcome = Outcome::changed(Change::Reply(reply), "spam").with_effect(quarantine);
        Ok(outcome.with_finding(Finding::new("spam").with_reason("seen")))
    };
    let fails = |_: &Request| Err(ServiceError::new("test", "no"));
    for (answer, expected, counted) in [
        (
            scripted(reply),
            "in shadow, would reply 550 5.7.1 no, quarantine; seen",
            "command MAIL replied 1",
        ),
        (scripted(fails), "test: no; policy: accept", "command MAIL failed 1, failure service 1"),
    ] {
        let mut router = Router::default();
        let entry = Entry::new("s0", "", answer.0, Duration::from_secs(5)).in_shadow();
        assert_eq!(entry.declaration.observed, entry.declaration.events);
        router.add(entry).unwrap();
        let members = vec![Value::atom("ocp://service/s0")];
        let group = [Structure { members, ..Structure::default() }];
        let chain = router.chain(&group, &Access::default()).unwrap();
        let answer = chain.run(mail_from()).await;
        assert_eq!(reply_of(&answer), None);
        assert!(matches!(answer.branches[0].adapted, Adapted::Unchanged));
        assert!(answer.branches[0].effects.is_empty());
        assert_eq!(answer.verdicts[0].reason.as_deref(), Some(expected.as_bytes()));
        let entry = router.find(b"ocp://service/s0").unwrap();
        assert_eq!(entry.metrics.counted().join(", "), counted);
    }
}

#[tokio::test]
async fn an_answer_beyond_what_a_service_may_say_changes_nothing() {
    let reply = |code, text: &'static str| Change::Reply(Reply::new(code, "", text).unwrap());
    let line = |text: &'static str| Change::Command(CommandLine::new(text).unwrap());
    let edits = |range: std::ops::Range<usize>| {
        let mut edits = Edits::new();
        edits.delete(range);
        Change::Content(edits)
    };
    let discard = SideEffect::Discard("x".into());
    let cases = [
        (mail_from(), reply(250, "ok"), None, "MAIL can't be answered by 250 ok"),
        (message(), reply(250, "ok"), None, "MESSAGE can't be answered by 250 ok"),
        (mail_from(), line("RCPT TO:<a@b>"), None, "another verb than the command's"),
        (message(), line("MAIL FROM:<>"), None, "another verb than the command's"),
        (mail_from(), edits(0..1), None, "edits of an event without content"),
        (
            message(),
            edits(0..99),
            None,
            "the edit of octets 0..99 is not within the 12 octets of the message",
        ),
        (message(), Change::None, Some(discard), "discard was not granted"),
        (
            Event { observed: true, ..mail_from() },
            line("MAIL FROM:<c@d>"),
            None,
            "an answer to an event that is only observed",
        ),
    ];
    for (event, change, effect, cause) in cases {
        let service = move |_: &Request| {
            let mut outcome = Outcome::changed(change.clone(), "x");
            outcome.effects.extend(effect.clone());
            Ok(outcome)
        };
        let chain = chain(vec![(Arc::new(Scripted(service)), FailurePolicy::Accept)]);
        let answer = chain.run(event).await;
        let reason = answer.verdicts[0].reason.clone().unwrap();
        assert_eq!(reason, *format!("answer: {cause}; policy: accept"));
        assert!(
            matches!(answer.branches[0].adapted, Adapted::Unchanged)
                && answer.branches[0].effects.is_empty()
        );
    }
}

#[tokio::test(start_paused = true)]
async fn what_services_make_of_events_is_counted() {
    let reply = |code| Change::Reply(Reply::new(code, "", "it").unwrap());
    let line = || Change::Command(CommandLine::new("MAIL FROM:<c@d>").unwrap());
    let error = |stage| move |_: &Request| Err(ServiceError::new(stage, "broken"));
    // A failure ends nothing: all before the reply are asked.
    let services = [
        scripted(|_| Ok(clean())),
        scripted(move |_| Ok(Outcome::changed(line(), "x"))),
        scripted(move |_| Ok(Outcome::changed(reply(250), "x"))),
        scripted(|_| panic!("oops")),
        scripted(error("clamd")),
        scripted(error("spool")),
        (Arc::new(Hanging), FailurePolicy::Accept),
        scripted(move |_| Ok(Outcome::changed(reply(550), "x"))),
        scripted(|_| Ok(clean())),
    ];
    let services = services.map(|(service, _)| (service, FailurePolicy::Accept));
    let chain = chain(services.into());
    chain.run(mail_from()).await;
    let links = chain.interested(ProfileKind::Command, &Command::Mail);
    let counted: Vec<String> = links.map(|link| link.entry.metrics.counted().join(", ")).collect();
    assert_eq!(
        counted,
        [
            "command MAIL unchanged 1",
            "command MAIL changed 1",
            "command MAIL failed 1, failure answer 1",
            "command MAIL failed 1, failure panic 1",
            "command MAIL failed 1, failure service 1",
            "command MAIL failed 1, failure spool 1",
            "command MAIL failed 1, failure deadline 1",
            "command MAIL replied 1",
            "",
        ]
    );
}

#[tokio::test]
async fn accepted_and_dropped_needs_the_effect_that_says_so() {
    let accept = |_: &Request| {
        let change = Change::Reply(Reply::new(250, "2.0.0", "kept for review").unwrap());
        Ok(Outcome::changed(change, "infected").with_effect(SideEffect::Quarantine("v".into())))
    };
    let answer = chain(vec![scripted(accept)]).run(message()).await;
    assert_eq!(reply_of(&answer).as_deref(), Some("250 2.0.0 kept for review"));
    assert_eq!(answer.branches[0].effects, [SideEffect::Quarantine("v".into())]);
}

/// Marks for recipients at x.example, and refuses whatever else is said.
fn for_some(
    answer: impl Fn(&Request) -> Result<Outcome, ServiceError> + Send + Sync + 'static,
) -> Chain {
    let mut router = Router::default();
    let service: Arc<dyn Service> = Arc::new(Scripted(answer));
    let mut entry = Entry::new("some", "", service, Duration::from_secs(5));
    let named = [toml::Spanned::new(0..0, "x.example".to_owned())];
    entry.recipients = Some(services::AddressList::new(&named).unwrap());
    router.add(entry).unwrap();
    let all: Arc<dyn Service> = Arc::new(Scripted(prepend("Y: 2\r\n")));
    router.add(Entry::new("all", "", all, Duration::from_secs(5))).unwrap();
    let group = ["ocp://service/some", "ocp://service/all"]
        .map(|uri| Structure { members: vec![Value::atom(uri)], ..Structure::default() });
    router.chain(&group, &Access::default()).unwrap()
}

fn to(recipients: &[&'static str], variants: bool, replies: bool) -> Event {
    let recipients = recipients.iter().map(|path| Address::new(*path).unwrap()).collect();
    Event {
        envelope: Envelope { sender: Some(Address::null()), recipients },
        abilities: Abilities { variants, replies, ..Abilities::default() },
        ..message()
    }
}

fn shown(answer: &Answer) -> Vec<(Vec<String>, String)> {
    let show = |branch: &Branch| {
        let adapted = match &branch.adapted {
            Adapted::Content(mail) => String::from_utf8_lossy(mail.header()).into_owned(),
            Adapted::Reply(reply) => reply.to_string(),
            other => format!("{other:?}"),
        };
        (branch.recipients.iter().map(ToString::to_string).collect(), adapted)
    };
    answer.branches.iter().map(show).collect()
}

#[tokio::test]
async fn recipients_get_their_own_version_if_the_processor_can() {
    let both = ["<a@x.example>", "<b@y.example>"];
    let marked = "Y: 2\r\nX: 1\r\nA: b\r\n\r\n";
    let answer = for_some(prepend("X: 1\r\n")).run(to(&both, true, true)).await;
    assert_eq!(
        shown(&answer),
        [
            (vec!["<b@y.example>".to_owned()], "Y: 2\r\nA: b\r\n\r\n".to_owned()),
            (vec!["<a@x.example>".to_owned()], marked.to_owned()),
        ]
    );
    assert_eq!(answer.verdicts.len(), 3);
    // One version for all: whoever is named, the service is asked.
    let answer = for_some(prepend("X: 1\r\n")).run(to(&both, false, false)).await;
    let all = both.map(str::to_owned).to_vec();
    assert_eq!(shown(&answer), [(all, marked.to_owned())]);
    let answer = for_some(prepend("X: 1\r\n")).run(to(&both[1..], true, true)).await;
    assert_eq!(answer.branches.len(), 1);
    assert_eq!(answer.verdicts.len(), 1, "nobody is named");
    // What does not differ in the end is one version.
    let answer = for_some(|_| Ok(clean())).run(to(&both, true, true)).await;
    assert_eq!(answer.branches.len(), 1);
}

/// Treats recipients by the first letter of their names, and says so in a field.
struct ByName;

impl Service for ByName {
    fn declaration(&self) -> Declaration {
        Declaration { distinguishes_recipients: true, ..Declaration::on([Command::Message]) }
    }

    fn treatment(&self, recipient: &Address) -> u64 {
        recipient.mailbox().first().copied().unwrap_or_default().into()
    }

    fn handle<'a>(&'a self, request: &'a Request) -> BoxFuture<'a, Result<Outcome, ServiceError>> {
        let mut treatments: Vec<u64> =
            request.envelope.recipients.iter().map(|one| self.treatment(one)).collect();
        treatments.dedup();
        let mut edits = Edits::new();
        // Nothing is done for the first of them.
        if treatments != [u64::from(b'a')] {
            edits.insert(0, format!("X: {treatments:?}\r\n").into());
        }
        let outcome = match edits.is_empty() {
            true => clean(),
            false => Outcome::changed(Change::Content(edits), "marked"),
        };
        async move { Ok(outcome) }.boxed()
    }
}

#[tokio::test]
async fn recipients_whom_a_service_treats_alike_share_an_answer() {
    let service = || chain(vec![(Arc::new(ByName), FailurePolicy::Tempfail)]);
    let five = ["<a1@x>", "<b1@x>", "<c1@x>", "<b2@x>", "<a2@x>"];
    let answer = service().run(to(&five, true, false)).await;
    let named = |names: &[&str]| names.iter().map(|name| format!("<{name}@x>")).collect::<Vec<_>>();
    let expected = [
        (named(&["a1", "a2"]), "Unchanged".to_owned()),
        (named(&["b1", "b2"]), "X: [98]\r\nA: b\r\n\r\n".to_owned()),
        (named(&["c1"]), "X: [99]\r\nA: b\r\n\r\n".to_owned()),
    ];
    assert_eq!(shown(&answer), expected);
    assert_eq!(answer.verdicts.len(), 3, "asked once for each treatment");
    let answer = service().run(to(&five, false, false)).await;
    let all = five.map(str::to_owned).to_vec();
    let expected = "X: [97, 98, 99, 98, 97]\r\nA: b\r\n\r\n".to_owned();
    assert_eq!(shown(&answer), [(all, expected)], "one version, one answer");
}

#[tokio::test]
async fn some_recipients_are_refused_alone_or_all_of_them() {
    let refuse = |_: &Request| {
        let reply = Reply::new(550, "5.7.1", "no").unwrap();
        Ok(Outcome::changed(Change::Reply(reply), "spam"))
    };
    let both = ["<a@x.example>", "<b@y.example>"];
    let answer = for_some(refuse).run(to(&both, true, true)).await;
    let replies: Vec<String> = shown(&answer).into_iter().map(|(_, shown)| shown).collect();
    assert_eq!(replies, ["Y: 2\r\nA: b\r\n\r\n", "550 5.7.1 no"]);
    let answer = for_some(refuse).run(to(&both, true, false)).await;
    assert_eq!(shown(&answer)[0].1, "550 5.7.1 no");
    assert_eq!((answer.branches.len(), answer.branches[0].recipients.len()), (1, 2));
}

/// Whatever a service has seen, it changes no more than it said it needs.
#[tokio::test]
async fn an_edit_beyond_what_a_service_needs_is_a_failure() {
    let front = || {
        let mail = Mail::front("A: b\r\n\r\n".into(), "body", Some(5_000));
        event(Command::Message, Input::Content(Arc::new(mail)))
    };
    let cases = [
        (Content::Header, 0..8, None),
        (Content::Header, 8..8, None),
        (Content::Header, 8..9, Some("an edit of octets 8..9, beyond the header section")),
        (Content::Prefix(3), 9..11, None),
        (
            Content::Prefix(3),
            10..12,
            Some("an edit of octets 10..12, beyond the header section and 3 octets of the body"),
        ),
        (
            Content::Prefix(9),
            12..13,
            Some("the edit of octets 12..13 is not within the 12 octets of the message"),
        ),
    ];
    for (content, range, cause) in cases {
        for event in [front(), message()] {
            let edited = range.clone();
            let answer = move |_: &Request| {
                let mut edits = Edits::new();
                edits.replace(edited.clone(), "+".into());
                Ok(Outcome::changed(Change::Content(edits), "marked"))
            };
            let service: Arc<dyn Service> = Arc::new(Scripted(answer));
            let mut router = Router::default();
            let mut entry = Entry::new("s", "", service, Duration::from_secs(5));
            entry.declaration.content = content;
            router.add(entry).unwrap();
            let members = vec![Value::atom("ocp://service/s")];
            let group = [Structure { members, ..Structure::default() }];
            let chain = router.chain(&group, &Access::default()).unwrap();
            let answer = chain.run(event).await;
            let reason = answer.verdicts[0].reason.clone();
            let expected = cause.map(|cause| format!("answer: {cause}; policy: tempfail"));
            assert_eq!(reason.as_deref(), expected.as_deref().map(str::as_bytes), "{content}");
            let changed = matches!(answer.branches[0].adapted, Adapted::Content(_));
            assert_eq!(changed, cause.is_none(), "{content}");
        }
    }
}
