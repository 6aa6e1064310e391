use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::mail::header_length;

fn mail(text: &str) -> Mail {
    let octets = Bytes::from(text.to_owned());
    let header = header_length(&octets);
    Mail::new(octets.slice(..header), octets.slice(header..))
}

/// What else there is: where, what is odd, type and content.
fn others(text: &str) -> Vec<(usize, &'static str, String, String)> {
    let mail = mail(text);
    let others = mail.other_parts().unwrap().iter().map(|OtherPart { part, oddity }| {
        assert_eq!(part.kind, PartKind::Leaf);
        let body = mail.octets(part.body.clone()).read(0..part.body.len()).unwrap();
        let body = String::from_utf8(body.to_vec()).unwrap();
        (part.parent.unwrap(), *oddity, part.content_type.essence.clone(), body)
    });
    let others = others.collect();
    assert_eq!(mail.others_are_truncated().unwrap(), None);
    others
}

/// Another part like this one is there, with nothing but these octets.
fn hidden(text: &str, parent: usize, oddity: &str, essence: &str, body: &str) {
    let others = others(text);
    let found = others.iter().any(|(found_parent, found_oddity, found_essence, found_body)| {
        (*found_parent, *found_oddity, &found_essence[..], &found_body[..])
            == (parent, oddity, essence, body)
    });
    assert!(found, "{text:?}: {others:?}");
}

const EVIL: &str = "Content-Type: x/evil\r\n\r\nevil";

#[test]
fn a_message_as_the_rules_say_has_one_reading() {
    let inner = "Content-Type: multipart/alternative; boundary*=us-ascii''inner%20b\r\n\r\n\
        --inner b\r\n\r\ntext\r\n--inner b\r\nContent-Type: text/html\r\n\r\nhtml\r\n--inner b--\r\n\r\n";
    let text = format!(
        "Subject: x\r\n folded\r\nContent-Type: multipart/mixed;\r\n\tboundary=\"outer\"\r\n\r\n\
         --outer\r\n{inner}\r\n--outer\r\nContent-Type: message/rfc822\r\n\r\nSubject: y\r\n\r\nbody\r\n\
         --outer\r\nContent-Type: multipart/digest; boundary=d\r\n\r\n--d\r\n\r\nSubject: z\r\n\r\nz\r\n\
         --d--\r\n--outer--\r\n\r\n"
    );
    assert_eq!(others(&text), []);
    assert_eq!(others(&text.replace("\r\n", "\n")), []);
    assert_eq!(others("From x@y Mon\nSubject: x\n\n--text\n"), []);
}

#[test]
fn of_two_boundaries_both_count() {
    for field in [
        "multipart/mixed; boundary=a; boundary=b",
        "multipart/mixed; boundary=\"a\"; Boundary = b",
        "multipart/mixed; boundary=a; boundary*0=b",
        "multipart/mixed; boundary=a; boundary*=us-ascii''%62",
        "multipart/mixed; boundary=a; x=\"; boundary=b\"",
        "multipart/mixed; boundary=a; boundary=\" b\"",
        "multipart/mixed; boundary=a; boundary(x)=(y)b",
    ] {
        let text = format!(
            "Content-Type: {field}\r\n\r\n--a\r\n\r\ngood\r\n--b\r\n{EVIL}\r\n--b--\r\n--a--\r\n"
        );
        let oddity = "a boundary that can be read in several ways";
        hidden(&text, 1, oddity, "x/evil", "evil");
    }
    let text = format!(
        "Content-Type: multipart/mixed; boundary=a\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n\
         --a\r\n\r\ngood\r\n--a--\r\n--b\r\n{EVIL}\r\n--b--\r\n"
    );
    hidden(&text, 0, "more than one Content-Type field", "x/evil", "evil");
}

