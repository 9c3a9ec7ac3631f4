//! What may change while a ring serves: settings, the operator itself, hands that meddle, racks that cannot run.

use std::fs;
use std::path::Path;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use dynomite_e2e::cluster::variable;
use dynomite_e2e::harm::{self, STORE};
use dynomite_e2e::{Load, Namespace, Ring, SharedRing, long, wait_for};
use serde_json::{Value, json};

const NAMESPACE: &str = "e2e-changes";
const KEYS: &str = "500";
/// Within what time a change has gone through all six nodes.
const ROLLED_WITHIN: Duration = Duration::from_mins(5);
/// Within what time what was broken by hand is whole again.
const REPAIRED_WITHIN: Duration = Duration::from_secs(30);

/// The ring all tests share, filled with keys.
fn fixture() -> Result<&'static SharedRing> {
    static RING: OnceLock<SharedRing> = OnceLock::new();
    SharedRing::get(&RING, NAMESPACE, KEYS)
}

#[test]
fn setting_that_needs_a_restart_rolls_one_pod_at_a_time() -> Result<()> {
    let fixture = fixture()?;
    let ring = fixture.ring()?;
    let before = ring.pod_uids()?;
    let targets = ring.rack_targets()?.join(",");
    let args = [
        "hammer",
        "--targets",
        &targets,
        "--prefix",
        "roll",
        "--seconds",
        "600",
    ];
    let writer = Load::start(&args)?;
    ring.patch(&json!({"spec": {"dynomite": {"settings": {"mbuf_size": "32768"}}}}))?;
    let mut most_missing = 0;
    let begin = Instant::now();
    wait_for("every pod to be another one", ROLLED_WITHIN, || {
        let endpoints = ring.endpoints(&ring.name)?;
        most_missing = most_missing.max(6_usize.saturating_sub(endpoints.len()));
        let now = ring.pod_uids()?;
        let old = now
            .iter()
            .filter(|(name, uid)| before.get(*name) == Some(*uid))
            .count();
        let done = old == 0 && now.len() == 6 && endpoints.len() == 6;
        Ok(if done {
            Ok(())
        } else {
            Err(format!("{old} old pods, {} endpoints", endpoints.len()))
        })
    })
    .map_err(|error| error.context(ring.describe()))?;
    println!("six nodes rolled in {:.0} s", begin.elapsed().as_secs_f64());
    ring.wait_ready()?;
    let wrote = writer.stop()?;
    assert_eq!(most_missing, 1, "more than one node was away at a time");
    assert_eq!((wrote.failed, wrote.lost), (0, 0), "{:?}", wrote.examples);
    if !long() {
        // Applying the example again does not take out what only a patch has put in.
        return Ok(());
    }
    let back = r#"[{"op":"remove","path":"/spec/dynomite/settings"}]"#;
    fixture.kubectl(&["patch", "dyn", "ring", "--type=json", "-p", back])?;
    wait_for("the way back", ROLLED_WITHIN, || {
        let (status, _, message) = ring.condition("Ready")?;
        let now = ring.pod_uids()?;
        let rolled = now
            .values()
            .all(|uid| !before.values().any(|old| old == uid));
        let settled = ring.condition("Reconciling")?.0 == "False";
        Ok(if status == "True" && rolled && settled {
            Ok(())
        } else {
            Err(message)
        })
    })
}

/// How often each container of the ring was restarted, all together, by pod.
fn restarts(ring: &Ring) -> Result<Vec<(String, u64)>> {
    let of = |pod: &Value, list: &str| -> u64 {
        let all = pod["status"][list].as_array().into_iter().flatten();
        all.filter_map(|c| c["restartCount"].as_u64()).sum()
    };
    let mut counts: Vec<_> = ring
        .pods()?
        .iter()
        .map(|pod| {
            let name = pod["metadata"]["name"].as_str().unwrap_or_default();
            let count = of(pod, "containerStatuses") + of(pod, "initContainerStatuses");
            (name.to_owned(), count)
        })
        .collect();
    counts.sort();
    Ok(counts)
}

