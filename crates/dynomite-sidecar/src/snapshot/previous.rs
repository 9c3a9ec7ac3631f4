//! Saves what the store has as a file on the data volume, before a restore replaces the only copy.

use std::path::Path;
use std::sync::Arc;

use dynomite_lifecycle::DataSight;
use dynomite_snapshot::rdb::Verifier;
use jiff::Timestamp;
use tokio::fs;
use tokio::io::AsyncWriteExt as _;

use super::Desk;
use super::broken::Broken;
use super::psync::Snapshot;

/// Begins to save; how it goes is told by [`Desk::previous`].
pub(super) fn begin(desk: &Arc<Desk>, restore: String) {
    let work = Arc::clone(desk);
    {
        let mut results = desk.results();
        let coming = results.previous.as_ref();
        if coming.is_some_and(
            |sight| matches!(sight, DataSight::Coming { restore: of, .. } if *of == restore),
        ) {
            // The one under way will tell: two would write one file.
            return;
        }
        results.previous = Some(DataSight::Coming {
            restore: restore.clone(),
            bytes: 0,
        });
    }
    desk.worker.spawn(async move {
        let sight = match save(&work, &restore).await {
            Ok((keys, expiring)) => DataSight::Ready {
                restore,
                keys,
                expiring,
            },
            Err(broken) => DataSight::Failed {
                restore,
                why: broken.message,
            },
        };
        tracing::info!(?sight, "the store's own data was to be saved");
        work.results().previous = Some(sight);
    });
}

/// Keys that were saved, and how many of them expire. The file has its name only
/// when it is whole, verified and on disk.
async fn save(desk: &Desk, restore: &str) -> Result<(u64, u64), Broken> {
    let path = desk.site.previous(restore);
    let part = path.with_extension("part");
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory).await.map_err(unwritable)?;
    }
    let (private, public) = (desk.site.store_private_socket(), desk.site.store_socket());
    let sockets: [&Path; 2] = [&private, &public];
    let mut snapshot = Snapshot::ask(&sockets).await?;
    let mut file = fs::File::create(&part).await.map_err(unwritable)?;
    let mut verifier = Verifier::new(Timestamp::now());
    let mut bytes = 0;
    while let Some(piece) = snapshot.next().await? {
        verifier.update(&piece).map_err(damaged)?;
        file.write_all(&piece).await.map_err(unwritable)?;
        bytes += piece.len() as u64;
        desk.results().previous = Some(DataSight::Coming {
            restore: restore.to_owned(),
            bytes,
        });
    }
    let counts = verifier.finish().map_err(damaged)?.counts();
    file.sync_all().await.map_err(unwritable)?;
    fs::rename(&part, &path).await.map_err(unwritable)?;
    // The mark that follows is durable, so the name has to be.
    if let Some(directory) = path.parent() {
        let directory = fs::File::open(directory).await.map_err(unwritable)?;
        directory.sync_all().await.map_err(unwritable)?;
    }
    Ok((counts.total(), counts.expiring))
}

#[expect(
    clippy::needless_pass_by_value,
    reason = "it is what map_err hands over"
)]
fn unwritable(error: std::io::Error) -> Broken {
    let message = format!("it cannot be written to the data volume: {error}; give it more room");
    Broken::passing("DiskFull", message)
}

fn damaged(error: dynomite_snapshot::rdb::Error) -> Broken {
    Broken::passing(
        "StreamBroke",
        format!("what the store sent is damaged: {error}"),
    )
}
