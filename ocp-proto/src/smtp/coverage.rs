//! Whether several adapted messages leave nobody out (profile section 5).

use std::collections::HashSet;

use super::address::Address;
use super::effect::SideEffect;
use crate::message::{AdaptedEnd, AdaptedRole, AdaptedStart};

/// The recipients of the envelope that no variant, no reply and no deletion covers. If there are
/// any, the transaction has failed: the application checks it at the end of the transaction, since
/// only it knows the envelope. `messages` are the transaction's adapted messages; a variant or a reply that
/// names nobody covers all.
///
/// ```
/// use ocp_proto::smtp::{Address, uncovered};
/// use ocp_proto::{AdaptedEnd, AdaptedRole, AdaptedStart};
///
/// let address = |path: &'static str| Address::new(path).unwrap();
/// let envelope = [address("<a@example.org>"), address("<b@example.org>")];
/// let variant = AdaptedStart {
///     role: Some(AdaptedRole::Variant),
///     recipients: vec![address("<a@example.org>")],
///     ..AdaptedStart::default()
/// };
/// let messages = [(variant, AdaptedEnd::default())];
/// assert_eq!(uncovered(&envelope, &messages), [&envelope[1]]);
/// ```
pub fn uncovered<'a>(
    envelope: &'a [Address],
    messages: &[(AdaptedStart, AdaptedEnd)],
) -> Vec<&'a Address> {
    let serves = |start: &AdaptedStart| start.role != Some(AdaptedRole::Notification);
    let everybody = |start: &AdaptedStart| serves(start) && start.recipients.is_empty();
    if messages.iter().any(|(start, _)| everybody(start)) {
        return Vec::new();
    }
    let named = messages.iter().filter(|(start, _)| serves(start));
    let named = named.flat_map(|(start, _)| start.recipients.iter().map(Address::path));
    let effects = messages.iter().flat_map(|(_, end)| &end.side_effects);
    let deleted = effects.filter_map(|effect| match effect {
        SideEffect::DeleteRecipient(address) => Some(address.path()),
        _ => None,
    });
    let covered: HashSet<_> = named.chain(deleted).collect();
    envelope.iter().filter(|address| !covered.contains(address.path())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(path: &'static str) -> Address {
        Address::new(path).unwrap()
    }

    fn message(role: AdaptedRole, recipients: Vec<Address>) -> (AdaptedStart, AdaptedEnd) {
        let start = AdaptedStart { role: Some(role), recipients, ..AdaptedStart::default() };
        (start, AdaptedEnd::default())
    }

    #[test]
    fn a_deletion_covers_and_a_notification_does_not() {
        let envelope = [address("<a@x>"), address("<b@x>"), address("<c@x>")];
        let mut reply = message(AdaptedRole::Reply, vec![address("<a@x>")]);
        reply.1.side_effects = vec![SideEffect::DeleteRecipient(address("<b@x>"))];
        let note = message(AdaptedRole::Notification, vec![address("<c@x>")]);
        assert_eq!(uncovered(&envelope, &[reply.clone(), note]), [&envelope[2]]);
        let rest = message(AdaptedRole::Variant, Vec::new());
        assert!(uncovered(&envelope, &[reply, rest]).is_empty());
        let refusal = message(AdaptedRole::Reply, Vec::new());
        let note = message(AdaptedRole::Notification, vec![address("<c@x>")]);
        assert!(uncovered(&envelope, &[refusal, note]).is_empty());
    }
}
