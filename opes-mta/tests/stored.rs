//! Events whose octets lie in temporary files, on their way to a server and back.

#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing)]

#[allow(dead_code, reason = "other tests play the rest")]
mod support;

use std::fs;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::join_all;
use ocp_proto::smtp::{Command, CommandProfile, DialogFacts, Envelope, FailurePolicy, Part};
use ocp_proto::{Event as OcpEvent, OcpResult};
use opes_mta::apply::Answer;
use opes_mta::consult::{Policy, consult};
use opes_mta::event::{Event, Message};
use opes_mta::ocp::Client;
use opes_mta::octets::{Octets, Stored, TemporaryFiles};
use opes_mta::room::Budget;
use support::{Server, Step, answer, keep, script, wants};
use tempfile::TempDir;

const HEADER: &[u8] = b"A: b\r\n\r\n";

/// Octets before and behind those that lie in the file.
const AROUND: usize = 1_000;

struct Files {
    folder: TempDir,
    files: TemporaryFiles,
}

impl Files {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { files: TemporaryFiles::new(folder.path(), u64::MAX), folder }
    }

    /// A message of so many octets in a file, and some in memory on both sides of them.
    fn message(&self, octets: usize, seed: u8) -> (Event, Vec<u8>) {
        let body: Vec<u8> = (0..octets + 2 * AROUND).map(|at| (at / 253) as u8 ^ seed).collect();
        let (first, last) = (body[..AROUND].to_vec(), body[octets + AROUND..].to_vec());
        let mut file = self.files.file().unwrap();
        body[AROUND..octets + AROUND].chunks(100_000).for_each(|o| file.append(o).unwrap());
        let pieces = vec![Octets::from(first), Stored::new(file).into(), last.into()];
        let message = Message { header: Bytes::from_static(HEADER), body: pieces.into() };
        (Event::message(message, Envelope::default()), [HEADER, &body].concat())
    }

    /// Cuts all files of the folder off.
    fn truncate(&self) {
        for entry in fs::read_dir("/proc/self/fd").unwrap() {
            let path = entry.unwrap().path();
            if fs::read_link(&path).is_ok_and(|link| link.starts_with(self.folder.path())) {
                fs::OpenOptions::new().write(true).open(path).unwrap().set_len(0).unwrap();
            }
        }
        assert_eq!(fs::read_dir(self.folder.path()).unwrap().count(), 0, "they have no names");
    }
}

/// Asks about an event in a dialog of its own.
async fn ask(client: &Client, event: &Event, policy: &Policy) -> Result<Answer, String> {
    let dialog = client.start_dialog(DialogFacts::default()).await.unwrap();
    let asked = consult(&dialog, event, policy).await;
    asked.map(|adaptation| adaptation.answer).map_err(|failure| {
        assert_eq!(failure.policy, FailurePolicy::Tempfail);
        failure.to_string()
    })
}

/// Says whether octets are those of one of these messages, by keeping them.
fn known(messages: &[Vec<u8>]) -> support::Script {
    let messages: Arc<[Vec<u8>]> = messages.into();
    script(move |_, octets| match messages.iter().any(|message| message == octets) {
        true => keep(octets),
        false => vec![Step::Finish(OcpResult::failure("who is that?"), false)],
    })
}

#[tokio::test]
async fn many_go_out_whole_beside_others_and_are_the_same_when_they_are_kept() {
    let files = Files::new();
    let sizes = [3_000_000, 1, 262_144, 700_000, 0, 262_145, 2_000_000, 5, 1_500_000, 800_000];
    let events: Vec<_> = sizes.iter().zip(0..).map(|(size, at)| files.message(*size, at)).collect();
    let messages: Vec<_> = events.iter().map(|(_, message)| message.clone()).collect();
    for pauses in [None, Some(0), Some(300_000)] {
        let commands = [Command::Mail, Command::Message];
        let profile = CommandProfile { pause_at_body: pauses, ..wants(commands) };
        let server = Server::start(1, profile, known(&messages));
        let client = server.client().await;
        let policy = Policy::default();
        let all = events.iter().map(|(event, _)| ask(&client, event, &policy));
        for (answer, size) in join_all(all).await.into_iter().zip(sizes) {
            assert_eq!(answer, Ok(Answer::Unchanged), "{size} octets, paused at {pauses:?}");
        }
        client.close().await;
        let paused = |event: &&OcpEvent| matches!(event, OcpEvent::Paused { .. });
        let paused = server.events().await.iter().filter(paused).count();
        assert_eq!(paused > 0, pauses.is_some());
    }
}

