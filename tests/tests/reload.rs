//! A configuration that is exchanged while the server runs: all of it or nothing, and no transaction notices.

#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::tempdir;
use tests::http::Metrics;
use tests::peer::{Peer, command, transact};
use tests::smtp::{Client, NextHop};
use tests::{CalloutServer, Milter, PATIENCE, program, text};

const ADMIN: &str = "[admin]\nlisten = \"127.0.0.1:0\"\ncontrol = \"control\"\n";

/// A server with an admin listener and a control socket, and where the former is.
fn start(folder: &Path, config: &str) -> (CalloutServer, String) {
    let mut server = CalloutServer::start(folder, &format!("{ADMIN}{config}"), &[]);
    let admin = server.admin();
    server.wait_for("admin listening");
    (server, admin)
}

fn write(folder: &Path, config: &str) {
    let file = folder.join("callout-server.toml");
    // As editors do: nobody reads half of it.
    let new = folder.join("new.toml");
    std::fs::write(&new, format!("{ADMIN}{config}")).unwrap();
    std::fs::rename(new, file).unwrap();
}

/// What `callout-server` says of the server in that folder: whether it worked, and what was printed.
fn run(folder: &Path, arguments: &[&str]) -> (bool, String) {
    let mut command = program("callout-server");
    command.args(arguments).arg("--config").arg(folder.join("callout-server.toml"));
    let output = command.output().unwrap();
    let printed = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(printed).unwrap())
}

fn reload(folder: &Path) -> (bool, String) {
    run(folder, &["reload"])
}

/// A proxy that asks this service of the server.
fn proxy(folder: &Path, server: &CalloutServer, hop: &NextHop, services: &str) -> Milter {
    let group = format!(
        "[[group]]\nname = \"all\"\nservers = [\"{}\"]\nservices = [{services}]\n",
        server.address()
    );
    Milter::start_proxy("127.0.0.1:0", &format!("127.0.0.1:{}", hop.port), folder, &group)
}

fn denying(domain: &str) -> String {
    format!("[services.mail-from.settings]\ndeny = [\"{domain}\"]\n")
}

#[test]
fn open_dialogs_keep_what_they_began_with_and_new_ones_have_the_new() {
    let folder = tempdir().unwrap();
    let (mut server, admin) = start(folder.path(), &denying("one.example"));
    let hop = NextHop::start();
    let proxy = proxy(folder.path(), &server, &hop, "\"mail-from\"");
    let sender = |client: &mut Client, sender: &str| {
        let reply = client.say(&format!("MAIL FROM:<{sender}>"));
        assert!(client.say("RSET").starts_with("250"));
        reply
    };
    let mut before = Client::greeted(proxy.port());
    assert!(sender(&mut before, "a@one.example").starts_with("550"));
    assert!(sender(&mut before, "a@two.example").starts_with("250"));

    let loaded = Metrics::of(&admin).value("config_loaded_timestamp_seconds");
    write(folder.path(), &denying("two.example"));
    server.reload();
    let line = server.wait_for_any("the configuration is in use");
    assert!(text(&line, "message").ends_with("changed: services.mail-from"), "{line}");

    let mut after = Client::greeted(proxy.port());
    assert!(sender(&mut after, "b@one.example").starts_with("250"), "it has the new");
    assert!(sender(&mut after, "b@two.example").starts_with("550"), "it has the new");
    assert!(sender(&mut before, "c@one.example").starts_with("550"), "it keeps the old");
    assert!(sender(&mut before, "c@two.example").starts_with("250"), "it keeps the old");

    let metrics = Metrics::of(&admin);
    assert_eq!(metrics.nonzero("reloads_total"), [("result=\"ok\"", 1.0)]);
    assert!(metrics.value("config_loaded_timestamp_seconds") > loaded);
    // The dialog holds one connection; the other one, which nobody needs, has ended.
    let superseded = |count: f64| {
        let ended = || Metrics::of(&admin).value("superseded_connections") == count;
        assert!((0..10_000).any(|_| ended()), "{count}: {:#?}", Metrics::of(&admin).0);
    };
    superseded(1.0);
    // Services go on counting.
    let asked = "service_duration_seconds_count{service=\"mail-from\",profile=\"command\",\
        event=\"MAIL\",result=\"replied\"}";
    assert!(metrics.value(asked) >= 2.0, "{:#?}", metrics.0);
    before.say("QUIT");
    superseded(0.0);
}