#[test]
fn nodes_grow_in_place_and_their_stores_follow() -> Result<()> {
    /// 65 % of 320 MiB in whole hundredths, as the planner reckons.
    const MAX_MEMORY: u64 = 320 * 1024 * 1024 / 100 * 65;
    let fixture = fixture()?;
    let ring = fixture.ring()?;
    let (before, restarted) = (ring.pod_uids()?, restarts(&ring)?);
    let targets = ring.rack_targets()?.join(",");
    let args = ["hammer", "--targets", &targets, "--prefix", "grow"];
    let writer = Load::start(&args)?;
    let memory =
        |limit: &str| json!({"spec": {"store": {"resources": {"limits": {"memory": limit}}}}});
    ring.patch(&memory("320Mi"))?;
    let has = |pod: &str| -> Result<u64> {
        let said = ring.redis_cli(pod, &["config", "get", "maxmemory"])?;
        said.lines()
            .last()
            .unwrap_or_default()
            .parse()
            .context("a number")
    };
    for pod in before.keys() {
        let path =
            "jsonpath={.status.containerStatuses[?(@.name=='store')].resources.limits.memory}";
        wait_for("the kubelet to grant the memory", ROLLED_WITHIN, || {
            let limit = fixture.kubectl(&["get", "pod", pod, "-o", path])?;
            Ok(if limit == "320Mi" { Ok(()) } else { Err(limit) })
        })
        .map_err(|error| error.context(ring.describe()))?;
        wait_for("the store to use it", REPAIRED_WITHIN, || {
            let max = has(pod)?;
            Ok(if max == MAX_MEMORY {
                Ok(())
            } else {
                Err(max.to_string())
            })
        })?;
    }
    let wrote = writer.stop()?;
    assert_eq!((wrote.failed, wrote.lost), (0, 0), "{:?}", wrote.examples);
    ring.patch(&memory("256Mi"))?;
    wait_for("the way back", ROLLED_WITHIN, || {
        let mut limits = Vec::new();
        for pod in ring.pods()? {
            limits.push(pod["spec"]["containers"][0]["resources"]["limits"]["memory"].to_string());
        }
        let settled = ring.condition("Reconciling")?.0 == "False";
        let all = limits.iter().all(|limit| limit.contains("256Mi"));
        Ok(if all && settled {
            Ok(())
        } else {
            Err(format!("{limits:?}"))
        })
    })
    .map_err(|error| error.context(ring.describe()))?;
    ring.wait_ready()?;
    assert_eq!(ring.pod_uids()?, before, "no pod was replaced");
    assert_eq!(restarts(&ring)?, restarted, "no container was restarted");
    Ok(())
}

#[test]
fn more_than_any_node_has_is_told_and_reverting_heals() -> Result<()> {
    let fixture = fixture()?;
    let ring = fixture.ring()?;
    let memory = |limit: &str, request: &str| {
        json!({"spec": {"store": {"resources": {
            "limits": {"memory": limit}, "requests": {"memory": request},
        }}}})
    };
    ring.patch(&memory("4Ti", "4Ti"))?;
    wait_for(
        "the ring to say that there is no such node",
        Duration::from_mins(2),
        || {
            let ready = ring.condition("Ready")?;
            Ok(if ready.1 == "Unschedulable" {
                Ok(())
            } else {
                Err(format!("{ready:?}"))
            })
        },
    )
    .map_err(|error| error.context(ring.describe()))?;
    assert_eq!(
        ring.endpoints(&ring.name)?.len(),
        5,
        "only one node is away"
    );
    ring.patch(&memory("256Mi", "64Mi"))?;
    wait_for("the ring to heal", ROLLED_WITHIN, || {
        let endpoints = ring.endpoints(&ring.name)?.len();
        let ready = ring.condition("Ready")?;
        let healed = endpoints == 6 && ready.0 == "True";
        Ok(if healed {
            Ok(())
        } else {
            Err(format!("{ready:?}"))
        })
    })
    .map_err(|error| error.context(ring.describe()))
}

