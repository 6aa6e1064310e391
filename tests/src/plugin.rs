//! Plugins of the stories, most of them in Python, and a server that asks one.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use serde_json::Value;
use tempfile::TempDir;

use crate::{CalloutServer, not_run, text};

/// What the failure policy makes of a mail.
pub const FAILED: &str = "451 4.3.0 Mail inspection is not available now, try again later";
/// What a plugin may see and do, unless a story says otherwise.
pub const GRANTS: &str = "events = [\"MESSAGE\"]\nbody = \"whole\"\nfields = [\"X-Granted\"]\n";

const PYTHON: &str = "/usr/bin/python3";

/// The service `plugin` of a server.
#[derive(Clone, Debug)]
pub struct Plugin {
    /// Where the server finds it.
    pub address: String,
    /// The program that the server starts.
    pub command: Vec<String>,
    /// For an answer, in seconds.
    pub deadline: u64,
    /// More lines of its settings.
    pub settings: String,
    /// The lines of its grants.
    pub grants: String,
}

impl Plugin {
    /// A program, at a unix socket.
    pub fn program(command: &[&str]) -> Self {
        Self {
            address: "unix:plugin.sock".to_owned(),
            command: command.iter().map(ToString::to_string).collect(),
            deadline: 2,
            settings: String::new(),
            grants: GRANTS.to_owned(),
        }
    }

    /// A script of this repository; the folder is that of [`generated`].
    ///
    /// # Panics
    /// If the repository's path is not UTF-8.
    pub fn python(folder: &Path, script: &str, arguments: &[&str]) -> Self {
        let modules = format!("PYTHONPATH={}", folder.display());
        let script = repository().join(script);
        let script = script.to_str().expect("the path is UTF-8");
        Self::program(&[&["/usr/bin/env", &modules, PYTHON, script], arguments].concat())
    }

    /// `tests/src/plugin.py`, which behaves as this word says.
    pub fn behaving(folder: &Path, behaviour: &str) -> Self {
        Self::python(folder, "tests/src/plugin.py", &[behaviour])
    }

    /// A server with it, once it says `ready`.
    ///
    /// # Panics
    /// If one of both does not start.
    pub fn serve(&self, folder: &Path) -> CalloutServer {
        let Self { address, command, deadline, settings, grants } = self;
        let config = format!(
            "[services.plugin]\ndeadline = {deadline}\n[services.plugin.settings]\naddress = \"{address}\"\n\
             command = {command:?}\n{settings}[services.plugin.settings.grants]\n{grants}"
        );
        let mut server = CalloutServer::start(folder, &config, &[]);
        says(&mut server, "ready");
        server
    }
}

/// The root of this repository.
///
/// # Panics
/// If it is not there.
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().expect("it is there")
}

/// A folder with what is generated of the protocol for Python; `None`, and a line that says so, where that can't be.
///
/// # Panics
/// If there can't be a folder.
pub fn generated(story: &str) -> Option<TempDir> {
    let folder = tempfile::tempdir().expect("a folder");
    let proto = repository().join("callout-server/proto");
    let plugin = "--plugin=protoc-gen-grpc_python=/usr/bin/grpc_python_plugin";
    let made = Command::new("protoc")
        .arg(format!("--proto_path={}", proto.display()))
        .args([plugin, "opes/plugin/v1/plugin.proto"])
        .arg(format!("--python_out={}", folder.path().display()))
        .arg(format!("--grpc_python_out={}", folder.path().display()))
        .status();
    let imported = Command::new(PYTHON).args(["-c", "import grpc, google.protobuf"]).status();
    let is_there = |status: std::io::Result<ExitStatus>| status.is_ok_and(|s| s.success());
    if is_there(made) && is_there(imported) {
        return Some(folder);
    }
    not_run(story, "there is no protoc, grpc_python_plugin, or grpc for Python");
    None
}

/// The plugin prints this line.
///
/// # Panics
/// If it does not.
pub fn says(server: &mut CalloutServer, line: &str) {
    while text(&server.wait_for("a plugin says"), "line") != line {}
}

/// What became of a mail that went to the plugin; `out/mail.eml` in the folder is what it became.
///
/// # Panics
/// If it can't be sent.
pub fn adapt(server: &CalloutServer, folder: &Path, mail: &str) -> Value {
    let (file, out) = (folder.join("mail.eml"), folder.join("out"));
    std::fs::write(&file, mail).expect("it can be written");
    let services = [Path::new("--services"), Path::new("plugin"), Path::new("--out"), &out, &file];
    server.adapt(services).only().clone()
}
