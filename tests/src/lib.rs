//! Helpers that the whole-system stories share: the real programs, their logs and their reports.

#![allow(clippy::indexing_slicing)]

pub mod actor;
pub mod attachment;
pub mod attempts;
pub mod browser;
pub mod certificates;
pub mod clamd;
pub mod gateway;
pub mod http;
pub mod peer;
pub mod plugin;
pub mod postfix;
pub mod programs;
pub mod random;
pub mod relay;
pub mod scripted;
pub mod smtp;
pub mod stores;
pub mod story;

use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use serde_json::Value;

/// How long a program may take for anything that a story waits for.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// A program of this workspace, built by `tests/run` beside the tests.
///
/// # Panics
/// If it has not been built.
pub fn program(name: &str) -> Command {
    let tests = std::env::current_exe().expect("tests know their own path");
    let folder = tests.ancestors().nth(2).expect("tests lie in target/PROFILE/deps");
    let path = folder.join(name);
    assert!(path.exists(), "{} is not there: cargo build --workspace --bins", path.display());
    let mut command = Command::new(path);
    command.env_remove("RUST_LOG").env_remove("CALLOUT_SERVER_CONFIG").stdin(Stdio::null());
    command
}

/// A running program, killed at the end if it has not stopped.
pub struct Running {
    child: Child,
    log: Receiver<Value>,
    /// Every line of its log that was read so far.
    pub lines: Vec<Value>,
}

