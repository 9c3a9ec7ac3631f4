//! Datacenters, racks, tokens: who owns a key.
//!
//! ```text
//! datacenter ─┬─ rack ── (token, node) (token, node) ...   every rack is a whole copy of the ring
//!             └─ rack ── ...
//! ```
//!
//! In a rack a key belongs to the node with the smallest token that is not below the key's; above
//! the largest token the ring begins anew. All tokens of all racks together cut the ring into
//! **segments**: within one every key has the same owners everywhere, so that one search answers
//! for all racks, and two keys of one segment can be asked for in one request.

use std::cmp::Ordering;

use crate::token::Token;

/// A node's place, and what the caller calls it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member<N> {
    /// Datacenter.
    pub datacenter: String,
    /// Rack.
    pub rack: String,
    /// Token.
    pub token: Token,
    /// The caller's name for the node.
    pub node: N,
}

/// A rack and its ring, sorted by token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rack<N> {
    /// Name.
    pub name: String,
    /// Nodes by ascending token. Never empty.
    pub nodes: Vec<(Token, N)>,
}

impl<N: Copy> Rack<N> {
    /// The owner of a token in this rack.
    pub fn owner(&self, token: Token) -> N {
        let at = self.nodes.partition_point(|(own, _)| *own < token);
        self.nodes.get(at).unwrap_or(&self.nodes[0]).1
    }
}

/// A datacenter and its racks, sorted as Netflix's engine sorts them: shorter names first, then
/// by their bytes, so that `rack9` comes before `rack10`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Datacenter<N> {
    /// Name.
    pub name: String,
    /// Racks. Never empty.
    pub racks: Vec<Rack<N>>,
}

/// A part of the ring within which all keys have the same owners.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment<N> {
    /// Last token of the segment.
    pub last: Token,
    /// The token of the local datacenter that these keys belong to. A rack that has no node with
    /// it has its next node stand in.
    pub home: Token,
    /// The owner in each rack of the local datacenter, in the order of the racks.
    pub local: Vec<N>,
    /// For each other datacenter the owner in each of its racks, the preselected rack first.
    pub remote: Vec<Vec<N>>,
}

/// All that is known about a ring, seen from one of its nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topology<N> {
    datacenters: Vec<Datacenter<N>>,
    segments: Vec<Segment<N>>,
    local_datacenter: usize,
    local_rack: usize,
}

fn by_length_then_bytes(a: &str, b: &str) -> Ordering {
    a.len().cmp(&b.len()).then_with(|| a.cmp(b))
}

impl<N: Copy> Topology<N> {
    /// Builds the ring of `own` and its `peers`. No two of them may share datacenter, rack and
    /// token (see [`crate::seeds::check_list`]); the later one would never be asked.
    pub fn new(own: &Member<N>, peers: &[Member<N>]) -> Self {
        let mut datacenters: Vec<Datacenter<N>> = Vec::new();
        for member in std::iter::once(own).chain(peers) {
            insert(&mut datacenters, member);
        }
        datacenters.sort_by(|a, b| by_length_then_bytes(&a.name, &b.name));
        for datacenter in &mut datacenters {
            datacenter
                .racks
                .sort_by(|a, b| by_length_then_bytes(&a.name, &b.name));
            for rack in &mut datacenter.racks {
                rack.nodes.sort_by_key(|(token, _)| *token);
            }
        }
        let position = |found: Option<usize>| found.unwrap_or(0);
        let local_datacenter =
            position(datacenters.iter().position(|dc| dc.name == own.datacenter));
        let racks = &datacenters[local_datacenter].racks;
        let local_rack = position(racks.iter().position(|rack| rack.name == own.rack));
        let segments = segments(&datacenters, local_datacenter, local_rack);
        Self {
            datacenters,
            segments,
            local_datacenter,
            local_rack,
        }
    }

    /// The number of the segment that holds `token`.
    pub fn segment_of(&self, token: Token) -> usize {
        let at = self
            .segments
            .partition_point(|segment| segment.last < token);
        if at == self.segments.len() { 0 } else { at }
    }

    /// A segment by number; numbers come from [`Self::segment_of`].
    pub fn segment(&self, number: usize) -> &Segment<N> {
        &self.segments[number]
    }

    /// How many segments there are.
    pub fn segments(&self) -> usize {
        self.segments.len()
    }

    /// The position of the own rack in [`Segment::local`].
    pub fn local_rack(&self) -> usize {
        self.local_rack
    }

    /// Racks of the own datacenter.
    pub fn local_racks(&self) -> usize {
        self.datacenters[self.local_datacenter].racks.len()
    }

    /// Everything, for whoever wants to show it.
    pub fn datacenters(&self) -> &[Datacenter<N>] {
        &self.datacenters
    }

    /// Every node of the ring, the own one included.
    pub fn nodes(&self) -> impl Iterator<Item = N> + '_ {
        self.datacenters
            .iter()
            .flat_map(|datacenter| &datacenter.racks)
            .flat_map(|rack| rack.nodes.iter().map(|(_, node)| *node))
    }
}

fn insert<N: Copy>(datacenters: &mut Vec<Datacenter<N>>, member: &Member<N>) {
    let at = datacenters
        .iter()
        .position(|dc| dc.name == member.datacenter)
        .unwrap_or_else(|| {
            datacenters.push(Datacenter {
                name: member.datacenter.clone(),
                racks: Vec::new(),
            });
            datacenters.len() - 1
        });
    let racks = &mut datacenters[at].racks;
    match racks.iter_mut().find(|rack| rack.name == member.rack) {
        Some(rack) => rack.nodes.push((member.token, member.node)),
        None => racks.push(Rack {
            name: member.rack.clone(),
            nodes: vec![(member.token, member.node)],
        }),
    }
}