#[test]
fn of_two_types_both_count() {
    let types = |first: &str, second: &str, body: &str| {
        format!("Content-Type: {first}\r\nContent-Type: {second}\r\n\r\n{body}")
    };
    let oddity = "more than one Content-Type field";
    let multipart = format!("--b\r\n{EVIL}\r\n--b--\r\n");
    let text = types("text/plain", "multipart/mixed; boundary=b", &multipart);
    hidden(&text, 0, oddity, "x/evil", "evil");
    let text = types("multipart/mixed; boundary=b", "text/html", &multipart);
    hidden(&text, 0, oddity, "text/html", &multipart);
    hidden(&types("text/plain", "message/rfc822", EVIL), 0, oddity, "x/evil", "evil");
    for field in [
        "multipart/mixed boundary=b",
        "(x) multipart/mixed; boundary=b",
        "\"multipart/mixed\"; boundary=b",
    ] {
        let text = format!("Content-Type: {field}\r\n\r\n{multipart}");
        let mail = mail(&text);
        let parts = mail.parts().unwrap().iter();
        let parts = parts.chain(mail.other_parts().unwrap().iter().map(|other| &other.part));
        let essences: Vec<_> = parts.map(|part| &part.content_type.essence[..]).collect();
        assert!(essences.contains(&"x/evil"), "{field}: {essences:?}");
    }
}

#[test]
fn a_multipart_without_a_boundary_is_divided_all_the_same() {
    let text = format!("Content-Type: multipart/mixed\r\n\r\nhi\r\n--b \r\n{EVIL}\r\n--b--\r\n");
    hidden(&text, 0, "a multipart without a boundary", "x/evil", "evil");
}

#[test]
fn a_header_section_may_end_elsewhere() {
    let multipart = "Content-Type: multipart/mixed; boundary=b";
    let text = format!("A: x\r{multipart}\r\n\r\n--b\r\n{EVIL}\r\n--b--\r\n");
    hidden(&text, 0, "a bare CR in a header section", "x/evil", "evil");
    let text = format!("A: x\n\nB: y\r\n{multipart}\r\n\r\n--b\r\n{EVIL}\r\n--b--\r\n");
    hidden(&text, 0, "a bare LF in a header section", "x/evil", "evil");
    let text = format!("{multipart}\r\n\t \r\n--b\r\n{EVIL}\r\n--b--\r\n");
    hidden(&text, 0, "a line of blanks in a header section", "x/evil", "evil");
    let text = format!("{multipart}\r\nno field\r\n--b\r\n{EVIL}\r\n--b--\r\n");
    hidden(&text, 0, "a line that is no field in a header section", "x/evil", "evil");
    let text = format!("{multipart}\r\n\r\n--b\r\njust text\r\nmore\r\n--b--\r\n");
    let oddity = "a line that is no field in a header section";
    hidden(&text, 1, oddity, "text/plain", "just text\r\nmore");
}

#[test]
fn what_a_header_section_says_of_the_same_body_counts() {
    let mail = mail("Subject: x\rContent-Disposition: attachment; filename=a.exe\r\n\r\nbody\r\n");
    assert_eq!(mail.parts().unwrap()[0].names, [""; 0]);
    let [OtherPart { part, .. }] = mail.other_parts().unwrap() else { panic!() };
    assert_eq!((part.names.as_slice(), &part.body), (&["a.exe".to_owned()][..], &(62..68)));
    let same = self::mail("Subject: x\ry\r\n\r\nbody\r\n");
    assert_eq!(same.other_parts().unwrap(), []);
}

#[test]
fn delimiters_that_not_every_client_sees_count() {
    let header = "Content-Type: multipart/mixed; boundary=b\r\n\r\n";
    let oddity = "a delimiter that not every client sees";
    for hidden_part in
        [format!("--bc\r\n{EVIL}"), format!("--b -- x\r\n{EVIL}"), format!("x\r--b\r\n{EVIL}")]
    {
        let text = format!("{header}--b\r\n\r\ngood\r\n{hidden_part}\r\n--b--\r\n");
        hidden(&text, 1, oddity, "x/evil", "evil");
    }
    let text = format!("{header}--b\r\n\r\ngood\r--b\rContent-Type: x/evil\r\revil\r--b--\r\r\n");
    hidden(&text, 1, "a bare CR in a header section", "x/evil", "evil");
}

