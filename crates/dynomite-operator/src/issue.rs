//! Writes the Secrets of a cluster's certificates: made once, never overwritten unseen.

use std::collections::BTreeMap;

use dynomite_api::annotations::{
    APP_NAME, FIELD_MANAGER, LABEL_INSTANCE, LABEL_MANAGED_BY, LABEL_NAME,
};
use dynomite_api::crd::DynomiteCluster;
use dynomite_planner::Certificates;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::{Resource, ResourceExt};

use crate::apply::Error;
use crate::certificates::{self, KEY_CA, KEY_CERTIFICATE};
use crate::context::{Context, Memory};
use crate::failure::is_conflict;

/// Makes what is wanted. Whatever was held of the Secrets is read anew afterwards
/// when a write failed: somebody else may have been first.
pub async fn certificates(
    ctx: &Context,
    memory: &mut Memory,
    resource: &DynomiteCluster,
    wanted: &Certificates,
) -> Result<(), Error> {
    let result = issue(ctx, memory, resource, wanted).await;
    if result.is_err() {
        memory.secrets = None;
    }
    result
}

async fn issue(
    ctx: &Context,
    memory: &mut Memory,
    resource: &DynomiteCluster,
    wanted: &Certificates,
) -> Result<(), Error> {
    let now = ctx.now();
    let name = resource.name_any();
    // Only what was read may be replaced: unknown is not absent.
    let Some(secrets) = &mut memory.secrets else {
        return Err(Error::Outdated);
    };
    let (Ok(held_ca), Ok(held_node), Ok(held_admin)) =
        (&mut secrets.ca, &mut secrets.node, &mut secrets.admin)
    else {
        return Err(Error::Outdated);
    };
    if wanted.new_ca {
        let trusted = [held_ca.as_ref(), held_node.as_ref()]
            .into_iter()
            .flatten()
            .find_map(|secret| certificates::value(secret, KEY_CA));
        let data = certificates::new_ca(&name, trusted, now)?;
        let secret = write(ctx, resource, &wanted.ca_secret, held_ca.as_ref(), data).await?;
        *held_ca = Some(secret);
    }
    let Some(ca) = held_ca else {
        return Err(Error::Outdated);
    };
    if certificates::renewal_is_due(certificates::value(ca, KEY_CERTIFICATE), now) {
        let data = certificates::renew_operator(ca, now)?;
        *ca = write(ctx, resource, &wanted.ca_secret, Some(&*ca), data).await?;
    }
    if wanted.new_node {
        let data = certificates::new_node(ca, &wanted.dns_names, now)?;
        let secret = write(ctx, resource, &wanted.node_secret, held_node.as_ref(), data).await?;
        *held_node = Some(secret);
    }
    if wanted.new_admin {
        let (data, name) = (certificates::new_admin(ca, now)?, &wanted.admin_secret);
        let secret = write(ctx, resource, name, held_admin.as_ref(), data).await?;
        *held_admin = Some(secret);
    }
    Ok(())
}

/// Creates the Secret where none was seen, else replaces just the one that was seen.
async fn write(
    ctx: &Context,
    resource: &DynomiteCluster,
    name: &str,
    seen: Option<&Secret>,
    data: BTreeMap<String, ByteString>,
) -> Result<Secret, Error> {
    ctx.leadership.check()?;
    let labels = [
        (LABEL_NAME, APP_NAME.to_owned()),
        (LABEL_INSTANCE, resource.name_any()),
        (LABEL_MANAGED_BY, FIELD_MANAGER.to_owned()),
    ];
    let secret = Secret {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            labels: Some(
                labels
                    .map(|(key, value)| (key.to_owned(), value))
                    .into_iter()
                    .collect(),
            ),
            owner_references: resource.controller_owner_ref(&()).map(|owner| vec![owner]),
            resource_version: seen.and_then(ResourceExt::resource_version),
            ..ObjectMeta::default()
        },
        data: Some(data),
        type_: Some("Opaque".to_owned()),
        ..Secret::default()
    };
    let namespace = resource.namespace().unwrap_or_default();
    let api: Api<Secret> = Api::namespaced(ctx.client.clone(), &namespace);
    let written = if seen.is_some() {
        let parameters = PatchParams::apply(FIELD_MANAGER).force();
        api.patch(name, &parameters, &Patch::Apply(&secret)).await
    } else {
        let parameters = PostParams {
            field_manager: Some(FIELD_MANAGER.to_owned()),
            ..PostParams::default()
        };
        api.create(&parameters, &secret).await
    };
    match written {
        Ok(secret) => Ok(secret),
        Err(error) if is_conflict(&error) => Err(Error::Outdated),
        Err(error) => Err(error.into()),
    }
}
