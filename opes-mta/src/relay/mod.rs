//! The client side of SMTP and LMTP: a connection to the next hop, and delivery over it.
//!
//! ```text
//!  Connection::open ──▶ connect ──▶ greeting ──▶ EHLO ──▶ STARTTLS, EHLO
//!  command ──▶ push ──▶ Wire ──▶ octets            content ──▶ Transfer (dots or chunks) ──▶ Wire
//!  Reply   ◀── reply ◀── ReplyDecoder ◀── octets   Answer  ◀── Transfer::finish
//! ```
//!
//! Who passes on a dialog uses [`Connection`] command by command; who delivers stored mail calls
//! [`Connection::deliver`], on connections that a [`Pool`] keeps. Content takes effect at its end only: a
//! [`Transfer`] that is dropped before takes its connection along, and the next hop has no message.
//!
//! The next hop is a peer like any other: what it says is bounded and checked, an answer that nobody asked
//! for ends the connection, and each wait has a deadline (RFC 5321 section 4.5.3.2).

mod address;
mod connection;
mod deliver;
mod error;
mod hello;
mod origin;
mod parameters;
mod pool;
mod stage;
mod tls;
mod transfer;
mod transport;
mod wire;

pub use address::{AddressSyntax, NextHopAddress};
pub use connection::{Connection, LONGEST_RESPONSE};
pub use deliver::{Message, Options, Outcome};
pub use error::{Attempts, Cause, RelayError};
pub use hello::NextHop;
pub use origin::Origin;
pub use pool::{Kept, Pool, PoolLimits};
pub use stage::{Stage, Timeouts};
pub use tls::TlsPolicy;
pub use transfer::{Answer, Expected, Transfer};
pub(crate) use transport::Transport;
