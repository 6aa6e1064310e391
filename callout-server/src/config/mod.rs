//! The configuration file: TOML, checked as a whole before anything starts.
//!
//! Only `checked.rs` and `security.rs` see what stands in the file; the rest of the server sees [`Config`].

mod checked;
mod error;
mod raw;
mod security;

pub use checked::{Config, Limits, LogConfig, LogFormat, SpoolConfig, Timeouts};
pub use error::ConfigError;