#[test]
fn what_is_outside_of_the_parts_counts() {
    let header = "Content-Type: multipart/mixed; boundary=b\r\n\r\n";
    let text = format!("{header}before\r\n--b\r\n\r\ngood\r\n--b--\r\nbehind\r\n");
    hidden(&text, 0, "text before the first part", "text/plain", "before");
    hidden(&text, 0, "text behind the last part", "text/plain", "behind\r\n");
    let text = format!("{header}--b--\r\n\r\n--b\r\n{EVIL}\r\n--b--\r\n");
    hidden(&text, 0, "parts behind the last delimiter", "x/evil", "evil");
    let text = format!("{header}nothing else\r\n");
    hidden(&text, 0, "a multipart without parts", "text/plain", "nothing else\r\n");
}

#[test]
fn a_multipart_that_is_encoded_is_a_leaf_for_some() {
    let text = "Content-Type: multipart/mixed; boundary=b\r\nContent-Transfer-Encoding: base64\r\n\r\nLS1i";
    hidden(text, 0, "an encoded multipart", "multipart/mixed", "LS1i");
}

#[test]
fn readings_are_bounded() {
    let truncated = |text: &str| mail(text).others_are_truncated().unwrap();
    let many: String = (0..17).map(|n| format!("; boundary=b{n}")).collect();
    let text = format!("Content-Type: multipart/mixed{many}\n\n--b\n\nx\n");
    assert_eq!(truncated(&text), Some("more than 16 boundaries for a part"));
    let text = format!("{}\n\nx", ["Content-Type: a/b"; 9].join("\n"));
    assert_eq!(truncated(&text), Some("more than 8 Content-Type fields"));
    // Each part begins in two ways, and each of them has sixteen boundaries.
    let many: String = (0..16).map(|n| format!("; boundary={n:x}")).collect();
    let level: String =
        (0..16).map(|n| format!("--{n:x}\nContent-Type: multipart/mixed{many}\n\n")).collect();
    let text = format!("Content-Type: multipart/mixed{many}\n\n{}", level.repeat(200));
    let bounds = ["too many ways to read it", "parts nested more than 64 deep"];
    assert!(truncated(&text).is_some_and(|found| bounds.contains(&found)));
}

proptest! {
    #[test]
    fn other_parts_lie_within(pieces in proptest::collection::vec(prop_oneof![
        Just("Content-Type: multipart/mixed; boundary=b; boundary=c\n"), Just("\n"), Just("\r\n"), Just("--b\n"),
        Just("--b--\n"), Just("--c\r\n"), Just("Content-Type: multipart/x; boundary=\"c\"\r\n"), Just("\r"),
        Just("Content-Type: message/rfc822\n"), Just("text"), Just("\0\r"), Just("--b \t-- \n"), Just("--bb\r"),
        Just("Content-Transfer-Encoding: base64\n"), Just(" \n"), Just("Content-Type: multipart/mixed\n"),
    ], 0..40), window in 1usize..40) {
        let mail = mail(&pieces.concat());
        for OtherPart { part, .. } in mail.other_parts().unwrap() {
            prop_assert!(part.header.start == part.whole.start && part.body.end == part.whole.end);
            prop_assert!(part.header.end == part.body.start && part.body.end <= mail.len());
            let parent = &mail.parts().unwrap()[part.parent.unwrap()];
            prop_assert!(parent.whole.start <= part.whole.start && part.whole.end <= parent.whole.end);
        }
        let stored = Mail::new(mail.header().clone(), mail.body().clone().in_windows(window));
        prop_assert_eq!(stored.other_parts().unwrap(), mail.other_parts().unwrap());
    }
}
