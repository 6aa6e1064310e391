//! The status page: who gets in, and what a browser makes of it.

#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing)]

use std::io::Write;
use std::path::Path;
use std::process::Stdio;
use std::sync::OnceLock;

use tempfile::{TempDir, tempdir};
use tests::browser::Browser;
use tests::http::{Response, get, get_with, post};
use tests::peer::{Peer, command, message, outcome, quoted};
use tests::{CalloutServer, fixtures, not_run, program};

const PASSWORD: &str = "correct horse";

/// The line that `callout-server password` prints.
fn hashed() -> &'static str {
    static HASHED: OnceLock<String> = OnceLock::new();
    HASHED.get_or_init(|| {
        let (code, said) = hash(&format!("{PASSWORD}\n"));
        assert_eq!(code, Some(0), "{said}");
        said
    })
}

fn hash(input: &str) -> (Option<i32>, String) {
    let mut password = program("callout-server");
    password.arg("password").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut password = password.spawn().unwrap();
    password.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = password.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(said).unwrap())
}

fn started(config: &str) -> (TempDir, CalloutServer, String) {
    let folder = tempdir().unwrap();
    let user = format!("[[admin.user]]\nname = \"ada\"\n{}", hashed());
    let config = format!("[admin]\nlisten = \"127.0.0.1:0\"\n{user}\n{config}");
    let mut server = CalloutServer::start(folder.path(), &config, &[]);
    let admin = server.admin();
    (folder, server, admin)
}

fn log_in(admin: &str, name: &str, password: &str, fields: &str) -> Response {
    let form = format!("name={name}&password={}", password.replace(' ', "+"));
    post(admin, "/login", fields, &form)
}

fn field<'a>(response: &'a Response, name: &str) -> Option<&'a str> {
    let mut fields = response.header.lines().filter_map(|line| line.split_once(": "));
    fields.find(|(known, _)| *known == name).map(|(_, value)| value)
}

/// The field that a browser sends from then on.
fn cookie(response: &Response) -> String {
    let set = field(response, "set-cookie").unwrap_or_else(|| panic!("{response:?}"));
    format!("Cookie: other=1; {}", set.split(';').next().unwrap())
}

#[test]
fn who_logs_in_sees_the_pages_until_the_session_ends() {
    let (_folder, mut server, admin) = started("");
    server.adapt([fixtures().join("plain.eml")]);
    server.wait_for("disconnected");
    let pages = ["/", "/history", "/history?q=x", "/history/1"];
    for path in pages {
        let refused = get(&admin, path);
        assert_eq!((refused.status, field(&refused, "location")), (303, Some("/login")), "{path}");
        assert_eq!(refused.body, "");
    }
    let form = get(&admin, "/login");
    assert_eq!(form.status, 200);
    assert!(form.body.contains("type=\"password\""), "{}", form.body);

    let wrong = [("ada", "correct horse "), ("ada", ""), ("mallory", PASSWORD), ("", "")];
    for (name, password) in wrong {
        let refused = log_in(&admin, name, password, "");
        assert_eq!((refused.status, field(&refused, "set-cookie")), (403, None), "{name}");
        assert!(refused.body.contains("This is not the name and password of a user."));
    }
    let entered = log_in(&admin, "ada", PASSWORD, "");
    assert_eq!((entered.status, field(&entered, "location")), (303, Some("/")));
    let set = field(&entered, "set-cookie").unwrap();
    let (token, attributes) = set.split_once("; ").unwrap();
    assert_eq!(attributes, "Path=/; HttpOnly; SameSite=Strict; Max-Age=43200");
    assert_eq!(token.len(), "callout_session=".len() + 64);
    let behind_tls = log_in(&admin, "ada", PASSWORD, "X-Forwarded-Proto: https\r\n");
    assert!(field(&behind_tls, "set-cookie").unwrap().ends_with("; Secure"));

    let session = cookie(&entered);
    for path in pages {
        let page = get_with(&admin, path, &session);
        assert_eq!(page.status, 200, "{path}");
        assert_eq!(field(&page, "content-type"), Some("text/html; charset=utf-8"), "{path}");
        assert!(page.body.ends_with("</html>"), "{path}");
    }
    let one = get_with(&admin, "/history/1", &session).body;
    assert!(one.contains("virus-scan") && one.contains("clean"), "{one}");
    assert_eq!(get_with(&admin, "/history/2", &session).status, 404);
    assert_eq!(get_with(&admin, "/history/x", &session).status, 400);
    assert_eq!(get_with(&admin, "/history?before=x", &session).status, 400);
    let forged = session.replace(&token[token.len() - 8..], "00000000");
    assert_eq!(get_with(&admin, "/", &forged).status, 303);

    // Logging out ends this session, and no other.
    let left = post(&admin, "/logout", &format!("{session}\r\n"), "");
    assert_eq!((left.status, field(&left, "location")), (303, Some("/login")));
    assert!(field(&left, "set-cookie").unwrap().contains("callout_session=; Path=/; HttpOnly"));
    assert_eq!(get_with(&admin, "/", &session).status, 303);
    assert_eq!(get_with(&admin, "/", &cookie(&behind_tls)).status, 200);
    server.terminate();
    let log = format!("{:?}", server.ended().1);
    assert!(log.contains("logged in at the status page"), "{log}");
    assert!(!log.contains(PASSWORD) && !log.contains("mallory"), "{log}");
}

