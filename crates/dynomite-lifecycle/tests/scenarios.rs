//! Scenarios of one node's life, each told by what the world then looks like.

mod world;

use dynomite_api::contract::{
    Awaiting, Distrust, EngineState, NodePhase, ProofKind, StoreRole, WarmUpStage,
};
use dynomite_lifecycle::{Event, ProcessEvent, ProcessName, reason};
use world::{World, accept_local, bootstrap, desired, one_rack};

fn kind(world: &World) -> ProofKind {
    world.outline().proof.kind
}

#[test]
fn a_ring_that_never_served_begins_by_a_grant_and_waits_for_the_word() {
    let mut world = World::unborn({
        let mut desired = desired();
        desired.grant = Some(bootstrap());
        desired.serve = false;
        desired
    });
    world.until("held", |world| world.phase() == NodePhase::Held);
    assert_eq!(world.outline().awaiting, Some(Awaiting::Serve));
    assert_eq!(kind(&world), ProofKind::Bootstrap);
    assert!(!world.life.is_ready());
    assert!(world.exposed);
    world.desire(|desired| desired.serve = true);
    assert!(!world.life.is_ready(), "the disk must know first");
    world.until_ready();
    assert_eq!(world.record.used, [bootstrap()]);
}

#[test]
fn without_a_grant_and_without_donors_it_waits_and_says_what_helps() {
    let mut world = World::unborn({
        let mut desired = desired();
        desired.donors.clear();
        desired
    });
    world.steps(100);
    let outline = world.outline();
    assert_eq!(outline.phase, NodePhase::Starting);
    assert_eq!(outline.awaiting, Some(Awaiting::DonorOrGrant));
    assert_eq!(outline.reason, reason::AWAITING_DONOR);
    assert!(outline.message.contains("accept the loss"), "{outline:?}");
    assert!(!world.exposed);
}

#[test]
fn a_grant_for_another_pod_opens_nothing() {
    let mut world = World::unborn({
        let mut desired = desired();
        desired.donors.clear();
        desired.grant = Some(dynomite_api::contract::Grant::Bootstrap {
            pod_uid: "pod-0".to_owned(),
        });
        desired
    });
    world.steps(100);
    assert_eq!(kind(&world), ProofKind::Unproven);
}

#[test]
fn a_bootstrap_is_refused_where_there_is_data() {
    let mut world = World::unborn({
        let mut desired = desired();
        desired.donors.clear();
        desired.grant = Some(bootstrap());
        desired
    });
    if let Some(store) = &mut world.store {
        store.has.insert(0);
    }
    world.steps(40);
    let outline = world.outline();
    assert_eq!(outline.reason, reason::BOOTSTRAP_NOT_EMPTY);
    assert_eq!(outline.awaiting, Some(Awaiting::DonorOrGrant));
    assert_eq!(outline.phase, NodePhase::Failed);
    world.desire(|desired| desired.grant = Some(accept_local()));
    world.steps(40);
    assert_eq!(kind(&world), ProofKind::AcceptedLocal);
}

#[test]
fn a_newcomer_copies_a_donor_and_loses_no_write() {
    let mut world = World::new(desired());
    world.until("a copy", |world| {
        world
            .outline()
            .warm_up
            .is_some_and(|copy| copy.stage == WarmUpStage::Copying)
    });
    assert_eq!(
        world.outline().warm_up.map(|copy| copy.donor),
        Some("b".to_owned())
    );
    let state = world.engine.as_ref().map(|engine| engine.state);
    assert_eq!(state, Some(EngineState::Standby), "while it copies");
    world.until("a cut", |world| {
        world
            .outline()
            .warm_up
            .is_some_and(|copy| copy.stage == WarmUpStage::Cutting)
    });
    world.until_ready();
    assert_eq!(kind(&world), ProofKind::WarmUp);
    assert_eq!(world.outline().proof.kind, ProofKind::WarmUp);
    assert!(world.is_whole());
    let role = world.store.as_ref().map(|store| store.role);
    assert_eq!(role, Some(StoreRole::Primary));
}

#[test]
fn a_store_that_is_killed_is_out_at_once_and_comes_back_warm() {
    let mut world = World::new(desired());
    world.until_ready();
    world.kill(ProcessName::Store);
    assert!(!world.life.is_ready(), "at once");
    assert!(!world.exposed);
    assert!(!world.life.donates());
    assert!(world.store.is_some(), "restarted at once");
    world.steps(2);
    assert_eq!(kind(&world), ProofKind::Unproven);
    world.until_ready();
    assert_eq!(kind(&world), ProofKind::WarmUp);
}

#[test]
fn a_bootstrapped_store_that_is_killed_never_begins_empty_again() {
    let mut world = World::unborn({
        let mut desired = desired();
        desired.grant = Some(bootstrap());
        desired
    });
    world.until_ready();
    world.steps(10);
    world.kill(ProcessName::Store);
    world.steps(3);
    assert_ne!(kind(&world), ProofKind::Bootstrap);
    world.until_ready();
    assert_eq!(kind(&world), ProofKind::WarmUp, "the grant is used up");
}

#[test]
fn a_permission_to_begin_empty_that_comes_back_opens_nothing() {
    let mut world = World::unborn({
        let mut desired = desired();
        desired.grant = Some(bootstrap());
        desired.serve = false;
        desired
    });
    world.until("held", |world| world.phase() == NodePhase::Held);
    world.desire(|desired| desired.grant = None);
    world.desire(|desired| desired.serve = true);
    world.until_ready();
    // An operator whose view is older than that takes the word back.
    world.desire(|desired| {
        desired.grant = Some(bootstrap());
        desired.serve = false;
    });
    world.kill(ProcessName::Store);
    world.until("whole", |world| kind(world) != ProofKind::Unproven);
    assert_eq!(kind(&world), ProofKind::WarmUp);
}

