//! What becomes of a message: for whom it goes on, as what, and what happens to it otherwise.

use std::time::Duration;

use bytes::Bytes;
use ocp_proto::smtp::{Address, EffectName, Envelope, Reply, SideEffect, Verdict};

use super::replies;
use crate::apply::{Adapted, Answer, Notification, Variant};
use crate::bypass::Outcome;
use crate::event::{Message, carry_out};
use crate::trace::Pass;

/// What becomes of a message, and what goes out besides.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// Each of them for other recipients.
    pub(super) parts: Vec<Part>,
    /// New messages.
    pub(super) notifications: Vec<Notification>,
}

/// What becomes of a message for some of its recipients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Part {
    /// Whom it is for.
    pub(super) recipients: Vec<Address>,
    /// Its envelope, with all that the services asked for.
    pub(super) envelope: Envelope,
    /// Its octets, as the services have made them.
    pub(super) message: Adapted,
    pub(super) fate: Fate,
}

/// What happens to a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// The next hop gets it.
    Send,
    /// A next hop gets it later, or another one does.
    Wait(Wait),
    /// It is kept for somebody to look at; why.
    Keep(String),
    /// It is taken, and goes nowhere.
    Drop,
    /// It is not taken.
    Refuse(Reply),
}

/// What a message waits for, and where it goes then.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Wait {
    /// No sooner than that from now.
    pub(super) delay: Option<Duration>,
    /// Until somebody releases it; why.
    pub(super) hold: Option<String>,
    /// Where it goes, for whom; for all if there are none. A later one counts more.
    pub(super) routes: Vec<(Vec<Address>, String)>,
}

impl Plan {
    /// Nobody gets it.
    pub(super) fn refuse(reply: Reply) -> Self {
        let part = Part {
            recipients: Vec::new(),
            envelope: Envelope::default(),
            message: Adapted::default(),
            fate: Fate::Refuse(reply),
        };
        Self { parts: vec![part], notifications: Vec::new() }
    }

    /// What an answer and its effects make of a message with this envelope, after the effects of earlier
    /// stages.
    pub(super) fn new(
        message: &Message,
        envelope: &Envelope,
        earlier: &[SideEffect],
        answer: &Answer,
        effects: &[SideEffect],
    ) -> Self {
        let all = || Variant {
            recipients: envelope.recipients.clone(),
            answer: answer.clone(),
            effects: effects.to_vec(),
            made: None,
        };
        let variants = match answer {
            Answer::Several(variants) => variants.clone(),
            _ => vec![all()],
        };
        let part = |variant| Part::new(message, envelope, earlier, variant);
        Self { parts: variants.into_iter().map(part).collect(), notifications: Vec::new() }
    }

    /// Next hops that services have named.
    pub(super) fn next_hops(&self) -> impl Iterator<Item = &str> {
        let waits = self.parts.iter().filter_map(|part| match &part.fate {
            Fate::Wait(wait) => Some(wait),
            _ => None,
        });
        waits.flat_map(|wait| &wait.routes).map(|(_, next_hop)| next_hop.as_str())
    }

    /// What becomes of the message says that it has passed here, as new messages do already. `header` is the
    /// message's as it came.
    pub(super) fn traced(
        &mut self,
        pass: &Pass<'_>,
        header: &Bytes,
        bypass: Option<Outcome>,
        verdicts: &[Verdict],
    ) {
        for part in &mut self.parts {
            match &mut part.fate {
                Fate::Refuse(reply) => *reply = pass.reply(reply),
                _ => pass.complete(&mut part.message, header, bypass, verdicts),
            }
        }
    }

    /// Whether it becomes several messages where the client gets one reply: those have to be accepted before any next
    /// hop has one.
    fn is_spooled(&self, each: bool) -> bool {
        let goes_out = |part: &&Part| matches!(part.fate, Fate::Send | Fate::Wait(_));
        !each && self.parts.iter().filter(goes_out).count() > 1
    }

    /// The same by way of the spool, where it has to be.
    pub(super) fn spooled(mut self, each: bool) -> Self {
        if self.is_spooled(each) {
            let sent = self.parts.iter_mut().filter(|part| part.fate == Fate::Send);
            sent.for_each(|part| part.fate = Fate::Wait(Wait::default()));
        }
        self
    }

    /// Whether it goes to the next hop alone.
    pub(super) fn is_only_sent(&self) -> bool {
        self.notifications.is_empty() && self.parts.iter().all(|part| part.fate == Fate::Send)
    }

    /// Whether it can be carried out, with a spool or without, for a client that gets a reply for each recipient or
    /// one for all.
    pub(super) fn is_possible(&self, each: bool, spools: bool) -> bool {
        let refuses = |part: &Part| matches!(part.fate, Fate::Refuse(_));
        let waits = |part: &Part| matches!(part.fate, Fate::Wait(_));
        let needs_spool = self.is_spooled(each) || self.parts.iter().any(waits);
        // One reply for all says either yes or no.
        let is_told_apart = !each && self.parts.len() > 1 && self.parts.iter().any(refuses);
        (spools || !needs_spool) && !is_told_apart
    }
}

