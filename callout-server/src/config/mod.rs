//! The configuration file: TOML, checked as a whole before anything starts.
//!
//! Only `checked.rs`, `security.rs` and `operators.rs` see what stands in the file; the rest of the server sees [`Config`].

mod checked;
mod document;
mod dump;
mod error;
mod exchange;
mod operators;
mod raw;
mod security;

pub use checked::{AdminConfig, Config, Limits, LogConfig, LogFormat, SpoolConfig, Timeouts};
pub(crate) use document::Document;
pub use error::ConfigError;
pub(crate) use exchange::changes;
pub use operators::{HistoryConfig, User};

/// The commented example with all that it shows: lines that begin with `#key` count.
#[cfg(test)]
fn uncommented(example: &str) -> String {
    let line = |line| match str::strip_prefix(line, '#') {
        Some(key) if key.starts_with(|c: char| c.is_ascii_lowercase() || c == '[') => key,
        _ => line,
    };
    example.lines().map(line).flat_map(|line| [line, "\n"]).collect()
}
