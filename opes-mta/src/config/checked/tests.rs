use ::tests::certificates::Authority;
use ocp_proto::smtp::{FailurePolicy, ProfileKind};
use tempfile::TempDir;

use super::*;
use crate::config::RecipientsDiffer;
use crate::group::Overload;

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(text, Path::new("test.toml"))
}

/// Where each error stands, and what it says.
fn assert_errors(folder: &Path, cases: &[(String, (usize, usize), &str)]) {
    for (text, position, message) in cases {
        let error = Config::parse(text, &folder.join("test.toml")).expect_err(text);
        assert_eq!(error.line_and_column(), Some(*position), "{text}: {error}");
        assert!(error.to_string().contains(message), "{text}: {error}");
    }
}

/// Five lines, and what follows them.
fn with(rest: &str) -> String {
    let listen = "listen = [{ name = \"mx\", milter = \"inet:127.0.0.1:8899\" }]";
    let services = "\"mail-from\", \"virus-scan\", \"mime-strip\", \"spam-score\"";
    format!(
        "{listen}\n[[group]]\nname = \"clean\"\nservers = [\"127.0.0.1:4037\"]\n\
         services = [{services}]\n{rest}\n"
    )
}

const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/opes-mta.toml");

#[test]
fn the_commented_example_is_valid_and_says_the_defaults() {
    let config = Config::load(Path::new(EXAMPLE)).unwrap();
    let defaults = parse(&with("")).unwrap();
    assert_eq!(format!("{config:?}"), format!("{defaults:?}"));
    // Lines that begin with `#key` are examples, and valid too.
    let text = std::fs::read_to_string(EXAMPLE).unwrap();
    let uncommented: String = text
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(key) if key.starts_with(|c: char| c.is_ascii_lowercase() || c == '[') => key,
            _ => line,
        })
        .flat_map(|line| [line, "\n"])
        .collect();
    let config = Config::parse(&uncommented, Path::new(EXAMPLE))
        .unwrap_or_else(|error| panic!("{:?}\n{uncommented}", miette::Report::new(error)));
    let system = config.system.as_ref().unwrap();
    assert_eq!((system.name.as_str(), system.services_in_trace), ("mx1", false));
    assert_eq!(system.disclosure.as_ref().unwrap().listen.port(), 8080);
    assert_eq!(config.admin.as_deref(), Some("127.0.0.1:9038"));
    assert_eq!(config.groups[1].shadow, Some(0.1));
    assert_eq!(config.groups[2].profile, ProfileKind::Reply);
    let rules: Vec<(String, Vec<&str>)> =
        config.rules.iter().map(|rule| (rule.to_string(), config.group_names(rule))).collect();
    assert_eq!(
        rules,
        [
            (
                "monitoring: clients 192.0.2.10/32 2001:db8::/64, senders probe@example.org".into(),
                vec![]
            ),
            ("our users: listen mx, authenticated".into(), vec!["clean"]),
            (
                "abuse reports: all-recipients abuse@example.org postmaster@example.org".into(),
                vec!["next"]
            ),
            ("(no rule): everybody".into(), vec!["clean", "next", "replies"]),
        ]
    );
}

#[test]
fn traces_take_a_build_that_makes_them() {
    let error = parse(&with("[telemetry]\nendpoint = \"nowhere\"")).unwrap_err();
    let (place, cause) = match cfg!(feature = "opentelemetry") {
        true => ((7, 12), "is no collector"),
        false => ((6, 1), "built without OpenTelemetry"),
    };
    assert_eq!(error.line_and_column(), Some(place), "{error}");
    assert!(error.to_string().contains(cause), "{error}");
}

#[test]
fn the_example_of_the_readme_is_valid() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../README.md");
    let text = std::fs::read_to_string(path).unwrap();
    let (_, section) = text.split_once("## Configuration of opes-mta").unwrap();
    let (_, example) = section.split_once("```toml\n").unwrap();
    let config = parse(example.split_once("```").unwrap().0).unwrap();
    assert_eq!(config.rules.written().len(), 1);
}

/// `# key` lines of the example are examples too: they need files that are not there.
#[test]
fn the_example_of_tls_is_valid() {
    let folder = certificates();
    let text = std::fs::read_to_string(EXAMPLE).unwrap();
    let (_, section) = text.split_once("# [group.tls]\n").unwrap();
    let (section, _) = section.split_once("\n\n").unwrap();
    let keys: String = section
        .lines()
        .filter_map(|line| line.strip_prefix("# "))
        .filter(|line| line.split_once(" = ").is_some_and(|(key, _)| !key.contains(' ')))
        .flat_map(|line| [line, "\n"])
        .collect();
    assert_eq!(keys.lines().count(), 5, "{keys}");
    let text = with(&format!("[group.tls]\n{keys}")).replace("tls/", "");
    let config = Config::parse(&text, &folder.path().join("test.toml")).unwrap();
    assert!(config.groups[0].tls.is_some());
}

