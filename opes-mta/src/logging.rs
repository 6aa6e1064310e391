//! Log lines: for people on a terminal, JSON otherwise; always on the standard error.

use opes_mta::telemetry::{self, Form, Telemetry, Traces};
use tracing_subscriber::EnvFilter;

/// Sends log lines to the standard error, from `info` on unless `RUST_LOG` says something else, and traces to where
/// the settings say. In the runtime that exports them.
pub(crate) fn start(settings: Option<&Telemetry>) -> anyhow::Result<Traces> {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let lines = Form::of_terminal().lines();
    let (traces, _) = telemetry::start(lines, filter, settings, "opes-mta")?;
    Ok(traces)
}
