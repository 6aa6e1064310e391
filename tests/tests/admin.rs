//! What an operator, and those who should not, see of `callout-server` from outside.

#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing)]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;

use tempfile::{TempDir, tempdir};
use tests::http::{Metrics, connect, get, request};
use tests::peer::{Peer, command, data, message, transact};
use tests::{CalloutServer, fixtures, program, text};

const ADMIN: &str = "[admin]\nlisten = \"127.0.0.1:0\"\n";

fn started(config: &str) -> (TempDir, CalloutServer, String) {
    let folder = tempdir().unwrap();
    let mut server = CalloutServer::start(folder.path(), &format!("{ADMIN}{config}"), &[]);
    let admin = server.admin();
    (folder, server, admin)
}

#[test]
fn transactions_are_counted_by_what_became_of_them() {
    let (folder, mut server, admin) = started("");
    let before = Metrics::of(&admin);
    assert_eq!(before.value("connections_total"), 0.0);
    assert_eq!(before.nonzero("events_total"), []);
    assert_eq!(before.nonzero("service_duration_seconds_count"), []);
    assert_eq!(before.value("content_limit_octets"), 1024.0 * 1024.0 * 1024.0);
    assert_eq!(before.value("spool_limit_octets"), 4096.0 * 1024.0 * 1024.0);
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(before.value(&format!("build_info{{version=\"{version}\"}}")), 1.0);

    let adapted = server.adapt([fixtures().join("plain.eml")]);
    assert_eq!(adapted.only()["decision"], "accept", "{}", adapted.stderr);
    server.wait_for("disconnected");
    let clean = Metrics::of(&admin);
    assert_eq!(clean.value("connections_total"), 1.0);
    let unchanged = [
        ("profile=\"command\",event=\"MAIL\",result=\"unchanged\"", 1.0),
        ("profile=\"command\",event=\"MESSAGE\",result=\"unchanged\"", 1.0),
    ];
    assert_eq!(clean.nonzero("events_total"), unchanged);
    // Nothing changed: all of it was named, and none of it sent back.
    let content = clean.value("content_received_octets_total");
    let mail = std::fs::metadata(fixtures().join("plain.eml")).unwrap().len();
    assert!(content > mail as f64, "{content} octets, of which {mail} are the mail's");
    assert_eq!(clean.value("content_reused_octets_total"), content);
    assert_eq!(clean.value("content_left_octets_total"), 0.0);
    let (received, sent) = (clean.value("received_octets_total"), clean.value("sent_octets_total"));
    assert!(received > content && sent > 0.0 && sent < received, "{received} {sent}");

    let stripped = folder.path().join("stripped.eml");
    let attachment = "Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\ntext\r\n--b\r\n\
        Content-Type: application/octet-stream; name=setup.exe\r\n\r\nMZ\r\n--b--\r\n";
    std::fs::write(&stripped, format!("MIME-Version: 1.0\r\n{attachment}")).unwrap();
    let infected = folder.path().join("infected.eml");
    let eicar =
        [r"X5O!P%@AP[4\PZX54(P^)7CC)7}$EICAR-", "STANDARD-ANTIVIRUS-TEST-FILE!$H+H*"].concat();
    std::fs::write(&infected, format!("Subject: x\r\n\r\n{eicar}\r\n")).unwrap();
    let adapted = server.adapt(
        ["--services", "virus-scan,mime-strip"]
            .map(Into::into)
            .iter()
            .chain([&stripped, &infected]),
    );
    assert_eq!(adapted.reports.len(), 2, "{}", adapted.stderr);
    server.wait_for("disconnected");
    let metrics = Metrics::of(&admin);
    let events = [
        ("profile=\"command\",event=\"MAIL\",result=\"unchanged\"", 1.0),
        ("profile=\"command\",event=\"MESSAGE\",result=\"modified\"", 1.0),
        ("profile=\"command\",event=\"MESSAGE\",result=\"replied\"", 1.0),
        ("profile=\"command\",event=\"MESSAGE\",result=\"unchanged\"", 1.0),
    ];
    assert_eq!(metrics.nonzero("events_total"), events);
    let of = |service: &str, event: &str, result: &str| {
        format!("service=\"{service}\",profile=\"command\",event=\"{event}\",result=\"{result}\"")
    };
    let services = [
        (of("mail-from", "MAIL", "unchanged"), 1.0),
        (of("mime-strip", "MESSAGE", "changed"), 1.0),
        (of("mime-strip", "MESSAGE", "unchanged"), 1.0),
        (of("spam-score", "MESSAGE", "unchanged"), 1.0),
        (of("virus-scan", "MESSAGE", "replied"), 1.0),
        (of("virus-scan", "MESSAGE", "unchanged"), 2.0),
    ];
    let services: Vec<_> =
        services.iter().map(|(labels, count)| (labels.as_str(), *count)).collect();
    assert_eq!(metrics.nonzero("service_duration_seconds_count"), services);
    for (labels, count) in services {
        let bucket = format!("service_duration_seconds_bucket{{le=\"+Inf\",{labels}}}");
        assert_eq!(metrics.value(&bucket), count);
    }
    assert_eq!(metrics.nonzero("service_failures_total"), []);
    for gauge in ["open_connections", "open_dialogs", "open_transactions", "content_used_octets"] {
        assert_eq!(metrics.value(gauge), 0.0, "{gauge}");
    }
}

