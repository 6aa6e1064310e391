//! The proxy is killed at each stage of a message: what is there then, and after the client has come again.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use ocp_proto::smtp::{Command, EffectName, SideEffect};
use services::{Declaration, Finding, Outcome, Request};
use tests::scripted::{Script, Scripted, sender};
use tests::smtp::{Client, NextHop, stuffed};
use tests::stores::Stores;
use tests::{Milter, text};

/// For everything that is waited for.
const PATIENCE: Duration = Duration::from_secs(60);
/// Lines of a message that takes a while to be written.
const LINES: usize = 300_000;
/// How often that is tried, if it does not take long enough.
const ATTEMPTS: usize = 10;
const MAIL: &str = "From: a@a.example\r\nSubject: x\r\n\r\n.one\r\ntwo\r\n";

/// Whether the slow service has been slow.
static WAS_SLOW: AtomicBool = AtomicBool::new(false);

/// Has messages of `odd` kept, and thinks over the first one of `slow` for longer than anybody waits.
fn actor() -> Script {
    let declaration = Declaration {
        effects: vec![EffectName::Quarantine],
        ..Declaration::on([Command::Message])
    };
    Script { name: "actor", declaration, answer: act }
}

fn act(request: &Request) -> (Duration, Outcome) {
    let passed = Outcome::unchanged(Finding::new("passed"));
    match sender(request).as_str() {
        "odd" => (Duration::ZERO, passed.with_effect(SideEffect::Quarantine("odd".into()))),
        "slow" if !WAS_SLOW.swap(true, Ordering::Relaxed) => (PATIENCE, passed),
        _ => (Duration::ZERO, passed),
    }
}

/// A next hop that waits, once, before it answers a line that begins in a certain way.
struct Pause {
    is_there: Receiver<()>,
    go_on: Sender<()>,
}

fn pausing(at: &'static str) -> (NextHop, Pause) {
    let (reached, is_there) = channel();
    let (go_on, may_go_on) = channel::<()>();
    let pause = Mutex::new(Some((reached, may_go_on)));
    let hop = NextHop::unless(move |line| {
        let pause = if at.is_empty() || !line.starts_with(at) {
            None
        } else {
            pause.lock().expect("nobody panics with it").take()
        };
        if let Some((reached, may_go_on)) = pause {
            reached.send(()).expect("somebody waits for that");
            may_go_on.recv_timeout(PATIENCE).expect("somebody lets it go on");
        }
        None
    });
    (hop, Pause { is_there, go_on })
}

struct Chain {
    server: Scripted,
    hop: NextHop,
    pause: Pause,
    stores: Stores,
    config: String,
    proxy: Milter,
    _folder: tempfile::TempDir,
}

/// A chain whose next hop waits at this line; nowhere if that is empty.
fn chain(pause_at: &'static str) -> Chain {
    let server = Scripted::start(&[actor()]);
    let (hop, pause) = pausing(pause_at);
    let folder = tempfile::tempdir().expect("a folder");
    let stores = Stores::new(folder.path());
    let config = format!(
        "[[group]]\nname = \"a\"\nservices = [\"actor\"]\nservers = [\"{}\"]\n",
        server.address
    );
    let proxy = stores.start_proxy("127.0.0.1:0", hop.port, &config);
    Chain { server, hop, pause, stores, config, proxy, _folder: folder }
}

impl Chain {
    /// A client that has said for whom its message is.
    fn client(&self, sender: &str) -> Client {
        let mut client = Client::greeted(self.proxy.port());
        assert_eq!(client.say(&format!("MAIL FROM:<{sender}@a.example>")), "250 2.1.0 ok");
        assert_eq!(client.say("RCPT TO:<b@b.example>"), "250 2.1.5 ok");
        client
    }

    /// One that has sent all of its message, and has no reply.
    fn sent(&self, sender: &str, message: &str) -> Client {
        let mut client = self.client(sender);
        assert!(client.say("DATA").starts_with("354"));
        client.send(&stuffed(message.as_bytes()));
        client
    }

    /// Waits until the next hop waits.
    fn paused(&self) {
        self.pause.is_there.recv_timeout(PATIENCE).expect("the next hop comes so far");
    }

    /// The proxy is killed, then the next hop goes on, then the proxy is there again: what its log had said
    /// of the message.
    fn kill(&mut self) -> Vec<String> {
        self.proxy.kill();
        // Where it has not waited it need not be told.
        let _ = self.pause.go_on.send(());
        let address = format!("127.0.0.1:{}", self.proxy.port());
        let again = self.stores.start_proxy(&address, self.hop.port, &self.config);
        let (_, lines) = std::mem::replace(&mut self.proxy, again).ended();
        let lines = lines.iter().map(|line| text(line, "message"));
        lines.filter(|line| line.starts_with("goes to ") || line == "message").collect()
    }

    /// The client brings its message again.
    fn again(&self, sender: &str, message: &str) -> String {
        let sender = format!("{sender}@a.example");
        Client::greeted(self.proxy.port()).mail(&sender, &["b@b.example"], message.as_bytes())
    }

    /// So many messages arrived by now, whole.
    fn arrived(&self, count: usize) {
        for mail in self.hop.wait_for(count) {
            assert_eq!(String::from_utf8_lossy(&mail.octets), MAIL);
        }
        assert!(self.hop.is_empty(), "more arrived");
    }

