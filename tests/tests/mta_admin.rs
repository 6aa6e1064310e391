//! What an operator sees of `opes-mta` from outside.

#![allow(missing_docs, clippy::indexing_slicing)]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ocp_proto::smtp::{Command, EffectName, SideEffect};
use services::mail::Edits;
use services::{Change, Declaration, Finding, Outcome, Request};
use tests::actor::{actor, config};
use tests::gateway::Gateway;
use tests::http::{Metrics, get, request};
use tests::scripted::{Script, Scripted, sender};
use tests::smtp::{Client, Instead, NextHop};
use tests::stores::Stores;
use tests::{CalloutServer, Milter, program};

const ADMIN: &str = "[admin]\nlisten = \"127.0.0.1:0\"\n";
const MAIL: &[u8] = b"Subject: x\r\n\r\nbody\r\n";

/// What a group was asked about, by event and outcome.
fn events(metrics: &Metrics) -> Vec<(&str, f64)> {
    metrics.nonzero("event_duration_seconds_count")
}

#[test]
fn what_becomes_of_mail_behind_postfix_is_counted() {
    let server = Scripted::start(&[actor()]);
    let config = format!("{ADMIN}{}overload = \"tempfail\"\n", config(&server));
    let Some(mut gateway) = Gateway::start("what opes-mta counts", &config, &[]) else { return };
    let admin = gateway.milter.admin();
    let before = Metrics::of(&admin);
    for family in ["messages_total", "event_failures_total", "server_attempts_total"] {
        assert_eq!(before.nonzero(family), [], "{family}");
    }
    let of_server = format!("group=\"actor\",server=\"{}\"", server.address);
    assert_eq!(before.value(&format!("server_up{{{of_server}}}")), 1.0);
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(before.value(&format!("build_info{{version=\"{version}\"}}")), 1.0);

    let mut client = Client::greeted(gateway.port());
    let mails = [
        ("a", "nobody", "550 "),
        ("a", "b", "250 "),
        ("mark", "b", "250 "),
        ("bad", "b", "554 "),
        ("later-counted", "b", "451 "),
        ("discard", "b", "250 "),
    ];
    for (from, to, code) in mails {
        let reply = client.mail(&format!("{from}@a.example"), &[&format!("{to}@b.example")], MAIL);
        assert!(reply.starts_with(code), "{from}: {reply}");
        client.say("RSET");
    }
    // What was refused before content is given up with the next MAIL.
    mails.iter().for_each(|_| drop(gateway.milter.wait_for("message")));
    let metrics = Metrics::of(&admin);
    let of_listener =
        |decision: &str| format!("listener=\"inet:127.0.0.1:0\",decision=\"{decision}\"");
    let decisions =
        [("accept", 1.0), ("discard", 1.0), ("modify", 1.0), ("reject", 2.0), ("tempfail", 1.0)];
    let decisions = decisions.map(|(decision, count)| (of_listener(decision), count));
    let expected: Vec<_> = decisions.iter().map(|(labels, count)| (&labels[..], *count)).collect();
    assert_eq!(metrics.nonzero("messages_total"), expected);
    let of_actor = |event: &str, outcome: &str| {
        format!("group=\"actor\",event=\"{event}\",outcome=\"{outcome}\"")
    };
    // One is the client's; another one may have looked whether Postfix is there.
    let connect = of_actor("CONNECT", "unchanged");
    let connects = metrics.value(&format!("event_duration_seconds_count{{{connect}}}"));
    assert!([1.0, 2.0].contains(&connects), "{connects}");
    let asked = [
        (connect, connects),
        (of_actor("MESSAGE", "modified"), 1.0),
        (of_actor("MESSAGE", "replied"), 2.0),
        (of_actor("MESSAGE", "unchanged"), 2.0),
        (of_actor("RCPT", "replied"), 1.0),
        (of_actor("RCPT", "unchanged"), 5.0),
    ];
    let asked: Vec<_> = asked.iter().map(|(labels, count)| (&labels[..], *count)).collect();
    assert_eq!(events(&metrics), asked);
    let answered = format!("{of_server},result=\"answered\"");
    assert_eq!(metrics.nonzero("server_attempts_total"), [(&answered[..], 11.0 + connects)]);
    let modified = "listener=\"inet:127.0.0.1:0\",action=\"insert-field\"";
    assert_eq!(metrics.nonzero("milter_modifications_total"), [(modified, 1.0)]);
    assert_eq!(metrics.nonzero("event_failures_total"), []);
    assert_eq!(metrics.value("content_used_octets"), 0.0);
    let listener = "{front_end=\"milter\",listener=\"inet:127.0.0.1:0\"}";
    assert_eq!(metrics.value(&format!("connections_total{listener}")), connects);
    Metrics::when(&admin, |metrics| metrics.value(&format!("open_connections{listener}")) == 1.0);

    // Without a server the policy decides, and that it is away is seen.
    let address = server.address.clone();
    drop(server);
    gateway.milter.wait_for("the server is away");
    let reply = client.mail("a@a.example", &["b@b.example"], MAIL);
    assert!(reply.starts_with("451 4.3.0 "), "{reply}");
    let metrics = Metrics::of(&admin);
    let away = "group=\"actor\",stage=\"away\",policy=\"tempfail\"";
    assert_eq!(metrics.nonzero("event_failures_total"), [(away, 1.0)]);
    let failed = format!("event_duration_seconds_count{{{}}}", of_actor("RCPT", "failed"));
    assert_eq!(metrics.value(&failed), 1.0);
    for (series, value) in [
        ("server_up", 0.0),
        ("server_connections", 0.0),
        ("server_open_dialogs", 0.0),
        ("server_ejections_total", 1.0),
    ] {
        assert_eq!(metrics.value(&format!("{series}{{{of_server}}}")), value, "{series}");
    }
    let lost = format!("{of_server},reason=\"lost\"");
    assert_eq!(metrics.nonzero("server_lost_connections_total"), [(&lost[..], 2.0)]);
    assert_eq!(get(&admin, "/readyz").status, 200, "it takes connections");

    let _server = Scripted::start_at(&address, &[actor()]);
    gateway.milter.wait_for("the server is there");
    assert_eq!(Metrics::of(&admin).value(&format!("server_up{{{of_server}}}")), 1.0);
    client.say("QUIT");
    Metrics::when(&admin, |metrics| {
        metrics.value(&format!("open_connections{listener}")) == 0.0
            && metrics.value(&format!("server_open_dialogs{{{of_server}}}")) == 0.0
    });
}