#[test]
fn volumes_grow_without_a_restart_and_a_restart_can_be_asked_for() -> Result<()> {
    let fixture = fixture()?;
    // A ring of its own: the example's size could not be had again.
    let namespace = Namespace::create(&fixture.cluster, "e2e-volumes")?;
    let example =
        Path::new(&variable("DYNOMITE_E2E_ROOT")?).join("deploy/examples/three-zones.yaml");
    let text = fs::read_to_string(example)?.replace("nodesPerRack: 2", "nodesPerRack: 1");
    let ring = Ring::manifest(&fixture.cluster, &namespace, &text)?;
    ring.wait_ready()?;
    let kubectl = |args: &[&str]| {
        let mut all = vec!["-n", namespace.name.as_str()];
        all.extend(args);
        fixture.cluster.kubectl(&all)
    };
    let (before, restarted) = (ring.pod_uids()?, restarts(&ring)?);
    let sets = || {
        kubectl(&[
            "get",
            "statefulsets",
            "-o",
            "jsonpath={.items[*].metadata.uid}",
        ])
    };
    let old = sets()?;
    ring.patch(&json!({"spec": {"storage": {"size": "1100Mi"}}}))?;
    let asked = |kind: &str, path: &str| -> Result<Vec<String>> {
        let text = kubectl(&["get", kind, "-o", path])?;
        Ok(text.split_whitespace().map(str::to_owned).collect())
    };
    wait_for(
        "claims and templates to ask for more",
        ROLLED_WITHIN,
        || {
            let claims = asked(
                "pvc",
                "jsonpath={.items[*].spec.resources.requests.storage}",
            )?;
            let path =
                "jsonpath={.items[*].spec.volumeClaimTemplates[0].spec.resources.requests.storage}";
            let templates = asked("statefulset", path)?;
            let all = claims.iter().chain(&templates).all(|size| size == "1100Mi");
            let made = claims.len() == 3 && templates.len() == 3;
            Ok(if all && made {
                Ok(())
            } else {
                Err(format!("{claims:?} {templates:?}"))
            })
        },
    )
    .map_err(|error| error.context(ring.describe()))?;
    let new = sets()?;
    assert!(
        old.split(' ').all(|uid| !new.contains(uid)),
        "the sets are others: {new}"
    );
    wait_for(
        "the new sets to have adopted the pods",
        REPAIRED_WITHIN,
        || {
            let path = "jsonpath={.items[*].metadata.ownerReferences[0].uid}";
            let owners = asked("pods", path)?;
            let adopted = owners.len() == 3 && owners.iter().all(|uid| new.contains(uid.as_str()));
            Ok(if adopted {
                Ok(())
            } else {
                Err(format!("{owners:?}"))
            })
        },
    )?;
    ring.wait_ready()?;
    assert_eq!(ring.pod_uids()?, before, "no pod was replaced");
    assert_eq!(restarts(&ring)?, restarted, "no container was restarted");
    let word = "kubectl.kubernetes.io/restartedAt=2026-01-01T00:00:00Z";
    kubectl(&["annotate", "dyn", "ring", word])?;
    wait_for("every pod to be another one", ROLLED_WITHIN, || {
        let endpoints = ring.endpoints(&ring.name)?.len();
        let now = ring.pod_uids()?;
        let old = now
            .iter()
            .filter(|(name, uid)| before.get(*name) == Some(*uid));
        let old = old.count();
        assert!(endpoints >= 2, "more than one node was away at a time");
        Ok(if old == 0 && endpoints == 3 {
            Ok(())
        } else {
            Err(format!("{old} old pods, {endpoints} endpoints"))
        })
    })
    .map_err(|error| error.context(ring.describe()))?;
    racks_come_and_go(&ring)?;
    if long() {
        quota_is_told_and_raising_it_heals(&ring, &kubectl)?;
    }
    Ok(())
}

