//! The body of the fuzz target `milter_session`; a unit test runs it over the corpus.

use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll};

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

use super::connection::{Broken, Connection, Stream, wanted};
use super::sent::Sent;
use crate::config::Config;
use crate::metrics::{FrontEnd, ListenerMetrics};
use crate::milter::packet::MAXIMUM_PACKET;
use crate::milter::{Command, Decoder, Packet, Stage, Steps, negotiate};
use crate::processor::Processor;

/// Octets of an answer, at most: here nobody says more than the failure policy and the trace do.
const MOST_ANSWERED: usize = 512;

/// Looks at what is left to do, until nothing is.
const MOST_TURNS: usize = 1_000;

/// A group whose only server is never there, and rules that say who has to do with it.
const CONFIGURATIONS: [&str; 6] = [
    "on-failure = \"tempfail\"\noverload = \"tempfail\"",
    "on-failure = \"reject\"\noverload = \"tempfail\"",
    "overload = \"bypass\"",
    // Nobody is asked: all that is said of a message is its trace.
    "overload = \"tempfail\"\n[[rule]]\ngroups = []",
    // What is asked depends on the envelope.
    "on-failure = \"reject\"\noverload = \"tempfail\"\n\
     [[rule]]\nsenders = [\"down.example\"]\ngroups = [\"down\"]\n\
     [[rule]]\nrecipients = [\"down.example\"]\ngroups = [\"down\"]\n\
     [[rule]]\nall-recipients = [\"all.example\"]\ngroups = [\"down\"]\n\
     [[rule]]\ngroups = []",
    "overload = \"tempfail\"\nshadow = true",
];

/// What all runs share: connections cost more than the dialogs on them.
struct World {
    runtime: Runtime,
    processors: Vec<Arc<Processor>>,
}

/// Octets that an MTA may send behind the first one, which says how the front end is configured. However
/// they are cut: the same answers come, each to a command for which the MTA waits and none before the
/// offer; what modifies a message comes at its end; if the dialog ends well, nothing is left unanswered;
/// what is said is bounded, and all room for octets is given back.
///
/// # Panics
/// If that is not so.
pub fn milter_session(octets: &[u8]) {
    let Some((first, octets)) = octets.split_first() else { return };
    let world = world();
    let at = usize::from(*first) % world.processors.len();
    let Some(processor) = world.processors.get(at) else { return };
    let whole = serve(&world.runtime, processor, octets, octets.len().max(1));
    let pieces = serve(&world.runtime, processor, octets, 1 + octets.len() % 7);
    assert_eq!(whole, pieces, "fragmentation matters");
    check(processor, octets, &whole);
}

fn world() -> MutexGuard<'static, World> {
    static WORLD: OnceLock<Mutex<World>> = OnceLock::new();
    let world = WORLD.get_or_init(|| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("there is a runtime");
        let processors = CONFIGURATIONS.iter().map(|rest| processor(&runtime, rest)).collect();
        Mutex::new(World { runtime, processors })
    });
    world.lock().unwrap_or_else(PoisonError::into_inner)
}

fn processor(runtime: &Runtime, rest: &str) -> Arc<Processor> {
    let text = format!(
        "[system]\nuri = \"https://opes.example/\"\nname = \"mx\"\n\
         [limits]\nmessage-octets = 2048\ncontent-octets = 4096\nshadow-octets = 20000\n\
         [[group]]\nname = \"down\"\nservers = [\"unix:/nonexistent/ocp.sock\"]\n\
         services = [\"log\"]\n{rest}\n"
    );
    let config = Config::parse(&text, Path::new("fuzzing.toml")).expect("it is valid");
    runtime.block_on(async {
        let processor = Processor::start(config, &super::offer());
        processor.tried().await;
        processor
    })
}

/// What came of a connection.
#[derive(Debug, PartialEq, Eq)]
struct Served {
    output: Vec<u8>,
    /// Why it broke.
    broken: Option<String>,
}

fn serve(runtime: &Runtime, processor: &Arc<Processor>, octets: &[u8], piece: usize) -> Served {
    let output = Arc::new(Mutex::new(Vec::new()));
    let wire = Wire { input: octets.to_vec(), at: 0, piece, output: Arc::clone(&output) };
    let listener = Arc::new(ListenerMetrics::new("mx", FrontEnd::Milter));
    let connection = Connection::new(wire, Arc::clone(processor), listener);
    let served = runtime.block_on(async {
        let served = connection.serve(CancellationToken::new()).await;
        // What is only watched ends in tasks of its own.
        for _ in 0..MOST_TURNS {
            if is_free(processor) {
                break;
            }
            tokio::task::yield_now().await;
        }
        served
    });
    assert!(is_free(processor), "octets are held that nobody works on");
    let mut output = std::mem::take(&mut *output.lock().unwrap_or_else(PoisonError::into_inner));
    hide_numbers(&mut output);
    Served { output, broken: served.err().as_ref().map(Broken::to_string) }
}

