//! `opes-mta load`: how much a callout server can take, and how much of it is the machine.

mod echo;
mod figures;
mod histogram;
mod worker;

use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use bytes::Bytes;
use clap::ValueEnum;
use ocp_proto::smtp::{Address, CommandLine, Envelope};
use opes_mta::event::{Event, Message};
use opes_mta::front::file;
use opes_mta::ocp::{ServerAddress, Upstream, service_uri};
use tokio::task::JoinSet;

use self::echo::Echo;
use self::figures::{Figures, Plan, Report};
use self::worker::Worker;
use crate::adapt::unreachable;

/// Put load on a callout server and measure it.
///
/// Keeps transactions open on some connections for some seconds, and sends the same octets to a plain
/// echo peer of its own in between, so that the ratio says what OCP and the services cost over what
/// the machine can do anyway.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXPLANATION)]
pub(crate) struct Arguments {
    /// Callout server: HOST:PORT or unix:PATH
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:4037")]
    server: ServerAddress,
    /// Services in their order: URIs, or names that stand for ocp://service/NAME
    #[arg(
        long,
        value_name = "URI,...",
        value_delimiter = ',',
        default_value = "log",
        value_parser = service_uri
    )]
    services: Vec<String>,
    /// Connections
    #[arg(long, value_name = "C", default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    connections: u16,
    /// Transactions open on each connection, each in a dialog of its own
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=1_024))]
    open: u16,
    /// Octets of a message, header and body; 512 to 104857600
    #[arg(long, value_name = "S", default_value_t = 4_096, value_parser = clap::value_parser!(u32).range(512..=104_857_600))]
    size: u32,
    /// Events of a dialog, which repeat
    #[arg(long, value_name = "E,...", value_delimiter = ',', default_value = "mail,rcpt,message")]
    events: Vec<EventName>,
    /// Seconds of load; the echo peer takes as many again
    #[arg(long, value_name = "T", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    seconds: u64,
    /// Leave the echo peer out
    #[arg(long)]
    no_echo: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

const EXPLANATION: &str = "\
Every dialog has one transaction open at a time, in the order of --events: the same command lines and
the same message again and again, all of it announced as kept. A transaction is timed from the call to
its checked answer. After each one the server is told its outcome, as a mail server would.

Rounds of a second: the server, the echo peer, the server, and so on. The echo peer lives in this
process, on threads of its own, and is reached as the server is: TCP over loopback, or unix sockets. Each
transaction becomes a blob of as many octets as it had on the wire, heads included, and is answered by
as many as came back; as many blobs are under way on as many connections. Each blob and each answer is
one write. What the peer reads it drops. `ratio` is the server's transactions a second over the echo
peer's. With a server on another host the ratio has the network in it.

Octets are those of transactions, heads included, for each transaction; MB/s is 1,000,000 of them a
second, both ways together.

Examples:
  opes-mta load
  opes-mta load --server unix:/run/callout-server.sock --events message --size 1048576
  opes-mta load --services mail-from,spam-score --connections 1 --open 1 --json | jq .p99_ms

JSON members: server, services, connections, open, size, events, seconds, transactions,
transactions_per_second, megabytes_per_second, p50_ms, p99_ms, octets_sent, octets_returned, messages,
messages_per_second, unchanged, modified, replied, failed, failures (count by cause), echo (the same
from seconds to octets_returned), ratio.

Exit code: 0; 1 if a transaction failed, or no server answered; 2 for a wrong command line.";

/// The load of a round.
const ROUND: Duration = Duration::from_secs(1);

/// Load that is not measured: connections warm up, and the octets of a transaction become known.
const WARM_UP: Duration = Duration::from_millis(300);

/// An event that can be repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum EventName {
    Mail,
    Rcpt,
    Message,
}

/// Runs the command.
pub(crate) fn main(arguments: Arguments) -> anyhow::Result<ExitCode> {
    tracing_subscriber::fmt()
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_default_env()
                .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("off")),
        )
        .with_writer(io::stderr)
        .init();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(run(arguments))
}

async fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let Arguments { server, services, connections, open, size, events, seconds, no_echo, json } =
        arguments;
    let size = size as usize;
    let events: Arc<[Event]> = events
        .iter()
        .map(|name| name.event(size))
        .collect::<Option<_>>()
        .context("cannot write the events")?;
    let tcp = matches!(server, ServerAddress::Tcp(_));
    let plan = Plan {
        server: server.to_string(),
        services: services.clone(),
        connections,
        open,
        size,
        events: events.iter().map(|event| event.command.clone()).collect(),
    };

    let mut workers = Vec::new();
    for _ in 0..connections {
        let target = file::target(server.clone(), services.clone());
        let upstream = Arc::new(Upstream::connect(target).await.map_err(unreachable)?);
        let client = upstream.client().await.context("the connection was lost at once")?;
        let wanted = client.profile().commands();
        for event in events.iter().map(|event| &event.command) {
            ensure!(wanted.contains(event), "no service of {} wants {event}", services.join(","));
        }
        let worker = || Worker::new(Arc::clone(&upstream), Arc::clone(&events));
        workers.extend((0..open).map(|_| worker()));
    }

    let warm_up;
    (workers, warm_up) = round(workers, WARM_UP).await?;
    let costs: Vec<_> = warm_up.events.iter().map(figures::Count::mean).collect();
    let mut echo = match no_echo {
        true => None,
        false => {
            let (connections, open) = (usize::from(connections), usize::from(open));
            let started = Echo::start(tcp, connections, open, &costs).await;
            Some((started.context("cannot start the echo peer")?, Figures::new(events.len())))
        }
    };
    if let Some((echo, _)) = &mut echo {
        echo.round(Instant::now() + WARM_UP).await.context("the echo peer failed")?;
    }
    let mut figures = Figures { failures: warm_up.failures, ..Figures::new(events.len()) };
    for _ in 0..seconds {
        let measured;
        (workers, measured) = round(workers, ROUND).await?;
        figures.add_later(measured);
        if let Some((echo, figures)) = &mut echo {
            let measured = echo.round(Instant::now() + ROUND).await;
            figures.add_later(measured.context("the echo peer failed")?);
        }
    }
    drop(workers);

    let echo = echo.map(|(echo, figures)| {
        echo.stop();
        figures
    });
    let report = Report::new(plan, figures, echo.as_ref());
    let text = if json { report.to_json() } else { report.to_text() };
    writeln!(io::stdout(), "{text}").context("cannot print")?;
    Ok(if report.failed() > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// All dialogs at once for some time, and until what they have begun has ended.
async fn round(workers: Vec<Worker>, length: Duration) -> anyhow::Result<(Vec<Worker>, Figures)> {
    let begin = Instant::now();
    let mut running: JoinSet<_> =
        workers.into_iter().map(|worker| worker.run(begin + length)).collect();
    let mut workers = Vec::with_capacity(running.len());
    let mut all = Figures::default();
    while let Some(ended) = running.join_next().await {
        let (worker, figures) = ended.context("a dialog failed")?;
        workers.push(worker);
        all.add(figures);
    }
    all.elapsed = begin.elapsed();
    Ok((workers, all))
}

impl EventName {
    fn event(self, size: usize) -> Option<Event> {
        let sender = Address::new("<sender@load.example>").ok()?;
        let recipient = Address::new("<recipient@load.example>").ok()?;
        let command = |verb: &str, address: &Address, envelope| {
            let line = CommandLine::new([verb.as_bytes(), address.path()].concat()).ok()?;
            Event::command(line, envelope)
        };
        match self {
            Self::Mail => command("MAIL FROM:", &sender, Envelope::default()),
            Self::Rcpt => {
                let envelope = Envelope { sender: Some(sender), recipients: Vec::new() };
                command("RCPT TO:", &recipient, envelope)
            }
            Self::Message => {
                let envelope = Envelope { sender: Some(sender), recipients: vec![recipient] };
                Some(Event::message(Message::split(message(size)), envelope))
            }
        }
    }
}

/// A message of that many octets; the body repeats one line.
fn message(size: usize) -> Bytes {
    const HEADER: &str = "From: Sender <sender@load.example>\r\n\
        To: Recipient <recipient@load.example>\r\n\
        Subject: What the measuring instruments say\r\n\
        Date: Mon, 1 Jun 2026 12:00:00 +0000\r\n\
        Message-ID: <1.load@load.example>\r\n\
        MIME-Version: 1.0\r\n\
        Content-Type: text/plain; charset=us-ascii\r\n\
        \r\n";
    const LINE: &str = "The water stands at four metres and twelve, and does not rise.\r\n";
    let end = size.saturating_sub("\r\n".len());
    let octets = HEADER.bytes().chain(LINE.bytes().cycle()).take(end);
    octets.chain("\r\n".bytes()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_has_its_size() {
        for size in [512, 513, 4_096, 100_000] {
            let whole = message(size);
            assert_eq!(whole.len(), size);
            assert!(whole.ends_with(b"\r\n"));
            let split = Message::split(whole);
            assert!(split.header.ends_with(b"us-ascii\r\n\r\n"));
            assert_eq!(split.field("To"), Some(&b"Recipient <recipient@load.example>"[..]));
        }
    }

    #[test]
    fn events_carry_the_envelope_in_force() {
        let events =
            [EventName::Mail, EventName::Rcpt, EventName::Message].map(|e| e.event(512).unwrap());
        let envelopes: Vec<_> = events
            .iter()
            .map(|event| (event.envelope.sender.is_some(), event.envelope.recipients.len()))
            .collect();
        assert_eq!(envelopes, [(false, 0), (true, 0), (true, 1)]);
        assert_eq!(events[1].command.name(), "RCPT");
    }
}
