//! What recipients share as long as the groups make the same of a message for them, and apart from there (SMTP
//! profile section 5).

use std::collections::HashSet;
use std::sync::Arc;

use ocp_proto::smtp::{Address, EffectName, Reply, SideEffect};
use ocp_proto::wire::Atom;

use crate::apply::{Adapted, Answer, Variant};
use crate::config::RecipientsDiffer;
use crate::event::{Content, Event, Message, whole};

/// The most versions of one message, whatever the groups make of each other's. Worst case: that many lists of
/// pieces.
const MOST_VERSIONS: usize = 100;

/// Why a message is held back whose recipients differ.
const DIFFER: &str = "recipients should get different versions of the message";

/// A message as it is for some of its recipients, on its way through the groups.
#[derive(Clone, Debug)]
pub(crate) struct Version {
    /// What the next group is asked about: the recipients in its envelope are whom this is for.
    pub(crate) event: Event,
    /// What has become of the octets so far.
    pub(crate) answer: Answer,
    /// What to do besides, in this order. What versions share was asked for before they parted.
    effects: Vec<Arc<SideEffect>>,
    /// A reply was given.
    has_ended: bool,
    /// What had become of the octets before a refusal.
    made: Option<Adapted>,
}

impl Version {
    /// Of which no group has been asked.
    pub(crate) fn new(event: Event) -> Self {
        Self { event, answer: Answer::Unchanged, effects: Vec::new(), has_ended: false, made: None }
    }

    /// Whether no other group is asked: nothing later weakens a rejection.
    pub(crate) fn has_ended(&self) -> bool {
        self.has_ended
    }

    /// What a group has made of it: one version or, with [`Answer::Several`], some.
    pub(crate) fn adapted(
        self,
        answer: Answer,
        effects: Vec<SideEffect>,
        others: usize,
        fallback: RecipientsDiffer,
    ) -> Vec<Self> {
        let Answer::Several(variants) = answer else { return vec![self.with(answer, effects)] };
        if variants.len() + others > MOST_VERSIONS {
            let (answer, effects) = one_for_all(variants, fallback);
            return vec![self.with(answer, effects)];
        }
        let is_reply = |variant: &Variant| matches!(variant.answer, Answer::Reply(_));
        // Who is answered for gets no message, whatever a server says besides.
        let replied: HashSet<Atom> = variants
            .iter()
            .filter(|variant| is_reply(variant))
            .flat_map(|variant| variant.recipients.iter().map(|one| one.path().clone()))
            .collect();
        let of = |variant: Variant| {
            let mut version = self.clone();
            let named: HashSet<_> = variant.recipients.iter().map(Address::path).collect();
            let may_have = |path: &Atom| is_reply(&variant) || !replied.contains(path);
            let recipients = &mut version.event.envelope.recipients;
            recipients.retain(|one| named.contains(one.path()) && may_have(one.path()));
            version.with(variant.answer, variant.effects)
        };
        let versions = variants.into_iter().map(of);
        versions.filter(|version| !version.event.envelope.recipients.is_empty()).collect()
    }

    fn with(mut self, answer: Answer, effects: Vec<SideEffect>) -> Self {
        match answer {
            Answer::Unchanged | Answer::Several(_) => {}
            Answer::Reply(reply) => {
                self.has_ended = true;
                if !reply.is_success() {
                    // What was asked for before concerns an event that is not executed.
                    self.effects.clear();
                }
                match std::mem::replace(&mut self.answer, Answer::Unchanged) {
                    // Whoever takes a message over (250 and quarantine) gets it as it was made before.
                    Answer::Message(made) if reply.is_success() => {
                        self.answer = Answer::Message(made);
                    }
                    Answer::Message(made) => {
                        (self.answer, self.made) = (Answer::Reply(reply), Some(made));
                    }
                    _ => self.answer = Answer::Reply(reply),
                }
            }
            answer => {
                self.event = next(self.event, &answer);
                self.answer = answer;
            }
        }
        self.effects.extend(effects.into_iter().map(Arc::new));
        self
    }

    /// Whether whom services have added to it gets nothing, or not before somebody releases it.
    fn is_stopped(&self) -> bool {
        let stops = |effect: &Arc<SideEffect>| {
            matches!(effect.name(), EffectName::Discard | EffectName::Quarantine)
        };
        matches!(&self.answer, Answer::Reply(reply) if !reply.is_success())
            || self.effects.iter().any(stops)
    }

