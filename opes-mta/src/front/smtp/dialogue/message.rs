//! Content: what becomes of it.

use bytes::Bytes;
use ocp_proto::OcpResult;
use ocp_proto::smtp::{EffectName, FailurePolicy, Reply, SideEffect};

use super::{Dialogue, accepted, decision_of};
use crate::apply::Answer;
use crate::bypass::{self, Outcome};
use crate::consult::failure_reply;
use crate::event::{Event, Message};
use crate::front::advisor::{Refusal, Said};
use crate::front::smtp::carry::Carried;
use crate::front::smtp::content::NoContent;
use crate::front::smtp::mail::Asked;
use crate::front::smtp::plan::{Fate, Part, Plan};
use crate::front::smtp::recipients;
use crate::front::smtp::replies::syntax;
use crate::front::smtp::stored::Provenance;
use crate::passage::Advice;
use crate::relay;
use crate::trace;

impl Dialogue {
    /// Octets of the content.
    pub(in crate::front::smtp) async fn content(&mut self, octets: Bytes) {
        if let Some(mail) = &mut self.mail {
            mail.content.push(octets).await;
        }
    }

    /// The content is complete: what becomes of it. Then [`Dialogue::carried`].
    pub(in crate::front::smtp) async fn message(&mut self) -> Plan {
        let Some(mail) = &mut self.mail else { return Plan::refuse(syntax()) };
        mail.record.octets(mail.content.octets());
        match mail.content.finish() {
            Ok(message) => self.adapt(message).await,
            Err(error) => self.without_content(error),
        }
    }

    /// Content that services can't look at, and that is no longer there to be passed on.
    fn without_content(&mut self, error: NoContent) -> Plan {
        error.log();
        self.mail.iter_mut().for_each(|mail| mail.record.failed(error.to_string()));
        Plan::refuse(error.reply())
    }

    async fn adapt(&mut self, message: Message) -> Plan {
        let id = self.advisor.trace_id();
        let shown = self.shown(&message, &id);
        let hears = self.advisor.hears_bypass();
        let Some(mail) = &mut self.mail else { return Plan::refuse(syntax()) };
        let fields = trace::values(&message.header, bypass::FIELD);
        let request = bypass::both(mail.terms.bypass.clone(), bypass::request(fields));
        let said = if mail.done {
            Said::Go(Advice::default())
        } else {
            let bypass = if hears { request.clone() } else { Vec::new() };
            let event = Event { bypass, ..Event::message(shown.clone(), mail.envelope()) };
            let accepted = accepted(&mail.sender, &mail.recipients);
            self.advisor.ask(event, accepted, &mut mail.record).await
        };
        let bypass = (!request.is_empty()).then(|| match hears {
            true => Outcome::of(mail.record.verdicts()),
            false => Outcome::Ignored,
        });
        bypass.into_iter().for_each(|outcome| mail.record.bypass(outcome, &request));
        let mut advice = match self.heard(said) {
            Ok(advice) => advice,
            Err(Refusal { reply, mut notifications, .. }) => {
                // What is put off comes again, and is notified of then.
                notifications.retain(|_| reply.is_permanent());
                return Plan { notifications, ..Plan::refuse(reply) };
            }
        };
        let mut plan = match self.plan(&shown, &mut advice) {
            Ok(plan) => plan,
            // What our own policy says is no finding of a service (RFC 4902 section 3.1).
            Err(reply) => return Plan::refuse(reply),
        };
        if let Some(pass) = self.advisor.pass(&id) {
            plan.traced(&pass, &message.header, bypass, &advice.verdicts);
        }
        if let Some(mail) = &mut self.mail {
            mail.asked = Some(Asked::new(advice, mail.sender.clone(), mail.sender.clone()));
        }
        plan
    }