/// A group that only watches has its own numbers, and what does not travel back is the same on both sides.
#[test]
fn octets_that_stay_are_those_that_the_server_names() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut server = CalloutServer::start(folder.path(), ADMIN, &[]);
    let of_server = server.admin();
    let address = server.address();
    let group = |name: &str, rest: &str| {
        format!(
            "[[group]]\nname = \"{name}\"\nservers = [\"{address}\"]\nservices = [\"spam-score\"]\n{rest}\n"
        )
    };
    let config = format!("{ADMIN}{}{}", group("now", ""), group("next", "shadow = true"));
    let hop = NextHop::start();
    let next_hop = format!("127.0.0.1:{}", hop.port);
    let mut proxy = Milter::start_proxy("127.0.0.1:0", &next_hop, folder.path(), &config);
    let admin = proxy.admin();
    let mut client = Client::greeted(proxy.port());
    let reply = client.mail("a@a.example", &["b@b.example"], MAIL);
    assert!(reply.starts_with("250 "), "{reply}");
    proxy.wait_for("shadow");
    client.say("QUIT");

    let metrics =
        Metrics::when(&admin, |metrics| !metrics.nonzero("shadow_messages_total").is_empty());
    let watched = [("group=\"next\",decision=\"accept\"", 1.0)];
    assert_eq!(metrics.nonzero("shadow_messages_total"), watched);
    assert_eq!(metrics.value("shadow_missed_dialogs_total{group=\"next\"}"), 0.0);
    let of_groups: f64 = ["now", "next"]
        .map(|group| metrics.value(&format!("preserved_octets_total{{group=\"{group}\"}}")))
        .iter()
        .sum();
    assert!(of_groups >= 2.0 * MAIL.len() as f64, "{of_groups}");
    assert_eq!(of_groups, Metrics::of(&of_server).value("content_reused_octets_total"));
    let replies = "class=\"2xx\"";
    let of_hop = metrics.nonzero("next_hop_replies_total");
    assert!(of_hop.iter().any(|(labels, count)| labels.ends_with(replies) && *count >= 5.0));
    let established = format!("next_hop=\"{next_hop}\",result=\"established\"");
    assert_eq!(metrics.nonzero("next_hop_connections_total"), [(&established[..], 1.0)]);
    Metrics::when(&admin, |metrics| {
        metrics.value(&format!("next_hop_open_connections{{next_hop=\"{next_hop}\"}}")) == 0.0
    });
}