#[test]
fn pages_are_told_to_hold_nothing_that_runs_and_change_nothing() {
    let (_folder, _server, admin) = started("");
    let session = cookie(&log_in(&admin, "ada", PASSWORD, ""));
    for path in ["/", "/history", "/history/9", "/login", "/status.css", "/metrics"] {
        let page = get_with(&admin, path, &session);
        if path == "/metrics" {
            assert_eq!(field(&page, "content-security-policy"), None);
            continue;
        }
        let policy = "default-src 'none'; style-src 'self'; form-action 'self'; base-uri 'none'; \
            frame-ancestors 'none'";
        assert_eq!(field(&page, "content-security-policy"), Some(policy), "{path}");
        assert_eq!(field(&page, "x-content-type-options"), Some("nosniff"), "{path}");
        assert_eq!(field(&page, "x-frame-options"), Some("DENY"), "{path}");
        assert_eq!(field(&page, "referrer-policy"), Some("no-referrer"), "{path}");
        assert_eq!(field(&page, "cache-control"), Some("no-store"), "{path}");
    }
    let fields = format!("{session}\r\n");
    for path in ["/", "/history", "/history/1", "/status.css"] {
        assert_eq!(post(&admin, path, &fields, "").status, 405, "{path}");
    }
    assert_eq!(get_with(&admin, "/logout", &session).status, 405);
    assert_eq!(get_with(&admin, "/", &session).status, 200, "a GET has not ended the session");
    assert_eq!(post(&admin, "/login", "", &"x".repeat(10_000)).status, 413);
    assert_eq!(post(&admin, "/login", "", "name=ada").status, 422);
}

#[test]
fn without_users_there_is_no_page_and_that_is_said() {
    let folder = tempdir().unwrap();
    let config = "[admin]\nlisten = \"127.0.0.1:0\"\n";
    let mut server = CalloutServer::start(folder.path(), config, &[]);
    let admin = server.admin();
    for path in ["/", "/history", "/history/1", "/login"] {
        let refused = get(&admin, path);
        assert_eq!(refused.status, 404, "{path}");
        assert!(refused.body.contains("add [[admin.user]] to the configuration"), "{path}");
    }
    assert_eq!(log_in(&admin, "ada", PASSWORD, "").status, 404);
    assert_eq!(get(&admin, "/healthz").status, 200);
}

