//! Datacenters elsewhere that describe themselves: where they are asked, what of an answer is believed, and whose last word counts.
//!
//! An answer is the JSON of `cluster_describe`, as sidecars and Dynomite-manager
//! give it. It comes from a place this operator does not rule, so nothing of it is
//! repeated in words, only addresses and names of a plain form are taken, and an
//! answer with a node that cannot be read counts as none.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::str::FromStr;

use dynomite_api::Token;
use dynomite_api::contract::{PORT_PEER, Peer};
use dynomite_api::crd::{
    DynomiteClusterSpec, DynomiteClusterStatus, RemoteDatacenterStatus, RemoteNodeStatus,
};
use serde_json::Value;

use crate::cluster::Cluster;
use crate::observed::Observed;
use crate::wait::Wait;

/// How many nodes a datacenter elsewhere may have, as many as there may be seeds.
pub const REMOTE_NODES_MAX: usize = 512;
/// What the path of a describing URL ends in: nothing else may be asked through it.
const PATH_END: &str = "/admin/cluster_describe";

/// A datacenter elsewhere that describes itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remote {
    /// Its name.
    pub name: String,
    /// Where it is asked, as the spec has it.
    pub url: DescribeUrl,
    /// Its nodes by the status: as they were last known.
    pub last: Vec<Peer>,
}

/// What came of asking a datacenter elsewhere.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Described {
    /// Its nodes by the last good answer, if there was one.
    pub nodes: Option<Vec<Peer>>,
    /// Why the last question had no good answer.
    pub trouble: Option<String>,
}

/// An address at which a datacenter describes itself: plain HTTP, and the one path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DescribeUrl {
    /// A name, or an address without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
    /// The path, from its `/`.
    pub path: String,
}

impl FromStr for DescribeUrl {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let rest = text
            .strip_prefix("http://")
            .ok_or("it must begin with http://")?;
        let (authority, _) = rest.split_once('/').ok_or("it has no path")?;
        let path = &rest[authority.len()..];
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"/._~-".contains(&b);
        if !path.ends_with(PATH_END) || !path.bytes().all(plain) {
            return Err("its path must end in /admin/cluster_describe");
        }
        let (host, port) = match authority.strip_prefix('[') {
            Some(rest) => {
                let (host, port) = rest.split_once(']').ok_or("its host is no address")?;
                host.parse::<std::net::Ipv6Addr>()
                    .map_err(|_| "its host is no address")?;
                let port = if port.is_empty() {
                    None
                } else {
                    Some(port.strip_prefix(':').ok_or("its port is no number")?)
                };
                (host, port)
            }
            None => match authority.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (authority, None),
            },
        };
        if !host.contains(':') && !is_host(host) {
            return Err("its host is neither a name nor an address");
        }
        let port = port.map_or(Ok(80), str::parse);
        let port = port.ok().filter(|port| *port > 0);
        Ok(Self {
            host: host.to_owned(),
            port: port.ok_or("its port is no number from 1 to 65535")?,
            path: path.to_owned(),
        })
    }
}

/// The datacenters of a spec that describe themselves; `wrong` is told of each
/// URL that is none, with its place in the spec.
pub(crate) fn remotes(
    spec: &DynomiteClusterSpec,
    status: Option<&DynomiteClusterStatus>,
    mut wrong: impl FnMut(usize, &'static str),
) -> Vec<Remote> {
    let mut remotes = Vec::new();
    for (i, remote) in spec.remote_datacenters.iter().enumerate() {
        let Some(url) = &remote.describe else {
            continue;
        };
        match url.parse() {
            Ok(url) => remotes.push(Remote {
                last: last_known(status, &remote.name),
                name: remote.name.clone(),
                url,
            }),
            Err(why) => wrong(i, why),
        }
    }
    remotes
}

fn last_known(status: Option<&DynomiteClusterStatus>, datacenter: &str) -> Vec<Peer> {
    let known = status.iter().flat_map(|status| &status.remote_datacenters);
    let nodes = known
        .filter(|remote| remote.name == datacenter)
        .flat_map(|remote| &remote.nodes);
    nodes
        .map(|node| Peer {
            host: node.host.clone(),
            address: node.address.clone(),
            port: node.port,
            datacenter: datacenter.to_owned(),
            rack: node.rack.clone(),
            token: node.token,
        })
        .collect()
}

/// The nodes of all datacenters elsewhere; `None` while one was not asked yet and
/// none of its nodes is known: without them a ring would stop sending there.
pub(crate) fn peers(cluster: &Cluster, observed: &Observed) -> Option<Vec<Peer>> {
    let mut peers = cluster.remote_peers.clone();
    for remote in &cluster.remotes {
        peers.extend(nodes(remote, observed)?.iter().cloned());
    }
    Some(peers)
}

/// Whether nobody knows yet which nodes there are elsewhere.
pub(crate) fn are_unknown(cluster: &Cluster, observed: &Observed) -> bool {
    let mut remotes = cluster.remotes.iter();
    remotes.any(|remote| nodes(remote, observed).is_none())
}

/// The nodes of one: by its last good answer, else as the status knows them.
fn nodes<'a>(remote: &'a Remote, observed: &'a Observed) -> Option<&'a [Peer]> {
    let described = observed.described.get(&remote.name);
    match described.and_then(|described| described.nodes.as_ref()) {
        Some(nodes) => Some(nodes),
        None if described.is_none() && remote.last.is_empty() => None,
        None => Some(&remote.last),
    }
}

/// What is said of those that do not answer, or were not asked yet.
pub(crate) fn waits<'a>(
    cluster: &'a Cluster,
    observed: &'a Observed,
) -> impl Iterator<Item = Wait> + 'a {
    cluster.remotes.iter().filter_map(|remote| {
        let known = nodes(remote, observed);
        let why = match observed.described.get(&remote.name) {
            Some(described) => described.trouble.clone()?,
            None if known.is_none() => "it was not asked yet".to_owned(),
            None => return None,
        };
        Some(Wait::RemoteUnanswered {
            datacenter: remote.name.clone(),
            why,
            known: known.map_or(0, <[Peer]>::len),
        })
    })
}

