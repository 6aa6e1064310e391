//! TLS and access rules over real sockets (profile section 9), with the processor of `opes-mta`
//! and with peers that keep to no rule.

#![allow(missing_docs, clippy::unwrap_used)]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use callout_server::{Address, Config, ConfigError, Entry, Listeners, Server};
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, ready};
use ocp_proto::Misuse;
use ocp_proto::smtp::{Command, DialogFacts, Envelope};
use opes_mta::consult::{Policy, consult};
use opes_mta::event::{Event, Message};
use opes_mta::front::file;
use opes_mta::ocp::{
    Client, ClientError, ConnectError, Dialog, ServerAddress, Target, Tls, TlsNegotiation,
    TlsSettings,
};
use opes_mta::report::Decision;
use services::mail::Edits;
use services::{Change, Declaration, Outcome, Registry, Request, Service, ServiceError};
use tempfile::{TempDir, tempdir};
use tests::certificates::Authority;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Replaces the body of a message: 8 MiB behind a header of 8 octets.
struct Replace;

const BODY: &[u8] = &[b'y'; 8 * 1024 * 1024];

impl Service for Replace {
    fn declaration(&self) -> Declaration {
        Declaration::on([Command::Message])
    }

    fn handle<'a>(&'a self, _request: &'a Request) -> BoxFuture<'a, Result<Outcome, ServiceError>> {
        let mut edits = Edits::new();
        edits.replace(8..8 + BODY.len(), BODY.into());
        ready(Ok(Outcome::changed(Change::Content(edits), "replaced"))).boxed()
    }
}

/// A server with a plain port, a TLS port and a unix socket, and certificates of every kind.
struct Running {
    folder: TempDir,
    authority: Authority,
    server: Arc<Server>,
    plain: String,
    tls: String,
    unix: String,
    stop: CancellationToken,
    served: JoinHandle<()>,
}

const OPTIONAL: &str = "client-ca = \"ca.pem\"\nclient-certificates = \"optional\"\n";

/// A configuration with the certificate that lies in a folder, and with a service of these tests.
fn load(folder: &Path, rest: &str) -> Result<Config, ConfigError> {
    let text = format!("[tls]\ncertificate = \"server.pem\"\nkey = \"server.key\"\n{rest}");
    let file = folder.join("callout-server.toml");
    let mut config = Config::parse(&text, &file, &Registry::builtin())?;
    let replace = Entry::new("replace", "", Arc::new(Replace), Duration::from_secs(60));
    config.router.add(replace).unwrap();
    Ok(config)
}

async fn start(tls: &str, rest: &str) -> Running {
    let folder = tempdir().unwrap();
    let authority = Authority::new(folder.path(), "ca");
    authority.sign("server", &["127.0.0.1", "ocp.example.net"]);
    authority.sign("mta", &["mta.example.net"]);
    let config = load(folder.path(), &format!("{tls}\n{rest}")).unwrap();
    let unix = format!("unix:{}", folder.path().join("socket").display());
    let addresses = ["127.0.0.1:0", "tls:127.0.0.1:0", &unix];
    let addresses: Vec<Address> =
        addresses.iter().map(|address| address.parse().unwrap()).collect();
    let listeners = Listeners::bind(&addresses).await.unwrap();
    let bound: Vec<String> = listeners.addresses().iter().map(ToString::to_string).collect();
    let [plain, tls, unix] = bound.try_into().unwrap();
    let server = Arc::new(Server::new(config));
    let stop = CancellationToken::new();
    let served = tokio::spawn(listeners.serve(server.clone(), stop.clone()));
    Running { folder, authority, server, plain, tls, unix, stop, served }
}

impl Running {
    fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    fn settings(&self) -> TlsSettings {
        TlsSettings { ca: self.path("ca.pem"), ..TlsSettings::default() }
    }

    /// The settings of a client with a certificate.
    fn as_client(&self, certificate: &str) -> TlsSettings {
        let identity = [format!("{certificate}.pem"), format!("{certificate}.key")];
        let [certificate, key] = identity.map(|name| self.path(&name));
        TlsSettings { identity: Some((certificate, key)), ..self.settings() }
    }

