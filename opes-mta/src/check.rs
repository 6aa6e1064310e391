//! `opes-mta check`: what a configuration means, or what is wrong with it.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use ocp_proto::smtp::{FailurePolicy, ProfileKind};
use opes_mta::config::{Bypass, Config, Group, Limits, RecipientsDiffer, System};
use opes_mta::group::Overload;

/// Check a configuration file.
///
/// Prints what it means: front ends, groups of callout servers, whose mail goes to which of them, limits,
/// memory in the worst case, and notes on what may not be meant. No server is asked.
#[derive(Debug, clap::Args)]
#[command(after_long_help = HELP)]
pub(crate) struct Arguments {
    /// The file (TOML). Paths in it start at its folder
    #[arg(value_name = "FILE", default_value = "/etc/opes-mta.toml")]
    file: PathBuf,
}

const HELP: &str = "\
The smallest file that does something:
  [[listen]]
  milter = \"inet:127.0.0.1:8899\"

  [[group]]
  name = \"clean\"
  servers = [\"127.0.0.1:4037\"]
  services = [\"virus-scan\", \"mime-strip\"]

deploy/opes-mta.toml lists and explains every key.

Exit code: 0; 1 if the file can't be used: the error names line and column; 2 for a wrong command line.";

/// A line of what is printed; writing to a string can't fail.
macro_rules! say {
    ($out:ident, $($line:tt)*) => {{
        $out.push_str(&format!($($line)*));
        $out.push('\n');
    }};
}

/// Runs the command.
pub(crate) fn main(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let config = match Config::load(&arguments.file) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("{:?}", miette::Report::new(error));
            return Ok(ExitCode::FAILURE);
        }
    };
    let text = format!("{}: valid\n{}", arguments.file.display(), describe(&config));
    match io::stdout().write_all(text.as_bytes()) {
        // Whoever has read enough may hang up.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(error).context("cannot print")
        }
        _ => Ok(ExitCode::SUCCESS),
    }
}

fn describe(config: &Config) -> String {
    let mut out = String::new();
    if let Some(system) = &config.system {
        describe_system(&mut out, system);
    }
    if let Some(telemetry) = &config.telemetry {
        say!(out, "traces: {telemetry}");
    }
    for listen in &config.listen {
        say!(out, "listener {}: milter at {}", listen.name, listen.milter);
    }
    match &config.admin {
        Some(address) => say!(out, "admin: http://{address}: /metrics, /healthz, /readyz"),
        None => say!(out, "admin: none"),
    }
    for group in &config.groups {
        describe_group(&mut out, group);
    }
    say!(out, "rules: the first that matches decides");
    for rule in config.rules.iter() {
        let groups = match config.group_names(rule) {
            none if none.is_empty() => "nobody is asked".to_owned(),
            names => names.join(", then "),
        };
        say!(out, "  {rule}: {groups}");
        if rule.matches_everybody() {
            break;
        }
    }
    describe_bypass(&mut out, &config.bypass);
    describe_limits(&mut out, &config.limits);
    let Limits { memory_octets, disk_octets, .. } = config.limits;
    let folder = config.temporary_folder.display();
    let (one, all) = (mebibytes(memory_octets as u64), mebibytes(disk_octets));
    say!(out, "  by SMTP, what is beyond {one} of a message lies in {folder}, {all} together");
    let uses = config.worst_case_memory();
    let all = uses.iter().fold(0u64, |all, (_, octets)| all.saturating_add(*octets));
    say!(out, "memory: {} at the most that peers can make it hold", mebibytes(all));
    for (what, octets) in uses {
        say!(out, "  {:>12}  {what}", mebibytes(octets));
    }
    for note in config.notes() {
        say!(out, "note: {note}");
    }
    out
}

fn describe_system(out: &mut String, system: &System) {
    let System { uri, name, services_in_trace, disclosure } = system;
    say!(out, "system {uri}, this processor is {name}");
    let services = if *services_in_trace { "named in messages" } else { "named in the log only" };
    say!(out, "  services    {services}");
    if let Some(page) = disclosure {
        say!(out, "  disclosure  http://{}", page.listen);
        say!(out, "  operator    {}", page.operator);
        say!(out, "  privacy     {}", page.privacy_policy);
        say!(out, "  contact     {}", page.contact);
        say!(out, "  references  {}", page.reference_validity);
    }
}

