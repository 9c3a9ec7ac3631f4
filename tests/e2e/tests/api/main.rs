//! The resource as the API server sees it: what is refused and with which words, and what is filled in.

mod fields;

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use dynomite_e2e::{Cluster, Namespace, wait_for};
use serde_json::{Value, json};

fn cluster_with_definition() -> Result<Cluster> {
    let cluster = Cluster::from_env()?;
    let text = serde_yaml::to_string(&dynomite_api::crd::definition())?;
    let args = ["apply", "--server-side", "--force-conflicts", "-f", "-"];
    let applied = cluster.try_kubectl(&args, Some(&text))?;
    ensure!(
        applied.success,
        "the definition is refused: {}",
        applied.stderr
    );
    cluster.kubectl(&[
        "wait",
        "--for=condition=Established",
        "--timeout=30s",
        "crd/dynomiteclusters.dynomite.io",
    ])?;
    // The server tells of a new kind a moment after it accepts objects of it.
    wait_for("the kind to be listed", Duration::from_secs(30), || {
        let said = cluster.try_kubectl(&["explain", "dyn"], None)?;
        Ok(if said.success {
            Ok(())
        } else {
            Err(said.stderr)
        })
    })?;
    Ok(cluster)
}

fn valid() -> Value {
    json!({
        "apiVersion": "dynomite.io/v1alpha1",
        "kind": "DynomiteCluster",
        "metadata": {"name": "ring"},
        "spec": {
            // The operator that other tests run must leave this ring alone.
            "paused": true,
            "nodesPerRack": 2,
            "racks": [{"name": "dc1-a"}, {"name": "dc1-b"}, {"name": "dc1-c"}],
        }
    })
}

/// Lays a JSON merge patch (RFC 7396) over a document.
fn merged(mut document: Value, patch: &Value) -> Value {
    fn merge(into: &mut Value, patch: &Value) {
        let Some(fields) = patch.as_object() else {
            *into = patch.clone();
            return;
        };
        if !into.is_object() {
            *into = json!({});
        }
        for (key, value) in fields {
            match into.as_object_mut() {
                Some(map) if value.is_null() => drop(map.remove(key)),
                Some(map) => merge(map.entry(key).or_insert(Value::Null), value),
                None => {}
            }
        }
    }
    merge(&mut document, patch);
    document
}

fn refusal(cluster: &Cluster, namespace: &str, manifest: &Value) -> Result<Option<String>> {
    let args = ["apply", "--dry-run=server", "-n", namespace, "-f", "-"];
    let output = cluster.try_kubectl(&args, Some(&manifest.to_string()))?;
    Ok((!output.success).then_some(output.stderr))
}

/// A spec with a refresh and a store for it, changed.
fn refresh(change: &Value, backup: &Value) -> Value {
    let refresh = json!({"cron": "0 5 * * 1", "sourceCluster": {"name": "other"}});
    let stores = json!({"stores": [{"name": "main", "s3": {"bucket": "abc"}}]});
    json!({
        "refresh": merged(refresh, change),
        "backup": merged(stores, backup),
    })
}