#[test]
fn before_the_ring_serves_a_bootstrap_can_be_used_again() {
    let mut world = World::unborn({
        let mut desired = desired();
        desired.grant = Some(bootstrap());
        desired.serve = false;
        desired.donors.clear();
        desired
    });
    world.until("held", |world| world.phase() == NodePhase::Held);
    world.kill(ProcessName::Store);
    world.until("held again", |world| world.phase() == NodePhase::Held);
    world.kill(ProcessName::Engine);
    world.until("held once more", |world| world.phase() == NodePhase::Held);
    assert_eq!(kind(&world), ProofKind::Bootstrap);
}

#[test]
fn an_engine_that_is_killed_has_missed_writes() {
    let mut world = World::new(desired());
    world.until_ready();
    world.kill(ProcessName::Engine);
    assert!(!world.life.is_ready());
    assert_eq!(kind(&world), ProofKind::Unproven);
    assert!(!world.exposed, "the next engine begins NORMAL");
    world.until_ready();
    assert_eq!(kind(&world), ProofKind::WarmUp);
}

#[test]
fn in_one_rack_an_engine_that_is_killed_has_missed_nothing() {
    let mut world = World::unborn({
        let mut desired = one_rack();
        desired.grant = Some(bootstrap());
        desired
    });
    world.until_ready();
    world.ring.writes = false;
    world.kill(ProcessName::Engine);
    assert!(!world.life.is_ready());
    world.until_ready();
    assert_eq!(kind(&world), ProofKind::Bootstrap);
    let engine = world
        .engine
        .as_ref()
        .map(|engine| engine.incarnation.clone());
    let recorded = world
        .record
        .proof
        .as_ref()
        .map(|proof| proof.engine.clone());
    assert_eq!(recorded, engine, "so that a new sidecar knows it too");
}

#[test]
fn in_one_rack_a_store_with_files_comes_back_by_a_standing_grant() {
    let mut world = World::unborn({
        let mut desired = one_rack();
        desired.grant = Some(accept_local());
        desired
    });
    world.files = Some([].into());
    world.until_ready();
    world.ring.writes = false;
    world.kill(ProcessName::Store);
    assert!(!world.life.is_ready());
    world.until_ready();
    assert_eq!(kind(&world), ProofKind::AcceptedLocal);
}

#[test]
fn where_others_have_the_data_a_persons_word_counts_once() {
    let mut world = World::new({
        let mut desired = desired();
        desired.grant = Some(accept_local());
        desired
    });
    // A person has accepted that the writes made so far are lost.
    world.ring.writes = false;
    world.files = Some([0].into());
    world.ring = {
        let mut other = World::unborn(desired());
        std::mem::replace(&mut other.ring, World::unborn(desired()).ring)
    };
    world.until_ready();
    assert_eq!(kind(&world), ProofKind::AcceptedLocal);
    world.kill(ProcessName::Store);
    world.until_ready();
    assert_eq!(kind(&world), ProofKind::WarmUp);
    world.desire(|desired| desired.grant = None);
    assert_eq!(world.record.used, [bootstrap()], "it can be given again");
}

#[test]
fn a_donor_that_cannot_be_reached_is_replaced_by_the_next() {
    let mut world = World::new(desired());
    world.until("a donor", |world| world.life.donor().is_some());
    world.send(Event::DonorRefused {
        donor: "b".to_owned(),
        why: "its data is not proven".to_owned(),
    });
    world.until("the next", |world| {
        world.life.donor().is_some_and(|donor| donor.name == "c")
    });
    world.until_ready();
}

#[test]
fn with_no_donor_left_it_says_so_and_goes_on_trying() {
    let mut world = World::new(desired());
    world.ring.reachable = false;
    world.until("all tried", |world| {
        world.outline().awaiting == Some(Awaiting::DonorOrGrant)
    });
    let outline = world.outline();
    assert_eq!(outline.phase, NodePhase::Failed);
    assert_eq!(outline.reason, reason::DONOR_UNAVAILABLE);
    assert!(outline.message.contains("copying c"), "{outline:?}");
    assert!(outline.message.contains("accept the loss"), "{outline:?}");
    world.steps(600);
    assert!(!world.life.is_ready() && !world.exposed);
    world.ring.reachable = true;
    world.until_ready();
}

#[test]
fn a_copy_whose_questions_have_no_answer_is_not_in_sync() {
    for stage in [WarmUpStage::Copying, WarmUpStage::Cutting] {
        let mut world = World::new(desired());
        world.until("the stage", |world| {
            let copy = world.outline().warm_up;
            copy.is_some_and(|copy| copy.stage == stage)
        });
        world.store_slow = true;
        for _ in 0..100 {
            world.steps(1);
            assert!(!world.life.is_ready());
            assert_eq!(kind(&world), ProofKind::Unproven, "{stage:?}");
        }
        world.store_slow = false;
        world.until_ready();
        assert!(world.is_whole());
    }
}

