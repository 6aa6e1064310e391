use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use ocp_proto::smtp::{Auth, DialogFacts, Envelope};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;
use crate::fixtures::{base64, mail, request, spooled, whole, with_attachment};
use crate::setting::documented;

/// A service with a folder, and these settings besides; small files are large for it.
async fn links(folder: &Path, settings: &str) -> Links {
    let links = unstarted(folder, settings);
    links.start().await.unwrap();
    links
}

fn unstarted(folder: &Path, settings: &str) -> Links {
    let large = if settings.contains("larger-than") { "" } else { "larger-than = 1000" };
    let settings = format!(
        "folder = \"{}\"\nlisten = \"127.0.0.1:0\"\nurl = \"https://f.example\"\n{large}\n{settings}",
        folder.display()
    );
    Links::new(Settings::parse(&settings, Path::new("")).unwrap()).unwrap()
}

fn content() -> Vec<u8> {
    (0..200_000u32).map(|n| n.to_le_bytes()[0] ^ n.to_le_bytes()[1]).collect()
}

/// What becomes of a message, and what is promised for it.
async fn linked(links: &Links, mail: &Arc<Mail>) -> (String, Outcome) {
    let outcome = links.handle(&request(mail, &[])).await.unwrap();
    let edited = match &outcome.change {
        Change::Content(edits) => mail.edited(edits).unwrap(),
        change => panic!("{change:?} {:?}", outcome.finding),
    };
    (String::from_utf8(whole(&edited)).unwrap(), outcome)
}

async fn finding(links: &Links, mail: &Arc<Mail>) -> Finding {
    let outcome = links.handle(&request(mail, &[])).await.unwrap();
    assert_eq!(outcome, Outcome::unchanged(outcome.finding.clone()));
    outcome.finding
}

/// The names in the links of a message.
fn names(text: &str) -> Vec<String> {
    let links = text.match_indices("https://f.example/");
    let mut names: Vec<String> =
        links.map(|(at, start)| text[at + start.len()..][..40].to_owned()).collect();
    names.dedup();
    names
}

fn address(links: &Links) -> std::net::SocketAddr {
    links.site.get().unwrap().address()
}

fn count(links: &Links) -> (u64, u64) {
    links.site.get().unwrap().store.size()
}

