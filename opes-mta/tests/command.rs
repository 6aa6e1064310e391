//! The program `opes-mta` against a scripted server.

#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing)]

#[allow(dead_code)] // What the other tests use of it.
mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command as Process, Output, Stdio};

use ocp_proto::smtp::{Command, Part};
use support::{Script, Server, Step, answer, keep, reply, script, wants};

fn opes_mta(folder: &Path, arguments: &[&str]) -> Output {
    Process::new(env!("CARGO_BIN_EXE_opes-mta"))
        .current_dir(folder)
        .env_remove("RUST_LOG")
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

/// Marks, refuses or lies, by the first word of the mail.
fn play() -> Script {
    script(|_, octets| match octets {
        [b'M', ..] => answer([
            Step::Data(Part::MessageHeader, "X-Mark: 1\n".into()),
            Step::Keep(0..octets.len() as u32),
        ]),
        [b'R', ..] => answer([reply("550 5.7.1 refused\r\n")]),
        [b'L', ..] => answer([reply("250 swallowed\r\n")]),
        _ => keep(octets),
    })
}

fn rows(output: &Output) -> Vec<serde_json::Value> {
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_folder_goes_through_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let mails = folder.path().join("mails/deep");
    fs::create_dir_all(&mails).unwrap();
    let mut expected = Vec::new();
    for number in 0..30 {
        let (word, decision) =
            [("Mark", "modify"), ("Ham", "accept"), ("Refuse", "reject")][number % 3];
        // The first ones take longest.
        let text = format!("{word}: x\n\n{}", "x".repeat((30 - number) * 20_000));
        fs::write(mails.join(format!("{number:02}.eml")), text).unwrap();
        expected.push((format!("deep/{number:02}.eml"), decision));
    }
    let server = Server::start(1, wants([Command::Message]), play());
    let address = server.address.to_string();
    let output = opes_mta(
        folder.path(),
        &["adapt", "--json", "--server", &address, "--services", "test", "--out", "out", "mails"],
    );
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let rows = rows(&output);
    let found: Vec<_> = rows
        .iter()
        .map(|row| (row["file"].as_str().unwrap().to_owned(), row["decision"].as_str().unwrap()))
        .collect();
    assert_eq!(found, expected);
    assert_eq!(rows[2]["reply"], "550 5.7.1 refused");
    assert_eq!(rows[0]["error"], serde_json::Value::Null);
    assert!(rows[0]["octets_returned"].as_u64().unwrap() < 300);
    let marked = fs::read(folder.path().join("out/deep/00.eml")).unwrap();
    assert_eq!(marked, [b"X-Mark: 1\n", &fs::read(mails.join("00.eml")).unwrap()[..]].concat());
    assert_eq!(fs::read_dir(folder.path().join("out/deep")).unwrap().count(), 20);
    let summary = String::from_utf8(output.stderr).unwrap();
    assert!(summary.starts_with("30 mails: 10 accept, 10 modify, 10 reject; "), "{summary}");
}

#[test]
fn a_mailbox_goes_through_message_by_message() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(
        folder.path().join("box"),
        "From a@b Mon\nHam: 1\n\nx\n\nFrom c@d Tue\nLie: 2\n\ny\n",
    )
    .unwrap();
    let server = Server::start(1, wants([Command::Message]), play());
    let address = server.address.to_string();
    let output = opes_mta(folder.path(), &["adapt", "--server", &address, "--out", ".", "box"]);
    // A mail that could not be processed.
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<_> = text.lines().collect();
    assert!(lines[0].starts_with("accept      box#1  sent "), "{text}");
    assert!(
        lines[1].starts_with("error       box#2  sent ")
            && lines[1].ends_with("250 is no answer to MESSAGE (SMTP profile section 4)"),
        "{text}"
    );
    assert_eq!(fs::read(folder.path().join("box#1")).unwrap(), b"Ham: 1\n\nx\n");
    assert!(!folder.path().join("box#2").exists());
    let log = String::from_utf8(output.stderr).unwrap();
    let line: serde_json::Value = serde_json::from_str(log.lines().next().unwrap()).unwrap();
    assert_eq!(line["level"], "WARN");
    assert_eq!(line["fields"]["event"], "MESSAGE");
    assert_eq!(line["fields"]["stage"], "checking the answer");
    assert_eq!(line["fields"]["policy"], "tempfail");
}

#[test]
fn what_does_not_work_is_said() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("mail"), "A: b\n\n").unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    let output = opes_mta(folder.path(), &["adapt", "--server", &address, "mail"]);
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(
        error
            .starts_with(&format!("opes-mta: cannot connect to the callout server at {address}: "))
            && error.contains(&format!("Start it with `callout-server serve --listen {address}`")),
        "{error}"
    );
    let output = opes_mta(folder.path(), &["adapt", "none"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8(output.stderr).unwrap().contains("none: No such file"));
    for wrong in
        [&["adapt"][..], &["adapt", "--server", "x", "mail"], &["adapt", "--to", "<>", "mail"]]
    {
        assert_eq!(opes_mta(folder.path(), wrong).status.code(), Some(2), "{wrong:?}");
    }
}