#[test]
fn a_copy_that_stands_still_goes_to_the_next_donor() {
    let mut world = World::new(desired());
    world.until("the first copy", |world| {
        world
            .outline()
            .warm_up
            .is_some_and(|copy| copy.stage == WarmUpStage::Copying)
    });
    // The link is gone and the donor's sidecar says nothing.
    world.ring.reachable = false;
    world.until("it gives up", |world| {
        world.life.donor().is_none_or(|donor| donor.name == "c")
    });
    assert_eq!(world.outline().proof.kind, ProofKind::Unproven);
    world.ring.reachable = true;
    world.until_ready();
}

#[test]
fn a_donor_that_starts_again_during_the_copy_ends_the_attempt() {
    let mut world = World::new(desired());
    until_cut(&mut world);
    world.donor_restarts();
    world.until_ready();
    let changed = |line: &String| line.contains(reason::DONOR_CHANGED);
    assert!(world.log.iter().any(changed));
}

fn until_cut(world: &mut World) {
    world.until("a cut", |world| {
        let copy = world.outline().warm_up;
        copy.is_some_and(|copy| copy.stage == WarmUpStage::Cutting)
            && world
                .engine
                .as_ref()
                .is_some_and(|engine| engine.state == EngineState::WritesOnly)
    });
}

fn copies(world: &World) -> usize {
    let orders = world.log.iter().filter(|line| line.contains("CopyDonor"));
    orders.count()
}

#[test]
fn a_cut_that_takes_too_long_lets_the_writes_go() {
    let mut world = World::new(desired());
    until_cut(&mut world);
    world.link_stands = true;
    let began = world.step;
    world.until("it lets go", |world| {
        let engine = world.engine.as_ref();
        engine.is_some_and(|engine| engine.state == EngineState::Standby) && !world.exposed
    });
    // The engine gives up what it holds after its timeout of 5 s.
    assert!(world.step - began < 60);
    world.link_stands = false;
    world.until_ready();
}

#[test]
fn a_cut_whose_engine_does_not_hold_is_no_cut() {
    let mut world = World::new(desired());
    until_cut(&mut world);
    world.until("between two orders", World::is_idle);
    if let Some(engine) = &mut world.engine {
        engine.state = EngineState::Standby;
    }
    world.steps(1);
    assert!(!world.exposed);
    world.until_ready();
    assert_eq!(copies(&world), 1, "the copy itself is still good");
    let mut world = World::new(desired());
    until_cut(&mut world);
    world.kill(ProcessName::Engine);
    assert!(!world.exposed);
    world.until_ready();
    assert_eq!(copies(&world), 1);
}

/// A ring whose engines number their writes.
fn numbered() -> World {
    let mut world = World::new(desired());
    world.numbered = true;
    world
}

fn ordered(world: &World, order: &str) -> usize {
    let lines = world.log.iter().filter(|line| line.contains(order));
    lines.count()
}

#[test]
fn where_writes_are_numbered_each_is_there_once() {
    // Wherever in the stream's steps the copy begins.
    for delay in 0..12 {
        let mut world = numbered();
        world.probing = false;
        world.kill(ProcessName::Store);
        world.steps(delay);
        world.until_ready();
        assert!(world.is_whole() && world.twice.is_empty(), "{delay}");
        assert_eq!(world.outline().proof.exact, Some(true));
        assert_eq!(world.outline().reason, "");
        let engine = world.engine.as_ref().expect("it runs");
        assert!(
            engine.received.is_past("c", 1),
            "what the donor had is adopted"
        );
    }
}

#[test]
fn where_writes_are_not_numbered_none_is_lost_and_the_node_says_that_it_is_not_exact() {
    let mut world = World::new(desired());
    world.until_ready();
    assert!(world.is_whole());
    assert!(!world.twice.is_empty(), "what was in flight came twice");
    assert_eq!(world.outline().proof.exact, Some(false));
    assert_eq!(world.outline().reason, reason::CUT_NOT_EXACT);
}

#[test]
fn a_donor_that_cannot_number_is_copied_all_the_same() {
    let mut world = numbered();
    world.donor_numbers = false;
    world.until_ready();
    assert!(world.is_whole());
    assert_eq!(world.outline().proof.exact, Some(false));
    assert_eq!(copies(&world), 1, "the copy itself is still good");
}

#[test]
fn a_cut_waits_until_every_coordinator_is_captured() {
    let mut world = numbered();
    world.cut_off = true;
    world.until("it says so", |world| {
        world.outline().reason == reason::CUT_NOT_COVERED
    });
    world.steps(100);
    assert!(!world.life.is_ready());
    assert!(world.outline().message.contains("c is not covered"));
    assert_eq!(copies(&world), 1, "the copy itself is still good");
    let began = world.step;
    world.cut_off = false;
    world.until_ready();
    assert!(world.twice.is_empty());
    assert!(world.step - began < 11_000 / 50, "the pause is bounded");
}

#[test]
fn a_coordinator_that_stays_away_ends_the_attempt() {
    let mut world = numbered();
    world.cut_off = true;
    world.steps(8000);
    assert!(!world.life.is_ready());
    assert!(copies(&world) > 1, "another donor is tried in the end");
}

#[test]
fn a_capture_that_lost_something_is_no_capture() {
    let mut world = numbered();
    world.until("the copy is whole", |world| ordered(world, "Detach") > 0);
    world.capture_void = true;
    world.until("it starts again", |world| {
        world
            .log
            .iter()
            .any(|line| line.contains(reason::CAPTURE_LOST))
    });
    world.capture_void = false;
    world.until_ready();
    assert!(world.twice.is_empty() && copies(&world) > 1);
}

