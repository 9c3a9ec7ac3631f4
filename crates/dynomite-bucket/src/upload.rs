//! A large object on its way up: in parts, a few at a time, all or nothing.
//!
//! ```text
//! push ──▶ part at hand ──full──▶ in flight (sent again from memory) ──▶ storage
//!               ▲                 at most BUDGET bytes in all            complete | abort
//!               └────memory of parts that landed────┘
//! ```

use bytes::{Bytes, BytesMut};
use object_store::{MultipartUpload, ObjectStoreExt as _};
use tokio::task::JoinSet;

use crate::error::{Error, Reason};
use crate::open::Bucket;

/// Bytes of the smallest part that S3 takes, but for the last.
const SMALLEST: usize = 5 << 20;
/// Bytes of the largest part: 10,000 of them make more than an object may have.
const LARGEST: usize = 512 << 20;
/// Parts that an object may have are 10,000; the size is chosen so that there are fewer.
const PARTS: u64 = 8_000;
/// After so many parts the guess was wrong, and those to come are twice as large.
const GROWS_AFTER: u64 = 4_000;
/// Bytes in memory, unless a single part is larger.
const BUDGET: usize = 24 << 20;

/// An object that is being uploaded. Dropped before [`complete`](Self::complete), it removes what
/// it has stored.
pub struct Upload {
    bucket: Bucket,
    key: String,
    parts_of: Option<Box<dyn MultipartUpload>>,
    part: usize,
    buffer: BytesMut,
    /// Memory of parts that landed: an allocator would give it back to the system and ask anew,
    /// or keep some for each thread.
    spare: Vec<BytesMut>,
    flying: JoinSet<object_store::Result<Bytes>>,
    parts: u64,
    stored: u64,
}

impl Bucket {
    /// Begins an object of about so many bytes; one that turns out larger is no error.
    ///
    /// # Errors
    /// Whatever the storage says.
    pub async fn upload(&self, key: &str, expected: u64) -> Result<Upload, Error> {
        let path = self.path(key)?;
        let upload = self.store.put_multipart(&path).await;
        let upload = upload.map_err(|error| {
            let error = self.explain("write", key, &error);
            // Nobody asks for an object that is to be written.
            if error.reason == Reason::NoSuchObject {
                return Error::new(Reason::NoSuchBucket, error.what);
            }
            error
        })?;
        Ok(Upload {
            bucket: self.clone(),
            key: key.to_owned(),
            parts_of: Some(upload),
            part: part_size(expected),
            buffer: BytesMut::new(),
            spare: Vec::new(),
            flying: JoinSet::new(),
            parts: 0,
            stored: 0,
        })
    }
}

fn part_size(expected: u64) -> usize {
    let needed = usize::try_from(expected / PARTS + 1).unwrap_or(LARGEST);
    needed.clamp(SMALLEST, LARGEST)
}

impl Upload {
    /// Bytes that the storage has confirmed.
    pub fn stored(&self) -> u64 {
        self.stored
    }

    /// Takes the next bytes; waits while enough are on their way.
    ///
    /// # Errors
    /// When a part was not taken although it was sent again and again.
    pub async fn push(&mut self, mut bytes: &[u8]) -> Result<(), Error> {
        while !bytes.is_empty() {
            if self.buffer.capacity() == 0 {
                self.buffer = self.spare.pop().unwrap_or_default();
                self.buffer.reserve(self.part);
            }
            let (fitting, rest) = bytes.split_at(bytes.len().min(self.part - self.buffer.len()));
            self.buffer.extend_from_slice(fitting);
            bytes = rest;
            if self.buffer.len() == self.part {
                self.send().await?;
            }
        }
        self.collect()
    }

