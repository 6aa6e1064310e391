//! A real Postfix of the stories' own: its own queue, its own log, ports on loopback.

use std::fmt::Write as _;
use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use crate::PATIENCE;

/// How often other ports are tried where free ones were taken.
const ATTEMPTS: usize = 5;

/// One SMTP port, and what is different there from the rest, such as `smtpd_milters=inet:127.0.0.1:8899`.
#[derive(Clone, Debug, Default)]
pub struct Port {
    /// Parameters of this smtpd.
    pub parameters: Vec<String>,
}

impl Port {
    /// A port whose mails go through these milters.
    pub fn with_milter(milter: &str) -> Self {
        Self { parameters: vec![format!("smtpd_milters={milter}")] }
    }

    /// One parameter more.
    pub fn and(mut self, parameter: &str) -> Self {
        self.parameters.push(parameter.to_owned());
        self
    }
}

/// A running Postfix, stopped at the end.
pub struct Postfix {
    folder: PathBuf,
    /// Where the ports that were asked for are, in their order.
    pub ports: Vec<u16>,
}

/// Whether a real Postfix can be started here; the caller says so by [`crate::not_run`] if not.
pub fn is_there() -> bool {
    let found = Path::new("/usr/sbin/postfix").exists();
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    found && status.lines().any(|line| line.starts_with("Uid:\t0\t"))
}

impl Postfix {
    /// Starts one that listens on a port for each of `ports` and hands all mail to the next hop.
    ///
    /// # Panics
    /// If it does not start.
    pub fn start(folder: &Path, ports: &[Port], next_hop: u16, parameters: &[&str]) -> Self {
        let parameters: Vec<_> = parameters.iter().map(|&parameter| parameter.to_owned()).collect();
        Self::start_around(folder, ports, next_hop, |_| ((), parameters.clone())).0
    }

    /// As [`Postfix::start`], where something stands between its own ports: that is started once it is known
    /// where they will be, and says by which parameters Postfix finds it. It comes back with Postfix.
    ///
    /// # Panics
    /// As there.
    pub fn start_around<T>(
        folder: &Path,
        ports: &[Port],
        next_hop: u16,
        between: impl Fn(&[u16]) -> (T, Vec<String>),
    ) -> (Self, T) {
        let folder = folder.join("postfix");
        for sub in ["", "queue", "data"] {
            fs::create_dir_all(folder.join(sub)).expect("a folder for Postfix can be made");
        }
        // What tidies the queue up after a kill is root no more when it opens the log.
        fs::write(folder.join("log"), "").expect("the log of Postfix can be made");
        let its_own = [folder.join("data"), folder.join("log")];
        let owned = Command::new("chown").arg("postfix").args(its_own).status();
        assert!(owned.expect("chown runs").success());
        let mut postfix = Self { folder, ports: Vec::new() };
        let mut attempt = 0;
        let stands_between = loop {
            attempt += 1;
            postfix.ports = free_ports(ports.len());
            let (stands_between, parameters) = between(&postfix.ports);
            let main = main_cf(&postfix.folder, next_hop, &parameters);
            fs::write(postfix.folder.join("main.cf"), main).expect("written");
            let services = master_cf(ports, &postfix.ports);
            fs::write(postfix.folder.join("master.cf"), services).expect("written");
            let started = postfix.run("start");
            if started.status.success() {
                break stands_between;
            }
            // A port that was free may have been given to somebody else meanwhile.
            let taken = postfix.log().contains("Address already in use");
            assert!(taken && attempt < ATTEMPTS, "{started:?} {}", postfix.log());
        };
        let deadline = Instant::now() + PATIENCE;
        for port in &postfix.ports {
            while TcpStream::connect(("127.0.0.1", *port)).is_err() {
                assert!(Instant::now() < deadline, "Postfix does not listen: {}", postfix.log());
                std::thread::sleep(Duration::from_millis(50));
            }
        }
        (postfix, stands_between)
    }

    /// Tries again what it has put off, all of it.
    ///
    /// # Panics
    /// If it can't be told.
    pub fn flush(&self) {
        let told = Command::new("postqueue").arg("-c").arg(&self.folder).arg("-f").status();
        assert!(told.expect("postqueue runs").success());
    }

    /// Ends all of its processes at once (SIGKILL), as if the machine had crashed; its disk is left.
    ///
    /// # Panics
    /// If it does not run.
    pub fn kill(&self) {
        let pid = fs::read_to_string(self.folder.join("queue/pid/master.pid"));
        let pid = pid.expect("Postfix says what its number is");
        // Those that it starts are in its process group.
        let group = format!("-{}", pid.trim());
        let sent = Command::new("kill").args(["-KILL", "--", &group]).status();
        assert!(sent.expect("kill runs").success());
    }

    /// Starts it once more at the same ports, after [`Postfix::kill`].
    ///
    /// # Panics
    /// If it does not start.
    pub fn start_again(&self) {
        let started = self.run("start");
        assert!(started.status.success(), "{started:?} {}", self.log());
    }

