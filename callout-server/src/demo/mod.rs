//! The demo: mails of each kind, through a server and back.

mod mails;
mod mime;

use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::time::Duration;

use crate::{Config, Listeners, Server};
use bytes::Bytes;
use miette::{IntoDiagnostic, Result, miette};
use ocp_proto::smtp::Address;
use opes_mta::consult::Policy;
use opes_mta::front::file::{self, SERVICES, StoredMail};
use opes_mta::ocp::Client;
use opes_mta::report::{Decision, Report};
use tokio_util::sync::CancellationToken;

use mails::{DemoMail, Expectation, mails};

/// Runs every mail of the demo through a server on a loopback socket and prints a table.
///
/// # Errors
/// If a mail meets with something else than it should.
pub(crate) async fn run(mut config: Config) -> Result<()> {
    config.listen = vec!["127.0.0.1:0".parse().map_err(|error: String| miette!(error))?];
    let listeners = Listeners::bind(&config.listen).await.into_diagnostic()?;
    let address = listeners.addresses().pop().unwrap_or_default().to_string();
    let stop = CancellationToken::new();
    let served = tokio::spawn(listeners.serve(Arc::new(Server::new(config)), stop.clone()));

    let server = address.parse().map_err(|error| miette!("{error}"))?;
    let services = SERVICES.map(str::to_owned).to_vec();
    let client = Client::connect(&file::target(server, services)).await.into_diagnostic()?;
    let mut table = Table::new();
    let mut is_read = is_read(table.begin(&address))?;
    for mail in mails() {
        if !is_read {
            break;
        }
        let report = file::adapt(&client, &stored(&mail)?, &Policy::default()).await;
        is_read = self::is_read(table.row(&mail, &report))?;
    }
    client.close().await;
    stop.cancel();
    served.await.into_diagnostic()?;
    if is_read { table.end() } else { Ok(()) }
}

/// Whether anybody reads what is written: `head` has enough at some point.
fn is_read(written: io::Result<()>) -> Result<bool> {
    match written {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        written => written.into_diagnostic().map(|()| true),
    }
}

fn stored(mail: &DemoMail) -> Result<StoredMail> {
    let address = |path: &'static str| Address::new(path).into_diagnostic();
    Ok(StoredMail {
        name: mail.name.to_owned(),
        sender: address(mail.sender)?,
        recipients: mail.recipients.iter().copied().map(address).collect::<Result<_>>()?,
        octets: mail.octets.clone(),
    })
}

/// The table, a row as soon as it is known.
struct Table {
    out: io::Stdout,
    colours: bool,
    mails: usize,
    expected: usize,
    sent: u64,
    returned: u64,
}

impl Table {
    fn new() -> Self {
        let out = io::stdout();
        let colours = out.is_terminal() && std::env::var_os("NO_COLOR").is_none();
        Self { out, colours, mails: 0, expected: 0, sent: 0, returned: 0 }
    }

    fn begin(&mut self, address: &str) -> io::Result<()> {
        writeln!(
            self.out,
            "An OPES MTA sends mails to a callout server on {address}: what went in, who found\n\
             what, what came back, and the octets on the wire.\n"
        )?;
        let titles = format!(
            "  {:<44}{:>10}  {:<10}{:>12}{:>11}{:>9}",
            "mail", "size", "decision", "sent", "returned", "time"
        );
        let titles = self.styled(&titles, "1");
        writeln!(self.out, "{titles}")
    }

