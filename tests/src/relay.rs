//! Between a server and its plugin: passes the plugin's octets on one by one, as far as it is let.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::PATIENCE;

/// Listens for a server, and connects to a unix socket for each of its connections.
pub struct Relay {
    /// Where the server finds it.
    pub address: String,
    pace: Arc<Pace>,
}

#[derive(Default)]
struct Pace {
    /// Octets that may still pass; `None` if all may.
    left: Mutex<Option<usize>>,
    changed: Condvar,
}

impl Relay {
    /// Begins; whoever listens at the path has to be there once a server connects.
    ///
    /// # Panics
    /// If it can't listen.
    pub fn start(path: &Path) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("it is bound");
        let (path, pace) = (path.to_owned(), Arc::new(Pace::default()));
        let relayed = Arc::clone(&pace);
        std::thread::spawn(move || {
            for server in listener.incoming().map_while(Result::ok) {
                relay(server, &path, &relayed);
            }
        });
        Self { address: format!("http://{address}"), pace }
    }

    /// From now on nothing passes.
    pub fn hold(&self) {
        *self.pace.left() = Some(0);
    }

    /// So many octets more may pass; returns once they are on their way.
    ///
    /// # Panics
    /// If the plugin does not say so much.
    pub fn pass(&self, octets: usize) {
        let mut left = self.pace.left();
        *left = Some(octets);
        self.pace.changed.notify_all();
        let more = |left: &mut Option<usize>| left.is_some_and(|octets| octets > 0);
        let waited = self.pace.changed.wait_timeout_while(left, PATIENCE, more);
        let (left, waited) = waited.unwrap_or_else(PoisonError::into_inner);
        drop(left);
        assert!(!waited.timed_out(), "the plugin says less than {octets} octets");
    }

    /// From now on everything passes.
    pub fn release(&self) {
        *self.pace.left() = None;
        self.pace.changed.notify_all();
    }
}

impl Pace {
    fn left(&self) -> MutexGuard<'_, Option<usize>> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until one octet more may pass.
    fn take(&self) {
        let held = self.changed.wait_while(self.left(), |left| *left == Some(0));
        let mut left = held.unwrap_or_else(PoisonError::into_inner);
        *left = left.map(|octets| octets - 1);
        self.changed.notify_all();
    }
}

/// Both ways of a connection, on threads of their own; each ends with one of its sockets.
fn relay(server: TcpStream, path: &PathBuf, pace: &Arc<Pace>) {
    let Ok(plugin) = UnixStream::connect(path) else { return };
    server.set_nodelay(true).expect("it is a TCP socket");
    let mut ways = (
        (server.try_clone().expect("a descriptor"), plugin.try_clone().expect("a descriptor")),
        (plugin, server),
    );
    std::thread::spawn(move || {
        let (from, to) = &mut ways.0;
        let _ = std::io::copy(from, to);
        let _ = to.shutdown(Shutdown::Write);
    });
    let pace = Arc::clone(pace);
    std::thread::spawn(move || {
        let (from, to) = &mut ways.1;
        for octet in std::io::BufReader::new(from).bytes().map_while(Result::ok) {
            pace.take();
            if to.write_all(&[octet]).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Write);
    });
}
