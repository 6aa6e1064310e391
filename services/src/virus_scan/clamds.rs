//! Several clamds of which any may be asked.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::clamd::{Answer, Clamd};
use crate::mail::{Mail, Octets};
use crate::measure::{Measure, MeasureKind};
use crate::service::ServiceError;

/// How long one that has failed is asked behind the others.
const PAUSE: Duration = Duration::from_secs(10);

/// Clamds that are worth the same.
#[derive(Debug)]
pub(super) struct Clamds {
    members: Vec<Member>,
    /// For a scan, whoever is asked.
    timeout: Duration,
    clean: AtomicU64,
    found: AtomicU64,
    failed: AtomicU64,
}

#[derive(Debug)]
struct Member {
    clamd: Clamd,
    open: AtomicU64,
    failed: Mutex<Option<Instant>>,
}

/// A scan that is under way. One that is given up counts as failed.
struct Scan<'a> {
    result: &'a AtomicU64,
}

/// A scan that a clamd is at work on.
struct Open<'a>(&'a AtomicU64);

impl Clamds {
    /// Clamds at these addresses.
    ///
    /// # Errors
    /// Which is none, and why.
    pub(super) fn new(addresses: &[String], timeout: Duration) -> Result<Self, String> {
        if addresses.is_empty() {
            return Err("clamd: a list without addresses".to_owned());
        }
        let member = |address: &String| {
            let clamd = Clamd::new(address)?;
            Ok::<_, String>(Member { clamd, open: AtomicU64::new(0), failed: Mutex::default() })
        };
        Ok(Self {
            members: addresses.iter().map(member).collect::<Result<_, _>>()?,
            timeout,
            clean: AtomicU64::new(0),
            found: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        })
    }

    /// Asks about a message.
    pub(super) async fn scan_mail(&self, mail: &Mail) -> Result<Answer, ServiceError> {
        self.scan(&[mail.header().clone().into(), mail.body().clone()]).await
    }

    /// Asks about octets: the one that has least to do, and while it fails the next. Each gets an equal share of the
    /// time that is left.
    pub(super) async fn scan(&self, pieces: &[Octets]) -> Result<Answer, ServiceError> {
        let mut scan = Scan { result: &self.failed };
        let end = Instant::now() + self.timeout;
        let mut left = self.in_turn();
        let mut failure = ServiceError::new("clamd", "there is none");
        while let Some(member) = left.pop() {
            let time = end.saturating_duration_since(Instant::now());
            match member.scan(pieces, share(time, left.len())).await {
                Ok(answer) => {
                    scan.result = match answer {
                        Answer::Clean => &self.clean,
                        Answer::Found(_) => &self.found,
                    };
                    return Ok(answer);
                }
                // What can't be read here can't be sent to any.
                Err(error) if error.stage != "clamd" => return Err(error),
                Err(error) => {
                    if !left.is_empty() {
                        let cause = &error.cause;
                        tracing::info!(cause, "asking another clamd");
                    }
                    failure = error;
                }
            }
        }
        Err(failure)
    }

    /// The first one to ask last.
    fn in_turn(&self) -> Vec<&Member> {
        let mut members: Vec<_> = self.members.iter().collect();
        members.sort_by_cached_key(|member| {
            let open = member.open.load(Ordering::Relaxed);
            std::cmp::Reverse((member.has_failed(), open))
        });
        members
    }

    /// How many scans there are and were.
    pub(super) fn measures(&self) -> Vec<Measure> {
        let counter = |result, count: &AtomicU64| Measure {
            name: "clamd_scans",
            help: "Scans by clamd, by their result",
            kind: MeasureKind::Counter,
            label: Some(("result", result)),
            value: count.load(Ordering::Relaxed),
        };
        let gauge = |name, help, value| Measure {
            name,
            help,
            kind: MeasureKind::Gauge,
            label: None,
            value,
        };
        let members = || self.members.iter();
        let open = members().map(|member| member.open.load(Ordering::Relaxed)).sum();
        let failed = members().filter(|member| member.has_failed()).count() as u64;
        vec![
            gauge("clamd_open_scans", "Scans that clamd is at work on, or connecting for", open),
            gauge("clamd_failed", "Clamds that have failed within the last 10 s", failed),
            counter("clean", &self.clean),
            counter("found", &self.found),
            counter("failed", &self.failed),
        ]
    }
}

/// What one has of the time that is left for it and so many others.
fn share(time: Duration, others: usize) -> Duration {
    time / u32::try_from(others + 1).unwrap_or(u32::MAX)
}

impl Member {
    async fn scan(&self, pieces: &[Octets], limit: Duration) -> Result<Answer, ServiceError> {
        let _open = Open::new(&self.open);
        let answered = self.clamd.scan(pieces, limit).await;
        let failed = answered.as_ref().err().filter(|error| error.stage == "clamd");
        *self.failed.lock().unwrap_or_else(PoisonError::into_inner) =
            failed.map(|_| Instant::now());
        answered
    }