impl Part {
    fn new(
        message: &Message,
        envelope: &Envelope,
        earlier: &[SideEffect],
        variant: Variant,
    ) -> Self {
        let Variant { recipients, answer, effects, .. } = variant;
        let mut envelope = Envelope { recipients: recipients.clone(), ..envelope.clone() };
        effects.iter().for_each(|effect| carry_out(&mut envelope, effect));
        let (adapted, refused) = match answer {
            Answer::Message(adapted) => (Some(adapted), None),
            Answer::Reply(reply) => (None, Some(reply).filter(|reply| !reply.is_success())),
            Answer::Unchanged | Answer::Line(_) | Answer::Several(_) => (None, None),
        };
        let unchanged =
            || Adapted { header: vec![message.header.clone()], body: message.body.clone() };
        let message = adapted.unwrap_or_else(unchanged);
        let fate = match refused {
            Some(reply) => Fate::Refuse(reply),
            None => Fate::new(&envelope, earlier.iter().chain(&effects)),
        };
        if matches!(fate, Fate::Keep(_)) && envelope.recipients.is_empty() {
            // Whoever releases it decides whether they get it.
            envelope.recipients.clone_from(&recipients);
        }
        Self { recipients, envelope, message, fate }
    }
}

impl Fate {
    /// What effects come to, in their order.
    fn new<'a>(envelope: &Envelope, effects: impl Iterator<Item = &'a SideEffect> + Clone) -> Self {
        let mut wait = Wait::default();
        for effect in effects.clone() {
            match effect {
                SideEffect::Quarantine(reason) => return Self::Keep(text(reason)),
                SideEffect::Hold(queue) => wait.hold = Some(text(queue)),
                SideEffect::Delay { seconds, .. } => {
                    let delay = Duration::from_secs((*seconds).into());
                    wait.delay = wait.delay.max(Some(delay));
                }
                SideEffect::Route { next_hop, recipients } => {
                    let is_one =
                        |to: &Address| recipients.iter().any(|one| one.path() == to.path());
                    if recipients.is_empty() || envelope.recipients.iter().any(is_one) {
                        wait.routes.push((recipients.clone(), text(next_hop)));
                    }
                }
                _ => {}
            }
        }
        let discards = |effect: &SideEffect| effect.name() == EffectName::Discard;
        match wait == Wait::default() {
            _ if effects.clone().any(discards) || envelope.recipients.is_empty() => Self::Drop,
            true => Self::Send,
            false => Self::Wait(wait),
        }
    }

    /// What the client gets if nothing goes wrong; `None` if the next hop says it.
    pub(super) fn reply(&self) -> Option<Reply> {
        match self {
            Self::Send => None,
            Self::Wait(_) | Self::Keep(_) | Self::Drop => Some(replies::taken()),
            Self::Refuse(reply) => Some(reply.clone()),
        }
    }

    /// Who gets it, for the log.
    pub(super) fn destination(&self) -> Option<&'static str> {
        match self {
            Self::Send => Some("next hop"),
            Self::Wait(_) => Some("spool"),
            Self::Keep(_) => Some("quarantine"),
            Self::Drop | Self::Refuse(_) => None,
        }
    }

    /// Why it is kept or held back.
    pub(super) fn why(&self) -> Option<String> {
        match self {
            Self::Keep(reason) => Some(reason.clone()),
            Self::Wait(wait) => wait.hold.clone(),
            Self::Send | Self::Drop | Self::Refuse(_) => None,
        }
    }
}

impl Wait {
    /// Where it goes for a recipient, if not to the configured next hop.
    pub(super) fn next_hop(&self, recipient: &Address) -> Option<&str> {
        let names = |of: &[Address]| of.iter().any(|one| one.path() == recipient.path());
        let mut routes = self.routes.iter().rev();
        let route = routes.find(|(of, _)| of.is_empty() || names(of));
        route.map(|(_, next_hop)| next_hop.as_str())
    }
}

