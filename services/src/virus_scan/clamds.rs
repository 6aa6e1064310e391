//! Several clamds of which any may be asked.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep};

use super::cache::{Cache, CacheSettings, Hash};
use super::clamd::{Answer, Clamd, Unanswered};
use crate::mail::{Mail, Octets};
use crate::measure::{Measure, MeasureKind};
use crate::service::ServiceError;

/// How long one that has failed is asked behind the others.
const PAUSE: Duration = Duration::from_secs(10);
/// The first and the longest pause before all are asked again.
const FIRST_RETRY: Duration = Duration::from_millis(100);
const LONGEST_RETRY: Duration = Duration::from_secs(1);

/// Clamds that are worth the same.
#[derive(Debug)]
pub(super) struct Clamds {
    members: Arc<[Member]>,
    times: Times,
    cache: Cache,
    clean: AtomicU64,
    found: AtomicU64,
    too_large: AtomicU64,
    failed: AtomicU64,
    retries: AtomicU64,
    /// Asks them whether they answer.
    pinging: Mutex<Option<Pinging>>,
}

/// How long things may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    /// A scan, whoever is asked.
    pub(super) timeout: Duration,
    /// Asking again while all are gone; within the time for a scan.
    pub(super) retry: Duration,
}

#[derive(Debug)]
struct Member {
    clamd: Clamd,
    open: AtomicU64,
    failed: Mutex<Option<Instant>>,
    /// Why it did not answer the last PING.
    unanswered: Mutex<Option<String>>,
}

/// A scan that is under way. One that is given up counts as failed.
struct Scan<'a> {
    result: &'a AtomicU64,
}

/// A scan that a clamd is at work on.
struct Open<'a>(&'a AtomicU64);

/// A task that ends with who has it.
#[derive(Debug)]
struct Pinging(AbortHandle);

impl Drop for Pinging {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Clamds {
    /// Clamds at these addresses.
    ///
    /// # Errors
    /// Which is none, and why.
    pub(super) fn new(
        addresses: &[String],
        times: Times,
        cache: CacheSettings,
    ) -> Result<Self, String> {
        if addresses.is_empty() {
            return Err("clamd: a list without addresses".to_owned());
        }
        let member = |address: &String| {
            Ok::<_, String>(Member {
                clamd: Clamd::new(address)?,
                open: AtomicU64::new(0),
                failed: Mutex::default(),
                unanswered: Mutex::default(),
            })
        };
        Ok(Self {
            members: addresses.iter().map(member).collect::<Result<_, _>>()?,
            times,
            cache: Cache::new(cache),
            clean: AtomicU64::new(0),
            found: AtomicU64::new(0),
            too_large: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            retries: AtomicU64::new(0),
            pinging: Mutex::default(),
        })
    }

    /// Asks them from now on, again and again, whether they answer.
    pub(super) fn ping_each(&self, interval: Duration) {
        let members = Arc::clone(&self.members);
        let task = tokio::spawn(async move {
            loop {
                futures_util::future::join_all(members.iter().map(Member::ping)).await;
                sleep(interval).await;
            }
        });
        let pinging = Pinging(task.abort_handle());
        *self.pinging.lock().unwrap_or_else(PoisonError::into_inner) = Some(pinging);
    }

    /// Which of them did not answer the last PING, and why.
    pub(super) fn condition(&self) -> Option<String> {
        let unanswered: Vec<_> = self.members.iter().filter_map(Member::unanswered).collect();
        (!unanswered.is_empty()).then(|| unanswered.join("; "))
    }

    /// Asks about a message.
    pub(super) async fn scan_mail(&self, mail: &Mail) -> Result<Answer, ServiceError> {
        self.scan(&[mail.header().clone().into(), mail.body().clone()]).await
    }

