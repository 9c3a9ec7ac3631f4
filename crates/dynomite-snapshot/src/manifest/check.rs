//! What a manifest says about itself must agree.

use std::collections::BTreeSet;
use std::fmt;

use super::{Compression, FORMAT_VERSION, Manifest, Snapshot};
use crate::layout::{BackupId, Object};

/// A field that cannot be so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flaw {
    /// Where, as in `snapshots[0].object`.
    pub field: String,
    /// Why.
    pub why: String,
}

impl Flaw {
    pub(super) fn new(field: impl Into<String>, why: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            why: why.into(),
        }
    }
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.why)
    }
}

/// Everything that cannot be so.
pub(super) fn flaws(manifest: &Manifest) -> Vec<Flaw> {
    let mut flaws = Vec::new();
    let mut check = |fine: bool, field: &str, why: &str| {
        if !fine {
            flaws.push(Flaw::new(field, why));
        }
    };
    let Manifest {
        format_version,
        backup,
        ring,
        snapshots,
    } = manifest;
    check(
        *format_version == FORMAT_VERSION,
        "formatVersion",
        "there is no such format",
    );
    let id = BackupId::parse(&backup.id);
    check(id.is_some(), "backup.id", "names no backup");
    check(
        id.is_none_or(|id| id.started().as_second() == backup.started_at.as_second()),
        "backup.startedAt",
        "is not the start in backup.id",
    );
    check(
        backup.started_at <= backup.finished_at,
        "backup.finishedAt",
        "lies before the start",
    );
    let racks: BTreeSet<&String> = ring.racks.iter().collect();
    check(
        !racks.is_empty() && racks.len() == ring.racks.len(),
        "ring.racks",
        "must be different racks, at least one",
    );
    check(
        !ring.tokens.is_empty() && ring.tokens.is_sorted_by(|a, b| a < b),
        "ring.tokens",
        "must be different tokens in ascending order, at least one",
    );
    check(
        u64::from(ring.nodes_per_rack) == ring.tokens.len() as u64,
        "ring.nodesPerRack",
        "must be the number of tokens",
    );
    check(
        snapshots
            .iter()
            .map(|snapshot| snapshot.token)
            .eq(ring.tokens.iter().copied()),
        "snapshots",
        "must be one for each token of the ring, in their order",
    );
    flaws.extend(ring.placement().err());
    for (number, snapshot) in snapshots.iter().enumerate() {
        let found = of_snapshot(snapshot).into_iter();
        flaws.extend(
            found.map(|(field, why)| Flaw::new(format!("snapshots[{number}].{field}"), why)),
        );
    }
    flaws
}

fn of_snapshot(snapshot: &Snapshot) -> Vec<(&'static str, &'static str)> {
    let mut flaws = Vec::new();
    let compressed = snapshot.compression == Compression::Zstd;
    let encrypted = snapshot.encryption.is_some();
    let object = match Object::parse(&snapshot.object) {
        Some(Object::Snapshot {
            token,
            compressed: zst,
            encrypted: enc,
            ..
        }) => token == snapshot.token && zst == compressed && enc == encrypted,
        _ => false,
    };
    if !object {
        flaws.push((
            "object",
            "is not an object of this token, compression and encryption",
        ));
    }
    if !compressed && !encrypted && snapshot.stored != snapshot.raw {
        flaws.push(("stored", "is not as raw, though nothing was done to it"));
    }
    if snapshot.raw.bytes == 0 || snapshot.stored.bytes == 0 {
        flaws.push(("raw.bytes", "no snapshot is empty"));
    }
    if snapshot.started_at > snapshot.finished_at {
        flaws.push(("finishedAt", "lies before the start"));
    }
    let counts = snapshot.counts();
    if counts.expiring > counts.total() || counts.expired > counts.expiring {
        flaws.push(("keys", "counts more expiring keys than keys"));
    }
    flaws
}
