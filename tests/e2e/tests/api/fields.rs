//! Every field of the specification: two values that are accepted, and one that is refused by name.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, ensure};
use dynomite_e2e::{Cluster, Namespace};
use serde_json::{Value, json};

/// Two rings that use every field, with different values.
const EXAMPLES: [&str; 2] = [
    include_str!("every-field-1.yaml"),
    include_str!("every-field-2.yaml"),
];

/// Fields that have one value only, so far or here.
const ONE_VALUE: &[&str] = &[
    // Memcached and others have their place in the interface.
    "spec.store.kind",
    // It is true or absent.
    "spec.bootstrap.restoreFrom.from.latest",
    // Seconds are allowed with one effect only.
    "spec.racks[].tolerations[].effect",
    // Kubernetes knows one field of a node to match.
    "spec.pod.affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution[].preference.matchFields[].key",
    "spec.pod.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[].matchFields[].key",
];

/// Where exactly one of several fields may be: the examples have the first of
/// them, and these take its place, each with its two values.
const ONE_OF: &str = "/spec/bootstrap/restoreFrom/from";

fn instead() -> Vec<[Value; 2]> {
    vec![
        [json!({"backup": "blue"}), json!({"backup": "green"})],
        [json!({"latest": true}), json!({"latest": true})],
        [
            json!({"asOf": "2026-11-20T00:00:00Z"}),
            json!({"asOf": "2026-11-21T00:00:00Z"}),
        ],
        [json!({"file": "blue.rdb"}), json!({"file": "green.rdb"})],
        [
            json!({"files": ["blue.rdb"]}),
            json!({"files": ["green.rdb", "other.rdb"]}),
        ],
        [
            json!({"manager": {"base": "blue", "date": "2026-11-20", "datacenter": "blue", "rack": "blue", "tokens": [7]}}),
            json!({"manager": {"base": "green", "date": "2026-11-21", "datacenter": "green", "rack": "green", "tokens": [8]}}),
        ],
    ]
}

/// The paths of a schema's leaves; elements of a list are `[]`, values of a map are not looked into.
fn leaves(schema: &Value, path: &str, into: &mut BTreeSet<String>) {
    if let Some(properties) = schema.get("properties").and_then(Value::as_object) {
        for (name, property) in properties {
            leaves(property, &format!("{path}.{name}"), into);
        }
    } else if let Some(items) = schema.get("items") {
        leaves(items, &format!("{path}[]"), into);
    } else {
        into.insert(path.to_owned());
    }
}

/// The values a document has at each of the leaves, with the pointer to the first of them.
fn values<'a>(
    document: &'a Value,
    leaf_paths: &BTreeSet<String>,
) -> BTreeMap<String, (String, Vec<&'a Value>)> {
    fn walk<'a>(
        value: &'a Value,
        path: &str,
        pointer: &str,
        leaf_paths: &BTreeSet<String>,
        into: &mut BTreeMap<String, (String, Vec<&'a Value>)>,
    ) {
        if leaf_paths.contains(path) {
            let entry = into.entry(path.to_owned());
            let (_, found) = entry.or_insert_with(|| (pointer.to_owned(), Vec::new()));
            found.push(value);
            return;
        }
        match value {
            Value::Object(fields) => {
                for (name, value) in fields {
                    let (path, pointer) = (format!("{path}.{name}"), format!("{pointer}/{name}"));
                    walk(value, &path, &pointer, leaf_paths, into);
                }
            }
            Value::Array(elements) => {
                for (index, value) in elements.iter().enumerate() {
                    let (path, pointer) = (format!("{path}[]"), format!("{pointer}/{index}"));
                    walk(value, &path, &pointer, leaf_paths, into);
                }
            }
            _ => {}
        }
    }
    let mut found = BTreeMap::new();
    walk(&document["spec"], "spec", "/spec", leaf_paths, &mut found);
    found
}

/// A value of another kind than the field has.
fn impossible(value: &Value) -> Value {
    match value {
        Value::String(_) => json!({"not": ["a", "string"]}),
        Value::Number(_) | Value::Bool(_) => json!("neither number nor truth"),
        _ => json!("not a map"),
    }
}

/// The example as a ring that is refreshed, which has neither schedules of backups
/// nor other datacenters.
fn refreshed(mut example: Value, side: usize) -> Result<Value> {
    let refresh = [
        json!({"cron": "1 2 * * *", "timeZone": "Europe/Berlin", "startingDeadlineSeconds": 100,
            "suspend": true, "keep": 1, "store": "blue-s3",
            "sourceCluster": {"name": "blue", "namespace": "blue", "uid": "blue"}}),
        json!({"cron": "2 3 * * *", "timeZone": "UTC", "startingDeadlineSeconds": 200,
            "suspend": false, "keep": 2, "store": "green-s3",
            "sourceCluster": {"name": "green", "namespace": "green", "uid": "green"}}),
    ];
    let spec = example["spec"].as_object_mut().context("a spec")?;
    spec.remove("remoteDatacenters");
    spec.insert("refresh".to_owned(), refresh[side].clone());
    spec["backup"]["schedules"] = json!([]);
    Ok(example)
}

