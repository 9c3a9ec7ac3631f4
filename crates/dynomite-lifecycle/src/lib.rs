//! One Dynomite node's life as a state machine without IO.

mod accept;
mod event;

pub use accept::{Refusal, accept};
pub use event::{
    DonorSight, EngineObservation, EngineSight, Event, OrderId, PingAnswer, ProcessEvent,
    ProcessName, ReplicaLink, StoreObservation, StoreSight,
};
