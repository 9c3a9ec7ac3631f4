//! The custom resource definition as it is installed.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSON, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
    ValidationRule,
};
use kube::CustomResourceExt;

use super::{DynomiteBackup, DynomiteCluster, DynomiteRestore};

/// The longest value of a setting, characters.
const MAX_SETTING: i64 = 1024;

/// The definition of `DynomiteCluster`.
///
/// It differs from what the derive gives in four points. No field is nullable:
/// an explicit `null` is the same as leaving the field out, so that rules and
/// defaults see one case and not two. The values of free settings end before a
/// line does, because they become lines of configuration files. Formats are
/// those that Kubernetes knows. And what the types of Kubernetes take as any
/// text is bounded to the words that its pods take, so that a wrong one is
/// refused here and not in the middle of a change.
pub fn definition() -> CustomResourceDefinition {
    finished(DynomiteCluster::crd())
}

/// The definitions of all resources, changed as [`definition`] says.
pub fn definitions() -> Vec<CustomResourceDefinition> {
    let all = [
        DynomiteBackup::crd(),
        DynomiteCluster::crd(),
        DynomiteRestore::crd(),
    ];
    all.map(finished).into()
}

fn finished(mut definition: CustomResourceDefinition) -> CustomResourceDefinition {
    for version in &mut definition.spec.versions {
        let schema = version.schema.as_mut();
        let Some(root) = schema.and_then(|s| s.open_api_v3_schema.as_mut()) else {
            continue;
        };
        plain(root);
        bound_words(root, "");
        let spec = root.properties.as_mut().and_then(|p| p.get_mut("spec"));
        let Some(parts) = spec.and_then(|s| s.properties.as_mut()) else {
            continue;
        };
        for part in ["dynomite", "store"] {
            let settings = parts
                .get_mut(part)
                .and_then(|p| p.properties.as_mut())
                .and_then(|p| p.get_mut("settings"));
            if let Some(settings) = settings {
                bound_settings(settings);
            }
        }
    }
    definition
}

fn bound_settings(settings: &mut JSONSchemaProps) {
    if let Some(JSONSchemaPropsOrBool::Schema(value)) = &mut settings.additional_properties {
        value.max_length = Some(MAX_SETTING);
        value.pattern = Some(r"^[^\r\n\x00]*$".into());
    }
}

fn plain(schema: &mut JSONSchemaProps) {
    schema.nullable = None;
    // Kubernetes knows no unsigned formats and warns of them at every apply;
    // the bounds say the same.
    if matches!(
        schema.format.as_deref(),
        Some("uint16" | "uint32" | "uint64")
    ) {
        schema.format = Some("int64".into());
    }
    for property in schema.properties.iter_mut().flat_map(|p| p.values_mut()) {
        plain(property);
    }
    if let Some(JSONSchemaPropsOrBool::Schema(value)) = &mut schema.additional_properties {
        plain(value);
    }
    match &mut schema.items {
        Some(JSONSchemaPropsOrArray::Schema(item)) => plain(item),
        Some(JSONSchemaPropsOrArray::Schemas(items)) => items.iter_mut().for_each(plain),
        None => {}
    }
}

/// Bounds what a field takes, by its path.
fn bound_words(schema: &mut JSONSchemaProps, path: &str) {
    let words: &[&str] = match path {
        p if p.ends_with(".tolerations[].operator") => &["Exists", "Equal"],
        p if p.ends_with(".tolerations[].effect") => {
            &["NoSchedule", "PreferNoSchedule", "NoExecute"]
        }
        p if p.ends_with(".whenUnsatisfiable") => &["DoNotSchedule", "ScheduleAnyway"],
        p if p.ends_with("AffinityPolicy") || p.ends_with("TaintsPolicy") => &["Honor", "Ignore"],
        p if p.ends_with("[].operator") && p.contains(".nodeAffinity.") => {
            &["In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"]
        }
        p if p.ends_with("matchExpressions[].operator") => {
            &["In", "NotIn", "Exists", "DoesNotExist"]
        }
        _ => &[],
    };
    if !words.is_empty() {
        schema.enum_ = Some(words.iter().map(|word| JSON((*word).into())).collect());
    }
    let rule = match path {
        ".spec.racks[].zone" => Some((
            "self.matches('^[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$')",
            "zone is a value of the nodes' label topology.kubernetes.io/zone: letters, digits, '-', '_' and '.'",
        )),
        ".spec.storage.className" => Some((
            "self.matches('^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$')",
            "className is the name of a StorageClass (`kubectl get storageclass`): lower-case letters, digits, '-' and '.'",
        )),
        ".spec.store.image" | ".spec.dynomite.image" => Some((
            "self.matches('^[^ \\t]+$')",
            "image is a reference such as docker.io/valkey/valkey:8, without blanks",
        )),
        ".spec.datacenter" | ".spec.remoteDatacenters[].name" => Some((
            "self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')",
            "a datacenter's name is made of lower-case letters, digits and '-', such as dc1: nodes and seeds carry it",
        )),
        ".spec.racks" => Some((
            "self.size() >= 1 && self.all(r, self.exists_one(o, o.name == r.name))",
            "racks needs at least one rack, and each a name of its own, such as dc1-a, dc1-b and dc1-c: each rack is one full copy of the data",
        )),
        ".spec.racks[].name" => Some((
            "self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')",
            "a rack's name becomes a part of the names of pods and Services: lower-case letters, digits and '-', such as dc1-a",
        )),
        ".spec.remoteDatacenters[].seeds[]" => Some((
            "self.matches('^[^| ]+:[0-9]+:[^:| ]+:[^:| ]+:[0-9]+$')",
            "a seed is host:port:rack:datacenter:token, such as node.example:8101:dc2-a:dc2:1383429731",
        )),
        ".spec.remoteDatacenters[].describe" => Some((
            "self.matches('^http://([A-Za-z0-9.-]+|[[][0-9A-Fa-f:.]+[]])(:[0-9]{1,5})?(/[A-Za-z0-9._~-]+)*/admin/cluster_describe$')",
            "describe is the URL at which the other datacenter describes itself, such as http://node.example:8080/REST/v1/admin/cluster_describe: http, and a path that ends in /admin/cluster_describe",
        )),
        ".spec.clusterDomain" => Some((
            "self.matches('^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$')",
            "clusterDomain is the DNS domain of Kubernetes, such as cluster.local: lower-case letters, digits, '-' and '.', without a dot at its end",
        )),
        ".spec.dynomite.settings" | ".spec.store.settings" => Some((
            "self.all(k, self[k].matches('^[^\\r\\n]*$'))",
            "a setting's value is one line: give each setting a key of its own",
        )),
        p if p.ends_with("esources") => Some((
            "!has(self.limits) || !has(self.requests) || self.requests.all(k, !(k in self.limits) \
             || !isQuantity(string(self.limits[k])) || !isQuantity(string(self.requests[k])) \
             || quantity(string(self.requests[k])).compareTo(quantity(string(self.limits[k]))) <= 0)",
            "a request is above its limit, and no pod may have that: lower it in requests, or raise it in limits",
        )),
        _ => None,
    };
    if let Some((rule, message)) = rule {
        let rule = ValidationRule {
            rule: rule.to_owned(),
            message: Some(message.to_owned()),
            ..ValidationRule::default()
        };
        schema
            .x_kubernetes_validations
            .get_or_insert_default()
            .push(rule);
    }
    for (name, property) in schema.properties.iter_mut().flatten() {
        bound_words(property, &format!("{path}.{name}"));
    }
    if let Some(JSONSchemaPropsOrArray::Schema(item)) = &mut schema.items {
        bound_words(item, &format!("{path}[]"));
    }
    let is_amount = path.ends_with(".limits") || path.ends_with(".requests");
    if is_amount {
        schema.max_properties = Some(MAX_RESOURCES);
    }
    if let Some(JSONSchemaPropsOrBool::Schema(value)) = &mut schema.additional_properties
        && is_amount
    {
        value.pattern = Some(QUANTITY.to_owned());
        value.max_length = Some(MAX_QUANTITY);
    }
}