async fn until(done: impl Fn() -> bool) {
    for _ in 0..30_000 {
        if done() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    panic!("it never was done");
}

/// What a server answers: its header section, and what stands behind it.
async fn asked(links: &Links, request: &str) -> (String, Vec<u8>) {
    let mut stream = TcpStream::connect(address(links)).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    let end = answer.windows(4).position(|octets| octets == b"\r\n\r\n").unwrap();
    let body = answer.split_off(end + 4);
    (String::from_utf8(answer).unwrap(), body)
}

async fn get(links: &Links, path: &str) -> (String, String) {
    let (header, body) = asked(links, &format!("GET {path} HTTP/1.1\r\nHost: f\r\n\r\n")).await;
    (header, String::from_utf8(body).unwrap())
}

async fn post(links: &Links, path: &str, form: &str) -> (String, Vec<u8>) {
    let length = form.len();
    let kind = "Content-Type: application/x-www-form-urlencoded";
    asked(
        links,
        &format!(
            "POST {path} HTTP/1.1\r\nHost: f\r\n{kind}\r\nContent-Length: {length}\r\n\r\n{form}"
        ),
    )
    .await
}

fn status(header: &str) -> &str {
    &header["HTTP/1.1 ".len()..][..3]
}

#[tokio::test]
async fn a_small_part_stands_in_the_place_of_a_large_one() {
    let folder = tempfile::tempdir().unwrap();
    let text = "form = \"text\"\ntext = \"{name} {size} {url} {password} {nothing}\"";
    let links = links(folder.path(), text).await;
    let octets = with_attachment("a & b.bin", &content());
    let (in_memory, in_file) = (mail(octets.clone()), spooled(&mail(octets.clone())));
    for mail in [in_memory, in_file] {
        let (text, outcome) = linked(&links, &mail).await;
        let name = names(&text).remove(0);
        let octets = String::from_utf8(octets.clone()).unwrap();
        let (before, rest) = octets.split_once("--b\r\nContent-Type: application/oct").unwrap();
        let behind = &rest[rest.find("\r\n--b--").unwrap()..];
        let expected = format!(
            "{before}--b\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Disposition: inline\r\n\
             Content-Transfer-Encoding: 7bit\r\n\r\n\
             a & b.bin 200.0 KB https://f.example/{name}  {{nothing}}{behind}"
        );
        assert_eq!(text, expected);
        assert_eq!(outcome.finding, Finding::new("linked").with_reason("1 file, 200.0 KB"));
        assert_eq!((outcome.effects.len(), outcome.notifications.len()), (0, 0));
        let path = folder.path().join(format!("{name}.octets"));
        assert!(std::fs::read(path).unwrap() == content());
    }
}

#[tokio::test]
async fn html_is_escaped_and_has_text_beside_it() {
    let folder = tempfile::tempdir().unwrap();
    let links =
        links(folder.path(), "text = \"T {name} {url}\"\nhtml = \"<a href='{url}'>{name}</a>\"")
            .await;
    let (text, _) = linked(&links, &mail(with_attachment("<x>'.bin", &content()))).await;
    let name = names(&text).remove(0);
    let boundary = &text[text.find("=_").unwrap()..][..34];
    let expected = format!(
        "--b\r\nContent-Type: multipart/alternative; boundary=\"{boundary}\"\r\n\r\n--{boundary}\r\n\
         Content-Type: text/plain; charset=utf-8\r\nContent-Disposition: inline\r\n\
         Content-Transfer-Encoding: 7bit\r\n\r\nT <x>'.bin https://f.example/{name}\r\n--{boundary}\r\n\
         Content-Type: text/html; charset=utf-8\r\nContent-Disposition: inline\r\n\
         Content-Transfer-Encoding: 7bit\r\n\r\n\
         <a href='https://f.example/{name}'>&lt;x&gt;&#39;.bin</a>\r\n--{boundary}--\r\n--b--\r\n"
    );
    assert!(text.ends_with(&expected), "{text}");
}

#[tokio::test]
async fn a_message_that_is_an_attachment_becomes_the_link() {
    let folder = tempfile::tempdir().unwrap();
    let links = links(folder.path(), "form = \"html\"\nhtml = \"\u{e4} {url}\"").await;
    let encoded = base64(&content());
    let octets = format!(
        "From: <a@example.org>\r\nContent-Type: application/pdf; name=x.pdf\r\n\
         Content-Transfer-Encoding: base64\r\nSubject: x\r\n\r\n{encoded}\r\n"
    );
    let (text, _) = linked(&links, &mail(octets)).await;
    let head = "From: <a@example.org>\r\nSubject: x\r\nContent-Type: text/html; charset=utf-8\r\n\
                Content-Disposition: inline\r\nContent-Transfer-Encoding: base64\r\n\r\n";
    let body = text.strip_prefix(head).unwrap_or_else(|| panic!("{text}"));
    let decoded = crate::mail::decode_base64(body.as_bytes(), usize::MAX);
    let name = names(std::str::from_utf8(&decoded).unwrap()).remove(0);
    assert_eq!(decoded, format!("\u{e4} https://f.example/{name}\r\n").as_bytes());
}

#[tokio::test]
async fn what_is_no_large_attachment_stays() {
    let folder = tempfile::tempdir().unwrap();
    let large = base64(&content());
    let part =
        |fields: &str| format!("{fields}\r\nContent-Transfer-Encoding: base64\r\n\r\n{large}");
    let within = |essence: &str, part: &str| {
        mail(format!("Content-Type: {essence}; boundary=b\r\n\r\n--b\r\n{part}\r\n--b--\r\n"))
    };
    let named = part("Content-Type: video/mp4; name=x.MP4");
    let nested = format!(
        "Content-Type: message/rfc822\r\n\r\nContent-Type: multipart/mixed; boundary=c\r\n\r\n\
         --c\r\n{named}\r\n--c--\r\n"
    );
    let barely = "x".repeat(1_000).replace("xxxxxxxxx", "=78xxxxxxxx");
    let barely = format!(
        "Content-Type: a/b; name=x\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n{barely}"
    );
    let alternative = within("multipart/alternative", &named);
    let cases = [
        (within("multipart/mixed", &named), "", true),
        (within("multipart/mixed", &part("Content-Disposition: attachment")), "", true),
        (within("multipart/mixed", &part("Content-Type: text/plain")), "", false),
        (within("multipart/mixed", &nested), "", false),
        (within("multipart/mixed", &barely), "", false),
        (within("multipart/related", &named), "", false),
        (
            within("multipart/related", &format!("Content-Disposition: attachment\r\n{named}")),
            "",
            true,
        ),
        (alternative, "", false),
        (within("multipart/report", &named), "", false),
        (within("multipart/signed", &named), "", false),
        (within("multipart/signed", &named), "signed = \"link\"", true),
        (within("multipart/encrypted", &named), "", false),
        (mail(part("Content-Type: application/pkcs7-mime; name=smime.p7m")), "", false),
        (within("multipart/mixed", &named), "types = [\"video/*\"]", true),
        (within("multipart/mixed", &named), "types = [\"Video/MP4\"]", true),
        (within("multipart/mixed", &named), "types = [\"audio/*\"]", false),
        (within("multipart/mixed", &named), "types = [\"audio/*\"]\nextensions = [\"mp4\"]", true),
        (within("multipart/mixed", &named), "extensions = [\"zip\", \".4\"]", false),
    ];
    for (case, (mail, settings, is_linked)) in cases.into_iter().enumerate() {
        // What is void in one folder may still be on its way out.
        let folder = folder.path().join(case.to_string());
        let links = links(&folder, settings).await;
        let header = String::from_utf8(mail.header().to_vec()).unwrap();
        if is_linked {
            linked(&links, &mail).await;
        } else {
            assert_eq!(
                finding(&links, &mail).await,
                Finding::new("unchanged"),
                "{header}{settings}"
            );
            assert_eq!(count(&links), (0, 0));
        }
    }
}

#[tokio::test]
async fn a_page_shows_what_a_button_fetches() {
    let folder = tempfile::tempdir().unwrap();
    let links = links(folder.path(), "most-downloads = 2\nform = \"text\"\ntext = \"{url}\"").await;
    let (text, outcome) = linked(&links, &mail(with_attachment("<b>\u{fc}.bin", &content()))).await;
    outcome.commitments[0].settle(Settlement::Taken);
    let name = names(&text).remove(0);
    for path in [format!("/{name}"), format!("/some/where/{name}?x=y"), format!("/{name}")] {
        let (header, body) = get(&links, &path).await;
        assert_eq!(status(&header), "200", "{header}");
        assert!(body.contains("&lt;b&gt;\u{fc}.bin</h1><p>200.0 KB, until "), "{body}");
        assert!(
            body.contains("It can be fetched 2 times.") && !body.contains("password"),
            "{body}"
        );
        for field in [
            "content-security-policy: default-src 'none'; style-src 'self'; form-action 'self'; ",
            "x-content-type-options: nosniff\r\n",
            "cache-control: no-store\r\n",
            "referrer-policy: no-referrer\r\n",
            "content-type: text/html; charset=utf-8\r\n",
        ] {
            assert!(header.contains(field), "{field} {header}");
        }
    }
    let (header, body) = asked(&links, &format!("HEAD /{name} HTTP/1.1\r\nHost: f\r\n\r\n")).await;
    assert_eq!((status(&header), body.len()), ("200", 0));
    let (header, _) = asked(&links, &format!("PUT /{name} HTTP/1.1\r\nHost: f\r\n\r\n")).await;
    assert_eq!(status(&header), "405");
    let (header, style) = get(&links, "/links.css").await;
    assert!(header.contains("content-type: text/css") && style.starts_with("body {"), "{header}");
    for _ in 0..2 {
        let (header, body) = post(&links, &format!("/{name}"), "").await;
        assert_eq!(status(&header), "200", "{header}");
        assert!(body == content());
        for field in [
            "content-type: application/octet-stream\r\n",
            "content-length: 200000\r\n",
            "content-disposition: attachment; filename=\"_b__.bin\"; filename*=UTF-8''%3Cb%3E%C3%BC.bin\r\n",
            "content-security-policy: default-src 'none'; sandbox\r\n",
            "x-content-type-options: nosniff\r\n",
            "cache-control: no-store\r\n",
        ] {
            assert!(header.contains(field), "{field} {header}");
        }
    }
    for path in
        [format!("/{name}"), "/".to_owned(), format!("/{}", "0".repeat(40)), "/..%2f".to_owned()]
    {
        let (header, body) = get(&links, &path).await;
        assert_eq!(status(&header), "404", "{path}");
        assert!(body.contains("There is no such file"), "{body}");
        assert_eq!(status(&post(&links, &path, "").await.0), "404");
    }
    let values: Vec<_> =
        links.measures().iter().map(|measure| (measure.name, measure.value)).collect();
    let expected = [
        ("links_files", 1),
        ("links_octets", 200_000),
        ("links_downloads", 2),
        ("links_refused_passwords", 0),
    ];
    assert_eq!(values, expected);
}

#[tokio::test]
async fn a_file_stays_if_its_message_does_and_somebody_who_sees_it_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let links = links(folder.path(), "form = \"text\"").await;
    let message = mail(with_attachment("a.bin", &content()));
    let is_confirmed = |name: &str| {
        let record = links.site.get().unwrap().find(Name::parse(name).unwrap());
        record.map(|record| record.is_confirmed)
    };
    let (text, outcome) = linked(&links, &message).await;
    let name = names(&text).remove(0);
    assert_eq!(is_confirmed(&name), Some(false));
    outcome.commitments[0].settle(Settlement::Taken);
    until(|| is_confirmed(&name) == Some(true)).await;
    drop(outcome);
    for void in [true, false] {
        let (text, outcome) = linked(&links, &message).await;
        let name = names(&text).remove(0);
        if void {
            outcome.commitments[0].settle(Settlement::Void);
        }
        drop(outcome);
        until(|| is_confirmed(&name).is_none()).await;
        until(|| std::fs::read_dir(folder.path()).unwrap().count() == 3).await;
        assert_eq!(count(&links), (1, 200_000));
    }
    let (text, outcome) = linked(&links, &message).await;
    outcome.commitments[0].settle(Settlement::Unknown);
    drop(outcome);
    let name = names(&text).remove(0);
    assert_eq!(is_confirmed(&name), Some(false));
    get(&links, &format!("/{name}")).await;
    assert_eq!(is_confirmed(&name), Some(true));
}

