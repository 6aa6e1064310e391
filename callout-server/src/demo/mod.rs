//! The demo: mails of each kind, through a server and back.

mod mails;
mod mime;

pub(crate) use mails::{DemoMail, Expectation, mails};
