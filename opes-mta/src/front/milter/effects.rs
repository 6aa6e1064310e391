//! Side effects as milter modifications.

use std::collections::HashSet;

use bytes::Bytes;
use ocp_proto::smtp::{Address, EffectName, SideEffect};

use super::Unfit;
use crate::milter::Modification;

/// The effects that a milter can carry out (profile section 6), all of them at the end of a message
/// only. Postfix and sendmail have one place each for what is kept back, so that a hold's queue becomes
/// the reason of a quarantine.
pub const CARRIED_OUT: &[EffectName] = &[
    EffectName::AddRecipient,
    EffectName::DeleteRecipient,
    EffectName::SetRecipients,
    EffectName::ChangeSender,
    EffectName::Quarantine,
    EffectName::Hold,
    EffectName::Discard,
];

/// What the MTA is to do besides editing the message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Effects {
    /// In the order in which they apply.
    pub modifications: Vec<Modification>,
    /// The message is accepted and dropped: `SMFIR_DISCARD` is the response then.
    pub discard: bool,
}

/// The effects of one envelope in their order; `accepted` are its recipients as they were given with
/// RCPT TO.
///
/// What counts is where they lead: recipients are added and deleted by the difference between those that
/// were accepted and those that are left, and the last sender is the sender. If nobody is left the
/// message is dropped, as an MTA does then without a word. What one service wants to have kept for
/// review is not dropped because another one wants that.
///
/// # Errors
/// If milter has no words for one of them.
pub fn effects(accepted: &[Address], effects: &[SideEffect]) -> Result<Effects, Unfit> {
    let mut recipients = accepted.to_vec();
    let mut sender = None;
    let mut kept = Vec::new();
    let mut discard = false;
    for effect in effects {
        match effect {
            SideEffect::AddRecipient(address) => recipients.push(address.clone()),
            SideEffect::DeleteRecipient(address) => {
                recipients.retain(|recipient| recipient.path() != address.path());
            }
            SideEffect::SetRecipients(addresses) => recipients.clone_from(addresses),
            SideEffect::ChangeSender(address) => sender = Some(address),
            SideEffect::Quarantine(reason) | SideEffect::Hold(reason) => {
                let effect = effect.name();
                if let Some(&octet) = reason.iter().find(|octet| octet.is_ascii_control()) {
                    return Err(Unfit::Reason { effect, octet });
                }
                // libmilter refuses a quarantine without a reason.
                let named = if reason.is_empty() { effect.name().into() } else { reason.clone() };
                kept.push(Modification::Quarantine(named.to_bytes()));
            }
            SideEffect::Discard(_) => discard = true,
            SideEffect::Delay { .. }
            | SideEffect::Route { .. }
            | SideEffect::RetryCommand { .. }
            | SideEffect::Disconnect => return Err(Unfit::Effect(effect.name())),
        }
    }
    let mut modifications: Vec<_> = sender.map(change_sender).transpose()?.into_iter().collect();
    // Added ones come first: there is no moment without recipients.
    for address in difference(&recipients, accepted) {
        modifications.push(add_recipient(address)?);
    }
    for address in difference(accepted, &recipients) {
        modifications.push(Modification::DeleteRecipient { address: address.path().to_bytes() });
    }
    discard = kept.is_empty() && (discard || recipients.is_empty());
    modifications.append(&mut kept);
    Ok(Effects { modifications, discard })
}

/// Those whose path is not among the others, each path once.
fn difference<'a>(
    addresses: &'a [Address],
    others: &'a [Address],
) -> impl Iterator<Item = &'a Address> {
    let mut seen: HashSet<&[u8]> = others.iter().map(|other| other.path().as_ref()).collect();
    addresses.iter().filter(move |address| seen.insert(address.path()))
}

fn add_recipient(address: &Address) -> Result<Modification, Unfit> {
    if address.is_null() {
        return Err(Unfit::NullRecipient);
    }
    let arguments = arguments(address, &[("NOTIFY=", is_notify), ("ORCPT=", is_original)])?;
    Ok(Modification::AddRecipient { address: address.path().to_bytes(), arguments })
}

fn change_sender(address: &Address) -> Result<Modification, Unfit> {
    let arguments = arguments(address, &[("RET=", is_return), ("ENVID=", is_xtext)])?;
    Ok(Modification::ChangeSender { address: address.path().to_bytes(), arguments })
}