#[test]
fn users_that_can_not_be_are_pointed_at() {
    let check = |config: &str| {
        let folder = tempdir().unwrap();
        let file = folder.path().join("test.toml");
        std::fs::write(&file, config).unwrap();
        let output = program("callout-server").arg("check").arg(&file).output().unwrap();
        String::from_utf8([output.stdout, output.stderr].concat()).unwrap()
    };
    let listen = "[admin]\nlisten = \"127.0.0.1:9037\"\n";
    let plain = check(&format!("{listen}[[admin.user]]\nname = \"ada\"\npassword = \"secret\"\n"));
    assert!(plain.contains("which callout-server password") && plain.contains(":5:12"), "{plain}");
    let alone =
        check(&format!("[admin]\ncontrol = \"x\"\n[[admin.user]]\nname = \"ada\"\n{}", hashed()));
    assert!(alone.contains("users log in at [admin] listen, which is missing"), "{alone}");
    let user = format!("[[admin.user]]\nname = \"ada\"\n{}", hashed());
    let twice = check(&format!("{listen}{user}{user}"));
    assert!(twice.contains("there is a user ada already"), "{twice}");
    let small = check(&format!("{listen}{user}[history]\noctets = 1000\n"));
    assert!(small.contains("one message may take 81920 octets"), "{small}");
    let sound = check(&format!("{listen}{user}[history]\noctets = 3145728\n"));
    assert!(sound.contains("  status page for ada\n"), "{sound}");
    assert!(sound.contains("  6 MiB  history, with what is not done with\n"), "{sound}");
    assert!(sound.contains("  84 MiB  those who ask at [admin]\n"), "{sound}");
    assert_eq!(hash("\n").0, Some(1));
    assert!(hash("").1.contains("a password has 1 to 1024 octets"));
}

/// A dialog whose client and sender are as hostile as can be, and which a service refuses.
fn hostile(server: &str) {
    let mut peer = Peer::open(server, &["mail-from", "log"]);
    let helo = "<script>window.hacked=1</script>\"'&\u{202e}gpj.exe\u{7}";
    peer.send(format!("Dialog-Update 1\r\nHelo: {}\r\n;\r\n", quoted(helo)));
    let sender = "\"><img/src=x/onerror=window.hacked=2>";
    peer.send(command(1, 1, &format!("MAIL FROM:<\"{sender}\"@bulk.example>"), true).concat());
    peer.read_message("TE 1");
    peer.send(outcome(1, 1));
    let subject = "Subject: <script>window.hacked=3</script>\r\n\r\n";
    peer.send(message(2, 1, subject, "body\r\n", true).concat());
    peer.read_message("TE 2");
    peer.send(outcome(1, 2));
    peer.send("Dialog-End 1;\r\nCE;\r\n");
    peer.read_to_end();
}

