//! The image of `deploy/build-image` beside a real Postfix: both programs run from it as `deploy/README.md` says,
//! with a read-only root file system and no capabilities.

#![allow(missing_docs, clippy::indexing_slicing)]

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;
use tests::postfix::{self, Port, Postfix};
use tests::smtp::{Client, Delivered, NextHop};
use tests::{Running, memory, not_run, text};

const STORY: &str = "the container image behind Postfix";

/// What an image may have, in octets.
const LARGEST: u64 = 40_000_000;

/// Tools for containers, with images and containers of their own, which go with the folder.
struct Engine {
    folder: TempDir,
}

impl Engine {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().display();
        // Copies of each layer: slow, but it works in a container too.
        let storage = format!(
            "[storage]\ndriver = \"vfs\"\ngraphroot = \"{path}/images\"\nrunroot = \"{path}/run\"\n"
        );
        fs::write(folder.path().join("storage.conf"), storage).expect("written");
        Self { folder }
    }

    fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new(program.as_ref());
        command
            .env("CONTAINERS_STORAGE_CONF", self.folder.path().join("storage.conf"))
            .env("BUILDAH_ISOLATION", "chroot");
        command
    }

    fn podman(&self, arguments: &[&str]) -> Command {
        let mut command = self.command("podman");
        command.args(["--cgroup-manager", "cgroupfs", "--runtime", "runc", "--tmpdir"]);
        command.arg(self.folder.path().join("podman")).args(arguments);
        command
    }

    /// What podman prints.
    fn said(&self, arguments: &[&str]) -> String {
        let output = self.podman(arguments).output().expect("podman runs");
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).expect("it prints text").trim().to_owned()
    }

    fn build(&self) {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/build-image");
        let mut command = self.command(script);
        // What cargo tells a test of itself is news to build scripts: they would begin all over.
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("CARGO")) {
            if !["CARGO_HOME", "CARGO_TARGET_DIR"].contains(&name.as_str()) {
                command.env_remove(name);
            }
        }
        let output = command.args(["--tool", "buildah", "--tag", "opes:story"]).output();
        let output = output.expect("it can be executed");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

/// A container whose program runs, with the log of that.
struct Container<'a> {
    engine: &'a Engine,
    name: &'static str,
    running: Option<Running>,
    address: String,
}

impl<'a> Container<'a> {
    /// Starts a program of the image; it may write to /var/tmp and to /var/lib/opes-mta, and nowhere else.
    fn start(engine: &'a Engine, name: &'static str, program: &[&str]) -> Self {
        let volume = |kind: &str, place: &str| {
            let folder = engine.folder.path().join(format!("{name}-{kind}"));
            fs::create_dir(&folder).expect("a folder");
            fs::set_permissions(&folder, Permissions::from_mode(0o1777)).expect("it is ours");
            format!("--volume={}:{place}", folder.display())
        };
        let mut command = engine.podman(&["run", "--name", name, "--network", "host"]);
        command
            .args(["--pull", "never", "--read-only", "--read-only-tmpfs=false"])
            .args([volume("temporary", "/var/tmp"), volume("state", "/var/lib/opes-mta")])
            .args([
                "--add-host",
                "callout-server:127.0.0.1",
                "--cap-drop",
                "ALL",
                "--security-opt",
                "no-new-privileges",
            ])
            .args(["--memory", "512m", "--pids-limit", "600"])
            .args(["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"])
            .arg("opes:story")
            .args(program);
        let mut running = Running::start(command);
        let address = text(&running.wait_for("listening"), "address");
        Self { engine, name, running: Some(running), address }
    }

    fn log(&mut self, message: &str) -> Value {
        self.running.as_mut().expect("it runs").wait_for(message)
    }

    /// Runs a program of the image beside the one that is there: whether it succeeded.
    fn succeeds(&self, program: &[&str]) -> bool {
        let output = self.engine.podman(&["exec", self.name]).args(program).output();
        output.expect("podman runs").status.success()
    }

