//! Which token each node has: from the spec or the formula, and from what is recorded of an earlier life.

use std::collections::BTreeMap;

use dynomite_api::Token;
use dynomite_api::annotations::{ANNOTATION_SERVED_SINCE, ANNOTATION_TOKEN};
use jiff::Timestamp;

use crate::cluster::{CLAIM, Cluster};
use crate::observed::Observed;
use crate::wait::Wait;

/// The key of the token record's only entry: a JSON object from node name to token.
pub const RECORD_KEY: &str = "tokens.json";

/// Tokens by node name.
pub type Record = BTreeMap<String, Token>;

/// The tokens of a ring, and what stands against them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tokens {
    /// The token of each ordinal, the same in every rack.
    pub by_ordinal: Vec<Token>,
    /// Every token that is or was assigned, those of removed racks too.
    pub record: Record,
    /// Why tokens must not be handed out as they are.
    pub problem: Option<Wait>,
}

/// A recorded token and where it stands.
struct Recorded {
    node: String,
    ordinal: usize,
    token: Token,
    place: String,
}

/// Decides the tokens of a ring.
///
/// The record outlives the cluster, and the volumes carry their token: they win
/// over the formula and must agree with the spec. The status is asked last, for
/// backups of resources leave it out.
pub fn resolve(cluster: &Cluster, observed: &Observed) -> Tokens {
    let mut tokens = Tokens {
        by_ordinal: cluster.tokens.clone(),
        record: Record::new(),
        problem: None,
    };
    match recorded(cluster, observed) {
        Ok((recorded, complete)) => match agree(cluster, &recorded, complete) {
            Ok(by_ordinal) => tokens.by_ordinal = by_ordinal,
            Err(wait) => tokens.problem = Some(wait),
        },
        Err(wait) => tokens.problem = Some(wait),
    }
    tokens.record = record_of(cluster, observed).unwrap_or_default();
    for rack in &cluster.racks {
        for (ordinal, token) in tokens.by_ordinal.iter().enumerate() {
            let name = cluster.node_name(&rack.name, ordinal);
            tokens.record.entry(name).or_insert(*token);
        }
    }
    tokens
}

/// When the ring first served, by the record or by the status.
///
/// A record that is lost while volumes of an earlier cluster are there leaves
/// it unknown whether they hold data; that counts as having served.
pub fn served_since(cluster: &Cluster, observed: &Observed) -> Option<Timestamp> {
    let Some(map) = observed.config_maps.get(&cluster.token_record()) else {
        return cluster
            .served_since
            .or_else(|| older_claim(cluster, observed));
    };
    let annotations = map.metadata.annotations.as_ref();
    let text = annotations.and_then(|a| a.get(ANNOTATION_SERVED_SINCE));
    match text.map(|text| text.parse()) {
        Some(Ok(since)) => Some(since),
        // Somebody wrote something else there: it did serve, whenever that was.
        Some(Err(_)) => cluster.served_since.or(Some(Timestamp::UNIX_EPOCH)),
        None => cluster.served_since,
    }
}

/// When the oldest volume was made that is older than the cluster.
fn older_claim(cluster: &Cluster, observed: &Observed) -> Option<Timestamp> {
    let created = cluster.created?;
    let claims = observed.claims.values();
    claims
        .filter_map(|claim| claim.metadata.creation_timestamp.as_ref())
        .map(|time| time.0)
        .filter(|time| *time < created)
        .min()
}

/// What the record says; `None` when there is no record.
fn read_record(cluster: &Cluster, observed: &Observed) -> Option<Result<Record, Wait>> {
    let name = cluster.token_record();
    let map = observed.config_maps.get(&name)?;
    let text = map.data.as_ref().and_then(|data| data.get(RECORD_KEY));
    let unreadable = |why: String| Wait::TokenRecordUnreadable {
        name: name.clone(),
        why,
    };
    Some(match text {
        None => Err(unreadable(format!("it has no {RECORD_KEY}"))),
        Some(text) => serde_json::from_str(text).map_err(|error| unreadable(error.to_string())),
    })
}

