use proptest::prelude::*;

use super::*;

/// The content, whether it has ended, and what is behind.
fn decode(octets: &[u8], piece: usize) -> (Vec<u8>, bool, Vec<u8>) {
    let (mut decoder, mut input, mut content) = (Decoder::new(), BytesMut::new(), Vec::new());
    let mut pieces = octets.chunks(piece);
    while let Some(piece) = pieces.next() {
        input.extend_from_slice(piece);
        loop {
            match decoder.decode(&mut input) {
                Some(Piece::Octets(octets)) => {
                    assert!(!octets.is_empty());
                    content.extend_from_slice(&octets);
                }
                Some(Piece::End) => {
                    let behind = pieces.flatten().copied();
                    let behind = input.iter().copied().chain(behind).collect();
                    return (content, true, behind);
                }
                None => break,
            }
        }
        assert!(input.len() <= 2, "{input:?} is kept back");
    }
    (content, false, input.to_vec())
}

/// RFC 5321 section 4.5.2, line by line.
fn expected(octets: &[u8]) -> (Vec<u8>, bool, Vec<u8>) {
    let (mut rest, mut content) = (octets, Vec::new());
    while let Some(end) = memmem::find(rest, b"\r\n") {
        let (line, behind) = rest.split_at(end + 2);
        if line == b".\r\n" {
            return (content, true, behind.to_vec());
        }
        content.extend_from_slice(line.strip_prefix(b".").unwrap_or(line));
        rest = behind;
    }
    content.extend_from_slice(rest.strip_prefix(b".").unwrap_or(rest));
    (content, false, Vec::new())
}

#[test]
fn dots_are_removed_and_a_lone_one_ends() {
    let cases: [(&[u8], &[u8], &[u8]); 6] = [
        (b".\r\nQUIT\r\n", b"", b"QUIT\r\n"),
        (b"a\r\n.\r\n", b"a\r\n", b""),
        (b"..\r\n...\r\n.a\r\na.\r\n.\r\n.\r\n", b".\r\n..\r\na\r\na.\r\n", b".\r\n"),
        (b"\r\n\r\n.\r\n\r\n", b"\r\n\r\n", b"\r\n"),
        (b".\n\r\n.\r\n", b"\n\r\n", b""),
        (b"a\r\r\n.\r\n", b"a\r\r\n", b""),
    ];
    for (octets, content, behind) in cases {
        for piece in 1..=octets.len() {
            let decoded = decode(octets, piece);
            assert_eq!(decoded, (content.to_vec(), true, behind.to_vec()), "{octets:?}");
        }
    }
}

/// Ends that some MTA has taken for one (CVE-2023-51764, -51765, -51766 and what came after them), each
/// before a command that would have been smuggled in.
#[test]
fn nothing_else_is_an_end() {
    let not_ends: [&[u8]; 22] = [
        b"\n.\n",
        b"\n.\r\n",
        b"\r\n.\n",
        b"\r.\r",
        b"\r.\r\n",
        b"\r\n.\r",
        b"\r\n.\r\r\n",
        b"\n.\r",
        b"\r.\n",
        b"\n\r.\r\n",
        b"\n\n.\r\n",
        b"\r\r.\r\n",
        b"\n\r\r.\r\n",
        b"\n\r.\n\r",
        b"\r\n\0.\r\n",
        b"\r\n.\0\r\n",
        b"\r\n.\r\0\n",
        b"\r\0\n.\r\n",
        b"\r\n. \r\n",
        b"\r\n .\r\n",
        b"\r\n..\r\n",
        b"\x85.\x85",
    ];
    for not_end in not_ends {
        let smuggled = b"MAIL FROM:<admin@example.org>\r\n";
        let octets = [b"a", not_end, smuggled, b".\r\nQUIT\r\n"].concat();
        for piece in 1..=octets.len() {
            let (content, ended, behind) = decode(&octets, piece);
            assert!(ended, "{not_end:?}");
            assert_eq!(behind, b"QUIT\r\n", "{not_end:?} is taken for an end");
            assert!(content.ends_with(smuggled));
        }
        // What a laxer MTA may take for an end has a bare CR or LF in it, or is no line of one dot.
        let mut line_ends = LineEnds::default();
        line_ends.look(&decode(&octets, octets.len()).0);
        let lone_dot = |octet: u8| octet != b'.' && octet != b'\r' && octet != b'\n';
        let is_harmless = not_end.iter().any(|octet| lone_dot(*octet)) || not_end == b"\r\n..\r\n";
        assert!(line_ends.bare().is_some() || is_harmless, "{not_end:?}");
    }
}

#[test]
fn content_without_dots_is_not_copied() {
    let mut input = BytesMut::from(&b"a line\r\nanother.\r\n.\r\n"[..]);
    let place = input.as_ptr();
    let mut decoder = Decoder::new();
    let Some(Piece::Octets(octets)) = decoder.decode(&mut input) else { panic!() };
    assert_eq!((octets.as_ptr(), octets.len(), &input[..]), (place, 18, &b".\r\n"[..]));
}

#[test]
fn content_of_dots_comes_in_few_pieces() {
    let mut input = BytesMut::from(&b"..\r\n".repeat(50_000)[..]);
    input.extend_from_slice(&b"a".repeat(5_000));
    input.extend_from_slice(b"\r\n.\r\n");
    let (mut decoder, mut sizes) = (Decoder::new(), Vec::new());
    while let Some(Piece::Octets(octets)) = decoder.decode(&mut input) {
        sizes.push(octets.len());
    }
    assert_eq!(sizes.iter().sum::<usize>(), 3 * 50_000 + 5_002);
    assert_eq!(sizes.len(), 150_000_usize.div_ceil(GATHERED) + 1, "{sizes:?}");
    assert_eq!(sizes.last(), Some(&5_005), "what is worth it is not copied");
}

fn lines() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop::sample::select(vec![
        &b"\r\n"[..],
        b"\r\n.",
        b".",
        b"\r\n.\r\n",
        b"\r",
        b"\n",
        b"a",
        b"\0",
        b"\n.\n",
    ]);
    prop::collection::vec(piece, 0..30).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn fragmentation_makes_no_difference(octets in lines(), piece in 1_usize..20) {
        let (content, ended, behind) = decode(&octets, piece);
        let (all, all_ended, all_behind) = expected(&octets);
        prop_assert_eq!((ended, &behind), (all_ended, if ended { &all_behind } else { &behind }));
        if ended {
            prop_assert_eq!(content, all);
        } else {
            // What may become an end is kept back.
            prop_assert!(all.starts_with(&content) && all.len() - content.len() <= 2);
        }
    }
}
