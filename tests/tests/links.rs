//! Large attachments that become links, behind real mail servers: what arrives is compared with what should, what a link
//! leads to with what was sent, and what lies in the store with what became of the message.

#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing)]

use std::io::{Read, Write};
use std::path::Path;
use std::time::Instant;

use serde_json::Value;
use tempfile::{TempDir, tempdir};
use tests::browser::Browser;
use tests::gateway::{Gateway, told};
use tests::http::{self, Metrics, connect};
use tests::smtp::{Client, Instead, NextHop, is_queued};
use tests::{CalloutServer, Milter, PATIENCE, not_run, text};

const URL: &str = "https://files.example.org/";

/// What an attachment holds: octets of which no text is made.
fn content() -> Vec<u8> {
    [0x00, 0x10, 0x83].repeat(19 * 1_000)
}

/// A message with that content, encoded, between two texts; the first one says this.
fn message(says: &str) -> String {
    let encoded = format!("{}\r\n", "ABCD".repeat(19)).repeat(1_000);
    format!(
        "Subject: x\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n\
         --b\r\n\r\n{says}\r\n--b\r\nContent-Type: application/x-data; name=\"a b.dat\"\r\n\
         Content-Disposition: attachment; filename=\"a b.dat\"\r\n\
         Content-Transfer-Encoding: base64\r\n\r\n{encoded}--b\r\nContent-Type: text/plain\r\n\r\n\
         bye\r\n--b--\r\n"
    )
}

/// The same with a link in the place of the content.
fn expected(says: &str, name: &str) -> String {
    format!(
        "Subject: x\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n\
         --b\r\n\r\n{says}\r\n--b\r\nContent-Type: text/plain; charset=utf-8\r\n\
         Content-Disposition: inline\r\nContent-Transfer-Encoding: 7bit\r\n\r\n\
         a b.dat 57.0 KB\r\n{URL}{name}\r\n--b\r\nContent-Type: text/plain\r\n\r\n\
         bye\r\n--b--\r\n"
    )
}

/// A server whose store is in a folder of its own, and where links lead to.
struct Linking {
    folder: TempDir,
    server: CalloutServer,
    admin: String,
    files: String,
}

impl Linking {
    fn start(settings: &str) -> Self {
        Self::start_in(tempdir().unwrap(), settings)
    }

    fn start_in(folder: TempDir, settings: &str) -> Self {
        let store = folder.path().join("store");
        let config = format!(
            "[admin]\nlisten = \"127.0.0.1:0\"\n[services.links.settings]\nfolder = \"{}\"\n\
             listen = \"127.0.0.1:0\"\nurl = \"{URL}\"\nlarger-than = 50000\nform = \"text\"\n\
             {settings}\n",
            store.display()
        );
        let mut server = CalloutServer::start(folder.path(), &config, &[]);
        let admin = server.admin();
        let files = text(&server.wait_for("serving links"), "address");
        Self { folder, server, admin, files }
    }

    fn config(&self, services: &str) -> String {
        let address = self.server.address();
        format!("[[group]]\nname = \"g\"\nservices = [{services}]\nservers = [\"{address}\"]\n")
    }

    fn record(&self, name: &str) -> Option<Value> {
        let path = self.folder.path().join("store").join(format!("{name}.json"));
        Some(serde_json::from_slice(&std::fs::read(path).ok()?).unwrap())
    }

    /// The names of files in the store.
    fn stored(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.folder.path().join("store")).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.filter(|name| name != "lock").collect();
        names.sort();
        names
    }
}

/// Waits until that is so.
fn until(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::yield_now();
    }
}

/// The name in the link of a message.
fn name(message: &str) -> &str {
    let at = message.find(URL).unwrap_or_else(|| panic!("no link in {message}")) + URL.len();
    &message[at..at + 40]
}

