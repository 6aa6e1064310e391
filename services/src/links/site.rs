//! What serves links: a store, a listener and a sweeper. They are the process's: a configuration that takes the place of
//! another one goes on with them.

use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::net::TcpListener;
use tokio::task::{AbortHandle, spawn_blocking};
use tokio::time::{MissedTickBehavior, interval};
use tracing::{debug, info, warn};

use super::http;
use super::password::Passwords;
use super::store::{Name, Record, Store};

/// How often is looked for files whose time is over.
const SWEEP: Duration = Duration::from_secs(60);

/// Those in use, by address and folder.
static SITES: Mutex<Vec<(String, PathBuf, Weak<Site>)>> = Mutex::new(Vec::new());

/// A store that is served.
pub(super) struct Site {
    pub(super) store: Store,
    pub(super) passwords: Passwords,
    address: SocketAddr,
    downloads: AtomicU64,
    tasks: Mutex<Vec<AbortHandle>>,
}

impl Site {
    /// The one at this address with this folder; it is opened if there is none. It waits for the disk, within the runtime.
    ///
    /// # Errors
    /// If the folder can't be used, or the address can't be listened on.
    pub(super) fn of(listen: &str, folder: &Path) -> io::Result<Arc<Self>> {
        let mut sites = SITES.lock().unwrap_or_else(PoisonError::into_inner);
        sites.retain(|(_, _, site)| site.strong_count() > 0);
        let known = sites.iter().find(|(at, of, _)| at == listen && of == folder);
        if let Some(site) = known.and_then(|(_, _, site)| site.upgrade()) {
            return Ok(site);
        }
        let named = |what: String, error: io::Error| {
            io::Error::new(error.kind(), format!("{what}: {error}"))
        };
        let store = Store::open(folder)
            .map_err(|error| named(format!("{} can't be used", folder.display()), error))?;
        let cannot = |error| named(format!("{listen} can't be listened on"), error);
        let listener = std::net::TcpListener::bind(listen).map_err(cannot)?;
        listener.set_nonblocking(true).map_err(cannot)?;
        let address = listener.local_addr().map_err(cannot)?;
        let listener = TcpListener::from_std(listener).map_err(cannot)?;
        let (passwords, downloads, tasks) =
            (Passwords::default(), AtomicU64::new(0), Mutex::default());
        let site = Arc::new(Self { store, passwords, address, downloads, tasks });
        let (files, octets) = site.store.size();
        info!(%address, folder = %folder.display(), files, octets, "serving links");
        let tasks = [
            tokio::spawn(http::serve(listener, Arc::downgrade(&site))).abort_handle(),
            tokio::spawn(sweep(Arc::downgrade(&site))).abort_handle(),
        ];
        site.tasks.lock().unwrap_or_else(PoisonError::into_inner).extend(tasks);
        sites.push((listen.to_owned(), folder.to_owned(), Arc::downgrade(&site)));
        Ok(site)
    }

    /// Where it listens.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// What is known of a file that can be fetched.
    pub(super) fn find(&self, name: Name) -> Option<Record> {
        self.store.find(name, now())
    }

    /// Somebody has opened the page: then the message with the link was delivered.
    pub(super) async fn seen(self: &Arc<Self>, name: Name, record: &Record) {
        if record.is_confirmed {
            return;
        }
        let site = Arc::clone(self);
        match spawn_blocking(move || site.store.confirm(name)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => warn!(%error, "a file behind a link can't be confirmed"),
            Err(error) => warn!(%error, "a file behind a link can't be confirmed"),
        }
    }

    /// Opens a file that can be fetched, which counts.
    pub(super) async fn download(
        self: &Arc<Self>,
        name: Name,
    ) -> io::Result<Option<(File, Record)>> {
        let site = Arc::clone(self);
        let opened = spawn_blocking(move || site.store.download(name, now()));
        let opened = opened.await.map_err(io::Error::other)??;
        if let Some((_, record)) = &opened {
            self.downloads.fetch_add(1, Ordering::Relaxed);
            info!(
                octets = record.octets,
                downloads = record.downloads,
                "a file behind a link is fetched"
            );
        }
        Ok(opened)
    }

    /// How often files were fetched.
    pub(super) fn downloads(&self) -> u64 {
        self.downloads.load(Ordering::Relaxed)
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        let tasks = self.tasks.get_mut().unwrap_or_else(PoisonError::into_inner);
        tasks.iter().for_each(AbortHandle::abort);
    }
}

/// Seconds since 1970.
pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// Removes files whose time is over, as long as there is a site.
async fn sweep(site: Weak<Site>) {
    let mut ticks = interval(SWEEP);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let Some(site) = site.upgrade() else { return };
        match spawn_blocking(move || site.store.sweep(now())).await {
            Ok(Ok(0)) => {}
            Ok(Ok(files)) => debug!(files, "files behind links are over"),
            Ok(Err(error)) => warn!(%error, "files behind links can't be removed"),
            Err(error) => warn!(%error, "files behind links can't be removed"),
        }
    }
}