#[tokio::test]
async fn a_full_store_leaves_attachments_where_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let links = links(folder.path(), "quota = 250000").await;
    let one = mail(with_attachment("a.bin", &content()));
    let (_, kept) = linked(&links, &one).await;
    assert_eq!(finding(&links, &one).await, left("the store is full"));
    assert_eq!(links.condition().as_deref(), Some("attachments stay: the store is full"));
    assert_eq!(count(&links), (1, 200_000));
    drop(kept);
    until(|| count(&links) == (0, 0)).await;
    linked(&links, &one).await;
    assert_eq!(links.condition(), None);
    // Of a message with more than there is room for nothing is stored.
    until(|| count(&links) == (0, 0)).await;
    let part = format!(
        "Content-Type: a/b; name=x\r\nContent-Transfer-Encoding: base64\r\n\r\n{}",
        base64(&content())
    );
    let two = mail(format!(
        "Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n{part}\r\n--b\r\n{part}\r\n--b--\r\n"
    ));
    assert_eq!(finding(&links, &two).await, left("the store is full"));
    until(|| count(&links) == (0, 0)).await;
}

#[tokio::test]
async fn a_password_stands_in_the_notice_and_opens_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let settings = "form = \"text\"\npassword = \"in-notice\"\ntext = \"{url} P{password}P\"";
    let links = links(folder.path(), settings).await;
    let (text, _outcome) = linked(&links, &mail(with_attachment("a.bin", &content()))).await;
    let path = format!("/{}", names(&text)[0]);
    let password = text.split(" P").nth(1).unwrap().split('P').next().unwrap();
    assert_eq!(password.len(), 16);
    let record =
        std::fs::read_to_string(folder.path().join(format!("{}.json", &path[1..]))).unwrap();
    assert!(record.contains("$argon2id$") && !record.contains(password), "{record}");
    let (_, body) = get(&links, &path).await;
    assert!(body.contains("type=\"password\""), "{body}");
    for wrong in ["", "password=", "password=x", "other=x"] {
        let (header, body) = post(&links, &path, wrong).await;
        assert_eq!(status(&header), "403", "{wrong}");
        assert!(String::from_utf8(body).unwrap().contains("This is not the password of the file."));
    }
    let (header, body) = post(&links, &path, &format!("password={password}")).await;
    assert_eq!(status(&header), "200", "{header}");
    assert!(body == content());
    let refused = links.measures().last().unwrap().value;
    // Forms without a password are no tries.
    assert_eq!(refused, 2);
}