    /// All was pushed: waits for the parts and makes the object of them.
    ///
    /// # Errors
    /// When the storage has not taken all; then nothing lies there, or an object that the caller
    /// deletes: a storage may have made it without being able to say so.
    pub async fn complete(mut self) -> Result<u64, Error> {
        if !self.buffer.is_empty() || self.parts == 0 {
            self.send().await?;
        }
        while let Some(landed) = self.flying.join_next().await {
            self.landed(landed)?;
        }
        let Some(mut upload) = self.parts_of.take() else {
            return Ok(self.stored);
        };
        match upload.complete().await {
            Ok(_) => Ok(self.stored),
            Err(error) => {
                // Its answer may be lost, and then it was asked for something that is done: the
                // storage no longer knows of the upload, and the object is there.
                let made = self.bucket.head(&self.key).await;
                if matches!(made, Ok(Some(made)) if made.bytes == self.stored) {
                    return Ok(self.stored);
                }
                self.parts_of = Some(upload);
                Err(self.failed("complete", &error))
            }
        }
    }

    /// Gives up, and removes what was stored.
    ///
    /// # Errors
    /// When the storage does not remove it; its parts cost room until its own rules remove them.
    pub async fn abort(mut self) -> Result<(), Error> {
        self.flying.shutdown().await;
        let Some(mut upload) = self.parts_of.take() else {
            return Ok(());
        };
        let aborted = upload.abort().await;
        aborted.map_err(|error| self.bucket.explain("give up", &self.key, &error))
    }

    /// How many parts may be on their way beside the one that is filled.
    fn places(&self) -> usize {
        (BUDGET / self.part).saturating_sub(1).max(1)
    }

    async fn send(&mut self) -> Result<(), Error> {
        while self.flying.len() >= self.places() {
            if let Some(landed) = self.flying.join_next().await {
                self.landed(landed)?;
            }
        }
        let part: Bytes = std::mem::take(&mut self.buffer).freeze();
        let Some(upload) = &mut self.parts_of else {
            return Ok(());
        };
        let sending = upload.put_part(part.clone().into());
        self.flying
            .spawn(async move { sending.await.map(|()| part) });
        self.parts += 1;
        if self.parts.is_multiple_of(1000) && self.parts >= GROWS_AFTER {
            self.part = (self.part * 2).min(LARGEST);
        }
        Ok(())
    }

    fn collect(&mut self) -> Result<(), Error> {
        while let Some(landed) = self.flying.try_join_next() {
            self.landed(landed)?;
        }
        Ok(())
    }

    /// An upload of which the storage knows no more is none that was never there: another one may
    /// succeed.
    fn failed(&self, doing: &str, error: &object_store::Error) -> Error {
        let error = self.bucket.explain(doing, &self.key, error);
        match error.reason {
            Reason::NoSuchObject => Error::new(Reason::Unavailable, error.what),
            _ => error,
        }
    }

    fn landed(
        &mut self,
        landed: Result<object_store::Result<Bytes>, tokio::task::JoinError>,
    ) -> Result<(), Error> {
        match landed {
            Ok(Ok(part)) => {
                self.stored += part.len() as u64;
                // A connection may still hold it, and then the allocator is asked.
                if let Ok(mut memory) = part.try_into_mut() {
                    memory.clear();
                    self.spare.push(memory);
                }
                Ok(())
            }
            Ok(Err(error)) => Err(self.failed("write", &error)),
            Err(error) => {
                let why = error.to_string();
                let reason = Reason::Unavailable;
                Err(self.bucket.failure(reason, "write", &self.key, &why))
            }
        }
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        let Some(mut upload) = self.parts_of.take() else {
            return;
        };
        self.flying.abort_all();
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        let key = std::mem::take(&mut self.key);
        runtime.spawn(async move {
            if let Err(error) = upload.abort().await {
                tracing::debug!(key, %error, "parts of a given-up upload may be left");
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_thousand_parts_are_enough_for_what_was_expected_and_for_more() {
        for expected in [0, 1 << 30, 100 << 30, 4 << 40] {
            let part = part_size(expected) as u64;
            assert!(part * 10_000 >= expected, "{expected}");
            assert!(part >= SMALLEST as u64);
        }
        // A guess of nothing, and five terabytes come.
        let (mut part, mut sum, mut parts) = (part_size(0) as u64, 0_u64, 0_u64);
        while parts < 10_000 {
            sum += part;
            parts += 1;
            if parts.is_multiple_of(1000) && parts >= GROWS_AFTER {
                part = (part * 2).min(LARGEST as u64);
            }
        }
        assert!(sum > 500 << 30, "{sum}");
    }
}
