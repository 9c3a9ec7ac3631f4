//! Whether files that are put together share a key, found with bounded memory.
//!
//! ```text
//! keys that are kept ──marks──▶ ID.marks on the volume ──▶ 0 .. a quarter ..  of all marks at a time:
//!                                                          in memory, sorted, neighbours compared
//! ```

use std::io;
use std::path::PathBuf;

use tokio::fs::File;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, BufReader, BufWriter};

/// About how many marks are in memory at a time: 8 MiB of them.
const AT_ONCE: u64 = 1 << 20;

/// Marks of keys, 64 bits each, in a file that goes with this.
pub(super) struct Marks {
    path: PathBuf,
    file: BufWriter<File>,
    count: u64,
}

impl Marks {
    pub(super) async fn create(path: PathBuf) -> io::Result<Self> {
        let file = BufWriter::new(File::create(&path).await?);
        Ok(Self {
            path,
            file,
            count: 0,
        })
    }

    pub(super) async fn add(&mut self, marks: &[u64]) -> io::Result<()> {
        for mark in marks {
            self.file.write_all(&mark.to_le_bytes()).await?;
        }
        self.count += marks.len() as u64;
        Ok(())
    }

    /// Whether any mark was added twice.
    pub(super) async fn any_twice(mut self) -> io::Result<bool> {
        self.file.flush().await?;
        let passes = self.count.div_ceil(AT_ONCE).max(1);
        for pass in 0..passes {
            if self.twice_in(pass, passes).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The same for one slice of all possible marks.
    async fn twice_in(&self, pass: u64, passes: u64) -> io::Result<bool> {
        let mut file = BufReader::new(File::open(&self.path).await?);
        let mut marks = Vec::new();
        for _ in 0..self.count {
            let mark = file.read_u64_le().await?;
            if (u128::from(mark) * u128::from(passes)) >> 64 == u128::from(pass) {
                marks.push(mark);
            }
        }
        marks.sort_unstable();
        Ok(marks.windows(2).any(|two| two[0] == two[1]))
    }
}

impl Drop for Marks {
    fn drop(&mut self) {
        // What is left lies beside a restore's files, and goes with them.
        let _ = std::fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_same_mark_is_found_however_many_others_lie_between() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("r.marks");
        let spread = |number: u64| number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let many: Vec<u64> = (0..AT_ONCE * 2 + 10).map(spread).collect();
        for (extra, expected) in [(None, false), (Some(many[7]), true), (Some(0), true)] {
            let mut marks = Marks::create(path.clone()).await.expect("can be made");
            marks.add(&many).await.expect("can be written");
            marks.add(extra.as_slice()).await.expect("can be written");
            assert_eq!(marks.any_twice().await.expect("can be read"), expected);
            assert!(!path.exists(), "nothing is left");
        }
    }
}
