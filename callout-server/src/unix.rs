//! Unix sockets, which have a file.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use socket2::{Domain, SockAddr, Socket, Type};
use tokio::net::{UnixListener, UnixStream};

/// Connections that may wait to be accepted; the system may allow fewer.
const BACKLOG: i32 = 1_024;

/// A socket that is listened on. Its file goes with it.
#[derive(Debug)]
pub(crate) struct UnixSocket {
    listener: UnixListener,
    path: PathBuf,
}

/// Who may connect to a socket, besides root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Users {
    /// Those whom the umask of this process lets write to its files.
    OfUmask,
    /// The user of this process.
    Owner,
}

impl UnixSocket {
    /// Binds it. One that nobody listens on any more is replaced.
    ///
    /// # Errors
    /// If somebody listens there, or the system does not let us.
    pub(crate) async fn bind(path: PathBuf, users: Users) -> io::Result<Self> {
        let listener = match listen(&path, users) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                match UnixStream::connect(&path).await {
                    Err(refused) if refused.kind() == io::ErrorKind::ConnectionRefused => {
                        fs::remove_file(&path)?;
                        listen(&path, users)?
                    }
                    _ => return Err(error),
                }
            }
            listening => listening?,
        };
        Ok(Self { listener, path })
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The next connection. Safe to cancel.
    pub(crate) async fn accept(&self) -> io::Result<UnixStream> {
        self.listener.accept().await.map(|(stream, _)| stream)
    }
}

impl Drop for UnixSocket {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

fn listen(path: &Path, users: Users) -> io::Result<UnixListener> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SockAddr::unix(path)?)?;
    if users == Users::Owner {
        // Nobody can connect before we listen.
        fs::set_permissions(path, Permissions::from_mode(0o600))?;
    }
    socket.listen(BACKLOG)?;
    UnixListener::from_std(std::os::unix::net::UnixListener::from(std::os::fd::OwnedFd::from(
        socket,
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_socket_is_its_owners_and_goes_with_its_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let socket = UnixSocket::bind(path.clone(), Users::Owner).await.unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let taken = UnixSocket::bind(path.clone(), Users::Owner).await.unwrap_err();
        assert_eq!(taken.kind(), io::ErrorKind::AddrInUse);
        drop(socket);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn what_a_dead_process_leaves_behind_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let socket = UnixSocket::bind(path.clone(), Users::OfUmask).await.unwrap();
        let _client = UnixStream::connect(&path).await.unwrap();
        socket.accept().await.unwrap();
    }
}
