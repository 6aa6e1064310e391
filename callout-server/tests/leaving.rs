//! Services that need the front of a message only: the rest of it stays with the processor (RFC 4037
//! section 8.3, `Leave-At-Body` of the profile).

#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing)]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use callout_server::{Config, Entry, Listeners, Server};
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, ready};
use ocp_proto::smtp::{Command, Reply};
use opes_mta::consult::Policy;
use opes_mta::front::file::{self, StoredMail};
use opes_mta::ocp::Client;
use opes_mta::report::{Decision, Report};
use services::mail::Edits;
use services::{
    AddressList, Change, Content, Declaration, Finding, Outcome, Registry, Request, Service,
    ServiceError,
};
use tests::peer::{Peer, data, quoted};
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

/// Stamps the header section, puts `BODY` in the place of what it needs of the body, says what it has
/// seen, and refuses what calls itself unwanted.
struct Front(Content);

impl Service for Front {
    fn declaration(&self) -> Declaration {
        Declaration { content: self.0, immediate: true, ..Declaration::on([Command::Message]) }
    }

    fn handle<'a>(&'a self, request: &'a Request) -> BoxFuture<'a, Result<Outcome, ServiceError>> {
        let mail = request.mail().unwrap();
        let (here, all) = (mail.body().len(), mail.whole_len());
        let seen =
            format!("{here} of {:?}, cut: {}", all.map(|n| n - mail.header().len()), mail.is_cut());
        let finding = Finding::new("seen").with_reason(seen);
        if mail.field("Subject").is_some_and(|subject| subject.text().contains("unwanted")) {
            let reply = Reply::new(550, "5.7.1", "Unwanted").unwrap();
            let outcome = Outcome::changed(Change::Reply(reply), "refused").with_finding(finding);
            return ready(Ok(outcome)).boxed();
        }
        let mut edits = Edits::new();
        edits.prepend_field(mail, "X-Stamp", "1");
        let start = mail.header().len();
        let end = self.0.body_octets().map_or(mail.len(), |octets| start + octets as usize);
        if start < end {
            edits.replace(start..end.min(mail.len()), Bytes::from_static(b"BODY"));
        }
        let change = Change::Content(edits);
        ready(Ok(Outcome::changed(change, "seen").with_finding(finding))).boxed()
    }
}

/// Octets of the body that the service `prefix` needs.
const PREFIX: u32 = 300_000;

/// Octets of a large body.
const LARGE: usize = 5 * 1024 * 1024;

struct Running {
    runtime: Runtime,
    address: String,
    stop: CancellationToken,
}

fn start(config: &str) -> Running {
    let runtime = Runtime::new().unwrap();
    let mut config = Config::parse(config, Path::new(""), &Registry::builtin()).unwrap();
    let services = [
        ("header", Content::Header),
        ("four", Content::Prefix(4)),
        ("prefix", Content::Prefix(PREFIX)),
    ];
    for (name, content) in services {
        let service = Arc::new(Front(content));
        config.router.add(Entry::new(name, "", service, Duration::from_secs(60))).unwrap();
    }
    let mut some =
        Entry::new("some", "", Arc::new(Front(Content::Header)), Duration::from_secs(60));
    some.recipients = Some(AddressList::new(&[]).unwrap());
    config.router.add(some).unwrap();
    let listen = ["127.0.0.1:0".parse().unwrap()];
    let listeners = runtime.block_on(Listeners::bind(&listen)).unwrap();
    let address = listeners.addresses()[0].to_string();
    let stop = CancellationToken::new();
    runtime.spawn(listeners.serve(Arc::new(Server::new(config)), stop.clone()));
    Running { runtime, address, stop }
}

impl Running {
    /// What becomes of a mail, by way of the MTA's own client.
    fn adapt(&self, services: &[&str], octets: &Bytes) -> Report {
        let uris = services.iter().map(|name| format!("ocp://service/{name}")).collect();
        self.runtime.block_on(async {
            let target = file::target(self.address.parse().unwrap(), uris);
            let client = Client::connect(&target).await.unwrap();
            let mail = StoredMail::new("mail", octets.clone());
            let report = file::adapt(&client, &mail, &Policy::default()).await;
            client.close().await;
            report
        })
    }

