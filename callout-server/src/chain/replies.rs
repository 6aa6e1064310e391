//! Replies in the answers of services: those instead of an event, those in the place of another reply,
//! and those where a service failed.

use ocp_proto::smtp::{Command, EffectName, FailurePolicy, Reply, SideEffect, may_replace};
use services::{Change, Input, Request};

use super::Adapted;
use crate::branch::Branch;

/// Takes over what a service answered to a reply, if that may stand for the next hop's, together with
/// what the services before it asked for.
pub(super) fn replace(
    change: Change,
    effects: Vec<SideEffect>,
    request: &Request,
    original: &Reply,
    branch: &mut Branch,
) -> Result<(), String> {
    let Input::Reply { reply: current, .. } = &mut branch.input else {
        return Err("the event is no reply".to_owned());
    };
    let reply = match change {
        Change::None => None,
        Change::Reply(reply) => Some(reply),
        Change::Command(_) | Change::Content(_) => {
            return Err("a reply becomes nothing but a reply".to_owned());
        }
    };
    let all = [&branch.effects[..], &effects].concat();
    let adapted = reply.as_ref().unwrap_or(current);
    may_replace(&request.command, original, adapted, &all).map_err(|error| error.to_string())?;
    if let Some(reply) = reply {
        // No later service weakens a rejection.
        branch.adapted = match original.is_success() && !reply.is_success() {
            true => Adapted::Reply(reply.clone()),
            false => Adapted::OtherReply(reply.clone()),
        };
        *current = reply;
    }
    branch.effects = all;
    Ok(())
}

/// Whether this reply may stand instead of executing the command (profile section 4).
pub(super) fn may_reply(command: &Command, reply: &Reply, effects: &[SideEffect]) -> bool {
    match command {
        Command::StartTls => !reply.is_success(),
        Command::Message if reply.is_success() => effects.iter().any(|effect| {
            use EffectName::{Discard, Hold, Quarantine};
            matches!(effect.name(), Discard | Hold | Quarantine)
        }),
        Command::Mail | Command::Rcpt | Command::Data | Command::Message => {
            reply.is_temporary() || reply.is_permanent()
        }
        _ => !matches!(reply.code(), 334 | 354),
    }
}

/// Whether an SMTP client can be told that this failed, so that it tries again or gives up.
pub(super) fn refusable(command: &Command) -> bool {
    !matches!(command, Command::Rset | Command::Noop | Command::Quit | Command::StartTls)
}

/// What the peer gets when a service failed (RFC 3463 section 3.4: X.3.0, "other mail system
/// status").
pub(super) fn failure_reply(policy: FailurePolicy, command: &Command) -> Option<Reply> {
    let (code, enhanced, text) = match (policy, command) {
        (FailurePolicy::Accept, _) => return None,
        // RFC 5321 section 3.1: a server that refuses the session says 421 or 554.
        (FailurePolicy::Tempfail, Command::Connect | Command::Greeting | Command::Helo) => {
            (421, "4.3.0", "Mail inspection is not available now, try again later")
        }
        (FailurePolicy::Tempfail, _) => {
            (451, "4.3.0", "Mail inspection is not available now, try again later")
        }
        (FailurePolicy::Reject, _) => (554, "5.3.0", "Mail inspection failed, mail refused"),
    };
    Reply::new(code, enhanced, text).ok()
}

#[cfg(test)]
mod tests;
