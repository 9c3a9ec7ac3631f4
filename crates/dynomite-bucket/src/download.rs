//! A large object on its way down: in pieces, going on where a connection was cut.

use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use object_store::{GetOptions, GetRange};

use crate::error::{Error, Reason};
use crate::open::Bucket;

/// An object that is being read from its beginning to its end.
pub struct Download {
    bucket: Bucket,
    key: String,
    stream: Option<BoxStream<'static, object_store::Result<Bytes>>>,
    /// Bytes given out so far.
    at: u64,
    /// Bytes of the object.
    length: u64,
    /// What tells it from another object of its key.
    tag: Option<String>,
    /// Cuts in a row without a byte between them.
    cuts: usize,
}

impl Bucket {
    /// Begins to read an object.
    ///
    /// # Errors
    /// Whatever the storage says.
    pub async fn download(&self, key: &str) -> Result<Download, Error> {
        let mut download = Download {
            bucket: self.clone(),
            key: key.to_owned(),
            stream: None,
            at: 0,
            length: 0,
            tag: None,
            cuts: 0,
        };
        download.connect().await?;
        Ok(download)
    }
}

impl Download {
    /// Bytes of the object.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// The next bytes; `None` at the end. A cut connection is made anew where it ended, as long
    /// as the object is the same.
    ///
    /// # Errors
    /// When that does not help, or another object has taken its place.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        loop {
            if self.at == self.length {
                return Ok(None);
            }
            let Some(stream) = &mut self.stream else {
                self.connect().await?;
                continue;
            };
            let error = match stream.next().await {
                Some(Ok(piece)) if piece.is_empty() => continue,
                Some(Ok(piece)) => {
                    self.at += piece.len() as u64;
                    self.cuts = 0;
                    if self.at > self.length {
                        let why = "it is longer than the storage said";
                        return Err(self.failure(Reason::Changed, why));
                    }
                    return Ok(Some(piece));
                }
                Some(Err(error)) => self.bucket.explain("read", &self.key, &error),
                None => self.failure(Reason::Unavailable, "it ended early"),
            };
            self.cut(error).await?;
        }
    }

    async fn cut(&mut self, error: Error) -> Result<(), Error> {
        self.stream = None;
        self.cuts += 1;
        let patience = self.bucket.patience;
        if self.cuts > patience.retries || error.reason != Reason::Unavailable {
            return Err(error);
        }
        tracing::debug!(key = self.key, at = self.at, %error, "a download was cut, and goes on");
        let doubled = 1 << (self.cuts - 1).min(16);
        let pause: Duration = patience.first_pause() * doubled;
        tokio::time::sleep(pause.min(patience.pause)).await;
        Ok(())
    }

    async fn connect(&mut self) -> Result<(), Error> {
        let path = self.bucket.path(&self.key)?;
        let options = GetOptions {
            range: (self.at > 0).then_some(GetRange::Offset(self.at)),
            if_match: self.tag.clone(),
            ..GetOptions::default()
        };
        let found = self.bucket.store.get_opts(&path, options).await;
        let found = found.map_err(|error| self.bucket.explain("read", &self.key, &error))?;
        if self.at == 0 {
            self.length = found.meta.size;
            self.tag.clone_from(&found.meta.e_tag);
        } else if found.meta.size != self.length {
            return Err(self.failure(Reason::Changed, "its length is another now"));
        }
        self.stream = Some(found.into_stream());
        Ok(())
    }

    fn failure(&self, reason: Reason, why: &str) -> Error {
        self.bucket.failure(reason, "read", &self.key, why)
    }
}
