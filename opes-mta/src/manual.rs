//! Man pages and shell completions, made of what a program says about its command line: they can't differ from it.

use std::fs;
use std::io;
use std::path::Path;

use clap::Command;
use clap_complete::Shell;

/// Writes a page for the program and one for each of its subcommands that are not hidden.
///
/// # Errors
/// If the folder, which is made where it is missing, can't be written to.
pub fn pages(command: Command, folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    clap_mangen::generate_to(command, folder)
}

/// Writes a completion script for a shell into a folder, under the name that the shell looks for.
///
/// # Errors
/// If the folder, which is made where it is missing, can't be written to.
pub fn completions(mut command: Command, shell: Shell, folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    let name = command.get_name().to_owned();
    clap_complete::generate_to(shell, &mut command, name, folder).map(drop)
}
