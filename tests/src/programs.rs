//! Mail clients that others have written.

use std::process::{Command, Output};

/// Runs swaks against a port of loopback: whether it succeeded, and the dialog as it prints it; `None` if it
/// is not there.
pub fn swaks(port: u16, arguments: &[&str]) -> Option<(bool, String)> {
    let mut command = Command::new("swaks");
    command.args(["--server", &format!("127.0.0.1:{port}"), "--helo", "client.example"]);
    let Output { status, stdout, .. } = command.args(arguments).output().ok()?;
    Some((status.success(), String::from_utf8_lossy(&stdout).into_owned()))
}

/// Runs Postfix's smtp-source against a port of loopback.
///
/// # Panics
/// If it says that something went wrong.
pub fn smtp_source(port: u16, arguments: &[&str]) {
    let mut command = Command::new("/usr/sbin/smtp-source");
    let output = command.args(arguments).arg(format!("inet:127.0.0.1:{port}")).output();
    let output = output.expect("it is there where Postfix is");
    assert!(output.status.success(), "{output:?}");
}
