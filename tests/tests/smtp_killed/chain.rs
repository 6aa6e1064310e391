//! The processes of the story, which are killed and started again where they were.

use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::Value;
use tests::postfix::{Port, Postfix};
use tests::random::Random;
use tests::smtp::NextHop;
use tests::stores::Stores;
use tests::{CalloutServer, Milter};

/// Kinds of processes that are killed in turn.
pub(crate) const VICTIMS: usize = 3;
/// Callout servers of one group.
const SERVERS: usize = 2;
/// Between two looks at how far it has come.
const PAUSE: Duration = Duration::from_millis(20);

const SERVICES: &str = "[services.mail-from.settings]\ndeny = [\"denied.example\"]\n\
                        [services.spam-score.settings]\nmark-ham = true\n\
                        [services.virus-scan.settings]\naction = \"quarantine\"\n";

/// Who was killed, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Victim {
    Proxy,
    NextHop,
    Server,
}

/// A moment at which somebody was killed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kill {
    pub(crate) victim: Victim,
    pub(crate) from: Instant,
    pub(crate) until: Instant,
}

/// A process of the proxy.
pub(crate) struct Life {
    pub(crate) is_killed: bool,
    /// What it said.
    pub(crate) lines: Vec<Value>,
}

/// `opes-mta smtp`, two callout servers, Postfix behind it, and where that brings the mail.
pub(crate) struct Chain {
    pub(crate) stores: Stores,
    pub(crate) kills: Vec<Kill>,
    /// The processes of the proxy, one after the other.
    pub(crate) lives: Vec<Life>,
    pub(crate) hop: NextHop,
    folder: PathBuf,
    servers: Vec<CalloutServer>,
    addresses: Vec<String>,
    postfix: Postfix,
    proxy: Option<Milter>,
    address: String,
}

impl Chain {
    pub(crate) fn start(folder: &Path) -> Self {
        let begin = |number| server(folder, number, "127.0.0.1:0");
        let servers: Vec<_> = (0..SERVERS).map(begin).collect();
        let addresses: Vec<_> = servers.iter().map(|server| server.address().to_owned()).collect();
        let hop = NextHop::start();
        // A name that a queue file had before is never given again.
        let names = "enable_long_queue_ids = yes";
        let postfix = Postfix::start(folder, &[Port::default()], hop.port, &[names]);
        let mut chain = Self {
            stores: Stores::new(folder),
            kills: Vec::new(),
            lives: Vec::new(),
            hop,
            folder: folder.to_owned(),
            servers,
            addresses,
            postfix,
            proxy: None,
            address: "127.0.0.1:0".to_owned(),
        };
        let proxy = chain.start_proxy();
        chain.address = format!("127.0.0.1:{}", proxy.port());
        chain.proxy = Some(proxy);
        chain
    }

    fn start_proxy(&self) -> Milter {
        let config = format!(
            "[system]\nuri = \"https://opes.example.org/\"\nname = \"mx1\"\n\
             [[group]]\nname = \"mail\"\nservers = {:?}\non-failure = \"tempfail\"\n\
             overload = \"tempfail\"\n\
             services = [\"mail-from\", \"spam-score\", \"virus-scan\"]\n",
            self.addresses
        );
        self.stores.start_proxy(&self.address, self.postfix.ports[0], &config)
    }

    /// The port of the proxy.
    pub(crate) fn port(&self) -> u16 {
        self.proxy.as_ref().expect("it runs").port()
    }

    /// Kills whose turn it is, and starts it again after what happens meanwhile.
    pub(crate) fn kill(&mut self, turn: usize, random: &mut Random, meanwhile: impl FnOnce()) {
        let from = Instant::now();
        match turn % VICTIMS {
            0 => {
                let mut proxy = self.proxy.take().expect("it runs");
                proxy.kill();
                self.killed(Victim::Proxy, from);
                let (_, lines) = proxy.ended();
                self.lives.push(Life { is_killed: true, lines });
                meanwhile();
                self.proxy = Some(self.start_proxy());
            }
            1 => {
                self.postfix.kill();
                self.killed(Victim::NextHop, from);
                meanwhile();
                self.postfix.start_again();
            }
            _ => {
                // One of them, or all.
                let numbers = match random.below(SERVERS + 1) {
                    SERVERS => 0..SERVERS,
                    one => one..one + 1,
                };
                numbers.clone().for_each(|number| self.servers[number].kill());
                self.killed(Victim::Server, from);
                meanwhile();
                for number in numbers {
                    self.servers[number] = server(&self.folder, number, &self.addresses[number]);
                }
            }
        }
    }

    fn killed(&mut self, victim: Victim, from: Instant) {
        self.kills.push(Kill { victim, from, until: Instant::now() });
    }

    /// Waits until nothing is on its way any more, and the proxy has ended by itself after a last start.
    pub(crate) fn drain(&mut self, patience: Duration) {
        let begin = Instant::now();
        loop {
            let waiting = self.stores.waiting();
            if waiting.is_empty() {
                break;
            }
            assert!(begin.elapsed() < patience, "the spool keeps mail: {waiting:#?}");
            self.stores.flush();
            sleep(PAUSE);
        }
        // A start that finds nothing to bring to an end.
        self.stop_proxy();
        self.proxy = Some(self.start_proxy());
        self.stop_proxy();
        while !self.postfix.waiting().is_empty() {
            assert!(begin.elapsed() < patience, "Postfix keeps mail: {}", self.postfix.log());
            sleep(PAUSE);
        }
    }

    fn stop_proxy(&mut self) {
        let proxy = self.proxy.take().expect("it runs");
        proxy.terminate();
        let (code, lines) = proxy.ended();
        assert_eq!(code, Some(0), "{lines:#?}");
        self.lives.push(Life { is_killed: false, lines });
    }
}

fn server(folder: &Path, number: usize, address: &str) -> CalloutServer {
    let folder = folder.join(format!("server-{number}"));
    std::fs::create_dir_all(&folder).expect("a folder");
    CalloutServer::start_at(address, &folder, SERVICES, &[])
}
