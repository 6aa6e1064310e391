//! An event from the socket through the services of its group and back, on one thread and without a
//! network: what the server adds to the protocol and the services.

#![allow(missing_docs, clippy::unwrap_used)]

use std::path::Path;
use std::sync::Arc;

use callout_server::{Address, Config, Listeners, Server};
use divan::Bencher;
use divan::counter::ItemsCount;
use ocp_proto::smtp::{Activation, CommandLine, DialogFacts, Envelope};
use opes_mta::consult::{Policy, begin, consult};
use opes_mta::event::{Event, Message};
use opes_mta::front::file;
use opes_mta::ocp::{Client, Dialog};
use services::Registry;
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

fn main() {
    divan::main();
}

/// A server with these services in its group, and a dialog with it.
fn dialog(runtime: &Runtime, socket: &Path, services: &[&str]) -> Dialog {
    let config = "[services.log.settings]\nparts = true\n";
    let config = Config::parse(config, Path::new(""), &Registry::builtin()).unwrap();
    let address = Address::Unix(socket.to_owned());
    let uris = services.iter().map(|name| format!("ocp://service/{name}")).collect();
    runtime.block_on(async {
        let listeners = Listeners::bind(std::slice::from_ref(&address)).await.unwrap();
        let server = Arc::new(Server::new(config));
        tokio::spawn(listeners.serve(server, CancellationToken::new()));
        let target = file::target(address.to_string().parse().unwrap(), uris);
        let client = Client::connect(&target).await.unwrap();
        let facts = DialogFacts { activation: Activation::Queued, ..DialogFacts::default() };
        begin(&client, facts, &Policy::default()).await.unwrap()
    })
}

fn measure(bencher: Bencher<'_, '_>, services: &[&str], event: &Event) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let dialog = dialog(&runtime, &folder.path().join("ocp.sock"), services);
    let policy = Policy::default();
    bencher.counter(ItemsCount::new(1_u32)).bench_local(|| {
        runtime.block_on(consult(&dialog, event, &policy)).unwrap();
    });
}

#[divan::bench(args = [&["log"] as &[&str], &["mail-from"]])]
fn mail(bencher: Bencher<'_, '_>, services: &[&str]) {
    let line = CommandLine::new("MAIL FROM:<steve@example.org>").unwrap();
    measure(bencher, services, &Event::command(line, Envelope::default()).unwrap());
}

#[divan::bench(args = [
    &["log"] as &[&str],
    &["spam-score"],
    &["virus-scan", "mime-strip", "spam-score", "log"],
])]
fn message_4_kb(bencher: Bencher<'_, '_>, services: &[&str]) {
    let header = "From: Steve <steve@example.org>\r\nTo: Paul <paul@example.com>\r\n\
        Subject: What the measuring instruments say\r\n\
        Date: Mon, 1 Jun 2026 12:00:00 +0000\r\nMessage-ID: <1@example.org>\r\n\r\n";
    let body = "The water stands at four metres and twelve, and does not rise.\r\n".repeat(62);
    let message = Message::split([header, &body].concat().into());
    measure(bencher, services, &Event::message(message, Envelope::default()));
}
