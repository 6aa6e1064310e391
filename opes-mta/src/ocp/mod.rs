//! The client side of OCP: a connection to a callout server that many dialogs share.

mod address;
mod client;
mod dialog;
mod driver;
mod requests;
mod service;
mod tls;
mod transport;
mod upstream;

pub use address::{AddressSyntax, ServerAddress};
pub use client::{Client, ConnectError, Target, probe};
pub use dialog::{Asked, Dialog};
pub(crate) use dialog::{Transaction, learn};
pub use driver::ClientError;
pub(crate) use driver::{Ended, MOST_READS};
pub use service::service_uri;
pub use tls::{Tls, TlsError, TlsNegotiation, TlsSettings};
pub(crate) use tls::{certificates, private_key, server_name, verifying, wrong};
pub use upstream::{BeginError, Upstream};
