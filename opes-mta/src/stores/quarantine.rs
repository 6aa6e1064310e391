//! `opes-mta quarantine`: mail that services stopped.

use std::io::{self, BufReader};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::SystemTime;

use anyhow::{Context, bail};
use clap::{Subcommand, ValueEnum};
use opes_mta::quarantine::{Id, Kept, Quarantine, State, mailbox_entry};
use opes_mta::spool::Spool;

use super::table::Table;
use super::{complain, copy, counted, each, json_lines, print, with_parameters};

/// Look at mail that services stopped, and release or delete it.
///
/// Works beside a running `opes-mta`, one message at a time.
#[derive(Debug, clap::Args)]
#[command(after_long_help = HELP)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List the messages, in the order of their arrival
    List {
        #[command(flatten)]
        at: At,
        /// Print one JSON object for each message, as it stands in its file
        #[arg(long)]
        json: bool,
    },
    /// Show what is known of a message
    Show {
        #[command(flatten)]
        at: At,
        /// The message
        id: Id,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Give messages to the spool: they are delivered once, past the services that had stopped them
    Release {
        #[command(flatten)]
        at: At,
        /// The folder of the spool
        #[arg(long, value_name = "DIR")]
        spool: PathBuf,
        /// The messages
        #[arg(required = true)]
        ids: Vec<Id>,
    },
    /// Remove messages; nobody is told
    Delete {
        #[command(flatten)]
        at: At,
        /// The messages
        #[arg(required = true)]
        ids: Vec<Id>,
    },
    /// Print messages
    Export {
        #[command(flatten)]
        at: At,
        /// How
        #[arg(long, value_enum, default_value_t = Format::Eml)]
        format: Format,
        /// The messages; all without it
        ids: Vec<Id>,
    },
}

#[derive(Debug, clap::Args)]
struct At {
    /// The folder of the quarantine
    #[arg(long, value_name = "DIR")]
    store: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// One message, octet for octet
    Eml,
    /// A mailbox (RFC 4155); lines that begin with From are quoted
    Mbox,
}

const HELP: &str = "\
Examples:
  opes-mta quarantine list --store /var/lib/opes-mta/quarantine
  opes-mta quarantine show --store /var/lib/opes-mta/quarantine 019b0c3d2e1f-5a6b7c8d
  opes-mta quarantine release --store /var/lib/opes-mta/quarantine --spool /var/spool/opes-mta 019b0c3d2e1f-5a6b7c8d
  opes-mta quarantine export --store /var/lib/opes-mta/quarantine --format mbox > review.mbox

What is shown as `looked at by` are the services that had a say when it was stopped: they do not say which of them \
asked for the quarantine. None of them is asked again after a release.

States: kept; released, it was given to the spool and stays here until its time is over; releasing, a release did \
not come to its end: release it again.

Exit code: 0; 1 if a message can't be read or changed, the others are; 2 for a wrong command line.";

/// Runs the command.
pub(crate) fn main(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let open = |at: &At| Quarantine::beside(&at.store);
    match arguments.action {
        Action::List { at, json } => list(&open(&at)?, json),
        Action::Show { at, id, json } => {
            let kept = open(&at)?.entry(&id)?;
            let text = if json { json_lines(&[kept])? } else { describe(&kept) };
            print(text.as_bytes())?;
            Ok(ExitCode::SUCCESS)
        }
        Action::Release { at, spool, ids } => {
            let (quarantine, spool) = (open(&at)?, Spool::beside(&spool)?);
            let now = SystemTime::now();
            each(&ids, "released", |id| quarantine.release(id, &spool, now).map(drop))
        }
        Action::Delete { at, ids } => {
            let quarantine = open(&at)?;
            each(&ids, "deleted", |id| quarantine.delete(id))
        }
        Action::Export { at, format, ids } => export(&open(&at)?, format, ids),
    }
}

fn list(quarantine: &Quarantine, json: bool) -> anyhow::Result<ExitCode> {
    let (entries, broken) = quarantine.entries()?;
    let text = match json {
        true => json_lines(&entries)?,
        false if entries.is_empty() => "nothing is kept\n".to_owned(),
        false => {
            let head = ["id", "state", "octets", "arrived", "expires", "from", "to", "reason"];
            let mut table = Table::new(&head);
            entries.iter().for_each(|kept| table.row(cells(kept)));
            table.lines()
        }
    };
    print(text.as_bytes())?;
    Ok(complain(&broken))
}

fn cells(kept: &Kept) -> [String; 8] {
    let to = match &kept.recipients[..] {
        [one] => one.address.to_string(),
        several => counted(several.len(), "recipient"),
    };
    [
        kept.id.to_string(),
        kept.state.name().to_owned(),
        kept.octets.to_string(),
        kept.arrived.to_string(),
        kept.expires.map_or("-".to_owned(), |expires| expires.to_string()),
        kept.sender.to_string(),
        to,
        kept.reason.clone(),
    ]
}

fn describe(kept: &Kept) -> String {
    let mut table = Table::new(&["message", kept.id.as_str()]);
    let mut line = |name: &str, value: String| table.row([name.to_owned(), value]);
    let state = match kept.state {
        State::Kept => "kept".to_owned(),
        State::Releasing { at } => format!("releasing since {at}: release it again"),
        State::Released { at } => format!("released at {at}"),
    };
    line("state", state);
    line("reason", kept.reason.clone());
    line("arrived", kept.arrived.to_string());
    line("expires", kept.expires.map_or("never".to_owned(), |expires| expires.to_string()));
    line("octets", kept.octets.to_string());
    line("sender", with_parameters(&kept.sender));
    for recipient in &kept.recipients {
        line("recipient", with_parameters(&recipient.address));
    }
    for (name, value) in &kept.client {
        line(name, value.clone());
    }
    for found in &kept.verdicts {
        let score = found.score.as_ref().map(|score| format!(" {score}")).unwrap_or_default();
        let reason = found.reason.as_ref().map(|why| format!(" ({why})")).unwrap_or_default();
        line("found", format!("{}: {}{score}{reason}", found.service, found.verdict));
    }
    for (name, value) in [
        ("looked at by", Some(kept.stopped_by.join(", ")).filter(|names| !names.is_empty())),
        ("queue id", kept.queue_id.clone()),
        ("trace", kept.trace.as_ref().map(|trace| format!("{} {}", trace.system, trace.id))),
    ] {
        value.into_iter().for_each(|value| line(name, value));
    }
    table.lines()
}

fn export(quarantine: &Quarantine, format: Format, ids: Vec<Id>) -> anyhow::Result<ExitCode> {
    let (ids, code) = match ids.is_empty() {
        false => (ids, ExitCode::SUCCESS),
        true => {
            let (entries, broken) = quarantine.entries()?;
            (entries.into_iter().map(|kept| kept.id).collect(), complain(&broken))
        }
    };
    if format == Format::Eml {
        let [id] = &ids[..] else {
            let are = counted(ids.len(), "message");
            bail!("eml is one message, and here are {are}: name one, or use --format mbox");
        };
        copy(quarantine.message(id)?)?;
        return Ok(code);
    }
    let mut out = io::stdout().lock();
    for id in &ids {
        let (kept, message) = (quarantine.entry(id)?, quarantine.message(id)?);
        match mailbox_entry(&kept, &mut BufReader::new(message), &mut out) {
            // Whoever has read enough may hang up.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => break,
            done => done.with_context(|| format!("{id} can't be printed"))?,
        }
    }
    Ok(code)
}
