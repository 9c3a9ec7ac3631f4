//! Uploads that nobody will complete: whoever began them was killed, and no listing of objects shows them.

use std::path::{Path as File, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use object_store::aws::AmazonS3;
use object_store::client::{HttpConnector as _, ReqwestConnector};
use object_store::multipart::MultipartStore as _;
use object_store::path::Path;
use object_store::signer::{Method, SignedUrlOptions, Signer as _};
use object_store::{ClientOptions, Error as Failure};

use crate::error::{Error, Reason};
use crate::open::Bucket;

/// Uploads that are looked at each time; more are left for the next.
const AT_ONCE: usize = 1000;
/// For how long the wish to see them is signed.
const SIGNED_FOR: Duration = Duration::from_mins(5);
/// Directories of a local place that are looked into.
const DEEPEST: usize = 8;

/// How begun uploads of a storage are found.
#[derive(Clone)]
pub(crate) enum Begun {
    /// By a request that the storage's client does not know.
    S3(Arc<AmazonS3>, Arc<ClientOptions>),
    /// They are files with a name of their own.
    Local(PathBuf),
    /// The storage shows none: Azure forgets blocks of no object after a week, Google by a rule of
    /// the bucket.
    Hidden,
}

/// An upload that was begun.
struct Found {
    key: String,
    begun: Timestamp,
    id: String,
}

impl Bucket {
    /// Ends uploads under a prefix of whole path segments that were begun and are not complete, if
    /// `left` says so of their key and the time when they were begun; says how many. Where the
    /// storage does not show them, none.
    ///
    /// # Errors
    /// Whatever the storage says; some may be ended then.
    pub async fn end_uploads(
        &self,
        under: &str,
        left: impl Fn(&str, Timestamp) -> bool,
    ) -> Result<usize, Error> {
        let path = self.path(under)?;
        let mut ended = 0;
        match &self.begun {
            Begun::Hidden => {}
            Begun::S3(store, options) => {
                let asked = begun(store, options, &path).await;
                let found =
                    asked.map_err(|error| self.explain("list uploads to", under, &error))?;
                for upload in found.iter().filter(|it| left(&it.key, it.begun)) {
                    let path = self.path(&upload.key)?;
                    let given_up = store.abort_multipart(&path, &upload.id).await;
                    match given_up.map_err(|error| self.explain("give up", &upload.key, &error)) {
                        Ok(()) => ended += 1,
                        // Somebody else was faster.
                        Err(error) if error.reason == Reason::NoSuchObject => {}
                        Err(error) => return Err(error),
                    }
                }
            }
            Begun::Local(root) => {
                let (root, within) = (root.clone(), path.as_ref().to_owned());
                let walked = tokio::task::spawn_blocking(move || staged(&root, &within)).await;
                for upload in walked.unwrap_or_default() {
                    if left(&upload.key, upload.begun) && std::fs::remove_file(&upload.id).is_ok() {
                        ended += 1;
                    }
                }
            }
        }
        Ok(ended)
    }
}

async fn begun(
    store: &AmazonS3,
    options: &ClientOptions,
    under: &Path,
) -> object_store::Result<Vec<Found>> {
    let failed = |source: Box<dyn std::error::Error + Send + Sync>| Failure::Generic {
        store: "S3",
        source,
    };
    let client = ReqwestConnector::default().connect(options)?;
    let query = [
        ("uploads", String::new()),
        ("prefix", format!("{under}/")),
        ("max-uploads", AT_ONCE.to_string()),
    ];
    let signed = SignedUrlOptions::new().with_query(query);
    let root = Path::default();
    let url = store
        .signed_url_opts(Method::GET, &root, SIGNED_FOR, &signed)
        .await?;
    let request =
        http::Request::get(url.as_str()).body(object_store::client::HttpRequestBody::empty());
    let request = request.map_err(|error| failed(error.into()))?;
    let answer = client.execute(request).await;
    let answer = answer.map_err(|error| failed(error.into()))?;
    let status = answer.status();
    let body = answer.into_body().bytes().await;
    let body = body.map_err(|error| failed(error.into()))?;
    let body = String::from_utf8_lossy(&body);
    if !status.is_success() {
        return Err(failed(format!("status code: {status}: {body}").into()));
    }
    Ok(read(&body))
}

/// The uploads of an answer. One that cannot be read is left alone.
fn read(body: &str) -> Vec<Found> {
    let uploads = body.split("<Upload>").skip(1);
    let found = uploads.filter_map(|upload| {
        let (upload, _) = upload.split_once("</Upload>")?;
        let text = |name: &str| {
            let (_, rest) = upload.split_once(&format!("<{name}>"))?;
            let (text, _) = rest.split_once(&format!("</{name}>"))?;
            // Keys of ours need no escapes, and so nobody needs to understand them.
            (!text.contains('&')).then(|| text.to_owned())
        };
        Some(Found {
            key: text("Key")?,
            begun: text("Initiated")?.parse().ok()?,
            id: text("UploadId")?,
        })
    });
    found.take(AT_ONCE).collect()
}

/// Files of a local place that are not objects yet: a key, `#` and a number.
fn staged(root: &File, under: &str) -> Vec<Found> {
    let mut found = Vec::new();
    let mut open = vec![(root.join(under), 0)];
    while let Some((directory, depth)) = open.pop() {
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            let (path, kind) = (entry.path(), entry.file_type());
            if kind.as_ref().is_ok_and(std::fs::FileType::is_dir) && depth < DEEPEST {
                open.push((path, depth + 1));
                continue;
            }
            let within = path.strip_prefix(root).ok().and_then(File::to_str);
            let key = within.and_then(|within| {
                let (key, number) = within.rsplit_once('#')?;
                number.parse::<u64>().ok().map(|_| key.to_owned())
            });
            let changed = entry.metadata().and_then(|facts| facts.modified());
            let changed = changed.ok().and_then(|time| Timestamp::try_from(time).ok());
            if let (Some(key), Some(begun), Some(id)) = (key, changed, path.to_str()) {
                found.push(Found {
                    key,
                    begun,
                    id: id.to_owned(),
                });
            }
            if found.len() == AT_ONCE {
                return found;
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_and_what_is_strange_in_it_left_alone() {
        let upload = |key: &str, id: &str, time: &str| {
            format!(
                "<Upload><Key>{key}</Key><UploadId>{id}</UploadId><Initiator><ID>x</ID></Initiator>\
                 <Initiated>{time}</Initiated></Upload>"
            )
        };
        let body = format!(
            "<?xml version=\"1.0\"?><ListMultipartUploadsResult><Bucket>b</Bucket>{}{}{}{}\
             <IsTruncated>false</IsTruncated></ListMultipartUploadsResult>",
            upload("a/1.rdb", "i1", "2026-11-20T01:02:03.000Z"),
            upload("a/&amp;", "i2", "2026-11-20T01:02:03.000Z"),
            upload("a/2.rdb", "i3", "yesterday"),
            "<Upload><Key>half",
        );
        let found = read(&body);
        assert_eq!(found.len(), 1);
        assert_eq!((&*found[0].key, &*found[0].id), ("a/1.rdb", "i1"));
        assert_eq!(found[0].begun.to_string(), "2026-11-20T01:02:03Z");
        assert!(read("").is_empty());
    }
}
