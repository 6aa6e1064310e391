//! `opes-mta milter`: a mail server that speaks the milter protocol becomes an OPES MTA.

use std::future::Future;
use std::io;
use std::num::NonZero;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use clap::ValueEnum;
use ocp_proto::smtp::FailurePolicy;
use opes_mta::admin;
use opes_mta::config::{Config, ConfigError, Group, Listen, MilterAddress, admin_address};
use opes_mta::disclosure;
use opes_mta::front::milter::{self, Listeners};
use opes_mta::http;
use opes_mta::metrics::{ListenerMetrics, Subject};
use opes_mta::ocp::{ServerAddress, service_uri};
use opes_mta::processor::{Offers, Processor};
use opes_mta::service_manager;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::logging;

/// Be a milter: bring a mail server's mail to callout servers.
///
/// Postfix, sendmail and others ask it about each SMTP command and each message, and carry out what the
/// services answer.
#[derive(Debug, clap::Args)]
#[command(after_long_help = HELP)]
pub(crate) struct Arguments {
    #[command(flatten)]
    services: Services,
    /// Where the mail server connects to, instead of the configuration's: inet:HOST:PORT or unix:/PATH
    #[arg(long, value_name = "ADDR", required_unless_present = "config")]
    listen: Vec<MilterAddress>,
}

/// Who is asked about mail.
#[derive(Debug, clap::Args)]
pub(crate) struct Services {
    /// Configuration (TOML); without it one group with --server and --services
    #[arg(long, value_name = "FILE", conflicts_with_all = ["server", "services", "on_failure"])]
    config: Option<PathBuf>,
    /// Callout servers with the same services: HOST:PORT or unix:PATH
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:4037")]
    server: Vec<ServerAddress>,
    /// Services in their order: URIs, or names that stand for ocp://service/NAME
    #[arg(
        long,
        value_name = "URI,...",
        value_delimiter = ',',
        default_value = "virus-scan,mime-strip,spam-score",
        value_parser = service_uri
    )]
    services: Vec<String>,
    /// What happens to mail that could not be adapted, if that is stricter than what the server says
    #[arg(long, value_name = "POLICY", default_value = "tempfail")]
    on_failure: OnFailure,
    /// Where metrics, health and readiness are told over HTTP, instead of the configuration's: HOST:PORT
    #[arg(long, value_name = "ADDR", value_parser = admin_address)]
    admin: Option<String>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum OnFailure {
    Accept,
    Tempfail,
    Reject,
}

const HELP: &str = "\
Postfix uses it with three lines in main.cf:
  smtpd_milters = inet:127.0.0.1:8899
  milter_default_action = tempfail
  milter_protocol = 6

Examples:
  opes-mta milter --listen inet:127.0.0.1:8899
  opes-mta milter --listen unix:/var/spool/postfix/opes --server 10.0.0.1:4037 --server 10.0.0.2:4037
  opes-mta milter --config /etc/opes-mta.toml

`opes-mta check FILE` says what a configuration means; deploy/opes-mta.toml explains every key. Log lines \
go to the standard error, as JSON unless that is a terminal; one line a message says what became of it \
and why. RUST_LOG replaces the level, which is info.

SIGTERM and SIGINT: no new connections, messages under way end, then it exits with 0. SIGHUP changes nothing.

Exit code: 0; 1 if it can't start; 2 for a wrong command line.";

/// Runs the command.
pub(crate) fn main(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let Arguments { services, listen } = arguments;
    let config = services.config().map(|mut config| {
        if !listen.is_empty() {
            let listen_at = |milter: MilterAddress| Listen { name: milter.to_string(), milter };
            config.listen = listen.into_iter().map(listen_at).collect();
        }
        config
    });
    run(config, serve)
}

async fn serve(config: Config) -> anyhow::Result<()> {
    anyhow::ensure!(!config.listen.is_empty(), "there is no [[listen]], and no --listen");
    for note in config.notes() {
        tracing::warn!(note, "configuration");
    }
    let stop = stopped_by_signals()?;
    on_hangup(nothing_to_read_again)?;
    let listeners = Listeners::bind(&config.listen).await?;
    let admin = bind_admin(&config).await?;
    let processor = processor(config, &milter::offer(), &stop).await?;
    for address in listeners.addresses() {
        tracing::info!(%address, "listening");
    }
    let metrics = listeners.metrics();
    tell(admin, &metrics, Subject::new(&processor, metrics.clone(), None), &stop);
    service_manager::ready();
    listeners.serve(Arc::clone(&processor), stop).await;
    processor.end().await;
    Ok(())
}

