//! The API server: objects with UIDs and versions, server-side apply, deletes with preconditions.

use std::collections::BTreeSet;

use dynomite_api::crd::{DynomiteCluster, DynomiteClusterStatus};
use dynomite_planner::{Action, Certificates, Kind, Object, Observed, SecretFacts, Seen};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};

/// Why a call failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// What was named is not there any more, or is another by now.
    Conflict,
    /// It is not there.
    NotFound,
}

/// The objects of the namespace, and the resource.
pub struct Server {
    /// The objects; its reports stay empty.
    pub objects: Observed,
    /// The `DynomiteCluster`.
    pub resource: DynomiteCluster,
    /// Counts every change.
    pub version: u64,
}

impl Server {
    /// A namespace with nothing but the resource.
    pub fn new(resource: DynomiteCluster) -> Self {
        Self {
            objects: Observed::default(),
            resource,
            version: 0,
        }
    }

    /// The next resource version.
    pub fn bump(&mut self) -> String {
        self.version += 1;
        self.version.to_string()
    }

    /// A UID nobody had before.
    pub fn fresh(&mut self, what: &str) -> String {
        format!("{what}-{}", self.bump())
    }

    /// Whether an object of this kind and name is there.
    pub fn holds(&self, kind: Kind, name: &str) -> bool {
        let o = &self.objects;
        match kind {
            Kind::StatefulSet => o.stateful_sets.contains_key(name),
            Kind::Service => o.services.contains_key(name),
            Kind::ConfigMap => o.config_maps.contains_key(name),
            Kind::PodDisruptionBudget => o.pod_disruption_budgets.contains_key(name),
            Kind::PersistentVolumeClaim => o.claims.contains_key(name),
            Kind::Pod => o.pods.contains_key(name),
            Kind::Secret | Kind::DynomiteBackup | Kind::DynomiteRestore => false,
        }
    }

    /// Server-side apply with force by the only manager of these fields: what
    /// is not applied any more goes.
    pub fn apply(&mut self, now: Timestamp, object: &Object) -> Result<(), Refused> {
        let name = object.name().to_owned();
        let uid = self.fresh(object.kind().name());
        let version = self.version.to_string();
        let o = &mut self.objects;
        match object.clone() {
            Object::Service(mut new) => {
                let old = o.services.get(&name);
                stamp(
                    &mut new.metadata,
                    old.map(|o| &o.metadata),
                    uid,
                    version,
                    now,
                );
                o.services.insert(name, new);
            }
            Object::ConfigMap(mut new) => {
                let old = o.config_maps.get(&name);
                stamp(
                    &mut new.metadata,
                    old.map(|o| &o.metadata),
                    uid,
                    version,
                    now,
                );
                o.config_maps.insert(name, new);
            }
            Object::PodDisruptionBudget(mut new) => {
                let old = o.pod_disruption_budgets.get(&name);
                stamp(
                    &mut new.metadata,
                    old.map(|o| &o.metadata),
                    uid,
                    version,
                    now,
                );
                o.pod_disruption_budgets.insert(name, new);
            }
            Object::StatefulSet(mut new) => {
                let old = o.stateful_sets.get(&name);
                let generation = match old {
                    None => 1,
                    Some(old) => {
                        let moved = old.spec != new.spec;
                        old.metadata.generation.unwrap_or(1) + i64::from(moved)
                    }
                };
                stamp(
                    &mut new.metadata,
                    old.map(|o| &o.metadata),
                    uid,
                    version,
                    now,
                );
                new.metadata.generation = Some(generation);
                new.status = old.and_then(|old| old.status.clone());
                o.stateful_sets.insert(name, new);
            }
            Object::PersistentVolumeClaim(new) => {
                let claim = o.claims.get_mut(&name).ok_or(Refused::Conflict)?;
                if claim.metadata.uid != new.metadata.uid {
                    return Err(Refused::Conflict);
                }
                let marks = new.metadata.annotations.unwrap_or_default();
                claim
                    .metadata
                    .annotations
                    .get_or_insert_default()
                    .extend(marks);
                claim.metadata.resource_version = Some(version);
                claim.spec = new.spec;
            }
        }
        Ok(())
    }

    /// Deletes what carries the UID and, if given, the version. Pods and the
    /// racks' pods only begin to leave: kubelet ends them.
    pub fn delete(
        &mut self,
        now: Timestamp,
        kind: Kind,
        name: &str,
        uid: &str,
        version: Option<&str>,
    ) -> Result<(), Refused> {
        let seen = self.metadata(kind, name).ok_or(Refused::NotFound)?;
        let same_version = version.is_none() || seen.resource_version.as_deref() == version;
        if seen.uid.as_deref() != Some(uid) || !same_version {
            return Err(Refused::Conflict);
        }
        let fresh = self.bump();
        let o = &mut self.objects;
        match kind {
            Kind::Pod => {
                if let Some(pod) = o.pods.get_mut(name)
                    && pod.metadata.deletion_timestamp.is_none()
                {
                    pod.metadata.deletion_timestamp = Some(Time(now));
                    pod.metadata.resource_version = Some(fresh);
                }
            }
            Kind::StatefulSet => drop(o.stateful_sets.remove(name)),
            Kind::Service => drop(o.services.remove(name)),
            Kind::ConfigMap => drop(o.config_maps.remove(name)),
            Kind::PodDisruptionBudget => drop(o.pod_disruption_budgets.remove(name)),
            Kind::PersistentVolumeClaim => {
                // A pod that uses it keeps it for as long as it runs.
                if let Some(claim) = o.claims.get_mut(name) {
                    claim.metadata.deletion_timestamp = Some(Time(now));
                    claim.metadata.resource_version = Some(fresh);
                }
            }
            Kind::Secret | Kind::DynomiteBackup | Kind::DynomiteRestore => {}
        }
        Ok(())
    }

