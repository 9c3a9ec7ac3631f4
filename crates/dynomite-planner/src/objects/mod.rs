//! The objects of a cluster as the operator wants them: only the fields it owns.

mod images;
mod made;
mod pdb;
mod pod;
mod record;
mod scratch;
mod services;
mod statefulset;

use std::collections::BTreeMap;

use dynomite_api::annotations::{
    ANNOTATION_APPLIED_HASH, APP_NAME, FIELD_MANAGER, LABEL_INSTANCE, LABEL_MANAGED_BY, LABEL_NAME,
    LABEL_RACK,
};
use dynomite_api::crd::GROUP;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use serde::Serialize;

pub(crate) use images::Images;
pub(crate) use pdb::disruption_budgets;
pub(crate) use record::token_record;
pub(crate) use scratch::scratch;
pub(crate) use services::services;
pub(crate) use statefulset::{stateful_set, template_size, upgrade_awaits};

use crate::cluster::Cluster;
use crate::compare;

/// Labels or annotations.
pub(crate) type Pairs = BTreeMap<String, String>;

/// Pairs from literals.
pub(crate) fn pairs<const N: usize>(list: [(&str, &str); N]) -> Pairs {
    list.into_iter()
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}

/// The labels that select a cluster's pods. Selectors cannot be changed, so
/// these three are all there will ever be.
pub(crate) fn selector(cluster: &Cluster, rack: Option<&str>) -> Pairs {
    let mut labels = pairs([(LABEL_NAME, APP_NAME), (LABEL_INSTANCE, &cluster.id.name)]);
    if let Some(rack) = rack {
        labels.insert(LABEL_RACK.to_owned(), rack.to_owned());
    }
    labels
}

/// The labels of an object.
pub(crate) fn labels(cluster: &Cluster, rack: Option<&str>) -> Pairs {
    let mut labels = selector(cluster, rack);
    labels.insert(LABEL_MANAGED_BY.to_owned(), FIELD_MANAGER.to_owned());
    labels
}

/// The metadata of an object that goes with its cluster.
pub(crate) fn owned(cluster: &Cluster, name: String, rack: Option<&str>) -> ObjectMeta {
    ObjectMeta {
        name: Some(name),
        namespace: Some(cluster.id.namespace.clone()),
        labels: Some(labels(cluster, rack)),
        owner_references: Some(vec![OwnerReference {
            api_version: format!("{GROUP}/v1alpha1"),
            kind: "DynomiteCluster".to_owned(),
            name: cluster.id.name.clone(),
            uid: cluster.id.uid.clone(),
            controller: Some(true),
            block_owner_deletion: Some(true),
        }]),
        ..ObjectMeta::default()
    }
}

/// Puts the digest of all that is written onto the object, so that a field
/// which is no longer written is noticed too.
pub(crate) fn seal<T: Serialize>(mut object: T, metadata: fn(&mut T) -> &mut ObjectMeta) -> T {
    let digest = compare::digest(&object);
    metadata(&mut object)
        .annotations
        .get_or_insert_default()
        .insert(ANNOTATION_APPLIED_HASH.to_owned(), digest);
    object
}
