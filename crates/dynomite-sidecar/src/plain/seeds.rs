//! At which address each peer is reached: the decision, without DNS.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use dynomite_api::contract::Peer;
use dynomite_protocol::seeds::Seed;

/// How long the addresses that the operator saw are the best there are: several
/// of its rounds. A pod that moves is in a new document within one of them.
pub(crate) const OPERATOR_FRESH: Duration = Duration::from_secs(30);

/// The peers as an engine takes them, in the document's order.
///
/// A peer is never left out for want of an address: without it the engine would
/// give its part of the ring to a neighbour. So the last address that was known
/// stays, and a peer that never had one is named by its host.
pub(super) fn seeds(
    peers: &[Peer],
    operator_fresh: bool,
    resolved: &HashMap<String, IpAddr>,
) -> Vec<Seed> {
    let peers = peers.iter().map(|peer| Seed {
        host: host(peer, operator_fresh, resolved),
        port: peer.port,
        rack: peer.rack.clone(),
        datacenter: peer.datacenter.clone(),
        token: dynomite_protocol::token::Token(peer.token.0),
    });
    peers.collect()
}

fn host(peer: &Peer, operator_fresh: bool, resolved: &HashMap<String, IpAddr>) -> String {
    let seen = peer.address.clone();
    let found = resolved.get(&peer.host).map(IpAddr::to_string);
    let best = if operator_fresh {
        seen.or(found)
    } else {
        found.or(seen)
    };
    best.unwrap_or_else(|| peer.host.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::peer;

    #[test]
    fn the_best_address_is_taken_and_no_peer_is_lost() {
        let (seen, found) = (Some("10.0.0.1"), Some("10.0.0.2"));
        let name = "ring-dc1-b-1.ring-nodes.default.svc.cluster.local";
        // (operator heard lately, address in the document, address found by name) -> host
        let cases = [
            (true, seen, found, "10.0.0.1"),
            (true, seen, None, "10.0.0.1"),
            (true, None, found, "10.0.0.2"),
            (true, None, None, name),
            (false, seen, found, "10.0.0.2"),
            (false, seen, None, "10.0.0.1"),
            (false, None, found, "10.0.0.2"),
            (false, None, None, name),
        ];
        for (fresh, seen, found, want) in cases {
            let peer = Peer {
                address: seen.map(str::to_owned),
                ..peer("dc1-b", 1, 7)
            };
            let resolved = found.map(|text| (peer.host.clone(), text.parse().unwrap()));
            let list = seeds(&[peer], fresh, &resolved.into_iter().collect());
            assert_eq!(list[0].host, want, "{fresh} {seen:?} {found:?}");
        }
    }
}
