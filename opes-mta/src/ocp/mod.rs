//! The client side of OCP: a connection to a callout server that many dialogs share.

mod address;
mod client;
mod driver;
mod upstream;

pub use address::{AddressSyntax, ServerAddress};
pub use client::{AdaptedFlow, Client, ConnectError, Dialog, OriginalFlow, Piece, Target};
pub use driver::{ClientError, Ended};
pub use upstream::Upstream;
