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
    /// New messages among what the spool has taken.
    pub(super) notified: usize,
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
    let Plan { parts, notifications } = plan;
    let is_sent = |part: &Part| part.fate == Fate::Send;
    for part in &parts {
        // Whoever is killed from now on may have it without saying so.
        if let Some(to) = part.fate.destination() {
            let sender = part.envelope.sender.as_ref().map(tracing::field::display);
            tracing::debug!(id = provenance.id, sender, "goes to the {to}");
        }
    }
    if !parts.iter().any(is_sent) {
        // First: once a message is kept, nothing may stop the client from hearing so.
        hop.command(&own_line("RSET")).await?;
    }
    let notified = notifications.len();
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
    let is_sent_alone =
        !carried.parts.is_empty() && carried.parts.iter().all(|(part, _)| is_sent(part));
    is_refused |= is_sent_alone && !has_some;
    let answers = carried.parts.iter().map(|(_, answer)| recipients::replies(answer));
    let told: Vec<&Reply> = answers.flatten().collect();
    let comes_again = !told.is_empty() && told.iter().all(|reply| reply.is_temporary());
    if is_refused || comes_again {
        // All of it is: the client has refusals alone, or comes again with it. New messages go out then.
        taken.give_back().await;
        return Ok(carried);
    }
    let (kept, spooled) = taken.commit().await;
    carried.kept = kept;
    match spooled {
        Ok(spooled) => (carried.spooled, carried.notified) = (spooled, notified),
        Err(reply) => {
            for (part, answer) in &mut carried.parts {
                if matches!(part.fate, Fate::Wait(_)) {
                    *answer = Answer::One(reply.clone());
                }
            }
        }
    }
    Ok(carried)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use ocp_proto::smtp::{Address, Envelope};
    use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
    use tokio::net::TcpListener;

    use super::*;
    use crate::apply::{Adapted, Notification};
    use crate::relay::NextHop;
    use crate::smtp::Protocol;
    use crate::spool::Spool;
    use crate::store::Limits;

    /// A next hop that speaks LMTP and says this to content.
    async fn next_hop(said: &'static str) -> Connection {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string().parse().unwrap();
        tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let mut stream = BufReader::new(stream);
            stream.write_all(b"220 hop\r\n").await.unwrap();
            let (mut line, mut is_content) = (String::new(), false);
            while stream.read_line(&mut line).await.unwrap() > 0 {
                let reply = match (&line[..], is_content) {
                    ("DATA\r\n", _) => "354 go on",
                    (".\r\n", _) => said,
                    (_, true) => "",
                    _ => "250 ok",
                };
                is_content = reply == "354 go on" || reply.is_empty();
                if !reply.is_empty() {
                    stream.write_all(format!("{reply}\r\n").as_bytes()).await.unwrap();
                }
                line.clear();
            }
        });
        let next_hop = NextHop { protocol: Protocol::Lmtp, ..NextHop::new(address, "test") };
        Connection::connect(&Arc::new(next_hop)).await.unwrap()
    }

    fn part(fate: Fate) -> Part {
        let recipients = vec![Address::new("<b@b.example>").unwrap()];
        let envelope = Envelope { sender: None, recipients: recipients.clone() };
        let message =
            Adapted { header: vec!["A: b\r\n\r\n".into()], body: crate::event::Body::default() };
        Part { recipients, envelope, message, fate }
    }

    /// A client that comes again with all of its message has it looked at again, and of what nobody took nobody hears.
    #[tokio::test]
    async fn new_messages_wait_until_the_client_does_not_come_again() {
        let refuse = |text: &str| Fate::Refuse(Reply::parse(text.to_owned()).unwrap());
        for (fates, said, spooled) in [
            (vec![Fate::Send], "250 ok", 1),
            (vec![Fate::Send], "451 later", 0),
            (vec![Fate::Send], "550 no", 0),
            (vec![Fate::Send, Fate::Drop], "451 later", 1),
            (vec![refuse("451 4.5.0 later\r\n")], "", 0),
            (vec![refuse("550 5.7.1 no\r\n")], "", 1),
            (Vec::new(), "", 1),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let (spool, _) = Spool::open(folder.path(), Limits::default()).unwrap();
            let stores = Stores { spool: Some(spool.clone()), ..Stores::default() };
            let notification = Notification {
                sender: Address::null(),
                recipients: vec![Address::new("<s@a.example>").unwrap()],
                message: part(Fate::Send).message,
            };
            let parts = fates.iter().cloned().map(part).collect();
            let plan = Plan { parts, notifications: vec![notification] };
            let mut hop = next_hop(said).await;
            let provenance = Provenance::default();
            let carried = carry(&mut hop, &stores, plan, &provenance, true, true).await.unwrap();
            let entries = spool.entries().unwrap().0;
            let found = (carried.spooled.len(), carried.notified, entries.len());
            assert_eq!(found, (spooled, spooled, spooled), "{fates:?}");
        }
    }
}
