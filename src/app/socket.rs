//! A Unix socket beside the TCP port: for clients on the same machine, guarded by file permissions.

use std::{
    fs, io,
    os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use tokio::net::{UnixListener, UnixStream};

use super::{AppError, listen::Listener};
use crate::config;

/// A listener and its place in the file system, which goes with it.
#[derive(Debug)]
pub(super) struct Socket {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode: the file is removed only while it is still ours.
    identity: (u64, u64),
}

impl Socket {
    /// The socket that the configuration asks for, if it does.
    ///
    /// # Errors
    /// [`AppError::BindSocket`].
    pub(super) fn take_if(listen: &config::Listen) -> Result<Option<Self>, AppError> {
        let Some(path) = &listen.unix else { return Ok(None) };
        let bound = Self::bind(path, listen.unix_mode);
        bound.map(Some).map_err(|source| AppError::BindSocket { path: path.clone(), source })
    }

    /// Listens at `path`, open to whom `mode` lets.
    ///
    /// The socket is made under another name and moved into its place, so that nobody finds it there before
    /// it has its permissions; that also replaces what a crashed server left.
    ///
    /// # Errors
    /// Something else is at `path`: a file of another kind, or a socket on which a server listens.
    fn bind(path: &Path, mode: u32) -> io::Result<Self> {
        check_place(path)?;
        // In the same folder, with a name that is no longer than most: paths of sockets are 107 bytes at most.
        let made = path.with_file_name(format!(".{:x}", std::process::id()));
        // In a container every server is process 1, so one that crashed here left its file under this very name.
        if is_socket(&made) {
            fs::remove_file(&made)?;
        }
        let listener = UnixListener::bind(&made)?;
        let moved = fs::set_permissions(&made, fs::Permissions::from_mode(mode))
            .and_then(|()| fs::rename(&made, path))
            .and_then(|()| identity(path));
        match moved {
            Ok(identity) => Ok(Self { listener, path: path.to_owned(), identity }),
            Err(error) => {
                // The failure that is told is the one above.
                drop(fs::remove_file(&made));
                Err(error)
            }
        }
    }
}

impl Listener for Socket {
    type Stream = UnixStream;

    async fn next(&self) -> io::Result<UnixStream> {
        self.listener.accept().await.map(|(stream, _)| stream)
    }

    /// No other server takes this one's place while it listens, so there is nobody to leave the rest to.
    fn into_accepted(self) -> Vec<UnixStream> {
        Vec::new()
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|found| found == self.identity) {
            // Left behind, it would be replaced at the next start.
            drop(fs::remove_file(&self.path));
        }
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|found| (found.dev(), found.ino()))
}

fn is_socket(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket())
}

/// Whether a socket may be put at `path`: nothing is there, or one to which nobody listens.
fn check_place(path: &Path) -> io::Result<()> {
    let found = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        found => found?,
    };
    if !found.file_type().is_socket() {
        let message = "there is a file of another kind";
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, message));
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
        Err(error) => Err(error),
        Ok(_) => Err(io::Error::new(io::ErrorKind::AddrInUse, "another server listens there")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_a_dead_socket_is_replaced() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.sock");
        let first = Socket::bind(&path, 0o600).expect("nothing is there");
        let mode = fs::metadata(&path).expect("a socket").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let second = Socket::bind(&path, 0o600).expect_err("a server listens");
        assert_eq!(second.kind(), io::ErrorKind::AddrInUse);
        drop(first);
        assert!(!path.exists());

        // A listener of std leaves its file behind, as a crash does.
        drop(std::os::unix::net::UnixListener::bind(&path).expect("binds"));
        assert!(path.exists());
        // So does a crash between the two steps of taking the place.
        let half = path.with_file_name(format!(".{:x}", std::process::id()));
        drop(std::os::unix::net::UnixListener::bind(&half).expect("binds"));
        let third = Socket::bind(&path, 0o660).expect("the dead one is replaced");
        // Somebody else's file in its place is not removed.
        fs::remove_file(&path).expect("removed");
        fs::write(&path, "mine").expect("written");
        drop(third);
        let refused = Socket::bind(&path, 0o600).expect_err("a file");
        assert_eq!(refused.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read_to_string(&path).expect("still there"), "mine");
        assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 1);
    }
}