/// What the status says of them.
pub(crate) fn statuses(cluster: &Cluster, observed: &Observed) -> Vec<RemoteDatacenterStatus> {
    let node = |peer: &Peer| RemoteNodeStatus {
        host: peer.host.clone(),
        address: peer.address.clone(),
        port: peer.port,
        rack: peer.rack.clone(),
        token: peer.token,
    };
    let one = |remote: &Remote| {
        let described = observed.described.get(&remote.name);
        let known = nodes(remote, observed).unwrap_or_default();
        RemoteDatacenterStatus {
            name: remote.name.clone(),
            message: described
                .and_then(|described| described.trouble.clone())
                .unwrap_or_default(),
            nodes: known.iter().map(node).collect(),
        }
    };
    cluster.remotes.iter().map(one).collect()
}

/// The nodes of `datacenter` in an answer, in an order of their own. The answer
/// may name other datacenters too, this one among them: those are passed over.
///
/// # Errors
/// Why the answer is not believed, without a word of it.
pub fn read_description(body: &[u8], datacenter: &str) -> Result<Vec<Peer>, String> {
    let answer: Vec<Value> = serde_json::from_slice(body)
        .map_err(|_| "its answer is not a JSON list of nodes".to_owned())?;
    let mut peers = Vec::new();
    let mut seen = BTreeSet::new();
    for (i, entry) in answer.iter().enumerate() {
        if entry["dc"].as_str() != Some(datacenter) {
            continue;
        }
        let peer = node(entry, datacenter)
            .map_err(|what| format!("entry {} of its answer has no usable {what}", i + 1))?;
        if !seen.insert((peer.rack.clone(), peer.token)) {
            return Err(format!(
                "its answer names a token of one rack twice, in entry {}",
                i + 1
            ));
        }
        peers.push(peer);
        if peers.len() > REMOTE_NODES_MAX {
            return Err(format!(
                "its answer names more than {REMOTE_NODES_MAX} nodes"
            ));
        }
    }
    if peers.is_empty() {
        return Err(format!(
            "its answer names no node of datacenter {datacenter}"
        ));
    }
    peers.sort_by(|a, b| (&a.rack, a.token).cmp(&(&b.rack, b.token)));
    Ok(peers)
}

/// One entry as a peer, or the name of the field that cannot be used.
fn node(entry: &Value, datacenter: &str) -> Result<Peer, &'static str> {
    let text = |field: &str| entry[field].as_str().unwrap_or_default();
    let number = |field: &str| match &entry[field] {
        Value::Number(number) => number.as_u64(),
        Value::String(text) if text.bytes().all(|b| b.is_ascii_digit()) => text.parse().ok(),
        _ => None,
    };
    let token = number("token").and_then(|token| u32::try_from(token).ok());
    let port = match &entry["peer_port"] {
        Value::Null => Some(PORT_PEER),
        _ => number("peer_port").and_then(|port| u16::try_from(port).ok()),
    };
    let rack = text("rack");
    let rack_is_plain = !rack.is_empty() && rack.len() <= 63 && rack.bytes().all(is_plain);
    let said = [text("ip"), text("hostname")];
    let address = said.iter().find_map(|text| text.parse::<IpAddr>().ok());
    if address.as_ref().is_some_and(is_unreachable) {
        return Err("address");
    }
    let named = [text("hostname"), text("ip")];
    let name = named
        .into_iter()
        .find(|text| is_host(text) && text.parse::<IpAddr>().is_err());
    let address = address.map(|address| address.to_string());
    let host = name.map(str::to_owned).or_else(|| address.clone());
    Ok(Peer {
        host: host.ok_or("address")?,
        address,
        port: port.filter(|port| *port > 0).ok_or("peer_port")?,
        datacenter: datacenter.to_owned(),
        rack: if rack_is_plain {
            rack.to_owned()
        } else {
            return Err("rack");
        },
        token: Token(token.ok_or("token")?),
    })
}

/// Whether no other machine can be reached by the address: a description with it
/// would turn a ring against itself.
pub fn is_unreachable(address: &IpAddr) -> bool {
    let local = match address {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast(),
        IpAddr::V6(v6) => {
            v6.is_unicast_link_local()
                || v6
                    .to_ipv4_mapped()
                    .is_some_and(|v4| is_unreachable(&v4.into()))
        }
    };
    local || address.is_loopback() || address.is_unspecified() || address.is_multicast()
}

fn is_plain(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"._-".contains(&b)
}

/// A name as in DNS, or an IPv4 address.
fn is_host(text: &str) -> bool {
    !text.is_empty() && text.len() <= 253 && text.bytes().all(|b| is_plain(b) && b != b'_')
}

#[cfg(test)]
mod tests;