    async fn finish(self) {
        self.stop.cancel();
        tokio::time::timeout(Duration::from_secs(60), self.served).await.unwrap().unwrap();
        assert_eq!(self.server.open_dialogs(), 0);
    }
}

fn target(address: &str, tls: Option<TlsSettings>) -> Target {
    let server: ServerAddress = address.parse().unwrap();
    let mut target = file::target(server, vec!["ocp://service/log".to_owned()]);
    target.tls = tls.map(|settings| Tls::new(&settings).unwrap());
    target
}

/// Whether the server looks at a mail.
async fn works(target: &Target) -> Result<(), String> {
    let client = Client::connect(target).await.map_err(|error| error.to_string())?;
    let dialog = client.start_dialog(DialogFacts::default()).await;
    let ended = ask(&dialog.map_err(|error| error.to_string())?).await;
    client.close().await;
    ended
}

async fn ask(dialog: &Dialog) -> Result<(), String> {
    ask_about(dialog, "A: b\r\n\r\n".to_owned()).await
}

async fn ask_about(dialog: &Dialog, message: String) -> Result<(), String> {
    let event = Event::message(Message::split(message.into()), Envelope::default());
    let asked = consult(dialog, &event, &Policy::default()).await;
    asked.map(drop).map_err(|failure| failure.to_string())
}

#[tokio::test]
async fn tls_from_the_start_and_negotiated() {
    let running = start("", "").await;
    works(&target(&running.tls, Some(running.settings()))).await.unwrap();
    works(&target(&running.plain, Some(running.settings()))).await.unwrap();
    // A unix socket says no name, so that it takes one to check.
    let named = TlsSettings { name: Some("ocp.example.net".to_owned()), ..running.settings() };
    works(&target(&running.unix, Some(named))).await.unwrap();
    let error = works(&target(&running.unix, Some(running.settings()))).await.unwrap_err();
    assert!(error.contains("does not say the server's name"), "{error}");
    // Nobody has to, here.
    works(&target(&running.plain, None)).await.unwrap();
    running.finish().await;
}

#[tokio::test]
async fn a_large_message_goes_through_tls_both_ways() {
    let running = start("", "").await;
    let mut target = target(&running.tls, Some(running.settings()));
    target.services = vec!["ocp://service/replace".to_owned()];
    let client = Client::connect(&target).await.unwrap();
    let body = vec![b'x'; BODY.len()];
    let header = &b"A: b\r\n\r\n"[..];
    let mail = file::StoredMail::new("large", [header, &body].concat().into());
    let report = file::adapt(&client, &mail, &Policy::default()).await;
    assert_eq!(report.decision, Decision::Modify, "{:?}", report.error);
    let adapted: Vec<u8> = report.message.concat();
    assert!(adapted == [header, BODY].concat());
    client.close().await;
    running.finish().await;
}

#[tokio::test]
async fn a_server_without_the_right_certificate_is_not_trusted() {
    let running = start("", "").await;
    let other = TlsSettings { name: Some("other.example.net".to_owned()), ..running.settings() };
    let folder = tempdir().unwrap();
    let _stranger = Authority::new(folder.path(), "stranger");
    let stranger = TlsSettings { ca: folder.path().join("stranger.pem"), ..TlsSettings::default() };
    for address in [&running.tls, &running.plain] {
        for (settings, cause) in [(&other, "not valid for name"), (&stranger, "UnknownIssuer")] {
            let target = target(address, Some(settings.clone()));
            let error = Client::connect(&target).await.unwrap_err();
            let ConnectError::Tls { cause: found, .. } = &error else { panic!("{error}") };
            assert!(found.contains(cause), "{found}");
        }
    }
    running.finish().await;
}

