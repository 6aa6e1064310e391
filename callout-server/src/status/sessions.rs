//! Who is logged in.

use std::collections::HashMap;
use std::fmt::Write;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::config::User;

/// Sessions at a time; one more ends the oldest. Worst case: so many users' names and hashes, some 30 KiB.
const MOST: usize = 64;

/// How long a session lasts: a shift.
pub(super) const LIFETIME: Duration = Duration::from_secs(12 * 60 * 60);

/// Octets of a token, from the system's source of randomness.
const TOKEN_OCTETS: usize = 32;

/// The open sessions, by their tokens, in memory alone: a restart ends them.
#[derive(Debug, Default)]
pub(super) struct Sessions(Mutex<HashMap<String, Session>>);

#[derive(Debug)]
struct Session {
    /// As the configuration said at the login: once it says something else the session is void.
    user: User,
    until: Instant,
}

impl Sessions {
    /// Begins a session; its token.
    ///
    /// # Errors
    /// If the system gives no random octets.
    pub(super) fn begin(&self, user: User, now: Instant) -> Result<String, getrandom::Error> {
        let mut octets = [0; TOKEN_OCTETS];
        getrandom::fill(&mut octets)?;
        let token = octets.iter().fold(String::new(), |mut token, octet| {
            let _ = write!(token, "{octet:02x}");
            token
        });
        let mut sessions = self.sessions();
        sessions.retain(|_, session| session.until > now);
        if sessions.len() >= MOST {
            let oldest = sessions.iter().min_by_key(|(_, session)| session.until);
            let oldest = oldest.map(|(token, _)| token.clone());
            oldest.map(|token| sessions.remove(&token));
        }
        sessions.insert(token.clone(), Session { user, until: now + LIFETIME });
        Ok(token)
    }

    /// Whose session this is.
    pub(super) fn find(&self, token: &str, now: Instant) -> Option<User> {
        let sessions = self.sessions();
        let session = sessions.get(token).filter(|session| session.until > now)?;
        Some(session.user.clone())
    }

    /// Ends a session.
    pub(super) fn end(&self, token: &str) {
        self.sessions().remove(token);
    }

    fn sessions(&self) -> MutexGuard<'_, HashMap<String, Session>> {
        // No change is left half done by a panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use services::Password;

    use super::*;

    fn user() -> User {
        User { name: "ada".to_owned(), password: Password::cheap("secret") }
    }

    #[test]
    fn a_session_ends_in_its_time_or_when_it_is_told_to() {
        let (sessions, now) = (Sessions::default(), Instant::now());
        let token = sessions.begin(user(), now).unwrap();
        assert_eq!(token.len(), 2 * TOKEN_OCTETS);
        let last = now + LIFETIME - Duration::from_secs(1);
        assert_eq!(sessions.find(&token, last), Some(user()));
        assert_eq!(sessions.find(&token, now + LIFETIME), None);
        assert_eq!(sessions.find("", now), None);
        let other = sessions.begin(user(), now).unwrap();
        assert_ne!(token, other);
        sessions.end(&token);
        assert_eq!(sessions.find(&token, now), None);
        assert_eq!(sessions.find(&other, now), Some(user()));
    }

    #[test]
    fn one_session_too_many_ends_the_oldest() {
        let (sessions, now) = (Sessions::default(), Instant::now());
        let begin = |second| sessions.begin(user(), now + Duration::from_secs(second)).unwrap();
        let tokens: Vec<String> = (0..MOST as u64 + 1).map(begin).collect();
        assert_eq!(sessions.find(&tokens[0], now), None);
        assert!(tokens[1..].iter().all(|token| sessions.find(token, now).is_some()));
        // Those that are over make room before.
        let late = now + LIFETIME + Duration::from_secs(MOST as u64 + 1);
        sessions.begin(user(), late).unwrap();
        assert_eq!(sessions.sessions().len(), 1);
    }
}
