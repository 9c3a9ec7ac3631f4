//! The field reference for users names every field of the schema, with its default, and no other.

#![cfg(feature = "crd")]

use std::collections::BTreeSet;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    JSONSchemaProps, JSONSchemaPropsOrArray,
};

const PAGE: &str = include_str!(concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../docs/cluster-resource.md"
));

/// Fields of Kubernetes' own types, which its documentation explains.
const FOREIGN: [&str; 7] = [
    "affinity",
    "conditions",
    "imagePullSecrets",
    "resources",
    "sidecarResources",
    "tolerations",
    "topologySpreadConstraints",
];

fn root(part: &str) -> JSONSchemaProps {
    let definition = dynomite_api::crd::definition();
    let version = definition.spec.versions.first().expect("a version");
    let schema = version.schema.as_ref().expect("a schema");
    let root = schema.open_api_v3_schema.clone().expect("a root");
    field(&root, part).expect("the part is there").clone()
}

/// A field of an object, or of the objects in a list.
fn field<'a>(schema: &'a JSONSchemaProps, name: &str) -> Option<&'a JSONSchemaProps> {
    let items = match &schema.items {
        Some(JSONSchemaPropsOrArray::Schema(item)) => item,
        _ => schema,
    };
    items.properties.as_ref()?.get(name)
}

fn names(schema: &JSONSchemaProps, found: &mut BTreeSet<String>) {
    if let Some(JSONSchemaPropsOrArray::Schema(item)) = &schema.items {
        names(item, found);
    }
    for (name, schema) in schema.properties.iter().flatten() {
        found.insert(name.clone());
        if !FOREIGN.contains(&name.as_str()) {
            names(schema, found);
        }
    }
}

/// The words in a text's inline code.
fn code_words(text: &str) -> BTreeSet<&str> {
    text.lines()
        .flat_map(|line| line.split('`').skip(1).step_by(2))
        .flat_map(|code| code.split(|c: char| !c.is_ascii_alphanumeric()))
        .collect()
}

#[test]
fn every_field_is_named() {
    let words = code_words(PAGE);
    for part in ["spec", "status"] {
        let mut fields = BTreeSet::new();
        names(&root(part), &mut fields);
        assert!(fields.len() > 20, "the walk found {fields:?}");
        let missing: Vec<_> = fields
            .iter()
            .filter(|name| !words.contains(name.as_str()))
            .collect();
        assert!(
            missing.is_empty(),
            "docs/cluster-resource.md lacks {missing:?}"
        );
    }
}

#[test]
fn the_tables_say_what_the_schema_says() {
    let spec = root("spec");
    let mut section = &spec;
    let mut known = false;
    let mut rows = 0;
    for line in PAGE.lines() {
        if let Some(title) = line.strip_prefix("## ") {
            (section, known) = (&spec, title == "spec");
        } else if let Some(title) = line.strip_prefix("### ") {
            let found = field(&spec, title);
            known = found.is_some();
            section = found.unwrap_or(&spec);
        } else if known && line.starts_with("| `") {
            let cells: Vec<&str> = line.split('|').map(str::trim).collect();
            let name = cells[1].trim_matches('`');
            let Some(schema) = field(section, name) else {
                panic!("docs/cluster-resource.md: no field `{name}`: {line}");
            };
            rows += 1;
            if let (Some(default), true) = (&schema.default, cells[2].starts_with('`')) {
                let default = match &default.0 {
                    serde_json::Value::String(text) => text.clone(),
                    other => other.to_string(),
                };
                let said = cells[2].trim_matches('`');
                assert_eq!(said, default, "docs/cluster-resource.md: {line}");
            }
        }
    }
    assert!(rows > 40, "only {rows} rows were found");
}
