//! The operator's hand: it observes clusters, carries out the planner's plans and publishes what it found.
//!
//! ```text
//! watches --> world --+                                     +--> API server
//! Secrets ------------+--> observe --> plan --> apply ------+
//! nodes' reports -----+    (client)   (pure)   (client)     +--> nodes
//!                                        |
//!                                        +--> status --> publish (client)
//! ```

pub mod apply;
pub mod backups;
pub mod beside;
pub mod certificates;
pub mod context;
pub mod events;
pub mod failure;
pub mod http;
pub mod index;
pub mod issue;
pub mod leadership;
pub mod lease;
pub mod metrics;
pub mod names;
pub mod node_client;
pub mod observe;
pub mod options;
pub mod publish;
pub mod rbac;
pub mod reconcile;
pub mod remotes;
pub mod reports;
pub mod restores;
pub mod run;
pub mod stores;
pub mod telemetry;
pub mod volumes;
pub mod world;