#[tokio::test]
async fn the_sender_is_told_the_password_if_that_is_who_has_authenticated() {
    let folder = tempfile::tempdir().unwrap();
    let settings = "form = \"text\"\npassword = \"to-sender\"\nfrom = \"files@f.example\"";
    let links = links(folder.path(), settings).await;
    assert!(links.declaration().notifies);
    let message = mail(with_attachment("a.bin", &content()));
    let address = |path: &'static str| Address::new(path).unwrap();
    let auth = || Some(Auth { mechanism: "PLAIN".into(), identity: "ann".into() });
    let asked = |auth: Option<Auth>, may_notify, sender| Request {
        dialog: Arc::new(DialogFacts { auth, ..DialogFacts::default() }),
        envelope: Envelope {
            sender: Some(sender),
            recipients: vec![address("<b@b.example>"), address("<c@c.example>")],
        },
        may_notify,
        ..request(&message, &[])
    };
    for request in [
        asked(None, true, address("<a@a.example>")),
        asked(auth(), false, address("<a@a.example>")),
        asked(auth(), true, Address::null()),
    ] {
        let outcome = links.handle(&request).await.unwrap();
        assert_eq!(outcome, Outcome::unchanged(left("the sender can't be told a password")));
    }
    assert_eq!(count(&links), (0, 0));
    let outcome = links.handle(&asked(auth(), true, address("<a@a.example>"))).await.unwrap();
    let [told] = &outcome.notifications[..] else { panic!("{outcome:?}") };
    assert_eq!(told.recipients(), [address("<a@a.example>")]);
    assert!(told.sender().is_null());
    let text = String::from_utf8(told.body().to_vec()).unwrap();
    let password = text.split("Password: ").nth(1).unwrap().split("\r\n").next().unwrap();
    assert_eq!(password.len(), 16);
    assert!(
        text.contains("To: <b@b.example> <c@c.example>\r\nSubject: none\r\nFiles: a.bin\r\n"),
        "{text}"
    );
    let Change::Content(edits) = &outcome.change else { panic!("{outcome:?}") };
    let text = String::from_utf8(whole(&message.edited(edits).unwrap())).unwrap();
    assert!(!text.contains(password), "{text}");
    let path = format!("/{}", names(&text)[0]);
    let (header, _) = post(&links, &path, &format!("password={password}")).await;
    assert_eq!(status(&header), "200", "{header}");
}

