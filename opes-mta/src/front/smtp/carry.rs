//! Carries out a plan: with the next hop, the spool and the quarantine.

use ocp_proto::smtp::Reply;

use super::broken::Broken;
use super::deliver::{deliver, own_line};
use super::plan::{Fate, Part, Plan};
use super::stored::{Provenance, Stored, Stores, take};
use super::{recipients, replies};
use crate::relay::{Answer, Connection};
use crate::spool::Id;

/// A plan that was carried out as far as that could be.
#[derive(Debug, Default)]
pub(super) struct Carried {
    /// Each part, and what holds for the recipients of its envelope in their order.
    pub(super) parts: Vec<(Part, Answer)>,
    /// What the spool has taken.
    pub(super) spooled: Vec<Id>,
    /// What the quarantine has taken.
    pub(super) kept: Vec<Id>,
    /// What went wrong on the way: the client hears what became of each part, and its dialog ends.
    pub(super) lost: Option<Broken>,
}

/// Carries out a plan. `each` says that the client gets a reply for each recipient, and `is_known` that the next
/// hop knows the envelope of its only part.
///
/// What goes into a store is written before the next hop gets anything, and counts after that. If the process
/// ends in between, the client has heard nothing and comes again: a message may be in the quarantine twice
/// then, and nothing is lost.
///
/// # Errors
/// If the next hop is lost, or the message can't be read, before anybody has it.
pub(super) async fn carry(
    hop: &mut Connection,
    stores: &Stores,
    plan: Plan,
    provenance: &Provenance,
    each: bool,
    is_known: bool,
) -> Result<Carried, Broken> {
    let spools = plan.is_spooled(each);
    let Plan { parts, notifications } = plan;
    let is_sent = |part: &Part| part.fate == Fate::Send && !spools;
    for part in &parts {
        // Whoever is killed from now on may have it without saying so.
        if let Some(to) = part.fate.destination(spools) {
            let sender = part.envelope.sender.as_ref().map(tracing::field::display);
            tracing::debug!(id = provenance.id, sender, "goes to the {to}");
        }
    }
    if !parts.iter().any(is_sent) {
        // First: once a message is kept, nothing may stop the client from hearing so.
        hop.command(&own_line("RSET")).await?;
    }
    let stored = parts.iter().filter(|part| !is_sent(part));
    let stored = stored.filter_map(|part| Stored::part(part, provenance));
    let notifications = notifications.into_iter().map(|new| Stored::notification(new, provenance));
    let taken = match take(stores, stored.chain(notifications).collect()).await {
        Ok(taken) => taken,
        Err(reply) => {
            hop.command(&own_line("RSET")).await?;
            let parts = parts.into_iter().map(|part| (part, Answer::One(reply.clone())));
            return Ok(Carried { parts: parts.collect(), ..Carried::default() });
        }
    };
    let (mut carried, mut has_some, mut is_refused) = (Carried::default(), false, false);
    for part in parts {
        let answer = match part.fate.reply() {
            Some(reply) => Answer::One(reply),
            None if spools => Answer::One(replies::taken()),
            None if carried.lost.is_some() => Answer::One(replies::lost()),
            None => match deliver(hop, &part.message, &part.envelope, each, is_known).await {
                Ok(answer) => answer,
                Err(error) if has_some => {
                    carried.lost = Some(error);
                    Answer::One(replies::lost())
                }
                Err(error) => {
                    taken.give_back().await;
                    return Err(error);
                }
            },
        };
        if is_sent(&part) {
            has_some |= recipients::replies(&answer).iter().any(Reply::is_success);
            is_refused |= !(each || has_some);
        }
        carried.parts.push((part, answer));
    }
    // Each recipient has a reply, and not one of them has the message: nobody is notified of it.
    is_refused |= !has_some && carried.parts.iter().all(|(part, _)| is_sent(part));
    if is_refused {
        // All of it is: the client has one reply, or refusals alone.
        taken.give_back().await;
        return Ok(carried);
    }
    match taken.commit().await {
        Ok((kept, spooled)) => (carried.kept, carried.spooled) = (kept, spooled),
        Err(reply) => {
            for (part, answer) in &mut carried.parts {
                if matches!(part.fate, Fate::Wait(_)) || part.fate == Fate::Send && spools {
                    *answer = Answer::One(reply.clone());
                }
            }
        }
    }
    Ok(carried)
}
