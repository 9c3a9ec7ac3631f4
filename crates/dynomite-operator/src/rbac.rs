//! The least rights the operator needs, as a table that manifests and chart are checked against.

/// Where a right is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In every namespace that is served: a `ClusterRole` in cluster mode, a
    /// Role for each in namespaced mode.
    Served,
    /// In the operator's own namespace: always a Role.
    Own,
    /// On the whole cluster: cluster mode only.
    Cluster,
}

/// A rule of a Role, with why it is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Where.
    pub place: Place,
    /// API group; empty for the core group.
    pub group: &'static str,
    /// Resources.
    pub resources: &'static [&'static str],
    /// Verbs.
    pub verbs: &'static [&'static str],
    /// What for.
    pub why: &'static str,
}

/// All rights, no more.
pub const RULES: &[Rule] = &[
    Rule {
        place: Place::Served,
        group: "dynomite.io",
        resources: &["dynomiteclusters"],
        verbs: &["get", "list", "watch", "patch"],
        why: "the resources themselves, and their finalizer",
    },
    Rule {
        place: Place::Served,
        group: "dynomite.io",
        resources: &["dynomiteclusters/status"],
        verbs: &["patch"],
        why: "their status",
    },
    Rule {
        place: Place::Served,
        group: "dynomite.io",
        resources: &["dynomiteclusters/finalizers"],
        verbs: &["update"],
        why: "owner references that block deletion, where the API server enforces it",
    },
    Rule {
        place: Place::Served,
        group: "dynomite.io",
        resources: &["dynomitebackups", "dynomiterestores"],
        verbs: &["get", "list", "watch", "create", "patch", "delete"],
        why: "backups and restores by schedule, annotation and retention, and their finalizers",
    },
    Rule {
        place: Place::Served,
        group: "dynomite.io",
        resources: &["dynomitebackups/status", "dynomiterestores/status"],
        verbs: &["patch"],
        why: "their status",
    },
    Rule {
        place: Place::Served,
        group: "apps",
        resources: &["statefulsets"],
        verbs: &["get", "list", "watch", "create", "patch", "delete"],
        why: "racks",
    },
    Rule {
        place: Place::Served,
        group: "",
        resources: &["services", "configmaps"],
        verbs: &["get", "list", "watch", "create", "patch", "delete"],
        why: "ways to reach nodes, token records",
    },
    Rule {
        place: Place::Served,
        group: "policy",
        resources: &["poddisruptionbudgets"],
        verbs: &["get", "list", "watch", "create", "patch", "delete"],
        why: "how many nodes may be evicted",
    },
    Rule {
        place: Place::Served,
        group: "",
        resources: &["persistentvolumeclaims"],
        verbs: &["list", "watch", "patch", "delete"],
        why: "token marks and growth; deletion with retention Delete, or of a node that is replaced",
    },
    Rule {
        place: Place::Served,
        group: "",
        resources: &["pods"],
        verbs: &["list", "watch", "create", "delete"],
        why: "rolling changes, one pod at a time; pods of Kubernetes nodes that are gone; the \
              pod that loads a backup to prove it",
    },
    Rule {
        place: Place::Served,
        group: "",
        resources: &["pods/resize"],
        verbs: &["patch"],
        why: "CPU and memory of a running pod",
    },
    Rule {
        place: Place::Served,
        group: "",
        resources: &["secrets"],
        verbs: &["get", "create", "patch", "delete"],
        why: "certificates, and what opens stores of backups, by name; never listed or watched",
    },
    Rule {
        place: Place::Served,
        group: "",
        resources: &["events"],
        verbs: &["list"],
        why: "why pods of a StatefulSet cannot be created",
    },
    Rule {
        place: Place::Served,
        group: "events.k8s.io",
        resources: &["events"],
        verbs: &["create", "patch"],
        why: "telling what changed",
    },
    Rule {
        place: Place::Own,
        group: "coordination.k8s.io",
        resources: &["leases"],
        verbs: &["get", "create", "update"],
        why: "leader election",
    },
    Rule {
        place: Place::Cluster,
        group: "",
        resources: &["nodes"],
        verbs: &["list", "watch"],
        why: "zones, which nodes take pods, and which are gone",
    },
    Rule {
        place: Place::Cluster,
        group: "",
        resources: &["persistentvolumes"],
        verbs: &["get"],
        why: "whether a volume is bound to a Kubernetes node that is gone",
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_granted_by_wildcard_and_secrets_are_read_by_name_only() {
        for rule in RULES {
            let words = || rule.resources.iter().chain(rule.verbs);
            assert!(words().all(|word| *word != "*"), "{rule:?}");
            if rule.resources.contains(&"secrets") {
                assert!(!rule.verbs.contains(&"list") && !rule.verbs.contains(&"watch"));
            }
            let dangerous = ["escalate", "bind", "impersonate"];
            assert!(!rule.verbs.iter().any(|verb| dangerous.contains(verb)));
        }
    }
}
