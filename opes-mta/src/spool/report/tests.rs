use std::io::{Cursor, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, UNIX_EPOCH};

use super::*;
use crate::spool::{NewEntry, Trace};
use crate::store::Id;

const MESSAGE: &str = "Subject: hi\r\nX: y\r\n\r\nthe body\r\n";

/// What Python's email package makes of it: a line a fact.
const READER: &str = r#"
import email, email.policy, sys
m = email.message_from_bytes(sys.stdin.buffer.read(), policy=email.policy.SMTP)
for name in ("From", "To", "Subject", "Auto-Submitted", "MIME-Version"):
    print(name, m[name])
print("type", m.get_content_type(), m.get_param("report-type"))
text, status, returned = m.iter_parts()
print("defects", [p.defects for p in m.walk() if p.defects])
print("parts", text.get_content_type(), status.get_content_type(), returned.get_content_type())
for number, block in enumerate(status.get_payload()):
    for name, value in block.items():
        print(number, name + ":", value)
print("returned", repr(returned.as_bytes().partition(b"\r\n\r\n")[2]))
"#;

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000 + seconds)
}

fn address(path: &str, parameters: &[&str]) -> Address {
    let parameters = parameters.iter().map(|p| p.as_bytes().to_vec().into()).collect();
    Address::new(path.to_owned()).unwrap().with_parameters(parameters).unwrap()
}

fn entry(sender: Address, recipients: Vec<Address>) -> Entry {
    let id: Id = "1-a".parse().unwrap();
    let trace = Trace {
        system: "http://opes.example/".to_owned(),
        processor: "mta1".to_owned(),
        id: "5f2c.3".to_owned(),
        verdicts: "spam-score=ham (2.1/5.0)".to_owned(),
    };
    let new = NewEntry { trace: Some(trace), ..NewEntry::new(sender, recipients) };
    let mut entry = Entry::new(id, new, None, at(0).into());
    entry.octets = MESSAGE.len() as u64;
    entry
}

fn compose(entry: &Entry, events: &[(usize, Event)]) -> Option<Report> {
    let reporter = Reporter { name: "mta.example".to_owned(), most_returned: 1_000 };
    reporter.compose(entry, &mut Cursor::new(MESSAGE), events, at(60)).unwrap()
}

fn octets(report: &Report) -> Vec<u8> {
    let returned = usize::try_from(report.returned).unwrap();
    [&report.before, &MESSAGE.as_bytes()[..returned], &report.after[..]].concat()
}

/// What Python reads, or `None` without Python.
fn read(report: &Report) -> Option<Vec<String>> {
    let child = Command::new("python3")
        .args(["-c", READER])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn();
    let Ok(mut child) = child else {
        ::tests::not_run("notifications as Python reads them", "there is no python3");
        return None;
    };
    child.stdin.take().unwrap().write_all(&octets(report)).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&octets(report)));
    Some(String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect())
}

fn failed(reply: &str) -> Event {
    Event::Failed { reply: reply.to_owned() }
}

fn delayed(reply: &str) -> Event {
    Event::Delayed { reply: reply.to_owned(), until: at(7_200) }
}