impl Running {
    /// Starts a program whose log goes to its standard error.
    ///
    /// # Panics
    /// If it can't be started.
    pub fn start(mut command: Command) -> Self {
        let mut child = command.stderr(Stdio::piped()).spawn().expect("it can be started");
        let stderr = child.stderr.take().expect("its standard error is a pipe");
        let (sender, log) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let parsed = serde_json::from_str(&line).unwrap_or(Value::String(line));
                if sender.send(parsed).is_err() {
                    break;
                }
            }
        });
        Self { child, log, lines: Vec::new() }
    }

    /// The next log line with this message.
    ///
    /// # Panics
    /// If none comes.
    pub fn wait_for(&mut self, message: &str) -> Value {
        self.next(message, |line| line["message"] == message)
    }

    /// The next log line whose message begins so.
    ///
    /// # Panics
    /// If none comes.
    pub fn wait_for_any(&mut self, start: &str) -> Value {
        let begins =
            |line: &Value| line["message"].as_str().is_some_and(|text| text.starts_with(start));
        self.next(start, begins)
    }

    /// Where its admin listener is, which its configuration has to ask for.
    ///
    /// # Panics
    /// If there is none.
    pub fn admin(&mut self) -> String {
        text(&self.wait_for("admin listening"), "address")
    }

    fn next(&mut self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let line = self.log.recv_timeout(deadline.saturating_duration_since(Instant::now()));
            let last = &self.lines[self.lines.len().saturating_sub(20)..];
            let line = line.unwrap_or_else(|_| panic!("no {what:?} after {last:#?}"));
            self.lines.push(line.clone());
            if wanted(&line) {
                return line;
            }
        }
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Octets of memory in use, as the kernel counts them (VmRSS).
    pub fn memory(&self) -> u64 {
        memory(self.pid(), "VmRSS").expect("the process runs")
    }

    /// The most memory that was in use, in octets (VmHWM).
    pub fn peak_memory(&self) -> u64 {
        memory(self.pid(), "VmHWM").expect("the process runs")
    }

    /// Asks it to stop (SIGTERM).
    ///
    /// # Panics
    /// If it runs no more.
    pub fn terminate(&self) {
        self.signal("-TERM");
    }

    /// Asks it to read its configuration again, or its certificates (SIGHUP).
    ///
    /// # Panics
    /// If it runs no more.
    pub fn reload(&self) {
        self.signal("-HUP");
    }

    /// Ends it at once (SIGKILL), as if it had crashed.
    ///
    /// # Panics
    /// If it is not our child.
    pub fn kill(&mut self) {
        self.child.kill().expect("it is our child");
        self.child.wait().expect("it is our child");
    }

    fn signal(&self, signal: &str) {
        let pid = self.pid().to_string();
        let sent = Command::new("kill").args([signal, &pid]).status();
        assert!(sent.expect("kill runs").success());
    }

    /// Waits until it has ended: its exit code and its log.
    ///
    /// # Panics
    /// If it does not end by itself.
    pub fn ended(mut self) -> (Option<i32>, Vec<Value>) {
        // The log ends when the process does.
        while let Ok(line) = self.log.recv_timeout(PATIENCE) {
            self.lines.push(line);
        }
        let status = self.child.wait().expect("it is our child");
        (status.code(), std::mem::take(&mut self.lines))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A running `callout-server`.
pub struct CalloutServer {
    running: Running,
    /// Where it listens, in the order of its configuration.
    pub addresses: Vec<String>,
}

impl CalloutServer {
    /// Starts the server with a configuration; it listens on a free port of its own, and on `more`.
    ///
    /// # Panics
    /// If it does not listen.
    pub fn start(folder: &Path, config: &str, more: &[String]) -> Self {
        Self::start_at("127.0.0.1:0", folder, config, more)
    }

    /// As [`CalloutServer::start`], at a certain address.
    ///
    /// # Panics
    /// If it does not listen.
    pub fn start_at(address: &str, folder: &Path, config: &str, more: &[String]) -> Self {
        let file = folder.join("callout-server.toml");
        std::fs::write(&file, config).expect("the configuration can be written");
        let mut command = program("callout-server");
        command.args(["serve", "--listen", address]);
        for address in more {
            command.args(["--listen", address]);
        }
        command.arg("--config").arg(&file);
        let mut running = Running::start(command);
        let addresses =
            (0..=more.len()).map(|_| text(&running.wait_for("listening"), "address")).collect();
        Self { running, addresses }
    }

    /// The TCP address.
    pub fn address(&self) -> &str {
        &self.addresses[0]
    }

    /// The first log line with this message about the connection of this peer.
    ///
    /// # Panics
    /// If none comes.
    pub fn wait_for_peer(&mut self, message: &str, peer: &str) -> Value {
        let wanted = |line: &Value| line["message"] == message && line["span"]["peer"] == peer;
        match self.lines.iter().find(|line| wanted(line)) {
            Some(line) => line.clone(),
            None => self.next(message, wanted),
        }
    }

    /// Runs `opes-mta adapt --json` against it.
    pub fn adapt<I: IntoIterator<Item: AsRef<OsStr>>>(&self, arguments: I) -> Adapted {
        adapt(self.address(), arguments)
    }

    /// See [`Running::ended`].
    pub fn ended(self) -> (Option<i32>, Vec<Value>) {
        self.running.ended()
    }
}

impl Deref for CalloutServer {
    type Target = Running;

    fn deref(&self) -> &Running {
        &self.running
    }
}

impl DerefMut for CalloutServer {
    fn deref_mut(&mut self) -> &mut Running {
        &mut self.running
    }
}

/// A running `opes-mta milter` or `opes-mta smtp`.
pub struct Milter {
    running: Running,
    /// Where it listens, as Postfix writes it for milters.
    pub address: String,
}

impl Milter {
    /// Starts it with a configuration, at a free port.
    ///
    /// # Panics
    /// If it does not listen.
    pub fn start(folder: &Path, config: &str) -> Self {
        Self::start_at("inet:127.0.0.1:0", folder, config)
    }

    /// As [`Milter::start`], at a certain address.
    ///
    /// # Panics
    /// If it does not listen.
    pub fn start_at(address: &str, folder: &Path, config: &str) -> Self {
        let file = folder.join("opes-mta.toml");
        std::fs::write(&file, config).expect("the configuration can be written");
        let mut command = program("opes-mta");
        command.args(["milter", "--listen", address, "--config"]).arg(&file);
        Self::run(command)
    }

    /// Starts the SMTP proxy in front of a next hop, with a configuration.
    ///
    /// # Panics
    /// If it does not listen.
    pub fn start_proxy(address: &str, next_hop: &str, folder: &Path, config: &str) -> Self {
        Self::start_proxy_with(&["--listen", address, "--next-hop", next_hop], folder, config)
    }

    /// As [`Milter::start_proxy`], with these arguments, in the folder.
    ///
    /// # Panics
    /// If it does not listen.
    pub fn start_proxy_with(arguments: &[&str], folder: &Path, config: &str) -> Self {
        let file = folder.join("opes-mta.toml");
        std::fs::write(&file, config).expect("the configuration can be written");
        let mut command = program("opes-mta");
        command.arg("smtp").args(arguments).arg("--config").arg(&file).current_dir(folder);
        Self::run(command)
    }

    /// Its port.
    ///
    /// # Panics
    /// If it listens at none.
    pub fn port(&self) -> u16 {
        let (_, port) = self.address.rsplit_once(':').expect("it has a port");
        port.parse().expect("it is a number")
    }

    /// Starts it as it is told.
    ///
    /// # Panics
    /// If it does not listen.
    pub fn run(command: Command) -> Self {
        let mut running = Running::start(command);
        let address = text(&running.wait_for("listening"), "address");
        Self { running, address }
    }

    /// See [`Running::ended`].
    pub fn ended(self) -> (Option<i32>, Vec<Value>) {
        self.running.ended()
    }
}

impl Deref for Milter {
    type Target = Running;

    fn deref(&self) -> &Running {
        &self.running
    }
}

impl DerefMut for Milter {
    fn deref_mut(&mut self) -> &mut Running {
        &mut self.running
    }
}

/// Octets that the kernel counts for a process, such as VmRSS; `None` if it runs no more.
pub fn memory(pid: u32, what: &str) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(what)?.strip_prefix(':'))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
}

