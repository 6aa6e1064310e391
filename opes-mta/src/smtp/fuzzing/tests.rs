use proptest::prelude::*;

/// Runs a body over the seeds of its target.
fn run_corpus(target: &str, body: fn(&[u8])) {
    let folder = format!("{}/../fuzz/corpus/{target}", env!("CARGO_MANIFEST_DIR"));
    let mut files = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        body(&std::fs::read(entry.unwrap().path()).unwrap());
        files += 1;
    }
    assert!(files >= 8, "{files} seeds of {target}");
}

#[test]
fn the_corpora_hold() {
    run_corpus("smtp_command", super::smtp_command);
    run_corpus("smtp_content", super::smtp_content);
    run_corpus("smtp_session", super::smtp_session);
}

/// Pieces of dialogs: in their order they make messages.
const PIECES: [&str; 24] = [
    "EHLO client.example\r\n",
    "MAIL FROM:<a@b> BODY=8BITMIME PRDR\r\n",
    "RCPT TO:<c@d>\r\n",
    "RCPT TO:<@x:e@f> NOTIFY=NEVER\r\n",
    "DATA\r\n",
    "Subject: x\r\n\r\n..\r\nbody\n.\n\r\n.\r\n",
    "MAIL FROM:<>\r\n",
    "RCPT TO:<g@h>\r\n",
    "BDAT 8\r\nQUIT\r\n.\r",
    "BDAT 3 LAST\r\n\n.\r",
    "LHLO client.example\r\n",
    "RSET\r\n",
    "BDAT 51\r\n012345678901234567890123456789012345678901234567890",
    "AUTH PLAIN\r\n",
    "AUTH LOGIN c2VjcmV0\r\n",
    "XCLIENT NAME=x ADDR=192.0.2.1\r\n",
    "NOOP\nQUIT\r\n",
    "HELO x\r\n",
    "STARTTLS\r\n",
    "QUIT\r\n",
    "BDAT\r\n",
    "XFORWARD NAME=a+2Bb\r\n",
    "VRFY x\r\n",
    ".\r\n",
];

proptest! {
    #[test]
    fn any_octets_hold(octets in proptest::collection::vec(any::<u8>(), 0..300)) {
        super::smtp_command(&octets);
        super::smtp_content(&octets);
        super::smtp_session(&octets);
    }

    #[test]
    fn any_line_ends_hold(
        octets in proptest::collection::vec(prop::sample::select(&b"\r\n.\r\n.a\0"[..]), 0..60),
    ) {
        super::smtp_command(&octets);
        super::smtp_content(&octets);
        super::smtp_session(&[b"\0\0EHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<a@b>\r\nDATA\r\n", &octets[..]].concat());
    }

    /// Dialogs that are mostly right get further than random octets.
    #[test]
    fn near_dialogs_hold(
        kind: u8,
        seed: u8,
        order in proptest::collection::vec((0_usize..PIECES.len(), 0_u8..4), 0..60),
    ) {
        let mut octets = vec![kind, seed];
        for (at, (any, choice)) in order.into_iter().enumerate() {
            // LMTP begins otherwise.
            let in_order = if at % 10 == 0 && kind & 1 == 1 { 10 } else { at % 10 };
            let piece = if choice == 0 { any } else { in_order };
            octets.extend_from_slice(PIECES[piece].as_bytes());
        }
        super::smtp_command(&octets);
        super::smtp_session(&octets);
    }
}
