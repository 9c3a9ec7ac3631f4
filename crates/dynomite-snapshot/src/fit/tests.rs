use super::*;
use crate::manifest::tests::manifest;
use dynomite_protocol::hash::HashTag;

const HALF: u32 = 1 << 31;

fn wish(tokens: &[u32]) -> Wish {
    Wish {
        tokens: tokens.iter().copied().map(Token).collect(),
        placement: Placement::default(),
        reads: Version::Redis(10),
        only: BTreeSet::new(),
        memory: Room::Bytes(10_000_000),
        disk: Room::Bytes(10_000_000),
        key_ids: BTreeSet::from(["2026".to_owned()]),
    }
}

fn objects(load: &Load) -> Vec<&str> {
    let parts = load.parts.iter();
    parts.map(|part| part.object.as_str()).collect()
}

#[test]
fn same_tokens_load_their_snapshot_as_it_is() {
    let plan = fits(&manifest(&[5, HALF]), &wish(&[HALF, 5])).expect("fits");
    assert_eq!(plan.nodes.len(), 2);
    for (node, object) in plan
        .nodes
        .iter()
        .zip(["5-0.rdb.zst.enc", "2147483648-0.rdb.zst.enc"])
    {
        assert_eq!(objects(node), [object]);
        assert_eq!(node.keep, None);
        assert_eq!(
            (node.download, node.raw, node.memory),
            (400_000, 1_000_000, 2_000_000)
        );
    }
}

#[test]
fn one_node_loads_alone() {
    let mut wish = wish(&[5, HALF]);
    wish.only = BTreeSet::from([Token(5)]);
    let plan = fits(&manifest(&[5, HALF]), &wish).expect("fits");
    assert_eq!(plan.nodes.len(), 1);
    assert_eq!(plan.nodes[0].token, Token(5));
    wish.only = BTreeSet::from([Token(6)]);
    let misfits = fits(&manifest(&[5, HALF]), &wish);
    assert_eq!(misfits, Err(vec![Misfit::Token(Token(6))]));
}

#[test]
fn another_number_of_nodes_shares_the_snapshots() {
    // Owned by 0: all above HALF; by HALF: 1 to HALF. A third node at a quarter takes half of
    // the latter.
    let plan = fits(&manifest(&[0, HALF]), &wish(&[0, HALF / 2, HALF])).expect("fits");
    assert_eq!(objects(&plan.nodes[0]), ["0-0.rdb.zst.enc"]);
    assert_eq!(objects(&plan.nodes[1]), ["2147483648-0.rdb.zst.enc"]);
    assert_eq!(plan.nodes[1].raw, 500_000);
    assert_eq!(plan.nodes[2].memory, 1_000_000);
    assert!(plan.nodes.iter().all(|node| node.keep.is_some()));
    // Fewer nodes: all snapshots for the one.
    let plan = fits(&manifest(&[0, HALF]), &wish(&[77])).expect("fits");
    assert_eq!(objects(&plan.nodes[0]).len(), 2);
    assert_eq!(plan.nodes[0].memory, 4_000_000);
}

#[test]
fn everything_against_it_comes_at_once() {
    let mut manifest = manifest(&[0, HALF]);
    manifest.snapshots[1].rdb = Version::Redis(11);
    manifest.ring.hash_tag = Some("{}".to_owned());
    let mut wish = wish(&[0, HALF]);
    wish.memory = Room::Bytes(1_999_999);
    wish.disk = Room::Unknown("the node does not answer".to_owned());
    wish.key_ids.clear();
    let misfits = fits(&manifest, &wish).expect_err("much is against it");
    let texts: Vec<String> = misfits.iter().map(ToString::to_string).collect();
    assert_eq!(texts.len(), 6, "{texts:#?}");
    for text in [
        "the same hash and hashTag",
        "`2026` is missing",
        "REDIS0011, and the ring's store reads up to REDIS0010",
        "token 0 needs about 2000000 bytes of memory and has 1999999",
        "token 2147483648 needs about 2000000",
        "how much disk the nodes have (the node does not answer)",
    ] {
        assert!(texts.iter().any(|found| found.contains(text)), "{text}");
    }
    let tag = HashTag {
        open: b'{',
        close: b'}',
    };
    wish.placement.hash_tag = Some(tag);
    assert_eq!(fits(&manifest, &wish).expect_err("less").len(), 5);
}

#[test]
fn snapshots_of_different_stores_can_be_loaded_but_not_put_together() {
    let mut manifest = manifest(&[0, HALF]);
    manifest.snapshots[0].rdb = Version::Valkey(80);
    manifest.snapshots[1].rdb = Version::Redis(12);
    let mut wish = wish(&[77]);
    wish.reads = Version::Valkey(80);
    let misfits = fits(&manifest, &wish).expect_err("mixed");
    assert!(
        misfits
            .iter()
            .any(|found| matches!(found, Misfit::Mixed { .. }))
    );
    manifest.snapshots[1].rdb = Version::Redis(11);
    let plan = fits(&manifest, &wish).expect("fits");
    // The newest first, because its header covers the rest.
    assert_eq!(objects(&plan.nodes[0])[0], "0-0.rdb.zst.enc");
}

fn file(token: Option<u32>) -> File {
    File {
        object: format!("dump-{token:?}.rdb"),
        token: token.map(Token),
        bytes: 1000,
        rdb: Version::Redis(9),
        memory_bytes: None,
        unreachable: 3,
    }
}

#[test]
fn file_of_any_store_is_shared_out() {
    let plan = fits_files(&[file(None)], &wish(&[0, HALF])).expect("fits");
    assert_eq!(plan.unreachable, 3);
    for node in &plan.nodes {
        assert_eq!((node.parts[0].owned.clone(), node.raw), (None, 500));
        assert!(node.keep.is_some());
    }
    // Even one node filters it: its keys may lie in any order, but none is anybody else's.
    // Those of several stores, each of which has keys of every token.
    let plan = fits_files(&[file(None), file(None)], &wish(&[0, HALF])).expect("fits");
    assert!(
        plan.nodes
            .iter()
            .all(|node| node.parts.len() == 2 && node.raw == 1000)
    );
    assert!(fits_files(&[file(None), file(Some(1))], &wish(&[0])).is_err());
    assert!(fits_files(&[file(Some(1)), file(Some(1))], &wish(&[0])).is_err());
    assert!(fits_files(&[], &wish(&[0])).is_err());
    assert!(fits_files(&[file(None)], &wish(&[])).is_err());
}

#[test]
fn files_of_the_old_manager_are_loaded_as_they_are() {
    let files = [file(Some(0)), file(Some(HALF))];
    let plan = fits_files(&files, &wish(&[0, HALF])).expect("fits");
    assert!(plan.nodes.iter().all(|node| node.keep.is_none()));
    let plan = fits_files(&files, &wish(&[0, HALF / 2, HALF])).expect("fits");
    assert_eq!(objects(&plan.nodes[1]), [files[1].object.as_str()]);
}
