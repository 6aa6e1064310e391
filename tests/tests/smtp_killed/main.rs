//! Mail goes on while `opes-mta smtp`, the Postfix behind it and the callout servers are killed at any moment and
//! started again: what was accepted arrives or is kept, and whatever arrives twice the log explains.

#![allow(missing_docs, clippy::indexing_slicing)]

mod chain;
mod evidence;
mod mail;
mod stages;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tests::attempts::{Attempt, Sender};
use tests::random::Random;
use tests::stores::Stores;
use tests::{Enough, not_run, postfix, text};

use self::chain::{Chain, VICTIMS};
use self::evidence::Evidence;

/// Clients at a time.
const CLIENTS: usize = 8;
/// How long a client waits after it was put off.
const RETRY: Duration = Duration::from_millis(20);
/// Between two looks at how far it has come.
const PAUSE: Duration = Duration::from_millis(2);
/// The longest time between a kill and the message by whose number it was due, in milliseconds.
const LATE: usize = 40;
/// The longest time for which somebody is away, in milliseconds.
const AWAY: usize = 250;
/// Between two looks of who releases what is kept.
const REVIEW: Duration = Duration::from_millis(150);
/// For all of it.
const PATIENCE: Duration = Duration::from_secs(300);

/// Messages, and kills of each of the three, at least.
fn amount() -> (usize, usize) {
    if std::env::var_os("OPES_TESTS_FULL").is_some() { (2_000, 25) } else { (200, 5) }
}

/// Another one in each run, unless `OPES_TESTS_SEED` names one.
fn seed() -> u64 {
    let named = std::env::var("OPES_TESTS_SEED").ok().and_then(|seed| seed.parse().ok());
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_millis());
    named.unwrap_or(now as u64 % 1_000_000)
}

/// What became of all messages, as the clients know it.
struct Brought {
    attempts: Vec<Vec<Attempt>>,
    /// Releases that were killed, and those that were not.
    releases: (usize, usize),
}

/// OPES-3836-3.3-07, OPES-3837-2.2.9-01
#[test]
fn what_is_accepted_arrives_or_is_kept_whoever_is_killed() {
    if !postfix::is_there() {
        return not_run(
            "mail while the proxy and the mail server behind it are killed",
            "there is no Postfix, or no root to start it",
        );
    }
    let seed = seed();
    println!("OPES_TESTS_SEED={seed}");
    let folder = tempfile::tempdir().expect("a folder");
    let mut chain = Chain::start(folder.path());
    let brought = run(&mut chain, seed);
    release_all(&chain.stores);
    chain.drain(PATIENCE);
    let evidence = Evidence::gather(chain, brought.attempts);
    let (killed, whole) = brought.releases;
    println!("{whole} releases meanwhile, {killed} more were killed");
    evidence.check();
    assert!(whole > 0, "this shows nothing about releases");
}

/// Brings messages, each until it has a final reply, while somebody is killed again and again: as many as
/// there have to be, and more until the last one was killed.
fn run(chain: &mut Chain, seed: u64) -> Brought {
    let (messages, kills) = amount();
    let (next, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let is_enough = AtomicBool::new(false);
    let is_over = || is_enough.load(Ordering::Relaxed);
    let (port, stores) = (chain.port(), chain.stores.clone());
    std::thread::scope(|scope| {
        let enough = Enough(&is_enough);
        let client = || bring(port, &next, &done, is_over);
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(client)).collect();
        let releaser = scope.spawn(|| release_some(&stores, &mut Random::new(seed + 1), is_over));
        let (begin, random) = (Instant::now(), &mut Random::new(seed));
        let apart = messages / (kills * VICTIMS);
        for kill in 0.. {
            let brought = done.load(Ordering::Relaxed);
            if kill >= kills * VICTIMS && brought >= messages {
                break;
            }
            let due = brought + random.below(apart);
            while done.load(Ordering::Relaxed) < due {
                assert!(begin.elapsed() < PATIENCE, "the clients stand still");
                std::thread::sleep(PAUSE);
            }
            let mut time = |most| Duration::from_millis(random.below(most) as u64);
            std::thread::sleep(time(LATE));
            let away = time(AWAY);
            chain.kill(kill, random, || {
                let one: Vec<_> = unreleased(&stores).into_iter().take(1).collect();
                // Without one it complains, which is nobody's concern.
                stores.release(&one).status().expect("it runs");
                std::thread::sleep(away);
            });
        }
        drop(enough);
        let brought = clients.into_iter().flat_map(|client| client.join().expect("a client"));
        let attempts: BTreeMap<_, _> = brought.collect();
        assert!(attempts.keys().copied().eq(0..attempts.len()), "each number is one client's");
        let releases = releaser.join().expect("a releaser");
        Brought { attempts: attempts.into_values().collect(), releases }
    })
}

/// A client that takes the next message until it is over: attempts by number.
fn bring(
    port: u16,
    next: &AtomicUsize,
    done: &AtomicUsize,
    is_over: impl Fn() -> bool,
) -> Vec<(usize, Vec<Attempt>)> {
    let (mut sender, mut brought) = (Sender::new(port), Vec::new());
    let begin = Instant::now();
    while !is_over() {
        let number = next.fetch_add(1, Ordering::Relaxed);
        let mut attempts = Vec::new();
        loop {
            let message = mail::message(number);
            let attempt = sender.attempt(&mail::sender(number), "b@b.example", &message);
            let is_final = attempt.is_accepted() || attempt.is_refused();
            attempts.push(attempt);
            if is_final {
                break;
            }
            assert!(begin.elapsed() < PATIENCE, "{number} stands still: {attempts:?}");
            std::thread::sleep(RETRY);
        }
        brought.push((number, attempts));
        done.fetch_add(1, Ordering::Relaxed);
    }
    brought
}

/// Releases about half of what is kept, and is killed at it now and then: how often it was, and was not.
fn release_some(
    stores: &Stores,
    random: &mut Random,
    is_over: impl Fn() -> bool,
) -> (usize, usize) {
    let (mut killed, mut whole) = (0, 0);
    while !is_over() {
        std::thread::sleep(REVIEW);
        let kept = unreleased(stores);
        let some: Vec<_> = kept.into_iter().filter(|_| random.below(2) == 0).collect();
        if some.is_empty() {
            continue;
        }
        let mut release = stores.release(&some).spawn().expect("it can be started");
        if random.below(3) == 0 {
            std::thread::sleep(Duration::from_millis(random.below(30) as u64));
            release.kill().expect("it is our child");
        }
        match release.wait().expect("it is our child").code() {
            None => killed += 1,
            Some(_) => whole += 1,
        }
    }
    (killed, whole)
}

/// Releases everything that is kept.
fn release_all(stores: &Stores) {
    let begin = Instant::now();
    loop {
        let kept = unreleased(stores);
        if kept.is_empty() {
            return;
        }
        assert!(begin.elapsed() < PATIENCE, "it can't be released: {kept:?}");
        stores.release(&kept).status().expect("it runs");
    }
}

fn unreleased(stores: &Stores) -> Vec<String> {
    let kept = stores.kept().into_iter().filter(|kept| text(&kept["state"], "is") != "released");
    kept.map(|kept| text(&kept, "id")).collect()
}
