//! A reply for each recipient (LMTP, RFC 2033 section 4.2): whom the next hop has answered for, and whom the
//! client has named.

use ocp_proto::smtp::{Address, Reply};

use super::replies;
use crate::relay::Answer;

/// What the client's recipients get of what those of the envelope in force got.
///
/// One that services have deleted is taken and goes nowhere, as what is discarded does. But those who were
/// added may stand in its place: if one of them was refused, it is told so, lest nobody gets the message.
pub(super) fn for_client(answer: Answer, known: &[Address], in_force: &[Address]) -> Answer {
    if known == in_force || !matches!(answer, Answer::Each(_)) {
        return answer;
    }
    let deleted = worst(added(&answer, known, in_force).map(|(_, reply)| reply));
    let deleted = deleted.cloned().unwrap_or_else(replies::taken);
    let reply = |recipient| match position(in_force, recipient) {
        Some(at) => answer.of(at).cloned().unwrap_or_else(replies::no_sense),
        None => deleted.clone(),
    };
    Answer::Each(known.iter().map(reply).collect())
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
    use super::*;

    fn addresses(names: &str) -> Vec<Address> {
        let address = |name: &str| Address::new(format!("<{name}@b.example>")).unwrap();
        names.split_whitespace().map(address).collect()
    }

    fn each(codes: &[u16]) -> Answer {
        let reply = |code: &u16| Reply::parse(format!("{code} x\r\n")).unwrap();
        Answer::Each(codes.iter().map(reply).collect())
    }

    fn codes(answer: &Answer) -> Vec<u16> {
        replies(answer).iter().map(Reply::code).collect()
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
            let (known, in_force) = (addresses(known), addresses(in_force));
            let answer = for_client(each(said), &known, &in_force);
            assert_eq!(codes(&answer), told, "{known:?} {in_force:?} {said:?}");
        }
        let one = Answer::One(replies::taken());
        assert_eq!(for_client(one.clone(), &addresses("a"), &addresses("b")), one);
    }

    #[test]
    fn no_for_good_is_worse_than_no_for_now() {
        for (said, expected) in
            [(&[250, 251][..], None), (&[250, 452, 250], Some(452)), (&[452, 550, 451], Some(550))]
        {
            assert_eq!(worst(replies(&each(said))).map(Reply::code), expected, "{said:?}");
        }
    }
}