/// OPES-BIND-09
#[test]
fn a_failure_is_reported_with_all_that_is_known() {
    let sender = address("<s@x.example>", &["ENVID=QQ+2B1", "RET=HDRS"]);
    let recipients = vec![
        address("<a@b.example>", &["ORCPT=rfc822;A+2Bx@b.example", "NOTIFY=FAILURE,DELAY"]),
        address("<c@d.example>", &["NOTIFY=NEVER"]),
    ];
    let mut entry = entry(sender, recipients);
    entry.recipients[0].next_hop = Some("relay.example:25".to_owned());
    let long = format!("550-5.1.1 no / 550 5.1.1 {}", "such user ".repeat(9));
    let report = compose(&entry, &[(0, failed(&long)), (1, failed("550 no"))]).unwrap();
    assert_eq!(report.sender, Address::null());
    assert_eq!(report.recipient, address("<s@x.example>", &[]));
    let text = String::from_utf8(report.before.to_vec()).unwrap();
    assert!(text.split_inclusive('\n').all(|line| line.ends_with("\r\n")), "{text}");
    assert!(text.contains("\r\n    http://opes.example/ 5f2c.3\r\n"), "{text}");
    let field = "OPES-System: http://opes.example/ ; processor=mta1 ; session=5f2c.3\r\n";
    assert!(text.starts_with(field), "{text}");
    let Some(lines) = read(&report) else { return };
    let expected = [
        "From Mail Delivery System <postmaster@mta.example>",
        "To s@x.example",
        "Subject Mail could not be delivered",
        "Auto-Submitted auto-replied",
        "MIME-Version 1.0",
        "type multipart/report delivery-status",
        "defects []",
        "parts text/plain message/delivery-status text/rfc822-headers",
        "0 Original-Envelope-Id: QQ+1",
        "0 Reporting-MTA: dns; mta.example",
        "0 Arrival-Date: Fri, 15 Jan 2027 08:00:00 +0000",
        "0 X-OPES-Spool-Id: 1-a",
        "0 X-OPES-System: http://opes.example/ ; processor=mta1 ; session=5f2c.3",
        "0 X-OPES-Verdicts: spam-score=ham (2.1/5.0)",
        "1 Original-Recipient: rfc822; A+x@b.example",
        "1 Final-Recipient: rfc822; a@b.example",
        "1 Action: failed",
        "1 Status: 5.1.1",
        "1 Remote-MTA: dns; relay.example:25",
        &format!("1 Diagnostic-Code: smtp; {}", long.trim_end()),
        "1 Last-Attempt-Date: Fri, 15 Jan 2027 08:01:00 +0000",
        "returned b'Subject: hi\\r\\nX: y\\r\\n\\r\\n'",
    ];
    assert_eq!(lines, expected);
}

#[test]
fn the_whole_message_is_returned_of_failures_only_where_asked_for() {
    let returned = |parameters: &[&str], event| {
        let entry = entry(
            address("<s@x>", parameters),
            vec![address("<a@b>", &["NOTIFY=SUCCESS,FAILURE,DELAY"])],
        );
        let report = compose(&entry, &[(0, event)]).unwrap();
        let text = String::from_utf8(octets(&report)).unwrap();
        (text.contains("Content-Type: message/rfc822\r\n"), text.contains("the body"))
    };
    let relayed = Event::Relayed { reply: "250 ok".to_owned() };
    assert_eq!(returned(&["RET=FULL"], failed("550 no")), (true, true));
    assert_eq!(returned(&["ret=full"], failed("550 no")), (true, true));
    assert_eq!(returned(&["RET=HDRS"], failed("550 no")), (false, false));
    assert_eq!(returned(&[], failed("550 no")), (false, false));
    assert_eq!(returned(&["RET=FULL"], delayed("450 no")), (false, false));
    assert_eq!(returned(&["RET=FULL"], relayed), (false, false));
    let mut large = entry(address("<s@x>", &["RET=FULL"]), vec![address("<a@b>", &[])]);
    large.octets = 1_001;
    assert_eq!(compose(&large, &[(0, failed("550 no"))]).unwrap().returned, 21);
}

#[test]
fn nobody_hears_what_nobody_wants_to() {
    let wants = |notify: &[&str], event: &Event| {
        let entry = entry(address("<s@x>", &[]), vec![address("<a@b>", notify)]);
        compose(&entry, &[(0, event.clone())]).is_some()
    };
    let events =
        [failed("550 no"), delayed("450 no"), Event::Relayed { reply: "250 ok".to_owned() }];
    for (notify, expected) in [
        (&[][..], [true, true, false]),
        (&["NOTIFY=NEVER"], [false; 3]),
        (&["notify=failure"], [true, false, false]),
        (&["NOTIFY=SUCCESS,DELAY"], [false, true, true]),
        (&["NOTIFYING=NEVER"], [true, true, false]),
    ] {
        assert_eq!(events.each_ref().map(|event| wants(notify, event)), expected, "{notify:?}");
    }
    let from_null = entry(Address::null(), vec![address("<a@b>", &["NOTIFY=FAILURE"])]);
    assert!(compose(&from_null, &[(0, failed("550 no"))]).is_none());
    let mut told = entry(address("<s@x>", &[]), vec![address("<a@b>", &[])]);
    assert_eq!(compose(&told, &[(0, delayed("450 no"))]).unwrap().delays, [0]);
    told.recipients[0].delay_reported = true;
    assert!(compose(&told, &[(0, delayed("450 no"))]).is_none());
    assert!(compose(&told, &[(1, failed("nobody has this place"))]).is_none());
}

