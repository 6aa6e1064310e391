//! What several servers want.

use ocp_proto::smtp::{Command, CommandProfile, Profile, ReplyProfile};

/// What any of them wants; `None` if there are none. All are of the kind of the first: that was offered to
/// each of them. Events are only watched if nobody who wants them does more. Of a body, as much is wanted as
/// whoever wants most of it; when it comes is between us and each server.
pub(super) fn union<'a>(profiles: impl Iterator<Item = &'a Profile> + Clone) -> Option<Profile> {
    let first = profiles.clone().next()?;
    let policies = profiles.clone().map(|profile| profile.on_failure().unwrap_or_default());
    let on_failure = policies.max();
    let (mut commands, mut side_effects) = (Vec::new(), Vec::new());
    for profile in profiles.clone() {
        add(&mut commands, profile.commands());
        add(&mut side_effects, profile.side_effects());
    }
    let watches = |command: &&Command| {
        let mut wanting = profiles.clone().filter(|known| known.commands().contains(command));
        wanting.all(|known| known.observed().contains(command))
    };
    let observed = commands.iter().filter(watches).cloned().collect();
    Some(match first {
        Profile::Command(_) => {
            let mut all = profiles.filter_map(Profile::as_command);
            let mut messages = all.clone().filter(|one| one.commands.contains(&Command::Message));
            let leaves = messages.try_fold(None, |most, one| {
                one.leave_at_body.map(|at| Some(at.max(most.unwrap_or_default())))
            });
            Profile::Command(CommandProfile {
                multiple_messages: all.clone().any(|profile| profile.multiple_messages),
                recipient_replies: all.any(|profile| profile.recipient_replies),
                leave_at_body: leaves.flatten(),
                commands,
                observed,
                side_effects,
                on_failure,
                ..CommandProfile::default()
            })
        }
        Profile::Reply(_) => {
            let mut auxiliary_parts = Vec::new();
            for profile in profiles.filter_map(Profile::as_reply) {
                add(&mut auxiliary_parts, &profile.auxiliary_parts);
            }
            Profile::Reply(ReplyProfile {
                commands,
                auxiliary_parts,
                observed,
                side_effects,
                on_failure,
            })
        }
    })
}

/// An offer as what a server wants of it that has not said so.
pub(super) fn without_policy(offer: &Profile) -> Profile {
    match offer.clone() {
        Profile::Command(profile) => {
            Profile::Command(CommandProfile { on_failure: None, ..profile })
        }
        Profile::Reply(profile) => Profile::Reply(ReplyProfile { on_failure: None, ..profile }),
    }
}

fn add<T: Clone + PartialEq>(all: &mut Vec<T>, more: &[T]) {
    for one in more {
        if !all.contains(one) {
            all.push(one.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use ocp_proto::smtp::Command::{Connect, Mail, Message, Quit, Rcpt};
    use ocp_proto::smtp::{EffectName, FailurePolicy, Part};

    use super::*;

    #[test]
    fn what_any_server_wants_is_wanted() {
        let first = CommandProfile {
            commands: vec![Mail, Message, Quit],
            observed: vec![Quit, Message],
            on_failure: Some(FailurePolicy::Accept),
            leave_at_body: Some(0),
            ..CommandProfile::default()
        };
        let second = CommandProfile {
            commands: vec![Connect, Message],
            recipient_replies: true,
            ..CommandProfile::default()
        };
        let both = CommandProfile {
            commands: vec![Mail, Message, Quit, Connect],
            observed: vec![Quit],
            recipient_replies: true,
            on_failure: Some(FailurePolicy::Tempfail),
            ..CommandProfile::default()
        };
        let (first, second) = (Profile::Command(first), Profile::Command(second));
        assert_eq!(union([&first, &second].into_iter()), Some(both.into()));
        let on_failure = union([&first].into_iter()).and_then(|profile| profile.on_failure());
        assert_eq!(on_failure, Some(FailurePolicy::Accept));
        assert_eq!(union([].into_iter()), None);
    }

    #[test]
    fn as_much_of_a_body_is_wanted_as_any_server_wants() {
        let wants = |commands: &[Command], leave_at_body| {
            let commands = commands.to_vec();
            Profile::Command(CommandProfile {
                commands,
                leave_at_body,
                ..CommandProfile::default()
            })
        };
        let (all, mail) = (wants(&[Message], None), wants(&[Mail], None));
        let (nothing, some) = (wants(&[Message], Some(0)), wants(&[Message, Mail], Some(9)));
        for (servers, expected) in [
            (&[&nothing][..], Some(0)),
            (&[&some, &nothing], Some(9)),
            (&[&some, &all, &nothing], None),
            (&[&mail, &nothing], Some(0)),
            (&[&mail], None),
        ] {
            let known = union(servers.iter().copied());
            let leaves = known.as_ref().and_then(Profile::as_command).unwrap().leave_at_body;
            assert_eq!(leaves, expected, "{servers:?}");
        }
    }

    #[test]
    fn what_any_server_wants_of_replies_is_wanted() {
        let first = ReplyProfile {
            commands: vec![Rcpt, Quit],
            observed: vec![Quit],
            side_effects: vec![EffectName::RetryCommand],
            on_failure: Some(FailurePolicy::Accept),
            ..ReplyProfile::default()
        };
        let second = ReplyProfile {
            commands: vec![Rcpt],
            auxiliary_parts: vec![Part::Command],
            observed: vec![Rcpt],
            side_effects: vec![EffectName::Disconnect],
            on_failure: Some(FailurePolicy::Reject),
        };
        let both = ReplyProfile {
            commands: vec![Rcpt, Quit],
            auxiliary_parts: vec![Part::Command],
            observed: vec![Quit],
            side_effects: vec![EffectName::RetryCommand, EffectName::Disconnect],
            on_failure: Some(FailurePolicy::Reject),
        };
        let (first, second) = (Profile::Reply(first), Profile::Reply(second));
        assert_eq!(union([&first, &second].into_iter()), Some(both.into()));
    }
}
