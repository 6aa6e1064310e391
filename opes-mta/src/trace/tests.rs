//! Fields and replies of one pass.

use super::*;

const CAME: &str = "From: a@a.example\r\nOPES-System: https://other.example/ ;\r\n\tsession=1\r\n\
                    Subject: x\r\nReceived: by x\r\n\r\n";
const OURS: &str = "OPES-System: https://opes.example/ ; processor=mx1 ; session=4TxYz\r\n";

fn system(services_in_trace: bool) -> System {
    System {
        uri: "https://opes.example/".to_owned(),
        name: "mx1".to_owned(),
        services_in_trace,
        disclosure: None,
    }
}

fn verdict(service: &'static str, word: &'static str) -> Verdict {
    let (service, verdict) = (service.into(), word.into());
    Verdict { service, verdict, score: None, reason: None, milliseconds: None }
}

/// What a message goes on with, of a header and what services made of it.
fn completed(
    system: &System,
    came: &'static str,
    made: &str,
    bypass: Option<Outcome>,
    verdicts: &[Verdict],
) -> String {
    let mut adapted =
        Adapted { header: vec![made.to_owned().into()], body: crate::event::Body::default() };
    let pass = Pass { system, id: "4TxYz" };
    pass.complete(&mut adapted, &Bytes::from(came), bypass, verdicts);
    String::from_utf8(adapted.header.concat()).unwrap()
}

/// OPES-3897-3.1-01, OPES-3897-3.1-02, OPES-3897-3.1-04, OPES-3897-3.2-04, OPES-4902-3.1-04,
/// OPES-4902-3.1-06, OPES-4236-4-03, OPES-BIND-01, OPES-BIND-02, OPES-BIND-07, OPES-3837-2.2.5-01
#[test]
fn a_pass_has_one_field_whatever_services_do() {
    let system = system(false);
    assert_eq!(Pass { system: &system, id: "4TxYz" }.field(), OURS);
    let shown = format!("{OURS}{CAME}");
    let expected = shown.clone();
    let other = "OPES-System: https://other.example/ ;\r\n\tsession=1\r\n";
    let moved = format!("{OURS}{other}Received: by x\r\nFrom: a@a.example\r\nSubject: x\r\n\r\n");
    let cases = [
        ("nothing", shown.clone(), expected.clone()),
        ("a field on top", format!("X-Spam: no\r\n{shown}"), format!("{OURS}X-Spam: no\r\n{CAME}")),
        ("ours removed", CAME.to_owned(), moved.clone()),
        ("another one's removed", shown.replace(other, ""), moved.clone()),
        ("another one's changed", shown.replace("session=1", "session=2"), moved.clone()),
        ("Received removed", shown.replace("Received: by x\r\n", ""), moved.clone()),
        ("one added", format!("opes-via : x:y\r\n{shown}"), moved.clone()),
        ("ours twice", format!("{OURS}{shown}"), moved),
        (
            "all replaced",
            "Subject: y\r\n\r\n".to_owned(),
            format!("{OURS}{other}Received: by x\r\nSubject: y\r\n\r\n"),
        ),
    ];
    for (case, made, expected) in cases {
        assert_eq!(completed(&system, CAME, &made, None, &[]), expected, "{case}");
    }
}

/// OPES-3897-3-02, OPES-4236-4-05
#[test]
fn each_pass_has_a_field_of_its_own() {
    let once: &'static str = format!("{OURS}Subject: x\r\n\r\n").leak();
    let system = system(false);
    let expected = format!("{OURS}{once}");
    for made in [&expected[..], once, "Subject: x\r\n\r\n"] {
        assert_eq!(completed(&system, once, made, None, &[]), expected);
    }
    let pass = Pass { system: &system, id: "" };
    assert_eq!(pass.earlier(&Bytes::from(once)), 1);
    let others = "OPES-System: https://opes.example/more\r\nX: https://opes.example/\r\n\r\n";
    assert_eq!(pass.earlier(&Bytes::from(others)), 0);
    assert_eq!(pass.earlier(&Bytes::from("OPES-System: https://opes.example/\r\n\r\n")), 1);
}

/// OPES-BIND-15, OPES-BIND-16, OPES-3897-4.2-04
#[test]
fn a_request_goes_on_and_its_outcome_is_told() {
    let came = "OPES-Bypass: *\r\nSubject: x\r\n\r\n";
    let system = system(false);
    for made in [format!("{OURS}{came}"), format!("{OURS}Subject: x\r\n\r\n")] {
        let made = completed(&system, came, &made, Some(Outcome::Partial), &[]);
        let first = "OPES-System: https://opes.example/ ; processor=mx1 ; session=4TxYz\r\n\t\
                     ; bypass=partial\r\n";
        assert_eq!(made, format!("{first}{came}"));
    }
}

