//! What several servers want.

use ocp_proto::smtp::CommandProfile;

/// What any of them wants; `None` if there are none. Events are only watched if nobody who wants them
/// does more. What concerns the octets of a body is between us and each server.
pub(super) fn union<'a>(
    profiles: impl Iterator<Item = &'a CommandProfile> + Clone,
) -> Option<CommandProfile> {
    let all = profiles.clone();
    all.map(|profile| profile.on_failure.unwrap_or_default()).max().map(|on_failure| {
        let mut union =
            CommandProfile { on_failure: Some(on_failure), ..CommandProfile::default() };
        for profile in profiles.clone() {
            add(&mut union.commands, &profile.commands);
            add(&mut union.side_effects, &profile.side_effects);
            union.multiple_messages |= profile.multiple_messages;
            union.recipient_replies |= profile.recipient_replies;
        }
        let watches = |command: &_| {
            let mut wanting = profiles.clone().filter(|known| known.commands.contains(command));
            wanting.all(|known| known.observed.contains(command))
        };
        union.observed =
            union.commands.iter().filter(|command| watches(command)).cloned().collect();
        union
    })
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
    use ocp_proto::smtp::Command::{Connect, Mail, Message, Quit};
    use ocp_proto::smtp::FailurePolicy;

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
        assert_eq!(union([&first, &second].into_iter()), Some(both));
        let on_failure = union([&first].into_iter()).and_then(|profile| profile.on_failure);
        assert_eq!(on_failure, Some(FailurePolicy::Accept));
        assert_eq!(union([].into_iter()), None);
    }
}
