//! What is only watched lingers for a moment, and is not lost.

#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing)]

#[allow(dead_code, reason = "other tests play the rest")]
mod support;

use std::sync::Arc;

use bytes::Bytes;
use ocp_proto::smtp::{Command, CommandLine, CommandProfile, DialogFacts, Envelope};
use ocp_proto::{Event as Seen, OcpResult};
use opes_mta::config::{Config, Group, Origin};
use opes_mta::event::{Content, Event};
use opes_mta::front::milter;
use opes_mta::passage::Accepted;
use opes_mta::processor::Processor;
use support::{Server, keep, script, wants};
use tokio::runtime::Runtime;

/// A server that only watches RCPT.
fn watcher() -> Server {
    let profile = CommandProfile { observed: vec![Command::Rcpt], ..wants([Command::Rcpt]) };
    Server::start(1, profile, script(|_, octets| keep(octets)))
}

async fn processor(server: &Server) -> Arc<Processor> {
    let servers = vec![server.address.to_string().parse().unwrap()];
    let mut group = Group::new("watching".to_owned(), servers, vec!["ocp://service/x".to_owned()]);
    group.connections = 1;
    let processor = Processor::start(Config::of(group), &milter::offer());
    processor.tried().await;
    processor
}

fn rcpt() -> Event {
    let line = CommandLine::new(Bytes::from_static(b"RCPT TO:<c@d.example>")).unwrap();
    Event {
        command: Command::Rcpt,
        content: Content::Line(line),
        envelope: Envelope::default(),
        bypass: Vec::new(),
    }
}

/// A dialog of so many events, from its first to its end.
async fn dialog(processor: &Arc<Processor>, events: usize) {
    let mut passage = processor.passage("here", Origin::Unix, DialogFacts::default());
    for _ in 0..events {
        let mut advice = passage.ask(rcpt(), Accepted::default()).await.unwrap();
        advice.report(&OcpResult::ok(), None);
    }
}

/// What the server has seen, without a client that could send it anything more: events, outcomes, ends of dialogs.
fn seen(server: Server) -> [usize; 3] {
    let seen = Runtime::new().unwrap().block_on(server.events());
    let count = |is: fn(&Seen) -> bool| seen.iter().filter(|event| is(event)).count();
    [
        count(|event| matches!(event, Seen::OriginalEnded { .. })),
        count(|event| matches!(event, Seen::DialogOutcome { .. })),
        count(|event| matches!(event, Seen::DialogEnded { .. })),
    ]
}

#[test]
fn what_is_only_watched_is_answered_before_the_program_ends() {
    let server = watcher();
    let runtime = Runtime::new().unwrap();
    runtime.block_on(async {
        let processor = processor(&server).await;
        dialog(&processor, 3).await;
        processor.end().await;
    });
    drop(runtime);
    assert_eq!(seen(server), [3, 3, 1]);
}

#[test]
fn more_than_may_be_under_way_are_watched_one_after_the_other() {
    let server = watcher();
    let runtime = Runtime::new().unwrap();
    runtime.block_on(async {
        let processor = processor(&server).await;
        dialog(&processor, 200).await;
        processor.end().await;
    });
    drop(runtime);
    assert_eq!(seen(server), [200, 200, 1]);
}