/// What the button of the page fetches.
fn fetched(files: &str, name: &str) -> (String, Vec<u8>) {
    let mut stream = connect(files);
    write!(stream, "POST /{name} HTTP/1.1\r\nHost: f\r\nContent-Length: 0\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let end = answer.windows(4).position(|octets| octets == b"\r\n\r\n").unwrap() + 4;
    let body = answer.split_off(end);
    (String::from_utf8(answer).unwrap(), body)
}

const TEXT: &str = "text = \"{name} {size}\\n{url}\"";

#[test]
fn links_behind_postfix() {
    let linking = Linking::start(TEXT);
    let config = linking.config("\"links\"");
    let Some(mut gateway) = Gateway::start("links through Postfix", &config, &[]) else { return };
    let mut client = Client::greeted(gateway.port());
    let reply = client.mail("a@a.example", &["b@b.example"], message("hello").as_bytes());
    assert!(is_queued(&reply), "{reply}");
    let told = gateway.told();
    assert!(told.contains("links=linked (1 file, 57.0 KB)"), "{told}");
    let delivered = gateway.hop.wait_for(1).remove(0);
    let delivered = String::from_utf8(delivered.without_received().to_vec()).unwrap();
    let name = name(&delivered);
    assert_eq!(delivered, expected("hello", name));
    let is_confirmed = || linking.record(name).is_some_and(|record| record["is-confirmed"] == true);
    until("the file is confirmed", is_confirmed);
    let page = http::get(&linking.files, &format!("/{name}"));
    assert_eq!(page.status, 200);
    assert!(page.body.contains("a b.dat</h1><p>57.0 KB, until "), "{}", page.body);
    let (header, body) = fetched(&linking.files, name);
    assert!(header.contains("content-disposition: attachment; filename=\"a b.dat\""), "{header}");
    assert!(body == content());
    assert_eq!(linking.record(name).unwrap()["downloads"], 1);
    // What is small passes as it is.
    let mut client = Client::greeted(gateway.port());
    let small = "Subject: x\r\n\r\nhello\r\n";
    let reply = client.mail("a@a.example", &["b@b.example"], small.as_bytes());
    assert!(reply.starts_with("250 "), "{reply}");
    assert_eq!(gateway.hop.wait_for(1).remove(0).without_received(), small.as_bytes());
    assert_eq!(linking.stored().len(), 2);
}

/// Whoever refuses a message, in its group or behind it: nothing of it stays in the store.
#[test]
fn a_refused_message_leaves_nothing_in_the_store() {
    let linking = Linking::start(TEXT);
    let taking = NextHop::start();
    let refusing = NextHop::unless(|line| {
        (line == ".").then(|| Instead::Say(b"554 5.7.1 not this\r\n".to_vec()))
    });
    let config = linking.config("\"links\", \"virus-scan\"");
    let eicar =
        [r"X5O!P%@AP[4\PZX54(P^)7CC)7}$EICAR-", "STANDARD-ANTIVIRUS-TEST-FILE!$H+H*"].concat();
    for (hop, says, code) in [
        (&taking, "hello", "250 "),
        (&taking, eicar.as_str(), "554 5.7.1 "),
        (&refusing, "hello", "554 5.7.1 "),
    ] {
        let next_hop = format!("127.0.0.1:{}", hop.port);
        let folder = tempdir().unwrap();
        let mut proxy = Milter::start_proxy("127.0.0.1:0", &next_hop, folder.path(), &config);
        let mut client = Client::greeted(proxy.port());
        let reply = client.mail("a@a.example", &["b@b.example"], message(says).as_bytes());
        assert!(reply.starts_with(code), "{reply}");
        let told = told(&proxy.wait_for("message"));
        assert!(told.contains("links=linked (1 file, 57.0 KB)"), "{told}");
        drop(client);
        // The first one stays, the others go.
        until("only the first file is there", || linking.stored().len() == 2);
    }
    let delivered = String::from_utf8(taking.wait_for(1).remove(0).octets).unwrap();
    let name = name(&delivered);
    assert_eq!(delivered, expected("hello", name));
    assert_eq!(linking.stored(), [format!("{name}.json"), format!("{name}.octets")]);
    assert!(refusing.is_empty());
    assert!(fetched(&linking.files, name).1 == content());
    let metrics = Metrics::when(&linking.admin, |metrics| {
        metrics.value("links_files{service=\"links\"}") == 1.0
    });
    assert_eq!(metrics.value("links_octets{service=\"links\"}"), 57_000.0);
    assert_eq!(metrics.value("links_downloads_total{service=\"links\"}"), 1.0);
}

/// A server that is killed forgets no file that was delivered.
#[test]
fn a_restart_goes_on_with_the_store() {
    let mut linking = Linking::start(TEXT);
    let hop = NextHop::start();
    let next_hop = format!("127.0.0.1:{}", hop.port);
    let config = linking.config("\"links\"");
    {
        let folder = tempdir().unwrap();
        let proxy = Milter::start_proxy("127.0.0.1:0", &next_hop, folder.path(), &config);
        let mut client = Client::greeted(proxy.port());
        let reply = client.mail("a@a.example", &["b@b.example"], message("hello").as_bytes());
        assert!(reply.starts_with("250 "), "{reply}");
    }
    linking.server.kill();
    let Linking { folder, server, .. } = linking;
    drop(server);
    let store = folder.path().join("store");
    torn(&store);
    let linking = Linking::start_in(folder, TEXT);
    let delivered = String::from_utf8(hop.wait_for(1).remove(0).octets).unwrap();
    assert!(fetched(&linking.files, name(&delivered)).1 == content());
    assert_eq!(linking.stored().len(), 2);
}

/// What a process leaves that ends while it stores something.
fn torn(store: &Path) {
    let name = "0".repeat(40);
    std::fs::write(store.join(format!("new-{name}")), b"x").unwrap();
    std::fs::write(store.join(format!("{name}.octets")), b"x").unwrap();
}

#[test]
fn a_browser_shows_the_page_and_asks_for_the_password() {
    let Some(browser) = Browser::start() else {
        return not_run("the page of a link", "there is no Chromium with its driver");
    };
    let linking = Linking::start("password = \"in-notice\"\ntext = \"{url} {password}\"");
    let folder = tempdir().unwrap();
    let hop = NextHop::start();
    let next_hop = format!("127.0.0.1:{}", hop.port);
    let config = linking.config("\"links\"");
    let proxy = Milter::start_proxy("127.0.0.1:0", &next_hop, folder.path(), &config);
    let mut client = Client::greeted(proxy.port());
    let reply = client.mail("a@a.example", &["b@b.example"], message("hello").as_bytes());
    assert!(reply.starts_with("250 "), "{reply}");
    let delivered = String::from_utf8(hop.wait_for(1).remove(0).octets).unwrap();
    browser.open(&format!("http://{}/{}", linking.files, name(&delivered)));
    let shown = browser.text();
    assert!(shown.starts_with("a b.dat\n\n57.0 KB, until "), "{shown}");
    // The style is there, and nothing is kept out.
    assert_eq!(
        browser.run("return getComputedStyle(document.querySelector('main')).maxWidth"),
        "512px"
    );
    assert_eq!(browser.complaints(), Vec::<String>::new());
    browser.type_into("#password", "wrong");
    browser.click("button");
    let shown = browser.text();
    assert!(shown.contains("This is not the password of the file."), "{shown}");
    assert_eq!(linking.record(name(&delivered)).unwrap()["downloads"], 0);
}
