//! What an answer says beyond its own event: that no more events of the envelope are wanted, and how
//! long it may be used again (profile section 4, `Envelope-Done` and `Valid-For`).
//!
//! Both are made of the services' answers to one event alone. What a service agreed to at an earlier
//! event is not remembered: a server does not see where an envelope ends. Nobody may want RSET, and
//! a MAIL whose answer is used again never comes, so an agreement that is kept could be another
//! envelope's, and mail would go by a service that never agreed to it. A service that has had enough
//! says so again when it is asked again; that costs nothing but an event that it wants anyway. An
//! answer that is used again says no more than it said when it was given, for the same reason.

use ocp_proto::MAXIMUM;
use ocp_proto::smtp::{Command, Validity};

/// What one service, or all that were asked, say so.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Terms {
    /// No more events of this envelope are wanted.
    pub(crate) envelope_done: bool,
    /// How long the answer may be used again.
    pub(crate) validity: Option<Validity>,
}

/// Puts together the terms of a group for one event.
#[derive(Debug)]
pub(crate) struct Agreement {
    /// Services that want a later event of the envelope and have not given it up.
    waiting: usize,
    /// Somebody has given it up; where nobody wants later events anyway there is nothing to say.
    given_up: bool,
    /// That of all services so far; `None` before the first.
    validity: Option<Option<Validity>>,
}

impl Terms {
    /// Those of two answers: what both say.
    pub(crate) fn and(self, other: Self) -> Self {
        Self {
            envelope_done: self.envelope_done && other.envelope_done,
            validity: both(self.validity, other.validity),
        }
    }
}

impl Agreement {
    /// Among services of which that many want a later event of the envelope, asked or not.
    pub(crate) fn among(waiting: usize) -> Self {
        Self { waiting, given_up: false, validity: None }
    }

    /// What the next service in turn says; `waits` if it is one of those.
    pub(crate) fn add(&mut self, terms: Terms, waits: bool) {
        if terms.envelope_done {
            self.given_up = true;
            self.waiting -= usize::from(waits);
        }
        self.validity = Some(match self.validity.take() {
            None => terms.validity,
            Some(others) => both(others, terms.validity),
        });
    }

    /// What the answer to this event may say.
    pub(crate) fn settle(self, command: &Command) -> Terms {
        let validity = self.validity.flatten().filter(|validity| validity.seconds > 0);
        let bounded =
            |validity: Validity| Validity { seconds: validity.seconds.min(MAXIMUM), ..validity };
        Terms {
            envelope_done: self.given_up && self.waiting == 0 && more_may_follow(command),
            validity: validity.filter(|_| command.is_reusable()).map(bounded),
        }
    }
}

fn both(one: Option<Validity>, other: Option<Validity>) -> Option<Validity> {
    one.zip(other).map(|(one, other)| one.and(other))
}

/// Whether this event may come after that one in the same envelope.
pub(crate) fn may_follow(event: &Command, earlier: &Command) -> bool {
    use Command::{Data, Mail, Message, Rcpt};
    match earlier {
        Mail | Rcpt => matches!(event, Rcpt | Data | Message),
        Data => matches!(event, Message),
        _ => false,
    }
}