fn record_of(cluster: &Cluster, observed: &Observed) -> Option<Record> {
    read_record(cluster, observed)?.ok()
}

/// Everything recorded, and whether a record names every ordinal of its time.
fn recorded(cluster: &Cluster, observed: &Observed) -> Result<(Vec<Recorded>, bool), Wait> {
    let mut found: BTreeMap<String, Recorded> = BTreeMap::new();
    let record = read_record(cluster, observed).transpose()?;
    let complete = record.is_some();
    let place = format!("ConfigMap {}", cluster.token_record());
    for (node, token) in record.into_iter().flatten() {
        add(cluster, &mut found, &node, token, &place)?;
    }
    for (name, claim) in &observed.claims {
        let annotations = claim.metadata.annotations.as_ref();
        let text = annotations.and_then(|a| a.get(ANNOTATION_TOKEN));
        let node = name.strip_prefix(CLAIM).and_then(|n| n.strip_prefix('-'));
        let (Some(node), Some(text)) = (node, text) else {
            continue;
        };
        let place = format!("PersistentVolumeClaim {name}");
        let token = text.parse().map_err(|_| Wait::TokenMismatch {
            node: node.to_owned(),
            recorded: format!("{text:?} on {place}"),
            wanted: "a token".to_owned(),
        })?;
        add(cluster, &mut found, node, token, &place)?;
    }
    if found.is_empty() {
        for (node, token) in &cluster.status_tokens {
            add(cluster, &mut found, node, *token, "the status")?;
        }
    }
    Ok((found.into_values().collect(), complete))
}

/// Adds one recorded token; two places that disagree on a node are a mismatch.
fn add(
    cluster: &Cluster,
    found: &mut BTreeMap<String, Recorded>,
    node: &str,
    token: Token,
    place: &str,
) -> Result<(), Wait> {
    let Some(ordinal) = ordinal_of(cluster, node) else {
        return Ok(());
    };
    match found.get(node) {
        Some(first) if first.token != token => Err(Wait::TokenMismatch {
            node: node.to_owned(),
            recorded: format!("{} in {}", first.token, first.place),
            wanted: format!("{token} in {place}"),
        }),
        Some(_) => Ok(()),
        None => {
            let recorded = Recorded {
                node: node.to_owned(),
                ordinal,
                token,
                place: place.to_owned(),
            };
            found.insert(node.to_owned(), recorded);
            Ok(())
        }
    }
}

/// The ordinal in a node's name, if it is a name of this cluster.
fn ordinal_of(cluster: &Cluster, node: &str) -> Option<usize> {
    let rest = node.strip_prefix(&cluster.id.name)?.strip_prefix('-')?;
    rest.rsplit_once('-')?.1.parse().ok()
}

/// The tokens by ordinal, if everything recorded agrees with them.
fn agree(cluster: &Cluster, recorded: &[Recorded], complete: bool) -> Result<Vec<Token>, Wait> {
    let mut by_ordinal: BTreeMap<usize, &Recorded> = BTreeMap::new();
    for entry in recorded {
        let first = by_ordinal.entry(entry.ordinal).or_insert(entry);
        if first.token != entry.token {
            return Err(mismatch(
                entry,
                &format!("{} as for {}", first.token, first.node),
            ));
        }
    }
    let nodes = cluster.tokens.len();
    let whole = by_ordinal.keys().copied().eq(0..nodes);
    if let Some((_, last)) = by_ordinal.last_key_value()
        && (last.ordinal >= nodes || (complete && !whole))
    {
        let wanted = format!("nodesPerRack: {nodes}, and the record is of racks of another size");
        return Err(mismatch(last, &wanted));
    }
    if whole && !cluster.tokens_given {
        return Ok(by_ordinal.values().map(|entry| entry.token).collect());
    }
    for (ordinal, entry) in by_ordinal {
        let wanted = cluster.tokens[ordinal];
        if entry.token != wanted {
            return Err(mismatch(entry, &wanted.to_string()));
        }
    }
    Ok(cluster.tokens.clone())
}