/// Memory in use is what it was `before`, but for a tenth. Connections that were broken off may still be
/// on their way out, so that is waited for.
///
/// # Panics
/// If it stays above that.
pub fn memory_is_back(server: &CalloutServer, before: u64) {
    let deadline = Instant::now() + PATIENCE / 8;
    let bound = before + before / 10;
    let mut now = server.memory();
    while now > bound && Instant::now() < deadline {
        peer::clean_session(server.address());
        now = server.memory();
    }
    println!("memory: {} KiB before, {} KiB after", before / 1024, now / 1024);
    assert!(now <= bound, "{before} octets became {now}");
}

/// What `opes-mta adapt --json` said.
pub struct Adapted {
    /// One object a message, in order.
    pub reports: Vec<Value>,
    /// Its exit code.
    pub code: Option<i32>,
    /// Its standard error.
    pub stderr: String,
}

impl Adapted {
    /// The only report.
    ///
    /// # Panics
    /// If there is none, or more.
    pub fn only(&self) -> &Value {
        assert_eq!(self.reports.len(), 1, "{:#?} {}", self.reports, self.stderr);
        &self.reports[0]
    }
}

/// Runs `opes-mta adapt --json` against a server.
///
/// # Panics
/// If it prints something else than JSON.
pub fn adapt<I: IntoIterator<Item: AsRef<OsStr>>>(server: &str, arguments: I) -> Adapted {
    let mut command = program("opes-mta");
    command.args(["adapt", "--json", "--server", server]).args(arguments);
    let Output { status, stdout, stderr } = command.output().expect("opes-mta can be started");
    let stderr = String::from_utf8_lossy(&stderr).into_owned();
    let parse = |line: &str| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
    let reports = String::from_utf8_lossy(&stdout).lines().map(parse).collect();
    Adapted { reports, code: status.code(), stderr }
}

/// Set when this is dropped: the other threads of a scope end, even if the one that tells them to has panicked.
pub struct Enough<'a>(pub &'a AtomicBool);

impl Drop for Enough<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Raises the limit on open files of this process and of those that it starts from now on; `false` if
/// the system does not let us have so many.
pub fn allow_open_files(count: usize) -> bool {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    let soft = line.and_then(|line| line.split_whitespace().next()).map(str::to_owned);
    if soft.is_some_and(|soft| soft == "unlimited" || soft.parse().is_ok_and(|n: usize| n >= count))
    {
        return true;
    }
    let pid = std::process::id().to_string();
    let limit = format!("--nofile={count}:");
    let raised = Command::new("prlimit").args(["--pid", &pid, &limit]).status();
    raised.is_ok_and(|status| status.success())
}

/// A member of an object as text; empty if it is none.
pub fn text(object: &Value, member: &str) -> String {
    object[member].as_str().unwrap_or_default().to_owned()
}

/// What a service found, in a report: `(verdict, score, reason)`.
pub fn found(report: &Value, service: &str) -> Option<(String, String, String)> {
    let uri = format!("ocp://service/{service}");
    let services = report["services"].as_array()?;
    let found = services.iter().rev().find(|found| found["uri"] == uri.as_str())?;
    Some((text(found, "verdict"), text(found, "score"), text(found, "reason")))
}

/// Mails that the tests carry.
pub fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("data")
}

/// A folder of the development mails beside the project. Where it is not, the caller says so by
/// [`not_run`].
pub fn shared(folder: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/testdata").join(folder);
    path.exists().then_some(path)
}

/// Says plainly that something was not run; `tests/run` repeats it at the end.
pub fn not_run(what: &str, why: &str) {
    println!("not run: {what}: {why}");
}

/// The files below a folder, sorted.
///
/// # Panics
/// If the folder can't be read.
pub fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("the folder can be read") {
            let path = entry.expect("its entries too").path();
            if path.is_dir() { folders.push(path) } else { files.push(path) }
        }
    }
    files.sort();
    files
}