    fn row(&mut self, mail: &DemoMail, report: &Report) -> io::Result<()> {
        let as_expected = is_expected(mail, report);
        self.mails += 1;
        self.expected += usize::from(as_expected);
        self.sent += report.traffic.sent;
        self.returned += report.traffic.received;
        let decision = match report.decision {
            Decision::Accept => "unchanged",
            Decision::Modify => "modified",
            Decision::Reject => "rejected",
            Decision::Discard => "discarded",
            Decision::Quarantine => "quarantined",
            Decision::Error => "failed",
        };
        let colour = match report.decision {
            Decision::Accept => "32",
            Decision::Modify => "33",
            _ => "31",
        };
        let mark = if as_expected { " " } else { "!" };
        let decision = self.styled(&format!("{decision:<10}"), colour);
        writeln!(
            self.out,
            "{mark} {:<44}{:>10}  {decision}{:>12}{:>11}{:>9}",
            mail.name,
            octets(mail.octets.len() as u64),
            octets(report.traffic.sent),
            octets(report.traffic.received),
            time(report.elapsed),
        )?;
        for line in details(report) {
            let line = self.styled(&format!("    {line}"), "2");
            writeln!(self.out, "{line}")?;
        }
        Ok(())
    }

    fn end(mut self) -> Result<()> {
        let Self { mails, expected, sent, returned, .. } = self;
        writeln!(
            self.out,
            "\n{expected} of {mails} mails as expected; {} sent, {} returned: what stays as it was \
             is never sent back.",
            octets(sent),
            octets(returned),
        )
        .into_diagnostic()?;
        (mails == expected)
            .then_some(())
            .ok_or_else(|| miette!("{} mails met with something else", mails - expected))
    }

    fn styled(&self, text: &str, style: &str) -> String {
        match self.colours {
            true => format!("\x1b[{style}m{text}\x1b[0m"),
            false => text.to_owned(),
        }
    }
}

fn is_expected(mail: &DemoMail, report: &Report) -> bool {
    let by = |service: &str, word: fn(&[u8]) -> bool| {
        let uri = format!("ocp://service/{service}");
        report.services.iter().any(|found| found.service == *uri.as_str() && word(&found.verdict))
    };
    let telling = |word: &[u8]| !matches!(word, b"clean" | b"ham" | b"unchanged" | b"allowed");
    match mail.expectation {
        Expectation::Unchanged => {
            report.decision == Decision::Accept && same(&mail.octets, &report.message)
        }
        Expectation::Modified(service) => {
            report.decision == Decision::Modify && by(service, telling)
        }
        Expectation::Rejected(service) => {
            report.decision == Decision::Reject && by(service, telling)
        }
    }
}

/// Whether the slices are these octets.
fn same(octets: &Bytes, slices: &[Bytes]) -> bool {
    let mut rest = octets.as_ref();
    for slice in slices {
        match rest.strip_prefix(slice.as_ref()) {
            Some(after) => rest = after,
            None => return false,
        }
    }
    rest.is_empty()
}

/// Who found what, and what an SMTP client would be told.
fn details(report: &Report) -> Vec<String> {
    let text = |octets: &[u8]| String::from_utf8_lossy(octets).into_owned();
    let mut lines = Vec::new();
    if report.decision == Decision::Accept {
        return lines;
    }
    for found in &report.services {
        if matches!(found.verdict.as_ref(), b"clean" | b"ham" | b"unchanged" | b"allowed") {
            continue;
        }
        let service = text(&found.service);
        let name = service.rsplit('/').next().unwrap_or(&service);
        let mut line = format!("{name}: {}", text(&found.verdict));
        for detail in [&found.score, &found.reason].into_iter().flatten() {
            line = format!("{line}, {}", text(detail));
        }
        lines.push(cut(line));
    }
    lines.extend(report.reply.as_ref().map(|reply| cut(reply.to_string())));
    lines.extend(report.error.clone().map(cut));
    lines
}

/// To the width of the table.
fn cut(line: String) -> String {
    const WIDTH: usize = 92;
    match line.char_indices().nth(WIDTH) {
        Some((end, _)) => format!("{}…", line.get(..end).unwrap_or_default()),
        None => line,
    }
}

fn octets(count: u64) -> String {
    match count {
        0..10_000 => format!("{count} B"),
        10_000..10_000_000 => format!("{} kB", count / 1_000),
        _ => format!("{} MB", count / 1_000_000),
    }
}

fn time(took: Duration) -> String {
    format!("{} ms", took.as_millis())
}
