//! Users and their passwords: files as `htpasswd -B` writes them.
//!
//! A bcrypt hash takes a tenth of a second to check, and clients send their password with each request. So
//! a password that was right is remembered for a while, as a hash with a salt of this process; checks run on
//! other threads, a few at a time; and an address that guesses is made to wait.

use crate::limit::Limiter;
use crate::problem::{Code, Refusal, Result};
use crate::registry::fault;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, Instant};
use yare_errdefs::Error;
use yare_oci::Digest;
use yare_tls::{Watched, read};

/// How long a right password is remembered.
const REMEMBERED: Duration = Duration::from_secs(300);
/// Passwords that are remembered at most.
const MOST: usize = 10_000;
/// Checks that run at the same time.
const CHECKS: usize = 2;
/// Wrong passwords a second of one address; ten times as many may come at once.
const GUESSES: f64 = 0.5;
/// The cost of a hash that is made here. Twelve is what OWASP asks for at least today; each more doubles the
/// time.
const COST: u32 = 12;

/// The users of a file.
pub(crate) struct Htpasswd {
    users: Watched<Users>,
    right: Mutex<HashMap<Digest, Instant>>,
    salt: String,
    checks: tokio::sync::Semaphore,
    guesses: Limiter,
}

/// The hashes of a file by their users.
#[derive(Default)]
struct Users {
    hashes: HashMap<String, String>,
    /// What the password of an unknown user is compared with.
    nobody: String,
}

impl Users {
    /// The hash that decides, and whether it is a user's. That of an unknown user takes as much work as the
    /// dearest of the file, so that the time of a refusal does not tell which users there are.
    fn hash(&self, user: &str) -> (String, bool) {
        let known = self.hashes.get(user);
        (known.unwrap_or(&self.nobody).clone(), known.is_some())
    }
}

impl std::fmt::Debug for Users {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Users").field("count", &self.hashes.len()).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Htpasswd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Htpasswd").field("users", &self.users).finish_non_exhaustive()
    }
}

impl Htpasswd {
    /// Reads the file.
    pub(crate) fn open(path: &Path) -> yare_errdefs::Result<Self> {
        let file = path.to_owned();
        let users = Watched::new(vec![file.clone()], move || {
            let text = String::from_utf8_lossy(&read(&file)?).into_owned();
            parse(&text).map_err(|why| Error::invalid(format!("{}: {why}", file.display())))
        })?;
        let salt = crate::uploads::random_id()
            .map_err(|error| Error::internal("cannot make a salt").caused_by(error))?;
        Ok(Self {
            users,
            right: Mutex::default(),
            salt,
            checks: tokio::sync::Semaphore::new(CHECKS),
            guesses: Limiter::new(GUESSES),
        })
    }

    /// What changes when the password of a user does; `None` for who is no user.
    pub(crate) fn stamp(&self, user: &str) -> Option<String> {
        let (hash, is_known) = self.users.get().hash(user);
        is_known.then(|| Digest::of(format!("{user}\0{hash}")).hex())
    }

    /// Whether this is the user's password. An address that was wrong too often is refused for a while.
    pub(crate) async fn check(&self, user: &str, password: &str, address: &str) -> Result<bool> {
        let (hash, is_known) = self.users.get().hash(user);
        // With the hash in it, a changed password makes what was remembered useless.
        let key = Digest::of(format!("{}\0{user}\0{hash}\0{password}", self.salt));
        let now = Instant::now();
        if is_known && self.right.lock().get(&key).is_some_and(|at| now.duration_since(*at) < REMEMBERED) {
            return Ok(true);
        }
        if !self.guesses.has(address, now) {
            return Err(Refusal::new(Code::TooManyRequests, "too many wrong passwords from this address")
                .with_header(http::header::RETRY_AFTER, "10")
                .into());
        }
        let Ok(_permit) = self.checks.acquire().await else { return Ok(false) };
        let password = password.to_owned();
        let verified = tokio::task::spawn_blocking(move || bcrypt::verify(password, &hash).unwrap_or(false));
        let is_right = verified.await.map_err(fault)? && is_known;
        if is_right {
            let mut right = self.right.lock();
            if right.len() >= MOST {
                right.retain(|_, at| now.duration_since(*at) < REMEMBERED);
            }
            if right.len() < MOST {
                right.insert(key, now);
            }
        } else {
            // The token that this costs is what `has` looks at.
            let _ = self.guesses.take(address, now);
        }
        Ok(is_right)
    }
}

