//! The front ends: ways by which mail comes in.

pub mod file;
pub mod mbox;
pub mod milter;
pub mod source;
