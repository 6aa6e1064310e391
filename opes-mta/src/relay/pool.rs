//! Connections to the next hop that are used for more than one message.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::connection::Connection;
use super::error::RelayError;
use super::hello::NextHop;

/// How long connections are kept, and how many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolLimits {
    /// Connections that wait for a message, at most; more are closed. Worst case each: a socket and some
    /// 30 KiB.
    pub idle: usize,
    /// How long one waits. Servers wait for 5 minutes (RFC 5321 section 4.5.3.2.7), but their
    /// connections are few.
    pub idle_timeout: Duration,
    /// Messages of one connection, at most: servers with many addresses get their share each.
    pub messages: usize,
}

impl Default for PoolLimits {
    fn default() -> Self {
        Self { idle: 8, idle_timeout: Duration::from_secs(5), messages: 100 }
    }
}

/// The connections to one next hop.
#[derive(Clone, Debug)]
pub struct Pool {
    next_hop: Arc<NextHop>,
    limits: PoolLimits,
    idle: Arc<Mutex<Idle>>,
}

#[derive(Debug, Default)]
struct Idle {
    /// The one that has waited longest comes first.
    connections: VecDeque<Waiting>,
    is_swept: bool,
}

#[derive(Debug)]
struct Waiting {
    kept: Kept,
    until: Instant,
}

/// A connection of a pool.
#[derive(Debug)]
pub struct Kept {
    /// The connection, ready for MAIL.
    pub connection: Connection,
    messages: usize,
}

impl Pool {
    /// A pool without connections.
    pub fn new(next_hop: Arc<NextHop>, limits: PoolLimits) -> Self {
        Self { next_hop, limits, idle: Arc::default() }
    }

    /// Where its connections go.
    pub fn next_hop(&self) -> &NextHop {
        &self.next_hop
    }

    /// A connection that is ready for MAIL: one that waits, if it still answers RSET, or a new one.
    ///
    /// # Errors
    /// If no new one can be opened.
    pub async fn take(&self) -> Result<Kept, RelayError> {
        while let Some(mut kept) = self.pop() {
            // What it says to RSET decides: it may have hung up meanwhile, as it may at any time.
            if kept.connection.reset().await.is_ok() {
                return Ok(kept);
            }
        }
        let connection = Connection::open(&self.next_hop).await?;
        Ok(Kept { connection, messages: 0 })
    }

    /// Gives a connection back after a message. One that is not worth keeping is closed.
    pub async fn give_back(&self, mut kept: Kept) {
        kept.messages += 1;
        if !kept.connection.is_usable() || kept.messages >= self.limits.messages {
            return kept.connection.quit().await;
        }
        if let Some(kept) = self.push(kept) {
            kept.connection.quit().await;
        }
    }

    /// Closes the connections that wait.
    pub async fn close(&self) {
        while let Some(kept) = self.pop() {
            kept.connection.quit().await;
        }
    }

    /// Connections that wait.
    pub fn idle(&self) -> usize {
        lock(&self.idle).connections.len()
    }

    /// The one that has waited for the shortest time.
    fn pop(&self) -> Option<Kept> {
        lock(&self.idle).connections.pop_back().map(|waiting| waiting.kept)
    }

    /// Keeps a connection; returns one if there are too many.
    fn push(&self, kept: Kept) -> Option<Kept> {
        let mut idle = lock(&self.idle);
        let until = Instant::now() + self.limits.idle_timeout;
        idle.connections.push_back(Waiting { kept, until });
        if !std::mem::replace(&mut idle.is_swept, true) {
            tokio::spawn(sweep(Arc::clone(&self.idle)));
        }
        let is_full = idle.connections.len() > self.limits.idle;
        if is_full { idle.connections.pop_front().map(|waiting| waiting.kept) } else { None }
    }
}

/// Closes connections whose time is over, as long as there are any.
async fn sweep(idle: Arc<Mutex<Idle>>) {
    loop {
        let (over, next) = {
            let mut idle = lock(&idle);
            let now = Instant::now();
            let is_over = idle.connections.front().is_some_and(|waiting| waiting.until <= now);
            let over = if is_over { idle.connections.pop_front() } else { None };
            let next = idle.connections.front().map(|waiting| waiting.until);
            idle.is_swept = over.is_some() || next.is_some();
            (over, next)
        };
        match (over, next) {
            (Some(waiting), _) => waiting.kept.connection.quit().await,
            (None, Some(next)) => sleep_until(next).await,
            (None, None) => return,
        }
    }
}

/// No one panics with the lock held; and if somebody did, the list would be whole.
fn lock(idle: &Mutex<Idle>) -> std::sync::MutexGuard<'_, Idle> {
    idle.lock().unwrap_or_else(PoisonError::into_inner)
}
