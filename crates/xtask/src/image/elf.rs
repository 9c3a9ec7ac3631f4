//! What a binary needs to run: nothing when it is static, else its loader and libraries.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use super::tree::Tree;
use crate::process;

/// Program header type of the loader's name; only dynamic programs have one.
const PT_INTERP: u32 = 3;

/// The path of the loader that the 64-bit little-endian ELF file asks for, if it asks for one.
pub(crate) fn interpreter(content: &[u8]) -> Result<Option<String>> {
    ensure!(
        content.starts_with(b"\x7fELF\x02\x01"),
        "not a 64-bit little-endian ELF file"
    );
    let table = number(content, 32, 8)?;
    let size = number(content, 54, 2)?;
    let count = number(content, 56, 2)?;
    for index in 0..count {
        let header = table + index * size;
        if number(content, header, 4)? == PT_INTERP as usize {
            let start = number(content, header + 8, 8)?;
            let length = number(content, header + 32, 8)?;
            let name = content
                .get(start..start + length)
                .context("the loader's name lies outside the file")?;
            let name = String::from_utf8_lossy(name);
            return Ok(Some(name.trim_end_matches('\0').to_owned()));
        }
    }
    Ok(None)
}

/// Reads `width` bytes at `offset` as a little-endian number.
fn number(content: &[u8], offset: usize, width: usize) -> Result<usize> {
    let bytes = content
        .get(offset..offset + width)
        .context("the ELF file is cut short")?;
    let value = bytes
        .iter()
        .rev()
        .fold(0_u64, |value, &byte| (value << 8) | u64::from(byte));
    Ok(usize::try_from(value)?)
}

/// Fails unless `path` runs in an empty image.
pub(crate) fn ensure_static(path: &Path) -> Result<()> {
    let content = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    match interpreter(&content).with_context(|| path.display().to_string())? {
        None => Ok(()),
        Some(loader) => bail!(
            "{} is dynamic (it asks for {loader}) and would not start in the image",
            path.display()
        ),
    }
}

/// Adds the libraries and the loader of the host's `binary` to `tree`, at the paths the loader
/// found them at.
pub(crate) fn add_libraries(tree: &mut Tree, binary: &Path) -> Result<()> {
    let content = fs::read(binary).with_context(|| format!("reading {}", binary.display()))?;
    let Some(loader) = interpreter(&content)? else {
        return Ok(());
    };
    let listing = process::read(Command::new(&loader).arg("--list").arg(binary))?;
    for library in libraries(&listing)? {
        let path = library.display().to_string();
        tree.add_copy(&path, &library)?;
    }
    tree.add_copy(&loader, Path::new(&loader))
}

/// The files named by a loader's `--list`, without the loader and the kernel's own.
pub(crate) fn libraries(listing: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for line in listing.lines() {
        let Some((name, place)) = line.trim().split_once(" => ") else {
            continue;
        };
        ensure!(place != "not found", "the library {name} is missing");
        let path = place.split(" (").next().unwrap_or(place);
        found.push(PathBuf::from(path));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_binary_itself_asks_for_the_hosts_loader() {
        let content = fs::read("/proc/self/exe").unwrap();
        let loader = interpreter(&content).unwrap().expect("tests are dynamic");
        assert!(Path::new(&loader).exists(), "{loader}");
        let error = ensure_static(Path::new("/proc/self/exe")).unwrap_err();
        assert!(error.to_string().contains("dynamic"), "{error}");
    }

    #[test]
    fn what_is_no_elf_or_is_cut_short_is_refused() {
        interpreter(b"#!/bin/sh\n").unwrap_err();
        let content = fs::read("/proc/self/exe").unwrap();
        interpreter(&content[..60]).unwrap_err();
    }

    #[test]
    fn listing_gives_paths_and_a_missing_library_is_named() {
        let listing =
            "\tlinux-vdso.so.1 (0x1)\n\tlibm.so.6 => /lib/libm.so.6 (0x2)\n\t/lib64/ld.so (0x3)\n";
        assert_eq!(
            libraries(listing).unwrap(),
            [PathBuf::from("/lib/libm.so.6")]
        );
        let error = libraries("\tlibx.so.1 => not found\n").unwrap_err();
        assert!(error.to_string().contains("libx.so.1"), "{error}");
    }
}