/// Whether events of the same envelope can follow this one.
fn more_may_follow(command: &Command) -> bool {
    may_follow(&Command::Message, command)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use futures_util::FutureExt;
    use futures_util::future::{BoxFuture, ready};
    use ocp_proto::smtp::{
        CommandLine, EffectName, Envelope, Fact, FailurePolicy, Reply, SideEffect,
    };
    use ocp_proto::wire::{Structure, Value};
    use services::{
        AddressList, Change, Declaration, Finding, Input, Outcome, Request, Service, ServiceError,
    };

    use super::*;
    use crate::access::Access;
    use crate::branch::Abilities;
    use crate::bypass::Bypass;
    use crate::chain::Event;
    use crate::router::{Chain, Entry, Router};

    const MAIL_ONLY: &[Command] = &[Command::Mail];
    const MAIL_AND_CONTENT: &[Command] = &[Command::Mail, Command::Message];

    /// A service that wants these events and says the same of each; a failure if `None`.
    #[derive(Clone)]
    struct Says(&'static [Command], Option<Outcome>);

    impl Service for Says {
        fn declaration(&self) -> Declaration {
            Declaration {
                on_failure: FailurePolicy::Accept,
                ..Declaration::on(self.0.iter().cloned())
            }
        }

        fn handle<'a>(&'a self, _: &'a Request) -> BoxFuture<'a, Result<Outcome, ServiceError>> {
            ready(self.1.clone().ok_or_else(|| ServiceError::new("test", "broken"))).boxed()
        }
    }

    fn group(services: &[Says], recipients: Option<&str>) -> Chain {
        let mut router = Router::default();
        let mut group = Vec::new();
        for (service, number) in services.iter().zip(0..) {
            let service = Arc::new(service.clone());
            let mut entry = Entry::new(&format!("s{number}"), "", service, Duration::from_secs(5));
            entry.recipients = recipients.map(|domain| {
                let named = [toml::Spanned::new(0..0, domain.to_owned())];
                AddressList::new(&named).unwrap()
            });
            let members = vec![Value::Atom(entry.uri())];
            group.push(Structure { members, ..Structure::default() });
            router.add(entry).unwrap();
        }
        router.chain(&group, &Access::default()).unwrap()
    }

    fn event(command: Command) -> Event {
        let line = CommandLine::new(command.name().to_owned()).unwrap();
        Event {
            dialog: Arc::default(),
            command,
            input: Input::Line(line),
            envelope: Envelope::default(),
            granted: Arc::new([EffectName::Quarantine]),
            abilities: Abilities::default(),
            observed: false,
            bypass: Bypass::default(),
        }
    }

    async fn terms(services: &[Says], command: Command) -> Terms {
        group(services, None).run(event(command)).await.terms
    }

    fn silent() -> Option<Outcome> {
        Some(Outcome::unchanged(Finding::new("clean")))
    }

    fn done() -> Option<Outcome> {
        silent().map(Outcome::with_envelope_done)
    }

    fn valid(seconds: u32, facts: &[Fact]) -> Option<Outcome> {
        let validity = facts.iter().fold(Validity::new(seconds), |known, f| known.with_fact(*f));
        silent().map(|outcome| outcome.with_validity(validity))
    }

    fn refuses(outcome: Option<Outcome>) -> Option<Outcome> {
        let reply = Change::Reply(Reply::new(550, "", "no").unwrap());
        outcome.map(|outcome| Outcome { change: reply, ..outcome })
    }

    #[tokio::test]
    async fn an_envelope_is_done_if_all_agree_that_still_wait_for_it() {
        use Command::{Connect, Data, Mail, Message, Rcpt};
        const CONTENT: &[Command] = &[Message];
        const RCPT_AND_CONTENT: &[Command] = &[Rcpt, Message];
        const ALL: &[Command] = &[Connect, Mail, Rcpt, Data, Message];
        const BEFORE_CONTENT: &[Command] = &[Rcpt, Data];
        let cases = [
            ("the only one", Mail, vec![Says(MAIL_AND_CONTENT, done())], true),
            ("nobody says so", Mail, vec![Says(MAIL_ONLY, silent())], false),
            (
                "one that wants no more agrees by itself",
                Mail,
                vec![Says(MAIL_AND_CONTENT, done()), Says(MAIL_ONLY, silent())],
                true,
            ),
            (
                "even one that failed, since it would not be asked again",
                Mail,
                vec![Says(MAIL_AND_CONTENT, done()), Says(MAIL_ONLY, None)],
                true,
            ),
            (
                "one that failed and wants more",
                Mail,
                vec![Says(MAIL_AND_CONTENT, done()), Says(MAIL_AND_CONTENT, None)],
                false,
            ),
            (
                "one that wants more",
                Mail,
                vec![Says(MAIL_AND_CONTENT, done()), Says(MAIL_AND_CONTENT, silent())],
                false,
            ),
            (
                "one that is not asked yet",
                Mail,
                vec![Says(MAIL_AND_CONTENT, done()), Says(CONTENT, done())],
                false,
            ),
            (
                "one that agreed to an earlier event",
                Rcpt,
                vec![Says(MAIL_AND_CONTENT, done()), Says(RCPT_AND_CONTENT, done())],
                false,
            ),
            (
                "both say it now",
                Rcpt,
                vec![Says(ALL, done()), Says(RCPT_AND_CONTENT, done())],
                true,
            ),
            (
                "one behind a rejection",
                Rcpt,
                vec![Says(ALL, refuses(done())), Says(ALL, done())],
                false,
            ),
            (
                "more recipients may come",
                Rcpt,
                vec![Says(ALL, done()), Says(BEFORE_CONTENT, silent())],
                false,
            ),
            (
                "no more recipients come",
                Data,
                vec![Says(ALL, done()), Says(BEFORE_CONTENT, silent())],
                true,
            ),
            ("there is no envelope", Connect, vec![Says(ALL, done())], false),
            ("nothing comes after it", Message, vec![Says(ALL, done())], false),
        ];
        for (case, command, services, expected) in cases {
            assert_eq!(terms(&services, command).await.envelope_done, expected, "{case}");
        }
    }

    #[tokio::test]
    async fn an_answer_holds_as_long_as_all_that_it_is_made_of() {
        use Fact::{Auth, Client};
        let only = |outcome| vec![Says(MAIL_AND_CONTENT, outcome)];
        let two = |one, other| vec![Says(MAIL_ONLY, one), Says(MAIL_AND_CONTENT, other)];
        let quarantine = SideEffect::Quarantine("why".into());
        let both = Validity::new(20).with_fact(Client).with_fact(Auth);
        let cases = [
            ("alone", only(valid(60, &[Client])), Some(Validity::new(60).with_fact(Client))),
            ("two", two(valid(60, &[Client]), valid(20, &[Auth])), Some(both)),
            ("one is silent", two(valid(60, &[]), silent()), None),
            ("one fails", two(valid(60, &[]), None), None),
            ("a refusal", only(refuses(valid(60, &[]))), Some(Validity::new(60))),
            (
                "behind a refusal nobody is asked",
                two(refuses(valid(60, &[])), silent()),
                Some(Validity::new(60)),
            ),
            ("an effect", only(valid(60, &[]).map(|o| o.with_effect(quarantine))), None),
            ("no time", only(valid(0, &[])), None),
            ("what can be said", only(valid(u32::MAX, &[])), Some(Validity::new(MAXIMUM))),
        ];
        for (case, services, expected) in cases {
            assert_eq!(terms(&services, Command::Mail).await.validity, expected, "{case}");
        }
        let content = terms(&only(valid(60, &[])), Command::Message).await;
        assert_eq!(content.validity, None, "only commands are answered again");
    }

    #[tokio::test]
    async fn what_depends_on_recipients_or_is_not_waited_for_says_nothing() {
        let outcome = valid(60, &[]).map(Outcome::with_envelope_done);
        let services = [Says(MAIL_AND_CONTENT, outcome)];
        let said = group(&services, Some("x.example")).run(event(Command::Mail)).await.terms;
        assert_eq!(said, Terms { envelope_done: true, validity: None });
        let observed = Event { observed: true, ..event(Command::Mail) };
        assert_eq!(group(&services, None).run(observed).await.terms, Terms::default());
    }
}
