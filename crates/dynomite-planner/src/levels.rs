//! Who is behind whom: the replicas of a token compared by the numbered writes they have received.
//!
//! ```text
//! gap of a coordinator, or the rest of one that is gone for good -> behind: it is renewed
//! the rest of a coordinator that lives, and cannot be heard      -> cut off: the partition lasts
//! what none of them has                                          -> separates nobody
//! ```
//!
//! Only proven nodes are compared: one that copies is not level by design. A
//! fact that is missing never makes a node look behind, for the remedy takes it
//! out of the ring.

use std::collections::{BTreeMap, BTreeSet};

use dynomite_api::contract::{NodeReport, ProofKind, Received, Source};
use k8s_openapi::api::core::v1::Pod;

use crate::observed::{Observed, Seen};
use crate::ring::Node;

/// How long a coordinator must have been silent before what it sent last counts
/// as all it ever sent: an engine that restarts connects again in that time.
const SILENT_SECONDS: u64 = 5;
/// How long the word of a proof and of a connection may be apart.
const SLACK_SECONDS: u64 = 2;

/// How the nodes of a ring stand to their replicas; nodes that lack nothing are left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Levels {
    behind: BTreeMap<String, Behind>,
    cut_off: BTreeMap<String, String>,
    /// Nodes whose engine does not number its writes.
    unnumbered: BTreeSet<String>,
}

/// A node that lacks writes which a replica has, for good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Behind {
    /// The replica it is to be made equal to.
    pub reference: String,
    /// How many writes of the others it lacks, at least.
    pub lacks: u64,
    /// How many writes it has that its reference lacks; they are lost when it is renewed.
    pub drops: u64,
}

