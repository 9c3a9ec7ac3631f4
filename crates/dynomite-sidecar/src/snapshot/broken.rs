//! Why a work with snapshots did not succeed: one word, a sentence, and whether it may later.

use dynomite_api::contract::{BucketAnswer, RestoreState, SnapshotState};

/// A failure on its way to a report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Broken {
    /// One word, `CamelCase`.
    pub(super) reason: &'static str,
    /// For people, with what they can do.
    pub(super) message: String,
    /// Whether the same may succeed later, or on another node.
    pub(super) retry: bool,
}

impl Broken {
    /// It may succeed later.
    pub(super) fn passing(reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
            retry: true,
        }
    }

    /// It will not without somebody's help.
    pub(super) fn lasting(reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            retry: false,
            ..Self::passing(reason, message)
        }
    }

    pub(super) fn into_answer(self) -> BucketAnswer {
        BucketAnswer::Failed {
            reason: self.reason.to_owned(),
            message: self.message,
            retry: self.retry,
        }
    }

    pub(super) fn into_snapshot(self) -> SnapshotState {
        SnapshotState::Failed {
            reason: self.reason.to_owned(),
            message: self.message,
            retry: self.retry,
        }
    }

    pub(super) fn into_restore(self) -> RestoreState {
        RestoreState::Failed {
            reason: self.reason.to_owned(),
            message: self.message,
            retry: self.retry,
            touched: false,
        }
    }

    pub(super) fn into_waiting(self) -> SnapshotState {
        SnapshotState::Waiting {
            reason: self.reason.to_owned(),
            message: self.message,
        }
    }
}

impl From<dynomite_bucket::Error> for Broken {
    fn from(error: dynomite_bucket::Error) -> Self {
        Self {
            reason: error.reason.word(),
            message: error.to_string(),
            retry: error.reason.is_passing(),
        }
    }
}

impl From<dynomite_snapshot::transfer::Error> for Broken {
    fn from(error: dynomite_snapshot::transfer::Error) -> Self {
        use dynomite_snapshot::transfer::Error as Of;
        let reason = match &error {
            Of::Rdb(_) => "NotWhole",
            Of::Envelope(_) => "Damaged",
            Of::Key(_) => "EncryptionKeyMissing",
            Of::Differs { .. } => "DigestDiffers",
        };
        Self::passing(reason, error.to_string())
    }
}