fn mismatch(entry: &Recorded, wanted: &str) -> Wait {
    Wait::TokenMismatch {
        node: entry.node.clone(),
        recorded: format!("{} in {}", entry.token, entry.place),
        wanted: wanted.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::{World, resource};

    #[test]
    fn tokens_follow_the_formula_and_are_the_same_in_every_rack() {
        let world = World::settled(3, 2);
        let status = world.resource.status.clone().expect("a status");
        for rack in status.racks {
            let tokens: Vec<u32> = rack.nodes.iter().map(|node| node.token.0).collect();
            assert_eq!(tokens, [1_383_429_731, 3_530_913_378]);
        }
        let claim = &world.observed.claims["data-ring-c-1"].metadata.annotations;
        assert_eq!(
            claim.as_ref().expect("annotations")[ANNOTATION_TOKEN],
            "3530913378"
        );
    }

    /// The cluster is made again under its name, with another UID and without a status.
    fn again(world: &World, nodes: u32) -> World {
        let mut fresh = resource(3, nodes);
        fresh.metadata.uid = Some("cluster-uid-2".to_owned());
        let mut next = World::new(fresh);
        next.observed.claims = world.observed.claims.clone();
        next.observed.config_maps = world.observed.config_maps.clone();
        next
    }

    #[test]
    fn a_cluster_made_again_finds_its_tokens() {
        let mut given = resource(3, 2);
        for rack in &mut given.spec.racks {
            rack.tokens = Some(vec![Token(7), Token(9)]);
        }
        let mut world = World::new(given);
        world.settle();
        for lose in ["nothing", "the record", "the marks"] {
            let mut next = again(&world, 2);
            match lose {
                "the record" => next.observed.config_maps.clear(),
                "the marks" => next.observed.claims.clear(),
                _ => {}
            }
            let tokens = resolve(&next.cluster(), &next.observed);
            assert_eq!(
                (tokens.by_ordinal, tokens.problem),
                (vec![Token(7), Token(9)], None),
                "{lose}"
            );
            assert!(
                served_since(&next.cluster(), &next.observed).is_some() || lose == "the record"
            );
        }
    }

    #[test]
    fn tokens_that_contradict_stop_everything() {
        let world = World::settled(3, 2);
        // Another size: the record is of rings of two nodes.
        let mut next = again(&world, 3);
        assert_eq!(next.reasons(), ["TokenMismatch"]);
        assert!(next.plan().actions.is_empty());
        next = again(&world, 1);
        assert_eq!(next.reasons(), ["TokenMismatch"]);
        // The spec names others.
        let mut next = again(&world, 2);
        for rack in &mut next.resource.spec.racks {
            rack.tokens = Some(vec![Token(7), Token(9)]);
        }
        assert_eq!(next.reasons(), ["TokenMismatch"]);
        // A volume says otherwise than the record.
        let mut next = again(&world, 2);
        let claim = next
            .observed
            .claims
            .get_mut("data-ring-a-0")
            .expect("it is there");
        let mark = (ANNOTATION_TOKEN.to_owned(), "5".to_owned());
        claim
            .metadata
            .annotations
            .get_or_insert_default()
            .extend([mark]);
        assert_eq!(next.reasons(), ["TokenMismatch"]);
        // Nobody can read the record.
        let mut next = again(&world, 2);
        let record = next
            .observed
            .config_maps
            .get_mut("ring-tokens")
            .expect("it is there");
        record.data = Some([(RECORD_KEY.to_owned(), "{".to_owned())].into());
        assert_eq!(next.reasons(), ["TokenRecordUnreadable"]);
        assert!(next.plan().actions.is_empty());
    }

    #[test]
    fn a_lost_record_beside_old_volumes_counts_as_served() {
        let world = World::settled(3, 1);
        let mut next = again(&world, 1);
        next.observed.config_maps.clear();
        next.resource.metadata.creation_timestamp = Some(
            k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(world.now),
        );
        assert!(served_since(&next.cluster(), &next.observed).is_some());
    }
}
