//! New messages that services want to have submitted.

use proptest::prelude::*;
use services::Notification;

use super::*;

/// A service that says that it notifies, or does not, and answers with a function.
struct Notifier<F>(bool, F);

impl<F: Fn(&Request) -> Result<Outcome, ServiceError> + Send + Sync + 'static> Service
    for Notifier<F>
{
    fn declaration(&self) -> Declaration {
        Declaration {
            notifies: self.0,
            on_failure: FailurePolicy::Accept,
            ..Declaration::on([Command::Mail, Command::Message])
        }
    }

    fn handle<'a>(&'a self, request: &'a Request) -> BoxFuture<'a, Result<Outcome, ServiceError>> {
        async move { (self.1)(request) }.boxed()
    }
}

fn notifier(
    answer: impl Fn(&Request) -> Result<Outcome, ServiceError> + Send + Sync + 'static,
) -> (Arc<dyn Service>, FailurePolicy) {
    (Arc::new(Notifier(true, answer)), FailurePolicy::Accept)
}

/// A new message that says this.
fn new(text: impl Into<String>) -> Notification {
    let to = vec![Address::new("<admin@x.example>").unwrap()];
    Notification::new(to, "Subject: new\r\n\r\n", text.into()).unwrap()
}

fn notifies(text: impl Into<String>) -> Outcome {
    clean().with_notification(new(text))
}

fn refused() -> Outcome {
    Outcome::changed(Change::Reply(Reply::new(550, "5.7.1", "no").unwrap()), "spam")
}

/// A message that may have new ones beside its answer.
fn content() -> Event {
    to(&["<a@x.example>", "<b@y.example>"], true, true)
}

fn said(answer: &Answer) -> Vec<&str> {
    answer.notifications.iter().map(|new| std::str::from_utf8(new.body()).unwrap()).collect()
}

/// OPES-4496-4.1-05
#[tokio::test]
async fn what_services_notify_of_goes_out_whatever_becomes_of_the_message() {
    let recipients = |request: &Request| {
        let recipients = request.envelope.recipients.iter().map(ToString::to_string);
        Ok(notifies(recipients.collect::<Vec<_>>().join(" ")))
    };
    let answer = chain(vec![notifier(recipients), notifier(|_| Ok(notifies("two")))]);
    let answer = answer.run(content()).await;
    assert_eq!(said(&answer), ["<a@x.example> <b@y.example>", "two"]);
    assert!(matches!(answer.branches[..], [Branch { adapted: Adapted::Unchanged, .. }]));

    let answer = chain(vec![notifier(|_| Ok(notifies("one"))), notifier(|_| Ok(refused()))]);
    let answer = answer.run(content()).await;
    assert_eq!((said(&answer), reply_of(&answer).unwrap()), (vec!["one"], "550 5.7.1 no".into()));

    let answer = chain(vec![notifier(|_| Ok(refused().with_notification(new("why"))))]);
    let answer = answer.run(content()).await;
    assert_eq!((said(&answer), reply_of(&answer).unwrap()), (vec!["why"], "550 5.7.1 no".into()));
}

#[tokio::test]
async fn a_service_notifies_of_each_branch_that_it_is_asked_about() {
    let mut router = Router::default();
    let marks: Arc<dyn Service> = Arc::new(Scripted(prepend("X: 1\r\n")));
    let mut some = Entry::new("some", "", marks, Duration::from_secs(5));
    let named = [toml::Spanned::new(0..0, "x.example".to_owned())];
    some.recipients = Some(services::AddressList::new(&named).unwrap());
    router.add(some).unwrap();
    let tells = |request: &Request| Ok(notifies(request.envelope.recipients[0].to_string()));
    let tells: Arc<dyn Service> = Arc::new(Notifier(true, tells));
    router.add(Entry::new("tells", "", tells, Duration::from_secs(5))).unwrap();
    let group = ["ocp://service/some", "ocp://service/tells"]
        .map(|uri| Structure { members: vec![Value::atom(uri)], ..Structure::default() });
    let answer = router.chain(&group, &Access::default()).unwrap().run(content()).await;
    assert_eq!(answer.branches.len(), 2);
    assert_eq!(said(&answer), ["<b@y.example>", "<a@x.example>"]);
}

