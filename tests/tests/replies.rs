//! A next hop's replies through a real callout server: what a client would get.

#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing)]

use std::path::Path;
use std::time::Duration;

use ocp_proto::OcpResult;
use ocp_proto::smtp::{
    Command, CommandLine, DialogFacts, EffectName, Envelope, FailurePolicy, Part, Reply,
    ReplyProfile,
};
use opes_mta::config::{Config, Origin};
use opes_mta::passage::{Accepted, Passage, ReplyAdvice, ReplyEvent};
use opes_mta::processor::{Offers, Processor};
use services::{Declaration, Finding, Outcome, Request};
use tests::scripted::{Script, Scripted};
use tests::{CalloutServer, text};

const SERVICES: &str = r#"
[[services.reply-filter.settings.rule]]
text = '\b[a-z0-9]+\.internal\b'
replacement = "mail.example.com"

[[services.recipient-retry.settings.rule]]
recipient = '^(.+)@old\.example$'
reply = '^550'
address = '${1}@new.example'
next-hop = "mx.new.example:25"
"#;

async fn passage(server: &CalloutServer, services: &str) -> Passage {
    let address = server.address();
    let config = format!(
        "[[group]]\nname = \"mail\"\nservers = [\"{address}\"]\nservices = [\"mail-from\"]\n\
         [[group]]\nname = \"replies\"\nservers = [\"{address}\"]\nservices = [{services}]\n\
         profile = \"reply\"\n"
    );
    let config = Config::parse(&config, Path::new("test.toml")).unwrap();
    let replies = ReplyProfile {
        commands: vec![Command::Greeting, Command::Rcpt, Command::Data, Command::Message],
        auxiliary_parts: vec![Part::Command],
        side_effects: vec![EffectName::RetryCommand],
        ..ReplyProfile::default()
    };
    let processor =
        Processor::start(config, Offers { replies: Some(replies), ..Offers::default() });
    processor.tried().await;
    assert!(processor.wants_reply(&Command::Rcpt));
    processor.passage("test", Origin::Unknown, DialogFacts::default())
}

async fn ask(
    passage: &mut Passage,
    command: Command,
    line: Option<&str>,
    reply: &str,
) -> ReplyAdvice {
    let event = ReplyEvent {
        command,
        line: line.map(|line| CommandLine::new(line.to_owned()).unwrap()),
        reply: Reply::parse(format!("{reply}\r\n")).unwrap(),
        envelope: Envelope::default(),
        bypass: Vec::new(),
        retries: 0,
    };
    passage.ask_reply(event, Accepted::default()).await.unwrap()
}