#[tokio::test]
async fn what_a_server_does_not_want_is_not_sent() {
    let files = Files::new();
    let (event, message) = files.message(1_000_000, 0);
    let wanted = HEADER.len() + 300_000;
    let profile =
        CommandProfile { stop_receiving_body: Some(300_000), ..wants([Command::Message]) };
    let play = script(move |_, octets| {
        assert!(octets == &message[..wanted]);
        let sent = octets.len() as u32;
        answer([Step::Data(Part::MessageHeader, "X: y\r\n".into()), Step::Keep(0..sent)])
    });
    let server = Server::start(1, profile, play);
    let client = server.client().await;
    let answer = ask(&client, &event, &Policy::default()).await;
    let Ok(Answer::Message(adapted)) = answer else { panic!("{answer:?}") };
    assert!(adapted.body.pieces().iter().any(|octets| octets.in_memory().is_none()));
    client.close().await;
    server.events().await;
}

#[tokio::test]
async fn a_file_that_cannot_be_read_ends_its_transaction_alone() {
    let (files, broken) = (Files::new(), Files::new());
    let (good, good_octets) = files.message(2_000_000, 1);
    let (bad, bad_octets) = broken.message(2_000_000, 2);
    broken.truncate();
    let server = Server::start(1, wants([Command::Message]), known(&[good_octets, bad_octets]));
    let client = server.client().await;
    // Even where mail goes on if the services fail: this is no failure of theirs.
    let policy = Policy { on_failure: FailurePolicy::Accept, ..Policy::default() };
    let (bad, good) = tokio::join!(ask(&client, &bad, &policy), ask(&client, &good, &policy));
    let expected = format!(
        "MESSAGE, sending: octets of the message can't be read: a temporary file in {} can't be read: ",
        Path::new(broken.folder.path()).display()
    );
    assert!(bad.as_ref().is_err_and(|cause| cause.starts_with(&expected)), "{bad:?}");
    assert_eq!(good, Ok(Answer::Unchanged));
    client.close().await;
    let ends = server.events().await.into_iter().filter_map(|event| match event {
        OcpEvent::TransactionEnded { result, .. } => Some(result.reason()),
        _ => None,
    });
    let ends: Vec<_> = ends.collect();
    assert!(ends.iter().any(|reason| reason.starts_with("octets of the message")), "{ends:?}");
}

/// Octets that have no place in the event: nobody waits for an answer to what can't be sent.
#[tokio::test]
async fn an_event_that_cannot_be_sent_ends_at_once() {
    let files = Files::new();
    let (message, _) = files.message(1_000, 0);
    let server = Server::start(1, wants([Command::Mail]), script(|_, octets| keep(octets)));
    let client = server.client().await;
    let event = Event { command: Command::Mail, ..message };
    let cause = ask(&client, &event, &Policy::default()).await.unwrap_err();
    let expected = "MAIL, sending: part message-header does not fit here (SMTP profile section 4)";
    assert_eq!(cause, expected);
    client.close().await;
    server.events().await;
}

/// A server that sends a whole message anew: what is not in memory otherwise takes room as long as somebody
/// holds it.
#[tokio::test]
async fn what_is_sent_anew_takes_room() {
    let files = Files::new();
    let (event, message) = files.message(3_000_000, 0);
    let play = script(move |_, octets| {
        let (header, body) = octets.split_at(HEADER.len());
        let body = Bytes::copy_from_slice(body);
        let header = Bytes::from([b"X: y\r\n", header].concat());
        answer([Step::Data(Part::MessageHeader, header), Step::Data(Part::MessageBody, body)])
    });
    let server = Server::start(1, wants([Command::Message]), play);
    let client = server.client().await;
    // Besides what the message has in memory, and the allowance.
    let policy = |octets: u64| {
        let answers = Budget::new(octets);
        (
            Policy { answers: answers.clone(), answer_allowance: 1_000_000, ..Policy::default() },
            answers,
        )
    };
    let needed = (3_000_000 - 1_000_000 + b"X: y\r\n".len()) as u64;
    let (none, _) = policy(needed - 1);
    let refused = ask(&client, &event, &none).await.unwrap_err();
    let expected = "MESSAGE, receiving the answer: the answer is void: there is no room now for so \
                    many new octets";
    assert_eq!(refused, expected);
    let (enough, answers) = policy(needed);
    let answer = ask(&client, &event, &enough).await.unwrap();
    let Answer::Message(adapted) = answer else { panic!("{answer:?}") };
    assert!(!answers.room().grow_to(1));
    assert!(adapted.read().unwrap().concat() == [b"X: y\r\n", &message[..]].concat());
    assert!(answers.room().grow_to(needed));
    client.close().await;
    server.events().await;
}