/// What SIGTERM and SIGINT cancel.
pub(crate) fn stopped_by_signals() -> anyhow::Result<CancellationToken> {
    let stop = CancellationToken::new();
    let mut terminated = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    let mut interrupted = signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?;
    let stopping = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminated.recv() => {}
            _ = interrupted.recv() => {}
        }
        tracing::info!("stopping");
        service_manager::stopping();
        stopping.cancel();
    });
    Ok(stop)
}

/// Does this whenever SIGHUP comes, which would end the program by itself.
pub(crate) fn on_hangup(reload: impl Fn() + Send + 'static) -> anyhow::Result<()> {
    let mut hangup = signal(SignalKind::hangup()).context("cannot wait for SIGHUP")?;
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            reload();
        }
    });
    Ok(())
}

/// What SIGHUP does where there are no certificates.
pub(crate) fn nothing_to_read_again() {
    tracing::warn!("there are no certificates to read again; a new configuration takes a restart");
}

/// The groups of a configuration, with the disclosure page beside them if there is one.
pub(crate) async fn processor(
    config: Config,
    offers: impl Into<Offers>,
    stop: &CancellationToken,
) -> anyhow::Result<Arc<Processor>> {
    let page = disclosure::Server::bind(&config).await?;
    let processor = Processor::start(config, offers);
    // What the servers want decides what a mail server is asked for.
    processor.tried().await;
    if let Some(page) = page {
        tracing::info!(address = %page.address(), "serving the disclosure page");
        tokio::spawn(page.serve(stop.clone()));
    }
    Ok(processor)
}

/// Where those who operate it ask, if that is configured.
pub(crate) async fn bind_admin(config: &Config) -> anyhow::Result<Option<http::Listener>> {
    Ok(match &config.admin {
        Some(address) => Some(http::Listener::bind(address).await?),
        None => None,
    })
}

/// Tells them how it is until the process ends. It accepts until `stop` is cancelled.
pub(crate) fn tell(
    admin: Option<http::Listener>,
    listeners: &[Arc<ListenerMetrics>],
    subject: Subject,
    stop: &CancellationToken,
) {
    let Some(admin) = admin else { return };
    tracing::info!(address = admin.address(), "admin listening");
    let (listeners, stop) = (listeners.to_vec(), stop.clone());
    let readiness = move || {
        if stop.is_cancelled() {
            let open: u64 = listeners.iter().map(|each| each.open_connections()).sum();
            return Err(format!("draining: opes-mta is stopping, open connections: {open}"));
        }
        Ok(())
    };
    let routes = admin::routes(subject.exposition(), readiness);
    tokio::spawn(async move { http::serve(&admin, routes).await });
}

/// Half of the processors' threads, unless `TOKIO_WORKER_THREADS` says how many: a mail server works beside us, mostly
/// on the same machine, and what goes from one thread to another costs more than an exchange of commands.
fn runtime() -> io::Result<tokio::runtime::Runtime> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    if std::env::var_os("TOKIO_WORKER_THREADS").is_none() {
        let processors = std::thread::available_parallelism().map_or(1, NonZero::get);
        builder.worker_threads(processors.div_ceil(2));
    }
    builder.enable_all().build()
}

/// Runs it with a line in the log for each message; a configuration that is wrong is shown.
pub(crate) fn run<F: Future<Output = anyhow::Result<()>> + Send + 'static>(
    config: Result<Config, ConfigError>,
    serve: impl FnOnce(Config) -> F,
) -> anyhow::Result<ExitCode> {
    let config = match config {
        Ok(config) => config,
        Err(error) => {
            eprintln!("{:?}", miette::Report::new(error));
            return Ok(ExitCode::FAILURE);
        }
    };
    let runtime = runtime().context("cannot start the runtime")?;
    let traces = {
        let _entered = runtime.enter();
        logging::start(config.telemetry.as_ref())?
    };
    // The workers' own task: what this thread took would have to be handed to them, connection by connection.
    let served = runtime.block_on(runtime.spawn(serve(config)));
    traces.end();
    served.context("the program failed")??;
    Ok(ExitCode::SUCCESS)
}

impl Services {
    /// The configuration that says so.
    pub(crate) fn config(self) -> Result<Config, ConfigError> {
        let mut config = match &self.config {
            Some(file) => Config::load(file)?,
            None => {
                let mut servers = Vec::new();
                for server in self.server {
                    servers.extend((!servers.contains(&server)).then_some(server));
                }
                let mut group = Group::new("services".to_owned(), servers, self.services);
                group.on_failure = match self.on_failure {
                    OnFailure::Accept => FailurePolicy::Accept,
                    OnFailure::Tempfail => FailurePolicy::Tempfail,
                    OnFailure::Reject => FailurePolicy::Reject,
                };
                Config::of(group)
            }
        };
        config.admin = self.admin.or(config.admin);
        Ok(config)
    }
}
