//! The token record: a ConfigMap that outlives its cluster, so that one made again under the name finds its tokens.

use dynomite_api::annotations::ANNOTATION_SERVED_SINCE;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::{labels, pairs, seal};
use crate::cluster::Cluster;
use crate::tokens::{RECORD_KEY, Record};

/// The record; it has no owner, so that it stays when the cluster goes.
pub(crate) fn token_record(
    cluster: &Cluster,
    record: &Record,
    served_since: Option<Timestamp>,
) -> ConfigMap {
    // A map from strings to numbers always serialises.
    let text = serde_json::to_string_pretty(record).unwrap_or_default();
    let map = ConfigMap {
        metadata: ObjectMeta {
            name: Some(cluster.token_record()),
            namespace: Some(cluster.id.namespace.clone()),
            labels: Some(labels(cluster, None)),
            annotations: served_since
                .map(|since| pairs([(ANNOTATION_SERVED_SINCE, &since.to_string())])),
            ..ObjectMeta::default()
        },
        data: Some(pairs([(RECORD_KEY, &text)])),
        ..ConfigMap::default()
    };
    seal(map, |o| &mut o.metadata)
}
