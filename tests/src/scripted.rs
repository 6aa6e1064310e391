//! A callout server whose services do what a story wants: the library, in the process of the tests.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use bytes::Bytes;
use callout_server::{Address, Config, Entry, Listeners, Server};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use ocp_proto::smtp::{self, Command, Reply};
use services::{AddressList, Declaration, Outcome, Registry, Request, Service, ServiceError};
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;
use toml::Spanned;

use crate::PATIENCE;

/// A service of a story.
#[derive(Clone)]
pub struct Script {
    /// Under `ocp://service/`.
    pub name: &'static str,
    /// What it wants to see and may ask for.
    pub declaration: Declaration,
    /// What it answers, and how long it thinks before that.
    pub answer: fn(&Request) -> (Duration, Outcome),
}

/// A running server; it ends at once, as if it had crashed, when it is dropped.
pub struct Scripted {
    /// Where it listens.
    pub address: String,
    seen: Receiver<String>,
    _runtime: Runtime,
}

impl Scripted {
    /// Starts one at a free port.
    ///
    /// # Panics
    /// If it does not listen.
    pub fn start(scripts: &[Script]) -> Self {
        Self::start_at("127.0.0.1:0", scripts)
    }

    /// Starts one with a configuration, at a free port.
    ///
    /// # Panics
    /// If it does not listen, or the configuration is none.
    pub fn start_with(config: &str, scripts: &[Script]) -> Self {
        Self::run("127.0.0.1:0", config, scripts, |_| None)
    }

    /// Starts one at a certain address.
    ///
    /// # Panics
    /// If it does not listen.
    pub fn start_at(address: &str, scripts: &[Script]) -> Self {
        Self::start_for(address, scripts, |_| None)
    }

    /// The same, with services for some recipients only: those that `recipients` names for a service.
    ///
    /// # Panics
    /// As there.
    pub fn start_for(
        address: &str,
        scripts: &[Script],
        recipients: impl Fn(&str) -> Option<&'static str>,
    ) -> Self {
        Self::run(address, "", scripts, recipients)
    }

    fn run(
        address: &str,
        config: &str,
        scripts: &[Script],
        recipients: impl Fn(&str) -> Option<&'static str>,
    ) -> Self {
        let (sender, seen) = channel();
        let registry = Registry::builtin();
        let config = Config::parse(config, Path::new(""), &registry).expect("it is legal");
        let mut config = config;
        for script in scripts {
            let service = Arc::new(Actor { script: script.clone(), seen: sender.clone() });
            let mut entry = Entry::new(script.name, "", service, PATIENCE);
            entry.recipients = recipients(script.name).map(|recipient| {
                let recipient = Spanned::new(0..0, recipient.to_owned());
                AddressList::new(&[recipient]).expect("it is an address")
            });
            config.router.add(entry).expect("names differ");
        }
        let runtime = Runtime::new().expect("a runtime starts");
        let address: Address = address.parse().expect("it is an address");
        let listeners = runtime.block_on(Listeners::bind(&[address])).expect("the port is free");
        let address = listeners.addresses().remove(0).to_string();
        let _entered = runtime.enter();
        runtime.spawn(listeners.serve(Arc::new(Server::new(config)), CancellationToken::new()));
        drop(_entered);
        Self { address, seen, _runtime: runtime }
    }

    /// Waits until a service gets the next event: its name and that of the service, such as
    /// `MESSAGE hold`.
    ///
    /// # Panics
    /// If none comes.
    pub fn next_event(&self) -> String {
        self.seen.recv_timeout(PATIENCE).expect("an event comes")
    }
}

struct Actor {
    script: Script,
    seen: Sender<String>,
}

impl Service for Actor {
    fn declaration(&self) -> Declaration {
        self.script.declaration.clone()
    }

    fn handle<'a>(&'a self, request: &'a Request) -> BoxFuture<'a, Result<Outcome, ServiceError>> {
        async move {
            // Most stories do not look.
            let _ = self.seen.send(format!("{} {}", request.command, self.script.name));
            let (time, outcome) = (self.script.answer)(request);
            if !time.is_zero() {
                tokio::time::sleep(time).await;
            }
            Ok(outcome)
        }
        .boxed()
    }
}

/// The local part of the sender: stories say with it what is to be done. Empty before MAIL.
pub fn sender(request: &Request) -> String {
    let path = match (&request.command, request.line()) {
        (Command::Mail, Some(line)) => line.as_bytes().clone(),
        _ => {
            let sender = request.envelope.sender.as_ref();
            sender.map(|sender| sender.path().to_bytes()).unwrap_or_default()
        }
    };
    let path = String::from_utf8_lossy(&path).into_owned();
    let (_, path) = path.split_once('<').unwrap_or_default();
    path.split(['@', '>']).next().unwrap_or_default().to_owned()
}

/// A reply of these lines.
///
/// # Panics
/// If it is none.
pub fn reply(lines: &str) -> Reply {
    Reply::parse(Bytes::copy_from_slice(lines.as_bytes())).expect("it is a reply")
}

/// An address without parameters.
///
/// # Panics
/// If it is none.
pub fn address(path: &str) -> smtp::Address {
    smtp::Address::new(format!("<{path}>")).expect("it is a path")
}