    /// Asks about octets. While all are gone, they are asked again for some time: a clamd that starts, or starts again, is
    /// there before long.
    pub(super) async fn scan(&self, pieces: &[Octets]) -> Result<Answer, ServiceError> {
        let mut scan = Scan { result: &self.failed };
        let hash = self.cache.hash(pieces).await?;
        let begin = Instant::now();
        let end = begin + self.times.timeout;
        let patience = begin + self.times.retry.min(self.times.timeout);
        let mut pause = FIRST_RETRY;
        loop {
            match self.round(pieces, hash.as_ref(), end).await {
                Ok(answer) => {
                    scan.result = match answer {
                        Answer::Clean => &self.clean,
                        Answer::Found(_) => &self.found,
                        Answer::TooLarge => &self.too_large,
                    };
                    return Ok(answer);
                }
                Err(gone) if gone.may_pass && Instant::now() + pause < patience => {
                    if pause == FIRST_RETRY {
                        let cause = &gone.error.cause;
                        tracing::info!(cause, "no clamd answers, asking again");
                    }
                    self.retries.fetch_add(1, Ordering::Relaxed);
                    sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_RETRY);
                }
                Err(unanswered) => return Err(unanswered.error),
            }
        }
    }

    /// Asks the one that has least to do, and while it fails the next. Each gets an equal share of the time that is left.
    async fn round(
        &self,
        pieces: &[Octets],
        hash: Option<&Hash>,
        end: Instant,
    ) -> Result<Answer, Unanswered> {
        let mut left = self.in_turn();
        let mut failure = None;
        while let Some(member) = left.pop() {
            let time = end.saturating_duration_since(Instant::now());
            match self.ask(member, pieces, hash, share(time, left.len())).await {
                Ok(answer) => return Ok(answer),
                // What can't be read here can't be sent to any.
                Err(unanswered) if unanswered.error.stage != "clamd" => return Err(unanswered),
                Err(unanswered) => {
                    if !left.is_empty() {
                        let cause = &unanswered.error.cause;
                        tracing::info!(cause, "asking another clamd");
                    }
                    failure = Some(unanswered);
                }
            }
        }
        let none =
            || Unanswered { error: ServiceError::new("clamd", "there is none"), may_pass: false };
        Err(failure.unwrap_or_else(none))
    }

    /// Asks one, unless it has said it before with the database that it has now. What came of a scan is kept for that:
    /// should the database change meanwhile, then for one that it has no longer.
    async fn ask(
        &self,
        member: &Member,
        pieces: &[Octets],
        hash: Option<&Hash>,
        limit: Duration,
    ) -> Result<Answer, Unanswered> {
        let Some(hash) = hash else { return member.scan(pieces, limit).await };
        let end = Instant::now() + limit;
        // One that does not answer this fails at the scan.
        let database = member.clamd.database(limit).await.ok().flatten();
        let known =
            database.as_ref().and_then(|database| self.cache.get(hash, database, Instant::now()));
        if let Some(answer) = known {
            return Ok(answer);
        }
        let left = end.saturating_duration_since(Instant::now());
        let answer = member.scan(pieces, left).await?;
        let Some(database) = database else { return Ok(answer) };
        self.cache.put(*hash, &database, &answer, Instant::now());
        Ok(answer)
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
        let mut measures = vec![
            gauge("clamd_open_scans", "Scans that clamd is at work on, or connecting for", open),
            gauge(
                "clamd_failed",
                "Clamds that have failed within the last 10 s, or not answered PING",
                failed,
            ),
            counter("clean", &self.clean),
            counter("found", &self.found),
            counter("too_large", &self.too_large),
            counter("failed", &self.failed),
            Measure {
                name: "clamd_retries",
                help: "Times that a scan waited since no clamd could be reached",
                kind: MeasureKind::Counter,
                label: None,
                value: self.retries.load(Ordering::Relaxed),
            },
        ];
        measures.extend(self.cache.measures());
        measures
    }

    /// Octets of memory that it takes in the worst case, besides what is scanned.
    pub(super) fn worst_case_memory(&self) -> usize {
        self.cache.worst_case()
    }
}

/// What one has of the time that is left for it and so many others.
fn share(time: Duration, others: usize) -> Duration {
    time / u32::try_from(others + 1).unwrap_or(u32::MAX)
}