/// A next hop that is told where a recipient has gone, and whose name nobody outside learns.
#[tokio::test(flavor = "multi_thread")]
async fn a_recipient_that_has_moved_is_found_and_hosts_stay_inside() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = CalloutServer::start(folder.path(), SERVICES, &[]);
    let mut passage = passage(&server, "\"log\", \"recipient-retry\", \"reply-filter\"").await;
    let greeting = ask(&mut passage, Command::Greeting, None, "220 mx1.internal ESMTP").await;
    assert_eq!(greeting.reply.to_string(), "220 mail.example.com ESMTP");

    let line = "RCPT TO:<ann@old.example> NOTIFY=FAILURE";
    let refusal = "550 5.1.1 <ann@old.example> is not known at mx1.internal";
    let mut advice = ask(&mut passage, Command::Rcpt, Some(line), refusal).await;
    let retry = advice.retry.take().unwrap();
    assert_eq!(retry.line.as_bytes(), "RCPT TO:<ann@new.example> NOTIFY=FAILURE");
    assert_eq!(retry.next_hop.as_deref(), Some("mx.new.example:25"));
    // What the client gets if that next hop is not there.
    let fallback = "550 5.1.1 <ann@old.example> is not known at mail.example.com";
    assert_eq!((advice.reply.to_string().as_str(), advice.changed), (fallback, true));
    let found: Vec<_> =
        advice.verdicts.iter().map(|v| String::from_utf8_lossy(&v.verdict).into_owned()).collect();
    assert_eq!(found, ["logged", "retried", "rewritten"]);
    advice.report(&OcpResult::ok(), None);

    // The reply to the retried command is an event like the first.
    let retried = String::from_utf8(retry.line.as_bytes().to_vec()).unwrap();
    let again =
        ask(&mut passage, Command::Rcpt, Some(&retried), "250 2.1.5 ok, says mx2.internal").await;
    assert_eq!(
        (again.retry, again.reply.to_string().as_str()),
        (None, "250 2.1.5 ok, says mail.example.com")
    );

    // Content may come, and what was taken is taken.
    let data = ask(&mut passage, Command::Data, Some("DATA"), "354 go, mx2.internal").await;
    assert!(!data.changed && data.reply.code() == 354);
    let end = ask(&mut passage, Command::Message, None, "250 2.0.0 queued at mx2.internal").await;
    assert_eq!(end.reply.to_string(), "250 2.0.0 queued at mail.example.com");

    let line = server.wait_for("reply");
    assert_eq!(text(&line, "event"), "GREETING");
    assert_eq!(text(&line, "reply"), "220 mx1.internal ESMTP");
    let line = server.wait_for("reply");
    assert_eq!(text(&line, "line"), "RCPT TO:<ann@old.example> NOTIFY=FAILURE");
}

/// A group of services that only watch: nobody waits for them, and the log has what they saw.
#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_watches_replies_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = CalloutServer::start(folder.path(), "", &[]);
    let mut passage = passage(&server, "\"log\"").await;
    let advice = ask(&mut passage, Command::Rcpt, Some("RCPT TO:<a@b.example>"), "450 later").await;
    assert_eq!((advice.changed, advice.verdicts.len()), (false, 0));
    let line = server.wait_for("reply");
    assert_eq!(text(&line, "reply"), "450 later");
    assert_eq!(text(&line, "line"), "RCPT TO:<a@b.example>");
}

/// Says that it has seen a reply.
fn witness(name: &'static str) -> Script {
    let declaration = Declaration {
        on_failure: FailurePolicy::Accept,
        ..Declaration::on_replies([Command::Rcpt])
    };
    let seen = |_: &Request| (Duration::ZERO, Outcome::unchanged(Finding::new("seen")));
    Script { name, declaration, answer: seen }
}

/// A group that is away and may fail has no say, and the others have theirs.
#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_may_fail_keeps_no_reply_from_the_others() {
    let start = |name| tokio::task::block_in_place(|| Scripted::start(&[witness(name)]));
    let (away, there) = (start("away"), start("there"));
    let group = |name: &str, server: &Scripted| {
        format!(
            "[[group]]\nname = \"{name}\"\nservers = [\"{}\"]\nservices = [\"{name}\"]\n\
             profile = \"reply\"\ncommand-deadline = 1\n",
            server.address
        )
    };
    let config = [group("away", &away), group("there", &there)].concat();
    let config = Config::parse(&config, Path::new("test.toml")).unwrap();
    let replies = ReplyProfile { commands: vec![Command::Rcpt], ..ReplyProfile::default() };
    let processor =
        Processor::start(config, Offers { replies: Some(replies), ..Offers::default() });
    processor.tried().await;
    tokio::task::block_in_place(|| drop(away));
    let mut passage = processor.passage("test", Origin::Unknown, DialogFacts::default());
    let advice = ask(&mut passage, Command::Rcpt, Some("RCPT TO:<a@b.example>"), "450 later").await;
    assert_eq!((advice.changed, advice.verdicts.len(), advice.failures.len()), (false, 1, 1));
    assert!(advice.failures[0].starts_with("RCPT, "), "{:?}", advice.failures);
    tokio::task::block_in_place(|| drop(there));
}
