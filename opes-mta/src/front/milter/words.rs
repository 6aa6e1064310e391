//! Between milter's words and those of SMTP.

use super::mail::NoContent;
use super::message::excerpt;
use crate::consult::failure_reply;
use crate::event::{Content, Event, address_of};
use crate::milter::{self, Decision, Macros, Path};
use crate::record;
use bytes::Bytes;
use ocp_proto::smtp::{Address, CommandLine, Envelope, FailurePolicy, Reply};
use ocp_proto::wire::Atom;

/// The macros by name.
pub(super) fn pairs(macros: &Macros) -> impl Iterator<Item = (&[u8], &[u8])> {
    macros.values.iter().map(|(name, value)| (name.as_str(), &value[..]))
}

/// A command line as an event; `None` if it is none.
pub(super) fn command(
    verb: &str,
    rest: &[u8],
    arguments: &[Bytes],
    envelope: Envelope,
) -> Option<Event> {
    let mut line = [verb.as_bytes(), rest].concat();
    for argument in arguments {
        line.push(b' ');
        line.extend_from_slice(argument);
    }
    Event::command(CommandLine::new(line).ok()?, envelope)
}

/// MAIL or RCPT as an event, and its address.
pub(super) fn envelope_command(
    verb: &str,
    path: &Path,
    envelope: Envelope,
) -> Option<(Event, Address)> {
    let bare = path.address.first() != Some(&b'<');
    let address = match bare {
        true => [b"<", &path.address[..], b">"].concat().into(),
        false => path.address.clone(),
    };
    let event = command(verb, &address, &path.arguments, envelope)?;
    let Content::Line(line) = &event.content else { return None };
    let address = address_of(line).ok()?;
    Some((event, address))
}

/// What is new in an address that a service has rewritten: parameters that were there before stay with the
/// MTA. `None` if nothing is.
pub(super) fn rewritten(before: &Address, after: Address) -> Option<Address> {
    let new = after.parameters.iter().filter(|parameter| !before.parameters.contains(parameter));
    let new: Vec<Atom> = new.cloned().collect();
    if after.path() == before.path() && new.is_empty() {
        return None;
    }
    after.with_parameters(new).ok()
}

/// Whether a mail server takes two recipients for one: Postfix compares them without the quotes of the local part, in
/// any case. It would delete the one and pass over the other as one that it has had (`cleanup_out_recipient`).
pub(super) fn is_same_recipient(one: &Address, other: &Address) -> bool {
    let compared = |address: &Address| {
        let mut is_escaped = false;
        let mut path = address.path().to_ascii_lowercase();
        path.retain(|octet| {
            let is_quoting = !is_escaped && matches!(octet, b'"' | b'\\');
            is_escaped = is_quoting && *octet == b'\\';
            !is_quoting
        });
        path
    };
    compared(one) == compared(other)
}

/// What can't be shown to services can't be let pass unseen either.
pub(super) fn syntax(what: &str, found: &[u8]) -> Decision {
    tracing::warn!(stage = "milter", what, found = excerpt(found), "refused: it is no legal one");
    let text = format!("501 5.5.4 {what} is no legal one\r\n");
    Reply::parse(text).map_or(Decision::Reject, |reply| decision_of(&reply))
}

/// What there is no room for now may come again.
pub(super) fn no_room(cause: &NoContent) -> Decision {
    tracing::warn!(stage = "milter", %cause, "a recipient was put off");
    Reply::parse("452 4.3.1 Too much mail is under way, try again later\r\n")
        .map_or(Decision::Tempfail, |reply| decision_of(&reply))
}

/// What a failure comes to.
pub(super) fn failed(policy: FailurePolicy) -> Decision {
    failure_reply(policy).map_or(Decision::Continue, |reply| decision_of(&reply))
}

/// A reply in milter's words.
pub(super) fn decision_of(reply: &Reply) -> Decision {
    let lines = reply.lines().map(|line| Bytes::copy_from_slice(line.get(4..).unwrap_or_default()));
    match milter::Reply::new(reply.code(), lines.collect()) {
        Ok(reply) => Decision::Reply(reply),
        Err(_) if reply.is_success() => Decision::Continue,
        Err(_) if reply.is_temporary() => Decision::Tempfail,
        Err(_) => Decision::Reject,
    }
}

/// What the log calls it.
pub(super) fn decided(decision: &Decision) -> record::Decision {
    match decision {
        Decision::Continue => record::Decision::Accept,
        Decision::Discard => record::Decision::Discard,
        Decision::Tempfail => record::Decision::Tempfail,
        Decision::Reply(reply) if reply.code() < 500 => record::Decision::Tempfail,
        _ => record::Decision::Reject,
    }
}

/// What the client reads.
pub(super) fn reason(decision: &Decision) -> String {
    match decision {
        Decision::Reply(reply) => reply.to_string(),
        other => other.name().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_and_case_make_no_other_recipient() {
        let is_same = |one: &'static str, other: &'static str| {
            is_same_recipient(&Address::new(one).unwrap(), &Address::new(other).unwrap())
        };
        assert!(is_same("<\"a.b\"@c.example>", "<A.b@C.example>"));
        assert!(is_same("<\"a\\\"b\"@c>", "<\"a\\\"\\b\"@c>"));
        assert!(!is_same("<\"a\\\"b\"@c>", "<ab@c>"));
        assert!(!is_same("<a@c>", "<b@c>"));
    }
}