#[test]
fn a_delay_says_until_when_it_is_tried() {
    let entry = entry(address("<s@x>", &[]), vec![address("<a@b>", &[])]);
    let report = compose(&entry, &[(0, delayed("the next hop does not answer"))]).unwrap();
    let Some(lines) = read(&report) else { return };
    let recipient: Vec<&str> = lines.iter().filter_map(|line| line.strip_prefix("1 ")).collect();
    let expected = [
        "Final-Recipient: rfc822; a@b",
        "Action: delayed",
        "Status: 4.4.7",
        "Diagnostic-Code: x-opes-mta; the next hop does not answer",
        "Last-Attempt-Date: Fri, 15 Jan 2027 08:01:00 +0000",
        "Will-Retry-Until: Fri, 15 Jan 2027 10:00:00 +0000",
    ];
    assert_eq!(recipient, expected);
}

#[test]
fn what_others_wrote_ends_no_line() {
    let hostile = "550 5.1.1 no\r\nBcc: all@x\r\n\r\n\u{202e}--=_";
    let orcpt = ["ORCPT=rfc822;a+0D+0ABcc:+20all@x"];
    let mut entry = entry(address("<s@x>", &["ENVID=+0A"]), vec![address("<a@b>", &orcpt)]);
    entry.trace.as_mut().unwrap().system = "x\r\nBcc: all@x".to_owned();
    let report = compose(&entry, &[(0, failed(hostile))]).unwrap();
    let text = String::from_utf8(octets(&report)).unwrap();
    assert!(!text.contains("\nBcc"), "{text}");
    assert!(text.contains("Original-Envelope-Id: +0A\r\n"), "{text}");
    assert!(text.contains("Original-Recipient: rfc822; a+0D+0ABcc:+20all@x\r\n"), "{text}");
    assert!(
        text.contains("Diagnostic-Code: smtp; 550 5.1.1 no??Bcc: all@x?????--=_\r\n"),
        "{text}"
    );
}

#[test]
fn eight_bits_and_other_scripts_are_asked_for_where_they_are_needed() {
    let reporter = Reporter { name: "mta.example".to_owned(), most_returned: 1_000 };
    let compose = |sender: &Address, recipient: &str, text: &str| {
        let mut entry = entry(sender.clone(), vec![address(recipient, &[])]);
        entry.octets = text.len() as u64;
        let mut message = Cursor::new(text);
        reporter.compose(&entry, &mut message, &[(0, failed("550 no"))], at(60)).unwrap().unwrap()
    };
    let full = address("<s@x>", &["RET=FULL"]);
    let parameters = |report: &Report| report.sender.parameters.clone();
    assert!(parameters(&compose(&full, "<a@b>", "A: b\r\n\r\nc")).is_empty());
    let eight = compose(&full, "<a@b>", "A: b\r\n\r\nä");
    assert_eq!(parameters(&eight), ["BODY=8BITMIME"]);
    let global = compose(&full, "<ä@b>", "A: b\r\n\r\nc");
    assert_eq!(parameters(&global), ["BODY=8BITMIME", "SMTPUTF8"]);
    let text = String::from_utf8(global.before.to_vec()).unwrap();
    assert!(text.contains("Content-Type: message/global-delivery-status\r\n"), "{text}");
    assert!(text.contains("Final-Recipient: utf-8; ä@b\r\n"), "{text}");
}

#[test]
fn the_status_is_that_of_the_reply_if_it_has_one() {
    for (reply, class, expected) in [
        ("550 5.1.1 no", '5', "5.1.1"),
        ("550-5.7.1 no / 550 5.7.1 no", '5', "5.7.1"),
        ("550 no", '5', "5.0.0"),
        ("450 5.1.1 a class of its own", '5', "4.0.0"),
        ("250 2.0.0 ok", '2', "2.0.0"),
        ("550 5.1.1234 no", '5', "5.0.0"),
        ("550 5.1 no", '5', "5.0.0"),
        ("no answer", '5', "4.4.7"),
        ("5.3.3 X-NEW is not offered", '5', "5.3.3"),
        ("3.3.3 is none", '5', "4.4.7"),
        ("öö", '5', "4.4.7"),
        ("", '2', "2.0.0"),
    ] {
        assert_eq!(status(reply, class), expected, "{reply}");
    }
}
