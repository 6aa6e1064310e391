use std::path::Path;

use ocp_proto::smtp::{CommandProfile, Part};
use proptest::prelude::*;

use super::*;
use crate::config::Config;
use crate::event::{Body, Event};
use crate::kept::Kept;

fn processor(limits: &str) -> Arc<Processor> {
    let text = format!(
        "[limits]\n{limits}\n[[group]]\nname = \"a\"\nservers = [\"unix:/nonexistent\"]\n\
         services = [\"log\"]\n"
    );
    let config = Config::parse(&text, Path::new("test.toml")).unwrap();
    Processor::start(config, &CommandProfile::default())
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// Content that came in these pieces.
async fn content(processor: &Arc<Processor>, octets: &[u8], cuts: &[usize]) -> Content {
    let mut content = Content::new(processor);
    let mut cuts: Vec<_> = cuts.iter().map(|cut| (*cut).min(octets.len())).collect();
    cuts.extend([0, octets.len()]);
    cuts.sort_unstable();
    for piece in cuts.windows(2) {
        content.push(Bytes::copy_from_slice(&octets[piece[0]..piece[1]])).await;
    }
    assert_eq!(content.octets(), octets.len());
    content
}

fn read(body: &Body) -> Vec<u8> {
    body.pieces().iter().map(|piece| piece.read().unwrap()).collect::<Vec<_>>().concat()
}

fn stored(body: &Body) -> usize {
    let stored = body.pieces().iter().filter(|piece| piece.in_memory().is_none());
    stored.map(Octets::len).sum()
}

fn failed(content: &mut Content) -> (String, String) {
    let failed = content.finish().unwrap_err();
    (failed.to_string(), failed.reply().to_string())
}

proptest! {
    /// However content is cut: it is split where it would be as a whole.
    #[test]
    fn where_it_is_cut_makes_no_difference(
        octets in prop::collection::vec(prop::sample::select(&b"\r\n\r\nA:"[..]), 0..40),
        cuts in prop::collection::vec(0..40_usize, 0..6),
    ) {
        let runtime = runtime();
        let _entered = runtime.enter();
        let processor = processor("message-octets = 100");
        let mut content = runtime.block_on(content(&processor, &octets, &cuts));
        prop_assert_eq!(content.finish().unwrap(), Message::split(octets.into()));
    }

    /// Wherever memory ends, and however content is cut: the message is the same, and so are its slices.
    #[test]
    fn where_memory_ends_makes_no_difference(
        memory in 0..40_000_usize,
        length in 0..3 * BLOCK,
        header in 1..1_000_usize,
        cuts in prop::collection::vec(0..3 * BLOCK, 0..12),
        ranges in prop::collection::vec((0..3 * BLOCK, 0..3 * BLOCK), 0..6),
    ) {
        let runtime = runtime();
        let _entered = runtime.enter();
        let processor = processor(&format!("memory-octets = {memory}"));
        let header = [&vec![b'h'; header][..], b"\r\n\r\n"].concat();
        let body: Vec<u8> = (0..length).map(|at| (at / 251 + at) as u8).collect();
        let octets = [&header[..], &body].concat();
        let message = runtime.block_on(content(&processor, &octets, &cuts)).finish().unwrap();
        prop_assert_eq!(&message.header, &header);
        prop_assert!(read(&message.body) == body);
        let beyond = body.len().saturating_sub(memory.saturating_sub(header.len()));
        prop_assert_eq!(stored(&message.body), beyond / BLOCK * BLOCK, "whole blocks");

        let mut kept = Kept::default();
        let event = Event::message(message, Default::default());
        event.parts().for_each(|(part, octets)| kept.push(part, octets));
        prop_assert_eq!(kept.octets(), octets.len());
        for (a, b) in ranges {
            let range = a.min(b)..a.max(b);
            let slices = kept.slices(range.clone());
            prop_assert_eq!(slices.is_some(), octets.get(range.clone()).is_some());
            let mut at = range.start;
            for (part, slice) in slices.into_iter().flatten() {
                prop_assert_eq!(part == Part::MessageHeader, at < header.len());
                prop_assert!(octets[at..at + slice.len()] == slice.read().unwrap());
                at += slice.len();
            }
            prop_assert!(at == range.end || octets.get(range.clone()).is_none());
        }
    }
}

#[tokio::test]
async fn it_has_a_size_and_takes_room() {
    let processor = processor("message-octets = 4096\ncontent-octets = 4096");
    let octets = vec![b'x'; 3_000];
    let no_room = || {
        let cause = "messages that are worked on have content-octets already".to_owned();
        (cause, "452 4.3.1 Too much mail is under way, try again later".to_owned())
    };
    let mut one = content(&processor, &octets, &[]).await;
    assert_eq!(failed(&mut content(&processor, &octets, &[]).await), no_room());
    // Nor is there any while services look at it.
    let message = one.finish().unwrap();
    assert_eq!(message, Message::split(octets.clone().into()));
    assert_eq!(failed(&mut content(&processor, &octets, &[]).await), no_room());
    drop(one);
    assert_eq!(content(&processor, &octets, &[]).await.finish().unwrap(), message);
    let mut large = content(&processor, &octets.repeat(2), &[3_000]).await;
    let (cause, reply) = failed(&mut large);
    assert_eq!(cause, "the message has more than 4096 octets");
    assert_eq!(reply, "552 5.3.4 The message is too large");
    assert!(processor.room().grow_to(4_096), "what is refused takes no room");
}

#[tokio::test]
async fn a_header_section_has_a_bound_wherever_it_is_cut() {
    let processor = processor("memory-octets = 0");
    let longest = [&vec![b'x'; LONGEST_HEADER - 4][..], b"\r\n\r\n"].concat();
    for (more, ends) in [("", true), ("x", true), ("", false), ("x", false)] {
        let mut octets = [more.as_bytes(), &longest].concat();
        if !ends {
            octets.truncate(octets.len() - 2);
            octets.extend_from_slice(b"xx");
        }
        octets.extend_from_slice(if ends { b"body" } else { b"" });
        for cut in [1_000, LONGEST_HEADER - 1, LONGEST_HEADER + 1] {
            let mut content = content(&processor, &octets, &[cut]).await;
            if more.is_empty() {
                assert_eq!(content.finish().unwrap(), Message::split(octets.clone().into()));
                continue;
            }
            let (cause, reply) = failed(&mut content);
            assert_eq!(cause, "the header section has more than 1048576 octets");
            assert_eq!(reply, "552 5.3.4 The header section is too large");
        }
    }
}

#[tokio::test]
async fn what_is_in_files_is_bounded_and_given_back() {
    let limits = format!("message-octets = {0}\nmemory-octets = 9\ndisk-octets = {0}", 3 * BLOCK);
    let processor = processor(&limits);
    let large = [b"A: b\n\n", &vec![b'x'; 2 * BLOCK + 9][..]].concat();
    let mut one = content(&processor, &large, &[]).await;
    let (cause, reply) = failed(&mut content(&processor, &large, &[]).await);
    assert_eq!(cause, "temporary files have disk-octets already");
    assert_eq!(reply, "452 4.3.1 Too much mail is under way, try again later");
    // As long as somebody has a slice of it.
    let message = one.finish().unwrap();
    drop(one);
    let slice = message.body.pieces()[1].slice(0..1);
    drop(message);
    let cause = failed(&mut content(&processor, &large, &[]).await).0;
    assert_eq!(cause, "temporary files have disk-octets already");
    drop(slice);
    let message = content(&processor, &large, &[]).await.finish().unwrap();
    assert!(read(&message.body) == large[6..]);
}

#[tokio::test]
async fn a_folder_that_takes_nothing_puts_the_message_off() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().display().to_string();
    let processor = processor(&format!("memory-octets = 9\n[temporary]\nfolder = \"{path}\""));
    drop(folder);
    let large = [b"A: b\n\n", &vec![b'x'; 2 * BLOCK][..]].concat();
    let (cause, reply) = failed(&mut content(&processor, &large, &[]).await);
    let expected = format!("a temporary file in {path} can't be made: ");
    assert!(cause.starts_with(&expected), "{cause}");
    assert_eq!(reply, "451 4.3.0 The message could not be taken, try again later");
}