#[tokio::test]
async fn another_configuration_goes_on_with_the_listener_and_the_files() {
    let folder = tempfile::tempdir().unwrap();
    let one = links(folder.path(), "form = \"text\"").await;
    let other = links(folder.path(), "form = \"text\"\ndays = 1").await;
    assert!(Arc::ptr_eq(one.site.get().unwrap(), other.site.get().unwrap()));
    let (text, _outcome) = linked(&one, &mail(with_attachment("a.bin", &content()))).await;
    drop(one);
    let (header, _) = get(&other, &format!("/{}", names(&text)[0])).await;
    assert_eq!(status(&header), "200");
    // A folder has one owner.
    let settings = format!("listen = \"{}\"", address(&other));
    let taken = Links::new(
        Settings::parse(
            &format!(
                "folder = \"{}\"\nurl = \"https://f.example\"\n{settings}",
                folder.path().display()
            ),
            Path::new(""),
        )
        .unwrap(),
    );
    let error = taken.unwrap().start().await.unwrap_err();
    let expected = format!(
        "{} can't be used: it is used already, by another process or under another address",
        folder.path().display()
    );
    assert_eq!((error.stage, error.cause), ("start", expected));
}

#[tokio::test]
async fn a_service_that_did_not_start_fails() {
    let folder = tempfile::tempdir().unwrap();
    let links = unstarted(folder.path(), "");
    let large = mail(with_attachment("a.bin", &content()));
    let error = links.handle(&request(&large, &[])).await.unwrap_err();
    assert_eq!(error, ServiceError::new("start", "the store was not opened; the log says why"));
    let small = mail(Bytes::from_static(b"Subject: x\r\n\r\nhello\r\n"));
    assert_eq!(finding(&links, &small).await, Finding::new("unchanged"));
}