impl Member {
    async fn scan(&self, pieces: &[Octets], limit: Duration) -> Result<Answer, Unanswered> {
        let _open = Open::new(&self.open);
        let answered = self.clamd.scan(pieces, limit).await;
        let failed = answered.as_ref().err().filter(|failed| failed.error.stage == "clamd");
        *self.failed.lock().unwrap_or_else(PoisonError::into_inner) =
            failed.map(|_| Instant::now());
        answered
    }

    fn has_failed(&self) -> bool {
        let failed = *self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        failed.is_some_and(|at| at.elapsed() < PAUSE) || self.unanswered().is_some()
    }

    async fn ping(&self) {
        let now = self.clamd.ping().await.err().map(|error| error.cause);
        let mut unanswered = self.unanswered.lock().unwrap_or_else(PoisonError::into_inner);
        match (&*unanswered, &now) {
            (None, Some(cause)) => tracing::warn!(cause, "clamd does not answer PING"),
            (Some(_), None) => tracing::info!(clamd = %self.clamd, "clamd answers again"),
            _ => {}
        }
        *unanswered = now;
    }

    fn unanswered(&self) -> Option<String> {
        self.unanswered.lock().unwrap_or_else(PoisonError::into_inner).clone()
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
        Clamds::new(&addresses, times(seconds, 0), NOTHING_KEPT).unwrap()
    }

    const NOTHING_KEPT: CacheSettings = CacheSettings { entries: 0, seconds: 0 };

    fn times(timeout: u64, retry: u64) -> Times {
        let [timeout, retry] = [timeout, retry].map(Duration::from_secs);
        Times { timeout, retry }
    }

    /// Open scans, clamds that failed, and how many scans were clean, found, too large, and failed.
    fn counted(clamds: &Clamds) -> [u64; 6] {
        let measures = clamds.measures();
        std::array::from_fn(|nth| measures[nth].value)
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
        assert_eq!(counted(&clamds), [0, 1, 3, 0, 0, 0]);
    }

    #[tokio::test]
    async fn the_last_failure_is_told_if_all_fail() {
        let (one, _) = says(b"stream: one ERROR\0").await;
        let (two, _) = says(b"stream: two ERROR\0").await;
        let clamds = clamds(&[&one, &two], 30);
        let error = clamds.scan(&["x".into()]).await.unwrap_err();
        assert_eq!(error.cause, format!("{one}: answered \"stream: one ERROR\""));
        assert_eq!(counted(&clamds), [0, 2, 0, 0, 0, 1]);
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
        assert_eq!(counted(&clamds), [0, 1, 0, 1, 0, 0]);
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
        assert_eq!(counted(&clamds), [0, 0, 1, 0, 0, 1], "given up is failed");
    }

