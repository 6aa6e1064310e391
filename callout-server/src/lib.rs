//! The callout server: OCP connections in, adapted mail out.
//!
//! ```text
//! listen ──▶ driver ──▶ ocp_proto::Connection ──▶ session ──▶ router, chain ──▶ services
//!   socket ◀── driver ◀── Connection ◀── session ◀── adapt ◀── chain
//! ```
//!
//! [`Config`] says what to listen on and which services there are; [`Server`] is what all
//! connections share; [`Listeners`] serve it until they are told to stop. [`Control`] asks it
//! from another process.

pub mod access;
mod adapt;
mod admin;
mod branch;
mod buffers;
mod bypass;
mod chain;
mod commands;
pub mod config;
mod control;
mod demo;
mod driver;
pub mod filter;
mod generation;
mod history;
mod listen;
mod logging;
mod metrics;
mod pieces;
pub mod plugin;
pub mod program;
mod reload;
mod router;
mod server;
mod session;
mod spool;
mod status;
mod terms;
pub mod tls;
mod unix;

pub use branch::Fallback;
pub use config::{Config, ConfigError};
pub use control::{Control, ControlError};
pub use listen::{Address, Listeners};
pub use router::{Entry, Router};
pub use server::Server;

/// The kinds of services that this program knows: those of the crate `services`, and those that run outside of
/// this process.
pub fn registry() -> services::Registry {
    let mut registry = services::Registry::builtin();
    registry.register(plugin::KIND);
    registry.register(filter::KIND);
    registry
}
