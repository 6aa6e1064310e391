//! What happens to mail that is not just clean, and how people hear of it.

use ocp_proto::smtp::{EffectName, Reply, SideEffect};
use serde::Deserialize;

use super::tag::Tag;
use crate::mail::Edits;
use crate::outcome::{Change, Finding, Outcome};
use crate::service::{Request, ServiceError};

/// What happens to mail that is not just clean. In the order of strictness: of several that concern a mail, the last one
/// counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Policy {
    /// It passes.
    Accept,
    /// It passes with a mark (`tag`).
    Tag,
    /// The MTA keeps it for review; rejected where it can't.
    Quarantine,
    /// The sender shall try again later.
    Tempfail,
    /// The MTA takes it and drops it, and nobody hears of it; rejected where it can't.
    Discard,
    /// It is refused.
    Reject,
}

/// The side effects that some of these policies ask for.
pub(crate) fn effects(policies: &[Policy]) -> Vec<EffectName> {
    let effects =
        [(Policy::Quarantine, EffectName::Quarantine), (Policy::Discard, EffectName::Discard)];
    effects.iter().filter(|(one, _)| policies.contains(one)).map(|(_, effect)| *effect).collect()
}

/// What a policy makes of a mail.
pub(crate) fn applied(
    request: &Request,
    policy: Policy,
    tag: &Tag,
    verdict: &'static str,
    reason: &str,
    text: &str,
) -> Result<Outcome, ServiceError> {
    let reason = printable(reason);
    let finding = Finding::new(verdict).with_reason(reason.clone());
    let refused = |code, enhanced| -> Result<Outcome, ServiceError> {
        let reply = Reply::new(code, enhanced, &reply_text(text));
        let reply = reply.map_err(|error| ServiceError::new("reply", error))?;
        Ok(Outcome::changed(Change::Reply(reply), verdict))
    };
    let outcome = match policy {
        Policy::Accept => Outcome::unchanged(finding.clone()),
        Policy::Tag => match request.mail() {
            Some(mail) => {
                let mut edits = Edits::new();
                tag.mark(mail, verdict, &reason, &mut edits);
                Outcome::changed(Change::Content(edits), verdict)
            }
            None => Outcome::unchanged(finding.clone()),
        },
        Policy::Discard if request.may(EffectName::Discard) => {
            let reason = format!("{verdict}: {reason}").into();
            Outcome::unchanged(finding.clone()).with_effect(SideEffect::Discard(reason))
        }
        Policy::Quarantine if request.may(EffectName::Quarantine) => {
            let reason = format!("{verdict}: {reason}").into();
            Outcome::unchanged(finding.clone()).with_effect(SideEffect::Quarantine(reason))
        }
        Policy::Tempfail => refused(451, "4.7.1")?,
        Policy::Quarantine | Policy::Discard | Policy::Reject => refused(554, "5.7.1")?,
    };
    Ok(outcome.with_finding(finding))
}

/// The longest reason; a bound of ours, below those of traces and side effects.
const LONGEST_REASON: usize = 800;

/// Text for logs and traces: no control characters, not too long.
pub(crate) fn printable(text: &str) -> String {
    let mut printable = String::new();
    for character in text.chars().map(|c| if c.is_control() { '?' } else { c }) {
        if printable.len() + character.len_utf8() > LONGEST_REASON {
            break;
        }
        printable.push(character);
    }
    printable
}

/// Text for a line of a reply, which is ASCII and has 512 octets with all else.
fn reply_text(text: &str) -> String {
    let shown = text.chars().map(|c| if c == ' ' || c.is_ascii_graphic() { c } else { '?' });
    shown.take(400).collect()
}

/// Fills in a template in one pass, so that what is filled in is never a template itself, nor a
/// delimiter line (RFC 2046 section 5.1.1).
pub(crate) fn fill(template: &str, values: &[(&str, &str)]) -> String {
    let mut text = String::new();
    let mut rest = template;
    while let Some(brace) = rest.find('{') {
        let (before, after) = rest.split_at(brace);
        text.push_str(before);
        match values.iter().find_map(|(key, value)| Some((after.strip_prefix(key)?, value))) {
            Some((behind, value)) => {
                text.push_str(printable(value).trim_start_matches('-'));
                rest = behind;
            }
            None => {
                text.push('{');
                rest = after.get(1..).unwrap_or_default();
            }
        }
    }
    text.push_str(rest);
    text
}