#[test]
fn a_stream_that_breaks_in_the_cut_lets_the_writes_go() {
    let mut world = numbered();
    world.until("the cut", |world| ordered(world, "PauseStream") > 0);
    world.link_stands = true;
    let began = world.step;
    world.until("it lets go", |world| {
        let engine = world.engine.as_ref();
        engine.is_some_and(|engine| engine.state == EngineState::Standby) && !world.exposed
    });
    assert!(world.step - began < 60);
    world.link_stands = false;
    world.until_ready();
    assert!(world.twice.is_empty());
}

#[test]
fn a_pod_with_a_new_address_waits_until_the_others_know_it() {
    let mut world = World::new(desired());
    world.unaware = vec!["d".to_owned()];
    world.until("it waits", |world| {
        world.outline().reason == reason::INTRODUCING
    });
    assert!(world.outline().message.contains('d'));
    world.steps(200);
    assert!(!world.life.is_ready() && !world.exposed);
    world.unaware.clear();
    world.until_ready();
    let mut world = World::new(desired());
    world.unaware = vec!["d".to_owned()];
    world.steps(46 * 20);
    world.until_ready();
    let said = |line: &String| line.contains(reason::NOT_INTRODUCED) && line.contains('d');
    assert!(world.log.iter().any(said), "bounded, and said");
}

#[test]
fn a_stream_that_breaks_off_goes_on_where_it_was() {
    let mut world = numbered();
    world.cut_off = true;
    world.until("followed", |world| ordered(world, "PauseStream") > 0);
    world.ring.reachable = false;
    world.steps(40);
    world.send(Event::DonorRefused {
        donor: "b".to_owned(),
        why: "unreachable".to_owned(),
    });
    world.steps(20);
    world.ring.reachable = true;
    world.cut_off = false;
    world.until_ready();
    assert_eq!(copies(&world), 1);
    let mut world = numbered();
    world.cut_off = true;
    world.until("followed", |world| ordered(world, "PauseStream") > 0);
    world.ring.reachable = false;
    let began = world.step;
    world.until("the next donor", |world| {
        world.life.donor().is_none_or(|donor| donor.name == "c")
    });
    assert!(world.step - began < 20 * 20, "it does not wait for long");
}

#[test]
fn an_engine_that_cannot_be_resumed_in_time_costs_the_proof() {
    let mut world = World::new(desired());
    until_cut(&mut world);
    world.engine_deaf = true;
    // Longer than the engine holds writes.
    world.steps(120);
    world.engine_deaf = false;
    world.until_ready();
    assert!(copies(&world) > 1, "it is copied again");
}

#[test]
fn a_new_sidecar_finds_everything_as_it_was() {
    let mut world = World::new(desired());
    world.until_ready();
    let log = world.log.len();
    world.sidecar_restarts();
    assert!(!world.life.is_ready());
    world.until_ready();
    assert_eq!(kind(&world), ProofKind::WarmUp);
    for line in &world.log[log..] {
        assert!(
            !line.contains("EngineState") && !line.contains("Withdraw") && !line.contains("Start("),
            "a restart of the sidecar must not be felt: {line}"
        );
    }
}

#[test]
fn a_new_sidecar_after_an_engine_that_was_killed_trusts_nothing() {
    let mut world = World::new(desired());
    world.until_ready();
    world.engine = None;
    world.sidecar_restarts();
    assert!(!world.exposed);
    world.steps(3);
    assert_eq!(kind(&world), ProofKind::Unproven);
    world.until_ready();
}

#[test]
fn a_new_sidecar_after_a_store_that_was_killed_trusts_nothing() {
    let mut world = World::new(desired());
    world.until_ready();
    world.store = None;
    world.sidecar_restarts();
    assert!(!world.exposed);
    world.steps(3);
    assert_eq!(kind(&world), ProofKind::Unproven);
    world.until_ready();
}

#[test]
fn a_new_sidecar_in_the_middle_of_a_copy_starts_over() {
    for stage in [
        WarmUpStage::Copying,
        WarmUpStage::Following,
        WarmUpStage::Cutting,
    ] {
        let mut world = World::new(desired());
        world.until("the stage", |world| {
            world
                .outline()
                .warm_up
                .is_some_and(|copy| copy.stage == stage)
        });
        world.sidecar_restarts();
        assert_eq!(kind(&world), ProofKind::Unproven);
        world.until_ready();
        let role = world.store.as_ref().map(|store| store.role);
        assert_eq!(role, Some(StoreRole::Primary));
    }
}

#[test]
fn what_somebody_else_does_to_store_or_engine_breaks_the_proof() {
    let mut world = World::new(desired());
    world.until_ready();
    world.meddled = true;
    if let Some(engine) = &mut world.engine {
        engine.state = EngineState::Standby;
    }
    world.steps(1);
    assert!(!world.life.is_ready());
    assert_eq!(kind(&world), ProofKind::Unproven);
    world.until_ready();
    if let Some(store) = &mut world.store {
        store.role = StoreRole::Replica;
    }
    world.meddled = true;
    world.steps(1);
    assert!(!world.life.is_ready());
    world.until_ready();
    if let Some(store) = &mut world.store {
        store.complaint = Some("MISCONF disk".to_owned());
    }
    world.steps(40);
    assert_eq!(kind(&world), ProofKind::Unproven, "it refused writes");
    assert_eq!(world.outline().reason, reason::STORE_COMPLAINS);
    assert_eq!(world.outline().phase, NodePhase::Failed);
    if let Some(store) = &mut world.store {
        store.complaint = None;
    }
    world.until_ready();
}

