//! How much memory a launcher's container may use: only from inside it can that be seen.

use std::fs;
use std::path::{Path, PathBuf};

/// Where a container of either generation of control groups sees its limit.
const LIMITS: [&str; 2] = [
    "/sys/fs/cgroup/memory.max",
    "/sys/fs/cgroup/memory/memory.limit_in_bytes",
];

/// Above this a number means that there is none, bytes.
const NO_LIMIT: u64 = 1 << 60;

fn path(sockets: &Path, name: &str) -> PathBuf {
    sockets.join(format!("{name}.memory"))
}

/// Writes the limit down where the sidecar finds it; it can change while the
/// container runs.
pub(super) fn publish(sockets: &Path, name: &str) {
    let found = LIMITS
        .iter()
        .find_map(|file| parse(&fs::read_to_string(file).ok()?));
    let path = path(sockets, name);
    if read(sockets, name) == found {
        return;
    }
    let outcome = match found {
        Some(limit) => fs::write(&path, limit.to_string()),
        None => fs::remove_file(&path),
    };
    if let Err(error) = outcome {
        tracing::warn!(%error, "the container's memory limit was not written down");
    }
}

/// The limit of a launcher's container, bytes; `None` when there is none, or
/// nobody knows.
pub(crate) fn read(sockets: &Path, name: &str) -> Option<u64> {
    parse(&fs::read_to_string(path(sockets, name)).ok()?)
}

fn parse(text: &str) -> Option<u64> {
    let limit = text.trim().parse().ok()?;
    (limit < NO_LIMIT).then_some(limit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_a_number_that_means_something() {
        for (text, want) in [
            ("1073741824\n", Some(1 << 30)),
            ("max\n", None),
            ("9223372036854771712\n", None),
            ("", None),
        ] {
            assert_eq!(parse(text), want, "{text:?}");
        }
    }
}
