//! The milter front end: an MTA that speaks the milter protocol becomes an OPES processor.
//!
//! Sources are Postfix (`src/milter/milter8.c`, `src/cleanup/cleanup_milter.c`,
//! `src/smtpd/smtpd_milter.c`) and sendmail (`sendmail/milter.c`, `sendmail/headers.c`): the protocol
//! has no other specification.

mod common;
pub mod edits;
pub mod effects;
pub mod facts;
pub mod message;
mod unfit;

pub use unfit::Unfit;
