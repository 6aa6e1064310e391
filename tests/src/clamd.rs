//! A real clamd of the stories' own, with a database of two signatures.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// A clamd in a folder.
pub struct Clamd {
    folder: PathBuf,
    process: Option<Child>,
}

/// Where distributions put it.
const PROGRAMS: [&str; 3] = ["/usr/sbin/clamd", "/usr/bin/clamd", "/usr/local/sbin/clamd"];

impl Clamd {
    /// Whether there is one here; the caller says so by [`crate::not_run`] if not.
    pub fn is_there() -> bool {
        PROGRAMS.iter().any(|path| Path::new(path).exists())
    }

    /// Starts it with a signature for this text.
    ///
    /// # Panics
    /// If it does not start.
    pub fn start(folder: &Path, text: &str) -> Self {
        let folder = folder.join("clamd");
        std::fs::create_dir_all(folder.join("db")).expect("a folder for clamd can be made");
        let mut clamd = Self { folder, process: None };
        clamd.add("first", text);
        clamd.start_again();
        clamd
    }

    /// Adds a signature for a text, which counts once it has read its database again.
    ///
    /// # Panics
    /// If the file can't be written.
    pub fn add(&self, name: &str, text: &str) {
        let hex: String = text.bytes().map(|octet| format!("{octet:02x}")).collect();
        let file = self.folder.join("db").join(format!("{name}.ndb"));
        std::fs::write(file, format!("Test.{name}:0:*:{hex}\n")).expect("it can be written");
    }

    /// Starts it once more, after its end.
    ///
    /// # Panics
    /// If it does not start.
    pub fn start_again(&mut self) {
        let path = |name: &str| self.folder.join(name).display().to_string();
        let configuration = format!(
            "Foreground true\nDatabaseDirectory {}\nLocalSocket {}\nMaxThreads 4\n",
            path("db"),
            path("socket")
        );
        std::fs::write(path("clamd.conf"), configuration).expect("it can be written");
        let program = PROGRAMS.iter().find(|path| Path::new(path).exists()).expect("it is there");
        let mut process = Command::new(program)
            .args(["-c", &path("clamd.conf")])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("it can be started");
        let output = process.stdout.take().expect("its output is a pipe");
        self.process = Some(process);
        // It says when its socket is there, and ends when nobody reads what it says.
        let mut lines = BufReader::new(output).lines().map_while(Result::ok);
        let mut said = Vec::new();
        while !said.last().is_some_and(|line: &String| line.contains("Self checking every")) {
            let line = lines.next().unwrap_or_else(|| panic!("clamd does not start: {said:?}"));
            said.push(line);
        }
        std::thread::spawn(move || lines.for_each(drop));
    }

    /// Where it listens, as `virus-scan` writes it.
    pub fn address(&self) -> String {
        format!("unix:{}", self.folder.join("socket").display())
    }

    /// Sends it a signal, such as `-USR2`: it reads its database again.
    ///
    /// # Panics
    /// If it runs no more.
    pub fn signal(&self, signal: &str) {
        let pid = self.process.as_ref().expect("it runs").id().to_string();
        let sent = Command::new("kill").args([signal, &pid]).status();
        assert!(sent.expect("kill runs").success());
    }

    /// Ends it at once.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

impl Drop for Clamd {
    fn drop(&mut self) {
        self.kill();
    }
}