/// How many resources a container may ask for, or be limited in.
const MAX_RESOURCES: i64 = 32;
/// The longest quantity, characters.
const MAX_QUANTITY: i64 = 32;

/// A quantity as Kubernetes reads it.
const QUANTITY: &str =
    r"^[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([KMGTPE]i|[numkMGTPE]|[eE][+-]?[0-9]+)?$";

#[cfg(test)]
mod tests {
    use super::*;

    fn text(definition: &CustomResourceDefinition) -> String {
        serde_yaml::to_string(definition).expect("a definition serialises")
    }

    #[test]
    fn committed_definitions_are_the_generated_ones() {
        let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/../../crds");
        let all = definitions();
        for definition in &all {
            let name = definition.metadata.name.as_deref().expect("a name");
            let path = format!("{directory}/{name}.yaml");
            let committed = std::fs::read_to_string(path).unwrap_or_default();
            assert!(
                committed.ends_with(&text(definition)),
                "crds/ is out of date: run `cargo xtask crds`"
            );
        }
        let files = std::fs::read_dir(directory).expect("the folder").count();
        assert_eq!(files, all.len());
    }

    #[test]
    fn definitions_fit_into_an_annotation() {
        // `kubectl apply` keeps a copy in an annotation, and annotations end at 256 KiB.
        for definition in definitions() {
            let json = serde_json::to_string(&definition).expect("a definition serialises");
            assert!(json.len() < 200_000, "{} bytes", json.len());
        }
    }

    /// The names of all fields of a schema, those of lists and maps included.
    fn names(schema: &JSONSchemaProps, path: &str, into: &mut Vec<String>) {
        for (name, field) in schema.properties.iter().flatten() {
            let path = format!("{path}.{name}");
            into.push(path.clone());
            names(field, &path, into);
        }
        if let Some(JSONSchemaPropsOrArray::Schema(item)) = &schema.items {
            names(item, path, into);
        }
    }

    /// Whoever may write a resource must not reach what lies in other namespaces
    /// through the operator.
    #[test]
    fn no_field_names_an_object_of_another_namespace() {
        for definition in definitions() {
            let schema = definition.spec.versions[0].schema.as_ref();
            let schema = schema.and_then(|schema| schema.open_api_v3_schema.as_ref());
            let mut all = Vec::new();
            names(schema.expect("a schema"), "", &mut all);
            assert!(all.len() > 20);
            // Pods to keep away from, and a word in the names of a bucket's objects.
            let harmless = |path: &str| {
                path.contains(".affinity.") || path.ends_with(".sourceCluster.namespace")
            };
            let names = all.iter().filter(|path| {
                let last = path.rsplit('.').next().unwrap_or_default();
                last.to_ascii_lowercase().contains("namespace") && !harmless(path)
            });
            assert_eq!(names.count(), 0, "{all:?}");
        }
    }

    #[test]
    fn no_field_is_nullable_and_settings_are_single_lines() {
        for definition in definitions() {
            let text = text(&definition);
            assert!(!text.contains("nullable") && !text.contains("format: uint"));
        }
        assert_eq!(text(&definition()).matches(r"^[^\r\n\x00]*$").count(), 2);
    }
}