/// Dialogs are numbered, and traces have the number: that alone differs between two runs.
fn hide_numbers(output: &mut [u8]) {
    const DIGITS: usize = 12;
    let mut at = 0;
    while let Some(window) = output.get_mut(at..=at + DIGITS) {
        let (digits, behind) = window.split_at_mut(DIGITS);
        if behind == b"." && digits.iter().all(u8::is_ascii_hexdigit) {
            digits.fill(b'0');
        }
        at += 1;
    }
}

/// Whether all of `content-octets` is to be had.
fn is_free(processor: &Arc<Processor>) -> bool {
    let limits = &processor.config().limits;
    processor.room().grow_to(limits.content_octets)
        && processor.shadow_room().grow_to(limits.shadow_octets)
}

/// Each answer has a command that waits for it.
fn check(processor: &Processor, octets: &[u8], served: &Served) {
    let answers = packets(&served.output);
    let commands: Vec<_> =
        packets(octets).into_iter().map_while(|p| Command::parse(p).ok()).collect();
    let whole: usize = answers.iter().map(|answer| answer.data.len() + 5).sum();
    assert_eq!(whole, served.output.len(), "half an answer");
    assert!(whole <= MOST_ANSWERED * (1 + commands.len()), "{whole} octets");
    let Some((offer, answers)) = answers.split_first() else { return };
    assert_eq!(offer.letter, b'O');
    let Some((Command::Negotiate(offered), commands)) = commands.split_first() else {
        panic!("an answer to no offer");
    };
    let steps = negotiate(offered, &wanted(processor, Sent::wanted(processor)))
        .expect("it was agreed on")
        .steps;
    let mut awaited = awaited(commands, steps).peekable();
    for answer in answers {
        let stage = awaited.peek().copied();
        match answer.letter {
            b'c' | b'a' | b'r' | b't' | b'd' | b'y' => {
                assert!(awaited.next().is_some(), "an answer that nobody waits for");
            }
            b'h' | b'i' | b'm' | b'b' | b'e' | b'+' | b'2' | b'-' | b'q' => {
                assert_eq!(stage, Some(Stage::EndOfMessage), "a modification");
            }
            other => panic!("{:?} is no answer of ours", char::from(other)),
        }
    }
    assert!(served.broken.is_some() || awaited.next().is_none(), "an answer is missing");
}

/// The stages for whose answers an MTA waits, as long as it is there.
fn awaited(commands: &[Command], steps: Steps) -> impl Iterator<Item = Stage> {
    let there = commands.iter().take_while(|command| !matches!(command, Command::Quit));
    there.filter_map(Command::stage).filter(move |stage| steps.await_answer(*stage))
}

fn packets(octets: &[u8]) -> Vec<Packet> {
    let (mut input, mut decoder) = (BytesMut::from(octets), Decoder::new(MAXIMUM_PACKET));
    std::iter::from_fn(|| decoder.decode(&mut input).ok().flatten()).collect()
}

/// The MTA's end: octets in pieces, then the end; what is written is kept.
struct Wire {
    input: Vec<u8>,
    at: usize,
    piece: usize,
    output: Arc<Mutex<Vec<u8>>>,
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let rest = self.input.get(self.at..).unwrap_or_default();
        let count = rest.len().min(self.piece).min(buffer.remaining());
        buffer.put_slice(rest.get(..count).unwrap_or_default());
        self.at += count;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        octets: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        self.output.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(octets);
        Poll::Ready(Ok(octets.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl Stream for Wire {
    fn acknowledge(&self) {}
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    #[test]
    fn the_corpus_holds() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/corpus/milter_session");
        let mut files = 0;
        for entry in std::fs::read_dir(folder).unwrap() {
            super::milter_session(&std::fs::read(entry.unwrap().path()).unwrap());
            files += 1;
        }
        assert!(files >= 8, "{files} seeds");
    }

    proptest! {
        #[test]
        fn any_octets_hold(octets in proptest::collection::vec(any::<u8>(), 0..300)) {
            super::milter_session(&octets);
        }
    }
}