    /// Leaves out whom another version has been added to by the same wish.
    fn add_once(&mut self, added: &mut HashSet<*const SideEffect>) {
        let effects = std::mem::take(&mut self.effects).into_iter().filter_map(|effect| {
            let is_new = |added: &mut HashSet<_>| added.insert(Arc::as_ptr(&effect));
            match &*effect {
                SideEffect::AddRecipient(_) => is_new(added).then_some(effect),
                SideEffect::SetRecipients(_) if !is_new(added) => {
                    Some(Arc::new(SideEffect::SetRecipients(Vec::new())))
                }
                _ => Some(effect),
            }
        });
        self.effects = effects.collect();
    }
}

/// What all versions come to: the one there is, or several. Who was added before they parted gets one of
/// them, which goes on if any does.
pub(crate) fn together(versions: Vec<Version>) -> (Answer, Vec<SideEffect>) {
    let mut joined: Vec<Version> = Vec::new();
    for version in versions {
        let is_same = |one: &&mut Version| {
            one.effects == version.effects
                && one.answer == version.answer
                && one.made == version.made
        };
        match joined.iter_mut().find(is_same) {
            Some(one) => one.event.envelope.recipients.extend(version.event.envelope.recipients),
            None => joined.push(version),
        }
    }
    let mut added = HashSet::new();
    for stopped in [false, true] {
        let versions = joined.iter_mut().filter(|version| version.is_stopped() == stopped);
        versions.for_each(|version| version.add_once(&mut added));
    }
    let variant = |Version { event, answer, effects, made, .. }| Variant {
        recipients: event.envelope.recipients,
        answer,
        effects: effects.into_iter().map(Arc::unwrap_or_clone).collect(),
        made,
    };
    let mut variants: Vec<_> = joined.into_iter().map(variant).collect();
    match variants.pop() {
        Some(Variant { answer, effects, .. }) if variants.is_empty() => (answer, effects),
        last => {
            variants.extend(last);
            (Answer::Several(variants), Vec::new())
        }
    }
}

/// A message that is refused for some of its recipients is kept for them, as it was made before.
pub(crate) fn keep_refused(variant: &mut Variant) {
    if let Answer::Reply(reply) = &variant.answer
        && !reply.is_success()
    {
        variant.effects.push(SideEffect::Quarantine(reply.to_string().into()));
        variant.answer = variant.made.take().map_or(Answer::Unchanged, Answer::Message);
    }
}

/// What becomes of a message of which recipients should get different versions, if there is one for all of
/// them (profile section 5).
pub(crate) fn one_for_all(
    variants: Vec<Variant>,
    fallback: RecipientsDiffer,
) -> (Answer, Vec<SideEffect>) {
    let same =
        |one: &Variant, other: &Variant| one.answer == other.answer && one.effects == other.effects;
    let refused = variants.iter().find_map(|variant| match &variant.answer {
        Answer::Reply(reply) if reply.is_permanent() => Some(reply.clone()),
        _ => None,
    });
    if variants.iter().zip(variants.iter().skip(1)).all(|(one, other)| same(one, other))
        && let Some(Variant { answer, effects, .. }) = variants.into_iter().next()
    {
        return (answer, effects);
    }
    tracing::warn!(%fallback, "recipients should get different versions of a message");
    let (code, enhanced) = match fallback {
        RecipientsDiffer::Reject => match refused {
            Some(reply) => return (Answer::Reply(reply), Vec::new()),
            None => (554, "5.5.0"),
        },
        RecipientsDiffer::Tempfail => (451, "4.5.0"),
        RecipientsDiffer::Quarantine => {
            return (Answer::Unchanged, vec![SideEffect::Quarantine(DIFFER.into())]);
        }
    };
    match Reply::new(code, enhanced, &format!("{DIFFER}: send it to each of them alone")) {
        Ok(reply) => (Answer::Reply(reply), Vec::new()),
        Err(_) => (Answer::Unchanged, vec![SideEffect::Quarantine(DIFFER.into())]),
    }
}

/// The event as a group has changed it.
fn next(event: Event, answer: &Answer) -> Event {
    let content = match answer {
        Answer::Line(line) => Content::Line(line.clone()),
        Answer::Message(Adapted { header, body }) => {
            Content::Message(Message { header: whole(header), body: body.clone() })
        }
        Answer::Unchanged | Answer::Reply(_) | Answer::Several(_) => return event,
    };
    Event { content, ..event }
}

#[cfg(test)]
mod tests {
    use ocp_proto::smtp::{EffectName, Envelope};

    use super::*;

    fn address(name: &str) -> Address {
        Address::new(format!("<{name}@b.example>")).unwrap()
    }

    fn addresses(names: &str) -> Vec<Address> {
        names.split_whitespace().map(address).collect()
    }