#[tokio::test]
async fn a_void_answer_notifies_nobody() {
    let ungranted = SideEffect::Discard("x".into());
    let void = move |_: &Request| Ok(notifies("void").with_effect(ungranted.clone()));
    let wrong = |_: &Request| {
        let line = CommandLine::new("MAIL FROM:<>").unwrap();
        Ok(Outcome::changed(Change::Command(line), "x").with_notification(new("void")))
    };
    let good = |_: &Request| Ok(notifies("good"));
    let answer = chain(vec![notifier(void), notifier(wrong), notifier(good)]).run(content()).await;
    assert_eq!(
        (said(&answer), words(&answer)),
        (vec!["good"], vec![&b"failed"[..], b"failed", b"clean"])
    );
}

#[tokio::test]
async fn where_nobody_can_be_notified_such_an_answer_is_a_failure() {
    let possible = "a notification where there can be none";
    let cases = [
        (content(), true, 8, None),
        (content(), true, 9, Some("9 notifications, more than 8")),
        (content(), false, 1, Some("a notification, which it does not declare")),
        (to(&["<a@x.example>"], false, false), true, 1, Some(possible)),
        (mail_from(), true, 1, Some(possible)),
        (
            Event { observed: true, ..content() },
            true,
            1,
            Some("an answer to an event that is only observed"),
        ),
    ];
    for (event, declares, count, cause) in cases {
        let answer = move |request: &Request| {
            assert_eq!(request.may_notify, !matches!(cause, Some(cause) if !cause.contains('8')));
            let mut outcome = clean();
            outcome.notifications = vec![new("x"); count];
            Ok(outcome)
        };
        let service: Arc<dyn Service> = Arc::new(Notifier(declares, answer));
        let answer = chain(vec![(service, FailurePolicy::Accept)]).run(event).await;
        let reason = answer.verdicts[0].reason.clone();
        let expected = cause.map(|cause| format!("answer: {cause}; policy: accept"));
        assert_eq!(reason.as_deref(), expected.as_deref().map(str::as_bytes));
        assert_eq!(answer.notifications.len(), if cause.is_none() { count } else { 0 });
    }
}

/// OPES-3837-3.8-01
#[tokio::test]
async fn an_event_has_so_many_notifications_whoever_makes_them() {
    let eight = |_: &Request| {
        let mut outcome = clean();
        outcome.notifications = vec![new("x"); Notification::MOST];
        Ok(outcome)
    };
    let services = (0..=MOST_NOTIFICATIONS / Notification::MOST).map(|_| notifier(eight));
    let answer = chain(services.collect()).run(content()).await;
    assert_eq!(answer.notifications.len(), MOST_NOTIFICATIONS);
    let reason = answer.verdicts.last().unwrap().reason.clone().unwrap();
    assert_eq!(reason, "answer: more than 64 notifications of one event; policy: accept");
}

/// What a service does with an event.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Does {
    /// Passes it, with so many new messages.
    Notifies(usize),
    /// Refuses it, with one.
    Refuses,
    /// Says what it may not say.
    Oversteps,
    /// Fails.
    Fails,
}

fn does() -> impl Strategy<Value = Does> {
    prop_oneof![
        4 => (0..10_usize).prop_map(Does::Notifies),
        1 => Just(Does::Refuses),
        1 => Just(Does::Oversteps),
        1 => Just(Does::Fails),
    ]
}