/// A rack that is added copies what the others have, and one that is taken out leaves no trace in them.
fn racks_come_and_go(ring: &Ring) -> Result<()> {
    const NEW: &str = "ring-dc1-d-0";
    ring.wait_settled(3, ROLLED_WITHIN)?;
    let before = ring.pod_uids()?;
    let targets = ring.rack_targets()?;
    let filled = Load::run(&["fill", "--target", &targets[0], "--keys", KEYS])?;
    assert_eq!(filled.acknowledged.to_string(), KEYS);
    let hammer = [
        "hammer",
        "--targets",
        &targets.join(","),
        "--prefix",
        "racks",
    ];
    let writer = Load::start(&hammer)?;
    let declared = ring.get()?["spec"]["racks"].clone();
    let mut racks = declared.as_array().cloned().context("a list of racks")?;
    racks.push(json!({"name": "dc1-d", "zone": "zone-a"}));
    ring.patch(&json!({"spec": {"racks": racks}}))?;
    ring.wait_settled(4, ROLLED_WITHIN)?;
    let own = ring.rack_targets()?[3].clone();
    let read = Load::run(&["verify", "--target", &own, "--keys", KEYS])?;
    assert_eq!(
        read.wrong, 0,
        "the new rack has all keys: {:?}",
        read.examples
    );
    let peers = |pod: &str| -> Result<String> {
        let target = format!(
            "http://{}:8080/REST/v1/admin/cluster_describe",
            ring.address(pod)?
        );
        harm::cluster(&["exec", "--", "curl", "-fsS", "--max-time", "5", &target])
    };
    let old = "ring-dc1-b-0";
    assert!(peers(old)?.contains("dc1-d"), "its peers know the new rack");
    ring.patch(&json!({"spec": {"racks": declared}}))?;
    ring.wait_settled(3, ROLLED_WITHIN)?;
    wait_for("the peers to forget the rack", REPAIRED_WITHIN, || {
        let known = peers(old)?;
        Ok(if known.contains("dc1-d") {
            Err(known)
        } else {
            Ok(())
        })
    })?;
    let wrote = writer.stop()?;
    assert_eq!((wrote.failed, wrote.lost), (0, 0), "{:?}", wrote.examples);
    assert_eq!(ring.pod_uids()?, before, "no other pod was restarted");
    assert!(!ring.tokens()?.contains_key(NEW));
    Ok(())
}

fn quota_is_told_and_raising_it_heals(
    ring: &Ring,
    kubectl: &dyn Fn(&[&str]) -> Result<String>,
) -> Result<()> {
    let victim = "ring-dc1-b-0";
    kubectl(&["create", "quota", "few", "--hard=pods=2"])?;
    kubectl(&["delete", "pod", victim, "--wait=false"])?;
    ring.wait_unready("PodNotCreated", "quota", Duration::from_mins(2))?;
    assert_eq!(
        ring.endpoints(&ring.name)?.len(),
        2,
        "the other racks serve"
    );
    kubectl(&["delete", "quota", "few"])?;
    ring.wait_settled(3, Duration::from_mins(2))
}

#[test]
fn live_settings_restart_nothing() -> Result<()> {
    let fixture = fixture()?;
    let ring = fixture.ring()?;
    let before = ring.pod_uids()?;
    ring.patch(&json!({"spec": {
        "consistency": {"read": "DC_QUORUM"},
        "store": {"settings": {"maxmemory-policy": "allkeys-lru"}},
    }}))?;
    for pod in before.keys() {
        wait_for("the store to have the setting", REPAIRED_WITHIN, || {
            let said = ring.redis_cli(pod, &["config", "get", "maxmemory-policy"])?;
            Ok(if said.contains("allkeys-lru") {
                Ok(())
            } else {
                Err(said)
            })
        })?;
    }
    let target = &ring.rack_targets()?[1];
    let read = Load::run(&["verify", "--target", target, "--keys", KEYS])?;
    assert_eq!(read.wrong, 0, "{:?}", read.examples);
    ring.wait_ready()?;
    assert_eq!(ring.pod_uids()?, before, "no pod was restarted");
    Ok(())
}