    fn variant(answer: Answer) -> Variant {
        Variant { recipients: Vec::new(), answer, effects: Vec::new(), made: None }
    }

    fn version(names: &str) -> Version {
        let envelope = Envelope { sender: None, recipients: addresses(names) };
        Version::new(Event::message(Message::split("A: b\r\n\r\n".into()), envelope))
    }

    fn other(header: &'static str) -> Answer {
        Answer::Message(Adapted {
            header: vec![header.into()],
            body: crate::event::Body::default(),
        })
    }

    fn reply(text: &str) -> Answer {
        Answer::Reply(Reply::parse(text.to_owned()).unwrap())
    }

    #[test]
    fn a_version_goes_on_from_what_it_was() {
        let discard = vec![SideEffect::Discard("x".into())];
        let all = version("a b c");
        let mut marked =
            all.adapted(other("X: y\r\n\r\n"), discard.clone(), 0, RecipientsDiffer::Reject);
        let marked = marked.pop().unwrap();
        let of = |names, answer| Variant { recipients: addresses(names), ..variant(answer) };
        let several = Answer::Several(vec![
            of("c a", Answer::Unchanged),
            of("b", reply("550 no\r\n")),
            of("x", other("Z")),
        ]);
        let mut versions = marked.adapted(several, Vec::new(), 0, RecipientsDiffer::Reject);
        assert_eq!(versions.len(), 2, "who is no recipient gets nothing");
        let refused = versions.pop().unwrap();
        assert!(refused.has_ended());
        assert_eq!(
            (&refused.event.envelope.recipients, refused.effects.len()),
            (&addresses("b"), 0)
        );
        let kept = versions.pop().unwrap();
        assert!(!kept.has_ended());
        assert_eq!(kept.event.envelope.recipients, addresses("a c"));
        assert_eq!(kept.answer, other("X: y\r\n\r\n"));
        assert_eq!(kept.effects, discard.into_iter().map(Arc::new).collect::<Vec<_>>());
        let Content::Message(message) = kept.event.content else { panic!("it is a message") };
        assert_eq!(message.header, "X: y\r\n\r\n");
    }

    #[test]
    fn what_is_taken_over_is_what_was_made_of_it() {
        let kept = vec![SideEffect::Quarantine("odd".into())];
        let marked =
            version("a").adapted(other("X: y\r\n\r\n"), Vec::new(), 0, RecipientsDiffer::Reject);
        let marked = marked.into_iter().next().unwrap();
        let taken =
            marked.adapted(reply("250 kept\r\n"), kept.clone(), 0, RecipientsDiffer::Reject);
        assert!(taken[0].has_ended());
        assert_eq!(together(taken), (other("X: y\r\n\r\n"), kept));
    }

    #[test]
    fn what_is_kept_instead_of_refused_is_what_was_made_of_it() {
        let fallback = RecipientsDiffer::Quarantine;
        let marked = version("a b").adapted(other("X: y\r\n\r\n"), Vec::new(), 0, fallback);
        let refuses = Variant { recipients: addresses("a"), ..variant(reply("550 no\r\n")) };
        let passes = Variant { recipients: addresses("b"), ..variant(Answer::Unchanged) };
        let several = Answer::Several(vec![refuses, passes]);
        let marked = marked.into_iter().next().unwrap();
        let (several, _) = together(marked.adapted(several, Vec::new(), 0, fallback));
        let Answer::Several(mut variants) = several else { panic!("{several:?}") };
        assert_eq!(variants[0].answer, reply("550 no\r\n"));
        variants.iter_mut().for_each(keep_refused);
        assert_eq!(variants[0].answer, other("X: y\r\n\r\n"));
        assert_eq!(variants[0].effects, [SideEffect::Quarantine("550 no".into())]);
        assert_eq!((&variants[1].answer, variants[1].effects.len()), (&other("X: y\r\n\r\n"), 0));
    }

    #[test]
    fn more_versions_than_anybody_needs_are_one() {
        let variants = |count| {
            Answer::Several(vec![
                Variant { recipients: addresses("a"), ..variant(other("Z")) };
                count
            ])
        };
        let adapted = |count| {
            version("a").adapted(variants(count), Vec::new(), 1, RecipientsDiffer::Tempfail)
        };
        assert_eq!(adapted(MOST_VERSIONS - 1).len(), MOST_VERSIONS - 1);
        assert_eq!(adapted(MOST_VERSIONS).len(), 1);
    }

