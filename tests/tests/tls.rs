//! TLS, client certificates and access rules with the real programs.

#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing)]

use std::path::{Path, PathBuf};

use tempfile::{TempDir, tempdir};
use tests::certificates::Authority;
use tests::{Adapted, CalloutServer, adapt, fixtures, program, text};

const CONFIG: &str = "
[tls]
certificate = \"server.pem\"
key = \"server.key\"
client-ca = \"ca.pem\"
client-certificates = \"optional\"

[[access]]
name = \"mail servers\"
certificates = [\"*.example.net\"]
services = [\"log\"]

[[access]]
clients = [\"unix\"]

[log]
level = \"info,callout_server=debug\"
";

fn start() -> (TempDir, Authority, CalloutServer) {
    let folder = tempdir().unwrap();
    let authority = Authority::new(folder.path(), "ca");
    authority.sign("server", &["127.0.0.1"]);
    authority.sign("mta", &["mta.example.net"]);
    authority.sign("foreign", &["mta.example.org"]);
    let server = CalloutServer::start(folder.path(), CONFIG, &["tls:127.0.0.1:0".to_owned()]);
    (folder, authority, server)
}

/// What `adapt` needs to trust the server, and to be known.
fn options(folder: &Path, certificate: &str, service: &str) -> Vec<PathBuf> {
    let file = |name: &str| folder.join(name);
    vec![
        "--services".into(),
        service.into(),
        "--tls-ca".into(),
        file("ca.pem"),
        "--tls-certificate".into(),
        file(&format!("{certificate}.pem")),
        "--tls-key".into(),
        file(&format!("{certificate}.key")),
    ]
}

fn adapt_as(server: &str, folder: &Path, certificate: &str, service: &str) -> Adapted {
    let mut arguments = options(folder, certificate, service);
    arguments.push(fixtures().join("plain.eml"));
    adapt(server, arguments)
}

#[test]
fn a_certificate_opens_what_its_rule_allows() {
    let (folder, _authority, mut server) = start();
    let [plain, tls] = server.addresses.clone().try_into().unwrap();
    for address in [&tls, &plain] {
        let adapted = adapt_as(address, folder.path(), "mta", "log");
        assert_eq!(adapted.code, Some(0), "{}", adapted.stderr);
        assert_eq!(adapted.only()["decision"], "accept");
        let line = server.wait_for("disconnected");
        let span = &line["span"];
        assert_eq!(
            (text(span, "certificate"), text(span, "rule")),
            ("mta.example.net".to_owned(), "mail servers".to_owned()),
            "{line}"
        );
        let adapted = adapt_as(address, folder.path(), "mta", "log,virus-scan");
        assert!(adapted.stderr.contains("it declines the services"), "{}", adapted.stderr);
        let adapted = adapt_as(address, folder.path(), "foreign", "log");
        assert!(adapted.stderr.contains("access denied"), "{}", adapted.stderr);
    }
    // In plain text there is nothing to be had.
    let adapted = adapt(&plain, [fixtures().join("plain.eml")]);
    assert_eq!((adapted.code, adapted.reports.len()), (Some(1), 0));
    assert!(adapted.stderr.contains("TLS has to be negotiated first"), "{}", adapted.stderr);
    let stranger = tempdir().unwrap();
    let _stranger = Authority::new(stranger.path(), "stranger");
    let ca = stranger.path().join("stranger.pem");
    let adapted = adapt(&tls, [Path::new("--tls-ca"), &ca, &fixtures().join("plain.eml")]);
    assert!(adapted.stderr.contains("UnknownIssuer"), "{}", adapted.stderr);
}

/// SIGHUP: new certificates for new connections, nothing new from broken files.
#[test]
fn certificates_are_read_again() {
    let (folder, _authority, mut server) = start();
    let tls = server.addresses[1].clone();
    let broken = "the old configuration stays in use";
    let certificate = folder.path().join("server.pem");
    let old = std::fs::read(&certificate).unwrap();
    std::fs::write(&certificate, "-----BEGIN CERTIFICATE-----\nnonsense").unwrap();
    server.reload();
    let line = server.wait_for(broken);
    assert_eq!(line["level"], "ERROR");
    assert!(text(&line, "error").contains("server.pem"), "{line}");
    assert_eq!(adapt_as(&tls, folder.path(), "mta", "log").code, Some(0));

    std::fs::write(&certificate, old).unwrap();
    let next = tempdir().unwrap();
    let authority = Authority::new(next.path(), "next");
    authority.sign("server", &["127.0.0.1"]);
    authority.sign("mta", &["mta.example.net"]);
    std::fs::rename(next.path().join("next.pem"), next.path().join("ca.pem")).unwrap();
    for name in ["server.pem", "server.key", "ca.pem"] {
        std::fs::copy(next.path().join(name), folder.path().join(name)).unwrap();
    }
    server.reload();
    server.wait_for_any("the configuration is in use");
    let adapted = adapt_as(&tls, next.path(), "mta", "log");
    assert_eq!(adapted.code, Some(0), "{}", adapted.stderr);
    // Those of the old authority are strangers now.
    let mut arguments = options(next.path(), "mta", "log");
    for (option, name) in [(5, "mta.pem"), (7, "mta.key")] {
        arguments[option] = folder.path().join(name);
    }
    arguments.push(fixtures().join("plain.eml"));
    let adapted = adapt(&tls, arguments);
    assert_eq!(adapted.code, Some(1));
    assert!(adapted.stderr.contains("UnknownCA"), "{}", adapted.stderr);
}

#[test]
fn what_is_missing_is_said() {
    let (folder, _authority, _server) = start();
    let run = |name: &str, arguments: &[&str]| {
        let output = program(name).args(arguments).output().unwrap();
        let text = |octets: &[u8]| String::from_utf8_lossy(octets).into_owned();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    let (code, _, error) = run("callout-server", &["serve", "--listen", "tls:127.0.0.1:0"]);
    assert_eq!(code, Some(1));
    assert!(error.contains("tls:127.0.0.1:0 needs a certificate"), "{error}");

    let file = folder.path().join("callout-server.toml");
    let (code, said, _) = run("callout-server", &["check", file.to_str().unwrap()]);
    assert_eq!(code, Some(0));
    for line in [
        "client certificates optional, signed by ",
        "may be negotiated",
        "access mail servers: certificates *.example.net: services log; effects all",
        "access #2: clients unix: services all; effects all",
        "access: everybody else is denied",
    ] {
        assert!(said.contains(line), "{line}: {said}");
    }
    std::fs::write(folder.path().join("server.key"), "").unwrap();
    let (code, _, error) = run("callout-server", &["check", file.to_str().unwrap()]);
    assert_eq!(code, Some(1));
    assert!(error.contains("callout-server.toml:4:7") && error.contains("private key"), "{error}");

    let mail = fixtures().join("plain.eml");
    for options in [["--tls", "required"], ["--server", "tls:127.0.0.1:1"]] {
        let arguments = ["adapt", options[0], options[1], mail.to_str().unwrap()];
        let (code, _, error) = run("opes-mta", &arguments);
        assert_eq!(code, Some(1));
        assert!(error.contains("TLS needs --tls-ca FILE"), "{error}");
    }
}