    fn has_failed(&self) -> bool {
        let failed = *self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        failed.is_some_and(|at| at.elapsed() < PAUSE)
    }
}

impl<'a> Open<'a> {
    fn new(open: &'a AtomicU64) -> Self {
        open.fetch_add(1, Ordering::Relaxed);
        Self(open)
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for Scan<'_> {
    fn drop(&mut self) {
        self.result.fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures_util::FutureExt;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    /// One that says this to each of so many, and how often it was asked.
    async fn says(answer: &'static [u8]) -> (String, Arc<AtomicU64>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let asked = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&asked);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::Relaxed);
                let _ = answer_one(stream, answer).await;
            }
        });
        (address, asked)
    }

    async fn answer_one(mut stream: TcpStream, answer: &[u8]) -> std::io::Result<()> {
        stream.read_exact(&mut [0; 10]).await?;
        loop {
            let size = stream.read_u32().await? as usize;
            if size == 0 {
                break;
            }
            stream.read_exact(&mut vec![0; size]).await?;
        }
        if answer.is_empty() {
            // It never says anything, even where nobody waits for it any more.
            std::future::pending::<()>().await;
        }
        stream.write_all(answer).await
    }

    fn clamds(addresses: &[&String], seconds: u64) -> Clamds {
        let addresses: Vec<_> = addresses.iter().map(|address| (*address).clone()).collect();
        Clamds::new(&addresses, Duration::from_secs(seconds)).unwrap()
    }

    fn counted(clamds: &Clamds) -> Vec<u64> {
        clamds.measures().iter().map(|measure| measure.value).collect()
    }

    #[tokio::test]
    async fn another_is_asked_where_one_fails_and_first_the_next_time() {
        let (broken, of_broken) = says(b"stream: broken ERROR\0").await;
        let (good, of_good) = says(b"stream: OK\0").await;
        let clamds = clamds(&[&good, &broken], 30);
        // With as much to do, the last one is asked first.
        for (asked, of_it) in [(1, 1), (2, 1), (3, 1)] {
            assert_eq!(clamds.scan(&["x".into()]).await, Ok(Answer::Clean));
            let counts = [&of_good, &of_broken].map(|count| count.load(Ordering::Relaxed));
            assert_eq!(counts, [asked, of_it], "the broken one is left for last");
        }
        assert_eq!(counted(&clamds), [0, 1, 3, 0, 0]);
    }

    #[tokio::test]
    async fn the_last_failure_is_told_if_all_fail() {
        let (one, _) = says(b"stream: one ERROR\0").await;
        let (two, _) = says(b"stream: two ERROR\0").await;
        let clamds = clamds(&[&one, &two], 30);
        let error = clamds.scan(&["x".into()]).await.unwrap_err();
        assert_eq!(error.cause, format!("{one}: answered \"stream: one ERROR\""));
        assert_eq!(counted(&clamds), [0, 2, 0, 0, 1]);
    }

    /// Even one that takes what it gets and says nothing leaves the next one its share of the time.
    #[tokio::test]
    async fn a_hung_one_does_not_take_all_the_time() {
        let (hung, _) = says(b"").await;
        let (good, _) = says(b"stream: X FOUND\0").await;
        assert_eq!(
            [2, 1, 0].map(|others| share(Duration::from_secs(60), others).as_secs()),
            [20, 30, 60]
        );
        let clamds = clamds(&[&good, &hung], 2);
        assert_eq!(clamds.scan(&["x".into()]).await, Ok(Answer::Found("X".to_owned())));
        assert_eq!(counted(&clamds), [0, 1, 0, 1, 0]);
    }

    #[tokio::test]
    async fn the_one_with_least_to_do_is_asked() {
        let (hung, _) = says(b"").await;
        let (good, _) = says(b"stream: OK\0").await;
        let clamds = clamds(&[&good, &hung], 3_600);
        let pieces = ["x".into()];
        let mut waiting = Box::pin(clamds.scan(&pieces));
        assert!(waiting.as_mut().now_or_never().is_none());
        assert_eq!(counted(&clamds)[0], 1);
        assert_eq!(clamds.scan(&pieces).await, Ok(Answer::Clean));
        drop(waiting);
        assert_eq!(counted(&clamds), [0, 0, 1, 0, 1], "given up is failed");
    }

    #[test]
    fn addresses_are_checked() {
        let error = |addresses: &[&str]| {
            let addresses: Vec<_> = addresses.iter().map(|one| (*one).to_owned()).collect();
            Clamds::new(&addresses, Duration::ZERO).unwrap_err()
        };
        assert_eq!(error(&[]), "clamd: a list without addresses");
        assert_eq!(error(&["a:1", "b"]), "clamd: \"b\" is neither host:port nor unix:/path");
    }
}