    #[test]
    fn versions_together_are_one_or_several() {
        let one = version("a b").adapted(other("Z"), Vec::new(), 0, RecipientsDiffer::Reject);
        assert_eq!(together(one), (other("Z"), Vec::new()));
        let same = together(vec![version("a"), version("b")]);
        assert_eq!(same, (Answer::Unchanged, Vec::new()));
        let marked = Version { answer: other("Z"), ..version("b") };
        let (several, effects) = together(vec![version("a"), marked, version("c")]);
        let Answer::Several(variants) = several else { panic!("{several:?}") };
        let recipients: Vec<_> = variants.into_iter().map(|variant| variant.recipients).collect();
        assert_eq!((recipients, effects), (vec![addresses("a c"), addresses("b")], Vec::new()));
        assert_eq!(together(Vec::new()), (Answer::Several(Vec::new()), Vec::new()));
    }

    #[test]
    fn who_is_answered_for_gets_no_message() {
        let of = |names, answer| Variant { recipients: addresses(names), ..variant(answer) };
        let several = Answer::Several(vec![of("a b", other("Z")), of("b", reply("550 no\r\n"))]);
        let versions = version("a b").adapted(several, Vec::new(), 0, RecipientsDiffer::Reject);
        let recipients: Vec<_> =
            versions.iter().map(|version| &version.event.envelope.recipients).collect();
        assert_eq!(recipients, [&addresses("a"), &addresses("b")]);
    }

    /// A group has added somebody, and then another one has made several versions.
    #[test]
    fn who_was_added_before_versions_parted_gets_one() {
        let added = |of: Vec<Variant>, effects: Vec<SideEffect>| {
            let mut all =
                version("a b").adapted(Answer::Unchanged, effects, 0, RecipientsDiffer::Reject);
            let all = all.pop().unwrap();
            let versions =
                all.adapted(Answer::Several(of), Vec::new(), 0, RecipientsDiffer::Reject);
            let (Answer::Several(variants), _) = together(versions) else { panic!("they differ") };
            variants.into_iter().map(|variant| variant.effects).collect::<Vec<_>>()
        };
        let of = |names, answer, effects| Variant {
            recipients: addresses(names),
            answer,
            effects,
            made: None,
        };
        let add = SideEffect::AddRecipient(address("x"));
        let set = |names| SideEffect::SetRecipients(addresses(names));
        let one = || of("a", Answer::Unchanged, Vec::new());
        let other = || of("b", other("Z"), Vec::new());
        assert_eq!(added(vec![one(), other()], vec![add.clone()]), [vec![add.clone()], vec![]]);
        assert_eq!(added(vec![one(), other()], vec![set("x")]), [vec![set("x")], vec![set("")]]);
        // What goes on is what it gets.
        let discard = SideEffect::Discard("x".into());
        let discarded = of("a", Answer::Unchanged, vec![discard.clone()]);
        assert_eq!(
            added(vec![discarded, other()], vec![add.clone()]),
            [vec![discard], vec![add.clone()]]
        );
        let refused = of("a", reply("550 no\r\n"), Vec::new());
        assert_eq!(added(vec![refused, other()], vec![add.clone()]), [vec![], vec![add.clone()]]);
        // Each version may have somebody added to it.
        let each = |variant| Variant { effects: vec![add.clone()], ..variant };
        let twice = added(vec![each(one()), each(other())], Vec::new());
        assert_eq!(twice, [vec![add.clone()], vec![add.clone()]]);
    }

    #[test]
    fn what_is_the_same_for_all_is_one_version() {
        let variants = vec![variant(Answer::Unchanged), variant(Answer::Unchanged)];
        let (answer, effects) = one_for_all(variants, RecipientsDiffer::Reject);
        assert_eq!((answer, effects), (Answer::Unchanged, Vec::new()));
    }

    #[test]
    fn recipients_that_differ_get_the_configured_fallback() {
        let differ = |fallback| {
            let other = Answer::Message(Adapted::default());
            one_for_all(vec![variant(Answer::Unchanged), variant(other)], fallback)
        };
        for (fallback, code) in [(RecipientsDiffer::Reject, 554), (RecipientsDiffer::Tempfail, 451)]
        {
            let (Answer::Reply(reply), effects) = differ(fallback) else { panic!("{fallback}") };
            assert_eq!((reply.code(), effects), (code, Vec::new()));
        }
        let (answer, effects) = differ(RecipientsDiffer::Quarantine);
        assert_eq!((answer, effects[0].name()), (Answer::Unchanged, EffectName::Quarantine));
        let effects = vec![SideEffect::Discard("x".into())];
        let variants =
            vec![variant(Answer::Unchanged), Variant { effects, ..variant(Answer::Unchanged) }];
        let (answer, _) = one_for_all(variants, RecipientsDiffer::Reject);
        assert!(matches!(answer, Answer::Reply(_)), "effects count as well");
    }
}
