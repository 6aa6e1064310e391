//! Recipients that differ: a chain forks where a service is for some of them only or treats them differently, and joins
//! again where the results are the same (profile section 5).

use std::collections::BTreeMap;
use std::sync::Arc;

use ocp_proto::smtp::{Address, EffectName, Reply, SideEffect};
use services::mail::Mail;
use services::{Commitment, Input};

use crate::chain::Adapted;

/// What becomes of an event, for some recipients or for all of them.
#[derive(Clone, Debug)]
pub(crate) struct Branch {
    /// Whom it is for; empty if the event names no recipients.
    pub(crate) recipients: Vec<Address>,
    /// What becomes of the octets.
    pub(crate) adapted: Adapted,
    /// What the MTA should do besides, in this order.
    pub(crate) effects: Vec<SideEffect>,
    /// The octets as the services so far made them.
    pub(crate) input: Input,
    /// What services keep only if it goes on.
    pub(crate) commitments: Vec<Commitment>,
}

/// What an answer can say of several recipients.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Abilities {
    /// Several adapted messages were negotiated.
    pub(crate) variants: bool,
    /// A reply for each recipient was negotiated.
    pub(crate) replies: bool,
    /// What happens if some recipients are refused and there is one reply for all.
    pub(crate) fallback: Fallback,
}

/// What happens to a message that some recipients' services refuse, if the processor has one reply
/// for all of them (profile section 5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fallback {
    /// All are refused.
    #[default]
    Reject,
    /// The sender tries again later, for all.
    Tempfail,
    /// Those recipients' copies are quarantined if the processor can; else all are refused.
    Quarantine,
}

impl Branch {
    /// An event as it came.
    pub(crate) fn new(recipients: Vec<Address>, input: Input) -> Self {
        let (effects, commitments) = (Vec::new(), Vec::new());
        Self { recipients, adapted: Adapted::Unchanged, effects, input, commitments }
    }

    /// Whether nobody gets it: a reply stands in its place, or it is thrown away.
    pub(crate) fn reaches_nobody(&self) -> bool {
        self.has_ended() || self.effects.iter().any(|effect| effect.name() == EffectName::Discard)
    }

    /// Whether a reply has ended it.
    pub(crate) fn has_ended(&self) -> bool {
        matches!(self.adapted, Adapted::Reply(_))
    }

    fn is_same(&self, other: &Self) -> bool {
        let adapted = match (&self.adapted, &other.adapted) {
            (Adapted::Unchanged, Adapted::Unchanged) => true,
            (Adapted::Command(a), Adapted::Command(b)) => a == b,
            (Adapted::Content(a), Adapted::Content(b)) => same_mail(a, b),
            (Adapted::Reply(a), Adapted::Reply(b)) => a == b,
            (Adapted::OtherReply(a), Adapted::OtherReply(b)) => a == b,
            _ => false,
        };
        adapted && self.effects == other.effects
    }
}

fn same_mail(a: &Arc<Mail>, b: &Arc<Mail>) -> bool {
    Arc::ptr_eq(a, b) || a.version() == b.version()
}

/// Forks each open branch into recipients who are not the same, in the order of what tells them apart.
pub(crate) fn fork<K: Ord>(branches: &mut Vec<Branch>, of: impl Fn(&Address) -> K) {
    let mut forked = Vec::with_capacity(branches.len() + 1);
    for mut branch in branches.drain(..) {
        if branch.has_ended() || branch.recipients.is_empty() {
            forked.push(branch);
            continue;
        }
        let mut groups: BTreeMap<K, Vec<Address>> = BTreeMap::new();
        for recipient in branch.recipients.drain(..) {
            groups.entry(of(&recipient)).or_default().push(recipient);
        }
        let each = groups.into_values();
        forked.extend(each.map(|recipients| Branch { recipients, ..branch.clone() }));
    }
    *branches = forked;
}

/// Joins branches with the same result, so that there is one adaptation for each distinct one.
pub(crate) fn join(branches: &mut Vec<Branch>) {
    let mut joined: Vec<Branch> = Vec::with_capacity(branches.len());
    for branch in branches.drain(..) {
        match joined.iter_mut().find(|known| known.is_same(&branch)) {
            Some(known) => {
                known.recipients.extend(branch.recipients);
                known.commitments.extend(branch.commitments);
            }
            None => joined.push(branch),
        }
    }
    *branches = joined;
}

