//! Our types as the plugin protocol's, and back.

use ocp_proto::smtp::{Address, Command, CommandLine, DialogFacts, Reply, SideEffect};
use ocp_proto::wire::Atom;
use services::mail::Edits;
use services::{Change, Finding, Input, Outcome, Request, mechanism_only};

use super::proto;
use super::proto::effect::Effect as Which;
use super::proto::outcome::Change as Changed;

/// An answer that says nothing that we could do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}: {cause}")]
pub(super) struct InvalidAnswer {
    what: &'static str,
    cause: String,
}

/// The longest reason, queue name or next hop, in octets; as on OCP's side.
const LONGEST_TEXT: usize = 1_024;
/// The longest verdict and score.
const LONGEST_WORD: usize = 64;
/// The most parameters of a service that are passed on, and of an address in an answer.
const MOST_PARAMETERS: usize = 64;

/// An event without the octets of its body.
pub(super) fn event(request: &Request) -> proto::Event {
    let Request { dialog, command, input, envelope, parameters, granted, .. } = request;
    let (mut line, mut header, mut body_octets) = (None, None, None);
    match input {
        // A processor leaves initial responses out (profile section 4); what one does not is not passed on.
        Input::Line(octets) if *command == Command::Auth => {
            line = Some(mechanism_only(octets.as_bytes()).into());
        }
        Input::Line(octets) => line = Some(octets.as_bytes().clone()),
        Input::Content(mail) => {
            header = Some(mail.header().clone());
            body_octets = mail.whole_len().map(|octets| (octets - mail.header().len()) as u64);
        }
        Input::Nothing | Input::Reply { .. } => {}
    }
    let known = parameters.named.iter().take(MOST_PARAMETERS);
    let parameters =
        known.filter_map(|(name, value)| Some((name.to_string(), text(value.as_atom()?))));
    proto::Event {
        name: command.name().to_owned(),
        dialog: Some(facts(dialog)),
        sender: envelope.sender.as_ref().map(with_parameters),
        recipients: envelope.recipients.iter().map(with_parameters).collect(),
        line,
        header,
        body_octets,
        parameters: parameters.collect(),
        effects: granted.iter().map(|effect| effect.name().to_owned()).collect(),
    }
}

fn facts(facts: &DialogFacts) -> proto::Dialog {
    let known = |fact: &Option<Atom>| fact.as_ref().map(|fact| text(fact)).unwrap_or_default();
    proto::Dialog {
        activation: facts.activation.name().to_owned(),
        protocol: known(&facts.protocol),
        client_address: known(&facts.client_address),
        client_port: known(&facts.client_port),
        client_name: known(&facts.client_name),
        server_address: known(&facts.server_address),
        server_port: known(&facts.server_port),
        server_name: known(&facts.server_name),
        helo: known(&facts.helo),
        tls_version: facts.tls.as_ref().map(|tls| text(&tls.protocol)).unwrap_or_default(),
        tls_cipher: facts.tls.as_ref().map(|tls| text(&tls.cipher)).unwrap_or_default(),
        user: facts.auth.as_ref().map(|auth| text(&auth.identity)).unwrap_or_default(),
        queue_id: known(&facts.queue_id),
    }
}

/// A path and its ESMTP parameters, as behind `RCPT TO:`.
fn with_parameters(address: &Address) -> String {
    let words: Vec<_> =
        std::iter::once(address.path()).chain(&address.parameters).map(|word| text(word)).collect();
    words.join(" ")
}

fn text(octets: &[u8]) -> String {
    String::from_utf8_lossy(octets).into_owned()
}

/// What the plugin answered.
///
/// # Errors
/// The first thing in it that is none.
pub(super) fn outcome(answer: proto::Outcome) -> Result<Outcome, InvalidAnswer> {
    let proto::Outcome { verdict, score, reason, change, effects, envelope_done } = answer;
    let mut finding = Finding::new(word("verdict", verdict)?);
    if finding.verdict.is_empty() {
        finding.verdict = "none".into();
    }
    if !score.is_empty() {
        finding = finding.with_score(word("score", score)?);
    }
    if !reason.is_empty() {
        finding = finding.with_reason(printable("reason", reason)?);
    }
    let change = match change {
        None => Change::None,
        Some(Changed::Line(line)) => {
            Change::Command(CommandLine::new(line).map_err(|error| invalid("line", error))?)
        }
        Some(Changed::Reply(reply)) => Change::Reply(self::reply(&reply)?),
        Some(Changed::Edits(edits)) => Change::Content(self::edits(edits)?),
    };
    let effects = effects.into_iter().map(effect).collect::<Result<_, _>>()?;
    Ok(Outcome { change, effects, envelope_done, ..Outcome::unchanged(finding) })
}

fn reply(reply: &proto::Reply) -> Result<Reply, InvalidAnswer> {
    let code = u16::try_from(reply.code).map_err(|error| invalid("reply", error))?;
    let is_one_line =
        !reply.text.contains(['\r', '\n']) && !reply.status.contains(['\r', '\n', ' ']);
    if !is_one_line {
        return Err(invalid("reply", "a status and a text are one line without CR and LF"));
    }
    Reply::new(code, &reply.status, &reply.text).map_err(|error| invalid("reply", error))
}

