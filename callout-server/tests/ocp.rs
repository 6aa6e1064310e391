//! The server over real sockets: what a processor sends, and every octet that it gets.

#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing)]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use callout_server::{Address, Config, Entry, Listeners, Server};
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, ready};
use ocp_proto::smtp::{Command, EffectName, Reply};
use services::mail::Edits;
use services::{Change, Declaration, Finding, Outcome, Registry, Request, Service, ServiceError};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Marks every message; for commands it says what it knows of the dialog.
struct Marker;

impl Service for Marker {
    fn declaration(&self) -> Declaration {
        Declaration {
            effects: vec![EffectName::Quarantine],
            ..Declaration::on([Command::Helo, Command::StartTls, Command::Message])
        }
    }

    fn handle<'a>(&'a self, request: &'a Request) -> BoxFuture<'a, Result<Outcome, ServiceError>> {
        let Some(mail) = request.mail() else {
            let text = |fact: &Option<ocp_proto::wire::Atom>| {
                fact.as_deref().map(String::from_utf8_lossy).unwrap_or_default().into_owned()
            };
            let facts = &request.dialog;
            let known = format!("{},{}", text(&facts.client_name), text(&facts.helo));
            let finding = Finding::new("seen").with_reason(known);
            return ready(Ok(Outcome::unchanged(finding))).boxed();
        };
        let mut edits = Edits::new();
        edits.prepend_field(mail, "X-Mark", "1");
        ready(Ok(Outcome::changed(Change::Content(edits), "marked"))).boxed()
    }
}

/// Holds senders at `slow@b`: one passes for each permit. Counts those that were given up.
struct Gate {
    permits: Semaphore,
    waiting: Semaphore,
    given_up: Arc<AtomicUsize>,
}

struct Guard(Arc<AtomicUsize>);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

impl Service for Gate {
    fn declaration(&self) -> Declaration {
        Declaration::on([Command::Mail])
    }

    fn handle<'a>(&'a self, request: &'a Request) -> BoxFuture<'a, Result<Outcome, ServiceError>> {
        async move {
            if request.line().is_some_and(|line| line.as_bytes().ends_with(b"<slow@b>")) {
                let guard = Guard(self.given_up.clone());
                self.waiting.add_permits(1);
                self.permits.acquire().await.unwrap().forget();
                std::mem::forget(guard);
            }
            Ok(Outcome::unchanged(Finding::new("passed")))
        }
        .boxed()
    }
}

/// Refuses content before it comes.
struct Refuser;

impl Service for Refuser {
    fn declaration(&self) -> Declaration {
        Declaration::on([Command::Data])
    }

    fn handle<'a>(&'a self, _request: &'a Request) -> BoxFuture<'a, Result<Outcome, ServiceError>> {
        let reply = Reply::new(550, "5.7.1", "not for them").unwrap();
        ready(Ok(Outcome::changed(Change::Reply(reply), "refused"))).boxed()
    }
}

struct Running {
    address: Address,
    gate: Arc<Gate>,
    server: Arc<Server>,
    stop: CancellationToken,
    served: JoinHandle<()>,
}

async fn start(config: &str) -> Running {
    start_on("127.0.0.1:0".parse().unwrap(), config).await
}

async fn start_on(address: Address, config: &str) -> Running {
    let mut config = Config::parse(config, Path::new(""), &Registry::default()).unwrap();
    let gate = Arc::new(Gate {
        permits: Semaphore::new(0),
        waiting: Semaphore::new(0),
        given_up: Arc::default(),
    });
    let services: [(&str, Arc<dyn Service>); 2] =
        [("mark", Arc::new(Marker)), ("gate", gate.clone())];
    for (name, service) in services {
        config.router.add(Entry::new(name, "", service, Duration::from_secs(60))).unwrap();
    }
    let some: [(&str, Arc<dyn Service>); 2] =
        [("some", Arc::new(Marker)), ("refuse-some", Arc::new(Refuser))];
    for (name, service) in some {
        let mut entry = Entry::new(name, "", service, Duration::from_secs(60));
        let named = [toml::Spanned::new(0..0, "x.example".to_owned())];
        entry.recipients = Some(services::AddressList::new(&named).unwrap());
        config.router.add(entry).unwrap();
    }
    let listeners = Listeners::bind(&[address]).await.unwrap();
    let address = listeners.addresses().remove(0);
    let server = Arc::new(Server::new(config));
    let stop = CancellationToken::new();
    let served = tokio::spawn(listeners.serve(server.clone(), stop.clone()));
    Running { address, gate, server, stop, served }
}