/// A line of the file: the user, and a hash of the password that takes about a tenth of a second to check.
pub fn line(user: &str, password: &str) -> yare_errdefs::Result<String> {
    if user.is_empty() || user.contains(|character: char| character == ':' || character.is_control()) {
        return Err(Error::invalid("a user's name is not empty and has no colon in it"));
    }
    if password.is_empty() || password.len() > 72 {
        return Err(Error::invalid("a password has 1 to 72 bytes: bcrypt reads no more"));
    }
    let hash = bcrypt::hash(password, COST)
        .map_err(|error| Error::internal("cannot hash the password").caused_by(error))?;
    Ok(format!("{user}:{hash}\n"))
}

/// `user:hash` lines; what is no bcrypt hash is refused rather than passed over.
fn parse(text: &str) -> std::result::Result<Users, String> {
    let (mut hashes, mut dearest) = (HashMap::new(), 0);
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let number = index + 1;
        let (user, hash) = line.split_once(':').ok_or(format!("line {number} is not user:hash"))?;
        let is_bcrypt = ["$2y$", "$2b$", "$2a$"].iter().any(|prefix| hash.starts_with(prefix));
        if user.is_empty() || !is_bcrypt || hash.len() != 60 {
            return Err(format!("line {number} has no bcrypt hash; make it with htpasswd -B"));
        }
        let parts: bcrypt::HashParts =
            hash.parse().map_err(|error| format!("line {number} has no bcrypt hash: {error}"))?;
        dearest = dearest.max(parts.get_cost());
        hashes.insert(user.to_owned(), hash.to_owned());
    }
    let cost = if hashes.is_empty() { COST } else { dearest };
    // Dots are zeros to bcrypt: a salt and a hash of nothing but zeros decode, and are no password's.
    Ok(Users { hashes, nobody: format!("$2b${cost:02}${}", ".".repeat(53)) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_bcrypt_is_taken() {
        let hash = bcrypt::hash("secret", 4).unwrap();
        let users = parse(&format!("# users\n\nalice:{hash}\n")).unwrap();
        assert!(users.hashes.contains_key("alice"));
        for bad in ["alice", "alice:{SHA}x", "alice:$apr1$x", ":x", "alice:$2y$short"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_unknown_user_takes_as_much_work_as_a_known_one() {
        let cost = |hash: &str| hash.parse::<bcrypt::HashParts>().unwrap().get_cost();
        let users = parse(&format!("alice:{}\n", bcrypt::hash("secret", 5).unwrap())).unwrap();
        let (known, unknown) = (users.hash("alice"), users.hash("mallory"));
        assert!(known.1 && !unknown.1);
        assert_eq!(cost(&known.0), cost(&unknown.0));
        // One that does not decode is an error before any work is done.
        assert!(!bcrypt::verify("secret", &unknown.0).unwrap());
        assert_eq!(cost(&parse("").unwrap().nobody), COST);
    }

    #[test]
    fn a_line_that_is_made_is_taken() {
        let text = line("alice", "secret").unwrap();
        let users = parse(&text).unwrap();
        assert!(bcrypt::verify("secret", &users.hashes["alice"]).unwrap());
        for (user, password) in [("", "x"), ("a:b", "x"), ("a\nb", "x"), ("a", ""), ("a", &"x".repeat(73))] {
            assert!(line(user, password).is_err(), "{user} {password}");
        }
    }

    #[tokio::test]
    async fn passwords_are_checked_and_guessing_is_slowed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("htpasswd");
        std::fs::write(&path, format!("alice:{}\n", bcrypt::hash("secret", 4).unwrap())).unwrap();
        let users = Htpasswd::open(&path).unwrap();
        assert!(users.check("alice", "secret", "a").await.unwrap());
        assert!(!users.check("alice", "wrong", "a").await.unwrap());
        assert!(!users.check("bob", "secret", "a").await.unwrap());
        let mut refused = false;
        for _ in 0..10 {
            refused |= users.check("alice", "wrong", "b").await.is_err();
        }
        assert!(refused);
        assert!(users.check("alice", "secret", "b").await.unwrap(), "a right password was remembered");
        std::fs::write(&path, format!("alice:{}\n", bcrypt::hash("other", 4).unwrap())).unwrap();
        tokio::time::sleep(Duration::from_millis(1100)).await;
        assert!(!users.check("alice", "secret", "c").await.unwrap(), "a changed password counts at once");
        assert!(users.check("alice", "other", "c").await.unwrap());
    }
}