    /// Whether a pod is there and has a place.
    pub fn is_placed(&self, pod: &str) -> bool {
        let spec = self.objects.pods.get(pod).and_then(|pod| pod.spec.as_ref());
        spec.is_some_and(|spec| spec.node_name.is_some())
    }

    /// Ends a pod of which nobody will tell that it has ended.
    fn delete_at_once(&mut self, name: &str, uid: &str) -> Result<(), Refused> {
        let seen = self.metadata(Kind::Pod, name).ok_or(Refused::NotFound)?;
        if seen.uid.as_deref() != Some(uid) {
            return Err(Refused::Conflict);
        }
        self.bump();
        self.objects.pods.remove(name);
        Ok(())
    }

    fn metadata(&self, kind: Kind, name: &str) -> Option<&ObjectMeta> {
        let o = &self.objects;
        match kind {
            Kind::StatefulSet => o.stateful_sets.get(name).map(|o| &o.metadata),
            Kind::Service => o.services.get(name).map(|o| &o.metadata),
            Kind::ConfigMap => o.config_maps.get(name).map(|o| &o.metadata),
            Kind::PodDisruptionBudget => o.pod_disruption_budgets.get(name).map(|o| &o.metadata),
            Kind::PersistentVolumeClaim => o.claims.get(name).map(|o| &o.metadata),
            Kind::Pod => o.pods.get(name).map(|o| &o.metadata),
            Kind::Secret | Kind::DynomiteBackup | Kind::DynomiteRestore => None,
        }
    }

    /// Makes the certificates.
    pub fn issue(&mut self, now: Timestamp, what: &Certificates) {
        let kept = match &self.objects.ca_secret {
            Seen::Known(Some(ca)) if !what.new_ca => Some(ca.clone()),
            _ => None,
        };
        let ca = kept.unwrap_or_else(|| SecretFacts {
            uid: self.fresh("secret"),
            owner_uid: self.resource.metadata.uid.clone(),
            complete: true,
            not_before: Some(now),
            not_after: now.checked_add(SignedDuration::from_hours(24 * 365)).ok(),
            ca_digest: self.fresh("ca"),
            dns_names: Vec::new(),
        });
        if what.new_admin {
            self.objects.admin_secret = Seen::Known(Some(SecretFacts {
                uid: self.fresh("secret"),
                ..ca.clone()
            }));
        }
        if what.new_node {
            self.objects.node_secret = Seen::Known(Some(SecretFacts {
                uid: self.fresh("secret"),
                dns_names: what.dns_names.clone(),
                ..ca.clone()
            }));
        }
        self.objects.ca_secret = Seen::Known(Some(ca));
    }

    /// Writes the status of the resource.
    pub fn publish(&mut self, status: DynomiteClusterStatus) {
        self.resource.metadata.resource_version = Some(self.bump());
        self.resource.status = Some(status);
    }

    /// Carries out what needs no node; `seen` is what the action was decided from.
    ///
    /// Like the operator's hands, it looks up what the watches did not show
    /// before it applies over it.
    pub fn act(
        &mut self,
        now: Timestamp,
        action: &Action,
        seen: &BTreeSet<(Kind, String)>,
    ) -> Result<(), Refused> {
        match action {
            Action::Apply(object) => {
                let key = (object.kind(), object.name().to_owned());
                let claim = object.kind() == Kind::PersistentVolumeClaim;
                if !claim && !seen.contains(&key) && self.holds(key.0, &key.1) {
                    return Err(Refused::Conflict);
                }
                self.apply(now, object)
            }
            Action::Delete {
                kind,
                name,
                uid,
                resource_version,
            } => self.delete(now, *kind, name, uid, resource_version.as_deref()),
            Action::DeleteAtOnce { name, uid } => self.delete_at_once(name, uid),
            Action::IssueCertificates(what) => {
                self.issue(now, what);
                Ok(())
            }
            Action::SetFinalizer { present } => {
                let finalizer = dynomite_api::annotations::FINALIZER.to_owned();
                self.resource.metadata.finalizers = present.then(|| vec![finalizer]);
                Ok(())
            }
            // The scenarios change no resources and no sizes, and take no backups.
            Action::Resize { .. }
            | Action::Orphan { .. }
            | Action::Assign { .. }
            | Action::HandCredentials { .. }
            | Action::AskBucket { .. }
            | Action::AnswerCall { .. }
            | Action::WriteBackup { .. }
            | Action::MakeBackup(_)
            | Action::MakeScratch(_)
            | Action::EndScratch { .. }
            | Action::TakeAnnotation { .. }
            | Action::MakeRestore(_)
            | Action::WriteRestore { .. }
            | Action::SetRestoreFinalizer { .. }
            | Action::SetBackupFinalizer { .. }
            | Action::Event { .. } => Ok(()),
        }
    }
}

/// An applied object keeps what the API server gave it.
fn stamp(
    new: &mut ObjectMeta,
    old: Option<&ObjectMeta>,
    uid: String,
    version: String,
    now: Timestamp,
) {
    new.uid = old.and_then(|old| old.uid.clone()).or(Some(uid));
    new.creation_timestamp = old
        .and_then(|old| old.creation_timestamp.clone())
        .or(Some(Time(now)));
    new.resource_version = Some(version);
}
