//! What dialogs ask of a connection's task, on the way to it.
//!
//! Much of it nobody waits for: events that are only watched, what became of events, what is learnt of a dialog.
//! It stays here for a moment, so that the task is woken once for many of them and writes them in one go. What
//! comes first goes first in any case.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Context;
use std::time::Duration;

use futures_util::task::AtomicWaker;
use ocp_proto::smtp::{DialogFacts, DialogUpdate, Reply};
use ocp_proto::wire::Structure;
use ocp_proto::{DialogId, GroupId, OcpResult, Offer, OriginalStart, Response, Xid};
use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::driver::{ClientError, Ended, Ticket};
use crate::apply::Assembly;

/// How long what nobody waits for may stay before it is written. On a busy connection dozens of events come
/// in that time; nobody who reads a log notices it.
const LINGER: Duration = Duration::from_millis(5);

/// Requests that nobody waits for and that wake the task all the same, by their number.
const MOST_LINGERING: usize = 64;

/// What a dialog asks of the driver. Each handle has at most one request that is answered in the
/// queue, one GiveUp for each, and a dialog an Outcome for each of its transactions and an
/// UpdateDialog for each command that told it something.
#[derive(Debug)]
pub(super) enum Request {
    /// NO; answered by NR.
    Offer(Offer, Answer<Response>),
    /// SGC.
    CreateGroup(Vec<Structure>, Answer<GroupId>),
    /// Dialog-Start.
    StartDialog(Box<DialogFacts>, Answer<DialogId>),
    /// Dialog-Update.
    UpdateDialog { dialog: DialogId, update: Box<DialogUpdate> },
    /// TS, AMS, DUM, AME.
    Transact(Box<Transact>),
    /// TE 400.
    GiveUp { ticket: Ticket, reason: String },
    /// Dialog-Outcome.
    Outcome { dialog: DialogId, xid: Xid, result: OcpResult, reply: Option<Reply> },
    /// Dialog-End.
    EndDialog { dialog: DialogId, result: OcpResult },
    /// Nothing new, but somebody waits for what was asked for before.
    Hurry,
    /// CE.
    Close,
}

/// An event, and where its answer goes.
#[derive(Debug)]
pub(super) struct Transact {
    pub(super) ticket: Ticket,
    pub(super) group: GroupId,
    pub(super) start: OriginalStart,
    /// Whether nobody waits for its answer.
    pub(super) is_watched: bool,
    /// What is kept, which is what is sent, and what will come back.
    pub(super) answer: Assembly,
    pub(super) ended: oneshot::Sender<Ended>,
}

pub(super) type Answer<T> = oneshot::Sender<Result<T, ClientError>>;

impl Request {
    /// Whether somebody waits until the driver has it.
    fn is_awaited(&self) -> bool {
        matches!(self, Self::StartDialog(..)) || self.is_urgent()
    }

    /// Whether somebody waits for what it causes on the wire.
    pub(super) fn is_urgent(&self) -> bool {
        match self {
            Self::Transact(transact) => !transact.is_watched,
            // That a dialog begins, the server learns with its first event.
            Self::StartDialog(..)
            | Self::UpdateDialog { .. }
            | Self::Outcome { .. }
            | Self::EndDialog { .. } => false,
            Self::Offer(..)
            | Self::CreateGroup(..)
            | Self::GiveUp { .. }
            | Self::Hurry
            | Self::Close => true,
        }
    }
}

/// The end of dialogs. When it is dropped, the connection is closed.
#[derive(Debug)]
pub(super) struct RequestSender(Arc<Shared>);

/// The end of the driver.
#[derive(Debug)]
pub(super) struct RequestReceiver {
    shared: Arc<Shared>,
    /// How long the first of those that wait may stay.
    until: Option<Instant>,
}

#[derive(Debug, Default)]
struct Shared {
    waiting: Mutex<Waiting>,
    driver: AtomicWaker,
    ended: CancellationToken,
}

#[derive(Debug, Default)]
struct Waiting {
    requests: Vec<Request>,
    is_awaited: bool,
    is_closed: bool,
}

/// The way from dialogs to a driver.
pub(super) fn requests() -> (RequestSender, RequestReceiver) {
    let shared = Arc::<Shared>::default();
    (RequestSender(Arc::clone(&shared)), RequestReceiver { shared, until: None })
}

impl RequestSender {
    /// Hands a request to the driver. One that has ended takes none, and says so in other ways.
    pub(super) fn send(&self, request: Request) {
        if self.0.waiting().push(request) {
            self.0.driver.wake();
        }
    }

    /// Cancelled when the driver has ended, and the server was told.
    pub(super) fn ended(&self) -> CancellationToken {
        self.0.ended.clone()
    }
}

impl Drop for RequestSender {
    fn drop(&mut self) {
        self.send(Request::Close);
    }
}

impl RequestReceiver {
    /// The requests that wait, and how long what they cause may stay, if it is time for them. Otherwise the task
    /// is woken for those to come.
    pub(super) fn poll(
        &mut self,
        cx: &Context<'_>,
        now: Instant,
    ) -> Option<(Vec<Request>, Instant)> {
        self.shared.driver.register(cx.waker());
        let mut waiting = self.shared.waiting();
        if waiting.requests.is_empty() {
            return None;
        }
        let until = *self.until.get_or_insert_with(|| now + LINGER);
        if !waiting.is_due() && now < until {
            return None;
        }
        let until = if waiting.is_full() { now } else { until };
        self.until = None;
        waiting.is_awaited = false;
        Some((std::mem::take(&mut waiting.requests), until))
    }