/// Ann gets a mark, which makes two messages of one; what `hold` sends is held.
fn stored() -> [Script; 2] {
    let marks = |request: &Request| {
        let mut edits = Edits::new();
        edits.prepend_field(request.mail().expect("it is about content"), "X-Mark", "new");
        (Duration::ZERO, Outcome::changed(Change::Content(edits), "marked"))
    };
    let holds = |request: &Request| {
        let passed = Outcome::unchanged(Finding::new("passed"));
        let outcome = match sender(request).as_str() {
            "hold" => passed.with_effect(SideEffect::Hold("why not".into())),
            "odd" => passed.with_effect(SideEffect::Quarantine("looks odd".into())),
            _ => passed,
        };
        (Duration::ZERO, outcome)
    };
    let declaration = Declaration::on([Command::Message]);
    let effects = vec![EffectName::Hold, EffectName::Quarantine];
    [
        Script { name: "marks", declaration: declaration.clone(), answer: marks },
        Script {
            name: "holds",
            declaration: Declaration { effects, ..declaration },
            answer: holds,
        },
    ]
}

#[test]
fn mail_that_waits_is_counted_until_it_is_gone() {
    // Recipients that are taken, and refused when they come again from the spool.
    let times = AtomicUsize::new(0);
    let hop = NextHop::unless(move |line| match line {
        _ if !line.starts_with("RCPT TO:<ann@") => None,
        _ if times.fetch_add(1, Ordering::Relaxed) == 0 => None,
        _ => Instead::say("550 5.1.1 not any more"),
    });
    let for_ann = |name: &str| (name == "marks").then_some("ann@b.example");
    let server = Scripted::start_for("127.0.0.1:0", &stored(), for_ann);
    let folder = tempfile::tempdir().expect("a folder");
    let stores = Stores::new(folder.path());
    let config = format!(
        "{ADMIN}[[group]]\nname = \"g\"\nservices = [\"marks\", \"holds\"]\nservers = [\"{}\"]\n",
        server.address
    );
    let mut proxy = stores.start_proxy("127.0.0.1:0", hop.port, &config);
    let admin = proxy.admin();
    let mut client = Client::greeted(proxy.port());
    for (sender, recipients) in [
        ("hold@a.example", &["b@b.example"][..]),
        ("odd@a.example", &["b@b.example"]),
        ("a@a.example", &["ann@b.example", "b@b.example"]),
    ] {
        let reply = client.mail(sender, recipients, MAIL);
        assert!(reply.starts_with("250 "), "{sender}: {reply}");
    }
    // To Bob, and the report to the sender.
    hop.wait_for(2);
    let metrics = Metrics::when(&admin, |metrics| {
        metrics.value("deliveries_total{result=\"delivered\"}") == 2.0
            && metrics.nonzero("spool_entries").len() == 1
    });
    assert_eq!(metrics.nonzero("spool_entries"), [("state=\"held\"", 1.0)]);
    assert_eq!(metrics.value("spool_used_octets"), MAIL.len() as f64);
    assert_eq!(metrics.value("spool_oldest_seconds"), 0.0, "what is held is not to be delivered");
    assert_eq!(metrics.value("quarantine_entries"), 1.0);
    assert_eq!(metrics.value("quarantine_used_octets"), MAIL.len() as f64);
    let results = [("result=\"delivered\"", 2.0), ("result=\"failed\"", 1.0)];
    assert_eq!(metrics.nonzero("deliveries_total"), results);
    assert_eq!(metrics.value("delivery_reports_total"), 1.0);
    let refused = format!("next_hop=\"127.0.0.1:{}\",class=\"5xx\"", hop.port);
    let replies = metrics.nonzero("next_hop_replies_total");
    assert!(replies.contains(&(&refused[..], 1.0)), "{replies:?}");
    let decisions = ["hold", "modify", "quarantine"]
        .map(|decision| format!("listener=\"127.0.0.1:0\",decision=\"{decision}\""));
    let decisions = decisions.each_ref().map(|labels| (&labels[..], 1.0));
    assert_eq!(metrics.nonzero("messages_total"), decisions);
}