    /// What the services' answer comes to; where that can't be carried out, what the configuration says.
    ///
    /// # Errors
    /// What the message is refused with, if they ask for what is not allowed and may not fail.
    fn plan(&mut self, shown: &Message, advice: &mut Advice) -> Result<Plan, Reply> {
        let Some(mail) = &mut self.mail else { return Err(syntax()) };
        let envelope = mail.envelope();
        let new = |advice: &Advice| {
            Plan::new(shown, &envelope, &mail.effects, &advice.answer, &advice.effects)
        };
        let (each, settings) = (mail.hears_of_each(&self.settings), &self.settings);
        let is_possible = |plan: &Plan| plan.is_possible(each, settings.stores.spool.is_some());
        let mut plan = new(advice);
        if !is_possible(&plan) && advice.keep_refused() {
            plan = new(advice);
        }
        if !is_possible(&plan) {
            advice.unite();
            plan = new(advice);
        }
        plan.notifications = std::mem::take(&mut advice.notifications);
        let Some(next_hop) = plan.next_hops().find(|next_hop| settings.route(next_hop).is_none())
        else {
            return Ok(plan.spooled(each));
        };
        let cause = format!("the next hop {next_hop} is not allowed (--route)");
        let accepted = accepted(&mail.sender, &mail.recipients);
        let stops = |part: &Part| matches!(part.fate, Fate::Refuse(_) | Fate::Keep(_));
        // What a service has stopped does not go on because another one asks for too much.
        let least = match plan.parts.iter().any(stops) {
            true => FailurePolicy::Tempfail,
            false => FailurePolicy::Accept,
        };
        let policy = self.advisor.failure_policy(accepted).unwrap_or_default().max(least);
        tracing::warn!(stage = "route", cause, %policy, "adaptation failed");
        advice.report(&OcpResult::failure(cause.clone()), None);
        mail.record.failed(cause);
        match failure_reply(policy) {
            Some(reply) => Err(reply),
            None => {
                let routes = |effect: &SideEffect| effect.name() == EffectName::Route;
                let earlier = mail.effects.iter().filter(|effect| !routes(effect));
                let earlier: Vec<_> = earlier.cloned().collect();
                Ok(Plan::new(shown, &envelope, &earlier, &Answer::Unchanged, &[]))
            }
        }
    }

    /// Whether the next hop knows the envelope already.
    pub(in crate::front::smtp) fn is_known(&self, plan: &Plan) -> bool {
        let known = self.mail.as_ref().filter(|mail| !mail.is_known_otherwise);
        let known = known.map(|mail| &mail.known);
        matches!(&plan.parts[..], [part] if Some(&part.envelope) == known)
    }

    /// Where the message comes from, as far as a plan needs that.
    pub(in crate::front::smtp) fn provenance(&self, plan: &Plan) -> Provenance {
        if plan.is_only_sent() {
            return Provenance::unstored(self.advisor.trace_id());
        }
        let found = self.mail.as_ref().map(|mail| mail.record.verdicts()).unwrap_or_default();
        let id = self.advisor.trace_id();
        let trace = self.advisor.pass(&id).map(|pass| pass.record(found));
        Provenance::new(id, self.advisor.facts(), found.to_vec(), trace)
    }

    /// The message as services see it: with our own trace on top.
    fn shown(&mut self, message: &Message, id: &str) -> Message {
        let Some(pass) = self.advisor.pass(id) else { return message.clone() };
        let earlier = pass.earlier(&message.header);
        let header = [&pass.field()[..], &message.header].concat().into();
        self.mail.iter_mut().for_each(|mail| mail.record.earlier_passes(earlier));
        Message { header, body: message.body.clone() }
    }

    /// The plan was carried out: what the client gets.
    pub(in crate::front::smtp) fn carried(&mut self, carried: Carried) -> relay::Answer {
        let Carried { parts, spooled, kept, notified, .. } = carried;
        self.listen.notified(notified);
        let Some(mail) = &mut self.mail else {
            return recipients::for_client(&parts, &[], false);
        };
        mail.record.stored(&kept, &spooled);
        let told = mail.answered(&parts, mail.hears_of_each(&self.settings));
        // Somebody has it: those who do not are named.
        let is_taken = recipients::replies(&told).iter().any(Reply::is_success);
        let refused = recipients::worst(recipients::replies(&told)).filter(|_| !is_taken);
        let is_modified = mail.asked.take().is_some_and(|Asked { mut advice, .. }| {
            let result = match refused {
                None => OcpResult::ok(),
                Some(_) => OcpResult::failure("the next hop refused it"),
            };
            advice.report(&result, refused);
            matches!(advice.answer, Answer::Message(_))
        });
        let decision = match refused {
            Some(reply) => decision_of(reply),
            None => mail.decision(&parts, is_modified),
        };
        let why = || parts.iter().find_map(|(part, _)| part.fate.why());
        let reason = refused.map(Reply::to_string).or_else(why);
        let has_prdr = mail.terms.has_prdr;
        self.close(decision, reason.as_deref());
        if has_prdr { recipients::announced(told) } else { told }
    }

    /// Whether the client hears what became of the message for each recipient.
    pub(in crate::front::smtp) fn hears_of_each(&self) -> bool {
        self.mail.as_ref().is_some_and(|mail| mail.hears_of_each(&self.settings))
    }
}
