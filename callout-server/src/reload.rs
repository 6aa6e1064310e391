//! Reading the configuration again while the server runs.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use miette::{GraphicalReportHandler, GraphicalTheme, IntoDiagnostic, Report, miette};
use opes_mta::service_manager;
use services::Registry;
use tokio::sync::Mutex;
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use crate::config::{Config, ConfigError, Document, changes};
use crate::listen::Address;
use crate::logging::Level;
use crate::server::Server;

/// Where a configuration comes from: a file, and what the command line says instead of it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Source {
    /// The embedded defaults if there is none.
    pub(crate) file: Option<PathBuf>,
    /// Where to listen, unless it is empty.
    pub(crate) listen: Vec<Address>,
    /// Where the control socket is.
    pub(crate) control: Option<PathBuf>,
}

impl Source {
    /// Reads and checks it; with the file, if there is one.
    ///
    /// # Errors
    /// What is wrong with it, and where.
    pub(crate) fn load(
        &self,
        registry: &Registry,
    ) -> Result<(Config, Option<Document>), ConfigError> {
        let (mut config, document) = match &self.file {
            None => (Config::embedded(registry)?, None),
            Some(file) => {
                let document = Document::load(file)?;
                (Config::parse(document.text(), document.path(), registry)?, Some(document))
            }
        };
        if !self.listen.is_empty() {
            if config.tls.is_none() {
                for address in &self.listen {
                    let checked = Address::without_tls(&address.to_string());
                    checked.map_err(|error| ConfigError::new(Path::new(""), "", error, None))?;
                }
            }
            config.listen.clone_from(&self.listen);
        }
        config.admin.control = self.control.clone().or(config.admin.control);
        Ok((config, document))
    }
}

/// Puts a new configuration into use: as a whole, or not at all.
#[derive(Debug)]
pub(crate) struct Reloader {
    server: Arc<Server>,
    registry: Registry,
    source: Source,
    level: Level,
    stop: CancellationToken,
    /// One after the other.
    turn: Mutex<()>,
}

impl Reloader {
    /// One for a server that began with this configuration.
    pub(crate) fn new(
        server: Arc<Server>,
        registry: Registry,
        source: Source,
        level: Level,
        stop: CancellationToken,
    ) -> Self {
        Self { server, registry, source, level, stop, turn: Mutex::default() }
    }

    /// Reads the configuration again: what changed, in a line. The log says the same.
    ///
    /// New connections have the new one; those that are open keep the old one, whose services end with the last of
    /// them. Safe to cancel only before it has begun: [`Reloader::reload`] is spawned by those who may go away.
    ///
    /// # Errors
    /// Why the old one stays, for people.
    pub(crate) async fn reload(&self) -> Result<String, String> {
        let _turn = self.turn.lock().await;
        service_manager::reloading();
        let loaded = self.exchange().await;
        service_manager::reloaded();
        self.server.metrics.reloaded(loaded.is_ok());
        match &loaded {
            Ok(changed) => info!("the configuration is in use: {changed}"),
            Err(error) => {
                error!(%error, position = position(error), "the old configuration stays in use");
            }
        }
        loaded.map_err(|error| describe(&error))
    }

    async fn exchange(&self) -> Result<String, Report> {
        let file = self.source.file.as_ref().ok_or_else(|| {
            miette!(
                "there is no configuration file to read again: the embedded defaults are in use"
            )
        })?;
        let (source, registry) = (self.source.clone(), self.registry.clone());
        let loaded = spawn_blocking(move || source.load(&registry)).await.into_diagnostic()?;
        let (config, document) = loaded?;
        let current = self.server.current();
        let fixed = current.config.unchangeable(&config);
        let failed = |keys: &[&[&str]], message: String| match &document {
            Some(document) => document.error(keys, message),
            None => ConfigError::new(file, "", message, None),
        };
        if !fixed.is_empty() {
            let names: Vec<String> = fixed.iter().map(|key| key.join(".")).collect();
            let names = names.join(", ");
            let message = format!("{names}: a running server can't change that: restart it");
            return Err(failed(&fixed, message).into());
        }
        if let Err(services) = config.start().await {
            let causes = services.iter().map(|(name, cause)| format!("service {name}: {cause}"));
            let keys: Vec<[&str; 2]> =
                services.iter().map(|(name, _)| ["services", name.as_str()]).collect();
            let keys: Vec<&[&str]> = keys.iter().map(<[_; 2]>::as_slice).collect();
            return Err(failed(&keys, causes.collect::<Vec<_>>().join("; ")).into());
        }
        if self.stop.is_cancelled() {
            return Err(miette!("the server is stopping"));
        }
        let changed = changes(&current.config, &config);
        self.level.change(&config.log);
        self.server.exchange(config);
        Ok(match changed.is_empty() {
            true => format!(
                "{}: nothing changed in it, and files that it names were read again",
                file.display()
            ),
            false => format!("{}: changed: {}", file.display(), changed.join(", ")),
        })
    }

    /// The configuration in use, as a file.
    pub(crate) fn running(&self) -> String {
        self.server.current().config.dump()
    }
}

fn position(error: &Report) -> Option<String> {
    let (line, column) = error.downcast_ref::<ConfigError>()?.line_and_column()?;
    Some(format!("{line}:{column}"))
}

/// As a program prints it.
fn describe(error: &Report) -> String {
    let mut text = String::new();
    let handler = GraphicalReportHandler::new_themed(GraphicalTheme::unicode_nocolor());
    match handler.render_report(&mut text, error.as_ref()) {
        Ok(()) => text,
        Err(_) => error.to_string(),
    }
}
