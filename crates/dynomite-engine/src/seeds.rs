//! The ring changes while it runs: nodes come, move and go.

use std::collections::HashMap;

use dynomite_protocol::config::Endpoint;
use dynomite_protocol::seeds::Seed;
use dynomite_protocol::token::Token;
use dynomite_protocol::topology::{Member, Topology};

use crate::engine::Engine;
use crate::link::{Link, State};
use crate::now::Now;
use crate::output::{LinkId, Output};

/// Where a node stands, whatever its address.
type Place = (String, String, Token);

fn place(seed: &Seed) -> Place {
    (seed.datacenter.clone(), seed.rack.clone(), seed.token)
}

impl Engine {
    /// The peers are these and no others. The own node may be among them and is left out; a node
    /// whose address changed is replaced; one that is not listed any more is forgotten.
    ///
    /// The list must have passed [`dynomite_protocol::seeds::check_list`].
    pub fn handle_seeds(&mut self, now: Now, seeds: Vec<Seed>) {
        let settings = &self.settings;
        let wanted: Vec<Seed> = seeds
            .into_iter()
            .filter(|seed| {
                seed.datacenter != settings.datacenter
                    || seed.rack != settings.rack
                    || seed.token != settings.token
            })
            .collect();
        let known: HashMap<Place, LinkId> = self
            .link_ids()
            .filter_map(|id| Some((place(self.link(id)?.peer.as_ref()?), id)))
            .collect();
        let mut kept: Vec<LinkId> = Vec::new();
        let mut members = Vec::new();
        let mut changed = !self.topology_known;
        for seed in wanted {
            let old = known.get(&place(&seed)).copied();
            let unmoved =
                old.filter(|id| self.link(*id).and_then(|link| link.peer.as_ref()) == Some(&seed));
            let node = unmoved.unwrap_or_else(|| {
                changed = true;
                tracing::info!(peer = %seed, replaced = old.is_some(), "a peer");
                self.add_peer(now, seed.clone())
            });
            kept.push(node);
            members.push(Member {
                datacenter: seed.datacenter,
                rack: seed.rack,
                token: seed.token,
                node,
            });
        }
        let gone: Vec<LinkId> = known
            .into_values()
            .filter(|id| !kept.contains(id))
            .collect();
        if !changed && gone.is_empty() {
            return;
        }
        self.counters.seeds_applied += 1;
        self.topology = Topology::new(&self.own_member(), &members);
        self.topology_known = true;
        for id in gone {
            self.remove_peer(now, id);
        }
        self.settle(now);
    }

    fn own_member(&self) -> Member<LinkId> {
        Member {
            datacenter: self.settings.datacenter.clone(),
            rack: self.settings.rack.clone(),
            token: self.settings.token,
            node: LinkId::STORE,
        }
    }

    fn add_peer(&mut self, now: Now, seed: Seed) -> LinkId {
        let id = LinkId(u32::try_from(self.links.len()).unwrap_or(u32::MAX));
        let endpoint = Endpoint::Tcp(seed.host.clone(), seed.port);
        let same_dc = seed.datacenter == self.settings.datacenter;
        let mut link = Link::new(endpoint, Some(seed), same_dc);
        link.state = State::Down {
            retry_at: now.since_start,
        };
        self.links.push(Some(link));
        id
    }

    fn remove_peer(&mut self, now: Now, id: LinkId) {
        let Some(link) = self.link(id) else { return };
        if let Some(peer) = &link.peer {
            tracing::info!(%peer, "a peer is gone from the list");
        }
        if !matches!(link.state, State::Down { .. }) {
            let attempt = link.attempt;
            self.outputs
                .push_back(Output::Disconnect { link: id, attempt });
            self.fail_link(now, id);
        }
        if let Some(place) = self.links.get_mut(id.0 as usize) {
            *place = None;
        }
    }
}
