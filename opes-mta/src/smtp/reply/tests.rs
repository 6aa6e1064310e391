use bytes::BytesMut;
use ocp_proto::smtp::Reply;
use proptest::prelude::*;

use super::*;

fn decode(octets: &[u8]) -> Result<Option<Reply>, InvalidReply> {
    ReplyDecoder::new().decode(&mut BytesMut::from(octets))
}

fn text(octets: &[u8]) -> String {
    let reply = decode(octets).unwrap().unwrap();
    String::from_utf8_lossy(reply.as_bytes()).into_owned()
}

#[test]
fn a_reply_ends_with_the_line_that_has_no_hyphen() {
    let mut input = BytesMut::from(&b"250-one\r\n250-\r\n250 two\r\n354\r\n2"[..]);
    let mut decoder = ReplyDecoder::new();
    let first = decoder.decode(&mut input).unwrap().unwrap();
    assert_eq!(first.as_bytes(), "250-one\r\n250-\r\n250 two\r\n");
    assert_eq!(decoder.decode(&mut input).unwrap().unwrap().code(), 354);
    assert_eq!(decoder.decode(&mut input), Ok(None));
    assert_eq!(&input[..], b"2");
}

#[test]
fn what_is_no_reply_ends_the_connection() {
    for (octets, error) in [
        (&b"\r\n"[..], InvalidReply::Code),
        (b"25\r\n", InvalidReply::Code),
        (b"150 x\r\n", InvalidReply::Code),
        (b"650 x\r\n", InvalidReply::Code),
        (b"HTTP/1.1 400 Bad Request\r\n", InvalidReply::Code),
        (b"250-a\r\n550 b\r\n", InvalidReply::OtherCode),
        (b"250-a\r\n251 b\r\n", InvalidReply::OtherCode),
        (b"250x\r\n", InvalidReply::Separator),
        (b"2500 x\r\n", InvalidReply::Separator),
        (b"250 a\n", InvalidReply::LineEnd),
        (b"250 a\rb\r\n", InvalidReply::LineEnd),
        (b"250 a\r\r\n", InvalidReply::LineEnd),
        (b"250-a\n250 b\r\n", InvalidReply::LineEnd),
    ] {
        let mut input = BytesMut::from(octets);
        let mut decoder = ReplyDecoder::new();
        assert_eq!(decoder.decode(&mut input), Err(error), "{octets:?}");
        input.clear();
        input.extend_from_slice(b"250 ok\r\n");
        assert_eq!(decoder.decode(&mut input), Err(error), "it stays so");
    }
}

#[test]
fn each_bound_holds_at_its_edge_and_without_the_line_s_end() {
    let line = |length: usize| [b"250 ", &vec![b'x'; length - 6][..], b"\r\n"].concat();
    assert!(decode(&line(MAXIMUM_LINE)).unwrap().is_some());
    assert_eq!(decode(&line(MAXIMUM_LINE + 1)), Err(InvalidReply::Line));
    assert_eq!(decode(&vec![b'2'; MAXIMUM_LINE - 2]), Ok(None));
    assert_eq!(decode(&vec![b'2'; MAXIMUM_LINE - 1]), Err(InvalidReply::Line));

    let lines = |count: usize| [b"250-x\r\n".repeat(count - 1), b"250 x\r\n".to_vec()].concat();
    assert_eq!(decode(&lines(MAXIMUM_LINES)).unwrap().unwrap().lines().count(), MAXIMUM_LINES);
    assert_eq!(decode(&lines(MAXIMUM_LINES + 1)), Err(InvalidReply::Lines));

    let long = [b"250-", &vec![b'x'; 1_018][..], b"\r\n"].concat().repeat(8);
    assert_eq!(long.len(), MAXIMUM_REPLY);
    assert_eq!(decode(&[&long[..], b"250 x\r\n"].concat()), Err(InvalidReply::Length));
}

#[test]
fn text_that_no_peer_may_get_is_made_harmless() {
    assert_eq!(text(b"550 a\0b\x07\tc\x7f\xe9\r\n"), "550 a?b?\tc?\u{fffd}\r\n");
    assert_eq!(text(b"571-5.7.1 a\r\n571 b\r\n"), "550-5.7.1 a\r\n550 b\r\n");
    let long = text(&[b"250-", &vec![b'x'; 1_000][..], b"\r\n250 y\r\n"].concat());
    assert_eq!(long, format!("250-{}\r\n250 y\r\n", "x".repeat(506)));
}

proptest! {
    #[test]
    fn every_reply_is_read_as_it_was_written(
        replies in proptest::collection::vec(
            (200_u16..560, proptest::collection::vec("[ -~\t]{0,80}", 1..6)), 1..5),
        piece in 1_usize..60,
    ) {
        let mut written = Vec::new();
        let mut expected = Vec::new();
        for (code, lines) in replies.iter().filter(|(code, _)| code / 10 % 10 < 6) {
            let mut reply = String::new();
            for (index, line) in lines.iter().enumerate() {
                let separator = if index + 1 == lines.len() { ' ' } else { '-' };
                reply.push_str(&format!("{code}{separator}{line}\r\n"));
            }
            written.extend_from_slice(reply.as_bytes());
            expected.push(Reply::parse(reply).unwrap());
        }
        let mut decoder = ReplyDecoder::new();
        let (mut input, mut read) = (BytesMut::new(), Vec::new());
        for piece in written.chunks(piece) {
            input.extend_from_slice(piece);
            while let Some(reply) = decoder.decode(&mut input).unwrap() {
                read.push(reply);
            }
        }
        prop_assert_eq!(read, expected);
    }
}
