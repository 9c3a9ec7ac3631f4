//! The words for why a node is where it is; every wait has one.

/// No desired document yet.
pub const AWAITING_DESIRED: &str = "AwaitingDesired";
/// The launcher of a process cannot be spoken to.
pub const LAUNCHER_MISSING: &str = "LauncherMissing";
/// A process is being started.
pub const PROCESS_STARTING: &str = "ProcessStarting";
/// A process does not stay up.
pub const PROCESS_CRASHING: &str = "ProcessCrashing";
/// The store reads its files.
pub const STORE_LOADING: &str = "StoreLoading";
/// The store cannot be used: it wants a password, or its disk is full.
pub const STORE_COMPLAINS: &str = "StoreComplains";
/// The store does not answer.
pub const STORE_UNRESPONSIVE: &str = "StoreUnresponsive";
/// The engine does not answer.
pub const ENGINE_UNRESPONSIVE: &str = "EngineUnresponsive";
/// A new node must be empty, and this one is not.
pub const BOOTSTRAP_NOT_EMPTY: &str = "BootstrapNotEmpty";
/// Nobody to copy from, and no permission to go without.
pub const AWAITING_DONOR: &str = "AwaitingDonor";
/// The proof could not be written to disk.
pub const RECORD_FAILED: &str = "RecordFailed";
/// A donor could not be reached or refused.
pub const DONOR_UNAVAILABLE: &str = "DonorUnavailable";
/// The donor became another store during the copy.
pub const DONOR_CHANGED: &str = "DonorChanged";
/// A copy made no progress.
pub const COPY_STALLED: &str = "CopyStalled";
/// The copy was never close enough to the donor.
pub const COPY_OUTRUN: &str = "CopyOutrun";
/// The copy is empty and the donor is not.
pub const COPY_EMPTY: &str = "CopyEmpty";
/// The copy is not what its donor was at the same offset.
pub const COPY_DIFFERS: &str = "CopyDiffers";
/// The donor names no moment to take over at.
pub const CUT_REFUSED: &str = "CutRefused";
/// A coordinator has no connection to this node, or has not said how far it is.
pub const CUT_NOT_COVERED: &str = "CutNotCovered";
/// The copy cannot take over exactly, because an engine does not number its writes.
pub const CUT_NOT_EXACT: &str = "CutNotExact";
/// What the engine held while the copy ended is not complete.
pub const CAPTURE_LOST: &str = "CaptureLost";
/// The donor's stream broke off during the cut.
pub const STREAM_BROKEN: &str = "StreamBroken";
/// Other nodes must learn this one's address first.
pub const INTRODUCING: &str = "AwaitingIntroduction";
/// They did not learn it in time.
pub const NOT_INTRODUCED: &str = "NotIntroduced";
/// The store cannot load its files.
pub const FILES_SPOILT: &str = "FilesSpoilt";
/// The store does not stay up. A person looks at its log and settings.
pub const STORE_CRASHING: &str = "StoreCrashing";
/// The engine does not stay up. A person looks at its log and settings.
pub const ENGINE_CRASHING: &str = "EngineCrashing";
/// The store runs and answers nothing. It is restarted where a replica can be copied.
pub const STORE_HANGS: &str = "StoreHangs";
/// The engine runs and answers nothing. It is restarted where a replica can be copied.
pub const ENGINE_HANGS: &str = "EngineHangs";
/// The store has used its memory and refuses writes. A person gives it more, or lets keys go.
pub const STORE_FULL: &str = "StoreFull";
/// The store cannot save and refuses writes. A person sees to the data volume.
pub const STORE_CANNOT_SAVE: &str = "StoreCannotSave";
/// The store has been reading its files for long. It is waited for.
pub const STORE_LOADING_LONG: &str = "StoreLoadingLong";
/// The engine has no connection to some peers. A person sees to them, or to the network.
pub const PEERS_LOST: &str = "PeersLost";
/// Donors were tried and failed; they are tried again, with pauses.
pub const WARM_UP_FAILS: &str = "WarmUpFails";
/// The store ended.
pub const STORE_ENDED: &str = "StoreEnded";
/// The store is another incarnation than the proven one.
pub const STORE_CHANGED: &str = "StoreChanged";
/// Somebody made the store a replica.
pub const STORE_REPLICA: &str = "StoreBecameReplica";
/// The engine ended, so writes were missed.
pub const ENGINE_ENDED: &str = "EngineEnded";
/// The engine's state was changed, so writes were missed.
pub const ENGINE_LEFT_NORMAL: &str = "EngineLeftNormal";
/// The engine did not take over the last writes in time.
pub const ENGINE_SLOW_TO_RESUME: &str = "EngineSlowToResume";
/// The operator says that replicas have writes which this node missed.
pub const WRITES_MISSED: &str = "WritesMissed";
/// The data is proven, the engine is being opened.
pub const OPENING: &str = "Opening";
/// The proof is being written.
pub const RECORDING: &str = "RecordingProof";
/// A donor's data is being copied.
pub const COPYING: &str = "CopyingDonor";
/// Everything is done but the word to serve.
pub const AWAITING_SERVE: &str = "AwaitingServe";
/// The operator holds the node out of service.
pub const HELD: &str = "Held";
/// A person has stopped a process of this pod by a REST call.
pub const STOPPED_BY_REST: &str = "StoppedByRest";
/// No probe has seen yet that the node was not ready.
pub const WITHDRAWAL_UNSEEN: &str = "WithdrawalUnseen";
/// The node was told to end.
pub const TERMINATING: &str = "Terminating";
/// A setting was not taken. One that the store would not start with is left
/// out; a person corrects the resource.
pub const SETTING_REFUSED: &str = dynomite_api::contract::FINDING_SETTING_REFUSED;
/// The files of the processes cannot be made from the desired document.
pub const SETTINGS_INVALID: &str = "SettingsInvalid";
/// The data was proven.
pub const PROVEN: &str = "Proven";
/// A backup is being loaded.
pub const LOADING: &str = "LoadingBackup";
/// A backup is being staged, or waits to be loaded.
pub const STAGING: &str = "StagingBackup";
/// The word to load was taken back.
pub const LOAD_ABORTED: &str = "LoadAborted";
/// A load made no progress.
pub const LOAD_STALLED: &str = "LoadStalled";
/// A load could not be carried out.
pub const LOAD_FAILED: &str = "LoadFailed";
/// The store has not taken what it was given.
pub const LOAD_DIFFERS: &str = "LoadDiffers";
/// The node started again in the middle of a load.
pub const LOAD_INTERRUPTED: &str = "LoadInterrupted";
/// The proof that a load brought was lost since.
pub const PROOF_LOST: &str = "ProofLost";
/// The node's own data could not be saved before a load.
pub const NOT_SAVED: &str = "NotSaved";
/// There is no saved data to go back to.
pub const NOTHING_SAVED: &str = "NothingSaved";
/// The node gets client traffic.
pub const READY: &str = "Ready";
