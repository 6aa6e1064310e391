//! Log lines: for people on a terminal, JSON otherwise; always on the standard error.

use std::io::{self, IsTerminal};

use opes_mta::telemetry::{self, Telemetry, Traces};
use tracing::error;
use tracing_subscriber::{EnvFilter, Layer, fmt};

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
    // Who reads the log may end before us; to say so where nobody reads is a panic.
    let lines = fmt::layer().with_writer(io::stderr).log_internal_errors(false);
    let human = match config.format {
        LogFormat::Auto => io::stderr().is_terminal(),
        LogFormat::Human => true,
        LogFormat::Json => false,
    };
    let lines = if human {
        lines.with_ansi(io::stderr().is_terminal()).with_target(false).boxed()
    } else {
        // The innermost span names connection, dialog and xid.
        lines.json().flatten_event(true).with_span_list(false).boxed()
    };
    let (traces, level) = telemetry::start(lines, filter(config), settings, "callout-server")?;
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
