//! Restores of some tokens: their nodes exchange their data, and all others serve on as if nothing were.

use dynomite_api::Token;

use super::*;

/// A ring of two tokens, of which the second is to be restored.
fn some(racks: usize, by_node: bool) -> World {
    let mut world = asked(racks, 2);
    let token = world.lives["ring-a-1"]
        .desired
        .as_ref()
        .expect("it has one")
        .node
        .token;
    let restore = world.observed.restores.get_mut(NAME).expect("it is there");
    if by_node {
        restore.spec.nodes = vec!["ring-a-1".to_owned()];
    } else {
        restore.spec.tokens = vec![token];
    }
    world
}

fn is_meant(node: &str) -> bool {
    node.ends_with("-1")
}

/// Passes until the restore has ended; all that is not meant serves its own data all the time.
fn to_the_end(world: &mut World) -> Vec<RestorePhase> {
    let mut seen = vec![phase(world)];
    for _ in 0..120 {
        world.pass();
        let (mut seen_data, mut others) = (BTreeSet::new(), 0);
        for (name, life) in &world.lives {
            let desired = life.desired.as_ref().expect("it has one");
            let serves = life.proof.is_some() && desired.serve && desired.hold.is_none();
            if is_meant(name) {
                seen_data.extend(serves.then_some(life.data.as_str()));
                continue;
            }
            assert!(
                serves && desired.distrust.is_none(),
                "{name} serves on: {desired:?}"
            );
            assert!(
                desired.restore.is_none() && life.data == "old",
                "{name} is told nothing"
            );
            others += 1;
        }
        assert!(
            others > 0 && seen_data.len() <= 1 && !seen_data.contains("half"),
            "{seen_data:?}"
        );
        if seen.last() != Some(&phase(world)) {
            seen.push(phase(world));
        }
        if phase(world).is_final() {
            world.settle();
            return seen;
        }
    }
    panic!("never at the end: {:?} {}", phase(world), message(world));
}

fn holds(world: &World, meant: &str) {
    for (name, life) in &world.lives {
        let expected = if is_meant(name) { meant } else { "old" };
        assert_eq!(life.data, expected, "{name}: {}", message(world));
    }
}

#[test]
fn the_nodes_of_one_token_get_it_back_in_all_racks_and_no_other() {
    for (racks, by_node) in [(3, false), (3, true), (1, false)] {
        let mut world = some(racks, by_node);
        let seen = to_the_end(&mut world);
        assert_eq!(
            seen.last(),
            Some(&RestorePhase::Completed),
            "{}",
            message(&world)
        );
        assert!(seen.contains(&RestorePhase::Holding), "{seen:?}");
        holds(&world, "new");
        let status = world.observed.restores[NAME]
            .status
            .clone()
            .expect("it has one");
        assert_eq!(status.progress, "1/1");
        assert!(
            status.nodes.iter().all(|known| is_meant(&known.node)),
            "{:?}",
            status.nodes
        );
    }
}

#[test]
fn a_load_that_fails_takes_only_them_back() {
    for racks in [3, 1] {
        let mut world = some(racks, false);
        world.storage.failing_loads.insert("ring-a-1".to_owned());
        let seen = to_the_end(&mut world);
        assert_eq!(
            seen.last(),
            Some(&RestorePhase::RolledBack),
            "{}",
            message(&world)
        );
        holds(&world, "old");
    }
}

#[test]
fn a_silent_node_of_another_token_holds_nothing_up() {
    let mut world = some(3, false);
    until(&mut world, RestorePhase::Staging);
    world.mute.push("ring-c-0".to_owned());
    for _ in 0..120 {
        world.pass();
    }
    assert_eq!(
        phase(&world),
        RestorePhase::Completed,
        "{}",
        message(&world)
    );
    holds(&world, "new");
}

#[test]
fn what_the_ring_does_not_have_is_refused_by_name() {
    let tables: [(&[Token], &[&str], &str, &str); 2] = [
        (&[Token(7)], &[], "DoesNotFit", "no token 7"),
        (
            &[],
            &["ring-z-9"],
            "NoSuchNode",
            "spec.nodes names \"ring-z-9\"",
        ),
    ];
    for (tokens, nodes, reason, words) in tables {
        let mut world = asked(3, 2);
        let restore = world.observed.restores.get_mut(NAME).expect("it is there");
        restore.spec.tokens = tokens.to_vec();
        restore.spec.nodes = nodes.iter().map(|node| (*node).to_owned()).collect();
        until(&mut world, RestorePhase::Failed);
        let message = message(&world);
        assert!(
            message.starts_with(reason) && message.contains(words),
            "{message}"
        );
        assert_eq!(data(&world), only("old"));
    }
}