/// The start of an ESMTP parameter, and whether the rest is a value of it.
type Keyword = (&'static str, fn(&[u8]) -> bool);

/// The ESMTP parameters, each of which is one of these and given once: Postfix passes over any other
/// (`cleanup_add_rcpt_par`, `cleanup_chg_from`).
fn arguments(address: &Address, known: &[Keyword]) -> Result<Option<Bytes>, Unfit> {
    let mut seen = Vec::new();
    for parameter in &address.parameters {
        let found = known.iter().position(|(keyword, is_value)| {
            let parts = parameter.split_at_checked(keyword.len());
            parts.is_some_and(|(start, value)| {
                start.eq_ignore_ascii_case(keyword.as_bytes()) && is_value(value)
            })
        });
        match found {
            Some(at) if !seen.contains(&at) => seen.push(at),
            _ => {
                let parameter = String::from_utf8_lossy(parameter).into_owned();
                return Err(Unfit::Parameter { address: address.clone(), parameter });
            }
        }
    }
    Ok((!seen.is_empty()).then(|| address.parameters.join(&b' ').into()))
}

/// RFC 3461 section 4.1.
fn is_notify(value: &[u8]) -> bool {
    let is = |word: &[u8], name: &str| word.eq_ignore_ascii_case(name.as_bytes());
    is(value, "NEVER")
        || value
            .split(|&octet| octet == b',')
            .all(|word| ["SUCCESS", "FAILURE", "DELAY"].iter().any(|name| is(word, name)))
}

/// RFC 3461 section 4.2.
fn is_original(value: &[u8]) -> bool {
    let mut parts = value.splitn(2, |&octet| octet == b';');
    let kind = parts.next().unwrap_or_default();
    !kind.is_empty() && kind.iter().all(u8::is_ascii_graphic) && parts.next().is_some_and(is_xtext)
}

/// RFC 3461 section 4.3.
fn is_return(value: &[u8]) -> bool {
    value.eq_ignore_ascii_case(b"FULL") || value.eq_ignore_ascii_case(b"HDRS")
}

/// RFC 3461 section 4: printable ASCII, in which `+` begins two hexadecimal digits. Encoded control
/// characters are refused here: Postfix passes over an ENVID with them.
fn is_xtext(value: &[u8]) -> bool {
    let mut rest = value;
    while let Some((&octet, after)) = rest.split_first() {
        rest = after;
        if octet == b'+' {
            let Some((digits, after)) = rest.split_at_checked(2) else { return false };
            let is_digit = |digit: &u8| digit.is_ascii_digit() || (b'A'..=b'F').contains(digit);
            if !digits.iter().all(is_digit) || matches!(digits, [b'0' | b'1', _] | b"7F") {
                return false;
            }
            rest = after;
        } else if !octet.is_ascii_graphic() || octet == b'=' {
            return false;
        }
    }
    !value.is_empty()
}

#[cfg(test)]
mod tests {
    use ocp_proto::smtp::CommandLine;

    use super::*;

    fn address(path: &str) -> Address {
        Address::new(format!("<{path}>")).unwrap()
    }

    fn with(path: &str, parameters: &[&str]) -> Address {
        let parameters = parameters.iter().map(|p| p.as_bytes().into());
        address(path).with_parameters(parameters.collect()).unwrap()
    }

    fn add(path: &'static str, arguments: Option<&'static str>) -> Modification {
        Modification::AddRecipient { address: path.into(), arguments: arguments.map(Into::into) }
    }

    fn delete(path: &'static str) -> Modification {
        Modification::DeleteRecipient { address: path.into() }
    }

    fn run(effects: &[SideEffect]) -> Result<(Vec<Modification>, bool), Unfit> {
        let accepted = [with("a@b", &["NOTIFY=NEVER"]), address("c@d")];
        let found = super::effects(&accepted, effects)?;
        Ok((found.modifications, found.discard))
    }

    #[test]
    fn recipients_are_the_difference() {
        use SideEffect::{AddRecipient, DeleteRecipient, SetRecipients};
        for (effects, expected) in [
            (vec![], vec![]),
            (vec![AddRecipient(address("e@f"))], vec![add("<e@f>", None)]),
            (vec![AddRecipient(address("a@b"))], vec![]),
            (
                vec![AddRecipient(address("e@f")), AddRecipient(address("e@f"))],
                vec![add("<e@f>", None)],
            ),
            (vec![DeleteRecipient(address("a@b"))], vec![delete("<a@b>")]),
            (vec![DeleteRecipient(address("A@b"))], vec![]),
            (vec![DeleteRecipient(address("a@b")), AddRecipient(address("a@b"))], vec![]),
            (vec![AddRecipient(address("e@f")), DeleteRecipient(address("e@f"))], vec![]),
            (
                vec![SetRecipients(vec![address("c@d"), address("e@f")])],
                vec![add("<e@f>", None), delete("<a@b>")],
            ),
            (
                vec![AddRecipient(with("e@f", &["notify=SUCCESS,DELAY", "ORCPT=rfc822;e+2Bg@f"]))],
                vec![add("<e@f>", Some("notify=SUCCESS,DELAY ORCPT=rfc822;e+2Bg@f"))],
            ),
        ] {
            assert_eq!(run(&effects), Ok((expected, false)), "{effects:?}");
        }
        assert_eq!(
            run(&[AddRecipient(Address::null())]),
            Err(Unfit::NullRecipient),
            "Postfix would pass it over"
        );
    }

    #[test]
    fn the_last_sender_is_the_sender() {
        let change = |address: Address| SideEffect::ChangeSender(address);
        let expected = Modification::ChangeSender { address: "<>".into(), arguments: None };
        let found = run(&[change(address("x@y")), change(Address::null())]);
        assert_eq!(found, Ok((vec![expected], false)));
        let expected = Modification::ChangeSender {
            address: "<x@y>".into(),
            arguments: Some("RET=HDRS ENVID=a+2Bb".into()),
        };
        let found = run(&[change(with("x@y", &["RET=HDRS", "ENVID=a+2Bb"]))]);
        assert_eq!(found, Ok((vec![expected], false)));
    }

    #[test]
    fn a_parameter_that_the_mta_drops_is_unfit() {
        for parameter in [
            "SIZE=1",
            "RET=ALL",
            "ENVID=",
            "ENVID=a+0Ab",
            "ENVID=a+",
            "ENVID=a=b",
            "RET",
            "NOTIFY=NEVER",
        ] {
            let address = with("x@y", &[parameter]);
            let found = run(&[SideEffect::ChangeSender(address.clone())]);
            assert_eq!(found, Err(Unfit::Parameter { address, parameter: parameter.to_owned() }));
        }
        for parameter in
            ["NOTIFY=", "NOTIFY=NEVER,DELAY", "ORCPT=x@y", "ORCPT=;x", "ORCPT=rfc822;", "RET=FULL"]
        {
            let address = with("x@y", &[parameter]);
            let found = run(&[SideEffect::AddRecipient(address.clone())]);
            assert_eq!(found, Err(Unfit::Parameter { address, parameter: parameter.to_owned() }));
        }
        let address = with("x@y", &["RET=FULL", "ret=HDRS"]);
        let parameter = "ret=HDRS".to_owned();
        let found = run(&[SideEffect::ChangeSender(address.clone())]);
        assert_eq!(found, Err(Unfit::Parameter { address, parameter }));
    }

    #[test]
    fn what_is_kept_is_not_dropped() {
        let quarantine = |reason: &'static str| SideEffect::Quarantine(reason.into());
        let kept = |reason: &'static str| Modification::Quarantine(reason.into());
        let discard = || SideEffect::Discard("spam".into());
        assert_eq!(run(&[quarantine("virus")]), Ok((vec![kept("virus")], false)));
        assert_eq!(run(&[SideEffect::Hold("".into())]), Ok((vec![kept("hold")], false)));
        assert_eq!(run(&[discard()]), Ok((vec![], true)));
        assert_eq!(run(&[discard(), quarantine("virus")]), Ok((vec![kept("virus")], false)));
        let nobody = SideEffect::SetRecipients(Vec::new());
        let found = run(std::slice::from_ref(&nobody));
        assert_eq!(found, Ok((vec![delete("<a@b>"), delete("<c@d>")], true)));
        let expected = vec![delete("<a@b>"), delete("<c@d>"), kept("x")];
        assert_eq!(run(&[quarantine("x"), nobody]), Ok((expected, false)));
        let effect = EffectName::Quarantine;
        assert_eq!(run(&[quarantine("a\nb")]), Err(Unfit::Reason { effect, octet: b'\n' }));
    }

    #[test]
    fn what_is_carried_out_is_what_is_offered() {
        let all = [
            SideEffect::AddRecipient(address("x@y")),
            SideEffect::DeleteRecipient(address("a@b")),
            SideEffect::SetRecipients(vec![address("a@b")]),
            SideEffect::ChangeSender(address("x@y")),
            SideEffect::Quarantine("x".into()),
            SideEffect::Hold("x".into()),
            SideEffect::Delay { seconds: 1, reason: "x".into() },
            SideEffect::Route { next_hop: "x:25".into(), recipients: Vec::new() },
            SideEffect::Discard("x".into()),
            SideEffect::RetryCommand { line: CommandLine::new("NOOP").unwrap(), next_hop: None },
            SideEffect::Disconnect,
        ];
        assert_eq!(all.len(), EffectName::ALL.len());
        for effect in all {
            let name = effect.name();
            let offered = CARRIED_OUT.contains(&name);
            let found = run(&[effect]);
            assert_eq!(found.is_ok(), offered, "{name}");
            assert!(offered || found == Err(Unfit::Effect(name)), "{name}");
        }
    }
}
