//! How many messages are looked at in depth at the same time.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::registry::SettingsError;
use crate::service::{ServiceError, compute};

/// A bound on the messages that are unpacked at the same time, and so on the memory for that.
#[derive(Debug)]
pub(crate) struct Scans(Arc<Semaphore>);

/// The leave to look into one message.
pub(crate) struct Scan(Arc<OwnedSemaphorePermit>);

impl Scans {
    /// A bound of that many.
    pub(crate) fn new(most: usize) -> Result<Self, SettingsError> {
        if most == 0 {
            return Err(SettingsError::new("scans: must be at least 1"));
        }
        Ok(Self(Arc::new(Semaphore::new(most.min(Semaphore::MAX_PERMITS)))))
    }

    /// Waits until another message may be looked at.
    pub(crate) async fn start(&self) -> Result<Scan, ServiceError> {
        let permit = Arc::clone(&self.0).acquire_owned().await;
        Ok(Scan(Arc::new(permit.map_err(|error| ServiceError::new("waiting", error))?)))
    }
}

impl Scan {
    /// Unpacks, away from the threads that serve sockets: the size of a message says nothing about
    /// what is in it. The work goes on when nobody waits for it any more, and counts until it ends.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, ServiceError> {
        let permit = Arc::clone(&self.0);
        compute(usize::MAX, move || {
            let _permit = permit;
            work()
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn work_counts_until_it_ends() {
        let scans = Scans::new(1).unwrap();
        let (end, ended) = std::sync::mpsc::channel::<()>();
        let scan = scans.start().await.unwrap();
        let mut work = Box::pin(scan.run(move || ended.recv()));
        assert!(work.as_mut().now_or_never().is_none());
        drop(work);
        drop(scan);
        assert!(scans.start().now_or_never().is_none());
        end.send(()).unwrap();
        scans.start().await.unwrap();
    }
}