impl Levels {
    /// Compares the proven replicas of each token.
    pub(crate) fn new(nodes: &[Node<'_>], observed: &Observed) -> Self {
        let mut levels = Self::default();
        let coordinators = Coordinators::new(observed);
        let mut tokens: BTreeMap<_, Vec<Replica<'_>>> = BTreeMap::new();
        for node in nodes.iter().filter(|n| !n.terminating()) {
            let Ok(report) = node.report else { continue };
            // One that leaves in order to copy keeps its proof until it is out:
            // what was said of it must be said for so long.
            if report.proof.kind == ProofKind::Unproven {
                continue;
            }
            let engine = report.engine.as_ref();
            match engine.and_then(|engine| engine.received.as_ref()) {
                Some(received) => tokens.entry(node.token).or_default().push(Replica {
                    name: &node.name,
                    rack: &node.rack.name,
                    report,
                    received,
                }),
                None if engine.is_some() => drop(levels.unnumbered.insert(node.name.clone())),
                None => {}
            }
        }
        for (token, mut replicas) in tokens {
            replicas.sort_by_key(|replica| (replica.rack, replica.name));
            let declared = nodes.iter().filter(|node| node.token == token).count();
            levels.compare(&replicas, declared / 2 + 1, &coordinators);
        }
        levels
    }

    /// What a node lacks, if it is behind.
    pub fn behind(&self, node: &str) -> Option<&Behind> {
        self.behind.get(node)
    }

    /// All nodes that are behind, by name.
    pub fn all_behind(&self) -> impl Iterator<Item = (&String, &Behind)> {
        self.behind.iter()
    }

    /// The coordinator whose writes reach a node's replicas and not the node.
    pub fn cut_off_from(&self, node: &str) -> Option<&str> {
        self.cut_off.get(node).map(String::as_str)
    }

    /// All nodes that are cut off from a coordinator, with that coordinator.
    pub fn all_cut_off(&self) -> impl Iterator<Item = (&String, &String)> {
        self.cut_off.iter()
    }

    /// A proven node whose engine does not number its writes, if there is one.
    pub fn unnumbered(&self) -> Option<&str> {
        self.unnumbered.first().map(String::as_str)
    }

    fn compare(&mut self, replicas: &[Replica<'_>], majority: usize, coordinators: &Coordinators) {
        let count = replicas.len();
        let mut lacks = vec![vec![0_u64; count]; count];
        for (x, own) in replicas.iter().enumerate() {
            for (y, other) in replicas.iter().enumerate().filter(|(y, _)| *y != x) {
                let found = coordinators.lacks(own, other);
                lacks[x][y] = found.for_good;
                if let Some(coordinator) = found.cut_off_from {
                    let first = self.cut_off.entry(own.name.to_owned());
                    first.or_insert(coordinator);
                }
            }
        }
        let of_majority = |x: usize| lacks_of_majority(replicas, x, majority);
        let Some(reference) = reference(&lacks, of_majority) else {
            return;
        };
        let whole = lacks[reference].iter().all(|missed| *missed == 0);
        for (x, own) in replicas.iter().enumerate() {
            let drops = lacks[reference][x];
            let most = lacks[x].iter().copied().max().unwrap_or(0);
            let differs = if whole {
                most > 0
            } else {
                lacks[x][reference] > 0 || drops > 0
            };
            if differs {
                let behind = Behind {
                    reference: replicas[reference].name.to_owned(),
                    lacks: most,
                    drops,
                };
                self.behind.insert(own.name.to_owned(), behind);
            }
        }
    }
}

/// The replica that the others are made equal to: one that lacks nothing. If
/// there is none, the one that lacks fewest of the writes which a majority has,
/// for those were acknowledged; then one of the largest group of replicas that
/// are equal, then the one that lacks least, then the first. `None` for an
/// empty list.
fn reference(lacks: &[Vec<u64>], of_majority: impl Fn(usize) -> u64) -> Option<usize> {
    let total = |x: usize| lacks[x].iter().fold(0_u64, |a, b| a.saturating_add(*b));
    if let Some(whole) = (0..lacks.len()).find(|x| total(*x) == 0) {
        return Some(whole);
    }
    let equal_to = |x: usize| {
        let others = 0..lacks.len();
        let equal = others.filter(|y| lacks[x][*y] == 0 && lacks[*y][x] == 0);
        equal.count()
    };
    (0..lacks.len()).min_by_key(|x| (of_majority(*x), std::cmp::Reverse(equal_to(*x)), total(*x)))
}

/// How many writes a replica lacks that at least `majority` of them have.
fn lacks_of_majority(replicas: &[Replica<'_>], x: usize, majority: usize) -> u64 {
    let incarnations: BTreeSet<&String> = replicas
        .iter()
        .flat_map(|replica| replica.received.sources().keys())
        .collect();
    let mut missed = 0_u64;
    for incarnation in incarnations {
        let source = |replica: &Replica<'_>| replica.received.sources().get(incarnation).cloned();
        let sources: Vec<Source> = replicas
            .iter()
            .map(|replica| source(replica).unwrap_or_default())
            .collect();
        // Between two of these numbers each replica has all or none.
        let mut edges: BTreeSet<u64> = BTreeSet::from([1]);
        for source in &sources {
            edges.insert(source.last + 1);
            edges.extend(
                source
                    .missing
                    .iter()
                    .flat_map(|(first, last)| [*first, last + 1]),
            );
        }
        let edges: Vec<u64> = edges.into_iter().collect();
        let heard = source(&replicas[x]).is_some_and(|own| own.closed_seconds.is_none());
        for stretch in edges.windows(2) {
            let number = stretch[0];
            let holders = sources.iter().filter(|source| has(source, number)).count();
            let coming = heard && number > sources[x].last;
            if holders >= majority && !has(&sources[x], number) && !coming {
                missed = missed.saturating_add(stretch[1] - number);
            }
        }
    }
    missed
}

fn has(source: &Source, number: u64) -> bool {
    let in_gap = |gap: &(u64, u64)| gap.0 <= number && number <= gap.1;
    number <= source.last && !source.missing.iter().any(in_gap)
}

/// A proven node of a token.
struct Replica<'a> {
    name: &'a str,
    rack: &'a str,
    report: &'a NodeReport,
    received: &'a Received,
}

/// What one node lacks of another.
#[derive(Default)]
struct Lacks {
    for_good: u64,
    cut_off_from: Option<String>,
}

/// Who coordinates writes now, as far as that is known.
struct Coordinators {
    /// The node and the engine's age in seconds, by incarnation.
    live: BTreeMap<String, (String, u64)>,
    /// Whether an engine may run of which nobody knows the incarnation.
    unknown: bool,
}

impl Coordinators {
    fn new(observed: &Observed) -> Self {
        let mut known = Self {
            live: BTreeMap::new(),
            unknown: false,
        };
        for (name, pod) in &observed.pods {
            let uid = pod.metadata.uid.as_deref().unwrap_or_default();
            match observed.reports.get(name) {
                Some(Seen::Known(report)) if report.pod_uid == uid => match &report.engine {
                    Some(engine) => {
                        let who = (name.clone(), engine.uptime_seconds);
                        known.live.insert(engine.incarnation.clone(), who);
                    }
                    None => known.unknown |= report.engine_process.running,
                },
                _ => known.unknown |= may_run(pod),
            }
        }
        known
    }

    /// What `own` lacks of what `other` has.
    fn lacks(&self, own: &Replica<'_>, other: &Replica<'_>) -> Lacks {
        let mut found = Lacks::default();
        for (incarnation, source) in other.received.sources() {
            let total = own.received.lacks_of(incarnation, source);
            if total == 0 {
                continue;
            }
            match own.received.sources().get(incarnation) {
                Some(held) => {
                    let in_gaps = own
                        .received
                        .lacks_of(incarnation, &up_to(source, held.last));
                    let rest = total.saturating_sub(in_gaps);
                    found.for_good += in_gaps;
                    let silent = held.closed_seconds.unwrap_or(0) >= SILENT_SECONDS;
                    if rest > 0 && silent {
                        self.rest(incarnation, source, rest, &mut found);
                    }
                }
                None if would_be_known(other, source) => {
                    self.rest(incarnation, source, total, &mut found);
                }
                None => {}
            }
        }
        found
    }

    /// Judges what followed the last number a node has of a coordinator that it cannot hear.
    fn rest(&self, incarnation: &str, at_other: &Source, rest: u64, found: &mut Lacks) {
        match self.live.get(incarnation) {
            Some((node, age)) if *age >= SILENT_SECONDS => {
                found.cut_off_from.get_or_insert_with(|| node.clone());
            }
            Some(_) => {}
            None => {
                let gone = at_other.closed_seconds.unwrap_or(0) >= SILENT_SECONDS;
                if gone && !self.unknown {
                    found.for_good += rest;
                }
            }
        }
    }
}

/// Whether a node that had heard this coordinator would still know of it. Of
/// what the other one has copied from a donor nobody knows how old it is, and
/// engines forget coordinators that are long gone.
fn would_be_known(other: &Replica<'_>, source: &Source) -> bool {
    let Some(closed) = source.closed_seconds else {
        return true;
    };
    let since = other.report.proof.since.unwrap_or(other.report.since);
    let proven = other.report.at.duration_since(since).as_secs();
    closed + SLACK_SECONDS < u64::try_from(proven).unwrap_or(0)
}

/// A coordinator's writes up to a number, as its receiver has them.
fn up_to(source: &Source, last: u64) -> Source {
    Source {
        last: source.last.min(last),
        ..source.clone()
    }
}

/// Whether an engine may run in a pod that nobody has heard.
fn may_run(pod: &Pod) -> bool {
    let status = pod.status.as_ref();
    let ended = status.and_then(|s| s.phase.as_deref());
    let address = status.and_then(|s| s.pod_ip.as_deref());
    address.is_some_and(|ip| !ip.is_empty()) && !matches!(ended, Some("Succeeded" | "Failed"))
}

#[cfg(test)]
mod tests {
    use dynomite_api::contract::Source;
    use proptest::prelude::*;

    use super::*;
    use crate::ring::Ring;
    use crate::world::World;

    const NODES: [&str; 3] = ["ring-a-0", "ring-b-0", "ring-c-0"];

    /// A source that has numbers up to `last` without the given ones, and whether it is closed.
    fn source(last: u64, missing: &[(u64, u64)], closed: Option<u64>) -> Source {
        Source {
            last,
            missing: missing.to_vec(),
            closed_seconds: closed,
        }
    }

    /// A settled ring of one token whose nodes have received this of one
    /// coordinator: of a node that lives, or of nobody who does.
    fn world(of: Option<&str>, sources: [Option<Source>; 3]) -> World {
        let mut world = World::settled(3, 1);
        let incarnation = of.map_or("gone".to_owned(), |node| {
            format!("{}-engine", world.pod_uid(node))
        });
        for (node, source) in NODES.iter().zip(sources) {
            let list = source.map(|source| (incarnation.clone(), source));
            let life = world.lives.get_mut(*node).expect("it lives");
            life.received = Some(list.into_iter().collect());
        }
        world.tick();
        world
    }

    fn levels(world: &World) -> Levels {
        let cluster = world.cluster();
        Ring::new(&cluster, &world.observed).levels
    }

    fn behind(world: &World) -> Vec<(String, String)> {
        let levels = levels(world);
        let all = levels.all_behind();
        all.map(|(node, behind)| (node.clone(), behind.reference.clone()))
            .collect()
    }

    #[test]
    fn who_is_behind_whom() {
        let whole = || Some(source(9, &[], None));
        let shut = |last, seconds| Some(source(last, &[], Some(seconds)));
        let (a, b) = ("ring-a-0", "ring-b-0");
        let nobody: &[&str] = &[];
        for (what, of, sources, expected) in [
            ("level", Some(a), [whole(), whole(), whole()], nobody),
            (
                "a gap of one that lives",
                Some(a),
                [whole(), Some(source(9, &[(4, 5)], None)), whole()],
                &[b],
            ),
            (
                "a gap that all have separates nobody",
                Some(a),
                [(); 3].map(|()| Some(source(9, &[(4, 5)], None))),
                nobody,
            ),
            (
                "what is on its way",
                Some(a),
                [whole(), Some(source(7, &[], None)), whole()],
                nobody,
            ),
            (
                "the rest of one that is gone",
                None,
                [shut(9, 8), shut(7, 8), shut(9, 8)],
                &[b],
            ),
            (
                "the rest of one that has just gone",
                None,
                [shut(9, 4), shut(7, 4), shut(9, 4)],
                nobody,
            ),
            (
                "the rest of one that another still hears",
                None,
                [whole(), shut(7, 8), shut(9, 8)],
                &[b],
            ),
            (
                "the rest of one that lives and is not heard",
                Some(a),
                [whole(), shut(7, 8), whole()],
                nobody,
            ),
            (
                "one that is gone and that the node never heard",
                None,
                [shut(9, 8), None, shut(9, 8)],
                &[b],
            ),
            (
                "one that the node has forgotten by now",
                None,
                [shut(9, 100_000), None, shut(9, 100_000)],
                nobody,
            ),
        ] {
            let found = behind(&world(of, sources));
            let names: Vec<&str> = found.iter().map(|(node, _)| node.as_str()).collect();
            assert_eq!(names, expected, "{what}");
        }
    }

    #[test]
    fn a_memory_that_was_copied_says_nothing_about_who_forgot() {
        let shut = || Some(source(9, &[], Some(3598)));
        // Proven for 3600 s: the coordinator had gone before, nobody knows how long.
        let copied = world(None, [shut(), None, shut()]);
        assert!(behind(&copied).is_empty());
    }

    #[test]
    fn a_coordinator_that_may_live_is_not_gone() {
        let shut = |last| Some(source(last, &[], Some(30)));
        let mut world = world(None, [shut(9), shut(7), shut(9)]);
        assert_eq!(behind(&world).len(), 1);
        let seen = Seen::Unknown("it does not answer".to_owned());
        world.observed.reports.insert(NODES[2].to_owned(), seen);
        assert!(behind(&world).is_empty());
    }

    #[test]
    fn a_node_that_does_not_hear_a_coordinator_is_told_of() {
        let whole = || Some(source(9, &[], None));
        let world = world(
            Some("ring-a-0"),
            [whole(), Some(source(7, &[], Some(8))), whole()],
        );
        assert_eq!(levels(&world).cut_off_from("ring-b-0"), Some("ring-a-0"));
        assert_eq!(world.reasons(), ["NodeCutOff"]);
        // It is told, and the ring is as declared all the same.
        assert!(world.plan().actions.is_empty());
    }

    #[test]
    fn when_nobody_is_whole_the_largest_equal_group_is_the_measure() {
        let gap = |at| Some(source(9, &[(at, at)], None));
        let a = Some("ring-a-0");
        for (sources, expected) in [
            // b and c are equal, a differs.
            ([gap(1), gap(5), gap(5)], vec![("ring-a-0", "ring-b-0")]),
            // All differ: who lacks least, here c.
            (
                [
                    Some(source(9, &[(1, 3)], None)),
                    Some(source(9, &[(5, 6)], None)),
                    gap(8),
                ],
                vec![("ring-a-0", "ring-c-0"), ("ring-b-0", "ring-c-0")],
            ),
            // All differ alike: the first.
            (
                [gap(1), gap(2), gap(3)],
                vec![("ring-b-0", "ring-a-0"), ("ring-c-0", "ring-a-0")],
            ),
        ] {
            let found = behind(&world(a, sources));
            let found: Vec<(&str, &str)> = found
                .iter()
                .map(|(x, y)| (x.as_str(), y.as_str()))
                .collect();
            assert_eq!(found, expected);
        }
    }

    #[test]
    fn what_a_majority_has_counts_more_than_how_much_one_lacks() {
        let mut world = World::settled(3, 1);
        let of = |gaps: &[(&str, (u64, u64))]| {
            let sources = ["side-c", "side-ab"].map(|incarnation| {
                let found = gaps.iter().filter(|(of, _)| *of == incarnation);
                let missing: Vec<(u64, u64)> = found.map(|(_, gap)| *gap).collect();
                (incarnation.to_owned(), source(2000, &missing, None))
            });
            Some(sources.into_iter().collect::<Received>())
        };
        // Cut off, c went on alone with twice as many writes as the others took
        // together; of theirs, each of these two lacks another one.
        let received = [
            of(&[("side-c", (1, 2000)), ("side-ab", (5, 5))]),
            of(&[("side-c", (1, 2000)), ("side-ab", (7, 8))]),
            of(&[("side-ab", (1, 1000))]),
        ];
        for (node, received) in NODES.iter().zip(received) {
            world.lives.get_mut(*node).expect("it lives").received = received;
        }
        world.tick();
        let found = behind(&world);
        let names: Vec<(&str, &str)> = found
            .iter()
            .map(|(x, y)| (x.as_str(), y.as_str()))
            .collect();
        assert_eq!(names, [("ring-b-0", "ring-a-0"), ("ring-c-0", "ring-a-0")]);
    }

    #[test]
    fn an_engine_that_does_not_number_is_not_judged() {
        let mut world = world(
            Some("ring-a-0"),
            [
                Some(source(9, &[], None)),
                Some(source(9, &[(1, 9)], None)),
                None,
            ],
        );
        world.lives.get_mut("ring-a-0").expect("it lives").received = None;
        world.tick();
        assert!(behind(&world).is_empty());
        assert_eq!(levels(&world).unnumbered(), Some("ring-a-0"));
    }

    fn sources() -> impl Strategy<Value = [Source; 3]> {
        let one = (
            1_u64..12,
            prop::collection::btree_set(1_u64..12, 0..5),
            prop::option::of(0_u64..20),
        );
        let one = one.prop_map(|(last, missing, closed)| {
            let gaps: Vec<(u64, u64)> = missing
                .into_iter()
                .filter(|at| *at <= last)
                .map(|at| (at, at))
                .collect();
            source(last, &gaps, closed)
        });
        [one.clone(), one.clone(), one]
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

        #[test]
        fn somebody_is_never_behind_and_renewal_makes_all_level(sources in sources(), lives in any::<bool>()) {
            let mut world = world(lives.then_some("ring-a-0"), sources.map(Some));
            for _ in 0..8 {
                let found = behind(&world);
                prop_assert!(found.len() < 3, "{found:?}");
                let Some((node, reference)) = found.first() else { break };
                prop_assert!(found.iter().all(|(node, _)| node != reference));
                let whole = world.lives[reference].received.clone();
                world.lives.get_mut(node).expect("it lives").received = whole;
                world.tick();
            }
            prop_assert!(behind(&world).is_empty(), "{:?}", behind(&world));
        }
    }
}
