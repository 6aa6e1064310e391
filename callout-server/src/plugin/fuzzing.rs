//! The body of the fuzz target `plugin_answer`; a unit test runs it over the corpus.

use std::sync::Arc;

use bytes::Bytes;
use ocp_proto::smtp::{Address, Command, CommandLine, EffectName, Envelope, Reply, SideEffect};
use prost::Message;
use services::mail::{Edits, Mail, Octets, header_length};
use services::{Change, Content, Input, Outcome, Request};

use super::settings::{FieldName, Grants};
use super::{proto, wire};

/// Why reading does not fail here.
const IN_MEMORY: &str = "octets in memory can be read";

/// The longest text, as on the wire of OCP.
const LONGEST: usize = 1_024;

/// Grants, an event, and octets as a plugin's answer to it: most are void; of the others each line, text and address is
/// one that can go on, and what they do to a message is what was granted and nothing else.
///
/// # Panics
/// If that is not so.
pub fn plugin_answer(octets: &[u8]) {
    if let Some((grants, request, outcome)) = read(octets) {
        check(&grants, &request, &outcome);
    }
}

/// An answer that stands.
fn read(octets: &[u8]) -> Option<(Grants, Request, Outcome)> {
    let (&[granted, event], answer) = octets.split_first_chunk()?;
    let (grants, request) = (grants(granted), request(event));
    let outcome = wire::outcome(proto::Outcome::decode(answer).ok()?).ok()?;
    grants.check(&outcome, &request).ok()?;
    Some((grants, request, outcome))
}

fn grants(bits: u8) -> Grants {
    let bit = |bit: u8| bits & 1 << bit != 0;
    let mut fields = Vec::new();
    if bit(0) {
        fields.push(FieldName::StartsWith("X-".to_owned()));
    }
    if bit(1) {
        fields.push(FieldName::Is("Subject".to_owned()));
    }
    let effects = match bits >> 5 & 3 {
        0 => Vec::new(),
        1 => vec![EffectName::Quarantine, EffectName::AddRecipient],
        _ => EFFECTS.to_vec(),
    };
    Grants {
        events: vec![Command::Mail, Command::Message],
        watches: Vec::new(),
        content: Content::Whole,
        change_command: bit(2),
        fields,
        replace_body: bit(3),
        reply: bit(4),
        effects,
    }
}

/// Those that an answer can have.
const EFFECTS: [EffectName; 10] = [
    EffectName::AddRecipient,
    EffectName::DeleteRecipient,
    EffectName::SetRecipients,
    EffectName::ChangeSender,
    EffectName::Quarantine,
    EffectName::Hold,
    EffectName::Delay,
    EffectName::Route,
    EffectName::Discard,
    EffectName::Disconnect,
];

fn request(event: u8) -> Request {
    let usual = b"Received: a\r\n b\r\nX-One: 1\r\nSubject: s\r\nx-two: 2\r\n\r\n";
    let mail = |header: &'static [u8], body: &'static [u8]| {
        Input::Content(Arc::new(Mail::new(header.into(), Bytes::from_static(body))))
    };
    let input = match event % 8 {
        0 => Input::Nothing,
        1 => Input::Line(CommandLine::new("MAIL FROM:<a@a.example>").expect("it is one")),
        2 => mail(usual, b"text\r\n.\r\nmore\r\n"),
        // What other programs made of line ends is not for a plugin to mend.
        3 => mail(b"From: a\nSubject: s\n\n", b"text\nmore\r\n"),
        4 => mail(usual, b"a\rb\nc\0d\r\n\n\r"),
        5 => mail(b"\r\n", b"X-One: 1\r\n\r\n"),
        6 => mail(b"From: a\r\nX-One: 1\r\n", b""),
        _ => {
            let body = Bytes::from_static(b"text\r\nmore\r\n");
            Input::Content(Arc::new(Mail::front(usual.as_slice().into(), body, Some(1_000))))
        }
    };
    let command = match &input {
        Input::Nothing => Command::Connect,
        Input::Line(_) => Command::Mail,
        _ => Command::Message,
    };
    Request {
        dialog: Arc::default(),
        command,
        input,
        envelope: Envelope::default(),
        parameters: Arc::default(),
        granted: EFFECTS.as_slice().into(),
        may_notify: false,
    }
}

fn check(grants: &Grants, request: &Request, outcome: &Outcome) {
    let finding = &outcome.finding;
    let is_word =
        |word: &str| word.len() <= 64 && word.bytes().all(|octet| octet.is_ascii_graphic());
    assert!(is_word(&finding.verdict) && !finding.verdict.is_empty(), "{finding:?}");
    assert!(finding.score.as_deref().is_none_or(is_word), "{finding:?}");
    assert!(finding.reason.as_ref().is_none_or(|reason| is_text(reason.as_bytes())), "{finding:?}");
    assert!(outcome.notifications.is_empty() && outcome.validity.is_none(), "no plugin has these");
    match &outcome.change {
        Change::None => {}
        Change::Command(line) => {
            assert!(grants.change_command, "a line");
            assert!(is_one_line(line.as_bytes()) && line.as_bytes().len() <= CommandLine::LONGEST);
        }
        Change::Reply(reply) => {
            assert!(grants.reply, "a reply");
            check_reply(reply);
        }
        Change::Content(edits) => {
            if let Some(mail) = request.mail() {
                check_edits(grants, edits, mail);
            }
        }
    }
    for effect in &outcome.effects {
        assert!(grants.effects.contains(&effect.name()), "{effect:?}");
        check_effect(effect);
    }
}