/// A folder with what a configuration may name.
fn certificates() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new(folder.path(), "ca");
    authority.sign("mta", &["mta.example.net"]);
    authority.sign("other", &["mta.example.net"]);
    folder
}

#[test]
fn what_is_wrong_has_a_line_and_a_column() {
    let none = |text: &str| text.to_owned();
    let group = |rest: &str| with(rest);
    let system = |rest: &str| with(&format!("[system]\n{rest}"));
    let page = "uri = \"https://a.example/\"\nname = \"a\"\n[system.disclosure]\n";
    let page = |rest: &str| with(&format!("[system]\n{page}{rest}\nreference-validity = \"a\""));
    let servers = |servers: &str| with("").replace("\"127.0.0.1:4037\"", servers);
    let rule = |rest: &str| with(&format!("[[rule]]\n{rest}"));
    let limits = |rest: &str| with(&format!("[limits]\n{rest}"));
    let cases = [
        (none("a = [1\n"), (1, 7), ""),
        (none("lisen = 1\n"), (1, 1), "did you mean `listen`?"),
        (none("nonsense = 1\n"), (1, 1), "unknown field `nonsense`, expected one of"),
        (none("[[listen]]\nmilter = \"8899\"\n"), (2, 10), "neither inet:HOST:PORT"),
        (none("[[listen]]\nname = \"a\"\n"), (1, 1), "missing field `milter`"),
        (
            none("[[listen]]\nmilter = \"unix:/x\"\n[[listen]]\nmilter = \"unix:/x\"\n"),
            (4, 10),
            "there is a listener unix:/x already",
        ),
        (
            none(
                "[[listen]]\nname = \"a\"\nmilter = \"unix:/x\"\n\
                 [[listen]]\nname = \"b\"\nmilter = \"unix:/x\"\n",
            ),
            (6, 10),
            "there is a listener at unix:/x already",
        ),
        (group("on-failure = \"acept\""), (6, 14), "did you mean `accept`?"),
        (group("overload = \"drop\""), (6, 12), "unknown variant `drop`"),
        (group("on-failure = \"reject\"\noverload = \"bypass\""), (7, 12), "\"reject\" holds"),
        (group("command_deadline = 1"), (6, 1), "did you mean `command-deadline`?"),
        (group("command-deadline = 26"), (6, 20), "[limits] allows 25 s in all"),
        (group("content-deadline = 281"), (6, 20), "[limits] allows 280 s in all"),
        (group("connections = 0"), (6, 15), "0"),
        (group("profile = \"answer\""), (6, 11), "unknown variant `answer`"),
        (group("profile = \"reply\"\nshadow = true"), (7, 10), "about replies takes effect"),
        (group("sample = 0.5"), (6, 10), "for shadow = true"),
        (group("shadow = true\nsample = 0"), (7, 10), "0"),
        (group("shadow = true\nsample = 0.0"), (7, 10), "above 0 and at most 1"),
        (group("shadow = true\nsample = 1.1"), (7, 10), "above 0 and at most 1"),
        (group("shadow = true\nsample = nan"), (7, 10), "above 0 and at most 1"),
        (group("recipients-differ = \"accept\""), (6, 21), "unknown variant `accept`"),
        (servers(""), (4, 11), "there are no servers"),
        (servers("\"nonsense\""), (4, 12), "nonsense"),
        (servers("\"a:1\", \"a:1\""), (4, 19), "there twice"),
        (servers("\"a:1\", \"tls:a:1\""), (4, 19), "needs [group.tls] with ca"),
        (with("").replace("\"mail-from\"", "\"mail from\""), (5, 13), "is no service"),
        (
            group("[[group]]\nname = \"clean\"\nservers = []\nservices = []"),
            (7, 8),
            "group clean already",
        ),
        (with("").replace("\"clean\"", "\" \""), (3, 8), "there is nothing"),
        (system("name = \"a\""), (6, 1), "missing field `uri`"),
        (system("uri = \"opes\"\nname = \"a\""), (7, 7), "no absolute URI"),
        (system("uri = \"https://localhost/\"\nname = \"a\""), (7, 7), "another system"),
        (system("uri = \"https://a.example/\"\nname = \"a b\""), (8, 8), "is no name"),
        (page("listen = \"8080\""), (9, 1), "missing field `operator`"),
        (
            page("listen = \"8080\"\noperator = \"a\"\nprivacy-policy = \"\"\ncontact = \"\""),
            (10, 10),
            "no address with a port",
        ),
        (
            page("listen = \"[::1]:1\"\noperator = \"a\"\nprivacy-policy = \"x\"\ncontact = \"\""),
            (12, 18),
            "no absolute URI",
        ),
        (
            page(
                "listen = \"[::1]:1\"\noperator = \"a\"\nprivacy-policy = \"http://a\"\ncontact = \"\"",
            ),
            (13, 11),
            "there is nothing",
        ),
        (rule("clients = [\"unix\"]"), (6, 1), "missing field `groups`"),
        (
            rule("name = \"a\"\ngroups = []\n[[rule]]\nname = \"a\"\ngroups = []"),
            (10, 8),
            "there is a rule a already",
        ),
        (rule("groups = [\"claen\"]"), (7, 11), "there is no group `claen`; did you mean `clean`?"),
        (rule("groups = [\"clean\", \"clean\"]"), (7, 20), "there twice"),
        (rule("groups = []\nlisten = [\"mta\"]"), (8, 11), "there is no listener `mta`"),
        (rule("groups = []\nclients = [\"192.0.2.1/24\"]"), (8, 12), "bits behind"),
        (rule("groups = []\nsenders = []"), (8, 11), "matches nobody"),
        (rule("groups = []\nsenders = [\"*@a.b\"]"), (8, 12), "is no address"),
        (rule("groups = []\nrecipients = [\"<>\"]"), (8, 15), "a recipient has an address"),
        (rule("groups = []\nall-recipients = [\"<>\"]"), (8, 19), "a recipient has an address"),
        (rule("groups = []\nrecipient = [\"a.b\"]"), (8, 1), "did you mean `recipients`?"),
        (rule("groups = []\nauthenticated = \"yes\""), (8, 17), "invalid type"),
        (
            limits("message-octets = 2000\ncontent-octets = 1999"),
            (7, 18),
            "2000 octets of memory and has no room",
        ),
        (
            limits("content-octets = 1999"),
            (7, 18),
            "a message takes up to 2359296 octets of memory and has no room",
        ),
        (limits("message-octets = 4294967296"), (7, 18), "4294967296"),
        (
            limits("message-octets = 2000\nmemory-octets = 999\ndisk-octets = 1000"),
            (9, 15),
            "2000 octets has no room in memory-octets and disk-octets, 1999 in all",
        ),
        (with("[temporary]\nfolder = \"/nowhere\""), (7, 10), "/nowhere is no folder"),
        (with("[bypass]\nclients = [\"all\"]"), (7, 12), "all is no address"),
    ];
    assert_errors(Path::new(""), &cases);
    let cases = [
        ("[admin]\nlisten = \"unix:/x\"", (7, 10), "unix:/x is no address of the admin listener"),
        ("[admin]\nlisten = \"localhost\"", (7, 10), "write HOST:PORT"),
        ("[admin]", (6, 1), "missing field `listen`"),
    ];
    assert_errors(Path::new(""), &cases.map(|(text, at, error)| (with(text), at, error)));
    let error = parse("").unwrap_err();
    assert_eq!(error.to_string(), "there is no [[group]]: nobody would look at any mail");
    assert_eq!(error.line_and_column(), None);
}

