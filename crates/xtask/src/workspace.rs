//! Where the repository and its build output are, whatever directory a command was started in.

use std::path::{Path, PathBuf};

use anyhow::Result;

/// The root of the checkout this xtask was built from.
pub(crate) fn root() -> PathBuf {
    // `cargo run` sets the variable to the checkout at hand; the constant serves a binary that
    // was started by its path.
    let manifest = std::env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    manifest
        .ancestors()
        .find(|directory| directory.join("Cargo.lock").is_file())
        .map_or(manifest.clone(), Path::to_path_buf)
}

/// Cargo's output directory: `CARGO_TARGET_DIR` when set, else `target` in the checkout.
pub(crate) fn target() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(directory) => root().join(directory),
        None => root().join("target"),
    }
}

/// This program, to be started again.
pub(crate) fn xtask() -> Result<PathBuf> {
    let path = std::env::current_exe()?;
    // Linux says this when a build has replaced the file meanwhile: the new one serves as well.
    let name = path.to_string_lossy();
    Ok(PathBuf::from(name.trim_end_matches(" (deleted)")))
}

/// What is downloaded or built once for all checkouts of this user.
pub(crate) fn cache() -> PathBuf {
    let base = std::env::var_os("XDG_CACHE_HOME").map_or_else(
        || PathBuf::from(std::env::var_os("HOME").unwrap_or_else(|| "/root".into())).join(".cache"),
        PathBuf::from,
    );
    base.join("dynomite-operator")
}