#[test]
fn settings_are_checked() {
    let base = "folder = \"x\"\nlisten = \"127.0.0.1:1\"\nurl = \"https://f.example\"\n";
    for (settings, expected) in [
        ("", "links needs a folder"),
        ("folder = \"x\"", "links needs an address in listen"),
        (
            "folder = \"x\"\nlisten = \"127.0.0.1:1\"",
            "links needs the url that its links begin with",
        ),
        (
            "folder = \"x\"\nlisten = \"h\"\nurl = \"https://f\"",
            "\"h\" is no address such as 127.0.0.1:8037",
        ),
        (
            "folder = \"x\"\nlisten = \"127.0.0.1:1\"\nurl = \"http://f\"",
            "\"http://f\" is no URL such as https://files.example.org/",
        ),
        (
            "folder = \"x\"\nlisten = \"127.0.0.1:1\"\nurl = \"https://f/{x}\"",
            "\"https://f/{x}\" is no URL such as https://files.example.org/",
        ),
        ("+days = 0", "1 to 3650 days"),
        ("+unconfirmed-hours = 0", "1 to 87600 hours"),
        ("+stores = 0", "1 to 64 messages at the same time"),
        ("+most-downloads = 0", "a file can be fetched at least once"),
        ("+types = [\"x\"]", "\"x\" is no type such as application/zip or video/*"),
        ("+extensions = [\".\"]", "an extension is not empty"),
        ("+text = \"x\"", "{url} stands nowhere in this template"),
        (
            "+password = \"in-notice\"\nhtml = \"{url}\"",
            "{password} stands nowhere in this template",
        ),
        ("+password = \"to-sender\"", "to-sender needs an address in from"),
        ("+from = \"a@b\"", "from belongs to password = \"to-sender\""),
        (
            "+password = \"to-sender\"\nfrom = \"x\"",
            "\"x\" is no address such as files@example.org",
        ),
    ] {
        let settings = settings.replace('+', base);
        let error = Links::new(Settings::parse(&settings, Path::new("")).unwrap()).err().unwrap();
        assert_eq!(error.message, expected);
    }
}

