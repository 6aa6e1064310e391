//! Log lines: for people on a terminal, JSON otherwise; always on the standard error.

use std::io::{self, IsTerminal};

use crate::config::{LogConfig, LogFormat};
use tracing_subscriber::EnvFilter;

/// Sends log lines to the standard error. `RUST_LOG` replaces the configured level.
pub(crate) fn start(config: &LogConfig) {
    let filter =
        EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(&config.level));
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    // Who reads the log may end before us; to say so where nobody reads is a panic.
    let lines = lines.log_internal_errors(false);
    let human = match config.format {
        LogFormat::Auto => io::stderr().is_terminal(),
        LogFormat::Human => true,
        LogFormat::Json => false,
    };
    if human {
        lines.with_ansi(io::stderr().is_terminal()).with_target(false).init();
    } else {
        // The innermost span names connection, dialog and xid.
        lines.json().flatten_event(true).with_span_list(false).init();
    }
}
