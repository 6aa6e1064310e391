//! `callout-server` with a service of one's own: everything that it can do, and one kind of service more.

mod blocklist;

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let mut registry = callout_server::registry();
    registry.register(blocklist::KIND);
    callout_server::program::main(&registry)
}