fn is_one_line(octets: &[u8]) -> bool {
    !octets.iter().any(|octet| matches!(octet, b'\r' | b'\n' | 0))
}

fn is_text(octets: &[u8]) -> bool {
    octets.len() <= LONGEST && !octets.iter().any(u8::is_ascii_control)
}

fn check_reply(reply: &Reply) {
    let line = reply.as_bytes().strip_suffix(b"\r\n").expect("it is a whole line");
    assert!(is_one_line(line) && line.len() + 2 <= Reply::LONGEST_LINE, "{reply}");
    assert!(matches!(line, [b'2'..=b'5', b'0'..=b'5', b'0'..=b'9', b' ', ..]), "{reply}");
}

fn check_effect(effect: &SideEffect) {
    let (texts, addresses): (Vec<&[u8]>, &[Address]) = match effect {
        SideEffect::AddRecipient(address)
        | SideEffect::DeleteRecipient(address)
        | SideEffect::ChangeSender(address) => (vec![], std::slice::from_ref(address)),
        SideEffect::SetRecipients(addresses) => (vec![], addresses),
        SideEffect::Quarantine(text) | SideEffect::Hold(text) | SideEffect::Discard(text) => {
            (vec![text], &[])
        }
        SideEffect::Delay { reason, .. } => (vec![reason], &[]),
        SideEffect::Route { next_hop, recipients } => (vec![next_hop], recipients),
        SideEffect::Disconnect => (vec![], &[]),
        SideEffect::RetryCommand { .. } => panic!("no plugin asks for that"),
    };
    assert!(texts.into_iter().all(is_text), "{effect:?}");
    for address in addresses {
        let path = address.path();
        assert!(is_text(path) && path.starts_with(b"<") && path.ends_with(b">"), "{effect:?}");
        // What stands behind a bracket is for others to read as parameters, unless a quoted string has it.
        let first = path.iter().position(|octet| *octet == b'>');
        assert!(first == Some(path.len() - 1) || path.contains(&b'"'), "{effect:?}");
        let is_word = |word: &[u8]| is_text(word) && !word.is_empty() && !word.contains(&b' ');
        assert!(address.parameters.iter().all(|word| is_word(word)), "{effect:?}");
    }
}

/// Makes the edits in a way of its own, and looks at what became of the message.
fn check_edits(grants: &Grants, edits: &Edits, mail: &Mail) {
    let before = octets(mail.whole());
    let mut sorted: Vec<_> = edits.iter().collect();
    sorted.sort_by_key(|edit| (edit.range.start, edit.range.end));
    let (mut after, mut at) = (Vec::new(), 0);
    for edit in sorted {
        after.extend_from_slice(before.get(at..edit.range.start).expect("in order, and in range"));
        after.extend_from_slice(&edit.insert);
        at = edit.range.end;
    }
    after.extend_from_slice(before.get(at..).expect("in range"));

    let edited = mail.edited(edits).expect("they were granted");
    assert_eq!(after, octets(edited.whole()), "the edits were made otherwise");
    if edited.header() != mail.header() {
        assert_eq!(
            header_length(&after),
            edited.header().len(),
            "others see another header section"
        );
    }
    if !grants.replace_body {
        assert_eq!(octets(mail.body().clone()), octets(edited.body().clone()));
    }
    let others = |mail: &Mail| -> Vec<Bytes> {
        let is_other = |name: &[u8]| !grants.fields.iter().any(|field| field.means(name));
        let others = mail.fields().iter().filter(|field| is_other(field.raw_name()));
        others.map(|field| mail.header().slice(field.whole.clone())).collect()
    };
    assert_eq!(others(mail), others(&edited), "somebody else's fields");
    let (was, is) = (unsound(&before), unsound(&after));
    assert!(is <= was, "{is} octets that are no part of lines, {was} before");
}

/// NULs, and CR and LF that are no line end together.
fn unsound(octets: &[u8]) -> usize {
    let count = |wanted| memchr::memchr_iter(wanted, octets).count();
    let line_ends = memchr::memmem::find_iter(octets, b"\r\n").count();
    count(0) + count(b'\r') + count(b'\n') - 2 * line_ends
}

fn octets(octets: Octets) -> Bytes {
    octets.read(0..octets.len()).expect(IN_MEMORY)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn seeds() -> Vec<Vec<u8>> {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/corpus/plugin_answer");
        let files = std::fs::read_dir(folder).unwrap();
        files.map(|file| std::fs::read(file.unwrap().path()).unwrap()).collect()
    }

    #[test]
    fn the_corpus_holds() {
        let seeds = seeds();
        seeds.iter().for_each(|seed| plugin_answer(seed));
        let stand = seeds.iter().filter(|seed| read(seed).is_some()).count();
        assert_eq!((seeds.len(), stand), (27, 15));
    }

    proptest! {
        /// Answers that are mostly right get further than random octets.
        #[test]
        fn answers_that_are_nearly_right_hold(
            seed in any::<prop::sample::Index>(),
            (granted, event) in any::<(u8, u8)>(),
            at in any::<prop::sample::Index>(),
            octet in any::<u8>(),
        ) {
            let mut octets = seed.get(&seeds()).clone();
            let at = at.index(octets.len());
            octets[at] = octet;
            octets[..2].copy_from_slice(&[granted, event]);
            plugin_answer(&octets);
        }
    }
}