impl Running {
    async fn connect(&self) -> Peer<TcpStream> {
        let Address::Tcp(address) = &self.address else { panic!("{}", self.address) };
        Peer { stream: TcpStream::connect(address).await.unwrap(), read: Vec::new() }
    }

    /// A connection with dialog 1 and three groups: 1 marks, 2 is the gate, 3 is not known here.
    async fn negotiated(&self) -> Peer<TcpStream> {
        let mut peer = self.connect().await;
        peer.send(HELLO).await;
        for (group, uri) in [(1, "\"18:ocp://service/mark\""), (2, "\"18:ocp://service/gate\"")] {
            peer.send(&format!(
                "SGC {group} ({{{uri}}});\r\nNO ({{\"18:ocp://smtp/command\"\r\n\
                 Commands: (HELO,STARTTLS,MAIL,MESSAGE)\r\n}})\r\nSG: {group}\r\n;\r\n"
            ))
            .await;
        }
        let rest = "SGC 3 ({\"3:x:y\"});\r\nDialog-Start 1\r\nClient-Name: host\r\n;\r\nPQ;\r\n";
        peer.send(rest).await;
        let answers = peer.until("PA;\r\n").await;
        assert!(answers.contains("Commands: (HELO,STARTTLS,MESSAGE)\r\nOn-Failure"), "{answers}");
        assert!(answers.contains("Commands: (MAIL)\r\nOn-Failure: tempfail\r\n}\r\nSG: 2\r\n"));
        peer
    }

    async fn finish(self) {
        self.stop.cancel();
        tokio::time::timeout(Duration::from_secs(10), self.served).await.unwrap().unwrap();
        assert_eq!(self.server.open_dialogs(), 0);
    }
}

const HELLO: &str = "CS;\r\nNO ({\"17:ocp://smtp/dialog\"\r\nVersion: 1\r\n});\r\n";

