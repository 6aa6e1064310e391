//! A group for replies over a real socket: what a processor sends, and every octet that it gets.

#![allow(missing_docs, clippy::unwrap_used)]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use callout_server::{Address, Config, Listeners, Server};
use services::Registry;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

const CONFIG: &str = r#"
[[services.reply-filter.settings.rule]]
text = 'mx1\.internal'
replacement = "mail.example.com"

[[services.recipient-retry.settings.rule]]
recipient = '^(.+)@old\.example$'
address = '${1}@new.example'
next-hop = "mx.new.example:25"
"#;

const HELLO: &str = "CS;\r\nNO ({\"17:ocp://smtp/dialog\"\r\nVersion: 1\r\n});\r\n\
    SGC 1 ({\"23:ocp://service/mail-from\"},{\"26:ocp://service/reply-filter\"},{\"29:ocp://service/recipient-retry\"});\r\n";

struct Peer {
    stream: TcpStream,
    stop: CancellationToken,
}

impl Peer {
    async fn start() -> Self {
        let config = Config::parse(CONFIG, Path::new(""), &Registry::builtin()).unwrap();
        let address: Address = "127.0.0.1:0".parse().unwrap();
        let listeners = Listeners::bind(&[address]).await.unwrap();
        let Address::Tcp(address) = listeners.addresses().remove(0) else { panic!("not TCP") };
        let stop = CancellationToken::new();
        tokio::spawn(listeners.serve(Arc::new(Server::new(config)), stop.clone()));
        Self { stream: TcpStream::connect(address).await.unwrap(), stop }
    }

    /// What comes back, up to the answer to a PQ behind it.
    async fn says(&mut self, text: &str) -> String {
        self.stream.write_all(format!("{text}PQ;\r\n").as_bytes()).await.unwrap();
        let mut octets = Vec::new();
        while !octets.ends_with(b"PA;\r\n") {
            let read = self.stream.read_buf(&mut octets);
            let count = tokio::time::timeout(Duration::from_secs(10), read).await;
            assert_ne!(count.unwrap().unwrap(), 0, "{}", String::from_utf8_lossy(&octets));
        }
        octets.truncate(octets.len() - "PA;\r\n".len());
        String::from_utf8(octets).unwrap()
    }

