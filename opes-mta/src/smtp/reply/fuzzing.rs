//! The fuzz body for what a server says.

use bytes::BytesMut;
use ocp_proto::smtp::Reply;

use super::{EnhancedStatus, InvalidReply, MAXIMUM_LINES, ReplyDecoder};
use crate::smtp::extensions::Extensions;

/// Any octets are replies that can be passed on, or an error: whole or in pieces the same ones come out,
/// each has the class that the server wrote, and none grows.
///
/// # Panics
/// If that is not so.
pub fn smtp_reply(octets: &[u8]) {
    let (replies, error) = replies(octets, octets.len().max(1));
    let piece = 1 + octets.len() % 7;
    assert_eq!(self::replies(octets, piece), (replies.clone(), error), "fragmentation matters");
    let mut rest = octets;
    for reply in &replies {
        assert_eq!(Reply::parse(reply.as_bytes().clone()).as_ref(), Ok(reply), "it can't be sent");
        assert_eq!(reply.as_bytes().first(), rest.first(), "another class");
        let lines = reply.lines().count();
        assert!((1..=MAXIMUM_LINES).contains(&lines), "{lines} lines");
        let end = memchr::memchr_iter(b'\n', rest).nth(lines - 1).expect("as many line ends") + 1;
        assert!(reply.as_bytes().len() <= end, "it has grown");
        rest = rest.get(end..).unwrap_or_default();
        if let Some(status) = EnhancedStatus::of(reply) {
            assert_eq!(u16::from(status.class), reply.code() / 100);
        }
        let extensions = Extensions::of(reply);
        assert!(extensions.lines().count() < lines);
    }
}

fn replies(octets: &[u8], piece: usize) -> (Vec<Reply>, Option<InvalidReply>) {
    let mut decoder = ReplyDecoder::new();
    let (mut input, mut replies) = (BytesMut::new(), Vec::new());
    for piece in octets.chunks(piece) {
        input.extend_from_slice(piece);
        loop {
            match decoder.decode(&mut input) {
                Ok(Some(reply)) => replies.push(reply),
                Ok(None) => break,
                Err(error) => return (replies, Some(error)),
            }
        }
    }
    (replies, None)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    #[test]
    fn the_corpus_holds() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/corpus/smtp_reply");
        let mut files = 0;
        for entry in std::fs::read_dir(folder).unwrap() {
            super::smtp_reply(&std::fs::read(entry.unwrap().path()).unwrap());
            files += 1;
        }
        assert!(files >= 8, "{files} seeds");
    }

    proptest! {
        #[test]
        fn any_octets_hold(octets in proptest::collection::vec(any::<u8>(), 0..300)) {
            super::smtp_reply(&octets);
        }

        /// Replies that are mostly right get further than random octets.
        #[test]
        fn near_replies_hold(order in proptest::collection::vec(0_usize..20, 0..40)) {
            let pieces: [&[u8]; 12] = [
                b"250-PIPELINING\r\n", b"250-SIZE 10\r\n", b"250 ok\r\n", b"550 5.7.1 no\r\n", b"250",
                b"-", b" ", b"\r\n", b"571 \0\r\n", b"421\r\n", b"\n", b"250-AUTH PLAIN  LOGIN\r\n",
            ];
            let order = order.into_iter().map(|at| if at < 12 { at } else { at % 4 });
            let octets: Vec<u8> = order.flat_map(|at| pieces[at].iter().copied()).collect();
            super::smtp_reply(&octets);
        }
    }
}