#[test]
fn what_can_t_be_used_changes_nothing_and_is_said() {
    let folder = tempdir().unwrap();
    let (mut server, admin) = start(folder.path(), &denying("one.example"));
    let plugin = |command: &str| {
        format!(
            "[services.plugin]\n[services.plugin.settings]\naddress = \"unix:plugin.sock\"\n\
             command = [\"{command}\"]\n[services.plugin.settings.grants]\nevents = [\"MAIL\"]\n"
        )
    };
    std::fs::create_dir(folder.path().join("signatures.ndb")).unwrap();
    let cases = [
        ("[limits\n".to_owned(), "callout-server.toml:4:8", "unclosed table"),
        ("[limits]\nconnections = 0\n".to_owned(), "callout-server.toml:5:15", "0"),
        (plugin("/nonexistent/plugin"), "callout-server.toml:4:1", "service plugin: start: "),
        (
            plugin("/bin/false"),
            "callout-server.toml:4:1",
            "/bin/false does not run: exit status: 1",
        ),
        (
            "[services.virus-scan.settings]\nsignatures = \"none\"\n".to_owned(),
            "callout-server.toml:4:1",
            "none",
        ),
        ("log = { format = \"json\" }\n".to_owned(), "callout-server.toml:4:18", "log.format"),
    ];
    for (number, (config, position, cause)) in cases.iter().enumerate() {
        write(folder.path(), config);
        if config.starts_with("log") {
            // A key without a section stands before them all.
            let text = format!("\n\n\n{config}{ADMIN}");
            std::fs::write(folder.path().join("callout-server.toml"), text).unwrap();
        }
        let control = folder.path().join("control");
        let asked = program("callout-server").args(["reload", "--control"]).arg(control).output();
        let asked = asked.unwrap();
        let said = String::from_utf8(asked.stderr).unwrap();
        assert_eq!(asked.status.code(), Some(1), "{config}: {said}");
        assert!(said.contains(position) && said.contains(cause), "{config}: {said}");
        let line = server.wait_for("the old configuration stays in use");
        assert_eq!(line["level"], "ERROR", "{line}");
        assert!(position.ends_with(&text(&line, "position")), "{line}");
        let failed = Metrics::of(&admin).value("reloads_total{result=\"failed\"}");
        assert_eq!(failed, number as f64 + 1.0);
    }
    // Both keys are named, and the lines shown where they stand or are missing.
    let file = folder.path().join("callout-server.toml");
    let text = "[admin]\ncontrol = \"control\"\n[log]\nformat = \"json\"\n";
    std::fs::write(&file, text).unwrap();
    let (_, said) = reload(folder.path());
    let cause = "admin.listen, log.format: a running server can't change that: restart it";
    for part in [cause, "callout-server.toml:1:1", "│ [admin]", "│ format = \"json\""] {
        assert!(said.contains(part), "{said}");
    }
    server.wait_for("the old configuration stays in use");
    std::fs::remove_file(&file).unwrap();
    server.reload();
    let line = server.wait_for("the old configuration stays in use");
    assert!(tests::text(&line, "error").contains("can't be read"), "{line}");

    let mut peer = Peer::open(server.address(), &["mail-from"]);
    peer.send(command(1, 1, "MAIL FROM:<a@one.example>", true).concat());
    assert!(peer.read_message("TE 1").contains("550"), "the old one is in use");
    assert!(children(server.pid()).is_empty());
}

/// The old one is needed as long as a dialog has it.
#[test]
fn two_programs_do_not_have_one_address() {
    let folder = tempdir().unwrap();
    let executable = program("plugin-example").get_program().to_owned();
    let plugin = |word: &str| {
        format!(
            "[services.plugin]\n[services.plugin.settings]\naddress = \"unix:plugin.sock\"\n\
             command = [{executable:?}, \"{word}\"]\n\
             [services.plugin.settings.grants]\nevents = [\"MESSAGE\"]\n"
        )
    };
    let (mut server, _) = start(folder.path(), &plugin("one"));
    while text(&server.wait_for("a plugin says"), "line") != "ready" {}
    let mut peer = Peer::open(server.address(), &["plugin"]);
    write(folder.path(), &plugin("two"));
    let (worked, said) = reload(folder.path());
    // An error for people is wrapped.
    let words: Vec<_> = said.split_whitespace().filter(|word| *word != "│").collect();
    let words = words.join(" ");
    assert!(!worked && words.contains("give another program another address"), "{said}");
    assert!(said.contains("callout-server.toml:4:1"), "{said}");

    write(folder.path(), "");
    assert!(reload(folder.path()).0);
    peer.read_message("Dialog-Drain;\r\n");
    write(folder.path(), &plugin("two"));
    assert!(!reload(folder.path()).0, "a dialog has the old one");
    peer.send("Dialog-End 1;\r\nCE {200 2:OK};\r\n");
    peer.read_to_end();
    let ended = (0..10_000).any(|_| children(server.pid()).is_empty());
    assert!(ended, "{:?}", children(server.pid()));
    let (worked, said) = reload(folder.path());
    assert!(worked, "{said}");
    assert_eq!(children(server.pid()).len(), 1);
}