#[test]
fn a_browser_shows_the_pages_on_any_screen_and_runs_nothing() {
    let Some(browser) = Browser::start() else {
        return not_run("the status page in a browser", "there is no chromium, or no chromedriver");
    };
    let (folder, mut server, admin) =
        started("[services.mail-from.settings]\ndeny = [\"bulk.example\"]\n");
    let infected = folder.path().join("infected.eml");
    let eicar =
        [r"X5O!P%@AP[4\PZX54(P^)7CC)7}$EICAR-", "STANDARD-ANTIVIRUS-TEST-FILE!$H+H*"].concat();
    std::fs::write(&infected, format!("Subject: x\r\n\r\n{eicar}\r\n")).unwrap();
    let mails = [fixtures().join("plain.eml"), fixtures().join("folded.eml"), infected];
    let to = ["--from", "ann@example.org", "--to", "ben@example.net"].map(Path::new);
    server.adapt(to.into_iter().chain(mails.iter().map(AsRef::as_ref)));
    server.wait_for("disconnected");
    let address = server.address().to_owned();
    hostile(&address);
    server.wait_for("disconnected");

    browser.resize(1280, 900, false);
    browser.open(&format!("http://{admin}/"));
    assert!(browser.run("return location.pathname") == "/login");
    browser.type_into("#name", "ada");
    browser.type_into("#password", "wrong");
    browser.click("button");
    assert!(browser.text().contains("This is not the name and password"), "{}", browser.text());
    // That it was wrong is what the browser has to complain about.
    assert!(browser.complaints().iter().all(|complaint| complaint.contains("403")));
    browser.type_into("#name", "ada");
    browser.type_into("#password", PASSWORD);
    browser.click("button");
    assert_eq!(browser.run("return location.pathname"), "/");
    let overview = browser.text();
    for said in ["Overview", "Ready", "Messages a minute", "virus-scan", "1 replied", "infected"] {
        assert!(overview.contains(said), "{said}: {overview}");
    }
    assert_eq!(
        browser.run("return document.querySelectorAll('svg rect.replied').length > 1"),
        true
    );

    // The style sheet has come: dark and light differ, and the page has no script to hide either.
    assert_eq!(browser.run("return getComputedStyle(document.body).margin"), "0px");
    assert_eq!(browser.run("return document.cookie"), "", "no script can read the session");

    browser.open(&format!("http://{admin}/history"));
    browser.type_into("#q", "Infected ANN@example.org");
    browser.click("main button");
    assert_eq!(browser.run("return document.querySelectorAll('tbody tr').length"), 1);
    browser.click("tbody tr a");
    let one = browser.text();
    for said in ["<ann@example.org>", "<ben@example.net>", "infected", "554 5.7.1", "mime-strip"] {
        assert!(one.contains(said), "{said}: {one}");
    }

    // What is hostile is text like any other.
    browser.open(&format!(
        "http://{admin}/history?q=%22%3E%3Cscript%3Ewindow.hacked%3D4%3C%2Fscript%3E"
    ));
    assert_eq!(
        browser.run("return document.querySelector('#q').value"),
        "\"><script>window.hacked=4</script>"
    );
    browser.open(&format!("http://{admin}/history?q=bulk.example"));
    browser.click("tbody tr a");
    let shown = browser.text();
    assert!(
        shown.contains(r#"<script>window.hacked=1</script>"'&\u{202e}gpj.exe\u{7}"#),
        "{shown}"
    );
    assert!(shown.contains(r#"<""><img/src=x/onerror=window.hacked=2>"@bulk.example>"#), "{shown}");
    assert!(!shown.contains("hacked=3"), "{shown}");

    let hostile = browser.run("return location.pathname").as_str().unwrap().to_owned();
    for (width, height, is_phone) in [(1280, 900, false), (390, 844, true), (320, 568, true)] {
        browser.resize(width, height, is_phone);
        for path in ["/", "/history", "/history/1", &hostile, "/history/99"] {
            browser.open(&format!("http://{admin}{path}"));
            let widths = browser.run("return [document.scrollingElement.scrollWidth, innerWidth]");
            assert_eq!(widths[1], width, "{path}");
            assert!(widths[0].as_u64() <= widths[1].as_u64(), "{path} at {width}: {widths}");
            let state = browser.run(
                "return [window.hacked, document.scripts.length, \
                 document.querySelectorAll('img,[onerror],[style]').length]",
            );
            assert_eq!(state, serde_json::json!([null, 0, 0]), "{path}");
            // People who hear the page find their way: a title, one main part, one heading of the first level.
            let landmarks = browser.run(
                "return ['main', 'header nav', 'h1', 'footer'].map(\
                 name => document.querySelectorAll(name).length)",
            );
            assert_eq!(landmarks, serde_json::json!([1, 1, 1, 1]), "{path}");
        }
    }
    let complaints = browser.complaints();
    let is_expected =
        |complaint: &String| complaint.contains("favicon.ico") || complaint.contains("/history/99");
    assert!(complaints.iter().all(is_expected), "{complaints:#?}");

    browser.click("header button");
    assert_eq!(browser.run("return location.pathname"), "/login");
    browser.open(&format!("http://{admin}/history/1"));
    assert_eq!(browser.run("return location.pathname"), "/login");
}
