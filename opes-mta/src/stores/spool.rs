//! `opes-mta spool`: mail that waits to be delivered.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::SystemTime;

use clap::Subcommand;
use opes_mta::spool::{Entry, Id, Moment, Recipient, Spool, State};

use super::table::Table;
use super::{complain, copy, counted, each, json_lines, print, with_parameters};

/// Look at mail that was accepted and is not delivered yet, and say what becomes of it.
///
/// Works beside a running `opes-mta`, one entry at a time. An entry that is being delivered at that moment is
/// left alone, and the command says so.
#[derive(Debug, clap::Args)]
#[command(after_long_help = HELP)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List the entries, in the order of their arrival
    List {
        #[command(flatten)]
        at: At,
        /// Print one JSON object for each entry, as it stands in its file
        #[arg(long)]
        json: bool,
    },
    /// Show what is known of an entry
    Show {
        #[command(flatten)]
        at: At,
        /// The entry
        id: Id,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
        /// Print the message instead, octet for octet
        #[arg(long, conflicts_with = "json")]
        message: bool,
    },
    /// Deliver what was deferred now; holds and delays stay
    Flush {
        #[command(flatten)]
        at: At,
        /// The entries; all without it
        ids: Vec<Id>,
    },
    /// Remove entries; nobody is told
    Delete {
        #[command(flatten)]
        at: At,
        /// The entries
        #[arg(required = true)]
        ids: Vec<Id>,
    },
    /// Keep entries from being delivered until they are released
    Hold {
        #[command(flatten)]
        at: At,
        /// The entries
        #[arg(required = true)]
        ids: Vec<Id>,
        /// Why, for those who look at them later
        #[arg(long, value_name = "TEXT", default_value = "by an operator")]
        reason: String,
    },
    /// Let go entries that are on hold or delayed
    Release {
        #[command(flatten)]
        at: At,
        /// The entries
        #[arg(required = true)]
        ids: Vec<Id>,
    },
}

#[derive(Debug, clap::Args)]
struct At {
    /// The folder of the spool
    #[arg(long, value_name = "DIR")]
    spool: PathBuf,
}

const HELP: &str = "\
Examples:
  opes-mta spool list --spool /var/spool/opes-mta
  opes-mta spool list --spool /var/spool/opes-mta --json | jq -r 'select(.hold).id'
  opes-mta spool show --spool /var/spool/opes-mta --message 019b0c3d2e1f-5a6b7c8d
  opes-mta spool flush --spool /var/spool/opes-mta

States: queued; deferred, tried and to be tried again; delayed, as a service asked; hold, until it is released; \
unfinished, while it is being put in, or if the process ended while it was.

Exit code: 0; 1 if an entry can't be read or changed, the others are; 2 for a wrong command line.";

/// Runs the command.
pub(crate) fn main(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let open = |at: &At| Spool::beside(&at.spool);
    let now = SystemTime::now();
    match arguments.action {
        Action::List { at, json } => list(&open(&at)?, json, now.into()),
        Action::Show { at, id, json, message } => {
            let spool = open(&at)?;
            match message {
                true => copy(spool.message(&id)?)?,
                false if json => print(json_lines(&[spool.entry(&id)?])?.as_bytes())?,
                false => print(describe(&spool.entry(&id)?, now.into()).as_bytes())?,
            }
            Ok(ExitCode::SUCCESS)
        }
        Action::Flush { at, ids } => {
            let spool = open(&at)?;
            let (ids, code) = match ids.is_empty() {
                true => deferred(&spool, now.into())?,
                false => (ids, ExitCode::SUCCESS),
            };
            let flushed = each(&ids, "flushed", |id| spool.flush(id, now))?;
            Ok(if flushed == ExitCode::SUCCESS { code } else { flushed })
        }
        Action::Delete { at, ids } => {
            let spool = open(&at)?;
            each(&ids, "deleted", |id| spool.delete(id))
        }
        Action::Hold { at, ids, reason } => {
            let spool = open(&at)?;
            each(&ids, "on hold", |id| spool.hold(id, &reason))
        }
        Action::Release { at, ids } => {
            let spool = open(&at)?;
            each(&ids, "released", |id| spool.release(id, now))
        }
    }
}