    /// One that has this database, counts scans, and finds nothing; the database may be exchanged.
    async fn with_database(database: &Arc<Mutex<&'static str>>) -> (String, Arc<AtomicU64>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let scans = Arc::new(AtomicU64::new(0));
        let (count, database) = (Arc::clone(&scans), Arc::clone(database));
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut command = [0; 9];
                stream.read_exact(&mut command).await.unwrap();
                if command == *b"zVERSION\0" {
                    let version = *database.lock().unwrap();
                    stream.write_all(version.as_bytes()).await.unwrap();
                    continue;
                }
                let nth = count.fetch_add(1, Ordering::Relaxed);
                let mut content = vec![0; 1 + 4 + 1 + 4];
                stream.read_exact(&mut content).await.unwrap();
                let answer: &[u8] = match content[5] {
                    b'e' if nth == 0 => b"stream: out of order ERROR\0",
                    _ => b"stream: OK\0",
                };
                stream.write_all(answer).await.unwrap();
            }
        });
        (address, scans)
    }

    fn keeping(address: &str) -> Clamds {
        let cache = CacheSettings { entries: 10, seconds: 3_600 };
        Clamds::new(&[address.to_owned()], times(30, 0), cache).unwrap()
    }

    #[tokio::test]
    async fn what_was_said_counts_until_the_database_changes() {
        let database = Arc::new(Mutex::new("ClamAV 1.4.3/27700/x"));
        let (address, scans) = with_database(&database).await;
        let clamds = keeping(&address);
        let scans = || scans.load(Ordering::Relaxed);
        for (octets, expected) in [("a", 1), ("a", 1), ("b", 2), ("a", 2)] {
            assert_eq!(clamds.scan(&[octets.into()]).await, Ok(Answer::Clean));
            assert_eq!(scans(), expected, "{octets}");
        }
        *database.lock().unwrap() = "ClamAV 1.4.3/27701/x";
        for expected in [3, 3] {
            assert_eq!(clamds.scan(&["a".into()]).await, Ok(Answer::Clean));
            assert_eq!(scans(), expected);
        }
        // No number: nobody would know of a change.
        *database.lock().unwrap() = "ClamAV 1.4.3";
        for expected in [4, 5] {
            assert_eq!(clamds.scan(&["a".into()]).await, Ok(Answer::Clean));
            assert_eq!(scans(), expected);
        }
    }

    #[tokio::test]
    async fn an_error_is_no_answer_to_be_kept() {
        let database = Arc::new(Mutex::new("ClamAV 1.4.3/27700/x"));
        let (address, scans) = with_database(&database).await;
        let clamds = keeping(&address);
        assert!(clamds.scan(&["e".into()]).await.is_err());
        assert_eq!(clamds.scan(&["e".into()]).await, Ok(Answer::Clean));
        assert_eq!(scans.load(Ordering::Relaxed), 2);
    }

    /// It starts while somebody waits for it.
    #[tokio::test]
    async fn a_scan_waits_for_a_clamd_that_starts() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let address = format!("unix:{}", path.display());
        let clamds = Clamds::new(&[address], times(60, 60), NOTHING_KEPT).unwrap();
        let retries = || {
            let measures = clamds.measures();
            measures.iter().find(|measure| measure.name == "clamd_retries").unwrap().value
        };
        let starts = async {
            while retries() == 0 {
                tokio::task::yield_now().await;
            }
            let listener = tokio::net::UnixListener::bind(&path).unwrap();
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.read_exact(&mut [0; 10 + 5 + 4]).await.unwrap();
            stream.write_all(b"stream: OK\0").await.unwrap();
        };
        let pieces = ["x".into()];
        let (answer, ()) = tokio::join!(clamds.scan(&pieces), starts);
        assert_eq!(answer, Ok(Answer::Clean));
        assert_eq!(counted(&clamds), [0, 0, 1, 0, 0, 0]);
    }

    #[tokio::test]
    async fn one_that_does_not_answer_ping_is_asked_last_and_named() {
        let database = Arc::new(Mutex::new("PONG"));
        let (good, of_good) = with_database(&database).await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let gone = listener.local_addr().unwrap().to_string();
        drop(listener);
        // With as much to do, the last one is asked first.
        let clamds = clamds(&[&good, &gone], 30);
        clamds.members[1].ping().await;
        let condition = clamds.condition().unwrap();
        assert!(condition.starts_with(&format!("{gone}: ")), "{condition}");
        assert_eq!(clamds.scan(&["x".into()]).await, Ok(Answer::Clean));
        assert_eq!(of_good.load(Ordering::Relaxed), 1);
        assert!(clamds.members[1].failed.lock().unwrap().is_none(), "it was not asked");
    }

    #[test]
    fn addresses_are_checked() {
        let error = |addresses: &[&str]| {
            let addresses: Vec<_> = addresses.iter().map(|one| (*one).to_owned()).collect();
            Clamds::new(&addresses, times(0, 0), NOTHING_KEPT).unwrap_err()
        };
        assert_eq!(error(&[]), "clamd: a list without addresses");
        assert_eq!(error(&["a:1", "b"]), "clamd: \"b\" is neither host:port nor unix:/path");
    }
}
