//! Many rings at once: what an operator that starts asks, computes and holds for them.

use std::time::Duration;

use dynomite_operator::leadership::Leadership;
use serde_json::json;
use tokio::time::sleep;

use super::server::Server;
use super::{ROUNDS_MAX, look_at, named, operator, show};

/// Rings, and with `DYNOMITE_TEST_LONG` as many as an operator is made for.
const RINGS: usize = 60;
const RINGS_LONG: usize = 1000;
/// What an operator asks for one ring at its start: its three Secrets.
const CALLS: usize = 3;
/// Processor time for the first look at one ring, without optimisation.
const LOOK: Duration = Duration::from_millis(100);
/// Memory for one ring, and for what other tests of this process do meanwhile, bytes.
const HELD: usize = 256 << 10;
const OTHERS: usize = 64 << 20;

/// The processor time this thread has had.
fn spent() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("can be read");
    let nanoseconds = text.split(' ').next().and_then(|word| word.parse().ok());
    Duration::from_nanos(nanoseconds.expect("a number"))
}

/// The memory of this process, bytes.
fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").expect("can be read");
    let pages = text
        .split(' ')
        .nth(1)
        .and_then(|word| word.parse::<usize>().ok());
    pages.expect("a number") * 4096
}

#[tokio::test(start_paused = true)]
async fn an_operator_that_starts_among_many_rings_is_ready_in_bounded_time_and_memory() {
    let long = std::env::var_os("DYNOMITE_TEST_LONG").is_some();
    let rings = if long { RINGS_LONG } else { RINGS };
    let server = Server::default();
    let names: Vec<String> = (0..rings).map(|ring| format!("ring-{ring}")).collect();
    for name in &names {
        let mut cluster = named(name, &["dc1-a", "dc1-b", "dc1-c"]);
        cluster["spec"]["nodesPerRack"] = json!(1);
        server.put("dynomiteclusters", cluster);
    }
    let first = operator(&server, Leadership::unlimited());
    let mut before = usize::MAX;
    for _ in 0..ROUNDS_MAX {
        if server.writes() == before {
            break;
        }
        before = server.writes();
        sleep(Duration::from_millis(1500)).await;
        show(&server, &first);
        for name in &names {
            look_at(&first, name).await.expect("a look");
        }
    }
    assert_eq!(server.writes(), before, "it settles");

    let (calls, memory, begun) = (server.calls(), resident(), spent());
    let next = operator(&server, Leadership::unlimited());
    show(&server, &next);
    for name in &names {
        look_at(&next, name).await.expect("a look");
    }
    let (asked, took) = (server.calls() - calls, spent().saturating_sub(begun));
    let held = resident().saturating_sub(memory);
    println!("{rings} rings: {asked} calls, {took:?} of processor time, {held} bytes more");
    drop(first);
    assert_eq!(server.writes(), before, "all is as it should be");
    assert_eq!(asked, CALLS * rings);
    let looks = u32::try_from(rings).expect("few");
    assert!(took < LOOK * looks, "{took:?}");
    assert!(held < HELD * rings + OTHERS, "{held} bytes");
}