#[test]
fn setting_with_a_typo_is_told_and_costs_nothing() -> Result<()> {
    let fixture = fixture()?;
    let ring = fixture.ring()?;
    let before = ring.pod_uids()?;
    let victim = "ring-dc1-a-1";
    let known = ring.get()?["spec"]["store"]["settings"].clone();
    ring.patch(&json!({"spec": {"store": {"settings": {
        "maxmemory-polcy": "allkeys-lru", "hz": "often",
    }}}}))?;
    for word in ["maxmemory-polcy", "hz", "take it out"] {
        ring.wait_unready("SettingRefused", word, REPAIRED_WITHIN)?;
    }
    // What would roll every pod, with another typo: of the engine this time, which the operator knows.
    ring.patch(&json!({"spec": {"dynomite": {"settings": {"max_mgs": "300000"}}}}))?;
    ring.wait_unready("SettingRefused", "max_mgs", REPAIRED_WITHIN)?;
    harm::kill_and_see_others(&before[victim], STORE, REPAIRED_WITHIN)?;
    ring.wait_endpoint(victim, true, Duration::from_mins(1))?;
    assert_eq!(ring.endpoints(&ring.name)?.len(), 6);
    assert_eq!(ring.pod_uids()?, before, "nobody was rolled into it");
    ring.patch(&json!({"spec": {
        "store": {"settings": {"maxmemory-polcy": null, "hz": known["hz"].clone()}},
        "dynomite": {"settings": {"max_mgs": null}},
    }}))?;
    ring.wait_settled(6, REPAIRED_WITHIN)?;
    assert_eq!(ring.pod_uids()?, before, "no pod was restarted");
    Ok(())
}

#[test]
fn upgrade_of_the_operator_restarts_no_ring_pod() -> Result<()> {
    let fixture = fixture()?;
    let ring = fixture.ring()?;
    let before = ring.pod_uids()?;
    let names = |pods: Vec<Value>| -> Vec<String> {
        let name = |pod: &Value| pod["metadata"]["uid"].as_str().map(str::to_owned);
        pods.iter().filter_map(name).collect()
    };
    let operators = names(fixture.operator.pods()?);
    let next = another_name_of_the_operators_image()?;
    let (_, tag) = next.rsplit_once(':').context("the image has a tag")?;
    fixture.operator.upgrade(&[&format!("image.tag={tag}")])?;
    wait_for("another operator", Duration::from_mins(1), || {
        let now = names(fixture.operator.pods()?);
        let old = now.iter().any(|uid| operators.contains(uid));
        Ok(if old || now.is_empty() {
            Err(format!("{now:?}"))
        } else {
            Ok(())
        })
    })?;
    let image = fixture.operator.pods()?[0]["spec"]["containers"][0]["image"].clone();
    assert_eq!(image, next, "the operator itself is another one");
    // It has looked at the ring, and found that its pods are made as an earlier one made them.
    wait_for(
        "the new operator to have looked",
        Duration::from_mins(1),
        || {
            let plan = ring.get()?["status"]["plan"].to_string();
            let told = plan.contains("UpgradeAwaitsApproval") && plan.contains(&next);
            Ok(if told { Ok(()) } else { Err(plan) })
        },
    )
    .map_err(|error| error.context(ring.describe()))?;
    ring.wait_settled(6, REPAIRED_WITHIN)?;
    assert_eq!(ring.pod_uids()?, before, "no pod was restarted");
    fixture.operator.upgrade(&[])
}

