//! The desired document in a file, for a node without an operator.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use dynomite_api::contract::NodeDesired;
use tokio::sync::{mpsc, oneshot, watch};

use crate::shared::{Input, Site, View};

/// Between two looks at the file.
const PAUSE: Duration = Duration::from_secs(1);

/// Hands the file's content to the driver, now and whenever it changes.
pub(super) async fn follow(
    path: PathBuf,
    site: Arc<Site>,
    view: watch::Receiver<View>,
    inputs: mpsc::Sender<Input>,
) {
    // What was tried last: a document that was refused is refused again.
    let mut tried = Vec::new();
    loop {
        match fs::read(&path) {
            Ok(text) if text != tried => {
                if let Some(desired) = understand(&text, &site, &view) {
                    hand_over(desired, &inputs).await;
                }
                tried = text;
            }
            Ok(_) => {}
            Err(error) => tracing::warn!(path = %path.display(), %error, "cannot be read"),
        }
        if inputs.is_closed() {
            return;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// The document, in its place after the one that is held; `None` when it says
/// the same or nothing that can be understood.
fn understand(text: &[u8], site: &Site, view: &watch::Receiver<View>) -> Option<NodeDesired> {
    let mut desired: NodeDesired = match serde_yaml::from_slice(text) {
        Ok(desired) => desired,
        Err(error) => {
            tracing::warn!(%error, "the desired document cannot be understood");
            return None;
        }
    };
    desired.node.pod_uid.clone_from(&site.pod_uid);
    if let Some(held) = &view.borrow().desired {
        desired.generation = held.generation;
        if desired.digest() == held.digest() {
            return None;
        }
        desired.cluster_generation = desired.cluster_generation.max(held.cluster_generation);
        desired.generation = held.generation.saturating_add(1);
    } else {
        desired.generation = 1;
    }
    Some(desired)
}

async fn hand_over(desired: NodeDesired, inputs: &mpsc::Sender<Input>) {
    let (answer, answered) = oneshot::channel();
    let given = inputs.send(Input::Desired(Box::new(desired), answer)).await;
    if given.is_err() {
        return;
    }
    match answered.await {
        Ok(Ok(report)) => tracing::info!(phase = ?report.phase, "took the desired document"),
        Ok(Err(refused)) => tracing::warn!(why = %refused.why, "refused the desired document"),
        Err(_) => {}
    }
}