#[tokio::test]
async fn client_certificates_are_checked() {
    let running = start("client-ca = \"ca.pem\"", "").await;
    running.authority.sign_expired("old", &["mta.example.net"]);
    let stranger = Authority::new(running.folder.path(), "stranger");
    stranger.sign("unknown", &["mta.example.net"]);
    for address in [&running.tls, &running.plain] {
        works(&target(address, Some(running.as_client("mta")))).await.unwrap();
        let refused = [
            (running.settings(), "CertificateRequired"),
            (running.as_client("old"), "CertificateExpired"),
            (running.as_client("unknown"), "UnknownCA"),
        ];
        for (settings, alert) in refused {
            let error = works(&target(address, Some(settings))).await.unwrap_err();
            assert!(error.contains(alert), "{alert}: {error}");
        }
    }
    running.finish().await;
    // Optional: none is fine, a wrong one is not.
    let running = start(OPTIONAL, "").await;
    works(&target(&running.tls, Some(running.settings()))).await.unwrap();
    running.authority.sign_expired("old", &["mta.example.net"]);
    let error = works(&target(&running.tls, Some(running.as_client("old")))).await.unwrap_err();
    assert!(error.contains("CertificateExpired"), "{error}");
    running.finish().await;
}

#[tokio::test]
async fn where_tls_is_required_nothing_comes_before_it() {
    let running = start("required = true", "").await;
    works(&target(&running.plain, Some(running.settings()))).await.unwrap();
    let error = works(&target(&running.plain, None)).await.unwrap_err();
    assert!(error.contains("TLS has to be negotiated first"), "{error}");
    // A unix socket is exempt.
    works(&target(&running.unix, None)).await.unwrap();
    let dialogs = "CS;\r\nNO ({\"17:ocp://smtp/dialog\"});\r\n";
    let groups = "CS;\r\nSGC 1 ({\"17:ocp://service/log\"});\r\n";
    for early in [dialogs, groups] {
        let answer = exchange(&running.plain, early).await;
        assert!(answer.starts_with("CS;\r\nCE {400 ") && answer.contains("ocp/tls"), "{answer}");
    }
    running.finish().await;
}

#[tokio::test]
async fn a_client_that_wants_tls_goes_on_without_it_only_if_told_so() {
    let folder = tempdir().unwrap();
    let _authority = Authority::new(folder.path(), "ca");
    let config = Config::parse("", Path::new(""), &Registry::builtin()).unwrap();
    let listeners = Listeners::bind(&["127.0.0.1:0".parse().unwrap()]).await.unwrap();
    let address = listeners.addresses().remove(0).to_string();
    let stop = CancellationToken::new();
    let served = tokio::spawn(listeners.serve(Arc::new(Server::new(config)), stop.clone()));
    let with = |negotiation| {
        let ca = folder.path().join("ca.pem");
        target(&address, Some(TlsSettings { negotiation, ca, ..TlsSettings::default() }))
    };
    works(&with(TlsNegotiation::Offer)).await.unwrap();
    works(&with(TlsNegotiation::Off)).await.unwrap();
    let error = works(&with(TlsNegotiation::Required)).await.unwrap_err();
    assert!(error.contains("it does not accept TLS, which is required"), "{error}");
    stop.cancel();
    served.await.unwrap();
}

/// Sends octets, and reads all that comes back until the server ends the connection.
async fn exchange(address: &str, octets: &str) -> String {
    let address = address.trim_start_matches("tls:");
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(octets.as_bytes()).await.unwrap();
    read_to_end(&mut stream).await
}

async fn read_to_end(stream: &mut TcpStream) -> String {
    let mut read = Vec::new();
    let ended = tokio::time::timeout(Duration::from_secs(60), stream.read_to_end(&mut read)).await;
    // The end may be a reset, if the server has not read everything.
    let _ = ended.unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&read)));
    String::from_utf8_lossy(&read).into_owned()
}

const OFFER: &str = "CS;\r\nNO ({\"44:http://www.iana.org/assignments/opes/ocp/tls\"});\r\n";
const ACCEPTED: &str = "CS;\r\nNR {\"44:http://www.iana.org/assignments/opes/ocp/tls\"};\r\n";

