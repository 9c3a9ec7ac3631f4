//! The simulated world: the real planner and real lifecycles around made-up Kubernetes, stores, engines and clients.
//!
//! ```text
//!              observe (late, shuffled, some unknown)        plan, act one by one, die
//!   Server <------------------------------------- Operator -------------------> Server, Nodes
//!     ^  StatefulSet controller, scheduler, kubelet                                |
//!     +------------------------------------------ Node: Lifecycle, store, engine <-+
//!                                                   ^
//!                              clients' writes -----+      Oracle: what must hold after each step
//! ```
//!
//! Time is virtual and chance comes from a seed: a run that failed is run again
//! by its seed, to the same end.

mod clients;
pub mod kubernetes;
pub mod network;
pub mod node;
pub mod numbers;
pub mod operator;
pub mod oracle;
pub mod processes;
pub mod random;
pub mod scenario;
pub mod server;
pub mod settled;
pub mod world;
pub mod writes;
