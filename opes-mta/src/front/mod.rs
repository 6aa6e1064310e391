//! The front ends: ways by which mail comes in.

mod advisor;
mod facts;
pub mod file;
mod listen;
pub mod mbox;
pub mod milter;
mod pieces;
pub mod smtp;
pub mod source;