    /// A processor that is scripted octet by octet, with group 1 and dialog 1.
    fn open(&self, service: &str, leaves: &str) -> Peer {
        let mut peer = Peer::connect(&self.address);
        peer.send(format!(
            "CS;\r\nNO ({{\"17:ocp://smtp/dialog\"\r\nVersion: 1\r\n}});\r\nSGC 1 ({{{}}});\r\n\
             NO ({{\"18:ocp://smtp/command\"\r\nCommands: (MESSAGE)\r\n}})\r\nSG: 1\r\n;\r\n\
             Dialog-Start 1;\r\n",
            quoted(&format!("ocp://service/{service}"))
        ));
        let agreed = peer.synchronise();
        assert!(agreed.contains(leaves), "{agreed}");
        peer
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn large(subject: &str) -> (String, Bytes) {
    let header = format!("From: <a@b>\r\nSubject: {subject}\r\n\r\n");
    let lines = (0..).map(|number| format!("line {number} of a long body\r\n"));
    let mut body = String::new();
    lines
        .take_while(|line| {
            body.push_str(line);
            body.len() < LARGE
        })
        .for_each(drop);
    (header.clone(), Bytes::from(header + &body))
}

fn reason(report: &Report, service: usize) -> String {
    String::from_utf8_lossy(report.services[service].reason.as_deref().unwrap()).into_owned()
}

/// OPES-4496-4.3-02
#[test]
fn of_a_large_mail_the_header_section_travels_alone() {
    // Its size is no matter of the server's, which gets none of it.
    let running = start("[limits]\nmessage-octets = 1000\n");
    let (header, mail) = large("wanted");
    let report = running.adapt(&["header"], &mail);
    assert_eq!((report.decision, report.error.as_deref()), (Decision::Modify, None));
    assert!(report.message.concat() == [b"X-Stamp: 1\r\n", &mail[..]].concat(), "octet for octet");
    let body = mail.len() - header.len();
    assert_eq!(reason(&report, 0), format!("0 of Some({body}), cut: true"));
    let traffic = report.traffic;
    assert!(traffic.sent < 1_000 && traffic.received < 1_000, "{traffic:?}");

    let report = running.adapt(&["header"], &large("unwanted").1);
    assert_eq!((report.decision, report.error.as_deref()), (Decision::Reject, None));
    assert_eq!(report.reply.unwrap().to_string(), "550 5.7.1 Unwanted");
    assert!(report.traffic.sent < 1_000, "{:?}", report.traffic);
}

#[test]
fn of_a_group_the_largest_need_travels() {
    // The front is in memory, or in a file.
    for config in ["", "[spool]\nthreshold-octets = 1000\n"] {
        let running = start(config);
        let (header, mail) = large("wanted");
        let report = running.adapt(&["header", "prefix"], &mail);
        assert_eq!((report.decision, report.error.as_deref()), (Decision::Modify, None));
        let rest = &mail[header.len() + PREFIX as usize..];
        let stamps = "X-Stamp: 1\r\nX-Stamp: 1\r\n";
        let expected = [stamps.as_bytes(), header.as_bytes(), b"BODY", rest].concat();
        assert!(report.message.concat() == expected, "octet for octet");
        let body = mail.len() - header.len();
        let seen = format!("{PREFIX} of Some({body}), cut: true");
        assert_eq!([reason(&report, 0), reason(&report, 1)], [seen.clone(), seen]);
        assert!(report.traffic.sent < u64::from(PREFIX) + 10_000, "{:?}", report.traffic);
    }
}

#[test]
fn where_a_service_needs_all_the_whole_mail_travels() {
    let running = start("");
    let (header, mail) = large("wanted");
    let report = running.adapt(&["header", "virus-scan"], &mail);
    assert_eq!((report.decision, report.error.as_deref()), (Decision::Modify, None));
    assert!(report.message.concat() == [b"X-Stamp: 1\r\n", &mail[..]].concat());
    let body = mail.len() - header.len();
    assert_eq!(reason(&report, 0), format!("{body} of Some({body}), cut: false"));
    assert_eq!(report.services[1].verdict, "clean");
    assert!(report.traffic.sent > mail.len() as u64);
}

/// They may get versions of their own, which exclude leaving.
#[test]
fn where_recipients_may_differ_the_whole_mail_travels() {
    let running = start("");
    let (header, mail) = large("wanted");
    let report = running.adapt(&["header", "some"], &mail);
    let body = mail.len() - header.len();
    assert_eq!(reason(&report, 0), format!("{body} of Some({body}), cut: false"));
    assert!(report.message.concat().ends_with(&mail), "octet for octet");
}

#[test]
fn a_mail_that_is_shorter_comes_as_a_whole() {
    let running = start("");
    for (mail, seen) in [
        ("A: b\r\n\r\n", "0 of Some(0), cut: false"),
        ("A: b\r\n\r\nshort\r\n", "7 of Some(7), cut: false"),
    ] {
        let report = running.adapt(&["prefix"], &Bytes::from_static(mail.as_bytes()));
        assert_eq!((report.decision, reason(&report, 0).as_str()), (Decision::Modify, seen));
    }
    let none = Bytes::from_static(b"A: b\r\n\r\n");
    let report = running.adapt(&["header"], &none);
    assert_eq!(report.message.concat(), [b"X-Stamp: 1\r\n", &none[..]].concat());
}

fn start_of(xid: u32, more: &str) -> Vec<u8> {
    format!("TS {xid} 1;\r\nAMS {xid}\r\nDialog: 1\r\nCommand: MESSAGE\r\n{more};\r\n").into_bytes()
}

/// A message up to the end of its header section, which has 8 octets.
fn begin(xid: u32, more: &str) -> Vec<u8> {
    [start_of(xid, more), data(xid, 0, "message-header", "A: b\r\n\r\n", true)].concat()
}

fn body(xid: u32, offset: usize, octets: &str) -> Vec<u8> {
    data(xid, offset, "message-body", octets, true)
}

/// The answer up to its TE, without the times that verdicts name.
fn answer(peer: &mut Peer, xid: u32) -> String {
    let text = peer.read_message(&format!("TE {xid}"));
    let lines = text.split("\r\n").filter(|line| !line.starts_with("Milliseconds: "));
    lines.collect::<Vec<_>>().join("\r\n")
}

fn adapted(xid: u32, kept: &str, seen: &str, end: &str) -> String {
    format!(
        "AMS {xid};\r\nDUM {xid} 0\r\nModp: 100\r\nAM-Part: message-header\r\n\r\n\
         12:X-Stamp: 1\r\n\r\n;\r\nDUY {xid} 0 8;\r\nDUM {xid} 20\r\nAM-Part: message-body\r\n\r\n\
         4:BODY\r\n;\r\n{kept}AME {xid}{end}\r\nVerdicts: ({{\"18:ocp://service/four\" seen\r\n\
         Reason: {}\r\n}})\r\n;\r\nTE {xid};\r\n",
        quoted(seen)
    )
}

/// RFC 4037 section 11.14: a server that waited for more could wait for ever.
#[test]
fn the_answer_does_not_wait_for_the_end_of_the_original() {
    let running = start("");
    let mut peer = running.open("four", "Leave-At-Body: 4\r\n");
    peer.send([begin(1, "AM-EL: 90\r\n"), body(1, 8, "body an"), b"DSS 1;\r\n".to_vec()].concat());
    let expected = adapted(1, "DUY 1 12 3;\r\n", "7 of Some(90), cut: true", " {206}");
    assert_eq!(answer(&mut peer, 1), expected);
    // What comes after it is nobody's any more, and others are served.
    peer.send([body(1, 15, "more"), b"AME 1 {206};\r\n".to_vec(), begin(2, "")].concat());
    peer.send([body(2, 8, "body"), b"DSS 2;\r\nAME 2 {206};\r\n".to_vec()].concat());
    assert_eq!(answer(&mut peer, 2), adapted(2, "", "4 of None, cut: true", " {206}"));
    assert_eq!(peer.synchronise(), "PA;\r\n");
}

/// The disk may be behind when DSS comes; what comes later is not taken, by whatever way.
#[test]
fn what_comes_after_dss_is_left_out() {
    let running = start("[spool]\nthreshold-octets = 1000\n");
    let mut peer = running.open("prefix", "Leave-At-Body: 300000\r\n");
    let front = "x".repeat(PREFIX as usize);
    let rest = "y".repeat(LARGE);
    for xid in 1..10 {
        let front = [begin(xid, ""), body(xid, 8, &front)].concat();
        peer.send([front, format!("DSS {xid};\r\n").into_bytes()].concat());
        peer.send(body(xid, 8 + PREFIX as usize, &rest));
        let seen = format!("{}\r\n", quoted(&format!("{PREFIX} of None, cut: true")));
        let answer = answer(&mut peer, xid);
        assert!(answer.contains(&seen) && answer.contains(&format!("AME {xid} {{206}}\r\n")));
        peer.send(format!("AME {xid};\r\n"));
    }
}

#[test]
fn a_processor_may_send_everything_all_the_same() {
    let running = start("");
    let mut peer = running.open("four", "Leave-At-Body: 4\r\n");
    peer.send([begin(1, ""), body(1, 8, "body and"), body(1, 16, " more")].concat());
    peer.send("AME 1;\r\n");
    let expected = adapted(1, "DUY 1 12 9;\r\n", "13 of Some(13), cut: false", "");
    assert_eq!(answer(&mut peer, 1), expected);
}

/// A reply stands for the whole message: nothing is appended to it.
#[test]
fn a_reply_is_the_whole_answer() {
    let running = start("");
    let mut peer = running.open("header", "Leave-At-Body: 0\r\n");
    let (header, _) = large("unwanted");
    let header_data = data(1, 0, "message-header", &header, true);
    peer.send([start_of(1, ""), header_data, body(1, header.len(), "")].concat());
    peer.send("DSS 1;\r\nAME 1 {206};\r\n");
    let answer = answer(&mut peer, 1);
    let reply = "AM-Part: reply\r\n\r\n20:550 5.7.1 Unwanted\r\n\r\n;\r\nAME 1\r\nVerdicts:";
    assert!(answer.contains(reply), "{answer}");
}

/// Whoever has sent all of a message has nothing left to append: an answer that waits for its reader
/// is not cut off by a DSS that comes too late.
#[test]
fn a_late_dss_cuts_nothing_off() {
    let running = start("");
    let mut peer = running.open("four", "Leave-At-Body: 4\r\n");
    peer.send([begin(1, ""), body(1, 8, "body and more"), b"DWP 1 12;\r\n".to_vec()].concat());
    peer.send("AME 1;\r\n");
    peer.read_message("DPM 1;\r\n");
    peer.send("DSS 1;\r\n");
    assert_eq!(answer(&mut peer, 1), format!("TE 1 {{400 {}}};\r\n", quoted(UNSOLICITED)));
}

const UNSOLICITED: &str = "DSS without DWSS (RFC 4037 section 11.14)";

/// Nothing but the agreed leaving makes an incomplete message one that can be answered.
#[test]
fn other_early_ends_are_refused() {
    let running = start("");
    let mut peer = running.open("four", "Leave-At-Body: 4\r\n");
    let incomplete = quoted("the message is incomplete (AME 206)");
    let mut xid = 0;
    let mut refused = |octets: &str, end: &str, reason: &str| {
        xid += 1;
        let end = end.replace('#', &xid.to_string()).into_bytes();
        let octets = if octets.is_empty() { Vec::new() } else { body(xid, 8, octets) };
        peer.send([begin(xid, "AM-EL: 90\r\n"), octets, end].concat());
        assert_eq!(answer(&mut peer, xid), format!("TE {xid} {{400 {reason}}};\r\n"));
    };
    refused("", "AME # {206};\r\n", &incomplete);
    refused("bod", "AME # {206};\r\n", &incomplete);
    refused("body", "AME # {206};\r\n", &incomplete);
    refused("body and more", "AME # {206};\r\nDSS #;\r\n", &incomplete);
    let unsolicited = quoted(UNSOLICITED);
    refused("", "DSS #;\r\nAME # {206};\r\n", &unsolicited);
    refused("bod", "DSS #;\r\nAME # {206};\r\n", &unsolicited);
    // Without the agreement there is none.
    let mut peer = running.open("virus-scan", "Commands: (MESSAGE)\r\nOn-Failure");
    peer.send([begin(1, ""), body(1, 8, "body"), b"DSS 1;\r\n".to_vec()].concat());
    assert_eq!(answer(&mut peer, 1), format!("TE 1 {{400 {unsolicited}}};\r\n"));
    peer.send([begin(2, ""), body(2, 8, "body"), b"AME 2 {206};\r\n".to_vec()].concat());
    assert_eq!(answer(&mut peer, 2), format!("TE 2 {{400 {incomplete}}};\r\n"));
}
