//! A service that does what senders and recipients are called after, and says what it was told of the client.

use std::sync::Mutex;
use std::time::Duration;

use ocp_proto::smtp::{Command, DialogFacts, EffectName, SideEffect};
use ocp_proto::wire::Atom;
use services::mail::{Edits, Mail};
use services::{Change, Declaration, Finding, Outcome, Request};

use crate::scripted::{Script, Scripted, address, reply, sender};

/// Senders whose mail was put off once.
static PUT_OFF: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// By the local part: `nobody` is refused as a recipient. Of senders, `bad` is refused at the end of data, a
/// name that begins with `later` is put off there once, `mark` gets a field, `sender` becomes `other`; to what
/// `add` sends comes a recipient `added`, of what `delete` sends `c` is taken away; `odd` is kept and
/// `discard` dropped. Everybody at 192.0.2.66 is refused when he connects. The verdict about content has
/// [`seen`].
pub fn actor() -> Script {
    let declaration = Declaration {
        effects: vec![
            EffectName::AddRecipient,
            EffectName::DeleteRecipient,
            EffectName::ChangeSender,
            EffectName::Discard,
            EffectName::Quarantine,
        ],
        ..Declaration::on([Command::Connect, Command::Rcpt, Command::Message])
    };
    Script { name: "actor", declaration, answer: act }
}

/// A configuration of `opes-mta` with one group, which asks the actor of this server.
pub fn config(server: &Scripted) -> String {
    let address = &server.address;
    format!("[[group]]\nname = \"actor\"\nservices = [\"actor\"]\nservers = [\"{address}\"]\n")
}

/// What a service was told of a client, such as `queued 192.0.2.7 name=a.example helo=a auth=-`.
pub fn seen(facts: &DialogFacts) -> String {
    let known = |atom: Option<&Atom>| {
        atom.map_or("-".to_owned(), |atom| String::from_utf8_lossy(atom).into_owned())
    };
    format!(
        "{} {} name={} helo={} auth={}",
        facts.activation.name(),
        known(facts.client_address.as_ref()),
        known(facts.client_name.as_ref()),
        known(facts.helo.as_ref()),
        known(facts.auth.as_ref().map(|auth| &auth.mechanism)),
    )
}

fn act(request: &Request) -> (Duration, Outcome) {
    let passed = Outcome::unchanged(Finding::new("passed"));
    let refused = |lines| Outcome::changed(Change::Reply(reply(lines)), "refused");
    let line = request.line().map(|line| String::from_utf8_lossy(line.as_bytes()).into_owned());
    let is_nobody = line.is_some_and(|line| line.starts_with("RCPT TO:<nobody@"));
    let from = sender(request);
    let outcome = match (&request.command, from.as_str()) {
        (Command::Connect, _) if request.dialog.client_address == Some("192.0.2.66".into()) => {
            refused("554 5.7.1 not from there\r\n")
        }
        (Command::Rcpt, _) if is_nobody => refused("550 5.1.1 nobody here\r\n"),
        (Command::Message, "bad") => refused("554 5.6.0 is bad\r\n"),
        (Command::Message, late) if late.starts_with("later") && is_first(late) => {
            refused("451 4.7.1 not now\r\n")
        }
        (Command::Message, "mark") => marked(request),
        (Command::Message, "odd") => {
            marked(request).with_effect(SideEffect::Quarantine("looks odd".into()))
        }
        (Command::Message, "add") => {
            passed.with_effect(SideEffect::AddRecipient(address("added@b.example")))
        }
        (Command::Message, "delete") => {
            passed.with_effect(SideEffect::DeleteRecipient(address("c@b.example")))
        }
        (Command::Message, "sender") => {
            passed.with_effect(SideEffect::ChangeSender(address("other@a.example")))
        }
        (Command::Message, "discard") => passed.with_effect(SideEffect::Discard("x".into())),
        _ => passed,
    };
    let finding = outcome.finding.clone().with_reason(seen(&request.dialog));
    (Duration::ZERO, outcome.with_finding(finding))
}

fn is_first(sender: &str) -> bool {
    let mut put_off = PUT_OFF.lock().expect("nobody panics with it");
    let is_first = !put_off.iter().any(|known| known == sender);
    put_off.push(sender.to_owned());
    is_first
}

fn marked(request: &Request) -> Outcome {
    let mut edits = Edits::new();
    let mail: &Mail = request.mail().expect("it is about content");
    edits.prepend_field(mail, "X-Mark", "new");
    Outcome::changed(Change::Content(edits), "edited")
}