#[test]
fn what_stays_with_the_processor_is_counted() {
    let (folder, mut server, admin) = started("");
    let mail = folder.path().join("large.eml");
    let body = "Nothing special.\r\n".repeat(20_000);
    std::fs::write(&mail, format!("Subject: large\r\n\r\n{body}")).unwrap();
    let adapted = server.adapt(["--services", "log"].map(Into::into).iter().chain([&mail]));
    assert_eq!(adapted.only()["decision"], "accept", "{}", adapted.stderr);
    server.wait_for("disconnected");
    let metrics = Metrics::of(&admin);
    let (came, left) = (
        metrics.value("content_received_octets_total"),
        metrics.value("content_left_octets_total"),
    );
    assert_eq!(left, body.len() as f64, "all of the body: {came} octets came");
}

/// Of clamd and plugins, which are beyond the server.
#[test]
fn services_tell_of_themselves() {
    let (_folder, server, admin) = started(
        "[services.scan]\nkind = \"virus-scan\"\n[services.scan.settings]\nclamd = \"unix:/nonexistent/clamd\"\nclamd-retry = 0\n\
         [services.odd]\nkind = \"plugin\"\n[services.odd.settings]\naddress = \"unix:/nonexistent/plugin\"\n\
         command = [\"false\"]\nfailures = 2\nrevive-seconds = 60\n\
         [services.odd.settings.grants]\nevents = [\"MESSAGE\"]\n",
    );
    let of = |result: &str| format!("clamd_scans_total{{service=\"scan\",result=\"{result}\"}}");
    let before = Metrics::when(&admin, |metrics| {
        metrics.value("plugin_starts_total{service=\"odd\"}") > 0.0
    });
    assert_eq!(before.value("plugin_left_alone{service=\"odd\"}"), 0.0);
    assert_eq!(before.value(&of("failed")), 0.0);
    let ask = |service: &str| {
        server.adapt(
            ["--services", service].map(Into::into).iter().chain([&fixtures().join("plain.eml")]),
        )
    };
    for (service, count) in [("scan", 1.0), ("odd", 0.0), ("odd", 1.0)] {
        assert_eq!(ask(service).only()["decision"], "reject");
        let metrics = Metrics::of(&admin);
        assert_eq!(metrics.value(&of("failed")), 1.0);
        assert_eq!(metrics.value(&of("clean")) + metrics.value(&of("found")), 0.0);
        let left_alone = metrics.value("plugin_left_alone{service=\"odd\"}");
        assert_eq!(left_alone, if service == "odd" { count } else { 0.0 }, "after {service}");
    }
    let after = Metrics::of(&admin);
    assert_eq!(after.value("clamd_open_scans{service=\"scan\"}"), 0.0);
    assert_eq!(after.value("plugin_open_events{service=\"odd\"}"), 0.0);
}

