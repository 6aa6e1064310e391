//! Commands that look at stores, and change single entries of them beside their owners.

pub(crate) mod quarantine;
pub(crate) mod spool;
mod table;

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::Context;
use ocp_proto::smtp::Address;
use opes_mta::store::{Broken, Id, StoreError};
use serde::Serialize;

/// Prints what was asked for.
fn print(octets: &[u8]) -> anyhow::Result<()> {
    match io::stdout().write_all(octets) {
        // Whoever has read enough may hang up.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(error).context("cannot print")
        }
        _ => Ok(()),
    }
}

/// Prints a file octet for octet.
fn copy(mut file: impl io::Read) -> anyhow::Result<()> {
    match io::copy(&mut file, &mut io::stdout()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(error).context("cannot print")
        }
        _ => Ok(()),
    }
}

/// A JSON object a line.
fn json_lines<T: Serialize>(values: &[T]) -> anyhow::Result<String> {
    let mut text = String::new();
    for value in values {
        text.push_str(&serde_json::to_string(value).context("cannot print")?);
        text.push('\n');
    }
    Ok(text)
}

/// Says which entries can't be used; the exit code does, too.
fn complain(broken: &[Broken]) -> ExitCode {
    broken.iter().for_each(|broken| eprintln!("opes-mta: {broken}"));
    if broken.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Does the same to each entry, and says what was done. What can't be done to one is said, and the others
/// have their turn.
fn each(
    ids: &[Id],
    done: &str,
    mut work: impl FnMut(&Id) -> Result<(), StoreError>,
) -> anyhow::Result<ExitCode> {
    let mut code = ExitCode::SUCCESS;
    for id in ids {
        match work(id) {
            Ok(()) => print(format!("{id} {done}\n").as_bytes())?,
            Err(error) => {
                eprintln!("opes-mta: {error}");
                code = ExitCode::FAILURE;
            }
        }
    }
    Ok(code)
}

/// `1 recipient`, `2 recipients`
fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// An address with its parameters.
fn with_parameters(address: &Address) -> String {
    let mut text = address.to_string();
    for parameter in &address.parameters {
        text.push(' ');
        text.push_str(&String::from_utf8_lossy(parameter));
    }
    text
}
