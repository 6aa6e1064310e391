//! `opes-mta adapt`: stored mail through a callout server.

use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use futures_util::{StreamExt, stream};
use ocp_proto::smtp::{Address, FailurePolicy};
use opes_mta::consult::Policy;
use opes_mta::event::parse_address;
use opes_mta::front::file::{self, not_adapted};
use opes_mta::front::source::{self, Found, Source};
use opes_mta::ocp::{BeginError, ConnectError, ServerAddress, Upstream, service_uri};
use opes_mta::report::{Decision, Report, Summary};
use tokio::sync::mpsc;

use crate::output::OutputFolder;
use crate::progress::Progress;
use crate::tls::TlsArguments;

/// Run stored mail through the services of a callout server.
///
/// Prints a line for each mail: the decision, the octets that travelled, and which service said what.
/// The mails themselves stay as they are.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// Mail: a file, a folder (all files in it, links passed over), an mbox file (begins with
    /// `From `; its messages are FILE#1, FILE#2, ...), or `-` for the standard input
    #[arg(required = true, value_name = "FILE|DIR|mbox|-")]
    inputs: Vec<PathBuf>,
    /// Callout server: HOST:PORT, tls:HOST:PORT or unix:PATH
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:4037")]
    server: ServerAddress,
    /// Services in their order: URIs, or names that stand for ocp://service/NAME
    #[arg(
        long,
        value_name = "URI,...",
        value_delimiter = ',',
        default_value = "mail-from,virus-scan,mime-strip,spam-score",
        value_parser = service_uri
    )]
    services: Vec<String>,
    /// Envelope sender; `<>` is the null sender. Without it: that of the mbox line, else of the
    /// Return-Path field, else null
    #[arg(long, value_name = "A", value_parser = address)]
    from: Option<Address>,
    /// Envelope recipient; repeat it for more
    #[arg(long, value_name = "B", value_parser = recipient)]
    to: Vec<Address>,
    /// Write each mail that is accepted or modified to DIR, under its name
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Print one JSON object for each mail
    #[arg(long)]
    json: bool,
    /// Mails at a time
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=512))]
    jobs: u16,
    /// Seconds that the answer to a mail's content may take
    #[arg(long, value_name = "S", default_value_t = 80, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    timeout: u64,
    /// What happens to a mail that the services could not check. The server says it too, and the
    /// stricter one holds: accept it unchecked, tempfail (decision `error`), or reject it
    #[arg(
        long,
        value_name = "POLICY",
        default_value = "accept",
        value_parser = PossibleValuesParser::new(["accept", "tempfail", "reject"])
            .map(|name| FailurePolicy::from_name(name.as_bytes()).unwrap_or_default())
    )]
    on_failure: FailurePolicy,
    #[command(flatten)]
    tls: TlsArguments,
}

const EXAMPLES: &str = "\
Examples:
  opes-mta adapt mail.eml
  opes-mta adapt --services spam-score --json Maildir/new/ | jq -r .decision
  opes-mta adapt --from joe@example.org --to ann@example.com --out adapted/ archive.mbox
  opes-mta adapt --server unix:/run/callout-server.sock - < mail.eml
  opes-mta adapt --server tls:ocp.example.net:4038 --tls-ca ca.pem mail.eml

Decisions: accept (goes on as it was), modify, reject, discard, quarantine, error (could not be
processed). --out gets nothing for the last four.

JSON members: file, decision, reply, effects, services (uri, verdict, score, reason, ms),
octets_sent, octets_returned, ms, sender, recipients, refused (recipient, reply), error. Where
recipients differ: versions (recipients, decision, reply, effects), which --out gets as
NAME.version-1, NAME.version-2, ... Where services want new messages submitted: notifications (sender,
recipients, octets); nobody submits them. Where services were not asked: reused (events that got an earlier
answer again, which the server had said still holds), done_after (the event after which they wanted
no more of this mail).

Exit code: 0; 1 if a mail could not be processed, or no server answered; 2 for a wrong command line.
RUST_LOG=info or debug says more on the standard error.";

/// The widest column for names.
const WIDEST_NAME: usize = 48;

fn address(text: &str) -> Result<Address, String> {
    parse_address(text).map_err(|error| error.to_string())
}

fn recipient(text: &str) -> Result<Address, String> {
    let address = address(text)?;
    if address.is_null() { Err("a recipient has an address".to_owned()) } else { Ok(address) }
}

/// Runs the command.
pub(crate) fn main(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let sources = source::find(&arguments.inputs).context("cannot read the mail")?;
    let progress = Progress::new(&sources);
    progress.init_tracing();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(run(arguments, sources, &progress))
}