    /// Its process, as this host sees it.
    fn pid(&self) -> u32 {
        let pid = self.engine.said(&["inspect", "--format", "{{.State.Pid}}", self.name]);
        pid.parse().expect("a number")
    }

    /// Stops it by SIGTERM: the exit code, and the last line of its log.
    fn stop(mut self) -> (String, Option<String>) {
        self.engine.said(&["kill", "--signal", "TERM", self.name]);
        let (_, lines) = self.running.take().expect("it runs").ended();
        let code = self.engine.said(&["wait", self.name]);
        let mut messages = lines.iter().filter(|line| line.is_object());
        (code, messages.next_back().map(|line| text(line, "message")))
    }
}

impl Drop for Container<'_> {
    fn drop(&mut self) {
        // A container doesn't end with the podman that has started it.
        let _ = self.engine.podman(&["rm", "--force", "--time", "0", self.name]).output();
    }
}

/// Whether the story can be told here; a line says why not.
fn can_run() -> bool {
    let installed = |tool: &str| Command::new(tool).arg("--version").output().is_ok();
    if let Some(tool) = ["buildah", "podman", "runc"].into_iter().find(|tool| !installed(tool)) {
        not_run(STORY, &format!("there is no {tool}"));
        return false;
    }
    if !postfix::is_there() {
        not_run(STORY, "there is no Postfix, or no root to start it");
        return false;
    }
    let built = static_binaries().join("opes-mta").exists();
    if !built && std::env::var_os("OPES_TESTS_FULL").is_none() {
        not_run(STORY, "static release binaries take minutes: OPES_TESTS_FULL=1 builds them");
        return false;
    }
    true
}

fn static_binaries() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target"), PathBuf::from);
    target.join("x86_64-unknown-linux-gnu/release")
}

