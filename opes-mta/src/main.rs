//! `opes-mta`: the OPES processor.

mod adapt;
mod check;
mod compare;
mod healthy;
mod load;
mod logging;
mod output;
mod progress;
mod proxy;
mod serve;
mod stores;
mod tls;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{CommandFactory, Parser, Subcommand};
use clap_complete::Shell;
use opes_mta::manual;

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
    Healthy(healthy::Arguments),
    Load(load::Arguments),
    Milter(serve::Arguments),
    Smtp(proxy::Arguments),
    Quarantine(stores::quarantine::Arguments),
    Spool(stores::spool::Arguments),
    /// Write the man pages into a folder.
    #[command(hide = true)]
    Man {
        folder: PathBuf,
    },
    /// Write completions for a shell into a folder.
    #[command(hide = true)]
    Completions {
        shell: Shell,
        folder: PathBuf,
    },
}

fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Adapt(arguments) => adapt::main(arguments),
        Command::Check(arguments) => check::main(&arguments),
        Command::Compare(arguments) => compare::main(&arguments),
        Command::Healthy(arguments) => healthy::main(arguments),
        Command::Load(arguments) => load::main(arguments),
        Command::Milter(arguments) => serve::main(arguments),
        Command::Smtp(arguments) => proxy::main(arguments),
        Command::Quarantine(arguments) => stores::quarantine::main(arguments),
        Command::Spool(arguments) => stores::spool::main(arguments),
        Command::Man { folder } => written(manual::pages(Arguments::command(), &folder)),
        Command::Completions { shell, folder } => {
            written(manual::completions(Arguments::command(), shell, &folder))
        }
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            eprintln!("opes-mta: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn written(result: std::io::Result<()>) -> anyhow::Result<ExitCode> {
    result.context("cannot write into the folder")?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        super::Arguments::command().debug_assert();
    }
}