#[test]
fn what_is_wrong_with_tls_names_the_file() {
    let folder = certificates();
    let tls = |rest: &str| with(&format!("tls = {{ {rest} }}"));
    let unix = |rest: &str| tls(rest).replace("\"127.0.0.1:4037\"", "\"unix:/run/x\"");
    let cases = [
        (tls("name = \"a\""), (6, 7), "missing field `ca`"),
        (tls("ca = \"none.pem\""), (6, 14), "none.pem can't be used"),
        (tls("ca = \"ca.pem\", name = \"a b\""), (6, 31), "neither a DNS name"),
        (tls("ca = \"ca.pem\", certificate = \"mta.pem\""), (6, 38), "key is missing"),
        (tls("ca = \"ca.pem\", key = \"mta.key\""), (6, 30), "it belongs to is missing"),
        (
            tls("ca = \"ca.pem\", certificate = \"mta.pem\", key = \"x\""),
            (6, 55),
            "x can't be used",
        ),
        (
            tls("ca = \"ca.pem\", certificate = \"mta.pem\", key = \"other.key\""),
            (6, 38),
            "mta.pem can't be used",
        ),
        (tls("ca = \"ca.pem\", negotiation = \"maybe\""), (6, 38), "unknown variant `maybe`"),
        (unix("ca = \"ca.pem\""), (4, 12), "a unix socket does not say"),
    ];
    assert_errors(folder.path(), &cases);
    let path = folder.path().join("test.toml");
    for right in [
        unix("ca = \"ca.pem\", name = \"ocp.example.net\""),
        unix("ca = \"ca.pem\", negotiation = \"off\""),
        tls("ca = \"ca.pem\", certificate = \"mta.pem\", key = \"mta.key\"")
            .replace("\"127", "\"tls:127"),
    ] {
        assert!(Config::parse(&right, &path).unwrap().groups[0].tls.is_some(), "{right}");
    }
}

