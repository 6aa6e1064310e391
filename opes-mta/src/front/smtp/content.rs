//! The content of a message on its way in.

use bytes::{Bytes, BytesMut};

use crate::event::{Message, header_end};
use crate::front::pieces::Pieces;
use crate::processor::Room;

/// Content so far: the header section up to its empty line, then the body in pieces.
#[derive(Debug)]
pub(super) struct Content {
    header: BytesMut,
    /// Octets of `header` in which its end has been looked for, and is not.
    looked: usize,
    body: Option<Pieces>,
    limit: usize,
    room: Room,
    octets: usize,
    failed: Option<NoContent>,
}

/// Why there is no content that services could look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NoContent {
    /// Beyond `message-octets`.
    #[error("the message has more than {0} octets")]
    TooLarge(usize),
    /// Too much is worked on.
    #[error("messages that are worked on have content-octets already")]
    NoRoom,
}

impl Content {
    /// Nothing so far; at most so many octets.
    pub(super) fn new(limit: usize, room: Room) -> Self {
        Self {
            header: BytesMut::new(),
            looked: 0,
            body: None,
            limit,
            room,
            octets: 0,
            failed: None,
        }
    }

    /// The next octets. Once something is missing, nothing more is kept.
    pub(super) fn push(&mut self, octets: &Bytes) {
        self.octets += octets.len();
        if self.failed.is_some() {
            return;
        }
        if self.octets > self.limit {
            self.failed = Some(NoContent::TooLarge(self.limit));
        } else if !self.room.grow_to(self.octets as u64) {
            self.failed = Some(NoContent::NoRoom);
        } else {
            return self.take(octets);
        }
        self.header = BytesMut::new();
        self.body = None;
    }

    fn take(&mut self, octets: &Bytes) {
        if let Some(body) = &mut self.body {
            return body.push(octets);
        }
        self.header.extend_from_slice(octets);
        // The end may have begun in what was there before.
        let from = self.header.get(..self.looked).map_or(0, last_line);
        if let Some(end) = self.header.get(from..).and_then(header_end) {
            let mut body = Pieces::default();
            body.push(&self.header.split_off(from + end).freeze());
            self.body = Some(body);
        }
        self.looked = self.header.len();
    }

    /// Octets that have come, whether they are kept or not.
    pub(super) fn octets(&self) -> usize {
        self.octets
    }

    /// The whole message. Its room is taken as long as this is there: somebody works on it now.
    ///
    /// # Errors
    /// If it was not kept.
    pub(super) fn finish(&mut self) -> Result<Message, NoContent> {
        match self.failed {
            Some(failed) => Err(failed),
            None => Ok(Message {
                header: std::mem::take(&mut self.header).freeze(),
                body: self.body.take().unwrap_or_default().finish(),
            }),
        }
    }
}

/// Where the last line begins that may not be whole.
fn last_line(octets: &[u8]) -> usize {
    memchr::memrchr(b'\n', octets).map_or(0, |end| end + 1)
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use ocp_proto::smtp::CommandProfile;
    use proptest::prelude::*;

    use super::*;
    use crate::config::Config;
    use crate::processor::Processor;

    fn processor() -> Arc<Processor> {
        let text = "[limits]\nmessage-octets = 4096\ncontent-octets = 4096\n\
                    [[group]]\nname = \"a\"\nservers = [\"unix:/nonexistent\"]\nservices = [\"log\"]\n";
        let config = Config::parse(text, Path::new("test.toml")).unwrap();
        Processor::start(config, &CommandProfile::default())
    }

    proptest! {
        /// However content is cut: it is split where it would be as a whole.
        #[test]
        fn where_it_is_cut_makes_no_difference(
            octets in prop::collection::vec(prop::sample::select(&b"\r\n\r\nA:"[..]), 0..40),
            cuts in prop::collection::vec(0..40_usize, 0..6),
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let _entered = runtime.enter();
            let processor = processor();
            let mut content = Content::new(100, processor.room());
            let mut cuts: Vec<_> = cuts.into_iter().map(|cut| cut.min(octets.len())).collect();
            cuts.extend([0, octets.len()]);
            cuts.sort_unstable();
            for piece in cuts.windows(2) {
                content.push(&Bytes::copy_from_slice(&octets[piece[0]..piece[1]]));
            }
            prop_assert_eq!(content.octets(), octets.len());
            prop_assert_eq!(content.finish(), Ok(Message::split(octets.into())));
        }
    }

    #[tokio::test]
    async fn it_has_a_size_and_takes_room() {
        let processor = processor();
        let octets = Bytes::from(vec![b'x'; 3_000]);
        let other = || {
            let mut other = Content::new(4_096, processor.room());
            other.push(&octets);
            other.finish()
        };
        let mut one = Content::new(4_096, processor.room());
        one.push(&octets);
        assert_eq!(other(), Err(NoContent::NoRoom));
        // Nor is there any while services look at it.
        let message = one.finish();
        assert_eq!(message, Ok(Message::split(octets.clone())));
        assert_eq!(other(), Err(NoContent::NoRoom));
        drop(one);
        assert_eq!(other(), message);
        let mut large = Content::new(4_096, processor.room());
        large.push(&octets);
        large.push(&octets);
        assert_eq!(large.octets(), 6_000);
        assert_eq!(large.finish(), Err(NoContent::TooLarge(4_096)));
    }
}
