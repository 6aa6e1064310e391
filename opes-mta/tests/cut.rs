//! Messages of whose body the mail server has sent the front only, or nothing.

#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing)]

#[allow(dead_code, reason = "other tests play the rest")]
mod support;

use bytes::Bytes;
use ocp_proto::smtp::{Command, CommandProfile, DialogFacts, Envelope, FailurePolicy, Part};
use ocp_proto::{Event as OcpEvent, OcpResult};
use opes_mta::apply::Answer;
use opes_mta::consult::{Adaptation, Failure, Policy, consult};
use opes_mta::event::{Body, Event, Message};
use support::{Server, Step, script, wants};

const HEADER: &str = "A: b\r\n\r\n";

/// What comes of a message whose body begins so, at a server that leaves the loop there, and what it sees of
/// it.
async fn ask(
    body: &'static str,
    leave_at_body: Option<u32>,
    steps: Vec<Step>,
) -> (Result<Adaptation, Failure>, Vec<OcpEvent>) {
    let profile = CommandProfile {
        leave_at_body,
        on_failure: Some(FailurePolicy::Accept),
        ..wants([Command::Message])
    };
    let server = Server::start(1, profile, script(move |_, _| steps.clone()));
    let client = server.client().await;
    let dialog = client.start_dialog(DialogFacts::default()).await.unwrap();
    let message = Message { header: HEADER.into(), body: Body::from(body).cut(true) };
    let event = Event::message(message, Envelope::default());
    let asked = consult(&dialog, &event, &Policy::default()).await;
    drop(dialog);
    client.close().await;
    (asked, server.events().await)
}

/// It puts a field in front of what it has seen, and leaves us the rest.
fn marks(seen: usize) -> Vec<Step> {
    vec![
        Step::Start,
        Step::Data(Part::MessageHeader, Bytes::from_static(b"X: 1\r\n")),
        Step::Keep(0..seen as u32),
        Step::Raw("AME {x} {206};\r\nTE {x};\r\n".into()),
    ]
}

/// The octets that a server sees of a message, and how that ends.
fn seen(events: &[OcpEvent]) -> (Vec<u8>, Option<OcpResult>) {
    let mut octets = Vec::new();
    let mut end = None;
    for event in events {
        match event {
            OcpEvent::Data { octets: more, .. } => octets.extend_from_slice(more),
            OcpEvent::OriginalEnded { result, .. } => end = Some(result.clone()),
            _ => {}
        }
    }
    (octets, end)
}

#[tokio::test]
async fn a_server_sees_that_there_is_more() {
    for (body, leave, shown) in [("", 0, 0), ("abc", 0, 0), ("abc", 2, 2), ("abc", 3, 3)] {
        let (asked, events) = ask(body, Some(leave), marks(HEADER.len() + shown)).await;
        let whole = [HEADER.as_bytes(), &body.as_bytes()[..shown]].concat();
        assert_eq!(seen(&events), (whole, Some(OcpResult::partial())), "{body:?}, {leave}");
        let Answer::Message(adapted) = asked.unwrap().answer else { panic!("it was adapted") };
        assert_eq!(adapted.header.concat(), format!("X: 1\r\n{HEADER}").into_bytes());
        assert_eq!(adapted.body, Body::from(body).cut(true), "the rest is where it was");
    }
}

#[tokio::test]
async fn what_comes_back_whole_has_no_rest() {
    let steps = vec![
        Step::Start,
        Step::Keep(0..HEADER.len() as u32),
        Step::Data(Part::MessageBody, Bytes::from_static(b"new")),
        Step::Raw("AME {x};\r\nTE {x};\r\n".into()),
    ];
    let (asked, _) = ask("abc", Some(2), steps).await;
    let Answer::Message(adapted) = asked.unwrap().answer else { panic!("it was adapted") };
    assert_eq!(adapted.body, "new".into());
}

/// However lenient it is about failures: nobody has looked at the message.
#[tokio::test]
async fn a_server_that_wants_more_is_not_asked() {
    for (body, leave) in [("abc", Some(4)), ("abc", None), ("", Some(1))] {
        let (asked, events) = ask(body, leave, Vec::new()).await;
        let failure = asked.unwrap_err();
        let cause = "MESSAGE, start: this server wants more of the body than the mail server was \
                     told to send";
        assert_eq!(failure.to_string(), cause);
        assert_eq!(failure.policy, FailurePolicy::Tempfail);
        assert_eq!(seen(&events), (Vec::new(), None));
    }
}