#[test]
fn failures_are_counted_by_service_and_stage() {
    let config = "[services.virus-scan.settings]\nclamd = \"unix:/nonexistent/clamd.ctl\"\nclamd-retry = 0\n";
    let (_folder, mut server, admin) = started(config);
    let before = Metrics::of(&admin);
    for stage in ["deadline", "panic", "answer", "spool", "service"] {
        let series = format!("service_failures_total{{service=\"virus-scan\",stage=\"{stage}\"}}");
        assert_eq!(before.value(&series), 0.0, "{stage}");
    }
    let adapted = server.adapt([fixtures().join("plain.eml")]);
    let reply = text(adapted.only(), "reply");
    assert!(reply.starts_with("451 4.3.0 "), "{reply} {}", adapted.stderr);
    server.wait_for("disconnected");
    let metrics = Metrics::of(&admin);
    assert_eq!(
        metrics.nonzero("service_failures_total"),
        [("service=\"virus-scan\",stage=\"service\"", 1.0)]
    );
    let failed = "service=\"virus-scan\",profile=\"command\",event=\"MESSAGE\",result=\"failed\"";
    let failed = format!("service_duration_seconds_count{{{failed}}}");
    assert_eq!(metrics.value(&failed), 1.0);
}

/// Transactions that come to nothing are counted once, whoever ends them; a verb that a peer made up adds
/// no series.
#[test]
fn peers_add_no_series() {
    let (_folder, server, admin) = started("[limits]\nmessage-octets = 1000\nconnections = 3\n");
    let series = |metrics: &Metrics| {
        let names = metrics.0.keys().filter(|series| !series.contains("service_duration"));
        names.cloned().collect::<Vec<String>>()
    };
    let before = series(&Metrics::of(&admin));

    let mut peer = Peer::open(server.address(), &["virus-scan"]);
    transact(&mut peer, 1);
    peer.send(message(2, 1, "Subject: large\r\n\r\n", &"x".repeat(2_000), true).concat());
    let answer = peer.read_message("TE 2");
    assert!(answer.contains("the message has more than the 1000 octets"), "{answer}");

    // No group of this one has such a service.
    let mut unserved = Peer::open(server.address(), &["nothing"]);
    unserved.send(command(1, 1, "MAIL FROM:<a@a.example>", true).concat());
    let answer = unserved.read_message("TE 1");
    assert!(answer.contains("there is no service ocp://service/nothing here"), "{answer}");

    // It goes away in the middle.
    let mut lost = Peer::open(server.address(), &["virus-scan"]);
    let [start, mail, ..] = &message(1, 1, "", &"x".repeat(9), true)[..] else { panic!() };
    lost.send(
        [&start[..], mail, &data(1, 0, "message-header", "Subject: x\r\n\r\n", true)].concat(),
    );
    let held = Metrics::when(&admin, |metrics| metrics.value("content_used_octets") > 0.0);
    assert_eq!(held.value("content_used_octets"), 14.0);
    assert_eq!(held.value("open_transactions"), 1.0);
    assert_eq!((held.value("open_connections"), held.value("open_dialogs")), (3.0, 3.0));

    // Beyond the limit.
    let refused = Peer::connect(server.address()).read_to_end();
    assert!(refused.contains("too many connections"), "{refused}");

    drop(lost);
    let metrics = Metrics::when(&admin, |metrics| metrics.value("open_connections") == 2.0);
    assert_eq!((metrics.value("open_transactions"), metrics.value("open_dialogs")), (0.0, 2.0));
    assert_eq!(metrics.value("content_used_octets"), 0.0);
    assert_eq!(metrics.value("connections_total"), 4.0);
    assert_eq!(metrics.nonzero("refused_connections_total"), [("reason=\"limit\"", 1.0)]);
    assert_eq!(
        metrics.nonzero("events_total"),
        [
            ("profile=\"command\",event=\"MESSAGE\",result=\"refused\"", 1.0),
            ("profile=\"command\",event=\"MESSAGE\",result=\"unanswered\"", 1.0),
            ("profile=\"command\",event=\"MESSAGE\",result=\"unchanged\"", 1.0),
            ("profile=\"command\",event=\"other\",result=\"refused\"", 1.0),
        ]
    );
    assert_eq!(series(&metrics), before);
}

