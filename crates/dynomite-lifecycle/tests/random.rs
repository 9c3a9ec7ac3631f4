//! Random histories: whatever happens in whatever order, nothing unproven serves, and afterwards the node comes back.

mod world;

use dynomite_api::contract::{Distrust, EngineState, StoreRole};
use dynomite_lifecycle::{Event, ProcessEvent, ProcessName, Word};
use proptest::prelude::*;
use world::{World, bootstrap, desired};

/// Something that happens to the pod.
#[derive(Clone, Copy, Debug)]
enum Happening {
    Time(u64),
    Kill(Who),
    ContainerGoes(Who),
    LauncherGoes(Who),
    LaunchersCome,
    SidecarRestarts,
    DonorReachable(bool),
    DonorRestarts,
    DonorRefuses,
    CoordinatorCutOff(bool),
    CaptureVoid(bool),
    Unaware(bool),
    EngineStateMeddled,
    StoreRoleMeddled,
    Slow(bool, bool),
    Complaint(bool),
    DiskFull(bool),
    Serve(bool),
    NoGrant,
    Donors(bool),
    Distrust,
    /// Held with the whole ring, or by itself; with the store or without.
    Hold(bool, bool),
    LetGo,
    Told(Word),
    FilesSpoilt,
    Terminating(Who),
}

#[derive(Clone, Copy, Debug)]
enum Who {
    Store,
    Engine,
}

impl From<Who> for ProcessName {
    fn from(who: Who) -> Self {
        match who {
            Who::Store => Self::Store,
            Who::Engine => Self::Engine,
        }
    }
}

fn who() -> impl Strategy<Value = Who> {
    prop_oneof![Just(Who::Store), Just(Who::Engine)]
}

fn word() -> impl Strategy<Value = Word> {
    prop_oneof![
        Just(Word::StopEngine),
        Just(Word::StartEngine),
        Just(Word::StopStore),
        Just(Word::StartStore),
    ]
}

fn happening() -> impl Strategy<Value = Happening> {
    use Happening as H;
    prop_oneof![
        8 => (1..60_u64).prop_map(H::Time),
        3 => who().prop_map(H::Kill),
        1 => who().prop_map(H::ContainerGoes),
        1 => who().prop_map(H::LauncherGoes),
        2 => Just(H::LaunchersCome),
        2 => Just(H::SidecarRestarts),
        2 => any::<bool>().prop_map(H::DonorReachable),
        1 => Just(H::DonorRestarts),
        1 => Just(H::DonorRefuses),
        1 => any::<bool>().prop_map(H::CoordinatorCutOff),
        1 => any::<bool>().prop_map(H::CaptureVoid),
        1 => any::<bool>().prop_map(H::Unaware),
        1 => Just(H::EngineStateMeddled),
        1 => Just(H::StoreRoleMeddled),
        1 => any::<(bool, bool)>().prop_map(|(store, engine)| H::Slow(store, engine)),
        1 => any::<bool>().prop_map(H::Complaint),
        1 => any::<bool>().prop_map(H::DiskFull),
        1 => any::<bool>().prop_map(H::Serve),
        1 => Just(H::NoGrant),
        1 => any::<bool>().prop_map(H::Donors),
        1 => Just(H::Distrust),
        1 => any::<(bool, bool)>().prop_map(|(ring, store)| H::Hold(ring, store)),
        2 => Just(H::LetGo),
        1 => word().prop_map(H::Told),
        1 => Just(H::FilesSpoilt),
        1 => who().prop_map(H::Terminating),
    ]
}