fn segments<N: Copy>(
    datacenters: &[Datacenter<N>],
    local_datacenter: usize,
    local_rack: usize,
) -> Vec<Segment<N>> {
    let mut bounds: Vec<Token> = datacenters
        .iter()
        .flat_map(|datacenter| &datacenter.racks)
        .flat_map(|rack| rack.nodes.iter().map(|(token, _)| *token))
        .collect();
    bounds.sort_unstable();
    bounds.dedup();
    let mut homes: Vec<Token> = datacenters[local_datacenter]
        .racks
        .iter()
        .flat_map(|rack| rack.nodes.iter().map(|(token, _)| *token))
        .collect();
    homes.sort_unstable();
    let home = |last: Token| {
        let at = homes.partition_point(|token| *token < last);
        *homes.get(at).unwrap_or(&homes[0])
    };
    bounds
        .into_iter()
        .map(|last| Segment {
            last,
            home: home(last),
            local: owners(&datacenters[local_datacenter], 0, last),
            remote: datacenters
                .iter()
                .enumerate()
                .filter(|(index, _)| *index != local_datacenter)
                .map(|(_, datacenter)| {
                    owners(datacenter, local_rack % datacenter.racks.len(), last)
                })
                .collect(),
        })
        .collect()
}

/// The owners of a token in the racks of a datacenter, beginning with rack `first`.
fn owners<N: Copy>(datacenter: &Datacenter<N>, first: usize, token: Token) -> Vec<N> {
    let count = datacenter.racks.len();
    (0..count)
        .map(|offset| datacenter.racks[(first + offset) % count].owner(token))
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::hash::Hash;

    fn member(datacenter: &str, rack: &str, token: u32, node: u32) -> Member<u32> {
        Member {
            datacenter: datacenter.into(),
            rack: rack.into(),
            token: Token(token),
            node,
        }
    }

    fn one_rack(tokens: &[u32]) -> Topology<u32> {
        let members: Vec<_> = tokens
            .iter()
            .map(|&token| member("dc", "r", token, token))
            .collect();
        Topology::new(&members[0], &members[1..])
    }

    fn owner(topology: &Topology<u32>, key: &[u8]) -> u32 {
        let token = Hash::Murmur.token(key);
        topology.segment(topology.segment_of(token)).local[0]
    }

    #[test]
    fn keys_belong_to_the_nodes_measured_on_the_real_ring() {
        let ring = one_rack(&[
            400_000_000,
            900_000_000,
            1_700_000_000,
            2_500_000_000,
            3_300_000_000,
            4_100_000_000,
        ]);
        let long = "x".repeat(37);
        for (key, expected) in [
            ("foo", 4_100_000_000),
            ("bar", 900_000_000),
            ("user:1", 4_100_000_000),
            ("a", 1_700_000_000),
            ("hello world", 1_700_000_000),
            ("dynomite", 2_500_000_000),
            ("key:10", 3_300_000_000),
            ("key:13", 2_500_000_000),
            ("12345678", 1_700_000_000),
            (long.as_str(), 1_700_000_000),
            ("session:abcdef", 3_300_000_000),
            ("0", 3_300_000_000_u32),
        ] {
            assert_eq!(owner(&ring, key.as_bytes()), expected, "{key}");
        }
    }

    #[test]
    fn a_key_on_the_boundary_belongs_to_it_and_the_ring_wraps() {
        let ring = one_rack(&[516_654_467, 3_303_027_598, 3_303_027_599]);
        assert_eq!(owner(&ring, b"foo"), 3_303_027_599);
        assert_eq!(owner(&ring, b"bar"), 516_654_467);
        assert_eq!(owner(&ring, b"user:1"), 516_654_467);
    }

    #[test]
    fn racks_are_ordered_by_length_and_the_remote_rack_follows_the_own() {
        let own = member("dc1", "rack10", 1, 0);
        let peers = [
            member("dc1", "rack9", 1, 1),
            member("dc1", "rack8", 1, 2),
            member("dc2", "rack8", 1, 3),
            member("dc2", "rack9", 1, 4),
        ];
        let ring = Topology::new(&own, &peers);
        let segment = ring.segment(0);
        assert_eq!(segment.local, [2, 1, 0]);
        assert_eq!(ring.local_rack(), 2);
        assert_eq!(
            segment.remote,
            [[3, 4]],
            "own rack is third of three: the first of two"
        );
    }

    #[test]
    fn equal_rack_names_in_two_datacenters_are_two_racks() {
        let ring = Topology::new(&member("dc1", "r", 1, 0), &[member("dc2", "r", 2, 1)]);
        for token in [0, 1, 2, 3] {
            let segment = ring.segment(ring.segment_of(Token(token)));
            assert_eq!(
                (&segment.local[..], &segment.remote[0][..]),
                (&[0][..], &[1][..])
            );
        }
    }

    proptest! {
        #[test]
        fn a_segment_names_the_owner_of_every_rack(
            first in prop::collection::btree_set(any::<u32>(), 1..8),
            second in prop::collection::btree_set(any::<u32>(), 1..8),
            token: u32,
        ) {
            let members: Vec<_> = first.iter().map(|&t| member("dc", "a", t, t))
                .chain(second.iter().map(|&t| member("dc", "b", t, t))).collect();
            let ring = Topology::new(&members[0], &members[1..]);
            let segment = ring.segment(ring.segment_of(Token(token)));
            for (rack, tokens) in [&first, &second].into_iter().enumerate() {
                let expected = tokens.range(token..).next().or(tokens.first()).unwrap();
                prop_assert_eq!(segment.local[rack], *expected);
            }
        }
    }
}
