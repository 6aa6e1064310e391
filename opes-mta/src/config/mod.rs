//! The configuration of an OPES MTA: TOML, checked as a whole before anything starts.
//!
//! What stands in the file is seen in this folder alone; everybody else sees [`Config`], whose values can be
//! relied on. `deploy/opes-mta.toml` is the commented example.

mod address;
mod checked;
mod clients;
mod error;
mod group;
mod listen;
mod notes;
mod raw;
mod rules;
mod system;

pub use address::AddressPattern;
pub use checked::{Bypass, Config, Limits};
pub use clients::{Clients, Origin};
pub use error::ConfigError;
pub use group::{Group, RecipientsDiffer};
pub use listen::{Listen, MilterAddress, admin_address};
pub use rules::{Known, Rule, Rules, Selection};
pub use system::{Disclosure, System};
