//! A reply for each recipient (LMTP, RFC 2033 section 4.2): whom the next hop has answered for, and whom the
//! client has named.

use ocp_proto::smtp::{Address, Reply};

use super::plan::Part;
use super::replies;
use crate::relay::Answer;

/// What the client's recipients, whom the next hop knows, get of what became of each part: a reply for each, or the
/// one that says no most firmly, or yes.
///
/// One that services have deleted is taken and goes nowhere, as what is discarded does. But those who were
/// added may stand in its place: if one of them was refused, it is told so, lest nobody gets the message.
pub(super) fn for_client(parts: &[(Part, Answer)], known: &[Address], each: bool) -> Answer {
    if !each {
        let all = || parts.iter().flat_map(|(_, answer)| replies(answer));
        let reply = worst(all()).or_else(|| all().next()).cloned();
        return Answer::One(reply.unwrap_or_else(replies::taken));
    }
    match parts {
        [(_, answer @ Answer::One(_))] => return answer.clone(),
        [(part, answer @ Answer::Each(_))] if part.envelope.recipients == known => {
            return answer.clone();
        }
        _ => {}
    }
    let reply = |recipient| {
        let of = |(part, answer): &(Part, Answer)| {
            let at = position(&part.envelope.recipients, recipient)?;
            Some(answer.of(at).cloned().unwrap_or_else(replies::no_sense))
        };
        // Whom several parts go to, since one of them was added there, hears of its own.
        let own = parts.iter().filter(|(part, _)| position(&part.recipients, recipient).is_some());
        own.clone().find_map(of).unwrap_or_else(|| {
            let instead = own.clone().next().map_or(parts, std::slice::from_ref);
            let added = instead
                .iter()
                .flat_map(|(part, answer)| added(answer, known, &part.envelope.recipients));
            worst(added.map(|(_, reply)| reply)).cloned().unwrap_or_else(replies::taken)
        })
    };
    Answer::Each(known.iter().map(reply).collect())
}

/// A reply for each recipient as PRDR has them: one is enough where they are the same.
pub(super) fn announced(answer: Answer) -> Answer {
    let Answer::Each(each) = answer else { return answer };
    match &each[..] {
        [first, others @ ..] if others.iter().all(|other| other == first) => {
            Answer::One(first.clone())
        }
        _ => {
            let is_taken = each.iter().any(Reply::is_success);
            let all =
                if is_taken { Some(replies::taken_for_some()) } else { worst(&each).cloned() };
            Answer::Prdr { all: all.unwrap_or_else(replies::no_sense), each }
        }
    }
}

/// Recipients that services have added, and what the next hop said for each.
pub(super) fn added<'a>(
    answer: &'a Answer,
    known: &'a [Address],
    in_force: &'a [Address],
) -> impl Iterator<Item = (&'a Address, &'a Reply)> {
    let replies = in_force.iter().enumerate().filter_map(|(at, to)| Some((to, answer.of(at)?)));
    replies.filter(|(recipient, _)| position(known, recipient).is_none())
}

/// The replies in an answer.
pub(super) fn replies(answer: &Answer) -> &[Reply] {
    match answer {
        Answer::Prdr { each, all } if all.is_success() => each,
        Answer::One(reply) | Answer::Prdr { all: reply, .. } => std::slice::from_ref(reply),
        Answer::Each(each) => each,
    }
}

/// The reply that says no most firmly, if one does: for good, or else for now.
pub(super) fn worst<'a>(replies: impl IntoIterator<Item = &'a Reply>) -> Option<&'a Reply> {
    let refusals = replies.into_iter().filter(|reply| !reply.is_success());
    refusals.reduce(|worst, reply| match reply.is_permanent() && !worst.is_permanent() {
        true => reply,
        false => worst,
    })
}

fn position(recipients: &[Address], wanted: &Address) -> Option<usize> {
    recipients.iter().position(|recipient| recipient.path() == wanted.path())
}

