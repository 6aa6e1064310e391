//! The commands `opes-mta spool` and `opes-mta quarantine`, beside a process that owns the stores.

#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, SystemTime};

use ocp_proto::smtp::{Address, Verdict};
use opes_mta::quarantine::{Arrival, Quarantine};
use opes_mta::spool::{Id, Limits, NewEntry, NewRecipient, Settlement, Spool};
use serde_json::Value;

struct Stores {
    folder: tempfile::TempDir,
    spool: Spool,
    quarantine: Quarantine,
}

/// A process that came to its end: its exit code, and what it said.
#[derive(Debug, PartialEq, Eq)]
struct Said {
    code: i32,
    out: String,
    error: String,
}

fn now() -> SystemTime {
    SystemTime::now()
}

fn address(path: &str, parameters: &[&str]) -> Address {
    let parameters = parameters.iter().map(|p| p.as_bytes().to_vec().into()).collect();
    Address::new(path.to_owned()).unwrap().with_parameters(parameters).unwrap()
}

impl Stores {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (spool, _) = Spool::open(&folder.path().join("s"), Limits::default()).unwrap();
        let (quarantine, _) =
            Quarantine::open(&folder.path().join("q"), Limits::default()).unwrap();
        Self { folder, spool, quarantine }
    }

    fn accept(&self, recipients: &[&str]) -> Id {
        let recipients = recipients.iter().map(|path| address(path, &["NOTIFY=NEVER"])).collect();
        let entry = NewEntry::new(address("<s@x>", &["RET=FULL"]), recipients);
        let mut writer = self.spool.accept(entry, now()).unwrap();
        writer.write(b"Subject: x\r\n\r\nHello\r\n").unwrap();
        writer.commit().unwrap().id
    }

    fn defer(&self, id: &Id, reply: &str) {
        let mut claim = self.spool.claim(id, now()).unwrap().unwrap();
        let until = now() + Duration::from_secs(3_600);
        let deferred = Settlement::Deferred { until, reply: reply.to_owned() };
        claim.settle(&[(0, deferred)], None, now()).unwrap();
    }

    fn keep(&self) -> Id {
        let verdict = Verdict {
            service: "ocp://service/virus-scan".into(),
            verdict: "infected".into(),
            score: None,
            reason: Some("EICAR\u{1b}[2J".into()),
            milliseconds: Some(3),
        };
        let recipient = NewRecipient { address: address("<c@d>", &[]), next_hop: None };
        let arrival = Arrival {
            reason: "a virus".to_owned(),
            expires: Some(now() + Duration::from_secs(3_600)),
            sender: address("<a@b>", &[]),
            recipients: vec![recipient],
            client: BTreeMap::from([("client-address".to_owned(), "192.0.2.1".to_owned())]),
            verdicts: vec![verdict],
            stopped_by: vec!["ocp://service/virus-scan".to_owned()],
            trace: None,
            queue_id: Some("4bXy".to_owned()),
        };
        let mut writer = self.quarantine.keep(arrival, now()).unwrap();
        writer.write(b"Subject: x\r\n\r\nFrom me\r\n").unwrap();
        writer.commit().unwrap().id
    }

    /// Runs `opes-mta WORD --spool s|--store q WORDS`.
    fn run(&self, words: &[&str]) -> Said {
        let Output { status, stdout, stderr } = Command::new(env!("CARGO_BIN_EXE_opes-mta"))
            .current_dir(self.folder.path())
            .args(words)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let text = |octets| String::from_utf8(octets).unwrap();
        Said { code: status.code().unwrap(), out: text(stdout), error: text(stderr) }
    }

    /// What such a command says that does what it should.
    fn done(&self, words: &[&str]) -> String {
        let Said { code, out, error } = self.run(words);
        assert_eq!((code, error.as_str()), (0, ""), "{words:?}");
        out
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

#[test]
fn the_spool_is_listed_and_shown() {
    let stores = Stores::new();
    assert_eq!(stores.done(&["spool", "list", "--spool", "s"]), "nothing waits\n");
    let id = stores.accept(&["<a@b>"]);
    let other = stores.accept(&["<a@b>", "<c@d>"]);
    stores.defer(&id, "450 4.2.0 \u{1b}[31mlater");
    let list = stores.done(&["spool", "list", "--spool", "s"]);
    let lines: Vec<&str> = list.lines().collect();
    assert_eq!(lines.len(), 3, "{list}");
    assert!(lines[0].starts_with("id                     state     octets  arrived"), "{list}");
    let line = |id: &Id| lines.iter().find(|line| line.starts_with(id.as_str())).unwrap();
    assert!(line(&id).ends_with("  <s@x>  <a@b>         450 4.2.0 \\u{1b}[31mlater"), "{list}");
    assert!(line(&other).ends_with("  <s@x>  2 recipients"), "{list}");

    let rows = stores.done(&["spool", "list", "--json", "--spool", "s"]);
    let rows: Vec<Value> = rows.lines().map(|row| serde_json::from_str(row).unwrap()).collect();
    let row = rows.iter().find(|row| row["id"] == id.as_str()).unwrap();
    assert_eq!(row["recipients"][0]["address"]["path"], "<a@b>");
    assert_eq!(row["recipients"][0]["state"]["is"], "deferred");
    assert_eq!(row["recipients"][0]["state"]["attempts"], 1);

    let show = stores.done(&["spool", "show", "--spool", "s", id.as_str()]);
    for line in ["sender     <s@x> RET=FULL\n", "recipient  <a@b> NOTIFY=NEVER\n", ", 1 attempt\n"]
    {
        assert!(show.contains(line), "{show}");
    }
    let message = stores.done(&["spool", "show", "--spool", "s", "--message", id.as_str()]);
    assert_eq!(message, "Subject: x\r\n\r\nHello\r\n");
}

#[test]
fn what_is_done_beside_the_owner_it_hears() {
    let stores = Stores::new();
    let [first, second, third] = [0, 1, 2].map(|_| stores.accept(&["<a@b>"]));
    stores.defer(&first, "450 later");
    let flushed = stores.done(&["spool", "flush", "--spool", "s"]);
    assert_eq!(flushed, format!("{first} flushed\n"));
    let held = ["spool", "hold", "--spool", "s", "--reason", "look at it", second.as_str()];
    assert_eq!(stores.done(&held), format!("{second} on hold\n"));
    let list = stores.done(&["spool", "list", "--spool", "s"]);
    assert!(list.contains("hold") && list.contains("look at it"), "{list}");
    assert_eq!(
        stores.done(&["spool", "delete", "--spool", "s", third.as_str()]),
        format!("{third} deleted\n")
    );
    assert_eq!(stores.spool.refresh().unwrap(), 3);
    assert_eq!(stores.spool.due(now(), 9), std::slice::from_ref(&first));
    stores.done(&["spool", "release", "--spool", "s", second.as_str()]);
    stores.spool.refresh().unwrap();
    assert_eq!(stores.spool.due(now(), 9).len(), 2);

    // One that can't be changed does not keep others from it.
    let claim = stores.spool.claim(&first, now()).unwrap().unwrap();
    let said = stores.run(&[
        "spool",
        "delete",
        "--spool",
        "s",
        first.as_str(),
        third.as_str(),
        second.as_str(),
    ]);
    let error = format!(
        "opes-mta: {first} is being worked on at this moment: try again\n\
         opes-mta: there is no spool entry {third}\n"
    );
    assert_eq!(said, Said { code: 1, out: format!("{second} deleted\n"), error });
    drop(claim);
    stores.spool.refresh().unwrap();
    assert_eq!(stores.spool.due(now(), 9), [first]);
}

#[test]
fn a_broken_file_is_named_and_others_are_listed() {
    let stores = Stores::new();
    let [sound, broken] = [0, 1].map(|_| stores.accept(&["<a@b>"]));
    fs::write(stores.file(&format!("s/spool/{broken}.json")), "{\"format\": \"x\"}").unwrap();
    let Said { code, out, error } = stores.run(&["spool", "list", "--json", "--spool", "s"]);
    assert_eq!(code, 1);
    assert_eq!(out.lines().count(), 1);
    assert!(out.contains(sound.as_str()), "{out}");
    let expected = format!(
        "opes-mta: s/spool/{broken}.json can't be used: its format is \"x\", not \"opes-mta-spool/1\"\n"
    );
    assert_eq!(error, expected);
}

#[test]
fn the_quarantine_is_listed_shown_and_exported() {
    let stores = Stores::new();
    assert_eq!(stores.done(&["quarantine", "list", "--store", "q"]), "nothing is kept\n");
    let id = stores.keep();
    let list = stores.done(&["quarantine", "list", "--store", "q"]);
    let line = list.lines().nth(1).unwrap();
    assert!(line.starts_with(&format!("{id}  kept   23      ")), "{list}");
    assert!(line.ends_with("<a@b>  <c@d>  a virus"), "{list}");
    let row: Value =
        serde_json::from_str(&stores.done(&["quarantine", "list", "--json", "--store", "q"]))
            .unwrap();
    assert_eq!(row["verdicts"][0]["service"], "ocp://service/virus-scan");
    assert_eq!(row["client"]["client-address"], "192.0.2.1");
    let show = stores.done(&["quarantine", "show", "--store", "q", id.as_str()]);
    let found = "found           ocp://service/virus-scan: infected (EICAR\\u{1b}[2J)\n";
    assert!(show.contains(found), "{show}");

    let eml = stores.done(&["quarantine", "export", "--store", "q"]);
    assert_eq!(eml, "Subject: x\r\n\r\nFrom me\r\n");
    stores.keep();
    let said = stores.run(&["quarantine", "export", "--store", "q"]);
    let error =
        "opes-mta: eml is one message, and here are 2 messages: name one, or use --format mbox\n";
    assert_eq!(said, Said { code: 1, out: String::new(), error: error.to_owned() });
    let mbox = stores.done(&["quarantine", "export", "--store", "q", "--format", "mbox"]);
    assert_eq!(mbox.matches("\r\n\r\n>From me\r\n\n").count(), 2, "{mbox}");
}

#[test]
fn what_is_released_is_delivered_once() {
    let stores = Stores::new();
    let [first, second] = [0, 1].map(|_| stores.keep());
    let release =
        ["quarantine", "release", "--store", "q", "--spool", "s", first.as_str(), first.as_str()];
    let Said { code, out, error } = stores.run(&release);
    assert_eq!((code, out), (1, format!("{first} released\n")));
    assert!(error.starts_with(&format!("opes-mta: {first} was released at 20")), "{error}");
    stores.spool.refresh().unwrap();
    let due = stores.spool.due(now(), 9);
    assert_eq!(due, [first.derived("release").unwrap()]);
    assert_eq!(stores.spool.entry(&due[0]).unwrap().skips, ["ocp://service/virus-scan"]);
    assert_eq!(
        stores.done(&["quarantine", "delete", "--store", "q", second.as_str(), first.as_str()]),
        format!("{second} deleted\n{first} deleted\n")
    );
    assert_eq!(stores.done(&["quarantine", "list", "--store", "q"]), "nothing is kept\n");
}

#[test]
fn a_folder_that_is_no_store_is_left_as_it_is() {
    let stores = Stores::new();
    let said = stores.run(&["spool", "list", "--spool", "q"]);
    let error = "opes-mta: q is no spool: it has no folder `spool` in it\n".to_owned();
    assert_eq!(said, Said { code: 1, out: String::new(), error });
    let said = stores.run(&["quarantine", "list", "--store", "none"]);
    let error = "opes-mta: none is no quarantine: it has no folder `quarantine` in it\n".to_owned();
    assert_eq!(said, Said { code: 1, out: String::new(), error });
    assert!(!stores.file("none").exists());
    let said = stores.run(&["spool", "delete", "--spool", "s", "../x"]);
    assert_eq!(said.code, 2);
    assert!(said.error.contains("\"../x\" names no entry"), "{}", said.error);
}
