//! Log lines: for people on a terminal, JSON otherwise; always on the standard error.

use opes_mta::telemetry::{self, Form, Telemetry, Traces};
use tracing::error;
use tracing_subscriber::EnvFilter;

use crate::config::{LogConfig, LogFormat};

/// The level of the lines, which can be changed.
#[derive(Debug)]
pub(crate) struct Level(telemetry::Level);

/// Sends log lines to the standard error, and traces to where the settings say. `RUST_LOG` replaces the configured
/// level. In the runtime that exports them.
pub(crate) fn start(
    config: &LogConfig,
    settings: Option<&Telemetry>,
) -> anyhow::Result<(Traces, Level)> {
    let form = match config.format {
        LogFormat::Auto => Form::of_terminal(),
        LogFormat::Human => Form::Human,
        LogFormat::Json => Form::Json,
    };
    let (traces, level) =
        telemetry::start(form.lines(), filter(config), settings, "callout-server")?;
    Ok((traces, Level(level)))
}

impl Level {
    /// From now on it is that of this configuration.
    pub(crate) fn change(&self, config: &LogConfig) {
        if let Err(cause) = self.0.change(filter(config)) {
            error!(%cause, "the level of the log stays as it was");
        }
    }
}

fn filter(config: &LogConfig) -> EnvFilter {
    EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(&config.level))
}