/// A peer that does not listen is served all the same, under what it began with.
#[test]
fn who_does_not_honour_a_drain_goes_on() {
    let folder = tempdir().unwrap();
    let (mut server, admin) = start(folder.path(), "");
    let mut late = Peer::connect(server.address());
    let mut peer = Peer::open(server.address(), &["virus-scan"]);
    transact(&mut peer, 1);
    write(folder.path(), "[services.virus-scan]\nenabled = false\n");
    let (worked, said) = reload(folder.path());
    assert!(worked && said.ends_with("changed: services.virus-scan\n"), "{said}");
    peer.read_message("Dialog-Drain;\r\n");
    transact(&mut peer, 2);
    peer.send(tests::peer::dialog(2));
    peer.send("Dialog-End 1;\r\n");
    server.wait_for_any("a dialog begins under a configuration that was replaced");
    // One that had agreed on nothing yet hears it once there are dialogs.
    late.send(tests::peer::opening(&["virus-scan"]).concat());
    late.read_message("Dialog-Drain;\r\n");
    assert_eq!(Metrics::of(&admin).value("superseded_connections"), 2.0);
    let mut new = Peer::open(server.address(), &["virus-scan"]);
    new.send(command(1, 1, "MAIL FROM:<a@one.example>", true).concat());
    let answer = new.read_message("TE 1");
    assert!(answer.contains("there is no service ocp://service/virus-scan here"), "{answer}");
}

#[test]
fn a_configuration_is_dumped_whole_and_means_the_same() {
    let folder = tempdir().unwrap();
    let (_server, _) = start(folder.path(), &denying("one.example"));
    let (worked, dump) = run(folder.path(), &["config", "dump"]);
    assert!(worked, "{dump}");
    let (worked, running) = run(folder.path(), &["config", "dump", "--running"]);
    assert!(worked, "{running}");
    let listen = |text: &str| -> String {
        text.lines().filter(|line| !line.starts_with("listen = ")).flat_map(|l| [l, "\n"]).collect()
    };
    assert_eq!(listen(&running), listen(&dump), "the command line says where it listens");
    let file = folder.path().join("callout-server.toml");
    std::fs::write(&file, &dump).unwrap();
    assert_eq!(run(folder.path(), &["config", "dump"]), (true, dump.clone()));
    let (worked, said) = reload(folder.path());
    assert!(worked && said.contains("nothing changed in it"), "{said}");

    // The old one is what runs until a new one is in use.
    std::fs::write(&file, dump.replace("one.example", "two.example")).unwrap();
    assert_eq!(run(folder.path(), &["config", "dump", "--running"]).1, running);
    assert!(reload(folder.path()).0);
    let running = run(folder.path(), &["config", "dump", "--running"]).1;
    assert!(running.contains("two.example"), "{running}");
}

/// The processes that another one has started and not reaped.
fn children(pid: u32) -> BTreeSet<u32> {
    let listed = Command::new("ps").args(["-o", "pid=", "--ppid", &pid.to_string()]).output();
    let listed = String::from_utf8(listed.unwrap().stdout).unwrap();
    listed.split_whitespace().map(|pid| pid.parse().unwrap()).collect()
}

