//! `opes-mta`: the OPES processor.

mod adapt;
mod check;
mod compare;
mod load;
mod logging;
mod output;
mod progress;
mod proxy;
mod serve;
mod stores;
mod tls;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// As in the server: messages come and go, and their pages stay for the next ones.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The OPES processor: brings mail to an OPES callout server and carries out its answers.
#[derive(Debug, Parser)]
#[command(version, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Adapt(adapt::Arguments),
    Check(check::Arguments),
    Compare(compare::Arguments),
    Load(load::Arguments),
    Milter(serve::Arguments),
    Smtp(proxy::Arguments),
    Quarantine(stores::quarantine::Arguments),
    Spool(stores::spool::Arguments),
}

fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Adapt(arguments) => adapt::main(arguments),
        Command::Check(arguments) => check::main(&arguments),
        Command::Compare(arguments) => compare::main(&arguments),
        Command::Load(arguments) => load::main(arguments),
        Command::Milter(arguments) => serve::main(arguments),
        Command::Smtp(arguments) => proxy::main(arguments),
        Command::Quarantine(arguments) => stores::quarantine::main(arguments),
        Command::Spool(arguments) => stores::spool::main(arguments),
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            eprintln!("opes-mta: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        super::Arguments::command().debug_assert();
    }
}