#[test]
fn who_is_not_let_in_is_counted() {
    let (_folder, server, admin) = started("[[access]]\nclients = [\"127.0.0.1\"]\ndeny = true\n");
    let refused = Peer::connect(server.address()).read_to_end();
    assert!(refused.contains("access denied"), "{refused}");
    let metrics = Metrics::of(&admin);
    assert_eq!(metrics.nonzero("refused_connections_total"), [("reason=\"access\"", 1.0)]);
    assert_eq!(metrics.value("open_connections"), 0.0);
}

#[test]
fn readiness_ends_with_the_order_to_stop_and_the_rest_with_the_process() {
    let (_folder, server, admin) = started("");
    for (path, body) in [("/healthz", "alive\n"), ("/readyz", "ready\n")] {
        let response = get(&admin, path);
        assert_eq!((response.status, response.body.as_str()), (200, body));
    }
    let mut peer = Peer::open(server.address(), &["log"]);
    server.terminate();
    peer.read_message("Dialog-Drain;\r\n");
    let response = get(&admin, "/readyz");
    let reason = "draining: the server is stopping, open dialogs: 1\n";
    assert_eq!((response.status, response.body.as_str()), (503, reason));
    assert_eq!(get(&admin, "/healthz").status, 200);
    assert_eq!(Metrics::of(&admin).value("open_dialogs"), 1.0);
    peer.send("Dialog-End 1;\r\n");
    peer.read_to_end();
    assert_eq!(server.ended().0, Some(0));
}

#[test]
fn there_is_nothing_else() {
    let (_folder, _server, admin) = started("");
    for path in ["/", "/metrics/", "/metrics/x", "/healthz?x", "*", "/..%2fetc%2fpasswd"] {
        let status = if path == "/healthz?x" { 200 } else { 404 };
        assert_eq!(get(&admin, path).status, status, "{path}");
    }
    for path in ["/metrics", "/healthz", "/readyz"] {
        for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
            let response = request(&admin, method, path);
            assert_eq!(response.status, 405, "{method} {path}");
            assert!(response.header.contains("allow: GET,HEAD"), "{}", response.header);
        }
        assert_eq!(request(&admin, "HEAD", path).body, "");
    }
}

/// Half-open connections take all places, and header sections have no end: mail does not mind, and who
/// asks then is answered when their time is over.
#[test]
fn hostile_scrapers_disturb_nobody() {
    let (_folder, server, admin) = started("");
    let open_files = || std::fs::read_dir(format!("/proc/{}/fd", server.pid())).unwrap().count();
    let files = open_files();
    let mut endless = connect(&admin);
    endless.write_all(b"GET /metrics HTTP/1.1\r\n").unwrap();
    let piece = [&b"X-Endless: "[..], &[b'x'; 1_000], b"\r\n"].concat();
    let sent = (0..100_000).take_while(|_| endless.write_all(&piece).is_ok()).count();
    assert!(sent < 100_000, "a header section of {} octets was read", sent * piece.len());

    const HALF_OPEN: usize = 120;
    let half_open: Vec<TcpStream> = (0..HALF_OPEN)
        .map(|number| {
            let mut stream = connect(&admin);
            let begin = if number % 2 == 0 { "" } else { "GET /metrics HTTP/1.1\r\nHost: x\r\n" };
            stream.write_all(begin.as_bytes()).unwrap();
            stream
        })
        .collect();
    // There are 64 places: this one waits behind those.
    let waiting = std::thread::spawn({
        let admin = admin.clone();
        move || Metrics::of(&admin)
    });
    let adapted = server.adapt([fixtures().join("plain.eml")]);
    assert_eq!(adapted.only()["decision"], "accept", "{}", adapted.stderr);
    assert!(open_files() < files + HALF_OPEN * 2 / 3, "{files} open files became {}", open_files());
    waiting.join().unwrap();
    assert_eq!(Metrics::of(&admin).value("connections_total"), 1.0);
    for mut stream in half_open {
        let mut rest = Vec::new();
        // Some get a reset, since what they sent was not read.
        let _ = stream.read_to_end(&mut rest);
        let rest = String::from_utf8(rest).unwrap();
        assert!(rest.is_empty() || rest.starts_with("HTTP/1.1 408 "), "{rest}");
    }
}