/// What somebody in the middle puts before the handshake is never taken for the processor's.
#[tokio::test]
async fn plain_text_behind_the_offer_ends_the_connection() {
    let running = start("required = true", "").await;
    let group = "SGC 1 ({\"17:ocp://service/log\"});\r\n";
    let answer = exchange(&running.plain, &format!("{OFFER}{group}")).await;
    assert_eq!(
        answer,
        "CS;\r\nCE {400 \"67:octets behind the NO or NR that starts TLS (SMTP profile section 9)\"};\r\n"
    );
    // In a packet of its own, behind the answer, it is no TLS.
    let mut stream = TcpStream::connect(&running.plain).await.unwrap();
    stream.write_all(OFFER.as_bytes()).await.unwrap();
    let mut answer = vec![0; ACCEPTED.len()];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&answer), ACCEPTED);
    stream.write_all(group.as_bytes()).await.unwrap();
    let rest = read_to_end(&mut stream).await;
    assert!(!rest.contains(';'), "{rest}");
    running.finish().await;
}

#[tokio::test]
async fn plain_text_and_tls_on_each_others_ports_end_cleanly() {
    let running = start("", "").await;
    let answer = exchange(&running.tls, "CS;\r\nNO ();\r\n").await;
    assert!(!answer.contains("CS;"), "{answer}");
    let error = works(&target(running.tls.trim_start_matches("tls:"), None)).await.unwrap_err();
    assert!(
        error.contains(
            "does not work for us: the connection is lost: the server broke OCP: octet 0 is 0x15"
        ),
        "{error}"
    );
    let error = works(&target(&format!("tls:{}", running.plain), Some(running.settings()))).await;
    let error = error.unwrap_err();
    assert!(error.contains("the handshake failed"), "{error}");
    running.finish().await;
}

#[tokio::test]
async fn tls_comes_first_or_never_and_once() {
    let running = start("", "").await;
    let offer = OFFER.trim_start_matches("CS;\r\n");
    let declined = "NR Rejects: ({\"44:http://www.iana.org/assignments/opes/ocp/tls\"})";
    let end = "CE;\r\n";
    for before in
        ["NO ({\"17:ocp://smtp/dialog\"});\r\n", "SGC 1 ({\"17:ocp://service/log\"});\r\n"]
    {
        let answer = exchange(&running.plain, &format!("CS;\r\n{before}{offer}{end}")).await;
        let answer = answer.replace("\r\nRejects", " Rejects");
        assert!(answer.contains(declined), "{answer}");
    }
    running.finish().await;
}