fn edits(edits: proto::Edits) -> Result<Edits, InvalidAnswer> {
    let mut all = Edits::new();
    for proto::Edit { start, end, octets } in edits.edits {
        let (Ok(from), Ok(to)) = (usize::try_from(start), usize::try_from(end)) else {
            return Err(invalid("edit", format!("octets {start} to {end}, which no message has")));
        };
        if from > to {
            return Err(invalid(
                "edit",
                format!("it starts at octet {from} and ends before, at {to}"),
            ));
        }
        if from == to {
            all.insert(from, octets);
        } else {
            all.replace(from..to, octets);
        }
    }
    Ok(all)
}

fn effect(effect: proto::Effect) -> Result<SideEffect, InvalidAnswer> {
    Ok(
        match effect
            .effect
            .ok_or_else(|| invalid("effect", "none, or one that this version does not know"))?
        {
            Which::AddRecipient(path) => SideEffect::AddRecipient(address("add_recipient", path)?),
            Which::DeleteRecipient(path) => {
                SideEffect::DeleteRecipient(address("delete_recipient", path)?)
            }
            Which::SetRecipients(paths) => {
                SideEffect::SetRecipients(addresses("set_recipients", paths.recipients)?)
            }
            Which::ChangeSender(path) => SideEffect::ChangeSender(address("change_sender", path)?),
            Which::Quarantine(reason) => SideEffect::Quarantine(atom("quarantine", reason)?),
            Which::Hold(queue) => SideEffect::Hold(atom("hold", queue)?),
            Which::Delay(delay) => {
                SideEffect::Delay { seconds: delay.seconds, reason: atom("delay", delay.reason)? }
            }
            Which::Route(route) => SideEffect::Route {
                next_hop: atom("route", route.next_hop)?,
                recipients: addresses("route", route.recipients)?,
            },
            Which::Discard(reason) => SideEffect::Discard(atom("discard", reason)?),
            Which::Disconnect(true) => SideEffect::Disconnect,
            Which::Disconnect(false) => return Err(invalid("disconnect", "it is false")),
        },
    )
}

/// A path, and ESMTP parameters behind it.
fn address(what: &'static str, text: String) -> Result<Address, InvalidAnswer> {
    let (path, behind) = text.split_at(path_length(&text));
    let address = Address::new(path.to_owned()).map_err(|error| invalid(what, error))?;
    if behind.is_empty() {
        return Ok(address);
    }
    let Some(behind) = behind.strip_prefix(' ') else {
        return Err(invalid(what, "there is a blank between an address and its parameters"));
    };
    let parameters: Vec<_> = behind.split(' ').map(|word| Atom::from(word.to_owned())).collect();
    if parameters.len() > MOST_PARAMETERS {
        return Err(invalid(what, format!("it has more than {MOST_PARAMETERS} parameters")));
    }
    address.with_parameters(parameters).map_err(|error| invalid(what, error))
}

/// Octets up to the first closing bracket that is in no quoted string (RFC 5321 section 4.1.2); all if there is none.
fn path_length(text: &str) -> usize {
    let (mut is_quoted, mut is_escaped) = (false, false);
    for (at, octet) in text.bytes().enumerate() {
        match octet {
            _ if is_escaped => is_escaped = false,
            b'\\' if is_quoted => is_escaped = true,
            b'"' => is_quoted = !is_quoted,
            b'>' if !is_quoted => return at + 1,
            _ => {}
        }
    }
    text.len()
}

fn addresses(what: &'static str, paths: Vec<String>) -> Result<Vec<Address>, InvalidAnswer> {
    paths.into_iter().map(|path| address(what, path)).collect()
}

fn atom(what: &'static str, text: String) -> Result<Atom, InvalidAnswer> {
    printable(what, text).map(Atom::from)
}

fn word(what: &'static str, word: String) -> Result<String, InvalidAnswer> {
    match word.len() <= LONGEST_WORD && word.bytes().all(|octet| octet.is_ascii_graphic()) {
        true => Ok(word),
        false => {
            Err(invalid(what, format!("it is one word of at most {LONGEST_WORD} ASCII characters")))
        }
    }
}

fn printable(what: &'static str, text: String) -> Result<String, InvalidAnswer> {
    match text.len() <= LONGEST_TEXT && !text.contains(char::is_control) {
        true => Ok(text),
        false => Err(invalid(
            what,
            format!("it has at most {LONGEST_TEXT} octets and no control characters"),
        )),
    }
}

fn invalid(what: &'static str, cause: impl ToString) -> InvalidAnswer {
    InvalidAnswer { what, cause: cause.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_have_their_parameters_behind_them() {
        for text in [
            "<>",
            "<a@b.example>",
            "<a@b.example> NOTIFY=NEVER X",
            "<\"a\\\"> b\"@c.example> X=<y>",
        ] {
            let address = address("sender", text.to_owned()).unwrap();
            assert_eq!(with_parameters(&address), text);
            assert_eq!(address.path().len(), path_length(text), "{text}");
        }
        for (text, cause) in [
            ("a@b.example", "an address stands in angle brackets"),
            ("<a@b.example", "an address stands in angle brackets"),
            ("<a@b.example>X=<y>", "there is a blank between an address and its parameters"),
            ("<a@b.example> ", "not 0"),
            ("<a@b.example> X\r\nDATA", "octet 0x0d is not allowed"),
            (&format!("<>{}", " X".repeat(65)), "it has more than 64 parameters"),
        ] {
            let error = address("sender", text.to_owned()).unwrap_err();
            assert!(error.to_string().contains(cause), "{text}: {error}");
        }
    }
}
