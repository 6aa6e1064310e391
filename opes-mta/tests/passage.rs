//! An event on its way through several groups, of which some fail.

#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing)]

#[allow(dead_code, reason = "other tests play the rest")]
mod support;

use ocp_proto::OcpResult;
use ocp_proto::smtp::{
    Command, CommandProfile, DialogFacts, Envelope, FailurePolicy, Part, ReplyProfile,
};
use opes_mta::apply::Answer;
use opes_mta::config::{Config, Group, Origin, Rules};
use opes_mta::event::{Event, Message};
use opes_mta::passage::{Accepted, Passage};
use opes_mta::processor::{Offers, Processor};
use support::{Server, Step, answer, reply, script, wants};

/// A server that says this of each message, and lets mail pass if it fails or not.
fn server(on_failure: FailurePolicy, steps: fn(&[u8]) -> Vec<Step>) -> Server {
    let profile = CommandProfile { on_failure: Some(on_failure), ..wants([Command::Message]) };
    Server::start(2, profile, script(move |_, octets| steps(octets)))
}

fn fails(_: &[u8]) -> Vec<Step> {
    vec![Step::Finish(OcpResult::failure("out of order"), false)]
}

fn refuses(_: &[u8]) -> Vec<Step> {
    answer([reply("550 5.7.1 a virus\r\n")])
}

fn marks(octets: &[u8]) -> Vec<Step> {
    let all = octets.len() as u32;
    answer([Step::Data(Part::MessageHeader, "X: y\r\n".into()), Step::Keep(0..all)])
}

async fn passage(servers: &[&Server]) -> Passage {
    let group = |server: &&Server| {
        let services = vec!["ocp://service/test".to_owned()];
        let group = Group::new(
            "test".to_owned(),
            vec![server.address.to_string().parse().unwrap()],
            services,
        );
        Group { connections: 1, on_failure: FailurePolicy::Accept, ..group }
    };
    let groups: Vec<_> = servers.iter().map(group).collect();
    let count = groups.len();
    let config = Config { groups, ..Config::of(Group::new(String::new(), Vec::new(), Vec::new())) };
    let config = Config { rules: Rules::new(Vec::new(), count), ..config };
    let offers = Offers { commands: wants([Command::Message]), replies: None::<ReplyProfile> };
    let processor = Processor::start(config, offers);
    processor.tried().await;
    processor.passage("test", Origin::Unknown, DialogFacts::default())
}

fn message() -> Event {
    Event::message(Message::split("A: b\r\n\r\nbody".into()), Envelope::default())
}

#[tokio::test]
async fn a_group_that_may_fail_takes_no_message_past_the_others() {
    let broken = "MESSAGE, waiting for the answer: the transaction failed: out of order";
    for is_first in [true, false] {
        let (may_fail, virus) =
            (server(FailurePolicy::Accept, fails), server(FailurePolicy::Reject, refuses));
        let marker = server(FailurePolicy::Accept, marks);
        let servers = if is_first { [&may_fail, &marker] } else { [&marker, &may_fail] };
        let mut marked = passage(&servers).await;
        let mut refused = passage(&[&servers[..1], &[&virus]].concat()).await;
        let advice = marked.ask(message(), Accepted::default()).await.unwrap();
        let Answer::Message(adapted) = &advice.answer else { panic!("{advice:?}") };
        assert_eq!(adapted.clone().read().unwrap().concat(), b"X: y\r\nA: b\r\n\r\nbody");
        assert_eq!(advice.failures, [broken]);
        assert!(!advice.envelope_done);
        let advice = refused.ask(message(), Accepted::default()).await.unwrap();
        assert!(matches!(&advice.answer, Answer::Reply(reply) if reply.code() == 550));
    }
}

#[tokio::test]
async fn a_group_that_may_not_fail_decides_for_all() {
    let (marker, strict) =
        (server(FailurePolicy::Accept, marks), server(FailurePolicy::Reject, fails));
    let mut passage = passage(&[&marker, &strict]).await;
    let failure = passage.ask(message(), Accepted::default()).await.unwrap_err();
    assert_eq!(failure.policy, FailurePolicy::Reject);
}