#[test]
fn the_image_is_a_filter_behind_postfix() {
    if !can_run() {
        return;
    }
    let engine = Engine::new();
    engine.build();
    let inspect = engine.said(&["image", "inspect", "opes:story"]);
    let image: Value = serde_json::from_str(&inspect).expect("it is JSON");
    let image = &image.as_array().expect("a list").first().expect("one image").clone();
    let size = image["Size"].as_u64().expect("a size");
    println!("image: {} kB", size / 1000);
    assert!(size < LARGEST, "{size}");
    assert_eq!(image["User"], "65532:65532");
    assert_eq!(
        image["Healthcheck"]["Test"],
        serde_json::json!(["CMD", "callout-server", "healthy"])
    );

    let listen = ["callout-server", "serve", "--listen", "127.0.0.1:0"];
    let server = Container::start(&engine, "callout-server", &listen);
    let address = server.address.clone();
    // A static program finds names too.
    let named = address.replace("127.0.0.1", "callout-server");
    let listen = ["opes-mta", "milter", "--listen", "inet:127.0.0.1:0", "--server", &named];
    let mut milter = Container::start(&engine, "milter", &listen);
    assert!(server.succeeds(&["callout-server", "healthy", "--server", &address]));
    assert!(milter.succeeds(&["opes-mta", "healthy", "--milter", &milter.address]));
    // A container that has lost its server is not one whose program does not answer.
    assert!(!milter.succeeds(&["callout-server", "healthy", "--server", "127.0.0.1:1"]));
    let status = fs::read_to_string(format!("/proc/{}/status", server.pid())).expect("it runs");
    for (what, value) in [("Uid", "65532"), ("CapEff", "0000000000000000"), ("NoNewPrivs", "1")] {
        let line = status.lines().find(|line| line.starts_with(what)).expect("the kernel says so");
        assert_eq!(line.split_whitespace().nth(1), Some(value), "{line}");
    }

    let folder = tempfile::tempdir().expect("a folder");
    let hop = NextHop::start();
    let ports = [Port::with_milter(&milter.address)];
    let limit = "message_size_limit=20000000";
    let postfix = Postfix::start(folder.path(), &ports, hop.port, &[limit]);
    let send =
        |mail: &[u8]| Client::greeted(postfix.ports[0]).mail("a@a.example", &["b@b.example"], mail);

    let note =
        b"From: a@a.example\r\nSubject:  a note\r\nDate: Mon, 23 Nov 2026 10:00:00 +0000\r\n\
        Message-ID: <1@a.example>\r\n\r\n.dot\r\nbody\r\n";
    let reply = send(note);
    assert!(reply.starts_with("250 2.0.0 Ok: queued as "), "{reply}");
    assert_eq!(milter.log("message")["decision"], "accept");
    let spam = b"From: sales@a.example\r\nSubject: BUY SOMETHING NOW\r\n\r\nbody\r\n";
    let reply = send(spam);
    assert!(reply.starts_with("250 2.0.0 Ok: queued as "), "{reply}");
    let line = milter.log("message");
    assert_eq!(line["decision"], "modify", "{line}");
    let virus = ["X5O!P%@AP[4\\PZX54(P^)7CC)7}$EICAR", "-STANDARD-ANTIVIRUS-TEST-FILE!$H+H*"];
    let reply = send(format!("Subject: x\r\n\r\n{}\r\n", virus.concat()).as_bytes());
    assert_eq!(reply, "554 5.7.1 message contains Eicar-Test-Signature");
    assert_eq!(milter.log("message")["decision"], "reject");
    // More than the server holds of a body in memory: it has a file in /var/tmp.
    let body = b"0123456789012345678901234567890123456789012345678901234567890123456789\r\n";
    let large = [&note[..], &body.repeat(100_000)].concat();
    let reply = send(&large);
    assert!(reply.starts_with("250 2.0.0 Ok: queued as "), "{reply}");
    let delivered = hop.wait_for(3);
    let delivered: Vec<_> = delivered.iter().map(Delivered::without_received).collect();
    assert_eq!(delivered[0], note);
    let marked = String::from_utf8_lossy(delivered[1]).into_owned();
    assert!(marked.contains("X-Spam-Flag: YES\r\n"), "{marked}");
    // What nobody changed keeps its octets: all that was sent stands there in its order.
    let mut lines = marked.split_inclusive("\r\n");
    let sent = String::from_utf8_lossy(spam).into_owned();
    assert!(sent.split_inclusive("\r\n").all(|sent| lines.any(|line| line == sent)), "{marked}");
    assert!(delivered[2] == large, "{} octets of {}", delivered[2].len(), large.len());

    let next_hop = format!("127.0.0.1:{}", hop.port);
    let mut proxy = vec!["opes-mta", "smtp", "--listen", "127.0.0.1:0", "--next-hop", &next_hop];
    proxy.extend(["--server", &named, "--spool", "/var/lib/opes-mta/spool"]);
    proxy.extend(["--quarantine", "/var/lib/opes-mta/quarantine"]);
    let mut proxy = Container::start(&engine, "proxy", &proxy);
    assert!(proxy.succeeds(&["opes-mta", "healthy", "--smtp", &proxy.address]));
    let (_, port) = proxy.address.rsplit_once(':').expect("it has a port");
    let mut client = Client::greeted(port.parse().expect("a number"));
    assert!(client.mail("a@a.example", &["b@b.example"], &large).starts_with("250 "));
    assert_eq!(proxy.log("message")["decision"], "accept");
    assert!(hop.wait_for(1)[0].octets == large);
    assert!(proxy.succeeds(&["opes-mta", "spool", "list", "--spool", "/var/lib/opes-mta/spool"]));

    for container in [&server, &milter, &proxy] {
        let pid = container.pid();
        let used = |what| memory(pid, what).expect("it runs") / 1024;
        println!("{}: {} KiB, at most {} KiB", container.name, used("VmRSS"), used("VmHWM"));
    }
    assert_eq!(proxy.stop(), ("0".to_owned(), Some("stopping".to_owned())));
    assert_eq!(milter.stop(), ("0".to_owned(), Some("stopping".to_owned())));
    assert_eq!(server.stop(), ("0".to_owned(), Some("stopped".to_owned())));
}
