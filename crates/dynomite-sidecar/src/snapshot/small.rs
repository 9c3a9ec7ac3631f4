//! Small work in a place, for the operator, which may not have the identity that opens it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use dynomite_api::contract::{
    BucketAction, BucketAnswer, BucketRequest, MAX_LISTED, MAX_SMALL_OBJECT,
};
use dynomite_bucket::Bucket;

use super::Desk;
use super::broken::Broken;
use super::inspect::inspect;
use super::scratch::Load;

/// How long small work may take.
const PATIENCE: Duration = Duration::from_secs(50);

/// How long the loading of an object may take: some hundred gigabytes.
const PATIENCE_LOAD: Duration = Duration::from_hours(6);

pub(super) async fn answer(desk: &Arc<Desk>, request: BucketRequest) -> BucketAnswer {
    let patience = match &request.action {
        BucketAction::Load { .. } => PATIENCE_LOAD,
        _ => PATIENCE,
    };
    let done = async {
        if let BucketAction::Load {
            pod_uid,
            part,
            bytes_per_second,
        } = request.action
        {
            let Some(scratch) = desk.scratch.get().filter(|_| pod_uid == desk.site.pod_uid) else {
                let message = "no scratch store of this pod was meant";
                return Err(Broken::lasting("NoScratchStore", message));
            };
            let load = Load {
                place: request.place,
                part: *part,
                bytes_per_second,
            };
            return Ok(scratch.load(desk, load).await);
        }
        let bucket = desk.open(&request.place)?;
        act(&bucket, request.action).await
    };
    match tokio::time::timeout(patience, done).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(broken)) => broken.into_answer(),
        Err(_) => {
            let message = "the storage did not answer in time";
            Broken::passing("Unavailable", message).into_answer()
        }
    }
}

async fn act(bucket: &Bucket, action: BucketAction) -> Result<BucketAnswer, Broken> {
    Ok(match action {
        BucketAction::List { under, after } => {
            let (objects, more) = bucket.list(&under, after.as_deref(), MAX_LISTED).await?;
            BucketAnswer::Listed { objects, more }
        }
        BucketAction::Get { key } => match bucket.get(&key, MAX_SMALL_OBJECT).await? {
            Some(content) => match String::from_utf8(content.into()) {
                Ok(text) => BucketAnswer::Text { text },
                Err(_) => return Err(Broken::lasting("NotText", format!("{key} is no text"))),
            },
            None => BucketAnswer::Missing,
        },
        BucketAction::Head { key } => match bucket.head(&key).await? {
            Some(object) => BucketAnswer::Facts { object },
            None => BucketAnswer::Missing,
        },
        BucketAction::Put { key, text } => {
            if text.len() > MAX_SMALL_OBJECT {
                let message = format!("{key} would have {} bytes", text.len());
                return Err(Broken::lasting("TooLarge", message));
            }
            bucket.put(&key, Bytes::from(text)).await?;
            BucketAnswer::Done
        }
        BucketAction::Delete { keys } => {
            if keys.len() > MAX_LISTED {
                let message = format!("{} objects at once", keys.len());
                return Err(Broken::lasting("TooMany", message));
            }
            bucket.delete_all(&keys).await?;
            BucketAnswer::Done
        }
        BucketAction::Inspect { key } => inspect(bucket, &key).await?,
        BucketAction::Load { .. } => {
            let message = "an object is loaded by the scratch store alone";
            return Err(Broken::lasting("NoScratchStore", message));
        }
    })
}