fn text(octets: &[u8]) -> String {
    String::from_utf8_lossy(octets).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(names: &str) -> Vec<Address> {
        let address = |name: &str| Address::new(format!("<{name}@b.example>")).unwrap();
        names.split_whitespace().map(address).collect()
    }

    fn envelope(names: &str) -> Envelope {
        Envelope { sender: Some(addresses("s")[0].clone()), recipients: addresses(names) }
    }

    fn variant(names: &str, answer: Answer, effects: Vec<SideEffect>) -> Variant {
        Variant { recipients: addresses(names), answer, effects, made: None }
    }

    fn message(header: &'static str) -> Answer {
        Answer::Message(Adapted {
            header: vec![header.into()],
            body: crate::event::Body::default(),
        })
    }

    fn plan(names: &str, earlier: &[SideEffect], answer: &Answer, effects: &[SideEffect]) -> Plan {
        Plan::new(
            &Message::split("A: b\r\n\r\nbody".into()),
            &envelope(names),
            earlier,
            answer,
            effects,
        )
    }

    fn refusal() -> Answer {
        Answer::Reply(Reply::parse("550 no\r\n").unwrap())
    }

    fn fate(effects: Vec<SideEffect>) -> Fate {
        plan("a b", &[], &Answer::Unchanged, &effects).parts[0].fate.clone()
    }

    fn delay(seconds: u32) -> SideEffect {
        SideEffect::Delay { seconds, reason: "why".into() }
    }

    fn route(names: &str, next_hop: &'static str) -> SideEffect {
        SideEffect::Route { next_hop: next_hop.into(), recipients: addresses(names) }
    }

    #[test]
    fn effects_say_what_happens_to_a_message() {
        let (quarantine, hold) =
            (SideEffect::Quarantine("odd".into()), SideEffect::Hold("q".into()));
        let discard = SideEffect::Discard("x".into());
        let nobody = SideEffect::SetRecipients(Vec::new());
        assert_eq!(fate(Vec::new()), Fate::Send);
        assert_eq!(fate(vec![nobody.clone()]), Fate::Drop);
        assert_eq!(fate(vec![delay(9), discard.clone()]), Fate::Drop);
        assert_eq!(fate(vec![discard, hold.clone(), nobody, quarantine]), Fate::Keep("odd".into()));
        let wait = Wait {
            delay: Some(Duration::from_secs(60)),
            hold: Some("q".into()),
            routes: Vec::new(),
        };
        assert_eq!(fate(vec![delay(60), hold, delay(9)]), Fate::Wait(wait));
    }

    #[test]
    fn effects_of_earlier_stages_count() {
        let plan = plan("a", &[delay(5)], &message("X"), &[delay(3)]);
        let Fate::Wait(wait) = &plan.parts[0].fate else { panic!("{plan:?}") };
        assert_eq!(wait.delay, Some(Duration::from_secs(5)));
    }

    #[test]
    fn a_later_route_counts_more() {
        let routes = vec![route("", "one:25"), route("a", "two:25"), route("a", "three:25")];
        let Fate::Wait(wait) = fate(routes) else { panic!("it has routes") };
        let next_hops =
            addresses("a b").iter().map(|to| wait.next_hop(to).unwrap()).collect::<Vec<_>>();
        assert_eq!(next_hops, ["three:25", "one:25"]);
        let Fate::Wait(wait) = fate(vec![route("a", "one:25")]) else { panic!("it has a route") };
        assert_eq!(wait.next_hop(&addresses("b")[0]), None);
    }

    #[test]
    fn each_version_has_a_part() {
        let added = SideEffect::AddRecipient(addresses("d")[0].clone());
        let several = Answer::Several(vec![
            variant("a c", message("X"), Vec::new()),
            variant("b", Answer::Unchanged, vec![added]),
        ]);
        let plan = plan("a b c", &[], &several, &[]);
        let parts: Vec<_> = plan.parts.iter().map(|part| &part.recipients).collect();
        assert_eq!(parts, [&addresses("a c"), &addresses("b")]);
        let goes_to: Vec<_> = plan.parts.iter().map(|part| &part.envelope).collect();
        assert_eq!(goes_to, [&envelope("a c"), &envelope("b d")]);
        let octets: Vec<_> =
            plan.parts.into_iter().map(|part| part.message.read().unwrap().concat()).collect();
        assert_eq!(octets, [&b"X"[..], b"A: b\r\n\r\nbody"]);
    }

    #[test]
    fn what_is_possible_depends_on_replies_and_on_the_spool() {
        let send = || variant("a", Answer::Unchanged, Vec::new());
        let other = || variant("b", message("X"), Vec::new());
        let waits = || variant("b", Answer::Unchanged, vec![delay(1)]);
        let drops = || variant("b", Answer::Unchanged, vec![SideEffect::Discard("x".into())]);
        let refuses = || variant("b", refusal(), Vec::new());
        for (variants, each, spooled, without_spool, with_spool) in [
            (vec![send()], false, false, true, true),
            (vec![send(), other()], false, true, false, true),
            (vec![send(), other()], true, false, true, true),
            (vec![waits()], false, false, false, true),
            (vec![send(), waits()], false, true, false, true),
            (vec![send(), waits()], true, false, false, true),
            (vec![send(), drops()], false, false, true, true),
            (vec![send(), refuses()], false, false, false, false),
            (vec![send(), refuses()], true, false, true, true),
            (vec![refuses()], false, false, true, true),
        ] {
            let plan = plan("a b", &[], &Answer::Several(variants.clone()), &[]);
            let is_possible = (plan.is_possible(each, false), plan.is_possible(each, true));
            let fates =
                |plan: &Plan| plan.parts.iter().filter(|part| part.fate == Fate::Send).count();
            let before = fates(&plan);
            let found = (fates(&plan.spooled(each)) < before, is_possible.0, is_possible.1);
            assert_eq!(found, (spooled, without_spool, with_spool), "{each} {variants:?}");
        }
    }
}