#[test]
fn slowness_takes_it_out_but_costs_no_proof() {
    let mut world = World::new(desired());
    world.until_ready();
    world.store_slow = true;
    world.steps(1);
    assert!(world.life.is_ready(), "once is nothing");
    world.steps(1);
    assert!(!world.life.is_ready());
    assert_eq!(world.outline().reason, reason::STORE_UNRESPONSIVE);
    assert_eq!(kind(&world), ProofKind::WarmUp);
    assert!(world.life.donates(), "a copy that has begun goes on");
    assert!(
        world
            .life
            .may_be_copied(world.now(), "cluster-1", dynomite_api::Token(7))
            .is_err()
    );
    world.store_slow = false;
    world.until_ready();
    world.ping_fails = true;
    world.steps(1);
    assert!(!world.life.is_ready(), "a closed door counts at once");
    assert_eq!(world.outline().reason, reason::ENGINE_UNRESPONSIVE);
    world.ping_fails = false;
    world.until_ready();
}

#[test]
fn a_store_nobody_asks_any_more_is_not_healthy() {
    let mut world = World::new(desired());
    world.until_ready();
    world.step += 200;
    world.send(Event::Tick);
    assert!(!world.life.is_ready(), "unknown is unsafe");
}

#[test]
fn it_is_ready_again_only_after_a_probe_saw_that_it_was_not() {
    let mut world = World::new(desired());
    world.until_ready();
    world.probing = false;
    world.ping_fails = true;
    world.steps(1);
    world.ping_fails = false;
    world.steps(20);
    assert!(!world.life.is_ready());
    assert_eq!(world.outline().reason, reason::WITHDRAWAL_UNSEEN);
    world.send(Event::NotReadySeen);
    assert!(world.life.is_ready());
    world.ping_fails = true;
    world.steps(1);
    world.ping_fails = false;
    world.steps(110);
    assert!(world.life.is_ready(), "nobody probes");
}

#[test]
fn a_launcher_that_comes_back_with_the_same_process_costs_no_proof() {
    for name in [ProcessName::Store, ProcessName::Engine] {
        let mut world = World::new(desired());
        world.until_ready();
        world.launcher_goes(name);
        assert!(!world.life.is_ready());
        assert_eq!(world.outline().reason, reason::LAUNCHER_MISSING);
        world.launchers_come();
        world.until_ready();
        let attempts = world.log.iter().filter(|line| line.contains("CopyDonor"));
        assert_eq!(attempts.count(), 1, "{name:?}");
    }
}

#[test]
fn a_container_that_is_replaced_costs_the_proof() {
    for name in [ProcessName::Store, ProcessName::Engine] {
        let mut world = World::new(desired());
        world.until_ready();
        world.container_goes(name);
        assert!(!world.life.is_ready());
        world.launchers_come();
        world.steps(2);
        assert_eq!(kind(&world), ProofKind::Unproven, "{name:?}");
        world.until_ready();
    }
}

#[test]
fn it_leaves_in_order() {
    let mut world = World::new(desired());
    world.until_ready();
    let log = world.log.len();
    world.send(Event::Process(
        ProcessName::Store,
        ProcessEvent::Terminating,
    ));
    world.send(Event::Process(
        ProcessName::Engine,
        ProcessEvent::Terminating,
    ));
    assert!(!world.life.is_ready());
    assert_eq!(world.phase(), NodePhase::Draining);
    assert!(
        world.engine.is_some() && world.exposed,
        "open requests finish"
    );
    world.until("both are gone", |world| {
        world.engine.is_none() && world.store.is_none()
    });
    let order: Vec<&str> = world.log[log..]
        .iter()
        .filter_map(|line| {
            ["Standby", "process: Engine", "Withdraw", "process: Store"]
                .into_iter()
                .find(|word| line.contains(word))
        })
        .collect();
    assert_eq!(
        order,
        ["Standby", "process: Engine", "Withdraw", "process: Store"]
    );
    world.steps(100);
    assert!(world.store.is_none(), "what was stopped stays so");
    assert!(!world.exited);
    world.send(Event::Terminate);
    assert!(world.exited);
}

#[test]
fn it_does_not_wait_for_clients_for_ever() {
    let mut world = World::new(desired());
    world.until_ready();
    world.send(Event::Terminate);
    let began = world.step;
    world.until("it ends", |world| world.exited);
    let took = i64::try_from(world.step - began).expect("short") * world::STEP_MS;
    assert!(took < 8_000, "{took} ms under constant load");
    let mut world = World::new(desired());
    world.until_ready();
    world.ring.writes = false;
    world.send(Event::Terminate);
    let began = world.step;
    world.until("it ends", |world| world.exited);
    let took = i64::try_from(world.step - began).expect("short") * world::STEP_MS;
    assert!(took < 3_000, "{took} ms after the last request");
}

#[test]
fn a_container_that_ends_alone_takes_the_node_down_and_up_again() {
    let mut world = World::new(desired());
    world.until_ready();
    world.send(Event::Process(
        ProcessName::Store,
        ProcessEvent::Terminating,
    ));
    world.until("both are gone", |world| {
        world.engine.is_none() && world.store.is_none()
    });
    world.launcher_goes(ProcessName::Store);
    world.launchers_come();
    world.until_ready();
}

