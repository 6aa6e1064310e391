//! A mail gateway: a real Postfix, `opes-mta milter`, callout servers, and the next hop.

use serde_json::Value;

use crate::postfix::{self, Port, Postfix};
use crate::smtp::NextHop;
use crate::{Milter, not_run, text};

/// Postfix, its milter and its next hop; the callout servers are the story's.
pub struct Gateway {
    /// `opes-mta milter`.
    pub milter: Milter,
    /// One port, whose mail goes through the milter.
    pub postfix: Postfix,
    /// Where accepted mail arrives.
    pub hop: NextHop,
    /// Files of the story.
    pub folder: tempfile::TempDir,
}

impl Gateway {
    /// Starts all of it with a configuration of `opes-mta`; `None`, and a line that says so, where there
    /// is no Postfix.
    ///
    /// # Panics
    /// If something does not start.
    pub fn start(story: &str, config: &str, parameters: &[&str]) -> Option<Self> {
        if !postfix::is_there() {
            not_run(story, "there is no Postfix, or no root to start it");
            return None;
        }
        let folder = tempfile::tempdir().expect("a folder");
        let milter = Milter::start(folder.path(), config);
        let hop = NextHop::start();
        let ports = [Port::with_milter(&milter.address)];
        let postfix = Postfix::start(folder.path(), &ports, hop.port, parameters);
        Some(Self { milter, postfix, hop, folder })
    }

    /// Where Postfix listens.
    pub fn port(&self) -> u16 {
        self.postfix.ports[0]
    }

    /// The next message's line in the log of `opes-mta`, see [`told`].
    ///
    /// # Panics
    /// If none comes.
    pub fn told(&mut self) -> String {
        told(&self.milter.wait_for("message"))
    }
}

/// What a line about a message says, without times and queue ids: `DECISION SENDER -> RECIPIENTS`, and in
/// lines of their own what else there is: the reason, refused recipients, the failure, verdicts.
pub fn told(line: &Value) -> String {
    let or_none = |member: &str| match text(line, member) {
        empty if empty.is_empty() => "-".to_owned(),
        text => text,
    };
    let (decision, sender) = (or_none("decision"), or_none("sender"));
    let mut told = format!("{decision} {sender} -> {}", or_none("recipients"));
    for member in ["reason", "refused", "failure", "verdicts"] {
        let value = text(line, member);
        if !value.is_empty() {
            told.push_str(&format!("\n{member}: {value}"));
        }
    }
    told
}