    /// When to ask again, unless the task is woken before.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.until
    }

    /// Takes no more. Whoever waits for an answer learns by this that there is none.
    pub(super) fn close(&mut self) {
        let mut waiting = self.shared.waiting();
        waiting.is_closed = true;
        let requests = std::mem::take(&mut waiting.requests);
        drop(waiting);
        drop(requests);
    }
}

impl Drop for RequestReceiver {
    fn drop(&mut self) {
        self.close();
        self.shared.ended.cancel();
    }
}

impl Shared {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        // No change is left half done by a panic.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    /// Whether the driver has to be woken: it looks after itself once it knows of a request that waits.
    fn push(&mut self, request: Request) -> bool {
        if self.is_closed {
            return false;
        }
        let was_due = self.is_due();
        self.is_awaited |= request.is_awaited();
        self.requests.push(request);
        self.requests.len() == 1 || (self.is_due() && !was_due)
    }

    fn is_due(&self) -> bool {
        self.is_awaited || self.is_full()
    }

    fn is_full(&self) -> bool {
        self.requests.len() >= MOST_LINGERING
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Wake, Waker};

    use super::*;

    /// Counts how often a task is woken.
    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A driver that polls when it is told to.
    struct Task {
        requests: RequestReceiver,
        woken: Arc<Woken>,
    }

    impl Task {
        /// How many requests it takes, and how long what they cause may stay.
        fn poll(&mut self, now: Instant) -> Option<(usize, Instant)> {
            let waker = Waker::from(Arc::clone(&self.woken));
            let taken = self.requests.poll(&Context::from_waker(&waker), now);
            taken.map(|(requests, until)| (requests.len(), until))
        }

        fn woken(&self) -> usize {
            self.woken.0.load(Ordering::Relaxed)
        }
    }

    /// One that waits for requests.
    fn task() -> (RequestSender, Task, Instant) {
        let (sender, requests) = requests();
        let mut task = Task { requests, woken: Arc::default() };
        let now = Instant::now();
        assert_eq!(task.poll(now), None);
        (sender, task, now)
    }

    fn unhurried() -> Request {
        let update = Box::new(DialogUpdate::default());
        Request::UpdateDialog { dialog: DialogId::new(1).unwrap(), update }
    }

    #[test]
    fn what_nobody_waits_for_wakes_the_task_once() {
        let (sender, mut task, now) = task();
        sender.send(unhurried());
        assert_eq!((task.woken(), task.poll(now)), (1, None));
        let until = task.requests.poll_timeout().unwrap();
        assert_eq!(until, now + LINGER);
        for _ in 2..MOST_LINGERING {
            sender.send(unhurried());
        }
        assert_eq!((task.woken(), task.poll(until - Duration::from_millis(1))), (1, None));
        assert_eq!(task.poll(until), Some((MOST_LINGERING - 1, until)));
        assert_eq!((task.poll(until), task.requests.poll_timeout()), (None, None));
        sender.send(unhurried());
        assert_eq!(task.woken(), 2);
    }

    #[test]
    fn too_many_wake_the_task_before_their_time() {
        let (sender, mut task, now) = task();
        for _ in 0..MOST_LINGERING {
            assert_eq!(task.poll(now), None);
            sender.send(unhurried());
        }
        assert_eq!(task.woken(), 2);
        assert_eq!(task.poll(now), Some((MOST_LINGERING, now)));
    }

    #[test]
    fn what_somebody_waits_for_takes_the_rest_along() {
        let (answer, _answered) = oneshot::channel();
        let start = Request::StartDialog(Box::default(), answer);
        for awaited in [start, Request::Hurry] {
            let (sender, mut task, now) = task();
            sender.send(unhurried());
            assert_eq!(task.poll(now), None);
            sender.send(awaited);
            sender.send(unhurried());
            assert_eq!(task.woken(), 2);
            assert_eq!(task.poll(now), Some((3, now + LINGER)));
        }
    }

    #[test]
    fn the_last_sender_closes_the_connection() {
        let (sender, mut task, _) = task();
        drop(sender);
        assert_eq!(task.woken(), 1);
        let waker = Waker::from(Arc::clone(&task.woken));
        let taken = task.requests.poll(&Context::from_waker(&waker), Instant::now());
        assert!(matches!(taken.unwrap().0[..], [Request::Close]));
    }

    #[test]
    fn who_asks_a_task_that_has_ended_is_told() {
        let (sender, mut task, _) = task();
        let ask = || {
            let (answer, answered) = oneshot::channel();
            sender.send(Request::StartDialog(Box::default(), answer));
            answered
        };
        let mut before = ask();
        task.requests.close();
        let mut behind = ask();
        for answered in [&mut before, &mut behind] {
            assert_eq!(answered.try_recv().unwrap_err(), oneshot::error::TryRecvError::Closed);
        }
        assert!(!sender.ended().is_cancelled());
        drop(task);
        assert!(sender.ended().is_cancelled());
    }
}
