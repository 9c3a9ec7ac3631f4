//! Opens the store's socket to the engine, and takes it back.
//!
//! The store listens in a private directory. Renaming the socket's file to the
//! path in `dynomite.yml` opens the store to the engine; the file belongs to one
//! incarnation of the store, so after a crash the path refuses connections.

use std::fs;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use crate::shared::Site;

/// Whether a socket's file lies at the path the engine knows.
pub(super) fn is_exposed(site: &Site) -> bool {
    site.store_socket().exists()
}

/// Where the store can be reached now.
pub(crate) fn current(site: &Site) -> PathBuf {
    let private = site.store_private_socket();
    if private.exists() {
        private
    } else {
        site.store_socket()
    }
}

/// Opens the store to the engine.
pub(super) fn expose(site: &Site) -> io::Result<()> {
    match fs::rename(site.store_private_socket(), site.store_socket()) {
        // Opened before, perhaps by a sidecar that has crashed since.
        Err(error) if error.kind() == io::ErrorKind::NotFound && listens(&site.store_socket()) => {
            Ok(())
        }
        outcome => outcome,
    }
}

/// Takes the store away from the engine.
///
/// The file may be left from a store that is gone while its successor listens
/// already: then it is removed rather than put in the successor's place.
pub(super) fn withdraw(site: &Site) -> io::Result<()> {
    let outcome = if listens(&site.store_private_socket()) {
        fs::remove_file(site.store_socket())
    } else {
        fs::rename(site.store_socket(), site.store_private_socket())
    };
    match outcome {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        outcome => outcome,
    }
}

fn listens(socket: &Path) -> bool {
    UnixStream::connect(socket).is_ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;
    use crate::run::tests::site_in;

    #[test]
    fn a_socket_moves_out_and_back() {
        let directory = tempfile::tempdir().expect("a directory");
        let site = site_in(directory.path());
        let _store = UnixListener::bind(site.store_private_socket()).expect("can listen");
        assert_eq!(current(&site), site.store_private_socket());
        expose(&site).expect("moves");
        assert!(is_exposed(&site) && listens(&site.store_socket()));
        expose(&site).expect("is there already");
        assert_eq!(current(&site), site.store_socket());
        withdraw(&site).expect("moves back");
        assert!(!is_exposed(&site) && listens(&site.store_private_socket()));
        withdraw(&site).expect("is back already");
    }

    #[test]
    fn the_successor_of_a_crashed_store_is_not_buried_under_its_file() {
        let directory = tempfile::tempdir().expect("a directory");
        let site = site_in(directory.path());
        let first = UnixListener::bind(site.store_private_socket()).expect("can listen");
        expose(&site).expect("moves");
        drop(first);
        let _second = UnixListener::bind(site.store_private_socket()).expect("can listen");
        withdraw(&site).expect("removes");
        assert!(!is_exposed(&site));
        assert!(listens(&site.store_private_socket()));
    }

    #[test]
    fn nothing_to_open_is_an_error() {
        let directory = tempfile::tempdir().expect("a directory");
        let site = site_in(directory.path());
        assert!(expose(&site).is_err());
    }
}
