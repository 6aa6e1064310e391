//! `opes-mta compare`: where groups that watch, and what took effect, differ.

mod lines;

use std::fs::File;
use std::io::{self, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail, ensure};

use self::lines::{Comparison, Difference, EFFECTIVE, Log, Verdict};

/// What the exit code says of messages that differ; as with diff, 1 is no error.
const DIFFER: u8 = 3;

/// Find out where a group that only watches decides otherwise.
///
/// Reads log lines of `opes-mta milter` and brings those together that are about the same message: what took
/// effect (`message`), and what groups with shadow = true would have made of it (`shadow`).
#[derive(Debug, clap::Args)]
#[command(after_long_help = HELP)]
pub(crate) struct Arguments {
    /// Log files, in JSON as `opes-mta` writes them, or `-` for the standard input; other lines are passed over
    #[arg(required = true, value_name = "LOG|-")]
    logs: Vec<PathBuf>,
    /// Whom to compare: groups that watch, or `effective` for what took effect. Without it: what took
    /// effect and each of the groups
    #[arg(long, num_args = 2, value_names = ["FIRST", "SECOND"])]
    between: Option<Vec<String>>,
    /// How many of the messages that differ are shown
    #[arg(long, value_name = "N", default_value_t = 100)]
    most: usize,
    /// Print one JSON object for each comparison
    #[arg(long)]
    json: bool,
}

const HELP: &str = "\
Examples:
  journalctl -u opes-mta -o cat | opes-mta compare -
  opes-mta compare --between now next mta.log.1 mta.log
  opes-mta compare --json --most 1000 mta.log | jq '.differences[] | select(.second.decision == \"reject\")'

A message has one line for each group that watched it and one for what took effect; they have the same id. \
Those that one of the two has no line of, such as what a sample left out, are counted apart. A group sees \
what those before it in the rule made: put one that is to be compared with them before them.

Exit code: 0 if all agree; 1 if a log can't be read or has nothing to compare; 2 for a wrong command line; \
3 if some differ.";

/// Runs the command.
pub(crate) fn main(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let mut log = Log::default();
    for path in &arguments.logs {
        let read = match path == Path::new("-") {
            true => log.read(io::stdin().lock()),
            false => File::open(path).and_then(|file| log.read(BufReader::new(file))),
        };
        read.with_context(|| format!("{} can't be read", path.display()))?;
    }
    let comparisons = compare(&log, arguments)?;
    let mut text = String::new();
    for comparison in &comparisons {
        match arguments.json {
            true => text.push_str(&serde_json::to_string(comparison).context("cannot print")?),
            false => describe(&mut text, comparison),
        }
        text.push('\n');
    }
    match io::stdout().write_all(text.as_bytes()) {
        // Whoever has read enough may hang up.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            return Err(error).context("cannot print");
        }
        _ => {}
    }
    let differ = comparisons.iter().any(|comparison| comparison.differ > 0);
    Ok(if differ { ExitCode::from(DIFFER) } else { ExitCode::SUCCESS })
}

fn compare(log: &Log, arguments: &Arguments) -> anyhow::Result<Vec<Comparison>> {
    let parties = log.parties();
    ensure!(
        !parties.is_empty(),
        "none of {} lines is about a message: they have to be those of `opes-mta milter`, in JSON",
        log.others
    );
    if let Some([first, second]) = arguments.between.as_deref() {
        for party in [first, second] {
            if !parties.contains(&party.as_str()) {
                bail!("no line is about {party}; there are {}", parties.join(", "));
            }
        }
        return Ok(vec![log.compare(first, second, arguments.most)]);
    }
    let groups: Vec<_> = parties.iter().filter(|party| **party != EFFECTIVE).collect();
    ensure!(!groups.is_empty(), "no group has watched: there is no line `shadow`");
    Ok(groups.iter().map(|group| log.compare(EFFECTIVE, group, arguments.most)).collect())
}

/// A line of what is printed; writing to a string can't fail.
macro_rules! say {
    ($out:ident, $($line:tt)*) => {{
        $out.push_str(&format!($($line)*));
        $out.push('\n');
    }};
}

fn describe(out: &mut String, comparison: &Comparison) {
    let Comparison { first, second, agree, differ, only_first, only_second, .. } = comparison;
    say!(out, "{first} and {second}: {} messages, {agree} agree, {differ} differ", agree + differ);
    if *only_first + *only_second > 0 {
        say!(out, "  without a counterpart: {only_first} of {first}, {only_second} of {second}");
    }
    let width = |name: &str| name.len().max("quarantine".len());
    let (left, right) = (width(first), width(second));
    say!(out, "  {first:left$}  {second:right$}  messages");
    for count in &comparison.decisions {
        let mark = if count.first == count.second { "" } else { "  differ" };
        let (one, other, messages) = (&count.first, &count.second, count.messages);
        say!(out, "  {one:left$}  {other:right$}  {messages:>8}{mark}");
    }
    for difference in &comparison.differences {
        describe_difference(out, comparison, difference);
    }
    let shown = comparison.differences.len() as u64;
    if shown < *differ {
        say!(out, "and {} more that differ (--most)", differ - shown);
    }
}

fn describe_difference(out: &mut String, comparison: &Comparison, difference: &Difference) {
    let queue_id = difference.queue_id.as_deref().unwrap_or("NOQUEUE");
    let sender = difference.sender.as_deref().unwrap_or("nobody");
    let Difference { id, recipients, first, second, .. } = difference;
    say!(out, "{queue_id} ({id}) from {sender} to {recipients}");
    for (party, verdict) in [(&comparison.first, first), (&comparison.second, second)] {
        let Verdict { decision, reason, verdicts } = verdict;
        let reason = reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
        let found = if verdicts.is_empty() { String::new() } else { format!("; {verdicts}") };
        say!(out, "  {party}: {decision}{reason}{found}");
    }
}
