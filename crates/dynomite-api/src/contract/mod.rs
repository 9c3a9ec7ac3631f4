//! What operator and sidecar say to each other: a desired document and a report.
//!
//! The operator sends `PUT /v1/desired` with a [`NodeDesired`] and reads
//! `GET /v1/report`, a [`NodeReport`]; both are JSON over mutual TLS. A report
//! holds only facts that the node itself can know; the operator joins them with
//! what it sees in Kubernetes.

mod call;
mod comparison;
mod cut;
mod desired;
mod paths;
mod report;
mod snapshot;

pub use call::{Call, CallAnswer, CallOutcome, MAX_CALLS, Wish};
pub use comparison::{
    Broken, COMPARE_BODY_MAX, COMPARE_KEYS_MAX, COMPARE_LEVEL_MAX, CompareAsk, CompareKeys,
    CompareOrder, CompareQuestion, CompareReport, CompareRound, CompareTally, Key, KeyVote,
    Leveled,
};
pub use cut::{Cut, RingView};
pub use desired::{
    ClusterRef, Consistency, ConsistencyLevel, Distrust, Donor, EngineSettings, Grant,
    HealthSettings, Hold, HoldStore, NodeDesired, NodeIdentity, Peer, Persistence, Settings,
    StoreKind, StoreSettings,
};
pub use dynomite_protocol::config::{ConfigError, check_directive};
pub use dynomite_protocol::received::{Received, Source};
pub use paths::*;
pub use report::{
    Awaiting, DesiredMark, EngineFacts, EngineState, FINDING_SETTING_REFUSED, Finding, NodePhase,
    NodeReport, ProcessFacts, Proof, ProofKind, StoreFacts, StoreRole, WarmUpProgress, WarmUpStage,
};
pub use snapshot::{
    BackupPlace, BucketAction, BucketAnswer, BucketRequest, Credentials, MAX_LISTED,
    MAX_SMALL_OBJECT, ObjectFacts, Provider, RestoreGoal, RestoreOrder, RestorePart, RestoreReport,
    RestoreState, SnapshotOrder, SnapshotReport, SnapshotSource, SnapshotState, StoreCredentials,
    TokenRange,
};