fn list(spool: &Spool, json: bool, now: Moment) -> anyhow::Result<ExitCode> {
    let (entries, broken) = spool.entries()?;
    let text = match json {
        true => json_lines(&entries)?,
        false if entries.is_empty() => "nothing waits\n".to_owned(),
        false => {
            let head = ["id", "state", "octets", "arrived", "due", "from", "to", "last reply"];
            let mut table = Table::new(&head);
            entries.iter().for_each(|entry| table.row(cells(entry, now)));
            table.lines()
        }
    };
    print(text.as_bytes())?;
    Ok(complain(&broken))
}

fn cells(entry: &Entry, now: Moment) -> [String; 8] {
    let waiting: Vec<&Recipient> =
        entry.recipients.iter().filter(|recipient| !recipient.state.is_settled()).collect();
    let to = match &waiting[..] {
        [one] => one.address.to_string(),
        several => counted(several.len(), "recipient"),
    };
    let reply = waiting.iter().find_map(|recipient| recipient.state.reply());
    [
        entry.id.to_string(),
        entry.status(now).to_owned(),
        entry.octets.to_string(),
        entry.arrived.to_string(),
        entry.due().map_or("-".to_owned(), |due| due.to_string()),
        entry.sender.to_string(),
        to,
        entry.hold.as_deref().or(reply).unwrap_or_default().to_owned(),
    ]
}

fn describe(entry: &Entry, now: Moment) -> String {
    let mut table = Table::new(&["entry", entry.id.as_str()]);
    let mut line = |name: &str, value: String| table.row([name.to_owned(), value]);
    line("state", entry.status(now).to_owned());
    line("arrived", entry.arrived.to_string());
    line("octets", entry.octets.to_string());
    line("sender", with_parameters(&entry.sender));
    for (name, value) in [
        ("due", entry.due().map(|due| due.to_string())),
        ("not before", entry.not_before.map(|moment| moment.to_string())),
        ("hold", entry.hold.clone()),
        ("queue id", entry.queue_id.clone()),
        ("trace", entry.trace.as_ref().map(|trace| format!("{} {}", trace.system, trace.id))),
        ("found", entry.trace.as_ref().map(|trace| trace.verdicts.clone())),
        ("skips", Some(entry.skips.join(", ")).filter(|skips| !skips.is_empty())),
    ] {
        if let Some(value) = value {
            line(name, value);
        }
    }
    for recipient in &entry.recipients {
        line("recipient", with_parameters(&recipient.address));
        if let Some(next_hop) = &recipient.next_hop {
            line("  next hop", next_hop.clone());
        }
        line("  state", state(&recipient.state));
        if let Some(reply) = recipient.state.reply() {
            line("  reply", reply.to_owned());
        }
    }
    table.lines()
}

fn state(state: &State) -> String {
    match state {
        State::Queued => "queued".to_owned(),
        State::Deferred { until, attempts, .. } => {
            format!("deferred until {until}, {}", counted(*attempts as usize, "attempt"))
        }
        State::Delivered { at, .. } => format!("delivered at {at}"),
        State::Failed { at, .. } => format!("failed at {at}"),
    }
}

/// The entries that wait for another attempt.
fn deferred(spool: &Spool, now: Moment) -> anyhow::Result<(Vec<Id>, ExitCode)> {
    let (entries, broken) = spool.entries()?;
    let is_deferred = |entry: &&Entry| {
        entry.recipients.iter().any(
            |recipient| matches!(recipient.state, State::Deferred { until, .. } if until > now),
        )
    };
    let ids = entries.iter().filter(is_deferred).map(|entry| entry.id.clone()).collect();
    Ok((ids, complain(&broken)))
}