/// OPES-3897-3.1-03, OPES-3897-3.4-01, OPES-4236-4-04, OPES-4236-4-06, OPES-4236-4-07,
/// OPES-3836-3.13-07, OPES-BIND-05
#[test]
fn services_are_named_if_configured_or_if_others_are() {
    let verdicts = [verdict("ocp://service/mail-from", "accepted"), verdict("x:y", "clean")];
    let made = |services_in_trace, came: &'static str, verdicts: &[Verdict]| {
        let made = format!("{OURS}{came}");
        completed(&system(services_in_trace), came, &made, None, verdicts)
    };
    let via = "OPES-Via: https://opes.example/, ocp://service/mail-from ; verdict=accepted,\r\n\t\
               x:y ; verdict=clean\r\n";
    let plain = "Subject: x\r\n\r\n";
    assert_eq!(made(true, plain, &verdicts), format!("{via}{OURS}{plain}"));
    assert_eq!(made(false, plain, &verdicts), format!("{OURS}{plain}"));
    assert_eq!(made(true, plain, &[]), format!("{OURS}{plain}"));
    let named = "OPES-Via: z:z\r\nSubject: x\r\n\r\n";
    let bare = "OPES-Via: https://opes.example/\r\n";
    assert_eq!(made(false, named, &[]), format!("{bare}{OURS}{named}"));
}

/// OPES-BIND-03, OPES-BIND-05, OPES-BIND-06, OPES-3897-8.1-01
#[test]
fn what_a_server_says_stays_within_its_field() {
    let long: &'static str = ",".repeat(4_000).leak();
    let evil = verdict("x:a,b;c <\r\nBcc: d>", "v\r\nBcc: d");
    let verdicts: Vec<Verdict> =
        std::iter::once(evil).chain((0..99).map(|_| verdict(long, long))).collect();
    let made = completed(
        &system(true),
        "Subject: x\r\n\r\n",
        &format!("{OURS}Subject: x\r\n\r\n"),
        None,
        &verdicts,
    );
    let (via, rest) = made.split_once(OURS).unwrap();
    assert_eq!(rest, "Subject: x\r\n\r\n");
    let unfolded = via.replace("\r\n\t", " ");
    assert!(unfolded.contains("x:a%2Cb%3Bc%20%3C%0D%0ABcc:%20d%3E ; verdict=v__Bcc__d,"), "{via}");
    for (number, line) in via.split_terminator("\r\n").enumerate() {
        assert!(line.len() <= 998 && (number == 0 || line.starts_with('\t')), "{line}");
    }
    assert!(via.contains("%2C%2C"), "{via}");
    assert_eq!(via.matches("verdict=").count(), MOST_SERVICES);
}

/// OPES-4902-3.1-09, OPES-BIND-10, OPES-BIND-11, OPES-BIND-12
#[test]
fn a_rejection_ends_with_its_trace() {
    let trace = "[opes https://opes.example/ 4TxYz]";
    let long = "x".repeat(490);
    let cases = [
        ("550 5.7.1 no\r\n".to_owned(), format!("550 5.7.1 no {trace}\r\n")),
        ("550 no\r\n".to_owned(), format!("550 no {trace}\r\n")),
        (
            "550-5.7.1 no\r\n550 5.7.1 never\r\n".to_owned(),
            format!("550-5.7.1 no\r\n550 5.7.1 never {trace}\r\n"),
        ),
        (format!("550 5.7.1 {long}\r\n"), format!("550-5.7.1 {long}\r\n550 5.7.1 {trace}\r\n")),
        (format!("451-a\r\n451 {long}\r\n"), format!("451-a\r\n451-{long}\r\n451 {trace}\r\n")),
    ];
    let system = system(false);
    for (reply, expected) in cases {
        let reply = Reply::parse(reply).unwrap();
        let traced = Pass { system: &system, id: "4TxYz" }.reply(&reply);
        assert_eq!(traced.as_bytes(), &expected);
    }
    let odd =
        Pass { system: &system, id: "4T\r\n250 ok" }.reply(&Reply::new(550, "", "no").unwrap());
    assert_eq!(odd.to_string(), "550 no [opes https://opes.example/ 4T__250_ok]");
}

#[test]
fn every_field_of_a_name_is_found_with_its_folds() {
    let header = Bytes::from(
        "OPES-Bypass: one,\r\n\ttwo\r\nX-OPES-Bypass: no\r\nopes-bypass : three\r\nOPES-Bypass:\r\n\r\n",
    );
    let found: Vec<&[u8]> = values(&header, "OPES-Bypass").collect();
    assert_eq!(found, [&b"one,\r\n\ttwo"[..], b"three", b""]);
}