fn describe_group(out: &mut String, group: &Group) {
    let servers: Vec<String> = group.servers.iter().map(ToString::to_string).collect();
    say!(out, "group {}", group.name);
    say!(out, "  servers     {}", servers.join(", "));
    if group.tls.is_some() {
        say!(out, "  TLS         certificates read");
    }
    say!(out, "  services    {}", group.services.join(", "));
    if group.profile == ProfileKind::Reply {
        say!(out, "  profile     reply: it is asked about the next hop's replies alone");
    }
    if let Some(sample) = group.shadow {
        say!(out, "  shadow      watches {} of all dialogs, changes nothing", percent(sample));
    }
    let policy = match group.on_failure {
        FailurePolicy::Accept => "what the server says; tempfail if it is away".to_owned(),
        FailurePolicy::Tempfail => "tempfail; reject if the server says it".to_owned(),
        FailurePolicy::Reject => "reject".to_owned(),
    };
    say!(out, "  on failure  {policy}");
    say!(out, "  deadlines   {}", deadlines(group.command_deadline, group.content_deadline));
    let overload = match group.overload {
        Overload::Wait => "wait",
        Overload::Bypass => "go on unchecked if the server's policy is accept, else tempfail",
        Overload::Tempfail => "tempfail",
    };
    let Group { connections, open_limit, .. } = group;
    say!(
        out,
        "  load        {connections} connections and {open_limit} open transactions a server"
    );
    say!(out, "  overload    {overload}");
    say!(
        out,
        "  ejection    after {} failures in {}, for {} and more",
        group.eject_failures,
        seconds(group.eject_after),
        seconds(group.revive_after)
    );
    let differ = match group.recipients_differ {
        RecipientsDiffer::Reject => "reject, if they differ",
        RecipientsDiffer::Tempfail => "tempfail, if they differ",
        RecipientsDiffer::Quarantine => "quarantine, if they differ",
    };
    if group.profile == ProfileKind::Command {
        say!(out, "  recipients  {differ} and there is one message for all");
        let sent = if group.whole_body { "whole" } else { "as much as services look at" };
        say!(out, "  bodies      {sent}, by milter");
    }
}

fn describe_bypass(out: &mut String, bypass: &Bypass) {
    let Bypass { clients, authenticated, xopes_bypass } = bypass;
    let mut who: Vec<String> = clients.iter().map(ToString::to_string).collect();
    if *authenticated {
        who.push("who has authenticated".to_owned());
    }
    if who.is_empty() {
        return say!(out, "bypass: nobody may ask for it");
    }
    let unseen = if *xopes_bypass { " (a milter does not see XOPES-BYPASS)" } else { "" };
    say!(out, "bypass: OPES-Bypass of {}{unseen}", who.join(", "));
}

fn describe_limits(out: &mut String, limits: &Limits) {
    let Limits {
        connections,
        message_octets,
        content_octets,
        command_deadline,
        content_deadline,
        progress_interval,
        ..
    } = limits;
    let (one, all) = (mebibytes((*message_octets).into()), mebibytes(*content_octets));
    say!(out, "limits: {connections} connections, messages of {one}, {all} together");
    say!(out, "  in all, {}", deadlines(*command_deadline, *content_deadline));
    say!(out, "  mail servers hear of progress every {}", seconds(*progress_interval));
}

fn deadlines(command: Duration, content: Duration) -> String {
    format!("{} for a command, {} for content", seconds(command), seconds(content))
}

fn seconds(time: Duration) -> String {
    format!("{} s", time.as_secs())
}

fn mebibytes(octets: u64) -> String {
    format!("{} MiB", octets.div_ceil(1024 * 1024))
}

fn percent(share: f64) -> String {
    format!("{} %", share * 100.0)
}