struct Peer<S> {
    stream: S,
    read: Vec<u8>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Peer<S> {
    async fn send(&mut self, octets: &str) {
        self.stream.write_all(octets.as_bytes()).await.unwrap();
    }

    /// Everything up to and with the first occurrence of `end`.
    async fn until(&mut self, end: &str) -> String {
        loop {
            let found = self.read.windows(end.len()).position(|octets| octets == end.as_bytes());
            if let Some(at) = found {
                let rest = self.read.split_off(at + end.len());
                let text = std::mem::replace(&mut self.read, rest);
                return String::from_utf8(text).unwrap();
            }
            let read = self.stream.read_buf(&mut self.read);
            let count = tokio::time::timeout(Duration::from_secs(10), read).await;
            let so_far = String::from_utf8_lossy(&self.read).into_owned();
            assert_ne!(count.expect(&so_far).unwrap(), 0, "no {end:?} in {so_far:?}");
        }
    }

    /// Everything up to the end of the connection.
    async fn rest(&mut self) -> String {
        let read = self.stream.read_to_end(&mut self.read);
        tokio::time::timeout(Duration::from_secs(10), read).await.unwrap().unwrap();
        String::from_utf8(std::mem::take(&mut self.read)).unwrap()
    }
}

/// A message event of dialog 1; its header has 8 octets, its body 4.
fn message(xid: u32, kept: &str) -> String {
    format!(
        "TS {xid} 1;\r\nAMS {xid}\r\nDialog: 1\r\nCommand: MESSAGE\r\n;\r\n\
         DUM {xid} 0\r\n{kept}AM-Part: message-header\r\n\r\n8:A: b\r\n\r\n\r\n;\r\n\
         DUM {xid} 8\r\n{kept}AM-Part: message-body\r\n\r\n4:body\r\n;\r\nAME {xid};\r\n"
    )
}

fn command(xid: u32, group: u32, dialog: u32, command: &str, line: &str) -> String {
    format!(
        "TS {xid} {group};\r\nAMS {xid}\r\nDialog: {dialog}\r\nCommand: {command}\r\n;\r\n\
         DUM {xid} 0\r\nAM-Part: command\r\n\r\n{}:{line}\r\n;\r\nAME {xid};\r\n",
        line.len()
    )
}

/// Verdicts name the time taken.
fn without_times(text: &str) -> String {
    let lines = text.split("\r\n").filter(|line| !line.starts_with("Milliseconds: "));
    lines.collect::<Vec<_>>().join("\r\n")
}

#[tokio::test]
async fn kept_octets_stay_at_home_and_others_come_back_as_they_are() {
    let running = start("").await;
    let mut peer = running.negotiated().await;
    peer.send(&message(1, "Kept: {0 12}\r\n")).await;
    let end = "Verdicts: ({\"18:ocp://service/mark\" marked\r\n})\r\n;\r\n";
    assert_eq!(
        without_times(&peer.until("TE 1;\r\n").await),
        format!(
            "AMS 1;\r\nDUM 1 0\r\nModp: 100\r\nAM-Part: message-header\r\n\r\n11:X-Mark: 1\r\n\r\n;\r\n\
             DUY 1 0 8;\r\nDUY 1 8 4;\r\nAME 1\r\n{end}TE 1;\r\n"
        )
    );
    peer.send(&message(2, "")).await;
    assert_eq!(
        without_times(&peer.until("TE 2;\r\n").await),
        format!(
            "AMS 2;\r\nDUM 2 0\r\nModp: 100\r\nAM-Part: message-header\r\n\r\n11:X-Mark: 1\r\n\r\n;\r\n\
             DUM 2 11\r\nAs-is: 0\r\nAM-Part: message-header\r\n\r\n8:A: b\r\n\r\n\r\n;\r\n\
             DUM 2 19\r\nAs-is: 8\r\nAM-Part: message-body\r\n\r\n4:body\r\n;\r\n\
             AME 2\r\n{end}TE 2;\r\n"
        )
    );
    // Kept in part: the rest of the range is sent again.
    peer.send(&message(3, "Kept: {2 3}\r\n")).await;
    let answer = peer.until("TE 3;\r\n").await;
    let split =
        "As-is: 0\r\nAM-Part: message-header\r\n\r\n2:A:\r\n;\r\nDUY 3 2 3;\r\nDUM 3 16\r\n";
    assert!(answer.contains(split), "{answer}");
    drop(peer);
    running.finish().await;
}

#[tokio::test]
async fn what_can_not_be_done_is_refused_alone() {
    let running = start("[limits]\nmessage-octets = 16\n").await;
    let mut peer = running.negotiated().await;
    peer.send("TS 1 3;\r\n").await;
    assert_eq!(peer.until("\r\n").await, "TE 1 {400 \"28:there is no service x:y here\"};\r\n");

    let large = message(2, "").replace("4:body", "9:body body");
    let refused =
        "TE 2 {400 \"62:the message has more than the 16 octets that this server takes\"};\r\n";
    peer.send(&large).await;
    assert_eq!(peer.until(";\r\n").await, refused);
    // A size that is known beforehand is refused before any octet comes.
    let announced = "TS 3 1;\r\nAMS 3\r\nDialog: 1\r\nCommand: MESSAGE\r\nAM-EL: 17\r\n;\r\n";
    peer.send(announced).await;
    assert_eq!(peer.until(";\r\n").await, refused.replace("TE 2", "TE 3"));

    peer.send("SGC 4 ({\"18:ocp://service/mark\"});\r\nTS 4 4;\r\nAMS 4;\r\n").await;
    let refused = "TE 4 {400 \"29:the group has no SMTP profile\"};\r\n";
    assert_eq!(peer.until(";\r\n").await, refused);

    peer.send(&message(5, "").replace("AME 5;", "AME 5 {206};")).await;
    let refused = "TE 5 {400 \"35:the message is incomplete (AME 206)\"};\r\n";
    assert_eq!(peer.until(";\r\n").await, refused);

    peer.send(&command(6, 1, 1, "HELO", "QUIT")).await;
    let refused = "TE 6 {400 \"27:the command line is no HELO\"};\r\n";
    assert_eq!(peer.until(";\r\n").await, refused);

    // The dialog and the connection go on.
    peer.send(&command(7, 2, 1, "MAIL", "MAIL FROM:<>")).await;
    peer.until("TE 7;\r\n").await;
    drop(peer);
    running.finish().await;
}

#[tokio::test]
async fn content_beyond_the_budget_may_go_to_another_server() {
    let running = start("[limits]\ncontent-octets = 13\n").await;
    let mut peer = running.negotiated().await;
    peer.send(
        "TS 1 1;\r\nAMS 1\r\nDialog: 1\r\nCommand: MESSAGE\r\n;\r\n\
         DUM 1 0\r\nAM-Part: message-header\r\n\r\n2:\r\n\r\n;\r\nDialog-Start 2;\r\n",
    )
    .await;
    peer.send(&message(2, "").replace("Dialog: 1", "Dialog: 2")).await;
    assert_eq!(
        peer.until("\r\n;\r\n").await,
        "TE 2 {400 \"36:the server works on too much content\"}\r\nRetry: true\r\n;\r\n"
    );
    // What is given up is free again.
    peer.send(&format!("TE 1 {{400}};\r\n{}", message(3, ""))).await;
    peer.until("TE 3;\r\n").await;
    drop(peer);
    running.finish().await;
}

#[tokio::test]
async fn a_rule_limits_transactions() {
    let running = start("[[access]]\nlimits = { transactions = 1 }\n").await;
    let mut peer = running.negotiated().await;
    peer.send("TS 1 1;\r\nTS 2 1;\r\n").await;
    assert_eq!(
        peer.until("\r\n;\r\n").await,
        "TE 2 {400 \"31:too many transactions at a time\"}\r\nRetry: true\r\n;\r\n"
    );
    drop(peer);
    running.finish().await;
}

#[tokio::test]
async fn a_slow_service_holds_its_own_transaction_only() {
    let running = start("").await;
    let mut peer = running.negotiated().await;
    peer.send("Dialog-Start 2;\r\nDialog-Start 3;\r\n").await;
    peer.send(&command(1, 2, 1, "MAIL", "MAIL FROM:<slow@b>")).await;
    peer.send(&command(2, 2, 2, "MAIL", "MAIL FROM:<slow@b>")).await;
    peer.send(&command(3, 2, 3, "MAIL", "MAIL FROM:<quick@b>")).await;
    peer.until("TE 3;\r\n").await;
    running.gate.waiting.acquire_many(2).await.unwrap().forget();
    // The processor gives one up: the service's work is dropped.
    peer.send("TE 1 {400};\r\nPQ 1;\r\n").await;
    assert_eq!(peer.until(";\r\n").await, "PA;\r\n");
    while running.gate.given_up.load(Ordering::SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    running.gate.permits.add_permits(1);
    let answer = peer.until("TE 2;\r\n").await;
    assert!(answer.contains("{\"18:ocp://service/gate\" passed"), "{answer}");
    // Another connection has numbers of its own.
    let mut other = running.negotiated().await;
    other.send(&message(1, "")).await;
    other.until("TE 1;\r\n").await;
    drop((peer, other));
    running.finish().await;
}

#[tokio::test]
async fn dialog_facts_are_merged_and_cleared() {
    let running = start("").await;
    let mut peer = running.negotiated().await;
    peer.send("Dialog-Update 1\r\nHelo: client\r\n;\r\n").await;
    peer.send(&command(1, 1, 1, "STARTTLS", "STARTTLS")).await;
    let answer = peer.until("TE 1;\r\n").await;
    assert!(answer.contains("Reason: \"11:host,client\""), "{answer}");
    peer.send("Dialog-Outcome 1 1 {200};\r\n").await;
    peer.send(&command(2, 1, 1, "HELO", "EHLO again")).await;
    let answer = peer.until("TE 2;\r\n").await;
    assert!(answer.contains("Reason: \"5:host,\""), "{answer}");
    drop(peer);
    running.finish().await;
}

#[tokio::test]
async fn offers_get_what_is_possible_and_no_more() {
    let running = start("").await;
    let mut peer = running.connect().await;
    peer.send("CS;\r\nNO ({\"3:x:y\"},{\"16:ocp://smtp/reply\"},{\"18:ocp://smtp/command\"});\r\n")
        .await;
    assert_eq!(
        peer.until(";\r\nNR").await + &peer.until("\r\n;\r\n").await,
        "CS;\r\nNR\r\nRejects: ({\"16:ocp://smtp/reply\"},{\"18:ocp://smtp/command\"})\r\n\
         Unknowns: ({\"3:x:y\"})\r\n;\r\n"
    );
    peer.send("AQ {\"17:ocp://smtp/dialog\"};\r\n").await;
    assert_eq!(peer.until(";\r\n").await, "AA true;\r\n");
    drop(peer);
    running.finish().await;
}

#[tokio::test]
async fn recipients_get_messages_of_their_own() {
    let running = start("").await;
    let mut peer = running.connect().await;
    peer.send(&format!(
        "{HELLO}SGC 1 ({{\"18:ocp://service/some\"}});\r\nNO ({{\"18:ocp://smtp/command\"\r\n\
         Commands: (MESSAGE)\r\nMultiple-Messages: true\r\nRecipient-Replies: true\r\n}})\r\n\
         SG: 1\r\n;\r\nDialog-Start 1;\r\nPQ;\r\n"
    ))
    .await;
    let answers = peer.until("PA;\r\n").await;
    assert!(
        answers.contains("Multiple-Messages: true\r\nRecipient-Replies: true\r\n"),
        "{answers}"
    );
    let recipients = "MESSAGE\r\nRecipients: ({\"13:<a@x.example>\"},{\"13:<b@y.example>\"})\r\n";
    peer.send(&message(1, "Kept: {0 12}\r\n").replace("MESSAGE\r\n", recipients)).await;
    assert_eq!(
        without_times(&peer.until("TE 1;\r\n").await),
        "AMS 1\r\nAm-Id: 1\r\nRole: variant\r\nRecipients: ({\"13:<b@y.example>\"})\r\n;\r\n\
         DUY 1 0 8\r\nAm-Id: 1\r\n;\r\nDUY 1 8 4\r\nAm-Id: 1\r\n;\r\nAME 1\r\nAm-Id: 1\r\n\
         Verdicts: ({\"18:ocp://service/some\" marked\r\n})\r\n;\r\n\
         AMS 1\r\nAm-Id: 2\r\nRole: variant\r\nRecipients: ({\"13:<a@x.example>\"})\r\n;\r\n\
         DUM 1 0\r\nModp: 100\r\nAM-Part: message-header\r\nAm-Id: 2\r\n\r\n11:X-Mark: 1\r\n\r\n;\r\n\
         DUY 1 0 8\r\nAm-Id: 2\r\n;\r\nDUY 1 8 4\r\nAm-Id: 2\r\n;\r\n\
         AME 1\r\nAm-Id: 2\r\n;\r\nTE 1;\r\n"
    );
    drop(peer);
    running.finish().await;
}

/// A command has one answer, whatever was agreed for content.
#[tokio::test]
async fn recipients_do_not_differ_before_content() {
    let running = start("").await;
    let mut peer = running.connect().await;
    peer.send(&format!(
        "{HELLO}SGC 1 ({{\"25:ocp://service/refuse-some\"}});\r\nNO ({{\"18:ocp://smtp/command\"\r\n\
         Commands: (DATA)\r\nMultiple-Messages: true\r\nRecipient-Replies: true\r\n}})\r\n\
         SG: 1\r\n;\r\nDialog-Start 1;\r\nTS 1 1;\r\nAMS 1\r\nDialog: 1\r\nCommand: DATA\r\n\
         Recipients: ({{\"13:<a@x.example>\"}},{{\"13:<b@y.example>\"}})\r\n;\r\n\
         DUM 1 0\r\nAM-Part: command\r\n\r\n4:DATA\r\n;\r\nAME 1;\r\n"
    ))
    .await;
    let answer = without_times(&peer.until("TE 1;\r\n").await);
    let reply = "AMS 1;\r\nDUM 1 0\r\nModp: 100\r\nAM-Part: reply\r\n\r\n24:550 5.7.1 not for them\r\n\r\n;\r\n";
    assert!(answer.contains(reply), "{answer}");
    drop(peer);
    running.finish().await;
}

#[tokio::test]
async fn an_answer_pauses_and_goes_on_as_the_processor_asks() {
    let running = start("").await;
    let mut peer = running.negotiated().await;
    let paused = message(1, "Kept: {0 12}\r\n").replace("AME 1;\r\n", "DWP 1 15;\r\nAME 1;\r\n");
    peer.send(&paused).await;
    assert_eq!(
        peer.until("DPM 1;\r\n").await,
        "AMS 1;\r\nDUM 1 0\r\nModp: 100\r\nAM-Part: message-header\r\n\r\n11:X-Mark: 1\r\n\r\n;\r\n\
         DUY 1 0 4;\r\nDPM 1;\r\n"
    );
    // Meanwhile others are served.
    peer.send("Dialog-Start 2;\r\n").await;
    peer.send(&command(2, 2, 2, "MAIL", "MAIL FROM:<>")).await;
    peer.until("TE 2;\r\n").await;
    peer.send("DWM 1;\r\n").await;
    let rest = without_times(&peer.until("TE 1;\r\n").await);
    assert!(rest.starts_with("DUY 1 4 4;\r\nDUY 1 8 4;\r\nAME 1\r\n"), "{rest}");
    drop(peer);
    running.finish().await;
}

/// What nobody keeps goes back piece by piece, as the peer reads it.
#[tokio::test]
async fn a_large_answer_waits_for_its_reader() {
    let running = start("[limits]\nunsent-octets = 1000\n").await;
    let mut peer = running.negotiated().await;
    let body: String = (0..200_000).map(|n| format!("line {n}\r\n")).collect();
    let large = message(1, "").replace("4:body", &format!("{}:{body}", body.len()));
    peer.send(&large).await;
    let answer = peer.until("TE 1;\r\n").await;
    let mut returned = String::new();
    for data in answer.split("AM-Part: message-body\r\n\r\n").skip(1) {
        let (size, rest) = data.split_once(':').unwrap();
        returned.push_str(&rest[..size.parse().unwrap()]);
    }
    assert!(returned == body, "{} of {} octets", returned.len(), body.len());
    assert!(answer.matches("AM-Part: message-body").count() > 8);
    drop(peer);
    running.finish().await;
}

#[tokio::test]
async fn a_server_that_stops_lets_open_dialogs_end() {
    let running = start("").await;
    let mut peer = running.negotiated().await;
    peer.send(&command(1, 2, 1, "MAIL", "MAIL FROM:<slow@b>")).await;
    running.gate.waiting.acquire().await.unwrap().forget();
    let mut idle = running.connect().await;
    idle.send(&format!("{HELLO}PQ;\r\n")).await;
    idle.until("PA;\r\n").await;
    running.stop.cancel();
    assert_eq!(idle.rest().await, "Dialog-Drain;\r\nCE;\r\n");
    peer.until("Dialog-Drain;\r\n").await;
    peer.send("Dialog-Start 2;\r\n").await;
    let refused = "Dialog-End 2 {400 \"22:the server is stopping\"};\r\n";
    assert_eq!(peer.until(";\r\n").await, refused);
    running.gate.permits.add_permits(1);
    peer.until("TE 1;\r\n").await;
    peer.send("Dialog-End 1;\r\n").await;
    assert_eq!(peer.rest().await, "CE;\r\n");
    drop((peer, idle));
    running.finish().await;
}

#[tokio::test]
async fn a_dialog_that_does_not_end_is_ended() {
    let running = start("[timeouts]\ndrain = 1\n").await;
    let mut peer = running.negotiated().await;
    running.stop.cancel();
    let end = "Dialog-Drain;\r\nCE {400 \"22:the server is stopping\"};\r\n";
    assert_eq!(peer.rest().await, end);
    drop(peer);
    running.finish().await;
}

#[tokio::test]
async fn connections_beyond_the_limit_hear_why() {
    let running = start("[limits]\nconnections = 1\n").await;
    let mut first = running.negotiated().await;
    let mut second = running.connect().await;
    let refused = "CS;\r\nCE {400 \"20:too many connections\"};\r\n";
    assert_eq!(second.until("};\r\n").await, refused);
    first.send("PQ;\r\n").await;
    first.until("PA;\r\n").await;
    drop((first, second));
    running.finish().await;
}

#[tokio::test]
async fn what_is_no_ocp_ends_the_connection_with_a_reason() {
    let running = start("").await;
    let mut peer = running.connect().await;
    peer.send("GET / HTTP/1.1\r\n\r\n").await;
    let end = peer.rest().await;
    assert!(end.starts_with("CS;\r\nCE {400 ") && end.contains("octet 4 is '/'"), "{end}");
    drop(peer);
    running.finish().await;
}

#[tokio::test]
async fn a_unix_socket_is_taken_over_when_nobody_listens_and_removed_at_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ocp.sock");
    drop(UnixListener::bind(&path).unwrap());
    let running = start_on(Address::Unix(path.clone()), "").await;
    let taken = Listeners::bind(&[Address::Unix(path.clone())]).await.unwrap_err();
    assert!(taken.to_string().contains("ocp.sock can't be listened on"), "{taken}");
    let mut peer = Peer { stream: UnixStream::connect(&path).await.unwrap(), read: Vec::new() };
    peer.send(HELLO).await;
    peer.until("NR").await;
    drop(peer);
    running.finish().await;
    assert!(!path.exists());
}