/// The operator's image by another tag, as a release would bring it, on every Kubernetes node.
fn another_name_of_the_operators_image() -> Result<String> {
    let image = variable("DYNOMITE_E2E_OPERATOR_IMAGE")?;
    let name = image
        .strip_suffix(":dev")
        .context("the image's tag is dev")?;
    let archive = variable("DYNOMITE_E2E_OPERATOR_ARCHIVE")?;
    let next = format!("{name}:nxt");
    // The name stands in an index of the archive, and the new one is as long.
    let (old, new) = (image.as_bytes(), next.as_bytes());
    let mut bytes = fs::read(&archive).with_context(|| archive.clone())?;
    let mut at = 0;
    let mut found = 0;
    while let Some(place) = bytes[at..].windows(old.len()).position(|part| part == old) {
        bytes[at + place..at + place + old.len()].copy_from_slice(new);
        at += place + old.len();
        found += 1;
    }
    ensure!(found > 0, "{archive} does not name {image}");
    let copy = std::env::temp_dir().join(format!("dynomite-operator-{}.tar", std::process::id()));
    fs::write(&copy, bytes)?;
    let loaded = harm::cluster(&["load", &copy.display().to_string()]);
    fs::remove_file(&copy)?;
    loaded.map(|_| next)
}

#[test]
fn what_hands_break_comes_back() -> Result<()> {
    let fixture = fixture()?;
    let ring = fixture.ring()?;
    let before = ring.pod_uids()?;
    for (kind, name) in [
        ("service", "ring"),
        ("service", "ring-nodes"),
        ("poddisruptionbudget", "ring-token-0"),
        ("configmap", "ring-tokens"),
    ] {
        let uid = fixture.kubectl(&["get", kind, name, "-o", "jsonpath={.metadata.uid}"])?;
        fixture.kubectl(&["delete", kind, name])?;
        wait_for(
            &format!("{kind} {name} to come back"),
            REPAIRED_WITHIN,
            || {
                let now =
                    fixture.kubectl(&["get", kind, name, "-o", "jsonpath={.metadata.uid}"])?;
                Ok(if now.is_empty() || now == uid {
                    Err(now)
                } else {
                    Ok(())
                })
            },
        )?;
    }
    let selector = r#"{"spec":{"selector":{"dynomite.io/rack":"dc1-b"}}}"#;
    fixture.kubectl(&[
        "patch",
        "service",
        "ring-dc1-a",
        "--type=merge",
        "-p",
        selector,
    ])?;
    let path = r"jsonpath={.spec.selector.dynomite\.io/rack}";
    wait_for(
        "the Service to select its own rack",
        REPAIRED_WITHIN,
        || {
            let rack = fixture.kubectl(&["get", "service", "ring-dc1-a", "-o", path])?;
            Ok(if rack == "dc1-a" { Ok(()) } else { Err(rack) })
        },
    )?;
    ring.wait_ready()?;
    assert_eq!(ring.pod_uids()?, before, "no pod was restarted");
    Ok(())
}