    /// With a group for replies and a dialog.
    async fn negotiated() -> Self {
        let mut peer = Self::start().await;
        let offer = "NO ({\"16:ocp://smtp/reply\"\r\nCommands: (GREETING,RCPT,MESSAGE)\r\n\
             Aux-Parts: (command)\r\nSide-Effects: (retry-command,disconnect)\r\n})\r\nSG: 1\r\n;\r\n";
        let said = peer.says(&format!("{HELLO}{offer}Dialog-Start 1;\r\n")).await;
        let chosen = "NR {\"16:ocp://smtp/reply\"\r\nCommands: (GREETING,RCPT,MESSAGE)\r\n\
             Aux-Parts: (command)\r\nSide-Effects: (retry-command)\r\nOn-Failure: accept\r\n}\r\nSG: 1\r\n;\r\n";
        assert!(said.ends_with(chosen), "{said}");
        peer
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn start(xid: u32, command: &str) -> String {
    format!("TS {xid} 1;\r\nAMS {xid}\r\nDialog: 1\r\nCommand: {command}\r\n;\r\n")
}

fn part(xid: u32, offset: usize, part: &str, octets: &str, kept: bool) -> String {
    let size = octets.len();
    let kept = if kept { format!("Kept: {{0 {}}}\r\n", offset + size) } else { String::new() };
    format!("DUM {xid} {offset}\r\n{kept}AM-Part: {part}\r\n\r\n{size}:{octets}\r\n;\r\n")
}

#[tokio::test]
async fn a_reply_is_changed_kept_or_retried() {
    let mut peer = Peer::negotiated().await;
    // Without a command before it, and nothing kept.
    let greeting = part(1, 0, "reply", "220 mx1.internal ESMTP\r\n", false);
    let said = peer.says(&format!("{}{greeting}AME 1;\r\n", start(1, "GREETING"))).await;
    let changed =
        "DUM 1 0\r\nModp: 100\r\nAM-Part: reply\r\n\r\n28:220 mail.example.com ESMTP\r\n\r\n;\r\n";
    assert!(said.starts_with(&format!("AMS 1;\r\n{changed}AME 1\r\nVerdicts: ")), "{said}");
    assert!(said.ends_with("TE 1;\r\n"), "{said}");

    let event = |xid, recipient: &str, kept| {
        let line = format!("RCPT TO:<{recipient}>");
        let parts = part(xid, 0, "command", &line, kept);
        let reply = part(xid, line.len(), "reply", "550 5.1.1 nobody\r\n", kept);
        format!("{}{parts}{reply}AME {xid};\r\n", start(xid, "RCPT"))
    };
    // What stays is named behind its command, or sent again.
    let said = peer.says(&event(2, "a@b.example", true)).await;
    assert!(said.starts_with("AMS 2;\r\nDUY 2 21 18;\r\nAME 2\r\nVerdicts: "), "{said}");
    let said = peer.says(&event(3, "a@b.example", false)).await;
    let again =
        "DUM 3 0\r\nAs-is: 21\r\nModp: 0\r\nAM-Part: reply\r\n\r\n18:550 5.1.1 nobody\r\n\r\n;\r\n";
    assert!(said.starts_with(&format!("AMS 3;\r\n{again}AME 3\r\n")), "{said}");
    let said = peer.says(&event(4, "a@old.example", true)).await;
    let retry = "AME 4\r\nSide-Effects: ({retry-command \"23:RCPT TO:<a@new.example>\"\r\n\
         Next-Hop: \"17:mx.new.example:25\"\r\n})\r\n";
    assert!(said.starts_with(&format!("AMS 4;\r\nDUY 4 23 18;\r\n{retry}")), "{said}");
    assert!(said.ends_with("TE 4;\r\n"), "{said}");
}

#[tokio::test]
async fn what_is_no_reply_is_refused_alone_and_costs_no_memory() {
    let mut peer = Peer::negotiated().await;
    let refused = |xid, cause: &str| format!("TE {xid} {{400 \"{}:{cause}\"}};\r\n", cause.len());
    let event = |xid, line: &str, reply: &str| {
        let parts = part(xid, 0, "command", line, true);
        let reply = part(xid, line.len(), "reply", reply, true);
        format!("{}{parts}{reply}AME {xid};\r\n", start(xid, "RCPT"))
    };
    let said = peer.says(&event(1, "RCPT TO:<a@b>", "550 no")).await;
    assert_eq!(said, refused(1, "every line of a reply ends with CRLF"));
    let said = peer.says(&event(2, "MAIL FROM:<a@b>", "550 no\r\n")).await;
    assert_eq!(said, refused(2, "the command line is no RCPT"));
    let said = peer.says(&event(3, "RCPT TO:<a@b>\r\nDATA", "550 no\r\n")).await;
    assert_eq!(said, refused(3, "octet 0x0d is not allowed in a command line"));
    let said = peer.says(&format!("{}AME 4;\r\n", start(4, "GREETING"))).await;
    assert_eq!(said, refused(4, "every line of a reply starts with the same code from 200 to 559"));
    let said = peer.says(&event(5, "RCPT TO:<a@b>", &"550-x\r\n".repeat(2_000))).await;
    assert!(
        said.starts_with("TE 5 {400 \"65:the message has more than the 10240 octets"),
        "{said}"
    );
    // The connection goes on.
    let said = peer.says(&event(6, "RCPT TO:<a@b>", "550 no\r\n")).await;
    assert!(said.ends_with("TE 6;\r\n"), "{said}");
}

#[tokio::test]
async fn a_group_is_for_events_or_for_replies() {
    let mut peer = Peer::negotiated().await;
    let offer = "NO ({\"18:ocp://smtp/command\"\r\nCommands: (MAIL,RCPT)\r\n})\r\nSG: 1\r\n;\r\n";
    let said = peer.says(offer).await;
    assert_eq!(said, "NR\r\nRejects: ({\"18:ocp://smtp/command\"})\r\nSG: 1\r\n;\r\n");
    // In a group for events those that look at replies are left out.
    let group = HELLO.split_once("SGC 1").unwrap().1;
    let said = peer.says(&format!("SGC 2{group}{}", offer.replace("SG: 1", "SG: 2"))).await;
    assert_eq!(
        said,
        "NR {\"18:ocp://smtp/command\"\r\nCommands: (MAIL)\r\nOn-Failure: tempfail\r\n}\r\nSG: 2\r\n;\r\n"
    );
    assert_eq!(peer.says("AQ {\"16:ocp://smtp/reply\"};\r\n").await, "AA true;\r\n");
}