fn happen(world: &mut World, happening: Happening) {
    match happening {
        Happening::Time(steps) => world.steps(steps),
        Happening::Kill(who) => world.kill(who.into()),
        Happening::ContainerGoes(who) => world.container_goes(who.into()),
        Happening::LauncherGoes(who) => world.launcher_goes(who.into()),
        Happening::LaunchersCome => world.launchers_come(),
        Happening::SidecarRestarts => world.sidecar_restarts(),
        Happening::DonorReachable(reachable) => world.ring.reachable = reachable,
        Happening::DonorRestarts => world.donor_restarts(),
        Happening::DonorRefuses => {
            if let Some(donor) = world.life.donor().map(|donor| donor.name.clone()) {
                let why = "not proven".to_owned();
                world.send(Event::DonorRefused { donor, why });
            }
        }
        Happening::CoordinatorCutOff(off) => world.cut_off = off && world.numbered,
        Happening::CaptureVoid(void) => world.capture_void = void,
        Happening::Unaware(some) => {
            world.unaware = if some {
                vec!["d".to_owned()]
            } else {
                Vec::new()
            };
        }
        Happening::EngineStateMeddled => {
            // An order under way would hide it: nobody can see what was
            // changed and changed back between two looks.
            let idle = world.is_idle();
            if let Some(engine) = world.engine.as_mut().filter(|_| idle) {
                engine.state = EngineState::Standby;
                world.meddled = true;
                world.was_meddled = true;
            }
        }
        Happening::StoreRoleMeddled => {
            if let Some(store) = &mut world.store {
                store.role = StoreRole::Replica;
                world.meddled = true;
                world.was_meddled = true;
            }
        }
        Happening::Slow(store, engine) => {
            world.store_slow = store;
            world.engine_slow = engine;
        }
        Happening::Complaint(complains) => {
            if let Some(store) = &mut world.store {
                store.complaint = complains.then(|| "MISCONF disk".to_owned());
            }
        }
        Happening::DiskFull(full) => world.disk_full = full,
        Happening::Serve(serve) => world.desire(|desired| desired.serve = serve),
        Happening::NoGrant => world.desire(|desired| desired.grant = None),
        Happening::Donors(some) => world.desire(|held| {
            held.donors = if some { desired().donors } else { Vec::new() };
        }),
        Happening::Distrust => {
            if let Some(since) = world.outline().proof.since {
                world.desire(|desired| {
                    desired.distrust = Some(Distrust {
                        pod_uid: world::POD.to_owned(),
                        proof_since: since,
                        why: "it lacks writes".to_owned(),
                    });
                });
            }
        }
        Happening::Hold(ring, store) => world.hold(ring, store),
        Happening::LetGo => world.desire(|desired| desired.hold = None),
        Happening::Told(what) => world.tell(what),
        Happening::FilesSpoilt => world.files_spoilt = world.files.is_some(),
        Happening::Terminating(who) => {
            // Kubelet takes the container away once its launcher has ended.
            world.send(Event::Process(who.into(), ProcessEvent::Terminating));
            world.steps(200);
            world.container_goes(who.into());
        }
    }
}

/// Everything that could be in the node's way is taken out of it.
fn heal(world: &mut World) {
    world.ring.reachable = true;
    world.store_slow = false;
    world.engine_slow = false;
    world.disk_full = false;
    world.cut_off = false;
    world.set_aside.clear();
    world.capture_void = false;
    world.unaware.clear();
    if let Some(store) = &mut world.store {
        store.complaint = None;
    }
    world.launchers_come();
    world.tell(Word::StartEngine);
    world.tell(Word::StartStore);
    world.desire(|held| {
        held.hold = None;
        held.serve = true;
        held.donors = desired().donors;
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, failure_persistence: None, ..ProptestConfig::default() })]

    /// The world checks after every event that a ready node has all the data,
    /// that nothing reads from a store that has not, and that every wait has a
    /// reason.
    #[test]
    fn a_node_of_a_ring_that_serves(
        persistent in any::<bool>(),
        numbered in any::<bool>(),
        history in prop::collection::vec(happening(), 1..40),
    ) {
        let mut world = World::new(desired());
        world.files = persistent.then(Default::default);
        world.numbered = numbered;
        for happening in history {
            happen(&mut world, happening);
        }
        heal(&mut world);
        world.until_ready();
        if numbered && !world.was_meddled {
            prop_assert!(world.twice.is_empty(), "{:?} {:#?}", world.twice, world.log);
        }
    }

    #[test]
    fn a_node_of_a_ring_that_is_born(
        serve in any::<bool>(),
        history in prop::collection::vec(happening(), 1..40),
    ) {
        let mut world = World::unborn({
            let mut desired = desired();
            desired.grant = Some(bootstrap());
            desired.serve = serve;
            desired
        });
        for happening in history {
            happen(&mut world, happening);
        }
        heal(&mut world);
        world.until_ready();
    }
}
