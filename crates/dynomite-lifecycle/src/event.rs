//! What a node's life is told: its processes, its store, its engine, its donor, its operator.

use dynomite_api::contract::{Cut, EngineFacts, NodeDesired, StoreFacts};

use crate::hold::Word;

/// The two processes of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ProcessName {
    /// The store, `redis-server` or another like it.
    Store,
    /// The engine, `dynomite`.
    Engine,
}

impl ProcessName {
    /// The name of its launcher: `launch <name>`, socket `<name>.sock`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Store => "store",
            Self::Engine => "dynomite",
        }
    }
}

/// What a launcher says of its process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProcessEvent {
    /// The launcher can be spoken to.
    LauncherUp {
        /// Whether its process already runs: then `Started` follows at once. If
        /// not, the launcher holds it until it is told to start it.
        running: bool,
    },
    /// The process runs.
    Started {
        /// Its process id, in its own container.
        pid: u32,
        /// Different for every start of the process, also over restarts of the
        /// launcher and of the container; the same when a new sidecar asks
        /// about the process that runs.
        incarnation: String,
        /// How often the launcher has started it.
        starts: u64,
    },
    /// The process ended, or could not be started at all.
    Exited {
        /// How, in words: `exit code 1`, `signal 9`, `cannot start: ...`.
        how: String,
    },
    /// The container was told to end; the launcher keeps the process until it
    /// is ordered to stop it.
    Terminating,
    /// The launcher cannot be spoken to any more: what its process does is unknown.
    LauncherGone,
}

/// What an attempt to ask the store brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreObservation {
    /// It answered.
    Facts(StoreSight),
    /// Nobody listens at its socket.
    Unreachable {
        /// Why, in words.
        why: String,
    },
    /// It did not answer in time.
    Slow,
}

/// What the store's `PING` and `INFO` say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoreSight {
    /// What goes into the report.
    pub facts: StoreFacts,
    /// Whether no database holds a key.
    pub empty: bool,
    /// Keys of all databases.
    pub all_keys: u64,
    /// Whether the files that the store keeps itself hold what it has copied: a
    /// store that writes a log writes it anew after a copy, and loads what was
    /// before when it ends meanwhile.
    pub durable: bool,
    /// The id of the replication history it is in.
    pub replication_id: String,
    /// The link to its donor, while it is a replica.
    pub link: Option<ReplicaLink>,
    /// The history it followed before its own, and how far, bytes; `None` when
    /// it does not say.
    pub left: Option<(String, u64)>,
}

/// A replica's view of its donor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReplicaLink {
    /// Whether the stream runs.
    pub up: bool,
    /// Whether the first copy is being taken.
    pub copying: bool,
    /// Bytes of the first copy that have arrived.
    pub bytes_done: u64,
    /// Bytes of the first copy; `None` when the donor does not say.
    pub bytes_total: Option<u64>,
    /// How far this replica has applied the stream, bytes.
    pub offset: u64,
}

/// What an attempt to ask the engine brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EngineObservation {
    /// It answered.
    Facts(EngineSight),
    /// Nobody listens at its REST port.
    Unreachable {
        /// Why, in words.
        why: String,
    },
    /// It did not answer in time.
    Slow,
}

/// What the engine's REST interface and client port say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineSight {
    /// What goes into the report.
    pub facts: EngineFacts,
    /// The answer to `PING` at its client port.
    pub ping: PingAnswer,
    /// Requests of clients since it started.
    pub client_requests: u64,
    /// Requests of clients that have no answer yet; `None` when it does not say.
    pub in_flight: Option<u64>,
}

/// What became of a `PING` through the engine's client port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PingAnswer {
    /// `PONG`.
    Pong,
    /// It was not asked.
    NotAsked,
    /// An error, or a closed connection.
    Refused {
        /// In words.
        why: String,
    },
    /// No answer in time.
    Slow,
}

/// What the donor's store says through the replication tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DonorSight {
    /// Its incarnation.
    pub run_id: String,
    /// The id of its replication history.
    pub replication_id: String,
    /// Its `master_repl_offset`, bytes.
    pub offset: u64,
    /// Keys in database 0.
    pub keys: u64,
    /// Whether it is a primary.
    pub primary: bool,
    /// Memory that its data takes, bytes; 0 when it does not say.
    pub data_bytes: u64,
}

/// What came of the wish to know a moment of the donor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CutSight {
    /// Such a moment.
    Cut(Box<Cut>),
    /// The donor's engine cannot say what it has received.
    Unnumbered {
        /// Why, in words.
        why: String,
    },
}

/// Why the store has not taken a setting while it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SettingFault {
    /// It takes it only when it starts.
    AtStart,
    /// It knows no such setting.
    Unknown,
    /// It takes no such value.
    Value,
}

impl SettingFault {
    /// Whether the store would not start with it.
    pub fn is_bad(self) -> bool {
        self != Self::AtStart
    }
}

/// Data that a store can be given instead of a donor's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhichData {
    /// What was staged of a backup.
    Staged,
    /// What the node has saved of its own.
    Previous,
}

/// How far such data is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DataSight {
    /// There is none.
    Missing,
    /// It comes.
    Coming {
        /// UID of the restore.
        restore: String,
        /// Bytes so far.
        bytes: u64,
    },
    /// It is complete and verified.
    Ready {
        /// UID of the restore.
        restore: String,
        /// Keys in it.
        keys: u64,
        /// How many of them expire some time.
        expiring: u64,
    },
    /// It could not be had.
    Failed {
        /// UID of the restore.
        restore: String,
        /// Why, in words.
        why: String,
    },
}

/// Data that the store is given as soon as it asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Provided {
    /// The id of the replication history that it seems to be; no other copy has it.
    pub history: String,
    /// Its length; 0 where that is not known before it comes.
    pub bytes: u64,
}

/// Names one order to the hands, so that a late answer is not taken for another's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OrderId(pub u64);

/// Something that happened to the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A desired document that [`accept`](crate::accept) let through.
    Desired(Box<NodeDesired>),
    /// A launcher spoke.
    Process(ProcessName, ProcessEvent),
    /// The store was asked.
    Store(StoreObservation),
    /// The engine was asked.
    Engine(EngineObservation),
    /// An order was carried out.
    Done(OrderId),
    /// An order to read the donor was carried out.
    Donor(OrderId, DonorSight),
    /// An order to read a moment of the donor was carried out.
    Cut(OrderId, CutSight),
    /// The other nodes were asked; those that do not know this node's address,
    /// or could not be asked, by name.
    Introduced(OrderId, Vec<String>),
    /// An order failed.
    Failed(OrderId, String),
    /// An order to set one setting of the store was refused by the store.
    SettingRefused(OrderId, SettingFault, String),
    /// The configurations were written, or why they cannot be.
    Rendered(Result<(), String>),
    /// The donor's sidecar refused the replication, or could not be reached; a
    /// copy that was near its end bears that for some seconds.
    DonorRefused {
        /// The donor's node name.
        donor: String,
        /// Why, in words.
        why: String,
    },
    /// Somebody stops or starts a process by one of the old REST calls.
    Told {
        /// What is asked.
        word: Word,
        /// By whom: the common name of the client's certificate.
        by: String,
    },
    /// What is staged, or saved, has changed; also once after the sidecar starts.
    Data(WhichData, DataSight),
    /// An order to make data ready for the store was carried out.
    Provided(OrderId, Provided),
    /// A readiness probe was answered with "not ready".
    NotReadySeen,
    /// The sidecar itself was told to end.
    Terminate,
    /// Nothing but time has passed.
    Tick,
}