#[test]
fn the_documented_settings_are_valid() {
    let settings = documented(include_str!("mod.rs"));
    let links = Links::new(Settings::parse(&settings, Path::new("/base")).unwrap()).unwrap();
    assert_eq!(links.settings.url, "https://files.example.org/");
    assert_eq!(
        (links.settings.types[0].as_str(), links.settings.extensions[0].as_str()),
        ("video/", ".zip")
    );
    let note = "files in /var/lib/callout-server/links are served at 127.0.0.1:8037, for a web server at \
                https://files.example.org/";
    assert_eq!(links.notes(), [note]);
    assert!(links.worst_case_memory() > store::WORST_CASE);
}

/// A place is not for ever: a client that takes nothing loses it. Time passes as soon as nobody has anything to do.
#[tokio::test(start_paused = true)]
async fn a_client_that_takes_nothing_is_left_alone() {
    const LARGE: u64 = 64 * 1024 * 1024;
    let folder = tempfile::tempdir().unwrap();
    let links = links(folder.path(), "form = \"text\"").await;
    let site = links.site.get().unwrap();
    let record = Record {
        version: store::VERSION,
        file_name: "large".to_owned(),
        octets: LARGE,
        until: u64::MAX,
        unconfirmed_until: u64::MAX,
        is_confirmed: true,
        password: None,
        downloads: 0,
        most_downloads: None,
    };
    let mut content = io::Read::take(io::repeat(b'x'), LARGE);
    let name = site.store.write(&mut content, u64::MAX).unwrap().keep(record).unwrap();
    let request = format!("POST /{name} HTTP/1.1\r\nHost: f\r\nContent-Length: 0\r\n\r\n");
    let mut stream = TcpStream::connect(address(&links)).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    tokio::time::sleep(Duration::from_secs(3_600)).await;
    let mut answer = Vec::new();
    // More than the sockets hold does not come.
    let _ = stream.read_to_end(&mut answer).await;
    assert!(answer.starts_with(b"HTTP/1.1 200 OK\r\n"));
    assert!((answer.len() as u64) < LARGE, "{}", answer.len());
    // One that takes what comes gets all. While octets are on their way, nobody has anything to do either.
    tokio::time::resume();
    let (_, body) = asked(&links, &request).await;
    assert_eq!(body.len() as u64, LARGE);
}

/// Whatever a message is, its parts are taken out or stay, and each octet outside of them stays.
#[tokio::test]
async fn any_message_keeps_the_octets_around_its_attachments() {
    let folder = tempfile::tempdir().unwrap();
    let settings = "form = \"text\"\ntext = \"{url}\"\nsigned = \"link\"\nlarger-than = 0";
    let links = links(folder.path(), settings).await;
    let corpus = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/corpus/mail"));
    let mut folders = vec![corpus.to_owned()];
    let shared = crate::fixtures::shared("testdata");
    let least = if shared.is_some() { 10 } else { 1 };
    folders.extend(shared);
    let mut changed = 0;
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let mail = mail(std::fs::read(&path).unwrap());
            let outcome = links.handle(&request(&mail, &[])).await.unwrap();
            let Change::Content(edits) = &outcome.change else { continue };
            changed += 1;
            mail.edited(edits).unwrap();
            let chosen = choice::chosen(mail.parts().unwrap(), &links.settings);
            for edit in edits.iter() {
                let is_part = chosen.iter().any(|part| part.whole == edit.range);
                // Of the message itself the fields that describe it, and the body.
                assert!(is_part || chosen[0].parent.is_none(), "{} {edit:?}", path.display());
            }
        }
    }
    assert!(changed > least, "{changed}");
}
