//! Why a known command is refused.

/// A reason, and the text that tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// It would wipe, stop or re-wire one store behind the back of its replicas.
    Dangerous,
    /// A transaction has no place to live when keys are on several nodes.
    Transaction,
    /// Messages are not replicated between nodes.
    PubSub,
    /// One blocked client would hold up every other on the same link.
    Blocking,
    /// A ring has one database.
    Databases,
    /// Nobody has built it yet.
    NotBuilt,
}

impl Refusal {
    /// The error for the client.
    pub fn text(self, name: &str) -> String {
        let name = name.to_ascii_uppercase();
        let why = match self {
            Self::Dangerous => {
                "is refused: it would change one store behind the back of its replicas"
            }
            Self::Transaction => "is not supported: a transaction cannot span the nodes of a ring",
            Self::PubSub => "is not supported: messages do not travel between the nodes of a ring",
            Self::Blocking => "is not supported: use the variant that does not block",
            Self::Databases => "is not supported: a ring has one database, number 0",
            Self::NotBuilt => "is not supported",
        };
        format!("ERR Dynomite: {name} {why}")
    }
}