#[cfg(test)]
mod tests {
    use ocp_proto::smtp::Envelope;

    use super::*;
    use crate::apply::Adapted;
    use crate::front::smtp::plan::Fate;

    fn addresses(names: &str) -> Vec<Address> {
        let address = |name: &str| Address::new(format!("<{name}@b.example>")).unwrap();
        names.split_whitespace().map(address).collect()
    }

    fn each(codes: &[u16]) -> Answer {
        let reply = |code: &u16| Reply::parse(format!("{code} x\r\n")).unwrap();
        Answer::Each(codes.iter().map(reply).collect())
    }

    fn codes(answer: &Answer) -> Vec<u16> {
        super::replies(answer).iter().map(Reply::code).collect()
    }

    /// For whom it was, to whom it went, and what came of it.
    fn part(of: &str, to: &str, answer: Answer) -> (Part, Answer) {
        let envelope = Envelope { sender: None, recipients: addresses(to) };
        let part = Part {
            recipients: addresses(of),
            envelope,
            message: Adapted::default(),
            fate: Fate::Send,
        };
        (part, answer)
    }

    fn one(code: u16) -> Answer {
        Answer::One(each(&[code]).of(0).unwrap().clone())
    }

    #[test]
    fn each_recipient_of_the_client_gets_what_holds_for_it() {
        for (known, in_force, said, told) in [
            ("a b c", "a b c", &[250, 452, 550][..], &[250, 452, 550][..]),
            ("a a", "a a", &[250, 550], &[250, 550]),
            ("a b c", "c a", &[452, 550], &[550, 250, 452]),
            ("a b", "a b x", &[250, 250, 550], &[250, 250]),
            ("a b", "b x", &[250, 250], &[250, 250]),
            ("a b", "b x", &[250, 452], &[452, 250]),
            ("a b c", "b x y z", &[250, 452, 550, 250], &[550, 250, 550]),
        ] {
            let all = [part(known, in_force, each(said))];
            let answer = for_client(&all, &addresses(known), true);
            assert_eq!(codes(&answer), told, "{known:?} {in_force:?} {said:?}");
        }
    }

    #[test]
    fn each_recipient_hears_of_its_own_part() {
        let parts = [
            part("a b", "b x", each(&[250, 452])),
            part("c", "c", one(550)),
            part("d", "d", each(&[251])),
            part("e", "", one(250)),
        ];
        let answer = for_client(&parts, &addresses("d b a c e f"), true);
        // `f` was deleted before there were parts: nobody knows in whose place `x` is.
        assert_eq!(codes(&answer), [251, 250, 452, 550, 250, 452]);
        assert_eq!(for_client(&parts[1..2], &addresses("a"), true), one(550));
        let (all, few) = (&parts[..], &parts[2..]);
        assert_eq!(codes(&for_client(all, &addresses("d b"), false)), [550]);
        assert_eq!(codes(&for_client(few, &addresses("d b"), false)), [251]);
    }

    #[test]
    fn prdr_announces_replies_that_differ() {
        assert_eq!(announced(one(550)), one(550));
        assert_eq!(announced(each(&[250, 250])), one(250));
        for (said, all) in [(&[250, 550][..], 250), (&[452, 550], 550)] {
            let Answer::Prdr { each: of_each, all: of_all } = announced(each(said)) else {
                panic!("{said:?}")
            };
            assert_eq!((codes(&Answer::Each(of_each)), of_all.code()), (said.to_vec(), all));
        }
    }

    #[test]
    fn no_for_good_is_worse_than_no_for_now() {
        for (said, expected) in
            [(&[250, 251][..], None), (&[250, 452, 250], Some(452)), (&[452, 550, 451], Some(550))]
        {
            assert_eq!(worst(super::replies(&each(said))).map(Reply::code), expected, "{said:?}");
        }
    }
}
