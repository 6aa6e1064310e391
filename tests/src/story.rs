//! A server under attack, and what has to hold whatever the attackers do.

use tempfile::TempDir;

use crate::peer::{Peer, Witness, clean_session};
use crate::{CalloutServer, text};

/// Octets by which no attack may make the server grow: far less than the attackers send or declare.
pub const GROWTH: u64 = 48 * 1024 * 1024;

/// A server under attack, and somebody who works with it meanwhile.
pub struct Story {
    /// The server.
    pub server: CalloutServer,
    /// Its memory before the attack, in octets.
    pub memory: u64,
    witness: Witness,
    _folder: TempDir,
}

impl Story {
    /// Starts both.
    ///
    /// # Panics
    /// If the server does not serve.
    pub fn start(config: &str) -> Self {
        let folder = tempfile::tempdir().expect("there is room for a folder");
        let mut server = CalloutServer::start(folder.path(), config, &[]);
        clean_session(server.address());
        server.wait_for("disconnected");
        let witness = Witness::start(server.address());
        let memory = server.memory();
        Self { server, memory, witness, _folder: folder }
    }

    /// An attacker that has said nothing yet.
    pub fn connect(&self) -> Peer {
        Peer::connect(self.server.address())
    }

    /// One that has group 1, of two services, and dialog 1.
    pub fn open(&self) -> Peer {
        Peer::open(self.server.address(), &["virus-scan", "log"])
    }

    /// The server says CE 400 with this reason, ends the connection, and logs the rule.
    ///
    /// # Panics
    /// If it does something else.
    pub fn ended_for(&mut self, peer: Peer, rule: &str) {
        let name = peer.name();
        let answer = peer.read_to_end();
        let last = answer.rfind("CE {400").map(|at| &answer[at..]);
        assert!(last.is_some_and(|last| last.contains(rule)), "{rule:?}: {answer:?}");
        let line = self.server.wait_for_peer("the peer broke a rule", &name);
        assert!(text(&line, "violation").contains(rule), "{line}");
        self.survived();
    }

    /// Another connection works, and little memory was taken.
    ///
    /// # Panics
    /// If not.
    pub fn survived(&self) {
        clean_session(self.server.address());
        let growth = self.server.memory().saturating_sub(self.memory);
        assert!(growth < GROWTH, "the server grew by {growth} octets");
    }

    /// Nobody else noticed, nothing is left behind, and nothing panicked.
    ///
    /// # Panics
    /// If not.
    pub fn end(self) {
        let (transactions, slowest) = self.witness.stop();
        println!("{transactions} other transactions meanwhile, the slowest in {slowest:?}");
        clean_session(self.server.address());
        self.server.terminate();
        let (code, lines) = self.server.ended();
        assert_eq!(code, Some(0));
        let stopping = lines.iter().find(|line| line["dialogs"].is_u64());
        assert_eq!(stopping.map(|line| &line["dialogs"]), Some(&0.into()), "{stopping:?}");
        for line in &lines {
            let broken = !line.is_object() || line["stage"] == "panic" || line["level"] == "ERROR";
            assert!(!broken, "{line}");
        }
    }
}