    /// So many messages are kept, whole, and nothing else is left of any.
    fn kept(&self, count: usize, message: &str) {
        let kept = self.stores.kept();
        assert_eq!(kept.len(), count, "{kept:#?}");
        assert_eq!(self.stores.files().len(), 2 * count);
        for record in kept {
            let octets = self.stores.message(&text(&record, "id"));
            assert!(octets == message.as_bytes(), "{record} is not whole");
        }
    }

    /// Waits until there is a file of the quarantine whose name ends so.
    fn wait_for_file(&self, end: &str) {
        let begin = Instant::now();
        while !self.has_file(end) {
            assert!(begin.elapsed() < PATIENCE, "nothing is kept");
        }
    }

    fn has_file(&self, end: &str) -> bool {
        self.stores.files().iter().any(|file| file.to_string_lossy().ends_with(end))
    }

    /// The message that is kept is given to the spool.
    fn release(&self) {
        let ids: Vec<_> = self.stores.kept().iter().map(|kept| text(kept, "id")).collect();
        assert!(self.stores.release(&ids).status().expect("it runs").success());
    }
}

#[test]
fn killed_after_the_envelope() {
    let mut chain = chain("");
    let _client = chain.client("a");
    assert_eq!(chain.kill(), [""; 0]);
    assert_eq!(chain.again("a", MAIL), "250 2.0.0 taken");
    chain.arrived(1);
    chain.kept(0, "");
}

#[test]
fn killed_within_the_content() {
    let mut chain = chain("");
    let mut client = chain.client("a");
    assert!(client.say("DATA").starts_with("354"));
    client.send(b"Subject: x\r\n\r\nhalf of\r\n");
    assert_eq!(chain.kill(), [""; 0]);
    assert_eq!(chain.again("a", MAIL), "250 2.0.0 taken");
    chain.arrived(1);
    chain.kept(0, "");
}

#[test]
fn killed_while_services_have_the_message() {
    let mut chain = chain("");
    let _client = chain.sent("slow", MAIL);
    assert_eq!(chain.server.next_event(), "MESSAGE actor");
    assert_eq!(chain.kill(), [""; 0]);
    assert_eq!(chain.again("slow", MAIL), "250 2.0.0 taken");
    chain.arrived(1);
    chain.kept(0, "");
}

#[test]
fn killed_before_the_next_hop_has_the_content() {
    let mut chain = chain("DATA");
    let _client = chain.sent("a", MAIL);
    chain.paused();
    assert_eq!(chain.kill(), ["goes to the next hop"]);
    assert_eq!(chain.again("a", MAIL), "250 2.0.0 taken");
    chain.arrived(1);
    chain.kept(0, "");
}

/// The one stage at which a message may arrive twice (RFC 5321 section 6.1): the log says that it went out,
/// and not what became of it.
#[test]
fn killed_before_the_reply_of_the_next_hop() {
    let mut chain = chain(".");
    let _client = chain.sent("a", MAIL);
    chain.paused();
    assert_eq!(chain.kill(), ["goes to the next hop"]);
    chain.arrived(1);
    assert_eq!(chain.again("a", MAIL), "250 2.0.0 taken");
    chain.arrived(1);
    chain.kept(0, "");
}

#[test]
fn killed_before_a_message_is_kept() {
    let mut chain = chain("RSET");
    let _client = chain.sent("odd", MAIL);
    chain.paused();
    assert_eq!(chain.kill(), ["goes to the quarantine"]);
    chain.kept(0, "");
    assert_eq!(chain.again("odd", MAIL), "250 2.0.0 Ok");
    chain.kept(1, MAIL);
    chain.arrived(0);
}

#[test]
fn killed_while_a_message_is_kept() {
    let line = "0123456789 0123456789 0123456789\r\n";
    let large = format!("Subject: x\r\n\r\n{}", line.repeat(LINES));
    for _ in 0..ATTEMPTS {
        let mut chain = chain("");
        let _client = chain.sent("odd", &large);
        chain.wait_for_file(".eml");
        chain.proxy.kill();
        if chain.has_file(".json") {
            println!("it was kept already");
            continue;
        }
        assert_eq!(chain.kill(), ["goes to the quarantine"]);
        chain.kept(0, "");
        assert_eq!(chain.again("odd", &large), "250 2.0.0 Ok");
        chain.kept(1, &large);
        return chain.arrived(0);
    }
    panic!("it is kept too fast");
}

/// OPES-4496-4.1-04: in the quarantine, and nowhere else. Nobody told the client, so it brings its message again.
#[test]
fn killed_once_a_message_is_kept() {
    let mut chain = chain("");
    let _client = chain.sent("odd", MAIL);
    chain.wait_for_file(".json");
    chain.kill();
    chain.kept(1, MAIL);
    assert_eq!(chain.again("odd", MAIL), "250 2.0.0 Ok");
    chain.kept(2, MAIL);
    chain.arrived(0);
}

#[test]
fn killed_before_the_next_hop_has_what_was_released() {
    let mut chain = chain("DATA");
    assert_eq!(chain.again("odd", MAIL), "250 2.0.0 Ok");
    chain.release();
    chain.paused();
    let log = ["goes to the quarantine", "message", "goes to the next hop"];
    assert_eq!(chain.kill(), log);
    chain.arrived(1);
}

/// As killed_before_the_reply_of_the_next_hop, but nobody has to come again.
#[test]
fn killed_before_the_reply_to_what_was_released() {
    let mut chain = chain(".");
    assert_eq!(chain.again("odd", MAIL), "250 2.0.0 Ok");
    chain.release();
    chain.paused();
    let log = ["goes to the quarantine", "message", "goes to the next hop"];
    assert_eq!(chain.kill(), log);
    chain.arrived(2);
}
