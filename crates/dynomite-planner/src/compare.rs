//! Does an object still say what we wrote? Our fields are looked for in what is seen; all else is others' business.

use serde::Serialize;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use crate::quantity;

/// A digest of anything that serialises: 32 hexadecimal digits.
pub fn digest(value: &impl Serialize) -> String {
    // Objects, strings and string maps always serialise.
    let bytes = serde_json::to_vec(value).unwrap_or_default();
    let hash = Sha256::digest(&bytes);
    let mut text = String::with_capacity(32);
    for byte in hash.iter().take(16) {
        for nibble in [byte >> 4, byte & 15] {
            text.push(char::from_digit(u32::from(nibble), 16).unwrap_or('0'));
        }
    }
    text
}

/// Whether `seen` holds everything that `ours` says.
///
/// Fields that only `seen` has are defaults or belong to others. Lists whose
/// elements have a key in server-side apply are compared element by element,
/// for others may add to them; all other lists must be equal in length.
pub fn holds(ours: &impl Serialize, seen: &impl Serialize) -> bool {
    match (serde_json::to_value(ours), serde_json::to_value(seen)) {
        (Ok(ours), Ok(seen)) => covers("", &ours, Some(&seen)),
        _ => false,
    }
}

fn covers(field: &str, ours: &Value, seen: Option<&Value>) -> bool {
    let Some(seen) = seen else {
        return is_empty(ours) && !TRUE_WHEN_ABSENT.contains(&field);
    };
    match (ours, seen) {
        (Value::Object(ours), Value::Object(seen)) => object(field, ours, seen),
        (Value::Array(ours), Value::Array(seen)) => list(field, ours, seen),
        (Value::String(ours), Value::String(seen)) => {
            ours == seen || (is_quantity(field) && same_quantity(ours, seen))
        }
        _ => ours == seen,
    }
}

fn object(field: &str, ours: &Map<String, Value>, seen: &Map<String, Value>) -> bool {
    // Server-side apply replaces these as a whole: one more label selects other pods.
    let whole = matches!(field, "selector" | "matchLabels" | "nodeSelector");
    if whole && ours.len() != seen.len() {
        return false;
    }
    ours.iter().all(|(key, value)| {
        // Within resources the keys are names of resources: the values are quantities.
        let field = if is_quantity(field) { field } else { key };
        covers(field, value, seen.get(key))
    })
}

fn list(field: &str, ours: &[Value], seen: &[Value]) -> bool {
    match keys_of(field) {
        Some(keys) => ours.iter().all(|element| {
            let same = |other: &&Value| keys.iter().all(|key| same_key(element, other, key));
            covers("", element, seen.iter().find(same))
        }),
        None => {
            ours.len() == seen.len()
                && ours
                    .iter()
                    .zip(seen)
                    .all(|(ours, seen)| covers(field, ours, Some(seen)))
        }
    }
}

/// Whether two elements of a keyed list have the same key; an absent protocol is TCP.
fn same_key(left: &Value, right: &Value, key: &str) -> bool {
    let default = (key == "protocol").then(|| Value::from("TCP"));
    let of = |element: &Value| element.get(key).cloned().or_else(|| default.clone());
    of(left) == of(right)
}

/// The keys by which server-side apply tells the elements of a list apart.
fn keys_of(field: &str) -> Option<&'static [&'static str]> {
    Some(match field {
        "containers" | "initContainers" | "volumes" | "env" | "imagePullSecrets" => &["name"],
        "volumeMounts" => &["mountPath"],
        "ownerReferences" => &["uid"],
        "topologySpreadConstraints" => &["topologyKey", "whenUnsatisfiable"],
        // The key differs between containers and Services; the name is in both.
        "ports" => &["name", "protocol"],
        _ => return None,
    })
}

fn is_quantity(field: &str) -> bool {
    matches!(field, "limits" | "requests" | "sizeLimit")
}

fn same_quantity(left: &str, right: &str) -> bool {
    matches!((quantity::parse(left), quantity::parse(right)), (Some(l), Some(r)) if l == r)
}

/// Fields of which `false` is not the same as nothing.
const TRUE_WHEN_ABSENT: &[&str] = &[
    "allowPrivilegeEscalation",
    "automountServiceAccountToken",
    "enableServiceLinks",
];

/// Whether the API server may drop a value when it stores it.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Number(number) => number.as_i64() == Some(0),
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::Bool(true) => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn defaults_and_additions_of_others_are_no_difference() {
        let ours = json!({"spec": {
            "replicas": 2,
            "containers": [{"name": "store", "image": "a", "resources": {"limits": {"memory": "1024Mi"}}}],
            "ports": [{"name": "redis", "containerPort": 8102}],
            "emptyDir": {}, "tolerations": [], "minReadySeconds": 0, "hostNetwork": false,
        }});
        let seen = json!({"spec": {
            "replicas": 2, "other": 1,
            "containers": [{"name": "injected"},
                {"name": "store", "image": "a", "pull": "Always", "resources": {"limits": {"memory": "1Gi"}}}],
            "ports": [{"name": "redis", "containerPort": 8102, "protocol": "TCP"}],
        }});
        assert!(holds(&ours, &seen));
    }

    #[test]
    fn an_edited_or_removed_field_is_a_difference() {
        let ours =
            json!({"a": {"b": "1", "list": ["x", "y"], "env": [{"name": "n", "value": "v"}]}});
        assert!(holds(&ours, &ours));
        for seen in [
            json!({"a": {"b": "2", "list": ["x", "y"], "env": [{"name": "n", "value": "v"}]}}),
            json!({"a": {"list": ["x", "y"], "env": [{"name": "n", "value": "v"}]}}),
            json!({"a": {"b": "1", "list": ["x"], "env": [{"name": "n", "value": "v"}]}}),
            json!({"a": {"b": "1", "list": ["y", "x"], "env": [{"name": "n", "value": "v"}]}}),
            json!({"a": {"b": "1", "list": ["x", "y"], "env": [{"name": "n", "value": "w"}]}}),
            json!({"a": {"b": "1", "list": ["x", "y"], "env": [{"name": "m", "value": "v"}]}}),
        ] {
            assert!(!holds(&ours, &seen), "{seen}");
        }
    }

    #[test]
    fn one_more_label_in_a_selector_is_a_difference() {
        for field in ["selector", "matchLabels", "nodeSelector", "labels"] {
            let ours = json!({field: {"app": "x"}});
            let seen = json!({field: {"app": "x", "more": "y"}});
            assert_eq!(holds(&ours, &seen), field == "labels", "{field}");
        }
    }

    #[test]
    fn a_false_that_means_something_is_missed() {
        let ours = json!({"automountServiceAccountToken": false, "hostNetwork": false});
        assert!(!holds(&ours, &json!({})));
        assert!(holds(
            &ours,
            &json!({"automountServiceAccountToken": false})
        ));
    }

    #[test]
    fn only_resources_are_compared_as_quantities() {
        assert!(!holds(
            &json!({"labels": {"a": "1000"}}),
            &json!({"labels": {"a": "1k"}})
        ));
        assert!(holds(
            &json!({"requests": {"cpu": "0.1"}}),
            &json!({"requests": {"cpu": "100m"}})
        ));
    }
}