#[test]
fn a_disk_that_is_full_keeps_it_from_being_proven() {
    let mut world = World::new(desired());
    world.disk_full = true;
    world.until("a failure", |world| {
        world.outline().phase == NodePhase::Failed
            || world
                .log
                .iter()
                .any(|line| line.contains(reason::RECORD_FAILED))
    });
    world.steps(40);
    assert!(!world.life.is_ready());
    world.disk_full = false;
    world.until_ready();
}

#[test]
fn settings_change_live_where_the_store_takes_them() {
    let mut world = World::new(desired());
    world.until_ready();
    world.desire(|desired| {
        desired.store.max_memory_bytes = 1 << 30;
        desired
            .store
            .settings
            .insert("hz".to_owned(), "20".to_owned());
        desired
            .store
            .settings
            .insert("databases".to_owned(), "2".to_owned());
        desired.engine.timeout_ms = 3000;
        desired
            .engine
            .settings
            .insert("mbuf_size".to_owned(), "32768".to_owned());
        desired.consistency.read = dynomite_api::contract::ConsistencyLevel::DcQuorum;
    });
    world.steps(20);
    assert!(world.life.is_ready(), "nothing restarts");
    assert_eq!(
        world.life.restart_required(),
        ["dynomite.mbuf_size", "dynomite.timeout", "store.databases"]
    );
    let quorum = world.log.iter().filter(|line| line.contains("DcQuorum"));
    assert_eq!(quorum.count(), 1);
    world.sidecar_restarts();
    world.until_ready();
    world.steps(20);
    let set = world
        .log
        .iter()
        .filter(|line| line.contains("name: \"hz\""));
    assert_eq!(set.count(), 1, "a new sidecar knows what is set");
    world.kill(ProcessName::Store);
    world.kill(ProcessName::Engine);
    world.until_ready();
    assert!(
        world.life.restart_required().is_empty(),
        "they were restarted"
    );
}

#[test]
fn settings_that_cannot_be_rendered_touch_nothing() {
    let mut world = World::new(desired());
    world.until_ready();
    world.send(Event::Rendered(
        Err("store setting \"port\" ...".to_owned()),
    ));
    assert!(world.life.is_ready());
    assert_eq!(world.outline().reason, reason::SETTINGS_INVALID);
    assert!(
        world.life.restart_required().is_empty(),
        "a restart would not help"
    );
    world.kill(ProcessName::Store);
    world.until_ready();
}

/// What the node says of settings that are left out.
fn left_out(world: &World) -> String {
    let findings = world.outline().findings;
    let found = findings
        .iter()
        .find(|f| f.reason == reason::SETTING_REFUSED);
    found.map_or_else(String::new, |finding| finding.message.clone())
}

fn set(world: &mut World, name: &str, value: &str) {
    let (name, value) = (name.to_owned(), value.to_owned());
    world.desire(|desired| {
        desired.store.settings.insert(name, value);
    });
    world.steps(20);
}

#[test]
fn a_setting_that_the_store_refuses_is_told_and_left_out_of_its_file() {
    let mut world = World::new(desired());
    world.until_ready();
    set(&mut world, "hz", "20");
    assert_eq!(left_out(&world), "");
    set(&mut world, "hz", "often");
    set(&mut world, world::TYPO, "allkeys-lru");
    assert!(world.life.is_ready());
    let said = left_out(&world);
    for words in [
        "store.settings hz",
        world::TYPO,
        "does not know it",
        "ERR no hz often",
        "take it out",
    ] {
        assert!(said.contains(words), "{words}: {said}");
    }
    assert!(
        world.life.restart_required().is_empty(),
        "no restart would help"
    );
    assert_eq!(world.file.get("hz").map(String::as_str), Some("20"));
    assert!(!world.file.contains_key(world::TYPO));
    world.kill(ProcessName::Store);
    world.until_ready();
    assert_eq!(left_out(&world), said, "its successor is not asked again");
    world.desire(|desired| {
        desired.store.settings.remove(world::TYPO);
        desired
            .store
            .settings
            .insert("hz".to_owned(), "30".to_owned());
    });
    world.steps(20);
    assert_eq!(left_out(&world), "");
    assert_eq!(world.file.get("hz").map(String::as_str), Some("30"));
}

#[test]
fn a_store_that_dies_of_a_line_of_its_file_starts_without_it() {
    let mut given = desired();
    let settings = [
        (world::TYPO, "allkeys-lru"),
        ("databases", "two"),
        ("hz", "20"),
    ];
    given.store.settings = settings
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
    let mut world = World::new(given);
    world.until_ready();
    let said = left_out(&world);
    for words in [world::TYPO, "databases", "Bad directive"] {
        assert!(said.contains(words), "{words}: {said}");
    }
    assert_eq!(world.file.len(), 1, "{:?}", world.file);
    world.sidecar_restarts();
    world.until_ready();
    world.steps(20);
    assert!(left_out(&world).contains(world::TYPO), "it is found again");
}

#[test]
fn only_a_node_of_the_same_token_may_copy() {
    let mut world = World::new(desired());
    let may = |world: &World, cluster: &str, token| {
        world
            .life
            .may_be_copied(world.now(), cluster, dynomite_api::Token(token))
    };
    assert!(may(&world, "cluster-1", 7).is_err(), "unproven");
    world.until_ready();
    assert_eq!(may(&world, "cluster-1", 7), Ok(()));
    assert!(may(&world, "cluster-1", 8).is_err());
    assert!(may(&world, "cluster-2", 7).is_err());
    world.desire(|desired| desired.serve = false);
    assert!(may(&world, "cluster-1", 7).is_err());
}

