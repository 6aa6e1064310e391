//! Log lines: for people on a terminal, JSON otherwise; always on the standard error.

use std::io::{self, IsTerminal};

use opes_mta::telemetry::{self, Telemetry, Traces};
use tracing_subscriber::{EnvFilter, Layer};

/// Sends log lines to the standard error, from `info` on unless `RUST_LOG` says something else, and traces to where
/// the settings say. In the runtime that exports them.
pub(crate) fn start(settings: Option<&Telemetry>) -> anyhow::Result<Traces> {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let lines = tracing_subscriber::fmt::layer().with_writer(io::stderr);
    // Who reads the log may end before us; to say so where nobody reads is a panic.
    let lines = lines.log_internal_errors(false);
    let lines = if io::stderr().is_terminal() {
        lines.with_target(false).boxed()
    } else {
        lines.json().flatten_event(true).with_span_list(false).boxed()
    };
    let (traces, _) = telemetry::start(lines, filter, settings, "opes-mta")?;
    Ok(traces)
}
