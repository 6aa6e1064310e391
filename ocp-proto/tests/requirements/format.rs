//! The message format (RFC 4037 sections 3, 9.1 and 10), beyond the vectors of `tests/vectors.rs`.

use std::time::Instant;

use ocp_proto::Event;

use crate::support::{OPEN, answer, feed, is_ce400, is_te400, processor_answer, server};

/// OCP-2.8-01
#[test]
fn fragmentation_changes_nothing() {
    let text = format!("{OPEN}DUM 1 0\r\n5:hello\r\n;\r\nPQ 1;\r\nAME 1;\r\nPQ 1;\r\n");
    let (_, whole) = server(&text);
    let (mut slow, mut sent) = server("");
    for octet in text.as_bytes() {
        sent.push_str(&feed(&mut slow, &[*octet], Instant::now()).1);
    }
    assert_eq!(sent, whole);
}

/// OCP-3.1-06, OCP-3.1-21, OCP-3.1-25, OCP-3.2-01, OCP-5-08, OCP-3.1-20
#[test]
fn what_is_not_the_grammar_ends_the_connection() {
    for text in [
        "PQ;\r\n\r\nPQ;\r\n",
        "PQ;\n",
        " PQ;\r\n",
        "PQ ;\r\n",
        "TS  1 2;\r\n",
        "NO ()\r\n;\r\n",
        "NO ({\"1:a\"},\\\r\n{\"1:b\"});\r\n",
        "TE 1 { 400 };\r\n",
    ] {
        assert!(is_ce400(&answer(OPEN, text)), "{text:?}");
    }
}

/// OCP-3.1-18, OCP-3.1-19, OCP-3.1-22, OCP-10.6-01
#[test]
fn quoting_means_nothing_and_case_does() {
    assert_eq!(answer(OPEN, "pq;\r\nPQ \"1:1\";\r\n"), "PA 1\r\nOrg-Data: 0\r\n;\r\n");
    assert_eq!(answer(OPEN, "AA \"4:true\";\r\nAA false;\r\nPQ;\r\n"), "PA;\r\n");
    for text in ["AA TRUE;\r\n", "AA 0;\r\n", "TS \"2:01\" 1;\r\n"] {
        assert!(is_ce400(&answer(OPEN, text)), "{text:?}");
    }
}

/// OCP-10.10-01, OCP-10.10-02, OCP-10.10-03, OCP-5-05, OCP-10.10-08, OCP-9.1-01
#[test]
fn a_result_is_a_code_and_a_reason_for_people() {
    for (text, code) in [
        ("TE 1 {400};\r\n", 400),
        ("TE 1 {400 \"2:OK\"};\r\n", 400),
        ("AMS 1;\r\nAME 1 {200};\r\nTE 1 {200 OK extra\r\nX-More: 1\r\n};\r\n", 200),
    ] {
        let (seen, _) = processor_answer(text);
        let Some(Event::TransactionEnded { result, .. }) = seen.last() else { panic!("{seen:?}") };
        assert_eq!(result.code, code, "{text}");
    }
    for text in ["TE 1 {};\r\n", "TE 1 {OK};\r\n", "TE 1 400;\r\n"] {
        assert!(is_te400(&answer(OPEN, text), 1), "{text:?}");
    }
    let sent = answer(OPEN, "DUM 1 5\r\n1:a\r\n;\r\n");
    assert!(sent.contains("gap in data offsets: 5 instead of 0"), "{sent}");
}

/// OCP-10.1-01, OCP-10.2-01, OCP-11-01, OCP-11-07
#[test]
fn types_are_checked_before_values_are_used() {
    for text in [
        "NO ({});\r\n",
        "NO ({\"0:\"});\r\n",
        "NO ({\"3:a b\"});\r\n",
        "TS (1) 1;\r\n",
        "SGD 7;\r\n",
    ] {
        assert!(is_ce400(&answer(OPEN, text)), "{text:?}");
    }
    assert!(is_te400(&answer(OPEN, "DUM 99 0\r\n0:\r\n;\r\n"), 99));
    assert_eq!(answer(OPEN, "TS 2147483647 1;\r\nPQ 2147483647;\r\n"), "PA 2147483647;\r\n");
}
