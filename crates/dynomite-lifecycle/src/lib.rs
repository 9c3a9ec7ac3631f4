//! One Dynomite node's life as a state machine without IO.
//!
//! [`Lifecycle::handle`] takes one [`Event`] and says what to do; the hands do
//! it and tell what came of it. The machine is level-triggered: it compares what
//! was last seen with what should be, so a lost answer or a sidecar that starts
//! half-way costs a look, not a rule.
//!
//! ```text
//!                 grant for this pod          +-----------+
//!        +----------------------------------> | Recording | <--------+
//!        |                                    +-----+-----+          |
//!        |                              on disk     |                | cut done
//!   +----+-----+  donor                       +-----v-----+     +----+---+
//!   | Unproven +----------------------------> |  Opening  |     | WarmUp |
//!   +--^---^---+  (to WarmUp)                 +-----+-----+     +--^--+--+
//!      |   |                        engine NORMAL,  |              |  |
//!      |   |  the proof broke       both doors open |   donor      |  | failed:
//!      |   |  (store or engine      +---------------v+  chosen     |  | next donor,
//!      |   +------------------------+      Open      |  (from      |  | with a pause
//!      |      ended, was changed)   +----------------+  Unproven)--+  |
//!      +--------------------------------------------------------------+
//!
//!   Open --told to stay out--> Held --let go--> Opening, or Unproven where writes were missed
//!   Held, or Unproven where nobody serves --told to load a backup--> Loading --> Recording
//!   any --told to leave--> Draining --both processes ended--> Stopped
//!
//!   WarmUp: Connect -> Attach -> Copy <-> Follow -> Hold -> ... -> Detach
//!                                           ^      `- the cut, bounded -'
//!                                           +---- it did not work -----'
//! ```
//!
//! Only `Recording`, `Opening`, `Open` and `Held` carry a proof, and only `Open`
//! can be ready. Unknown counts as unsafe: what was never seen, or too long ago, is not
//! healthy; a store whose incarnation is not the proven one is unproven.

mod accept;
mod comparison;
mod cut;
mod decide;
mod drain;
mod effect;
mod event;
mod files;
mod findings;
mod headroom;
mod hold;
mod incarnation;
mod lifecycle;
mod load;
mod opening;
mod outline;
mod process;
mod readiness;
pub mod reason;
mod record;
mod renewal;
mod settings;
mod state;
mod time;
mod warm_up;
mod watched;

pub use accept::{Refusal, accept};
pub use comparison::{Comparison, Difference, Verdict, repairable, verdict};
pub use effect::{Addressee, Effect, Note, Order};
pub use event::{
    CutSight, DataSight, DonorSight, EngineObservation, EngineSight, Event, OrderId, PingAnswer,
    ProcessEvent, ProcessName, Provided, ReplicaLink, SettingFault, StoreObservation, StoreSight,
    WhichData,
};
pub use files::spoils_files;
pub use headroom::room_for_copy;
pub use hold::{HeldRecord, Stopped, Told, Word};
pub use lifecycle::{Beginning, Lifecycle};
pub use load::{LoadRecord, LoadStage, PreviousRecord};
pub use outline::Outline;
pub use record::{ProofRecord, Record, Started};
pub use settings::shows_bad_line;