#[test]
fn a_group_says_what_is_asked_of_it() {
    let config = parse(&with(
        "on-failure = \"tempfail\"\ncommand-deadline = 3\ncontent-deadline = 4\nconnections = 5\n\
         open-limit = 6\noverload = \"tempfail\"\neject-failures = 7\neject-seconds = 8\n\
         revive-seconds = 9\nshadow = true\nrecipients-differ = \"quarantine\"\nwhole-body = true",
    ));
    let group = &config.unwrap().groups[0];
    assert_eq!(group.on_failure, FailurePolicy::Tempfail);
    let times =
        [group.command_deadline, group.content_deadline, group.eject_after, group.revive_after];
    assert_eq!(times.map(|time| time.as_secs()), [3, 4, 8, 9]);
    assert_eq!([group.connections, group.open_limit, group.eject_failures], [5, 6, 7]);
    assert_eq!(group.overload, Overload::Tempfail);
    let settings = group.settings();
    assert_eq!(settings.policy.on_failure, FailurePolicy::Tempfail);
    let times = [
        settings.policy.command_deadline,
        settings.policy.content_deadline,
        settings.failure_window,
        settings.revival,
    ];
    assert_eq!(times.map(|time| time.as_secs()), [3, 4, 8, 9]);
    assert_eq!([settings.connections, settings.open_limit, settings.failures], [5, 6, 7]);
    assert_eq!(settings.overload, Overload::Tempfail);
    assert_eq!(group.shadow, Some(1.0));
    assert_eq!(group.recipients_differ, RecipientsDiffer::Quarantine);
    assert!(group.whole_body);
    assert_eq!(group.services[1], "ocp://service/virus-scan");
    assert_eq!(group.profile, ProfileKind::Command);
    let config = parse(&with("profile = \"reply\"\nshadow = false")).unwrap();
    assert_eq!(config.groups[0].profile, ProfileKind::Reply);
}

#[test]
fn a_groups_deadlines_stay_below_those_for_all() {
    let config = parse(&with("[limits]\ncommand-deadline = 9\ncontent-deadline = 70")).unwrap();
    let group = &config.groups[0];
    assert_eq!(group.command_deadline, config.limits.command_deadline);
    assert_eq!((group.command_deadline.as_secs(), group.content_deadline.as_secs()), (9, 70));
}

/// By SMTP the rest of it lies in a file.
#[test]
fn a_message_may_be_larger_than_the_memory_for_all() {
    let text = |content| with(&format!("[limits]\nmemory-octets = 0\ncontent-octets = {content}"));
    let least = (1024 + 256) * 1024;
    assert!(parse(&text(least - 1)).is_err());
    assert_eq!(parse(&text(least)).unwrap().limits.message_octets, 100 << 20);
}

#[test]
fn memory_is_bounded_by_the_limits() {
    // For each client's connection that an answer is longer, and a block; for each to a server, four blocks.
    const BLOCKS: u64 = 3 * (1024 + 256) * 1024 + 2 * 4 * 256 * 1024;
    let text = with("[limits]\nconnections = 3\nmessage-octets = 5\ncontent-octets = 10");
    let uses = parse(&text).unwrap().worst_case_memory();
    assert_eq!(uses.iter().map(|(_, octets)| octets).sum::<u64>(), 10 + 10 + BLOCKS);
    let watches = text.replacen("[limits]", "shadow = true\n[limits]\nshadow-octets = 7", 1);
    let uses = parse(&watches).unwrap().worst_case_memory();
    assert_eq!(uses.iter().map(|(_, octets)| octets).sum::<u64>(), 34 + BLOCKS);
}

#[test]
fn bypass_is_for_those_who_are_listed_or_known() {
    let hears = |rest: &str, origin, authenticated| {
        let config = parse(&with(&format!("[bypass]\n{rest}"))).unwrap();
        config.bypass.hears(origin, authenticated)
    };
    let near = Origin::Address("192.0.2.1".parse().unwrap());
    assert!(!hears("", near, false));
    assert!(hears("", near, true) && hears("", Origin::Unknown, true));
    assert!(!hears("authenticated = false", near, true));
    assert!(hears("clients = [\"192.0.2.0/24\"]", near, false));
    assert!(!hears("clients = [\"192.0.2.0/24\"]", Origin::Unix, false));
}
