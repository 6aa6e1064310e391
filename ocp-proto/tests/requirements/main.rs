//! The requirements of RFC 4037 as the catalogue of the project numbers them.
//!
//! A test names those that it shows in its documentation: lines that begin with an ID. [`coverage`]
//! lists the IDs and fails for a MUST without a test.

#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing, clippy::expect_used)]

#[path = "../support/mod.rs"]
mod support;

mod coverage;
mod data;
mod format;
mod limits;
mod negotiation;
mod pace;
mod pausing;
mod profile_text;
mod replies;
mod session;
mod several;
mod stopping;
mod tls;
mod transactions;
