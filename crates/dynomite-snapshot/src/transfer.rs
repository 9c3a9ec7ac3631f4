//! A snapshot on its way from the store to its object, and back: verified in both directions.

use jiff::Timestamp;

use crate::envelope::{self, Key, Pack, Secret, Unpack};
use crate::manifest::{Compression, Extent, Manifest, Snapshot};
use crate::rdb::{self, Summary, Verifier};

/// Why a snapshot does not arrive.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// What the store sent, or what was in the object, is no whole RDB.
    #[error(transparent)]
    Rdb(#[from] rdb::Error),
    /// The object cannot be made or unpacked.
    #[error(transparent)]
    Envelope(#[from] envelope::Error),
    /// It is encrypted and no key was given.
    #[error("the object is encrypted with key `{0}`, which is not at hand")]
    Key(String),
    /// Not what the manifest says.
    #[error("{what} is {found}, and the manifest says {expected}: the object was changed")]
    Differs {
        /// What differs.
        what: &'static str,
        /// In the object.
        found: String,
        /// In the manifest.
        expected: String,
    },
}

/// What an object is encrypted for: it can be opened as the data of this backup and token only.
pub fn context(uid: &str, backup: &str, token: dynomite_protocol::token::Token) -> Vec<u8> {
    format!("{uid}/{backup}/{token}").into_bytes()
}

impl Manifest {
    /// The [`context`] of one of its objects.
    pub fn context(&self, snapshot: &Snapshot) -> Vec<u8> {
        context(&self.ring.uid, &self.backup.id, snapshot.token)
    }
}

/// From the store to the object.
pub struct Upload {
    verifier: Verifier,
    /// Nothing where the object is the RDB as it is: then one digest is that of both.
    pack: Option<Pack>,
}

impl Upload {
    /// Begins; keys that expire up to `now` are counted as expired.
    pub fn new(
        compression: Compression,
        secret: Option<&Secret<'_>>,
        now: Timestamp,
    ) -> Result<Self, Error> {
        Ok(Self {
            verifier: Verifier::new(now),
            pack: match (compression, secret) {
                (Compression::None, None) => None,
                _ => Some(Pack::new(compression, secret)?),
            },
        })
    }

    /// Bytes that the store sent so far.
    pub fn bytes(&self) -> u64 {
        self.verifier.bytes()
    }

    /// Takes what the store sent, and says what is to be uploaded: the same bytes, or what comes
    /// of them, which is in `out` then and nothing else. After an error the object must not be
    /// completed.
    pub fn push<'a>(&mut self, raw: &'a [u8], out: &'a mut Vec<u8>) -> Result<&'a [u8], Error> {
        self.verifier.update(raw)?;
        let Some(pack) = &mut self.pack else {
            return Ok(raw);
        };
        out.clear();
        pack.push(raw, out)?;
        Ok(out)
    }

    /// The store has sent all: appends the rest of the object, and says what was sent and what
    /// the object is. The object may be completed only now.
    pub fn finish(self, out: &mut Vec<u8>) -> Result<(Summary, Extent), Error> {
        let summary = self.verifier.finish()?;
        let stored = match self.pack {
            Some(pack) => pack.finish(out)?,
            None => Extent::from(&summary),
        };
        Ok((summary, stored))
    }
}

/// From the object to the store.
pub struct Download {
    snapshot: Snapshot,
    /// Nothing where the object is the RDB as it is.
    unpack: Option<Unpack>,
    verifier: Option<Verifier>,
    /// Bytes of the object that were taken.
    taken: u64,
}

impl Download {
    /// Begins with the object of `snapshot`; `key` is the one that it names, if it is encrypted.
    pub fn new(
        manifest: &Manifest,
        snapshot: &Snapshot,
        key: Option<&Key>,
        now: Timestamp,
    ) -> Result<Self, Error> {
        Self::of(snapshot, &manifest.context(snapshot), key, now)
    }

    /// The same for whoever has only the entry of the manifest, and the [`context`] of its object.
    pub fn of(
        snapshot: &Snapshot,
        context: &[u8],
        key: Option<&Key>,
        now: Timestamp,
    ) -> Result<Self, Error> {
        let secret = match (&snapshot.encryption, key) {
            (None, _) => None,
            (Some(_), Some(key)) => Some((key, context)),
            (Some(encryption), None) => return Err(Error::Key(encryption.key_id.clone())),
        };
        Ok(Self {
            unpack: match (snapshot.compression, secret) {
                (Compression::None, None) => None,
                (compression, secret) => Some(Unpack::new(compression, secret)?),
            },
            snapshot: snapshot.clone(),
            verifier: Some(Verifier::new(now)),
            taken: 0,
        })
    }

    /// Takes bytes of the object off `object` and appends the RDB to `raw`, a bounded part at a
    /// time: to be called again until `object` is empty. What comes out may be staged, and loaded
    /// once [`finish`](Self::finish) is content.
    pub fn push(&mut self, object: &mut &[u8], raw: &mut Vec<u8>) -> Result<(), Error> {
        let before = object.len();
        let from = raw.len();
        if let Some(unpack) = &mut self.unpack {
            unpack.push(object, raw)?;
        } else {
            raw.extend_from_slice(object);
            *object = &[];
        }
        self.taken += (before - object.len()) as u64;
        // Seen early, a wrong object is not downloaded to its end.
        if self.taken > self.snapshot.stored.bytes {
            return Err(differ(
                "the object's size",
                &format!("{} or more", self.taken),
                &self.snapshot.stored.bytes,
            ));
        }
        self.verify(&raw[from..])
    }

    /// The object has ended: appends what is left, and says what it held once that is all. To be
    /// called until it does.
    pub fn finish(&mut self, raw: &mut Vec<u8>) -> Result<Option<Summary>, Error> {
        let from = raw.len();
        let packed = match &mut self.unpack {
            Some(unpack) => unpack.finish(raw)?.map(Some),
            None => Some(None),
        };
        self.verify(&raw[from..])?;
        let (Some(packed), Some(verifier)) = (packed, self.verifier.take_if(|_| packed.is_some()))
        else {
            return Ok(None);
        };
        let summary = verifier.finish()?;
        let stored = packed.unwrap_or_else(|| Extent::from(&summary));
        let Snapshot {
            stored: expected_stored,
            raw: expected,
            ..
        } = &self.snapshot;
        same("the object's size", &stored.bytes, &expected_stored.bytes)?;
        same(
            "the object's SHA-256",
            &stored.sha256,
            &expected_stored.sha256,
        )?;
        let raw = Extent::from(&summary);
        same("the RDB's size", &raw.bytes, &expected.bytes)?;
        same("the RDB's SHA-256", &raw.sha256, &expected.sha256)?;
        Ok(Some(summary))
    }

    fn verify(&mut self, raw: &[u8]) -> Result<(), Error> {
        if let Some(verifier) = &mut self.verifier {
            verifier.update(raw)?;
        }
        Ok(())
    }
}

fn same<T: PartialEq + ToString>(what: &'static str, found: &T, expected: &T) -> Result<(), Error> {
    if found == expected {
        return Ok(());
    }
    Err(differ(what, found, expected))
}

fn differ(what: &'static str, found: &impl ToString, expected: &impl ToString) -> Error {
    Error::Differs {
        what,
        found: found.to_string(),
        expected: expected.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::envelope::SALT;
    use crate::manifest::tests::manifest;

    const REDIS_7: &[u8] = include_bytes!("../fixtures/redis-7.0.rdb");

    fn key() -> Key {
        Key::new([3; 32])
    }

    /// An object of a real file, and a manifest of it.
    fn upload(compression: Compression, encrypted: bool) -> (Manifest, Vec<u8>) {
        let mut manifest = manifest(&[5]);
        let (key, context) = (key(), manifest.context(&manifest.snapshots[0]));
        let secret = Secret {
            key: &key,
            salt: [1; SALT],
            context: &context,
        };
        let secret = encrypted.then_some(&secret);
        let mut upload = Upload::new(compression, secret, Timestamp::UNIX_EPOCH).expect("begins");
        let (mut object, mut packed) = (Vec::new(), Vec::new());
        for piece in REDIS_7.chunks(100) {
            object.extend_from_slice(upload.push(piece, &mut packed).expect("in order"));
        }
        let (summary, stored) = upload.finish(&mut object).expect("whole");
        let snapshot = &mut manifest.snapshots[0];
        snapshot.raw = Extent::from(&summary);
        snapshot.stored = stored;
        snapshot.compression = compression;
        if !encrypted {
            snapshot.encryption = None;
        }
        (manifest, object)
    }

    fn download(manifest: &Manifest, object: &[u8]) -> Result<Vec<u8>, Error> {
        let key = key();
        let snapshot = &manifest.snapshots[0];
        let mut download = Download::new(manifest, snapshot, Some(&key), Timestamp::UNIX_EPOCH)?;
        let mut raw = Vec::new();
        for mut piece in object.chunks(77) {
            while !piece.is_empty() {
                download.push(&mut piece, &mut raw)?;
            }
        }
        while download.finish(&mut raw)?.is_none() {}
        Ok(raw)
    }

    fn kinds() -> impl Iterator<Item = (Compression, bool)> {
        let compressions = [Compression::None, Compression::Zstd].into_iter();
        compressions.flat_map(|compression| [(compression, false), (compression, true)])
    }

    #[test]
    fn what_goes_up_comes_down() {
        for (compression, encrypted) in kinds() {
            let (manifest, object) = upload(compression, encrypted);
            let raw = download(&manifest, &object).expect("whole");
            assert!(raw == REDIS_7, "{compression:?} {encrypted}");
        }
    }

    #[test]
    fn broken_stream_completes_no_object() {
        let now = Timestamp::UNIX_EPOCH;
        let mut upload = Upload::new(Compression::None, None, now).expect("begins");
        let mut object = Vec::new();
        let cut = &REDIS_7[..REDIS_7.len() - 1];
        upload.push(cut, &mut object).expect("so far");
        assert!(matches!(upload.finish(&mut object), Err(Error::Rdb(_))));
    }

    #[test]
    fn object_of_another_backup_is_refused() {
        let (manifest, object) = upload(Compression::Zstd, true);
        let mut other = manifest.clone();
        other.backup.id = other.backup.id.replace("before", "after");
        let error = download(&other, &object).expect_err("moved");
        assert!(matches!(error, Error::Envelope(_)), "{error}");
        let now = Timestamp::UNIX_EPOCH;
        let keyless = Download::new(&manifest, &manifest.snapshots[0], None, now);
        assert!(matches!(keyless, Err(Error::Key(_))));
    }

    #[test]
    fn whole_object_that_is_another_one_is_refused() {
        let (manifest, _) = upload(Compression::None, false);
        // The same length, whole, and with a right checksum of its own.
        let mut other = REDIS_7.to_vec();
        let end = other.len() - 8;
        other[end..].fill(0);
        let error = download(&manifest, &other).expect_err("another");
        assert!(matches!(error, Error::Differs { .. }), "{error}");
        let larger = vec![0; REDIS_7.len() + 1];
        assert!(download(&manifest, &larger).is_err());
    }

    proptest! {
        #[test]
        fn every_changed_or_cut_byte_is_noticed(
            kind in 0_usize..4,
            at in any::<prop::sample::Index>(),
            flip in 1_u8..,
            cut in any::<bool>(),
        ) {
            let (compression, encrypted) = kinds().nth(kind).expect("four");
            let (manifest, mut object) = upload(compression, encrypted);
            let at = at.index(object.len());
            object[at] ^= flip;
            if cut {
                object.truncate(at);
            }
            prop_assert!(download(&manifest, &object).is_err());
        }
    }
}
