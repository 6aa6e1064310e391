//! Log lines: for people on a terminal, JSON otherwise; always on the standard error.

use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;

/// Sends log lines to the standard error, from `info` on unless `RUST_LOG` says something else.
pub(crate) fn start() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    // Who reads the log may end before us; to say so where nobody reads is a panic.
    let lines = lines.log_internal_errors(false);
    if io::stderr().is_terminal() {
        lines.with_target(false).init();
    } else {
        lines.json().flatten_event(true).with_span_list(false).init();
    }
}