const RULES: &str = "
[[access]]
name = \"named\"
certificates = [\"*.example.net\"]
services = [\"log\"]
limits = { dialogs = 1, transactions = 1, message-octets = 100 }

[[access]]
name = \"local\"
clients = [\"unix\"]
effects = []
";

#[tokio::test]
async fn rules_go_by_the_name_in_the_certificate() {
    let running = start(OPTIONAL, RULES).await;
    running.authority.sign("foreign", &["mta.example.org"]);
    running.authority.sign("star", &["*.example.net"]);
    for address in [&running.tls, &running.plain] {
        works(&target(address, Some(running.as_client("mta")))).await.unwrap();
        for settings in
            [running.settings(), running.as_client("foreign"), running.as_client("star")]
        {
            let error = works(&target(address, Some(settings))).await.unwrap_err();
            assert!(error.contains("access denied"), "{error}");
        }
    }
    // Without a certificate there is nothing to be had: TLS has to say who it is.
    let error = works(&target(&running.plain, None)).await.unwrap_err();
    assert!(error.contains("TLS has to be negotiated first"), "{error}");
    works(&target(&running.unix, None)).await.unwrap();
    running.finish().await;
}

#[tokio::test]
async fn a_denied_address_hears_so_at_once() {
    let rules = "[[access]]\nclients = [\"127.0.0.0/8\"]\ndeny = true\n[[access]]\n";
    let running = start("", rules).await;
    assert_eq!(exchange(&running.plain, "").await, "CS;\r\nCE {400 \"13:access denied\"};\r\n");
    // No handshake for somebody whom no certificate could help.
    assert_eq!(exchange(&running.tls, "").await, "");
    works(&target(&running.unix, None)).await.unwrap();
    running.finish().await;
}

#[tokio::test]
async fn what_a_rule_does_not_allow_is_not_there() {
    let running = start(OPTIONAL, RULES).await;
    let mut target = target(&running.tls, Some(running.as_client("mta")));
    target.services = vec!["ocp://service/log".to_owned(), "ocp://service/virus-scan".to_owned()];
    let error = Client::connect(&target).await.unwrap_err().to_string();
    assert!(error.contains("declines the services"), "{error}");
    // Other effects, for those whom another rule matches.
    let mut target = self::target(&running.unix, None);
    target.services = vec!["ocp://service/virus-scan".to_owned()];
    let client = Client::connect(&target).await.unwrap();
    assert!(client.profile().side_effects().is_empty(), "{:?}", client.profile());
    client.close().await;
    running.finish().await;
}

#[tokio::test]
async fn rules_have_limits_of_their_own() {
    let running = start(OPTIONAL, &RULES.replace("{ dialogs", "{ connections = 1, dialogs")).await;
    let target = target(&running.plain, Some(running.as_client("mta")));
    let client = Client::connect(&target).await.unwrap();
    // Connections: others still find a place.
    let error = Client::connect(&target).await.unwrap_err().to_string();
    assert!(error.contains("too many connections"), "{error}");
    works(&self::target(&running.unix, None)).await.unwrap();
    // Dialogs.
    let first = client.start_dialog(DialogFacts::default()).await.unwrap();
    let second = client.start_dialog(DialogFacts::default()).await.unwrap();
    let error = ask(&second).await.unwrap_err();
    assert!(error.contains("too many dialogs"), "{error}");
    ask(&first).await.unwrap();
    // Octets of a message.
    let error = ask_about(&first, "x".repeat(101)).await.unwrap_err();
    assert!(error.contains("more than the 100 octets"), "{error}");
    client.close().await;
    running.finish().await;
}

#[tokio::test]
async fn new_certificates_are_for_new_connections() {
    let running = start("", "").await;
    let target = target(&running.tls, Some(running.settings()));
    let client = Client::connect(&target).await.unwrap();
    let stranger = Authority::new(running.folder.path(), "stranger");
    let certificate = running.path("server.pem");
    let old = std::fs::read(&certificate).unwrap();
    // Broken files change nothing.
    std::fs::write(&certificate, "nonsense").unwrap();
    let load = || load(running.folder.path(), "");
    let error = load().unwrap_err().to_string();
    assert!(error.contains("server.pem: has no certificate in PEM form"), "{error}");
    works(&target).await.unwrap();
    std::fs::write(&certificate, old).unwrap();
    std::fs::copy(running.path("mta.key"), running.path("server.key")).unwrap();
    let error = load().unwrap_err().to_string();
    assert!(error.contains("server.key: is not the key of "), "{error}");
    works(&target).await.unwrap();
    // New ones count from now on, and not before.
    stranger.sign("server", &["127.0.0.1"]);
    // A dialog that is open stays on its connection, under the configuration that it has.
    let open = client.start_dialog(DialogFacts::default()).await.unwrap();
    running.server.exchange(load().unwrap());
    let error = works(&target).await.unwrap_err();
    assert!(error.contains("UnknownIssuer"), "{error}");
    let ca = running.path("stranger.pem");
    works(&self::target(&running.tls, Some(TlsSettings { ca, ..TlsSettings::default() })))
        .await
        .unwrap();
    client.unusable().await;
    let refused = client.start_dialog(DialogFacts::default()).await.unwrap_err();
    assert!(matches!(refused, ClientError::Misuse(Misuse::Draining)), "{refused}");
    ask(&open).await.unwrap();
    drop(open);
    client.close().await;
    running.finish().await;
}