    /// Its log so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    /// The log once it has a line with all of these words.
    ///
    /// # Panics
    /// If none comes.
    pub fn wait_for(&self, words: &[&str]) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let log = self.log();
            let found = log.lines().find(|line| words.iter().all(|word| line.contains(word)));
            if let Some(line) = found {
                return line.to_owned();
            }
            assert!(Instant::now() < deadline, "no {words:?} in {log}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Messages in a queue such as `hold`.
    pub fn queued(&self, queue: &str) -> Vec<PathBuf> {
        crate::files(&self.folder.join("queue").join(queue))
    }

    /// Messages that it has accepted and that are not delivered yet.
    ///
    /// # Panics
    /// If a queue can't be read.
    pub fn waiting(&self) -> Vec<PathBuf> {
        let queues = ["maildrop", "incoming", "active", "deferred"];
        let mut files: Vec<_> = queues.iter().flat_map(|queue| self.queued(queue)).collect();
        // A message that did not become whole before it was killed may not be executed.
        files.retain(|file| {
            fs::metadata(file).is_ok_and(|found| found.permissions().mode() & 0o100 != 0)
        });
        files
    }

    /// A queued message's content, as `postcat` shows it.
    ///
    /// # Panics
    /// If it can't be read.
    pub fn content(&self, file: &Path) -> String {
        let output =
            Command::new("postcat").arg("-c").arg(&self.folder).arg("-bh").arg(file).output();
        let output = output.expect("postcat runs");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn run(&self, what: &str) -> Output {
        let done = Command::new("postfix").arg("-c").arg(&self.folder).arg(what).output();
        done.expect("postfix runs")
    }
}

impl Drop for Postfix {
    fn drop(&mut self) {
        self.run("stop");
    }
}

/// Postfix has no port 0: these are free now.
fn free_ports(count: usize) -> Vec<u16> {
    let bind = || TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
    let sockets: Vec<_> = (0..count).map(|_| bind()).collect();
    sockets.iter().map(|socket| socket.local_addr().expect("it is bound").port()).collect()
}

fn main_cf(folder: &Path, next_hop: u16, parameters: &[String]) -> String {
    let folder = folder.display();
    let text = format!(
        "compatibility_level = 3.6\n\
         queue_directory = {folder}/queue\n\
         data_directory = {folder}/data\n\
         maillog_file = {folder}/log\n\
         maillog_file_prefixes = {folder}\n\
         myhostname = mx.example\n\
         mydestination =\n\
         mynetworks = 127.0.0.0/8\n\
         inet_interfaces = 127.0.0.1\n\
         inet_protocols = ipv4\n\
         disable_dns_lookups = yes\n\
         smtp_host_lookup = native\n\
         smtpd_peername_lookup = no\n\
         smtpd_recipient_restrictions = permit_mynetworks, reject\n\
         in_flow_delay = 0\n\
         relayhost = [127.0.0.1]:{next_hop}\n\
         local_header_rewrite_clients =\n\
         milter_default_action = tempfail\n\
         alias_maps =\n\
         local_recipient_maps =\n"
    );
    // A parameter stands there once. Of a second time each process warns when it starts, and so does the one that
    // writes the log: where others were faster it waits for itself, and with it all of Postfix.
    let name = |line: &str| line.split('=').next().unwrap_or_default().trim().to_owned();
    let given: Vec<_> = parameters.iter().map(|parameter| name(parameter)).collect();
    let defaults = text.lines().filter(|line| !given.contains(&name(line)));
    let lines = defaults.chain(parameters.iter().map(String::as_str));
    lines.map(|line| format!("{line}\n")).collect()
}

fn master_cf(ports: &[Port], numbers: &[u16]) -> String {
    let mut text = String::new();
    for (port, number) in ports.iter().zip(numbers) {
        let _ = writeln!(text, "127.0.0.1:{number} inet n - n - - smtpd");
        for parameter in &port.parameters {
            let _ = writeln!(text, "  -o {}", parameter.replace(' ', ","));
        }
    }
    text.push_str(
        "pickup unix n - n 60 1 pickup\n\
         cleanup unix n - n - 0 cleanup\n\
         qmgr unix n - n 300 1 qmgr\n\
         tlsmgr unix - - n 1000? 1 tlsmgr\n\
         rewrite unix - - n - - trivial-rewrite\n\
         bounce unix - - n - 0 bounce\n\
         defer unix - - n - 0 bounce\n\
         trace unix - - n - 0 bounce\n\
         verify unix - - n - 1 verify\n\
         flush unix n - n 1000? 0 flush\n\
         proxymap unix - - n - - proxymap\n\
         smtp unix - - n - - smtp\n\
         relay unix - - n - - smtp\n\
         error unix - - n - - error\n\
         retry unix - - n - - error\n\
         discard unix - - n - - discard\n\
         local unix - n n - - local\n\
         virtual unix - n n - - virtual\n\
         lmtp unix - - n - - lmtp\n\
         anvil unix - - n - 1 anvil\n\
         scache unix - - n - 1 scache\n\
         postlog unix-dgram n - n - 1 postlogd\n",
    );
    text
}