#[test]
fn readiness_ends_with_the_order_to_stop_and_the_rest_with_the_process() {
    let folder = tempfile::tempdir().expect("a folder");
    let hop = NextHop::start();
    let next_hop = format!("127.0.0.1:{}", hop.port);
    let config = "[[group]]\nname = \"g\"\nservers = [\"127.0.0.1:1\"]\nservices = [\"log\"]\n\
         [[rule]]\ngroups = []\n";
    let arguments = ["--listen", "127.0.0.1:0", "--next-hop", &next_hop, "--admin", "127.0.0.1:0"];
    let mut proxy = Milter::start_proxy_with(&arguments, folder.path(), config);
    let admin = proxy.admin();
    for (path, body) in [("/healthz", "alive\n"), ("/readyz", "ready\n")] {
        let response = get(&admin, path);
        assert_eq!((response.status, response.body.as_str()), (200, body));
    }
    for (method, path, status) in
        [("GET", "/", 404), ("POST", "/metrics", 405), ("DELETE", "/readyz", 405)]
    {
        assert_eq!(request(&admin, method, path).status, status, "{method} {path}");
    }
    let mut client = Client::greeted(proxy.port());
    for line in ["MAIL FROM:<a@a.example>", "RCPT TO:<b@b.example>"] {
        assert!(client.say(line).starts_with("250 "), "{line}");
    }
    proxy.terminate();
    proxy.wait_for("stopping");
    let response = get(&admin, "/readyz");
    let reason = "draining: opes-mta is stopping, open connections: 1\n";
    assert_eq!((response.status, response.body.as_str()), (503, reason));
    assert_eq!(get(&admin, "/healthz").status, 200);
    assert!(client.data(MAIL).starts_with("250 "));
    assert_eq!(proxy.ended().0, Some(0));
    hop.wait_for(1);
}

#[test]
fn an_admin_address_that_is_taken_is_named_and_check_says_where_it_is() {
    let folder = tempfile::tempdir().expect("a folder");
    let group = "[[group]]\nname = \"g\"\nservers = [\"127.0.0.1:1\"]\nservices = [\"log\"]\n";
    let mut milter = Milter::start(folder.path(), &format!("{ADMIN}{group}"));
    let admin = milter.admin();
    let file = folder.path().join("second.toml");
    std::fs::write(&file, format!("[admin]\nlisten = \"{admin}\"\n{group}")).expect("written");
    let second = program("opes-mta")
        .args(["milter", "--listen", "inet:127.0.0.1:0", "--config"])
        .arg(&file)
        .output()
        .expect("it runs");
    let error = String::from_utf8_lossy(&second.stderr);
    assert_eq!(second.status.code(), Some(1));
    assert!(error.contains(&format!("{admin} can't be listened on")), "{error}");
    let check = |file: &std::path::Path| {
        let output = program("opes-mta").arg("check").arg(file).output().expect("it runs");
        String::from_utf8(output.stdout).expect("text")
    };
    let said = check(&file);
    let line = format!("admin: http://{admin}: /metrics, /healthz, /readyz\n");
    assert!(said.contains(&line) && said.contains("MiB  the admin listener\n"), "{said}");
    std::fs::write(&file, group).expect("written");
    let said = check(&file);
    assert!(said.contains("admin: none\n") && !said.contains("the admin listener"), "{said}");
}