#[test]
fn a_cluster_made_again_takes_over_without_a_restart() {
    let mut world = World::new(desired());
    world.until_ready();
    let (log, proof) = (world.log.len(), world.outline().proof);
    world.desire(|desired| desired.cluster.uid = "cluster-2".to_owned());
    for _ in 0..40 {
        world.steps(1);
        assert!(world.life.is_ready());
    }
    assert_eq!(world.outline().proof, proof);
    let touched = |line: &&String| {
        ["Stop", "Standby", "Withdraw"]
            .iter()
            .any(|w| line.contains(w))
    };
    let touched: Vec<&String> = world.log[log..].iter().filter(touched).collect();
    assert!(touched.is_empty(), "{touched:?}");
    let may = |cluster: &str| {
        world
            .life
            .may_be_copied(world.now(), cluster, dynomite_api::Token(7))
    };
    assert_eq!(may("cluster-2"), Ok(()));
    // A peer that has not been told yet waits for its own document, and is told why.
    let why = may("cluster-1").expect_err("it is half-way");
    assert!(why.contains("cluster-2"), "{why}");
}

fn distrust(world: &mut World) {
    let since = world.outline().proof.since.expect("it is proven");
    world.desire(|desired| {
        desired.distrust = Some(Distrust {
            pod_uid: world::POD.to_owned(),
            proof_since: since,
            why: "it lacks 3 writes that c has".to_owned(),
        });
    });
}

#[test]
fn a_proof_that_is_distrusted_is_given_up_in_order() {
    let mut world = numbered();
    world.until_ready();
    let before = world.outline().proof.since;
    let log = world.log.len();
    distrust(&mut world);
    world.until("it leaves", |world| !world.life.is_ready());
    assert_eq!(world.outline().reason, reason::WRITES_MISSED);
    assert!(world.outline().message.contains("lacks 3 writes"));
    let engine = world.engine.as_ref().map(|engine| engine.state);
    assert_eq!(engine, Some(EngineState::Normal), "open requests finish");
    assert!(world.exposed);
    assert!(
        world
            .life
            .may_be_copied(world.now(), "cluster-1", dynomite_api::Token(7))
            .is_err()
    );
    world.until_ready();
    let order: Vec<&str> = world.log[log..]
        .iter()
        .filter_map(|line| {
            let words = [
                "ReadDonor",
                "not ready any more",
                "Standby",
                "Withdraw",
                "CopyDonor",
            ];
            words.into_iter().find(|word| line.contains(word))
        })
        .take(5)
        .collect();
    assert_eq!(
        order,
        [
            "ReadDonor",
            "not ready any more",
            "Standby",
            "Withdraw",
            "ReadDonor"
        ]
    );
    assert!(world.outline().proof.since > before, "another proof");
    assert!(world.is_whole() && world.twice.is_empty());
    let copied = copies(&world);
    world.steps(200);
    assert_eq!(copies(&world), copied, "the word is about the proof before");
}

#[test]
fn a_word_about_another_proof_or_pod_changes_nothing() {
    for (pod, earlier) in [("pod-0", false), (world::POD, true)] {
        let mut world = World::new(desired());
        world.until_ready();
        distrust(&mut world);
        world.desire(|desired| {
            let distrust = desired.distrust.as_mut().expect("set");
            pod.clone_into(&mut distrust.pod_uid);
            if earlier {
                let before = std::time::Duration::from_secs(1);
                distrust.proof_since = distrust.proof_since.saturating_sub(before).expect("a time");
            }
        });
        // The first word was taken back before the node had acted on it.
        world.steps(200);
        assert!(world.life.is_ready());
        assert_eq!(copies(&world), 1);
    }
}

#[test]
fn without_a_donor_a_distrusted_proof_is_kept_and_serves() {
    let mut world = World::new(desired());
    world.until_ready();
    world.ring.reachable = false;
    distrust(&mut world);
    world.steps(400);
    assert!(world.life.is_ready(), "what it has is better than nothing");
    let outline = world.outline();
    assert_eq!(outline.reason, reason::WRITES_MISSED);
    assert!(
        outline.message.contains("connection refused"),
        "{outline:?}"
    );
    assert!(ordered(&world, "ReadDonor") < 60, "with pauses");
    world.desire(|desired| desired.donors.clear());
    world.steps(100);
    assert!(world.life.is_ready());
    world.ring.reachable = true;
    world.desire(|held| held.donors = desired().donors);
    world.until("a new copy", |world| copies(world) > 1);
    world.until_ready();
}

#[test]
fn a_distrusted_node_whose_sidecar_restarts_goes_on_with_it() {
    let mut world = World::new(desired());
    world.until_ready();
    distrust(&mut world);
    world.until("it leaves", |world| !world.life.is_ready());
    world.sidecar_restarts();
    world.until("a new copy", |world| copies(world) > 1);
    world.until_ready();
}

#[test]
fn files_that_cannot_be_loaded_are_kept_and_the_data_is_copied() {
    let mut world = World::new(desired());
    world.files = Some([0].into());
    world.until_ready();
    world.files_spoilt = true;
    world.kill(ProcessName::Store);
    world.until_ready();
    assert_eq!(kind(&world), ProofKind::WarmUp);
    assert_eq!(world.set_aside.len(), 1, "nothing is deleted");
    assert!(world.is_whole());
    let said = |line: &String| line.contains(reason::FILES_SPOILT);
    assert!(world.log.iter().any(said));
    assert!(!world.record.set_aside, "what was copied replaces them");
}

