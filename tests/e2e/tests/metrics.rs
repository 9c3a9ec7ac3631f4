//! What Prometheus scrapes of operator and nodes: named as its linter wants, and all that is documented.

use std::collections::BTreeSet;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use dynomite_e2e::cluster::{run, variable};
use dynomite_e2e::operator::NAMESPACE;
use dynomite_e2e::{Cluster, Namespace, Operator, Ring};

/// What a pod answers at `/metrics`.
fn metrics(cluster: &Cluster, namespace: &str, pod: &str) -> Result<String> {
    let path = format!("/api/v1/namespaces/{namespace}/pods/{pod}:8080/proxy/metrics");
    let text = cluster.kubectl(&["get", "--raw", &path])?;
    ensure!(text.lines().count() > 10, "{pod} has few metrics: {text}");
    Ok(text)
}

/// Names of metrics that a page of the documentation speaks of.
fn documented() -> Result<BTreeSet<String>> {
    let page = format!("{}/docs/monitoring.md", variable("DYNOMITE_E2E_ROOT")?);
    let text = std::fs::read_to_string(&page).with_context(|| page.clone())?;
    let words = text.split('`').skip(1).step_by(2);
    Ok(words
        .filter(|word| word.starts_with("dynomite_"))
        .map(|word| word.split(['{', ' ']).next().unwrap_or(word).to_owned())
        .collect())
}

/// The metrics a text describes.
fn described(text: &str) -> BTreeSet<String> {
    text.lines()
        .filter_map(|line| line.strip_prefix("# TYPE "))
        .filter_map(|rest| rest.split(' ').next())
        .map(str::to_owned)
        .collect()
}

#[test]
fn metrics_pass_the_linter_and_are_documented() -> Result<()> {
    let cluster = Cluster::from_env()?;
    let operator = Operator::ensure(&cluster)?;
    let namespace = Namespace::create(&cluster, "e2e-metrics")?;
    let ring = Ring::example(&cluster, &namespace, "memory-only.yaml")?;
    ring.wait_ready()?;
    let mut pages = Vec::new();
    for pod in operator.pods()? {
        let name = pod["metadata"]["name"].as_str().unwrap_or_default();
        pages.push(metrics(&cluster, NAMESPACE, name)?);
    }
    for pod in ring.pod_uids()?.keys() {
        pages.push(metrics(&cluster, &namespace.name, pod)?);
    }
    let documented = documented()?;
    ensure!(documented.len() > 10, "the page names {documented:?}");
    for page in &pages {
        let said = run(Command::new(variable("DYNOMITE_E2E_PROMLINT")?), Some(page))?;
        ensure!(said.success, "the linter says: {}", said.stderr);
        let unknown: Vec<_> = described(page)
            .into_iter()
            .filter(|name| !documented.contains(name))
            .collect();
        ensure!(unknown.is_empty(), "not in docs/monitoring.md: {unknown:?}");
    }
    Ok(())
}
