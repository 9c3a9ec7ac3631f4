//! Small objects and listings.

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};
use dynomite_api::contract::ObjectFacts;
use futures::{StreamExt as _, TryStreamExt as _};
use jiff::Timestamp;
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStoreExt as _};

use crate::error::{Error, Reason};
use crate::open::Bucket;

/// Deletions at a time.
const DELETIONS: usize = 16;

impl Bucket {
    pub(crate) fn path(&self, key: &str) -> Result<Path, Error> {
        Path::parse(key.trim_matches('/'))
            .map_err(|error| self.failure(Reason::Invalid, "use the key", key, &error.to_string()))
    }

    /// Writes a small object; one of that key is replaced.
    ///
    /// # Errors
    /// When the storage does not take it.
    pub async fn put(&self, key: &str, content: Bytes) -> Result<(), Error> {
        let path = self.path(key)?;
        let put = self.store.put(&path, content.into()).await;
        put.map(|_| ())
            .map_err(|error| self.explain("write", key, &error))
    }

    /// Reads a small object of at most `limit` bytes; `None` when there is none.
    ///
    /// # Errors
    /// `TooLarge` above the limit; whatever the storage says.
    pub async fn get(&self, key: &str, limit: usize) -> Result<Option<Bytes>, Error> {
        let path = self.path(key)?;
        let explain = |error| self.explain("read", key, &error);
        let found = match self.store.get(&path).await {
            Ok(found) => found,
            Err(error) => return missing(explain(error)),
        };
        let too_large = || {
            let why = format!("it has more than {limit} bytes");
            self.failure(Reason::TooLarge, "read", key, &why)
        };
        if found.meta.size > limit as u64 {
            return Err(too_large());
        }
        let mut content = BytesMut::new();
        let mut stream = found.into_stream();
        while let Some(piece) = stream.next().await {
            let piece = piece.map_err(explain)?;
            if content.len() + piece.len() > limit {
                return Err(too_large());
            }
            content.extend_from_slice(&piece);
        }
        Ok(Some(content.freeze()))
    }

    /// Size and time of an object; `None` when there is none.
    ///
    /// # Errors
    /// Whatever the storage says.
    pub async fn head(&self, key: &str) -> Result<Option<ObjectFacts>, Error> {
        let path = self.path(key)?;
        match self.store.head(&path).await {
            Ok(found) => Ok(Some(facts(&found))),
            Err(error) => missing(self.explain("look at", key, &error)),
        }
    }

    /// What lies under a prefix of whole path segments, by key, after a key; at most so many, and
    /// whether there are more.
    ///
    /// # Errors
    /// Whatever the storage says.
    pub async fn list(
        &self,
        under: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<(Vec<ObjectFacts>, bool), Error> {
        let path = self.path(under)?;
        let prefix = (!path.as_ref().is_empty()).then_some(&path);
        let after = after.map(|after| self.path(after)).transpose()?;
        let mut listed = match &after {
            Some(after) => self.store.list_with_offset(prefix, after),
            None => self.store.list(prefix),
        };
        let mut found = BTreeMap::new();
        while let Some(object) = listed.next().await {
            let object = object.map_err(|error| self.explain("list", under, &error))?;
            found.insert(object.location.as_ref().to_owned(), facts(&object));
            if found.len() > limit {
                if self.sorted {
                    break;
                }
                // The first by key are wanted, in whatever order they come; one more tells
                // that there are more.
                if found.len() > limit + 1 {
                    found.pop_last();
                }
            }
        }
        let more = found.len() > limit;
        Ok((found.into_values().take(limit).collect(), more))
    }

    /// Deletes an object; one that is not there is no error.
    ///
    /// # Errors
    /// Whatever else the storage says.
    pub async fn delete(&self, key: &str) -> Result<(), Error> {
        let path = self.path(key)?;
        match self.store.delete(&path).await {
            Ok(()) => Ok(()),
            Err(error) => missing::<()>(self.explain("delete", key, &error)).map(|_| ()),
        }
    }

    /// Deletes objects, some at a time; those that are not there are no error.
    ///
    /// # Errors
    /// Whatever else the storage says; some may be deleted then.
    pub async fn delete_all(&self, keys: &[String]) -> Result<(), Error> {
        let deletions = keys.iter().cloned().map(|key| {
            let bucket = self.clone();
            async move { bucket.delete(&key).await }
        });
        let deletions = futures::stream::iter(deletions).buffer_unordered(DELETIONS);
        deletions.try_collect().await
    }
}

fn missing<T>(error: Error) -> Result<Option<T>, Error> {
    match error.reason {
        Reason::NoSuchObject => Ok(None),
        _ => Err(error),
    }
}

fn facts(object: &ObjectMeta) -> ObjectFacts {
    let modified = object.last_modified.timestamp_millis();
    ObjectFacts {
        key: object.location.as_ref().to_owned(),
        bytes: object.size,
        modified: Timestamp::from_millisecond(modified).unwrap_or(Timestamp::UNIX_EPOCH),
    }
}