/// Of each example all forms: itself, refreshed, and with the others of [`ONE_OF`].
fn examples() -> Result<[Vec<Value>; 2]> {
    let mut all = [Vec::new(), Vec::new()];
    for (side, text) in EXAMPLES.into_iter().enumerate() {
        let example: Value = serde_yaml::from_str(text).context("an example")?;
        all[side].push(example.clone());
        all[side].push(refreshed(example.clone(), side)?);
        for other in instead() {
            let mut form = example.clone();
            let place = form.pointer_mut(ONE_OF).context("the example has it")?;
            *place = other[side].clone();
            all[side].push(form);
        }
    }
    Ok(all)
}

/// The values of all forms at each of the leaves, with the form and the pointer to the first of them.
fn found<'a>(
    forms: &'a [Value],
    paths: &BTreeSet<String>,
) -> BTreeMap<String, (&'a Value, String, Vec<&'a Value>)> {
    let mut all = BTreeMap::new();
    for form in forms {
        for (path, (pointer, values)) in values(form, paths) {
            all.entry(path).or_insert((form, pointer, values));
        }
    }
    all
}

fn schema(cluster: &Cluster) -> Result<Value> {
    let definition = cluster.json(&["get", "crd", "dynomiteclusters.dynomite.io"])?;
    let spec = definition.pointer("/spec/versions/0/schema/openAPIV3Schema/properties/spec");
    Ok(spec.context("the definition has a schema")?.clone())
}

#[test]
fn every_field_has_two_values_that_are_accepted() -> Result<()> {
    let cluster = super::cluster_with_definition()?;
    let namespace = Namespace::create(&cluster, "e2e-api-fields")?;
    let mut paths = BTreeSet::new();
    leaves(&schema(&cluster)?, "spec", &mut paths);
    ensure!(paths.len() > 50, "the schema has {} leaves", paths.len());
    let examples = examples()?;
    for example in examples.iter().flatten() {
        let refused = super::refusal(&cluster, &namespace.name, example)?;
        ensure!(
            refused.is_none(),
            "refused: {}",
            refused.unwrap_or_default()
        );
    }
    let [one, other] = [&examples[0], &examples[1]].map(|forms| found(forms, &paths));
    let mut wrong = Vec::new();
    for path in &paths {
        match (one.get(path), other.get(path)) {
            (Some((_, _, one)), Some((_, _, other))) => {
                let alone = ONE_VALUE.contains(&path.as_str());
                if one == other && !alone {
                    wrong.push(format!("{path} has the same value in both examples"));
                }
            }
            _ => wrong.push(format!("{path} is not in both examples")),
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

#[test]
fn every_field_refuses_what_it_cannot_be() -> Result<()> {
    let cluster = super::cluster_with_definition()?;
    let namespace = Namespace::create(&cluster, "e2e-api-impossible")?;
    let mut paths = BTreeSet::new();
    leaves(&schema(&cluster)?, "spec", &mut paths);
    let [forms, _] = examples()?;
    let mut items = Vec::new();
    let mut names = Vec::new();
    for (path, (form, pointer, found)) in found(&forms, &paths) {
        let mut document = form.clone();
        let name = format!("impossible-{}", names.len());
        document["metadata"]["name"] = json!(name);
        let place = document.pointer_mut(&pointer);
        *place.context("the pointer was made from the document")? = impossible(found[0]);
        items.push(document);
        names.push((name, path));
    }
    ensure!(
        names.len() == paths.len(),
        "not every field is in the example"
    );
    let list = json!({"apiVersion": "v1", "kind": "List", "items": items});
    // The server's word counts, not kubectl's.
    let args = ["apply", "--validate=false", "--dry-run=server"];
    let args = [&args[..], &["-n", &namespace.name, "-f", "-"]].concat();
    let output = cluster.try_kubectl(&args, Some(&list.to_string()))?;
    let wrong: Vec<String> = names
        .iter()
        .filter_map(|(name, path)| {
            let field = path
                .rsplit('.')
                .next()
                .unwrap_or(path)
                .trim_end_matches("[]");
            let mut lines = output.stderr.lines();
            let said = lines.find(|line| line.contains(&format!("\"{name}\"")));
            match said {
                None => Some(format!("{path}: nothing was said of it")),
                Some(line) if line.contains(field) => None,
                Some(line) => Some(format!("{path}: not named in: {line}")),
            }
        })
        .collect();
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}
