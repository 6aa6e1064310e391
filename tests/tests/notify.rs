//! A service manager beside the real programs: what they tell it, and when.

#![allow(missing_docs, clippy::indexing_slicing)]

use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;
use tests::smtp::NextHop;
use tests::{CalloutServer, PATIENCE, Running, program};

/// The socket of a service manager, and what came to it.
struct Manager {
    socket: UnixDatagram,
    folder: TempDir,
}

impl Manager {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let socket = UnixDatagram::bind(folder.path().join("notify")).expect("a socket");
        socket.set_read_timeout(Some(PATIENCE)).expect("a socket has a timeout");
        Self { socket, folder }
    }

    /// Starts a program as a service of this manager.
    fn start(&self, mut command: Command, watchdog: Option<Duration>) -> Running {
        command.env("NOTIFY_SOCKET", self.folder.path().join("notify"));
        command.env_remove("WATCHDOG_PID").env_remove("WATCHDOG_USEC");
        if let Some(patience) = watchdog {
            command.env("WATCHDOG_USEC", patience.as_micros().to_string());
        }
        Running::start(command)
    }

    /// What the service says next.
    fn told(&self) -> String {
        let mut octets = [0; 4096];
        let count = self.socket.recv(&mut octets).expect("the service says something in time");
        String::from_utf8_lossy(&octets[..count]).into_owned()
    }
}

/// Once it says that it is ready, it is: it can be connected to, and asked whether it is healthy. Nothing is said
/// that was not asked for.
fn tells_when_it_is_ready_and_when_it_stops(command: Command, healthy: impl Fn(&str) -> Command) {
    let manager = Manager::new();
    let mut service = manager.start(command, None);
    assert_eq!(manager.told(), "READY=1\n");
    let address = tests::text(&service.wait_for("listening"), "address");
    let asked = healthy(&address).output().expect("it can be started");
    assert!(asked.status.success() && asked.stderr.is_empty(), "{asked:?}");
    service.terminate();
    assert_eq!(manager.told(), "STOPPING=1\n");
    assert_eq!(service.ended().0, Some(0));
    manager.socket.set_nonblocking(true).expect("it is a socket");
    let more = manager.socket.recv(&mut [0; 4096]);
    assert_eq!(more.expect_err("that was all").kind(), std::io::ErrorKind::WouldBlock);
    let asked = healthy(&address).output().expect("it can be started");
    assert_eq!(asked.status.code(), Some(1), "{asked:?}");
    let said = String::from_utf8_lossy(&asked.stderr);
    // An error for people is wrapped.
    let words: Vec<_> = said.split_whitespace().filter(|word| *word != "│").collect();
    let said = words.join(" ");
    assert!(said.contains("Connection refused"), "{said}");
    assert!(said.contains(address.trim_start_matches("inet:")), "{said}");
}

fn callout_server() -> Command {
    let mut command = program("callout-server");
    command.args(["serve", "--listen", "127.0.0.1:0"]);
    command
}

fn proxy(server: &str, next_hop: u16) -> Command {
    let mut command = program("opes-mta");
    command.args(["smtp", "--listen", "127.0.0.1:0", "--server", server]);
    command.args(["--next-hop", &format!("127.0.0.1:{next_hop}")]);
    command
}

fn milter(server: &str) -> Command {
    let mut command = program("opes-mta");
    command.args(["milter", "--listen", "inet:127.0.0.1:0", "--server", server]);
    command
}

fn server(folder: &Path) -> CalloutServer {
    CalloutServer::start(folder, "", &[])
}

#[test]
fn a_callout_server_tells_when_it_is_ready_and_when_it_stops() {
    tells_when_it_is_ready_and_when_it_stops(callout_server(), |address| {
        let mut command = program("callout-server");
        command.args(["healthy", "--server", address]);
        command
    });
}

#[test]
fn a_milter_tells_when_it_is_ready_and_when_it_stops() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = server(folder.path());
    tells_when_it_is_ready_and_when_it_stops(milter(server.address()), |address| {
        let mut command = program("opes-mta");
        command.args(["healthy", "--milter", address]);
        command
    });
}

#[test]
fn an_smtp_proxy_tells_when_it_is_ready_and_when_it_stops() {
    let folder = tempfile::tempdir().expect("a folder");
    let (server, hop) = (server(folder.path()), NextHop::start());
    tells_when_it_is_ready_and_when_it_stops(proxy(server.address(), hop.port), |address| {
        let mut command = program("opes-mta");
        command.args(["healthy", "--smtp", address]);
        command
    });
}

/// What is read again is announced with the time, and ends with READY, whatever came of it.
#[test]
fn who_reads_its_configuration_again_says_so() {
    let manager = Manager::new();
    let file = manager.folder.path().join("callout-server.toml");
    std::fs::write(&file, "").expect("it can be written");
    let mut command = callout_server();
    command.arg("--config").arg(&file);
    let service = manager.start(command, None);
    assert_eq!(manager.told(), "READY=1\n");
    for config in ["[limits]\nconnections = 3\n", "nonsense"] {
        std::fs::write(&file, config).expect("it can be written");
        service.reload();
        let told = manager.told();
        let time = told.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").expect("it is reloading");
        assert!(time.trim_end().parse::<u64>().is_ok(), "{told}");
        assert_eq!(manager.told(), "READY=1\n");
    }
}

/// The first sign of life comes at once, the others by the runtime's clock: a runtime that stands still sends none.
#[test]
fn who_is_watched_gives_signs_of_life() {
    let folder = tempfile::tempdir().expect("a folder");
    let (server, hop) = (server(folder.path()), NextHop::start());
    let address = server.address();
    for command in [callout_server(), milter(address), proxy(address, hop.port)] {
        let manager = Manager::new();
        let service = manager.start(command, Some(Duration::from_millis(100)));
        let told: Vec<_> = (0..4).map(|_| manager.told()).collect();
        assert_eq!(told, ["READY=1\n", "WATCHDOG=1\n", "WATCHDOG=1\n", "WATCHDOG=1\n"]);
        service.terminate();
        while manager.told() != "STOPPING=1\n" {}
        assert_eq!(service.ended().0, Some(0));
    }
}

/// Nobody has to listen for it to serve.
#[test]
fn a_manager_that_is_not_there_stops_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut command = callout_server();
    command.env("NOTIFY_SOCKET", folder.path().join("nobody"));
    let mut service = Running::start(command);
    let line = service.wait_for("the service manager can't be told");
    assert_eq!((&line["level"], &line["state"]), (&"WARN".into(), &"READY=1".into()), "{line}");
    service.terminate();
    assert_eq!(service.ended().0, Some(0));
}

/// By itself the signal ends a program.
#[test]
fn a_hangup_ends_nobody() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = server(folder.path());
    let hop = NextHop::start();
    let address = server.address();
    let nothing = [
        (callout_server(), "the old configuration stays in use"),
        (milter(address), "there are no certificates to read again"),
        (proxy(address, hop.port), "there are no certificates to read again"),
    ];
    for (command, nothing) in nothing {
        let mut service = Running::start(command);
        service.wait_for("listening");
        service.reload();
        service.wait_for_any(nothing);
        service.terminate();
        assert_eq!(service.ended().0, Some(0));
    }
}
