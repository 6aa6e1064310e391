//! `opes-mta smtp` with a quarantine and a spool, and the commands that work beside it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::{Milter, files, program, text};

/// What the proxy says of where mail goes, which explains what arrives twice.
const LOG: &str = "info,opes_mta::front::smtp=debug,opes_mta::delivery=debug";

/// A quarantine and a spool, and the proxy that owns them while it runs.
#[derive(Clone, Debug)]
pub struct Stores {
    folder: PathBuf,
}

impl Stores {
    /// Those in this folder, made when the proxy starts.
    pub fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned() }
    }

    /// Starts the proxy.
    ///
    /// # Panics
    /// If it does not listen.
    pub fn start_proxy(&self, address: &str, next_hop: u16, config: &str) -> Milter {
        let file = self.folder.join("opes-mta.toml");
        std::fs::write(&file, config).expect("the configuration can be written");
        let mut command = program("opes-mta");
        let next_hop = format!("127.0.0.1:{next_hop}");
        command.args(["smtp", "--listen", address, "--next-hop", &next_hop, "--config"]).arg(&file);
        command.arg("--quarantine").arg(self.quarantine()).arg("--spool").arg(self.spool());
        command.env("RUST_LOG", LOG);
        Milter::run(command)
    }

    /// The records of what the quarantine has; none before there is one.
    ///
    /// # Panics
    /// If it prints something else than JSON.
    pub fn kept(&self) -> Vec<Value> {
        let mut command = self.command("quarantine", "list", &[]);
        records(&command.arg("--json").output().expect("it runs"))
    }

    /// The records of what waits in the spool; none before there is one.
    ///
    /// # Panics
    /// If it prints something else than JSON.
    pub fn waiting(&self) -> Vec<Value> {
        records(&self.command("spool", "list", &[]).arg("--json").output().expect("it runs"))
    }

    /// A message in the quarantine.
    ///
    /// # Panics
    /// If it is not there.
    pub fn message(&self, id: &str) -> Vec<u8> {
        let output = self.command("quarantine", "export", &[id.to_owned()]).output();
        let output = output.expect("it runs");
        assert!(output.status.success(), "{output:?}");
        output.stdout
    }

    /// The command that releases messages from the quarantine. What it says is not heard.
    pub fn release(&self, ids: &[String]) -> Command {
        let mut command = self.command("quarantine", "release", ids);
        command.arg("--spool").arg(self.spool()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    /// What was deferred is due now, but for what is being delivered. Of the rest the proxy knows by itself.
    ///
    /// # Panics
    /// If the command can't be started.
    pub fn flush(&self) {
        let is_deferred = |entry: &Value| entry["recipients"][0]["state"]["is"] == "deferred";
        let deferred = self.waiting().into_iter().filter(is_deferred);
        let ids: Vec<_> = deferred.map(|entry| text(&entry, "id")).collect();
        if !ids.is_empty() {
            self.command("spool", "flush", &ids).output().expect("it runs");
        }
    }

    /// The files in which messages and their records are: two for each that is whole.
    pub fn files(&self) -> Vec<PathBuf> {
        let folders = [self.quarantine().join("quarantine"), self.spool().join("spool")];
        folders.iter().flat_map(|folder| files(folder)).collect()
    }

    fn command(&self, store: &str, action: &str, ids: &[String]) -> Command {
        let mut command = program("opes-mta");
        let folder = if store == "spool" { self.spool() } else { self.quarantine() };
        let option = if store == "spool" { "--spool" } else { "--store" };
        command.args([store, action, option]).arg(folder).args(ids);
        command
    }

    fn quarantine(&self) -> PathBuf {
        self.folder.join("quarantine")
    }

    fn spool(&self) -> PathBuf {
        self.folder.join("spool")
    }
}

fn records(output: &Output) -> Vec<Value> {
    let lines = String::from_utf8_lossy(&output.stdout);
    let parse = |line: &str| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
    lines.lines().map(parse).collect()
}
