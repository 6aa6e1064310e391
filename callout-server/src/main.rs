//! `callout-server`, with the services that come with it.

use std::process::ExitCode;

/// Buffers of messages come and go by the hundred thousand: this allocator keeps their pages for the
/// next ones.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    callout_server::program::main(&callout_server::registry())
}