fn open_files(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

/// How many reloads, and how long after each.
fn reloads() -> (usize, Duration) {
    match std::env::var_os("OPES_TESTS_FULL") {
        Some(_) => (60, Duration::from_secs(1)),
        None => (10, Duration::from_millis(200)),
    }
}

/// Under load, and with a plugin that runs on, and one that is another one each time.
#[test]
fn reloads_drop_no_transaction_and_leave_nothing_behind() {
    let (count, pause) = reloads();
    let folder = tempdir().unwrap();
    let executable = program("plugin-example").get_program().to_owned();
    let executable = executable.to_str().unwrap();
    let config = |number: usize| {
        let plugin = |name: &str, socket: &str, word: &str| {
            format!(
                "[services.{name}]\nkind = \"plugin\"\n[services.{name}.settings]\n\
                 address = \"unix:{socket}.sock\"\ncommand = [\"{executable}\", \"{word}\"]\n\
                 [services.{name}.settings.grants]\nevents = [\"MESSAGE\"]\nfields = [\"Subject\"]\n"
            )
        };
        let quiet = "[log]\nlevel = \"info,opes::log=off,callout_server::session=off\"\n";
        let kept = plugin("kept", "kept", "[kept]");
        let changed = plugin("changed", &format!("changed{number}"), &format!("[{number}]"));
        format!("{quiet}{kept}{changed}")
    };
    let (mut server, admin) = start(folder.path(), &config(0));
    for _ in 0..2 {
        while text(&server.wait_for("a plugin says"), "line") != "ready" {}
    }
    let hop = NextHop::start();
    let proxy = proxy(folder.path(), &server, &hop, "\"kept\", \"changed\"");
    let port = proxy.port();
    let send = |number: usize| {
        let mut client = Client::greeted(port);
        let mail = format!("From: a@a.example\r\nSubject: s{number}\r\n\r\ntext\r\n");
        let reply = client.mail("a@a.example", &["b@b.example"], mail.as_bytes());
        client.say("QUIT");
        reply
    };
    // Connections to plugins, and whatever else the first mail takes.
    assert!(send(0).starts_with("250"));
    let (files, processes) = (open_files(server.pid()), children(server.pid()));
    assert_eq!(processes.len(), 2);

    let seconds = (pause * u32::try_from(count).unwrap()).as_secs() + 1;
    let load = |services: &str| {
        let mut command = program("opes-mta");
        command.args(["load", "--json", "--no-echo", "--server", server.address()]);
        command.args(["--connections", "3", "--open", "4", "--size", "2000"]);
        command.args(["--services", services, "--seconds", &seconds.to_string()]);
        let events = if services == "log" { "mail,rcpt,message" } else { "message" };
        command.args(["--events", events]).stdout(Stdio::piped()).spawn().unwrap()
    };
    let loads = [load("log"), load("kept,changed")];
    let is_over = AtomicBool::new(false);
    let sent = std::thread::scope(|scope| {
        let sending = scope.spawn(|| {
            let mut sent = 0;
            while !is_over.load(Ordering::Relaxed) {
                let reply = send(sent);
                assert!(reply.starts_with("250"), "mail {sent}: {reply}");
                sent += 1;
            }
            sent
        });
        let reloaded: Vec<(bool, String)> = (1..=count)
            .map(|number| {
                write(folder.path(), &config(number));
                let reloaded = reload(folder.path());
                std::thread::sleep(pause);
                reloaded
            })
            .collect();
        is_over.store(true, Ordering::Relaxed);
        assert!(reloaded.iter().all(|(worked, _)| *worked), "{reloaded:#?}");
        sending.join().unwrap()
    });
    let mut transactions = Vec::new();
    for load in loads {
        let output = load.wait_with_output().unwrap();
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(report["failed"], 0, "{report}");
        assert_eq!(output.status.code(), Some(0));
        transactions.push(report["transactions"].as_u64().unwrap());
    }
    println!("{count} reloads, {sent} mails, transactions under load: {transactions:?}");
    assert!(sent > 0 && transactions.iter().all(|transactions| *transactions > 0));
    let delivered: Vec<String> = hop
        .wait_for(sent + 1)
        .iter()
        .map(|mail| String::from_utf8_lossy(&mail.octets).into_owned())
        .collect();
    let tagged = |mail: &String| mail.contains("[kept]") && mail.matches('[').count() == 2;
    assert!(delivered.iter().all(tagged), "each met both plugins: {delivered:?}");
    let last = &delivered[sent];
    assert!(last.contains(&format!("[{count}]")), "{last}");

    // What old configurations had is gone: their connections, plugins and files.
    let deadline = Instant::now() + PATIENCE;
    loop {
        let metrics = Metrics::of(&admin);
        let superseded = metrics.value("superseded_connections");
        let (now, left) = (open_files(server.pid()), children(server.pid()));
        let left: BTreeSet<_> = left.into_iter().collect();
        if superseded == 0.0 && now <= files && left.len() == 2 {
            assert_eq!(left.intersection(&processes).count(), 1, "one ran all the time");
            break;
        }
        assert!(Instant::now() < deadline, "{superseded} {now}/{files} {left:?}/{processes:?}");
    }
    let metrics = Metrics::of(&admin);
    assert_eq!(metrics.nonzero("reloads_total"), [("result=\"ok\"", count as f64)]);
    assert_eq!(metrics.nonzero("service_failures_total"), []);
    assert!(send(sent).starts_with("250"));
    drop(proxy);
    server.terminate();
    let (code, lines) = server.ended();
    assert_eq!(code, Some(0));
    assert!(lines.iter().all(|line| line["level"] != "ERROR"), "{lines:?}");
}