#[test]
fn check_says_what_a_configuration_means() {
    let folder = tempfile::tempdir().unwrap();
    let text = "\
[system]
uri = \"https://opes.example.org/\"
name = \"mx1\"
[[listen]]
name = \"mx\"
milter = \"unix:/run/opes-mta.sock\"
[[group]]
name = \"clean\"
servers = [\"127.0.0.1:4037\", \"unix:/run/ocp.sock\"]
services = [\"virus-scan\"]
on-failure = \"tempfail\"
[[group]]
name = \"next\"
servers = [\"127.0.0.1:4038\"]
services = [\"http://example.org/score\"]
shadow = true
sample = 0.1
[[rule]]
clients = [\"unix\"]
groups = [\"next\", \"clean\"]
[[rule]]
name = \"reports\"
recipients = [\"abuse@example.org\"]
groups = []
[[group]]
name = \"replies\"
servers = [\"127.0.0.1:4039\"]
services = [\"reply-filter\"]
profile = \"reply\"
[limits]
connections = 1
content-octets = 209715200
[temporary]
folder = \"/var/tmp\"
";
    fs::write(folder.path().join("good.toml"), text).unwrap();
    let output = opes_mta(folder.path(), &["check", "good.toml"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let expected = "\
good.toml: valid
system https://opes.example.org/, this processor is mx1
  services    named in the log only
listener mx: milter at unix:/run/opes-mta.sock
admin: none
group clean
  servers     127.0.0.1:4037, unix:/run/ocp.sock
  services    ocp://service/virus-scan
  on failure  tempfail; reject if the server says it
  deadlines   20 s for a command, 80 s for content
  load        2 connections and 256 open transactions a server
  overload    wait
  ejection    after 5 failures in 10 s, for 1 s and more
  recipients  reject, if they differ and there is one message for all
  bodies      as much as services look at, by milter
group next
  servers     127.0.0.1:4038
  services    http://example.org/score
  shadow      watches 10 % of all dialogs, changes nothing
  on failure  what the server says; tempfail if it is away
  deadlines   20 s for a command, 80 s for content
  load        2 connections and 256 open transactions a server
  overload    wait
  ejection    after 5 failures in 10 s, for 1 s and more
  recipients  reject, if they differ and there is one message for all
  bodies      as much as services look at, by milter
group replies
  servers     127.0.0.1:4039
  services    ocp://service/reply-filter
  profile     reply: it is asked about the next hop's replies alone
  on failure  what the server says; tempfail if it is away
  deadlines   20 s for a command, 80 s for content
  load        2 connections and 256 open transactions a server
  overload    wait
  ejection    after 5 failures in 10 s, for 1 s and more
rules: the first that matches decides
  #1: clients unix: next, then clean
  reports: recipients abuse@example.org: nobody is asked
  (no rule): everybody: clean, then next, then replies
bypass: OPES-Bypass of who has authenticated (a milter does not see XOPES-BYPASS)
limits: 1 connections, messages of 100 MiB, 200 MiB together
  in all, 25 s for a command, 280 s for content
  mail servers hear of progress every 10 s
  by SMTP, what is beyond 1 MiB of a message lies in /var/tmp, 4096 MiB together
memory: 922 MiB at the most that peers can make it hold
       200 MiB  messages that are worked on (content-octets)
       200 MiB  what callout servers make of them
         1 MiB  1 answers that are longer than their message
         9 MiB  blocks of messages in files on their way out
       256 MiB  what is shown to groups that watch (shadow-octets)
       256 MiB  what callout servers make of that
note: group replies is for replies of a next hop: opes-mta milter, which sees none, does not ask it
note: rule reports: one such recipient is enough for nobody to look at a message: all-recipients wants all of them
";
    assert_eq!(String::from_utf8(output.stdout).unwrap(), expected);
}

/// OPES-3837-3-01
#[test]
fn a_file_that_everybody_can_change_is_not_relied_on() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("open.toml");
    let group = "[[group]]\nname = \"a\"\nservers = [\"a:1\"]\nservices = [\"log\"]\n";
    fs::write(&file, group).unwrap();
    for (mode, code) in [(0o666, 1), (0o664, 0)] {
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
        let output = opes_mta(folder.path(), &["check", "open.toml"]);
        assert_eq!(output.status.code(), Some(code), "{output:?}");
        let error = String::from_utf8(output.stderr).unwrap();
        let expected = "everybody can change open.toml: chmod o-w open.toml";
        assert_eq!(error.contains(expected), code == 1, "{error}");
    }
}

#[test]
fn check_says_what_is_wrong_and_where() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("bad.toml"), "[limits]\nconections = 3\n").unwrap();
    let output = opes_mta(folder.path(), &["check", "bad.toml"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert_eq!(output.stdout, b"");
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(
        error.contains("bad.toml:2:1") && error.contains("did you mean `connections`?"),
        "{error}"
    );
    let output = opes_mta(folder.path(), &["check", "none.toml"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(String::from_utf8(output.stderr).unwrap().contains("none.toml can't be read: No such"));
    let help = opes_mta(folder.path(), &["check", "--help"]);
    assert!(String::from_utf8(help.stdout).unwrap().contains("[default: /etc/opes-mta.toml]"));
}
