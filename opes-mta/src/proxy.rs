//! `opes-mta smtp`: a proxy in front of a mail server becomes an OPES MTA.

use std::process::ExitCode;
use std::sync::Arc;

use opes_mta::config::{Clients, Config, MilterAddress};
use opes_mta::front::smtp::{self, Listeners, Settings, Trust};
use opes_mta::relay::{NextHop, NextHopAddress};

use crate::serve::{self, Services};

/// Be an SMTP proxy: bring mail to callout servers on its way to the next hop.
///
/// What clients say goes on as the services have made it, and the next hop's replies are the clients':
/// nothing is accepted that the next hop has not accepted.
#[derive(Debug, clap::Args)]
#[command(after_long_help = HELP)]
pub(crate) struct Arguments {
    #[command(flatten)]
    services: Services,
    /// Where clients connect to: HOST:PORT or unix:/PATH
    #[arg(long, value_name = "ADDR", required = true, value_parser = address)]
    listen: Vec<MilterAddress>,
    /// The mail server that everything goes to: HOST:PORT or unix:/PATH
    #[arg(long, value_name = "ADDR")]
    next_hop: NextHopAddress,
    /// Peers that may say for which client they speak (XFORWARD): networks, or `unix`
    #[arg(
        long,
        value_name = "NETWORK,...",
        value_delimiter = ',',
        default_value = "127.0.0.0/8,::1,unix"
    )]
    trust: Vec<Clients>,
}

const HELP: &str = "\
In front of Postfix's own queue (smtpd_proxy_filter), in master.cf:
  smtp      inet  n  -  n  -  20  smtpd
    -o smtpd_proxy_filter=127.0.0.1:10025
  127.0.0.1:10026 inet n  -  n  -   -  smtpd
    -o smtpd_authorized_xforward_hosts=127.0.0.0/8 -o smtpd_client_restrictions=permit_mynetworks,reject
    -o smtpd_relay_restrictions=permit_mynetworks,reject

Examples:
  opes-mta smtp --listen 127.0.0.1:10025 --next-hop 127.0.0.1:10026
  opes-mta smtp --listen 0.0.0.0:25 --next-hop mail.internal:25 --trust unix --config /etc/opes-mta.toml

Of the configuration, groups, rules, limits, the system and bypass count here; [[listen]] is for the milter.
Log lines go to the standard error, as JSON unless that is a terminal; one line a message says what became
of it and why. RUST_LOG replaces the level, which is info.

What does not get through: STARTTLS, XCLIENT and extensions that the proxy does not know. Content with bare
CR or LF is refused. Quarantine, delay and other effects that need a queue are not offered to services.

SIGTERM and SIGINT: no new connections, messages under way end, then it exits with 0.

Exit code: 0; 1 if it can't start; 2 for a wrong command line.";

/// Runs the command.
pub(crate) fn main(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let Arguments { services, listen, next_hop, trust } = arguments;
    serve::run(services.config(), |config| serve(config, listen, next_hop, trust))
}

async fn serve(
    config: Config,
    listen: Vec<MilterAddress>,
    next_hop: NextHopAddress,
    trust: Vec<Clients>,
) -> anyhow::Result<()> {
    let stop = serve::stopped_by_signals()?;
    let listeners = Listeners::bind(&listen).await?;
    let processor = serve::processor(config, &smtp::offer(), &stop).await?;
    for address in listeners.addresses() {
        tracing::info!(%address, %next_hop, "listening");
    }
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = if name.trim().is_empty() { "localhost" } else { name.trim() };
    let settings =
        Settings { next_hop: Arc::new(NextHop::new(next_hop, name)), trust: Trust(trust) };
    listeners.serve(settings, processor, stop).await;
    Ok(())
}

/// `HOST:PORT` or `unix:/PATH`.
fn address(text: &str) -> Result<MilterAddress, String> {
    let unix = text.starts_with("unix:");
    let written = if unix { text.to_owned() } else { format!("inet:{text}") };
    written.parse().map_err(|_| format!("`{text}` is neither HOST:PORT nor unix:/PATH"))
}