/// Every row: what is wrong, the patch that makes it so, what the refusal must say.
fn wrong_at_creation() -> Vec<(&'static str, Value, &'static [&'static str])> {
    let spec = |patch: Value| json!({ "spec": patch });
    let long = "a".repeat(47);
    vec![
        (
            "no racks",
            spec(json!({"racks": []})),
            &["spec.racks", "at least one rack"],
        ),
        (
            "no racks at all",
            spec(json!({"racks": null})),
            &["spec.racks", "Required"],
        ),
        (
            "a rack twice",
            spec(json!({"racks": [{"name": "dc1-a"}, {"name": "dc1-a"}]})),
            &["spec.racks", "a name of its own"],
        ),
        (
            "a rack called nodes",
            spec(json!({"racks": [{"name": "nodes"}]})),
            &["spec.racks[0]", "choose another name"],
        ),
        (
            "a rack with capitals",
            spec(json!({"racks": [{"name": "Dc1"}]})),
            &["spec.racks[0].name", "such as dc1-a"],
        ),
        (
            "names too long together",
            json!({"metadata": {"name": long}}),
            &["at most 52 characters", "shorten one of them"],
        ),
        (
            "a name no Service can have",
            json!({"metadata": {"name": "1ring"}}),
            &["metadata.name", "begin with a letter"],
        ),
        (
            "a zone that is no label's value",
            spec(json!({"racks": [{"name": "dc1-a", "zone": "bad zone!"}]})),
            &["spec.racks[0].zone", "topology.kubernetes.io/zone"],
        ),
        (
            "a class that cannot be",
            spec(json!({"storage": {"className": "Bad Class!"}})),
            &["spec.storage.className", "kubectl get storageclass"],
        ),
        (
            "an image of blanks",
            spec(json!({"store": {"image": "   "}})),
            &["spec.store.image", "without blanks"],
        ),
        (
            "a toleration with a wrong word",
            spec(
                json!({"racks": [{"name": "dc1-a", "tolerations": [{"key": "a", "operator": "Is"}]}]}),
            ),
            &["spec.racks[0].tolerations[0].operator", "Exists"],
        ),
        (
            "a spread with a wrong word",
            spec(json!({"pod": {"topologySpreadConstraints": [
                {"maxSkew": 1, "topologyKey": "a", "whenUnsatisfiable": "Perhaps"},
            ]}})),
            &["whenUnsatisfiable", "ScheduleAnyway"],
        ),
        (
            "an amount that is a word",
            spec(json!({"store": {"resources": {"limits": {"memory": "lots"}}}})),
            &["spec.store.resources.limits.memory"],
        ),
        (
            "a store that asks for more memory than it may have",
            spec(json!({"store": {"resources": {
                "requests": {"memory": "1Gi", "cpu": "1"},
                "limits": {"memory": "900Mi", "cpu": "1"},
            }}})),
            &[
                "spec.store.resources",
                "above its limit",
                "raise it in limits",
            ],
        ),
        (
            "an engine that asks for more processors than it may have",
            spec(json!({"dynomite": {"resources": {
                "requests": {"cpu": "1"}, "limits": {"cpu": "999m"},
            }}})),
            &["spec.dynomite.resources", "above its limit"],
        ),
        (
            "a sidecar that asks for more than it may have",
            spec(json!({"pod": {"sidecarResources": {
                "requests": {"memory": 64_000_001}, "limits": {"memory": "64M"},
            }}})),
            &["spec.pod.sidecarResources", "above its limit"],
        ),
        (
            "a domain with a dot at its end",
            spec(json!({"clusterDomain": "cluster.local."})),
            &["spec.clusterDomain", "without a dot at its end"],
        ),
        (
            "a remote datacenter in capitals",
            spec(json!({"remoteDatacenters": [{"name": "DC2", "seeds": ["h:8101:r:DC2:1"]}]})),
            &["spec.remoteDatacenters[0].name", "such as dc1"],
        ),
        (
            "a setting in capitals that is not free",
            spec(json!({"store": {"settings": {"PORT": "1"}}})),
            &["store.settings holds a key"],
        ),
        (
            "a seed with a port that is none",
            spec(json!({"remoteDatacenters": [{"name": "dc2", "seeds": ["h:99999:r:dc2:1"]}]})),
            &["spec.remoteDatacenters[0].seeds[0]"],
        ),
        (
            "a seed with a token that is none",
            spec(
                json!({"remoteDatacenters": [{"name": "dc2", "seeds": ["h:8101:r:dc2:9999999999"]}]}),
            ),
            &["spec.remoteDatacenters[0].seeds[0]"],
        ),
        (
            "no nodes",
            spec(json!({"nodesPerRack": 0})),
            &["spec.nodesPerRack", "greater than or equal to 1"],
        ),
        (
            "a negative number of nodes",
            spec(json!({"nodesPerRack": -1})),
            &["spec.nodesPerRack"],
        ),
        (
            "too many nodes",
            spec(json!({"nodesPerRack": 129})),
            &["spec.nodesPerRack", "less than or equal to 128"],
        ),
        (
            "a token twice",
            spec(json!({"racks": [{"name": "dc1-a", "tokens": [7, 7]}]})),
            &["racks[0]", "a token twice", "a token of its own"],
        ),
        (
            "a token out of range",
            spec(json!({"racks": [{"name": "dc1-a", "tokens": [1, 4_294_967_296_i64]}]})),
            &[
                "spec.racks[0].tokens[1]",
                "less than or equal to 4294967295",
            ],
        ),
        (
            "a negative token",
            spec(json!({"racks": [{"name": "dc1-a", "tokens": [1, -1]}]})),
            &["spec.racks[0].tokens[1]"],
        ),
        (
            "tokens that differ between racks",
            spec(
                json!({"racks": [{"name": "dc1-a", "tokens": [1, 2]}, {"name": "dc1-b", "tokens": [1, 3]}]}),
            ),
            &["racks[].tokens must be the same list in every rack"],
        ),
        (
            "tokens in one rack only",
            spec(json!({"racks": [{"name": "dc1-a", "tokens": [1, 2]}, {"name": "dc1-b"}]})),
            &["racks[].tokens must be the same list in every rack"],
        ),
        (
            "too few tokens",
            spec(json!({"racks": [{"name": "dc1-a", "tokens": [1]}]})),
            &["one token for each node", "give nodesPerRack tokens"],
        ),
        (
            "an unknown consistency",
            spec(json!({"consistency": {"write": "QUORUM"}})),
            &["spec.consistency.write", "DC_ONE", "DC_QUORUM"],
        ),
        (
            "a write quorum of two racks",
            spec(
                json!({"racks": [{"name": "dc1-a"}, {"name": "dc1-b"}], "consistency": {"write": "DC_QUORUM"}}),
            ),
            &["consistency.write", "add racks or use DC_ONE"],
        ),
        (
            "a read quorum of one rack",
            spec(json!({"racks": [{"name": "dc1-a"}], "consistency": {"read": "DC_SAFE_QUORUM"}})),
            &["consistency.read", "add racks or use DC_ONE"],
        ),
        (
            "persistence without a volume",
            spec(json!({"storage": {"medium": "None"}, "store": {"persistence": "aof"}})),
            &["store.persistence needs a volume"],
        ),
        (
            "no storage",
            spec(json!({"storage": {"size": "0"}})),
            &["storage.size", "10Gi"],
        ),
        (
            "storage that is no quantity",
            spec(json!({"storage": {"size": "big"}})),
            &["storage.size", "10Gi"],
        ),
        (
            "an unknown medium",
            spec(json!({"storage": {"medium": "Disk"}})),
            &["spec.storage.medium", "Volume"],
        ),
        (
            "a key of dynomite.yml that the operator sets",
            spec(json!({"dynomite": {"settings": {"tokens": "1"}}})),
            &["dynomite.settings", "leave it out"],
        ),
        (
            "a line that would take the store away",
            spec(json!({"store": {"settings": {"replicaof": "evil 6379"}}})),
            &["store.settings", "leave it out"],
        ),
        (
            "a setting of two lines",
            spec(json!({"store": {"settings": {"maxclients": "10\nreplicaof evil 6379"}}})),
            &["spec.store.settings", "is one line"],
        ),
        (
            "a remote datacenter that is this one",
            spec(json!({"remoteDatacenters": [{"name": "dc1", "seeds": ["h:8101:r:dc1:1"]}]})),
            &["remoteDatacenters", "a name of its own"],
        ),
        (
            "a remote datacenter without seeds and without a URL",
            spec(json!({"remoteDatacenters": [{"name": "dc2"}]})),
            &["spec.remoteDatacenters[0]", "give one of the two"],
        ),
        (
            "a remote datacenter with seeds and a URL",
            spec(
                json!({"remoteDatacenters": [{"name": "dc2", "seeds": ["h:8101:r:dc2:1"],
                "describe": "http://h:8080/REST/v1/admin/cluster_describe"}]}),
            ),
            &["spec.remoteDatacenters[0]", "give one of the two"],
        ),
        (
            "a URL that describes nothing",
            spec(json!({"remoteDatacenters": [{"name": "dc2",
                "describe": "http://169.254.169.254/latest/meta-data"}]})),
            &["spec.remoteDatacenters[0].describe", "cluster_describe"],
        ),
        (
            "a URL of a scheme that is not asked",
            spec(json!({"remoteDatacenters": [{"name": "dc2",
                "describe": "file:///v1/admin/cluster_describe"}]})),
            &["spec.remoteDatacenters[0].describe", "cluster_describe"],
        ),
        (
            "a seed without a token",
            spec(json!({"remoteDatacenters": [{"name": "dc2", "seeds": ["h:8101:r:dc2"]}]})),
            &["spec.remoteDatacenters[0].seeds[0]", "such as node.example"],
        ),
        (
            "a refresh with the ring's own data",
            spec(refresh(
                &json!({"sourceCluster": {"name": "ring"}}),
                &json!({}),
            )),
            &["refresh.sourceCluster", "this cluster itself"],
        ),
        (
            "a refresh from nobody",
            spec(refresh(&json!({"sourceCluster": null}), &json!({}))),
            &["spec.refresh.sourceCluster", "Required"],
        ),
        (
            "a refresh from a store that is not there",
            spec(refresh(&json!({"store": "other"}), &json!({}))),
            &["refresh needs the store", "backup.stores"],
        ),
        (
            "a refresh of a ring that is backed up",
            spec(refresh(
                &json!({}),
                &json!({"schedules": [{"name": "n", "cron": "0 0 * * *"}]}),
            )),
            &["one or the other"],
        ),
        (
            "memory beyond the limit",
            spec(json!({"store": {"memoryPercent": 101}})),
            &["spec.store.memoryPercent", "less than or equal to 90"],
        ),
        (
            "a datacenter with a colon",
            spec(json!({"datacenter": "a:b"})),
            &["spec.datacenter", "such as dc1"],
        ),
        (
            "a field that does not exist",
            spec(json!({"replicas": 3})),
            &["spec.replicas"],
        ),
    ]
}

/// Every row: what is changed, the patch, what the refusal must say.
fn wrong_as_a_change() -> Vec<(&'static str, Value, &'static [&'static str])> {
    let spec = |patch: Value| json!({ "spec": patch });
    vec![
        (
            "nodesPerRack",
            spec(json!({"nodesPerRack": 3})),
            &["nodesPerRack cannot be changed"],
        ),
        (
            "datacenter",
            spec(json!({"datacenter": "dc9"})),
            &["datacenter cannot be changed"],
        ),
        (
            "tokens given later",
            spec(json!({"racks": [
                {"name": "dc1-a", "tokens": [1, 2]},
                {"name": "dc1-b", "tokens": [1, 2]},
                {"name": "dc1-c", "tokens": [1, 2]},
            ]})),
            &["a rack's tokens cannot be changed"],
        ),
        (
            "less storage",
            spec(json!({"storage": {"size": "1Gi"}})),
            &["storage.size cannot shrink"],
        ),
        (
            "another medium",
            spec(json!({"storage": {"medium": "None"}})),
            &["storage.medium cannot be changed"],
        ),
        (
            "another class",
            spec(json!({"storage": {"className": "fast"}})),
            &["storage.className cannot be changed"],
        ),
    ]
}

/// One line for each row that was not refused as it should be.
fn expect_refusals(
    cluster: &Cluster,
    namespace: &str,
    rows: Vec<(&'static str, Value, &'static [&'static str])>,
) -> Result<Vec<String>> {
    let mut wrong = Vec::new();
    for (what, patch, words) in rows {
        match refusal(cluster, namespace, &merged(valid(), &patch))? {
            None => wrong.push(format!("{what}: was accepted")),
            Some(said) => wrong.extend(
                words
                    .iter()
                    .filter(|word| !said.contains(**word))
                    .map(|word| format!("{what}: {word:?} is not in the refusal: {said}")),
            ),
        }
    }
    Ok(wrong)
}

#[test]
fn invalid_manifests_are_refused_with_the_field_and_the_remedy() -> Result<()> {
    let cluster = cluster_with_definition()?;
    let namespace = Namespace::create(&cluster, "e2e-api-invalid")?;
    ensure!(
        refusal(&cluster, &namespace.name, &valid())?.is_none(),
        "the valid manifest is refused"
    );
    let mut wrong = expect_refusals(&cluster, &namespace.name, wrong_at_creation())?;
    cluster.apply(&namespace.name, &valid().to_string())?;
    wrong.extend(expect_refusals(
        &cluster,
        &namespace.name,
        wrong_as_a_change(),
    )?);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

#[test]
fn defaults_are_filled_in_by_the_server() -> Result<()> {
    let cluster = cluster_with_definition()?;
    let namespace = Namespace::create(&cluster, "e2e-api-defaults")?;
    cluster.apply(&namespace.name, &valid().to_string())?;
    let stored = cluster.json(&["get", "dyn", "ring", "-n", &namespace.name])?;
    let rows = [
        ("/spec/datacenter", json!("dc1")),
        ("/spec/consistency/read", json!("DC_ONE")),
        ("/spec/storage/size", json!("10Gi")),
        ("/spec/storage/retention", json!("Retain")),
        ("/spec/store/memoryPercent", json!(65)),
        ("/spec/dynomite/timeoutMilliseconds", json!(5000)),
        ("/spec/pod/terminationGracePeriodSeconds", json!(60)),
        ("/spec/clusterDomain", json!("cluster.local")),
        ("/spec/health/probePeriodSeconds", json!(1)),
    ];
    for (path, wanted) in rows {
        assert_eq!(stored.pointer(path), Some(&wanted), "{path}");
    }
    let more = merged(
        valid(),
        &json!({"spec": {"storage": {"size": "20Gi"}, "paused": true}}),
    );
    cluster.apply(&namespace.name, &more.to_string())
}

/// Collects the paths of properties that have no description.
fn undescribed(schema: &Value, path: &str, into: &mut Vec<String>) {
    if let Some(properties) = schema.get("properties").and_then(Value::as_object) {
        for (name, property) in properties {
            let path = format!("{path}.{name}");
            if property
                .get("description")
                .and_then(Value::as_str)
                .is_none_or(str::is_empty)
            {
                into.push(path.clone());
            }
            undescribed(property, &path, into);
        }
    }
    if let Some(items) = schema.get("items") {
        undescribed(items, &format!("{path}[]"), into);
    }
}

#[test]
fn every_field_is_explained() -> Result<()> {
    let cluster = cluster_with_definition()?;
    let definition = cluster.json(&["get", "crd", "dynomiteclusters.dynomite.io"])?;
    let schema = definition
        .pointer("/spec/versions/0/schema/openAPIV3Schema/properties")
        .context("the definition has a schema")?;
    let mut missing = Vec::new();
    for part in ["spec", "status"] {
        undescribed(&schema[part], part, &mut missing);
    }
    assert!(missing.is_empty(), "without a description: {missing:?}");
    let said = cluster.kubectl(&["explain", "dyn.spec.racks"])?;
    assert!(said.contains("one full copy of the data"), "{said}");
    Ok(())
}

#[test]
fn resource_is_listed_under_its_short_names() -> Result<()> {
    let cluster = cluster_with_definition()?;
    let namespace = Namespace::create(&cluster, "e2e-api-names")?;
    cluster.apply(&namespace.name, &valid().to_string())?;
    for name in ["dyn", "dynomite", "databases", "dynomiteclusters"] {
        let listed = cluster.kubectl(&["get", name, "-n", &namespace.name])?;
        assert!(listed.contains("ring"), "kubectl get {name}: {listed}");
    }
    let header = cluster.kubectl(&["get", "dyn", "-n", &namespace.name, "-o", "wide"])?;
    for column in [
        "READY",
        "NODES",
        "RACKS",
        "PHASE",
        "AGE",
        "DATACENTER",
        "READ",
        "WRITE",
    ] {
        assert!(
            header.contains(column),
            "{column} is not a column: {header}"
        );
    }
    Ok(())
}
