//! The front ends: ways by which mail comes in.

mod advisor;
pub mod file;
pub mod mbox;
pub mod milter;
pub mod source;
