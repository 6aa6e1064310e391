//! `opes-mta smtp`: a proxy in front of a mail server becomes an OPES MTA.

mod timeouts;
mod tls;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use clap::ValueEnum;
use ocp_proto::smtp::Activation;
use opes_mta::config::{Clients, Config, MilterAddress};
use opes_mta::delivery::Delivery;
use opes_mta::front::smtp::{Introduce, Listeners, Settings, Stores, Trust};
use opes_mta::metrics::{NextHopMetrics, Proxied, Subject};
use opes_mta::octets::TemporaryFiles;
use opes_mta::quarantine::Quarantine;
use opes_mta::relay::{NextHop, NextHopAddress};
use opes_mta::service_manager;
use opes_mta::spool::{Limits, Schedule, Spool};
use tokio::task::spawn_blocking;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use self::timeouts::TimeoutArguments;
use self::tls::TlsArguments;
use crate::serve::{self, Services};

/// How often messages are looked for whose time in the quarantine is over.
const EXPIRY: Duration = Duration::from_secs(3_600);

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
    /// Where this stands in the life of its mail, which services are told: before a queue (receiving),
    /// between two (queued), behind one (sending), or alone between client and mail server (proxy)
    #[arg(long, value_name = "PLACE", default_value = "proxy", hide_possible_values = true)]
    placement: Placement,
    /// What both sides speak: smtp, or lmtp with a reply for each recipient behind content (RFC 2033)
    #[arg(long, value_name = "NAME", default_value = "smtp", hide_possible_values = true)]
    protocol: Protocol,
    /// Whether the next hop learns who the client is: not at all (none), for its log, if it offers that
    /// (xforward), or as if the client had connected to it (xclient): if it does not offer that, it gets no mail
    #[arg(long, value_name = "HOW", default_value = "none", hide_possible_values = true)]
    next_hop_client: NextHopClient,
    /// Peers that may say for which client they speak (XFORWARD), or which client they are (XCLIENT), with the
    /// name that it has authenticated by: networks, or `unix`
    #[arg(
        long,
        value_name = "NETWORK,...",
        value_delimiter = ',',
        default_value = "127.0.0.0/8,::1,unix"
    )]
    trust: Vec<Clients>,
    /// Folder of the quarantine: messages that services want to be looked at; needs --spool
    #[arg(long, value_name = "DIR", requires = "spool")]
    quarantine: Option<PathBuf>,
    /// Folder of the spool: mail that becomes several messages, has to wait, or is released from the quarantine is
    /// accepted there, and brought to the next hop
    #[arg(long, value_name = "DIR")]
    spool: Option<PathBuf>,
    /// How long mail in the spool is tried before its sender hears that it could not be delivered
    #[arg(long, value_name = "SECONDS", default_value = "432000", requires = "spool")]
    spool_lifetime: u64,
    /// Another mail server that services may choose for a message; needs --spool. May be repeated
    #[arg(long = "route", value_name = "ADDR", requires = "spool")]
    routes: Vec<NextHopAddress>,
    #[command(flatten)]
    tls: TlsArguments,
    #[command(flatten)]
    timeouts: TimeoutArguments,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Protocol {
    Smtp,
    Lmtp,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Placement {
    Receiving,
    Queued,
    Sending,
    Proxy,
}

impl From<Placement> for Activation {
    fn from(placement: Placement) -> Self {
        match placement {
            Placement::Receiving => Self::Receiving,
            Placement::Queued => Self::Queued,
            Placement::Sending => Self::Sending,
            Placement::Proxy => Self::Proxy,
        }
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum NextHopClient {
    None,
    Xforward,
    Xclient,
}

impl From<NextHopClient> for Introduce {
    fn from(how: NextHopClient) -> Self {
        match how {
            NextHopClient::None => Self::Never,
            NextHopClient::Xforward => Self::Xforward,
            NextHopClient::Xclient => Self::Xclient,
        }
    }
}

const HELP: &str = "\
In front of Postfix's own queue (smtpd_proxy_filter), with --placement receiving, in master.cf:
  smtp      inet  n  -  n  -  20  smtpd
    -o smtpd_proxy_filter=127.0.0.1:10025
  127.0.0.1:10026 inet n  -  n  -   -  smtpd
    -o smtpd_authorized_xforward_hosts=127.0.0.0/8
    -o smtpd_client_restrictions=permit_mynetworks,reject
    -o smtpd_relay_restrictions=permit_mynetworks,reject

Behind the queue (content_filter), with --placement queued: in main.cf
  content_filter = smtp:[127.0.0.1]:10025
  smtp_send_xforward_command = yes
and the second smtpd of master.cf as above, with -o content_filter= and another -o myhostname=NAME.

Behind the queue on the way out, with --placement sending: relayhost = [127.0.0.1]:10025 in main.cf.

Examples:
  opes-mta smtp --listen 127.0.0.1:10025 --next-hop 127.0.0.1:10026 --placement receiving
  opes-mta smtp --config /etc/opes-mta.toml --listen 0.0.0.0:25 --next-hop mail.internal:25 \\
    --trust unix
  opes-mta smtp --listen 0.0.0.0:25 --tls-certificate mx.pem --tls-key mx.key \\
    --next-hop mail.internal:25 --next-hop-tls require --next-hop-tls-ca internal.pem
  opes-mta smtp --protocol lmtp --listen unix:/run/opes/lmtp --next-hop unix:/run/dovecot/lmtp

Of the configuration, groups, rules, limits, temporary files, the system, bypass and admin count here; [[listen]] is for the milter. \
Log lines go to the standard error, as JSON unless that is a terminal; one line a message says what became \
of it and why. RUST_LOG replaces the level, which is info; at debug a line says where a message goes before \
anybody has it, so that one which arrives twice because a process was killed in between is found.

With --protocol lmtp each recipient gets the next hop's own reply. One that services delete is taken as what \
is discarded is, unless one that they have added is refused: then it gets that reply.

TLS with clients and TLS with the next hop are two matters: each begins with a STARTTLS of its own. What is \
said before STARTTLS is forgotten. A next hop that gets AUTH within TLS gets it from clients within TLS alone.

Of a message 1 MiB is held in memory (memory-octets); what comes behind it lies in a file without a name in \
the folder for temporary files, or where [temporary] says. disk-octets bounds all of them: 452 beyond it.

Groups with profile = \"reply\" are asked about what the next hop replies, before the client gets it. Another next \
hop that they want a recipient to be tried at has to be a --route, and needs --spool.

What does not get through: extensions that the proxy does not know. Content with bare CR or LF is refused. \
Services may ask for quarantine with --quarantine alone. With --spool alone they may ask for hold, delay and new \
messages, and, over SMTP, recipients get different versions; over LMTP they do in any case. Where one message \
becomes several it is on the disk before the client hears that it is accepted:

  opes-mta smtp --listen ADDR --next-hop ADDR --spool /var/lib/opes/spool \\
    --quarantine /var/lib/opes/quarantine
  opes-mta spool list --spool /var/lib/opes/spool
  opes-mta quarantine list --store /var/lib/opes/quarantine
  opes-mta quarantine release --store /var/lib/opes/quarantine --spool /var/lib/opes/spool ID

SIGTERM and SIGINT: no new connections, messages under way end, then it exits with 0.
SIGHUP: with --tls-certificate, it and its key are read again; without it nothing.

XCLIENT of a peer in --trust ends its session, as if the other client had connected: EHLO has to come again, and \
services hear of a new client then. It comes before AUTH, and what a next hop is told by --next-hop-client xclient \
is what it goes by: behind a queue, where mail comes from us, that is xforward.

Exit code: 0; 1 if it can't start; 2 for a wrong command line.";

/// Runs the command.
pub(crate) fn main(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let Arguments {
        services,
        listen,
        next_hop,
        placement,
        next_hop_client,
        protocol,
        trust,
        tls,
        timeouts,
        quarantine,
        spool,
        spool_lifetime,
        routes,
    } = arguments;
    let protocol = match protocol {
        Protocol::Smtp => opes_mta::smtp::Protocol::Smtp,
        Protocol::Lmtp => opes_mta::smtp::Protocol::Lmtp,
    };
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = if name.trim().is_empty() { "localhost" } else { name.trim() };
    let mut counted = BTreeMap::<String, Arc<NextHopMetrics>>::new();
    let mut server = |address: NextHopAddress| -> anyhow::Result<_> {
        let (tls, timeouts) = (tls.policy(&address)?, timeouts.next_hop());
        let metrics = Arc::clone(counted.entry(address.to_string()).or_default());
        Ok(Arc::new(NextHop { protocol, tls, timeouts, metrics, ..NextHop::new(address, name) }))
    };
    let settings = Settings {
        placement: placement.into(),
        introduce: next_hop_client.into(),
        next_hop: server(next_hop)?,
        routes: routes.into_iter().map(server).collect::<anyhow::Result<_>>()?,
        tls: tls.for_clients()?.map(Arc::new),
        trust: Trust(trust),
        silence: timeouts.silence(),
        stores: Stores::default(),
    };
    let give_up = Duration::from_secs(spool_lifetime);
    let folders =
        Folders { quarantine, spool, schedule: Schedule { give_up, ..Schedule::default() } };
    serve::run(services.config(), |config| serve(config, listen, settings, folders))
}

struct Folders {
    quarantine: Option<PathBuf>,
    spool: Option<PathBuf>,
    /// By which mail in the spool is delivered.
    schedule: Schedule,
}

impl Folders {
    /// Opens both, and brings to an end what a process that ended has begun.
    fn open(&self) -> anyhow::Result<Stores> {
        let (mut quarantine, mut spool) = (None, None);
        if let Some(folder) = &self.spool {
            let (opened, recovery) = Spool::open(folder, Limits::default())?;
            recovery.broken.iter().for_each(|broken| tracing::error!(%broken, "the spool"));
            spool = Some(opened);
        }
        if let Some(folder) = &self.quarantine {
            let (opened, recovery) = Quarantine::open(folder, Limits::default())?;
            recovery.broken.iter().for_each(|broken| tracing::error!(%broken, "the quarantine"));
            if let Some(spool) = &spool {
                opened.finish(spool, SystemTime::now())?;
            }
            quarantine = Some(opened);
        }
        Ok(Stores { quarantine, spool })
    }
}

async fn serve(
    config: Config,
    listen: Vec<MilterAddress>,
    settings: Settings,
    folders: Folders,
) -> anyhow::Result<()> {
    let settings = Settings { stores: folders.open()?, ..settings };
    let schedule = folders.schedule;
    // A folder that takes no files is found now, and not by the first large message.
    TemporaryFiles::new(&config.temporary_folder, config.limits.disk_octets).file()?;
    let stop = serve::stopped_by_signals()?;
    let tls = settings.tls.clone();
    serve::on_hangup(move || tls::reload(tls.as_deref()))?;
    let listeners = Listeners::bind(&listen).await?;
    let admin = serve::bind_admin(&config).await?;
    let processor = serve::processor(config, settings.offers(), &stop).await?;
    for address in listeners.addresses() {
        let address = address.without_kind();
        tracing::info!(address, next_hop = %settings.next_hop.address, "listening");
    }
    let Settings { next_hop, routes, stores, .. } = &settings;
    let deliver = |spool| Delivery::new(spool, Arc::clone(next_hop), routes, schedule);
    let delivery = stores.spool.clone().map(deliver);
    let proxied = Proxied {
        next_hops: std::iter::once(next_hop).chain(routes).cloned().collect(),
        stores: stores.clone(),
        delivery: delivery.as_ref().map(Delivery::metrics).cloned(),
    };
    let metrics = listeners.metrics();
    let subject = Subject::new(&processor, metrics.clone(), Some(proxied));
    serve::tell(admin, &metrics, subject, &stop);
    let delivery = delivery.map(|delivery| delivery.run(stop.clone()));
    let expiry = stores.quarantine.clone().map(|quarantine| expire(quarantine, stop.clone()));
    let waiting = [delivery.map(tokio::spawn), expiry.map(tokio::spawn)];
    service_manager::ready();
    listeners.serve(settings, Arc::clone(&processor), stop).await;
    processor.end().await;
    for task in waiting.into_iter().flatten() {
        task.await?;
    }
    Ok(())
}

/// Removes from the quarantine what nobody has asked for in its time.
async fn expire(quarantine: Quarantine, stop: CancellationToken) {
    while !stop.is_cancelled() {
        let kept = quarantine.clone();
        match spawn_blocking(move || kept.expire(SystemTime::now())).await {
            Ok(Ok(0)) | Err(_) => {}
            Ok(Ok(expired)) => tracing::info!(expired, "removed from the quarantine"),
            Ok(Err(error)) => tracing::warn!(cause = %error, "the quarantine can't be read"),
        }
        tokio::select! {
            () = sleep(EXPIRY) => {}
            () = stop.cancelled() => {}
        }
    }
}

/// `HOST:PORT` or `unix:/PATH`.
fn address(text: &str) -> Result<MilterAddress, String> {
    let unix = text.starts_with("unix:");
    let written = if unix { text.to_owned() } else { format!("inet:{text}") };
    written.parse().map_err(|_| format!("`{text}` is neither HOST:PORT nor unix:/PATH"))
}
