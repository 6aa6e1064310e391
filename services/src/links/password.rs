//! Passwords of links: made here, and checked with bounds.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

use super::page::Refusal;
use super::store::Name;
use crate::password::Password;

/// Characters of a password, of 32 each: 80 bits.
const CHARACTERS: usize = 16;

/// Without those that look alike.
const ALPHABET: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";

/// Wrong passwords for a file in [`SPAN`].
const MOST_WRONG: u32 = 10;

/// The span in which wrong passwords are counted.
const SPAN: Duration = Duration::from_secs(3_600);

/// Files whose wrong passwords are counted at a time.
const MOST_FILES: usize = 10_000;

/// For a turn to try.
const PATIENCE: Duration = Duration::from_secs(5);

/// A new password.
pub(super) fn random() -> io::Result<String> {
    let mut octets = [0; CHARACTERS];
    getrandom::fill(&mut octets).map_err(io::Error::other)?;
    let character = |octet: u8| ALPHABET.get(usize::from(octet % 32)).copied().map(char::from);
    Ok(octets.into_iter().filter_map(character).collect())
}

/// Tries, one at a time: hashing a password takes its memory once.
#[derive(Debug)]
pub(super) struct Passwords {
    turn: Arc<Semaphore>,
    wrong: Mutex<HashMap<Name, (u32, Instant)>>,
    refused: AtomicU64,
}

impl Default for Passwords {
    fn default() -> Self {
        let (turn, wrong) = (Arc::new(Semaphore::new(1)), Mutex::default());
        Self { turn, wrong, refused: AtomicU64::new(0) }
    }
}

impl Passwords {
    /// Whether this is the password with that hash.
    pub(super) async fn check(&self, name: Name, hash: &str, typed: String) -> Result<(), Refusal> {
        let checked = self.checked(name, hash, typed).await;
        if checked.is_err() {
            self.refused.fetch_add(1, Ordering::Relaxed);
        }
        checked
    }

    async fn checked(&self, name: Name, hash: &str, typed: String) -> Result<(), Refusal> {
        let turn = timeout(PATIENCE, Arc::clone(&self.turn).acquire_owned()).await;
        let Ok(Ok(turn)) = turn else { return Err(Refusal::Busy) };
        if !self.may_try(name, Instant::now()) {
            return Err(Refusal::TooMany);
        }
        let hash = Password::parse(hash).map_err(|_| Refusal::Wrong)?;
        let checked = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            hash.is(&typed)
        });
        match checked.await {
            Ok(true) => {
                self.wrong().remove(&name);
                Ok(())
            }
            _ => Err(Refusal::Wrong),
        }
    }

    /// Tries that were refused.
    pub(super) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Counts a try as a wrong one, until it is known to be right.
    fn may_try(&self, name: Name, now: Instant) -> bool {
        let mut wrong = self.wrong();
        let is_over = |since: Instant| now.saturating_duration_since(since) >= SPAN;
        if wrong.len() >= MOST_FILES && !wrong.contains_key(&name) {
            wrong.retain(|_, (_, since)| !is_over(*since));
            if wrong.len() >= MOST_FILES {
                return false;
            }
        }
        let (count, since) = wrong.entry(name).or_insert((0, now));
        if is_over(*since) {
            (*count, *since) = (0, now);
        }
        *count += 1;
        *count <= MOST_WRONG
    }

    fn wrong(&self) -> MutexGuard<'_, HashMap<Name, (u32, Instant)>> {
        self.wrong.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(digit: char) -> Name {
        Name::parse(&digit.to_string().repeat(40)).unwrap()
    }

    #[tokio::test]
    async fn a_file_has_so_many_wrong_passwords_in_an_hour() {
        let passwords = Passwords::default();
        let hash = Password::cheap("secret").to_string();
        let check = async |name, typed: &str| passwords.check(name, &hash, typed.to_owned()).await;
        for _ in 0..MOST_WRONG - 1 {
            assert_eq!(check(name('a'), "Secret").await, Err(Refusal::Wrong));
        }
        // A right one begins anew.
        assert_eq!(check(name('a'), "secret").await, Ok(()));
        for _ in 0..MOST_WRONG {
            assert_eq!(check(name('a'), "").await, Err(Refusal::Wrong));
        }
        assert_eq!(check(name('a'), "secret").await, Err(Refusal::TooMany));
        assert_eq!(check(name('b'), "secret").await, Ok(()));
        assert_eq!(passwords.refused(), u64::from(2 * MOST_WRONG));
        let later = Instant::now() + SPAN;
        assert!(passwords.may_try(name('a'), later));
    }

    #[test]
    fn a_password_is_typed_easily_and_never_the_same() {
        let (one, two) = (random().unwrap(), random().unwrap());
        assert!(one != two && one.len() == CHARACTERS);
        assert!(one.bytes().all(|octet| ALPHABET.contains(&octet)));
    }
}