async fn run(
    arguments: Arguments,
    sources: Vec<Source>,
    progress: &Progress,
) -> anyhow::Result<ExitCode> {
    let Arguments { server, services, from, to, out, json, jobs, timeout, on_failure, tls, .. } =
        arguments;
    let started = Instant::now();
    let content_deadline = Duration::from_secs(timeout);
    let policy = Policy { content_deadline, on_failure, ..Policy::default() };
    let mut output = out.map(OutputFolder::new);
    let tls = tls.tls(&server)?;
    let mut target = file::target(server, services);
    target.tls = tls;
    // The deadline decides, not the connection's own watch.
    target.connection.transaction_timeout =
        target.connection.transaction_timeout.max(2 * content_deadline);
    let upstream = Upstream::connect(target).await.map_err(unreachable)?;
    let longest = sources.iter().map(|source| source.name.chars().count()).max();
    let width = longest.unwrap_or_default().min(WIDEST_NAME);

    let mut found = read(sources, from, to);
    let mut reports = stream::poll_fn(move |context| found.poll_recv(context))
        .map(|found| pass(found, &upstream, &policy))
        .buffered(usize::from(jobs));
    let mut summary = Summary::default();
    while let Some((mut report, path, octets)) = reports.next().await {
        if let Some(output) = &mut output
            && matches!(report.decision, Decision::Accept | Decision::Modify)
            && let Err(error) = write(output, &path, &report)
        {
            report.decision = Decision::Error;
            report.error = Some(format!("cannot write it to --out: {error}"));
        }
        summary.add(&report);
        progress.advance(&report, octets);
        let line = if json { report.to_json() } else { report.to_line(width) };
        progress.suspend(|| writeln!(io::stdout(), "{line}")).context("cannot print")?;
    }
    drop(reports);
    upstream.close().await;
    progress.finish();
    let line = summary.to_line(started.elapsed());
    if json || !io::stdout().is_terminal() {
        eprintln!("{line}");
    } else {
        writeln!(io::stdout(), "{line}").context("cannot print")?;
    }
    let failed = summary.count(Decision::Error) > 0;
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Reads the mails in a thread of its own, one ahead: files have no asynchronous reads, and a read
/// of the standard input would hold up the end of the program.
fn read(sources: Vec<Source>, from: Option<Address>, to: Vec<Address>) -> mpsc::Receiver<Found> {
    let (sender, receiver) = mpsc::channel(1);
    std::thread::spawn(move || {
        for source in sources {
            source.read(from.as_ref(), &to, |found| sender.blocking_send(found).is_ok());
            if sender.is_closed() {
                break;
            }
        }
    });
    receiver
}

async fn pass(found: Found, upstream: &Upstream, policy: &Policy) -> (Report, PathBuf, u64) {
    let Found { mail, output, octets } = found;
    let report = match mail {
        Err((name, error)) => Report::error(name, format!("cannot be read: {error}")),
        Ok(mail) => match upstream.begin(file::facts(), policy).await {
            Ok(dialog) => file::adapt_in(&dialog, &mail, policy).await,
            Err(BeginError::Away(error)) => away(&mail, policy, error),
            Err(BeginError::Failed(failure)) => {
                file::not_adapted(&mail, failure.policy, failure.to_string())
            }
        },
    };
    (report, output, octets)
}

/// Before negotiation nobody knows the server's policy: tempfail, or what is stricter (profile section
/// 2).
fn away(mail: &file::StoredMail, policy: &Policy, error: Arc<ConnectError>) -> Report {
    not_adapted(mail, FailurePolicy::Tempfail.max(policy.on_failure), error.to_string())
}

/// What to do about a server that is not there.
pub(crate) fn unreachable(error: ConnectError) -> anyhow::Error {
    let hint = match &error {
        ConnectError::Transport { server, .. } => format!(
            "is callout-server running there? Start it with `callout-server serve --listen {server}`, \
             or name another one with --server"
        ),
        ConnectError::Tls { .. } => {
            "the server's log says its side; --tls-ca, --tls-certificate and --tls-name say ours"
                .to_owned()
        }
        ConnectError::Timeout { .. } => {
            "is it a callout server, and is it alive? Name another one with --server".to_owned()
        }
        ConnectError::Lost { .. } => {
            "the server's log says its side; one that begins with TLS is --server tls:HOST:PORT"
                .to_owned()
        }
        ConnectError::Negotiation { .. } => {
            "`callout-server services` lists what it knows; choose with --services".to_owned()
        }
    };
    anyhow::anyhow!("{error}\n  {hint}")
}

/// Writes what goes on: the mail under its name, or each version of it with a number behind that.
fn write(output: &mut OutputFolder, path: &Path, report: &Report) -> io::Result<()> {
    if report.versions.is_empty() {
        return output.write(path, &report.message);
    }
    for (version, number) in report.versions.iter().zip(1..) {
        if matches!(version.decision, Decision::Accept | Decision::Modify) {
            let mut name = path.to_owned().into_os_string();
            name.push(format!(".version-{number}"));
            output.write(Path::new(&name), &version.message)?;
        }
    }
    Ok(())
}
