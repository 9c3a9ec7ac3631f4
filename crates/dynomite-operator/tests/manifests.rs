//! Chart and plain manifests against what the program knows of itself: its rights and its settings.

use std::collections::BTreeSet;
use std::path::PathBuf;

use clap::CommandFactory;
use dynomite_operator::options::Options;
use dynomite_operator::rbac::{Place, RULES};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule, Role};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_yaml::Value;

fn read(path: &str) -> String {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..");
    let path = root.join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The object of that kind and name in `deploy/operator.yaml`, which is the rendered chart.
fn object<T: DeserializeOwned>(kind: &str, name: &str) -> T {
    let text = read("deploy/operator.yaml");
    let found = serde_yaml::Deserializer::from_str(&text)
        .map(|document| Value::deserialize(document).expect("YAML"))
        .find(|object| object["kind"] == *kind && object["metadata"]["name"] == *name)
        .unwrap_or_else(|| panic!("no {kind} {name}"));
    serde_yaml::from_value(found).expect("the kind's fields")
}

/// Rights one by one: group, resource, verb.
type Rights = BTreeSet<(String, String, String)>;

fn granted(rules: Option<Vec<PolicyRule>>) -> Rights {
    let mut rights = Rights::new();
    for rule in rules.into_iter().flatten() {
        for group in rule.api_groups.iter().flatten() {
            for resource in rule.resources.iter().flatten() {
                for verb in &rule.verbs {
                    rights.insert((group.clone(), resource.clone(), verb.clone()));
                }
            }
        }
    }
    rights
}

fn needed(places: &[Place]) -> Rights {
    let mut rights = Rights::new();
    for rule in RULES.iter().filter(|rule| places.contains(&rule.place)) {
        for resource in rule.resources {
            for verb in rule.verbs {
                rights.insert((
                    rule.group.to_owned(),
                    (*resource).to_owned(),
                    (*verb).to_owned(),
                ));
            }
        }
    }
    rights
}

#[test]
fn the_roles_grant_what_is_needed_and_no_more() {
    let cluster: ClusterRole = object("ClusterRole", "dynomite-operator");
    assert_eq!(
        granted(cluster.rules),
        needed(&[Place::Served, Place::Cluster])
    );
    let own: Role = object("Role", "dynomite-operator-leader");
    assert_eq!(granted(own.rules), needed(&[Place::Own]));
}

#[test]
fn every_variable_of_the_deployment_is_one_the_program_reads() {
    let command = Options::command();
    let read: BTreeSet<&str> = command
        .get_arguments()
        .filter_map(|argument| argument.get_env()?.to_str())
        .collect();
    let deployment: Deployment = object("Deployment", "dynomite-operator");
    let pod = deployment
        .spec
        .and_then(|spec| spec.template.spec)
        .expect("a pod");
    let set: Vec<String> = pod
        .containers
        .into_iter()
        .flat_map(|container| container.env.unwrap_or_default())
        .map(|variable| variable.name)
        .collect();
    assert!(set.iter().any(|name| name == "OPERATOR_IMAGE"), "{set:?}");
    let unread: Vec<_> = set
        .iter()
        .filter(|name| !read.contains(name.as_str()))
        .collect();
    assert!(
        unread.is_empty(),
        "the program reads {read:?}, not {unread:?}"
    );
}

/// Values that are handed on to Kubernetes as they are, and so are one thing.
const WHOLE: [&str; 3] = [
    "containerSecurityContext",
    "podSecurityContext",
    "resources",
];

fn keys(value: &Value, prefix: &str, found: &mut BTreeSet<String>) {
    for (key, value) in value.as_mapping().into_iter().flatten() {
        let key = format!("{prefix}{}", key.as_str().expect("a name"));
        let branch = value.as_mapping().is_some_and(|map| !map.is_empty());
        if branch && !WHOLE.contains(&key.as_str()) {
            keys(value, &format!("{key}."), found);
        } else {
            found.insert(key);
        }
    }
}

#[test]
fn the_charts_page_names_every_value_and_no_other() {
    let values: Value =
        serde_yaml::from_str(&read("charts/dynomite-operator/values.yaml")).expect("YAML");
    let mut wanted = BTreeSet::new();
    keys(&values, "", &mut wanted);
    let page = read("charts/dynomite-operator/README.md");
    let named: BTreeSet<String> = page
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once('`'))
        .map(|(key, _)| key.to_owned())
        .collect();
    assert_eq!(named, wanted);
}