#[test]
fn an_admin_address_that_is_taken_is_named_and_check_says_where_it_is() {
    let (folder, _server, admin) = started("");
    let file = folder.path().join("second.toml");
    std::fs::write(&file, format!("[admin]\nlisten = \"{admin}\"\n")).unwrap();
    let second = program("callout-server")
        .args(["serve", "--listen", "127.0.0.1:0", "--config"])
        .arg(&file)
        .output()
        .unwrap();
    let error = String::from_utf8(second.stderr).unwrap();
    assert_eq!(second.status.code(), Some(1));
    assert!(error.contains(&format!("{admin} can't be listened on")), "{error}");
    let check = |file: &[&std::ffi::OsStr]| {
        let output = program("callout-server").arg("check").args(file).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let said = check(&[file.as_os_str()]);
    assert!(
        said.contains(&format!("admin: http://{admin}: /metrics, /healthz, /readyz\n")),
        "{said}"
    );
    assert!(check(&[]).contains("admin: none\n"));
}

/// What `callout-server metrics` says of the server with this configuration: whether it worked, and what was printed.
fn asked(arguments: &[&std::ffi::OsStr]) -> (bool, String) {
    let output = program("callout-server").arg("metrics").args(arguments).output().unwrap();
    let printed = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(printed).unwrap())
}

/// It needs no port, is its user's alone, and goes with the server; what a killed one leaves behind is replaced.
#[test]
fn a_control_socket_answers_its_user() {
    let folder = tempdir().unwrap();
    let config = "[admin]\ncontrol = \"control\"\n";
    let mut server = CalloutServer::start(folder.path(), config, &[]);
    let socket = folder.path().join("control");
    assert_eq!(server.admin(), format!("unix:{}", socket.display()));
    let mode = std::fs::metadata(&socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let file = folder.path().join("callout-server.toml");
    for arguments in
        [["--config".as_ref(), file.as_os_str()], ["--control".as_ref(), socket.as_ref()]]
    {
        let (worked, metrics) = asked(&arguments);
        assert!(worked && metrics.contains("callout_server_open_connections 0\n"), "{metrics}");
    }

    let second = program("callout-server")
        .args(["serve", "--listen", "127.0.0.1:0", "--config"])
        .arg(&file)
        .output()
        .unwrap();
    let error = String::from_utf8(second.stderr).unwrap();
    assert!(error.contains("control can't be listened on") && !second.status.success(), "{error}");

    server.kill();
    assert!(socket.exists(), "killed, it removes nothing");
    let (worked, error) = asked(&["--control".as_ref(), socket.as_ref()]);
    assert!(!worked && error.contains("the server can't be asked at"), "{error}");
    let server = CalloutServer::start(folder.path(), config, &[]);
    assert!(asked(&["--control".as_ref(), socket.as_ref()]).0);
    server.terminate();
    assert_eq!(server.ended().0, Some(0));
    assert!(!socket.exists());
}

#[test]
fn who_asks_a_server_without_a_control_socket_is_told_what_is_missing() {
    let folder = tempdir().unwrap();
    let file = folder.path().join("without.toml");
    std::fs::write(&file, "[admin]\nlisten = \"127.0.0.1:0\"\n").unwrap();
    let (worked, error) = asked(&["--config".as_ref(), file.as_ref()]);
    assert!(!worked && error.contains("control in [admin] is missing"), "{error}");
    assert!(error.contains("without.toml:1:1"), "{error}");
    let (worked, error) = asked(&[]);
    assert!(!worked && error.contains("(--control)"), "{error}");
}