/// Makes the branches something that the answer can say.
pub(crate) fn settle(branches: &mut Vec<Branch>, abilities: Abilities, granted: &[EffectName]) {
    let refused = branches.iter().filter(|branch| branch.has_ended()).count();
    if abilities.replies || branches.len() < 2 || refused == 0 {
        return;
    }
    let quarantines = abilities.fallback == Fallback::Quarantine
        && refused < branches.len()
        && abilities.variants
        && granted.contains(&EffectName::Quarantine);
    if quarantines {
        for branch in branches.iter_mut() {
            if let Adapted::Reply(reply) = &branch.adapted {
                let reason = reply.to_string().into();
                branch.effects = vec![SideEffect::Quarantine(reason)];
                branch.adapted = match &branch.input {
                    Input::Content(mail) if !mail.version().is_original() => {
                        Adapted::Content(mail.clone())
                    }
                    _ => Adapted::Unchanged,
                };
            }
        }
        return;
    }
    let replies = branches.iter().filter_map(|branch| match &branch.adapted {
        Adapted::Reply(reply) => Some(reply),
        _ => None,
    });
    let tempfails = abilities.fallback == Fallback::Tempfail && refused < branches.len();
    let reply = match tempfails {
        true => Reply::new(451, "4.7.1", "Recipients differ, send to each of them alone").ok(),
        // A refusal for good goes before one for now.
        false => replies.clone().find(|reply| reply.is_permanent()).cloned(),
    };
    let reply = reply.or_else(|| replies.clone().next().cloned());
    let recipients = branches.iter().flat_map(|branch| branch.recipients.clone()).collect();
    if let Some(reply) = reply {
        let whole = Branch::new(recipients, Input::Nothing);
        *branches = vec![Branch { adapted: Adapted::Reply(reply), ..whole }];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(path: &'static str) -> Address {
        Address::new(path).unwrap()
    }

    fn paths(branches: &[Branch]) -> Vec<Vec<String>> {
        let paths = |branch: &Branch| branch.recipients.iter().map(ToString::to_string).collect();
        branches.iter().map(paths).collect()
    }

    fn three() -> Vec<Branch> {
        let recipients = vec![address("<a@x>"), address("<b@y>"), address("<c@x>")];
        vec![Branch::new(recipients, Input::Nothing)]
    }

    fn at_x(address: &Address) -> bool {
        address.path().ends_with(b"@x>")
    }

    fn refuse(branch: &mut Branch, code: u16) {
        branch.adapted = Adapted::Reply(Reply::new(code, "", "no").unwrap());
    }

    #[test]
    fn what_forks_joins_again_if_nothing_differs() {
        let mut branches = three();
        fork(&mut branches, at_x);
        assert_eq!(paths(&branches), [vec!["<b@y>"], vec!["<a@x>", "<c@x>"]]);
        join(&mut branches);
        assert_eq!(paths(&branches), [vec!["<b@y>", "<a@x>", "<c@x>"]]);
        fork(&mut branches, |_| true);
        assert_eq!(branches.len(), 1);
    }

    #[test]
    fn a_branch_that_has_ended_does_not_fork() {
        let mut branches = three();
        refuse(&mut branches[0], 550);
        fork(&mut branches, at_x);
        assert_eq!(branches.len(), 1);
    }

    #[test]
    fn some_refused_with_one_reply_for_all() {
        let forked = |codes: [u16; 2]| {
            let mut branches = three();
            fork(&mut branches, at_x);
            for (branch, code) in branches.iter_mut().zip(codes) {
                if code > 0 {
                    refuse(branch, code);
                }
            }
            branches
        };
        let settled = |codes, fallback, granted: &[EffectName]| {
            let mut branches = forked(codes);
            let abilities = Abilities { variants: true, replies: false, fallback };
            settle(&mut branches, abilities, granted);
            branches
        };
        let reply = |branches: &[Branch]| match &branches[0].adapted {
            Adapted::Reply(reply) => reply.code(),
            other => panic!("{other:?}"),
        };
        let refused = settled([0, 550], Fallback::Reject, &[]);
        assert_eq!((refused.len(), reply(&refused)), (1, 550));
        assert_eq!(refused[0].recipients.len(), 3);
        assert_eq!(reply(&settled([451, 550], Fallback::Reject, &[])), 550);
        assert_eq!(reply(&settled([0, 550], Fallback::Tempfail, &[])), 451);
        assert_eq!(reply(&settled([550, 554], Fallback::Tempfail, &[])), 550);
        assert_eq!(reply(&settled([0, 550], Fallback::Quarantine, &[])), 550);
        let kept = settled([0, 550], Fallback::Quarantine, &[EffectName::Quarantine]);
        assert_eq!(paths(&kept), [vec!["<b@y>"], vec!["<a@x>", "<c@x>"]]);
        assert_eq!(kept[1].effects, [SideEffect::Quarantine("550 no".into())]);
        assert!(kept[0].effects.is_empty() && !kept[1].has_ended());

        let mut both = forked([0, 550]);
        settle(&mut both, Abilities { replies: true, ..Abilities::default() }, &[]);
        assert_eq!(both.len(), 2);
    }
}