#[test]
fn settled_operator_asks_the_api_server_for_nothing() -> Result<()> {
    /// How long the operator is watched.
    const WINDOW: Duration = Duration::from_mins(1);
    let fixture = fixture()?;
    let ring = fixture.ring()?;
    let status = harm::cluster(&["status"])?;
    let audit = status
        .lines()
        .find_map(|line| line.strip_prefix("audit"))
        .context("the cluster has an audit log")?
        .trim()
        .to_owned();
    wait_for(
        "the operator to have settled",
        Duration::from_mins(1),
        || {
            Ok(if ring.condition("Reconciling")?.0 == "False" {
                Ok(())
            } else {
                Err("it reconciles".to_owned())
            })
        },
    )?;
    let begin = Instant::now();
    let from = fs::metadata(&audit)?.len();
    wait_for("the window to pass", WINDOW * 2, || {
        Ok(if begin.elapsed() >= WINDOW {
            Ok(())
        } else {
            Err("not yet".to_owned())
        })
    })?;
    let text = fs::read(&audit)?;
    let from = usize::try_from(from)?;
    let lines = String::from_utf8_lossy(text.get(from..).context("the log was rotated meanwhile")?)
        .into_owned();
    let mut asked = Vec::new();
    let mut leases = 0;
    for line in lines.lines() {
        let Ok(event) = serde_json::from_str::<Value>(line) else {
            continue;
        };
        let user = event["user"]["username"].as_str().unwrap_or_default();
        if !user.starts_with("system:serviceaccount:dynomite-system:") {
            continue;
        }
        let verb = event["verb"].as_str().unwrap_or_default();
        let resource = event["objectRef"]["resource"].as_str().unwrap_or_default();
        match (verb, resource) {
            ("watch", _) => {}
            (_, "leases") => leases += 1,
            _ => asked.push(format!("{verb} {}", event["requestURI"])),
        }
    }
    assert!(asked.is_empty(), "in {} s: {asked:?}", WINDOW.as_secs());
    assert!(
        leases > 0,
        "the lease was not renewed: was the operator there at all?"
    );
    Ok(())
}

#[test]
fn bad_image_breaks_one_pod_and_reverting_heals() -> Result<()> {
    let fixture = fixture()?;
    let ring = fixture.ring()?;
    let image = ring.get()?["spec"]["store"]["image"].clone();
    ring.patch(&json!({"spec": {"store": {"image": "localhost/no-such-image:1"}}}))?;
    wait_for(
        "the ring to say that the image cannot be pulled",
        Duration::from_mins(2),
        || {
            let ready = ring.condition("Ready")?;
            let told = ready.1 == "ImageNotPulled" && ready.2.contains("no-such-image");
            Ok(if told {
                Ok(())
            } else {
                Err(format!("{ready:?}"))
            })
        },
    )
    .map_err(|error| error.context(ring.describe()))?;
    assert_eq!(
        ring.endpoints(&ring.name)?.len(),
        5,
        "only one pod is broken"
    );
    let read = Load::run(&[
        "verify",
        "--target",
        &ring.rack_targets()?[1],
        "--keys",
        KEYS,
    ])?;
    assert_eq!(read.wrong, 0, "{:?}", read.examples);
    ring.patch(&json!({"spec": {"store": {"image": image}}}))?;
    wait_for("the ring to heal", ROLLED_WITHIN, || {
        let endpoints = ring.endpoints(&ring.name)?.len();
        let ready = ring.condition("Ready")?;
        Ok(if endpoints == 6 && ready.0 == "True" {
            Ok(())
        } else {
            Err(format!("{ready:?}"))
        })
    })
    .map_err(|error| error.context(ring.describe()))
}

#[test]
fn zone_without_nodes_is_told_and_the_other_racks_serve() -> Result<()> {
    let fixture = fixture()?;
    let text = fs::read_to_string(
        Path::new(&variable("DYNOMITE_E2E_ROOT")?).join("deploy/examples/memory-only.yaml"),
    )?;
    let wrong = text.replace("zone-c", "zone-x");
    let ring = Ring::manifest(&fixture.cluster, &fixture.namespace, &wrong)?;
    wait_for("the other racks to serve", Duration::from_mins(2), || {
        let available = ring.condition("Available")?;
        Ok(if available.0 == "True" {
            Ok(())
        } else {
            Err(format!("{available:?}"))
        })
    })
    .map_err(|error| error.context(ring.describe()))?;
    let said = ring.get()?.to_string();
    assert!(
        said.contains("zone-x"),
        "the zone is not named: {}",
        ring.describe()
    );
    let filled = Load::run(&["fill", "--target", &ring.rack_targets()?[0], "--keys", KEYS])?;
    assert_eq!(filled.acknowledged.to_string(), KEYS);
    let ring = Ring::manifest(&fixture.cluster, &fixture.namespace, &text)?;
    wait_for("the ring to be whole", Duration::from_mins(3), || {
        let ready = ring.condition("Ready")?;
        let endpoints = ring.endpoints(&ring.name)?.len();
        Ok(if ready.0 == "True" && endpoints == 6 {
            Ok(())
        } else {
            Err(format!("{ready:?}"))
        })
    })
    .map_err(|error| error.context(ring.describe()))?;
    let read = Load::run(&[
        "verify",
        "--target",
        &ring.rack_targets()?[2],
        "--keys",
        KEYS,
    ])?;
    assert_eq!(
        read.wrong, 0,
        "the rack that came late has all keys: {:?}",
        read.examples
    );
    fixture
        .kubectl(&["delete", "dyn", &ring.name, "--timeout=60s"])
        .map(drop)
}

