//! The Dynomite proxy as a state machine without IO.
//!
//! A driver feeds it with what happened (`handle_*`) and does what it wants done
//! ([`Engine::poll_output`]). One request's path:
//!
//! ```text
//!  client bytes                                                                  client bytes
//!      │ handle_session_bytes                                   Output::Send          ▲
//!      ▼                                                                              │
//!  ┌─────────┐ request ┌───────┐ job ┌────────────┐ legs  ┌──────┐ answers ┌─────────┐│
//!  │ session │────────▶│ plan  │────▶│ coordinate │──────▶│ link │────────▶│ verdict ├┘
//!  │ (slots) │         │ rack, │     │ one vote   │       │ peer,│  votes  │ merge,  │
//!  └─────────┘         │ parts │     │ per target │       │ store│         │ slot    │
//!                      └───────┘     └────────────┘       └──────┘         └─────────┘
//! ```
//!
//! * A session (a client, or a peer that connected to us) gets its answers in the order of its
//!   requests, whatever order the racks answer in.
//! * A link (to the store, or to a peer) is a first-in-first-out pipe. A request that times out
//!   leaves a gap in it that its late answer fills, so that nobody else notices.
//! * Time, wall clock included, is an argument; nothing here sleeps, reads a clock or rolls dice.

mod admin;
mod command;
mod coordinate;
mod counters;
mod cut;
mod engine;
pub mod error_text;
mod hold;
mod intake;
mod job;
pub mod limits;
mod link;
mod link_events;
mod now;
mod numbers;
mod output;
mod own;
mod plan;
mod protection;
mod resp3;
mod rewrite;
mod run_state;
mod seeds;
mod session;
mod verdict;

pub use admin::{LinkReport, Report, UnknownPeer};
pub use counters::{Counters, Histogram, StoreRequests};
pub use cut::{Committed, Cut, CutId, CutRefused, NotCaptured};
pub use engine::{Engine, Refused, SessionKind, Settings};
pub use link::LinkCounters;
pub use now::Now;
pub use output::{Attempt, Conn, LinkId, Output, SessionId};
pub use run_state::RunState;

#[cfg(test)]
mod tests;