#[test]
fn files_that_cannot_be_moved_keep_the_store_from_starting() {
    let mut world = World::new(desired());
    world.files = Some([0].into());
    world.until_ready();
    world.files_spoilt = true;
    world.set_aside = vec![[].into(), [].into(), [].into()];
    world.kill(ProcessName::Store);
    world.steps(400);
    let outline = world.outline();
    assert_eq!(outline.phase, NodePhase::Failed);
    assert_eq!(outline.reason, reason::FILES_SPOILT);
    assert!(outline.message.contains("3 sets"), "{outline:?}");
    assert!(ordered(&world, "SetAside") < 4, "with pauses");
    world.set_aside.clear();
    world.until_ready();
}

#[test]
fn the_only_copy_is_never_moved_and_a_person_is_told_what_to_do() {
    let alone = [one_rack(), {
        let mut desired = desired();
        desired.donors.clear();
        desired
    }];
    for mut desired in alone {
        desired.grant = Some(accept_local());
        let mut world = World::new(desired);
        world.ring.writes = false;
        world.files_spoilt = true;
        world.kill(ProcessName::Store);
        world.files = Some([0].into());
        world.steps(200);
        let outline = world.outline();
        assert_eq!(outline.phase, NodePhase::Failed);
        assert_eq!(outline.reason, reason::FILES_SPOILT);
        assert!(outline.message.contains("redis-check-aof"), "{outline:?}");
        assert_eq!(ordered(&world, "SetAside"), 0);
        assert_eq!(kind(&world), ProofKind::Unproven);
        // Once they are repaired it goes on by itself.
        world.files_spoilt = false;
        world.until_ready();
        assert_eq!(kind(&world), ProofKind::AcceptedLocal);
    }
}

fn found(world: &World, reason: &str) -> Option<(String, u32)> {
    let findings = world.outline().findings;
    let found = findings.into_iter().find(|found| found.reason == reason)?;
    Some((found.message, found.remedies))
}

/// Two hours in which the node is looked at every ten seconds.
fn hours_pass(world: &mut World) {
    world.ring.writes = false;
    for _ in 0..720 {
        world.step += 199;
        world.steps(1);
    }
}

#[test]
fn a_store_that_hangs_is_restarted_where_a_replica_can_be_copied() {
    let mut world = World::new(desired());
    world.until_ready();
    assert_eq!(world.outline().findings, []);
    world.store_slow = true;
    world.steps(100);
    assert_eq!(found(&world, reason::STORE_HANGS), None, "not yet");
    world.steps(200);
    assert_eq!(
        found(&world, reason::STORE_HANGS).map(|found| found.1),
        Some(0)
    );
    let before = world.store.as_ref().map(|store| store.run_id.clone());
    world.until("a restart", |world| {
        world.store.as_ref().map(|store| store.run_id.clone()) != before
    });
    world.store_slow = false;
    world.until_ready();
    assert_eq!(kind(&world), ProofKind::WarmUp);
    assert_eq!(found(&world, reason::STORE_HANGS), None);
}

#[test]
fn a_store_that_hangs_for_ever_is_left_to_a_person_in_the_end() {
    let mut world = World::new(desired());
    world.until_ready();
    world.store_slow = true;
    world.probing = false;
    // Longer than all the pauses between the restarts.
    hours_pass(&mut world);
    let (message, remedies) = found(&world, reason::STORE_HANGS).expect("it hangs");
    assert_eq!(remedies, 5);
    assert!(message.contains("look at its log"), "{message}");
    assert_eq!(ordered(&world, "is restarted"), 5);
}

#[test]
fn the_only_copy_is_not_restarted_for_hanging() {
    let mut world = World::unborn({
        let mut desired = one_rack();
        desired.grant = Some(bootstrap());
        desired
    });
    world.until_ready();
    world.ring.writes = false;
    world.store_slow = true;
    hours_pass(&mut world);
    let (message, remedies) = found(&world, reason::STORE_HANGS).expect("it hangs");
    assert!(message.contains("only copy"), "{message}");
    assert_eq!(remedies, 0);
    world.store_slow = false;
    world.until_ready();
    assert_eq!(kind(&world), ProofKind::Bootstrap);
}

#[test]
fn what_the_store_complains_of_has_a_name_and_a_remedy() {
    for (complaint, reason, remedy) in [
        ("OOM command not allowed", reason::STORE_FULL, "more memory"),
        (
            "MISCONF Errors writing to the AOF file",
            reason::STORE_CANNOT_SAVE,
            "volume",
        ),
        (
            "NOAUTH Authentication required",
            reason::STORE_COMPLAINS,
            "log",
        ),
    ] {
        let mut world = World::new(desired());
        world.until_ready();
        if let Some(store) = &mut world.store {
            store.complaint = Some(complaint.to_owned());
        }
        world.steps(2);
        let (message, _) = found(&world, reason).expect("it is found");
        assert!(
            message.contains(remedy) && message.contains(complaint),
            "{message}"
        );
        if let Some(store) = &mut world.store {
            store.complaint = None;
        }
        world.steps(1);
        world.until_ready();
        assert_eq!(found(&world, reason), None);
    }
}

#[test]
fn donors_that_fail_are_a_finding_until_one_does_not() {
    let mut world = World::new(desired());
    world.ring.reachable = false;
    world.steps(200);
    let (message, _) = found(&world, reason::WARM_UP_FAILS).expect("it is found");
    assert!(message.contains("attempts failed"), "{message}");
    world.ring.reachable = true;
    world.until_ready();
    assert_eq!(world.outline().findings, []);
}