proptest! {
    #[test]
    fn what_goes_out_is_what_valid_answers_say_in_their_order(does in prop::collection::vec(does(), 0..8)) {
        let services = does.iter().copied().zip(0..).map(|(does, number): (Does, usize)| {
            notifier(move |_: &Request| {
                let mut outcome = clean();
                let count = if let Does::Notifies(count) = does { count } else { 1 };
                outcome.notifications = vec![new(number.to_string()); count];
                match does {
                    Does::Notifies(_) => Ok(outcome),
                    Does::Refuses => Ok(Outcome { change: refused().change, ..outcome }),
                    Does::Oversteps => Ok(outcome.with_effect(SideEffect::Disconnect)),
                    Does::Fails => Err(ServiceError::new("test", "broken")),
                }
            })
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let answer = runtime.block_on(chain(services.collect()).run(content()));
        let asked = does.iter().position(|does| *does == Does::Refuses).map_or(does.len(), |at| at + 1);
        let mut expected = Vec::new();
        for (does, number) in does[..asked].iter().zip(0..) {
            let count = match does {
                Does::Notifies(count) if *count <= Notification::MOST => *count,
                Does::Refuses => 1,
                _ => 0,
            };
            expected.extend(std::iter::repeat_n(number.to_string(), count));
        }
        prop_assert_eq!(said(&answer), expected);
    }
}

/// A service that is told at the end what the others have made of it.
struct Concluder(&'static str);

impl Service for Concluder {
    fn declaration(&self) -> Declaration {
        Declaration { concludes: true, notifies: true, ..Declaration::on([Command::Message]) }
    }

    fn handle<'a>(&'a self, _: &'a Request) -> BoxFuture<'a, Result<Outcome, ServiceError>> {
        async { panic!("it is not asked") }.boxed()
    }

    fn conclude<'a>(
        &'a self,
        conclusion: &'a services::Conclusion<'a>,
    ) -> BoxFuture<'a, Result<Outcome, ServiceError>> {
        async move {
            assert_eq!(conclusion.request.mail().unwrap().header(), "A: b\r\n\r\n");
            let found = conclusion.found.iter();
            let found = found.map(|found| format!("{}={}", found.service, found.finding.verdict));
            let fates = conclusion.fates.iter().map(|fate| match &fate.reply {
                Some(reply) => format!("{} for {}", reply.code(), fate.recipients.len()),
                None => format!("changed: {} for {}", fate.is_changed, fate.recipients.len()),
            });
            let said = found.chain(fates).collect::<Vec<_>>().join(", ");
            match self.0 {
                "panics" => panic!("on purpose"),
                "hangs" => std::future::pending().await,
                "changes" => Ok(refused()),
                "many" => Ok((0..9).fold(clean(), |all, _| all.with_notification(new("x")))),
                _ => Ok(notifies(said)),
            }
        }
        .boxed()
    }
}

fn concluder(how: &'static str) -> (Arc<dyn Service>, FailurePolicy) {
    (Arc::new(Concluder(how)), FailurePolicy::Tempfail)
}

#[tokio::test]
async fn who_concludes_is_told_what_all_others_made_of_it() {
    let prepends =
        (Arc::new(Scripted(prepend("X: 1\r\n"))) as Arc<dyn Service>, FailurePolicy::Tempfail);
    let services = vec![concluder("tells"), prepends, notifier(|_| Ok(refused()))];
    let answer = chain(services).run(content()).await;
    assert_eq!(said(&answer), ["s1=marked, s2=spam, 550 for 2"]);
    assert_eq!(reply_of(&answer).unwrap(), "550 5.7.1 no");
    let verdicts: Vec<_> = answer.verdicts.iter().map(|verdict| &verdict.service[..]).collect();
    assert_eq!(verdicts, [&b"ocp://service/s1"[..], b"ocp://service/s2", b"ocp://service/s0"]);
}

/// However it fails, and whatever is configured for that.
#[tokio::test(start_paused = true)]
async fn who_concludes_changes_nothing() {
    for (how, why) in [
        ("panics", "panic: on purpose; policy: accept"),
        ("hangs", "deadline: no answer within 5 s; policy: accept"),
        ("changes", "answer: a change of what has been concluded; policy: accept"),
        ("many", "answer: 9 notifications, more than 8; policy: accept"),
    ] {
        let services = vec![concluder(how), notifier(|_| Ok(notifies("one")))];
        let answer = chain(services).run(content()).await;
        assert_eq!(said(&answer), ["one"], "{how}");
        assert!(matches!(answer.branches[..], [Branch { adapted: Adapted::Unchanged, .. }]));
        let verdict = answer.verdicts.last().unwrap();
        assert_eq!(
            (&verdict.verdict[..], verdict.reason.as_deref()),
            (&b"failed"[..], Some(why.as_bytes()))
        );
    }
}
