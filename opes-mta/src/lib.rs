//! The OPES processor: brings mail to a callout server and carries out its answers.
//!
//! ```text
//!  front end ──▶ event::Event ──▶ consult::consult ──▶ ocp::Dialog ──▶ driver ──▶ Connection ──▶ server
//!  front end ◀── Adaptation  ◀─── apply (checked) ◀─── ocp::AdaptedFlow ◀─ driver ◀─ Connection ◀──┘
//! ```
//!
//! - [`front`]: where mail comes from: MTAs ([`front::milter`]), stored mail ([`front::file`]).
//! - [`event`]: what every front end makes of it.
//! - [`consult`]: the one way from an event to its adaptation: deadline, failure policy, bypass.
//! - [`group`]: servers with the same services, of which any may answer.
//! - [`ocp`]: the client. One connection carries many dialogs at a time.
//! - [`reuse`]: answers that hold for a while are used again.
//! - [`kept`], [`apply`]: the octets that stay here, and the checked answer made of them.
//! - [`config`]: what an operator can set, and the rules that say whose mail goes to which services.
//! - [`milter`]: the milter protocol, without sockets.
//! - [`smtp`]: SMTP and LMTP, without sockets.
//! - [`relay`]: the client side of SMTP: connections to the next hop, and delivery.
//! - [`processor`], [`passage`]: the groups that front ends share, and the way of a dialog through them.
//! - [`report`], [`record`]: what became of a mail. [`trace`]: what the mail says of it.
//! - [`spool`]: mail that waits, safe on disk. [`quarantine`]: mail that was stopped. [`store`]: what both are
//!   made of.
//! - [`service_manager`], [`manual`]: what the programs tell systemd, and their man pages. [`admin`], [`http`],
//!   [`instruments`]: how they tell of themselves; [`metrics`]: what is counted here. [`telemetry`]: log lines and traces.
//! - [`bypass`]: services that senders ask to skip. [`disclosure`]: the page at the system's URI.
//!
//! The server is a peer like any other: what it returns is bounded and checked, and nothing takes
//! effect before it has committed the whole answer.

pub mod admin;
pub mod apply;
mod attempt;
pub mod bypass;
pub mod config;
pub mod consult;
pub mod delivery;
pub mod disclosure;
pub mod event;
pub mod front;
pub mod group;
pub mod http;
mod input;
pub mod instruments;
pub mod kept;
pub mod manual;
pub mod metrics;
pub mod milter;
pub mod ocp;
pub mod octets;
pub mod passage;
pub mod processor;
pub mod quarantine;
pub mod record;
pub mod relay;
pub mod report;
pub mod reuse;
pub mod room;
pub mod service_manager;
mod shadow;
pub mod smtp;
pub mod spool;
pub mod store;
pub mod telemetry;
pub mod trace;
mod versions;