#[test]
fn y_deleted_ring_keeps_its_volumes_and_comes_back_on_a_persons_word() -> Result<()> {
    let fixture = fixture()?;
    let ring = fixture.ring()?;
    let tokens = ring.tokens()?;
    fixture.kubectl(&["delete", "dyn", &ring.name, "--timeout=60s"])?;
    wait_for("the pods to be gone", Duration::from_mins(2), || {
        let left = ring.pods()?.len();
        Ok(if left == 0 {
            Ok(())
        } else {
            Err(format!("{left} pods"))
        })
    })?;
    let claims = fixture.cluster.json(&[
        "get",
        "pvc",
        "-n",
        &fixture.namespace.name,
        "-l",
        "app.kubernetes.io/instance=ring",
    ])?;
    assert_eq!(
        claims["items"].as_array().map_or(0, Vec::len),
        6,
        "the volumes stay"
    );

    let ring = Ring::example(&fixture.cluster, &fixture.namespace, "three-zones.yaml")?;
    // All replicas went at once: nobody knows which of them has every write.
    for _ in 0..2 {
        let proposal = wait_for("a proposal", Duration::from_mins(2), || {
            if ring.condition("Ready")?.0 == "True" {
                return Ok(Ok(None));
            }
            let (stalled, _, message) = ring.condition("Stalled")?;
            let pod = message
                .split("annotate pod ")
                .nth(1)
                .and_then(|rest| rest.split_whitespace().next());
            let uid = message
                .split("dynomite.io/accept-loss=")
                .nth(1)
                .and_then(|rest| rest.split_whitespace().next());
            Ok(match (stalled.as_str(), pod, uid) {
                ("True", Some(pod), Some(uid)) => Ok(Some((
                    pod.to_owned(),
                    uid.trim_matches(['`', '\'', '"', '.', ',', ';', ')'])
                        .to_owned(),
                ))),
                _ => Err(message),
            })
        })
        .map_err(|error| error.context(ring.describe()))?;
        let Some((pod, uid)) = proposal else { break };
        assert!(
            ring.endpoints(&ring.name)?.iter().all(|name| *name != pod),
            "{pod} serves before anybody said so"
        );
        let word = format!("dynomite.io/accept-loss={uid}");
        fixture.kubectl(&["annotate", "pod", &pod, "--overwrite", &word])?;
        wait_for("the accepted node to serve", Duration::from_mins(1), || {
            let names = ring.endpoints(&ring.name)?;
            Ok(if names.contains(&pod) {
                Ok(())
            } else {
                Err(format!("{names:?}"))
            })
        })
        .map_err(|error| error.context(ring.describe()))?;
    }
    ring.wait_ready()?;
    assert_eq!(ring.tokens()?, tokens, "each node keeps its token");
    for target in ring.rack_targets()? {
        let read = Load::run(&["verify", "--target", &target, "--keys", KEYS])?;
        assert_eq!(read.wrong, 0, "through {target}: {:?}", read.examples);
    }
    Ok(())
}

#[test]
fn zz_the_namespace_goes_away() -> Result<()> {
    fixture()?.namespace.delete(Duration::from_mins(2))
}
