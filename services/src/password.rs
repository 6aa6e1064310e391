//! Passwords as Argon2id hashes (RFC 9106): of those who may look at the status page, and of links.

use std::fmt;

use argon2::password_hash::{Error, PasswordHash, PasswordHasher, PasswordVerifier, SaltString};
use argon2::{Algorithm, Argon2, Params, Version};

/// Octets of memory that one hash may take. Ours takes [`Password::MEMORY`], as OWASP recommends.
const MOST_MEMORY: u32 = 64 * 1024 * 1024;

/// Passes over that memory, at the most; and threads. Ours has 2 passes and 1 thread.
const MOST_PASSES: u32 = 16;

/// Octets of a password.
const LONGEST: usize = 1_024;

/// The hash of a password: a PHC string, such as `$argon2id$v=19$m=19456,t=2,p=1$SALT$HASH`.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(String);

/// What is no password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PasswordError {
    /// No hash that can be used.
    #[error(
        "a password stands here as its Argon2id hash, which callout-server password makes: {0}"
    )]
    Hash(String),
    /// Empty, or too long.
    #[error("a password has 1 to {LONGEST} octets")]
    Length,
    /// The system gives no random octets, or memory.
    #[error("the password can't be hashed: {0}")]
    System(String),
}

impl Password {
    /// Octets of memory that making a hash takes, and checking it.
    pub const MEMORY: usize = Params::DEFAULT_M_COST as usize * 1024;

    /// The hash that stands in a configuration.
    ///
    /// # Errors
    /// If it is another kind of hash, or one that takes too much.
    pub fn parse(text: &str) -> Result<Self, PasswordError> {
        let invalid = |why: &dyn fmt::Display| PasswordError::Hash(why.to_string());
        let hash = PasswordHash::new(text).map_err(|error| invalid(&error))?;
        if hash.algorithm != Algorithm::Argon2id.ident() || hash.hash.is_none() {
            return Err(invalid(&"this is another kind of hash"));
        }
        let params = Params::try_from(&hash).map_err(|error| invalid(&error))?;
        let is_bounded = params.m_cost() <= MOST_MEMORY / 1024
            && params.t_cost() <= MOST_PASSES
            && params.p_cost() <= MOST_PASSES;
        match is_bounded {
            true => Ok(Self(text.to_owned())),
            false => Err(invalid(&"m may be 65536 at the most, t and p 16")),
        }
    }

    /// Hashes a password, which takes a while and [`Password::MEMORY`].
    ///
    /// # Errors
    /// If it is none, or the system can't.
    pub fn hash(password: &str) -> Result<Self, PasswordError> {
        if password.is_empty() || password.len() > LONGEST {
            return Err(PasswordError::Length);
        }
        let failed = |error: &dyn fmt::Display| PasswordError::System(error.to_string());
        let mut salt = [0; 16];
        getrandom::fill(&mut salt).map_err(|error| failed(&error))?;
        let salt = SaltString::encode_b64(&salt).map_err(|error| failed(&error))?;
        let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, Params::default());
        let hash = argon2.hash_password(password.as_bytes(), &salt);
        hash.map(|hash| Self(hash.to_string())).map_err(|error| failed(&error))
    }

    /// Whether this is the password; it takes as long as hashing it.
    pub fn is(&self, password: &str) -> bool {
        let verified = PasswordHash::new(&self.0)
            .and_then(|hash| Argon2::default().verify_password(password.as_bytes(), &hash));
        match verified {
            Ok(()) => true,
            Err(Error::Password) => false,
            Err(error) => {
                tracing::error!(%error, "a password can't be checked");
                false
            }
        }
    }

    /// A hash with as little work as there can be, for tests.
    #[doc(hidden)]
    #[expect(clippy::unwrap_used, reason = "tests have passwords that can be hashed")]
    pub fn cheap(password: &str) -> Self {
        let salt = SaltString::encode_b64(b"salt and pepper").unwrap();
        let params = Params::new(8, 1, 1, None).unwrap();
        let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
        Self(argon2.hash_password(password.as_bytes(), &salt).unwrap().to_string())
    }

    /// Octets of memory that checking it takes.
    pub fn memory(&self) -> usize {
        let hash = PasswordHash::new(&self.0);
        let params = hash.and_then(|hash| Params::try_from(&hash)).unwrap_or_default();
        params.m_cost() as usize * 1024
    }
}

impl fmt::Display for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Password {
    /// A hash can be guessed at: it is not for logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_is_of_one_password_alone_and_of_none_twice() {
        let hash = Password::hash("correct horse").unwrap();
        assert!(hash.is("correct horse") && !hash.is("correct horse ") && !hash.is(""));
        assert_eq!(hash.memory(), 19 * 1024 * 1024);
        assert!(hash.to_string().starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{hash}");
        assert_eq!(Password::parse(&hash.to_string()), Ok(hash.clone()));
        assert_ne!(Password::hash("correct horse"), Ok(hash.clone()));
        assert_eq!(format!("{hash:?}"), "Password");
        let long = "x".repeat(LONGEST + 1);
        assert_eq!(Password::hash(""), Err(PasswordError::Length));
        assert_eq!(Password::hash(&long), Err(PasswordError::Length));
    }

    #[test]
    fn other_hashes_are_refused() {
        let tail = "$c2FsdHNhbHRzYWx0$Yx9tJ8ZC1w4R0gWAbIYcVQ9gk1Zl0p7E3cD1u2H4Xkg";
        let sound = format!("$argon2id$v=19$m=64,t=1,p=1{tail}");
        assert!(Password::parse(&sound).is_ok());
        let refused = [
            "secret".to_owned(),
            "$argon2id$v=19$m=64,t=1,p=1$c2FsdHNhbHRzYWx0".to_owned(),
            format!("$argon2i$v=19$m=64,t=1,p=1{tail}"),
            format!("$argon2id$v=19$m=65537,t=1,p=1{tail}"),
            format!("$argon2id$v=19$m=64,t=17,p=1{tail}"),
            format!("$argon2id$v=19$m=4096,t=1,p=17{tail}"),
        ];
        for text in refused {
            let error = Password::parse(&text).expect_err(&text).to_string();
            assert!(error.contains("callout-server password makes"), "{text}: {error}");
        }
    }
}
